//! Labels, annotations and keys of the user's own. The language is Jinja's, with nothing to load, a
//! budget of work and memory, and filters for each place a name may stand in. Real values never get
//! into an error: what is shown was rendered with made-up ones.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::escape;
use super::format::Values;
use super::layout::invalid;
use super::shape;
use crate::api::SecretTemplate;
use crate::model::Failure;

/// What one key may cost: about as many steps, or 64 times as many bytes. Comparing two texts is one
/// step, however long they are, so that there must not be many of both.
const FUEL: u64 = 4_000;

/// What a text may name.
const PLACEHOLDERS: [&str; 10] = [
    "host",
    "port",
    "database",
    "user",
    "token",
    "expiresOn",
    "tenant",
    "sslmode",
    "ca",
    "caFile",
];
/// Those that another CA changes.
const OF_CA: [&str; 3] = ["ca", "caFile", "sslmode"];
/// What a text may be put through.
const FILTERS: [&str; 6] = [
    "urlencode",
    "json",
    "pgpass",
    "conninfo",
    "shell",
    "properties",
];
/// Whose labels and annotations nobody sets by a template.
const RESERVED: [&str; 3] = ["kubernetes.io", "k8s.io", "entrapostgres.io"];

/// The user's own part of a Secret, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    texts: BTreeMap<String, String>,
    placeholders: BTreeSet<String>,
}

impl Template {
    /// Takes a template whose texts parse and name only what there is.
    pub(super) fn parse(spec: &SecretTemplate) -> Result<Self, Failure> {
        let SecretTemplate {
            labels,
            annotations,
            data,
        } = spec.clone();
        let template = Self {
            labels: labels.unwrap_or_default(),
            annotations: annotations.unwrap_or_default(),
            texts: data.unwrap_or_default(),
            placeholders: BTreeSet::new(),
        };
        let mut named = BTreeSet::new();
        template.check_names()?;
        for (key, text) in &template.texts {
            named.extend(check_text(key, text)?);
        }
        Ok(Self {
            placeholders: named,
            ..template
        })
    }

    /// What of its labels and annotations lies under one of these prefixes.
    pub(super) fn reserved<'a>(
        &'a self,
        prefixes: &'a [String],
    ) -> impl Iterator<Item = (&'static str, &'a String)> {
        let labels = self.labels.keys().map(|name| ("labels", name));
        let annotations = self.annotations.keys().map(|name| ("annotations", name));
        let names = labels.chain(annotations);
        names.filter(|(_, name)| is_reserved(name, prefixes.iter().map(String::as_str)))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.texts.contains_key(key)
    }

    pub(super) fn wants_ca(&self) -> bool {
        OF_CA.iter().any(|name| self.placeholders.contains(*name))
    }

    pub(super) fn render(&self, values: &Values<'_>) -> Result<BTreeMap<String, String>, Failure> {
        if self.texts.is_empty() {
            return Ok(BTreeMap::new());
        }
        let environment = environment();
        let context = context(values);
        let texts = self.texts.iter().map(|(key, text)| {
            let rendered = environment.render_str(text, context.clone());
            // The words of the error may quote the token.
            let rendered = rendered.map_err(|error| invalid(sentence(key, &error)))?;
            Ok((key.clone(), rendered))
        });
        texts.collect()
    }

    /// What the schema refuses already, unless it is older than the object.
    fn check_names(&self) -> Result<(), Failure> {
        for (field, names) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            if let Some(name) = names.keys().find(|name| is_reserved(name, RESERVED)) {
                return Err(invalid(format!(
                    "token.secret.template.{field}[{name:?}]: names under kubernetes.io, k8s.io and \
                     entrapostgres.io are reserved: choose another name"
                )));
            }
        }
        let good = |key: &str| {
            (1..=253).contains(&key.len())
                && key != "."
                && !key.starts_with("..")
                && key
                    .bytes()
                    .all(|each| each.is_ascii_alphanumeric() || b"-._".contains(&each))
        };
        match self.texts.keys().find(|key| !good(key)) {
            Some(key) => Err(invalid(format!(
                "token.secret.template.data[{key:?}]: a key has at most 253 letters, digits, '-', '_' and \
                 '.', and does not start with '..'"
            ))),
            None => Ok(()),
        }
    }
}

