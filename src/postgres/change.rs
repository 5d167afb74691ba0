//! Changes of one role: builds the one message that makes them, and sends it. Must not decide what
//! changes, nor keep anything.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::model::{
    Basis, Class, Facts, Failure, ObjectId, Reason, RoleFacts, RoleName, RoleStep, ServerFacts,
    Subjects,
};
use crate::ports::WriteGate;

use super::connect::Link;
use super::error::{About, classify, is_rebind_refusal};
use super::message::{Table, Unanswered, send};
use super::refusal::{is_right, refusal};
use super::statements::statements;
use super::stats::SessionStats;
use super::{questions, snapshot, sql};

/// A connection to send messages of one piece of work on. What changes something asks the gate first,
/// each time: a piece of work may outlast the lease.
#[derive(Clone, Debug)]
pub struct Line {
    /// The connection.
    pub link: Arc<Link>,
    /// Whether anything may be changed.
    pub gate: Arc<dyn WriteGate>,
    /// Counts.
    pub stats: Arc<SessionStats>,
    /// The server as people know it.
    pub server: Arc<str>,
    /// When to give up on an answer; what the server itself cancels comes before.
    pub limit: Duration,
}

/// A failure, and whether the connection is no more of use.
#[derive(Debug)]
pub struct Trouble {
    /// What went wrong.
    pub failure: Failure,
    /// Whether the connection must be given up.
    pub broken: bool,
}

impl Line {
    /// Sends a question.
    pub async fn send(&self, sql: &str) -> Result<Vec<Table>, Unanswered> {
        send(&self.link, &self.stats, self.limit, sql).await
    }

    /// Sends a change.
    pub async fn send_change(&self, sql: &str) -> Result<Vec<Table>, Unanswered> {
        self.gate.check().map_err(Unanswered::Unsent)?;
        self.send(sql).await
    }

    /// Sends a change; errors are put into words.
    pub async fn change(
        &self,
        action: &str,
        role: &RoleName,
        sql: &str,
    ) -> Result<Vec<Table>, Trouble> {
        let answer = self.send_change(sql).await;
        answer.map_err(|error| self.trouble(action, Some(role), &error))
    }

    /// Sends a question; errors are put into words.
    pub async fn ask(
        &self,
        action: &str,
        role: Option<&RoleName>,
        sql: &str,
    ) -> Result<Vec<Table>, Trouble> {
        self.send(sql)
            .await
            .map_err(|error| self.trouble(action, role, &error))
    }

    /// An unanswered message in words.
    pub(super) fn trouble(
        &self,
        action: &str,
        role: Option<&RoleName>,
        error: &Unanswered,
    ) -> Trouble {
        let server = &self.server;
        Trouble {
            failure: error.failure(About {
                server,
                role,
                action,
            }),
            broken: error.is_end(),
        }
    }
}

/// What a change is made on.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// The server.
    pub server: ServerFacts,
    /// What was decided on.
    pub basis: Basis,
    /// What is read back: the role, and what else its principal wants to know.
    pub subjects: Subjects,
}

/// What a change came to.
#[derive(Debug)]
pub struct Made {
    /// What is there now.
    pub facts: Facts,
    /// The steps that the server refused.
    pub refused: Vec<(RoleStep, Failure)>,
}

/// Makes all steps in one transaction and returns the facts it left. If the server refuses, its rights
/// are tried one by one after the rest, so that one wrong name does not keep everything back.
pub async fn run(
    line: &Line,
    role: &RoleName,
    steps: &[RoleStep],
    ground: Ground,
) -> Result<Made, Trouble> {
    let Ground {
        server,
        basis,
        mut subjects,
    } = ground;
    subjects.ids.extend(ids(steps).cloned());
    if makes(steps) {
        // Others may wait to become members of it.
        subjects.targets.insert(role.clone());
    }
    let work = Work {
        line,
        role,
        version_num: server.version_num,
        basis,
        question: questions::facts(&subjects),
    };
    let mut refused = Vec::new();
    let tables = match work.together(steps).await {
        Ok(tables) => tables,
        Err(refusal) if steps.iter().any(is_right) && refusal.may_be_of_a_right() => {
            refused = work.apart(steps, &server, refusal).await?;
            line.ask("look up", Some(role), &work.question).await?
        }
        Err(refusal) => {
            let trouble = refusal.into_trouble(line, action(steps), role);
            return Err(with_statement(trouble, &server, role));
        }
    };
    Ok(Made {
        facts: snapshot::facts(subjects, &tables),
        refused,
    })
}

