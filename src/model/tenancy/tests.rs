//! Tenants: what each field gives and keeps, against a principal that asks for what is not its own.

use serde_json::{Value, json};

use super::*;
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::model::{Cloud, ObjectKey};

mod property;

fn server(tenants: &Value) -> DesiredServer {
    let object: EntraPostgresServer = serde_json::from_value(json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresServer",
        "metadata": {"name": "orders", "namespace": "platform", "uid": "s"},
        "spec": {
            "host": "orders.postgres.database.azure.com",
            "admins": [
                {"roleName": "pg-operators", "identity": {"operator": {}}},
                {"roleName": "pg-spare", "identity": {"operator": {}}},
            ],
            "tenants": tenants,
        },
    }))
    .expect("a server");
    let clouds = Cloud::built_in().into_iter();
    let clouds = clouds.map(|cloud| (cloud.name.clone(), cloud.into()));
    DesiredServer::parse(&object, &clouds.collect()).expect("parses")
}

/// A principal of namespace `orders`, with these fields of its spec replaced.
fn principal(kind: &str, role: &str, fields: &Value) -> Desired {
    let mut object = json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": "EntraPostgresPrincipal",
        "metadata": {"name": "p", "namespace": "orders", "uid": "p"},
        "spec": {
            "serverRef": {"name": "orders", "namespace": "platform"},
            "roleName": role, "principal": {"type": kind},
        },
    });
    merge(&mut object["spec"], fields);
    let object: EntraPostgresPrincipal = serde_json::from_value(object).expect("a principal");
    Desired::parse(&object).expect("parses")
}

fn merge(object: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().expect("fields") {
        object[name] = value.clone();
    }
}

/// An entry for groups of namespace `orders` with role names `orders-*`, and these fields.
fn entry(fields: &Value) -> Value {
    let mut entry = json!({
        "namespaces": {"names": ["orders"]},
        "principalTypes": ["Group"], "roleNames": ["orders-*"],
    });
    merge(&mut entry, fields);
    entry
}

fn judge(tenants: &Value, desired: &Desired) -> Result<bool, Failure> {
    let allowed = check(&server(tenants), desired, &BTreeMap::new());
    allowed.map(|allowance| allowance.literal)
}

fn reason(tenants: &Value, kind: &str, role: &str) -> Result<bool, Reason> {
    judge(tenants, &principal(kind, role, &json!({}))).map_err(|failure| failure.reason)
}

// Red when: allowance() takes the principal's own annotation, or a word or consent for another one, or Any of
// an entry that is not for it.
#[test]
fn who_opens_a_role_and_binds_it_anew_is_the_servers_owner() {
    let mut ours = principal("Group", "orders-api", &json!({}));
    ours.restore = Some("mine".to_owned());
    let of = |tenants: &Value, words: &[(&str, &str)]| {
        let mut server = server(tenants);
        let word =
            |(name, word): &(&str, &str)| (ObjectKey::new("orders", *name), (*word).to_owned());
        server.restore = words.iter().map(word).collect();
        server.discard = server.restore.clone();
        check(&server, &ours, &BTreeMap::new()).expect("allowed")
    };
    let plain = json!([entry(&json!({}))]);
    assert_eq!(of(&plain, &[]), Allowance::default());
    assert_eq!(of(&plain, &[("another", "1")]), Allowance::default());
    let opened = of(&plain, &[("p", "1")]);
    assert_eq!(
        (opened.restore.as_deref(), opened.discard.as_deref()),
        (Some("1"), Some("1"))
    );
    let left = json!([entry(&json!({"restore": true}))]);
    assert_eq!(of(&left, &[]).restore.as_deref(), Some("mine"));
    assert_eq!(of(&left, &[("p", "1")]).restore.as_deref(), Some("1"));
    let any = |kind: &str| {
        json!([
            entry(&json!({})),
            entry(&json!({"principalTypes": [kind], "adoption": ["Any"]}))
        ])
    };
    assert!(of(&any("Group"), &[]).any && !of(&any("User"), &[]).any);
}

