//! What the API server itself refuses, by schema and CEL: nothing of it ever reaches the operator.
//! Each refusal says what to do.

use anyhow::{Result, ensure};
use kube::api::{Api, ApiResource, DynamicObject};
use serde_json::{Value, json};

use crate::fixture::{plane, workload_identity};

const NAMESPACE: &str = "refused";

/// A change of a good object, and words of the refusal it earns.
type Case = (&'static str, fn(&mut Value), &'static str);

fn principal(name: &str) -> Value {
    json!({
        "apiVersion": "entrapostgres.io/v1alpha1",
        "kind": "EntraPostgresPrincipal",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "serverRef": {"name": "server"},
            "roleName": "orders-api",
            "principal": {"type": "ManagedIdentity"},
            "token": {"identity": workload_identity("orders-api")},
        },
    })
}

fn server(name: &str) -> Value {
    json!({
        "apiVersion": "entrapostgres.io/v1alpha1",
        "kind": "EntraPostgresServer",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "host": "orders.postgres.database.azure.com",
            "admins": [{"roleName": "pg-operators", "identity": workload_identity("pg-operator")}],
            "tenants": [{
                "namespaces": {"names": ["orders"]},
                "principalTypes": ["Group"], "roleNames": ["*"],
            }],
        },
    })
}

async fn namespace() -> Result<()> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    plane().apply_text(&namespace.to_string()).await.map(|_| ())
}

async fn apply(object: &Value) -> Result<()> {
    plane().apply_text(&object.to_string()).await.map(|_| ())
}

async fn stored(kind: &str, name: &str) -> Result<Option<Value>> {
    let kind = kube::core::GroupVersionKind::gvk("entrapostgres.io", "v1alpha1", kind);
    let client = plane().kube_client().await?;
    let api: Api<DynamicObject> =
        Api::namespaced_with(client, NAMESPACE, &ApiResource::from_gvk(&kind));
    let found = api.get_opt(name).await?;
    Ok(found.map(serde_json::to_value).transpose()?)
}

