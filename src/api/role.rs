//! What a principal's role may do: attributes, settings, memberships, privileges.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{A_NAME, NO_NUL};

/// Attributes and settings of the role, as CREATE ROLE and ALTER ROLE know them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RoleOptions {
    /// Whether the role may sign in. Default: true. A role that a database administrator set to NOLOGIN stays so and
    /// is reported, until they or the server's owner open it: annotation `entrapostgres.io/restore` of the
    /// EntraPostgresServer.
    #[serde(default = "yes")]
    pub login: bool,
    /// How many sessions the role may have at once; -1: any number. Absent: left as it is, and set back
    /// to -1 if this object had set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 262_142))]
    pub connection_limit: Option<i32>,
    /// Whether the role may create databases. The server's `tenants.attributes` must give `CreateDb`.
    /// Absent: left as it is, and taken away if this object had given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_db: Option<bool>,
    /// Whether the role may create roles. The server's `tenants.attributes` must give `CreateRole`.
    /// Absent: left as it is, and taken away if this object had given it. Mind that up to PostgreSQL 15
    /// such a role can change every role that is not a superuser's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_role: Option<bool>,
    /// Whether the role uses the privileges of the roles it is a member of without SET ROLE. From
    /// PostgreSQL 16 on it is only the default for new memberships: see `memberOf.inherit`. Absent: left
    /// as it is, and set back to true if this object had changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherit: Option<bool>,
    /// Settings (parameters of the server) that the role's sessions start with, in every database, for
    /// example `statement_timeout: 30s`. Lists such as search_path are written as SQL has them:
    /// `app, public`. A setting that is removed here is reset if this object had set it. Only parameters
    /// that a role may set for itself (`context` is `user` in pg_settings), and parameters with a dot that
    /// the server does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("additionalProperties" = {"type": "string", "pattern": r"^[^\x00]*$"}))]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[A-Za-z_][A-Za-z0-9_$]*([.][A-Za-z_][A-Za-z0-9_$]*)?$') && size(name) <= 63)")
            .message("settings: a name is a parameter of PostgreSQL, for example statement_timeout"),
        validation = Rule::new("self.all(name, size(self[name]) <= 1024)")
            .message("settings: a value has at most 1024 characters")
    )]
    pub settings: Option<BTreeMap<String, String>>,
}

/// One role that this role is a member of.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberOf {
    /// Exact name of the other role. The server's `tenants.memberOf` must list it.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("memberOf.role: a name in PostgreSQL has at most 63 bytes"))]
    pub role: String,
    /// Whether its privileges are used without SET ROLE. False needs PostgreSQL 16. Default: true.
    #[serde(default = "yes")]
    pub inherit: bool,
    /// Whether SET ROLE to it is allowed. False needs PostgreSQL 16. Default: true.
    #[serde(default = "yes")]
    pub set: bool,
    /// Whether this role may grant that membership to others (ADMIN OPTION). The server's
    /// `tenants.memberOf` must list the role with `admin: true`. Default: false.
    #[serde(default)]
    pub admin: bool,
}

/// Privileges on one database, one schema, or objects of one type in one schema.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.objects) || has(self.schema)")
        .message("grants: objects needs schema: privileges on objects are given schema by schema"),
    validation = Rule::new("!has(self.objects) || (has(self.names) != (has(self.all) && self.all))")
        .message("grants: with objects give exactly one of names and all: true"),
    validation = Rule::new("has(self.objects) || !(has(self.names) || has(self.all))")
        .message("grants: names and all are for objects: set objects to Tables, Sequences or Functions"),
    validation = Rule::new("has(self.schema) || self.privileges.all(p, p in ['CONNECT', 'CREATE', 'TEMPORARY'])")
        .message("grants: on a database there are CONNECT, CREATE, TEMPORARY; for other privileges give schema"),
    validation = Rule::new("!has(self.schema) || has(self.objects) || self.privileges.all(p, p in ['USAGE', 'CREATE'])")
        .message("grants: on a schema there are USAGE, CREATE; for other privileges give objects"),
    validation = Rule::new("!has(self.objects) || self.objects != 'Tables' || self.privileges.all(p, p in ['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN'])")
        .message("grants: on tables there are SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER, MAINTAIN"),
    validation = Rule::new("!has(self.objects) || self.objects != 'Sequences' || self.privileges.all(p, p in ['USAGE', 'SELECT', 'UPDATE'])")
        .message("grants: on sequences there are USAGE, SELECT, UPDATE"),
    validation = Rule::new("!has(self.objects) || self.objects != 'Functions' || self.privileges.all(p, p == 'EXECUTE')")
        .message("grants: on functions there is EXECUTE"),
    validation = Rule::new("!has(self.names) || !has(self.objects) || self.objects == 'Functions' || self.names.all(name, size(name) <= 63)")
        .message("grants.names: a name in PostgreSQL has at most 63 bytes")
)]
pub struct Grant {
    /// The database, exact and case-sensitive.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("grants.database: a name in PostgreSQL has at most 63 bytes"))]
    pub database: String,
    /// The schema, exact and case-sensitive. Absent: the privileges are on the database itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("grants.schema: a name in PostgreSQL has at most 63 bytes"))]
    pub schema: Option<String>,
    /// The type of objects in the schema. Absent: the privileges are on the schema itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<ObjectType>,
    /// The objects by exact, case-sensitive name. A function is named with the types of its arguments as
    /// PostgreSQL prints them: `total(integer, text)`. An object that does not exist is reported, the
    /// rest is given, and it is tried again when it appears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 1024), regex(pattern = NO_NUL)))]
    pub names: Option<Vec<String>>,
    /// All objects of that type in the schema, those made later too: they are caught within the
    /// server's `resyncInterval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self").message("grants: all is true or absent"))]
    pub all: Option<bool>,
    /// The privileges.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub privileges: Vec<Privilege>,
}