#[test]
fn a_name_counts_as_literal_only_in_an_entry_that_is_for_the_principal() {
    let entry = |kind: &str, role: &str| json!({"namespaces": {"names": ["orders"]}, "principalTypes": [kind], "roleNames": [role]});
    let tenants = json!([entry("User", "boss"), entry("Group", "*")]);
    assert_eq!(reason(&tenants, "User", "boss"), Ok(true));
    assert_eq!(reason(&tenants, "Group", "boss"), Ok(false));
    let other = reason(&tenants, "User", "other");
    assert_eq!(other, Err(Reason::NotAllowedByServer));
}

#[test]
fn the_servers_own_administrator_is_nobodys_principal() {
    let tenants = json!([{
        "namespaces": {"selector": {}}, "principalTypes": ["Group"],
        "roleNames": ["pg-operators"], "admin": true,
    }]);
    let administrator = reason(&tenants, "Group", "pg-operators");
    assert_eq!(administrator, Err(Reason::RoleProtected));
    let other = reason(&tenants, "Group", "pg-oper");
    assert_eq!(other, Err(Reason::NotAllowedByServer));
}

#[test]
fn a_namespace_without_labels_matches_no_label() {
    let tenants = json!([{
        "namespaces": {"selector": {"matchLabels": {"team": "a"}}},
        "principalTypes": ["Group"], "roleNames": ["*"],
    }]);
    let found = reason(&tenants, "Group", "any");
    assert_eq!(found, Err(Reason::NamespaceNotAllowed));
}

/// What a principal declares, what of it an entry without any field lacks, and the least fields with
/// which it is allowed.
fn wishes() -> Vec<(Value, Vec<&'static str>, Value)> {
    let on = |schema: Value, privileges: Value| json!({"grants": [{"database": "orders", "schemas": schema, "privileges": privileges}]});
    let itself =
        |privileges: Value| json!({"grants": [{"database": "ord?rs", "privileges": privileges}]});
    vec![
        (
            json!({"principal": {"type": "Group", "admin": true}}),
            vec!["tenants.admin is not true"],
            json!({"admin": true}),
        ),
        (
            json!({"role": {"createDb": true}}),
            vec!["tenants.attributes has no CreateDb"],
            json!({"attributes": ["CreateDb"]}),
        ),
        (
            json!({"role": {"createRole": true, "createDb": false}}),
            vec!["tenants.attributes has no CreateRole"],
            json!({"attributes": ["CreateRole"]}),
        ),
        (
            json!({"memberOf": [{"role": "readers"}]}),
            vec!["tenants.memberOf does not list \"readers\""],
            json!({"memberOf": [{"role": "readers"}]}),
        ),
        (
            json!({"memberOf": [{"role": "azure_pg_admin", "admin": true}]}),
            vec!["tenants.memberOf does not list \"azure_pg_admin\" with admin: true"],
            json!({"memberOf": [{"role": "azure_pg_admin", "admin": true}]}),
        ),
        (
            json!({"grants": [{"database": "orders", "privileges": ["CONNECT", "CREATE"]}]}),
            vec!["tenants.grants gives no CREATE, CONNECT on database orders"],
            itself(json!(["CREATE", "CONNECT"])),
        ),
        (
            json!({"grants": [{"database": "orders", "privileges": ["CONNECT", "TEMPORARY"]}]}),
            vec!["tenants.grants gives no CONNECT, TEMPORARY on database orders"],
            on(json!(["app"]), json!(["CONNECT", "TEMPORARY"])),
        ),
        (
            json!({"grants": [
                {"database": "orders", "schema": "app", "privileges": ["USAGE"]},
                {"database": "orders", "schema": "app", "objects": "Tables", "names": ["a", "b"],
                 "privileges": ["SELECT", "INSERT"]},
                {"database": "orders", "schema": "app", "objects": "Functions", "all": true,
                 "privileges": ["EXECUTE"]},
            ]}),
            vec![
                "tenants.grants gives no SELECT, INSERT, USAGE, EXECUTE on schema app of database orders",
            ],
            on(
                json!(["a*"]),
                json!(["USAGE", "SELECT", "INSERT", "EXECUTE"]),
            ),
        ),
        (
            json!({"defaultPrivileges": [{"database": "orders", "schema": "a b", "owner": "o",
                "objects": "Sequences", "privileges": ["USAGE"]}]}),
            vec!["tenants.grants gives no USAGE on schema \"a b\" of database orders"],
            on(json!(["a b"]), json!(["USAGE"])),
        ),
        (
            json!({"adoption": "SameIdentity"}),
            vec!["tenants.adoption has no SameIdentity"],
            json!({"adoption": ["SameIdentity"]}),
        ),
        (
            json!({"adoption": "Any"}),
            vec!["tenants.adoption has no Any"],
            json!({"adoption": ["Any"]}),
        ),
        (
            json!({"deletionPolicy": "Drop"}),
            vec!["tenants.deletionPolicies has no Drop"],
            json!({"deletionPolicies": ["Drop"]}),
        ),
        (
            json!({"deletionPolicy": "Reassign", "reassignOwnedTo": "heir"}),
            vec![
                "tenants.deletionPolicies has no Reassign",
                "tenants.memberOf does not list \"heir\", the role of reassignOwnedTo",
            ],
            json!({"deletionPolicies": ["Reassign"], "memberOf": [{"role": "heir"}]}),
        ),
    ]
}

