//! The operator killed at random moments while its principals change: nothing is left over, nothing
//! is lost, and no token is asked for that was still good.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::process::until;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::fixture::{ALICE, API_CLIENT, SOON, World, plane};
use crate::fleet;

/// Principals at the end.
const FLEET: usize = 50;
/// More of them, which are dropped for good on the way.
const LEAVING: usize = 5;
const KILLS: usize = 20;
/// The longest and shortest life of an operator, from its start.
const LIFE: std::ops::Range<u64> = 50..1500;
const MARKED: &str = "SELECT count(*) FROM pg_roles AS r JOIN pg_shdescription AS d ON d.objoid = r.oid \
    WHERE d.description LIKE 'Managed by entra-postgres-operator for %'";

/// The names of all Entra roles but administrators, whoever made them.
const BOUND: &str = "SELECT string_agg(p.name::text, ' ' ORDER BY p.name::text COLLATE \"C\") \
    FROM pgaadauth_list_principals(false) AS p(name, kind, oid, tenant, mfa, admin) \
    WHERE p.admin::text NOT IN ('1', 't', 'true')";

/// The Secrets of the team: uid and token by name.
type Secrets = BTreeMap<String, (String, String)>;

async fn secrets(world: &World) -> Result<Secrets> {
    let ours = world.list("secret").await?.into_iter();
    let ours = ours.filter(|secret| secret["type"] == "servicebinding.io/postgresql");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ours
        .map(|secret| {
            let metadata = &secret["metadata"];
            let seen = (text(&metadata["uid"]), text(&secret["data"]["password"]));
            (text(&metadata["name"]), seen)
        })
        .collect())
}

/// What the user does, one step at a time.
struct User<'a> {
    world: &'a World,
    random: StdRng,
    leaving: Vec<usize>,
    deletions: usize,
}

impl User<'_> {
    /// A principal as somebody might declare it just now.
    fn declared(&mut self, n: usize) -> Value {
        let mut object = fleet::principal(self.world, n);
        let spec = &mut object["spec"];
        spec["token"]["database"] = json!(["postgres", "orders"][self.random.random_range(0..2)]);
        spec["token"]["renewBeforePercentage"] = json!(self.random.random_range(20..60));
        let policy = ["Retain", "Drop"][self.random.random_range(0..2)];
        spec["deletionPolicy"] = json!(if n < FLEET { policy } else { "Drop" });
        object
    }

    async fn apply(&mut self, n: usize) -> Result<()> {
        let object = self.declared(n);
        self.world.apply(&object).await
    }

    async fn delete(&mut self, n: usize) -> Result<()> {
        // It may be gone already: an apply during a deletion changes only the object that goes.
        if self
            .world
            .get("principal", &fleet::name(n))
            .await?
            .is_none()
        {
            return Ok(());
        }
        self.deletions += 1;
        let gone = self.world.delete("principal", &fleet::name(n)).await;
        match gone.as_ref().map_err(|error| error.downcast_ref()) {
            Err(Some(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            _ => gone,
        }
    }

    /// Changes one, or deletes one and applies it again at once; some leave for good.
    async fn step(&mut self) -> Result<()> {
        let n = self.random.random_range(0..FLEET);
        match self.random.random_range(0..10) {
            0..5 => self.apply(n).await,
            5..9 => {
                self.delete(n).await?;
                // While the deletion waits for the role to be dropped, this changes the old object.
                self.apply(n).await
            }
            _ => match self.leaving.pop() {
                Some(n) => self.delete(n).await,
                None => Ok(()),
            },
        }
    }

    /// Lives until `end`, then leaves what is to leave.
    async fn work(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.step().await?;
        }
        Ok(())
    }
}

/// Principals whose Secret was the same before and after one life of the operator, and for whose
/// identity a token was asked for all the same.
fn needless(before: &(Secrets, Value), after: &(Secrets, Value)) -> Vec<String> {
    let asked = |stats: &Value, n: usize| {
        let count = &stats["tokenRequests"]["byClient"][fleet::client(n)];
        count.as_u64().unwrap_or_default()
    };
    let kept = |n: &usize| {
        let name = fleet::name(*n);
        before
            .0
            .get(&name)
            .is_some_and(|(uid, _)| after.0.get(&name).is_some_and(|(now, _)| now == uid))
    };
    let asked_for = |n: &usize| asked(&before.1, *n) != asked(&after.1, *n);
    let all = (0..FLEET + LEAVING).filter(kept).filter(asked_for);
    all.map(fleet::name).collect()
}

async fn look(world: &World) -> Result<(Secrets, Value)> {
    Ok((secrets(world).await?, world.stats()))
}

