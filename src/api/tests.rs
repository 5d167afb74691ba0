//! The rules of the two kinds: each refuses what it should, with its own words, and good objects
//! pass. The API server evaluates the same rules from the installed definitions.

use std::fmt::Debug;

use kube::CustomResourceExt;
use kube_core::cel::{validate_cel, validate_cel_update};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{EntraPostgresPrincipal, EntraPostgresServer, crds};

mod defaults;
mod rights;
mod secret;

fn principal() -> Value {
    json!({
        "apiVersion": "entrapostgres.io/v1alpha1",
        "kind": "EntraPostgresPrincipal",
        "metadata": {"name": "app", "namespace": "orders"},
        "spec": {
            "serverRef": {"name": "orders", "namespace": "platform"},
            "roleName": "orders-app",
            "principal": {"type": "ManagedIdentity"},
            "token": {"identity": {"workloadIdentity": {"serviceAccountRef": {"name": "app"}}}},
        },
    })
}

fn server() -> Value {
    json!({
        "apiVersion": "entrapostgres.io/v1alpha1",
        "kind": "EntraPostgresServer",
        "metadata": {"name": "orders", "namespace": "platform"},
        "spec": {
            "host": "orders.postgres.database.azure.com",
            "admins": [{"roleName": "pg-operators", "identity": {"operator": {}}}],
            "tenants": [{
                "namespaces": {"names": ["orders"]},
                "principalTypes": ["ManagedIdentity"],
                "roleNames": ["orders-*"],
            }],
        },
    })
}

/// The object with the value at a JSON pointer replaced; `null` removes it.
fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).expect("the parent is there");
        if value.is_null() {
            parent.as_object_mut().expect("an object").remove(key);
        } else {
            parent[key] = value.clone();
        }
    }
    object
}

fn typed<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"))
}

/// What the rules say against making the object, or changing `old` into it.
fn refusals<K>(object: &Value, old: Option<&Value>) -> String
where
    K: CustomResourceExt + Serialize + DeserializeOwned + Debug,
{
    let object: K = typed(object);
    let outcome = match old {
        Some(old) => validate_cel_update(&object, &typed::<K>(old)),
        None => validate_cel(&object),
    };
    outcome
        .err()
        .map(|errors| errors.to_string())
        .unwrap_or_default()
}

#[track_caller]
fn refused<K>(good: &Value, changes: &[(&str, Value)], message: &str)
where
    K: CustomResourceExt + Serialize + DeserializeOwned + Debug,
{
    let found = refusals::<K>(&with(good.clone(), changes), None);
    assert!(
        found.contains(message),
        "{changes:?}: {found:?} lacks {message:?}"
    );
}

#[track_caller]
fn accepted<K>(good: &Value, changes: &[(&str, Value)])
where
    K: CustomResourceExt + Serialize + DeserializeOwned + Debug,
{
    assert_eq!(
        refusals::<K>(&with(good.clone(), changes), None),
        "",
        "{changes:?}"
    );
}

#[track_caller]
fn unchangeable<K>(good: &Value, changes: &[(&str, Value)], message: &str)
where
    K: CustomResourceExt + Serialize + DeserializeOwned + Debug,
{
    let after = with(good.clone(), changes);
    assert_eq!(
        refusals::<K>(&after, None),
        "",
        "{changes:?}: good by itself"
    );
    let found = refusals::<K>(&after, Some(good));
    assert!(
        found.contains(message),
        "{changes:?}: {found:?} lacks {message:?}"
    );
}

const TYPE: &str = "/spec/principal/type";
const ADMIN: &str = "/spec/principal/admin";
const MFA: &str = "/spec/principal/requireMFA";
const TOKEN: &str = "/spec/token";
const IDENTITY: &str = "/spec/token/identity";

fn certificate() -> Value {
    json!({"clientCertificate": {"tenantId": "t", "clientId": "c", "secretRef": {"name": "app"}}})
}

