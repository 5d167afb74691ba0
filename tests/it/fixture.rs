//! What every test stands on: one control plane for all, and for each test an Azure, namespaces and
//! an operator of its own. Waits are on conditions with a deadline; a failed wait shows the object
//! and the end of the operator's log.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use lab::azure::{Azure, AzureOptions};
use lab::confined::{self, Limits};
use lab::control_plane::{ControlPlane, service_account_user};
use lab::directory::Directory;
use lab::operator::{Cloud, Configuration, OperatorOptions, OperatorProcess};
use lab::postgres::PostgresOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

mod counts;
mod database;
mod objects;

pub use objects::{Condition, condition};

/// How long anything may take that an operator should do at once.
pub const SOON: Duration = Duration::from_secs(30);
/// Where the chart puts the operator.
pub const OPERATOR: &str = "entra-postgres-operator";
/// The lab's tenant.
pub const TENANT: &str = "11111111-1111-4111-8111-111111111111";

/// Object ids and client ids of the lab's directory.
pub const API_ID: &str = "5e41ce00-0000-4000-8000-000000000002";
pub const API_CLIENT: &str = "c11e4700-0000-4000-8000-000000000002";
pub const REPORTS_ID: &str = "5e41ce00-0000-4000-8000-000000000003";
pub const REPORTS_CLIENT: &str = "c11e4700-0000-4000-8000-000000000003";
pub const ADMIN_CLIENT: &str = "c11e4700-0000-4000-8000-000000000001";
pub const ALICE: &str = "alice@contoso.onmicrosoft.com";

/// What the team's principals may be members of, and leave things to: tests make these roles.
pub const MEMBER_OF: [&str; 7] = [
    "readers",
    "writers",
    "owners",
    "heir",
    "app_owner",
    "pg_monitor",
    "pg_read_all_data",
];
/// Every privilege.
pub const PRIVILEGES: [&str; 13] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "TRUNCATE",
    "REFERENCES",
    "TRIGGER",
    "MAINTAIN",
    "USAGE",
    "CREATE",
    "CONNECT",
    "TEMPORARY",
    "EXECUTE",
];

/// The control plane that all tests share, with the kinds and the chart's manifests in it.
pub fn plane() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(|| {
        // A thread and a runtime of its own, so that it outlives the test that came first.
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let plane = runtime
                .block_on(start_plane())
                .expect("the control plane starts");
            std::mem::forget(runtime);
            plane
        })
        .join()
        .expect("the control plane starts")
    })
}

async fn start_plane() -> Result<ControlPlane> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir()?.keep();
    let plane = ControlPlane::start(dir.join("cluster")).await?;
    plane.apply_text(&namespace(OPERATOR)).await?;
    plane.apply_path(&root().join("crds")).await?;
    plane.apply_path(&root().join("deploy/base")).await?;
    Ok(plane)
}

/// The workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn namespace(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string()
}

/// A change before the start, which may need the namespaces.
type Change<T> = Box<dyn FnOnce(&mut T, &Names) + Send>;
/// A change of a manifest.
type Edit = Box<dyn FnOnce(&mut Value) + Send>;

/// What a test wants otherwise.
pub struct Setup {
    /// Changes the directory before the start.
    pub directory: Change<Directory>,
    /// Changes the operator's configuration.
    pub configuration: Change<Configuration>,
    /// Changes the spec of the server object; `None`: no server object is applied.
    pub server: Option<Edit>,
    /// Whether the operator is started.
    pub operator: bool,
    /// Which server.
    pub postgres: PostgresOptions,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            directory: Box::new(|_, _| ()),
            configuration: Box::new(|_, _| ()),
            server: Some(Box::new(|_| ())),
            operator: true,
            postgres: PostgresOptions::default(),
        }
    }
}

/// The namespaces of a test.
#[derive(Clone, Debug)]
pub struct Names {
    /// Where the server object and the administrator's identity are.
    pub platform: String,
    /// Where the principals are.
    pub team: String,
    /// Another team's.
    pub other: String,
}

impl Names {
    fn new(test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let short: String = test.replace('_', "-").chars().take(30).collect();
        let name = |part: &str| format!("{short}-{n}-{part}");
        Self {
            platform: name("platform"),
            team: name("team"),
            other: name("other"),
        }
    }

