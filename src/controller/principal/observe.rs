//! Gathers what a principal's world looks like. Never fails: what cannot be known is said to be unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Resource;

use crate::api::{EntraPostgresPrincipal, Identity};
use crate::cluster::{SECRET_TYPE, SecretMeta, SecretRead};
use crate::controller::Context;
use crate::controller::index::{Memory, Verified, version};
use crate::model::failure::not_usable;
use crate::model::marker::Marker;
use crate::model::observed::{Login, Observed, Record};
use crate::model::report::{self, LOGIN_VERIFIED, READY};
use crate::model::secret::{
    Connection, Content, Layout, Present, SecretFacts, fingerprint, pem, was_made_before,
};
use crate::model::tenancy::{self, Allowance};
use crate::model::{
    Asked, Class, Desired, DesiredServer, DesiredToken, Failure, Interest, Look, ObjectId,
    ObjectKey, Reason, RoleView, ServerFacts, ending, rights,
};
use crate::postgres::{Session, Trust};

use super::source;

/// How long the first look at a principal waits for its server to be looked at.
pub(super) const AFTER_START: Duration = Duration::from_secs(5);

/// What was observed, and the handles it was observed through.
pub(super) struct World {
    pub(super) observed: Observed,
    pub(super) server: Option<Arc<DesiredServer>>,
    pub(super) session: Option<Session>,
    /// The Secret's metadata, if there is one.
    pub(super) secret: Option<SecretMeta>,
    /// The CA that the Secret tells of, if the server has one of its own.
    pub(super) ca: Look<String>,
    /// What was asked of the server beside the role.
    pub(super) interest: Interest,
    /// Whether the catalog is good enough.
    pub(super) trust: Trust,
}

pub(super) async fn observe(
    desired: &Desired,
    object: &EntraPostgresPrincipal,
    memory: &Memory,
    ctx: &Context,
) -> World {
    let record = record(object, ctx);
    let server = server(desired, ctx);
    let allowance = match &server {
        Ok(server) => allowance(server, desired, ctx).await,
        Err(failure) => Err(failure.clone()),
    };
    let session = match &server {
        // Else everything would be said to be unknown, and known again a moment later.
        Ok(_) if memory.fresh => {
            let sessions = &ctx.sessions;
            sessions.get_within(&desired.server, AFTER_START).await
        }
        _ => ctx.sessions.get(&desired.server),
    };
    let wanted = desired
        .object_id
        .as_ref()
        .or(record.object_id.as_ref())
        .cloned();
    let mut world = World {
        observed: Observed {
            server_ends: server_ends(&desired.server, ctx),
            identity_allowed: identity_allowed(desired, ctx),
            role: Look::Unknown(no_session(&desired.server, ctx)),
            marker_owner: None,
            holders: None,
            made_for: BTreeMap::new(),
            source: None,
            targets: BTreeMap::new(),
            databases: BTreeMap::new(),
            inside: BTreeMap::new(),
            server: ServerFacts::default(),
            secret: Look::Unknown(not_looked_at()),
            secrets: ctx.index.secrets_of(&desired.key.namespace, &desired.uid),
            record,
            token_object_id: None,
            role_hold: memory.role.hold.clone(),
            token_hold: memory.token.hold.clone(),
            login: login(desired, object, memory, ctx),
            allowance,
        },
        server: server.ok(),
        session,
        secret: None,
        ca: Look::Known(None),
        interest: Interest::default(),
        trust: if memory.asked_anew {
            Trust::ServerOnly
        } else {
            Trust::Catalog
        },
    };
    if world.observed.allowance.is_ok() && !desired.suspend {
        world.observed.source = source::object_id(desired, ctx).await;
        let has_published = ctx.index.status(object).binding.is_some();
        world.look_at_secret(desired, has_published, ctx).await;
        world.look_at_role(desired, wanted.as_ref(), ctx).await;
    }
    world
}

impl World {
    /// Looks at the role, at who has the wanted object id, and at all that its rights are about.
    pub(super) async fn look_at_role(
        &mut self,
        desired: &Desired,
        wanted: Option<&ObjectId>,
        ctx: &Context,
    ) {
        let Some(session) = self.session.clone() else {
            return;
        };
        self.interest = Interest::in_id(wanted);
        let source = self.observed.source.iter().flatten();
        self.interest.ids.extend(source.cloned());
        self.interest
            .extend(&rights::interest(desired, &Asked::default()));
        let mut view = session
            .look_as(self.trust, &desired.role, &self.interest)
            .await;
        if let Ok(seen) = &view {
            // What was asked for before is of interest too, and only the role's comment knows it.
            let asked = marker_of(seen).map(|marker| marker.asked);
            let mut whole = self.interest.clone();
            whole.extend(&rights::interest(desired, &asked.unwrap_or_default()));
            if whole != self.interest {
                self.interest = whole;
                view = session
                    .look_as(self.trust, &desired.role, &self.interest)
                    .await;
            }
        }
        match view {
            Ok(view) => {
                self.take(desired, view, ctx);
                self.look_inside(desired, &session).await;
            }
            Err(failure) => {
                self.observed.role = Look::Unknown(failure);
                self.observed.holders = session
                    .last_catalog()
                    .map(|catalog| catalog.holders_for(&desired.role, &self.interest.ids));
            }
        }
    }

