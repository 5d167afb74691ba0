//! Two versions of the operator over one state: what commit 6b177e6 wrote (`skew/6b177e6.json`: comments
//! of roles, statuses, a Secret) is taken up without a write, and what is written today has all that it
//! reads.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use lab::process::until;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::fixture::{ALICE, API_CLIENT, API_ID, SOON, Setup, World, condition, plane};
use crate::rights::ledger;

const READONLY: &str = "Prod DB Readonly";
/// Of each principal its object and its role.
const PRINCIPALS: [(&str, &str); 3] = [
    ("api", "orders-api"),
    ("alice", ALICE),
    ("readonly", READONLY),
];
const FIXTURE: &str = include_str!("skew/6b177e6.json");
const MANAGER: &str = "entra-postgres-operator";

/// As the roles' owners and administrators made them before.
const FURNISHED: &str = "CREATE ROLE readers; GRANT readers TO \"pg-operators\" WITH ADMIN OPTION;
    CREATE ROLE app_owner; GRANT app_owner TO \"pg-operators\"";
const SCHEMA: &str =
    "CREATE SCHEMA app AUTHORIZATION app_owner; SET ROLE app_owner; CREATE TABLE app.t1 ()";

/// All that can be seen of roles, with the transactions that wrote it.
const ROLES: &str = "SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (
    SELECT r.xmin || r::text FROM pg_authid AS r
    UNION ALL SELECT d.xmin || d::text FROM pg_shdescription AS d
    UNION ALL SELECT l.xmin || l::text FROM pg_shseclabel AS l
    UNION ALL SELECT m.xmin || m::text FROM pg_auth_members AS m
    UNION ALL SELECT s.xmin || s::text FROM pg_db_role_setting AS s
    UNION ALL SELECT b.xmin || coalesce(b.datacl::text, '') FROM pg_database AS b) AS all_of_it(x)";
const INSIDE: &str = "SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (
    SELECT c.xmin || c.relacl::text FROM pg_class AS c
    UNION ALL SELECT n.xmin || n.nspacl::text FROM pg_namespace AS n) AS all_of_it(x)";

fn manifests(world: &World) -> Vec<Value> {
    let mut api = world.api();
    api["spec"]["role"] = json!({"connectionLimit": 7, "settings": {"statement_timeout": "30s"}});
    api["spec"]["memberOf"] = json!([{"role": "readers"}]);
    api["spec"]["grants"] = json!([
        {"database": "orders", "privileges": ["CONNECT"]},
        {"database": "orders", "schema": "app", "privileges": ["USAGE"]},
        {"database": "orders", "schema": "app", "objects": "Tables", "names": ["t1"], "privileges": ["SELECT"]},
    ]);
    let mut alice = world.principal("alice", ALICE, json!({"type": "User"}));
    alice["spec"]["deletionPolicy"] = json!("Drop");
    let readonly = world.principal("readonly", READONLY, json!({"type": "Group"}));
    vec![api, alice, readonly]
}

/// A world with the schema and the objects, and no operator.
async fn before(test: &str) -> Result<World> {
    let setup = Setup {
        operator: false,
        ..Setup::default()
    };
    let mut world = World::with(test, setup).await?;
    // Another version's program, by hand.
    if let Some(program) = std::env::var_os("SKEW_OPERATOR") {
        world.options.binary = program.into();
    }
    world.sql(FURNISHED).await?;
    ledger::run(&world, "orders", SCHEMA).await?;
    for manifest in manifests(&world) {
        world.apply(&manifest).await?;
    }
    Ok(world)
}

/// What differs from one world to the next, and how the fixture calls it; the longest text first, since
/// a port may be in a hash.
struct Names(Vec<(String, String)>);

impl Names {
    async fn of(world: &World, token: &str, times: &Value) -> Result<Self> {
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let cluster = namespaces
            .get("kube-system")
            .await?
            .uid()
            .unwrap_or_default();
        let mut names = vec![
            ("{cluster}".to_owned(), cluster),
            ("{team}".to_owned(), world.names.team.clone()),
            ("{platform}".to_owned(), world.names.platform.clone()),
            (
                "{port}".to_owned(),
                world.azure.gateway()?.port().to_string(),
            ),
            (
                "{version}".to_owned(),
                world.azure.postgres().await?.version().to_string(),
            ),
            ("{ca}".to_owned(), world.azure.ca_pem()),
            ("{token}".to_owned(), token.to_owned()),
            ("{hash}".to_owned(), hash(token)),
        ];
        for time in ["issuedAt", "expiresAt", "renewAt"] {
            let text = times[time].as_str().unwrap_or_default();
            names.push((format!("{{{time}}}"), text.to_owned()));
        }
        for (name, role) in PRINCIPALS {
            let object = world.get("principal", name).await?.context("an object")?;
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            names.push((format!("{{uid of {name}}}"), uid.to_owned()));
            let oid = format!("SELECT oid FROM pg_roles WHERE rolname = '{role}'");
            let oid = world.ask(&oid).await?.context("a role")?;
            names.push((format!("{{oid of {name}}}"), oid));
        }
        names.retain(|(_, text)| !text.is_empty());
        names.sort_by_key(|(_, text)| std::cmp::Reverse(text.len()));
        Ok(Self(names))
    }

