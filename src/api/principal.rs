//! `EntraPostgresPrincipal`: one Entra principal, its role on one server, and the Secret with its token.
#![allow(
    clippy::duplicated_attributes,
    reason = "clippy reads the printer columns as duplicates"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    A_NAME, DURATION, DefaultPrivilege, Duration, Grant, Identity, MemberOf, Mode, NO_NUL,
    POSITIVE, PrivilegePolicy, RoleOptions, SecretKeyRef, TokenEndpoint, TokenSecret,
};

/// A Microsoft Entra principal that is a role on an Azure Database for PostgreSQL flexible server.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "entrapostgres.io",
    version = "v1alpha1",
    kind = "EntraPostgresPrincipal",
    plural = "entrapostgresprincipals",
    shortname = "epgp",
    category = "entra",
    namespaced,
    status = "EntraPostgresPrincipalStatus",
    derive = "PartialEq",
    selectable = ".spec.roleName",
    doc = "A Microsoft Entra principal (user, group, service principal, managed identity) that is a role on an Azure Database for PostgreSQL flexible server, with a fresh access token for it in a Secret.",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.roleName"),
    printcolumn(name = "Server", type_ = "string", json_path = ".spec.serverRef.name"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.principal.type"),
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
        name = "On deletion",
        type_ = "string",
        json_path = ".spec.deletionPolicy",
        priority = 1
    ),
    printcolumn(
        name = "Token expires",
        type_ = "string",
        json_path = ".status.token.expiresAt"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(
    validation = Rule::new("!(self.principal.type == 'User' && has(self.token))")
        .message("a user gets their own token, with az account get-access-token: remove token")
        .field_path(".token"),
    validation = Rule::new("!(self.principal.admin && has(self.token))")
        .message("the token of an administrator is never put into a Secret: remove token or principal.admin")
        .field_path(".token"),
    validation = Rule::new("(self.deletionPolicy == 'Reassign') == has(self.reassignOwnedTo)")
        .message("deletionPolicy Reassign and reassignOwnedTo go together")
        .field_path(".deletionPolicy"),
    validation = Rule::new("!has(self.reassignOwnedTo) || self.reassignOwnedTo != self.roleName")
        .message("reassignOwnedTo must be another role than roleName")
        .field_path(".reassignOwnedTo"),
    validation = Rule::new("!has(self.memberOf) || self.memberOf.all(m, m.role != self.roleName)")
        .message("memberOf: a role cannot be a member of itself")
        .field_path(".memberOf")
)]
#[serde(rename_all = "camelCase")]
pub struct EntraPostgresPrincipalSpec {
    /// The server the role is on. It must have an entry in `spec.tenants` for this namespace. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("serverRef is immutable: make another EntraPostgresPrincipal"))]
    pub server_ref: ServerRef,
    /// Name of the role in PostgreSQL, exact and case-sensitive, at most 63 bytes. With a `token`
    /// or an `objectId` it may be any name; otherwise the principal is found by it, so it must be
    /// the user's UPN (for a guest with `#EXT#`) or the display name of the group, service
    /// principal or managed identity. Immutable.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("roleName is immutable: make another EntraPostgresPrincipal"),
        validation = Rule::new("size(bytes(self)) <= 63").message("roleName must be at most 63 bytes: PostgreSQL cuts longer names"),
        validation = Rule::new("!self.startsWith('pg_') && !(self in ['azure_pg_admin', 'azuresu', 'azure_superuser', 'azure_ad_user', 'azure_ad_admin', 'azure_ad_mfa', 'public', 'none'])")
            .message("roleName is reserved by PostgreSQL or Azure")
    )]
    pub role_name: String,
    /// Who in Microsoft Entra signs in as this role.
    pub principal: Principal,
    /// Attributes and settings of the role. Absent: it may sign in, and the rest is left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleOptions>,
    /// The roles it is a member of. Only memberships that this object gave are ever taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["role".into()]))]
    pub member_of: Vec<MemberOf>,
    /// Privileges on databases, schemas and objects. What is removed here is taken away if this object
    /// had given it. At most 2048 names in all; an entry without names counts as one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.map(grant, has(grant.names) ? size(grant.names) : 1).sum() <= 2048")
        .message("grants: at most 2048 names in all; give all: true for a schema, or grant to a role without sign-in and list that in memberOf"))]
    pub grants: Vec<Grant>,
    /// Privileges on objects that others will create.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub default_privileges: Vec<DefaultPrivilege>,
    /// What becomes of privileges that are not declared here. Additive: only what this object once gave
    /// is taken back; what others gave stays. Exclusive: in the databases that grants or defaultPrivileges
    /// name, the role has exactly the privileges written there. Default: Additive.
    #[serde(default)]
    pub privilege_policy: PrivilegePolicy,
    /// What to do when a role of that name is there already and was not made for this object. Refuse:
    /// leave it alone and say so. SameIdentity: take it over if it is bound to this very Entra identity.
    /// Any: take it over and bind it to this identity, whose object id must be known; never an
    /// administrator. The server's `tenants.adoption` must allow it. Default: Refuse.
    #[serde(default)]
    pub adoption: Adoption,
    /// What becomes of the role when this object is deleted. Retain: it stays on the server. Drop: it is
    /// dropped, once it owns nothing and nobody is signed in as it. Reassign: what it owns goes to
    /// reassignOwnedTo, then it is dropped. Data is never dropped; the Secret is always deleted with the
    /// object. The server's `tenants.deletionPolicies` must allow it. Default: Retain.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The role that gets what this one owns, with deletionPolicy Reassign. The server's
    /// `tenants.memberOf` must list it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("reassignOwnedTo: a name in PostgreSQL has at most 63 bytes"))]
    pub reassign_owned_to: Option<String>,
    /// Whether changes are made. Apply: role and Secret are made as declared. Plan: nothing is changed,
    /// `status.plan` lists the statements that would be sent. Default: Apply.
    #[serde(default)]
    pub mode: Mode,
    /// Stops all work on the role and the Secret; what is there stays as it is. A suspended
    /// principal's token is not renewed. Default: false.
    #[serde(default)]
    pub suspend: bool,
    /// The Secret with a fresh access token, for workloads. Absent: no Secret; whoever signs in gets
    /// their own token. Not for users, and not for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenSpec>,
}

