//! A real Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager.
//! Must not know about Azure, `PostgreSQL` or the operator.

mod apply;
pub mod assets;
mod audit;
mod credentials;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::http::Request;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

pub use apply::{parse as parse_manifests, path as apply_path};
pub use audit::{Audit, Entry, Mark};

use crate::process::{Process, until};
use credentials::{Authority, certificate_user, write_kubeconfig};
use programs::Layout;

/// How long the API server may take to be ready: 3 s on a quiet machine.
const READY: Duration = Duration::from_secs(90);
/// How long each program may take to end.
const END: Duration = Duration::from_secs(15);
/// How long the tokens in kubeconfig files of service accounts live: longer than any lab.
const TOKEN_SECONDS: i64 = 90 * 24 * 3600;

/// A running control plane. Dropping it kills it; it never outlives the process that started it.
pub struct ControlPlane {
    layout: Layout,
    authority: Authority,
    controller_manager: Process,
    apiserver: Process,
    etcd: Process,
}

impl ControlPlane {
    /// Starts in `dir` (made if missing, its old contents replaced), building the programs first
    /// if they are not there.
    pub async fn start(dir: impl Into<PathBuf>) -> Result<Self> {
        let programs = tokio::task::spawn_blocking(|| assets::find(assets::Set::ControlPlane));
        Self::start_with(dir, &programs.await??).await
    }

