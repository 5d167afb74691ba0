//! A real API server takes what the chart makes, and holds the operator to it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt as _};
use lab::control_plane::assets::workspace;
use lab::control_plane::{ControlPlane, apply_path, client_of, parse_manifests};
use lab::process::until;

use crate::chart::{ALL, AUDIENCE, NAME, helm, kind, render};

const SOON: Duration = Duration::from_secs(20);

/// As `kubectl apply --server-side --dry-run=server --validate=strict`.
async fn accepts(client: &Client, objects: &[DynamicObject]) {
    let mut params = PatchParams::apply("test").force().dry_run();
    params.field_validation = Some(kube::api::ValidationDirective::Strict);
    for object in objects {
        let gvk = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        // The Prometheus operator is not here.
        if gvk.group == "monitoring.coreos.com" {
            continue;
        }
        let (resource, capabilities) = discovery::pinned_kind(client, &gvk).await.unwrap();
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(client.clone(), &resource),
            Scope::Namespaced => {
                Api::namespaced_with(client.clone(), &object.namespace().unwrap(), &resource)
            }
        };
        let name = object.name_any();
        let answer = api.patch(&name, &params, &Patch::Apply(object)).await;
        answer.unwrap_or_else(|error| panic!("{} {name}: {error}", kind(object)));
    }
}

async fn may(client: &Client, namespace: &str, verb: &str, resource: &str, name: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let group = if resource.starts_with("entrapostgres") {
        "entrapostgres.io"
    } else {
        ""
    };
    let asked = ResourceAttributes {
        namespace: Some(namespace.to_owned()),
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: Some(subresource.to_owned()),
        name: Some(name.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(asked),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    api.create(&PostParams::default(), &review)
        .await
        .unwrap()
        .status
        .unwrap()
        .allowed
}

async fn ask_token(client: &Client, audiences: &[&str]) -> Result<(), kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "orders");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audiences
                .iter()
                .map(|&audience| audience.to_owned())
                .collect(),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    accounts
        .create_token_request("orders-api", &PostParams::default(), &request)
        .await
        .map(|_| ())
}

/// Without its data, as a dry run: nothing is left of it.
async fn make_secret(client: &Client, name: &str, type_: Option<&str>) -> Result<(), kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "orders");
    let account = (
        "kubernetes.io/service-account.name".to_owned(),
        "orders-api".to_owned(),
    );
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([account])),
            ..ObjectMeta::default()
        },
        type_: type_.map(str::to_owned),
        ..Secret::default()
    };
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    secrets.create(&dry_run, &secret).await.map(|_| ())
}

#[tokio::test]
async fn api_server_takes_every_manifest_strictly() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path().join("plane")).await.unwrap();
    let client = plane.kube_client().await.unwrap();
    let deploy = workspace().join("deploy");
    plane.apply_path(&deploy.join("base")).await.unwrap();
    plane
        .apply_path(&deploy.join("examples/0-namespace.yaml"))
        .await
        .unwrap();
    plane
        .apply_path(&deploy.join("examples/azure"))
        .await
        .unwrap();
    for folder in ["base", "namespaced", "examples", "examples/azure"] {
        for (name, text) in yaml_files(&deploy.join(folder)) {
            assert!(!text.is_empty(), "{name}");
            accepts(&client, &parse_manifests(&text).unwrap()).await;
        }
    }
    accepts(&client, &render(ALL)).await;
    accepts(&client, &render(&["metrics.podMonitor.enabled=true"])).await;

    // Who may view a namespace sees the kinds there; who may edit it declares principals.
    let roles: Api<ClusterRole> = Api::all(client);
    for (role, verb, resource) in [
        ("view", "list", "entrapostgresservers"),
        ("edit", "create", "entrapostgresprincipals"),
        ("admin", "create", "entrapostgresservers"),
    ] {
        let aggregated = async || {
            let found = roles.get(role).await?.rules.unwrap_or_default();
            Ok(found.iter().any(|rule| {
                rule.verbs.iter().any(|each| each == verb)
                    && rule.resources.iter().flatten().any(|each| each == resource)
            }))
        };
        until(&format!("{role} may {verb} {resource}"), SOON, aggregated)
            .await
            .unwrap();
    }
    plane.stop().await.unwrap();
}

