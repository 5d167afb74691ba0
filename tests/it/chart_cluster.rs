//! A real API server takes what the chart makes, and holds the operator to it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt as _};
use lab::control_plane::assets::{self, workspace};
use lab::control_plane::{ControlPlane, apply_path, client_of, parse_manifests};
use lab::operator::{OperatorOptions, OperatorProcess};
use lab::process::until;
use serde_json::json;

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
    let (resource, group) = match resource.split_once('.') {
        Some((resource, group)) => (resource, group),
        None if resource.starts_with("entrapostgres") => (resource, "entrapostgres.io"),
        None => (resource, ""),
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
    token_for(client, audiences, Some(1200)).await
}

async fn token_for(
    client: &Client,
    audiences: &[&str],
    seconds: Option<i64>,
) -> Result<(), kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "orders");
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audiences
                .iter()
                .map(|&audience| audience.to_owned())
                .collect(),
            expiration_seconds: seconds,
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

/// What is refused to the operator is done for an administrator.
async fn only_its_own_secrets(operator: &Client, admin: &Client) {
    let all: Api<Secret> = Api::namespaced(admin.clone(), "orders");
    let label = json!({"app.kubernetes.io/managed-by": "entra-postgres-operator"});
    let owner = json!([{"apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
        "name": "orders-api", "uid": "00000000-0000-4000-8000-00000000dead", "controller": true}]);
    let ours = "servicebinding.io/postgresql";
    for (name, type_, labels, owners, allowed) in [
        ("opaque", "Opaque", &label, json!([]), false),
        ("unlabelled", ours, &json!({}), json!([]), false),
        (
            "other",
            ours,
            &json!({"app.kubernetes.io/managed-by": "Helm"}),
            json!([]),
            false,
        ),
        ("labelled", ours, &label, json!([]), true),
        // Somebody took the label away: the operator puts it back.
        ("owned", ours, &json!({}), owner, true),
    ] {
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels,
            "ownerReferences": owners}, "type": type_, "stringData": {"key": "value"}}))
            .unwrap();
        all.create(&PostParams::default(), &secret).await.unwrap();
        let own: Api<Secret> = Api::namespaced(operator.clone(), "orders");
        let change =
            Patch::Merge(json!({"metadata": {"labels": label}, "stringData": {"key": "x"}}));
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let delete = DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        };
        let patched = own.patch(name, &params, &change).await;
        let deleted = own.delete(name, &delete).await;
        assert_eq!(patched.is_ok(), allowed, "{name}: {patched:?}");
        assert_eq!(deleted.is_ok(), allowed, "{name}: {deleted:?}");
        all.patch(name, &params, &change).await.unwrap();
        all.delete(name, &delete).await.unwrap();
    }
}

/// Everything else of our kinds is for those whose they are.
async fn only_finalizers_and_status(operator: &Client, admin: &Client) {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "entrapostgres.io",
        "v1alpha1",
        "EntraPostgresPrincipal",
    ));
    let of = |client: &Client| -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), "orders", &kind)
    };
    let (own, all) = (of(operator), of(admin));
    let theirs = json!({"metadata": {"finalizers": ["example.com/theirs"]}});
    let params = PatchParams::default();
    all.patch("orders-api", &params, &Patch::Merge(theirs))
        .await
        .unwrap();
    let dry_run = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}]);
    for (change, allowed) in [
        (json!({"spec": {"suspend": true}}), false),
        (
            json!({"metadata": {"annotations": {"entrapostgres.io/rebind": "x"}}}),
            false,
        ),
        (json!({"metadata": {"labels": {"team": "x"}}}), false),
        (json!({"metadata": {"ownerReferences": owner}}), false),
        (json!({"metadata": {"finalizers": null}}), false),
        (
            json!({"metadata": {"finalizers": ["example.com/theirs", "example.com/more"]}}),
            false,
        ),
        (
            json!({"metadata": {"finalizers": ["example.com/theirs", "entrapostgres.io/role"]}}),
            true,
        ),
    ] {
        let patched = own
            .patch("orders-api", &dry_run, &Patch::Merge(&change))
            .await;
        assert_eq!(patched.is_ok(), allowed, "{change}: {patched:?}");
        all.patch("orders-api", &dry_run, &Patch::Merge(&change))
            .await
            .unwrap();
    }
    let status = json!({"status": {"observedGeneration": 1}});
    own.patch_status("orders-api", &dry_run, &Patch::Merge(&status))
        .await
        .unwrap();
    let none = json!({"metadata": {"finalizers": null}});
    all.patch("orders-api", &params, &Patch::Merge(none))
        .await
        .unwrap();
}

