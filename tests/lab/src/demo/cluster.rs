//! What the story does in the cluster: applies manifests, waits for conditions, reads Secrets.
//! Must not print a value of a Secret.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::control_plane::{apply_path, client_of};
use crate::process::until;

pub(super) const EXPIRES_AT: &str = "entrapostgres.io/expires-at";
const READY: Duration = Duration::from_secs(90);

pub(super) struct Cluster {
    client: Client,
}

/// An `EntraPostgresPrincipal`, as far as the story is about it.
#[derive(Clone, Debug)]
pub(super) struct Principal {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) kind: String,
}

/// What the operator wrote for a workload.
pub(super) struct Written {
    pub(super) name: String,
    pub(super) data: BTreeMap<String, String>,
    pub(super) expires_at: Timestamp,
}

impl Written {
    pub(super) fn get(&self, key: &str) -> Result<&str> {
        let found = self.data.get(key);
        Ok(found.with_context(|| format!("Secret {} has no key {key}", self.name))?)
    }
}

impl Cluster {
    pub(super) async fn connect(kubeconfig: &Path) -> Result<Self> {
        let client = client_of(kubeconfig).await?;
        Ok(Self { client })
    }

    /// Applies a file, or the files of a folder but not of its subfolders. Returns the principals.
    pub(super) async fn apply(&self, path: &Path) -> Result<Vec<Principal>> {
        let mut files = vec![path.to_path_buf()];
        if path.is_dir() {
            files = std::fs::read_dir(path)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<_>>()?;
            files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
            files.sort();
        }
        let mut principals = Vec::new();
        for file in files {
            let applied = apply_path(&self.client, &file).await?;
            principals.extend(applied.iter().filter_map(principal));
        }
        Ok(principals)
    }

    fn api(&self, namespace: &str, kind: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("entrapostgres.io", "v1alpha1", kind);
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::from_gvk(&gvk))
    }

    /// Waits until all are ready; if one is not in time, the error is what its conditions say.
    pub(super) async fn ready(&self, principals: &[Principal]) -> Result<()> {
        for wanted in principals {
            let api = self.api(&wanted.namespace, "EntraPostgresPrincipal");
            let what = format!(
                "EntraPostgresPrincipal {}/{} is Ready",
                wanted.namespace, wanted.name
            );
            let is = async || Ok(is_ready(&api.get(&wanted.name).await?));
            if let Err(late) = until(&what, READY, is).await {
                let object = api.get(&wanted.name).await?;
                bail!(
                    "{late}; {}{}",
                    conditions(&object),
                    self.of_server(&object).await
                );
            }
        }
        Ok(())
    }

    /// The server's conditions: most often it is there that something is wrong.
    async fn of_server(&self, principal: &DynamicObject) -> String {
        let name = text(principal, "/spec/serverRef/name");
        let namespace = text(principal, "/spec/serverRef/namespace");
        let found = self.api(&namespace, "EntraPostgresServer").get(&name).await;
        found.map_or_else(
            |error| format!("; its server: {error}"),
            |server| format!("; its server: {}", conditions(&server)),
        )
    }

    /// The object id of the role, as status says it.
    pub(super) async fn object_id(&self, principal: &Principal) -> Result<String> {
        let api = self.api(&principal.namespace, "EntraPostgresPrincipal");
        Ok(text(
            &api.get(&principal.name).await?,
            "/status/role/objectId",
        ))
    }

    /// The Secret that status names.
    pub(super) async fn written(&self, principal: &Principal) -> Result<Written> {
        let api = self.api(&principal.namespace, "EntraPostgresPrincipal");
        let name = text(&api.get(&principal.name).await?, "/status/binding/name");
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &principal.namespace);
        let secret = secrets.get(&name).await?;
        let expires_at = secret.annotations().get(EXPIRES_AT);
        let expires_at = expires_at
            .with_context(|| format!("Secret {name} has no annotation {EXPIRES_AT}"))?
            .parse()?;
        let mut data = BTreeMap::new();
        for (key, value) in secret.data.unwrap_or_default() {
            data.insert(key, String::from_utf8(value.0)?);
        }
        Ok(Written {
            name: format!("{}/{name}", principal.namespace),
            data,
            expires_at,
        })
    }

    /// Asks for a new token, as a person would with `kubectl annotate`.
    pub(super) async fn renew(&self, principal: &Principal) -> Result<()> {
        let value = Timestamp::now().to_string();
        let patch = json!({"metadata": {"annotations": {"entrapostgres.io/renew": value}}});
        self.api(&principal.namespace, "EntraPostgresPrincipal")
            .patch(
                &principal.name,
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
        Ok(())
    }
}

fn principal(object: &DynamicObject) -> Option<Principal> {
    (object.types.as_ref()?.kind == "EntraPostgresPrincipal").then(|| Principal {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        role: text(object, "/spec/roleName"),
        kind: text(object, "/spec/principal/type"),
    })
}

fn text(object: &DynamicObject, path: &str) -> String {
    let found = object.data.pointer(path).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

fn all_conditions(object: &DynamicObject) -> impl Iterator<Item = &Value> {
    let found = object
        .data
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    found.into_iter().flatten()
}

fn is_ready(object: &DynamicObject) -> bool {
    all_conditions(object).any(|condition| {
        condition.get("type").is_some_and(|kind| kind == "Ready")
            && condition
                .get("status")
                .is_some_and(|status| status == "True")
            && condition.get("observedGeneration").and_then(Value::as_i64)
                == object.metadata.generation
    })
}

/// All conditions in one line.
fn conditions(object: &DynamicObject) -> String {
    let part = |condition: &Value, key: &str| {
        condition
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    let told: Vec<String> = all_conditions(object)
        .map(|condition| {
            let [kind, status, reason, message] =
                ["type", "status", "reason", "message"].map(|key| part(condition, key));
            format!("{kind}={status} ({reason}: {message})")
        })
        .collect();
    if told.is_empty() {
        return format!("{} has no conditions", object.name_any());
    }
    told.join(", ")
}
