//! Two replicas of the operator that share a lease, logging all they can. Which of them leads is
//! read from the lease. Must not decide when one of them is to end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use super::world::{NAMESPACE, OPERATOR, World};
use crate::operator::{OperatorOptions, OperatorProcess};
use crate::process::until;

const START: Duration = Duration::from_secs(60);
/// The lease lasts 15 s; a standby looks every two.
const TAKE_OVER: Duration = Duration::from_secs(40);
/// How soon the kubelet starts a container again, at the least.
const RESTART: Duration = Duration::from_secs(1);
const NAMES: [&str; 2] = ["operator-a", "operator-b"];

pub(super) struct Replicas {
    options: [OperatorOptions; 2],
    running: [Option<OperatorProcess>; 2],
    leases: Api<Lease>,
}

impl Replicas {
    /// Starts both, and waits until one leads.
    pub(super) async fn start(dir: &Path, world: &World) -> Result<Self> {
        let config = world.configuration()?;
        let options = NAMES.map(|name| OperatorOptions {
            name: name.to_owned(),
            namespaces: vec![NAMESPACE.to_owned()],
            lease_namespace: Some(OPERATOR.to_owned()),
            args: vec!["--log-level".to_owned(), "trace".to_owned()],
            envs: vec![
                ("POD_NAMESPACE".to_owned(), OPERATOR.to_owned()),
                ("POD_NAME".to_owned(), name.to_owned()),
            ],
            ..OperatorOptions::new(dir, &world.kubeconfig, config.clone())
        });
        let mut replicas = Self {
            options,
            running: [None, None],
            leases: Api::namespaced(world.client.clone(), OPERATOR),
        };
        for at in 0..NAMES.len() {
            replicas.launch(at).await?;
        }
        until("a replica leads", TAKE_OVER, async || {
            Ok(replicas.leader().await?.is_some())
        })
        .await?;
        Ok(replicas)
    }

    /// The logs of both.
    pub(super) fn logs(&self) -> Vec<PathBuf> {
        self.options.iter().map(OperatorOptions::log_file).collect()
    }

    /// The metrics of those that run.
    pub(super) async fn metrics(&self) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for operator in self.running.iter().flatten() {
            texts.push(operator.metrics().await?);
        }
        Ok(texts)
    }

    /// Starts again what has ended by itself, as the kubelet does: a replica that lost its lease
    /// because the API server did not answer in time.
    pub(super) async fn keep(&mut self) -> Result<()> {
        for at in 0..NAMES.len() {
            let running = self.running.get_mut(at).and_then(Option::as_mut);
            if running.is_none_or(|operator| operator.check().is_err()) {
                eprintln!("replica {at} is started again");
                self.launch(at).await?;
            }
        }
        Ok(())
    }

    /// SIGKILL for the leader; it comes back under its name and still has the lease.
    pub(super) async fn crash(&mut self) -> Result<()> {
        self.keep().await?;
        let at = self.leading().await?;
        self.kill(at);
        tokio::time::sleep(RESTART).await;
        self.launch(at).await
    }

    /// SIGTERM for the leader; the other one leads before it comes back.
    pub(super) async fn hand_over(&mut self) -> Result<()> {
        self.keep().await?;
        let at = self.leading().await?;
        if let Some(operator) = self.running.get_mut(at).and_then(Option::take) {
            operator.stop().await?;
        }
        self.another_leads(at).await?;
        self.launch(at).await
    }

    /// SIGKILL for the leader; the other one waits for the end of the lease.
    pub(super) async fn lose_node(&mut self) -> Result<()> {
        self.keep().await?;
        let at = self.leading().await?;
        self.kill(at);
        self.another_leads(at).await?;
        self.launch(at).await
    }

    /// Both are asked to stop.
    pub(super) async fn stop(self) -> Result<()> {
        for operator in self.running.into_iter().flatten() {
            operator.stop().await?;
        }
        Ok(())
    }

    fn kill(&mut self, at: usize) {
        if let Some(operator) = self.running.get_mut(at).and_then(Option::take) {
            operator.kill();
        }
    }

    async fn launch(&mut self, at: usize) -> Result<()> {
        let options = self.options.get(at).context("no such replica")?;
        let started = OperatorProcess::start_ready(options, START).await?;
        if let Some(place) = self.running.get_mut(at) {
            *place = Some(started);
        }
        Ok(())
    }

    async fn another_leads(&self, than: usize) -> Result<()> {
        until("another replica leads", TAKE_OVER, async || {
            Ok(self.leader().await?.is_some_and(|leader| leader != than))
        })
        .await
    }

    async fn leading(&self) -> Result<usize> {
        self.leader().await?.context("no replica leads")
    }

    async fn leader(&self) -> Result<Option<usize>> {
        let lease = self.leases.get_opt(OPERATOR).await?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        Ok(holder.and_then(|holder| NAMES.iter().position(|name| *name == holder)))
    }
}
