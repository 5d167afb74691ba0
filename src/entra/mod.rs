//! Gets access tokens from Microsoft Entra and from the node's metadata service (IMDS).
//! Must not decide who may use which identity, and keeps no token once its exchange has ended.

mod aadsts;
mod breaker;
mod broker;
mod certificate;
mod claims;
mod complaint;
mod credential;
mod error;
mod flights;
mod lane;
mod limiter;
mod network;
mod pace;
mod resolve;
mod stats;
#[cfg(test)]
mod tests;
mod transport;

pub use broker::{Broker, BrokerOptions};
pub use network::{Network, ProxyVariable};
pub use resolve::OperatorEnvironment;
pub use stats::{ExchangeKind, Outcome, Stats};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock whose data no panic can leave half-changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
