//! Conditions: how a result becomes one, and when its time changes. Must not decide what a result is.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{PENDING, READY, RECONCILING, STALLED};
use crate::model::{Class, Failure};

/// So long a refusal that may pass without a change of the object counts as work that goes on.
pub(super) const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// One condition before it has a time.
pub(super) struct Verdict {
    pub status: &'static str,
    pub reason: String,
    pub message: String,
}

impl From<&Condition> for Verdict {
    fn from(condition: &Condition) -> Self {
        let status = match condition.status.as_str() {
            "True" => "True",
            "False" => "False",
            _ => "Unknown",
        };
        Self {
            status,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        }
    }
}

impl Verdict {
    pub(super) fn is_true(reason: &str, message: String) -> Self {
        Self {
            status: "True",
            reason: reason.to_owned(),
            message,
        }
    }

    /// What may pass by itself leaves the condition unknown; the rest makes it false.
    pub(super) fn of(failure: &Failure) -> Self {
        let status = match failure.class {
            Class::Invalid | Class::Denied => "False",
            Class::Transient | Class::Waiting => "Unknown",
        };
        let Failure {
            reason, message, ..
        } = failure;
        Self {
            status,
            reason: reason.to_string(),
            message: message.clone(),
        }
    }
}

/// The worst half decides; of equals the first.
pub(super) fn ready<const N: usize>(named: [(&str, Option<&Verdict>); N]) -> Verdict {
    let halves: Vec<&Verdict> = named.iter().filter_map(|(_, half)| *half).collect();
    let worst = ["False", "Unknown"]
        .iter()
        .find_map(|status| halves.iter().find(|half| half.status == *status));
    match worst {
        Some(half) => Verdict {
            status: half.status,
            reason: half.reason.clone(),
            message: format!("{}{}", half.message, also(half, &named)),
        },
        None => Verdict::is_true(
            READY,
            halves
                .iter()
                .map(|half| half.message.as_str())
                .collect::<Vec<_>>()
                .join("; "),
        ),
    }
}

/// Names the other halves that failed for another reason: their conditions have the words.
fn also(worst: &Verdict, named: &[(&str, Option<&Verdict>)]) -> String {
    let halves = named
        .iter()
        .filter_map(|(name, half)| Some((name, (*half)?)));
    let failed = halves.filter(|(_, half)| {
        half.status != "True" && half.reason != worst.reason && half.reason != PENDING
    });
    let others: Vec<String> = failed
        .map(|(name, half)| format!("{name}: {}", half.reason))
        .collect();
    if others.is_empty() {
        return String::new();
    }
    format!("; also {} (see that condition)", others.join(", "))
}

/// Builds conditions; the time of one changes only with its status word.
pub(super) struct Conditions<'a> {
    old: &'a [Condition],
    generation: i64,
    now: Timestamp,
    new: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub(super) fn new(old: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        // Status holds whole seconds.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Self {
            old,
            generation,
            now,
            new: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, kind: &str, verdict: Verdict) {
        let before = self.before(kind);
        let since = before
            .filter(|condition| condition.status == verdict.status)
            .map(|condition| condition.last_transition_time.clone());
        self.put_since(kind, verdict, since);
    }

    fn before(&self, kind: &str) -> Option<&'a Condition> {
        self.old.iter().find(|condition| condition.type_ == kind)
    }

    fn put_since(&mut self, kind: &str, verdict: Verdict, since: Option<Time>) {
        self.new.push(Condition {
            type_: kind.to_owned(),
            status: verdict.status.to_owned(),
            reason: verdict.reason,
            message: shortened(verdict.message),
            observed_generation: Some(self.generation),
            last_transition_time: since.unwrap_or(Time(self.now)),
        });
    }

    pub(super) fn keep(&mut self, kinds: &[&str]) {
        let kept = self
            .old
            .iter()
            .filter(|condition| kinds.contains(&condition.type_.as_str()));
        self.new.extend(kept.cloned());
    }

    /// Stalled if somebody must change something; else reconciling if anything is not well. A refusal
    /// that [heals](Failure::needs_action) becomes Stalled when it has not changed for [`PATIENCE`]: so long
    /// the time of Reconciling is that since which reason and generation are the same.
    pub(super) fn put_kstatus(&mut self, failures: &[&Failure]) {
        let refused = |f: &&&Failure| matches!(f.class, Class::Invalid | Class::Denied);
        let acts = failures.iter().find(|failure| failure.needs_action());
        let Some(failure) = (acts.or_else(|| failures.iter().find(refused))).or(failures.first())
        else {
            return;
        };
        let verdict = Verdict {
            status: "True",
            ..Verdict::of(failure)
        };
        let same = |kind| {
            let before: Option<&Condition> = self.before(kind);
            before.filter(|condition| {
                condition.reason == verdict.reason
                    && condition.observed_generation == Some(self.generation)
            })
        };
        let since = same(RECONCILING).map(|condition| condition.last_transition_time.clone());
        let waited = |Time(since): &Time| self.now.duration_since(*since) >= PATIENCE;
        let stalled = failure.needs_action()
            || (refused(&failure)
                && (same(STALLED).is_some() || since.as_ref().is_some_and(waited)));
        if stalled {
            self.put(STALLED, verdict);
        } else {
            self.put_since(RECONCILING, verdict, since);
        }
    }

    pub(super) fn finish(self) -> Vec<Condition> {
        self.new
    }
}

/// The API allows 32,768 bytes; people read less.
fn shortened(message: String) -> String {
    const MOST: usize = 8192;
    if message.len() <= MOST {
        return message;
    }
    let end = (0..=MOST)
        .rev()
        .find(|end| message.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}…", message.get(..end).unwrap_or_default())
}