/// An entry that gives nothing beyond a role.
fn bare(fields: &Value) -> Value {
    let mut bare = entry(&json!({"adoption": [], "deletionPolicies": []}));
    merge(&mut bare, fields);
    bare
}

// Red when: missing() in rights.rs leaves one of its parts out, or a part asks for more than its field.
#[test]
fn each_field_is_needed_is_named_and_is_enough() {
    for (wish, sentences, fields) in wishes() {
        let desired = principal("Group", "orders-api", &wish);
        let refused = judge(&json!([bare(&json!({}))]), &desired).expect_err("refused");
        assert_eq!(refused.reason, Reason::NotAllowedByServer, "{wish}");
        let list = format!(
            "in namespace orders: {}; ask its owner",
            sentences.join("; ")
        );
        assert!(
            refused.message.contains(&list),
            "{wish}: {}",
            refused.message
        );
        let allowed = judge(&json!([bare(&fields)]), &desired);
        assert_eq!(allowed, Ok(false), "{wish}");
        let nobody = judge(&json!([]), &desired).expect_err("no entry");
        assert_eq!(nobody.reason, Reason::NamespaceNotAllowed);
    }
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let wish = json!({
        "principal": {"type": "User", "admin": true},
        "role": {"createDb": true, "createRole": true},
        "memberOf": [{"role": "readers"}, {"role": "writers", "admin": true}],
        "grants": [
            {"database": "orders", "privileges": ["CONNECT"]},
            {"database": "orders", "schema": "app", "privileges": ["USAGE"]},
        ],
        "adoption": "Any", "deletionPolicy": "Drop",
    });
    let found = judge(
        &json!([bare(&json!({}))]),
        &principal("User", "boss", &wish),
    );
    let expected = [
        "tenants.principalTypes has no User",
        "tenants.roleNames does not match \"boss\"",
        "tenants.admin is not true",
        "tenants.attributes has no CreateDb",
        "tenants.attributes has no CreateRole",
        "tenants.memberOf does not list \"readers\"",
        "tenants.memberOf does not list \"writers\" with admin: true",
        "tenants.grants gives no CONNECT on database orders",
        "tenants.grants gives no USAGE on schema app of database orders",
        "tenants.adoption has no Any",
        "tenants.deletionPolicies has no Drop",
    ];
    let message = found.expect_err("refused").message;
    let list = format!(
        "in namespace orders: {}; ask its owner",
        expected.join("; ")
    );
    assert!(message.contains(&list), "{message}");
}

