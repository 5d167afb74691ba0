//! The decision: from what is declared and what is observed to what is done, and when to look again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

mod adopt;
mod claim;
mod consent;
mod leave;
mod mark;
#[cfg(test)]
mod tests;
mod token;

use super::marker::{Marker, ROLE_OID_PLACEHOLDER};
use super::observed::{Hold, MarkerOwner, Observed, RefusedStep};
use super::{
    Asked, Desired, Failure, Look, NewRole, ObjectId, PrivilegeStep, Reason, RoleStep, rights,
};
use claim::{Claim, Existing, not_in_use};
use consent::{Declared, declared};
use mark::written;
use token::token_work;

pub use claim::{gave_all, how_to_restore, restores, shut_by_others};
pub use leave::{Evidence, evidence};
pub use mark::marker_in;
pub use token::{due, is_asked_for, is_due, not_ours, secret_not_ours};

/// A `ConfigMap` with an object id is read again after this time.
const SOURCE_EVERY: SignedDuration = SignedDuration::from_mins(10);

/// What is to be done. With no steps and no token step all is as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The role's half: steps, or why there are none.
    pub role: Result<RoleWork, Failure>,
    /// The token's half: a step, nothing, or why it cannot be.
    pub token: Result<Option<TokenStep>, Failure>,
    /// Names of Secrets of this object that are declared no more: deleted once the token's half is
    /// well, so that a workload is never without one.
    pub discard: BTreeSet<String>,
    /// When to look again if nothing happens before.
    pub next_look: Option<Timestamp>,
}

/// The work on the role.
#[derive(Clone, Debug, PartialEq)]
pub enum RoleWork {
    /// These steps; none in the steady state.
    Steps(Steps),
    /// The object id comes from the principal's own token: get that first, then plan again.
    AfterToken,
}

/// The steps of a role, and what cannot be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// In database `postgres`: one message, which comes first, so that what is asked for is remembered
    /// before it is given.
    pub role: Vec<RoleStep>,
    /// In each database: one message.
    pub inside: BTreeMap<String, Vec<PrivilegeStep>>,
    /// What is declared and cannot be, and why; all the rest is done.
    pub problems: Vec<Failure>,
    /// What people should know although all is as declared.
    pub notes: Vec<String>,
}

impl Steps {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.role.is_empty() && self.inside.is_empty()
    }
}

impl RoleWork {
    /// Whether there is nothing to do.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Steps(steps) if steps.is_empty())
    }
}

/// The work on the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStep {
    /// There is no token yet: get one and make the Secret, once the role is as declared.
    Issue,
    /// Get a new one; the present one stays until then, if it lives.
    Renew {
        /// The end of the present one's life, if it is still there.
        expires: Option<Timestamp>,
    },
    /// The token is good, other keys are not: write the Secret again with the same token.
    Repair,
    /// All is as declared, but nobody has signed in with the token yet: try.
    Verify,
}

/// Decides. No I/O, no clock.
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp, cluster: &str) -> Plan {
    if desired.suspend {
        let suspended = Failure::new(
            super::Class::Invalid,
            Reason::Suspended,
            "spec.suspend is true: role and token are left as they are",
        );
        return Plan {
            role: Err(suspended.clone()),
            token: Err(suspended),
            discard: BTreeSet::new(),
            next_look: None,
        };
    }
    // Nobody tells us of a changed `ConfigMap`.
    let source = desired.object_id_from.as_ref();
    let source = source.and_then(|_| now.checked_add(SOURCE_EVERY).ok());
    if desired.plan_only {
        return Plan {
            role: role_work(desired, observed, cluster),
            token: Ok(None),
            discard: BTreeSet::new(),
            next_look: source,
        };
    }
    let role = role_work(desired, observed, cluster)
        .and_then(|work| rested(work, observed.role_hold.as_ref(), now));
    let (token, renewal) = token_work(desired, observed, now);
    let holds = [
        &observed.role_hold,
        &observed.token_hold,
        &observed.login.hold,
    ];
    let holds = holds.into_iter().flatten();
    let looks = holds
        .filter_map(|hold| hold.rests_until(now))
        .chain(renewal)
        .chain(source);
    Plan {
        role,
        token,
        discard: discard(desired, observed),
        next_look: looks.min(),
    }
}

/// What the server's owner does not allow is left as it is.
fn discard(desired: &Desired, observed: &Observed) -> BTreeSet<String> {
    if observed.allowance.is_err() {
        return BTreeSet::new();
    }
    let wanted = desired.token.as_ref().map(|token| &token.secret);
    let leftovers = observed.secrets.iter().filter(|name| Some(*name) != wanted);
    leftovers.cloned().collect()
}

