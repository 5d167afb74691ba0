//! Whose a role is that is there: what its marker, its label and the status say together.

use super::*;

// Red when: keep() opens a role that a DBA closed, or obeys one value of the annotation twice.
#[test]
fn nologin_set_by_a_dba_stays_until_the_annotation_gets_a_new_value() {
    let closed = |comment: Option<String>| {
        let facts = RoleFacts {
            can_login: false,
            comment,
            ..facts()
        };
        there(facts, Some(MarkerOwner::Us))
    };
    let stays = (Vec::new(), vec![Reason::LoginDisabledOnServer]);
    let found = closed(facts().comment);
    assert_eq!(steps_and_problems(&desired(), &found), stays);
    // The server's owner lets the annotation count, or sets that of the server.
    let annotated = |value: &str, found: &Observed| {
        let allowance = Allowance {
            restore: Some(value.to_owned()),
            ..Allowance::default()
        };
        let found = Observed {
            allowance: Ok(allowance),
            ..found.clone()
        };
        steps_and_problems(&desired(), &found)
    };
    let (steps, problems) = annotated("1", &found);
    let [RoleStep::Mark(obeyed), RoleStep::Open] = &steps[..] else {
        panic!("{steps:?}");
    };
    assert_eq!(problems, []);
    // Closed again: the same value says nothing any more, another one does.
    let again = closed(Some(obeyed.clone()));
    assert_eq!(annotated("1", &again), stays);
    let (steps, _) = annotated("2", &again);
    assert!(steps.contains(&RoleStep::Open), "{steps:?}");
    // Obeyed while it was open: used up, too.
    let open = there(facts(), Some(MarkerOwner::Us));
    let (steps, _) = annotated("1", &open);
    let [RoleStep::Mark(seen)] = &steps[..] else {
        panic!("{steps:?}");
    };
    let later = closed(Some(seen.clone()));
    assert_eq!(annotated("1", &later), stays);
}

// Red when: a role without label whose marker names us is kept although no status speaks of it.
#[test]
fn a_marker_alone_does_not_make_a_role_ours() {
    let forged = RoleFacts {
        label: None,
        ..facts()
    };
    let found = unreported(forged);
    assert_eq!(role(&desired(), &found), Err(Reason::RoleExists));
    let bears = unreported(facts());
    assert_eq!(steps(&desired(), &bears), []);
}

#[test]
fn a_marked_role_is_its_owners() {
    for (owner, reason) in [
        (MarkerOwner::Other, Reason::RoleOwnedByOther),
        (MarkerOwner::OtherCluster, Reason::RoleOwnedByOtherCluster),
    ] {
        for adoption in [Adoption::Refuse, Adoption::SameIdentity] {
            let desired = Desired {
                adoption,
                ..desired()
            };
            assert_eq!(role(&desired, &there(facts(), Some(owner))), Err(reason));
        }
    }
}

#[test]
fn a_role_whose_object_is_gone_is_taken_over_by_the_same_identity_only() {
    for owner in [MarkerOwner::Gone, MarkerOwner::FormerCluster] {
        let taken = steps(&desired(), &there(facts(), Some(owner)));
        assert!(matches!(&taken[..], [RoleStep::Mark(_)]), "{taken:?}");
        for (bound, wanted) in [
            (Some(label(OTHER)), OURS),
            (Some(label(OURS)), OTHER),
            (None, OURS),
        ] {
            let desired = Desired {
                object_id: Some(id(wanted)),
                ..desired()
            };
            let observed = there(
                RoleFacts {
                    label: bound,
                    ..facts()
                },
                Some(owner),
            );
            assert_eq!(role(&desired, &observed), Err(Reason::ObjectIdMismatch));
        }
    }
}

#[test]
fn a_role_left_behind_is_for_the_same_type_and_no_more_rights() {
    let gone = |facts| there(facts, Some(MarkerOwner::Gone));
    let by_name = Desired {
        object_id: None,
        ..desired()
    };
    // Whose it is tells the token; without one the name decides, as it did at first.
    let told = with_token(by_name.clone());
    assert_eq!(role(&told, &gone(facts())), Ok(RoleWork::AfterToken));
    assert!(matches!(
        &steps(&by_name, &gone(facts()))[..],
        [RoleStep::Mark(_)]
    ));
    let group = Desired {
        kind: PrincipalType::Group,
        ..by_name
    };
    assert_eq!(
        role(&group, &gone(facts())),
        Err(Reason::PrincipalTypeMismatch)
    );

    let mut boss = facts();
    boss.label.as_mut().expect("a label").admin = true;
    boss.privileged = true;
    assert_eq!(
        role(&desired(), &gone(boss.clone())),
        Err(Reason::RoleProtected)
    );
    let admin = Desired {
        admin: true,
        ..desired()
    };
    assert!(matches!(
        &steps(&admin, &gone(boss))[..],
        [RoleStep::Mark(_)]
    ));
}

