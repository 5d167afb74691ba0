//! `EntraPostgresServer`: a flexible server, who administers it, and which namespace may ask for what.
#![allow(
    clippy::duplicated_attributes,
    reason = "clippy reads the printer columns as duplicates"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    A_SECOND, Adoption, DURATION, DeletionPolicy, Duration, Identity, NO_NUL, POSITIVE,
    PrincipalType, Privilege, SecretKeyRef,
};

/// An Azure Database for PostgreSQL flexible server: where it is, as which Entra administrator the
/// operator works on it, and which namespaces may have which roles there.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "entrapostgres.io",
    version = "v1alpha1",
    kind = "EntraPostgresServer",
    plural = "entrapostgresservers",
    shortname = "epgs",
    category = "entra",
    namespaced,
    status = "EntraPostgresServerStatus",
    derive = "PartialEq",
    doc = "An Azure Database for PostgreSQL flexible server: where it is, as which Entra administrator the operator works on it, and which namespaces may have which roles there.",
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.serverVersion"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Principals",
        type_ = "integer",
        json_path = ".status.principals.total"
    ),
    printcolumn(
        name = "Principals ready",
        type_ = "integer",
        json_path = ".status.principals.ready"
    ),
    printcolumn(
        name = "Admin",
        type_ = "string",
        json_path = ".status.activeAdmin",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct EntraPostgresServerSpec {
    /// Host name of the server, for example `orders.postgres.database.azure.com`. It must equal or
    /// lie below a server suffix of its cloud: a token of the administrator is sent there, so this
    /// is checked before any token is asked for. Use a fully qualified name, also with a private
    /// endpoint. Immutable.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("host is immutable: make another EntraPostgresServer"))]
    pub host: String,
    /// TCP port of the server itself, not of its PgBouncer. Default: 5432.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// The cloud the server is in: `Public`, `USGovernment`, `China`, or one that the operator's
    /// configuration defines. It decides where tokens come from and for which audience.
    /// Default: Public.
    #[serde(default = "default_cloud")]
    #[schemars(length(min = 1, max = 63))]
    pub cloud: String,
    /// How the server's certificate is checked. Absent: against the web's root certificates, as is
    /// right for Azure. Chain and host name are always verified; there is no way to turn that off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The Entra administrators as whom the operator may work, tried in order. Recommended: make
    /// one Entra group the administrator and list members of it.
    #[schemars(length(min = 1, max = 5))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["roleName".into()]))]
    pub admins: Vec<Administrator>,
    /// Which namespaces may have principals on this server, and which. A namespace has the union
    /// of the entries that match it; what no entry gives is forbidden. Absent: nobody may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tenants: Vec<Tenant>,
    /// How much of the server the operator may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How long the operator waits for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How often all roles are compared with what is declared: a role dropped or relabelled by
    /// hand is put back within this time. For example 90s, 20m, 1h30m; at least 1s. Default: 60s.
    #[serde(default = "default_resync")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new(A_SECOND).message("resyncInterval must be at least 1s"))]
    pub resync_interval: Duration,
}

/// Where the certificates are that the server's certificate must chain to. Exactly one is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.caConfigMapRef) != has(self.caSecretRef)")
        .message("set exactly one of caConfigMapRef, caSecretRef")
)]
pub struct Tls {
    /// A ConfigMap of this namespace with PEM certificates; blocks other than CERTIFICATE are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<CaRef>,
    /// A Secret of this namespace with PEM certificates; blocks other than CERTIFICATE are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaRef>,
}

/// One key with PEM certificates.
pub type CaRef = SecretKeyRef;

/// One Entra administrator of the server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Administrator {
    /// Exact, case-sensitive name of the Entra administrator on the server, as the portal lists it:
    /// the user's UPN, or the display name of a group, service principal or managed identity.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    pub role_name: String,
    /// Whose token is used to sign in; for a group, any member's. Exactly one member is set.
    pub identity: Identity,
}

/// What the principals of some namespaces may be. See `EntraPostgresServer.spec.tenants`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// The namespaces this entry is for.
    pub namespaces: NamespaceMatch,
    /// The types of principal that may be declared: User, Group, ServicePrincipal, ManagedIdentity.
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub principal_types: Vec<PrincipalType>,
    /// The role names that may be declared, as globs: `*` stands for any text, `?` for one
    /// character; case-sensitive.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub role_names: Vec<String>,
    /// Whether principals with `admin: true`, that is new Entra administrators, may be declared. Default:
    /// false.
    #[serde(default)]
    pub admin: bool,
    /// The roles that principals may be members of, by exact name, and to which they may leave what they
    /// own (`reassignOwnedTo`). Never an administrator of the server, nor azuresu. A role with
    /// administrative rights is given to whoever is listed here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["role".into()]))]
    pub member_of: Vec<TenantMembership>,
    /// The privileges that principals may have. Absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub grants: Vec<TenantGrant>,
    /// The attributes that principals may have: CreateDb (CREATEDB), CreateRole (CREATEROLE). Absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub attributes: Vec<RoleAttribute>,
    /// How principals may take over roles that exist already; Refuse is always allowed. SameIdentity: those
    /// bound to the very identity. Any: plain roles and those of other identities, too. Default:
    /// SameIdentity.
    #[serde(default = "default_adoption")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub adoption: Vec<Adoption>,
    /// What principals may declare for their deletion; Retain (the role stays) is always allowed. Drop: it is
    /// dropped once it owns nothing. Reassign: what it owns goes to another role first. Default: Retain,
    /// Drop.
    #[serde(default = "default_deletion")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub deletion_policies: Vec<DeletionPolicy>,
    /// Whether the annotation `entrapostgres.io/restore` of a principal lets its role sign in again that a
    /// database administrator set to NOLOGIN. Absent or false: only the same annotation of this server does,
    /// which names principals, as in `orders/api=ticket-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<bool>,
}

