//! Signs of life of what works as long as the process, for `/livez`. Must not decide what follows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The signs of life. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats(Arc<Mutex<BTreeMap<String, Beat>>>);

#[derive(Debug)]
struct Beat {
    shown: String,
    last: Instant,
    longest: Duration,
}

impl Heartbeats {
    /// From now on a sign of life is expected at least every `longest`; `shown` is its name for people.
    pub fn expect(&self, key: &str, shown: String, longest: Duration) {
        let last = Instant::now();
        let beat = Beat {
            shown,
            last,
            longest,
        };
        self.lock().insert(key.to_owned(), beat);
    }

    /// A sign of life; of what none is expected it means nothing.
    pub fn beat(&self, key: &str) {
        if let Some(beat) = self.lock().get_mut(key) {
            beat.last = Instant::now();
        }
    }

    /// What has been silent for too long, in words.
    pub fn late(&self) -> Vec<String> {
        let beats = self.lock();
        let late = beats.values().filter_map(|beat| {
            let silent = beat.last.elapsed();
            (silent > beat.longest).then(|| {
                let seconds = silent.as_secs();
                format!("{} gave no sign of life for {seconds} s", beat.shown)
            })
        });
        late.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Red when: late() leaves out what is silent, or beat() does not count.
    #[tokio::test(start_paused = true)]
    async fn what_is_silent_for_too_long_is_named_and_nothing_else() {
        let beats = Heartbeats::default();
        beats.beat("nobody");
        beats.expect("a", "the watch of a".to_owned(), Duration::from_secs(60));
        beats.expect("b", "the watch of b".to_owned(), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(50)).await;
        beats.beat("b");
        assert!(beats.late().is_empty());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(
            beats.late(),
            ["the watch of a gave no sign of life for 70 s"]
        );
        beats.beat("a");
        assert!(beats.late().is_empty());
    }
}
