//! Who may sign in as which role: Azure's rules, in Azure's words. Pure.

use uuid::Uuid;

use super::message::Fatal;
use crate::directory::Directory;
use crate::tokens::{Claims, RESOURCE, TokenError, TokenKind};

const REFUSED: &str = "28000";

/// The principal that a role stands for, from its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) kind: Kind,
    pub(super) object_id: Uuid,
    pub(super) mfa: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Group,
    Service,
}

impl Binding {
    /// From the label that was written and the one that the directory's answer made.
    pub(super) fn parse(given: &str, resolved: Option<&str>) -> Option<Self> {
        let value = |label: &str, key: &str| {
            let mut parts = label.split(',').filter_map(|part| part.split_once('='));
            parts
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
        };
        let either = |key| {
            resolved
                .and_then(|label| value(label, key))
                .or_else(|| value(given, key))
        };
        Some(Self {
            kind: match either("type")?.as_str() {
                "user" => Kind::User,
                "group" => Kind::Group,
                "service" => Kind::Service,
                _ => return None,
            },
            object_id: either("oid")?.parse().ok()?,
            mfa: given.split(',').any(|part| part == "mfa"),
        })
    }
}

pub(super) fn no_such_role(role: &str) -> Fatal {
    Fatal::new(REFUSED, format!("role \"{role}\" does not exist"))
}

pub(super) fn unbound(role: &str) -> Fatal {
    Fatal::new(
        REFUSED,
        format!("the security label of role \"{role}\" names no Microsoft Entra principal"),
    )
}

pub(super) fn no_encryption(host: &str, user: &str, database: &str) -> Fatal {
    Fatal::new(
        REFUSED,
        format!(
            "no pg_hba.conf entry for host \"{host}\", user \"{user}\", database \"{database}\", \
             no encryption"
        ),
    )
}

pub(super) fn token_refused(error: TokenError) -> Fatal {
    let message = match error {
        TokenError::Format => {
            "The access token has invalid format. Please ensure the token is passed exactly as \
             returned by the authentication endpoint and retry."
                .to_owned()
        }
        TokenError::Audience => format!(
            "The access token does not have a valid audience claim. Please acquire a new token \
             for the resource \"{RESOURCE}\"."
        ),
        TokenError::Tenant => {
            "The access token does not have a valid tenant claim. Please acquire a new token \
             from the tenant of this server."
                .to_owned()
        }
        TokenError::Expired => {
            "The access token has expired. Please acquire a new token and retry.".to_owned()
        }
        TokenError::Signature | TokenError::NotYetValid => {
            "An error occurred while validating the access token. Please acquire a new token \
             and retry."
                .to_owned()
        }
    };
    Fatal::new(REFUSED, message)
}

/// Whether a good token is that of the role's principal.
pub(super) fn check(
    role: &str,
    binding: &Binding,
    claims: &Claims,
    directory: &Directory,
) -> Result<(), Fatal> {
    match binding.kind {
        Kind::Service => check_service(role, binding, claims),
        Kind::User => check_user(role, binding, claims),
        Kind::Group if directory.is_member(binding.object_id, claims.oid) => Ok(()),
        Kind::Group => Err(format!(
            "Azure AD access token not valid for role {role} (does not contain group ID {})",
            binding.object_id
        )),
    }
    .and_then(|()| {
        if binding.mfa && !claims.mfa {
            return Err(format!(
                "The access token does not have the mfa claim that role \"{role}\" requires. \
                 Please sign in with multifactor authentication and retry."
            ));
        }
        Ok(())
    })
    .map_err(|message| Fatal::new(REFUSED, message))
}

fn check_service(role: &str, binding: &Binding, claims: &Claims) -> Result<(), String> {
    if claims.idtyp != TokenKind::App {
        return Err(format!(
            "Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens for role \
             \"{role}\"."
        ));
    }
    if claims.oid == binding.object_id || claims.appid == Some(binding.object_id) {
        return Ok(());
    }
    let appid = claims.appid.map(|id| id.to_string()).unwrap_or_default();
    Err(format!(
        "Service principal oid mismatch for role \"The oid in the security label [{}] does not \
         match the appid [{appid}] or oid [{}] in the token.\"",
        binding.object_id, claims.oid
    ))
}

fn check_user(role: &str, binding: &Binding, claims: &Claims) -> Result<(), String> {
    if claims.idtyp != TokenKind::User {
        return Err(format!(
            "Microsoft Entra user token for role \"{role}\" is neither an \
             AAD_AUTH_TOKENTYPE_APP_USER or an AAD_AUTH_TOKENTYPE_APP_OBO token."
        ));
    }
    if claims.oid == binding.object_id {
        return Ok(());
    }
    Err(format!(
        "User oid mismatch for role \"{role}\": the oid in the security label [{}] does not match \
         the oid [{}] in the token.",
        binding.object_id, claims.oid
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_what_the_directory_said_else_what_was_written() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let given = format!("aadauth,type=user,mfa,oid={one}");
        let resolved = format!("type=group,oid={two},tenant_id={one}");
        let binding = |kind, object_id, mfa| {
            Some(Binding {
                kind,
                object_id,
                mfa,
            })
        };
        assert_eq!(Binding::parse(&given, None), binding(Kind::User, one, true));
        assert_eq!(
            Binding::parse(&given, Some(&resolved)),
            binding(Kind::Group, two, true)
        );
        assert_eq!(
            Binding::parse("aadauth", Some(&resolved)),
            binding(Kind::Group, two, false)
        );
        assert_eq!(Binding::parse("aadauth", None), None);
    }
}
