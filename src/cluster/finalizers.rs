//! Our finalizers, one for each kind: added and removed without ever touching those of others.
//! Must not decide when.

use std::fmt;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Call, Cluster, FIELD_MANAGER};
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::model::{Class, Failure, Reason};

/// Holds a principal until its role is cleaned up.
pub const FINALIZER: &str = "entrapostgres.io/role";

/// A kind that a finalizer of ours may hold.
pub trait Held:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + fmt::Debug
{
    /// Its name.
    const FINALIZER: &'static str;

    /// Whether the object, as it is here, has it.
    fn is_held(&self) -> bool {
        self.finalizers().iter().any(|name| name == Self::FINALIZER)
    }
}

impl Held for EntraPostgresPrincipal {
    const FINALIZER: &'static str = FINALIZER;
}

/// Holds a server while principals need it to drop their roles.
impl Held for EntraPostgresServer {
    const FINALIZER: &'static str = "entrapostgres.io/principals";
}

/// What became of the wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalizerChange {
    /// It was so already; nothing was written.
    Unchanged,
    /// Written.
    Written,
    /// The object is gone.
    Gone,
    /// The list was changed by somebody else meanwhile: look again.
    Stale,
}

impl Cluster {
    /// Adds ours; the object is as last seen.
    pub async fn add_finalizer<K: Held>(&self, object: &K) -> Result<FinalizerChange, Failure> {
        let present = object.finalizers();
        if object.is_held() {
            return Ok(FinalizerChange::Unchanged);
        }
        let (expected, addition) = if present.is_empty() {
            let whole =
                json!({"op": "add", "path": "/metadata/finalizers", "value": [K::FINALIZER]});
            (Value::Null, whole)
        } else {
            let one = json!({"op": "add", "path": "/metadata/finalizers/-", "value": K::FINALIZER});
            (json!(present), one)
        };
        self.patch_finalizers(object, &expected, &addition).await
    }

    /// Removes ours; the object is as last seen.
    pub async fn remove_finalizer<K: Held>(&self, object: &K) -> Result<FinalizerChange, Failure> {
        let present = object.finalizers();
        let Some(at) = present.iter().position(|name| name == K::FINALIZER) else {
            return Ok(FinalizerChange::Unchanged);
        };
        let removal = json!({"op": "remove", "path": format!("/metadata/finalizers/{at}")});
        self.patch_finalizers(object, &json!(present), &removal)
            .await
    }

    async fn patch_finalizers<K: Held>(
        &self,
        object: &K,
        expected: &Value,
        change: &Value,
    ) -> Result<FinalizerChange, Failure> {
        let _turn = self.turn().await;
        self.may_write()?;
        let namespace = object.namespace().unwrap_or_default();
        let name = object.name_any();
        let operations = json!([
            {"op": "test", "path": "/metadata/uid", "value": object.uid()},
            {"op": "test", "path": "/metadata/finalizers", "value": expected},
            change,
        ]);
        let patch = serde_json::from_value(operations)
            .map_err(|error| Failure::new(Class::Invalid, Reason::Internal, error.to_string()))?;
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let outcome = self
            .api::<K>(&namespace)
            .patch(&name, &params, &Patch::Json::<()>(patch))
            .await;
        match outcome {
            Ok(_) => Ok(FinalizerChange::Written),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(FinalizerChange::Gone),
            // A failed `test` is answered with 422.
            Err(kube::Error::Api(status)) if status.is_invalid() || status.is_conflict() => {
                Ok(FinalizerChange::Stale)
            }
            Err(error) => Err(Call::on::<K>("patch", &namespace, &name).failure(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::super::testing::{Answer, cluster};
    use super::*;

    impl Held for ConfigMap {
        const FINALIZER: &'static str = FINALIZER;
    }

    /// Any namespaced kind will do.
    fn object(finalizers: &[&str]) -> ConfigMap {
        let value = json!({"metadata": {
            "name": "app", "namespace": "orders", "uid": "u", "finalizers": finalizers,
        }});
        serde_json::from_value(value).expect("an object")
    }

    #[tokio::test]
    async fn only_our_own_entry_is_touched_and_the_list_is_tested() {
        let test = |list: Value| {
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "test", "path": "/metadata/finalizers", "value": list},
            ])
        };
        let with = |mut tests: Value, change: Value| {
            tests.as_array_mut().expect("a list").push(change);
            tests
        };
        let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
        for (present, adds, expected) in [
            (
                vec![],
                true,
                with(
                    test(Value::Null),
                    add("/metadata/finalizers", json!([FINALIZER])),
                ),
            ),
            (
                vec!["x"],
                true,
                with(
                    test(json!(["x"])),
                    add("/metadata/finalizers/-", json!(FINALIZER)),
                ),
            ),
            (
                vec!["x", FINALIZER],
                false,
                with(
                    test(json!(["x", FINALIZER])),
                    json!({"op": "remove", "path": "/metadata/finalizers/1"}),
                ),
            ),
        ] {
            let (cluster, seen) = cluster(|_| Answer::ok(json!({"metadata": {"name": "app"}})));
            let object = object(&present);
            let done = if adds {
                cluster.add_finalizer(&object).await
            } else {
                cluster.remove_finalizer(&object).await
            };
            assert_eq!(done, Ok(FinalizerChange::Written));
            assert_eq!(seen.only().body, expected);
        }
    }

    #[tokio::test]
    async fn what_is_so_already_costs_nothing() {
        let (cluster, seen) = cluster(|_| Answer::refusal(500, "InternalError", "no"));
        let unchanged = Ok(FinalizerChange::Unchanged);
        let added = cluster.add_finalizer(&object(&[FINALIZER])).await;
        assert_eq!(added, unchanged);
        assert_eq!(cluster.remove_finalizer(&object(&["x"])).await, unchanged);
        assert!(seen.requests().is_empty());
    }

    #[tokio::test]
    async fn gone_and_changed_are_told_apart() {
        for (code, reason, expected) in [
            (404, "NotFound", FinalizerChange::Gone),
            (422, "Invalid", FinalizerChange::Stale),
            (409, "Conflict", FinalizerChange::Stale),
        ] {
            let (cluster, _) = cluster(move |_| Answer::refusal(code, reason, "no"));
            let done = cluster.remove_finalizer(&object(&[FINALIZER])).await;
            assert_eq!(done, Ok(expected));
        }
    }
}
