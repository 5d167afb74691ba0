//! Drops a principal's role: cleared out of each database that knows it, what it owns given away if that
//! is declared, then dropped. Data is never dropped, and a role that is not ours is never touched.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{DeletionPolicy, EntraPostgresPrincipal};
use crate::controller::Context;
use crate::model::ending::ABANDON;
use crate::model::marker::{Came, Marker};
use crate::model::observed::MarkerOwner;
use crate::model::plan::{
    Evidence, evidence, gave_all, how_to_restore, marker_in, restores, shut_by_others,
};
use crate::model::tenancy::Allowance;
use crate::model::{
    Asked, Class, Desired, DesiredServer, Failure, Interest, ObjectId, Reason, RoleFacts, RoleName,
    RoleStep, tenancy,
};
use crate::postgres::{Cleared, DropOutcome, Session, Trust};

use super::observe::{AFTER_START, allowance, namespace_labels, not_connected, record};

/// How a deletion ended.
pub(super) enum Ended {
    /// There is no such role on the server any more.
    Gone,
    /// It stays, and why.
    Left(String),
}

pub(super) async fn drop_role(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    ctx: &Context,
) -> Result<Ended, Failure> {
    let Some(server) = ctx.index.server(&desired.server) else {
        return Err(no_server(desired));
    };
    let server = server.map_err(|failure| failure.of_server(&desired.server))?;
    // After a start it is made while this is looked at: the server is there all the same.
    let session = ctx.sessions.get_within(&desired.server, AFTER_START).await;
    let session = session.ok_or_else(|| not_connected(&desired.server))?;
    let session = session.of(&desired.key.namespace);
    let heir = heir(desired);
    let interest = Interest {
        targets: heir.into_iter().cloned().collect(),
        ..Interest::default()
    };
    // What a snapshot saw a while ago is not good enough for what cannot be undone.
    let view = session
        .look_as(Trust::ServerOnly, &desired.role, &interest)
        .await?;
    let Some(role) = view.role else {
        return Ok(Ended::Gone);
    };
    let recorded = record(object, ctx).object_id;
    let discard = server.discard.get(&desired.key);
    let found = marker_in(desired, &role, discard)?;
    let found = found.filter(|marker| marker.is_of(role.oid));
    let found = found.map(|marker| {
        let ours = ctx.index.marker_owner(desired, &marker) == MarkerOwner::Us;
        let evidence = evidence(&role, &marker, recorded.as_ref()).filter(|_| ours);
        (marker, evidence)
    });
    let (marker, evidence) = match found {
        Some((marker, Some(evidence))) => (marker, evidence),
        None if is_remembered(recorded.as_ref(), &role) => {
            let marker = Marker {
                role_oid: role.oid.to_string(),
                came: recorded.as_ref().map(Came::recorded),
                restored: (server.restore.get(&desired.key))
                    .or(desired.restore.as_ref())
                    .cloned(),
                ..Marker::new(
                    ctx.index.cluster_id(),
                    &desired.key,
                    &desired.uid,
                    recorded.as_ref(),
                )
            };
            let mark = [RoleStep::Mark(marker.to_comment())];
            session
                .apply(&desired.role, role.basis(), &mark, &interest)
                .await?;
            (marker, Evidence::Whole)
        }
        // Never touched: what is there now was not made for this object.
        _ => {
            return Ok(Ended::Left(format!(
                "role {:?} stays on server {}: its comment, its Entra label and status.role of this \
                 object do not agree that it is this object's",
                desired.role.as_str(),
                desired.server
            )));
        }
    };
    let given = (evidence == Evidence::Whole).then_some(&marker.asked);
    let labels = namespace_labels(&server, desired, ctx).await?;
    let allowance = tenancy::check_deletion(&server, desired, &labels)?;
    not_protected(&server, desired, &role, given, ctx).await?;
    not_shut(desired, &role, &marker, &allowance)?;
    let target = heir.and_then(|heir| view.targets.get(heir));
    if target.is_some_and(|heir| heir.administrator) {
        return Err(heir_protected(desired));
    }
    clear_and_drop(&session, desired).await?;
    session.forget(&desired.role);
    Ok(Ended::Gone)
}

/// A drop that is called off: a role that we closed for it may sign in again.
pub(super) async fn reopen(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    ctx: &Context,
) -> Result<(), Failure> {
    let session = ctx.sessions.get(&desired.server);
    let session = session.ok_or_else(|| not_connected(&desired.server))?;
    let session = session.of(&desired.key.namespace);
    let interest = Interest::default();
    let look = session.look_as(Trust::ServerOnly, &desired.role, &interest);
    let Some(role) = look.await?.role else {
        return Ok(());
    };
    let recorded = record(object, ctx).object_id;
    let Some(marker) = marker_in(desired, &role, None)?.filter(|marker| marker.is_of(role.oid))
    else {
        return Ok(());
    };
    let ours = ctx.index.marker_owner(desired, &marker) == MarkerOwner::Us
        && evidence(&role, &marker, recorded.as_ref()).is_some();
    if !ours || !marker.closed || role.can_login || !desired.attributes.login {
        return Ok(());
    }
    let open = Marker {
        closed: false,
        ..marker
    };
    let steps = [RoleStep::Mark(open.to_comment()), RoleStep::Open];
    let done = session.apply(&desired.role, role.basis(), &steps, &interest);
    done.await.map(|_| ())
}

/// Who gets what the role owns, if that is declared.
fn heir(desired: &Desired) -> Option<&RoleName> {
    let heir = desired.reassign_to.as_ref();
    heir.filter(|_| desired.deletion == DeletionPolicy::Reassign)
}

