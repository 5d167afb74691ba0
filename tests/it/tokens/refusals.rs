//! Everything that Entra may say instead of giving a token, and tokens that are not worth having:
//! each shows as a reason with what to do, and passes when its cause is gone.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::{client_secret, expiry, importer, logged_in, short_lived, untouched};
use crate::fixture::{API_CLIENT, World, condition};

/// The number, the reason it becomes, and words of what to do.
const NUMBERS: [(u32, u16, &str, &str); 21] = [
    (
        70021,
        400,
        "FederatedCredentialMissing",
        "add one with issuer",
    ),
    (
        700_211,
        401,
        "FederatedCredentialMissing",
        "add one with issuer",
    ),
    (
        700_213,
        401,
        "FederatedCredentialMissing",
        "add one with issuer",
    ),
    (
        7_002_131,
        401,
        "FederatedCredentialMissing",
        "add one with issuer",
    ),
    (700_024, 401, "EntraRefused", "compare the clock"),
    (
        700_027,
        401,
        "EntraRefused",
        "publish the cluster's present keys",
    ),
    (
        700_011,
        400,
        "ApplicationNotFound",
        "correct client id or tenant id",
    ),
    (
        700_016,
        400,
        "ApplicationNotFound",
        "correct client id or tenant id",
    ),
    (7_000_215, 401, "ClientSecretInvalid", "not its id"),
    (7_000_222, 401, "ClientSecretInvalid", "make a new one"),
    (50076, 400, "EntraRefused", "exclude it from that policy"),
    (500_011, 400, "EntraRefused", "is missing in the tenant"),
    (90002, 400, "TenantNotFound", "correct the tenant id"),
    (53003, 400, "EntraRefused", "Conditional Access"),
    (90006, 400, "EntraUnavailable", "passes by itself"),
    (90012, 400, "EntraUnavailable", "passes by itself"),
    (90024, 400, "EntraUnavailable", "passes by itself"),
    (90033, 500, "EntraUnavailable", "passes by itself"),
    (90090, 400, "EntraUnavailable", "passes by itself"),
    (90055, 400, "EntraThrottled", "slow down"),
    (50196, 400, "EntraThrottled", "slow down"),
];

// Red when: a number falls out of entra::aadsts, or is looked for in the SDK's error (which has
// neither number nor status when the body has escapes, as the lab's has).
#[tokio::test(flavor = "multi_thread")]
async fn each_number_becomes_a_reason_with_what_to_do() -> Result<()> {
    let mut world = World::start("aadsts").await?;
    world.ready("server", "server").await?;
    for (nth, (number, status, reason, words)) in NUMBERS.into_iter().enumerate() {
        if reason == "EntraThrottled" {
            // The pause of the number before holds for this client.
            world.kill_operator();
            world.start_operator().await?;
            world.ready("server", "server").await?;
        }
        world
            .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT},
                            "do": {"status": status, "aadsts": number}}]))
            .await?;
        let name = format!("n{nth}");
        let mut object = world.api();
        object["metadata"]["name"] = json!(name);
        world.apply(&object).await?;
        // Between attempts the message says that nothing is sent.
        world
            .wait(
                "principal",
                &name,
                &format!("{number}: {words}"),
                |object| {
                    let ready = condition(object, "Ready");
                    ready.reason == reason && !ready.is("True") && ready.message.contains(words)
                },
            )
            .await?;
        untouched(&world, "orders-api", &name).await?;
        world.faults(json!([])).await?;
        world.delete("principal", &name).await?;
        world
            .wait("principal", &name, "gone", Value::is_null)
            .await?;
    }
    Ok(())
}

