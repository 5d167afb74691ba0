//! Servers to which there is no way: unreachable, not to be trusted, or they do not want the
//! administrator. A token goes only to a server that proved who it is; what is corrected works.

use std::time::Instant;

use anyhow::Result;
use lab::directory::FederatedCredential;
use lab::postgres::{NameColumn, PostgresOptions};
use lab::tls::Authority;
use serde_json::{Value, json};

use crate::fixture::{
    ADMIN_CLIENT, API_CLIENT, API_ID, Setup, World, service_account, workload_identity,
};
use crate::servers::{fails, server};

/// Sign-ins that the server let through.
pub fn sign_ins(world: &World) -> u64 {
    world.stats()["connections"]["total"]
        .as_u64()
        .unwrap_or_default()
}

fn no_server() -> Setup {
    Setup {
        server: None,
        ..Setup::default()
    }
}

// Red when: `dial::pause` answers 50 ms, or gateway `stranger` has the lab's own certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_only_to_a_server_that_answers_and_proves_its_name() -> Result<()> {
    let world = World::with("unreachable", no_server()).await?;
    let azure = &world.azure;
    let good = azure.gateway()?.port();
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port();
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let clear_text = azure.postgres().await?.port();
    let stranger = azure
        .start_gateway(Authority::new("a stranger")?.server_config()?)
        .await?;
    let other_name = azure
        .authority()
        .issue(&["other.example"])?
        .server_config()?;
    let other_name = azure.start_gateway(other_name).await?;
    let cases: [(&str, u16, &str, &[&str]); 5] = [
        (
            "closed",
            closed,
            "ServerUnreachable",
            &["refused", "check that", "network"],
        ),
        (
            "silent",
            silent.local_addr()?.port(),
            "ServerUnreachable",
            &["no sign-in within 500ms", "network"],
        ),
        (
            "clear-text",
            clear_text,
            "CertificateNotTrusted",
            &["does not speak TLS", "check host and port"],
        ),
        (
            "stranger",
            stranger.port(),
            "CertificateNotTrusted",
            &[
                "authority that is not trusted",
                "only those of spec.tls",
                "CN=",
                "Azure need none",
            ],
        ),
        (
            "other-name",
            other_name.port(),
            "CertificateNotTrusted",
            &["for another name", "other.example", "spec.host"],
        ),
    ];
    for (name, port, ..) in cases {
        server(&world, name, |spec| {
            spec["port"] = json!(port);
            spec["timeouts"] = json!({"connect": "500ms"});
        })
        .await?;
    }
    let mut api = world.api();
    api["spec"]["serverRef"]["name"] = json!("stranger");
    world.apply(&api).await?;
    for (name, port, reason, words) in cases {
        fails(&world, ("server", name), reason, words).await?;
        let place = format!("{}/{name} (localhost:{port})", world.names.platform);
        fails(&world, ("server", name), reason, &[&place]).await?;
    }
    fails(
        &world,
        ("principal", "api"),
        "ServerNotReady",
        &["/stranger", "CertificateNotTrusted", "spec.tls"],
    )
    .await?;
    assert_eq!(world.get("secret", "api").await?, None);
    assert_eq!(world.token_requests(Some(API_CLIENT)), 0);
    assert_eq!(sign_ins(&world), 0);
    let asked = world.token_requests(None);
    assert!(
        asked <= 6,
        "{asked} tokens for five servers and their tries"
    );

    for (name, ..) in cases {
        let patch = json!({"spec": {"port": good}});
        world.patch("server", name, &patch).await?;
        world.ready("server", name).await?;
    }
    world.ready("principal", "api").await?;
    Ok(())
}

// Red when: `Place::certificates` takes an empty list.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_missing_or_empty_is_named_and_nothing_is_asked_for() -> Result<()> {
    let world = World::with("ca", no_server()).await?;
    let config_map = |name: &str, text: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": world.names.platform},
            "data": {"ca.crt": text},
        })
    };
    world.apply(&config_map("empty", "")).await?;
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    world.apply(&config_map("only-a-key", key)).await?;
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    world.apply(&config_map("broken", broken)).await?;
    let reference = |kind: &str, name: &str, key: &str| json!({kind: {"name": name, "key": key}});
    let cases = [
        (
            "gone",
            reference("caConfigMapRef", "gone", "ca.crt"),
            "/gone with the server's CA does not exist",
        ),
        (
            "no-secret",
            reference("caSecretRef", "gone", "ca.crt"),
            "Secret ",
        ),
        (
            "no-key",
            reference("caConfigMapRef", "ca", "tls.crt"),
            "has no key \"tls.crt\"",
        ),
        (
            "empty",
            reference("caConfigMapRef", "empty", "ca.crt"),
            "has no CERTIFICATE block",
        ),
        (
            "only-a-key",
            reference("caConfigMapRef", "only-a-key", "ca.crt"),
            "has no CERTIFICATE block",
        ),
        (
            "broken",
            reference("caConfigMapRef", "broken", "ca.crt"),
            "is no certificate",
        ),
    ];
    for (name, tls, _) in &cases {
        server(&world, name, |spec| spec["tls"] = tls.clone()).await?;
    }
    let mut api = world.api();
    api["spec"]["serverRef"]["name"] = json!("gone");
    world.apply(&api).await?;
    for (name, _, words) in &cases {
        fails(&world, ("server", name), "CaInvalid", &[words]).await?;
    }
    let words = [
        "EntraPostgresServer",
        "/gone",
        "CaInvalid",
        "does not exist",
    ];
    fails(&world, ("principal", "api"), "ServerNotReady", &words).await?;
    assert_eq!(world.token_requests(None), 0);

    let ca = json!({"spec": {"tls": {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}}}});
    world.patch("server", "gone", &ca).await?;
    world.ready("principal", "api").await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "ca", "namespace": world.names.platform},
        "stringData": {"ca.crt": world.azure.ca_pem()},
    });
    world.apply(&secret).await?;
    let ca = json!({"spec": {"tls": {"caSecretRef": {"name": "ca"}}}});
    world.patch("server", "no-secret", &ca).await?;
    world.ready("server", "no-secret").await?;
    Ok(())
}

