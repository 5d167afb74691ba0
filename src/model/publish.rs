//! Whether a token may be put into a principal's Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::secret::TokenRecord;
use super::{Class, Desired, DesiredServer, Failure, Holder, Look, ObjectId, Reason};
use crate::api::{Identity, PrincipalType};

/// What is known when a token is about to be written.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// The principal the token speaks for.
    pub token: &'a ObjectId,
    /// The identity of the role, as recorded.
    pub role: Option<&'a ObjectId>,
    /// Roles by object id, administrators among them; `None`: the server was not seen since start.
    pub holders: Option<&'a BTreeMap<ObjectId, Holder>>,
    /// The principal of the token that the Secret has now: it was checked when that was written.
    pub published: Option<&'a ObjectId>,
}

/// Whether a token could be published at all, whomever it speaks for: asked before Entra is.
///
/// # Errors
/// Why the CA is not known; `ServerUnreachable` (waiting) while nobody can say who the server's
/// administrators are and no token was checked before.
pub fn could_publish(
    desired: &Desired,
    ca: &Look<String>,
    holders: Option<&BTreeMap<ObjectId, Holder>>,
    published: Option<&ObjectId>,
) -> Result<(), Failure> {
    if let Look::Unknown(cause) = ca {
        return Err(cause.clone());
    }
    if holders.is_none() && published.is_none() {
        let message = format!(
            "waiting for server {}: who its administrators are is not known yet, and their tokens are \
             never written",
            desired.server
        );
        let reason = Reason::ServerUnreachable;
        return Err(Failure::new(Class::Waiting, reason, message));
    }
    Ok(())
}

/// Whether a token is worth writing over the recorded one. Who asks for a new token gets it although
/// it may end sooner: Entra gives each a life of its own, and what was got later is not older. Without
/// that only a later end counts.
pub fn is_newer(sha256: &str, expires: Timestamp, record: &TokenRecord, asked: bool) -> bool {
    if asked {
        sha256 != record.sha256
    } else {
        expires > record.expires_at
    }
}

/// Refuses what is an administrator's identity by its declaration, before its token is asked for. That one
/// of several administrators was never needed says nothing else: the server may know a group only, and no
/// token of this member was seen.
///
/// # Errors
/// `TokenOfAdministrator`.
pub fn check_identity(
    desired: &Desired,
    identity: &Identity,
    server: &DesiredServer,
) -> Result<(), Failure> {
    let theirs = &server.key.namespace;
    let own = (desired.key.namespace.as_str(), identity);
    let mut administrators = server.administrators.iter();
    let found = administrators.find(|(_, identity)| is_same(own, (theirs, identity)));
    let Some((administrator, _)) = found else {
        return Ok(());
    };
    let message = format!(
        "token.identity is that of administrator {:?} of server {}: such a token is never written; give \
         token.identity the workload's own identity",
        administrator.as_str(),
        desired.server
    );
    Err(Failure::new(
        Class::Denied,
        Reason::TokenOfAdministrator,
        message,
    ))
}

/// Whether two identities, each of a namespace, are declared to be one: the same client, or a client that
/// the same service account names. A tenant may be its id or a domain, so that two tell nothing apart.
fn is_same(one: (&str, &Identity), other: (&str, &Identity)) -> bool {
    let account = |(namespace, identity): (&str, &Identity)| {
        let workload = identity.workload_identity.as_ref()?;
        Some((
            namespace.to_owned(),
            workload.service_account_ref.name.clone(),
        ))
    };
    match (client(one.1), client(other.1)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ if account(one).is_some() => account(one) == account(other),
        _ => {
            let (one, other) = (one.1, other.1);
            (one.operator.is_some() && other.operator.is_some())
                || (one.managed_identity.is_some()
                    && one.managed_identity == other.managed_identity)
        }
    }
}

/// The client id that an identity declares.
fn client(identity: &Identity) -> Option<&str> {
    let Identity {
        workload_identity,
        managed_identity,
        client_secret,
        client_certificate,
        operator: _,
    } = identity;
    let workload = workload_identity.as_ref();
    workload
        .and_then(|workload| workload.client_id.as_deref())
        .or(managed_identity
            .as_ref()
            .and_then(|managed| managed.client_id.as_deref()))
        .or(client_secret.as_ref().map(|app| app.client_id.as_str()))
        .or(client_certificate
            .as_ref()
            .map(|app| app.client_id.as_str()))
}

