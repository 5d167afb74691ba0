//! What the operator's administrator may not give or take: known beforehand, with the statement that
//! helps, and that statement helps.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::hostile::{logged, sent};
use super::{
    control, declared, furnished, has_exactly, improved, ledger, made, major, noticed, says, set,
    setup, statement,
};
use crate::fixture::{World, condition};
use crate::fleet;

fn on(kind: &str, names: &[&str], privilege: &str) -> Value {
    json!({"database": "orders", "schema": "app", "objects": kind, "names": names, "privileges": [privilege]})
}

/// The statement by which a database administrator lends us the privileges of a role.
pub(super) async fn lend(world: &World, message: &str, owner: &str) -> Result<()> {
    let end = if major(world).await? < 16 {
        "TO \"pg-operators\""
    } else {
        "WITH INHERIT TRUE"
    };
    let sql = statement(message, &format!("GRANT \"{owner}\" TO"), end)?;
    world.sql(sql).await
}

// Red when: `rights::privileges` or `objects` plans what we may not grant, or forgets to say how it could be.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_granted_is_said_with_the_statement_that_heals_it() -> Result<()> {
    let world = furnished("ungrantable", setup(5, |_| ()), &[]).await?;
    ledger::run(
        &world,
        "orders",
        "CREATE ROLE stranger; CREATE ROLE another; GRANT CREATE, USAGE ON SCHEMA app TO stranger; CREATE SCHEMA theirs AUTHORIZATION stranger;
         SET ROLE stranger; CREATE TABLE app.\"Their table\" ()",
    )
    .await?;
    world.sql("CREATE DATABASE lent OWNER stranger").await?;
    let (table, schema, database, default, noticing) = (0, 1, 2, 3, 4);
    made(&world, noticing, &control()).await?;
    let log = logged(&world, noticing).await?;
    let defaults = json!([{"database": "orders", "schema": "app", "owner": "another", "objects": "Tables", "privileges": ["SELECT"]}]);
    for (n, fields) in [
        (
            table,
            json!({"grants": [on("Tables", &["Their table", "t1"], "SELECT"), on("Functions", &["f(integer)"], "EXECUTE")]}),
        ),
        (
            schema,
            json!({"grants": [{"database": "orders", "schema": "theirs", "privileges": ["USAGE"]}]}),
        ),
        (
            database,
            json!({"grants": [{"database": "lent", "privileges": ["TEMPORARY"]}]}),
        ),
        (default, json!({"defaultPrivileges": defaults})),
    ] {
        world.apply(&declared(&world, n, &fields)).await?;
    }
    let bare = "attributes f t f f t -1";
    let given = [
        bare,
        "orders|app|table|t1|SELECT",
        "orders|app|function|f(integer)|EXECUTE",
    ];
    let said = says(&world, table, &["stranger", "Their table"]).await?;
    has_exactly(&world, &fleet::name(table), &[], &set(&given), "the rest").await?;
    assert_eq!(said.reason, "NotGrantable", "{said:?}");

    for (n, owner) in [
        (schema, "\"stranger\""),
        (database, "\"stranger\""),
        (default, "another"),
    ] {
        says(&world, n, &[owner]).await?;
    }
    // It is known beforehand, and stays known: nothing is sent that would be refused.
    for _ in 0..2 {
        noticed(&world, noticing).await?;
    }
    let log = sent(&world, log).await?;
    let statements: Vec<&str> = log.iter().flat_map(|entry| entry.split(";\n")).collect();
    let granted = |what: &str, on: &str| {
        let mut statements = statements.iter();
        statements.any(|statement| statement.contains(what) && statement.contains(on))
    };
    ensure!(
        granted("GRANT SELECT", "\"t1\""),
        "nothing is seen in the log"
    );
    for (what, on) in [
        ("GRANT SELECT", "\"Their table\""),
        ("GRANT USAGE", "\"theirs\""),
        ("GRANT TEMPORARY", "\"lent\""),
        ("ALTER DEFAULT PRIVILEGES", "\"another\""),
    ] {
        ensure!(!granted(what, on), "{what} on {on} was sent: {log:#?}");
    }

    // Given by whoever may.
    for (n, place, missing) in [
        (schema, "orders", "orders|theirs|schema|theirs|USAGE"),
        (database, "postgres", "lent||database||TEMPORARY"),
    ] {
        let name = fleet::name(n);
        let ready = says(&world, n, &["\"stranger\""]).await?;
        assert_eq!(ready.reason, "NotGrantable", "{ready:?}");
        has_exactly(&world, &name, &[], &set(&[bare]), "nothing").await?;
        let end = format!("TO \"{name}\"");
        let sql = statement(&ready.message, "GRANT ", &end)?;
        ledger::run(&world, place, sql).await?;
        world.ready("principal", &name).await?;
        has_exactly(&world, &name, &[], &set(&[bare, missing]), sql).await?;
    }
    // Or we are lent the right.
    let name = fleet::name(default);
    let ready = says(&world, default, &["another"]).await?;
    assert_eq!(ready.reason, "NotGrantable", "{ready:?}");
    lend(&world, &ready.message, "another").await?;
    world.ready("principal", &name).await?;
    let held = set(&[bare, "orders|app|default of another|r|SELECT"]);
    has_exactly(&world, &name, &[], &held, "lent").await?;

    let name = fleet::name(table);
    lend(&world, &said.message, "stranger").await?;
    world.ready("principal", &name).await?;
    let mut held = set(&given);
    held.insert("orders|app|table|Their table|SELECT".to_owned());
    has_exactly(&world, &name, &[], &held, "lent").await?;
    // What we gave so we take back.
    world.apply(&declared(&world, table, &json!({}))).await?;
    has_exactly(&world, &name, &[], &set(&[bare]), "nothing").await?;
    Ok(())
}

