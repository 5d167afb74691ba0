//! Counts exchanges for the metrics. Must not know how they are exported.

use std::sync::atomic::{AtomicU64, Ordering};

use strum::IntoEnumIterator as _;

/// Where a token was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum ExchangeKind {
    /// At an authority's token endpoint.
    Token,
    /// At the node's metadata service.
    Imds,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum Outcome {
    /// A token came, and is what was asked for.
    Ok,
    /// A token came that is not what was asked for.
    Invalid,
    /// We were asked to slow down.
    Throttled,
    /// The identity was refused.
    Refused,
    /// No useful answer came.
    Unavailable,
}

/// Exchanges that were really sent, by kind and outcome. Only ever grows.
#[derive(Debug, Default)]
pub struct Stats {
    token: Counts,
    imds: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    ok: AtomicU64,
    invalid: AtomicU64,
    throttled: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
}

impl Stats {
    /// How many exchanges of that kind ended so.
    pub fn get(&self, kind: ExchangeKind, outcome: Outcome) -> u64 {
        self.cell(kind, outcome).load(Ordering::Relaxed)
    }

    /// All counts.
    pub fn all(&self) -> impl Iterator<Item = (ExchangeKind, Outcome, u64)> + '_ {
        ExchangeKind::iter().flat_map(move |kind| {
            Outcome::iter().map(move |outcome| (kind, outcome, self.get(kind, outcome)))
        })
    }

    pub(super) fn count(&self, kind: ExchangeKind, outcome: Outcome) {
        self.cell(kind, outcome).fetch_add(1, Ordering::Relaxed);
    }

    fn cell(&self, kind: ExchangeKind, outcome: Outcome) -> &AtomicU64 {
        let counts = match kind {
            ExchangeKind::Token => &self.token,
            ExchangeKind::Imds => &self.imds,
        };
        match outcome {
            Outcome::Ok => &counts.ok,
            Outcome::Invalid => &counts.invalid,
            Outcome::Throttled => &counts.throttled,
            Outcome::Refused => &counts.refused,
            Outcome::Unavailable => &counts.unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_outcome_has_its_own_counter() {
        let stats = Stats::default();
        for (nth, (kind, outcome, _)) in stats.all().collect::<Vec<_>>().into_iter().enumerate() {
            for _ in 0..=nth {
                stats.count(kind, outcome);
            }
        }
        let counts: Vec<u64> = stats.all().map(|(_, _, count)| count).collect();
        assert_eq!(counts, (1..=10).collect::<Vec<u64>>());
    }
}
