//! Statuses and events as tables.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::*;

fn ready(status: &str, reason: &str) -> Vec<Condition> {
    let mut conditions = Conditions::new(&[], 1, Timestamp::UNIX_EPOCH);
    let verdict = Verdict::is_true(reason, "a message".to_owned());
    conditions.put(READY, verdict);
    let mut all = conditions.finish();
    for condition in &mut all {
        status.clone_into(&mut condition.status);
    }
    all
}

fn told(old: &[Condition], new: &[Condition], change: RoleChange) -> Vec<(bool, String)> {
    let notes = notes(old, new, Some(change)).into_iter();
    notes.map(|note| (note.warning, note.reason)).collect()
}

// Red when: notes() tells of a change only where nothing else is told.
#[test]
fn an_adoption_is_always_told_and_other_changes_only_of_what_was_ready() {
    let good = ready("True", "Ready");
    let bad = ready("False", "RoleExists");
    let note = |reason: &str| (false, reason.to_owned());
    let adopted = RoleChange::RoleAdopted;
    assert_eq!(
        told(&bad, &good, adopted),
        [note("RoleAdopted"), note("Ready")]
    );
    assert_eq!(told(&good, &good, adopted), [note("RoleAdopted")]);
    let altered = RoleChange::RoleAltered;
    assert_eq!(told(&good, &good, altered), [note("RoleAltered")]);
    assert_eq!(told(&bad, &good, altered), [note("Ready")]);
    assert_eq!(told(&bad, &bad, altered), []);
    // To look at a plan is no trouble.
    let shown = ready("True", "PlanOnly");
    assert_eq!(
        notes(&good, &shown, None).first().map(|note| note.warning),
        Some(false)
    );
}

#[test]
fn a_plan_is_shown_and_goes_with_its_mode() {
    let now = Timestamp::UNIX_EPOCH;
    let old = EntraPostgresPrincipalStatus {
        role: Some(RoleStatus::default()),
        token: Some(TokenStatus::default()),
        ..EntraPostgresPrincipalStatus::default()
    };
    let preview = |statements, lines: &[&str]| Preview {
        statements,
        lines: lines.iter().map(|&line| line.to_owned()).collect(),
        problem: None,
        more: 0,
    };
    let shown = planned(&old, 1, Ok(&preview(1, &["GRANT"])), now);
    assert_eq!(shown.plan, ["GRANT"]);
    assert_eq!((&shown.role, &shown.token), (&old.role, &old.token));
    let [condition] = &shown.conditions[..] else {
        panic!("{shown:?}");
    };
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("True", "PlanOnly")
    );
    assert!(condition.message.contains("1 statement "), "{condition:?}");
    let nothing = planned(&shown, 2, Ok(&preview(0, &[])), now);
    assert!(
        nothing.plan.is_empty() && nothing.conditions[0].message.contains("all is as declared")
    );
    // While nobody can look, what was seen last stays.
    let away = Failure::new(Class::Transient, Reason::ServerUnreachable, "away");
    let unseen = planned(&shown, 2, Err(&away), now);
    assert_eq!(
        (unseen.plan, unseen.conditions[0].status.as_str()),
        (shown.plan.clone(), "Unknown")
    );
    assert!(suspended(&shown, 2, now).plan.is_empty());
}

fn with_login(login: Option<LoginOutcome>, old: &[Condition]) -> Vec<(String, String, String)> {
    let outcome = Outcome {
        role: Ok(RoleStatus {
            name: "api".to_owned(),
            ..RoleStatus::default()
        }),
        shortfall: None,
        advice: Vec::new(),
        token: Some(TokenOutcome {
            secret: "api".to_owned(),
            present: Some(TokenStatus {
                expires_at: Some(Time(Timestamp::UNIX_EPOCH)),
                ..TokenStatus::default()
            }),
            ended: None,
            failure: None,
            advice: None,
            login,
        }),
        change: None,
    };
    let before = EntraPostgresPrincipalStatus {
        conditions: old.to_vec(),
        ..EntraPostgresPrincipalStatus::default()
    };
    let status = principal(&before, 1, &outcome, Timestamp::UNIX_EPOCH);
    let told = status.conditions.into_iter();
    told.map(|c| (c.type_, c.status, c.reason)).collect()
}

