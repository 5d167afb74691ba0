//! Builds the client of the Kubernetes API: every wait has an end, and nothing is repeated behind
//! our back.

use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use http_body_util::combinators::MapFrame;
use hyper::body::Frame;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::Service;

use super::error::causes;
use crate::model::{Class, Failure, Reason};
use crate::telemetry::Heartbeats;

const CONNECT: Duration = Duration::from_secs(10);
/// To the headers of an answer; open watches are not cut by it.
const ANSWER: Duration = Duration::from_secs(30);
/// Above the 290 s of a watch, so that it only ends connections that are dead.
const STALLED: Duration = Duration::from_secs(300);

/// There is no way to the Kubernetes API; says what is missing.
#[derive(Debug, thiserror::Error)]
#[error("no way to the Kubernetes API: {0}; run in a cluster or name a kubeconfig in KUBECONFIG")]
pub struct ClientError(String);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(Class::Denied, Reason::ApiError, error.to_string())
    }
}

/// A client for the cluster the operator runs in, or that KUBECONFIG names.
///
/// The client's own retries are off: they take up to 15 minutes, hide errors, and would let a
/// replica renew a lease that is long lost.
///
/// What open watches bring, bookmarks too, counts as a sign of life of the watch of that path.
pub async fn connect(heartbeats: &Heartbeats) -> Result<Client, ClientError> {
    let mut config = Config::infer()
        .await
        .map_err(|error| ClientError(error.to_string()))?;
    // HTTPS_PROXY is the way to Entra; the API server is inside the cluster.
    config.proxy_url = None;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(STALLED);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(|error| ClientError(causes(&error)))?;
    let layer = tower::timeout::TimeoutLayer::new(ANSWER);
    let heard = tower::layer::layer_fn(|inner| Heard {
        inner,
        heartbeats: heartbeats.clone(),
    });
    Ok(builder.with_layer(&layer).with_layer(&heard).build())
}

/// Counts what open watches bring.
#[derive(Clone, Debug)]
pub(super) struct Heard<S> {
    pub(super) inner: S,
    pub(super) heartbeats: Heartbeats,
}

type OnFrame = Box<dyn FnMut(Frame<Bytes>) -> Frame<Bytes> + Send>;

impl<S, B> Service<Request<Body>> for Heard<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<MapFrame<B, OnFrame>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let watched = query.split('&').any(|pair| pair == "watch=true");
        let path = watched.then(|| request.uri().path().to_owned());
        let heartbeats = self.heartbeats.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let on_frame: OnFrame = Box::new(move |frame| {
                if let Some(path) = &path {
                    heartbeats.beat(path);
                }
                frame
            });
            Ok(answer.await?.map(|body| body.map_frame(on_frame)))
        })
    }
}
