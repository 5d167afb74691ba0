//! The operator as a process: its election, its end, its probes and metrics, and what it does
//! without its API server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use lab::control_plane::service_account_user;
use lab::operator::{OperatorOptions, OperatorProcess};
use lab::process::{free_port, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::fixture::{ALICE, API_CLIENT, OPERATOR, SOON, Setup, World, condition, plane};

/// Replicas of one operator: service accounts of their own, so that the audit log tells them apart.
struct Replicas {
    world: World,
}

impl Replicas {
    async fn start(test: &str) -> Result<Self> {
        let setup = Setup {
            operator: false,
            ..Setup::default()
        };
        let world = World::with(test, setup).await?;
        let namespace = &world.names.platform;
        let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "verbs": ["create", "get", "update"]}]);
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "leases", "namespace": namespace}, "rules": rules});
        world.apply(&role).await?;
        for name in ["one", "two"] {
            let subjects =
                json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]);
            let binding = |kind: &str, name: &str, role: &str, of: &str| {
                let mut binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
                    "metadata": {"name": name, "namespace": namespace}, "subjects": subjects,
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": of}});
                if kind == "ClusterRoleBinding" {
                    binding["metadata"] = json!({"name": format!("{namespace}-{name}")});
                }
                binding
            };
            for object in [
                json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": name, "namespace": namespace}}),
                binding("RoleBinding", name, "Role", "leases"),
                binding("ClusterRoleBinding", name, "ClusterRole", OPERATOR),
            ] {
                world.apply(&object).await?;
            }
        }
        Ok(Self { world })
    }

    async fn options(&self, name: &str) -> Result<OperatorOptions> {
        let namespace = &self.world.names.platform;
        let mut options = self.world.options.clone();
        options.kubeconfig = plane().service_account_kubeconfig(namespace, name).await?;
        options.lease_namespace = Some(namespace.clone());
        options.envs.push(("POD_NAME".to_owned(), name.to_owned()));
        options.name = name.to_owned();
        Ok(options)
    }

    /// Starts a replica and waits until it is ready, leading or not.
    async fn replica(&self, name: &str) -> Result<OperatorProcess> {
        OperatorProcess::start_ready(&self.options(name).await?, SOON).await
    }

    /// What a replica wrote since the mark, without Leases and `TokenRequests`.
    fn writes(&self, name: &str, mark: lab::control_plane::Mark) -> Result<Vec<String>> {
        let user = service_account_user(&self.world.names.platform, name);
        let entries = plane().audit().since(mark)?.into_iter();
        let writes = entries.filter(|entry| {
            entry.user == user
                && entry.is_write()
                && !["leases", "serviceaccounts/token"].contains(&entry.target().as_str())
        });
        Ok(writes
            .map(|e| format!("{} {} {}", e.verb, e.target(), e.name))
            .collect())
    }

    async fn holder(&self) -> Result<String> {
        let lease = self.leases().get(OPERATOR).await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        Ok(holder.unwrap_or_default())
    }

    fn leases(&self) -> Api<k8s_openapi::api::coordination::v1::Lease> {
        Api::namespaced(self.world.client.clone(), &self.world.names.platform)
    }

    async fn user(&self, name: &str) -> Result<()> {
        let user = self.world.principal(name, ALICE, json!({"type": "User"}));
        self.world.apply(&user).await
    }
}

async fn leads(replica: &OperatorProcess) -> Result<bool> {
    let metrics = replica.metrics().await?;
    Ok(metrics
        .lines()
        .any(|line| line == "entra_postgres_leader 1"))
}

// Red when: `release.cancel()` is left out of src/run.rs (the lease is not handed back), or
// `leadership.leading()` is not waited for (the standby writes).
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_hands_over_at_once_and_one_that_loses_its_lease_stops() -> Result<()> {
    let replicas = Replicas::start("handover").await?;
    let world = &replicas.world;
    let mark = plane().audit().mark()?;
    let one = replicas.replica("one").await?;
    until("one leads", SOON, async || leads(&one).await).await?;
    let mut two = replicas.replica("two").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    ensure!(!leads(&two).await?, "both lead");
    assert_eq!(replicas.holder().await?, "one");
    let seen = two.metrics().await?;
    ensure!(
        !seen.contains("entra_postgres_reconcile_total"),
        "the standby reconciles: {seen}"
    );

    let handing = Instant::now();
    one.stop().await?;
    // Long before the lease would end.
    until("two leads", Duration::from_secs(9), async || {
        leads(&two).await
    })
    .await?;
    assert_eq!(
        replicas.writes("two", mark)?,
        Vec::<String>::new(),
        "a standby writes nothing"
    );
    replicas.user("alice").await?;
    world.ready("principal", "alice").await?;
    println!("handed over and at work after {:?}", handing.elapsed());
    assert_eq!(
        world.token_requests(Some(API_CLIENT)),
        1,
        "the token was good"
    );

    // Somebody takes the lease away.
    let taken = json!({"spec": {"holderIdentity": "a stranger", "leaseDurationSeconds": 60}});
    replicas
        .leases()
        .patch(OPERATOR, &PatchParams::default(), &Patch::Merge(taken))
        .await?;
    let status = two.wait(Duration::from_secs(10)).await?;
    assert_eq!(
        status.code(),
        Some(1),
        "another one leads, and it starts anew"
    );
    let log = std::fs::read_to_string(two.log())?;
    ensure!(log.contains("this replica lost its lease"), "{log}");
    Ok(())
}

