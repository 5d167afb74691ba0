//! A real PostgreSQL server that knows pgaadauth: found, built for, started, restarted, stopped.
//! It authenticates nobody from outside: that is the gateway's part.

mod binaries;
mod directory;
mod files;
mod process;
mod scratch;
mod template;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_postgres::{Client, NoTls};

use crate::directory::Directory;
use crate::faults::Fault;
use binaries::{Binaries, SystemUser};
use process::{Process, Signal};
use scratch::Scratch;
use template::MODULE;

pub use binaries::Version;
pub use files::Switches;
pub use template::NameColumn;

/// The bootstrap superuser: the lab's own, for tests that play the service or a DBA.
pub const SUPERUSER: &str = "lab";
/// The administrator with a password, as every Azure server may have one.
pub const PASSWORD_ADMINISTRATOR: &str = "labadmin";
pub const PASSWORD_ADMINISTRATOR_PASSWORD: &str = "the-lab-has-no-real-secrets";

const READY_WITHIN: Duration = Duration::from_secs(60);
const PORT_TRIES: usize = 5;
const MEMORY: &str = "/dev/shm";
/// What many servers at once and all that they write may take.
const MEMORY_ENOUGH: u64 = 4 << 30;

/// Which server, and which of Azure's behaviours.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Where the data directory is made; a system user must be able to reach it. Default: in memory
    /// if there is enough, else the machine's folder for temporary files.
    pub parent: Option<PathBuf>,
    /// Where `postgres` is. Default: `LAB_POSTGRES_BIN`, then the newest of Debian's.
    pub bin_dir: Option<PathBuf>,
    pub name_column: NameColumn,
    pub switches: Switches,
}

/// A running server. Dropping it kills it and removes its files.
#[derive(Debug)]
pub struct Postgres {
    binaries: Binaries,
    user: Option<SystemUser>,
    process: Mutex<Process>,
    port: u16,
    // Dropped after the process, in this order.
    socket_dir: Scratch,
    run_dir: Scratch,
}

impl Postgres {
    /// Starts a server that has the directory's administrators and databases.
    pub async fn start(options: PostgresOptions, directory: &Directory) -> anyhow::Result<Self> {
        let mut server = tokio::task::spawn_blocking(move || Self::prepare_and_spawn(options))
            .await
            .context("the start of PostgreSQL was cut off")??;
        for attempt in 1.. {
            match server.wait_until_ready().await {
                Ok(()) => break,
                // Somebody else was faster to take the free port.
                Err(_) if attempt < PORT_TRIES && server.log().contains("could not bind") => {
                    server.port = free_port()?;
                    server.set_process(server.spawn()?);
                }
                Err(error) => return Err(error),
            }
        }
        server.write_directory(directory).await?;
        Ok(server)
    }

    fn prepare_and_spawn(options: PostgresOptions) -> anyhow::Result<Self> {
        let user = SystemUser::when_root()?;
        let binaries = Binaries::find(options.bin_dir, user.as_ref())?;
        let template = template::ensure(&binaries, user.as_ref(), options.name_column)?;
        let parent = reachable_parent(options.parent, user.as_ref())?;
        let run_dir = Scratch::new(&parent, "entra-lab-pg-", user.as_ref())?;
        // The path of a socket has at most 107 bytes, so it cannot lie anywhere.
        let socket_dir = Scratch::new(Path::new("/tmp"), "entra-lab-sock-", user.as_ref())?;
        template::copy_tree(&template, &run_dir.path().join("data"))?;
        // Not every place for data may hold programs.
        std::fs::copy(template.join(MODULE), socket_dir.path().join(MODULE))?;
        let port = free_port()?;
        let server = Self {
            process: Mutex::new(Process::none()),
            binaries,
            user,
            port,
            socket_dir,
            run_dir,
        };
        files::write_switches(&server.data_dir(), options.switches)?;
        server.set_process(server.spawn()?);
        Ok(server)
    }

