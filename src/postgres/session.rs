//! The handle of one server's session: cheap to clone, asks the session's task. Must not talk to
//! the server itself.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;

use crate::model::{
    Basis, Catalog, Class, DatabaseCatalog, DatabaseInterest, Failure, Interest, ObjectKey,
    PrivilegeStep, Reason, RoleName, RoleStep, RoleView,
};
use crate::ports::TokenOrder;

use super::clear::Cleared;
use super::connect::Timeouts;
use super::drop::DropOutcome;
use super::error::unreachable;
use super::inside::{ApplyInside, ClearInside, Errand, Inside, LookInside};
use super::shared::{Change, Command, DropRequest, Look, Phase, Shared, Status};
use super::stats::SessionStats;

/// Everything a session is made from; a change of it makes a new session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionSpec {
    /// The server object.
    pub server: ObjectKey,
    /// Host name, as given.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Certificates that the server's must chain to; `None`: the platform's.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// The administrators as whom to sign in, and how their tokens are got; tried in order.
    pub administrators: Vec<(RoleName, TokenOrder)>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Connections at most; at least one.
    pub max_connections: usize,
    /// How often a snapshot is taken.
    pub resync_interval: Duration,
}

impl SessionSpec {
    /// The server as people know it, for sentences.
    pub fn describe(&self) -> String {
        format!("server {} ({}:{})", self.server, self.host, self.port)
    }
}

/// What a session tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The state of that server's session is another one.
    StateChanged(ObjectKey),
    /// What people want to know of that server has changed: version, unmanaged roles.
    ServerChanged(ObjectKey),
    /// These roles changed, or their object ids changed hands, or something changed that their principals
    /// are interested in.
    RolesChanged(ObjectKey, BTreeSet<RoleName>),
}

/// What a change left: what is there now, and the steps that the server refused although it made the
/// others.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied<V, S> {
    /// What is there now.
    pub now: V,
    /// The steps that were refused, and why.
    pub refused: Vec<(S, Failure)>,
}

/// Whether what the catalog says is good enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// It is no older than the interval of snapshots.
    #[default]
    Catalog,
    /// Somebody knows better: the server is asked.
    ServerOnly,
}

/// How a session is.
#[derive(Clone, Debug)]
pub enum State {
    /// The first connection, or a new one after a loss, is being made.
    Connecting,
    /// Signed in; the newest catalog.
    Connected(Arc<Catalog>),
    /// Not signed in, and why; it is tried again.
    Failed(Failure),
}

/// The session of one server. A clone is the same session.
#[derive(Clone)]
pub struct Session {
    pub(super) shared: Arc<Shared>,
    /// Whose work it is sent for; namespaces take turns.
    pub(super) namespace: Arc<str>,
}

