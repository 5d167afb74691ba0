//! Adoption of any role, object ids from a `ConfigMap`, and the plan that is only shown.

use super::*;
use crate::api::SecretKeyRef;

const THIRD: &str = "33333333-3333-3333-3333-333333333333";

fn any() -> Desired {
    Desired {
        adoption: Adoption::Any,
        ..desired()
    }
}

fn unmarked(facts: RoleFacts) -> Observed {
    there(
        RoleFacts {
            comment: None,
            ..facts
        },
        None,
    )
}

fn plain() -> RoleFacts {
    RoleFacts {
        label: None,
        ..facts()
    }
}

fn is_adopted(steps: &[RoleStep], to: &str) -> bool {
    matches!(steps, [RoleStep::Label { object_id, admin: false, .. }, RoleStep::Mark(marker), RoleStep::ForgetPassword]
        if *object_id == id(to) && marker.contains(to))
}

// Red when: adopt() leaves out the label, the marker or the password, or takes `asked` from anywhere.
#[test]
fn any_role_is_adopted_by_the_label_and_loses_its_password() {
    for label in [
        None,
        Some(label(OTHER)),
        Some(EntraLabel {
            entra_type: "user".to_owned(),
            ..label(OTHER)
        }),
    ] {
        let found = unmarked(RoleFacts {
            label: label.clone(),
            ..facts()
        });
        let steps = steps(&any(), &found);
        assert!(is_adopted(&steps, OURS), "{label:?}: {steps:?}");
        assert!(
            !format!("{steps:?}").contains("asked"),
            "nothing of it counts as ours: {steps:?}"
        );
        let same = Desired {
            adoption: Adoption::SameIdentity,
            ..desired()
        };
        assert!(role(&same, &found).is_err(), "{label:?}");
    }
    // What bears the very identity keeps its label.
    let same = steps(&any(), &unmarked(facts()));
    assert!(
        matches!(&same[..], [RoleStep::Mark(_), RoleStep::ForgetPassword]),
        "{same:?}"
    );
}

#[test]
fn a_role_is_never_adopted_for_an_identity_that_nobody_knows() {
    let by_name = Desired {
        object_id: None,
        kind: PrincipalType::Group,
        ..any()
    };
    let refused = plan(&by_name, &unmarked(plain()), noon(), CLUSTER).role;
    let failure = refused.expect_err("no id");
    assert_eq!(failure.reason, Reason::RoleExists);
    assert!(failure.message.contains("principal.objectId"), "{failure}");
    let by_token = with_token(Desired {
        object_id: None,
        ..any()
    });
    assert_eq!(
        role(&by_token, &unmarked(plain())),
        Ok(RoleWork::AfterToken)
    );
    let told = Observed {
        token_object_id: Some(id(OTHER)),
        ..unmarked(plain())
    };
    let steps = steps(&by_token, &told);
    assert!(is_adopted(&steps, OTHER), "{steps:?}");
}

fn refusal(desired: &Desired, observed: &Observed) -> Failure {
    let refused = plan(desired, observed, noon(), CLUSTER).role;
    refused.expect_err("refused")
}

// Red when: take_over() or adopt() does not ask not_to_be_made_administrator(), or that does not look at
// the label.
#[test]
fn an_existing_role_is_not_made_an_administrator() {
    let boss = |desired: Desired| Desired {
        admin: true,
        ..desired
    };
    let gone = || there(facts(), Some(MarkerOwner::Gone));
    let refuses = |desired: Desired, found: Observed| {
        let failure = refusal(&boss(desired), &found);
        assert_eq!(failure.reason, Reason::RoleExists);
        assert!(
            failure.message.contains("not made an administrator"),
            "{failure}"
        );
    };
    refuses(any(), unmarked(plain()));
    refuses(any(), unmarked(facts()));
    refuses(desired(), unmarked(facts()));
    refuses(desired(), gone());
    refuses(any(), gone());
    // One that is an administrator already is taken over, and drift of our own is put back.
    let administrator = RoleFacts {
        label: Some(EntraLabel {
            admin: true,
            ..label(OURS)
        }),
        ..facts()
    };
    let left = there(administrator, Some(MarkerOwner::Gone));
    assert!(role(&boss(desired()), &left).is_ok());
    let drifted = steps(&boss(desired()), &there(facts(), Some(MarkerOwner::Us)));
    assert!(
        matches!(&drifted[..], [RoleStep::Label { admin: true, .. }]),
        "{drifted:?}"
    );
}

