//! Keeps principals and servers as declared: observe, plan, execute, report.

pub mod feed;
mod finalizers;
pub mod index;
mod kept;
pub mod mailbox;
pub mod policies;
pub mod principal;
pub mod server;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod turns;
pub mod watches;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::controller::Action;

use crate::cluster::{Cluster, EventRecorder};
use crate::model::report::{
    CONNECTED, LOGIN_VERIFIED, Note, READY, RECONCILING, ROLE_SYNCED, STALLED, SUSPENDED,
    TOKEN_ISSUED,
};
use crate::model::{Class, Failure, ObjectKey, Reason};
use crate::ports::{Clock, TokenSource};
use crate::postgres::Sessions;
use crate::settings::Settings;
use crate::telemetry::{ConditionStatus, Heartbeats, Metrics, ObjectKind, ReconcileResult};
use index::Index;
use turns::{Priority, Turns};

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
    /// Which passes go on at the same time.
    pub turns: Turns,
    /// Where the controllers show that they work.
    pub heartbeats: Heartbeats,
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
        self.metrics.paused(kind, key, is_paused(conditions));
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

/// Whether somebody wants nothing to be done about an object: it is suspended, or in mode Plan.
fn is_paused(conditions: &[Condition]) -> bool {
    let plan = Reason::PlanOnly.to_string();
    conditions.iter().any(|condition| {
        condition.type_ == SUSPENDED || (condition.type_ == READY && condition.reason == plan)
    })
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

/// A transition in the log, as the event has it.
fn log_note(object: &ObjectKey, note: &Note) {
    let Note {
        reason,
        note: text,
        warning,
    } = note;
    if *warning {
        tracing::warn!(%object, reason, "{text}");
    } else {
        tracing::info!(%object, reason, "{text}");
    }
}

/// A controller works as long as it looks at its sign of life at least this often.
pub const BEAT_LATE: Duration = Duration::from_secs(600);
/// How often it does while all is well.
const BEAT: Duration = Duration::from_secs(60);

/// The controller's sign of life went all the way through it: watch store, queue, and the turns of passes.
async fn beat(kind: ObjectKind, ctx: &Context) -> Action {
    let turn = ctx.turns.take("", Priority::Usual, 0).await;
    ctx.heartbeats.beat(heartbeat_of(kind));
    drop(turn);
    Action::requeue(BEAT)
}

/// By what a controller is known among the signs of life.
pub fn heartbeat_of(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Principal => "the controller of principals",
        ObjectKind::Server => "the controller of servers",
    }
}

/// Runs one reconcile so that a panic harms this object only: kube would end the whole controller.
async fn guarded(
    kind: ObjectKind,
    key: &ObjectKey,
    metrics: &Metrics,
    work: impl Future<Output = Action>,
) -> Action {
    let started = Instant::now();
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(object = %key, "a defect of the operator ended this reconcile; it is tried again");
        metrics.reconciled(kind, ReconcileResult::Panicked, started.elapsed());
        Action::requeue(Duration::from_secs(60))
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    // Red when: the reason of another condition counts, or Ready's does not.
    #[test]
    fn only_what_is_suspended_or_planned_is_paused() {
        let condition = |type_: &str, reason: &str| Condition {
            type_: type_.to_owned(),
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        for (type_, reason, paused) in [
            (SUSPENDED, "Suspended", true),
            (READY, "PlanOnly", true),
            (READY, "ServerUnreachable", false),
            (STALLED, "Suspended", false),
        ] {
            assert_eq!(is_paused(&[condition(type_, reason)]), paused, "{reason}");
        }
        assert!(!is_paused(&[]));
    }

    #[tokio::test]
    async fn a_panic_in_one_reconcile_is_a_later_try_of_that_object_only() {
        let key = ObjectKey::new("orders", "api");
        let metrics = Metrics::new();
        let kind = ObjectKind::Principal;
        let action = guarded(kind, &key, &metrics, async { panic!("a defect") }).await;
        assert_eq!(action, Action::requeue(Duration::from_secs(60)));
        // Red when: guarded() does not count it.
        assert!(
            metrics.text().contains("result=\"panicked\"} 1"),
            "{}",
            metrics.text()
        );
        let action = guarded(kind, &key, &metrics, async { Action::await_change() }).await;
        assert_eq!(action, Action::await_change());
    }
}
