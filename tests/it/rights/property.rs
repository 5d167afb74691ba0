//! For random pairs of what is declared and what is there: one reconcile leads to a state whose plan is
//! empty; what was there before and is not ours stays; nothing of anybody else's changes.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::postgres::{PostgresOptions, Switches};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::ledger::{self, of, of_others};
use crate::fixture::{Setup, World, condition};
use crate::fleet;

mod judge;
mod random;

use judge::{Ours, judge, judge_options};
use random::{DATABASES, Declared, SCHEMAS, TABLES, by_hand, declare};

/// Principals that are changed side by side.
const PRINCIPALS: usize = 12;
/// How often each of them is changed; `RIGHTS_ROUNDS` is more or less.
const ROUNDS: usize = 5;
const DEADLINE: Duration = Duration::from_secs(60);

fn setup(improved_control: bool) -> Setup {
    Setup {
        server: Some(Box::new(|server| {
            let spec = &mut server["spec"];
            spec["tenants"][0]["memberOf"] =
                json!([{"role": "readers", "admin": true}, {"role": "writers", "admin": true}]);
            spec["tenants"][0]["grants"] = json!([
                {"database": "*", "privileges": ["CONNECT", "TEMPORARY"]},
                {"database": "*", "schemas": ["*"], "privileges": ["SELECT", "INSERT", "UPDATE", "USAGE", "CREATE", "EXECUTE"]},
            ]);
        })),
        postgres: PostgresOptions {
            switches: Switches {
                improved_control,
                ..Switches::default()
            },
            ..PostgresOptions::default()
        },
        ..fleet::setup(PRINCIPALS)
    }
}

