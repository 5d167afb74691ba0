//! Our own watchers: one task per scope, each with its own backoff, turned into one stream of
//! changes. Must not decide anything.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, Error as WatchError, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use super::kept::Kept;
use super::tasks::Tasks;
use crate::http::Readiness;
use crate::model::ObjectKey;
use crate::telemetry::Heartbeats;

/// So long a watch may bring neither an event nor a bookmark; the API server sends one of these every
/// minute or so, and ends a watch after five.
const SILENT: Duration = Duration::from_secs(600);
/// So many objects are listed at a time: each may have 1.5 MB, and all of a page are in memory at once.
const PAGE: u32 = 20;
/// The first pause after a watch was interrupted; doubled each time.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest: a kind that is installed after the operator is seen within seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Whoever has been well for so long begins with the first pause again.
const WELL: Duration = Duration::from_secs(120);

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    /// It is there, new or different or the same.
    Upsert(Arc<K>),
    /// It is gone.
    Gone(Arc<K>),
}

/// What became of the first list of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is awaited.
    Awaited,
    /// We may not list that namespace: its objects cannot be seen, and may be there. It is tried again.
    Refused,
    /// It has arrived.
    Done,
}

/// How far the watch of one kind in one scope is.
#[derive(Clone, Debug)]
pub struct Synced {
    /// `None`: all namespaces.
    pub namespace: Option<String>,
    /// Its first list.
    pub listed: watch::Receiver<Listed>,
}

/// What the API server sends of an object.
pub trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send {
    /// What we make of it.
    type Object: Resource<DynamicType = ()> + Kept;

    /// The object, or why this operator cannot read it.
    fn read(self) -> Result<Self::Object, String>;
}

/// Whole objects: one that cannot be read, made for a newer operator perhaps, stops no other.
impl<K> Watched for DeserializeGuard<K>
where
    K: Resource<DynamicType = ()> + Kept + Clone + Debug + DeserializeOwned + Send,
{
    type Object = K;

    fn read(self) -> Result<K, String> {
        self.0.map_err(|problem| problem.to_string())
    }
}

/// Metadata, and nothing else on the wire: inside the guard the API server would be asked for whole
/// objects. Metadata is the same for all operators and needs no guard.
impl<K> Watched for PartialObjectMeta<K>
where
    Self: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send,
{
    type Object = Self;

    fn read(self) -> Result<Self, String> {
        Ok(self)
    }
}

/// Where a watch shows how it is.
#[derive(Clone, Debug)]
pub struct Signs {
    /// Each event and bookmark.
    pub heartbeats: Heartbeats,
    /// A kind that the cluster does not know.
    pub readiness: Readiness,
}

/// Watches one kind in each of the scopes; `handle` takes each change in order.
pub fn watch<W>(
    tasks: &mut Tasks,
    scopes: Vec<Api<W>>,
    config: &Config,
    signs: &Signs,
    handle: impl Fn(Change<W::Object>) + Clone + Send + 'static,
) -> Vec<Synced>
where
    W: Watched + 'static,
    W::Object: Send + Sync,
{
    let mut synced = Vec::new();
    for api in scopes {
        let (told, listed) = watch::channel(Listed::Awaited);
        let namespace = api.namespace().map(str::to_owned);
        let place = namespace
            .as_ref()
            .map_or_else(String::new, |name| format!(" in namespace {name}"));
        let name = format!("the watch of {}{place}", W::plural(&()));
        signs
            .heartbeats
            .expect(api.resource_url(), name.clone(), SILENT);
        synced.push(Synced { namespace, listed });
        let config = config.clone().page_size(PAGE);
        let follow = follow(api, config, signs.clone(), handle.clone(), told);
        tasks.spawn(name, follow);
    }
    synced
}

/// The pauses between two attempts of a watch.
struct Pauses {
    next: Duration,
    last: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            next: PAUSE,
            last: None,
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > WELL) {
            self.next = PAUSE;
        }
        self.last = Some(Instant::now());
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

/// An event is no proof that all is well: a list begins with one before it is asked for.
impl Backoff for Pauses {
    fn reset(&mut self) {}
}

/// What is missing when the cluster does not know a kind.
fn unknown_kind<W: Watched>() -> String {
    format!(
        "the CustomResourceDefinition of {} ({})",
        W::plural(&()),
        W::api_version(&())
    )
}