/// Applies each case to the good object; every one must be refused with its words. All that are not
/// are told together.
async fn all_refused(good: impl Fn() -> Value, cases: &[Case]) -> Result<()> {
    let mut wrong = Vec::new();
    for (what, change, words) in cases {
        let mut object = good();
        change(&mut object);
        match apply(&object).await {
            Ok(()) => wrong.push(format!("{what}: was taken")),
            Err(refusal) => {
                let refusal = format!("{refusal:#}");
                if !refusal.contains(words) {
                    wrong.push(format!("{what}: {words:?} is not in {refusal}"));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

const NEW_PRINCIPALS: &[Case] = &[
    (
        "64 bytes",
        |o| o["spec"]["roleName"] = json!("x".repeat(64)),
        "63",
    ),
    (
        "32 characters of two bytes",
        |o| o["spec"]["roleName"] = json!("ü".repeat(32)),
        "roleName must be at most 63 bytes: PostgreSQL cuts longer names",
    ),
    (
        "a name of PostgreSQL's",
        |o| o["spec"]["roleName"] = json!("pg_monitor2"),
        "roleName is reserved by PostgreSQL or Azure",
    ),
    (
        "a name of Azure's",
        |o| o["spec"]["roleName"] = json!("azure_pg_admin"),
        "roleName is reserved by PostgreSQL or Azure",
    ),
    (
        "everybody",
        |o| o["spec"]["roleName"] = json!("public"),
        "roleName is reserved by PostgreSQL or Azure",
    ),
    (
        "an empty name",
        |o| o["spec"]["roleName"] = json!(""),
        "spec.roleName",
    ),
    (
        "a NUL",
        |o| o["spec"]["roleName"] = json!("a\u{0}b"),
        "spec.roleName",
    ),
    (
        "a user's token",
        |o| o["spec"]["principal"] = json!({"type": "User"}),
        "a user gets their own token, with az account get-access-token: remove token",
    ),
    (
        "an administrator's token",
        |o| o["spec"]["principal"]["admin"] = json!(true),
        "the token of an administrator is never put into a Secret",
    ),
    (
        "MFA of an application",
        |o| o["spec"]["principal"]["requireMFA"] = json!(true),
        "requireMFA is for users and groups",
    ),
    (
        "an unknown type",
        |o| o["spec"]["principal"]["type"] = json!("Robot"),
        "Unsupported value",
    ),
    (
        "an object id that is no GUID",
        |o| o["spec"]["principal"]["objectId"] = json!("orders-api"),
        "spec.principal.objectId",
    ),
    (
        "a GUID without hyphens",
        |o| o["spec"]["principal"]["objectId"] = json!("5e41ce00000040008000000000000002"),
        "spec.principal.objectId",
    ),
    (
        "two identities",
        |o| o["spec"]["token"]["identity"]["operator"] = json!({}),
        "set exactly one of workloadIdentity, managedIdentity, clientSecret, clientCertificate, operator",
    ),
    (
        "the operator's own identity for a token in a Secret",
        |o| o["spec"]["token"]["identity"] = json!({"operator": {}}),
        "operator is for servers only",
    ),
    (
        "a path instead of a service account",
        |o| {
            o["spec"]["token"]["identity"] =
                workload_identity("../../kube-system/serviceaccounts/x");
        },
        "serviceAccountRef.name",
    ),
    (
        "a path instead of a Secret",
        |o| {
            o["spec"]["token"]["identity"] = json!({"clientSecret": {"tenantId": "t", "clientId": "c",
                "secretRef": {"name": "../../other/secrets/x", "key": "k"}}});
        },
        "secretRef.name",
    ),
    (
        "no identity",
        |o| o["spec"]["token"]["identity"] = json!({}),
        "set exactly one of workloadIdentity, managedIdentity, clientSecret, clientCertificate, operator",
    ),
    (
        "two ids of a managed identity",
        |o| {
            o["spec"]["token"]["identity"] =
                json!({"managedIdentity": {"clientId": "a", "objectId": "b"}});
        },
        "set at most one of clientId, objectId, resourceId",
    ),
    (
        "a client certificate of another namespace",
        |o| {
            o["spec"]["token"]["identity"] = json!({"clientCertificate": {
                "tenantId": "t", "clientId": "c", "secretRef": {"name": "a/b"},
            }});
        },
        "secretRef.name",
    ),
    (
        "both ways to say when to renew",
        |o| {
            o["spec"]["token"]["renewBefore"] = json!("10m");
            o["spec"]["token"]["renewBeforePercentage"] = json!(20);
        },
        "set at most one of renewBefore, renewBeforePercentage",
    ),
    (
        "a duration in days",
        |o| o["spec"]["token"]["renewBefore"] = json!("1d"),
        "spec.token.renewBefore in body should match",
    ),
    (
        "a duration without a unit",
        |o| o["spec"]["token"]["renewBefore"] = json!("60"),
        "spec.token.renewBefore in body should match",
    ),
    (
        "renewing at the end",
        |o| o["spec"]["token"]["renewBefore"] = json!("0s"),
        "must be more than 0s",
    ),
    (
        "more than two thirds of the life",
        |o| o["spec"]["token"]["renewBeforePercentage"] = json!(67),
        "renewBeforePercentage",
    ),
    (
        "a Secret's name that is none",
        |o| o["spec"]["token"]["secret"] = json!({"name": "Not_A_Name"}),
        "spec.token.secret.name",
    ),
    (
        "the same format twice",
        |o| o["spec"]["token"]["secret"] = json!({"formats": ["Env", "Env"]}),
        "spec.token.secret.formats",
    ),
    (
        "a Secret with nothing in it",
        |o| o["spec"]["token"]["secret"] = json!({"formats": []}),
        "name at least one format, or a key in template.data",
    ),
    (
        "a label that is none",
        |o| o["spec"]["token"]["secret"] = json!({"template": {"labels": {"a": "b c"}}}),
        "spec.token.secret.template.labels.a",
    ),
    (
        "a label of Kubernetes",
        |o| {
            o["spec"]["token"]["secret"] =
                json!({"template": {"labels": {"app.kubernetes.io/name": "b"}}});
        },
        "template.labels: names under kubernetes.io, k8s.io and entrapostgres.io are reserved",
    ),
    (
        "an annotation of ours",
        |o| {
            o["spec"]["token"]["secret"] =
                json!({"template": {"annotations": {"entrapostgres.io/expires-at": "b"}}});
        },
        "template.annotations: names under kubernetes.io, k8s.io and entrapostgres.io are reserved",
    ),
    (
        "a key that is a path",
        |o| o["spec"]["token"]["secret"] = json!({"template": {"data": {"../a": "b"}}}),
        "template.data: a key has at most 253 letters",
    ),
    (
        "a template of 16 KiB and more",
        |o| o["spec"]["token"]["secret"] = json!({"template": {"data": {"a": "b".repeat(16385)}}}),
        "spec.token.secret.template.data.a",
    ),
    (
        "a key that a format has",
        |o| {
            o["spec"]["token"]["secret"] =
                json!({"formats": ["Env"], "template": {"data": {"PGUSER": "b"}}});
        },
        "template.data: a key is written by one of the formats already",
    ),
    (
        "a mount that is no folder",
        |o| o["spec"]["token"]["secret"] = json!({"mountPath": "relative/path"}),
        "spec.token.secret.mountPath",
    ),
    (
        "an endpoint with a scheme",
        |o| o["spec"]["token"]["endpoint"] = json!({"host": "https://replica.example.com"}),
        "spec.token.endpoint.host",
    ),
    (
        "an endpoint that is none",
        |o| o["spec"]["token"]["endpoint"] = json!({}),
        "endpoint: set host, port or both",
    ),
    (
        "two places of the object id",
        |o| {
            o["spec"]["principal"] = json!({"type": "ManagedIdentity",
                "objectId": "5e41ce00-0000-4000-8000-000000000002",
                "objectIdFrom": {"configMapKeyRef": {"name": "ids", "key": "api"}}});
        },
        "set at most one of objectId, objectIdFrom",
    ),
    (
        "Reassign to nobody",
        |o| o["spec"]["deletionPolicy"] = json!("Reassign"),
        "deletionPolicy Reassign and reassignOwnedTo go together",
    ),
    (
        "Reassign to itself",
        |o| {
            o["spec"]["deletionPolicy"] = json!("Reassign");
            o["spec"]["reassignOwnedTo"] = json!("orders-api");
        },
        "reassignOwnedTo must be another role than roleName",
    ),
];

const ROLES: &[Case] = &[
    (
        "a member of itself",
        |o| o["spec"]["memberOf"] = json!([{"role": "orders-api"}]),
        "memberOf: a role cannot be a member of itself",
    ),
    (
        "the same membership twice",
        |o| o["spec"]["memberOf"] = json!([{"role": "a"}, {"role": "a", "admin": true}]),
        "duplicate entries for key [role=\"a\"]",
    ),
    (
        "SQL as the name of a setting",
        |o| o["spec"]["role"] = json!({"settings": {"work_mem = '1GB'; --": "1"}}),
        "settings: a name is a parameter of PostgreSQL",
    ),
    (
        "fewer than no connections",
        |o| o["spec"]["role"] = json!({"connectionLimit": -2}),
        "connectionLimit",
    ),
    (
        "a privilege that there is not",
        |o| o["spec"]["grants"] = json!([{"database": "d", "privileges": ["LOGIN"]}]),
        "Unsupported value",
    ),
    (
        "all privileges",
        |o| o["spec"]["grants"] = json!([{"database": "d", "privileges": ["ALL"]}]),
        "Unsupported value",
    ),
    (
        "a privilege of tables on a schema",
        |o| {
            o["spec"]["grants"] =
                json!([{"database": "d", "schema": "s", "privileges": ["SELECT"]}]);
        },
        "grants: on a schema there are USAGE, CREATE; for other privileges give objects",
    ),
    (
        "a template that does not say which objects",
        |o| {
            o["spec"]["grants"] = json!([{"database": "d", "schema": "s", "objects": "Tables",
                "privileges": ["SELECT"]}]);
        },
        "grants: with objects give exactly one of names and all: true",
    ),
    (
        "a list of no objects",
        |o| {
            o["spec"]["grants"] = json!([{"database": "d", "schema": "s", "objects": "Tables",
                "names": [], "privileges": ["SELECT"]}]);
        },
        "names",
    ),
    (
        "objects without a schema",
        |o| {
            o["spec"]["grants"] = json!([{"database": "d", "objects": "Tables", "all": true,
                "privileges": ["SELECT"]}]);
        },
        "grants: objects needs schema",
    ),
    (
        "a privilege that future functions cannot have",
        |o| {
            o["spec"]["defaultPrivileges"] = json!([{"database": "d", "schema": "s", "owner": "o",
                "objects": "Functions", "privileges": ["SELECT"]}]);
        },
        "defaultPrivileges: on functions there is EXECUTE",
    ),
];

// Red when: a rule is taken out of src/api (and crds/): its line is told as "was taken".
#[tokio::test]
async fn principals_that_break_a_rule_are_refused_with_what_to_do() -> Result<()> {
    namespace().await?;
    all_refused(|| principal("never"), NEW_PRINCIPALS).await?;
    all_refused(|| principal("never"), ROLES).await?;
    assert_eq!(stored("EntraPostgresPrincipal", "never").await?, None);
    Ok(())
}

const NEW_SERVERS: &[Case] = &[
    (
        "upper case",
        |o| o["spec"]["host"] = json!("Orders.postgres.database.azure.com"),
        "spec.host",
    ),
    (
        "a URL",
        |o| o["spec"]["host"] = json!("https://orders.postgres.database.azure.com"),
        "spec.host",
    ),
    (
        "a trailing dot",
        |o| o["spec"]["host"] = json!("orders.postgres.database.azure.com."),
        "spec.host",
    ),
    ("port 0", |o| o["spec"]["port"] = json!(0), "spec.port"),
    (
        "port 65536",
        |o| o["spec"]["port"] = json!(65536),
        "spec.port",
    ),
    (
        "no administrator",
        |o| o["spec"]["admins"] = json!([]),
        "spec.admins",
    ),
    (
        "six administrators",
        |o| {
            let admin = |n| json!({"roleName": format!("a{n}"), "identity": {"operator": {}}});
            o["spec"]["admins"] = (0..6).map(admin).collect();
        },
        "must have at most 5 items",
    ),
    (
        "an administrator twice",
        |o| {
            let admin = json!({"roleName": "a", "identity": {"operator": {}}});
            o["spec"]["admins"] = json!([admin, admin]);
        },
        "duplicate entries for key [roleName=\"a\"]",
    ),
    (
        "an administrator without identity",
        |o| o["spec"]["admins"][0]["identity"] = json!({}),
        "set exactly one of workloadIdentity, managedIdentity, clientSecret, clientCertificate, operator",
    ),
    (
        "two CAs",
        |o| {
            let ca = json!({"name": "ca", "key": "ca.crt"});
            o["spec"]["tls"] = json!({"caConfigMapRef": ca, "caSecretRef": ca});
        },
        "set exactly one of caConfigMapRef, caSecretRef",
    ),
    (
        "TLS without a CA",
        |o| o["spec"]["tls"] = json!({}),
        "set exactly one of caConfigMapRef, caSecretRef",
    ),
    (
        "names and selector",
        |o| o["spec"]["tenants"][0]["namespaces"]["selector"] = json!({}),
        "set exactly one of names, selector",
    ),
    (
        "neither names nor selector",
        |o| o["spec"]["tenants"][0]["namespaces"] = json!({}),
        "set exactly one of names, selector",
    ),
    (
        "a tenant without types",
        |o| o["spec"]["tenants"][0]["principalTypes"] = json!([]),
        "principalTypes",
    ),
    (
        "a role to be a member of, twice",
        |o| o["spec"]["tenants"][0]["memberOf"] = json!([{"role": "a"}, {"role": "a"}]),
        "duplicate entries for key [role=\"a\"]",
    ),
    (
        "grants in no schema at all",
        |o| {
            o["spec"]["tenants"][0]["grants"] = json!([{"database": "d", "schemas": [],
                "privileges": ["SELECT"]}]);
        },
        "schemas",
    ),
    (
        "an attribute that is none of those",
        |o| o["spec"]["tenants"][0]["attributes"] = json!(["Superuser"]),
        "Unsupported value",
    ),
    (
        "no time between two looks",
        |o| o["spec"]["resyncInterval"] = json!("0s"),
        "resyncInterval must be at least 1s",
    ),
    (
        "no time at all to connect",
        |o| o["spec"]["timeouts"] = json!({"connect": "0s"}),
        "must be more than 0s",
    ),
    (
        "no connection",
        |o| o["spec"]["limits"] = json!({"maxConnections": 0}),
        "maxConnections",
    ),
];

// Red when: a rule is taken out of src/api (and crds/): its line is told as "was taken".
#[tokio::test]
async fn servers_that_break_a_rule_are_refused_with_what_to_do() -> Result<()> {
    namespace().await?;
    all_refused(|| server("never"), NEW_SERVERS).await?;
    assert_eq!(stored("EntraPostgresServer", "never").await?, None);
    Ok(())
}

const CHANGED_PRINCIPALS: &[Case] = &[
    (
        "another server",
        |o| o["spec"]["serverRef"]["name"] = json!("other"),
        "serverRef is immutable: make another EntraPostgresPrincipal",
    ),
    (
        "another role",
        |o| o["spec"]["roleName"] = json!("Readers 2"),
        "roleName is immutable: make another EntraPostgresPrincipal",
    ),
    (
        "another type",
        |o| o["spec"]["principal"]["type"] = json!("User"),
        "principal.type is immutable",
    ),
    (
        "an administrator",
        |o| o["spec"]["principal"]["admin"] = json!(true),
        "principal.admin is immutable",
    ),
    (
        "MFA",
        |o| o["spec"]["principal"]["requireMFA"] = json!(true),
        "principal.requireMFA is immutable",
    ),
];

// Red when: a rule `self == oldSelf` is taken out of src/api (and crds/).
#[tokio::test]
async fn what_a_role_stands_on_cannot_be_changed() -> Result<()> {
    namespace().await?;
    let group = || {
        let mut group = principal("kept");
        group["spec"]["roleName"] = json!("Readers");
        group["spec"]["principal"] = json!({"type": "Group"});
        group["spec"]
            .as_object_mut()
            .expect("a spec")
            .remove("token");
        group
    };
    apply(&group()).await?;
    all_refused(group, CHANGED_PRINCIPALS).await?;
    // The object id is the consent to re-bind: it may change.
    let mut bound = group();
    bound["spec"]["principal"]["objectId"] = json!("9409b000-0000-4000-8000-000000000001");
    apply(&bound).await?;

    apply(&server("kept")).await?;
    let host: Case = (
        "another host",
        |o| o["spec"]["host"] = json!("other.postgres.database.azure.com"),
        "host is immutable: make another EntraPostgresServer",
    );
    all_refused(|| server("kept"), &[host]).await
}

#[tokio::test]
async fn odd_names_are_taken_and_a_new_object_waits_to_be_seen() -> Result<()> {
    namespace().await?;
    let names = [
        "o'brien \"x\" \\ y",
        "guest_user_example.com#EXT#@contoso.onmicrosoft.com",
        "100 % äöü 漢字 🐘",
        "Public",
        " padded ",
        &format!("{}x", "ü".repeat(31)),
        &"x".repeat(63),
    ];
    for (index, name) in names.iter().enumerate() {
        let mut object = principal(&format!("odd-{index}"));
        object["spec"]["roleName"] = json!(name);
        apply(&object).await?;
    }
    // No operator looks into this namespace: kstatus takes -1 for "in progress".
    for (kind, name) in [
        ("EntraPostgresPrincipal", "odd-0"),
        ("EntraPostgresServer", "fresh"),
    ] {
        if kind == "EntraPostgresServer" {
            apply(&server(name)).await?;
        }
        let object = stored(kind, name).await?.expect("it was just applied");
        assert_eq!(object["status"]["observedGeneration"], -1, "{kind}");
    }
    Ok(())
}
