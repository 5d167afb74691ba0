//! The lab's control plane alone: real API server, RBAC, tokens, audit log, and nothing left behind.
// clippy.toml allows these inside of test functions only, and helpers are outside.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod on_a_node;
mod operator;
mod up;

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery;
use lab::control_plane::{ControlPlane, client_of, parse_manifests, service_account_user};
use lab::process::until;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A kind with a rule, the namespaces and the accounts that the tests use.
const MANIFESTS: &str = r#"
apiVersion: example.com/v1
kind: Widget
metadata: {name: first, namespace: apps}
spec: {size: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {size: {type: integer}}
            x-kubernetes-validations: [{rule: "self.size < 10", message: too large}]
---
apiVersion: v1
kind: Namespace
metadata: {name: apps}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: plain, namespace: apps}
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: reader, namespace: apps}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: apps}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [list, create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: apps}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: apps}]
"#;

fn forbidden<T>(answer: &kube::Result<T>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.is_forbidden())
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

async fn applies_kinds_in_the_order_they_need(plane: &ControlPlane) {
    plane.apply_text(MANIFESTS).await.unwrap();
    plane.apply_text(MANIFESTS).await.unwrap();
    let client = plane.kube_client().await.unwrap();
    let kind = GroupVersionKind::gvk("example.com", "v1", "Widget");
    let (resource, _) = discovery::pinned_kind(&client, &kind).await.unwrap();
    let widgets: Api<DynamicObject> = Api::namespaced_with(client, "apps", &resource);
    assert_eq!(widgets.get("first").await.unwrap().data["spec"]["size"], 3);

    let large = MANIFESTS.replace("size: 3", "size: 30");
    let refused = plane.apply_text(&large).await.unwrap_err();
    let text = format!("{refused:#}");
    assert!(
        text.contains("too large") && text.contains("Widget apps/first"),
        "{text}"
    );
}

async fn account_may_do_what_its_role_says_and_no_more(plane: &ControlPlane) {
    for (name, may) in [("plain", false), ("reader", true)] {
        let file = plane
            .service_account_kubeconfig("apps", name)
            .await
            .unwrap();
        let client = client_of(&file).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "apps");
        assert_eq!(
            maps.list(&ListParams::default()).await.is_ok(),
            may,
            "{name}"
        );
        let secrets: Api<Secret> = Api::namespaced(client, "apps");
        assert!(
            forbidden(&secrets.list(&ListParams::default()).await),
            "{name}"
        );
    }
}

async fn token_is_signed_with_a_published_key(plane: &ControlPlane) {
    let audience = "api://AzureADTokenExchange";
    let token = plane
        .service_account_token("apps", "plain", audience)
        .await
        .unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let header: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
    let claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
    assert_eq!(header["alg"], "RS256");
    assert_eq!(claims["iss"], plane.issuer());
    assert_eq!(claims["sub"], service_account_user("apps", "plain"));
    assert_eq!(claims["aud"], json!([audience]));

    let keys = plane.jwks().await.unwrap();
    let key = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == header["kid"]);
    let key = key.expect("the key that signed is published");
    let public = RsaPublicKeyComponents {
        n: decode(key["n"].as_str().unwrap()),
        e: decode(key["e"].as_str().unwrap()),
    };
    let verify = |text: &str, signature: &[u8]| {
        public.verify(&RSA_PKCS1_2048_8192_SHA256, text.as_bytes(), signature)
    };
    let signature = decode(parts[2]);
    verify(&format!("{}.{}", parts[0], parts[1]), &signature).unwrap();
    verify(&format!("{}.{}x", parts[0], parts[1]), &signature).unwrap_err();
}

