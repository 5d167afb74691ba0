//! The certificates that a server's certificate must chain to, read from a `ConfigMap` or Secret.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Call, Cluster};
use crate::api::{CaRef, Tls};
use crate::model::{Class, Failure, Reason};

impl Cluster {
    /// The certificates of `spec.tls`: only CERTIFICATE blocks, so that a private key that lies
    /// beside them goes nowhere.
    pub async fn read_ca(
        &self,
        namespace: &str,
        tls: &Tls,
    ) -> Result<Vec<CertificateDer<'static>>, Failure> {
        match (&tls.ca_config_map_ref, &tls.ca_secret_ref) {
            (Some(reference), _) => self.ca_of_config_map(namespace, reference).await,
            (None, Some(reference)) => self.ca_of_secret(namespace, reference).await,
            (None, None) => Err(invalid(
                "spec.tls names neither caConfigMapRef nor caSecretRef: set one or remove tls",
            )),
        }
    }

    async fn ca_of_config_map(
        &self,
        namespace: &str,
        from: &CaRef,
    ) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let found = self.api::<ConfigMap>(namespace).get_opt(&from.name).await;
        let found = found
            .map_err(|error| Call::on::<ConfigMap>("get", namespace, &from.name).failure(&error))?;
        let place = Place::new("ConfigMap", namespace, from);
        let map = found.ok_or_else(|| place.missing())?;
        let text = map.data.as_ref().and_then(|data| data.get(&from.key));
        let bytes = map
            .binary_data
            .as_ref()
            .and_then(|data| data.get(&from.key));
        let pem = text
            .map(String::as_bytes)
            .or(bytes.map(|bytes| bytes.0.as_slice()));
        place.certificates(pem)
    }

    async fn ca_of_secret(
        &self,
        namespace: &str,
        from: &CaRef,
    ) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let found = self.api::<Secret>(namespace).get_opt(&from.name).await;
        let found = found
            .map_err(|error| Call::on::<Secret>("get", namespace, &from.name).failure(&error))?;
        let place = Place::new("Secret", namespace, from);
        let secret = found.ok_or_else(|| place.missing())?;
        let pem = secret.data.as_ref().and_then(|data| data.get(&from.key));
        place.certificates(pem.map(|bytes| bytes.0.as_slice()))
    }
}

/// Where the certificates should be, for the sentence when they are not.
struct Place {
    object: String,
    key: String,
}

impl Place {
    fn new(kind: &str, namespace: &str, from: &CaRef) -> Self {
        Self {
            object: format!("{kind} {namespace}/{}", from.name),
            key: from.key.clone(),
        }
    }

    fn missing(&self) -> Failure {
        let object = &self.object;
        invalid(&format!(
            "{object} with the server's CA does not exist: create it or change spec.tls"
        ))
    }

    fn certificates(&self, pem: Option<&[u8]>) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let Self { object, key } = self;
        let pem =
            pem.ok_or_else(|| invalid(&format!("{object} has no key {key:?}: change spec.tls")))?;
        decode(pem).map_err(|problem| {
            invalid(&format!(
                "key {key:?} of {object} {problem}: put PEM certificates there"
            ))
        })
    }
}

fn invalid(message: &str) -> Failure {
    // Not `Invalid`: ConfigMaps and Secrets of users are not watched, so it is looked at again.
    Failure::new(Class::Denied, Reason::CaInvalid, message)
}

fn decode(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|_| "is not valid PEM")?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|_| "has a CERTIFICATE block that is no certificate")?;
    }
    if certificates.is_empty() {
        return Err("has no CERTIFICATE block");
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::super::testing::{Answer, cluster};
    use super::*;

    /// Made with openssl req -x509; its key was thrown away.
    const CA: &str = "-----BEGIN CERTIFICATE-----
MIIBfDCCASGgAwIBAgIUd7ICE+fYL3NVn2jMGtNPy/zWgJYwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHVGVzdCBDQTAgFw0yNjExMjQwNDA0MzVaGA8yMTI2MTAzMTA0
MDQzNVowEjEQMA4GA1UEAwwHVGVzdCBDQTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABL4MwtDAmmt2pcuExujTRj9y038TAIkpdLw8dx5lpIHoV2j25rRlS/GulChD
Kgi/KaDB5TyD6NXad+csk1AT7pSjUzBRMB0GA1UdDgQWBBT7wSXhcHGgYfrtIVAT
I36D96eXDDAfBgNVHSMEGDAWgBT7wSXhcHGgYfrtIVATI36D96eXDDAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQCLjiJgZw+MduaiP2XbVxjLJo8c
EEEkQkHO45E5mFozZQIhAP2/eKOQ0C+XZnJCwDRJvk2A1xPk1R+5dgrQeIyxgKEa
-----END CERTIFICATE-----
";

    fn reference(key: &str) -> CaRef {
        CaRef {
            name: "ca".to_owned(),
            key: key.to_owned(),
        }
    }

    #[tokio::test]
    async fn only_certificates_leave_the_object() {
        let key = "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n";
        let text = format!("some words\n{key}{CA}more words\n{CA}");
        let secret = STANDARD.encode(&text);
        let (cluster, _) = cluster(move |asked| {
            Answer::ok(if asked.path.contains("secrets") {
                json!({"metadata": {"name": "ca"}, "data": {"ca.crt": secret}})
            } else {
                json!({"metadata": {"name": "ca"}, "data": {"ca.crt": text}})
            })
        });
        for tls in [
            Tls {
                ca_config_map_ref: Some(reference("ca.crt")),
                ca_secret_ref: None,
            },
            Tls {
                ca_config_map_ref: None,
                ca_secret_ref: Some(reference("ca.crt")),
            },
        ] {
            let found = cluster.read_ca("platform", &tls).await.expect("good");
            let ca = CertificateDer::from_pem_slice(CA.as_bytes()).expect("PEM");
            assert_eq!(found, [ca.clone(), ca]);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_ca_is_said() {
        let (cluster, _) = cluster(|_| {
            Answer::ok(json!({"metadata": {"name": "ca"}, "data": {
                "none": "nothing here",
                "broken": "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                "false": "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            }}))
        });
        for (key, message) in [
            ("none", "has no CERTIFICATE block"),
            ("broken", "is not valid PEM"),
            ("false", "a CERTIFICATE block that is no certificate"),
            ("absent", "has no key \"absent\""),
        ] {
            let tls = Tls {
                ca_config_map_ref: Some(reference(key)),
                ca_secret_ref: None,
            };
            let failure = cluster.read_ca("platform", &tls).await.expect_err(key);
            assert_eq!(failure.reason, Reason::CaInvalid);
            assert!(failure.message.contains(message), "{failure}");
            assert!(
                failure.message.contains("ConfigMap platform/ca"),
                "{failure}"
            );
        }
    }

    #[tokio::test]
    async fn an_absent_object_is_named() {
        let (cluster, _) = cluster(|_| Answer::refusal(404, "NotFound", "not found"));
        let tls = Tls {
            ca_config_map_ref: None,
            ca_secret_ref: Some(reference("ca.crt")),
        };
        let failure = cluster.read_ca("platform", &tls).await.expect_err("absent");
        assert!(
            failure
                .message
                .contains("Secret platform/ca with the server's CA does not exist")
        );
    }
}
