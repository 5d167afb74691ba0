//! Roles: whom they are bound to, whose they are, what is put back and what is left alone. Each
//! module is one kind of trouble; here is what they all look with.

mod adopt_any;
mod adoption;
mod asked;
mod claims;
mod drift;
mod identities;
mod lookup;
mod markers;
mod monotone;
mod names;
mod planned;
mod slow;
mod source;
mod unmanaged;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::World;

/// Kubernetes' garbage collector looks for new kinds only every half minute.
pub const COLLECTED: Duration = Duration::from_secs(90);

/// Object ids of the lab's directory.
pub const READONLY_ID: &str = "9409b000-0000-4000-8000-000000000001";
pub const OPERATORS_ID: &str = "9409b000-0000-4000-8000-000000000002";
pub const ALICE_ID: &str = "a11ce000-0000-4000-8000-000000000001";
pub const GUEST_ID: &str = "a11ce000-0000-4000-8000-000000000002";
pub const IMPORTER_ID: &str = "5e41ce00-0000-4000-8000-000000000004";
pub const BATCH_ID: &str = "5e41ce00-0000-4000-8000-000000000005";
pub const GUEST: &str = "guest_user_example.com#EXT#@contoso.onmicrosoft.com";

/// `spec.principal` with an object id.
pub fn bound(kind: &str, object_id: &str) -> Value {
    json!({"type": kind, "objectId": object_id})
}

/// A text as an SQL literal.
pub fn quoted(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text)
}

/// What the server lists of a role: type, object id, MFA, administrator.
pub async fn listed(world: &World, role: &str) -> Result<Option<String>> {
    let role = quoted(role);
    world
        .ask(&format!(
            "SELECT concat_ws(' ', p.kind, p.oid, p.mfa, p.admin) FROM pgaadauth_list_principals(false) \
             AS p(name, kind, oid, tenant, mfa, admin) WHERE p.name = {role}"
        ))
        .await
}

/// The comment of a role.
pub async fn comment_of(world: &World, role: &str) -> Result<Option<String>> {
    let role = quoted(role);
    world
        .ask(&format!(
            "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = {role}"
        ))
        .await
}

/// Whether a role exists, as SQL that answers `t` or `f`.
pub fn exists(role: &str) -> String {
    let role = quoted(role);
    format!("SELECT count(*) > 0 FROM pg_roles WHERE rolname = {role}")
}

/// Everything about every role in one text, passwords and labels too: to see that nothing changed.
pub async fn picture(world: &World) -> Result<String> {
    let text = world
        .ask(
            "SELECT string_agg(concat_ws(' | ', r.rolname, r.oid, r.rolcanlogin, r.rolcreaterole, a.rolpassword, \
             shobj_description(r.oid, 'pg_authid'), (SELECT string_agg(l.provider || l.label, ' ' ORDER BY l.provider) \
             FROM pg_shseclabel l WHERE l.objoid = r.oid)), E'\\n' ORDER BY r.rolname) \
             FROM pg_roles r JOIN pg_authid a ON a.oid = r.oid",
        )
        .await?;
    Ok(text.unwrap_or_default())
}

/// The statements that came through the gateway so far.
pub fn statements(world: &World) -> u64 {
    world.stats()["statements"].as_u64().unwrap_or_default()
}

/// A claim of a token, unchecked.
pub fn claim(token: &str, name: &str) -> Option<String> {
    use base64::Engine as _;
    let body = token.split('.').nth(1)?;
    let body = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(body)
        .ok()?;
    let claims: Value = serde_json::from_slice(&body).ok()?;
    claims[name].as_str().map(str::to_owned)
}