// Red when: src/run.rs looks at the lease only once the parts are ready: this replica would lead never
// again, live and silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_lost_before_the_first_lists_are_in_ends_the_process() -> Result<()> {
    let replicas = Replicas::start("early").await?;
    let namespace = &replicas.world.names.platform;
    let role = format!("{namespace}-two");
    let kind = "clusterrolebindings.rbac.authorization.k8s.io";
    // It may elect itself, and nothing else: its lists never come.
    let bindings: Api<k8s_openapi::api::rbac::v1::ClusterRoleBinding> =
        Api::all(replicas.world.client.clone());
    bindings
        .delete(&role, &DeleteParams::default())
        .await
        .context(kind)?;
    let mut options = replicas.options("two").await?;
    options.config.push_str("\nclusterId: early\n");
    let mut two = OperatorProcess::start(&options)?;
    until("two holds the lease", SOON, async || {
        Ok(replicas.holder().await.is_ok_and(|holder| holder == "two"))
    })
    .await?;
    let taken = json!({"spec": {"holderIdentity": "a stranger", "leaseDurationSeconds": 60}});
    replicas
        .leases()
        .patch(OPERATOR, &PatchParams::default(), &Patch::Merge(taken))
        .await?;
    let status = two.wait(Duration::from_secs(15)).await?;
    assert_eq!(status.code(), Some(1));
    Ok(())
}

// Red when: `Leadership::check` answers Ok after its deadline (src/leader.rs): the frozen leader
// writes once more when it thaws.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_or_frozen_leader_is_followed_when_its_lease_ends() -> Result<()> {
    let replicas = Replicas::start("dead").await?;
    let world = &replicas.world;
    let mut one = replicas.replica("one").await?;
    until("one leads", SOON, async || leads(&one).await).await?;
    world.ready("server", "server").await?;
    let two = replicas.replica("two").await?;

    one.signal(Signal::STOP);
    let frozen = Instant::now();
    world.apply(&world.api()).await?;
    let object = world.wait_for(
        "principal",
        "api",
        "Ready",
        Duration::from_secs(30),
        |object| condition(object, "Ready").is("True"),
    );
    object.await?;
    let after = frozen.elapsed();
    println!("a lease ended after {after:?}");
    ensure!(
        after > Duration::from_secs(9),
        "two did not wait for the lease: {after:?}"
    );
    let mark = plane().audit().mark()?;
    one.signal(Signal::CONT);
    let status = one.wait(Duration::from_secs(10)).await?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(
        replicas.writes("one", mark)?,
        Vec::<String>::new(),
        "it leads no more"
    );

    let one = replicas.replica("one").await?;
    ensure!(!leads(&one).await?, "two leads");
    let killed = Instant::now();
    two.kill();
    until("one leads", Duration::from_secs(25), async || {
        leads(&one).await
    })
    .await?;
    ensure!(
        killed.elapsed() > Duration::from_secs(9),
        "{:?}",
        killed.elapsed()
    );
    replicas.user("alice").await?;
    world.ready("principal", "alice").await?;
    assert_eq!(
        world.token_requests(Some(API_CLIENT)),
        1,
        "the token was good all the time"
    );
    Ok(())
}

// Red when: `Feed::scopes` in src/run.rs answers `Api::all` whatever is configured.
#[tokio::test(flavor = "multi_thread")]
async fn only_watched_namespaces_are_seen() -> Result<()> {
    let mut setup = Setup {
        operator: false,
        ..Setup::default()
    };
    setup.server = Some(Box::new(|server| {
        server["spec"]["tenants"][0]["namespaces"] = json!({"selector": {}});
    }));
    let mut world = World::with("watched", setup).await?;
    let other = world.names.other.clone();
    world.options.namespaces.retain(|name| *name != other);
    let mut unseen = world.principal("alice", ALICE, json!({"type": "User"}));
    unseen["metadata"]["namespace"] = json!(other);
    world.apply(&unseen).await?;
    let mark = plane().audit().mark()?;
    world.start_operator().await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    world.ready("server", "server").await?;
    let entries = plane().audit().since(mark)?.into_iter();
    let touched: Vec<_> = entries
        .filter(|entry| entry.user == World::operator_user() && entry.namespace == other)
        .collect();
    ensure!(touched.is_empty(), "{touched:?}");
    assert_eq!(world.bound_to(ALICE).await?, None);
    Ok(())
}

