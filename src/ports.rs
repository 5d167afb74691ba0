//! What one part asks of another, in our words. Adapters are in `postgres`, `entra` and `cluster`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::api::Identity;
use crate::model::{Cloud, Failure, ObjectId, ObjectKey, RoleName};

/// An Entra access token that was checked: audience, tenant, life. Cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    text: String,
    /// The principal it speaks for (claim `oid`).
    pub object_id: ObjectId,
    /// The end of its life (claim `exp`), in whole seconds.
    pub expires_at: Timestamp,
}

impl AccessToken {
    /// Takes a token whose claims were read from it.
    pub fn new(text: String, object_id: ObjectId, expires_at: Timestamp) -> Self {
        Self {
            text,
            object_id,
            expires_at,
        }
    }

    /// The token itself, for the sign-in and the Secret only.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("object_id", &self.object_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Which of several waiting exchanges goes first: the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// The operator's own sign-in to a server, which serves many.
    Administrator,
    /// There is no token yet.
    NeverIssued,
    /// The present token ends then.
    Renewal(Timestamp),
}

/// A wish for a token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenOrder {
    /// The namespace of the object that wants it; everything the identity names is there.
    pub namespace: String,
    /// Whose token.
    pub identity: Identity,
    /// The cloud that decides authority, scope and audience.
    pub cloud: Arc<Cloud>,
    /// How urgent it is.
    pub urgency: Urgency,
}

/// Gets tokens from Entra: one exchange, never a token kept from before.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// Asks for a new token and checks that it is for the cloud's audience, for the tenant asked,
    /// and alive.
    async fn token(&self, order: TokenOrder) -> Result<AccessToken, Failure>;
}

/// A sign-in to be tried.
#[derive(Clone, Copy, Debug)]
pub struct SignIn<'a> {
    /// The server object: its own host is asked, whatever endpoint workloads are told of.
    pub server: &'a ObjectKey,
    /// As whom.
    pub role: &'a RoleName,
    /// To which database.
    pub database: &'a str,
    /// With what.
    pub token: &'a AccessToken,
}

/// Tells whether the server lets somebody in with a token.
#[async_trait]
pub trait LoginCheck: Send + Sync {
    /// Signs in and leaves. `LoginRefused` if the server refuses the token for that role; anything
    /// else says that it could not be tried, or that only the database is not for it.
    async fn sign_in(&self, sign_in: SignIn<'_>) -> Result<(), Failure>;
}

/// A service account as far as workload identity needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccountFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// Annotation `azure.workload.identity/client-id`.
    pub client_id: Option<String>,
    /// Annotation `azure.workload.identity/tenant-id`.
    pub tenant_id: Option<String>,
}

/// A value of a Secret with the version it was read at. Cannot be printed.
#[derive(Clone)]
pub struct SecretValue {
    /// The Secret's uid.
    pub uid: String,
    /// The Secret's resourceVersion.
    pub resource_version: String,
    /// The value.
    pub text: String,
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretValue")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// A certificate and its private key, as a Secret holds them, with the version it was read at.
/// Cannot be printed.
#[derive(Clone)]
pub struct KeyPair {
    /// The Secret's uid.
    pub uid: String,
    /// The Secret's resourceVersion.
    pub resource_version: String,
    /// `tls.crt`, PEM.
    pub certificate: String,
    /// `tls.key`, PEM.
    pub key: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// What an exchange needs of Kubernetes.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// Reads a service account; `ServiceAccountNotFound` when it is absent.
    async fn service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<ServiceAccountFacts, Failure>;

    /// A new token of that account for exactly this audience (`TokenRequest`).
    async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audience: &str,
    ) -> Result<String, Failure>;

    /// Reads one key of a Secret; `ClientSecretNotFound` when Secret or key is absent.
    async fn secret_value(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<SecretValue, Failure>;

    /// Reads `tls.crt` and `tls.key` of a Secret; `ClientCertificateNotFound` when Secret or key is
    /// absent.
    async fn key_pair(&self, namespace: &str, name: &str) -> Result<KeyPair, Failure>;
}

/// Whether this replica may change anything now.
pub trait WriteGate: Send + Sync + fmt::Debug {
    /// `NotLeader` unless the lease is ours and its deadline is ahead.
    fn check(&self) -> Result<(), Failure>;
}

/// A clock, so that time can be an argument.
pub trait Clock: Send + Sync {
    /// The present time.
    fn now(&self) -> Timestamp;
}
