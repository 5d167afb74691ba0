//! What somebody else granted under his own name, after the operator: it stays, keeps nothing of ours in
//! place, and is no problem; Exclusive takes it where it can.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{declared, furnished, has_exactly, improved, ledger, made, major, says, set, setup};
use crate::fixture::{SOON, Setup, World};
use crate::fleet;

/// Two who may grant on: we cannot speak for the first; the second's privileges we have.
const GRANTORS: &str = "CREATE ROLE dba; CREATE ROLE lender; GRANT lender TO \"pg-operators\"; GRANT USAGE ON SCHEMA app TO dba, lender WITH GRANT OPTION;
    GRANT ALL ON ALL TABLES IN SCHEMA app TO dba, lender WITH GRANT OPTION; GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO dba, lender WITH GRANT OPTION;
    GRANT ALL ON ALL ROUTINES IN SCHEMA app TO dba, lender WITH GRANT OPTION; GRANT ALL ON DATABASE orders TO dba, lender WITH GRANT OPTION;
    GRANT readers TO dba, lender WITH ADMIN OPTION";

/// Who granted a role what it has, in `orders`: `thing by grantor`.
async fn granted(world: &World, role: &str) -> Result<std::collections::BTreeSet<String>> {
    let sql = "SELECT x.what || ' by ' || pg_get_userbyid(e.grantor)::text FROM (
          SELECT relname::text AS what, relacl AS acl FROM pg_class UNION ALL SELECT nspname::text, nspacl FROM pg_namespace
          UNION ALL SELECT proname::text, proacl FROM pg_proc UNION ALL SELECT datname::text, datacl FROM pg_database) AS x,
        aclexplode(x.acl) AS e WHERE e.grantee = $1::text::regrole
        UNION ALL SELECT m.roleid::regrole::text || ' by ' || pg_get_userbyid(m.grantor)::text FROM pg_auth_members AS m WHERE m.member = $1::text::regrole";
    let client = ledger::superuser(world, "orders").await?;
    let rows = client.query(sql, &[&format!("\"{role}\"")]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn is_granted(world: &World, role: &str, expected: &[&str], what: &str) -> Result<()> {
    let start = std::time::Instant::now();
    let expected = set(expected);
    loop {
        let got = granted(world, role).await?;
        if got == expected {
            return Ok(());
        }
        ensure!(
            start.elapsed() < SOON,
            "{what}: {got:?}, not {expected:?}; {}",
            world.log_tail()
        );
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
}

fn on(objects: &str, which: &Value, privilege: &str) -> Value {
    let mut grant = json!({"database": "orders", "schema": "app", "objects": objects, "privileges": [privilege]});
    let key = if which.is_array() { "names" } else { "all" };
    grant[key] = which.clone();
    grant
}

/// Something of everything that has grantors.
fn everything(policy: &str) -> Value {
    json!({"privilegePolicy": policy, "memberOf": [{"role": "readers"}], "grants": [
        {"database": "orders", "privileges": ["TEMPORARY"]},
        {"database": "orders", "schema": "app", "privileges": ["USAGE"]},
        on("Tables", &json!(["t1"]), "SELECT"),
        on("Tables", &json!(true), "INSERT"),
        on("Sequences", &json!(true), "USAGE"),
        on("Functions", &json!(["f(integer)"]), "EXECUTE"),
    ]})
}

fn by_hand(grantor: &str, role: &str) -> String {
    format!(
        "SET ROLE {grantor}; GRANT SELECT, INSERT ON app.t1 TO \"{role}\"; GRANT USAGE ON SEQUENCE app.s1 TO \"{role}\";
         GRANT EXECUTE ON FUNCTION app.f(integer) TO \"{role}\"; GRANT USAGE ON SCHEMA app TO \"{role}\";
         GRANT TEMPORARY ON DATABASE orders TO \"{role}\"; GRANT readers TO \"{role}\""
    )
}

async fn additive(setup: Setup, test: &str) -> Result<()> {
    let world = furnished(test, setup, &[]).await?;
    ledger::run(&world, "orders", GRANTORS).await?;
    let apart = major(&world).await? >= 16;
    for (n, grantor) in [(0, "dba"), (1, "lender")] {
        made(&world, n, &everything("Additive")).await?;
        let name = fleet::name(n);
        ledger::run(&world, "orders", &by_hand(grantor, &name)).await?;
        let kept = ["t1", "s1", "f", "app", "orders"].map(|what| format!("{what} by {grantor}"));
        let mut kept: Vec<&str> = kept.iter().map(String::as_str).collect();
        // One row of a membership only, whoever gave it.
        let member = format!("readers by {grantor}");
        if apart {
            kept.push(&member);
        }
        // The last but the schema goes, so that the database is still looked at; then that, too.
        made(&world, n, &super::control()).await?;
        let mut ours = kept.clone();
        ours.push("app by app_owner");
        is_granted(&world, &name, &ours, "all but one").await?;
        made(&world, n, &json!({})).await?;
        is_granted(&world, &name, &kept, "all of ours").await?;
        world.ready("principal", &name).await?;
        // What is forgotten is not taken for ours when it is declared once more.
        made(&world, n, &everything("Additive")).await?;
        made(&world, n, &json!({})).await?;
        is_granted(&world, &name, &kept, "once more").await?;
        world.ready("principal", &name).await?;
    }
    Ok(())
}

// Red when: `slot` or `memberships` count what others granted for ours, or a REVOKE in Additive is also
// sent for another grantor.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_granted_after_us_is_neither_touched_nor_a_problem() -> Result<()> {
    additive(setup(2, |_| ()), "grantors").await
}

// Red when: with improved control every row of a membership is taken for ours.
#[tokio::test(flavor = "multi_thread")]
async fn nor_where_improved_control_could_take_it() -> Result<()> {
    additive(improved(2), "grantors_improved").await
}

// Red when: `of_others` is not set in Exclusive, or what others gave on a database is no problem there.
#[tokio::test(flavor = "multi_thread")]
async fn exclusive_takes_what_another_granted_where_it_can_and_says_where_not() -> Result<()> {
    let world = furnished("grantors_exclusive", setup(1, |_| ()), &[]).await?;
    ledger::run(&world, "orders", GRANTORS).await?;
    let name = fleet::name(0);
    let usage = json!({"database": "orders", "schema": "app", "privileges": ["USAGE"]});
    let fields = json!({"privilegePolicy": "Exclusive", "grants": [usage]});
    made(&world, 0, &fields).await?;
    let sql = "SET ROLE lender; GRANT INSERT ON app.t1 TO \"NAME\"; RESET ROLE; SET ROLE dba; GRANT TEMPORARY ON DATABASE orders TO \"NAME\"";
    ledger::run(&world, "orders", &sql.replace("NAME", &name)).await?;
    let ready = says(&world, 0, &["dba", "TEMPORARY", "RESET ROLE"]).await?;
    assert_eq!(ready.reason, "NotRevocable", "{ready:?}");
    let usage = "app by app_owner";
    is_granted(&world, &name, &[usage, "orders by dba"], "what we can").await?;
    let sql = super::statement(&ready.message, "SET ROLE", "RESET ROLE")?;
    ledger::run(&world, "orders", sql).await?;
    world.ready("principal", &name).await?;
    is_granted(&world, &name, &[usage], sql).await?;
    world.apply(&declared(&world, 0, &json!({}))).await?;
    let bare = set(&["attributes f t f f t -1"]);
    has_exactly(&world, &name, &[], &bare, "nothing").await
}