    /// As `start`, with the programs in a folder.
    pub async fn start_with(dir: impl Into<PathBuf>, programs: &Path) -> Result<Self> {
        let dir = dir.into();
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))?;
        }
        fs::create_dir_all(&dir)?;
        let layout = Layout::new(dir.canonicalize()?, programs.to_path_buf())?;
        let etcd = Process::start(layout.etcd())?;
        let authority = Authority::new()?;
        Self::write_credentials(&layout, &authority)?;
        let apiserver = Process::start(layout.apiserver())?;
        // It retries until the API server is there, and loads meanwhile.
        let controller_manager = Process::start(layout.controller_manager())?;
        let mut started = Self {
            layout,
            authority,
            controller_manager,
            apiserver,
            etcd,
        };
        started.wait_ready().await?;
        Ok(started)
    }

    fn write_credentials(layout: &Layout, authority: &Authority) -> Result<()> {
        credentials::service_account_key(&layout.file("service-accounts.key"))?;
        let server = authority.server()?;
        fs::write(layout.file("ca.crt"), authority.pem())?;
        fs::write(layout.file("server.crt"), server.certificate)?;
        crate::process::write_private(&layout.file("server.key"), server.key)?;
        let kubelets = authority.client("lab-apiserver", Some("system:masters"))?;
        fs::write(layout.file("kubelet-client.crt"), kubelets.certificate)?;
        crate::process::write_private(&layout.file("kubelet-client.key"), kubelets.key)?;
        fs::write(layout.file("audit.yaml"), programs::AUDIT_POLICY)?;
        let users = [
            ("kubeconfig", "lab-admin", Some("system:masters")),
            (
                "controller-manager.kubeconfig",
                "system:kube-controller-manager",
                None,
            ),
        ];
        for (file, user, group) in users {
            let pair = authority.client(user, group)?;
            let user = certificate_user(&pair);
            write_kubeconfig(
                &layout.file(file),
                &layout.url(),
                authority.pem(),
                "default",
                &user,
            )?;
        }
        Ok(())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let client = self.kube_client().await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        until("the API server is ready", READY, async || {
            for process in [
                &mut self.etcd,
                &mut self.apiserver,
                &mut self.controller_manager,
            ] {
                process.check()?;
            }
            let answer = client
                .request_text(Request::get("/readyz").body(Vec::new())?)
                .await;
            // The controller manager works when the first service account is there.
            Ok(answer.is_ok_and(|text| text == "ok")
                && accounts
                    .get_opt("default")
                    .await
                    .is_ok_and(|found| found.is_some()))
        })
        .await
        .with_context(|| format!("logs are in {}", self.layout.dir().display()))
    }

    /// Stops all three in order and leaves nothing but files.
    pub async fn stop(self) -> Result<()> {
        let Self {
            layout: _,
            authority: _,
            controller_manager,
            apiserver,
            etcd,
        } = self;
        controller_manager.stop(END).await?;
        // It would wait a minute for open watches; nothing is lost by not waiting.
        apiserver.kill();
        etcd.stop(END).await?;
        Ok(())
    }

    /// The folder with logs, keys and kubeconfig files.
    pub fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// The URL of the API server, which is also the issuer of service account tokens and their
    /// default audience.
    pub fn url(&self) -> String {
        self.layout.url()
    }

    pub fn issuer(&self) -> String {
        self.layout.url()
    }

    pub fn audience(&self) -> String {
        self.layout.url()
    }

    /// The certificate authority of the API server, PEM.
    pub fn ca(&self) -> &str {
        self.authority.pem()
    }

    /// The process ids of etcd, kube-apiserver and kube-controller-manager.
    pub fn pids(&self) -> [u32; 3] {
        [
            self.etcd.pid(),
            self.apiserver.pid(),
            self.controller_manager.pid(),
        ]
    }

    /// A kubeconfig file of a cluster administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.file("kubeconfig")
    }

    /// A client of a cluster administrator. Belongs to the runtime that asks for it.
    pub async fn kube_client(&self) -> Result<Client> {
        client_of(&self.kubeconfig()).await
    }

    /// The keys that service account tokens are signed with, as a JSON web key set.
    pub async fn jwks(&self) -> Result<serde_json::Value> {
        let client = self.kube_client().await?;
        Ok(client
            .request(Request::get("/openid/v1/jwks").body(Vec::new())?)
            .await?)
    }

    /// Server-side apply of a file, or of all manifests in a folder.
    pub async fn apply_path(&self, path: &Path) -> Result<Vec<DynamicObject>> {
        apply::path(&self.kube_client().await?, path).await
    }

    /// Server-side apply of the documents in a text.
    pub async fn apply_text(&self, text: &str) -> Result<Vec<DynamicObject>> {
        apply::text(&self.kube_client().await?, text).await
    }

    /// A token of a service account, by `TokenRequest`.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audience: &str,
    ) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.kube_client().await?, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                expiration_seconds: Some(TOKEN_SECONDS),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await;
        let answer = answer.with_context(|| format!("no token of {namespace}/{name}"))?;
        Ok(answer
            .status
            .with_context(|| format!("an empty token of {namespace}/{name}"))?
            .token)
    }

    /// A kubeconfig file whose user is that service account, and whose namespace is its own.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self
            .service_account_token(namespace, name, &self.audience())
            .await?;
        let path = self.layout.file(&format!("{namespace}.{name}.kubeconfig"));
        write_kubeconfig(
            &path,
            &self.url(),
            self.ca(),
            namespace,
            &json!({ "token": token }),
        )?;
        Ok(path)
    }

    /// Writes a kubeconfig file whose user is the kubelet of that node.
    pub fn node_kubeconfig(&self, node: &str, path: &Path) -> Result<()> {
        let user = format!("system:node:{node}");
        let pair = self.authority.client(&user, Some("system:nodes"))?;
        let user = certificate_user(&pair);
        write_kubeconfig(path, &self.url(), self.ca(), "default", &user)
    }

    /// What was asked of the API server.
    pub fn audit(&self) -> Audit {
        Audit::new(self.layout.file("audit.log"))
    }
}

/// The name that the API server gives a service account, as it stands in the audit log.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// A client from a kubeconfig file.
pub async fn client_of(kubeconfig: &Path) -> Result<Client> {
    crate::crypto();
    let read = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    // A test wants to see the first answer, not the fifteenth.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    Ok(Client::try_from(config)?)
}