/// Why a message of steps was not taken.
enum Refused {
    /// No usable answer.
    Unanswered(Unanswered),
    /// It has a sentence of its own.
    Told(Trouble),
}

impl Refused {
    /// Whether one of several statements was refused that may have been about rights. What is wrong with
    /// the connection or the identity would be so again, and to look up an identity costs the server.
    fn may_be_of_a_right(&self) -> bool {
        let Self::Unanswered(Unanswered::Said(error)) = self else {
            return false;
        };
        let about = About {
            server: "",
            role: None,
            action: "",
        };
        let identity = matches!(
            classify(about, error).reason,
            Reason::PrincipalNotFound
                | Reason::PrincipalNotUnique
                | Reason::PrincipalTypeMismatch
                | Reason::IdentityInUse
                | Reason::EntraUnavailable
                | Reason::RoleExists
        );
        let elsewhere = |code: &str| {
            let classes = ["08", "25", "28", "53", "57", "EP"];
            code != "57014" && classes.iter().any(|class| code.starts_with(class))
        };
        let code = error.code().map(SqlState::code);
        !identity && !error.is_closed() && code.is_some_and(|code| !elsewhere(code))
    }

    fn into_trouble(self, line: &Line, action: &str, role: &RoleName) -> Trouble {
        match self {
            Self::Unanswered(error) => line.trouble(action, Some(role), &error),
            Self::Told(trouble) => trouble,
        }
    }
}

/// A change under way.
struct Work<'a> {
    line: &'a Line,
    role: &'a RoleName,
    version_num: u32,
    basis: Basis,
    question: String,
}

impl Work<'_> {
    /// Makes these steps in one transaction.
    async fn together(&self, steps: &[RoleStep]) -> Result<Vec<Table>, Refused> {
        let message = self.message(steps, &self.basis);
        match self.send(&message, AGAIN).await {
            Err(Unanswered::Said(error)) if is_rebind_refusal(&error) && binds(steps) => {
                rebind(self.line, self.role, &message).await
            }
            answer => answer.map_err(Refused::Unanswered),
        }
    }

    /// Makes what the role is in one transaction, then each right in its own; says which were refused.
    async fn apart(
        &self,
        steps: &[RoleStep],
        server: &ServerFacts,
        refusal: Refused,
    ) -> Result<Vec<(RoleStep, Failure)>, Trouble> {
        let (rights, rest): (Vec<RoleStep>, Vec<RoleStep>) =
            steps.iter().cloned().partition(is_right);
        let mut basis = self.basis.clone();
        if !rest.is_empty() {
            let made = self.together(&rest).await;
            let tables = made.map_err(|refusal| {
                let trouble = refusal.into_trouble(self.line, action(&rest), self.role);
                with_statement(trouble, server, self.role)
            })?;
            // The comment that these steps left.
            let left = snapshot::facts(Subjects::role(self.role), &tables);
            basis = left
                .roles
                .get(self.role)
                .map(RoleFacts::basis)
                .unwrap_or_default();
        } else if let ([only], Refused::Unanswered(Unanswered::Said(error))) =
            (rights.as_slice(), &refusal)
        {
            // It was alone already.
            return Ok(vec![(only.clone(), self.failure(only, server, error))]);
        }
        let mut refused = Vec::new();
        for right in rights {
            let check = sql::only_on(self.role, &basis).into_iter();
            let made = check.chain(statements(self.role, &right, self.version_num));
            let text = sql::message(&made.collect::<Vec<_>>());
            match self.send(&text, QUICKLY_AGAIN).await {
                Ok(_) => {}
                Err(Unanswered::Said(error)) if is_outdated(&error) => {
                    let error = Unanswered::Said(error);
                    return Err(self.line.trouble("change", Some(self.role), &error));
                }
                Err(Unanswered::Said(error))
                    if error.as_db_error().is_some() && !error.is_closed() =>
                {
                    let failure = self.failure(&right, server, &error);
                    refused.push((right, failure));
                }
                Err(error) => return Err(self.line.trouble("change", Some(self.role), &error)),
            }
        }
        Ok(refused)
    }

    /// Sends a message; twice again if it was refused for something that passes.
    async fn send(&self, text: &str, again: &[&str]) -> Result<Vec<Table>, Unanswered> {
        let mut left = 2;
        loop {
            match self.line.send_change(text).await {
                Err(Unanswered::Said(error)) if left > 0 && passes(&error, again) => left -= 1,
                answer => return answer,
            }
        }
    }

    fn failure(&self, step: &RoleStep, server: &ServerFacts, error: &Error) -> Failure {
        let Line { server: place, .. } = self.line;
        if let Some(answer) = error.as_db_error() {
            return refusal(place, server, self.role, step, answer.into());
        }
        let about = About {
            server: place,
            role: Some(self.role),
            action: "change",
        };
        classify(about, error)
    }

    /// The one message: what they were decided on still holds, the steps in order, then the facts they left.
    fn message(&self, steps: &[RoleStep], basis: &Basis) -> String {
        let made = steps.iter();
        let made = made.flat_map(|step| statements(self.role, step, self.version_num));
        let check = sql::only_on(self.role, basis).filter(|_| !steps.is_empty());
        let all = check.into_iter().chain(made).chain([self.question.clone()]);
        let all: Vec<String> = all.collect();
        sql::message(&all)
    }
}