    pub fn all(&self) -> Vec<String> {
        vec![self.platform.clone(), self.team.clone(), self.other.clone()]
    }
}

/// A test's own world.
pub struct World {
    pub names: Names,
    pub azure: Azure,
    pub client: Client,
    pub options: OperatorOptions,
    pub operator: Option<OperatorProcess>,
    pub dir: TempDir,
    /// After the operator, which is looked at when it ends.
    _within: Within,
}

/// Fails a test whose operator had more memory than the chart gives it.
struct Within(Limits);

impl Drop for Within {
    fn drop(&mut self) {
        let used = self.0.peak() >> 20;
        assert!(
            !self.0.exceeded() || std::thread::panicking(),
            "the operator had {used} MiB of memory: more than the chart gives it"
        );
    }
}

/// What the chart gives the operator; by a control group where one can be made.
fn limits() -> Result<Limits> {
    let values = root().join("charts/entra-postgres-operator/values.yaml");
    let values: Value = serde_yaml::from_str(&std::fs::read_to_string(values)?)?;
    let memory = values["resources"]["limits"]["memory"].as_str();
    let memory = memory
        .and_then(confined::bytes)
        .context("the chart has no memory limit")?;
    Ok(Limits::new(memory, None).unwrap_or_else(|error| {
        static SAID: Once = Once::new();
        SAID.call_once(|| eprintln!("no control groups for operators: {error:#}"));
        Limits::without_group(memory, None)
    }))
}

impl World {
    /// The lab's default Azure, a server object that allows the team everything, a running operator.
    pub async fn start(test: &str) -> Result<Self> {
        Self::with(test, Setup::default()).await
    }

