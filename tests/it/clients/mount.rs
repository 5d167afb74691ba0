//! A Secret as files, written the way kubelet writes a volume: `..data` is a link to a folder with all
//! keys, and is put on the next one in a single step. Must not know what is in the Secret.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The keys of a Secret and their values.
pub type Data = BTreeMap<String, Vec<u8>>;

/// A mounted Secret. Dropping it removes the files.
pub struct Mount {
    dir: TempDir,
    following: Option<JoinHandle<Result<()>>>,
}

impl Mount {
    /// Mounts what is given, and never changes it.
    pub fn fixed(data: &Data) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        project(dir.path(), data, 0)?;
        Ok(Self {
            dir,
            following: None,
        })
    }

    /// Mounts a Secret and follows its changes.
    pub async fn follow(client: Client, namespace: &str, name: &str) -> Result<Self> {
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let dir = tempfile::tempdir()?;
        let root = dir.path().to_owned();
        project(&root, &data(api.get(name).await?), 0)?;
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let following = tokio::spawn(async move {
            let changes = watcher(api, only).applied_objects();
            let mut changes = std::pin::pin!(changes.enumerate().map(|(n, secret)| {
                let secret = secret?;
                anyhow::Ok((n + 1, secret))
            }));
            while let Some((n, secret)) = changes.try_next().await? {
                project(&root, &data(secret), n)?;
            }
            Ok(())
        });
        Ok(Self {
            dir,
            following: Some(following),
        })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What a program reads from a file of the mount.
    pub fn read(&self, key: &str) -> Result<String> {
        let path = self.path().join(key);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(following) = self.following.take() {
            following.abort();
        }
    }
}

fn data(secret: Secret) -> Data {
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(key, value)| (key, value.0)).collect()
}

/// As with `defaultMode: 0400`.
fn project(root: &Path, data: &Data, n: usize) -> Result<()> {
    let generation = PathBuf::from(format!("..generation_{n}"));
    fs::create_dir(root.join(&generation))?;
    for (key, value) in data {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(root.join(&generation).join(key))?;
        file.write_all(value)?;
    }
    let current = root.join("..data");
    let old = fs::read_link(&current).ok();
    symlink(&generation, root.join("..data_tmp"))?;
    fs::rename(root.join("..data_tmp"), &current)?;
    for key in data.keys() {
        let link = root.join(key);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(key), link)?;
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(root.join(old))?;
    }
    Ok(())
}
