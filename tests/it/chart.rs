//! The chart: what it makes of values, and that the rendered manifests are its own. Needs no cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use lab::control_plane::assets::{self, workspace};
use lab::control_plane::parse_manifests;
use serde_json::Value;

pub(crate) const NAME: &str = "entra-postgres-operator";
pub(crate) const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Everything that can be switched on.
pub(crate) const ALL: &[&str] = &[
    "replicas=2",
    "watchNamespaces={platform,orders}",
    "networkPolicy.enabled=true",
    "metrics.serviceMonitor.enabled=true",
    "workloadIdentity.enabled=true",
    "workloadIdentity.clientId=c11e4700-0000-4000-8000-000000000001",
    "config.clusterId=prod",
    "config.clouds[0].name=Stack",
    "config.clouds[0].authority=https://login.stack.example",
    "config.clouds[0].scope=https://pg.stack.example/.default",
    "config.clouds[0].federatedAudience=api://Stack",
    "config.clouds[0].serverSuffixes[0]=pg.stack.example",
    "priorityClassName=system-cluster-critical",
];

pub(crate) fn helm(values: &[&str]) -> Output {
    let helm = assets::find(assets::Set::Helm).unwrap().join("helm");
    let chart = workspace().join("charts").join(NAME);
    let mut command = Command::new(helm);
    command
        .args(["template", NAME, "--namespace", NAME])
        .arg(chart);
    for value in values {
        command.args(["--set", value]);
    }
    command.output().unwrap()
}

pub(crate) fn render(values: &[&str]) -> Vec<DynamicObject> {
    let output = helm(values);
    assert!(
        output.status.success(),
        "{values:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    parse_manifests(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

pub(crate) fn kind(object: &DynamicObject) -> &str {
    &object.types.as_ref().unwrap().kind
}

fn find<'a>(objects: &'a [DynamicObject], wanted: &str) -> Vec<&'a DynamicObject> {
    objects
        .iter()
        .filter(|object| kind(object) == wanted)
        .collect()
}

fn arguments(objects: &[DynamicObject]) -> Vec<String> {
    let args =
        &find(objects, "Deployment")[0].data["spec"]["template"]["spec"]["containers"][0]["args"];
    serde_json::from_value(args.clone()).unwrap()
}

/// The rules that the operator's account has in the whole cluster.
fn cluster_rules(objects: &[DynamicObject]) -> Vec<Value> {
    let bound: BTreeSet<&str> = find(objects, "ClusterRoleBinding")
        .iter()
        .map(|binding| binding.data["roleRef"]["name"].as_str().unwrap())
        .collect();
    find(objects, "ClusterRole")
        .iter()
        .filter(|role| bound.contains(role.name_any().as_str()))
        .flat_map(|role| role.data["rules"].as_array().unwrap().clone())
        .collect()
}

/// The namespaces in which a Role, bound to the operator's account, gives Secrets.
fn namespaces_with_secrets(objects: &[DynamicObject]) -> Vec<String> {
    let has = |role: &&&DynamicObject| {
        let mut rules = role.data["rules"].as_array().unwrap().iter();
        rules.any(|rule| {
            rule["resources"]
                .as_array()
                .unwrap()
                .contains(&"secrets".into())
        })
    };
    let bound = |role: &&&DynamicObject| {
        find(objects, "RoleBinding").iter().any(|binding| {
            binding.namespace() == role.namespace()
                && binding.data["roleRef"]["name"] == role.name_any()
                && binding.data["subjects"][0]["name"] == NAME
                && binding.data["subjects"][0]["namespace"] == NAME
        })
    };
    let roles = find(objects, "Role");
    roles
        .iter()
        .filter(has)
        .filter(bound)
        .map(|role| role.namespace().unwrap())
        .collect()
}

#[test]
fn by_default_only_the_release_namespace_is_read() {
    let objects = render(&[]);
    assert_eq!(namespaces_with_secrets(&objects), [NAME]);
    assert!(arguments(&objects).contains(&format!("--watch-namespaces={NAME}")));
    // Of the cluster: the uid of kube-system, and nothing else.
    let rules = cluster_rules(&objects);
    assert_eq!(rules.len(), 1, "{rules:?}");
    assert_eq!(
        rules[0]["resourceNames"],
        serde_json::json!(["kube-system"])
    );
    assert_eq!(rules[0]["verbs"], serde_json::json!(["get"]));
    assert_eq!(find(&objects, "NetworkPolicy").len(), 1);
    assert!(find(&objects, "PodDisruptionBudget").is_empty());
}

