//! Starts the parts, in their order, and stops them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config as ControllerConfig, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::clock::SystemClock;
use crate::cluster::{self, Cluster, EventRecorder};
use crate::controller::feed::{Feed, Names};
use crate::controller::index::{Clusters, Index, Wakes, key_of};
use crate::controller::mailbox::Mailbox;
use crate::controller::tasks::Tasks;
use crate::controller::turns::Turns;
use crate::controller::watches::{Listed, Signs, Synced};
use crate::controller::{
    BEAT_LATE, Context, Never, Reporter, heartbeat_of, policies, principal, server,
};
use crate::entra::{Broker, BrokerOptions};
use crate::http::{Probes, Readiness};
use crate::leader::{Elector, Leadership};
use crate::model::{Class, Failure, ObjectKey, Reason};
use crate::ports::Clock;
use crate::postgres::{SessionEvent, Sessions};
use crate::settings::Settings;
use crate::telemetry::{Heartbeats, Metrics, ObjectKind, ServerCounts};

/// What `/readyz` waits for.
const WATCHES: &str = "the first list of every watch";
/// Work under way at the end gets this long. Nobody leads meanwhile, and a tenant decides how long its work
/// takes: tokens of others may end while one waits for a lock.
const DRAIN: Duration = Duration::from_secs(5);
/// How soon an API server that did not answer is asked again at the start; doubled each time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MOST: Duration = Duration::from_secs(10);

