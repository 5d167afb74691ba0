//! The keys of each format, and what stands under them. Must not know the template.

use jiff::Timestamp;
use serde_json::json;

use super::escape::{conninfo, percent, pgpass};
use super::token::tenant_of;
use crate::api::SecretFormat;

/// Under this key the server's CA lies for whoever names it by its path.
pub(super) const CA_KEY: &str = "ca.crt";
/// The same under the well-known key of servicebinding.io.
pub(super) const CERTIFICATES: &str = "certificates";

/// All that a format or a template may write.
pub(super) struct Values<'a> {
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
    pub(super) token: &'a str,
    pub(super) expires: Timestamp,
    /// PEM of the server's CA, if it has one of its own.
    pub(super) ca: Option<&'a str>,
    /// Where workloads find it.
    pub(super) ca_file: &'a str,
    pub(super) sslmode: &'a str,
}

impl Values<'_> {
    /// Whether connection strings name the CA's file: only if somebody said where it is.
    fn names_ca(&self) -> bool {
        self.sslmode == "verify-full"
    }

    fn uri(&self) -> String {
        let root = if self.names_ca() {
            format!("&sslrootcert={}", percent(self.ca_file))
        } else {
            String::new()
        };
        format!(
            "postgresql://{}:{}@{}:{}/{}?sslmode={}{root}",
            percent(self.user),
            percent(self.token),
            self.host,
            self.port,
            percent(self.database),
            self.sslmode,
        )
    }

    fn conninfo(&self) -> String {
        let mut pairs = vec![
            ("host", self.host),
            ("port", self.port),
            ("dbname", self.database),
            ("user", self.user),
            ("password", self.token),
            ("sslmode", self.sslmode),
        ];
        if self.names_ca() {
            pairs.push(("sslrootcert", self.ca_file));
        }
        let pairs = pairs
            .iter()
            .map(|(keyword, value)| format!("{keyword}={}", conninfo(value)));
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// One line; without it when a name has a line break, which [`super::Layout`] refuses before.
    fn pgpass(&self) -> String {
        let fields = [self.host, self.port, self.database, self.user, self.token].map(pgpass);
        let fields: Option<Vec<String>> = fields.into_iter().collect();
        fields.map_or_else(String::new, |fields| format!("{}\n", fields.join(":")))
    }

    /// What az prints, with its times: of the machine, which in a pod is UTC.
    fn json(&self) -> String {
        json!({
            "accessToken": self.token,
            "expiresOn": self.expires.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string(),
            "expires_on": self.expires.as_second(),
            "tenant": tenant_of(self.token).unwrap_or_default(),
            "tokenType": "Bearer",
        })
        .to_string()
    }
}

/// The keys of a format that hold the token and nothing else.
pub(super) fn own_key(format: SecretFormat) -> Option<&'static str> {
    match format {
        SecretFormat::ServiceBinding => Some("password"),
        SecretFormat::Env => Some("PGPASSWORD"),
        SecretFormat::PgPass | SecretFormat::Uri | SecretFormat::Conninfo | SecretFormat::Json => {
            None
        }
    }
}

/// Whether the server's CA makes a difference to a format.
pub(super) fn wants_ca(format: SecretFormat) -> bool {
    match format {
        SecretFormat::ServiceBinding
        | SecretFormat::Env
        | SecretFormat::Uri
        | SecretFormat::Conninfo => true,
        SecretFormat::PgPass | SecretFormat::Json => false,
    }
}

/// What one format writes. Where two formats have a key in common, both write the same there.
pub(super) fn pairs(format: SecretFormat, values: &Values<'_>) -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    let ca = |key: &'static str| values.ca.map(|pem| (key, text(pem)));
    let mut pairs = match format {
        SecretFormat::ServiceBinding => vec![
            ("type", text("postgresql")),
            ("provider", text("azure")),
            ("host", text(values.host)),
            ("port", text(values.port)),
            ("database", text(values.database)),
            ("username", text(values.user)),
            ("password", text(values.token)),
            ("uri", values.uri()),
        ],
        SecretFormat::Env => vec![
            ("PGHOST", text(values.host)),
            ("PGPORT", text(values.port)),
            ("PGDATABASE", text(values.database)),
            ("PGUSER", text(values.user)),
            ("PGPASSWORD", text(values.token)),
            ("PGSSLMODE", text(values.sslmode)),
        ],
        SecretFormat::PgPass => vec![("pgpass", values.pgpass())],
        SecretFormat::Uri => vec![("uri", values.uri())],
        SecretFormat::Conninfo => vec![("conninfo", values.conninfo())],
        SecretFormat::Json => vec![("token.json", values.json())],
    };
    match format {
        SecretFormat::ServiceBinding => pairs.extend(ca(CERTIFICATES)),
        SecretFormat::Env => {
            pairs.extend(values.ca.map(|_| ("PGSSLROOTCERT", text(values.ca_file))));
            pairs.extend(ca(CA_KEY));
        }
        SecretFormat::Uri | SecretFormat::Conninfo => pairs.extend(ca(CA_KEY)),
        SecretFormat::PgPass | SecretFormat::Json => {}
    }
    pairs
}
