//! A hub of memberships: thousands of roles are members of a role that is a member of thousands, so
//! that pairs of them are millions.

use anyhow::{Result, ensure};

use super::{Attack, Running};
use crate::hostile::identities::evil;
use crate::hostile::world::{SHARED, World};
use crate::postgres::SUPERUSER;

const COUNT: usize = 5_000;
const OURS: Attack = Attack::Graph;

pub(super) async fn begin(world: &World) -> Result<Running> {
    for n in 0..2 {
        world.create(OURS.role(n)).await?;
        OURS.wait_for_role(world, n).await?;
    }
    let client = world.sql_as(SUPERUSER, "postgres").await?;
    let (one, two) = (evil(OURS, 0), evil(OURS, 1));
    // The hub's own memberships last: while it has none, the search for circles is short.
    let sql = format!(
        "CREATE ROLE evil_graph CREATEROLE; SET ROLE evil_graph; CREATE ROLE evil_hub; \
         DO $$ BEGIN FOR i IN 1..{COUNT} LOOP \
           EXECUTE format('CREATE ROLE %I', 'evil_d' || i); \
           EXECUTE format('GRANT evil_hub TO %I', 'evil_d' || i); \
           EXECUTE format('GRANT %I TO \"{one}\", \"{two}\"', 'evil_d' || i); \
         END LOOP; END $$; \
         DO $$ BEGIN FOR i IN 1..{COUNT} LOOP \
           EXECUTE format('CREATE ROLE %I', 'evil_up' || i); \
           EXECUTE format('GRANT %I TO evil_hub', 'evil_up' || i); \
         END LOOP; END $$"
    );
    client.batch_execute(&sql).await?;
    Ok(Running::default())
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let members = |role: &str| {
        format!(
            "SELECT count(*) FROM pg_auth_members WHERE member = (SELECT oid FROM pg_roles WHERE rolname = '{role}')"
        )
    };
    let direct = world
        .ask(SHARED, "postgres", &members(&evil(OURS, 0)))
        .await?;
    let up = world.ask(SHARED, "postgres", &members("evil_hub")).await?;
    ensure!(
        direct == COUNT.to_string() && up == COUNT.to_string(),
        "{direct} direct memberships, {up} of the hub"
    );
    Ok(format!("{direct} direct memberships, {up} of their hub"))
}
