//! What objects declare, parsed once: nothing after this sees a raw spec.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::refresh::Renew;
use super::secret::Layout;
use super::{
    Ask, Class, DatabaseAsk, DefaultAsk, DefaultsOf, DesiredAttributes, DesiredPrivileges, Failure,
    Group, Kind, MembershipOptions, ObjectId, ObjectKey, Reason, RoleName,
};
use crate::api::{
    Adoption, DefaultPrivilege, DeletionPolicy, EntraPostgresPrincipal, EntraPostgresPrincipalSpec,
    Grant, Identity, Mode, PrincipalType, PrivilegePolicy, SecretKeyRef, TokenSpec, VerifyLogin,
};

/// Annotation: the object id to which a role may be bound anew.
pub const REBIND: &str = "entrapostgres.io/rebind";
/// Annotation: a new value lets a role sign in that a database administrator closed.
pub const RESTORE: &str = "entrapostgres.io/restore";
/// Annotation: a new value makes the operator look now, whatever rests.
pub const RECONCILE: &str = "entrapostgres.io/reconcile";
/// Annotation: a new value renews the token now, once.
pub const RENEW: &str = "entrapostgres.io/renew";

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
        if let Some((field, text)) = sent(spec).find(|(_, text)| text.contains('\0')) {
            return Err(invalid(format!(
                "{field} {text:?} contains a NUL character, which no name on a server has: correct it"
            )));
        }
        let options = spec.role.clone().unwrap_or_default();
        let member_of = spec.member_of.iter().map(|member| {
            let options = MembershipOptions {
                inherit: member.inherit,
                set: member.set,
                admin: member.admin,
            };
            Ok((RoleName::parse(&member.role)?, options))
        });
        let reassign_to = spec.reassign_owned_to.as_deref().map(RoleName::parse);
        let annotation = |name: &str| object.annotations().get(name).cloned();
        Ok(Self {
            object_id_from: (spec.principal.object_id_from.clone())
                .map(|source| source.config_map_key_ref),
            rebind: annotation(REBIND),
            restore: annotation(RESTORE),
            reconcile: annotation(RECONCILE),
            renew: annotation(RENEW).filter(|value| !value.is_empty()),
            attributes: DesiredAttributes {
                login: options.login,
                connection_limit: options.connection_limit,
                create_db: options.create_db,
                create_role: options.create_role,
                inherit: options.inherit,
            },
            settings: (options.settings.unwrap_or_default().into_iter())
                .map(|(name, value)| (name.to_lowercase(), value))
                .collect(),
            member_of: member_of.collect::<Result<_, Failure>>()?,
            privileges: privileges(
                &spec.grants,
                &spec.default_privileges,
                spec.privilege_policy,
            )?,
            reassign_to: reassign_to.transpose()?,
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
            token: spec
                .token
                .as_ref()
                .map(|token| DesiredToken::parse(token, &object.name_any(), &spec.role_name)),
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
    fn parse(spec: &TokenSpec, object: &str, role: &str) -> Self {
        let renew = match (&spec.renew_before, spec.renew_before_percentage) {
            (Some(before), _) => Renew::Before(Duration::from(*before)),
            (None, percentage) => Renew::Percentage(percentage.unwrap_or(33).clamp(1, 66)),
        };
        let secret = spec.secret.name.as_deref().unwrap_or(object).to_owned();
        let endpoint = spec.endpoint.as_ref();
        Self {
            identity: spec.identity.clone(),
            layout: Layout::parse(&spec.secret, &secret, role, &spec.database),
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

/// All texts that are sent to the server as they are, with their field; what becomes a [`RoleName`] is
/// checked there. One message for many cannot be sent at all if one of them has a NUL.
fn sent(spec: &EntraPostgresPrincipalSpec) -> impl Iterator<Item = (&'static str, &String)> {
    let grants = spec.grants.iter().flat_map(|grant| {
        let names = grant.names.iter().flatten();
        let names = names.map(|name| ("grants: name", name));
        let schema = grant.schema.iter().map(|name| ("grants: schema", name));
        names
            .chain(schema)
            .chain([("grants: database", &grant.database)])
    });
    let defaults = spec.default_privileges.iter().flat_map(|default| {
        [
            ("defaultPrivileges: database", &default.database),
            ("defaultPrivileges: schema", &default.schema),
        ]
    });
    let settings = spec
        .role
        .iter()
        .flat_map(|role| role.settings.iter().flatten());
    let settings = settings.flat_map(|(name, value)| {
        [
            ("role.settings: name", name),
            ("role.settings: value", value),
        ]
    });
    let token = spec.token.iter();
    grants
        .chain(defaults)
        .chain(settings)
        .chain(token.map(|token| ("token.database", &token.database)))
}

/// Takes grants apart, one privilege at a time.
fn privileges(
    grants: &[Grant],
    defaults: &[DefaultPrivilege],
    policy: PrivilegePolicy,
) -> Result<DesiredPrivileges, Failure> {
    let mut desired = DesiredPrivileges {
        exclusive: policy == PrivilegePolicy::Exclusive,
        ..DesiredPrivileges::default()
    };
    for grant in grants {
        let database = &grant.database;
        let Some(schema) = &grant.schema else {
            desired
                .databases
                .extend(grant.privileges.iter().map(|privilege| DatabaseAsk {
                    database: database.clone(),
                    privilege: *privilege,
                }));
            continue;
        };
        let group = Group {
            schema: schema.clone(),
            kind: grant.objects.map_or(Kind::Schema, Kind::from),
        };
        let names: Vec<Option<String>> = match (&grant.names, grant.all) {
            (Some(names), None) => names.iter().cloned().map(Some).collect(),
            (None, Some(true)) => vec![None],
            (None, None) if grant.objects.is_none() => vec![Some(schema.clone())],
            _ => {
                return Err(invalid(format!(
                    "grants: an entry for schema {schema:?} of database {database:?} has to give exactly \
                     one of names and all: true"
                )));
            }
        };
        for name in names {
            desired
                .objects
                .extend(grant.privileges.iter().map(|privilege| Ask {
                    database: database.clone(),
                    group: group.clone(),
                    name: name.clone(),
                    privilege: *privilege,
                }));
        }
    }
    for default in defaults {
        let of = DefaultsOf {
            owner: RoleName::parse(&default.owner)?,
            group: Group {
                schema: default.schema.clone(),
                kind: default.objects.into(),
            },
        };
        let asks = default.privileges.iter().map(|privilege| DefaultAsk {
            database: default.database.clone(),
            of: of.clone(),
            privilege: *privilege,
        });
        desired.defaults.extend(asks);
    }
    Ok(desired)
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
