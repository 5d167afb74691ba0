//! Identities that were deleted and made again under their name: noticed, and never bound in silence.

use anyhow::Result;
use lab::directory::{Directory, ServicePrincipal};
use serde_json::json;

use crate::fixture::{API_ID, SOON, Setup, World, condition, service_account};

use super::{READONLY_ID, claim};

const NEW_API_ID: &str = "5e41ce00-0000-4000-8000-0000000000f2";
const NEW_API_CLIENT: &str = "c11e4700-0000-4000-8000-0000000000f2";
const NEW_READONLY_ID: &str = "9409b000-0000-4000-8000-0000000000f1";

fn api_of(directory: &mut Directory) -> &mut ServicePrincipal {
    let mut all = directory.service_principals.iter_mut();
    all.find(|service| service.name == "orders-api")
        .expect("it is there")
}

fn made_again(directory: &mut Directory) {
    let api = api_of(directory);
    api.object_id = NEW_API_ID.parse().expect("a GUID");
    api.client_id = NEW_API_CLIENT.parse().expect("a GUID");
}

// Red when: check() in model/publish.rs does not compare the ids (the new token is published), or keep()
// in model/plan takes the token's id (the role is bound anew without consent).
#[tokio::test(flavor = "multi_thread")]
async fn a_managed_identity_made_again_keeps_its_old_token_until_there_is_consent() -> Result<()> {
    let world = World::with(
        "made_again",
        Setup {
            directory: Box::new(|directory, _| {
                api_of(directory).token_lifetime_seconds = Some(600);
            }),
            ..Setup::default()
        },
    )
    .await?;
    let mut api = world.api();
    api["spec"]["token"]["renewBefore"] = json!("596s");
    world.apply(&api).await?;
    world.ready("principal", "api").await?;

    let since = std::time::Instant::now();
    world.change_directory(made_again).await?;
    let account = service_account(&world.names.team, "orders-api", NEW_API_CLIENT);
    world.apply(&account).await?;
    let said = world
        .not_ready("principal", "api", "ObjectIdMismatch")
        .await?;
    assert!(said.contains(NEW_API_ID) && said.contains(API_ID), "{said}");
    assert!(
        said.contains(&format!("Set principal.objectId: {NEW_API_ID}")),
        "{said}"
    );
    assert!(said.contains("is good until"), "the old one stays: {said}");
    let object = world.get("principal", "api").await?.unwrap_or_default();
    assert!(condition(&object, "RoleSynced").is("True"), "{object:#}");
    assert_eq!(object["status"]["role"]["objectId"], API_ID);
    let secret = world.secret("api").await?;
    assert_eq!(claim(&secret["password"], "oid").as_deref(), Some(API_ID));
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));
    let asked = world.token_requests(Some(NEW_API_CLIENT));
    // A refusal rests for ten seconds and more.
    assert!(
        asked <= 2 + since.elapsed().as_secs() / 7,
        "it asks for that token again and again: {asked}"
    );

    let consent = json!({"spec": {"principal": {"objectId": NEW_API_ID}}});
    world.patch("principal", "api", &consent).await?;
    let object = world
        .wait_for("principal", "api", "bound anew", SOON, |object| {
            condition(object, "Ready").is("True")
                && object["status"]["role"]["objectId"] == NEW_API_ID
        })
        .await?;
    assert!(
        object["status"]["token"]["failures"].is_null(),
        "{object:#}"
    );
    assert_eq!(
        world.bound_to("orders-api").await?.as_deref(),
        Some(NEW_API_ID)
    );
    let secret = world.secret("api").await?;
    assert_eq!(
        claim(&secret["password"], "oid").as_deref(),
        Some(NEW_API_ID)
    );
    let user = world
        .login("orders-api", &secret["password"], "postgres")
        .await?;
    assert_eq!(user, "orders-api");
    Ok(())
}

// Red when: role_work() in model/plan does not take the recorded id for a role that is made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_made_again_does_not_get_the_old_ones_role() -> Result<()> {
    let world = World::start("group_again").await?;
    let group = world.principal("readers", "Prod DB Readonly", json!({"type": "Group"}));
    world.apply(&group).await?;
    world.ready("principal", "readers").await?;
    world
        .change_directory(|directory| {
            let group = directory
                .groups
                .iter_mut()
                .find(|group| group.name == "Prod DB Readonly");
            group.expect("it is there").object_id = NEW_READONLY_ID.parse().expect("a GUID");
        })
        .await?;
    // By name the server would now make a role of the new group.
    world.sql("DROP ROLE \"Prod DB Readonly\"").await?;
    let said = world
        .not_ready("principal", "readers", "PrincipalNotFound")
        .await?;
    assert!(said.contains(READONLY_ID), "{said}");
    assert_eq!(world.bound_to("Prod DB Readonly").await?, None);
    let object = world.get("principal", "readers").await?.unwrap_or_default();
    assert_eq!(object["status"]["role"]["objectId"], READONLY_ID);

    let consent = json!({"spec": {"principal": {"objectId": NEW_READONLY_ID}}});
    world.patch("principal", "readers", &consent).await?;
    world.ready("principal", "readers").await?;
    let bound = world.bound_to("Prod DB Readonly").await?;
    assert_eq!(bound.as_deref(), Some(NEW_READONLY_ID));
    Ok(())
}
