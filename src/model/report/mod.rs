//! From what was done to what people see: conditions and events. Pure; who writes them is
//! `controller::report`.

mod conditions;
mod events;
mod preview;
#[cfg(test)]
mod progress_tests;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Class, Failure, Reason};
use crate::api::{
    EntraPostgresPrincipalStatus, EntraPostgresServerStatus, RoleStatus, SecretBinding, TokenStatus,
};

use conditions::{Conditions, PATIENCE, Verdict, ready};

pub use events::{Note, notes};
pub use preview::{Preview, planned};

/// Condition type: all halves are well.
pub const READY: &str = "Ready";
/// Reason of a half that nothing is wrong with and that was not worked on yet.
const PENDING: &str = "Pending";

/// Condition type: the role is as declared.
pub const ROLE_SYNCED: &str = "RoleSynced";
/// Condition type: the Secret has a token that lives.
pub const TOKEN_ISSUED: &str = "TokenIssued";
/// Condition type: a token of the Secret has signed in.
pub const LOGIN_VERIFIED: &str = "LoginVerified";
/// Condition type of servers: signed in, with a snapshot.
pub const CONNECTED: &str = "Connected";
/// kstatus: work goes on, or what is missing may arrive; present only while true.
pub const RECONCILING: &str = "Reconciling";
/// kstatus: somebody must change something; present only while true.
pub const STALLED: &str = "Stalled";

/// Condition type: `spec.suspend` is set; present only while it is.
pub const SUSPENDED: &str = "Suspended";

/// Reason of [`TOKEN_ISSUED`] while the token lives and its renewal fails for a passing reason.
pub const RENEWAL_FAILING: &str = "RenewalFailing";
/// Reason of [`ROLE_SYNCED`] when all is as declared and there is something to improve.
pub const ADVISED: &str = "SyncedWithAdvice";

/// What became of a principal in one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The role as it is now, or why it is not as declared.
    pub role: Result<RoleStatus, Failure>,
    /// What of its rights is not as declared, although the role is there and bound.
    pub shortfall: Option<Failure>,
    /// What people should know although all is as declared.
    pub advice: Vec<String>,
    /// The token; `None`: none is declared.
    pub token: Option<TokenOutcome>,
    /// What was done to the role in this pass, for the event.
    pub change: Option<RoleChange>,
}

impl Outcome {
    /// Why the role is not as declared.
    pub fn role_failure(&self) -> Option<&Failure> {
        self.role.as_ref().err().or(self.shortfall.as_ref())
    }

    /// Why the token is not as declared.
    pub fn token_failure(&self) -> Option<&Failure> {
        self.token.as_ref().and_then(|token| token.failure.as_ref())
    }

    /// Why the server does not let the published token in.
    fn refused_login(&self) -> Option<&Failure> {
        match self.token.as_ref()?.login.as_ref()? {
            LoginOutcome::Tried(Err(failure)) if failure.reason == Reason::LoginRefused => {
                Some(failure)
            }
            _ => None,
        }
    }
}

/// What became of the token in one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenOutcome {
    /// Name of the Secret.
    pub secret: String,
    /// The token that the Secret has now, if it is ours and lives.
    pub present: Option<TokenStatus>,
    /// The one that it has instead, if that has ended.
    pub ended: Option<TokenStatus>,
    /// Why there is none, or why it could not be renewed.
    pub failure: Option<Failure>,
    /// What people should know although all is well.
    pub advice: Option<String>,
    /// What is to be said of signing in with it; `None`: it is not to be tried.
    pub login: Option<LoginOutcome>,
}

impl TokenOutcome {
    fn ended_at(&self) -> Option<&Time> {
        self.ended.as_ref()?.expires_at.as_ref()
    }

    fn expires_at(&self) -> Option<&Time> {
        self.present.as_ref()?.expires_at.as_ref()
    }
}

/// What is known of signing in with the token after one pass.
#[derive(Clone, Debug, PartialEq)]
pub enum LoginOutcome {
    /// It was tried in this pass, and worked at this host and port.
    Tried(Result<String, Failure>),
    /// It was not: what was known before holds.
    AsBefore,
}

/// What was done to a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum RoleChange {
    /// It was made.
    RoleCreated,
    /// Its Entra label was put back, or set to the newly declared identity.
    RoleBound,
    /// It was there already and is now this object's.
    RoleAdopted,
    /// Its marker was written again.
    RoleMarked,
    /// Attributes, settings, memberships or privileges were changed.
    RoleAltered,
}

