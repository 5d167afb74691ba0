//! Changes of one role: builds the one message that makes them, and sends it. Must not decide what
//! changes, nor keep anything.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Basis, Class, Facts, Failure, ObjectId, Reason, RoleFacts, RoleName, RoleStep, ServerFacts,
    Subjects,
};
use crate::ports::WriteGate;

use super::answer::Answer;
use super::connect::Link;
use super::error::{About, explain, is_rebind_refusal, meaning};
use super::message::{Table, Unanswered, send};
use super::refusal::{is_right, refusal};
use super::statements::statements;
use super::stats::SessionStats;
use super::{batch, questions, snapshot, sql};

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
    /// The same, or the database of it that the connection leads to.
    pub place: Arc<str>,
    /// When to give up on an answer; what the server itself cancels comes before.
    pub limit: Duration,
    /// How long a change may wait for a lock.
    pub patience: Patience,
}

/// How long the statements of a change wait for a lock that somebody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For a moment: others wait behind it, and all of it goes to the end of the queue then.
    Short,
    /// For so long; then what can be made without the lock is made.
    Long(Duration),
}

/// What [`Patience::Short`] is.
pub(super) const SHORT: Duration = Duration::from_millis(200);

/// How often it is looked whether this replica may still change something, while a change is under way.
const FENCE: Duration = Duration::from_millis(500);

impl Patience {
    fn time(self) -> Duration {
        match self {
            Self::Short => SHORT,
            Self::Long(time) => time,
        }
    }
}

/// A failure, and whether the connection is no more of use.
#[derive(Debug)]
pub struct Trouble {
    /// What went wrong.
    pub failure: Failure,
    /// Whether the connection must be given up.
    pub broken: bool,
    /// Whether somebody held a lock for longer than the line's patience: nothing was changed.
    pub locked: bool,
}

impl Line {
    /// The same connection, with that patience.
    pub fn with(&self, patience: Patience) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    /// Sends a question.
    pub async fn send(&self, sql: &str) -> Result<Vec<Table>, Unanswered> {
        send(&self.link, &self.stats, self.limit, sql).await
    }

