//! One server process that never outlives the lab, not even a killed one.
//! It knows nothing of PostgreSQL.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, kill_process};

pub(super) use rustix::process::Signal;

/// Time to end before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Process {
    running: Option<(u32, JoinHandle<()>)>,
}

impl Process {
    /// No process.
    pub(super) fn none() -> Self {
        Self { running: None }
    }

    /// Starts the command with its output appended to a log. The kernel's parent-death signal
    /// follows the starting *thread*, so that thread waits for the process and does nothing else.
    pub(super) fn spawn(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C in the terminal is for the lab, which then stops the server in order.
            .process_group(0);
        let (send, receive) = mpsc::channel::<std::io::Result<u32>>();
        let thread = std::thread::Builder::new()
            .name("postgres".into())
            .spawn(move || {
                let mut child: Child = match command.spawn() {
                    Ok(child) => child,
                    Err(error) => {
                        let _ = send.send(Err(error));
                        return;
                    }
                };
                let _ = send.send(Ok(child.id()));
                let _ = child.wait();
            })?;
        let pid = receive
            .recv()
            .context("the thread that starts PostgreSQL ended")?
            .context("cannot start PostgreSQL (setpriv, of util-linux, is needed)")?;
        Ok(Self {
            running: Some((pid, thread)),
        })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|(pid, _)| *pid)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.running
            .as_ref()
            .is_none_or(|(_, thread)| thread.is_finished())
    }

    /// Signals the process and waits; blocks. After the grace time it is killed.
    pub(super) fn end(&mut self, signal: Signal) {
        let Some((pid, thread)) = self.running.take() else {
            return;
        };
        let send = |signal| {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        };
        let deadline = Instant::now() + GRACE;
        if !thread.is_finished() {
            send(signal);
        }
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(3));
        }
        if !thread.is_finished() {
            send(Signal::KILL);
        }
        let _ = thread.join();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(Signal::QUIT);
    }
}
