//! Everything that is configured, read and checked once, at the start. The only place that reads
//! the environment: nothing asks for it later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::api::{Identity, ManagedIdentity};
use crate::entra::{Network, OperatorEnvironment, ProxyVariable};
use crate::leader::LeaseSettings;
use crate::model::secret::Layout;
use crate::model::{Class, Cloud, Failure, Reason};

mod check;

/// The configuration file, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConfigFile {
    /// What tells this cluster from others that share a server. Default: uid of namespace kube-system.
    pub cluster_id: Option<String>,
    /// Ids of clusters whose roles this one takes over, after a cluster was replaced.
    pub former_cluster_ids: Vec<String>,
    /// Namespaces whose objects may use `operator: {}`. Default: the operator's own.
    pub operator_identity_namespaces: Option<Vec<String>>,
    /// Which namespaces may use which of the node's managed identities. Default: none.
    pub managed_identities: Vec<ManagedIdentityRule>,
    /// Clouds beside the built-in ones.
    pub clouds: Vec<Cloud>,
    /// Further server suffixes of clouds, by the cloud's name.
    pub server_suffixes: BTreeMap<String, Vec<String>>,
    /// Prefixes of labels and annotations that no template of a Secret may set, beside those of
    /// Kubernetes and of the operator.
    pub reserved_prefixes: Vec<String>,
}

/// Lets some namespaces use some managed identities of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ManagedIdentityRule {
    /// Exact names of namespaces.
    pub namespaces: Vec<String>,
    /// Client ids.
    pub client_ids: Vec<String>,
    /// Object ids.
    pub object_ids: Vec<String>,
    /// Azure resource ids.
    pub resource_ids: Vec<String>,
    /// The node's own, system-assigned identity.
    pub system_assigned: bool,
}

/// What is read from the environment.
#[allow(clippy::doc_markdown, reason = "names of variables")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// POD_NAMESPACE.
    pub pod_namespace: Option<String>,
    /// POD_NAME.
    pub pod_name: Option<String>,
    /// The operator's own identity.
    pub azure: OperatorEnvironment,
    /// HTTPS_PROXY, or else ALL_PROXY; authorities are always asked by https.
    pub proxy: Option<ProxyVariable>,
    /// NO_PROXY.
    pub no_proxy: Option<String>,
    /// What is set and not obeyed: sentences for the log.
    pub ignored: Vec<String>,
}

impl Environment {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "read once, here")]
    pub fn read() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| variable(name).filter(|text| !text.is_empty());
        // Who reads them differs between programs; so does how they are written.
        let either = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()];
            let mut set = names.into_iter();
            set.find_map(|name| var(&name).map(|url| ProxyVariable { name, url }))
        };
        let (all, ignored) = match either("ALL_PROXY") {
            Some(proxy) if is_foreign(&proxy.url) => (None, Some(proxy.name)),
            proxy => (proxy, None),
        };
        let proxy = either("HTTPS_PROXY").or(all);
        let ignored = ignored.filter(|_| proxy.is_none()).map(|name| {
            format!(
                "{name} is no http or https URL and is not obeyed: Entra is asked directly; set \
                 HTTPS_PROXY if the way leads through a proxy"
            )
        });
        Self {
            proxy,
            no_proxy: either("NO_PROXY").map(|found| found.url),
            ignored: ignored.into_iter().collect(),
            pod_namespace: var("POD_NAMESPACE"),
            pod_name: var("POD_NAME"),
            azure: OperatorEnvironment {
                tenant_id: var("AZURE_TENANT_ID"),
                client_id: var("AZURE_CLIENT_ID"),
                federated_token_file: var("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
                client_secret: var("AZURE_CLIENT_SECRET"),
            },
        }
    }
}

/// Whether a proxy speaks something else than HTTP. `ALL_PROXY` is for all programs and protocols:
/// a SOCKS proxy there is no mistake, and none of ours.
fn is_foreign(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        !["http", "https"]
            .iter()
            .any(|ours| scheme.eq_ignore_ascii_case(ours))
    })
}

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Namespaces to work in; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Where probes and metrics are served.
    pub http_address: SocketAddr,
    /// Whether replicas elect a leader.
    pub leader_election: bool,
    /// Name of the Lease.
    pub lease_name: String,
    /// Namespace of the Lease; default: the operator's own.
    pub lease_namespace: Option<String>,
    /// Exchanges with Entra at the same time.
    pub max_concurrent_exchanges: usize,
    /// PEM file with certificates that are trusted, too, where tokens are asked for.
    pub ca_bundle: Option<PathBuf>,
}