/// A principal that another team writes: `orders` has an entry as a sensible owner gives it.
fn sensible() -> Value {
    json!([
        entry(&json!({
            "grants": [
                {"database": "orders", "schemas": ["app"],
                 "privileges": ["SELECT", "USAGE", "CONNECT", "CREATE", "EXECUTE"]},
                {"database": "orders", "privileges": ["CONNECT"]},
            ],
            "memberOf": [{"role": "orders-readers"}],
        })),
        // What others are given helps it nothing.
        {
            "namespaces": {"names": ["billing"]}, "admin": true, "principalTypes": ["Group"],
            "roleNames": ["*"], "attributes": ["CreateDb", "CreateRole"],
            "memberOf": [{"role": "billing-readers", "admin": true}, {"role": "azure_pg_admin"}],
            "grants": [{"database": "*", "schemas": ["*"], "privileges": ["SELECT", "CONNECT"]}],
            "adoption": ["Any"], "deletionPolicies": ["Reassign"],
        },
        {
            "namespaces": {"names": ["orders"]}, "admin": true, "principalTypes": ["User"],
            "roleNames": ["dba"], "attributes": ["CreateRole"],
            "memberOf": [{"role": "azure_pg_admin"}, {"role": "pg-operators"}, {"role": "azuresu"}],
        },
    ])
}

// Red when: an entry's rights are given to principals that it is not for.
#[test]
fn another_teams_principal_gets_nothing_that_is_not_its_own() {
    let grant = |database: &str, schema: Value, objects: Value, privilege: &str| {
        let mut grant = json!({"database": database, "privileges": [privilege]});
        if !schema.is_null() {
            grant["schema"] = schema;
        }
        if !objects.is_null() {
            grant["objects"] = objects;
            grant["all"] = json!(true);
        }
        json!({"grants": [grant]})
    };
    let tables = || json!("Tables");
    let hostile = [
        json!({"principal": {"type": "Group", "admin": true}}),
        json!({"role": {"createRole": true}}),
        json!({"role": {"createDb": true}}),
        json!({"memberOf": [{"role": "azure_pg_admin"}]}),
        json!({"memberOf": [{"role": "Orders-readers"}]}),
        json!({"memberOf": [{"role": "billing-readers"}]}),
        json!({"memberOf": [{"role": "orders-readers", "admin": true}]}),
        json!({"deletionPolicy": "Reassign", "reassignOwnedTo": "orders-readers"}),
        json!({"deletionPolicy": "Reassign", "reassignOwnedTo": "billing-readers"}),
        grant("billing", Value::Null, Value::Null, "CONNECT"),
        grant("Orders", Value::Null, Value::Null, "CONNECT"),
        grant("orders", Value::Null, Value::Null, "CREATE"),
        grant("billing", json!("app"), tables(), "SELECT"),
        grant("orders", json!("app"), tables(), "INSERT"),
        grant("orders", json!("app2"), tables(), "SELECT"),
        grant("orders", json!("pg_catalog"), json!("Functions"), "EXECUTE"),
        grant("orders", json!("public"), Value::Null, "CREATE"),
        json!({"defaultPrivileges": [{"database": "orders", "schema": "public", "owner": "o",
            "objects": "Tables", "privileges": ["SELECT"]}]}),
        json!({"adoption": "Any"}),
    ];
    for wish in hostile {
        let refused = judge(&sensible(), &principal("Group", "orders-api", &wish));
        let refused = refused.expect_err(&wish.to_string());
        assert_eq!(refused.reason, Reason::NotAllowedByServer, "{wish}");
    }
    for fields in [
        grant("orders", json!("app"), tables(), "SELECT"),
        grant("orders", json!("app"), Value::Null, "CREATE"),
        grant("orders", Value::Null, Value::Null, "CONNECT"),
        json!({"memberOf": [{"role": "orders-readers"}]}),
        json!({"adoption": "SameIdentity"}),
        json!({"deletionPolicy": "Drop"}),
        json!({"role": {"createRole": false, "connectionLimit": 5, "login": false}}),
    ] {
        let allowed = judge(&sensible(), &principal("Group", "orders-api", &fields));
        assert_eq!(allowed, Ok(false), "{fields}");
    }
}

