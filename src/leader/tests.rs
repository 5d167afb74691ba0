//! The Lease and the gate, with paused time and an API server that is a function.

use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::advance;

use super::elector::{LOOK_EVERY, RENEW_EVERY, REQUEST, RETRY_AFTER, TRUSTED};
use super::*;
use crate::cluster::testing::{Answer, Asked, Seen, client};
use crate::ports::Clock;
use crate::telemetry::Metrics;

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

/// The one Lease of an API server: optimistic locking as the real one does it.
#[derive(Clone, Default)]
struct Store {
    lease: Arc<Mutex<Option<Value>>>,
    version: Arc<AtomicU64>,
    down: Arc<Mutex<Option<u16>>>,
}

impl Store {
    fn answer(&self, asked: &Asked) -> Answer {
        if let Some(code) = *self.down.lock().expect("no panic") {
            return Answer::refusal(code, "ServiceUnavailable", "down");
        }
        let mut lease = self.lease.lock().expect("no panic");
        match (asked.method.as_str(), lease.clone()) {
            ("GET", Some(found)) => Answer::ok(found),
            ("GET", None) => Answer::refusal(404, "NotFound", "not found"),
            ("POST", Some(_)) => Answer::refusal(409, "AlreadyExists", "exists"),
            ("PUT", Some(found))
                if found["metadata"]["resourceVersion"]
                    != asked.body["metadata"]["resourceVersion"] =>
            {
                Answer::refusal(409, "Conflict", "changed")
            }
            ("POST" | "PUT", _) => {
                let mut body = asked.body.clone();
                let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
                body["metadata"]["resourceVersion"] = json!(version.to_string());
                *lease = Some(body.clone());
                Answer::ok(body)
            }
            (other, _) => panic!("unexpected {other}"),
        }
    }

