//! The node's managed identities, by each of their ids and without one; and an IMDS that is away,
//! slow, being updated or upgraded, or throttles.

use anyhow::Result;
use lab::operator::ManagedIdentities;
use serde_json::{Value, json};

use super::{NODE_CLIENT, logged_in, service, untouched};
use crate::fixture::{
    ADMIN_CLIENT, API_CLIENT, REPORTS_CLIENT, REPORTS_ID, Setup, World, condition,
};

const USER_ASSIGNED: &str = "/subscriptions/00000000-0000-4000-8000-000000000000/resourceGroups/lab/providers/Microsoft.ManagedIdentity/userAssignedIdentities/orders-api";

/// The node has three identities, and the team may use them all.
async fn node(test: &str) -> Result<World> {
    World::with(
        test,
        Setup {
            directory: Box::new(|directory, _| {
                for client in [API_CLIENT, REPORTS_CLIENT] {
                    service(directory, client).imds = true;
                }
            }),
            configuration: Box::new(|configuration, names| {
                configuration.managed_identities.push(ManagedIdentities {
                    namespaces: vec![names.team.clone()],
                    client_ids: vec![NODE_CLIENT.to_owned()],
                    object_ids: vec![REPORTS_ID.to_owned()],
                    resource_ids: vec![USER_ASSIGNED.to_owned()],
                    system_assigned: true,
                });
            }),
            ..Setup::default()
        },
    )
    .await
}

#[expect(clippy::needless_pass_by_value, reason = "callers give literals")]
fn principal(world: &World, name: &str, role: &str, identity: Value) -> Value {
    let mut object = world.principal(name, role, json!({"type": "ManagedIdentity"}));
    object["spec"]["token"] = json!({"identity": {"managedIdentity": identity}});
    object
}

// Red when: entra::resolve::managed mixes the ids up, or gives a node without an id one.
#[tokio::test(flavor = "multi_thread")]
async fn each_identity_of_the_node_is_found_by_its_id_and_its_own_without_one() -> Result<()> {
    let world = node("imds_ids").await?;
    for (role, identity) in [
        ("orders-api", json!({"resourceId": USER_ASSIGNED})),
        ("orders-reports", json!({"objectId": REPORTS_ID})),
        ("lab-node", json!({})),
    ] {
        world
            .apply(&principal(&world, role, role, identity))
            .await?;
        world.ready("principal", role).await?;
        assert_eq!(logged_in(&world, role).await?, role);
    }
    assert_eq!(world.token_requests(Some(NODE_CLIENT)), 1);
    // By its client id it is the same one.
    world
        .patch(
            "principal",
            "lab-node",
            &json!({"spec": {"token": {"identity": {
            "managedIdentity": {"clientId": NODE_CLIENT}}}}}),
        )
        .await?;
    world.ready("principal", "lab-node").await?;
    assert_eq!(logged_in(&world, "lab-node").await?, "lab-node");
    Ok(())
}

// Red when: entra::claims::check does not look at xms_mirid: IMDS gives the only identity there is.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_system_assigned_identity_no_other_is_taken_for_it() -> Result<()> {
    let world = node("imds_system").await?;
    world.ready("server", "server").await?;
    world
        .change_directory(|directory| {
            service(directory, NODE_CLIENT).imds = false;
            service(directory, REPORTS_CLIENT).imds = false;
        })
        .await?;
    world
        .apply(&principal(&world, "api", "orders-api", json!({})))
        .await?;
    let message = world
        .not_ready("principal", "api", "IdentityNotAssigned")
        .await?;
    assert!(message.contains("no system-assigned identity"), "{message}");
    untouched(&world, "orders-api", "api").await?;
    // Several, and IMDS itself refuses to choose.
    world
        .change_directory(|directory| service(directory, REPORTS_CLIENT).imds = true)
        .await?;
    world
        .apply(&principal(&world, "reports", "orders-reports", json!({})))
        .await?;
    let message = world
        .not_ready("principal", "reports", "IdentityNotAssigned")
        .await?;
    assert!(message.contains("switch the system-assigned"), "{message}");
    untouched(&world, "orders-reports", "reports").await
}

/// Takes the object away with its Secret, without waiting for the garbage collector.
async fn forget(world: &World) -> Result<()> {
    world.delete("principal", "node").await?;
    world
        .wait("principal", "node", "gone", Value::is_null)
        .await?;
    // Perhaps it is collected already.
    let _ = world.delete("secret", "node").await;
    world.wait("secret", "node", "gone", Value::is_null).await?;
    Ok(())
}

