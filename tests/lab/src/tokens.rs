//! JSON web tokens: the lab's signing key, its access tokens, and the check of tokens and assertions.
//! It signs what it is told; who may have which token is decided elsewhere.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, RsaKeyPair, RsaPublicKeyComponents};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::rsa_key::{generate_rsa_key, rsa_key_in};

/// The resource whose tokens Azure Database for PostgreSQL takes.
pub const RESOURCE: &str = "https://ossrdbms-aad.database.windows.net";
/// The scope that gives such tokens.
pub const SCOPE: &str = "https://ossrdbms-aad.database.windows.net/.default";

/// An RSA key that signs tokens.
pub struct TokenKeys {
    pair: RsaKeyPair,
    kid: String,
}

/// What a token says. All claims are in `all`.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    pub aud: String,
    pub tid: Uuid,
    pub oid: Uuid,
    pub appid: Option<Uuid>,
    pub idtyp: TokenKind,
    pub upn: Option<String>,
    /// Whether `amr` says that the person proved more than a password.
    pub mfa: bool,
    pub exp: i64,
    pub all: Map<String, Value>,
}

/// Whose token: an application's (service principal or managed identity), or a person's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    App,
    User,
}

/// Why a token is refused; checked in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Not a signed token at all, or without the claims that a token of Entra has.
    Format,
    Signature,
    Audience,
    Tenant,
    NotYetValid,
    Expired,
}

/// What a token must say to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub audience: &'a str,
    pub tenant: Uuid,
    /// Seconds since 1970.
    pub now: i64,
}

/// A token in its parts, its signature not yet looked at.
#[derive(Debug)]
pub struct Unverified<'a> {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl TokenKeys {
    /// The key kept in `folder`, made on first use: making one takes a second or more.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("entra-signing-key.pem");
        let pem = rsa_key_in(&path)?;
        Self::from_pem(&pem).with_context(|| format!("the signing key in {}", path.display()))
    }

    /// A key of its own, kept nowhere.
    pub fn generate() -> anyhow::Result<Self> {
        Self::from_pem(&generate_rsa_key()?)
    }

    /// From a PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> anyhow::Result<Self> {
        let key = rsa::PrivateKey::from_pkcs8_pem(pem)?;
        let pair = RsaKeyPair::from_pkcs8(key.to_pkcs8_der()?.as_bytes())
            .map_err(|error| anyhow!("not an RSA key that can sign: {error}"))?;
        let parts: RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(&parts.n));
        Ok(Self { pair, kid })
    }

    /// The public half, as the keys endpoint and a cluster's `/openid/v1/jwks` give it.
    pub fn jwks(&self) -> Value {
        let parts: RsaPublicKeyComponents<Vec<u8>> = self.pair.public().into();
        json!({"keys": [{
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid,
            "n": URL_SAFE_NO_PAD.encode(parts.n), "e": URL_SAFE_NO_PAD.encode(parts.e),
        }]})
    }

    pub fn sign(&self, claims: &Map<String, Value>) -> anyhow::Result<String> {
        self.sign_with_header(json!({"kid": self.kid, "x5t": self.kid}), claims)
    }

    /// With further header fields; `typ` and `alg` are set here.
    pub fn sign_with_header(
        &self,
        mut header: Value,
        claims: &Map<String, Value>,
    ) -> anyhow::Result<String> {
        let fields = header
            .as_object_mut()
            .context("a token's header is an object")?;
        fields.insert("typ".into(), "JWT".into());
        fields.insert("alg".into(), "RS256".into());
        let part = |value: &[u8]| URL_SAFE_NO_PAD.encode(value);
        let signed = format!(
            "{}.{}",
            part(&serde_json::to_vec(&header)?),
            part(&serde_json::to_vec(claims)?)
        );
        let mut signature = vec![0; self.pair.public().modulus_len()];
        let random = SystemRandom::new();
        self.pair
            .sign(
                &signature::RSA_PKCS1_SHA256,
                &random,
                signed.as_bytes(),
                &mut signature,
            )
            .map_err(|_| anyhow!("the key cannot sign"))?;
        Ok(format!("{signed}.{}", part(&signature)))
    }

    /// Checks an access token as PostgreSQL does.
    pub fn verify(&self, token: &str, expected: Expected<'_>) -> Result<Claims, TokenError> {
        let token = Unverified::parse(token).ok_or(TokenError::Format)?;
        if !token.signed_by(&self.jwks()) {
            return Err(TokenError::Signature);
        }
        let claims = Claims::read(token.claims).ok_or(TokenError::Format)?;
        if claims.aud.trim_end_matches('/') != expected.audience.trim_end_matches('/') {
            return Err(TokenError::Audience);
        }
        if claims.tid != expected.tenant {
            return Err(TokenError::Tenant);
        }
        match claims.all.get("nbf").and_then(Value::as_i64) {
            Some(nbf) if nbf > expected.now + CLOCK_TOLERANCE => Err(TokenError::NotYetValid),
            _ if claims.exp <= expected.now => Err(TokenError::Expired),
            _ => Ok(claims),
        }
    }
}

