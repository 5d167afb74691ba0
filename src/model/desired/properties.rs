//! Whatever an object declares, parsing it ends without a panic and costs what the object costs.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::testing::cost;

/// What is parsed may print as so many times the object, and a fixed part.
const TIMES: usize = 12;
const FIXED: usize = 20_000;
/// What parsing holds at once for each byte of the object, takes in all, and a fixed part: the engine of
/// templates.
const PEAK: usize = 24;
const TOTAL: usize = 120;
const ENGINE: usize = 1_000_000;

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-z_]{1,12}",
        1 => "\\PC{0,80}",
        1 => Just("a\0b".to_owned()),
        1 => Just("x".repeat(70)),
        1 => Just("{{ token".to_owned()),
    ]
}

fn any_grant() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        Just(Value::Null),
        vec("[a-z]{1,8}", 1..256).prop_map(|names| json!(names)),
        vec(any_text(), 1..4).prop_map(|names| json!(names)),
    ];
    let objects = prop_oneof![
        Just(Value::Null),
        Just(json!("Tables")),
        Just(json!("Functions"))
    ];
    let schema = prop_oneof![Just(Value::Null), any_text().prop_map(|text| json!(text))];
    let privileges = Just(json!([
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
        "MAINTAIN"
    ]));
    let all = prop_oneof![Just(Value::Null), Just(json!(true))];
    (any_text(), schema, objects, names, privileges, all).prop_map(
        |(database, schema, objects, names, privileges, all)| {
            let entry = json!({"database": database, "schema": schema, "objects": objects,
                "names": names, "privileges": privileges, "all": all});
            without_null(entry)
        },
    )
}

fn without_null(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    value
}

fn any_object() -> impl Strategy<Value = Value> {
    let settings = btree_map(any_text(), any_text(), 0..8);
    let members = vec(any_text(), 0..8);
    let template = btree_map(
        "[a-z.]{1,8}",
        "([a-z]|\\{\\{ [a-z]{1,6} \\}\\}|\\{% if x %\\}|\\{\\{){0,40}",
        0..4,
    );
    let heir = prop_oneof![Just(Value::Null), any_text().prop_map(|text| json!(text))];
    (
        any_text(),
        vec(any_grant(), 0..24),
        settings,
        members,
        template,
        (any_text(), heir),
    )
        .prop_map(
            |(role, grants, settings, members, template, (database, heir))| {
                let members: Vec<Value> = members
                    .into_iter()
                    .map(|role| json!({"role": role}))
                    .collect();
                let token = json!({"database": database, "secret": {"template": {"data": template}},
                "identity": {"workloadIdentity": {"serviceAccountRef": {"name": "app"}}}});
                let spec = json!({"serverRef": {"name": "s"}, "roleName": role, "grants": grants,
                "principal": {"type": "ManagedIdentity"}, "memberOf": members,
                "role": {"settings": settings}, "reassignOwnedTo": heir, "token": token});
                json!({"apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
                "metadata": {"name": "app", "namespace": "orders"}, "spec": without_null(spec)})
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // Red when: what is parsed has an entry for each name and privilege.
    #[test]
    fn parsing_any_object_costs_what_the_object_costs(object in any_object()) {
        let size = object.to_string().len();
        let object: EntraPostgresPrincipal = serde_json::from_value(object).expect("a principal");
        let cost = cost(|| drop(Desired::parse(&object)));
        let (most, all) = ((PEAK * size + ENGINE) as u64, (TOTAL * size + ENGINE) as u64);
        prop_assert!(cost.peak <= most, "{size} bytes took {} at once", cost.peak);
        prop_assert!(cost.total <= all, "{size} bytes took {}", cost.total);
        for desired in [Desired::parse(&object).ok(), Desired::of_deleted(&object)].into_iter().flatten() {
            let parsed = format!("{desired:?}").len();
            prop_assert!(parsed <= TIMES * size + FIXED, "{size} bytes became {parsed}");
        }
    }
}
