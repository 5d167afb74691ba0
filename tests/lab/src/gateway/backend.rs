//! The gateway's way to the server behind it: its address, and what its catalog says of a role.

use std::path::PathBuf;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::signin::Binding;
use crate::postgres::{self, SUPERUSER};

const LABELS: &str = "\
SELECT given.label, resolved.label
FROM pg_catalog.pg_roles AS role
LEFT JOIN pg_catalog.pg_shseclabel AS given ON given.objoid = role.oid
    AND given.classoid = 'pg_catalog.pg_authid'::regclass AND given.provider = 'pgaadauth'
LEFT JOIN pg_catalog.pg_shseclabel AS resolved ON resolved.objoid = role.oid
    AND resolved.classoid = 'pg_catalog.pg_authid'::regclass AND resolved.provider = 'pgaadauth-int'
WHERE role.rolname = $1";

/// How a role signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Absent,
    /// Without a label: the server asks for its password.
    Password,
    Entra(Binding),
    /// With a label that names nobody.
    Unbound,
}

pub(super) struct Backend {
    socket_dir: PathBuf,
    port: u16,
    catalog: Mutex<Option<Client>>,
}

impl Backend {
    pub(super) fn new(socket_dir: PathBuf, port: u16) -> Self {
        Self {
            socket_dir,
            port,
            catalog: Mutex::new(None),
        }
    }

    /// Where every role is trusted.
    pub(super) async fn socket(&self) -> anyhow::Result<UnixStream> {
        let path = self.socket_dir.join(format!(".s.PGSQL.{}", self.port));
        UnixStream::connect(&path)
            .await
            .with_context(|| format!("cannot connect to {}", path.display()))
    }

    /// Where the server asks for a password.
    pub(super) async fn loopback(&self) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .with_context(|| format!("cannot connect to port {}", self.port))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(super) async fn cancel(&self, request: &[u8]) -> anyhow::Result<()> {
        let mut stream = self.socket().await?;
        stream.write_all(request).await?;
        stream.shutdown().await?;
        Ok(())
    }

    pub(super) async fn role(&self, name: &str) -> anyhow::Result<Role> {
        let mut catalog = self.catalog.lock().await;
        // A session that a restart has ended is replaced.
        let client = match catalog.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => postgres::connect(&self.socket_dir, self.port, SUPERUSER, "postgres").await?,
        };
        let row = client.query_opt(LABELS, &[&name]).await?;
        *catalog = Some(client);
        let Some(row) = row else {
            return Ok(Role::Absent);
        };
        let given: Option<String> = row.try_get(0)?;
        let resolved: Option<String> = row.try_get(1)?;
        Ok(match given {
            None => Role::Password,
            Some(given) => {
                Binding::parse(&given, resolved.as_deref()).map_or(Role::Unbound, Role::Entra)
            }
        })
    }
}
