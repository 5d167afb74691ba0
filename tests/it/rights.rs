//! What roles may do: attributes, settings, memberships, privileges. `ledger` reads it all past the
//! operator; here is what the chapters declare and how they wait.

mod absent;
mod administrators;
mod answers;
mod columns;
mod grantors;
mod handed_on;
mod hostile;
mod killed;
mod kinds;
pub mod ledger;
mod locks;
mod memberships;
mod odd;
mod parameters;
mod property;
mod scale;
mod shrink;
mod ungrantable;

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, bail};
use lab::postgres::{PostgresOptions, Switches};
use serde_json::{Value, json};

use crate::fixture::{Condition, SOON, Setup, World, condition};
use crate::fleet;

/// The administrator as whom the operator works.
const ADMINISTRATOR: &str = "pg-operators";
/// Roles, and in database `orders` a schema whose owner the administrator may speak for.
const ROLES: &str = "CREATE ROLE app_owner; GRANT app_owner TO \"pg-operators\"; CREATE ROLE readers; CREATE ROLE writers;
    GRANT readers, writers TO \"pg-operators\" WITH ADMIN OPTION; CREATE ROLE bystander";
const SCHEMA: &str = "CREATE SCHEMA app AUTHORIZATION app_owner; SET ROLE app_owner;
    CREATE TABLE app.t1 (); CREATE TABLE app.t2 (); CREATE SEQUENCE app.s1;
    CREATE FUNCTION app.f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'; RESET ROLE";

/// The default world with so many identities, its roles and the schema in `orders` and in these
/// further databases.
pub async fn furnished(test: &str, setup: Setup, databases: &[&str]) -> Result<World> {
    let world = World::with(test, setup).await?;
    world.sql(ROLES).await?;
    for database in databases {
        let name = postgres_protocol::escape::escape_identifier(database);
        world
            .sql(&format!("CREATE DATABASE {name} OWNER azure_pg_admin"))
            .await?;
    }
    for database in databases.iter().chain(&["orders"]) {
        ledger::run(&world, database, SCHEMA).await?;
    }
    Ok(world)
}

/// A setup with so many identities, and a change of the server object's spec.
pub fn setup(count: usize, change: impl FnOnce(&mut Value) + Send + 'static) -> Setup {
    Setup {
        server: Some(Box::new(|server| change(&mut server["spec"]))),
        ..fleet::setup(count)
    }
}

/// The same with Azure's improved control.
pub fn improved(count: usize) -> Setup {
    let postgres = PostgresOptions {
        switches: Switches {
            improved_control: true,
            ..Switches::default()
        },
        ..PostgresOptions::default()
    };
    Setup {
        postgres,
        ..setup(count, |_| ())
    }
}

/// The major version of the server.
pub async fn major(world: &World) -> Result<u32> {
    Ok(world.azure.postgres().await?.version().major())
}

/// A principal of the fleet, bound by its object id, with these fields of its spec.
fn declared(world: &World, n: usize, fields: &Value) -> Value {
    let id = format!("5e41ce00-0000-4000-9000-{n:012}");
    let principal = json!({"type": "ManagedIdentity", "objectId": id});
    let mut object = world.principal(&fleet::name(n), &fleet::name(n), principal);
    for (field, value) in fields.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

/// Applies it and waits until it is Ready.
async fn made(world: &World, n: usize, fields: &Value) -> Result<()> {
    world.apply(&declared(world, n, fields)).await?;
    world.ready("principal", &fleet::name(n)).await.map(|_| ())
}

/// Lines of the ledger as a set.
fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

/// What a role has directly in `orders` and these databases, and is; without its label. Of a
/// membership only whether it is with ADMIN OPTION, and from 16 on without INHERIT or SET.
async fn lines(world: &World, role: &str, databases: &[&str]) -> Result<BTreeSet<String>> {
    let all: Vec<&str> = ["orders"].iter().chain(databases).copied().collect();
    let lines = ledger::of(&ledger::read(world, &all).await?, role);
    let told = lines
        .into_iter()
        .filter(|line| !line.starts_with("label "))
        .map(|line| match line.split_once(" by ") {
            Some((member, by)) if member.starts_with("member of ") => {
                let said = |option: &str, words: &'static str| {
                    if by.contains(option) { words } else { "" }
                };
                let admin = said("\"admin_option\": true", " with admin");
                let inherit = said("\"inherit_option\": false", " without inherit");
                let set = said("\"set_option\": false", " without set");
                format!("{member}{admin}{inherit}{set}")
            }
            _ => line,
        });
    Ok(told.collect())
}

/// Waits until a role has and is exactly this.
async fn has_exactly(
    world: &World,
    role: &str,
    databases: &[&str],
    expected: &BTreeSet<String>,
    what: &str,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let got = lines(world, role, databases).await?;
        if got == *expected {
            return Ok(());
        }
        if start.elapsed() > SOON {
            let object = world.get("principal", role).await?.unwrap_or_default();
            bail!(
                "{role}: {what}: too much {:?}, too little {:?}; its status: {:#}\n{}",
                got.difference(expected).collect::<Vec<_>>(),
                expected.difference(&got).collect::<Vec<_>>(),
                object["status"],
                world.log_tail()
            );
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
}

/// Waits until a principal is not Ready and says all of this; returns the condition.
async fn says(world: &World, n: usize, words: &[&str]) -> Result<Condition> {
    let said = |object: &Value| {
        let ready = condition(object, "Ready");
        let all = words.iter().all(|word| ready.message.contains(word));
        ready.current && ready.status != "True" && all
    };
    let what = format!("not Ready, with {words:?}");
    let object = world
        .wait("principal", &fleet::name(n), &what, said)
        .await?;
    Ok(condition(&object, "Ready"))
}

/// The statement of a message that begins and ends so: what a database administrator shall run.
fn statement<'a>(message: &'a str, begin: &str, end: &str) -> Result<&'a str> {
    let found = message.find(begin).and_then(|from| {
        let rest = message.get(from..)?;
        rest.get(..rest.find(end)? + end.len())
    });
    match found {
        Some(statement) => Ok(statement),
        None => bail!("no statement {begin} ... {end} in {message}"),
    }
}

/// Waits until snapshots of `postgres` and `orders` were taken that saw all that was done before: the
/// drift of a principal that has USAGE on schema `app` is put back.
async fn noticed(world: &World, control: usize) -> Result<()> {
    let role = fleet::name(control);
    ledger::run(
        world,
        "orders",
        &format!("REVOKE USAGE ON SCHEMA app FROM \"{role}\"; COMMENT ON ROLE \"{role}\" IS NULL"),
    )
    .await?;
    let back = format!(
        "SELECT has_schema_privilege('{role}', 'app', 'USAGE') \
         AND shobj_description('\"{role}\"'::regrole, 'pg_authid') IS NOT NULL"
    );
    let client = ledger::superuser(world, "orders").await?;
    let start = Instant::now();
    while client
        .query_one(&back, &[])
        .await?
        .get::<_, Option<bool>>(0)
        != Some(true)
    {
        if start.elapsed() > SOON {
            bail!("drift of {role} is not put back\n{}", world.log_tail());
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    Ok(())
}

/// What [`noticed`] needs.
fn control() -> Value {
    json!({"grants": [{"database": "orders", "schema": "app", "privileges": ["USAGE"]}]})
}
