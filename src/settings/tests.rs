//! Good and bad configurations, and who may use which identity.

use super::*;
use crate::api::OperatorIdentity;

fn options() -> Options {
    Options {
        watch_namespaces: vec![],
        http_address: "127.0.0.1:0".parse().expect("an address"),
        leader_election: true,
        lease_name: "epo".to_owned(),
        lease_namespace: None,
        max_concurrent_exchanges: 4,
        ca_bundle: None,
    }
}

fn environment() -> Environment {
    Environment {
        pod_namespace: Some("platform".to_owned()),
        pod_name: Some("epo-0".to_owned()),
        ..Environment::default()
    }
}

fn resolve(yaml: &str) -> Result<Settings, String> {
    let ca = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), ca.cert.pem()).expect("written");
    let yaml = yaml.replace("CA_FILE", &file.path().to_string_lossy());
    let file = serde_yaml::from_str(&yaml).map_err(|error| error.to_string())?;
    Settings::resolve(file, environment(), options()).map_err(|failure| failure.message)
}

const LAB: &str = "
clouds:
- name: Lab
  authority: https://localhost:8443
  scope: https://ossrdbms-aad.database.windows.net/.default
  federatedAudience: api://AzureADTokenExchange
  serverSuffixes: [localhost]
  caFile: CA_FILE
  imdsEndpoint: http://127.0.0.1:4000
";

#[test]
fn an_empty_file_means_the_defaults() {
    let settings = resolve("{}").expect("good");
    assert_eq!(settings.cluster_id, None);
    let own = BTreeSet::from(["platform".to_owned()]);
    assert_eq!(settings.operator_identity_namespaces, own);
    let names: Vec<_> = settings.clouds.keys().map(String::as_str).collect();
    assert_eq!(names, ["China", "Public", "USGovernment"]);
    let lease = settings.lease.expect("election is on");
    assert_eq!(
        (lease.namespace.as_str(), lease.identity.as_str()),
        ("platform", "epo-0")
    );
}

#[test]
fn a_full_file_is_taken_over() {
    let settings = resolve(&format!(
        "{LAB}
clusterId: prod-1
formerClusterIds: [prod-0]
operatorIdentityNamespaces: []
reservedPrefixes: [argoproj.io]
managedIdentities: [{{namespaces: [a], clientIds: [aaaaaaaa-0000-4000-8000-000000000001]}}]
serverSuffixes: {{Public: [privatelink.example.com], Lab: [lab.test]}}
"
    ))
    .expect("good");
    assert_eq!(settings.cluster_id.as_deref(), Some("prod-1"));
    assert!(settings.former_cluster_ids.contains("prod-0"));
    assert!(settings.operator_identity_namespaces.is_empty());
    assert_eq!(settings.reserved_prefixes, ["argoproj.io"]);
    let public = settings.cloud("Public").expect("built in");
    assert!(public.has_host("db.privatelink.example.com"));
    assert!(public.has_host("db.postgres.database.azure.com"));
    assert!(
        settings
            .cloud("Lab")
            .expect("defined")
            .has_host("a.lab.test")
    );
}

