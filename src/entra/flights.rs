//! Exchanges in flight: who asks for exactly the same waits for the same answer. Nothing is kept
//! after an exchange has ended, or after everybody has stopped waiting for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::locked;
use crate::model::Failure;
use crate::ports::AccessToken;

/// What must be the same for two orders to share an exchange (design, rule 2.1.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
    pub(super) namespace: String,
    /// Kind, uid and resourceVersion (or the ids that stand for them) of what proves the identity.
    pub(super) source: Vec<String>,
    /// Empty for managed identities, as is the client.
    pub(super) tenant: String,
    pub(super) client: String,
    pub(super) cloud: String,
    pub(super) authority: String,
    pub(super) scope: String,
}

type Answer = Result<AccessToken, Failure>;
type Exchange = BoxFuture<'static, Answer>;

/// The exchanges in flight.
#[derive(Debug, Default)]
pub(super) struct Flights {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    departures: u64,
    open: HashMap<FlightKey, (u64, WeakShared<Exchange>)>,
}

/// Takes the flight off the board when it ends, is given up or panics.
struct Landing {
    flights: Arc<Flights>,
    key: FlightKey,
    number: u64,
}

impl Flights {
    /// The exchange in flight for `key`, or else the one that `start` makes.
    pub(super) fn join_or_start(
        self: &Arc<Self>,
        key: FlightKey,
        start: impl FnOnce() -> Exchange,
    ) -> Shared<Exchange> {
        let mut state = locked(&self.state);
        let open = state.open.get(&key);
        if let Some(flight) = open.and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        let number = state.departures;
        state.departures += 1;
        let landing = Landing {
            flights: Arc::clone(self),
            key: key.clone(),
            number,
        };
        let exchange = start();
        let flight = async move {
            let answer = exchange.await;
            drop(landing);
            answer
        }
        .boxed()
        .shared();
        if let Some(handle) = flight.downgrade() {
            state.open.insert(key, (number, handle));
        }
        flight
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        locked(&self.state).open.len()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = locked(&self.flights.state);
        let ours = state.open.get(&self.key);
        // A flight that was given up may have been followed by another with the same key.
        if ours.is_some_and(|(number, _)| *number == self.number) {
            state.open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Class, Reason};

    fn key(namespace: &str) -> FlightKey {
        FlightKey {
            namespace: namespace.to_owned(),
            source: vec!["uid".to_owned(), "1".to_owned()],
            tenant: String::new(),
            client: String::new(),
            cloud: "Public".to_owned(),
            authority: "https://login.example".to_owned(),
            scope: "s".to_owned(),
        }
    }

    fn answer(text: &str) -> Answer {
        Err(Failure::new(Class::Denied, Reason::EntraRefused, text))
    }

    #[tokio::test]
    async fn only_the_same_key_shares_and_nothing_is_left() {
        let flights = Arc::new(Flights::default());
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let first = flights.join_or_start(key("a"), || {
            async move {
                ended.await.expect("ended");
                answer("first")
            }
            .boxed()
        });
        let joined = flights.join_or_start(key("a"), || async { answer("second") }.boxed());
        let other = flights.join_or_start(key("b"), || async { answer("other") }.boxed());
        assert_eq!(other.await, answer("other"));
        end.send(()).expect("waited for");
        assert_eq!(first.await, answer("first"));
        assert_eq!(joined.await, answer("first"));
        assert_eq!(flights.open(), 0);
        let next = flights.join_or_start(key("a"), || async { answer("third") }.boxed());
        assert_eq!(next.await, answer("third"));
    }

    #[tokio::test]
    async fn a_flight_that_was_given_up_does_not_answer_later_orders() {
        let flights = Arc::new(Flights::default());
        let given_up = flights.join_or_start(key("a"), || futures::future::pending().boxed());
        assert!(given_up.clone().now_or_never().is_none());
        drop(given_up);
        assert_eq!(flights.open(), 0);
        let next = flights.join_or_start(key("a"), || async { answer("next") }.boxed());
        assert_eq!(next.await, answer("next"));
    }
}
