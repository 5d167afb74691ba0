//! Takes, keeps and hands back the Lease. Must not decide what a leader does.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

use super::{Leadership, Until};
use crate::cluster::{Call, FIELD_MANAGER};
use crate::model::{Class, Failure, Reason};
use crate::ports::Clock;
use crate::telemetry::Metrics;

/// How long a lease counts after its last renewal.
pub const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often a standby looks at it: a lease that was handed back is taken within this time.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How soon after a failed renewal the next one is tried.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long one request may take.
pub(super) const REQUEST: Duration = Duration::from_secs(4);
/// How long we write after a renewal: less than [`DURATION`], since a write may be under way.
pub(super) const TRUSTED: Duration = Duration::from_secs(12);

/// Which Lease, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// What tells this replica from the others: the name of its pod.
    pub identity: String,
}

/// Takes, keeps and hands back the Lease. Its client must not repeat requests by itself.
pub struct Elector {
    api: Api<Lease>,
    settings: LeaseSettings,
    leadership: Leadership,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    seen: Option<Sighting>,
    /// The holder that we told of: not again at each look.
    waits_for: Option<String>,
    /// We led, and lost it: the process ends, and until then somebody else may have it.
    lost: bool,
}

/// The Lease as another replica left it, and since when it has looked so.
#[derive(Clone, Debug)]
struct Sighting {
    resource_version: Option<String>,
    since: Instant,
}

/// What one look at the Lease came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Held,
    HeldByOther,
}

impl Elector {
    /// An elector that has not looked yet.
    pub fn new(
        client: Client,
        settings: LeaseSettings,
        leadership: Leadership,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        Self {
            api: Api::namespaced(client, &settings.namespace),
            settings,
            leadership,
            clock,
            metrics,
            seen: None,
            waits_for: None,
            lost: false,
        }
    }