fn is_unknown(error: &WatchError) -> bool {
    match error {
        WatchError::InitialListFailed(kube::Error::Api(status))
        | WatchError::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

async fn follow<W: Watched + 'static>(
    api: Api<W>,
    config: Config,
    signs: Signs,
    handle: impl Fn(Change<W::Object>),
    told: watch::Sender<Listed>,
) {
    let url = api.resource_url().to_owned();
    let namespace = api.namespace().map(str::to_owned);
    let mut known = Known {
        objects: HashMap::new(),
        listing: None,
    };
    let mut events = watcher(api, config).backoff(Pauses::default()).boxed();
    while let Some(event) = events.next().await {
        // Also an error: it is tried again, and a new process would not do better.
        signs.heartbeats.beat(&url);
        match event {
            Ok(event) => {
                let listed = matches!(event, Event::InitDone);
                if !matches!(event, Event::Init) {
                    signs.readiness.done(&unknown_kind::<W>());
                }
                known.take(event).into_iter().for_each(&handle);
                if listed {
                    told.send_replace(Listed::Done);
                }
            }
            Err(error) if is_unknown(&error) => {
                signs.readiness.lacks(unknown_kind::<W>());
                tracing::error!(kind = %W::kind(&()), "the cluster does not know {}: install {}",
                    W::plural(&()), unknown_kind::<W>());
            }
            // One namespace that is gone, or lost its Role, must not hold back all others.
            Err(WatchError::InitialListFailed(kube::Error::Api(status)))
                if status.code == 403 && namespace.is_some() =>
            {
                let namespace = namespace.as_deref().unwrap_or_default();
                tracing::error!(kind = %W::kind(&()), namespace, "the operator may not list this namespace and works without it: \
                     take it out of --watch-namespaces, or make it and the operator's Role in it again: {status}");
                told.send_if_modified(|listed| {
                    let awaited = *listed == Listed::Awaited;
                    if awaited {
                        *listed = Listed::Refused;
                    }
                    awaited
                });
            }
            Err(error) => {
                tracing::warn!(kind = %W::kind(&()), "watch interrupted, trying again: {error}");
            }
        }
    }
}

/// The objects of one scope, so that a list that follows an interruption shows what went away.
struct Known<W: Watched> {
    objects: HashMap<ObjectKey, Arc<W::Object>>,
    listing: Option<HashMap<ObjectKey, Arc<W::Object>>>,
}

impl<W: Watched> Known<W> {
    fn take(&mut self, event: Event<W>) -> Vec<Change<W::Object>> {
        match event {
            Event::Apply(object) => match read(object) {
                Ok((key, object)) => {
                    self.objects.insert(key, Arc::clone(&object));
                    vec![Change::Upsert(object)]
                }
                Err(_) => Vec::new(),
            },
            Event::Delete(object) => {
                let key = key_of(&object);
                let gone = self.objects.remove(&key);
                let gone = object.read().ok().map(|object| pruned(object).1).or(gone);
                gone.into_iter().map(Change::Gone).collect()
            }
            Event::Init => {
                // A list that was broken off: what it brought was told of, and may be gone by now.
                if let Some(half) = self.listing.replace(HashMap::new()) {
                    self.objects.extend(half);
                }
                Vec::new()
            }
            Event::InitApply(object) => match read(object) {
                Ok((key, object)) => {
                    let listing = self.listing.get_or_insert_default();
                    listing.insert(key, Arc::clone(&object));
                    vec![Change::Upsert(object)]
                }
                // It is there, so what was last read of it stays.
                Err(key) => {
                    if let Some(last) = self.objects.get(&key) {
                        let listing = self.listing.get_or_insert_default();
                        listing.insert(key, Arc::clone(last));
                    }
                    Vec::new()
                }
            },
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let before = std::mem::replace(&mut self.objects, listed);
                let gone = before
                    .into_iter()
                    .filter(|(key, _)| !self.objects.contains_key(key));
                gone.map(|(_, object)| Change::Gone(object)).collect()
            }
        }
    }
}

/// The object, or the key of one that cannot be read.
fn read<W: Watched>(object: W) -> Result<(ObjectKey, Arc<W::Object>), ObjectKey> {
    let key = key_of(&object);
    object.read().map(pruned).map_err(|problem| {
        let kind = W::kind(&());
        tracing::error!(%kind, object = %key, "{kind} {key} cannot be read and is left as it is: {problem}");
        key
    })
}

