//! Tenants as a whole: a server's owner who extends an entry, or adds one, takes nothing away.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{judge, merge, principal, wishes};

/// Some of a field's values.
fn some(values: Vec<Value>) -> impl Strategy<Value = Vec<Value>> {
    let most = values.len();
    proptest::sample::subsequence(values, 0..=most)
}

/// The fields of an entry that are lists.
fn lists() -> impl Strategy<Value = Value> {
    let grants = [
        json!({"database": "orders", "privileges": ["CONNECT", "CREATE"]}),
        json!({"database": "o*", "schemas": ["app"], "privileges": ["SELECT", "CONNECT"]}),
        json!({"database": "*", "schemas": ["*"], "privileges": ["USAGE", "EXECUTE", "INSERT", "SELECT"]}),
    ];
    let members = ["readers", "azure_pg_admin", "heir", "pg-operators"]
        .map(|role| json!({"role": role, "admin": true}));
    let words = |words: &[&str]| words.iter().map(|word| json!(word)).collect::<Vec<_>>();
    let types = words(&["User", "Group"]);
    let names = words(&["orders-*", "orders-api", "*"]);
    let attributes = words(&["CreateDb", "CreateRole"]);
    let adoption = words(&["SameIdentity", "Any"]);
    let deletion = words(&["Drop", "Reassign"]);
    let fields = (
        some(types),
        some(names),
        any::<bool>(),
        some(members.to_vec()),
        some(grants.to_vec()),
        some(attributes),
        some(adoption),
        some(deletion),
    );
    fields.prop_map(
        |(types, names, admin, members, grants, attributes, adoption, deletion)| {
            json!({
                "namespaces": {"names": ["orders"]}, "admin": admin,
                "principalTypes": types, "roleNames": names, "memberOf": members, "grants": grants,
                "attributes": attributes, "adoption": adoption, "deletionPolicies": deletion,
            })
        },
    )
}

/// Few, so that many of them are allowed.
fn few_wishes() -> impl Strategy<Value = Vec<Value>> {
    let wishes: Vec<Value> = wishes().into_iter().map(|(wish, ..)| wish).collect();
    proptest::sample::subsequence(wishes, 0..=2)
}

/// The entry with all that the other has.
fn extended(entry: &Value, by: &Value) -> Value {
    let mut entry = entry.clone();
    for (name, value) in by.as_object().expect("fields") {
        if let (Some(has), Some(more)) = (entry[name].as_array().cloned(), value.as_array()) {
            entry[name] = [has, more.clone()].concat().into();
        }
    }
    entry["admin"] = json!(entry["admin"] == true || by["admin"] == true);
    entry
}

proptest! {
    // Red when: a name or grant of one entry is made to narrow what another gives.
    #[test]
    fn extending_an_entry_forbids_nothing(
        entry in lists(), more in lists(), other in lists(), wishes in few_wishes(),
    ) {
        let mut wish = json!({});
        for one in &wishes {
            merge(&mut wish, one);
        }
        let desired = principal("Group", "orders-api", &wish);
        let before = judge(&json!([entry]), &desired);
        for tenants in [json!([extended(&entry, &more)]), json!([entry, other]), json!([other, entry])] {
            let after = judge(&tenants, &desired);
            if let Ok(literal) = before {
                prop_assert!(after.clone().is_ok_and(|now| now || !literal), "{tenants}: {after:?}");
            }
        }
    }
}
