//! Names with every odd character: taken literally in SQL, in the record, in answers.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{declared, furnished, has_exactly, ledger, made, says, set, setup, statement};
use crate::fixture::{World, condition};
use crate::fleet;

/// Everything that quotes, comments, formats or separates; 41 characters.
const ODD: &str = "O'd\"d \\ %s$1 ${x} {objectId};--\n/* ü,(|";

fn odd(text: &str) -> String {
    format!("{ODD}{text}")
}

fn ident(text: &str) -> String {
    postgres_protocol::escape::escape_identifier(&odd(text))
}

fn objects(kind: &str, names: &[&str], privilege: &str) -> Value {
    json!({"database": odd("db"), "schema": odd("schema"), "objects": kind, "names": names, "privileges": [privilege]})
}

/// SQL that counts what depends on a role: privileges, and what it owns.
fn depends(role: &str) -> String {
    let role = crate::roles::quoted(role);
    format!(
        "SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass \
         AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = {role})"
    )
}

async fn furnish(world: &World) -> Result<()> {
    let (group, owner, schema) = (ident("group"), ident("owner"), ident("schema"));
    world
        .sql(&format!("CREATE ROLE {group}; CREATE ROLE {owner}; GRANT {group}, {owner} TO \"pg-operators\" WITH ADMIN OPTION"))
        .await?;
    world
        .sql(&format!("CREATE DATABASE {} OWNER {owner}", ident("db")))
        .await?;
    let sql = format!(
        "CREATE SCHEMA {schema} AUTHORIZATION {owner}; SET ROLE {owner}; CREATE TABLE {schema}.{} (); CREATE TABLE {schema}.plain ();
         CREATE SEQUENCE {schema}.{}; CREATE FUNCTION {schema}.{}(integer, text) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        ident("table"),
        ident("seq"),
        ident("fun"),
    );
    ledger::run(world, &odd("db"), &sql).await
}

/// The principal, and the lines of its role.
fn everything(world: &World) -> (Value, BTreeSet<String>) {
    let (db, schema) = (odd("db"), odd("schema"));
    let function = format!("{}(integer, text)", odd("fun"));
    let id = "5e41ce00-0000-4000-9000-000000000001";
    let principal = json!({"type": "ManagedIdentity", "objectId": id});
    let mut object = world.principal("odd", &odd("role"), principal);
    object["spec"]["memberOf"] = json!([{"role": odd("group")}]);
    object["spec"]["role"] = json!({"settings": {"application_name": ODD}});
    object["spec"]["grants"] = json!([
        {"database": db, "privileges": ["CONNECT", "TEMPORARY"]},
        {"database": db, "schema": schema, "privileges": ["USAGE"]},
        objects("Tables", &[&odd("table")], "SELECT"),
        {"database": db, "schema": schema, "objects": "Tables", "all": true, "privileges": ["INSERT"]},
        objects("Sequences", &[&odd("seq")], "USAGE"),
        objects("Functions", &[&function], "EXECUTE"),
    ]);
    object["spec"]["defaultPrivileges"] = json!([{"database": db, "schema": schema, "owner": odd("owner"),
        "objects": "Functions", "privileges": ["EXECUTE"]}]);
    let at = |kind: &str, name: &str, privilege: &str| {
        format!("{db}|{schema}|{kind}|{name}|{privilege}")
    };
    let mut held = set(&["attributes f t f f t -1"]);
    held.extend([
        format!("member of {}", odd("group")),
        format!("setting application_name={ODD}"),
        format!("{db}||database||CONNECT"),
        format!("{db}||database||TEMPORARY"),
        at("schema", &schema, "USAGE"),
        at("table", &odd("table"), "SELECT"),
        at("table", &odd("table"), "INSERT"),
        at("table", "plain", "INSERT"),
        at("sequence", &odd("seq"), "USAGE"),
        at("function", &function, "EXECUTE"),
    ]);
    (object, held)
}

