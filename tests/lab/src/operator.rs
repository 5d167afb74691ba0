//! The operator's binary as a process: its configuration file, start, stop, kill, probes, metrics.
//! Must not know what the operator does with its objects.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::Serialize;

use crate::confined::Limits;
use crate::process::{Process, Spec, free_port, until};

/// How long a graceful end may take.
const END: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(5);

/// The operator's configuration file.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former_cluster_ids: Vec<String>,
    /// Absent: the operator's own, from `POD_NAMESPACE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_identity_namespaces: Option<Vec<String>>,
    pub managed_identities: Vec<ManagedIdentities>,
    pub clouds: Vec<Cloud>,
    /// By the name of the cloud.
    pub server_suffixes: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved_prefixes: Vec<String>,
}

/// Which managed identities the objects of some namespaces may use.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedIdentities {
    pub namespaces: Vec<String>,
    pub client_ids: Vec<String>,
    pub object_ids: Vec<String>,
    pub resource_ids: Vec<String>,
    pub system_assigned: bool,
}

/// A cloud besides those that the operator knows.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cloud {
    pub name: String,
    pub authority: String,
    pub scope: String,
    pub federated_audience: String,
    pub server_suffixes: Vec<String>,
    /// Absent: the platform's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    pub imds_endpoint: String,
}

impl Configuration {
    pub fn yaml(&self) -> Result<String> {
        Ok(serde_yaml::to_string(self)?)
    }
}

/// How to start the operator.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    pub binary: PathBuf,
    pub kubeconfig: PathBuf,
    /// The configuration file's text.
    pub config: String,
    /// Where the configuration file and the log are written.
    pub dir: PathBuf,
    /// Distinguishes the files of several operators in one folder.
    pub name: String,
    /// Watched namespaces; empty: all.
    pub namespaces: Vec<String>,
    /// Where the lease is; `None` turns leader election off.
    pub lease_namespace: Option<String>,
    /// `json` or `text`.
    pub log_format: &'static str,
    /// Further arguments.
    pub args: Vec<String>,
    /// Further environment variables.
    pub envs: Vec<(String, String)>,
    /// What it may use.
    pub limits: Option<Limits>,
}

impl OperatorOptions {
    /// The built binary, all namespaces, no leader election.
    pub fn new(dir: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>, config: String) -> Self {
        Self {
            binary: binary(),
            kubeconfig: kubeconfig.into(),
            config,
            dir: dir.into(),
            name: "operator".to_owned(),
            namespaces: Vec::new(),
            lease_namespace: None,
            log_format: "json",
            args: Vec::new(),
            envs: Vec::new(),
            limits: None,
        }
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.join(format!("{}.yaml", self.name))
    }

    pub fn log_file(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    fn spec(&self, address: &str) -> Spec {
        let mut args = vec!["run".to_owned(), "--config".to_owned()];
        args.push(self.config_file().display().to_string());
        let log = self.log_format;
        args.extend(["--http-address", address, "--log-format", log].map(str::to_owned));
        if !self.namespaces.is_empty() {
            args.extend(["--watch-namespaces".to_owned(), self.namespaces.join(",")]);
        }
        match &self.lease_namespace {
            Some(namespace) => {
                args.push("--leader-election=true".to_owned());
                args.extend(["--lease-namespace".to_owned(), namespace.clone()]);
            }
            None => args.push("--leader-election=false".to_owned()),
        }
        args.extend(self.args.iter().cloned());
        let kubeconfig = (
            OsString::from("KUBECONFIG"),
            self.kubeconfig.clone().into_os_string(),
        );
        let further = self
            .envs
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        Spec {
            name: "entra-postgres-operator",
            program: self.binary.clone(),
            args: args.into_iter().map(OsString::from).collect(),
            envs: std::iter::once(kubeconfig).chain(further).collect(),
            dir: self.dir.clone(),
            log: self.log_file(),
            limits: self.limits.clone(),
        }
    }
}

/// A running operator. Dropping it kills it; it never outlives the process that started it.
pub struct OperatorProcess {
    process: Process,
    address: String,
    http: reqwest::Client,
}

impl OperatorProcess {
    pub fn start(options: &OperatorOptions) -> Result<Self> {
        if !options.binary.exists() {
            bail!(
                "no operator at {}: run 'cargo build -p entra-postgres-operator'",
                options.binary.display()
            );
        }
        crate::crypto();
        fs::create_dir_all(&options.dir)?;
        fs::write(options.config_file(), &options.config)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let process = Process::start(options.spec(&address))?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER)
            .build()?;
        Ok(Self {
            process,
            address,
            http,
        })
    }

    /// Starts, and waits until it says that it is ready.
    pub async fn start_ready(options: &OperatorOptions, deadline: Duration) -> Result<Self> {
        let mut started = Self::start(options)?;
        started.wait_ready(deadline).await?;
        Ok(started)
    }

    pub async fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        let ready = until("the operator is ready", deadline, async || {
            self.process.check()?;
            Ok(self.get("/readyz").await.is_ok())
        })
        .await;
        ready.with_context(|| crate::process::tail(self.process.log()))
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The URL of its metrics.
    pub fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Its metrics, as text.
    pub async fn metrics(&self) -> Result<String> {
        self.get("/metrics").await
    }

    /// The text at a path of its HTTP server, if that answers with success.
    pub async fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.address);
        let answer = self.http.get(&url).send().await?.error_for_status()?;
        Ok(answer.text().await?)
    }

    /// Whether it still runs; if not, an error with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// Sends a signal and waits for nothing.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it has ended by itself, or after a signal.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.wait(deadline).await
    }

    /// SIGTERM, and waits; an error if it does not end in time or not with success.
    pub async fn stop(self) -> Result<()> {
        let log = self.process.log().to_path_buf();
        let status = self.process.stop(END).await?;
        if !status.success() {
            bail!(
                "the operator ended with {status} on SIGTERM; {}",
                crate::process::tail(&log)
            );
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.process.kill();
    }
}

/// Where cargo puts the operator: beside this program, or one up for a test.
pub fn binary() -> PathBuf {
    let built = std::env::current_exe().ok().and_then(|exe| {
        let dir = exe.parent()?;
        let dir = if dir.ends_with("deps") {
            dir.parent()?
        } else {
            dir
        };
        Some(dir.join("entra-postgres-operator"))
    });
    built.unwrap_or_else(|| PathBuf::from("target/debug/entra-postgres-operator"))
}
