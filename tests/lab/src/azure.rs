//! The lab's whole Azure in this process: PostgreSQL and its gateway, Entra, IMDS, the
//! lab's API, around one state.
//! It starts and stops; what each part does is its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockMappedWriteGuard, RwLockReadGuard, RwLockWriteGuard};

use crate::directory::Directory;
use crate::faults::{Fault, Faults, On};
use crate::gateway::Gateway;
use crate::http::HttpServer;
use crate::postgres::{Postgres, PostgresOptions};
use crate::state::LabState;
use crate::tls::Authority;
use crate::tokens::TokenKeys;
use crate::{api, entra, imds};

/// What to start. All ports are of 127.0.0.1; 0 is a free one.
#[derive(Debug, Clone)]
pub struct AzureOptions {
    pub directory: Directory,
    /// Absent: no PostgreSQL, Entra alone.
    pub postgres: Option<PostgresOptions>,
    /// Where files for clients are written; absent: a folder that goes with the lab.
    pub dir: Option<PathBuf>,
    pub ports: Ports,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    pub gateway: u16,
    pub entra: u16,
    pub imds: u16,
    pub api: u16,
}

impl Default for AzureOptions {
    fn default() -> Self {
        Self {
            directory: Directory::default(),
            postgres: Some(PostgresOptions::default()),
            dir: None,
            ports: Ports::default(),
        }
    }
}

/// A running Azure. It ends when it is dropped.
pub struct Azure {
    parts: Arc<Parts>,
    authority: Authority,
    ca_file: PathBuf,
    gateway: Option<Gateway>,
    entra: HttpServer,
    imds: HttpServer,
    api: HttpServer,
    _dir: Option<TempDir>,
}

const NO_POSTGRES: &str = "this lab was started without PostgreSQL";

/// What must change together when a client of the API changes it.
pub(crate) struct Parts {
    pub(crate) state: Arc<LabState>,
    postgres: RwLock<Option<Postgres>>,
}

