//! Others at work on the same objects, and limits: it is said, tried again, and others are not kept
//! waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::process::until;
use serde_json::{Value, json};

use super::{declared, furnished, has_exactly, ledger, made, says, set, setup};
use crate::fixture::{SOON, World, condition};
use crate::fleet;

/// How long somebody else waits for what a change of the operator has locked.
const FREED: Duration = Duration::from_secs(3);
/// What was refused rests about so long; what passes is tried again sooner.
const REFUSED: Duration = Duration::from_secs(7);

/// SQL that counts the operator's connections that wait for somebody.
const WAITS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pg-operators' AND wait_event_type = 'Lock'";

fn table(database: &str, name: &str) -> Value {
    json!({"database": database, "schema": "app", "objects": "Tables", "names": [name], "privileges": ["SELECT"]})
}

async fn is_given(world: &World, n: usize, tables: &[&str]) -> Result<()> {
    let mut held = set(&["attributes f t f f t -1"]);
    held.extend(
        tables
            .iter()
            .map(|t| format!("orders|app|table|{t}|SELECT")),
    );
    has_exactly(world, &fleet::name(n), &[], &held, "given").await?;
    world.ready("principal", &fleet::name(n)).await?;
    Ok(())
}

// Red when: `lock_timeout` is not set, is taken for a refusal, or what is locked keeps other principals
// from being worked on.
#[tokio::test(flavor = "multi_thread")]
async fn locks_of_others_are_waited_for_within_limits() -> Result<()> {
    let short = |spec: &mut Value| spec["timeouts"] = json!({"lock": "300ms", "statement": "1s"});
    let world = furnished("locks", setup(4, short), &[]).await?;
    world.ready("server", "server").await?;
    let other = ledger::superuser(&world, "orders").await?;

    // Somebody's DDL on the table, uncommitted; a table of its own is free.
    let ddl = "BEGIN; LOCK app.t1 IN ACCESS EXCLUSIVE MODE; GRANT SELECT ON app.t1 TO bystander";
    other.batch_execute(ddl).await?;
    let locked = declared(&world, 0, &json!({"grants": [table("orders", "t1")]}));
    world.apply(&locked).await?;
    let free = declared(&world, 1, &json!({"grants": [table("orders", "t2")]}));
    world.apply(&free).await?;
    is_given(&world, 1, &["t2"]).await?;
    let ready = says(&world, 0, &["lock"]).await?;
    ensure!(ready.status == "Unknown", "it may pass: {ready:?}");
    other.batch_execute("COMMIT").await?;
    is_given(&world, 0, &["t1"]).await?;

    // Somebody's uncommitted change of the role itself.
    let name = fleet::name(3);
    made(&world, 3, &json!({})).await?;
    let change = format!(
        "BEGIN; COMMENT ON ROLE \"{name}\" IS NULL; ALTER ROLE \"{name}\" CONNECTION LIMIT 3"
    );
    other.batch_execute(&change).await?;
    let fields = json!({"role": {"connectionLimit": 5}});
    world.apply(&declared(&world, 3, &fields)).await?;
    says(&world, 3, &["lock"]).await?;
    other.batch_execute("COMMIT").await?;
    let held = set(&["attributes f t f f t 5"]);
    has_exactly(&world, &name, &[], &held, "the limit").await?;
    world.ready("principal", &name).await?;

    // A statement slower than the limit.
    other
        .batch_execute(
            "CREATE FUNCTION public.slow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
               IF session_user = 'pg-operators' THEN PERFORM pg_sleep(60); END IF; END $$;
             CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION public.slow()",
        )
        .await?;
    let slow = declared(&world, 2, &json!({"grants": [table("orders", "t1")]}));
    world.apply(&slow).await?;
    says(&world, 2, &["timeout"]).await?;
    other.batch_execute("DROP EVENT TRIGGER slow").await?;
    is_given(&world, 2, &["t1"]).await?;
    Ok(())
}

const UPDATED: &str = "tuple concurrently updated";

