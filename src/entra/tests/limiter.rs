//! Who gets the next place.

use futures::FutureExt as _;
use tokio::time::advance;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn limiter(most: usize) -> Arc<Limiter> {
    Limiter::new("Entra at https://login.example".to_owned(), most)
}

fn caller(namespace: &str, client: &str) -> Caller {
    Caller {
        namespace: namespace.into(),
        tenant: "t".into(),
        client: client.into(),
    }
}

const NEW: (Priority, Rank) = (Priority::NeverIssued, 0);
const SOON: (Priority, Rank) = (Priority::EndsSoon, 1);

/// An order in the queue, as a task.
fn order(
    limiter: &Arc<Limiter>,
    namespace: &str,
    client: &str,
    rank: (Priority, Rank),
) -> tokio::task::JoinHandle<Result<Place, Failure>> {
    let (limiter, caller) = (Arc::clone(limiter), caller(namespace, client));
    tokio::spawn(async move { limiter.enter(caller, rank).await })
}

/// Lets every task run as far as it can.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn ready(handle: &mut tokio::task::JoinHandle<Result<Place, Failure>>) -> Option<Place> {
    let place = handle.now_or_never()?.expect("no panic");
    Some(place.expect("a place"))
}

async fn exchange(limiter: &Arc<Limiter>, caller: Caller, signal: Signal) {
    let place = limiter.enter(caller, SOON).await.expect("a place");
    place.begin();
    place.end(signal);
}

/// The order in which those who wait are served, one at a time.
async fn served(
    mut waiting: Vec<(
        &'static str,
        tokio::task::JoinHandle<Result<Place, Failure>>,
    )>,
    first: Place,
) -> Vec<&'static str> {
    let mut order = Vec::new();
    let mut held = Some(first);
    while !waiting.is_empty() {
        drop(held.take());
        settle().await;
        let next = (0..waiting.len()).find_map(|at| Some((at, ready(&mut waiting[at].1)?)));
        let (at, place) = next.expect("somebody is served");
        held = Some(place);
        order.push(waiting.remove(at).0);
    }
    order
}

// Red when: first issues go before renewals that end soon (findings A10), or a namespace's many orders
// before another's one.
#[tokio::test(start_paused = true)]
async fn the_most_urgent_goes_first_and_namespaces_take_turns() {
    let limiter = limiter(1);
    let first = limiter.enter(caller("x", "x"), NEW).await.unwrap();
    let mut waiting = Vec::new();
    for (name, namespace, rank) in [
        ("renewal in good time", "c", (Priority::Renewal, 900)),
        ("evil 1", "evil", NEW),
        ("evil 2", "evil", NEW),
        ("evil 3", "evil", NEW),
        ("new of another", "orders", NEW),
        ("ends later", "orders", (Priority::EndsSoon, 90)),
        ("ends soon", "orders", (Priority::EndsSoon, 30)),
        ("administrator", "ops", (Priority::Administrator, 0)),
    ] {
        waiting.push((name, order(&limiter, namespace, name, rank)));
        settle().await;
    }
    let served = served(waiting, first).await;
    let at = |name| served.iter().position(|it| *it == name).unwrap();
    assert!(at("ends soon") < at("ends later"), "{served:?}");
    assert!(at("ends later") < at("evil 2"), "{served:?}");
    assert!(at("new of another") < at("evil 3"), "{served:?}");
    assert!(at("administrator") < 3, "{served:?}");
    assert!(at("renewal in good time") >= 4, "{served:?}");
}

// Red when: the orders of administrators, which any namespace with a server of its own can make, go
// before all renewals for as long as there are some.
#[tokio::test(start_paused = true)]
async fn no_priority_starves_another() {
    let limiter = limiter(1);
    let first = limiter.enter(caller("x", "x"), NEW).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let one = order(&limiter, "evil", "a", (Priority::Administrator, 0));
        waiting.push(("evil", one));
    }
    settle().await;
    for (name, rank) in [
        ("soon", SOON),
        ("new", NEW),
        ("renewal", (Priority::Renewal, 9)),
    ] {
        waiting.push((name, order(&limiter, "orders", name, rank)));
        settle().await;
    }
    let served = served(waiting, first).await;
    for name in ["soon", "new", "renewal"] {
        let at = served.iter().position(|it| *it == name).unwrap();
        assert!(at < 9, "{name}: {at} of {served:?}");
    }
}

