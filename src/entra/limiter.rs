//! Which exchange with one authority is sent next, and when. Must not know what is done in an exchange.
//!
//! Orders wait in a queue by priority, in turn between namespaces. One exchange follows the other while
//! all is well, and a backlog opens more places: what goes wrong is found out by one exchange, not by as
//! many as fit. An exchange that is slow counts no longer, so that what one client makes hang holds up
//! nobody. The circuit breakers say for whom nothing may be sent now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::breaker::{Blocked, Breakers, Caller, SLOW, Signal};
use super::locked;
use crate::model::fair_queue::{FairQueue, Ticket};
use crate::model::{Class, Failure, Reason};
use crate::ports::Urgency;

/// Orders that would wait longer than this, at the pace of the last answer, are a backlog.
const BACKLOG: Duration = Duration::from_secs(5);
/// How long an order waits while nothing may be sent for it. Then it is given back, to be tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon an order that was given back comes again, at the earliest.
const SOONEST: Duration = Duration::from_secs(2);
/// How many orders of one namespace wait while nothing may be sent, but for the urgent ones.
const MOST_BLOCKED: usize = 64;
/// How often those who wait are looked at although nothing happens.
const LOOK: Duration = Duration::from_millis(100);
/// A renewal whose token ends within this time goes before first issues.
const ENDS_SOON: SignedDuration = SignedDuration::from_mins(10);

/// The order of the queue: the smaller first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Priority {
    /// The operator's own sign-in to a server, which serves many.
    Administrator,
    /// A renewal whose token ends soon.
    EndsSoon,
    /// There is no token yet.
    NeverIssued,
    /// A renewal in good time.
    Renewal,
}

/// Seconds since the epoch at which the present token ends: the sooner goes first in its namespace.
type Rank = i64;

/// Limits the exchanges with one authority.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Who is asked, for the messages.
    target: String,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: FairQueue<Priority, Waiting, Rank>,
    breakers: Breakers,
    /// By the number of their place.
    running: HashMap<u64, Running>,
    /// Places by namespace.
    held: HashMap<Arc<str>, usize>,
    /// Orders that wait, by namespace.
    waiting: HashMap<Arc<str>, usize>,
    /// How many exchanges may run that are not slow, less one.
    extra: usize,
    /// Places given out so far.
    given: u64,
    /// A task looks at those who wait.
    watched: bool,
}

#[derive(Debug)]
struct Waiting {
    caller: Caller,
    since: Instant,
    answer: oneshot::Sender<Result<Place, Failure>>,
}

#[derive(Debug)]
struct Running {
    caller: Caller,
    /// When it got its place, then when it was sent.
    began: Instant,
    sent: bool,
    slow: bool,
}

/// The right to one exchange. Dropped without an end it says nothing of the authority.
#[derive(Debug)]
pub(super) struct Place {
    /// `None`: it has been given back.
    limiter: Option<Arc<Limiter>>,
    number: u64,
}

/// Takes an order out of the queue when nobody waits for it any more.
struct Wish {
    limiter: Arc<Limiter>,
    ticket: Ticket<Priority, Rank>,
}

impl Priority {
    pub(super) fn of(urgency: Urgency, now: Timestamp) -> (Self, Rank) {
        match urgency {
            Urgency::Administrator => (Self::Administrator, 0),
            Urgency::NeverIssued => (Self::NeverIssued, 0),
            Urgency::Renewal(end) if end.duration_since(now) <= ENDS_SOON => {
                (Self::EndsSoon, end.as_second())
            }
            Urgency::Renewal(end) => (Self::Renewal, end.as_second()),
        }
    }

    fn is_urgent(self) -> bool {
        matches!(self, Self::Administrator | Self::EndsSoon)
    }

    /// How many places are taken at most when one of this priority is given: some are reserved for
    /// administrators, some for renewals.
    fn limit(self, most: usize) -> usize {
        let reserved = if most < 3 { 0 } else { (most / 8).max(1) };
        let kept = match self {
            Self::Administrator | Self::Renewal | Self::EndsSoon => reserved,
            Self::NeverIssued => 2 * reserved,
        };
        most - kept.min(most - 1)
    }
}

impl Limiter {
    /// At most so many exchanges at the same time.
    pub(super) fn new(target: String, most: usize) -> Arc<Self> {
        Arc::new(Self {
            target,
            most: most.max(1),
            state: Mutex::default(),
        })
    }

    /// Fails at once while nothing may be sent for that namespace and many of its orders wait already, so
    /// that nothing is read for another one.
    pub(super) fn check(&self, namespace: &str, priority: Priority) -> Result<(), Failure> {
        let state = locked(&self.state);
        let now = Instant::now();
        let waiting = state.waiting.get(namespace).copied().unwrap_or_default();
        if priority.is_urgent() || waiting < MOST_BLOCKED {
            return Ok(());
        }
        let breakers = &state.breakers;
        let blocked = breakers.all_blocked(now);
        let blocked = blocked.or_else(|| breakers.namespace_blocked(namespace, now));
        blocked.map_or(Ok(()), |blocked| Err(self.refusal(blocked)))
    }

