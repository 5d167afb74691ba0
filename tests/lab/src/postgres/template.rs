//! The data directory that every server of the lab is a copy of: initdb, the module, the first
//! roles, the functions. Made once for each version and kept under the lab's cache.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use fs2::FileExt as _;
use sha2::{Digest as _, Sha256};

use super::binaries::{Binaries, SystemUser};
use super::files::SWITCHES_FILE;
use super::scratch::Scratch;
use super::{PASSWORD_ADMINISTRATOR, PASSWORD_ADMINISTRATOR_PASSWORD, SUPERUSER};
use crate::azure::cache_dir;

/// What names of templates begin with.
const PREFIX: &str = "postgres-";
const UNUSED_FOR: Duration = Duration::from_secs(14 * 24 * 3600);
/// The module's file in the template; a server has its own copy.
pub(super) const MODULE: &str = "pgaadauth.so";
/// Its sources: file name and text.
const SOURCES: [(&str, &str); 4] = [
    ("pgaadauth.h", include_str!("module/pgaadauth.h")),
    ("pgaadauth.c", include_str!("module/pgaadauth.c")),
    ("directory.c", include_str!("module/directory.c")),
    ("control.c", include_str!("module/control.c")),
];
const FUNCTIONS: &str = include_str!("module/pgaadauth.sql");

/// Roles as on every Azure server; the public schema belongs to its administrators there.
const ROLES: &str = "\
CREATE ROLE azuresu NOLOGIN SUPERUSER;

CREATE ROLE azure_pg_admin NOLOGIN;

GRANT pg_monitor, pg_signal_backend TO azure_pg_admin;

CREATE ROLE PASSWORD_ADMINISTRATOR LOGIN CREATEROLE CREATEDB
    IN ROLE azure_pg_admin PASSWORD 'SECRET';

ALTER DATABASE postgres OWNER TO azure_pg_admin;

ALTER SCHEMA public OWNER TO azure_pg_admin;
";
const PUBLIC_SCHEMA: &str = "ALTER SCHEMA public OWNER TO azure_pg_admin;\n";

/// The data is worth nothing: speed before safety.
const SETTINGS: &str = "
include 'lab.conf'
shared_preload_libraries = 'pgaadauth'
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 32MB
fsync = off
synchronous_commit = off
full_page_writes = off
dynamic_shared_memory_type = mmap
max_wal_size = 128MB
min_wal_size = 8MB
unix_socket_permissions = 0700
log_line_prefix = '%m [%p] %q%u@%d '
log_timezone = 'UTC'
timezone = 'UTC'
";

/// Over the socket everybody is who he says: the gateway has checked. Over TCP passwords are asked.
const ACCESS: &str = "\
local all all trust
host all all 127.0.0.1/32 password
";

/// The first column of `pgaadauth_list_principals`: both have been seen on Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameColumn {
    Rolname,
    #[default]
    Rolename,
}

impl NameColumn {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rolname => "rolname",
            Self::Rolename => "rolename",
        }
    }
}

/// The folder of the template, made if it is not there. Blocks, for seconds the first time.
pub(super) fn ensure(
    binaries: &Binaries,
    user: Option<&SystemUser>,
    column: NameColumn,
) -> anyhow::Result<PathBuf> {
    let cache = cache_dir()?;
    std::fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
    let template = cache.join(format!("{PREFIX}{}", key(binaries, user, column)));
    if template.exists() {
        mark_used(&template);
        return Ok(template);
    }
    // Tests run in many processes: one builds, the others wait.
    let lock = std::fs::File::create(cache.join("postgres.lock"))?;
    lock.lock_exclusive()?;
    if template.exists() {
        return Ok(template);
    }
    let build = Scratch::new(&std::env::temp_dir(), "entra-lab-template-", user)?;
    let data = build.path().join("data");
    initialise(binaries, user, &data, column)
        .with_context(|| format!("cannot prepare PostgreSQL {}", binaries.version))?;
    // Renamed when whole, so that a cut build is never taken for a template.
    let beside = tempfile::Builder::new()
        .prefix("building-")
        .tempdir_in(&cache)?;
    let whole = beside.path().join("data");
    copy_tree(&data, &whole)?;
    std::fs::rename(&whole, &template)?;
    mark_used(&template);
    prune(&cache);
    Ok(template)
}

/// The folder's time says when it was last used. Who may not write it leaves it as it is.
fn mark_used(template: &Path) {
    let _ = std::fs::File::open(template).and_then(|dir| dir.set_modified(SystemTime::now()));
}

