//! The object id that a principal declares: its own, or that of a `ConfigMap` as far as consent goes.

use crate::model::desired::REBIND;
use crate::model::marker::Marker;
use crate::model::observed::{MarkerOwner, Observed};
use crate::model::{Class, Desired, Failure, Look, ObjectId, Reason};

/// What is declared of the object id.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Declared {
    /// The object id; `None`: nothing is.
    pub id: Option<ObjectId>,
    /// What people must know although the role is kept as it was.
    pub problem: Option<Failure>,
}

/// The declared object id. What a `ConfigMap` says is followed at first; later it is only with consent
/// that a role is bound to another identity.
///
/// # Errors
/// `ObjectIdNotFound`, or what else kept the `ConfigMap` from being read, while no object id is known.
pub(super) fn declared(desired: &Desired, observed: &Observed) -> Result<Declared, Failure> {
    let (Some(source), Some(read)) = (&desired.object_id_from, &observed.source) else {
        return Ok(Declared {
            id: desired.object_id.clone(),
            problem: None,
        });
    };
    let recorded = recorded(observed);
    match (read, recorded) {
        (Ok(id), Some(recorded)) if *id != recorded && !consents(desired, id) => {
            let message = format!(
                "key {:?} of ConfigMap {}/{} has object id {id} now, and role {:?} on server {} is for \
                 {recorded}: it stays so. To bind it to the new identity set annotation {REBIND}: {id} on \
                 the EntraPostgresPrincipal{}",
                source.key,
                desired.key.namespace,
                source.name,
                desired.role.as_str(),
                desired.server,
                (desired.rebind.as_ref())
                    .map(|value| format!("; it is {value:?} now, which is no consent to this"))
                    .unwrap_or_default()
            );
            let reason = Reason::ObjectIdMismatch;
            Ok(Declared {
                id: Some(recorded),
                problem: Some(Failure::new(Class::Denied, reason, message)),
            })
        }
        (Ok(id), _) => Ok(Declared {
            id: Some(id.clone()),
            problem: None,
        }),
        (Err(failure), Some(recorded)) => Ok(Declared {
            id: Some(recorded),
            problem: Some(failure.clone()),
        }),
        (Err(failure), None) => Err(failure.clone()),
    }
}

/// Whether annotation `entrapostgres.io/rebind` has this very id.
fn consents(desired: &Desired, id: &ObjectId) -> bool {
    let value = desired.rebind.as_deref();
    value.and_then(ObjectId::parse).as_ref() == Some(id)
}

/// The identity that the role was bound to, by the status or by our own marker.
fn recorded(observed: &Observed) -> Option<ObjectId> {
    let marked = || {
        let Look::Known(Some(facts)) = &observed.role else {
            return None;
        };
        let ours = observed.marker_owner == Some(MarkerOwner::Us);
        let marker = facts.comment.as_deref().and_then(Marker::parse);
        marker.filter(|_| ours)?.object_id()
    };
    observed.record.object_id.clone().or_else(marked)
}
