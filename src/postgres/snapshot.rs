//! Rows to facts: what a server answered becomes a catalog. Pure; must not talk to a server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::Privilege;
use crate::model::marker::{MadeFor, Marker};
use crate::model::quote::quote;
use crate::model::{
    Attributes, Catalog, Class, DatabaseEntry, EntraLabel, Facts, Failure, Holder, Membership,
    MembershipOptions, Memberships, ObjectId, OfOthers, Parameters, Reason, RoleFacts, RoleName,
    Subjects, TargetFacts, Unmanaged,
};

use super::message::{Row, Table};
use super::{questions, sql};

/// What is asked before a session serves: the server itself, and whether we may work there.
pub fn first_question() -> String {
    sql::message(&[
        questions::SERVER.to_owned(),
        questions::unmanaged(),
        questions::administrators(),
    ])
}

/// The catalog from the answer to [`first_question`]: it covers nothing yet.
pub fn first(server: &str, tables: &[Table]) -> Result<Catalog, Failure> {
    let mut catalog = head(server, tables)?;
    let administrators = find(tables, "administrator_name")
        .ok_or_else(|| odd(server, "nothing about administrators"))?;
    for row in administrators.rows() {
        let id = row.get("administrator_id").and_then(ObjectId::parse);
        if let (Some(role), Some(id)) = (name(row, "administrator_name"), id) {
            let holder = Holder::new(role, true);
            catalog.holders.entry(id).or_default().insert(holder);
        }
    }
    Ok(catalog)
}

/// The message of a snapshot: the server itself, the roles that nobody manages, then all that is of
/// interest.
pub fn question(subjects: &Subjects) -> String {
    sql::message(&[
        questions::SERVER.to_owned(),
        questions::unmanaged(),
        questions::facts(subjects),
    ])
}

/// The catalog from the answer to [`question`].
pub fn catalog(server: &str, subjects: Subjects, tables: &[Table]) -> Result<Catalog, Failure> {
    let head = head(server, tables)?;
    if find(tables, "can_login").is_none() {
        return Err(odd(server, "no roles"));
    }
    let Facts {
        names,
        ids,
        target_names,
        database_names,
        roles,
        holders,
        targets,
        databases,
    } = facts(subjects, tables);
    Ok(Catalog {
        covers: names,
        covers_ids: ids,
        covers_targets: target_names,
        covers_databases: database_names,
        roles,
        holders,
        targets,
        databases,
        ..head
    })
}

/// What both say of the server itself.
fn head(server: &str, tables: &[Table]) -> Result<Catalog, Failure> {
    let row_with = |column: &str| find(tables, column).and_then(|table| table.rows().next());
    let head = row_with("version_num").ok_or_else(|| odd(server, "no row about the server"))?;
    let version = head.get("version").unwrap_or_default();
    let version_num =
        number(head, "version_num").ok_or_else(|| odd(server, "no version number"))?;
    Ok(Catalog {
        version: quote(version.split(' ').next().unwrap_or_default(), 64),
        version_num,
        administrator: head.get("administrator").unwrap_or_default().to_owned(),
        read_only: head.is("read_only"),
        group_sync: head.is("group_sync"),
        parameters: Arc::new(parameters(head)),
        unmanaged: row_with("unmanaged").map(unmanaged).unwrap_or_default(),
        ..Catalog::default()
    })
}

/// Column `parameters`.
#[derive(Default, Deserialize)]
struct Lists {
    free: BTreeSet<String>,
    bound: BTreeSet<String>,
}

fn parameters(head: Row<'_>) -> Parameters {
    let Lists { free, bound } = json(head, "parameters");
    Parameters { free, bound }
}

