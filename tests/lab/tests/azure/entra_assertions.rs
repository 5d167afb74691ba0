//! The token endpoint with assertions: a service account's, and one signed with a client certificate.

use axum::Json;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lab::directory::{Directory, FederatedCredential};
use lab::http::HttpServer;
use lab::rsa_key::generate_rsa_key;
use lab::tokens::TokenKeys;
use serde_json::{Value, json};

use crate::entra_fixture::{Cluster, IMPORTER, Lab, TENANT, aadsts, claims_of};

const API: &str = "c11e4700-0000-4000-8000-000000000002";
const BATCH: &str = "c11e4700-0000-4000-8000-000000000005";

async fn lab_with_cluster() -> (Lab, Cluster) {
    let (lab, cluster) = (Lab::start().await, Cluster::new());
    lab.azure
        .set_cluster_issuer(cluster.issuer, cluster.keys.jwks());
    (lab, cluster)
}

#[tokio::test]
async fn a_service_accounts_token_becomes_a_managed_identitys_for_a_day() {
    let (lab, cluster) = lab_with_cluster().await;
    let assertion = cluster.token("orders:orders-api", json!({}));
    let (status, body) = lab.assertion_grant(API, &assertion).await;
    assert_eq!(
        (status, &body["expires_in"]),
        (200, &json!(86400)),
        "{body}"
    );
    let claims = claims_of(&lab, &body["access_token"]);
    assert_eq!(claims["oid"], "5e41ce00-0000-4000-8000-000000000002");
    assert!(
        claims["xms_mirid"]
            .as_str()
            .unwrap()
            .ends_with("/orders-api")
    );
    let batch = cluster.token("orders:orders-batch", json!({}));
    let (_, body) = lab.assertion_grant(BATCH, &batch).await;
    assert!(
        body["expires_in"].as_i64().unwrap() <= 5400,
        "an application's token lives shorter"
    );
}

#[tokio::test]
async fn each_assertion_that_does_not_fit_has_azures_error() {
    let (lab, cluster) = lab_with_cluster().await;
    let now = lab::state::unix_now();
    let forged = Cluster::new();
    let with = |changes: Value| cluster.token("orders:orders-api", changes);
    let cases = [
        (
            API,
            cluster.token("orders:other", json!({})),
            (401, 700_213, "invalid_client"),
        ),
        (
            API,
            with(json!({"iss": "https://other/"})),
            (401, 700_211, "invalid_client"),
        ),
        // The issuer's trailing slash counts.
        (
            API,
            with(json!({"iss": "https://kubernetes.default.svc.lab"})),
            (401, 700_211, "invalid_client"),
        ),
        (
            API,
            with(json!({"aud": ["https://kubernetes.default.svc"]})),
            (401, 700_212, "invalid_client"),
        ),
        (
            API,
            with(json!({"exp": now - 1})),
            (401, 700_024, "invalid_client"),
        ),
        (
            API,
            with(json!({"nbf": now + 900})),
            (401, 700_024, "invalid_client"),
        ),
        (
            API,
            forged.token("orders:orders-api", json!({})),
            (401, 700_027, "invalid_client"),
        ),
        (
            API,
            "not.a.token".to_owned(),
            (400, 50027, "invalid_request"),
        ),
        (BATCH, with(json!({})), (401, 700_213, "invalid_client")),
        (IMPORTER, with(json!({})), (401, 70025, "invalid_client")),
    ];
    for (client, assertion, expected) in cases {
        assert_eq!(
            aadsts(&lab.assertion_grant(client, &assertion).await),
            expected
        );
    }
    let (_, body) = lab
        .assertion_grant(API, &cluster.token("orders:other", json!({})))
        .await;
    let text = body["error_description"].as_str().unwrap();
    assert!(
        text.contains("subject 'system:serviceaccount:orders:other'"),
        "{text}"
    );
}

#[tokio::test]
async fn without_a_cluster_its_word_fits_no_issuer() {
    let lab = Lab::start().await;
    let assertion = Cluster::new().token("orders:orders-api", json!({}));
    assert_eq!(
        aadsts(&lab.assertion_grant(API, &assertion).await).1,
        700_211
    );
}

#[tokio::test]
async fn keys_of_another_issuer_on_this_machine_are_fetched() {
    let keys = TokenKeys::generate().unwrap();
    let jwks = keys.jwks();
    let routes = axum::Router::new()
        .route(
            "/.well-known/openid-configuration",
            get(|headers: axum::http::HeaderMap| async move {
                let host = headers["host"].to_str().unwrap().to_owned();
                Json(json!({"jwks_uri": format!("http://{host}/keys")}))
            }),
        )
        .route("/keys", get(move || async move { Json(jwks) }));
    let server = HttpServer::start(routes, None).await.unwrap();
    let issuer = format!("http://{}", server.address);
    let mut directory = Directory::default();
    directory.service_principals[4]
        .federated_credentials
        .push(FederatedCredential {
            issuer: issuer.clone(),
            subject: "build".into(),
            audience: "api://AzureADTokenExchange".into(),
        });
    let lab = Lab::with(directory).await;
    let claims = json!({"iss": issuer, "sub": "build", "aud": "api://AzureADTokenExchange",
        "exp": lab::state::unix_now() + 60});
    let assertion = keys.sign(claims.as_object().unwrap()).unwrap();
    assert_eq!(lab.assertion_grant(BATCH, &assertion).await.0, 200);
    drop(server);
    assert_eq!(
        aadsts(&lab.assertion_grant(BATCH, &assertion).await),
        (400, 50166, "invalid_request")
    );
}

