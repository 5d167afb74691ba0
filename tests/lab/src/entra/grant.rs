//! Who proved to be whom: the client-credentials grant with its three proofs.
//! It grants or refuses; it makes no token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use serde::Deserialize;
use uuid::Uuid;
use x509_parser::pem::parse_x509_pem;

use super::aadsts::Aadsts;
use super::federation;
use crate::directory::{Directory, Principal, ServicePrincipal};
use crate::faults::Effects;
use crate::state::{LabState, unix_now};
use crate::tokens::{RESOURCE, Unverified};

/// The form that a client posts.
#[derive(Clone, Default, Deserialize)]
pub struct Request {
    pub grant_type: Option<String>,
    pub client_id: Option<String>,
    pub scope: Option<String>,
    pub client_secret: Option<String>,
    pub client_assertion_type: Option<String>,
    pub client_assertion: Option<String>,
}

/// Whose token, for which resource.
pub(super) struct Granted<'a> {
    pub(super) principal: Principal<'a>,
    pub(super) audience: &'a str,
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Resources that every tenant has.
const RESOURCES: [&str; 4] = [
    RESOURCE,
    "https://management.azure.com",
    "https://graph.microsoft.com",
    "https://vault.azure.net",
];

pub(super) async fn grant<'a>(
    state: &LabState,
    directory: &'a Directory,
    tenant: &str,
    request: &'a Request,
    effects: &Effects,
) -> Result<Granted<'a>, Aadsts> {
    check_tenant(directory, tenant)?;
    let needed = |field: &'a Option<String>, name| {
        field
            .as_deref()
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Aadsts::parameter_missing(name))
    };
    let grant_type = needed(&request.grant_type, "grant_type")?;
    if grant_type != "client_credentials" {
        return Err(Aadsts::grant_type_unsupported(grant_type));
    }
    let client_id = needed(&request.client_id, "client_id")?;
    let scope = needed(&request.scope, "scope")?;
    let client = client_id
        .parse()
        .ok()
        .and_then(|id| directory.by_client_id(id))
        .ok_or_else(|| Aadsts::app_not_found(client_id, directory.tenant_id))?;
    let audience = scope
        .strip_suffix("/.default")
        .ok_or_else(|| Aadsts::scope_without_default(scope))?;
    check_resource(directory, audience)?;
    let now = unix_now() + effects.clock_skew_seconds;
    match (&request.client_secret, &request.client_assertion) {
        (Some(secret), _) => check_secret(client, secret)?,
        (None, Some(_)) if request.client_assertion_type.as_deref() != Some(ASSERTION_TYPE) => {
            return Err(Aadsts::parameter_missing("client_assertion_type"));
        }
        (None, Some(assertion)) => {
            check_assertion(state, directory, client, assertion, now).await?;
        }
        (None, None) => return Err(Aadsts::no_credential()),
    }
    Ok(Granted {
        principal: Principal::Service(client),
        audience,
    })
}

pub(super) fn check_tenant(directory: &Directory, tenant: &str) -> Result<(), Aadsts> {
    match tenant.parse::<Uuid>() {
        Ok(id) if directory.tenant_id == id => Ok(()),
        _ => Err(Aadsts::tenant_not_found(tenant)),
    }
}

/// Whether tokens for a resource exist at all.
pub(crate) fn check_resource(directory: &Directory, resource: &str) -> Result<(), Aadsts> {
    if RESOURCES.contains(&resource.trim_end_matches('/')) {
        Ok(())
    } else {
        Err(Aadsts::resource_not_found(resource, directory.tenant_id))
    }
}

fn check_secret(client: &ServicePrincipal, secret: &str) -> Result<(), Aadsts> {
    if client.secrets.iter().any(|known| known == secret) {
        Ok(())
    } else {
        Err(Aadsts::wrong_secret(client.client_id))
    }
}

