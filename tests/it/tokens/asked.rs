//! What somebody asks for, and what a restart must not forget: annotation renew, failures, a
//! renewBefore that is too long.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{expiry, logged_in, requests_reach, service};
use crate::fixture::{API_CLIENT, Setup, World, condition};

fn renew(value: &str) -> Value {
    json!({"metadata": {"annotations": {"entrapostgres.io/renew": value}}})
}

// Red when: TokenRecord does not keep the value (each pass renews), or publish::renew does not write
// it (so does each start).
#[tokio::test(flavor = "multi_thread")]
async fn a_new_value_of_the_annotation_renews_once_also_over_a_restart() -> Result<()> {
    let mut world = World::start("renew_now").await?;
    world.apply(&world.api()).await?;
    let first = world.ready("principal", "api").await?;
    for (round, value) in [(2, "monday"), (3, "tuesday"), (3, "tuesday")] {
        world.patch("principal", "api", &renew(value)).await?;
        requests_reach(&world, round).await?;
        let annotation = "entrapostgres.io/renewed";
        world
            .wait("secret", "api", "it remembers the value", |secret| {
                secret["metadata"]["annotations"][annotation] == value
            })
            .await?;
        assert_eq!(world.token_requests(Some(API_CLIENT)), round);
    }
    world.kill_operator();
    world.start_operator().await?;
    let object = world.ready("principal", "api").await?;
    assert!(expiry(&object) >= expiry(&first));
    // A change that makes it look at everything again.
    world
        .patch(
            "principal",
            "api",
            &json!({"spec": {"token": {"database": "orders"}}}),
        )
        .await?;
    world
        .wait("secret", "api", "the other database", |secret| {
            secret["data"]["database"] == "b3JkZXJz"
        })
        .await?;
    assert_eq!(world.token_requests(Some(API_CLIENT)), 3);
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}

// Red when: Memory::with does not take failures from the status.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_on_over_a_restart() -> Result<()> {
    let mut world = World::start("failures_stay").await?;
    world.ready("server", "server").await?;
    world
        .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": {"status": 401, "aadsts": 7_000_215}}]))
        .await?;
    let mut object = world.api();
    object["spec"]["principal"]["objectId"] = json!(crate::fixture::API_ID);
    world.apply(&object).await?;
    let failures = |object: &Value| object["status"]["token"]["failures"].as_u64().unwrap_or(0);
    let again = json!({"metadata": {"annotations": {"entrapostgres.io/renew": "1"}}});
    world
        .wait("principal", "api", "failed", |object| failures(object) == 1)
        .await?;
    world.patch("principal", "api", &again).await?;
    world
        .wait("principal", "api", "failed again", |object| {
            failures(object) == 2
        })
        .await?;
    world.kill_operator();
    world.start_operator().await?;
    let object = world
        .wait("principal", "api", "failed a third time", |object| {
            failures(object) > 2
        })
        .await?;
    assert_eq!(failures(&object), 3);
    assert_eq!(object["status"]["binding"], Value::Null);
    world.faults(json!([])).await?;
    let now = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": "now"}}});
    world.patch("principal", "api", &now).await?;
    let object = world.ready("principal", "api").await?;
    assert_eq!(object["status"]["token"]["failures"], Value::Null);
    Ok(())
}

// Red when: refresh::is_clamped is always false, or report says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_renew_before_beyond_the_life_is_two_thirds_of_it_and_said() -> Result<()> {
    let world = World::with(
        "clamped",
        Setup {
            directory: Box::new(|directory, _| {
                service(directory, API_CLIENT).token_lifetime_seconds = Some(600);
            }),
            ..Setup::default()
        },
    )
    .await?;
    let mut object = world.api();
    object["spec"]["token"]["renewBefore"] = json!("2h");
    world.apply(&object).await?;
    let object = world.ready("principal", "api").await?;
    let said = condition(&object, "TokenIssued").message;
    assert!(
        said.contains("renewBefore") && said.contains("two thirds"),
        "{said}"
    );
    let time = |field: &str| -> Result<jiff::Timestamp> {
        let text = object["status"]["token"][field]
            .as_str()
            .unwrap_or_default();
        Ok(text.parse()?)
    };
    let left = time("expiresAt")?
        .duration_since(time("renewAt")?)
        .as_secs();
    assert!(
        (400..=421).contains(&left),
        "renewed {left} s before the end"
    );
    Ok(())
}

// Red when: a 429 closes more than the circuit of its client (findings A4).
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_entra_throttles_does_not_hold_up_the_others() -> Result<()> {
    let world = World::start("throttled_alone").await?;
    world.ready("server", "server").await?;
    let throttle = json!({"status": 429, "retryAfter": 600});
    world
        .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": throttle}]))
        .await?;
    let mut object = world.api();
    object["spec"]["principal"]["objectId"] = json!(crate::fixture::API_ID);
    world.apply(&object).await?;
    world
        .not_ready("principal", "api", "EntraThrottled")
        .await?;
    let mut group = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    group["spec"]["token"] =
        json!({"identity": crate::fixture::workload_identity("orders-reports")});
    world.apply(&group).await?;
    world.ready("principal", "readonly").await?;
    renewed_at_once(&world).await
}

// Red when: an id of any length becomes part of a request, and what is never sent counts as a failure of
// the authority (findings A1).
#[tokio::test(flavor = "multi_thread")]
async fn identities_that_cannot_be_asked_for_hold_up_nobody() -> Result<()> {
    let world = World::start("unsendable").await?;
    world.ready("server", "server").await?;
    let mut group = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    group["spec"]["token"] =
        json!({"identity": crate::fixture::workload_identity("orders-reports")});
    world.apply(&group).await?;
    world.ready("principal", "readonly").await?;
    for nth in 0..20 {
        let name = format!("evil-{nth}");
        let mut account = crate::fixture::service_account(&world.names.team, &name, API_CLIENT);
        let annotations = &mut account["metadata"]["annotations"];
        annotations["azure.workload.identity/tenant-id"] = json!("a".repeat(70_000));
        world.apply(&account).await?;
        let mut object = world.principal(&name, &name, json!({"type": "ManagedIdentity"}));
        object["spec"]["token"] = json!({"identity": crate::fixture::workload_identity(&name)});
        world.apply(&object).await?;
    }
    for nth in 0..20 {
        let message = world
            .not_ready("principal", &format!("evil-{nth}"), "IdentityIncomplete")
            .await?;
        assert!(
            message.contains("70000 bytes and may have 253"),
            "{message}"
        );
    }
    renewed_at_once(&world).await
}

/// Principal `readonly` gets a new token when it asks for one.
async fn renewed_at_once(world: &World) -> Result<()> {
    let since = Instant::now();
    world.patch("principal", "readonly", &renew("now")).await?;
    world
        .wait("secret", "readonly", "renewed", |secret| {
            secret["metadata"]["annotations"]["entrapostgres.io/renewed"] == "now"
        })
        .await?;
    let took = since.elapsed();
    // An authority in trouble is asked again after 1.25 s, or 5 s, and a throttled client after 600 s.
    assert!(took < Duration::from_secs(10), "held up for {took:?}");
    Ok(())
}
