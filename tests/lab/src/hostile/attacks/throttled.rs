//! Clients that Entra throttles: a dozen of them, each for a minute.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Attack, Running};
use crate::hostile::identities::evil_client;
use crate::hostile::world::World;

pub(super) const COUNT: usize = 12;
/// From a minute to the hour that nobody should wait.
const RETRY_AFTER: [u64; 3] = [60, 600, 3600];
const OURS: Attack = Attack::Throttled;

pub(super) async fn begin(world: &World) -> Result<Running> {
    let faults = (0..COUNT)
        .zip(RETRY_AFTER.into_iter().cycle())
        .map(|(n, seconds)| {
            json!({"on": "token", "match": {"clientId": evil_client(OURS, n)},
               "do": {"status": 429, "retryAfter": seconds}})
        });
    world.add_faults(Value::Array(faults.collect())).await?;
    OURS.create_with_tokens(world).await?;
    Ok(Running::default())
}

pub(super) fn proof(world: &World) -> Result<String> {
    OURS.asked(world, 0..COUNT)
}
