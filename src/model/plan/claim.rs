//! Whose a role is that is there already: this object's, or why it is not. Decides nothing about rights.

use super::{Steps, written};
use crate::api::Adoption;
use crate::model::desired::RESTORE;
use crate::model::marker::Marker;
use crate::model::observed::{MarkerOwner, Observed};
use crate::model::tenancy::Allowance;
use crate::model::{
    Asked, Class, Desired, EntraLabel, Failure, ObjectId, ObjectKey, Reason, RoleFacts, RoleName,
    RoleStep, entra_type, rights, rights::ident,
};

/// Whether a role that is there is this object's.
pub(super) enum Claim {
    /// The object id comes from the principal's own token: get that first.
    AfterToken,
    /// It is, or becomes it.
    Ours(Box<Ours>),
}

impl Claim {
    pub(super) fn ours(ours: Ours) -> Self {
        Self::Ours(Box::new(ours))
    }
}

/// What makes a role this object's.
pub(super) struct Ours {
    /// Before the marker is written.
    pub before: Vec<RoleStep>,
    /// The marker, with what was asked for so far.
    pub marker: Marker,
    /// After it.
    pub after: Vec<RoleStep>,
    /// What is left as it is and people must know.
    pub problems: Vec<Failure>,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Ours {
    pub(super) fn steps(
        self,
        found: Option<&Marker>,
        desired: &Desired,
        facts: &RoleFacts,
        observed: &Observed,
    ) -> Result<Steps, Failure> {
        let rights = rights::plan(desired, &self.marker.asked, Some(facts), observed);
        let marker = Marker {
            asked: rights.asked,
            role_oid: facts.oid.to_string(),
            ..self.marker
        };
        let there = facts.comment.as_ref().map_or(0, String::len);
        let mark = (found != Some(&marker)).then(|| written(desired, &marker, there));
        let mark = mark.transpose()?.map(RoleStep::Mark);
        let role = self.before.into_iter().chain(mark).chain(self.after);
        Ok(Steps {
            role: role.chain(rights.steps).collect(),
            inside: rights.inside,
            problems: self.problems.into_iter().chain(rights.problems).collect(),
            notes: self.notes.into_iter().chain(rights.notes).collect(),
        })
    }
}

/// Of one identity the server has one role only.
pub(super) fn not_in_use(
    desired: &Desired,
    observed: &Observed,
    id: &ObjectId,
) -> Result<(), Failure> {
    let holder = observed
        .holders
        .as_ref()
        .and_then(|holders| holders.get(id));
    let Some(holder) = holder.filter(|holder| holder.role != desired.role) else {
        return Ok(());
    };
    let what = if holder.admin {
        "an Entra administrator of the server, as"
    } else {
        "already on"
    };
    let message = format!(
        "object id {id} is {what} role {role:?}: an identity has one role on a server; {}, or declare \
         another principal",
        how_to_free(&holder.role, observed.made_for.get(id)),
        role = holder.role.as_str()
    );
    Err(Failure::new(Class::Denied, Reason::IdentityInUse, message))
}

/// How an identity comes free whose role was made for that object.
fn how_to_free(role: &RoleName, made_for: Option<&(ObjectKey, MarkerOwner)>) -> String {
    let Some((object, owner)) = made_for else {
        return "remove that role".to_owned();
    };
    match owner {
        MarkerOwner::Us | MarkerOwner::Other => format!(
            "it is that of EntraPostgresPrincipal {object}: declare there what the identity shall have, or \
             delete that object with deletionPolicy: Drop"
        ),
        MarkerOwner::Gone | MarkerOwner::FormerCluster => format!(
            "it was made for EntraPostgresPrincipal {object}, which is gone: make that object again with this \
             roleName and deletionPolicy: Drop and delete it, or as a database administrator DROP ROLE {}",
            ident(role.as_str())
        ),
        MarkerOwner::OtherCluster => format!(
            "it is that of EntraPostgresPrincipal {object} of another cluster: delete that object there with \
             deletionPolicy: Drop"
        ),
    }
}

/// Whether all administrative rights of a role are such as its object asked for.
pub fn gave_all(facts: &RoleFacts, asked: &Asked) -> bool {
    let administrator = facts.label.as_ref().is_some_and(|label| label.admin);
    let made_creator = asked.attributes.contains("createRole");
    let mut joined = facts.administrative.iter();
    !administrator
        && !facts.privileged
        && (!facts.attributes.create_role || made_creator)
        && joined.all(|role| asked.member_of.contains(role.as_str()))
}

/// Whether somebody else keeps a role from signing in that shall: a database administrator's kill switch.
pub fn shut_by_others(desired: &Desired, facts: &RoleFacts, marker: &Marker) -> bool {
    let by_us = marker.closed || marker.asked.attributes.contains("login");
    desired.attributes.login && !facts.can_login && !by_us
}

/// Whether annotation `entrapostgres.io/restore` of who may open the role has a value that was not obeyed yet.
pub fn restores(allowance: &Allowance, marker: &Marker) -> bool {
    allowance.restore.is_some() && allowance.restore != marker.restored
}

/// Who opens a role that a database administrator closed, and how.
pub fn how_to_restore(desired: &Desired, allowance: &Allowance) -> String {
    let ignored = desired.restore.is_some() && allowance.restore != desired.restore;
    let note = if ignored {
        format!(
            "; annotation {RESTORE} of the EntraPostgresPrincipal is not obeyed without restore: true in \
                 the server's tenants"
        )
    } else {
        String::new()
    };
    format!(
        "they set it to LOGIN, or the owner of EntraPostgresServer {} sets its annotation {RESTORE}: {}=WORD, \
         with a word that it did not have before{note}",
        desired.server, desired.key
    )
}

/// Whether what keeps a role from being taken over leaves it to adoption.
fn may_be_adopted(refused: Reason) -> bool {
    !matches!(refused, Reason::RoleProtected | Reason::MfaRequired)
}

/// The administrative rights of a role, in words.
fn administrative(facts: &RoleFacts) -> String {
    let privileged = facts
        .privileged
        .then(|| "SUPERUSER, REPLICATION or BYPASSRLS".to_owned());
    let creator = (facts.attributes.create_role).then(|| "CREATEROLE".to_owned());
    let joined = facts.administrative.iter();
    let joined = joined.map(|role| format!("membership in {:?}", role.as_str()));
    let all: Vec<String> = privileged
        .into_iter()
        .chain(creator)
        .chain(joined)
        .collect();
    all.join("; ")
}

/// What an object asks for that may be administrative.
pub(super) fn declares(desired: &Desired) -> Asked {
    let creator = desired.attributes.create_role == Some(true);
    let joined = desired.member_of.keys().map(RoleName::as_str);
    Asked {
        attributes: creator
            .then(|| "createRole".to_owned())
            .into_iter()
            .collect(),
        member_of: joined.map(str::to_owned).collect(),
        ..Asked::default()
    }
}

/// A role of the wanted name is there.
pub(super) struct Existing<'a> {
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub facts: &'a RoleFacts,
    /// The object id that is declared.
    pub declared: Option<&'a ObjectId>,
    /// The same, or else what is recorded or the token says.
    pub wanted: Option<&'a ObjectId>,
    pub allowance: &'a Allowance,
}

