//! Every format under odd names, parsed by the clients themselves, each of which then signs in with
//! what it read. `readers/` has one program for each client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::formats::{mounted, said, world};
use crate::fixture::root;

// Red when: escape::percent, escape::pgpass or escape::properties leaves out a character; format::pairs
// gives a key another text.
#[tokio::test(flavor = "multi_thread")]
async fn psycopg_node_and_jdbc_read_every_format_and_sign_in_whatever_the_name() -> Result<()> {
    let installed = installed(&["psycopg", "node-postgres", "jdbc"]).await?;
    let world = world("formats_readers").await?;
    let dir = tempfile::tempdir()?;
    let readers = root().join("tests/it/secrets/readers");
    for (role, folder) in mounted(&world, dir.path()).await? {
        let mut psycopg = Command::new(installed["psycopg"].join("bin/python"));
        psycopg.arg(readers.join("python.py"));
        check(
            psycopg,
            &folder,
            role,
            &["uri", "conninfo", "ServiceBinding", "PgPass", "Json"],
        )
        .await?;

        let mut node = Command::new("node");
        node.arg(readers.join("node.mjs"))
            .env("INSTALLED", &installed["node-postgres"]);
        check(
            node,
            &folder,
            role,
            &["uri", "ServiceBinding", "Json", "PgPass"],
        )
        .await?;

        let mut java = Command::new("java");
        java.args([
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-Dfile.encoding=UTF-8",
            "-Dsun.stdout.encoding=UTF-8",
            "-cp",
        ])
        .arg(installed["jdbc"].join("jars/*"))
        .arg(readers.join("Jdbc.java"));
        check(
            java,
            &folder,
            role,
            &["jdbc-url", "db.properties", "ServiceBinding", "PgPass"],
        )
        .await?;
    }
    Ok(())
}

/// Each format has to name the role that it signed in as.
async fn check(mut client: Command, folder: &Path, role: &str, formats: &[&str]) -> Result<()> {
    client
        .arg(folder)
        .env("HOME", folder)
        .env("LC_ALL", "C.UTF-8");
    let said = said(client).await.with_context(|| format!("as {role:?}"))?;
    let wanted: Vec<String> = formats
        .iter()
        .map(|format| format!("{format} {role}"))
        .collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    Ok(())
}

/// Where the clients are; installed if they are not there yet.
async fn installed(clients: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut install = Command::new(root().join("tests/clients/install.sh").canonicalize()?);
    install.args(clients);
    let said = said(install).await?;
    let lines = said.lines().filter_map(|line| line.split_once(' '));
    Ok(lines
        .map(|(name, folder)| (name.to_owned(), folder.into()))
        .collect())
}
