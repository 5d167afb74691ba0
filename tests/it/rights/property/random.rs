//! At random: what a principal declares, and what a database administrator does by hand.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::rights::ADMINISTRATOR;

pub(super) const DATABASES: [&str; 2] = ["orders", "ware\"house"];
pub(super) const SCHEMAS: [&str; 2] = ["app", "Odd \"x\" 'y' \\"];
pub(super) const TABLES: [&str; 3] = ["t1", "t2", "T 3"];
const FUNCTIONS: [&str; 2] = ["f1(integer, text)", "f2()"];
const GROUPS: [&str; 2] = ["readers", "writers"];
const SETTINGS: [(&str, [&str; 2]); 3] = [
    ("statement_timeout", ["30s", "1min"]),
    ("search_path", ["app, public", "public"]),
    ("application_name", ["it's \"odd\"", "plain"]),
];
/// Attributes by their place in the ledger's line, with what they are where nobody says anything.
pub(super) const ATTRIBUTES: [(&str, usize, &str); 5] = [
    ("inherit", 1, "t"),
    ("createRole", 2, "f"),
    ("createDb", 3, "f"),
    ("login", 4, "t"),
    ("connectionLimit", 5, "-1"),
];

/// What one principal declares of its rights, as lines of the ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    pub spec: Value,
    pub privileges: BTreeSet<String>,
    /// The databases named, when the policy is Exclusive.
    pub exclusive: BTreeSet<String>,
    pub groups: BTreeSet<String>,
    /// How, from PostgreSQL 16 on.
    pub options: BTreeMap<String, Value>,
    pub settings: BTreeMap<String, String>,
    /// By their names in the manifest, as the ledger writes them.
    pub attributes: BTreeMap<&'static str, String>,
}

fn some<'a, T: ?Sized>(random: &mut StdRng, of: &[&'a T]) -> Vec<&'a T> {
    let chosen = of.iter().filter(|_| random.random_range(0..3) == 0);
    chosen.copied().collect()
}

fn line(database: &str, schema: &str, kind: &str, name: &str, privilege: &str) -> String {
    format!("{database}|{schema}|{kind}|{name}|{privilege}")
}

fn in_schema(
    random: &mut StdRng,
    database: &str,
    schema: &str,
    declared: &mut Declared,
    grants: &mut Vec<Value>,
    defaults: &mut Vec<Value>,
) {
    let entry = |objects: &str,
                 kind: &str,
                 all: &[&str],
                 chosen: Vec<&str>,
                 privileges: Vec<&str>,
                 whole: bool| {
        let mut entry = json!({"database": database, "schema": schema, "objects": objects, "privileges": privileges});
        if whole {
            entry["all"] = json!(true);
        } else {
            entry["names"] = json!(chosen);
        }
        let names = if whole { all.to_vec() } else { chosen };
        let lines: BTreeSet<String> = names
            .iter()
            .flat_map(|name| {
                privileges
                    .iter()
                    .map(|p| line(database, schema, kind, name, p))
            })
            .collect();
        (entry, lines)
    };
    let kinds: [(&str, &str, &[&str], &[&str]); 3] = [
        ("Tables", "table", &TABLES, &["SELECT", "INSERT", "UPDATE"]),
        ("Sequences", "sequence", &["s1"], &["USAGE", "SELECT"]),
        ("Functions", "function", &FUNCTIONS, &["EXECUTE"]),
    ];
    for (objects, kind, all, privileges) in kinds {
        let (chosen, privileges) = (some(random, all), some(random, privileges));
        let whole = random.random_range(0..3) == 0;
        if privileges.is_empty() || (chosen.is_empty() && !whole) {
            continue;
        }
        let (entry, lines) = entry(objects, kind, all, chosen, privileges, whole);
        grants.push(entry);
        declared.privileges.extend(lines);
    }
    let own = some(random, &["USAGE", "CREATE"]);
    if !own.is_empty() {
        grants.push(json!({"database": database, "schema": schema, "privileges": own}));
        let lines = own
            .iter()
            .map(|p| line(database, schema, "schema", schema, p));
        declared.privileges.extend(lines);
    }
    if random.random_range(0..4) == 0 {
        defaults.push(
            json!({"database": database, "schema": schema, "owner": "owner_known",
                    "objects": "Tables", "privileges": ["SELECT"]}),
        );
        declared.privileges.insert(line(
            database,
            schema,
            "default of owner_known",
            "r",
            "SELECT",
        ));
    }
}

/// One entry of `memberOf`; from 16 on with options, which are also returned as the server has them.
fn member_of(random: &mut StdRng, role: &str, options: bool) -> (Value, Option<Value>) {
    if !options {
        return (json!({"role": role}), None);
    }
    let mut often = || random.random_range(0..3) > 0;
    let (inherit, set, admin) = (often(), often(), !often());
    let entry = json!({"role": role, "inherit": inherit, "set": set, "admin": admin});
    let row = json!({"inherit_option": inherit, "set_option": set, "admin_option": admin});
    (entry, Some(row))
}

