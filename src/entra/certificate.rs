//! Client certificates: reads certificate and key, and signs the assertion that proves them to
//! Entra. Must not send anything; its messages never contain the key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use uuid::Builder;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// An assertion is used at once. It is good that long before and after, so that Entra takes it when
/// its clock and ours are ten minutes apart.
const LEEWAY: SignedDuration = SignedDuration::from_mins(15);

/// A certificate with its key. Cannot be printed.
pub(super) struct ClientCertificate {
    der: CertificateDer<'static>,
    key: RsaKeyPair,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl ClientCertificate {
    /// Reads both from PEM. An error says what is wrong, and begins with the key of the Secret.
    pub(super) fn parse(certificate: &str, key: &str) -> Result<Self, String> {
        let key = rsa_key(key)?;
        let public = key.public().as_ref();
        let mut found = false;
        for der in CertificateDer::pem_slice_iter(certificate.as_bytes()) {
            let der = der.map_err(|_| "tls.crt is not valid PEM".to_owned())?;
            let parsed = Certificate::from_der(&der)
                .map_err(|_| "tls.crt has a CERTIFICATE block that is no certificate".to_owned())?;
            let parsed = parsed.tbs_certificate;
            found = true;
            // It comes first, before those of its issuers; not every tool keeps that order.
            let info = parsed.subject_public_key_info;
            if info.subject_public_key.raw_bytes() == public {
                let time = |time: x509_cert::time::Time| {
                    let seconds = i64::try_from(time.to_unix_duration().as_secs());
                    seconds
                        .ok()
                        .and_then(|seconds| Timestamp::from_second(seconds).ok())
                        .unwrap_or(Timestamp::MAX)
                };
                return Ok(Self {
                    der: der.into_owned(),
                    key,
                    not_before: time(parsed.validity.not_before),
                    not_after: time(parsed.validity.not_after),
                });
            }
        }
        Err(if found {
            "tls.key is not the key of the certificate in tls.crt: store the two that were made \
             together"
        } else {
            "tls.crt has no CERTIFICATE block: store the certificate as PEM"
        }
        .to_owned())
    }

    /// Why it cannot be used now, if it cannot.
    pub(super) fn expired(&self, now: Timestamp) -> Option<String> {
        let Self {
            not_before,
            not_after,
            ..
        } = self;
        if *not_after <= now {
            return Some(format!(
                "tls.crt has a certificate that expired at {not_after}: store a new one, and \
                 register it at the application"
            ));
        }
        // A certificate is often used in the second it was made, by clocks that differ a little.
        (*not_before > now.saturating_add(LEEWAY).unwrap_or(now)).then(|| {
            format!(
                "tls.crt has a certificate that is not valid before {not_before}: compare the clock \
                 of the operator's node"
            )
        })
    }

    /// What Azure calls it: SHA-1 in hexadecimal, as portal and command line print it.
    pub(super) fn thumbprint(&self) -> String {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.der);
        let hex = digest.as_ref().iter().map(|byte| format!("{byte:02X}"));
        hex.collect()
    }

    /// The assertion by which the client shows that it has the key.
    pub(super) fn assertion(
        &self,
        client: &str,
        endpoint: &str,
        now: Timestamp,
    ) -> Result<String, String> {
        let cannot = |_| "tls.key cannot sign: store another RSA key".to_owned();
        let random = SystemRandom::new();
        let mut id = [0; 16];
        random.fill(&mut id).map_err(cannot)?;
        let thumbprint = digest::digest(&digest::SHA256, &self.der);
        let header = json!({
            "alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint),
        });
        let at = |time: Result<Timestamp, jiff::Error>| time.unwrap_or(now).as_second();
        let from = at(now.saturating_sub(LEEWAY));
        let claims = json!({
            "aud": endpoint, "iss": client, "sub": client,
            "jti": Builder::from_random_bytes(id).into_uuid().to_string(),
            "iat": from, "nbf": from, "exp": at(now.saturating_add(LEEWAY)),
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &random, signed.as_bytes(), &mut signature)
            .map_err(cannot)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn rsa_key(pem: &str) -> Result<RsaKeyPair, String> {
    let only_rsa = "tls.key is no RSA key: Entra takes only certificates with RSA keys";
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        if pem.contains("ENCRYPTED") {
            "tls.key is encrypted: store the key without a passphrase"
        } else {
            "tls.key has no private key in PEM: store it as PKCS#8 or PKCS#1"
        }
    })?;
    let read = match &key {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        _ => return Err(only_rsa.to_owned()),
    };
    read.map_err(|rejected| match rejected.to_string().as_str() {
        "WrongAlgorithm" => only_rsa.to_owned(),
        "TooSmall" | "TooLarge" | "PrivateModulusLenNotMultipleOf512Bits" => {
            "tls.key has an RSA key of an unusual size: use 2048, 3072 or 4096 bits".to_owned()
        }
        _ if pem.contains("ENCRYPTED") => {
            "tls.key is encrypted: store the key without a passphrase".to_owned()
        }
        other => format!("tls.key cannot be read ({other}): store an RSA key of 2048 bits or more"),
    })
}

#[cfg(test)]
#[path = "tests/certificate.rs"]
mod tests;
