//! What it means that a server refuses one of a role's rights, and what it teaches about the server.
//! Pure; must not talk to a server.

use crate::model::{Catalog, Class, Failure, Membership, Reason, RoleName, RoleStep, ServerFacts};

use super::answer::Answer;
use super::error::{About, Verdict, explain};
use super::sql::identifier;
use super::statements::{statements, words};

/// The first version on which ADMIN OPTION decides who manages a role.
const ADMIN_OPTION: u32 = 160_000;

/// Whether a step is about rights: the role is the principal's also without it.
pub fn is_right(step: &RoleStep) -> bool {
    match step {
        RoleStep::Alter(_)
        | RoleStep::Set { .. }
        | RoleStep::Reset(_)
        | RoleStep::Join { .. }
        | RoleStep::Leave { .. }
        | RoleStep::GrantDatabase { .. }
        | RoleStep::RevokeDatabase { .. } => true,
        RoleStep::Create(_)
        | RoleStep::Label { .. }
        | RoleStep::Mark(_)
        | RoleStep::ForgetPassword
        | RoleStep::Open => false,
    }
}

/// What the server's answer to this one step means.
pub fn refusal(
    server: &str,
    facts: &ServerFacts,
    role: &RoleName,
    step: &RoleStep,
    answer: Answer<'_>,
) -> Failure {
    let action = action(step);
    let about = About {
        server,
        role: Some(role),
        action: &action,
    };
    explain(about, answer, verdict(facts, role, step, &answer))
}

fn action(step: &RoleStep) -> String {
    match step {
        RoleStep::Alter(_) => "alter".to_owned(),
        RoleStep::Set { name, .. } => format!("set {name} for"),
        RoleStep::Reset(name) => format!("reset {name} for"),
        RoleStep::Join { role, .. } => format!("grant role {:?} to", role.as_str()),
        RoleStep::Leave { role, .. } => format!("revoke role {:?} from", role.as_str()),
        RoleStep::GrantDatabase {
            database,
            privileges,
        } => format!("grant {} on database {database:?} to", words(privileges)),
        RoleStep::RevokeDatabase {
            database,
            privileges,
        } => format!("revoke {} on database {database:?} from", words(privileges)),
        _ => "change".to_owned(),
    }
}

fn verdict(
    facts: &ServerFacts,
    role: &RoleName,
    step: &RoleStep,
    answer: &Answer<'_>,
) -> Option<Verdict> {
    let by_hand = || statements(role, step, facts.version_num).join("; ");
    let admin_option = |of: &RoleName| {
        let us = RoleName::parse(&facts.administrator);
        let us = us.map_or_else(|_| facts.administrator.clone(), |us| identifier(&us));
        let advice = format!(
            "a database administrator can give the operator's administrator the ADMIN OPTION: GRANT {} TO {us} WITH ADMIN OPTION",
            identifier(of)
        );
        (Reason::MissingAdminOption, advice)
    };
    let (reason, advice) = match (step, answer.code) {
        (RoleStep::Join { .. }, "42501") if is_restricted(answer) => (
            Reason::RoleProtected,
            "the server never gives that membership to others: remove it from memberOf".to_owned(),
        ),
        (RoleStep::Join { role: group, .. }, "42501") => admin_option(group),
        (RoleStep::Join { .. }, "0LP01") if answer.text().contains("explicit members") => (
            Reason::RoleProtected,
            "the server lets no role be a member of it: remove it from memberOf".to_owned(),
        ),
        (RoleStep::Join { .. }, "0LP01") => (
            Reason::MembershipLoop,
            "that role is, directly or through others, a member of this one: remove either membership"
                .to_owned(),
        ),
        (RoleStep::Join { .. }, "42704") | (RoleStep::GrantDatabase { .. }, "3D000") => (
            Reason::ObjectNotFound,
            "it is given when it is there".to_owned(),
        ),
        (RoleStep::Leave { .. }, "2BP01") => (
            Reason::NotRevocable,
            "the role has granted that membership on: take back what it granted first".to_owned(),
        ),
        (RoleStep::Leave { .. } | RoleStep::RevokeDatabase { .. }, "42501") => (
            Reason::NotRevocable,
            format!("a database administrator can: {}", by_hand()),
        ),
        (RoleStep::GrantDatabase { .. }, "42501") => (
            Reason::NotGrantable,
            format!("the database's owner can: {}", by_hand()),
        ),
        (RoleStep::Set { .. } | RoleStep::Reset(_), _) if answer.lacks_admin_option() => admin_option(role),
        (RoleStep::Set { name, .. }, "42501") if name.contains('.') => (
            Reason::SettingNotAllowed,
            format!(
                "{name} is a parameter that the server does not know, and from PostgreSQL 15 on only a superuser sets one for a role; on Azure nobody is one: remove it from role.settings, and let the application set it ({name} in the options of its connection, or SET)"
            ),
        ),
        (RoleStep::Set { .. } | RoleStep::Reset(_), "42501") => (
            Reason::NotGrantable,
            format!("remove it from role.settings, or a database administrator can: {}", by_hand()),
        ),
        (RoleStep::Set { name, .. }, _) if is_of_the_value(answer) => (
            Reason::InvalidSpec,
            match of_transactions(name) {
                Some(instead) => format!("{name} is of one transaction: declare {instead} in spec.role.settings instead"),
                None => format!("correct {name} in spec.role.settings, or remove it"),
            },
        ),
        _ => return None,
    };
    Some((Class::Denied, reason, advice))
}