    fn blank(&self, value: &Value) -> Value {
        map_texts(value, &|text| {
            let replace = |text: String, (name, now): &(String, String)| text.replace(now, name);
            self.0.iter().fold(text.to_owned(), replace)
        })
    }

    fn fill(&self, value: &Value) -> Value {
        map_texts(value, &|text| {
            let replace = |text: String, (name, now): &(String, String)| text.replace(name, now);
            self.0.iter().fold(text.to_owned(), replace)
        })
    }
}

fn map_texts(value: &Value, change: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change(text)),
        Value::Array(items) => items.iter().map(|item| map_texts(item, change)).collect(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, item)| (key.clone(), map_texts(item, change)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn hash(token: &str) -> String {
    use std::fmt::Write as _;
    let mut hex = String::new();
    for byte in Sha256::digest(token) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn text_of(secret: &Secret, key: &str) -> String {
    let data = secret.data.iter().flatten().find(|(name, _)| *name == key);
    data.map(|(_, value)| String::from_utf8_lossy(&value.0).into_owned())
        .unwrap_or_default()
}

/// All that the operator wrote in a world.
async fn written(world: &World) -> Result<Value> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.names.team);
    let secret = secrets.get("api").await?;
    let mut comments = BTreeMap::new();
    let mut statuses = BTreeMap::new();
    let mut finalizers = BTreeMap::new();
    for (name, role) in PRINCIPALS {
        let comment = format!(
            "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = '{role}'"
        );
        comments.insert(role, world.ask(&comment).await?);
        let object = world.get("principal", name).await?.unwrap_or_default();
        statuses.insert(name, object["status"].clone());
        finalizers.insert(name, object["metadata"]["finalizers"].clone());
    }
    let server = world.get("server", "server").await?.unwrap_or_default();
    statuses.insert("server", server["status"].clone());
    finalizers.insert("server", server["metadata"]["finalizers"].clone());
    let keys = secret.data.iter().flatten().map(|(key, _)| key);
    let data: BTreeMap<_, _> = keys.map(|key| (key, text_of(&secret, key))).collect();
    let owners = serde_json::to_value(&secret.metadata.owner_references)?;
    let all = json!({
        "comments": comments, "statuses": statuses, "finalizers": finalizers,
        "secret": {"labels": secret.labels(), "annotations": secret.annotations(),
            "ownerReferences": owners, "type": secret.type_, "data": data},
    });
    let token = text_of(&secret, "password");
    let names = Names::of(world, &token, &statuses["api"]["token"]).await?;
    Ok(names.blank(&all))
}

async fn all_ready(world: &World) -> Result<()> {
    for (name, _) in PRINCIPALS {
        world.ready("principal", name).await?;
    }
    let totals = json!({"total": PRINCIPALS.len(), "ready": PRINCIPALS.len()});
    let counted = |server: &Value| server["status"]["principals"] == totals;
    world
        .wait("server", "server", "its totals", counted)
        .await?;
    Ok(())
}

// How the fixture was made, with the program of that commit.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the fixture with the operator that SKEW_OPERATOR names"]
async fn record() -> Result<()> {
    ensure!(std::env::var_os("SKEW_OPERATOR").is_some(), "no program");
    let mut world = before("recorded").await?;
    world.start_operator().await?;
    all_ready(&world).await?;
    let file = crate::fixture::root().join("tests/it/skew/6b177e6.json");
    std::fs::write(file, format!("{:#}\n", written(&world).await?))?;
    Ok(())
}

