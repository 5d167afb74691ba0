//! The clients of the documentation, installed: how each example program is started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::fixture::root;

/// Which command starts which example program.
pub struct Clients {
    commands: BTreeMap<&'static str, Vec<String>>,
}

/// Those that keep a pool or connect anew by themselves; all within seconds.
pub const PROGRAMS: [&str; 8] = [
    "psql/password",
    "psql/passfile",
    "psycopg",
    "node-postgres",
    "pgx",
    "tokio-postgres",
    "jdbc/hikari",
    "jdbc/plugin",
];
pub const PGADMIN: &str = "pgadmin";

impl Clients {
    /// Installs what is not there yet.
    pub fn install() -> Result<Self> {
        let source = root().join("tests/clients").canonicalize()?;
        let script = source.join("install.sh");
        let output = Command::new(&script)
            .stderr(std::process::Stdio::inherit())
            .output()
            .with_context(|| script.display().to_string())?;
        if !output.status.success() {
            bail!("tests/clients/install.sh failed; what it says stands above");
        }
        let installed = String::from_utf8(output.stdout)?;
        let folder = |client: &str| {
            let mut lines = installed.lines().filter_map(|line| line.split_once(' '));
            let found = lines.find(|(name, _)| *name == client);
            found
                .map(|(_, folder)| folder.to_owned())
                .with_context(|| format!("install.sh says nothing of {client}"))
        };
        let file = |path: &str| source.join(path).display().to_string();
        let jdbc = folder("jdbc")?;
        let java = |class: &str| {
            let classes = format!("{jdbc}/classes:{jdbc}/jars/*");
            let arguments = [
                "java",
                "-Xmx64m",
                "-XX:+UseSerialGC",
                "-cp",
                &classes,
                class,
            ];
            arguments.map(str::to_owned).to_vec()
        };
        let python = |client: &str| -> Result<Vec<String>> {
            let interpreter = format!("{}/bin/python", folder(client)?);
            Ok(vec![interpreter, file(&format!("{client}/main.py"))])
        };
        let node = format!("{}/main.js", folder("node-postgres")?);
        let commands = BTreeMap::from([
            ("psql/password", vec![file("psql/password.sh")]),
            ("psql/passfile", vec![file("psql/passfile.sh")]),
            ("psycopg", python("psycopg")?),
            ("node-postgres", vec!["node".to_owned(), node]),
            ("pgx", vec![format!("{}/pgx-client", folder("pgx")?)]),
            ("tokio-postgres", vec![example("tokio-postgres-client")?]),
            ("jdbc/hikari", java("Main")),
            ("jdbc/plugin", java("Driver")),
            (PGADMIN, python(PGADMIN)?),
        ]);
        Ok(Self { commands })
    }

    pub fn command(&self, program: &str) -> &[String] {
        &self.commands[program]
    }
}

/// An example of the lab, which cargo builds with the tests.
fn example(name: &str) -> Result<String> {
    let this = std::env::current_exe()?;
    let folder: Option<PathBuf> = this.ancestors().nth(2).map(|path| path.join("examples"));
    let path = folder.context("the test has no folder")?.join(name);
    if !path.exists() {
        bail!(
            "{} is not built: run 'cargo build -p lab --examples'",
            path.display()
        );
    }
    Ok(path.display().to_string())
}
