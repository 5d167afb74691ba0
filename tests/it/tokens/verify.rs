//! `verifyLogin`: a token that the server refuses is not published; one that could not be tried is.

use anyhow::Result;
use serde_json::{Value, json};

use super::{expiry, logged_in, quick, short_lived};
use crate::fixture::{API_CLIENT, Condition, World, condition, plane};

const REFUSED: &str = "The access token is not one that this server likes";

fn refuse() -> Value {
    json!([{"on": "gateway", "match": {"role": "orders-api"}, "do": {"sqlState": "28000", "message": REFUSED}}])
}

fn verified(object: &Value) -> Condition {
    condition(object, "LoginVerified")
}

fn with(mut object: Value, verify: &str) -> Value {
    object["spec"]["token"]["verifyLogin"] = json!(verify);
    object
}

/// Sign-ins as the role that the gateway let through.
fn sign_ins(world: &World) -> u64 {
    let found = &world.stats()["connections"]["byRole"]["orders-api"];
    found.as_u64().unwrap_or_default()
}

// Red when: execute does not ask for `prove`, or `prove` publishes what was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_token_that_the_server_refuses_is_not_published() -> Result<()> {
    let world = World::start("login_refused").await?;
    world.faults(refuse()).await?;
    world.apply(&world.api()).await?;
    let message = world.not_ready("principal", "api", "LoginRefused").await?;
    assert!(
        message.contains(REFUSED) && message.contains("[SQLSTATE 28000]"),
        "{message}"
    );
    let object = world.get("principal", "api").await?.unwrap_or_default();
    assert!(verified(&object).is("False"), "{object}");
    assert!(condition(&object, "RoleSynced").is("True"), "{object}");
    assert!(condition(&object, "Stalled").is("True"), "{object}");
    assert_eq!(world.get("secret", "api").await?, None);
    world.faults(json!([])).await?;
    let again = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": "now"}}});
    world.patch("principal", "api", &again).await?;
    let object = world.ready("principal", "api").await?;
    let Condition { status, reason, .. } = verified(&object);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "SignedIn"));
    assert_eq!(sign_ins(&world), 1);
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}

// Red when: `prove` withholds a token whatever the failure, or plan() has no step Verify.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_tried_is_published_and_tried_later() -> Result<()> {
    let world = World::start("login_later").await?;
    let busy = json!([{"on": "gateway", "match": {"role": "orders-api"},
        "do": {"sqlState": "53300", "message": "sorry, too many clients already"}}]);
    world.faults(busy).await?;
    world.apply(&world.api()).await?;
    let object = world.ready("principal", "api").await?;
    assert!(verified(&object).is("Unknown"), "{object}");
    assert!(
        verified(&object).message.contains("too many clients"),
        "{object}"
    );
    let secret = world.secret("api").await?;
    world.faults(json!([])).await?;
    let tried = |object: &Value| verified(object).is("True");
    world.wait("principal", "api", "tried later", tried).await?;
    assert_eq!(world.secret("api").await?, secret);
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    Ok(())
}

// Red when: `before_publishing` takes a renewal for a first issue, or the check is repeated after a
// restart.
#[tokio::test(flavor = "multi_thread")]
async fn first_issue_signs_in_once_and_never_not_at_all() -> Result<()> {
    let mut world = short_lived("login_once", API_CLIENT).await?;
    world.apply(&quick(&world)).await?;
    let object = world.ready("principal", "api").await?;
    assert!(verified(&object).is("True"), "{object}");
    world.wait_requests(API_CLIENT, 3).await?;
    world.kill_operator();
    world.start_operator().await?;
    let before = world.token_requests(Some(API_CLIENT));
    world.wait_requests(API_CLIENT, before + 2).await?;
    assert_eq!(sign_ins(&world), 1);
    world.apply(&with(quick(&world), "Never")).await?;
    let gone = |object: &Value| {
        verified(object).status.is_empty() && condition(object, "Ready").is("True")
    };
    world.wait("principal", "api", "no condition", gone).await?;
    Ok(())
}

// Red when: `before_publishing` knows no Always.
#[tokio::test(flavor = "multi_thread")]
async fn always_keeps_the_present_token_when_the_next_one_is_refused() -> Result<()> {
    let world = short_lived("login_always", API_CLIENT).await?;
    world.apply(&with(quick(&world), "Always")).await?;
    world.ready("principal", "api").await?;
    world.wait_requests(API_CLIENT, 3).await?;
    world.faults(refuse()).await?;
    let refused = |object: &Value| verified(object).is("False");
    let object = world.wait("principal", "api", "refused", refused).await?;
    let issued = condition(&object, "TokenIssued");
    assert_eq!(issued.reason, "LoginRefused", "{object}");
    assert!(issued.message.contains("is good until"), "{object}");
    let secret = world.secret("api").await?;
    world.faults(json!([])).await?;
    let now = json!({"metadata": {"annotations": {"entrapostgres.io/renew": "now"}}});
    world.patch("principal", "api", &now).await?;
    let end = expiry(&object);
    let renewed = |object: &Value| verified(object).is("True") && expiry(object) > end;
    world.wait("principal", "api", "renewed", renewed).await?;
    assert_ne!(world.secret("api").await?["password"], secret["password"]);
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}

// Red when: a renewal waits for a server that is away, or the sign-ins take the connections of the
// session.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_always_tried_is_renewed_while_the_server_is_away() -> Result<()> {
    let world = short_lived("login_away", API_CLIENT).await?;
    world.apply(&with(quick(&world), "Always")).await?;
    world.ready("principal", "api").await?;
    world
        .faults(json!([{"on": "gateway", "do": {"refuse": true}}]))
        .await?;
    world
        .sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pg-operators'",
        )
        .await?;
    let untried = |object: &Value| {
        verified(object).is("Unknown") && verified(object).reason == "ServerUnreachable"
    };
    let object = world.wait("principal", "api", "not tried", untried).await?;
    let end = expiry(&object);
    let renewed = |object: &Value| untried(object) && expiry(object) > end;
    world.wait("principal", "api", "renewed", renewed).await?;
    world.faults(json!([])).await?;
    let tried = |object: &Value| verified(object).is("True");
    world.wait("principal", "api", "tried", tried).await?;
    Ok(())
}

// Red when: the first sync writes its status before the sign-in.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_costs_no_write() -> Result<()> {
    let world = World::start("login_writes").await?;
    world.ready("server", "server").await?;
    let mark = plane().audit().mark()?;
    world.apply(&world.api()).await?;
    let object = world.ready("principal", "api").await?;
    assert!(verified(&object).is("True"), "{object}");
    let mut writes = world.writes_since(mark)?;
    // The event comes after the status.
    writes.retain(|write| write.contains("/api") && !write.contains(" events "));
    writes.sort();
    let team = &world.names.team;
    assert_eq!(
        writes,
        [
            format!("create secrets {team}/api"),
            format!("patch entrapostgresprincipals/status {team}/api"),
        ]
    );
    Ok(())
}