#[test]
fn good_principals_are_accepted() {
    let good = principal();
    for changes in [
        vec![],
        vec![(TYPE, json!("User")), (TOKEN, Value::Null)],
        vec![
            (TYPE, json!("User")),
            (TOKEN, Value::Null),
            (MFA, json!(true)),
        ],
        vec![(TYPE, json!("Group")), (MFA, json!(true))],
        vec![(ADMIN, json!(true)), (TOKEN, Value::Null)],
        vec![("/spec/roleName", json!("ü".repeat(31)))],
        vec![("/spec/roleName", json!("o'brien \"x\" \\ %"))],
        vec![("/spec/token/renewBefore", json!("20m"))],
        vec![("/spec/token/renewBeforePercentage", json!(66))],
        vec![(IDENTITY, json!({"managedIdentity": {"clientId": "a"}}))],
        vec![(IDENTITY, json!({"managedIdentity": {"resourceId": "a"}}))],
        vec![(IDENTITY, json!({"managedIdentity": {}}))],
        vec![(IDENTITY, certificate())],
    ] {
        accepted::<EntraPostgresPrincipal>(&good, &changes);
    }
}

#[test]
fn each_rule_of_a_principal_refuses_in_its_own_words() {
    let role = "/spec/roleName";
    let one_identity = "set exactly one of workloadIdentity, managedIdentity, clientSecret, clientCertificate, operator";
    let one_id = "set at most one of clientId, objectId, resourceId";
    let reserved = "roleName is reserved by PostgreSQL or Azure";
    let managed = "/spec/token/identity/managedIdentity";
    let no_mfa = "requireMFA is for users and groups";
    let table: Vec<(Vec<(&str, Value)>, &str)> = vec![
        (vec![(TYPE, json!("User"))], "a user gets their own token"),
        (
            vec![(ADMIN, json!(true))],
            "the token of an administrator is never put into a Secret",
        ),
        (
            vec![(role, json!("ü".repeat(32)))],
            "roleName must be at most 63 bytes",
        ),
        (vec![(role, json!("pg_monitor"))], reserved),
        (vec![(role, json!("azuresu"))], reserved),
        (vec![(role, json!("azure_pg_admin"))], reserved),
        (vec![(role, json!("none"))], reserved),
        (vec![(MFA, json!(true))], no_mfa),
        (
            vec![(MFA, json!(true)), (TYPE, json!("ServicePrincipal"))],
            no_mfa,
        ),
        (
            vec![
                ("/spec/token/renewBefore", json!("20m")),
                ("/spec/token/renewBeforePercentage", json!(20)),
            ],
            "set at most one of renewBefore, renewBeforePercentage",
        ),
        (
            vec![("/spec/token/renewBefore", json!("0s"))],
            "must be more than 0s",
        ),
        (
            vec![(IDENTITY, json!({"operator": {}}))],
            "operator is for servers only: whoever reads the Secret",
        ),
        (vec![(IDENTITY, json!({}))], one_identity),
        (
            vec![("/spec/token/identity/operator", json!({}))],
            one_identity,
        ),
        (
            vec![
                (IDENTITY, certificate()),
                ("/spec/token/identity/operator", json!({})),
            ],
            one_identity,
        ),
        (
            vec![
                (IDENTITY, json!({"managedIdentity": {}})),
                (managed, json!({"clientId": "a", "objectId": "b"})),
            ],
            one_id,
        ),
    ];
    for (changes, message) in table {
        refused::<EntraPostgresPrincipal>(&principal(), &changes, message);
    }
}

