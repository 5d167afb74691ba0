//! What `mode: Plan` shows.

use jiff::Timestamp;

use super::conditions::{Conditions, Verdict};
use super::{LOGIN_VERIFIED, Left, READY, ROLE_SYNCED, TOKEN_ISSUED, left_token};
use crate::api::EntraPostgresPrincipalStatus;
use crate::model::{Failure, Reason};

/// What `mode: Plan` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// How many statements would be sent.
    pub statements: usize,
    /// The statements, and comments.
    pub lines: Vec<String>,
    /// What cannot be as declared; the first of several.
    pub problem: Option<Failure>,
    /// How many more there are.
    pub more: usize,
}

impl Preview {
    fn message(&self) -> String {
        let Self {
            statements,
            problem,
            more,
            ..
        } = self;
        let more = match more {
            0 => String::new(),
            more => format!(" (and {more} more that cannot be: see status.plan)"),
        };
        let what = match (statements, problem) {
            (0, None) => "all is as declared".to_owned(),
            (0, Some(problem)) => {
                format!("there is nothing to do but what cannot be: {problem}{more}")
            }
            (1, None) => "1 statement would be sent, see status.plan".to_owned(),
            (count, None) => format!("{count} statements would be sent, see status.plan"),
            (count, Some(problem)) => {
                let s = if *count == 1 { "" } else { "s" };
                format!(
                    "{count} statement{s} would be sent, see status.plan; not all can be: {problem}{more}"
                )
            }
        };
        format!("mode: Plan, nothing is changed: {what}")
    }
}

/// The status of a principal in `mode: Plan`, which is ready once its plan is shown; role and token as last seen. While nobody can say what would
/// be done, the plan is as it was.
pub fn planned(
    old: &EntraPostgresPrincipalStatus,
    generation: i64,
    preview: Result<&Preview, &Failure>,
    now: Timestamp,
) -> EntraPostgresPrincipalStatus {
    let mut conditions = Conditions::new(&old.conditions, generation, now);
    conditions.put(
        READY,
        preview.map_or_else(Verdict::of, |preview| {
            Verdict::is_true(&Reason::PlanOnly.to_string(), preview.message())
        }),
    );
    conditions.keep(&[ROLE_SYNCED, LOGIN_VERIFIED]);
    match left_token(old, Left::Plan, now) {
        Some(verdict) => conditions.put(TOKEN_ISSUED, verdict),
        None => conditions.keep(&[TOKEN_ISSUED]),
    }
    conditions.put_kstatus(&preview.err().into_iter().collect::<Vec<_>>());
    EntraPostgresPrincipalStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        plan: preview.map_or_else(|_| old.plan.clone(), |preview| preview.lines.clone()),
        ..old.clone()
    }
}
