//! Adoption of any role: it becomes the principal's and keeps what it has, but not its password.

use anyhow::Result;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};
use lab::postgres::{PostgresOptions, Switches};
use serde_json::{Value, json};

use crate::fixture::{API_ID, Setup, World, workload_identity};

use super::{BATCH_ID, IMPORTER_ID, READONLY_ID, bound, listed, picture};

async fn world(test: &str) -> Result<World> {
    let postgres = PostgresOptions {
        switches: Switches {
            improved_control: true,
            ..Switches::default()
        },
        ..PostgresOptions::default()
    };
    World::with(
        test,
        Setup {
            postgres,
            ..Setup::default()
        },
    )
    .await
}

fn any(world: &World, name: &str, role: &str, principal: Value) -> Value {
    let mut object = world.principal(name, role, principal);
    object["spec"]["adoption"] = json!("Any");
    object
}

async fn told(world: &World, name: &str) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(world.client.clone(), &world.names.team);
    let events = events.list(&ListParams::default()).await?.items.into_iter();
    let of = events.filter(|event| event.involved_object.name.as_deref() == Some(name));
    Ok(of.filter_map(|event| event.reason).collect())
}

// Red when: adopt() in model/plan/adopt.rs leaves out the label or ForgetPassword; or takes what the role
// had for something that this object gave.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_role_and_another_identitys_become_the_principals() -> Result<()> {
    let world = world("any").await?;
    let batch = format!(
        "SELECT pgaadauth_create_principal_with_oid('was batch', '{BATCH_ID}', 'service', false, false);"
    );
    world
        .sql(&format!(
            "CREATE ROLE readers; CREATE ROLE plain LOGIN PASSWORD 'of plain' CONNECTION LIMIT 4; \
             GRANT readers TO plain; CREATE TABLE of_plain (); ALTER TABLE of_plain OWNER TO plain; \
             CREATE TABLE others (); GRANT SELECT ON others TO plain; {batch} \
             ALTER ROLE \"was batch\" PASSWORD 'of batch'; CREATE ROLE \"orders-api\" LOGIN PASSWORD 'x'"
        ))
        .await?;
    world
        .apply(&any(
            &world,
            "plain",
            "plain",
            bound("ServicePrincipal", IMPORTER_ID),
        ))
        .await?;
    world
        .apply(&any(
            &world,
            "batch",
            "was batch",
            bound("Group", READONLY_ID),
        ))
        .await?;
    let mut api = any(
        &world,
        "api",
        "orders-api",
        json!({"type": "ManagedIdentity"}),
    );
    api["spec"]["token"] = json!({"identity": workload_identity("orders-api")});
    world.apply(&api).await?;
    for (name, role, line) in [
        ("plain", "plain", format!("service {IMPORTER_ID} 0 0")),
        ("batch", "was batch", format!("group {READONLY_ID} 0 0")),
        ("api", "orders-api", format!("service {API_ID} 0 0")),
    ] {
        let object = world.ready("principal", name).await?;
        assert_eq!(object["status"]["role"]["adopted"], true, "{name}");
        assert_eq!(listed(&world, role).await?, Some(line), "{name}");
        let password = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
        assert_eq!(world.ask(&password).await?, None, "{name}");
        assert!(
            told(&world, name)
                .await?
                .contains(&"RoleAdopted".to_owned()),
            "{name}"
        );
    }
    let secret = world.secret("api").await?;
    world
        .login("orders-api", &secret["password"], "postgres")
        .await?;

    // It keeps what it had, also when the object declares nothing of it.
    let kept = "SELECT concat_ws(' ', (SELECT tableowner FROM pg_tables WHERE tablename = 'of_plain'), \
        has_table_privilege('plain', 'others', 'SELECT'), pg_has_role('plain', 'readers', 'MEMBER'), \
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = 'plain'))";
    assert_eq!(world.ask(kept).await?.as_deref(), Some("plain t t 4"));
    world
        .patch(
            "principal",
            "plain",
            &json!({"spec": {"role": {"settings": {"work_mem": "8MB"}}}}),
        )
        .await?;
    let settings = "SELECT array_to_string(setconfig, ',') FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE rolname = 'plain'";
    world.wait_sql(settings, Some("work_mem=8MB")).await?;
    world
        .patch("principal", "plain", &json!({"spec": {"role": null}}))
        .await?;
    world.wait_sql(settings, None).await?;
    world.ready("principal", "plain").await?;
    assert_eq!(world.ask(kept).await?.as_deref(), Some("plain t t 4"));
    Ok(())
}

