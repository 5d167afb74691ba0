//! What the server refuses is explained by what its answer says, not by its code alone, and what nobody can
//! give keeps nothing from being Ready.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::odd::narrow;
use super::ungrantable::lend;
use super::{declared, furnished, has_exactly, ledger, made, says, set, setup};
use crate::fixture::World;
use crate::fleet;

const BARE: &str = "attributes f t f f t -1";

fn all(database: &str, kind: &str, privilege: &str) -> Value {
    json!({"database": database, "schema": "app", "objects": kind, "all": true, "privileges": [privilege]})
}

// Red when: `answer` does not look at the context, or what a function lacks is taken for what our statement
// names (findings C9).
#[tokio::test(flavor = "multi_thread")]
async fn what_an_event_trigger_refuses_is_told_with_its_function() -> Result<()> {
    let world = furnished("event_trigger", setup(1, |_| ()), &[]).await?;
    ledger::run(
        &world,
        "orders",
        "CREATE TABLE public.audit (what text); GRANT ALL ON public.audit TO PUBLIC;
         CREATE FUNCTION public.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (tg_tag); END';
         CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION public.log_ddl()",
    )
    .await?;
    let fields =
        json!({"grants": [{"database": "orders", "schema": "app", "privileges": ["USAGE"]}]});
    world.apply(&declared(&world, 0, &fields)).await?;
    let ready = says(&world, 0, &["log_ddl()", "\"audit\"", "event trigger"]).await?;
    assert_eq!(ready.reason, "RefusedInDatabase", "{ready:?}");
    ledger::run(
        &world,
        "orders",
        "ALTER FUNCTION public.log_ddl() SET search_path = public",
    )
    .await?;
    world.ready("principal", &fleet::name(0)).await?;
    Ok(())
}

// Red when: `behind` in rights::messages does not look who owns the database, or a membership that nobody can
// have is retried for ever (findings C10).
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_the_databases_owner_is_lent_by_that_owner() -> Result<()> {
    let listed = |spec: &mut Value| {
        spec["tenants"][0]["memberOf"] = json!([{"role": "pg_database_owner"}]);
    };
    let world = furnished("database_owner", setup(2, listed), &[]).await?;
    world
        .sql("CREATE ROLE stranger; GRANT stranger TO bystander")
        .await?;
    world.sql("CREATE DATABASE theirs OWNER stranger").await?;
    ledger::run(
        &world,
        "theirs",
        "CREATE SCHEMA app AUTHORIZATION pg_database_owner",
    )
    .await?;
    let grant = json!({"database": "theirs", "schema": "app", "privileges": ["USAGE"]});
    world
        .apply(&declared(&world, 0, &json!({"grants": [grant]})))
        .await?;
    let ready = says(&world, 0, &["\"stranger\""]).await?;
    assert_eq!(ready.reason, "NotGrantable", "{ready:?}");
    lend(&world, &ready.message, "stranger").await?;
    world.ready("principal", &fleet::name(0)).await?;

    let fields = json!({"memberOf": [{"role": "pg_database_owner"}]});
    world.apply(&declared(&world, 1, &fields)).await?;
    let ready = says(&world, 1, &["pg_database_owner", "memberOf"]).await?;
    assert_eq!(ready.reason, "RoleProtected", "{ready:?}");
    Ok(())
}

// Red when: `spared` is not looked at in rights::slot: then an extension in a schema keeps every principal
// with `all: true` from being Ready for ever (findings C17).
#[tokio::test(flavor = "multi_thread")]
async fn what_extensions_and_superusers_own_is_owed_by_nobody() -> Result<()> {
    let world = furnished("spared", setup(1, |_| ()), &[]).await?;
    ledger::run(
        &world,
        "orders",
        "CREATE ROLE stranger; GRANT CREATE, USAGE ON SCHEMA app TO stranger; SET ROLE stranger;
         CREATE FUNCTION app.of_an_extension() RETURNS integer LANGUAGE sql AS 'SELECT 1';
         REVOKE EXECUTE ON FUNCTION app.of_an_extension() FROM PUBLIC; RESET ROLE;
         ALTER EXTENSION plpgsql ADD FUNCTION app.of_an_extension(); CREATE TABLE app.of_a_superuser ()",
    )
    .await?;
    let fields = json!({"grants": [all("orders", "Functions", "EXECUTE"), all("orders", "Tables", "SELECT")]});
    world.apply(&declared(&world, 0, &fields)).await?;
    let object = world.ready("principal", &fleet::name(0)).await?;
    let said = object["status"].to_string();
    for word in [
        "an extension or a superuser has them",
        "of_a_superuser",
        "of_an_extension",
    ] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    let held = set(&[
        BARE,
        "orders|app|function|f(integer)|EXECUTE",
        "orders|app|table|t1|SELECT",
        "orders|app|table|t2|SELECT",
    ]);
    has_exactly(&world, &fleet::name(0), &[], &held, "the rest").await
}