// Red when: an Unknown sign-in makes Ready Unknown, or what was known is forgotten in the next pass.
#[test]
fn only_a_refused_sign_in_is_a_fault_and_what_was_tried_stays_known() {
    let failed = |class, reason| LoginOutcome::Tried(Err(Failure::new(class, reason, "why")));
    let refused = failed(Class::Denied, Reason::LoginRefused);
    let away = failed(Class::Transient, Reason::ServerUnreachable);
    let no_database = failed(Class::Denied, Reason::DatabaseNotAccessible);
    let is =
        |login: Option<LoginOutcome>, old: &[Condition], expected: Option<(&str, &str)>, good| {
            let told = with_login(login.clone(), old);
            let find = |type_: &str| told.iter().find(|(found, ..)| found == type_);
            let verified = find(LOGIN_VERIFIED).map(|(_, status, reason)| (&**status, &**reason));
            assert_eq!(verified, expected, "{login:?}");
            let ready = find(READY).map(|(_, status, _)| status.as_str());
            assert_eq!(ready, Some(good), "{login:?}");
            assert_eq!(find(STALLED).is_some(), good == "False", "{login:?}");
            assert!(find(RECONCILING).is_none(), "{login:?}");
        };
    let unknown = |reason| Some(("Unknown", reason));
    is(None, &[], None, "True");
    is(
        Some(LoginOutcome::Tried(Ok("server:5432".to_owned()))),
        &[],
        Some(("True", "SignedIn")),
        "True",
    );
    is(Some(refused), &[], Some(("False", "LoginRefused")), "False");
    is(Some(away), &[], unknown("ServerUnreachable"), "True");
    is(
        Some(no_database),
        &[],
        unknown("DatabaseNotAccessible"),
        "True",
    );
    is(
        Some(LoginOutcome::AsBefore),
        &[],
        unknown("LoginPending"),
        "True",
    );
    let mut before = ready("True", "SignedIn");
    before[0].type_ = LOGIN_VERIFIED.to_owned();
    is(
        Some(LoginOutcome::AsBefore),
        &before,
        Some(("True", "SignedIn")),
        "True",
    );
}

#[test]
fn a_token_that_nobody_can_look_at_is_kept_while_it_lives() {
    let time = |second| Timestamp::from_second(second).expect("a time");
    let token = TokenStatus {
        expires_at: Some(Time(time(100))),
        ..TokenStatus::default()
    };
    let old = EntraPostgresPrincipalStatus {
        binding: Some(SecretBinding {
            name: "api".to_owned(),
        }),
        token: Some(token.clone()),
        ..EntraPostgresPrincipalStatus::default()
    };
    assert_eq!(last_seen(&old, "api", time(99)), Some(token));
    assert_eq!(last_seen(&old, "api", time(100)), None);
    assert_eq!(last_seen(&old, "other", time(99)), None);
}

// Red when: server() shows the session's state only, or leaves out why nobody can be dropped.
#[test]
fn a_server_whose_deletion_waits_is_not_ready_whatever_its_session_says() {
    let waits = Failure::new(
        Class::Waiting,
        Reason::WaitingForPrincipals,
        "waits for a/b",
    );
    let facts = ServerFacts {
        version: "18.1".to_owned(),
        administrator: "boss".to_owned(),
        unmanaged: crate::api::Unmanaged::default(),
    };
    let ca = Failure::new(Class::Denied, Reason::CaInvalid, "no ConfigMap");
    let wrong = Failure::new(Class::Invalid, Reason::UnknownCloud, "no such cloud");
    for (connected, is_connected, also, kstatus) in [
        (Ok(facts), "True", "", RECONCILING),
        (Err(ca), "False", "no ConfigMap", RECONCILING),
        (Err(wrong), "False", "no such cloud", STALLED),
    ] {
        let outcome = ServerOutcome {
            connected,
            waits: Some(waits.clone()),
            principals: crate::api::PrincipalCounts::default(),
        };
        let old = EntraPostgresServerStatus::default();
        let status = server(&old, 1, &outcome, Timestamp::UNIX_EPOCH);
        let [ready, connected, progress] = &status.conditions[..] else {
            panic!("{status:?}");
        };
        assert_eq!(
            (ready.type_.as_str(), ready.status.as_str()),
            (READY, "False")
        );
        assert_eq!(ready.reason, "WaitingForPrincipals");
        assert!(ready.message.starts_with("waits for a/b") && ready.message.contains(also));
        assert_eq!(connected.status, is_connected);
        assert_eq!(
            (progress.type_.as_str(), progress.status.as_str()),
            (kstatus, "True")
        );
    }
}

