//! The places for exchanges with one authority; who waits for one starts in order of urgency, then of
//! arrival. While all is well one exchange follows the other, and a backlog opens more places; while
//! answers are slow, exchanges start at most once a second. Must not know what is done in a place.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::locked;
use crate::ports::Urgency;

/// An answer that takes longer is slow. Exchanges with an authority in doubt are that far apart: a
/// little more than a second, so that they are in different seconds wherever they are counted.
pub(super) const SLOW: Duration = Duration::from_millis(1250);
/// Orders that would wait longer than this, at the pace of the last answer, are a backlog: then there are
/// twice as many places.
const BACKLOG: Duration = Duration::from_secs(5);
/// How often those who wait are looked at although nothing happens.
const LOOK: Duration = Duration::from_millis(100);

/// Hands out the places.
#[derive(Debug)]
pub(super) struct Queue {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Places while all is well: one, more only while there is a backlog. So what goes wrong is
    /// found out by one exchange, not by as many as fit.
    window: usize,
    /// Places given out.
    used: usize,
    /// Of those, the ones where no exchange has begun yet.
    idle: usize,
    /// When somebody last got a place.
    taken: Option<Instant>,
    /// When the last exchange began.
    begun: Option<Instant>,
    /// Since when answers are slow.
    slow: Option<Instant>,
    arrivals: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    /// Somebody looks at those who wait.
    watched: bool,
}

#[derive(Debug)]
struct Waiting {
    urgency: Urgency,
    arrival: u64,
    call: oneshot::Sender<Place>,
}

/// The right to work now; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Option<Arc<Queue>>,
    began: Option<Instant>,
}

impl Queue {
    /// With at most so many places.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            state: Mutex::new(State {
                window: 1,
                used: 0,
                idle: 0,
                taken: None,
                begun: None,
                slow: None,
                arrivals: 0,
                waiting: BinaryHeap::new(),
                watched: false,
            }),
        })
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>, urgency: Urgency) -> Place {
        loop {
            let called = match self.take_or_wait(urgency) {
                Ok(place) => return place,
                Err(called) => called,
            };
            // An error cannot happen while `self` lives; if it did, queueing again is right.
            if let Ok(place) = called.await {
                return place;
            }
        }
    }

    fn take_or_wait(self: &Arc<Self>, urgency: Urgency) -> Result<Place, oneshot::Receiver<Place>> {
        let mut state = locked(&self.state);
        let now = Instant::now();
        if state.waiting.is_empty() && state.take(self.most, now) {
            state.taken = Some(now);
            return Ok(self.place());
        }
        let (call, called) = oneshot::channel();
        let arrival = state.arrivals;
        state.arrivals += 1;
        state.waiting.push(Reverse(Waiting {
            urgency,
            arrival,
            call,
        }));
        if !state.watched {
            state.watched = true;
            tokio::spawn(Arc::clone(self).watch());
        }
        Err(called)
    }

    /// Gives places to those who wait as time passes, until nobody does.
    async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.pass_on();
            let mut state = locked(&self.state);
            if state.waiting.is_empty() {
                state.watched = false;
                return;
            }
        }
    }

    fn place(self: &Arc<Self>) -> Place {
        Place {
            queue: Some(Arc::clone(self)),
            began: None,
        }
    }

    /// Gives what places there are to the most urgent orders that are still wanted.
    fn pass_on(self: &Arc<Self>) {
        while let Some(waiting) = self.next() {
            match waiting.call.send(self.place()) {
                Ok(()) => locked(&self.state).taken = Some(Instant::now()),
                // Nobody waits there any more: the place must not pass itself on again.
                Err(mut place) => {
                    place.queue = None;
                    locked(&self.state).give_back(false);
                }
            }
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut state = locked(&self.state);
        if state.waiting.is_empty() || !state.take(self.most, Instant::now()) {
            return None;
        }
        state.waiting.pop().map(|Reverse(waiting)| waiting)
    }
}

