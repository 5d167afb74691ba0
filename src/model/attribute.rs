//! Attributes, settings and memberships of a role: what is declared, and what the catalog says.

use std::collections::{BTreeMap, BTreeSet};

use super::RoleName;

/// One attribute with its value, as ALTER ROLE sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// LOGIN or NOLOGIN.
    Login(bool),
    /// CONNECTION LIMIT.
    ConnectionLimit(i32),
    /// CREATEDB or NOCREATEDB.
    CreateDb(bool),
    /// CREATEROLE or NOCREATEROLE.
    CreateRole(bool),
    /// INHERIT or NOINHERIT.
    Inherit(bool),
}

/// The attributes that a principal declares; `None`: not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredAttributes {
    /// LOGIN.
    pub login: bool,
    /// CONNECTION LIMIT.
    pub connection_limit: Option<i32>,
    /// CREATEDB.
    pub create_db: Option<bool>,
    /// CREATEROLE.
    pub create_role: Option<bool>,
    /// INHERIT.
    pub inherit: Option<bool>,
}

impl Default for DesiredAttributes {
    fn default() -> Self {
        Self {
            login: true,
            connection_limit: None,
            create_db: None,
            create_role: None,
            inherit: None,
        }
    }
}

/// The attributes that the catalog says a role has, but LOGIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// CONNECTION LIMIT; -1: none.
    pub connection_limit: i32,
    /// CREATEDB.
    pub create_db: bool,
    /// CREATEROLE.
    pub create_role: bool,
    /// INHERIT.
    pub inherit: bool,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            connection_limit: -1,
            create_db: false,
            create_role: false,
            inherit: true,
        }
    }
}

/// How a role is a member of another. Up to `PostgreSQL` 15 only `admin` is stored: the others are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MembershipOptions {
    /// Its privileges are used without SET ROLE.
    pub inherit: bool,
    /// SET ROLE is allowed.
    pub set: bool,
    /// It may be granted on.
    pub admin: bool,
}

/// One grant of a membership. From `PostgreSQL` 16 on there may be several, by different grantors.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the grantor"
)]
pub struct Membership {
    /// Who granted it.
    pub grantor: RoleName,
    /// Whether we may take it back: it is by us, or by a role whose privileges we have.
    pub revocable: bool,
    /// Whether a grant of our own would be recorded under this grantor. Up to `PostgreSQL` 15 there is one
    /// row whoever granted.
    pub ours: bool,
    /// Whether one of the server's declared administrators granted it: as any of them we may have.
    pub by_admin: bool,
    /// It was granted by the server's own superuser, as whom Azure's improved control acts for us.
    pub by_server: bool,
    /// Its options.
    pub options: MembershipOptions,
}

/// Memberships of a role, by the role it is a member of.
pub type Memberships = BTreeMap<RoleName, BTreeSet<Membership>>;

/// A role that principals want to be members of, or to leave what they own to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetFacts {
    /// It is an Entra administrator of the server, `azuresu`, or a superuser.
    pub administrator: bool,
    /// We may grant it: ADMIN OPTION; up to `PostgreSQL` 15 CREATEROLE is enough.
    pub grantable: bool,
    /// Of the roles asked for, those that it is a member of itself, even indirectly.
    pub member_of: BTreeSet<RoleName>,
}

/// A database, as everybody can see it from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseEntry {
    /// Who owns it.
    pub owner: RoleName,
    /// What we may grant on it, and take back.
    pub grantable: BTreeSet<crate::api::Privilege>,
    /// Whether we may connect to it.
    pub connectable: bool,
    /// Whether it takes connections at all.
    pub open: bool,
    /// How many roles have privileges on it directly.
    pub grantees: u32,
}

/// What a role has directly on a database itself, by database.
pub type DatabasePrivileges = BTreeMap<String, BTreeSet<crate::api::Privilege>>;
