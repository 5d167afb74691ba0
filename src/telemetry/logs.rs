//! Log lines on standard output: JSON for machines, text for people.

use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// What is logged: levels, and levels of targets, for example `info` or
/// `info,entra_postgres_operator::entra=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The filter itself takes a word that it does not know for the name of a target, and then logs
        // nothing of all others, not even errors.
        match text.split(',').find(|directive| !is_directive(directive)) {
            None => Ok(Self(text.to_owned())),
            Some(wrong) => Err(format!(
                "{wrong:?} is no level: write one of {}, or TARGET=LEVEL for a module, separated by \
                 commas, as in info,kube=debug",
                LEVELS.join(", ")
            )),
        }
    }
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A level, or a target and its level. Less than the filter would take: spans are of no use here.
fn is_directive(text: &str) -> bool {
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let is_target = |name: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "_-:".contains(c);
        !name.is_empty() && name.chars().all(known)
    };
    match text.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(text),
    }
}

/// These print what they could not understand: answers of the API server, which may be Secrets or
/// tokens. Errors reach us anyway, and we log them without that.
const SILENCED: [&str; 2] = ["kube_client::client=off", "kube_client::api=off"];

/// The SDK logs at INFO that an exchange failed, in words of its plumbing, and which kind of managed
/// identity it uses. We say at WARN what it meant. Who asks for more, or for these, gets them.
const QUIET: &str = "typespec_client_core=warn,azure_identity=warn";

/// Starts logging; later calls change nothing.
pub fn init(format: LogFormat, level: &LogLevel) {
    // Only the tests of a process can come here twice.
    let _ = tracing::subscriber::set_global_default(subscriber(format, level, std::io::stdout));
}

fn subscriber<W>(
    format: LogFormat,
    level: &LogLevel,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_writer(writer);
    match format {
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .finish(),
        ),
        LogFormat::Text => Box::new(builder.with_ansi(false).finish()),
    }
}

fn filter(level: &LogLevel) -> EnvFilter {
    let general = level
        .0
        .split(',')
        .rfind(|directive| !directive.contains('='));
    let at_info = general.is_some_and(|word| word.eq_ignore_ascii_case("info"));
    // Of two directives for one target the later one holds.
    let directives = if at_info {
        format!("{QUIET},{level}", level = level.0)
    } else {
        level.0.clone()
    };
    let filter = EnvFilter::builder().parse_lossy(directives);
    SILENCED
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let copy = lines.clone();
        let level = level.parse().expect("a level");
        let subscriber = subscriber(format, &level, move || copy.clone());
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn json_lines_have_their_fields_at_the_top() {
        let line = logged(LogFormat::Json, "info", || {
            tracing::info!(address = "0.0.0.0:8080", "serving probes and metrics");
            tracing::debug!("not this");
        });
        let json: serde_json::Value = serde_json::from_str(&line).expect("one line of JSON");
        assert_eq!(json["message"], "serving probes and metrics");
        assert_eq!(json["address"], "0.0.0.0:8080");
        assert_eq!(json["level"], "INFO");
    }

    #[test]
    fn the_client_never_prints_answers_whatever_level_is_asked_for() {
        for level in ["trace", "kube_client=trace", "kube_client::client=trace"] {
            let text = logged(LogFormat::Text, level, || {
                tracing::warn!(target: "kube_client::client", "hunter2");
            });
            assert_eq!(text, "", "{level}");
        }
    }

    // Red when: QUIET is empty, or stands after what the user wrote.
    #[test]
    fn the_sdk_is_quiet_at_info_unless_it_is_named() {
        let sdk = |level: &str| {
            logged(LogFormat::Text, level, || {
                let target = "typespec_client_core::http::policies::logging";
                tracing::info!(target: "typespec_client_core::http::policies::logging", "{target}");
                tracing::info!(target: "azure_identity::managed_identity_credential", "IMDS");
            })
        };
        assert_eq!(sdk("info"), "");
        assert_eq!(sdk("kube=debug,info"), "");
        for level in [
            "debug",
            "info,typespec_client_core=info",
            "typespec_client_core=debug",
        ] {
            assert!(sdk(level).contains("policies::logging"), "{level}");
        }
        assert!(sdk("info,azure_identity=info").contains("IMDS"));
        let warned = logged(LogFormat::Text, "info", || {
            tracing::warn!(target: "typespec_client_core::http", "odd");
        });
        assert!(warned.contains("odd"), "{warned}");
    }

    // Red when: an unknown word is left to the filter, which takes it for a target and logs no errors.
    #[test]
    fn a_word_that_is_no_level_is_refused_and_what_is_accepted_is_said() {
        for good in [
            "warn",
            "INFO",
            "off",
            "info,kube=debug,a-b::c=off",
            "kube=debug",
        ] {
            assert!(good.parse::<LogLevel>().is_ok(), "{good}");
        }
        for (level, wrong) in [
            ("warning", "warning"),
            ("debgu", "debgu"),
            ("info,loud", "loud"),
            ("info, debug", " debug"),
            ("kube", "kube"),
            ("kube=loud", "kube=loud"),
            ("=debug", "=debug"),
            ("kube[span]=debug", "kube[span]=debug"),
            ("info,", ""),
            ("", ""),
        ] {
            let problem = level.parse::<LogLevel>().expect_err(level);
            let begin = format!("{wrong:?} is no level: write one of error, warn, info");
            assert!(problem.starts_with(&begin), "{problem}");
        }
    }
}
