//! Keeps principals and servers as declared: observe, plan, execute, report.

pub mod feed;
mod finalizers;
pub mod index;
pub mod principal;
pub mod server;
#[cfg(test)]
mod testing;
pub mod watches;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::controller::Action;

use crate::cluster::{Cluster, EventRecorder};
use crate::model::report::{
    CONNECTED, LOGIN_VERIFIED, READY, RECONCILING, ROLE_SYNCED, STALLED, TOKEN_ISSUED,
};
use crate::model::{Class, Failure, ObjectKey};
use crate::ports::{Clock, TokenSource};
use crate::postgres::Sessions;
use crate::settings::Settings;
use crate::telemetry::{ConditionStatus, Metrics, ObjectKind, ReconcileResult};
use index::Index;

/// What every reconcile may use.
pub struct Context {
    /// Kubernetes.
    pub cluster: Cluster,
    /// The servers.
    pub sessions: Arc<Sessions>,
    /// Entra.
    pub tokens: Arc<dyn TokenSource>,
    /// What the watchers saw.
    pub index: Arc<Index>,
    /// The operator's configuration.
    pub settings: Arc<Settings>,
    /// Where results are shown.
    pub reporter: Reporter,
}

/// Where results are shown, and when they happened.
pub struct Reporter {
    /// Events of Kubernetes.
    pub events: EventRecorder,
    /// Prometheus.
    pub metrics: Metrics,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Reporter {
    /// Sets the metrics of an object's conditions; those it has not are taken away.
    fn tell(&self, kind: ObjectKind, key: &ObjectKey, conditions: &[Condition]) {
        for type_ in [
            READY,
            ROLE_SYNCED,
            TOKEN_ISSUED,
            LOGIN_VERIFIED,
            CONNECTED,
            RECONCILING,
            STALLED,
        ] {
            match conditions.iter().find(|condition| condition.type_ == type_) {
                Some(condition) => {
                    let status = match condition.status.as_str() {
                        "True" => ConditionStatus::True,
                        "False" => ConditionStatus::False,
                        _ => ConditionStatus::Unknown,
                    };
                    self.metrics.condition(kind, key, type_, status);
                }
                None => self.metrics.forget_condition(kind, key, type_),
            }
        }
    }
}

/// How a pass counts in the metrics.
fn result_of(failure: Option<&Failure>) -> ReconcileResult {
    match failure.map(|failure| failure.class) {
        None => ReconcileResult::Settled,
        Some(Class::Waiting) => ReconcileResult::Waiting,
        Some(Class::Transient) => ReconcileResult::Transient,
        Some(Class::Denied) => ReconcileResult::Denied,
        Some(Class::Invalid) => ReconcileResult::Invalid,
    }
}

/// Reconciles report every failure themselves: nothing is left for kube's error policy.
#[derive(Debug)]
pub enum Never {}

impl fmt::Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Never {}

/// Runs one reconcile so that a panic harms this object only: kube would end the whole controller.
async fn guarded(key: &ObjectKey, work: impl Future<Output = Action>) -> Action {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(object = %key, "a defect of the operator ended this reconcile; it is tried again");
        Action::requeue(Duration::from_secs(60))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_one_reconcile_is_a_later_try_of_that_object_only() {
        let key = ObjectKey::new("orders", "api");
        let action = guarded(&key, async { panic!("a defect") }).await;
        assert_eq!(action, Action::requeue(Duration::from_secs(60)));
        let action = guarded(&key, async { Action::await_change() }).await;
        assert_eq!(action, Action::await_change());
    }
}