/// A role that principals may be members of.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TenantMembership {
    /// Exact name of the role.
    #[schemars(length(min = 1, max = 63))]
    pub role: String,
    /// Whether they may have it with ADMIN OPTION. Default: false.
    #[serde(default)]
    pub admin: bool,
}

/// Privileges that principals may have in some databases.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TenantGrant {
    /// The database, as a glob: `*` stands for any text.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// The schemas, as globs. Absent: the privileges are on the database itself only. With schemas they
    /// are on these, on objects in them, and CONNECT and TEMPORARY on the database; CREATE on the
    /// database itself needs an entry without schemas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub schemas: Option<Vec<String>>,
    /// The privileges.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub privileges: Vec<Privilege>,
}

/// An attribute of a role that gives rights.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display,
)]
pub enum RoleAttribute {
    /// CREATEDB.
    CreateDb,
    /// CREATEROLE.
    CreateRole,
}

/// Some namespaces, by name or by label. Exactly one member is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.names) != has(self.selector)").message("set exactly one of names, selector")
)]
pub struct NamespaceMatch {
    /// Exact names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63)))]
    pub names: Option<Vec<String>>,
    /// A selector over the labels of namespaces; an empty selector matches every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How much of the server the operator may use.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections the operator holds at most for its work: one to database postgres, the others go
    /// round the databases in which privileges are declared. A B1ms server has 35 for everybody.
    /// Default: 3.
    #[serde(default = "default_connections")]
    #[schemars(range(min = 2, max = 50))]
    pub max_connections: i32,
}

/// How long the operator waits for the server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For a connection with TLS and sign-in together, for example 10s, 1m30s. Default: 10s.
    #[serde(default = "default_connect")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new(POSITIVE).message("must be more than 0s"))]
    pub connect: Duration,
    /// For one message of statements. Azure asks its directory when it creates a role: allow seconds. For
    /// example 90s, 2m. Default: 30s.
    #[serde(default = "default_statement")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new(POSITIVE).message("must be more than 0s"))]
    pub statement: Duration,
    /// For a lock that somebody else holds, for example 500ms, 5s, where no other work waits behind it. Beside
    /// other work a change waits 200ms and is tried again later, in databases other than `postgres` 1s at most.
    /// Default: 5s.
    #[serde(default = "default_lock")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new(POSITIVE).message("must be more than 0s"))]
    pub lock: Duration,
}

/// What the operator last saw of the server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EntraPostgresServerStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` and `Connected`; `Reconciling` and `Stalled` only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Version of PostgreSQL, as the server says it, for example `16.4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The administrator of `spec.admins` as whom the operator is signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_admin: Option<String>,
    /// How many principals name this server, and how many of them are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principals: Option<PrincipalCounts>,
    /// Roles with an Entra identity that no operator manages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<Unmanaged>,
}

/// Roles with an Entra identity but without the marker of any operator. Administrators are not counted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Unmanaged {
    /// How many there are.
    pub count: i64,
    /// The first 20 of them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Of further ones the server made for members of groups (`pgaadauth.enable_group_sync`): how many.
    #[serde(default)]
    pub group_members: i64,
}

/// Counts of principals on one server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct PrincipalCounts {
    /// Principals that name the server.
    pub total: i64,
    /// Those whose condition Ready is True.
    pub ready: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: default_connections(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: default_connect(),
            statement: default_statement(),
            lock: default_lock(),
        }
    }
}

fn default_port() -> i32 {
    5432
}

fn default_cloud() -> String {
    "Public".to_owned()
}

fn default_adoption() -> Vec<Adoption> {
    vec![Adoption::SameIdentity]
}

fn default_deletion() -> Vec<DeletionPolicy> {
    vec![DeletionPolicy::Retain, DeletionPolicy::Drop]
}

fn default_resync() -> Duration {
    std::time::Duration::from_secs(60).into()
}

fn default_connections() -> i32 {
    3
}

fn default_connect() -> Duration {
    std::time::Duration::from_secs(10).into()
}

fn default_statement() -> Duration {
    std::time::Duration::from_secs(30).into()
}

fn default_lock() -> Duration {
    std::time::Duration::from_secs(5).into()
}
