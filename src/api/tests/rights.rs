//! The rules of what a role may do: grants, default privileges, settings, memberships, deletion.

use serde_json::{Value, json};

use super::{accepted, principal, refused};
use crate::api::EntraPostgresPrincipal;

const GRANTS: &str = "/spec/grants";
const ROLE: &str = "/spec/role";

/// A change of the grants to this one.
#[allow(clippy::needless_pass_by_value, reason = "it is written in place")]
fn granting(grant: Value) -> Vec<(&'static str, Value)> {
    vec![(GRANTS, json!([grant]))]
}

#[test]
fn good_rights_are_accepted() {
    let table = [
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
        "MAINTAIN",
    ];
    let settings =
        json!({"statement_timeout": "30s", "Search_Path": "app, public", "app.user_id$": ""});
    let on = |objects: &str, privileges: Value| json!({"database": "d", "schema": "s", "objects": objects, "all": true, "privileges": privileges});
    let later = |objects: &str, privileges: Value| json!({"database": "d", "schema": "s", "owner": "o", "objects": objects, "privileges": privileges});
    for changes in [
        vec![(ROLE, json!({}))],
        vec![(
            ROLE,
            json!({"login": false, "connectionLimit": -1, "createDb": true, "createRole": false, "inherit": false, "settings": settings}),
        )],
        vec![(
            "/spec/memberOf",
            json!([{"role": "Orders-app"}, {"role": "a", "inherit": false, "set": false, "admin": true}]),
        )],
        granting(json!({"database": "d", "privileges": ["CONNECT", "CREATE", "TEMPORARY"]})),
        granting(json!({"database": "d", "schema": "s", "privileges": ["USAGE", "CREATE"]})),
        granting(on("Tables", json!(table))),
        granting(on("Sequences", json!(["USAGE", "SELECT", "UPDATE"]))),
        granting(on("Functions", json!(["EXECUTE"]))),
        granting(
            json!({"database": "d", "schema": "s", "objects": "Functions",
            "names": ["total(integer, text)"], "privileges": ["EXECUTE"]}),
        ),
        vec![(
            "/spec/defaultPrivileges",
            json!([
                later("Tables", json!(table)),
                later("Sequences", json!(["USAGE", "SELECT", "UPDATE"])),
                later("Functions", json!(["EXECUTE"])),
            ]),
        )],
        vec![
            ("/spec/deletionPolicy", json!("Reassign")),
            ("/spec/reassignOwnedTo", json!("orders-app-owner")),
        ],
        vec![
            ("/spec/adoption", json!("Any")),
            ("/spec/privilegePolicy", json!("Exclusive")),
            ("/spec/mode", json!("Plan")),
        ],
        vec![(
            "/spec/principal/objectIdFrom",
            json!({"configMapKeyRef": {"name": "ids", "key": "api"}}),
        )],
    ] {
        accepted::<EntraPostgresPrincipal>(&principal(), &changes);
    }
}