/// A marker that somebody took away: the status and the label still agree.
fn is_remembered(recorded: Option<&ObjectId>, role: &RoleFacts) -> bool {
    let label = role.label.as_ref().map(|label| &label.object_id);
    let marker = role.comment.as_deref().and_then(Marker::parse);
    recorded.is_some() && recorded == label && marker.is_none()
}

async fn clear_and_drop(session: &Session, desired: &Desired) -> Result<(), Failure> {
    let is_reassigned = desired.deletion == DeletionPolicy::Reassign;
    let (role, ours) = (&desired.role, desired.uid.as_str());
    let DropOutcome::Hangs(databases) = session.drop_role(role, ours, is_reassigned).await? else {
        return Ok(());
    };
    let cleared = clear(session, desired, databases).await?;
    match session.drop_role(role, ours, is_reassigned).await? {
        DropOutcome::Dropped | DropOutcome::AlreadyAbsent => Ok(()),
        DropOutcome::Hangs(databases) => Err(still_hangs(desired, &databases, &cleared)),
    }
}

/// One database after the other, as they share what is not in any of them. A database that cannot be
/// worked in holds the others up in nothing.
async fn clear(
    session: &Session,
    desired: &Desired,
    databases: BTreeSet<String>,
) -> Result<BTreeMap<String, Cleared>, Failure> {
    let heir = heir(desired);
    let mut done = BTreeMap::new();
    let mut failed = None;
    for database in databases {
        let cleared = session
            .clear_inside(&desired.role, &database, &desired.uid, heir)
            .await;
        match cleared {
            Ok(cleared) => {
                done.insert(database, cleared);
            }
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    failed.map_or(Ok(done), Err)
}

/// What could not be taken away, in words.
fn still_hangs(
    desired: &Desired,
    databases: &BTreeSet<String>,
    cleared: &BTreeMap<String, Cleared>,
) -> Failure {
    let place = |database: &String| {
        let none = Cleared::default();
        let Cleared {
            owned,
            left,
            left_in_all,
        } = cleared.get(database).unwrap_or(&none);
        let mut things = left.clone();
        let more = left_in_all.saturating_sub(left.len() as u64);
        if more > 0 {
            things.push(format!("{more} more"));
        }
        if *owned > 0 {
            things.push(format!("{owned} object(s) that it owns"));
        }
        if things.is_empty() {
            things.push("something given meanwhile".to_owned());
        }
        format!("in database {database:?} {}", things.join("; "))
    };
    let places: Vec<String> = databases.iter().map(place).collect();
    let owns = cleared.values().any(|cleared| cleared.owned > 0);
    let reason = if owns {
        Reason::RoleOwnsObjects
    } else {
        Reason::NotRevocable
    };
    let message = format!(
        "role {:?} on server {} is not dropped: what is left cannot be taken away by the operator's \
         administrator: {}. A database administrator must do it (REVOKE, as who gave it; ALTER POLICY; \
         DROP USER MAPPING); sign-in is disabled; annotation {ABANDON}: \"true\" leaves the role on the \
         server",
        desired.role.as_str(),
        desired.server,
        places.join(", ")
    );
    Failure::new(Class::Denied, reason, message)
}

fn no_server(desired: &Desired) -> Failure {
    let message = format!(
        "the deletion waits for EntraPostgresServer {}, which is needed to drop role {:?}: make it \
         again, or set annotation {ABANDON}: \"true\" to leave the role on the server",
        desired.server,
        desired.role.as_str()
    );
    Failure::new(Class::Waiting, Reason::ServerNotFound, message)
}

/// What an administrator owns may run with its rights.
fn heir_protected(desired: &Desired) -> Failure {
    let message = format!(
        "role {:?} on server {} is not dropped: reassignOwnedTo names an Entra administrator of the \
         server, which is never given what others own; choose another role",
        desired.role.as_str(),
        desired.server
    );
    Failure::new(Class::Denied, Reason::RoleProtected, message)
}

/// Dropped and made again it could sign in: a kill switch that nobody would know of any more.
fn not_shut(
    desired: &Desired,
    role: &RoleFacts,
    marker: &Marker,
    allowance: &Allowance,
) -> Result<(), Failure> {
    if !shut_by_others(desired, role, marker) || restores(allowance, marker) {
        return Ok(());
    }
    let message = format!(
        "role {:?} on server {} is not dropped: a database administrator set it to NOLOGIN, and made \
         again it could sign in. They drop it, or {}; annotation {ABANDON}: \"true\" leaves the role as it \
         is on the server",
        desired.role.as_str(),
        desired.server,
        how_to_restore(desired, allowance)
    );
    Err(Failure::new(
        Class::Denied,
        Reason::LoginDisabledOnServer,
        message,
    ))
}

/// A role that has become an administrator's, or has got administrative rights that its object did not
/// ask for, is dropped only if the server's owner names it literally, or if it was declared an
/// administrator. `given`: what the object asked for; `None`: that is not sure, nor is the declaration
/// worth anything.
async fn not_protected(
    server: &DesiredServer,
    desired: &Desired,
    role: &RoleFacts,
    given: Option<&Asked>,
    ctx: &Context,
) -> Result<(), Failure> {
    let label = role.label.as_ref();
    let administrator = label.is_some_and(|label| label.admin);
    let has = administrator || role.is_administrative();
    if !has || given.is_some_and(|given| desired.admin || gave_all(role, given)) {
        return Ok(());
    }
    let literal = allowance(server, desired, ctx).await?.literal;
    if literal && !administrator {
        return Ok(());
    }
    let message = format!(
        "role {:?} on server {} has got administrative rights and is not dropped: take them away, or \
         set annotation {ABANDON}: \"true\" to leave the role on the server",
        desired.role.as_str(),
        desired.server
    );
    Err(Failure::new(Class::Denied, Reason::RoleProtected, message))
}
