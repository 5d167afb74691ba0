//! How a text stands in a connection string, so that its reader gets the very text back. Must not know
//! what the text is.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but the unreserved characters of RFC 3986: a token stays readable.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A part of a URI.
pub fn percent(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A value of libpq's `keyword=value` pairs: a backslash before each space, quote and backslash.
pub fn conninfo(text: &str) -> String {
    if text.is_empty() {
        return "''".to_owned();
    }
    backslashed(text, |each| {
        each.is_whitespace() || each == '\\' || each == '\''
    })
}

/// A field of a password file. `None`: it has a line break, which no password file can hold.
pub fn pgpass(text: &str) -> Option<String> {
    let one_line = !text.contains(['\n', '\r']);
    one_line.then(|| backslashed(text, |each| each == '\\' || each == ':'))
}

/// A JSON string with its quotes.
pub fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A word of a POSIX shell, in quotes.
pub fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A value of a Java properties file.
pub fn properties(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for each in text.chars() {
        match each {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            ' ' | '\\' | ':' | '=' | '#' | '!' => escaped.extend(['\\', each]),
            ' '..='~' => escaped.push(each),
            _ => {
                for unit in each.encode_utf16(&mut [0; 2]) {
                    // Writing into a String cannot fail.
                    let _ = write!(escaped, "\\u{unit:04X}");
                }
            }
        }
    }
    escaped
}

fn backslashed(text: &str, special: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for each in text.chars() {
        if special(each) {
            escaped.push('\\');
        }
        escaped.push(each);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    /// libpq's `conninfo_parse`, without its quoted values, which we do not write.
    fn parse_conninfo(text: &str) -> Vec<(String, String)> {
        let mut rest = text.chars().peekable();
        let mut pairs = Vec::new();
        while rest.peek().is_some() {
            let keyword: String = rest.by_ref().take_while(|each| *each != '=').collect();
            let mut value = String::new();
            let mut escaped = false;
            while let Some(each) = rest.next() {
                match each {
                    '\\' => {
                        escaped = true;
                        value.extend(rest.next());
                    }
                    each if each.is_whitespace() => break,
                    each => value.push(each),
                }
            }
            if value == "''" && !escaped {
                value.clear();
            }
            pairs.push((keyword, value));
        }
        pairs
    }

    /// How libpq takes a line of a password file apart.
    fn parse_pgpass(line: &str) -> Vec<String> {
        let mut fields = vec![String::new()];
        let mut rest = line.chars();
        while let Some(each) = rest.next() {
            match each {
                '\\' => fields.last_mut().expect("one").extend(rest.next()),
                ':' => fields.push(String::new()),
                each => fields.last_mut().expect("one").push(each),
            }
        }
        fields
    }

    /// `java.util.Properties.load` for one value.
    fn parse_properties(text: &str) -> String {
        let mut units = Vec::new();
        let mut rest = text.chars();
        while let Some(each) = rest.next() {
            let mut buffer = [0; 2];
            let plain = match (each, each == '\\') {
                (each, false) => each,
                (_, true) => match rest.next().expect("something escaped") {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let hex: String = rest.by_ref().take(4).collect();
                        units.push(u16::from_str_radix(&hex, 16).expect("four digits"));
                        continue;
                    }
                    each => each,
                },
            };
            units.extend_from_slice(plain.encode_utf16(&mut buffer));
        }
        String::from_utf16(&units).expect("whole characters")
    }

    /// What a POSIX shell makes of one word of single-quoted pieces and escaped quotes.
    fn parse_shell(text: &str) -> String {
        let mut plain = String::new();
        let (mut quoted, mut rest) = (false, text.chars());
        while let Some(each) = rest.next() {
            match (each, quoted) {
                ('\'', _) => quoted = !quoted,
                ('\\', false) => plain.extend(rest.next()),
                (each, _) => plain.push(each),
            }
        }
        plain
    }

    const NAMES: [&str; 3] = [
        "Prod DB Readonly",
        "guest_user_example.com#EXT#@tenant.onmicrosoft.com",
        "o'brien \"x\" \\ ü",
    ];

    #[test]
    fn names_look_as_their_readers_want_them() {
        let [group, guest, odd] = NAMES;
        assert_eq!(conninfo(group), r"Prod\ DB\ Readonly");
        assert_eq!(conninfo(guest), guest);
        assert_eq!(conninfo(odd), r#"o\'brien\ "x"\ \\\ ü"#);
        assert_eq!(percent(group), "Prod%20DB%20Readonly");
        assert_eq!(
            percent(guest),
            "guest_user_example.com%23EXT%23%40tenant.onmicrosoft.com"
        );
        assert_eq!(percent("eyJ.a-b_c"), "eyJ.a-b_c");
        assert_eq!(pgpass("a:b\\c").as_deref(), Some(r"a\:b\\c"));
        assert_eq!(pgpass("a\nb"), None);
        assert_eq!(json(odd), r#""o'brien \"x\" \\ ü""#);
        assert_eq!(shell(odd), r#"'o'\''brien "x" \ ü'"#);
        assert_eq!(properties("a b ü"), r"a\ b\ \u00FC");
        assert_eq!(conninfo(""), "''");
    }

    proptest! {
        // Red when: any escape leaves out one of its special characters.
        #[test]
        fn whatever_goes_in_comes_back(first in "\\PC{0,40}|[ '\\\\:=#!\"\\n\\r\\t\u{a0}ü😀]{0,20}", second in "\\PC{0,40}") {
            let pairs = format!("user={} password={}", conninfo(&first), conninfo(&second));
            prop_assert_eq!(parse_conninfo(&pairs), [
                ("user".to_owned(), first.clone()), ("password".to_owned(), second.clone())
            ]);
            let decoded = percent_decode_str(&percent(&first)).decode_utf8().expect("UTF-8").into_owned();
            prop_assert_eq!(&decoded, &first);
            if let (Some(one), Some(two)) = (pgpass(&first), pgpass(&second)) {
                prop_assert_eq!(parse_pgpass(&format!("{one}:{two}")), [first.clone(), second]);
            } else {
                prop_assert!(first.contains(['\n', '\r']));
            }
            let read: String = serde_json::from_str(&json(&first)).expect("JSON");
            prop_assert_eq!(&read, &first);
            prop_assert_eq!(parse_shell(&shell(&first)), first.clone());
            prop_assert_eq!(parse_properties(&properties(&first)), first);
        }
    }
}
