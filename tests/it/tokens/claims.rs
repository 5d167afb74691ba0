//! What the token itself says: only the principal's own is written, and never an administrator's.

use std::time::Instant;

use anyhow::Result;
use lab::directory::Group;
use serde_json::{Value, json};

use super::{BATCH_CLIENT, federate, identity, logged_in, quick, short_lived, untouched};
use crate::fixture::{
    ADMIN_CLIENT, API_CLIENT, API_ID, REPORTS_CLIENT, REPORTS_ID, Setup, TENANT, World, condition,
    service_account, workload_identity,
};

// Red when: Worker::publish leaves catalog.operators empty (group-own), or model::publish::check
// does not look at `holder.admin` (group-batch).
#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_an_administrator_is_never_written() -> Result<()> {
    let world = World::with(
        "admins",
        Setup {
            directory: Box::new(|directory, _| {
                directory.administrators.push("orders-batch".to_owned());
                directory.groups.push(Group {
                    name: "Second".to_owned(),
                    object_id: "9409b000-0000-4000-8000-0000000000aa"
                        .parse()
                        .expect("a GUID"),
                    members: Vec::new(),
                });
            }),
            ..Setup::default()
        },
    )
    .await?;
    let team = world.names.team.clone();
    // Our own administrator's identity is no administrator by itself: it is in the group that is.
    world
        .change_directory(|directory| {
            federate(directory, ADMIN_CLIENT, &team, "own");
        })
        .await?;
    for (name, client) in [("own", ADMIN_CLIENT), ("orders-batch", BATCH_CLIENT)] {
        world.apply(&service_account(&team, name, client)).await?;
    }
    world.ready("server", "server").await?;
    let group = json!({"type": "Group"});
    let with_id = json!({"type": "ManagedIdentity", "objectId": API_ID});
    for (name, role, principal, account, reason) in [
        (
            "group-own",
            "Prod DB Readonly",
            &group,
            "own",
            "TokenOfAdministrator",
        ),
        (
            "group-batch",
            "Second",
            &group,
            "orders-batch",
            "TokenOfAdministrator",
        ),
        ("api", "orders-api", &with_id, "own", "TokenOfAdministrator"),
        (
            "plain",
            "plain",
            &json!({"type": "ManagedIdentity"}),
            "own",
            "IdentityInUse",
        ),
    ] {
        let mut object = world.principal(name, role, principal.clone());
        object["spec"]["token"] = json!({"identity": workload_identity(account)});
        world.apply(&object).await?;
        let message = world.not_ready("principal", name, reason).await?;
        assert!(message.contains("administrator"), "{name}: {message}");
        assert!(
            message.contains("5e41ce00-0000-4000-8000-00000000000"),
            "{name}: {message}"
        );
        assert_eq!(world.get("secret", name).await?, None, "{name}");
    }
    untouched(&world, "plain", "plain").await?;
    // The right identity wakes the object; the others are still refused, and asked for slowly.
    world
        .patch(
            "principal",
            "api",
            &identity(workload_identity("orders-api")),
        )
        .await?;
    world.ready("principal", "api").await?;
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    assert!(
        world.token_requests(Some(BATCH_CLIENT)) <= 2,
        "{}",
        world.stats()
    );
    Ok(())
}

// Red when: execute::exchange does not ask model::publish::check_identity: no session knows the object id
// of an administrator as which nobody had to sign in, and the server knows the group only.
#[tokio::test(flavor = "multi_thread")]
async fn the_identity_of_an_administrator_that_was_never_needed_is_refused_unasked() -> Result<()> {
    let setup = Setup {
        server: Some(Box::new(|server| {
            let secret = json!({"tenantId": TENANT, "clientId": BATCH_CLIENT, "secretRef": {"name": "spare", "key": "secret"}});
            let spare = json!({"roleName": "pg-spare", "identity": {"clientSecret": secret}});
            server["spec"]["admins"]
                .as_array_mut()
                .expect("a list")
                .push(spare);
        })),
        ..Setup::default()
    };
    let world = World::with("spare_admin", setup).await?;
    let team = world.names.team.clone();
    world
        .change_directory(|directory| federate(directory, BATCH_CLIENT, &team, "batch"))
        .await?;
    world
        .apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "batch", "namespace": team}}))
        .await?;
    world.ready("server", "server").await?;
    let mut object = world.principal("group", "Prod DB Readonly", json!({"type": "Group"}));
    let workload = json!({"serviceAccountRef": {"name": "batch"}, "clientId": BATCH_CLIENT, "tenantId": TENANT});
    object["spec"]["token"] =
        json!({"identity": {"workloadIdentity": workload}, "verifyLogin": "Never"});
    world.apply(&object).await?;
    let message = world
        .not_ready("principal", "group", "TokenOfAdministrator")
        .await?;
    assert!(message.contains("\"pg-spare\""), "{message}");
    assert_eq!(world.get("secret", "group").await?, None);
    assert_eq!(world.token_requests(Some(BATCH_CLIENT)), 0);
    Ok(())
}