fn yaml_files(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "yaml")
            && path.file_stem().is_some_and(|stem| stem != "kustomization")
    };
    entries
        .filter(wanted)
        .map(|path| {
            (
                path.display().to_string(),
                fs::read_to_string(path).unwrap(),
            )
        })
        .collect()
}

/// Else a Secret would get what a token request may not: a token for the API server.
async fn only_secrets_of_its_type(operator: &Client, admin: &Client) {
    let minted = "kubernetes.io/service-account-token";
    until("Secrets of other types are refused", SOON, async || {
        let refused = make_secret(operator, "stolen", Some(minted)).await;
        Ok(refused.is_err_and(|error| {
            error
                .to_string()
                .contains("servicebinding.io/postgresql only")
        }))
    })
    .await
    .unwrap();
    for (name, type_) in [
        ("opaque", None),
        ("bootstrap", Some("bootstrap.kubernetes.io/token")),
    ] {
        make_secret(operator, name, type_).await.unwrap_err();
    }
    make_secret(operator, "ours", Some("servicebinding.io/postgresql"))
        .await
        .unwrap();
    make_secret(admin, "theirs", Some(minted)).await.unwrap();
}

#[tokio::test]
async fn operator_has_the_rights_of_its_namespaces_and_tokens_for_entra_only() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path().join("plane")).await.unwrap();
    let admin = plane.kube_client().await.unwrap();
    let examples = workspace().join("deploy/examples");
    plane
        .apply_path(&examples.join("0-namespace.yaml"))
        .await
        .unwrap();
    plane
        .apply_path(&workspace().join("deploy/namespaced/namespace.yaml"))
        .await
        .unwrap();
    let manifests = dir.path().join("manifests.yaml");
    let rendered = helm(&["watchNamespaces={orders}"]);
    fs::write(&manifests, rendered.stdout).unwrap();
    apply_path(&admin, &manifests).await.unwrap();
    plane
        .apply_path(&examples.join("1-managed-identity.yaml"))
        .await
        .unwrap();
    let kubeconfig = plane.service_account_kubeconfig(NAME, NAME).await.unwrap();
    let operator = client_of(&kubeconfig).await.unwrap();

    for (expected, namespace, verb, resource, name) in [
        (true, "orders", "patch", "secrets", "x"),
        (
            true,
            "orders",
            "patch",
            "entrapostgresprincipals/status",
            "x",
        ),
        (
            true,
            "orders",
            "update",
            "entrapostgresprincipals/finalizers",
            "x",
        ),
        // The request GET /api/v1/namespaces/orders is one in namespace orders.
        (true, "orders", "get", "namespaces", "orders"),
        (true, "kube-system", "get", "namespaces", "kube-system"),
        (false, "orders", "update", "secrets", "x"),
        (false, "orders", "create", "entrapostgresprincipals", "x"),
        // The finalizer is metadata; there is no verb for less.
        (true, "orders", "patch", "entrapostgresservers", "x"),
        (false, "orders", "update", "entrapostgresservers", "x"),
        (false, "orders", "delete", "entrapostgresservers", "x"),
        (false, NAME, "patch", "entrapostgresservers", "x"),
        (false, NAME, "get", "secrets", "x"),
        (false, "kube-system", "get", "secrets", "x"),
        (
            false,
            "default",
            "create",
            "serviceaccounts/token",
            "default",
        ),
    ] {
        // What was just granted may take the API server a moment.
        until(
            &format!("{verb} {resource} {name} in {namespace}: {expected}"),
            SOON,
            async || Ok(may(&operator, namespace, verb, resource, name).await == expected),
        )
        .await
        .unwrap();
    }

    // A policy takes effect a moment after it was made.
    until("foreign audiences are refused", SOON, async || {
        Ok(ask_token(&operator, &["https://evil.example"])
            .await
            .is_err())
    })
    .await
    .unwrap();
    ask_token(&operator, &[AUDIENCE]).await.unwrap();
    // None at all means the API server itself.
    for audiences in [
        &[][..],
        &["https://evil.example"],
        &[AUDIENCE, "https://evil.example"],
    ] {
        let refused = ask_token(&operator, audiences)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("for these audiences only"),
            "{audiences:?}: {refused}"
        );
        assert!(refused.contains("tokenAudiences"), "{refused}");
    }
    // Nobody else is held to it.
    ask_token(&admin, &["https://evil.example"]).await.unwrap();

    only_secrets_of_its_type(&operator, &admin).await;
    plane.stop().await.unwrap();
}
