//! `lab up`, `lab down`, `lab operator`: what a person runs. They find the daemon, or start it.
//! Must not hold anything that has to outlive the command.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::facts::Facts;
use super::home::Home;
use super::{OperatorAction, Options};
use crate::control_plane::assets;
use crate::node;
use crate::process::{signal, until};

const START: Duration = Duration::from_secs(180);
const END: Duration = Duration::from_secs(60);

/// `lab up`: starts the lab, if it does not run, and says what there is.
pub async fn up(home: &Home, options: &Options) -> Result<()> {
    let (facts, new) = start(home, options).await?;
    if !new {
        println!("The lab is already running.\n");
    }
    print(home, &facts);
    Ok(())
}

/// Starts the lab in the background and waits until it is ready; tells its progress on stderr.
/// False if it was running already.
pub async fn start(home: &Home, options: &Options) -> Result<(Facts, bool)> {
    if home.daemon()?.is_some() {
        let what = "the lab that is being started is ready";
        let settled = async || Ok(home.facts().is_ok() || home.daemon()?.is_none());
        until(what, START, settled).await?;
        let facts = home
            .facts()
            .context("the lab stopped while it was starting")?;
        return Ok((facts, false));
    }
    assets::find(assets::Set::ControlPlane)?;
    if options.node && node::check().is_ok() {
        assets::find(assets::Set::Node)?;
    }
    fs::create_dir_all(home.dir())?;
    let _ = fs::remove_file(home.facts_file());
    let mut daemon = start_daemon(home, options)?;
    let ready = wait_ready(home, &mut daemon);
    let interrupted = tokio::signal::ctrl_c();
    let outcome = tokio::select! {
        ready = ready => ready,
        _ = interrupted => Err(anyhow!("interrupted")),
    };
    if let Err(error) = outcome {
        stop(home).await?;
        return Err(error);
    }
    Ok((home.facts()?, true))
}

async fn wait_ready(home: &Home, daemon: &mut Child) -> Result<()> {
    let mut shown = 0;
    until("the lab is ready", START, async || {
        let ended = daemon.try_wait()?;
        let ready = home.facts_file().exists();
        shown = show(&home.log(), shown)?;
        match ended {
            Some(status) => bail!(
                "the lab could not start ({status}): see {}",
                home.log().display()
            ),
            None => Ok(ready),
        }
    })
    .await
}

fn start_daemon(home: &Home, options: &Options) -> Result<Child> {
    let log = File::create(home.log())?;
    let Options {
        directory,
        postgres_bin,
        operator,
        node,
    } = options;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--home").arg(home.dir());
    if *node {
        command.arg("--node");
    }
    let flags = [
        ("--directory", absolute(directory.as_deref())?),
        ("--postgres-bin", absolute(postgres_bin.as_deref())?),
    ];
    for (flag, value) in flags {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    match operator {
        Some(path) if path.as_os_str() == "none" => command.args(["--operator", "none"]),
        Some(path) => command.args(
            absolute(Some(path))?
                .iter()
                .flat_map(|path| ["--operator".into(), path.clone().into_os_string()]),
        ),
        None => &mut command,
    };
    command
        .current_dir(home.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Not ended by a Ctrl-C that is meant for somebody else.
        .process_group(0);
    command.spawn().context("cannot start the lab's daemon")
}

/// The daemon works in another folder.
fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>> {
    let given = path.filter(|path| !path.as_os_str().is_empty());
    given
        .map(|path| {
            path.canonicalize()
                .with_context(|| format!("no {}", path.display()))
        })
        .transpose()
}

/// Copies what the daemon has said since `from` to stderr.
fn show(log: &Path, from: u64) -> Result<u64> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = String::new();
    let read = file.read_to_string(&mut text)?;
    eprint!("{text}");
    Ok(from + u64::try_from(read)?)
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn print(home: &Home, facts: &Facts) {
    let Facts {
        postgres,
        entra,
        operator,
        server_manifest,
    } = facts;
    let kubeconfig = home.kubeconfig();
    println!(
        "The lab is ready. Everything about it: {}",
        home.facts_file().display()
    );
    println!("  kubectl     export KUBECONFIG={}", kubeconfig.display());
    if !is_on_path("kubectl") {
        println!("              export PATH=$(tests/control-plane/build.sh kubectl):$PATH");
    }
    println!(
        "  server      kubectl apply -f {}",
        server_manifest.display()
    );
    println!(
        "  PostgreSQL  {} at {}:{}, certificates from {}",
        postgres.version,
        postgres.host,
        postgres.port,
        postgres.ca_file.display()
    );
    println!(
        "  superuser   psql -h {} -p {} -U {} postgres",
        postgres.socket_dir.display(),
        postgres.socket_port,
        postgres.superuser
    );
    println!(
        "  Entra       {}/{}, the lab's API at {}",
        entra.authority, entra.tenant_id, entra.api
    );
    match operator.pid {
        Some(pid) => println!(
            "  operator    process {pid}, log {}",
            operator.log.display()
        ),
        None => println!("  operator    not running"),
    }
    println!("Stop it with: make down");
}

/// `lab down`: stops the lab; succeeds if none runs.
pub async fn down(home: &Home) -> Result<()> {
    let stopped = stop(home).await?;
    println!(
        "{}",
        if stopped {
            "The lab is stopped."
        } else {
            "No lab is running."
        }
    );
    Ok(())
}

/// Stops the lab and waits until it is gone. False if none was running.
pub async fn stop(home: &Home) -> Result<bool> {
    let Some(pid) = home.daemon()? else {
        return Ok(false);
    };
    signal(pid, Signal::TERM);
    let gone = async || Ok(home.daemon()?.is_none());
    if until("the lab has stopped", END, gone).await.is_err() {
        eprintln!(
            "the lab did not stop in time; killing it (see {})",
            home.log().display()
        );
        // Its children die with it.
        signal(pid, Signal::KILL);
        until("the lab is gone", END, gone).await?;
    }
    Ok(true)
}

/// Asks the daemon to do something to the operator.
pub async fn operator(home: &Home, action: OperatorAction) -> Result<()> {
    let (_dir, path) = home.socket()?;
    let connected = UnixStream::connect(&path).await;
    let mut stream = connected.context("no lab runs here: start it with 'make up'")?;
    stream
        .write_all(format!("operator {}\n", action.word()).as_bytes())
        .await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.trim().split_once(' ') {
        Some(("ok", text)) => println!("{text}"),
        Some(("error", text)) => bail!("{text}"),
        _ => bail!(
            "the lab ended before it answered: see {}",
            home.log().display()
        ),
    }
    Ok(())
}
