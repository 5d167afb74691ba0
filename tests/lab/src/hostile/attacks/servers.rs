//! Server objects whose hosts are dead: nobody listens, somebody listens and is silent, or the name is
//! nobody's. Each wants an administrator's token.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Attack, Running, create_all};
use crate::hostile::identities::{evil, evil_client};
use crate::hostile::world::{SERVER, World, by_account};
use crate::process::free_port;

const COUNT: usize = 100;
const OURS: Attack = Attack::Servers;

fn server(n: usize, silent: u16, closed: u16) -> Value {
    let (host, port) = match n % 3 {
        0 => ("localhost", silent),
        1 => ("localhost", closed),
        _ => ("nobody.localhost", 5432),
    };
    json!({
        "apiVersion": "entrapostgres.io/v1alpha1", "kind": SERVER,
        "metadata": {"name": evil(OURS, n), "namespace": OURS.namespace()},
        "spec": {
            "host": host, "port": port, "cloud": "Lab", "resyncInterval": "1s",
            "admins": [{"roleName": "evil-admin", "identity": by_account(&evil(OURS, 0))}],
            "tenants": [{"namespaces": {"selector": {}}, "roleNames": ["*"], "principalTypes": ["User"]}],
        },
    })
}

pub(super) async fn begin(world: &World) -> Result<Running> {
    // Its connections wait in the kernel's queue, and then are not even taken there.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = silent.local_addr()?.port();
    let closed = free_port()?;
    let client = evil_client(OURS, 0);
    world
        .create(world.account(&OURS.namespace(), &evil(OURS, 0), &client))
        .await?;
    create_all(world, (0..COUNT).map(|n| server(n, port, closed))).await?;
    let mut running = Running::default();
    running.held.push(Box::new(silent));
    Ok(running)
}

pub(super) async fn proof(world: &World) -> Result<String> {
    let (there, seen) = world.seen(SERVER, &OURS.namespace()).await?;
    ensure!(there == COUNT, "{there} servers");
    ensure!(seen * 10 >= COUNT * 9, "{seen} of {COUNT} have a status");
    OURS.asked(world, 0..1)
}