    /// Looks at the role again: somebody changed its comment since it was looked at.
    pub(super) async fn look_past_the_catalog(&mut self, desired: &Desired, ctx: &Context) {
        let Observed {
            record,
            token_object_id,
            ..
        } = &self.observed;
        let wanted = (desired.object_id.as_ref()).or(record.object_id.as_ref());
        let wanted = wanted.or(token_object_id.as_ref()).cloned();
        let trust = std::mem::replace(&mut self.trust, Trust::ServerOnly);
        self.look_at_role(desired, wanted.as_ref(), ctx).await;
        self.trust = trust;
    }

    /// Takes in what the server has of the role now.
    pub(super) fn take(&mut self, desired: &Desired, view: RoleView, ctx: &Context) {
        self.observed.marker_owner =
            marker_of(&view).map(|marker| ctx.index.marker_owner(desired, &marker));
        self.observed.role = Look::Known(view.role);
        let others = view.holders.iter().filter_map(|(id, holder)| {
            let made_for = holder.made_for.as_ref()?;
            let owner = ctx.index.owner_of(&desired.uid, &holder.role, made_for);
            (holder.role != desired.role).then(|| (id.clone(), (made_for.key.clone(), owner)))
        });
        self.observed.made_for = others.collect();
        self.observed.holders = Some(view.holders);
        self.observed.targets = view.targets;
        self.observed.databases = view.databases;
        self.observed.server = view.server;
    }

    /// Looks into the databases in which privileges are declared, or were asked for.
    async fn look_inside(&mut self, desired: &Desired, session: &Session) {
        let wanted = self.interest.databases.iter();
        let there = wanted.filter(|(database, _)| {
            let entry = self.observed.databases.get(*database);
            entry.is_some_and(|entry| entry.connectable)
        });
        let looks = there.map(async |(database, interest)| {
            let inside = session
                .look_inside_as(self.trust, &desired.role, database, interest)
                .await;
            (database.clone(), inside)
        });
        self.observed.inside = futures::future::join_all(looks).await.into_iter().collect();
    }

    /// Looks at the Secret: at the watch's copy, and at the data only if that version was not seen yet.
    async fn look_at_secret(&mut self, desired: &Desired, has_published: bool, ctx: &Context) {
        let (Some(token), Some(server)) = (&desired.token, &self.server) else {
            self.observed.secret = Look::Known(None);
            return;
        };
        let namespace = &desired.key.namespace;
        self.ca = ca(token, server, self.session.as_ref());
        let key = ObjectKey::new(namespace, &token.secret);
        let meta = match ctx.index.secret(&key) {
            Some(meta) => Some(meta),
            // Not in the watch: it may lack our label, or be too new. Only the API server knows.
            None => match ctx.cluster.look_secret(namespace, &token.secret).await {
                Ok(found) => found,
                Err(failure) => {
                    self.observed.secret = Look::Unknown(failure);
                    return;
                }
            },
        };
        let Some(meta) = meta else {
            self.observed.secret = Look::Known(None);
            return;
        };
        let orphan = match orphan(desired, token, &meta, has_published, ctx).await {
            Ok(orphan) => orphan,
            Err(failure) => {
                self.observed.secret = Look::Unknown(failure);
                return;
            }
        };
        let (meta, orphan) = match orphan {
            Some(newest) => (newest, true),
            None => (meta, false),
        };
        let facts = if meta.controller_uid.as_ref() == Some(&desired.uid) {
            content(desired, token, server, &mut self.ca, meta, ctx).await
        } else {
            Ok(Some((meta, Content::Broken)))
        };
        self.observed.secret = match facts {
            Err(failure) => Look::Unknown(failure),
            Ok(None) => Look::Known(None),
            Ok(Some((meta, content))) => {
                let facts = SecretFacts {
                    uid: meta.uid.clone(),
                    resource_version: meta.resource_version.clone(),
                    controller: meta.controller_uid.clone(),
                    holder: meta.holder(),
                    namesake: is_namesake(desired, &meta),
                    orphan,
                    content,
                };
                self.secret = Some(meta);
                Look::Known(Some(facts))
            }
        };
    }
}

