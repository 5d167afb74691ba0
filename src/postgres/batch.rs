//! Sends changes: all steps in one message, and where the server refuses it, each alone. What is sent
//! again is decided here and nowhere else. Must not decide what changes, nor what a refusal means.

use crate::model::Failure;

use super::answer::Answer;
use super::change::{Line, Patience};
use super::message::{Table, Unanswered};

/// How often a message is sent again that clashed with somebody's work at the same moment.
const AGAIN: u32 = 2;

/// So many steps that are sent alone may wait for a lock in vain: then the rest is not tried.
const MOST_LOCKED: usize = 5;

/// Sends a message, and again if it only clashed. A lock that somebody holds costs one time-out: whether
/// and when to try again is the session's to say.
pub(super) async fn send(line: &Line, message: &str) -> Result<Vec<Table>, Unanswered> {
    let mut again = 0;
    loop {
        match line.send_change(message).await {
            Err(error) if again < AGAIN && clashed(&error) => again += 1,
            answer => return answer,
        }
    }
}

fn clashed(error: &Unanswered) -> bool {
    error.answer().is_some_and(|answer| answer.is_a_clash())
}

/// Sends each step in a message of its own, after all together were refused with `first`; says which of them
/// were refused.
pub(super) async fn each<S: Clone>(
    line: &Line,
    steps: &[S],
    first: &Unanswered,
    statement: impl Fn(&S) -> String,
    refusal: impl Fn(&S, Answer<'_>) -> Failure,
) -> Result<Vec<(S, Failure)>, Unanswered> {
    if let ([only], Some(answer)) = (steps, first.answer()) {
        // It was alone already.
        return Ok(vec![(only.clone(), refusal(only, answer))]);
    }
    all_alone(line, steps, statement, refusal).await
}

/// [`each`] of steps that were together with others.
pub(super) async fn all_alone<S: Clone>(
    line: &Line,
    steps: &[S],
    statement: impl Fn(&S) -> String,
    refusal: impl Fn(&S, Answer<'_>) -> Failure,
) -> Result<Vec<(S, Failure)>, Unanswered> {
    let mut refused = Vec::new();
    // All together have waited for a lock: each alone need not.
    let line = &line.with(Patience::Short);
    let (mut left, mut last) = (MOST_LOCKED, None);
    for step in steps {
        if let (0, Some(failure)) = (left, &last) {
            refused.push((step.clone(), untried(failure)));
            continue;
        }
        let Err(error) = send(line, &statement(step)).await else {
            continue;
        };
        let Some(answer) = error.answer().filter(|_| !error.is_outdated()) else {
            return Err(error);
        };
        let failure = refusal(step, answer);
        left = match answer.code {
            "55P03" => left.saturating_sub(1),
            // It has taken as long as a statement may.
            "57014" => 0,
            _ => left,
        };
        if is_slow(&answer) {
            last = Some(failure.clone());
        }
        refused.push((step.clone(), failure));
    }
    Ok(refused)
}

/// Of a step that was not tried after others.
fn untried(last: &Failure) -> Failure {
    let mut failure = last.clone();
    failure.message = format!(
        "not tried after others of the same change that waited in vain, the last of them: {}",
        last.message
    );
    failure
}

fn is_slow(answer: &Answer<'_>) -> bool {
    matches!(answer.code, "55P03" | "57014")
}
