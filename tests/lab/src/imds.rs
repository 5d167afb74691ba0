//! The instance metadata service of the lab's machine: tokens of its managed identities.
//! Plain HTTP as in Azure, on loopback, for principals with `imds: true` only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::directory::{Directory, Principal, ServicePrincipal};
use crate::entra::mint::{self, Issued, Order};
use crate::entra::{Aadsts, check_resource, escaped_json};
use crate::faults::{Effects, On, Outcome};
use crate::http::Answer;
use crate::state::{LabState, unix_now};

/// What a client asks for.
#[derive(Debug, Clone, Default, Deserialize)]
struct Asked {
    #[serde(rename = "api-version")]
    api_version: Option<String>,
    resource: Option<String>,
    client_id: Option<String>,
    object_id: Option<String>,
    #[serde(alias = "mi_res_id")]
    msi_res_id: Option<String>,
}

#[derive(Clone)]
struct Imds {
    state: Arc<LabState>,
    /// Azure's back end gives the same token until it nears its end, whoever asks.
    cache: Arc<Mutex<HashMap<(Uuid, String), Issued>>>,
}

pub fn router(state: Arc<LabState>) -> Router {
    let imds = Imds {
        state,
        cache: Arc::default(),
    };
    Router::new()
        .route("/metadata/identity/oauth2/token", get(token))
        .with_state(imds)
}

async fn token(
    State(imds): State<Imds>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    let directory = imds.state.directory();
    let found = find(&directory, &asked);
    let client = found
        .as_ref()
        .ok()
        .map(|identity| identity.client_id.to_string());
    let effects = imds.state.faults.take(On::Imds, client.as_deref(), None);
    tokio::time::sleep(effects.delay).await;
    let (answer, outcome) = match &effects.outcome {
        Some(outcome @ Outcome::Status { status, aadsts, .. }) => {
            let text = aadsts.map_or_else(
                || "Ordered by the lab's faults".to_owned(),
                |code| format!("AADSTS{code}: Ordered by the lab's faults"),
            );
            (
                refusal(*status, "temporarily_unavailable", &text),
                Some(outcome),
            )
        }
        outcome => {
            let answer = check_request(&headers, &asked)
                .and_then(|resource| imds.answer(&directory, found?, resource, &effects));
            (answer.unwrap_or_else(|refused| refused), outcome.as_ref())
        }
    };
    let response = answer.into_response(outcome);
    let status = (outcome != Some(&Outcome::Refuse)).then(|| response.status().as_u16());
    imds.state.stats.token_request(client.as_deref(), status);
    response
}

impl Imds {
    fn answer(
        &self,
        directory: &Directory,
        identity: &ServicePrincipal,
        resource: &str,
        effects: &Effects,
    ) -> Result<Answer, Answer> {
        check_resource(directory, resource).map_err(|refused: Aadsts| refused.answer())?;
        let issued = self
            .token(directory, identity, resource, effects)
            .map_err(|error| {
                tracing::error!("the lab could not sign a token: {error:#}");
                refusal(
                    500,
                    "unknown",
                    "Failed to retrieve token from the Active directory.",
                )
            })?;
        let left = issued.expires_on - unix_now() - effects.clock_skew_seconds;
        // Numbers are text here, unlike at the token endpoint.
        Ok(Answer::ok(&json!({
            "access_token": issued.access_token,
            "client_id": identity.client_id,
            "refresh_token": "",
            "expires_in": left.to_string(),
            "expires_on": issued.expires_on.to_string(),
            "ext_expires_in": left.to_string(),
            "not_before": issued.not_before.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        })))
    }

    fn token(
        &self,
        directory: &Directory,
        identity: &ServicePrincipal,
        resource: &str,
        effects: &Effects,
    ) -> anyhow::Result<Issued> {
        let order = Order {
            principal: Principal::Service(identity),
            audience: resource,
            lifetime_seconds: None,
            clock_skew_seconds: effects.clock_skew_seconds,
            claims: &effects.claims,
        };
        if effects.uncached || !effects.claims.is_empty() || effects.clock_skew_seconds != 0 {
            return mint::mint(&self.state.keys, directory, &order);
        }
        let key = (identity.object_id, resource.to_owned());
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = cache.get(&key).filter(|kept| is_fresh(kept)) {
            return Ok(kept.clone());
        }
        let issued = mint::mint(&self.state.keys, directory, &order)?;
        cache.insert(key, issued.clone());
        Ok(issued)
    }
}

/// Near its end means the last tenth of its life, at most five minutes.
fn is_fresh(issued: &Issued) -> bool {
    issued.expires_on - unix_now() > (issued.expires_in / 10).min(300)
}

fn check_request<'a>(headers: &HeaderMap, asked: &'a Asked) -> Result<&'a str, Answer> {
    let bad = |text: &str| Err(refusal(400, "invalid_request", text));
    if headers
        .get("metadata")
        .is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"true"))
    {
        return bad("Required metadata header not specified");
    }
    match asked.api_version.as_deref() {
        Some("2018-02-01" | "2019-08-01" | "2019-08-15" | "2020-06-01" | "2021-02-01") => {}
        Some(_) => {
            return bad("Bad request. api-version is invalid or was not specified in the request");
        }
        None => return bad("Bad request. api-version was not specified in the request"),
    }
    match asked.resource.as_deref() {
        Some(resource) if !resource.is_empty() => Ok(resource),
        _ => bad("Required query variable 'resource' is missing"),
    }
}

/// The identity that is named; else the system-assigned one, else the only one.
fn find<'a>(directory: &'a Directory, asked: &Asked) -> Result<&'a ServicePrincipal, Answer> {
    let Asked {
        client_id,
        object_id,
        msi_res_id,
        ..
    } = asked;
    let is =
        |id: &Uuid, text: &Option<String>| text.as_ref().is_none_or(|text| text.parse() == Ok(*id));
    let assigned: Vec<_> = directory
        .service_principals
        .iter()
        .filter(|identity| identity.imds)
        .collect();
    let named = [client_id, object_id, msi_res_id]
        .iter()
        .filter(|id| id.is_some())
        .count();
    let chosen = match named {
        0 => assigned
            .iter()
            .find(|identity| identity.system_assigned)
            .or_else(|| assigned.first().filter(|_| assigned.len() == 1)),
        1 => assigned.iter().find(|identity| {
            is(&identity.client_id, client_id)
                && is(&identity.object_id, object_id)
                && msi_res_id.as_ref().is_none_or(|wanted| {
                    identity
                        .resource_id
                        .as_ref()
                        .is_some_and(|id| id.eq_ignore_ascii_case(wanted))
                })
        }),
        _ => None,
    };
    chosen.copied().ok_or_else(|| match (named, assigned.len()) {
        (0, 2..) => refusal(400, "invalid_request",
            "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"),
        (2.., _) => refusal(400, "invalid_request", "Only one of client_id, object_id and msi_res_id may be given"),
        _ => refusal(400, "invalid_request", "Identity not found"),
    })
}

fn refusal(status: u16, error: &str, text: &str) -> Answer {
    Answer {
        status,
        body: escaped_json(&json!({"error": error, "error_description": text})),
    }
}
