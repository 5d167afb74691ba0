//! What becomes of the role: kept, dropped, or held by what it owns and by who is signed in.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{API_ID, SOON, World, condition};
use crate::roles::{BATCH_ID, COLLECTED, IMPORTER_ID, READONLY_ID, bound, comment_of};
use lab::process::until;

use super::{dropping, exists, finalizers, gone};

// Red when: settle_finalizer() adds one for Retain, or the Secret has no owner reference.
#[tokio::test(flavor = "multi_thread")]
async fn a_retained_role_stays_and_its_secret_goes() -> Result<()> {
    let world = World::start("retain").await?;
    let mark = crate::fixture::plane().audit().mark()?;
    world.apply(&world.api()).await?;
    let api = world.ready("principal", "api").await?;
    assert_eq!(finalizers(&api), 0);
    world.delete("principal", "api").await?;
    gone(&world, "api").await?;
    world
        .wait_for("secret", "api", "is gone", COLLECTED, Value::is_null)
        .await?;
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));
    assert!(comment_of(&world, "orders-api").await?.is_some());
    let writes = world.writes_since(mark)?;
    let of_object =
        |write: &&String| write.contains("entrapostgresprincipals ") && write.ends_with("/api");
    assert_eq!(
        writes.iter().find(of_object),
        None,
        "it never wrote metadata: {writes:#?}"
    );
    Ok(())
}

// Red when: gave_all() compares all memberships with what was asked for, or only what a role is a direct
// member of with the names of administrative roles.
#[tokio::test(flavor = "multi_thread")]
async fn only_memberships_that_lead_to_administrative_rights_hold_a_drop() -> Result<()> {
    let world = World::start("drop_members").await?;
    world
        .sql(
            "CREATE ROLE readers; CREATE ROLE between; GRANT pg_read_all_data TO between; \
             GRANT pg_monitor TO \"pg-operators\" WITH ADMIN OPTION",
        )
        .await?;
    for (name, role, id) in [
        ("harmless", "importer", IMPORTER_ID),
        ("deep", "batch", BATCH_ID),
    ] {
        let mut object = dropping(&world, name, role, id);
        object["spec"]["memberOf"] = json!([{"role": "pg_monitor"}]);
        world.apply(&object).await?;
        world.ready("principal", name).await?;
    }
    world
        .sql("GRANT readers TO importer; GRANT between TO batch")
        .await?;
    for name in ["deep", "harmless"] {
        world.delete("principal", name).await?;
    }
    gone(&world, "harmless").await?;
    assert!(!exists(&world, "importer").await?);
    world
        .not_ready("principal", "deep", "RoleProtected")
        .await?;
    world.sql("REVOKE between FROM batch").await?;
    gone(&world, "deep").await
}

