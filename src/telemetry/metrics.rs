//! The operator's metrics, in our words; nobody else knows the library behind them.
//! Labels are enums, except namespace and name of objects, whose series go with the object.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{ConditionStatus, ObjectKind, ReconcileResult};
use crate::model::ObjectKey;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    namespace: String,
    name: String,
}

impl From<&ObjectKey> for ObjectLabels {
    fn from(key: &ObjectKey) -> Self {
        Self {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    kind: ObjectKind,
    namespace: String,
    name: String,
    condition: &'static str,
    status: ConditionStatus,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PausedLabels {
    kind: ObjectKind,
    namespace: String,
    name: String,
}

impl PausedLabels {
    fn new(kind: ObjectKind, key: &ObjectKey) -> Self {
        Self {
            kind,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExchangeLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    kind: ObjectKind,
    result: ReconcileResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: ObjectKind,
}

/// What the session of one server has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerCounts {
    /// When the catalog was last read.
    pub last_snapshot: Option<Timestamp>,
    /// Snapshots that failed, of the server or of a database.
    pub snapshot_failures: u64,
    /// Connections opened.
    pub connections_opened: u64,
    /// Messages of statements sent.
    pub messages: u64,
}

type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The operator's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Series>);

struct Series {
    registry: Registry,
    token_expiration: Family<ObjectLabels, Gauge>,
    token_renewal: Family<ObjectLabels, Gauge>,
    token_renewal_failures: Family<ObjectLabels, Gauge>,
    condition: Family<ConditionLabels, Gauge>,
    paused: Family<PausedLabels, Gauge>,
    conditions_told: Mutex<HashMap<(ObjectKind, ObjectKey), BTreeSet<&'static str>>>,
    server_snapshot: Family<ObjectLabels, Gauge>,
    server_snapshot_failures: Family<ObjectLabels, Counter>,
    server_connections: Family<ObjectLabels, Counter>,
    server_messages: Family<ObjectLabels, Counter>,
    entra_requests: Family<ExchangeLabels, Counter>,
    reconciles: Family<ResultLabels, Counter>,
    reconcile_duration: Family<KindLabels, Histogram, fn() -> Histogram>,
    leader: Gauge,
    policy_enforced: Family<RuleLabels, Gauge>,
    events_failed: Counter,
    refresh: OnceLock<Refresh>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn seconds() -> Histogram {
    Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

impl Metrics {
    /// A registry of its own, with nothing counted yet.
    pub fn new() -> Self {
        let mut series = Series {
            registry: Registry::with_prefix("entra_postgres"),
            token_expiration: Family::default(),
            token_renewal: Family::default(),
            token_renewal_failures: Family::default(),
            condition: Family::default(),
            paused: Family::default(),
            conditions_told: Mutex::default(),
            server_snapshot: Family::default(),
            server_snapshot_failures: Family::default(),
            server_connections: Family::default(),
            server_messages: Family::default(),
            entra_requests: Family::default(),
            reconciles: Family::default(),
            reconcile_duration: Family::new_with_constructor(seconds),
            leader: Gauge::default(),
            policy_enforced: Family::default(),
            events_failed: Counter::default(),
            refresh: OnceLock::new(),
        };
        series.register();
        Self(Arc::new(series))
    }

    /// When the token in a principal's Secret ends and when it will be renewed.
    pub fn token(&self, key: &ObjectKey, expires_at: Timestamp, renew_at: Timestamp) {
        let labels = ObjectLabels::from(key);
        set(&self.0.token_expiration, &labels, expires_at.as_second());
        set(&self.0.token_renewal, &labels, renew_at.as_second());
    }

    /// Exchanges for a principal that failed in a row.
    pub fn token_failures(&self, key: &ObjectKey, failures: u32) {
        let labels = ObjectLabels::from(key);
        set(&self.0.token_renewal_failures, &labels, failures.into());
    }

    /// The status of a condition; the series of the other statuses say 0.
    pub fn condition(
        &self,
        kind: ObjectKind,
        key: &ObjectKey,
        condition: &'static str,
        status: ConditionStatus,
    ) {
        self.told()
            .entry((kind, key.clone()))
            .or_default()
            .insert(condition);
        for &each in ConditionStatus::ALL {
            let labels = condition_labels(kind, key, condition, each);
            set(&self.0.condition, &labels, i64::from(each == status));
        }
    }

    /// A condition that an object no longer has.
    pub fn forget_condition(&self, kind: ObjectKind, key: &ObjectKey, condition: &'static str) {
        if let Some(told) = self.told().get_mut(&(kind, key.clone())) {
            told.remove(condition);
        }
        for &each in ConditionStatus::ALL {
            self.0
                .condition
                .remove(&condition_labels(kind, key, condition, each));
        }
    }

    /// Whether somebody wants nothing to be done about an object, so that it is not ready on purpose.
    /// Only such objects have a series: alerts exclude them by it.
    pub fn paused(&self, kind: ObjectKind, key: &ObjectKey, is_paused: bool) {
        let labels = PausedLabels::new(kind, key);
        if is_paused {
            self.0.paused.get_or_create(&labels).set(1);
        } else {
            self.0.paused.remove(&labels);
        }
    }

    /// Calls this before every scrape: it sets what others count.
    pub fn on_scrape(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        // A second source would be a defect of run(); the first one stays.
        let _ = self.0.refresh.set(Box::new(refresh));
    }

    /// What the session of a server has counted since it was started.
    pub fn server(&self, key: &ObjectKey, counts: ServerCounts) {
        let ServerCounts {
            last_snapshot,
            snapshot_failures,
            connections_opened,
            messages,
        } = counts;
        let labels = ObjectLabels::from(key);
        if let Some(at) = last_snapshot {
            set(&self.0.server_snapshot, &labels, at.as_second());
        }
        let absolute = |family: &Family<ObjectLabels, Counter>, value: u64| {
            family
                .get_or_create(&labels)
                .inner()
                .store(value, Ordering::Relaxed);
        };
        absolute(&self.0.server_snapshot_failures, snapshot_failures);
        absolute(&self.0.server_connections, connections_opened);
        absolute(&self.0.server_messages, messages);
    }

    /// How many exchanges ended so since the start.
    pub fn entra_requests(&self, kind: &'static str, outcome: &'static str, count: u64) {
        let labels = ExchangeLabels { kind, outcome };
        self.0
            .entra_requests
            .get_or_create(&labels)
            .inner()
            .store(count, Ordering::Relaxed);
    }

    /// An object was looked at.
    pub fn reconciled(&self, kind: ObjectKind, result: ReconcileResult, took: Duration) {
        self.0
            .reconciles
            .get_or_create(&ResultLabels { kind, result })
            .inc();
        self.0
            .reconcile_duration
            .get_or_create(&KindLabels { kind })
            .observe(took.as_secs_f64());
    }

    /// Whether this replica leads.
    pub fn leading(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
    }

    /// Whether the API server holds the operator to a rule of the chart's admission policies.
    pub fn policy_enforced(&self, rule: &'static str, enforced: bool) {
        let labels = RuleLabels { rule };
        set(&self.0.policy_enforced, &labels, i64::from(enforced));
    }

    /// An event could not be written.
    pub fn event_failed(&self) {
        self.0.events_failed.inc();
    }

    /// A principal has no token any more.
    pub fn forget_token(&self, key: &ObjectKey) {
        let labels = ObjectLabels::from(key);
        self.0.token_expiration.remove(&labels);
        self.0.token_renewal.remove(&labels);
        self.0.token_renewal_failures.remove(&labels);
    }

    /// An object is gone, and its series with it.
    pub fn forget(&self, kind: ObjectKind, key: &ObjectKey) {
        let told = self.told().remove(&(kind, key.clone()));
        for condition in told.unwrap_or_default() {
            self.forget_condition(kind, key, condition);
        }
        self.paused(kind, key, false);
        match kind {
            ObjectKind::Principal => self.forget_token(key),
            ObjectKind::Server => {
                let labels = ObjectLabels::from(key);
                self.0.server_snapshot.remove(&labels);
                self.0.server_snapshot_failures.remove(&labels);
                self.0.server_connections.remove(&labels);
                self.0.server_messages.remove(&labels);
            }
        }
    }

    /// All of it as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(refresh) = self.0.refresh.get() {
            refresh(self);
        }
        // Writing into a String cannot fail.
        let _ = text::encode(&mut text, &self.0.registry);
        text
    }

    fn told(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<(ObjectKind, ObjectKey), BTreeSet<&'static str>>> {
        self.0
            .conditions_told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    fn register(&mut self) {
        let r = &mut self.registry;
        let timestamps = [
            (
                "token_expiration_timestamp",
                "When the token in the principal's Secret ends",
                &self.token_expiration,
            ),
            (
                "token_renewal_timestamp",
                "When the principal's token will be renewed",
                &self.token_renewal,
            ),
            (
                "server_snapshot_timestamp",
                "When the server's roles were last read",
                &self.server_snapshot,
            ),
        ];
        for (name, help, family) in timestamps {
            r.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        let help = "Exchanges for the principal's token that failed in a row";
        let failures = self.token_renewal_failures.clone();
        r.register("token_renewal_failures", help, failures);
        let help = "1 for the present status of the condition, 0 for the others";
        r.register("condition", help, self.condition.clone());
        let help = "1 for an object that is suspended or in mode Plan: not ready on purpose";
        r.register("paused", help, self.paused.clone());
        let help = "The operator's version";
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", help, version);
        let help = "Snapshots that failed, of the server's roles or inside a database";
        let failures = self.server_snapshot_failures.clone();
        r.register("server_snapshot_failures", help, failures);
        let help = "Connections opened to the server";
        r.register(
            "server_connections_opened",
            help,
            self.server_connections.clone(),
        );
        let help = "Messages of statements sent to the server, each one round trip";
        r.register("server_messages", help, self.server_messages.clone());
        let help = "Tokens asked for, by kind of identity and outcome";
        r.register("entra_requests", help, self.entra_requests.clone());
        let help = "Reconciles, by kind of object and result";
        r.register("reconcile", help, self.reconciles.clone());
        let help = "How long a reconcile took";
        let durations = self.reconcile_duration.clone();
        r.register_with_unit("reconcile_duration", help, Unit::Seconds, durations);
        let help = "Whether this replica leads";
        r.register("leader", help, self.leader.clone());
        let help = "Whether the API server holds the operator to a rule of the admission policies";
        let enforced = self.policy_enforced.clone();
        r.register("admission_policy_enforced", help, enforced);
        let help = "Events that could not be written";
        r.register("events_failed", help, self.events_failed.clone());
    }
}

fn set<L>(family: &Family<L, Gauge>, labels: &L, value: i64)
where
    L: Clone + std::hash::Hash + Eq,
{
    family.get_or_create(labels).set(value);
}

fn condition_labels(
    kind: ObjectKind,
    key: &ObjectKey,
    condition: &'static str,
    status: ConditionStatus,
) -> ConditionLabels {
    ConditionLabels {
        kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        condition,
        status,
    }
}

#[cfg(test)]
mod tests;
