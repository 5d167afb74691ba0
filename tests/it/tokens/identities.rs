//! Which identities may be used, and what is missing from those that cannot.

use anyhow::Result;
use lab::operator::ManagedIdentities;
use serde_json::json;

use super::{
    IMPORTER_CLIENT, IMPORTER_SECRET, NODE_CLIENT, NODE_ID, client_secret, expiry, federate,
    identity, importer, logged_in, quick, service, short_lived, untouched,
};
use crate::fixture::{API_CLIENT, Setup, World, condition, service_account, workload_identity};

// Red when: Settings::identity_allowed always says Ok.
#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_and_the_operators_identities_work_only_where_they_are_listed() -> Result<()> {
    let mut world = World::with(
        "listed",
        Setup {
            configuration: Box::new(|configuration, names| {
                configuration.managed_identities.push(ManagedIdentities {
                    namespaces: vec![names.team.clone()],
                    client_ids: vec![NODE_CLIENT.to_owned()],
                    ..ManagedIdentities::default()
                });
            }),
            operator: false,
            ..Setup::default()
        },
    )
    .await?;
    // The operator's own identity would be the node's, too.
    world
        .options
        .envs
        .push(("AZURE_CLIENT_ID".to_owned(), NODE_CLIENT.to_owned()));
    world.start_operator().await?;
    let mut node = world.principal("node", "lab-node", json!({"type": "ManagedIdentity"}));
    node["spec"]["token"] = json!({"identity": {"managedIdentity": {"objectId": NODE_ID}}});
    world.apply(&node).await?;

    let message = world
        .not_ready("principal", "node", "IdentityNotAllowed")
        .await?;
    assert!(
        message.contains("managedIdentities") && message.contains(&world.names.team),
        "{message}"
    );
    assert_eq!(world.token_requests(Some(NODE_CLIENT)), 0);
    untouched(&world, "lab-node", "node").await?;

    let listed = json!({"clientId": NODE_CLIENT, "objectId": null});
    world
        .patch(
            "principal",
            "node",
            &identity(json!({"managedIdentity": listed})),
        )
        .await?;
    world.ready("principal", "node").await?;
    assert_eq!(logged_in(&world, "node").await?, "lab-node");
    assert_eq!(world.token_requests(Some(NODE_CLIENT)), 1);
    Ok(())
}

// Red when: entra::resolve prefers one of two ids, or a Denied failure is tried again at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_not_complete_is_told_with_what_to_do() -> Result<()> {
    let world = World::start("incomplete").await?;
    let team = world.names.team.clone();
    let bare = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": team}});
    world.apply(&bare("bare")).await?;
    world
        .apply(&service_account(&team, "stranger", IMPORTER_CLIENT))
        .await?;
    world.ready("server", "server").await?;
    let both = json!({"workloadIdentity": {"serviceAccountRef": {"name": "orders-api"}, "clientId": API_CLIENT}});
    let subject = format!("system:serviceaccount:{team}:stranger");
    let cases = [
        (
            "missing",
            workload_identity("missing"),
            "ServiceAccountNotFound",
            format!("{team}/missing does not exist"),
        ),
        (
            "bare",
            workload_identity("bare"),
            "IdentityIncomplete",
            "azure.workload.identity/client-id".to_owned(),
        ),
        (
            "both",
            both,
            "IdentityIncomplete",
            "in two places".to_owned(),
        ),
        (
            "stranger",
            workload_identity("stranger"),
            "FederatedCredentialMissing",
            subject,
        ),
    ];
    for (name, identity, _, _) in &cases {
        let mut object = world.principal(name, name, json!({"type": "ServicePrincipal"}));
        object["spec"]["token"] = json!({"identity": identity});
        world.apply(&object).await?;
    }
    for (name, _, reason, words) in &cases {
        let message = world.not_ready("principal", name, reason).await?;
        assert!(message.contains(words.as_str()), "{name}: {message}");
        untouched(&world, name, name).await?;
    }
    assert_eq!(
        world.token_requests(Some(API_CLIENT)),
        0,
        "nothing is asked for a doubtful id"
    );
    assert_eq!(world.token_requests(Some(IMPORTER_CLIENT)), 1);
    // The id in one place only, and it works.
    let once = json!({"workloadIdentity": {"clientId": null}});
    world.patch("principal", "both", &identity(once)).await?;
    world.ready("principal", "both").await?;
    // A federated credential that was made afterwards is found without anybody touching the object.
    world
        .change_directory(|directory| federate(directory, IMPORTER_CLIENT, &team, "stranger"))
        .await?;
    world.ready("principal", "stranger").await?;
    assert!(
        world.token_requests(Some(IMPORTER_CLIENT)) <= 4,
        "{}",
        world.stats()
    );
    Ok(())
}

