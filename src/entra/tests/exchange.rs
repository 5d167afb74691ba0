//! What one order sends, and what it gets.

use std::time::Duration;

use super::server::{LIFE, OBJECT};
use super::{CLIENT, Scene, TENANT, is, managed, operator, real_now, secret, workload};
use crate::entra::breaker::SLOW;
use crate::entra::{ExchangeKind, OperatorEnvironment, Outcome, locked};
use crate::model::{Class, Reason};
use crate::ports::TokenSource as _;

const ASSERTION: &str = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
                         client-assertion-type%3Ajwt-bearer";

#[tokio::test]
async fn a_service_account_is_exchanged_for_a_token_of_its_application() {
    let scene = Scene::new().await;
    let before = real_now().as_second();
    let order = scene.order("orders", workload("app"));
    let token = scene.broker.token(order).await.unwrap();
    assert_eq!(token.object_id.as_str(), OBJECT);
    assert!((LIFE..LIFE + 20).contains(&(token.expires_at.as_second() - before)));
    assert_eq!(
        *locked(&scene.cluster.audiences),
        ["api://AzureADTokenExchange"]
    );
    let seen = scene.server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, format!("/{TENANT}/oauth2/v2.0/token"));
    for part in [
        ASSERTION,
        ".assertion0&",
        &format!("client_id={CLIENT}"),
        "scope=https%3A%2F%2Fossrdbms-aad.database.windows.net%2F.default",
    ] {
        assert!(seen[0].body.contains(part), "{part} in {}", seen[0].body);
    }
}

#[tokio::test]
async fn each_call_gets_a_new_token_although_the_last_one_lives() {
    let scene = Scene::new().await;
    let order = scene.order("orders", secret());
    let first = scene.broker.token(order.clone()).await.unwrap();
    let second = scene.broker.token(order).await.unwrap();
    assert!(second.expires_at > first.expires_at);
    assert_eq!(scene.server.seen().len(), 2);
    assert_eq!(
        scene.broker.stats().get(ExchangeKind::Token, Outcome::Ok),
        2
    );
}

#[tokio::test]
async fn a_client_secret_is_read_at_each_exchange() {
    let scene = Scene::new().await;
    let order = scene.order("orders", secret());
    scene.broker.token(order.clone()).await.unwrap();
    locked(&scene.cluster.secret).text = "second~secret".to_owned();
    scene.broker.token(order).await.unwrap();
    let seen = scene.server.seen();
    assert!(seen[0].body.contains("client_secret=first%7Esecret&"));
    assert!(seen[1].body.contains("client_secret=second%7Esecret&"));
}

#[tokio::test]
async fn equal_orders_at_the_same_time_share_one_exchange() {
    let scene = Scene::new().await;
    scene.server.close();
    let order = scene.order("orders", workload("app"));
    let same = (0..10).map(|_| scene.broker.token(order.clone()));
    let other_namespace = scene.broker.token(scene.order("billing", workload("app")));
    let opening = async {
        scene.server.asked(2).await;
        scene.cluster.was_read(11).await;
        scene.server.open();
    };
    let same = futures::future::join_all(same);
    let (same, other, ()) = tokio::join!(same, other_namespace, opening);
    let other = other.unwrap();
    let first = same[0].clone().unwrap();
    assert!(same.into_iter().all(|token| token.unwrap() == first));
    assert_ne!(other.expose(), first.expose());
    assert_eq!(scene.server.seen().len(), 2);
    assert_eq!(scene.broker.flights.open(), 0);
}

#[tokio::test]
async fn an_order_after_a_change_of_its_source_does_not_join() {
    let scene = Scene::new().await;
    scene.server.close();
    let order = scene.order("orders", secret());
    let change = async {
        scene.server.asked(1).await;
        let mut secret = locked(&scene.cluster.secret).clone();
        secret.resource_version = "2".to_owned();
        *locked(&scene.cluster.secret) = secret;
        let second = scene.broker.token(order.clone());
        let opening = async {
            scene.server.asked(2).await;
            scene.server.open();
        };
        tokio::join!(second, opening).0
    };
    let (first, second) = tokio::join!(scene.broker.token(order.clone()), change);
    assert_ne!(first.unwrap(), second.unwrap());
}

