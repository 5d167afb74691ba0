//! A hundred identities at once for which Entra takes its time: whoever stands behind them waits.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Attack, Running};
use crate::hostile::identities::evil_client;
use crate::hostile::world::World;

pub(super) const COUNT: usize = 120;
const SLOW: u64 = 2_000;
const OURS: Attack = Attack::Backlog;

pub(super) async fn begin(world: &World) -> Result<Running> {
    let slow = (0..COUNT).map(|n| {
        json!({"on": "token", "match": {"clientId": evil_client(OURS, n)}, "do": {"delayMs": SLOW}})
    });
    world.add_faults(Value::Array(slow.collect())).await?;
    OURS.create_with_tokens(world).await?;
    Ok(Running::default())
}

pub(super) fn proof(world: &World) -> Result<String> {
    let asked = (0..COUNT).filter(|n| world.requests(&evil_client(OURS, *n)) > 0);
    let asked = asked.count();
    ensure!(asked >= 5, "only {asked} of {COUNT} have asked Entra");
    Ok(format!("{asked} of {COUNT} slow clients were answered"))
}
