//! What objects declare, parsed once: nothing after this sees a raw spec.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::refresh::Renew;
use super::secret::Layout;
use super::{
    Class, DesiredAttributes, DesiredPrivileges, Failure, MembershipOptions, ObjectId, ObjectKey,
    Reason, RoleName, sizes,
};
use crate::api::{
    Adoption, DeletionPolicy, EntraPostgresPrincipal, Identity, Mode, PrincipalType, RoleOptions,
    SecretKeyRef, TokenSpec, VerifyLogin,
};
use rights::Rights;

mod rights;

/// Annotation: the object id to which a role may be bound anew.
pub const REBIND: &str = "entrapostgres.io/rebind";
/// Annotation: a new value lets a role sign in that a database administrator closed.
pub const RESTORE: &str = "entrapostgres.io/restore";
/// Annotation: a new value makes the operator look now, whatever rests.
pub const RECONCILE: &str = "entrapostgres.io/reconcile";
/// Annotation: a new value renews the token now, once.
pub const RENEW: &str = "entrapostgres.io/renew";
/// In memory only: what of the role's rights was too large to be kept.
pub const TOO_LARGE_RIGHTS: &str = "entrapostgres.io/too-large-rights";
/// In memory only: what of the Secret's template was too large to be kept.
pub const TOO_LARGE_TEMPLATE: &str = "entrapostgres.io/too-large-template";

/// What an `EntraPostgresPrincipal` declares.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a field of its own in the manifest"
)]
pub struct Desired {
    /// The object.
    pub key: ObjectKey,
    /// Its uid: the same name with another uid is another object.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The server it names.
    pub server: ObjectKey,
    /// The role it wants.
    pub role: RoleName,
    /// What the principal is.
    pub kind: PrincipalType,
    /// The declared object id.
    pub object_id: Option<ObjectId>,
    /// The `ConfigMap` that has the object id.
    pub object_id_from: Option<SecretKeyRef>,
    /// Annotation `entrapostgres.io/rebind`: the consent to bind the role to this identity. As it is
    /// written.
    pub rebind: Option<String>,
    /// Annotation `entrapostgres.io/restore`: a new value lets a role sign in that a database
    /// administrator closed.
    pub restore: Option<String>,
    /// Annotation `entrapostgres.io/reconcile`: a new value makes us look now.
    pub reconcile: Option<String>,
    /// Annotation `entrapostgres.io/renew`: a new value renews the token now.
    pub renew: Option<String>,
    /// Whether the role is an Entra administrator.
    pub admin: bool,
    /// Whether sign-in needs multifactor authentication.
    pub mfa: bool,
    /// Why what is declared of the role's rights (settings, memberships, privileges, who gets what it owns)
    /// cannot be: they are empty here then. It is the role's failure and not the token's.
    pub rights: Result<(), Failure>,
    /// Attributes.
    pub attributes: DesiredAttributes,
    /// Settings for all databases, by name in lower case.
    pub settings: BTreeMap<String, String>,
    /// The roles it is a member of.
    pub member_of: BTreeMap<RoleName, MembershipOptions>,
    /// Its privileges.
    pub privileges: DesiredPrivileges,
    /// What to do with a role that is there already.
    pub adoption: Adoption,
    /// What becomes of the role in the end.
    pub deletion: DeletionPolicy,
    /// Who gets what the role owns, with [`DeletionPolicy::Reassign`].
    pub reassign_to: Option<RoleName>,
    /// Whether changes are only shown.
    pub plan_only: bool,
    /// Whether all work is stopped.
    pub suspend: bool,
    /// The token, if one is wanted.
    pub token: Option<DesiredToken>,
}

/// The token that a principal declares, and its Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredToken {
    /// Whose token.
    pub identity: Identity,
    /// Name of the Secret.
    pub secret: String,
    /// What the Secret is to hold. A layout that cannot be is the token's failure and not the role's.
    pub layout: Result<Layout, Failure>,
    /// Host in the keys instead of the server's.
    pub host: Option<String>,
    /// Port in the keys instead of the server's.
    pub port: Option<u16>,
    /// The database in the keys.
    pub database: String,
    /// When it is renewed.
    pub renew: Renew,
    /// Which tokens are tried before they are published.
    pub verify: VerifyLogin,
}