/// Waits until the server has said this to the operator so often.
async fn told(world: &World, words: &str, times: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let log = world.azure.postgres().await?.log();
        let ours = log.lines().filter(|line| line.contains("pg-operators@"));
        let said = ours.filter(|line| line.contains(words)).count();
        if said == times {
            return Ok(());
        }
        ensure!(
            start.elapsed() < SOON,
            "said {said} times, not {times}: {log}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

// Red when: what was refused with "tuple concurrently updated" is not sent again, twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changed_a_moment_before_is_sent_again_at_once() -> Result<()> {
    let waits = |spec: &mut Value| spec["timeouts"] = json!({"lock": "20s"});
    let world = furnished("updated", setup(2, waits), &[]).await?;
    world.ready("server", "server").await?;
    let other = ledger::superuser(&world, "orders").await?;
    other
        .batch_execute("BEGIN; GRANT UPDATE ON app.t1 TO bystander")
        .await?;
    let grants = json!({"grants": [table("orders", "t1")]});
    world.apply(&declared(&world, 0, &grants)).await?;
    world.wait_sql(WAITS, Some("1")).await?;
    other.batch_execute("COMMIT").await?;
    is_given(&world, 0, &["t1"]).await?;
    told(&world, UPDATED, 1).await?;

    // The same again and again: numbers of a sequence outlive what is rolled back.
    other
        .batch_execute(
            "CREATE SEQUENCE public.tries; CREATE FUNCTION public.clash() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
               IF session_user = 'pg-operators' AND nextval('public.tries') <= 2 THEN
                 RAISE EXCEPTION 'tuple concurrently updated' USING ERRCODE = 'XX000';
               END IF; END $$;
             CREATE EVENT TRIGGER clash ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION public.clash()",
        )
        .await?;
    world.apply(&declared(&world, 1, &grants)).await?;
    is_given(&world, 1, &["t1"]).await?;
    told(&world, UPDATED, 3).await?;
    let log = std::fs::read_to_string(world.options.log_file())?;
    ensure!(!log.contains(UPDATED), "it was reported:\n{log}");
    Ok(())
}

// Red when: one of several refusals in a row ends the work.
#[tokio::test(flavor = "multi_thread")]
async fn grants_of_others_at_the_same_moment_are_survived() -> Result<()> {
    const PRINCIPALS: usize = 4;
    let world = furnished("concurrent", setup(PRINCIPALS, |_| ()), &[]).await?;
    world.ready("server", "server").await?;
    let done = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU32::new(0));
    let other = ledger::superuser(&world, "orders").await?;
    let (until, count) = (Arc::clone(&done), Arc::clone(&rounds));
    let busy = tokio::spawn(async move {
        while !until.load(Ordering::Relaxed) {
            let ours = "GRANT UPDATE ON app.t1, app.t2 TO bystander; REVOKE UPDATE ON app.t1, app.t2 FROM bystander";
            // It may be the one that fails: the operator's statement came between.
            let _ = other.batch_execute(ours).await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    for n in 0..PRINCIPALS {
        let grants = json!([table("orders", "t1"), table("orders", "t2")]);
        let object = declared(&world, n, &json!({"grants": grants}));
        world.apply(&object).await?;
    }
    for n in 0..PRINCIPALS {
        is_given(&world, n, &["t1", "t2"]).await?;
    }
    for n in 0..PRINCIPALS {
        world.apply(&declared(&world, n, &json!({}))).await?;
    }
    for n in 0..PRINCIPALS {
        is_given(&world, n, &[]).await?;
    }
    done.store(true, Ordering::Relaxed);
    busy.await?;
    ensure!(
        rounds.load(Ordering::Relaxed) > 10,
        "nobody else was at work"
    );
    Ok(())
}

// Red when: a change waits for a lock longer than others wait for what it has locked itself, or what it came
// upon is taken for a refusal. (That a deadlock is sent again is in `postgres::lease_tests`: the operator waits
// for a shorter time than a server takes to look for one.)
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_each_other_is_freed_within_moments() -> Result<()> {
    let world = furnished("deadlock", setup(1, |_| ()), &[]).await?;
    world.ready("server", "server").await?;
    let other = ledger::superuser(&world, "orders").await?;
    let grant = |table: &str| format!("GRANT UPDATE ON app.{table} TO bystander");
    other
        .batch_execute(&format!(
            "SET deadlock_timeout = '1min'; BEGIN; {}",
            grant("t2")
        ))
        .await?;
    let grants = json!([table("orders", "t1"), table("orders", "t2")]);
    let object = declared(&world, 0, &json!({"grants": grants}));
    world.apply(&object).await?;
    world.wait_sql(WAITS, Some("1")).await?;
    let since = Instant::now();
    other.batch_execute(&grant("t1")).await?;
    let freed = since.elapsed();
    ensure!(freed < FREED, "{freed:?}");
    other.batch_execute("ROLLBACK").await?;
    let since = Instant::now();
    is_given(&world, 0, &["t1", "t2"]).await?;
    let took = since.elapsed();
    ensure!(took < REFUSED, "{took:?}");
    Ok(())
}

// Red when: a token is tried on a connection of the session, or waits for what is under way there.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_tried_while_all_connections_of_the_session_wait() -> Result<()> {
    let two = |spec: &mut Value| {
        spec["limits"] = json!({"maxConnections": 2});
        spec["timeouts"] = json!({"lock": "20s"});
    };
    let world = furnished("occupied", setup(2, two), &[]).await?;
    let mut api = world.api();
    api["spec"]["token"]["verifyLogin"] = json!("Always");
    world.apply(&api).await?;
    world.ready("principal", "api").await?;
    for n in [0, 1] {
        made(&world, n, &json!({})).await?;
    }
    let other = ledger::superuser(&world, "orders").await?;
    let name = fleet::name(1);
    let change = format!(
        "BEGIN; GRANT SELECT ON app.t1 TO bystander; COMMENT ON ROLE \"{name}\" IS NULL; ALTER ROLE \"{name}\" CONNECTION LIMIT 3"
    );
    other.batch_execute(&change).await?;
    let grants = json!({"grants": [table("orders", "t1")]});
    world.apply(&declared(&world, 0, &grants)).await?;
    // Each waits for moments only, again and again.
    let waits = format!("SELECT ({WAITS}) > 0");
    world.wait_sql(&waits, Some("t")).await?;
    let limit = json!({"role": {"connectionLimit": 5}});
    world.apply(&declared(&world, 1, &limit)).await?;
    world.wait_sql(&waits, Some("t")).await?;

    // A token of the same second is the one that was tried.
    let mut asked = 0;
    until("the next token is tried", SOON, async || {
        asked += 1;
        let renew =
            json!({"metadata": {"annotations": {"entrapostgres.io/renew": asked.to_string()}}});
        world.patch("principal", "api", &renew).await?;
        let stats = world.azure.state().stats.snapshot().connections;
        Ok(stats.by_role.get("orders-api") >= Some(&2))
    })
    .await?;
    let verified = |object: &Value| condition(object, "LoginVerified").is("True");
    world.wait("principal", "api", "verified", verified).await?;
    let peak = world.azure.state().stats.snapshot().connections.peak;
    ensure!(peak <= 3, "{peak} connections at once");
    other.batch_execute("COMMIT").await?;
    is_given(&world, 0, &["t1"]).await?;
    world.ready("principal", &name).await?;
    Ok(())
}

/// Somebody's connections, so many that the server has no other left for those who are not superusers.
async fn crowd(world: &World) -> Result<Vec<tokio_postgres::Client>> {
    world.sql("CREATE ROLE crowd LOGIN").await?;
    let postgres = world.azure.postgres().await?;
    let mut clients = Vec::new();
    loop {
        match postgres.connect("crowd", "postgres").await {
            Ok(client) => clients.push(client),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("connection slots"), "{said}");
                return Ok(clients);
            }
        }
    }
}

