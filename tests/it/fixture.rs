//! What every test stands on: one control plane for all, and for each test an Azure, namespaces and
//! an operator of its own. Waits are on conditions with a deadline; a failed wait shows the object
//! and the end of the operator's log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use lab::azure::{Azure, AzureOptions};
use lab::control_plane::{ControlPlane, service_account_user};
use lab::directory::Directory;
use lab::operator::{Cloud, Configuration, OperatorOptions, OperatorProcess};
use lab::postgres::PostgresOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

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
        let options = OperatorOptions {
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

    /// Server-side apply, as a user would.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        plane().apply_text(&object.to_string()).await.map(|_| ())
    }

    /// Merge patch on an object of one of our kinds, `spec` and metadata.
    pub async fn patch(&self, kind: &str, name: &str, patch: &Value) -> Result<()> {
        self.objects(kind)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Merge patch on its status.
    pub async fn patch_status(&self, kind: &str, name: &str, patch: &Value) -> Result<()> {
        self.objects(kind)
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Deletes an object of one of our kinds.
    pub async fn delete(&self, kind: &str, name: &str) -> Result<()> {
        self.objects(kind)
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// An object as it is; `None`: absent.
    pub async fn get(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let found = self.objects(kind).get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// All objects of one kind in its namespace.
    pub async fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let params = kube::api::ListParams::default();
        let objects = self.objects(kind).list(&params).await?.items.into_iter();
        objects.map(|o| Ok(serde_json::to_value(o)?)).collect()
    }

    /// `server` and `platform-…` in the platform's namespace, `other-…` in the other team's; everything
    /// else in the team's.
    fn objects(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version, kind, namespace) = match kind {
            "principal" => (
                GROUP,
                "v1alpha1",
                "EntraPostgresPrincipal",
                &self.names.team,
            ),
            "server" => (
                GROUP,
                "v1alpha1",
                "EntraPostgresServer",
                &self.names.platform,
            ),
            "platform-principal" => (
                GROUP,
                "v1alpha1",
                "EntraPostgresPrincipal",
                &self.names.platform,
            ),
            "team-server" => (GROUP, "v1alpha1", "EntraPostgresServer", &self.names.team),
            "secret" => ("", "v1", "Secret", &self.names.team),
            "platform-secret" => ("", "v1", "Secret", &self.names.platform),
            "platform-configmap" => ("", "v1", "ConfigMap", &self.names.platform),
            "platform-serviceaccount" => ("", "v1", "ServiceAccount", &self.names.platform),
            "other-principal" => (
                GROUP,
                "v1alpha1",
                "EntraPostgresPrincipal",
                &self.names.other,
            ),
            "other-secret" => ("", "v1", "Secret", &self.names.other),
            "serviceaccount" => ("", "v1", "ServiceAccount", &self.names.team),
            other => panic!("the fixture knows no kind {other}"),
        };
        let kind = kube::core::GroupVersionKind::gvk(group, version, kind);
        Api::namespaced_with(
            self.client.clone(),
            namespace,
            &ApiResource::from_gvk(&kind),
        )
    }

    /// Waits until `is_so` likes the object (`Value::Null`: absent) and returns it.
    pub async fn wait(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.wait_for(kind, name, what, SOON, is_so).await
    }

    /// The same with a deadline of its own.
    pub async fn wait_for(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        deadline: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let start = Instant::now();
        loop {
            let object = self.get(kind, name).await?.unwrap_or(Value::Null);
            if is_so(&object) {
                return Ok(object);
            }
            if start.elapsed() > deadline {
                let status = object.get("status").unwrap_or(&object);
                bail!(
                    "{kind} {name}: {what}: not so after {deadline:?}. It is\n{status:#}\noperator's \
                     log:\n{}",
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until no deletion of a principal is under way: it is there or gone.
    pub async fn wait_settled(&self, name: &str) -> Result<()> {
        self.wait("principal", name, "its deletion has ended", |object| {
            object["metadata"]["deletionTimestamp"].is_null()
        })
        .await
        .map(|_| ())
    }

    /// Waits until condition Ready of the present generation is True.
    pub async fn ready(&self, kind: &str, name: &str) -> Result<Value> {
        self.wait(kind, name, "Ready", |object| {
            condition(object, "Ready").is("True")
        })
        .await
    }

    /// Waits until condition Ready is not True for that reason; returns its message.
    pub async fn not_ready(&self, kind: &str, name: &str, reason: &str) -> Result<String> {
        let object = self
            .wait(
                kind,
                name,
                &format!("not Ready because of {reason}"),
                |object| {
                    let ready = condition(object, "Ready");
                    ready.reason == reason && !ready.is("True")
                },
            )
            .await?;
        Ok(condition(&object, "Ready").message)
    }

    /// The data of a Secret of the team.
    pub async fn secret(&self, name: &str) -> Result<BTreeMap<String, String>> {
        use k8s_openapi::api::core::v1::Secret;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.names.team);
        let secret = api.get(name).await?;
        let data = secret.data.unwrap_or_default().into_iter();
        data.map(|(key, value)| Ok((key, String::from_utf8(value.0)?)))
            .collect()
    }

    /// Waits until a Secret of the team holds exactly this.
    pub async fn wait_data(&self, name: &str, data: &BTreeMap<String, String>) -> Result<()> {
        let start = Instant::now();
        while self.secret(name).await? != *data {
            if start.elapsed() > SOON {
                bail!(
                    "Secret {name} is not as it was. operator's log:\n{}",
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    /// Signs in with a user and password over TLS through the gateway; returns `current_user`.
    pub async fn login(&self, user: &str, password: &str, database: &str) -> Result<String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_pki_certificates(&self.azure.ca_pem())? {
            roots.add(certificate)?;
        }
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (client, connection) = tokio_postgres::Config::new()
            .host("localhost")
            .port(self.azure.gateway()?.port())
            .user(user)
            .password(password)
            .dbname(database)
            .ssl_mode(tokio_postgres::config::SslMode::Require)
            .connect(tokio_postgres_rustls::MakeRustlsConnect::new(tls))
            .await?;
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT current_user::text", &[]).await?;
        connection.abort();
        Ok(row.get(0))
    }

    /// Runs SQL as the lab's superuser in database `postgres`.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        let client = self.azure.postgres().await?.superuser().await?;
        client
            .batch_execute(sql)
            .await
            .with_context(|| sql.to_owned())
    }

    /// The first column of the first row, as the superuser sees it; `None`: no row, or null.
    pub async fn ask(&self, sql: &str) -> Result<Option<String>> {
        let client = self.azure.postgres().await?.superuser().await?;
        let messages = client
            .simple_query(sql)
            .await
            .with_context(|| sql.to_owned())?;
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// The object id that the server lists for a role; `None`: no such Entra role.
    pub async fn bound_to(&self, role: &str) -> Result<Option<String>> {
        let role = postgres_protocol::escape::escape_literal(role);
        self.ask(&format!(
            "SELECT p.oid FROM pgaadauth_list_principals(false) AS p(name, kind, oid) WHERE p.name = {role}"
        ))
        .await
    }

    /// Waits until SQL as the superuser answers so.
    pub async fn wait_sql(&self, sql: &str, answer: Option<&str>) -> Result<()> {
        let start = Instant::now();
        loop {
            let got = self.ask(sql).await?;
            if got.as_deref() == answer {
                return Ok(());
            }
            if start.elapsed() > SOON {
                bail!(
                    "{sql}: {got:?}, not {answer:?}. operator's log:\n{}",
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The lab's counters.
    pub fn stats(&self) -> Value {
        serde_json::to_value(self.azure.state().stats.snapshot()).expect("counters are JSON")
    }

    /// Requests to the token endpoint and IMDS so far, of one client or of all.
    pub fn token_requests(&self, client: Option<&str>) -> u64 {
        let stats = self.stats();
        let requests = match client {
            Some(client) => &stats["tokenRequests"]["byClient"][client],
            None => &stats["tokenRequests"]["total"],
        };
        requests.as_u64().unwrap_or_default()
    }

    /// One number of the operator's metrics: the sum of all series that begin so.
    pub async fn metric(&self, series: &str) -> Result<u64> {
        let operator = self.operator.as_ref().context("no operator runs")?;
        let text = operator.metrics().await?;
        let values = text.lines().filter(|line| line.starts_with(series));
        let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        Ok(values.sum())
    }

    /// Waits until a client has asked for tokens so often.
    pub async fn wait_requests(&self, client: &str, count: u64) -> Result<()> {
        let start = Instant::now();
        while self.token_requests(Some(client)) < count {
            if start.elapsed() > SOON {
                bail!(
                    "no {count} requests of {client}: {}\n{}",
                    self.stats(),
                    self.log_tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
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

    /// `TokenRequests` of the operator since the mark, in this test's namespaces.
    pub fn token_requests_of_kubernetes(&self, mark: lab::control_plane::Mark) -> Result<usize> {
        let (user, namespaces) = (Self::operator_user(), self.names.all());
        let entries = plane().audit().since(mark)?.into_iter();
        let ours = entries.filter(|entry| {
            entry.user == user
                && entry.target() == "serviceaccounts/token"
                && namespaces.contains(&entry.namespace)
        });
        Ok(ours.count())
    }

    /// What the operator wrote through the API since the mark, in this test's namespaces, without
    /// `TokenRequests`: `verb resource namespace/name`.
    pub fn writes_since(&self, mark: lab::control_plane::Mark) -> Result<Vec<String>> {
        let entries = plane().audit().since(mark)?;
        let user = Self::operator_user();
        let namespaces = self.names.all();
        let ours = entries.into_iter().filter(|entry| {
            entry.user == user
                && entry.is_write()
                && entry.target() != "serviceaccounts/token"
                && namespaces.contains(&entry.namespace)
        });
        Ok(ours
            .map(|e| format!("{} {} {}/{}", e.verb, e.target(), e.namespace, e.name))
            .collect())
    }
}

const GROUP: &str = "entrapostgres.io";

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

/// One condition of an object.
#[derive(Debug, Default)]
pub struct Condition {
    pub status: String,
    pub reason: String,
    pub message: String,
    pub current: bool,
}

impl Condition {
    /// Whether it has that status, for the object's present generation.
    pub fn is(&self, status: &str) -> bool {
        self.current && self.status == status
    }
}

/// A condition of an object by its type; empty when there is none.
pub fn condition(object: &Value, type_: &str) -> Condition {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let conditions = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut found = conditions.filter(|condition| condition["type"] == type_);
    found
        .next()
        .map_or_else(Condition::default, |condition| Condition {
            status: text(condition, "status"),
            reason: text(condition, "reason"),
            message: text(condition, "message"),
            current: condition["observedGeneration"] == object["metadata"]["generation"],
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

fn rustls_pki_certificates(pem: &str) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
    use rustls::pki_types::pem::PemObject as _;
    let certificates = rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates.map(|certificate| Ok(certificate?)).collect()
}
