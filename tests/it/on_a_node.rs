//! The way of a token into a program: the operator's Secret, a real kubelet, a mounted file, psql.
//! Its own stage (`make test-node`), since not every machine can run a node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};
use lab::node::{IMAGE, NODE, Node};
use serde_json::{Value, json};

use crate::fixture::{API_CLIENT, Setup, World, plane};

/// How long a token lives, and how long before its end another one is fetched.
const LIFE: u64 = 75;
const RENEW_BEFORE: &str = "60s";
/// How often kubelet looks at the pod; a minute unless it is told otherwise.
const SYNC: Duration = Duration::from_secs(2);
/// Some lives of a token on a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);

/// Each container is a client that signs in again and again, and says with which token it did.
const CLIENTS: [(&str, &str); 5] = [
    // As most programs can be taught to: the file is read for each connection.
    ("file", "export PGPASSWORD=$(cat /bindings/db/password)"),
    // As programs that only know a password file: libpq refuses one that a group can read.
    (
        "copy",
        "given=$(cat /bindings/db/password); export PGPASSFILE=/tmp/pgpass
         (umask 077; cat /bindings/db/pgpass >$PGPASSFILE)",
    ),
    // The same without a copy: root's own files, in a pod of its own.
    (
        ROOT,
        "given=$(cat /bindings/db/password); export PGPASSFILE=/bindings/db/pgpass",
    ),
    // The two that stay as they were when the container started.
    ("subpath", "export PGPASSWORD=$(cat /password)"),
    ("env", "export PGPASSWORD=$AT_START"),
];

const ROOT: &str = "root";

const LOOP: &str = r#"
export PGHOST=$(cat /bindings/db/host) PGPORT=$(cat /bindings/db/port) PGUSER=$(cat /bindings/db/username)
export PGDATABASE=$(cat /bindings/db/database) PGSSLMODE=verify-full PGSSLROOTCERT=/ca/ca.crt PGCONNECT_TIMEOUT=10
while :; do
    given=
    TAKE
    token=$(printf %s "${given:-$PGPASSWORD}" | sha256sum)
    if said=$(psql -XAtqw -F ' ' -c 'SELECT floor(extract(epoch FROM now())), current_user' 2>&1); then
        echo "in $(printf %.12s "$token") $said"
    else
        echo "out $(printf %.12s "$token") $said"
    fi
    sleep 1
done"#;

/// What a client said.
struct Attempt {
    /// The beginning of the token's SHA-256.
    token: String,
    /// Seconds since 1970 on the server; `None`: refused.
    at: Option<i64>,
    /// Who one is there, or why not.
    said: String,
}

impl Attempt {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let (how, token, said) = (words.next()?, words.next()?, words.next()?);
        let (at, said) = match how {
            "in" => {
                let (at, user) = said.split_once(' ')?;
                (Some(at.parse().ok()?), user)
            }
            "out" => (None, said),
            // More lines of an error.
            _ => return None,
        };
        Some(Self {
            token: token.to_owned(),
            at,
            said: said.to_owned(),
        })
    }
}

fn pod_of(client: &str) -> &str {
    if client == ROOT { ROOT } else { "others" }
}

/// All that a client has said so far.
async fn attempts(pods: &Api<Pod>, client: &str) -> Result<Vec<Attempt>> {
    let params = LogParams {
        container: Some(client.to_owned()),
        ..LogParams::default()
    };
    // Before the container runs there is no log.
    let text = pods.logs(pod_of(client), &params).await.unwrap_or_default();
    Ok(text.lines().filter_map(Attempt::parse).collect())
}

