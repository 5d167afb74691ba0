//! Server-side apply of manifests, as `kubectl apply --server-side` does it.
//! Must not know any kind but namespaces and custom resource definitions, which others need first.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, ApiResource, Scope};
use kube::{Client, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::Value;

use crate::process::until;

const MANAGER: &str = "lab";
const ESTABLISHED: Duration = Duration::from_secs(15);

/// Applies a file, or all YAML files of a folder and its subfolders. Returns what was applied.
pub async fn path(client: &Client, path: &Path) -> Result<Vec<DynamicObject>> {
    let mut files = Vec::new();
    collect(path, &mut files)?;
    let mut documents = Vec::new();
    for file in files {
        let read =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        documents
            .extend(parse(&read).with_context(|| format!("{} is no manifest", file.display()))?);
    }
    apply(client, documents).await
}

/// Applies the documents of a YAML text.
pub(super) async fn text(client: &Client, text: &str) -> Result<Vec<DynamicObject>> {
    apply(client, parse(text)?).await
}

fn collect(path: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let mut inside = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    inside.sort_by_key(fs::DirEntry::path);
    for entry in inside {
        let path = entry.path();
        let yaml = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml");
        // A kustomization is for kustomize, not for the API server.
        let manifest = yaml && path.file_stem().is_some_and(|stem| stem != "kustomization");
        if path.is_dir() || manifest {
            collect(&path, files)?;
        }
    }
    Ok(())
}

/// The documents of a YAML text, lists unfolded, empty ones left out.
pub fn parse(text: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut value = Value::deserialize(document)?;
        match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => {
                for item in items {
                    objects.push(serde_json::from_value(item)?);
                }
            }
            _ if value.is_null() => {}
            _ => objects.push(serde_json::from_value(value)?),
        }
    }
    Ok(objects)
}

fn order(object: &DynamicObject) -> u8 {
    match object.types.as_ref().map(|types| types.kind.as_str()) {
        Some("Namespace") => 0,
        Some("CustomResourceDefinition") => 1,
        _ => 2,
    }
}

async fn apply(client: &Client, mut objects: Vec<DynamicObject>) -> Result<Vec<DynamicObject>> {
    objects.sort_by_key(order);
    let mut kinds = HashMap::new();
    let mut applied = Vec::new();
    for object in objects {
        let what = describe(&object);
        let one = apply_one(client, &mut kinds, &object).await;
        applied.push(one.with_context(|| format!("cannot apply {what}"))?);
    }
    Ok(applied)
}

fn describe(object: &DynamicObject) -> String {
    let kind = object
        .types
        .as_ref()
        .map_or("an object without kind", |types| &types.kind);
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

type Kinds = HashMap<GroupVersionKind, (ApiResource, Scope)>;

async fn apply_one(
    client: &Client,
    kinds: &mut Kinds,
    object: &DynamicObject,
) -> Result<DynamicObject> {
    let Some(types) = &object.types else {
        bail!("it has no apiVersion and kind")
    };
    let gvk = GroupVersionKind::try_from(types)?;
    if !kinds.contains_key(&gvk) {
        let (resource, capabilities) = discovery::pinned_kind(client, &gvk).await?;
        kinds.insert(gvk.clone(), (resource, capabilities.scope));
    }
    let Some((resource, scope)) = kinds.get(&gvk) else {
        bail!("its kind was not found")
    };
    let api: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(client.clone(), resource),
        Scope::Namespaced => {
            let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, resource)
        }
    };
    let name = object.name_any();
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await?;
    if order(object) == 1 {
        let what = format!("CustomResourceDefinition {name} is established");
        until(&what, ESTABLISHED, async || {
            Ok(established(&api.get(&name).await?))
        })
        .await?;
    }
    Ok(applied)
}

fn established(definition: &DynamicObject) -> bool {
    let conditions = definition
        .data
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition
            .get("type")
            .is_some_and(|value| value == "Established")
            && condition.get("status").is_some_and(|value| value == "True")
    })
}
