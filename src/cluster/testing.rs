//! An API server that is a function: what was asked is kept, what is answered is the test's.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::Cluster;
use crate::model::{Class, Failure, Reason};
use crate::ports::WriteGate;

/// A request as the API server saw it; the body is `null` when there is none.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

/// What the API server answers.
pub(crate) struct Answer {
    code: u16,
    body: Value,
}

impl Answer {
    pub(crate) fn ok(body: Value) -> Self {
        Self { code: 200, body }
    }

    pub(crate) fn refusal(code: u16, reason: &str, message: &str) -> Self {
        let body = json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "code": code, "reason": reason, "message": message,
        });
        Self { code, body }
    }
}

/// What was asked so far.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Asked>>>);

impl Seen {
    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.0.lock().expect("no test panicked").clone()
    }

    pub(crate) fn only(&self) -> Asked {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

/// Lets so many writes through.
#[derive(Debug)]
struct Gate(AtomicUsize);

impl WriteGate for Gate {
    fn check(&self) -> Result<(), Failure> {
        let one_less = |left: usize| left.checked_sub(1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.0.fetch_update(set, get, one_less).is_ok() {
            return Ok(());
        }
        Err(Failure::new(
            Class::Waiting,
            Reason::NotLeader,
            "another replica leads",
        ))
    }
}

/// A cluster whose leader we are.
pub(crate) fn cluster(
    answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Cluster, Seen) {
    leader_for(usize::MAX, answer)
}

/// A cluster whose leader we are until we have asked so often.
pub(crate) fn leader_for(
    checks: usize,
    answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Cluster, Seen) {
    let (client, seen) = client(answer);
    (Cluster::new(client, Arc::new(Gate(checks.into()))), seen)
}

/// A cluster whose leader is another replica.
pub(crate) fn standby(
    answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Cluster, Seen) {
    leader_for(0, answer)
}

/// Only the client.
pub(crate) fn client(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> (Client, Seen) {
    let seen = Seen::default();
    let (answer, log) = (Arc::new(answer), seen.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, log) = (Arc::clone(&answer), log.clone());
        async move {
            let asked = asked(request).await;
            let Answer { code, body } = answer(&asked);
            log.0.lock().expect("no test panicked").push(asked);
            let body = Body::from(serde_json::to_vec(&body).expect("JSON"));
            let response = Response::builder().status(code).body(body);
            Ok::<_, Infallible>(response.expect("a response"))
        }
    });
    (Client::new(service, "default"), seen)
}

async fn asked(request: Request<Body>) -> Asked {
    let (parts, body) = request.into_parts();
    let bytes = body.collect_bytes().await.expect("a body in memory");
    let header = |name: &str| {
        let value = parts.headers.get(name);
        let text = value.and_then(|value| value.to_str().ok());
        text.unwrap_or_default().to_owned()
    };
    Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        accept: header("accept"),
        content_type: header("content-type"),
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}
