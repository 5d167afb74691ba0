//! Who hears of an answer that was asked for by somebody else.

use super::*;
use crate::model::Kind;

fn role(name: &str) -> RoleName {
    RoleName::parse(name).expect("a name")
}

fn tables(schema: &str) -> DatabaseInterest {
    let group = Group {
        schema: schema.to_owned(),
        kind: Kind::Table,
    };
    DatabaseInterest {
        groups: [group].into(),
        ..DatabaseInterest::default()
    }
}

/// The answer to these roles' question about all tables of a schema, which has so many.
fn answer(roles: &[&str], schema: &str, total: u32) -> DatabaseCatalog {
    let asked = tables(schema);
    let facts = GroupFacts {
        total,
        ..GroupFacts::default()
    };
    let groups = asked
        .groups
        .iter()
        .map(|group| (group.clone(), facts.clone()));
    DatabaseCatalog {
        roles: roles.iter().map(|name| role(name)).collect(),
        groups: groups.collect(),
        asked,
        ..DatabaseCatalog::default()
    }
}

// Red when: an answer is folded in and only who asked hears of it: the next snapshot differs in nothing.
#[test]
fn an_answer_is_news_to_others_that_are_interested_in_the_same() {
    let (app, other) = (tables("app"), tables("other"));
    let (a, b, c, d) = (role("a"), role("b"), role("c"), role("d"));
    let interests = [(&a, &app), (&b, &other), (&c, &app), (&d, &app)];
    let mut known = answer(&["a"], "app", 0);
    known.fold(answer(&["b"], "other", 0));
    let news = |newer: &DatabaseCatalog| known.surprised(newer, interests.into_iter());
    // Not to who asked, nor to who is not covered yet and asks, nor to who wants something else.
    assert_eq!(news(&answer(&["c"], "app", 5)), [a.clone()].into());
    assert_eq!(news(&answer(&["c"], "app", 0)), BTreeSet::new());
    // What nobody had asked about is no news, and takes nothing from what is known.
    assert_eq!(news(&answer(&["c"], "third", 5)), BTreeSet::new());
    assert_eq!(news(&answer(&["a", "c"], "app", 5)), BTreeSet::new());
}
