//! How objects are written in statements that people read and run. Must not write a name in any other
//! way than quoted: whoever may create objects chooses their names.

use std::collections::{BTreeMap, BTreeSet};

use postgres_protocol::escape::escape_identifier;

use super::{Group, Kind};
use crate::api::Privilege;

/// Types of more than one word, as `PostgreSQL` prints them; all others are one identifier.
const WORDY: [&str; 7] = [
    "bit varying",
    "character varying",
    "double precision",
    "time with time zone",
    "time without time zone",
    "timestamp with time zone",
    "timestamp without time zone",
];

/// The word by which GRANT and REVOKE know objects of a kind.
pub fn sort(kind: Kind) -> &'static str {
    match kind {
        Kind::Schema => "SCHEMA",
        Kind::Table => "TABLE",
        Kind::Sequence => "SEQUENCE",
        Kind::Function => "ROUTINE",
    }
}

/// An object of a group; `None` for the name of a function that is no signature as the server prints it.
pub fn object(group: &Group, name: &str) -> Option<String> {
    let schema = escape_identifier(&group.schema);
    if group.kind != Kind::Function {
        return Some(format!("{schema}.{}", escape_identifier(name)));
    }
    let (function, arguments) = signature(name)?;
    Some(format!(
        "{schema}.{}({arguments})",
        escape_identifier(function)
    ))
}

/// Privileges on columns, as GRANT and REVOKE name them.
pub fn columns(columns: &BTreeMap<Privilege, BTreeSet<String>>) -> String {
    let one = |(privilege, columns): (&Privilege, &BTreeSet<String>)| {
        let columns: Vec<String> = columns.iter().map(|name| escape_identifier(name)).collect();
        format!("{privilege} ({})", columns.join(", "))
    };
    let all: Vec<String> = columns.iter().map(one).collect();
    all.join(", ")
}

/// A function's own name, which may have any character, and the types of its arguments. There is one way
/// at most to cut it: in a list of types a `(` can only stand between quotes, and if it did so in a list
/// that begins earlier, what follows it would end within quotes.
fn signature(name: &str) -> Option<(&str, &str)> {
    let inner = name.strip_suffix(')')?;
    let mut cuts = inner.match_indices('(').filter(|(at, _)| *at > 0);
    cuts.find_map(|(at, _)| {
        let (function, arguments) = (inner.get(..at)?, inner.get(at + 1..)?);
        is_types(arguments).then_some((function, arguments))
    })
}

fn is_types(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(after) = after_type(rest) else {
            return false;
        };
        rest = match after.strip_prefix(", ") {
            Some(next) if !next.is_empty() => next,
            _ => return after.is_empty(),
        };
    }
    true
}

/// What comes after the type that a text begins with.
fn after_type(text: &str) -> Option<&str> {
    let wordy = WORDY.iter().find_map(|words| text.strip_prefix(words));
    let after = wordy.or_else(|| {
        let after = after_identifier(text)?;
        let name = after.strip_prefix('.');
        name.map_or(Some(after), after_identifier)
    })?;
    Some(after.strip_prefix("[]").unwrap_or(after))
}

