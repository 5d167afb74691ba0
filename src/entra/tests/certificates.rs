//! Orders whose identity is proven by a client certificate.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::{CLIENT, Scene, TENANT, certificate, certified, is};
use crate::entra::locked;
use crate::model::{Class, Reason, SourceVersion};
use crate::ports::TokenSource as _;

const ONE: &str = include_str!("keys/one.pem");
const TWO: &str = include_str!("keys/two.pem");

impl Scene {
    fn keeps(&self, certificate: &str, key: &str) {
        *locked(&self.cluster.pair) = (certificate.to_owned(), key.to_owned());
    }
}

/// A part of the assertion that a request had.
fn part(body: &str, nth: usize) -> Value {
    let field = body
        .split('&')
        .find_map(|field| field.strip_prefix("client_assertion="));
    let part = field
        .expect("an assertion")
        .split('.')
        .nth(nth)
        .expect("a part");
    let bytes = URL_SAFE_NO_PAD.decode(part.replace("%2D", "-").replace("%5F", "_"));
    serde_json::from_slice(&bytes.expect("base64url")).expect("JSON")
}

#[tokio::test]
async fn a_certificate_signs_for_the_token_endpoint_of_its_tenant_and_is_read_each_time() {
    let scene = Scene::new().await;
    scene.keeps(&certified(ONE, 2020, 2060), ONE);
    let order = scene.order("orders", certificate());
    scene.broker.token(order.clone()).await.unwrap();
    scene.keeps(&certified(TWO, 2020, 2060), TWO);
    scene.broker.token(order).await.unwrap();
    let seen = scene.server.seen();
    let claims = part(&seen[0].body, 1);
    let endpoint = format!("{}/{TENANT}/oauth2/v2.0/token", scene.server.url);
    assert_eq!(claims["aud"], endpoint.as_str());
    assert_eq!(claims["sub"], CLIENT);
    let thumbprints = [&seen[0], &seen[1]].map(|seen| part(&seen.body, 0)["x5t#S256"].clone());
    assert_ne!(thumbprints[0], thumbprints[1]);
}

// Red when: resolve::certificate leaves out the version of the Secret.
#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_never_sent() {
    let scene = Scene::new().await;
    for (pem, key, words) in [
        (certified(ONE, 2020, 2060), TWO, "tls.key is not the key"),
        (
            certified(ONE, 2020, 2021),
            ONE,
            "expired at 2021-01-01T00:00:00Z",
        ),
        (certified(ONE, 2059, 2060), ONE, "not valid before 2059"),
        (String::new(), ONE, "tls.crt"),
        (certified(ONE, 2020, 2060), "", "tls.key"),
    ] {
        scene.keeps(&pem, key);
        let order = scene.order("orders", certificate());
        let failure = scene.broker.token(order).await.unwrap_err();
        is(
            &failure,
            Class::Denied,
            Reason::ClientCertificateInvalid,
            words,
        );
        is(
            &failure,
            Class::Denied,
            Reason::ClientCertificateInvalid,
            "Secret orders/app",
        );
        assert_eq!(failure.proof, Some(SourceVersion::of("secret-uid", "1")));
    }
    assert!(scene.server.seen().is_empty());
}

#[tokio::test]
async fn a_certificate_that_entra_does_not_know_is_named_by_its_thumbprint() {
    let scene = Scene::new().await;
    scene.keeps(&certified(ONE, 2020, 2060), ONE);
    for code in [700_027, 50027, 1_000_502, 7_000_214] {
        let body = format!(
            r#"{{"error":"invalid_client","error_description":"AADSTS{code}: The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: \u0027x\u0027]\r\nTrace ID: 1","error_codes":[{code}]}}"#
        );
        scene.server.will_answer(401, body);
        let order = scene.order("orders", certificate());
        let failure = scene.broker.token(order).await.unwrap_err();
        is(
            &failure,
            Class::Denied,
            Reason::ClientCertificateInvalid,
            "az ad app credential reset",
        );
        assert!(failure.message.contains("'x'"), "{failure}");
    }
    let body = r#"{"error":"invalid_client","error_description":"AADSTS700024: Now.","error_codes":[700024]}"#;
    scene.server.will_answer(401, body);
    let order = scene.order("orders", certificate());
    let failure = scene.broker.token(order).await.unwrap_err();
    is(
        &failure,
        Class::Denied,
        Reason::EntraRefused,
        "the operator's node",
    );
}
