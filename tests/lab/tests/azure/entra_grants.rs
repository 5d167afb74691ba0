//! The token endpoint: the client secret, the form's errors, discovery, and what a token says.

use lab::directory::Directory;
use serde_json::json;

use crate::entra_fixture::{IMPORTER, Lab, TENANT, aadsts, claims_of};

#[tokio::test]
async fn a_client_secret_gives_a_token_like_azures() {
    let lab = Lab::start().await;
    let (status, body) = lab.secret_grant(&[]).await;
    assert_eq!((status, &body["token_type"]), (200, &json!("Bearer")));
    let expires_in = body["expires_in"].as_i64().unwrap();
    assert!((3600..=5400).contains(&expires_in), "{expires_in}");
    let claims = claims_of(&lab, &body["access_token"]);
    assert_eq!(claims["aud"], "https://ossrdbms-aad.database.windows.net");
    assert_eq!(claims["iss"], format!("https://sts.windows.net/{TENANT}/"));
    assert_eq!(
        (&claims["tid"], &claims["appid"]),
        (&json!(TENANT), &json!(IMPORTER))
    );
    assert_eq!(claims["oid"], "5e41ce00-0000-4000-8000-000000000004");
    assert_eq!(
        (&claims["idtyp"], &claims["ver"]),
        (&json!("app"), &json!("1.0"))
    );
    let left = claims["exp"].as_i64().unwrap() - lab::state::unix_now();
    assert!((expires_in - left).abs() <= 2, "{left} of {expires_in}");
    let length = body["access_token"].as_str().unwrap().len();
    assert!((1700..2500).contains(&length), "{length}");
    assert!(
        lab.azure
            .state()
            .check_token(body["access_token"].as_str().unwrap(), 0)
            .is_ok()
    );
}

#[tokio::test]
async fn a_principals_own_token_life_is_kept_and_every_token_is_new() {
    let mut directory = Directory::default();
    directory.service_principals[3].token_lifetime_seconds = Some(600);
    let lab = Lab::with(directory).await;
    let (first, second) = (lab.secret_grant(&[]).await.1, lab.secret_grant(&[]).await.1);
    assert_eq!(first["expires_in"], 600);
    assert_ne!(first["access_token"], second["access_token"]);
}

#[tokio::test]
async fn each_mistake_in_the_form_has_azures_error() {
    let lab = Lab::start().await;
    let stranger = "c11e4700-0000-4000-8000-00000000dead";
    let cases = [
        (
            ("client_secret", "wrong"),
            (401, 7_000_215, "invalid_client"),
        ),
        (("client_secret", ""), (401, 7_000_216, "invalid_client")),
        (
            ("client_id", stranger),
            (400, 700_016, "unauthorized_client"),
        ),
        (
            ("client_id", "no guid"),
            (400, 700_016, "unauthorized_client"),
        ),
        (("client_id", ""), (400, 900_144, "invalid_request")),
        (
            ("grant_type", "password"),
            (400, 70003, "unsupported_grant_type"),
        ),
        (("grant_type", ""), (400, 900_144, "invalid_request")),
        (
            ("scope", "https://ossrdbms-aad.database.windows.net"),
            (400, 1_002_012, "invalid_scope"),
        ),
        (
            ("scope", "https://example.org/.default"),
            (400, 500_011, "invalid_resource"),
        ),
    ];
    for (change, expected) in cases {
        let answer = lab.secret_grant(&[change]).await;
        assert_eq!(aadsts(&answer), expected, "{change:?}");
        assert!(
            !answer.1.to_string().contains("the-lab-has-no-real-secrets"),
            "{}",
            answer.1
        );
    }
}

#[tokio::test]
async fn an_unknown_tenant_is_refused_everywhere() {
    let lab = Lab::start().await;
    let base = lab.azure.authority_url();
    let other = "22222222-2222-4222-8222-222222222222";
    let answer = lab
        .post(&format!("{base}/{other}/oauth2/v2.0/token"), &[])
        .await;
    assert_eq!(aadsts(&answer), (400, 90002, "invalid_request"));
    for path in [
        "v2.0/.well-known/openid-configuration",
        "discovery/v2.0/keys",
    ] {
        let answer = lab
            .http
            .get(format!("{base}/{other}/{path}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{path}");
    }
}

#[tokio::test]
async fn errors_carry_the_escapes_that_break_borrowed_parsing() {
    let lab = Lab::start().await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "it's"),
        ("scope", "x/.default"),
    ];
    let answer = lab
        .http
        .post(lab.token_url())
        .form(&form)
        .send()
        .await
        .unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains(r"\u0027it\u0027s\u0027"), "{text}");
    assert!(text.contains(r"\r\nTrace ID: "), "{text}");
}

#[tokio::test]
async fn discovery_leads_to_the_keys_that_sign() {
    let lab = Lab::start().await;
    let url = format!(
        "{}/{TENANT}/v2.0/.well-known/openid-configuration",
        lab.azure.authority_url()
    );
    let discovery: serde_json::Value = lab
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(discovery["token_endpoint"], lab.token_url());
    let keys = lab
        .http
        .get(discovery["jwks_uri"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    let keys: serde_json::Value = keys.json().await.unwrap();
    let token = lab.secret_grant(&[]).await.1["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        lab::tokens::Unverified::parse(&token)
            .unwrap()
            .signed_by(&keys)
    );
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_labs_authority_gets_nothing() {
    let lab = Lab::start().await;
    let stranger = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap();
    let error = stranger.post(lab.token_url()).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
}