// Red when: a name is put into SQL, a record or an answer without quotes.
#[tokio::test(flavor = "multi_thread")]
async fn names_with_every_odd_character_are_taken_literally() -> Result<()> {
    let tenants = |spec: &mut Value| {
        spec["tenants"][0]["memberOf"] = json!([{"role": odd("group")}, {"role": odd("owner")}]);
    };
    let world = World::with("odd", setup(2, tenants)).await?;
    furnish(&world).await?;
    let (mut object, held) = everything(&world);
    world.apply(&object).await?;
    world.ready("principal", "odd").await?;
    let lines = ledger::of(&ledger::read(&world, &[&odd("db")]).await?, &odd("role"));
    let (defaults, lines): (BTreeSet<_>, BTreeSet<_>) = lines
        .into_iter()
        .filter(|line| !line.starts_with("label "))
        .map(|line| match line.split_once(" by ") {
            Some((member, _)) if member.starts_with("member of ") => member.to_owned(),
            _ => line,
        })
        .partition(|line| line.contains("|default of "));
    assert_eq!(lines, held);
    assert_eq!(defaults.len(), 1, "{defaults:?}");

    // The record of a role that is made by its name is completed by the server.
    let principal = json!({"type": "ManagedIdentity"});
    let mut by_name = world.principal("by-name", &fleet::name(0), principal);
    by_name["spec"]["grants"] =
        json!([{"database": odd("db"), "schema": odd("schema"), "privileges": ["USAGE"]}]);
    world.apply(&by_name).await?;
    world.ready("principal", "by-name").await?;
    by_name["spec"]["grants"] = json!([]);
    world.apply(&by_name).await?;
    world.wait_sql(&depends(&fleet::name(0)), Some("0")).await?;

    // And all of it is found again, and taken back.
    for field in ["memberOf", "grants", "defaultPrivileges"] {
        object["spec"][field] = json!([]);
    }
    object["spec"]["role"] = json!({});
    world.apply(&object).await?;
    world.wait_sql(&depends(&odd("role")), Some("0")).await?;
    let object = world.ready("principal", "odd").await?;
    ensure!(condition(&object, "RoleSynced").is("True"));
    Ok(())
}

/// Functions whose own names would end a statement that is put together of their signatures: name and
/// types.
const BREAKING_OUT: [(&str, &str); 6] = [
    ("a() TO hostile; GRANT azure_pg_admin TO hostile; --", ""),
    ("b(integer) TO hostile; --", "integer, text"),
    (
        "c\"() TO hostile; GRANT azure_pg_admin TO hostile; --",
        "text[]",
    ),
    ("d'() TO hostile\n; GRANT azure_pg_admin TO hostile; /*", ""),
    ("e)", "timestamp with time zone"),
    ("f(", "app.\"Odd (type\", \"char\""),
];

async fn breaking_out(world: &World, owner: &str) -> Result<Vec<String>> {
    let mut sql = vec![format!("SET ROLE {owner}")];
    let mut signatures = Vec::new();
    for (name, types) in BREAKING_OUT {
        let quoted = postgres_protocol::escape::escape_identifier(name);
        sql.push(format!(
            "CREATE FUNCTION app.{quoted}({types}) RETURNS integer LANGUAGE sql AS 'SELECT 1'"
        ));
        // Nobody is owed what everybody may.
        sql.push(format!(
            "REVOKE EXECUTE ON FUNCTION app.{quoted}({types}) FROM PUBLIC"
        ));
        signatures.push(format!("{name}({types})"));
    }
    ledger::run(world, "orders", &sql.join("; ")).await?;
    Ok(signatures)
}

/// Whoever wanted out got nothing.
async fn nobody_broke_out(world: &World) -> Result<()> {
    let lines = ledger::of(&ledger::read(world, &["orders"]).await?, "hostile");
    ensure!(
        lines == set(&["attributes f t f f f -1"]),
        "hostile got {lines:?}"
    );
    Ok(())
}

// Red when: a statement for a database administrator, or of a plan, has a function's name without quotes:
// run by a superuser it would give whoever made the function all rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_functions_name_cannot_break_out_of_a_statement_for_an_administrator() -> Result<()> {
    let world = furnished("breaking_out", setup(2, |_| ()), &[]).await?;
    let types =
        "CREATE TYPE app.\"Odd (type\" AS ENUM (); CREATE ROLE hostile; CREATE ROLE stranger;
         GRANT CREATE, USAGE ON SCHEMA app TO stranger";
    ledger::run(&world, "orders", types).await?;
    let signatures = breaking_out(&world, "stranger").await?;
    let all = json!({"database": "orders", "schema": "app", "objects": "Functions", "all": true, "privileges": ["EXECUTE"]});
    world
        .apply(&declared(&world, 0, &json!({"grants": [all]})))
        .await?;
    let ready = says(&world, 0, &["stranger"]).await?;
    assert_eq!(ready.reason, "NotGrantable", "{ready:?}");
    let name = fleet::name(0);
    let sql = statement(&ready.message, "GRANT EXECUTE", &format!(" TO \"{name}\""))?;
    ledger::run(&world, "orders", sql).await?;
    nobody_broke_out(&world).await?;
    world.ready("principal", &name).await?;
    let mut held = set(&[
        "attributes f t f f t -1",
        "orders|app|function|f(integer)|EXECUTE",
    ]);
    let line = |signature: &String| format!("orders|app|function|{signature}|EXECUTE");
    held.extend(signatures.iter().map(line));
    has_exactly(&world, &name, &[], &held, sql).await?;

    // And as a plan shows it.
    ledger::run(&world, "orders", "GRANT stranger TO \"pg-operators\"").await?;
    made(&world, 1, &json!({})).await?;
    let named = json!({"database": "orders", "schema": "app", "objects": "Functions", "names": signatures, "privileges": ["EXECUTE"]});
    let fields = json!({"mode": "Plan", "grants": [named]});
    world.apply(&declared(&world, 1, &fields)).await?;
    let name = fleet::name(1);
    let shown = |object: &Value| {
        let plan = object["status"]["plan"].as_array();
        let grant = plan?.iter().filter_map(Value::as_str);
        grant
            .filter(|statement| statement.starts_with("GRANT EXECUTE"))
            .map(str::to_owned)
            .next()
    };
    let object = world
        .wait("principal", &name, "shows its plan", |object| {
            shown(object).is_some()
        })
        .await?;
    let sql = shown(&object).unwrap_or_default();
    ledger::run(&world, "orders", &sql).await?;
    nobody_broke_out(&world).await?;
    held.remove("orders|app|function|f(integer)|EXECUTE");
    has_exactly(&world, &name, &[], &held, &sql).await?;
    Ok(())
}