// Red when: src/controller/principal/observe.rs holds every Secret for absent or broken after a
// start (tokens are asked for that are good), or a finalizer is set after its role was made (roles
// stay that should have been dropped), or a role is made before what says whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_principals_survive_twenty_kills_of_the_operator() -> Result<()> {
    let seed = match option_env!("CHAOS_SEED") {
        Some(seed) => seed.parse().context("CHAOS_SEED is no number")?,
        None => rand::random::<u32>().into(),
    };
    println!("build with CHAOS_SEED={seed} to see this run again");
    let mut setup = fleet::setup(FLEET + LEAVING);
    setup.operator = false;
    let mut world = World::with("chaos", setup).await?;
    fleet::apply_accounts(&world, FLEET + LEAVING).await?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut leaving: Vec<usize> = (FLEET..FLEET + LEAVING).collect();
    let (mut deletions, mut begun) = (0, 0);
    let mut before = look(&world).await?;
    for life in 0..=KILLS {
        world.launch_operator()?;
        let user_random = StdRng::seed_from_u64(random.random());
        let end = Instant::now() + Duration::from_millis(random.random_range(LIFE));
        let mut user = User {
            world: &world,
            random: user_random,
            leaving,
            deletions,
        };
        // The fleet arrives during the first lives, in five waves.
        for _ in 0..11 {
            if begun < FLEET + LEAVING {
                user.apply(begun).await?;
                begun += 1;
            }
        }
        if begun == FLEET + LEAVING {
            user.work(end).await?;
        }
        (leaving, deletions) = (user.leaving, user.deletions);
        if life == KILLS {
            break;
        }
        tokio::time::sleep_until(end.into()).await;
        world.kill_operator();
        let after = look(&world).await?;
        let needless = needless(&before, &after);
        ensure!(
            needless.is_empty(),
            "seed {seed}, life {life}: tokens of {needless:?} were good"
        );
        before = after;
    }
    for n in leaving {
        world.delete("principal", &fleet::name(n)).await?;
    }
    // What was deleted with Drop and applied again at once is gone: it is applied once more.
    let start = Instant::now();
    for n in 0..FLEET {
        world.wait_settled(&fleet::name(n)).await?;
        world.apply(&fleet::principal(&world, n)).await?;
    }
    fleet::all_ready(&world, FLEET, Duration::from_secs(60)).await?;
    world.wait_sql(MARKED, Some(&FLEET.to_string())).await?;
    let fleet: Vec<String> = (0..FLEET).map(fleet::name).collect();
    world.wait_sql(BOUND, Some(&fleet.join(" "))).await?;
    let last = look(&world).await?;
    assert_eq!(last.0.len(), FLEET, "Secrets");
    let needless = needless(&before, &last);
    ensure!(
        needless.is_empty(),
        "seed {seed}: tokens of {needless:?} were good"
    );
    let asked = &last.1["tokenRequests"];
    println!(
        "{deletions} deletions, token requests {}, settled in {:?}",
        asked["total"],
        start.elapsed()
    );
    assert_eq!(
        asked["byStatus"].as_object().map(serde_json::Map::len),
        Some(1),
        "{asked}"
    );
    for n in 0..FLEET {
        let secret = world.secret(&fleet::name(n)).await?;
        let user = world.login(
            &secret["username"],
            &secret["password"],
            &secret["database"],
        );
        assert_eq!(user.await?, fleet::name(n));
    }
    Ok(())
}

// Red when: src/controller/principal/execute.rs makes the role although its object is gone
// (`settle_finalizer` answers Ok for `FinalizerChange::Gone`).
#[tokio::test(flavor = "multi_thread")]
async fn an_object_deleted_before_its_finalizer_was_set_leaves_no_role() -> Result<()> {
    let world = World::start("unborn").await?;
    let slow = json!([{"on": "token", "match": {"clientId": API_CLIENT}, "do": {"delayMs": 1000}}]);
    world.faults(slow).await?;
    world.ready("server", "server").await?;
    let mark = plane().audit().mark()?;
    let mut object = world.api();
    object["spec"]["deletionPolicy"] = json!("Drop");
    world.apply(&object).await?;
    // The token comes first, since it says for which identity the role is.
    let asked = async || Ok(world.token_requests_of_kubernetes(mark)? > 0);
    until("the token is asked for", SOON, asked).await?;
    world.delete("principal", "api").await?;
    assert_eq!(
        world.get("principal", "api").await?,
        None,
        "nothing holds it"
    );
    let answered = async || Ok(world.token_requests(Some(API_CLIENT)) > 0);
    until("the token has come", SOON, answered).await?;
    // Whatever is done with that token is done when the next two principals are ready.
    for (name, role) in [("alice", ALICE), ("readonly", "Prod DB Readonly")] {
        let kind = if name == "alice" { "User" } else { "Group" };
        let next = world.principal(name, role, json!({"type": kind}));
        world.apply(&next).await?;
        world.ready("principal", name).await?;
    }
    assert_eq!(world.bound_to("orders-api").await?, None);
    assert_eq!(world.get("secret", "api").await?, None);
    Ok(())
}

// Red when: `close` in src/postgres/sql.rs does not note that we closed the role, which then looks
// as if a database administrator had.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_closed_for_a_deletion_that_was_called_off_is_opened_for_its_next_object()
-> Result<()> {
    let world = World::start("reopened").await?;
    let role = "Prod DB Readonly";
    let mut object = world.principal("api", role, json!({"type": "Group"}));
    object["spec"]["deletionPolicy"] = json!("Drop");
    world.apply(&object).await?;
    world.ready("principal", "api").await?;
    world
        .sql("CREATE TABLE precious (); ALTER TABLE precious OWNER TO \"Prod DB Readonly\"")
        .await?;
    world.delete("principal", "api").await?;
    let why = world
        .not_ready("principal", "api", "RoleOwnsObjects")
        .await?;
    ensure!(why.contains("data is never dropped"), "{why}");
    let login = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'Prod DB Readonly'";
    world.wait_sql(login, Some("f")).await?;
    let abandon = json!({"metadata": {"annotations": {"entrapostgres.io/abandon": "true"}}});
    world.patch("principal", "api", &abandon).await?;
    let gone = |object: &Value| object.is_null();
    world.wait("principal", "api", "gone", gone).await?;
    world.wait_sql(login, Some("f")).await?;

    world.apply(&object).await?;
    world.ready("principal", "api").await?;
    world.wait_sql(login, Some("t")).await?;
    // What a database administrator closes stays closed.
    world.sql("ALTER ROLE \"Prod DB Readonly\" NOLOGIN").await?;
    world
        .not_ready("principal", "api", "LoginDisabledOnServer")
        .await?;
    world.wait_sql(login, Some("f")).await?;
    Ok(())
}
