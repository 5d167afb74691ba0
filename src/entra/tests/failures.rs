//! What becomes of an order that gets no token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::{Scripted, Server, jwt};
use super::{CLIENT, Scene, TENANT, is, secret, workload};
use crate::entra::breaker::SLOW;
use crate::entra::{ExchangeKind, OperatorEnvironment, Outcome, locked};
use crate::model::{Class, Cloud, Reason};
use crate::ports::TokenSource as _;

#[tokio::test]
async fn one_exchange_is_one_request_whatever_the_answer() {
    for (status, retry_after) in [(500, None), (503, Some("7")), (408, None), (429, Some("7"))] {
        let scene = Scene::new().await;
        scene.server.will(Scripted {
            status,
            retry_after,
            body: String::new(),
        });
        let order = scene.order("orders", secret());
        let failure = scene.broker.token(order).await.unwrap_err();
        let (reason, outcome) = match status {
            429 => (Reason::EntraThrottled, Outcome::Throttled),
            _ => (Reason::EntraUnavailable, Outcome::Unavailable),
        };
        is(&failure, Class::Transient, reason, &scene.server.url);
        let seven = retry_after.map(|_| Duration::from_secs(7));
        assert_eq!(failure.retry_after, seven);
        assert_eq!(scene.server.seen().len(), 1, "{status}");
        assert_eq!(scene.broker.stats().get(ExchangeKind::Token, outcome), 1);
    }
}

// Red when: a 429 closes more than the circuit of its client, or not even that.
#[tokio::test]
async fn a_client_that_was_asked_for_a_pause_pauses_alone() {
    let scene = Scene::new().await;
    scene.server.will(Scripted {
        status: 429,
        retry_after: Some("60"),
        body: String::new(),
    });
    let order = scene.order("orders", secret());
    scene.broker.token(order.clone()).await.unwrap_err();
    let failure = scene.broker.token(order).await.unwrap_err();
    is(
        &failure,
        Class::Waiting,
        Reason::EntraThrottled,
        "slow down with this identity",
    );
    assert!(failure.retry_after.unwrap() > Duration::from_secs(50));
    assert_eq!(scene.server.seen().len(), 1);
    let start = Instant::now();
    let other = scene.order("billing", workload("app"));
    scene.broker.token(other).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(scene.server.seen().len(), 2);
}

// Red when: a request that was never sent counts as a failure of the authority (findings A1), or an id of
// any length becomes part of the address.
#[tokio::test]
async fn what_is_never_sent_holds_up_nobody() {
    let scene = Scene::new().await;
    let long = "a".repeat(70_000);
    locked(&scene.cluster.account).tenant_id = Some(long.clone());
    let failure = scene
        .broker
        .token(scene.order("evil", workload("app")))
        .await;
    is(
        &failure.unwrap_err(),
        Class::Denied,
        Reason::IdentityIncomplete,
        "the tenant id has 70000 bytes and may have 253",
    );
    locked(&scene.cluster.account).tenant_id = Some(TENANT.to_owned());
    locked(&scene.cluster.account).client_id = Some("c".repeat(65));
    let failure = scene
        .broker
        .token(scene.order("evil", workload("app")))
        .await;
    is(
        &failure.unwrap_err(),
        Class::Denied,
        Reason::IdentityIncomplete,
        "may have 64",
    );
    locked(&scene.cluster.secret).text = long;
    let failure = scene.broker.token(scene.order("evil", secret())).await;
    is(
        &failure.unwrap_err(),
        Class::Denied,
        Reason::ClientSecretInvalid,
        "70000 bytes",
    );
    assert!(scene.server.seen().is_empty());
    locked(&scene.cluster.secret).text = "good".to_owned();
    let start = Instant::now();
    scene
        .broker
        .token(scene.order("orders", secret()))
        .await
        .unwrap();
    assert!(start.elapsed() < SLOW, "nothing is in doubt");
}