#[test]
fn a_role_that_we_closed_is_opened_again_by_whose_it_is_next() {
    let open = facts().comment.expect("a marker");
    let comment = format!("{}{CLOSED}", open.trim_end_matches('}'));
    let closed = RoleFacts {
        can_login: false,
        comment: Some(comment),
        ..facts()
    };
    for owner in [MarkerOwner::Us, MarkerOwner::Gone] {
        let taken = steps(&desired(), &there(closed.clone(), Some(owner)));
        assert!(
            matches!(&taken[..], [RoleStep::Mark(marker), RoleStep::Open] if !marker.contains("closed")),
            "{taken:?}"
        );
    }
}

#[test]
fn another_namespace_does_not_get_a_role_left_behind_by_its_name() {
    let gone = there(facts(), Some(MarkerOwner::Gone));
    let by_name = Desired {
        key: ObjectKey::new("shop", "api"),
        object_id: None,
        ..desired()
    };
    assert_eq!(role(&by_name, &gone), Err(Reason::RoleExists));
    let known = Desired {
        object_id: Some(id(OURS)),
        ..by_name
    };
    assert_eq!(role(&known, &gone), Err(Reason::RoleExists));
    let adopts = Desired {
        adoption: Adoption::SameIdentity,
        ..known
    };
    assert!(matches!(&steps(&adopts, &gone)[..], [RoleStep::Mark(_)]));
}

// Red when: is_borne_out() does not ask gave_all(), which a crash before the first status then shows;
// or asks nothing else.
#[test]
fn a_role_with_rights_that_its_object_gave_is_known_without_a_status() {
    let monitor = name("pg_monitor");
    let marked = |asked: Asked| Marker {
        asked,
        ..Marker::parse(&facts().comment.unwrap_or_default()).expect("a marker")
    };
    let gave = Asked {
        attributes: BTreeSet::from(["createRole".to_owned()]),
        member_of: BTreeSet::from(["pg_monitor".to_owned()]),
        ..Asked::default()
    };
    let found = |asked: Asked, administrative: &[&RoleName]| {
        // What leads nowhere is nobody's concern.
        let memberships = [(name("readers"), BTreeSet::new())].into();
        let administrative = administrative.iter().map(|&role| role.clone());
        let attributes = Attributes {
            create_role: true,
            ..Attributes::default()
        };
        RoleFacts {
            attributes,
            memberships,
            administrative: administrative.collect(),
            comment: Some(marked(asked).to_comment()),
            ..facts()
        }
    };
    let us = |facts| role(&desired(), &unreported(facts));
    assert!(us(found(gave.clone(), &[&monitor])).is_ok());
    let protected = Err(Reason::RoleProtected);
    assert_eq!(us(found(Asked::default(), &[&monitor])), protected);
    // No membership explains what only a superuser gives.
    let superuser = RoleFacts {
        privileged: true,
        ..found(gave.clone(), &[&monitor])
    };
    assert_eq!(us(superuser), protected);
    let other = name("boss");
    assert_eq!(us(found(gave.clone(), &[&monitor, &other])), protected);
    let administrator = EntraLabel {
        admin: true,
        ..label(OURS)
    };
    let administrator = RoleFacts {
        label: Some(administrator),
        ..found(gave, &[&monitor])
    };
    assert_eq!(us(administrator), protected);
}

