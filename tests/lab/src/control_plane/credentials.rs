//! The control plane's own certificates, keys and kubeconfig files, made anew for each start.
//! Must not talk to the API server.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

use crate::process::write_private;

/// Signs the server's certificate and those of its users.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, both PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("lab control plane", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// For the API server itself.
    pub(super) fn server(&self) -> Result<Pair> {
        let names = [
            "localhost",
            "127.0.0.1",
            "10.0.0.1",
            "kubernetes.default.svc",
        ];
        let mut params = CertificateParams::new(names.map(str::to_owned))?;
        params.distinguished_name = name("kube-apiserver", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// For a user of the API; Kubernetes reads the group from the organization.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

/// The key that signs service account tokens. RSA, as in real clusters: Entra accepts RS256 only.
pub(super) fn service_account_key(path: &Path) -> Result<()> {
    let output = Command::new("openssl")
        .args(["genrsa", "-out"])
        .arg(path)
        .arg("2048")
        .output()
        .context("cannot run openssl, which makes the service account key: run 'make deps'")?;
    if !output.status.success() {
        bail!(
            "openssl genrsa failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Writes a kubeconfig. JSON is YAML, and quotes nothing wrongly.
pub(super) fn write_kubeconfig(
    path: &Path,
    url: &str,
    ca: &str,
    namespace: &str,
    user: &Value,
) -> Result<()> {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": url,
            "certificate-authority-data": STANDARD.encode(ca),
        }}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "lab", "context": {
            "cluster": "lab", "user": "user", "namespace": namespace,
        }}],
        "current-context": "lab",
    });
    write_private(path, format!("{text:#}\n"))
}

/// The user entry for a client certificate.
pub(super) fn certificate_user(pair: &Pair) -> Value {
    json!({
        "client-certificate-data": STANDARD.encode(&pair.certificate),
        "client-key-data": STANDARD.encode(&pair.key),
    })
}