// Red when: `sifted` in postgres/grant is not asked: then one name takes the whole database's grants with it
// (findings C18).
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_an_encoding_does_not_have_takes_no_other_with_it() -> Result<()> {
    let world = furnished("sifted", setup(1, |_| ()), &[]).await?;
    narrow(&world).await?;
    ledger::run(
        &world,
        "narrow",
        "CREATE SCHEMA app AUTHORIZATION app_owner; SET ROLE app_owner; CREATE TABLE app.plain (); CREATE TABLE app.other ()",
    )
    .await?;
    let grant = json!({"database": "narrow", "schema": "app", "objects": "Tables", "names": ["plain", "日本", "other"], "privileges": ["SELECT"]});
    world
        .apply(&declared(&world, 0, &json!({"grants": [grant]})))
        .await?;
    let ready = says(&world, 0, &["日本", "narrow"]).await?;
    ensure!(!ready.message.contains("plain"), "{ready:?}");
    let mut held = set(&[
        BARE,
        "narrow|app|table|plain|SELECT",
        "narrow|app|table|other|SELECT",
    ]);
    let name = fleet::name(0);
    has_exactly(&world, &name, &["narrow"], &held, "the rest").await?;
    let grant = json!({"database": "narrow", "schema": "app", "objects": "Tables", "names": ["plain"], "privileges": ["SELECT"]});
    made(&world, 0, &json!({"grants": [grant]})).await?;
    held.remove("narrow|app|table|other|SELECT");
    has_exactly(&world, &name, &["narrow"], &held, "less").await
}

// Red when: a setting's refusal does not name it, or one sentence has three truths (findings C12, C16).
#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_cannot_be_is_named_with_what_to_declare_instead() -> Result<()> {
    let world = furnished("settings_told", setup(3, |_| ()), &[]).await?;
    let with = |name: &str, value: &str| json!({"role": {"settings": {name: value}}});
    world
        .apply(&declared(&world, 0, &with("my.var", "x")))
        .await?;
    let ready = says(&world, 0, &["my.var"]).await?;
    assert_eq!(ready.reason, "SettingNotAllowed", "{ready:?}");
    world
        .apply(&declared(
            &world,
            1,
            &with("transaction_isolation", "serializable"),
        ))
        .await?;
    let ready = says(&world, 1, &["default_transaction_isolation"]).await?;
    assert_eq!(ready.reason, "InvalidSpec", "{ready:?}");

    let mut owners = with("role", "readers");
    world.apply(&declared(&world, 2, &owners)).await?;
    let ready = says(&world, 2, &["readers", "memberOf"]).await?;
    assert_eq!(ready.reason, "SettingNotAllowed", "{ready:?}");
    owners["memberOf"] = json!([{"role": "readers"}]);
    made(&world, 2, &owners).await?;
    let held = set(&[BARE, "member of readers", "setting role=readers"]);
    has_exactly(&world, &fleet::name(2), &[], &held, "its group's").await
}

// Red when: a limit of the role's own is told as one of the server's (findings C5).
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_connections_of_the_roles_own_is_named() -> Result<()> {
    let world = World::start("own_limit").await?;
    let mut api = world.api();
    api["spec"]["role"] = json!({"connectionLimit": 0});
    world.apply(&api).await?;
    let said = |object: &Value| {
        let text = object["status"].to_string();
        text.contains("spec.role.connectionLimit") && !text.contains("raise its max_connections")
    };
    world
        .wait("principal", "api", "names its own limit", said)
        .await?;
    Ok(())
}
