//! Every kind of object and odd signatures; privileges that were passed on; too many on one object.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{declared, furnished, has_exactly, ledger, made, says, set, setup};
use crate::fixture::condition;
use crate::fleet;

const BARE: &str = "attributes f t f f t -1";

/// What there may be in a schema, beyond what is there.
const KINDS: &str = "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
    CREATE FOREIGN TABLE app.foreign_one () SERVER nowhere; ALTER FOREIGN TABLE app.foreign_one OWNER TO app_owner;
    SET ROLE app_owner; CREATE VIEW app.view AS SELECT 1 AS n; CREATE MATERIALIZED VIEW app.matview AS SELECT 1 AS n;
    CREATE TABLE app.parts (n int) PARTITION BY RANGE (n); CREATE TABLE app.part PARTITION OF app.parts DEFAULT;
    CREATE TABLE app.counted (n int GENERATED ALWAYS AS IDENTITY); CREATE TYPE app.mood AS ENUM ('good');
    CREATE FUNCTION app.arrays(text[], timestamp with time zone) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION app.moods(app.mood, numeric(10,2)) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION app.outs(integer, OUT text) LANGUAGE sql AS 'SELECT ''x''';
    CREATE FUNCTION app.many(VARIADIC integer[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE PROCEDURE app.proc(INOUT a int, b text DEFAULT 'x') LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE app.total(numeric) (SFUNC = numeric_add, STYPE = numeric);
    CREATE AGGREGATE app.place(double precision ORDER BY double precision)
      (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = percentile_disc_final, FINALFUNC_EXTRA);
    CREATE AGGREGATE app.rows(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0')";
const TABLES: [&str; 8] = [
    "t1",
    "t2",
    "foreign_one",
    "view",
    "matview",
    "parts",
    "part",
    "counted",
];
const FUNCTIONS: [&str; 9] = [
    "f(integer)",
    "arrays(text[], timestamp with time zone)",
    "moods(app.mood, numeric)",
    "outs(integer)",
    "many(integer[])",
    "proc(integer, text)",
    "total(numeric)",
    "place(double precision, double precision)",
    "rows()",
];

// Red when: the questions about a database leave a relkind or prokind out, or signatures are written
// by another search_path than they are read.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_kind_are_found_by_name_and_as_all() -> Result<()> {
    let world = furnished("kinds", setup(2, |_| ()), &[]).await?;
    // CREATE AGGREGATE asks for more than a schema's owner has.
    let kinds = KINDS.replace(
        "CREATE AGGREGATE app.place",
        "RESET ROLE; CREATE AGGREGATE app.place",
    );
    ledger::run(&world, "orders", &kinds).await?;
    ledger::run(
        &world,
        "orders",
        "ALTER AGGREGATE app.place(double precision ORDER BY double precision) OWNER TO app_owner; ALTER AGGREGATE app.rows(*) OWNER TO app_owner",
    )
    .await?;
    let entry = |kind: &str, privilege: &str| json!({"database": "orders", "schema": "app", "objects": kind, "privileges": [privilege]});
    let sequences = ["s1", "counted_n_seq"];
    let scopes = [
        ("Tables", "table", "SELECT", TABLES.as_slice()),
        ("Functions", "function", "EXECUTE", FUNCTIONS.as_slice()),
        ("Sequences", "sequence", "USAGE", sequences.as_slice()),
    ];
    let mut held = set(&[BARE]);
    let (mut all, mut named) = (Vec::new(), Vec::new());
    for (kind, word, privilege, names) in scopes {
        held.extend(
            names
                .iter()
                .map(|name| format!("orders|app|{word}|{name}|{privilege}")),
        );
        let mut scope = entry(kind, privilege);
        scope["all"] = json!(true);
        all.push(scope);
        let mut scope = entry(kind, privilege);
        scope["names"] = json!(names);
        named.push(scope);
    }
    for (n, grants) in [(0, all), (1, named)] {
        let object = declared(&world, n, &json!({"grants": grants}));
        world.apply(&object).await?;
    }
    for n in [0, 1] {
        has_exactly(&world, &fleet::name(n), &[], &held, "given").await?;
        world.ready("principal", &fleet::name(n)).await?;
        world.apply(&declared(&world, n, &json!({}))).await?;
        has_exactly(&world, &fleet::name(n), &[], &set(&[BARE]), "nothing").await?;
    }
    Ok(())
}

// Red when: a REVOKE that is refused because its privilege was passed on keeps the rest from being done,
// is sent with CASCADE, or is not said.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_on_is_not_torn_away_from_others() -> Result<()> {
    let world = furnished("passed_on", setup(2, |_| ()), &[]).await?;
    let (table, group) = (0, 1);
    let select = json!({"database": "orders", "schema": "app", "objects": "Tables", "names": ["t1"], "privileges": ["SELECT"]});
    let exclusive = json!({"privilegePolicy": "Exclusive", "grants": [select]});
    made(&world, table, &exclusive).await?;
    let member = json!({"memberOf": [{"role": "writers", "admin": true}, {"role": "readers"}]});
    made(&world, group, &member).await?;
    let (giver, admin) = (fleet::name(table), fleet::name(group));
    ledger::run(
        &world,
        "orders",
        &format!(
            "GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT INSERT ON app.t1 TO \"{giver}\" WITH GRANT OPTION; GRANT USAGE ON SCHEMA app TO \"{giver}\";
             SET ROLE \"{giver}\"; GRANT INSERT ON app.t1 TO bystander; RESET ROLE; SET ROLE \"{admin}\"; GRANT writers TO bystander"
        ),
    )
    .await?;
    let ready = says(&world, table, &["dependent privileges", "CASCADE"]).await?;
    assert_eq!(ready.reason, "NotRevocable", "{ready:?}");
    let held = set(&[
        BARE,
        "orders|app|table|t1|SELECT",
        "orders|app|table|t1|INSERT",
    ]);
    has_exactly(&world, &giver, &[], &held, "the rest is taken").await?;

    let fields = json!({"memberOf": []});
    world.apply(&declared(&world, group, &fields)).await?;
    // Up to PostgreSQL 15 memberships do not depend on each other.
    let depends = super::major(&world).await? >= 16;
    if depends {
        says(&world, group, &["writers"]).await?;
        let held = set(&[BARE, "member of writers with admin"]);
        has_exactly(&world, &admin, &[], &held, "the rest is left").await?;
    }
    let kept = "SELECT pg_has_role('bystander', 'writers', 'MEMBER') AND has_table_privilege('bystander', 'app.t1', 'INSERT')";
    let client = ledger::superuser(&world, "orders").await?;
    let kept: bool = client.query_one(kept, &[]).await?.get(0);
    ensure!(kept, "somebody else lost what was passed on");

    // Once nobody else depends on it, it goes.
    ledger::run(
        &world,
        "orders",
        &format!("SET ROLE \"{giver}\"; REVOKE INSERT ON app.t1 FROM bystander"),
    )
    .await?;
    if depends {
        ledger::run(
            &world,
            "orders",
            &format!("REVOKE writers FROM bystander GRANTED BY \"{admin}\""),
        )
        .await?;
    }
    has_exactly(
        &world,
        &giver,
        &[],
        &set(&[BARE, "orders|app|table|t1|SELECT"]),
        "gone",
    )
    .await?;
    has_exactly(&world, &admin, &[], &set(&[BARE]), "gone").await?;
    for name in [giver, admin] {
        world.ready("principal", &name).await?;
    }
    Ok(())
}

// Red when: notes of a plan are not told.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_grantees_of_one_table_are_warned_of() -> Result<()> {
    let world = furnished("crowd", setup(1, |_| ()), &[]).await?;
    ledger::run(
        &world,
        "orders",
        "DO $$ DECLARE list text; BEGIN FOR n IN 0..1000 LOOP EXECUTE format('CREATE ROLE crowd%s', n); END LOOP;
         SELECT string_agg('crowd' || n, ', ') INTO list FROM generate_series(0, 1000) AS n;
         EXECUTE 'GRANT SELECT ON app.t1 TO ' || list; END $$",
    )
    .await?;
    let select = json!({"database": "orders", "schema": "app", "objects": "Tables", "names": ["t1"], "privileges": ["SELECT"]});
    made(&world, 0, &json!({"grants": [select]})).await?;
    let advised = |object: &serde_json::Value| {
        let ready = condition(object, "Ready");
        ready.is("True") && ready.message.contains("memberOf") && ready.message.contains("t1")
    };
    let name = fleet::name(0);
    world
        .wait("principal", &name, "Ready, with advice", advised)
        .await?;
    Ok(())
}
