//! Thousands of identities: what they cost while nothing is asked for, and how many connections they
//! share when all ask at once.

use std::sync::atomic::Ordering;

use super::{Scene, secret, workload};
use crate::api::Identity;
use crate::ports::TokenSource as _;

const MANY: usize = 1_000;

/// Each is an application of its own, in a namespace of its own.
fn identity(nth: usize) -> Identity {
    let client = format!("cccccccc-0000-0000-0000-{nth:012}");
    if nth.is_multiple_of(2) {
        let mut identity = secret();
        identity.client_secret.as_mut().unwrap().client_id = client;
        return identity;
    }
    workload(&format!("app-{nth}"))
}

/// Resident memory of this process in KiB; 0 where that cannot be told.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

// Red when: an exchange makes an HTTP client of its own (35 ms and a connection each), or the broker
// remembers an identity after its exchange.
#[tokio::test]
async fn a_thousand_identities_share_a_few_connections_and_leave_nothing() {
    let scene = Scene::new().await;
    let all = async |round: usize| {
        let orders = (0..MANY).map(|nth| {
            let order = scene.order(&format!("n{round}-{nth}"), identity(nth));
            scene.broker.token(order)
        });
        futures::future::join_all(orders).await
    };
    // The first round fills pools and buffers that stay.
    let tokens = all(0).await;
    assert!(tokens.iter().all(Result::is_ok));
    drop(tokens);
    scene.server.forget();
    let before = resident();
    let tokens = all(1).await;
    assert!(tokens.iter().all(Result::is_ok));
    drop(tokens);
    assert_eq!(scene.server.seen().len(), MANY);
    scene.server.forget();
    let grown = resident().saturating_sub(before);
    println!("{MANY} identities: {grown} KiB more after all were asked once more");
    assert!(
        grown < 20 * MANY,
        "{grown} KiB more: a client of its own has tens each"
    );
    assert_eq!(scene.broker.flights.open(), 0);
    let connections = scene.server.accepted.load(Ordering::SeqCst);
    // A few more than run at once: the pool opens one when none is back at that very moment.
    assert!(connections <= MANY / 5, "{connections} connections");
}
