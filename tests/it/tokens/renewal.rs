//! When a token is renewed, and when nobody is asked.

use std::time::Instant;

use anyhow::Result;
use lab::operator::ManagedIdentities;
use serde_json::{Value, json};

use super::{NODE_CLIENT, expiry, logged_in, quick, service, short_lived};
use crate::fixture::{
    ALICE, API_CLIENT, API_ID, REPORTS_CLIENT, Setup, World, condition, plane, workload_identity,
};

// Red when: refresh::renew_at takes half of renewBefore.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_as_early_as_declared_with_one_request_each_time() -> Result<()> {
    let world = World::with(
        "early",
        Setup {
            directory: Box::new(|d, _| service(d, API_CLIENT).token_lifetime_seconds = Some(600)),
            ..Setup::default()
        },
    )
    .await?;
    let mut object = world.api();
    object["spec"]["token"]["renewBefore"] = json!("590s");
    world.apply(&object).await?;
    let object = world.ready("principal", "api").await?;
    let (first, since) = (world.secret("api").await?, Instant::now());
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    let end = expiry(&object);
    world
        .wait("principal", "api", "renewed", |o| expiry(o) > end)
        .await?;
    assert!(
        (7..=13).contains(&since.elapsed().as_secs()),
        "renewed after {:?}",
        since.elapsed()
    );
    let second = world.secret("api").await?;
    assert_ne!(second["password"], first["password"]);
    assert_eq!(world.token_requests(Some(API_CLIENT)), 2);
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}

// Red when: model::publish::check has no branch `None if published == Some(token)`, or execute waits
// with a renewal for the role.
#[tokio::test(flavor = "multi_thread")]
async fn renewal_goes_on_while_the_server_refuses_us() -> Result<()> {
    let mut world = short_lived("server_away", API_CLIENT).await?;
    world.apply(&quick(&world)).await?;
    world.ready("principal", "api").await?;
    world
        .faults(json!([{"on": "gateway", "do": {"refuse": true}}]))
        .await?;
    world
        .sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pg-operators'",
        )
        .await?;
    let away = |o: &Value| condition(o, "RoleSynced").reason == "ServerUnreachable";
    let object = world
        .wait("principal", "api", "the server is away", away)
        .await?;
    let end = expiry(&object);
    let renewed = |o: &Value| expiry(o) > end && away(o) && condition(o, "TokenIssued").is("True");
    let object = world
        .wait("principal", "api", "renewed meanwhile", renewed)
        .await?;
    // Also by an operator that has never seen the server.
    world.kill_operator();
    world.start_operator().await?;
    let end = expiry(&object);
    let renewed = |o: &Value| expiry(o) > end && condition(o, "TokenIssued").is("True");
    world
        .wait("principal", "api", "renewed after a restart", renewed)
        .await?;
    world.faults(json!([])).await?;
    world.ready("principal", "api").await?;
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}

// Red when: refresh::not_yet waits a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gives_the_same_token_again_is_not_asked_all_the_time() -> Result<()> {
    let world = World::with(
        "not_yet",
        Setup {
            directory: Box::new(|directory, _| {
                for client in [NODE_CLIENT, API_CLIENT] {
                    service(directory, client).token_lifetime_seconds = Some(63);
                }
            }),
            configuration: Box::new(|configuration, names| {
                configuration.managed_identities.push(ManagedIdentities {
                    namespaces: vec![names.team.clone()],
                    client_ids: vec![NODE_CLIENT.to_owned()],
                    ..ManagedIdentities::default()
                });
            }),
            ..Setup::default()
        },
    )
    .await?;
    let mut node = world.principal("node", "lab-node", json!({"type": "ManagedIdentity"}));
    node["spec"]["token"] =
        json!({"identity": {"managedIdentity": {"clientId": NODE_CLIENT}}, "renewBefore": "60s"});
    world.apply(&node).await?;
    let first = world.ready("principal", "node").await?;
    world.wait_requests(NODE_CLIENT, 2).await?;
    // Meanwhile others are renewed twice.
    world.apply(&quick(&world)).await?;
    world.ready("principal", "api").await?;
    world.wait_requests(API_CLIENT, 3).await?;
    assert_eq!(world.token_requests(Some(NODE_CLIENT)), 2);
    let node = world.ready("principal", "node").await?;
    assert_eq!(expiry(&node), expiry(&first));
    assert!(condition(&node, "TokenIssued").is("True"), "{node}");
    assert_eq!(logged_in(&world, "node").await?, "lab-node");
    Ok(())
}

