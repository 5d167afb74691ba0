//! What a node leaves behind when its lab is killed: nothing. `make test-node` runs this.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use lab::control_plane::client_of;
use lab::node::{IMAGE, NODE};
use lab::process::{signal, until};
use lab::up::Home;
use rustix::process::Signal;
use serde_json::json;

use crate::up::{processes, succeed};

/// Pods are killed, and then their groups are removed.
const SOON: Duration = Duration::from_secs(30);

/// The groups of the node of that lab, in all trees.
fn groups(daemon: u32) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let trees = fs::read_dir(&root).unwrap().flatten();
    let trees = trees.map(|entry| entry.path()).chain([root.clone()]);
    let ours = format!("lab-node-{daemon}-");
    trees
        .filter_map(|tree| fs::read_dir(tree).ok())
        .flat_map(Iterator::flatten)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours))
        .map(|entry| entry.path())
        .collect()
}

/// Ended by nothing but a kill.
fn pod() -> serde_json::Value {
    json!({"metadata": {"name": "sleeper"}, "spec": {
        "nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false,
        "containers": [{"name": "sleeper", "image": IMAGE, "imagePullPolicy": "Never"}],
    }})
}

fn mounts() -> String {
    fs::read_to_string("/proc/mounts").unwrap()
}

// Red when: run.sh starts the holder without `--kill-child`, or ends without cgroup_remove.
#[tokio::test]
async fn killed_lab_leaves_no_process_mount_or_group_of_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap();
    let before = mounts();
    succeed(&home, &["up", "--node"]);
    let facts = Home::new(home.clone()).facts().unwrap();
    let daemon = Home::new(home.clone()).daemon().unwrap().unwrap();
    let client = client_of(&home.join("kubeconfig")).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod = serde_json::from_value(pod()).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let runs = async || {
        let status = pods.get_status("sleeper").await?.status;
        Ok(status.and_then(|status| status.phase).as_deref() == Some("Running"))
    };
    until("the pod runs", SOON, runs).await.unwrap();
    let running = processes(&home, &facts);
    assert!(running.iter().any(|command| command.starts_with("kubelet")));
    assert!(!groups(daemon).is_empty());

    assert!(signal(daemon, Signal::KILL));
    let gone = async || Ok(processes(&home, &facts).is_empty() && groups(daemon).is_empty());
    until("processes and groups are gone", SOON, gone)
        .await
        .unwrap();
    assert_eq!(mounts(), before);
}
