//! Entra roles that no operator manages: listed in the server's status.

use anyhow::Result;
use serde_json::json;

use crate::fixture::World;

use super::{ALICE_ID, BATCH_ID, IMPORTER_ID, READONLY_ID, bound, quoted};

const BOB_ID: &str = "a11ce000-0000-4000-8000-000000000004";

// Red when: report::server() keeps what was there; or publish() in postgres/worker.rs tells nobody that the
// unmanaged roles are others (they come after five minutes then); or unmanaged() in postgres/questions.rs counts
// what group sync made with the others.
#[tokio::test(flavor = "multi_thread")]
async fn roles_that_nobody_manages_are_listed_and_go_from_the_list() -> Result<()> {
    let world = World::start("unmanaged").await?;
    let importer = bound("ServicePrincipal", IMPORTER_ID);
    world
        .apply(&world.principal("importer", "importer", importer))
        .await?;
    world.ready("principal", "importer").await?;
    let make = |role: &str, id: &str, kind: &str, admin: bool| {
        let role = quoted(role);
        format!(
            "SELECT pgaadauth_create_principal_with_oid({role}, '{id}', '{kind}', {admin}, false);"
        )
    };
    // A marker of any cluster says that somebody manages it.
    let marker = "Managed by entra-postgres-operator for EntraPostgresPrincipal a/b; do not edit: \
        {\"cluster\":\"elsewhere\",\"namespace\":\"a\",\"name\":\"b\",\"uid\":\"u\",\"objectId\":\"o\"}";
    world
        .sql(
            &[
                make("by hand", BATCH_ID, "service", false),
                make("elsewhere", READONLY_ID, "group", false),
                make("an administrator", ALICE_ID, "user", true),
                format!(
                    "COMMENT ON ROLE elsewhere IS {}; CREATE ROLE plain",
                    quoted(marker)
                ),
            ]
            .concat(),
        )
        .await?;
    let is = |count: i64, names: serde_json::Value| {
        move |object: &serde_json::Value| {
            let unmanaged = &object["status"]["unmanaged"];
            unmanaged["count"] == count && unmanaged["names"] == names
        }
    };
    world
        .wait(
            "server",
            "server",
            "one is not managed",
            is(1, json!(["by hand"])),
        )
        .await?;
    // While group sync is on, a member of a group's role is one that the server made.
    let bob = make("a member", BOB_ID, "user", false);
    world
        .sql(&format!("{bob} GRANT elsewhere TO \"a member\""))
        .await?;
    let both = is(2, json!(["a member", "by hand"]));
    world
        .wait("server", "server", "two are not managed", &both)
        .await?;
    for (sync, what) in [("on", "one is the server's"), ("off", "two again")] {
        let set = format!("ALTER SYSTEM SET pgaadauth.enable_group_sync = {sync}");
        world.sql(&set).await?;
        world.sql("SELECT pg_reload_conf()").await?;
        let apart = is(1, json!(["by hand"]));
        let told = |object: &serde_json::Value| {
            let members = &object["status"]["unmanaged"]["groupMembers"];
            match sync {
                "on" => apart(object) && *members == 1,
                _ => both(object) && members.as_i64().unwrap_or_default() == 0,
            }
        };
        world.wait("server", "server", what, told).await?;
    }
    world.sql("DROP ROLE \"a member\"").await?;
    // From PostgreSQL 16 on who adopts a role needs the ADMIN OPTION on it.
    let admin = "GRANT \"by hand\" TO \"pg-operators\" WITH ADMIN OPTION";
    world.sql(admin).await?;
    let adopt = bound("ServicePrincipal", BATCH_ID);
    let mut adopt = world.principal("adopt", "by hand", adopt);
    adopt["spec"]["adoption"] = json!("SameIdentity");
    world.apply(&adopt).await?;
    world
        .wait("server", "server", "all are managed", is(0, json!(null)))
        .await?;
    Ok(())
}
