//! The end of a server: it waits for the principals that need it to drop their roles, keeps its
//! session for them, and says whom it waits for; or, with the annotation, lets all of them go.

use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt as _, stream};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};

use super::{LOOK_AGAIN_FAILED, connect, kept, told};
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::cluster::EventType;
use crate::controller::index::key_of;
use crate::controller::{Context, finalizers};
use crate::model::ending::{ABANDON, is_abandoned, not_abandoned, waiting_for};
use crate::model::report::ServerOutcome;
use crate::model::{Failure, ObjectKey};

/// So many principals are let go at a time.
const AT_ONCE: usize = 8;

/// One look at a server that is being deleted.
pub(super) async fn once(object: &EntraPostgresServer, started: Instant, ctx: &Context) -> Action {
    let key = key_of(object);
    let newest = ctx.index.server_object(&key);
    let Some(object) = newest.filter(|newest| newest.metadata.uid == object.metadata.uid) else {
        return Action::await_change();
    };
    if !ctx.index.holds(object.as_ref()) {
        // Others hold it, or nobody: its end comes by the watch.
        return Action::await_change();
    }
    let waits = match let_go(&object, &key, ctx).await {
        Ok(needing) if needing.is_empty() => return Action::await_change(),
        Ok(needing) => {
            let waits = waiting_for(&key, needing.iter().map(AsRef::as_ref));
            not_abandoned(waits, object.annotations().get(ABANDON))
        }
        Err(failure) => {
            tracing::warn!(object = %key, "could not end the deletion: {failure}");
            failure
        }
    };
    let connected = match ctx.index.server(&key) {
        Some(Ok(server)) => connect(&server, true, ctx).await,
        Some(Err(failure)) => kept(&key, ctx).unwrap_or(Err(failure)),
        None => return Action::await_change(),
    };
    let outcome = ServerOutcome {
        connected,
        waits: Some(waits),
        principals: ctx.index.counts(&key),
    };
    told(&object, &outcome, started, LOOK_AGAIN_FAILED, ctx).await
}

/// Lets the server go if nobody needs it, else says who does.
async fn let_go(
    object: &EntraPostgresServer,
    key: &ObjectKey,
    ctx: &Context,
) -> Result<Vec<Arc<EntraPostgresPrincipal>>, Failure> {
    let gate = ctx.index.gate(key);
    // From here on nobody is added: who got the finalizer before is seen.
    let _alone = gate.write().await;
    if is_abandoned(object) {
        release_all(key, ctx).await?;
    } else {
        let needing = ctx.index.needing(key);
        if !needing.is_empty() {
            return Ok(needing);
        }
    }
    finalizers::change(object, false, ctx).await?;
    Ok(Vec::new())
}

/// Takes our finalizer from every principal of the server; their roles stay.
async fn release_all(server: &ObjectKey, ctx: &Context) -> Result<(), Failure> {
    let held = ctx.index.held(server);
    let outcomes: Vec<Result<(), Failure>> = stream::iter(held)
        .map(async |object| release(&object, server, ctx).await)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    outcomes.into_iter().collect()
}

async fn release(
    object: &EntraPostgresPrincipal,
    server: &ObjectKey,
    ctx: &Context,
) -> Result<(), Failure> {
    finalizers::change(object, false, ctx).await?;
    let note = format!(
        "EntraPostgresServer {server} was deleted with annotation {ABANDON}: role {:?} stays on the \
         server, also when this principal is deleted",
        object.spec.role_name
    );
    tracing::warn!(object = %key_of(object), "{note}");
    let reference = object.object_ref(&());
    let events = &ctx.reporter.events;
    events
        .publish(
            &reference,
            EventType::Warning,
            "RoleAbandoned",
            "Delete",
            &note,
        )
        .await;
    Ok(())
}