impl Desired {
    /// Parses an object.
    ///
    /// # Errors
    /// `InvalidSpec`, for what the schema should have refused: it may be older than the object.
    pub fn parse(object: &EntraPostgresPrincipal) -> Result<Self, Failure> {
        let namespace = object.namespace().unwrap_or_default();
        let spec = &object.spec;
        let server_namespace = spec.server_ref.namespace.as_ref().unwrap_or(&namespace);
        let object_id = match &spec.principal.object_id {
            None => None,
            Some(text) => Some(ObjectId::parse(text).ok_or_else(|| {
                invalid(format!(
                    "principal.objectId {text:?} is no GUID: give the object id"
                ))
            })?),
        };
        let kind = spec.principal.r#type;
        if spec.token.is_some() && (kind == PrincipalType::User || spec.principal.admin) {
            return Err(invalid(
                "a token is not written for users or administrators: remove token",
            ));
        }
        let options = spec.role.as_ref();
        let (declared, rights) = match Rights::parse(spec) {
            Ok(rights) => (rights, Ok(())),
            Err(failure) => (Rights::default(), Err(failure)),
        };
        let annotation = |name: &str| object.annotations().get(name).cloned();
        Ok(Self {
            object_id_from: (spec.principal.object_id_from.clone())
                .map(|source| source.config_map_key_ref),
            rebind: annotation(REBIND),
            restore: annotation(RESTORE),
            reconcile: annotation(RECONCILE),
            renew: annotation(RENEW).filter(|value| !value.is_empty()),
            attributes: options.map_or_else(DesiredAttributes::default, attributes),
            rights: too_large(object, TOO_LARGE_RIGHTS).map_or(rights, Err),
            settings: declared.settings,
            member_of: declared.member_of,
            privileges: declared.privileges,
            reassign_to: declared.reassign_to,
            plan_only: spec.mode == Mode::Plan,
            server: ObjectKey::new(server_namespace, &spec.server_ref.name),
            role: RoleName::parse_wanted(&spec.role_name)?,
            kind,
            object_id,
            admin: spec.principal.admin,
            mfa: spec.principal.require_mfa,
            adoption: spec.adoption,
            deletion: spec.deletion_policy,
            suspend: spec.suspend,
            token: spec.token.as_ref().map(|token| {
                let too_large = too_large(object, TOO_LARGE_TEMPLATE);
                DesiredToken::parse(token, &object.name_any(), &spec.role_name, too_large)
            }),
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            created: object
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0),
            key: ObjectKey::new(namespace, object.name_any()),
        })
    }

    /// What the deletion of an object needs: nothing of its spec but what it deletes. `None`: no server can
    /// have a role of that name.
    pub fn of_deleted(object: &EntraPostgresPrincipal) -> Option<Self> {
        let role = RoleName::parse(&object.spec.role_name).ok()?;
        let mut rest = object.clone();
        let spec = &mut rest.spec;
        // Where nobody can get what it owns, it is dropped only if it owns nothing.
        let heir = spec.reassign_owned_to.take();
        let heir = heir.and_then(|heir| RoleName::parse(&heir).ok());
        if heir.is_none() && spec.deletion_policy == DeletionPolicy::Reassign {
            spec.deletion_policy = DeletionPolicy::Drop;
        }
        "deleted".clone_into(&mut spec.role_name);
        spec.principal.object_id = (spec.principal.object_id.take())
            .filter(|id| ObjectId::parse(id).is_some());
        (spec.token, spec.role) = (None, None);
        (spec.grants, spec.default_privileges) = (Vec::new(), Vec::new());
        spec.member_of = Vec::new();
        let desired = Self::parse(&rest).ok()?;
        Some(Self {
            role,
            reassign_to: heir,
            ..desired
        })
    }

    /// Whether the object id is the one of the principal's own token, when none is declared: no
    /// name look-up then, which a second identity of that name could mislead.
    pub fn takes_id_from_token(&self) -> bool {
        let own = matches!(
            self.kind,
            PrincipalType::ServicePrincipal | PrincipalType::ManagedIdentity
        );
        let declared = self.object_id.is_some() || self.object_id_from.is_some();
        own && self.token.is_some() && !declared
    }
}