#[tokio::test]
async fn the_number_in_an_error_survives_the_escapes_of_json() {
    let scene = Scene::new().await;
    let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. Ensure it\u0027s the \"value\" for app \u0027c\u0027. Trace ID: 1234\r\nCorrelation ID: 5678\r\nTimestamp: 2026-11-24 03:00:00Z","error_codes":[7000215],"error_uri":"https://login.example/error?code=7000215"}"#;
    scene.server.will_answer(401, body);
    let order = scene.order("orders", secret());
    let failure = scene.broker.token(order).await.unwrap_err();
    is(
        &failure,
        Class::Denied,
        Reason::ClientSecretInvalid,
        "it's the \"value\"",
    );
    for absent in ["Trace", "1234", "5678", "Timestamp", "first~secret"] {
        assert!(!failure.message.contains(absent), "{failure}");
    }
    assert_eq!(
        scene
            .broker
            .stats()
            .get(ExchangeKind::Token, Outcome::Refused),
        1
    );
    let order = scene.order("orders", secret());
    assert!(
        scene.broker.token(order).await.is_ok(),
        "a refusal closes no gate"
    );
}

#[tokio::test]
async fn a_missing_federated_credential_is_named_as_it_must_be_made() {
    let scene = Scene::new().await;
    let body = r#"{"error":"invalid_client","error_description":"AADSTS700213: No matching federated identity record found for presented assertion subject \u0027x\u0027.","error_codes":[700213]}"#;
    scene.server.will_answer(401, body);
    let order = scene.order("orders", workload("app"));
    let failure = scene.broker.token(order).await.unwrap_err();
    let reason = Reason::FederatedCredentialMissing;
    is(
        &failure,
        Class::Denied,
        reason,
        "issuer https://oidc.example/",
    );
    is(
        &failure,
        Class::Denied,
        reason,
        "subject system:serviceaccount:orders:app",
    );
    is(
        &failure,
        Class::Denied,
        reason,
        "audience api://AzureADTokenExchange",
    );
    is(&failure, Class::Denied, reason, CLIENT);
    assert!(!failure.message.contains("assertion0"), "{failure}");
}

