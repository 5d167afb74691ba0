//! Service accounts whose annotations are as long as annotations may be: the URL that is made of them
//! cannot be sent.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, ListParams};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;

use super::{Attack, Running, create_all};
use crate::hostile::identities::evil;
use crate::hostile::world::{PRINCIPAL, World};

const COUNT: usize = 20;
const LONG: usize = 70_000;
const OURS: Attack = Attack::Annotations;

pub(super) async fn begin(world: &World, mut random: StdRng) -> Result<Running> {
    let all: Vec<_> = (0..COUNT)
        .flat_map(|n| {
            let text = "a".repeat(random.random_range(LONG..3 * LONG));
            let (client, tenant) = match n % 4 {
                0 => (text, world.tenant.clone()),
                // What is sent as part of a URL, percent by percent.
                1 => (
                    "00000000-0000-4000-8000-000000000000".to_owned(),
                    text.replace("aa", "é"),
                ),
                _ => ("00000000-0000-4000-8000-000000000000".to_owned(), text),
            };
            let mut account = world.account(&OURS.namespace(), &evil(OURS, n), &client);
            if let Some(annotations) = account.pointer_mut("/metadata/annotations") {
                annotations["azure.workload.identity/tenant-id"] = json!(tenant);
            }
            [account, OURS.with_token(n)]
        })
        .collect();
    create_all(world, all.into_iter()).await?;
    Ok(Running::default())
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), &OURS.namespace());
    let accounts = accounts.list(&ListParams::default()).await?.items;
    let long = accounts.iter().filter(|account| {
        let mut annotations = account.metadata.annotations.iter().flatten();
        annotations.any(|(_, value)| value.len() >= LONG)
    });
    let long = long.count();
    let (_, seen) = world.seen(PRINCIPAL, &OURS.namespace()).await?;
    ensure!(long == COUNT, "{long} long annotations");
    ensure!(seen == COUNT, "{seen} of {COUNT} principals have a status");
    Ok(format!(
        "{long} service accounts with {LONG} characters and more"
    ))
}
