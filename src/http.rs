//! Probes and metrics over plain HTTP: /livez, /readyz, /metrics.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::telemetry::Metrics;

/// What prometheus-client writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What must happen before this replica is ready. A standby is ready too: it could lead at once.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// Waits for all of these.
    pub fn waiting_for(these: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(Mutex::new(these.into_iter().collect())))
    }

    /// This has happened.
    pub fn done(&self, this: &str) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(this);
    }

    /// What is still waited for.
    pub fn missing(&self) -> Vec<&'static str> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().copied().collect()
    }
}

/// The bound listener; nothing is answered before [`Probes::serve`].
#[derive(Debug)]
pub struct Probes {
    listener: TcpListener,
    address: SocketAddr,
}

impl Probes {
    /// Takes the address, before anything else is started.
    pub async fn bind(address: SocketAddr) -> Result<Self, std::io::Error> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let text = format!("cannot listen on --http-address {address}: {error}");
            std::io::Error::new(error.kind(), text)
        })?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address that was taken; the port is the real one if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is done, and then what is under way.
    pub async fn serve(
        self,
        readiness: Readiness,
        metrics: Metrics,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), std::io::Error> {
        tracing::info!(address = %self.address, "serving probes and metrics");
        axum::serve(self.listener, router(readiness, metrics))
            .with_graceful_shutdown(stop)
            .await
    }
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(write_metrics).with_state(metrics))
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    let missing = readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let text = format!("waiting for: {}\n", missing.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn write_metrics(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.text())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn probes_tell_what_is_waited_for_and_stop_when_asked() {
        let local = "127.0.0.1:0".parse().expect("an address");
        let probes = Probes::bind(local).await.expect("a free port");
        let address = probes.address();
        let readiness = Readiness::waiting_for(["watch of servers", "watch of principals"]);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let server = tokio::spawn(probes.serve(readiness.clone(), Metrics::new(), stopped));

        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("watch of principals, watch of servers"),
            "{answer}"
        );
        readiness.done("watch of servers");
        readiness.done("watch of principals");
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let answer = ask(address, "/metrics").await;
        assert!(
            answer.contains(OPEN_METRICS) && answer.ends_with("# EOF\n"),
            "{answer}"
        );

        stop.send(()).expect("still serving");
        server.await.expect("no panic").expect("no error");
        let error = TcpStream::connect(address).await;
        assert!(error.is_err(), "it no longer listens");
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let local = "127.0.0.1:0".parse().expect("an address");
        let first = Probes::bind(local).await.expect("a free port");
        let error = Probes::bind(first.address()).await.expect_err("taken");
        assert!(error.to_string().contains(&first.address().to_string()));
    }
}
