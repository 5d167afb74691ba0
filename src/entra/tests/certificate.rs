//! Certificates as Secrets hold them, and the assertions they sign.

use ring::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;

use super::*;
use crate::entra::tests::{CLIENT, certified};

const ONE: &str = include_str!("keys/one.pem");
const ONE_PKCS1: &str = include_str!("keys/one-pkcs1.pem");
const TWO: &str = include_str!("keys/two.pem");
const ENDPOINT: &str = "https://login.example/t/oauth2/v2.0/token";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn now() -> Timestamp {
    at("2026-11-24T03:00:00Z")
}

fn problem(certificate: &str, key: &str) -> String {
    let parsed = ClientCertificate::parse(certificate, key);
    parsed.err().expect("it cannot be used")
}

// Red when: the signature is made with RSA_PKCS1_SHA256 under alg PS256, the thumbprint is of the
// PEM text, or the assertion is for another endpoint.
#[test]
fn the_assertion_is_what_entra_documents() {
    let pem = certified(ONE, 2026, 2027);
    for key in [ONE, ONE_PKCS1] {
        let certificate = ClientCertificate::parse(&pem, key).expect("good");
        let jwt = certificate
            .assertion(CLIENT, ENDPOINT, now())
            .expect("signed");
        let parts: Vec<&str> = jwt.split('.').collect();
        let json = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
        };
        let (header, claims) = (json(parts[0]), json(parts[1]));
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let sha256 = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &der));
        assert_eq!(
            header,
            json!({"alg": "PS256", "typ": "JWT", "x5t#S256": sha256})
        );
        for (name, value) in [("aud", ENDPOINT), ("iss", CLIENT), ("sub", CLIENT)] {
            assert_eq!(claims[name], value);
        }
        let (from, until) = (claims["nbf"].as_i64(), claims["exp"].as_i64());
        let ten_minutes = SignedDuration::from_mins(10).as_secs();
        assert!(from.expect("nbf") < now().as_second() - ten_minutes);
        assert!(until.expect("exp") > now().as_second() + ten_minutes);
        let public = UnparsedPublicKey::new(
            &RSA_PSS_2048_8192_SHA256,
            certificate.key.public().as_ref().to_vec(),
        );
        let signature = URL_SAFE_NO_PAD.decode(parts[2]).expect("base64url");
        let signed = format!("{}.{}", parts[0], parts[1]);
        assert!(public.verify(signed.as_bytes(), &signature).is_ok());
        let again = certificate
            .assertion(CLIENT, ENDPOINT, now())
            .expect("signed");
        let claims_again = json(again.split('.').nth(1).expect("claims"));
        assert_ne!(claims["jti"], claims_again["jti"]);
    }
}

#[test]
fn the_certificate_of_the_key_is_found_among_those_of_its_issuers() {
    let chain = format!(
        "{}{}",
        certified(TWO, 2026, 2027),
        certified(ONE, 2026, 2028)
    );
    let found = ClientCertificate::parse(&chain, ONE).expect("good");
    assert_eq!(found.not_after, at("2028-01-01T00:00:00Z"));
    assert_eq!(found.thumbprint().len(), 40);
}

// Red when: the public key of the certificate is not compared with the key.
#[test]
fn what_cannot_be_used_says_why() {
    let good = certified(ONE, 2026, 2027);
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let elliptic = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    for (certificate, key, words) in [
        (good.as_str(), TWO, "is not the key of the certificate"),
        (&good, "", "no private key in PEM"),
        (&good, "hello", "no private key in PEM"),
        (&good, &good, "no private key in PEM"),
        (
            &good,
            include_str!("keys/encrypted.pem"),
            "without a passphrase",
        ),
        (
            &good,
            include_str!("keys/encrypted-pkcs1.pem"),
            "without a passphrase",
        ),
        (&good, include_str!("keys/small.pem"), "2048"),
        (&good, include_str!("keys/sec1.pem"), "RSA"),
        (&good, &elliptic, "RSA"),
        ("", ONE, "no CERTIFICATE block"),
        ("hello", ONE, "no CERTIFICATE block"),
        (ONE, ONE, "no CERTIFICATE block"),
        (broken, ONE, "that is no certificate"),
    ] {
        let problem = problem(certificate, key);
        assert!(problem.contains(words), "{problem:?} lacks {words:?}");
        let secret = key.lines().nth(1).filter(|line| !line.is_empty());
        assert!(
            !secret.is_some_and(|line| problem.contains(line)),
            "{problem}"
        );
    }
}

#[test]
fn an_expired_certificate_says_when_it_expired() {
    let pem = certified(ONE, 2026, 2027);
    let certificate = ClientCertificate::parse(&pem, ONE).expect("good");
    assert_eq!(certificate.expired(now()), None);
    let late = certificate
        .expired(at("2027-01-01T00:00:00Z"))
        .expect("expired");
    assert!(late.contains("expired at 2027-01-01T00:00:00Z"), "{late}");
    let early = certificate
        .expired(at("2025-12-31T12:00:00Z"))
        .expect("too early");
    assert!(early.contains("not valid before 2026-01-01"), "{early}");
    // A node whose clock is ten minutes behind may use what was just made.
    assert_eq!(certificate.expired(at("2025-12-31T23:50:00Z")), None);
}