/// The work without what the server refused a while ago; the failure to go on reporting while the
/// whole half rests.
fn rested(work: RoleWork, hold: Option<&Hold>, now: Timestamp) -> Result<RoleWork, Failure> {
    let Some(hold) = (hold.filter(|hold| hold.rests(now))).filter(|_| !work.is_nothing()) else {
        return Ok(work);
    };
    match (work, &hold.failure) {
        (RoleWork::Steps(mut steps), failure) if !hold.refused.is_empty() => {
            if steps.drop_refused(&hold.refused) {
                steps.problems.extend(failure.clone());
            }
            Ok(RoleWork::Steps(steps))
        }
        (_, Some(failure)) => Err(failure.clone()),
        (work, None) => Ok(work),
    }
}

impl Steps {
    /// Leaves out the steps that the server refused; says whether there were any.
    fn drop_refused(&mut self, refused: &[RefusedStep]) -> bool {
        let before = self.clone();
        self.role
            .retain(|step| !refused.contains(&RefusedStep::Role(step.clone())));
        for (database, steps) in &mut self.inside {
            steps.retain(|step| {
                !refused.contains(&RefusedStep::Inside(database.clone(), step.clone()))
            });
        }
        self.inside.retain(|_, steps| !steps.is_empty());
        *self != before
    }

    /// The same with a problem that comes first.
    fn with(mut self, problem: Option<Failure>) -> Self {
        self.problems.splice(0..0, problem);
        self
    }
}

fn role_work(desired: &Desired, observed: &Observed, cluster: &str) -> Result<RoleWork, Failure> {
    desired.rights.clone()?;
    let allowance = observed.allowance.clone()?;
    let found = match &observed.role {
        Look::Unknown(cause) => return Err(cause.clone()),
        Look::Known(found) => found,
    };
    if let Some(ends) = observed
        .server_ends
        .as_ref()
        .filter(|_| !has_role(observed))
    {
        return Err(ends.clone());
    }
    let Declared { id, problem } = declared(desired, observed)?;
    let wanted = id
        .as_ref()
        .or(observed.record.object_id.as_ref())
        .or(observed.token_object_id.as_ref());
    if let Some(id) = wanted {
        not_in_use(desired, observed, id)?;
    }
    let marker = |id: Option<&ObjectId>| Marker {
        restored: allowance.restore.clone(),
        ..Marker::new(cluster, &desired.key, &desired.uid, id)
    };
    let Some(facts) = found else {
        if wanted.is_none() && desired.takes_id_from_token() {
            return Ok(RoleWork::AfterToken);
        }
        let steps = created(desired, observed, wanted, marker(wanted))?;
        return Ok(RoleWork::Steps(steps.with(problem)));
    };
    let existing = Existing {
        desired,
        observed,
        facts,
        declared: id.as_ref(),
        wanted,
        allowance: &allowance,
    };
    let found = marker_in(desired, facts, allowance.discard.as_ref())?;
    match existing.claim(found.as_ref(), &marker)? {
        Claim::AfterToken => Ok(RoleWork::AfterToken),
        Claim::Ours(ours) => {
            let steps = ours.steps(found.as_ref(), desired, facts, observed)?;
            Ok(RoleWork::Steps(steps.with(problem)))
        }
    }
}

/// Whether there is a role, and it is this object's already as far as marker or status say.
fn has_role(observed: &Observed) -> bool {
    let ours =
        observed.marker_owner == Some(MarkerOwner::Us) || observed.record.object_id.is_some();
    ours && matches!(observed.role, Look::Known(Some(_)))
}

/// The steps for a role that is not there.
fn created(
    desired: &Desired,
    observed: &Observed,
    wanted: Option<&ObjectId>,
    marker: Marker,
) -> Result<Steps, Failure> {
    let rights = rights::plan(desired, &Asked::default(), None, observed);
    let marker = Marker {
        asked: rights.asked,
        role_oid: ROLE_OID_PLACEHOLDER.to_owned(),
        ..marker
    };
    let marker = written(desired, &marker, 0)?;
    let create = RoleStep::Create(NewRole {
        object_id: wanted.cloned(),
        kind: desired.kind,
        admin: desired.admin,
        mfa: desired.mfa,
        marker,
    });
    Ok(Steps {
        role: std::iter::once(create).chain(rights.steps).collect(),
        inside: rights.inside,
        problems: rights.problems,
        notes: rights.notes,
    })
}