/// Checks the principal of a token against the role and the server's administrators.
///
/// # Errors
/// `TokenOfAdministrator`, `TokenOfAnother`, `ObjectIdMismatch`; `ServerUnreachable` (waiting) when
/// it cannot be known yet whether the token is an administrator's.
pub fn check(desired: &Desired, publication: Publication<'_>) -> Result<(), Failure> {
    let Publication {
        token,
        role,
        holders,
        published,
    } = publication;
    let denied = |reason, message: String| Err(Failure::new(Class::Denied, reason, message));
    match holders {
        Some(holders) if holders.get(token).is_some_and(|holder| holder.admin) => {
            return denied(
                Reason::TokenOfAdministrator,
                format!(
                    "the token's object id {token} is an administrator of server {}: such a token is \
                     never written; give token.identity the workload's own identity",
                    desired.server
                ),
            );
        }
        Some(_) => {}
        None if published == Some(token) => {}
        None => {
            let message = format!(
                "waiting for server {}: whether the token's object id {token} is one of its \
                 administrators is not known yet",
                desired.server
            );
            return Err(Failure::new(
                Class::Waiting,
                Reason::ServerUnreachable,
                message,
            ));
        }
    }
    if desired.kind == PrincipalType::Group {
        return Ok(());
    }
    match role {
        Some(role) if role == token => Ok(()),
        // The role got its id from this identity's own token: the identity was made again.
        Some(role) if desired.takes_id_from_token() => denied(
            Reason::ObjectIdMismatch,
            format!(
                "token.identity now has object id {token}, but role {:?} is bound to {role}: was the \
                 identity deleted and made again? Set principal.objectId: {token} to bind the role to it",
                desired.role.as_str()
            ),
        ),
        Some(role) => denied(
            Reason::TokenOfAnother,
            format!(
                "the token's object id is {token}, the role's is {role}: token.identity must be the \
                 principal's own identity"
            ),
        ),
        None => Err(Failure::new(
            Class::Waiting,
            Reason::ServerUnreachable,
            format!(
                "waiting for role {:?}: its object id is not known yet",
                desired.role.as_str()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn identity(fields: Value) -> Identity {
        serde_json::from_value(fields).expect("an identity")
    }

    // Red when: is_same leaves out a kind, or a service account's namespace.
    #[test]
    fn identities_are_one_by_client_or_by_service_account() {
        let account =
            |name: &str| json!({"workloadIdentity": {"serviceAccountRef": {"name": name}}});
        let workload = |name: &str, client: &str| json!({"workloadIdentity": {"serviceAccountRef": {"name": name}, "clientId": client}});
        let secret = |client: &str| json!({"clientSecret": {"tenantId": "t", "clientId": client, "secretRef": {"name": "s", "key": "k"}}});
        let certificate = |client: &str| json!({"clientCertificate": {"tenantId": "t", "clientId": client, "secretRef": {"name": "s"}}});
        let node = |id: &str, of: &str| json!({"managedIdentity": {id: of}});
        let operator = json!({"operator": {}});
        for (one, other, same) in [
            (account("a"), account("a"), true),
            (account("a"), account("b"), false),
            (account("a"), workload("a", "c"), true),
            (workload("a", "c"), workload("a", "d"), false),
            (workload("a", "c"), secret("C"), true),
            (secret("c"), certificate("c"), true),
            (secret("c"), secret("d"), false),
            (node("clientId", "c"), certificate("c"), true),
            (node("objectId", "o"), node("objectId", "o"), true),
            (node("objectId", "o"), node("objectId", "p"), false),
            (operator.clone(), operator.clone(), true),
            (operator, account("a"), false),
        ] {
            let (one, other) = (identity(one), identity(other));
            for (one, other) in [(&one, &other), (&other, &one)] {
                assert_eq!(is_same(("n", one), ("n", other)), same, "{one:?} {other:?}");
            }
        }
        let account = identity(account("a"));
        assert!(!is_same(("n", &account), ("m", &account)));
    }
}
