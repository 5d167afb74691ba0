//! Certificates of the lab: one authority for gateway and Entra, and wrong ones for tests.

use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The names under which everything of the lab is reached.
pub const LOOPBACK_NAMES: [&str; 4] = ["localhost", "*.localhost", "127.0.0.1", "::1"];

/// A certificate authority, made anew at each start.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate chain and key.
pub struct ServerCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    pub fn new(common_name: &str) -> anyhow::Result<Self> {
        let mut params = valid_for_years(CertificateParams::new(Vec::new())?);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(
            params,
            KeyPair::generate()?,
        )?))
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    /// A server certificate for names and addresses. rustls refuses the authority's own as a server's.
    pub fn issue(&self, names: &[&str]) -> anyhow::Result<ServerCertificate> {
        let texts: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = valid_for_years(CertificateParams::new(texts)?);
        // Not the authority's name: OpenSSL would take the certificate for self-signed.
        let common_name = names.first().copied().unwrap_or("server");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), self.0.as_ref().der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        })
    }

    /// A server that shows a certificate of this authority for the lab's names.
    pub fn server_config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        self.issue(&LOOPBACK_NAMES)?.server_config()
    }
}

/// rcgen's own default ends in the year 4096, which some clients cannot read.
fn valid_for_years(mut params: CertificateParams) -> CertificateParams {
    let year = i32::from(
        jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .year(),
    );
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    params
}

impl ServerCertificate {
    pub fn server_config(self) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain, self.key)
            .context("the lab's own certificate does not fit its key")?;
        Ok(Arc::new(config))
    }
}
