//! What kstatus, and with it Flux, Argo CD and Helm, makes of a status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use strum::IntoEnumIterator as _;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn with(failure: Failure) -> Outcome {
    Outcome {
        role: Err(failure),
        shortfall: None,
        advice: Vec::new(),
        token: None,
        change: None,
    }
}

fn refused(reason: Reason) -> Outcome {
    with(Failure::new(Class::Denied, reason, "why, and what to do"))
}

fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// What kstatus says of an object whose status is of its newest generation.
fn kstatus(conditions: &[Condition]) -> &'static str {
    if find(conditions, RECONCILING).is_some() {
        return "InProgress";
    }
    if find(conditions, STALLED).is_some() {
        return "Failed";
    }
    match find(conditions, READY) {
        None => "Current",
        Some(ready) if ready.status == "True" => "Current",
        Some(_) => "InProgress",
    }
}

/// The statuses of an object that is looked at at these times, and fails so each time.
fn over(times: &[i64], outcome: &Outcome) -> EntraPostgresPrincipalStatus {
    let start = EntraPostgresPrincipalStatus::default();
    (times.iter()).fold(start, |old, &second| {
        principal(&old, 1, outcome, at(second))
    })
}

// Red when: put_kstatus() takes every refusal for one that somebody has to act on, as 6b177e6 did.
#[test]
fn what_heals_by_itself_is_in_progress_for_ten_minutes_and_its_words_stay() {
    for reason in Reason::iter().filter(|reason| reason.heals()) {
        let outcome = refused(reason);
        let first = over(&[100], &outcome);
        assert_eq!(kstatus(&first.conditions), "InProgress", "{reason}");
        assert_eq!(stalls_at(&first.conditions, at(100)), Some(at(700)));
        let before = over(&[100, 400, 699], &outcome);
        assert_eq!(kstatus(&before.conditions), "InProgress", "{reason}");
        assert_eq!(before, first, "nothing is written meanwhile");
        let after = over(&[100, 400, 700], &outcome);
        assert_eq!(kstatus(&after.conditions), "Failed", "{reason}");
        let stalled = find(&after.conditions, STALLED).expect("stalled");
        let said = find(&first.conditions, RECONCILING).expect("reconciling");
        assert_eq!(
            (&stalled.reason, &stalled.message),
            (&said.reason, &said.message)
        );
        assert_eq!(
            find(&after.conditions, READY),
            find(&first.conditions, READY)
        );
        assert_eq!(stalls_at(&after.conditions, at(700)), None);
        // It stays so, and so does what 6b177e6 called Stalled at once.
        assert_eq!(
            over(&[100, 700, 701, 9000], &outcome),
            over(&[100, 700], &outcome)
        );
    }
}

#[test]
fn what_somebody_has_to_change_is_stalled_at_once() {
    for reason in Reason::iter().filter(|reason| !reason.heals()) {
        for class in [Class::Denied, Class::Invalid] {
            let status = over(&[100], &with(Failure::new(class, reason, "why")));
            assert_eq!(kstatus(&status.conditions), "Failed", "{reason}");
        }
        let passing = with(Failure::new(Class::Transient, reason, "why"));
        let status = over(&[100, 9000], &passing);
        assert_eq!(kstatus(&status.conditions), "InProgress", "{reason}");
    }
}

// Red when: the ten minutes are counted from the first failure of any kind.
#[test]
fn ten_minutes_are_counted_from_the_last_change() {
    let (server, object) = (
        refused(Reason::ServerNotFound),
        refused(Reason::ObjectNotFound),
    );
    let old = over(&[0, 599], &server);
    let other = principal(&old, 1, &object, at(599));
    assert_eq!(stalls_at(&other.conditions, at(599)), Some(at(1199)));
    let same = principal(&other, 1, &object, at(1198));
    assert_eq!(kstatus(&same.conditions), "InProgress");
    // Another spec is another attempt, also of what was Stalled.
    let stalled = principal(&same, 1, &object, at(1199));
    assert_eq!(kstatus(&stalled.conditions), "Failed");
    let again = principal(&stalled, 2, &object, at(1200));
    assert_eq!(kstatus(&again.conditions), "InProgress");
    // What passes for another reason in between is a change, too.
    let away = with(Failure::new(
        Class::Transient,
        Reason::EntraUnavailable,
        "away",
    ));
    let between = principal(&old, 1, &away, at(599));
    let back = principal(&between, 1, &server, at(601));
    assert_eq!(stalls_at(&back.conditions, at(601)), Some(at(1201)));
}

