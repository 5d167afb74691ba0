//! One principal: observe, plan, execute, report, look again.

mod cleanup;
mod drop;
mod execute;
mod observe;
mod preview;
mod proof;
mod publish;
mod report;
mod role;
mod source;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::controller::Action;

use super::index::key_of;
use super::{Context, Never, guarded};
use crate::api::EntraPostgresPrincipal;
use crate::model::Desired;
use crate::model::plan::plan;
use crate::telemetry::{ObjectKind, ReconcileResult};

/// When to look again, and how the pass counts.
struct Next {
    at: Option<Timestamp>,
    result: ReconcileResult,
}

/// Brings one principal to what it declares, as far as that goes now.
pub async fn reconcile(
    object: Arc<EntraPostgresPrincipal>,
    ctx: Arc<Context>,
) -> Result<Action, Never> {
    Ok(guarded(&key_of(object.as_ref()), Box::pin(once(&object, &ctx))).await)
}

async fn once(object: &EntraPostgresPrincipal, ctx: &Context) -> Action {
    let started = Instant::now();
    let next = if object.metadata.deletion_timestamp.is_some() {
        cleanup::cleanup(object, ctx).await
    } else {
        match Desired::parse(object) {
            Ok(desired) => apply(object, &desired, ctx).await,
            Err(failure) => report::refused(object, &failure, ctx).await,
        }
    };
    let Next { at, result } = next;
    ctx.reporter
        .metrics
        .reconciled(ObjectKind::Principal, result, started.elapsed());
    at.map_or_else(Action::await_change, |at| Action::requeue(until(at, ctx)))
}

async fn apply(object: &EntraPostgresPrincipal, desired: &Desired, ctx: &Context) -> Next {
    let asked = desired.reconcile.as_deref();
    let memory = ctx.index.memory(&desired.uid, desired.generation, asked);
    let memory = memory.with(desired, &ctx.index.status(object));
    let memory = proof::looked_at(memory, desired, ctx).await;
    let world = observe::observe(desired, object, &memory, ctx).await;
    let now = ctx.reporter.clock.now();
    let plan = plan(desired, &world.observed, now, ctx.index.cluster_id());
    if desired.plan_only && !desired.suspend {
        return preview::preview(object, desired, &world, plan, memory, ctx).await;
    }
    let done = execute::execute(object, desired, &world, &plan, ctx).await;
    report::report(object, desired, &world, &plan, done, memory, ctx).await
}

fn until(at: Timestamp, ctx: &Context) -> Duration {
    let wait = at.duration_since(ctx.reporter.clock.now());
    Duration::try_from(wait)
        .unwrap_or_default()
        .max(Duration::from_millis(50))
}
