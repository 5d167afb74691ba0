//! What objects and connections may cost the operator, however many and large they are: its memory and its
//! descriptors, as the kernel counts them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lab::process::until;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::fixture::{ALICE, SOON, World};

/// The chart's limit is 256Mi.
const MOST_KIB: u64 = 150 * 1024;

/// A line of `/proc/PID/status` in KiB.
fn memory(pid: u32, line: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    let number = found.and_then(|text| text.split_whitespace().next());
    Ok(number.context("no such line")?.parse()?)
}

fn pid(world: &World) -> Result<u32> {
    Ok(world.operator.as_ref().context("no operator")?.pid())
}

/// A principal as large as the schema lets it be, for a server that does not exist.
fn large(world: &World, n: usize) -> Value {
    let names: Vec<String> = (0..256)
        .map(|name| format!("table_{name:03}_{n}"))
        .collect();
    let privileges = [
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
        "MAINTAIN",
    ];
    let grant = json!({"database": "d", "schema": "s", "objects": "Tables", "names": names,
        "privileges": privileges});
    let mut object = world.principal(
        &format!("large-{n}"),
        &format!("large-{n}"),
        json!({"type": "Group"}),
    );
    object["spec"]["serverRef"] = json!({"name": "nowhere"});
    object["spec"]["grants"] = json!(vec![grant; 8]);
    object["metadata"]["annotations"] = json!({"example.com/note": "x".repeat(200_000)});
    object
}

// Red when: what is kept of an object is not pruned, a list takes large pages, or passes have no limit.
#[tokio::test(flavor = "multi_thread")]
async fn large_objects_of_those_who_have_no_tenant_cost_little_memory_also_after_a_restart()
-> Result<()> {
    let mut world = World::start("large").await?;
    let team = world.names.team.clone();
    let before = memory(pid(&world)?, "VmRSS:")?;
    // Too large for the schema.
    let mut refused = large(&world, 0);
    let grants = refused["spec"]["grants"]
        .as_array()
        .context("grants")?
        .clone();
    refused["spec"]["grants"] = json!([grants.clone(), grants].concat());
    let refusal = world.apply(&refused).await.expect_err("refused");
    ensure!(
        format!("{refusal:#}").contains("at most 2048 names"),
        "{refusal:#}"
    );

    let secret = |n: usize| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s{n}"), "namespace": team,
            "labels": {"app.kubernetes.io/managed-by": "entra-postgres-operator"},
            "annotations": {"entrapostgres.io/x": "y".repeat(250_000)}}})
    };
    let objects = (0..300)
        .map(secret)
        .chain((0..60).map(|n| large(&world, n)));
    let objects: Vec<Value> = objects.collect();
    stream::iter(objects.iter().map(Ok::<_, anyhow::Error>))
        .try_for_each_concurrent(4, |object| world.apply(object))
        .await?;
    for start in ["before a restart", "after it"] {
        for n in [0, 59] {
            until("a large principal waits for its server", SOON, async || {
                let found = world.get("principal", &format!("large-{n}")).await?;
                let found = found.context("a principal")?.to_string();
                Ok(found.contains("ServerNotFound"))
            })
            .await?;
        }
        // Somebody else's is served meanwhile.
        let (peak, rests) = (
            memory(pid(&world)?, "VmHWM:")?,
            memory(pid(&world)?, "VmRSS:")?,
        );
        println!("{start}: {before} KiB without them, {rests} KiB with them, {peak} KiB at most");
        ensure!(peak <= MOST_KIB, "{start}: {peak} KiB");
        if start == "before a restart" {
            world.kill_operator();
            world.start_operator().await?;
            let alice = world.principal("alice", ALICE, json!({"type": "User"}));
            world.apply(&alice).await?;
            world.ready("principal", "alice").await?;
        }
    }
    Ok(())
}

// Red when: src/http.rs keeps connections on which nothing arrives.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_half_sent_requests_take_few_descriptors_and_no_answer_from_a_probe()
-> Result<()> {
    let world = World::start("half_sent").await?;
    let operator = world.operator.as_ref().context("no operator")?;
    let address = operator.metrics_url();
    let address = address
        .trim_start_matches("http://")
        .split('/')
        .next()
        .context("an address")?;
    let descriptors =
        || Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{}/fd", operator.pid()))?.count());
    let before = descriptors()?;
    let mut held = Vec::new();
    let mut most = 0;
    for round in 0..30 {
        let some = stream::iter(0..100).map(async |_| {
            let mut stream = TcpStream::connect(address).await?;
            // It may be closed by now.
            let _ = stream
                .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nx-half")
                .await;
            Ok::<_, anyhow::Error>(stream)
        });
        held.extend(some.buffer_unordered(20).try_collect::<Vec<_>>().await?);
        let answer =
            tokio::time::timeout(Duration::from_secs(10), operator.get("/livez")).await??;
        ensure!(answer.starts_with("ok"), "round {round}: {answer}");
        most = most.max(descriptors()?);
    }
    println!(
        "{} half-sent requests: {before} descriptors before, {most} at most",
        held.len()
    );
    ensure!(most < before + 200, "{most} descriptors");
    Ok(())
}