/// Everything that is configured, resolved and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What tells this cluster from others; `None`: uid of namespace kube-system.
    pub cluster_id: Option<String>,
    /// Ids of clusters whose roles this one takes over.
    pub former_cluster_ids: BTreeSet<String>,
    /// Namespaces whose objects may use `operator: {}`.
    pub operator_identity_namespaces: BTreeSet<String>,
    /// Which namespaces may use which of the node's managed identities.
    pub managed_identities: Vec<ManagedIdentityRule>,
    /// All clouds by name, built in and configured.
    pub clouds: BTreeMap<String, Arc<Cloud>>,
    /// Prefixes of labels and annotations that no template of a Secret may set.
    pub reserved_prefixes: Vec<String>,
    /// The operator's own identity.
    pub azure: OperatorEnvironment,
    /// The way to the authorities.
    pub network: Network,
    /// What this replica is called, in events and in the Lease.
    pub instance: String,
    /// Namespaces to work in; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Where probes and metrics are served.
    pub http_address: SocketAddr,
    /// The Lease; `None`: no election, this is the only replica.
    pub lease: Option<LeaseSettings>,
    /// Exchanges with Entra at the same time.
    pub max_concurrent_exchanges: usize,
}

impl Settings {
    /// Puts file, environment and command line together.
    ///
    /// # Errors
    /// Names everything that is wrong, at once.
    pub fn resolve(
        file: ConfigFile,
        environment: Environment,
        options: Options,
    ) -> Result<Self, Failure> {
        let mut problems = check::problems(&file);
        let instance = environment.pod_name.unwrap_or_else(local_name);
        let own = environment.pod_namespace;
        let lease = lease(&options, own.as_ref(), &instance, &mut problems);
        if options.max_concurrent_exchanges == 0 {
            problems.push("--max-concurrent-exchanges must be at least 1".to_owned());
        }
        let clouds = clouds(&file, &mut problems);
        let network = Network {
            proxy: environment.proxy,
            no_proxy: environment.no_proxy,
            ca_bundle: options.ca_bundle,
        };
        problems.extend(network.check().err());
        if !problems.is_empty() {
            let message = format!("the configuration is wrong: {}", problems.join("; "));
            return Err(Failure::new(Class::Invalid, Reason::InvalidSpec, message));
        }
        let operator_identity_namespaces = match file.operator_identity_namespaces {
            Some(namespaces) => namespaces.into_iter().collect(),
            None => own.into_iter().collect(),
        };
        Ok(Self {
            cluster_id: file.cluster_id,
            former_cluster_ids: file.former_cluster_ids.into_iter().collect(),
            operator_identity_namespaces,
            managed_identities: file.managed_identities,
            clouds,
            reserved_prefixes: file.reserved_prefixes,
            azure: environment.azure,
            network,
            instance,
            watch_namespaces: options.watch_namespaces,
            http_address: options.http_address,
            lease,
            max_concurrent_exchanges: options.max_concurrent_exchanges,
        })
    }

