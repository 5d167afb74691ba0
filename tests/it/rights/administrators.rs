//! A server with two administrators: what the operator gave as the one is still its own when it works as
//! the other.

use anyhow::Result;
use lab::directory::Group;
use serde_json::json;
use uuid::Uuid;

use super::{
    ADMINISTRATOR, declared, furnished, has_exactly, ledger, made, major, says, set, setup,
    statement,
};
use crate::fixture::{Setup, World, workload_identity};
use crate::fleet;

const SECOND: &str = "second-operators";

/// The default world, whose administrator has a deputy, as whom the operator can sign in too.
fn with_deputy(count: usize) -> Setup {
    let Setup { directory, .. } = setup(count, |_| ());
    Setup {
        directory: Box::new(move |all, names| {
            directory(all, names);
            let first = all.groups.iter().find(|group| group.name == ADMINISTRATOR);
            let group = Group {
                name: SECOND.to_owned(),
                object_id: Uuid::from_u128(0x9409_b000_0000_4000_8000_0000_0000_0099),
                members: first.expect("pg-operators").members.clone(),
            };
            all.groups.push(group);
            all.administrators.push(SECOND.to_owned());
        }),
        ..setup(count, |_| ())
    }
}

/// Declares the administrators in this order, and waits until the operator works as the first.
async fn works_as(world: &World, order: [&str; 2]) -> Result<()> {
    let admin =
        |role: &str| json!({"roleName": role, "identity": workload_identity("pg-operator")});
    let patch = json!({"spec": {"admins": order.map(admin)}});
    world.patch("server", "server", &patch).await?;
    let active = |object: &serde_json::Value| object["status"]["activeAdmin"] == order[0];
    let what = format!("{} is active", order[0]);
    world.wait("server", "server", &what, active).await?;
    Ok(())
}

// Red when: the questions count only what the present administrator gave (`by_admin`): the role keeps
// what is declared no more, and nobody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_as_another_administrator_is_not_forgotten() -> Result<()> {
    let world = furnished("deputy", with_deputy(1), &[]).await?;
    let may = format!(
        "CREATE ROLE stranger; CREATE SCHEMA theirs AUTHORIZATION stranger; SET ROLE stranger; CREATE TABLE theirs.t (); RESET ROLE;
         GRANT USAGE ON SCHEMA theirs TO \"{ADMINISTRATOR}\" WITH GRANT OPTION; GRANT SELECT, INSERT ON theirs.t TO \"{ADMINISTRATOR}\" WITH GRANT OPTION"
    );
    ledger::run(&world, "orders", &may).await?;
    world.sql("CREATE DATABASE lent OWNER stranger").await?;
    let lend = format!(
        "GRANT TEMPORARY ON DATABASE lent TO \"{ADMINISTRATOR}\" WITH GRANT OPTION; GRANT readers TO \"{SECOND}\" WITH ADMIN OPTION"
    );
    world.sql(&lend).await?;
    works_as(&world, [ADMINISTRATOR, SECOND]).await?;
    let name = fleet::name(0);
    let theirs = json!({"database": "orders", "schema": "theirs", "objects": "Tables"});
    let grant = |key: &str, value: serde_json::Value, privilege: &str| {
        let mut grant = theirs.clone();
        grant[key] = value;
        grant["privileges"] = json!([privilege]);
        grant
    };
    let full = json!({"memberOf": [{"role": "readers", "admin": true}], "grants": [
        {"database": "lent", "privileges": ["TEMPORARY"]},
        grant("names", json!(["t"]), "SELECT"),
        grant("all", json!(true), "INSERT"),
    ]});
    made(&world, 0, &full).await?;
    works_as(&world, [SECOND, ADMINISTRATOR]).await?;
    // What was given by hand as the other is not ours, and stays.
    let by_hand =
        format!("SET ROLE \"{ADMINISTRATOR}\"; GRANT USAGE ON SCHEMA theirs TO \"{name}\"");
    ledger::run(&world, "orders", &by_hand).await?;

    let apart = major(&world).await? >= 16;
    let by_hand_only = set(&[super::shrink::BARE, "orders|theirs|schema|theirs|USAGE"]);
    let held = set(&[
        super::shrink::BARE,
        "orders|theirs|schema|theirs|USAGE",
        "lent||database||TEMPORARY",
        "orders|theirs|table|t|SELECT",
        "orders|theirs|table|t|INSERT",
        "member of readers",
    ]);
    let mut less = full;
    if apart {
        // Its ADMIN OPTION came from the first, and a grant by the second takes nothing of it.
        less["memberOf"][0]["admin"] = json!(false);
        world.apply(&declared(&world, 0, &less)).await?;
        let ready = says(&world, 0, &["more options", ADMINISTRATOR]).await?;
        assert_eq!(ready.reason, "NotRevocable", "{ready:?}");
        let end = format!("GRANTED BY \"{ADMINISTRATOR}\"");
        let sql = statement(&ready.message, "REVOKE \"readers\"", &end)?;
        world.sql(sql).await?;
        world.ready("principal", &name).await?;
        has_exactly(&world, &name, &["lent"], &held, sql).await?;
    }

    world.apply(&declared(&world, 0, &json!({}))).await?;
    let words = ["\"theirs\".\"t\"", "DATABASE \"lent\""];
    says(&world, 0, &words).await?;
    // It is remembered, whoever we are next.
    works_as(&world, [ADMINISTRATOR, SECOND]).await?;
    world.ready("principal", &name).await?;
    has_exactly(&world, &name, &["lent"], &by_hand_only, "all of ours").await?;
    Ok(())
}