    /// Sends a change, which is one transaction. When this replica may change nothing any more before the
    /// server has answered, the change is cancelled there: another one may be about to make its own.
    pub async fn send_change(&self, sql: &str) -> Result<Vec<Table>, Unanswered> {
        self.gate.check().map_err(Unanswered::Unsent)?;
        let lock = self.patience.time().as_millis().max(1);
        let change = format!("SET LOCAL lock_timeout = {lock};\n{sql}");
        let mut answer = pin!(self.send(&change));
        loop {
            if let Ok(answer) = tokio::time::timeout(FENCE, &mut answer).await {
                return answer;
            }
            if let Err(failure) = self.gate.check() {
                // What lies behind it on the connection is not begun, whatever becomes of the request.
                self.link.cut();
                self.link.cancel().await;
                return Err(Unanswered::Stopped(failure));
            }
        }
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
        let server = &self.place;
        Trouble {
            failure: error.failure(About {
                server,
                role,
                action,
            }),
            broken: error.is_end(),
            locked: error.is_locked(),
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
        server,
        basis,
        question: questions::facts(&subjects),
    };
    let mut refused = Vec::new();
    let tables = match work.together(steps).await {
        Ok(tables) => tables,
        Err(Refused::Unanswered(error))
            if error.is_locked() && line.patience == Patience::Short =>
        {
            return Err(line.trouble(action(steps), Some(role), &error));
        }
        Err(Refused::Unanswered(error))
            if steps.iter().any(is_right) && may_be_of_a_right(&error) =>
        {
            refused = work.apart(steps, &error).await?;
            line.ask("look up", Some(role), &work.question).await?
        }
        Err(refused) => return Err(work.trouble(steps, refused)),
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

/// Whether one of several statements was refused that may have been about rights. What is wrong with
/// the connection or the identity would be so again, and to look up an identity costs the server.
fn may_be_of_a_right(error: &Unanswered) -> bool {
    let Some(answer) = error.answer() else {
        return false;
    };
    let about = About {
        server: "",
        role: None,
        action: "",
    };
    let identity = matches!(
        meaning(about, answer).reason,
        Reason::PrincipalNotFound
            | Reason::PrincipalNotUnique
            | Reason::PrincipalTypeMismatch
            | Reason::IdentityInUse
            | Reason::EntraUnavailable
            | Reason::RoleExists
    );
    let elsewhere = |code: &str| {
        let classes = ["08", "28", "53", "57", "EP"];
        let all = classes.iter().any(|class| code.starts_with(class));
        code == "25006" || (code != "57014" && all)
    };
    !identity && !elsewhere(answer.code)
}

/// A change under way.
struct Work<'a> {
    line: &'a Line,
    role: &'a RoleName,
    server: ServerFacts,
    basis: Basis,
    question: String,
}

impl Work<'_> {
    /// Makes these steps in one transaction.
    async fn together(&self, steps: &[RoleStep]) -> Result<Vec<Table>, Refused> {
        let message = self.message(steps, &self.basis);
        match batch::send(self.line, &message).await {
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
        first: &Unanswered,
    ) -> Result<Vec<(RoleStep, Failure)>, Trouble> {
        let (rights, rest): (Vec<RoleStep>, Vec<RoleStep>) =
            steps.iter().cloned().partition(is_right);
        let mut basis = self.basis.clone();
        if !rest.is_empty() {
            let made = self.together(&rest).await;
            let tables = made.map_err(|refused| self.trouble(&rest, refused))?;
            // The comment that these steps left.
            let left = snapshot::facts(Subjects::role(self.role), &tables);
            let role = left.roles.get(self.role);
            basis = role.map(RoleFacts::basis).unwrap_or_default();
        }
        let statement = |right: &RoleStep| {
            let check = sql::only_on(self.role, &basis).into_iter();
            sql::message(&check.chain(self.statements(right)).collect::<Vec<_>>())
        };
        let refusal = |right: &RoleStep, answer: Answer<'_>| {
            refusal(&self.line.place, &self.server, self.role, right, answer)
        };
        // A single right beside other steps was not alone yet.
        let refused = if rest.is_empty() {
            batch::each(self.line, &rights, first, statement, refusal).await
        } else {
            batch::all_alone(self.line, &rights, statement, refusal).await
        };
        refused.map_err(|error| self.line.trouble("change", Some(self.role), &error))
    }

    /// Why these steps were not made.
    fn trouble(&self, steps: &[RoleStep], refused: Refused) -> Trouble {
        let error = match refused {
            Refused::Unanswered(error) => error,
            Refused::Told(trouble) => return trouble,
        };
        let action = action(steps);
        let lacking = error.answer().filter(Answer::lacks_admin_option);
        let us = RoleName::parse(&self.server.administrator);
        let (Some(answer), Ok(us)) = (lacking, us) else {
            return self.line.trouble(action, Some(self.role), &error);
        };
        let about = About {
            server: &self.line.place,
            role: Some(self.role),
            action,
        };
        // A role that we did not make: who adopts it has to be given that.
        let advice = format!(
            "a database administrator can give the operator's administrator the ADMIN OPTION on it: GRANT {} TO {} WITH ADMIN OPTION",
            sql::identifier(self.role),
            sql::identifier(&us)
        );
        let verdict = (Class::Denied, Reason::MissingAdminOption, advice);
        Trouble {
            failure: explain(about, answer, Some(verdict)),
            broken: error.is_end(),
            locked: error.is_locked(),
        }
    }

    fn statements(&self, step: &RoleStep) -> Vec<String> {
        statements(self.role, step, self.server.version_num)
    }

    /// The one message: what they were decided on still holds, the steps in order, then the facts they left.
    fn message(&self, steps: &[RoleStep], basis: &Basis) -> String {
        let made = steps.iter().flat_map(|step| self.statements(step));
        let check = sql::only_on(self.role, basis).filter(|_| !steps.is_empty());
        let all = check.into_iter().chain(made).chain([self.question.clone()]);
        let all: Vec<String> = all.collect();
        sql::message(&all)
    }
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
                locked: false,
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