    fn spawn(&self) -> anyhow::Result<Process> {
        let data = self.data_dir();
        let mut settings = vec![
            format!("port={}", self.port),
            format!(
                "unix_socket_directories={}",
                self.socket_dir.path().display()
            ),
            format!(
                "dynamic_library_path={}:$libdir",
                self.socket_dir.path().display()
            ),
        ];
        if self.binaries.version.major() >= 18 {
            settings.push("io_method=sync".into());
        }
        let mut command =
            SystemUser::command(self.user.as_ref(), &self.binaries.program("postgres"), true);
        command.arg("-D").arg(&data);
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        Process::spawn(command, &self.log_path())
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match self.superuser().await {
                Ok(_) => return Ok(()),
                Err(_) if self.process().has_ended() => bail!(
                    "PostgreSQL {} ended while starting; its log says:\n{}",
                    self.binaries.version,
                    self.log()
                ),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!(
                        "PostgreSQL did not get ready within {READY_WITHIN:?}; see {}",
                        self.log_path().display()
                    )));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(15)).await,
            }
        }
    }

    /// Makes the server see this directory at once. Administrators and databases that are new are
    /// made; nothing is ever dropped.
    pub async fn write_directory(&self, new: &Directory) -> anyhow::Result<()> {
        files::write_directory(&self.data_dir(), new)?;
        let client = self.superuser().await?;
        directory::apply(&client, new).await
    }

    /// Replaces the faults of `on: sql`; others are left out.
    pub fn write_faults(&self, faults: &[Fault]) -> anyhow::Result<()> {
        files::write_faults(&self.data_dir(), faults)
    }

    /// Changes Azure's behaviours in the running server. New sessions see it at once.
    pub async fn set_switches(&self, switches: Switches) -> anyhow::Result<()> {
        files::write_switches(&self.data_dir(), switches)?;
        let client = self.superuser().await?;
        let before = reload_time(&client).await?;
        client.simple_query("SELECT pg_reload_conf()").await?;
        let deadline = Instant::now() + READY_WITHIN;
        // A session that starts afterwards has the postmaster's values.
        while reload_time(&self.superuser().await?).await? == before {
            anyhow::ensure!(
                Instant::now() < deadline,
                "PostgreSQL did not read its settings again"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Stops the server as an upgrade does and starts it again at the same port.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.end(Signal::INT).await?;
        self.set_process(self.spawn()?);
        self.wait_until_ready().await
    }

    /// Stops the server and removes all that it left.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.end(Signal::QUIT).await?;
        let Self {
            run_dir,
            socket_dir,
            ..
        } = self;
        socket_dir.close()?;
        run_dir.close()?;
        Ok(())
    }

    async fn end(&self, signal: Signal) -> anyhow::Result<()> {
        let mut process = std::mem::replace(&mut *self.process(), Process::none());
        tokio::task::spawn_blocking(move || process.end(signal))
            .await
            .context("the stop of PostgreSQL was cut off")?;
        Ok(())
    }

    /// A session as the lab's superuser in database `postgres`.
    pub async fn superuser(&self) -> anyhow::Result<Client> {
        self.connect(SUPERUSER, "postgres").await
    }

    /// A session as any role, without a password, past the gateway.
    pub async fn connect(&self, role: &str, database: &str) -> anyhow::Result<Client> {
        connect(self.socket_dir.path(), self.port, role, database).await
    }

    pub fn socket_dir(&self) -> &Path {
        self.socket_dir.path()
    }

    /// The port of the socket and of the loopback address, where only passwords are taken.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn version(&self) -> &Version {
        &self.binaries.version
    }

    /// The folder of this server's programs, `psql` among them.
    pub fn bin_dir(&self) -> &Path {
        self.binaries.dir()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.run_dir.path().join("data")
    }

    /// The process id of the server.
    pub fn pid(&self) -> Option<u32> {
        self.process().pid()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_process(&self, process: Process) {
        *self.process() = process;
    }

    fn log_path(&self) -> PathBuf {
        self.run_dir.path().join("postgres.log")
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

/// A session over the server's socket, where every role is trusted.
pub(crate) async fn connect(
    socket_dir: &Path,
    port: u16,
    role: &str,
    database: &str,
) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(socket_dir)
        .port(port)
        .user(role)
        .dbname(database)
        .connect(NoTls)
        .await
        .with_context(|| format!("cannot connect to the lab's PostgreSQL as `{role}`"))?;
    tokio::spawn(connection);
    Ok(client)
}

async fn reload_time(client: &Client) -> anyhow::Result<String> {
    let row = client
        .query_one("SELECT pg_catalog.pg_conf_load_time()::text", &[])
        .await?;
    Ok(row.try_get(0)?)
}

fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}

/// One of `PostgreSQL`'s programs, of the version that the lab's servers have.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let user = SystemUser::when_root()?;
    Ok(Binaries::find(None, user.as_ref())?.program(name))
}

/// The wanted folder, unless the system user cannot reach it (as in root's home).
fn reachable_parent(wanted: Option<PathBuf>, user: Option<&SystemUser>) -> anyhow::Result<PathBuf> {
    let reachable = |dir: &Path| user.is_none_or(|user| user.can_enter(dir));
    let wanted = match wanted {
        Some(wanted) => {
            std::fs::create_dir_all(&wanted)
                .with_context(|| format!("cannot make the folder {}", wanted.display()))?;
            Some(std::path::absolute(&wanted)?)
        }
        // Copying a data directory takes a tenth of the time there.
        None => Some(PathBuf::from(MEMORY))
            .filter(|dir| fs2::available_space(dir).is_ok_and(|free| free >= MEMORY_ENOUGH))
            .filter(|dir| tempfile::tempfile_in(dir).is_ok()),
    };
    Ok(wanted
        .filter(|dir| reachable(dir))
        .unwrap_or_else(std::env::temp_dir))
}
