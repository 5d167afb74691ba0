//! What only the server can tell: roles that are somebody else's, privileged, or an administrator's are
//! left alone whatever an entry of the tenants says; what becomes of a principal whose entry was
//! tightened; and that what a role may make big about itself hinders nobody. What an entry does not give is in `tenants`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::handed_on::membership;
use super::{
    control, declared, furnished, has_exactly, improved, ledger, made, major, noticed, says, set,
    setup,
};
use crate::fixture::{ALICE, REPORTS_ID, World};
use crate::fleet;
use crate::roles::{ALICE_ID, BATCH_ID, IMPORTER_ID, bound, comment_of, listed, picture};

/// A database administrator's roles, and a further Entra administrator.
const THEIRS: &str = "CREATE ROLE plain LOGIN PASSWORD 'of the dba'; CREATE ROLE between; GRANT azure_pg_admin TO between;
    SELECT pgaadauth_create_principal_with_oid('boss', 'REPORTS', 'service', false, false); GRANT between TO boss;
    SELECT pgaadauth_create_principal_with_oid('bound', 'BATCH', 'service', false, false);
    SELECT pgaadauth_create_principal_with_oid('second-admin', 'ALICE', 'user', true, false)";

/// One attempt: the object's name, its role, its identity, how it adopts, the reason and a word of the
/// refusal.
const ATTEMPTS: [[&str; 6]; 6] = [
    [
        "plain",
        "plain",
        IMPORTER_ID,
        "SameIdentity",
        "RoleExists",
        "plain",
    ],
    [
        "boss",
        "boss",
        REPORTS_ID,
        "SameIdentity",
        "RoleProtected",
        "boss",
    ],
    [
        "boss-any",
        "boss",
        IMPORTER_ID,
        "Any",
        "RoleProtected",
        "boss",
    ],
    [
        "bound",
        "bound",
        IMPORTER_ID,
        "SameIdentity",
        "ObjectIdMismatch",
        BATCH_ID,
    ],
    [
        "admin",
        "second-admin",
        IMPORTER_ID,
        "Any",
        "RoleProtected",
        "second-admin",
    ],
    [
        "in-use",
        "twice",
        BATCH_ID,
        "Refuse",
        "IdentityInUse",
        "bound",
    ],
];

/// Has the server write down every statement; returns the place in its log from which on that is so, for
/// [`sent`]. Needs the principal of [`noticed`].
pub(super) async fn logged(world: &World, control: usize) -> Result<usize> {
    for sql in [
        "ALTER SYSTEM SET log_statement = 'all'",
        "ALTER SYSTEM SET log_line_prefix = '<%u> '",
        "SELECT pg_reload_conf()",
    ] {
        world.sql(sql).await?;
    }
    noticed(world, control).await?;
    world.wait_sql("SHOW log_statement", Some("all")).await?;
    Ok(world.azure.postgres().await?.log().len())
}

/// What the operator sent to the server since a place of its log, entry by entry.
pub(super) async fn sent(world: &World, from: usize) -> Result<Vec<String>> {
    let log = world.azure.postgres().await?.log();
    let mut entries: Vec<String> = Vec::new();
    for line in log.get(from..).unwrap_or_default().lines() {
        // Further lines of an entry begin with a tab.
        match (line.starts_with('\t'), entries.last_mut()) {
            (true, Some(entry)) => {
                entry.push('\n');
                entry.push_str(line);
            }
            _ => entries.push(line.to_owned()),
        }
    }
    entries.retain(|entry| entry.starts_with("<pg-operators>"));
    Ok(entries)
}

/// What changes something on a server, as it stands in the operator's statements.
const CHANGES: [&str; 10] = [
    "CREATE ROLE",
    "ALTER ROLE",
    "DROP ROLE",
    "COMMENT ON",
    "SECURITY LABEL",
    "pgaadauth_create",
    "ALTER DEFAULT PRIVILEGES",
    "REASSIGN OWNED",
    "GRANT ",
    "REVOKE ",
];

/// All roles but the one that [`noticed`] disturbs: what its marker remembers depends on what is seen first.
async fn of_others(world: &World) -> Result<Vec<String>> {
    let control = format!("{} |", fleet::name(0));
    let lines = picture(world).await?;
    let others = lines.lines().filter(|line| !line.starts_with(&control));
    Ok(others.map(str::to_owned).collect())
}