/// Whether it is the parameter or its value that the server does not take: whatever the code, unless that
/// speaks of the moment, of a server that is read-only now, or of the role.
fn is_of_the_value(answer: &Answer<'_>) -> bool {
    let elsewhere = match answer.code {
        "25006" => true,
        "42704" => answer.text().contains("role"),
        _ => answer.passes(),
    };
    !elsewhere
}

/// What sessions begin their transactions with, instead of a parameter of one transaction.
fn of_transactions(name: &str) -> Option<&'static str> {
    match name {
        "transaction_isolation" => Some("default_transaction_isolation"),
        "transaction_read_only" => Some("default_transaction_read_only"),
        "transaction_deferrable" => Some("default_transaction_deferrable"),
        _ => None,
    }
}

/// Roles of the server itself, and superusers, whatever the options.
fn is_restricted(answer: &Answer<'_>) -> bool {
    let said = answer.text();
    said.contains("restricted role") || said.contains("superuser")
}

/// What these steps, some of which were refused, say about [`ServerFacts::improved_control`];
/// the catalog is the one of before.
pub fn lesson(
    catalog: &Catalog,
    role: &RoleName,
    steps: &[RoleStep],
    refused: &[(RoleStep, Failure)],
) -> Option<bool> {
    let tries = steps
        .iter()
        .filter(|step| needs_control(catalog, role, step));
    let lessons = tries.filter_map(|step| {
        let refusal = refused.iter().find(|(other, _)| other == step);
        match refusal.map(|(_, failure)| failure.reason) {
            None => Some(true),
            Some(Reason::MissingAdminOption | Reason::NotRevocable) => Some(false),
            Some(_) => None,
        }
    });
    lessons.min()
}

/// Whether by the rules of `PostgreSQL` itself this step cannot be ours.
fn needs_control(catalog: &Catalog, role: &RoleName, step: &RoleStep) -> bool {
    match step {
        RoleStep::Join { role: group, .. } => {
            let facts = catalog.targets.get(group);
            let plain = !group.as_str().starts_with("pg_")
                && !matches!(group.as_str(), "azure_pg_admin" | "azuresu");
            plain && facts.is_some_and(|facts| !facts.grantable && !facts.administrator)
        }
        RoleStep::Leave {
            role: group,
            grantors,
        } if catalog.version_num >= ADMIN_OPTION => {
            let rows = catalog.roles.get(role);
            let rows = rows.and_then(|facts| facts.memberships.get(group));
            let not_ours = |row: &Membership| !row.revocable && grantors.contains(&row.grantor);
            rows.into_iter().flatten().any(not_ours)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
