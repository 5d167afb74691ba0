//! Privileges: given, remembered, taken back, forgotten.

use super::*;

#[test]
fn a_privilege_is_given_remembered_taken_back_and_forgotten() {
    let mut server = server(with_tables(&["a", "b"]).granted(table("b"), SELECT, OWNER));
    let before = server.clone();
    let declared = reads(&[Some("a"), Some("b")]);
    let rights = server.plan(&declared, &Asked::default());
    assert_eq!(inside(&rights), [grant(Names::Only(names(&["a"])))]);
    let (asked, _) = server.settle(&declared, Asked::default());
    let entry = AskedObjects {
        database: "shop".to_owned(),
        schema: "app".to_owned(),
        kind: Kind::Table,
        names: Some(names(&["a"])),
        except: BTreeSet::new(),
        privileges: [SELECT].into(),
    };
    assert_eq!(asked.objects, [entry]);

    let rights = server.plan(&desired(), &asked);
    assert_eq!(inside(&rights), [revoke(Names::Only(names(&["a"])))]);
    // Red when: what is taken back is forgotten before it is seen to be gone.
    assert_eq!(rights.asked, asked);
    server.apply_inside(&rights.inside);
    assert_eq!(server.plan(&desired(), &asked), Rights::default());
    assert_eq!(server, before);
}

#[test]
fn all_catches_later_tables_and_spares_what_was_there_before() {
    let mut server = server(with_tables(&["a", "b"]).granted(table("b"), SELECT, OWNER));
    let before = server.clone();
    let (asked, _) = server.settle(&reads(&[ALL]), Asked::default());
    assert_eq!(asked.objects[0].except, names(&["b"]));
    let shop = server.databases.get_mut("shop").unwrap();
    shop.objects.insert(table("new"), true);
    let rights = server.plan(&reads(&[ALL]), &asked);
    assert_eq!(inside(&rights), [grant(Names::AllBut(BTreeSet::new()))]);
    let (asked, _) = server.settle(&reads(&[ALL]), asked);
    let (asked, _) = server.settle(&desired(), asked);
    assert_eq!(asked, Asked::default());
    assert_eq!(server.databases["shop"].acl, before.databases["shop"].acl);
}

#[test]
fn nothing_is_remembered_of_all_that_was_there_before() {
    let server = server(with_tables(&["a"]).granted(table("a"), SELECT, OWNER));
    assert_eq!(
        server.plan(&reads(&[ALL]), &Asked::default()),
        Rights::default()
    );
}

#[test]
fn what_an_exception_lost_and_got_again_by_us_is_ours() {
    let mut server = server(with_tables(&["a", "b"]).granted(table("b"), SELECT, OWNER));
    let (asked, _) = server.settle(&reads(&[ALL]), Asked::default());
    let shop = server.databases.get_mut("shop").unwrap();
    shop.acl.retain(|(object, ..)| object.name != "b");
    let (asked, _) = server.settle(&reads(&[ALL]), asked);
    assert_eq!(asked.objects[0].except, BTreeSet::new());
    server.settle(&desired(), asked);
    assert!(server.databases["shop"].acl.is_empty());
}

#[test]
fn from_all_to_names_and_back_the_right_ones_go() {
    let start = with_tables(&["a", "b", "c"]).granted(table("c"), SELECT, OWNER);
    let mut server = server(start);
    let (asked, _) = server.settle(&reads(&[ALL]), Asked::default());
    let narrow = reads(&[Some("a")]);
    let rights = server.plan(&narrow, &asked);
    assert_eq!(inside(&rights), [revoke(Names::AllBut(names(&["a", "c"])))]);
    let (asked, _) = server.settle(&narrow, asked);
    assert_eq!(asked.objects[0].names, Some(names(&["a"])));
    // Red when: `give_all` excepts what was recorded by name.
    let (asked, _) = server.settle(&reads(&[ALL]), asked);
    assert_eq!(asked.objects[0].except, names(&["c"]));
    server.settle(&desired(), asked);
    let left = &server.databases["shop"].acl;
    assert_eq!(*left, [(table("c"), SELECT, OWNER.to_owned())].into());
}

