//! A thousand principals on one server with ten thousand tables: what it costs, and how fast drift is
//! put back.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::ledger;
use crate::fixture::{Setup, World, condition};
use crate::fleet;

const FEW: usize = 10;
const MANY: usize = 1000;
const SCHEMAS: usize = 100;
const TABLES: usize = 100;
const DRIFTS: usize = 10;
const RESYNC: Duration = Duration::from_secs(5);
/// The interval and two seconds on a quiet machine, as is printed; it is never more than a few intervals.
const ALLOWED: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(400);

fn setup() -> Setup {
    Setup {
        server: Some(Box::new(|server| {
            let spec = &mut server["spec"];
            spec["resyncInterval"] = json!(format!("{}s", RESYNC.as_secs()));
            spec["tenants"][0]["memberOf"] = json!([{"role": "readers"}, {"role": "writers"}]);
            spec["tenants"][0]["grants"] = json!([
                {"database": "orders", "privileges": ["CONNECT"]},
                {"database": "orders", "schemas": ["s*"], "privileges": ["SELECT", "INSERT", "USAGE", "EXECUTE"]},
            ]);
        })),
        ..fleet::setup(MANY)
    }
}

async fn furnish(world: &World) -> Result<()> {
    ledger::run(
        world,
        "postgres",
        "CREATE ROLE owner_known; GRANT owner_known TO \"pg-operators\"; CREATE ROLE readers; CREATE ROLE writers;
         GRANT readers, writers TO \"pg-operators\" WITH ADMIN OPTION; ALTER DATABASE orders OWNER TO owner_known",
    )
    .await?;
    for schema in 0..SCHEMAS {
        let tables = format!(
            "CREATE SCHEMA s{schema} AUTHORIZATION owner_known; SET ROLE owner_known;
             DO $$ BEGIN FOR n IN 0..{} LOOP EXECUTE format('CREATE TABLE s{schema}.t%s ()', n); END LOOP; END $$;
             CREATE FUNCTION s{schema}.f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            TABLES - 1
        );
        ledger::run(world, "orders", &tables).await?;
    }
    Ok(())
}

/// Five grants and two memberships.
fn principal(world: &World, n: usize) -> Value {
    let schema = format!("s{}", n % SCHEMAS);
    let id = format!("5e41ce00-0000-4000-9000-{n:012}");
    let mut object = world.principal(
        &fleet::name(n),
        &fleet::name(n),
        json!({"type": "ManagedIdentity", "objectId": id}),
    );
    let spec = &mut object["spec"];
    spec["grants"] = json!([
        {"database": "orders", "privileges": ["CONNECT"]},
        {"database": "orders", "schema": schema, "privileges": ["USAGE"]},
        {"database": "orders", "schema": schema, "objects": "Tables", "all": true, "privileges": ["SELECT"]},
        {"database": "orders", "schema": schema, "objects": "Tables", "names": ["t1", "t2"], "privileges": ["INSERT"]},
        {"database": "orders", "schema": schema, "objects": "Functions", "names": ["f(integer)"], "privileges": ["EXECUTE"]},
    ]);
    spec["memberOf"] = json!([{"role": "readers"}, {"role": "writers"}]);
    object
}

/// Messages, statements and rows of one snapshot, with nothing else under way: what comes after a pause
/// longer than a snapshot takes, until the next one is near.
async fn one_snapshot(world: &World) -> Result<(u64, u64, u64)> {
    let read = || world.azure.state().stats.snapshot();
    let (start, mut quiet, mut before) = (Instant::now(), Instant::now(), read());
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = read();
        if now.transactions == before.transactions {
            ensure!(start.elapsed() < 20 * RESYNC, "no snapshot");
        } else if quiet.elapsed() < RESYNC * 2 / 5 {
            ensure!(start.elapsed() < 20 * RESYNC, "always at work");
            (quiet, before) = (Instant::now(), now);
        } else {
            break;
        }
    }
    tokio::time::sleep(RESYNC / 2).await;
    let after = read();
    Ok((
        after.transactions - before.transactions,
        after.statements - before.statements,
        after.rows - before.rows,
    ))
}