// Red when: how_to_adopt() advises by anything but what the role is now.
#[test]
fn the_advice_how_to_adopt_is_what_would_do() {
    let by_name = |desired: Desired| Desired {
        object_id: None,
        kind: PrincipalType::Group,
        ..desired
    };
    let by_token = with_token(Desired {
        object_id: None,
        ..desired()
    });
    let bound = |to: &str| {
        unmarked(RoleFacts {
            label: Some(label(to)),
            ..facts()
        })
    };
    let same = Desired {
        adoption: Adoption::SameIdentity,
        ..desired()
    };
    let advises = |desired: Desired, found: Observed, advice: &str| {
        let failure = refusal(&desired, &found);
        assert_eq!(failure.reason, Reason::RoleExists);
        assert!(failure.message.contains(advice), "{advice}: {failure}");
    };
    advises(desired(), bound(OURS), "set adoption: SameIdentity: it is");
    advises(
        desired(),
        bound(OTHER),
        "set adoption: Any: it is bound to another",
    );
    advises(
        desired(),
        unmarked(plain()),
        "set adoption: Any: it is not bound",
    );
    advises(
        same.clone(),
        unmarked(plain()),
        "set adoption: Any: it is not bound",
    );
    advises(
        by_name(same),
        unmarked(plain()),
        "set adoption: Any and principal.objectId: it is not bound",
    );
    advises(
        by_name(desired()),
        bound(OURS),
        "set adoption: SameIdentity and principal.objectId if it is",
    );
    advises(
        by_token.clone(),
        bound(OURS),
        "set adoption: SameIdentity if it is",
    );
    advises(
        by_token,
        unmarked(plain()),
        "set adoption: Any: it is not bound",
    );
}

// Red when: administrative() leaves out a right, or unprotected() says never of what may be.
#[test]
fn a_role_with_administrative_rights_is_refused_with_these_and_what_would_help() {
    let name = |name: &str| RoleName::parse(name).expect("a name");
    let facts = RoleFacts {
        privileged: true,
        attributes: Attributes {
            create_role: true,
            ..Attributes::default()
        },
        administrative: BTreeSet::from([name("between")]),
        ..plain()
    };
    let said = refusal(&any(), &unmarked(facts)).message;
    for words in [
        "REPLICATION",
        "CREATEROLE",
        "\"between\"",
        "tenants.roleNames",
        "literally",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("never"), "{said}");
}

// Red when: adopt() does not ask unprotected().
#[test]
fn adoption_of_any_role_stops_at_administrative_rights() {
    let boss = RoleFacts {
        label: Some(EntraLabel {
            admin: true,
            ..label(OTHER)
        }),
        ..facts()
    };
    let creator = RoleFacts {
        attributes: Attributes {
            create_role: true,
            ..Attributes::default()
        },
        ..plain()
    };
    let member = RoleFacts {
        administrative: BTreeSet::from([RoleName::parse("between").expect("a name")]),
        ..plain()
    };
    for (facts, if_literal) in [(boss, false), (creator, true), (member, true)] {
        for (literal, taken) in [(false, false), (true, if_literal)] {
            let allowance = Ok(Allowance {
                literal,
                ..Allowance::default()
            });
            let found = Observed {
                allowance,
                ..unmarked(facts.clone())
            };
            let work = role(&any(), &found);
            assert_eq!(work.is_ok(), taken, "{facts:?}: {work:?}");
            assert!(taken || work == Err(Reason::RoleProtected));
        }
    }
}

#[test]
fn a_role_of_another_object_is_never_adopted_and_one_left_behind_is() {
    for (owner, reason) in [
        (MarkerOwner::Other, Reason::RoleOwnedByOther),
        (MarkerOwner::OtherCluster, Reason::RoleOwnedByOtherCluster),
    ] {
        assert_eq!(role(&any(), &there(facts(), Some(owner))), Err(reason));
    }
    let another = RoleFacts {
        label: Some(label(OTHER)),
        ..facts()
    };
    let left = there(another, Some(MarkerOwner::Gone));
    assert_eq!(role(&desired(), &left), Err(Reason::ObjectIdMismatch));
    let steps = steps(&any(), &left);
    assert!(is_adopted(&steps, OURS), "{steps:?}");
    let privileged = RoleFacts {
        privileged: true,
        ..facts()
    };
    let left = there(privileged, Some(MarkerOwner::Gone));
    assert_eq!(role(&any(), &left), Err(Reason::RoleProtected));
}

fn from_map(rebind: Option<&str>) -> Desired {
    Desired {
        object_id: None,
        object_id_from: Some(SecretKeyRef {
            name: "identity".to_owned(),
            key: "principalId".to_owned(),
        }),
        rebind: rebind.map(str::to_owned),
        ..desired()
    }
}

