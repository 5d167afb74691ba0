//! The marker in a role's comment on a real server: one that cannot be read changes nothing, one that somebody
//! changed meanwhile is not overwritten.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{Setup, World};

use super::{IMPORTER_ID, bound, comment_of, exists, picture, quoted};

async fn comment(world: &World, text: &str) -> Result<()> {
    world
        .sql(&format!("COMMENT ON ROLE importer IS {}", quoted(text)))
        .await
}

fn importer(world: &World) -> Value {
    let mut object = world.principal(
        "importer",
        "importer",
        bound("ServicePrincipal", IMPORTER_ID),
    );
    object["spec"]["grants"] =
        json!([{"database": "orders", "privileges": ["CONNECT", "TEMPORARY"]}]);
    object["spec"]["deletionPolicy"] = json!("Drop");
    object
}

// Red when: role_work() or drop_role() takes a marker that cannot be read for none.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_cannot_be_read_changes_nothing_until_the_servers_owner_says_so() -> Result<()>
{
    let world = World::start("unreadable").await?;
    world.apply(&importer(&world)).await?;
    world.ready("principal", "importer").await?;
    let good = comment_of(&world, "importer").await?.unwrap_or_default();
    let held =
        "SELECT datacl::text LIKE '%importer=Tc/%' FROM pg_database WHERE datname = 'orders'";
    assert_eq!(world.ask(held).await?.as_deref(), Some("t"));
    let long = format!("{} {}", &good[..good.len() - 1], "x".repeat(9_000_000));
    for spoiled in [
        good[..good.len() - 5].to_owned(),
        good.replacen("CONNECT", "FROB", 1),
        long,
    ] {
        comment(&world, &spoiled).await?;
        let said = world
            .not_ready("principal", "importer", "MarkerUnreadable")
            .await?;
        assert!(said.contains("entrapostgres.io/discard-marker"), "{said}");
        let seen = picture(&world).await?;
        let less = json!({"spec": {"grants": [], "role": {"connectionLimit": 3}}});
        world.patch("principal", "importer", &less).await?;
        world.patch("principal", "importer", &json!({"metadata": {"annotations": {"entrapostgres.io/reconcile": spoiled.len().to_string()}}})).await?;
        world
            .not_ready("principal", "importer", "MarkerUnreadable")
            .await?;
        assert_eq!(picture(&world).await?, seen);
        assert_eq!(world.ask(held).await?.as_deref(), Some("t"));
        // Put right, all is as it should be, and what was given is taken back.
        comment(&world, &good).await?;
        world.ready("principal", "importer").await?;
        world.wait_sql(held, Some("f")).await?;
        world.apply(&importer(&world)).await?;
        world.wait_sql(held, Some("t")).await?;
        world.ready("principal", "importer").await?;
    }
    comment(&world, &good[..good.len() - 5]).await?;
    world
        .not_ready("principal", "importer", "MarkerUnreadable")
        .await?;
    world.delete("principal", "importer").await?;
    let said = world
        .not_ready("principal", "importer", "MarkerUnreadable")
        .await?;
    assert_eq!(world.ask(&exists("importer")).await?.as_deref(), Some("t"));
    let value = said
        .split("discard-marker: ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let consent = json!({"metadata": {"annotations": {"entrapostgres.io/discard-marker": value}}});
    world.patch("server", "server", &consent).await?;
    world
        .wait("principal", "importer", "is gone", Value::is_null)
        .await?;
    assert_eq!(world.ask(&exists("importer")).await?.as_deref(), Some("f"));
    Ok(())
}

// Red when: message() in postgres/change.rs or run() in postgres/grant.rs does not begin with the check: the
// catalog is an hour old, and what another operator wrote into the marker would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_somebody_changed_meanwhile_is_not_overwritten() -> Result<()> {
    let seldom = |server: &mut Value| server["spec"]["resyncInterval"] = json!("1h");
    let setup = Setup {
        server: Some(Box::new(seldom)),
        ..Setup::default()
    };
    let world = World::with("meanwhile", setup).await?;
    world.apply(&importer(&world)).await?;
    world.ready("principal", "importer").await?;
    let good = comment_of(&world, "importer").await?.unwrap_or_default();
    comment(&world, &good.replacen('{', "{\"later\":1,", 1)).await?;
    let more = json!({"spec": {"role": {"connectionLimit": 3}}});
    world.patch("principal", "importer", &more).await?;
    world
        .wait_sql(
            "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'importer'",
            Some("3"),
        )
        .await?;
    world.ready("principal", "importer").await?;
    let now = comment_of(&world, "importer").await?.unwrap_or_default();
    assert!(
        now.contains("\"later\":1") && now.contains("connectionLimit"),
        "{now}"
    );
    // Taken away meanwhile: the role is looked at again, too.
    world.sql("COMMENT ON ROLE importer IS NULL").await?;
    world
        .patch(
            "principal",
            "importer",
            &json!({"spec": {"role": {"connectionLimit": 4}}}),
        )
        .await?;
    world
        .wait_sql(
            "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'importer'",
            Some("4"),
        )
        .await?;
    let now = comment_of(&world, "importer").await?.unwrap_or_default();
    assert!(now.contains("\"recorded\""), "{now}");
    Ok(())
}
