//! Takes a role's privileges away in one database before it is dropped, or moves what it owns to
//! another role. Must not drop anything.

use crate::model::{Class, Failure, Reason, RoleName};

use super::change::{Line, Trouble};
use super::error::one_line;
use super::grant::patiently;
use super::message::{Table, Unanswered};
use super::{clear_sql, sql};

/// How many things that are left are told by name.
const TOLD: usize = 10;

/// What clearing a role out of one database came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// How many objects it still owns there.
    pub owned: u64,
    /// What it still has there because we may not take it away, in words; the first few.
    pub left: Vec<String>,
    /// How many those are in all.
    pub left_in_all: u64,
}

/// Clears the role out of the database that the line leads to, if its comment has `ours`, in one
/// transaction.
pub async fn clear(
    line: &Line,
    role: &RoleName,
    ours: &str,
    reassign_to: Option<&RoleName>,
) -> Result<Cleared, Trouble> {
    let message = sql::message(&[
        clear_sql::clear(role, ours, reassign_to),
        clear_sql::totals(role),
        clear_sql::left(role, TOLD),
    ]);
    let answer = patiently(line, &message).await;
    let tables = answer.map_err(|error| trouble(line, role, reassign_to, &error))?;
    read(&tables).ok_or_else(|| Trouble {
        failure: Failure::new(
            Class::Transient,
            Reason::DatabaseError,
            format!(
                "{} gave an odd answer about role {:?}; it is asked again",
                line.server,
                role.as_str()
            ),
        ),
        broken: false,
        locked: false,
    })
}

fn read(tables: &[Table]) -> Option<Cleared> {
    let [totals, left] = tables else { return None };
    let count = |column| totals.rows().next()?.get(column)?.parse().ok();
    Some(Cleared {
        owned: count("owned")?,
        left_in_all: count("remaining")?,
        left: left
            .rows()
            .filter_map(|row| row.get("thing").map(str::to_owned))
            .collect(),
    })
}

/// Roles are of the whole server. The line's name has the database before it; a server's has no spaces
/// around an "on".
fn without_database(place: &str) -> &str {
    place
        .rsplit_once(" on ")
        .map_or(place, |(_, server)| server)
}

/// A refusal in words; those that the statements raise themselves name the other role in DETAIL.
fn trouble(line: &Line, role: &RoleName, heir: Option<&RoleName>, error: &Unanswered) -> Trouble {
    let trouble = line.trouble("clear", Some(role), error);
    let said = match error {
        Unanswered::Said(error) => error.as_db_error(),
        _ => None,
    };
    let Some(answer) = said else { return trouble };
    let other = &one_line(answer.detail().unwrap_or("unknown"));
    let shown = role.as_str();
    let (reason, message) = match answer.code().code() {
        clear_sql::NO_HEIR => (
            Reason::ObjectNotFound,
            format!(
                "role {shown:?} is not dropped: role {other:?} of reassignOwnedTo does not exist on {}; make it, or correct reassignOwnedTo",
                without_database(&line.server)
            ),
        ),
        clear_sql::NO_MEMBERSHIP => {
            let granted = RoleName::parse(other).map(|other| sql::identifier(&other));
            (
                Reason::MissingAdminOption,
                format!(
                    "role {shown:?} is not dropped: the operator's administrator cannot act for role {other:?} on {} ({}); a database administrator can allow it: GRANT {} TO {} WITH ADMIN OPTION",
                    line.server,
                    one_line(answer.message()),
                    granted.unwrap_or_default(),
                    one_line(answer.hint().unwrap_or("the administrator")),
                ),
            )
        }
        "42501" if heir.is_some() => (
            Reason::RoleOwnsObjects,
            format!(
                "role {shown:?} is not dropped: what it owns in {} cannot be given to role {:?}: {}; a database administrator can allow it: the new owner needs CREATE on the schemas of what it gets (GRANT CREATE ON SCHEMA ... TO {}), and for a schema the operator's administrator needs CREATE on the database",
                line.server,
                heir.map_or("", RoleName::as_str),
                one_line(answer.message()),
                heir.map(sql::identifier).unwrap_or_default(),
            ),
        ),
        _ => return trouble,
    };
    Trouble {
        failure: Failure::new(Class::Denied, reason, message),
        ..trouble
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Red when: a role is said to be missing on one database.
    #[test]
    fn a_role_is_missing_on_the_server() {
        let server = "EntraPostgresServer platform/orders (orders.example:5432)";
        for database in ["orders", "a \" on b"] {
            let place = format!("database {database:?} on {server}");
            assert_eq!(without_database(&place), server);
        }
        assert_eq!(without_database(server), server);
    }

    #[test]
    fn an_answer_is_read_and_an_odd_one_is_no_success() {
        let totals =
            |owned, left| Table::new(&["owned", "remaining"], &[&[Some(owned), Some(left)]]);
        let left = Table::new(&["thing"], &[&[Some("table app.t, given by x")]]);
        let cleared = read(&[totals("3", "12"), left.clone()]);
        let expected = Cleared {
            owned: 3,
            left: vec!["table app.t, given by x".to_owned()],
            left_in_all: 12,
        };
        assert_eq!(cleared, Some(expected));
        for odd in [
            vec![],
            vec![left.clone()],
            vec![left.clone(), left.clone()],
            vec![totals("", "1"), left],
        ] {
            assert_eq!(read(&odd), None);
        }
    }
}
