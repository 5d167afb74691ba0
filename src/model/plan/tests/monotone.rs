//! No way round: what one object may not have is not had in two steps, and what a database administrator or
//! another version of the operator wrote stays.

use super::*;
use crate::model::marker::LONGEST;
use crate::model::privilege::AskedObjects;

fn marked(came: Option<Came>, change: impl FnOnce(&mut Marker)) -> RoleFacts {
    let mut marker = Marker::parse(&facts().comment.unwrap_or_default()).expect("a marker");
    marker.came = came;
    change(&mut marker);
    RoleFacts {
        comment: Some(marker.to_comment()),
        ..facts()
    }
}

fn allowed(allowance: Allowance, observed: Observed) -> Observed {
    Observed {
        allowance: Ok(allowance),
        ..observed
    }
}

// Red when: may_be_bound() does not ask is_its_own(), or that leaves out the marker or the status.
#[test]
fn a_role_that_the_object_did_not_make_is_bound_anew_only_where_any_may_be() {
    let other = Desired {
        object_id: Some(id(OTHER)),
        ..desired()
    };
    let us = Some(MarkerOwner::Us);
    let ways = [
        Came::adopted(Adoption::SameIdentity, Some(&id(OURS))),
        Came::taken_over(&ObjectKey::new("shop", "web"), &id(OURS)),
        Came::recorded(&id(OURS)),
    ];
    for came in ways {
        let found = there(marked(Some(came), |_| ()), us);
        assert_eq!(role(&other, &found), Err(Reason::NotAllowedByServer));
        // Kept, and its label put back, it may be.
        assert_eq!(steps(&desired(), &found), []);
        let Look::Known(Some(facts)) = &found.role else {
            panic!("a role");
        };
        let drifted = RoleFacts {
            label: Some(label(OTHER)),
            ..facts.clone()
        };
        let back = steps(&desired(), &there(drifted, us));
        assert!(matches!(&back[..], [RoleStep::Label { .. }]), "{back:?}");
        for allowance in [
            Allowance {
                any: true,
                ..Allowance::default()
            },
            Allowance {
                literal: true,
                ..Allowance::default()
            },
        ] {
            assert!(role(&other, &allowed(allowance, found.clone())).is_ok());
        }
    }
    // A marker of before knows it from the status.
    let mut adopted = there(facts(), us);
    adopted.record.adopted = true;
    assert_eq!(role(&other, &adopted), Err(Reason::NotAllowedByServer));
    // What the object made is its own.
    assert!(role(&other, &there(facts(), us)).is_ok());
}

// Red when: adoption, or a role that was left, leaves no trace in the marker.
#[test]
fn the_marker_says_how_a_role_came() {
    let came = |steps: &[RoleStep]| {
        let mark = steps.iter().find_map(|step| match step {
            RoleStep::Mark(text) => Marker::parse(text),
            RoleStep::Create(new) => Marker::parse(&new.marker),
            _ => None,
        });
        mark.expect("a marker").came
    };
    let same = Desired {
        adoption: Adoption::SameIdentity,
        ..desired()
    };
    let foreign = RoleFacts {
        comment: None,
        ..facts()
    };
    assert_eq!(came(&steps(&desired(), &observed())), None);
    let adopted = steps(&same, &there(foreign.clone(), None));
    let expected = Came::adopted(Adoption::SameIdentity, Some(&id(OURS)));
    assert_eq!(came(&adopted), Some(expected));
    let taken = steps(&desired(), &there(facts(), Some(MarkerOwner::Gone)));
    let expected = Came::taken_over(&desired().key, &id(OURS));
    assert_eq!(came(&taken), Some(expected));
    let mut known = there(foreign, None);
    known.record.object_id = Some(id(OURS));
    let expected = Came::recorded(&id(OURS));
    assert_eq!(came(&steps(&desired(), &known)), Some(expected));
}

// Red when: take_over() lets another object have a role without adoption (C25).
#[test]
fn a_role_left_behind_is_another_objects_only_by_adoption() {
    let gone = || there(facts(), Some(MarkerOwner::Gone));
    for key in [
        ObjectKey::new("orders", "heir"),
        ObjectKey::new("shop", "api"),
    ] {
        let heir = |adoption| Desired {
            key: key.clone(),
            adoption,
            ..desired()
        };
        assert_eq!(
            role(&heir(Adoption::Refuse), &gone()),
            Err(Reason::RoleExists)
        );
        assert!(role(&heir(Adoption::SameIdentity), &gone()).is_ok());
    }
    // The same object, made again.
    assert!(role(&desired(), &gone()).is_ok());
}

