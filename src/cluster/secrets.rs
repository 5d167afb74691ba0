//! Secrets: looked at without their data, made once by POST, and afterwards written only over
//! exactly the version that was looked at. What they hold is never printed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use super::{Call, Cluster, FIELD_MANAGER};
use crate::model::plan::secret_not_ours;
use crate::model::{Class, Failure, Reason};

mod content;

pub use content::{SECRET_TYPE, SecretContent, SecretMeta, SecretRead, WriteError};
use content::{owned, wanted};

impl Cluster {
    /// A Secret's metadata; its data does not even leave the API server.
    pub async fn look_secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<SecretMeta>, Failure> {
        let _turn = self.turn().await;
        let found = self.secret_metadata(namespace, name).await?;
        Ok(found.as_ref().map(SecretMeta::from))
    }

    /// A Secret with its data.
    pub async fn read_secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<SecretRead>, Failure> {
        let _turn = self.turn().await;
        let found = self.api::<Secret>(namespace).get_opt(name).await;
        let found = found.map_err(|error| call("get", namespace, name).failure(&error))?;
        Ok(found.map(SecretRead::from))
    }

    /// Makes a Secret that is not there yet. One that is there is never touched: `SecretNotOurs`,
    /// or a conflict if it is this owner's already.
    pub async fn create_secret(
        &self,
        namespace: &str,
        name: &str,
        content: &SecretContent,
    ) -> Result<SecretMeta, WriteError> {
        self.may_write()?;
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let body = wanted(namespace, name, content);
        match self.api::<Secret>(namespace).create(&params, &body).await {
            Ok(made) => Ok(SecretRead::from(made).meta),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                match self.look_secret(namespace, name).await? {
                    Some(meta) => Err(taken(namespace, name, &meta, content)),
                    None => Err(changed(namespace, name)),
                }
            }
            Err(error) => Err(call("create", namespace, name).failure(&error).into()),
        }
    }

    /// Writes a Secret of ours over exactly the version that was looked at.
    pub async fn apply_secret(
        &self,
        namespace: &str,
        name: &str,
        content: &SecretContent,
        seen: &SecretMeta,
    ) -> Result<SecretMeta, WriteError> {
        self.may_write()?;
        let current = self.secret_metadata(namespace, name).await?;
        let Some(current) = current.filter(|now| now.uid.as_ref() == Some(&seen.uid)) else {
            return Err(changed(namespace, name));
        };
        let meta = SecretMeta::from(&current);
        if meta.controller_uid.as_ref() != Some(&content.owner.uid) {
            return Err(taken(namespace, name, &meta, content));
        }
        if meta.resource_version != seen.resource_version {
            return Err(changed(namespace, name));
        }
        let version = self
            .remove_leftovers(namespace, name, content, &current)
            .await?
            .unwrap_or(meta.resource_version);
        let mut body = wanted(namespace, name, content);
        body.metadata.uid = Some(meta.uid);
        body.metadata.resource_version = Some(version);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        // Others may lead since the first time it was asked.
        self.may_write()?;
        let answer = self
            .api::<Secret>(namespace)
            .patch(name, &params, &Patch::Apply(&body))
            .await;
        written(namespace, name, answer)
    }

    /// Makes a Secret without an owner ours, exactly the version that was looked at. Nothing of what it had
    /// stays but what others hold it by: whoever put it there gains no more than from an absent one.
    pub async fn take_secret_over(
        &self,
        namespace: &str,
        name: &str,
        content: &SecretContent,
        seen: &SecretMeta,
    ) -> Result<SecretMeta, WriteError> {
        self.may_write()?;
        let Secret { data, metadata, .. } = wanted(namespace, name, content);
        let operations = json!([
            {"op": "test", "path": "/metadata/uid", "value": seen.uid},
            {"op": "test", "path": "/metadata/resourceVersion", "value": seen.resource_version},
            {"op": "test", "path": "/type", "value": SECRET_TYPE},
            {"op": "add", "path": "/metadata/ownerReferences", "value": metadata.owner_references},
            {"op": "add", "path": "/metadata/labels", "value": metadata.labels},
            {"op": "add", "path": "/metadata/annotations", "value": metadata.annotations},
            {"op": "add", "path": "/data", "value": data},
        ]);
        self.patch_json(namespace, name, operations).await
    }

    /// Deletes a Secret of ours, exactly the version that was looked at. Absent counts as deleted.
    pub async fn delete_secret(
        &self,
        namespace: &str,
        name: &str,
        seen: &SecretMeta,
    ) -> Result<(), WriteError> {
        self.may_write()?;
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(seen.uid.clone()),
            resource_version: Some(seen.resource_version.clone()),
        });
        match self.api::<Secret>(namespace).delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(kube::Error::Api(status)) if status.is_conflict() => Err(changed(namespace, name)),
            Err(error) => Err(call("delete", namespace, name).failure(&error).into()),
        }
    }

    async fn secret_metadata(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, Failure> {
        let found = self.api::<Secret>(namespace).get_metadata_opt(name).await;
        let found = found.map_err(|error| call("get", namespace, name).failure(&error))?;
        Ok(found.map(|found| found.metadata))
    }

    /// Server-side apply leaves what our own POST brought, because the API server books a POST
    /// separately. What is no longer wanted of it is taken away first; usually nothing.
    async fn remove_leftovers(
        &self,
        namespace: &str,
        name: &str,
        content: &SecretContent,
        current: &ObjectMeta,
    ) -> Result<Option<String>, WriteError> {
        let leftovers = leftovers(current, &wanted(namespace, name, content));
        if leftovers.is_empty() {
            return Ok(None);
        }
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": current.uid}),
            json!({"op": "test", "path": "/metadata/resourceVersion",
                   "value": current.resource_version}),
        ];
        operations.extend(
            leftovers
                .iter()
                .map(|path| json!({"op": "remove", "path": path})),
        );
        let operations = Value::Array(operations);
        let meta = self.patch_json(namespace, name, operations).await?;
        Ok(Some(meta.resource_version))
    }

    async fn patch_json(
        &self,
        namespace: &str,
        name: &str,
        operations: Value,
    ) -> Result<SecretMeta, WriteError> {
        let patch = serde_json::from_value(operations)
            .map_err(|error| Failure::new(Class::Invalid, Reason::Internal, error.to_string()))?;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.may_write()?;
        let answer = self
            .api::<Secret>(namespace)
            .patch(name, &params, &Patch::Json::<()>(patch))
            .await;
        // A test that fails, or something to remove that is gone by now: not what was looked at.
        if let Err(kube::Error::Api(status)) = &answer
            && status.code == 422
        {
            return Err(changed(namespace, name));
        }
        written(namespace, name, answer)
    }
}

