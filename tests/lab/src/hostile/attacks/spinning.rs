//! Annotations `renew` and `reconcile` that change all the time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;

use super::{Attack, Running, pick};
use crate::hostile::identities::evil;
use crate::hostile::world::World;

pub(super) const COUNT: usize = 8;
const AGAIN: Duration = Duration::from_millis(60);
const OURS: Attack = Attack::Spinning;

pub(super) async fn begin(world: &Arc<World>, mut random: StdRng) -> Result<Running> {
    OURS.create_with_tokens(world).await?;
    let mut running = Running::default();
    let (world, count) = (Arc::clone(world), Arc::clone(&running.count));
    running.work.spawn(async move {
        loop {
            let n = random.random_range(0..COUNT);
            let key = pick(&["renew", "reconcile"], random.random_range(0..2));
            let value = random.random::<u32>().to_string();
            let patch =
                json!({"metadata": {"annotations": {format!("entrapostgres.io/{key}"): value}}});
            let patched = world.patch(&OURS.namespace(), &evil(OURS, n), &patch).await;
            count.fetch_add(u64::from(patched.is_ok()), Ordering::Relaxed);
            tokio::time::sleep(AGAIN).await;
        }
    });
    Ok(running)
}

pub(super) fn proof(world: &World, running: &Running) -> Result<String> {
    let changes = running.counted();
    ensure!(changes >= 200, "only {changes} annotations were changed");
    let asked = OURS.asked(world, 0..COUNT)?;
    Ok(format!("{changes} annotations changed, {asked}"))
}
