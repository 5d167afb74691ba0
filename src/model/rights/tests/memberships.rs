//! Memberships.

use super::*;

fn member(target: &str, options: MembershipOptions) -> Desired {
    Desired {
        member_of: [(role(target), options)].into(),
        ..desired()
    }
}

fn with_target(version_num: u32, facts: TargetFacts) -> Server {
    let mut server = Server::default();
    server.facts.version_num = version_num;
    server.targets = [(role("readers"), facts)].into();
    server
}

fn grantable() -> TargetFacts {
    TargetFacts {
        grantable: true,
        ..TargetFacts::default()
    }
}

fn row(grantor: &str, options: MembershipOptions) -> Membership {
    Membership {
        grantor: role(grantor),
        revocable: grantor != STRANGER,
        ours: grantor == observed().server.administrator,
        by_admin: false,
        by_server: false,
        options,
    }
}

#[test]
fn what_cannot_be_a_membership_is_known_before_any_sql() {
    let administrator = TargetFacts {
        administrator: true,
        ..grantable()
    };
    let child = TargetFacts {
        member_of: [desired().role].into(),
        ..grantable()
    };
    let loses = MembershipOptions {
        inherit: false,
        ..USUAL
    };
    let exact = r#"GRANT "readers" TO "pg-operators" WITH ADMIN OPTION"#;
    for (version, facts, options, reason, part) in [
        (
            160_000,
            administrator,
            USUAL,
            Reason::RoleProtected,
            "readers",
        ),
        (160_000, child, USUAL, Reason::MembershipLoop, "readers"),
        (
            150_000,
            grantable(),
            loses,
            Reason::NotSupportedByVersion,
            "PostgreSQL 16",
        ),
        (
            160_000,
            TargetFacts::default(),
            USUAL,
            Reason::MissingAdminOption,
            exact,
        ),
    ] {
        let server = with_target(version, facts);
        let rights = server.plan(&member("readers", options), &Asked::default());
        says(&rights.problems, reason, &[part]);
        // Red when: `join` goes on after a problem.
        assert_eq!((rights.steps, rights.asked), (vec![], Asked::default()));
    }
    let server = with_target(160_000, grantable());
    let rights = server.plan(&member("nobody", USUAL), &Asked::default());
    says(&rights.problems, Reason::ObjectNotFound, &["\"nobody\""]);
    let rights = server.plan(&member("orders-api", USUAL), &Asked::default());
    says(
        &rights.problems,
        Reason::MembershipLoop,
        &["member of itself"],
    );
}

#[test]
fn a_membership_is_tried_where_the_server_may_not_ask_for_admin_option() {
    for (improved, tried) in [(Some(true), true), (None, true), (Some(false), false)] {
        let mut server = with_target(160_000, TargetFacts::default());
        server.facts.improved_control = improved;
        let rights = server.plan(&member("readers", USUAL), &Asked::default());
        assert_eq!(!rights.steps.is_empty(), tried, "{improved:?}");
    }
}

#[test]
fn the_grant_of_somebody_else_stays_when_ours_is_taken_back() {
    let mut server = with_target(160_000, grantable());
    let loses = MembershipOptions {
        set: false,
        ..USUAL
    };
    let others = [row(OWNER, loses), row(STRANGER, loses)];
    server.role.memberships = [(role("readers"), others.into())].into();
    let before = server.clone();
    let (asked, _) = server.settle(&member("readers", USUAL), Asked::default());
    assert_eq!(server.role.memberships[&role("readers")].len(), 3);
    let rights = server.plan(&desired(), &asked);
    let leave = RoleStep::Leave {
        role: role("readers"),
        grantors: [role("pg-operators")].into(),
    };
    assert_eq!(rights.steps, [leave]);
    let (asked, rights) = server.settle(&desired(), asked);
    assert_eq!((asked, rights.problems), (Asked::default(), vec![]));
    assert_eq!(server, before);
}