/// The status of a principal after a pass.
pub fn principal(
    old: &EntraPostgresPrincipalStatus,
    generation: i64,
    outcome: &Outcome,
    now: Timestamp,
) -> EntraPostgresPrincipalStatus {
    let Outcome {
        role,
        shortfall,
        advice,
        token,
        change: _,
    } = outcome;
    let role_verdict = match role {
        Ok(role) => {
            let bound = format!(
                "role {:?} is bound to object id {}",
                role.name, role.object_id
            );
            if advice.is_empty() {
                Verdict::is_true("Synced", bound)
            } else {
                Verdict::is_true(ADVISED, format!("{bound}; {}", advice.join("; ")))
            }
        }
        Err(failure) => Verdict::of(failure),
    };
    let role_verdict = shortfall.as_ref().map_or(role_verdict, Verdict::of);
    let token_verdict = token.as_ref().map(token_verdict);
    let mut conditions = Conditions::new(&old.conditions, generation, now);
    let failures: Vec<&Failure> = role
        .as_ref()
        .err()
        .into_iter()
        .chain(shortfall)
        .chain(outcome.token_failure())
        .chain(outcome.refused_login())
        .collect();
    let login = token.as_ref().and_then(|token| token.login.as_ref());
    let login = login.map(|login| login_verdict(login, &role_name(outcome, old), &old.conditions));
    // A token that could not be tried is published all the same: only a refusal is a fault.
    let refused = login.as_ref().filter(|verdict| verdict.status == "False");
    let ready = ready([
        (ROLE_SYNCED, Some(&role_verdict)),
        (TOKEN_ISSUED, token_verdict.as_ref()),
        (LOGIN_VERIFIED, refused),
    ]);
    conditions.put(READY, ready);
    conditions.put(ROLE_SYNCED, role_verdict);
    if let Some(verdict) = token_verdict {
        conditions.put(TOKEN_ISSUED, verdict);
    }
    if let Some(verdict) = login {
        conditions.put(LOGIN_VERIFIED, verdict);
    }
    conditions.put_kstatus(&failures);
    EntraPostgresPrincipalStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        binding: token
            .as_ref()
            .filter(|token| token.expires_at().or(token.ended_at()).is_some())
            .map(|token| &token.secret)
            .map(|name| SecretBinding { name: name.clone() }),
        role: role.as_ref().ok().or(old.role.as_ref()).cloned(),
        token: token
            .as_ref()
            .and_then(|token| token.ended.as_ref().or(token.present.as_ref()))
            .cloned(),
        plan: Vec::new(),
    }
}

/// The status of a suspended principal: `Ready` and all else stay as they were last seen, and an object
/// that was never looked at has no `Ready`. Neither counts as work that goes on.
pub fn suspended(
    old: &EntraPostgresPrincipalStatus,
    generation: i64,
    now: Timestamp,
) -> EntraPostgresPrincipalStatus {
    let mut conditions = Conditions::new(&old.conditions, generation, now);
    let message = "spec.suspend is true: role and token are left as they are".to_owned();
    if let Some(ready) = last_ready(old) {
        conditions.put(READY, ready);
    }
    conditions.keep(&[ROLE_SYNCED, LOGIN_VERIFIED]);
    match left_token(old, Left::Suspended, now) {
        Some(verdict) => conditions.put(TOKEN_ISSUED, verdict),
        None => conditions.keep(&[TOKEN_ISSUED]),
    }
    let reason = Reason::Suspended.to_string();
    conditions.put(SUSPENDED, Verdict::is_true(&reason, message));
    EntraPostgresPrincipalStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        plan: Vec::new(),
        ..old.clone()
    }
}

/// `Ready` as it was last seen. Version 0.1 wrote that it was suspended in its place: what it was is then
/// read from its halves.
fn last_ready(old: &EntraPostgresPrincipalStatus) -> Option<Verdict> {
    let find = |kind| old.conditions.iter().find(|it| it.type_ == kind);
    let last = find(READY)?;
    if last.reason != Reason::Suspended.to_string() {
        return Some(Verdict::from(last));
    }
    let role = Verdict::from(find(ROLE_SYNCED)?);
    let token = find(TOKEN_ISSUED).map(Verdict::from);
    let halves = [(ROLE_SYNCED, Some(&role)), (TOKEN_ISSUED, token.as_ref())];
    Some(ready(halves))
}

