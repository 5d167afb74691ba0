//! Rows to facts.

use super::*;
use crate::model::Interest;

const ID: &str = "11111111-0000-0000-0000-00000000000a";
const COLUMNS: [&str; 19] = [
    "name",
    "oid",
    "can_login",
    "wanted",
    "privileged",
    "comment",
    "id",
    "kind",
    "admin",
    "mfa",
    "connection_limit",
    "create_db",
    "create_role",
    "inherit",
    "settings",
    "memberships",
    "databases",
    "databases_of_others",
    "administrative",
];

fn name(text: &str) -> RoleName {
    RoleName::parse(text).unwrap()
}

const SETTINGS: &str = r#"{"search_path": "\"a\"\"b\", c", "work_mem": "4MB"}"#;
const MEMBERSHIPS: &str = r#"[{"role": "readers", "grantor": "dba", "admin": false,
    "inherit": true, "set": false, "revocable": false, "ours": false, "by_admin": true, "by_server": true}]"#;
const OF_OTHERS: &str =
    r#"{"orders": {"TEMPORARY": {"grantor": "dba", "only": true, "admin": "former"}}}"#;
const HELD: &str = r#"{"orders": ["CONNECT", "FUTURE", "TEMPORARY"]}"#;

fn head(read_only: &str) -> Table {
    Table::new(
        &[
            "version",
            "version_num",
            "administrator",
            "read_only",
            "group_sync",
        ],
        &[&[
            Some("15.20 (Debian 15.20-0)"),
            Some("150020"),
            Some("boss"),
            Some(read_only),
            Some("f"),
        ]],
    )
}