/// The operator's processor time so far, and the most memory it has had, in MB.
fn usage(world: &World) -> Result<(Duration, u64)> {
    let operator = world.operator.as_ref().context("no operator runs")?;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", operator.pid()));
    let stat = read("stat")?;
    let fields = stat.rsplit_once(')').context("no stat")?.1;
    // Fields 14 and 15, in hundredths of a second.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|n| n.parse::<u64>().unwrap_or_default()).sum();
    let status = read("status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.split_whitespace().next());
    let peak: u64 = peak.context("no VmHWM")?.parse()?;
    Ok((Duration::from_millis(ticks * 10), peak / 1024))
}

async fn drift(world: &World) -> Result<Duration> {
    let mut sql = String::new();
    for n in 0..DRIFTS {
        let (schema, role) = (n % SCHEMAS, fleet::name(n));
        let _ = write!(
            sql,
            "REVOKE SELECT ON TABLE s{schema}.t7 FROM \"{role}\"; REVOKE USAGE ON SCHEMA s{schema} FROM \"{role}\";"
        );
    }
    ledger::run(world, "orders", &sql).await?;
    let start = Instant::now();
    let client = ledger::superuser(world, "orders").await?;
    let names: Vec<String> = (0..DRIFTS)
        .map(|n| format!("has_table_privilege('{0}', 's{1}.t7', 'SELECT') AND has_schema_privilege('{0}', 's{1}', 'USAGE')", fleet::name(n), n % SCHEMAS))
        .collect();
    let question = format!("SELECT {}", names.join(" AND "));
    loop {
        let back: bool = client.query_one(&question, &[]).await?.get(0);
        if back {
            return Ok(start.elapsed());
        }
        ensure!(
            start.elapsed() < ALLOWED,
            "drift is there after {:?}\n{}",
            start.elapsed(),
            world.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(world: &World, count: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let objects = world.list("principal").await?;
        let waiting: Vec<&Value> = objects
            .iter()
            .filter(|object| !condition(object, "Ready").is("True"))
            .collect();
        if objects.len() == count && waiting.is_empty() {
            return Ok(());
        }
        ensure!(
            start.elapsed() < DEADLINE,
            "{} of {count} are not Ready, the first: {:#}\n{}",
            waiting.len(),
            waiting.first().unwrap_or(&&Value::Null)["status"],
            world.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

// Red when: the snapshot asks for each principal, or its rows are not filtered to roles of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_principals_cost_the_queries_of_ten_and_drift_is_put_back_in_time() -> Result<()>
{
    let world = World::with("scale", setup()).await?;
    furnish(&world).await?;
    for n in 0..FEW {
        world.apply(&principal(&world, n)).await?;
    }
    ready(&world, FEW).await?;
    let few = one_snapshot(&world).await?;
    // A role that is not ours costs no row.
    ledger::run(
        &world,
        "orders",
        "DO $$ BEGIN FOR n IN 0..499 LOOP EXECUTE format('CREATE ROLE stranger%s; GRANT SELECT ON s1.t1 TO stranger%s; GRANT readers TO stranger%s', n, n, n); END LOOP; END $$",
    )
    .await?;
    let with_strangers = one_snapshot(&world).await?;
    assert_eq!(
        with_strangers, few,
        "messages, statements, rows of a snapshot"
    );

    let (start, before) = (Instant::now(), usage(&world)?);
    let sent = world.azure.state().stats.snapshot().transactions;
    for n in FEW..MANY {
        world.apply(&principal(&world, n)).await?;
    }
    let applied = start.elapsed();
    ready(&world, MANY).await?;
    let (took, after) = (start.elapsed(), usage(&world)?);
    let sent = world.azure.state().stats.snapshot().transactions - sent;
    println!(
        "{} principals more: applied in {applied:.1?}, all Ready after {took:.1?}; the operator sent {sent} messages, \
         used {:.1?} of a processor and had {} MB at most",
        MANY - FEW,
        after.0.saturating_sub(before.0),
        after.1
    );
    let many = one_snapshot(&world).await?;
    println!(
        "messages, statements, rows of a snapshot: {few:?} with {FEW}, {many:?} with {MANY} principals and {} tables",
        SCHEMAS * TABLES
    );
    assert_eq!((many.0, many.1), (few.0, few.1));
    let before = usage(&world)?;
    let took = drift(&world).await?;
    let after = usage(&world)?;
    println!(
        "drift on {DRIFTS} of {MANY} principals was put back after {took:.1?}, with a snapshot every {RESYNC:?}; the \
         operator used {:.1?} of a processor and had {} MB at most",
        after.0.saturating_sub(before.0),
        after.1
    );
    Ok(())
}
