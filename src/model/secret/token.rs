//! The token as text: its fingerprint, its tenant, and where it is in a Secret's data. Must not be
//! printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use ring::digest::{SHA256, digest};

/// More places than this are not tried: whoever fills a Secret with what looks like tokens costs us no
/// time.
const MOST_PLACES: usize = 256;
/// Entra dates its tokens back by this much, for clocks that lag.
const BACKDATED: SignedDuration = SignedDuration::from_mins(5);
/// No token is longer.
const LONGEST: usize = 16 * 1024;

/// SHA-256, hexadecimal.
pub fn fingerprint(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing into a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The token of that fingerprint in a Secret's data. Where a key holds nothing else, only that key
/// counts: what somebody changed by hand is renewed. Otherwise it may be under whatever key and between
/// whatever else, also one of a format that is declared no more.
pub fn token_in<'a>(
    data: &'a BTreeMap<String, String>,
    own_keys: &[&str],
    sha256: &str,
) -> Option<&'a str> {
    let is_it = |place: &&str| fingerprint(place) == sha256;
    if let Some(text) = own_keys.iter().find_map(|key| data.get(*key)) {
        return Some(text.as_str()).filter(is_it);
    }
    data.values()
        .flat_map(|text| places(text))
        .take(MOST_PLACES)
        .filter(|place| place.len() <= LONGEST)
        .find(is_it)
}

/// Texts that may be a token: whole runs of its characters, and three parts from where one begins. What
/// follows such a beginning is read as far as a token can reach, or a Secret of beginnings would be
/// read once for each.
fn places(text: &str) -> impl Iterator<Item = &str> {
    let of_token = |each: char| each.is_ascii_alphanumeric() || "._-".contains(each);
    text.split(move |each| !of_token(each))
        .filter(|run| !run.is_empty())
        .flat_map(|run| {
            let within = run.match_indices("eyJ").filter_map(|(at, _)| {
                let rest = run.get(at..)?;
                let near = rest.get(..=LONGEST).unwrap_or(rest);
                let end = near.match_indices('.').nth(2).map(|(end, _)| end);
                near.get(..end.unwrap_or(near.len()))
            });
            std::iter::once(run).chain(within.filter(move |place| *place != run))
        })
}

/// The tenant of a token, as its claims say.
pub(super) fn tenant_of(token: &str) -> Option<String> {
    Some(claims(token)?.get("tid")?.as_str()?.to_owned())
}

/// The end of a token's life, as its claims say.
pub(super) fn end_of(token: &str) -> Option<Timestamp> {
    Timestamp::from_second(claims(token)?.get("exp")?.as_i64()?).ok()
}

/// How long a token lives that was just made, as its claims say; whatever clock one has.
pub fn life_of(token: &str) -> Option<SignedDuration> {
    let claims = claims(token)?;
    let begin = claims.get("nbf").or(claims.get("iat"))?.as_i64()?;
    let end = claims.get("exp")?.as_i64()?;
    let life = SignedDuration::from_secs(end.checked_sub(begin)?);
    let backdated = if life < BACKDATED * 2 {
        SignedDuration::ZERO
    } else {
        BACKDATED
    };
    Some(life - backdated).filter(SignedDuration::is_positive)
}

fn claims(token: &str) -> Option<serde_json::Value> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJ0aWQiOiJ0aGUtdGVuYW50In0.c2ln-_x";

    fn found(text: &str) -> bool {
        let data = BTreeMap::from([("key".to_owned(), text.to_owned())]);
        token_in(&data, &["password"], &fingerprint(TOKEN)) == Some(TOKEN)
    }

    #[test]
    fn a_token_is_found_wherever_it_stands() {
        for text in [
            TOKEN.to_owned(),
            format!("host:5432:db:user:{TOKEN}\n"),
            format!("postgresql://u:{TOKEN}@host/db"),
            format!("{{\"accessToken\":\"{TOKEN}\"}}"),
            format!("x.{TOKEN}.y"),
            format!("prefix-{TOKEN} eyJ"),
        ] {
            assert!(found(&text), "{text}");
        }
        assert!(!found(&format!("{TOKEN}-y")));
        assert!(!found("eyJ.eyJ"));
        assert!(!found(&"eyJ.".repeat(100_000)));
        let data = BTreeMap::from([
            ("password".to_owned(), "by hand".to_owned()),
            ("uri".to_owned(), TOKEN.to_owned()),
        ]);
        assert_eq!(token_in(&data, &["password"], &fingerprint(TOKEN)), None);
        assert_eq!(token_in(&data, &[], &fingerprint(TOKEN)), Some(TOKEN));
    }

    /// Red when: places that are too long do not count and the third dot is looked for in the whole
    /// rest: 12 seconds.
    #[test]
    fn a_secret_of_beginnings_costs_no_time() {
        let began = Instant::now();
        assert!(!found(&"eyJ".repeat(330_000)));
        assert!(!found(&format!("{}.", "eyJ.".repeat(2)).repeat(100_000)));
        assert!(!found(&format!("eyJ{} ", "x".repeat(LONGEST)).repeat(60)));
        assert!(found(&format!("{} {TOKEN}", "eyJ".repeat(80))));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[test]
    fn the_tenant_is_read_from_the_claims() {
        assert_eq!(tenant_of(TOKEN).as_deref(), Some("the-tenant"));
        assert_eq!(tenant_of("no token"), None);
    }
}
