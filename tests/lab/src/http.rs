//! HTTP servers of the lab, on loopback, with or without TLS, that can also fail the way networks do.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::faults::Outcome;

/// A running server; it and its connections end when it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

/// An answer in its parts, so that a fault can spoil it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Marks a response in whose place the connection is closed.
#[derive(Debug, Clone, Copy)]
struct NoAnswer;

impl HttpServer {
    /// Serves on a free port of 127.0.0.1.
    pub async fn start(router: Router, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        Self::start_on(0, router, tls).await
    }

    /// Serves on a given port of 127.0.0.1; 0 is a free one.
    pub async fn start_on(
        port: u16,
        router: Router,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, router, tls.map(TlsAcceptor::from)));
        Ok(Self { address, task })
    }

    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: TcpListener, router: Router, tls: Option<TlsAcceptor>) {
    // Dropping the set with this task ends the connections.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("the lab could not accept a connection: {error}");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let (router, tls) = (router.clone(), tls.clone());
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(stream, router).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, router).await,
                    Err(error) => tracing::debug!("TLS handshake failed: {error}"),
                },
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send, router: Router) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move {
            let response = router
                .oneshot(request)
                .await
                .unwrap_or_else(|never: Infallible| match never {});
            match response.extensions().get::<NoAnswer>() {
                Some(_) => Err(io::Error::other("ordered by the lab's faults")),
                None => Ok(response),
            }
        }
    });
    if let Err(error) = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!("a connection of the lab ended: {error}");
    }
}

impl Answer {
    pub(crate) fn ok(body: &serde_json::Value) -> Self {
        Self {
            status: 200,
            body: body.to_string(),
        }
    }

    /// The response, as the fault wants it.
    pub(crate) fn into_response(self, outcome: Option<&Outcome>) -> Response {
        match outcome {
            None | Some(Outcome::SqlError { .. }) => json_response(self.status, self.body.into()),
            Some(Outcome::Status {
                status,
                retry_after,
                body,
                ..
            }) => {
                let body = body.clone().unwrap_or(self.body);
                let mut response = json_response(*status, body.into());
                if let Some(seconds) = retry_after {
                    response
                        .headers_mut()
                        .insert(RETRY_AFTER, (*seconds).into());
                }
                response
            }
            Some(Outcome::Refuse) => {
                let mut response = json_response(200, Body::empty());
                response.extensions_mut().insert(NoAnswer);
                response
            }
            Some(Outcome::Cut) => cut_response(self.status, self.body),
            Some(Outcome::Garbage) => json_response(
                200,
                "<html><body>\u{fffd}{\"access_token\": Gateway</html>".into(),
            ),
            Some(Outcome::Empty) => json_response(200, "{}".into()),
        }
    }
}

/// Half of the body, then the connection is closed though more was promised.
fn cut_response(status: u16, body: String) -> Response {
    let length = body.len();
    let mut bytes = Bytes::from(body);
    bytes.truncate(length / 2);
    let cut = futures::stream::unfold(Some(bytes), |half| async move {
        // The half must be on its way before the error ends the connection.
        tokio::task::yield_now().await;
        match half {
            Some(half) => Some((Ok(half), None)),
            None => Some((Err(io::Error::other("ordered by the lab's faults")), None)),
        }
    });
    let mut response = json_response(status, Body::from_stream(cut));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

fn json_response(status: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    // Statuses come from constants and from faults that were checked.
    *response.status_mut() = status
        .try_into()
        .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let json = axum::http::HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
