//! What a server's answer means: SQLSTATE and, where Azure gives none of its own, loose text, to
//! class, reason and a sentence. Must not talk to a server.

use std::error::Error as _;

use tokio_postgres::error::DbError;

use crate::model::quote::{quote, redacted};
use crate::model::{Class, Failure, Reason, RoleName};

use super::answer::Answer;
use super::sql;

/// What the failed message was about, for its sentence.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The server as people know it.
    pub server: &'a str,
    /// The role, if it was about one.
    pub role: Option<&'a RoleName>,
    /// What was tried, as in "could not ... on".
    pub action: &'a str,
}

impl About<'_> {
    fn what(&self) -> String {
        let Self {
            server,
            role,
            action,
        } = self;
        match role {
            Some(role) => format!("could not {action} role {:?} on {server}", role.as_str()),
            None => format!("could not {action} on {server}"),
        }
    }
}

/// What an error of a message means.
pub fn classify(about: About<'_>, error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(answer) => meaning(about, Answer::from(answer)),
        None => unreachable(about.server, &about.what(), &chain(error)),
    }
}

/// No connection, or none any more.
pub fn unreachable(server: &str, what: &str, cause: &str) -> Failure {
    let message = format!(
        "{what}: {cause}; check that {server} runs and that the operator's network reaches it"
    );
    Failure::new(Class::Transient, Reason::ServerUnreachable, message)
}

/// Whether the server does not let an existing binding be changed.
pub fn is_rebind_refusal(error: &tokio_postgres::Error) -> bool {
    let refused = |answer: &DbError| refuses_update(&answer.message().to_lowercase());
    error.as_db_error().is_some_and(refused)
}

/// In every language the server names this file where no rule of its firewall fits, as Azure does. It has not
/// looked at the token then.
const NOT_LET_IN: &str = "pg_hba.conf";

/// Whether the server refuses the place that we come from, whoever we are.
pub(super) fn refuses_place(answer: &Answer<'_>) -> bool {
    answer.code.starts_with("28")
        && (answer.routine == Some("ClientAuthentication") || answer.message.contains(NOT_LET_IN))
}

fn refuses_update(message: &str) -> bool {
    message.contains("updating an existing")
}

pub(super) fn meaning(about: About<'_>, answer: Answer<'_>) -> Failure {
    explain(about, answer, None)
}

/// A failure in the server's words, with what to do about it: what the caller's own table says, unless a
/// function of the database is what refuses.
pub(super) fn explain(about: About<'_>, answer: Answer<'_>, own: Option<Verdict>) -> Failure {
    let text = answer.message.to_lowercase();
    let verdict = in_database(&answer)
        .or(own)
        .or_else(|| own_code(&answer))
        .or_else(|| no_entry(&answer))
        .or_else(|| from_text(&text))
        .or_else(|| no_connection(&answer, &text))
        .or_else(|| from_code(answer.code, &text));
    told(
        about,
        answer,
        verdict.unwrap_or_else(|| {
            let advice = "see the server's log and what the message says".to_owned();
            (Class::Denied, Reason::DatabaseError, advice)
        }),
    )
}

/// A failure in the server's words, whatever they would mean elsewhere.
pub(super) fn told_as(about: About<'_>, answer: &DbError, verdict: Verdict) -> Failure {
    told(about, Answer::from(answer), verdict)
}

/// The advice may have words of the server too.
fn told(about: About<'_>, answer: Answer<'_>, (class, reason, advice): Verdict) -> Failure {
    let message = format!("{}: {}; {advice}", about.what(), answer.said());
    Failure::new(class, reason, redacted(&message))
}

/// Class, reason, and what to do.
pub(super) type Verdict = (Class, Reason, String);

#[allow(
    clippy::unnecessary_wraps,
    reason = "every arm of the tables below is a Some"
)]
fn verdict(class: Class, reason: Reason, advice: &str) -> Option<Verdict> {
    Some((class, reason, advice.to_owned()))
}