// Red when: adopt() forgets what the object that is gone was given.
#[test]
fn what_a_former_object_was_given_stays_known_whoever_adopts_the_role() {
    let left = marked(None, |marker| {
        marker.asked.member_of.insert("readers".to_owned());
        marker.object_id = OTHER.to_owned();
    });
    let membership = Membership {
        grantor: name("pg-operators"),
        revocable: true,
        ours: true,
        by_admin: true,
        by_server: false,
        options: MembershipOptions {
            inherit: true,
            set: true,
            admin: false,
        },
    };
    let left = RoleFacts {
        label: Some(label(OTHER)),
        memberships: [(name("readers"), [membership].into())].into(),
        ..left
    };
    let any = Desired {
        adoption: Adoption::Any,
        ..desired()
    };
    let steps = steps(&any, &there(left, Some(MarkerOwner::Gone)));
    let kept = steps
        .iter()
        .any(|step| matches!(step, RoleStep::Mark(text) if text.contains("readers")));
    let left = steps
        .iter()
        .any(|step| matches!(step, RoleStep::Leave { .. }));
    assert!(kept || left, "{steps:?}");
}

// Red when: bind() takes mfa from the declaration alone, or adopt() or take_over() does not ask mfa_kept().
#[test]
fn multifactor_authentication_that_is_required_is_never_taken_away() {
    let strict = RoleFacts {
        label: Some(EntraLabel {
            mfa: true,
            ..label(OURS)
        }),
        ..facts()
    };
    let us = Some(MarkerOwner::Us);
    let kept = there(strict.clone(), us);
    let (done, problems) = steps_and_problems(&desired(), &kept);
    assert_eq!((done, problems), (vec![], vec![Reason::MfaRequired]));
    // Bound to another identity, or its type put back, it still is required.
    let other = Desired {
        object_id: Some(id(OTHER)),
        ..desired()
    };
    let (done, _) = steps_and_problems(&other, &kept);
    assert!(
        matches!(&done[..], [RoleStep::Label { mfa: true, .. }, _]),
        "{done:?}"
    );
    let unmarked = RoleFacts {
        comment: None,
        ..strict.clone()
    };
    for adoption in [Adoption::SameIdentity, Adoption::Any] {
        let adopts = Desired {
            adoption,
            ..desired()
        };
        for found in [
            there(unmarked.clone(), None),
            there(strict.clone(), Some(MarkerOwner::Gone)),
        ] {
            assert_eq!(role(&adopts, &found), Err(Reason::MfaRequired));
            let declared = Desired {
                mfa: true,
                ..adopts.clone()
            };
            assert!(role(&declared, &found).is_ok());
            let literal = Allowance {
                literal: true,
                ..Allowance::default()
            };
            assert!(role(&adopts, &allowed(literal, found)).is_ok());
        }
    }
}

// Red when: role_work() takes a marker that cannot be read for none, or for one that may be left out.
#[test]
fn a_marker_that_cannot_be_read_keeps_the_role_as_it_is() {
    let good = facts().comment.expect("a comment");
    let data = |change: &str| good.replacen('{', &format!("{{{change},"), 1);
    let spoiled = [
        good[..good.len() - 3].to_owned(),
        good[..80].to_owned(),
        data("\"version\":2"),
        data("\"version\":\"new\""),
        data("\"closed\":\"yes\""),
        data("\"asked\":{\"databases\":{\"orders\":[\"CONNECT\",\"FROB\"]}}"),
        data(
            "\"asked\":{\"objects\":[{\"database\":\"d\",\"schema\":\"s\",\"kind\":\"frob\",\"privileges\":[\"SELECT\"]}]}",
        ),
        data(
            "\"asked\":{\"objects\":[{\"database\":\"d\",\"schema\":\"s\",\"kind\":\"table\",\"columns\":[],\"privileges\":[\"SELECT\"]}]}",
        ),
        format!("{good}}}"),
    ];
    for text in spoiled {
        let facts = RoleFacts {
            comment: Some(text.clone()),
            comment_md5: Some("abc".to_owned()),
            ..facts()
        };
        let any = Desired {
            adoption: Adoption::Any,
            ..desired()
        };
        for owner in [None, Some(MarkerOwner::Us)] {
            let mut found = there(facts.clone(), owner);
            found.record.object_id = Some(id(OURS));
            for desired in [desired(), any.clone()] {
                assert_eq!(
                    role(&desired, &found),
                    Err(Reason::MarkerUnreadable),
                    "{text}"
                );
            }
            let discard = |word: &str| Allowance {
                discard: Some(word.to_owned()),
                ..Allowance::default()
            };
            let other = allowed(discard("abcd"), found.clone());
            assert_eq!(role(&desired(), &other), Err(Reason::MarkerUnreadable));
            let consent = allowed(discard("abc"), found);
            assert!(
                matches!(&steps(&desired(), &consent)[..], [RoleStep::Mark(_)]),
                "{text}"
            );
        }
    }
    let cut = RoleFacts {
        comment_cut: Some(9_000_000),
        ..facts()
    };
    let refused = plan(
        &desired(),
        &there(cut, Some(MarkerOwner::Us)),
        noon(),
        CLUSTER,
    )
    .role;
    let failure = refused.expect_err("cut");
    assert!(failure.message.contains("9000000 bytes"), "{failure}");
    assert!(
        failure
            .message
            .contains("discard-marker: orders/api=9000000-bytes"),
        "{failure}"
    );
}

