//! Changes of one role's privileges in one database: one message, and where the server refuses it, step
//! by step. Must not decide what changes, nor keep anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Basis, Class, DatabaseCatalog, DatabaseInterest, Failure, PrivilegeStep, Reason, RoleName,
};

use super::answer::Answer;
use super::change::{Line, Patience, Trouble};
use super::error::{About, Verdict, explain};
use super::message::{Table, Unanswered};
use super::privilege_steps::{show_privilege_steps, statement};
use super::privileges_sql::TooLarge;
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

impl Looked {
    /// Adds an answer about these roles. Whose part was too large is in doubt.
    fn take(
        &mut self,
        line: &Line,
        asks: &[(RoleName, DatabaseInterest)],
        (mut now, large): (DatabaseCatalog, TooLarge),
    ) {
        for (role, interest) in asks {
            if let Some(what) = large.of(role, interest) {
                now.doubt(role);
                self.refused.insert(role.clone(), too_large(line, &what));
            }
        }
        self.now.fold(now);
    }
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
    // For all together: who has odd names is not to hold up the questions of others.
    let mut sifting = MOST_SIFTED;
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
                let answer = read(line, roles, interest, &tables)?;
                looked.take(line, &asks, answer);
            }
            Err(error) if is_of_the_question(&error) => {
                if asks.len() > 1 {
                    left.push(asks.split_off(asks.len() / 2));
                    left.push(asks);
                } else if let Some((role, interest)) = asks.pop() {
                    // Names that this encoding cannot have are of things that are not there.
                    let answer = if is_of_the_text(&error) {
                        sifted(line, &role, &interest, &mut sifting).await
                    } else {
                        Err(error)
                    };
                    match answer {
                        Ok(answer) => looked.take(line, &[(role, interest)], answer),
                        Err(error) if is_of_the_question(&error) => {
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

/// So many questions are put at most, for all roles together, to find the names that cannot be asked about.
const MOST_SIFTED: usize = 128;

/// What is there of all that can be asked about: what the database's encoding has no characters for is left
/// out of the question, and so it is absent.
async fn sifted(
    line: &Line,
    role: &RoleName,
    interest: &DatabaseInterest,
    questions: &mut usize,
) -> Result<(DatabaseCatalog, TooLarge), Unanswered> {
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
    while let Some(part) = left.pop() {
        *questions = questions.saturating_sub(1);
        match ask(&part).await {
            Ok(_) => good.extend(&part),
            Err(error) if is_of_the_text(&error) && *questions > 0 => {
                if let Some(halves) = part.halves() {
                    left.extend(halves);
                }
            }
            Err(error) => return Err(error),
        }
    }
    let (mut now, large) = ask(&good).await?.unwrap_or_default();
    now.asked = interest.clone();
    Ok((now, large))
}

/// Whether a question was refused for what stands in it (class 22: data exceptions).
fn is_of_the_text(error: &Unanswered) -> bool {
    let answer = error.answer();
    answer.is_some_and(|answer| answer.code.starts_with("22"))
}

/// The same, or it has more to answer than is taken.
fn is_of_the_question(error: &Unanswered) -> bool {
    is_of_the_text(error) || matches!(error, Unanswered::TooLarge(ended) if !ended)
}

/// What there is to know of one role in that database is more than we keep.
fn too_large(line: &Line, what: &str) -> Failure {
    let message = format!(
        "could not look up privileges in {}: {what}; at most {} MiB of them are read",
        line.place,
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
    // The comment lies in no database: nothing here keeps it from being changed while this is made.
    let check = || sql::only_on(role, basis).filter(|_| !steps.is_empty());
    let statement = |step: &PrivilegeStep| statement(role, step);
    let alone = |step: &PrivilegeStep| {
        let checked: Vec<String> = check().into_iter().chain([statement(step)]).collect();
        sql::message(&checked)
    };
    let made = check().into_iter().chain(steps.iter().map(statement));
    let changes: Vec<String> = made.chain(check()).collect();
    let mut message = changes.clone();
    message.push(question.clone());
    let mut refused = Vec::new();
    let unanswered = |error: Unanswered| line.trouble(ACTION, Some(role), &error);
    let tables = match batch::send(line, &sql::message(&message)).await {
        Ok(tables) => tables,
        Err(error)
            if error.answer().is_none()
                || error.is_outdated()
                || steps.is_empty()
                || (error.is_locked() && line.patience == Patience::Short) =>
        {
            return Err(unanswered(error));
        }
        Err(error) if is_of_the_text(&error) => {
            // Of the question, as long as the steps alone are taken.
            if let Err(error) = batch::send(line, &sql::message(&changes)).await {
                if error.answer().is_none() || error.is_outdated() {
                    return Err(unanswered(error));
                }
                let refusal = |step: &_, answer: Answer<'_>| refusal(line, role, step, answer);
                let each = batch::each(line, steps, &error, alone, refusal).await;
                refused = each.map_err(unanswered)?;
            }
            let asks = BTreeMap::from([(role.clone(), interest.clone())]);
            let Looked { now, refused: none } = look(line, asks).await?;
            if let Some(failure) = none.into_values().next() {
                return Err(Trouble {
                    failure,
                    broken: false,
                    locked: false,
                });
            }
            return Ok(Outcome { now, refused });
        }
        Err(error) => {
            let refusal = |step: &_, answer: Answer<'_>| refusal(line, role, step, answer);
            let each = batch::each(line, steps, &error, alone, refusal).await;
            refused = each.map_err(unanswered)?;
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
            locked: false,
        }),
    }
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
) -> Result<(DatabaseCatalog, TooLarge), Trouble> {
    let answer = tables.last().cloned().unwrap_or_default();
    privileges_sql::catalog(roles, interest, &answer).ok_or_else(|| {
        let message = format!(
            "{} gave an odd answer about privileges; it is asked again",
            line.place
        );
        Trouble {
            failure: Failure::new(Class::Transient, Reason::DatabaseError, message),
            broken: false,
            locked: false,
        }
    })
}
