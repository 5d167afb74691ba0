//! The lab's Azure as the running lab needs it: started, described, stopped.
//! Must not know about Kubernetes beyond the issuer of its tokens.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Options;
use super::facts::{EntraFacts, PostgresFacts};
use crate::azure::{Azure, AzureOptions};
use crate::directory::Directory;
use crate::postgres::{PostgresOptions, SUPERUSER};
use crate::tokens::RESOURCE;

pub(super) struct AzurePart {
    azure: Azure,
    postgres: PostgresFacts,
}

impl AzurePart {
    pub(super) async fn start(dir: PathBuf, options: &Options) -> Result<Self> {
        let directory = match &options.directory {
            None => Directory::default(),
            Some(file) => {
                let text = fs::read_to_string(file);
                let text = text.with_context(|| format!("cannot read {}", file.display()))?;
                Directory::parse(&text).with_context(|| file.display().to_string())?
            }
        };
        let bin_dir = options.postgres_bin.clone();
        let postgres = PostgresOptions {
            bin_dir,
            ..PostgresOptions::default()
        };
        let azure = Azure::start(AzureOptions {
            directory,
            postgres: Some(postgres),
            dir: Some(dir),
            ..AzureOptions::default()
        })
        .await?;
        let postgres = Self::describe(&azure).await?;
        Ok(Self { azure, postgres })
    }

    async fn describe(azure: &Azure) -> Result<PostgresFacts> {
        let server = azure.postgres().await?;
        Ok(PostgresFacts {
            host: "localhost".to_owned(),
            port: azure.gateway()?.port(),
            ca_file: azure.ca_file().to_path_buf(),
            socket_dir: server.socket_dir().to_path_buf(),
            socket_port: server.port(),
            superuser: SUPERUSER.to_owned(),
            version: server.version().to_string(),
        })
    }

    /// `issuer: cluster` in the directory means this cluster.
    pub(super) fn trust(&self, issuer: String, jwks: Value) {
        self.azure.set_cluster_issuer(issuer, jwks);
    }

    pub(super) fn directory(&self) -> Arc<Directory> {
        self.azure.state().directory()
    }

    pub(super) fn ca_pem(&self) -> String {
        self.azure.ca_pem()
    }

    pub(super) fn imds(&self) -> String {
        self.azure.imds_url()
    }

    pub(super) fn postgres(&self) -> PostgresFacts {
        self.postgres.clone()
    }

    pub(super) fn entra(&self) -> EntraFacts {
        EntraFacts {
            authority: self.azure.authority_url(),
            tenant_id: self.directory().tenant_id.to_string(),
            scope: format!("{RESOURCE}/.default"),
            ca_file: self.azure.ca_file().to_path_buf(),
            api: self.azure.api_url(),
        }
    }

    pub(super) async fn stop(self) {
        let stopped = self.azure.stop().await;
        let _ = stopped.inspect_err(|error| eprintln!("{error:#}"));
    }
}
