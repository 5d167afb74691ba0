//! Sign-in with psql, as the document for users shows it.

use lab::postgres::{PASSWORD_ADMINISTRATOR, PASSWORD_ADMINISTRATOR_PASSWORD};

use crate::signin_support::{Lab, text};
use crate::sql_support::*;

#[tokio::test]
async fn each_kind_of_principal_signs_in_with_its_token() {
    let lab = Lab::start().await;
    lab.create(&[ALICE, GUEST, GROUP, APP, MANAGED]).await;
    let port = lab.gateway.port();
    let guest = "a11ce000-0000-4000-8000-000000000002";
    for (role, conninfo_role, token) in [
        (ALICE, ALICE, lab.user_token(ALICE_ID)),
        (GUEST, GUEST, lab.user_token(guest)),
        (APP, APP, lab.app_token(APP_ID)),
        (MANAGED, MANAGED, lab.app_token(MANAGED_ID)),
        // A group's members sign in with the group's name, its spaces escaped: a user, an identity
        // and the member of a group in the group.
        (GROUP, r"Prod\ DB\ Readonly", lab.user_token(ALICE_ID)),
        (GROUP, r"Prod\ DB\ Readonly", lab.app_token(MANAGED_ID)),
        (GROUP, r"Prod\ DB\ Readonly", lab.user_token(BOB_ID)),
        (ADMIN, ADMIN, lab.app_token(OPERATOR_ID)),
    ] {
        let connection = format!(
            "host=localhost port={port} user={conninfo_role} dbname=postgres sslmode=require"
        );
        let output = lab.run(Lab::psql(&connection, &token)).await;
        assert_eq!((text(&output.stdout), text(&output.stderr)), (role, ""));
    }
}

#[tokio::test]
async fn the_shell_line_of_the_document_works() {
    let lab = Lab::start().await;
    lab.create(&[ALICE]).await;
    let mut shell = std::process::Command::new("bash");
    shell
        .args(["-euc", r#"export PGPASSWORD=$TOKEN; psql "host=localhost port=$PORT user=alice@contoso.onmicrosoft.com dbname=postgres sslmode=require" -XAtc 'SELECT current_user'"#])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("TOKEN", lab.user_token(ALICE_ID))
        .env("PORT", lab.gateway.port().to_string());
    let output = lab.run(shell).await;
    assert_eq!((text(&output.stdout), text(&output.stderr)), (ALICE, ""));
}

#[tokio::test]
async fn verify_full_takes_the_labs_certificate_and_no_other() {
    let lab = Lab::start().await;
    lab.create(&[APP]).await;
    let token = lab.app_token(APP_ID);
    let ca = lab.ca_file();
    let with = |port: u16| {
        format!(
            "host=localhost port={port} user={APP} dbname=orders sslmode=verify-full sslrootcert={}",
            ca.display()
        )
    };
    let output = lab.run(Lab::psql(&with(lab.gateway.port()), &token)).await;
    assert_eq!(text(&output.stdout), APP);
    let strange = lab::tls::Authority::new("strange").unwrap();
    let elsewhere = lab.authority.issue(&["elsewhere.localhost"]).unwrap();
    for (tls, complaint) in [
        (
            strange.server_config().unwrap(),
            "certificate verify failed",
        ),
        (
            elsewhere.server_config().unwrap(),
            "does not match host name \"localhost\"",
        ),
    ] {
        let listen = "127.0.0.1:0".parse().unwrap();
        let other = lab::gateway::Gateway::start(lab.state.clone(), &lab.postgres, tls, listen)
            .await
            .unwrap();
        let output = lab.run(Lab::psql(&with(other.port()), &token)).await;
        assert!(
            text(&output.stderr).contains(complaint),
            "{}",
            text(&output.stderr)
        );
    }
}

#[tokio::test]
async fn without_tls_nobody_gets_in_and_nobody_is_asked_for_a_password() {
    let lab = Lab::start().await;
    let port = lab.gateway.port();
    let connection = format!("host=127.0.0.1 port={port} user={APP} dbname=orders sslmode=disable");
    let output = lab.run(Lab::psql(&connection, "never sent")).await;
    let wanted = "no pg_hba.conf entry for host \"127.0.0.1\", user \"orders-api\", database \"orders\", no encryption";
    assert!(
        text(&output.stderr).contains(wanted),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn password_roles_are_checked_by_the_server_itself() {
    let lab = Lab::start().await;
    let client = lab
        .connect(PASSWORD_ADMINISTRATOR, PASSWORD_ADMINISTRATOR_PASSWORD)
        .await
        .unwrap();
    assert_eq!(
        value(&client, "SELECT current_user").await,
        PASSWORD_ADMINISTRATOR
    );
    for password in ["wrong", &lab.app_token(OPERATOR_ID)] {
        let refusal = lab.refused(PASSWORD_ADMINISTRATOR, password).await;
        assert_refusal(
            refusal,
            "28P01",
            "password authentication failed for user \"labadmin\"",
        );
    }
    // The lab's own superuser has no password, so it is not reached from outside.
    assert_eq!(lab.refused("lab", "").await.0, "28P01");
}
