//! A real Kubernetes node: kubelet, containerd and runc of this machine, in namespaces that take
//! everything with them when they end (tests/node/run.sh). For pods with `hostNetwork: true` and
//! the image `IMAGE`: there is no pod network and no registry.
//! Must not know about Azure, `PostgreSQL` servers or the operator.

mod image;
mod settings;

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Client;
use kube::api::{Api, DeleteParams};

use crate::control_plane::{ControlPlane, assets};
use crate::process::{free_port, tail, until};
use settings::Settings;

pub use image::NAME as IMAGE;

/// What the node is called: one control plane has one at most.
pub const NODE: &str = "lab-node";
/// How long it may take to be ready: 5 s on a quiet machine.
const READY: Duration = Duration::from_secs(120);
const PROGRAMS: [&str; 5] = ["sh", "cat", "sleep", "sha256sum", "psql"];

/// A running node. Dropping it ends it and everything on it; killing the lab does the same.
pub struct Node {
    dir: PathBuf,
    client: Client,
    child: Child,
    /// The node lives as long as this is open.
    pipe: Option<ChildStdin>,
}

impl Node {
    /// Starts in `dir` (made if missing, its old contents replaced), building the programs first if
    /// they are not there. kubelet looks at each pod again, and so at its Secrets, every `sync`.
    pub async fn start(
        plane: &ControlPlane,
        dir: impl Into<PathBuf>,
        sync: Duration,
    ) -> Result<Self> {
        let dir = dir.into();
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
        }
        fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let settings = Settings {
            dir: dir.clone(),
            address: check()?,
            port: free_port()?,
            sync,
            authority: plane.dir().join("ca.crt"),
        };
        let programs = tokio::task::spawn_blocking(|| assets::find(assets::Set::Node)).await??;
        settings.write()?;
        plane.node_kubeconfig(NODE, &settings.kubeconfig())?;
        image::write(&dir, &PROGRAMS)?;
        let mut child = launch(&settings, &programs)?;
        let pipe = child.stdin.take();
        let mut started = Self {
            dir,
            client: plane.kube_client().await?,
            child,
            pipe,
        };
        started.wait_ready().await?;
        Ok(started)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let ready = until("the node is Ready", READY, async || {
            self.check()?;
            Ok(nodes.get_opt(NODE).await?.is_some_and(|n| is_ready(&n)))
        });
        ready.await.with_context(|| self.logs())
    }

    /// An error with the ends of the logs, if the node has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the node ended ({status})\n{}", self.logs()),
        }
    }

    /// The ends of its logs, for errors.
    pub fn logs(&self) -> String {
        let logs = ["node.log", "containerd.log", "kubelet.log"];
        logs.map(|name| tail(&self.dir.join(name))).join("\n")
    }

    /// Ends the node with everything on it, and takes it out of the cluster.
    pub async fn stop(mut self) -> Result<()> {
        self.pipe = None;
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        until("the node has ended", READY, async || {
            Ok(self.child.try_wait()?.is_some())
        })
        .await
        .with_context(|| self.logs())?;
        nodes.delete(NODE, &DeleteParams::default()).await?;
        Ok(())
    }

    /// The process that holds the node.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.child.wait();
    }
}

/// This machine's address if it can run a node; otherwise what it lacks.
pub fn check() -> Result<IpAddr> {
    let output = Command::new(script())
        .arg("check")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", script().display()))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let address = String::from_utf8(output.stdout)?;
    Ok(address.trim().parse()?)
}

fn script() -> PathBuf {
    assets::workspace().join("tests/node/run.sh")
}

/// No death signal: it outlives a killed lab for as long as it takes to clear up.
fn launch(settings: &Settings, programs: &Path) -> Result<Child> {
    let log = File::create(settings.dir.join("node.log"))?;
    Command::new(script())
        .arg("run")
        .arg(&settings.dir)
        .arg(programs)
        .arg(settings.cgroup())
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", script().display()))
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