/// Facts from the answer to [`questions::facts`], which was asked about these subjects. What other
/// statements of the same message answered is passed over.
pub fn facts(subjects: Subjects, tables: &[Table]) -> Facts {
    let mut facts = Facts {
        names: subjects.names,
        ids: subjects.ids,
        target_names: subjects.targets,
        database_names: subjects.databases,
        ..Facts::default()
    };
    let rows = |column: &str| find(tables, column).into_iter().flat_map(Table::rows);
    for row in rows("can_login") {
        add_role(&mut facts, row);
    }
    for row in rows("target") {
        facts
            .targets
            .extend(name(row, "target").map(|name| (name, target(row))));
    }
    for row in rows("database") {
        facts.databases.extend(database(row));
    }
    facts
}

/// The last result set with that column.
fn find<'a>(tables: &'a [Table], column: &str) -> Option<&'a Table> {
    tables.iter().rev().find(|table| table.has(column))
}

fn add_role(facts: &mut Facts, row: Row<'_>) {
    let Some(name) = name(row, "name") else {
        return;
    };
    let label = label(row);
    if let Some(label) = &label {
        let holder = Holder {
            role: name.clone(),
            admin: label.admin,
            made_for: row
                .get("comment")
                .and_then(Marker::parse)
                .as_ref()
                .map(MadeFor::from),
        };
        let id = label.object_id.clone();
        facts.holders.entry(id).or_default().insert(holder);
    }
    if row.is("wanted") {
        facts
            .ids
            .extend(label.iter().map(|label| label.object_id.clone()));
        facts.names.insert(name.clone());
        facts.roles.insert(name, role(row, label));
    }
}

/// A server has no names that do not parse; a row without one cannot be about a role.
fn name(row: Row<'_>, column: &str) -> Option<RoleName> {
    row.get(column).and_then(|name| RoleName::parse(name).ok())
}

fn number<T: std::str::FromStr>(row: Row<'_>, column: &str) -> Option<T> {
    row.get(column).and_then(|number| number.parse().ok())
}

/// What several rows would say, in one JSON text; NULL: nothing.
fn json<T: DeserializeOwned + Default>(row: Row<'_>, column: &str) -> T {
    let read = row.get(column).map(serde_json::from_str);
    read.and_then(Result::ok).unwrap_or_default()
}

fn role(row: Row<'_>, label: Option<EntraLabel>) -> RoleFacts {
    RoleFacts {
        oid: number(row, "oid").unwrap_or_default(),
        can_login: row.is("can_login"),
        label,
        comment: row.get("comment").map(str::to_owned),
        too_large: number(row, "too_large"),
        comment_cut: number(row, "comment_cut"),
        comment_md5: row.get("comment_md5").map(str::to_owned),
        privileged: row.is("privileged"),
        administrative: names(row, "administrative"),
        attributes: Attributes {
            connection_limit: number(row, "connection_limit").unwrap_or(-1),
            create_db: row.is("create_db"),
            create_role: row.is("create_role"),
            inherit: row.is("inherit"),
        },
        settings: json(row, "settings"),
        memberships: memberships(row),
        databases: json::<BTreeMap<String, Vec<String>>>(row, "databases")
            .into_iter()
            .map(|(database, words)| (database, privileges(&words)))
            .collect(),
        databases_of_others: json::<BTreeMap<String, BTreeMap<String, Other>>>(
            row,
            "databases_of_others",
        )
        .into_iter()
        .map(|(database, others)| (database, others.into_iter().filter_map(of_others).collect()))
        .collect(),
    }
}

/// One privilege in column `databases_of_others`.
#[derive(Deserialize)]
struct Other {
    grantor: String,
    only: bool,
    admin: Option<String>,
}

fn of_others((word, other): (String, Other)) -> Option<(Privilege, OfOthers)> {
    let grantor = RoleName::parse(&other.grantor).ok()?;
    let by_admin = other.admin.and_then(|name| RoleName::parse(&name).ok());
    let others = OfOthers {
        grantor,
        only: other.only,
        by_admin,
    };
    Some((word.parse().ok()?, others))
}