/// What an event trigger refused, or could not do: neither code nor words are about what we sent.
fn in_database(answer: &Answer<'_>) -> Option<Verdict> {
    if answer.passes() {
        return None;
    }
    answer.in_function()?;
    verdict(
        Class::Denied,
        Reason::RefusedInDatabase,
        "nothing is wrong with what was sent: a function of that database refuses it, most likely one that an event trigger runs (\\dy in psql lists them). Correct it there, or have it leave the operator's administrator alone; the operator works with search_path pg_catalog, so the function must name tables and functions with their schema, or have a search_path of its own",
    )
}

/// Whose limit of connections is reached. Only the routine says it in every language.
fn no_connection(answer: &Answer<'_>, text: &str) -> Option<Verdict> {
    if answer.code != "53300" {
        return None;
    }
    let advice = if answer.routine == Some("InitializeSessionUserId") || text.contains("for role") {
        "the limit is the role's own: raise spec.role.connectionLimit of its EntraPostgresPrincipal (0 lets nobody in, -1 is no limit), or end sessions of the role; of a role that no object declares it is changed with ALTER ROLE ... CONNECTION LIMIT"
    } else if answer.routine == Some("CheckMyDatabase") || text.contains("for database") {
        "the limit is the database's own: raise it with ALTER DATABASE ... CONNECTION LIMIT, or end sessions there"
    } else {
        "the server has no connection left: raise its max_connections or lower limits.maxConnections of the EntraPostgresServer"
    };
    verdict(Class::Transient, Reason::DatabaseError, advice)
}

fn no_entry(answer: &Answer<'_>) -> Option<Verdict> {
    if !refuses_place(answer) {
        return None;
    }
    verdict(
        Class::Transient,
        Reason::ServerUnreachable,
        "the server's firewall does not let the operator in: add a firewall rule for the address in the message, or give the cluster's network a private endpoint of the server",
    )
}

fn own_code(answer: &Answer<'_>) -> Option<Verdict> {
    if answer.code == sql::COMMENT_CHANGED {
        let advice = "nothing was changed; it is looked at again";
        return verdict(Class::Waiting, Reason::MarkerChanged, advice);
    }
    let detail = one_line(answer.detail.unwrap_or("unknown"));
    let (reason, advice) = match answer.code {
        sql::WRONG_TYPE => (
            Reason::PrincipalTypeMismatch,
            format!("the directory's principal of that name is a {detail}: nothing was made; correct spec.principal.type, or name another principal by objectId"),
        ),
        sql::ID_IN_USE => (
            Reason::IdentityInUse,
            format!("nothing was made: role \"{detail}\" already has this identity; use that role, or drop it first"),
        ),
        sql::NOT_BOUND => (
            Reason::DatabaseError,
            "nothing was made: the server did not bind the role as asked; try spec.principal.objectId".to_owned(),
        ),
        sql::NOT_OURS => (
            Reason::RoleOwnedByOther,
            "the role was changed by somebody since it was made and is left alone; drop it by hand if it is not needed".to_owned(),
        ),
        _ => return None,
    };
    Some((Class::Denied, reason, advice))
}

/// Texts of Azure, lower case. They have changed over time, so only their heart is looked for.
fn from_text(text: &str) -> Option<Verdict> {
    let has = |needle: &str| text.contains(needle);
    if has("unexpected error occurred while trying to validate") {
        return verdict(
            Class::Transient,
            Reason::EntraUnavailable,
            "the server could not ask its directory: check that it may reach login.microsoftonline.com and graph.microsoft.com, and that the service principal 5657e26c-cc92-45d9-bc47-9da6cfdb4ed9 exists in the tenant",
        );
    }
    if refuses_update(text)
        || (has("already") && (has("object id") || has("objectid") || has("principal")))
    {
        return verdict(
            Class::Denied,
            Reason::IdentityInUse,
            "the identity is already an administrator or has another role on this server; use that role, or drop it first",
        );
    }
    if has("isn't unique") || has("is not unique") || has("not unique") {
        return verdict(
            Class::Denied,
            Reason::PrincipalNotUnique,
            "set spec.principal.objectId to say which of them is meant",
        );
    }
    if has("incorrect object type") {
        return verdict(
            Class::Denied,
            Reason::PrincipalTypeMismatch,
            "correct spec.principal.type or spec.principal.objectId",
        );
    }
    if has("not found in the tenant")
        || (has("validate") && (has("not found") || has("cannot find")))
    {
        return verdict(
            Class::Denied,
            Reason::PrincipalNotFound,
            "make the principal in Entra, or correct roleName (it is case-sensitive) or spec.principal.objectId; for an application the object id is its service principal's, not the registration's",
        );
    }
    if has("concurrently updated") {
        return verdict(Class::Transient, Reason::DatabaseError, "it is tried again");
    }
    None
}