    /// A cloud by the name that objects use.
    pub fn cloud(&self, name: &str) -> Result<Arc<Cloud>, Failure> {
        self.clouds.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = self.clouds.keys().map(String::as_str).collect();
            let message = format!(
                "cloud {name:?} is unknown to the operator: use one of {}, or define it in the \
                 operator's configuration",
                known.join(", ")
            );
            Failure::new(Class::Invalid, Reason::UnknownCloud, message)
        })
    }

    /// Whether a template of a Secret has only labels and annotations that it may have.
    pub fn names_allowed(&self, layout: &Layout) -> Result<(), Failure> {
        let Some((field, name)) = layout.reserved(&self.reserved_prefixes).next() else {
            return Ok(());
        };
        let message = format!(
            "token.secret.template.{field}[{name:?}]: the operator's configuration reserves this name \
             (reservedPrefixes): choose another one"
        );
        Err(Failure::new(
            Class::Invalid,
            Reason::TemplateInvalid,
            message,
        ))
    }

    /// Whether objects of a namespace may use an identity. Identities that are proven by something
    /// in the namespace itself always may; the node's and the operator's own only if listed.
    pub fn identity_allowed(&self, namespace: &str, identity: &Identity) -> Result<(), Failure> {
        let refuse = |message: String| {
            Err(Failure::new(
                Class::Invalid,
                Reason::IdentityNotAllowed,
                message,
            ))
        };
        if identity.operator.is_some() && !self.operator_identity_namespaces.contains(namespace) {
            return refuse(format!(
                "the operator's own identity may not be used in namespace {namespace}: add it to \
                 operatorIdentityNamespaces in the operator's configuration, or use another identity"
            ));
        }
        match &identity.managed_identity {
            Some(wanted) if !self.node_identity_allowed(namespace, wanted) => {
                let (which, what) = match id_of(wanted) {
                    Some(id) => (format!("managed identity {id}"), "its id"),
                    None => (
                        "the system-assigned identity of the node".to_owned(),
                        "systemAssigned: true",
                    ),
                };
                refuse(format!(
                    "{which} may not be used in namespace {namespace}: add {what} for the namespace \
                     to managedIdentities in the operator's configuration, or use another identity"
                ))
            }
            _ => Ok(()),
        }
    }

    fn node_identity_allowed(&self, namespace: &str, wanted: &ManagedIdentity) -> bool {
        let listed = |ids: &[String], id: &Option<String>| {
            id.as_ref()
                .is_none_or(|id| ids.iter().any(|each| each.eq_ignore_ascii_case(id)))
        };
        let ManagedIdentity {
            client_id,
            object_id,
            resource_id,
        } = wanted;
        let named = client_id.is_some() || object_id.is_some() || resource_id.is_some();
        self.managed_identities.iter().any(|rule| {
            rule.namespaces.iter().any(|each| each == namespace)
                && (named || rule.system_assigned)
                && listed(&rule.client_ids, client_id)
                && listed(&rule.object_ids, object_id)
                && listed(&rule.resource_ids, resource_id)
        })
    }
}

/// The id that a managed identity is named by; the system-assigned one has none.
fn id_of(identity: &ManagedIdentity) -> Option<&str> {
    let ManagedIdentity {
        client_id,
        object_id,
        resource_id,
    } = identity;
    let id = client_id.as_ref().or(object_id.as_ref());
    id.or(resource_id.as_ref()).map(String::as_str)
}

/// For runs outside a cluster.
fn local_name() -> String {
    format!("local-{}", std::process::id())
}

fn lease(
    options: &Options,
    own_namespace: Option<&String>,
    instance: &str,
    problems: &mut Vec<String>,
) -> Option<LeaseSettings> {
    if !options.leader_election {
        return None;
    }
    let Some(namespace) = options.lease_namespace.as_ref().or(own_namespace) else {
        problems.push(
            "leader election needs a namespace for its Lease: set POD_NAMESPACE or \
             --lease-namespace, or --leader-election=false for a single replica"
                .to_owned(),
        );
        return None;
    };
    Some(LeaseSettings {
        namespace: namespace.clone(),
        name: options.lease_name.clone(),
        identity: instance.to_owned(),
    })
}

fn clouds(file: &ConfigFile, problems: &mut Vec<String>) -> BTreeMap<String, Arc<Cloud>> {
    let mut clouds: BTreeMap<String, Cloud> = Cloud::built_in()
        .into_iter()
        .map(|cloud| (cloud.name.clone(), cloud))
        .collect();
    for cloud in &file.clouds {
        if clouds.insert(cloud.name.clone(), cloud.clone()).is_some() {
            let name = &cloud.name;
            problems.push(format!(
                "clouds: {name:?} is built in or defined twice: names must be unique"
            ));
        }
    }
    for (name, suffixes) in &file.server_suffixes {
        match clouds.get_mut(name) {
            Some(cloud) => cloud.server_suffixes.extend(suffixes.iter().cloned()),
            None => problems.push(format!(
                "serverSuffixes: there is no cloud {name:?}: define it under clouds"
            )),
        }
    }
    clouds
        .into_iter()
        .map(|(name, cloud)| (name, Arc::new(cloud)))
        .collect()
}

#[cfg(test)]
mod tests;
