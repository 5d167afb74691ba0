//! Privileges that cannot be given or taken: what is said, and that the rest is done.

use super::*;

#[test]
fn what_does_not_exist_is_named_and_the_rest_is_given() {
    let server = server(with_tables(&["a"]));
    let declared = reads(&[Some("a"), Some("b"), Some("c")]);
    let rights = server.plan(&declared, &Asked::default());
    let parts = ["lab/server", "\"shop\"", "\"app\"", "table", "\"b\", \"c\""];
    says(&rights.problems, Reason::ObjectNotFound, &parts);
    assert_eq!(inside(&rights), [grant(Names::Only(names(&["a"])))]);

    let mut declared = desired();
    for name in ["x", "y"] {
        let nowhere = group("nowhere", Kind::Table);
        declared
            .privileges
            .objects
            .insert(ask(nowhere, Some(name), SELECT));
    }
    let rights = server.plan(&declared, &Asked::default());
    says(
        &rights.problems,
        Reason::ObjectNotFound,
        &["no schema \"nowhere\"", "\"shop\""],
    );

    declared.privileges.objects.clear();
    declared.privileges.databases.insert(DatabaseAsk {
        database: "gone".to_owned(),
        privilege: Privilege::Connect,
    });
    let rights = server.plan(&declared, &Asked::default());
    says(
        &rights.problems,
        Reason::ObjectNotFound,
        &["database \"gone\""],
    );
}

#[test]
fn a_function_that_does_not_exist_is_told_with_those_that_do() {
    let server = server(with_tables(&["a"]));
    let functions = group("app", Kind::Function);
    let mut declared = desired();
    let wanted = ask(
        functions.clone(),
        Some("total(integer)"),
        Privilege::Execute,
    );
    declared.privileges.objects.insert(wanted);
    let mut observed = server.observed(&declared, &Asked::default());
    let mut catalog = DatabaseCatalog::clone(observed.inside["shop"].as_ref().unwrap());
    let others = names(&["total(integer, text)"]);
    catalog.signatures = [(object("app", Kind::Function, "total(integer)"), others)].into();
    observed
        .inside
        .insert("shop".to_owned(), Ok(Arc::new(catalog)));
    let rights = super::super::plan(&declared, &Asked::default(), None, &observed);
    let part = "function \"total(integer)\" (there is \"total(integer, text)\")";
    says(&rights.problems, Reason::ObjectNotFound, &[part]);
}

#[test]
fn what_we_may_not_grant_comes_with_the_statement_that_helps() {
    let shop = with_tables(&["a"])
        .with(table("b\"q"), false)
        .with(table("c"), false);
    let server = server(shop);
    let parts = [
        "2 tables of schema \"app\"",
        r#"GRANT SELECT ON TABLE "app"."b""q", "app"."c" TO "orders-api""#,
        r#"GRANT "stranger" TO "pg-operators" WITH INHERIT TRUE"#,
    ];
    for declared in [reads(&[Some("b\"q"), Some("c")]), reads(&[ALL])] {
        let rights = server.plan(&declared, &Asked::default());
        says(&rights.problems, Reason::NotGrantable, &parts);
        let given = declared.privileges.objects.len() == 1;
        assert_eq!(inside(&rights).len(), usize::from(given));
    }
    let mut server = server;
    server.facts.version_num = 150_000;
    let rights = server.plan(&reads(&[Some("c")]), &Asked::default());
    assert!(!rights.problems[0].message.contains("INHERIT"));
    assert_eq!(rights.asked, Asked::default(), "nothing was given");
}

