//! The same programs on a real node: kubelet mounts the Secret, and they run in containers.
//! With `make test-node`, since not every machine can run a node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use lab::node::{IMAGE, NODE, Node};
use serde_json::{Value, json};

use super::install::{Clients, PROGRAMS};
use super::program::SignIn;
use super::{ROLES, STARTED, close_connections, expired, short_lived};
use crate::fixture::{World, plane};

/// How often kubelet looks at a pod.
const SYNC: Duration = Duration::from_secs(2);

// Red when: a program reads the password once; or the volume is mounted with `subPath`.
#[tokio::test(flavor = "multi_thread")]
async fn every_client_in_a_pod_takes_up_the_token_that_kubelet_mounts() -> Result<()> {
    let clients = tokio::task::spawn_blocking(Clients::install).await??;
    let world = short_lived("client-pods").await?;
    let node = Node::start(plane(), world.dir.path().join("node"), SYNC).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.names.team);
    let mut tokens = Vec::new();
    for (name, role) in ROLES {
        world.ready("principal", name).await?;
        tokens.push((role, world.secret(name).await?["password"].clone()));
        world.apply(&pod(&world, name, &clients)?).await?;
    }
    let mut programs = Vec::new();
    for (pod, role) in ROLES {
        for program in PROGRAMS {
            let container = Container {
                pods: &pods,
                pod,
                role,
                program,
            };
            container.signs_in(0, &BTreeSet::new()).await?;
            programs.push(container);
        }
    }
    for (role, token) in &tokens {
        expired(&world, role, token).await?;
    }
    let mut seen = Vec::new();
    for container in &programs {
        seen.push(container.sign_ins().await.len());
    }
    let closed = close_connections(&world).await?;
    for (container, seen) in programs.iter().zip(seen) {
        container.signs_in(seen, &closed).await?;
    }
    for (name, _) in ROLES {
        let status = pods.get_status(name).await?.status.unwrap_or_default();
        for container in status.container_statuses.unwrap_or_default() {
            assert_eq!(container.restart_count, 0, "{name} {}", container.name);
        }
    }
    node.stop().await
}

/// One program in a pod.
struct Container<'a> {
    pods: &'a Api<Pod>,
    pod: &'a str,
    role: &'a str,
    program: &'a str,
}

impl Container<'_> {
    async fn log(&self) -> String {
        let params = LogParams {
            container: Some(container_name(self.program)),
            ..LogParams::default()
        };
        // Before the container runs there is none.
        self.pods.logs(self.pod, &params).await.unwrap_or_default()
    }

    async fn sign_ins(&self) -> Vec<SignIn> {
        let log = self.log().await;
        log.lines().filter_map(SignIn::parse).collect()
    }

    /// Waits until it signs in after so many sign-ins, over a connection that is none of these.
    async fn signs_in(&self, seen: usize, closed: &BTreeSet<i32>) -> Result<()> {
        let start = Instant::now();
        loop {
            let sign_ins = self.sign_ins().await.into_iter().skip(seen);
            let mut new = sign_ins.filter(|found| !closed.contains(&found.connection));
            if let Some(found) = new.next() {
                assert_eq!(found.user, self.role, "{}", self.program);
                return Ok(());
            }
            if start.elapsed() > STARTED {
                let log = self.log().await;
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                let pod = self.pods.get_status(self.pod).await?.status;
                bail!(
                    "{} in pod {}: no sign-in. It said {end:#?}\n{pod:#?}",
                    self.program,
                    self.pod
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn container_name(program: &str) -> String {
    program.replace('/', "-")
}

/// A container for each program. The image has no Python or Java: they are this machine's, whose files
/// the containers see as `/host` and take as their root. The Secret lies in a folder of that root.
fn pod(world: &World, name: &str, clients: &Clients) -> Result<Value> {
    let binding = world.dir.path().join(format!("binding-{name}"));
    std::fs::create_dir(&binding)?;
    let binding = binding.display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let container = |program: &&str| {
        let mut command = ["/host/usr/sbin/chroot", "/host", "/usr/bin/env"]
            .map(str::to_owned)
            .to_vec();
        command.extend([
            format!("PATH={path}"),
            format!("DB_BINDING={binding}"),
            "LC_ALL=C.UTF-8".to_owned(),
        ]);
        command.extend_from_slice(clients.command(program));
        json!({
            "name": container_name(program), "image": IMAGE, "imagePullPolicy": "Never",
            "command": command,
            "volumeMounts": [
                {"name": "host", "mountPath": "/host"},
                {"name": "db", "mountPath": format!("/host{binding}"), "readOnly": true},
            ],
        })
    };
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": world.names.team},
        "spec": {
            "nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": PROGRAMS.iter().map(container).collect::<Vec<_>>(),
            "volumes": [
                {"name": "host", "hostPath": {"path": "/", "type": "Directory"}},
                {"name": "db", "secret": {"secretName": name, "defaultMode": 0o400}},
            ],
        },
    }))
}