// Red when: a statement of ours names functions as ROUTINE: one that can be taken for two keeps all others
// of the schema from being given.
#[tokio::test(flavor = "multi_thread")]
async fn a_routine_that_could_be_two_keeps_nobody_from_the_others() -> Result<()> {
    let world = furnished("ambiguous", setup(1, |_| ()), &[]).await?;
    ledger::run(
        &world,
        "orders",
        "CREATE ROLE hostile; GRANT CREATE, USAGE ON SCHEMA app TO hostile; SET ROLE hostile;
         CREATE PROCEDURE app.p(IN a integer, OUT \"b(\" text) LANGUAGE sql AS 'SELECT ''x''';
         CREATE FUNCTION app.p(integer, text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
         CREATE PROCEDURE app.q(integer, VARIADIC text[]) LANGUAGE sql AS 'SELECT 1';
         GRANT EXECUTE ON ALL ROUTINES IN SCHEMA app TO \"pg-operators\" WITH GRANT OPTION",
    )
    .await?;
    let all = json!({"database": "orders", "schema": "app", "objects": "Functions", "all": true, "privileges": ["EXECUTE"]});
    made(&world, 0, &json!({"grants": [all]})).await?;
    let bare = "attributes f t f f t -1";
    let held = set(&[
        bare,
        "orders|app|function|f(integer)|EXECUTE",
        "orders|app|function|p(integer)|EXECUTE",
        "orders|app|function|p(integer, text)|EXECUTE",
        "orders|app|function|q(integer, text[])|EXECUTE",
    ]);
    let name = fleet::name(0);
    has_exactly(&world, &name, &[], &held, "all").await?;
    let one = json!({"database": "orders", "schema": "app", "objects": "Functions", "names": ["p(integer)"], "privileges": ["EXECUTE"]});
    made(&world, 0, &json!({"grants": [one]})).await?;
    let held = set(&[bare, "orders|app|function|p(integer)|EXECUTE"]);
    has_exactly(&world, &name, &[], &held, "one").await?;
    made(&world, 0, &json!({})).await?;
    has_exactly(&world, &name, &[], &set(&[bare]), "none").await?;
    Ok(())
}

/// Makes database `narrow`, whose encoding has few characters.
pub(super) async fn narrow(world: &World) -> Result<()> {
    world
        .sql("CREATE DATABASE narrow OWNER azure_pg_admin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        .await
}

// Red when: a name that a database's encoding does not have fails the question that all share, or is said
// to be nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_an_encoding_does_not_have_is_reported_to_whom_it_belongs() -> Result<()> {
    let world = furnished("encoding", setup(5, |_| ()), &[]).await?;
    narrow(&world).await?;
    ledger::run(
        &world,
        "narrow",
        "CREATE SCHEMA app AUTHORIZATION app_owner; SET ROLE app_owner; CREATE TABLE app.\"tür\" ()",
    )
    .await?;
    let on = |name: &str| json!({"grants": [{"database": "narrow", "schema": "app", "objects": "Tables", "names": [name], "privileges": ["SELECT"]}]});
    made(&world, 0, &on("tür")).await?;
    world.apply(&declared(&world, 1, &on("→"))).await?;
    let ready = says(&world, 1, &["narrow", "encoding"]).await?;
    ensure!(ready.status == "False", "{ready:?}");
    for n in 2..5 {
        made(&world, n, &on("tür")).await?;
    }

    // Snapshots see the drift of the others.
    for n in [0, 4] {
        let name = fleet::name(n);
        ledger::run(
            &world,
            "narrow",
            &format!("REVOKE SELECT ON app.\"tür\" FROM \"{name}\""),
        )
        .await?;
        let held = set(&["attributes f t f f t -1", "narrow|app|table|tür|SELECT"]);
        has_exactly(&world, &name, &["narrow"], &held, "put back").await?;
    }
    let failed = "entra_postgres_server_snapshot_failures_total";
    assert_eq!(world.metric(failed).await?, 0, "snapshots that failed");
    made(&world, 1, &on("tür")).await?;
    Ok(())
}
