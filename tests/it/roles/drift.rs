//! What people change on the server by hand: put back, or left and reported.

use anyhow::Result;
use lab::postgres::{PostgresOptions, Switches};
use serde_json::{Value, json};

use crate::fixture::{ALICE, API_ID, Condition, REPORTS_ID, SOON, Setup, World, condition};

use super::{
    ALICE_ID, BATCH_ID, GUEST, GUEST_ID, IMPORTER_ID, READONLY_ID, bound, comment_of, listed,
    picture, quoted,
};

fn with_relabel_refused() -> Setup {
    Setup {
        postgres: PostgresOptions {
            switches: Switches {
                relabel_refused: true,
                ..Switches::default()
            },
            ..PostgresOptions::default()
        },
        ..Setup::default()
    }
}

/// One principal of each type and flag, and how the server lists it.
async fn each_kind(world: &World) -> Result<Vec<(&'static str, String)>> {
    let flagged = |kind: &str, id: &str, admin: bool, mfa: bool| json!({"type": kind, "objectId": id, "admin": admin, "requireMFA": mfa});
    let cases = [
        (
            "user",
            ALICE,
            flagged("User", ALICE_ID, false, true),
            format!("user {ALICE_ID} 1 0"),
        ),
        (
            "guest",
            GUEST,
            json!({"type": "User", "requireMFA": true}),
            format!("user {GUEST_ID} 1 0"),
        ),
        (
            "group",
            "Prod DB Readonly",
            json!({"type": "Group"}),
            format!("group {READONLY_ID} 0 0"),
        ),
        (
            "service",
            "importer",
            bound("ServicePrincipal", IMPORTER_ID),
            format!("service {IMPORTER_ID} 0 0"),
        ),
        (
            "managed",
            "orders-api",
            json!({"type": "ManagedIdentity"}),
            format!("service {API_ID} 0 0"),
        ),
        (
            "admin",
            "boss",
            flagged("ServicePrincipal", BATCH_ID, true, false),
            format!("service {BATCH_ID} 0 1"),
        ),
        (
            "named",
            "orders-reports",
            json!({"type": "ManagedIdentity", "admin": true}),
            format!("service {REPORTS_ID} 0 1"),
        ),
    ];
    for (name, role, principal, _) in &cases {
        world
            .apply(&world.principal(name, role, principal.clone()))
            .await?;
    }
    for (name, role, _, line) in &cases {
        world.ready("principal", name).await?;
        assert_eq!(listed(world, role).await?.as_ref(), Some(line), "{name}");
    }
    Ok(cases.map(|(_, role, _, line)| (role, line)).into())
}

async fn is_listed(world: &World, role: &str, line: &str) -> Result<()> {
    let role = quoted(role);
    let sql = format!(
        "SELECT concat_ws(' ', p.kind, p.oid, p.mfa, p.admin) FROM pgaadauth_list_principals(false) \
         AS p(name, kind, oid, tenant, mfa, admin) WHERE p.name = {role}"
    );
    world.wait_sql(&sql, Some(line)).await
}

/// Takes labels and flags away and sets others, as a DBA would.
async fn labels_are_put_back(world: &World) -> Result<()> {
    let all = each_kind(world).await?;
    let label = |role: &str, label: &str| {
        let role = postgres_protocol::escape::escape_identifier(role);
        format!("SECURITY LABEL FOR pgaadauth ON ROLE {role} IS {label};")
    };
    let changes = [
        label(ALICE, &format!("'aadauth,oid={ALICE_ID},type=user'")),
        label(GUEST, &format!("'aadauth,oid={GUEST_ID},type=user,admin'")),
        label(
            "Prod DB Readonly",
            &format!("'aadauth,oid={READONLY_ID},type=group,admin'"),
        ),
        label("importer", "NULL"),
        label("orders-api", "'aadauth,admin'"),
        label("boss", &format!("'aadauth,oid={BATCH_ID},type=service'")),
    ];
    world.sql(&changes.concat()).await?;
    for (role, line) in &all {
        is_listed(world, role, line).await?;
    }
    for name in [
        "user", "guest", "group", "service", "managed", "admin", "named",
    ] {
        world.ready("principal", name).await?;
    }
    Ok(())
}