fn until(second: i64) -> TokenStatus {
    TokenStatus {
        expires_at: Some(Time(Timestamp::from_second(second).expect("in range"))),
        ..TokenStatus::default()
    }
}

fn with_token(present: Option<TokenStatus>, ended: Option<TokenStatus>) -> Outcome {
    let away = Failure::new(Class::Transient, Reason::EntraUnavailable, "no answer");
    Outcome {
        role: Ok(RoleStatus::default()),
        shortfall: None,
        advice: Vec::new(),
        token: Some(TokenOutcome {
            secret: "api".to_owned(),
            present,
            ended,
            failure: Some(away),
            advice: None,
            login: None,
        }),
        change: None,
    }
}

fn issued(status: &EntraPostgresPrincipalStatus) -> (String, String) {
    let mut all = status.conditions.iter();
    let found = all
        .find(|it| it.type_ == TOKEN_ISSUED)
        .expect("TokenIssued");
    (found.status.clone(), found.message.clone())
}

// Red when: notes() looks at the status of conditions only; a token that has ended is left out.
#[test]
fn a_renewal_that_fails_is_told_once_and_an_end_is_shown() {
    let now = Timestamp::from_second(100).expect("in range");
    let old = EntraPostgresPrincipalStatus {
        conditions: ready("True", "Ready"),
        ..EntraPostgresPrincipalStatus::default()
    };
    let failing = principal(&old, 1, &with_token(Some(until(200)), None), now);
    let told = notes(&old.conditions, &failing.conditions, None);
    let [note] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(note.warning && note.note.contains("good until"), "{note:?}");
    assert_eq!(note.reason, "RenewalFailing");
    let again = principal(&failing, 1, &with_token(Some(until(200)), None), now);
    assert_eq!(notes(&failing.conditions, &again.conditions, None), []);
    let over = principal(&again, 1, &with_token(None, Some(until(90))), now);
    let (status, message) = issued(&over);
    assert_eq!(
        (status.as_str(), over.token.clone()),
        ("False", Some(until(90)))
    );
    assert_eq!(
        message,
        "the token in Secret api ended at 1970-01-01T00:01:30Z; no answer"
    );
    assert_eq!(ended(&over, "api", now), Some(until(90)));
    assert_eq!(ended(&failing, "api", now), None);
}

// Red when: suspended() keeps what was said of the token, whatever time it is.
#[test]
fn a_suspended_token_is_good_until_it_ends() {
    let at = |second| Timestamp::from_second(second).expect("in range");
    let mut outcome = with_token(Some(until(200)), None);
    outcome.token.as_mut().expect("a token").failure = None;
    let good = principal(
        &EntraPostgresPrincipalStatus::default(),
        1,
        &outcome,
        at(100),
    );
    let before = suspended(&good, 2, at(150));
    let (status, message) = issued(&before);
    assert!(
        status == "True" && message.contains("not renewed while"),
        "{message}"
    );
    let after = suspended(&before, 2, at(201));
    let (status, message) = issued(&after);
    assert!(
        status == "False" && message.contains("ended at"),
        "{message}"
    );
    assert_eq!(suspended(&after, 2, at(300)), after);
    assert_eq!(after.token, Some(until(200)));
}

// Red when: message() does not say how many obstacles there are beside the first.
#[test]
fn a_plan_with_several_obstacles_says_how_many() {
    let old = EntraPostgresPrincipalStatus::default();
    for (statements, more, words) in [
        (0, 0, "what cannot be: first"),
        (0, 1, "first (and 1 more that cannot be: see status.plan)"),
        (2, 3, "first (and 3 more that cannot be: see status.plan)"),
    ] {
        let preview = Preview {
            statements,
            lines: Vec::new(),
            problem: Some(Failure::new(Class::Denied, Reason::NotGrantable, "first")),
            more,
        };
        let shown = planned(&old, 1, Ok(&preview), Timestamp::UNIX_EPOCH);
        let said = &shown.conditions[0].message;
        assert!(said.ends_with(words), "{words}: {said}");
    }
}