// Red when: adopt() does not ask unprotected(), or binds a role to an identity that nobody named.
#[tokio::test(flavor = "multi_thread")]
async fn administrators_the_privileged_and_the_unnamed_are_never_adopted() -> Result<()> {
    let world = world("never_any").await?;
    world
        .sql(
            "CREATE ROLE plain LOGIN PASSWORD 'x'; CREATE ROLE creator LOGIN CREATEROLE PASSWORD 'x'; \
             CREATE ROLE between; GRANT azure_pg_admin TO between; CREATE ROLE deep LOGIN; GRANT between TO deep",
        )
        .await?;
    world.ready("server", "server").await?;
    let before = picture(&world).await?;
    let importer = || bound("ServicePrincipal", IMPORTER_ID);
    let cases = [
        (
            any(&world, "boss", "pg-operators", importer()),
            "RoleProtected",
            "administrator",
        ),
        (
            any(&world, "creator", "creator", importer()),
            "RoleProtected",
            "creator",
        ),
        (
            any(&world, "deep", "deep", importer()),
            "RoleProtected",
            "deep",
        ),
        (
            any(&world, "unnamed", "plain", json!({"type": "Group"})),
            "RoleExists",
            "principal.objectId",
        ),
    ];
    for (object, ..) in &cases {
        world.apply(object).await?;
    }
    for (object, reason, words) in &cases {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let said = world.not_ready("principal", name, reason).await?;
        assert!(said.contains(words), "{name}: {said}");
    }
    assert_eq!(picture(&world).await?, before);

    // Another object has it: adoption is no way to take it away.
    world
        .apply(&any(&world, "first", "plain", importer()))
        .await?;
    world.ready("principal", "first").await?;
    world
        .apply(&any(
            &world,
            "second",
            "plain",
            bound("ServicePrincipal", BATCH_ID),
        ))
        .await?;
    world
        .not_ready("principal", "second", "RoleOwnedByOther")
        .await?;
    assert_eq!(world.bound_to("plain").await?.as_deref(), Some(IMPORTER_ID));
    Ok(())
}

// Red when: with_statement() in postgres/change.rs is not asked: the statement is not told.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_adopt_is_told_the_statement_that_allows_it() -> Result<()> {
    let world = World::start("any_refused").await?;
    world
        .sql("CREATE ROLE \"old app\" LOGIN PASSWORD 'x'")
        .await?;
    let version = world.ask("SHOW server_version_num").await?;
    let importer = bound("ServicePrincipal", IMPORTER_ID);
    world
        .apply(&any(&world, "app", "old app", importer))
        .await?;
    if version.is_some_and(|version| version.as_str() >= "160000") {
        let said = world
            .not_ready("principal", "app", "MissingAdminOption")
            .await?;
        let statement = "GRANT \"old app\" TO \"pg-operators\" WITH ADMIN OPTION";
        assert!(said.contains(statement), "{said}");
        assert_eq!(listed(&world, "old app").await?, None);
        // What it says helps.
        world.sql(statement).await?;
    }
    let look = json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": "given"}}});
    world.patch("principal", "app", &look).await?;
    world.ready("principal", "app").await?;
    assert_eq!(
        listed(&world, "old app").await?,
        Some(format!("service {IMPORTER_ID} 0 0"))
    );
    Ok(())
}
