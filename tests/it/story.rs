//! The main job: a principal becomes a role and a Secret that really logs in.

use anyhow::Result;
use serde_json::json;

use crate::fixture::{ALICE, API_ID, World, workload_identity};

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_identity_a_group_and_a_user_get_roles_and_tokens_that_log_in() -> Result<()> {
    let world = World::start("story").await?;
    world.apply(&world.api()).await?;
    let mut group = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    group["spec"]["token"] = json!({
        "identity": workload_identity("orders-reports"),
        "secret": {"name": "readonly-db", "formats": ["Env"]},
    });
    world.apply(&group).await?;
    world
        .apply(&world.principal("alice", ALICE, json!({"type": "User"})))
        .await?;

    let api = world.ready("principal", "api").await?;
    assert_eq!(api["status"]["role"]["objectId"], API_ID);
    assert_eq!(api["status"]["binding"]["name"], "api");
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));
    let secret = world.secret("api").await?;
    let user = world
        .login(
            &secret["username"],
            &secret["password"],
            &secret["database"],
        )
        .await?;
    assert_eq!(user, "orders-api");

    world.ready("principal", "readonly").await?;
    let secret = world.secret("readonly-db").await?;
    let user = world
        .login(
            &secret["PGUSER"],
            &secret["PGPASSWORD"],
            &secret["PGDATABASE"],
        )
        .await?;
    assert_eq!(user, "Prod DB Readonly");

    let alice = world.ready("principal", "alice").await?;
    assert_eq!(alice["status"].get("token"), None);
    assert_eq!(world.get("secret", "alice").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_dropped_or_relabelled_by_hand_is_put_back() -> Result<()> {
    let world = World::start("drift").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let bound = "SELECT p.oid FROM pgaadauth_list_principals(false) AS p(name, kind, oid) WHERE p.name = 'orders-api'";

    world.sql("DROP ROLE \"orders-api\"").await?;
    world.wait_sql(bound, Some(API_ID)).await?;
    world
        .sql("SECURITY LABEL FOR pgaadauth ON ROLE \"orders-api\" IS NULL")
        .await?;
    world.wait_sql(bound, Some(API_ID)).await?;
    let other = crate::fixture::REPORTS_ID;
    world
        .sql(&format!(
            "SECURITY LABEL FOR pgaadauth ON ROLE \"orders-api\" IS 'aadauth,oid={other},type=service'"
        ))
        .await?;
    world.wait_sql(bound, Some(API_ID)).await?;
    world.ready("principal", "api").await?;
    Ok(())
}