// Red when: one namespace may hold all places with exchanges that hang.
#[tokio::test(start_paused = true)]
async fn what_hangs_in_one_namespace_leaves_places_for_others() {
    let limiter = limiter(16);
    let mut hanging = Vec::new();
    let mut waiting: Vec<_> = (0..40)
        .map(|nth| order(&limiter, "evil", &format!("c{nth}"), NEW))
        .collect();
    for _ in 0..100 {
        settle().await;
        waiting.retain_mut(|it| match ready(it) {
            Some(place) => {
                place.begin();
                hanging.push(place);
                false
            }
            None => true,
        });
        advance(Duration::from_millis(100)).await;
    }
    assert!((2..=8).contains(&hanging.len()), "{}", hanging.len());
    let start = Instant::now();
    for nth in 0..20 {
        exchange(
            &limiter,
            caller("orders", &format!("o{nth}")),
            Signal::Answered,
        )
        .await;
    }
    assert!(start.elapsed() <= SLOW * 2, "{:?}", start.elapsed());
}

// Red when: places for renewals or administrators are given to first issues, whatever namespace they are of.
#[test]
fn some_places_are_reserved() {
    assert_eq!(Priority::NeverIssued.limit(16), 12);
    assert_eq!(Priority::EndsSoon.limit(16), 14);
    assert_eq!(Priority::Administrator.limit(16), 14);
    assert_eq!(Priority::NeverIssued.limit(5), 3);
    for most in 1..3 {
        assert_eq!(Priority::NeverIssued.limit(most), most);
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_not_lost_with_those_who_stopped_waiting() {
    let limiter = limiter(1);
    let held = limiter.enter(caller("a", "a"), NEW).await.unwrap();
    for _ in 0..10_000 {
        let mut given_up = Box::pin(limiter.enter(caller("b", "b"), SOON));
        assert!((&mut given_up).now_or_never().is_none());
    }
    assert!(locked(&limiter.state).queue.is_empty());
    assert!(locked(&limiter.state).waiting.is_empty());
    // One is called and leaves without looking.
    let mut called = Box::pin(limiter.enter(caller("b", "b"), SOON));
    assert!((&mut called).now_or_never().is_none());
    drop(held);
    drop(called);
    assert!(locked(&limiter.state).running.is_empty());
    assert!(locked(&limiter.state).held.is_empty());
    assert!(
        limiter
            .enter(caller("a", "a"), NEW)
            .now_or_never()
            .is_some()
    );
}

// Red when: `BACKLOG` is a number of orders. A fault would then meet as many exchanges at once.
#[tokio::test(start_paused = true)]
async fn a_backlog_opens_places_and_its_end_closes_them() {
    let mut state = State::default();
    let answered = |state: &mut State, millis| state.resize(Duration::from_millis(millis), 16);
    let fill = |state: &mut State, count: usize| {
        state.queue = FairQueue::default();
        for nth in 0..count {
            let waiting = Waiting {
                caller: caller("n", &nth.to_string()),
                since: Instant::now(),
                answer: oneshot::channel().0,
            };
            state.queue.push_ranked(Priority::EndsSoon, "n", 0, waiting);
        }
    };
    fill(&mut state, 60);
    answered(&mut state, 50);
    assert_eq!(state.extra, 0, "quick answers are no backlog");
    for places in [2, 4, 8, 8] {
        answered(&mut state, 500);
        assert_eq!(state.extra + 1, places);
    }
    fill(&mut state, 0);
    for _ in 0..4 {
        answered(&mut state, 5);
    }
    assert_eq!(state.extra, 0);
}

// Red when: more than one exchange a second is sent to an authority that answers nobody (issue 5's promise),
// for one namespace or for many.
#[tokio::test(start_paused = true)]
async fn an_authority_in_trouble_is_asked_once_a_second() {
    for (signal, namespaces) in [
        (Signal::AuthorityFailed(None), 1),
        (Signal::AuthorityFailed(None), 20),
        (Signal::Throttled(Duration::from_secs(1)), 1),
        (Signal::ClientFailed, 1),
    ] {
        let limiter = limiter(16);
        let mut waiting: Vec<_> = (0..40)
            .map(|nth| {
                let namespace = format!("n{}", nth % namespaces);
                order(&limiter, &namespace, &format!("c{nth}"), SOON)
            })
            .collect();
        let mut sent = Vec::new();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            settle().await;
            let places: Vec<Place> = waiting
                .iter_mut()
                .filter_map(|it| it.now_or_never()?.expect("no panic").ok())
                .collect();
            waiting.retain(|it| !it.is_finished());
            for place in places {
                sent.push(start.elapsed());
                place.begin();
                place.end(signal);
            }
            advance(Duration::from_millis(50)).await;
        }
        assert_eq!(too_close(&sent), 0, "{signal:?} of {namespaces}: {sent:?}");
        assert!(sent.len() >= 5, "{signal:?} of {namespaces}: {sent:?}");
    }
}

/// How many were sent less than a second after the one before.
fn too_close(sent: &[Duration]) -> usize {
    let pairs = sent.windows(2);
    let close = pairs.filter(|pair| pair[1] < pair[0] + Duration::from_secs(1));
    close.count()
}

// Red when: an authority that answers nobody in time gets as many exchanges as there are places.
#[tokio::test(start_paused = true)]
async fn exchanges_that_hang_are_a_second_apart() {
    for namespaces in [1, 20] {
        let limiter = limiter(16);
        let mut waiting: Vec<_> = (0..40)
            .map(|nth| {
                let namespace = format!("n{}", nth % namespaces);
                order(&limiter, &namespace, &format!("c{nth}"), SOON)
            })
            .collect();
        let (mut sent, mut hanging) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            settle().await;
            waiting.retain_mut(|it| match it.now_or_never() {
                Some(answer) => {
                    if let Ok(place) = answer.expect("no panic") {
                        sent.push(start.elapsed());
                        place.begin();
                        hanging.push(place);
                    }
                    false
                }
                None => true,
            });
            advance(Duration::from_millis(50)).await;
        }
        assert_eq!(too_close(&sent), 0, "{namespaces}: {sent:?}");
        assert!(sent.len() >= 3, "{namespaces}: {sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_sent_for_long_is_given_back_with_a_time() {
    let limiter = limiter(4);
    let throttled = caller("a", "a");
    exchange(&limiter, throttled.clone(), Signal::Throttled(MINUTE)).await;
    let refused = limiter
        .enter(throttled, SOON)
        .now_or_never()
        .expect("at once");
    let failure = refused.expect_err("a pause");
    assert_eq!(failure.reason, Reason::EntraThrottled);
    assert_eq!(failure.class, Class::Waiting);
    assert_eq!(failure.retry_after, Some(MINUTE));
    // A short pause is waited for.
    exchange(&limiter, caller("b", "b"), Signal::ClientFailed).await;
    exchange(&limiter, caller("b", "b"), Signal::Answered).await;
    // While nothing may be sent for a namespace, few of its orders wait, and the urgent ones.
    for client in ["a", "b"] {
        exchange(&limiter, caller("c", client), Signal::AuthorityFailed(None)).await;
    }
    let crowd: Vec<_> = (0..MOST_BLOCKED)
        .map(|nth| order(&limiter, "c", &format!("c{nth}"), NEW))
        .collect();
    settle().await;
    let failure = limiter
        .check("c", Priority::NeverIssued)
        .expect_err("enough");
    assert_eq!(failure.reason, Reason::EntraUnavailable);
    assert_eq!(failure.class, Class::Waiting);
    assert!(failure.retry_after >= Some(SOONEST));
    assert_eq!(limiter.check("c", Priority::EndsSoon), Ok(()));
    assert_eq!(limiter.check("d", Priority::NeverIssued), Ok(()));
    drop(crowd);
}

#[test]
fn what_ends_soon_goes_before_first_issues() {
    let now: Timestamp = "2026-12-01T03:00:00Z".parse().unwrap();
    let ends = |seconds: i64| {
        let end = now + SignedDuration::from_secs(seconds);
        Priority::of(Urgency::Renewal(end), now).0
    };
    assert_eq!(ends(600), Priority::EndsSoon);
    assert_eq!(ends(-60), Priority::EndsSoon);
    assert_eq!(ends(601), Priority::Renewal);
    assert!(Priority::EndsSoon < Priority::NeverIssued);
    assert!(Priority::NeverIssued < Priority::Renewal);
}
