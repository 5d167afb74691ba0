//! Entra does not answer usefully: pauses, then all is well; a good token stays.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{expiry, logged_in, quick, requests_reach, short_lived, untouched};
use crate::fixture::{API_CLIENT, World, condition};

// Red when: Failure::retry_after is dropped in entra::error (429), or backoff::delay is zero.
#[tokio::test(flavor = "multi_thread")]
async fn while_entra_gives_no_token_it_is_asked_with_pauses_and_then_all_is_well() -> Result<()> {
    let world = World::start("outage").await?;
    world.ready("server", "server").await?;
    let mut dropped = world.api();
    dropped["spec"]["deletionPolicy"] = json!("Drop");
    let rounds = [
        (json!({"status": 429, "retryAfter": 3}), "EntraThrottled"),
        (json!({"status": 500}), "EntraUnavailable"),
        (json!({"garbage": true}), "EntraUnavailable"),
        (json!({"refuse": true}), "EntraUnavailable"),
        (json!({"empty": true}), "TokenInvalid"),
    ];
    for (round, (fault, reason)) in rounds.into_iter().enumerate() {
        // The Secret of the round before goes when the garbage collector comes to it.
        let secret = format!("api-{round}");
        dropped["spec"]["token"]["secret"] = json!({"name": secret});
        let before = world.token_requests(Some(API_CLIENT));
        world
            .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": fault}]))
            .await?;
        world.apply(&dropped).await?;
        let since = Instant::now();
        let message = world.not_ready("principal", "api", reason).await?;
        let unknown = world.get("principal", "api").await?.unwrap_or_default();
        assert_eq!(
            condition(&unknown, "Ready").status,
            "Unknown",
            "{fault}: {message}"
        );
        let who = format!("service account {}/orders-api", world.names.team);
        assert!(
            message.contains("Entra at https://") || message.contains(&who),
            "{fault}: {message}"
        );
        untouched(&world, "orders-api", &secret).await?;
        let third = requests_reach(&world, before + 2).await?;
        if reason == "EntraThrottled" {
            assert!(
                since.elapsed() >= Duration::from_secs(3),
                "asked after {third:?}, not 3 s"
            );
        }
        assert!(
            since.elapsed() >= Duration::from_millis(700),
            "{fault}: asked again at once"
        );
        world.faults(json!([])).await?;
        world.ready("principal", "api").await?;
        assert!(
            world.token_requests(Some(API_CLIENT)) - before <= 4,
            "{fault}: {}",
            world.stats()
        );
        assert_eq!(logged_in(&world, &secret).await?, "orders-api");
        world.delete("principal", "api").await?;
        world
            .wait("principal", "api", "gone", Value::is_null)
            .await?;
    }
    Ok(())
}

// Red when: report::token_verdict makes a passing failure of a living token False.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_entra_leaves_a_living_token_in_place_and_ready() -> Result<()> {
    let world = short_lived("renewal_outage", API_CLIENT).await?;
    world.apply(&quick(&world)).await?;
    let first = world.ready("principal", "api").await?;
    for fault in [
        json!({"status": 500}),
        json!({"status": 429, "retryAfter": 2}),
        json!({"cut": true}),
        json!({"empty": true}),
    ] {
        world
            .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": fault}]))
            .await?;
        let failing = |o: &Value| condition(o, "TokenIssued").reason == "RenewalFailing";
        let object = world
            .wait("principal", "api", "RenewalFailing", failing)
            .await?;
        let before = world.token_requests(Some(API_CLIENT));
        let secret = world.secret("api").await?;
        assert!(
            condition(&object, "TokenIssued").is("True") && condition(&object, "Ready").is("True"),
            "{object}"
        );
        assert!(
            condition(&object, "TokenIssued")
                .message
                .contains("is good until"),
            "{object}"
        );
        assert!(
            object["status"]["token"]["failures"].as_u64() > Some(0),
            "{object}"
        );
        requests_reach(&world, before + 1).await?;
        assert_eq!(world.secret("api").await?, secret, "the good token stays");
        assert_eq!(logged_in(&world, "api").await?, "orders-api");
        world.faults(json!([])).await?;
        let end = expiry(&object);
        let object = world
            .wait("principal", "api", "renewed", |o| {
                expiry(o) > end && !failing(o)
            })
            .await?;
        assert_eq!(object["status"]["token"]["failures"], Value::Null);
    }
    let object = world.ready("principal", "api").await?;
    assert!(expiry(&object) > expiry(&first));
    Ok(())
}