/// Names an EntraPostgresServer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ServerRef {
    /// Name of the EntraPostgresServer.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace. Default: the namespace of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<String>,
}

/// Who in Microsoft Entra signs in as the role.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.requireMFA || self.type in ['User', 'Group']")
        .message("requireMFA is for users and groups: an application cannot pass multifactor authentication"),
    validation = Rule::new("!(has(self.objectId) && has(self.objectIdFrom))")
        .message("set at most one of objectId, objectIdFrom")
)]
pub struct Principal {
    /// What the principal is in Microsoft Entra. User: a person, member or guest of the tenant. Group: its
    /// members sign in with the group's role name and their own token. ServicePrincipal: an application.
    /// ManagedIdentity: system- or user-assigned. Immutable.
    #[serde(rename = "type")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("principal.type is immutable"))]
    pub r#type: PrincipalType,
    /// Object id of the principal. For an application it is that of the service principal
    /// ("Enterprise application"), neither of the app registration nor the client id. Absent: with a
    /// `token` of a service principal or managed identity it is taken from that token, otherwise the
    /// server finds the principal by the role's name. Changing it is the consent to bind the role to
    /// another identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 36),
        regex(
            pattern = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
        )
    )]
    pub object_id: Option<String>,
    /// Where the object id is read from, for example what Azure Service Operator or Terraform wrote. If
    /// the value changes later the role is not bound anew in silence: annotation
    /// `entrapostgres.io/rebind` with the new object id is the consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id_from: Option<ObjectIdSource>,
    /// Makes the role an Entra administrator of the server: it may create Entra roles itself, and
    /// has CREATEROLE and CREATEDB. The server's `tenants` must allow it. Immutable.
    /// Default: false.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("principal.admin is immutable"))]
    pub admin: bool,
    /// The server refuses sign-ins whose token does not show multifactor authentication. Users and
    /// groups only. Immutable. Default: false.
    #[serde(default, rename = "requireMFA")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("principal.requireMFA is immutable"))]
    pub require_mfa: bool,
}

/// Where an object id is read from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectIdSource {
    /// A key of a ConfigMap of this namespace.
    pub config_map_key_ref: SecretKeyRef,
}