// Red when: Ours::steps() or left_by() drops what another version wrote.
#[test]
fn what_another_version_wrote_into_a_marker_is_kept() {
    let good = facts().comment.expect("a comment");
    let newer = good.replacen(
        '{',
        "{\"later\":{\"a\":[1,null]},\"asked\":{\"attributes\":[\"bypassRls\"],\"more\":7},",
        1,
    );
    let facts = RoleFacts {
        comment: Some(newer),
        ..facts()
    };
    // Nothing is written for its sake.
    assert_eq!(
        steps(&desired(), &there(facts.clone(), Some(MarkerOwner::Us))),
        []
    );
    let mut wants = desired();
    wants.attributes.connection_limit = Some(3);
    for owner in [MarkerOwner::Us, MarkerOwner::Gone] {
        let done = steps(&wants, &there(facts.clone(), Some(owner)));
        let Some(RoleStep::Mark(text)) = done.first() else {
            panic!("{done:?}");
        };
        for words in [
            "\"later\":{\"a\":[1,null]}",
            "bypassRls",
            "\"more\":7",
            "connectionLimit",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}

// Red when: written() does not look at the length, or refuses what becomes shorter.
#[test]
fn a_marker_is_never_written_that_is_too_long_to_be_kept() {
    let large = |n: usize| AskedObjects {
        database: "d".to_owned(),
        schema: "s".to_owned(),
        kind: Kind::Function,
        names: None,
        except: (0..n)
            .map(|n| format!("f{n}({})", "a, ".repeat(300)))
            .collect(),
        privileges: [crate::api::Privilege::Execute].into(),
    };
    let marker = |n: usize| Marker {
        asked: Asked {
            objects: vec![large(n)],
            ..Asked::default()
        },
        ..Marker::parse(&facts().comment.unwrap_or_default()).expect("a marker")
    };
    let (long, longer) = (marker(1_200), marker(1_300));
    let length = long.to_comment().len();
    assert!(length > LONGEST);
    let refused = super::super::mark::written(&desired(), &longer, length).expect_err("longer");
    assert_eq!(refused.reason, Reason::MarkerTooLarge);
    for words in [
        "1048576",
        "EXECUTE",
        "1300 exceptions",
        "\"s\"",
        "all: true",
    ] {
        assert!(refused.message.contains(words), "{words}: {refused}");
    }
    // One that an earlier version wrote becomes shorter by and by.
    let there = longer.to_comment().len();
    assert!(super::super::mark::written(&desired(), &long, there).is_ok());
}

// Red when: how_to_restore() does not say who may open the role, or that the annotation is in the wrong place.
#[test]
fn a_kill_switch_says_who_opens_it_and_the_principals_own_annotation_does_not() {
    let closed = RoleFacts {
        can_login: false,
        ..facts()
    };
    let found = there(closed, Some(MarkerOwner::Us));
    let annotated = Desired {
        restore: Some("mine".to_owned()),
        ..desired()
    };
    let decided = plan(&annotated, &found, noon(), CLUSTER).role;
    let Ok(RoleWork::Steps(kept)) = decided else {
        panic!("{decided:?}");
    };
    assert!(kept.is_empty(), "{kept:?}");
    let said = &kept.problems[0].message;
    for words in [
        "EntraPostgresServer lab/server",
        "entrapostgres.io/restore: orders/api=",
        "of the EntraPostgresPrincipal is not obeyed",
        "restore: true",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

// Red when: owned_by() of another cluster does not say what would make the role ours (B6).
#[test]
fn a_role_of_another_cluster_is_refused_with_the_line_that_would_take_it_over() {
    let refused = plan(
        &desired(),
        &there(facts(), Some(MarkerOwner::OtherCluster)),
        noon(),
        CLUSTER,
    )
    .role;
    let said = refused.expect_err("refused").message;
    assert!(said.contains("formerClusterIds: [\"cluster\"]"), "{said}");
}
