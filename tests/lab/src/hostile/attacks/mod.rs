//! Who attacks: one module each, which begins its attack and proves that it took place.

mod annotations;
mod backlog;
mod comments;
mod functions;
mod graph;
mod http;
mod locks;
mod nameless;
mod odd;
mod refusing;
mod secrets;
mod servers;
mod spinning;
mod throttled;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::identities::{evil, evil_client, evil_object};
use super::kept::Kept;
use super::world::{PRINCIPAL, SHARED, World, by_account, principal};

/// Objects made at the same time.
const AT_ONCE: usize = 4;
/// How long an attacker waits for a role that the operator is to make.
const ROLE: Duration = Duration::from_secs(60);

/// One attacker, with a namespace and identities of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attack {
    Annotations,
    Backlog,
    Comments,
    Functions,
    Graph,
    Http,
    Locks,
    Nameless,
    Odd,
    Refusing,
    Secrets,
    Servers,
    Spinning,
    Throttled,
}

/// What an attack holds as long as it lasts, and what it has counted.
#[derive(Default)]
pub(super) struct Running {
    held: Vec<Box<dyn Any + Send>>,
    work: JoinSet<()>,
    count: Arc<AtomicU64>,
}

impl Running {
    fn counted(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Attack {
    pub(super) const ALL: [Self; 14] = [
        Self::Annotations,
        Self::Backlog,
        Self::Comments,
        Self::Functions,
        Self::Graph,
        Self::Http,
        Self::Locks,
        Self::Nameless,
        Self::Odd,
        Self::Refusing,
        Self::Secrets,
        Self::Servers,
        Self::Spinning,
        Self::Throttled,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Annotations => "annotations",
            Self::Backlog => "backlog",
            Self::Comments => "comments",
            Self::Functions => "functions",
            Self::Graph => "graph",
            Self::Http => "http",
            Self::Locks => "locks",
            Self::Nameless => "nameless",
            Self::Odd => "odd",
            Self::Refusing => "refusing",
            Self::Secrets => "secrets",
            Self::Servers => "servers",
            Self::Spinning => "spinning",
            Self::Throttled => "throttled",
        }
    }

    pub(super) fn namespace(self) -> String {
        format!("evil-{}", self.name())
    }

    /// How many identities it has in the directory.
    pub(super) fn identities(self) -> usize {
        match self {
            Self::Backlog => backlog::COUNT,
            Self::Functions | Self::Graph => 2,
            Self::Locks => locks::COUNT,
            Self::Refusing => refusing::COUNT,
            Self::Spinning => spinning::COUNT,
            Self::Throttled => throttled::COUNT,
            Self::Servers | Self::Odd => 1,
            Self::Annotations | Self::Comments | Self::Http | Self::Nameless | Self::Secrets => 0,
        }
    }

    /// Begins it; what it holds ends with the answer.
    pub(super) async fn begin(
        self,
        world: &Arc<World>,
        kept: &Kept,
        random: StdRng,
    ) -> Result<Running> {
        match self {
            Self::Annotations => annotations::begin(world, random).await,
            Self::Backlog => backlog::begin(world).await,
            Self::Comments => comments::begin(world, random).await,
            Self::Functions => functions::begin(world).await,
            Self::Graph => graph::begin(world).await,
            Self::Http => http::begin(kept),
            Self::Locks => locks::begin(world).await,
            Self::Nameless => nameless::begin(world).await,
            Self::Odd => odd::begin(world, random).await,
            Self::Refusing => refusing::begin(world, random).await,
            Self::Secrets => secrets::begin(world).await,
            Self::Servers => servers::begin(world).await,
            Self::Spinning => spinning::begin(world, random).await,
            Self::Throttled => throttled::begin(world).await,
        }
    }

    /// What it came to; an error if it did not take place.
    pub(super) async fn proof(self, world: &World, running: &Running) -> Result<String> {
        match self {
            Self::Annotations => annotations::proof(world).await,
            Self::Backlog => backlog::proof(world),
            Self::Comments => comments::proof(world).await,
            Self::Functions => functions::proof(world).await,
            Self::Graph => graph::proof(world).await,
            Self::Http => http::proof(running),
            Self::Locks => locks::proof(world, running).await,
            Self::Nameless => nameless::proof(world).await,
            Self::Odd => odd::proof(world).await,
            Self::Refusing => refusing::proof(world),
            Self::Secrets => secrets::proof(world).await,
            Self::Servers => servers::proof(world).await,
            Self::Spinning => spinning::proof(world, running),
            Self::Throttled => throttled::proof(world),
        }
    }

    /// The principal of one of its identities, without a token.
    fn role(self, n: usize) -> Value {
        let who = json!({"type": "ManagedIdentity", "objectId": evil_object(self, n)});
        principal(&self.namespace(), &evil(self, n), SHARED, &who)
    }

    /// The same with a token.
    fn with_token(self, n: usize) -> Value {
        let name = evil(self, n);
        let who = json!({"type": "ManagedIdentity"});
        let mut object = principal(&self.namespace(), &name, SHARED, &who);
        if let Some(spec) = object.get_mut("spec") {
            spec["token"] = json!({"identity": by_account(&name), "verifyLogin": "Never"});
        }
        object
    }

    /// Makes service accounts and principals with tokens of all its identities.
    async fn create_with_tokens(self, world: &World) -> Result<()> {
        let all = (0..self.identities()).flat_map(|n| {
            let client = evil_client(self, n);
            let account = world.account(&self.namespace(), &evil(self, n), &client);
            [account, self.with_token(n)]
        });
        create_all(world, all).await
    }

    /// Waits until a role of its own is on the shared server.
    async fn wait_for_role(self, world: &World, n: usize) -> Result<()> {
        let name = evil(self, n);
        let is_there = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{name}'");
        let start = Instant::now();
        while world.ask(SHARED, "postgres", &is_there).await? != "1" {
            if start.elapsed() > ROLE {
                let object = world
                    .objects(PRINCIPAL, &self.namespace())
                    .get(&name)
                    .await?;
                let status = object.data.get("status");
                bail!("role {name} was not made in {ROLE:?}: {status:?}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// An error unless each of its clients asked Entra.
    fn asked(self, world: &World, clients: impl Iterator<Item = usize>) -> Result<String> {
        let asked: Vec<u64> = clients
            .map(|n| world.requests(&evil_client(self, n)))
            .collect();
        let never = asked.iter().filter(|count| **count == 0).count();
        ensure!(
            never == 0,
            "{never} of {} clients did not ask Entra",
            asked.len()
        );
        let requests: u64 = asked.iter().sum();
        Ok(format!(
            "{} clients asked Entra {requests} times",
            asked.len()
        ))
    }
}

/// One of a list, over and over.
fn pick<T: Copy + Default>(list: &[T], n: usize) -> T {
    list.iter()
        .cycle()
        .nth(n % list.len().max(1))
        .copied()
        .unwrap_or_default()
}

async fn create_all(world: &World, objects: impl Iterator<Item = Value>) -> Result<()> {
    futures::stream::iter(objects)
        .map(|object| world.create(object))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}
