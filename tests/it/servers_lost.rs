//! A server that is lost: moved, gone, cut off, restarted. It is found again by itself, status tells
//! what is known meanwhile, and tokens that are good stay.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{ADMIN_CLIENT, API_CLIENT, World, condition};
use crate::servers::fails;
use crate::servers_connect::sign_ins;

// Red when: `Worker::run` ends when its connection is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_server_comes_back_and_no_principal_needs_a_new_token() -> Result<()> {
    let world = World::start("lost").await?;
    let passing = world
        .azure
        .start_gateway(world.azure.authority().server_config()?)
        .await?;
    let to = |port: u16| json!({"spec": {"port": port}});
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    let asked = world.token_requests(Some(API_CLIENT));
    let password = world.secret("api").await?["password"].clone();

    // Another port: connected anew, and the Secret says so, with the same token.
    world.patch("server", "server", &to(passing.port())).await?;
    let port = passing.port().to_string();
    wait_for_port(&world, &port).await?;
    world.ready("server", "server").await?;

    // Gone altogether.
    let before = world.token_requests(Some(ADMIN_CLIENT));
    drop(passing);
    fails(
        &world,
        ("server", "server"),
        "ServerUnreachable",
        &["check that", "network"],
    )
    .await?;
    let api = world
        .wait("principal", "api", "role unknown", |object| {
            condition(object, "RoleSynced").reason == "ServerUnreachable"
        })
        .await?;
    assert_eq!(condition(&api, "RoleSynced").status, "Unknown");
    assert!(condition(&api, "TokenIssued").is("True"), "{api:#}");
    let tries = world.token_requests(Some(ADMIN_CLIENT)) - before;
    assert!(tries <= 1, "{tries} tokens for a server that is away");
    world
        .patch("server", "server", &to(world.azure.gateway()?.port()))
        .await?;
    for (kind, name) in [("server", "server"), ("principal", "api")] {
        world.ready(kind, name).await?;
    }

    // Connections cut, and an upgrade: a role that is dropped then is back, so somebody is there.
    for restart in [false, true] {
        let before = sign_ins(&world);
        if restart {
            world.azure.postgres().await?.restart().await?;
        } else {
            world.azure.gateway()?.cut_all();
        }
        world.sql("DROP ROLE \"orders-api\"").await?;
        world
            .wait_sql(
                "SELECT count(*) FROM pg_roles WHERE rolname = 'orders-api'",
                Some("1"),
            )
            .await?;
        for (kind, name) in [("server", "server"), ("principal", "api")] {
            world.ready(kind, name).await?;
        }
        assert!(sign_ins(&world) > before);
    }
    assert_eq!(world.token_requests(Some(API_CLIENT)), asked);
    assert_eq!(world.secret("api").await?["password"], password);
    Ok(())
}

/// The longest of the first two pauses after a refusal, and a little: nobody asks for a look.
const BY_ITSELF: Duration = Duration::from_secs(40);

/// Waits until the server and these principals are Ready by themselves.
async fn all_again(world: &World, principals: &[&str]) -> Result<()> {
    let ready = |object: &Value| condition(object, "Ready").is("True");
    world
        .wait_for("server", "server", "Ready by itself", BY_ITSELF, ready)
        .await?;
    for name in principals {
        world.ready("principal", name).await?;
    }
    Ok(())
}

async fn wait_for_port(world: &World, port: &str) -> Result<()> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(port);
    let told = |secret: &Value| secret["data"]["port"] == encoded.as_str();
    world
        .wait("secret", "api", "the other port", told)
        .await
        .map(|_| ())
}

/// Waits until the server is called read-only, with these words: what is there stays, and what is new waits.
async fn read_only(world: &World, words: &[&str]) -> Result<()> {
    fails(world, ("server", "server"), "ServerReadOnly", words).await?;
    let api = world
        .wait("principal", "api", "that is seen", |object| {
            condition(object, "RoleSynced").reason == "ServerReadOnly"
        })
        .await?;
    assert!(condition(&api, "TokenIssued").is("True"), "{api:#}");
    let next = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    world.apply(&next).await?;
    world
        .not_ready("principal", "readonly", "ServerReadOnly")
        .await
        .map(|_| ())
}

// Red when: `snapshot::check` does not look at `pg_is_in_recovery`, or a session that was refused for
// it does not try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_recognised_and_its_promotion_is_survived() -> Result<()> {
    let world = World::start("promoted").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    {
        let postgres = world.azure.postgres().await?;
        std::fs::write(postgres.data_dir().join("standby.signal"), "")?;
        postgres.restart().await?;
    }
    read_only(&world, &["replica", "primary"]).await?;

    world.wait_sql("SELECT pg_promote()", Some("t")).await?;
    // Nobody tells that a replica was promoted: the next try finds it out.
    all_again(&world, &["api", "readonly"]).await?;
    assert_eq!(
        world.bound_to("Prod DB Readonly").await?.as_deref(),
        Some(crate::roles::READONLY_ID)
    );
    Ok(())
}

// Red when: `pinned::FIXED` has no `default_transaction_read_only`: whoever owns a database, or may set a
// parameter of the server, ends all work there.
#[tokio::test(flavor = "multi_thread")]
async fn read_only_as_a_default_of_others_keeps_nothing_from_being_done() -> Result<()> {
    let world = World::start("read_only").await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    for sql in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        world.sql(sql).await?;
    }
    world.azure.gateway()?.cut_all();
    let next = world.principal("readonly", "Prod DB Readonly", json!({"type": "Group"}));
    world.apply(&next).await?;
    all_again(&world, &["api", "readonly"]).await
}
