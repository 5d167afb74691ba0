//! The rules for the Secret: formats, template, endpoint.

use serde_json::json;

use super::{EntraPostgresPrincipal, accepted, principal, refused};

#[test]
fn a_secret_that_can_be_is_accepted() {
    let template = json!({
        "labels": {"team": "a", "example.com/part-of": "b", "empty": ""},
        "annotations": {"argocd.argoproj.io/sync-options": "anything goes: here"},
        "data": {"jdbc-url": "jdbc:postgresql://{{ host }}/", ".env_1": "x", "password": "{{ token }}"},
    });
    let secret = json!({"formats": ["Env", "PgPass", "Uri", "Conninfo", "Json"], "mountPath": "/etc/db",
                        "template": template});
    accepted::<EntraPostgresPrincipal>(&principal(), &[("/spec/token/secret", secret)]);
    for secret in [
        json!({}),
        json!({"formats": [], "template": {"data": {"t": "{{ token }}"}}}),
        json!({"template": {"labels": {"a": "b"}}}),
    ] {
        accepted::<EntraPostgresPrincipal>(&principal(), &[("/spec/token/secret", secret)]);
    }
    for endpoint in [
        json!({"port": 6432}),
        json!({"host": "replica.example.com"}),
    ] {
        accepted::<EntraPostgresPrincipal>(&principal(), &[("/spec/token/endpoint", endpoint)]);
    }
}

#[test]
fn a_secret_that_cannot_be_is_refused() {
    let template = |field: &str, key: &str, text: &str| json!({"formats": ["ServiceBinding"], "template": {field: {key: text}}});
    let of =
        |format: &str, key: &str| json!({"formats": [format], "template": {"data": {key: "x"}}});
    let label = "template.labels: a name is as Kubernetes has them, for example example.com/team";
    let reserved =
        "template.labels: names under kubernetes.io, k8s.io and entrapostgres.io are reserved";
    let annotation =
        "template.annotations: a name is as Kubernetes has them, for example example.com/owner";
    let kept =
        "template.annotations: names under kubernetes.io, k8s.io and entrapostgres.io are reserved";
    let key = "template.data: a key has at most 253 letters, digits, '-', '_' and '.', and does not start with '..'";
    let taken = "template.data: a key is written by one of the formats already: choose another key, or remove the format";
    let none = "name at least one format, or a key in template.data";
    let table = [
        (json!({"formats": []}), none),
        (
            json!({"formats": [], "template": {"labels": {"a": "b"}}}),
            none,
        ),
        (template("labels", "a b", "x"), label),
        (template("labels", "-a", "x"), label),
        (template("labels", "UPPER.io/a", "x"), label),
        (
            template("labels", "app.kubernetes.io/managed-by", "x"),
            reserved,
        ),
        (template("labels", "kubernetes.io/a", "x"), reserved),
        (template("labels", "x-k8s.io.k8s.io/a", "x"), reserved),
        (template("labels", "entrapostgres.io/a", "x"), reserved),
        (template("annotations", "a/b/c", "x"), annotation),
        (
            template("annotations", "entrapostgres.io/token-sha256", "x"),
            kept,
        ),
        (
            template("annotations", "kubectl.kubernetes.io/x", "x"),
            kept,
        ),
        (template("data", "a b", "x"), key),
        (template("data", "a/b", "x"), key),
        (template("data", "..a", "x"), key),
        (template("data", ".", "x"), key),
        (of("ServiceBinding", "password"), taken),
        (of("ServiceBinding", "certificates"), taken),
        (of("Env", "PGPASSWORD"), taken),
        (of("Env", "ca.crt"), taken),
        (of("PgPass", "pgpass"), taken),
        (of("Uri", "uri"), taken),
        (of("Conninfo", "conninfo"), taken),
        (of("Json", "token.json"), taken),
    ];
    for (secret, message) in table {
        refused::<EntraPostgresPrincipal>(&principal(), &[("/spec/token/secret", secret)], message);
    }
    let endpoint = ("/spec/token/endpoint", json!({}));
    let message = "endpoint: set host, port or both";
    refused::<EntraPostgresPrincipal>(&principal(), &[endpoint], message);
}

#[test]
fn a_template_has_so_many_characters_at_most() {
    let data = |n: usize| {
        let data: std::collections::BTreeMap<String, String> = (0..n)
            .map(|n| (format!("k{n}"), "x".repeat(16_384)))
            .collect();
        [("/spec/token/secret", json!({"template": {"data": data}}))]
    };
    accepted::<EntraPostgresPrincipal>(&principal(), &data(3));
    let message = "template.data: at most 49152 characters in all; put what has no placeholder into a ConfigMap";
    refused::<EntraPostgresPrincipal>(&principal(), &data(4), message);
}
