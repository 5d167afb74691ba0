//! What refusals mean, and what is learned from them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::api::Privilege;
use crate::model::{MembershipOptions, TargetFacts};

const OPTIONS: MembershipOptions = MembershipOptions {
    inherit: true,
    set: true,
    admin: false,
};

fn name(text: &str) -> RoleName {
    RoleName::parse(text).unwrap()
}

fn join(group: &str) -> RoleStep {
    RoleStep::Join {
        role: name(group),
        options: OPTIONS,
    }
}

fn set(value: &str) -> RoleStep {
    RoleStep::Set {
        name: "work_mem".to_owned(),
        value: value.to_owned(),
    }
}

fn refused(step: &RoleStep, code: &str, message: &str) -> Failure {
    let facts = ServerFacts {
        version_num: 180_004,
        administrator: "pg operators".to_owned(),
        improved_control: None,
        ..ServerFacts::default()
    };
    let answer = Answer {
        code,
        message,
        ..Answer::default()
    };
    refusal("server s", &facts, &name("api"), step, answer)
}

#[test]
fn a_refused_membership_comes_with_the_statement_that_helps() {
    let failure = refused(&join("readers"), "42501", "permission denied to grant role");
    assert_eq!(failure.reason, Reason::MissingAdminOption);
    let statement = r#"GRANT "readers" TO "pg operators" WITH ADMIN OPTION"#;
    assert!(failure.message.contains(statement), "{failure}");
    assert!(
        failure
            .message
            .contains(r#"could not grant role "readers" to role "api""#)
    );
}

#[test]
fn each_refusal_has_its_reason() {
    let leave = RoleStep::Leave {
        role: name("readers"),
        grantors: BTreeSet::from([name("dba")]),
    };
    let grant = RoleStep::GrantDatabase {
        database: "orders".to_owned(),
        privileges: BTreeSet::from([Privilege::Connect]),
    };
    let restricted = "permission denied to alter restricted role \"azure_pg_admin\"";
    let cases = [
        (
            join("azure_pg_admin"),
            "42501",
            restricted,
            Reason::RoleProtected,
        ),
        (
            join("a"),
            "0LP01",
            "role is a member of role",
            Reason::MembershipLoop,
        ),
        (
            join("a"),
            "42704",
            "role \"a\" does not exist",
            Reason::ObjectNotFound,
        ),
        (
            leave.clone(),
            "42501",
            "permission denied",
            Reason::NotRevocable,
        ),
        (
            leave,
            "2BP01",
            "dependent privileges exist",
            Reason::NotRevocable,
        ),
        (
            grant.clone(),
            "42501",
            "permission denied",
            Reason::NotGrantable,
        ),
        (
            grant,
            "3D000",
            "database does not exist",
            Reason::ObjectNotFound,
        ),
        (
            set("x"),
            "22023",
            "invalid value for parameter",
            Reason::InvalidSpec,
        ),
        (
            set("x"),
            "42704",
            "unrecognized configuration parameter",
            Reason::InvalidSpec,
        ),
        (
            set("x"),
            "42501",
            "permission denied to set parameter",
            Reason::NotGrantable,
        ),
    ];
    for (step, code, message, reason) in cases {
        let failure = refused(&step, code, message);
        assert_eq!(
            (failure.class, failure.reason),
            (Class::Denied, reason),
            "{failure}"
        );
    }
    let failure = refused(&set("x"), "40P01", "deadlock detected");
    assert_eq!(failure.class, Class::Transient);
    assert!(
        refused(&set("x"), "22023", "no")
            .message
            .contains("correct work_mem")
    );
}

// Red when: lesson() does not look at what the catalog said before, or takes any refusal for one.
#[test]
fn what_the_server_lets_us_do_is_learned_from_what_its_own_rules_forbid() {
    let target = |grantable| TargetFacts {
        grantable,
        ..TargetFacts::default()
    };
    let catalog = Catalog {
        version_num: 180_004,
        targets: BTreeMap::from([
            (name("ours"), target(true)),
            (name("theirs"), target(false)),
        ]),
        ..Catalog::default()
    };
    let learned = |steps: &[RoleStep], refused: &[(RoleStep, Failure)]| {
        lesson(&catalog, &name("api"), steps, refused)
    };
    let no = |reason| Failure::new(Class::Denied, reason, "no");
    let (ours, theirs) = (join("ours"), join("theirs"));
    assert_eq!(learned(std::slice::from_ref(&ours), &[]), None);
    assert_eq!(learned(&[ours, theirs.clone()], &[]), Some(true));
    let missing = [(theirs.clone(), no(Reason::MissingAdminOption))];
    assert_eq!(
        learned(std::slice::from_ref(&theirs), &missing),
        Some(false)
    );
    let other = [(theirs.clone(), no(Reason::MembershipLoop))];
    assert_eq!(learned(&[theirs], &other), None);
}

// Red when: a setting that is refused is not named, or nobody says what to do about it.
#[test]
fn a_refused_setting_is_named_whatever_the_code() {
    let of = |name: &str| RoleStep::Set {
        name: name.to_owned(),
        value: "x".to_owned(),
    };
    for (name, code, reason, words) in [
        ("my.var", "42501", Reason::SettingNotAllowed, "superuser"),
        (
            "transaction_isolation",
            "25001",
            Reason::InvalidSpec,
            "default_transaction_isolation",
        ),
        ("work_mem", "0A000", Reason::InvalidSpec, "correct work_mem"),
        ("work_mem", "XX000", Reason::InvalidSpec, "correct work_mem"),
    ] {
        let failure = refused(&of(name), code, "refused");
        assert_eq!(
            (failure.class, failure.reason),
            (Class::Denied, reason),
            "{failure}"
        );
        assert!(
            failure.message.contains(name) && failure.message.contains(words),
            "{failure}"
        );
    }
    // What is not about the parameter is not told of it.
    let lacks = "permission denied to alter role: needs the ADMIN option on role \"api\"";
    for (code, said, reason) in [
        ("42501", lacks, Reason::MissingAdminOption),
        ("25006", "read-only transaction", Reason::ServerReadOnly),
        (
            "42704",
            "role \"api\" does not exist",
            Reason::DatabaseError,
        ),
    ] {
        let failure = refused(&of("plpgsql.extra_warnings"), code, said);
        assert_eq!(failure.reason, reason, "{failure}");
    }
    let lock = refused(
        &of("work_mem"),
        "55P03",
        "canceling statement due to lock timeout",
    );
    assert_eq!(lock.class, Class::Transient);
}

// Red when: whatever a GRANT of a role is refused for with 0LP01 counts as a circle.
#[test]
fn a_role_that_has_no_members_is_no_circle() {
    let said = "role \"pg_database_owner\" cannot have explicit members";
    let failure = refused(&join("pg_database_owner"), "0LP01", said);
    assert_eq!(failure.reason, Reason::RoleProtected, "{failure}");
}
