//! Thousands of functions with signatures as long as they can be, all but one granted to a role that
//! is managed, and a declaration that wants all of them.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Attack, Running};
use crate::hostile::identities::evil;
use crate::hostile::world::{SHARED, World};
use crate::postgres::SUPERUSER;

const COUNT: usize = 4_000;
const OURS: Attack = Attack::Functions;

/// As long as a name may be.
fn long(head: &str) -> String {
    format!("{head}{}", "x".repeat(63 - head.len()))
}

pub(super) async fn begin(world: &World) -> Result<Running> {
    world.create(OURS.role(0)).await?;
    OURS.wait_for_role(world, 0).await?;
    let client = world.sql_as(SUPERUSER, "orders").await?;
    let (schema, kind) = (long("evil_s"), long("evil_t"));
    let role = evil(OURS, 0);
    let sql = format!(
        "CREATE ROLE evil_functions; GRANT CREATE ON DATABASE orders TO evil_functions; \
         SET ROLE evil_functions; CREATE SCHEMA {schema}; CREATE TYPE {schema}.{kind} AS ENUM ('a'); \
         GRANT USAGE ON SCHEMA {schema} TO \"{role}\"; SET check_function_bodies = off; \
         DO $$ DECLARE arguments text := (SELECT string_agg('{schema}.{kind}', ',') FROM generate_series(1, 100)); BEGIN \
           FOR i IN 1..{COUNT} LOOP \
             EXECUTE format('CREATE FUNCTION {schema}.%I(%s) RETURNS int LANGUAGE sql AS %L', \
               rpad('evil_f' || i || '_', 63, 'x'), arguments, 'SELECT 1'); \
           END LOOP; END $$; \
         REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO \"{role}\"; \
         DO $$ BEGIN EXECUTE (SELECT 'REVOKE EXECUTE ON FUNCTION ' || min(oid)::regprocedure || ' FROM \"{role}\"' \
           FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace); END $$; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO \"pg-operators\" WITH GRANT OPTION"
    );
    client.batch_execute(&sql).await?;
    let mut wants = OURS.role(1);
    if let Some(spec) = wants.get_mut("spec") {
        spec["grants"] = json!([{"database": "orders", "schema": schema, "objects": "Functions",
            "all": true, "privileges": ["EXECUTE"]}]);
    }
    world.create(wants).await?;
    Ok(Running::default())
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let role = evil(OURS, 0);
    let sql = format!(
        "SELECT count(*) FROM pg_proc WHERE pronargs = 100 AND has_function_privilege('{role}', oid, 'EXECUTE')"
    );
    let granted = world.ask(SHARED, "orders", &sql).await?;
    ensure!(granted == (COUNT - 1).to_string(), "{granted} functions");
    Ok(format!("{granted} functions of 100 arguments"))
}
