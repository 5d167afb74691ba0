//! Access tokens as Entra makes them for PostgreSQL: claims, life, size.
//! Whether somebody may have one is decided elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt as _;
use serde_json::{Map, Value, json};

use crate::directory::{Directory, Principal, ServicePrincipal, ServicePrincipalKind};
use crate::state::unix_now;
use crate::tokens::TokenKeys;

/// What is ordered.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    pub principal: Principal<'a>,
    pub audience: &'a str,
    /// Absent: as the principal's kind has it.
    pub lifetime_seconds: Option<u64>,
    pub clock_skew_seconds: i64,
    /// Put over the right claims; `null` takes one away.
    pub claims: &'a Map<String, Value>,
}

/// A token and its times by Entra's clock.
#[derive(Clone)]
pub struct Issued {
    pub access_token: String,
    pub expires_in: i64,
    pub expires_on: i64,
    pub not_before: i64,
}

/// Entra dates its tokens back by this much.
const BACKDATED: i64 = 300;
/// A managed identity's token lives a day.
const MANAGED_LIFETIME: i64 = 24 * 60 * 60;

pub fn mint(keys: &TokenKeys, directory: &Directory, order: &Order<'_>) -> anyhow::Result<Issued> {
    let now = unix_now() + order.clock_skew_seconds;
    let life = lifetime(order);
    let (not_before, expires_on) = (now - BACKDATED, now + life);
    let mut claims = claims(directory, order);
    claims.insert("iat".into(), not_before.into());
    claims.insert("nbf".into(), not_before.into());
    claims.insert("exp".into(), expires_on.into());
    for (name, value) in order.claims {
        if value.is_null() {
            claims.remove(name);
        } else {
            claims.insert(name.clone(), value.clone());
        }
    }
    let access_token = keys.sign(&claims)?;
    Ok(Issued {
        access_token,
        expires_in: life,
        expires_on,
        not_before,
    })
}

fn lifetime(order: &Order<'_>) -> i64 {
    let given = match order.principal {
        Principal::Service(service) => order.lifetime_seconds.or(service.token_lifetime_seconds),
        Principal::User(_) | Principal::Group(_) => order.lifetime_seconds,
    };
    match (given, order.principal) {
        (Some(seconds), _) => i64::try_from(seconds).unwrap_or(i64::MAX / 2),
        (
            None,
            Principal::Service(ServicePrincipal {
                kind: ServicePrincipalKind::ManagedIdentity,
                ..
            }),
        ) => MANAGED_LIFETIME,
        (None, _) => rand::rng().random_range(60 * 60..=90 * 60),
    }
}

/// All but the times. The fillers make it as long as real ones: about 2 KB, a person's 4.5 KB.
fn claims(directory: &Directory, order: &Order<'_>) -> Map<String, Value> {
    let tenant = directory.tenant_id;
    let object_id = order.principal.object_id();
    let issuer = format!("https://sts.windows.net/{tenant}/");
    let own = match order.principal {
        Principal::Service(service) => service_claims(service, &issuer),
        // A group has no token; whoever orders one gets a person's of its object id.
        Principal::User(_) | Principal::Group(_) => json!({
            "idtyp": "user",
            "upn": order.principal.name(),
            "unique_name": order.principal.name(),
            "name": order.principal.name(),
            "appid": "04b07795-8ddb-461a-bbee-02f9e1bf7b46",
            "appidacr": "0",
            "acr": "1",
            "amr": ["pwd", "mfa"],
            "ipaddr": "127.0.0.1",
            "puid": "10032000A1B2C3D4",
            "scp": "user_impersonation",
            "aio": filler(1800),
            "wids": ["b79fbf4d-3ef9-4689-8143-76b194e85509"],
        }),
    };
    let common = json!({
        "aud": order.audience,
        "iss": issuer,
        "tid": tenant,
        "oid": object_id,
        "sub": object_id,
        "rh": format!("1.{}.", filler(48)),
        "uti": filler(16),
        "ver": "1.0",
        "xms_ftd": filler(64),
        "xms_idrel": "7 24",
        "xms_rd": filler(90),
        "xms_tcdt": 1_577_836_800,
    });
    let mut claims = Map::new();
    for part in [common, own] {
        claims.extend(part.as_object().cloned().unwrap_or_default());
    }
    claims
}

fn service_claims(service: &ServicePrincipal, issuer: &str) -> Value {
    let mut claims = json!({
        "idtyp": "app",
        "appid": service.client_id,
        "appidacr": if service.secrets.is_empty() { "2" } else { "1" },
        "idp": issuer,
        "aio": filler(150),
    });
    if let Some(resource_id) = &service.resource_id
        && let Some(fields) = claims.as_object_mut()
    {
        fields.insert("xms_mirid".into(), json!(resource_id));
    }
    claims
}

fn filler(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::rng().fill(random.as_mut_slice());
    URL_SAFE_NO_PAD.encode(random)
}