fn rows() -> Table {
    let (t, f) = (Some("t"), Some("f"));
    Table::new(
        &COLUMNS,
        &[
            &[
                Some("boss"),
                Some("10"),
                t,
                f,
                t,
                None,
                Some(ID),
                Some("group"),
                t,
                f,
                Some("-1"),
                t,
                t,
                t,
                None,
                None,
                None,
                None,
                None,
            ],
            &[
                Some("mine"),
                Some("11"),
                t,
                t,
                f,
                Some("hello"),
                None,
                None,
                None,
                None,
                Some("7"),
                f,
                t,
                f,
                Some(SETTINGS),
                Some(MEMBERSHIPS),
                Some(HELD),
                Some(OF_OTHERS),
                Some(r#"["between"]"#),
            ],
        ],
    )
}

fn asked() -> Subjects {
    Subjects {
        names: BTreeSet::from([name("mine"), name("gone")]),
        targets: BTreeSet::from([name("readers"), name("nobody")]),
        databases: BTreeSet::from(["orders".to_owned(), "gone".to_owned()]),
        ..Subjects::default()
    }
}

fn read(read_only: &str) -> Catalog {
    let tables = [head(read_only), loose(), rows(), targets(), databases()];
    catalog("server", asked(), &tables).unwrap()
}

fn loose() -> Table {
    Table::new(
        &["unmanaged", "group_members", "names"],
        &[&[Some("2"), Some("3"), Some(r#"["a", "b\"c"]"#)]],
    )
}

fn targets() -> Table {
    Table::new(
        &["target", "administrator", "grantable", "member_of"],
        &[&[Some("readers"), Some("f"), Some("t"), Some(r#"["deep"]"#)]],
    )
}

fn databases() -> Table {
    let (t, f) = (Some("t"), Some("f"));
    let columns = [
        "database",
        "owner",
        "connectable",
        "open",
        "grants_create",
        "grants_connect",
        "grants_temporary",
        "grantees",
    ];
    let row = &[Some("orders"), Some("boss"), t, t, f, t, t, Some("4")];
    Table::new(&columns, &[row])
}

#[test]
fn rows_become_roles_and_holders() {
    let catalog = read("f");
    assert_eq!(
        (catalog.version.as_str(), catalog.version_num),
        ("15.20", 150_020)
    );
    assert_eq!(catalog.roles.keys().collect::<Vec<_>>(), [&name("mine")]);
    let view = catalog.view(&name("gone"), &Interest::default()).unwrap();
    assert_eq!(view.role, None);
    assert!(view.holders[&ObjectId::parse(ID).unwrap()].admin);
    assert!(catalog.view(&name("boss"), &Interest::default()).is_none());
}

#[test]
fn a_row_tells_all_rights_of_a_role() {
    let catalog = read("f");
    let facts = &catalog.roles[&name("mine")];
    let attributes = Attributes {
        connection_limit: 7,
        create_db: false,
        create_role: true,
        inherit: false,
    };
    assert_eq!(facts.attributes, attributes);
    assert_eq!(facts.settings["search_path"], r#""a""b", c"#);
    let membership = facts.memberships[&name("readers")].first().unwrap();
    assert_eq!(membership.grantor, name("dba"));
    assert!(membership.options.inherit && !membership.options.set && !membership.revocable);
    assert!(membership.by_server && membership.by_admin && !membership.ours);
    let others = &facts.databases_of_others["orders"][&Privilege::Temporary];
    assert_eq!(others.by_admin, Some(name("former")));
    assert_eq!(facts.administrative, BTreeSet::from([name("between")]));
    assert!(facts.is_administrative());
    let held = BTreeSet::from([Privilege::Connect, Privilege::Temporary]);
    assert_eq!(facts.databases["orders"], held);
}

#[test]
fn what_was_asked_beside_the_roles_is_known_or_absent() {
    let catalog = read("f");
    assert!(catalog.targets[&name("readers")].grantable);
    assert!(
        catalog.targets[&name("readers")]
            .member_of
            .contains(&name("deep"))
    );
    assert!(catalog.covers_targets.contains(&name("nobody")) && catalog.targets.len() == 1);
    let orders = &catalog.databases["orders"];
    assert_eq!((orders.owner.as_str(), orders.grantees), ("boss", 4));
    assert!(orders.connectable && !orders.grantable.contains(&Privilege::Create));
    assert!(catalog.covers_databases.contains("gone") && catalog.databases.len() == 1);
    let Unmanaged {
        count,
        names,
        group_members,
    } = catalog.unmanaged;
    assert_eq!((count, group_members), (2, 3));
    assert_eq!(names, ["a", "b\"c"]);
}

#[test]
fn only_an_entra_administrator_on_a_writable_server_will_do() {
    assert_eq!(check("server", &read("f")), Ok(()));
    let refused = |catalog: &Catalog| check("server", catalog).unwrap_err().reason;
    assert_eq!(refused(&read("t")), Reason::ServerReadOnly);
    let mut stranger = read("f");
    "mine".clone_into(&mut stranger.administrator);
    assert_eq!(refused(&stranger), Reason::NotAnEntraAdministrator);
}

#[test]
fn an_answer_without_rows_is_no_catalog() {
    let empty = catalog("server", Subjects::default(), &[]);
    assert_eq!(empty.unwrap_err().class, Class::Transient);
}

/// A value that a server may answer: nothing, a word, a number, JSON of any shape.
fn any_value() -> impl proptest::strategy::Strategy<Value = Option<String>> {
    use proptest::prelude::*;
    prop_oneof![
        Just(None),
        Just(Some("t".to_owned())),
        Just(Some(ID.to_owned())),
        Just(Some(MEMBERSHIPS.to_owned())),
        Just(Some(OF_OTHERS.to_owned())),
        any::<i64>().prop_map(|n| Some(n.to_string())),
        "\\PC{0,80}".prop_map(Some),
    ]
}

proptest::proptest! {
    // Red when: a row makes the reader break, or keeps more than it has.
    #[test]
    fn any_rows_of_roles_are_read_in_memory_linear_in_them(
        rows in proptest::collection::vec(proptest::collection::vec(any_value(), 19), 0..20),
    ) {
        let rows: Vec<Vec<Option<&str>>> = rows
            .iter()
            .map(|row| row.iter().map(Option::as_deref).collect())
            .collect();
        let bytes: usize = rows.iter().flatten().flatten().map(|text| text.len()).sum();
        let slices: Vec<&[Option<&str>]> = rows.iter().map(Vec::as_slice).collect();
        let table = Table::new(&COLUMNS, &slices);
        let read = facts(Subjects::default(), &[head("f"), table]);
        let most = 2_000 + 2_000 * rows.len() + 20 * bytes;
        let kept = format!("{read:?}").len();
        proptest::prop_assert!(kept < most);
    }
}
