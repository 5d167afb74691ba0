//! What the annotations of a Secret record of its token.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::fingerprint;
use crate::api::Identity;
use crate::model::ObjectId;

/// When the token ends, RFC 3339.
pub const EXPIRES_AT: &str = "entrapostgres.io/expires-at";
/// When it was written, RFC 3339.
pub const ISSUED_AT: &str = "entrapostgres.io/issued-at";
/// SHA-256 of the token, hexadecimal: tells a Secret changed by hand.
pub const TOKEN_SHA256: &str = "entrapostgres.io/token-sha256";
/// SHA-256 of `token.identity` as it was declared, hexadecimal: another one is asked at once.
pub const IDENTITY_SHA256: &str = "entrapostgres.io/identity-sha256";
/// The value of annotation `entrapostgres.io/renew` that was obeyed last.
pub const RENEWED: &str = "entrapostgres.io/renewed";
/// The principal the token speaks for.
pub const TOKEN_OBJECT_ID: &str = "entrapostgres.io/token-object-id";

/// SHA-256 of an identity as declared. It names things and holds no secret.
pub fn identity_of(identity: &Identity) -> String {
    fingerprint(&serde_json::to_string(identity).unwrap_or_default())
}

/// What the annotations of a Secret record of its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// When it was written.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Its SHA-256.
    pub sha256: String,
    /// The principal it speaks for.
    pub object_id: ObjectId,
    /// SHA-256 of the identity that was asked.
    pub identity: String,
    /// The value of annotation `entrapostgres.io/renew` that was obeyed last.
    pub renewed: Option<String>,
    /// How long it lived when it was made, as it says itself; no annotation has it.
    pub lives: Option<SignedDuration>,
}

impl TokenRecord {
    /// The same as its annotations hold it, in whole seconds: else a restart would find other times than
    /// were counted with before, and write them to each status.
    #[must_use]
    pub fn in_seconds(self) -> Self {
        Self {
            issued_at: second(self.issued_at),
            expires_at: second(self.expires_at),
            ..self
        }
    }

    /// When it ends, by the clock by which it was written: that may lag behind Entra's, and no token lives
    /// longer after it came than when it was made.
    pub fn ends_here(&self) -> Timestamp {
        let lives = self
            .lives
            .and_then(|lives| self.issued_at.checked_add(lives).ok());
        lives.map_or(self.expires_at, |end| end.min(self.expires_at))
    }

    /// Reads the annotations; `None` when they are incomplete.
    pub fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self {
            issued_at: annotations.get(ISSUED_AT)?.parse().ok()?,
            expires_at: annotations.get(EXPIRES_AT)?.parse().ok()?,
            sha256: annotations.get(TOKEN_SHA256)?.clone(),
            object_id: ObjectId::parse(annotations.get(TOKEN_OBJECT_ID)?)?,
            identity: annotations.get(IDENTITY_SHA256)?.clone(),
            renewed: annotations.get(RENEWED).cloned(),
            lives: None,
        })
    }

    /// The annotations that record it.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let renewed = (self.renewed.clone()).map(|value| (RENEWED.to_owned(), value));
        let fixed = [
            (ISSUED_AT.to_owned(), second(self.issued_at).to_string()),
            (EXPIRES_AT.to_owned(), second(self.expires_at).to_string()),
            (TOKEN_SHA256.to_owned(), self.sha256.clone()),
            (TOKEN_OBJECT_ID.to_owned(), self.object_id.to_string()),
            (IDENTITY_SHA256.to_owned(), self.identity.clone()),
        ];
        fixed.into_iter().chain(renewed).collect()
    }
}

fn second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
