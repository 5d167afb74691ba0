//! The process that holds a running lab: starts its parts, serves commands, stops everything.
//! Must not print for people: what it says goes to its log.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use super::azure::AzurePart;
use super::facts::{Facts, OperatorFacts};
use super::home::{Home, Lock};
use super::{Options, cluster, manifest};
use crate::control_plane::ControlPlane;
use crate::node::{self, Node};
use crate::operator::{OperatorOptions, OperatorProcess};
use crate::process::{until, write_private};

const READY: Duration = Duration::from_secs(60);
const LOCK: Duration = Duration::from_secs(5);

/// Runs a lab until it is told to end.
pub async fn serve(home: &Home, options: &Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let lock = take_lock(home).await?;
    let started = tokio::select! {
        started = Daemon::start(home.clone(), options) => started,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let mut daemon = started?;
    let (_dir, path) = home.socket()?;
    let _ = fs::remove_file(home.file("control.sock"));
    let listener = UnixListener::bind(path).context("cannot listen on the control socket")?;
    daemon.publish()?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            connection = listener.accept() => {
                let answered = daemon.answer(connection?.0).await;
                // Whoever asked is gone: nothing is lost.
                let _ = answered.inspect_err(|error| eprintln!("a command was cut off: {error}"));
            }
        }
    }
    daemon.stop().await;
    drop(lock);
    Ok(())
}

/// A command that looks whether we run holds the lock for a moment.
async fn take_lock(home: &Home) -> Result<Lock> {
    let mut lock = None;
    until("no other lab runs in this folder", LOCK, async || {
        lock = home.lock()?;
        Ok(lock.is_some())
    })
    .await?;
    lock.context("no lock")
}

/// Pods look for changed Secrets so often.
const SYNC: Duration = Duration::from_secs(10);

/// The rest is of use without it.
async fn start_node(home: &Home, plane: &ControlPlane) -> Option<Node> {
    let started = Node::start(plane, home.file("node"), SYNC).await;
    let said = started.as_ref().map_or_else(
        |error| format!("{error:#}"),
        |_| {
            format!(
                "the node {} is ready for pods of {}",
                node::NODE,
                node::IMAGE
            )
        },
    );
    eprintln!("{said}");
    started.ok()
}

struct Daemon {
    home: Home,
    operator: Option<OperatorProcess>,
    operator_options: Result<OperatorOptions, String>,
    facts: Facts,
    azure: AzurePart,
    node: Option<Node>,
    plane: ControlPlane,
}

impl Daemon {
    async fn start(home: Home, options: &Options) -> Result<Self> {
        let begin = Instant::now();
        let (plane, azure) = tokio::try_join!(
            ControlPlane::start(home.file("control-plane")),
            AzurePart::start(home.file("azure"), options)
        )?;
        azure.trust(plane.issuer(), plane.jwks().await?);
        write_private(&home.kubeconfig(), fs::read(plane.kubeconfig())?)?;
        let server_manifest = home.file("server.yaml");
        fs::write(&server_manifest, manifest::server(&azure)?)?;
        eprintln!(
            "the control plane and Azure are ready after {:.1?}",
            begin.elapsed()
        );

        let log = home.file("operator.log");
        // Those of the last lab are not this one's.
        let _ = fs::remove_file(&log);
        let facts = Facts {
            postgres: azure.postgres(),
            entra: azure.entra(),
            operator: OperatorFacts {
                log,
                ..OperatorFacts::default()
            },
            server_manifest,
        };
        let prepared = cluster::prepare(&home, &plane, &azure, options).await;
        let operator_options = prepared.map_err(|error| format!("{error:#}"));
        let node = if options.node {
            start_node(&home, &plane).await
        } else {
            None
        };
        let mut daemon = Self {
            home,
            operator: None,
            operator_options,
            facts,
            azure,
            node,
            plane,
        };
        if options.operator_binary().is_none() {
            eprintln!("no operator is started, as LAB_OPERATOR=none says");
        } else if let Err(error) = daemon.start_operator().await {
            // A lab that says it is ready has what it was asked for.
            daemon.stop().await;
            return Err(error.context(
                "the operator does not run; LAB_OPERATOR=none starts the lab without it",
            ));
        }
        Ok(daemon)
    }

    async fn start_operator(&mut self) -> Result<String> {
        if let Some(running) = &mut self.operator
            && running.check().is_ok()
        {
            return Ok(format!(
                "the operator already runs, process {}",
                running.pid()
            ));
        }
        self.operator = None;
        let options = self
            .operator_options
            .as_ref()
            .map_err(|text| anyhow::anyhow!("{text}"))?;
        let started = OperatorProcess::start_ready(options, READY).await?;
        let text = format!("the operator runs, process {}", started.pid());
        self.operator = Some(started);
        Ok(text)
    }

    /// Writes `lab.json` as things are now, whole or not at all.
    fn publish(&mut self) -> Result<()> {
        let running = self.operator.as_mut().and_then(|operator| {
            let alive = operator.check().is_ok();
            alive.then(|| (operator.pid(), operator.metrics_url()))
        });
        let (pid, metrics) = running.unzip();
        let log = self.facts.operator.log.clone();
        self.facts.operator = OperatorFacts { pid, metrics, log };
        write_private(
            &self.home.facts_file(),
            format!("{:#}\n", serde_json::to_value(&self.facts)?),
        )
    }

    async fn answer(&mut self, stream: UnixStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let mut command = String::new();
        stream.read_line(&mut command).await?;
        let outcome = self.command(command.trim()).await;
        self.publish()?;
        let answer = match outcome {
            Ok(text) => format!("ok {text}\n"),
            Err(error) => format!("error {error:#}\n"),
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        Ok(())
    }

    async fn command(&mut self, command: &str) -> Result<String> {
        match command {
            "operator start" => self.start_operator().await,
            "operator stop" => match self.operator.take() {
                Some(operator) => operator
                    .stop()
                    .await
                    .map(|()| "the operator has ended".to_owned()),
                None => Ok("the operator was not running".to_owned()),
            },
            "operator kill" => match self.operator.take() {
                Some(operator) => {
                    operator.kill();
                    Ok("the operator was killed".to_owned())
                }
                None => Ok("the operator was not running".to_owned()),
            },
            other => anyhow::bail!("unknown command `{other}`"),
        }
    }

    /// In the order in which nobody misses what is gone. Goes on whatever fails.
    async fn stop(self) {
        let Self {
            home,
            operator,
            operator_options: _,
            facts: _,
            azure,
            node,
            plane,
        } = self;
        // From now on nobody may rely on it.
        let _ = fs::remove_file(home.facts_file());
        let _ = fs::remove_file(home.file("control.sock"));
        if let Some(operator) = operator {
            let _ = operator
                .stop()
                .await
                .inspect_err(|error| eprintln!("{error:#}"));
        }
        if let Some(node) = node {
            let _ = node
                .stop()
                .await
                .inspect_err(|error| eprintln!("{error:#}"));
        }
        azure.stop().await;
        let _ = plane
            .stop()
            .await
            .inspect_err(|error| eprintln!("{error:#}"));
    }
}