#[test]
fn a_membership_that_others_gave_is_taken_back_by_a_database_administrator() {
    let mut server = with_target(160_000, grantable());
    let asked = Asked {
        member_of: names(&["readers"]),
        ..Asked::default()
    };
    // What another gave meanwhile is neither taken nor a problem, whether we could or not.
    for by in [STRANGER, OWNER] {
        server.role.memberships = [(role("readers"), [row(by, USUAL)].into())].into();
        assert_eq!(server.plan(&desired(), &asked), Rights::default());
    }
    let lost = Membership {
        ours: true,
        ..row(STRANGER, USUAL)
    };
    server.role.memberships = [(role("readers"), [lost].into())].into();
    let rights = server.plan(&desired(), &asked);
    let exact = r#"REVOKE "readers" FROM "orders-api" GRANTED BY "stranger""#;
    says(&rights.problems, Reason::NotRevocable, &[exact]);
    assert_eq!((rights.steps, rights.asked), (vec![], asked.clone()));
    // A role that is gone took its members with it.
    server.role.memberships.clear();
    server.targets.clear();
    assert_eq!(server.plan(&desired(), &asked), Rights::default());
}

// Red when: `given` leaves out what another administrator of the server granted, or `join` lets such a
// grant keep options that are declared no more.
#[test]
fn what_we_gave_as_another_administrator_is_taken_back_or_told_and_is_remembered() {
    let more = MembershipOptions {
        admin: true,
        ..USUAL
    };
    let former = |options| Membership {
        by_admin: true,
        ..row(STRANGER, options)
    };
    let asked = Asked {
        member_of: names(&["readers"]),
        ..Asked::default()
    };
    let exact = r#"REVOKE "readers" FROM "orders-api" GRANTED BY "stranger""#;
    let mut server = with_target(160_000, grantable());
    server.role.memberships = [(role("readers"), [former(more)].into())].into();
    // Nobody recorded it.
    assert_eq!(
        server.plan(&desired(), &Asked::default()),
        Rights::default()
    );
    let rights = server.plan(&desired(), &asked);
    says(&rights.problems, Reason::NotRevocable, &[exact]);
    assert_eq!((rights.steps, &rights.asked), (vec![], &asked));

    // With less declared we grant that, and the other grant has to go.
    let declared = member("readers", USUAL);
    let (now, rights) = server.settle(&declared, asked.clone());
    says(
        &rights.problems,
        Reason::NotRevocable,
        &[exact, "more options"],
    );
    assert_eq!(now, asked);
    assert_eq!(server.role.memberships[&role("readers")].len(), 2);
    // Where we may take it, we do; what was there before stays.
    let lent = Membership {
        revocable: true,
        ..former(more)
    };
    let both = [lent, row("pg-operators", USUAL)];
    server.role.memberships = [(role("readers"), both.clone().into())].into();
    let leave = RoleStep::Leave {
        role: role("readers"),
        grantors: [role(STRANGER)].into(),
    };
    assert_eq!(server.plan(&declared, &asked).steps, [leave]);
    let before = [("readers".to_owned(), names(&[STRANGER]))].into();
    let asked = Asked {
        granted_before: before,
        ..asked
    };
    assert_eq!(server.plan(&declared, &asked).steps, []);
}

#[test]
fn up_to_15_more_than_declared_is_left_to_whom_gave_it() {
    let mut server = with_target(150_000, grantable());
    let more = MembershipOptions {
        admin: true,
        ..USUAL
    };
    server.role.memberships = [(role("readers"), [row(OWNER, more)].into())].into();
    let declared = member("readers", USUAL);
    assert_eq!(server.plan(&declared, &Asked::default()), Rights::default());
    let asked = Asked {
        member_of: names(&["readers"]),
        ..Asked::default()
    };
    assert_eq!(server.plan(&declared, &asked).steps.len(), 1);
}

// Red when: the server is asked for a membership that it gives to nobody.
#[test]
fn nobody_becomes_a_member_of_who_owns_the_database() {
    let mut declared = desired();
    declared.member_of.insert(role("pg_database_owner"), USUAL);
    let rights = Server::default().plan(&declared, &Asked::default());
    says(
        &rights.problems,
        Reason::RoleProtected,
        &["whoever owns a database"],
    );
    assert_eq!(rights.steps, []);
}
