//! Settings of a role: set when they differ from what the server stores, reset when they were asked
//! for and are declared no more. Must not set what a role could not set for itself: as its sessions begin
//! it would hold all the same.

use super::Rights;
use super::messages::failure;
use crate::model::observed::Observed;
use crate::model::{Asked, Desired, Failure, Reason, RoleFacts, RoleStep};

/// Parameters that are lists of identifiers: the server stores them in its own spelling.
const LISTS: [&str; 4] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "temp_tablespaces",
];

/// Adds what is to be done.
pub(super) fn plan(
    desired: &Desired,
    asked: &Asked,
    facts: &RoleFacts,
    observed: &Observed,
    rights: &mut Rights,
) {
    for name in &asked.settings {
        if !desired.settings.contains_key(name) && facts.settings.contains_key(name) {
            rights.steps.push(RoleStep::Reset(name.clone()));
            rights.asked.settings.insert(name.clone());
        }
    }
    for (name, value) in &desired.settings {
        let there = facts.settings.get(name);
        let problem = if name == "role" {
            not_its_role(desired, value)
        } else if !observed.server.parameters.are_free(name) {
            let known = observed.server.parameters.bound.contains(name);
            Some(not_allowed(desired, name, known))
        } else if LISTS.contains(&name.as_str()) && identifiers(name, value).is_none() {
            Some(no_list(desired, name))
        } else {
            None
        };
        if let Some(problem) = problem {
            rights.problems.push(problem);
            if asked.settings.contains(name) && there.is_some() {
                rights.asked.settings.insert(name.clone());
            }
            continue;
        }
        if there.is_some_and(|there| same(name, value, there)) {
            if asked.settings.contains(name) {
                rights.asked.settings.insert(name.clone());
            }
            continue;
        }
        rights.asked.settings.insert(name.clone());
        rights.steps.push(RoleStep::Set {
            name: name.clone(),
            value: value.clone(),
        });
    }
}

fn not_allowed(desired: &Desired, name: &str, known: bool) -> Failure {
    let Desired { role, server, .. } = desired;
    let why = if known {
        "is none that a role may set for itself, and is never set: remove it from role.settings, or a database \
         administrator sets it by hand"
    } else {
        "is not among those that the server shows: correct its name, or remove it from role.settings"
    };
    let message = format!(
        "role {:?} on server {server}: parameter {name} {why}",
        role.as_str()
    );
    failure(Reason::SettingNotAllowed, message)
}

/// Sessions may begin as a role that this one may SET ROLE to all the same.
fn not_its_role(desired: &Desired, value: &str) -> Option<Failure> {
    let Desired { role, server, .. } = desired;
    let mut groups = desired.member_of.iter();
    if value == "none" || groups.any(|(group, options)| group.as_str() == value && options.set) {
        return None;
    }
    let message = format!(
        "role {:?} on server {server}: role.settings sets role to {value:?}, which is none of the roles of \
         memberOf with set: add it there, or remove the setting",
        role.as_str()
    );
    Some(failure(Reason::SettingNotAllowed, message))
}

/// The server would take it for one odd identifier, and never give it back as it is written.
fn no_list(desired: &Desired, name: &str) -> Failure {
    let Desired { role, server, .. } = desired;
    let message = format!(
        "role {:?} on server {server}: {name} in role.settings is no list of identifiers and is not set: write \
         it as SQL has it, with commas between the names and double quotes around what is no plain name, for \
         example: app, \"My Schema\"",
        role.as_str()
    );
    failure(Reason::InvalidSpec, message)
}

fn same(name: &str, declared: &str, there: &str) -> bool {
    match (identifiers(name, declared), identifiers(name, there)) {
        (Some(declared), Some(there)) => declared == there,
        _ => declared == there,
    }
}

/// The identifiers in the value of a setting that is a list of them, as `PostgreSQL` reads them: quotes
/// taken off, what is not quoted in lower case. `None`: it is no such setting, or no such list.
pub fn identifiers(name: &str, value: &str) -> Option<Vec<String>> {
    if !LISTS.contains(&name) {
        return None;
    }
    // SET search_path = '' is the list of one empty name.
    if value.trim().is_empty() {
        return Some(vec![String::new()]);
    }
    let mut items = Vec::new();
    let mut rest = value;
    loop {
        let (item, after) = identifier(rest.trim_start())?;
        items.push(item);
        let after = after.trim_start();
        if after.is_empty() {
            return Some(items);
        }
        rest = after.strip_prefix(',')?;
    }
}

/// The identifier that a text begins with, and what comes after it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quote @ ('"' | '\'')) = text.chars().next() else {
        let end = text.find(',').unwrap_or(text.len());
        let (item, after) = text.split_at_checked(end)?;
        let item = item.trim_end();
        let plain = !item.is_empty() && !item.contains(|c: char| c.is_whitespace() || c == '"');
        return plain.then(|| (item.to_ascii_lowercase(), after));
    };
    let mut item = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            item.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            item.push(quote);
        } else {
            return Some((item, text.get(at + 1..)?));
        }
    }
    None
}
