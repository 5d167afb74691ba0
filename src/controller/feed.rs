//! Our watches, put to use: they feed the index, and the controllers with the objects that changed.
//! Must not decide anything.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::core::{DeserializeGuard, ObjectMeta, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, store};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource};

use super::index::{Index, Listening, Wakes, key_of};
use super::mailbox::Mailbox;
use super::tasks::Tasks;
use super::watches::{Change, Signs, Synced, watch};
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::cluster::{FIELD_MANAGER, MANAGED_BY, SecretMeta};
use crate::model::{DesiredServer, ObjectKey};
use crate::postgres::Sessions;
use crate::settings::Settings;
use crate::telemetry::{Metrics, ObjectKind};

/// The watches: they feed the index, and the controllers with the objects that changed.
pub struct Feed<'a> {
    /// Kubernetes.
    pub client: Client,
    /// Which namespaces, and which clouds servers may name.
    pub settings: &'a Settings,
    /// Takes every change.
    pub index: &'a Arc<Index>,
    /// Forgets the series of objects that are gone.
    pub metrics: &'a Metrics,
    /// Ends with their server objects.
    pub sessions: &'a Arc<Sessions>,
    /// Where the controllers read what changed.
    pub wakes: &'a Wakes,
    /// Where the watches show how they are.
    pub signs: &'a Signs,
}

/// Which objects there are. The objects themselves are kept once, in the index.
pub type Names<K> = Store<PartialObjectMeta<K>>;

impl Feed<'_> {
    fn scopes<K>(&self) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let namespaces = &self.settings.watch_namespaces;
        if namespaces.is_empty() {
            return vec![Api::all(self.client.clone())];
        }
        namespaces
            .iter()
            .map(|name| Api::namespaced(self.client.clone(), name))
            .collect()
    }

    /// Watches principals.
    pub fn principals(&self, tasks: &mut Tasks) -> (Names<EntraPostgresPrincipal>, Vec<Synced>) {
        let (names, store) =
            shelf::<EntraPostgresPrincipal>(&self.wakes.principals, &self.wakes.listening);
        let (index, metrics, sessions) = (
            Arc::clone(self.index),
            self.metrics.clone(),
            Arc::clone(self.sessions),
        );
        let synced = watch(
            tasks,
            self.scopes::<DeserializeGuard<EntraPostgresPrincipal>>(),
            &Config::default(),
            self.signs,
            move |change| match change {
                Change::Upsert(object) => {
                    let worth_a_look = index.upsert_principal(&object);
                    store.put(object.as_ref(), worth_a_look);
                }
                Change::Gone(object) => {
                    store.take(object.as_ref());
                    index.remove_principal(&object, &sessions);
                    metrics.forget(ObjectKind::Principal, &key_of(object.as_ref()));
                }
            },
        );
        (names, synced)
    }

    /// Watches servers.
    pub fn servers(&self, tasks: &mut Tasks) -> (Names<EntraPostgresServer>, Vec<Synced>) {
        let (names, store) =
            shelf::<EntraPostgresServer>(&self.wakes.servers, &self.wakes.listening);
        let (index, metrics, sessions) = (
            Arc::clone(self.index),
            self.metrics.clone(),
            Arc::clone(self.sessions),
        );
        let clouds = self.settings.clouds.clone();
        let synced = watch(
            tasks,
            self.scopes::<DeserializeGuard<EntraPostgresServer>>(),
            &Config::default(),
            self.signs,
            move |change| match change {
                Change::Upsert(object) => {
                    let parsed = DesiredServer::parse(&object, &clouds);
                    let changed = index.upsert_server(&object, parsed);
                    store.put(object.as_ref(), changed);
                }
                Change::Gone(object) => {
                    let key = key_of(object.as_ref());
                    store.take(object.as_ref());
                    // In this order: whoever starts a session looks into the index afterwards.
                    index.remove_server(&key, object.metadata.uid.as_deref().unwrap_or_default());
                    sessions.remove(&key);
                    metrics.forget(ObjectKind::Server, &key);
                }
            },
        );
        (names, synced)
    }

    /// Watches the metadata of our own Secrets.
    pub fn secrets(&self, tasks: &mut Tasks) -> Vec<Synced> {
        let index = Arc::clone(self.index);
        let ours = Config::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"));
        let scopes = self.scopes::<PartialObjectMeta<Secret>>();
        watch(
            tasks,
            scopes,
            &ours,
            self.signs,
            move |change| match change {
                Change::Upsert(object) => {
                    index
                        .upsert_secret(key_of(object.as_ref()), SecretMeta::from(&object.metadata));
                }
                Change::Gone(object) => index.remove_secret(&key_of(object.as_ref())),
            },
        )
    }
}

