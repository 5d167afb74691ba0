//! The lab's Entra: token endpoint, OpenID discovery and keys, served over HTTPS.
//! It speaks HTTP; who proved what is decided in `grant`, what a token says in `mint`.

mod aadsts;
mod federation;
mod grant;
pub mod mint;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

pub use aadsts::Aadsts;
pub(crate) use aadsts::escaped_json;
pub use grant::Request;
pub(crate) use grant::check_resource;

use crate::faults::{Effects, On, Outcome};
use crate::http::Answer;
use crate::state::LabState;
use crate::stats::Exchange;
use mint::Order;

/// The paths of `https://login.microsoftonline.com` that the lab has.
pub fn router(state: Arc<LabState>) -> Router {
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(token))
        .route(
            "/{tenant}/v2.0/.well-known/openid-configuration",
            get(discovery),
        )
        .route("/{tenant}/discovery/v2.0/keys", get(keys))
        .with_state(state)
}

async fn token(
    State(state): State<Arc<LabState>>,
    Path(tenant): Path<String>,
    form: Result<Form<Request>, FormRejection>,
) -> Response {
    let request = form.map(|Form(request)| request).unwrap_or_default();
    let client = request.client_id.clone();
    let arrived = Instant::now();
    let effects = state.faults.take(On::Token, client.as_deref(), None);
    tokio::time::sleep(effects.delay).await;
    let (answer, outcome) = match &effects.outcome {
        Some(outcome @ Outcome::Status { status, aadsts, .. }) => {
            (Aadsts::ordered(*aadsts, *status).answer(), Some(outcome))
        }
        outcome => {
            let answer = exchange(&state, &tenant, &request, &effects).await;
            (
                answer.unwrap_or_else(|refused| refused.answer()),
                outcome.as_ref(),
            )
        }
    };
    let body = answer.body.clone();
    let response = answer.into_response(outcome);
    let status = (outcome != Some(&Outcome::Refuse)).then(|| response.status().as_u16());
    state.stats.token_request(client.as_deref(), status);
    state.stats.exchange(|| Exchange {
        arrived,
        answered: Instant::now(),
        faulty: effects != Effects::default(),
        token: token_in(&body),
    });
    response
}

fn token_in(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    Some(body.get("access_token")?.as_str()?.to_owned())
}

async fn exchange(
    state: &LabState,
    tenant: &str,
    request: &Request,
    effects: &Effects,
) -> Result<Answer, Aadsts> {
    let directory = state.directory();
    let granted = grant::grant(state, &directory, tenant, request, effects).await?;
    let order = Order {
        principal: granted.principal,
        audience: granted.audience,
        lifetime_seconds: None,
        clock_skew_seconds: effects.clock_skew_seconds,
        claims: &effects.claims,
    };
    let issued = mint::mint(&state.keys, &directory, &order).map_err(|error| {
        tracing::error!("the lab could not sign a token: {error:#}");
        Aadsts::ordered(Some(90033), 500)
    })?;
    Ok(Answer::ok(&json!({
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "ext_expires_in": issued.expires_in,
        "access_token": issued.access_token,
    })))
}

async fn discovery(
    State(state): State<Arc<LabState>>,
    Path(tenant): Path<String>,
    headers: axum::http::HeaderMap,
) -> Result<Json<Value>, Aadsts> {
    let tenant = known_tenant(&state, &tenant)?;
    let host = headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or("localhost");
    let authority = format!("https://{host}/{tenant}");
    Ok(Json(json!({
        "issuer": format!("{authority}/v2.0"),
        "token_endpoint": format!("{authority}/oauth2/v2.0/token"),
        "jwks_uri": format!("{authority}/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported":
            ["client_secret_post", "private_key_jwt"],
        "response_types_supported": ["code", "id_token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })))
}

async fn keys(
    State(state): State<Arc<LabState>>,
    Path(tenant): Path<String>,
) -> Result<Json<Value>, Aadsts> {
    known_tenant(&state, &tenant)?;
    Ok(Json(state.keys.jwks()))
}

fn known_tenant(state: &LabState, tenant: &str) -> Result<String, Aadsts> {
    let directory = state.directory();
    grant::check_tenant(&directory, tenant).map(|()| directory.tenant_id.to_string())
}

impl IntoResponse for Aadsts {
    fn into_response(self) -> Response {
        self.answer().into_response(None)
    }
}
