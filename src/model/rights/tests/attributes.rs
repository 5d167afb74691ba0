//! Attributes and settings.

use super::*;

#[test]
fn only_attributes_that_differ_are_sent() {
    let mut server = Server::default();
    server.role.attributes.create_db = true;
    let declared = Desired {
        attributes: DesiredAttributes {
            connection_limit: Some(5),
            create_db: Some(true),
            create_role: Some(false),
            inherit: Some(false),
            ..DesiredAttributes::default()
        },
        ..desired()
    };
    let rights = server.plan(&declared, &Asked::default());
    let changed = vec![Attribute::ConnectionLimit(5), Attribute::Inherit(false)];
    assert_eq!(rights.steps, [RoleStep::Alter(changed)]);
    // CREATEDB was there before: it is not ours to take.
    assert_eq!(
        rights.asked.attributes,
        names(&["connectionLimit", "inherit"])
    );

    let (asked, _) = server.settle(&declared, Asked::default());
    let rights = server.plan(&desired(), &asked);
    let back = vec![Attribute::ConnectionLimit(-1), Attribute::Inherit(true)];
    assert_eq!(rights.steps, [RoleStep::Alter(back)]);
    assert_eq!(
        rights.asked, asked,
        "remembered until it is seen to be back"
    );
    let (asked, _) = server.settle(&desired(), asked);
    assert_eq!(asked, Asked::default());
    assert!(server.role.attributes.create_db);
}

#[test]
fn what_azure_gives_an_administrator_stays() {
    let mut server = Server::default();
    server.role.attributes = Attributes {
        create_db: true,
        create_role: true,
        ..Attributes::default()
    };
    let mut declared = Desired {
        admin: true,
        ..desired()
    };
    let asked = Asked {
        attributes: names(&["createDb", "createRole"]),
        ..Asked::default()
    };
    // Red when: `of_azure` gives a default for administrators too.
    assert_eq!(server.plan(&declared, &asked).steps, []);
    declared.attributes.create_role = Some(false);
    let steps = server.plan(&declared, &Asked::default()).steps;
    assert_eq!(steps, [RoleStep::Alter(vec![Attribute::CreateRole(false)])]);
}

#[test]
fn a_role_is_opened_only_by_whom_it_was_closed() {
    let closed = DesiredAttributes {
        login: false,
        ..DesiredAttributes::default()
    };
    let closed = Desired {
        attributes: closed,
        ..desired()
    };
    let mut server = Server::default();
    let (asked, _) = server.settle(&closed, Asked::default());
    assert_eq!(
        (server.role.can_login, &asked.attributes),
        (false, &names(&["login"]))
    );
    let (asked, _) = server.settle(&desired(), asked);
    assert!(server.role.can_login);
    assert_eq!(asked, Asked::default());

    // Closed by a database administrator, whatever is declared.
    server.role.can_login = false;
    let (asked, _) = server.settle(&closed, asked);
    assert_eq!(asked, Asked::default());
    // Red when: `login` opens a role that nobody remembers to have closed.
    assert_eq!(server.plan(&desired(), &asked).steps, []);
}

