//! The Secret: whose it is, what becomes of changes by hand, and when it goes.

mod formats;
mod readers;
mod safety;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use kube::api::{Api, DeleteParams, PropagationPolicy};
use serde_json::{Value, json};

use crate::fixture::{
    API_CLIENT, API_ID, REPORTS_CLIENT, World, condition, plane, workload_identity,
};

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The garbage collector of a young cluster learns of new kinds every 30 s.
const COLLECTED: Duration = Duration::from_secs(90);

// Red when: plan::token_work does not compare the controller (the Secret is overwritten), or
// execute::first_token asks before it looks at the Secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_not_ours_is_never_touched_and_costs_no_token() -> Result<()> {
    let world = World::start("foreign").await?;
    let foreign = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "api", "namespace": world.names.team}, "stringData": {"password": "theirs"}});
    // The second looks like one of ours.
    let mut alike = foreign.clone();
    alike["metadata"]["name"] = json!("readonly");
    alike["metadata"]["labels"] = json!({MANAGED_BY: "entra-postgres-operator"});
    world.apply(&foreign).await?;
    world.apply(&alike).await?;
    let before = (
        world.get("secret", "api").await?,
        world.get("secret", "readonly").await?,
    );
    world.apply(&world.api()).await?;
    world.apply(&readonly(&world)).await?;
    for name in ["api", "readonly"] {
        let message = world.not_ready("principal", name, "SecretNotOurs").await?;
        assert!(
            message.contains(&format!("Secret {}/{name}", world.names.team)),
            "{message}"
        );
        assert!(
            message.contains("not touched") && message.contains("token.secret.name"),
            "{message}"
        );
    }
    assert_eq!(
        (
            world.token_requests(Some(API_CLIENT)),
            world.token_requests(Some(REPORTS_CLIENT))
        ),
        (0, 0)
    );
    assert_eq!(
        (
            world.get("secret", "api").await?,
            world.get("secret", "readonly").await?
        ),
        before
    );
    world.delete("secret", "api").await?;
    world.delete("secret", "readonly").await?;
    world.ready("principal", "api").await?;
    world.ready("principal", "readonly").await?;
    assert_eq!(
        (
            world.token_requests(Some(API_CLIENT)),
            world.token_requests(Some(REPORTS_CLIENT))
        ),
        (1, 1)
    );
    Ok(())
}

// Red when: Index::remove_secret wakes nobody, or apply_secret does not compare the controller.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_objects_for_one_secret_one_has_it_until_it_goes() -> Result<()> {
    let world = World::start("two_for_one").await?;
    let mut first = world.api();
    first["spec"]["token"]["secret"] = json!({"name": "shared"});
    world.apply(&first).await?;
    world.ready("principal", "api").await?;
    let mut second = readonly(&world);
    second["spec"]["token"]["secret"] = json!({"name": "shared"});
    world.apply(&second).await?;
    let message = world
        .not_ready("principal", "readonly", "SecretNotOurs")
        .await?;
    assert!(
        message.contains("it belongs to EntraPostgresPrincipal api"),
        "{message}"
    );
    assert_eq!(world.secret("shared").await?["username"], "orders-api");
    assert_eq!(world.token_requests(Some(REPORTS_CLIENT)), 0);
    world.delete("principal", "api").await?;
    world
        .wait_for("principal", "readonly", "has the Secret", COLLECTED, |o| {
            condition(o, "Ready").is("True")
        })
        .await?;
    assert_eq!(
        world.secret("shared").await?["username"],
        "Prod DB Readonly"
    );
    Ok(())
}

