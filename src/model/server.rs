//! What an `EntraPostgresServer` declares, parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::desired::RECONCILE;
use super::{Class, Cloud, Failure, ObjectKey, Reason, RoleName, sizes};
use crate::api::{EntraPostgresServer, Identity, Tenant, Tls};

/// In memory only: what of a server's tenants was too large to be kept.
pub const TOO_LARGE_TENANTS: &str = "entrapostgres.io/too-large-tenants";

/// What an `EntraPostgresServer` declares.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredServer {
    /// The object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Host name, checked to be of the cloud.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Where its tokens come from.
    pub cloud: Arc<Cloud>,
    /// Where its CA is.
    pub tls: Option<Tls>,
    /// The administrators, in the order they are tried.
    pub administrators: Vec<(RoleName, Identity)>,
    /// Who may ask for what.
    pub tenants: Vec<Tenant>,
    /// Connections at most.
    pub max_connections: usize,
    /// Timeout of a connection.
    pub connect_timeout: Duration,
    /// Timeout of a message of statements.
    pub statement_timeout: Duration,
    /// Timeout of a lock.
    pub lock_timeout: Duration,
    /// Time between two snapshots.
    pub resync_interval: Duration,
    /// Annotation `entrapostgres.io/reconcile`: a new value makes us look now.
    pub reconcile: Option<String>,
}

impl DesiredServer {
    /// Parses an object with the clouds that the operator knows.
    ///
    /// # Errors
    /// `UnknownCloud`, `HostNotInCloud`, and `InvalidSpec` for what the schema should have refused.
    pub fn parse(
        object: &EntraPostgresServer,
        clouds: &BTreeMap<String, Arc<Cloud>>,
    ) -> Result<Self, Failure> {
        let spec = &object.spec;
        match object.annotations().get(TOO_LARGE_TENANTS) {
            Some(what) => return Err(sizes::too_large(what)),
            None => sizes::server(spec)?,
        }
        let cloud = clouds
            .get(&spec.cloud)
            .ok_or_else(|| unknown_cloud(&spec.cloud, clouds))?;
        if !cloud.has_host(&spec.host) {
            return Err(host_not_in_cloud(&spec.host, cloud));
        }
        let limits = spec.limits.clone().unwrap_or_default();
        let timeouts = spec.timeouts.clone().unwrap_or_default();
        let administrators = spec
            .admins
            .iter()
            .map(|admin| Ok((RoleName::parse(&admin.role_name)?, admin.identity.clone())));
        Ok(Self {
            key: ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any()),
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            host: spec.host.clone(),
            port: u16::try_from(spec.port).unwrap_or(5432),
            cloud: Arc::clone(cloud),
            tls: spec.tls.clone(),
            administrators: administrators.collect::<Result<_, Failure>>()?,
            tenants: spec.tenants.clone(),
            max_connections: usize::try_from(limits.max_connections).unwrap_or(1).max(1),
            connect_timeout: timeouts.connect.into(),
            statement_timeout: timeouts.statement.into(),
            lock_timeout: timeouts.lock.into(),
            reconcile: object.annotations().get(RECONCILE).cloned(),
            resync_interval: Duration::from(spec.resync_interval).max(Duration::from_secs(1)),
        })
    }
}

fn unknown_cloud(name: &str, clouds: &BTreeMap<String, Arc<Cloud>>) -> Failure {
    let known: Vec<&str> = clouds.keys().map(String::as_str).collect();
    let message = format!(
        "cloud {name:?} is unknown: use one of {}, or define it in the operator's configuration",
        known.join(", ")
    );
    Failure::new(Class::Invalid, Reason::UnknownCloud, message)
}

fn host_not_in_cloud(host: &str, cloud: &Cloud) -> Failure {
    let message = format!(
        "host {host} is not a server of cloud {}: it must equal or lie below one of {}; no token was \
         asked for. Further suffixes are set in the operator's configuration (serverSuffixes)",
        cloud.name,
        cloud.server_suffixes.join(", ")
    );
    Failure::new(Class::Invalid, Reason::HostNotInCloud, message)
}
