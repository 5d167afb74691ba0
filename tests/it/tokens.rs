//! Whose token is published, and what happens when there is none to be had: nothing is written that
//! is not the principal's own, a good token stays, and nobody is asked too often.

mod asked;
mod certificates;
mod claims;
mod hostile;
mod identities;
mod imds;
mod outages;
mod proxy;
mod refusals;
mod renewal;
mod taken_up;
mod thousand;
mod verify;

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::directory::{Directory, FederatedCredential};
use serde_json::{Value, json};

use crate::fixture::{API_CLIENT, API_ID, Setup, TENANT, World};

const NODE_CLIENT: &str = "c11e4700-0000-4000-8000-000000000006";
const NODE_ID: &str = "5e41ce00-0000-4000-8000-000000000006";
const IMPORTER_CLIENT: &str = "c11e4700-0000-4000-8000-000000000004";
const IMPORTER_SECRET: &str = "the-lab-has-no-real-secrets~importer";
const BATCH_CLIENT: &str = "c11e4700-0000-4000-8000-000000000005";

/// Neither role nor Secret is there.
async fn untouched(world: &World, role: &str, secret: &str) -> Result<()> {
    let literal = postgres_protocol::escape::escape_literal(role);
    let found = world
        .ask(&format!(
            "SELECT rolname FROM pg_roles WHERE rolname = {literal}"
        ))
        .await?;
    assert_eq!(found, None, "role {role} was made");
    assert_eq!(
        world.get("secret", secret).await?,
        None,
        "Secret {secret} was made"
    );
    Ok(())
}

/// Signs in with what the Secret says.
async fn logged_in(world: &World, secret: &str) -> Result<String> {
    let secret = world.secret(secret).await?;
    world
        .login(
            &secret["username"],
            &secret["password"],
            &secret["database"],
        )
        .await
}

/// Waits until that client has asked so often.
async fn requests_reach(world: &World, count: u64) -> Result<Duration> {
    let since = Instant::now();
    world.wait_requests(API_CLIENT, count).await?;
    Ok(since.elapsed())
}

/// The end of the token, as the status shows it.
fn expiry(object: &Value) -> String {
    object["status"]["token"]["expiresAt"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[expect(clippy::needless_pass_by_value, reason = "callers give literals")]
fn identity(identity: Value) -> Value {
    json!({"spec": {"token": {"identity": identity}}})
}

/// A world in which the tokens of one client live 63 s.
async fn short_lived(test: &str, client: &'static str) -> Result<World> {
    let setup = Setup {
        directory: Box::new(move |directory, _| {
            service(directory, client).token_lifetime_seconds = Some(63);
        }),
        ..Setup::default()
    };
    World::with(test, setup).await
}

/// `orders-api` with a token that is renewed every two seconds.
fn quick(world: &World) -> Value {
    let mut object = world.api();
    object["spec"]["principal"]["objectId"] = json!(API_ID);
    object["spec"]["token"]["renewBefore"] = json!("60s");
    object
}

fn importer(secret: &str) -> Value {
    json!({"clientSecret": {
        "tenantId": TENANT, "clientId": IMPORTER_CLIENT,
        "secretRef": {"name": secret, "key": "secret"},
    }})
}

#[expect(clippy::needless_pass_by_value, reason = "callers give literals")]
fn client_secret(world: &World, name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret",
           "metadata": {"name": name, "namespace": world.names.team}, "stringData": data})
}

/// A service principal of the directory by its client id.
fn service<'a>(
    directory: &'a mut Directory,
    client: &str,
) -> &'a mut lab::directory::ServicePrincipal {
    let found = directory.service_principals.iter_mut();
    let mut found = found.filter(|service| service.client_id.to_string() == client);
    found.next().expect("in the lab's directory")
}

fn federate(directory: &mut Directory, client: &str, namespace: &str, account: &str) {
    service(directory, client)
        .federated_credentials
        .push(FederatedCredential {
            issuer: "cluster".to_owned(),
            subject: format!("system:serviceaccount:{namespace}:{account}"),
            audience: "api://AzureADTokenExchange".to_owned(),
        });
}
