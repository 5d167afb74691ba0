//! Probes and metrics over plain HTTP: /livez, /readyz, /metrics. The port is open to the whole cluster:
//! whoever sends nothing, or reads nothing, costs little and keeps nobody else from an answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tower::ServiceExt as _;

use crate::telemetry::{Heartbeats, Metrics};

/// What prometheus-client writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// So many connections are open at a time. One more closes the oldest that has not sent its request.
const CONNECTIONS: usize = 64;
/// A request has arrived within this time.
const REQUEST: Duration = Duration::from_secs(5);
/// A connection, which is for one request, ends after this time.
const CONNECTION: Duration = Duration::from_secs(20);
/// A request line with all headers is no longer than this.
const HEADERS: usize = 8 * 1024;
/// So many copies of the metrics are in memory at a time.
const SCRAPES: usize = 2;
/// How long accepting pauses when there are no descriptors left.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// What must happen before this replica is ready. A standby is ready too: it could lead at once.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<String>>>);

impl Readiness {
    /// Waits for all of these.
    pub fn waiting_for(these: impl IntoIterator<Item = &'static str>) -> Self {
        let these = these.into_iter().map(str::to_owned);
        Self(Arc::new(Mutex::new(these.collect())))
    }

    /// This is missing, again or for the first time.
    pub fn lacks(&self, this: String) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(this);
    }

    /// This has happened.
    pub fn done(&self, this: &str) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(this);
    }

    /// What is still waited for.
    pub fn missing(&self) -> Vec<String> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().cloned().collect()
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
        heartbeats: Heartbeats,
        metrics: Metrics,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        tracing::info!(address = %self.address, "serving probes and metrics");
        let router = router(readiness, heartbeats, metrics);
        let mut connections = Connections::default();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = connections.running.join_next(), if !connections.running.is_empty() => {
                    connections.forget_ended();
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => connections.add(stream, router.clone()),
                    Err(error) => {
                        tracing::debug!("no connection could be accepted: {error}");
                        tokio::time::sleep(NO_DESCRIPTORS).await;
                    }
                },
            }
        }
        drop(self.listener);
        connections.close_waiting();
        while connections.running.join_next().await.is_some() {}
    }
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Connections {
    running: JoinSet<()>,
    open: Vec<Connection>,
}

struct Connection {
    task: AbortHandle,
    /// Its request has arrived and is being answered.
    is_answered: Arc<AtomicBool>,
}

impl Connections {
    fn add(&mut self, stream: TcpStream, router: Router) {
        if self.open.len() >= CONNECTIONS {
            self.forget_ended();
        }
        if self.open.len() >= CONNECTIONS {
            let waits = |it: &Connection| !it.is_answered.load(Ordering::SeqCst);
            let oldest = self.open.iter().position(waits).unwrap_or(0);
            self.open.remove(oldest).task.abort();
        }
        let is_answered = Arc::new(AtomicBool::new(false));
        let task = self
            .running
            .spawn(answer(stream, router, Arc::clone(&is_answered)));
        self.open.push(Connection { task, is_answered });
    }

    fn forget_ended(&mut self) {
        while self.running.try_join_next().is_some() {}
        self.open.retain(|it| !it.task.is_finished());
    }

    /// Whoever has sent no request yet is not waited for.
    fn close_waiting(&self) {
        for it in &self.open {
            if !it.is_answered.load(Ordering::SeqCst) {
                it.task.abort();
            }
        }
    }
}

/// One request and its answer.
async fn answer(stream: TcpStream, router: Router, is_answered: Arc<AtomicBool>) {
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            is_answered.store(true, Ordering::SeqCst);
            let router = router.clone();
            async move {
                // A body is never read.
                let (parts, _body) = request.into_parts();
                let request = Request::from_parts(parts, Body::empty());
                Ok::<Response, Infallible>(
                    router
                        .oneshot(request)
                        .await
                        .unwrap_or_else(|no| match no {}),
                )
            }
        });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong on a connection is its peer's.
    let _ = tokio::time::timeout(CONNECTION, connection).await;
}