// Red when: unmarked() in model/plan leaves out a check, or memberships::plan does not look whether
// the other role is an administrator; or `settle` in postgres/sql grants the new role WITH INHERIT.
#[tokio::test(flavor = "multi_thread")]
async fn roles_of_others_and_of_administrators_are_left_alone_whatever_an_entry_says() -> Result<()>
{
    let listed = |spec: &mut Value| {
        spec["tenants"][0]["memberOf"] = json!([{"role": "second-admin"}, {"role": "readers"}]);
    };
    let world = furnished("hostile", setup(2, listed), &[]).await?;
    let theirs = THEIRS.replace("BATCH", BATCH_ID).replace("ALICE", ALICE_ID);
    world.sql(&theirs.replace("REPORTS", REPORTS_ID)).await?;
    made(&world, 0, &control()).await?;
    let log = logged(&world, 0).await?;
    let databases = ["orders", "postgres"];
    let pictured = of_others(&world).await?;
    let before = ledger::read(&world, &databases).await?;

    for [name, role, id, adoption, ..] in ATTEMPTS {
        let mut object = world.principal(name, role, bound("ServicePrincipal", id));
        object["spec"]["adoption"] = json!(adoption);
        object["spec"]["memberOf"] = json!([{"role": "readers"}]);
        world.apply(&object).await?;
    }
    for [name, _, _, _, reason, word] in ATTEMPTS {
        let said = world.not_ready("principal", name, reason).await?;
        ensure!(said.contains(word), "{name}: {said}");
    }
    noticed(&world, 0).await?;
    let mut changes = sent(&world, log).await?;
    changes.retain(|entry| CHANGES.iter().any(|word| entry.contains(word)));
    let drift = |entry: &String| entry.contains(&fleet::name(0));
    ensure!(changes.iter().any(drift), "nothing is seen in the log");
    changes.retain(|entry| !drift(entry));
    ensure!(changes.is_empty(), "sent: {changes:#?}");
    assert_eq!(of_others(&world).await?, pictured);
    let after = ledger::read(&world, &databases).await?;
    assert_eq!(after, before);

    // A role of one's own does not get an administrator's rights, though the entry lists it.
    let member_of = json!([{"role": "second-admin"}, {"role": "readers"}]);
    let object = declared(&world, 1, &json!({"memberOf": member_of}));
    world.apply(&object).await?;
    let ready = says(&world, 1, &["second-admin"]).await?;
    assert_eq!(ready.reason, "RoleProtected", "{ready:?}");
    let held = set(&["attributes f t f f t -1", "member of readers"]);
    has_exactly(&world, &fleet::name(1), &[], &held, "the rest").await?;
    // Nor does the administrator get its rights: he may only deal with it.
    if major(&world).await? >= 16 {
        let second = membership(&world, &fleet::name(1), "second-admin").await?;
        assert_eq!(second.as_deref(), Some("t f f"));
    }
    Ok(())
}