fn call(verb: &'static str, namespace: &str, name: &str) -> Call {
    Call::on::<Secret>(verb, namespace, name)
}

fn changed(namespace: &str, name: &str) -> WriteError {
    WriteError::Conflict(format!(
        "Secret {namespace}/{name} changed while it was being written; it is read again"
    ))
}

fn taken(namespace: &str, name: &str, found: &SecretMeta, content: &SecretContent) -> WriteError {
    // Ours by now, or still that of an object which was deleted before ours was made.
    if found.controller_uid.as_ref() == Some(&content.owner.uid)
        || found.is_of(&content.owner.kind, &content.owner.name)
    {
        return changed(namespace, name);
    }
    secret_not_ours(namespace, name, found.holder().as_deref()).into()
}

fn written(
    namespace: &str,
    name: &str,
    answer: Result<Secret, kube::Error>,
) -> Result<SecretMeta, WriteError> {
    match answer {
        Ok(secret) => Ok(SecretRead::from(secret).meta),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
            Err(changed(namespace, name))
        }
        Err(error) => Err(call("patch", namespace, name).failure(&error).into()),
    }
}

/// JSON pointers to what our POST brought and the wanted Secret does not have.
fn leftovers(current: &ObjectMeta, wanted: &Secret) -> Vec<String> {
    let Secret { data, metadata, .. } = wanted;
    let keys = |map: &Option<BTreeMap<String, String>>| -> BTreeSet<String> {
        map.iter().flat_map(BTreeMap::keys).cloned().collect()
    };
    let data = data.iter().flat_map(BTreeMap::keys).cloned().collect();
    let parts = [
        ("/f:data", "/data", data),
        (
            "/f:metadata/f:labels",
            "/metadata/labels",
            keys(&metadata.labels),
        ),
        (
            "/f:metadata/f:annotations",
            "/metadata/annotations",
            keys(&metadata.annotations),
        ),
    ];
    let paths = parts.into_iter().flat_map(|(path, target, keep)| {
        let gone = owned(current, Some("Update"), path).into_iter();
        gone.filter(move |key| !keep.contains(key)).map(move |key| {
            let escaped = key.replace('~', "~0").replace('/', "~1");
            format!("{target}/{escaped}")
        })
    });
    paths.collect()
}

#[cfg(test)]
mod tests;
