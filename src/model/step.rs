//! The steps by which a role becomes what is declared: data, executed elsewhere.

use std::collections::BTreeSet;

use super::{Attribute, MembershipOptions, ObjectId, RoleName};
use crate::api::{PrincipalType, Privilege};

/// A role that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRole {
    /// The identity it is bound to; `None`: the server finds it by the role's name.
    pub object_id: Option<ObjectId>,
    /// What the identity is.
    pub kind: PrincipalType,
    /// Whether the role is an Entra administrator.
    pub admin: bool,
    /// Whether sign-in needs multifactor authentication.
    pub mfa: bool,
    /// The marker for the role's comment; where it has `{objectId}` the id that the server
    /// resolved goes in, in the same transaction.
    pub marker: String,
}

/// One change of one role, in database `postgres`. All steps of one plan go in one message, which
/// is one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleStep {
    /// Make the role, bind it, mark it; roll back if the server resolved another type of identity,
    /// or one that is already on another role.
    Create(NewRole),
    /// Bind the role to this identity, with these flags: relabel; where the server refuses that,
    /// take the label away and set the new one.
    Label {
        /// The identity.
        object_id: ObjectId,
        /// What it is.
        kind: PrincipalType,
        /// Entra administrator.
        admin: bool,
        /// Multifactor authentication.
        mfa: bool,
    },
    /// Set the role's comment to this marker.
    Mark(String),
    /// Take the role's password away: it is being adopted and shall only sign in with Entra.
    ForgetPassword,
    /// Let the role sign in again: we closed it for a deletion that was called off, or somebody set the
    /// annotation for it.
    Open,
    /// Set these attributes.
    Alter(Vec<Attribute>),
    /// Set this setting for all databases.
    Set {
        /// Its name.
        name: String,
        /// Its value, as declared.
        value: String,
    },
    /// Take this setting back.
    Reset(String),
    /// Make the role a member of another, or change how it is.
    Join {
        /// The other role.
        role: RoleName,
        /// How.
        options: MembershipOptions,
    },
    /// End a membership, as far as it was granted by these.
    Leave {
        /// The other role.
        role: RoleName,
        /// The grantors; up to `PostgreSQL` 15 they do not matter.
        grantors: BTreeSet<RoleName>,
    },
    /// Give privileges on a database itself.
    GrantDatabase {
        /// The database.
        database: String,
        /// The privileges.
        privileges: BTreeSet<Privilege>,
    },
    /// Take privileges on a database itself.
    RevokeDatabase {
        /// The database.
        database: String,
        /// The privileges.
        privileges: BTreeSet<Privilege>,
    },
}

/// What a change of a role was decided on: it is made only while that still holds. Another operator, or a
/// database administrator, may have been faster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Basis {
    /// Nothing: the role is not there, or its comment cannot be compared.
    #[default]
    Nothing,
    /// The MD5 of the role's comment; `None`: it had none.
    Comment(Option<String>),
}

/// How `pgaadauth` calls the type of a principal.
pub fn entra_type(kind: PrincipalType) -> &'static str {
    match kind {
        PrincipalType::User => "user",
        PrincipalType::Group => "group",
        PrincipalType::ServicePrincipal | PrincipalType::ManagedIdentity => "service",
    }
}