/// Fills the store of names that a controller reads from, and tells it which objects changed.
struct Shelf<K: Resource<DynamicType = ()> + Clone + 'static> {
    names: Mutex<Writer<PartialObjectMeta<K>>>,
    changed: Arc<Mailbox>,
    listening: Listening,
}

fn shelf<K>(changed: &Arc<Mailbox>, listening: &Listening) -> (Names<K>, Arc<Shelf<K>>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let (names, mut writer) = store();
    // An empty first list makes the store ready; what comes is put in one by one, from all scopes.
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
    // The controller looks at it as at any other: that shows that the controller works.
    writer.apply_watcher_event(&Event::Apply(named(&heartbeat())));
    (
        names,
        Arc::new(Shelf {
            names: Mutex::new(writer),
            changed: Arc::clone(changed),
            listening: listening.clone(),
        }),
    )
}

/// What each controller looks at to show that it works; no object has a name without a namespace.
pub fn heartbeat() -> ObjectKey {
    ObjectKey::new("", "heartbeat")
}

fn named<K>(key: &ObjectKey) -> PartialObjectMeta<K> {
    PartialObjectMeta {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            ..ObjectMeta::default()
        },
        types: None,
        _phantom: PhantomData,
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Shelf<K> {
    fn put(&self, object: &K, worth_a_look: bool) {
        let key = key_of(object);
        self.apply(&Event::Apply(named(&key)));
        // In this order: who begins to listen looks into the store afterwards.
        if worth_a_look && self.listening.is_on() {
            self.changed.put(key);
        }
    }

    fn take(&self, object: &K) {
        self.apply(&Event::Delete(named(&key_of(object))));
    }

    fn apply(&self, event: &Event<PartialObjectMeta<K>>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.apply_watcher_event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::super::testing::{index, sessions, settings};
    use super::*;
    use crate::cluster::testing::{Answer, client};
    use crate::http::Readiness;
    use crate::telemetry::Heartbeats;

    // Red when: the watch takes whole Secrets, for example inside kube's DeserializeGuard.
    #[tokio::test]
    async fn only_the_metadata_of_secrets_is_asked_for() {
        let (client, seen) = client(|_| Answer::refusal(500, "InternalError", "no"));
        let feed = Feed {
            client,
            settings: &settings(),
            index: &Arc::new(index()),
            metrics: &Metrics::new(),
            sessions: &sessions(),
            wakes: &Wakes::default(),
            signs: &Signs {
                heartbeats: Heartbeats::default(),
                readiness: Readiness::default(),
            },
        };
        let mut tasks = Tasks::default();
        feed.secrets(&mut tasks);
        while seen.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let asked = seen.only();
        assert!(asked.path.ends_with("/secrets"), "{}", asked.path);
        assert!(
            asked.accept.contains("as=PartialObjectMetadata"),
            "{}",
            asked.accept
        );
    }

    // Red when: `put` sends what nobody reads, or keeps it out of the store.
    #[test]
    fn a_standby_keeps_objects_and_queues_nothing() {
        let (changed, listening) = (Arc::default(), Listening::default());
        let (objects, shelf) = shelf::<ConfigMap>(&changed, &listening);
        // The controller's sign of life.
        let before = objects.len();
        let mut object = ConfigMap::default();
        object.metadata.name = Some("a".to_owned());
        shelf.put(&object, true);
        assert!(changed.take().is_none());
        assert_eq!(objects.len(), before + 1);
        listening.begin();
        shelf.put(&object, true);
        assert!(changed.take().is_some());
    }
}
