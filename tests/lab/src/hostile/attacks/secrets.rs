//! Secrets that say they are the operator's, with annotations as large as annotations may be.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use serde_json::json;

use super::{Attack, Running, create_all, pick};
use crate::hostile::identities::evil;
use crate::hostile::world::World;

const COUNT: usize = 300;
const LARGE: usize = 250_000;
const OURS: Attack = Attack::Secrets;
const LABEL: &str = "app.kubernetes.io/managed-by";

pub(super) async fn begin(world: &World) -> Result<Running> {
    let all = (0..COUNT).map(|n| {
        // Under our own prefix, or under another.
        let key = pick(&["evil/note", "entrapostgres.io/note"], n);
        json!({"apiVersion": "v1", "kind": "Secret", "type": "servicebinding.io/postgresql",
            "metadata": {"name": evil(OURS, n), "namespace": OURS.namespace(),
                "labels": {LABEL: "entra-postgres-operator"},
                "annotations": {key: "n".repeat(LARGE)}}})
    });
    create_all(world, all).await?;
    Ok(Running::default())
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &OURS.namespace());
    let ours = ListParams::default().labels(&format!("{LABEL}=entra-postgres-operator"));
    let there = secrets.list_metadata(&ours).await?.items.len();
    ensure!(there == COUNT, "{there} Secrets");
    Ok(format!("{there} Secrets with {LARGE} bytes of annotations"))
}