/// One entry of column `memberships`.
#[derive(Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are the server's columns"
)]
struct Grant {
    role: String,
    grantor: String,
    admin: bool,
    inherit: bool,
    set: bool,
    revocable: bool,
    ours: bool,
    by_admin: bool,
    by_server: bool,
}

fn memberships(row: Row<'_>) -> Memberships {
    let mut memberships = Memberships::new();
    for grant in json::<Vec<Grant>>(row, "memberships") {
        let names = (
            RoleName::parse(&grant.role),
            RoleName::parse(&grant.grantor),
        );
        if let (Ok(role), Ok(grantor)) = names {
            memberships.entry(role).or_default().insert(Membership {
                grantor,
                revocable: grant.revocable,
                ours: grant.ours,
                by_admin: grant.by_admin,
                by_server: grant.by_server,
                options: MembershipOptions {
                    inherit: grant.inherit,
                    set: grant.set,
                    admin: grant.admin,
                },
            });
        }
    }
    memberships
}

/// A privilege that a newer server has and we do not know is left out.
fn privileges(words: &[String]) -> BTreeSet<Privilege> {
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

/// A JSON array of roles.
fn names(row: Row<'_>, column: &str) -> BTreeSet<RoleName> {
    let names: Vec<String> = json(row, column);
    names
        .iter()
        .filter_map(|name| RoleName::parse(name).ok())
        .collect()
}

fn target(row: Row<'_>) -> TargetFacts {
    TargetFacts {
        administrator: row.is("administrator"),
        grantable: row.is("grantable"),
        member_of: names(row, "member_of"),
    }
}

fn database(row: Row<'_>) -> Option<(String, DatabaseEntry)> {
    let grantable = [
        ("grants_create", Privilege::Create),
        ("grants_connect", Privilege::Connect),
        ("grants_temporary", Privilege::Temporary),
    ];
    let grantable = grantable.into_iter().filter(|(column, _)| row.is(column));
    let entry = DatabaseEntry {
        owner: name(row, "owner")?,
        grantable: grantable.map(|(_, privilege)| privilege).collect(),
        connectable: row.is("connectable"),
        open: row.is("open"),
        grantees: number(row, "grantees").unwrap_or_default(),
    };
    Some((row.get("database")?.to_owned(), entry))
}

fn unmanaged(row: Row<'_>) -> Unmanaged {
    Unmanaged {
        count: number(row, "unmanaged").unwrap_or_default(),
        names: json(row, "names"),
        group_members: number(row, "group_members").unwrap_or_default(),
    }
}

fn label(row: Row<'_>) -> Option<EntraLabel> {
    Some(EntraLabel {
        object_id: ObjectId::parse(row.get("id")?)?,
        entra_type: row.get("kind").unwrap_or_default().to_owned(),
        admin: row.is("admin"),
        mfa: row.is("mfa"),
    })
}

/// Whether the role we are signed in as may do our work.
pub fn check(server: &str, catalog: &Catalog) -> Result<(), Failure> {
    let own = &catalog.administrator;
    let is_own = |holder: &Holder| holder.admin && holder.role.as_str() == own;
    if catalog.read_only {
        let message = format!(
            "{server} is read-only: it is a replica, in recovery, or out of storage; name the primary server, or free its storage"
        );
        return Err(Failure::new(Class::Denied, Reason::ServerReadOnly, message));
    }
    if !catalog.holders.values().flatten().any(is_own) {
        let message = format!(
            "role {own:?} signed in to {server} and is no Microsoft Entra administrator there; make it one (az postgres flexible-server microsoft-entra-admin create), or name one in spec.admins"
        );
        return Err(Failure::new(
            Class::Denied,
            Reason::NotAnEntraAdministrator,
            message,
        ));
    }
    Ok(())
}

fn odd(server: &str, what: &str) -> Failure {
    let message = format!("{server} answered a snapshot with {what}; is there a proxy in between?");
    Failure::new(Class::Transient, Reason::DatabaseError, message)
}

#[cfg(test)]
mod tests;
