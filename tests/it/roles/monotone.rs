//! What one object may not have is not had in two steps: by adoption and another object id, by a role that
//! another object left, by an adoption that takes multifactor authentication away.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{ALICE, Setup, World, condition};

use super::{ALICE_ID, BATCH_ID, IMPORTER_ID, bound, listed};

/// What an entry gives by default.
async fn same_identity_only(test: &str) -> Result<World> {
    let server = |server: &mut Value| {
        server["spec"]["tenants"][0]["adoption"] = json!(["SameIdentity"]);
    };
    let setup = Setup {
        server: Some(Box::new(server)),
        ..Setup::default()
    };
    World::with(test, setup).await
}

// Red when: keep() binds a role anew that its object did not make.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_not_stolen_in_two_steps() -> Result<()> {
    let world = same_identity_only("two_steps").await?;
    world
        .sql(&format!(
            "SELECT pgaadauth_create_principal_with_oid('payroll', '{BATCH_ID}', 'service', false, false); \
             CREATE TABLE salaries (n int); ALTER TABLE salaries OWNER TO payroll"
        ))
        .await?;
    if crate::rights::major(&world).await? >= 16 {
        world
            .sql("GRANT payroll TO \"pg-operators\" WITH ADMIN OPTION")
            .await?;
    }
    let mut thief = world.principal("thief", "payroll", bound("ServicePrincipal", BATCH_ID));
    thief["spec"]["adoption"] = json!("SameIdentity");
    world.apply(&thief).await?;
    world.ready("principal", "thief").await?;
    let mine = json!({"spec": {"principal": {"objectId": IMPORTER_ID}}});
    world.patch("principal", "thief", &mine).await?;
    let said = world
        .not_ready("principal", "thief", "NotAllowedByServer")
        .await?;
    assert!(
        said.contains("tenants.adoption of the server has Any"),
        "{said}"
    );
    assert_eq!(world.bound_to("payroll").await?.as_deref(), Some(BATCH_ID));

    // The second way: a role that another object left.
    let left = world.principal("left", "importer", bound("ServicePrincipal", IMPORTER_ID));
    world.apply(&left).await?;
    world.ready("principal", "left").await?;
    world.delete("principal", "left").await?;
    world
        .wait("principal", "left", "is gone", Value::is_null)
        .await?;
    world.delete("principal", "thief").await?;
    let mut heir = world.principal("heir", "importer", bound("ServicePrincipal", IMPORTER_ID));
    heir["spec"]["deletionPolicy"] = json!("Drop");
    world.apply(&heir).await?;
    let said = world.not_ready("principal", "heir", "RoleExists").await?;
    assert!(said.contains("adoption: SameIdentity"), "{said}");
    world
        .patch(
            "principal",
            "heir",
            &json!({"spec": {"adoption": "SameIdentity"}}),
        )
        .await?;
    let ready = world.ready("principal", "heir").await?;
    assert_eq!(ready["status"]["role"]["adopted"], true);
    let other = json!({"spec": {"principal": {"objectId": BATCH_ID}}});
    world.sql("DROP TABLE salaries; DROP ROLE payroll").await?;
    world.patch("principal", "heir", &other).await?;
    world
        .not_ready("principal", "heir", "NotAllowedByServer")
        .await?;
    assert_eq!(
        world.bound_to("importer").await?.as_deref(),
        Some(IMPORTER_ID)
    );
    // The server's owner may want it.
    let mut server = world.server("server")?;
    server["spec"]["tenants"][0]["roleNames"] = json!(["*", "importer"]);
    world.apply(&server).await?;
    world.ready("principal", "heir").await?;
    assert_eq!(world.bound_to("importer").await?.as_deref(), Some(BATCH_ID));
    Ok(())
}

// Red when: adopt() or bind() takes multifactor authentication away.
#[tokio::test(flavor = "multi_thread")]
async fn multifactor_authentication_stays_where_a_dba_requires_it() -> Result<()> {
    let world = same_identity_only("mfa").await?;
    let strict = format!(
        "SELECT pgaadauth_create_principal_with_oid('{ALICE}', '{ALICE_ID}', 'user', false, true)"
    );
    world.sql(&strict).await?;
    let mut alice = world.principal("alice", ALICE, bound("User", ALICE_ID));
    alice["spec"]["adoption"] = json!("SameIdentity");
    world.apply(&alice).await?;
    let said = world.not_ready("principal", "alice", "MfaRequired").await?;
    assert!(said.contains("principal.requireMFA: true"), "{said}");
    assert_eq!(
        listed(&world, ALICE).await?,
        Some(format!("user {ALICE_ID} 1 0"))
    );

    let user = world.principal(
        "importer",
        "importer",
        bound("ServicePrincipal", IMPORTER_ID),
    );
    world.apply(&user).await?;
    world.ready("principal", "importer").await?;
    let label = format!("aadauth,oid={IMPORTER_ID},type=service,mfa");
    world
        .sql(&format!(
            "SECURITY LABEL FOR pgaadauth ON ROLE importer IS '{label}'"
        ))
        .await?;
    world
        .not_ready("principal", "importer", "MfaRequired")
        .await?;
    // All else is kept as declared.
    world.sql("ALTER ROLE importer CONNECTION LIMIT 7").await?;
    world
        .patch(
            "principal",
            "importer",
            &json!({"spec": {"role": {"connectionLimit": 3}}}),
        )
        .await?;
    world
        .wait_sql(
            "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'importer'",
            Some("3"),
        )
        .await?;
    assert_eq!(
        listed(&world, "importer").await?,
        Some(format!("service {IMPORTER_ID} 1 0"))
    );
    let object = world
        .get("principal", "importer")
        .await?
        .unwrap_or_default();
    assert_eq!(condition(&object, "Ready").reason, "MfaRequired");
    Ok(())
}
