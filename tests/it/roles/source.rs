//! The object id from a `ConfigMap`: used at first, and followed by consent.

use anyhow::Result;
use serde_json::json;

use crate::fixture::World;

use super::{BATCH_ID, IMPORTER_ID, listed};

async fn write(world: &World, data: &serde_json::Value) -> Result<()> {
    world
        .apply(
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": "identity", "namespace": world.names.team}}),
        )
        .await
}

async fn look(world: &World, n: u32) -> Result<()> {
    let annotations = json!({"entrapostgres.io/reconcile": n.to_string()});
    let patch = json!({"metadata": {"annotations": annotations}});
    world.patch("principal", "importer", &patch).await
}

// Red when: declared() in model/plan/consent.rs follows the ConfigMap without consent, or not at all; or
// observe() does not read it.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_id_is_read_at_first_and_followed_by_consent() -> Result<()> {
    let world = World::start("source").await?;
    let from = json!({"configMapKeyRef": {"name": "identity", "key": "principalId"}});
    let principal = json!({"type": "ServicePrincipal", "objectIdFrom": from});
    // Under a name that the directory does not know: only the id can say who it is.
    world
        .apply(&world.principal("importer", "nightly", principal))
        .await?;
    let said = world
        .not_ready("principal", "importer", "ObjectIdNotFound")
        .await?;
    assert!(said.contains("/identity does not exist"), "{said}");
    write(&world, &json!({"other": IMPORTER_ID})).await?;
    look(&world, 1).await?;
    world
        .wait("principal", "importer", "says which key", |object| {
            crate::fixture::condition(object, "Ready")
                .message
                .contains("has no key \"principalId\"")
        })
        .await?;
    write(&world, &json!({"principalId": "importer"})).await?;
    look(&world, 2).await?;
    world
        .wait("principal", "importer", "says what is wrong", |object| {
            crate::fixture::condition(object, "Ready")
                .message
                .contains("is no object id")
        })
        .await?;
    write(&world, &json!({"principalId": IMPORTER_ID})).await?;
    look(&world, 3).await?;
    world.ready("principal", "importer").await?;
    assert_eq!(
        listed(&world, "nightly").await?,
        Some(format!("service {IMPORTER_ID} 0 0"))
    );

    write(&world, &json!({"principalId": BATCH_ID})).await?;
    look(&world, 4).await?;
    let said = world
        .not_ready("principal", "importer", "ObjectIdMismatch")
        .await?;
    let consent = format!("entrapostgres.io/rebind: {BATCH_ID}");
    for words in ["/identity", IMPORTER_ID, BATCH_ID, &consent] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(
        world.bound_to("nightly").await?.as_deref(),
        Some(IMPORTER_ID)
    );
    let consent = |id: &str| json!({"metadata": {"annotations": {"entrapostgres.io/rebind": id}}});
    world
        .patch(
            "principal",
            "importer",
            &consent("5e41ce00-0000-4000-8000-000000000006"),
        )
        .await?;
    world
        .not_ready("principal", "importer", "ObjectIdMismatch")
        .await?;
    assert_eq!(
        world.bound_to("nightly").await?.as_deref(),
        Some(IMPORTER_ID)
    );
    // The rest is kept as declared meanwhile; when that is done, the annotation has been seen.
    world
        .sql("SECURITY LABEL FOR pgaadauth ON ROLE nightly IS NULL")
        .await?;
    let there = "SELECT p.oid FROM pgaadauth_list_principals(false) AS p(name, kind, oid) WHERE p.name = 'nightly'";
    world.wait_sql(there, Some(IMPORTER_ID)).await?;

    world
        .patch("principal", "importer", &consent(BATCH_ID))
        .await?;
    let object = world.ready("principal", "importer").await?;
    assert_eq!(object["status"]["role"]["objectId"], BATCH_ID);
    assert_eq!(world.bound_to("nightly").await?.as_deref(), Some(BATCH_ID));

    // A source that is gone is reported and takes nothing away.
    write(&world, &json!({})).await?;
    look(&world, 5).await?;
    world
        .not_ready("principal", "importer", "ObjectIdNotFound")
        .await?;
    assert_eq!(world.bound_to("nightly").await?.as_deref(), Some(BATCH_ID));
    Ok(())
}
