//! Those who must not notice anything: their Secrets are watched, one of them is changed every few
//! seconds on each server, and new ones come. Must not know who attacks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kube::api::{Api, DynamicObject};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;

use super::identities::{NEWCOMERS, ON_APART, ON_SHARED, newcomer, victim};
use super::verdict::Numbers;
use super::watcher::Watcher;
use super::world::{APART, PRINCIPAL, SHARED, VICTIMS, World};

/// Between two changes on one server, and between two newcomers.
const CHANGES: Duration = Duration::from_secs(4);
const COMES: Duration = Duration::from_secs(10);
/// How long a change is waited for; above it, it counts as so long.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(100);

pub(super) struct Victims {
    watcher: Watcher,
    notes: Arc<Mutex<Notes>>,
    /// Held by each change and each newcomer while it is under way.
    under_way: Arc<RwLock<()>>,
    began: Option<Instant>,
    _work: JoinSet<()>,
}

#[derive(Default)]
struct Notes {
    counting: bool,
    changes: Vec<Duration>,
    newcomers: Vec<(String, Instant)>,
    wrong: Vec<String>,
}

impl Victims {
    /// Changes begin at once, and count when `count` says so.
    pub(super) fn start(world: &Arc<World>, random: &mut StdRng) -> Self {
        let secrets = Api::namespaced(world.client.clone(), VICTIMS);
        let notes = Arc::new(Mutex::new(Notes::default()));
        let under_way = Arc::new(RwLock::new(()));
        let mut work = JoinSet::new();
        for (server, numbers) in [
            (SHARED, 0..ON_SHARED),
            (APART, ON_SHARED..ON_SHARED + ON_APART),
        ] {
            let mut random = StdRng::seed_from_u64(random.random());
            let (world, notes) = (Arc::clone(world), Arc::clone(&notes));
            let under_way = Arc::clone(&under_way);
            work.spawn(async move {
                loop {
                    tokio::time::sleep(CHANGES).await;
                    let _under_way = under_way.read().await;
                    let name = victim(random.random_range(numbers.clone()));
                    let change = Change::new(&mut random);
                    let outcome = change.make(&world, server, &name).await;
                    lock(&notes).changed(&name, &change, outcome);
                }
            });
        }
        let (world, kept_notes) = (Arc::clone(world), Arc::clone(&notes));
        let kept_under_way = Arc::clone(&under_way);
        work.spawn(async move {
            for n in 0..NEWCOMERS {
                while !lock(&kept_notes).counting {
                    tokio::time::sleep(LOOK).await;
                }
                let (name, began) = (newcomer(n), Instant::now());
                {
                    let _under_way = kept_under_way.read().await;
                    let server = if n.is_multiple_of(2) { SHARED } else { APART };
                    match world.create_victim(&name, server).await {
                        Ok(()) => lock(&kept_notes).newcomers.push((name, began)),
                        Err(error) => {
                            let text = format!("newcomer {name} was not made: {error:#}");
                            lock(&kept_notes).wrong.push(text);
                        }
                    }
                }
                tokio::time::sleep(COMES).await;
            }
        });
        Self {
            watcher: Watcher::start(secrets),
            notes,
            under_way,
            began: None,
            _work: work,
        }
    }

