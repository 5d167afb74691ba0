//! Federated assertions: tokens of another issuer, as a cluster's service accounts have them.
//! Issuer, subject and audience are matched and the signature is checked; time is the caller's.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::aadsts::Aadsts;
use crate::directory::{CLUSTER_ISSUER, FederatedCredential, ServicePrincipal};
use crate::state::LabState;
use crate::tokens::Unverified;

pub(super) async fn check(
    state: &LabState,
    client: &ServicePrincipal,
    token: &Unverified<'_>,
) -> Result<(), Aadsts> {
    let cluster = state.cluster_issuer();
    let own = cluster.as_deref().map(|cluster| cluster.issuer.as_str());
    if client.federated_credentials.is_empty() {
        return Err(Aadsts::no_federation(client.client_id, &client.name));
    }
    match_credential(&client.federated_credentials, own, token)?;
    let issuer = token.claim("iss").unwrap_or_default();
    let jwks = match cluster.as_deref() {
        Some(cluster) if cluster.issuer == issuer => cluster.jwks.clone(),
        _ => fetch_keys(issuer).await.map_err(|error| {
            tracing::warn!("no keys of issuer {issuer}: {error:#}");
            Aadsts::issuer_unreachable()
        })?,
    };
    if token.signed_by(&jwks) {
        Ok(())
    } else {
        Err(Aadsts::assertion_signature())
    }
}

/// The error names the first part that fits no credential, as Azure does.
fn match_credential(
    credentials: &[FederatedCredential],
    cluster: Option<&str>,
    token: &Unverified<'_>,
) -> Result<(), Aadsts> {
    let issuer = token.claim("iss").unwrap_or_default();
    let subject = token.claim("sub").unwrap_or_default();
    let audience = match token.claims.get("aud") {
        Some(Value::String(one)) => one.clone(),
        Some(Value::Array(many)) => many
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(","),
        _ => String::new(),
    };
    let mut left: Vec<_> = credentials
        .iter()
        .filter(|credential| match credential.issuer.as_str() {
            CLUSTER_ISSUER => cluster == Some(issuer),
            other => other == issuer,
        })
        .collect();
    if left.is_empty() {
        return Err(Aadsts::issuer_mismatch(issuer));
    }
    left.retain(|credential| credential.subject == subject);
    if left.is_empty() {
        return Err(Aadsts::subject_mismatch(subject));
    }
    left.retain(|credential| token.has_audience(&credential.audience));
    if left.is_empty() {
        return Err(Aadsts::audience_mismatch(&audience));
    }
    Ok(())
}

/// The keys of an issuer on this machine: the lab asks nobody else.
async fn fetch_keys(issuer: &str) -> anyhow::Result<Value> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        // Other clusters on this machine have certificates of their own making.
        .tls_danger_accept_invalid_certs(true)
        .build()?;
    let get = async |url: &str| -> anyhow::Result<Value> {
        let parsed = reqwest::Url::parse(url).with_context(|| format!("{url} is no URL"))?;
        let host = parsed.host_str().unwrap_or_default();
        let local = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
        ensure!(local, "{url} is not on this machine");
        let answer = client.get(parsed).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    };
    let base = issuer.trim_end_matches('/');
    let discovery = get(&format!("{base}/.well-known/openid-configuration")).await?;
    let keys = discovery
        .get("jwks_uri")
        .and_then(Value::as_str)
        .context("discovery has no jwks_uri")?;
    get(keys).await
}