/// The value of one series of a text of metrics.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

// Red when: `metrics.forget` is not called for an object that is gone (src/run.rs), or
// `count_on_scrape` is left out.
#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_speak_of_each_principal_until_it_is_gone() -> Result<()> {
    let mut world = World::start("metrics").await?;
    world.apply(&world.api()).await?;
    let object = world.ready("principal", "api").await?;
    let operator = world.operator.as_ref().context("it runs")?;
    assert_eq!(operator.get("/livez").await?, "ok\n");
    assert_eq!(operator.get("/readyz").await?, "ok\n");

    let (team, platform) = (world.names.team.clone(), world.names.platform.clone());
    let of = |namespace: &str, name: &str| format!("namespace=\"{namespace}\",name=\"{name}\"");
    let (api, server) = (of(&team, "api"), of(&platform, "server"));
    let seconds = |field: &str| -> Result<f64> {
        let text = object["status"]["token"][field]
            .as_str()
            .context("a time")?;
        let time: jiff::Timestamp = text.parse()?;
        #[allow(clippy::cast_precision_loss, reason = "seconds of our time fit")]
        Ok(time.as_second() as f64)
    };
    let expected = [
        (
            format!("entra_postgres_token_expiration_timestamp_seconds{{{api}}}"),
            seconds("expiresAt")?,
        ),
        (
            format!("entra_postgres_token_renewal_timestamp_seconds{{{api}}}"),
            seconds("renewAt")?,
        ),
        ("entra_postgres_leader".to_owned(), 1.0),
        ("entra_postgres_events_failed_total".to_owned(), 0.0),
    ];
    let metrics = operator.metrics().await?;
    for (series, wanted) in expected {
        assert_eq!(
            value(&metrics, &series),
            Some(wanted),
            "{series} in\n{metrics}"
        );
    }
    for type_ in ["Ready", "RoleSynced", "TokenIssued"] {
        let series = |status: &str| {
            format!(
                "entra_postgres_condition{{kind=\"EntraPostgresPrincipal\",{api},condition=\"{type_}\",status=\"{status}\"}}"
            )
        };
        for (status, wanted) in [("True", 1.0), ("False", 0.0), ("Unknown", 0.0)] {
            assert_eq!(
                value(&metrics, &series(status)),
                Some(wanted),
                "{} in\n{metrics}",
                series(status)
            );
        }
    }
    for series in [
        format!("entra_postgres_server_snapshot_timestamp_seconds{{{server}}}"),
        format!("entra_postgres_server_connections_opened_total{{{server}}}"),
        format!("entra_postgres_server_messages_total{{{server}}}"),
        "entra_postgres_entra_requests_total{".to_owned(),
        "entra_postgres_reconcile_total{".to_owned(),
        "entra_postgres_reconcile_duration_seconds_bucket{".to_owned(),
    ] {
        ensure!(
            value(&metrics, &series).is_some_and(|v| v >= 0.0),
            "no {series} in\n{metrics}"
        );
    }

    world.delete("principal", "api").await?;
    let gone = async || Ok(!operator.metrics().await?.contains(&api));
    until("no series of a deleted principal", SOON, gone).await?;
    world.delete("server", "server").await?;
    let gone = async || Ok(!operator.metrics().await?.contains(&server));
    until("no series of a deleted server", SOON, gone).await?;
    world.operator.take().context("it runs")?.stop().await
}

// Red when: `DRAIN` in src/run.rs is zero: the role is made, but nobody is told.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_under_way_and_reports_it() -> Result<()> {
    let mut world = World::start("drain").await?;
    world.ready("server", "server").await?;
    world
        .faults(json!([{"on": "sql", "match": {"role": "orders-api"}, "do": {"delayMs": 2000}}]))
        .await?;
    world.apply(&world.api()).await?;
    let creating = "SELECT count(*) > 0 FROM pg_stat_activity \
        WHERE state = 'active' AND query LIKE '%pgaadauth_create%' AND pid <> pg_backend_pid()";
    world.wait_sql(creating, Some("t")).await?;
    let mut operator = world.operator.take().context("it runs")?;
    let start = Instant::now();
    operator.signal(Signal::TERM);
    let status = operator.wait(Duration::from_secs(20)).await?;
    println!("drained in {:?}", start.elapsed());
    assert_eq!(status.code(), Some(0), "{}", world.log_tail());
    // Nobody works any more: what there is was there at the end.
    let object = world
        .get("principal", "api")
        .await?
        .context("still there")?;
    ensure!(
        condition(&object, "Ready").is("True"),
        "{:#}\n{}",
        object["status"],
        world.log_tail()
    );
    let secret = world.secret("api").await?;
    let user = world
        .login(&secret["username"], &secret["password"], "postgres")
        .await?;
    assert_eq!(user, "orders-api");
    Ok(())
}

