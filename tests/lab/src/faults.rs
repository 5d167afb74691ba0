//! Faults that a test orders: what goes wrong, for whom, and how many times.
//! It says what to do; whoever serves the request does it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One order. Without `times` it holds until the list is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    pub on: On,
    #[serde(default, rename = "match", skip_serializing_if = "Match::is_any")]
    pub matching: Match,
    #[serde(rename = "do")]
    pub action: Do,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum On {
    /// Entra's token endpoint.
    Token,
    Imds,
    /// Sign-in at the PostgreSQL gateway.
    Gateway,
    /// Calls of `pgaadauth_*` and labels.
    Sql,
}

/// Whom it concerns; a field left out concerns all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// What goes wrong. `delayMs`, `clockSkewSeconds` and `claims` may go with the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one word of the JSON contract"
)]
pub struct Do {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The clock of the part is this far ahead (or behind, below zero).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<i64>,
    /// Merged into the token's claims; `null` takes a claim away.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
    /// On imds: a new token, not the one that Azure's back end keeps for a day.
    #[serde(default, skip_serializing_if = "is_false")]
    pub uncached: bool,
    /// Answer with this HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// With `status`: the Retry-After header, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// With `status`: the number of an AADSTS error, or the whole body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aadsts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Close the connection without an answer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refuse: bool,
    /// Close it in the middle of the answer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
    /// Answer nonsense.
    #[serde(default, skip_serializing_if = "is_false")]
    pub garbage: bool,
    /// Answer `{}`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empty: bool,
    /// On gateway and sql: fail with this SQLSTATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_state: Option<String>,
    /// With `sqlState`: the error's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// All faults that hold for one request, put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    pub delay: Duration,
    pub clock_skew_seconds: i64,
    pub claims: Map<String, Value>,
    pub uncached: bool,
    pub outcome: Option<Outcome>,
}

/// What happens in place of the right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Status {
        status: u16,
        retry_after: Option<u64>,
        aadsts: Option<u32>,
        body: Option<String>,
    },
    Refuse,
    Cut,
    Garbage,
    Empty,
    SqlError {
        sql_state: String,
        message: String,
    },
}

/// The list in force.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Replaces all.
    pub fn replace(&self, faults: Vec<Fault>) -> anyhow::Result<()> {
        Self::check(&faults)?;
        *self.list() = faults;
        Ok(())
    }

    /// Whether a list makes sense.
    pub fn check(faults: &[Fault]) -> anyhow::Result<()> {
        for (index, fault) in faults.iter().enumerate() {
            fault.validate().with_context(|| format!("fault {index}"))?;
        }
        Ok(())
    }

    /// The faults for one request, each counted down. An unknown client or role matches only
    /// faults that ask for none. Of several outcomes the first in the list happens, and the others wait.
    pub fn take(&self, on: On, client_id: Option<&str>, role: Option<&str>) -> Effects {
        let mut effects = Effects::default();
        for fault in self.list().iter_mut() {
            let outcome = fault.action.outcome();
            let happens = fault.on == on
                && fault.times != Some(0)
                && fault.matching.fits(client_id, role)
                && (outcome.is_none() || effects.outcome.is_none());
            if !happens {
                continue;
            }
            fault.times = fault.times.map(|times| times - 1);
            effects.delay += Duration::from_millis(fault.action.delay_ms.unwrap_or(0));
            effects.clock_skew_seconds += fault.action.clock_skew_seconds.unwrap_or(0);
            effects.claims.extend(fault.action.claims.clone());
            effects.uncached |= fault.action.uncached;
            effects.outcome = effects.outcome.or(outcome);
        }
        effects
    }

    fn list(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    fn validate(&self) -> anyhow::Result<()> {
        let Do {
            status,
            retry_after,
            aadsts,
            body,
            sql_state,
            message,
            ..
        } = &self.action;
        ensure!(self.action != Do::default(), "`do` says nothing");
        ensure!(self.times != Some(0), "`times` must be above 0");
        let http = matches!(self.on, On::Token | On::Imds);
        ensure!(
            !http || self.matching.role.is_none(),
            "match.role is for gateway and sql"
        );
        ensure!(
            self.on != On::Sql || self.matching.client_id.is_none(),
            "match.clientId is not for sql"
        );
        ensure!(
            http || (status.is_none() && self.action.claims.is_empty()),
            "status and claims are for token and imds"
        );
        ensure!(
            !http || sql_state.is_none(),
            "sqlState is for gateway and sql"
        );
        ensure!(
            sql_state.is_some() || message.is_none(),
            "message goes with sqlState"
        );
        let details = retry_after.is_some() || aadsts.is_some() || body.is_some();
        ensure!(
            status.is_some() || !details,
            "retryAfter, aadsts and body go with status"
        );
        ensure!(
            status.is_none_or(|status| (200..600).contains(&status)),
            "status must be 200 to 599"
        );
        let Do {
            refuse,
            cut,
            garbage,
            empty,
            ..
        } = self.action;
        let outcomes = [
            status.is_some(),
            sql_state.is_some(),
            refuse,
            cut,
            garbage,
            empty,
        ];
        ensure!(
            outcomes.iter().filter(|set| **set).count() <= 1,
            "`do` asks for two answers at once"
        );
        Ok(())
    }
}

