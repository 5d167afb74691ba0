//! What a Secret is to hold beside the token, checked once: formats, template, where workloads mount it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;

use super::format::{CA_KEY, CERTIFICATES, Values, own_key, pairs, wants_ca};
use super::template::Template;
use super::{fingerprint, token_in};
use crate::api::{SecretFormat, TokenSecret};
use crate::model::{Class, Failure, Look, Reason};

/// What Kubernetes lets the values of a Secret have together.
const LARGEST: usize = 1024 * 1024;
/// As long as a token can be expected to get.
const LONG_TOKEN: usize = 8 * 1024;
/// How each certificate begins.
const PEM_START: &str = "-----BEGIN CERTIFICATE-----";
/// Where workloads are expected to mount the Secret when nobody says; its name follows.
const MOUNTS: &str = "/var/run/secrets/entrapostgres.io";

/// How a workload connects, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// PEM of the CA that the server's certificate chains to; `None`: the web's roots.
    pub ca: Option<String>,
}

/// What a Secret is to hold beside the token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    formats: BTreeSet<SecretFormat>,
    template: Template,
    /// Where workloads mount the Secret, if they say so.
    mount: Option<String>,
    /// Where they are expected to mount it otherwise.
    default_mount: String,
}

impl Layout {
    /// Takes the declared one of a Secret of that name, for a role and database.
    ///
    /// # Errors
    /// `TemplateInvalid`: the template does not parse or render, or collides with a format;
    /// `InvalidSpec`: a format cannot hold a name.
    pub fn parse(
        spec: &TokenSecret,
        name: &str,
        user: &str,
        database: &str,
    ) -> Result<Self, Failure> {
        let template = spec.template.as_ref().map(Template::parse).transpose()?;
        let layout = Self {
            formats: spec.formats.iter().copied().collect(),
            template: template.unwrap_or_default(),
            mount: spec.mount_path.clone(),
            default_mount: format!("{MOUNTS}/{name}"),
        };
        if layout.formats.contains(&SecretFormat::PgPass)
            && [user, database]
                .iter()
                .any(|name| name.contains(['\n', '\r']))
        {
            return Err(Failure::new(
                Class::Invalid,
                Reason::InvalidSpec,
                "token.secret.formats: PgPass cannot hold a role or database name with a line break: \
                 remove that format",
            ));
        }
        for ca in [None, Some("a certificate".to_owned())] {
            layout.probe(user, database, ca)?;
        }
        Ok(layout)
    }

    /// Labels of the Secret.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.template.labels
    }

    /// Annotations of the Secret.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.template.annotations
    }

    /// What of its labels and annotations lies under one of these prefixes.
    pub fn reserved<'a>(
        &'a self,
        prefixes: &'a [String],
    ) -> impl Iterator<Item = (&'static str, &'a String)> {
        self.template.reserved(prefixes)
    }

    /// Whether the server's CA makes a difference.
    pub fn wants_ca(&self) -> bool {
        self.formats.iter().copied().any(wants_ca) || self.template.wants_ca()
    }

    /// The CA that a Secret of this layout was written with; unknown if it was put into something else.
    pub fn ca_in(&self, data: &BTreeMap<String, String>) -> Look<String> {
        let key = data.get(CA_KEY).or_else(|| data.get(CERTIFICATES));
        let whole = key.or_else(|| data.values().find(|text| text.starts_with(PEM_START)));
        match whole {
            None if self.template.wants_ca() => Look::Unknown(Failure::new(
                Class::Waiting,
                Reason::Connecting,
                "waiting for the server's CA, which the template of the Secret names",
            )),
            whole => Look::Known(whole.cloned()),
        }
    }

    /// The token of that fingerprint in a Secret's data.
    pub fn token_in<'a>(
        &self,
        data: &'a BTreeMap<String, String>,
        sha256: &str,
    ) -> Option<&'a str> {
        let own_keys: Vec<&str> = self.formats.iter().copied().filter_map(own_key).collect();
        token_in(data, &own_keys, sha256)
    }

    /// The data of the Secret.
    ///
    /// # Errors
    /// `TemplateInvalid`, without a word of what the placeholders stand for.
    pub fn render(
        &self,
        connection: &Connection,
        token: &str,
        expires: Timestamp,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let Connection {
            host,
            port,
            database,
            user,
            ca,
        } = connection;
        let verified = ca.is_some() && self.mount.is_some();
        let values = Values {
            host,
            port: &port.to_string(),
            database,
            user,
            token,
            expires,
            ca: ca.as_deref(),
            ca_file: &self.ca_file(),
            sslmode: if verified { "verify-full" } else { "require" },
        };
        let formats = self.formats.iter();
        let pairs = formats.flat_map(|format| pairs(*format, &values));
        let mut data: BTreeMap<String, String> =
            pairs.map(|(key, text)| (key.to_owned(), text)).collect();
        data.extend(self.template.render(&values)?);
        let size: usize = data.values().map(String::len).sum();
        if size > LARGEST {
            return Err(invalid(format!(
                "token.secret.template.data: with it the Secret would have {size} bytes; Kubernetes \
                 takes {LARGEST}"
            )));
        }
        Ok(data)
    }

    fn ca_file(&self) -> String {
        let mount = self.mount.as_ref().unwrap_or(&self.default_mount);
        let of_binding = self.formats.contains(&SecretFormat::ServiceBinding)
            && !self
                .formats
                .iter()
                .any(|format| wants_ca(*format) && *format != SecretFormat::ServiceBinding);
        format!("{mount}/{}", if of_binding { CERTIFICATES } else { CA_KEY })
    }

    /// Writes a long token that is none: what fails with it would fail with the real one.
    fn probe(&self, user: &str, database: &str, ca: Option<String>) -> Result<(), Failure> {
        let with_ca = ca.is_some();
        let connection = Connection {
            host: "h".repeat(253),
            port: 65535,
            database: database.to_owned(),
            user: user.to_owned(),
            ca,
        };
        let claims = URL_SAFE_NO_PAD.encode(r#"{"tid":"00000000-0000-0000-0000-000000000000"}"#);
        let token = format!("eyJ9.{claims}.{}", "x".repeat(LONG_TOKEN));
        self.refuse_collisions(&connection)?;
        let data = self.render(&connection, &token, Timestamp::UNIX_EPOCH)?;
        if self.token_in(&data, &fingerprint(&token)).is_none() {
            let when = if with_ca {
                ""
            } else {
                " of a server without a CA of its own"
            };
            return Err(invalid(format!(
                "token.secret: no key{when} holds the token so that it can be found again: choose a \
                 format, or write {{{{ token }}}} in template.data with no letter, digit, '-' or '_' \
                 after it"
            )));
        }
        Ok(())
    }

    fn refuse_collisions(&self, connection: &Connection) -> Result<(), Failure> {
        // With a CA a format has all its keys.
        let ca = Some(String::new());
        let connection = Connection {
            ca,
            ..connection.clone()
        };
        for format in &self.formats {
            let alone = Self {
                formats: BTreeSet::from([*format]),
                ..Self::default()
            };
            let keys = alone.render(&connection, "", Timestamp::UNIX_EPOCH)?;
            if let Some(key) = keys.keys().find(|key| self.template.has(key)) {
                return Err(invalid(format!(
                    "token.secret.template.data[{key:?}]: format {format} writes this key already: \
                     choose another key, or remove the format"
                )));
            }
        }
        Ok(())
    }
}

/// Certificates as PEM.
pub fn pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.extend([PEM_START, "\n"]);
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            text.extend([line, "\n"]);
            rest = more;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Class::Invalid, Reason::TemplateInvalid, message)
}
