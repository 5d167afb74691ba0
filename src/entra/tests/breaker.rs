//! Whose failure pauses whom.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn caller(namespace: &str, tenant: &str, client: &str) -> Caller {
    Caller {
        namespace: namespace.into(),
        tenant: tenant.into(),
        client: client.into(),
    }
}

/// Breakers with a clock of their own.
struct Scene {
    breakers: Breakers,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self {
            breakers: Breakers::default(),
            now: Instant::now(),
        }
    }

    /// One exchange that ends at once; the pause that keeps it from being sent, else.
    fn exchange(&mut self, caller: &Caller, signal: Signal) -> Result<(), Duration> {
        if let Some(blocked) = self.breakers.blocked(caller, self.now) {
            return Err(blocked.left);
        }
        self.breakers.begin(caller, self.now);
        self.breakers.report(caller, signal, self.now, self.now);
        Ok(())
    }

    /// The same, as soon as it may be sent.
    fn exchange_when_allowed(&mut self, caller: &Caller, signal: Signal) {
        while let Err(left) = self.exchange(caller, signal) {
            self.now += left;
        }
    }

    fn pause(&self, caller: &Caller) -> Duration {
        let blocked = self.breakers.blocked(caller, self.now);
        blocked.map_or(Duration::ZERO, |blocked| blocked.left)
    }
}

const FAILED: Signal = Signal::AuthorityFailed(None);

// Red when: the first 429 closes more than its client's circuit (findings A4), or does not hold for it.
#[test]
fn a_throttled_client_pauses_for_as_long_as_it_was_asked_and_alone() {
    let mut scene = Scene::new();
    let (evil, victim) = (caller("evil", "t1", "a"), caller("orders", "t2", "b"));
    let hour = MINUTE * 60;
    assert_eq!(scene.exchange(&evil, Signal::Throttled(hour)), Ok(()));
    assert_eq!(scene.pause(&evil), hour);
    assert_eq!(scene.pause(&victim), SLOW, "nobody knows yet whose it is");
    scene.now += SLOW;
    assert_eq!(scene.exchange(&victim, Signal::Answered), Ok(()));
    assert_eq!(scene.exchange(&victim, Signal::Answered), Ok(()));
    assert_eq!(scene.pause(&evil) + SLOW, hour, "it was asked for that");
    scene.now += hour;
    assert_eq!(scene.exchange(&evil, Signal::Answered), Ok(()));
    assert_eq!(scene.pause(&evil), Duration::ZERO);
}

// Red when: failures of one namespace, of whatever number of clients and Entra tenants, open a circuit
// of others (findings A1 and A4).
#[test]
fn one_namespace_never_holds_up_another_for_long() {
    for signal in [
        FAILED,
        Signal::AuthorityFailed(Some(MINUTE)),
        Signal::Throttled(MINUTE),
        Signal::ClientFailed,
        Signal::Slow,
        Signal::NotSent,
    ] {
        let mut scene = Scene::new();
        let victim = caller("orders", "t", "b");
        let mut held_up = Duration::ZERO;
        let mut last = scene.now;
        let end = scene.now + MINUTE;
        for nth in 0.. {
            let evil = caller("evil", &format!("t{}", nth % 7), &format!("c{nth}"));
            // Each of its clients tries as soon as it may.
            if scene.exchange(&evil, signal).is_err() {
                scene.now += Duration::from_millis(50);
            }
            let left = scene.pause(&victim);
            assert!(left <= SLOW, "{signal:?}: {left:?}");
            if !left.is_zero() {
                held_up += scene.now - last;
            }
            last = scene.now;
            if scene.now >= end || signal == Signal::NotSent && nth > 1000 {
                break;
            }
        }
        assert!(held_up <= MINUTE / 5, "{signal:?}: {held_up:?} of a minute");
        assert_eq!(
            scene
                .breakers
                .tenants
                .values()
                .filter(|it| it.circuit.is_some())
                .count(),
            0
        );
        assert!(!scene.breakers.is_open());
    }
}

// Red when: a failure of the authority itself is not seen as such.
#[test]
fn two_namespaces_that_fail_one_after_the_other_open_the_circuit_of_the_authority() {
    let mut scene = Scene::new();
    let (first, second) = (caller("a", "t1", "a"), caller("b", "t2", "b"));
    let third = caller("c", "t3", "c");
    scene.exchange_when_allowed(&first, FAILED);
    scene.exchange_when_allowed(&second, FAILED);
    assert!(scene.breakers.is_open());
    scene.now += SLOW;
    scene.breakers.begin(&third, scene.now);
    let other = caller("d", "t3", "d");
    assert_eq!(scene.pause(&other), PROBE_TIME, "one at a time");
    let now = scene.now;
    scene.breakers.report(&third, Signal::Answered, now, now);
    assert_eq!(scene.pause(&other), Duration::ZERO);
    assert!(!scene.breakers.is_open());
}

