//! What a session has done: counters that telemetry reads. Must not decide anything.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::SystemClock;
use crate::ports::Clock as _;

/// Counters of one session.
#[derive(Debug, Default)]
pub struct SessionStats {
    messages: AtomicU64,
    connections_opened: AtomicU64,
    connections_open: AtomicU64,
    snapshots: AtomicU64,
    snapshot_failures: AtomicU64,
    snapshot_micros: AtomicU64,
    snapshot_micros_total: AtomicU64,
    snapshot_at_millis: AtomicI64,
}

impl SessionStats {
    /// Messages of statements sent, each one round trip.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Connections opened so far.
    pub fn connections_opened(&self) -> u64 {
        self.connections_opened.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn connections_open(&self) -> u64 {
        self.connections_open.load(Ordering::Relaxed)
    }

    /// Snapshots taken.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Snapshots that failed.
    pub fn snapshot_failures(&self) -> u64 {
        self.snapshot_failures.load(Ordering::Relaxed)
    }

    /// How long the last snapshot took.
    pub fn snapshot_took(&self) -> Duration {
        Duration::from_micros(self.snapshot_micros.load(Ordering::Relaxed))
    }

    /// How long all snapshots took together.
    pub fn snapshots_took(&self) -> Duration {
        Duration::from_micros(self.snapshot_micros_total.load(Ordering::Relaxed))
    }

    /// When the last snapshot was taken.
    pub fn last_snapshot(&self) -> Option<Timestamp> {
        let millis = self.snapshot_at_millis.load(Ordering::Relaxed);
        Timestamp::from_millisecond(millis)
            .ok()
            .filter(|_| millis != 0)
    }

    pub(super) fn sent(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) {
        self.connections_opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn open_now(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.connections_open.store(count, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        self.snapshot_micros.store(micros, Ordering::Relaxed);
        self.snapshot_micros_total
            .fetch_add(micros, Ordering::Relaxed);
        let now = SystemClock.now().as_millisecond();
        self.snapshot_at_millis.store(now, Ordering::Relaxed);
    }

    pub(super) fn snapshot_failed(&self) {
        self.snapshot_failures.fetch_add(1, Ordering::Relaxed);
    }
}