fn reads(says: &str, observed: Observed) -> Observed {
    Observed {
        source: Some(Ok(id(says))),
        ..observed
    }
}

fn missing(observed: Observed) -> Observed {
    let missing = Failure::new(Class::Waiting, Reason::ObjectIdNotFound, "no ConfigMap");
    Observed {
        source: Some(Err(missing)),
        ..observed
    }
}

#[test]
fn the_first_object_id_of_a_config_map_is_used() {
    let made = steps(&from_map(None), &reads(THIRD, observed()));
    assert!(
        matches!(&made[..], [RoleStep::Create(new)] if new.object_id == Some(id(THIRD))),
        "{made:?}"
    );
    assert_eq!(
        role(&from_map(None), &missing(observed())),
        Err(Reason::ObjectIdNotFound)
    );
    // No token is asked for the id when a ConfigMap shall have it.
    let with_token = with_token(from_map(None));
    assert_eq!(
        role(&with_token, &missing(observed())),
        Err(Reason::ObjectIdNotFound)
    );
    let next = plan(&from_map(None), &reads(THIRD, observed()), noon(), CLUSTER).next_look;
    assert_eq!(next, Some(noon() + minutes(10)));
}

// Red when: declared() follows the ConfigMap without consent, by the status or by the marker; or does not
// look whether the consent is for this very id.
#[test]
fn a_changed_config_map_binds_a_role_anew_only_by_consent() {
    let mut lost_status = there(facts(), Some(MarkerOwner::Us));
    lost_status.record = Record::default();
    for bound in [there(facts(), Some(MarkerOwner::Us)), lost_status] {
        let found = reads(OTHER, bound);
        let decided = plan(&from_map(None), &found, noon(), CLUSTER).role;
        let Ok(RoleWork::Steps(kept)) = decided else {
            panic!("{decided:?}");
        };
        assert!(kept.is_empty(), "{kept:?}");
        let [problem] = &kept.problems[..] else {
            panic!("{kept:?}");
        };
        assert_eq!(problem.reason, Reason::ObjectIdMismatch);
        for words in [
            "ConfigMap orders/identity",
            OURS,
            OTHER,
            &format!("entrapostgres.io/rebind: {OTHER}"),
        ] {
            assert!(problem.message.contains(words), "{words}: {problem}");
        }
        // What is no consent is told, whatever it is.
        for wrong in [THIRD, "zzz"] {
            let decided = plan(&from_map(Some(wrong)), &found, noon(), CLUSTER).role;
            let Ok(RoleWork::Steps(kept)) = decided else {
                panic!("{decided:?}");
            };
            let said = &kept.problems[0].message;
            assert!(
                said.ends_with(&format!("it is {wrong:?} now, which is no consent to this")),
                "{said}"
            );
        }
        assert!(!problem.message.contains("no consent"), "{problem}");
        let of_another = steps_and_problems(&from_map(Some(THIRD)), &found);
        assert_eq!(of_another, (Vec::new(), vec![Reason::ObjectIdMismatch]));
        let (steps, problems) = steps_and_problems(&from_map(Some(OTHER)), &found);
        assert!(
            matches!(&steps[..], [RoleStep::Label { object_id, .. }, RoleStep::Mark(_)] if *object_id == id(OTHER)),
            "{steps:?}"
        );
        assert_eq!(problems, []);
    }
}

#[test]
fn a_role_that_is_bound_is_kept_while_its_config_map_is_missing() {
    let drifted = RoleFacts {
        label: None,
        ..facts()
    };
    let found = missing(there(drifted, Some(MarkerOwner::Us)));
    let (steps, problems) = steps_and_problems(&from_map(None), &found);
    assert!(
        matches!(&steps[..], [RoleStep::Label { object_id, .. }] if *object_id == id(OURS)),
        "{steps:?}"
    );
    assert_eq!(problems, [Reason::ObjectIdNotFound]);
}

// Red when: plan() gives mode Plan a token step or Secrets to delete.
#[test]
fn what_is_only_shown_touches_no_token_and_no_secret() {
    let shown = with_token(Desired {
        plan_only: true,
        ..desired()
    });
    let due = Observed {
        secret: secret(Content::Intact(record(-45, 15))),
        secrets: BTreeSet::from(["before".to_owned()]),
        ..observed()
    };
    let Plan {
        role,
        token,
        discard,
        next_look,
    } = plan(&shown, &due, noon(), CLUSTER);
    assert!(matches!(role, Ok(RoleWork::Steps(steps)) if !steps.is_empty()));
    assert_eq!(
        (token, discard, next_look),
        (Ok(None), BTreeSet::new(), None)
    );
}

