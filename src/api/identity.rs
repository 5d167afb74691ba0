//! `<Identity>`: whose access token is asked for, and how the operator proves it may have it.
#![allow(
    clippy::struct_field_names,
    reason = "a managed identity has three ids, and Azure calls them so"
)]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How the operator gets an access token from Microsoft Entra. Exactly one member is set.
/// Secrets and service accounts named here are always those of the object's own namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.workloadIdentity), has(self.managedIdentity), has(self.clientSecret), has(self.clientCertificate), has(self.operator)].exists_one(set, set)")
        .message("set exactly one of workloadIdentity, managedIdentity, clientSecret, clientCertificate, operator")
)]
pub struct Identity {
    /// A service account of this namespace, federated with an app registration or a user-assigned
    /// managed identity. The operator asks Kubernetes for that account's token and exchanges it;
    /// nothing has to be mounted anywhere. Recommended on AKS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    /// A managed identity assigned to the node the operator runs on, asked for at the node's
    /// metadata service (IMDS): by one of its ids, or `{}` for the node's system-assigned one.
    /// Only what the operator's configuration lists for this namespace may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_identity: Option<ManagedIdentity>,
    /// An app registration with a client secret kept in a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<ClientSecretIdentity>,
    /// An app registration with a certificate kept in a Secret of this namespace, as cert-manager
    /// writes it (type kubernetes.io/tls).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificateIdentity>,
    /// The operator's own identity, from its AZURE_* environment. For servers only, never for a token in
    /// a Secret; and only in namespaces that the operator's configuration lists (default: the operator's
    /// own namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorIdentity>,
}

/// A federated service account of this namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// The service account whose token is exchanged.
    pub service_account_ref: ServiceAccountRef,
    /// Client id of the app registration or managed identity. Default: the service account's
    /// annotation `azure.workload.identity/client-id`. Set it in one place only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub client_id: Option<String>,
    /// The Entra tenant. Default: the service account's annotation
    /// `azure.workload.identity/tenant-id`, then the operator's AZURE_TENANT_ID. Set it in one
    /// place only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub tenant_id: Option<String>,
}

/// A service account of the object's own namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ServiceAccountRef {
    /// Name of the service account.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// A managed identity of the node, named by one of its ids. Without an id: the node's
/// system-assigned identity.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.clientId), has(self.objectId), has(self.resourceId)].filter(set, set).size() <= 1")
        .message("set at most one of clientId, objectId, resourceId")
)]
pub struct ManagedIdentity {
    /// Client id (application id) of the managed identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub client_id: Option<String>,
    /// Object id (principal id) of the managed identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub object_id: Option<String>,
    /// Azure resource id of a user-assigned managed identity:
    /// `/subscriptions/.../providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub resource_id: Option<String>,
}

/// An app registration with a client secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientSecretIdentity {
    /// The Entra tenant: its id or a verified domain.
    #[schemars(length(min = 1, max = 253))]
    pub tenant_id: String,
    /// Client id (application id) of the app registration.
    #[schemars(length(min = 1, max = 64))]
    pub client_id: String,
    /// Where the client secret is. It is read again at each exchange, so a rotated secret is
    /// taken up without touching this object.
    pub secret_ref: SecretKeyRef,
}

/// An app registration with a certificate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificateIdentity {
    /// The Entra tenant: its id or a verified domain.
    #[schemars(length(min = 1, max = 253))]
    pub tenant_id: String,
    /// Client id (application id) of the app registration.
    #[schemars(length(min = 1, max = 64))]
    pub client_id: String,
    /// The Secret with the certificate under tls.crt and its RSA key under tls.key, both PEM. It is
    /// read again at each exchange, so a renewed certificate is taken up without touching this
    /// object; register it at the application before.
    pub secret_ref: SecretRef,
}

/// A Secret of the object's own namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// One key of a Secret or ConfigMap of the object's own namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SecretKeyRef {
    /// Name of the object.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// The operator's own identity, from its AZURE_* environment; it has no fields. For servers only, never for a
/// token in a Secret; and only in namespaces that the operator's configuration lists (default: the
/// operator's own namespace).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct OperatorIdentity {}