/// Removes templates of versions and sources that nobody has used for long.
fn prune(cache: &Path) {
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    let unused = |entry: &std::fs::DirEntry| {
        let used = entry.metadata().and_then(|data| data.modified()).ok();
        used.and_then(|used| used.elapsed().ok())
            .is_some_and(|age| age > UNUSED_FOR)
    };
    for entry in entries.filter(unused) {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && entry.path().is_dir() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Everything that goes into a template, in one word.
fn key(binaries: &Binaries, user: Option<&SystemUser>, column: NameColumn) -> String {
    let mut hash = Sha256::new();
    let program = binaries.program("postgres");
    let owner = user.map_or("", |user| user.name.as_str());
    let version = binaries.version.to_string();
    let parts = [
        version.as_str(),
        &program.to_string_lossy(),
        owner,
        column.as_str(),
    ];
    let texts = [FUNCTIONS, ROLES, PUBLIC_SCHEMA, SETTINGS, ACCESS];
    let sources = SOURCES.iter().map(|(_, text)| *text);
    for part in parts.into_iter().chain(texts).chain(sources) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn initialise(
    binaries: &Binaries,
    user: Option<&SystemUser>,
    data: &Path,
    column: NameColumn,
) -> anyhow::Result<()> {
    let mut initdb = SystemUser::command(user, &binaries.program("initdb"), false);
    initdb
        .args([
            "--no-sync",
            "--no-instructions",
            "--auth=trust",
            "--encoding=UTF8",
        ])
        .args(["--locale=C.UTF-8", "--wal-segsize=1"])
        .arg(format!("--username={SUPERUSER}"))
        .arg("-D")
        .arg(data);
    check("initdb", &initdb.output().context("cannot run initdb")?)?;
    compile(&binaries.headers()?, data)?;
    std::fs::write(data.join("postgresql.conf"), SETTINGS)?;
    std::fs::write(data.join(SWITCHES_FILE), "")?;
    std::fs::write(data.join("pg_hba.conf"), ACCESS)?;
    let roles = ROLES
        .replace("PASSWORD_ADMINISTRATOR", PASSWORD_ADMINISTRATOR)
        .replace("SECRET", PASSWORD_ADMINISTRATOR_PASSWORD);
    let functions = FUNCTIONS.replace("NAME_COLUMN", column.as_str());
    single_user(binaries, user, data, "postgres", &roles)?;
    single_user(binaries, user, data, "template1", PUBLIC_SCHEMA)?;
    single_user(binaries, user, data, "postgres", &functions)
}

/// Builds the module into the data directory: one place that the server surely can read.
fn compile(headers: &Path, data: &Path) -> anyhow::Result<()> {
    let sources = tempfile::tempdir()?;
    for (name, text) in SOURCES {
        std::fs::write(sources.path().join(name), text)?;
    }
    let output = Command::new("gcc")
        .args(["-O2", "-fPIC", "-shared", "-o"])
        .arg(data.join(MODULE))
        .arg(format!("-I{}", headers.display()))
        .args(["pgaadauth.c", "directory.c", "control.c"])
        .current_dir(sources.path())
        .output()
        .context("cannot run gcc, which builds the module pgaadauth: install gcc")?;
    check("gcc", &output)
}

/// Runs statements without a server; an empty line ends each.
fn single_user(
    binaries: &Binaries,
    user: Option<&SystemUser>,
    data: &Path,
    database: &str,
    sql: &str,
) -> anyhow::Result<()> {
    let mut child = SystemUser::command(user, &binaries.program("postgres"), false)
        .args(["--single", "-j", "-c", "exit_on_error=on", "-c"])
        .arg(format!("dynamic_library_path={}:$libdir", data.display()))
        .arg("-D")
        .arg(data)
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run postgres --single")?;
    let mut input = child
        .stdin
        .take()
        .context("postgres --single has no input")?;
    // A server that ended early is told by its status, not by the broken pipe.
    let _ = input.write_all(format!("{sql}\n\n").as_bytes());
    drop(input);
    check("postgres --single", &child.wait_with_output()?)
}

fn check(what: &str, output: &Output) -> anyhow::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    bail!("{what} failed ({}): {}", output.status, text.trim())
}

/// Copies a folder with owners and modes, sharing blocks where the file system can.
pub(super) fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    let output = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(from)
        .arg(to)
        .output()
        .context("cannot run cp")?;
    check("cp", &output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_templates_that_nobody_uses_are_pruned() {
        let cache = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - UNUSED_FOR * 2;
        let [old, used, other] = ["postgres-old", "postgres-used", "control-plane"].map(|name| {
            let dir = cache.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            let file = std::fs::File::open(&dir).unwrap();
            file.set_modified(long_ago).unwrap();
            dir
        });
        mark_used(&used);
        prune(cache.path());
        assert!(!old.exists() && used.exists() && other.exists());
    }
}