// Red when: lend() advises to lend the privileges of a superuser, or of one of Azure's own roles.
#[test]
fn nobody_is_told_to_lend_a_superusers_privileges() {
    let server = server(with_tables(&["a"]).with(table("c"), false));
    let declared = reads(&[Some("c")]);
    let mut observed = server.observed(&declared, &Asked::default());
    let mut catalog = DatabaseCatalog::clone(observed.inside["shop"].as_ref().unwrap());
    catalog.superusers.insert(role(STRANGER));
    (observed.inside).insert("shop".to_owned(), Ok(Arc::new(catalog)));
    let rights = super::super::plan(&declared, &Asked::default(), None, &observed);
    let statement = r#"GRANT SELECT ON TABLE "app"."c" TO "orders-api""#;
    says(&rights.problems, Reason::NotGrantable, &[statement]);
    let said = &rights.problems[0].message;
    assert!(!said.contains(r#"GRANT "stranger""#), "{said}");
}

// Red when: give_all() owes what an extension or a superuser has, or what everybody has, or stays silent of it.
#[test]
fn what_nobody_owes_is_noted_with_a_count_and_is_no_problem() {
    let mut server = server(
        with_tables(&["a"])
            .with(table("c"), false)
            .with(table("d"), false),
    );
    let declared = reads(&[ALL]);
    let (asked, _) = server.settle(&declared, Asked::default());
    let mut observed = server.observed(&declared, &asked);
    let mut catalog = DatabaseCatalog::clone(observed.inside["shop"].as_ref().unwrap());
    let group = catalog.groups.get_mut(&tables()).unwrap();
    group.spared = [(SELECT, names(&["c"]))].into();
    (observed.inside).insert("shop".to_owned(), Ok(Arc::new(catalog)));
    let rights = super::super::plan(&declared, &asked, Some(&server.role), &observed);
    let theirs = r#"GRANT SELECT ON TABLE "app"."d" TO "orders-api""#;
    says(
        &rights.problems,
        Reason::NotGrantable,
        &["1 table of", theirs],
    );
    let [note] = rights.notes.as_slice() else {
        panic!("one note is expected: {:?}", rights.notes);
    };
    assert!(note.contains("1 table of schema \"app\" (\"c\")"), "{note}");
    assert_eq!(rights.inside, BTreeMap::new());
}

// Red when: the message names pg_database_owner, as whom nobody signs in, or does not say how to be lent it.
#[test]
fn what_the_databases_owner_has_is_said_of_who_that_is() {
    let server = server(with_tables(&["a"]).with(table("c"), false));
    let declared = reads(&[Some("c")]);
    let mut observed = server.observed(&declared, &Asked::default());
    let mut catalog = DatabaseCatalog::clone(observed.inside["shop"].as_ref().unwrap());
    catalog.objects.get_mut(&table("c")).unwrap().owner = role("pg_database_owner");
    (observed.inside).insert("shop".to_owned(), Ok(Arc::new(catalog)));
    observed.databases.get_mut("shop").unwrap().owner = role("shopkeeper");
    let rights = super::super::plan(&declared, &Asked::default(), None, &observed);
    let lends = r#"GRANT "shopkeeper" TO "pg-operators""#;
    says(
        &rights.problems,
        Reason::NotGrantable,
        &["their owner \"shopkeeper\" can", lends],
    );
}

#[test]
fn all_gives_no_step_when_only_what_we_may_not_grant_is_left() {
    let shop = with_tables(&["a"]).with(table("c"), false);
    let mut server = server(shop);
    let (asked, rights) = server.settle(&reads(&[ALL]), Asked::default());
    says(&rights.problems, Reason::NotGrantable, &["1 table of"]);
    assert_eq!(server.plan(&reads(&[ALL]), &asked).inside, BTreeMap::new());
}

#[test]
fn what_others_granted_is_not_revoked_but_told() {
    let shop = with_tables(&["a", "b"])
        .granted(table("a"), SELECT, STRANGER)
        .granted(table("b"), SELECT, OWNER);
    let mut server = server(shop);
    let declared = exclusive(reads(&[Some("absent")]));
    let rights = server.plan(&declared, &Asked::default());
    // Red when: the fixed ones are in the step.
    let step = PrivilegeStep::Revoke {
        group: tables(),
        names: Names::AllBut(names(&["a", "absent"])),
        privileges: [SELECT].into(),
        of_others: true,
    };
    assert_eq!(inside(&rights), [step]);
    let (_, rights) = server.settle(&declared, Asked::default());
    let told = rights
        .problems
        .iter()
        .find(|problem| problem.reason == Reason::NotRevocable);
    let statement =
        r#"SET ROLE "stranger"; REVOKE SELECT ON TABLE "app"."a" FROM "orders-api"; RESET ROLE"#;
    assert!(told.unwrap().message.contains(statement), "{told:?}");
}

// Red when: in Additive `slot` looks at `fixed` instead of `stuck`, or does not look at `others`.
#[test]
fn additive_takes_back_what_is_ours_whoever_gave_it_too() {
    for (by_name, all) in [(Some(names(&["a"])), false), (None, true)] {
        for other in [STRANGER, LENDER] {
            let shop = with_tables(&["a", "b"])
                .granted(table("a"), SELECT, other)
                .granted(table("a"), SELECT, OWNER);
            let mut server = server(shop);
            let entry = AskedObjects {
                database: "shop".to_owned(),
                schema: "app".to_owned(),
                kind: Kind::Table,
                names: by_name.clone(),
                except: BTreeSet::new(),
                privileges: [SELECT].into(),
            };
            let asked = Asked {
                objects: vec![entry],
                ..Asked::default()
            };
            let step = revoke(if all {
                Names::AllBut(BTreeSet::new())
            } else {
                Names::Only(names(&["a"]))
            });
            assert_eq!(inside(&server.plan(&desired(), &asked)), [step]);
            let (asked_now, rights) = server.settle(&desired(), asked.clone());
            assert_eq!((asked_now, rights), Default::default(), "{other}");
            let left = [(table("a"), SELECT, other.to_owned())];
            assert_eq!(server.databases["shop"].acl, left.into());

            // Ours, and out of our hands.
            let shop = server.databases.get_mut("shop").unwrap();
            shop.acl.insert((table("a"), SELECT, LOST.to_owned()));
            let rights = server.plan(&desired(), &asked);
            let statement = r#"SET ROLE "lost"; REVOKE SELECT ON TABLE "app"."a" FROM "orders-api"; RESET ROLE"#;
            says(&rights.problems, Reason::NotRevocable, &[statement]);
            assert_eq!((inside(&rights), &rights.asked), (&[][..], &asked));
        }
    }
}

// Red when: `on_database` counts what only others gave, or Exclusive does not tell of it.
#[test]
fn what_another_gave_on_a_database_stays_and_is_told_where_the_policy_is_exclusive() {
    let mut server = server(Database::new());
    let held = [Privilege::Connect, Privilege::Create].into();
    server.role.databases = [("shop".to_owned(), held)].into();
    let others = [(Privilege::Connect, true), (Privilege::Create, false)].map(|(it, only)| {
        let grantor = role(STRANGER);
        let others = OfOthers {
            grantor,
            only,
            by_admin: None,
        };
        (it, others)
    });
    server.role.databases_of_others = [("shop".to_owned(), others.into())].into();
    let both = server.role.databases["shop"].clone();
    let asked = Asked {
        databases: [("shop".to_owned(), both)].into(),
        ..Asked::default()
    };
    let taken = RoleStep::RevokeDatabase {
        database: "shop".to_owned(),
        privileges: [Privilege::Create].into(),
    };
    let rights = server.plan(&desired(), &asked);
    assert_eq!(
        (rights.steps, rights.problems),
        (vec![taken.clone()], vec![])
    );
    assert_eq!(rights.asked.databases["shop"], [Privilege::Create].into());
    let mut declared = exclusive(desired());
    declared.privileges.databases.insert(DatabaseAsk {
        database: "shop".to_owned(),
        privilege: Privilege::Connect,
    });
    let rights = server.plan(&declared, &asked);
    assert_eq!(rights.steps, [taken]);
    let exact =
        r#"SET ROLE "stranger"; REVOKE CREATE ON DATABASE "shop" FROM "orders-api"; RESET ROLE"#;
    says(&rights.problems, Reason::NotRevocable, &[exact]);
}

// Red when: `on_database` forgets what it gave as another administrator, or takes it where nothing is
// recorded.
#[test]
fn what_we_gave_on_a_database_as_another_administrator_is_told_until_it_is_gone() {
    let mut server = server(Database::new());
    let held: BTreeSet<Privilege> = [Privilege::Connect].into();
    server.role.databases = [("shop".to_owned(), held.clone())].into();
    let former = OfOthers {
        grantor: role("former"),
        only: true,
        by_admin: Some(role("former")),
    };
    let others = [(Privilege::Connect, former)].into();
    server.role.databases_of_others = [("shop".to_owned(), others)].into();
    assert_eq!(
        server.plan(&desired(), &Asked::default()),
        Rights::default()
    );
    let asked = Asked {
        databases: [("shop".to_owned(), held)].into(),
        ..Asked::default()
    };
    let rights = server.plan(&desired(), &asked);
    let exact =
        r#"SET ROLE "former"; REVOKE CONNECT ON DATABASE "shop" FROM "orders-api"; RESET ROLE"#;
    says(&rights.problems, Reason::NotRevocable, &[exact]);
    assert_eq!((rights.steps, &rights.asked), (vec![], &asked));
}

// Red when: `give_all` takes what the role owns itself for something that it lacks.
#[test]
fn what_a_role_owns_itself_is_not_told_as_ungrantable() {
    // Where it holds nothing beside, nothing else says what is its own.
    let shop = Database::new()
        .with(table("own"), false)
        .with(table("theirs"), false);
    let mut server = server(shop);
    let shop = server.databases.get_mut("shop").unwrap();
    shop.owned.insert(table("own"));
    let rights = server.plan(&reads(&[ALL]), &Asked::default());
    let exact = r#"GRANT SELECT ON TABLE "app"."theirs" TO "orders-api""#;
    says(
        &rights.problems,
        Reason::NotGrantable,
        &["owner \"stranger\"", exact],
    );
}

#[test]
fn maintain_needs_17() {
    let mut server = server(with_tables(&["a"]));
    let mut declared = desired();
    let wanted = ask(tables(), Some("a"), Privilege::Maintain);
    declared.privileges.objects.insert(wanted);
    let rights = server.plan(&declared, &Asked::default());
    says(
        &rights.problems,
        Reason::NotSupportedByVersion,
        &["MAINTAIN", "17", "has 16"],
    );
    server.facts.version_num = 170_000;
    let rights = server.plan(&declared, &Asked::default());
    assert_ne!(
        rights.problems.first().map(|it| it.reason),
        Some(Reason::NotSupportedByVersion)
    );
}

#[test]
fn default_privileges_need_the_creators_privileges() {
    let mut server = server(with_tables(&["a"]));
    let declared = |owner: &str| {
        let mut desired = desired();
        let of = DefaultsOf {
            owner: role(owner),
            group: tables(),
        };
        desired.privileges.defaults.insert(DefaultAsk {
            database: "shop".to_owned(),
            of,
            privilege: SELECT,
        });
        desired
    };
    server.databases.get_mut("shop").unwrap().owners = [(role(STRANGER), false)].into();
    let rights = server.plan(&declared(STRANGER), &Asked::default());
    let exact = r#"GRANT "stranger" TO "pg-operators" WITH INHERIT TRUE"#;
    says(&rights.problems, Reason::NotGrantable, &[exact]);
    let rights = server.plan(&declared("nobody"), &Asked::default());
    says(&rights.problems, Reason::ObjectNotFound, &["\"nobody\""]);
    assert_eq!(
        (inside(&rights), &rights.asked),
        (&[][..], &Asked::default())
    );
}

#[test]
fn a_failed_look_is_never_an_absence() {
    let mut server = server(with_tables(&["a"]));
    let declared = reads(&[ALL]);
    let (asked, _) = server.settle(&declared, Asked::default());
    let failure = Failure::new(Class::Transient, Reason::ServerUnreachable, "cut");
    for desired in [declared, desired(), exclusive(reads(&[Some("b")]))] {
        let mut observed = server.observed(&desired, &asked);
        observed
            .inside
            .insert("shop".to_owned(), Err(failure.clone()));
        let rights = super::super::plan(&desired, &asked, Some(&server.role), &observed);
        // Red when: `in_database` does not remember what it cannot see.
        assert_eq!(rights.asked, asked);
        assert_eq!(
            (rights.problems, rights.inside),
            (vec![failure.clone()], BTreeMap::new())
        );
    }
    let shop = server.databases.get_mut("shop").unwrap();
    shop.entry.connectable = false;
    let rights = server.plan(&desired(), &asked);
    let exact = r#"GRANT CONNECT ON DATABASE "shop" TO "pg-operators""#;
    says(&rights.problems, Reason::DatabaseNotAccessible, &[exact]);
    assert_eq!(rights.asked, asked);
    // A database that is surely gone took everything with it.
    server.databases.clear();
    assert_eq!(server.plan(&desired(), &asked), Rights::default());
}

// Red when: `objects` does not look at columns in Exclusive, or does in Additive.
#[test]
fn what_is_on_single_columns_goes_where_the_policy_is_exclusive() {
    let held = |column: &str, fixed: Option<&str>| HeldColumn {
        table: table("a"),
        privilege: SELECT,
        column: column.to_owned(),
        fixed: fixed.map(role),
    };
    let mut server = server(with_tables(&["a", "b"]));
    let shop = server.databases.get_mut("shop").unwrap();
    shop.columns = [
        held("x", None),
        held("y\"", None),
        held("z", Some(STRANGER)),
    ]
    .into();
    let declared = reads(&[Some("b")]);
    let (asked, rights) = server.settle(&declared, Asked::default());
    assert_eq!(rights.problems, []);
    assert_eq!(server.databases["shop"].columns.len(), 3);
    let declared = exclusive(declared);
    let step = PrivilegeStep::RevokeColumns {
        group: tables(),
        name: "a".to_owned(),
        columns: [(SELECT, names(&["x", "y\""]))].into(),
    };
    assert_eq!(inside(&server.plan(&declared, &asked)), [step]);
    let (_, rights) = server.settle(&declared, asked);
    let exact = r#"SET ROLE "stranger"; REVOKE SELECT ("z") ON TABLE "app"."a" FROM "orders-api"; RESET ROLE"#;
    says(&rights.problems, Reason::NotRevocable, &[exact]);
}