/// Whether the prefix of a label or annotation is one of these, or lies below one.
pub fn is_reserved<'a>(name: &str, prefixes: impl IntoIterator<Item = &'a str>) -> bool {
    let Some((prefix, _)) = name.split_once('/') else {
        return false;
    };
    prefixes.into_iter().any(|reserved| {
        prefix
            .strip_suffix(reserved)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// Parses a text; returns what it names.
fn check_text(key: &str, text: &str) -> Result<BTreeSet<String>, Failure> {
    shape::check(text).map_err(|wrong| {
        let place = place(key, Some(wrong.line));
        invalid(format!("{place}: {}: make it simpler", wrong.what))
    })?;
    let environment = environment();
    // Nothing real was put in yet: the words of these errors are the user's own.
    let parsed = environment.template_from_str(text);
    let parsed = parsed.map_err(|error| invalid(with_detail(key, &error)))?;
    let named = parsed.undeclared_variables(false);
    if let Some(unknown) = named
        .iter()
        .find(|name| !PLACEHOLDERS.contains(&name.as_str()))
    {
        let line = line_of(text, unknown);
        return Err(invalid(format!(
            "{}: there is no placeholder {unknown:?}: use {}",
            place(key, line),
            PLACEHOLDERS.join(", ")
        )));
    }
    for with_ca in [false, true] {
        let rendered = environment.render_str(text, made_up(with_ca));
        rendered.map_err(|error| invalid(with_detail(key, &error)))?;
    }
    Ok(named.into_iter().collect())
}

/// The first line that has a word.
fn line_of(text: &str, word: &str) -> Option<usize> {
    let in_word = |each: char| each.is_alphanumeric() || each == '_';
    let line = text
        .lines()
        .position(|line| line.split(|each| !in_word(each)).any(|each| each == word));
    line.map(|line| line + 1)
}

fn place(key: &str, line: Option<usize>) -> String {
    let field = format!("token.secret.template.data[{key:?}]");
    line.map_or_else(|| field.clone(), |line| format!("{field}, line {line}"))
}

fn sentence(key: &str, error: &Error) -> String {
    let place = place(key, error.line());
    match error.kind() {
        ErrorKind::OutOfFuel => {
            format!("{place}: the text takes too much work or memory: make it simpler")
        }
        ErrorKind::UnknownFilter => format!("{place}: unknown filter: use {}", FILTERS.join(", ")),
        kind => format!("{place}: {kind}"),
    }
}

fn with_detail(key: &str, error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    let detail: String = detail.chars().take(200).collect();
    if detail.is_empty() {
        sentence(key, error)
    } else {
        format!("{} ({detail})", sentence(key, error))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let mut syntax = SyntaxConfig::builder();
    if let Ok(syntax) = syntax.keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_fuel(Some(FUEL));
    environment.add_filter("urlencode", |text: &str| escape::percent(text));
    environment.add_filter("json", |text: &str| escape::json(text));
    environment.add_filter("conninfo", |text: &str| escape::conninfo(text));
    environment.add_filter("shell", |text: &str| escape::shell(text));
    environment.add_filter("properties", |text: &str| escape::properties(text));
    environment.add_filter("pgpass", |text: &str| {
        escape::pgpass(text).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                "a line break cannot stand in a password file",
            )
        })
    });
    environment
}

fn context(values: &Values<'_>) -> Value {
    let Values {
        host,
        port,
        database,
        user,
        token,
        expires,
        ca,
        ca_file,
        sslmode,
    } = *values;
    let tenant = super::token::tenant_of(token).unwrap_or_default();
    let expires = expires.to_string();
    let texts = [
        host,
        port,
        database,
        user,
        token,
        &expires,
        &tenant,
        sslmode,
        ca.unwrap_or_default(),
        ca_file,
    ];
    Value::from_pairs(PLACEHOLDERS.into_iter().zip(texts.map(Value::from)))
}

fn made_up(with_ca: bool) -> Value {
    let texts = PLACEHOLDERS.map(|name| match name {
        "port" => "5432",
        "ca" if !with_ca => "",
        name => name,
    });
    Value::from_pairs(PLACEHOLDERS.into_iter().zip(texts.map(Value::from)))
}
