//! Secrets that cannot be written as usual: immutable, deleted meanwhile, in a namespace that goes.

use std::time::Duration;

use anyhow::Result;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};

use crate::fixture::{API_CLIENT, SOON, World, condition, plane};

// Red when: plan::token_work does not know Content::Immutable (a token is asked for at each renewal, and
// the API server's refusal is reported).
#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_secret_is_said_to_be_one_and_costs_no_token() -> Result<()> {
    let world = World::start("immutable").await?;
    world.apply(&world.api()).await?;
    let before = world.ready("principal", "api").await?;
    world
        .patch("secret", "api", &json!({"immutable": true}))
        .await?;
    let message = world
        .not_ready("principal", "api", "SecretImmutable")
        .await?;
    assert!(message.contains("delete the Secret"), "{message}");
    let object = world.get("principal", "api").await?.unwrap_or_default();
    assert!(condition(&object, "TokenIssued").is("False"));
    // Until when the token is good is still said.
    assert_eq!(
        object["status"]["token"]["expiresAt"],
        before["status"]["token"]["expiresAt"]
    );
    world
        .patch(
            "principal",
            "api",
            &json!({"spec": {"token": {"secret": {"formats": ["Uri"]}}}}),
        )
        .await?;
    world
        .not_ready("principal", "api", "SecretImmutable")
        .await?;
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    world.delete("secret", "api").await?;
    world.ready("principal", "api").await?;
    assert!(world.secret("api").await?.contains_key("uri"));
    assert_eq!(world.token_requests(Some(API_CLIENT)), 2);
    Ok(())
}

// Red when: Target::after_conflict gives up where nothing is left, or asks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_deleted_while_its_token_is_on_the_way_is_made_with_it() -> Result<()> {
    let world = World::start("deleted_meanwhile").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let first = world.secret("api").await?["password"].clone();
    let slow = json!({"delayMs": 3000});
    let mark = plane().audit().mark()?;
    world
        .faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": slow, "times": 1}]))
        .await?;
    world
        .patch(
            "secret",
            "api",
            &json!({"stringData": {"password": "by hand"}}),
        )
        .await?;
    // Kubernetes was asked for the account's token: the exchange is under way.
    let deadline = tokio::time::Instant::now() + SOON;
    while world.token_requests_of_kubernetes(mark)? == 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "no exchange was begun"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    world.delete("secret", "api").await?;
    let again = |o: &Value| {
        o["data"]["password"]
            .as_str()
            .is_some_and(|text| text.len() > 500)
    };
    world.wait("secret", "api", "made again", again).await?;
    world.ready("principal", "api").await?;
    assert_ne!(world.secret("api").await?["password"], first);
    assert_eq!(
        world.token_requests(Some(API_CLIENT)),
        2,
        "{}",
        world.log_tail()
    );
    Ok(())
}

// Red when: a Secret without our label counts as absent (it is made again, or the token is renewed).
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_left_the_watch_is_not_absent() -> Result<()> {
    let mut world = World::start("unlabelled").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let before = world.get("secret", "api").await?.unwrap_or_default();
    world.kill_operator();
    let label = "app.kubernetes.io/managed-by";
    world
        .patch(
            "secret",
            "api",
            &json!({"metadata": {"labels": {label: null}}}),
        )
        .await?;
    world.start_operator().await?;
    let labelled = |o: &Value| o["metadata"]["labels"][label] == "entra-postgres-operator";
    let after = world
        .wait("secret", "api", "labelled again", labelled)
        .await?;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["data"], before["data"]);
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    Ok(())
}

// Red when: Call::refused does not know the cause (each try asks Entra within seconds).
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_goes_ends_in_peace() -> Result<()> {
    let world = World::start("terminating").await?;
    let mut object = world.api();
    // It holds the object, and so the namespace, back.
    object["metadata"]["finalizers"] = json!(["example.com/held"]);
    world.apply(&object).await?;
    world.ready("principal", "api").await?;
    let since = std::time::Instant::now();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(world.client.clone());
    namespaces
        .delete(&world.names.team, &DeleteParams::default())
        .await?;
    world.wait("secret", "api", "gone", Value::is_null).await?;
    let deleting = |o: &Value| !o["metadata"]["deletionTimestamp"].is_null();
    world
        .wait("principal", "api", "is being deleted", deleting)
        .await?;
    let asked = world.token_requests(Some(API_CLIENT));
    let may = World::tries_since(since);
    assert!(asked <= may, "{asked} requests: {}", world.log_tail());
    world
        .patch(
            "principal",
            "api",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await?;
    world
        .wait("principal", "api", "gone", Value::is_null)
        .await?;
    Ok(())
}
