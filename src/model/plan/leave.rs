//! What a role is to an object that is being deleted. Must not take a comment's word for it: a role with
//! CREATEROLE can write comments.

use crate::model::marker::Marker;
use crate::model::{ObjectId, RoleFacts};

/// How well it is borne out that a role is its object's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Marker, label and status speak of one identity.
    Whole,
    /// The status or the label is missing: the operator ended before it could write the one, or somebody
    /// took the other away. Enough to drop a plain role; what the marker says of rights is not believed.
    Partial,
}

/// Whether a role with this object's marker is its own. `recorded`: the identity in the status.
pub fn evidence(
    facts: &RoleFacts,
    marker: &Marker,
    recorded: Option<&ObjectId>,
) -> Option<Evidence> {
    let bound_to = marker.object_id()?;
    let agrees = |id: Option<&ObjectId>| id.map(|id| *id == bound_to);
    let label = facts.label.as_ref().map(|label| &label.object_id);
    match (agrees(label), agrees(recorded)) {
        (Some(true), Some(true)) => Some(Evidence::Whole),
        (Some(true), None) | (None, Some(true)) => Some(Evidence::Partial),
        _ => None,
    }
}