// Red when: Content::judge compares only the token (other keys), or not at all (password);
// Content::labelled says Intact (label).
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_changed_by_hand_is_put_right_at_the_least_cost() -> Result<()> {
    let world = World::start("by_hand").await?;
    let mark = plane().audit().mark()?;
    let mut object = world.api();
    object["spec"]["token"]["secret"] = json!({"formats": ["ServiceBinding", "Env"]});
    world.apply(&object).await?;
    world.ready("principal", "api").await?;
    let good = world.secret("api").await?;
    check_keys(&world, &good)?;
    let written = world.get("secret", "api").await?.unwrap_or_default();
    assert_eq!(written["type"], "servicebinding.io/postgresql");
    assert_eq!(
        written["metadata"]["labels"][MANAGED_BY],
        "entra-postgres-operator"
    );

    // Nothing of the token is lost: it is written again.
    for change in [
        json!({"stringData": {"host": "elsewhere.example"}}),
        json!({"stringData": {"PGPASSWORD": "by hand"}}),
        json!({"data": {"uri": null, "PGUSER": null}}),
    ] {
        world.patch("secret", "api", &change).await?;
        world.wait_data("api", &good).await?;
    }
    // Another's key stays, and is no reason to write again and again.
    world
        .patch("secret", "api", &json!({"stringData": {"further": "key"}}))
        .await?;
    let unlabelled = json!({"metadata": {"labels": {MANAGED_BY: null}}});
    world.patch("secret", "api", &unlabelled).await?;
    world
        .wait("secret", "api", "labelled", |o| {
            o["metadata"]["labels"][MANAGED_BY] == "entra-postgres-operator"
        })
        .await?;
    world.ready("principal", "api").await?;
    assert_eq!(world.token_requests(Some(API_CLIENT)), 1);
    assert_eq!(world.secret("api").await?["further"], "key");
    let writes = world.writes_since(mark)?;
    let writes = writes
        .iter()
        .filter(|write| write.contains("secrets"))
        .count();
    assert_eq!(
        writes, 5,
        "one for the Secret, one for each of four changes"
    );

    // The token is lost: it is renewed.
    let token = |o: &Value| o["metadata"]["annotations"]["entrapostgres.io/token-sha256"].clone();
    let first = token(&written);
    world
        .patch(
            "secret",
            "api",
            &json!({"stringData": {"password": "by hand"}}),
        )
        .await?;
    let object = world
        .wait("secret", "api", "renewed", |o| {
            o["data"].is_object() && token(o) != first
        })
        .await?;
    assert_eq!(
        world.secret("api").await?["password"],
        world.secret("api").await?["PGPASSWORD"]
    );
    assert_eq!(world.token_requests(Some(API_CLIENT)), 2);
    world.delete("secret", "api").await?;
    let uid = object["metadata"]["uid"].clone();
    world
        .wait("secret", "api", "made again", |o| {
            o.is_object() && o["metadata"]["uid"] != uid
        })
        .await?;
    world.ready("principal", "api").await?;
    assert_eq!(world.token_requests(Some(API_CLIENT)), 3);
    let good = world.secret("api").await?;
    assert_eq!(
        world
            .login(&good["username"], &good["password"], &good["database"])
            .await?,
        "orders-api"
    );

    // Whoever takes it away from us keeps it.
    world
        .patch(
            "secret",
            "api",
            &json!({"metadata": {"ownerReferences": null}}),
        )
        .await?;
    world.not_ready("principal", "api", "SecretNotOurs").await?;
    assert_eq!(world.secret("api").await?, good);
    assert_eq!(world.token_requests(Some(API_CLIENT)), 3);
    Ok(())
}

// Red when: report() sets no hold after a token that was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_overwritten_again_and_again_does_not_keep_entra_busy() -> Result<()> {
    let world = World::start("overwritten").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let overwrite = |n: u32| json!({"stringData": {"password": format!("by hand {n}")}});
    let right = |secret: &Value| {
        let password = secret["data"]["password"].as_str().unwrap_or_default();
        password.len() > 500
    };
    world.patch("secret", "api", &overwrite(0)).await?;
    world.wait("secret", "api", "is put right", right).await?;
    world.patch("secret", "api", &overwrite(1)).await?;
    world
        .wait("principal", "api", "says who is to blame", |object| {
            condition(object, "TokenIssued").reason == "SecretOverwritten"
        })
        .await?;
    for n in 2..8 {
        world.patch("secret", "api", &overwrite(n)).await?;
    }
    world.wait("secret", "api", "is put right", right).await?;
    world.ready("principal", "api").await?;
    assert_eq!(
        world.token_requests(Some(API_CLIENT)),
        3,
        "{}",
        world.stats()
    );
    Ok(())
}