fn key_of(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

fn pruned<K: Resource<DynamicType = ()> + Kept>(mut object: K) -> (ObjectKey, Arc<K>) {
    object.shrink();
    (
        ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any()),
        Arc::new(object),
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    use super::*;
    use crate::cluster::testing::{Answer, client};

    impl Kept for ConfigMap {
        fn shrink(&mut self) {}
    }

    fn signs() -> Signs {
        Signs {
            heartbeats: Heartbeats::default(),
            readiness: Readiness::default(),
        }
    }

    fn object(name: &str) -> DeserializeGuard<ConfigMap> {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("ns".to_owned()),
            ..Default::default()
        };
        DeserializeGuard(Ok(ConfigMap {
            metadata,
            ..ConfigMap::default()
        }))
    }

    fn unreadable(name: &str) -> DeserializeGuard<ConfigMap> {
        let json = serde_json::json!({"metadata": {"name": name, "namespace": "ns"}, "data": 1});
        serde_json::from_value(json).expect("a guard takes everything")
    }

    // Red when: `follow` takes a refused list for any other interruption: one namespace that is gone keeps
    // an operator that starts from all others.
    #[tokio::test]
    async fn a_namespace_that_may_not_be_listed_holds_back_no_other() {
        let (client, _seen) = client(|asked| {
            if asked.path.contains("/namespaces/gone/") {
                return Answer::refusal(403, "Forbidden", "no such Role");
            }
            let metadata = serde_json::json!({"resourceVersion": "1"});
            Answer::ok(
                serde_json::json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": []}),
            )
        });
        let scope = |name| Api::<DeserializeGuard<ConfigMap>>::namespaced(client.clone(), name);
        let scopes = vec![scope("gone"), scope("there")];
        let mut tasks = Tasks::default();
        let mut listed = Vec::new();
        for mut each in watch(&mut tasks, scopes, &Config::default(), &signs(), |_| ()) {
            let told = each.listed.wait_for(|listed| *listed != Listed::Awaited);
            let told = *told.await.expect("it goes on");
            listed.push((each.namespace.unwrap_or_default(), told));
        }
        assert_eq!(
            listed,
            [
                ("gone".to_owned(), Listed::Refused),
                ("there".to_owned(), Listed::Done)
            ]
        );
    }

    #[test]
    fn an_object_that_cannot_be_read_is_not_gone_and_stops_no_other() {
        let mut known = Known {
            objects: HashMap::new(),
            listing: None,
        };
        known.take(Event::Apply(object("a")));
        assert!(known.take(Event::Apply(unreadable("a"))).is_empty());
        known.take(Event::Init);
        assert!(known.take(Event::InitApply(unreadable("a"))).is_empty());
        let changes = known.take(Event::InitApply(object("b")));
        assert!(matches!(&changes[..], [Change::Upsert(_)]), "{changes:?}");
        assert!(known.take(Event::InitDone).is_empty());
        let changes = known.take(Event::Delete(unreadable("a")));
        assert!(
            matches!(&changes[..], [Change::Gone(gone)] if gone.name_any() == "a"),
            "{changes:?}"
        );
    }

    #[test]
    fn what_is_missing_from_a_new_list_is_gone() {
        let mut known = Known {
            objects: HashMap::new(),
            listing: None,
        };
        for event in [
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
        ] {
            assert!(
                known
                    .take(event)
                    .iter()
                    .all(|change| matches!(change, Change::Upsert(_)))
            );
        }
        known.take(Event::Init);
        known.take(Event::InitApply(object("b")));
        let changes = known.take(Event::InitDone);
        assert!(
            matches!(&changes[..], [Change::Gone(gone)] if gone.name_any() == "a"),
            "{changes:?}"
        );
    }

    // Red when: `Event::Init` throws away what a list brought that was broken off.
    #[test]
    fn what_a_list_brought_that_was_broken_off_can_be_gone_too() {
        let mut known = Known {
            objects: HashMap::new(),
            listing: None,
        };
        known.take(Event::Init);
        known.take(Event::InitApply(object("a")));
        known.take(Event::Init);
        let changes = known.take(Event::InitDone);
        assert!(
            matches!(&changes[..], [Change::Gone(gone)] if gone.name_any() == "a"),
            "{changes:?}"
        );
    }
}
