//! What the operator asks of Kubernetes and writes there, in our words.
//! Decides nothing; every write asks the [`WriteGate`] first, so that a replica that lost its lease
//! writes nothing more.

mod ca;
mod client;
mod error;
mod events;
mod finalizers;
mod namespaces;
mod policies;
mod secrets;
mod service_accounts;
mod status;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::model::{Failure, ObjectKey};
use crate::ports::WriteGate;

pub use client::{ClientError, connect};
pub use events::{EventRecorder, EventType};
pub use finalizers::{FINALIZER, FinalizerChange, Held};
pub use policies::Forbidden;
pub use secrets::{SECRET_TYPE, SecretContent, SecretMeta, SecretRead, WriteError};

pub(crate) use error::Call;

/// The field manager of all our writes, and the value of [`MANAGED_BY`].
pub const FIELD_MANAGER: &str = "entra-postgres-operator";

/// The label by which our Secrets are watched.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Kubernetes as the operator uses it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    gate: Arc<dyn WriteGate>,
    namespaces: namespaces::Labels,
    turns: Arc<Semaphore>,
}

/// Requests about principals at the same time, whatever they are about. After a restart each of thousands is
/// looked at; an API server that is asked all that at once refuses others, too, and first of all our
/// lease. A new token's Secret is written without waiting here: there are never many at once.
const AT_ONCE: usize = 16;

impl Cluster {
    /// Uses that client; every write asks the gate first.
    pub fn new(client: Client, gate: Arc<dyn WriteGate>) -> Self {
        Self {
            client,
            gate,
            namespaces: namespaces::Labels::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The client, for watchers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads one object from the API server, past every cache.
    pub async fn read<K>(&self, key: &ObjectKey) -> Result<Option<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + fmt::Debug,
    {
        let _turn = self.turn().await;
        self.api::<K>(&key.namespace)
            .get_opt(&key.name)
            .await
            .map_err(|error| Call::on::<K>("get", &key.namespace, &key.name).failure(&error))
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A turn for a request about a principal.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }

    fn may_write(&self) -> Result<(), Failure> {
        self.gate.check()
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::testing::{Answer, cluster};
    use super::*;
    use crate::api::Identity;

    // Red when: a request about a principal is sent without a turn.
    #[tokio::test(start_paused = true)]
    async fn requests_about_principals_wait_for_their_turn() {
        let (cluster, seen) = cluster(|_| Answer::refusal(500, "InternalError", "no"));
        let all = join_all((0..AT_ONCE).map(|_| cluster.turn()));
        let taken = all.await;
        let object: crate::api::EntraPostgresServer = serde_json::from_value(json!({
            "metadata": {"name": "app", "namespace": "orders", "uid": "u"},
            "spec": {"host": "h", "admins": []},
        }))
        .expect("a server");
        let key = ObjectKey::new("orders", "app");
        let identity: Identity = serde_json::from_value(json!({
            "workloadIdentity": {"serviceAccountRef": {"name": "app"}},
        }))
        .expect("an identity");
        let wait = std::time::Duration::from_secs(1);
        let late = [
            tokio::time::timeout(wait, cluster.namespace_labels("orders"))
                .await
                .is_err(),
            tokio::time::timeout(wait, cluster.read::<ConfigMap>(&key))
                .await
                .is_err(),
            tokio::time::timeout(wait, cluster.add_finalizer(&object))
                .await
                .is_err(),
            tokio::time::timeout(wait, cluster.source_version("orders", &identity))
                .await
                .is_err(),
        ];
        assert_eq!(late, [true; 4]);
        assert!(seen.requests().is_empty());
        drop(taken);
        assert!(cluster.read::<ConfigMap>(&key).await.is_err());
    }
}