#[test]
fn each_rule_of_grants_refuses_in_its_own_words() {
    let one_of = "grants: with objects give exactly one of names and all: true";
    let for_objects = "grants: names and all are for objects";
    let on_schema =
        "grants: on a schema there are USAGE, CREATE; for other privileges give objects";
    let on_tables = "grants: on tables there are SELECT, INSERT";
    let on = |objects: &str, privilege: &str| {
        granting(
            json!({"database": "d", "schema": "s", "objects": objects, "all": true, "privileges": [privilege]}),
        )
    };
    let of = |fields: Value| {
        let mut grant = json!({"database": "d", "privileges": ["SELECT"]});
        let fields = fields.as_object().expect("fields").clone();
        grant.as_object_mut().expect("an object").extend(fields);
        granting(grant)
    };
    for (changes, message) in [
        (
            of(json!({"objects": "Tables", "all": true})),
            "grants: objects needs schema",
        ),
        (of(json!({"schema": "s", "objects": "Tables"})), one_of),
        (
            of(json!({"schema": "s", "objects": "Tables", "all": true, "names": ["t"]})),
            one_of,
        ),
        (
            of(json!({"schema": "s", "objects": "Tables", "all": false})),
            "grants: all is true or absent",
        ),
        (
            of(json!({"schema": "s", "all": true, "privileges": ["USAGE"]})),
            for_objects,
        ),
        (
            of(json!({"names": ["t"], "privileges": ["CONNECT"]})),
            for_objects,
        ),
        (
            of(json!({"privileges": ["CONNECT", "USAGE"]})),
            "grants: on a database there are CONNECT, CREATE, TEMPORARY",
        ),
        (
            of(json!({"schema": "s", "privileges": ["CONNECT"]})),
            on_schema,
        ),
        (
            of(json!({"schema": "s", "privileges": ["SELECT"]})),
            on_schema,
        ),
        (on("Tables", "EXECUTE"), on_tables),
        (on("Tables", "USAGE"), on_tables),
        (
            on("Sequences", "INSERT"),
            "grants: on sequences there are USAGE, SELECT, UPDATE",
        ),
        (
            on("Functions", "SELECT"),
            "grants: on functions there is EXECUTE",
        ),
    ] {
        refused::<EntraPostgresPrincipal>(&principal(), &changes, message);
    }
}

#[test]
fn each_rule_of_default_privileges_refuses_in_its_own_words() {
    for (objects, privilege, message) in [
        (
            "Tables",
            "USAGE",
            "defaultPrivileges: on tables there are SELECT, INSERT",
        ),
        (
            "Sequences",
            "DELETE",
            "defaultPrivileges: on sequences there are USAGE, SELECT, UPDATE",
        ),
        (
            "Functions",
            "SELECT",
            "defaultPrivileges: on functions there is EXECUTE",
        ),
    ] {
        let entry = json!({"database": "d", "schema": "s", "owner": "o", "objects": objects, "privileges": [privilege]});
        let changes = [("/spec/defaultPrivileges", json!([entry]))];
        refused::<EntraPostgresPrincipal>(&principal(), &changes, message);
    }
}

#[test]
fn each_rule_of_settings_memberships_and_identities_refuses_in_its_own_words() {
    let name = "settings: a name is a parameter of PostgreSQL";
    let together = "deletionPolicy Reassign and reassignOwnedTo go together";
    let reassign = || ("/spec/deletionPolicy", json!("Reassign"));
    let setting = |name: &str, value: &str| vec![(ROLE, json!({"settings": {name: value}}))];
    let from = json!({"configMapKeyRef": {"name": "ids", "key": "api"}});
    for (changes, message) in [
        (setting("a b", "1"), name),
        (setting("a.b.c", "1"), name),
        (setting("1a", "1"), name),
        (setting("work_mem = '1GB'; --", "1"), name),
        (setting(&"a".repeat(64), "1"), name),
        (
            setting("work_mem", &"1".repeat(1025)),
            "settings: a value has at most 1024 characters",
        ),
        (
            vec![(
                "/spec/memberOf",
                json!([{"role": "a"}, {"role": "orders-app"}]),
            )],
            "memberOf: a role cannot be a member of itself",
        ),
        (vec![reassign()], together),
        (vec![("/spec/reassignOwnedTo", json!("heir"))], together),
        (
            vec![reassign(), ("/spec/reassignOwnedTo", json!("orders-app"))],
            "reassignOwnedTo must be another role than roleName",
        ),
        (
            vec![
                (
                    "/spec/principal/objectId",
                    json!("11111111-1111-1111-1111-111111111111"),
                ),
                ("/spec/principal/objectIdFrom", from),
            ],
            "set at most one of objectId, objectIdFrom",
        ),
    ] {
        refused::<EntraPostgresPrincipal>(&principal(), &changes, message);
    }
}

