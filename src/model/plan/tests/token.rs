//! The token's half: when it is issued, renewed, repaired, and when it is not.

use std::time::Duration;

use jiff::SignedDuration;

use super::super::{due, is_due};
use super::*;

fn token(secret: Look<SecretFacts>) -> (Result<Option<TokenStep>, Reason>, Option<Timestamp>) {
    let observed = Observed {
        secret,
        ..there(facts(), Some(MarkerOwner::Us))
    };
    let Plan {
        token, next_look, ..
    } = plan(&with_token(desired()), &observed, noon(), CLUSTER);
    (token.map_err(|failure| failure.reason), next_look)
}

#[test]
fn a_token_is_issued_renewed_or_repaired_as_its_secret_needs() {
    let good = record(-10, 50);
    let due = record(-45, 15);
    let expires = Some(due.expires_at);
    for (content, step) in [
        (Content::Intact(good.clone()), None),
        (Content::Differs(good), Some(TokenStep::Repair)),
        (
            Content::Intact(due.clone()),
            Some(TokenStep::Renew { expires }),
        ),
        (Content::Differs(due), Some(TokenStep::Renew { expires })),
        (Content::Broken, Some(TokenStep::Renew { expires: None })),
    ] {
        assert_eq!(token(secret(content.clone())).0, Ok(step), "{content:?}");
    }
    assert_eq!(token(Look::Known(None)).0, Ok(Some(TokenStep::Issue)));
    let (_, next) = token(secret(Content::Intact(record(-10, 50))));
    assert!(
        next.is_some_and(|next| next > noon() && next < noon() + minutes(50)),
        "{next:?}"
    );
}

#[test]
fn secrets_of_ours_that_are_declared_no_more_are_deleted() {
    let observed = Observed {
        secrets: BTreeSet::from(["api".to_owned(), "before".to_owned()]),
        ..there(facts(), Some(MarkerOwner::Us))
    };
    let discarded =
        |desired: &Desired, observed: &Observed| plan(desired, observed, noon(), CLUSTER).discard;
    let renamed = discarded(&with_token(desired()), &observed);
    assert_eq!(renamed, BTreeSet::from(["before".to_owned()]));
    assert_eq!(discarded(&desired(), &observed), observed.secrets);
    let suspended = Desired {
        suspend: true,
        ..desired()
    };
    assert!(discarded(&suspended, &observed).is_empty());
    let forbidden = Observed {
        allowance: Err(Failure::new(Class::Denied, Reason::NamespaceNotAllowed, "")),
        ..observed
    };
    assert!(discarded(&desired(), &forbidden).is_empty());
}

#[test]
fn nothing_newer_to_get_does_not_keep_a_lost_token_lost() {
    let hold = Hold {
        refused: Vec::new(),
        until: Some(noon() + minutes(60)),
        failure: None,
    };
    let step = |content: Option<Content>| {
        let observed = Observed {
            secret: content.map_or(Look::Known(None), secret),
            token_hold: Some(hold.clone()),
            ..observed()
        };
        plan(&with_token(desired()), &observed, noon(), CLUSTER)
            .token
            .expect("no failure")
    };
    assert_eq!(step(Some(Content::Intact(record(-50, 10)))), None);
    assert_eq!(step(None), Some(TokenStep::Issue));
    assert_eq!(
        step(Some(Content::Broken)),
        Some(TokenStep::Renew { expires: None })
    );
    // Another format does not wait for a newer token, but for no other identity's.
    let differs = Content::Differs(record(-50, 10));
    assert_eq!(step(Some(differs)), Some(TokenStep::Repair));
    let another = TokenRecord {
        identity: "another".to_owned(),
        ..record(-50, 10)
    };
    let anew = Some(TokenStep::Renew { expires: None });
    assert_eq!(step(Some(Content::Differs(another))), anew);
}

#[test]
fn what_cannot_be_written_is_said_before_a_token_is_asked_for() {
    for record in [None, Some(record(-50, 10)), Some(record(-10, 50))] {
        let (step, _) = token(secret(Content::Immutable(record)));
        assert_eq!(step, Err(Reason::SecretImmutable));
    }
    let mut desired = with_token(desired());
    let wanted = desired.token.as_mut().expect("a token");
    wanted.layout = Err(Failure::new(Class::Invalid, Reason::TemplateInvalid, ""));
    for facts in [Look::Known(None), secret(Content::Broken)] {
        let observed = Observed {
            secret: facts,
            ..there(self::facts(), Some(MarkerOwner::Us))
        };
        let plan = plan(&desired, &observed, noon(), CLUSTER);
        let refused = plan.token.expect_err("refused");
        assert_eq!(refused.reason, Reason::TemplateInvalid);
        assert!(plan.role.is_ok(), "the role is another half");
    }
}

