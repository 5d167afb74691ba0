//! Where the definitions have defaults, and that what they leave out means the same.

use serde_json::{Value, json};

use super::*;

/// The paths of all defaults below a list, as a tool that compares manifests meets them.
fn below_lists(schema: &Value, path: &str, in_list: bool, found: &mut Vec<String>) {
    if in_list && schema.get("default").is_some() {
        found.push(path.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        below_lists(property, &format!("{path}.{name}"), in_list, found);
    }
    for (key, mark, lists) in [
        ("items", "[]", true),
        ("additionalProperties", "{}", in_list),
    ] {
        if let Some(inner) = schema.get(key).filter(|inner| inner.is_object()) {
            below_lists(inner, &format!("{path}{mark}"), lists, found);
        }
    }
}

// Red when: finish() in crds.rs leaves the defaults of the types in.
#[test]
fn no_item_of_a_list_has_a_default_that_a_gitops_tool_would_see_as_a_difference() {
    for crd in crds::crds() {
        for version in &crd.spec.versions {
            let schema = serde_json::to_value(&version.schema).expect("a schema");
            let mut found = Vec::new();
            below_lists(&schema["openAPIV3Schema"], "", false, &mut found);
            assert_eq!(found, Vec::<String>::new(), "{}", crd.spec.names.kind);
        }
    }
}

#[test]
fn what_is_left_out_of_an_item_means_what_its_description_says() {
    let left_out = with(
        principal(),
        &[("/spec/memberOf", json!([{"role": "readers"}]))],
    );
    let parsed: EntraPostgresPrincipal = serde_json::from_value(left_out).expect("parses");
    let member = parsed.spec.member_of.first().expect("one");
    assert!(member.inherit && member.set && !member.admin);
    let object = with(
        server(),
        &[("/spec/tenants/0/memberOf", json!([{"role": "readers"}]))],
    );
    let parsed: EntraPostgresServer = serde_json::from_value(object.clone()).expect("parses");
    // As it was stored while the definition still filled these in.
    let stored = with(
        object,
        &[
            ("/spec/tenants/0/admin", json!(false)),
            ("/spec/tenants/0/adoption", json!(["SameIdentity"])),
            (
                "/spec/tenants/0/deletionPolicies",
                json!(["Retain", "Drop"]),
            ),
            ("/spec/tenants/0/memberOf/0/admin", json!(false)),
        ],
    );
    let stored: EntraPostgresServer = serde_json::from_value(stored).expect("parses");
    assert_eq!(parsed.spec.tenants, stored.spec.tenants);
}
