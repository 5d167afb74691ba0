//! `lab soak`: 200 tokens of 200 identities, kept good for a while although Entra, the server and the
//! operator fail in turn. Standard output is two lines of numbers; all else goes to standard error.

mod leaks;
mod replicas;
mod schedule;
mod verdict;
mod watcher;
mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::events::v1::Event as ClusterEvent;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use leaks::Needles;
use replicas::Replicas;
use schedule::{Event, Pace, Trouble};
use verdict::Numbers;
use watcher::Watcher;
use world::{NAMESPACE, World};

use crate::state::unix_now;

/// How long it may take until all is there.
const SET_UP: Duration = Duration::from_secs(400);

/// Runs it. An error if anything was not as promised.
pub async fn soak(dir: &Path, minutes: u64) -> Result<()> {
    ensure!(minutes > 0, "SOAK_MINUTES must be at least 1");
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir)?;
    let pace = Pace::of(minutes);
    let began = Instant::now();
    let world = World::start(dir, pace).await?;
    let mut replicas = Replicas::start(dir, &world).await?;
    tokio::select! {
        ready = world.ready() => ready?,
        ended = kept_until(began + SET_UP, &mut replicas) => bail!("the principals are not ready: {ended:?}"),
    }
    eprintln!(
        "{} principals are Ready after {:.0?}",
        world::COUNT,
        began.elapsed()
    );
    let numbers = run(&world, replicas, minutes, pace).await?;
    for line in numbers.lines() {
        println!("{line}");
    }
    let failures = numbers.failures();
    world.azure.stop().await?;
    world.plane.stop().await?;
    if failures.is_empty() {
        return Ok(());
    }
    bail!(
        "not as promised (logs are in {}):\n{}",
        dir.display(),
        failures.join("\n")
    )
}

async fn run(world: &World, mut replicas: Replicas, minutes: u64, pace: Pace) -> Result<Numbers> {
    world.azure.state().stats.keep_exchanges();
    let start = Instant::now();
    let watcher = Watcher::start(world.secrets());
    for event in pace.schedule() {
        kept_until(start + event.at, &mut replicas).await?;
        begin(event, start, world, &mut replicas, &watcher).await?;
    }
    kept_until(start + pace.total, &mut replicas).await?;
    let end = Instant::now();
    let seen = watcher.stop().await?;
    let expired = seen.expired();
    let mut wrong = seen.failures(end - start, unix_now());
    eprintln!(
        "{} looks at all Secrets; {} seconds with an expired token are the outage's",
        seen.looks,
        seen.excused()
    );
    let mut numbers = Numbers {
        minutes,
        expired: expired.len(),
        renewals: seen.renewals,
        ..Numbers::default()
    };
    wrong.extend(seen.wrong);
    numbers.wrong.extend(wrong.into_iter().take(20));
    for line in expired.iter().take(20) {
        eprintln!("{line}");
    }
    numbers.count(&world.azure.state().stats.kept_exchanges(), start, end);
    numbers.wrong.extend(leaks(world, replicas).await?);
    Ok(numbers)
}

/// Waits, and starts again what has ended meanwhile.
async fn kept_until(time: Instant, replicas: &mut Replicas) -> Result<()> {
    while Instant::now() < time {
        replicas.keep().await?;
        let look = Instant::now() + Duration::from_secs(1);
        sleep_until(time.min(look).into()).await;
    }
    Ok(())
}

/// Lets one trouble begin. Those of Entra end by themselves, meanwhile others may begin.
async fn begin(
    event: Event,
    start: Instant,
    world: &World,
    replicas: &mut Replicas,
    watcher: &Watcher,
) -> Result<()> {
    let Event { at, what } = event;
    eprintln!("{:>4} s: {what:?}", at.as_secs());
    match what {
        Trouble::Entra { does, lasts } => entra(world, &does, start + at + lasts).await,
        Trouble::Outage { lasts } => {
            watcher.outage(lasts);
            entra(world, &json!({"refuse": true}), start + at + lasts).await
        }
        Trouble::CutConnections => {
            let postgres = world.azure.postgres().await?;
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pg-operators'";
            Ok(postgres.superuser().await?.batch_execute(cut).await?)
        }
        Trouble::RestartServer => world.azure.postgres().await?.restart().await,
        Trouble::Crash => replicas.crash().await,
        Trouble::HandOver => replicas.hand_over().await,
        Trouble::LoseNode => replicas.lose_node().await,
    }
}

async fn entra(world: &World, does: &Value, until: Instant) -> Result<()> {
    let fault = json!([{"on": "token", "do": does}]);
    world
        .azure
        .set_faults(serde_json::from_value(fault)?)
        .await?;
    let state = std::sync::Arc::clone(world.azure.state());
    tokio::spawn(async move {
        sleep_until(until.into()).await;
        // An empty list cannot be wrong.
        let _ = state.faults.replace(Vec::new());
    });
    Ok(())
}

/// Everything that the operator has said: logs, events, statuses, metrics.
async fn leaks(world: &World, replicas: Replicas) -> Result<Vec<String>> {
    // What is said last is said of what was asked last.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let exchanges = world.azure.state().stats.kept_exchanges();
    let tokens = exchanges
        .iter()
        .filter_map(|exchange| exchange.token.as_deref());
    let needles = Needles::new(tokens, &world::client_secrets());
    let mut found = Vec::new();
    let metrics = replicas.metrics().await?;
    let logs = replicas.logs();
    replicas.stop().await?;
    for text in metrics {
        found.extend(needles.in_text("metrics", &text));
    }
    for log in logs {
        let size = std::fs::metadata(&log)?.len();
        ensure!(
            size > 1 << 20,
            "{} has only {size} bytes: nothing was logged",
            log.display()
        );
        eprintln!("{}: {} MiB", log.display(), size >> 20);
        found.extend(needles.in_file(&log)?);
    }
    for kind in ["EntraPostgresPrincipal", "EntraPostgresServer"] {
        for object in world.list(kind).await? {
            let name = format!(
                "{kind} {}",
                object.metadata.name.clone().unwrap_or_default()
            );
            found.extend(needles.in_text(&name, &serde_json::to_string_pretty(&object)?));
        }
    }
    let events: Api<ClusterEvent> = Api::namespaced(world.client.clone(), NAMESPACE);
    let events = events.list(&ListParams::default()).await?.items;
    ensure!(!events.is_empty(), "no events were written");
    for event in events {
        found.extend(needles.in_text("an event", &serde_json::to_string_pretty(&event)?));
    }
    found.truncate(20);
    Ok(found)
}