/// A Secret without an owner that was an earlier object's of this namespace and name, as it is now: only the
/// API server knows its type.
async fn orphan(
    desired: &Desired,
    token: &DesiredToken,
    meta: &SecretMeta,
    has_published: bool,
    ctx: &Context,
) -> Result<Option<SecretMeta>, Failure> {
    let was_ours = |meta: &SecretMeta| {
        let (identity, created) = (&token.identity, desired.created);
        meta.is_orphan() && was_made_before(&meta.annotations, identity, created, has_published)
    };
    // The watch keeps no annotations of Secrets.
    if !meta.is_orphan() {
        return Ok(None);
    }
    let namespace = &desired.key.namespace;
    let read = ctx.cluster.read_secret(namespace, &token.secret).await?;
    let ours = read.filter(|read| {
        was_ours(&read.meta) && read.meta.type_.as_deref() == Some(SECRET_TYPE) && !read.immutable
    });
    Ok(ours.map(|read| read.meta))
}

fn marker_of(view: &RoleView) -> Option<Marker> {
    let comment = view.role.as_ref()?.comment.as_deref()?;
    Marker::parse(comment)
}

/// Whether a Secret's controller has the kind and name of our object.
pub(super) fn is_namesake(desired: &Desired, meta: &SecretMeta) -> bool {
    meta.is_of(&EntraPostgresPrincipal::kind(&()), &desired.key.name)
}

/// How workloads connect, by what is declared.
pub(super) fn connection(
    desired: &Desired,
    token: &DesiredToken,
    server: &DesiredServer,
    ca: Option<&String>,
) -> Connection {
    Connection {
        host: token.host.as_ref().unwrap_or(&server.host).clone(),
        port: token.port.unwrap_or(server.port),
        database: token.database.clone(),
        user: desired.role.as_str().to_owned(),
        ca: ca.cloned(),
    }
}

/// The server's own CA. Unknown until the server object was looked at, or while its CA cannot be read:
/// what the Secret has of it stays then.
fn ca(token: &DesiredToken, server: &DesiredServer, session: Option<&Session>) -> Look<String> {
    let wanted = token.layout.as_ref().is_ok_and(Layout::wants_ca);
    if server.tls.is_none() || !wanted {
        return Look::Known(None);
    }
    match session.and_then(Session::roots) {
        Some(roots) => Look::Known(Some(pem(roots.iter().map(AsRef::as_ref)))),
        None => Look::Unknown(not_connected(&server.key)),
    }
}

/// What a Secret's data is compared with, as one text: a seen version need not be read again.
pub(super) fn inputs(layout: &Layout, connection: &Connection) -> String {
    fingerprint(&format!("{connection:?} {layout:?}"))
}

/// What is to be in the Secret; nothing while that cannot be.
pub(super) fn layout(token: &DesiredToken) -> Layout {
    token.layout.clone().unwrap_or_default()
}

/// A Secret as the model sees it.
pub(super) fn present(read: &SecretRead) -> Present {
    let pairs = read
        .keys()
        .map(|key| (key.to_owned(), read.get(key).unwrap_or_default().to_owned()));
    Present {
        data: pairs.collect(),
        labels: read.meta.labels.clone(),
        annotations: read.meta.annotations.clone(),
        written: read.written.clone(),
        immutable: read.immutable,
    }
}

/// Judges the data of a Secret of ours; reads it only if this version was not seen yet.
async fn content(
    desired: &Desired,
    token: &DesiredToken,
    server: &DesiredServer,
    ca: &mut Look<String>,
    meta: SecretMeta,
    ctx: &Context,
) -> Result<Option<(SecretMeta, Content)>, Failure> {
    let layout = layout(token);
    if let Look::Known(ca) = ca {
        let inputs = inputs(&layout, &connection(desired, token, server, ca.as_ref()));
        let seen = ctx.index.verified(&desired.uid);
        if let Some(seen) =
            seen.filter(|seen| seen.version == version(&meta) && seen.inputs == inputs)
        {
            return Ok(Some((meta, seen.content)));
        }
    }
    let Some(read) = ctx
        .cluster
        .read_secret(&desired.key.namespace, &token.secret)
        .await?
    else {
        return Ok(None);
    };
    let present = present(&read);
    if matches!(ca, Look::Unknown(_)) {
        *ca = layout.ca_in(&present.data);
    }
    let Look::Known(known) = ca else {
        // Without the CA nothing is known to differ.
        let record = present.token(&layout).map(|(record, _)| record);
        let content = record.map_or(Content::Broken, Content::Intact);
        return Ok(Some((read.meta, content)));
    };
    let connection = connection(desired, token, server, known.as_ref());
    let content = Content::judge(&present, &connection, &layout).labelled(read.meta.is_labelled());
    let verified = Verified {
        version: version(&read.meta),
        inputs: inputs(&layout, &connection),
        content: content.clone(),
    };
    ctx.index.verify(&desired.uid, verified);
    Ok(Some((read.meta, content)))
}

