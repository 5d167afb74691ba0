//! Words of others, made safe to show: they go into conditions, events and log lines. A server or an
//! authority may send back what it was sent, and that is a token.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// The text without anything that might be a token. Names of `PostgreSQL` are shorter than what is taken
/// for one.
pub fn redacted(text: &str) -> Cow<'_, str> {
    static TOKEN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"eyJ[A-Za-z0-9_\-.=]+|[A-Za-z0-9_\-+=~]{65,}").ok());
    match &*TOKEN {
        Some(token) => token.replace_all(text, "..."),
        None => Cow::Borrowed(""),
    }
}

/// One line of at most so many characters, without anything that might be a token. One that was cut
/// says so, and ends with a whole word where there is one.
pub fn quote(text: &str, longest: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").replace(char::is_control, "");
    cut(&redacted(&line), longest)
}

fn cut(line: &str, longest: usize) -> String {
    if line.chars().count() <= longest {
        return line.to_owned();
    }
    let head: String = line.chars().take(longest.saturating_sub(1)).collect();
    let next = line.chars().nth(longest.saturating_sub(1));
    let words = match head.rsplit_once(' ') {
        Some((words, _)) if next != Some(' ') => words,
        _ => head.as_str(),
    };
    format!("{}…", words.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Red when: a cut line does not end with the mark, is cut in a word, or is longer than it may be.
    #[test]
    fn a_line_that_was_cut_says_so() {
        assert_eq!(quote("one two three", 13), "one two three");
        assert_eq!(quote("one two three", 12), "one two…");
        assert_eq!(quote("one two three", 9), "one two…");
        assert_eq!(quote("one two three", 8), "one two…");
        assert_eq!(quote("one two three", 7), "one…");
        assert_eq!(quote("unbreakable", 4), "unb…");
    }

    // Red when: the length is cut before tokens are looked for, or control characters are left in a token.
    #[test]
    fn a_quote_is_one_short_line_without_tokens() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";
        assert_eq!(quote(&format!("no  {token}\r\nhere"), 600), "no ... here");
        let opaque = "a".repeat(65);
        assert_eq!(quote(&opaque, 10), "...");
        let (left, right) = opaque.split_at(40);
        assert_eq!(quote(&format!("{left}\u{7}{right}"), 600), "...");
        let name = "n".repeat(63);
        assert_eq!(quote(&name, 600), name);
    }
}