// Red when: Index::verified starts without reading the Secret (observe::content), or Secret facts
// after a restart count as Broken.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_operator_asks_for_no_token_and_writes_no_secret() -> Result<()> {
    let mut world = World::start("restart").await?;
    world.apply(&world.api()).await?;
    let mut group = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    group["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
    world.apply(&group).await?;
    world.ready("principal", "api").await?;
    world.ready("principal", "readonly").await?;
    let secrets = (world.secret("api").await?, world.secret("readonly").await?);
    world.kill_operator();
    let mark = plane().audit().mark()?;
    world.start_operator().await?;
    // A change, so that there is something to wait for.
    let mut alice = world.principal("alice", ALICE, json!({"type": "User"}));
    alice["spec"]["principal"]["requireMFA"] = json!(false);
    world.apply(&alice).await?;
    world.ready("principal", "alice").await?;
    world
        .patch(
            "principal",
            "api",
            &json!({"spec": {"deletionPolicy": "Drop"}}),
        )
        .await?;
    world.ready("principal", "api").await?;
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    assert_eq!(world.token_requests(Some(REPORTS_CLIENT)), 1);
    assert_eq!(
        (world.secret("api").await?, world.secret("readonly").await?),
        secrets
    );
    let writes = world.writes_since(mark)?;
    assert!(
        !writes.iter().any(|write| write.contains("secrets")),
        "{writes:?}"
    );
    Ok(())
}

// Red when: plan() renews what Differs, or `inputs` leaves out the formats.
#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_no_token_changes_without_an_exchange() -> Result<()> {
    let world = World::start("replan").await?;
    world.apply(&world.api()).await?;
    let object = world.ready("principal", "api").await?;
    let (before, due) = (
        world.secret("api").await?,
        object["status"]["token"]["renewAt"].clone(),
    );
    world
        .patch(
            "principal",
            "api",
            &json!({"spec": {"token": {"renewBeforePercentage": 60}}}),
        )
        .await?;
    let object = world
        .wait("principal", "api", "planned anew", |o| {
            o["status"]["token"]["renewAt"].as_str() < due.as_str()
                && condition(o, "Ready").is("True")
        })
        .await?;
    assert_eq!(world.secret("api").await?, before);
    let change = json!({"spec": {"token": {"database": "orders", "secret": {"formats": ["ServiceBinding", "Env"]}}}});
    world.patch("principal", "api", &change).await?;
    world
        .wait("secret", "api", "two formats", |o| {
            o["data"]["PGPASSWORD"].is_string()
        })
        .await?;
    let after = world.secret("api").await?;
    assert_eq!(
        (&after["password"], &after["PGPASSWORD"]),
        (&before["password"], &before["password"])
    );
    assert_eq!(
        (after["database"].as_str(), after["PGDATABASE"].as_str()),
        ("orders", "orders")
    );
    world
        .patch(
            "principal",
            "api",
            &json!({"spec": {"token": {"secret": {"formats": ["Env"]}}}}),
        )
        .await?;
    world
        .wait("secret", "api", "one format", |o| {
            o["data"].get("password").is_none()
        })
        .await?;
    let after = world.secret("api").await?;
    assert_eq!(after["PGPASSWORD"], before["password"]);
    let last = world.ready("principal", "api").await?;
    assert_eq!(expiry(&last), expiry(&object));
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    Ok(())
}

// Red when: plan::token_work does not compare the recorded identity with the declared one.
#[tokio::test(flavor = "multi_thread")]
async fn another_identity_in_the_spec_is_asked_at_once() -> Result<()> {
    let world = World::with(
        "other_identity",
        Setup {
            directory: Box::new(|directory, _| {
                let member = API_ID.parse().expect("a GUID");
                directory.groups[0].members.push(member);
            }),
            ..Setup::default()
        },
    )
    .await?;
    let mut group = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    group["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
    world.apply(&group).await?;
    world.ready("principal", "readonly").await?;
    assert_eq!(world.token_requests(Some(API_CLIENT)), 0);
    let other = json!({"spec": {"token": {"identity": workload_identity("orders-api")}}});
    world.patch("principal", "readonly", &other).await?;
    world
        .wait("secret", "readonly", "has the other's token", |secret| {
            secret["metadata"]["annotations"]["entrapostgres.io/token-object-id"] == API_ID
        })
        .await?;
    world.ready("principal", "readonly").await?;
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    assert_eq!(world.token_requests(Some(REPORTS_CLIENT)), 1);
    assert_eq!(logged_in(&world, "readonly").await?, "Prod DB Readonly");
    Ok(())
}
