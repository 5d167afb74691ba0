//! The tenant's directory: who exists in the lab's Entra, and who administers its PostgreSQL server.
//! Pure data and look-ups; it knows no file, no server and no token.

use std::collections::HashSet;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The word for the lab's own cluster as issuer of a federated credential.
pub const CLUSTER_ISSUER: &str = "cluster";

/// Everything the lab's Entra knows. One YAML or JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    pub tenant_id: Uuid,
    #[serde(default)]
    pub users: Vec<User>,
    #[serde(default)]
    pub groups: Vec<Group>,
    #[serde(default)]
    pub service_principals: Vec<ServicePrincipal>,
    /// Names of the Entra administrators of the PostgreSQL server.
    #[serde(default)]
    pub administrators: Vec<String>,
    /// Databases of the PostgreSQL server beside `postgres`.
    #[serde(default)]
    pub databases: Vec<String>,
}

/// A person; the name is the user principal name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    pub name: String,
    pub object_id: Uuid,
}

/// A group of users, service principals and groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub object_id: Uuid,
    #[serde(default)]
    pub members: Vec<Uuid>,
}

/// An application's or managed identity's object in the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePrincipal {
    pub name: String,
    pub object_id: Uuid,
    pub client_id: Uuid,
    pub kind: ServicePrincipalKind,
    /// The Azure resource id of a managed identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// The identity of the machine itself: IMDS gives it when none is named.
    #[serde(default, skip_serializing_if = "is_false")]
    pub system_assigned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_lifetime_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// PEM blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub federated_credentials: Vec<FederatedCredential>,
    /// Whether the lab's machine may have its tokens from IMDS.
    #[serde(default, skip_serializing_if = "is_false")]
    pub imds: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServicePrincipalKind {
    Application,
    ManagedIdentity,
}

/// Whose assertions are accepted in place of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FederatedCredential {
    /// A URL, or `cluster` for the lab's own.
    pub issuer: String,
    pub subject: String,
    pub audience: String,
}

/// One entry of the directory, whatever its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal<'a> {
    User(&'a User),
    Group(&'a Group),
    Service(&'a ServicePrincipal),
}

impl<'a> Principal<'a> {
    pub fn name(self) -> &'a str {
        match self {
            Self::User(user) => &user.name,
            Self::Group(group) => &group.name,
            Self::Service(service) => &service.name,
        }
    }

    pub fn object_id(self) -> Uuid {
        match self {
            Self::User(user) => user.object_id,
            Self::Group(group) => group.object_id,
            Self::Service(service) => service.object_id,
        }
    }

    /// The word that pgaadauth uses: `user`, `group` or `service`.
    pub fn type_word(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Group(_) => "group",
            Self::Service(_) => "service",
        }
    }
}