#[test]
fn named_namespaces_have_a_role_each_and_a_configured_cluster_id_needs_no_cluster_role() {
    let objects = render(&["watchNamespaces={orders,platform}", "config.clusterId=prod"]);
    assert_eq!(namespaces_with_secrets(&objects), ["orders", "platform"]);
    assert!(arguments(&objects).contains(&"--watch-namespaces=orders,platform".to_owned()));
    assert_eq!(cluster_rules(&objects), Vec::<Value>::new());
    let config = &find(&objects, "ConfigMap")[0].data["data"]["config.yaml"];
    assert_eq!(config, "clusterId: prod\n");
}

#[test]
fn cluster_scope_is_explicit() {
    let objects = render(&["clusterScope=true"]);
    assert!(namespaces_with_secrets(&objects).is_empty());
    let rules = cluster_rules(&objects);
    assert!(
        rules
            .iter()
            .any(|rule| rule["resources"] == serde_json::json!(["secrets"]))
    );
    let args = arguments(&objects);
    assert!(
        !args.iter().any(|arg| arg.starts_with("--watch-namespaces")),
        "{args:?}"
    );
}

#[test]
fn no_rule_has_a_wildcard() {
    for values in [&[][..], &["clusterScope=true"], ALL] {
        for role in render(values)
            .iter()
            .filter(|object| kind(object).ends_with("Role"))
        {
            assert!(
                !role.data["rules"].to_string().contains('*'),
                "{}",
                role.name_any()
            );
        }
    }
}

