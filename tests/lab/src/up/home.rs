//! The folder of the running lab, the lock that says whether it runs, and its control socket.
//! Must not start or stop anything.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fs2::FileExt as _;

use super::facts::Facts;

/// `target/lab` of this repository.
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

    pub fn of_workspace() -> Self {
        Self::new(crate::control_plane::assets::workspace().join("target/lab"))
    }

    /// Beside it, so that a demo leaves a running lab alone.
    pub fn of_demo() -> Self {
        Self::new(crate::control_plane::assets::workspace().join("target/demo"))
    }

    /// Beside it, too.
    pub fn of_soak() -> Self {
        Self::new(crate::control_plane::assets::workspace().join("target/soak"))
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