#[test]
fn each_mistake_is_named() {
    let lab = |from: &str, to: &str| LAB.replace(from, to);
    let duplicate = format!("{LAB}{}", LAB.replace("\nclouds:", ""));
    for (yaml, message) in [
        ("clusterID: x".to_owned(), "unknown field `clusterID`"),
        ("clusterId: 'a b'".to_owned(), "clusterId: \"a b\""),
        (
            "formerClusterIds: ['']".to_owned(),
            "formerClusterIds: \"\"",
        ),
        (
            "managedIdentities: [{clientIds: [a]}]".to_owned(),
            "at least one namespace",
        ),
        (
            "managedIdentities: [{namespaces: [a]}]".to_owned(),
            "list ids under",
        ),
        // Red when: `check_rule` does not look at the ids, or `check_cloud` not at the file.
        (
            "managedIdentities: [{namespaces: [a], clientIds: [my-identity]}]".to_owned(),
            "managedIdentities[0].clientIds: \"my-identity\" is no GUID",
        ),
        (
            "managedIdentities: [{namespaces: [a], objectIds: ['']}]".to_owned(),
            "managedIdentities[0].objectIds: \"\" is no GUID",
        ),
        (
            lab("CA_FILE", "/nonexistent/ca.pem"),
            "cloud \"Lab\": caFile /nonexistent/ca.pem: ",
        ),
        (
            "managedIdentities: [{namespace: [a]}]".to_owned(),
            "unknown field `namespace`",
        ),
        (
            "serverSuffixes: {Publik: [a.example]}".to_owned(),
            "no cloud \"Publik\"",
        ),
        (
            "serverSuffixes: {Public: [.a.example]}".to_owned(),
            "without a leading dot",
        ),
        (
            "serverSuffixes: {Public: ['']}".to_owned(),
            "must be a lower-case DNS name",
        ),
        (
            "serverSuffixes: {Public: ['*.a']}".to_owned(),
            "must be a lower-case DNS name",
        ),
        (
            lab("https://localhost", "http://localhost"),
            "must be an https URL",
        ),
        (
            lab("https://localhost", "https://me:pw@localhost"),
            "must be an https URL",
        ),
        (lab("http://127", "https://127"), "imdsEndpoint"),
        // Red when: `is_base_url` does not look at the path.
        (lab(":8443", ":8443/adfs"), "without user, path"),
        (lab(":4000", ":4000/metadata"), "without user, path"),
        (lab("/.default", ""), "must be a resource and /.default"),
        (
            lab("api://AzureADTokenExchange", "''"),
            "federatedAudience must not be empty",
        ),
        (lab("[localhost]", "[]"), "at least one suffix"),
        (lab("name: Lab", "name: Public"), "names must be unique"),
        (duplicate, "names must be unique"),
        (lab("caFile", "caFiles"), "unknown field `caFiles`"),
    ] {
        let error = resolve(&yaml).expect_err(&yaml);
        assert!(
            error.contains(message),
            "{yaml}\n{error:?} lacks {message:?}"
        );
    }
}

#[test]
fn a_slash_at_the_end_of_an_address_is_no_path() {
    let slashes = LAB.replace(":8443", ":8443/").replace(":4000", ":4000/");
    assert!(resolve(&slashes).is_ok());
}

