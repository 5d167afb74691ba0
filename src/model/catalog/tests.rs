//! What is known, what wins, and who hears of it.

use super::*;
use crate::model::MembershipOptions;

fn name(text: &str) -> RoleName {
    RoleName::parse(text).unwrap()
}

fn id(last: char) -> ObjectId {
    ObjectId::parse(&format!("11111111-0000-0000-0000-00000000000{last}")).unwrap()
}

fn bound(id: &ObjectId, admin: bool) -> RoleFacts {
    RoleFacts {
        oid: 1,
        can_login: true,
        label: Some(EntraLabel {
            object_id: id.clone(),
            entra_type: "group".to_owned(),
            admin,
            mfa: false,
        }),
        ..RoleFacts::default()
    }
}

fn facts(rows: &[(&str, Option<(ObjectId, bool)>)]) -> Facts {
    let mut facts = Facts::default();
    for (role, row) in rows {
        facts.names.insert(name(role));
        if let Some((id, admin)) = row {
            let holder = Holder::new(name(role), *admin);
            facts.holders.entry(id.clone()).or_default().insert(holder);
            facts.roles.insert(name(role), bound(id, *admin));
        }
    }
    facts
}

fn catalog(rows: &[(&str, Option<(ObjectId, bool)>)]) -> Catalog {
    let mut catalog = Catalog::default();
    catalog.fold(facts(rows));
    catalog
}

#[test]
fn what_was_not_asked_for_is_unknown_and_what_was_not_found_is_absent() {
    let catalog = catalog(&[("here", Some((id('a'), false))), ("gone", None)]);
    assert!(catalog.view(&name("other"), &Interest::default()).is_none());
    assert!(
        catalog
            .view(&name("gone"), &Interest::in_id(Some(&id('f'))))
            .is_none()
    );
    assert_eq!(
        catalog
            .view(&name("gone"), &Interest::default())
            .unwrap()
            .role,
        None
    );
    assert!(
        catalog
            .view(&name("here"), &Interest::in_id(Some(&id('a'))))
            .unwrap()
            .role
            .is_some()
    );
}

#[test]
fn an_administrator_is_seen_by_everybody_and_others_only_by_id() {
    let catalog = catalog(&[
        ("boss", Some((id('b'), true))),
        ("twin", Some((id('b'), false))),
        ("plain", Some((id('c'), false))),
        ("mine", None),
    ]);
    let view = catalog.view(&name("mine"), &Interest::default()).unwrap();
    assert!(view.holders[&id('b')].admin);
    assert_eq!(view.holders.get(&id('c')), None);
    let view = catalog
        .view(&name("mine"), &Interest::in_id(Some(&id('c'))))
        .unwrap();
    assert_eq!(view.holders.get(&id('c')).unwrap().role, name("plain"));
}

#[test]
fn a_member_of_the_administrators_group_whose_token_we_use_is_an_administrator() {
    let mut catalog = catalog(&[("mine", Some((id('a'), false)))]);
    catalog.operators.insert(id('e'), name("operators"));
    let view = catalog.view(&name("mine"), &Interest::default()).unwrap();
    assert!(view.holders[&id('e')].admin);
    // A question about that very id does not make it forgotten.
    catalog.fold(Facts {
        ids: BTreeSet::from([id('e')]),
        ..Facts::default()
    });
    let view = catalog
        .view(&name("mine"), &Interest::in_id(Some(&id('e'))))
        .unwrap();
    assert!(view.holders[&id('e')].admin);
}

#[test]
fn another_role_with_ones_own_identity_is_not_hidden_by_ones_own() {
    let catalog = catalog(&[
        ("mine", Some((id('a'), false))),
        ("zz", Some((id('a'), false))),
    ]);
    let seen = |role: &str| {
        catalog
            .view(&name(role), &Interest::default())
            .unwrap()
            .holders
    };
    assert_eq!(seen("mine").get(&id('a')).unwrap().role, name("zz"));
    assert_eq!(seen("zz").get(&id('a')).unwrap().role, name("mine"));
}