async fn delete_without_dependents(world: &World, name: &str) -> Result<()> {
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    let principals: Api<kube::api::DynamicObject> = Api::namespaced_with(
        world.client.clone(),
        &world.names.team,
        &kube::api::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
            "entrapostgres.io",
            "v1alpha1",
            "EntraPostgresPrincipal",
        )),
    );
    principals.delete(name, &orphan).await?;
    world
        .wait_for("principal", name, "gone", COLLECTED, Value::is_null)
        .await?;
    Ok(())
}

// Red when: plan::token_work takes a Secret for somebody else's because it has no owner, as on 6b177e6; or the
// token in it is handed on.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_made_again_takes_over_the_secret_that_was_left_without_an_owner() -> Result<()> {
    let world = World::start("made_again").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let before = world.get("secret", "api").await?.unwrap_or_default();
    delete_without_dependents(&world, "api").await?;
    // What somebody put there meanwhile, and all that is not declared, goes.
    let hostile = json!({"metadata": {"annotations": {"reflector.example/allowed": "true"},
        "labels": {"team": "evil"}}, "stringData": {"extra": "theirs", "password": "theirs"}});
    world.patch("secret", "api", &hostile).await?;
    world.apply(&world.api()).await?;
    let object = world.ready("principal", "api").await?;
    let after = world.get("secret", "api").await?.unwrap_or_default();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    let owner = &after["metadata"]["ownerReferences"][0]["uid"];
    assert_eq!(*owner, object["metadata"]["uid"]);
    assert_ne!(after["data"]["password"], before["data"]["password"]);
    for (part, key) in [
        ("annotations", "reflector.example/allowed"),
        ("labels", "team"),
    ] {
        assert!(after["metadata"][part][key].is_null(), "{after:#}");
    }
    assert!(after["data"]["extra"].is_null(), "{after:#}");
    let secret = world.secret("api").await?;
    let user = world.login(
        &secret["username"],
        &secret["password"],
        &secret["database"],
    );
    assert_eq!(user.await?, "orders-api");
    assert_eq!(world.token_requests(Some(API_CLIENT)), 2);
    Ok(())
}

// Red when: orphan() asks for less than type, label, record and identity; or an owner that lives is not
// looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_without_our_record_or_with_another_owner_is_not_taken_over() -> Result<()> {
    let world = World::start("alike").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let real = world.get("secret", "api").await?.unwrap_or_default();
    world.delete("principal", "api").await?;
    world
        .wait_for("secret", "api", "gone", COLLECTED, Value::is_null)
        .await?;
    let map = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "holder", "namespace": world.names.team}});
    world.apply(&map).await?;
    let holder = world.get("secret", "holder").await?.unwrap_or_default();
    let owner = json!([{"apiVersion": "v1", "kind": "Secret", "name": "holder",
        "uid": holder["metadata"]["uid"]}]);
    let meta = &real["metadata"];
    let alike = |change: &dyn Fn(&mut Value)| {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": real["type"],
            "metadata": {"name": "api", "namespace": world.names.team, "labels": meta["labels"],
                "annotations": meta["annotations"]}, "data": real["data"]});
        change(&mut secret);
        secret
    };
    for secret in [
        alike(&|secret| secret["type"] = json!("Opaque")),
        alike(&|secret| secret["metadata"]["labels"] = json!({})),
        alike(&|secret| secret["metadata"]["ownerReferences"] = owner.clone()),
        alike(&|secret| {
            secret["metadata"]["annotations"]["entrapostgres.io/identity-sha256"] = json!("x");
        }),
        alike(&|secret| secret["immutable"] = json!(true)),
    ] {
        world.apply(&secret).await?;
        let before = world.get("secret", "api").await?;
        world.apply(&world.api()).await?;
        world.not_ready("principal", "api", "SecretNotOurs").await?;
        assert_eq!(world.get("secret", "api").await?, before);
        world.delete("principal", "api").await?;
        world
            .wait_for("principal", "api", "gone", COLLECTED, Value::is_null)
            .await?;
        world.delete("secret", "api").await?;
    }
    Ok(())
}

