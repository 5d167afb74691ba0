//! One server: its session is there as declared, and its status says what the session sees.

mod ending;

use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};

use super::feed::heartbeat;
use super::index::key_of;
use super::{Context, Never, beat, finalizers, guarded, log_note, result_of};
use crate::api::{EntraPostgresServer, EntraPostgresServerStatus, Unmanaged};
use crate::cluster::EventType;
use crate::model::report::{self, ServerFacts, ServerOutcome, notes};
use crate::model::{Class, DesiredServer, Failure, ObjectKey, Reason};
use crate::ports::{TokenOrder, Urgency};
use crate::postgres::{Session, SessionSpec, State, Timeouts};
use crate::telemetry::ObjectKind;

/// Totals of principals and unmanaged roles are written at most this often.
const TOTALS_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// A CA that somebody rotated is seen within this time.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(5);
/// The same while something is wrong.
const LOOK_AGAIN_FAILED: SignedDuration = SignedDuration::from_secs(25);

/// Brings one server's session to what is declared, and shows its state.
pub async fn reconcile(key: ObjectKey, ctx: Arc<Context>) -> Result<Action, Never> {
    if key == heartbeat() {
        return Ok(beat(ObjectKind::Server, &ctx).await);
    }
    let Some(object) = ctx.index.server_object(&key) else {
        return Ok(Action::await_change());
    };
    let work = Box::pin(once(&object, &ctx));
    Ok(guarded(ObjectKind::Server, &key, &ctx.reporter.metrics, work).await)
}

async fn once(object: &EntraPostgresServer, ctx: &Context) -> Action {
    let started = Instant::now();
    let key = key_of(object);
    if object.metadata.deletion_timestamp.is_some() {
        return ending::once(object, started, ctx).await;
    }
    let settled = finalizers::settle_server(&key, ctx).await;
    if let Err(failure) = &settled {
        tracing::warn!(object = %key, "could not settle the finalizer: {failure}");
    }
    let connected = match ctx.index.server(&key) {
        Some(Ok(server)) => connect(&server, false, ctx).await,
        Some(Err(failure)) => {
            ctx.sessions.remove(&key);
            Err(failure)
        }
        None => return Action::await_change(),
    };
    let wait = if connected.is_ok() && settled.is_ok() {
        LOOK_AGAIN
    } else {
        LOOK_AGAIN_FAILED
    };
    let outcome = ServerOutcome {
        connected,
        waits: None,
        principals: ctx.index.counts(&key),
    };
    told(object, &outcome, started, wait, ctx).await
}

/// Shows what became of one look, and says when the next one is due.
async fn told(
    object: &EntraPostgresServer,
    outcome: &ServerOutcome,
    started: Instant,
    wait: SignedDuration,
    ctx: &Context,
) -> Action {
    let again = show(object, outcome, ctx).await;
    let key = key_of(object);
    if ctx.index.server_object(&key).is_none() {
        // It went away meanwhile, and its series with it.
        ctx.reporter.metrics.forget(ObjectKind::Server, &key);
    }
    let failure = outcome.waits.as_ref().or(outcome.connected.as_ref().err());
    let result = result_of(failure);
    ctx.reporter
        .metrics
        .reconciled(ObjectKind::Server, result, started.elapsed());
    let now = ctx.reporter.clock.now();
    let status = ctx.index.server_status(object).0;
    let stalls = report::stalls_at(&status.conditions, now).map(|at| at.duration_since(now));
    let wait = again
        .into_iter()
        .chain(stalls)
        .fold(wait, SignedDuration::min);
    Action::requeue(wait.try_into().unwrap_or_default())
}

/// The session as declared. `ends`: the server is being deleted, and a session that is there goes on when
/// what it was made from can be read no more: it may have gone with the namespace.
async fn connect(
    server: &DesiredServer,
    ends: bool,
    ctx: &Context,
) -> Result<ServerFacts, Failure> {
    let spec = match spec(server, ctx).await {
        Ok(spec) => spec,
        Err(failure) if ends => return kept(&server.key, ctx).unwrap_or(Err(failure)),
        Err(failure) => {
            // A passing failure to read the CA is no reason to give up a good session. Nor is a CA that is
            // gone while roles are to be dropped: who deletes all at once may delete it before the server.
            let needed = failure.reason == Reason::CaInvalid && is_held(&server.key, ctx);
            if matches!(failure.class, Class::Invalid | Class::Denied) && !needed {
                ctx.sessions.remove(&server.key);
            }
            return Err(failure);
        }
    };
    let anew = proven_anew(server, ctx).await;
    let session = ctx.sessions.ensure(spec);
    if anew && matches!(session.state(), State::Failed(_)) {
        session.retry_now();
    }
    if (ctx.index).server_asked_anew(&server.uid, server.reconcile.as_deref()) {
        session.look_again();
    }
    if ctx.index.server(&server.key).is_none() {
        // The object went away while its CA was read.
        ctx.sessions.remove(&server.key);
        let message = format!("EntraPostgresServer {} was deleted", server.key);
        return Err(Failure::new(
            Class::Waiting,
            Reason::ServerNotFound,
            message,
        ));
    }
    facts(&session, &server.host, server.port)
}

/// What the session says that is there already, whatever is declared now.
fn kept(server: &ObjectKey, ctx: &Context) -> Option<Result<ServerFacts, Failure>> {
    let session = ctx.sessions.get(server)?;
    let object = ctx.index.server_object(server)?;
    let port = u16::try_from(object.spec.port).unwrap_or_default();
    Some(facts(&session, &object.spec.host, port))
}