/// Carries TCP to the API server, and can be cut.
struct Wire {
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    async fn open(port: u16) -> Result<Self> {
        let target: String = plane().url().replace("https://", "");
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let target = target.clone();
                open.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Ok(Self { port, task })
    }

    /// Ends all connections and listens no more.
    async fn cut(self) -> u16 {
        self.task.abort();
        let _ = self.task.await;
        self.port
    }
}

// Red when: a watch that ends is not begun again (`follow` in src/controller/watches.rs returns at
// the first error).
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_goes_away_and_comes_back_is_survived() -> Result<()> {
    let setup = Setup {
        operator: false,
        ..Setup::default()
    };
    let mut world = World::with("away", setup).await?;
    let wire = Wire::open(free_port()?).await?;
    let text = std::fs::read_to_string(&world.options.kubeconfig)?;
    let through = format!("https://127.0.0.1:{}", wire.port);
    ensure!(text.contains(&plane().url()), "{text}");
    world.options.kubeconfig = world.dir.path().join("kubeconfig");
    std::fs::write(
        &world.options.kubeconfig,
        text.replace(&plane().url(), &through),
    )?;
    world.start_operator().await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;

    let port = wire.cut().await;
    let snapshots = world.metric("entra_postgres_server_messages_total").await?;
    world
        .apply(&world.principal("alice", ALICE, json!({"type": "User"})))
        .await?;
    world.sql("DROP ROLE \"orders-api\"").await?;
    let log = world.options.log_file();
    let noticed = async || Ok(std::fs::read_to_string(&log)?.contains("watch interrupted"));
    until("the operator notices", SOON, noticed).await?;
    let goes_on =
        async || Ok(world.metric("entra_postgres_server_messages_total").await? > snapshots + 2);
    until("the server is looked at all the same", SOON, goes_on).await?;
    let operator = world.operator.as_ref().context("it runs")?;
    assert_eq!(operator.get("/livez").await?, "ok\n");
    let bound = "SELECT count(*) FROM pgaadauth_list_principals(false) AS p(name) WHERE p.name = 'orders-api'";
    world.wait_sql(bound, Some("1")).await?;

    let _wire = Wire::open(port).await?;
    world.ready("principal", "alice").await?;
    world.ready("principal", "api").await?;
    world.operator.take().context("it runs")?.stop().await
}

// Red when: `--log-format` is ignored (src/telemetry/logs.rs).
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_or_text_and_never_have_a_token() -> Result<()> {
    for format in ["json", "text"] {
        let setup = Setup {
            operator: false,
            ..Setup::default()
        };
        let mut world = World::with(&format!("log-{format}"), setup).await?;
        world.options.log_format = format;
        let debug = ["--log-level", "info,entra_postgres_operator=debug"];
        world.options.args.extend(debug.map(str::to_owned));
        world.start_operator().await?;
        world.apply(&world.api()).await?;
        world.ready("principal", "api").await?;
        let token = world.secret("api").await?["password"].clone();
        world.operator.take().context("it runs")?.stop().await?;
        let log = std::fs::read_to_string(world.options.log_file())?;
        ensure!(log.lines().count() > 3, "{log}");
        for line in log.lines() {
            let parsed = serde_json::from_str::<Value>(line);
            assert_eq!(parsed.is_ok(), format == "json", "{line}");
        }
        ensure!(
            !log.contains(&token) && !log.contains("eyJ"),
            "a token is in the log"
        );
        // The main story needs no right that the chart does not give.
        ensure!(!log.to_lowercase().contains("forbidden"), "{log}");
    }
    Ok(())
}

// Red when: src/cli.rs ends with success after a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_ends_the_start_with_one_sentence() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cases = [
        ("clouds: [{name: Lab}]\n", "authority"),
        ("nonsense: true\n", "nonsense"),
        ("clouds: {\n", "configuration"),
    ];
    for (n, (text, word)) in cases.into_iter().enumerate() {
        let options = OperatorOptions {
            name: format!("wrong-{n}"),
            ..OperatorOptions::new(dir.path(), plane().kubeconfig(), text.to_owned())
        };
        let mut operator = OperatorProcess::start(&options)?;
        let status = operator.wait(SOON).await?;
        let log = std::fs::read_to_string(options.log_file())?;
        println!("{log}");
        assert_eq!(status.code(), Some(1), "{log}");
        let errors: Vec<&str> = log
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        ensure!(errors.len() == 1 && log.lines().count() == 1, "{log}");
        ensure!(
            errors[0].contains(word) && errors[0].contains("wrong-"),
            "{log}"
        );
    }
    Ok(())
}
