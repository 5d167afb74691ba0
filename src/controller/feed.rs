//! Our watches, put to use: they feed the index, and the controllers with the objects that changed.
//! Must not decide anything.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Store, store};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::index::{Index, Listening, key_of};
use super::watches::{Change, Synced, watch};
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::cluster::{FIELD_MANAGER, MANAGED_BY, SecretMeta};
use crate::model::DesiredServer;
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
    /// Whether the controllers take what changed.
    pub listening: &'a Listening,
}

/// Objects that changed, and all objects.
pub type Objects<K> = (UnboundedReceiver<K>, Store<K>);

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
    pub fn principals(
        &self,
        tasks: &mut JoinSet<()>,
    ) -> (Objects<EntraPostgresPrincipal>, Vec<Synced>) {
        let (sender, receiver) = unbounded_channel();
        let (objects, store) = shelf(sender, self.listening.clone());
        let (index, metrics, sessions) = (
            Arc::clone(self.index),
            self.metrics.clone(),
            Arc::clone(self.sessions),
        );
        let synced = watch(
            tasks,
            self.scopes::<DeserializeGuard<EntraPostgresPrincipal>>(),
            &Config::default(),
            move |change| match change {
                Change::Upsert(object) => {
                    let worth_a_look = index.upsert_principal(&object);
                    store.put(&object, worth_a_look);
                }
                Change::Gone(object) => {
                    store.take(&object);
                    index.remove_principal(&object, &sessions);
                    metrics.forget(ObjectKind::Principal, &key_of(object.as_ref()));
                }
            },
        );
        ((receiver, objects), synced)
    }

    /// Watches servers.
    pub fn servers(&self, tasks: &mut JoinSet<()>) -> (Objects<EntraPostgresServer>, Vec<Synced>) {
        let (sender, receiver) = unbounded_channel();
        let (objects, store) = shelf(sender, self.listening.clone());
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
            move |change| match change {
                Change::Upsert(object) => {
                    let parsed = DesiredServer::parse(&object, &clouds);
                    let changed = index.upsert_server(&object, parsed);
                    store.put(&object, changed);
                }
                Change::Gone(object) => {
                    let key = key_of(object.as_ref());
                    store.take(&object);
                    // In this order: whoever starts a session looks into the index afterwards.
                    index.remove_server(&key, object.metadata.uid.as_deref().unwrap_or_default());
                    sessions.remove(&key);
                    metrics.forget(ObjectKind::Server, &key);
                }
            },
        );
        ((receiver, objects), synced)
    }

    /// Watches the metadata of our own Secrets.
    pub fn secrets(&self, tasks: &mut JoinSet<()>) -> Vec<Synced> {
        let index = Arc::clone(self.index);
        let ours = Config::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"));
        let scopes = self.scopes::<PartialObjectMeta<Secret>>();
        watch(tasks, scopes, &ours, move |change| match change {
            Change::Upsert(object) => {
                index.upsert_secret(key_of(object.as_ref()), SecretMeta::from(&object.metadata));
            }
            Change::Gone(object) => index.remove_secret(&key_of(object.as_ref())),
        })
    }
}

/// Fills the store a controller reads from, and tells it which objects changed.
struct Shelf<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Mutex<Writer<K>>,
    changed: UnboundedSender<K>,
    listening: Listening,
}

fn shelf<K>(changed: UnboundedSender<K>, listening: Listening) -> (Store<K>, Arc<Shelf<K>>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let (objects, mut writer) = store();
    // An empty first list makes the store ready; what comes is put in one by one, from all scopes.
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
    (
        objects,
        Arc::new(Shelf {
            store: Mutex::new(writer),
            changed,
            listening,
        }),
    )
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Shelf<K> {
    fn put(&self, object: &Arc<K>, worth_a_look: bool) {
        self.apply(&Event::Apply(K::clone(object)));
        // In this order: who begins to listen looks into the store afterwards.
        if worth_a_look && self.listening.is_on() {
            let _ = self.changed.send(K::clone(object));
        }
    }

    fn take(&self, object: &Arc<K>) {
        self.apply(&Event::Delete(K::clone(object)));
    }

    fn apply(&self, event: &Event<K>) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.apply_watcher_event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::super::testing::{index, sessions, settings};
    use super::*;
    use crate::cluster::testing::{Answer, client};

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
            listening: &Listening::default(),
        };
        let mut tasks = JoinSet::new();
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
        let (sender, mut changed) = unbounded_channel();
        let listening = Listening::default();
        let (objects, shelf) = shelf(sender, listening.clone());
        let mut object = ConfigMap::default();
        object.metadata.name = Some("a".to_owned());
        let object = Arc::new(object);
        shelf.put(&object, true);
        assert!(changed.try_recv().is_err());
        assert_eq!(objects.state().len(), 1);
        listening.begin();
        shelf.put(&object, true);
        assert!(changed.try_recv().is_ok());
    }
}
