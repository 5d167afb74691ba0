//! What went wrong, in a form that decides the retry and can be shown to people.

use std::time::Duration;

use super::ObjectKey;

/// What a failure asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::Display)]
#[strum(serialize_all = "camelCase")]
pub enum Class {
    /// The object itself is wrong: nothing helps until it, or an object it names, changes.
    Invalid,
    /// Azure, the server or the cluster refuses: somebody must change something there. Tried
    /// again slowly, because nobody tells us when they did.
    Denied,
    /// Likely to pass by itself: tried again soon, then less often.
    Transient,
    /// Nothing is wrong; something must happen first.
    Waiting,
}

/// The stable word for a failure, as it stands in conditions, events and metrics.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::Display,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
pub enum Reason {
    // -- the object and what it names
    /// The spec contradicts itself or a rule that the schema cannot express.
    InvalidSpec,
    /// The object, or a part of it, is larger than the operator takes; the message has the limit.
    TooLarge,
    /// The server object does not exist.
    ServerNotFound,
    /// The server object exists and is not usable; its own conditions say why.
    ServerNotReady,
    /// No tenant entry of the server matches the namespace.
    NamespaceNotAllowed,
    /// The server's tenant entries for the namespace do not give what is declared.
    NotAllowedByServer,
    /// The cloud is neither built in nor configured.
    UnknownCloud,
    /// The host is outside the cloud's server suffixes.
    HostNotInCloud,
    /// The identity may not be used in this namespace.
    IdentityNotAllowed,
    /// The CA of `spec.tls` is missing or has no certificate.
    CaInvalid,
    /// `spec.suspend` is set.
    Suspended,

    // -- the server
    /// The first connection is being made.
    Connecting,
    /// No connection, or no answer in time.
    ServerUnreachable,
    /// The server's certificate is not trusted, or is for another name.
    CertificateNotTrusted,
    /// The server refused the administrator's sign-in.
    AdministratorRefused,
    /// The administrator signed in and is no Entra administrator.
    NotAnEntraAdministrator,
    /// The server is a replica, in recovery or read-only.
    ServerReadOnly,
    /// What is between us and the server does not keep the settings of a connection: a pooler.
    PoolerNotSupported,
    /// What there is to read on the server, or in one database, is more than the operator keeps.
    CatalogTooLarge,
    /// The server answered with an error that has no reason of its own.
    DatabaseError,

    // -- the role
    /// The directory has no such principal.
    PrincipalNotFound,
    /// Several principals have that name.
    PrincipalNotUnique,
    /// The principal is of another type than declared.
    PrincipalTypeMismatch,
    /// The object id is an administrator of the server, or on another role.
    IdentityInUse,
    /// The role, the record or the token speak of different object ids.
    ObjectIdMismatch,
    /// The server does not let a role be bound to another identity.
    RebindRefused,
    /// A role of that name exists, was not made for this object, and may not be adopted.
    RoleExists,
    /// Another object of this cluster has the role.
    RoleOwnedByOther,
    /// An object of another cluster has the role.
    RoleOwnedByOtherCluster,
    /// The role is one that is never managed.
    RoleProtected,
    /// A database administrator set the role to NOLOGIN.
    LoginDisabledOnServer,
    /// A database administrator requires multifactor authentication for the role, and it is not declared.
    MfaRequired,
    /// The role's comment begins like a marker and cannot be read as one.
    MarkerUnreadable,
    /// Somebody changed the role's comment since it was looked at.
    MarkerChanged,
    /// What the object has asked for is too much to be remembered in the role's comment.
    MarkerTooLarge,
    /// The server is too old for what is declared.
    NotSupportedByVersion,
    /// A database, schema, object or role that is declared does not exist.
    ObjectNotFound,
    /// The operator's administrator may not grant a privilege; the message has the statement for a
    /// database administrator.
    NotGrantable,
    /// The operator's administrator may not take a privilege or membership back that others gave.
    NotRevocable,
    /// The operator's administrator has no ADMIN OPTION on a role; the message has the statement for a
    /// database administrator.
    MissingAdminOption,
    /// A parameter in `role.settings` is none that a role may set for itself.
    SettingNotAllowed,
    /// The membership would make a role a member of itself.
    MembershipLoop,
    /// A database cannot be looked at.
    DatabaseNotAccessible,
    /// A function of the database, which an event trigger runs, refused what we sent.
    RefusedInDatabase,
    /// `mode: Plan`: nothing is changed.
    PlanOnly,
    /// The `ConfigMap` with the object id, or its key, does not exist, or it is no object id.
    ObjectIdNotFound,
    /// The server object is being deleted and waits for principals that still need it.
    WaitingForPrincipals,
    /// The role cannot be dropped: it owns objects or has privileges.
    RoleOwnsObjects,
    /// The role cannot be dropped: somebody is signed in as it.
    RoleInUse,
    /// The role of a group is not dropped while group sync is on.
    DropDeferred,

