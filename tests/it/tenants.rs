//! A principal that another team writes, and that asks for what is not its own: each is refused by
//! reason, and nothing is sent to the server.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{Setup, World};
use crate::roles::{READONLY_ID, bound, picture, statements};

/// The server of both teams: the first may have everything, the other a little.
fn server(world: &World) -> Result<Value> {
    let mut server = world.server("server")?;
    // Nothing but principals makes statements.
    server["spec"]["resyncInterval"] = json!("1h");
    let tenants = server["spec"]["tenants"].as_array_mut();
    tenants.expect("a list").push(json!({
        "namespaces": {"names": [world.names.other]},
        "principalTypes": ["Group"], "roleNames": ["other-*"],
        "memberOf": [{"role": "other-readers"}],
        "grants": [{"database": "orders", "schemas": ["app"], "privileges": ["USAGE", "SELECT", "CONNECT"]}],
        "adoption": [], "deletionPolicies": ["Drop"],
    }));
    Ok(server)
}

/// What the other team declares, beyond a group with role `other-app`; why it does not get it.
fn wishes() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let refused = "NotAllowedByServer";
    let protected = "RoleProtected";
    let member = |role: &str| json!({"memberOf": [{"role": role}]});
    let select = |database: &str, schema: &str| {
        json!({"grants": [{"database": database, "schema": schema, "objects": "Tables", "all": true,
            "privileges": ["SELECT"]}]})
    };
    let heir = |role: &str| json!({"deletionPolicy": "Reassign", "reassignOwnedTo": role});
    vec![
        (
            "admin",
            json!({"principal": {"type": "Group", "admin": true}}),
            refused,
            "tenants.admin is not true",
        ),
        (
            "create-role",
            json!({"role": {"createRole": true}}),
            refused,
            "tenants.attributes has no CreateRole",
        ),
        (
            "azure-pg-admin",
            member("azure_pg_admin"),
            refused,
            "does not list \"azure_pg_admin\"",
        ),
        (
            "indirectly",
            member("between"),
            refused,
            "does not list \"between\"",
        ),
        (
            "others-role",
            member("orders-api"),
            refused,
            "does not list \"orders-api\"",
        ),
        (
            "administrator",
            member("pg-operators"),
            protected,
            "memberOf \"pg-operators\"",
        ),
        (
            "azuresu",
            member("azuresu"),
            protected,
            "memberOf \"azuresu\"",
        ),
        (
            "database",
            select("postgres", "app"),
            refused,
            "tenants.grants gives no SELECT on schema app of database postgres",
        ),
        (
            "schema",
            select("orders", "public"),
            refused,
            "tenants.grants gives no SELECT on schema public of database orders",
        ),
        (
            "create",
            json!({"grants": [{"database": "orders", "privileges": ["CREATE", "CONNECT"]}]}),
            refused,
            "tenants.grants gives no CREATE on database orders",
        ),
        (
            "adoption",
            json!({"roleName": "other-old", "adoption": "Any"}),
            refused,
            "tenants.adoption has no Any",
        ),
        (
            "taken",
            json!({"roleName": "orders-api"}),
            refused,
            "does not match \"orders-api\"",
        ),
        (
            "boss",
            json!({"roleName": "pg-operators"}),
            protected,
            "\"pg-operators\" is an administrator",
        ),
        (
            "heir",
            heir("between"),
            refused,
            "does not list \"between\", the role of reassignOwnedTo",
        ),
        (
            "heir-admin",
            heir("pg-operators"),
            protected,
            "reassignOwnedTo \"pg-operators\"",
        ),
    ]
}

// Red when: `tenancy::check` leaves one of its parts out, or `observe` looks before it has asked it.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_team_may_not_have_is_refused_and_nothing_is_sent() -> Result<()> {
    let setup = Setup {
        server: None,
        ..Setup::default()
    };
    let mut world = World::with("hostile", setup).await?;
    world
        .sql(
            "CREATE ROLE between; GRANT azure_pg_admin TO between; CREATE ROLE \"other-readers\"; \
             CREATE ROLE \"other-old\" LOGIN PASSWORD 'of old times'",
        )
        .await?;
    world.apply(&server(&world)?).await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let (before, sent) = (picture(&world).await?, statements(&world));

    world.names.team = world.names.other.clone();
    let wishes = wishes();
    for (name, wish, ..) in &wishes {
        let mut object = world.principal(name, "other-app", bound("Group", READONLY_ID));
        for (field, value) in wish.as_object().expect("fields") {
            object["spec"][field] = value.clone();
        }
        world.apply(&object).await?;
    }
    for (name, _, reason, words) in &wishes {
        let said = world.not_ready("principal", name, reason).await?;
        assert!(said.contains(words), "{name}: {words:?} is not in {said}");
    }
    assert_eq!(picture(&world).await?, before, "nothing was changed");
    assert_eq!(statements(&world), sent, "nothing was sent");

    // What its entry gives it has at once: the refusals were the entry's.
    let good = world.principal("good", "other-good", bound("Group", READONLY_ID));
    world.apply(&good).await?;
    world.ready("principal", "good").await?;
    assert!(statements(&world) > sent);
    Ok(())
}