    /// Waits for a place. Fails when nothing may be sent for this client for longer than an order waits.
    pub(super) async fn enter(
        self: &Arc<Self>,
        caller: Caller,
        (priority, rank): (Priority, Rank),
    ) -> Result<Place, Failure> {
        let (answer, answered) = oneshot::channel();
        let wish = {
            let mut state = locked(&self.state);
            let now = Instant::now();
            let blocked = state.breakers.blocked(&caller, now);
            let own = blocked.filter(|blocked| blocked.client_only && blocked.left > PATIENCE);
            if let Some(blocked) = own {
                return Err(self.refusal(blocked));
            }
            let namespace = Arc::clone(&caller.namespace);
            let waiting = Waiting {
                caller,
                since: now,
                answer,
            };
            let ticket = (state.queue).push_ranked(priority, &namespace, rank, waiting);
            *state.waiting.entry(namespace).or_default() += 1;
            self.give(&mut state, now);
            if !state.watched && !state.queue.is_empty() {
                state.watched = true;
                tokio::spawn(Arc::clone(self).watch());
            }
            Wish {
                limiter: Arc::clone(self),
                ticket,
            }
        };
        let place = answered.await;
        drop(wish);
        let ended = || {
            Failure::new(
                Class::Transient,
                Reason::EntraUnavailable,
                "the queue ended",
            )
        };
        place.map_err(|_| ended())?
    }

    /// Looks at those who wait as time passes, until nobody does.
    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut state = locked(&self.state);
            let now = Instant::now();
            self.give(&mut state, now);
            self.give_back(&mut state, now);
            if state.queue.is_empty() {
                state.watched = false;
                return;
            }
        }
    }

    /// Gives what places there are to those whose turn it is.
    fn give(self: &Arc<Self>, state: &mut State, now: Instant) {
        state.find_slow(now);
        while let Some(waiting) = state.next(self.most, now) {
            let number = state.begin(&waiting.caller, now);
            let place = Place {
                limiter: Some(Arc::clone(self)),
                number,
            };
            if let Err(Ok(mut place)) = waiting.answer.send(Ok(place)) {
                // Nobody waits there any more. To drop the place as it is would take the lock again.
                place.limiter = None;
                state.end(number, Signal::NotSent, self.most, now);
            }
        }
    }

    /// Refuses the orders for which nothing could be sent for long.
    fn give_back(&self, state: &mut State, now: Instant) {
        let State {
            queue, breakers, ..
        } = &mut *state;
        let waited = |waiting: &Waiting| now.saturating_duration_since(waiting.since);
        let refused = queue.take_where(|waiting| {
            waited(waiting) >= PATIENCE && breakers.blocked(&waiting.caller, now).is_some()
        });
        for waiting in refused {
            let blocked = state.breakers.blocked(&waiting.caller, now);
            less(&mut state.waiting, &waiting.caller.namespace);
            if let Some(blocked) = blocked {
                // Whoever waited may have left: nothing is lost.
                let _left = waiting.answer.send(Err(self.refusal(blocked)));
            }
        }
    }

    /// Says nothing of the exchange that failed: it may have been another namespace's. Nothing was
    /// tried, so nothing failed: the order just waits.
    fn refusal(&self, blocked: Blocked) -> Failure {
        let target = &self.target;
        let Blocked {
            reason,
            client_only,
            left,
        } = blocked;
        let message = match (reason, client_only) {
            (Reason::EntraThrottled, true) => format!(
                "{target} asked the operator to slow down with this identity: nothing is sent for it \
                 until then"
            ),
            (Reason::EntraThrottled, false) => format!(
                "{target} asked the operator to slow down with several identities: one request \
                 at a time is sent until one has been answered"
            ),
            (_, true) => format!(
                "{target} did not answer usefully when it was last asked for this identity: the \
                 request is sent again then"
            ),
            (_, false) => format!(
                "{target} did not answer usefully when the operator last asked: one request at a \
                 time is sent until one has been answered"
            ),
        };
        Failure::new(Class::Waiting, reason, message).retry_after(left.max(SOONEST))
    }
}

impl State {
    /// Tells the breakers of exchanges that have no answer for long.
    fn find_slow(&mut self, now: Instant) {
        for running in self.running.values_mut() {
            if running.slow || now.saturating_duration_since(running.began) < SLOW {
                continue;
            }
            running.slow = true;
            // What was not sent yet waits for Kubernetes.
            if running.sent {
                let Running { caller, began, .. } = &*running;
                self.breakers.report(caller, Signal::Slow, *began, now);
            }
        }
    }

