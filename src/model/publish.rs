//! Whether a token may be put into a principal's Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::secret::TokenRecord;
use super::{Class, Desired, Failure, Holder, Look, ObjectId, Reason};
use crate::api::PrincipalType;

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
