//! Roles that lock themselves in transactions that do not end, and are wanted otherwise all the time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Attack, Running};
use crate::hostile::identities::evil;
use crate::hostile::world::{SHARED, World};

pub(super) const COUNT: usize = 12;
const AGAIN: Duration = Duration::from_secs(5);
const OURS: Attack = Attack::Locks;

pub(super) async fn begin(world: &Arc<World>) -> Result<Running> {
    for n in 0..COUNT {
        world.create(OURS.role(n)).await?;
    }
    let mut running = Running::default();
    for n in 0..COUNT {
        OURS.wait_for_role(world, n).await?;
        let client = world.sql_as(&evil(OURS, n), "postgres").await?;
        client
            .batch_execute("BEGIN; ALTER ROLE CURRENT_USER SET application_name = 'held'")
            .await?;
        running.held.push(Box::new(client));
    }
    let (world, count) = (Arc::clone(world), Arc::clone(&running.count));
    running.work.spawn(async move {
        for round in 0_u64.. {
            for n in 0..COUNT {
                let name = format!("wanted-{round}");
                let patch = json!({"spec": {"role": {"settings": {"application_name": name}}}});
                let patched = world.patch(&OURS.namespace(), &evil(OURS, n), &patch).await;
                count.fetch_add(u64::from(patched.is_ok()), Ordering::Relaxed);
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
    Ok(running)
}

pub(super) async fn proof(world: &World, running: &Running) -> Result<String> {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE usename LIKE 'evil-locks-%' AND state = 'idle in transaction'";
    let held = world.ask(SHARED, "postgres", sql).await?;
    let wanted = running.counted();
    ensure!(held == COUNT.to_string(), "{held} locks are held");
    ensure!(wanted > 0, "no change was wanted");
    Ok(format!("{held} locks held, {wanted} changes wanted"))
}