    // -- the Secret
    /// A Secret of that name exists and was not made for this object.
    SecretNotOurs,
    /// Somebody overwrites or deletes the Secret again and again.
    SecretOverwritten,
    /// The namespace is being deleted: nothing can be made there.
    NamespaceTerminating,
    /// Somebody made the Secret immutable.
    SecretImmutable,
    /// The template of the Secret does not parse, names what there is not, or makes what cannot be.
    TemplateInvalid,

    // -- the token
    /// The token is an administrator's: it is never written.
    TokenOfAdministrator,
    /// The token is not the principal's.
    TokenOfAnother,
    /// Nobody has tried to sign in with the token yet.
    LoginPending,
    /// The server refused the sign-in with the new token: it is not published.
    LoginRefused,
    /// The token is for another audience or tenant, is malformed, or has already ended.
    TokenInvalid,
    /// The service account does not exist.
    ServiceAccountNotFound,
    /// Client or tenant id is missing, or stands in two places.
    IdentityIncomplete,
    /// The Secret with the client secret, or its key, does not exist.
    ClientSecretNotFound,
    /// Entra refused the client secret.
    ClientSecretInvalid,
    /// The Secret with the client certificate, or one of its keys, does not exist.
    ClientCertificateNotFound,
    /// The client certificate cannot be used, or Entra does not know it.
    ClientCertificateInvalid,
    /// Entra has no federated credential for the service account.
    FederatedCredentialMissing,
    /// Entra has no such application in the tenant.
    ApplicationNotFound,
    /// Entra has no such tenant.
    TenantNotFound,
    /// The managed identity is not assigned to the node.
    IdentityNotAssigned,
    /// Entra refused for another reason; the message has its code.
    EntraRefused,
    /// Entra, or the node's IMDS, asked us to slow down.
    EntraThrottled,
    /// Entra, or the node's IMDS, did not answer usefully.
    EntraUnavailable,

    // -- ourselves
    /// The Kubernetes API refused or failed.
    ApiError,
    /// This replica is not, or no longer, the leader.
    NotLeader,
    /// A defect of the operator.
    Internal,
}

impl Reason {
    /// Whether it passes without a change of the object itself: when another object, an identity or a
    /// permission that is on its way arrives, or when somebody else lets go of what is wanted. Objects of
    /// one manifest arrive in any order, and a new identity takes Entra minutes. False: the object itself,
    /// the operator's configuration or what a person decided has to change.
    pub(super) fn heals(self) -> bool {
        match self {
            // -- another object of the cluster arrives, changes or goes
            Self::ServerNotFound
            | Self::ServerNotReady
            | Self::NamespaceNotAllowed
            | Self::NotAllowedByServer
            | Self::CaInvalid
            | Self::ObjectIdNotFound
            | Self::ServiceAccountNotFound
            | Self::IdentityIncomplete
            | Self::ClientSecretNotFound
            | Self::ClientCertificateNotFound
            | Self::IdentityInUse
            | Self::RoleOwnedByOther
            | Self::WaitingForPrincipals
            | Self::NamespaceTerminating
            | Self::ApiError
            // -- a new identity, credential or assignment reaches Entra, the node or the server
            | Self::PrincipalNotFound
            | Self::FederatedCredentialMissing
            | Self::ApplicationNotFound
            | Self::ClientSecretInvalid
            | Self::ClientCertificateInvalid
            | Self::IdentityNotAssigned
            | Self::AdministratorRefused
            | Self::NotAnEntraAdministrator
            // -- a database, schema, object or role is made, or a session ends
            | Self::ObjectNotFound
            | Self::DatabaseNotAccessible
            | Self::RoleInUse
            // -- a server, Entra or the operator comes back
            | Self::Connecting
            | Self::ServerUnreachable
            | Self::ServerReadOnly
            | Self::LoginPending
            | Self::MarkerChanged
            | Self::SecretOverwritten
            | Self::EntraThrottled
            | Self::EntraUnavailable
            | Self::NotLeader => true,
            // -- the spec, or what it asks for, is wrong
            Self::InvalidSpec
            | Self::UnknownCloud
            | Self::HostNotInCloud
            | Self::PrincipalNotUnique
            | Self::PrincipalTypeMismatch
            | Self::NotSupportedByVersion
            | Self::SettingNotAllowed
            | Self::MembershipLoop
            | Self::TemplateInvalid
            | Self::TokenOfAdministrator
            | Self::TokenOfAnother
            | Self::TokenInvalid
            | Self::TenantNotFound
            // -- a person has to decide or to act
            | Self::Suspended
            | Self::PlanOnly
            | Self::IdentityNotAllowed
            | Self::CertificateNotTrusted
            | Self::DatabaseError
            | Self::RefusedInDatabase
            | Self::TooLarge
            | Self::CatalogTooLarge
            | Self::PoolerNotSupported
            | Self::ObjectIdMismatch
            | Self::RebindRefused
            | Self::RoleExists
            | Self::RoleOwnedByOtherCluster
            | Self::RoleProtected
            | Self::LoginDisabledOnServer
            | Self::MfaRequired
            | Self::MarkerUnreadable
            | Self::MarkerTooLarge
            | Self::NotGrantable
            | Self::NotRevocable
            | Self::MissingAdminOption
            | Self::RoleOwnsObjects
            | Self::DropDeferred
            | Self::SecretNotOurs
            | Self::SecretImmutable
            | Self::LoginRefused
            | Self::EntraRefused
            | Self::Internal => false,
        }
    }

