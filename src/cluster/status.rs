//! Writes the status of our objects by server-side apply.

use std::fmt;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Call, Cluster, FIELD_MANAGER};
use crate::model::{Failure, ObjectKey};

impl Cluster {
    /// Makes `status` the whole of what we say about the object. Call it only when something
    /// differs. `false`: the object is gone, or another one has its name now; the API server knows
    /// no precondition on uids here, so that one has this status until it is looked at.
    pub async fn apply_status<K, S>(
        &self,
        key: &ObjectKey,
        uid: &str,
        status: &S,
    ) -> Result<bool, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + fmt::Debug,
        S: Serialize,
    {
        let _turn = self.turn().await;
        self.may_write()?;
        let body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api::<K>(&key.namespace);
        match api
            .patch_status(&key.name, &params, &Patch::Apply(&body))
            .await
        {
            Ok(written) => Ok(written.meta().uid.as_deref() == Some(uid)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
            Err(error) => Err(Call::on::<K>("patch", &key.namespace, &key.name)
                .subresource("status")
                .failure(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, cluster};
    use super::*;
    use crate::api::{EntraPostgresServer, EntraPostgresServerStatus};

    async fn write(cluster: &Cluster) -> Result<bool, Failure> {
        let status = EntraPostgresServerStatus {
            observed_generation: Some(3),
            ..EntraPostgresServerStatus::default()
        };
        let key = ObjectKey::new("platform", "orders");
        cluster
            .apply_status::<EntraPostgresServer, _>(&key, "uid-1", &status)
            .await
    }

    #[tokio::test]
    async fn the_status_is_applied_with_force_to_exactly_that_object() {
        let (cluster, seen) = cluster(|_| {
            Answer::ok(json!({
                "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
                "metadata": {"name": "orders", "uid": "uid-1"},
                "spec": {"host": "h", "admins": []},
            }))
        });
        assert_eq!(write(&cluster).await, Ok(true));
        let asked = seen.only();
        assert!(asked.path.ends_with("/entrapostgresservers/orders/status"));
        assert_eq!(asked.content_type, "application/apply-patch+yaml");
        assert!(asked.query.contains("force=true"), "{}", asked.query);
        assert_eq!(
            asked.body,
            json!({
                "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
                "status": {"observedGeneration": 3},
            })
        );
    }

    #[tokio::test]
    async fn an_object_that_is_gone_is_no_failure() {
        let (absent, _) = cluster(|_| Answer::refusal(404, "NotFound", "no"));
        assert_eq!(write(&absent).await, Ok(false));
        let (another, _) = cluster(|_| {
            Answer::ok(json!({
                "metadata": {"name": "orders", "uid": "uid-2"},
                "spec": {"host": "h", "admins": []},
            }))
        });
        assert_eq!(write(&another).await, Ok(false));
        let (cluster, _) = cluster(|_| Answer::refusal(500, "InternalError", "no"));
        assert!(write(&cluster).await.is_err());
    }
}