// Red when: `is_asked_for` does not compare with what the Secret remembers.
#[test]
fn a_new_value_of_the_annotation_renews_once() {
    let ask = |asked: Option<&str>, obeyed: Option<&str>| {
        let desired = Desired {
            renew: asked.map(str::to_owned),
            ..with_token(desired())
        };
        let record = TokenRecord {
            renewed: obeyed.map(str::to_owned),
            ..record(-10, 50)
        };
        let observed = Observed {
            secret: secret(Content::Intact(record)),
            ..there(facts(), Some(MarkerOwner::Us))
        };
        let step = plan(&desired, &observed, noon(), CLUSTER).token;
        step.expect("no failure").is_some()
    };
    assert!(ask(Some("now"), None));
    assert!(ask(Some("again"), Some("now")));
    assert!(!ask(Some("now"), Some("now")));
    assert!(!ask(None, Some("now")));
}

// Red when: `asked_for` obeys each value at once: who sets it in a loop asks Entra in a loop.
#[test]
fn who_asks_again_and_again_is_obeyed_every_ten_seconds() {
    let desired = Desired {
        renew: Some("again".to_owned()),
        ..with_token(desired())
    };
    let record = |renewed: Option<&str>| TokenRecord {
        renewed: renewed.map(str::to_owned),
        ..record(0, 60)
    };
    let seconds = SignedDuration::from_secs;
    let due = |renewed, after| is_due(&desired, &record(renewed), noon() + seconds(after));
    assert!(due(None, 0), "the first at once");
    assert!(!due(Some("now"), 9));
    assert!(due(Some("now"), 10));
}

// Red when: `is_newer` compares only ends, so that a wish is taken for obeyed and nothing is written.
#[test]
fn who_asks_for_a_new_token_gets_it_although_it_ends_sooner() {
    let present = TokenRecord {
        sha256: "present".to_owned(),
        ..record(-10, 80)
    };
    let newer = |sha256, end, asked| is_newer(sha256, noon() + minutes(end), &present, asked);
    assert!(newer("new", 60, true));
    assert!(!newer("new", 60, false), "never older over newer");
    assert!(!newer("present", 80, true), "the back end keeps it");
    assert!(!newer("new", 80, false));
    assert!(newer("new", 81, false));
}

#[test]
fn a_published_token_that_was_not_tried_is_tried_until_it_has_signed_in() {
    let step = |verify, verified, until: Option<i64>| {
        let mut desired = with_token(desired());
        if let Some(token) = &mut desired.token {
            token.verify = verify;
        }
        let hold = until.map(|until| Hold {
            until: Some(noon() + minutes(until)),
            failure: None,
            refused: Vec::new(),
        });
        let observed = Observed {
            secret: secret(Content::Intact(record(-10, 50))),
            login: Login { verified, hold },
            ..there(facts(), Some(MarkerOwner::Us))
        };
        let decided = plan(&desired, &observed, noon(), CLUSTER);
        (decided.token.expect("no failure"), decided.next_look)
    };
    let due = step(VerifyLogin::Never, false, None).1;
    for (verify, verified, until, expected) in [
        (VerifyLogin::Never, false, None, None),
        (VerifyLogin::FirstIssue, true, None, None),
        (
            VerifyLogin::FirstIssue,
            false,
            None,
            Some(TokenStep::Verify),
        ),
        (VerifyLogin::FirstIssue, false, Some(1), None),
        (
            VerifyLogin::Always,
            false,
            Some(-1),
            Some(TokenStep::Verify),
        ),
    ] {
        let (decided, next) = step(verify, verified, until);
        assert_eq!(decided, expected, "{verify:?} {verified} {until:?}");
        let rests = until
            .filter(|until| *until > 0)
            .map(|until| noon() + minutes(until));
        assert_eq!(next, rests.or(due));
    }
}

