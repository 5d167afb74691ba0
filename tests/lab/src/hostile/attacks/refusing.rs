//! Clients for which Entra does everything wrong that an HTTP server can.

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use super::{Attack, Running};
use crate::hostile::identities::evil_client;
use crate::hostile::world::World;

pub(super) const COUNT: usize = 20;
/// Clients that are never answered; the lab counts answers.
const SILENT: usize = 2;
const OURS: Attack = Attack::Refusing;

fn wrongs() -> Vec<Value> {
    let page = "<html>".repeat(100_000);
    vec![
        json!({"status": 500}),
        json!({"status": 503}),
        json!({"status": 504, "body": page}),
        json!({"status": 403, "body": page}),
        json!({"status": 400, "body": "{}"}),
        json!({"status": 414}),
        json!({"status": 401, "aadsts": 7_000_215}),
        json!({"garbage": true}),
        json!({"empty": true}),
        json!({"cut": true}),
        json!({"refuse": true}),
        json!({"delayMs": 4000}),
        json!({"delayMs": 3000, "status": 500}),
    ]
}

pub(super) async fn begin(world: &World, mut random: StdRng) -> Result<Running> {
    let mut wrongs = wrongs();
    wrongs.shuffle(&mut random);
    let loud = COUNT - SILENT;
    let faults = (0..COUNT).zip(wrongs.iter().cycle()).map(|(n, wrong)| {
        let wrong = if n < loud {
            wrong
        } else {
            &json!({"delayMs": 120_000})
        };
        json!({"on": "token", "match": {"clientId": evil_client(OURS, n)}, "do": wrong})
    });
    world.add_faults(Value::Array(faults.collect())).await?;
    OURS.create_with_tokens(world).await?;
    Ok(Running::default())
}

pub(super) fn proof(world: &World) -> Result<String> {
    OURS.asked(world, 0..COUNT - SILENT)
}
