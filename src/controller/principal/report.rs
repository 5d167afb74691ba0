//! Shows what became of a principal: status, event, metrics, one log line; and says when to look
//! again. The only writer of its status.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use crate::api::{EntraPostgresPrincipal, EntraPostgresPrincipalStatus, TokenStatus, VerifyLogin};
use crate::cluster::EventType;
use crate::controller::index::{Memory, key_of};
use crate::controller::{Context, log_note, result_of};
use crate::model::desired::RECONCILE;
use crate::model::observed::{Hold, RefusedStep};
use crate::model::plan::{Plan, due, is_due};
use crate::model::refresh::{is_clamped, longest_wait, look_at, not_yet, stays};
use crate::model::report::{self, LoginOutcome, Outcome, RoleChange, TokenOutcome, notes};
use crate::model::secret::{Content, SecretFacts, TokenRecord};
use crate::model::tries::is_told;
use crate::model::{Class, Desired, DesiredToken, Failure, Look, Reason};
use crate::telemetry::{Metrics, ObjectKind};

use super::execute::Done;
use super::observe::World;
use super::publish::Published;
use super::{Next, is_current, proof};

/// When a write is tried again that no condition speaks of.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// How long a token that was put back is not put back again.
const AFTER_LOSS: SignedDuration = SignedDuration::from_secs(5);

pub(super) async fn report(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    world: &World,
    plan: &Plan,
    done: Done,
    mut memory: Memory,
    ctx: &Context,
) -> Next {
    if !is_current(desired, ctx) && (done.role.is_err() || done.token.is_err()) {
        // Ended half-way: the next pass begins at once, if there is still an object.
        return Next::settled(None);
    }
    let now = ctx.reporter.clock.now();
    let settles = done
        .unsettled
        .then(|| now.checked_add(AGAIN).ok())
        .flatten();
    if desired.suspend {
        return suspended(object, desired, settles, ctx).await;
    }
    let Done {
        role,
        problems,
        notes: advice,
        refused,
        change,
        role_tried,
        token,
        token_tried,
        discarded,
        unsettled: _,
    } = done;
    let mut looks = vec![plan.next_look, settles];
    if let Err(failure) = discarded {
        tracing::warn!(object = %desired.key, "could not delete a Secret that is declared no more: {failure}");
        looks.push(now.checked_add(AGAIN).ok());
    }
    let shortfall = shortfall(
        desired,
        role.as_ref().err(),
        problems,
        refused,
        role_tried,
        (&mut memory, &mut looks),
        now,
    );
    let (login, waits) = token_looks(
        desired,
        (world, plan),
        (&token, token_tried),
        (&mut memory, &mut looks),
        now,
    );
    let published = token.as_ref().ok().and_then(Option::as_ref);
    if let Some(nothing_newer) = published.and_then(|published| nothing_newer(published, now)) {
        looks.push(nothing_newer.until);
        memory.token.hold = Some(nothing_newer);
    }
    if published.is_some() && was_lost(&world.observed.secret, &ctx.index.status(object)) {
        memory.token.hold = Some(after_loss(desired, now));
    }
    let written = published.is_some();
    let hold = memory.token.hold.as_ref();
    let rests = hold.and_then(|hold| hold.until);
    let nothing_newer_before = rests.filter(|_| hold.is_some_and(|hold| hold.failure.is_none()));
    let present = published
        .map(|published| published.record.clone())
        .or_else(|| present(desired, world));
    let failures = memory.token.failures;
    ctx.index.remember(&desired.uid, memory);
    let ended = present.clone().filter(|record| record.expires_at <= now);
    let present = present.filter(|_| ended.is_none());
    let due_at = present.as_ref().and_then(|record| due(desired, record));
    let due_at = due_at.map(|due| rests.map_or(due, |until| due.max(until)));
    looks.push(due_at.and_then(|due| look_at(due, written, now)));
    let old = ctx.index.status(object);
    let known = Known {
        old: &old,
        unseen: matches!(world.observed.secret, Look::Unknown(_)),
        present,
        ended,
        failures,
        nothing_newer_before,
    };
    let wanted = desired.token.as_ref();
    let token = wanted
        .map(|wanted| known.outcome((desired, wanted), (token.err(), waits), login, now, ctx));
    count_token(desired, token.as_ref(), failures, &ctx.reporter.metrics);
    let outcome = Outcome {
        role,
        shortfall,
        advice,
        token,
        change,
    };
    let result = result_of(outcome.role_failure().or(outcome.token_failure()));
    let status = report::principal(&old, desired.generation, &outcome, now);
    looks.push(write(object, &status, change, ctx).await);
    Next {
        at: looks.into_iter().flatten().min(),
        result,
    }
}

