//! The two kinds as users write them: types, printer columns and CEL rules.
//!
//! The doc comments of fields are the manual that `kubectl explain` prints. Nothing here decides
//! anything: [`crate::model`] turns these types into what the operator works with.
#![allow(
    clippy::doc_markdown,
    reason = "kubectl explain prints the comments, and shows backticks as they are"
)]

mod crds;
mod identity;
mod principal;
mod role;
mod secret;
mod server;

pub use crds::crds;
pub use identity::{
    ClientCertificateIdentity, ClientSecretIdentity, Identity, ManagedIdentity, OperatorIdentity,
    SecretKeyRef, SecretRef, ServiceAccountRef, WorkloadIdentity,
};
pub use principal::{
    Adoption, DeletionPolicy, EntraPostgresPrincipal, EntraPostgresPrincipalSpec,
    EntraPostgresPrincipalStatus, ObjectIdSource, Principal, PrincipalType, RoleStatus,
    SecretBinding, ServerRef, TokenSpec, TokenStatus, VerifyLogin,
};
pub use role::{
    DefaultPrivilege, Grant, MemberOf, Mode, ObjectType, Privilege, PrivilegePolicy, RoleOptions,
};
pub use secret::{SecretFormat, SecretTemplate, TokenEndpoint, TokenSecret};
pub use server::{
    Administrator, CaRef, EntraPostgresServer, EntraPostgresServerSpec, EntraPostgresServerStatus,
    Limits, NamespaceMatch, PrincipalCounts, RoleAttribute, Tenant, TenantGrant, TenantMembership,
    Timeouts, Tls, Unmanaged,
};

/// The API group of both kinds; also the prefix of our annotations.
pub const GROUP: &str = "entrapostgres.io";

/// What is sent to a server: no message can have a NUL, and one that has stops the work of all.
const NO_NUL: &str = r"^[^\x00]+$";

/// `PostgreSQL` cuts longer names, so that none can be meant.
const A_NAME: &str = "size(bytes(self)) <= 63";

/// A span of time as Go prints it: `30s`, `20m`, `1h30m`.
pub use kube::core::Duration;

/// What such a span looks like: else the API server tells of types that do not convert.
const DURATION: &str = r"^([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+$";

/// Rules of such spans. They say nothing of what the pattern refuses: it is not converted.
const POSITIVE: &str =
    "!self.matches('^([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+$') || duration(self) > duration('0s')";
const A_SECOND: &str =
    "!self.matches('^([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+$') || duration(self) >= duration('1s')";

#[cfg(test)]
mod tests;
