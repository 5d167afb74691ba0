//! Builds the client of the Kubernetes API: every wait has an end, and nothing is repeated behind
//! our back.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};

use super::error::causes;
use crate::model::{Class, Failure, Reason};

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
pub async fn connect() -> Result<Client, ClientError> {
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
    Ok(builder.with_layer(&layer).build())
}