#[test]
fn audiences_of_the_policy_are_those_of_the_clouds() {
    let audiences = |values: &[&str]| {
        let objects = render(values);
        let policy = find(&objects, "ValidatingAdmissionPolicy")[0].data.clone();
        assert_eq!(find(&objects, "ValidatingAdmissionPolicyBinding").len(), 2);
        policy["spec"]["validations"][0]["expression"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let default = audiences(&[]);
    for suffix in ["", "USGov", "China"] {
        assert!(
            default.contains(&format!("\"{AUDIENCE}{suffix}\"")),
            "{default}"
        );
    }
    assert!(!default.contains("api://Stack"));
    assert!(audiences(ALL).contains("\"api://Stack\""));
    let own = audiences(&["tokenAudiences={api://Mine}"]);
    assert!(own.contains("[\"api://Mine\"]"), "{own}");
}

#[test]
fn two_replicas_have_a_disruption_budget_and_definitions_can_be_left_out() {
    let objects = render(&["replicas=2", "crds.enabled=false"]);
    assert_eq!(find(&objects, "PodDisruptionBudget").len(), 1);
    assert!(find(&objects, "CustomResourceDefinition").is_empty());
    let definitions = render(&[]);
    let definitions = find(&definitions, "CustomResourceDefinition");
    assert_eq!(definitions.len(), 2);
    assert!(
        definitions
            .iter()
            .all(|crd| crd.annotations()["helm.sh/resource-policy"] == "keep")
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn wrong_values_are_refused_by_name() {
    for (values, complaint) in [
        (&["nonsense=1"][..], "nonsense"),
        (&["config.clusterID=prod"], "clusterID"),
        (&["image.tagg=1"], "tagg"),
        (&["log.format=xml"], "format"),
        (&["log.level=warning"], "level"),
        (&["log.level=info\\,kube"], "level"),
        (&["config.clouds[0].name=Stack"], "authority"),
        (
            &["config.serverSuffixes.Public[0]=.example.com"],
            "serverSuffixes",
        ),
        (
            &["replicas=2", "leaderElection=false"],
            "leaderElection must be true",
        ),
        (
            &["clusterScope=true", "watchNamespaces={orders}"],
            "remove watchNamespaces",
        ),
        (
            &["workloadIdentity.enabled=true"],
            "workloadIdentity.clientId is needed",
        ),
        // Red when: `epo.check`, `epo.podlabels` or the schema lets one of these through.
        (&["workloadIdentity.clientId=c"], "have no effect"),
        (
            &[
                "workloadIdentity.enabled=true",
                "workloadIdentity.clientId=c",
                "serviceAccount.create=false",
                "serviceAccount.name=mine",
            ],
            "annotate mine yourself",
        ),
        (&["proxy.noProxy=a.example"], "no effect without"),
        (
            &["proxy.httpsProxy=http://p:1", "proxy.existingSecret=p"],
            "has both variables",
        ),
        (
            &["proxy.noProxy=a.example", "proxy.existingSecret=p"],
            "has both variables",
        ),
        (
            &[
                "metrics.serviceMonitor.enabled=true",
                "metrics.podMonitor.enabled=true",
            ],
            "enable one of the two",
        ),
        (
            &["podLabels.app\\.kubernetes\\.io/name=mine"],
            "the chart sets app.kubernetes.io/name itself",
        ),
        (&["nameOverride=My_Name"], "nameOverride"),
        (&["fullnameOverride=1st"], "fullnameOverride"),
        (
            &["config.serverSuffixes.Publik[0]=a.example"],
            "there is no cloud Publik",
        ),
        (
            &["config.managedIdentities[0].namespaces={a}"],
            "managedIdentities",
        ),
        (
            &[
                "config.managedIdentities[0].namespaces={a}",
                "config.managedIdentities[0].clientIds={my-identity}",
            ],
            "clientIds",
        ),
        (
            &[
                "config.clouds[0].name=Public",
                "config.clouds[0].authority=https://login.stack.example",
                "config.clouds[0].scope=https://pg.stack.example/.default",
                "config.clouds[0].federatedAudience=api://Stack",
                "config.clouds[0].serverSuffixes[0]=pg.stack.example",
            ],
            "name",
        ),
        (
            &[
                "config.clouds[0].name=Stack",
                "config.clouds[0].authority=https://login.stack.example/adfs",
            ],
            "authority",
        ),
        (&["podDisruptionBudget.maxUnavailable=-1"], "maxUnavailable"),
        (
            &["podDisruptionBudget.maxUnavailable=half"],
            "maxUnavailable",
        ),
        (&["resources.limit.memory=1Gi"], "limit"),
        (&["extraEnv[0].value=x"], "name"),
        (&["extraEnv[0].name=X", "extraEnv[0].valu=x"], "valu"),
    ] {
        let output = helm(values);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{values:?}");
        assert!(told.contains(complaint), "{values:?}: {told}");
    }
}

// Red when: the chart has no NetworkPolicy by default, it lets everybody in, or shuts the way to the proxy.
#[test]
fn by_default_metrics_are_for_prometheus_only_and_the_proxy_can_be_reached() {
    let policy = |values: &[&str]| {
        let objects = render(values);
        find(&objects, "NetworkPolicy")[0].data["spec"].clone()
    };
    let from = policy(&[])["ingress"][0]["from"].to_string();
    assert!(
        from.contains("monitoring") && from.contains("kube-system"),
        "{from}"
    );
    let egress = |values: &[&str]| policy(values)["egress"].to_string();
    assert!(!egress(&[]).contains("3128"));
    assert!(egress(&["proxy.httpsProxy=http://proxy:3128"]).contains("\"port\":3128"));
    assert!(find(&render(&["networkPolicy.enabled=false"]), "NetworkPolicy").is_empty());
}

// Red when: NOTES.txt leaves the advice out that is too late after the first role.
#[test]
fn notes_ask_for_a_cluster_id_on_the_first_day() {
    let helm = assets::find(assets::Set::Helm).unwrap().join("helm");
    let notes = |value: &str| {
        let mut command = Command::new(&helm);
        command.args(["install", NAME, "--dry-run=client", "--namespace", NAME]);
        command.arg(workspace().join("charts").join(NAME));
        let output = command.args(["--set", value]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split("NOTES:").nth(1).unwrap_or_default().to_owned()
    };
    assert!(notes("replicas=1").contains("Set config.clusterId now"));
    assert!(!notes("config.clusterId=prod").contains("clusterId"));
    assert!(notes("admissionPolicy.create=false").contains("WARNING: admissionPolicy.create"));
}

/// Whether Kubernetes takes it for the name of a Service.
fn is_service_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(known)
        && !name.ends_with('-')
}

// Red when: the suffix is put on a name that was cut already.
#[test]
fn names_stay_short_enough_and_further_labels_reach_the_pod() {
    let long = format!("fullnameOverride={}", "long-".repeat(12) + "end");
    let dashed = format!("fullnameOverride={}-{}", "n".repeat(54), "n".repeat(8));
    let long_name = format!("nameOverride={}", "n".repeat(63));
    for values in [&[long.as_str()][..], &[&dashed], &[&long_name], &[]] {
        let objects = render(values);
        let name = find(&objects, "Service")[0].name_any();
        assert!(is_service_name(&name), "{values:?}: {name}");
        assert!(name.ends_with("-metrics") && !name.contains("--"), "{name}");
    }
    let objects = render(&["podLabels.team=db"]);
    let labels = &find(&objects, "Deployment")[0].data["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["team"], "db");
    assert_eq!(labels["app.kubernetes.io/name"], NAME);
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn committed_manifests_are_what_the_chart_renders() {
    let scratch = tempfile::tempdir().unwrap();
    for which in ["base", "namespaced"] {
        let folder = scratch.path().join(which);
        let mut command = Command::new(workspace().join("tests/generate.sh"));
        assert!(
            command
                .args(["render", which])
                .arg(&folder)
                .status()
                .unwrap()
                .success()
        );
        let committed = workspace().join("deploy").join(which);
        assert_eq!(files(&folder), files(&committed), "run 'make deploy'");
    }
    let carried = workspace().join("charts").join(NAME).join("files/crds");
    assert_eq!(
        files(&workspace().join("crds")),
        files(&carried),
        "run 'make deploy'"
    );
}

fn environment(objects: &[DynamicObject]) -> BTreeMap<String, Value> {
    let container =
        &find(objects, "Deployment")[0].data["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap().iter();
    let named = |variable: &Value| variable["name"].as_str().unwrap().to_owned();
    variables
        .map(|variable| (named(variable), variable.clone()))
        .collect()
}

// Red when: the deployment leaves the values out, or mounts the bundle elsewhere than it says.
#[test]
fn proxy_and_further_certificates_reach_the_operator() {
    let none = environment(&render(&[]));
    for name in ["HTTPS_PROXY", "NO_PROXY", "EPO_CA_BUNDLE"] {
        assert!(!none.contains_key(name), "{name}");
    }
    let objects = render(&[
        "proxy.httpsProxy=http://proxy:3128",
        "proxy.noProxy=a.example\\,10.0.0.0/8",
        "caBundle.configMapName=roots",
        "caBundle.key=all.pem",
    ]);
    let set = environment(&objects);
    assert_eq!(set["HTTPS_PROXY"]["value"], "http://proxy:3128");
    assert_eq!(set["NO_PROXY"]["value"], "a.example,10.0.0.0/8");
    let file = set["EPO_CA_BUNDLE"]["value"].as_str().unwrap();
    let pod = &find(&objects, "Deployment")[0].data["spec"]["template"]["spec"];
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "ca-bundle");
    let path = mount.unwrap()["mountPath"].as_str().unwrap();
    assert_eq!(file, format!("{path}/all.pem"));
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "ca-bundle");
    assert_eq!(volume.unwrap()["configMap"]["name"], "roots");

    let objects = render(&["proxy.existingSecret=proxy", "caBundle.secretName=roots"]);
    let set = environment(&objects);
    assert_eq!(
        set["HTTPS_PROXY"]["valueFrom"]["secretKeyRef"]["name"],
        "proxy"
    );
    let pod = &find(&objects, "Deployment")[0].data["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "ca-bundle");
    assert_eq!(volume.unwrap()["secret"]["secretName"], "roots");
    // Nothing else of a Secret that may hold a key, too.
    assert_eq!(volume.unwrap()["secret"]["items"][0]["key"], "ca.crt");

    let both = helm(&["caBundle.configMapName=a", "caBundle.secretName=b"]);
    assert!(!both.status.success());
    assert!(String::from_utf8_lossy(&both.stderr).contains("name one of the two"));
}