// Red when: bound_to() in model/plan/claim.rs leaves out mfa or admin, or label_text() does.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_listed_as_declared_and_its_label_is_put_back() -> Result<()> {
    let world = World::start("labels").await?;
    labels_are_put_back(&world).await
}

// Red when: run() in postgres/change.rs does not try rebind().
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_relabel_is_coped_with_or_the_way_by_hand_is_told() -> Result<()> {
    let world = World::with("relabel", with_relabel_refused()).await?;
    labels_are_put_back(&world).await?;

    let refusal = json!([{"on": "sql", "match": {"role": "importer"}, "do": {"sqlState": "XX000",
        "message": "Failed to create Microsoft Entra principal. Reason: 'Updating an existing principal isn't supported. Drop and recreate the Microsoft Entra principal.'"}}]);
    world.faults(refusal).await?;
    let before = picture(&world).await?;
    let new_id = "5e41ce00-0000-4000-8000-000000000006";
    let patch = json!({"spec": {"principal": {"objectId": new_id}}});
    world.patch("principal", "service", &patch).await?;
    let said = world
        .not_ready("principal", "service", "RebindRefused")
        .await?;
    for words in [
        "REASSIGN OWNED BY \"importer\"",
        "DROP OWNED BY",
        "DROP ROLE \"importer\"",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(picture(&world).await?, before, "it keeps its old binding");

    // What it says helps.
    world.faults(json!([])).await?;
    world.sql("DROP ROLE importer").await?;
    world.ready("principal", "service").await?;
    assert_eq!(world.bound_to("importer").await?.as_deref(), Some(new_id));
    Ok(())
}

/// The condition Ready once it is so, with the status it came with.
async fn reported(world: &World, name: &str, reason: &str) -> Result<(Value, Condition)> {
    let object = world
        .wait_for("principal", name, reason, SOON, |object| {
            condition(object, "Ready").reason == reason
        })
        .await?;
    let ready = condition(&object, "Ready");
    Ok((object, ready))
}

// Red when: unmarked() does not ask the status (no marker), keep() does not look at can_login, or
// restores LOGIN.
#[tokio::test(flavor = "multi_thread")]
async fn markers_come_back_and_what_a_dba_decided_stays() -> Result<()> {
    let world = World::start("by_hand").await?;
    world.apply(&world.api()).await?;
    let importer = world.principal(
        "importer",
        "importer",
        bound("ServicePrincipal", IMPORTER_ID),
    );
    world.apply(&importer).await?;
    world.ready("principal", "importer").await?;
    world.ready("principal", "api").await?;

    world
        .sql("COMMENT ON ROLE importer IS 'what is this for?'")
        .await?;
    // That it is this object's is known from the status; how it came nobody can say any more.
    let is_back = format!(
        "SELECT shobj_description(oid, 'pg_authid') LIKE '%; do not edit: {{%\"came\":{{\"how\":\"recorded\"%{IMPORTER_ID}%' \
         FROM pg_roles WHERE rolname = 'importer'"
    );
    world.wait_sql(&is_back, Some("t")).await?;

    // NOLOGIN is a DBA's kill switch.
    world.sql("ALTER ROLE \"orders-api\" NOLOGIN").await?;
    let (object, ready) = reported(&world, "api", "LoginDisabledOnServer").await?;
    assert!(ready.is("False"), "{object:#}");
    assert!(
        ready.message.contains("orders-api") && ready.message.contains("LOGIN"),
        "{ready:?}"
    );
    let after = comment_of(&world, "orders-api").await?;
    assert!(after.is_some_and(|marker| marker.contains(API_ID)));
    world
        .sql("SECURITY LABEL FOR pgaadauth ON ROLE \"orders-api\" IS NULL")
        .await?;
    is_listed(&world, "orders-api", &format!("service {API_ID} 0 0")).await?;
    reported(&world, "api", "LoginDisabledOnServer").await?;
    let login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'orders-api'";
    assert_eq!(
        world.ask(login).await?.as_deref(),
        Some("f"),
        "the operator left it"
    );
    world.sql("ALTER ROLE \"orders-api\" LOGIN").await?;
    world.ready("principal", "api").await?;

    // The same name, but made by a DBA: not ours any more.
    world
        .sql("DROP ROLE importer; CREATE ROLE importer LOGIN PASSWORD 'mine'")
        .await?;
    let (_, ready) = reported(&world, "importer", "RoleExists").await?;
    assert!(
        ready.is("False") && ready.message.contains("importer"),
        "{ready:?}"
    );
    assert_eq!(comment_of(&world, "importer").await?, None);
    assert_eq!(listed(&world, "importer").await?, None);
    world.sql("DROP ROLE importer").await?;
    world.ready("principal", "importer").await?;
    assert_eq!(
        world.bound_to("importer").await?.as_deref(),
        Some(IMPORTER_ID)
    );
    Ok(())
}

// Red when: neither plan() nor observe() looks at `suspend`; or tenancy is looked at only for new roles.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_and_a_no_longer_allowed_principal_stay_as_they_are() -> Result<()> {
    let world = World::start("suspended").await?;
    world.apply(&world.api()).await?;
    let control = world.principal("control", "control", bound("ServicePrincipal", IMPORTER_ID));
    world.apply(&control).await?;
    world.ready("principal", "api").await?;
    world.ready("principal", "control").await?;
    let secret = world.secret("api").await?;

    world
        .patch("principal", "api", &json!({"spec": {"suspend": true}}))
        .await?;
    let object = world.suspended("api").await?;
    let message = condition(&object, "Suspended").message;
    assert!(message.contains("spec.suspend"), "{object:#}");
    assert!(condition(&object, "Ready").is("True"), "{object:#}");
    assert_eq!(
        object["status"]["role"]["objectId"], API_ID,
        "what was known is kept"
    );
    world
        .sql("DROP ROLE control; DROP ROLE \"orders-api\"")
        .await?;
    // The snapshot that brings one back has seen the other gone, too.
    let is_there = |role: &str| format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'");
    world.wait_sql(&is_there("control"), Some("1")).await?;
    assert_eq!(
        world.ask(&is_there("orders-api")).await?.as_deref(),
        Some("0")
    );
    assert_eq!(world.secret("api").await?, secret);
    world
        .patch("principal", "api", &json!({"spec": {"suspend": false}}))
        .await?;
    world.ready("principal", "api").await?;
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));

    // The server's owner takes the permission back: that is said, and nothing is taken away.
    let mut server = world.server("server")?;
    server["spec"]["tenants"][0]["principalTypes"] = json!(["User", "ServicePrincipal"]);
    world.apply(&server).await?;
    let before = picture(&world).await?;
    let (_, ready) = reported(&world, "api", "NotAllowedByServer").await?;
    assert!(
        ready.is("False") && ready.message.contains("has no ManagedIdentity"),
        "{ready:?}"
    );
    server["spec"]["tenants"][0]["namespaces"]["names"] = json!(["somewhere-else"]);
    world.apply(&server).await?;
    let (_, ready) = reported(&world, "api", "NamespaceNotAllowed").await?;
    assert!(ready.message.contains("spec.tenants"), "{ready:?}");
    reported(&world, "control", "NamespaceNotAllowed").await?;
    assert_eq!(picture(&world).await?, before);
    assert_eq!(world.secret("api").await?, secret);
    world.apply(&world.server("server")?).await?;
    world.ready("principal", "api").await?;
    Ok(())
}