impl Existing<'_> {
    pub(super) fn claim(
        &self,
        found: Option<&Marker>,
        marker: &dyn Fn(Option<&ObjectId>) -> Marker,
    ) -> Result<Claim, Failure> {
        // What was written for a role with another oid makes nothing ours, but still warns us off: a
        // logical migration brings comments along, and their owners live.
        let valid = found.is_some_and(|found| found.is_of(self.facts.oid));
        match (self.observed.marker_owner, found) {
            (Some(MarkerOwner::Us), Some(found)) if valid && self.is_borne_out(found) => {
                self.keep(found)
            }
            (Some(MarkerOwner::Gone | MarkerOwner::FormerCluster), Some(found)) if valid => {
                let taken = self.take_over(found, marker);
                // It was not made for this object, and its own is gone.
                taken.or_else(|failure| match self.desired.adoption {
                    Adoption::Any if may_be_adopted(failure.reason) => {
                        self.adopt(Some(found), marker)
                    }
                    _ => Err(failure),
                })
            }
            (Some(MarkerOwner::Other), Some(found)) => Err(self.owned_by(
                Reason::RoleOwnedByOther,
                &format!("EntraPostgresPrincipal {}", found.key()),
            )),
            (Some(MarkerOwner::OtherCluster), Some(found)) => Err(self.owned_by(
                Reason::RoleOwnedByOtherCluster,
                &format!(
                    "EntraPostgresPrincipal {} of cluster {cluster} (if that cluster is gone, or was this \
                     one under another id, list it in the operator's configuration: formerClusterIds: \
                     [{cluster:?}])",
                    found.key(),
                    cluster = found.cluster
                ),
            )),
            _ => self.unmarked(found, marker),
        }
    }

    /// Whether more than the comment says that the role is ours: a role with CREATEROLE can write
    /// comments. The status remembers it, or it bears the very identity and has no rights to gain but
    /// those that this object gave: the operator may have ended before it could write the status.
    fn is_borne_out(&self, found: &Marker) -> bool {
        let recorded = found.object_id();
        let remembered = self.observed.record.object_id.is_some();
        let label = self.facts.label.as_ref();
        let bears = label.is_some_and(|label| Some(&label.object_id) == recorded.as_ref());
        let gains = || !gave_all(self.facts, &found.asked) && self.unprotected().is_err();
        remembered || (bears && (self.desired.admin || !gains()))
    }

    /// The role is ours: put back what was changed.
    fn keep(&self, found: &Marker) -> Result<Claim, Failure> {
        let desired = self.desired;
        // What is declared is the consent to another identity; else the id first resolved decides.
        let target = self
            .declared
            .cloned()
            .or_else(|| found.object_id())
            .ok_or_else(|| {
                self.denied(
                    Reason::ObjectIdMismatch,
                    "the marker in its comment has no object id",
                )
            })?;
        self.may_be_bound(&target, found)?;
        let before = self.bind(&target);
        let mut marker = Marker {
            object_id: target.to_string(),
            closed: false,
            ..found.clone()
        };
        let shut = shut_by_others(desired, self.facts, found);
        let restore = restores(self.allowance, found);
        if restore {
            marker.restored.clone_from(&self.allowance.restore);
        }
        if found.closed && !desired.attributes.login {
            marker.asked.attributes.insert("login".to_owned());
        }
        let reopens = found.closed && desired.attributes.login && !self.facts.can_login;
        let opens = reopens || (shut && restore);
        let problem = (shut && !restore).then(|| {
            self.denied(
                Reason::LoginDisabledOnServer,
                &format!(
                    "a database administrator set it to NOLOGIN: it stays so until {}",
                    how_to_restore(desired, self.allowance)
                ),
            )
        });
        let unknown = found.came.as_ref().filter(|came| came.is_recorded());
        let note = unknown.map(|_| {
            "the role was without a marker for a while: what it was given before that is not known, and is \
             not taken back"
                .to_owned()
        });
        Ok(Claim::ours(Ours {
            before,
            marker,
            after: opens.then_some(RoleStep::Open).into_iter().collect(),
            problems: self.mfa_kept().err().into_iter().chain(problem).collect(),
            notes: note.into_iter().collect(),
        }))
    }

    /// Who may edit the object chooses the identity, but not who gets the rights that others gave the role.
    fn may_be_bound(&self, target: &ObjectId, found: &Marker) -> Result<(), Failure> {
        let label = self.facts.label.as_ref();
        // A label that somebody took away is put back; then the marker knows.
        let bound = label.map_or_else(|| found.object_id(), |label| Some(label.object_id.clone()));
        if bound.as_ref() == Some(target) {
            return Ok(());
        }
        self.is_its_own(target, bound.as_ref(), found)?;
        if self.desired.admin || gave_all(self.facts, &found.asked) {
            return Ok(());
        }
        self.unprotected().map_err(|_| {
            let was = bound.map_or_else(|| "none".to_owned(), |id| id.to_string());
            self.denied(
                Reason::RoleProtected,
                &format!(
                    "it has administrative rights that this object did not give, so it is not bound to \
                     object id {target} instead of {was}: take them away, or declare {was} again"
                ),
            )
        })
    }

    /// What somebody else made is bound to another identity only where any role may be: else the way by
    /// the same identity first, and by another one after it, would be as good as that.
    fn is_its_own(
        &self,
        target: &ObjectId,
        bound: Option<&ObjectId>,
        found: &Marker,
    ) -> Result<(), Failure> {
        let recorded = [found.object_id(), self.observed.record.object_id.clone()];
        let drifted = recorded.iter().flatten().all(|id| id == target);
        let made = found.came.is_none() && !self.observed.record.adopted;
        if drifted || made || self.allowance.any || self.allowance.literal {
            return Ok(());
        }
        let was = bound.map_or_else(|| "none".to_owned(), ObjectId::to_string);
        Err(self.denied(
            Reason::NotAllowedByServer,
            &format!(
                "this object did not make it, so it is bound to object id {target} instead of {was} only if \
                 tenants.adoption of the server has Any, or tenants.roleNames names it literally: ask the \
                 server's owner, or declare {was} again"
            ),
        ))
    }

    /// Multifactor authentication that is required on the server and not declared is taken away only where
    /// the server's owner names the role literally.
    pub(super) fn mfa_kept(&self) -> Result<(), Failure> {
        if self.desired.mfa || !self.keeps_mfa() {
            return Ok(());
        }
        Err(self.denied(
            Reason::MfaRequired,
            "multifactor authentication is required for it there and not declared, and is not taken away: make \
             the object with principal.requireMFA: true, or have a database administrator take it away, or the \
             server's owner name the role literally in tenants.roleNames",
        ))
    }

    fn keeps_mfa(&self) -> bool {
        let label = self.facts.label.as_ref();
        label.is_some_and(|label| label.mfa) && !self.allowance.literal
    }

    /// Binds the role, unless it is bound so.
    pub(super) fn bind(&self, target: &ObjectId) -> Vec<RoleStep> {
        let Desired { kind, admin, .. } = *self.desired;
        let mfa = self.desired.mfa || self.keeps_mfa();
        let label = (!self.bound_to(target)).then(|| RoleStep::Label {
            object_id: target.clone(),
            kind,
            admin,
            mfa,
        });
        label.into_iter().collect()
    }

    pub(super) fn bound_to(&self, target: &ObjectId) -> bool {
        let Desired { kind, admin, .. } = self.desired;
        let mfa = self.desired.mfa || self.keeps_mfa();
        self.facts.label.as_ref().is_some_and(|label| {
            label.object_id == *target
                && label.entra_type == entra_type(*kind)
                && label.admin == *admin
                && label.mfa == mfa
        })
    }

    pub(super) fn same_identity(&self, bound: &ObjectId) -> Result<(), Failure> {
        match self.wanted {
            Some(wanted) if wanted != bound => Err(self.denied(
                Reason::ObjectIdMismatch,
                &format!("it is bound to object id {bound}, wanted is {wanted}"),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn same_type(&self, label: &EntraLabel) -> Result<(), Failure> {
        if label.entra_type == entra_type(self.desired.kind) {
            return Ok(());
        }
        Err(self.denied(
            Reason::PrincipalTypeMismatch,
            &format!(
                "it is bound to a principal of type {}: correct spec.principal.type, or choose another \
                 roleName",
                label.entra_type
            ),
        ))
    }

    /// Roles with administrative rights change hands only where the server names them literally,
    /// administrators never.
    pub(super) fn unprotected(&self) -> Result<(), Failure> {
        let administrator = self.facts.label.as_ref().is_some_and(|label| label.admin);
        if administrator {
            let what =
                "it is an Entra administrator and is never taken over; choose another roleName";
            return Err(self.denied(Reason::RoleProtected, what));
        }
        if self.facts.is_administrative() && !self.allowance.literal {
            let what = format!(
                "it has administrative rights ({}), so it is taken over only if tenants.roleNames of the \
                 server names it literally; ask the server's owner for that, have the rights taken away, or \
                 choose another roleName",
                administrative(self.facts)
            );
            return Err(self.denied(Reason::RoleProtected, &what));
        }
        Ok(())
    }

    /// Only who is made an administrator gets an administrator's rights from Azure; the label alone gives
    /// none of them.
    pub(super) fn not_to_be_made_administrator(&self) -> Result<(), Failure> {
        let is_one = self.facts.label.as_ref().is_some_and(|label| label.admin);
        if self.desired.admin && !is_one {
            return Err(self.denied(
                Reason::RoleExists,
                "an existing role is not made an administrator (principal.admin): drop it, or choose another \
                 roleName",
            ));
        }
        Ok(())
    }

    fn owned_by(&self, reason: Reason, owner: &str) -> Failure {
        self.denied(
            reason,
            &format!("it belongs to {owner}; delete that object, or choose another roleName"),
        )
    }

    pub(super) fn denied(&self, reason: Reason, what: &str) -> Failure {
        let Desired { role, server, .. } = self.desired;
        let message = format!("role {:?} exists on server {server}: {what}", role.as_str());
        Failure::new(Class::Denied, reason, message)
    }
}