fn is_held(server: &ObjectKey, ctx: &Context) -> bool {
    let object = ctx.index.server_object(server);
    object.is_some_and(|object| ctx.index.holds(object.as_ref()))
}

fn facts(session: &Session, host: &str, port: u16) -> Result<ServerFacts, Failure> {
    if let (State::Connected(_), Some(failure)) = (session.state(), session.unread()) {
        return Err(failure);
    }
    match session.state() {
        State::Connected(catalog) if catalog.read_only => Err(read_only(host)),
        State::Connected(catalog) => Ok(ServerFacts {
            version: catalog.version.clone(),
            administrator: catalog.administrator.clone(),
            unmanaged: Unmanaged {
                count: i64::from(catalog.unmanaged.count),
                names: catalog.unmanaged.names.clone(),
                group_members: i64::from(catalog.unmanaged.group_members),
            },
        }),
        State::Connecting => {
            let message = format!("connecting to {host}:{port}");
            Err(Failure::new(Class::Waiting, Reason::Connecting, message))
        }
        State::Failed(failure) => Err(failure),
    }
}

/// Whether a Secret or service account that proves an administrator has changed since the last
/// pass. Looked at only while there is no connection, and before it is tried: what changes during
/// an attempt is seen in the next pass.
async fn proven_anew(server: &DesiredServer, ctx: &Context) -> bool {
    let session = ctx.sessions.get(&server.key);
    if session.is_some_and(|session| matches!(session.state(), State::Connected(_))) {
        return false;
    }
    let mut proofs = Vec::new();
    for (_, identity) in &server.administrators {
        let namespace = &server.key.namespace;
        match ctx.cluster.source_version(namespace, identity).await {
            Ok(proof) => proofs.push(proof),
            Err(_) => return false,
        }
    }
    ctx.index.server_proven_anew(&server.uid, &proofs)
}

async fn spec(server: &DesiredServer, ctx: &Context) -> Result<SessionSpec, Failure> {
    let namespace = &server.key.namespace;
    for (_, identity) in &server.administrators {
        ctx.settings.identity_allowed(namespace, identity)?;
    }
    let roots = match &server.tls {
        Some(tls) => Some(ctx.cluster.read_ca(namespace, tls).await?),
        None => None,
    };
    let order = |identity: &crate::api::Identity| TokenOrder {
        namespace: namespace.clone(),
        identity: identity.clone(),
        cloud: Arc::clone(&server.cloud),
        urgency: Urgency::Administrator,
    };
    let administrators = server.administrators.iter();
    Ok(SessionSpec {
        server: server.key.clone(),
        host: server.host.clone(),
        port: server.port,
        roots,
        administrators: administrators
            .map(|(role, identity)| (role.clone(), order(identity)))
            .collect(),
        timeouts: Timeouts {
            connect: server.connect_timeout,
            statement: server.statement_timeout,
            lock: server.lock_timeout,
        },
        max_connections: server.max_connections,
        resync_interval: server.resync_interval,
    })
}

/// Writes the status if it differs; totals alone wait until ten seconds have passed since the last
/// write. Returns when to look again for that.
async fn show(
    object: &EntraPostgresServer,
    outcome: &ServerOutcome,
    ctx: &Context,
) -> Option<SignedDuration> {
    let now = ctx.reporter.clock.now();
    let uid = object.uid().unwrap_or_default();
    if !ctx.index.is_live_server(&uid) {
        // It is gone, and what has its name now is not what this is about.
        return None;
    }
    let (old, written) = ctx.index.server_status(object);
    let status = report::server(
        &old,
        object.metadata.generation.unwrap_or_default(),
        outcome,
        now,
    );
    let key = key_of(object);
    ctx.reporter
        .tell(ObjectKind::Server, &key, &status.conditions);
    if status == old {
        return None;
    }
    if let Some(wait) = written.and_then(|at| totals_wait(&old, &status, at, now)) {
        return Some(wait);
    }
    if let Err(failure) = ctx
        .cluster
        .apply_status::<EntraPostgresServer, _>(&key, &uid, &status)
        .await
    {
        // Who does not lead any more has nothing to write.
        if failure.reason != Reason::NotLeader {
            tracing::warn!(object = %key, "could not write the status: {failure}");
        }
        return Some(SignedDuration::from_secs(5));
    }
    ctx.index.wrote_server_status(object, status.clone(), now);
    for note in notes(&old.conditions, &status.conditions, None) {
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
    None
}

fn totals_wait(
    old: &EntraPostgresServerStatus,
    new: &EntraPostgresServerStatus,
    written: Timestamp,
    now: Timestamp,
) -> Option<SignedDuration> {
    let only_totals = without_totals(old) == without_totals(new);
    let wait = TOTALS_EVERY - now.duration_since(written);
    // More than that is left only where the clock was set back.
    let waits = wait.is_positive() && wait <= TOTALS_EVERY;
    (only_totals && waits).then_some(wait)
}

/// A status without what may change with every principal.
fn without_totals(status: &EntraPostgresServerStatus) -> EntraPostgresServerStatus {
    let mut rest = EntraPostgresServerStatus {
        principals: None,
        unmanaged: None,
        ..status.clone()
    };
    let waits = Reason::WaitingForPrincipals.to_string();
    for condition in &mut rest.conditions {
        if condition.reason == waits {
            condition.message.clear();
        }
    }
    rest
}

fn read_only(host: &str) -> Failure {
    let message = format!(
        "server {host} is a replica, in recovery or read-only: roles are managed on the primary; set \
         spec.host to the primary's name"
    );
    Failure::new(Class::Denied, Reason::ServerReadOnly, message)
}