// Red when: tenancy is looked at only for what is new, or a principal that is no longer allowed is
// repaired, extended, or undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_tightened_entry_is_reported_and_neither_takes_nor_gives() -> Result<()> {
    let world = furnished("tightened", setup(2, |_| ()), &[]).await?;
    made(&world, 0, &control()).await?;
    let tables = |privileges: Value| json!({"database": "orders", "schema": "app", "objects": "Tables", "all": true, "privileges": privileges});
    let fields = |privileges: Value, member_of: Value| json!({"grants": [tables(privileges)], "memberOf": member_of, "role": {"createDb": true}});
    let both = json!([{"role": "readers"}, {"role": "writers"}]);
    made(
        &world,
        1,
        &fields(json!(["SELECT", "UPDATE"]), both.clone()),
    )
    .await?;
    let mut held = set(&[
        "attributes f t f t t -1",
        "member of readers",
        "member of writers",
        "orders|app|table|t1|SELECT",
        "orders|app|table|t2|SELECT",
        "orders|app|table|t1|UPDATE",
        "orders|app|table|t2|UPDATE",
    ]);
    let name = fleet::name(1);
    has_exactly(&world, &name, &[], &held, "everything").await?;

    let mut server = world.server("server")?;
    let tenant = &mut server["spec"]["tenants"][0];
    tenant["memberOf"] = json!([{"role": "readers"}]);
    tenant["attributes"] = json!([]);
    tenant["grants"] = json!([{"database": "orders", "schemas": ["app"], "privileges": ["SELECT", "INSERT", "USAGE"]}]);
    world.apply(&server).await?;
    let missing = [
        "tenants.memberOf does not list \"writers\"",
        "tenants.attributes has no CreateDb",
        "tenants.grants gives no UPDATE on schema app of database orders",
    ];
    let ready = says(&world, 1, &missing).await?;
    assert_eq!(ready.reason, "NotAllowedByServer");

    // Nothing is put back, given to new tables, or added, though an entry would give it.
    ledger::run(
        &world,
        "orders",
        &format!("REVOKE UPDATE ON app.t1 FROM \"{name}\"; CREATE TABLE app.t3 (); ALTER TABLE app.t3 OWNER TO app_owner"),
    )
    .await?;
    held.remove("orders|app|table|t1|UPDATE");
    let wider = fields(json!(["SELECT", "UPDATE", "INSERT"]), both);
    world.apply(&declared(&world, 1, &wider)).await?;
    says(&world, 1, &missing).await?;
    noticed(&world, 0).await?;
    has_exactly(&world, &name, &[], &held, "as it was").await?;

    // The owner of the object gives it up: it is taken away, and the rest is given.
    let mut less = fields(json!(["SELECT", "INSERT"]), json!([{"role": "readers"}]));
    less["role"] = json!({});
    world.apply(&declared(&world, 1, &less)).await?;
    let left = set(&[
        "attributes f t f f t -1",
        "member of readers",
        "orders|app|table|t1|SELECT",
        "orders|app|table|t2|SELECT",
        "orders|app|table|t3|SELECT",
        "orders|app|table|t1|INSERT",
        "orders|app|table|t2|INSERT",
        "orders|app|table|t3|INSERT",
    ]);
    has_exactly(&world, &name, &[], &left, "what is allowed").await?;
    world.ready("principal", &name).await?;
    Ok(())
}

// Red when: claim() in model/plan believes a marker that neither the status nor the label bears out.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_a_forged_marker_is_not_taken_for_ours() -> Result<()> {
    let world = furnished("forged", improved(1), &[]).await?;
    made(&world, 0, &control()).await?;
    world
        .sql("CREATE ROLE forger LOGIN CREATEROLE; SET ROLE forger; CREATE ROLE victim LOGIN PASSWORD 'of the dba'")
        .await?;
    let principal = json!({"type": "User", "objectId": ALICE_ID});
    let object = world.principal("thief", "victim", principal);
    world.apply(&object).await?;
    world.not_ready("principal", "thief", "RoleExists").await?;
    let thief = world.get("principal", "thief").await?.unwrap_or_default();
    let control = world.get("principal", &fleet::name(0)).await?;
    let control = control.unwrap_or_default();
    let marker = comment_of(&world, &fleet::name(0))
        .await?
        .unwrap_or_default();
    let text = |object: &Value, key: &str| {
        object["metadata"][key]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let forged = marker
        .replace(&text(&control, "uid"), &text(&thief, "uid"))
        .replace(&fleet::name(0), "thief")
        .replace("5e41ce00-0000-4000-9000-000000000000", ALICE_ID);
    ensure!(
        forged.contains(ALICE_ID) && forged.contains("/thief;"),
        "{forged}"
    );

    // Up to PostgreSQL 15 CREATEROLE is enough to write comments; later also ADMIN OPTION is needed, which
    // the creator of a role has.
    let postgres = world.azure.postgres().await?;
    let session = postgres.connect("forger", "postgres").await?;
    let literal = postgres_protocol::escape::escape_literal(&forged);
    session
        .batch_execute(&format!("COMMENT ON ROLE victim IS {literal}"))
        .await?;
    let before = of_others(&world).await?;
    noticed(&world, 0).await?;
    let annotation = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": "now"}}});
    world.patch("principal", "thief", &annotation).await?;
    noticed(&world, 0).await?;
    let said = world.not_ready("principal", "thief", "RoleExists").await?;
    ensure!(said.contains("victim"), "{said}");
    assert_eq!(listed(&world, "victim").await?, None);
    assert_eq!(of_others(&world).await?, before);
    assert_eq!(world.bound_to(ALICE).await?, None);
    Ok(())
}

