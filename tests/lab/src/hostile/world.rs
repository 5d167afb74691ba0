//! The world of a hostile run: a control plane, an Azure with two servers, their objects.
//! It makes and reads them; what becomes of them is not its business.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::attacks::Attack;
use super::identities::{self, ON_APART, ON_SHARED, victim};
use crate::azure::{Azure, AzureOptions};
use crate::control_plane::ControlPlane;
use crate::control_plane::assets::workspace;
use crate::faults::Fault;
use crate::gateway::Gateway;
use crate::operator::{Cloud, Configuration};
use crate::postgres::{Postgres, PostgresOptions};
use crate::tokens::SCOPE;

/// Where the chart puts the operator.
pub(super) const OPERATOR: &str = "entra-postgres-operator";
/// Where the servers' objects are.
pub(super) const PLATFORM: &str = "platform";
pub(super) const VICTIMS: &str = "victims";
/// The server that victims share with attackers, and the one that they do not.
pub(super) const SHARED: &str = "shared";
pub(super) const APART: &str = "apart";
pub(super) const AUDIENCE: &str = "api://AzureADTokenExchange";
pub(super) const PRINCIPAL: &str = "EntraPostgresPrincipal";
pub(super) const SERVER: &str = "EntraPostgresServer";

pub(super) struct World {
    _plane: ControlPlane,
    pub(super) azure: Azure,
    pub(super) client: Client,
    /// Whom the operator is.
    pub(super) kubeconfig: PathBuf,
    pub(super) tenant: String,
    apart: (Gateway, Postgres),
    faults: Mutex<Vec<Fault>>,
}

