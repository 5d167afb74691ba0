//! The end of a server object: it waits for who drops roles through it, and for nobody else.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{
    API_CLIENT, REPORTS_ID, SOON, Setup, World, condition, plane, service_account,
    workload_identity,
};
use crate::roles::{BATCH_ID, COLLECTED, IMPORTER_ID};
use lab::process::until;

use super::{
    abandon, abandoned, delete_namespace, dropping, exists, finalizers, gone, namespace_gone,
    server_gone,
};

/// Waits until our finalizer is on the server, or not.
async fn held(world: &World, held: bool) -> Result<()> {
    let what = if held { "is held" } else { "is free" };
    let is_so = |server: &Value| {
        let ours = json!("entrapostgres.io/principals");
        let all = server["metadata"]["finalizers"].as_array();
        all.is_some_and(|all| all.contains(&ours)) == held
    };
    world.wait("server", "server", what, is_so).await?;
    Ok(())
}

// Red when: hold_principal() adds the principal's finalizer first, or needing() counts Retain; plan() does
// not look at server_ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_who_drops_roles_through_it_and_names_them() -> Result<()> {
    let world = World::start("server_waits").await?;
    world.ready("server", "server").await?;
    let mark = plane().audit().mark()?;
    for (name, role, id) in [
        ("first", "importer", IMPORTER_ID),
        ("second", "batch", BATCH_ID),
    ] {
        world.apply(&dropping(&world, name, role, id)).await?;
    }
    world.apply(&world.api()).await?;
    for name in ["first", "second", "api"] {
        world.ready("principal", name).await?;
    }
    held(&world, true).await?;
    let patches: Vec<String> = world.writes_since(mark)?;
    let of = |kind: &str| {
        let all = patches.iter().enumerate();
        let ours = all.filter(|(_, write)| write.starts_with(kind));
        ours.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (servers, principals) = (
        of("patch entrapostgresservers "),
        of("patch entrapostgresprincipals "),
    );
    assert_eq!((servers.len(), principals.len()), (1, 2), "{patches:#?}");
    assert!(servers[0] < principals[0], "{patches:#?}");

    world.delete("server", "server").await?;
    let said = world
        .not_ready("server", "server", "WaitingForPrincipals")
        .await?;
    for name in ["first", "second"] {
        assert!(
            said.contains(&format!("{}/{name}", world.names.team)),
            "{said}"
        );
    }
    assert!(
        !said.contains("/api") && said.contains("entrapostgres.io/abandon"),
        "{said}"
    );
    let server = world.get("server", "server").await?.expect("it waits");
    assert!(condition(&server, "Ready").is("False"), "{server:#}");
    assert!(condition(&server, "Connected").is("True"), "{server:#}");
    assert!(condition(&server, "Reconciling").is("True"), "{server:#}");

    // Nobody new; who is there stays as declared.
    for policy in ["Retain", "Drop"] {
        let mut late = dropping(&world, "late", "reports", REPORTS_ID);
        late["spec"]["deletionPolicy"] = json!(policy);
        world.apply(&late).await?;
        let seen = |object: &Value| {
            let synced = condition(object, "RoleSynced");
            synced.is("Unknown") && synced.reason == "ServerNotReady"
        };
        let late = world.wait("principal", "late", "refused", seen).await?;
        let said = condition(&late, "RoleSynced").message;
        assert!(said.contains("is being deleted: no role is made"), "{said}");
        assert_eq!(finalizers(&late), 0);
    }
    world.sql("COMMENT ON ROLE batch IS NULL").await?;
    let marked = "SELECT shobj_description('batch'::regrole, 'pg_authid') IS NOT NULL";
    world.wait_sql(marked, Some("t")).await?;
    world.ready("principal", "second").await?;
    assert!(!exists(&world, "reports").await?);
    world.delete("principal", "late").await?;
    gone(&world, "late").await?;

    world.delete("principal", "first").await?;
    gone(&world, "first").await?;
    assert!(!exists(&world, "importer").await?);
    let one_less = |server: &Value| {
        let said = condition(server, "Ready").message;
        said.contains("/second") && !said.contains("/first")
    };
    world
        .wait("server", "server", "waits for one", one_less)
        .await?;
    world
        .patch(
            "principal",
            "second",
            &json!({"spec": {"deletionPolicy": "Retain"}}),
        )
        .await?;
    server_gone(&world).await?;
    assert!(exists(&world, "batch").await?);
    world
        .not_ready("principal", "second", "ServerNotFound")
        .await?;
    Ok(())
}

