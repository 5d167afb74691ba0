//! Reads error answers: the number of Entra, a sentence that is safe to show, the pause asked for.
//! Must not judge them.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use regex::Regex;
use serde::Deserialize;

use crate::model::quote;

/// No authority may stop us for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const LONGEST_QUOTE: usize = 300;

/// What an answer says, whichever form it had.
pub(super) struct Complaint {
    /// The number after `AADSTS`.
    pub(super) code: Option<u64>,
    /// OAuth's word.
    pub(super) error: Option<String>,
    /// The sentence of Entra, made safe to show.
    pub(super) quote: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: Option<String>,
    error_description: Option<String>,
    #[serde(default)]
    error_codes: Vec<u64>,
}

impl Complaint {
    pub(super) fn read(body: &str) -> Self {
        static CODE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"AADSTS(\d+)").ok());
        let parsed: Option<ErrorBody> = serde_json::from_str(body).ok();
        let description = parsed
            .as_ref()
            .and_then(|body| body.error_description.as_deref());
        let numbers = CODE.as_ref().and_then(|code| {
            let found = code.captures(description.unwrap_or(body))?;
            found.get(1)?.as_str().parse().ok()
        });
        let listed = parsed
            .as_ref()
            .and_then(|body| body.error_codes.first().copied());
        Self {
            code: numbers.or(listed),
            error: parsed
                .as_ref()
                .and_then(|body| body.error.as_deref())
                .map(quote),
            // A body that is not Entra's is not quoted at all.
            quote: description.map(quote).unwrap_or_default(),
        }
    }
}

/// One line of a sentence of Entra, without what changes each time and without anything that
/// might be a token.
fn quote(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.split(" Trace ID:").next().unwrap_or_default();
    quote::quote(line, LONGEST_QUOTE)
}

/// A date as headers have it.
pub(super) fn date(text: &str) -> Option<Timestamp> {
    Some(jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp())
}

/// Header `Retry-After`: seconds or a date. `now` is best the answer's own `Date`, since their clock
/// may differ from ours.
pub(super) fn pause(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let seconds = text.parse().ok().map(Duration::from_secs);
    let until = || {
        let left = date(text)?.duration_since(now);
        Some(Duration::try_from(left).unwrap_or_default())
    };
    Some(seconds.or_else(until)?.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T03:00:00Z".parse().expect("a time")
    }

    #[test]
    fn a_pause_is_seconds_or_a_date_and_never_for_ever() {
        let seconds = Duration::from_secs;
        assert_eq!(pause("60", now()), Some(seconds(60)));
        assert_eq!(
            pause("Tue, 24 Nov 2026 03:02:00 GMT", now()),
            Some(seconds(120))
        );
        assert_eq!(
            pause("Tue, 24 Nov 2026 02:00:00 GMT", now()),
            Some(seconds(0))
        );
        assert_eq!(pause("999999999999", now()), Some(LONGEST_PAUSE));
        assert_eq!(pause("soon", now()), None);
    }

    #[test]
    fn a_quote_is_one_short_line_without_tokens_and_times() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";
        let text = format!("AADSTS1: no {token} here. Trace ID: 9 Correlation ID: 8\r\nmore");
        assert_eq!(quote(&text), "AADSTS1: no ... here.");
        let long = quote(&"word ".repeat(100));
        assert!(
            long.chars().count() <= LONGEST_QUOTE && long.ends_with("word…"),
            "{long}"
        );
        let issuer =
            "https://eastus.oic.prod-aks.azure.com/aaaaaaaa-0000-0000-0000-00000000000a/b/";
        assert_eq!(quote(issuer), issuer);
    }
}