// Red when: `dial` makes every refusal one of the server: the second administrator is not tried.
#[tokio::test(flavor = "multi_thread")]
async fn administrators_that_do_not_work_are_told_and_the_next_one_is_tried() -> Result<()> {
    let world = World::start("administrators").await?;
    let since = Instant::now();
    let platform = world.names.platform.clone();
    let subject = format!("system:serviceaccount:{platform}:orders-api");
    world
        .change_directory(|directory| {
            let mut services = directory.service_principals.iter_mut();
            let api = services.find(|service| service.name == "orders-api");
            let credential = FederatedCredential {
                issuer: "cluster".to_owned(),
                subject,
                audience: "api://AzureADTokenExchange".to_owned(),
            };
            api.expect("orders-api")
                .federated_credentials
                .push(credential);
        })
        .await?;
    for (name, client) in [("orders-api", API_CLIENT), ("unfederated", ADMIN_CLIENT)] {
        world
            .apply(&service_account(&platform, name, client))
            .await?;
    }
    let mut elsewhere = service_account(&platform, "elsewhere", ADMIN_CLIENT);
    let tenant = "22222222-2222-4222-8222-222222222222";
    elsewhere["metadata"]["annotations"]["azure.workload.identity/tenant-id"] = json!(tenant);
    world.apply(&elsewhere).await?;
    // So that there is a plain Entra role to sign in as.
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;

    let admin = |role: &str, account: &str| json!({"roleName": role, "identity": workload_identity(account)});
    let name = admin("Pg-operators", "pg-operator");
    let outsider = admin("pg-operators", "orders-api");
    let cases: [(&str, Value, &str, &[&str]); 6] = [
        (
            "name",
            json!([name]),
            "AdministratorRefused",
            &["\"Pg-operators\"", "admins[].roleName", "exact name"],
        ),
        (
            "outsider",
            json!([outsider]),
            "AdministratorRefused",
            &[
                "\"pg-operators\"",
                "not valid for role",
                "member of that group",
            ],
        ),
        (
            "plain",
            json!([admin("orders-api", "orders-api")]),
            "NotAnEntraAdministrator",
            &["orders-api", "Entra administrator"],
        ),
        (
            "unfederated",
            json!([admin("pg-operators", "unfederated")]),
            "FederatedCredentialMissing",
            &[":unfederated", "add one with", ADMIN_CLIENT],
        ),
        (
            "elsewhere",
            json!([admin("pg-operators", "elsewhere")]),
            "TenantNotFound",
            &[tenant, "correct the tenant id"],
        ),
        (
            "both",
            json!([name, admin("pg", "unfederated")]),
            "AdministratorRefused",
            &["no administrator of", "\"Pg-operators\"", "add one with"],
        ),
    ];
    for (name, admins, ..) in &cases {
        server(&world, name, |spec| spec["admins"] = admins.clone()).await?;
    }
    for (name, _, reason, words) in &cases {
        fails(&world, ("server", name), reason, words).await?;
    }
    let second = json!([name, admin("pg-operators", "pg-operator")]);
    server(&world, "second", |spec| spec["admins"] = second).await?;
    let second = world.ready("server", "second").await?;
    assert_eq!(second["status"]["activeAdmin"], "pg-operators");
    // Refusals rest for 12 s and more: no name is guessed at, no account locked.
    let asked = world.token_requests(None);
    let most = 14 + since.elapsed().as_secs();
    assert!(
        asked <= most,
        "{asked} tokens for eight servers, not {most}"
    );

    for (name, ..) in &cases {
        let good = json!({"spec": {"admins": [admin("pg-operators", "pg-operator")]}});
        world.patch("server", name, &good).await?;
        let good = world.ready("server", name).await?;
        assert_eq!(good["status"]["activeAdmin"], "pg-operators");
    }
    Ok(())
}

// Would be red if `sql` took the listing's columns by the server's names instead of by place.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_rolname_instead_of_rolename_works_as_well() -> Result<()> {
    for (test, name_column) in [
        ("rolname", NameColumn::Rolname),
        ("rolename", NameColumn::Rolename),
    ] {
        let setup = Setup {
            postgres: PostgresOptions {
                name_column,
                ..PostgresOptions::default()
            },
            ..Setup::default()
        };
        let world = World::with(test, setup).await?;
        world.apply(&world.api()).await?;
        world.ready("principal", "api").await?;
        world
            .sql("SECURITY LABEL FOR pgaadauth ON ROLE \"orders-api\" IS NULL")
            .await?;
        let bound = "SELECT p.oid FROM pgaadauth_list_principals(false) AS p(name, kind, oid) WHERE p.name = 'orders-api'";
        world.wait_sql(bound, Some(API_ID)).await?;
    }
    Ok(())
}