/// Two databases with the same objects, whose owner the administrator may speak for.
async fn furnish(world: &World) -> Result<()> {
    let quoted = postgres_protocol::escape::escape_identifier;
    ledger::run(
        world,
        "postgres",
        "CREATE ROLE owner_known; GRANT owner_known TO \"pg-operators\"; CREATE ROLE readers; CREATE ROLE writers;
         GRANT readers, writers TO \"pg-operators\" WITH ADMIN OPTION; CREATE ROLE bystander; GRANT readers TO bystander",
    )
    .await?;
    ledger::run(
        world,
        "postgres",
        &format!("CREATE DATABASE {} OWNER owner_known", quoted(DATABASES[1])),
    )
    .await?;
    ledger::run(
        world,
        "postgres",
        &format!(
            "ALTER DATABASE {} OWNER TO owner_known",
            quoted(DATABASES[0])
        ),
    )
    .await?;
    for database in DATABASES {
        for schema in SCHEMAS {
            let schema = quoted(schema);
            let mut sql = format!("CREATE SCHEMA {schema} AUTHORIZATION owner_known; SET ROLE owner_known; CREATE SEQUENCE {schema}.s1;
                CREATE FUNCTION {schema}.f1(integer, text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
                CREATE FUNCTION {schema}.f2() RETURNS integer LANGUAGE sql AS 'SELECT 1';");
            for table in TABLES {
                let table = quoted(table);
                let _ = write!(
                    sql,
                    "CREATE TABLE {schema}.{table} (); GRANT SELECT ON {schema}.{table} TO bystander;"
                );
            }
            ledger::run(world, database, &sql).await?;
        }
        let schema = quoted(SCHEMAS[0]);
        let default = format!(
            "ALTER DEFAULT PRIVILEGES FOR ROLE owner_known IN SCHEMA {schema} GRANT SELECT ON TABLES TO bystander"
        );
        ledger::run(world, database, &default).await?;
    }
    Ok(())
}

fn object(world: &World, n: usize) -> Value {
    let id = format!("5e41ce00-0000-4000-9000-{n:012}");
    world.principal(
        &fleet::name(n),
        &fleet::name(n),
        json!({"type": "ManagedIdentity", "objectId": id}),
    )
}

async fn settle(world: &World, n: usize) -> Result<()> {
    let name = fleet::name(n);
    world
        .wait_for("principal", &name, "Ready", DEADLINE, |o| {
            // Or closed by hand, which is not ours to change.
            let ready = condition(o, "Ready");
            ready.current && (ready.status == "True" || ready.reason == "LoginDisabledOnServer")
        })
        .await?;
    // Nothing more to do: a plan made afresh is empty.
    let plan = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": format!("plan {}", rand::random::<u32>())}}, "spec": {"mode": "Plan"}});
    world.patch("principal", &name, &plan).await?;
    let shown = world
        .wait_for("principal", &name, "PlanOnly", DEADLINE, |o| {
            let ready = condition(o, "Ready");
            ready.current && ready.reason == "PlanOnly"
        })
        .await?;
    let mut plan = shown["status"]["plan"].as_array().into_iter().flatten();
    let closed = |entry: &Value| entry.to_string().contains("NOLOGIN: it stays so");
    ensure!(
        plan.all(closed),
        "{name} still wants {:#}",
        shown["status"]["plan"]
    );
    Ok(())
}

/// A number from the environment.
fn number<T: std::str::FromStr>(name: &str) -> Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    let number = text.parse();
    Ok(Some(
        number.with_context(|| format!("{name} is no number"))?,
    ))
}

async fn pairs(improved_control: bool) -> Result<()> {
    let seed: u64 = number("RIGHTS_SEED")?.unwrap_or_else(|| rand::random::<u32>().into());
    let rounds = number("RIGHTS_ROUNDS")?.unwrap_or(ROUNDS);
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::with("rights", setup(improved_control)).await?;
    furnish(&world).await?;
    let roles: Vec<String> = (0..PRINCIPALS).map(fleet::name).collect();
    for n in 0..PRINCIPALS {
        world.apply(&object(&world, n)).await?;
    }
    fleet::all_ready(&world, PRINCIPALS, DEADLINE).await?;
    let all = [DATABASES[0], DATABASES[1], "postgres"];
    let others = of_others(&ledger::read(&world, &all).await?, &roles);
    let mut ours = vec![Ours::default(); PRINCIPALS];
    let mut rights = 0;
    let server = world.azure.postgres().await?.version().major();
    let options = server >= 16;
    for round in 0..rounds {
        for name in &roles {
            world
                .patch("principal", name, &json!({"spec": {"suspend": true}}))
                .await?;
        }
        for name in &roles {
            world.suspended(name).await?;
            for (database, sql) in by_hand(&mut random, name) {
                ledger::run(&world, database, &sql.join(";\n")).await?;
            }
        }
        let before = ledger::read(&world, &all).await?;
        let declared: Vec<Declared> = (0..PRINCIPALS)
            .map(|_| declare(&mut random, options))
            .collect();
        for (name, declared) in roles.iter().zip(&declared) {
            let look = json!({"entrapostgres.io/reconcile": format!("round {round}")});
            let patch = json!({"metadata": {"annotations": look}, "spec": declared.spec});
            world.patch("principal", name, &patch).await?;
        }
        for n in 0..PRINCIPALS {
            settle(&world, n)
                .await
                .with_context(|| format!("seed {seed}, round {round}"))?;
        }
        let after = ledger::read(&world, &all).await?;
        for (n, name) in roles.iter().enumerate() {
            rights += declared[n].privileges.len();
            let (before, after) = (of(&before, name), of(&after, name));
            let apart = options && !improved_control;
            judge_options(&declared[n], apart, &before, &after)
                .and_then(|()| judge(&declared[n], &mut ours[n], &before, &after))
                .with_context(|| {
                    format!(
                        "seed {seed}, round {round}, {name}, declared {:#}",
                        declared[n].spec
                    )
                })?;
        }
        let others_now = of_others(&after, &roles);
        ensure!(
            others_now == others,
            "seed {seed}, round {round}: of others came {:?}, went {:?}",
            others_now.difference(&others).collect::<Vec<_>>(),
            others.difference(&others_now).collect::<Vec<_>>()
        );
    }
    println!(
        "PostgreSQL {server}, improved control {improved_control}: {} random pairs of declared and actual, \
         {rights} privileges declared; RIGHTS_SEED={seed} shows them again",
        PRINCIPALS * rounds
    );
    Ok(())
}

// Red when: `rights::privileges` records what was there before, forgets what it asked for, or takes
// back what it did not give; or a REVOKE of all objects takes more than it names.
#[tokio::test(flavor = "multi_thread")]
async fn one_reconcile_leads_from_any_state_to_one_whose_plan_is_empty() -> Result<()> {
    pairs(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_where_the_server_has_improved_control() -> Result<()> {
    pairs(true).await
}