// Red when: evidence() believes a marker that neither label nor status bears out, or that one gainsays.
#[test]
fn a_role_goes_with_its_object_only_if_more_than_the_comment_says_so() {
    let marker = Marker::parse(&facts().comment.unwrap_or_default()).expect("a marker");
    for (bound, recorded, expected) in [
        (Some(OURS), Some(OURS), Some(Evidence::Whole)),
        // Killed before the status was written; the label was taken away by hand.
        (Some(OURS), None, Some(Evidence::Partial)),
        (None, Some(OURS), Some(Evidence::Partial)),
        // The comment alone, and against the label or the status.
        (None, None, None),
        (Some(OTHER), Some(OURS), None),
        (Some(OTHER), None, None),
        (Some(OURS), Some(OTHER), None),
        (None, Some(OTHER), None),
    ] {
        let facts = RoleFacts {
            label: bound.map(label),
            ..facts()
        };
        let recorded = recorded.map(id);
        let found = evidence(&facts, &marker, recorded.as_ref());
        assert_eq!(found, expected, "{bound:?} {recorded:?}");
    }
}

#[test]
fn a_status_alone_does_not_give_a_protected_role() {
    let admin = EntraLabel {
        admin: true,
        ..label(OURS)
    };
    for facts in [
        RoleFacts {
            label: Some(admin),
            ..facts()
        },
        RoleFacts {
            privileged: true,
            ..facts()
        },
    ] {
        let recorded = Observed {
            record: Record {
                object_id: Some(id(OURS)),
                adopted: false,
            },
            ..there(
                RoleFacts {
                    comment: None,
                    ..facts
                },
                None,
            )
        };
        assert_eq!(role(&desired(), &recorded), Err(Reason::RoleProtected));
        let as_declared = Desired {
            admin: true,
            ..desired()
        };
        assert!(role(&as_declared, &recorded).is_ok());
    }
}

#[test]
fn a_lost_marker_is_written_again_if_status_and_object_id_agree() {
    let unmarked = RoleFacts {
        comment: Some("by hand".to_owned()),
        ..facts()
    };
    let record = |object: &str| Record {
        object_id: Some(id(object)),
        adopted: false,
    };
    let ours = Observed {
        record: record(OURS),
        ..there(unmarked.clone(), None)
    };
    assert!(matches!(&steps(&desired(), &ours)[..], [RoleStep::Mark(_)]));
    let not_ours = Observed {
        record: record(OTHER),
        ..there(unmarked, None)
    };
    assert_eq!(role(&desired(), &not_ours), Err(Reason::RoleExists));
}

#[test]
fn adoption_is_refused_or_needs_the_same_identity() {
    let unmarked = RoleFacts {
        comment: None,
        ..facts()
    };
    let found = there(unmarked.clone(), None);
    assert_eq!(role(&desired(), &found), Err(Reason::RoleExists));
    let same = Desired {
        adoption: Adoption::SameIdentity,
        ..desired()
    };
    let adopted = steps(&same, &found);
    assert!(
        matches!(&adopted[..], [RoleStep::Mark(_), RoleStep::ForgetPassword]),
        "{adopted:?}"
    );
    let differs = there(
        RoleFacts {
            label: Some(label(OTHER)),
            ..unmarked.clone()
        },
        None,
    );
    assert_eq!(role(&same, &differs), Err(Reason::ObjectIdMismatch));
    let plain = there(
        RoleFacts {
            label: None,
            ..unmarked
        },
        None,
    );
    assert_eq!(role(&same, &plain), Err(Reason::RoleExists));
    let by_name = Desired {
        object_id: None,
        kind: PrincipalType::Group,
        ..same
    };
    assert_eq!(role(&by_name, &found), Err(Reason::RoleExists));
}

#[test]
fn administrators_and_privileged_roles_are_never_adopted_by_a_glob() {
    let same = Desired {
        adoption: Adoption::SameIdentity,
        ..desired()
    };
    let privileged = RoleFacts {
        comment: None,
        privileged: true,
        ..facts()
    };
    let found = there(privileged.clone(), None);
    assert_eq!(role(&same, &found), Err(Reason::RoleProtected));
    let literal = Observed {
        allowance: Ok(Allowance {
            literal: true,
            ..Allowance::default()
        }),
        ..found
    };
    assert!(role(&same, &literal).is_ok());
    let admin = EntraLabel {
        admin: true,
        ..label(OURS)
    };
    let admin = Observed {
        allowance: Ok(Allowance {
            literal: true,
            ..Allowance::default()
        }),
        ..there(
            RoleFacts {
                label: Some(admin),
                ..privileged
            },
            None,
        )
    };
    assert_eq!(role(&same, &admin), Err(Reason::RoleProtected));
}