/// When an object that is not well becomes Stalled, if nothing changes before: it is looked at then.
pub fn stalls_at(conditions: &[Condition], now: Timestamp) -> Option<Timestamp> {
    let mut found = conditions.iter().filter(|it| it.type_ == RECONCILING);
    let Time(since) = found.next()?.last_transition_time;
    let at = since.checked_add(PATIENCE).ok()?;
    (at > now).then_some(at)
}

/// Why a token is left to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Suspended,
    Plan,
}

/// What is to be said of a token that was good and is left to its end; `None`: what was said before holds.
fn left_token(old: &EntraPostgresPrincipalStatus, left: Left, now: Timestamp) -> Option<Verdict> {
    let secret = &old.binding.as_ref()?.name;
    let Time(until) = old.token.as_ref()?.expires_at.as_ref()?;
    let before = old.conditions.iter().find(|it| it.type_ == TOKEN_ISSUED)?;
    let paused = [Reason::Suspended, Reason::PlanOnly].map(|reason| reason.to_string());
    if before.status != "True" && !paused.contains(&before.reason) {
        return None;
    }
    let (reason, why) = match left {
        Left::Suspended => (Reason::Suspended, "while spec.suspend is true"),
        Left::Plan => (Reason::PlanOnly, "in mode: Plan"),
    };
    Some(if *until > now {
        let message = format!(
            "Secret {secret} has a token that is good until {until}; it is not renewed {why}"
        );
        Verdict::is_true("Issued", message)
    } else {
        Verdict {
            status: "False",
            reason: reason.to_string(),
            message: format!(
                "the token in Secret {secret} ended at {until}; there is no new one {why}"
            ),
        }
    })
}

/// When the token that a status shows as good ends: what is said of it is another thing from then on.
pub fn token_ends(status: &EntraPostgresPrincipalStatus, now: Timestamp) -> Option<Timestamp> {
    let Time(end) = status.token.as_ref()?.expires_at.as_ref()?;
    Some(*end).filter(|end| *end > now)
}

/// The token that the Secret had when it was last seen, if it lives: while nobody can look, it is
/// not taken for gone.
pub fn last_seen(
    old: &EntraPostgresPrincipalStatus,
    secret: &str,
    now: Timestamp,
) -> Option<TokenStatus> {
    seen_in(old, secret, |end| end > now)
}

/// The same of one that has ended since, or was seen to have ended.
pub fn ended(
    old: &EntraPostgresPrincipalStatus,
    secret: &str,
    now: Timestamp,
) -> Option<TokenStatus> {
    seen_in(old, secret, |end| end <= now)
}

/// The token that the status has of that Secret, if its end is so.
fn seen_in(
    old: &EntraPostgresPrincipalStatus,
    secret: &str,
    is_so: impl Fn(Timestamp) -> bool,
) -> Option<TokenStatus> {
    let bound = old.binding.as_ref()?.name == secret;
    let token = old.token.as_ref().filter(|_| bound)?;
    is_so(token.expires_at.as_ref()?.0).then(|| token.clone())
}

/// The Secret that has the token: while none of another name could be made, the one before.
pub fn secret_of<'a>(
    old: &'a EntraPostgresPrincipalStatus,
    wanted: &'a str,
    failed: bool,
) -> &'a str {
    let before = old.binding.as_ref().map(|binding| binding.name.as_str());
    before.filter(|_| failed).unwrap_or(wanted)
}

/// Whether a condition is True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    let mut found = conditions
        .iter()
        .filter(|condition| condition.type_ == type_);
    found.any(|condition| condition.status == "True")
}

fn role_name(outcome: &Outcome, old: &EntraPostgresPrincipalStatus) -> String {
    let role = outcome.role.as_ref().ok().or(old.role.as_ref());
    role.map(|role| role.name.clone()).unwrap_or_default()
}