/// Privileges on objects that a role will create later: ALTER DEFAULT PRIVILEGES.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.objects != 'Tables' || self.privileges.all(p, p in ['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN'])")
        .message("defaultPrivileges: on tables there are SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER, MAINTAIN"),
    validation = Rule::new("self.objects != 'Sequences' || self.privileges.all(p, p in ['USAGE', 'SELECT', 'UPDATE'])")
        .message("defaultPrivileges: on sequences there are USAGE, SELECT, UPDATE"),
    validation = Rule::new("self.objects != 'Functions' || self.privileges.all(p, p == 'EXECUTE')")
        .message("defaultPrivileges: on functions there is EXECUTE")
)]
pub struct DefaultPrivilege {
    /// The database, exact and case-sensitive.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("defaultPrivileges.database: a name in PostgreSQL has at most 63 bytes"))]
    pub database: String,
    /// The schema in which the objects will be created.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("defaultPrivileges.schema: a name in PostgreSQL has at most 63 bytes"))]
    pub schema: String,
    /// The role that will create them. The operator's administrator must have its privileges.
    #[schemars(length(min = 1, max = 63), regex(pattern = NO_NUL))]
    #[x_kube(validation = Rule::new(A_NAME).message("defaultPrivileges.owner: a name in PostgreSQL has at most 63 bytes"))]
    pub owner: String,
    /// The type of objects: Tables (views too), Sequences, or Functions (procedures too).
    pub objects: ObjectType,
    /// The privileges.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub privileges: Vec<Privilege>,
}

/// A type of objects in a schema. Tables: tables, partitioned tables, views, materialized views and foreign
/// tables. Sequences. Functions: functions, procedures and aggregates. Absent, where it may be: the
/// privileges are on the schema itself.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
)]
pub enum ObjectType {
    /// Tables, partitioned tables, views, materialized views and foreign tables.
    Tables,
    /// Sequences.
    Sequences,
    /// Functions, procedures and aggregates: what SQL calls routines.
    Functions,
}

/// A privilege, as SQL calls it. MAINTAIN needs PostgreSQL 17.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::EnumIter,
)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the words of SQL")]
pub enum Privilege {
    Select,
    Insert,
    Update,
    Delete,
    Truncate,
    References,
    Trigger,
    Maintain,
    Usage,
    Create,
    Connect,
    Temporary,
    Execute,
}

/// What becomes of privileges that the object does not declare.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivilegePolicy {
    /// Only what this object once gave is taken back; what others gave stays.
    #[default]
    Additive,
    /// In the databases that grants or defaultPrivileges name, the role has exactly the privileges
    /// written there: those that others gave are taken away. That is on the database itself, schemas,
    /// tables, views, single columns, sequences, functions, and default privileges that name a schema; not
    /// on types, languages, large objects, foreign servers and data wrappers, default privileges without a
    /// schema, nor in the server's own schemas. Databases that are not named, memberships and what the role
    /// owns are left alone.
    Exclusive,
}

/// Whether changes are made or only shown.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The role and the Secret are made as declared.
    #[default]
    Apply,
    /// Nothing is changed: `status.plan` lists the statements that would be sent.
    Plan,
}

impl Default for RoleOptions {
    fn default() -> Self {
        Self {
            login: true,
            connection_limit: None,
            create_db: None,
            create_role: None,
            inherit: None,
            settings: None,
        }
    }
}

fn yes() -> bool {
    true
}