// Red when: plan::discard is empty, or execute discards although the token's half failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_declared_no_more_goes_after_the_new_one_is_there() -> Result<()> {
    let mut world = World::start("renamed").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let rename = |name: &str| json!({"spec": {"token": {"secret": {"name": name}}}});
    // A name that is taken: the old one stays.
    let taken = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "taken", "namespace": world.names.team}, "stringData": {"password": "theirs"}});
    world.apply(&taken).await?;
    let old = world.secret("api").await?;
    world.patch("principal", "api", &rename("taken")).await?;
    world.not_ready("principal", "api", "SecretNotOurs").await?;
    assert_eq!(world.secret("api").await?, old);

    world.patch("principal", "api", &rename("second")).await?;
    world.wait("secret", "api", "gone", Value::is_null).await?;
    let secret = world.secret("second").await?;
    assert_eq!(
        world
            .login(
                &secret["username"],
                &secret["password"],
                &secret["database"]
            )
            .await?,
        "orders-api"
    );
    assert_eq!(world.secret("taken").await?["password"], "theirs");
    assert_eq!(
        world.ready("principal", "api").await?["status"]["binding"]["name"],
        "second"
    );

    // Changed while no operator ran.
    world.kill_operator();
    world.patch("principal", "api", &rename("third")).await?;
    world.start_operator().await?;
    world
        .wait("secret", "second", "gone", Value::is_null)
        .await?;
    assert!(world.secret("third").await?.contains_key("password"));

    world
        .patch("principal", "api", &json!({"spec": {"token": null}}))
        .await?;
    world
        .wait("secret", "third", "gone", Value::is_null)
        .await?;
    let object = world.ready("principal", "api").await?;
    assert_eq!(
        (
            object["status"].get("token"),
            object["status"].get("binding")
        ),
        (None, None)
    );
    assert_eq!(world.bound_to("orders-api").await?.as_deref(), Some(API_ID));
    Ok(())
}

fn readonly(world: &World) -> Value {
    let mut object = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    object["spec"]["token"] = json!({"identity": workload_identity("orders-reports")});
    object
}

/// The keys of both formats, and no other.
fn check_keys(world: &World, good: &BTreeMap<String, String>) -> Result<()> {
    assert_eq!(
        good.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        BTreeSet::from([
            "type",
            "provider",
            "host",
            "port",
            "database",
            "username",
            "password",
            "uri",
            "certificates",
            "PGHOST",
            "PGPORT",
            "PGDATABASE",
            "PGUSER",
            "PGPASSWORD",
            "PGSSLMODE",
            "PGSSLROOTCERT",
            "ca.crt",
        ])
    );
    let port = world.azure.gateway()?.port().to_string();
    for (key, value) in [
        ("type", "postgresql"),
        ("provider", "azure"),
        ("host", "localhost"),
        ("port", port.as_str()),
        ("database", "postgres"),
        ("username", "orders-api"),
        ("PGHOST", "localhost"),
        ("PGPORT", port.as_str()),
        ("PGDATABASE", "postgres"),
        ("PGUSER", "orders-api"),
        ("PGSSLMODE", "require"),
        (
            "PGSSLROOTCERT",
            "/var/run/secrets/entrapostgres.io/api/ca.crt",
        ),
    ] {
        assert_eq!(good[key], value, "{key}");
    }
    Ok(())
}
