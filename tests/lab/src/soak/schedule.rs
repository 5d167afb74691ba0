//! What goes wrong in a soak, and when: always the same, so that two runs can be compared.
//! Pure; it does nothing itself.

use std::time::Duration;

use serde_json::{Value, json};

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// After the start.
    pub(super) at: Duration,
    pub(super) what: Trouble,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trouble {
    /// Entra does this for so long.
    Entra { does: Value, lasts: Duration },
    /// The same, for so long that tokens may end meanwhile.
    Outage { lasts: Duration },
    /// All connections to the server are cut.
    CutConnections,
    /// The server is restarted.
    RestartServer,
    /// The leading replica is killed, and started again as the kubelet does.
    Crash,
    /// The leading replica is asked to stop; the other takes over.
    HandOver,
    /// The leading replica is killed with its node: the other takes over when the lease has ended.
    LoseNode,
}

/// How long things take in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// The whole run.
    pub(super) total: Duration,
    /// The life of a token.
    pub(super) life: Duration,
    fault: Duration,
    outage: Duration,
    /// A token must not end while nobody leads: the lease lasts 15 s.
    loses_node: bool,
}

/// Equal parts of a run; something begins at each but the first and those of the outage.
const PARTS: u32 = 18;

impl Pace {
    pub(super) fn of(minutes: u64) -> Self {
        let total = Duration::from_secs(minutes * 60);
        let seconds = Duration::from_secs;
        if minutes >= 8 {
            Self {
                total,
                life: seconds(120),
                fault: seconds(20),
                outage: seconds(60),
                loses_node: true,
            }
        } else {
            Self {
                total,
                life: seconds(45),
                fault: seconds(3),
                outage: seconds(22),
                loses_node: false,
            }
        }
    }

    pub(super) fn schedule(&self) -> Vec<Event> {
        let entra = |does: Value| Trouble::Entra {
            does,
            lasts: self.fault,
        };
        let throttle = json!({"status": 429, "retryAfter": self.fault.as_secs() / 2});
        let slow = json!({"delayMs": 5000});
        if !self.loses_node {
            return self.short(&throttle, &slow);
        }
        let parts = [
            (1, entra(throttle.clone())),
            (2, entra(json!({"status": 500}))),
            (3, Trouble::Crash),
            (4, entra(json!({"refuse": true}))),
            (5, Trouble::CutConnections),
            (6, entra(slow)),
            (7, Trouble::HandOver),
            (8, entra(json!({"garbage": true}))),
            (9, Trouble::RestartServer),
            (10, Trouble::Outage { lasts: self.outage }),
            (14, Trouble::LoseNode),
            (15, entra(throttle)),
            (16, Trouble::HandOver),
            (17, entra(json!({"status": 503}))),
        ];
        let mut events: Vec<Event> = (parts.into_iter())
            .map(|(part, what)| Event {
                at: self.total / PARTS * part,
                what,
            })
            .collect();
        // In the middle of a pause that the next process knows nothing of.
        let during = Event {
            at: self.total / PARTS * 15 + self.fault / 2,
            what: Trouble::Crash,
        };
        let place = events.partition_point(|event| event.at <= during.at);
        events.insert(place, during);
        events
    }

    /// With seconds in place of minutes between them, Entra fails first and the operator last: what
    /// one left to be done would else meet the other.
    fn short(&self, throttle: &Value, slow: &Value) -> Vec<Event> {
        let entra = |does: &Value| Trouble::Entra {
            does: does.clone(),
            lasts: self.fault,
        };
        let parts = [
            (1, entra(throttle)),
            (2, entra(&json!({"status": 500}))),
            (3, entra(&json!({"refuse": true}))),
            (4, entra(slow)),
            (5, entra(&json!({"garbage": true}))),
            (6, entra(throttle)),
            (7, entra(&json!({"status": 503}))),
            (8, Trouble::Outage { lasts: self.outage }),
            (13, Trouble::Crash),
            (14, Trouble::HandOver),
            (15, Trouble::Crash),
            (16, Trouble::HandOver),
            (17, Trouble::Crash),
        ];
        let server = [(2, Trouble::CutConnections), (14, Trouble::RestartServer)];
        let at = |part: u32| self.total / PARTS * part;
        let parts = parts
            .into_iter()
            .map(|(part, what)| Event { at: at(part), what });
        let server = server.into_iter().map(|(part, what)| Event {
            at: at(part) + self.total / PARTS * 3 / 4,
            what,
        });
        let mut events: Vec<Event> = parts.chain(server).collect();
        events.sort_by_key(|event| event.at);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(minutes: u64) -> (usize, Vec<Duration>, Duration) {
        let pace = Pace::of(minutes);
        let events = pace.schedule();
        assert!(events.is_sorted_by_key(|event| event.at));
        assert!(events.iter().all(|event| event.at < pace.total));
        let operator = |event: &&Event| {
            use Trouble::{Crash, HandOver, LoseNode};
            matches!(event.what, Crash | HandOver | LoseNode)
        };
        let faults = events.iter().filter_map(|event| match event.what {
            Trouble::Entra { lasts, .. } => Some(lasts),
            _ => None,
        });
        let outages = events.iter().filter_map(|event| match event.what {
            Trouble::Outage { lasts } => Some(lasts),
            _ => None,
        });
        (
            events.iter().filter(operator).count(),
            faults.collect(),
            outages.sum(),
        )
    }

    #[test]
    fn the_operator_is_killed_or_failed_over_five_times_and_no_fault_is_too_long() {
        for minutes in [2, 15] {
            let (operator, faults, outage) = counts(minutes);
            assert_eq!(operator, 5);
            assert_eq!(faults.len(), 7);
            assert!(faults.iter().all(|lasts| lasts.as_secs() <= 25));
            assert!(outage.as_secs() <= 60);
        }
    }

    #[test]
    fn one_trouble_has_ended_when_the_next_one_begins() {
        for minutes in [2, 15] {
            let pace = Pace::of(minutes);
            let events = pace.schedule();
            for (one, next) in events.iter().zip(events.iter().skip(1)) {
                let lasts = match one.what {
                    Trouble::Entra { lasts, .. } | Trouble::Outage { lasts } => lasts,
                    _ => Duration::ZERO,
                };
                let inside = one.at + lasts > next.at;
                assert!(!inside || next.what == Trouble::Crash, "{one:?}, {next:?}");
            }
        }
    }
}
