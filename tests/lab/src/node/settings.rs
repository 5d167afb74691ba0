//! What kubelet and containerd are told. What they keep is on the node's own `/run`, and goes with it.
//! Must not start anything.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{IMAGE, NODE};

pub(super) struct Settings {
    pub(super) dir: PathBuf,
    /// The machine's, not loopback: kubelet refuses that.
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) sync: Duration,
    /// Who signs the API server's own certificate as a client of kubelet.
    pub(super) authority: PathBuf,
}

impl Settings {
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubelet.kubeconfig")
    }

    /// The group of all pods. Begins with our process id: the next start knows whether we live.
    pub(super) fn cgroup(&self) -> String {
        format!("lab-node-{}-{}", std::process::id(), self.port)
    }

    pub(super) fn write(&self) -> Result<()> {
        fs::create_dir_all(self.dir.join("cni"))?;
        // Only makes kubelet call the node ready: pods here use the machine's network.
        let network = json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "none"}]});
        fs::write(self.dir.join("cni/lab.conflist"), network.to_string())?;
        fs::write(self.dir.join("containerd.toml"), self.containerd())?;
        fs::write(self.dir.join("kubelet.yaml"), self.kubelet())?;
        fs::write(self.dir.join("flags"), self.flags().join("\n"))?;
        Ok(())
    }

    fn flags(&self) -> [String; 4] {
        [
            format!("--kubeconfig={}", self.kubeconfig().display()),
            "--root-dir=/run/kubelet".to_owned(),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", self.address),
        ]
    }

    fn containerd(&self) -> String {
        let cni = self.dir.join("cni");
        format!(
            "\
version = 3
root = '/run/containerd/root'
state = '/run/containerd/state'

[grpc]
address = '/run/containerd.sock'

[plugins.'io.containerd.internal.v1.opt']
path = '/run/containerd/opt'

[plugins.'io.containerd.nri.v1.nri']
disable = true

# Copies files instead of overlaying them: slower, and possible everywhere.
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'native'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{IMAGE}'

# Some machines forbid negative scores, and runc then dies.
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{cni}']
conf_dir = '{cni}'
",
            cni = cni.display()
        )
    }

    fn kubelet(&self) -> String {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address, "port": self.port, "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.authority},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": "unix:///run/containerd.sock",
            "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", self.cgroup()),
            "failCgroupV1": false, "enforceNodeAllocatable": [],
            "failSwapOn": false, "oomScoreAdj": 0, "localStorageCapacityIsolation": false,
            "makeIPTablesUtilChains": false,
            "podLogsDir": self.dir.join("pods"),
            "volumePluginDir": "/run/kubelet-plugins",
            // The default, said because a Secret's way into a pod hangs on it: the watch tells
            // kubelet of a change, the next look at the pod mounts it.
            "configMapAndSecretChangeDetectionStrategy": "Watch",
            "syncFrequency": format!("{}ms", self.sync.as_millis()),
            // The machine's disk may be as full as it likes, and the image stays.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                "imagefs.available": "0%", "imagefs.inodesFree": "0%",
            },
        })
        .to_string()
    }
}