// Red when: Marker::parse believes what a comment says was asked for: a NUL there, which no message can
// carry, fails the question that all principals share.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_a_manifest_or_in_a_marker_stops_nobody() -> Result<()> {
    let world = furnished("nul", setup(3, |_| ()), &[]).await?;
    made(&world, 0, &control()).await?;
    made(&world, 1, &json!({})).await?;

    let grant = json!({"database": "a\u{0}b", "privileges": ["CONNECT"]});
    let object = declared(&world, 2, &json!({"grants": [grant]}));
    let refused = world.apply(&object).await.err();
    let refused = refused
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(refused.contains("spec.grants[0].database"), "{refused:?}");

    let name = fleet::name(1);
    let comment = comment_of(&world, &name).await?.unwrap_or_default();
    let asked = r#","asked":{"databases":{"a\u0000b":["CONNECT"]}}}"#;
    let forged = format!("{}{asked}", comment.trim_end_matches('}'));
    let forged = postgres_protocol::escape::escape_literal(&forged);
    world
        .sql(&format!("COMMENT ON ROLE \"{name}\" IS {forged}"))
        .await?;
    noticed(&world, 0).await?;
    noticed(&world, 0).await?;
    world.ready("principal", &name).await?;
    Ok(())
}

// Red when: the question about roles takes settings or comments at their full length: together these are
// more than fits into one jsonb, and then no snapshot is taken any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_huge_settings_hinders_nobody() -> Result<()> {
    let world = furnished("huge", setup(2, |_| ()), &[]).await?;
    made(&world, 0, &control()).await?;
    let fields = json!({"role": {"settings": {"application_name": "api"}}});
    made(&world, 1, &fields).await?;
    let name = fleet::name(1);
    let postgres = world.azure.postgres().await?;
    let session = postgres.connect(&name, "postgres").await?;
    session
        .batch_execute("DO $$BEGIN EXECUTE 'ALTER ROLE CURRENT_USER SET application_name = ''' || repeat('a', 5000) || ''''; END$$")
        .await?;
    // What ALTER ROLE leaves after a minute, in a second.
    let huge = format!(
        "UPDATE pg_db_role_setting SET setconfig = setconfig || (SELECT array_agg(name || '=' || repeat('a', 60000000))
           FROM unnest(ARRAY['search_path', 'temp_tablespaces', 'local_preload_libraries', 'default_tablespace', 'default_text_search_config']) AS name)
         WHERE setrole = '\"{name}\"'::regrole"
    );
    world.sql(&huge).await?;
    noticed(&world, 0).await?;
    // What is declared is put back, though the snapshot does not say what is there.
    let declared = format!(
        "SELECT setconfig::text LIKE '{{application_name=api,search_path=aaa%' FROM pg_db_role_setting \
         WHERE setrole = '\"{name}\"'::regrole"
    );
    world.wait_sql(&declared, Some("t")).await?;

    // A comment that is too long to be read is nobody's to write over, and nobody else is held up.
    let marker = comment_of(&world, &name).await?.unwrap_or_default();
    let literal = postgres_protocol::escape::escape_literal(&marker);
    let comment = |text: String| {
        format!(
            "DO $do$BEGIN EXECUTE format('COMMENT ON ROLE %I IS %L', '{name}', {text}); END$do$"
        )
    };
    let long = comment(format!("{literal} || repeat(' ', 9000000)"));
    world.sql(&long).await?;
    world
        .not_ready("principal", &name, "MarkerUnreadable")
        .await?;
    noticed(&world, 0).await?;
    let length =
        format!("SELECT length(shobj_description('\"{name}\"'::regrole, 'pg_authid')) > 9000000");
    assert_eq!(world.ask(&length).await?.as_deref(), Some("t"));
    world.sql(&comment(literal)).await?;
    world.wait_settled(&name).await
}
