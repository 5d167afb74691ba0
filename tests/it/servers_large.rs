//! Servers on which others made something very large: the operator stays small, before and after a
//! restart, and everybody else is served.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::fixture::{World, condition};

/// What the operator may take, in MiB. The chart's limit is 256.
const MOST: u64 = 150;

/// The beginning of a marker.
const PREFIX: &str =
    "Managed by entra-postgres-operator for EntraPostgresPrincipal a/b; do not edit: {";

/// The most memory that the operator has had, in MiB.
fn peak(world: &World) -> Result<u64> {
    let pid = world.operator.as_ref().context("no operator runs")?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.split_whitespace().next());
    Ok(peak.context("no VmHWM")?.parse::<u64>()? / 1024)
}

/// SQL as the superuser who may write into catalogs.
async fn catalogs(world: &World, database: &str, sql: &str) -> Result<()> {
    let client = crate::rights::ledger::superuser(world, database).await?;
    let allow = "SET allow_system_table_mods = on";
    client.batch_execute(allow).await?;
    client
        .batch_execute(sql)
        .await
        .with_context(|| sql.to_owned())
}

/// The server goes on: drift of the victim's role is put back, and the operator stays small; and so it is
/// after a restart.
async fn is_served(world: &mut World) -> Result<()> {
    let label = "SECURITY LABEL FOR pgaadauth ON ROLE \"orders-api\" IS NULL";
    let bound = "SELECT count(*) FROM pg_shseclabel AS l JOIN pg_roles AS r ON r.oid = l.objoid \
                 WHERE r.rolname = 'orders-api' AND l.provider = 'pgaadauth'";
    for restart in [false, true] {
        if restart {
            world.kill_operator();
            world.start_operator().await?;
        }
        for _ in 0..2 {
            world.ready("server", "server").await?;
            world.ready("principal", "api").await?;
            world.sql(label).await?;
            world.wait_sql(bound, Some("1")).await?;
        }
        let peak = peak(world)?;
        assert!(peak <= MOST, "{peak} MiB, restarted: {restart}");
    }
    Ok(())
}

/// A world with `api`, and a group's role with these grants.
async fn begun(test: &str, grants: Value) -> Result<World> {
    let world = World::start(test).await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let mut group = world.principal("group", "Prod DB Readonly", json!({"type": "Group"}));
    group["spec"]["grants"] = grants;
    world.apply(&group).await?;
    world
        .wait("principal", "group", "looked at", |object| {
            condition(object, "RoleSynced").current
        })
        .await?;
    Ok(world)
}

// Red when: comments are read whole, or those of roles that nobody wants are read at all.
#[tokio::test(flavor = "multi_thread")]
async fn comments_of_many_megabytes_and_thousands_of_forged_markers_are_not_read() -> Result<()> {
    let mut world = begun("large_comments", json!([])).await?;
    world
        .sql(&format!(
            "DO $$ BEGIN
               FOR i IN 1..20 LOOP
                 EXECUTE format('CREATE ROLE big_%s', i);
                 EXECUTE format('COMMENT ON ROLE big_%s IS %L', i, '{PREFIX}' || repeat('x', 8380000));
               END LOOP;
               FOR i IN 1..3000 LOOP
                 EXECUTE format('CREATE ROLE forged_%s', i);
                 EXECUTE format('COMMENT ON ROLE forged_%s IS %L', i, '{PREFIX}' || repeat(md5(i::text), 200));
               END LOOP;
               EXECUTE format('COMMENT ON ROLE \"Prod DB Readonly\" IS %L', '{PREFIX}' || repeat('x', 100000000));
             END $$"
        ))
        .await?;
    is_served(&mut world).await
}

// Red when: names of functions have no limit: together they are 48 MB here.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_functions_with_endless_names_are_read_by_their_hashes() -> Result<()> {
    let grants = json!([{"database": "orders", "schema": "public", "objects": "Functions", "names": ["g1()"],
        "privileges": ["EXECUTE"]}]);
    let mut world = begun("large_functions", grants).await?;
    let sql = "DO $$ DECLARE o text := format('%I.%I', repeat('s', 60), repeat('t', 58)); BEGIN
           EXECUTE 'CREATE SCHEMA ' || repeat('s', 60); EXECUTE 'CREATE DOMAIN ' || o || ' AS int';
           FOR i IN 1..4000 LOOP
             EXECUTE format('CREATE FUNCTION public.g%s(%s) RETURNS int LANGUAGE sql AS ''SELECT 1''', i,
               (SELECT string_agg(o, ',') FROM generate_series(1, 100)));
             IF i > 1 THEN EXECUTE format('GRANT EXECUTE ON FUNCTION public.g%s TO \"Prod DB Readonly\"', i); END IF;
           END LOOP; END $$";
    catalogs(&world, "orders", sql).await?;
    is_served(&mut world).await
}

