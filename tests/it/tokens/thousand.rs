//! A restart among a thousand good Secrets.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{ALICE, REPORTS_CLIENT, Setup, World, condition, plane, workload_identity};

const COUNT: usize = 1000;
const READY: Duration = Duration::from_secs(300);
const READY_AGAIN: Duration = Duration::from_secs(60);
/// Objects made at the same time.
const AT_ONCE: usize = 16;

/// A group of its own for each, with one member for all: its token is good for each.
fn principal(world: &World, n: usize) -> Value {
    let name = format!("group-{n:04}");
    let mut object = world.principal(&name, &name, json!({"type": "Group"}));
    // The sign-ins of some are enough to see that none is tried again.
    let verify = if n.is_multiple_of(10) {
        "FirstIssue"
    } else {
        "Never"
    };
    object["spec"]["token"] =
        json!({"identity": workload_identity("orders-reports"), "verifyLogin": verify});
    object
}

async fn count_ready(world: &World) -> Result<usize> {
    let objects = world.list("principal").await?;
    let ready = |object: &&Value| condition(object, "Ready").is("True");
    Ok(objects.iter().filter(ready).count())
}

// Red when: Secret facts count as Broken, or as due, after a start; sign-ins are tried again; or what is
// counted with in memory is not what the annotations hold (TokenRecord::in_seconds).
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_thousand_good_secrets_asks_for_no_token_and_writes_none() -> Result<()> {
    let mut world = World::with(
        "thousand",
        Setup {
            directory: Box::new(|directory, _| {
                let member = crate::fixture::REPORTS_ID.parse().expect("a GUID");
                directory.groups.extend((0..COUNT).map(|n| {
                    lab::directory::Group {
                        name: format!("group-{n:04}"),
                        object_id: format!("9409b000-0000-4000-9000-{n:012}")
                            .parse()
                            .expect("a GUID"),
                        members: vec![member],
                    }
                }));
            }),
            server: Some(Box::new(|server| {
                server["spec"]["resyncInterval"] = json!("10s");
            })),
            ..Setup::default()
        },
    )
    .await?;
    let start = Instant::now();
    let objects: Api<DynamicObject> = Api::namespaced_with(
        world.client.clone(),
        &world.names.team,
        &ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
            "entrapostgres.io",
            "v1alpha1",
            "EntraPostgresPrincipal",
        )),
    );
    futures::stream::iter((0..COUNT).map(|n| principal(&world, n)))
        .map(|object| {
            let objects = objects.clone();
            async move {
                let object: DynamicObject = serde_json::from_value(object)?;
                objects.create(&PostParams::default(), &object).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    while count_ready(&world).await? < COUNT {
        ensure!(
            start.elapsed() < READY,
            "not all are Ready\n{}",
            world.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("{COUNT} principals are Ready after {:?}", start.elapsed());
    world.kill_operator();
    let asked = world.token_requests(Some(REPORTS_CLIENT));
    let signed_in = world.stats()["connections"]["byRole"].clone();
    let mark = plane().audit().mark()?;
    let start = Instant::now();
    world.start_operator().await?;
    // Each principal is looked at once after a start; the metrics count them.
    let passes = "entra_postgres_reconcile_total{kind=\"EntraPostgresPrincipal\"";
    loop {
        let settled = world.metric(passes).await?;
        if settled >= COUNT as u64 {
            break;
        }
        ensure!(
            start.elapsed() < READY_AGAIN,
            "{settled} passes\n{}",
            world.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // It works.
    let alice = world.principal("alice", ALICE, json!({"type": "User"}));
    world.apply(&alice).await?;
    world.ready("principal", "alice").await?;
    println!("looked at all after {:?}", start.elapsed());
    assert_eq!(count_ready(&world).await?, COUNT + 1);
    assert_eq!(world.token_requests(Some(REPORTS_CLIENT)), asked);
    let mut writes = world.writes_since(mark)?;
    writes.retain(|write| !write.contains("/alice"));
    println!("{} writes after the restart", writes.len());
    let secrets = |write: &&String| write.contains(" secrets ");
    let secret = writes.iter().find(secrets);
    assert_eq!(secret, None, "{} writes", writes.len());
    let statuses = |write: &&String| write.contains("entrapostgresprincipals");
    let status = writes.iter().find(statuses);
    assert_eq!(status, None, "{} writes", writes.len());
    let now = &world.stats()["connections"]["byRole"];
    let group = |seen: &Value| seen["group-0000"].clone();
    assert_eq!(group(now), group(&signed_in));
    let params = ListParams::default();
    assert_eq!(objects.list(&params).await?.items.len(), COUNT + 1);
    Ok(())
}