impl DesiredToken {
    fn parse(spec: &TokenSpec, object: &str, role: &str, too_large: Option<Failure>) -> Self {
        let renew = match (&spec.renew_before, spec.renew_before_percentage) {
            (Some(before), _) => Renew::Before(Duration::from(*before)),
            (None, percentage) => Renew::Percentage(percentage.unwrap_or(33).clamp(1, 66)),
        };
        let secret = spec.secret.name.as_deref().unwrap_or(object).to_owned();
        let endpoint = spec.endpoint.as_ref();
        Self {
            identity: spec.identity.clone(),
            layout: too_large.map_or_else(|| layout(spec, &secret, role), Err),
            secret,
            host: endpoint.and_then(|endpoint| endpoint.host.clone()),
            port: endpoint
                .and_then(|endpoint| endpoint.port)
                .and_then(|port| u16::try_from(port).ok()),
            database: spec.database.clone(),
            renew,
            verify: spec.verify_login,
        }
    }
}

fn attributes(options: &RoleOptions) -> DesiredAttributes {
    DesiredAttributes {
        login: options.login,
        connection_limit: options.connection_limit,
        create_db: options.create_db,
        create_role: options.create_role,
        inherit: options.inherit,
    }
}

fn layout(spec: &TokenSpec, secret: &str, role: &str) -> Result<Layout, Failure> {
    rights::possible("token.database", &spec.database)?;
    sizes::template(&spec.secret)?;
    Layout::parse(&spec.secret, secret, role, &spec.database)
}

/// What the watch left out of an object because it was too large, and said so.
fn too_large(object: &EntraPostgresPrincipal, annotation: &str) -> Option<Failure> {
    let what = object.annotations().get(annotation)?;
    Some(sizes::too_large(what))
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Class::Invalid, Reason::InvalidSpec, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with(fields: &Value) -> EntraPostgresPrincipal {
        let mut object = json!({"apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
            "metadata": {"name": "app", "namespace": "orders"},
            "spec": {"serverRef": {"name": "orders"}, "roleName": "app", "principal": {"type": "ManagedIdentity"}}});
        for (field, value) in fields.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        serde_json::from_value(object).expect("a principal")
    }

    // Red when: a text that goes into statements is not checked: a NUL in the question of all fails it for
    // all principals of the server.
    #[test]
    fn no_text_that_is_sent_to_a_server_has_a_nul() {
        let grant = |field: &str, value: Value| {
            let mut grant = json!({"database": "d", "schema": "s", "objects": "Tables", "names": ["t"],
                "privileges": ["SELECT"]});
            grant[field] = value;
            json!({"grants": [grant]})
        };
        let default = |field: &str| {
            let mut entry = json!({"database": "d", "schema": "s", "owner": "o", "objects": "Tables",
                "privileges": ["SELECT"]});
            entry[field] = json!("a\0b");
            json!({"defaultPrivileges": [entry]})
        };
        for fields in [
            grant("database", json!("a\0b")),
            grant("schema", json!("a\0b")),
            grant("names", json!(["t", "a\0b"])),
            default("database"),
            default("schema"),
            default("owner"),
            json!({"roleName": "a\0b"}),
            json!({"memberOf": [{"role": "a\0b"}]}),
            json!({"role": {"settings": {"a\0b": "1"}}}),
            json!({"role": {"settings": {"work_mem": "a\0b"}}}),
            json!({"deletionPolicy": "Reassign", "reassignOwnedTo": "a\0b"}),
            json!({"token": {"database": "a\0b", "identity": {"operator": {}}}}),
        ] {
            let failure = Desired::parse(&with(&fields)).expect_err("refused");
            assert_eq!(failure.reason, Reason::InvalidSpec, "{fields}");
            assert!(failure.message.contains("NUL"), "{failure}");
            assert!(!failure.message.contains('\0'), "{failure}");
        }
        Desired::parse(&with(&grant("names", json!(["t"])))).expect("good");
    }
}