// Red when: ready() names only the worst half, one that only waits its turn, or one reason twice.
#[test]
fn ready_names_the_other_half_that_fails() {
    let verdict = |status, reason: &str| Verdict {
        status,
        reason: reason.to_owned(),
        message: "first".to_owned(),
    };
    let role = verdict("False", "RoleExists");
    for (token, said) in [
        (
            verdict("Unknown", "ClientSecretNotFound"),
            "first; also TokenIssued: ClientSecretNotFound (see that condition)",
        ),
        (verdict("True", "RenewalFailing"), "first"),
        (verdict("Unknown", PENDING), "first"),
        (verdict("False", "RoleExists"), "first"),
    ] {
        let ready = conditions::ready([(ROLE_SYNCED, Some(&role)), (TOKEN_ISSUED, Some(&token))]);
        assert_eq!(ready.message, said);
        assert_eq!(ready.reason, "RoleExists");
    }
}

// Red when: secret_of() forgets the Secret that has the token while none of another name can be made.
#[test]
fn a_secret_that_cannot_be_renamed_is_still_the_one() {
    let old = EntraPostgresPrincipalStatus {
        binding: Some(SecretBinding {
            name: "before".to_owned(),
        }),
        ..EntraPostgresPrincipalStatus::default()
    };
    assert_eq!(secret_of(&old, "api", true), "before");
    assert_eq!(secret_of(&old, "api", false), "api");
    let none = EntraPostgresPrincipalStatus::default();
    assert_eq!(secret_of(&none, "api", true), "api");
}

// Red when: a token that is left to its end is said to be good after that, or the reason is that of before.
#[test]
fn a_token_that_is_left_to_its_end_is_shown_as_that_in_mode_plan_and_suspended() {
    let at = |second| Timestamp::from_second(second).expect("in range");
    let token = TokenStatus {
        expires_at: Some(Time(at(200))),
        ..TokenStatus::default()
    };
    let mut conditions = Conditions::new(&[], 1, at(100));
    conditions.put(TOKEN_ISSUED, Verdict::is_true("Issued", "good".to_owned()));
    let good = EntraPostgresPrincipalStatus {
        binding: Some(SecretBinding {
            name: "api".to_owned(),
        }),
        token: Some(token),
        conditions: conditions.finish(),
        ..EntraPostgresPrincipalStatus::default()
    };
    let preview = Preview {
        statements: 0,
        lines: Vec::new(),
        problem: None,
        more: 0,
    };
    let plan =
        |old: &EntraPostgresPrincipalStatus, second| planned(old, 2, Ok(&preview), at(second));
    let is = |status: &EntraPostgresPrincipalStatus| {
        let found = status.conditions.iter().find(|it| it.type_ == TOKEN_ISSUED);
        let found = found.expect("a token");
        (
            found.status.clone(),
            found.reason.clone(),
            found.message.clone(),
        )
    };
    let living = plan(&good, 150);
    assert_eq!(token_ends(&living, at(150)), Some(at(200)));
    let (status, _, message) = is(&living);
    assert!(
        status == "True" && message.contains("mode: Plan"),
        "{message}"
    );
    let (status, reason, message) = is(&plan(&living, 200));
    assert_eq!((status.as_str(), reason.as_str()), ("False", "PlanOnly"));
    assert!(
        message.contains("ended at") && message.contains("mode: Plan"),
        "{message}"
    );
    // And from suspended to Plan and back, alive or not.
    for second in [150, 201] {
        let paused = suspended(&good, 2, at(second));
        let (_, _, message) = is(&paused);
        assert!(message.contains("spec.suspend"), "{message}");
        let planned = plan(&paused, second);
        let (_, _, message) = is(&planned);
        assert!(
            message.contains("mode: Plan") && !message.contains("suspend"),
            "{message}"
        );
        let (_, _, message) = is(&suspended(&planned, 2, at(second)));
        assert!(
            message.contains("spec.suspend") && !message.contains("Plan"),
            "{message}"
        );
    }
    assert_eq!(token_ends(&living, at(200)), None);
}