// Red when: role_work() does not look at server_ends, or has_role() is always false.
#[test]
fn a_server_that_ends_gives_nobody_a_role_and_keeps_those_that_are_there() {
    let ends = crate::model::ending::no_new_role(&desired().server);
    let ending = |observed: Observed| Observed {
        server_ends: Some(ends.clone()),
        ..observed
    };
    let from_token = Desired {
        object_id: None,
        ..with_token(desired())
    };
    let adopting = any();
    let gone = Some(MarkerOwner::Gone);
    for (desired, observed) in [
        (&desired(), observed()),
        (&from_token, observed()),
        (&adopting, unmarked(plain())),
        (&desired(), there(facts(), gone)),
    ] {
        assert!(role(desired, &observed).is_ok());
        assert_eq!(
            role(desired, &ending(observed)),
            Err(Reason::ServerNotReady)
        );
    }
    // Its role was dropped by somebody: that is an end, too.
    let dropped = Observed {
        role: Look::Known(None),
        ..there(facts(), Some(MarkerOwner::Us))
    };
    assert!(role(&desired(), &ending(dropped)).is_err());
    let us = Some(MarkerOwner::Us);
    for kept in [there(facts(), us), unreported(facts())] {
        assert_eq!(steps(&desired(), &ending(kept)), []);
    }
    let drifted = RoleFacts {
        label: None,
        ..facts()
    };
    assert!(!steps(&desired(), &ending(there(drifted, us))).is_empty());
    // A renewal goes on.
    let observed = Observed {
        secret: secret(Content::Intact(record(-60, 1))),
        ..there(facts(), us)
    };
    let plan = plan(&with_token(desired()), &ending(observed), noon(), CLUSTER);
    assert!(matches!(plan.token, Ok(Some(TokenStep::Renew { .. }))));
}

// Red when: claim() does not ask is_of(): a comment can be copied to a role that somebody made under
// the name of ours, whose password they know.
#[test]
fn a_marker_that_was_copied_to_another_role_is_none() {
    let copied = RoleFacts {
        oid: 2,
        label: None,
        ..facts()
    };
    let observed = there(copied.clone(), Some(MarkerOwner::Us));
    assert_eq!(role(&desired(), &observed), Err(Reason::RoleExists));
    let any = Desired {
        adoption: Adoption::Any,
        object_id: Some(id(OURS)),
        ..desired()
    };
    assert!(steps(&any, &observed).contains(&RoleStep::ForgetPassword));
    // A role that was restored with its label is ours as the status says, and is marked anew.
    let restored = RoleFacts { oid: 2, ..facts() };
    let observed = there(restored, Some(MarkerOwner::Us));
    let expected = facts().comment.unwrap_or_default();
    let expected = expected.replace("\"roleOid\":\"1\"", "\"roleOid\":\"2\"");
    assert_eq!(steps(&desired(), &observed), [RoleStep::Mark(expected)]);
}

// Red when: claim() asks is_of() of every marker: pg_dumpall brings comments to roles with other oids.
#[test]
fn a_migrated_role_is_still_another_owners() {
    let migrated = RoleFacts { oid: 2, ..facts() };
    for (owner, reason) in [
        (MarkerOwner::Other, Some(Reason::RoleOwnedByOther)),
        (
            MarkerOwner::OtherCluster,
            Some(Reason::RoleOwnedByOtherCluster),
        ),
        // Nobody else is left to claim it.
        (MarkerOwner::Gone, None),
        (MarkerOwner::FormerCluster, None),
    ] {
        let observed = there(migrated.clone(), Some(owner));
        assert_eq!(role(&any(), &observed).err(), reason, "{owner:?}");
        // What it had asked for is not taken over: only adoption makes it ours.
        let refused = role(&desired(), &observed).err();
        assert_eq!(refused, reason.or(Some(Reason::RoleExists)), "{owner:?}");
    }
}

// Red when: unprotected() lets a role with CREATEROLE be adopted because that is declared.
#[test]
fn declaring_createrole_is_no_leave_to_adopt_who_has_it() {
    let mut facts = RoleFacts {
        comment: None,
        ..facts()
    };
    facts.attributes.create_role = true;
    let mut wants = Desired {
        adoption: Adoption::Any,
        object_id: Some(id(OURS)),
        ..desired()
    };
    wants.attributes.create_role = Some(true);
    let observed = there(facts, None);
    assert_eq!(role(&wants, &observed), Err(Reason::RoleProtected));
}