async fn audit_counts_requests_by_user(plane: &ControlPlane) {
    let file = plane
        .service_account_kubeconfig("apps", "reader")
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client_of(&file).await.unwrap(), "apps");
    let user = service_account_user("apps", "reader");
    let audit = plane.audit();
    let mark = audit.mark().unwrap();
    for name in ["one", "two", "three"] {
        maps.create(&PostParams::default(), &config_map(name))
            .await
            .unwrap();
    }
    maps.list(&ListParams::default()).await.unwrap();
    assert!(forbidden(
        &maps.delete("one", &DeleteParams::default()).await
    ));

    assert_eq!(audit.count(&user, &["create"], mark).unwrap(), 3);
    assert_eq!(audit.count(&user, &["list"], mark).unwrap(), 1);
    assert_eq!(audit.count("nobody", &["create"], mark).unwrap(), 0);
    let writes: Vec<_> = audit.since(mark).unwrap();
    let writes: Vec<_> = writes
        .iter()
        .filter(|e| e.user == user && e.is_write())
        .collect();
    let seen: Vec<_> = writes
        .iter()
        .map(|e| (e.verb.as_str(), e.name.as_str(), e.code))
        .collect();
    // The name of what is created stands in the body, which the log does not have.
    let delete = ("delete", "one", 403);
    assert_eq!(
        seen.iter().filter(|&&entry| entry == delete).count(),
        1,
        "{seen:?}"
    );
    assert_eq!(writes.len(), 4);
    assert!(writes.iter().all(|entry| entry.target() == "configmaps"));
    let end = audit.mark().unwrap();
    assert_eq!(audit.count(&user, &["create", "list"], end).unwrap(), 0);
}

async fn controllers_collect_what_is_deleted(plane: &ControlPlane) {
    let client = plane.kube_client().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "apps");
    let owner = maps
        .create(&PostParams::default(), &config_map("owner"))
        .await
        .unwrap();
    let child = json!({"metadata": {"name": "owned", "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid,
    }]}});
    let child: ConfigMap = serde_json::from_value(child).unwrap();
    maps.create(&PostParams::default(), &child).await.unwrap();
    maps.delete("owner", &DeleteParams::default())
        .await
        .unwrap();
    let gone = async || Ok(maps.get_opt("owned").await?.is_none());
    until("what was owned is collected", SOON, gone)
        .await
        .unwrap();

    let namespaces: Api<Namespace> = Api::all(client);
    namespaces
        .delete("apps", &DeleteParams::default())
        .await
        .unwrap();
    let gone = async || Ok(namespaces.get_opt("apps").await?.is_none());
    until("the namespace is gone", SOON, gone).await.unwrap();
}

#[tokio::test]
async fn control_plane_works_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(dir.path().join("cluster"))
        .await
        .unwrap();
    applies_kinds_in_the_order_they_need(&plane).await;
    account_may_do_what_its_role_says_and_no_more(&plane).await;
    token_is_signed_with_a_published_key(&plane).await;
    audit_counts_requests_by_user(&plane).await;
    controllers_collect_what_is_deleted(&plane).await;

    let pids = plane.pids();
    assert!(pids.iter().all(|pid| alive(*pid)));
    plane.stop().await.unwrap();
    assert!(!pids.iter().any(|pid| alive(*pid)));
}

#[tokio::test]
async fn two_control_planes_live_side_by_side_and_a_drop_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Programs may have to be built: that is not what is timed.
    let search = tokio::task::spawn_blocking(|| {
        lab::control_plane::assets::find(lab::control_plane::assets::Set::ControlPlane)
    });
    let programs = search.await.unwrap().unwrap();
    let begin = Instant::now();
    let (left, right) = tokio::try_join!(
        ControlPlane::start_with(dir.path().join("one"), &programs),
        ControlPlane::start_with(dir.path().join("two"), &programs)
    )
    .unwrap();
    eprintln!("two control planes were ready after {:?}", begin.elapsed());
    assert_ne!(left.url(), right.url());
    assert_ne!(left.jwks().await.unwrap(), right.jwks().await.unwrap());
    let all: Vec<u32> = left.pids().into_iter().chain(right.pids()).collect();
    drop((left, right));
    assert!(!all.iter().any(|pid| alive(*pid)));
}

#[test]
fn manifests_may_be_many_empty_or_lists() {
    let names = |text: &str| -> Vec<String> {
        let objects = parse_manifests(text).unwrap();
        objects
            .into_iter()
            .filter_map(|object| object.metadata.name)
            .collect()
    };
    assert_eq!(names("---\n# nothing\n---\n"), Vec::<String>::new());
    assert_eq!(names(MANIFESTS).len(), 7);
    assert!(parse_manifests("a: b: c").is_err());
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
