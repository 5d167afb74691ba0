//! A role that is not there, is as declared, or has drifted; an identity has one role.

use super::*;

#[test]
fn nothing_is_done_when_the_role_is_as_declared() {
    let Plan {
        role,
        token,
        discard,
        next_look,
    } = plan(
        &desired(),
        &there(facts(), Some(MarkerOwner::Us)),
        noon(),
        CLUSTER,
    );
    assert_eq!(
        (role, token, next_look),
        (Ok(RoleWork::Steps(Steps::default())), Ok(None), None)
    );
    assert!(discard.is_empty());
}

#[test]
fn an_absent_role_is_made_and_an_unknown_one_is_not() {
    let steps = steps(&desired(), &observed());
    assert!(
        matches!(&steps[..], [RoleStep::Create(new)] if new.object_id == Some(id(OURS))),
        "{steps:?}"
    );
    let cause = Failure::new(Class::Transient, Reason::ServerUnreachable, "");
    let unknown = Observed {
        role: Look::Unknown(cause),
        ..observed()
    };
    assert_eq!(role(&desired(), &unknown), Err(Reason::ServerUnreachable));
}

#[test]
fn the_first_object_id_decides_when_a_role_is_made_again() {
    let by_name = Desired {
        object_id: None,
        ..desired()
    };
    let record = Record {
        object_id: Some(id(OTHER)),
        adopted: false,
    };
    let again = steps(
        &by_name,
        &Observed {
            record,
            ..observed()
        },
    );
    assert!(matches!(&again[..], [RoleStep::Create(new)] if new.object_id == Some(id(OTHER))));
    let first = steps(&by_name, &observed());
    assert!(
        matches!(&first[..], [RoleStep::Create(new)] if new.object_id.is_none() && new.marker.contains("{objectId}"))
    );
}

#[test]
fn an_application_with_a_token_is_never_looked_up_by_name() {
    let application = with_token(Desired {
        object_id: None,
        ..desired()
    });
    assert_eq!(role(&application, &observed()), Ok(RoleWork::AfterToken));
    let known = Observed {
        token_object_id: Some(id(OTHER)),
        ..observed()
    };
    let steps = steps(&application, &known);
    assert!(matches!(&steps[..], [RoleStep::Create(new)] if new.object_id == Some(id(OTHER))));
    let group = Desired {
        kind: PrincipalType::Group,
        ..application
    };
    assert!(matches!(role(&group, &observed()), Ok(RoleWork::Steps(_))));
}

#[test]
fn an_identity_has_one_role_on_a_server() {
    for admin in [true, false] {
        let holder = Holder::new(name("elsewhere"), admin);
        let holders = Some(BTreeMap::from([(id(OURS), holder)]));
        let taken = Observed {
            holders,
            ..observed()
        };
        assert_eq!(role(&desired(), &taken), Err(Reason::IdentityInUse));
    }
}

// Red when: how_to_free() does not say what would help, or not_in_use() asks it about nobody.
#[test]
fn an_identity_in_use_comes_with_how_it_is_freed() {
    let owner = ObjectKey::new("orders", "reports");
    for (made_for, words) in [
        (None, "; remove that role, or declare"),
        (
            Some(MarkerOwner::Other),
            "that of EntraPostgresPrincipal orders/reports: declare there",
        ),
        (
            Some(MarkerOwner::Gone),
            "reports, which is gone: make that object again with this roleName and deletionPolicy: Drop and \
             delete it, or as a database administrator DROP ROLE \"else\"\"where\",",
        ),
        (
            Some(MarkerOwner::OtherCluster),
            "reports of another cluster",
        ),
    ] {
        let holder = Holder::new(name("else\"where"), false);
        let made_for = made_for.map(|owner_is| (id(OURS), (owner.clone(), owner_is)));
        let taken = Observed {
            holders: Some(BTreeMap::from([(id(OURS), holder)])),
            made_for: made_for.into_iter().collect(),
            ..observed()
        };
        let refused = plan(&desired(), &taken, noon(), CLUSTER).role;
        let said = refused.expect_err("in use").message;
        assert!(said.contains(words), "{words}: {said}");
        assert!(said.ends_with("or declare another principal"), "{said}");
    }
}