/// What is known of a token after a pass.
struct Known<'a> {
    old: &'a EntraPostgresPrincipalStatus,
    /// The Secret could not be looked at.
    unseen: bool,
    present: Option<TokenRecord>,
    ended: Option<TokenRecord>,
    failures: u32,
    /// Who gave it has no other before.
    nothing_newer_before: Option<Timestamp>,
}

impl Known<'_> {
    fn outcome(
        self,
        (desired, wanted): (&Desired, &DesiredToken),
        (failed, waits): (Option<Failure>, Option<Failure>),
        login: Option<LoginOutcome>,
        now: Timestamp,
        ctx: &Context,
    ) -> TokenOutcome {
        let Self {
            old,
            unseen,
            present,
            ended,
            failures,
            nothing_newer_before,
        } = self;
        let early = failures == 0
            && (present.as_ref()).is_some_and(|record| is_early(now, due(desired, record), record));
        let advice = present.as_ref().and_then(|record| clamped(desired, record));
        let none = present.is_none() && ended.is_none();
        let secret = report::secret_of(old, &wanted.secret, none && failed.is_some());
        let elsewhere = unseen || (none && secret != wanted.secret);
        let status = |record| token_status(desired, &record, failures, nothing_newer_before, ctx);
        TokenOutcome {
            secret: secret.to_owned(),
            present: (present.and_then(status))
                .or_else(|| report::last_seen(old, secret, now).filter(|_| elsewhere))
                .or_else(|| none_yet(failures)),
            ended: (ended.and_then(status))
                .or_else(|| report::ended(old, secret, now).filter(|_| elsewhere)),
            failure: (failed.or(waits)).filter(|failure| !(early && is_told(failure))),
            advice,
            login,
        }
    }
}

/// The series of a token: those of one that has ended stay, or the alerts on them would end with it.
fn count_token(desired: &Desired, token: Option<&TokenOutcome>, failures: u32, metrics: &Metrics) {
    let seen = |token: &TokenOutcome| {
        let status = token.ended.as_ref().or(token.present.as_ref());
        status.and_then(|status| status.expires_at.clone())
    };
    if token.and_then(seen).is_none() {
        metrics.forget_token(&desired.key);
    }
    if token.is_some() {
        metrics.token_failures(&desired.key, failures);
    }
}

/// What of the role's rights is not as declared; notes when to try again.
fn shortfall(
    desired: &Desired,
    failed: Option<&Failure>,
    problems: Vec<Failure>,
    refused: Vec<(RefusedStep, Failure)>,
    tried: bool,
    (memory, looks): (&mut Memory, &mut Vec<Option<Timestamp>>),
    now: Timestamp,
) -> Option<Failure> {
    let (steps, refusals): (Vec<_>, Vec<_>) = refused.into_iter().unzip();
    let refusal = together(&refusals);
    let problems: Vec<Failure> = problems.into_iter().chain(refusal.clone()).collect();
    let shortfall = together(&problems);
    let failed = refusal.as_ref().or(failed).or(shortfall.as_ref());
    let tried = tried || refusal.is_some();
    looks.push(memory.role.after(failed, tried, now, &desired.uid));
    if let Some(hold) = memory.role.hold.as_mut().filter(|_| !steps.is_empty()) {
        hold.refused = steps;
    }
    shortfall
}

/// What is to be said of the sign-in, and of a renewal that still rests; notes when to try again.
fn token_looks(
    desired: &Desired,
    (world, plan): (&World, &Plan),
    (token, tried): (&Result<Option<Published>, Failure>, bool),
    (memory, looks): (&mut Memory, &mut Vec<Option<Timestamp>>),
    now: Timestamp,
) -> (Option<LoginOutcome>, Option<Failure>) {
    let most = present(desired, world).map(|record| longest_wait(now, record.expires_at));
    let failed = token.as_ref().err();
    let renews = present(desired, world).is_some_and(|record| is_due(desired, &record, now));
    let rested = match plan.token {
        Ok(Some(step)) if failed.is_none() => memory.token.beside(step, renews, now),
        _ => None,
    };
    let waits = rested
        .clone()
        .filter(|_| renews)
        .and_then(|hold| hold.failure);
    looks.push(match rested {
        Some(hold) => hold.until,
        None => (memory.token).after_within(failed, tried, now, &desired.uid, most),
    });
    let login = login((desired, world), token, tried);
    if let Some(LoginOutcome::Tried(signed_in)) = &login {
        let failed = signed_in.as_ref().err();
        looks.push(memory.login.after(failed, true, now, &desired.uid));
    }
    looks.push(proof::next_look(memory.token.hold.as_ref(), now));
    (login, waits)
}