#[test]
fn a_rebound_role_leaves_its_old_identity() {
    let mut catalog = catalog(&[("role", Some((id('a'), false)))]);
    let old = catalog.clone();
    catalog.fold(facts(&[("role", Some((id('d'), false)))]));
    assert!(!catalog.holders.contains_key(&id('a')));
    assert!(catalog.holders.contains_key(&id('d')));
    assert_eq!(catalog.diff(&old), BTreeSet::from([name("role")]));
    assert!(catalog.diff(&catalog.clone()).is_empty());
}

#[test]
fn what_we_wrote_after_a_snapshot_began_wins_over_it() {
    let current = catalog(&[
        ("made", Some((id('a'), false))),
        ("old", Some((id('c'), false))),
    ]);
    let snapshot = catalog(&[("made", None), ("old", None)]);
    let merged = snapshot.overlaid(&current, &Subjects::role(&name("made")));
    assert!(
        merged
            .view(&name("made"), &Interest::in_id(Some(&id('a'))))
            .unwrap()
            .role
            .is_some()
    );
    assert_eq!(
        merged
            .view(&name("old"), &Interest::default())
            .unwrap()
            .role,
        None
    );
}

#[test]
fn a_role_in_doubt_is_not_made_certain_by_an_older_snapshot() {
    let mut current = catalog(&[("lost", None)]);
    current.doubt(&name("lost"));
    let snapshot = catalog(&[("lost", None)]);
    let merged = snapshot.overlaid(&current, &Subjects::role(&name("lost")));
    assert!(merged.view(&name("lost"), &Interest::default()).is_none());
}

fn target(grantable: bool) -> TargetFacts {
    TargetFacts {
        grantable,
        ..TargetFacts::default()
    }
}

fn database(grantees: u32) -> DatabaseEntry {
    DatabaseEntry {
        owner: name("owner"),
        grantable: BTreeSet::new(),
        connectable: true,
        open: true,
        grantees,
    }
}

/// What a question about role `mine`, target `readers` and database `orders` brought.
fn asked(readers: Option<TargetFacts>, grantees: u32) -> Catalog {
    let mut catalog = Catalog::default();
    catalog.fold(Facts {
        names: BTreeSet::from([name("mine")]),
        target_names: BTreeSet::from([name("readers")]),
        database_names: BTreeSet::from(["orders".to_owned()]),
        targets: readers
            .map(|facts| (name("readers"), facts))
            .into_iter()
            .collect(),
        databases: BTreeMap::from([("orders".to_owned(), database(grantees))]),
        ..Facts::default()
    });
    catalog
}

fn interests() -> BTreeMap<RoleName, Interest> {
    let interest = |targets: &[&str]| Interest {
        targets: targets.iter().map(|target| name(target)).collect(),
        ..Interest::default()
    };
    BTreeMap::from([
        (name("mine"), interest(&["readers"])),
        (name("other"), interest(&["writers"])),
    ])
}

// Red when: news() looks at roles only, or at how many roles have privileges on a database.
#[test]
fn only_those_interested_hear_of_a_target_and_nobody_of_a_count() {
    let before = asked(None, 3);
    let after = asked(Some(target(false)), 4);
    let heard = |new: &Catalog, old: &Catalog| new.news(old, &interests());
    assert_eq!(heard(&after, &before), BTreeSet::from([name("mine")]));
    assert!(heard(&asked(None, 9), &before).is_empty());
    // What was not known before is news to nobody: whoever asked for it has it.
    assert!(heard(&after, &Catalog::default()).is_empty());
    let mut untried = after.clone();
    untried.improved_control = Some(false);
    assert_eq!(heard(&after, &untried), BTreeSet::from([name("mine")]));
}

