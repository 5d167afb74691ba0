//! How a role that was made for somebody else, or for nobody, becomes this object's.

use super::claim::{Claim, Existing, Ours, declares, gave_all};
use crate::api::Adoption;
use crate::model::marker::{Came, Marker};
use crate::model::{Failure, ObjectId, Reason, RoleStep};

impl Existing<'_> {
    /// The role's object is gone: only the same identity makes it ours.
    pub(super) fn take_over(
        &self,
        found: &Marker,
        marker: &dyn Fn(Option<&ObjectId>) -> Marker,
    ) -> Result<Claim, Failure> {
        let Some(label) = &self.facts.label else {
            return Err(self.denied(
                Reason::ObjectIdMismatch,
                &format!(
                    "its Entra label is gone, and its former object {} too",
                    found.key()
                ),
            ));
        };
        // Made again under its name it is the same object; another one adopts.
        if found.key() != self.desired.key && self.desired.adoption == Adoption::Refuse {
            let what = format!(
                "it was made for EntraPostgresPrincipal {}, which is gone: make that object again, choose \
                 another roleName, or {}",
                found.key(),
                self.how_to_adopt()
            );
            return Err(self.denied(Reason::RoleExists, &what));
        }
        if self.wanted.is_none() && self.desired.takes_id_from_token() {
            return Ok(Claim::AfterToken);
        }
        if self.wanted.is_none() && found.namespace != self.desired.key.namespace {
            return Err(self.denied(
                Reason::RoleExists,
                &format!(
                    "it was made for {}, which is gone; to take it over from another namespace set \
                     principal.objectId, so that the identities can be compared",
                    found.key()
                ),
            ));
        }
        let bound = &label.object_id;
        self.same_identity(bound)?;
        self.same_type(label)?;
        self.not_to_be_made_administrator()?;
        if found.object_id().as_ref() != Some(bound) {
            return Err(self.denied(
                Reason::ObjectIdMismatch,
                "its Entra label and the marker in its comment speak of different identities",
            ));
        }
        // What an administrator left behind is for another administrator only.
        if !self.desired.admin && !gave_all(self.facts, &found.asked) {
            self.unprotected()?;
        }
        self.mfa_kept()?;
        // Sign-in may be disabled because of a deletion that was called off.
        let opens = found.closed && !self.facts.can_login && self.desired.attributes.login;
        Ok(Claim::ours(Ours {
            before: Vec::new(),
            marker: Marker {
                came: Some(Came::taken_over(&found.key(), bound)),
                restored: self.obeyed(found),
                ..left_by(found, marker(Some(bound)))
            },
            after: opens.then_some(RoleStep::Open).into_iter().collect(),
            problems: Vec::new(),
            notes: Vec::new(),
        }))
    }

    /// No marker: ours if the status remembers the identity, else adoption decides. `found`: one that was
    /// copied to a role with another oid.
    pub(super) fn unmarked(
        &self,
        found: Option<&Marker>,
        marker: &dyn Fn(Option<&ObjectId>) -> Marker,
    ) -> Result<Claim, Failure> {
        let label = self.facts.label.as_ref();
        if let (Some(recorded), Some(label)) = (&self.observed.record.object_id, label)
            && *recorded == label.object_id
        {
            // A status can be written by more people than a role's comment.
            if !self.desired.admin && !gave_all(self.facts, &declares(self.desired)) {
                self.unprotected()?;
            }
            // A server that was restored has our markers, for roles with other oids.
            let restored = found.filter(|found| found.uid == self.desired.uid);
            let lost = || Some(Came::recorded(recorded));
            return Ok(Claim::ours(Ours {
                before: Vec::new(),
                marker: Marker {
                    came: restored.map_or_else(lost, |found| found.came.clone()),
                    ..marker(Some(recorded))
                },
                after: Vec::new(),
                problems: Vec::new(),
                notes: Vec::new(),
            }));
        }
        self.adopt(None, marker)
    }

    /// What would make the role this object's, by what it is now.
    fn how_to_adopt(&self) -> String {
        let by_name = self.wanted.is_none() && !self.desired.takes_id_from_token();
        let id = if by_name {
            " and principal.objectId"
        } else {
            ""
        };
        let Some(label) = &self.facts.label else {
            return format!(
                "to bind it to this identity set adoption: Any{id}: it is not bound to any Entra identity"
            );
        };
        match self.wanted {
            Some(wanted) if self.same_type(label).is_ok() && *wanted == label.object_id => {
                "to take it over set adoption: SameIdentity: it is bound to this very identity"
                    .to_owned()
            }
            Some(_) => "to bind it to this identity set adoption: Any: it is bound to another one"
                .to_owned(),
            None => format!(
                "to take it over set adoption: SameIdentity{id} if it is bound to the same identity, and \
                 adoption: Any{id} if it is not"
            ),
        }
    }

    /// A role that was there before: it keeps what it owns and its privileges, none of which we count as
    /// given by us, and can only sign in with Entra any more.
    /// `left`: the marker of an object that is gone; what that one was given stays known.
    pub(super) fn adopt(
        &self,
        left: Option<&Marker>,
        marker: &dyn Fn(Option<&ObjectId>) -> Marker,
    ) -> Result<Claim, Failure> {
        self.unprotected()?;
        self.not_to_be_made_administrator()?;
        let label = self.facts.label.as_ref();
        match (self.desired.adoption, label) {
            (Adoption::Refuse, _) => {
                let what = format!(
                    "it was not made for this object; choose another roleName, or {}",
                    self.how_to_adopt()
                );
                return Err(self.denied(Reason::RoleExists, &what));
            }
            (Adoption::SameIdentity, None) => {
                let what = format!(
                    "adoption: SameIdentity does not take it; {}",
                    self.how_to_adopt()
                );
                return Err(self.denied(Reason::RoleExists, &what));
            }
            (Adoption::SameIdentity, Some(_)) | (Adoption::Any, _) => {}
        }
        let Some(wanted) = self.wanted else {
            return if self.desired.takes_id_from_token() {
                Ok(Claim::AfterToken)
            } else {
                Err(self.denied(
                    Reason::RoleExists,
                    if self.desired.adoption == Adoption::Any {
                        "to take it over set principal.objectId: an existing role is not bound by name"
                    } else {
                        "to take it over set principal.objectId, so that the identities can be compared"
                    },
                ))
            };
        };
        if let (Adoption::SameIdentity, Some(label)) = (self.desired.adoption, label) {
            self.same_identity(&label.object_id)?;
            self.same_type(label)?;
        }
        self.mfa_kept()?;
        let came = Came::adopted(self.desired.adoption, label.map(|label| &label.object_id));
        let mut marker = Marker {
            came: Some(came),
            ..marker(Some(wanted))
        };
        if let Some(left) = left {
            marker = Marker {
                restored: self.obeyed(left),
                ..left_by(left, marker)
            };
        }
        let opens = left.is_some_and(|left| left.closed)
            && !self.facts.can_login
            && self.desired.attributes.login;
        let opens = opens.then_some(RoleStep::Open);
        Ok(Claim::ours(Ours {
            before: self.bind(wanted),
            marker,
            after: std::iter::once(RoleStep::ForgetPassword)
                .chain(opens)
                .collect(),
            problems: Vec::new(),
            notes: Vec::new(),
        }))
    }

    /// The value of annotation `entrapostgres.io/restore` that counts as obeyed on a role that is taken over.
    fn obeyed(&self, left: &Marker) -> Option<String> {
        let restore = self.allowance.restore.clone();
        restore.or_else(|| left.restored.clone())
    }
}

/// The marker of an object that has taken a role over, with what the former one was given.
fn left_by(found: &Marker, marker: Marker) -> Marker {
    Marker {
        asked: found.asked.clone(),
        version: found.version,
        others: found.others.clone(),
        ..marker
    }
}