impl State {
    /// Takes a place, if there is one now.
    fn take(&mut self, most: usize, now: Instant) -> bool {
        let since = self.begun.map_or(Duration::MAX, |begun| now - begun);
        // Whoever has not begun for so long waits for Kubernetes: that must not hold up everybody.
        let idle = self.idle > 0 && self.taken.is_some_and(|taken| now - taken < SLOW);
        let free = match self.slow {
            Some(slow) => !idle && since >= interval(now - slow),
            None => self.used < self.window,
        };
        // Whoever is ahead has not been answered for a while: nor must that.
        let overdue = self.slow.is_none() && !idle && since >= SLOW;
        if self.used >= most || !(free || overdue) {
            return false;
        }
        if !free {
            self.slow = Some(now);
        }
        self.used += 1;
        self.idle += 1;
        true
    }

    fn give_back(&mut self, began: bool) {
        self.used = self.used.saturating_sub(1);
        self.idle = self.idle.saturating_sub(usize::from(!began));
    }

    fn answered(&mut self, took: Duration, most: usize, now: Instant) {
        if took >= SLOW {
            self.slow.get_or_insert(now);
            self.window = 1;
            return;
        }
        self.slow = None;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let work = took.saturating_mul(count(self.waiting.len()));
        if work > BACKLOG.saturating_mul(count(self.window)) {
            self.window = self.window.saturating_mul(2).min(most);
        } else if self.waiting.len() < self.window {
            self.window = (self.window / 2).max(1);
        }
        // Those that still wait for a slow answer hold up nobody now.
        self.window = self.window.max(self.used);
    }
}

/// How far apart exchanges begin with an authority that has been slow for so long: each minute
/// more, since a slow answer is better than none.
fn interval(slow_for: Duration) -> Duration {
    let minutes = u32::try_from(slow_for.as_secs() / 60).unwrap_or(u32::MAX);
    SLOW / minutes.saturating_add(1)
}

impl Place {
    /// The exchange begins.
    pub(super) fn begin(&mut self) {
        if let Some(queue) = self.queue.as_ref().filter(|_| self.began.is_none()) {
            let now = Instant::now();
            let mut state = locked(&queue.state);
            state.idle = state.idle.saturating_sub(1);
            state.begun = Some(now);
            self.began = Some(now);
        }
    }