fn from_code(code: &str, text: &str) -> Option<Verdict> {
    const AGAIN: &str = "it is tried again";
    match code {
        "42710" if text.contains("role") => verdict(
            Class::Denied,
            Reason::RoleExists,
            "drop that role, choose another roleName, or allow it with spec.adoption",
        ),
        "23505" | "42704" => verdict(Class::Transient, Reason::DatabaseError, AGAIN),
        "42501" if text.contains("entra") || text.contains("aad") => verdict(
            Class::Denied,
            Reason::NotAnEntraAdministrator,
            "make the operator's identity a Microsoft Entra administrator of the server",
        ),
        "42501" => verdict(
            Class::Denied,
            Reason::DatabaseError,
            "the operator's administrator lacks a privilege here: from PostgreSQL 16 on it needs the ADMIN option on a role that it did not make",
        ),
        "42883" if text.contains("pgaadauth") => verdict(
            Class::Denied,
            Reason::NotAnEntraAdministrator,
            "the server has no Microsoft Entra authentication: enable it and make the operator's identity a Microsoft Entra administrator",
        ),
        "25006" => verdict(
            Class::Denied,
            Reason::ServerReadOnly,
            "name the primary server, or free its storage if that is what made it read-only",
        ),
        "57014" => verdict(
            Class::Transient,
            Reason::DatabaseError,
            "it took longer than timeouts.statement of the EntraPostgresServer; it is tried again",
        ),
        "55P03" => verdict(
            Class::Transient,
            Reason::DatabaseError,
            "somebody holds a lock that it needs (pg_locks on the server says who); it is tried again",
        ),
        // Other shortages of memory pass.
        "53200" if text.contains("shared memory") => verdict(
            Class::Denied,
            Reason::DatabaseError,
            "the server has too few locks for what was sent: raise max_locks_per_transaction",
        ),
        "22P05" => verdict(
            Class::Denied,
            Reason::DatabaseError,
            "a name that is declared has a character that this database's encoding does not have: nothing there is called so; correct it",
        ),
        "2BP01" => verdict(
            Class::Denied,
            Reason::RoleOwnsObjects,
            "a database administrator must take away what hangs on the role",
        ),
        _ if code.starts_with("28") => verdict(
            Class::Denied,
            Reason::AdministratorRefused,
            "check that admins[].roleName is the administrator's exact name on the server, and that its identity is that administrator or a member of that group",
        ),
        _ => match code.get(..2) {
            Some("57" | "08") => verdict(Class::Transient, Reason::ServerUnreachable, AGAIN),
            Some("53" | "40" | "55" | "58" | "3D") => {
                verdict(Class::Transient, Reason::DatabaseError, AGAIN)
            }
            _ => None,
        },
    }
}

/// An error with its causes: the driver's own words say little.
pub fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if more.contains("close_notify") {
            return "the server closed the connection".to_owned();
        }
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    one_line(&text)
}

/// Server texts go into conditions and log lines: no line breaks, not endless, and not the token that the
/// server was sent.
pub(super) fn one_line(text: &str) -> String {
    let mut line = quote(text, 600);
    line.truncate(line.trim_end_matches('.').len());
    line
}
