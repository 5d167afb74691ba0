//! A server for one test, and short words for what tests ask of it.

use lab::directory::Directory;
use lab::postgres::{Postgres, PostgresOptions};
use tokio_postgres::{Client, SimpleQueryMessage};

/// The administrator: a managed identity, so that groups stay free for the tests.
pub const ADMIN: &str = "pg-operators";
pub const TENANT: &str = "7e4a0000-0000-4000-8000-000000000000";
pub const ADMIN_ID: &str = "ad000000-0000-4000-8000-000000000001";
pub const OPERATOR_ID: &str = "ad000000-0000-4000-8000-000000000002";
pub const ALICE: &str = "alice@contoso.onmicrosoft.com";
pub const ALICE_ID: &str = "a11ce000-0000-4000-8000-000000000001";
pub const BOB_ID: &str = "b0b00000-0000-4000-8000-000000000001";
pub const GUEST: &str = "guest_user_example.com#EXT#@contoso.onmicrosoft.com";
pub const GROUP: &str = "Prod DB Readonly";
pub const GROUP_ID: &str = "9409b000-0000-4000-8000-000000000001";
pub const NESTED_ID: &str = "9409b000-0000-4000-8000-000000000003";
pub const APP: &str = "orders-api";
pub const APP_ID: &str = "5e41ce00-0000-4000-8000-000000000002";
pub const APP_CLIENT: &str = "c11e4700-0000-4000-8000-000000000002";
pub const MANAGED: &str = "orders-reports";
pub const MANAGED_ID: &str = "5e41ce00-0000-4000-8000-000000000003";

pub fn directory_text() -> String {
    format!(
        r#"
tenantId: {TENANT}
users:
- {{name: {ALICE}, objectId: {ALICE_ID}}}
- {{name: bob@contoso.onmicrosoft.com, objectId: {BOB_ID}}}
- {{name: "{GUEST}", objectId: a11ce000-0000-4000-8000-000000000002}}
- {{name: "o'neil \"x\" \\ 50% ü@contoso.onmicrosoft.com", objectId: a11ce000-0000-4000-8000-000000000003}}
groups:
- {{name: {GROUP}, objectId: {GROUP_ID}, members: [{MANAGED_ID}, {ALICE_ID}, {NESTED_ID}]}}
- {{name: nested, objectId: {NESTED_ID}, members: [{BOB_ID}]}}
- {{name: {ADMIN}, objectId: {ADMIN_ID}, members: [{OPERATOR_ID}]}}
- {{name: twice, objectId: 9409b000-0000-4000-8000-000000000004}}
servicePrincipals:
- {{name: {APP}, objectId: {APP_ID}, clientId: {APP_CLIENT}, kind: Application}}
- {{name: {MANAGED}, objectId: {MANAGED_ID}, clientId: c11e4700-0000-4000-8000-000000000003, kind: ManagedIdentity}}
- {{name: operator, objectId: {OPERATOR_ID}, clientId: c11e4700-0000-4000-8000-000000000004, kind: ManagedIdentity}}
- {{name: twice, objectId: 5e41ce00-0000-4000-8000-000000000005, clientId: c11e4700-0000-4000-8000-000000000005, kind: Application}}
administrators: [{ADMIN}]
databases: [orders]
"#
    )
}

pub fn directory() -> Directory {
    Directory::parse(&directory_text()).unwrap()
}

pub async fn server() -> Postgres {
    server_with(PostgresOptions::default()).await
}

pub async fn server_with(options: PostgresOptions) -> Postgres {
    Postgres::start(options, &directory()).await.unwrap()
}

/// A session of the Entra administrator, past the gateway.
pub async fn admin(server: &Postgres) -> Client {
    server.connect(ADMIN, "postgres").await.unwrap()
}

/// All rows of the last statement, as text; `NULL` for null.
pub async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client
        .simple_query(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {:?}", error.as_db_error()));
    messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .map(|row| {
            (0..row.len())
                .map(|column| row.get(column).unwrap_or("NULL").to_owned())
                .collect()
        })
        .collect()
}

/// The one value of a query.
pub async fn value(client: &Client, sql: &str) -> String {
    let rows = rows(client, sql).await;
    assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
    rows[0][0].clone()
}

pub async fn run(client: &Client, sql: &str) {
    rows(client, sql).await;
}

/// SQLSTATE and message of a statement that must fail.
pub async fn refused(client: &Client, sql: &str) -> (String, String) {
    let Err(error) = client.simple_query(sql).await else {
        panic!("{sql}: was not refused");
    };
    let error = error
        .as_db_error()
        .unwrap_or_else(|| panic!("{sql}: {error}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

#[track_caller]
pub fn assert_refusal((code, message): (String, String), wanted_code: &str, wanted: &str) {
    assert!(
        code == wanted_code && message.contains(wanted),
        "wanted {wanted_code} with `{wanted}`, got {code} `{message}`"
    );
}

pub async fn role_exists(client: &Client, role: &str) -> bool {
    let query = "SELECT FROM pg_roles WHERE rolname = $1";
    client.query_opt(query, &[&role]).await.unwrap().is_some()
}

/// The labels of a role: what was written, and what the directory said.
pub async fn labels(client: &Client, role: &str) -> Vec<(String, String)> {
    let query =
        "SELECT l.provider, l.label FROM pg_shseclabel l JOIN pg_roles r ON r.oid = l.objoid
         WHERE r.rolname = $1 ORDER BY 1";
    let rows = client.query(query, &[&role]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