// Red when: a database that cannot be looked at keeps the others from being worked on, or the way in is
// not said.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_closed_to_us_is_said_and_the_others_are_worked_on() -> Result<()> {
    let world = furnished("closed", setup(1, |_| ()), &[]).await?;
    world.sql("CREATE DATABASE closed").await?;
    world
        .sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        .await?;
    ledger::run(
        &world,
        "closed",
        "CREATE SCHEMA app AUTHORIZATION app_owner",
    )
    .await?;
    let usage =
        |database: &str| json!({"database": database, "schema": "app", "privileges": ["USAGE"]});
    let fields = json!({"grants": [usage("closed"), usage("orders")]});
    world.apply(&declared(&world, 0, &fields)).await?;
    let ready = says(&world, 0, &["closed", "\"pg-operators\""]).await?;
    assert_eq!(ready.reason, "DatabaseNotAccessible", "{ready:?}");
    let name = fleet::name(0);
    let mut held = set(&["attributes f t f f t -1", "orders|app|schema|app|USAGE"]);
    has_exactly(&world, &name, &[], &held, "the other").await?;
    let sql = statement(&ready.message, "GRANT CONNECT", "TO \"pg-operators\"")?;
    world.sql(sql).await?;
    world.ready("principal", &name).await?;
    held.insert("closed|app|schema|app|USAGE".to_owned());
    has_exactly(&world, &name, &["closed"], &held, sql).await?;

    // Closed to everybody later: said, and the drift of others is still put back.
    world
        .sql("ALTER DATABASE closed ALLOW_CONNECTIONS false")
        .await?;
    world
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'closed'")
        .await?;
    says(&world, 0, &["closed", "ALLOW_CONNECTIONS"]).await?;
    ledger::run(
        &world,
        "orders",
        &format!("REVOKE USAGE ON SCHEMA app FROM \"{name}\""),
    )
    .await?;
    held.remove("closed|app|schema|app|USAGE");
    has_exactly(&world, &name, &[], &held, "drift in the other").await?;
    Ok(())
}