fn login_verdict(login: &LoginOutcome, role: &str, old: &[Condition]) -> Verdict {
    match login {
        LoginOutcome::Tried(Ok(place)) => Verdict::is_true(
            "SignedIn",
            format!("signed in as role {role:?} with a token at {place}"),
        ),
        LoginOutcome::Tried(Err(failure)) if failure.reason == Reason::LoginRefused => {
            Verdict::of(failure)
        }
        LoginOutcome::Tried(Err(failure)) => Verdict {
            status: "Unknown",
            ..Verdict::of(failure)
        },
        LoginOutcome::AsBefore => {
            let before = old
                .iter()
                .find(|condition| condition.type_ == LOGIN_VERIFIED);
            before.map_or_else(
                || Verdict {
                    status: "Unknown",
                    reason: Reason::LoginPending.to_string(),
                    message: "no sign-in with a token was tried yet".to_owned(),
                },
                Verdict::from,
            )
        }
    }
}

/// A living token stays good while its renewal fails for a passing reason.
fn token_verdict(token: &TokenOutcome) -> Verdict {
    match (token.expires_at(), &token.failure) {
        (Some(Time(until)), None) => {
            let advice = token.advice.as_ref();
            let advice = advice.map_or_else(String::new, |advice| format!("; {advice}"));
            Verdict::is_true(
                "Issued",
                format!(
                    "Secret {} has a token that is good until {until}{advice}",
                    token.secret
                ),
            )
        }
        (Some(Time(until)), Some(failure)) => {
            let message = format!(
                "the token in Secret {} is good until {until}, but renewing it fails: {}",
                token.secret, failure.message
            );
            match failure.class {
                Class::Transient | Class::Waiting => Verdict::is_true(RENEWAL_FAILING, message),
                Class::Invalid | Class::Denied => Verdict {
                    message,
                    ..Verdict::of(failure)
                },
            }
        }
        (None, Some(failure)) => match token.ended_at() {
            Some(Time(end)) => Verdict {
                status: "False",
                reason: failure.reason.to_string(),
                message: format!(
                    "the token in Secret {} ended at {end}; {}",
                    token.secret, failure.message
                ),
            },
            None => Verdict::of(failure),
        },
        (None, None) => Verdict {
            status: "Unknown",
            reason: PENDING.to_owned(),
            message: "there is no token yet".to_owned(),
        },
    }
}

/// What a server object's status is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOutcome {
    /// Signed in with a snapshot, or why not.
    pub connected: Result<ServerFacts, Failure>,
    /// What its deletion waits for.
    pub waits: Option<Failure>,
    /// Principals that name it, and those that are ready.
    pub principals: crate::api::PrincipalCounts,
}

/// What the server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its version.
    pub version: String,
    /// As whom we are signed in.
    pub administrator: String,
    /// Roles with an Entra identity that no operator manages.
    pub unmanaged: crate::api::Unmanaged,
}

/// The status of a server after a pass.
pub fn server(
    old: &EntraPostgresServerStatus,
    generation: i64,
    outcome: &ServerOutcome,
    now: Timestamp,
) -> EntraPostgresServerStatus {
    let verdict = || match &outcome.connected {
        Ok(facts) => Verdict::is_true(
            "SignedIn",
            format!("signed in as Entra administrator {:?}", facts.administrator),
        ),
        Err(failure) => Verdict::of(failure),
    };
    let not_connected = outcome.connected.as_ref().err();
    let failures: Vec<&Failure> = outcome.waits.iter().chain(not_connected).collect();
    let mut conditions = Conditions::new(&old.conditions, generation, now);
    let whole = match &outcome.waits {
        Some(waits) => deleted(waits, not_connected),
        None => ready([(CONNECTED, Some(&verdict()))]),
    };
    conditions.put(READY, whole);
    conditions.put(CONNECTED, verdict());
    conditions.put_kstatus(&failures);
    let facts = outcome.connected.as_ref().ok();
    EntraPostgresServerStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        server_version: facts
            .map(|facts| facts.version.clone())
            .or(old.server_version.clone()),
        active_admin: facts.map(|facts| facts.administrator.clone()),
        principals: Some(outcome.principals.clone()),
        unmanaged: facts
            .map(|facts| facts.unmanaged.clone())
            .or(old.unmanaged.clone()),
    }
}

/// A deletion that waits is not ready, however good the session is; without a session it waits in vain.
fn deleted(waits: &Failure, not_connected: Option<&Failure>) -> Verdict {
    let message = match not_connected {
        Some(failure) => format!(
            "{}. None can be dropped before the server is connected: {failure}",
            waits.message
        ),
        None => waits.message.clone(),
    };
    Verdict {
        status: "False",
        message,
        ..Verdict::of(waits)
    }
}