// Red when: an answer between does not count, so that two clients with troubles of their own stop all.
#[test]
fn an_answer_between_two_failures_clears_the_authority() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.exchange_when_allowed(&caller("a", "t1", "a"), FAILED);
        scene.exchange_when_allowed(&caller("orders", "t", "c"), Signal::Answered);
        scene.exchange_when_allowed(&caller("b", "t2", "b"), FAILED);
        scene.exchange_when_allowed(&caller("orders", "t", "c"), Signal::Answered);
        assert!(!scene.breakers.is_open());
    }
}

// Red when: a Retry-After that one client was given holds for the authority or the tenant.
#[test]
fn probes_follow_within_seconds_whatever_pause_was_asked_for() {
    let mut scene = Scene::new();
    for nth in 0..20 {
        let client = format!("c{nth}");
        let throttled = caller(&format!("n{nth}"), "shared", &client);
        scene.exchange_when_allowed(&throttled, Signal::Throttled(MINUTE * 60));
        let other = caller("orders", "shared", "other");
        assert!(scene.pause(&other) <= LONGEST_PAUSE);
        assert!(scene.pause(&caller("orders", "another", "x")) <= SLOW);
    }
    let tenant = scene.breakers.tenants.get("shared").unwrap();
    assert!(tenant.circuit.is_some(), "the tenant is throttled");
    assert!(!scene.breakers.is_open(), "the authority is not");
}

#[test]
fn throttled_clients_of_different_tenants_and_namespaces_mean_the_authority() {
    let mut scene = Scene::new();
    scene.exchange_when_allowed(&caller("a", "t1", "a"), Signal::Throttled(MINUTE));
    scene.exchange_when_allowed(&caller("b", "t2", "b"), Signal::Throttled(MINUTE));
    assert!(scene.breakers.is_open());
    assert_eq!(scene.pause(&caller("c", "t3", "c")), SLOW);
}

// Red when: the same object's order is the next probe again (findings A1: the probe again is the attacker's).
#[test]
fn who_failed_last_is_a_poor_probe() {
    let mut scene = Scene::new();
    let (first, second) = (caller("a", "t1", "a"), caller("b", "t2", "b"));
    scene.exchange_when_allowed(&first, FAILED);
    assert!(
        !scene.breakers.is_poor_probe(&first),
        "it probes for itself"
    );
    scene.exchange_when_allowed(&second, FAILED);
    assert!(scene.breakers.is_poor_probe(&first));
    assert!(!scene.breakers.is_poor_probe(&caller("c", "t1", "a")));
}

#[test]
fn two_clients_of_a_namespace_that_fail_open_its_circuit_and_an_answer_closes_it() {
    let mut scene = Scene::new();
    scene.exchange_when_allowed(&caller("n", "t", "a"), FAILED);
    scene.exchange_when_allowed(&caller("n", "t", "b"), FAILED);
    let blocked = scene.breakers.namespace_blocked("n", scene.now).unwrap();
    assert_eq!((blocked.client_only, blocked.left), (false, SLOW));
    scene.exchange_when_allowed(&caller("n", "t", "c"), Signal::Answered);
    assert_eq!(scene.breakers.namespace_blocked("n", scene.now), None);
}

// Red when: exchanges that ran side by side count as failures in a row.
#[test]
fn what_was_under_way_when_a_circuit_opened_counts_once() {
    let mut scene = Scene::new();
    let one = caller("n", "t", "a");
    let began = scene.now;
    for _ in 0..AT_FIRST_PAUSE + 5 {
        scene.now += Duration::from_millis(10);
        scene.breakers.report(&one, FAILED, began, scene.now);
    }
    assert_eq!(scene.pause(&one), SLOW);
}

// Red when: pauses grow from the first failure on (the end of an outage of seconds is noticed late, and
// tokens end meanwhile), or never.
#[test]
fn pauses_grow_after_ten_seconds() {
    let mut scene = Scene::new();
    let one = caller("n", "t", "a");
    let mut pauses = Vec::new();
    for _ in 0..11 {
        scene.exchange_when_allowed(&one, FAILED);
        pauses.push(scene.pause(&one).as_millis());
    }
    assert_eq!(pauses[..8], [1250; 8]);
    assert_eq!(pauses[8..], [2500, 5000, 5000]);
}

#[test]
fn what_failed_is_bounded_and_forgotten() {
    let mut scene = Scene::new();
    for nth in 0..5_000 {
        let odd = caller("n", &format!("t{nth}"), &format!("c{nth}"));
        let now = scene.now;
        scene.breakers.report(&odd, FAILED, now, now);
    }
    assert!(scene.breakers.len() <= MOST_CLIENTS + MOST_TENANTS + 1);
    scene.now += FORGOTTEN + MINUTE;
    let last = caller("other", "t", "c");
    let now = scene.now;
    scene.breakers.report(&last, FAILED, now, now);
    assert_eq!(scene.breakers.len(), 3, "its client, namespace and tenant");
}
