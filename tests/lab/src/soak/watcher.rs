//! Reads the Secrets each second, as a workload would that opens a connection each second, and
//! notes what it would have found.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::world::COUNT;
use crate::state::unix_now;
use crate::tokens::Unverified;

const EVERY: Duration = Duration::from_secs(1);
/// After the outage, tokens that ended in it may take that long.
const GRACE: i64 = 15;

/// What was seen in all Secrets.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Each look at an expired token: the Secret, its end, and when that was.
    expired: Vec<(String, i64, i64)>,
    pub(super) renewals: usize,
    /// Looks at all Secrets.
    pub(super) looks: usize,
    pub(super) wrong: Vec<String>,
    last: HashMap<String, (String, i64)>,
    /// Beginning and end of the outage, in seconds since 1970.
    outage: Option<(i64, i64)>,
}

pub(super) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    counting: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Starts looking; what it sees counts from now on.
    pub(super) fn start(secrets: Api<Secret>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let counting = Arc::new(AtomicBool::new(true));
        let (notes, counts) = (Arc::clone(&seen), Arc::clone(&counting));
        let task = tokio::spawn(async move {
            let mut tick = interval(EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while counts.load(Ordering::Relaxed) {
                tick.tick().await;
                let looked = look(&secrets).await;
                lock(&notes).take(looked, unix_now());
            }
        });
        Self {
            seen,
            counting,
            task,
        }
    }

    /// The outage begins now, and ends then.
    pub(super) fn outage(&self, lasts: Duration) {
        let now = unix_now();
        let end = now + i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX);
        lock(&self.seen).outage = Some((now, end));
    }

    /// Ends, and says what was seen.
    pub(super) async fn stop(self) -> Result<Seen> {
        self.counting.store(false, Ordering::Relaxed);
        self.task.await?;
        let seen = Arc::into_inner(self.seen).context("the watcher still looks")?;
        Ok(seen.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Each token with the end of its life.
async fn look(secrets: &Api<Secret>) -> Result<Vec<(String, String, i64)>> {
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=entra-postgres-operator");
    let found = secrets.list(&ours).await?;
    found
        .items
        .into_iter()
        .map(|secret| {
            let name = secret.name_any();
            let data = secret.data.unwrap_or_default();
            let token = data.get("password").context("no password")?;
            let token = String::from_utf8(token.0.clone())?;
            let end = end_of(&token).with_context(|| format!("Secret {name}"))?;
            Ok((name, token, end))
        })
        .collect()
}

/// Claim `exp`, as the server reads it.
fn end_of(token: &str) -> Result<i64> {
    let parsed = Unverified::parse(token).context("no token")?;
    let end = parsed.claims.get("exp").and_then(serde_json::Value::as_i64);
    end.context("a token without an end")
}

impl Seen {
    fn take(&mut self, looked: Result<Vec<(String, String, i64)>>, now: i64) {
        let tokens = match looked {
            Ok(tokens) => tokens,
            Err(error) => {
                self.wrong
                    .push(format!("the Secrets could not be read: {error:#}"));
                return;
            }
        };
        self.looks += 1;
        if tokens.len() != COUNT {
            self.wrong
                .push(format!("{} Secrets, not {COUNT}", tokens.len()));
        }
        for (name, token, end) in tokens {
            if end <= now {
                self.expired.push((name.clone(), end, now));
            }
            let before = self.last.insert(name.clone(), (token, end));
            let Some((token_before, end_before)) = before else {
                continue;
            };
            if self
                .last
                .get(&name)
                .is_some_and(|(token, _)| *token != token_before)
            {
                self.renewals += 1;
            }
            if end < end_before {
                self.wrong
                    .push(format!("Secret {name}: an older token over a newer one"));
            }
        }
    }

    /// Seconds with an expired token, without those that the outage excuses.
    pub(super) fn expired(&self) -> Vec<String> {
        let excused = |end: i64| {
            self.outage
                .is_some_and(|(begin, over)| begin <= end && end <= over + GRACE)
        };
        let counted = self.expired.iter().filter(|(_, end, _)| !excused(*end));
        counted
            .map(|(name, end, now)| format!("Secret {name}: the token ended {} s ago", now - end))
            .collect()
    }

    /// Whether it looked often enough to have seen every second, and no token was left behind: one that
    /// ended in the outage is excused for that, not for staying.
    pub(super) fn failures(&self, lasted: Duration, now: i64) -> Vec<String> {
        let left = (self.last.iter()).filter(|(_, (_, end))| *end <= now);
        let mut failures: Vec<String> = left
            .map(|(name, _)| format!("Secret {name}: its token has ended and is not renewed"))
            .collect();
        let seconds = usize::try_from(lasted.as_secs()).unwrap_or(usize::MAX);
        if self.looks < seconds / 10 * 9 {
            let looks = self.looks;
            failures.push(format!("only {looks} looks at the Secrets in {seconds} s"));
        }
        failures
    }

    /// Seconds that the outage excuses.
    pub(super) fn excused(&self) -> usize {
        self.expired.len() - self.expired().len()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(token: &str, end: i64) -> Vec<(String, String, i64)> {
        let mut tokens: Vec<_> = (1..COUNT)
            .map(|n| (format!("other-{n}"), "t".to_owned(), 10_000))
            .collect();
        tokens.push(("app".to_owned(), token.to_owned(), end));
        tokens
    }

    #[test]
    fn an_expired_token_counts_unless_it_ended_in_the_outage_or_just_after() {
        let mut seen = Seen {
            outage: Some((100, 160)),
            ..Seen::default()
        };
        for (token, end, now) in [
            ("a", 99, 98),
            ("a", 99, 99),
            ("b", 130, 131),
            ("c", 175, 176),
            ("d", 176, 177),
        ] {
            seen.take(Ok(one(token, end)), now);
        }
        assert_eq!(seen.renewals, 3);
        assert_eq!(seen.expired().len(), 2);
        assert_eq!(seen.excused(), 2);
        assert_eq!(seen.wrong, Vec::<String>::new());
    }

    #[test]
    fn a_token_that_is_never_renewed_and_too_few_looks_are_failures() {
        let mut seen = Seen {
            outage: Some((100, 160)),
            ..Seen::default()
        };
        for now in 1..=90 {
            seen.take(Ok(one("a", 130)), now);
        }
        let lasted = Duration::from_secs(100);
        assert_eq!(seen.failures(lasted, 129), Vec::<String>::new());
        assert_eq!(seen.failures(lasted, 130).len(), 1);
        assert_eq!(seen.failures(Duration::from_secs(200), 129).len(), 1);
    }

    #[test]
    fn a_token_that_ends_earlier_than_the_one_before_and_a_missing_secret_are_wrong() {
        let mut seen = Seen::default();
        seen.take(Ok(one("a", 100)), 1);
        seen.take(Ok(one("b", 99)), 2);
        seen.take(Ok(Vec::new()), 3);
        assert_eq!(seen.wrong.len(), 2, "{:?}", seen.wrong);
    }
}
