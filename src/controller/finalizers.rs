//! Who is held by our finalizers: a principal until its role is dropped, a server while principals
//! need it for that. A server is held first and let go last.

use std::borrow::Cow;
use std::sync::Arc;

use kube::ResourceExt;

use super::Context;
use super::index::key_of;
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::cluster::{FinalizerChange, Held};
use crate::model::{Class, Failure, ObjectKey, Reason};

/// Holds a principal, and its server before that. False: there is no server that would wait for it, and
/// nobody is held that was not before.
pub async fn hold_principal(
    object: &EntraPostgresPrincipal,
    server: &ObjectKey,
    ctx: &Context,
) -> Result<bool, Failure> {
    if ctx.index.holds(object) {
        return Ok(true);
    }
    let Some(seen) = staying(server, ctx) else {
        return Ok(false);
    };
    let gate = ctx.index.gate(server);
    if !ctx.index.holds(seen.as_ref()) {
        let _alone = gate.write().await;
        // Another principal may have been faster, or the deletion.
        let Some(seen) = staying(server, ctx) else {
            return Ok(false);
        };
        change(seen.as_ref(), true, ctx).await?;
    }
    let _shared = gate.read().await;
    match staying(server, ctx) {
        Some(seen) if ctx.index.holds(seen.as_ref()) => {
            change(object, true, ctx).await.map(|()| true)
        }
        Some(_) => Err(changed(object)),
        None => Ok(false),
    }
}

/// Lets a principal go; its server follows once the watch has brought that.
pub async fn release_principal(
    object: &EntraPostgresPrincipal,
    ctx: &Context,
) -> Result<(), Failure> {
    change(object, false, ctx).await
}

/// The finalizer of a server that stays is there exactly while it is needed.
pub async fn settle_server(server: &ObjectKey, ctx: &Context) -> Result<(), Failure> {
    let gate = ctx.index.gate(server);
    let wanted = || {
        let seen = staying(server, ctx)?;
        let needed = !ctx.index.needing(server).is_empty();
        (ctx.index.holds(seen.as_ref()) != needed).then_some((seen, needed))
    };
    if wanted().is_none() {
        return Ok(());
    }
    let _alone = gate.write().await;
    match wanted() {
        Some((seen, needed)) => change(seen.as_ref(), needed, ctx).await,
        None => Ok(()),
    }
}

/// Adds or removes our finalizer, and remembers that until the watch brings it.
pub async fn change<K: Held>(object: &K, there: bool, ctx: &Context) -> Result<(), Failure> {
    let known = as_known(object, ctx);
    let change = if there {
        ctx.cluster.add_finalizer(known.as_ref()).await?
    } else {
        ctx.cluster.remove_finalizer(known.as_ref()).await?
    };
    match change {
        FinalizerChange::Written => ctx.index.wrote_finalizer(object, there),
        FinalizerChange::Unchanged => {}
        // What is gone needs no finalizer to be removed; nobody would act on one that is added now.
        FinalizerChange::Gone if !there => {}
        FinalizerChange::Gone | FinalizerChange::Stale => return Err(changed(object)),
    }
    Ok(())
}

/// An object with our finalizer as we last wrote it: the watch may not have brought that yet.
fn as_known<'a, K: Held>(object: &'a K, ctx: &Context) -> Cow<'a, K> {
    let there = ctx.index.holds(object);
    if there == object.is_held() {
        return Cow::Borrowed(object);
    }
    let mut known = object.clone();
    let finalizers = known.finalizers_mut();
    finalizers.retain(|name| name != K::FINALIZER);
    finalizers.extend(there.then(|| K::FINALIZER.to_owned()));
    Cow::Owned(known)
}

/// A server object that is not being deleted.
fn staying(server: &ObjectKey, ctx: &Context) -> Option<Arc<EntraPostgresServer>> {
    let seen = ctx.index.server_object(server);
    seen.filter(|seen| seen.metadata.deletion_timestamp.is_none())
}

fn changed<K: Held>(object: &K) -> Failure {
    let message = format!(
        "{} {} was changed or deleted meanwhile: it is looked at again",
        K::kind(&()),
        key_of(object)
    );
    Failure::new(Class::Waiting, Reason::ApiError, message)
}