#[test]
fn a_target_that_was_made_after_a_snapshot_began_stays() {
    let current = asked(Some(target(true)), 3);
    let touched = Subjects {
        targets: BTreeSet::from([name("readers")]),
        ..Subjects::default()
    };
    let merged = asked(None, 4).overlaid(&current, &touched);
    assert_eq!(merged.targets.get(&name("readers")), Some(&target(true)));
    assert_eq!(merged.databases["orders"].grantees, 4);
}

// Red when: hopeful() is left out, or does not ask what was learned.
#[test]
fn what_others_granted_is_tried_until_the_server_has_refused_it() {
    let row = Membership {
        grantor: name("dba"),
        revocable: false,
        ours: false,
        by_admin: false,
        by_server: true,
        options: MembershipOptions {
            inherit: true,
            set: true,
            admin: false,
        },
    };
    let mut catalog = asked(None, 0);
    let facts = RoleFacts {
        memberships: BTreeMap::from([(name("readers"), BTreeSet::from([row]))]),
        ..RoleFacts::default()
    };
    catalog.roles.insert(name("mine"), facts);
    let revocable = |catalog: &Catalog| {
        let view = catalog.view(&name("mine"), &Interest::default()).unwrap();
        let rows = &view.role.unwrap().memberships[&name("readers")];
        rows.iter().all(|row| row.revocable)
    };
    assert!(revocable(&catalog));
    catalog.improved_control = Some(false);
    assert!(!revocable(&catalog));
}

// Red when: what the server's superuser granted is ours although he does not act for us, or nothing of it
// is where he does.
#[test]
fn grants_of_the_servers_superuser_are_ours_where_he_acts_for_us() {
    let row = |grantor: &str, ours, by_server| Membership {
        grantor: name(grantor),
        revocable: ours,
        ours,
        by_admin: false,
        by_server,
        options: MembershipOptions {
            inherit: true,
            set: true,
            admin: false,
        },
    };
    let by_us = row("pg-operators", true, false);
    let (by_server, by_dba) = (row("azuresu", false, true), row("dba", false, false));
    let mut catalog = asked(None, 0);
    for (improved, rows, expected) in [
        (Some(true), vec![&by_us, &by_server, &by_dba], 2),
        (Some(true), vec![&by_server, &by_dba], 1),
        (Some(false), vec![&by_us, &by_server, &by_dba], 1),
        (Some(false), vec![&by_server, &by_dba], 0),
        // It is tried where nothing else can be ours.
        (None, vec![&by_us, &by_server, &by_dba], 1),
        (None, vec![&by_server, &by_dba], 1),
    ] {
        catalog.improved_control = improved;
        let rows: BTreeSet<Membership> = rows.into_iter().cloned().collect();
        let facts = RoleFacts {
            memberships: BTreeMap::from([(name("readers"), rows)]),
            ..RoleFacts::default()
        };
        catalog.roles.insert(name("mine"), facts);
        let view = catalog.view(&name("mine"), &Interest::default()).unwrap();
        let rows = &view.role.unwrap().memberships[&name("readers")];
        let ours = rows.iter().filter(|row| row.ours).count();
        assert_eq!(ours, expected, "{improved:?}");
    }
}

// Red when: what was not asked counts as absent, or only absence counts.
#[test]
fn a_database_is_shut_when_it_is_known_to_be_absent_or_closed() {
    let entry = |connectable| DatabaseEntry {
        owner: name("dba"),
        grantable: BTreeSet::new(),
        connectable,
        open: connectable,
        grantees: 0,
    };
    let catalog = Catalog {
        covers_databases: ["open", "closed", "gone"].map(str::to_owned).into(),
        databases: [("open", true), ("closed", false)]
            .map(|(database, connectable)| (database.to_owned(), entry(connectable)))
            .into(),
        ..Catalog::default()
    };
    let shut = ["open", "closed", "gone", "unknown"].map(|database| catalog.is_shut(database));
    assert_eq!(shut, [false, true, true, false]);
}