// Red when: a text that goes into statements has no pattern: a NUL in one stops the work of all.
#[test]
fn no_text_that_is_sent_to_a_server_may_have_a_nul() {
    let crds = serde_json::to_value(super::crds()).expect("definitions");
    let at = |kind: usize, path: &str| {
        let root = format!(
            "/{kind}/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/{path}"
        );
        crds.pointer(&root)
            .unwrap_or_else(|| panic!("no {path}"))
            .clone()
    };
    for (kind, path) in [
        (0, "admins/items/properties/roleName"),
        (1, "roleName"),
        (1, "memberOf/items/properties/role"),
        (1, "grants/items/properties/database"),
        (1, "grants/items/properties/schema"),
        (1, "grants/items/properties/names/items"),
        (1, "defaultPrivileges/items/properties/database"),
        (1, "defaultPrivileges/items/properties/schema"),
        (1, "defaultPrivileges/items/properties/owner"),
        (1, "reassignOwnedTo"),
        (1, "token/properties/database"),
    ] {
        assert_eq!(at(kind, path)["pattern"], r"^[^\x00]+$", "{path}");
        assert!(at(kind, path)["maxLength"].is_number(), "{path}");
    }
    let settings = at(1, "role/properties/settings");
    assert_eq!(
        settings["additionalProperties"],
        json!({"type": "string", "pattern": r"^[^\x00]*$"})
    );
}

#[test]
fn a_name_that_postgresql_would_cut_is_refused_with_its_field() {
    let long = "ü".repeat(32);
    let grant = |field: &str| {
        let mut grant = json!({"database": "d", "schema": "s", "objects": "Tables", "names": ["t"],
            "privileges": ["SELECT"]});
        grant[field] = json!(long);
        granting(grant)
    };
    let default = |field: &str| {
        let mut default = json!({"database": "d", "schema": "s", "owner": "o", "objects": "Tables",
            "privileges": ["SELECT"]});
        default[field] = json!(long);
        vec![("/spec/defaultPrivileges", json!([default]))]
    };
    let ascii = "x".repeat(64);
    let names = json!({"database": "d", "schema": "s", "objects": "Tables", "names": [ascii],
        "privileges": ["SELECT"]});
    for (changes, message) in [
        (
            grant("database"),
            "grants.database: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            grant("schema"),
            "grants.schema: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            granting(names),
            "grants.names: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            default("database"),
            "defaultPrivileges.database: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            default("schema"),
            "defaultPrivileges.schema: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            default("owner"),
            "defaultPrivileges.owner: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            vec![("/spec/memberOf", json!([{"role": long}]))],
            "memberOf.role: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            vec![
                ("/spec/deletionPolicy", json!("Reassign")),
                ("/spec/reassignOwnedTo", json!(long)),
            ],
            "reassignOwnedTo: a name in PostgreSQL has at most 63 bytes",
        ),
        (
            vec![("/spec/token/database", json!(long))],
            "token.database: a name in PostgreSQL has at most 63 bytes",
        ),
    ] {
        refused::<EntraPostgresPrincipal>(&principal(), &changes, message);
    }
    let signature = format!("total({})", ["integer"; 100].join(", "));
    let function = json!({"database": "d", "schema": "s", "objects": "Functions", "names": [signature],
        "privileges": ["EXECUTE"]});
    accepted::<EntraPostgresPrincipal>(&principal(), &granting(function));
}

#[test]
fn all_grants_together_name_so_many_objects_at_most() {
    let message = "grants: at most 2048 names in all; give all: true for a schema, or grant to a role without sign-in and list that in memberOf";
    let grant = json!({"database": "d", "schema": "s", "objects": "Tables", "names": vec!["t"; 256],
        "privileges": ["SELECT"]});
    accepted::<EntraPostgresPrincipal>(&principal(), &[(GRANTS, json!(vec![grant.clone(); 8]))]);
    let all = json!({"database": "d", "privileges": ["CONNECT"]});
    let too_many = [vec![grant; 8], vec![all]].concat();
    refused::<EntraPostgresPrincipal>(&principal(), &[(GRANTS, json!(too_many))], message);
}
