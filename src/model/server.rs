//! What an `EntraPostgresServer` declares, parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::desired::{RECONCILE, RESTORE};
use super::marker::DISCARD;
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
    /// Annotation `entrapostgres.io/restore`: by principal, a value that was not obeyed yet lets its role
    /// sign in that a database administrator closed.
    pub restore: BTreeMap<ObjectKey, String>,
    /// Annotation `entrapostgres.io/discard-marker`: by principal, the MD5 of the comment with a marker
    /// that cannot be read, which then counts as none.
    pub discard: BTreeMap<ObjectKey, String>,
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
            restore: words(object.annotations().get(RESTORE)),
            discard: words(object.annotations().get(DISCARD)),
            resync_interval: Duration::from(spec.resync_interval).max(Duration::from_secs(1)),
        })
    }
}

/// An annotation with a word for each of several principals: `orders/api=word, shop/web=word`. What is
/// written otherwise is passed over.
fn words(annotation: Option<&String>) -> BTreeMap<ObjectKey, String> {
    let entries = annotation.into_iter().flat_map(|text| text.split(','));
    let word = |entry: &str| {
        let (object, word) = entry.split_once('=')?;
        let (namespace, name) = object.trim().split_once('/')?;
        let word = Some(word.trim()).filter(|word| !word.is_empty())?;
        Some((ObjectKey::new(namespace, name), word.to_owned()))
    };
    entries.filter_map(word).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    // Red when: words() takes a principal of any namespace, or an empty word, which would open a role for
    // everybody or for good.
    #[test]
    fn an_annotation_names_principals_in_full_each_with_a_word() {
        let read = |text: &str| {
            let words = words(Some(&text.to_owned())).into_iter();
            let pairs: Vec<String> = words
                .map(|(object, word)| format!("{object}={word}"))
                .collect();
            pairs.join(",")
        };
        assert_eq!(read("orders/api=1"), "orders/api=1");
        assert_eq!(
            read(" orders/api = a b , shop/web=x=y,"),
            "orders/api=a b,shop/web=x=y"
        );
        for odd in [
            "",
            "api=1",
            "orders/api",
            "orders/api=",
            "orders/api= ",
            "*",
        ] {
            assert_eq!(read(odd), "", "{odd:?}");
        }
        assert_eq!(words(None), BTreeMap::new());
    }
}