/// Both halves are let be; only the finalizer follows what is declared.
async fn suspended(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    settles: Option<Timestamp>,
    ctx: &Context,
) -> Next {
    let now = ctx.reporter.clock.now();
    let status = report::suspended(&ctx.index.status(object), desired.generation, now);
    let token = status.token.as_ref().filter(|_| desired.token.is_some());
    let times =
        token.and_then(|token| Some((token.expires_at.as_ref()?, token.renew_at.as_ref()?)));
    let metrics = &ctx.reporter.metrics;
    match times {
        Some((Time(expires), Time(renew))) => metrics.token(&desired.key, *expires, *renew),
        None => metrics.forget_token(&desired.key),
    }
    let written = write(object, &status, None, ctx).await;
    Next::settled(written.into_iter().chain(settles).min())
}

/// What is to be said of the sign-in after this pass.
fn login(
    (desired, world): (&Desired, &World),
    token: &Result<Option<Published>, Failure>,
    tried: bool,
) -> Option<LoginOutcome> {
    let wanted = desired.token.as_ref()?;
    let verify = wanted.verify;
    (verify != VerifyLogin::Never).then(|| match token {
        Ok(Some(Published {
            login: Some(login), ..
        })) => LoginOutcome::Tried(login.clone().map(|()| place(wanted, world))),
        Err(failure) if tried && failure.reason == Reason::LoginRefused => {
            LoginOutcome::Tried(Err(failure.clone()))
        }
        _ => LoginOutcome::AsBefore,
    })
}

/// Where a sign-in was tried, and where the Secret sends workloads without one.
fn place(token: &DesiredToken, world: &World) -> String {
    let Some(server) = &world.server else {
        return "the server".to_owned();
    };
    let tried = format!("{}:{}", server.host, server.port);
    let host = token.host.as_ref().unwrap_or(&server.host);
    let told = format!("{host}:{}", token.port.unwrap_or(server.port));
    if told == tried {
        return tried;
    }
    format!("{tried}; at token.endpoint, {told}, none was tried")
}

/// In the first quarter of the time that was planned for a renewal it may wait in silence: a short
/// outage of Entra is not worth a write to each object.
fn is_early(now: Timestamp, due: Option<Timestamp>, record: &TokenRecord) -> bool {
    due.is_some_and(|due| {
        let planned = record.ends_here().duration_since(due);
        now.duration_since(due) < planned / 4
    })
}

/// The exchange brought the token that was there: when to look again.
fn nothing_newer(published: &Published, now: Timestamp) -> Option<Hold> {
    published.not_yet.then(|| Hold {
        until: Some(not_yet(now, published.record.expires_at)),
        failure: None,
        refused: Vec::new(),
    })
}

/// Says that more time was declared than the token lives, or almost as much.
fn clamped(desired: &Desired, record: &TokenRecord) -> Option<String> {
    let renew = desired.token.as_ref()?.renew;
    let life = record.ends_here().duration_since(record.issued_at);
    let clamped = is_clamped(record.issued_at, record.ends_here(), renew).then(|| {
        format!(
            "token.renewBefore is not less than the token's life of {life:#}: it counts as two thirds of that"
        )
    });
    clamped.or_else(|| {
        let stays = stays(record.issued_at, record.ends_here(), renew)?.as_secs();
        Some(format!(
            "token.renewBefore is almost the token's life of {life:#}: a token stays for {stays}s at least"
        ))
    })
}

/// Only that there were failures: it survives a restart.
fn none_yet(failures: u32) -> Option<TokenStatus> {
    (failures > 0).then(|| TokenStatus {
        failures: Some(i32::try_from(failures).unwrap_or(i32::MAX)),
        ..TokenStatus::default()
    })
}

/// An object that cannot be parsed.
pub(super) async fn refused(
    object: &EntraPostgresPrincipal,
    failure: &Failure,
    ctx: &Context,
) -> Next {
    let generation = object.metadata.generation.unwrap_or_default();
    let outcome = Outcome {
        role: Err(failure.clone()),
        shortfall: None,
        advice: Vec::new(),
        token: None,
        change: None,
    };
    let now = ctx.reporter.clock.now();
    let status = report::principal(&ctx.index.status(object), generation, &outcome, now);
    let at = write(object, &status, None, ctx).await;
    Next {
        at,
        result: result_of(Some(failure)),
    }
}

/// A deletion that waits, and why.
pub(super) async fn waiting(
    object: &EntraPostgresPrincipal,
    failure: &Failure,
    ctx: &Context,
) -> Next {
    let uid = object.uid().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default();
    let now = ctx.reporter.clock.now();
    let asked = object.annotations().get(RECONCILE).map(String::as_str);
    let mut memory = ctx.index.memory(&uid, generation, asked);
    let next = memory.role.after(Some(failure), true, now, &uid);
    ctx.index.remember(&uid, memory);
    let outcome = Outcome {
        role: Err(failure.clone()),
        shortfall: None,
        advice: Vec::new(),
        token: None,
        change: None,
    };
    let status = report::principal(&ctx.index.status(object), generation, &outcome, now);
    let written = write(object, &status, None, ctx).await;
    Next {
        at: next.into_iter().chain(written).min(),
        result: result_of(Some(failure)),
    }
}

