//! The Secret with a token as users declare it: which keys it has, and what else is written on it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Secret that holds the token. Its type is `servicebinding.io/postgresql`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("size(self.formats) > 0 || (has(self.template) && has(self.template.data))")
        .message("name at least one format, or a key in template.data"),
    validation = Rule::new("!has(self.template) || !has(self.template.data) || self.template.data.all(key, !((key in ['type', 'provider', 'host', 'port', 'database', 'username', 'password', 'uri', 'certificates'] && 'ServiceBinding' in self.formats) || (key in ['PGHOST', 'PGPORT', 'PGDATABASE', 'PGUSER', 'PGPASSWORD', 'PGSSLMODE', 'PGSSLROOTCERT', 'ca.crt'] && 'Env' in self.formats) || (key == 'pgpass' && 'PgPass' in self.formats) || (key in ['uri', 'ca.crt'] && 'Uri' in self.formats) || (key in ['conninfo', 'ca.crt'] && 'Conninfo' in self.formats) || (key == 'token.json' && 'Json' in self.formats)))")
        .message("template.data: a key is written by one of the formats already: choose another key, or remove the format")
)]
pub struct TokenSecret {
    /// Name of the Secret. Default: the name of this object. A Secret of that name which this object
    /// did not make is never touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: Option<String>,
    /// Which keys the Secret has. Only what is asked for is written: a token is 2 to 5 KB. May be empty
    /// if template.data has a key. ServiceBinding: the keys of servicebinding.io (host, username, password
    /// and so on). Env: what libpq reads from the environment (PGHOST, PGPASSWORD). PgPass: a password file,
    /// key pgpass. Uri: a connection URI, key uri. Conninfo: keyword=value pairs, key conninfo. Json: what
    /// `az account get-access-token` prints, key token.json. Default: ServiceBinding.
    #[serde(default = "default_formats")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub formats: Vec<SecretFormat>,
    /// The directory at which workloads mount the Secret, for example `/etc/db`. If the server has a CA
    /// (`spec.tls`), connection strings then name its file there and ask for `sslmode=verify-full`.
    /// Absent: they ask for `sslmode=require`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 255), regex(pattern = r"^(/[A-Za-z0-9._-]+)+$"))]
    pub mount_path: Option<String>,
    /// Labels, annotations and keys of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<SecretTemplate>,
}

/// Labels, annotations and keys of the user's own.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct SecretTemplate {
    /// Labels of the Secret. Not those of kubernetes.io, k8s.io, entrapostgres.io, nor of prefixes that
    /// the operator's configuration reserves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = {
            "type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
        }
    ))]
    #[x_kube(
        validation = Rule::new("self.all(key, size(key) <= 317 && key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))")
            .message("template.labels: a name is as Kubernetes has them, for example example.com/team"),
        validation = Rule::new("self.all(key, !key.matches('^([^/]*[.])?(kubernetes[.]io|k8s[.]io|entrapostgres[.]io)/'))")
            .message("template.labels: names under kubernetes.io, k8s.io and entrapostgres.io are reserved")
    )]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the Secret, with the same limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = {"type": "string", "maxLength": 4096}
    ))]
    #[x_kube(
        validation = Rule::new("self.all(key, size(key) <= 317 && key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))")
            .message("template.annotations: a name is as Kubernetes has them, for example example.com/owner"),
        validation = Rule::new("self.all(key, !key.matches('^([^/]*[.])?(kubernetes[.]io|k8s[.]io|entrapostgres[.]io)/'))")
            .message("template.annotations: names under kubernetes.io, k8s.io and entrapostgres.io are reserved")
    )]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Keys and their texts, with placeholders such as `{{ user }}` and `{{ token }}` in the language of
    /// Jinja. Placeholders: host, port, database, user, token, expiresOn, tenant, sslmode, ca, caFile.
    /// Filters: urlencode, json, pgpass, conninfo, shell, properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "minProperties" = 1,
        "maxProperties" = 32,
        "additionalProperties" = {"type": "string", "maxLength": 16384}
    ))]
    #[x_kube(
        validation = Rule::new("self.all(key, size(key) <= 253 && key.matches('^[-._a-zA-Z0-9]+$') && key != '.' && !key.startsWith('..'))")
            .message("template.data: a key has at most 253 letters, digits, '-', '_' and '.', and does not start with '..'"),
        validation = Rule::new("self.map(key, size(self[key])).sum() <= 49152")
            .message("template.data: at most 49152 characters in all; put what has no placeholder into a ConfigMap")
    )]
    pub data: Option<BTreeMap<String, String>>,
}

/// Where workloads connect to, as text for the Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("has(self.host) || has(self.port)").message("endpoint: set host, port or both"))]
pub struct TokenEndpoint {
    /// Host name. Default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$")
    )]
    pub host: Option<String>,
    /// TCP port. Default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// A set of keys in the Secret.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::EnumIter,
)]
pub enum SecretFormat {
    /// The well-known keys of servicebinding.io: type, provider, host, port, database, username,
    /// password, uri, and certificates if the server has a CA.
    ServiceBinding,
    /// What libpq reads from the environment: PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD,
    /// PGSSLMODE, and if the server has a CA PGSSLROOTCERT with ca.crt. Note that a process never sees
    /// a change of its own environment: mount the files and read them at each connect.
    Env,
    /// Key pgpass: a password file for libpq, pgAdmin and JDBC.
    PgPass,
    /// Key uri: a connection URI, and ca.crt if the server has a CA.
    Uri,
    /// Key conninfo: keyword=value pairs for libpq, and ca.crt if the server has a CA.
    Conninfo,
    /// Key token.json: what `az account get-access-token` prints: accessToken, expiresOn, expires_on,
    /// tenant, tokenType.
    Json,
}

impl Default for TokenSecret {
    fn default() -> Self {
        Self {
            name: None,
            formats: default_formats(),
            mount_path: None,
            template: None,
        }
    }
}

fn default_formats() -> Vec<SecretFormat> {
    vec![SecretFormat::ServiceBinding]
}
