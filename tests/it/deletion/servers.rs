//! Deletions of principals whose server is away: its object, its database, or the whole namespace goes.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::fixture::{API_ID, World, condition};
use crate::roles::{BATCH_ID, IMPORTER_ID};

use super::{
    abandon, abandoned, delete_namespace, dropping, exists, gone, namespace_gone, server_gone,
};

// Red when: drop_role() in cleanup.rs says Ok when there is no session; abandoned() is never true.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_server_a_deletion_waits_for_it_or_is_abandoned() -> Result<()> {
    let world = World::start("server_gone").await?;
    world
        .apply(&dropping(&world, "left", "importer", IMPORTER_ID))
        .await?;
    world
        .apply(&dropping(&world, "waits", "batch", BATCH_ID))
        .await?;
    world.ready("principal", "left").await?;
    world.ready("principal", "waits").await?;
    // It would wait for them; somebody forces its end.
    world.delete("server", "server").await?;
    world
        .patch(
            "server",
            "server",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await?;
    server_gone(&world).await?;
    world
        .not_ready("principal", "left", "ServerNotFound")
        .await?;
    for (name, role) in [("left", "importer"), ("waits", "batch")] {
        world.delete("principal", name).await?;
        let object = world
            .wait("principal", name, "says whom it waits for", |object| {
                condition(object, "Ready")
                    .message
                    .contains("the deletion waits")
            })
            .await?;
        let ready = condition(&object, "Ready");
        assert_eq!(ready.reason, "ServerNotFound", "{ready:?}");
        let server = format!("EntraPostgresServer {}/server", world.names.platform);
        for words in [server.as_str(), role, "entrapostgres.io/abandon"] {
            assert!(ready.message.contains(words), "{ready:?}");
        }
    }
    world.patch("principal", "left", &abandon()).await?;
    gone(&world, "left").await?;
    assert!(exists(&world, "importer").await?, "it stays on the server");
    let told = abandoned(&world).await?;
    assert!(told["left"].contains("importer"), "{told:?}");

    assert!(world.get("principal", "waits").await?.is_some());
    world.apply(&world.server("server")?).await?;
    gone(&world, "waits").await?;
    assert!(!exists(&world, "batch").await?);
    assert!(exists(&world, "importer").await?);
    Ok(())
}

/// How long the database is away.
const AWAY: Duration = Duration::from_secs(120);
/// What passes is tried again after a minute at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(90);

// Red when: drop_role() in drop.rs takes a failed look for an absent role.
#[tokio::test(flavor = "multi_thread")]
async fn with_its_database_away_a_deletion_waits_and_ends_after() -> Result<()> {
    let world = World::start("database_away").await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    world
        .faults(json!([{"on": "gateway", "do": {"refuse": true}}]))
        .await?;
    world
        .sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pg-operators'",
        )
        .await?;
    world
        .wait("server", "server", "not connected", |server| {
            !condition(server, "Ready").is("True")
        })
        .await?;
    world.delete("principal", "importer").await?;
    let said = world
        .not_ready("principal", "importer", "ServerUnreachable")
        .await?;
    assert!(said.contains("localhost"), "{said}");
    // So long that the pauses between tries have grown.
    tokio::time::sleep(AWAY).await;
    assert!(exists(&world, "importer").await?);
    world.faults(json!([])).await?;
    let is_gone = serde_json::Value::is_null;
    world
        .wait_for("principal", "importer", "is gone", LONGEST_PAUSE, is_gone)
        .await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: a refused event or status of a namespace that ends stops the cleanup.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_namespace_with_roles_to_drop_ends() -> Result<()> {
    let world = World::start("namespace_gone").await?;
    let mut api = world.api();
    api["spec"]["deletionPolicy"] = json!("Drop");
    world.apply(&api).await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world
        .apply(&dropping(&world, "batch", "batch", BATCH_ID))
        .await?;
    for name in ["api", "importer", "batch"] {
        world.ready("principal", name).await?;
    }
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));
    delete_namespace(&world, &world.names.team).await?;
    for (name, role) in [
        ("api", "orders-api"),
        ("importer", "importer"),
        ("batch", "batch"),
    ] {
        gone(&world, name).await?;
        assert!(!exists(&world, role).await?, "{role}");
    }
    namespace_gone(&world, &world.names.team).await
}
