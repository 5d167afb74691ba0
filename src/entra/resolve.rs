//! Finds out who an order speaks for: ids from the object, the service account's annotations and
//! the operator's environment. Must not decide whether the namespace may use that identity.

use std::fmt;
use std::path::PathBuf;

use azure_identity::UserAssignedId;

use super::breaker::Caller;
use super::certificate::ClientCertificate;
use super::error::Asked;
use super::flights::FlightKey;
use super::stats::ExchangeKind;
use crate::api::{
    ClientCertificateIdentity, ClientSecretIdentity, Identity, ManagedIdentity, WorkloadIdentity,
};
use crate::model::{Class, Failure, Reason, SourceVersion};
use crate::ports::{CredentialSource, ServiceAccountFacts, TokenOrder};

const CLIENT_ANNOTATION: &str = "azure.workload.identity/client-id";
const TENANT_ANNOTATION: &str = "azure.workload.identity/tenant-id";

/// A tenant is a UUID or a domain name.
const LONGEST_TENANT: usize = 253;
/// A client is a UUID.
const LONGEST_CLIENT: usize = 64;
/// Entra makes client secrets of 40 characters.
const LONGEST_SECRET: usize = 4096;
/// A certificate with its chain, or a private key.
const LONGEST_PEM: usize = 64 * 1024;

/// The operator's own identity, as its environment says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OperatorEnvironment {
    /// `AZURE_CLIENT_ID`.
    pub client_id: Option<String>,
    /// `AZURE_TENANT_ID`.
    pub tenant_id: Option<String>,
    /// `AZURE_FEDERATED_TOKEN_FILE`; the file is read at each exchange.
    pub federated_token_file: Option<PathBuf>,
    /// `AZURE_CLIENT_SECRET`.
    pub client_secret: Option<String>,
}

