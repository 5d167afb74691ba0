//! Declared, and not there or not possible: what is wrong is said, the rest is done, and it heals when
//! the server changes.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    control, declared, furnished, has_exactly, improved, ledger, made, major, noticed, says, set,
    setup,
};

use crate::fleet;

fn objects(database: &str, schema: &str, kind: &str, names: &[&str], privilege: &str) -> Value {
    json!({"database": database, "schema": schema, "objects": kind, "names": names, "privileges": [privilege]})
}

// Red when: the absence of one thing ends the work on the rest, or nobody looks for it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_named_the_rest_is_given_and_it_heals_when_it_appears() -> Result<()>
{
    let world = furnished("absent", setup(2, |_| ()), &[]).await?;
    let fields = json!({
        "memberOf": [{"role": "readers"}, {"role": "heir"}],
        "grants": [
            {"database": "nowhere", "privileges": ["CONNECT"]},
            {"database": "orders", "privileges": ["CONNECT"]},
            {"database": "orders", "schema": "missing_schema", "privileges": ["USAGE"]},
            {"database": "orders", "schema": "missing_schema", "objects": "Tables", "all": true, "privileges": ["SELECT"]},
            objects("orders", "app", "Tables", &["t1", "missing_table"], "SELECT"),
            objects("orders", "app", "Sequences", &["missing_sequence"], "USAGE"),
            objects("orders", "app", "Functions", &["f(integer)", "f(text)", "missing_function()"], "EXECUTE"),
        ],
        "defaultPrivileges": [{"database": "orders", "schema": "app", "owner": "owners", "objects": "Tables", "privileges": ["SELECT"]}],
    });
    world.apply(&declared(&world, 0, &fields)).await?;
    let absent = [
        "nowhere",
        "missing_schema",
        "missing_table",
        "missing_sequence",
        "f(text)",
        "missing_function",
        "heir",
        "owners",
    ];
    let ready = says(&world, 0, &absent).await?;
    assert_eq!(ready.reason, "ObjectNotFound", "{ready:?}");
    ensure!(
        ready.message.contains("f(integer)"),
        "the signatures there are: {ready:?}"
    );
    let mut held = set(&[
        "attributes f t f f t -1",
        "member of readers",
        "orders||database||CONNECT",
        "orders|app|table|t1|SELECT",
        "orders|app|function|f(integer)|EXECUTE",
    ]);
    let name = fleet::name(0);
    has_exactly(&world, &name, &[], &held, "the rest").await?;

    world
        .sql("CREATE ROLE heir; GRANT heir TO \"pg-operators\" WITH ADMIN OPTION; CREATE ROLE owners; GRANT owners TO \"pg-operators\"")
        .await?;
    world
        .sql("CREATE DATABASE nowhere OWNER azure_pg_admin")
        .await?;
    ledger::run(
        &world,
        "orders",
        "CREATE SCHEMA missing_schema AUTHORIZATION app_owner; SET ROLE app_owner; CREATE TABLE missing_schema.t (); CREATE TABLE app.missing_table ();
         CREATE SEQUENCE app.missing_sequence; CREATE FUNCTION app.f(text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
         CREATE PROCEDURE app.missing_function() LANGUAGE sql AS 'SELECT 1'",
    )
    .await?;
    world.ready("principal", &name).await?;
    held.extend(set(&[
        "member of heir",
        "nowhere||database||CONNECT",
        "orders|missing_schema|schema|missing_schema|USAGE",
        "orders|missing_schema|table|t|SELECT",
        "orders|app|table|missing_table|SELECT",
        "orders|app|sequence|missing_sequence|USAGE",
        "orders|app|function|f(text)|EXECUTE",
        "orders|app|function|missing_function()|EXECUTE",
        "orders|app|default of owners|r|SELECT",
    ]));
    has_exactly(&world, &name, &["nowhere"], &held, "all").await?;

    // What is dropped again is no reason to fail at the rest, and is said again.
    ledger::run(
        &world,
        "orders",
        "DROP TABLE app.missing_table; DROP SCHEMA missing_schema CASCADE",
    )
    .await?;
    world.sql("DROP DATABASE nowhere WITH (FORCE)").await?;
    says(&world, 0, &["nowhere", "missing_schema", "missing_table"]).await?;
    // Nor is it one when nothing of it is declared any more.
    made(&world, 0, &json!({})).await?;
    has_exactly(
        &world,
        &name,
        &[],
        &set(&["attributes f t f f t -1"]),
        "nothing",
    )
    .await?;
    Ok(())
}

// Red when: memberships::plan does not ask whether the other role is a member of this one.
#[tokio::test(flavor = "multi_thread")]
async fn loops_bad_settings_and_what_the_version_lacks_are_said_and_the_rest_is_done() -> Result<()>
{
    let world = furnished("impossible", improved(4), &[]).await?;
    let (looped, set_wrong, dated) = (0, 1, 2);
    made(&world, looped, &json!({})).await?;
    let name = fleet::name(looped);
    world
        .sql(&format!(
            "CREATE ROLE owners; GRANT \"{name}\" TO owners; GRANT owners TO readers"
        ))
        .await?;
    let fields = json!({"memberOf": [{"role": "readers"}, {"role": "writers"}]});
    world.apply(&declared(&world, looped, &fields)).await?;
    let fields = json!({"role": {"settings": {"no_such_parameter": "x", "work_mem": "lots", "statement_timeout": "30s"}}, "memberOf": [{"role": "readers"}]});
    world.apply(&declared(&world, set_wrong, &fields)).await?;
    let fields = json!({
        "memberOf": [{"role": "readers", "inherit": false}, {"role": "writers"}],
        "grants": [objects("orders", "app", "Tables", &["t1"], "MAINTAIN"), objects("orders", "app", "Tables", &["t1"], "SELECT")],
    });
    world.apply(&declared(&world, dated, &fields)).await?;

    let ready = says(&world, looped, &["readers"]).await?;
    assert_eq!(ready.reason, "MembershipLoop", "{ready:?}");
    let held = set(&["attributes f t f f t -1", "member of writers"]);
    has_exactly(&world, &name, &[], &held, "no loop").await?;
    world.sql(&format!("REVOKE \"{name}\" FROM owners")).await?;
    world.ready("principal", &name).await?;
    world
        .wait_sql(
            &format!("SELECT pg_has_role('{name}', 'readers', 'MEMBER')"),
            Some("t"),
        )
        .await?;

    says(&world, set_wrong, &["no_such_parameter", "work_mem"]).await?;
    let held = set(&[
        "attributes f t f f t -1",
        "member of readers",
        "setting statement_timeout=30s",
    ]);
    has_exactly(
        &world,
        &fleet::name(set_wrong),
        &[],
        &held,
        "the good setting",
    )
    .await?;
    made(&world, set_wrong, &json!({})).await?;

    let name = fleet::name(dated);
    let major = major(&world).await?;
    let mut held = set(&[
        "attributes f t f f t -1",
        "member of writers",
        "orders|app|table|t1|SELECT",
    ]);
    if major < 17 {
        let ready = says(&world, dated, &["MAINTAIN", "17"]).await?;
        assert_eq!(ready.reason, "NotSupportedByVersion", "{ready:?}");
    }
    if major < 16 {
        says(&world, dated, &["inherit", "16"]).await?;
    } else {
        held.extend(set(&[
            "member of readers without inherit",
            "orders|app|table|t1|MAINTAIN",
        ]));
        world.ready("principal", &name).await?;
    }
    has_exactly(&world, &name, &[], &held, "what there is").await?;
    Ok(())
}

// Red when: Worker::fold_inside tells nobody: what one principal's first question finds, no later snapshot
// differs from, and the others never hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_principal_finds_first_is_given_to_all() -> Result<()> {
    let rarely = |spec: &mut Value| spec["resyncInterval"] = json!("1h");
    let world = furnished("found_first", setup(3, rarely), &[]).await?;
    ledger::run(
        &world,
        "orders",
        "CREATE SCHEMA empty AUTHORIZATION app_owner",
    )
    .await?;
    let all = json!({"grants": [{"database": "orders", "schema": "empty", "objects": "Tables", "all": true, "privileges": ["SELECT"]}]});
    made(&world, 0, &all).await?;
    made(&world, 1, &all).await?;
    ledger::run(
        &world,
        "orders",
        "SET ROLE app_owner; CREATE TABLE empty.t1 (); CREATE TABLE empty.t2 ()",
    )
    .await?;
    made(&world, 2, &all).await?;
    let held = set(&[
        "attributes f t f f t -1",
        "orders|empty|table|t1|SELECT",
        "orders|empty|table|t2|SELECT",
    ]);
    for n in 0..3 {
        has_exactly(&world, &fleet::name(n), &[], &held, "all").await?;
    }
    Ok(())
}

