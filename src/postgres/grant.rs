//! Changes of one role's privileges in one database: one message, and where the server refuses it, step
//! by step. Must not decide what changes, nor keep anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Basis, Class, DatabaseCatalog, DatabaseInterest, Failure, PrivilegeStep, Reason, RoleName,
};

use super::change::{self, Line, Trouble};
use super::message::{Table, Unanswered};
use super::privilege_steps::{show_privilege_steps, statement};
use super::privileges_sql::TooLarge;
use super::{privileges_sql, sql};

/// How often a message is sent again that came into another's way.
const AGAIN: u32 = 2;

const ACTION: &str = "change the privileges of";

/// What a change left, and what was refused of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub now: DatabaseCatalog,
    pub refused: Vec<(PrivilegeStep, Failure)>,
}

/// What several roles were told at once, and those for whom the question cannot be put.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub now: DatabaseCatalog,
    pub refused: BTreeMap<RoleName, Failure>,
}

/// Asks what is there, and what these roles have, in one question for all. If the server refuses that for
/// what stands in it (a character that the database's encoding does not have), half of them are asked for
/// at a time, so that only whose name it is gets no answer.
pub(super) async fn look(
    line: &Line,
    asks: BTreeMap<RoleName, DatabaseInterest>,
) -> Result<Looked, Trouble> {
    const ACTION: &str = "look up privileges";
    let mut looked = Looked::default();
    let mut left = vec![asks.into_iter().collect::<Vec<_>>()];
    while let Some(mut asks) = left.pop() {
        let roles = asks.iter().map(|(role, _)| role.clone()).collect();
        let mut interest = DatabaseInterest::default();
        for (_, of_role) in &asks {
            interest.extend(of_role);
        }
        let question = privileges_sql::facts(&roles, &interest);
        match line.send(&question).await {
            Ok(tables) => {
                let (mut now, large) = read(line, roles, interest, &tables)?;
                for (role, interest) in &asks {
                    if let Some(what) = large.of(role, interest) {
                        now.doubt(role);
                        looked.refused.insert(role.clone(), too_large(line, &what));
                    }
                }
                looked.now.fold(now);
            }
            Err(error) if is_of_the_question(&error) => {
                if asks.len() > 1 {
                    left.push(asks.split_off(asks.len() / 2));
                    left.push(asks);
                } else if let Some((role, _)) = asks.pop() {
                    let failure = line.trouble(ACTION, Some(&role), &error).failure;
                    looked.refused.insert(role, failure);
                }
            }
            Err(error) => return Err(line.trouble(ACTION, None, &error)),
        }
    }
    Ok(looked)
}

/// Whether a question was refused for what stands in it (class 22: data exceptions), or has more to answer
/// than is taken.
fn is_of_the_question(error: &Unanswered) -> bool {
    let Unanswered::Said(error) = error else {
        return matches!(error, Unanswered::TooLarge(ended) if !ended);
    };
    let answer = error.as_db_error();
    !error.is_closed() && answer.is_some_and(|answer| answer.code().code().starts_with("22"))
}

/// What there is to know of one role in that database is more than we keep.
fn too_large(line: &Line, what: &str) -> Failure {
    let message = format!(
        "could not look up privileges in {}: {what}; at most {} MiB of them are read",
        line.server,
        privileges_sql::MOST / (1024 * 1024)
    );
    Failure::new(Class::Denied, Reason::CatalogTooLarge, message)
}