// Red when: entra::claims::check lets a token without oid, exp or text through, or refuses one that
// only lives short.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_empty_or_ends_at_once_is_not_published() -> Result<()> {
    let world = World::start("worthless").await?;
    world.ready("server", "server").await?;
    let now = lab::state::unix_now();
    for (fault, reason, words) in [
        (json!({"empty": true}), "TokenInvalid", "is empty"),
        (
            json!({"status": 200, "body": "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"\"}"}),
            "TokenInvalid",
            "is empty",
        ),
        (
            json!({"claims": {"exp": null}}),
            "TokenInvalid",
            "lacks one of the claims",
        ),
        (
            json!({"claims": {"exp": now - 1}}),
            "TokenInvalid",
            "already ended",
        ),
        (
            json!({"claims": {"exp": now + 2}}),
            "TokenInvalid",
            "within seconds",
        ),
    ] {
        let (before, since) = (world.token_requests(Some(API_CLIENT)), Instant::now());
        world
            .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": fault}]))
            .await?;
        world.apply(&world.api()).await?;
        let message = world.not_ready("principal", "api", reason).await?;
        assert!(message.contains(words), "{fault}: {message}");
        untouched(&world, "orders-api", "api").await?;
        let asked = world.token_requests(Some(API_CLIENT)) - before;
        let may = World::tries_since(since);
        assert!(asked <= may, "{fault}: {}", world.stats());
        world.delete("principal", "api").await?;
        world
            .wait("principal", "api", "gone", Value::is_null)
            .await?;
    }
    Ok(())
}

// Red when: a token that ends within a minute is refused, or asked for without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_within_a_minute_is_published_and_renewed_in_time() -> Result<()> {
    let world = short_lived("short", API_CLIENT).await?;
    world
        .change_directory(|directory| {
            super::service(directory, API_CLIENT).token_lifetime_seconds = Some(20);
        })
        .await?;
    world.apply(&world.api()).await?;
    let mut end = expiry(&world.ready("principal", "api").await?);
    for _ in 0..2 {
        assert_eq!(logged_in(&world, "api").await?, "orders-api");
        let object = world
            .wait("principal", "api", "renewed", |object| expiry(object) > end)
            .await?;
        assert!(condition(&object, "Ready").is("True"));
        end = expiry(&object);
    }
    assert!(
        world.token_requests(Some(API_CLIENT)) <= 5,
        "{}",
        world.stats()
    );
    Ok(())
}

/// Takes an object away with its Secret, without waiting for the garbage collector.
async fn forget(world: &World, name: &str, secret: Option<&str>) -> Result<()> {
    world.delete("principal", name).await?;
    world
        .wait("principal", name, "gone", Value::is_null)
        .await?;
    let secret = secret.unwrap_or(name);
    // Perhaps it is collected already.
    let _ = world.delete("secret", secret).await;
    world.wait("secret", secret, "gone", Value::is_null).await?;
    Ok(())
}

// Red when: a service account's token lives shorter than the clocks may differ, or a refusal because
// of clocks is taken for another.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_by_ten_minutes_are_endured_or_named() -> Result<()> {
    let world = World::start("clocks").await?;
    world.ready("server", "server").await?;
    world
        .apply(&client_secret(
            &world,
            "importer",
            json!({"secret": super::IMPORTER_SECRET}),
        ))
        .await?;
    let skewed = async |seconds: i64| {
        world
            .faults(json!([{"on": "token", "do": {"clockSkewSeconds": seconds}}]))
            .await
    };
    let mut secret = world.principal(
        "importer",
        "orders-importer",
        json!({"type": "ServicePrincipal"}),
    );
    secret["spec"]["token"] = json!({
        "identity": importer("importer"), "secret": {"name": "importer-db"},
    });
    // Entra's clock is ahead.
    skewed(600).await?;
    for object in [world.api(), secret.clone()] {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        world.apply(&object).await?;
        world.ready("principal", &name).await?;
        let secret = object["spec"]["token"]["secret"]["name"].as_str();
        forget(&world, &name, secret).await?;
    }
    // It is behind: a Kubernetes token is not valid there yet, a client secret always is.
    skewed(-600).await?;
    world.apply(&world.api()).await?;
    let message = world.not_ready("principal", "api", "EntraRefused").await?;
    assert!(
        message.contains("compare the clock of the cluster's control plane"),
        "{message}"
    );
    world.apply(&secret).await?;
    world.ready("principal", "importer").await?;
    assert_eq!(logged_in(&world, "importer-db").await?, "orders-importer");
    // The next one is due when two thirds of a life of 60 minutes or more are over, by the operator's own clock.
    let object = world.ready("principal", "importer").await?;
    let due = object["status"]["token"]["renewAt"]
        .as_str()
        .unwrap_or_default();
    let due = due.parse::<jiff::Timestamp>()?.as_second();
    assert!(
        due > jiff::Timestamp::now().as_second() + 1800,
        "{object:#}"
    );
    // Set right, and nobody touches anything.
    world.faults(json!([])).await?;
    world.ready("principal", "api").await?;
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}
