//! Who manages which role: the restricted roles, improved control, relabelling.

use lab::postgres::{PASSWORD_ADMINISTRATOR, PostgresOptions, Switches};

use crate::sql_support::*;

async fn with_switches(switches: Switches) -> lab::postgres::Postgres {
    server_with(PostgresOptions {
        switches,
        ..PostgresOptions::default()
    })
    .await
}

#[tokio::test]
async fn azure_pg_admin_is_restricted_for_all_but_the_service() {
    for improved_control in [false, true] {
        let server = with_switches(Switches {
            improved_control,
            ..Switches::default()
        })
        .await;
        let admin = admin(&server).await;
        run(&admin, "CREATE ROLE r").await;
        for sql in [
            "GRANT azure_pg_admin TO r",
            "GRANT r TO azure_pg_admin",
            "REVOKE azure_pg_admin FROM labadmin",
            "ALTER ROLE azure_pg_admin LOGIN",
            "ALTER ROLE azure_pg_admin SET statement_timeout = 1",
            "ALTER ROLE azure_pg_admin RENAME TO other",
            "COMMENT ON ROLE azure_pg_admin IS 'mine'",
            "SECURITY LABEL FOR pgaadauth ON ROLE azure_pg_admin IS 'aadauth'",
            "CREATE ROLE s IN ROLE azure_pg_admin",
            "DROP OWNED BY azure_pg_admin",
            "DROP ROLE azure_pg_admin",
        ] {
            let refusal = refused(&admin, sql).await;
            assert_refusal(
                refusal,
                "42501",
                "permission denied to alter restricted role \"azure_pg_admin\"",
            );
        }
        assert_refusal(
            refused(&admin, "DROP ROLE azuresu").await,
            "42501",
            "restricted role \"azuresu\"",
        );
    }
}

#[tokio::test]
async fn without_improved_control_the_rules_are_those_of_the_version() {
    let server = server().await;
    let (admin, dba) = (
        admin(&server).await,
        server
            .connect(PASSWORD_ADMINISTRATOR, "postgres")
            .await
            .unwrap(),
    );
    run(&dba, "CREATE ROLE theirs").await;
    let alter = admin.simple_query("ALTER ROLE theirs LOGIN").await;
    assert_eq!(alter.is_ok(), server.version().major() < 16);
    let reassign = refused(&admin, "REASSIGN OWNED BY theirs TO CURRENT_USER").await;
    assert_eq!(reassign.0, "42501");
}

#[tokio::test]
async fn improved_control_manages_the_roles_of_others_but_gives_no_superuser_powers() {
    let server = with_switches(Switches {
        improved_control: true,
        ..Switches::default()
    })
    .await;
    let (admin, dba) = (
        admin(&server).await,
        server
            .connect(PASSWORD_ADMINISTRATOR, "postgres")
            .await
            .unwrap(),
    );
    run(&dba, "CREATE ROLE theirs; CREATE ROLE readers").await;
    let service = server.superuser().await.unwrap();
    run(&service, "CREATE SCHEMA s AUTHORIZATION theirs").await;
    for sql in [
        "GRANT readers TO theirs",
        "REVOKE readers FROM theirs",
        "GRANT theirs TO CURRENT_USER",
        "ALTER ROLE theirs LOGIN CONNECTION LIMIT 4",
        "ALTER ROLE theirs SET statement_timeout = '3s'",
        "COMMENT ON ROLE theirs IS 'ours now'",
        "ALTER ROLE theirs RENAME TO ours",
        "REASSIGN OWNED BY ours TO CURRENT_USER",
        &format!("SECURITY LABEL FOR pgaadauth ON ROLE ours IS 'aadauth,oid={APP_ID}'"),
    ] {
        run(&admin, sql).await;
    }
    let owner = "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 's'";
    assert_eq!(value(&admin, owner).await, format!("\"{ADMIN}\""));
    assert_eq!(value(&admin, "SELECT current_user").await, ADMIN);
    for sql in [
        "ALTER ROLE ours SUPERUSER",
        "ALTER ROLE ours REPLICATION",
        "ALTER ROLE ours SET session_preload_libraries = 'x'",
        "GRANT lab TO ours",
        "ALTER ROLE lab NOLOGIN",
        "DROP ROLE azuresu",
        "SECURITY LABEL FOR \"pgaadauth-int\" ON ROLE ours IS 'type=user'",
    ] {
        let refusal = refused(&admin, sql).await;
        assert_eq!(refusal.0, "42501", "{sql}: {}", refusal.1);
    }
    run(&admin, "DROP ROLE ours").await;
    // A password administrator is lifted too, but not to Entra's powers.
    run(&admin, "CREATE ROLE entra").await;
    let label = format!("SECURITY LABEL FOR pgaadauth ON ROLE entra IS 'aadauth,oid={APP_ID}'");
    assert_refusal(refused(&dba, &label).await, "42501", "Microsoft Entra role");
    run(&dba, "DROP ROLE entra").await;
    // Nobody else is.
    run(
        &dba,
        "CREATE ROLE nobody LOGIN CREATEROLE; CREATE ROLE theirs NOINHERIT",
    )
    .await;
    let nobody = server.connect("nobody", "postgres").await.unwrap();
    assert_eq!(
        refused(&nobody, "REASSIGN OWNED BY theirs TO nobody")
            .await
            .0,
        "42501"
    );
}

#[tokio::test]
async fn relabelling_in_place_works_or_is_refused_as_switched() {
    let server = server().await;
    let label = |id: &str| format!("SECURITY LABEL FOR pgaadauth ON ROLE r IS 'aadauth,oid={id}'");
    let first = admin(&server).await;
    run(&first, &format!("CREATE ROLE r; {}", label(APP_ID))).await;
    run(&first, &label(MANAGED_ID)).await;
    server
        .set_switches(Switches {
            relabel_refused: true,
            ..Switches::default()
        })
        .await
        .unwrap();
    let second = admin(&server).await;
    let refusal = refused(&second, &label(APP_ID)).await;
    assert_refusal(
        refusal,
        "XX000",
        "Updating an existing principal isn't supported. Drop and recreate",
    );
    run(&second, "SECURITY LABEL FOR pgaadauth ON ROLE r IS NULL").await;
    run(&second, &label(APP_ID)).await;
}