// Red when: settle_server() never removes, or needing() counts Retain: without the operator nothing ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_needs_goes_at_once_with_or_without_an_operator() -> Result<()> {
    let mut world = World::start("server_free").await?;
    world
        .apply(&dropping(&world, "once", "importer", IMPORTER_ID))
        .await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "once").await?;
    world.ready("principal", "api").await?;
    held(&world, true).await?;
    // Somebody takes it away: it is put back.
    world
        .patch(
            "server",
            "server",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await?;
    held(&world, true).await?;
    world
        .patch(
            "principal",
            "once",
            &json!({"spec": {"deletionPolicy": "Retain"}}),
        )
        .await?;
    held(&world, false).await?;
    // A stranger's wish holds nobody.
    let mut stranger = dropping(&world, "stranger", "batch", BATCH_ID);
    stranger["metadata"]["namespace"] = json!(world.names.other);
    world.apply(&stranger).await?;
    world
        .not_ready("other-principal", "stranger", "NamespaceNotAllowed")
        .await?;
    world.kill_operator();
    world.delete("server", "server").await?;
    assert_eq!(world.get("server", "server").await?, None);
    Ok(())
}

// Red when: connect() removes a session whose CA is gone, before the server is deleted (`needed`) or after
// (`ends`), or an event that is refused stops a cleanup.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_namespace_with_the_server_in_it_ends() -> Result<()> {
    let setup = Setup {
        directory: Box::new(|directory, names| {
            for service in &mut directory.service_principals {
                for credential in &mut service.federated_credentials {
                    credential.subject = credential.subject.replace(&names.team, &names.platform);
                }
            }
        }),
        ..Setup::default()
    };
    let world = World::with("namespace_ends", setup).await?;
    let platform = world.names.platform.clone();
    let tenants = |server: &Value| {
        let mut tenants = server["spec"]["tenants"].clone();
        tenants[0]["namespaces"]["names"] = json!([platform]);
        json!({"spec": {"tenants": tenants}})
    };
    world
        .patch("server", "server", &tenants(&world.server("server")?))
        .await?;
    world
        .apply(&service_account(&platform, "orders-api", API_CLIENT))
        .await?;
    let mut api = world.api();
    api["spec"]["deletionPolicy"] = json!("Drop");
    api["spec"]["token"] = json!({"identity": workload_identity("orders-api")});
    let busy = dropping(&world, "busy", "batch", BATCH_ID);
    let idle = dropping(&world, "idle", "importer", IMPORTER_ID);
    for mut object in [api, busy, idle] {
        object["metadata"]["namespace"] = json!(platform);
        world.apply(&object).await?;
    }
    for name in ["api", "busy", "idle"] {
        world.ready("platform-principal", name).await?;
    }
    let postgres = world.azure.postgres().await?;
    let session = postgres.connect("batch", "orders").await?;
    session.batch_execute("SELECT 1").await?;

    // In whichever order the namespace is emptied: here the CA goes before the server is deleted.
    world.delete("platform-configmap", "ca").await?;
    let look =
        |value: &str| json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": value}}});
    world.patch("server", "server", &look("first")).await?;
    world.not_ready("server", "server", "CaInvalid").await?;
    delete_namespace(&world, &platform).await?;
    for (kind, name) in [
        ("platform-principal", "api"),
        ("platform-principal", "idle"),
        ("platform-secret", "api"),
        ("platform-configmap", "ca"),
        ("platform-serviceaccount", "pg-operator"),
    ] {
        world
            .wait_for(kind, name, "is gone", COLLECTED, Value::is_null)
            .await?;
    }
    // All that the session was made from is gone when the server is looked at.
    let series = "entra_postgres_reconcile_total{kind=\"EntraPostgresServer\"";
    let before = world.metric(series).await?;
    world.patch("server", "server", &look("then")).await?;
    let looked = async || Ok(world.metric(series).await? > before);
    until("the server is looked at", SOON, looked).await?;
    let said = world
        .not_ready("platform-principal", "busy", "RoleInUse")
        .await?;
    assert!(said.contains("1 open session"), "{said}");
    let server = world
        .wait("server", "server", "waits for one", |server| {
            let ready = condition(server, "Ready");
            ready.reason == "WaitingForPrincipals"
                && ready.message.contains("/busy (being deleted)")
                && !ready.message.contains("/idle")
        })
        .await?;
    assert!(condition(&server, "Connected").is("True"), "{server:#}");
    drop(session);
    namespace_gone(&world, &platform).await?;
    for role in ["orders-api", "batch", "importer"] {
        assert!(!exists(&world, role).await?, "{role}");
    }
    Ok(())
}

