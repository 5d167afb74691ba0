//! The operator is killed between giving or taking and saying so: nothing is forgotten.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::shrink::{BARE, everything, full};
use super::{ADMINISTRATOR, declared, furnished, has_exactly, ledger, set, setup};
use crate::fixture::{World, condition};
use crate::fleet;

/// SIGKILL while the statuses of both principals are so; what the operator had sent comes to its end.
async fn killed_before(
    world: &mut World,
    blocker: &Client,
    is_so: impl Fn(&Value) -> bool,
) -> Result<()> {
    world.kill_operator();
    for n in [0, 1] {
        let object = world.get("principal", &fleet::name(n)).await?;
        let object = object.unwrap_or_default();
        ensure!(is_so(&object), "it said so: {:#}", object["status"]);
    }
    blocker.batch_execute("ROLLBACK").await?;
    let sessions =
        format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ADMINISTRATOR}'");
    world.wait_sql(&sessions, Some("0")).await
}

// Red when: `Steps` puts the marker after what it gives, or leaves `asked` out of the comment of a role
// that is created.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_by_an_operator_that_died_before_it_said_so_is_taken_back() -> Result<()> {
    let waits = |spec: &mut Value| spec["timeouts"] = json!({"lock": "20s"});
    let mut world = furnished("killed", setup(2, waits), &["stock"]).await?;
    // A role with it has administrative rights, which no comment alone may explain.
    world
        .sql("GRANT pg_monitor TO \"pg-operators\" WITH ADMIN OPTION")
        .await?;
    world.ready("server", "server").await?;
    let mut given = everything();
    given.insert("member of pg_monitor".to_owned());
    // What is given in `stock` waits for somebody; all the rest is given, and nothing is said.
    let blocker = ledger::superuser(&world, "stock").await?;
    let lock = "BEGIN; GRANT SELECT ON app.t1 TO bystander";
    blocker.batch_execute(lock).await?;
    let policies = [(0, "Additive"), (1, "Exclusive")];
    for (n, policy) in policies {
        let mut object = declared(&world, n, &full(policy));
        let member_of = object["spec"]["memberOf"].as_array_mut().expect("a list");
        member_of.push(json!({"role": "pg_monitor"}));
        let grants = object["spec"]["grants"].as_array_mut().expect("a list");
        grants.push(json!({"database": "stock", "schema": "app", "objects": "Tables", "names": ["t1"], "privileges": ["SELECT"]}));
        world.apply(&object).await?;
    }
    for (n, _) in policies {
        has_exactly(&world, &fleet::name(n), &["stock"], &given, "given").await?;
    }
    let silent = |object: &Value| !condition(object, "RoleSynced").is("True");
    killed_before(&mut world, &blocker, silent).await?;

    for (n, policy) in policies {
        let fields = json!({"privilegePolicy": policy});
        world.apply(&declared(&world, n, &fields)).await?;
    }
    world.start_operator().await?;
    for (n, _) in policies {
        let name = fleet::name(n);
        has_exactly(&world, &name, &["stock"], &set(&[BARE]), "taken back").await?;
        world.ready("principal", &name).await?;
    }

    // The same while it takes: what is in `orders` waits, the rest is taken.
    for (n, policy) in policies {
        let mut object = declared(&world, n, &full(policy));
        object["spec"]["memberOf"] = json!([{"role": "pg_monitor"}]);
        world.apply(&object).await?;
    }
    for (n, _) in policies {
        world.ready("principal", &fleet::name(n)).await?;
    }
    let blocker = ledger::superuser(&world, "orders").await?;
    blocker
        .batch_execute("BEGIN; GRANT SELECT ON app.t1 TO bystander")
        .await?;
    let connect = json!([{"database": "orders", "privileges": ["CONNECT"]}]);
    for (n, policy) in policies {
        let fields = json!({"privilegePolicy": policy, "grants": connect});
        world.apply(&declared(&world, n, &fields)).await?;
    }
    let settled = "SELECT count(*) FROM pg_db_role_setting";
    world.wait_sql(settled, Some("0")).await?;
    let waits = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = '{ADMINISTRATOR}' AND wait_event_type = 'Lock'"
    );
    world.wait_sql(&waits, Some("t")).await?;
    let unsaid = |object: &Value| !condition(object, "Ready").is("True");
    killed_before(&mut world, &blocker, unsaid).await?;
    world.start_operator().await?;
    let connect = set(&[BARE, "orders||database||CONNECT"]);
    for (n, _) in policies {
        let name = fleet::name(n);
        has_exactly(&world, &name, &["stock"], &connect, "taken").await?;
        world.ready("principal", &name).await?;
    }
    Ok(())
}
