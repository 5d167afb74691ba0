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

#[cfg(test)]
mod properties;
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
        spec.principal.object_id =
            (spec.principal.object_id.take()).filter(|id| ObjectId::parse(id).is_some());
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
            let failure = refusal(&with(&fields)).expect("refused");
            assert_eq!(failure.reason, Reason::InvalidSpec, "{fields}");
            assert!(failure.message.contains("NUL"), "{failure}");
            assert!(!failure.message.contains('\0'), "{failure}");
        }
        assert_eq!(refusal(&with(&grant("names", json!(["t"])))), None);
    }

    /// Why an object, or a half of it, cannot be.
    fn refusal(object: &EntraPostgresPrincipal) -> Option<Failure> {
        let desired = match Desired::parse(object) {
            Ok(desired) => desired,
            Err(failure) => return Some(failure),
        };
        let layout = desired.token.and_then(|token| token.layout.err());
        desired.rights.err().or(layout)
    }

    // Red when: a name is sent that no server can have, or the message does not name its field.
    #[test]
    fn a_name_of_more_than_63_bytes_is_refused_with_its_field() {
        let long = "ü".repeat(32);
        let grant = |field: &str, value: Value| {
            let mut grant = json!({"database": "d", "schema": "s", "objects": "Tables", "names": ["t"],
                "privileges": ["SELECT"]});
            grant[field] = value;
            json!({"grants": [grant]})
        };
        let default = |field: &str| {
            let mut entry = json!({"database": "d", "schema": "s", "owner": "o", "objects": "Tables",
                "privileges": ["SELECT"]});
            entry[field] = json!(long);
            json!({"defaultPrivileges": [entry]})
        };
        let function = |name: String| {
            json!({"grants": [{"database": "d", "schema": "s", "objects": "Functions", "names": [name],
                "privileges": ["EXECUTE"]}]})
        };
        for (fields, field) in [
            (grant("database", json!(long)), "grants: database"),
            (grant("schema", json!(long)), "grants: schema"),
            (grant("names", json!(["t", long])), "grants: name"),
            (function(format!("{long}(integer)")), "grants: name"),
            (default("database"), "defaultPrivileges: database"),
            (default("schema"), "defaultPrivileges: schema"),
            (default("owner"), "defaultPrivileges: owner"),
            (json!({"memberOf": [{"role": long}]}), "memberOf: role"),
            (
                json!({"role": {"settings": {(long.clone()): "1"}}}),
                "role.settings: name",
            ),
            (
                json!({"deletionPolicy": "Reassign", "reassignOwnedTo": long}),
                "reassignOwnedTo",
            ),
            (
                json!({"token": {"database": long, "identity": {"operator": {}}}}),
                "token.database",
            ),
        ] {
            let failure = refusal(&with(&fields)).expect("refused");
            assert_eq!(failure.reason, Reason::InvalidSpec, "{fields}");
            assert!(
                failure.message.starts_with(field) && failure.message.contains("64 bytes"),
                "{failure}"
            );
        }
        let signature = format!("total({})", vec!["integer"; 100].join(", "));
        assert_eq!(refusal(&with(&function(signature))), None);
    }

    // Red when: the deletion of an object asks for more of its spec than it deletes.
    #[test]
    fn whatever_is_wrong_with_a_spec_its_object_can_be_deleted() {
        let long = "x".repeat(80);
        let names = vec!["t"; 256];
        let grant = json!({"database": "d", "schema": "s", "objects": "Tables", "names": names,
            "privileges": ["SELECT"]});
        let token = |field: &str, value: Value| {
            let mut token =
                json!({"identity": {"workloadIdentity": {"serviceAccountRef": {"name": "a"}}}});
            token[field] = value;
            json!({"deletionPolicy": "Drop", "token": token})
        };
        let drop = |field: &str, value: Value| json!({"deletionPolicy": "Drop", field: value});
        for fields in [
            drop("memberOf", json!([{"role": long}])),
            drop("memberOf", json!([{"role": ""}])),
            drop("grants", json!(vec![grant; 128])),
            drop(
                "grants",
                json!([{"database": "d", "schema": "s", "names": ["t"], "all": true, "privileges": []}]),
            ),
            drop("role", json!({"settings": {"a\0": "1"}})),
            drop(
                "defaultPrivileges",
                json!([{"database": "d", "schema": "s", "owner": long,
                "objects": "Tables", "privileges": []}]),
            ),
            drop(
                "principal",
                json!({"type": "User", "objectId": "no id", "admin": true}),
            ),
            token("database", json!(long)),
            token("secret", json!({"template": {"data": {"x": "{{ nothing"}}})),
            token(
                "secret",
                json!({"template": {"data": {"x": "x".repeat(100_000)}}}),
            ),
            json!({"deletionPolicy": "Drop", "principal": {"type": "User"},
                "token": {"identity": {}}}),
        ] {
            let desired = Desired::of_deleted(&with(&fields)).expect("a role");
            assert_eq!(
                (desired.role.as_str(), desired.deletion),
                ("app", DeletionPolicy::Drop),
                "{fields}"
            );
            assert_eq!(desired.rights, Ok(()), "{fields}");
        }
        let reassign =
            |heir: &str| with(&json!({"deletionPolicy": "Reassign", "reassignOwnedTo": heir}));
        let heir = Desired::of_deleted(&reassign("heir")).expect("a role");
        assert_eq!(heir.deletion, DeletionPolicy::Reassign);
        assert_eq!(heir.reassign_to, RoleName::parse("heir").ok());
        // Nobody can get it: dropped only if it owns nothing.
        let none = Desired::of_deleted(&reassign(&long)).expect("a role");
        assert_eq!(
            (none.deletion, none.reassign_to),
            (DeletionPolicy::Drop, None)
        );
        assert!(Desired::of_deleted(&with(&json!({"roleName": long}))).is_none());
    }
}
