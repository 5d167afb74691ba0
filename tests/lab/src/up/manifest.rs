//! What connects the operator to this lab: its configuration, and the manifest of the lab's server.
//! Must not apply anything.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::azure::AzurePart;
use super::facts::{EntraFacts, PostgresFacts};
use crate::directory::{CLUSTER_ISSUER, Directory, Principal, ServicePrincipal};
use crate::operator::{Cloud, Configuration, ManagedIdentities};

/// The name of the lab's cloud in objects and configuration.
pub const CLOUD: &str = "Lab";
/// The namespace of the server object, and its name.
pub const NAMESPACE: &str = "lab";
pub const SERVER: &str = "lab";

const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Short, so that one who drops a role by hand does not wait long to see it back.
const RESYNC: &str = "10s";

/// The configuration file of the operator: the lab as a cloud.
pub(super) fn configuration(azure: &AzurePart) -> Configuration {
    let EntraFacts {
        authority,
        scope,
        ca_file,
        tenant_id: _,
        api: _,
    } = azure.entra();
    let PostgresFacts { host, .. } = azure.postgres();
    let directory = azure.directory();
    Configuration {
        clouds: vec![Cloud {
            name: CLOUD.to_owned(),
            authority,
            scope,
            federated_audience: AUDIENCE.to_owned(),
            server_suffixes: vec![host],
            ca_file: Some(ca_file),
            imds_endpoint: azure.imds(),
        }],
        managed_identities: managed_identities(&directory).into_iter().collect(),
        ..Configuration::default()
    }
}

/// What the machine has at IMDS; an entry without any identity is no valid configuration.
fn managed_identities(directory: &Directory) -> Option<ManagedIdentities> {
    let on_machine: Vec<_> = directory
        .service_principals
        .iter()
        .filter(|s| s.imds)
        .collect();
    (!on_machine.is_empty()).then(|| ManagedIdentities {
        namespaces: vec![NAMESPACE.to_owned()],
        client_ids: on_machine.iter().map(|s| s.client_id.to_string()).collect(),
        object_ids: on_machine.iter().map(|s| s.object_id.to_string()).collect(),
        resource_ids: on_machine
            .iter()
            .filter_map(|s| s.resource_id.clone())
            .collect(),
        system_assigned: on_machine.iter().any(|s| s.system_assigned),
    })
}

/// The server object and all that it refers to, as YAML documents.
pub(super) fn server(azure: &AzurePart) -> Result<String> {
    let directory = azure.directory();
    let PostgresFacts { host, port, .. } = azure.postgres();
    let mut documents = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "lab-ca", "namespace": NAMESPACE},
            "data": {"ca.crt": azure.ca_pem()}}),
    ];
    let admins = administrators(&directory, &mut documents)?;
    let types = ["User", "Group", "ServicePrincipal", "ManagedIdentity"];
    // Names in memberOf are exact: those that examples and people who try things out may want.
    let member_of = [
        "Prod DB Readonly",
        "pg_monitor",
        "pg_read_all_data",
        "pg_write_all_data",
        "readers",
        "writers",
        "owners",
    ];
    let privileges = [
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
        "MAINTAIN",
        "USAGE",
        "CREATE",
        "CONNECT",
        "TEMPORARY",
        "EXECUTE",
    ];
    documents.push(json!({
        "apiVersion": "entrapostgres.io/v1alpha1",
        "kind": "EntraPostgresServer",
        "metadata": {"name": SERVER, "namespace": NAMESPACE},
        "spec": {
            "host": host,
            "port": port,
            "cloud": CLOUD,
            "tls": {"caConfigMapRef": {"name": "lab-ca", "key": "ca.crt"}},
            "admins": admins,
            "tenants": [{
                "namespaces": {"selector": {}},
                "principalTypes": types,
                "roleNames": ["*"],
                "admin": true,
                "memberOf": member_of.map(|role| json!({"role": role, "admin": true})),
                "grants": [
                    {"database": "*", "privileges": privileges},
                    {"database": "*", "schemas": ["*"], "privileges": privileges},
                ],
                "attributes": ["CreateDb", "CreateRole"],
                "adoption": ["Refuse", "SameIdentity", "Any"],
                "deletionPolicies": ["Retain", "Drop", "Reassign"],
            }],
            "resyncInterval": RESYNC,
        },
    }));
    let mut text = "# The lab's server, ready to apply. Made anew by each `make up`.\n".to_owned();
    for document in documents {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&document)?);
    }
    Ok(text)
}