/// An assertion that the client made about itself is signed with its certificate; all others are federated.
async fn check_assertion(
    state: &LabState,
    directory: &Directory,
    client: &ServicePrincipal,
    assertion: &str,
    now: i64,
) -> Result<(), Aadsts> {
    let token = Unverified::parse(assertion).ok_or_else(Aadsts::malformed_assertion)?;
    let own = client.client_id.to_string();
    let names_itself = |claim: &str| {
        token
            .claim(claim)
            .is_some_and(|id| id.eq_ignore_ascii_case(&own))
    };
    if names_itself("iss") && names_itself("sub") {
        check_certificate(directory, client, &token, now)?;
    } else {
        federation::check(state, client, &token).await?;
    }
    check_time(&token, now)
}

fn check_certificate(
    directory: &Directory,
    client: &ServicePrincipal,
    token: &Unverified<'_>,
    now: i64,
) -> Result<(), Aadsts> {
    let named = Thumbprint::of(token);
    let mut known = client.certificates.iter();
    let key = match known.find_map(|pem| named.as_ref()?.find(pem, now)) {
        Some(Registered::Key(key)) => key,
        Some(Registered::Expired) => return Err(Aadsts::certificate_expired()),
        None => {
            let text = named.map_or_else(String::new, |named| named.text);
            return Err(Aadsts::certificate_unknown(&text));
        }
    };
    if !token.signed_by_key(&key) {
        return Err(Aadsts::assertion_signature());
    }
    // Any host: the lab is reached under several names. The rest of the URL is this tenant's.
    let tenant = directory.tenant_id;
    let ends = [
        format!("/{tenant}/oauth2/v2.0/token"),
        format!("/{tenant}/v2.0"),
    ];
    match token.claim("aud") {
        Some(audience) if ends.iter().any(|end| audience.ends_with(end)) => Ok(()),
        _ => Err(Aadsts::assertion_audience()),
    }
}

/// How an assertion names the certificate: SHA-256 in `x5t#S256`, SHA-1 in `x5t`, both in base64url;
/// SHA-1 in hex in `kid`.
struct Thumbprint {
    text: String,
    of: Digest,
}

type Digest = fn(&[u8]) -> String;

/// What a registered certificate is good for.
enum Registered {
    /// Its RSA key (PKCS#1).
    Key(Vec<u8>),
    Expired,
}

impl Thumbprint {
    fn of(token: &Unverified<'_>) -> Option<Self> {
        let kinds: [(&str, Digest); 3] = [
            ("x5t#S256", |der| {
                URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der))
            }),
            ("x5t", |der| URL_SAFE_NO_PAD.encode(sha1(der))),
            ("kid", |der| format!("{:x}", HexBytes(sha1(der).as_ref()))),
        ];
        kinds.into_iter().find_map(|(name, of)| {
            let text = token.header(name)?;
            let text = match name {
                "kid" => text.to_lowercase(),
                _ => text.to_owned(),
            };
            Some(Self { text, of })
        })
    }

    /// The certificate, if it is this one.
    fn find(&self, pem: &str, now: i64) -> Option<Registered> {
        let (_, block) = parse_x509_pem(pem.as_bytes()).ok()?;
        if (self.of)(&block.contents) != self.text {
            return None;
        }
        let certificate = block.parse_x509().ok()?;
        if certificate.validity().not_after.timestamp() <= now {
            return Some(Registered::Expired);
        }
        let key = certificate.public_key().subject_public_key.data.to_vec();
        Some(Registered::Key(key))
    }
}

fn sha1(der: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der)
}

/// Bytes that print as lower-case hex.
struct HexBytes<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn check_time(token: &Unverified<'_>, now: i64) -> Result<(), Aadsts> {
    let (from, until) = (token.number("nbf"), token.number("exp"));
    let tolerance = 300;
    if until.is_some_and(|until| now < until) && from.is_none_or(|from| from <= now + tolerance) {
        Ok(())
    } else {
        Err(Aadsts::assertion_out_of_time(now, from, until))
    }
}