#[test]
fn what_a_principal_is_cannot_be_changed() {
    let untokened = with(principal(), &[(TOKEN, Value::Null), (TYPE, json!("Group"))]);
    let table: Vec<((&str, Value), &str)> = vec![
        (
            ("/spec/serverRef/name", json!("other")),
            "serverRef is immutable",
        ),
        (
            ("/spec/serverRef/namespace", Value::Null),
            "serverRef is immutable",
        ),
        (("/spec/roleName", json!("other")), "roleName is immutable"),
        ((TYPE, json!("User")), "principal.type is immutable"),
        ((ADMIN, json!(true)), "principal.admin is immutable"),
        ((MFA, json!(true)), "principal.requireMFA is immutable"),
    ];
    for (change, message) in table {
        unchangeable::<EntraPostgresPrincipal>(&untokened, &[change], message);
    }
    let id = "11111111-1111-1111-1111-111111111111";
    let changed = with(principal(), &[("/spec/principal/objectId", json!(id))]);
    let found = refusals::<EntraPostgresPrincipal>(&changed, Some(&principal()));
    assert_eq!(found, "", "another object id is the consent to bind again");
}

#[test]
fn good_servers_are_accepted() {
    for changes in [
        vec![],
        vec![(
            "/spec/tls",
            json!({"caConfigMapRef": {"name": "ca", "key": "ca.crt"}}),
        )],
        vec![("/spec/resyncInterval", json!("1s"))],
        vec![("/spec/tenants/0/namespaces", json!({"selector": {}}))],
        vec![("/spec/timeouts", json!({"connect": "1s"}))],
    ] {
        accepted::<EntraPostgresServer>(&server(), &changes);
    }
}

#[test]
fn each_rule_of_a_server_refuses_in_its_own_words() {
    let key = json!({"name": "ca", "key": "ca.crt"});
    let one_ca = "set exactly one of caConfigMapRef, caSecretRef";
    let one_match = "set exactly one of names, selector";
    let positive = "must be more than 0s";
    let table: Vec<((&str, Value), &str)> = vec![
        (("/spec/tls", json!({})), one_ca),
        (
            (
                "/spec/tls",
                json!({"caConfigMapRef": key, "caSecretRef": key}),
            ),
            one_ca,
        ),
        (
            ("/spec/resyncInterval", json!("999ms")),
            "resyncInterval must be at least 1s",
        ),
        (("/spec/tenants/0/namespaces", json!({})), one_match),
        (
            ("/spec/tenants/0/namespaces/selector", json!({})),
            one_match,
        ),
        (("/spec/timeouts", json!({"connect": "0s"})), positive),
        (("/spec/timeouts", json!({"statement": "0s"})), positive),
        (("/spec/timeouts", json!({"lock": "0s"})), positive),
        (
            (
                "/spec/admins/0/identity",
                json!({"operator": {}, "managedIdentity": {"clientId": "a"}}),
            ),
            "set exactly one of workloadIdentity",
        ),
    ];
    for (change, message) in table {
        refused::<EntraPostgresServer>(&server(), &[change], message);
    }
    let host = ("/spec/host", json!("other.postgres.database.azure.com"));
    unchangeable::<EntraPostgresServer>(&server(), &[host], "host is immutable");
}

// Red when: a field that is a duration has no pattern, or says no example.
#[test]
fn every_duration_has_a_pattern_and_an_example() {
    let mut durations = 0;
    for crd in crds() {
        let value = serde_json::to_value(&crd).expect("JSON");
        with_rule(&value, "duration(self)", &mut |field| {
            durations += 1;
            assert_eq!(field["pattern"], super::DURATION, "{field}");
            let description = field["description"].as_str().unwrap_or_default();
            assert!(description.contains("or example "), "{field}");
        });
    }
    assert_eq!(durations, 5);
    for rule in [super::POSITIVE, super::A_SECOND] {
        let guard = format!("!self.matches('{}') || ", super::DURATION);
        assert!(rule.starts_with(&guard), "{rule}");
    }
}

