//! IMDS: tokens of the machine's identities, and the requests it refuses.

use lab::directory::{Directory, ServicePrincipal};
use serde_json::{Value, json};

use crate::entra_fixture::{Answer, Lab, claims_of};

const RESOURCE: &str = "https://ossrdbms-aad.database.windows.net";
const NODE: &str = "c11e4700-0000-4000-8000-000000000006";
const API: &str = "c11e4700-0000-4000-8000-000000000002";

async fn ask(lab: &Lab, query: &[(&str, &str)]) -> Answer {
    let url = format!("{}/metadata/identity/oauth2/token", lab.azure.imds_url());
    let url = reqwest::Url::parse_with_params(&url, query).unwrap();
    let answer = lab
        .http
        .get(url)
        .header("Metadata", "true")
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn ask_for(lab: &Lab, identity: Option<(&str, &str)>) -> Answer {
    let mut query = vec![("api-version", "2019-08-01"), ("resource", RESOURCE)];
    query.extend(identity);
    ask(lab, &query).await
}

/// The built-in directory, with orders-api on the machine as well, and the node's own if wanted.
fn directory(with_node: bool) -> Directory {
    let mut directory = Directory::default();
    directory.service_principals[1].imds = true;
    directory.service_principals[2].imds = true;
    directory.service_principals[5].imds = with_node;
    directory
}

fn oid(lab: &Lab, (status, body): &Answer) -> Value {
    assert_eq!(*status, 200, "{body}");
    claims_of(lab, &body["access_token"])["oid"].clone()
}

#[tokio::test]
async fn the_systems_identity_is_the_default_and_numbers_are_text() {
    let lab = Lab::with(directory(true)).await;
    let (status, body) = ask_for(&lab, None).await;
    assert_eq!((status, &body["client_id"]), (200, &json!(NODE)));
    for field in ["expires_in", "expires_on", "not_before"] {
        assert!(
            body[field].as_str().unwrap().parse::<i64>().unwrap() > 0,
            "{field}"
        );
    }
    assert_eq!(body["expires_in"], "86400");
    assert_eq!(
        (&body["resource"], &body["token_type"]),
        (&json!(RESOURCE), &json!("Bearer"))
    );
    assert!(body["expires_on"].as_str().unwrap().parse::<i64>().unwrap() > lab::state::unix_now());
}

#[tokio::test]
async fn an_identity_is_found_by_each_of_its_three_ids() {
    let lab = Lab::with(directory(true)).await;
    let ServicePrincipal {
        object_id,
        resource_id,
        ..
    } = lab.azure.state().directory().service_principals[1].clone();
    let object_id = object_id.to_string();
    let resource_id = resource_id.unwrap();
    for named in [
        ("client_id", API),
        ("object_id", &object_id),
        ("msi_res_id", &resource_id),
    ] {
        assert_eq!(
            oid(&lab, &ask_for(&lab, Some(named)).await),
            json!(object_id),
            "{named:?}"
        );
    }
}

#[tokio::test]
async fn bad_requests_are_refused_as_in_azure() {
    let lab = Lab::with(directory(false)).await;
    let refused = |answer: Answer| {
        assert_eq!(answer.0, 400);
        format!(
            "{}: {}",
            answer.1["error"].as_str().unwrap(),
            answer.1["error_description"].as_str().unwrap()
        )
    };
    let several = refused(ask_for(&lab, None).await);
    assert!(
        several.starts_with("invalid_request: Multiple user assigned identities exist"),
        "{several}"
    );
    // Not on this machine, though in the directory.
    assert_eq!(
        refused(ask_for(&lab, Some(("client_id", NODE))).await),
        "invalid_request: Identity not found"
    );
    assert_eq!(
        refused(ask_for(&lab, Some(("client_id", "x"))).await),
        "invalid_request: Identity not found"
    );
    let no_version = refused(ask(&lab, &[("resource", RESOURCE), ("client_id", API)]).await);
    assert!(
        no_version.contains("api-version was not specified"),
        "{no_version}"
    );
    let no_resource =
        refused(ask(&lab, &[("api-version", "2018-02-01"), ("client_id", API)]).await);
    assert!(
        no_resource.contains("'resource' is missing"),
        "{no_resource}"
    );
    let other = [
        ("api-version", "2018-02-01"),
        ("client_id", API),
        ("resource", "https://example.org"),
    ];
    assert!(refused(ask(&lab, &other).await).starts_with("invalid_resource: AADSTS500011"));

    let url = format!(
        "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}",
        lab.azure.imds_url()
    );
    let bare = lab.http.get(url).send().await.unwrap();
    assert_eq!(bare.status(), 400);
    assert!(
        bare.text()
            .await
            .unwrap()
            .contains("Required metadata header not specified")
    );
}

#[tokio::test]
async fn the_back_end_keeps_a_token_until_its_end_unless_told_otherwise() {
    let lab = Lab::with(directory(true)).await;
    let token = async || ask_for(&lab, Some(("client_id", API))).await.1["access_token"].clone();
    let first = token().await;
    assert_eq!(token().await, first);
    lab.faults(json!([{"on": "imds", "do": {"uncached": true}, "times": 1}]))
        .await;
    assert_ne!(token().await, first);
    assert_eq!(token().await, first);
    let mut changed = directory(true);
    changed.service_principals[1].object_id = uuid::Uuid::from_u128(77);
    lab.azure.set_directory(changed).await.unwrap();
    assert_ne!(
        token().await,
        first,
        "an identity made again is another one"
    );
}

#[tokio::test]
async fn a_kept_token_near_its_end_is_replaced() {
    let mut short = directory(true);
    short.service_principals[1].token_lifetime_seconds = Some(1);
    let lab = Lab::with(short).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let first = ask_for(&lab, Some(("client_id", API))).await.1["access_token"].clone();
    while ask_for(&lab, Some(("client_id", API))).await.1["access_token"] == first {
        assert!(
            std::time::Instant::now() < deadline,
            "the same token came back for 10 s"
        );
    }
}

#[tokio::test]
async fn imds_says_what_a_fault_orders() {
    let lab = Lab::with(directory(true)).await;
    lab.faults(
        json!([{"on": "imds", "match": {"clientId": API}, "do": {"status": 410}, "times": 1}]),
    )
    .await;
    assert_eq!(
        ask_for(&lab, None).await.0,
        200,
        "another identity is not concerned"
    );
    assert_eq!(ask_for(&lab, Some(("client_id", API))).await.0, 410);
    assert_eq!(ask_for(&lab, Some(("client_id", API))).await.0, 200);
    let stats = lab.stats().await;
    assert_eq!(
        stats["tokenRequests"]["byStatus"],
        json!({"200": 2, "410": 1})
    );
    assert_eq!(stats["tokenRequests"]["byClient"], json!({NODE: 1, API: 2}));
}