// Red when: never_a_target() is left out of check() or of check_deletion().
#[test]
fn no_entry_makes_an_administrator_a_target() {
    let names = ["pg-operators", "pg-spare", "azuresu"];
    let everything = entry(&json!({
        "roleNames": ["*"], "admin": true, "deletionPolicies": ["Reassign"],
        "memberOf": names.map(|role| json!({"role": role, "admin": true})),
    }));
    let tenants = json!([everything]);
    for name in names {
        let member = principal(
            "Group",
            "orders-api",
            &json!({"memberOf": [{"role": name}]}),
        );
        let refused = judge(&tenants, &member).expect_err("refused");
        assert_eq!(refused.reason, Reason::RoleProtected);
        assert!(refused.message.starts_with(&format!("memberOf {name:?}: ")));
        let heir = json!({"deletionPolicy": "Reassign", "reassignOwnedTo": name});
        let heir = principal("Group", "orders-api", &heir);
        let refused = judge(&tenants, &heir).expect_err("refused");
        assert_eq!(refused.reason, Reason::RoleProtected);
        assert!(
            refused
                .message
                .starts_with(&format!("reassignOwnedTo {name:?}: "))
        );
        let deletion = check_deletion(&server(&tenants), &heir, &BTreeMap::new());
        assert_eq!(deletion.map_err(|f| f.reason), Err(Reason::RoleProtected));
    }
}

#[test]
fn a_deletion_needs_only_what_is_declared_for_it() {
    let wish = json!({
        "role": {"createRole": true}, "adoption": "Any",
        "deletionPolicy": "Reassign", "reassignOwnedTo": "heir",
    });
    let desired = principal("Group", "orders-api", &wish);
    let judge = |fields: Value| {
        let tenants = json!([bare(&fields)]);
        check_deletion(&server(&tenants), &desired, &BTreeMap::new()).map_err(|f| f.message)
    };
    let heir = json!([{"role": "heir"}]);
    let enough = json!({"memberOf": heir, "deletionPolicies": ["Reassign"]});
    assert!(judge(enough).is_ok());
    let refused = judge(json!({"memberOf": heir})).expect_err("no policy");
    assert!(
        refused.contains(": tenants.deletionPolicies has no Reassign; ask"),
        "{refused}"
    );
    let refused = judge(json!({"deletionPolicies": ["Reassign"]})).expect_err("no heir");
    assert!(
        refused.contains(": tenants.memberOf does not list \"heir\""),
        "{refused}"
    );
}

#[test]
fn entries_add_up() {
    let (one, two) = (
        bare(&json!({"attributes": ["CreateDb"], "adoption": ["Any"]})),
        bare(&json!({"memberOf": [{"role": "readers"}], "grants": [
            {"database": "*", "schemas": ["app"], "privileges": ["SELECT"]}]})),
    );
    let wish = json!({
        "role": {"createDb": true}, "adoption": "Any", "memberOf": [{"role": "readers"}],
        "grants": [{"database": "any", "schema": "app", "objects": "Tables", "all": true,
            "privileges": ["SELECT"]}],
    });
    let desired = principal("Group", "orders-api", &wish);
    assert!(judge(&json!([one]), &desired).is_err());
    assert!(judge(&json!([two]), &desired).is_err());
    assert_eq!(judge(&json!([one, two]), &desired), Ok(false));
}
