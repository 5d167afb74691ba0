//! Principals as large as the schema allows, which name a server that is not there: no server has
//! allowed anything, and each costs what it costs to be read.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Attack, Running};
use crate::hostile::identities::evil;
use crate::hostile::world::{PRINCIPAL, World, principal};

const COUNT: usize = 10;
const GRANTS: usize = 128;
const NAMES: usize = 256;
const PRIVILEGES: [&str; 8] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "TRUNCATE",
    "REFERENCES",
    "TRIGGER",
    "MAINTAIN",
];
const OURS: Attack = Attack::Nameless;

fn object(n: usize, grants: usize, names: usize) -> Value {
    let who = json!({"type": "ManagedIdentity"});
    let mut object = principal(&OURS.namespace(), &evil(OURS, n), "nowhere", &who);
    let grants = (0..grants).map(|g| {
        let names: Vec<String> = (0..names).map(|t| format!("t{t}")).collect();
        json!({"database": format!("d{g}"), "schema": "s", "objects": "Tables", "names": names,
               "privileges": PRIVILEGES})
    });
    if let Some(spec) = object.get_mut("spec") {
        spec["grants"] = grants.collect();
    }
    object
}

/// The largest that the API server takes: many names in many grants, else in one grant each.
pub(super) async fn begin(world: &World) -> Result<Running> {
    let mut grants = GRANTS;
    for n in 0..COUNT {
        loop {
            let made = world.create(object(n, grants, NAMES)).await;
            let refused = made.as_ref().is_err_and(|error| {
                let status = error.downcast_ref::<kube::Error>();
                matches!(status, Some(kube::Error::Api(status)) if [400, 413, 422].contains(&status.code))
            });
            if refused && grants > 1 {
                grants /= 2;
                continue;
            }
            made?;
            break;
        }
    }
    eprintln!("       the schema allows {grants} grants of {NAMES} names");
    Ok(Running::default())
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let (there, seen) = world.seen(PRINCIPAL, &OURS.namespace()).await?;
    ensure!(there == COUNT, "{there} principals");
    ensure!(seen == COUNT, "{seen} of {COUNT} have a status");
    let one = world
        .objects(PRINCIPAL, &OURS.namespace())
        .get(&evil(OURS, 0))
        .await?;
    let grants = one.data.pointer("/spec/grants").and_then(Value::as_array);
    let names = grants.context("no grants")?.len() * NAMES;
    Ok(format!("{there} principals with {names} names each"))
}
