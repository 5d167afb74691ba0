//! The whole Azure at once: what the lab's API changes is seen in PostgreSQL too.

use std::time::{Duration, Instant};

use lab::azure::{Azure, AzureOptions};
use lab::directory::{Directory, User};
use lab::tls::{Authority, LOOPBACK_NAMES};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio_postgres::Client;

use crate::entra_fixture::Lab;

/// Long before a delay ends that should not be.
const SOON: Duration = Duration::from_secs(60);

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn it_stops_without_a_trace() {
    let started = Instant::now();
    let azure = Azure::start(AzureOptions::default()).await.unwrap();
    // Ten seconds at most with a server template that is already there, on a quiet machine.
    println!("started in {:?}", started.elapsed());
    let (data, ca) = (
        azure.postgres().await.unwrap().data_dir(),
        azure.ca_file().to_owned(),
    );
    assert!(data.exists() && ca.exists());
    azure.stop().await.unwrap();
    assert!(!data.exists() && !ca.exists());
}

#[tokio::test]
async fn a_directory_is_in_postgres_when_its_put_answers() {
    let lab = Lab::whole().await;
    let server = lab
        .azure
        .postgres()
        .await
        .unwrap()
        .superuser()
        .await
        .unwrap();
    let mut directory = Directory::default();
    let name = "new admin@contoso.onmicrosoft.com";
    directory.users.push(User {
        name: name.into(),
        object_id: uuid::Uuid::from_u128(5),
    });
    directory.administrators.push(name.into());
    directory.databases.push("billing".into());
    let put = async |directory: &Directory| {
        let body = serde_json::to_string(directory).unwrap();
        lab.api("PUT", "directory", body).await.0
    };
    let database = "SELECT count(*) FROM pg_database WHERE datname IN ('orders', 'billing')";
    let role = "SELECT count(*) FROM pg_roles WHERE rolname = 'new admin@contoso.onmicrosoft.com'";
    assert_eq!(
        (count(&server, database).await, count(&server, role).await),
        (1, 0)
    );
    assert_eq!(put(&directory).await, 204);
    assert_eq!(
        (count(&server, database).await, count(&server, role).await),
        (2, 1)
    );
    assert_eq!(put(&Directory::default()).await, 204);
    let left = (count(&server, database).await, count(&server, role).await);
    assert_eq!(left, (2, 1), "nothing is dropped");
}

#[tokio::test]
async fn a_principal_is_known_to_sql_as_soon_as_it_is_put() {
    let lab = Lab::whole().await;
    let admin = lab
        .azure
        .postgres()
        .await
        .unwrap()
        .connect("pg-operators", "postgres")
        .await
        .unwrap();
    let create = "SELECT pgaadauth_create_principal('carol@contoso.onmicrosoft.com', false, false)";
    assert!(admin.simple_query(create).await.is_err());
    let mut directory = Directory::default();
    directory.users.push(User {
        name: "carol@contoso.onmicrosoft.com".into(),
        object_id: uuid::Uuid::from_u128(6),
    });
    let body = serde_json::to_string(&directory).unwrap();
    assert_eq!(lab.api("PUT", "directory", body).await.0, 204);
    admin.simple_query(create).await.unwrap();
}

#[tokio::test]
async fn faults_of_sql_reach_postgres() {
    let lab = Lab::whole().await;
    let admin = lab
        .azure
        .postgres()
        .await
        .unwrap()
        .connect("pg-operators", "postgres")
        .await
        .unwrap();
    lab.faults(json!([{"on": "sql", "do": {"delayMs": 700}}]))
        .await;
    let started = Instant::now();
    let create = "SELECT pgaadauth_create_principal('alice@contoso.onmicrosoft.com', false, false)";
    admin.simple_query(create).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(700),
        "{:?}",
        started.elapsed()
    );
    lab.faults(json!([{"on": "sql", "do": {"delayMs": 600_000}}]))
        .await;
    lab.faults(json!([])).await;
    let create = "SELECT pgaadauth_create_principal('orders-api', false, false)";
    let created = tokio::time::timeout(SOON, admin.simple_query(create)).await;
    created.expect("the empty list ends all").unwrap();
}

