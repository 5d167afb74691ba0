//! Quoting, with names that try to break out.

use super::questions;
use super::sql::*;
use crate::model::{ObjectId, RoleName, Subjects};
use proptest::prelude::*;

/// Reads a literal as the server's scanner does.
fn unquote(text: &str) -> Option<String> {
    let (body, escapes) = match text.strip_prefix('E') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let body = body.strip_prefix('\'')?.strip_suffix('\'')?;
    let mut out = String::new();
    let mut rest = body.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => out.push(rest.next().filter(|next| *next == '\'')?),
            '\\' if escapes => out.push(rest.next().filter(|next| *next == '\\')?),
            '\\' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

const NASTY: [&str; 8] = [
    "o'brien",
    r"back\slash",
    r"\'; DROP ROLE x; --",
    "100% %I %L %s",
    "$$ $body$",
    "guest_example.com#EXT#@tenant.onmicrosoft.com",
    "Łódź \u{1F600}\nnew line",
    "\"quoted\"",
];

#[test]
fn nasty_texts_stay_one_literal_also_inside_a_block() {
    for text in NASTY {
        assert_eq!(unquote(&literal(text)).as_deref(), Some(text));
        let role = RoleName::parse(text).unwrap();
        let block = settle(&role, None, "user", text);
        let body = unquote(block.strip_prefix("DO ").unwrap()).unwrap();
        assert!(body.contains(&format!("v_role constant text := {};", literal(text))));
    }
}

#[test]
fn identifiers_double_their_quotes() {
    let role = RoleName::parse(r#"a"b\c%"#).unwrap();
    assert_eq!(
        forget_password(&role),
        r#"ALTER ROLE "a""b\c%" PASSWORD NULL"#
    );
}

#[test]
fn a_label_says_what_the_documentation_says() {
    let id = ObjectId::parse("11111111-2222-3333-4444-555555555555").unwrap();
    assert_eq!(
        label_text(&id, "group", true, false),
        "aadauth,oid=11111111-2222-3333-4444-555555555555,type=group,admin"
    );
}

#[test]
fn a_question_about_nothing_is_still_valid_sql() {
    let sql = questions::facts(&Subjects::default());
    assert!(sql.contains("ANY (ARRAY[]::name[])"));
}

proptest! {
    #[test]
    fn every_literal_reads_back(text in "[^\u{0}]{0,80}") {
        prop_assert_eq!(unquote(&literal(&text)), Some(text));
    }
}