// Red when: snapshots_inside makes all databases due that somebody names: each costs a sign-in in vain per
// snapshot, and perhaps the place of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_shut_is_not_signed_in_to_again_and_again() -> Result<()> {
    let world = furnished("shut", setup(2, |_| ()), &[]).await?;
    world
        .sql("CREATE DATABASE closed ALLOW_CONNECTIONS false")
        .await?;
    made(&world, 0, &control()).await?;
    let grants =
        ["nowhere", "closed"].map(|database| objects(database, "app", "Tables", &["t"], "SELECT"));
    let fields = json!({"grants": grants});
    world.apply(&declared(&world, 1, &fields)).await?;
    says(&world, 1, &["nowhere", "closed"]).await?;
    for _ in 0..3 {
        noticed(&world, 0).await?;
    }
    let log = world.azure.postgres().await?.log();
    for refusal in [
        "database \"nowhere\" does not exist",
        "database \"closed\" is not currently accepting",
    ] {
        // Before the first look nobody knows.
        let tried = log.matches(refusal).count();
        ensure!(tried <= 1, "{refusal}: {tried} times");
    }

    // When it is there it is seen.
    world.sql("DROP DATABASE closed").await?;
    for database in ["nowhere", "closed"] {
        world
            .sql(&format!("CREATE DATABASE {database} OWNER azure_pg_admin"))
            .await?;
        ledger::run(
            &world,
            database,
            "CREATE SCHEMA app AUTHORIZATION app_owner; SET ROLE app_owner; CREATE TABLE app.t ()",
        )
        .await?;
    }
    world.ready("principal", &fleet::name(1)).await?;
    Ok(())
}
