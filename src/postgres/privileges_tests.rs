//! Statements inside databases, and what their answers become.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::message::Table;
use super::privilege_steps::{show_privilege_steps, statement};
use super::privileges_sql::{TooLarge, catalog, facts};
use crate::api::Privilege;
use crate::model::database::On;
use crate::model::{
    DatabaseInterest, DefaultsOf, Group, Kind, Names, Object, PrivilegeStep, RoleName,
};

fn role(text: &str) -> RoleName {
    RoleName::parse(text).unwrap()
}

fn group(schema: &str, kind: Kind) -> Group {
    let schema = schema.to_owned();
    Group { schema, kind }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn privileges(privileges: &[Privilege]) -> BTreeSet<Privilege> {
    privileges.iter().copied().collect()
}

fn grant(group: Group, names: Names) -> PrivilegeStep {
    PrivilegeStep::Grant {
        group,
        names,
        privileges: privileges(&[Privilege::Select, Privilege::Insert]),
    }
}

fn revoke(group: Group, names: Names) -> PrivilegeStep {
    PrivilegeStep::Revoke {
        group,
        names,
        privileges: privileges(&[Privilege::Execute]),
        of_others: false,
    }
}

#[test]
fn named_tables_are_granted_on_plainly_and_quoted() {
    let step = grant(
        group("a\"b", Kind::Table),
        Names::Only(names(&["T 'x", "t; DROP"])),
    );
    assert_eq!(
        statement(&role("o'brien \"x\""), &step),
        r#"GRANT SELECT, INSERT ON TABLE "a""b"."T 'x", "a""b"."t; DROP" TO "o'brien ""x""""#
    );
}

// Red when: functions are written into statements by the text of their signature.
#[test]
fn functions_are_found_by_the_server_from_their_printed_signature() {
    let odd = "f\"(text); DROP ROLE x; --'(integer)";
    for step in [
        grant(group("app", Kind::Function), Names::Only(names(&[odd]))),
        revoke(group("app", Kind::Function), Names::Only(names(&[odd]))),
    ] {
        let text = statement(&role("r"), &step);
        assert!(text.starts_with("DO '"), "{text}");
        // A literal within the literal of the block.
        assert!(text.contains("ARRAY[''f\"(text); DROP ROLE x; --''''(integer)'']::text[]"));
        assert!(text.contains("pg_catalog.regprocedure"));
        assert!(text.contains("''FUNCTION''"));
        assert!(!text.contains("ROUTINE"));
    }
}

#[test]
fn all_but_some_are_chosen_in_the_server_and_never_what_the_role_owns() {
    let step = grant(group("app", Kind::Table), Names::AllBut(names(&["t3"])));
    let text = statement(&role("r"), &step);
    assert!(text.contains("t.name <> ALL (ARRAY[''t3'']::text[])"));
    assert!(text.contains("t.owner <> r.oid"));
    assert!(text.contains("o.mine OR EXISTS"));
    let named = grant(group("app", Kind::Function), Names::Only(names(&["f()"])));
    assert!(!statement(&role("r"), &named).contains("o.mine OR EXISTS"));
}

#[test]
fn people_are_shown_what_they_would_write() {
    let of = DefaultsOf {
        owner: role("app owner"),
        group: group("app", Kind::Function),
    };
    let execute = privileges(&[Privilege::Execute]);
    let steps = [
        grant(group("app", Kind::Table), Names::AllBut(BTreeSet::new())),
        grant(
            group("app", Kind::Sequence),
            Names::AllBut(names(&["a\nb"])),
        ),
        revoke(
            group("app", Kind::Function),
            Names::Only(names(&["total(integer, text)"])),
        ),
        PrivilegeStep::Grant {
            group: group("app", Kind::Schema),
            names: Names::Only(names(&["app"])),
            privileges: privileges(&[Privilege::Usage]),
        },
        PrivilegeStep::RevokeColumns {
            group: group("app", Kind::Table),
            name: "t1".to_owned(),
            columns: [
                (Privilege::Select, names(&["a", "b)"])),
                (Privilege::Update, names(&["a"])),
            ]
            .into(),
        },
        PrivilegeStep::GrantDefault {
            of: of.clone(),
            privileges: execute.clone(),
        },
        PrivilegeStep::RevokeDefault {
            of,
            privileges: execute,
        },
    ];
    assert_eq!(
        show_privilege_steps(&role("r"), &steps),
        [
            r#"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA "app" TO "r""#,
            r#"GRANT SELECT, INSERT ON ALL SEQUENCES IN SCHEMA "app" TO "r" -- but not on a b"#,
            r#"REVOKE EXECUTE ON ROUTINE "app"."total"(integer, text) FROM "r""#,
            r#"GRANT USAGE ON SCHEMA "app" TO "r""#,
            r#"REVOKE SELECT ("a", "b)"), UPDATE ("a") ON TABLE "app"."t1" FROM "r""#,
            r#"ALTER DEFAULT PRIVILEGES FOR ROLE "app owner" IN SCHEMA "app" GRANT EXECUTE ON ROUTINES TO "r""#,
            r#"ALTER DEFAULT PRIVILEGES FOR ROLE "app owner" IN SCHEMA "app" REVOKE EXECUTE ON ROUTINES FROM "r""#,
        ]
    );
}

fn interest() -> DatabaseInterest {
    DatabaseInterest {
        groups: BTreeSet::from([group("app", Kind::Table)]),
        objects: BTreeSet::from([Object {
            group: group("it's", Kind::Function),
            name: "f(int)".to_owned(),
        }]),
        owners: BTreeSet::from([role("maker")]),
    }
}

#[test]
fn the_question_names_only_roles_and_objects_of_interest() {
    let text = facts(&BTreeSet::from([role("r'1")]), &interest());
    for part in [
        "r.rolname = ANY (ARRAY['r''1']::text[]::name[])",
        "unnest(ARRAY['app']::text[], ARRAY['table']::text[])",
        "unnest(ARRAY['it''s']::text[], ARRAY['function']::text[], ARRAY['f(int)']::text[])",
        "unnest(ARRAY['app', 'it''s']::text[])",
        "unnest(ARRAY['maker']::text[]::name[])",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

fn answer(rows: &[&str]) -> Table {
    let rows: Vec<[Option<&str>; 1]> = rows.iter().map(|row| [Some(*row)]).collect();
    let rows: Vec<&[Option<&str>]> = rows.iter().map(<[_; 1]>::as_slice).collect();
    Table::new(&["fact"], &rows)
}

#[test]
fn rows_become_what_a_role_has_and_what_we_may_grant() {
    let rows = [
        r#"{"what":"object","kind":"schema","schema":"app","name":"app","owner":"maker","grantable":["USAGE"],"grantees":2}"#,
        r#"{"what":"group","kind":"table","schema":"app","total":3,"grantees":9,"name":"t1"}"#,
        r#"{"what":"refusing","kind":"table","schema":"app","privileges":["INSERT","SELECT"],"names":["t3"],"owner":"other"}"#,
        r#"{"what":"refusing","kind":"table","schema":"app","privileges":["SELECT"],"names":["t2"],"owner":"second"}"#,
        r#"{"what":"signatures","schema":"it's","name":"f(int)","names":["f(integer)"]}"#,
        r#"{"what":"speaker","owner":"maker","mine":false}"#,
        r#"{"what":"owned","role":"r","kind":"table","schema":"app"}"#,
        r#"{"what":"held","role":"r","kind":"table","schema":"app","privilege":"SELECT","names":["t1","mine"],"fixed":{"t1":"dba"},"stuck":null,"others":["t1"],"owned":["mine"]}"#,
        r#"{"what":"held","role":"r","kind":"schema","schema":"app","privilege":"USAGE","names":null,"fixed":null,"stuck":{"app":"lost"},"others":null,"owned":null}"#,
        r#"{"what":"column","role":"r","schema":"app","name":"t1","column":"a","privilege":"SELECT","fixed":"dba"}"#,
        r#"{"what":"default","role":"r","owner":"maker","kind":"table","schema":"app","privileges":["SELECT","MAINTAIN"]}"#,
    ];
    let roles = BTreeSet::from([role("r")]);
    let (known, large) = catalog(roles, interest(), &answer(&rows)).unwrap();
    assert_eq!(large, TooLarge::default());
    assert_eq!(
        known.schemas["app"].grantable,
        privileges(&[Privilege::Usage])
    );
    assert!(
        known.objects.is_empty(),
        "the schema was not asked for as an object"
    );
    let tables = &known.groups[&group("app", Kind::Table)];
    assert_eq!(tables.total, 3);
    assert_eq!(tables.most_grantees, Some(("t1".to_owned(), 9)));
    let by = |owner, of| (role(owner), names(of));
    let insert = [by("other", &["t3"])];
    let select = [by("other", &["t3"]), by("second", &["t2"])];
    assert_eq!(tables.ungrantable[&Privilege::Select], select.into());
    assert_eq!(tables.ungrantable[&Privilege::Insert], insert.into());
    assert!(!known.owners[&role("maker")]);
    let held = &known.held[&role("r")];
    assert!(held.owned.contains(&group("app", Kind::Table)));
    let tables = &held.objects[&(group("app", Kind::Table), Privilege::Select)];
    assert_eq!(tables.on, On::Some(names(&["mine", "t1"])));
    assert_eq!(tables.fixed["t1"], role("dba"));
    assert_eq!(tables.owned, names(&["mine"]));
    let schema = &held.objects[&(group("app", Kind::Schema), Privilege::Usage)];
    assert_eq!(schema.on, On::All);
    assert_eq!(schema.stuck["app"], role("lost"));
    assert_eq!(tables.others, names(&["t1"]));
    assert_eq!(held.defaults.len(), 2);
    let column = held.columns.first().unwrap();
    assert_eq!(
        (column.column.as_str(), &column.fixed),
        ("a", &Some(role("dba")))
    );
}

// Red when: what was left out is taken for absent.
#[test]
fn only_whose_role_or_group_is_too_large_gets_no_answer() {
    let rows = [
        r#"{"what":"largeRole","role":"big"}"#,
        r#"{"what":"largeGroup","kind":"table","schema":"app"}"#,
    ];
    let roles = BTreeSet::from([role("big"), role("r")]);
    let (_, large) = catalog(roles, interest(), &answer(&rows)).unwrap();
    let nothing = DatabaseInterest::default();
    let told = |of: &str, interest| large.of(&role(of), interest);
    assert!(told("big", &nothing).unwrap().contains("role \"big\""));
    assert_eq!(told("r", &nothing), None);
    let of_group = DatabaseInterest {
        groups: BTreeSet::from([group("app", Kind::Table)]),
        ..DatabaseInterest::default()
    };
    assert!(told("r", &of_group).unwrap().contains("schema \"app\""));
}

#[test]
fn an_answer_that_was_not_asked_for_is_none() {
    let read = |row: &str| catalog(BTreeSet::new(), interest(), &answer(&[row]));
    assert_eq!(read(r#"{"what":"surprise"}"#), None);
    assert_eq!(read("no json"), None);
}

/// Rows that a server may answer, with names of any length.
fn any_fact() -> impl Strategy<Value = String> {
    let names = proptest::collection::vec(".{0,40}", 0..20);
    let whats = [
        "object",
        "group",
        "refusing",
        "signatures",
        "speaker",
        "owned",
        "held",
        "column",
        "default",
        "largeRole",
        "largeGroup",
    ];
    let kind = proptest::sample::select(vec!["table", "schema", "function", "sequence", "x"]);
    let what = proptest::sample::select(whats.to_vec());
    (what, kind, names, ".{0,70}", any::<u32>()).prop_map(|(what, kind, names, name, n)| {
        serde_json::json!({
            "what": what, "kind": kind, "schema": name, "name": name, "owner": "o", "role": name, "super": n % 2 == 0,
            "grantable": ["SELECT"], "privileges": ["SELECT", "USAGE"], "privilege": "SELECT", "grantees": n, "total": n,
            "mine": true, "names": names, "fixed": {"t": "o"}, "stuck": null, "others": names, "owned": null, "column": name,
        })
        .to_string()
    })
}

proptest! {
    // Red when: a row makes the parser break, or keeps more than it has.
    #[test]
    fn any_rows_of_a_database_are_read_in_memory_linear_in_them(
        facts in proptest::collection::vec(any_fact(), 0..40),
        noise in proptest::option::of("\\PC{0,60}"),
    ) {
        let rows: Vec<&str> = facts.iter().chain(&noise).map(String::as_str).collect();
        let bytes: usize = rows.iter().map(|row| row.len()).sum();
        if let Some(read) = catalog(BTreeSet::from([role("r")]), interest(), &answer(&rows)) {
            let kept = format!("{read:?}").len();
            prop_assert!(kept < 4_000 + 20 * bytes);
        }
    }
}
