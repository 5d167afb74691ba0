//! Where the control plane's programs are: built from their Go modules on first use.
//! Must not start any of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// What is wanted from the Go modules.
#[derive(Clone, Copy)]
pub enum Set {
    /// etcd, kube-apiserver and kube-controller-manager.
    ControlPlane,
    Helm,
    /// kubectl from PATH, built only where there is none.
    Kubectl,
    All,
    /// kubelet, containerd, its shim and ctr, and runc. Not part of all.
    Node,
    /// The program of tests/flux: Flux's engine and kustomize. Not part of all.
    Flux,
}

impl Set {
    fn argument(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Helm => "helm",
            Self::Kubectl => "kubectl",
            Self::All => "all",
            Self::Node => "node",
            Self::Flux => "flux",
        }
    }
}

/// The folder of this repository.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The folder that holds the programs of `set`; builds what is missing and tells on stderr.
pub fn find(set: Set) -> Result<PathBuf> {
    let script = workspace().join("tests/control-plane/build.sh");
    let output = Command::new(&script)
        .arg(set.argument())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    if !output.status.success() {
        bail!("building the control plane's programs failed: see the messages of build.sh above");
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}
