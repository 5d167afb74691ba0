//! `lab hostile`: tenants that do all the harm they can, beside others who must not notice. Standard
//! output is one line of numbers; all else goes to standard error.

mod attacks;
mod identities;
mod kept;
mod verdict;
mod victims;
mod watcher;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use attacks::{Attack, Running};
use kept::Kept;
use verdict::Numbers;
use victims::Victims;
use world::World;

/// How long it may take until all victims are served, before anybody attacks.
const SET_UP: Duration = Duration::from_secs(90);
/// The attacks begin within this part of the time.
const BEGINNINGS: u32 = 3;

/// What `lab hostile` can be told.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// A run with the same seed has the same objects in the same order; a random one if absent.
    #[arg(long, env = "HOSTILE_SEED")]
    seed: Option<u64>,
    /// Only these attacks, with commas between them.
    #[arg(long, env = "HOSTILE_ONLY", value_delimiter = ',')]
    only: Vec<String>,
    /// How long the victims are watched from the first attack on.
    #[arg(long, env = "HOSTILE_SECONDS", default_value_t = 180)]
    seconds: u64,
}

/// Runs it. An error if a victim paid for what an attacker did, or an attack did not take place.
pub async fn hostile(dir: &Path, options: Options) -> Result<()> {
    let Options {
        seed,
        only,
        seconds,
    } = options;
    let attacks = chosen(&only)?;
    let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("HOSTILE_SEED={seed}");
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir)?;
    more_descriptors();
    let mut terminate = signal(SignalKind::terminate())?;
    let run = run(dir, StdRng::seed_from_u64(seed), attacks, seconds);
    // Whatever ends it, dropping its parts ends all processes and removes what they left.
    let numbers = tokio::select! {
        numbers = run => numbers?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("asked to end"),
    };
    println!("{}", numbers.line());
    let failures = numbers.failures();
    if failures.is_empty() {
        return Ok(());
    }
    bail!(
        "not as promised (seed {seed}, logs are in {}):\n{}",
        dir.display(),
        failures.join("\n")
    )
}

fn chosen(only: &[String]) -> Result<Vec<Attack>> {
    let only: Vec<&str> = only.iter().map(|name| name.trim()).collect();
    let only: Vec<&str> = only.into_iter().filter(|name| !name.is_empty()).collect();
    if only.is_empty() {
        return Ok(Attack::ALL.to_vec());
    }
    only.into_iter()
        .map(|name| {
            let found = Attack::ALL.into_iter().find(|attack| attack.name() == name);
            found.ok_or_else(|| {
                let all = Attack::ALL.map(Attack::name).join(", ");
                anyhow!("no attack is called `{name}`; there are {all}")
            })
        })
        .collect()
}

/// The attackers hold thousands of connections.
fn more_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer of them the attack is weaker, which its proof says.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn run(
    dir: &Path,
    mut random: StdRng,
    mut attacks: Vec<Attack>,
    seconds: u64,
) -> Result<Numbers> {
    let setting_up = Instant::now();
    let world = Arc::new(World::start(dir).await?);
    let kept = Arc::new(Kept::start(dir, &world).await?);
    let mut victims = Victims::start(&world, &mut random);
    victims.served(SET_UP).await?;
    eprintln!("the victims are served after {:.0?}", setting_up.elapsed());
    attacks.shuffle(&mut random);
    let total = Duration::from_secs(seconds);
    let start = Instant::now();
    victims.count();
    let mut beginnings = JoinSet::new();
    let gap = total / BEGINNINGS / u32::try_from(attacks.len())?.max(1);
    for (attack, n) in attacks.into_iter().zip(0_u32..) {
        sleep_until((start + gap * n).into()).await;
        say(start, attack.name(), &victims, &kept).await;
        let own = StdRng::seed_from_u64(random.random());
        let (world, kept) = (Arc::clone(&world), Arc::clone(&kept));
        beginnings.spawn(async move {
            let begin = tokio::time::timeout(total / 3, attack.begin(&world, &kept, own)).await;
            let late = |_| Err(anyhow!("it had not begun after {:?}", total / 3));
            (attack, begin.unwrap_or_else(late))
        });
    }
    // A new process reads everything at once, with the attackers' objects there.
    sleep_until((start + total * 3 / 5).into()).await;
    let mut wrong = Vec::new();
    let mut under_way = Vec::new();
    for (attack, begun) in beginnings.join_all().await {
        match begun {
            Ok(running) => under_way.push((attack, running)),
            Err(error) => wrong.push(format!("attack {}: {error:#}", attack.name())),
        }
    }
    say(start, "the operator is replaced", &victims, &kept).await;
    let changing = victims.pause().await;
    kept.replace().await?;
    drop(changing);
    sleep_until((start + total).into()).await;
    say(start, "the end", &victims, &kept).await;
    wrong.extend(proofs(&world, &under_way).await);
    let mut numbers = Numbers {
        wrong,
        ..Numbers::default()
    };
    victims.stop(&mut numbers).await;
    drop(under_way);
    kept.stop(&mut numbers).await;
    Ok(numbers)
}

async fn say(start: Instant, what: &str, victims: &Victims, kept: &Kept) {
    eprintln!(
        "{:>4} s: {what} ({}; {})",
        start.elapsed().as_secs(),
        victims.so_far(),
        kept.so_far().await
    );
}

/// An attack that did not take place says nothing of the operator.
async fn proofs(world: &World, running: &[(Attack, Running)]) -> Vec<String> {
    let mut missing = Vec::new();
    for (attack, running) in running {
        match attack.proof(world, running).await {
            Ok(text) => eprintln!("  {}: {text}", attack.name()),
            Err(error) => missing.push(format!(
                "attack {} did not take place: {error:#}",
                attack.name()
            )),
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), Attack::ALL.len());
        assert_eq!(chosen(&["comments ".to_owned()]).unwrap().len(), 1);
        let refused = chosen(&["rain".to_owned()]).unwrap_err().to_string();
        assert!(refused.contains("comments"), "{refused}");
    }
}