/// Makes the state that the fixture is of: roles as the operator's administrator made them, then what
/// was written of them.
async fn replayed(world: &World) -> Result<()> {
    let api = json!(API_ID);
    let order = reqwest::Client::new()
        .post(format!("{}/lab/tokens", world.azure.api_url()))
        .header("content-type", "application/json")
        .body(json!({"objectId": api}).to_string());
    let answer: Value = serde_json::from_str(&order.send().await?.text().await?)?;
    let token = answer["accessToken"].as_str().context("a token")?;
    let postgres = world.azure.postgres().await?;
    let ours = postgres.connect("pg-operators", "postgres").await?;
    let directory = world.azure.state().directory();
    for (_, role) in PRINCIPALS {
        let found = directory.by_name(role).next().context("in the directory")?;
        let (id, kind) = (found.object_id(), found.type_word());
        let make = format!(
            "SELECT pgaadauth_create_principal_with_oid('{role}', '{id}', '{kind}', false, false)"
        );
        ours.simple_query(&make).await?;
    }
    ours.batch_execute(
        "ALTER ROLE \"orders-api\" CONNECTION LIMIT 7; ALTER ROLE \"orders-api\" SET statement_timeout = '30s';
         GRANT readers TO \"orders-api\"; GRANT CONNECT ON DATABASE orders TO \"orders-api\"",
    )
    .await?;
    let inside = postgres.connect("pg-operators", "orders").await?;
    inside
        .batch_execute(
            "SET ROLE app_owner; GRANT USAGE ON SCHEMA app TO \"orders-api\"; GRANT SELECT ON app.t1 TO \"orders-api\"",
        )
        .await?;
    let now = jiff::Timestamp::now().as_second();
    let expires = answer["expiresOn"].as_str().context("an end")?;
    let lives = expires.parse::<jiff::Timestamp>()?.as_second() - now;
    let at = |seconds: i64| jiff::Timestamp::from_second(seconds).map(|time| time.to_string());
    let times =
        json!({"issuedAt": at(now)?, "expiresAt": expires, "renewAt": at(now + lives * 2 / 3)?});
    let names = Names::of(world, token, &times).await?;
    let fixture = names.fill(&serde_json::from_str(FIXTURE)?);
    for (_, role) in PRINCIPALS {
        let comment = fixture["comments"][role].as_str().context("a comment")?;
        let comment = postgres_protocol::escape::escape_literal(comment);
        ours.batch_execute(&format!("COMMENT ON ROLE \"{role}\" IS {comment}"))
            .await?;
    }
    write_objects(world, &fixture).await
}

async fn write_objects(world: &World, fixture: &Value) -> Result<()> {
    let secret = &fixture["secret"];
    let object: Secret = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "type": secret["type"], "stringData": secret["data"],
        "metadata": {"name": "api", "namespace": world.names.team, "labels": secret["labels"],
            "annotations": secret["annotations"], "ownerReferences": secret["ownerReferences"]},
    }))?;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.names.team);
    let manager = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    secrets.create(&manager, &object).await?;
    let objects = PRINCIPALS.map(|(name, _)| ("principal", name));
    for (kind, name) in objects.into_iter().chain([("server", "server")]) {
        let finalizers = json!({"metadata": {"finalizers": fixture["finalizers"][name]}});
        world.patch(kind, name, &finalizers).await?;
        let status = json!({"status": fixture["statuses"][name]});
        world.patch_status(kind, name, &status).await?;
    }
    Ok(())
}

/// Roles and privileges with the transactions that wrote them.
async fn on_the_server(world: &World) -> Result<(Option<String>, String)> {
    let inside = ledger::superuser(world, "orders").await?;
    let row = inside.query_one(INSIDE, &[]).await?;
    Ok((world.ask(ROLES).await?, row.get(0)))
}

/// What each start writes, of any version: the server is connected to anew. When a token is renewed
/// depends on the object's uid, which is another one here than where the fixture was written.
fn is_of_a_start(write: &str, first: bool) -> bool {
    let of_server = write.ends_with("/server") || write.contains("/server.");
    of_server
        || (first && write.contains("entrapostgresprincipals/status") && write.ends_with("/api"))
}

/// All statuses, without the times that a start may change.
async fn statuses(world: &World) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let principals = PRINCIPALS.map(|(name, _)| ("principal", name));
    for (kind, name) in principals.into_iter().chain([("server", "server")]) {
        let object = world.get(kind, name).await?.context("an object")?;
        let mut status = object["status"].clone();
        if let Some(token) = status["token"].as_object_mut() {
            token.remove("renewAt");
        }
        if kind == "server" {
            for condition in status["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastTransitionTime"] = Value::Null;
            }
        }
        all.push(status);
    }
    Ok(all)
}