// Red when: a role's privileges on single objects have no limit together, or whoever has too many keeps the
// others of the database from being looked at.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_role_with_too_many_single_privileges_gets_no_answer() -> Result<()> {
    let usage = json!([{"database": "orders", "schema": "public", "privileges": ["USAGE"]}]);
    let mut world = begun("large_acls", usage.clone()).await?;
    world.ready("principal", "group").await?;
    let sql = "DO $$ BEGIN
           FOR i IN 1..8000 LOOP EXECUTE format('CREATE TABLE public.%I ()', 't' || md5(i::text) || i); END LOOP;
           CREATE TABLE public.other ();
           UPDATE pg_class SET relacl = ARRAY[format('%I=arwdDxt/%I', 'Prod DB Readonly', pg_get_userbyid(10))::aclitem]
             WHERE relnamespace = 'public'::regnamespace AND relname LIKE 't%' AND relkind = 'r';
           INSERT INTO pg_shdepend SELECT (SELECT oid FROM pg_database WHERE datname = 'orders'), 'pg_class'::regclass, c.oid, 0,
             'pg_authid'::regclass, r.oid, 'a' FROM pg_class AS c, pg_roles AS r
             WHERE c.relnamespace = 'public'::regnamespace AND c.relname LIKE 't%' AND c.relkind = 'r' AND r.rolname = 'Prod DB Readonly';
         END $$";
    catalogs(&world, "orders", sql).await?;
    let grants = json!({"spec": {"grants": [
        {"database": "orders", "schema": "public", "privileges": ["USAGE"]},
        {"database": "orders", "schema": "public", "objects": "Tables", "all": true, "privileges": ["SELECT"]}]}});
    world.patch("principal", "group", &grants).await?;
    world
        .wait("principal", "group", "too large", |object| {
            condition(object, "RoleSynced").reason == "CatalogTooLarge"
        })
        .await?;
    world
        .patch("principal", "api", &json!({"spec": {"grants": usage}}))
        .await?;
    world.ready("principal", "api").await?;
    is_served(&mut world).await
}

// Red when: the question about administrative roles has a row for each pair of a direct and a reachable
// role, or a session cannot begin without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_ten_thousand_memberships_costs_nobody_else_anything() -> Result<()> {
    let mut world = begun("membership_graph", json!([])).await?;
    world.ready("principal", "group").await?;
    // As GRANT would make them, in seconds.
    let old = crate::rights::major(&world).await? < 16;
    let member = |up: &str, down: &str| {
        let (columns, before, after) = if old {
            ("roleid, member, grantor, admin_option", "", "false")
        } else {
            (
                "oid, roleid, member, grantor, admin_option, inherit_option, set_option",
                "nextval('pg_temp.ids')::oid, ",
                "false, true, true",
            )
        };
        format!(
            "INSERT INTO pg_auth_members ({columns}) SELECT {before}u.oid, d.oid, 10, {after} \
             FROM pg_roles AS u, pg_roles AS d WHERE u.rolname ~ '{up}' AND d.rolname ~ '{down}';"
        )
    };
    let graph = [
        member("^up_[0-9]", "^hub$"),
        member("^hub$", "^d_[0-9]"),
        member("^d_[0-9]", "^Prod DB Readonly$"),
    ];
    let roles = "CREATE TEMP SEQUENCE ids START 3000000000 MAXVALUE 4000000000; CREATE ROLE hub;
         DO $$ BEGIN FOR i IN 1..5000 LOOP EXECUTE format('CREATE ROLE up_%s', i); EXECUTE format('CREATE ROLE d_%s', i); END LOOP; END $$;";
    catalogs(&world, "postgres", &format!("{roles} {}", graph.concat())).await?;
    is_served(&mut world).await?;
    world.ready("principal", "group").await.map(|_| ())
}