/// Makes all steps in one transaction; if the server refuses it, each alone. Returns what is there then.
pub(super) async fn run(
    line: &Line,
    role: &RoleName,
    basis: &Basis,
    steps: &[PrivilegeStep],
    interest: &DatabaseInterest,
) -> Result<Outcome, Trouble> {
    let roles = BTreeSet::from([role.clone()]);
    let question = privileges_sql::facts(&roles, interest);
    let statements = steps.iter().map(|step| statement(role, step));
    // The comment lies in no database: nothing here keeps it from being changed while this is made.
    let check = || sql::only_on(role, basis).filter(|_| !steps.is_empty());
    let mut message: Vec<String> = check().into_iter().chain(statements.clone()).collect();
    message.extend(check());
    message.push(question.clone());
    let mut refused = Vec::new();
    let tables = match patiently(line, &sql::message(&message)).await {
        Ok(tables) => tables,
        Err(error) if !error.is_refusal() || is_outdated(&error) || steps.is_empty() => {
            return Err(line.trouble(ACTION, Some(role), &error));
        }
        Err(_) => {
            for (step, statement) in steps.iter().zip(statements) {
                let alone: Vec<String> = check().into_iter().chain([statement]).collect();
                if let Err(error) = patiently(line, &sql::message(&alone)).await {
                    if !error.is_refusal() || is_outdated(&error) {
                        return Err(line.trouble(ACTION, Some(role), &error));
                    }
                    refused.push((step.clone(), refusal(line, role, step, &error)));
                }
            }
            line.ask("look up the privileges of", Some(role), &question)
                .await?
        }
    };
    let (now, large) = read(line, roles, interest.clone(), &tables)?;
    match large.of(role, interest) {
        None => Ok(Outcome { now, refused }),
        Some(what) => Err(Trouble {
            failure: too_large(line, &what),
            broken: false,
        }),
    }
}

fn is_outdated(error: &Unanswered) -> bool {
    matches!(error, Unanswered::Said(error) if change::is_outdated(error))
}

/// Sends a message, and again if it only came into another's way.
pub(super) async fn patiently(line: &Line, message: &str) -> Result<Vec<Table>, Unanswered> {
    let mut again = 0;
    loop {
        match line.send_change(message).await {
            Err(error) if again < AGAIN && passes(&error) => again += 1,
            answer => return answer,
        }
    }
}

/// Whether the same message may well succeed when it is sent again at once: a lock was held for too long,
/// a deadlock, or somebody changed the same object at the same time.
fn passes(error: &Unanswered) -> bool {
    let Unanswered::Said(error) = error else {
        return false;
    };
    error.as_db_error().is_some_and(|answer| {
        matches!(answer.code().code(), "55P03" | "40P01" | "40001")
            || answer.message().contains("concurrently updated")
    })
}

/// Why a step was refused, and what a database administrator could do.
fn refusal(line: &Line, role: &RoleName, step: &PrivilegeStep, error: &Unanswered) -> Failure {
    let failure = line.trouble(ACTION, Some(role), error).failure;
    let code = match error {
        Unanswered::Said(error) => error.as_db_error().map(|answer| answer.code().code()),
        _ => None,
    };
    let gives = matches!(
        step,
        PrivilegeStep::Grant { .. } | PrivilegeStep::GrantDefault { .. }
    );
    let reason = match code {
        Some("42501") if gives => Reason::NotGrantable,
        // Also what the role gave on to others.
        Some("42501" | "2BP01") => Reason::NotRevocable,
        // A schema, an object or a role went away meanwhile.
        Some("42P01" | "3F000" | "42883" | "42704") => Reason::ObjectNotFound,
        _ => return failure,
    };
    let statement = show_privilege_steps(role, std::slice::from_ref(step)).join("; ");
    let said = failure.message.split("; ").next().unwrap_or_default();
    let message = match reason {
        Reason::ObjectNotFound => format!("{said}; it is tried again when it is there"),
        Reason::NotRevocable if code == Some("2BP01") => format!(
            "{said}; the role gave it on to others: by hand, as its owner: {statement} CASCADE"
        ),
        _ => format!("{said}; by hand, as the owner of the objects: {statement}"),
    };
    Failure::new(Class::Denied, reason, message)
}

fn read(
    line: &Line,
    roles: BTreeSet<RoleName>,
    interest: DatabaseInterest,
    tables: &[Table],
) -> Result<(DatabaseCatalog, TooLarge), Trouble> {
    let answer = tables.last().cloned().unwrap_or_default();
    privileges_sql::catalog(roles, interest, &answer).ok_or_else(|| {
        let message = format!(
            "{} gave an odd answer about privileges; it is asked again",
            line.server
        );
        Trouble {
            failure: Failure::new(Class::Transient, Reason::DatabaseError, message),
            broken: false,
        }
    })
}