fn router(readiness: Readiness, heartbeats: Heartbeats, metrics: Metrics) -> Router {
    let scrapes = Arc::new(Semaphore::new(SCRAPES));
    Router::new()
        .route("/livez", get(alive).with_state(heartbeats))
        .route("/readyz", get(ready).with_state(readiness))
        .route(
            "/metrics",
            get(write_metrics).with_state((metrics, scrapes)),
        )
}

async fn alive(State(heartbeats): State<Heartbeats>) -> impl IntoResponse {
    let late = heartbeats.late();
    if late.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let text = format!("{}\n", late.join("; "));
    tracing::error!("/livez fails: {}", text.trim_end());
    (StatusCode::SERVICE_UNAVAILABLE, text)
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

async fn write_metrics(
    State((metrics, scrapes)): State<(Metrics, Arc<Semaphore>)>,
) -> impl IntoResponse {
    let Ok(scrape) = scrapes.try_acquire_owned() else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    let text = Bytes::from(metrics.text());
    let headers = [
        (header::CONTENT_TYPE, OPEN_METRICS.to_owned()),
        (header::CONTENT_LENGTH, text.len().to_string()),
    ];
    // The copy is in memory until its reader has taken it.
    let body = Full::new(text).map_frame(move |frame| {
        let _held = &scrape;
        frame
    });
    (headers, Body::new(body)).into_response()
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
        let heartbeats = Heartbeats::default();
        let server = tokio::spawn(probes.serve(
            readiness.clone(),
            heartbeats.clone(),
            Metrics::new(),
            stopped,
        ));

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

        // Red when: /livez does not ask the heartbeats.
        heartbeats.expect("x", "the watch of x".to_owned(), Duration::ZERO);
        let answer = ask(address, "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("the watch of x gave no sign of life"),
            "{answer}"
        );
        readiness.lacks("a kind".to_owned());
        let answer = ask(address, "/readyz").await;
        assert!(answer.contains("waiting for: a kind"), "{answer}");

        stop.send(()).expect("still serving");
        server.await.expect("no panic");
        let error = TcpStream::connect(address).await;
        assert!(error.is_err(), "it no longer listens");
    }

    async fn serving() -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let local = "127.0.0.1:0".parse().expect("an address");
        let probes = Probes::bind(local).await.expect("a free port");
        let address = probes.address();
        let (ready, beats) = (Readiness::default(), Heartbeats::default());
        let serving = probes.serve(ready, beats, Metrics::new(), std::future::pending());
        (address, tokio::spawn(serving))
    }

    // Red when: a connection that has sent no request is kept however many there are.
    #[tokio::test]
    async fn half_sent_requests_are_closed_for_whoever_sends_a_whole_one() {
        let (address, server) = serving().await;
        let mut half = Vec::new();
        for round in 0..5 {
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect(address).await.expect("connects");
                // It may be closed by now.
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost").await;
                half.push(stream);
            }
            let answer = ask(address, "/livez").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{round}: {answer}");
        }
        // The first are closed, and not by any time-out.
        let mut rest = Vec::new();
        let closed = half.remove(0).read_to_end(&mut rest).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        server.abort();
    }

    // Red when: headers have no limit, or a body is read.
    #[tokio::test]
    async fn long_headers_are_refused_and_bodies_are_not_read() {
        let (address, server) = serving().await;
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let long = format!(
            "GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
            "x".repeat(4 * HEADERS)
        );
        let _ = stream.write_all(long.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let body = "GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\nx";
        stream.write_all(body.as_bytes()).await.expect("sent");
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("answered");
        assert_eq!(&first, b"HTTP/1.1 200");
        server.abort();
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let local = "127.0.0.1:0".parse().expect("an address");
        let first = Probes::bind(local).await.expect("a free port");
        let error = Probes::bind(first.address()).await.expect_err("taken");
        assert!(error.to_string().contains(&first.address().to_string()));
    }
}