/// How far ahead another's clock may be: Azure allows five minutes.
const CLOCK_TOLERANCE: i64 = 300;

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKeys")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl Claims {
    fn read(all: Map<String, Value>) -> Option<Self> {
        let text = |name: &str| all.get(name).and_then(Value::as_str);
        let id = |name: &str| text(name).and_then(|id| id.parse().ok());
        let amr = all.get("amr").and_then(Value::as_array);
        Some(Self {
            aud: text("aud")?.to_owned(),
            tid: id("tid")?,
            oid: id("oid")?,
            appid: id("appid"),
            idtyp: serde_json::from_value(all.get("idtyp")?.clone()).ok()?,
            upn: text("upn").map(str::to_owned),
            mfa: amr.is_some_and(|methods| methods.iter().any(|method| method == "mfa")),
            exp: all.get("exp")?.as_i64()?,
            all,
        })
    }
}

impl<'a> Unverified<'a> {
    /// None if it is not a token of three parts with JSON in the first two.
    pub fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Map<String, Value>>(&bytes).ok()
        };
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// The text of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name).and_then(Value::as_str)
    }

    /// The text of a claim.
    pub fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }

    /// A claim that is a number, as times are.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.claims.get(name).and_then(Value::as_i64)
    }

    /// Whether `aud`, a text or a list, has the audience.
    pub fn has_audience(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one == audience),
            _ => false,
        }
    }

    /// Whether a key of the set made the signature: the one it names, else any.
    pub fn signed_by(&self, jwks: &Value) -> bool {
        let keys = jwks
            .get("keys")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let named = |key: &&Value| match (self.header("kid"), key.get("kid")) {
            (Some(wanted), Some(kid)) => kid == wanted,
            _ => true,
        };
        self.is_rs256()
            && keys
                .iter()
                .filter(named)
                .any(|key| self.fits(key).unwrap_or(false))
    }

    /// Whether the owner of an RSA public key (PKCS#1 DER) made the signature: PS256, as Entra
    /// documents it, or RS256, as it was before.
    pub fn signed_by_key(&self, public_key: &[u8]) -> bool {
        let algorithm = match self.header("alg") {
            Some("PS256") => &signature::RSA_PSS_2048_8192_SHA256,
            Some("RS256") => &signature::RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        let key = signature::UnparsedPublicKey::new(algorithm, public_key);
        key.verify(self.signed.as_bytes(), &self.signature).is_ok()
    }

    fn is_rs256(&self) -> bool {
        self.header("alg") == Some("RS256")
    }

    fn fits(&self, key: &Value) -> Option<bool> {
        let part = |name| URL_SAFE_NO_PAD.decode(key.get(name)?.as_str()?).ok();
        let public = RsaPublicKeyComponents {
            n: part("n")?,
            e: part("e")?,
        };
        let algorithm = &signature::RSA_PKCS1_2048_8192_SHA256;
        Some(
            public
                .verify(algorithm, self.signed.as_bytes(), &self.signature)
                .is_ok(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Uuid = Uuid::from_u128(7);

    fn claims() -> Map<String, Value> {
        let value = json!({"aud": RESOURCE, "tid": TENANT, "oid": Uuid::from_u128(1), "idtyp": "app", "nbf": 100, "exp": 200});
        value.as_object().unwrap().clone()
    }

    #[test]
    fn each_wrong_token_is_refused_for_its_reason() {
        let (keys, others) = (
            TokenKeys::generate().unwrap(),
            TokenKeys::generate().unwrap(),
        );
        let good = keys.sign(&claims()).unwrap();
        let check = |token: &str, audience, tenant, now| {
            keys.verify(
                token,
                Expected {
                    audience,
                    tenant,
                    now,
                },
            )
            .map(|claims| claims.oid)
        };
        assert_eq!(check(&good, RESOURCE, TENANT, 150), Ok(Uuid::from_u128(1)));
        assert_eq!(
            check(&good[..99], RESOURCE, TENANT, 150),
            Err(TokenError::Format)
        );
        assert_eq!(
            check("a.b.c", RESOURCE, TENANT, 150),
            Err(TokenError::Format)
        );
        assert_eq!(
            check(&others.sign(&claims()).unwrap(), RESOURCE, TENANT, 150),
            Err(TokenError::Signature)
        );
        assert_eq!(
            check(&good, "https://graph.microsoft.com", TENANT, 150),
            Err(TokenError::Audience)
        );
        assert_eq!(
            check(&good, RESOURCE, Uuid::nil(), 150),
            Err(TokenError::Tenant)
        );
        assert_eq!(
            check(&good, RESOURCE, TENANT, 200),
            Err(TokenError::Expired)
        );
        assert_eq!(
            check(&good, RESOURCE, TENANT, -201),
            Err(TokenError::NotYetValid)
        );
        let mut bare = claims();
        bare.remove("oid");
        assert_eq!(
            check(&keys.sign(&bare).unwrap(), RESOURCE, TENANT, 150),
            Err(TokenError::Format)
        );
    }

    #[test]
    fn a_kept_key_is_the_same_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = TokenKeys::load(&folder.path().join("new")).unwrap();
        let second = TokenKeys::load(&folder.path().join("new")).unwrap();
        assert_eq!(first.jwks(), second.jwks());
    }
}
