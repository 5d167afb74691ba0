//! Child processes of the lab: started with a log file, never outliving the process that started
//! them (not even if that one is killed), stopped within a deadline.
//! Must not know what the programs are.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::confined::Limits;

/// How often a condition is looked at again.
const LOOK: Duration = Duration::from_millis(20);
/// What a log tail in an error shows at most.
const TAIL: u64 = 4096;

/// A program to start.
pub struct Spec {
    /// What errors call it.
    pub name: &'static str,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub envs: Vec<(OsString, OsString)>,
    pub dir: PathBuf,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    pub limits: Option<Limits>,
}

/// A running child. Dropping it kills it.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    // Dropped after the child was waited for.
    limits: Option<Limits>,
}

impl Process {
    pub fn start(spec: Spec) -> Result<Self> {
        let Spec {
            name,
            program,
            args,
            envs,
            dir,
            log,
            limits,
        } = spec;
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write the log of {name} at {}", log.display()))?;
        let mut words: Vec<OsString> = ["setpriv", "--pdeathsig", "KILL", "--"]
            .map(OsString::from)
            .into();
        words.push(program.clone().into_os_string());
        words.extend(args);
        if let Some(limits) = &limits {
            words = limits.wrap(words);
        }
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .envs(envs)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // A Ctrl-C in the terminal is for the lab, which then stops its children in order.
            .process_group(0);
        let child = spawn(command).with_context(|| {
            format!(
                "cannot start {name} ({}): is setpriv (util-linux) here?",
                program.display()
            )
        })?;
        Ok(Self {
            name,
            child,
            log,
            limits,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An error with the end of the log, if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                let killed = self
                    .limits
                    .as_ref()
                    .is_some_and(|limits| limits.kills() > 0);
                let why = if killed {
                    ", killed above its memory limit"
                } else {
                    ""
                };
                bail!("{} ended ({status}{why}); {}", self.name, tail(&self.log))
            }
        }
    }

    /// Waits until the process has ended by itself.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if start.elapsed() > deadline {
                bail!(
                    "{} has not ended after {deadline:?}; {}",
                    self.name,
                    tail(&self.log)
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks the process to end; kills it at the deadline and says so.
    pub async fn stop(mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(deadline).await
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.kill_now();
    }

    pub fn signal(&mut self, signal: Signal) {
        // Only while it has not been waited for: afterwards the id may be somebody else's.
        if self.ended().is_none()
            && let Some(pid) = pid(self.child.id())
        {
            self.look();
            let _ = kill_process(pid, signal);
        }
    }

    /// What it has used is known only while it is there.
    fn look(&self) {
        if let Some(limits) = &self.limits {
            limits.look(self.child.id());
        }
    }

    fn kill_now(&mut self) {
        self.look();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_now();
    }
}

type Started = std::io::Result<Child>;
type Request = (Command, mpsc::Sender<Started>);

/// The kernel sends the death signal when the *thread* that started the child ends, and runtimes
/// and test harnesses end their threads early: so one thread that lives for ever starts them all.
static STARTER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
    let (sender, requests) = mpsc::channel::<Request>();
    thread::spawn(move || {
        for (mut command, reply) in requests {
            let _ = reply.send(command.spawn());
        }
    });
    sender
});

/// Spawns a command on the thread that outlives all others. For commands with a death signal.
pub fn spawn(command: Command) -> Result<Child> {
    let (sender, reply) = mpsc::channel();
    let gone = || anyhow!("the thread that starts processes is gone");
    STARTER.send((command, sender)).map_err(|_| gone())?;
    Ok(reply.recv().map_err(|_| gone())??)
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// Signals a process that is not our child. True if there was one.
pub fn signal(id: u32, signal: Signal) -> bool {
    pid(id).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// The last lines of a log, for error messages.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    format!("the end of {}:\n{text}", log.display())
}

/// A loopback port that nobody listens on. Taken below the range from which the kernel takes ports
/// for outgoing connections, so that none of those gets it before its owner listens.
pub fn free_port() -> Result<u16> {
    for _ in 0..200 {
        let mut random = [0_u8; 2];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let port = 12_000 + u16::from_le_bytes(random) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 between 12000 and 32000")
}

/// Waits until `condition` says true, at most for `deadline`.
pub async fn until<F>(what: &str, deadline: Duration, mut condition: F) -> Result<()>
where
    F: AsyncFnMut() -> Result<bool>,
{
    let start = Instant::now();
    loop {
        if condition().await? {
            return Ok(());
        }
        if start.elapsed() > deadline {
            bail!("{what}: not so after {deadline:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes a file that only its owner may read, whole or not at all, whoever else writes it meanwhile.
pub fn write_private(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_ref())?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