    /// Whether it keeps a server's session from being made, and says nothing of any role: the
    /// administrator's identity, what Entra and the server say of it, the server's CA. Every reason is
    /// listed: a new one has to be decided on.
    fn is_of_set_up(self) -> bool {
        match self {
            Self::UnknownCloud
            | Self::HostNotInCloud
            | Self::IdentityNotAllowed
            | Self::CaInvalid
            | Self::CertificateNotTrusted
            | Self::AdministratorRefused
            | Self::NotAnEntraAdministrator
            | Self::PoolerNotSupported
            | Self::TokenInvalid
            | Self::ServiceAccountNotFound
            | Self::IdentityIncomplete
            | Self::ClientSecretNotFound
            | Self::ClientSecretInvalid
            | Self::ClientCertificateNotFound
            | Self::ClientCertificateInvalid
            | Self::FederatedCredentialMissing
            | Self::ApplicationNotFound
            | Self::TenantNotFound
            | Self::IdentityNotAssigned
            | Self::EntraRefused
            | Self::EntraThrottled
            | Self::EntraUnavailable
            | Self::ApiError => true,
            Self::InvalidSpec
            | Self::TooLarge
            | Self::CatalogTooLarge
            | Self::MfaRequired
            | Self::MarkerUnreadable
            | Self::MarkerTooLarge
            | Self::MarkerChanged
            | Self::ServerNotFound
            | Self::ServerNotReady
            | Self::NamespaceNotAllowed
            | Self::NotAllowedByServer
            | Self::Suspended
            | Self::Connecting
            | Self::ServerUnreachable
            | Self::ServerReadOnly
            | Self::DatabaseError
            | Self::PrincipalNotFound
            | Self::PrincipalNotUnique
            | Self::PrincipalTypeMismatch
            | Self::IdentityInUse
            | Self::ObjectIdMismatch
            | Self::RebindRefused
            | Self::RoleExists
            | Self::RoleOwnedByOther
            | Self::RoleOwnedByOtherCluster
            | Self::RoleProtected
            | Self::LoginDisabledOnServer
            | Self::NotSupportedByVersion
            | Self::ObjectNotFound
            | Self::NotGrantable
            | Self::NotRevocable
            | Self::MissingAdminOption
            | Self::SettingNotAllowed
            | Self::MembershipLoop
            | Self::DatabaseNotAccessible
            | Self::RefusedInDatabase
            | Self::PlanOnly
            | Self::ObjectIdNotFound
            | Self::WaitingForPrincipals
            | Self::RoleOwnsObjects
            | Self::RoleInUse
            | Self::DropDeferred
            | Self::SecretNotOurs
            | Self::SecretOverwritten
            | Self::NamespaceTerminating
            | Self::SecretImmutable
            | Self::TemplateInvalid
            | Self::TokenOfAdministrator
            | Self::TokenOfAnother
            | Self::LoginPending
            | Self::LoginRefused
            | Self::NotLeader
            | Self::Internal => false,
        }
    }
}

