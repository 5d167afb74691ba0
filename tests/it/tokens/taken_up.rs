//! What proves an identity changes: seen by itself, however long a refusal has lasted.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    BATCH_CLIENT, IMPORTER_CLIENT, IMPORTER_SECRET, client_secret, importer, logged_in, quick,
    service,
};
use crate::fixture::{API_CLIENT, Setup, TENANT, World, condition, service_account};

/// After that many refusals the next attempt is at least thirty-two seconds away.
const REFUSALS: u64 = 3;
/// The third attempt comes sooner.
const LONG: Duration = Duration::from_secs(60);
const BATCH_SECRET: &str = "the-lab-has-no-real-secrets~batch";
const BATCH_ID: &str = "5e41ce00-0000-4000-8000-000000000005";

// Red when: principal::proof::looked_at or server::proven_anew looks away: the next attempt is then
// forty seconds away, or more.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_secret_is_taken_up_within_thirty_seconds() -> Result<()> {
    let world = World::with(
        "corrected",
        Setup {
            directory: Box::new(|directory, _| {
                service(directory, BATCH_CLIENT).secrets = vec![BATCH_SECRET.to_owned()];
                let id = BATCH_ID.parse().expect("a GUID");
                for group in &mut directory.groups {
                    if group.name == "pg-operators" {
                        group.members.push(id);
                    }
                }
            }),
            ..Setup::default()
        },
    )
    .await?;
    let wrong = client_secret(&world, "importer", json!({"secret": "mistaken"}));
    let mut wrong_admin = client_secret(&world, "admin", json!({"secret": "mistaken"}));
    wrong_admin["metadata"]["namespace"] = json!(world.names.platform);
    world.apply(&wrong).await?;
    world.apply(&wrong_admin).await?;
    let mut object = world.principal(
        "importer",
        "orders-importer",
        json!({"type": "ServicePrincipal"}),
    );
    object["spec"]["token"] = json!({
        "identity": importer("importer"), "secret": {"name": "importer-db"},
    });
    world.ready("server", "server").await?;
    world.apply(&object).await?;
    let mut second = world.server("second")?;
    second["spec"]["admins"][0]["identity"] = json!({"clientSecret": {
        "tenantId": TENANT, "clientId": BATCH_CLIENT,
        "secretRef": {"name": "admin", "key": "secret"},
    }});
    world.apply(&second).await?;
    world
        .not_ready("principal", "importer", "ClientSecretInvalid")
        .await?;
    world
        .not_ready("server", "second", "ClientSecretInvalid")
        .await?;
    // Each is corrected right after a refusal that is followed by a rest of more than thirty seconds.
    let principal = async {
        refused(&world, IMPORTER_CLIENT, REFUSALS).await?;
        let mut right = wrong;
        right["stringData"] = json!({"secret": IMPORTER_SECRET});
        world.apply(&right).await?;
        world.ready("principal", "importer").await?;
        let asked = world.token_requests(Some(IMPORTER_CLIENT));
        assert_eq!(asked, REFUSALS + 1, "once, with what is right");
        assert_eq!(logged_in(&world, "importer-db").await?, "orders-importer");
        anyhow::Ok(())
    };
    let administrator = async {
        refused(&world, BATCH_CLIENT, REFUSALS).await?;
        let mut right = wrong_admin;
        right["stringData"] = json!({"secret": BATCH_SECRET});
        world.apply(&right).await?;
        world.ready("server", "second").await?;
        anyhow::Ok(())
    };
    tokio::try_join!(principal, administrator)?;
    Ok(())
}

/// Waits until a client was refused so often.
async fn refused(world: &World, client: &str, times: u64) -> Result<()> {
    let start = std::time::Instant::now();
    while world.token_requests(Some(client)) < times {
        anyhow::ensure!(start.elapsed() < LONG, "{}", world.stats());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

// Red when: the operator keeps a token of the account that is gone, or waits for a change of the
// principal.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_that_is_deleted_and_made_again_goes_on() -> Result<()> {
    let world = super::short_lived("account", API_CLIENT).await?;
    world.apply(&quick(&world)).await?;
    world.ready("principal", "api").await?;
    let uid = |account: &Value| account["metadata"]["uid"].as_str().map(str::to_owned);
    let before = world.get("serviceaccount", "orders-api").await?;
    let before = before.as_ref().and_then(uid);
    world.delete("serviceaccount", "orders-api").await?;
    let object = world
        .wait("principal", "api", "without its account", |object| {
            condition(object, "TokenIssued").reason == "ServiceAccountNotFound"
        })
        .await?;
    let message = condition(&object, "TokenIssued").message;
    assert!(message.contains("is good until"), "{message}");
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    world
        .apply(&service_account(
            &world.names.team,
            "orders-api",
            API_CLIENT,
        ))
        .await?;
    world.ready("principal", "api").await?;
    let after = world.get("serviceaccount", "orders-api").await?;
    assert_ne!(before, after.as_ref().and_then(uid));
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}
