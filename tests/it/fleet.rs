//! Many principals at once: managed identities of their own, each with its service account, so that
//! every counter can be read for one of them alone.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lab::directory::{Directory, FederatedCredential, ServicePrincipal, ServicePrincipalKind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fixture::{Names, Setup, World, condition, service_account, workload_identity};

/// Name of object, role, service account and identity.
pub fn name(n: usize) -> String {
    format!("app-{n:02}")
}

/// The client id of an identity, as the lab's counters spell it.
pub fn client(n: usize) -> String {
    format!("c11e4700-0000-4000-9000-{n:012}")
}

/// A setup whose directory has `count` identities more, federated with the team's namespace.
pub fn setup(count: usize) -> Setup {
    Setup {
        directory: Box::new(move |directory, names| add(directory, names, count)),
        ..Setup::default()
    }
}

fn add(directory: &mut Directory, names: &Names, count: usize) {
    for n in 0..count {
        let id =
            |head: &str| Uuid::parse_str(&format!("{head}-0000-4000-9000-{n:012}")).expect("an id");
        directory.service_principals.push(ServicePrincipal {
            name: name(n),
            object_id: id("5e41ce00"),
            client_id: id("c11e4700"),
            kind: ServicePrincipalKind::ManagedIdentity,
            resource_id: None,
            system_assigned: false,
            token_lifetime_seconds: None,
            secrets: Vec::new(),
            certificates: Vec::new(),
            federated_credentials: vec![FederatedCredential {
                issuer: "cluster".to_owned(),
                subject: format!("system:serviceaccount:{}:{}", names.team, name(n)),
                audience: "api://AzureADTokenExchange".to_owned(),
            }],
            imds: false,
        });
    }
}

/// Applies the service accounts of the identities.
pub async fn apply_accounts(world: &World, count: usize) -> Result<()> {
    for n in 0..count {
        let account = service_account(&world.names.team, &name(n), &client(n));
        world.apply(&account).await?;
    }
    Ok(())
}

/// The manifest of one principal of the fleet.
pub fn principal(world: &World, n: usize) -> Value {
    let mut object = world.principal(&name(n), &name(n), json!({"type": "ManagedIdentity"}));
    object["spec"]["token"] = json!({"identity": workload_identity(&name(n))});
    object
}

/// Waits until `count` principals are there and all are Ready for their present generation.
pub async fn all_ready(world: &World, count: usize, deadline: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        let objects = world.list("principal").await?;
        let waiting: Vec<String> = objects
            .iter()
            .filter(|object| {
                !condition(object, "Ready").is("True")
                    || !object["metadata"]["deletionTimestamp"].is_null()
            })
            .map(|object| {
                let ready = condition(object, "Ready");
                format!(
                    "{}: {} {}",
                    object["metadata"]["name"], ready.reason, ready.message
                )
            })
            .collect();
        if objects.len() == count && waiting.is_empty() {
            return Ok(());
        }
        if start.elapsed() > deadline {
            bail!(
                "{} principals, not {count}, or not Ready after {deadline:?}:\n{}\noperator's log:\n{}",
                objects.len(),
                waiting.join("\n"),
                world.log_tail()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
