//! Keeps calls apart from each other in time. Must not know what they are.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::locked;

/// At most one call in each interval.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Mutex::new(None),
        }
    }

    /// Waits for this call's turn.
    pub(super) async fn turn(&self) {
        sleep_until(self.reserve(Instant::now())).await;
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut next = locked(&self.next);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.interval);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_spread_and_a_lone_call_does_not_wait() {
        let pace = Pace::new(Duration::from_millis(50));
        let start = Instant::now();
        futures::future::join_all((0..21).map(|_| pace.turn())).await;
        assert_eq!(start.elapsed().as_millis(), 1_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        let start = Instant::now();
        pace.turn().await;
        assert_eq!(start.elapsed().as_millis(), 0);
    }
}
