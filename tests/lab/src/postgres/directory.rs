//! What Azure's control plane does on the server: administrators and databases of the directory.
//! It makes what is missing and never drops anything.

use anyhow::Context as _;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;

use crate::directory::{Directory, Principal};

pub(super) async fn apply(client: &Client, directory: &Directory) -> anyhow::Result<()> {
    for administrator in directory.administrators() {
        make_administrator(client, administrator)
            .await
            .with_context(|| {
                format!(
                    "cannot make `{}` an administrator of the lab's PostgreSQL",
                    administrator.name()
                )
            })?;
    }
    for database in &directory.databases {
        make_database(client, database)
            .await
            .with_context(|| format!("cannot make database `{database}`"))?;
    }
    Ok(())
}

async fn make_administrator(client: &Client, principal: Principal<'_>) -> anyhow::Result<()> {
    let found = client
        .query_opt(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_shseclabel AS label
                 WHERE label.objoid = role.oid AND label.provider = 'pgaadauth'
                 AND label.classoid = 'pg_catalog.pg_authid'::regclass
                 AND 'admin' = ANY (string_to_array(label.label, ',')))
             FROM pg_catalog.pg_roles AS role WHERE role.rolname = $1",
            &[&principal.name()],
        )
        .await?;
    let role = escape_identifier(principal.name());
    let first = match found.map(|row| row.try_get::<_, bool>(0)).transpose()? {
        Some(true) => return Ok(()),
        Some(false) => format!("ALTER ROLE {role} LOGIN CREATEROLE CREATEDB"),
        None => format!("CREATE ROLE {role} LOGIN CREATEROLE CREATEDB"),
    };
    let label = escape_literal(&format!(
        "aadauth,oid={},type={},admin",
        principal.object_id(),
        principal.type_word()
    ));
    client
        .batch_execute(&format!(
            "{first}; GRANT azure_pg_admin TO {role};
             SECURITY LABEL FOR pgaadauth ON ROLE {role} IS {label};"
        ))
        .await?;
    Ok(())
}

async fn make_database(client: &Client, name: &str) -> anyhow::Result<()> {
    let query = "SELECT FROM pg_catalog.pg_database WHERE datname = $1";
    if client.query_opt(query, &[&name]).await?.is_none() {
        let create = format!(
            "CREATE DATABASE {} OWNER azure_pg_admin",
            escape_identifier(name)
        );
        client.batch_execute(&create).await?;
    }
    Ok(())
}
