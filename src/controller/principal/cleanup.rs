//! The end of a principal: its role goes first, or stays, as `deletionPolicy` says. Must not touch a
//! role that is not ours.

use jiff::SignedDuration;
use kube::{Resource, ResourceExt};

use crate::api::{DeletionPolicy, EntraPostgresPrincipal};
use crate::cluster::{EventType, FINALIZER};
use crate::controller::index::key_of;
use crate::controller::{Context, finalizers, result_of};
use crate::model::Desired;
use crate::model::ending::{ABANDON, not_abandoned};
use crate::model::rights::ident;

use super::drop::{self, Ended};
use super::{Next, report};

/// Reason of the event that says that a role stays.
const ROLE_LEFT: &str = "RoleLeft";

pub(super) async fn cleanup(object: &EntraPostgresPrincipal, ctx: &Context) -> Next {
    if !object
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
    {
        return Next::settled(None);
    }
    let ended = match Desired::of_deleted(object) {
        _ if abandoned(object) => {
            warn_abandoned(object, ctx).await;
            Ok(())
        }
        Some(desired) if desired.deletion == DeletionPolicy::Retain => {
            if let Err(failure) = drop::reopen(object, &desired, ctx).await {
                let note = format!(
                    "role {:?} stays on the server; {}: {failure}",
                    desired.role.as_str(),
                    opened_by_hand(desired.role.as_str())
                );
                warn(object, ROLE_LEFT, &note, ctx).await;
            }
            Ok(())
        }
        Some(desired) if desired.plan_only => {
            let note = format!(
                "mode: Plan changes nothing: role {:?} stays on the server; {}",
                desired.role.as_str(),
                opened_by_hand(desired.role.as_str())
            );
            warn(object, ROLE_LEFT, &note, ctx).await;
            Ok(())
        }
        Some(desired) => match drop::drop_role(object, &desired, ctx).await {
            Ok(Ended::Left(note)) => {
                warn(object, ROLE_LEFT, &note, ctx).await;
                Ok(())
            }
            Ok(Ended::Gone) => Ok(()),
            Err(failure) => Err(failure),
        },
        // No server can have such a role.
        None => Ok(()),
    };
    match ended {
        Ok(()) => match finalizers::release_principal(object, ctx).await {
            Ok(()) => Next::settled(None),
            Err(failure) => {
                tracing::warn!(object = %key_of(object), "could not remove the finalizer: {failure}");
                let at = ctx
                    .reporter
                    .clock
                    .now()
                    .checked_add(SignedDuration::from_secs(2))
                    .ok();
                Next {
                    at,
                    result: result_of(Some(&failure)),
                }
            }
        },
        Err(failure) => {
            let failure = not_abandoned(failure, object.annotations().get(ABANDON));
            report::waiting(object, &failure, ctx).await
        }
    }
}

/// What a drop that had begun has left.
fn opened_by_hand(role: &str) -> String {
    let role = ident(role);
    format!(
        "if its drop had begun, it cannot sign in until a database administrator runs: ALTER ROLE {role} LOGIN"
    )
}

fn abandoned(object: &EntraPostgresPrincipal) -> bool {
    object
        .annotations()
        .get(ABANDON)
        .is_some_and(|value| value == "true")
}

async fn warn_abandoned(object: &EntraPostgresPrincipal, ctx: &Context) {
    let note = format!(
        "annotation {ABANDON} ended the deletion: role {:?} stays on the server; {}",
        object.spec.role_name,
        opened_by_hand(&object.spec.role_name)
    );
    warn(object, "RoleAbandoned", &note, ctx).await;
}

async fn warn(object: &EntraPostgresPrincipal, reason: &str, note: &str, ctx: &Context) {
    tracing::warn!(object = %key_of(object), "{note}");
    let reference = object.object_ref(&());
    ctx.reporter
        .events
        .publish(&reference, EventType::Warning, reason, "Delete", note)
        .await;
}