#[test]
fn of_two_halves_the_one_that_somebody_has_to_act_on_decides() {
    let mut outcome = refused(Reason::ServerNotFound);
    outcome.token = Some(TokenOutcome {
        secret: "api".to_owned(),
        present: None,
        ended: None,
        failure: Some(Failure::new(Class::Denied, Reason::SecretNotOurs, "theirs")),
        advice: None,
        login: None,
    });
    let status = over(&[100], &outcome);
    let stalled = find(&status.conditions, STALLED).expect("stalled");
    assert_eq!(stalled.reason, "SecretNotOurs");
}

// Red when: a server's refusals are told in another way than a principal's.
#[test]
fn a_server_waits_for_its_identity_and_its_ca_in_the_same_way() {
    let refused = |reason| ServerOutcome {
        connected: Err(Failure::new(Class::Denied, reason, "why")),
        waits: None,
        principals: crate::api::PrincipalCounts::default(),
    };
    for (reason, first) in [
        (Reason::FederatedCredentialMissing, "InProgress"),
        (Reason::ServiceAccountNotFound, "InProgress"),
        (Reason::CaInvalid, "InProgress"),
        (Reason::NotAnEntraAdministrator, "InProgress"),
        (Reason::UnknownCloud, "Failed"),
    ] {
        let look =
            |old: &EntraPostgresServerStatus, second| server(old, 1, &refused(reason), at(second));
        let status = look(&EntraPostgresServerStatus::default(), 0);
        assert_eq!(kstatus(&status.conditions), first, "{reason}");
        assert_eq!(kstatus(&look(&status, 600).conditions), "Failed");
    }
}

fn well() -> Outcome {
    Outcome {
        role: Ok(RoleStatus::default()),
        shortfall: None,
        advice: Vec::new(),
        token: None,
        change: None,
    }
}

// Red when: suspended() makes Ready Unknown, as 6b177e6 did.
#[test]
fn a_suspended_object_is_as_ready_as_it_was_and_nothing_goes_on() {
    for outcome in [
        well(),
        refused(Reason::ServerNotFound),
        refused(Reason::RoleExists),
    ] {
        let before = over(&[100], &outcome);
        let status = suspended(&before, 2, at(200));
        let ready = |status: &EntraPostgresPrincipalStatus| {
            let ready = find(&status.conditions, READY).expect("Ready");
            let Condition {
                status,
                reason,
                message,
                last_transition_time,
                ..
            } = ready.clone();
            (status, reason, message, last_transition_time)
        };
        assert_eq!(ready(&status), ready(&before));
        let told = find(&status.conditions, SUSPENDED).expect("Suspended");
        assert_eq!(
            (told.status.as_str(), told.observed_generation),
            ("True", Some(2))
        );
        assert_ne!(kstatus(&status.conditions), "Failed");
        assert_eq!(find(&status.conditions, RECONCILING), None);
        assert_eq!(suspended(&status, 2, at(300)), status);
        assert_eq!(notes(&before.conditions, &status.conditions, None), []);
        let resumed = principal(&status, 3, &well(), at(400));
        assert_eq!(find(&resumed.conditions, SUSPENDED), None);
    }
    let good = suspended(&over(&[100], &well()), 2, at(200));
    assert_eq!(kstatus(&good.conditions), "Current");
    // As 6b177e6 wrote it.
    let mut older = good.clone();
    for condition in &mut older.conditions {
        if condition.type_ == READY {
            "Unknown".clone_into(&mut condition.status);
            "Suspended".clone_into(&mut condition.reason);
        }
    }
    assert_eq!(
        kstatus(&suspended(&older, 2, at(300)).conditions),
        "Current"
    );
    // One that was made suspended was never looked at.
    let new = suspended(&EntraPostgresPrincipalStatus::default(), 1, at(200));
    assert_eq!(kstatus(&new.conditions), "Current");
    assert_eq!(new.observed_generation, Some(1));
}

// Red when: planned() makes Ready False, as 6b177e6 did.
#[test]
fn a_plan_that_is_shown_is_done_and_one_that_cannot_be_made_yet_is_in_progress() {
    let preview = Preview {
        statements: 1,
        lines: vec!["GRANT".to_owned()],
        problem: None,
        more: 0,
    };
    let old = over(&[0], &refused(Reason::ServerNotFound));
    let shown = planned(&old, 2, Ok(&preview), at(1));
    assert_eq!(kstatus(&shown.conditions), "Current");
    let missing = Failure::new(Class::Denied, Reason::ServerNotFound, "no server");
    let waits = planned(&shown, 2, Err(&missing), at(2));
    assert_eq!(kstatus(&waits.conditions), "InProgress");
    let given_up = planned(&waits, 2, Err(&missing), at(602));
    assert_eq!(kstatus(&given_up.conditions), "Failed");
    assert_eq!(given_up.plan, shown.plan);
}