pub(super) fn record(object: &EntraPostgresPrincipal, ctx: &Context) -> Record {
    let role = ctx.index.status(object).role;
    Record {
        object_id: role
            .as_ref()
            .and_then(|role| ObjectId::parse(&role.object_id)),
        adopted: role.is_some_and(|role| role.adopted),
    }
}

/// What the status says of signing in, if it speaks of this Secret.
fn login(
    desired: &Desired,
    object: &EntraPostgresPrincipal,
    memory: &Memory,
    ctx: &Context,
) -> Login {
    let status = ctx.index.status(object);
    let secret = desired.token.as_ref().map(|token| &token.secret);
    let verified = status.binding.as_ref().map(|binding| &binding.name) == secret
        && report::is_true(&status.conditions, LOGIN_VERIFIED);
    Login {
        verified,
        hold: memory.login.hold.clone(),
    }
}

fn server(desired: &Desired, ctx: &Context) -> Result<Arc<DesiredServer>, Failure> {
    match ctx.index.server(&desired.server) {
        Some(Ok(server)) => Ok(server),
        Some(Err(failure)) => Err(failure.of_server(&desired.server)),
        None => {
            let message = format!(
                "EntraPostgresServer {} does not exist, or is in a namespace that the operator does \
                 not watch: make it, or correct spec.serverRef",
                desired.server
            );
            Err(Failure::new(Class::Denied, Reason::ServerNotFound, message))
        }
    }
}

/// The labels of the principal's namespace, if the server's tenants ask for them.
pub(super) async fn namespace_labels(
    server: &DesiredServer,
    desired: &Desired,
    ctx: &Context,
) -> Result<Arc<BTreeMap<String, String>>, Failure> {
    if tenancy::needs_labels(server) {
        ctx.cluster.namespace_labels(&desired.key.namespace).await
    } else {
        Ok(Arc::default())
    }
}

fn server_ends(server: &ObjectKey, ctx: &Context) -> Option<Failure> {
    let object = ctx.index.server_object(server)?;
    let ends = object.metadata.deletion_timestamp.is_some();
    ends.then(|| ending::no_new_role(server))
}

pub(super) async fn allowance(
    server: &DesiredServer,
    desired: &Desired,
    ctx: &Context,
) -> Result<Allowance, Failure> {
    let labels = namespace_labels(server, desired, ctx).await?;
    tenancy::check(server, desired, &labels)
}

fn identity_allowed(desired: &Desired, ctx: &Context) -> Result<(), Failure> {
    match &desired.token {
        Some(token) => {
            // First: no listing in the configuration would help.
            never_the_operators(&token.identity)?;
            ctx.settings
                .identity_allowed(&desired.key.namespace, &token.identity)?;
            if let Ok(layout) = &token.layout {
                ctx.settings.names_allowed(layout)?;
            }
            Ok(())
        }
        None => Ok(()),
    }
}

/// The operator's own identity is for servers only: whoever reads the Secret would be the operator.
fn never_the_operators(identity: &Identity) -> Result<(), Failure> {
    if identity.operator.is_none() {
        return Ok(());
    }
    Err(Failure::new(
        Class::Invalid,
        Reason::IdentityNotAllowed,
        "the operator's own identity (operator: {}) is for servers: its token is never written into a \
         Secret; give token.identity the workload's own identity",
    ))
}

/// Until somebody looks; what kept us from looking is reported instead.
fn not_looked_at() -> Failure {
    let message = "the Secret was not looked at";
    Failure::new(Class::Waiting, Reason::ServerNotReady, message)
}

/// Why there is no session: what the server object says, if it is refused.
fn no_session(server: &ObjectKey, ctx: &Context) -> Failure {
    let object = ctx.index.server_object(server);
    let status = object.map(|object| ctx.index.server_status(&object).0);
    let conditions = status.into_iter().flat_map(|status| status.conditions);
    let mut refused = conditions.filter(|it| it.type_ == READY && it.status == "False");
    let Some(why) = refused.next() else {
        return not_connected(server);
    };
    let message = not_usable(server, &why.reason, &why.message);
    Failure::new(Class::Waiting, Reason::ServerNotReady, message)
}

pub(super) fn not_connected(server: &ObjectKey) -> Failure {
    let message =
        format!("waiting for a connection to EntraPostgresServer {server}: see its conditions");
    Failure::new(Class::Waiting, Reason::Connecting, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::OperatorIdentity;

    #[test]
    fn a_token_of_the_operator_itself_is_for_no_secret() {
        let own = Identity {
            operator: Some(OperatorIdentity {}),
            ..Identity::default()
        };
        let refused = never_the_operators(&own).expect_err("refused");
        assert_eq!(refused.reason, Reason::IdentityNotAllowed);
        assert_eq!(never_the_operators(&Identity::default()), Ok(()));
    }
}
