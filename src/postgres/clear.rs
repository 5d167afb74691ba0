//! Takes a role's privileges away in one database before it is dropped, or moves what it owns to
//! another role. Must not drop anything.

use crate::model::{Class, Failure, Reason, RoleName};

use super::answer::Answer;
use super::change::{Line, Trouble};
use super::error::{About, Verdict, explain, one_line};
use super::message::{Table, Unanswered};
use super::{batch, clear_sql, sql};

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
    let answer = batch::send(line, &message).await;
    let tables = answer.map_err(|error| trouble(line, role, reassign_to, &error))?;
    read(&tables).ok_or_else(|| Trouble {
        failure: Failure::new(
            Class::Transient,
            Reason::DatabaseError,
            format!(
                "{} gave an odd answer about role {:?}; it is asked again",
                line.place,
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

/// A refusal in words; those that the statements raise themselves name the other role in DETAIL.
fn trouble(line: &Line, role: &RoleName, heir: Option<&RoleName>, error: &Unanswered) -> Trouble {
    let verdict = error
        .answer()
        .and_then(|answer| verdict(line, heir, &answer));
    let (Some(answer), Some(verdict)) = (error.answer(), verdict) else {
        return line.trouble("clear", Some(role), error);
    };
    let about = About {
        server: &line.place,
        role: Some(role),
        action: "clear",
    };
    Trouble {
        failure: explain(about, answer, Some(verdict)),
        broken: error.is_end(),
        locked: error.is_locked(),
    }
}

/// Why the role is not dropped.
fn verdict(line: &Line, heir: Option<&RoleName>, answer: &Answer<'_>) -> Option<Verdict> {
    let other = one_line(answer.detail.unwrap_or("unknown"));
    let (reason, advice) = match (answer.code, heir) {
        (clear_sql::NO_HEIR, _) => (
            Reason::ObjectNotFound,
            format!(
                "the role is not dropped: role {other:?} of reassignOwnedTo does not exist on {}; make it, or correct reassignOwnedTo",
                line.server
            ),
        ),
        (clear_sql::NO_MEMBERSHIP, _) => {
            let granted = RoleName::parse(&other).map(|other| sql::identifier(&other));
            (
                Reason::MissingAdminOption,
                format!(
                    "the role is not dropped: the operator's administrator cannot act for role {other:?}; a database administrator can allow it: GRANT {} TO {} WITH ADMIN OPTION",
                    granted.unwrap_or_default(),
                    one_line(answer.hint.unwrap_or("the administrator")),
                ),
            )
        }
        (clear_sql::TOO_MANY_LOCKS | "53200", Some(_)) => (
            Reason::RoleOwnsObjects,
            "the role is not dropped: what it owns there needs more locks at once than the server has: raise max_locks_per_transaction, or as a database administrator give the objects away in portions (ALTER TABLE ... OWNER TO ...)".to_owned(),
        ),
        ("42501", Some(heir)) => (Reason::RoleOwnsObjects, not_given(heir, answer)),
        _ => return None,
    };
    Some((Class::Denied, reason, advice))
}

/// What lets the new owner have what the server does not give it.
fn not_given(heir: &RoleName, answer: &Answer<'_>) -> String {
    let name = sql::identifier(heir);
    let begin = format!(
        "the role is not dropped: what it owns there cannot be given to role {:?}",
        heir.as_str()
    );
    if let Some(hint) = answer.hint {
        // "The owner of a FOR ALL TABLES publication must be a superuser."
        return format!(
            "{begin}: {}; no privilege helps: a database administrator drops that object, or gives it to who may have it, and the rest follows",
            one_line(hint)
        );
    }
    let text = answer.text();
    if text.contains("denied for database") {
        return format!(
            "{begin}; a database administrator can allow it: GRANT CREATE ON DATABASE ... TO {name}, and to the operator's administrator where a schema is given away"
        );
    }
    if text.contains("denied for foreign-data wrapper") {
        return format!(
            "{begin}; a database administrator can allow it: GRANT USAGE ON FOREIGN DATA WRAPPER ... TO {name}"
        );
    }
    if text.contains("denied for schema") {
        return format!(
            "{begin}; a database administrator can allow it: the new owner needs CREATE on the schemas of what it gets (GRANT CREATE ON SCHEMA ... TO {name})"
        );
    }
    format!(
        "{begin}; a database administrator can allow what the message says is missing, or give the object away by hand: the new owner needs CREATE on the schemas of what it gets (GRANT CREATE ON SCHEMA ... TO {name}), and for schemas and publications CREATE on the database"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    // Red when: the hint is lost, or one advice is given whatever the server says is missing.
    #[test]
    fn what_an_heir_lacks_is_told_by_what_the_server_says_of_it() {
        let heir = RoleName::parse("heir").unwrap();
        let superuser = "The owner of a FOR ALL TABLES publication must be a superuser.";
        for (message, hint, advice) in [
            (
                "permission denied to change owner of publication \"p\"",
                Some(superuser),
                "must be a superuser; no privilege helps",
            ),
            (
                "permission denied for schema app",
                None,
                "GRANT CREATE ON SCHEMA ... TO \"heir\"",
            ),
            (
                "permission denied for database orders",
                None,
                "GRANT CREATE ON DATABASE ... TO \"heir\"",
            ),
            (
                "permission denied for foreign-data wrapper w",
                None,
                "GRANT USAGE ON FOREIGN DATA WRAPPER ... TO \"heir\"",
            ),
            (
                "keine Berechtigung",
                None,
                "what the message says is missing",
            ),
        ] {
            let answer = Answer {
                code: "42501",
                message,
                hint,
                ..Answer::default()
            };
            let said = not_given(&heir, &answer);
            assert!(said.contains(advice), "{message}: {said}");
        }
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
