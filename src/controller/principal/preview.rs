//! `mode: Plan`: shows what would be sent to the server. Must not change anything, nor ask Entra.

use crate::api::EntraPostgresPrincipal;
use crate::controller::index::Memory;
use crate::controller::{Context, result_of};
use crate::model::plan::{Plan, RoleWork, Steps, plan};
use crate::model::report::{self, Preview};
use crate::model::{Desired, Failure, Look, ObjectId};
use crate::postgres::{show_privilege_steps, show_role_steps};
use crate::telemetry::ReconcileResult;

use super::Next;
use super::observe::World;
use super::report::write;

/// Stands for the object id that only the principal's token knows.
const UNKNOWN_ID: &str = "00000000-0000-0000-0000-000000000000";

/// So much is shown at most, in lines and in bytes: an object has to fit into etcd.
const LINES: usize = 1_000;
const BYTES: usize = 32 * 1024;
/// A longer line is shortened if all do not fit, but not to less than that.
const LINE: usize = 160;

pub(super) async fn preview(
    object: &EntraPostgresPrincipal,
    desired: &Desired,
    world: &World,
    plan: Plan,
    mut memory: Memory,
    ctx: &Context,
) -> Next {
    let now = ctx.reporter.clock.now();
    let Plan {
        role, next_look, ..
    } = plan;
    let shown = match role {
        Ok(RoleWork::Steps(steps)) => Ok(shown(desired, world, &steps, None)),
        Ok(RoleWork::AfterToken) => assumed(desired, world, ctx),
        Err(failure) => Err(failure),
    };
    let shown = match shown {
        // What may pass says nothing about the plan.
        Err(failure) if !failure.needs_action() => Err(failure),
        Err(failure) => Ok(Preview {
            statements: 0,
            lines: vec![cannot(&failure)],
            problem: Some(failure),
            more: 0,
        }),
        Ok(preview) => Ok(preview),
    };
    let old = ctx.index.status(object);
    let status = report::planned(&old, desired.generation, shown.as_ref(), now);
    let failure = shown.err();
    // A source that is missing may come, as a server may come back.
    let again = memory
        .role
        .after(failure.as_ref(), false, now, &desired.uid);
    ctx.index.remember(&desired.uid, memory);
    let written = write(object, &status, None, ctx).await;
    Next {
        at: [next_look, again, written].into_iter().flatten().min(),
        result: failure.map_or(ReconcileResult::Settled, |failure| {
            result_of(Some(&failure))
        }),
    }
}

/// The plan as if the token were there: with the role's own identity where it has one, else with one that
/// stands for it.
fn assumed(desired: &Desired, world: &World, ctx: &Context) -> Result<Preview, Failure> {
    let mut observed = world.observed.clone();
    let label = match &observed.role {
        Look::Known(Some(facts)) => facts.label.as_ref().map(|label| label.object_id.clone()),
        _ => None,
    };
    let id = label.or_else(|| ObjectId::parse(UNKNOWN_ID));
    observed.token_object_id.clone_from(&id);
    let now = ctx.reporter.clock.now();
    let steps = match plan(desired, &observed, now, ctx.index.cluster_id()).role? {
        RoleWork::Steps(steps) => steps,
        RoleWork::AfterToken => Steps::default(),
    };
    Ok(shown(desired, world, &steps, id.as_ref()))
}

/// Steps as the lines of `status.plan`, in the order in which they would be made.
fn shown(desired: &Desired, world: &World, steps: &Steps, assumed: Option<&ObjectId>) -> Preview {
    let version_num = world.observed.server.version_num;
    let role = show_role_steps(&desired.role, &steps.role, version_num);
    let mut statements = role.len();
    let mut lines: Vec<String> = assumed
        .map(|id| {
            format!(
                "-- the object id is that of the principal's token, which mode: Plan does not ask for: {id} \
                 stands for it here"
            )
        })
        .into_iter()
        .chain(role)
        .collect();
    for (database, steps) in &steps.inside {
        let inside = show_privilege_steps(&desired.role, steps);
        statements += inside.len();
        lines.push(format!("-- database {}", one_line(database)));
        lines.extend(inside);
    }
    lines.extend(steps.problems.iter().map(cannot));
    Preview {
        statements,
        lines: cut(lines),
        problem: steps.problems.first().cloned(),
        more: steps.problems.len().saturating_sub(1),
    }
}

fn cannot(failure: &Failure) -> String {
    format!("-- cannot: {}", one_line(&failure.message))
}

/// A comment ends with its line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Every statement is shown as far as that goes: long lines are shortened before any is left out.
fn cut(mut lines: Vec<String>) -> Vec<String> {
    let total: usize = lines.iter().map(String::len).sum();
    if total > BYTES {
        let most = (BYTES / lines.len().max(1)).max(LINE);
        lines = lines
            .into_iter()
            .map(|line| shortened(line, most))
            .collect();
    }
    let mut bytes = 0;
    let fits = lines.iter().take(LINES).take_while(|line| {
        bytes += line.len();
        bytes <= BYTES
    });
    let fits = fits.count();
    let left_out = lines.len() - fits;
    if left_out > 0 {
        lines.truncate(fits);
        lines.push(format!("-- and {left_out} lines more"));
    }
    lines
}

/// The beginning of a line, and how much more there is.
fn shortened(line: String, most: usize) -> String {
    /// For the words at its end.
    const END: usize = 40;
    if line.len() <= most {
        return line;
    }
    let most = most.saturating_sub(END);
    let end = (0..=most).rev().find(|end| line.is_char_boundary(*end));
    let start = line.get(..end.unwrap_or(0)).unwrap_or_default();
    format!("{start} ... (and {} bytes more)", line.len() - start.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Class;

    #[test]
    fn a_plan_that_is_too_long_is_cut_and_says_so() {
        let line = "x".repeat(LINE);
        let long = cut(vec![line; 300]);
        assert_eq!(long.len(), BYTES / LINE + 1);
        let left_out = format!("-- and {} lines more", 300 - BYTES / LINE);
        assert_eq!(long.last(), Some(&left_out));
        let many = cut(vec![String::new(); LINES + 7]);
        assert_eq!(many.last().map(String::as_str), Some("-- and 7 lines more"));
        assert_eq!(cut(vec!["one".to_owned()]), ["one"]);
    }

    // Red when: a long line takes the place of the statements that follow.
    #[test]
    fn a_long_line_is_shortened_and_every_statement_is_shown() {
        let mut lines = vec![format!("COMMENT ON ROLE x IS '{}'", "ü".repeat(200_000))];
        lines.extend((0..20).map(|n| format!("GRANT SELECT ON {n}{}", ", \"t\"".repeat(256))));
        let shown = cut(lines);
        assert_eq!(shown.len(), 21);
        assert!(shown.iter().map(String::len).sum::<usize>() <= BYTES);
        assert!(
            shown[0].starts_with("COMMENT ON ROLE") && shown[0].ends_with("bytes more)"),
            "{}",
            shown[0]
        );
        for (n, line) in shown.iter().skip(1).enumerate() {
            assert!(line.starts_with(&format!("GRANT SELECT ON {n}")), "{line}");
        }
    }

    #[test]
    fn a_message_of_several_lines_stays_a_comment() {
        let failure = Failure::new(
            Class::Denied,
            crate::model::Reason::NotGrantable,
            "a\nDROP x",
        );
        assert_eq!(cannot(&failure), "-- cannot: a DROP x");
    }
}