/// A certificate, its key, and its thumbprint as `x5t#S256`.
fn certificate() -> (String, TokenKeys, String) {
    let pem = generate_rsa_key().unwrap();
    let key = rcgen::KeyPair::from_pem_and_sign_algo(&pem, &rcgen::PKCS_RSA_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["orders-importer".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate.der());
    (
        certificate.pem(),
        TokenKeys::from_pem(&pem).unwrap(),
        URL_SAFE_NO_PAD.encode(digest),
    )
}

fn self_assertion(keys: &TokenKeys, thumbprint: &str, changes: Value) -> String {
    let now = lab::state::unix_now();
    let mut claims = json!({
        "iss": IMPORTER, "sub": IMPORTER, "jti": "1", "nbf": now, "exp": now + 600,
        "aud": format!("https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"),
    });
    let fields = claims.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    keys.sign_with_header(json!({"x5t#S256": thumbprint}), fields)
        .unwrap()
}

#[tokio::test]
async fn a_client_certificate_signs_for_its_application_only() {
    let (pem, keys, thumbprint) = certificate();
    let (_, stranger, strange_thumbprint) = certificate();
    let mut directory = Directory::default();
    directory.service_principals[3].certificates = vec![pem];
    let lab = Lab::with(directory).await;
    let now = lab::state::unix_now();
    let good = self_assertion(&keys, &thumbprint, json!({}));
    let (status, body) = lab.assertion_grant(IMPORTER, &good).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(claims_of(&lab, &body["access_token"])["appid"], IMPORTER);
    let cases = [
        (
            self_assertion(&stranger, &strange_thumbprint, json!({})),
            700_027,
        ),
        (self_assertion(&stranger, &thumbprint, json!({})), 700_027),
        (
            self_assertion(&keys, &thumbprint, json!({"aud": "https://example.org"})),
            700_023,
        ),
        (
            self_assertion(&keys, &thumbprint, json!({"exp": now - 1})),
            700_024,
        ),
    ];
    for (assertion, expected) in cases {
        assert_eq!(
            aadsts(&lab.assertion_grant(IMPORTER, &assertion).await),
            (401, expected, "invalid_client")
        );
    }
}

/// The same as a client signs it by today's documentation: PS256.
fn assertion_of_today(key: &str, header: Value) -> String {
    use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
    use rustls::pki_types::pem::PemObject as _;

    let key = rustls::pki_types::PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let now = lab::state::unix_now();
    let claims = json!({
        "iss": IMPORTER, "sub": IMPORTER, "jti": "1", "nbf": now, "exp": now + 600,
        "aud": format!("https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"),
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    key.sign(&RSA_PSS_SHA256, &random, signed.as_bytes(), &mut signature)
        .unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn certified(key: &str, until: i32) -> (String, String) {
    let key = rcgen::KeyPair::from_pem_and_sign_algo(key, &rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["orders-importer".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate.der());
    (certificate.pem(), URL_SAFE_NO_PAD.encode(digest))
}

// Red when: a signature is checked by another algorithm than its header says, a thumbprint is taken
// under another name than its own, or an expired certificate counts.
#[tokio::test]
async fn a_certificate_is_known_by_its_thumbprint_and_algorithm_until_it_expires() {
    let key = generate_rsa_key().unwrap();
    let (good, thumbprint) = certified(&key, 2060);
    let (expired, old_thumbprint) = certified(&key, 2021);
    let mut directory = Directory::default();
    directory.service_principals[3].certificates = vec![good, expired];
    let lab = Lab::with(directory).await;
    let header = |alg: &str, name: &str, text: &str| json!({"alg": alg, "typ": "JWT", name: text});
    let assertion = assertion_of_today(&key, header("PS256", "x5t#S256", &thumbprint));
    let (status, body) = lab.assertion_grant(IMPORTER, &assertion).await;
    assert_eq!(status, 200, "{body}");
    for wrong in [
        header("RS256", "x5t#S256", &thumbprint),
        header("none", "x5t#S256", &thumbprint),
        header("PS256", "x5t", &thumbprint),
        header("PS256", "other", &thumbprint),
        header("PS256", "x5t#S256", &old_thumbprint),
    ] {
        let assertion = assertion_of_today(&key, wrong.clone());
        let answer = lab.assertion_grant(IMPORTER, &assertion).await;
        assert_eq!(aadsts(&answer), (401, 700_027, "invalid_client"), "{wrong}");
    }
}
