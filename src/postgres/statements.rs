//! Steps of a role to the statements that make them. Must not send anything, nor decide what is done.

use std::collections::BTreeSet;

use postgres_protocol::escape::escape_identifier;

use crate::api::Privilege;
use crate::model::rights::settings::identifiers;
use crate::model::step::entra_type;
use crate::model::{Attribute, MembershipOptions, NewRole, RoleName, RoleStep};

use super::sql::{self, identifier, literal};

/// The first version whose memberships have options of their own, and one row per grantor.
const WITH_OPTIONS: u32 = 160_000;

/// The statements of one step.
pub fn statements(role: &RoleName, step: &RoleStep, version_num: u32) -> Vec<String> {
    let name = identifier(role);
    match step {
        RoleStep::Create(new) => {
            let settle = sql::settle(
                role,
                new.object_id.as_ref(),
                entra_type(new.kind),
                &new.marker,
            );
            vec![create(role, new), settle]
        }
        RoleStep::Label {
            object_id,
            kind,
            admin,
            mfa,
        } => {
            let text = sql::label_text(object_id, entra_type(*kind), *admin, *mfa);
            vec![sql::label(role, Some(&text))]
        }
        RoleStep::Mark(text) => vec![sql::comment(role, text)],
        RoleStep::ForgetPassword => vec![sql::forget_password(role)],
        RoleStep::Open => vec![sql::open(role)],
        RoleStep::Alter(attributes) => {
            let words: Vec<String> = attributes.iter().copied().map(attribute).collect();
            vec![format!("ALTER ROLE {name} {}", words.join(" "))]
        }
        RoleStep::Set { name: of, value } => {
            let (of, value) = (parameter(of), values(of, value));
            vec![format!("ALTER ROLE {name} SET {of} TO {value}")]
        }
        RoleStep::Reset(of) => vec![format!("ALTER ROLE {name} RESET {}", parameter(of))],
        RoleStep::Join {
            role: group,
            options,
        } => join(role, group, *options, version_num),
        RoleStep::Leave {
            role: group,
            grantors,
        } => leave(role, group, grantors, version_num),
        RoleStep::GrantDatabase {
            database,
            privileges,
        } => {
            let (words, database) = (words(privileges), escape_identifier(database));
            vec![format!("GRANT {words} ON DATABASE {database} TO {name}")]
        }
        RoleStep::RevokeDatabase {
            database,
            privileges,
        } => {
            let (words, database) = (words(privileges), escape_identifier(database));
            vec![format!("REVOKE {words} ON DATABASE {database} FROM {name}")]
        }
    }
}

/// The statements of a plan as people want to read them: without what only checks.
pub fn show(role: &RoleName, steps: &[RoleStep], version_num: u32) -> Vec<String> {
    let fresh = steps.iter().any(|step| matches!(step, RoleStep::Create(_)));
    let shown = steps.iter().flat_map(|step| match step {
        RoleStep::Create(new) => vec![create(role, new), sql::comment(role, &new.marker)],
        // A role that is made just now has no ADMIN OPTION to lose.
        RoleStep::Join { .. } if fresh => {
            let mut statements = statements(role, step, version_num);
            statements.truncate(1);
            statements
        }
        step => statements(role, step, version_num),
    });
    shown.collect()
}

fn create(role: &RoleName, new: &NewRole) -> String {
    let NewRole {
        object_id,
        kind,
        admin,
        mfa,
        ..
    } = new;
    match object_id {
        Some(id) => sql::create_by_id(role, id, entra_type(*kind), *admin, *mfa),
        None => sql::create_by_name(role, *admin, *mfa),
    }
}

fn attribute(attribute: Attribute) -> String {
    let is = |word: &str, on: bool| format!("{}{word}", if on { "" } else { "NO" });
    match attribute {
        Attribute::Login(on) => is("LOGIN", on),
        Attribute::ConnectionLimit(limit) => format!("CONNECTION LIMIT {limit}"),
        Attribute::CreateDb(on) => is("CREATEDB", on),
        Attribute::CreateRole(on) => is("CREATEROLE", on),
        Attribute::Inherit(on) => is("INHERIT", on),
    }
}

/// A parameter's name; one of an extension has a dot.
fn parameter(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(escape_identifier).collect();
    parts.join(".")
}

/// A list of identifiers is sent as such: as one literal it would be one odd identifier.
fn values(name: &str, value: &str) -> String {
    let items = identifiers(name, value).unwrap_or_else(|| vec![value.to_owned()]);
    let items: Vec<String> = items.iter().map(|item| literal(item)).collect();
    items.join(", ")
}

fn join(
    role: &RoleName,
    group: &RoleName,
    options: MembershipOptions,
    version_num: u32,
) -> Vec<String> {
    let MembershipOptions {
        inherit,
        set,
        admin,
    } = options;
    let (role, group) = (identifier(role), identifier(group));
    let grant = format!("GRANT {group} TO {role}");
    if version_num >= WITH_OPTIONS {
        let word = |on: bool| if on { "TRUE" } else { "FALSE" };
        let (admin, inherit, set) = (word(admin), word(inherit), word(set));
        return vec![format!(
            "{grant} WITH ADMIN {admin}, INHERIT {inherit}, SET {set}"
        )];
    }
    if admin {
        return vec![format!("{grant} WITH ADMIN OPTION")];
    }
    // GRANT takes nothing away, and to revoke what is not there is no error.
    vec![
        grant,
        format!("REVOKE ADMIN OPTION FOR {group} FROM {role}"),
    ]
}

fn leave(
    role: &RoleName,
    group: &RoleName,
    grantors: &BTreeSet<RoleName>,
    version_num: u32,
) -> Vec<String> {
    let revoke = format!("REVOKE {} FROM {}", identifier(group), identifier(role));
    if version_num < WITH_OPTIONS || grantors.is_empty() {
        return vec![revoke];
    }
    let by = |grantor: &RoleName| format!("{revoke} GRANTED BY {}", identifier(grantor));
    grantors.iter().map(by).collect()
}

/// Privileges as SQL lists them.
pub fn words(privileges: &BTreeSet<Privilege>) -> String {
    let words: Vec<String> = privileges.iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests;