/// Something that did not work: class, stable word, and a sentence that says what failed, on which
/// object or server, and what to do. Never contains a token or password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What it asks for.
    pub class: Class,
    /// The stable word.
    pub reason: Reason,
    /// The sentence for people.
    pub message: String,
    /// Not before this time from now, if the other side said so.
    pub retry_after: Option<Duration>,
    /// What the refused identity was proven by: once that has changed, there is a reason to try
    /// again at once.
    pub proof: Option<SourceVersion>,
}

/// A Secret or service account that proves an identity, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceVersion(Box<str>);

impl SourceVersion {
    /// It is not there.
    pub fn absent() -> Self {
        Self("absent".into())
    }

    /// It is there, in this version.
    pub fn of(uid: &str, resource_version: &str) -> Self {
        Self(format!("{uid}/{resource_version}").into())
    }
}

impl Failure {
    /// Whether somebody has to act now. What [heals](Reason::heals) gets some minutes first.
    pub fn needs_action(&self) -> bool {
        matches!(self.class, Class::Invalid | Class::Denied) && !self.reason.heals()
    }

    /// A failure without a wish of the other side for when to try again.
    pub fn new(class: Class, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            class,
            reason,
            message: message.into(),
            retry_after: None,
            proof: None,
        }
    }

    /// The same failure of an identity that was proven by this.
    #[must_use]
    pub fn proven_by(self, source: SourceVersion) -> Self {
        Self {
            proof: Some(source),
            ..self
        }
    }

    /// The same failure as principals of that server are told of it. What keeps the server's session from
    /// being made is its owner's to mend: nothing of the principal is wrong, and it waits.
    #[must_use]
    pub fn to_principals_of(self, server: &ObjectKey) -> Self {
        if self.reason.is_of_set_up() {
            self.of_server(server)
        } else {
            self
        }
    }

    /// The same failure of a server object, as principals are told of it.
    #[must_use]
    pub fn of_server(self, server: &ObjectKey) -> Self {
        let class = match self.class {
            Class::Invalid | Class::Denied => Class::Waiting,
            passing => passing,
        };
        Self {
            class,
            reason: Reason::ServerNotReady,
            message: not_usable(server, &self.reason.to_string(), &self.message),
            // It is the server's identity that this would prove.
            proof: None,
            ..self
        }
    }

    /// The same failure, not to be tried again before `delay`.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self {
            retry_after: Some(delay),
            ..self
        }
    }
}

/// What principals are told of a server object that is refused for that reason.
pub fn not_usable(server: &ObjectKey, reason: &str, message: &str) -> String {
    format!("EntraPostgresServer {server} is not usable ({reason}): {message}")
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator as _;

    use super::*;

    // Red when: to_principals_of() leaves class, reason or proof as they are, or takes a reason that is
    // the principal's own.
    #[test]
    fn what_keeps_a_servers_session_from_being_made_is_the_servers() {
        let server = ObjectKey::new("lab", "server");
        let lost = "service account lab/pg-operator does not exist";
        for (class, told) in [
            (Class::Invalid, Class::Waiting),
            (Class::Denied, Class::Waiting),
            (Class::Transient, Class::Transient),
        ] {
            let failure = Failure::new(class, Reason::ServiceAccountNotFound, lost)
                .proven_by(SourceVersion::absent())
                .to_principals_of(&server);
            let what = (failure.class, failure.reason, &failure.proof);
            assert_eq!(what, (told, Reason::ServerNotReady, &None));
            for words in [
                "EntraPostgresServer lab/server",
                "(ServiceAccountNotFound)",
                lost,
            ] {
                assert!(failure.message.contains(words), "{failure}");
            }
            assert_eq!(failure.clone().to_principals_of(&server), failure);
        }
        for reason in [
            Reason::ServerUnreachable,
            Reason::ServerReadOnly,
            Reason::PrincipalNotFound,
            Reason::NotLeader,
        ] {
            let own = Failure::new(Class::Denied, reason, "own");
            assert_eq!(own.clone().to_principals_of(&server), own);
        }
    }

    #[test]
    fn every_reason_is_in_the_troubleshooting_guide() {
        let guide = include_str!("../../docs/troubleshooting.md");
        for reason in Reason::iter() {
            assert!(
                guide.contains(&format!("| `{reason}` |")),
                "{reason} is missing"
            );
        }
    }
}