// Red when: is_abandoned() is never true, or hold_principal() adds although the server ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_server_lets_all_its_principals_go_and_leaves_their_roles() -> Result<()> {
    let world = World::start("server_abandoned").await?;
    for (name, role, id) in [
        ("leaving", "batch", BATCH_ID),
        ("living", "importer", IMPORTER_ID),
    ] {
        world.apply(&dropping(&world, name, role, id)).await?;
    }
    world.apply(&world.api()).await?;
    for name in ["leaving", "living", "api"] {
        world.ready("principal", name).await?;
    }
    let postgres = world.azure.postgres().await?;
    let session = postgres.connect("batch", "orders").await?;
    session.batch_execute("SELECT 1").await?;
    world.delete("principal", "leaving").await?;
    world.not_ready("principal", "leaving", "RoleInUse").await?;

    // It speaks of deletions only.
    world.patch("server", "server", &abandon()).await?;
    let asked = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": "now"}}});
    world.patch("principal", "living", &asked).await?;
    world.ready("principal", "living").await?;
    held(&world, true).await?;
    let living = world.get("principal", "living").await?.expect("living");
    assert_eq!(finalizers(&living), 1);
    assert!(abandoned(&world).await?.is_empty());

    world.delete("server", "server").await?;
    server_gone(&world).await?;
    gone(&world, "leaving").await?;
    let told = async || Ok(abandoned(&world).await?.len() == 2);
    until("both are told", SOON, told).await?;
    let told = abandoned(&world).await?;
    for (name, role) in [("leaving", "batch"), ("living", "importer")] {
        let note = &told[name];
        assert!(note.contains(role) && note.contains("/server"), "{note}");
        assert!(exists(&world, role).await?, "{role}");
    }
    world
        .not_ready("principal", "living", "ServerNotFound")
        .await?;
    let asked = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": "again"}}});
    world.patch("principal", "living", &asked).await?;
    world
        .not_ready("principal", "api", "ServerNotFound")
        .await?;
    let living = world.get("principal", "living").await?.expect("living");
    assert_eq!(finalizers(&living), 0);
    world.delete("principal", "living").await?;
    assert_eq!(world.get("principal", "living").await?, None);
    assert!(exists(&world, "importer").await?);
    drop(session);
    Ok(())
}

// Red when: ending::once() does not connect: nobody makes the session again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_servers_end_changes_nothing() -> Result<()> {
    let mut world = World::start("end_restarted").await?;
    world
        .apply(&dropping(&world, "busy", "batch", BATCH_ID))
        .await?;
    world
        .apply(&dropping(&world, "living", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "busy").await?;
    world.ready("principal", "living").await?;
    let session = world
        .azure
        .postgres()
        .await?
        .connect("batch", "orders")
        .await?;
    session.batch_execute("SELECT 1").await?;
    world.delete("server", "server").await?;
    world
        .not_ready("server", "server", "WaitingForPrincipals")
        .await?;
    world.delete("principal", "busy").await?;
    world.not_ready("principal", "busy", "RoleInUse").await?;
    world.kill_operator();
    drop(session);
    world.delete("principal", "living").await?;
    world.start_operator().await?;
    for (name, role) in [("busy", "batch"), ("living", "importer")] {
        gone(&world, name).await?;
        assert!(!exists(&world, role).await?, "{role}");
    }
    server_gone(&world).await
}
