//! The world of a soak: a control plane, an Azure with 200 identities, a server object, 200 principals.
//! It makes and reads them; what becomes of them is not its business.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use uuid::Uuid;

use super::schedule::Pace;
use crate::azure::{Azure, AzureOptions};
use crate::control_plane::ControlPlane;
use crate::control_plane::assets::workspace;
use crate::directory::{Directory, FederatedCredential, ServicePrincipal, ServicePrincipalKind};
use crate::operator::{Cloud, Configuration};
use crate::tokens::SCOPE;

/// Principals, and as many identities.
pub(super) const COUNT: usize = 200;
/// Every fifth has a client secret, the others a federated service account.
const WITH_SECRET: usize = 5;
/// Every tenth token is tried at each renewal.
const VERIFIED: usize = 10;
pub(super) const NAMESPACE: &str = "soak";
/// Where the chart puts the operator.
pub(super) const OPERATOR: &str = "entra-postgres-operator";
const AUDIENCE: &str = "api://AzureADTokenExchange";
const READY: Duration = Duration::from_secs(240);
/// Objects made at the same time.
const AT_ONCE: usize = 4;

pub(super) struct World {
    pub(super) plane: ControlPlane,
    pub(super) azure: Azure,
    pub(super) client: Client,
    /// Whom the operator is.
    pub(super) kubeconfig: PathBuf,
}

fn name(n: usize) -> String {
    format!("app-{n:03}")
}

fn id(head: &str, n: usize) -> Uuid {
    Uuid::parse_str(&format!("{head}-0000-4000-9000-{n:012}")).unwrap_or_default()
}

/// The client secret of an identity: nothing else in the world looks like it.
fn client_secret(n: usize) -> String {
    format!("soak~client~secret~{}", id("feedface", n).simple())
}

/// All client secrets.
pub(super) fn client_secrets() -> Vec<String> {
    (0..COUNT)
        .filter(|n| has_secret(*n))
        .map(client_secret)
        .collect()
}

fn has_secret(n: usize) -> bool {
    n.is_multiple_of(WITH_SECRET)
}

fn directory(pace: Pace) -> Directory {
    let mut directory = Directory::default();
    let administrator = directory
        .service_principals
        .iter_mut()
        .flat_map(|service| &mut service.federated_credentials);
    for credential in administrator {
        credential.subject = credential.subject.replace(
            "serviceaccount:lab:",
            &format!("serviceaccount:{NAMESPACE}:"),
        );
    }
    directory.service_principals.extend((0..COUNT).map(|n| {
        ServicePrincipal {
            name: name(n),
            object_id: id("5e41ce00", n),
            client_id: id("c11e4700", n),
            kind: if has_secret(n) {
                ServicePrincipalKind::Application
            } else {
                ServicePrincipalKind::ManagedIdentity
            },
            resource_id: None,
            system_assigned: false,
            token_lifetime_seconds: Some(pace.life.as_secs()),
            secrets: has_secret(n)
                .then(|| client_secret(n))
                .into_iter()
                .collect(),
            certificates: Vec::new(),
            federated_credentials: (!has_secret(n)).then(|| federated(n)).into_iter().collect(),
            imds: false,
        }
    }));
    directory
}

fn federated(n: usize) -> FederatedCredential {
    FederatedCredential {
        issuer: "cluster".to_owned(),
        subject: format!("system:serviceaccount:{NAMESPACE}:{}", name(n)),
        audience: AUDIENCE.to_owned(),
    }
}

