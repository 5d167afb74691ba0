//! What it costs: a first sync has its price once, and a steady state has none per principal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::control_plane::Mark;
use serde_json::{Value, json};

use crate::fixture::{SOON, World, plane};
use crate::fleet;

const FEW: usize = 5;
const MANY: usize = 50;
/// Resync intervals that a steady state is watched for.
const ROUNDS: u64 = 3;

/// What the lab has counted. One message of the operator is one transaction, and a snapshot is one
/// message while only database `postgres` is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    transactions: u64,
    statements: u64,
    connections: u64,
    tokens: u64,
}

/// The counters with no answer half counted: two looks in a row show the same.
async fn counters(world: &World) -> Result<Counters> {
    let mut last = world.stats();
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let stats = world.stats();
        if stats == last {
            let count = |value: &Value| value.as_u64().unwrap_or_default();
            return Ok(Counters {
                transactions: count(&stats["transactions"]),
                statements: count(&stats["statements"]),
                connections: count(&stats["connections"]["total"]),
                tokens: count(&stats["tokenRequests"]["total"]),
            });
        }
        last = stats;
    }
}

/// Waits for that many snapshots more and returns the counters then.
async fn after_snapshots(world: &World, before: Counters, count: u64) -> Result<Counters> {
    let start = Instant::now();
    loop {
        let now = counters(world).await?;
        if now.transactions >= before.transactions + count {
            return Ok(now);
        }
        ensure!(
            start.elapsed() < SOON,
            "no snapshots: {now:?}\n{}",
            world.log_tail()
        );
    }
}

/// Waits until the server's totals are written: the last write of a first sync.
async fn settled(world: &World, count: usize) -> Result<()> {
    let totals = json!({"total": count, "ready": count});
    let is_so = |server: &Value| server["status"]["principals"] == totals;
    world.wait("server", "server", "its totals", is_so).await?;
    Ok(())
}

/// Statements of each snapshot, with nothing else done in three intervals.
async fn steady(world: &World) -> Result<u64> {
    let mark = plane().audit().mark()?;
    let before = after_snapshots(world, counters(world).await?, 1).await?;
    let start = Instant::now();
    let after = after_snapshots(world, before, ROUNDS).await?;
    let rounds = after.transactions - before.transactions;
    // The interval is 1 s: no other message went to the server.
    ensure!(
        start.elapsed() > Duration::from_millis(900 * (rounds - 1)),
        "{rounds} messages in {:?}",
        start.elapsed()
    );
    let writes = world.writes_since(mark)?;
    ensure!(writes.is_empty(), "a steady state writes {writes:?}");
    ensure!(
        world.token_requests_of_kubernetes(mark)? == 0,
        "a steady state asks for tokens"
    );
    ensure!(
        (after.connections, after.tokens) == (before.connections, before.tokens),
        "{before:?} became {after:?}"
    );
    let statements = after.statements - before.statements;
    ensure!(
        statements % rounds == 0,
        "{statements} statements in {rounds} snapshots"
    );
    Ok(statements / rounds)
}

/// Writes through the API by what they were: `create secrets`.
fn by_kind(world: &World, mark: Mark) -> Result<BTreeMap<String, usize>> {
    let mut kinds = BTreeMap::new();
    for write in world.writes_since(mark)? {
        let kind = write
            .rsplit_once(' ')
            .map_or("", |(kind, _)| kind)
            .to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(kinds)
}

// Red when: `session.look` runs in every reconcile that a snapshot wakes, or status is written
// without being compared (src/controller/principal/report.rs: `if status != old`); or sign-ins to try
// tokens take no turns.
#[tokio::test(flavor = "multi_thread")]
async fn a_steady_state_costs_the_same_for_5_and_for_50_principals() -> Result<()> {
    let world = World::with("steady", fleet::setup(MANY)).await?;
    fleet::apply_accounts(&world, MANY).await?;
    for n in 0..FEW {
        world.apply(&fleet::principal(&world, n)).await?;
    }
    fleet::all_ready(&world, FEW, SOON).await?;
    settled(&world, FEW).await?;
    let few = steady(&world).await?;

    let before = counters(&world).await?;
    let (mark, start) = (plane().audit().mark()?, Instant::now());
    for n in FEW..MANY {
        let mut object = fleet::principal(&world, n);
        if n % 2 == 0 {
            object["spec"]["deletionPolicy"] = json!("Drop");
        }
        world.apply(&object).await?;
    }
    fleet::all_ready(&world, MANY, SOON).await?;
    let took = start.elapsed();
    let after = counters(&world).await?;
    settled(&world, MANY).await?;
    let writes = by_kind(&world, mark)?;
    let new = MANY - FEW;
    println!("first sync of {new} principals in {took:?}: writes {writes:?}");
    println!(
        "{} statements, {} messages, {} exchanges, {} connections",
        after.statements - before.statements,
        after.transactions - before.transactions,
        after.tokens - before.tokens,
        after.connections - before.connections
    );
    let totals = usize::try_from(start.elapsed().as_secs() / 10)? + 1;
    let count = |kind: &str| writes.get(kind).copied().unwrap_or_default();
    assert_eq!(count("create secrets"), new);
    assert_eq!(count("patch entrapostgresprincipals/status"), new);
    assert_eq!(count("create events"), new);
    assert_eq!(
        count("patch entrapostgresprincipals"),
        new / 2,
        "finalizers"
    );
    assert_eq!(
        count("patch entrapostgresservers"),
        1,
        "the server's own finalizer, whoever needs it"
    );
    assert!(
        count("patch entrapostgresservers/status") <= totals,
        "{writes:?}"
    );
    assert!(writes.len() <= 6, "{writes:?}");
    // Each token is tried once. Further connections of the operator need no further token.
    let new = u64::try_from(new)?;
    assert_eq!(after.tokens - before.tokens, new);
    let connections = after.connections - before.connections;
    assert!((new..new + 3).contains(&connections), "{connections}");
    // The session's three, and one to try tokens with.
    let peak = world.azure.state().stats.snapshot().connections.peak;
    assert!(peak <= 4, "{peak} connections at once");

    let many = steady(&world).await?;
    println!("statements of a snapshot: {few} with {FEW} principals, {many} with {MANY}");
    assert_eq!(few, many);
    Ok(())
}
