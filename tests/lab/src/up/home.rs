//! The folder of the running lab, the lock that says whether it runs, and its control socket.
//! Must not start or stop anything.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use fs2::FileExt as _;

use super::facts::Facts;
use crate::control_plane::assets::workspace;

/// The folder that a lab works in.
#[derive(Clone)]
pub struct Home {
    dir: PathBuf,
}

/// Held by the daemon as long as it lives.
pub struct Lock {
    _file: File,
}

impl Home {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// `target/NAME` of this repository, for a person who works in it. From any other folder it
    /// is an error: where this program was built, something else may run.
    pub fn of_workspace(name: &str) -> Result<Self> {
        let here = std::env::current_dir().context("this folder is gone")?;
        Self::of(&workspace(), &here, name)
    }

    fn of(built: &Path, here: &Path, name: &str) -> Result<Self> {
        let inside = built.canonicalize().is_ok_and(|built| {
            here.canonicalize()
                .is_ok_and(|here| here.starts_with(built))
        });
        ensure!(
            inside,
            "this program was built in {}, and {} is not in it: set LAB_HOME (or --home) to a folder \
             for the lab's files, or run it in its repository",
            built.display(),
            here.display()
        );
        Ok(Self::new(built.join("target").join(name)))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn facts_file(&self) -> PathBuf {
        self.file("lab.json")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    pub fn log(&self) -> PathBuf {
        self.file("lab.log")
    }

    /// What the running lab says of itself.
    pub fn facts(&self) -> Result<Facts> {
        let file = self.facts_file();
        let text = fs::read(&file)
            .with_context(|| format!("no lab runs here ({} is missing)", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Takes the lock, or says `None` if a daemon has it.
    pub fn lock(&self) -> Result<Option<Lock>> {
        fs::create_dir_all(&self.dir)?;
        let path = self.file("lock");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        if file.try_lock_exclusive().is_err() {
            return Ok(None);
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Some(Lock { _file: file }))
    }

    /// The process id of the daemon, if one runs.
    pub fn daemon(&self) -> Result<Option<u32>> {
        let Ok(mut file) = File::options()
            .read(true)
            .write(true)
            .open(self.file("lock"))
        else {
            return Ok(None);
        };
        // Ours for a moment, if nobody has it; a starting daemon tries more than once.
        if file.try_lock_exclusive().is_ok() {
            return Ok(None);
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text.trim().parse().ok())
    }

    /// A path of the control socket that is short however deep the folder is: valid as long as the
    /// returned file is open.
    pub fn socket(&self) -> Result<(File, PathBuf)> {
        let dir = File::open(&self.dir)
            .with_context(|| format!("no lab runs here ({} is missing)", self.dir.display()))?;
        let path = format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd());
        Ok((dir, PathBuf::from(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_who_works_in_the_repository_gets_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("built");
        let beside = dir.path().join("built-too");
        fs::create_dir_all(built.join("tests/it")).unwrap();
        fs::create_dir_all(&beside).unwrap();
        for inside in [
            built.clone(),
            built.join("tests/it"),
            beside.join("../built"),
        ] {
            let home = Home::of(&built, &inside, "soak").unwrap();
            assert_eq!(home.dir(), built.join("target/soak"));
        }
        let gone = dir.path().join("moved");
        for (built, here) in [
            (&built, dir.path()),
            (&built, beside.as_path()),
            (&gone, gone.as_path()),
        ] {
            let refused = Home::of(built, here, "lab").err().unwrap().to_string();
            assert!(refused.contains("set LAB_HOME"), "{refused}");
        }
    }
}
