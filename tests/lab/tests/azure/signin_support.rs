//! A server with its gateway, tokens as Entra signs them, and psql as Microsoft's how-to for Entra sign-in shows it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use lab::azure::cache_dir;
use lab::directory::Directory;
use lab::faults::Fault;
use lab::gateway::Gateway;
use lab::postgres::{Postgres, PostgresOptions};
use lab::state::{LabState, unix_now};
use lab::tls::Authority;
use lab::tokens::{RESOURCE, TokenKeys};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::sql_support::*;

pub struct Lab {
    pub state: Arc<LabState>,
    pub authority: Authority,
    pub gateway: Gateway,
    pub postgres: Postgres,
    ca_dir: tempfile::TempDir,
}

impl Lab {
    pub async fn start() -> Self {
        lab::crypto();
        let keys = tokio::task::spawn_blocking(|| TokenKeys::load(&cache_dir().unwrap()).unwrap());
        let postgres = Postgres::start(PostgresOptions::default(), &directory())
            .await
            .unwrap();
        let state = Arc::new(LabState::new(directory(), keys.await.unwrap()));
        let authority = Authority::new("lab").unwrap();
        let tls = authority.server_config().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let gateway = Gateway::start(Arc::clone(&state), &postgres, tls, listen)
            .await
            .unwrap();
        let ca_dir = tempfile::tempdir().unwrap();
        std::fs::write(ca_dir.path().join("ca.pem"), authority.pem()).unwrap();
        Self {
            state,
            authority,
            gateway,
            postgres,
            ca_dir,
        }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.ca_dir.path().join("ca.pem")
    }

    pub fn faults(&self, json: &str) {
        let faults: Vec<Fault> = serde_json::from_str(json).unwrap();
        self.state.faults.replace(faults).unwrap();
    }

    pub async fn set_directory(&self, text: &str) {
        let directory = Directory::parse(text).unwrap();
        self.postgres.write_directory(&directory).await.unwrap();
        self.state.set_directory(directory);
    }

    /// Creates roles as the administrator does.
    pub async fn create(&self, names: &[&str]) {
        let admin = admin(&self.postgres).await;
        for name in names {
            run(
                &admin,
                &format!("SELECT pgaadauth_create_principal('{name}', false, false)"),
            )
            .await;
        }
    }

    /// A token with these claims beside the usual ones, or in their place.
    pub fn token(&self, claims: &Value) -> String {
        let now = unix_now();
        let mut all = json!({
            "aud": RESOURCE, "iss": format!("https://sts.windows.net/{TENANT}/"), "tid": TENANT,
            "iat": now, "nbf": now, "exp": now + 3600,
        });
        let fields = all.as_object_mut().unwrap();
        fields.extend(claims.as_object().unwrap().clone());
        self.state.keys.sign(fields).unwrap()
    }

    pub fn user_token(&self, object_id: &str) -> String {
        self.token(&json!({"oid": object_id, "idtyp": "user", "upn": "somebody"}))
    }

    pub fn app_token(&self, object_id: &str) -> String {
        self.token(&json!({"oid": object_id, "appid": APP_CLIENT, "idtyp": "app"}))
    }

    /// As a library signs in, TLS verified.
    pub async fn connect(
        &self,
        role: &str,
        password: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        self.connect_to(&self.gateway, role, password).await
    }

    pub async fn connect_to(
        &self,
        gateway: &Gateway,
        role: &str,
        password: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = Config::new()
            .host("localhost")
            .port(gateway.port())
            .user(role)
            .password(password)
            .dbname("postgres")
            .ssl_mode(SslMode::Require)
            .connect(self.tls())
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub fn tls(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new(self.tls_config())
    }

    /// As libpq 17 offers the protocol in the handshake.
    pub fn tls_with_alpn(&self) -> MakeRustlsConnect {
        let mut config = self.tls_config();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        MakeRustlsConnect::new(config)
    }

    fn tls_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let pem = self.authority.pem();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// SQLSTATE and text of a sign-in that must be refused.
    pub async fn refused(&self, role: &str, password: &str) -> (String, String) {
        let Err(error) = self.connect(role, password).await else {
            panic!("{role} signed in");
        };
        let error = error
            .as_db_error()
            .unwrap_or_else(|| panic!("{role}: {error:?}"));
        (error.code().code().to_owned(), error.message().to_owned())
    }

    /// The machine's psql (a server's own may know no TLS); a command line with a token in PGPASSWORD.
    pub fn psql(connection: &str, password: &str) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["-XAtw", "-c", "SELECT current_user", connection])
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin")),
            )
            .env("PGPASSWORD", password);
        command
    }

    /// What psql prints, run beside the gateway.
    pub async fn run(&self, mut command: Command) -> Output {
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim()
}
