//! Reads the victims' Secrets over and over, as a workload would that opens a connection each time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use tokio::task::JoinSet;

use crate::state::unix_now;
use crate::tokens::Unverified;

const EVERY: Duration = Duration::from_millis(500);

/// What was seen in the Secrets.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Each token that was there after its end: the Secret, and its end.
    dead: BTreeSet<(String, i64)>,
    /// When each Secret first had a token that was good.
    first: HashMap<String, Instant>,
    last: HashMap<String, i64>,
    pub(super) looks: usize,
    pub(super) renewals: usize,
    pub(super) wrong: Vec<String>,
    counting: bool,
}

/// Looks until it is dropped.
pub(super) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    _looking: JoinSet<()>,
}

impl Watcher {
    pub(super) fn start(secrets: Api<Secret>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = Arc::clone(&seen);
        let mut looking = JoinSet::new();
        looking.spawn(async move {
            loop {
                let looked = look(&secrets).await;
                lock(&notes).take(looked, unix_now(), Instant::now());
                tokio::time::sleep(EVERY).await;
            }
        });
        Self {
            seen,
            _looking: looking,
        }
    }

    /// What is seen counts from now on.
    pub(super) fn count(&self) {
        lock(&self.seen).counting = true;
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

/// The end of each token.
async fn look(secrets: &Api<Secret>) -> Result<Vec<(String, i64)>> {
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=entra-postgres-operator");
    let found = secrets.list(&ours).await?;
    let ends = found.items.into_iter().map(|secret| {
        let name = secret.name_any();
        let data = secret.data.unwrap_or_default();
        let token = data.get("password").context("no password")?;
        let token = String::from_utf8(token.0.clone())?;
        let parsed = Unverified::parse(&token).context("no token")?;
        let end = parsed.claims.get("exp").and_then(serde_json::Value::as_i64);
        Ok((name, end.context("a token without an end")?))
    });
    ends.collect()
}

impl Seen {
    fn take(&mut self, looked: Result<Vec<(String, i64)>>, now: i64, at: Instant) {
        let ends = match looked {
            Ok(ends) => ends,
            Err(error) => {
                self.wrong
                    .push(format!("the victims' Secrets could not be read: {error:#}"));
                return;
            }
        };
        self.looks += 1;
        for (name, end) in ends {
            if end <= now && self.counting {
                self.dead.insert((name.clone(), end));
            } else if end > now {
                self.first.entry(name.clone()).or_insert(at);
            }
            let before = self.last.insert(name, end);
            self.renewals += usize::from(before.is_some_and(|before| before != end));
        }
    }

    /// When a Secret first had a good token.
    pub(super) fn first(&self, name: &str) -> Option<Instant> {
        self.first.get(name).copied()
    }

    /// Each token that was served after its end.
    pub(super) fn dead(&self) -> Vec<String> {
        let dead = self.dead.iter();
        dead.map(|(name, end)| {
            format!("Secret {name}: the token of {end} was served after its end")
        })
        .collect()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_served_after_its_end_counts_once_and_only_while_it_counts() {
        let mut seen = Seen::default();
        let now = Instant::now();
        let one = |end| Ok(vec![("v".to_owned(), end)]);
        seen.take(one(100), 100, now);
        assert!(seen.dead().is_empty() && seen.first("v").is_none());
        seen.counting = true;
        for at in [99, 100, 101] {
            seen.take(one(100), at, now);
        }
        seen.take(one(200), 102, now);
        assert_eq!((seen.dead().len(), seen.renewals), (1, 1));
        assert!(seen.first("v").is_some());
        seen.take(one(200), 200, now);
        assert_eq!(seen.dead().len(), 2);
    }
}
