//! Privileges on single columns, which nobody declares: a REVOKE on their table would take them, too.

use anyhow::Result;
use serde_json::{Value, json};

use super::{declared, furnished, has_exactly, ledger, made, says, set, setup, statement};
use crate::fleet;

const BARE: &str = "attributes f t f f t -1";

fn on(which: &Value) -> Value {
    let mut grant = json!({"database": "orders", "schema": "app", "objects": "Tables", "privileges": ["SELECT", "UPDATE"]});
    let key = if which.is_array() { "names" } else { "all" };
    grant[key] = which.clone();
    json!({"grants": [grant]})
}

/// What a role has on columns, `table.column privilege by grantor`; `*`: may be passed on.
async fn on_columns(world: &crate::fixture::World, role: &str) -> Result<Vec<String>> {
    let sql = "SELECT c.relname || '.' || a.attname || ' ' || e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END
          || ' by ' || pg_get_userbyid(e.grantor)
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid, aclexplode(a.attacl) AS e
        WHERE e.grantee = $1::text::regrole ORDER BY 1";
    let client = ledger::superuser(world, "orders").await?;
    let rows = client.query(sql, &[&format!("\"{role}\"")]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

// Red when: a REVOKE on tables does not give back what it took on columns, or not as it was; or in
// Exclusive nobody looks at columns.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_gave_on_columns_stays_and_goes_where_the_policy_is_exclusive()
-> Result<()> {
    let world = furnished("columns", setup(2, |_| ()), &[]).await?;
    let columns = "ALTER TABLE app.t1 ADD a int, ADD \"b (\"\" ,\" int; CREATE ROLE dba; GRANT USAGE ON SCHEMA app TO dba;
        GRANT SELECT ON app.t1 TO dba WITH GRANT OPTION; GRANT INSERT ON app.t2 TO \"pg-operators\" WITH GRANT OPTION";
    ledger::run(&world, "orders", columns).await?;
    let mut given = Vec::new();
    for (n, which) in [(0, json!(["t1"])), (1, json!(true))] {
        made(&world, n, &json!({})).await?;
        let name = fleet::name(n);
        let sql = "GRANT SELECT (a), UPDATE (\"b (\"\" ,\") ON app.t1 TO \"NAME\"; GRANT SELECT (\"b (\"\" ,\") ON app.t1 TO \"NAME\" WITH GRANT OPTION;
            SET ROLE dba; GRANT SELECT (a) ON app.t1 TO \"NAME\"";
        ledger::run(&world, "orders", &sql.replace("NAME", &name)).await?;
        given = on_columns(&world, &name).await?;
        assert_eq!(given.len(), 4, "{given:?}");
        made(&world, n, &on(&which)).await?;
        made(&world, n, &json!({})).await?;
        has_exactly(&world, &name, &[], &set(&[BARE]), "nothing on tables").await?;
        assert_eq!(on_columns(&world, &name).await?, given);
    }
    let name = fleet::name(0);
    let exclusive = json!({"privilegePolicy": "Exclusive", "grants": [
        {"database": "orders", "schema": "app", "objects": "Tables", "names": ["t1"], "privileges": ["SELECT"]}]});
    world.apply(&declared(&world, 0, &exclusive)).await?;
    let ready = says(&world, 0, &["dba", "RESET ROLE"]).await?;
    assert_eq!(ready.reason, "NotRevocable", "{ready:?}");
    assert_eq!(on_columns(&world, &name).await?, ["t1.a SELECT by dba"]);
    let held = set(&[BARE, "orders|app|table|t1|SELECT"]);
    has_exactly(&world, &name, &[], &held, "exclusive").await?;
    let sql = statement(&ready.message, "SET ROLE", "RESET ROLE")?;
    ledger::run(&world, "orders", sql).await?;
    world.ready("principal", &name).await?;
    assert!(on_columns(&world, &name).await?.is_empty());
    has_exactly(&world, &name, &[], &held, sql).await?;
    assert_eq!(on_columns(&world, &fleet::name(1)).await?, given);
    Ok(())
}
