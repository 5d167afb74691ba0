//! Roles that are there already: refused, adopted if they are the same identity, or never touched.

use anyhow::Result;
use lab::postgres::{PostgresOptions, Switches};
use serde_json::{Value, json};

use crate::fixture::{ALICE, API_ID, REPORTS_ID, Setup, World, condition, workload_identity};

use super::{
    ALICE_ID, BATCH_ID, GUEST, GUEST_ID, IMPORTER_ID, OPERATORS_ID, READONLY_ID, bound, comment_of,
    listed, picture, quoted,
};

/// A server on which the administrator may change the roles of DBAs, as PostgreSQL 16 and later
/// let it only with Azure's improved control.
async fn world(test: &str) -> Result<World> {
    let postgres = PostgresOptions {
        switches: Switches {
            improved_control: true,
            ..Switches::default()
        },
        ..PostgresOptions::default()
    };
    let world = World::with(
        test,
        Setup {
            postgres,
            ..Setup::default()
        },
    )
    .await?;
    let make = |role: &str, id: &str, kind: &str| {
        let role = quoted(role);
        format!(
            "SELECT pgaadauth_create_principal_with_oid({role}, '{id}', '{kind}', false, false);"
        )
    };
    let roles = [
        make("orders-api", API_ID, "service"),
        make("orders-reports", REPORTS_ID, "service"),
        make("bound to another", BATCH_ID, "service"),
        make("Prod DB Readonly", READONLY_ID, "group"),
        make(ALICE, ALICE_ID, "user"),
        make(GUEST, GUEST_ID, "user"),
        "CREATE ROLE plain LOGIN PASSWORD 'of plain';".to_owned(),
        "ALTER ROLE \"orders-api\" PASSWORD 'of old times';".to_owned(),
        format!("ALTER ROLE \"{ALICE}\" CREATEROLE PASSWORD 'of alice';"),
        format!(
            "CREATE ROLE between; GRANT azure_pg_admin TO between; GRANT between TO \"{GUEST}\";"
        ),
    ];
    world.sql(&roles.concat()).await?;
    Ok(world)
}

async fn password_of(world: &World, role: &str) -> Result<Option<String>> {
    let role = quoted(role);
    world
        .ask(&format!(
            "SELECT rolpassword FROM pg_authid WHERE rolname = {role}"
        ))
        .await
}

fn adopting(world: &World, name: &str, role: &str, principal: Value) -> Value {
    let mut object = world.principal(name, role, principal);
    object["spec"]["adoption"] = json!("SameIdentity");
    object
}

// Red when: unmarked() in model/plan/adopt.rs does not look at `adoption`, or adopts without ForgetPassword.
#[tokio::test(flavor = "multi_thread")]
async fn an_existing_role_is_taken_only_if_allowed_and_loses_its_password() -> Result<()> {
    let world = world("adopt").await?;
    let before = picture(&world).await?;
    let refusing = world.principal("api", "orders-api", bound("ManagedIdentity", API_ID));
    world.apply(&refusing).await?;
    let said = world.not_ready("principal", "api", "RoleExists").await?;
    assert!(
        said.contains("role \"orders-api\" exists on server"),
        "{said}"
    );
    assert!(said.contains("adoption: SameIdentity"), "{said}");
    assert_eq!(picture(&world).await?, before);
    assert!(password_of(&world, "orders-api").await?.is_some());

    let consent = json!({"spec": {"adoption": "SameIdentity"}});
    world.patch("principal", "api", &consent).await?;
    let api = world.ready("principal", "api").await?;
    assert_eq!(api["status"]["role"]["adopted"], true);
    assert_eq!(password_of(&world, "orders-api").await?, None);
    let marker = comment_of(&world, "orders-api").await?.unwrap_or_default();
    assert!(
        marker.contains("/api;") && marker.contains(API_ID),
        "{marker}"
    );

    // Who the identity is may also come from its token.
    let mut reports = adopting(
        &world,
        "reports",
        "orders-reports",
        json!({"type": "ManagedIdentity"}),
    );
    reports["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
    world.apply(&reports).await?;
    let reports = world.ready("principal", "reports").await?;
    assert_eq!(reports["status"]["role"]["adopted"], true);
    let secret = world.secret("reports").await?;
    let user = world
        .login("orders-reports", &secret["password"], "postgres")
        .await?;
    assert_eq!(user, "orders-reports");
    Ok(())
}

// Red when: one of the checks in unmarked() is taken out.
#[tokio::test(flavor = "multi_thread")]
async fn another_identitys_a_plain_and_a_privileged_role_are_never_adopted() -> Result<()> {
    let world = world("no_adopt").await?;
    world.sql("DROP ROLE \"orders-reports\"").await?;
    world.ready("server", "server").await?;
    let before = picture(&world).await?;
    let mut token = adopting(
        &world,
        "token",
        "bound to another",
        json!({"type": "ManagedIdentity"}),
    );
    token["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
    let mut admin = bound("Group", OPERATORS_ID);
    admin["admin"] = json!(true);
    let cases = [
        (token, "ObjectIdMismatch", BATCH_ID),
        (
            adopting(
                &world,
                "another",
                "bound to another",
                bound("ServicePrincipal", IMPORTER_ID),
            ),
            "ObjectIdMismatch",
            BATCH_ID,
        ),
        (
            adopting(
                &world,
                "plain",
                "plain",
                bound("ServicePrincipal", IMPORTER_ID),
            ),
            "RoleExists",
            "not bound to any Entra identity",
        ),
        (
            adopting(
                &world,
                "by-name",
                "Prod DB Readonly",
                json!({"type": "Group"}),
            ),
            "RoleExists",
            "set principal.objectId",
        ),
        (
            adopting(&world, "type", "orders-api", bound("User", API_ID)),
            "PrincipalTypeMismatch",
            "service",
        ),
        (
            adopting(&world, "boss", "pg-operators", bound("Group", OPERATORS_ID)),
            "RoleProtected",
            "administrator",
        ),
        (
            adopting(&world, "boss-admin", "pg-operators", admin),
            "RoleProtected",
            "administrator",
        ),
        (
            adopting(&world, "alice", ALICE, bound("User", ALICE_ID)),
            "RoleProtected",
            "choose another roleName",
        ),
        (
            adopting(&world, "guest", GUEST, bound("User", GUEST_ID)),
            "RoleProtected",
            "choose another roleName",
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
    assert_eq!(picture(&world).await?, before, "nothing was touched");
    assert_eq!(world.get("secret", "token").await?, None, "no Secret");

    // A privileged role is the tenant's only when its entry names it literally; administrators never.
    let mut server = world.server("server")?;
    server["spec"]["tenants"][0]["roleNames"] = json!(["*", ALICE, "pg-operators"]);
    world.apply(&server).await?;
    let alice = world.ready("principal", "alice").await?;
    assert_eq!(alice["status"]["role"]["adopted"], true);
    assert_eq!(password_of(&world, ALICE).await?, None);
    for name in ["boss", "boss-admin", "guest"] {
        let object = world.get("principal", name).await?.unwrap_or_default();
        assert_eq!(condition(&object, "Ready").reason, "RoleProtected");
    }
    let operators = listed(&world, "pg-operators").await?;
    assert_eq!(operators, Some(format!("group {OPERATORS_ID} 0 1")));
    Ok(())
}