#[test]
fn privileges_on_the_same_objects_are_one_step_schemas_first_revokes_before() {
    let mut server = server(with_tables(&["a"]).granted(table("a"), Privilege::Delete, OWNER));
    let mut declared = exclusive(reads(&[Some("a")]));
    let schema = group("app", Kind::Schema);
    let more = [
        ask(tables(), Some("a"), Privilege::Insert),
        ask(schema.clone(), Some("app"), Privilege::Usage),
    ];
    declared.privileges.objects.extend(more);
    let of = DefaultsOf {
        owner: role(OWNER),
        group: tables(),
    };
    declared.privileges.defaults.insert(DefaultAsk {
        database: "shop".to_owned(),
        of: of.clone(),
        privilege: SELECT,
    });
    let shop = server.databases.get_mut("shop").unwrap();
    shop.owners.insert(role(OWNER), true);
    shop.defaults.insert((of.clone(), Privilege::Insert));
    let rights = server.plan(&declared, &Asked::default());
    let expected = [
        PrivilegeStep::Revoke {
            group: tables(),
            names: Names::AllBut(BTreeSet::new()),
            privileges: [Privilege::Delete].into(),
            of_others: true,
        },
        PrivilegeStep::RevokeDefault {
            of: of.clone(),
            privileges: [Privilege::Insert].into(),
        },
        PrivilegeStep::Grant {
            group: schema,
            names: Names::Only(names(&["app"])),
            privileges: [Privilege::Usage].into(),
        },
        PrivilegeStep::Grant {
            group: tables(),
            names: Names::Only(names(&["a"])),
            privileges: [SELECT, Privilege::Insert].into(),
        },
        PrivilegeStep::GrantDefault {
            of,
            privileges: [SELECT].into(),
        },
    ];
    assert_eq!(inside(&rights), expected);
}

#[test]
fn privileges_on_a_database_are_given_where_we_may() {
    let mut server = server(Database::new());
    let mut declared = desired();
    for privilege in [Privilege::Connect, Privilege::Create] {
        declared.privileges.databases.insert(DatabaseAsk {
            database: "shop".to_owned(),
            privilege,
        });
    }
    let entry = &mut server.databases.get_mut("shop").unwrap().entry;
    entry.grantable = [Privilege::Connect].into();
    let rights = server.plan(&declared, &Asked::default());
    let given = RoleStep::GrantDatabase {
        database: "shop".to_owned(),
        privileges: [Privilege::Connect].into(),
    };
    assert_eq!(rights.steps, [given]);
    let exact = r#"its owner "owner" can: GRANT CREATE ON DATABASE "shop" TO "orders-api""#;
    says(&rights.problems, Reason::NotGrantable, &[exact]);

    let (asked, _) = server.settle(&declared, Asked::default());
    server
        .databases
        .get_mut("shop")
        .unwrap()
        .entry
        .grantable
        .clear();
    let rights = server.plan(&desired(), &asked);
    let exact = r#"REVOKE CONNECT ON DATABASE "shop" FROM "orders-api""#;
    says(&rights.problems, Reason::NotRevocable, &[exact]);
    assert_eq!((rights.steps, rights.asked), (vec![], asked));
}

#[test]
fn many_grantees_are_worth_a_note() {
    let server = server(with_tables(&["a"]));
    let declared = reads(&[Some("a")]);
    for (grantees, notes) in [(1_000, 0), (1_001, 1)] {
        let mut observed = server.observed(&declared, &Asked::default());
        let mut catalog = DatabaseCatalog::clone(observed.inside["shop"].as_ref().unwrap());
        let facts: &mut ObjectFacts = catalog.objects.get_mut(&table("a")).unwrap();
        facts.grantees = grantees;
        observed
            .inside
            .insert("shop".to_owned(), Ok(Arc::new(catalog)));
        let rights =
            super::super::plan(&declared, &Asked::default(), Some(&server.role), &observed);
        assert_eq!(rights.notes.len(), notes);
        assert!(
            rights
                .notes
                .iter()
                .all(|note| note.contains("1001 roles") && note.contains("memberOf"))
        );
    }
}