fn after_identifier(text: &str) -> Option<&str> {
    let Some(mut quoted) = text.strip_prefix('"') else {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let after = text.trim_start_matches(plain);
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        return begins.then_some(after);
    };
    loop {
        let (_, after) = quoted.split_once('"')?;
        match after.strip_prefix('"') {
            Some(more) => quoted = more,
            None => return Some(after),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn function(name: &str) -> Option<String> {
        let schema = "a\"b".to_owned();
        let kind = Kind::Function;
        object(&Group { schema, kind }, name)
    }

    /// The words of a statement as `PostgreSQL` reads them, quoted ones after a quote; `None` where it would
    /// see a comment, a literal, or the end of a statement.
    fn words(statement: &str) -> Option<Vec<String>> {
        let mut words = vec![String::new()];
        let mut chars = statement.chars().peekable();
        let mut quoted = false;
        while let Some(c) = chars.next() {
            let last = words.last_mut()?;
            match c {
                '"' if quoted && chars.next_if_eq(&'"').is_some() => last.push('"'),
                '"' if quoted => quoted = false,
                '"' => {
                    quoted = true;
                    last.push('"');
                    continue;
                }
                _ if quoted => last.push(c),
                ' ' | '.' | ',' | '(' | ')' | '[' | ']' => words.push(c.to_string()),
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => last.push(c),
                _ => return None,
            }
            if !quoted && !c.is_ascii_alphanumeric() && c != '_' {
                words.push(String::new());
            }
        }
        (!quoted).then_some(words)
    }

    #[test]
    fn signatures_are_cut_where_the_arguments_begin() {
        for (name, written) in [
            ("f()", r#""a""b"."f"()"#),
            ("f(integer, text)", r#""a""b"."f"(integer, text)"#),
            (
                "f(app.mood, numeric, double precision[])",
                r#""a""b"."f"(app.mood, numeric, double precision[])"#,
            ),
            (
                "f(timestamp with time zone)",
                r#""a""b"."f"(timestamp with time zone)"#,
            ),
            (
                r#"f("char", "any", "s("."t)""[]", _x1)"#,
                r#""a""b"."f"("char", "any", "s("."t)""[]", _x1)"#,
            ),
            (
                "f() TO hostile; GRANT azure_pg_admin TO hostile; --()",
                r#""a""b"."f() TO hostile; GRANT azure_pg_admin TO hostile; --"()"#,
            ),
            ("f(integer)(text)", r#""a""b"."f(integer)"(text)"#),
            ("f\"(\n(integer)", "\"a\"\"b\".\"f\"\"(\n\"(integer)"),
        ] {
            assert_eq!(function(name).as_deref(), Some(written), "{name}");
        }
    }

    #[test]
    fn what_is_no_signature_is_not_written() {
        for name in [
            "f",
            "()",
            "f(",
            "f(integer",
            "f(integer); DROP ROLE x; --",
            "f(Integer)",
            "f(integer,text)",
            "f(integer, )",
            "f(numeric(10,2))",
            "f(a b)",
            "f('x')",
            "f(\"x)",
            "f(x--)",
            "f(???)",
        ] {
            assert_eq!(function(name), None, "{name}");
        }
    }

    fn quoted(name: &str) -> String {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        if !name.is_empty() && name.chars().all(plain) {
            return name.to_owned();
        }
        escape_identifier(name)
    }

    const ODD: &str = r#"[a-c(),.;" '\[\]\n\\$/*-]{1,9}"#;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        /// Whatever a function is called, and whatever its types are: the statement names it, and ends there.
        // Red when: `signature` cuts at the first `(`, or `is_types` lets anything through.
        #[test]
        fn any_function_is_written_as_itself(
            name in ODD,
            types in proptest::collection::vec((ODD, any::<bool>(), any::<bool>()), 0..4),
        ) {
            let types = types.iter().map(|(name, schema, many)| {
                let schema = if *schema { "\"x (\"." } else { "" };
                format!("{schema}{}{}", quoted(name), if *many { "[]" } else { "" })
            });
            let types: Vec<String> = types.collect();
            let types = types.join(", ");
            let written = function(&format!("{name}({types})"));
            let exact = format!("\"a\"\"b\".{}({types})", escape_identifier(&name));
            prop_assert_eq!(written.as_deref(), Some(exact.as_str()));
            prop_assert!(words(&exact).is_some(), "{}", exact);
        }

        /// Any text at all is one object in one statement, or is not written.
        #[test]
        fn any_text_stays_within_its_statement(text in "([a-c(),.;\" '\\n-]|\\(\\)|\\[\\]|integer|, ){0,14}", kind in 0..3) {
            let kind = [Kind::Table, Kind::Sequence, Kind::Function][usize::try_from(kind).expect("few")];
            let group = Group { schema: "s".to_owned(), kind };
            if let Some(written) = object(&group, &text) {
                let words = words(&written);
                prop_assert!(words.is_some(), "{}", written);
                let open = words.iter().flatten().filter(|word| *word == "(").count();
                prop_assert_eq!(open, usize::from(kind == Kind::Function), "{}", written);
            }
        }
    }
}