#[test]
fn another_identity_in_the_spec_is_asked_at_once() {
    let before = TokenRecord {
        identity: "another".to_owned(),
        ..record(-10, 50)
    };
    let anew = Ok(Some(TokenStep::Renew { expires: None }));
    assert_eq!(token(secret(Content::Intact(before.clone()))).0, anew);
    assert_eq!(token(secret(Content::Differs(before))).0, anew);
}

#[test]
fn a_secret_of_somebody_else_or_of_unknown_state_is_not_written() {
    for (namesake, class) in [(false, Class::Denied), (true, Class::Waiting)] {
        let mut foreign = secret(Content::Broken);
        if let Look::Known(Some(facts)) = &mut foreign {
            facts.controller = Some("another uid".to_owned());
            facts.namesake = namesake;
        }
        assert_eq!(token(foreign.clone()).0, Err(Reason::SecretNotOurs));
        let Look::Known(Some(facts)) = foreign else {
            panic!("it is known");
        };
        assert_eq!(not_ours(&desired(), "api", &facts).class, class);
    }
    let cause = Failure::new(Class::Transient, Reason::ApiError, "");
    assert_eq!(token(Look::Unknown(cause)).0, Err(Reason::ApiError));
}

// Red when: wanted() takes a Secret without an owner for somebody else's whatever its record says, as
// 6b177e6 did; or keeps the token that it has.
#[test]
fn a_secret_that_lost_its_owner_gets_a_new_token_and_that_of_others_is_left() {
    for (orphan, expected) in [
        (true, Ok(Some(TokenStep::Issue))),
        (false, Err(Reason::SecretNotOurs)),
    ] {
        let mut lost = secret(Content::Broken);
        if let Look::Known(Some(facts)) = &mut lost {
            facts.controller = None;
            facts.holder = None;
            facts.namesake = false;
            facts.orphan = orphan;
        }
        assert_eq!(token(lost).0, expected, "{orphan}");
    }
}

// Red when: secret_not_ours() tells to delete what has no owner, or names no kind.
#[test]
fn a_secret_of_somebody_else_is_named_with_whom_it_belongs_to() {
    for (holder, words) in [
        (
            None,
            "no owner reference that is ours: choose another token.secret.name, or delete it if nobody needs it",
        ),
        (
            Some("Deployment web"),
            "it belongs to Deployment web: choose another token.secret.name",
        ),
    ] {
        let mut foreign = secret(Content::Broken);
        if let Look::Known(Some(facts)) = &mut foreign {
            facts.controller = holder.map(|_| "another uid".to_owned());
            facts.holder = holder.map(str::to_owned);
            facts.namesake = false;
        }
        let Look::Known(Some(facts)) = foreign else {
            panic!("it is known");
        };
        let said = not_ours(&desired(), "api", &facts).message;
        assert!(
            said.starts_with("Secret orders/api exists") && said.contains(words),
            "{said}"
        );
        assert_eq!(said.contains("delete"), holder.is_none(), "{said}");
    }
}

#[test]
fn a_database_outage_does_not_stop_a_renewal() {
    let cause = Failure::new(Class::Transient, Reason::ServerUnreachable, "");
    let observed = Observed {
        role: Look::Unknown(cause),
        secret: secret(Content::Intact(record(-45, 15))),
        ..observed()
    };
    let decided = plan(&with_token(desired()), &observed, noon(), CLUSTER);
    assert!(matches!(decided.token, Ok(Some(TokenStep::Renew { .. }))));
}

#[test]
fn a_suspended_principal_is_left_alone() {
    let suspended = Desired {
        suspend: true,
        ..with_token(desired())
    };
    let Plan {
        role,
        token,
        next_look,
        discard: _,
    } = plan(&suspended, &observed(), noon(), CLUSTER);
    assert_eq!(role.map_err(|f| f.reason), Err(Reason::Suspended));
    assert_eq!(token.map_err(|f| f.reason), Err(Reason::Suspended));
    assert_eq!(next_look, None);
}

// Red when: `could_publish` lets Entra be asked for what could not be written.
#[test]
fn no_token_is_asked_for_that_could_not_be_published() {
    let nobody = BTreeMap::new();
    let ours = id(OURS);
    let away = Failure::new(Class::Transient, Reason::ServerUnreachable, "");
    let known = Look::Known(None);
    let could = |ca: &Look<String>, holders, published| {
        could_publish(&desired(), ca, holders, published).map_err(|failure| failure.class)
    };
    assert_eq!(could(&known, Some(&nobody), None), Ok(()));
    assert_eq!(could(&known, None, Some(&ours)), Ok(()));
    assert_eq!(could(&known, None, None), Err(Class::Waiting));
    let unknown = Look::Unknown(away);
    assert_eq!(
        could(&unknown, Some(&nobody), Some(&ours)),
        Err(Class::Transient)
    );
}

