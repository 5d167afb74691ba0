//! What annotations ask for: to look now, and to let a role sign in again.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::fixture::{Setup, World, condition};

use super::{IMPORTER_ID, bound};

/// What was refused rests for 8 seconds and more before it is tried again.
const QUICKLY: Duration = Duration::from_secs(5);

async fn annotate(
    world: &World,
    kind: &str,
    name: &str,
    annotation: &str,
    value: &str,
) -> Result<()> {
    let name_of = format!("entrapostgres.io/{annotation}");
    let patch = json!({"metadata": {"annotations": {name_of: value}}});
    world.patch(kind, name, &patch).await
}

fn login(role: &str) -> String {
    format!("SELECT rolcanlogin FROM pg_roles WHERE rolname = '{role}'")
}

async fn closed(world: &World) -> Result<()> {
    let said = world
        .not_ready("principal", "importer", "LoginDisabledOnServer")
        .await?;
    assert!(said.contains("entrapostgres.io/restore"), "{said}");
    assert_eq!(world.ask(&login("importer")).await?.as_deref(), Some("f"));
    Ok(())
}

// Red when: keep() in model/plan/claim.rs opens a role that a DBA closed, or obeys one value twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_a_dba_closed_is_opened_by_a_new_value_only() -> Result<()> {
    let world = World::start("restore").await?;
    let importer = world.principal(
        "importer",
        "importer",
        bound("ServicePrincipal", IMPORTER_ID),
    );
    world.apply(&importer).await?;
    world.ready("principal", "importer").await?;
    world.sql("ALTER ROLE importer NOLOGIN").await?;
    closed(&world).await?;
    // Another change of the object is no consent.
    let patch = json!({"spec": {"role": {"connectionLimit": 3}}});
    world.patch("principal", "importer", &patch).await?;
    let limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'importer'";
    world.wait_sql(limit, Some("3")).await?;
    closed(&world).await?;

    // A DBA may have closed it because of who writes the object: its own annotation opens nothing.
    annotate(&world, "principal", "importer", "restore", "mine").await?;
    closed(&world).await?;
    let opened = |word: &str| format!("other/importer=x, {}/importer={word}", world.names.team);
    annotate(&world, "server", "server", "restore", &opened("ticket 1")).await?;
    world.ready("principal", "importer").await?;
    assert_eq!(world.ask(&login("importer")).await?.as_deref(), Some("t"));
    world.sql("ALTER ROLE importer NOLOGIN").await?;
    closed(&world).await?;
    annotate(&world, "principal", "importer", "reconcile", "look").await?;
    closed(&world).await?;
    annotate(&world, "server", "server", "restore", &opened("ticket 2")).await?;
    world.ready("principal", "importer").await?;
    assert_eq!(world.ask(&login("importer")).await?.as_deref(), Some("t"));

    // Where the server's owner leaves it to the namespace it is the principal's own annotation.
    world.sql("ALTER ROLE importer NOLOGIN").await?;
    closed(&world).await?;
    let mut server = world.server("server")?;
    server["spec"]["tenants"][0]["restore"] = json!(true);
    world.apply(&server).await?;
    annotate(&world, "server", "server", "restore", "").await?;
    annotate(&world, "principal", "importer", "restore", "ticket 3").await?;
    world.ready("principal", "importer").await?;
    assert_eq!(world.ask(&login("importer")).await?.as_deref(), Some("t"));
    Ok(())
}

fn seldom() -> Setup {
    Setup {
        server: Some(Box::new(|server| {
            server["spec"]["resyncInterval"] = json!("1h");
        })),
        ..Setup::default()
    }
}

// Red when: memory() in controller/index does not look at the annotation; observe() trusts the catalog
// all the same; or look_again() takes no snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_is_looked_after_now() -> Result<()> {
    let world = World::with("asked", seldom()).await?;
    for (name, id) in [("importer", IMPORTER_ID), ("batch", super::BATCH_ID)] {
        let object = world.principal(name, name, bound("ServicePrincipal", id));
        world.apply(&object).await?;
        world.ready("principal", name).await?;
    }
    let drift = "ALTER ROLE importer CONNECTION LIMIT 0; SECURITY LABEL FOR pgaadauth ON ROLE importer IS NULL";
    world.sql(drift).await?;
    world.sql("DROP ROLE batch").await?;
    // Nobody looks for an hour; the annotation on one principal is about that one.
    annotate(&world, "principal", "importer", "reconcile", "1").await?;
    let bound_to = "SELECT count(*) FROM pgaadauth_list_principals(false) AS p(name) WHERE p.name = 'importer'";
    world.wait_sql(bound_to, Some("1")).await?;
    assert_eq!(world.bound_to("batch").await?, None);
    annotate(&world, "server", "server", "reconcile", "1").await?;
    world.wait_sql(&super::exists("batch"), Some("t")).await?;

    // What the server refused rests for long; asked for, it is tried at once.
    let refusal = json!([{"on": "sql", "match": {"role": "late"}, "do": {"sqlState": "P0001", "message":
        "Failed to create Microsoft Entra principal. Reason: 'Microsoft Entra principal not found.'"}}]);
    world.faults(refusal).await?;
    let late = world.principal(
        "late",
        "late",
        bound("ServicePrincipal", "5e41ce00-0000-4000-8000-000000000006"),
    );
    world.apply(&late).await?;
    world
        .wait("principal", "late", "refused", |object| {
            condition(object, "Ready").is("False")
        })
        .await?;
    world.faults(json!([])).await?;
    let since = Instant::now();
    annotate(&world, "principal", "late", "reconcile", "now").await?;
    world.ready("principal", "late").await?;
    assert!(since.elapsed() < QUICKLY, "{:?}", since.elapsed());
    Ok(())
}

// Red when: look_again() does not end the pause after a failed connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_failed_is_tried_at_once_when_somebody_asks() -> Result<()> {
    let setup = Setup {
        operator: false,
        ..Setup::default()
    };
    let mut world = World::with("asked_server", setup).await?;
    world.sql("ALTER ROLE \"pg-operators\" NOLOGIN").await?;
    world.start_operator().await?;
    world
        .not_ready("server", "server", "AdministratorRefused")
        .await?;
    // Nothing of a principal is wrong: it waits, and says for whom.
    let waits = world.principal("waits", "waits", bound("ServicePrincipal", IMPORTER_ID));
    world.apply(&waits).await?;
    let object = world
        .wait("principal", "waits", "waiting for the server", |object| {
            condition(object, "Ready").reason == "ServerNotReady"
        })
        .await?;
    let ready = condition(&object, "Ready");
    let server = format!("EntraPostgresServer {}/server", world.names.platform);
    assert!(ready.is("Unknown"), "{ready:?}");
    for words in [server.as_str(), "AdministratorRefused"] {
        assert!(ready.message.contains(words), "{words}: {ready:?}");
    }
    world.sql("ALTER ROLE \"pg-operators\" LOGIN").await?;
    let since = Instant::now();
    annotate(&world, "server", "server", "reconcile", "now").await?;
    world.ready("server", "server").await?;
    assert!(since.elapsed() < QUICKLY, "{:?}", since.elapsed());
    Ok(())
}
