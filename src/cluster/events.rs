//! Events about our objects. An event that cannot be written is counted and never a failure: a
//! namespace that is being deleted refuses every one.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as StoredEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::events::{Event, Recorder, Reporter};

use super::error::{causes, shortened};
use super::{Cluster, FIELD_MANAGER};
use crate::clock::SystemClock;
use crate::ports::Clock as _;
use crate::telemetry::Metrics;

pub use kube::runtime::events::EventType;

/// What the API server takes.
const LONGEST_NOTE: usize = 1024;
const LONGEST_NAME: usize = 253;
/// What the recorder adds to the object's name: a dot and nanoseconds in hexadecimal.
const SUFFIX: usize = 17;

/// Writes events; there is one, because it counts repetitions.
#[derive(Clone)]
pub struct EventRecorder {
    cluster: Cluster,
    recorder: Recorder,
    reporter: Reporter,
    metrics: Metrics,
}

impl EventRecorder {
    /// Writes events in the name of this replica.
    pub fn new(cluster: Cluster, instance: &str, metrics: Metrics) -> Self {
        let reporter = Reporter {
            controller: format!("entrapostgres.io/{FIELD_MANAGER}"),
            instance: Some(shortened(instance, 128).to_owned()),
        };
        Self {
            recorder: Recorder::new(cluster.client().clone(), reporter.clone()),
            cluster,
            reporter,
            metrics,
        }
    }

    /// Tells what happened to an object. Within six minutes the same reason and action about the
    /// same object count up the first event, with its note: what differs belongs into the reason.
    pub async fn publish(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        if self.cluster.may_write().is_err() {
            return;
        }
        let event = Event {
            type_,
            reason: shortened(reason, 128).to_owned(),
            action: shortened(action, 128).to_owned(),
            note: Some(shortened(note, LONGEST_NOTE).to_owned()),
            secondary: None,
        };
        let name = about.name.as_deref().unwrap_or_default();
        let outcome = if name.len() + SUFFIX <= LONGEST_NAME {
            self.recorder.publish(&event, about).await
        } else {
            self.publish_under_short_name(&event, about).await
        };
        if let Err(error) = outcome {
            self.metrics.event_failed();
            tracing::debug!(
                object = name,
                reason,
                "could not write an event about {name}: {}",
                causes(&error)
            );
        }
    }

    /// The recorder names an event after its object, which is too long for very long names.
    async fn publish_under_short_name(
        &self,
        event: &Event,
        about: &ObjectReference,
    ) -> Result<(), kube::Error> {
        let now = SystemClock.now();
        let object = about.name.as_deref().unwrap_or_default();
        let prefix = shortened(object, LONGEST_NAME - SUFFIX).trim_end_matches(['.', '-']);
        let stored = StoredEvent {
            metadata: ObjectMeta {
                namespace: about.namespace.clone(),
                name: Some(format!("{prefix}.{:x}", now.as_nanosecond())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            regarding: Some(about.clone()),
            reporting_controller: Some(self.reporter.controller.clone()),
            reporting_instance: self.reporter.instance.clone(),
            action: Some(event.action.clone()),
            reason: Some(event.reason.clone()),
            note: event.note.clone(),
            type_: Some(format!("{:?}", event.type_)),
            ..StoredEvent::default()
        };
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let api: Api<StoredEvent> = Api::namespaced(self.cluster.client().clone(), namespace);
        api.create(&PostParams::default(), &stored)
            .await
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, cluster};
    use super::*;

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some("entrapostgres.io/v1alpha1".to_owned()),
            kind: Some("EntraPostgresPrincipal".to_owned()),
            namespace: Some("orders".to_owned()),
            name: Some(name.to_owned()),
            uid: Some("u".to_owned()),
            ..ObjectReference::default()
        }
    }

    #[tokio::test]
    async fn name_and_note_fit_whatever_the_object_is_called() {
        let (cluster, seen) = cluster(|request| Answer::ok(request.body.clone()));
        let events = EventRecorder::new(cluster, "pod-1", Metrics::new());
        for name in ["a".repeat(253), "a".repeat(236), "short".to_owned()] {
            events
                .publish(
                    &about(&name),
                    EventType::Warning,
                    "ApiError",
                    "Sync",
                    &"ü".repeat(2000),
                )
                .await;
        }
        let requests = seen.requests();
        assert_eq!(requests.len(), 3);
        for request in requests {
            let name = request.body["metadata"]["name"].as_str().expect("a name");
            assert!(name.len() <= 253, "{}", name.len());
            let note = request.body["note"].as_str().expect("a note");
            assert!(note.len() <= 1024 && note.starts_with("üü"));
            assert_eq!(request.body["type"], "Warning");
            assert_eq!(request.body["regarding"]["uid"], "u");
        }
    }

    #[tokio::test]
    async fn a_refused_event_is_counted_and_nothing_more() {
        let (cluster, _) = cluster(|_| Answer::refusal(403, "Forbidden", "being terminated"));
        let metrics = Metrics::new();
        let events = EventRecorder::new(cluster, "pod-1", metrics.clone());
        events
            .publish(&about("app"), EventType::Normal, "Created", "Sync", "done")
            .await;
        assert!(
            metrics
                .text()
                .contains("entra_postgres_events_failed_total 1"),
            "{}",
            metrics.text()
        );
    }

    #[tokio::test]
    async fn a_standby_writes_no_event() {
        let (cluster, seen) =
            super::super::testing::standby(|_| Answer::ok(json!({"metadata": {}})));
        let events = EventRecorder::new(cluster, "pod-1", Metrics::new());
        events
            .publish(&about("app"), EventType::Normal, "Created", "Sync", "done")
            .await;
        assert!(seen.requests().is_empty());
    }
}