    /// Takes the order whose turn it is, if one may be sent now.
    fn next(&mut self, most: usize, now: Instant) -> Option<Waiting> {
        let used = self.running.len();
        let quick = self.running.values().filter(|it| !it.slow).count();
        if used >= most || quick > self.extra || self.breakers.all_blocked(now).is_some() {
            return None;
        }
        // Some places go to the lower priorities first, so that none starves another.
        let first = match self.given % 8 {
            1 | 5 => Priority::EndsSoon,
            3 => Priority::NeverIssued,
            7 => Priority::Renewal,
            _ => Priority::Administrator,
        };
        let waiting = (self.find(first, false, most, now))
            .or_else(|| self.find(Priority::Administrator, false, most, now))
            .or_else(|| self.find(Priority::Administrator, true, most, now))?;
        less(&mut self.waiting, &waiting.caller.namespace);
        Some(waiting)
    }

    /// With `poor`, also an order that is likely to fail as it did last time.
    fn find(&mut self, from: Priority, poor: bool, most: usize, now: Instant) -> Option<Waiting> {
        let Self {
            queue,
            breakers,
            held,
            running,
            ..
        } = self;
        let used = running.len();
        let namespace_may = |priority: &Priority, namespace: &str| {
            let held = held.get(namespace).copied().unwrap_or_default();
            // One namespace holds as many places as are free at most, so that some always are.
            *priority >= from
                && used < priority.limit(most)
                && held < most - used
                && breakers.namespace_blocked(namespace, now).is_none()
        };
        let order_may = |waiting: &Waiting| {
            breakers.blocked(&waiting.caller, now).is_none()
                && (poor || !breakers.is_poor_probe(&waiting.caller))
        };
        Some(queue.pop_where(namespace_may, order_may)?.item)
    }

    fn begin(&mut self, caller: &Caller, now: Instant) -> u64 {
        let number = self.given;
        self.given += 1;
        self.breakers.begin(caller, now);
        *self.held.entry(Arc::clone(&caller.namespace)).or_default() += 1;
        let running = Running {
            caller: caller.clone(),
            began: now,
            sent: false,
            slow: false,
        };
        self.running.insert(number, running);
        number
    }

    fn end(&mut self, number: u64, signal: Signal, most: usize, now: Instant) {
        let Some(running) = self.running.remove(&number) else {
            return;
        };
        let Running {
            caller,
            began,
            sent,
            ..
        } = running;
        less(&mut self.held, &caller.namespace);
        let signal = if sent { signal } else { Signal::NotSent };
        self.breakers.report(&caller, signal, began, now);
        if signal == Signal::Answered {
            self.resize(now.saturating_duration_since(began), most);
        } else if self.breakers.is_open() {
            self.extra = 0;
        }
    }

    /// Opens places while there is a backlog, quickly where answers are quick, and closes them after it.
    fn resize(&mut self, took: Duration, most: usize) {
        let waiting = self.queue.len();
        let window = self.extra + 1;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let work = took.saturating_mul(count(waiting));
        let window = if work > BACKLOG.saturating_mul(count(window)) {
            let more = if took < SLOW { window } else { 1 };
            window.saturating_add(more).min(most)
        } else if waiting < window {
            window / 2
        } else {
            window
        };
        self.extra = window.max(1) - 1;
    }
}

/// Counts one less; what is none is forgotten.
fn less(counts: &mut HashMap<Arc<str>, usize>, namespace: &Arc<str>) {
    let Some(count) = counts.get_mut(namespace) else {
        return;
    };
    *count = count.saturating_sub(1);
    if *count == 0 {
        counts.remove(namespace);
    }
}

impl Place {
    /// The request is sent now.
    pub(super) fn begin(&self) {
        let Some(limiter) = &self.limiter else {
            return;
        };
        let mut state = locked(&limiter.state);
        if let Some(running) = state.running.get_mut(&self.number) {
            running.began = Instant::now();
            running.sent = true;
            running.slow = false;
        }
    }

    /// The exchange has ended.
    pub(super) fn end(mut self, signal: Signal) {
        self.leave(signal);
    }

    fn leave(&mut self, signal: Signal) {
        if let Some(limiter) = self.limiter.take() {
            let mut state = locked(&limiter.state);
            let now = Instant::now();
            state.end(self.number, signal, limiter.most, now);
            limiter.give(&mut state, now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(Signal::NotSent);
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        let mut state = locked(&self.limiter.state);
        if let Some(waiting) = state.queue.remove(&self.ticket) {
            less(&mut state.waiting, &waiting.caller.namespace);
        }
    }
}

#[cfg(test)]
#[path = "tests/limiter.rs"]
mod tests;
