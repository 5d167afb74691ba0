//! The end of a principal: what stays, what goes, and what a deletion waits for. Data is never
//! dropped, and each wait says what it waits for.

mod cleared;
mod ends;
mod reassigned;
mod roles;
mod servers;

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::api::{Api, DeleteParams, ListParams};
use lab::process::until;
use serde_json::{Value, json};

use crate::fixture::{SOON, World};

/// A managed identity's role that goes with its object.
pub fn dropping(world: &World, name: &str, role: &str, id: &str) -> Value {
    let principal = json!({"type": "ServicePrincipal", "objectId": id});
    let mut object = world.principal(name, role, principal);
    object["spec"]["deletionPolicy"] = json!("Drop");
    object
}

/// Waits until an object is gone.
pub async fn gone(world: &World, name: &str) -> Result<()> {
    world
        .wait("principal", name, "is gone", Value::is_null)
        .await?;
    Ok(())
}

/// Whether a role exists.
pub async fn exists(world: &World, role: &str) -> Result<bool> {
    let answer = world.ask(&crate::roles::exists(role)).await?;
    Ok(answer.as_deref() == Some("t"))
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> usize {
    object["metadata"]["finalizers"]
        .as_array()
        .map_or(0, Vec::len)
}

/// Waits until the server object is gone.
pub async fn server_gone(world: &World) -> Result<()> {
    world
        .wait("server", "server", "is gone", Value::is_null)
        .await?;
    Ok(())
}

/// Waits until a namespace is gone.
pub async fn namespace_gone(world: &World, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    until(&format!("namespace {name} is gone"), SOON, async || {
        Ok(namespaces.get_opt(name).await?.is_none())
    })
    .await
}

/// Deletes a namespace.
pub async fn delete_namespace(world: &World, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// The annotation that ends a deletion.
pub fn abandon() -> Value {
    json!({"metadata": {"annotations": {"entrapostgres.io/abandon": "true"}}})
}

/// The Warning events about roles that were left, by the name of their principal.
pub async fn abandoned(world: &World) -> Result<BTreeMap<String, String>> {
    let events: Api<Event> = Api::namespaced(world.client.clone(), &world.names.team);
    let events = events.list(&ListParams::default()).await?.items.into_iter();
    let told = events.filter(|event| {
        event.reason.as_deref() == Some("RoleAbandoned")
            && event.type_.as_deref() == Some("Warning")
    });
    Ok(told
        .map(|event| {
            let name = event.involved_object.name.unwrap_or_default();
            (name, event.message.unwrap_or_default())
        })
        .collect())
}
