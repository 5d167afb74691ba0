//! Applications that prove themselves by a certificate, checked by the lab's Entra for real.

use anyhow::Result;
use lab::rsa_key::generate_rsa_key;
use serde_json::{Value, json};

use super::{IMPORTER_CLIENT, expiry, logged_in, service, short_lived, untouched};
use crate::fixture::{TENANT, World, condition};

/// A certificate and its key, both PEM.
#[derive(Clone)]
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn until(year: i32) -> Result<Self> {
        let key = generate_rsa_key()?;
        let certificate = certified(&key, year)?;
        Ok(Self { certificate, key })
    }
}

fn certified(key: &str, year: i32) -> Result<String> {
    let key = rcgen::KeyPair::from_pem_and_sign_algo(key, &rcgen::PKCS_RSA_SHA256)?;
    let mut params = rcgen::CertificateParams::new(vec!["orders-importer".to_owned()])?;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    Ok(params.self_signed(&key)?.pem())
}

fn tls(world: &World, name: &str, pair: &Pair) -> Value {
    let Pair { certificate, key } = pair;
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
           "metadata": {"name": name, "namespace": world.names.team},
           "stringData": {"tls.crt": certificate, "tls.key": key}})
}

fn by_certificate(world: &World, name: &str, role: &str) -> Value {
    let mut object = world.principal(name, role, json!({"type": "ServicePrincipal"}));
    object["spec"]["token"] = json!({
        "identity": {"clientCertificate": {
            "tenantId": TENANT, "clientId": IMPORTER_CLIENT, "secretRef": {"name": name},
        }},
        "renewBefore": "60s", "secret": {"name": format!("{name}-db")},
    });
    object
}

// Red when: the assertion is signed with another padding than its alg says, has another thumbprint or
// audience, or the pair is kept in memory between exchanges.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_proves_an_application_and_a_renewed_one_is_taken_up() -> Result<()> {
    let world = short_lived("certificate", IMPORTER_CLIENT).await?;
    let (first, second) = (Pair::until(2060)?, Pair::until(2061)?);
    let register = async |pairs: &[&Pair]| {
        let certificates = pairs.iter().map(|pair| pair.certificate.clone());
        let certificates: Vec<String> = certificates.collect();
        world
            .change_directory(|directory| {
                service(directory, IMPORTER_CLIENT).certificates = certificates;
            })
            .await
    };
    register(&[&first]).await?;
    world.apply(&tls(&world, "importer", &first)).await?;
    world
        .apply(&by_certificate(&world, "importer", "orders-importer"))
        .await?;
    world.ready("principal", "importer").await?;
    assert_eq!(logged_in(&world, "importer-db").await?, "orders-importer");
    // As cert-manager would: the new pair is registered first, then stored; the old one goes.
    register(&[&first, &second]).await?;
    world.apply(&tls(&world, "importer", &second)).await?;
    register(&[&second]).await?;
    let before = expiry(&world.ready("principal", "importer").await?);
    world
        .wait("principal", "importer", "renewed", |object| {
            expiry(object) > before && condition(object, "Ready").is("True")
        })
        .await?;
    // One that nobody registered: the present token stays, and the message says what to do.
    world.apply(&tls(&world, "importer", &first)).await?;
    let object = world
        .wait("principal", "importer", "refused", |object| {
            condition(object, "TokenIssued").reason == "ClientCertificateInvalid"
        })
        .await?;
    let message = condition(&object, "TokenIssued").message;
    for words in ["az ad app credential reset", "thumbprint", "is good until"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(logged_in(&world, "importer-db").await?, "orders-importer");
    Ok(())
}

// Red when: ClientCertificate::parse or expired looks away, or a certificate that cannot be used is
// sent all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_used_says_why_and_is_never_sent() -> Result<()> {
    let world = World::start("certificates").await?;
    world.ready("server", "server").await?;
    let (good, other) = (Pair::until(2060)?, Pair::until(2060)?);
    let mixed = Pair {
        key: other.key.clone(),
        ..good.clone()
    };
    let expired = Pair {
        certificate: certified(&good.key, 2021)?,
        ..good.clone()
    };
    let garbled = Pair {
        key: "no key at all".to_owned(),
        ..good.clone()
    };
    let mut halved = tls(&world, "halved", &good);
    halved["type"] = json!("Opaque");
    halved["stringData"] = json!({"tls.crt": good.certificate});
    let (missing, invalid) = ("ClientCertificateNotFound", "ClientCertificateInvalid");
    for (name, secret, reason, words) in [
        ("absent", None, missing, "does not exist"),
        ("halved", Some(halved), missing, "\"tls.key\""),
        (
            "mixed",
            Some(tls(&world, "mixed", &mixed)),
            invalid,
            "not the key of the certificate",
        ),
        (
            "expired",
            Some(tls(&world, "expired", &expired)),
            invalid,
            "expired at 2021-01-01",
        ),
        (
            "garbled",
            Some(tls(&world, "garbled", &garbled)),
            invalid,
            "no private key in PEM",
        ),
    ] {
        if let Some(mut secret) = secret {
            // The API server looks into pairs of this type itself.
            secret["type"] = json!("Opaque");
            world.apply(&secret).await?;
        }
        world.apply(&by_certificate(&world, name, name)).await?;
        let message = world.not_ready("principal", name, reason).await?;
        assert!(message.contains(words), "{name}: {message}");
        assert!(
            message.contains(&format!("{}/{name}", world.names.team)),
            "{name}: {message}"
        );
        let secret = good.key.lines().nth(1).unwrap_or_default();
        assert!(!message.contains(secret), "{name}: {message}");
        untouched(&world, name, &format!("{name}-db")).await?;
    }
    assert_eq!(world.token_requests(Some(IMPORTER_CLIENT)), 0);
    // What was missing is made, and seen without anybody touching the principal.
    world
        .change_directory(|directory| {
            service(directory, IMPORTER_CLIENT).certificates = vec![good.certificate.clone()];
        })
        .await?;
    world.apply(&tls(&world, "absent", &good)).await?;
    world
        .wait("principal", "absent", "asked", |object| {
            condition(object, "Ready").reason != missing
        })
        .await?;
    world.wait_requests(IMPORTER_CLIENT, 1).await
}