impl Directory {
    /// Reads YAML or JSON and checks it.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        // JSON is YAML too, but a long one is read many times faster as what it is.
        let directory: anyhow::Result<Self> = match serde_json::from_str(text) {
            Err(error) if error.is_data() => Err(error.into()),
            Ok(directory) => Ok(directory),
            Err(_) => serde_yaml::from_str(text).map_err(anyhow::Error::from),
        };
        let directory = directory.context("the directory is not as its schema says")?;
        directory.validate()?;
        Ok(directory)
    }

    /// What the types cannot say: unique ids, administrators that exist.
    pub fn validate(&self) -> anyhow::Result<()> {
        let mut ids = HashSet::new();
        for principal in self.principals() {
            ensure!(
                !principal.name().is_empty(),
                "{} has no name",
                principal.object_id()
            );
            ensure!(
                ids.insert(principal.object_id()),
                "object id {} of `{}` is given twice",
                principal.object_id(),
                principal.name()
            );
        }
        self.validate_service_principals()?;
        for group in &self.groups {
            if let Some(stranger) = group.members.iter().find(|member| !ids.contains(*member)) {
                bail!(
                    "group `{}` has member {stranger}, which is not in the directory",
                    group.name
                );
            }
        }
        for name in &self.administrators {
            let found = self.by_name(name).count();
            ensure!(
                found == 1,
                "administrator `{name}` names {found} entries of the directory; it must name one"
            );
        }
        let mut databases = HashSet::new();
        for name in &self.databases {
            ensure!(
                (1..=63).contains(&name.len()),
                "database `{name}` must have 1 to 63 bytes"
            );
            ensure!(databases.insert(name), "database `{name}` is given twice");
        }
        Ok(())
    }

    fn validate_service_principals(&self) -> anyhow::Result<()> {
        let mut clients = HashSet::new();
        for service in &self.service_principals {
            let ServicePrincipal {
                name,
                client_id,
                kind,
                ..
            } = service;
            ensure!(
                clients.insert(client_id),
                "client id {client_id} of `{name}` is given twice"
            );
            let managed = *kind == ServicePrincipalKind::ManagedIdentity;
            ensure!(
                managed || !service.imds,
                "`{name}` is no ManagedIdentity, so IMDS has no token for it"
            );
            ensure!(
                managed || !service.system_assigned,
                "`{name}` is no ManagedIdentity, so it cannot be systemAssigned"
            );
            ensure!(
                !managed || (service.secrets.is_empty() && service.certificates.is_empty()),
                "`{name}` is a ManagedIdentity: it has no secrets and no certificates"
            );
            ensure!(
                service.token_lifetime_seconds != Some(0),
                "`{name}`: tokenLifetimeSeconds must be above 0"
            );
            for pem in &service.certificates {
                x509_parser::pem::parse_x509_pem(pem.as_bytes())
                    .ok()
                    .filter(|(_, block)| block.parse_x509().is_ok())
                    .with_context(|| {
                        format!("`{name}`: a certificate is not PEM of an X.509 certificate")
                    })?;
            }
        }
        let system = self
            .service_principals
            .iter()
            .filter(|s| s.system_assigned && s.imds)
            .count();
        ensure!(
            system <= 1,
            "only one systemAssigned identity can be that of the lab's machine"
        );
        Ok(())
    }

    pub fn principals(&self) -> impl Iterator<Item = Principal<'_>> {
        let users = self.users.iter().map(Principal::User);
        let groups = self.groups.iter().map(Principal::Group);
        let services = self.service_principals.iter().map(Principal::Service);
        users.chain(groups).chain(services)
    }

    pub fn by_object_id(&self, object_id: Uuid) -> Option<Principal<'_>> {
        self.principals()
            .find(|principal| principal.object_id() == object_id)
    }

    /// All entries of that exact name: names may repeat.
    pub fn by_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Principal<'a>> {
        self.principals()
            .filter(move |principal| principal.name() == name)
    }

    pub fn by_client_id(&self, client_id: Uuid) -> Option<&ServicePrincipal> {
        self.service_principals
            .iter()
            .find(|service| service.client_id == client_id)
    }

    /// Whether a principal is in a group, directly or through groups in it.
    pub fn is_member(&self, group: Uuid, object_id: Uuid) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![group];
        while let Some(next) = open.pop() {
            let Some(Principal::Group(found)) = self.by_object_id(next) else {
                continue;
            };
            if found.members.contains(&object_id) {
                return true;
            }
            open.extend(
                found
                    .members
                    .iter()
                    .copied()
                    .filter(|member| seen.insert(*member)),
            );
        }
        false
    }

    /// The administrators as entries.
    pub fn administrators(&self) -> impl Iterator<Item = Principal<'_>> {
        self.administrators
            .iter()
            .filter_map(|name| self.by_name(name).next())
    }
}

impl Default for Directory {
    /// The tenant of the demo and of `deploy/examples/`.
    fn default() -> Self {
        Self::parse(include_str!("directory.yaml")).unwrap_or_else(|error| {
            unreachable!("the built-in directory is checked by a test: {error:#}")
        })
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_directory_is_valid_and_survives_a_round_trip() {
        let directory = Directory::default();
        let text = serde_json::to_string(&directory).unwrap();
        assert_eq!(Directory::parse(&text).unwrap(), directory);
        assert_eq!(directory.databases, ["orders"]);
        assert_eq!(
            directory.administrators().count(),
            directory.administrators.len()
        );
    }

    #[test]
    fn unknown_fields_wrong_ids_and_doubles_are_told() {
        let head = "tenantId: 00000000-0000-4000-8000-000000000000\n";
        let says = |text: &str| {
            format!(
                "{:#}",
                Directory::parse(&format!("{head}{text}")).unwrap_err()
            )
        };
        assert!(says("user: []").contains("unknown field `user`"));
        assert!(says("users: [{name: a, objectId: x}]").contains("users[0].objectId"));
        let id = "00000000-0000-4000-8000-000000000001";
        let twice = format!("users: [{{name: a, objectId: {id}}}, {{name: a, objectId: {id}}}]");
        assert!(says(&twice).contains("given twice"));
        assert!(says("administrators: [nobody]").contains("`nobody` names 0 entries"));
    }

    #[test]
    fn membership_goes_through_groups_and_ends_in_circles() {
        let id = |n: u8| Uuid::from_u128(u128::from(n));
        let group = |n: u8, members: &[u8]| Group {
            name: "g".into(),
            object_id: id(n),
            members: members.iter().map(|m| id(*m)).collect(),
        };
        let directory = Directory {
            groups: vec![group(1, &[2]), group(2, &[1, 3])],
            users: vec![User {
                name: "u".into(),
                object_id: id(3),
            }],
            ..Directory::default()
        };
        assert!(directory.is_member(id(1), id(3)));
        assert!(!directory.is_member(id(1), id(9)));
    }
}
