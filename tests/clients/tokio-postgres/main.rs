//! A pool that reads the mounted Secret for each new connection.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use std::{env, fs, io};

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, RecyclingMethod};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn path(key: &str) -> PathBuf {
    PathBuf::from(env::var_os("DB_BINDING").unwrap_or_default()).join(key)
}

/// Opens the pool's connections.
struct Mounted {
    tls: MakeRustlsConnect,
}

type Opening<'a> =
    Pin<Box<dyn Future<Output = std::result::Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

impl Connect for Mounted {
    /// Called for each new connection: a renewed token is taken up here.
    fn connect(&self, config: &Config) -> Opening<'_> {
        let mut config = config.clone();
        Box::pin(async move {
            // Unreadable: the server refuses the connection for want of a password.
            if let Ok(token) = fs::read(path("password")) {
                config.password(token);
            }
            let (client, connection) = config.connect(self.tls.clone()).await?;
            let connection = tokio::spawn(async move {
                // Its end is seen by the next query.
                let _ = connection.await;
            });
            Ok((client, connection))
        })
    }
}

/// Certificate and host name are always verified; without `certificates` by the system's roots.
fn tls() -> Result<MakeRustlsConnect> {
    let mut roots = rustls::RootCertStore::empty();
    if path("certificates").exists() {
        for certificate in CertificateDer::pem_file_iter(path("certificates"))? {
            roots.add(certificate?)?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn pool() -> Result<Pool> {
    let mut config = Config::new();
    config
        .host(fs::read_to_string(path("host"))?)
        .port(fs::read_to_string(path("port"))?.parse()?)
        .dbname(fs::read_to_string(path("database"))?)
        .user(fs::read_to_string(path("username"))?)
        .ssl_mode(SslMode::Require)
        .connect_timeout(Duration::from_secs(10));
    // A connection that the server has closed is replaced before it is handed out.
    let recycling_method = RecyclingMethod::Verified;
    let manager = Manager::from_connect(
        config,
        Mounted { tls: tls()? },
        ManagerConfig { recycling_method },
    );
    Ok(Pool::builder(manager).max_size(4).build()?)
}

async fn query(pool: &Pool) -> Result<(String, i32)> {
    let row = pool
        .get()
        .await?
        .query_one("SELECT current_user::text, pg_backend_pid()", &[])
        .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| io::Error::other("another provider is installed"))?;
    let pool = pool()?;
    loop {
        match query(&pool).await {
            Ok((user, pid)) => println!("signed in as {user}, connection {pid}"),
            Err(error) => eprintln!("not now: {error:?}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