impl Session {
    /// The same session, for work of that namespace: namespaces take turns.
    #[must_use]
    pub fn of(self, namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            ..self
        }
    }

    /// The server object.
    pub fn server(&self) -> &ObjectKey {
        &self.shared.spec.server
    }

    /// The certificates that the server's must chain to; `None`: the platform's.
    pub fn roots(&self) -> Option<&[CertificateDer<'static>]> {
        self.shared.spec.roots.as_deref()
    }

    /// How the session is.
    pub fn state(&self) -> State {
        let Status { phase, catalog, .. } = self.shared.status.borrow().clone();
        match (phase, catalog) {
            (Phase::Failed(failure), _) => State::Failed(failure),
            (Phase::Connected, Some(catalog)) => State::Connected(catalog),
            (Phase::Connected | Phase::Connecting, _) => State::Connecting,
        }
    }

    /// The newest catalog there was, also while there is no connection.
    pub fn last_catalog(&self) -> Option<Arc<Catalog>> {
        self.shared.status.borrow().catalog.clone()
    }

    /// Why no snapshot could be taken of late, although the session serves: who looks asks the server.
    pub fn unread(&self) -> Option<Failure> {
        self.shared.status.borrow().unread.clone()
    }

    /// What the session has done so far.
    pub fn stats(&self) -> &SessionStats {
        &self.shared.stats
    }

    /// Does not wait any longer before the next attempt to connect.
    pub fn retry_now(&self) {
        self.shared.retry.notify_one();
    }

    /// Takes a snapshot of `postgres` and of every database in use now; a failed connection is tried again
    /// at once.
    pub fn look_again(&self) {
        if matches!(self.state(), State::Failed(_)) {
            self.shared.retry.notify_one();
        }
        // A session that has ended is made anew, and looks then.
        let _ = self.shared.commands.send(Command::Snapshot);
    }

    /// What the server has of this role, and of what its principal is interested in; not what is inside
    /// databases. From the catalog where that was asked, otherwise by a question. From now on every
    /// snapshot covers it all.
    pub async fn look(&self, role: &RoleName, interest: &Interest) -> Result<RoleView, Failure> {
        self.look_as(Trust::Catalog, role, interest).await
    }

    /// [`Session::look`], trusting the catalog or not.
    pub async fn look_as(
        &self,
        trust: Trust,
        role: &RoleName,
        interest: &Interest,
    ) -> Result<RoleView, Failure> {
        {
            let mut interests = self.shared.interests();
            let known = interests.entry(role.clone()).or_default();
            known.extend(interest);
            known.databases.clone_from(&interest.databases);
        }
        self.ready().await?;
        let known = |status: &Status| status.catalog.as_ref()?.view(role, interest);
        let known = known(&self.shared.status.borrow());
        if let (Some(view), Trust::Catalog) = (known, trust) {
            return self.bounded(role, view);
        }
        let (reply, answer) = oneshot::channel();
        let look = Look {
            role: role.clone(),
            interest: interest.clone(),
            anew: trust == Trust::ServerOnly,
            again: false,
            reply,
        };
        let view = self.command(Command::Look(look), answer).await?;
        self.bounded(role, view)
    }

    /// A role that has more than is read is not worked on: what it has would be taken for absent.
    fn bounded(&self, role: &RoleName, view: RoleView) -> Result<RoleView, Failure> {
        let Some(bytes) = view.role.as_ref().and_then(|facts| facts.too_large) else {
            return Ok(view);
        };
        let message = format!(
            "role {:?} on {} has more than the operator reads: its memberships, settings and privileges on databases take {bytes} bytes; a database administrator can take back what it does not need (most often memberships: SELECT count(*) FROM pg_auth_members WHERE member = {:?}::regrole)",
            role.as_str(),
            self.shared.spec.describe(),
            role.as_str(),
        );
        Err(Failure::new(
            Class::Denied,
            Reason::CatalogTooLarge,
            message,
        ))
    }

    /// Snapshots need not cover this role any more.
    pub fn forget(&self, role: &RoleName) {
        self.shared.interests().remove(role);
    }

    /// Makes these steps in database `postgres`, in one transaction, and returns what the role is then.
    /// If the server refuses, the rights (settings, memberships, privileges) are tried one by one after
    /// the rest. After a failure nothing is assumed: the next look asks the server. Where `basis` does not
    /// hold any more nothing is changed: `MarkerChanged`.
    pub async fn apply(
        &self,
        role: &RoleName,
        basis: Basis,
        steps: &[RoleStep],
        interest: &Interest,
    ) -> Result<Applied<RoleView, RoleStep>, Failure> {
        self.shared.gate.check()?;
        self.ready().await?;
        let (reply, answer) = oneshot::channel();
        let change = Change {
            namespace: self.namespace.clone(),
            locked: 0,
            role: role.clone(),
            basis,
            steps: steps.to_vec(),
            interest: interest.clone(),
            reply,
        };
        self.command(Command::Change(change), answer).await
    }

    /// What is in a database of what this role's principal is interested in, and what the role has
    /// there: from the catalog where that was asked, otherwise by a question. From now on every snapshot
    /// of the database covers this, and nothing that was asked for this role before.
    pub async fn look_inside(
        &self,
        role: &RoleName,
        database: &str,
        interest: &DatabaseInterest,
    ) -> Result<Arc<DatabaseCatalog>, Failure> {
        self.look_inside_as(Trust::Catalog, role, database, interest)
            .await
    }

    /// [`Session::look_inside`], trusting the catalog or not.
    pub async fn look_inside_as(
        &self,
        trust: Trust,
        role: &RoleName,
        database: &str,
        interest: &DatabaseInterest,
    ) -> Result<Arc<DatabaseCatalog>, Failure> {
        self.interested_inside(role, database, interest);
        self.ready().await?;
        let known = self.last_catalog();
        let known = known.and_then(|catalog| catalog.view_inside(role, database, interest));
        if let (Some(known), Trust::Catalog) = (known, trust) {
            return Ok(known);
        }
        let (reply, answer) = oneshot::channel();
        let look = Inside::Look(LookInside {
            role: role.clone(),
            interest: interest.clone(),
            again: false,
            reply,
        });
        let command = Command::Inside(database.to_owned(), Box::new(look));
        self.command(command, answer).await
    }

    /// Makes these steps in that database, in one transaction; see [`Session::apply`].
    pub async fn apply_inside(
        &self,
        role: &RoleName,
        basis: Basis,
        database: &str,
        steps: &[PrivilegeStep],
        interest: &DatabaseInterest,
    ) -> Result<Applied<Arc<DatabaseCatalog>, PrivilegeStep>, Failure> {
        self.shared.gate.check()?;
        self.interested_inside(role, database, interest);
        self.ready().await?;
        let (reply, answer) = oneshot::channel();
        let apply = Inside::Work(Errand::Apply(ApplyInside {
            namespace: self.namespace.clone(),
            locked: 0,
            role: role.clone(),
            basis,
            steps: steps.to_vec(),
            interest: interest.clone(),
            reply,
        }));
        let command = Command::Inside(database.to_owned(), Box::new(apply));
        self.command(command, answer).await
    }

    /// Clears a role whose comment has `ours` out of a database, so that it can be dropped.
    pub async fn clear_inside(
        &self,
        role: &RoleName,
        database: &str,
        ours: &str,
        reassign_to: Option<&RoleName>,
    ) -> Result<Cleared, Failure> {
        self.shared.gate.check()?;
        self.ready().await?;
        let (reply, answer) = oneshot::channel();
        let clear = Inside::Work(Errand::Clear(ClearInside {
            namespace: self.namespace.clone(),
            locked: 0,
            role: role.clone(),
            ours: ours.to_owned(),
            reassign_to: reassign_to.cloned(),
            reply,
        }));
        let command = Command::Inside(database.to_owned(), Box::new(clear));
        self.command(command, answer).await
    }

    fn interested_inside(&self, role: &RoleName, database: &str, interest: &DatabaseInterest) {
        let mut interests = self.shared.interests();
        let known = interests.entry(role.clone()).or_default();
        known
            .databases
            .insert(database.to_owned(), interest.clone());
    }

    /// Drops a role whose comment has `ours`: disables sign-in first, and drops only when nobody is
    /// signed in as it and nothing hangs on it. What it owns is in the way unless it `is_reassigned`
    /// by [`Session::clear_inside`]; what is in the way is the failure.
    pub async fn drop_role(
        &self,
        role: &RoleName,
        ours: &str,
        is_reassigned: bool,
    ) -> Result<DropOutcome, Failure> {
        self.shared.gate.check()?;
        self.ready().await?;
        let (reply, answer) = oneshot::channel();
        let request = DropRequest {
            namespace: self.namespace.clone(),
            locked: 0,
            role: role.clone(),
            ours: ours.to_owned(),
            is_reassigned,
            reply,
        };
        self.command(Command::Drop(request), answer).await
    }

    /// Waits for a connection that is being made, not for one that has failed.
    async fn ready(&self) -> Result<(), Failure> {
        let limit = self.shared.spec.timeouts.connect;
        let mut status = self.shared.status.subscribe();
        let decided = status.wait_for(|status| status.phase != Phase::Connecting);
        let phase = match tokio::time::timeout(limit, decided).await {
            Ok(Ok(status)) => status.phase.clone(),
            Ok(Err(_)) => return Err(self.ended()),
            Err(_) => Phase::Connecting,
        };
        match phase {
            Phase::Connected => Ok(()),
            Phase::Failed(failure) => Err(failure.to_principals_of(self.server())),
            Phase::Connecting => {
                let server = self.shared.spec.describe();
                let cause = format!("no connection after {limit:?}");
                Err(unreachable(
                    &server,
                    &format!("still connecting to {server}"),
                    &cause,
                ))
            }
        }
    }

    async fn command<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        if self.shared.commands.send(command).is_err() {
            return Err(self.ended());
        }
        let answer = answer.await.unwrap_or_else(|_| Err(self.ended()));
        answer.map_err(|failure| failure.to_principals_of(self.server()))
    }

    fn ended(&self) -> Failure {
        let server = self.shared.spec.describe();
        let message = format!(
            "the connections to {server} were closed, because its EntraPostgresServer changed; it is tried again"
        );
        Failure::new(Class::Transient, Reason::ServerUnreachable, message)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.shared.spec.server)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