/// Signs in as psql with `sslmode=verify-full` does.
async fn sign_in(lab: &Lab, port: u16, role: &str, token: &str) -> Result<Client, String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(lab.azure.ca_pem().as_bytes()).unwrap())
        .unwrap();
    let tls = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = tokio_postgres::Config::new();
    config
        .host("localhost")
        .port(port)
        .user(role)
        .password(token)
        .dbname("postgres");
    config.ssl_mode(tokio_postgres::config::SslMode::Require);
    let connector = tokio_postgres_rustls::MakeRustlsConnect::new(tls);
    let (client, connection) = config
        .connect(connector)
        .await
        .map_err(|error| format!("{error:?}"))?;
    tokio::spawn(connection);
    Ok(client)
}

async fn token_of(lab: &Lab, object_id: &str) -> String {
    let order = json!({"objectId": object_id}).to_string();
    let (_, body) = lab.api("POST", "tokens", order).await;
    body["accessToken"].as_str().unwrap().to_owned()
}

const OPERATOR: &str = "5e41ce00-0000-4000-8000-000000000001";

#[tokio::test]
async fn a_member_of_the_administrators_signs_in_with_the_groups_name_and_is_counted() {
    let lab = Lab::whole().await;
    let port = lab.azure.gateway().unwrap().port();
    let token = token_of(&lab, OPERATOR).await;
    let client = sign_in(&lab, port, "pg-operators", &token).await.unwrap();
    let user: String = client
        .query_one("SELECT current_user::text", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(user, "pg-operators");
    let connections = lab.stats().await["connections"].clone();
    assert_eq!(
        connections,
        json!({"total": 1, "open": 1, "peak": 1, "byRole": {"pg-operators": 1}})
    );
    let mut without = Directory::default();
    without.groups[1].members.clear();
    lab.azure.set_directory(without).await.unwrap();
    assert!(
        sign_in(&lab, port, "pg-operators", &token).await.is_err(),
        "no member any more"
    );
}

#[tokio::test]
async fn a_gateway_with_a_wrong_certificate_is_not_talked_to() {
    let lab = Lab::whole().await;
    let token = token_of(&lab, OPERATOR).await;
    let stranger = Authority::new("stranger")
        .unwrap()
        .issue(&LOOPBACK_NAMES)
        .unwrap();
    let other_name = lab
        .azure
        .authority()
        .issue(&["orders.example.org"])
        .unwrap();
    for (certificate, reason) in [(stranger, "UnknownIssuer"), (other_name, "NotValidForName")] {
        let gateway = lab
            .azure
            .start_gateway(certificate.server_config().unwrap())
            .await
            .unwrap();
        let error = sign_in(&lab, gateway.port(), "pg-operators", &token)
            .await
            .unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let good = lab
        .azure
        .start_gateway(lab.azure.authority().server_config().unwrap())
        .await
        .unwrap();
    sign_in(&lab, good.port(), "pg-operators", &token)
        .await
        .unwrap();
}

/// libpq and OpenSSL are stricter than rustls about certificates.
#[tokio::test]
async fn psql_signs_in_with_verify_full_and_a_token_as_password() {
    let lab = Lab::whole().await;
    let ca = lab.azure.ca_file().display();
    let port = lab.azure.gateway().unwrap().port();
    let target = format!(
        "host=localhost port={port} user=pg-operators dbname=postgres sslmode=verify-full sslrootcert={ca}"
    );
    let output = tokio::process::Command::new("psql")
        .args(["-XAtc", "SELECT current_user", &target])
        .env("PGPASSWORD", token_of(&lab, OPERATOR).await)
        .output()
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert_eq!(
        text(&output.stdout),
        "pg-operators",
        "{}",
        text(&output.stderr)
    );
}