/// `spec.role`, with null for what is not declared, since it is a merge patch; and the attributes.
fn role(random: &mut StdRng, declared: &mut Declared) -> Value {
    let mut role = json!({});
    for (name, ..) in ATTRIBUTES {
        role[name] = match (random.random_range(0..2), name) {
            (0, "connectionLimit") => json!(random.random_range(1..9)),
            (0, _) => json!(random.random_range(0..2) == 0),
            // It has a default.
            (_, "login") => json!(true),
            _ => Value::Null,
        };
        let word = match &role[name] {
            Value::Null => continue,
            Value::Bool(true) => "t".to_owned(),
            Value::Bool(false) => "f".to_owned(),
            number => number.to_string(),
        };
        declared.attributes.insert(name, word);
    }
    for (name, values) in SETTINGS {
        role["settings"][name] = Value::Null;
        if random.random_range(0..2) == 0 {
            let value = values[random.random_range(0..2)];
            role["settings"][name] = json!(value);
            declared.settings.insert(name.to_owned(), value.to_owned());
        }
    }
    role
}

pub(super) fn declare(random: &mut StdRng, options: bool) -> Declared {
    let mut declared = Declared::default();
    let (mut grants, mut defaults) = (Vec::new(), Vec::new());
    for database in DATABASES {
        let own = some(random, &["CONNECT", "TEMPORARY"]);
        if !own.is_empty() {
            grants.push(json!({"database": database, "privileges": own}));
            let lines = own.iter().map(|p| line(database, "", "database", "", p));
            declared.privileges.extend(lines);
        }
        for schema in SCHEMAS {
            in_schema(
                random,
                database,
                schema,
                &mut declared,
                &mut grants,
                &mut defaults,
            );
        }
    }
    let mut memberships = Vec::new();
    for group in some(random, &GROUPS) {
        let (entry, options) = member_of(random, group, options);
        memberships.push(entry);
        declared.groups.insert(group.to_owned());
        declared
            .options
            .extend(options.map(|options| (group.to_owned(), options)));
    }
    let role = role(random, &mut declared);
    let exclusive = random.random_range(0..2) == 0;
    if exclusive {
        let named = grants
            .iter()
            .chain(&defaults)
            .filter_map(|entry| entry["database"].as_str());
        declared.exclusive = named.map(str::to_owned).collect();
    }
    declared.spec = json!({
        "grants": grants, "defaultPrivileges": defaults, "role": role,
        "memberOf": memberships,
        "privilegePolicy": if exclusive { "Exclusive" } else { "Additive" },
        "suspend": false, "mode": "Apply",
    });
    declared
}

/// What a database administrator does by hand to a role meanwhile.
pub(super) fn by_hand(random: &mut StdRng, name: &str) -> BTreeMap<&'static str, Vec<String>> {
    let quoted = postgres_protocol::escape::escape_identifier;
    let role = quoted(name);
    let mut done: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for database in DATABASES {
        let sql = done.entry(database).or_default();
        for schema in SCHEMAS {
            let schema = quoted(schema);
            let mut objects: Vec<(String, &str)> = vec![
                (format!("SCHEMA {schema}"), "USAGE"),
                (format!("SEQUENCE {schema}.s1"), "SELECT"),
            ];
            objects.extend(TABLES.map(|table| {
                (
                    format!("TABLE {schema}.{}", quoted(table)),
                    "SELECT, UPDATE",
                )
            }));
            objects.extend(
                FUNCTIONS.map(|function| (format!("FUNCTION {schema}.{function}"), "EXECUTE")),
            );
            for (object, privileges) in objects {
                match random.random_range(0..4) {
                    0 => sql.push(format!("GRANT {privileges} ON {object} TO {role}")),
                    1 => sql.push(format!("REVOKE {privileges} ON {object} FROM {role}")),
                    _ => {}
                }
            }
        }
    }
    let sql = done.entry(DATABASES[0]).or_default();
    for (name, values) in SETTINGS {
        match random.random_range(0..4) {
            0 if name != "search_path" => sql.push(format!(
                "ALTER ROLE {role} SET {name} = {}",
                postgres_protocol::escape::escape_literal(values[0])
            )),
            1 => sql.push(format!("ALTER ROLE {role} RESET {name}")),
            _ => {}
        }
    }
    for group in GROUPS {
        match random.random_range(0..4) {
            0 => sql.push(format!(
                "DO $$ BEGIN IF NOT pg_has_role('{name}', '{group}', 'MEMBER') THEN GRANT {group} TO {role}; END IF; END $$"
            )),
            1 => sql.push(format!(
                "REVOKE {group} FROM {role} GRANTED BY \"{ADMINISTRATOR}\""
            )),
            _ => {}
        }
    }
    let limit = format!("CONNECTION LIMIT {}", random.random_range(1..9));
    for word in ["INHERIT", "CREATEROLE", "CREATEDB", "LOGIN", &limit] {
        match random.random_range(0..6) {
            0 => sql.push(format!("ALTER ROLE {role} {word}")),
            1 if word != limit => sql.push(format!("ALTER ROLE {role} NO{word}")),
            _ => {}
        }
    }
    done
}
