//! A role with privileges in many places: they are taken back where we may, told where we may not, and
//! nobody else loses anything.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::World;
use crate::rights::{furnished, improved, ledger, major, setup};
use crate::roles::IMPORTER_ID;

use super::{dropping, exists, gone};

const DATABASES: [&str; 3] = ["orders", "shop", "stock & \"more\""];

/// Every sort of object that can carry a privilege, made by the owner that the administrator may
/// speak for; what the role gets of it, a bystander gets too.
fn everything(role: &str) -> String {
    let role = format!("{role}, bystander");
    format!(
        "SET ROLE app_owner; CREATE TABLE IF NOT EXISTS app.\"odd \"\"name\" (a int, b int); CREATE DOMAIN app.d AS int;
         GRANT SELECT, INSERT ON app.t1 TO {role}; GRANT SELECT (a), UPDATE (b) ON app.\"odd \"\"name\" TO {role};
         GRANT USAGE ON app.s1 TO {role}; GRANT EXECUTE ON FUNCTION app.f(integer) TO {role};
         GRANT USAGE, CREATE ON SCHEMA app TO {role}; GRANT USAGE ON TYPE app.d TO {role};
         ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT ON TABLES TO {role};
         ALTER DEFAULT PRIVILEGES FOR ROLE app_owner GRANT USAGE ON TYPES TO {role};
         RESET ROLE;"
    )
}

/// All that a server says of everybody but these.
async fn others(world: &World, gone: &str) -> Result<Vec<ledger::Line>> {
    let all = ledger::read(world, &DATABASES).await?;
    // An entry of default privileges shows its owner's own part too, while there is one.
    let stays = |(role, line): &ledger::Line| {
        role != gone && !(role == "owner" && line.ends_with(&format!("|{gone}")))
    };
    Ok(all.into_iter().filter(stays).collect())
}

async fn granted(test: &str, setup: crate::fixture::Setup) -> Result<World> {
    let mut world = furnished(test, setup, &DATABASES[1..]).await?;
    let mut object = dropping(&world, "importer", "importer", IMPORTER_ID);
    object["spec"]["grants"] = json!([
        {"database": "orders", "privileges": ["CONNECT", "TEMPORARY"]},
        {"database": "shop", "schema": "app", "objects": "Tables", "all": true, "privileges": ["DELETE"]},
    ]);
    object["spec"]["memberOf"] = json!([{"role": "readers"}]);
    world.apply(&object).await?;
    world.ready("principal", "importer").await?;
    for database in DATABASES {
        ledger::run(&world, database, &everything("importer")).await?;
    }
    world.sql("GRANT importer TO bystander").await?;
    let before = others(&world, "importer").await?;

    // In the middle of it the operator dies.
    world.delete("principal", "importer").await?;
    world
        .wait_sql(
            "SELECT count(*) FROM pg_roles WHERE rolname = 'importer' AND rolcanlogin",
            Some("0"),
        )
        .await?;
    world.kill_operator();
    world.start_operator().await?;
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await?);
    let after = others(&world, "importer").await?;
    let of_role = |line: &ledger::Line| line.1.starts_with("member of importer ");
    let before: Vec<_> = before.into_iter().filter(|line| !of_role(line)).collect();
    assert_eq!(after, before, "nobody else lost or got anything");
    Ok(world)
}

// Red when: clear() leaves out one sort of object, or columns, or default privileges, or one database;
// still_hangs() is said although all is cleared.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_privileges_in_three_databases_is_dropped() -> Result<()> {
    granted("cleared", setup(0, |_| ())).await.map(|_| ())
}

// Red when: the same, where the server lets us do more.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_privileges_is_dropped_with_improved_control() -> Result<()> {
    granted("cleared_improved", improved(0)).await.map(|_| ())
}

