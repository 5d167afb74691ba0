//! The custom resource definitions as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{EntraPostgresPrincipal, EntraPostgresServer};

/// Both definitions, in the order they are installed.
///
/// Beyond what the types give: optional fields are absent and never null, and a new object starts
/// with `status.observedGeneration: -1`, so that kstatus sees it as in progress from the first
/// moment. Below a list there are no defaults: tools that compare what is stored with a manifest compare
/// lists as a whole, and would see a difference for ever. The types fill them in. Descriptions flow: `kubectl explain` breaks the lines, and keeps breaks that are there.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        finish(&EntraPostgresServer::crd()),
        finish(&EntraPostgresPrincipal::crd()),
    ]
}

#[expect(
    clippy::expect_used,
    reason = "our own definitions; the tests build them"
)]
fn finish(crd: &CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a definition is JSON");
    strip_nullable(&mut value);
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    if let Some(schema) = value.pointer_mut(schema) {
        strip_defaults(schema, false);
    }
    flow(&mut value);
    put(
        &mut value,
        "/spec/versions/0/schema/openAPIV3Schema/properties/status",
        "default",
        json!({"observedGeneration": -1}),
    );
    if crd.spec.names.kind == "EntraPostgresPrincipal" {
        // https://servicebinding.io/spec/core/1.1.0/#provisioned-service
        let labels = json!({"servicebinding.io/provisioned-service": "true"});
        put(&mut value, "/metadata", "labels", labels);
    }
    serde_json::from_value(value).expect("still a definition")
}

fn put(value: &mut Value, at: &str, key: &str, what: Value) {
    let place = value.pointer_mut(at).and_then(Value::as_object_mut);
    if let Some(place) = place {
        place.insert(key.to_owned(), what);
    }
}

/// Takes the line breaks out of the paragraphs of descriptions.
fn flow(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("description") {
                let paragraphs = text.split("\n\n");
                let flowing = paragraphs.map(|text| text.lines().collect::<Vec<_>>().join(" "));
                *text = flowing.collect::<Vec<_>>().join("\n\n");
            }
            map.values_mut().for_each(flow);
        }
        Value::Array(items) => items.iter_mut().for_each(flow),
        _ => {}
    }
}

/// Takes the defaults out of the schemas of items of lists.
fn strip_defaults(schema: &mut Value, below_a_list: bool) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if below_a_list {
        schema.remove("default");
    }
    if let Some(items) = schema.get_mut("items") {
        strip_defaults(items, true);
    }
    if let Some(values) = schema.get_mut("additionalProperties") {
        strip_defaults(values, below_a_list);
    }
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(|map| map.values_mut()) {
        strip_defaults(property, below_a_list);
    }
}

fn strip_nullable(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            map.values_mut().for_each(strip_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nullable),
        _ => {}
    }
}