    /// The same with changes.
    pub async fn with(test: &str, setup: Setup) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let names = Names::new(test);
        let plane = plane();
        let mut directory = directory(&names);
        (setup.directory)(&mut directory, &names);
        let options = AzureOptions {
            directory,
            postgres: Some(setup.postgres),
            ..AzureOptions::default()
        };
        let azure = Azure::start(options).await?;
        azure.set_cluster_issuer(plane.issuer(), plane.jwks().await?);
        for name in names.all() {
            plane.apply_text(&namespace(&name)).await?;
        }
        let client = plane.kube_client().await?;
        let dir = tempfile::tempdir()?;
        let mut configuration = configuration(&azure);
        (setup.configuration)(&mut configuration, &names);
        let kubeconfig = plane.service_account_kubeconfig(OPERATOR, OPERATOR).await?;
        let limits = limits()?;
        let options = OperatorOptions {
            limits: Some(limits.clone()),
            namespaces: names.all(),
            envs: vec![("POD_NAMESPACE".to_owned(), OPERATOR.to_owned())],
            ..OperatorOptions::new(dir.path(), kubeconfig, configuration.yaml()?)
        };
        let mut world = Self {
            names,
            azure,
            client,
            options,
            operator: None,
            dir,
            _within: Within(limits),
        };
        world.apply_identities().await?;
        if let Some(change) = setup.server {
            let mut server = world.server("server")?;
            change(&mut server);
            world.apply(&server).await?;
        }
        if setup.operator {
            world.start_operator().await?;
        }
        Ok(world)
    }

    /// Starts the operator, or starts it again, and waits until it is ready.
    pub async fn start_operator(&mut self) -> Result<()> {
        self.operator = Some(OperatorProcess::start_ready(&self.options, SOON).await?);
        Ok(())
    }

    /// Starts the operator and waits for nothing.
    pub fn launch_operator(&mut self) -> Result<()> {
        self.operator = Some(OperatorProcess::start(&self.options)?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.kill();
        }
    }

    /// The audit log's name of the operator.
    pub fn operator_user() -> String {
        service_account_user(OPERATOR, OPERATOR)
    }

    /// The server object, ready to apply: the team may have everything.
    pub fn server(&self, name: &str) -> Result<Value> {
        let port = self.azure.gateway()?.port();
        Ok(json!({
            "apiVersion": "entrapostgres.io/v1alpha1",
            "kind": "EntraPostgresServer",
            "metadata": {"name": name, "namespace": self.names.platform},
            "spec": {
                "host": "localhost", "port": port, "cloud": "Lab", "resyncInterval": "1s",
                "tls": {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}},
                "admins": [{"roleName": "pg-operators", "identity":
                    {"workloadIdentity": {"serviceAccountRef": {"name": "pg-operator"}}}}],
                "tenants": [{
                    "namespaces": {"names": [self.names.team]},
                    "principalTypes": ["User", "Group", "ServicePrincipal", "ManagedIdentity"],
                    "roleNames": ["*"], "admin": true,
                    "memberOf": MEMBER_OF.map(|role| json!({"role": role, "admin": true})),
                    "grants": [
                        {"database": "*", "privileges": PRIVILEGES},
                        {"database": "*", "schemas": ["*"], "privileges": PRIVILEGES},
                    ],
                    "attributes": ["CreateDb", "CreateRole"],
                    "adoption": ["Refuse", "SameIdentity", "Any"],
                    "deletionPolicies": ["Retain", "Drop", "Reassign"],
                }],
            },
        }))
    }

    /// A principal of the team with everything absent that may be.
    #[allow(clippy::needless_pass_by_value, reason = "it is written in place")]
    pub fn principal(&self, name: &str, role: &str, principal: Value) -> Value {
        json!({
            "apiVersion": "entrapostgres.io/v1alpha1",
            "kind": "EntraPostgresPrincipal",
            "metadata": {"name": name, "namespace": self.names.team},
            "spec": {
                "serverRef": {"name": "server", "namespace": self.names.platform},
                "roleName": role,
                "principal": principal,
            },
        })
    }

    /// The managed identity `orders-api` with its token by workload identity.
    pub fn api(&self) -> Value {
        let mut object = self.principal("api", "orders-api", json!({"type": "ManagedIdentity"}));
        object["spec"]["token"] = json!({"identity": workload_identity("orders-api")});
        object
    }

    async fn apply_identities(&self) -> Result<()> {
        let Names { platform, team, .. } = &self.names;
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": platform},
            "data": {"ca.crt": self.azure.ca_pem()},
        }))
        .await?;
        for (namespace, name, client) in [
            (platform, "pg-operator", ADMIN_CLIENT),
            (team, "orders-api", API_CLIENT),
            (team, "orders-reports", REPORTS_CLIENT),
        ] {
            self.apply(&service_account(namespace, name, client))
                .await?;
        }
        Ok(())
    }

    /// Replaces the lab's faults.
    pub async fn faults(&self, faults: Value) -> Result<()> {
        self.azure.set_faults(serde_json::from_value(faults)?).await
    }

    /// Changes the live directory.
    pub async fn change_directory(&self, change: impl FnOnce(&mut Directory)) -> Result<()> {
        let mut directory = (*self.azure.state().directory()).clone();
        change(&mut directory);
        self.azure.set_directory(directory).await
    }

    /// The end of the operator's log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.options.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The identity of a federated service account.
pub fn workload_identity(account: &str) -> Value {
    json!({"workloadIdentity": {"serviceAccountRef": {"name": account}}})
}

/// A service account with the annotations of workload identity.
pub fn service_account(namespace: &str, name: &str, client: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace, "annotations": {
            "azure.workload.identity/client-id": client,
            "azure.workload.identity/tenant-id": TENANT,
        }},
    })
}

/// The lab's own directory, with the federated subjects moved into the test's namespaces.
fn directory(names: &Names) -> Directory {
    let mut directory = Directory::default();
    for service in &mut directory.service_principals {
        for credential in &mut service.federated_credentials {
            credential.subject = credential
                .subject
                .replace(
                    "serviceaccount:lab:",
                    &format!("serviceaccount:{}:", names.platform),
                )
                .replace(
                    "serviceaccount:orders:",
                    &format!("serviceaccount:{}:", names.team),
                );
        }
    }
    directory
}

fn configuration(azure: &Azure) -> Configuration {
    Configuration {
        clouds: vec![Cloud {
            name: "Lab".to_owned(),
            authority: azure.authority_url(),
            scope: lab::tokens::SCOPE.to_owned(),
            federated_audience: "api://AzureADTokenExchange".to_owned(),
            server_suffixes: vec!["localhost".to_owned()],
            ca_file: Some(azure.ca_file().to_owned()),
            imds_endpoint: azure.imds_url(),
        }],
        ..Configuration::default()
    }
}