/// Writes the status if it differs, then tells about the transition. Returns when to look again for what is
/// shown: at the end of a token that lives, whatever else is waited for; when what is not well becomes Stalled;
/// and soon if it could not be written.
pub(super) async fn write(
    object: &EntraPostgresPrincipal,
    status: &EntraPostgresPrincipalStatus,
    change: Option<RoleChange>,
    ctx: &Context,
) -> Option<Timestamp> {
    let key = key_of(object);
    let uid = object.uid().unwrap_or_default();
    if !ctx.index.is_live(&uid) {
        // It is gone, and what has its name now is not what this is about.
        return None;
    }
    let old = ctx.index.status(object);
    ctx.reporter
        .tell(ObjectKind::Principal, &key, &status.conditions);
    if old != *status {
        let written = ctx
            .cluster
            .apply_status::<EntraPostgresPrincipal, _>(&key, &uid, status)
            .await;
        if let Err(failure) = written {
            if failure.reason != Reason::NotLeader {
                tracing::warn!(object = %key, "could not write the status: {failure}");
            }
            return ctx.reporter.clock.now().checked_add(AGAIN).ok();
        }
        ctx.index.wrote_status(object, status.clone());
    }
    for note in notes(&old.conditions, &status.conditions, change) {
        let type_ = if note.warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        log_note(&key, &note);
        let reference = object.object_ref(&());
        ctx.reporter
            .events
            .publish(&reference, type_, &note.reason, "Reconcile", &note.note)
            .await;
    }
    let now = ctx.reporter.clock.now();
    let stalls = report::stalls_at(&status.conditions, now);
    let ends = report::token_ends(status, now);
    stalls.into_iter().chain(ends).min()
}

fn present(desired: &Desired, world: &World) -> Option<TokenRecord> {
    match &world.observed.secret {
        Look::Known(Some(facts)) if facts.controller.as_ref() == Some(&desired.uid) => {
            facts.content.record().cloned()
        }
        _ => None,
    }
}

/// Whether a token that was there once had been taken away or overwritten.
fn was_lost(secret: &Look<SecretFacts>, status: &EntraPostgresPrincipalStatus) -> bool {
    match secret {
        Look::Known(Some(facts)) => facts.content == Content::Broken,
        Look::Known(None) => status.binding.is_some(),
        Look::Unknown(_) => false,
    }
}

/// Who overwrites a Secret again and again must not have Entra asked each time: that would slow
/// down everybody. The first time it is put back at once.
fn after_loss(desired: &Desired, now: Timestamp) -> Hold {
    let message = format!(
        "the Secret with the token of {} was overwritten or deleted again within seconds; it is \
         written again soon: find out who does that",
        desired.key
    );
    Hold {
        until: now.checked_add(AFTER_LOSS).ok(),
        failure: Some(Failure::new(
            Class::Waiting,
            Reason::SecretOverwritten,
            message,
        )),
        refused: Vec::new(),
    }
}

/// One failure out of several: the first that somebody has to act on gives the reason, before what may
/// heal and what passes.
fn together(failures: &[Failure]) -> Option<Failure> {
    let acts = |failure: &&Failure| failure.needs_action();
    let refused = |failure: &&Failure| matches!(failure.class, Class::Invalid | Class::Denied);
    let first = failures.iter().find(acts);
    let first = first.or_else(|| failures.iter().find(refused));
    let first = first.or(failures.first())?.clone();
    let others = failures.iter().filter(|failure| **failure != first);
    let said: Vec<&str> = std::iter::once(&first)
        .chain(others)
        .map(|failure| failure.message.as_str())
        .collect();
    Some(Failure {
        message: said.join("; "),
        ..first.clone()
    })
}

/// A token that lives, told to the metrics too.
fn token_status(
    desired: &Desired,
    record: &TokenRecord,
    failures: u32,
    nothing_newer_before: Option<Timestamp>,
    ctx: &Context,
) -> Option<TokenStatus> {
    let due = due(desired, record)?;
    let metrics = &ctx.reporter.metrics;
    let awaited = nothing_newer_before.map_or(due, |before| before.max(due));
    metrics.token(&desired.key, record.expires_at, awaited);
    let second = |time: Timestamp| Time(Timestamp::from_second(time.as_second()).unwrap_or(time));
    Some(TokenStatus {
        issued_at: Some(second(record.issued_at)),
        expires_at: Some(second(record.expires_at)),
        renew_at: Some(second(due)),
        failures: (failures > 0).then(|| i32::try_from(failures).unwrap_or(i32::MAX)),
    })
}