// Red when: a server without a free connection is taken for a database that is closed to us, or keeps
// the work on the connections that there are from being done.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_connections_are_said_and_pass() -> Result<()> {
    let world = furnished("crowded", setup(2, |_| ()), &["stock"]).await?;
    // Two connections are there, the third is wanted when there is none.
    made(&world, 0, &json!({"grants": [table("orders", "t1")]})).await?;
    let name = fleet::name(1);
    let mut held = set(&["attributes f t f f t -1", "orders|app|table|t1|SELECT"]);
    let grants = json!([table("orders", "t1"), table("stock", "t1")]);
    let crowd = crowd(&world).await?;
    let object = declared(&world, 1, &json!({"grants": grants}));
    world.apply(&object).await?;
    let ready = says(&world, 1, &["stock", "connection slots"]).await?;
    ensure!(ready.status == "Unknown", "it may pass: {ready:?}");
    has_exactly(&world, &name, &[], &held, "the other database").await?;
    drop(crowd);
    world.ready("principal", &name).await?;
    held.insert("stock|app|table|t1|SELECT".to_owned());
    has_exactly(&world, &name, &["stock"], &held, "given").await?;

    // The same by a limit of the administrator's own.
    made(&world, 1, &json!({})).await?;
    let closed = "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity WHERE usename = 'pg-operators' AND datname = 'stock'";
    world.wait_sql(closed, Some("f")).await?;
    // The one to `postgres` is always there, whichever is given up to make room.
    let limit = |limit: &str| format!("ALTER ROLE \"pg-operators\" CONNECTION LIMIT {limit}");
    world.sql(&limit("1")).await?;
    world.apply(&object).await?;
    let ready = says(&world, 1, &["stock", "too many connections"]).await?;
    ensure!(ready.status == "Unknown", "it may pass: {ready:?}");
    world.sql(&limit("-1")).await?;
    world.ready("principal", &name).await?;
    has_exactly(&world, &name, &["stock"], &held, "given").await?;
    Ok(())
}