/// Waits until a client has said what is wanted, and returns it.
async fn said(
    node: &mut Node,
    pods: &Api<Pod>,
    client: &str,
    what: &str,
    is_so: impl Fn(&[Attempt]) -> bool,
) -> Result<Vec<Attempt>> {
    let start = Instant::now();
    loop {
        node.check()?;
        let attempts = attempts(pods, client).await?;
        if is_so(&attempts) {
            return Ok(attempts);
        }
        if start.elapsed() > DEADLINE {
            let last = attempts.last().map(|last| (&last.token, &last.said));
            let pod = pods.get_status(pod_of(client)).await?.status;
            bail!(
                "{client}: {what}: not so after {DEADLINE:?}. Last: {last:?}\n{pod:#?}\n{}",
                node.logs()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn container(name: &str, take: &str) -> Value {
    let mut mounts = vec![
        json!({"name": "db", "mountPath": "/bindings/db", "readOnly": true}),
        json!({"name": "ca", "mountPath": "/ca", "readOnly": true}),
    ];
    if name == "subpath" {
        mounts.push(json!({"name": "db", "mountPath": "/password", "subPath": "password"}));
    }
    let at_start = json!({"name": "AT_START",
        "valueFrom": {"secretKeyRef": {"name": "api", "key": "password"}}});
    json!({
        "name": name, "image": IMAGE, "imagePullPolicy": "Never",
        "command": ["sh", "-c", LOOP.replace("TAKE", take)],
        "env": if name == "env" { vec![at_start] } else { Vec::new() },
        "volumeMounts": mounts,
        "securityContext": {"runAsNonRoot": name != ROOT, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]}},
    })
}

/// Not root, as clusters demand: kubelet gives the files to the group.
fn pod(world: &World, name: &str) -> Value {
    let clients = CLIENTS.iter().filter(|(client, _)| pod_of(client) == name);
    let user = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": world.names.team},
        "spec": {
            "nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "securityContext": if name == ROOT { json!({}) } else { user },
            "tolerations": [{"operator": "Exists"}],
            "containers": clients.map(|(name, take)| container(name, take)).collect::<Vec<_>>(),
            "volumes": [
                {"name": "db", "secret": {"secretName": "api", "defaultMode": 0o400}},
                {"name": "ca", "configMap": {"name": "ca"}},
            ],
        },
    })
}

async fn world() -> Result<World> {
    let setup = Setup {
        directory: Box::new(|directory, _| {
            let services = directory.service_principals.iter_mut();
            let mut api = services.filter(|s| s.client_id.to_string() == API_CLIENT);
            let api = api.next().expect("in the lab's directory");
            api.token_lifetime_seconds = Some(LIFE);
        }),
        ..Setup::default()
    };
    let world = World::with("node", setup).await?;
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": world.names.team},
            "data": {"ca.crt": world.azure.ca_pem()},
        }))
        .await?;
    let mut object = world.api();
    object["spec"]["token"]["renewBefore"] = json!(RENEW_BEFORE);
    object["spec"]["token"]["secret"] = json!({"formats": ["ServiceBinding", "PgPass"]});
    world.apply(&object).await?;
    Ok(world)
}

// Red when: the operator stops renewing (kill it once the pod runs), or a client takes the token once
// (`subpath` and `env` are the proof: they are refused here).
#[tokio::test(flavor = "multi_thread")]
async fn clients_in_a_pod_log_in_across_renewals_without_a_restart() -> Result<()> {
    let world = world().await?;
    let mut node = Node::start(plane(), world.dir.path().join("node"), SYNC).await?;
    let principal = world.ready("principal", "api").await?;
    for name in ["others", ROOT] {
        world.apply(&pod(&world, name)).await?;
    }
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &world.names.team);

    // What one never takes up again ends with the token that the container started with.
    for client in ["subpath", "env"] {
        let refused = |attempts: &[Attempt]| attempts.iter().any(|attempt| attempt.at.is_none());
        let attempts = said(&mut node, &pods, client, "refused", refused).await?;
        let tokens: BTreeSet<&str> = attempts.iter().map(|a| a.token.as_str()).collect();
        assert_eq!(tokens.len(), 1, "{client} saw another token");
        assert_eq!(attempts[0].said, "orders-api", "{client} was in at first");
        let refusal = attempts.iter().find(|attempt| attempt.at.is_none());
        let refusal = &refusal.expect("just seen").said;
        assert!(refusal.contains("token has expired"), "{client}: {refusal}");
    }

    // The others are in, beyond the end of the token they began with, and were never refused.
    let end: Timestamp = principal["status"]["token"]["expiresAt"]
        .as_str()
        .unwrap_or_default()
        .parse()?;
    for client in ["file", "copy", ROOT] {
        let renewed = |attempts: &[Attempt]| {
            let tokens: BTreeSet<&str> = attempts.iter().map(|a| a.token.as_str()).collect();
            let last = attempts.last().and_then(|attempt| attempt.at);
            let renewed = tokens.len() >= 4 && last > Some(end.as_second());
            renewed || attempts.iter().any(|attempt| attempt.at.is_none())
        };
        let attempts = said(&mut node, &pods, client, "in with four tokens", renewed).await?;
        for attempt in attempts {
            assert_eq!(attempt.said, "orders-api", "{client} at {:?}", attempt.at);
        }
    }
    for pod in pods.list(&ListParams::default()).await? {
        let status = pod.status.unwrap_or_default();
        for container in status.container_statuses.unwrap_or_default() {
            assert_eq!(container.restart_count, 0, "{}", container.name);
        }
    }
    node.stop().await
}