impl World {
    /// Starts everything but the operator.
    pub(super) async fn start(dir: &Path, pace: Pace) -> Result<Self> {
        crate::crypto();
        let options = AzureOptions {
            directory: directory(pace),
            ..AzureOptions::default()
        };
        let (plane, azure) = tokio::try_join!(
            ControlPlane::start(dir.join("control-plane")),
            Azure::start(options)
        )?;
        azure.set_cluster_issuer(plane.issuer(), plane.jwks().await?);
        for namespace in [OPERATOR, NAMESPACE] {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            plane.apply_text(&object.to_string()).await?;
        }
        plane.apply_path(&workspace().join("crds")).await?;
        plane.apply_path(&workspace().join("deploy/base")).await?;
        let client = plane.kube_client().await?;
        let kubeconfig = plane.service_account_kubeconfig(OPERATOR, OPERATOR).await?;
        let world = Self {
            plane,
            azure,
            client,
            kubeconfig,
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
        let ca = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "ca", "namespace": NAMESPACE},
            "data": {"ca.crt": self.azure.ca_pem()},
        });
        let tenant = directory.tenant_id;
        let mut objects = vec![
            ca,
            account("pg-operator", administrator.client_id, tenant),
            self.server()?,
        ];
        for n in 0..COUNT {
            objects.push(if has_secret(n) {
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("client-{n:03}"), "namespace": NAMESPACE},
                       "stringData": {"secret": client_secret(n)}})
            } else {
                account(&name(n), id("c11e4700", n), tenant)
            });
        }
        objects.extend((0..COUNT).map(|n| principal(n, tenant)));
        futures::stream::iter(objects)
            .map(|object| self.create(object))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    async fn create(&self, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("an object without a kind")?;
        let kind = GroupVersionKind::try_from(&types)?;
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &ApiResource::from_gvk(&kind),
        );
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    fn server(&self) -> Result<Value> {
        Ok(json!({
            "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
            "metadata": {"name": "server", "namespace": NAMESPACE},
            "spec": {
                "host": "localhost", "port": self.azure.gateway()?.port(), "cloud": "Lab", "resyncInterval": "10s",
                "tls": {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}},
                "admins": [{"roleName": "pg-operators", "identity":
                    {"workloadIdentity": {"serviceAccountRef": {"name": "pg-operator"}}}}],
                "tenants": [{
                    "namespaces": {"names": [NAMESPACE]}, "roleNames": ["app-*"],
                    "principalTypes": ["ServicePrincipal", "ManagedIdentity"],
                }],
            },
        }))
    }

    /// All objects of a kind in the namespace.
    pub(super) async fn list(&self, kind: &str) -> Result<Vec<DynamicObject>> {
        let kind = GroupVersionKind::gvk("entrapostgres.io", "v1alpha1", kind);
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &ApiResource::from_gvk(&kind),
        );
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// The Secrets that the operator writes.
    pub(super) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Waits until all principals are Ready.
    pub(super) async fn ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let objects = self.list("EntraPostgresPrincipal").await?;
            let waiting: Vec<_> = objects.iter().filter(|object| !is_ready(object)).collect();
            if objects.len() == COUNT && waiting.is_empty() {
                return Ok(());
            }
            if start.elapsed() > READY {
                let status = waiting.first().and_then(|object| object.data.get("status"));
                bail!(
                    "{} of {} principals are not Ready after {READY:?}, the first: {status:?}",
                    waiting.len(),
                    objects.len()
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn is_ready(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions");
    let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    conditions.any(|condition| {
        condition.get("type").is_some_and(|type_| type_ == "Ready")
            && condition
                .get("status")
                .is_some_and(|status| status == "True")
    })
}

fn account(name: &str, client: Uuid, tenant: Uuid) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {
        "azure.workload.identity/client-id": client, "azure.workload.identity/tenant-id": tenant,
    }}})
}

fn principal(n: usize, tenant: Uuid) -> Value {
    let (kind, identity) = if has_secret(n) {
        let reference = json!({"name": format!("client-{n:03}"), "key": "secret"});
        (
            "ServicePrincipal",
            json!({"clientSecret": {"tenantId": tenant, "clientId": id("c11e4700", n), "secretRef": reference}}),
        )
    } else {
        (
            "ManagedIdentity",
            json!({"workloadIdentity": {"serviceAccountRef": {"name": name(n)}}}),
        )
    };
    let verify = if n.is_multiple_of(VERIFIED) {
        "Always"
    } else {
        "FirstIssue"
    };
    json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
        "metadata": {"name": name(n), "namespace": NAMESPACE},
        "spec": {
            "serverRef": {"name": "server"}, "roleName": name(n),
            "principal": {"type": kind},
            "token": {"identity": identity, "verifyLogin": verify},
        },
    })
}