// Red when: entra::claims::check leaves out aud, tid or exp; model::publish::check the object id.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_others_or_that_has_ended_is_not_used() -> Result<()> {
    let world = World::start("claims").await?;
    world.ready("server", "server").await?;
    for (claims, words) in [
        (
            json!({"aud": "https://management.azure.com"}),
            "another audience",
        ),
        (
            json!({"tid": "22222222-2222-4222-8222-222222222222"}),
            "another tenant",
        ),
        (json!({"exp": 1_000_000_000}), "already ended"),
        (json!({"oid": null}), "lacks one of the claims"),
    ] {
        let before = world.token_requests(Some(API_CLIENT));
        world.faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": {"claims": claims}}])).await?;
        world.apply(&world.api()).await?;
        let message = world.not_ready("principal", "api", "TokenInvalid").await?;
        assert!(
            message.contains(words) && message.contains("orders-api"),
            "{message}"
        );
        assert!(message.contains("not used"), "{message}");
        assert!(
            world.token_requests(Some(API_CLIENT)) - before <= 2,
            "{}",
            world.stats()
        );
        untouched(&world, "orders-api", "api").await?;
        world.delete("principal", "api").await?;
        world
            .wait("principal", "api", "gone", Value::is_null)
            .await?;
    }
    world.faults(json!([])).await?;
    // Another identity than the role's: the role is made, the Secret is not.
    let mut object = world.principal(
        "api",
        "orders-api",
        json!({"type": "ManagedIdentity", "objectId": API_ID}),
    );
    object["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
    let since = Instant::now();
    world.apply(&object).await?;
    let message = world
        .not_ready("principal", "api", "TokenOfAnother")
        .await?;
    assert!(
        message.contains(REPORTS_ID) && message.contains(API_ID),
        "{message}"
    );
    assert!(message.contains("token.identity must be"), "{message}");
    assert_eq!(world.get("secret", "api").await?, None);
    assert!(world.token_requests(Some(REPORTS_CLIENT)) <= World::tries_since(since));
    world
        .patch(
            "principal",
            "api",
            &identity(workload_identity("orders-api")),
        )
        .await?;
    world.ready("principal", "api").await?;
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    Ok(())
}

// Red when: Task::run renews without target.check, or report::principal forgets the living token.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_brings_a_wrong_token_leaves_the_good_one() -> Result<()> {
    let world = short_lived("wrong_renewal", API_CLIENT).await?;
    world.apply(&quick(&world)).await?;
    world.ready("principal", "api").await?;
    let cases = [
        (
            json!({"aud": "https://management.azure.com"}),
            "TokenInvalid",
        ),
        (json!({"oid": REPORTS_ID}), "TokenOfAnother"),
        (
            json!({"oid": "5e41ce00-0000-4000-8000-000000000001"}),
            "TokenOfAdministrator",
        ),
    ];
    for (nth, (claims, reason)) in cases.into_iter().enumerate() {
        world.faults(json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": {"claims": claims}}])).await?;
        let object = world
            .wait("principal", "api", reason, |o| {
                condition(o, "TokenIssued").reason == reason
            })
            .await?;
        let (requests, since) = (world.token_requests(Some(API_CLIENT)), Instant::now());
        let issued = condition(&object, "TokenIssued");
        assert_eq!(issued.status, "False", "{issued:?}");
        assert!(issued.message.contains("is good until"), "{issued:?}");
        assert_eq!(
            logged_in(&world, "api").await?,
            "orders-api",
            "the old token stays"
        );
        let more = world.token_requests(Some(API_CLIENT)) - requests;
        assert!(more < World::tries_since(since), "{more} more");
        world.faults(json!([])).await?;
        // A changed object is looked at at once.
        let before = format!("{}s", 59 - nth);
        world
            .patch(
                "principal",
                "api",
                &json!({"spec": {"token": {"renewBefore": before}}}),
            )
            .await?;
        world.ready("principal", "api").await?;
    }
    Ok(())
}