    /// The exchange has ended: with a useful answer or without.
    pub(super) fn end(self, answered: bool) {
        if let (Some(queue), Some(began)) = (&self.queue, self.began) {
            let now = Instant::now();
            let mut state = locked(&queue.state);
            if answered {
                state.answered(now - began, queue.most, now);
            } else {
                state.window = 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            locked(&queue.state).give_back(self.began.is_some());
            queue.pass_on();
        }
    }
}

impl Waiting {
    fn rank(&self) -> (Urgency, u64) {
        (self.urgency, self.arrival)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use jiff::Timestamp;

    use super::*;

    fn renewal(second: i64) -> Urgency {
        Urgency::Renewal(Timestamp::from_second(second).expect("in range"))
    }

    fn now(queue: &Arc<Queue>) -> Option<Place> {
        queue.enter(renewal(1)).now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_goes_first_and_equals_go_in_order_of_arrival() {
        let queue = Queue::new(1);
        let held = queue.enter(Urgency::NeverIssued).await;
        let started = Arc::new(Mutex::new(Vec::new()));
        let orders = [
            ("later", renewal(900)),
            ("sooner", renewal(300)),
            ("new, first", Urgency::NeverIssued),
            ("new, second", Urgency::NeverIssued),
            ("administrator", Urgency::Administrator),
        ];
        let waits = orders.map(|(name, urgency)| {
            let (queue, started) = (Arc::clone(&queue), Arc::clone(&started));
            async move {
                let _place = queue.enter(urgency).await;
                locked(&started).push(name);
            }
        });
        let all = futures::future::join_all(waits);
        tokio::pin!(all);
        assert!(all.as_mut().now_or_never().is_none());
        assert!(locked(&started).is_empty());
        drop(held);
        all.await;
        assert_eq!(
            *locked(&started),
            [
                "administrator",
                "new, first",
                "new, second",
                "sooner",
                "later"
            ]
        );
        let state = locked(&queue.state);
        assert_eq!((state.used, state.idle), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_not_lost_with_those_who_stopped_waiting() {
        let queue = Queue::new(1);
        let held = queue.enter(Urgency::NeverIssued).await;
        for _ in 0..10_000 {
            assert!(queue.enter(Urgency::Administrator).now_or_never().is_none());
        }
        drop(held);
        assert_eq!(locked(&queue.state).used, 0);
        assert!(now(&queue).is_some());
    }

    /// So many orders that stay in the queue.
    fn crowd(queue: &Arc<Queue>, count: usize) -> Vec<oneshot::Receiver<Place>> {
        let orders = (0..count).map(|_| queue.take_or_wait(renewal(9)));
        orders.filter_map(Result::err).collect()
    }

    // Red when: `BACKLOG` is a number of orders. A fault would then meet as many exchanges at once.
    #[tokio::test(start_paused = true)]
    async fn many_quick_answers_are_no_backlog() {
        let queue = Queue::new(4);
        let mut place = now(&queue).expect("the only one");
        let _crowd = crowd(&queue, 60);
        place.begin();
        tokio::time::advance(Duration::from_millis(50)).await;
        place.end(true);
        assert_eq!(locked(&queue.state).window, 1);
    }

    // Red when: the window does not grow, or grows without a backlog.
    #[tokio::test(start_paused = true)]
    async fn a_backlog_opens_places_up_to_the_limit_and_its_end_closes_them() {
        let queue = Queue::new(4);
        let mut place = now(&queue).expect("the only one");
        assert!(now(&queue).is_none(), "one at a time");
        let mut crowd = crowd(&queue, 60);
        for places in [2, 4, 4] {
            place.begin();
            tokio::time::advance(Duration::from_millis(500)).await;
            place.end(true);
            assert_eq!(locked(&queue.state).window, places);
            let called = crowd.iter_mut().find_map(|call| call.try_recv().ok());
            place = called.expect("the next");
        }
        assert_eq!(locked(&queue.state).used, 4);
        drop(crowd);
        drop(place);
        for places in [2, 1, 1] {
            let mut place = now(&queue).expect("free");
            place.begin();
            place.end(true);
            assert_eq!(locked(&queue.state).window, places);
        }
    }

    // Red when: `take` knows no `overdue`, or no `interval`.
    #[tokio::test(start_paused = true)]
    async fn while_answers_are_slow_one_begins_a_second() {
        let queue = Queue::new(16);
        let mut first = now(&queue).expect("free");
        first.begin();
        let start = Instant::now();
        let mut begun = Vec::new();
        let mut under_way = vec![first];
        for _ in 0..4 {
            let mut next = queue.enter(renewal(1)).await;
            next.begin();
            begun.push(start.elapsed().as_secs());
            under_way.push(next);
        }
        assert_eq!(begun, [1, 2, 3, 5]);
        // A slow answer is no reason to hurry.
        under_way.remove(0).end(true);
        assert!(now(&queue).is_none());
        let mut quick = queue.enter(renewal(1)).await;
        assert_eq!(start.elapsed().as_secs(), 6);
        quick.begin();
        quick.end(true);
        assert!(now(&queue).is_some(), "what hangs holds up nobody");
    }

    // Red when: `take` waits for whoever has a place and has not begun (a read of Kubernetes that hangs).
    #[tokio::test(start_paused = true)]
    async fn who_does_not_begin_holds_up_nobody_for_long() {
        let queue = Queue::new(16);
        let start = Instant::now();
        let _hangs = now(&queue).expect("free");
        assert!(now(&queue).is_none());
        let mut next = queue.enter(renewal(1)).await;
        assert_eq!(start.elapsed().as_secs(), 1);
        assert!(now(&queue).is_none(), "one at a time");
        next.begin();
        next.end(true);
        assert!(now(&queue).is_some(), "and then as before");
    }

    #[test]
    fn an_authority_that_stays_slow_is_asked_more_often_each_minute() {
        let after = |minutes: u64| interval(Duration::from_secs(minutes * 60)).as_millis();
        assert_eq!([0, 1, 4].map(after), [1250, 625, 250]);
    }
}
