//! What reconciles use, with an API server that is a function, no server and no Entra.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::mpsc::unbounded_channel;

use super::index::{Clusters, Index, Wakes};
use super::turns::Turns;
use super::{Context, Reporter};
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::clock::SystemClock;
use crate::cluster::EventRecorder;
use crate::cluster::testing::{Answer, Asked, Seen, cluster};
use crate::leader::Leadership;
use crate::model::{Class, DesiredServer, Failure, Reason};
use crate::ports::{AccessToken, TokenOrder, TokenSource};
use crate::postgres::Sessions;
use crate::settings::{ConfigFile, Environment, Options, Settings};
use crate::telemetry::Metrics;

/// Entra gives nobody a token.
struct NoTokens;

#[async_trait]
impl TokenSource for NoTokens {
    async fn token(&self, _: TokenOrder) -> Result<AccessToken, Failure> {
        Err(Failure::new(
            Class::Denied,
            Reason::EntraRefused,
            "no token",
        ))
    }
}

pub(super) fn settings() -> Settings {
    let options = Options {
        watch_namespaces: vec![],
        http_address: "127.0.0.1:0".parse().expect("an address"),
        leader_election: false,
        lease_name: "epo".to_owned(),
        lease_namespace: None,
        max_concurrent_exchanges: 4,
        ca_bundle: None,
    };
    let (file, environment) = (ConfigFile::default(), Environment::default());
    Settings::resolve(file, environment, options).expect("the defaults")
}

pub(super) fn sessions() -> Arc<Sessions> {
    let (events, _) = unbounded_channel();
    let gate = Arc::new(Leadership::always());
    Arc::new(Sessions::new(Arc::new(NoTokens), gate, events))
}

pub(super) fn index() -> Index {
    let wakes = Wakes::default();
    let clusters = Clusters {
        own: "here".to_owned(),
        former: Vec::new(),
        watched: None,
    };
    Index::new(wakes, clusters)
}

pub(super) fn context(
    answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Context, Seen) {
    let (cluster, seen) = cluster(answer);
    let metrics = Metrics::new();
    let context = Context {
        sessions: sessions(),
        tokens: Arc::new(NoTokens),
        index: Arc::new(index()),
        settings: Arc::new(settings()),
        turns: Turns::default(),
        heartbeats: crate::telemetry::Heartbeats::default(),
        reporter: Reporter {
            events: EventRecorder::new(cluster.clone(), "epo-0", metrics.clone()),
            metrics,
            clock: Arc::new(SystemClock),
        },
        cluster,
    };
    (context, seen)
}

/// An object of the index with that uid and generation: an identity's role on server `lab/server`.
pub(super) fn principal(uid: &str, generation: i64) -> EntraPostgresPrincipal {
    let object = serde_json::from_value(json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
        "metadata": {"name": "api", "namespace": "lab", "uid": uid, "generation": generation},
        "spec": {
            "serverRef": {"name": "server", "namespace": "lab"},
            "roleName": "orders-api", "principal": {"type": "ManagedIdentity"},
            "token": {"identity": {"workloadIdentity": {"serviceAccountRef": {"name": "api"}}}},
        },
    }));
    object.expect("a principal")
}

/// Puts server `lab/server` into the index.
pub(super) fn add_server(index: &Index) {
    let object: EntraPostgresServer = serde_json::from_value(json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
        "metadata": {"name": "server", "namespace": "lab", "uid": "server"},
        "spec": {
            "host": "lab.postgres.database.azure.com",
            "admins": [{"roleName": "boss", "identity": {"operator": {}}}],
        },
    }))
    .expect("a server");
    let parsed = DesiredServer::parse(&object, &settings().clouds);
    index.upsert_server(&Arc::new(object), parsed);
}
