//! What a session's handle and its task share: the state that both see, and what the one asks of the
//! other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use crate::clock::SystemClock;
use crate::model::{
    Basis, Catalog, Class, Failure, Interest, ObjectId, Reason, RoleName, RoleStep, RoleView,
};
use crate::ports::{AccessToken, Clock as _, TokenSource, WriteGate};

use super::drop::DropOutcome;
use super::inside::Inside;
use super::session::{Applied, SessionEvent, SessionSpec};
use super::stats::SessionStats;

/// A token that ends sooner is not used for a sign-in any more.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);

/// What handle and task share.
pub(super) struct Shared {
    pub spec: SessionSpec,
    pub platform_roots: Arc<Vec<CertificateDer<'static>>>,
    pub tokens: Arc<dyn TokenSource>,
    pub gate: Arc<dyn WriteGate>,
    pub events: mpsc::UnboundedSender<SessionEvent>,
    pub commands: mpsc::UnboundedSender<Command>,
    pub status: watch::Sender<Status>,
    pub retry: Notify,
    pub stats: Arc<SessionStats>,
    /// The turn to try a sign-in: one connection more than the session has.
    pub logins: Semaphore,
    interests: Mutex<Interests>,
    operators: Mutex<BTreeMap<ObjectId, RoleName>>,
    token: Mutex<Option<(usize, Arc<AccessToken>)>>,
}

/// Roles that are asked for, with what was asked beside them.
pub(super) type Interests = BTreeMap<RoleName, Interest>;

/// State and newest catalog, which outlives a lost connection.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub phase: Phase,
    /// Why there are no snapshots any more, although the session serves.
    pub unread: Option<Failure>,
    pub catalog: Option<Arc<Catalog>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Connected,
    Failed(Failure),
}

/// What the handle asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    Look(Look),
    Change(Change),
    Drop(DropRequest),
    /// Take a snapshot now.
    Snapshot,
    /// In that database.
    Inside(String, Box<Inside>),
}

#[derive(Debug)]
pub(super) struct Look {
    pub role: RoleName,
    pub interest: Interest,
    /// Whether the server is asked whatever the catalog says.
    pub anew: bool,
    /// Whether the connection it was asked on before was lost.
    pub again: bool,
    pub reply: oneshot::Sender<Result<RoleView, Failure>>,
}

#[derive(Debug)]
pub(super) struct Change {
    /// Whose it is.
    pub namespace: Arc<str>,
    /// How often it came upon a lock.
    pub locked: u32,
    pub role: RoleName,
    pub basis: Basis,
    pub steps: Vec<RoleStep>,
    pub interest: Interest,
    pub reply: oneshot::Sender<Result<Applied<RoleView, RoleStep>, Failure>>,
}

#[derive(Debug)]
pub(super) struct DropRequest {
    /// Whose it is.
    pub namespace: Arc<str>,
    /// How often it came upon a lock.
    pub locked: u32,
    pub role: RoleName,
    pub ours: String,
    pub is_reassigned: bool,
    pub reply: oneshot::Sender<Result<DropOutcome, Failure>>,
}

impl Shared {
    pub fn new(
        spec: SessionSpec,
        platform_roots: Arc<Vec<CertificateDer<'static>>>,
        tokens: Arc<dyn TokenSource>,
        gate: Arc<dyn WriteGate>,
        events: mpsc::UnboundedSender<SessionEvent>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let status = Status {
            phase: Phase::Connecting,
            unread: None,
            catalog: None,
        };
        let shared = Self {
            spec,
            platform_roots,
            tokens,
            gate,
            events,
            commands,
            status: watch::Sender::new(status),
            retry: Notify::new(),
            stats: Arc::default(),
            logins: Semaphore::new(1),
            interests: Mutex::default(),
            operators: Mutex::default(),
            token: Mutex::default(),
        };
        (Arc::new(shared), receiver)
    }

    /// Enters a state, and tells if it is another one.
    pub fn enter(&self, phase: Phase) {
        let changed = self.status.send_if_modified(|status| {
            let changed = status.phase != phase;
            status.phase = phase;
            changed
        });
        if changed {
            self.tell(SessionEvent::StateChanged(self.spec.server.clone()));
        }
    }

    /// Tells the owner; nobody listens any more only while the operator stops.
    pub fn tell(&self, event: SessionEvent) {
        let _ = self.events.send(event);
    }

    /// A panic ended the session's task.
    pub fn broke(&self) {
        let server = self.spec.describe();
        let message = format!(
            "a defect ended the session of {server}; the log has it, please report it; it is started anew"
        );
        tracing::error!(server = %self.spec.server, "{message}");
        let failure = Failure::new(Class::Transient, Reason::Internal, message);
        self.enter(Phase::Failed(failure));
    }

    pub fn interests(&self) -> MutexGuard<'_, Interests> {
        self.interests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The last token of that administrator, if it lives for a while yet: going round the databases asks
    /// Entra for nothing.
    pub fn kept_token(&self, administrator: usize) -> Option<Arc<AccessToken>> {
        let kept = self.token();
        let (of, token) = kept.as_ref()?;
        let end = token.expires_at;
        let lives = SystemClock.now() + TOKEN_MARGIN < end;
        (*of == administrator && lives).then(|| token.clone())
    }

    pub fn keep_token(&self, administrator: usize, token: Arc<AccessToken>) {
        *self.token() = Some((administrator, token));
    }

    pub fn forget_token(&self) {
        *self.token() = None;
    }

    fn token(&self) -> MutexGuard<'_, Option<(usize, Arc<AccessToken>)>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identities whose tokens were got to sign in, and as which administrator.
    pub fn operators(&self) -> MutexGuard<'_, BTreeMap<ObjectId, RoleName>> {
        self.operators
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
