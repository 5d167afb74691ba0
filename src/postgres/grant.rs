//! Changes of one role's privileges in one database: one message, and where the server refuses it, step
//! by step. Must not decide what changes, nor keep anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Class, DatabaseCatalog, DatabaseInterest, Failure, PrivilegeStep, Reason, RoleName,
};

use super::answer::Answer;
use super::change::{Line, Trouble};
use super::error::{About, Verdict, explain};
use super::message::{Table, Unanswered};
use super::privilege_steps::{show_privilege_steps, statement};
use super::{batch, privileges_sql, sql};

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
            Ok(tables) => looked.now.fold(read(line, roles, interest, &tables)?),
            Err(error) if is_of_the_text(&error) => {
                if asks.len() > 1 {
                    left.push(asks.split_off(asks.len() / 2));
                    left.push(asks);
                } else if let Some((role, interest)) = asks.pop() {
                    // Names that this encoding cannot have are of things that are not there.
                    match sifted(line, &role, interest).await {
                        Ok(now) => looked.now.fold(now),
                        Err(error) if is_of_the_text(&error) => {
                            let failure = line.trouble(ACTION, Some(&role), &error).failure;
                            looked.refused.insert(role, failure);
                        }
                        Err(error) => return Err(line.trouble(ACTION, Some(&role), &error)),
                    }
                }
            }
            Err(error) => return Err(line.trouble(ACTION, None, &error)),
        }
    }
    Ok(looked)
}

/// So many questions are put at most to find the names that cannot be asked about.
const MOST_SIFTED: usize = 128;

/// What is there of all that can be asked about: what the database's encoding has no characters for is left
/// out of the question, and so it is absent.
async fn sifted(
    line: &Line,
    role: &RoleName,
    interest: DatabaseInterest,
) -> Result<DatabaseCatalog, Unanswered> {
    let roles = BTreeSet::from([role.clone()]);
    let ask = async |part: &DatabaseInterest| {
        let tables = line.send(&privileges_sql::facts(&roles, part)).await?;
        let answer = tables.last().cloned().unwrap_or_default();
        Ok::<_, Unanswered>(privileges_sql::catalog(
            roles.clone(),
            part.clone(),
            &answer,
        ))
    };
    // Whose own name it is gets no answer at all.
    let mut good = DatabaseInterest::default();
    ask(&good).await?;
    let mut left = vec![interest.clone()];
    let mut asked = 0;
    while let Some(part) = left.pop() {
        asked += 1;
        match ask(&part).await {
            Ok(_) => good.extend(&part),
            Err(error) if is_of_the_text(&error) && asked < MOST_SIFTED => {
                if let Some(halves) = part.halves() {
                    left.extend(halves);
                }
            }
            Err(error) => return Err(error),
        }
    }
    let mut now = ask(&good).await?.unwrap_or_default();
    now.asked = interest;
    Ok(now)
}

/// Whether a question was refused for what stands in it (class 22: data exceptions).
fn is_of_the_text(error: &Unanswered) -> bool {
    let answer = error.answer();
    answer.is_some_and(|answer| answer.code.starts_with("22"))
}

/// Makes all steps in one transaction; if the server refuses it, each alone. Returns what is there then.
pub(super) async fn run(
    line: &Line,
    role: &RoleName,
    steps: &[PrivilegeStep],
    interest: &DatabaseInterest,
) -> Result<Outcome, Trouble> {
    let roles = BTreeSet::from([role.clone()]);
    let question = privileges_sql::facts(&roles, interest);
    let statement = |step: &PrivilegeStep| statement(role, step);
    let changes: Vec<String> = steps.iter().map(statement).collect();
    let mut message = changes.clone();
    message.push(question.clone());
    let mut refused = Vec::new();
    let unanswered = |error: Unanswered| line.trouble(ACTION, Some(role), &error);
    let tables = match batch::send(line, &sql::message(&message)).await {
        Ok(tables) => tables,
        Err(error) if error.answer().is_none() || steps.is_empty() => {
            return Err(unanswered(error));
        }
        Err(error) if is_of_the_text(&error) => {
            // Of the question, as long as the steps alone are taken.
            if let Err(error) = batch::send(line, &sql::message(&changes)).await {
                if error.answer().is_none() {
                    return Err(unanswered(error));
                }
                let refusal = |step: &_, answer: Answer<'_>| refusal(line, role, step, answer);
                let each = batch::each(line, steps, &error, statement, refusal).await;
                refused = each.map_err(unanswered)?;
            }
            let asks = BTreeMap::from([(role.clone(), interest.clone())]);
            let Looked { now, refused: none } = look(line, asks).await?;
            if let Some(failure) = none.into_values().next() {
                return Err(Trouble {
                    failure,
                    broken: false,
                });
            }
            return Ok(Outcome { now, refused });
        }
        Err(error) => {
            let refusal = |step: &_, answer: Answer<'_>| refusal(line, role, step, answer);
            let each = batch::each(line, steps, &error, statement, refusal).await;
            refused = each.map_err(unanswered)?;
            line.ask("look up the privileges of", Some(role), &question)
                .await?
        }
    };
    let now = read(line, roles, interest.clone(), &tables)?;
    Ok(Outcome { now, refused })
}

/// Why a step was refused, and what a database administrator could do.
fn refusal(line: &Line, role: &RoleName, step: &PrivilegeStep, answer: Answer<'_>) -> Failure {
    let about = About {
        server: &line.place,
        role: Some(role),
        action: ACTION,
    };
    explain(about, answer, verdict(role, step, &answer))
}

fn verdict(role: &RoleName, step: &PrivilegeStep, answer: &Answer<'_>) -> Option<Verdict> {
    let gives = matches!(
        step,
        PrivilegeStep::Grant { .. } | PrivilegeStep::GrantDefault { .. }
    );
    let statement = || show_privilege_steps(role, std::slice::from_ref(step)).join("; ");
    let by_hand = || format!("by hand, as the owner of the objects: {}", statement());
    let (reason, advice) = match answer.code {
        "42501" if gives => (Reason::NotGrantable, by_hand()),
        "42501" => (Reason::NotRevocable, by_hand()),
        // Also what the role gave on to others.
        "2BP01" => (
            Reason::NotRevocable,
            format!(
                "the role gave it on to others: by hand, as its owner: {} CASCADE",
                statement()
            ),
        ),
        // A schema, an object or a role went away meanwhile.
        "42P01" | "3F000" | "42883" | "42704" => (
            Reason::ObjectNotFound,
            "it is tried again when it is there".to_owned(),
        ),
        _ => return None,
    };
    Some((Class::Denied, reason, advice))
}

fn read(
    line: &Line,
    roles: BTreeSet<RoleName>,
    interest: DatabaseInterest,
    tables: &[Table],
) -> Result<DatabaseCatalog, Trouble> {
    let answer = tables.last().cloned().unwrap_or_default();
    privileges_sql::catalog(roles, interest, &answer).ok_or_else(|| {
        let message = format!(
            "{} gave an odd answer about privileges; it is asked again",
            line.place
        );
        Trouble {
            failure: Failure::new(Class::Transient, Reason::DatabaseError, message),
            broken: false,
        }
    })
}