#[test]
fn lists_of_identifiers_are_compared_as_lists() {
    let list = |value| identifiers("search_path", value);
    let items = |items: &[&str]| Some(items.iter().map(|&item| item.to_owned()).collect());
    for (value, expected) in [
        ("app, public", items(&["app", "public"])),
        ("App,\"Public\" ", items(&["app", "Public"])),
        (r#""$user", "a ""b"", c""#, items(&["$user", "a \"b\", c"])),
        ("'app', 'it''s'", items(&["app", "it's"])),
        ("", items(&[""])),
        ("\"\"", items(&[""])),
        ("app,", None),
        ("\"app", None),
        ("a b", None),
    ] {
        assert_eq!(list(value), expected, "{value}");
    }
    assert_eq!(identifiers("statement_timeout", "30s"), None);
}

#[test]
fn a_setting_is_sent_when_the_server_stores_another_value() {
    let mut server = Server::default();
    let stored = [
        ("search_path", "app, \"Shop\""),
        ("work_mem", "4MB"),
        ("lock_timeout", "1s"),
    ];
    server.role.settings = stored
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut declared = desired();
    let wanted = [("search_path", "APP,\"Shop\""), ("work_mem", "8MB")];
    declared.settings = wanted
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let rights = server.plan(&declared, &Asked::default());
    let set = RoleStep::Set {
        name: "work_mem".to_owned(),
        value: "8MB".to_owned(),
    };
    assert_eq!(rights.steps, [set]);
    assert_eq!(rights.asked.settings, names(&["work_mem"]));
    let (asked, _) = server.settle(&declared, Asked::default());
    let rights = server.plan(&desired(), &asked);
    assert_eq!(rights.steps, [RoleStep::Reset("work_mem".to_owned())]);
    let (asked, _) = server.settle(&desired(), asked);
    assert_eq!(asked, Asked::default());
    assert!(server.role.settings.contains_key("lock_timeout"));
}

// Red when: `plan` does not ask whether a parameter is free.
#[test]
fn only_what_a_role_may_set_for_itself_is_set() {
    let server = Server::default();
    let mut declared = desired();
    for (name, allowed) in [
        ("work_mem", true),
        ("app.tenant", true),
        ("session_replication_role", false),
        ("auto_explain.log_analyze", false),
        ("no_such_parameter", false),
    ] {
        declared.settings = [(name.to_owned(), "x".to_owned())].into();
        let rights = server.plan(&declared, &Asked::default());
        assert_eq!(rights.steps.len(), usize::from(allowed), "{name}");
        assert_eq!(rights.asked.settings.len(), usize::from(allowed), "{name}");
        if !allowed {
            says(&rights.problems, Reason::SettingNotAllowed, &[name]);
        }
    }
}

// Red when: `plan` sets a list that it cannot compare: it would be set for ever.
#[test]
fn a_list_that_is_none_is_said_and_not_set() {
    let mut server = Server::default();
    let mut declared = desired();
    let path = |value: &str| [("search_path".to_owned(), value.to_owned())].into();
    server.role.settings = path("app");
    let asked = Asked {
        settings: names(&["search_path"]),
        ..Asked::default()
    };
    for value in ["app,", "app public", "\"app"] {
        declared.settings = path(value);
        let rights = server.plan(&declared, &asked);
        says(
            &rights.problems,
            Reason::InvalidSpec,
            &["search_path", "write it as SQL has it"],
        );
        assert_eq!((rights.steps, &rights.asked), (vec![], &asked), "{value}");
    }
}

// Red when: `role` counts as unknown because the server hides it, or may be a role without SET.
#[test]
fn sessions_may_begin_as_a_role_that_is_declared_with_set() {
    let with = |options: MembershipOptions| {
        let mut declared = desired();
        declared.member_of.insert(role("owners"), options);
        let setting = ("role".to_owned(), "owners".to_owned());
        declared.settings.extend([setting]);
        declared
    };
    let server = Server::default();
    let planned = |declared: &Desired| server.plan(declared, &Asked::default());
    let set = RoleStep::Set {
        name: "role".to_owned(),
        value: "owners".to_owned(),
    };
    assert!(planned(&with(USUAL)).steps.contains(&set));
    let without = MembershipOptions {
        set: false,
        ..USUAL
    };
    let rights = planned(&with(without));
    assert!(!rights.steps.contains(&set));
    let problem = rights
        .problems
        .iter()
        .find(|it| it.reason == Reason::SettingNotAllowed);
    assert!(
        problem.is_some_and(|it| it.message.contains("memberOf")),
        "{:?}",
        rights.problems
    );
}

// Red when: a parameter that the server has and one that it does not know are told in one sentence.
#[test]
fn an_unknown_parameter_and_one_that_is_not_the_roles_are_told_apart() {
    let server = Server::default();
    let said = |name: &str| {
        let mut declared = desired();
        declared
            .settings
            .extend([(name.to_owned(), "x".to_owned())]);
        let rights = server.plan(&declared, &Asked::default());
        rights
            .problems
            .first()
            .map(|it| it.message.clone())
            .unwrap_or_default()
    };
    assert!(said("auto_explain.log_analyze").contains("none that a role may set"));
    assert!(said("no_such").contains("correct its name"));
}
