//! `lab.json`: what other programs may know of a running lab. Its shape is a contract.
//! Must not hold a secret.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    pub postgres: PostgresFacts,
    pub entra: EntraFacts,
    pub operator: OperatorFacts,
    /// A ready `EntraPostgresServer` with what it needs; not applied.
    pub server_manifest: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostgresFacts {
    /// The gateway: TLS, an Entra token as the password.
    pub host: String,
    pub port: u16,
    pub ca_file: PathBuf,
    /// The server behind it, for a look as its superuser, without a password.
    pub socket_dir: PathBuf,
    pub socket_port: u16,
    pub superuser: String,
    pub version: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntraFacts {
    pub authority: String,
    pub tenant_id: String,
    pub scope: String,
    pub ca_file: PathBuf,
    /// The lab's own API: plain HTTP on loopback.
    pub api: String,
}

/// The process id and the metrics are absent while it does not run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorFacts {
    pub pid: Option<u32>,
    pub metrics: Option<String>,
    pub log: PathBuf,
}