// Red when: clear() tries what it may not and loses the rest; left() leaves out the owner, the grantor or
// to whom it was given on; what was told is not tried again.
#[tokio::test(flavor = "multi_thread")]
async fn what_we_may_not_revoke_is_told_with_its_owner_and_who_gave_it() -> Result<()> {
    let world = furnished("not_revocable", setup(0, |_| ()), &[]).await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    let given = "CREATE TABLE app.foreign_table (); GRANT SELECT ON app.foreign_table TO importer;
         CREATE SCHEMA locked; CREATE TABLE locked.x (); ALTER TABLE locked.x OWNER TO app_owner; GRANT SELECT ON locked.x TO importer;
         SET ROLE app_owner; GRANT SELECT ON app.t2 TO importer; GRANT SELECT ON app.t1 TO importer WITH GRANT OPTION;
         CREATE TABLE app.c (a int, b int); GRANT SELECT (a) ON app.c TO importer WITH GRANT OPTION; GRANT UPDATE (b) ON app.c TO importer;
         CREATE FUNCTION app.p(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE PROCEDURE app.p(IN int, OUT text) LANGUAGE sql AS 'SELECT NULL';
         GRANT EXECUTE ON FUNCTION app.p(int, text) TO importer; GRANT EXECUTE ON PROCEDURE app.p(IN int, OUT text) TO importer; RESET ROLE;
         SET ROLE importer; GRANT SELECT ON app.t1 TO bystander; GRANT SELECT (a) ON app.c TO bystander; RESET ROLE";
    let usage = "SET ROLE app_owner; GRANT USAGE ON SCHEMA app TO importer; RESET ROLE";
    ledger::run(&world, "orders", usage).await?;
    ledger::run(&world, "orders", given).await?;
    world.delete("principal", "importer").await?;
    let said = world
        .not_ready("principal", "importer", "NotRevocable")
        .await?;
    for words in [
        "in database \"orders\"",
        "table app.foreign_table of lab, given by lab",
        "table app.t1 of app_owner, given by app_owner, given on to bystander",
        "column a of table app.c of app_owner, given by app_owner, given on to bystander",
        "table locked.x of app_owner, given by app_owner (permission denied for schema locked)",
        "entrapostgres.io/abandon",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(
        !said.contains("app.t2") && !said.contains("app.p"),
        "what we may is done: {said}"
    );
    assert!(exists(&world, "importer").await?);
    let by_hand = "REVOKE ALL ON app.foreign_table FROM importer; SET ROLE app_owner;
         REVOKE ALL ON app.t1, app.c FROM importer CASCADE; RESET ROLE; GRANT USAGE ON SCHEMA locked TO app_owner";
    ledger::run(&world, "orders", by_hand).await?;
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: clear() does not know memberships: from PostgreSQL 16 on they hang on who granted them.
#[tokio::test(flavor = "multi_thread")]
async fn memberships_that_the_role_granted_on_go_with_it() -> Result<()> {
    let world = furnished("cleared_members", setup(0, |_| ()), &[]).await?;
    let mut object = dropping(&world, "importer", "importer", IMPORTER_ID);
    object["spec"]["role"] = json!({"createRole": true});
    object["spec"]["memberOf"] =
        json!([{"role": "readers", "admin": true}, {"role": "writers", "admin": true}]);
    world.apply(&object).await?;
    world.ready("principal", "importer").await?;
    let given = "CREATE ROLE further; SET ROLE importer; GRANT readers TO bystander; GRANT writers TO bystander WITH ADMIN OPTION;
         CREATE ROLE made; GRANT made TO bystander; RESET ROLE; SET ROLE bystander; GRANT writers TO further";
    ledger::run(&world, "postgres", given).await?;
    world.delete("principal", "importer").await?;
    if major(&world).await? >= 16 {
        let said = world
            .not_ready("principal", "importer", "NotRevocable")
            .await?;
        let left = "membership of role bystander in role writers";
        assert!(said.contains(left) && !said.contains("readers"), "{said}");
        world
            .sql("REVOKE writers FROM further GRANTED BY bystander")
            .await?;
    }
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await? && exists(&world, "made").await?);
    Ok(())
}

// Red when: a database that cannot be entered is taken for one where nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_entered_is_waited_for() -> Result<()> {
    let world = furnished("cleared_shut", setup(0, |_| ()), &["shop"]).await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    for database in ["orders", "shop"] {
        let give = "SET ROLE app_owner; GRANT SELECT ON app.t1 TO importer; RESET ROLE";
        ledger::run(&world, database, give).await?;
    }
    world
        .sql("ALTER DATABASE shop ALLOW_CONNECTIONS false")
        .await?;
    world.delete("principal", "importer").await?;
    let said = world
        .not_ready("principal", "importer", "DatabaseNotAccessible")
        .await?;
    assert!(said.contains("\"shop\""), "{said}");
    world
        .sql("ALTER DATABASE shop ALLOW_CONNECTIONS true")
        .await?;
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: cleanup() does not look at mode.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_only_plans_drops_nothing() -> Result<()> {
    let world = World::start("drop_planned").await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    let plan = json!({"spec": {"mode": "Plan"}});
    world.patch("principal", "importer", &plan).await?;
    world.planned("importer").await?;
    world.delete("principal", "importer").await?;
    gone(&world, "importer").await?;
    assert!(exists(&world, "importer").await?);
    let login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'importer'";
    assert_eq!(world.ask(login).await?.as_deref(), Some("t"));
    Ok(())
}

// Red when: drop_role() in drop.rs does not ask check_deletion().
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_the_server_gives_no_more_drops_nothing() -> Result<()> {
    let world = World::start("drop_refused").await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    let mut server = world.server("server")?;
    server["spec"]["tenants"][0]["deletionPolicies"] = json!(["Retain"]);
    world.apply(&server).await?;
    world
        .not_ready("principal", "importer", "NotAllowedByServer")
        .await?;
    world.delete("principal", "importer").await?;
    let said = |object: &Value| {
        let ready = crate::fixture::condition(object, "Ready");
        !object["metadata"]["deletionTimestamp"].is_null()
            && ready.reason == "NotAllowedByServer"
            && ready.message.contains("tenants.deletionPolicies")
    };
    world
        .wait("principal", "importer", "says what it needs", said)
        .await?;
    let login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'importer'";
    assert_eq!(world.ask(login).await?.as_deref(), Some("t"));
    server["spec"]["tenants"][0]["deletionPolicies"] = json!(["Retain", "Drop"]);
    world.apply(&server).await?;
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: not_protected() in drop.rs does not ask gave_all(): nobody takes back what the object itself
// asked for, as nothing reconciles it any more.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_the_object_asked_for_do_not_keep_its_role() -> Result<()> {
    let world = World::with(
        "drop_creator",
        crate::fixture::Setup {
            server: Some(Box::new(|server| {
                server["spec"]["tenants"][0]["roleNames"] = json!(["imp*"]);
            })),
            ..Default::default()
        },
    )
    .await?;
    world
        .sql("GRANT pg_monitor TO \"pg-operators\" WITH ADMIN OPTION")
        .await?;
    let mut object = dropping(&world, "importer", "importer", IMPORTER_ID);
    object["spec"]["role"] = json!({"createRole": true});
    object["spec"]["memberOf"] = json!([{"role": "pg_monitor"}]);
    world.apply(&object).await?;
    world.ready("principal", "importer").await?;
    world.delete("principal", "importer").await?;
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: close() in postgres/sql.rs writes its mark a second time, so that the marker is none any more;
// is_remembered() in drop.rs is never true.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_survives_a_login_or_a_comment_given_back_meanwhile() -> Result<()> {
    let world = World::start("drop_twice").await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    world
        .sql("CREATE TABLE kept (); ALTER TABLE kept OWNER TO importer")
        .await?;
    world.delete("principal", "importer").await?;
    world
        .not_ready("principal", "importer", "RoleOwnsObjects")
        .await?;
    let closed = "SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = 'importer'";
    for change in [
        "ALTER ROLE importer LOGIN",
        "ALTER ROLE importer LOGIN; COMMENT ON ROLE importer IS 'the old importer'",
    ] {
        world.sql(change).await?;
        let again = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": change.len().to_string()}}});
        world.patch("principal", "importer", &again).await?;
        world.wait_sql(closed, Some("t")).await?;
    }
    assert!(world.get("principal", "importer").await?.is_some());
    world.sql("ALTER TABLE kept OWNER TO lab").await?;
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}

// Red when: drop.rs takes a comment that was copied to another role for ours: is_of() is always true.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_made_again_with_our_comment_is_not_dropped() -> Result<()> {
    let mut world = World::start("drop_copied").await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    world.kill_operator();
    let copy = "DO $$DECLARE v text := shobj_description('importer'::regrole, 'pg_authid'); BEGIN
        DROP ROLE importer; CREATE ROLE importer LOGIN; EXECUTE format('COMMENT ON ROLE importer IS %L', v); END$$";
    world.sql(copy).await?;
    world.delete("principal", "importer").await?;
    world.start_operator().await?;
    gone(&world, "importer").await?;
    assert!(exists(&world, "importer").await?);
    let login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'importer'";
    assert_eq!(world.ask(login).await?.as_deref(), Some("t"));
    Ok(())
}

// Red when: the clearing statement knows fewer kinds of privileges than the server (findings C15).
#[tokio::test(flavor = "multi_thread")]
async fn a_privilege_on_a_parameter_goes_or_is_told_with_who_gave_it() -> Result<()> {
    let world = furnished("cleared_parameter", setup(0, |_| ()), &[]).await?;
    world
        .apply(&dropping(&world, "importer", "importer", IMPORTER_ID))
        .await?;
    world.ready("principal", "importer").await?;
    world
        .sql("GRANT SET ON PARAMETER log_min_messages TO \"pg-operators\" WITH GRANT OPTION")
        .await?;
    for given in [
        "SET ROLE \"pg-operators\"; GRANT SET ON PARAMETER log_min_messages TO importer",
        "GRANT SET ON PARAMETER log_min_duration_statement TO importer",
    ] {
        ledger::run(&world, "orders", given).await?;
    }
    world.delete("principal", "importer").await?;
    let said = world
        .not_ready("principal", "importer", "NotRevocable")
        .await?;
    assert!(
        said.contains("log_min_duration_statement") && !said.contains("log_min_messages"),
        "{said}"
    );
    world
        .sql("REVOKE SET ON PARAMETER log_min_duration_statement FROM importer")
        .await?;
    gone(&world, "importer").await?;
    assert!(!exists(&world, "importer").await?);
    Ok(())
}
