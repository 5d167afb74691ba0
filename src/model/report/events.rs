//! Which events people should see: pure, from conditions before and after.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{ADVISED, READY, RENEWAL_FAILING, ROLE_SYNCED, RoleChange, TOKEN_ISSUED};
use crate::model::Reason;

impl RoleChange {
    /// The event that tells it.
    fn note(self) -> Note {
        let note = match self {
            Self::RoleCreated => "the role was made",
            Self::RoleBound => "the role's Entra label was set as declared",
            Self::RoleAdopted => {
                "the role was there before: from now on it is this principal's; it keeps what it owns and \
                 its privileges, and its password was taken away"
            }
            Self::RoleMarked => "the marker in the role's comment was written again",
            Self::RoleAltered => {
                "attributes, settings, memberships or privileges of the role were changed as declared"
            }
        };
        let reason: &'static str = self.into();
        Note {
            warning: false,
            reason: reason.to_owned(),
            note: note.to_owned(),
        }
    }
}

/// An event that people should see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Normal, or a warning.
    pub warning: bool,
    /// The stable word.
    pub reason: String,
    /// The sentence.
    pub note: String,
}

/// The events of a change of conditions: transitions only, one at a time. `change` is what was
/// done to the role; it is worth an event of its own only on an object that was ready already, or if a
/// role was taken over.
pub fn notes(old: &[Condition], new: &[Condition], change: Option<RoleChange>) -> Vec<Note> {
    let find = |conditions: &[Condition], kind: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .cloned()
    };
    let (before, after) = (find(old, READY), find(new, READY));
    let Some(after) = after else {
        return Vec::new();
    };
    let was_ready = before.as_ref().is_some_and(|ready| ready.status == "True");
    let is_ready = after.status == "True";
    let same =
        before.is_some_and(|ready| ready.status == after.status && ready.reason == after.reason);
    let quiet = Reason::Connecting.to_string();
    let transition = (!same && quiet != after.reason).then_some(Note {
        warning: !is_ready,
        reason: after.reason,
        note: after.message,
    });
    let told = transition.is_none() && was_ready;
    let change = change.filter(|change| told || *change == RoleChange::RoleAdopted);
    // All is well still, and yet people should know.
    let told_while_ready = [(ROLE_SYNCED, ADVISED), (TOKEN_ISSUED, RENEWAL_FAILING)];
    let news = told_while_ready.into_iter().filter_map(|(kind, reason)| {
        let is_so = |conditions| find(conditions, kind).filter(|it| it.reason == reason);
        let now = is_so(new).filter(|_| is_ready && is_so(old).is_none())?;
        Some(Note {
            warning: true,
            reason: now.reason,
            note: now.message,
        })
    });
    (change.map(RoleChange::note).into_iter())
        .chain(transition)
        .chain(news)
        .collect()
}
