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

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::feed::heartbeat;
use super::index::key_of;
use super::turns::Priority;
use super::{Context, Never, beat, guarded};
use crate::api::EntraPostgresPrincipal;
use crate::model::plan::plan;
use crate::model::{Class, Desired, Failure, ObjectKey, Reason, sizes, spread};
use crate::telemetry::{ObjectKind, ReconcileResult};

/// Who has a token is looked at this often, however late its renewal is due.
const LOOK_ANYWAY: SignedDuration = SignedDuration::from_mins(5);

/// When to look again, and how the pass counts.
struct Next {
    at: Option<Timestamp>,
    result: ReconcileResult,
}

impl Next {
    fn settled(at: Option<Timestamp>) -> Self {
        let result = ReconcileResult::Settled;
        Self { at, result }
    }
}

/// Brings one principal to what it declares, as far as that goes now.
pub async fn reconcile(key: ObjectKey, ctx: Arc<Context>) -> Result<Action, Never> {
    if key == heartbeat() {
        return Ok(beat(KIND, &ctx).await);
    }
    let Some(seen) = ctx.index.principal(&key) else {
        return Ok(Action::await_change());
    };
    let (priority, bytes) = (priority(&seen, &ctx), sizes::principal(&seen.spec));
    drop(seen);
    let _turn = ctx.turns.take(&key.namespace, priority, bytes).await;
    // It may have changed while it waited.
    let Some(object) = ctx.index.principal(&key) else {
        return Ok(Action::await_change());
    };
    let work = Box::pin(once(&object, &ctx));
    Ok(guarded(KIND, &key, &ctx.reporter.metrics, work).await)
}

const KIND: ObjectKind = ObjectKind::Principal;

/// A renewal that is due does not wait for anything else.
fn priority(object: &EntraPostgresPrincipal, ctx: &Context) -> Priority {
    let token = object
        .status
        .as_ref()
        .and_then(|status| status.token.as_ref());
    let due = token.and_then(|token| token.renew_at.as_ref());
    match due {
        Some(due) if due.0 <= ctx.reporter.clock.now() => Priority::Renewal,
        _ => Priority::Usual,
    }
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
    forget_if_gone(object, ctx);
    let looks = object
        .spec
        .token
        .as_ref()
        .and_then(|_| look_anyway(object, ctx));
    let at = at.into_iter().chain(looks).min();
    at.map_or_else(Action::await_change, |at| Action::requeue(until(at, ctx)))
}

/// Timers do not count while a machine is suspended: who has a token is looked at again soon after that.
fn look_anyway(object: &EntraPostgresPrincipal, ctx: &Context) -> Option<Timestamp> {
    let uid = object.uid().unwrap_or_default();
    let wait = LOOK_ANYWAY.as_secs_f64() * (1.0 - 0.2 * spread(&uid));
    let now = ctx.reporter.clock.now();
    now.checked_add(SignedDuration::from_secs_f64(wait)).ok()
}

