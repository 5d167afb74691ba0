//! One replica works, the others wait: leadership by a Lease.
//!
//! The elector renews the Lease; [`Leadership`] is what everybody else asks before a write. Its
//! answer needs no network: it is `no` from the moment at which another replica could believe the
//! Lease ended, measured by this machine's steady clock.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::{Class, Failure, Reason};
use crate::ports::WriteGate;

mod elector;

pub use elector::{DURATION, Elector, LeaseSettings};

/// Whether this replica leads. Cheap to clone; everybody who writes has one.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    until: Mutex<Until>,
    /// Why this replica does not lead any more, once it did.
    lost: OnceLock<String>,
    leading: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    Always,
    Never,
    Deadline(Instant),
}

impl Leadership {
    /// For a single replica without a Lease.
    pub fn always() -> Self {
        Self::new(Until::Always, true)
    }

    /// Not leading, until an elector says otherwise.
    pub fn standby() -> Self {
        Self::new(Until::Never, false)
    }

    /// Follows whether this replica leads.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.leading.subscribe()
    }

    /// Returns once this replica leads.
    pub async fn leading(&self) {
        // The sender lives in self.
        let _ = self.subscribe().wait_for(|leading| *leading).await;
    }

    fn new(until: Until, leads: bool) -> Self {
        Self(Arc::new(Inner {
            until: Mutex::new(until),
            lost: OnceLock::new(),
            leading: watch::Sender::new(leads),
        }))
    }

    fn hold(&self, deadline: Instant) {
        self.set(Until::Deadline(deadline), true);
    }

    fn let_go(&self) {
        self.set(Until::Never, false);
    }

    /// Lets go for good: who lost the lease leads no more in this process.
    fn lose(&self, why: String) {
        // Only the first reason counts.
        let _ = self.0.lost.set(why);
        self.let_go();
    }

    /// Why this replica does not lead any more.
    pub fn why_lost(&self) -> &str {
        let why = self.0.lost.get();
        why.map_or("nobody renews it any more", String::as_str)
    }

    fn set(&self, until: Until, leads: bool) {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        self.0
            .leading
            .send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
    }

    fn until(&self) -> Until {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteGate for Leadership {
    fn check(&self) -> Result<(), Failure> {
        let problem = match self.until() {
            Until::Always => return Ok(()),
            Until::Deadline(deadline) if Instant::now() < deadline => return Ok(()),
            Until::Deadline(_) => "this replica could not renew its lease in time".to_owned(),
            Until::Never => match self.0.lost.get() {
                Some(why) => format!("this replica lost its lease: {why}"),
                None => "this replica does not lead".to_owned(),
            },
        };
        let message = format!("{problem}: nothing is written");
        Err(Failure::new(Class::Waiting, Reason::NotLeader, message))
    }
}

#[cfg(test)]
mod tests;