    /// Takes part in the election until `stop` is done; then hands the Lease back. Let `stop` be
    /// done only when nothing is written any more. Returns before that if the Lease was lost: this
    /// replica is to end then.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) {
        let mut stop = pin!(stop);
        loop {
            let pause = tokio::select! {
                biased;
                () = &mut stop => break,
                pause = self.round() => pause,
            };
            if self.lost {
                break;
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = sleep(pause) => {}
            }
        }
        self.release().await;
    }

    /// One look at the Lease, and what follows; returns when to look again.
    pub(super) async fn round(&mut self) -> Duration {
        if self.lost {
            return LOOK_EVERY;
        }
        let asked_at = Instant::now();
        let outcome = match timeout(REQUEST, self.take_or_renew()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.late()),
        };
        match outcome {
            Ok(Round::Held) => {
                self.become_leader(asked_at + TRUSTED);
                RENEW_EVERY
            }
            Ok(Round::HeldByOther) => {
                let holder = self.waits_for.clone().unwrap_or_default();
                self.step_down(&format!("{holder} took it and leads now"));
                LOOK_EVERY
            }
            Err(failure) => self.missed(&failure),
        }
    }

    fn missed(&mut self, failure: &Failure) -> Duration {
        let lease = &self.settings.name;
        tracing::warn!(lease, "could not hold the lease {lease}: {failure}");
        match self.leadership.until() {
            Until::Deadline(deadline) if Instant::now() < deadline => {
                RETRY_AFTER.min(deadline - Instant::now())
            }
            Until::Deadline(_) => {
                self.step_down(&format!(
                    "it could not be renewed in time, and nobody else is known to lead: {failure}"
                ));
                RETRY_AFTER
            }
            Until::Always | Until::Never => LOOK_EVERY,
        }
    }

    fn become_leader(&self, deadline: Instant) {
        let LeaseSettings { name, identity, .. } = &self.settings;
        let first = !*self.leadership.0.leading.borrow();
        self.leadership.hold(deadline);
        if first {
            self.metrics.leading(true);
            tracing::info!(lease = name, identity, "leading");
        }
    }

    fn step_down(&mut self, why: &str) {
        let was_leading = *self.leadership.0.leading.borrow();
        if was_leading {
            self.leadership.lose(why.to_owned());
            self.lost = true;
            self.metrics.leading(false);
            let lease = &self.settings.name;
            tracing::warn!(lease, "lost the lease {lease}: {why}");
        } else {
            self.leadership.let_go();
        }
    }

    /// Makes, takes or renews the Lease if it is ours to have.
    async fn take_or_renew(&mut self) -> Result<Round, Failure> {
        let found = self.api.get_opt(&self.settings.name).await;
        let Some(lease) = found.map_err(|error| self.call("get").failure(&error))? else {
            let body = self.body(None, DURATION);
            return match self.api.create(&params(), &body).await {
                Ok(_) => Ok(Round::Held),
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    Ok(Round::HeldByOther)
                }
                Err(error) => Err(self.call("create").failure(&error)),
            };
        };
        if !self.may_take(&lease) {
            self.tell_holder(&lease);
            return Ok(Round::HeldByOther);
        }
        let body = self.body(Some(lease), DURATION);
        match self
            .api
            .replace(&self.settings.name, &params(), &body)
            .await
        {
            Ok(_) => Ok(Round::Held),
            // Somebody else wrote it in between: whoever that was, look again.
            Err(kube::Error::Api(status)) if status.is_conflict() => Err(self.conflict()),
            Err(error) => Err(self.call("update").failure(&error)),
        }
    }

    /// Whether the Lease is ours, free, or has not changed for as long as its holder promised. The
    /// holder's clock plays no part: only our own time since it last changed.
    fn may_take(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.settings.identity {
            self.seen = None;
            return true;
        }
        let version = lease.metadata.resource_version.clone();
        let sighting = match self.seen.take() {
            Some(seen) if seen.resource_version == version => seen,
            _ => Sighting {
                resource_version: version,
                since: Instant::now(),
            },
        };
        let seconds = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok());
        let promised = seconds.map_or(DURATION, Duration::from_secs);
        let ended = sighting.since.elapsed() >= promised;
        self.seen = Some(sighting);
        ended
    }

    /// Says once who leads: a standby does nothing else that could be seen.
    fn tell_holder(&mut self, lease: &Lease) {
        let Some(spec) = &lease.spec else { return };
        if self.waits_for == spec.holder_identity {
            return;
        }
        self.waits_for.clone_from(&spec.holder_identity);
        let LeaseSettings { name, identity, .. } = &self.settings;
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let renewed = match &spec.renew_time {
            Some(MicroTime(time)) => format!("renewed at {time:.0}"),
            None => "never renewed".to_owned(),
        };
        tracing::info!(
            lease = name,
            identity,
            "standing by: waiting for the lease {name} held by {holder} ({renewed})"
        );
    }

    /// Hands the Lease back, so that a standby need not wait for its end.
    pub(super) async fn release(self) {
        let held = matches!(self.leadership.until(), Until::Deadline(d) if Instant::now() < d);
        self.leadership.let_go();
        self.metrics.leading(false);
        if !held {
            return;
        }
        let lease = &self.settings.name;
        match timeout(REQUEST, self.hand_back()).await {
            Ok(Ok(())) => tracing::info!(lease, "handed the lease back"),
            Ok(Err(failure)) => {
                tracing::warn!(lease, "could not hand the lease back: {failure}");
            }
            Err(_) => tracing::warn!(lease, "could not hand the lease back in time"),
        }
    }

    async fn hand_back(&self) -> Result<(), Failure> {
        let name = &self.settings.name;
        let found = self.api.get_opt(name).await;
        let found = found.map_err(|error| self.call("get").failure(&error))?;
        let is_ours = |lease: &Lease| {
            let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_ref());
            holder == Some(&self.settings.identity)
        };
        let Some(lease) = found.filter(is_ours) else {
            return Ok(());
        };
        let mut body = self.body(Some(lease), Duration::from_secs(1));
        if let Some(spec) = &mut body.spec {
            spec.holder_identity = Some(String::new());
        }
        let answer = self.api.replace(name, &params(), &body).await;
        answer
            .map(|_| ())
            .map_err(|error| self.call("update").failure(&error))
    }

    /// The Lease with us as its holder; what was found decides version and history.
    fn body(&self, found: Option<Lease>, duration: Duration) -> Lease {
        let now = Some(MicroTime(self.clock.now()));
        let before = found.as_ref().and_then(|lease| lease.spec.clone());
        let before = before.unwrap_or_default();
        let stays = before.holder_identity.as_ref() == Some(&self.settings.identity);
        let changes = before.lease_transitions.unwrap_or(0);
        let metadata = found.map_or_else(
            || ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata,
        );
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.identity.clone()),
                lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
                acquire_time: if stays {
                    before.acquire_time
                } else {
                    now.clone()
                },
                lease_transitions: Some(if stays { changes } else { changes + 1 }),
                renew_time: now,
                ..LeaseSpec::default()
            }),
        }
    }

    fn call(&self, verb: &'static str) -> Call {
        Call::on::<Lease>(verb, &self.settings.namespace, &self.settings.name)
    }

    fn late(&self) -> Failure {
        let LeaseSettings {
            namespace, name, ..
        } = &self.settings;
        let seconds = REQUEST.as_secs();
        let message = format!(
            "the Kubernetes API did not answer about Lease {namespace}/{name} in {seconds} s"
        );
        Failure::new(Class::Transient, Reason::ApiError, message)
    }

    fn conflict(&self) -> Failure {
        let LeaseSettings {
            namespace, name, ..
        } = &self.settings;
        let message = format!("Lease {namespace}/{name} changed while it was being written");
        Failure::new(Class::Transient, Reason::ApiError, message)
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
