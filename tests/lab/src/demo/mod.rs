//! `lab demo`: the whole story once, in a lab of its own that is stopped whatever happens.
//! Standard output is the story and nothing else; all else goes to standard error.

mod cluster;
mod psql;
mod story;

use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::process::{signal as send, tail};
use crate::up::Home;

/// Tells the story. An error if any part of it was not so.
pub async fn demo(home: &Home) -> Result<()> {
    if home.daemon()?.is_some() {
        let dir = home.dir().display();
        bail!("a lab runs in {dir}: wait until it ends, or stop it with 'lab --home {dir} down'");
    }
    let mut starting = lab(home, "up").spawn().context("cannot start 'lab up'")?;
    let told = tokio::select! {
        told = tell(home, &mut starting) => told,
        name = interrupted() => Err(anyhow!("interrupted by {}", name?)),
    };
    if told.is_err() {
        eprintln!("{}", tail(&home.file("operator.log")));
    }
    let stopped = stop(home, &mut starting).await;
    told?;
    stopped?;
    story::end();
    Ok(())
}

async fn tell(home: &Home, starting: &mut Child) -> Result<()> {
    let begin = std::time::Instant::now();
    if !starting.wait().await?.success() {
        bail!("the lab did not start: see above");
    }
    story::tell(&home.facts()?, &home.kubeconfig(), begin.elapsed()).await
}

/// What `up` and `down` print for people is not part of the story.
fn lab(home: &Home, word: &str) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "lab".into());
    let mut command = Command::new(program);
    command
        .arg("--home")
        .arg(home.dir())
        .arg(word)
        // The examples are about the built-in directory, and need the operator.
        .env_remove("LAB_DIRECTORY")
        .env_remove("LAB_OPERATOR")
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    command
}

async fn interrupted() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "Ctrl-C",
        _ = hangup.recv() => "SIGHUP",
    })
}

/// Stops the lab, also one that is just being started.
async fn stop(home: &Home, starting: &mut Child) -> Result<()> {
    if let Some(pid) = starting.id() {
        // It then stops what it has started.
        send(pid, Signal::INT);
        starting.wait().await?;
    }
    let ended = lab(home, "down").status().await?;
    if !ended.success() {
        bail!("the lab could not be stopped: see above");
    }
    Ok(())
}
