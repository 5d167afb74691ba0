//! A server whose directory is slow: within its budget of connections, and at nobody else's cost.

use anyhow::Result;
use lab::directory::Group;
use serde_json::json;

use crate::fixture::{Setup, World, condition};

const SLOW: usize = 7;

// Red when: dispatch() in postgres/serve.rs opens connections without asking max_connections, or
// creations of one server wait in one queue for all servers.
#[tokio::test(flavor = "multi_thread")]
async fn creations_share_the_budget_and_another_server_is_not_held_back() -> Result<()> {
    let world = World::with(
        "slow",
        Setup {
            directory: Box::new(|directory, _| {
                directory.groups.extend((0..=SLOW).map(|n| {
                    Group {
                        name: format!("slow {n}"),
                        object_id: format!("9409b0cc-0000-4000-8000-00000000000{n}")
                            .parse()
                            .expect("a GUID"),
                        members: Vec::new(),
                    }
                }));
            }),
            ..Setup::default()
        },
    )
    .await?;
    let gateway = world
        .azure
        .start_gateway(world.azure.authority().server_config()?)
        .await?;
    let mut other = world.server("other")?;
    other["spec"]["port"] = json!(gateway.port());
    other["spec"]["limits"] = json!({"maxConnections": 2});
    world.apply(&other).await?;
    world.ready("server", "server").await?;
    world.ready("server", "other").await?;
    let slow: Vec<_> = (0..SLOW)
        .map(|n| json!({"on": "sql", "match": {"role": format!("slow {n}")}, "do": {"delayMs": 1000}}))
        .collect();
    world.faults(json!(slow)).await?;
    for n in 0..SLOW {
        let group = world.principal(
            &format!("slow{n}"),
            &format!("slow {n}"),
            json!({"type": "Group"}),
        );
        world.apply(&group).await?;
    }
    // All three are at it.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pgaadauth_create_principal%' AND usename = 'pg-operators'";
    world.wait_sql(waiting, Some("3")).await?;

    let mut quick = world.principal("quick", &format!("slow {SLOW}"), json!({"type": "Group"}));
    quick["spec"]["serverRef"]["name"] = json!("other");
    world.apply(&quick).await?;
    world.ready("principal", "quick").await?;
    let mut ready = 0;
    for n in 0..SLOW {
        let object = world
            .get("principal", &format!("slow{n}"))
            .await?
            .unwrap_or_default();
        ready += usize::from(condition(&object, "Ready").is("True"));
    }
    assert!(
        ready < SLOW,
        "the quick one was held back until all others were ready"
    );
    for n in 0..SLOW {
        world.ready("principal", &format!("slow{n}")).await?;
    }
    let stats = world.stats();
    assert_eq!(
        stats["connections"]["peak"],
        3 + 1,
        "three of the one, one of the other: {stats:#}"
    );
    Ok(())
}
