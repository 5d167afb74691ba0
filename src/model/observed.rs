//! What a principal's world looks like: gathered elsewhere, only read here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::secret::SecretFacts;
use super::tenancy::Allowance;
use super::{
    DatabaseCatalog, DatabaseEntry, Failure, Holder, Look, ObjectId, ObjectKey, PrivilegeStep,
    RoleFacts, RoleName, RoleStep, ServerFacts, TargetFacts,
};

/// Whether the object a marker speaks of still wants the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerOwner {
    /// This object itself.
    Us,
    /// Another object that is there and wants the role, or one that we cannot see.
    Other,
    /// It is gone, was made again, or wants another role.
    Gone,
    /// An object of another cluster.
    OtherCluster,
    /// An object of a cluster whose roles we take over.
    FormerCluster,
}

/// What this object's status remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The object id the role was first bound to.
    pub object_id: Option<ObjectId>,
    /// Whether the role was there before the object.
    pub adopted: bool,
}

/// A half whose steps failed and are not tried again before a time. What is seen to be right, or
/// wrong, without any step is reported at once all the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// Not before this time; `None`: not before the object changes.
    pub until: Option<Timestamp>,
    /// The failure that stays reported until then; `None`: all is well, there is just nothing new.
    pub failure: Option<Failure>,
    /// The steps that the server refused, while all others were made: only these rest. Empty: the
    /// whole half does.
    pub refused: Vec<RefusedStep>,
}

/// A step that the server refused.
#[derive(Clone, Debug, PartialEq)]
pub enum RefusedStep {
    /// In database `postgres`.
    Role(RoleStep),
    /// In that database.
    Inside(String, PrivilegeStep),
}

/// All that [`super::plan::plan`] looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// What the server's owner gives, or why not.
    pub allowance: Result<Allowance, Failure>,
    /// Why nobody gets a role on the server any more who has none; `None`: it stays.
    pub server_ends: Option<Failure>,
    /// Whether the identity may be used in this namespace.
    pub identity_allowed: Result<(), Failure>,
    /// The role.
    pub role: Look<RoleFacts>,
    /// Whom the role's marker speaks of, if it has one.
    pub marker_owner: Option<MarkerOwner>,
    /// Roles by object id; `None`: not known since this operator started.
    pub holders: Option<BTreeMap<ObjectId, Holder>>,
    /// Of the holders that are other roles: the objects these were made for, and whether they still want
    /// them.
    pub made_for: BTreeMap<ObjectId, (ObjectKey, MarkerOwner)>,
    /// The object id of the `ConfigMap` that is declared, or why it has none; `None`: none is declared,
    /// or nobody looked.
    pub source: Option<Result<ObjectId, Failure>>,
    /// Roles that this one wants to be a member of, is to leave, or leaves what it owns to: those
    /// that exist.
    pub targets: BTreeMap<RoleName, TargetFacts>,
    /// Databases that privileges are declared in, or were asked for: those that exist.
    pub databases: BTreeMap<String, DatabaseEntry>,
    /// What is in them, or why that is not known.
    pub inside: BTreeMap<String, Result<Arc<DatabaseCatalog>, Failure>>,
    /// What decides how things are done on the server.
    pub server: ServerFacts,
    /// The Secret; only looked at when a token is declared.
    pub secret: Look<SecretFacts>,
    /// Names of all Secrets whose controller this object is, as far as the watch has seen.
    pub secrets: BTreeSet<String>,
    /// What the status remembers.
    pub record: Record,
    /// The object id of a token that was got in this very pass.
    pub token_object_id: Option<ObjectId>,
    /// The role's half rests.
    pub role_hold: Option<Hold>,
    /// The token's half rests.
    pub token_hold: Option<Hold>,
    /// What is known of signing in with the token.
    pub login: Login,
}

/// No wait without a failure is longer: a quarter of the longest life of a token.
const LONGEST_WITHOUT_FAILURE: SignedDuration = SignedDuration::from_hours(7);
/// No wait after a failure is longer, unless the other side asked for more.
const LONGEST_AFTER_FAILURE: SignedDuration = SignedDuration::from_mins(10);

impl Hold {
    /// Whether it rests. A wait longer than any that could begin now was made by a clock that has been set
    /// back since, and is over.
    pub fn rests(&self, now: Timestamp) -> bool {
        self.until
            .is_none_or(|until| until > now && until.duration_since(now) <= self.longest())
    }

    /// Until when it rests, if it does and has an end.
    pub fn rests_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|_| self.rests(now))
    }

    fn longest(&self) -> SignedDuration {
        let Some(failure) = &self.failure else {
            return LONGEST_WITHOUT_FAILURE;
        };
        let asked = failure.retry_after.unwrap_or_default();
        let asked = SignedDuration::try_from(asked).unwrap_or(SignedDuration::MAX);
        LONGEST_AFTER_FAILURE.saturating_add(asked)
    }
}

/// What is known of signing in with a principal's token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Login {
    /// A token of this Secret has signed in.
    pub verified: bool,
    /// The check rests.
    pub hold: Option<Hold>,
}