impl World {
    /// Starts everything but the operator.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        crate::crypto();
        let directory = identities::directory()?;
        let tenant = directory.tenant_id.to_string();
        let options = AzureOptions {
            directory: directory.clone(),
            ..AzureOptions::default()
        };
        let (plane, azure, postgres) = tokio::try_join!(
            ControlPlane::start(dir.join("control-plane")),
            Azure::start(options),
            Postgres::start(PostgresOptions::default(), &directory)
        )?;
        azure.set_cluster_issuer(plane.issuer(), plane.jwks().await?);
        let tls = azure.authority().server_config()?;
        let listen = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let state = std::sync::Arc::clone(azure.state());
        let gateway = Gateway::start(state, &postgres, tls, listen).await?;
        let evil = Attack::ALL.map(Attack::namespace);
        let namespaces = [OPERATOR, PLATFORM, VICTIMS].map(str::to_owned);
        for namespace in namespaces.into_iter().chain(evil) {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            plane.apply_text(&object.to_string()).await?;
        }
        plane.apply_path(&workspace().join("crds")).await?;
        plane.apply_path(&workspace().join("deploy/base")).await?;
        let client = plane.kube_client().await?;
        let kubeconfig = plane.service_account_kubeconfig(OPERATOR, OPERATOR).await?;
        let world = Self {
            _plane: plane,
            azure,
            client,
            kubeconfig,
            tenant,
            apart: (gateway, postgres),
            faults: Mutex::default(),
        };
        world.furnish().await?;
        Ok(world)
    }

    /// The operator's configuration file: the lab is its only cloud.
    pub(super) fn configuration(&self) -> Result<String> {
        let azure = &self.azure;
        let configuration = Configuration {
            clouds: vec![Cloud {
                name: "Lab".to_owned(),
                authority: azure.authority_url(),
                scope: SCOPE.to_owned(),
                federated_audience: AUDIENCE.to_owned(),
                server_suffixes: vec!["localhost".to_owned()],
                ca_file: Some(azure.ca_file().to_owned()),
                imds_endpoint: azure.imds_url(),
            }],
            ..Configuration::default()
        };
        configuration.yaml()
    }

    async fn furnish(&self) -> Result<()> {
        let directory = self.azure.state().directory();
        let administrator = directory
            .service_principals
            .iter()
            .find(|service| service.name == OPERATOR)
            .context("the lab's directory has no identity for the operator")?;
        let client = administrator.client_id.to_string();
        self.create(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": PLATFORM},
            "data": {"ca.crt": self.azure.ca_pem()},
        }))
        .await?;
        self.create(self.account(PLATFORM, "pg-operator", &client))
            .await?;
        self.create(Self::server(SHARED, self.azure.gateway()?.port()))
            .await?;
        self.create(Self::server(APART, self.apart.0.port()))
            .await?;
        for n in 0..ON_SHARED + ON_APART {
            let server = if n < ON_SHARED { SHARED } else { APART };
            self.create_victim(&victim(n), server).await?;
        }
        Ok(())
    }

    /// A victim with its service account.
    pub(super) async fn create_victim(&self, name: &str, server: &str) -> Result<()> {
        let client = identities::victim_client(name);
        self.create(self.account(VICTIMS, name, &client)).await?;
        let mut object = principal(VICTIMS, name, server, &json!({"type": "ManagedIdentity"}));
        if let Some(spec) = object.get_mut("spec") {
            spec["token"] = json!({"identity": by_account(name)});
        }
        self.create(object).await
    }

    pub(super) fn account(&self, namespace: &str, name: &str, client: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace, "annotations": {
                "azure.workload.identity/client-id": client,
                "azure.workload.identity/tenant-id": self.tenant,
        }}})
    }

    fn server(name: &str, port: u16) -> Value {
        let table = ["SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE", "USAGE"];
        let grants = json!([
            {"database": "*", "privileges": ["CONNECT", "TEMPORARY", "CREATE"]},
            {"database": "*", "schemas": ["*"], "privileges": table},
        ]);
        let types = ["User", "Group", "ServicePrincipal", "ManagedIdentity"];
        let mut tenants = vec![json!({
            "namespaces": {"names": [VICTIMS]}, "roleNames": ["v-*", "n-*"],
            "principalTypes": types, "grants": grants,
        })];
        if name == SHARED {
            tenants.push(json!({
                "namespaces": {"names": Attack::ALL.map(Attack::namespace)},
                "roleNames": ["evil-*"], "principalTypes": types, "grants": grants,
                "adoption": ["SameIdentity"],
            }));
        }
        json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": SERVER,
            "metadata": {"name": name, "namespace": PLATFORM},
            "spec": {
                "host": "localhost", "port": port, "cloud": "Lab", "resyncInterval": "10s",
                "tls": {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}},
                "admins": [{"roleName": "pg-operators", "identity": by_account("pg-operator")}],
                "tenants": tenants,
            },
        })
    }

    /// Makes an object.
    pub(super) async fn create(&self, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("an object without a kind")?;
        let kind = GroupVersionKind::try_from(&types)?;
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &namespace,
            &ApiResource::from_gvk(&kind),
        );
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// Objects of one of our kinds in a namespace.
    pub(super) fn objects(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("entrapostgres.io", "v1alpha1", kind);
        Api::namespaced_with(
            self.client.clone(),
            namespace,
            &ApiResource::from_gvk(&kind),
        )
    }

    /// How many of them there are, and how many the operator has looked at.
    pub(super) async fn seen(&self, kind: &str, namespace: &str) -> Result<(usize, usize)> {
        let objects = self.objects(kind, namespace);
        let objects = objects.list(&ListParams::default()).await?.items;
        let seen = |object: &&DynamicObject| object.data.pointer("/status/conditions").is_some();
        Ok((objects.len(), objects.iter().filter(seen).count()))
    }

    /// Merge patch.
    pub(super) async fn patch(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<DynamicObject> {
        let objects = self.objects(PRINCIPAL, namespace);
        let params = PatchParams::default();
        Ok(objects.patch(name, &params, &Patch::Merge(patch)).await?)
    }

    /// A session on the shared server as any role.
    pub(super) async fn sql_as(
        &self,
        role: &str,
        database: &str,
    ) -> Result<tokio_postgres::Client> {
        self.azure.postgres().await?.connect(role, database).await
    }

    /// The first column of the first row, as a server's superuser sees it.
    pub(super) async fn ask(&self, server: &str, database: &str, sql: &str) -> Result<String> {
        let client = if server == APART {
            let superuser = crate::postgres::SUPERUSER;
            self.apart.1.connect(superuser, database).await?
        } else {
            self.sql_as(crate::postgres::SUPERUSER, database).await?
        };
        let messages = client.simple_query(sql).await?;
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row.context("no row")?.to_owned())
    }

    /// Further faults; those that are there stay.
    pub(super) async fn add_faults(&self, faults: Value) -> Result<()> {
        let further: Vec<Fault> = serde_json::from_value(faults)?;
        let all = {
            let mut all = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(further);
            all.clone()
        };
        self.azure.set_faults(all).await
    }

    /// How often a client has asked Entra.
    pub(super) fn requests(&self, client: &str) -> u64 {
        let stats = self.azure.state().stats.snapshot();
        let by_client = &stats.token_requests.by_client;
        by_client.get(client).copied().unwrap_or_default()
    }
}

/// The identity of a federated service account.
pub(super) fn by_account(name: &str) -> Value {
    json!({"workloadIdentity": {"serviceAccountRef": {"name": name}}})
}

/// A principal whose role has its name, and nothing else.
pub(super) fn principal(namespace: &str, name: &str, server: &str, who: &Value) -> Value {
    json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": PRINCIPAL,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serverRef": {"name": server, "namespace": PLATFORM},
            "roleName": name, "principal": who,
        },
    })
}