    fn holder(&self) -> String {
        let lease = self.lease.lock().expect("no panic");
        let lease = lease.as_ref().expect("a lease");
        lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn set_down(&self, down: bool) {
        self.refuse(down.then_some(503));
    }

    fn refuse(&self, code: Option<u16>) {
        *self.down.lock().expect("no panic") = code;
    }
}

struct Replica {
    elector: Elector,
    leadership: Leadership,
    seen: Seen,
}

fn replica(store: &Store, identity: &str) -> Replica {
    let copy = store.clone();
    let (client, seen) = client(move |asked| copy.answer(asked));
    let leadership = Leadership::standby();
    let settings = LeaseSettings {
        namespace: "platform".to_owned(),
        name: "epo".to_owned(),
        identity: identity.to_owned(),
    };
    let elector = Elector::new(
        client,
        settings,
        leadership.clone(),
        Arc::new(Noon),
        Metrics::new(),
    );
    Replica {
        elector,
        leadership,
        seen,
    }
}

#[tokio::test(start_paused = true)]
async fn the_gate_closes_before_the_lease_ends_without_asking_anybody() {
    let store = Store::default();
    let mut one = replica(&store, "one");
    assert_eq!(
        one.leadership.check().map_err(|f| f.reason),
        Err(Reason::NotLeader)
    );
    assert_eq!(one.elector.round().await, RENEW_EVERY);
    assert_eq!(one.leadership.check(), Ok(()));
    advance(Duration::from_millis(11_999)).await;
    assert_eq!(one.leadership.check(), Ok(()));
    advance(Duration::from_millis(1)).await;
    let failure = one.leadership.check().expect_err("too late");
    assert_eq!(failure.reason, Reason::NotLeader);
    assert!(failure.message.contains("could not renew"), "{failure}");
}

// Red when: a lease that this replica lost by a refusal, or by an API server that is away, is said to be
// another's (findings C13).
#[tokio::test(start_paused = true)]
async fn nobody_is_said_to_lead_where_nobody_does() {
    for (code, word) in [(401, "401"), (403, "403"), (503, "503")] {
        let store = Store::default();
        let mut one = replica(&store, "one");
        assert_eq!(one.elector.round().await, RENEW_EVERY);
        store.refuse(Some(code));
        advance(TRUSTED).await;
        one.elector.round().await;
        let failure = one.leadership.check().expect_err("it is lost");
        for part in [word, "nobody else is known to lead"] {
            assert!(failure.message.contains(part), "{code}: {failure}");
        }
        assert!(!failure.message.contains("leads now"), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_is_never_taken_and_one_that_is_not_ends() {
    let store = Store::default();
    let (mut one, mut two) = (replica(&store, "one"), replica(&store, "two"));
    one.elector.round().await;
    for _ in 0..6 {
        two.elector.round().await;
        assert!(two.leadership.check().is_err());
        advance(RENEW_EVERY).await;
        one.elector.round().await;
    }
    two.elector.round().await;
    advance(Duration::from_millis(14_999)).await;
    two.elector.round().await;
    assert!(two.leadership.check().is_err(), "one moment too early");
    assert!(
        one.leadership.check().is_err(),
        "its time is over before two's begins"
    );
    advance(Duration::from_millis(1)).await;
    two.elector.round().await;
    assert_eq!(two.leadership.check(), Ok(()));
    assert_eq!(store.holder(), "two");
    one.elector.round().await;
    assert!(one.leadership.check().is_err());
    assert_eq!(store.holder(), "two");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_restarted_has_its_lease_at_once() {
    let store = Store::default();
    replica(&store, "one").elector.round().await;
    let mut again = replica(&store, "one");
    again.elector.round().await;
    assert_eq!(again.leadership.check(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_borne_until_the_deadline_and_then_told() {
    let store = Store::default();
    let mut one = replica(&store, "one");
    one.elector.round().await;
    store.set_down(true);
    let lost = one.leadership.subscribe();
    advance(RENEW_EVERY).await;
    assert_eq!(one.elector.round().await, RETRY_AFTER);
    assert_eq!(one.leadership.check(), Ok(()));
    assert!(!lost.has_changed().expect("alive"));
    store.set_down(false);
    one.elector.round().await;
    store.set_down(true);
    advance(TRUSTED).await;
    one.elector.round().await;
    assert!(!*lost.borrow());
    assert!(one.leadership.check().is_err());
    // While its process ends it does not keep the others from leading.
    store.set_down(false);
    one.elector.round().await;
    assert!(one.leadership.check().is_err());
}

// Red when: `run` goes on after the loss (src/leader/elector.rs): whoever waits to lead waits for ever.
#[tokio::test(start_paused = true)]
async fn an_election_ends_with_the_loss_of_the_lease() {
    let store = Store::default();
    let Replica {
        elector,
        leadership,
        ..
    } = replica(&store, "one");
    let running = tokio::spawn(elector.run(std::future::pending()));
    leadership.leading().await;
    store.set_down(true);
    let ended = tokio::time::timeout(TRUSTED + RENEW_EVERY, running).await;
    ended.expect("it ends").expect("no panic");
    assert!(leadership.check().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_never_answers_does_not_hold_the_elector() {
    let leadership = Leadership::standby();
    let service = tower::service_fn(|_: axum::http::Request<kube::client::Body>| {
        std::future::pending::<
            Result<axum::http::Response<kube::client::Body>, std::convert::Infallible>,
        >()
    });
    let mut elector = Elector::new(
        Client::new(service, "default"),
        LeaseSettings {
            namespace: "platform".to_owned(),
            name: "epo".to_owned(),
            identity: "one".to_owned(),
        },
        leadership.clone(),
        Arc::new(Noon),
        Metrics::new(),
    );
    let begun = Instant::now();
    elector.round().await;
    assert_eq!(begun.elapsed(), REQUEST);
    assert!(leadership.check().is_err());
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_the_lease_is_handed_back_and_a_standby_has_it_at_its_next_look() {
    let store = Store::default();
    let Replica {
        elector,
        leadership,
        seen,
    } = replica(&store, "one");
    let mut two = replica(&store, "two");
    let (stop, stopped) = oneshot::channel::<()>();
    let one = tokio::spawn(elector.run(async {
        let _ = stopped.await;
    }));
    leadership.leading().await;
    two.elector.round().await;
    assert!(two.leadership.check().is_err());
    stop.send(()).expect("still running");
    one.await.expect("no panic");
    assert!(leadership.check().is_err());
    assert_eq!(store.holder(), "");
    two.elector.round().await;
    assert_eq!(two.leadership.check(), Ok(()));
    assert_eq!(store.holder(), "two");
    let puts = seen
        .requests()
        .into_iter()
        .filter(|asked| asked.method == "PUT");
    assert_eq!(puts.count(), 1, "only the hand-back");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_take_an_ended_lease_at_once_only_one_leads() {
    let store = Store::default();
    let (mut one, mut two) = (replica(&store, "one"), replica(&store, "two"));
    let (a, b) = tokio::join!(one.elector.round(), two.elector.round());
    assert_eq!([a, b].iter().max(), Some(&RENEW_EVERY));
    assert_eq!([a, b].iter().min(), Some(&LOOK_EVERY));
    let leaders = [&one, &two].map(|replica| replica.leadership.check().is_ok());
    assert_eq!(
        leaders.iter().filter(|leads| **leads).count(),
        1,
        "{leaders:?}"
    );
}

/// What was logged, for as long as the guard lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines_with(&self, word: &str) -> Vec<String> {
        let bytes = self.0.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("text");
        let lines = text.lines().filter(|line| line.contains(word));
        lines.map(str::to_owned).collect()
    }
}

// Red when: `tell_holder` is not called, or forgets whom it told of.
#[tokio::test(start_paused = true)]
async fn a_standby_says_once_whom_it_waits_for() {
    let log = Log::default();
    let copy = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || copy.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let store = Store::default();
    let (mut one, mut two) = (replica(&store, "one"), replica(&store, "two"));
    let mut standby = replica(&store, "standby");
    one.elector.round().await;
    for _ in 0..3 {
        standby.elector.round().await;
        advance(RENEW_EVERY).await;
        one.elector.round().await;
    }
    let told = log.lines_with("standing by");
    assert_eq!(told.len(), 1, "{told:?}");
    let words = "the lease epo held by one (renewed at 1970-01-01T00:00:00Z)";
    assert!(told.concat().contains(words), "{told:?}");
    // It is handed back, and the other one is quicker.
    one.elector.release().await;
    two.elector.round().await;
    standby.elector.round().await;
    standby.elector.round().await;
    let told = log.lines_with("held by two");
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_single_replica_always_leads() {
    assert_eq!(Leadership::always().check(), Ok(()));
}