// Red when: the client secret is kept in memory between exchanges (entra::resolve::secret).
#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_is_read_at_each_exchange() -> Result<()> {
    let world = short_lived("client_secret", IMPORTER_CLIENT).await?;
    world
        .apply(&client_secret(&world, "nokey", json!({"other": "text"})))
        .await?;
    world
        .apply(&client_secret(
            &world,
            "wrong",
            json!({"secret": "mistaken"}),
        ))
        .await?;
    world.ready("server", "server").await?;
    for (name, role) in [
        ("none", "absent"),
        ("nokey", "nokey"),
        ("wrong", "orders-importer"),
    ] {
        let mut object = world.principal(name, role, json!({"type": "ServicePrincipal"}));
        object["spec"]["token"] = json!({
            "identity": importer(name), "renewBefore": "60s", "secret": {"name": format!("{name}-db")},
        });
        world.apply(&object).await?;
    }
    for (name, role, reason, words) in [
        (
            "none",
            "absent",
            "ClientSecretNotFound",
            "none does not exist: create it",
        ),
        ("nokey", "nokey", "ClientSecretNotFound", "key \"secret\""),
        (
            "wrong",
            "orders-importer",
            "ClientSecretInvalid",
            "not its id",
        ),
    ] {
        let message = world.not_ready("principal", name, reason).await?;
        assert!(
            message.contains(words) && !message.contains("mistaken"),
            "{name}: {message}"
        );
        untouched(&world, role, &format!("{name}-db")).await?;
    }
    assert_eq!(
        world.token_requests(Some(IMPORTER_CLIENT)),
        1,
        "a wrong secret is not tried again at once"
    );
    // Corrected, then rotated: each time the next exchange takes it up.
    world
        .apply(&client_secret(
            &world,
            "wrong",
            json!({"secret": IMPORTER_SECRET}),
        ))
        .await?;
    let object = world.ready("principal", "wrong").await?;
    assert_eq!(logged_in(&world, "wrong-db").await?, "orders-importer");
    world
        .apply(&client_secret(
            &world,
            "wrong",
            json!({"secret": "rotated~secret"}),
        ))
        .await?;
    world
        .change_directory(|directory| {
            service(directory, IMPORTER_CLIENT).secrets = vec!["rotated~secret".to_owned()];
        })
        .await?;
    world.delete("secret", "wrong-db").await?;
    let first = expiry(&object);
    world
        .wait("principal", "wrong", "renewed", |o| {
            expiry(o) > first && condition(o, "Ready").is("True")
        })
        .await?;
    assert_eq!(logged_in(&world, "wrong-db").await?, "orders-importer");
    Ok(())
}

// Red when: FlightKey leaves out the namespace and source of an identity.
#[tokio::test(flavor = "multi_thread")]
async fn who_names_the_client_id_of_another_namespace_gets_nothing() -> Result<()> {
    let world = World::with(
        "neighbours",
        Setup {
            directory: Box::new(|directory, _| {
                service(directory, API_CLIENT).token_lifetime_seconds = Some(63);
            }),
            server: Some(Box::new(|server| {
                server["spec"]["tenants"][0]["namespaces"] = json!({"selector": {}});
            })),
            ..Setup::default()
        },
    )
    .await?;
    let other = world.names.other.clone();
    world
        .apply(&service_account(&other, "orders-api", API_CLIENT))
        .await?;
    // Exchanges take long enough to be shared, if anybody would.
    world
        .faults(json!([{"on": "token", "do": {"delayMs": 300}}]))
        .await?;
    world.apply(&quick(&world)).await?;
    world.ready("principal", "api").await?;
    let mut thief = world.principal("thief", "thief", json!({"type": "Group"}));
    thief["metadata"]["namespace"] = json!(other);
    let mut borrowed = thief.clone();
    thief["spec"]["roleName"] = json!("Prod DB Readonly");
    thief["spec"]["token"] = json!({"identity": workload_identity("orders-api")});
    borrowed["metadata"]["name"] = json!("borrowed");
    borrowed["spec"]["roleName"] = json!("borrowed");
    borrowed["spec"]["principal"] = json!({"type": "ServicePrincipal"});
    borrowed["spec"]["token"] = json!({"identity": importer("importer")});
    world
        .apply(&client_secret(
            &world,
            "importer",
            json!({"secret": IMPORTER_SECRET}),
        ))
        .await?;
    world.apply(&thief).await?;
    world.apply(&borrowed).await?;
    let message = world
        .not_ready("other-principal", "thief", "FederatedCredentialMissing")
        .await?;
    assert!(
        message.contains(&format!("system:serviceaccount:{other}:orders-api")),
        "{message}"
    );
    let message = world
        .not_ready("other-principal", "borrowed", "ClientSecretNotFound")
        .await?;
    assert!(message.contains(&format!("{other}/importer")), "{message}");
    assert_eq!(world.token_requests(Some(IMPORTER_CLIENT)), 0);
    // The team's token is renewed meanwhile; nothing of it reaches the other namespace.
    let first = expiry(&world.ready("principal", "api").await?);
    world
        .wait("principal", "api", "renewed", |o| expiry(o) > first)
        .await?;
    assert_eq!(world.get("other-secret", "thief").await?, None);
    assert_eq!(world.get("other-secret", "borrowed").await?, None);
    world
        .not_ready("other-principal", "thief", "FederatedCredentialMissing")
        .await?;
    Ok(())
}