impl fmt::Debug for OperatorEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client_id,
            tenant_id,
            federated_token_file,
            client_secret,
        } = self;
        f.debug_struct("OperatorEnvironment")
            .field("client_id", client_id)
            .field("tenant_id", tenant_id)
            .field("federated_token_file", federated_token_file)
            .field("client_secret", &client_secret.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

/// An identity with all that is known of it before its proof is fetched.
pub(super) struct Applicant {
    pub(super) source: Source,
    /// The tenant and client of everything but managed identities.
    pub(super) tenant: String,
    pub(super) client: String,
}

/// Where the proof comes from.
pub(super) enum Source {
    ServiceAccount {
        name: String,
        uid: String,
        resource_version: String,
    },
    Secret {
        name: String,
        key: String,
        uid: String,
        resource_version: String,
        text: String,
    },
    Certificate {
        name: String,
        uid: String,
        resource_version: String,
        certificate: Box<ClientCertificate>,
    },
    TokenFile(PathBuf),
    OperatorSecret(String),
    /// `None`: the system-assigned identity.
    Node(Option<UserAssignedId>),
}

/// Where the token is asked for. Known before anything is read.
pub(super) fn kind(identity: &Identity, environment: &OperatorEnvironment) -> ExchangeKind {
    let own = environment;
    let own_is_managed = own.federated_token_file.is_none() && own.client_secret.is_none();
    let managed = identity.managed_identity.is_some();
    if managed || (identity.operator.is_some() && own_is_managed) {
        ExchangeKind::Imds
    } else {
        ExchangeKind::Token
    }
}

/// Reads what the order names.
pub(super) async fn resolve(
    order: &TokenOrder,
    credentials: &dyn CredentialSource,
    environment: &OperatorEnvironment,
) -> Result<Applicant, Failure> {
    let Identity {
        workload_identity,
        managed_identity,
        client_secret,
        client_certificate,
        operator,
    } = &order.identity;
    let namespace = order.namespace.as_str();
    match (
        workload_identity,
        managed_identity,
        client_secret,
        client_certificate,
        operator,
    ) {
        (Some(identity), None, None, None, None) => {
            workload(namespace, identity, credentials, environment).await
        }
        (None, Some(identity), None, None, None) => managed(identity),
        (None, None, Some(identity), None, None) => secret(namespace, identity, credentials).await,
        (None, None, None, Some(identity), None) => {
            certificate(namespace, identity, credentials).await
        }
        (None, None, None, None, Some(_)) => own(environment),
        _ => Err(Failure::new(
            Class::Invalid,
            Reason::InvalidSpec,
            "the identity must have exactly one of workloadIdentity, managedIdentity, \
             clientSecret, clientCertificate, operator",
        )),
    }
}

async fn workload(
    namespace: &str,
    identity: &WorkloadIdentity,
    credentials: &dyn CredentialSource,
    environment: &OperatorEnvironment,
) -> Result<Applicant, Failure> {
    let name = &identity.service_account_ref.name;
    let facts = credentials.service_account(namespace, name).await?;
    let version = SourceVersion::of(&facts.uid, &facts.resource_version);
    federated(namespace, identity, &facts, environment)
        .map_err(|failure| failure.proven_by(version))
}

fn federated(
    namespace: &str,
    identity: &WorkloadIdentity,
    facts: &ServiceAccountFacts,
    environment: &OperatorEnvironment,
) -> Result<Applicant, Failure> {
    let name = &identity.service_account_ref.name;
    let account = format!("{namespace}/{name}");
    let client = only_one(
        &account,
        ("clientId", identity.client_id.as_deref()),
        (CLIENT_ANNOTATION, facts.client_id.as_deref()),
    )?;
    let client = client.ok_or_else(|| {
        incomplete(format!(
            "the client id is missing: set annotation {CLIENT_ANNOTATION} of service account \
             {account}, or workloadIdentity.clientId"
        ))
    })?;
    let tenant = only_one(
        &account,
        ("tenantId", identity.tenant_id.as_deref()),
        (TENANT_ANNOTATION, facts.tenant_id.as_deref()),
    )?;
    let tenant = tenant.or(given(environment.tenant_id.as_deref()));
    let tenant = tenant.ok_or_else(|| {
        incomplete(format!(
            "the tenant id is missing: set annotation {TENANT_ANNOTATION} of service account \
             {account}, workloadIdentity.tenantId, or AZURE_TENANT_ID of the operator"
        ))
    })?;
    let source = Source::ServiceAccount {
        name: name.clone(),
        uid: facts.uid.clone(),
        resource_version: facts.resource_version.clone(),
    };
    Applicant::new(source, tenant, client)
}

fn managed(identity: &ManagedIdentity) -> Result<Applicant, Failure> {
    let ManagedIdentity {
        client_id,
        object_id,
        resource_id,
    } = identity;
    let id = match (client_id, object_id, resource_id) {
        (Some(id), None, None) => Some(UserAssignedId::ClientId(id.clone())),
        (None, Some(id), None) => Some(UserAssignedId::ObjectId(id.clone())),
        (None, None, Some(id)) => Some(UserAssignedId::ResourceId(id.clone())),
        (None, None, None) => None,
        _ => {
            return Err(Failure::new(
                Class::Invalid,
                Reason::InvalidSpec,
                "managedIdentity must have at most one of clientId, objectId, resourceId",
            ));
        }
    };
    Ok(Applicant::of_node(id))
}

async fn secret(
    namespace: &str,
    identity: &ClientSecretIdentity,
    credentials: &dyn CredentialSource,
) -> Result<Applicant, Failure> {
    let (name, key) = (&identity.secret_ref.name, &identity.secret_ref.key);
    let value = credentials.secret_value(namespace, name, key).await?;
    // No client secret ends with a line break; many a file it was made from does.
    let text = value.text.trim_end_matches(['\r', '\n']).to_owned();
    if text.is_empty() {
        let message =
            format!("key {key} of Secret {namespace}/{name} is empty: put the client secret there");
        let version = SourceVersion::of(&value.uid, &value.resource_version);
        return Err(
            Failure::new(Class::Denied, Reason::ClientSecretNotFound, message).proven_by(version),
        );
    }
    if text.len() > LONGEST_SECRET {
        let size = text.len();
        let message = format!(
            "key {key} of Secret {namespace}/{name} has {size} bytes and a client secret at most \
             {LONGEST_SECRET}: put the client secret there"
        );
        let version = SourceVersion::of(&value.uid, &value.resource_version);
        return Err(
            Failure::new(Class::Denied, Reason::ClientSecretInvalid, message).proven_by(version),
        );
    }
    let source = Source::Secret {
        name: name.clone(),
        key: key.clone(),
        uid: value.uid,
        resource_version: value.resource_version,
        text,
    };
    Applicant::new(source, &identity.tenant_id, &identity.client_id)
}

async fn certificate(
    namespace: &str,
    identity: &ClientCertificateIdentity,
    credentials: &dyn CredentialSource,
) -> Result<Applicant, Failure> {
    let name = &identity.secret_ref.name;
    let pair = credentials.key_pair(namespace, name).await?;
    let bad = |problem: String| {
        let version = SourceVersion::of(&pair.uid, &pair.resource_version);
        bad_certificate(namespace, name, &problem).proven_by(version)
    };
    for (key, text) in [("tls.crt", &pair.certificate), ("tls.key", &pair.key)] {
        if text.len() > LONGEST_PEM {
            let size = text.len();
            return Err(bad(format!(
                "{key} has {size} bytes and may have {LONGEST_PEM}"
            )));
        }
    }
    let certificate = ClientCertificate::parse(&pair.certificate, &pair.key).map_err(bad)?;
    let source = Source::Certificate {
        name: name.clone(),
        uid: pair.uid,
        resource_version: pair.resource_version,
        certificate: Box::new(certificate),
    };
    Applicant::new(source, &identity.tenant_id, &identity.client_id)
}

/// The problem begins with the key of the Secret.
pub(super) fn bad_certificate(namespace: &str, name: &str, problem: &str) -> Failure {
    let message =
        format!("the client certificate in Secret {namespace}/{name} cannot be used: {problem}");
    Failure::new(Class::Denied, Reason::ClientCertificateInvalid, message)
}

fn own(environment: &OperatorEnvironment) -> Result<Applicant, Failure> {
    let OperatorEnvironment {
        client_id,
        tenant_id,
        federated_token_file,
        client_secret,
    } = environment;
    let missing = |name: &str| {
        incomplete(format!(
            "the operator's own identity is incomplete: set {name} in its environment"
        ))
    };
    let client = given(client_id.as_deref()).ok_or_else(|| missing("AZURE_CLIENT_ID"))?;
    let source = match (federated_token_file, client_secret) {
        (Some(file), _) => Source::TokenFile(file.clone()),
        (None, Some(secret)) => Source::OperatorSecret(secret.clone()),
        (None, None) => {
            let id = UserAssignedId::ClientId(client.to_owned());
            return Ok(Applicant::of_node(Some(id)));
        }
    };
    let tenant = given(tenant_id.as_deref()).ok_or_else(|| missing("AZURE_TENANT_ID"))?;
    Applicant::new(source, tenant, client)
}

/// An id may stand in the object or in the annotation, not in both, not even the same one: nobody
/// could say which one counts once they differ.
fn only_one<'a>(
    account: &str,
    (field, spec): (&str, Option<&'a str>),
    (annotation, noted): (&str, Option<&'a str>),
) -> Result<Option<&'a str>, Failure> {
    match (given(spec), given(noted)) {
        (Some(_), Some(_)) => Err(incomplete(format!(
            "the id stands in two places: remove workloadIdentity.{field}, or annotation \
             {annotation} of service account {account}"
        ))),
        (spec, noted) => Ok(spec.or(noted)),
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

fn incomplete(message: String) -> Failure {
    Failure::new(Class::Denied, Reason::IdentityIncomplete, message)
}

impl Applicant {
    fn new(source: Source, tenant: &str, client: &str) -> Result<Self, Failure> {
        for (what, text, most) in [
            ("tenant", tenant, LONGEST_TENANT),
            ("client", client, LONGEST_CLIENT),
        ] {
            if text.len() > most {
                let size = text.len();
                return Err(incomplete(format!(
                    "the {what} id has {size} bytes and may have {most}: correct the {what} id"
                )));
            }
        }
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        // It becomes part of the token endpoint's path.
        if tenant.is_empty() || tenant.starts_with('.') || !tenant.chars().all(name) {
            return Err(incomplete(format!(
                "tenant {tenant:?} is neither an id nor a domain name: correct the tenant id"
            )));
        }
        Ok(Self {
            source,
            tenant: tenant.to_owned(),
            client: client.to_owned(),
        })
    }

    fn of_node(id: Option<UserAssignedId>) -> Self {
        Self {
            source: Source::Node(id),
            tenant: String::new(),
            client: String::new(),
        }
    }

    /// What an order must have in common with another to share its exchange.
    pub(super) fn key(&self, order: &TokenOrder) -> FlightKey {
        let source: Vec<&str> = match &self.source {
            Source::ServiceAccount {
                name,
                uid,
                resource_version,
            } => vec!["ServiceAccount", name, uid, resource_version],
            Source::Secret {
                name,
                key,
                uid,
                resource_version,
                text: _,
            } => vec!["Secret", name, key, uid, resource_version],
            Source::Certificate {
                name,
                uid,
                resource_version,
                certificate: _,
            } => vec!["Certificate", name, uid, resource_version],
            Source::TokenFile(_) | Source::OperatorSecret(_) => vec!["Operator"],
            Source::Node(Some(UserAssignedId::ClientId(id))) => vec!["clientId", id],
            Source::Node(Some(UserAssignedId::ObjectId(id))) => vec!["objectId", id],
            Source::Node(Some(UserAssignedId::ResourceId(id))) => vec!["resourceId", id],
            Source::Node(_) => vec!["node"],
        };
        FlightKey {
            namespace: order.namespace.clone(),
            source: source.into_iter().map(str::to_owned).collect(),
            tenant: self.tenant.clone(),
            client: self.client.clone(),
            cloud: order.cloud.name.clone(),
            authority: order.cloud.authority.clone(),
            scope: order.cloud.scope.clone(),
        }
    }

    /// Whom a failure is counted for. At IMDS an identity takes the place of a client.
    pub(super) fn caller(&self, namespace: &str) -> Caller {
        let client = match &self.source {
            Source::Node(id) => node_text(id.as_ref()),
            _ => self.client.clone(),
        };
        Caller {
            namespace: namespace.into(),
            tenant: self.tenant.as_str().into(),
            client: client.into(),
        }
    }

    /// The object that proves it, as it was read.
    pub(super) fn version(&self) -> Option<SourceVersion> {
        match &self.source {
            Source::ServiceAccount {
                uid,
                resource_version,
                ..
            }
            | Source::Secret {
                uid,
                resource_version,
                ..
            }
            | Source::Certificate {
                uid,
                resource_version,
                ..
            } => Some(SourceVersion::of(uid, resource_version)),
            Source::TokenFile(_) | Source::OperatorSecret(_) | Source::Node(_) => None,
        }
    }

    /// How messages speak of it.
    pub(super) fn asked(&self, order: &TokenOrder) -> Asked {
        let namespace = &order.namespace;
        let whom = match &self.source {
            Source::ServiceAccount { name, .. } => format!("service account {namespace}/{name}"),
            Source::Secret { name, key, .. } => {
                format!("the client secret in key {key} of Secret {namespace}/{name}")
            }
            Source::Certificate { name, .. } => {
                format!("the client certificate in Secret {namespace}/{name}")
            }
            Source::TokenFile(_) => "the operator's own service account".to_owned(),
            Source::OperatorSecret(_) => "the operator's own client secret".to_owned(),
            Source::Node(id) => node_text(id.as_ref()),
        };
        let thumbprint = match &self.source {
            Source::Certificate { certificate, .. } => Some(certificate.thumbprint()),
            _ => None,
        };
        Asked {
            whom,
            client: self.client.clone(),
            tenant: self.tenant.clone(),
            cloud: order.cloud.clone(),
            managed: matches!(self.source, Source::Node(_)),
            system_assigned: matches!(self.source, Source::Node(None)),
            with_secret: matches!(
                self.source,
                Source::Secret { .. } | Source::OperatorSecret(_)
            ),
            thumbprint,
            subject: None,
        }
    }
}

fn node_text(id: Option<&UserAssignedId>) -> String {
    match id {
        None => "the system-assigned identity of the node".to_owned(),
        Some(UserAssignedId::ClientId(id)) => format!("the managed identity with client id {id}"),
        Some(UserAssignedId::ObjectId(id)) => format!("the managed identity with object id {id}"),
        Some(UserAssignedId::ResourceId(id)) => format!("managed identity {id}"),
        Some(_) => "the managed identity".to_owned(),
    }
}
