//! Where PostgreSQL's programs are, which version they are, and which system user runs them.
//! It starts no server.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

const DEBIAN: &str = "/usr/lib/postgresql";

/// `15.20` or `18.4`, with what the program says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    major: u32,
    text: String,
}

impl Version {
    pub fn major(&self) -> u32 {
        self.major
    }

    /// From `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
    fn parse(line: &str) -> Option<Self> {
        let text = line.split_whitespace().nth(2)?;
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        Some(Self {
            major: digits.parse().ok()?,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Binaries {
    dir: PathBuf,
    pub(super) version: Version,
}

impl Binaries {
    pub(super) fn find(given: Option<PathBuf>, user: Option<&SystemUser>) -> anyhow::Result<Self> {
        let given = given.or_else(|| std::env::var_os("LAB_POSTGRES_BIN").map(PathBuf::from));
        let dir = match given {
            Some(dir) => std::path::absolute(dir)?,
            None => newest_of_debian()?,
        };
        let program = dir.join("postgres");
        let output = SystemUser::command(user, &program, false)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(
            output.status.success(),
            "cannot run {}{}: {}",
            program.display(),
            user.map_or(String::new(), |user| format!(
                " as system user `{}`",
                user.name
            )),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let line = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&line).with_context(|| {
            format!(
                "{} --version says `{}`, which is no version",
                program.display(),
                line.trim()
            )
        })?;
        Ok(Self { dir, version })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The folder of the server's C headers.
    pub(super) fn headers(&self) -> anyhow::Result<PathBuf> {
        let asked = Command::new(self.program("pg_config"))
            .arg("--includedir-server")
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
        let debian = PathBuf::from(format!(
            "/usr/include/postgresql/{}/server",
            self.version.major
        ));
        asked
            .into_iter()
            .chain([debian])
            .find(|dir| dir.join("postgres.h").exists())
            .with_context(|| {
                format!(
                    "no C headers for the PostgreSQL {} in {}: install postgresql-server-dev-{}",
                    self.version,
                    self.dir.display(),
                    self.version.major
                )
            })
    }
}

fn newest_of_debian() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    found.sort();
    match found.pop() {
        Some((_, bin)) => Ok(bin),
        None => bail!(
            "no PostgreSQL in {DEBIAN}: install one (Debian: postgresql-15 and \
             postgresql-server-dev-15) or name its folder in LAB_POSTGRES_BIN"
        ),
    }
}

/// Who runs the server when the lab is root: PostgreSQL refuses to be.
#[derive(Debug, Clone)]
pub(super) struct SystemUser {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl SystemUser {
    /// None if the lab is not root.
    pub(super) fn when_root() -> anyhow::Result<Option<Self>> {
        if std::fs::metadata("/proc/self")?.uid() != 0 {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd")?;
        let find = |name| users.lines().find_map(|line| Self::parse(line, name));
        let user = find("postgres").or_else(|| find("nobody"));
        user.context("root needs a system user `postgres` or `nobody` to run PostgreSQL")
            .map(Some)
    }

    fn parse(line: &str, wanted: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| *name == wanted)?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, uid, gid })
    }

    /// The program as this user. If it is to die with the lab, the kernel quits it when the thread
    /// that started it ends.
    pub(super) fn command(user: Option<&Self>, program: &Path, die_with_lab: bool) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(user) = user {
            command
                .arg(format!("--reuid={}", user.uid))
                .arg(format!("--regid={}", user.gid))
                .arg("--clear-groups");
        }
        if die_with_lab {
            command.arg("--pdeathsig=QUIT");
        }
        command.arg(program);
        // Settings of the caller's own PostgreSQL have no meaning here.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C.UTF-8").current_dir("/");
        command
    }

    pub(super) fn can_enter(&self, dir: &Path) -> bool {
        Self::command(Some(self), Path::new("test"), false)
            .arg("-x")
            .arg(dir)
            .status()
            .is_ok_and(|status| status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_a_distribution() {
        let read = |line: &str| Version::parse(line).map(|v| (v.major(), v.to_string()));
        assert_eq!(
            read("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"),
            Some((15, "15.20".into()))
        );
        assert_eq!(
            read("postgres (PostgreSQL) 19devel"),
            Some((19, "19devel".into()))
        );
        assert_eq!(read("no such thing"), None);
    }

    #[test]
    fn only_the_wanted_system_user_is_taken() {
        let line = "postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash";
        let user = SystemUser::parse(line, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(SystemUser::parse(line, "nobody").is_none());
    }
}
