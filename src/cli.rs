//! The command line: what each command and option means, and the exit status.
//! Does no work of its own.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::api;
use crate::model::{Class, Failure, Reason};
use crate::run;
use crate::settings::{ConfigFile, Environment, Options, Settings};
use crate::telemetry::logs::{self, LogFormat, LogLevel};

/// Makes Microsoft Entra principals PostgreSQL roles on Azure Database for PostgreSQL, and keeps
/// their access tokens in Secrets.
#[derive(Debug, Parser)]
#[command(name = "entra-postgres-operator", version, about)]
#[allow(clippy::doc_markdown, reason = "the comments are the help")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator. It stops at SIGTERM or SIGINT, after finishing what it has begun.
    Run(Box<RunArguments>),
    /// Print the custom resource definitions as YAML, for kubectl apply --server-side -f -.
    Crds(CrdsArguments),
}

#[derive(Debug, Args)]
struct CrdsArguments {
    /// Write one file per definition into this directory instead.
    #[arg(long, value_name = "DIRECTORY")]
    output_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "the comments are the help")]
struct RunArguments {
    /// Configuration file (YAML): clusterId, formerClusterIds, operatorIdentityNamespaces,
    /// managedIdentities, clouds, serverSuffixes, reservedPrefixes. Without it the defaults hold.
    #[arg(long, env = "EPO_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Namespaces to work in, separated by commas. Default: all.
    #[arg(
        long,
        env = "EPO_WATCH_NAMESPACES",
        value_name = "NAMESPACES",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(
        long,
        env = "EPO_HTTP_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:8080"
    )]
    http_address: SocketAddr,
    /// How log lines look; they go to standard output.
    #[arg(long, env = "EPO_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace or off, also by module, as in
    /// "info,entra_postgres_operator::entra=debug".
    #[arg(
        long,
        env = "EPO_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info"
    )]
    log_level: LogLevel,
    /// Elect a leader among replicas, by a Lease. Switch it off only for a single replica.
    #[arg(
        long,
        env = "EPO_LEADER_ELECTION",
        value_name = "true|false",
        default_value_t = true,
        action = ArgAction::Set
    )]
    leader_election: bool,
    /// Name of the Lease. Operators that share a namespace need different ones.
    #[arg(
        long,
        env = "EPO_LEASE_NAME",
        value_name = "NAME",
        default_value = "entra-postgres-operator"
    )]
    lease_name: String,
    /// Namespace of the Lease. Default: the operator's own, from POD_NAMESPACE.
    #[arg(long, env = "EPO_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// How many tokens are asked for at the same time.
    #[arg(
        long,
        env = "EPO_MAX_CONCURRENT_EXCHANGES",
        value_name = "NUMBER",
        default_value_t = 16
    )]
    max_concurrent_exchanges: usize,
    /// PEM file with certificates that are trusted beside the platform's where tokens are asked
    /// for: a company proxy's, for example. HTTPS_PROXY and NO_PROXY are obeyed there, too.
    #[arg(long, env = "EPO_CA_BUNDLE", value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
}

impl Cli {
    /// Does what is asked. Status 0: done; 1: failed, with one sentence on standard error; wrong
    /// usage has ended in [`Parser::parse`] with status 2.
    pub async fn execute(self) -> ExitCode {
        let outcome = match self.command {
            Command::Crds(arguments) => write_crds(arguments.output_dir.as_deref()),
            Command::Run(arguments) => start(*arguments).await,
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // Nothing is left to be done if nobody listens.
                let _ = writeln!(std::io::stderr(), "error: {failure}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn start(arguments: RunArguments) -> Result<(), Failure> {
    logs::init(arguments.log_format, &arguments.log_level);
    let environment = Environment::read();
    for sentence in &environment.ignored {
        tracing::warn!("{sentence}");
    }
    let settings = arguments.settings(environment)?;
    run::run(settings).await
}

impl RunArguments {
    fn settings(self, environment: Environment) -> Result<Settings, Failure> {
        let file = match &self.config {
            Some(path) => read_config(path)?,
            None => ConfigFile::default(),
        };
        let present = |text: &String| !text.trim().is_empty();
        let names = self.watch_namespaces.into_iter();
        let options = Options {
            watch_namespaces: names
                .filter(present)
                .map(|name| name.trim().to_owned())
                .collect(),
            http_address: self.http_address,
            leader_election: self.leader_election,
            lease_name: self.lease_name,
            lease_namespace: self.lease_namespace.filter(present),
            max_concurrent_exchanges: self.max_concurrent_exchanges,
            ca_bundle: self.ca_bundle.filter(|path| !path.as_os_str().is_empty()),
        };
        Settings::resolve(file, environment, options)
    }
}

fn read_config(path: &Path) -> Result<ConfigFile, Failure> {
    let place = path.display();
    let invalid = |problem: String| {
        let message = format!("configuration file {place} {problem}");
        Failure::new(Class::Invalid, Reason::InvalidSpec, message)
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("cannot be read: {error}")))?;
    if text.trim().is_empty() {
        return Ok(ConfigFile::default());
    }
    serde_yaml::from_str(&text).map_err(|error| invalid(format!("is wrong: {error}")))
}

fn write_crds(directory: Option<&Path>) -> Result<(), Failure> {
    let failed = |what: String, error: &dyn std::error::Error| {
        let message = format!("cannot write {what}: {error}");
        Failure::new(Class::Invalid, Reason::Internal, message)
    };
    let mut all = String::new();
    for crd in api::crds() {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let text = serde_yaml::to_string(&crd).map_err(|error| failed(name, &error))?;
        let Some(directory) = directory else {
            all.push_str("---\n");
            all.push_str(&text);
            continue;
        };
        let file = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        let path = directory.join(file);
        std::fs::write(&path, format!("---\n{text}"))
            .map_err(|error| failed(path.display().to_string(), &error))?;
    }
    std::io::stdout()
        .write_all(all.as_bytes())
        .map_err(|error| failed("to standard output".to_owned(), &error))
}

#[cfg(test)]
mod tests;