/// What a principal is in Microsoft Entra.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display,
)]
pub enum PrincipalType {
    /// A person, member or guest of the tenant.
    User,
    /// A security group: its members sign in with the group's name and their own token.
    Group,
    /// An application.
    ServicePrincipal,
    /// A managed identity, system- or user-assigned.
    ManagedIdentity,
}

/// What to do with a role of the wanted name that was not made for this object.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, strum::Display,
)]
pub enum Adoption {
    /// Leave it alone and say so.
    #[default]
    Refuse,
    /// Take it over if it is bound to this very Entra identity, else leave it alone and say so.
    SameIdentity,
    /// Take it over: it is bound to this identity, keeps what it owns and its privileges, and loses its
    /// password. Never an administrator, nor a role with administrative rights.
    Any,
}

/// What becomes of the role when the object is deleted.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, strum::Display,
)]
pub enum DeletionPolicy {
    /// The role stays on the server.
    #[default]
    Retain,
    /// The role is dropped, once it owns nothing and nobody is signed in as it. Data is never dropped.
    Drop,
    /// What the role owns goes to `reassignOwnedTo`, then the role is dropped. Data is never dropped.
    Reassign,
}

/// A token and where it goes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.renewBefore) && has(self.renewBeforePercentage))")
        .message("set at most one of renewBefore, renewBeforePercentage")
)]
pub struct TokenSpec {
    /// Whose token it is: the principal's own, or for a group any member's. A token of anybody else
    /// is never written. Exactly one member is set.
    #[x_kube(validation = Rule::new("!has(self.operator)").message("operator is for servers only: whoever reads the Secret would be the operator; give token.identity the workload's own identity"))]
    pub identity: Identity,
    /// The database in the Secret's connection keys. Default: postgres.
    #[serde(default = "default_database")]
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("token.database: a name in PostgreSQL has at most 63 bytes"))]
    pub database: String,
    /// What stands in the Secret as host and port instead of the server's: a read replica, or PgBouncer
    /// on 6432. Only text: the operator never connects to it, and the token is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<TokenEndpoint>,
    /// How long before its end the token is renewed, for example 90s, 20m, 1h30m. Tokens live between 5 minutes and a day as
    /// Entra decides, and kubelet takes up to 2 minutes to hand a changed Secret to pods. A value
    /// that is not less than the token's life counts as two thirds of it. Default: a third of the
    /// token's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new(POSITIVE).message("must be more than 0s"))]
    pub renew_before: Option<Duration>,
    /// The same as a percentage of the token's life, 1 to 66. Default: 33.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 66))]
    pub renew_before_percentage: Option<i32>,
    /// Whether the operator signs in to the server with a new token before it publishes it. A token
    /// that the server refuses is not published; one that could not be tried, because the server was
    /// away or busy, is, and is tried again later. Condition `LoginVerified` tells. Never: no token is
    /// tried. FirstIssue: until one of the identity has signed in. Always: each. Default: FirstIssue.
    #[serde(default)]
    pub verify_login: VerifyLogin,
    /// The Secret that is written. It belongs to this object and goes with it.
    #[serde(default)]
    pub secret: TokenSecret,
}

/// Which tokens are tried by a sign-in before they are published.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, strum::Display,
)]
pub enum VerifyLogin {
    /// None.
    Never,
    /// The first token of the identity, until one has signed in.
    #[default]
    FirstIssue,
    /// Each.
    Always,
}

/// What the operator last saw and did.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EntraPostgresPrincipalStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `RoleSynced`, and with a token `TokenIssued` and (unless `verifyLogin: Never`)
    /// `LoginVerified`; `Reconciling`, `Stalled` and `Suspended` only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The Secret with the token, as servicebinding.io wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<SecretBinding>,
    /// The role on the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleStatus>,
    /// The token in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenStatus>,
    /// With `mode: Plan`: the statements that would be sent, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
}

/// Names the Secret, as the Provisioned Service duck type of servicebinding.io.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretBinding {
    /// Name of the Secret.
    pub name: String,
}

/// The role as it is on the server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// Name of the role.
    pub name: String,
    /// The Entra object id the role was first bound to; it decides from then on.
    pub object_id: String,
    /// Whether the role was there before this object.
    #[serde(default)]
    pub adopted: bool,
}

/// The token in the Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    /// When the token was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Time>,
    /// When the token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// When it will be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_at: Option<Time>,
    /// Attempts to get a token that failed since the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<i32>,
}

fn default_database() -> String {
    "postgres".to_owned()
}