/// Runs the operator until it is asked to stop.
///
/// # Errors
/// When it cannot start (the address is taken, there is no cluster, the cluster has no id), when it lost
/// its lease, and when one of its tasks ended that is not to end: Kubernetes starts it again.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let settings = Arc::new(settings);
    let metrics = Metrics::new();
    let signs = Signs {
        heartbeats: Heartbeats::default(),
        readiness: Readiness::waiting_for([WATCHES]),
    };
    let end = CancellationToken::new();
    let mut tasks = Tasks::default();
    let mut serving = serve(&settings, &signs, &metrics, &end).await?;

    let client = cluster::connect(&signs.heartbeats)
        .await
        .map_err(|error| cannot_start(&error))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let leadership = match settings.lease {
        Some(_) => Leadership::standby(),
        None => Leadership::always(),
    };
    metrics.leading(settings.lease.is_none());
    let cluster = Cluster::new(client.clone(), Arc::new(leadership.clone()));
    let release = CancellationToken::new();
    let lost = CancellationToken::new();
    let elector = elect(
        &settings,
        client.clone(),
        &leadership,
        &clock,
        &metrics,
        (&release, &lost),
    );
    let drain = asked_to_stop()?;
    let starting = async {
        let parts = Parts::start(
            settings,
            cluster,
            &leadership,
            clock,
            metrics,
            &signs,
            &mut tasks,
        )
        .await?;
        parts
            .ready(&signs.readiness, &leadership, &mut tasks)
            .await?;
        Ok(parts)
    };
    let started: Result<Option<Parts>, Failure> = tokio::select! {
        () = drain.cancelled() => Ok(None),
        // At any time: who does not lead any more never does again.
        () = lost.cancelled() => Err(lost_lease(&leadership)),
        _ = &mut serving => Err(not_served()),
        parts = starting => parts.map(Some),
    };
    let outcome = match started {
        Ok(Some(parts)) => {
            tracing::info!("leading: principals and servers are kept as declared");
            let ended = async {
                tokio::select! {
                    () = lost.cancelled() => lost_lease(&leadership),
                    failure = tasks.ended() => failure,
                    _ = &mut serving => not_served(),
                }
            };
            until_drained(parts.control(&drain), ended, &drain).await
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    release.cancel();
    if let Some(elector) = elector {
        // Its end is all we wait for: the lease is handed back.
        let _ = elector.await;
    }
    end.cancel();
    if !serving.is_finished() {
        let _ = serving.await;
    }
    outcome?;
    tracing::info!("stopped");
    Ok(())
}

fn not_served() -> Failure {
    let message = "a defect of the operator: probes and metrics are served no more; the process ends and \
                   starts again";
    Failure::new(Class::Transient, Reason::Internal, message)
}

/// Why this replica does not lead any more.
fn lost_lease(leadership: &Leadership) -> Failure {
    let why = leadership.why_lost();
    let message = format!("this replica lost its lease and starts again: {why}");
    Failure::new(Class::Waiting, Reason::NotLeader, message)
}

/// Everything that works, put together.
struct Parts {
    context: Arc<Context>,
    principals: Names<EntraPostgresPrincipal>,
    servers: Names<EntraPostgresServer>,
    wakes: Wakes,
    synced: Vec<Synced>,
}

impl Parts {
    async fn start(
        settings: Arc<Settings>,
        cluster: Cluster,
        leadership: &Leadership,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        signs: &Signs,
        tasks: &mut Tasks,
    ) -> Result<Self, Failure> {
        let wakes = Wakes::default();
        let clusters = clusters(&settings, &cluster).await?;
        let index = Arc::new(Index::new(wakes.clone(), clusters));
        let broker = Arc::new(Broker::new(BrokerOptions {
            credentials: Arc::new(cluster.clone()),
            clock: Arc::clone(&clock),
            environment: settings.azure.clone(),
            network: settings.network.clone(),
            concurrency: settings.max_concurrent_exchanges,
        }));
        let (session_events, session_event) = unbounded_channel();
        let gate = Arc::new(leadership.clone());
        let sessions = Arc::new(Sessions::new(broker.clone(), gate, session_events));
        count_on_scrape(&metrics, &broker, &sessions);
        let route = route(session_event, Arc::clone(&index));
        tasks.spawn("the routing of what sessions report".to_owned(), route);
        let client = cluster.client().clone();
        let feed = Feed {
            client,
            settings: &settings,
            index: &index,
            metrics: &metrics,
            sessions: &sessions,
            wakes: &wakes,
            signs,
        };
        let (servers, mut synced) = feed.servers(tasks);
        let (principals, principals_synced) = feed.principals(tasks);
        index.sees_by(&principals_synced);
        synced.extend(principals_synced);
        synced.extend(feed.secrets(tasks));
        let events = EventRecorder::new(cluster.clone(), &settings.instance, metrics.clone());
        let reporter = Reporter {
            events,
            metrics,
            clock,
        };
        let tokens = broker;
        let context = Context {
            cluster,
            sessions,
            tokens,
            index,
            settings,
            turns: Turns::default(),
            heartbeats: signs.heartbeats.clone(),
            reporter,
        };
        Ok(Self {
            context: Arc::new(context),
            principals,
            servers,
            wakes,
            synced,
        })
    }

    /// The watches are in step with the cluster, and this replica leads.
    async fn ready(
        &self,
        readiness: &Readiness,
        leadership: &Leadership,
        tasks: &mut Tasks,
    ) -> Result<(), Failure> {
        let led = async {
            for mut each in self.synced.clone() {
                // The sender ends with the watch, which ends the process.
                let listed = |listed: &Listed| *listed != Listed::Awaited;
                let _ = each.listed.wait_for(listed).await;
            }
            readiness.done(WATCHES);
            leadership.leading().await;
        };
        tokio::select! {
            failure = tasks.ended() => Err(failure),
            () = led => Ok(()),
        }
    }

    /// Keeps objects as declared until asked to drain. Ends before that only by a defect.
    async fn control(self, drain: &CancellationToken) {
        let Self {
            context,
            principals,
            servers,
            wakes,
            ..
        } = self;
        wakes.listening.begin();
        for kind in [ObjectKind::Principal, ObjectKind::Server] {
            let name = heartbeat_of(kind);
            context.heartbeats.expect(name, name.to_owned(), BEAT_LATE);
        }
        let of_principals = control(
            principals,
            wakes.principals,
            drain,
            principal::reconcile,
            &context,
        );
        let of_servers = control(servers, wakes.servers, drain, server::reconcile, &context);
        let (of_principals, of_servers) =
            (std::pin::pin!(of_principals), std::pin::pin!(of_servers));
        let controllers = async {
            let ((), other) = futures::future::select(of_principals, of_servers)
                .await
                .factor_first();
            if drain.is_cancelled() {
                other.await;
            }
        };
        tokio::select! {
            () = controllers => {}
            never = policies::watch(&context) => match never {},
        }
    }
}

/// Binds before anything else, so that a taken address is told at once.
async fn serve(
    settings: &Settings,
    signs: &Signs,
    metrics: &Metrics,
    end: &CancellationToken,
) -> Result<JoinHandle<()>, Failure> {
    let probes = Probes::bind(settings.http_address)
        .await
        .map_err(|error| cannot_start(&error))?;
    let serving = probes.serve(
        signs.readiness.clone(),
        signs.heartbeats.clone(),
        metrics.clone(),
        end.clone().cancelled_owned(),
    );
    Ok(tokio::spawn(serving))
}

async fn clusters(settings: &Settings, cluster: &Cluster) -> Result<Clusters, Failure> {
    let own = match &settings.cluster_id {
        Some(id) => id.clone(),
        None => own_id(cluster).await?,
    };
    let watched: BTreeSet<String> = settings.watch_namespaces.iter().cloned().collect();
    Ok(Clusters {
        own,
        former: settings.former_cluster_ids.iter().cloned().collect(),
        watched: (!watched.is_empty()).then_some(watched),
    })
}

/// The cluster's id; asked for again while the API server is away, or every start would fail at once and
/// Kubernetes make each wait longer than the one before, beyond the outage.
async fn own_id(cluster: &Cluster) -> Result<String, Failure> {
    let mut pause = ASK_AGAIN;
    loop {
        match cluster.cluster_id().await {
            Err(failure) if failure.class == Class::Transient => {
                tracing::warn!("asking for the cluster's id again soon: {failure}");
            }
            answer => return answer,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MOST);
    }
}

/// `lost` is cancelled when the elector ends, whatever ends it: nobody renews the lease from there on.
fn elect(
    settings: &Settings,
    client: Client,
    leadership: &Leadership,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    (release, lost): (&CancellationToken, &CancellationToken),
) -> Option<JoinHandle<()>> {
    let lease = settings.lease.clone()?;
    let elector = Elector::new(
        client,
        lease,
        leadership.clone(),
        Arc::clone(clock),
        metrics.clone(),
    );
    let (release, over) = (release.clone(), lost.clone().drop_guard());
    Some(tokio::spawn(async move {
        let _over = over;
        elector.run(release.cancelled_owned()).await;
    }))
}

fn count_on_scrape(metrics: &Metrics, broker: &Broker, sessions: &Arc<Sessions>) {
    let (exchanges, sessions) = (broker.stats(), Arc::clone(sessions));
    metrics.on_scrape(move |metrics| {
        for (kind, outcome, count) in exchanges.all() {
            metrics.entra_requests(kind.into(), outcome.into(), count);
        }
        for session in sessions.all() {
            let stats = session.stats();
            let counts = ServerCounts {
                last_snapshot: stats.last_snapshot(),
                snapshot_failures: stats.snapshot_failures(),
                connections_opened: stats.connections_opened(),
                messages: stats.messages(),
            };
            metrics.server(session.server(), counts);
        }
    });
}

/// SIGTERM or SIGINT.
fn asked_to_stop() -> Result<CancellationToken, Failure> {
    let drain = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| cannot_start(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| cannot_start(&error))?;
    let asked = drain.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop: finishing what is under way");
        asked.cancel();
    });
    Ok(drain)
}