/// What passes by itself: deadlocks and other clashes with somebody's work at the same time.
const QUICKLY_AGAIN: &[&str] = &["40P01", "40001"];

/// The same, and locks that somebody holds for long: worth a wait for the whole, not for each part.
const AGAIN: &[&str] = &["40P01", "40001", "55P03"];

/// Whether the role's comment is not the one any more that the change was decided on.
pub(super) fn is_outdated(error: &Error) -> bool {
    let answer = error.as_db_error();
    answer.is_some_and(|answer| answer.code().code() == sql::COMMENT_CHANGED)
}

fn passes(error: &Error, codes: &[&str]) -> bool {
    error.as_db_error().is_some_and(|answer| {
        let code = answer.code().code();
        let clash = code == "XX000" && answer.message().contains("concurrently updated");
        clash || codes.contains(&code)
    })
}

/// A role that we did not make, and lack the ADMIN OPTION on: who adopts it has to be given that.
fn with_statement(trouble: Trouble, server: &ServerFacts, role: &RoleName) -> Trouble {
    let Trouble { failure, broken } = trouble;
    // As the server says it: "must have the ADMIN option on role".
    let lacks =
        failure.reason == Reason::DatabaseError && failure.message.contains("option on role");
    let us = RoleName::parse(&server.administrator);
    let failure = match us {
        Ok(us) if lacks => Failure {
            reason: Reason::MissingAdminOption,
            message: format!(
                "{}; a database administrator can give it: GRANT {} TO {} WITH ADMIN OPTION",
                failure.message,
                sql::identifier(role),
                sql::identifier(&us)
            ),
            ..failure
        },
        _ => failure,
    };
    Trouble { failure, broken }
}

/// The server does not relabel: take the label away first, still in one transaction.
async fn rebind(line: &Line, role: &RoleName, message: &str) -> Result<Vec<Table>, Refused> {
    let text = sql::message(&[sql::label(role, None), message.to_owned()]);
    line.send_change(&text).await.map_err(|error| match error {
        Unanswered::Said(error) if is_rebind_refusal(&error) => {
            let message = format!(
                "{server} does not let role {shown:?} be bound to that identity, perhaps because another role has it. By hand, as a Microsoft Entra administrator: move what it owns (REASSIGN OWNED BY {name} TO ...; DROP OWNED BY {name}; in each database), then DROP ROLE {name}; the operator then makes it again",
                server = line.server,
                shown = role.as_str(),
                name = sql::identifier(role),
            );
            Refused::Told(Trouble {
                failure: Failure::new(Class::Denied, Reason::RebindRefused, message),
                broken: false,
            })
        }
        error => Refused::Unanswered(error),
    })
}

/// The object ids that the steps speak of.
pub fn ids(steps: &[RoleStep]) -> impl Iterator<Item = &ObjectId> {
    steps.iter().filter_map(|step| match step {
        RoleStep::Create(new) => new.object_id.as_ref(),
        RoleStep::Label { object_id, .. } => Some(object_id),
        _ => None,
    })
}

fn makes(steps: &[RoleStep]) -> bool {
    steps.iter().any(|step| matches!(step, RoleStep::Create(_)))
}

fn binds(steps: &[RoleStep]) -> bool {
    steps
        .iter()
        .any(|step| matches!(step, RoleStep::Label { .. }))
}

fn action(steps: &[RoleStep]) -> &'static str {
    match steps.first() {
        Some(RoleStep::Create(_)) => "create",
        Some(RoleStep::Label { .. }) => "bind",
        _ => "change",
    }
}
