//! psql, as a person or a workload runs it.
//! Must not print a password: it is handed over in the environment.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::up::PostgresFacts;

/// How somebody signs in.
pub(super) struct Login<'a> {
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
    pub(super) password: &'a str,
}

/// Signs in through the gateway, its certificate verified, and asks who one is.
pub(super) async fn current_user(server: &PostgresFacts, login: &Login<'_>) -> Result<String> {
    let Login {
        host,
        port,
        database,
        user,
        password,
    } = login;
    let mut psql = psql("SELECT current_user");
    psql.env("PGHOST", host)
        .env("PGPORT", port)
        .env("PGDATABASE", database)
        .env("PGUSER", user)
        .env("PGPASSWORD", password)
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", &server.ca_file);
    let found = output(psql)
        .await
        .with_context(|| format!("psql as {user:?}"))?;
    if found != *user {
        bail!("psql as {user:?}: current_user is {found:?}");
    }
    Ok(found)
}

/// One statement as the superuser, on the server behind the gateway. Columns are divided by tabs.
pub(super) async fn superuser(server: &PostgresFacts, statement: &str) -> Result<String> {
    let mut psql = psql(statement);
    psql.env("PGHOST", &server.socket_dir)
        .env("PGPORT", server.socket_port.to_string())
        .env("PGDATABASE", "postgres")
        .env("PGUSER", &server.superuser);
    output(psql)
        .await
        .with_context(|| format!("psql as superuser: {statement}"))
}

fn psql(statement: &str) -> Command {
    let mut command = Command::new("psql");
    command
        .args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-F",
            "\t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
        ])
        .env("PGCONNECT_TIMEOUT", "10")
        .stdin(Stdio::null());
    command
}

async fn output(mut psql: Command) -> Result<String> {
    let output = psql
        .output()
        .await
        .context("cannot run psql: run 'make deps'")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