fn with_rule(value: &Value, rule: &str, each: &mut impl FnMut(&Value)) {
    if let Value::Object(map) = value {
        let rules = map.get("x-kubernetes-validations").map(Value::to_string);
        if rules.is_some_and(|rules| rules.contains(rule)) {
            each(value);
        }
        map.values().for_each(|inner| with_rule(inner, rule, each));
    }
    if let Value::Array(items) = value {
        for inner in items {
            with_rule(inner, rule, each);
        }
    }
}

// Red when: an enum's field does not explain a value, or a default is not said.
#[test]
fn every_default_and_every_value_is_explained() {
    for crd in crds() {
        let value = serde_json::to_value(&crd).expect("JSON");
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        explained(value.pointer(spec).expect("a spec"));
    }
}

/// Fields whose values are the words of SQL.
const OF_SQL: [&str; 1] = ["privileges"];

fn explained(fields: &Value) {
    for (name, field) in fields.as_object().into_iter().flatten() {
        let description = field["description"].as_str().unwrap_or_default();
        let default = &field["default"];
        assert!(
            default.is_null() || default.is_object() || description.contains("Default: "),
            "{name} has a default: {description}"
        );
        let values = field.get("enum").or(field.pointer("/items/enum"));
        let values = values.and_then(Value::as_array);
        let values = values.filter(|_| !OF_SQL.contains(&name.as_str()));
        for value in values.into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            assert!(
                description.contains(value),
                "{name}: {value}: {description}"
            );
        }
        explained(&field["properties"]);
        explained(&field["items"]["properties"]);
    }
}

#[test]
fn every_rule_in_the_definitions_is_in_these_tables() {
    let source = [
        include_str!("tests.rs"),
        include_str!("tests/rights.rs"),
        include_str!("tests/secret.rs"),
    ]
    .concat();
    let mut messages = Vec::new();
    for crd in crds() {
        collect(&serde_json::to_value(crd).expect("JSON"), &mut messages);
    }
    assert!(messages.len() > 15, "{messages:?}");
    for message in messages {
        assert!(
            source.contains(start(&message)),
            "no test of the rule {message:?}"
        );
    }
}

/// What tells a message from others: up to the first colon or comma that has more than one word before.
fn start(message: &str) -> &str {
    let mut starts = message
        .match_indices([':', ','])
        .map(|(at, _)| &message[..at]);
    starts.find(|start| start.contains(' ')).unwrap_or(message)
}

fn collect(value: &Value, messages: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let rules = map
                .get("x-kubernetes-validations")
                .and_then(Value::as_array);
            for rule in rules.into_iter().flatten() {
                let message = rule["message"].as_str().expect("every rule has a message");
                messages.push(message.to_owned());
            }
            map.values().for_each(|inner| collect(inner, messages));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, messages)),
        _ => {}
    }
}

#[test]
fn definitions_have_no_null_no_foreign_format_and_start_unobserved() {
    for crd in crds() {
        let value = serde_json::to_value(&crd).expect("JSON");
        let text = value.to_string();
        assert!(!text.contains("nullable"), "optional means absent");
        for format in ["uint", "\"float\"", "\"int8\"", "\"int16\""] {
            assert!(
                !text.contains(format),
                "the API server does not know {format}"
            );
        }
        let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/default";
        assert_eq!(
            value.pointer(status),
            Some(&json!({"observedGeneration": -1}))
        );
    }
}

/// Go reads these words as booleans, and our writer does not quote them.
#[test]
fn no_text_in_the_definitions_is_read_as_a_boolean() {
    for crd in crds() {
        let value = serde_json::to_value(&crd).expect("JSON");
        let mut texts = Vec::new();
        strings(&value, &mut texts);
        for text in texts {
            let trap = ["y", "n", "yes", "no", "on", "off", "=", "<<"];
            assert!(!trap.contains(&text.to_lowercase().as_str()), "{text:?}");
        }
    }
}

fn strings(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, texts)),
        Value::Object(map) => {
            texts.extend(map.keys().cloned());
            map.values().for_each(|item| strings(item, texts));
        }
        _ => {}
    }
}