#[test]
fn all_mistakes_are_named_at_once() {
    let error = resolve("{clusterId: '', managedIdentities: [{}]}").expect_err("bad");
    for message in ["clusterId", "at least one namespace", "list ids"] {
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn election_needs_a_namespace() {
    let nowhere = Environment::default();
    let failure = Settings::resolve(ConfigFile::default(), nowhere.clone(), options());
    assert!(
        failure
            .expect_err("no namespace")
            .message
            .contains("--lease-namespace")
    );
    let alone = Options {
        leader_election: false,
        ..options()
    };
    let settings = Settings::resolve(ConfigFile::default(), nowhere, alone).expect("good");
    assert_eq!(settings.lease, None);
    assert!(
        settings.operator_identity_namespaces.is_empty(),
        "nobody may"
    );
}

#[test]
fn the_operators_identity_is_for_listed_namespaces_only() {
    let operator = Identity {
        operator: Some(OperatorIdentity {}),
        ..Identity::default()
    };
    let settings = resolve("{}").expect("good");
    assert_eq!(settings.identity_allowed("platform", &operator), Ok(()));
    let failure = settings
        .identity_allowed("orders", &operator)
        .expect_err("not listed");
    assert_eq!(failure.reason, Reason::IdentityNotAllowed);
    let settings = resolve("operatorIdentityNamespaces: [orders]").expect("good");
    assert_eq!(settings.identity_allowed("orders", &operator), Ok(()));
    assert!(settings.identity_allowed("platform", &operator).is_err());
}

#[test]
fn a_nodes_identity_is_for_namespaces_that_list_its_id() {
    let settings = resolve(
        "managedIdentities:
- {namespaces: [orders], clientIds: [AAAAAAAA-0000-4000-8000-000000000001]}
- {namespaces: [orders, shop], resourceIds: [/subscriptions/S/x]}
- {namespaces: [node], systemAssigned: true}",
    )
    .expect("good");
    let id = |client: Option<&str>, object: Option<&str>, resource: Option<&str>| Identity {
        managed_identity: Some(ManagedIdentity {
            client_id: client.map(str::to_owned),
            object_id: object.map(str::to_owned),
            resource_id: resource.map(str::to_owned),
        }),
        ..Identity::default()
    };
    let (aaa, bbb) = (
        "aaaaaaaa-0000-4000-8000-000000000001",
        "aaaaaaaa-0000-4000-8000-000000000002",
    );
    for (namespace, identity, allowed) in [
        ("orders", id(Some(aaa), None, None), true),
        ("shop", id(Some(aaa), None, None), false),
        ("shop", id(None, None, Some("/SUBSCRIPTIONS/s/X")), true),
        ("orders", id(None, Some(aaa), None), false),
        ("orders", id(Some(bbb), None, None), false),
        ("other", id(Some(aaa), None, None), false),
        ("orders", id(None, None, None), false),
        ("node", id(None, None, None), true),
        ("node", id(Some(aaa), None, None), false),
        ("orders", id(Some(aaa), None, Some("/other")), false),
    ] {
        let outcome = settings.identity_allowed(namespace, &identity);
        assert_eq!(outcome.is_ok(), allowed, "{namespace} {identity:?}");
    }
}

#[test]
fn proxy_and_bundle_are_taken_over_and_a_wrong_one_is_named_at_the_start() {
    let with = |proxy: &str, ca_bundle: Option<&str>| {
        let environment = Environment {
            proxy: Some(ProxyVariable {
                name: "https_proxy".to_owned(),
                url: proxy.to_owned(),
            }),
            no_proxy: Some("localhost".to_owned()),
            ..environment()
        };
        let options = Options {
            ca_bundle: ca_bundle.map(PathBuf::from),
            ..options()
        };
        Settings::resolve(ConfigFile::default(), environment, options)
    };
    let network = with("http://proxy:3128", None).expect("good").network;
    let url = network.proxy.as_ref().map(|proxy| proxy.url.as_str());
    assert_eq!(url, Some("http://proxy:3128"));
    assert_eq!(network.no_proxy.as_deref(), Some("localhost"));
    let wrong = with("socks5://me:hunter2@proxy", None).expect_err("wrong");
    assert!(wrong.message.contains("https_proxy must"), "{wrong}");
    assert!(!wrong.message.contains("hunter2"), "{wrong}");
    let missing = with("http://proxy", Some("/nonexistent/ca.pem")).expect_err("missing");
    assert!(
        missing.message.contains("--ca-bundle /nonexistent/ca.pem"),
        "{missing}"
    );
}

// Red when: the variable's name is not kept, or a SOCKS proxy in ALL_PROXY is taken for ours.
#[test]
fn the_proxy_is_of_the_variable_that_was_read_and_a_foreign_one_for_all_is_not_obeyed() {
    let read = |set: &[(&str, &str)]| {
        let environment = Environment::of(|name| {
            let found = set.iter().find(|(each, _)| *each == name);
            found.map(|(_, text)| (*text).to_owned())
        });
        let proxy = environment.proxy.map(|proxy| (proxy.name, proxy.url));
        (proxy, environment.ignored)
    };
    let ours = |name: &str, url: &str| (Some((name.to_owned(), url.to_owned())), vec![]);
    let http = "http://proxy:3128";
    let socks = "socks5h://me:hunter2@proxy:1080";
    assert_eq!(read(&[("ALL_PROXY", http)]), ours("ALL_PROXY", http));
    assert_eq!(
        read(&[("all_proxy", "proxy:3128")]),
        ours("all_proxy", "proxy:3128")
    );
    // For https alone it can only be a mistake, which the check names.
    assert_eq!(read(&[("HTTPS_PROXY", socks)]), ours("HTTPS_PROXY", socks));
    let both = [("ALL_PROXY", socks), ("https_proxy", http)];
    assert_eq!(read(&both), ours("https_proxy", http));
    assert_eq!(
        read(&[("ALL_PROXY", ""), ("HTTPS_PROXY", "")]),
        (None, vec![])
    );
    let (proxy, ignored) = read(&[("ALL_PROXY", socks)]);
    assert_eq!(proxy, None);
    let told = ignored.concat();
    assert!(told.starts_with("ALL_PROXY is no http"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn an_unknown_cloud_names_the_known_ones() {
    let failure = resolve(LAB)
        .expect("good")
        .cloud("Germany")
        .expect_err("unknown");
    assert_eq!(failure.reason, Reason::UnknownCloud);
    assert!(
        failure.message.contains("China, Lab, Public, USGovernment"),
        "{failure}"
    );
}

#[test]
fn the_client_secret_of_the_environment_is_not_printed() {
    let azure = OperatorEnvironment {
        client_secret: Some("hunter2".to_owned()),
        ..OperatorEnvironment::default()
    };
    assert!(!format!("{azure:?}").contains("hunter2"));
}