// Red when: connections to further databases are not given back for the next one, or more are opened
// than the limit allows.
#[tokio::test(flavor = "multi_thread")]
async fn three_databases_are_served_within_two_connections() -> Result<()> {
    let two = |spec: &mut Value| spec["limits"] = json!({"maxConnections": 2});
    let world = furnished("two", setup(1, two), &["stock", "archive"]).await?;
    let databases = ["orders", "stock", "archive"];
    let grants: Vec<Value> = databases.iter().map(|name| table(name, "t1")).collect();
    made(&world, 0, &json!({"grants": grants})).await?;
    let mut held = set(&["attributes f t f f t -1"]);
    held.extend(databases.map(|name| format!("{name}|app|table|t1|SELECT")));
    let name = fleet::name(0);
    has_exactly(&world, &name, &databases[1..], &held, "given").await?;
    for database in databases {
        let drift = format!("REVOKE SELECT ON app.t1 FROM \"{name}\"");
        ledger::run(&world, database, &drift).await?;
    }
    has_exactly(&world, &name, &databases[1..], &held, "put back").await?;
    let peak = world.azure.state().stats.snapshot().connections.peak;
    ensure!(peak <= 2, "{peak} connections at once");
    Ok(())
}

// Red when: a database of which no snapshot can be taken keeps what is known of it: its principals stay
// Ready whatever happens there.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_looked_at_any_more_is_reported_until_it_can() -> Result<()> {
    let world = furnished("full", setup(1, |_| ()), &[]).await?;
    made(&world, 0, &json!({"grants": [table("orders", "t1")]})).await?;
    let full = "ALTER DATABASE orders CONNECTION LIMIT 0";
    world.sql(full).await?;
    world
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pg-operators' AND datname = 'orders'")
        .await?;
    let ready = says(&world, 0, &["orders", "too many connections"]).await?;
    ensure!(ready.status == "Unknown", "it may pass: {ready:?}");
    world
        .sql("ALTER DATABASE orders CONNECTION LIMIT -1")
        .await?;
    world.ready("principal", &fleet::name(0)).await?;
    Ok(())
}