/// Returns when the work has ended, at the latest [`DRAIN`] after it was asked to; `ended`: what ends it
/// beside that.
async fn until_drained(
    work: impl Future<Output = ()>,
    ended: impl Future<Output = Failure>,
    drain: &CancellationToken,
) -> Result<(), Failure> {
    let mut work = std::pin::pin!(work);
    let outcome = tokio::select! {
        () = &mut work => {
            if drain.is_cancelled() {
                return Ok(());
            }
            let message = "a defect of the operator: a controller ended by itself; the process ends and \
                           starts again";
            return Err(Failure::new(Class::Transient, Reason::Internal, message));
        }
        () = drain.cancelled() => Ok(()),
        failure = ended => {
            tracing::error!("{failure}; what is under way is finished, and nothing is begun");
            drain.cancel();
            Err(failure)
        }
    };
    if tokio::time::timeout(DRAIN, work).await.is_err() {
        tracing::warn!(
            "work was still under way after {} s and is given up",
            DRAIN.as_secs()
        );
    }
    outcome
}

/// Runs one controller on the names of the objects that are there and on those that are woken.
async fn control<K, F>(
    names: Names<K>,
    wake: Arc<Mailbox>,
    drain: &CancellationToken,
    reconcile: impl Fn(ObjectKey, Arc<Context>) -> F + Send + 'static,
    context: &Arc<Context>,
) where
    K: Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + Unpin
        + 'static,
    F: Future<Output = Result<Action, Never>> + Send + 'static,
{
    // What changed before we listened was not sent: all that is there is looked at.
    let there = names.state();
    let there = there
        .into_iter()
        .map(|name| Ok(PartialObjectMeta::clone(&name)));
    let wake = wake.read();
    let wake = wake.map(|key| ObjectRef::new(&key.name).within(&key.namespace));
    Controller::for_stream(stream::iter(there).chain(stream::pending()), names)
        // The objects of one server wait for that server; nothing else has to wait for them.
        .with_config(ControllerConfig::default().debounce(Duration::from_millis(20)))
        .reconcile_on(wake)
        .graceful_shutdown_on(drain.clone().cancelled_owned())
        .run(
            move |name, context| reconcile(key_of(name.as_ref()), context),
            |_, error, _| match *error {},
            Arc::clone(context),
        )
        .for_each(|result| async move {
            // An object that went away between wake and look-up; everything else is reported by
            // the reconcile itself.
            if let Err(error) = result {
                tracing::debug!("{error}");
            }
        })
        .await;
}