/// Starts the operator twice, so that a second process finds what the first one left, and nothing is
/// written that a start does not write. `renewed` allows the first one another `renewAt`.
async fn taken_up(world: &mut World, renewed: bool) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.names.team);
    let secret = secrets.get("api").await?;
    let server = on_the_server(world).await?;
    let said = statuses(world).await?;
    let asked = world.token_requests(Some(API_CLIENT));
    for start in ["first", "second"] {
        let mark = plane().audit().mark()?;
        world.start_operator().await?;
        // The server and its principals.
        let looked_at = async || Ok(world.metric("entra_postgres_reconcile_total").await? > 3);
        until("all is looked at", SOON, looked_at).await?;
        let transactions = || world.stats()["transactions"].as_u64().unwrap_or_default();
        let before = transactions();
        let snapshots = async || Ok(transactions() >= before + 6);
        until("three more snapshots of both databases", SOON, snapshots).await?;
        for (name, _) in PRINCIPALS {
            let object = world.ready("principal", name).await?;
            ensure!(condition(&object, "RoleSynced").is("True"), "{object:#}");
        }
        world.ready("server", "server").await?;
        let mut writes = world.writes_since(mark)?;
        writes.retain(|write| !is_of_a_start(write, renewed && start == "first"));
        ensure!(writes.is_empty(), "{start} start: {writes:?}");
        assert_eq!(statuses(world).await?, said, "{start} start");
        assert_eq!(on_the_server(world).await?, server, "{start} start");
        assert_eq!(secrets.get("api").await?, secret, "{start} start");
        assert_eq!(
            world.token_requests(Some(API_CLIENT)),
            asked,
            "{start} start"
        );
        world.kill_operator();
    }
    Ok(())
}

// Red when: a field of the marker, of a status or of a Secret's annotations is written in another way
// than before, or one that is not there counts as wrong.
#[tokio::test(flavor = "multi_thread")]
async fn what_6b177e6_wrote_is_taken_up_without_a_write() -> Result<()> {
    let mut world = before("skew").await?;
    replayed(&world).await?;
    taken_up(&mut world, true).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "lets the operator that SKEW_OPERATOR names take up what the built one wrote"]
async fn what_is_written_today_is_taken_up_by_an_older_program() -> Result<()> {
    let mut world = before("skew_older").await?;
    let older = std::mem::replace(&mut world.options.binary, lab::operator::binary());
    ensure!(older != world.options.binary, "no other program");
    world.start_operator().await?;
    all_ready(&world).await?;
    world.kill_operator();
    world.options.binary = older;
    taken_up(&mut world, false).await
}

/// What of `old` is not in `new`, or is of another kind there. Lists of conditions go by type.
fn missing(old: &Value, new: &Value, path: &str) -> Vec<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old
            .iter()
            .flat_map(|(key, value)| {
                let path = format!("{path}.{key}");
                let found = new.get(key).unwrap_or(&Value::Null);
                missing(value, found, &path)
            })
            .collect(),
        (Value::Array(old), Value::Array(new)) => old
            .iter()
            .flat_map(|item| {
                let same = |other: &&Value| other["type"] == item["type"];
                let found = new.iter().find(same).unwrap_or(&Value::Null);
                missing(item, found, &format!("{path}[{}]", item["type"]))
            })
            .collect(),
        _ if std::mem::discriminant(old) == std::mem::discriminant(new) => Vec::new(),
        _ => vec![format!("{path}: {old} is now {new}")],
    }
}

/// The data of a marker.
fn marker(comment: &Value) -> Result<Value> {
    let comment = comment.as_str().context("a comment")?;
    let data = comment.split_once("; do not edit: ").context("a marker")?.1;
    Ok(serde_json::from_str(data)?)
}

// Red when: a field that 6b177e6 needs is written no more.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_today_has_all_that_6b177e6_reads() -> Result<()> {
    let mut world = before("skew_back").await?;
    world.start_operator().await?;
    all_ready(&world).await?;
    let (old, new): (Value, Value) = (serde_json::from_str(FIXTURE)?, written(&world).await?);
    let mut lost = Vec::new();
    for (_, role) in PRINCIPALS {
        let (old, new) = (&old["comments"][role], &new["comments"][role]);
        lost.extend(missing(&marker(old)?, &marker(new)?, role));
    }
    for part in ["statuses", "finalizers", "secret"] {
        lost.extend(missing(&old[part], &new[part], part));
    }
    ensure!(lost.is_empty(), "{}", lost.join("\n"));
    assert_eq!(old["secret"]["type"], new["secret"]["type"]);
    Ok(())
}
