//! Labels of namespaces, for the tenant entries of servers, and the cluster's id.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::time::Instant;

use super::{Call, Cluster};
use crate::model::{Class, Failure, Reason};

/// How long labels are believed; a change shows at the next look after it.
const FRESH: Duration = Duration::from_secs(60);

type Known = HashMap<String, (Instant, Arc<BTreeMap<String, String>>)>;

/// Held by who reads the labels of a namespace.
type Reading = Arc<tokio::sync::Mutex<()>>;

/// Labels that were read lately, and those that are being read: by one for all that want them.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(Arc<Mutex<Known>>, Arc<Mutex<HashMap<String, Reading>>>);

impl Labels {
    fn get(&self, namespace: &str) -> Option<Arc<BTreeMap<String, String>>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, labels) = known.get(namespace)?;
        (read.elapsed() < FRESH).then(|| Arc::clone(labels))
    }

    fn reading(&self, namespace: &str) -> Reading {
        let mut reading = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        // Who waits has a part of it.
        reading.retain(|_, of| Arc::strong_count(of) > 1);
        Arc::clone(reading.entry(namespace.to_owned()).or_default())
    }

    fn put(&self, namespace: &str, labels: &Arc<BTreeMap<String, String>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (read, _)| read.elapsed() < FRESH);
        known.insert(namespace.to_owned(), (Instant::now(), Arc::clone(labels)));
    }
}

impl Cluster {
    /// The labels of a namespace, at most a minute old. A namespace that is gone has none.
    pub async fn namespace_labels(
        &self,
        namespace: &str,
    ) -> Result<Arc<BTreeMap<String, String>>, Failure> {
        if let Some(labels) = self.namespaces.get(namespace) {
            return Ok(labels);
        }
        let reading = self.namespaces.reading(namespace);
        let _alone = reading.lock().await;
        if let Some(labels) = self.namespaces.get(namespace) {
            return Ok(labels);
        }
        let _turn = self.turn().await;
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = api
            .get_metadata_opt(namespace)
            .await
            .map_err(|error| Call::on::<Namespace>("get", "", namespace).failure(&error))?;
        let labels = found.and_then(|found| found.metadata.labels);
        let labels = Arc::new(labels.unwrap_or_default());
        self.namespaces.put(namespace, &labels);
        Ok(labels)
    }

    /// What tells this cluster from all others: the uid of namespace kube-system.
    pub async fn cluster_id(&self) -> Result<String, Failure> {
        let call = Call::on::<Namespace>("get", "", "kube-system");
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.get_metadata("kube-system").await {
            Ok(found) => found.metadata.uid.ok_or_else(|| {
                let message =
                    "namespace kube-system has no uid: set clusterId in the configuration";
                Failure::new(Class::Invalid, Reason::ApiError, message)
            }),
            Err(error) => {
                let failure = call.failure(&error);
                Err(if failure.class == Class::Denied {
                    let message = format!(
                        "the cluster's id is unknown: {}, or set clusterId in the configuration",
                        failure.message
                    );
                    Failure { message, ..failure }
                } else {
                    failure
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, cluster};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn labels_are_read_once_a_minute() {
        let (cluster, seen) = cluster(|_| {
            Answer::ok(json!({"metadata": {"name": "orders", "labels": {"team": "a"}}}))
        });
        for _ in 0..3 {
            let labels = cluster.namespace_labels("orders").await.expect("labels");
            assert_eq!(labels.get("team").map(String::as_str), Some("a"));
        }
        assert_eq!(seen.requests().len(), 1);
        tokio::time::advance(FRESH).await;
        cluster.namespace_labels("orders").await.expect("labels");
        assert_eq!(seen.requests().len(), 2);
    }

    // Red when: each of many that begin at once reads the labels for itself.
    #[tokio::test]
    async fn labels_that_many_want_at_once_are_read_once() {
        let (cluster, seen) = cluster(|_| Answer::ok(json!({"metadata": {"name": "orders"}})));
        let all = (0..50).map(|_| cluster.namespace_labels("orders"));
        for labels in futures::future::join_all(all).await {
            labels.expect("labels");
        }
        assert_eq!(seen.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_forbidden_cluster_id_says_what_to_configure() {
        let (cluster, _) = cluster(|_| {
            Answer::refusal(
                403,
                "Forbidden",
                "namespaces \"kube-system\" is forbidden: User \"x\" cannot get resource \
                 \"namespaces\" in API group \"\"",
            )
        });
        let failure = cluster.cluster_id().await.expect_err("forbidden");
        assert!(
            failure
                .message
                .contains("set clusterId in the configuration"),
            "{failure}"
        );
        assert!(failure.message.contains("namespaces"), "{failure}");
    }
}