/// Hands what sessions tell to the objects it concerns.
async fn route(mut events: UnboundedReceiver<SessionEvent>, index: Arc<Index>) {
    while let Some(event) = events.recv().await {
        match event {
            SessionEvent::StateChanged(server) => {
                index.wake_server(&server);
                index.wake_principals_of(&server);
            }
            SessionEvent::ServerChanged(server) => index.wake_server(&server),
            SessionEvent::RolesChanged(server, roles) => index.wake_roles(&server, &roles),
        }
    }
}

fn cannot_start(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        Class::Invalid,
        Reason::Internal,
        format!("cannot start: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;
    use crate::cluster::testing::{Answer, cluster};

    // Red when: `own_id` asks once only.
    #[tokio::test(start_paused = true)]
    async fn an_outage_at_the_start_is_waited_for_and_a_refusal_is_not() {
        let asked = AtomicU32::new(0);
        let (away, _) = cluster(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0..6 => Answer::refusal(503, "ServiceUnavailable", "down"),
            _ => Answer::ok(json!({"metadata": {"name": "kube-system", "uid": "here"}})),
        });
        let start = tokio::time::Instant::now();
        assert_eq!(own_id(&away).await.expect("an id"), "here");
        // 1 + 2 + 4 + 8 + 10 + 10
        assert_eq!(start.elapsed().as_secs(), 35);
        let (refusing, seen) = cluster(|_| Answer::refusal(403, "Forbidden", "no"));
        assert!(own_id(&refusing).await.is_err());
        assert_eq!(seen.requests().len(), 1);
    }
}