#[tokio::test]
async fn garbage_nothing_and_empty_tokens_are_failures() {
    let good_but_old = format!(r#"{{"access_token":"{}"}}"#, jwt(TENANT, 1_000));
    for (status, body, reason) in [
        (
            200,
            "<html>Sign in to the network</html>",
            Reason::EntraUnavailable,
        ),
        (200, "", Reason::EntraUnavailable),
        (302, "", Reason::EntraUnavailable),
        (403, "<html>Blocked</html>", Reason::EntraUnavailable),
        (200, "{}", Reason::TokenInvalid),
        (200, r#"{"access_token":"opaque"}"#, Reason::TokenInvalid),
        (200, good_but_old.as_str(), Reason::TokenInvalid),
    ] {
        let scene = Scene::new().await;
        scene.server.will_answer(status, body);
        let order = scene.order("orders", secret());
        let failure = scene.broker.token(order).await.unwrap_err();
        is(&failure, Class::Transient, reason, "");
        assert!(!failure.message.contains("html"), "{failure}");
        assert_eq!(scene.server.seen().len(), 1, "{body}");
    }
}

#[tokio::test]
async fn ids_stand_in_one_place_and_are_complete() {
    let scene = Scene::new().await;
    let mut identity = workload("app");
    identity.workload_identity.as_mut().unwrap().client_id = Some(CLIENT.to_owned());
    let failure = scene
        .broker
        .token(scene.order("orders", identity))
        .await
        .unwrap_err();
    let reason = Reason::IdentityIncomplete;
    is(
        &failure,
        Class::Denied,
        reason,
        "azure.workload.identity/client-id",
    );
    is(&failure, Class::Denied, reason, "two places");

    locked(&scene.cluster.account).tenant_id = None;
    let failure = scene
        .broker
        .token(scene.order("orders", workload("app")))
        .await
        .unwrap_err();
    is(
        &failure,
        Class::Denied,
        reason,
        "azure.workload.identity/tenant-id",
    );

    locked(&scene.cluster.account).tenant_id = Some("../evil".to_owned());
    let failure = scene
        .broker
        .token(scene.order("orders", workload("app")))
        .await
        .unwrap_err();
    is(&failure, Class::Denied, reason, "tenant");
    assert!(scene.server.seen().is_empty());

    let environment = OperatorEnvironment {
        tenant_id: Some(TENANT.to_owned()),
        ..OperatorEnvironment::default()
    };
    let scene = Scene::with(environment).await;
    locked(&scene.cluster.account).tenant_id = None;
    scene
        .broker
        .token(scene.order("orders", workload("app")))
        .await
        .unwrap();
    assert!(
        scene.server.seen()[0]
            .path
            .starts_with(&format!("/{TENANT}/"))
    );
}

#[tokio::test]
async fn an_untrusted_authority_gets_no_request_and_a_replaced_ca_file_is_read() {
    let server = Server::https().await;
    let other = Server::https().await;
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(other.cloud().ca_file.unwrap(), ca_file.path()).unwrap();
    let cloud = Arc::new(Cloud {
        ca_file: Some(ca_file.path().to_owned()),
        ..server.cloud()
    });
    let trusted = server.cloud().ca_file.unwrap();
    let scene = Scene::around(server, cloud, OperatorEnvironment::default());
    let order = scene.order("orders", secret());
    let failure = scene.broker.token(order.clone()).await.unwrap_err();
    is(
        &failure,
        Class::Transient,
        Reason::EntraUnavailable,
        "caFile",
    );
    is(
        &failure,
        Class::Transient,
        Reason::EntraUnavailable,
        "invalid peer certificate",
    );
    assert!(scene.server.seen().is_empty());
    std::fs::copy(trusted, ca_file.path()).unwrap();
    let start = Instant::now();
    scene.broker.token(order).await.unwrap();
    assert!(start.elapsed() >= SLOW / 2, "nothing is sent at once");
}

#[tokio::test]
async fn a_refused_connection_and_an_unusable_ca_file_say_what_to_look_at() {
    let mut scene = Scene::new().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    scene.cloud = Arc::new(Cloud {
        authority: format!("https://localhost:{port}"),
        ..scene.server.cloud()
    });
    let failure = scene
        .broker
        .token(scene.order("orders", secret()))
        .await
        .unwrap_err();
    is(
        &failure,
        Class::Transient,
        Reason::EntraUnavailable,
        "refused",
    );
    scene.cloud = Arc::new(Cloud {
        ca_file: Some("/nonexistent/ca.pem".into()),
        ..scene.server.cloud()
    });
    let failure = scene
        .broker
        .token(scene.order("orders", secret()))
        .await
        .unwrap_err();
    is(
        &failure,
        Class::Transient,
        Reason::EntraUnavailable,
        "/nonexistent/ca.pem",
    );
    scene.cloud = Arc::new(Cloud {
        authority: "http://localhost".to_owned(),
        ..scene.server.cloud()
    });
    let failure = scene
        .broker
        .token(scene.order("orders", secret()))
        .await
        .unwrap_err();
    is(&failure, Class::Denied, Reason::EntraUnavailable, "https");
}

#[tokio::test(start_paused = true)]
async fn a_silent_authority_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut scene = Scene::new().await;
    scene.cloud = Arc::new(Cloud {
        authority: format!("https://localhost:{port}"),
        ..scene.server.cloud()
    });
    let start = tokio::time::Instant::now();
    let failure = scene
        .broker
        .token(scene.order("orders", secret()))
        .await
        .unwrap_err();
    is(
        &failure,
        Class::Transient,
        Reason::EntraUnavailable,
        "in time",
    );
    assert!(start.elapsed() <= Duration::from_secs(20));
}
