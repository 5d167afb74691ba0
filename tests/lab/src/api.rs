//! The lab's own API: plain HTTP on loopback, for tests and people.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::azure::Parts;
use crate::directory::{Directory, Principal};
use crate::entra::mint::{self, Order};
use crate::faults::{Fault, Faults};
use crate::stats::Snapshot;
use crate::tokens::RESOURCE;

/// An error, told in a sentence: the caller's, or the lab's own.
enum Refused {
    Caller(anyhow::Error),
    Lab(anyhow::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenOrder {
    object_id: Uuid,
    audience: Option<String>,
    lifetime_seconds: Option<u64>,
    /// Put over the right claims; `null` takes one away.
    #[serde(default)]
    claims: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenAnswer {
    access_token: String,
    expires_on: String,
}

pub(crate) fn router(parts: Arc<Parts>) -> Router {
    Router::new()
        .route("/lab/directory", get(read_directory).put(write_directory))
        .route("/lab/tokens", post(tokens))
        .route("/lab/faults", put(faults))
        .route("/lab/stats", get(stats))
        // Directories of benchmarks are long.
        .layer(DefaultBodyLimit::disable())
        .with_state(parts)
}

async fn read_directory(State(parts): State<Arc<Parts>>) -> Json<Directory> {
    Json(parts.state.directory().as_ref().clone())
}

/// JSON or YAML, whatever the content type says: JSON is YAML.
async fn write_directory(
    State(parts): State<Arc<Parts>>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let text = std::str::from_utf8(&body).context("the directory is not UTF-8")?;
    parts
        .set_directory(Directory::parse(text)?)
        .await
        .map_err(Refused::Lab)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn tokens(
    State(parts): State<Arc<Parts>>,
    body: Bytes,
) -> Result<Json<TokenAnswer>, Refused> {
    let order: TokenOrder =
        serde_json::from_slice(&body).context("the order is not as its schema says")?;
    let directory = parts.state.directory();
    let principal = directory
        .by_object_id(order.object_id)
        .with_context(|| format!("object id {} is not in the directory", order.object_id))?;
    if matches!(principal, Principal::Group(_)) {
        return Err(Refused::Caller(anyhow!(
            "a group has no token: order that of a member"
        )));
    }
    let order = Order {
        principal,
        audience: order.audience.as_deref().unwrap_or(RESOURCE),
        lifetime_seconds: order.lifetime_seconds,
        clock_skew_seconds: 0,
        claims: &order.claims,
    };
    let issued = mint::mint(&parts.state.keys, &directory, &order)?;
    let expires_on =
        Timestamp::from_second(issued.expires_on).context("the token's life is too long")?;
    Ok(Json(TokenAnswer {
        access_token: issued.access_token,
        expires_on: expires_on.to_string(),
    }))
}

async fn faults(State(parts): State<Arc<Parts>>, body: Bytes) -> Result<StatusCode, Refused> {
    let list: Vec<Fault> =
        serde_json::from_slice(&body).context("the list of faults is not as its schema says")?;
    Faults::check(&list)?;
    parts.set_faults(list).await.map_err(Refused::Lab)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stats(State(parts): State<Arc<Parts>>) -> Json<Snapshot> {
    Json(parts.state.stats.snapshot())
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self::Caller(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::Caller(error) => (StatusCode::BAD_REQUEST, error),
            Self::Lab(error) => (StatusCode::INTERNAL_SERVER_ERROR, error),
        };
        (status, Json(json!({"error": format!("{error:#}")}))).into_response()
    }
}
