//! `mode: Plan`: shown, and nothing done.

use anyhow::Result;
use lab::postgres::{PostgresOptions, Switches};
use serde_json::{Value, json};

use crate::fixture::{API_ID, Setup, World, condition, plane, workload_identity};

use super::{BATCH_ID, IMPORTER_ID, READONLY_ID, bound, exists, picture};

fn shown(mut object: Value) -> Value {
    object["spec"]["mode"] = json!("Plan");
    object
}

/// What the plan shows once it has as many lines as that says.
async fn plan(world: &World, name: &str, has: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
    let lines = |object: &Value| -> Vec<String> {
        let lines = object["status"]["plan"].as_array().into_iter().flatten();
        lines.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let object = world
        .wait("principal", name, "PlanOnly with its plan", |object| {
            let ready = condition(object, "Ready");
            ready.is("True") && ready.reason == "PlanOnly" && has(&lines(object))
        })
        .await?;
    Ok(lines(&object))
}

fn has(lines: &[String], words: &str) -> bool {
    lines.iter().any(|line| line.contains(words))
}

// Red when: execute() runs for a principal in mode Plan; preview() leaves out a database or a problem; or
// report::principal() keeps the plan.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_shown_and_nothing_is_changed_until_it_is_applied() -> Result<()> {
    let world = World::start("planned").await?;
    world
        .sql("CREATE ROLE readers; GRANT readers TO \"pg-operators\" WITH ADMIN OPTION")
        .await?;
    world.ready("server", "server").await?;
    let before = picture(&world).await?;
    let (requests, mark) = (
        world.token_requests(Some(crate::fixture::API_CLIENT)),
        plane().audit().mark()?,
    );
    let mut api = shown(world.api());
    api["spec"]["deletionPolicy"] = json!("Drop");
    api["spec"]["memberOf"] = json!([{"role": "readers"}]);
    world.apply(&api).await?;
    let mut group =
        shown(world.principal("group", "Prod DB Readonly", bound("Group", READONLY_ID)));
    group["spec"]["role"] = json!({"connectionLimit": 5, "settings": {"statement_timeout": "30s"}});
    group["spec"]["memberOf"] = json!([{"role": "readers"}, {"role": "writers"}]);
    group["spec"]["grants"] = json!([
        {"database": "orders", "privileges": ["CONNECT"]},
        {"database": "orders", "schema": "public", "privileges": ["USAGE", "CREATE"]},
    ]);
    world.apply(&group).await?;

    plan(&world, "api", |lines| has(lines, "GRANT \"readers\"")).await?;
    let lines = plan(&world, "group", |lines| has(lines, "-- database orders")).await?;
    let at = |words: &str| {
        let found = lines.iter().position(|line| line.contains(words));
        found.unwrap_or_else(|| panic!("no {words:?} in {lines:#?}"))
    };
    assert!(
        lines[0].contains("pgaadauth_create_principal_with_oid") && lines[0].contains(READONLY_ID),
        "{lines:#?}"
    );
    assert!(
        at("COMMENT ON ROLE") < at("CONNECTION LIMIT 5"),
        "{lines:#?}"
    );
    assert!(
        at("GRANT \"readers\" TO \"Prod DB Readonly\"") < at("-- database orders"),
        "{lines:#?}"
    );
    assert!(
        at("statement_timeout") < at("-- database orders"),
        "{lines:#?}"
    );
    assert!(
        at("-- cannot: ") > 0 && lines[at("-- cannot: ")].contains("writers"),
        "{lines:#?}"
    );
    assert_eq!(picture(&world).await?, before);
    let written = world.writes_since(mark)?;
    let other = |write: &&String| !write.contains("/status") && !write.contains("events");
    assert_eq!(
        written.iter().filter(other).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    assert_eq!(
        world.token_requests(Some(crate::fixture::API_CLIENT)),
        requests
    );

    // As soon as it is applied it is so, and the plan is empty.
    world.sql("CREATE ROLE writers; GRANT writers TO \"pg-operators\" WITH ADMIN OPTION; GRANT ALL ON SCHEMA public TO \"pg-operators\" WITH GRANT OPTION").await?;
    world
        .patch(
            "principal",
            "group",
            &json!({"spec": {"mode": "Apply", "grants": null}}),
        )
        .await?;
    let ready = world.ready("principal", "group").await?;
    assert!(ready["status"]["plan"].is_null(), "{ready:#}");
    world
        .patch("principal", "group", &json!({"spec": {"mode": "Plan"}}))
        .await?;
    plan(&world, "group", <[String]>::is_empty).await?;
    let said = world.planned("group").await?;
    assert!(said.contains("all is as declared"), "{said}");
    // Drift is shown, and left.
    world
        .sql("ALTER ROLE \"Prod DB Readonly\" CONNECTION LIMIT 7")
        .await?;
    let lines = plan(&world, "group", |lines| !lines.is_empty()).await?;
    assert!(has(&lines, "CONNECTION LIMIT 5"), "{lines:#?}");
    let limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'Prod DB Readonly'";
    assert_eq!(world.ask(limit).await?.as_deref(), Some("7"));
    Ok(())
}

// Red when: preview() exchanges a token to know the id, or shows a creation by name; or plan() gives a
// token step in mode Plan.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_asks_for_no_token_and_leaves_the_one_that_is_there() -> Result<()> {
    let postgres = PostgresOptions {
        switches: Switches {
            improved_control: true,
            ..Switches::default()
        },
        ..PostgresOptions::default()
    };
    let world = World::with(
        "planned_token",
        Setup {
            postgres,
            ..Setup::default()
        },
    )
    .await?;
    world.apply(&shown(world.api())).await?;
    let lines = plan(&world, "api", |lines| !lines.is_empty()).await?;
    assert!(
        lines[0].starts_with("-- the object id is that of the principal's token"),
        "{lines:#?}"
    );
    assert!(
        lines[1].contains("_with_oid") && lines[1].contains("00000000-0000-0000-0000-000000000000"),
        "{lines:#?}"
    );
    assert_eq!(world.token_requests(Some(crate::fixture::API_CLIENT)), 0);
    assert_eq!(world.get("secret", "api").await?, None);
    assert_eq!(
        world.ask(&exists("orders-api")).await?.as_deref(),
        Some("f")
    );

    world
        .patch("principal", "api", &json!({"spec": {"mode": "Apply"}}))
        .await?;
    let applied = world.ready("principal", "api").await?;
    let secret = world.secret("api").await?;
    world
        .patch(
            "principal",
            "api",
            &json!({"spec": {"mode": "Plan", "token": {"database": "orders"}}}),
        )
        .await?;
    let lines = plan(&world, "api", <[String]>::is_empty).await?;
    assert_eq!(lines, Vec::<String>::new());
    assert_eq!(world.secret("api").await?, secret);
    let object = world.get("principal", "api").await?.unwrap_or_default();
    assert_eq!(object["status"]["token"], applied["status"]["token"]);
    assert_eq!(object["status"]["role"]["objectId"], API_ID);

    // What would be refused is said as such; what would be adopted is shown.
    world.sql("CREATE ROLE plain LOGIN PASSWORD 'old'").await?;
    let refused =
        shown(world.principal("refused", "plain", bound("ServicePrincipal", IMPORTER_ID)));
    world.apply(&refused).await?;
    let lines = plan(&world, "refused", |lines| !lines.is_empty()).await?;
    assert!(
        lines.len() == 1 && lines[0].starts_with("-- cannot: role \"plain\" exists"),
        "{lines:#?}"
    );
    let mut adopts = shown(world.principal("adopts", "plain", bound("ServicePrincipal", BATCH_ID)));
    adopts["spec"]["adoption"] = json!("Any");
    adopts["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
    world.apply(&adopts).await?;
    let lines = plan(&world, "adopts", |lines| !lines.is_empty()).await?;
    assert!(
        has(&lines, "SECURITY LABEL FOR") && has(&lines, "PASSWORD NULL"),
        "{lines:#?}"
    );
    let password = "SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = 'plain'";
    assert_eq!(world.ask(password).await?.as_deref(), Some("t"));
    Ok(())
}
