//! The TLS front of the lab's PostgreSQL: takes Entra tokens as passwords, as Azure does, then relays.
//! It makes no role and knows no HTTP.

mod backend;
mod front;
mod message;
mod relay;
mod signin;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::postgres::Postgres;
use crate::state::LabState;
use backend::Backend;
use front::Front;

/// A listening gateway. Dropping it ends it and all its connections.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    cut: watch::Sender<()>,
    accepting: AbortHandle,
}

impl Gateway {
    /// Several may stand before one server, with other certificates.
    pub async fn start(
        state: Arc<LabState>,
        postgres: &Postgres,
        tls: Arc<ServerConfig>,
        listen: SocketAddr,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("the gateway cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let mut tls = ServerConfig::clone(&tls);
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
        let (cut, _) = watch::channel(());
        let front = Arc::new(Front {
            state,
            backend: Backend::new(postgres.socket_dir().to_owned(), postgres.port()),
            tls: TlsAcceptor::from(Arc::new(tls)),
        });
        let accepting = tokio::spawn(accept(listener, front, cut.clone())).abort_handle();
        Ok(Self {
            address,
            cut,
            accepting,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends all connections at once, in the middle of what they do. New ones are taken.
    pub fn cut_all(&self) {
        self.cut.send_replace(());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, front: Arc<Front>, cut: watch::Sender<()>) {
    // Aborts its tasks when this one is aborted.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors: closing connections give some back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (front, mut cut) = (Arc::clone(&front), cut.subscribe());
        connections.spawn(async move {
            tokio::select! {
                result = front.serve(stream, peer.ip()) => {
                    if let Err(error) = result {
                        tracing::debug!("a connection from {peer} ended: {error:#}");
                    }
                }
                _ = cut.changed() => {}
            }
        });
    }
}
