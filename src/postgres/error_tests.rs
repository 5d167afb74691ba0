//! The table of Azure's answers.

use super::answer::Answer;
use super::error::{About, meaning};
use super::sql;
use crate::model::{Class, Failure, Reason, RoleName};

fn failure(code: &str, message: &str, detail: Option<&str>) -> Failure {
    let role = RoleName::parse("My Role").unwrap();
    let about = About {
        server: "server platform/orders (host:5432)",
        role: Some(&role),
        action: "create",
    };
    meaning(
        about,
        Answer {
            code,
            message,
            detail,
            ..Answer::default()
        },
    )
}

/// What servers have been seen to answer.
const TABLE: [(&str, &str, Class, Reason); 23] = [
    (
        "28000",
        "no pg_hba.conf entry for host \"203.0.113.9\", user \"x\", database \"y\", SSL encryption",
        Class::Transient,
        Reason::ServerUnreachable,
    ),
    (
        "XX000",
        "Could not validate AAD user 1 because its name is not found in the tenant. [x]",
        Class::Denied,
        Reason::PrincipalNotFound,
    ),
    (
        "XX000",
        "Cannot validate Microsoft Entra ID user \"x\" because its name isn't unique in the tenant.",
        Class::Denied,
        Reason::PrincipalNotUnique,
    ),
    (
        "XX000",
        "incorrect object type provided for principal, given object type: 'user', actual object type: 'service'",
        Class::Denied,
        Reason::PrincipalTypeMismatch,
    ),
    (
        "0LP01",
        "An unexpected error occurred while trying to validate user.",
        Class::Transient,
        Reason::EntraUnavailable,
    ),
    (
        "XX000",
        "Failed to create Microsoft Entra principal. Reason: 'Updating an existing principal isn't supported. Drop and recreate",
        Class::Denied,
        Reason::IdentityInUse,
    ),
    (
        "42710",
        "role \"x\" already exists",
        Class::Denied,
        Reason::RoleExists,
    ),
    (
        "42501",
        "permission denied to create or change a Microsoft Entra role",
        Class::Denied,
        Reason::NotAnEntraAdministrator,
    ),
    (
        "42501",
        "permission denied to alter role",
        Class::Denied,
        Reason::DatabaseError,
    ),
    (
        "42883",
        "function pg_catalog.pgaadauth_list_principals(boolean) does not exist",
        Class::Denied,
        Reason::NotAnEntraAdministrator,
    ),
    (
        "25006",
        "cannot execute COMMENT in a read-only transaction",
        Class::Denied,
        Reason::ServerReadOnly,
    ),
    (
        "57014",
        "canceling statement due to statement timeout",
        Class::Transient,
        Reason::DatabaseError,
    ),
    (
        "55P03",
        "canceling statement due to lock timeout",
        Class::Transient,
        Reason::DatabaseError,
    ),
    (
        "53300",
        "sorry, too many clients already",
        Class::Transient,
        Reason::DatabaseError,
    ),
    (
        "53200",
        "out of shared memory",
        Class::Denied,
        Reason::DatabaseError,
    ),
    (
        "57P01",
        "terminating connection due to administrator command",
        Class::Transient,
        Reason::ServerUnreachable,
    ),
    (
        "40001",
        "could not serialize access",
        Class::Transient,
        Reason::DatabaseError,
    ),
    (
        "XX000",
        "tuple concurrently updated",
        Class::Transient,
        Reason::DatabaseError,
    ),
    (
        "28P01",
        "password authentication failed for user \"x\"",
        Class::Denied,
        Reason::AdministratorRefused,
    ),
    (
        "3D000",
        "database \"postgres\" does not exist",
        Class::Transient,
        Reason::DatabaseError,
    ),
    (
        "XX000",
        "something new",
        Class::Denied,
        Reason::DatabaseError,
    ),
    (
        sql::ID_IN_USE,
        "object id is already used",
        Class::Denied,
        Reason::IdentityInUse,
    ),
    (
        sql::NOT_OURS,
        "not our marker",
        Class::Denied,
        Reason::RoleOwnedByOther,
    ),
];

#[test]
fn azures_answers_have_their_reasons() {
    for (code, text, class, reason) in TABLE {
        let failure = failure(code, text, None);
        assert_eq!(
            (failure.class, failure.reason),
            (class, reason),
            "{code} {text}"
        );
    }
}

#[test]
fn the_sentence_names_role_server_and_cure() {
    let text = failure(
        sql::WRONG_TYPE,
        "the principal is\nof another type",
        Some("group"),
    )
    .message;
    for part in [
        "\"My Role\"",
        "platform/orders",
        "is a group",
        "spec.principal.type",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains('\n'));
}

fn of(answer: Answer<'_>) -> Failure {
    let about = About {
        server: "database \"orders\" on server platform/orders",
        role: None,
        action: "change",
    };
    meaning(about, answer)
}

// Red when: one advice is given for all limits of connections, or the routine is not looked at.
#[test]
fn a_limit_of_connections_is_told_as_whose_it_is() {
    for (routine, message, advice) in [
        (
            None,
            "too many connections for role \"api\"",
            "spec.role.connectionLimit",
        ),
        (
            Some("InitializeSessionUserId"),
            "zu viele Verbindungen f\u{fc}r Rolle api",
            "spec.role.connectionLimit",
        ),
        (
            None,
            "too many connections for database \"orders\"",
            "ALTER DATABASE",
        ),
        (
            Some("CheckMyDatabase"),
            "zu viele Verbindungen",
            "ALTER DATABASE",
        ),
        (None, "sorry, too many clients already", "max_connections"),
    ] {
        let failure = of(Answer {
            code: "53300",
            message,
            routine,
            ..Answer::default()
        });
        assert!(failure.message.contains(advice), "{failure}");
        assert_eq!(failure.class, Class::Transient);
    }
}

// Red when: what an event trigger says is taken for what the server says of our statement, its line is not
// quoted, or a lock that its function waits for is no more tried again.
#[test]
fn what_a_function_of_the_database_refuses_has_a_reason_of_its_own() {
    let context = "SQL statement \"INSERT INTO audit VALUES (1)\"\nPL/pgSQL function public.log_ddl() line 3 at SQL statement\nSQL statement \"GRANT SELECT ON TABLE app.t1 TO api\"\nPL/pgSQL function inline_code_block line 20 at EXECUTE";
    for code in [
        "42P01", "42501", "42883", "P0001", "23505", "42704", "22P05",
    ] {
        let failure = of(Answer {
            code,
            message: "relation \"audit\" does not exist",
            context: Some(context),
            ..Answer::default()
        });
        assert_eq!(
            (failure.class, failure.reason),
            (Class::Denied, Reason::RefusedInDatabase),
            "{code}"
        );
        assert!(
            failure
                .message
                .contains("PL/pgSQL function public.log_ddl() line 3"),
            "{failure}"
        );
    }
    for code in ["55P03", "57014", "40P01"] {
        let failure = of(Answer {
            code,
            message: "canceling statement",
            context: Some(context),
            ..Answer::default()
        });
        assert_eq!(
            (failure.class, failure.reason),
            (Class::Transient, Reason::DatabaseError),
            "{code}"
        );
        assert!(failure.message.contains("public.log_ddl()"), "{failure}");
    }
    let endless = "x ".repeat(5_000);
    let failure = of(Answer {
        code: "P0001",
        message: &endless,
        detail: Some(&endless),
        hint: Some(&endless),
        context: Some(&format!("PL/pgSQL function f() {endless}")),
        ..Answer::default()
    });
    assert!(failure.message.len() < 4_000, "{}", failure.message.len());
}
