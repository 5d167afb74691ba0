//! The lab's own API: directory, tokens of people, counters.

use lab::directory::{Directory, User};
use lab::tokens::TokenKind;
use serde_json::{Value, json};

use crate::entra_fixture::{IMPORTER, Lab, aadsts, claims_of};

const ALICE: &str = "a11ce000-0000-4000-8000-000000000001";

#[tokio::test]
async fn the_directory_can_be_read_changed_and_put_back_in_json_and_yaml() {
    let lab = Lab::start().await;
    let (status, body) = lab.api("GET", "directory", String::new()).await;
    assert_eq!(status, 200);
    let mut directory: Directory = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(directory, Directory::default());
    directory
        .service_principals
        .retain(|service| service.name != "orders-importer");
    let less = serde_yaml::to_string(&directory).unwrap();
    assert_eq!(lab.secret_grant(&[]).await.0, 200);
    assert_eq!(lab.api("PUT", "directory", less).await, (204, Value::Null));
    assert_eq!(aadsts(&lab.secret_grant(&[]).await).1, 700_016);
    assert_eq!(lab.api("PUT", "directory", body.to_string()).await.0, 204);
    assert_eq!(lab.secret_grant(&[]).await.0, 200);
}

#[tokio::test]
async fn a_directory_that_is_wrong_is_refused_and_the_old_one_stays() {
    let lab = Lab::start().await;
    let mut twice = Directory::default();
    let alice = twice.users[0].clone();
    twice.users.push(alice);
    let (status, body) = lab
        .api("PUT", "directory", serde_json::to_string(&twice).unwrap())
        .await;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains(ALICE), "{body}");
    let (status, body) = lab.api("PUT", "directory", "tenantId: x".into()).await;
    assert_eq!(status, 400);
    assert!(
        body["error"].as_str().unwrap().contains("tenantId"),
        "{body}"
    );
    assert_eq!(
        lab.azure.state().directory().as_ref(),
        &Directory::default()
    );
}

#[tokio::test]
async fn a_directory_longer_than_two_megabytes_is_taken() {
    let lab = Lab::start().await;
    let mut directory = Directory::default();
    directory.users.extend((1..=25_000).map(|n| User {
        name: format!("person-{n}@contoso.onmicrosoft.com"),
        object_id: uuid::Uuid::from_u128(n),
    }));
    let body = serde_json::to_string(&directory).unwrap();
    assert!(
        body.len() > 2 * 1024 * 1024,
        "longer than axum takes by itself: {}",
        body.len()
    );
    assert_eq!(lab.api("PUT", "directory", body).await.0, 204);
    let order = json!({"objectId": uuid::Uuid::from_u128(25_000)}).to_string();
    assert_eq!(lab.api("POST", "tokens", order).await.0, 200);
}

#[tokio::test]
async fn a_person_gets_a_token_with_the_life_that_is_ordered() {
    let lab = Lab::start().await;
    let order = json!({"objectId": ALICE, "lifetimeSeconds": 120});
    let (status, body) = lab.api("POST", "tokens", order.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let token = body["accessToken"].as_str().unwrap();
    let claims = lab.azure.state().check_token(token, 0).unwrap();
    assert_eq!((claims.idtyp, claims.mfa), (TokenKind::User, true));
    assert_eq!(claims.upn.as_deref(), Some("alice@contoso.onmicrosoft.com"));
    let expires: jiff::Timestamp = body["expiresOn"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires.as_second(), claims.exp);
    assert!((118..=120).contains(&(claims.exp - lab::state::unix_now())));
    assert!(
        lab.azure.state().check_token(token, 121).is_err(),
        "it ends"
    );
    assert!(
        token.len() > 3000,
        "a person's token is long: {}",
        token.len()
    );
}

#[tokio::test]
async fn orders_for_other_audiences_and_claims_are_kept_and_bad_ones_told() {
    let lab = Lab::start().await;
    let order = json!({"objectId": ALICE, "audience": "https://graph.microsoft.com", "claims": {"amr": ["pwd"]}});
    let (_, body) = lab.api("POST", "tokens", order.to_string()).await;
    let claims = claims_of(&lab, &body["accessToken"]);
    assert_eq!(
        (&claims["aud"], &claims["amr"]),
        (&json!("https://graph.microsoft.com"), &json!(["pwd"]))
    );
    let says = async |order: Value| {
        let (status, body) = lab.api("POST", "tokens", order.to_string()).await;
        assert_eq!(status, 400);
        body["error"].as_str().unwrap().to_owned()
    };
    assert!(
        says(json!({"objectId": uuid::Uuid::nil()}))
            .await
            .contains("not in the directory")
    );
    let group = "9409b000-0000-4000-8000-000000000001";
    assert!(
        says(json!({"objectId": group}))
            .await
            .contains("a group has no token")
    );
    assert!(
        says(json!({"objectId": ALICE, "life": 1}))
            .await
            .contains("unknown field `life`")
    );
}

#[tokio::test]
async fn counters_have_the_form_of_the_contract() {
    let lab = Lab::start().await;
    let nothing = json!({
        "tokenRequests": {"total": 0, "byStatus": {}, "byClient": {}},
        "connections": {"total": 0, "open": 0, "peak": 0, "byRole": {}},
        "statements": 0, "transactions": 0,
    });
    assert_eq!(lab.stats().await, nothing);
    lab.secret_grant(&[]).await;
    lab.secret_grant(&[("client_secret", "wrong")]).await;
    let state = lab.azure.state();
    let open = state.stats.connection_opened("alice");
    drop(state.stats.connection_opened("alice"));
    state.stats.statement();
    state.stats.transaction();
    let expected = json!({
        "tokenRequests": {"total": 2, "byStatus": {"200": 1, "401": 1}, "byClient": {IMPORTER: 2}},
        "connections": {"total": 2, "open": 1, "peak": 2, "byRole": {"alice": 2}},
        "statements": 1, "transactions": 1,
    });
    assert_eq!(lab.stats().await, expected);
    drop(open);
}

#[tokio::test]
async fn a_lab_that_is_dropped_leaves_no_listener() {
    let lab = Lab::start().await;
    let addresses = lab.azure.addresses();
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    drop(lab);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    for address in addresses {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            assert!(
                std::time::Instant::now() < deadline,
                "{address} still listens"
            );
            tokio::task::yield_now().await;
        }
    }
}
