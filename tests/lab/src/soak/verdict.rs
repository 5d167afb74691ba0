//! What the numbers of a soak come to. Pure: it counts what was recorded, and decides.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::stats::Exchange;

/// All that is counted in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers {
    pub(super) minutes: u64,
    /// Seconds with an expired token in a Secret, without those that the outage excuses.
    pub(super) expired: usize,
    /// Tokens that followed another one.
    pub(super) renewals: usize,
    /// Requests answered while Entra was well.
    pub(super) requests: usize,
    /// Requests that met a fault.
    pub(super) during: usize,
    /// The most of those that arrived within one second.
    pub(super) most: usize,
    /// An older token over a newer one, a look that failed, a secret in a log, and the like.
    pub(super) wrong: Vec<String>,
}

impl Numbers {
    /// Takes in the requests of the run.
    pub(super) fn count(&mut self, exchanges: &[Exchange], start: Instant, end: Instant) {
        let inside = exchanges
            .iter()
            .filter(|e| e.arrived >= start && e.answered <= end);
        let mut by_second: BTreeMap<u64, usize> = BTreeMap::new();
        for exchange in inside {
            if exchange.faulty {
                self.during += 1;
                let second = (exchange.arrived - start).as_secs();
                *by_second.entry(second).or_default() += 1;
            } else {
                self.requests += 1;
            }
        }
        self.most = by_second.into_values().max().unwrap_or(0);
    }

    /// The two lines that people and other programs read.
    pub(super) fn lines(&self) -> [String; 2] {
        let Self {
            expired,
            renewals,
            requests,
            during,
            most,
            ..
        } = self;
        [
            format!(
                "expired tokens served: {expired}, renewals: {renewals}, token requests: {requests}"
            ),
            format!("during faults: {during} requests, at most {most} per authority and second"),
        ]
    }

    /// What is not as promised.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = self.wrong.clone();
        let mut must = |good: bool, text: String| {
            if !good {
                failures.push(text);
            }
        };
        must(self.expired == 0, "an expired token was served".to_owned());
        must(
            self.requests * 100 <= self.renewals * 105,
            format!(
                "more than 1.05 requests per renewal: {} for {}",
                self.requests, self.renewals
            ),
        );
        must(
            self.most <= 1,
            "more than one request in a second while Entra was not well".to_owned(),
        );
        let fewest = usize::try_from(self.minutes * 100).unwrap_or(usize::MAX);
        must(
            self.renewals >= fewest,
            format!("fewer than {fewest} renewals"),
        );
        failures
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn good() -> Numbers {
        Numbers {
            minutes: 2,
            renewals: 200,
            requests: 210,
            during: 9,
            most: 1,
            ..Numbers::default()
        }
    }

    #[test]
    fn each_promise_fails_the_run_alone() {
        assert_eq!(good().failures(), Vec::<String>::new());
        let bad = [
            Numbers {
                expired: 1,
                ..good()
            },
            Numbers {
                requests: 211,
                ..good()
            },
            Numbers { most: 2, ..good() },
            Numbers {
                renewals: 199,
                requests: 199,
                ..good()
            },
            Numbers {
                wrong: vec!["a leak".to_owned()],
                ..good()
            },
        ];
        for numbers in bad {
            assert_eq!(numbers.failures().len(), 1, "{numbers:?}");
        }
    }

    #[test]
    fn requests_are_told_apart_by_whether_they_met_a_fault() {
        let start = Instant::now();
        let at = |millis: u64, faulty| Exchange {
            arrived: start + Duration::from_millis(millis),
            answered: start + Duration::from_millis(millis + 10),
            faulty,
            token: None,
        };
        let mut numbers = Numbers::default();
        let exchanges = [
            at(0, false),
            at(100, false),
            at(1999, true),
            at(2000, true),
            at(2999, true),
            at(3001, true),
            at(59_995, false),
        ];
        numbers.count(&exchanges, start, start + Duration::from_secs(60));
        assert_eq!((numbers.requests, numbers.during, numbers.most), (2, 4, 2));
        assert_eq!(
            numbers.lines(),
            [
                "expired tokens served: 0, renewals: 0, token requests: 2",
                "during faults: 4 requests, at most 2 per authority and second",
            ]
        );
    }
}