// Red when: Exclusive plans to take back what another gave although we cannot speak for them.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_gave_and_only_they_can_take_is_said_with_the_statement() -> Result<()> {
    let world = furnished("irrevocable", setup(1, |_| ()), &[]).await?;
    let name = fleet::name(0);
    let fields =
        json!({"privilegePolicy": "Exclusive", "grants": [on("Tables", &["t1"], "SELECT")]});
    world.apply(&declared(&world, 0, &fields)).await?;
    world.ready("principal", &name).await?;
    ledger::run(
        &world,
        "orders",
        &format!(
            "CREATE ROLE stranger; GRANT USAGE, CREATE ON SCHEMA app TO stranger; SET ROLE stranger; CREATE TABLE app.theirs (); GRANT INSERT ON app.theirs TO \"{name}\";
             RESET ROLE; GRANT UPDATE ON app.t1 TO \"{name}\""
        ),
    )
    .await?;
    let ready = says(&world, 0, &["stranger", "theirs"]).await?;
    assert_eq!(ready.reason, "NotRevocable", "{ready:?}");
    let mut held = set(&[
        "attributes f t f f t -1",
        "orders|app|table|t1|SELECT",
        "orders|app|table|theirs|INSERT",
    ]);
    has_exactly(&world, &name, &[], &held, "what we may take").await?;
    let sql = statement(&ready.message, "SET ROLE", "RESET ROLE")?;
    ledger::run(&world, "orders", sql).await?;
    world.ready("principal", &name).await?;
    held.remove("orders|app|table|theirs|INSERT");
    has_exactly(&world, &name, &[], &held, sql).await?;
    Ok(())
}

/// A membership in a role of a database administrator; on 16 and later it needs ADMIN OPTION.
async fn member(world: &World, needs_option: bool) -> Result<()> {
    let name = fleet::name(0);
    world.sql("CREATE ROLE heir").await?;
    let fields = json!({"memberOf": [{"role": "heir"}, {"role": "readers"}]});
    world.apply(&declared(world, 0, &fields)).await?;
    let mut held = set(&["attributes f t f f t -1", "member of readers"]);
    if needs_option {
        let ready = says(world, 0, &["heir"]).await?;
        assert_eq!(ready.reason, "MissingAdminOption", "{ready:?}");
        has_exactly(world, &name, &[], &held, "the rest").await?;
        let sql = statement(&ready.message, "GRANT ", "WITH ADMIN OPTION")?;
        ensure!(
            sql.contains("heir") && sql.contains("\"pg-operators\""),
            "{sql}"
        );
        world.sql(sql).await?;
    }
    world.ready("principal", &name).await?;
    held.insert("member of heir".to_owned());
    has_exactly(world, &name, &[], &held, "the membership").await?;
    // What was so given is taken back.
    let fields = json!({"memberOf": [{"role": "readers"}]});
    world.apply(&declared(world, 0, &fields)).await?;
    held.remove("member of heir");
    has_exactly(world, &name, &[], &held, "without it").await?;
    let object = world.ready("principal", &name).await?;
    ensure!(condition(&object, "RoleSynced").is("True"));
    Ok(())
}

// Red when: memberships::plan asks CREATEROLE where it takes ADMIN OPTION, or the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn a_membership_in_somebody_elses_role_needs_their_option_from_16_on() -> Result<()> {
    let world = furnished("member", setup(1, |_| ()), &[]).await?;
    let major = major(&world).await?;
    member(&world, major >= 16).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_improved_control_it_needs_nothing() -> Result<()> {
    let world = furnished("member_improved", improved(1), &[]).await?;
    member(&world, false).await
}

// Red when: the question does not say whose the objects are on which we may not grant.
#[tokio::test(flavor = "multi_thread")]
async fn with_all_objects_declared_those_of_the_role_itself_lack_nothing() -> Result<()> {
    let world = furnished("own_objects", setup(1, |_| ()), &[]).await?;
    let name = fleet::name(0);
    let all = json!({"database": "orders", "schema": "app", "objects": "Tables", "all": true, "privileges": ["SELECT"]});
    super::made(&world, 0, &json!({"grants": [all]})).await?;
    let own = format!(
        "DROP TABLE app.t1, app.t2; CREATE TABLE app.a_own (); ALTER TABLE app.a_own OWNER TO \"{name}\";
         CREATE ROLE stranger; CREATE TABLE app.theirs (); ALTER TABLE app.theirs OWNER TO stranger"
    );
    ledger::run(&world, "orders", &own).await?;
    let ready = says(&world, 0, &["theirs", "owner \"stranger\""]).await?;
    assert_eq!(ready.reason, "NotGrantable", "{ready:?}");
    ensure!(!ready.message.contains("a_own"), "{ready:?}");
    ledger::run(&world, "orders", "DROP TABLE app.theirs").await?;
    world.ready("principal", &name).await.map(|_| ())
}