// Red when: settle_finalizer() does nothing; drop_role() in drop.rs does not ask whose the marker is, or
// does not ask evidence().
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_role_goes_but_never_anothers() -> Result<()> {
    let world = World::start("drop").await?;
    let holder = dropping(&world, "holder", "importer", IMPORTER_ID);
    world.apply(&holder).await?;
    world.ready("principal", "holder").await?;
    let loser = dropping(&world, "loser", "importer", IMPORTER_ID);
    world.apply(&loser).await?;
    world
        .not_ready("principal", "loser", "RoleOwnedByOther")
        .await?;
    world.sql("CREATE ROLE plain LOGIN").await?;
    let plain = dropping(&world, "plain", "plain", BATCH_ID);
    world.apply(&plain).await?;
    world.not_ready("principal", "plain", "RoleExists").await?;
    // Neither a finalizer that somebody set nor a marker that somebody wrote changes whose the role is.
    let uid = async |name: &str| -> Result<String> {
        let object = world.get("principal", name).await?.unwrap_or_default();
        Ok(object["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    let forged = format!(
        "DO $$DECLARE v text := shobj_description('importer'::regrole, 'pg_authid'); BEGIN
         v := replace(replace(v, '{}', '{}'), format('\"%s\"', 'importer'::regrole::oid), format('\"%s\"', 'plain'::regrole::oid));
         EXECUTE format('COMMENT ON ROLE plain IS %L', v); END$$",
        uid("holder").await?,
        uid("plain").await?
    );
    world.sql(&forged).await?;
    for name in ["loser", "plain"] {
        let finalizer = json!({"metadata": {"finalizers": ["entrapostgres.io/role"]}});
        world.patch("principal", name, &finalizer).await?;
        world.delete("principal", name).await?;
        gone(&world, name).await?;
    }
    assert!(exists(&world, "importer").await? && exists(&world, "plain").await?);
    assert_eq!(
        world
            .ask("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'plain'")
            .await?
            .as_deref(),
        Some("t")
    );
    world.ready("principal", "holder").await?;

    // The policy may change while the object lives, suspended or not.
    let policy =
        |policy: &str| json!({"spec": {"deletionPolicy": policy, "suspend": policy == "Drop"}});
    world
        .patch("principal", "holder", &policy("Retain"))
        .await?;
    let has = |count: usize, suspended: &'static str| {
        move |object: &Value| {
            let (ready, now) = (condition(object, "Ready"), condition(object, "Suspended"));
            finalizers(object) == count && ready.reason == "Ready" && now.status == suspended
        }
    };
    world
        .wait("principal", "holder", "has no finalizer", has(0, ""))
        .await?;
    world.patch("principal", "holder", &policy("Drop")).await?;
    world
        .wait("principal", "holder", "has one", has(1, "True"))
        .await?;
    world.delete("principal", "holder").await?;
    gone(&world, "holder").await?;
    assert!(!exists(&world, "importer").await?);
    assert!(exists(&world, "plain").await?);
    Ok(())
}

// Red when: drop_role() in cleanup.rs does not ask not_protected().
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_became_privileged_is_not_dropped() -> Result<()> {
    let world = World::start("drop_protected").await?;
    world
        .apply(&dropping(&world, "grown", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "grown").await?;
    world.sql("ALTER ROLE importer CREATEROLE").await?;
    // Two snapshots later it was seen.
    let series = format!(
        "entra_postgres_server_messages_total{{namespace=\"{}\",name=\"server\"}}",
        world.names.platform
    );
    let before = world.metric(&series).await?;
    until("two snapshots", SOON, async || {
        Ok(world.metric(&series).await? >= before + 2)
    })
    .await?;
    world.delete("principal", "grown").await?;
    let said = world
        .not_ready("principal", "grown", "RoleProtected")
        .await?;
    assert!(said.contains("administrative rights") && said.contains("entrapostgres.io/abandon"));
    assert!(exists(&world, "importer").await?);
    world.sql("ALTER ROLE importer NOCREATEROLE").await?;
    gone(&world, "grown").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: drop_role() in drop.rs does not ask not_shut(): deleted and applied again it could sign in.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_a_dba_closed_is_not_dropped_in_silence() -> Result<()> {
    let world = World::start("drop_shut").await?;
    world
        .apply(&dropping(&world, "shut", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "shut").await?;
    world.sql("ALTER ROLE importer NOLOGIN").await?;
    world.delete("principal", "shut").await?;
    let object = world
        .wait("principal", "shut", "is not dropped", |object| {
            object.is_null()
                || condition(object, "Ready")
                    .message
                    .contains("is not dropped")
        })
        .await?;
    let ready = condition(&object, "Ready");
    assert_eq!(ready.reason, "LoginDisabledOnServer", "{object:#}");
    for annotation in ["entrapostgres.io/restore", "entrapostgres.io/abandon"] {
        assert!(ready.message.contains(annotation), "{}", ready.message);
    }
    assert!(exists(&world, "importer").await?);
    let value = format!("{}/shut=1", world.names.team);
    let consent = json!({"metadata": {"annotations": {"entrapostgres.io/restore": value}}});
    world.patch("server", "server", &consent).await?;
    gone(&world, "shut").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: judge() in postgres/drop.rs leaves out owner() or in_use(); close() does not set NOLOGIN.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_owns_something_or_is_signed_in_waits_and_says_so() -> Result<()> {
    let world = World::start("drop_waits").await?;
    for (name, role, id) in [
        ("owner", "importer", IMPORTER_ID),
        ("busy", "batch", BATCH_ID),
    ] {
        world.apply(&dropping(&world, name, role, id)).await?;
        world.ready("principal", name).await?;
    }
    let postgres = world.azure.postgres().await?;
    let orders = postgres.connect("lab", "orders").await?;
    orders
        .batch_execute(
            "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1); ALTER TABLE kept OWNER TO importer; \
             CREATE TABLE kept2 (n int); ALTER TABLE kept2 OWNER TO importer",
        )
        .await?;
    let session = postgres.connect("batch", "orders").await?;
    session.batch_execute("SELECT 1").await?;
    for name in ["owner", "busy"] {
        world.delete("principal", name).await?;
    }
    let said = world
        .not_ready("principal", "owner", "RoleOwnsObjects")
        .await?;
    assert!(said.contains("2 in database \"orders\""), "{said}");
    assert!(said.contains("REASSIGN OWNED BY \"importer\""), "{said}");
    let said = world.not_ready("principal", "busy", "RoleInUse").await?;
    assert!(
        said.contains("1 open session") && said.contains("pg_terminate_backend"),
        "{said}"
    );
    for role in ["importer", "batch"] {
        let login = format!("SELECT rolcanlogin FROM pg_roles WHERE rolname = '{role}'");
        assert_eq!(
            world.ask(&login).await?.as_deref(),
            Some("f"),
            "{role} is closed"
        );
    }
    let owned = orders.query_one("SELECT n FROM kept", &[]).await?;
    assert_eq!(owned.get::<_, i32>(0), 1, "nothing was dropped");

    drop(session);
    orders
        .batch_execute("REASSIGN OWNED BY importer TO lab")
        .await?;
    for (name, role) in [("busy", "batch"), ("owner", "importer")] {
        gone(&world, name).await?;
        assert!(!exists(&world, role).await?, "{role}");
    }
    let kept = orders
        .query_one(
            "SELECT count(*) FROM kept, pg_class WHERE relname = 'kept2'",
            &[],
        )
        .await?;
    assert_eq!(
        kept.get::<_, i64>(0),
        1,
        "the tables are somebody else's now"
    );
    Ok(())
}

// Red when: synced_group() in postgres/drop.rs is left out, or asked before the role is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_groups_role_waits_for_the_end_of_group_sync() -> Result<()> {
    let world = World::start("group_sync").await?;
    let mut group = world.principal("readers", "readers", bound("Group", READONLY_ID));
    group["spec"]["deletionPolicy"] = json!("Drop");
    world.apply(&group).await?;
    world.ready("principal", "readers").await?;
    world
        .sql("ALTER SYSTEM SET pgaadauth.enable_group_sync = on")
        .await?;
    world.sql("SELECT pg_reload_conf()").await?;
    let sync = "SELECT current_setting('pgaadauth.enable_group_sync')";
    world.wait_sql(sync, Some("on")).await?;
    world.delete("principal", "readers").await?;
    let said = world
        .not_ready("principal", "readers", "DropDeferred")
        .await?;
    assert!(said.contains("pgaadauth.enable_group_sync"), "{said}");
    assert!(exists(&world, "readers").await?);
    let login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'readers'";
    assert_eq!(world.ask(login).await?.as_deref(), Some("f"), "closed");
    world
        .sql("ALTER SYSTEM RESET pgaadauth.enable_group_sync")
        .await?;
    world.sql("SELECT pg_reload_conf()").await?;
    gone(&world, "readers").await?;
    assert!(!exists(&world, "readers").await?);
    Ok(())
}

// Red when: cleanup() lets an object go without a look at what its drop had closed (C22).
#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_is_called_off_opens_the_role_again() -> Result<()> {
    let world = World::start("called_off").await?;
    world
        .apply(&dropping(&world, "busy", "batch", BATCH_ID))
        .await?;
    world.ready("principal", "busy").await?;
    let postgres = world.azure.postgres().await?;
    let session = postgres.connect("batch", "orders").await?;
    session.batch_execute("SELECT 1").await?;
    world.delete("principal", "busy").await?;
    world.not_ready("principal", "busy", "RoleInUse").await?;
    let login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'batch'";
    assert_eq!(world.ask(login).await?.as_deref(), Some("f"));
    let retain = json!({"spec": {"deletionPolicy": "Retain"}});
    world.patch("principal", "busy", &retain).await?;
    gone(&world, "busy").await?;
    assert_eq!(world.ask(login).await?.as_deref(), Some("t"));
    Ok(())
}

// Red when: close() in postgres/sql.rs appends after a blank at the end of the comment.
#[tokio::test(flavor = "multi_thread")]
async fn a_blank_after_the_marker_holds_no_deletion_up() -> Result<()> {
    let world = World::start("blank").await?;
    world
        .apply(&dropping(&world, "busy", "batch", BATCH_ID))
        .await?;
    world.ready("principal", "busy").await?;
    let blank = "DO $$ BEGIN EXECUTE format('COMMENT ON ROLE batch IS %L', \
                 shobj_description('batch'::regrole, 'pg_authid') || E' \\n'); END $$";
    world.sql(blank).await?;
    let postgres = world.azure.postgres().await?;
    let session = postgres.connect("batch", "orders").await?;
    session.batch_execute("SELECT 1").await?;
    world.delete("principal", "busy").await?;
    world.not_ready("principal", "busy", "RoleInUse").await?;
    drop(session);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'batch'";
    world.sql(end).await?;
    gone(&world, "busy").await?;
    assert!(!exists(&world, "batch").await?);
    Ok(())
}