impl Azure {
    pub async fn start(options: AzureOptions) -> anyhow::Result<Self> {
        crate::crypto();
        let AzureOptions {
            directory,
            postgres,
            dir,
            ports,
        } = options;
        directory.validate()?;
        let own_dir = if dir.is_none() {
            Some(TempDir::new()?)
        } else {
            None
        };
        let dir = dir.or_else(|| own_dir.as_ref().map(|own| own.path().to_owned()));
        let dir = dir.context("the lab has no folder")?;
        let authority = Authority::new("entra-postgres lab")?;
        let ca_file = dir.join("ca.pem");
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(&ca_file, authority.pem()))
            .with_context(|| format!("cannot write {}", ca_file.display()))?;
        let (keys, postgres) = tokio::try_join!(signing_keys(), async {
            match postgres {
                Some(options) => Postgres::start(options, &directory).await.map(Some),
                None => Ok(None),
            }
        })?;
        let state = Arc::new(LabState::new(directory, keys));
        let tls = authority.server_config()?;
        let gateway = match &postgres {
            Some(postgres) => {
                let listen = (Ipv4Addr::LOCALHOST, ports.gateway).into();
                Some(Gateway::start(Arc::clone(&state), postgres, Arc::clone(&tls), listen).await?)
            }
            None => None,
        };
        let parts = Parts {
            state: Arc::clone(&state),
            postgres: RwLock::new(postgres),
        };
        let parts = Arc::new(parts);
        let entra_routes = entra::router(Arc::clone(&state));
        Ok(Self {
            gateway,
            entra: HttpServer::start_on(ports.entra, entra_routes, Some(tls)).await?,
            imds: HttpServer::start_on(ports.imds, imds::router(state), None).await?,
            api: HttpServer::start_on(ports.api, api::router(Arc::clone(&parts)), None).await?,
            parts,
            authority,
            ca_file,
            _dir: own_dir,
        })
    }

    /// Ends everything and removes all that it left.
    pub async fn stop(self) -> anyhow::Result<()> {
        for server in [&self.entra, &self.imds, &self.api] {
            server.stop();
        }
        drop(self.gateway);
        match self.parts.postgres.write().await.take() {
            Some(postgres) => postgres.stop().await,
            None => Ok(()),
        }
    }

    /// The PostgreSQL server, past the gateway.
    pub async fn postgres(&self) -> anyhow::Result<RwLockReadGuard<'_, Postgres>> {
        RwLockReadGuard::try_map(self.parts.postgres.read().await, Option::as_ref)
            .map_err(|_| anyhow::anyhow!(NO_POSTGRES))
    }

    /// To restart it, or to change its switches.
    pub async fn postgres_mut(&self) -> anyhow::Result<RwLockMappedWriteGuard<'_, Postgres>> {
        RwLockWriteGuard::try_map(self.parts.postgres.write().await, Option::as_mut)
            .map_err(|_| anyhow::anyhow!(NO_POSTGRES))
    }

    pub fn state(&self) -> &Arc<LabState> {
        &self.parts.state
    }

    /// What `AZURE_AUTHORITY_HOST` would be: `https://localhost:port`.
    pub fn authority_url(&self) -> String {
        format!("https://localhost:{}", self.entra.address.port())
    }

    /// Where the machine's metadata service is: `http://127.0.0.1:port`.
    pub fn imds_url(&self) -> String {
        format!("http://{}", self.imds.address)
    }

    /// The lab's own API: `http://127.0.0.1:port`.
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api.address)
    }

    /// Where clients of PostgreSQL sign in.
    pub fn gateway(&self) -> anyhow::Result<&Gateway> {
        self.gateway.as_ref().context(NO_POSTGRES)
    }

    /// One more gateway before the same server, with another certificate.
    pub async fn start_gateway(&self, tls: Arc<ServerConfig>) -> anyhow::Result<Gateway> {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let postgres = self.postgres().await?;
        Gateway::start(Arc::clone(self.state()), &postgres, tls, listen).await
    }

    /// All that listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let gateway = self.gateway.as_ref().map(Gateway::address);
        let http = [&self.entra, &self.imds, &self.api].map(|server| server.address);
        gateway.into_iter().chain(http).collect()
    }

    /// The authority that Entra and the gateway have their certificates from.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Whose service accounts `issuer: cluster` means, and their keys (`/openid/v1/jwks`).
    pub fn set_cluster_issuer(&self, issuer: impl Into<String>, jwks: Value) {
        self.parts.state.set_cluster_issuer(issuer, jwks);
    }

    /// As `PUT /lab/directory`.
    pub async fn set_directory(&self, directory: Directory) -> anyhow::Result<()> {
        self.parts.set_directory(directory).await
    }

    /// As `PUT /lab/faults`.
    pub async fn set_faults(&self, faults: Vec<Fault>) -> anyhow::Result<()> {
        self.parts.set_faults(faults).await
    }
}

impl Parts {
    /// Returns when SQL, gateway and Entra all see it.
    pub(crate) async fn set_directory(&self, directory: Directory) -> anyhow::Result<()> {
        directory.validate()?;
        // Held to the end, so that of two callers one wins everywhere.
        let postgres = self.postgres.write().await;
        if let Some(postgres) = postgres.as_ref() {
            postgres
                .write_directory(&directory)
                .await
                .context("PostgreSQL did not take the directory")?;
        }
        self.state.set_directory(directory);
        Ok(())
    }

    pub(crate) async fn set_faults(&self, faults: Vec<Fault>) -> anyhow::Result<()> {
        Faults::check(&faults)?;
        let postgres = self.postgres.write().await;
        if let Some(postgres) = postgres.as_ref() {
            let sql: Vec<_> = faults
                .iter()
                .filter(|fault| fault.on == On::Sql)
                .cloned()
                .collect();
            postgres
                .write_faults(&sql)
                .context("PostgreSQL did not take the faults")?;
        }
        self.state.faults.replace(faults)
    }
}

async fn signing_keys() -> anyhow::Result<TokenKeys> {
    tokio::task::spawn_blocking(|| TokenKeys::load(&cache_dir()?))
        .await
        .context("making a signing key was cut off")?
}

/// What outlives the lab's runs: `LAB_CACHE`, else `~/.cache/entra-postgres-lab`.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("LAB_CACHE") {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").context("neither LAB_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/entra-postgres-lab"))
}
