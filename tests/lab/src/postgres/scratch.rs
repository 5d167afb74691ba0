//! Folders of a running server. They go with it; those of a lab that was killed go with the next.
//! Must not touch a folder that is in use, nor one that is not the lab's.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use anyhow::Context as _;
use fs2::FileExt as _;
use tempfile::TempDir;

use super::binaries::SystemUser;

/// Locked as long as the folder's lab lives: the kernel lets go when the process ends, however.
const IN_USE: &str = "in-use";

#[derive(Debug)]
pub(super) struct Scratch {
    dir: TempDir,
    _in_use: File,
}

impl Scratch {
    /// A folder that only the server's system user and root can enter.
    pub(super) fn new(
        parent: &Path,
        prefix: &str,
        user: Option<&SystemUser>,
    ) -> anyhow::Result<Self> {
        sweep(parent, prefix);
        let dir = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700))?;
        if let Some(user) = user {
            chown(dir.path(), Some(user.uid), Some(user.gid))?;
        }
        // Locked before it has its name, so that no sweep finds it free.
        let unnamed = dir.path().join("in-use-soon");
        let in_use = File::create(&unnamed)?;
        in_use.lock_exclusive()?;
        std::fs::rename(unnamed, dir.path().join(IN_USE))?;
        Ok(Self {
            dir,
            _in_use: in_use,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn close(self) -> anyhow::Result<()> {
        let path = self.path().to_owned();
        self.dir
            .close()
            .with_context(|| format!("cannot remove {}", path.display()))
    }
}

fn sweep(parent: &Path, prefix: &str) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)) {
        let dir = entry.path();
        let Ok(in_use) = File::open(dir.join(IN_USE)) else {
            continue;
        };
        if in_use.try_lock_exclusive().is_ok() {
            // Another lab may sweep too, and somebody else's folder is not ours to remove.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_labs_go_and_others_stay() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Scratch::new(parent.path(), "pg-", None).unwrap();
        let [dead, strange] = ["pg-dead", "pg-strange"].map(|name| parent.path().join(name));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(IN_USE), "").unwrap();
        std::fs::create_dir(&strange).unwrap();
        let next = Scratch::new(parent.path(), "pg-", None).unwrap();
        assert!(!dead.exists() && strange.exists());
        assert!(alive.path().exists() && next.path().exists());
    }
}
