//! Looks for tokens and secrets in all that the operator says. Must not print what it finds.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// So much of a signature or a secret in base64 tells it from everything else.
const HEAD: usize = 24;
/// How a JSON web token begins, and how it does in the data of a Secret.
const TOKEN: [&str; 2] = ["eyJ", "ZXlK"];

/// What must not be said.
pub(super) struct Needles {
    /// The beginnings of signatures of tokens.
    signatures: HashSet<String>,
    /// Client secrets, as they are and as they stand in a Secret.
    texts: Vec<String>,
}

impl Needles {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = &'a str>, secrets: &[String]) -> Self {
        let signature = |token: &str| token.rsplit('.').next()?.get(..HEAD).map(str::to_owned);
        let encoded = |secret: &String| {
            let text = STANDARD.encode(secret);
            // The end depends on what follows.
            text.get(..text.len().min(HEAD)).unwrap_or(&text).to_owned()
        };
        Self {
            signatures: tokens.filter_map(signature).collect(),
            texts: secrets
                .iter()
                .cloned()
                .chain(secrets.iter().map(encoded))
                .collect(),
        }
    }

    /// What is said there that must not be: kinds, never the text itself.
    fn found(&self, text: &str) -> Option<&'static str> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c)));
        for word in words.filter(|word| word.len() >= HEAD) {
            // Any token at all: a service account's is a secret, too.
            if TOKEN.iter().any(|head| word.starts_with(head)) {
                return Some("a token");
            }
            if word
                .get(..HEAD)
                .is_some_and(|head| self.signatures.contains(head))
            {
                return Some("the signature of a token");
            }
        }
        let secret = self
            .texts
            .iter()
            .any(|secret| text.contains(secret.as_str()));
        secret.then_some("a client secret")
    }

    /// Looks through a text.
    pub(super) fn in_text(&self, name: &str, text: &str) -> Vec<String> {
        let lines = text.lines().enumerate();
        lines
            .filter_map(|(at, line)| self.told(name, at, line))
            .collect()
    }

    /// Looks through a file, however long it is.
    pub(super) fn in_file(&self, path: &Path) -> Result<Vec<String>> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
        let mut found = Vec::new();
        for (at, line) in BufReader::new(file).split(b'\n').enumerate() {
            found.extend(self.told(&name, at, &String::from_utf8_lossy(&line?)));
        }
        Ok(found)
    }

    fn told(&self, name: &str, at: usize, line: &str) -> Option<String> {
        let kind = self.found(line)?;
        Some(format!("{name}, line {}: {kind}", at + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

    #[test]
    fn tokens_signatures_and_secrets_are_found_in_each_form() {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.{SIGNATURE}");
        let secrets = ["a~secret~of~some~length".to_owned()];
        let needles = Needles::new(std::iter::once(token.as_str()), &secrets);
        for bad in [
            format!("{{\"password\": \"{token}\"}}"),
            format!("cut: {SIGNATURE}"),
            "Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.x".to_owned(),
            STANDARD.encode(&token),
            "client_secret=a~secret~of~some~length&x".to_owned(),
            STANDARD.encode("a~secret~of~some~length"),
        ] {
            let found = needles.in_text("log", &format!("good\n{bad}"));
            assert_eq!(found.len(), 1, "{bad}");
            assert!(found[0].starts_with("log, line 2: ") && !found[0].contains("eyJ"));
        }
        let good = "token-sha256 5f16f4c7f149ac4f9510d9cf8cf384038ad348b3bcdc01915f95de12df9d1b02 good until";
        assert_eq!(needles.in_text("log", good), Vec::<String>::new());
    }
}
