//! Drops a role without ever dropping data: close it, see what hangs on it, then drop. Each look
//! follows the commit of what came before it. Must not take anything away from a role: that is
//! `clear`.

use std::collections::BTreeSet;

use crate::model::{Class, Failure, Reason, RoleName};

use super::change::{Line, Trouble};
use super::databases::HOME;
use super::message::{Row, Table};
use super::{questions, sql};

/// What a drop came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropOutcome {
    /// The role was dropped now.
    Dropped,
    /// There was no such role.
    AlreadyAbsent,
    /// It has to be cleared out of these databases first; nothing else is in the way.
    Hangs(BTreeSet<String>),
}

/// Drops the role if its comment has `ours` and nothing hangs on it. What it owns is in the way unless
/// that `is_reassigned`.
pub async fn run(
    line: &Line,
    role: &RoleName,
    ours: &str,
    is_reassigned: bool,
) -> Result<DropOutcome, Trouble> {
    let closed = sql::message(&[sql::close(role, ours), questions::facts_of(role)]);
    let closed = line.change("disable sign-in of", role, &closed).await?;
    if closed
        .last()
        .is_none_or(|roles| roles.rows().next().is_none())
    {
        return Ok(DropOutcome::AlreadyAbsent);
    }
    let question = sql::message(&[
        questions::SERVER.to_owned(),
        questions::facts_of(role),
        sql::sessions(role),
        sql::dependencies(role),
    ]);
    let answers = line
        .ask("look at what hangs on", Some(role), &question)
        .await?;
    let hangs = judge(&line.server, role, &answers, is_reassigned).map_err(|failure| Trouble {
        failure,
        broken: false,
        locked: false,
    })?;
    if !hangs.is_empty() {
        return Ok(DropOutcome::Hangs(hangs));
    }
    line.change("drop", role, &sql::drop_role(role, ours))
        .await?;
    Ok(DropOutcome::Dropped)
}

/// Where it has to be cleared out first, or what stands in the way of that.
fn judge(
    server: &str,
    role: &RoleName,
    answers: &[Table],
    is_reassigned: bool,
) -> Result<BTreeSet<String>, Failure> {
    let shown = role.as_str();
    let [head, facts, sessions, dependencies] = answers else {
        let message =
            format!("{server} gave an odd answer about role {shown:?}; it is asked again");
        return Err(Failure::new(
            Class::Transient,
            Reason::DatabaseError,
            message,
        ));
    };
    let owns = || owner(server, role, dependencies).filter(|_| !is_reassigned);
    let obstacle = in_use(server, role, sessions)
        .or_else(owns)
        .or_else(|| synced_group(server, role, head, facts));
    if let Some(failure) = obstacle {
        return Err(failure);
    }
    // What all databases share is seen from the first one.
    let place = |row: Row<'_>| match row.get("database") {
        None | Some("") => HOME.to_owned(),
        Some(database) => database.to_owned(),
    };
    Ok(dependencies.rows().map(place).collect())
}

fn in_use(server: &str, role: &RoleName, sessions: &Table) -> Option<Failure> {
    let shown = role.as_str();
    let count = sessions
        .rows()
        .next()
        .and_then(|row| row.get("sessions"))
        .unwrap_or("some");
    (count != "0").then(|| {
        let message = format!(
            "role {shown:?} on {server} is not dropped yet: {count} open session(s); sign-in is disabled, end them with pg_terminate_backend or wait"
        );
        Failure::new(Class::Waiting, Reason::RoleInUse, message)
    })
}

fn owner(server: &str, role: &RoleName, dependencies: &Table) -> Option<Failure> {
    let owned = dependencies.rows().filter(|row| row.is("owned"));
    let places = owned.map(|row| {
        let count = row.get("objects").unwrap_or("some");
        match row.get("database") {
            None | Some("") => format!("{count} shared by all databases"),
            Some(database) => format!("{count} in database \"{database}\""),
        }
    });
    let places: Vec<String> = places.collect();
    let (shown, name) = (role.as_str(), sql::identifier(role));
    (!places.is_empty()).then(|| {
        let message = format!(
            "role {shown:?} on {server} is not dropped: it owns objects ({}), and data is never dropped; set deletionPolicy: Reassign with reassignOwnedTo, or as a database administrator REASSIGN OWNED BY {name} TO another role in each of them; sign-in is disabled",
            places.join(", ")
        );
        Failure::new(Class::Denied, Reason::RoleOwnsObjects, message)
    })
}

fn synced_group(server: &str, role: &RoleName, head: &Table, facts: &Table) -> Option<Failure> {
    let shown = role.as_str();
    let sync = head.rows().next().is_some_and(|row| row.is("group_sync"));
    let own = facts
        .rows()
        .find(|row| row.get("name") == Some(role.as_str()));
    let group = own.is_some_and(|row| row.get("kind") == Some("group"));
    (sync && group).then(|| {
        let message = format!(
            "role {shown:?} on {server} is a group's and is not dropped while pgaadauth.enable_group_sync is on; sign-in is disabled; it is dropped when that is turned off"
        );
        Failure::new(Class::Waiting, Reason::DropDeferred, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        sync: &str,
        sessions: &str,
        hangs: &[&[Option<&str>]],
        is_reassigned: bool,
    ) -> Result<Vec<String>, Failure> {
        let role = RoleName::parse("old").unwrap();
        let kind = if sync == "t" { "group" } else { "user" };
        let answers = [
            Table::new(&["group_sync"], &[&[Some(sync)]]),
            Table::new(&["name", "kind"], &[&[Some("old"), Some(kind)]]),
            Table::new(&["sessions"], &[&[Some(sessions)]]),
            Table::new(&["database", "owned", "objects"], hangs),
        ];
        judge("server", &role, &answers, is_reassigned).map(Vec::from_iter)
    }

    const SHARED: &[Option<&str>] = &[Some(""), Some("f"), Some("1")];
    const ACL: &[Option<&str>] = &[Some("orders"), Some("f"), Some("2")];
    const OWN: &[Option<&str>] = &[Some("shop"), Some("t"), Some("7")];

    #[test]
    fn what_hangs_on_it_is_cleared_in_each_database_and_what_is_shared_in_the_first() {
        assert_eq!(judged("f", "0", &[], false), Ok(vec![]));
        let places = ["orders", "postgres"].map(str::to_owned).to_vec();
        assert_eq!(judged("f", "0", &[ACL, SHARED], false), Ok(places));
        let places = ["orders", "shop"].map(str::to_owned).to_vec();
        assert_eq!(judged("f", "0", &[ACL, OWN], true), Ok(places));
    }

    #[test]
    fn each_obstacle_has_its_reason_and_says_how_much_there_is() {
        let failure = judged("f", "3", &[OWN], true).unwrap_err();
        assert_eq!(
            (failure.class, failure.reason),
            (Class::Waiting, Reason::RoleInUse)
        );
        assert!(failure.message.contains("3 open"));

        let failure = judged("f", "0", &[OWN, ACL], false).unwrap_err();
        assert_eq!(failure.reason, Reason::RoleOwnsObjects);
        assert!(failure.message.contains("7 in database \"shop\""));
        assert!(!failure.message.contains("orders"));

        let failure = judged("t", "0", &[OWN], true).unwrap_err();
        assert_eq!(
            (failure.class, failure.reason),
            (Class::Waiting, Reason::DropDeferred)
        );
    }

    #[test]
    fn an_odd_answer_never_lets_a_role_be_dropped() {
        let role = RoleName::parse("old").unwrap();
        assert!(judge("server", &role, &[], true).is_err());
    }
}
