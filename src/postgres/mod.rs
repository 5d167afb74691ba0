//! Speaks to `PostgreSQL` servers: one session for each server object, which keeps a catalog and
//! takes changes. Must not know of Kubernetes or Entra, nor decide what a role should be.

mod answer;
mod answers;
mod batch;
mod bounded;
mod change;
mod clear;
mod clear_sql;
mod column_steps;
mod connect;
mod databases;
mod dial;
mod drop;
mod error;
mod grant;
mod inside;
mod inside_answers;
mod login;
mod message;
mod pinned;
mod privilege_steps;
mod privileges_sql;
mod questions;
mod queue;
mod refusal;
mod serve;
mod session;
mod shared;
mod snapshot;
mod sql;
mod statements;
mod stats;
mod worker;

#[cfg(test)]
mod error_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod privileges_tests;
#[cfg(test)]
mod sessions_tests;
#[cfg(test)]
mod sql_tests;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::model::ObjectKey;
use crate::ports::{TokenSource, WriteGate};

pub use clear::Cleared;
pub use connect::{Timeouts, certificates};
pub use drop::DropOutcome;
pub use privilege_steps::show_privilege_steps;
pub use session::{Applied, Session, SessionEvent, SessionSpec, State, Trust};
pub use statements::show as show_role_steps;
pub use stats::SessionStats;

use shared::Shared;
use worker::Worker;

/// The sessions, by server object.
pub struct Sessions {
    tokens: Arc<dyn TokenSource>,
    gate: Arc<dyn WriteGate>,
    events: mpsc::UnboundedSender<SessionEvent>,
    platform_roots: Arc<Vec<CertificateDer<'static>>>,
    running: Mutex<BTreeMap<ObjectKey, Running>>,
    /// One was started.
    started: watch::Sender<()>,
}

struct Running {
    session: Session,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sessions {
    /// No sessions yet. Reads the platform's root certificates.
    pub fn new(
        tokens: Arc<dyn TokenSource>,
        gate: Arc<dyn WriteGate>,
        events: mpsc::UnboundedSender<SessionEvent>,
    ) -> Self {
        Self {
            tokens,
            gate,
            events,
            platform_roots: Arc::new(connect::platform_roots()),
            running: Mutex::default(),
            started: watch::Sender::new(()),
        }
    }

    /// The session of that server: started now, or started anew if the specification is another
    /// one or a defect ended its task, or else the present one. Needs a Tokio runtime.
    pub fn ensure(&self, spec: SessionSpec) -> Session {
        let mut running = self.running();
        match running.get(&spec.server) {
            Some(present) if present.session.shared.spec == spec && !present.task.is_finished() => {
                present.session.clone()
            }
            _ => {
                let key = spec.server.clone();
                let started = self.start(spec);
                let session = started.session.clone();
                running.insert(key, started);
                self.started.send_replace(());
                session
            }
        }
    }

    /// Ends the session of that server and closes its connections.
    pub fn remove(&self, server: &ObjectKey) {
        self.running().remove(server);
    }

    /// The session of that server, if there is one.
    pub fn get(&self, server: &ObjectKey) -> Option<Session> {
        self.running()
            .get(server)
            .map(|running| running.session.clone())
    }

    /// The same; waits for it, since at the operator's start servers and principals are looked at
    /// together.
    pub async fn get_within(&self, server: &ObjectKey, limit: Duration) -> Option<Session> {
        let mut started = self.started.subscribe();
        let there = async {
            loop {
                if let Some(session) = self.get(server) {
                    return Some(session);
                }
                started.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, there).await.ok().flatten()
    }

    /// All sessions, for telemetry.
    pub fn all(&self) -> Vec<Session> {
        self.running()
            .values()
            .map(|running| running.session.clone())
            .collect()
    }

    fn start(&self, spec: SessionSpec) -> Running {
        let (shared, commands) = Shared::new(
            spec,
            self.platform_roots.clone(),
            self.tokens.clone(),
            self.gate.clone(),
            self.events.clone(),
        );
        let session = Session {
            shared: shared.clone(),
            namespace: "".into(),
        };
        let work = AssertUnwindSafe(Worker::new(shared.clone(), commands).run()).catch_unwind();
        let task = tokio::spawn(async move {
            if work.await.is_err() {
                shared.broke();
            }
        });
        Running {
            session,
            task: task.abort_handle(),
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.running().keys()).finish()
    }
}
