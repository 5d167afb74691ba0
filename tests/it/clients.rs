//! Every client that the documentation shows, installed from its registry and run as it is shown: it
//! reads nothing but the mounted files, and takes up a new token without a restart.

mod docs;
mod install;
mod mount;
mod on_a_node;
mod program;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::fixture::{API_CLIENT, REPORTS_CLIENT, SOON, Setup, TENANT, World, workload_identity};
use install::{Clients, PGADMIN, PROGRAMS};
use mount::Mount;
use program::Program;

const IMPORTER_CLIENT: &str = "c11e4700-0000-4000-8000-000000000004";
/// How long a token lives here. The operator refuses one that ends within a minute.
const LIFE: u32 = 75;
/// Two dozen programs start at once.
const STARTED: Duration = Duration::from_secs(240);

/// A managed identity, a service principal whose role has a name of its own, and a member of a group,
/// whose user name is the group's.
const ROLES: [(&str, &str); 3] = [
    ("api", "orders-api"),
    ("importer", r#"o'brien "x" \ ü"#),
    ("readonly", "Prod DB Readonly"),
];

// Red when: an example reads the password once (node-postgres: `password: read('password')`), or its
// pool hands out a connection that the server has closed; the operator does not renew.
#[tokio::test(flavor = "multi_thread")]
async fn every_client_signs_in_from_the_mounted_files_and_takes_up_a_new_token() -> Result<()> {
    across_a_renewal("clients", &PROGRAMS, &ROLES).await
}

// Red when: main.py registers another passfile, or the operator writes none.
#[tokio::test(flavor = "multi_thread")]
async fn pgadmin_connects_with_the_mounted_password_file_before_and_after_a_renewal() -> Result<()>
{
    across_a_renewal("pgadmin", &[PGADMIN], &ROLES[2..]).await
}

/// Signs in with each program as each role; waits until the tokens of then have ended, closes all
/// connections, and waits for new ones.
async fn across_a_renewal(
    test: &str,
    names: &[&str],
    roles: &[(&'static str, &'static str)],
) -> Result<()> {
    let clients = tokio::task::spawn_blocking(Clients::install).await??;
    let world = short_lived(test).await?;
    let mut mounts = Vec::new();
    for &(name, role) in roles {
        world.ready("principal", name).await?;
        let mount = Mount::follow(world.client.clone(), &world.names.team, name).await?;
        let token = mount.read("password")?;
        mounts.push((role, mount, token));
    }
    let mut programs = Vec::new();
    for (role, mount, _) in &mounts {
        for program in names {
            programs.push((*role, start(&clients, program, role, mount)?));
        }
    }
    for (role, program) in &mut programs {
        signed_in(program, role, &BTreeSet::new()).await?;
    }

    for (role, mount, old) in &mounts {
        expired(&world, role, old).await?;
        assert_ne!(
            mount.read("password")?,
            *old,
            "{role}: no new token is mounted"
        );
    }
    let closed = close_connections(&world).await?;
    for (role, program) in &mut programs {
        program.forget();
        signed_in(program, role, &closed).await?;
        assert!(program.runs()?, "{} was restarted", program.name);
    }
    Ok(())
}

// Red when: an example says sslmode=require, or trusts any certificate.
#[tokio::test(flavor = "multi_thread")]
async fn no_client_signs_in_to_a_server_that_it_cannot_verify() -> Result<()> {
    let clients = tokio::task::spawn_blocking(Clients::install).await??;
    let world = World::start("unverified").await?;
    let mut object = world.api();
    object["spec"]["token"]["secret"] = json!({"formats": ["ServiceBinding", "PgPass"]});
    world.apply(&object).await?;
    world.ready("principal", "api").await?;
    let secret = world.secret("api").await?.into_iter();
    let mut data: mount::Data = secret.map(|(k, v)| (k, v.into_bytes())).collect();
    assert!(data.remove("certificates").is_some());
    let mount = Mount::fixed(&data)?;
    let mut programs = Vec::new();
    for program in PROGRAMS {
        programs.push(start(&clients, program, "unverified", &mount)?);
    }
    for program in &mut programs {
        program
            .wait(
                "complains of the certificate, or is in",
                STARTED,
                |program| {
                    let complaints = program.complaints().join("\n").to_lowercase();
                    let words = ["certificate", "certification path", "unknownissuer"];
                    words.iter().any(|word| complaints.contains(word))
                        || !program.sign_ins().is_empty()
                },
            )
            .await?;
        assert_eq!(program.sign_ins(), [], "{}", program.name);
    }
    // The operator itself proved the token once.
    let stats = world.stats();
    assert_eq!(stats["connections"]["byRole"]["orders-api"], 1, "{stats:#}");
    Ok(())
}

fn start(clients: &Clients, program: &str, role: &str, mount: &Mount) -> Result<Program> {
    let name = format!("{program} as {role}");
    Program::start(name, clients.command(program), mount.path())
}

/// Waits until it has signed in as that role, over a connection that is none of these.
async fn signed_in(program: &mut Program, role: &str, closed: &BTreeSet<i32>) -> Result<()> {
    program
        .wait("signs in", STARTED, |program| {
            let mut sign_ins = program.sign_ins().into_iter();
            sign_ins.any(|found| found.user == role && !closed.contains(&found.connection))
        })
        .await
}

/// Waits until the server refuses a token because it has ended.
async fn expired(world: &World, role: &str, token: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        match world.login(role, token, "orders").await {
            Err(error) if format!("{error:?}").contains("expired") => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) if start.elapsed() > Duration::from_secs(u64::from(LIFE)) + SOON => {
                bail!("{role}: the first token is still good")
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// The server ends all connections of the roles; returns which they were.
async fn close_connections(world: &World) -> Result<BTreeSet<i32>> {
    let client = world.azure.postgres().await?.superuser().await?;
    let roles: Vec<&str> = ROLES.iter().map(|(_, role)| *role).collect();
    // In the select list: a condition might be asked of every connection, this one too.
    let sql = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY($1)";
    let rows = client.query(sql, &[&roles]).await.context(sql)?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// A world whose three principals have tokens of `LIFE` seconds.
async fn short_lived(test: &str) -> Result<World> {
    let setup = Setup {
        directory: Box::new(|directory, _| {
            for service in &mut directory.service_principals {
                let client = service.client_id.to_string();
                if [API_CLIENT, REPORTS_CLIENT, IMPORTER_CLIENT].contains(&client.as_str()) {
                    service.token_lifetime_seconds = Some(LIFE.into());
                }
            }
        }),
        ..Setup::default()
    };
    let world = World::with(test, setup).await?;
    world
        .apply(&json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "credential", "namespace": world.names.team},
            "stringData": {"secret": "the-lab-has-no-real-secrets~importer"}}))
        .await?;
    let importer = json!({"clientSecret": {"tenantId": TENANT, "clientId": IMPORTER_CLIENT,
        "secretRef": {"name": "credential", "key": "secret"}}});
    for ((name, role), (kind, identity)) in ROLES.into_iter().zip([
        ("ManagedIdentity", workload_identity("orders-api")),
        ("ServicePrincipal", importer),
        ("Group", workload_identity("orders-reports")),
    ]) {
        let mut object = world.principal(name, role, json!({"type": kind}));
        object["spec"]["token"] = json!({"identity": identity, "database": "orders",
            "secret": {"formats": ["ServiceBinding", "PgPass"]}});
        world.apply(&object).await?;
    }
    Ok(world)
}