impl Match {
    fn is_any(&self) -> bool {
        *self == Self::default()
    }

    fn fits(&self, client_id: Option<&str>, role: Option<&str>) -> bool {
        let same_client =
            |wanted: &String| client_id.is_some_and(|id| id.eq_ignore_ascii_case(wanted));
        self.client_id.as_ref().is_none_or(same_client)
            && self.role.as_ref().is_none_or(|wanted| role == Some(wanted))
    }
}

impl Do {
    fn outcome(&self) -> Option<Outcome> {
        if let Some(status) = self.status {
            let Self {
                retry_after,
                aadsts,
                body,
                ..
            } = self.clone();
            return Some(Outcome::Status {
                status,
                retry_after,
                aadsts,
                body,
            });
        }
        if let Some(sql_state) = self.sql_state.clone() {
            let message = self
                .message
                .clone()
                .unwrap_or_else(|| "ordered by the lab's faults".into());
            return Some(Outcome::SqlError { sql_state, message });
        }
        let flags = [
            (self.refuse, Outcome::Refuse),
            (self.cut, Outcome::Cut),
            (self.garbage, Outcome::Garbage),
            (self.empty, Outcome::Empty),
        ];
        flags
            .into_iter()
            .find_map(|(set, outcome)| set.then_some(outcome))
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Faults {
        let faults = Faults::default();
        faults.replace(serde_json::from_str(json).unwrap()).unwrap();
        faults
    }

    // Red when: an entry of the documentation is not accepted.
    #[test]
    fn the_documented_faults_are_accepted() {
        let page = include_str!("../../../docs/lab.md");
        let entries: Vec<Fault> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `{")?.split_once("}` |"))
            .map(|(entry, _)| serde_json::from_str(&format!("{{{entry}}}")).unwrap())
            .collect();
        Faults::check(&entries).unwrap();
        for part in [On::Token, On::Imds, On::Gateway, On::Sql] {
            assert!(entries.iter().any(|fault| fault.on == part), "{part:?}");
        }
    }

    #[test]
    fn a_fault_ends_after_its_times_and_only_for_its_client() {
        let faults = faults(
            r#"[{"on":"token","match":{"clientId":"A"},"do":{"status":429,"retryAfter":3},"times":2}]"#,
        );
        let outcome = |on, client| faults.take(on, Some(client), None).outcome;
        assert_eq!(outcome(On::Imds, "a"), None);
        assert_eq!(outcome(On::Token, "b"), None);
        assert!(outcome(On::Token, "a").is_some());
        assert!(outcome(On::Token, "a").is_some());
        assert_eq!(outcome(On::Token, "a"), None);
    }

    #[test]
    fn delays_add_up_and_outcomes_queue() {
        let faults = faults(
            r#"[{"on":"gateway","do":{"delayMs":5}},{"on":"gateway","do":{"delayMs":2,"refuse":true},"times":1},
                {"on":"gateway","match":{"role":"r"},"do":{"sqlState":"53300"},"times":1}]"#,
        );
        let first = faults.take(On::Gateway, None, Some("r"));
        assert_eq!(
            (first.delay.as_millis(), first.outcome),
            (7, Some(Outcome::Refuse))
        );
        let second = faults.take(On::Gateway, None, Some("r"));
        assert_eq!(second.delay.as_millis(), 5);
        assert!(matches!(second.outcome, Some(Outcome::SqlError { .. })));
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        let says = |json: &str| {
            let list = serde_json::from_str(json).map_err(anyhow::Error::from);
            format!(
                "{:#}",
                list.and_then(|list| Faults::default().replace(list))
                    .unwrap_err()
            )
        };
        assert!(says(r#"[{"on":"token","do":{}}]"#).contains("says nothing"));
        assert!(says(r#"[{"on":"token","do":{"status":500,"cut":true}}]"#).contains("two answers"));
        assert!(says(r#"[{"on":"token","do":{"delay":1}}]"#).contains("unknown field"));
        assert!(says(r#"[{"on":"sql","do":{"status":500}}]"#).contains("for token and imds"));
    }
}