#[test]
fn of_interest_is_what_is_declared_and_what_was_asked_for() {
    let mut declared = reads(&[Some("a")]);
    declared.member_of.insert(role("readers"), USUAL);
    declared.reassign_to = Some(role("heir"));
    let asked = Asked {
        member_of: names(&["former"]),
        objects: vec![AskedObjects {
            database: "old".to_owned(),
            schema: "app".to_owned(),
            kind: Kind::Table,
            names: None,
            except: names(&["b"]),
            privileges: [SELECT].into(),
        }],
        ..Asked::default()
    };
    let seen = interest(&declared, &asked);
    assert_eq!(
        seen.targets,
        [role("readers"), role("heir"), role("former")].into()
    );
    assert_eq!(seen.databases["shop"].objects, [table("a")].into());
    assert_eq!(seen.databases["shop"].groups, BTreeSet::new());
    // Whether an exception is still there decides what is left to take back.
    assert_eq!(seen.databases["old"].objects, [table("b")].into());
    assert_eq!(seen.databases["old"].groups, [tables()].into());

    let mut declared = exclusive(desired());
    declared.privileges.databases.insert(DatabaseAsk {
        database: "shop".to_owned(),
        privilege: Privilege::Connect,
    });
    assert!(
        interest(&declared, &Asked::default())
            .databases
            .contains_key("shop")
    );
    assert_eq!(declared.server, ObjectKey::new("lab", "server"));
}

#[test]
fn a_table_that_became_the_roles_own_is_left_and_forgotten() {
    let mut server = server(with_tables(&["a", "b", "c"]).granted(table("c"), SELECT, OWNER));
    let declared = reads(&[Some("a"), Some("b")]);
    let (asked, _) = server.settle(&declared, Asked::default());
    let shop = server.databases.get_mut("shop").unwrap();
    shop.owned.insert(table("a"));
    shop.acl.retain(|(object, ..)| object.name != "a");
    assert_eq!(server.plan(&declared, &asked).inside, BTreeMap::new());
    // Red when: `is_granted` does not look at who owns it.
    let rights = server.plan(&desired(), &asked);
    assert_eq!(inside(&rights), [revoke(Names::Only(names(&["b"])))]);
    let (asked, _) = server.settle(&desired(), asked);
    assert_eq!(asked, Asked::default());
}

// Red when: `on_database` does not look at who owns the database.
#[test]
fn on_its_own_database_a_role_is_given_nothing_and_keeps_all() {
    let mut server = server(Database::new());
    let shop = server.databases.get_mut("shop").unwrap();
    shop.entry.owner = desired().role;
    let held: BTreeSet<Privilege> = [Privilege::Connect, Privilege::Create].into();
    server.role.databases = [("shop".to_owned(), held.clone())].into();
    let asked = Asked {
        databases: [("shop".to_owned(), held)].into(),
        ..Asked::default()
    };
    let mut declared = desired();
    for privilege in [Privilege::Connect, Privilege::Temporary] {
        declared.privileges.databases.insert(DatabaseAsk {
            database: "shop".to_owned(),
            privilege,
        });
    }
    for declared in [desired(), declared.clone(), exclusive(declared)] {
        assert_eq!(server.plan(&declared, &asked), Rights::default());
    }
}

// Red when: `plan` carries no part of the record of a database that is declared and not there: what we
// gave is foreign when it is back.
#[test]
fn what_was_given_in_a_database_is_remembered_while_that_has_another_name() {
    let mut server = server(with_tables(&["a"]));
    let shop = server.databases.get_mut("shop").unwrap();
    shop.owners.insert(role(OWNER), true);
    let mut declared = reads(&[Some("a")]);
    declared.privileges.databases.insert(DatabaseAsk {
        database: "shop".to_owned(),
        privilege: Privilege::Connect,
    });
    let group = tables();
    declared.privileges.defaults.insert(DefaultAsk {
        database: "shop".to_owned(),
        of: DefaultsOf {
            owner: role(OWNER),
            group,
        },
        privilege: SELECT,
    });
    let (asked, _) = server.settle(&declared, Asked::default());
    assert!(!asked.databases.is_empty() && !asked.objects.is_empty() && !asked.defaults.is_empty());
    let shop = server.databases.remove("shop").unwrap();
    let held = std::mem::take(&mut server.role.databases);
    let rights = server.plan(&declared, &asked);
    says(&rights.problems, Reason::ObjectNotFound, &["shop"]);
    assert_eq!(rights.asked, asked);
    server.databases.insert("shop".to_owned(), shop);
    server.role.databases = held;
    let (asked, _) = server.settle(&desired(), asked);
    assert_eq!(asked, Asked::default());
    assert!(server.databases["shop"].acl.is_empty() && server.role.databases.is_empty());
    // Declared no more, it is not waited for.
    server.databases.clear();
    let gone = Asked {
        databases: [("shop".to_owned(), [Privilege::Connect].into())].into(),
        ..Asked::default()
    };
    assert_eq!(server.plan(&desired(), &gone), Rights::default());
}