/// What kustomize makes of an overlay of that text on a folder of deploy/.
fn overlay(dir: &Path, folder: &str, text: &str) -> Vec<DynamicObject> {
    let base = dir.join("base");
    fs::create_dir_all(&base).unwrap();
    for (name, text) in yaml_files(&workspace().join("deploy").join(folder)) {
        fs::write(base.join(Path::new(&name).file_name().unwrap()), text).unwrap();
    }
    let from = workspace()
        .join("deploy")
        .join(folder)
        .join("kustomization.yaml");
    fs::copy(from, base.join("kustomization.yaml")).unwrap();
    let over = dir.join("overlay");
    fs::create_dir_all(&over).unwrap();
    fs::write(
        over.join("kustomization.yaml"),
        format!("resources: [../base]\n{text}"),
    )
    .unwrap();
    let flux = assets::find(assets::Set::Flux).unwrap().join("flux");
    let output = Command::new(flux).arg("build").arg(&over).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    parse_manifests(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

// Red when: the policies know the operator by the name that its account has without the overlay, as on 6b177e6.
#[tokio::test]
async fn the_policies_hold_under_kustomizes_namespace_and_prefix() {
    for (folder, text, namespace, account) in [
        (
            "base",
            "namespace: db-platform",
            "db-platform",
            NAME.to_owned(),
        ),
        ("base", "namePrefix: db-", NAME, format!("db-{NAME}")),
        (
            "namespaced",
            "namespace: orders\nnamePrefix: db-\nnameSuffix: -west",
            "orders",
            format!("db-{NAME}-west"),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::start(dir.path().join("plane")).await.unwrap();
        let admin = plane.kube_client().await.unwrap();
        let mut objects = overlay(dir.path(), folder, text);
        // Definitions and namespaces before what is in them.
        objects.sort_by_key(|object| match kind(object) {
            "Namespace" | "CustomResourceDefinition" => 0,
            _ => 1,
        });
        for name in ["orders", namespace, NAME] {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            plane.apply_text(&object.to_string()).await.unwrap();
        }
        let texts = objects
            .iter()
            .map(|object| serde_json::to_string(object).unwrap());
        let all = texts.collect::<Vec<_>>().join("\n---\n");
        plane.apply_text(&all).await.unwrap();
        let example = workspace().join("deploy/examples/1-managed-identity.yaml");
        plane.apply_path(&example).await.unwrap();
        let kubeconfig = plane
            .service_account_kubeconfig(namespace, &account)
            .await
            .unwrap();
        let operator = client_of(&kubeconfig).await.unwrap();
        until(
            &format!("{text}: foreign audiences are refused"),
            SOON,
            async || {
                let asked = ask_token(&operator, &["https://evil.example"]).await;
                Ok(
                    asked
                        .is_err_and(|error| error.to_string().contains("for these audiences only")),
                )
            },
        )
        .await
        .unwrap();
        ask_token(&operator, &[AUDIENCE]).await.unwrap();
        only_secrets_of_its_type(&operator, &admin).await;
        only_its_own_secrets(&operator, &admin).await;
        only_finalizers_and_status(&operator, &admin).await;
        // A lease of the name that the arguments say, and the namespace that it is in.
        let deployment = objects
            .iter()
            .find(|object| kind(object) == "Deployment")
            .unwrap();
        let args = deployment.data["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
        assert!(args.contains(&format!("--lease-name={NAME}")), "{args}");
        let leases = "leases.coordination.k8s.io";
        assert!(
            may(&operator, namespace, "update", leases, NAME).await,
            "{text}"
        );
        let whole = folder == "base";
        assert_eq!(
            args.contains("--watch-namespaces=$(POD_NAMESPACE)"),
            !whole,
            "{args}"
        );
        plane.stop().await.unwrap();
    }
}

async fn enforced(plane: &ControlPlane, dir: &Path) -> String {
    let kubeconfig = plane.service_account_kubeconfig(NAME, NAME).await.unwrap();
    let options = OperatorOptions {
        namespaces: vec!["orders".to_owned()],
        envs: vec![("POD_NAMESPACE".to_owned(), NAME.to_owned())],
        ..OperatorOptions::new(dir, kubeconfig, "{}".to_owned())
    };
    let operator = OperatorProcess::start_ready(&options, SOON).await.unwrap();
    let series = "entra_postgres_admission_policy_enforced{";
    let lines = || async {
        let text = operator.metrics().await?;
        let ours = text.lines().filter(|line| line.starts_with(series));
        anyhow::Ok(ours.map(str::to_owned).collect::<Vec<_>>())
    };
    let seen = async || Ok(lines().await?.len() == 3);
    until("the policies were looked at", SOON, seen)
        .await
        .unwrap();
    lines().await.unwrap().join("\n")
}

// Red when: run() does not start policies::watch().
#[tokio::test]
async fn the_operator_says_whether_the_policies_are_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path().join("plane")).await.unwrap();
    let admin = plane.kube_client().await.unwrap();
    let deploy = workspace().join("deploy");
    for name in ["orders", NAME] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        plane.apply_text(&object.to_string()).await.unwrap();
    }
    plane.apply_path(&deploy.join("base")).await.unwrap();
    plane
        .apply_path(&deploy.join("examples/azure/server.yaml"))
        .await
        .unwrap();
    let kubeconfig = plane.service_account_kubeconfig(NAME, NAME).await.unwrap();
    let operator = client_of(&kubeconfig).await.unwrap();
    until("the policies are in force", SOON, async || {
        Ok(make_secret(&operator, "stolen", None).await.is_err())
    })
    .await
    .unwrap();
    let in_force = enforced(&plane, dir.path()).await;
    assert!(
        in_force.lines().all(|line| line.ends_with(" 1")),
        "{in_force}"
    );
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(admin.clone());
    let name = format!("{NAME}-secret-types");
    bindings
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    until("the policy is in force no more", SOON, async || {
        Ok(make_secret(&operator, "stolen", None).await.is_ok())
    })
    .await
    .unwrap();
    let open = enforced(&plane, dir.path()).await;
    for (rule, value) in [("audience", 1), ("lifetime", 1), ("secretType", 0)] {
        let line = format!("entra_postgres_admission_policy_enforced{{rule=\"{rule}\"}} {value}");
        assert!(open.contains(&line), "{open}");
    }
    plane.stop().await.unwrap();
}

// Red when: the chart keeps what Helm does not let another release take over, and says nothing of it.
#[tokio::test]
async fn the_chart_is_installed_again_under_another_name_as_its_readme_says() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path().join("plane")).await.unwrap();
    let kubeconfig = plane.kubeconfig();
    let chart = workspace().join("charts").join(NAME);
    let helm = async |arguments: &[&str]| {
        let helm = assets::find(assets::Set::Helm).unwrap().join("helm");
        let mut command = tokio::process::Command::new(helm);
        command.args(arguments).env("KUBECONFIG", &kubeconfig);
        command
            .env("HELM_CACHE_HOME", dir.path())
            .env("HELM_CONFIG_HOME", dir.path());
        command.output().await.unwrap()
    };
    let chart = chart.display().to_string();
    let first = [
        "install",
        "first",
        &chart,
        "--namespace",
        "one",
        "--create-namespace",
    ];
    let made = helm(&first).await;
    assert!(made.status.success(), "{made:?}");
    let gone = helm(&["uninstall", "first", "--namespace", "one"]).await;
    assert!(gone.status.success(), "{gone:?}");
    let second = [
        "install",
        "db",
        &chart,
        "--namespace",
        "two",
        "--create-namespace",
    ];
    let refused = helm(&second).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("invalid ownership metadata"), "{told}");
    let taken = helm(&[&second[..], &["--take-ownership"]].concat()).await;
    assert!(
        taken.status.success(),
        "{}",
        String::from_utf8_lossy(&taken.stderr)
    );
    let readme = workspace().join("charts").join(NAME).join("README.md");
    assert!(
        fs::read_to_string(readme)
            .unwrap()
            .contains("--take-ownership")
    );
    plane.stop().await.unwrap();
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a table")]
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
    for seconds in [Some(1201), Some(315_360_000), None] {
        let refused = token_for(&operator, &[AUDIENCE], seconds).await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("1200 seconds at most"),
            "{seconds:?}: {refused}"
        );
    }
    token_for(&admin, &[AUDIENCE], Some(7200)).await.unwrap();

    only_secrets_of_its_type(&operator, &admin).await;
    only_its_own_secrets(&operator, &admin).await;
    only_finalizers_and_status(&operator, &admin).await;
    plane.stop().await.unwrap();
}