#[test]
fn only_the_principals_own_token_is_published() {
    let nobody = BTreeMap::new();
    let administrators = BTreeMap::from([(
        id(OTHER),
        Holder::new(RoleName::parse("pg-operators").expect("a name"), true),
    )]);
    let (ours, other) = (id(OURS), id(OTHER));
    let group = Desired {
        kind: PrincipalType::Group,
        ..desired()
    };
    let by_token = with_token(Desired {
        object_id: None,
        ..desired()
    });
    let publish = |desired: &Desired, token, holders, published| {
        let publication = Publication {
            token,
            role: Some(&ours),
            holders,
            published,
        };
        check(desired, publication).map_err(|failure| failure.reason)
    };
    for (desired, token, holders, published, expected) in [
        (&desired(), &ours, Some(&nobody), None, Ok(())),
        (
            &desired(),
            &other,
            Some(&nobody),
            None,
            Err(Reason::TokenOfAnother),
        ),
        (
            &by_token,
            &other,
            Some(&nobody),
            None,
            Err(Reason::ObjectIdMismatch),
        ),
        (
            &desired(),
            &other,
            Some(&administrators),
            None,
            Err(Reason::TokenOfAdministrator),
        ),
        (&group, &other, Some(&nobody), None, Ok(())),
        (
            &group,
            &other,
            Some(&administrators),
            None,
            Err(Reason::TokenOfAdministrator),
        ),
        (&group, &other, None, None, Err(Reason::ServerUnreachable)),
        (&group, &other, None, Some(&other), Ok(())),
    ] {
        assert_eq!(publish(desired, token, holders, published), expected);
    }
}

// Red when: `due` counts from the end that Entra's clock says: on a node whose clock lags, tokens are
// renewed when they have ended.
#[test]
fn a_clock_that_is_wrong_by_ten_minutes_lets_no_token_end() {
    for life in [5, 10, 60] {
        for skew in [-10, 0, 10] {
            for before in [None, Some(1), Some(4)] {
                let mut desired = with_token(desired());
                if let (Some(token), Some(before)) = (&mut desired.token, before) {
                    token.renew = Renew::Before(Duration::from_secs(60 * before));
                }
                // At noon by Entra's clock.
                let record = TokenRecord {
                    lives: Some(minutes(life)),
                    ..record(skew, life)
                };
                let due = due(&desired, &record).expect("a time");
                let truly = due - minutes(skew);
                assert!(
                    truly < noon() + minutes(life),
                    "{life} minutes, {skew}, {before:?}: renewed at {truly}"
                );
            }
        }
    }
}

// Red when: token_work() returns at an allowance that nobody could look up, or lets more than a renewal pass.
#[test]
fn a_renewal_goes_on_while_nobody_can_say_what_is_allowed() {
    let step = |class, content: Option<Content>| {
        let secret = content.map_or(Look::Known(None), secret);
        let failure = Failure::new(class, Reason::ApiError, "the namespace cannot be read");
        let observed = Observed {
            allowance: Err(failure),
            secret,
            ..there(facts(), Some(MarkerOwner::Us))
        };
        plan(&with_token(desired()), &observed, noon(), CLUSTER).token
    };
    let due = || Some(Content::Intact(record(-50, 10)));
    let renewed = step(Class::Transient, due()).expect("goes on");
    assert!(matches!(
        renewed,
        Some(TokenStep::Renew { expires: Some(_) })
    ));
    let good = Content::Intact(record(-10, 50));
    assert_eq!(step(Class::Transient, Some(good)), Ok(None));
    assert!(step(Class::Transient, None).is_err(), "a first token");
    assert!(step(Class::Transient, Some(Content::Broken)).is_err());
    assert!(step(Class::Denied, due()).is_err());
}

// Red when: is_due() believes that a token came in the future.
#[test]
fn a_beginning_in_the_future_is_nobodys() {
    let desired = with_token(desired());
    assert!(is_due(&desired, &record(50, 60), noon()));
    assert!(!is_due(&desired, &record(1, 60), noon()));
}