/// The identities of the directory that are administrators and can be used from namespace `lab`.
fn administrators(directory: &Directory, documents: &mut Vec<Value>) -> Result<Vec<Value>> {
    let mut admins = Vec::new();
    for name in directory.administrators.iter().take(5) {
        let mut candidates = directory.service_principals.iter().filter(|service| {
            directory.by_name(name).any(|found| match found {
                Principal::Group(group) => directory.is_member(group.object_id, service.object_id),
                other => other.object_id() == service.object_id,
            })
        });
        let usable = candidates.find_map(|service| identity(directory, service));
        if let Some((identity, document)) = usable {
            documents.extend(document);
            admins.push(json!({"roleName": name, "identity": identity}));
        }
    }
    if admins.is_empty() {
        bail!(
            "no administrator of the directory can be the operator's: one of {:?}, or a member of \
             such a group, needs a federated credential with issuer `cluster` and a subject \
             `system:serviceaccount:{NAMESPACE}:NAME`, or a secret, or `imds: true`",
            directory.administrators
        );
    }
    Ok(admins)
}

/// How the identity is written in the server object, and the object that it refers to.
fn identity(directory: &Directory, service: &ServicePrincipal) -> Option<(Value, Option<Value>)> {
    let subject = format!("system:serviceaccount:{NAMESPACE}:");
    let (tenant, client) = (
        directory.tenant_id.to_string(),
        service.client_id.to_string(),
    );
    let mut federated = service.federated_credentials.iter();
    let account = federated.find_map(|credential| {
        let fits = credential.issuer == CLUSTER_ISSUER && credential.audience == AUDIENCE;
        credential.subject.strip_prefix(&subject).filter(|_| fits)
    });
    if let Some(account) = account {
        let document = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": account, "namespace": NAMESPACE, "annotations": {
            "azure.workload.identity/client-id": client,
            "azure.workload.identity/tenant-id": tenant,
        }}});
        let identity = json!({"workloadIdentity": {"serviceAccountRef": {"name": account}}});
        return Some((identity, Some(document)));
    }
    if let Some(secret) = service.secrets.first() {
        let name = format!("admin-{client}");
        let document = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": {"clientSecret": secret}});
        let secret_ref = json!({"name": name, "key": "clientSecret"});
        let identity = json!({"clientSecret": {
            "tenantId": tenant, "clientId": client, "secretRef": secret_ref}});
        return Some((identity, Some(document)));
    }
    service
        .imds
        .then(|| (json!({"managedIdentity": {"clientId": client}}), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_directory_has_an_administrator_by_workload_identity() {
        let mut documents = Vec::new();
        let admins = administrators(&Directory::default(), &mut documents).unwrap();
        let account = json!({"workloadIdentity": {"serviceAccountRef": {"name": "pg-operator"}}});
        assert_eq!(
            admins,
            [json!({"roleName": "pg-operators", "identity": account})]
        );
        assert_eq!(documents.len(), 1);
        assert_eq!(documents[0]["metadata"]["name"], "pg-operator");
    }

    #[test]
    fn the_operator_gets_the_identities_at_imds_and_no_entry_where_there_are_none() {
        let mut directory = Directory::default();
        let found = managed_identities(&directory).unwrap();
        assert_eq!(found.client_ids.len(), 1);
        assert!(found.system_assigned);
        directory.service_principals.retain(|service| !service.imds);
        assert!(managed_identities(&directory).is_none());
    }

    #[test]
    fn administrator_with_a_secret_gets_a_secret_object() {
        let text = "
            tenantId: 11111111-1111-4111-8111-111111111111
            servicePrincipals:
            - {name: app, objectId: 5e41ce00-0000-4000-8000-000000000001, kind: Application,
               clientId: c11e4700-0000-4000-8000-000000000001, secrets: [hidden]}
            administrators: [app]";
        let mut documents = Vec::new();
        let admins = administrators(&Directory::parse(text).unwrap(), &mut documents).unwrap();
        assert_eq!(
            admins[0]["identity"]["clientSecret"]["secretRef"]["key"],
            "clientSecret"
        );
        assert_eq!(documents[0]["stringData"]["clientSecret"], "hidden");
    }

    #[test]
    fn directory_without_a_usable_administrator_says_what_is_missing() {
        let text = "
            tenantId: 11111111-1111-4111-8111-111111111111
            users: [{name: dba@x, objectId: a11ce000-0000-4000-8000-000000000001}]
            administrators: [dba@x]";
        let refused = administrators(&Directory::parse(text).unwrap(), &mut Vec::new());
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("federated credential")
        );
    }
}