#[tokio::test]
async fn a_managed_identity_is_asked_for_once_at_the_imds_of_the_cloud() {
    let scene = Scene::imds().await;
    let order = scene.order("orders", managed());
    let token = scene.broker.token(order.clone()).await.unwrap();
    assert_eq!(token.object_id.as_str(), OBJECT);
    let seen = scene.server.seen();
    assert!(
        seen[0]
            .path
            .starts_with("/metadata/identity/oauth2/token?api-version=")
    );
    assert!(seen[0].path.contains(&format!("client_id={CLIENT}")));
    assert!(
        seen[0]
            .path
            .contains("resource=https%3A%2F%2Fossrdbms-aad.database.windows.net&")
    );
    assert_eq!(seen[0].headers["metadata"], "true");
    let not_found = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    scene.server.will_answer(400, not_found);
    let failure = scene.broker.token(order.clone()).await.unwrap_err();
    is(&failure, Class::Denied, Reason::IdentityNotAssigned, CLIENT);
    for status in [404, 410, 500, 429] {
        let scene = Scene::imds().await;
        scene.server.will_answer(status, "");
        let failure = scene.broker.token(order_at(&scene)).await.unwrap_err();
        assert_eq!(failure.class, Class::Transient);
        assert_eq!(scene.server.seen().len(), 1, "{status}");
        let seventy = (status == 410).then_some(Duration::from_secs(70));
        assert!(
            status == 429 || failure.retry_after == seventy,
            "{failure:?}"
        );
    }
}

fn order_at(scene: &Scene) -> crate::ports::TokenOrder {
    scene.order("orders", managed())
}

#[tokio::test]
async fn the_operators_own_identity_comes_from_its_environment() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "h.p.file-one\n").unwrap();
    let environment = OperatorEnvironment {
        client_id: Some(CLIENT.to_owned()),
        tenant_id: Some(TENANT.to_owned()),
        federated_token_file: Some(file.path().to_owned()),
        client_secret: None,
    };
    let scene = Scene::with(environment.clone()).await;
    scene
        .broker
        .token(scene.order("ops", operator()))
        .await
        .unwrap();
    std::fs::write(file.path(), "h.p.file-two\n").unwrap();
    scene
        .broker
        .token(scene.order("ops", operator()))
        .await
        .unwrap();
    let seen = scene.server.seen();
    assert!(seen[0].body.contains("client_assertion=h.p.file-one&"));
    assert!(seen[1].body.contains("client_assertion=h.p.file-two&"));

    let with_secret = OperatorEnvironment {
        federated_token_file: None,
        client_secret: Some("own-secret".to_owned()),
        ..environment
    };
    assert!(!format!("{with_secret:?}").contains("own-secret"));
    let scene = Scene::with(with_secret).await;
    scene
        .broker
        .token(scene.order("ops", operator()))
        .await
        .unwrap();
    assert!(
        scene.server.seen()[0]
            .body
            .contains("client_secret=own-secret")
    );

    let scene = Scene::new().await;
    let failure = scene
        .broker
        .token(scene.order("ops", operator()))
        .await
        .unwrap_err();
    is(
        &failure,
        Class::Denied,
        Reason::IdentityIncomplete,
        "AZURE_CLIENT_ID",
    );
}

#[tokio::test]
async fn after_a_failure_one_order_tries_and_the_others_follow_its_success() {
    let scene = Scene::new().await;
    scene.server.will_answer(500, "");
    let failed = scene.broker.token(scene.order("first", secret()));
    failed.await.unwrap_err();
    tokio::time::sleep(SLOW).await;
    scene.server.close();
    let orders = ["a", "b", "c", "d", "e"].map(|namespace| scene.order(namespace, secret()));
    let orders = futures::future::join_all(orders.map(|order| scene.broker.token(order)));
    let probing = async {
        scene.server.asked(2).await;
        assert_eq!(scene.server.seen().len(), 2);
        scene.server.open();
    };
    let (tokens, ()) = tokio::join!(orders, probing);
    assert!(tokens.iter().all(Result::is_ok), "{tokens:?}");
    assert_eq!(scene.server.seen().len(), 6);
}

#[tokio::test]
async fn a_few_exchanges_follow_each_other() {
    let scene = Scene::new().await;
    scene.server.close();
    let namespaces = (0..4).map(|nth| format!("n{nth}"));
    let orders = namespaces.map(|namespace| scene.broker.token(scene.order(&namespace, secret())));
    let orders = futures::future::join_all(orders);
    let watching = async {
        scene.server.asked(1).await;
        scene.cluster.was_read(4).await;
        assert_eq!(scene.server.seen().len(), 1);
        scene.server.open();
    };
    let (tokens, ()) = tokio::join!(orders, watching);
    assert!(tokens.iter().all(Result::is_ok), "{tokens:?}");
}