/// A pass that ends after its object has put back what was forgotten with that.
fn forget_if_gone(object: &EntraPostgresPrincipal, ctx: &Context) {
    let (key, uid) = (key_of(object), object.uid().unwrap_or_default());
    if ctx.index.is_live(&uid) {
        return;
    }
    ctx.index.end_interest(object, &ctx.sessions);
    // Else the series are those of its successor.
    if !ctx.index.has_principal(&key) {
        ctx.reporter.metrics.forget(ObjectKind::Principal, &key);
    }
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

/// A pass may have waited long, for Entra or a server: it ends before it does anything for an object
/// that is gone, or that declares something else by now. The change itself has woken the object.
fn still_wanted(desired: &Desired, ctx: &Context) -> Result<(), Failure> {
    if is_current(desired, ctx) {
        return Ok(());
    }
    let message = format!("{} was changed or deleted meanwhile", desired.key);
    Err(Failure::new(Class::Waiting, Reason::ApiError, message))
}

fn is_current(desired: &Desired, ctx: &Context) -> bool {
    let Desired {
        key,
        uid,
        generation,
        ..
    } = desired;
    ctx.index.is_current(key, uid, *generation)
}

fn until(at: Timestamp, ctx: &Context) -> Duration {
    let wait = at.duration_since(ctx.reporter.clock.now());
    Duration::try_from(wait)
        .unwrap_or_default()
        .max(Duration::from_millis(50))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde_json::json;

    use super::*;
    use crate::api::EntraPostgresPrincipalStatus;
    use crate::cluster::testing::Answer;
    use crate::controller::index::{Index, Memory};
    use crate::controller::testing::{add_server, context, principal};
    use crate::model::{Look, ObjectId};
    use crate::ports::{AccessToken, TokenOrder, TokenSource, Urgency};

    /// Entra gives a token, and meanwhile the object changes.
    struct Meanwhile(Arc<Index>, Option<EntraPostgresPrincipal>);

    #[async_trait]
    impl TokenSource for Meanwhile {
        async fn token(&self, _: TokenOrder) -> Result<AccessToken, Failure> {
            if let Some(object) = &self.1 {
                self.0.upsert_principal(&Arc::new(object.clone()));
            }
            let id = ObjectId::parse("00000000-0000-0000-0000-000000000001").expect("an id");
            Ok(AccessToken::new("token".to_owned(), id, Timestamp::MAX))
        }
    }

    // Red when: `exchange` hands on a token whatever became of the object.
    #[tokio::test]
    async fn a_token_is_used_for_the_object_that_asked_for_it_only() {
        for (meanwhile, good) in [
            (None, true),
            (Some(principal("u1", 2)), false),
            (Some(principal("u2", 1)), false),
        ] {
            let (mut ctx, _) = context(|_| Answer::refusal(500, "InternalError", "no"));
            add_server(&ctx.index);
            let object = principal("u1", 1);
            ctx.index.upsert_principal(&Arc::new(object.clone()));
            ctx.tokens = Arc::new(Meanwhile(Arc::clone(&ctx.index), meanwhile));
            let desired = Desired::parse(&object).expect("parses");
            let wanted = desired.token.clone().expect("a token");
            let world = observe::observe(&desired, &object, &Memory::default(), &ctx).await;
            assert!(matches!(world.observed.role, Look::Unknown(_)));
            let urgency = Urgency::NeverIssued;
            let token = execute::exchange(&desired, &wanted, &world, urgency, &ctx).await;
            assert_eq!(token.is_ok(), good, "{token:?}");
        }
    }

    // Red when: `write` asks nothing, and the successor has the status of its predecessor.
    #[tokio::test]
    async fn a_late_pass_tells_its_successor_nothing() {
        let (ctx, seen) = context(|_| Answer::ok(json!(principal("u2", 1))));
        let (late, now) = (principal("u1", 1), principal("u2", 1));
        ctx.index.upsert_principal(&Arc::new(now.clone()));
        let status = EntraPostgresPrincipalStatus {
            observed_generation: Some(1),
            ..EntraPostgresPrincipalStatus::default()
        };
        report::write(&late, &status, None, &ctx).await;
        assert!(seen.requests().is_empty());
        report::write(&now, &status, None, &ctx).await;
        assert_eq!(seen.only().method, "PATCH");
    }

    // Red when: the series that a late pass put back stay.
    #[tokio::test]
    async fn the_end_of_a_late_pass_takes_its_series_away() {
        let (ctx, _) = context(|_| Answer::refusal(500, "InternalError", "no"));
        let object = principal("u1", 1);
        let metrics = &ctx.reporter.metrics;
        let shown = || metrics.text().contains("namespace=\"lab\"");
        let late = || metrics.token(&key_of(&object), Timestamp::MAX, Timestamp::MAX);
        ctx.index.upsert_principal(&Arc::new(object.clone()));
        late();
        forget_if_gone(&object, &ctx);
        assert!(shown());
        ctx.index.remove_principal(&object, &ctx.sessions);
        once(&object, &ctx).await;
        assert!(!shown(), "{}", metrics.text());
    }

    // Red when: a session that is not there yet is said to be a server that is not there.
    #[tokio::test(start_paused = true)]
    async fn a_deletion_after_a_start_waits_for_the_connection_and_not_for_the_server() {
        let (ctx, _) = context(|_| Answer::refusal(500, "InternalError", "no"));
        let object = principal("u1", 1);
        let desired = Desired::parse(&object).expect("parses");
        let ended = drop::drop_role(&object, &desired, &ctx).await;
        assert_eq!(
            ended.map(|_| ()).map_err(|f| f.reason),
            Err(Reason::ServerNotFound)
        );
        add_server(&ctx.index);
        let ended = drop::drop_role(&object, &desired, &ctx).await;
        assert_eq!(
            ended.map(|_| ()).map_err(|f| f.reason),
            Err(Reason::Connecting)
        );
    }
}
