//! What a text of a template may look like before it is parsed. Fuel limits what a text does, not the
//! depth to which parsing it goes (a stack that overflows ends the process), nor what comparing lists
//! of lists costs.

/// How many tags a text may have: `{{ ... }}` and `{% ... %}`.
const TAGS: usize = 200;
/// How long a tag may be, in bytes.
const LENGTH: usize = 256;

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// In which line, from 1.
    pub line: usize,
    pub what: String,
}

/// Looks at the text's tags. Each opener is taken for the beginning of one, also in comments and raw
/// text: so it does not matter which of them the parser takes for one.
pub(super) fn check(text: &str) -> Result<(), Wrong> {
    let mut rest = text.as_bytes();
    let (mut tags, mut line) = (0, 1);
    while let [first, behind @ ..] = rest {
        line += usize::from(*first == b'\n');
        let what = match rest {
            [b'{', second @ (b'{' | b'%'), tag @ ..] => {
                tags += 1;
                let closer = if *second == b'{' { b"}}" } else { b"%}" };
                check_tag(tag, *closer)
                    .or_else(|| (tags > TAGS).then(|| format!("more than {TAGS} tags")))
            }
            _ => None,
        };
        if let Some(what) = what {
            return Err(Wrong { line, what });
        }
        rest = behind;
    }
    Ok(())
}

/// What is wrong with the tag that begins there and should end with `closer`.
fn check_tag(tag: &[u8], closer: [u8; 2]) -> Option<String> {
    let end = tag.windows(2).position(|pair| pair == closer);
    // One without an end is the parser's to refuse, if it does not go too far until it sees that.
    if end.unwrap_or(tag.len()) > LENGTH {
        return Some(format!("a tag of more than {LENGTH} bytes"));
    }
    let mut bytes = tag.iter().take(end?);
    let mut quote = None;
    let mut open = 0_i32;
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(of), byte) if of == byte => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'[' | b'{' | b',') => return Some("a list or map in a tag".to_owned()),
            (None, b'(') => open += 1,
            (None, b')') => open -= 1,
            _ => {}
        }
    }
    // Behind what looks like the end the parser would go on.
    (quote.is_some() || open != 0).then(|| "a tag with an open quote or bracket".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_let_through() {
        for text in [
            "",
            "no tags, [lists] {maps} or \"quotes'",
            "jdbc:postgresql://{{ host }}:{{ port }}/{{ database | urlencode }}?sslmode={{ sslmode }}",
            "{% if ca and (port == '5432') %}{{ ca }}{%- elif not ca -%}it's{% endif %}{# {x} #}",
            "{{ user | default(\"{}, [] \\\" }\") }}",
            "{{ not closed",
            "-----BEGIN CERTIFICATE-----",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_the_parser_would_go_too_far_with_is_not() {
        let long = format!("{{{{ {}1 }}}}", "-".repeat(300));
        for (text, words) in [
            (long.as_str(), "more than 256 bytes"),
            (&long[..290], "more than 256 bytes"),
            (&"{%if 1%}".repeat(201), "more than 200 tags"),
            ("x{% set a = [a, a] %}", "a list or map"),
            ("{{ {'a': 1} }}", "a list or map"),
            ("{{ (1, 1) }}", "a list or map"),
            // The tag of the parser ends behind the text in between.
            ("{{ ' }} --- ' }}", "open quote"),
            ("{{ '\\' }} --- ' }}", "open quote"),
            ("{{ (1 }} ) }}", "bracket"),
            // Comments and raw text hide nothing.
            ("{% raw %}{#{% endraw %}{{ [] }}#}", "a list or map"),
            ("{# {{ [] }} #}", "a list or map"),
        ] {
            let Wrong { what, .. } = check(text).expect_err(text);
            assert!(what.contains(words), "{text}: {what}");
        }
    }
}
