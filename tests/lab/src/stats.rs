//! Counters of what clients asked the lab for: the body of `GET /lab/stats`.
//! It counts; it decides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

#[derive(Debug, Default)]
pub struct Stats {
    tables: Mutex<Tables>,
    statements: AtomicU64,
    transactions: AtomicU64,
    rows: AtomicU64,
    exchanges: Mutex<Option<Vec<Exchange>>>,
}

/// One request at Entra's token endpoint; for programs that have the lab inside.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub arrived: Instant,
    pub answered: Instant,
    /// A fault held for it.
    pub faulty: bool,
    /// The token that was answered.
    pub token: Option<String>,
}

#[derive(Debug, Default)]
struct Tables {
    tokens: TokenRequests,
    connections: Connections,
}

/// A copy of all counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub token_requests: TokenRequests,
    pub connections: Connections,
    pub statements: u64,
    pub transactions: u64,
    /// Rows that the server sent; for programs that have the lab inside, not in the answer.
    #[serde(skip)]
    pub rows: u64,
}

/// Requests for tokens, at Entra and at IMDS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRequests {
    pub total: u64,
    /// By HTTP status; `none` where a fault closed the connection instead.
    pub by_status: BTreeMap<String, u64>,
    /// By client id.
    pub by_client: BTreeMap<String, u64>,
}

/// Sign-ins that the gateway let through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// All since the start.
    pub total: u64,
    /// Open now.
    pub open: u64,
    /// The most that were open at once.
    pub peak: u64,
    /// All since the start, by role.
    pub by_role: BTreeMap<String, u64>,
}

/// Counts its connection as open until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<Stats>);

impl Stats {
    /// One answered token request; no status: the connection was closed without an answer.
    pub fn token_request(&self, client: Option<&str>, status: Option<u16>) {
        let mut tables = self.tables();
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        tables.tokens.total += 1;
        *tables.tokens.by_status.entry(status).or_default() += 1;
        if let Some(client) = client {
            *tables
                .tokens
                .by_client
                .entry(client.to_owned())
                .or_default() += 1;
        }
    }

    /// From now on each request at the token endpoint is kept.
    pub fn keep_exchanges(&self) {
        self.exchanges().get_or_insert_default();
    }

    /// Keeps a request, if they are kept; `exchange` is not called otherwise.
    pub fn exchange(&self, exchange: impl FnOnce() -> Exchange) {
        if let Some(kept) = self.exchanges().as_mut() {
            kept.push(exchange());
        }
    }

    /// The requests that were kept.
    pub fn kept_exchanges(&self) -> Vec<Exchange> {
        self.exchanges().clone().unwrap_or_default()
    }

    fn exchanges(&self) -> MutexGuard<'_, Option<Vec<Exchange>>> {
        self.exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One sign-in; hold the guard as long as the connection is open.
    pub fn connection_opened(self: &Arc<Self>, role: &str) -> ConnectionGuard {
        let mut tables = self.tables();
        let connections = &mut tables.connections;
        connections.total += 1;
        connections.open += 1;
        connections.peak = connections.peak.max(connections.open);
        *connections.by_role.entry(role.to_owned()).or_default() += 1;
        ConnectionGuard(Arc::clone(self))
    }

    /// One statement that came through the gateway.
    pub fn statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// One transaction that came through the gateway.
    pub fn transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    /// One row that came through the gateway.
    pub fn row(&self) {
        self.rows.fetch_add(1, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Snapshot {
        let tables = self.tables();
        Snapshot {
            token_requests: tables.tokens.clone(),
            connections: tables.connections.clone(),
            statements: self.statements.load(Ordering::Relaxed),
            transactions: self.transactions.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.tables().connections.open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_falls_when_guards_drop_and_peak_stays() {
        let stats = Arc::new(Stats::default());
        let first = stats.connection_opened("a");
        let second = stats.connection_opened("b");
        drop(first);
        let third = stats.connection_opened("a");
        let seen = stats.snapshot().connections;
        assert_eq!((seen.total, seen.open, seen.peak), (3, 2, 2));
        assert_eq!(seen.by_role.get("a"), Some(&2));
        drop((second, third));
        assert_eq!(stats.snapshot().connections.open, 0);
    }
}