#[test]
fn drift_of_the_label_is_put_back() {
    let expected = |steps: &[RoleStep]| matches!(steps, [RoleStep::Label { object_id, .. }] if *object_id == id(OURS));
    let mut cases = vec![None, Some(label(OTHER))];
    for change in [
        EntraLabel {
            admin: true,
            ..label(OURS)
        },
        EntraLabel {
            entra_type: "user".to_owned(),
            ..label(OURS)
        },
    ] {
        cases.push(Some(change));
    }
    for drifted in cases {
        let steps = steps(
            &desired(),
            &there(
                RoleFacts {
                    label: drifted.clone(),
                    ..facts()
                },
                Some(MarkerOwner::Us),
            ),
        );
        assert!(expected(&steps), "{drifted:?}: {steps:?}");
    }
}

#[test]
fn a_changed_object_id_in_the_spec_is_the_consent_to_bind_anew() {
    let consent = Desired {
        object_id: Some(id(OTHER)),
        ..desired()
    };
    let steps = steps(&consent, &there(facts(), Some(MarkerOwner::Us)));
    assert!(
        matches!(&steps[..], [RoleStep::Label { object_id, .. }, RoleStep::Mark(marker)]
            if *object_id == id(OTHER) && marker.contains(OTHER)),
        "{steps:?}"
    );
}

// Red when: keep() does not ask may_be_bound(), or that does not ask gave_all() or the allowance.
#[test]
fn consent_does_not_hand_rights_that_others_gave_to_another_identity() {
    let creator = Attributes {
        create_role: true,
        ..Attributes::default()
    };
    let member = BTreeMap::from([(name("pg_monitor"), BTreeSet::new())]);
    let consent = Desired {
        object_id: Some(id(OTHER)),
        ..desired()
    };
    let marked = |asked: Asked| Marker {
        asked,
        ..Marker::parse(&facts().comment.unwrap_or_default()).expect("a marker")
    };
    let gave = Asked {
        attributes: BTreeSet::from(["createRole".to_owned()]),
        member_of: BTreeSet::from(["pg_monitor".to_owned()]),
        ..Asked::default()
    };
    for grown in [
        RoleFacts {
            attributes: creator,
            ..facts()
        },
        RoleFacts {
            administrative: BTreeSet::from([name("pg_monitor")]),
            memberships: member,
            ..facts()
        },
    ] {
        let found = |facts: &RoleFacts, literal| Observed {
            allowance: Ok(Allowance {
                literal,
                ..Allowance::default()
            }),
            ..there(facts.clone(), Some(MarkerOwner::Us))
        };
        assert_eq!(
            role(&consent, &found(&grown, false)),
            Err(Reason::RoleProtected)
        );
        assert!(role(&consent, &found(&grown, true)).is_ok());
        // Whose it is keeps it, with a label that somebody took away too.
        assert!(role(&desired(), &found(&grown, false)).is_ok());
        let bare = RoleFacts {
            label: None,
            ..grown.clone()
        };
        assert!(role(&desired(), &found(&bare, false)).is_ok());
        assert_eq!(
            role(&consent, &found(&bare, false)),
            Err(Reason::RoleProtected)
        );
        let by_us = RoleFacts {
            comment: Some(marked(gave.clone()).to_comment()),
            ..grown
        };
        assert!(role(&consent, &found(&by_us, false)).is_ok());
    }
}

#[test]
fn what_the_server_does_not_give_stops_both_halves() {
    let refusal = Failure::new(Class::Denied, Reason::NotAllowedByServer, "");
    let refused = Observed {
        allowance: Err(refusal),
        ..observed()
    };
    let Plan { role, token, .. } = plan(&with_token(desired()), &refused, noon(), CLUSTER);
    assert_eq!(role.map_err(|f| f.reason), Err(Reason::NotAllowedByServer));
    assert_eq!(token.map_err(|f| f.reason), Err(Reason::NotAllowedByServer));
}

#[test]
fn a_failed_step_rests_and_what_needs_no_step_does_not() {
    let failure = Failure::new(Class::Denied, Reason::PrincipalNotFound, "");
    let until = noon() + minutes(1);
    let hold = Some(Hold {
        until: Some(until),
        failure: Some(failure),
        refused: Vec::new(),
    });
    let resting = Observed {
        role_hold: hold.clone(),
        ..observed()
    };
    let decided = plan(&desired(), &resting, noon(), CLUSTER);
    assert_eq!(
        decided.role.map_err(|f| f.reason),
        Err(Reason::PrincipalNotFound)
    );
    assert_eq!(decided.next_look, Some(until));
    let right = Observed {
        role_hold: hold,
        ..there(facts(), Some(MarkerOwner::Us))
    };
    assert_eq!(steps(&desired(), &right), []);
    let later = plan(&desired(), &resting, until, CLUSTER);
    assert!(later.role.is_ok());
}