// Red when: entra::error::refused_by_imds takes one of these answers for a refusal, which is tried
// again after ten seconds at the earliest.
#[tokio::test(flavor = "multi_thread")]
async fn what_imds_answers_while_it_cannot_serve_passes() -> Result<()> {
    let world = node("imds_faults").await?;
    world.ready("server", "server").await?;
    for (nth, (fault, reason, words)) in [
        (json!({"status": 404}), "EntraUnavailable", "status 404"),
        (json!({"status": 500}), "EntraUnavailable", "status 500"),
        (json!({"refuse": true}), "EntraUnavailable", "Azure node"),
        (
            json!({"garbage": true}),
            "EntraUnavailable",
            "cannot be read",
        ),
        (json!({"status": 429}), "EntraThrottled", "slow down"),
    ]
    .into_iter()
    .enumerate()
    {
        world.faults(json!([{"on": "imds", "do": fault}])).await?;
        let before = world.token_requests(None);
        world
            .apply(&principal(
                &world,
                "node",
                "lab-node",
                json!({"clientId": NODE_CLIENT}),
            ))
            .await?;
        let message = world.not_ready("principal", "node", reason).await?;
        assert!(message.contains(words), "{nth}: {message}");
        assert!(
            message.contains("IMDS at http://127.0.0.1"),
            "{nth}: {message}"
        );
        assert!(
            world.token_requests(None) - before <= 4,
            "{}",
            world.stats()
        );
        world.faults(json!([])).await?;
        world.ready("principal", "node").await?;
        assert_eq!(logged_in(&world, "node").await?, "lab-node");
        forget(&world).await?;
    }
    // Slow is not away.
    world
        .faults(json!([{"on": "imds", "do": {"delayMs": 4000}}]))
        .await?;
    world
        .apply(&principal(
            &world,
            "node",
            "lab-node",
            json!({"clientId": NODE_CLIENT}),
        ))
        .await?;
    world.ready("principal", "node").await?;
    forget(&world).await?;
    // Upgraded: who was told so waits for up to 70 s; a request for another one probes before that.
    world
        .faults(json!([{"on": "imds", "do": {"status": 410}, "times": 1}]))
        .await?;
    let before = world.token_requests(None);
    world
        .apply(&principal(
            &world,
            "node",
            "lab-node",
            json!({"clientId": NODE_CLIENT}),
        ))
        .await?;
    let message = world
        .not_ready("principal", "node", "EntraUnavailable")
        .await?;
    assert!(message.contains("status 410"), "{message}");
    world
        .apply(&principal(
            &world,
            "other",
            "orders-api",
            json!({"resourceId": USER_ASSIGNED}),
        ))
        .await?;
    world.ready("principal", "other").await?;
    let node = world.get("principal", "node").await?.unwrap_or_default();
    assert!(!condition(&node, "Ready").is("True"), "{node:#}");
    assert_eq!(world.token_requests(None), before + 2, "{}", world.stats());
    Ok(())
}

// Red when: entra::resolve::own asks for more than AZURE_CLIENT_ID, or the token endpoint is asked.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_itself_may_be_a_managed_identity_of_the_node() -> Result<()> {
    let mut world = World::with(
        "imds_operator",
        Setup {
            directory: Box::new(|directory, _| {
                let own = service(directory, ADMIN_CLIENT);
                own.imds = true;
                own.federated_credentials.clear();
            }),
            configuration: Box::new(|configuration, names| {
                configuration.operator_identity_namespaces = Some(vec![names.platform.clone()]);
            }),
            server: Some(Box::new(|server| {
                server["spec"]["admins"][0]["identity"] = json!({"operator": {}});
            })),
            operator: false,
            ..Setup::default()
        },
    )
    .await?;
    let own = ("AZURE_CLIENT_ID".to_owned(), ADMIN_CLIENT.to_owned());
    world.options.envs.push(own);
    world.start_operator().await?;
    world.ready("server", "server").await?;
    let asked = r#"entra_postgres_entra_requests_total{kind="imds",outcome="ok"}"#;
    assert!(world.metric(asked).await? >= 1);
    let asked = r#"entra_postgres_entra_requests_total{kind="token""#;
    assert_eq!(world.metric(asked).await?, 0);
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}