    /// Waits until all who are there from the start have a good token.
    pub(super) async fn served(&self, deadline: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let waiting = {
                let seen = self.watcher.seen();
                (0..ON_SHARED + ON_APART)
                    .map(victim)
                    .filter(|name| seen.first(name).is_none())
                    .count()
            };
            if waiting == 0 {
                return Ok(());
            }
            if start.elapsed() > deadline {
                bail!("{waiting} victims have no token after {deadline:?}, and nobody attacks yet");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What happens counts from now on.
    pub(super) fn count(&mut self) {
        self.watcher.count();
        lock(&self.notes).counting = true;
        self.began = Some(Instant::now());
    }

    /// Waits for what is under way; nothing more begins while the guard is held.
    pub(super) async fn pause(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.under_way).write_owned().await
    }

    pub(super) fn so_far(&self) -> String {
        let notes = lock(&self.notes);
        let slowest = notes.changes.iter().max().copied().unwrap_or_default();
        let seen = self.watcher.seen();
        format!(
            "victims: {} dead, {} changes, slowest {slowest:.1?}, {} renewals",
            seen.dead().len(),
            notes.changes.len(),
            seen.renewals
        )
    }

    /// Waits for what is under way, and says how all went.
    pub(super) async fn stop(self, numbers: &mut Numbers) {
        let _ended = self.pause().await;
        let newcomers = std::mem::take(&mut lock(&self.notes).newcomers);
        let last = Instant::now();
        loop {
            let missing = {
                let seen = self.watcher.seen();
                newcomers.iter().any(|(name, _)| seen.first(name).is_none())
            };
            if !missing || last.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let seen = self.watcher.seen();
        for (name, began) in newcomers {
            let first = seen.first(&name);
            let took = first.map_or(began.elapsed(), |first| first - began);
            numbers.first_tokens.push(took);
            if first.is_none() {
                numbers
                    .wrong
                    .push(format!("newcomer {name} has no token after {took:.0?}"));
            }
        }
        let notes = lock(&self.notes);
        numbers.changes.clone_from(&notes.changes);
        let dead = seen.dead();
        numbers.dead = dead.len();
        let wrong = notes.wrong.iter().chain(&seen.wrong).chain(&dead);
        numbers.wrong.extend(wrong.take(30).cloned());
        let seconds = self.began.map_or(0, |began| began.elapsed().as_secs());
        // A victim's token lives 60 to 90 s, and each Secret must have been looked at all the time.
        let looks = usize::try_from(seconds).unwrap_or(usize::MAX);
        if seen.looks < looks {
            let looks = seen.looks;
            numbers
                .wrong
                .push(format!("only {looks} looks at the Secrets in {seconds} s"));
        }
        numbers.fewest = usize::try_from(seconds / 20).unwrap_or(usize::MAX);
        eprintln!("{} looks, {} renewals", seen.looks, seen.renewals);
    }
}

impl Notes {
    fn changed(&mut self, name: &str, change: &Change, outcome: Result<Duration>) {
        if !self.counting {
            return;
        }
        match outcome {
            Ok(took) => {
                if took.as_secs() >= 5 {
                    eprintln!("       {change:?} of {name} took {took:.1?}");
                }
                self.changes.push(took);
            }
            Err(error) => self.wrong.push(format!("{change:?} of {name}: {error:#}")),
        }
    }
}

/// What a victim wants otherwise.
#[derive(Debug)]
enum Change {
    Limit(u32),
    Connect(bool),
}

impl Change {
    fn new(random: &mut StdRng) -> Self {
        if random.random_bool(0.5) {
            Self::Limit(random.random_range(1..1000))
        } else {
            Self::Connect(random.random_bool(0.5))
        }
    }

    fn patch(&self) -> Value {
        match self {
            Self::Limit(limit) => json!({"spec": {"role": {"connectionLimit": limit}}}),
            Self::Connect(true) => json!({"spec": {"grants": [
                {"database": "orders", "privileges": ["CONNECT", "TEMPORARY"]}]}}),
            Self::Connect(false) => json!({"spec": {"grants": []}}),
        }
    }

    /// What the server must say afterwards.
    fn is_so(&self, name: &str) -> String {
        match self {
            Self::Limit(limit) => format!(
                "SELECT (rolconnlimit = {limit})::text FROM pg_roles WHERE rolname = '{name}'"
            ),
            Self::Connect(given) => format!(
                "SELECT (EXISTS (SELECT FROM pg_database AS d, aclexplode(d.datacl) AS a, pg_roles AS r \
                 WHERE d.datname = 'orders' AND r.rolname = '{name}' AND a.grantee = r.oid \
                 AND a.privilege_type = 'CONNECT') = {given})::text"
            ),
        }
    }

    /// How long it took until the object was Ready for it; an error if it was not so on the server.
    async fn make(&self, world: &World, server: &str, name: &str) -> Result<Duration> {
        let began = Instant::now();
        let patched = world.patch(VICTIMS, name, &self.patch()).await?;
        let generation = patched.metadata.generation;
        let objects = world.objects(PRINCIPAL, VICTIMS);
        while !ready(&objects.get(name).await?, generation) {
            if began.elapsed() > PATIENCE {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
        let took = began.elapsed();
        let answer = world.ask(server, "postgres", &self.is_so(name)).await?;
        if answer != "true" {
            bail!("the object is Ready, and on the server it is not so");
        }
        Ok(took)
    }
}

fn ready(object: &DynamicObject, generation: Option<i64>) -> bool {
    let conditions = object.data.pointer("/status/conditions");
    let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    conditions.any(|condition| {
        let is = |field: &str, text: &str| condition.get(field).is_some_and(|value| value == text);
        let seen = condition.get("observedGeneration").and_then(Value::as_i64);
        is("type", "Ready") && is("status", "True") && seen >= generation
    })
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}
