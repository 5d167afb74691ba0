//! What the numbers of a hostile run come to. Pure.

use std::time::Duration;

/// How long a change of a victim may take.
const CHANGE: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// All that is counted in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers {
    /// Tokens that were still in a victim's Secret after their end.
    pub(super) dead: usize,
    pub(super) changes: Vec<Duration>,
    pub(super) first_tokens: Vec<Duration>,
    /// The fewest that there must be of each, or the run says nothing.
    pub(super) fewest: usize,
    /// Bytes.
    pub(super) peak: u64,
    pub(super) limit: u64,
    /// Ends of the operator that nobody asked for.
    pub(super) restarts: usize,
    /// What else is not as promised.
    pub(super) wrong: Vec<String>,
}

fn slowest(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}

impl Numbers {
    /// The line that people and other programs read.
    pub(super) fn line(&self) -> String {
        format!(
            "victims: dead tokens {}, slowest change {:.1} s, slowest first token {:.1} s; \
             operator: peak {} MiB, restarts {}",
            self.dead,
            slowest(&self.changes).as_secs_f64(),
            slowest(&self.first_tokens).as_secs_f64(),
            self.peak / MIB,
            self.restarts
        )
    }

    /// What is not as promised.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = self.wrong.clone();
        let mut must = |good: bool, text: String| {
            if !good {
                failures.push(text);
            }
        };
        must(self.dead == 0, format!("{} dead tokens", self.dead));
        let slow = self.changes.iter().filter(|took| **took > CHANGE).count();
        must(
            slow == 0,
            format!("{slow} changes took more than {CHANGE:?}"),
        );
        must(
            self.restarts == 0,
            format!("the operator ended {} times", self.restarts),
        );
        must(
            self.peak <= self.limit,
            format!("more than {} MiB of memory", self.limit / MIB),
        );
        for (what, count) in [
            ("changes", self.changes.len()),
            ("first tokens", self.first_tokens.len()),
        ] {
            must(
                count >= self.fewest,
                format!("only {count} {what}, not {}", self.fewest),
            );
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Numbers {
        Numbers {
            changes: vec![Duration::from_millis(9960), Duration::from_secs(1)],
            first_tokens: vec![Duration::from_secs(20), Duration::from_secs(2)],
            fewest: 2,
            peak: 200 * MIB,
            limit: 256 * MIB,
            ..Numbers::default()
        }
    }

    #[test]
    fn each_promise_fails_the_run_alone() {
        assert_eq!(good().failures(), Vec::<String>::new());
        let change = vec![Duration::from_millis(10_001), Duration::from_secs(1)];
        let bad = [
            Numbers { dead: 1, ..good() },
            Numbers {
                changes: change,
                ..good()
            },
            Numbers {
                restarts: 1,
                ..good()
            },
            Numbers {
                peak: 257 * MIB,
                ..good()
            },
            Numbers {
                fewest: 3,
                changes: vec![Duration::ZERO; 3],
                ..good()
            },
            Numbers {
                wrong: vec!["an attack did not take place".to_owned()],
                ..good()
            },
        ];
        for numbers in bad {
            assert_eq!(numbers.failures().len(), 1, "{numbers:?}");
        }
    }

    #[test]
    fn the_line_is_as_documented() {
        assert_eq!(
            good().line(),
            "victims: dead tokens 0, slowest change 10.0 s, slowest first token 20.0 s; \
             operator: peak 200 MiB, restarts 0"
        );
    }
}
