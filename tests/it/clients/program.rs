//! A running example program: what it prints, and that it is still the same process.
//! Must not know what client it is.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// A started program. Dropping it ends it and what it started.
pub struct Program {
    /// What errors call it.
    pub name: String,
    child: Child,
    group: Option<Pid>,
    printed: Lines,
    complained: Lines,
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A line of an example program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    pub user: String,
    /// The server's process.
    pub connection: i32,
}

impl SignIn {
    pub fn parse(line: &str) -> Option<Self> {
        let (user, connection) = line
            .strip_prefix("signed in as ")?
            .rsplit_once(", connection ")?;
        Some(Self {
            user: user.to_owned(),
            connection: connection.parse().ok()?,
        })
    }
}

impl Program {
    /// Starts it with nothing but the folder of the mounted files.
    pub fn start(name: String, command: &[String], binding: &Path) -> Result<Self> {
        let [program, arguments @ ..] = command else {
            bail!("{name}: no command")
        };
        // Whatever the machine has set for PostgreSQL is not for the program.
        let foreign = std::env::vars().filter(|(variable, _)| variable.starts_with("PG"));
        let mut command = Command::new(program);
        for (variable, _) in foreign {
            command.env_remove(variable);
        }
        let mut child = command
            .args(arguments)
            .env("DB_BINDING", binding)
            // Java prints in the encoding of the locale.
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name}: cannot run {program}"))?;
        Ok(Self {
            name,
            printed: collect(child.stdout.take()),
            complained: collect(child.stderr.take()),
            group: child.id().and_then(|id| Pid::from_raw(id.cast_signed())),
            child,
        })
    }

    /// The sign-ins since the last call of `forget`.
    pub fn sign_ins(&self) -> Vec<SignIn> {
        lines(&self.printed)
            .iter()
            .filter_map(|line| SignIn::parse(line))
            .collect()
    }

    /// What it wrote to standard error since the last call of `forget`.
    pub fn complaints(&self) -> Vec<String> {
        lines(&self.complained)
    }

    pub fn forget(&self) {
        for lines in [&self.printed, &self.complained] {
            lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Waits until it is so. The program must not end meanwhile.
    pub async fn wait(
        &mut self,
        what: &str,
        deadline: Duration,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !is_so(self) {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > deadline {
                let state = ended.map_or_else(
                    || format!("not so after {deadline:?}"),
                    |status| format!("it ended with {status}"),
                );
                bail!(
                    "{}: {what}: {state}. It printed {:#?} and complained {:#?}",
                    self.name,
                    tail(&self.printed),
                    tail(&self.complained)
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    /// Whether the process that was started still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its children too, if the program does not end them itself.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}

fn lines(lines: &Lines) -> Vec<String> {
    lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn tail(all: &Lines) -> Vec<String> {
    let all = lines(all);
    all[all.len().saturating_sub(8)..].to_vec()
}

fn collect(stream: Option<impl AsyncRead + Send + Unpin + 'static>) -> Lines {
    let collected = Lines::default();
    if let Some(stream) = stream {
        let collected = Arc::clone(&collected);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                collected.push(line);
            }
        });
    }
    collected
}
