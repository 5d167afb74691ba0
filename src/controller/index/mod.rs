//! What our watchers saw: objects by name, role, Secret and server, and what each principal's last
//! attempts came to. Fed by watchers, deletions too; wakes the objects that a change concerns.

mod memory;
mod servers;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kube::ResourceExt;
use tokio::sync::watch::Receiver;

pub use memory::{Memory, Verified};

use crate::api::{EntraPostgresPrincipal, PrincipalCounts};
use crate::cluster::{Held as _, SecretMeta};
use crate::model::ending::Stake;
use crate::model::marker::{MadeFor, Marker};
use crate::model::observed::MarkerOwner;
use crate::model::{Desired, ObjectKey, RoleName};
use crate::postgres::Sessions;

use super::mailbox::Mailbox;
use super::watches::{Listed, Synced};
use state::{State, fingerprint, is_ready, remove, secret_of, server_of};

/// Whether the controllers work. A standby's do not: what is sent to them would be read by nobody and
/// only grow, so that nothing is sent. Whoever begins to listen looks at every object once.
#[derive(Clone, Debug, Default)]
pub struct Listening(Arc<AtomicBool>);

impl Listening {
    /// From here on everything is sent.
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it makes sense to send.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Where wakes go.
#[derive(Clone, Debug, Default)]
pub struct Wakes {
    /// To the controller of principals.
    pub principals: Arc<Mailbox>,
    /// To the controller of servers.
    pub servers: Arc<Mailbox>,
    /// Whether they go anywhere.
    pub listening: Listening,
}

/// The clusters whose markers concern us.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// The id of this one.
    pub own: String,
    /// Ids whose roles we take over.
    pub former: Vec<String>,
    /// The namespaces we watch; `None`: all. What lies elsewhere cannot be seen to be gone.
    pub watched: Option<BTreeSet<String>>,
}

/// The index. Locks are held for look-ups only.
pub struct Index {
    state: Mutex<State>,
    wakes: Wakes,
    clusters: Clusters,
    /// By namespace, whether its principals can be seen.
    seen: OnceLock<BTreeMap<String, Receiver<Listed>>>,
}

impl Index {
    /// An empty index.
    pub fn new(wakes: Wakes, clusters: Clusters) -> Self {
        Self {
            state: Mutex::default(),
            wakes,
            clusters,
            seen: OnceLock::new(),
        }
    }

    /// The watches that bring the principals: what they cannot see is not gone.
    pub fn sees_by(&self, principals: &[Synced]) {
        let by_namespace = principals.iter().filter_map(|watch| {
            let namespace = watch.namespace.clone()?;
            Some((namespace, watch.listed.clone()))
        });
        // There is one set of watches.
        let _ = self.seen.set(by_namespace.collect());
    }

    fn sees(&self, namespace: &str) -> bool {
        let watch = self.seen.get().and_then(|seen| seen.get(namespace));
        self.clusters.watches(namespace)
            && watch.is_none_or(|listed| *listed.borrow() == Listed::Done)
    }

    /// The id of this cluster.
    pub fn cluster_id(&self) -> &str {
        &self.clusters.own
    }

    /// Takes a principal; true if more than its status changed.
    pub fn upsert_principal(&self, object: &Arc<EntraPostgresPrincipal>) -> bool {
        let key = key_of(object.as_ref());
        let mut state = self.lock();
        let before = state.principals.insert(key.clone(), Arc::clone(object));
        if let Some(before) = &before {
            state.leave(&key, before, object);
        }
        let uid = object.uid().unwrap_or_default();
        if object.status.is_some() && state.statuses.get(&uid) == object.status.as_ref() {
            // The watch has caught up; from here on it shows what anybody else makes of it.
            state.statuses.remove(&uid);
        }
        state.live.insert(uid);
        state.see_finalizer(object.as_ref());
        state
            .by_server
            .entry(server_of(object))
            .or_default()
            .insert(key.clone());
        if let Some(secret) = secret_of(object) {
            state.by_secret.entry(secret).or_default().insert(key);
        }
        let server = server_of(object);
        drop(state);
        let concerns_server = |object: &EntraPostgresPrincipal| {
            (is_ready(object), Stake::of(object, object.is_held()))
        };
        if before.as_deref().map(concerns_server) != Some(concerns_server(object)) {
            self.wake_server(&server);
        }
        before.is_none_or(|before| fingerprint(&before) != fingerprint(object))
    }

    /// Forgets a principal and wakes those that wanted its role or Secret.
    pub fn remove_principal(&self, object: &EntraPostgresPrincipal, sessions: &Sessions) {
        let key = key_of(object);
        let server = server_of(object);
        let mut state = self.lock();
        state.principals.remove(&key);
        let uid = object.uid().unwrap_or_default();
        state.forget(&uid);
        remove(&mut state.by_server, &server, &key);
        let mut concerned = state.same_role(&server, &object.spec.role_name);
        if let Some(secret) = secret_of(object) {
            remove(&mut state.by_secret, &secret, &key);
            concerned.extend(state.by_secret.get(&secret).into_iter().flatten().cloned());
        }
        drop(state);
        self.end_interest(object, sessions);
        self.wake_principals(concerned);
        self.wake_server(&server);
    }

    /// A session need not look at a role that nobody wants any more.
    pub fn end_interest(&self, object: &EntraPostgresPrincipal, sessions: &Sessions) {
        let server = server_of(object);
        let wanting = self.lock().same_role(&server, &object.spec.role_name);
        let unwanted = wanting.is_empty();
        if let (true, Some(session), Ok(role)) = (
            unwanted,
            sessions.get(&server),
            RoleName::parse(&object.spec.role_name),
        ) {
            session.forget(&role);
        }
    }

    /// Takes a Secret's metadata and wakes who wants it, unless we wrote this very version.
    pub fn upsert_secret(&self, key: ObjectKey, meta: SecretMeta) {
        let mut state = self.lock();
        let concerned = state.by_secret.get(&key).cloned().unwrap_or_default();
        let ours = concerned
            .iter()
            .any(|key| state.has_verified(key, &version(&meta)));
        let left = state.left_by(&key, &meta);
        state.put_secret(key, Some(meta));
        drop(state);
        if !ours {
            self.wake_principals(concerned);
        }
        self.wake_principals(left.into_iter().collect());
    }

    /// Forgets a Secret and wakes who wants it.
    pub fn remove_secret(&self, key: &ObjectKey) {
        let mut state = self.lock();
        state.put_secret(key.clone(), None);
        let concerned = state.by_secret.get(key).cloned().unwrap_or_default();
        drop(state);
        self.wake_principals(concerned);
    }

    /// A Secret of ours as the watch last saw it; `None`: not seen, which is no proof of absence.
    pub fn secret(&self, key: &ObjectKey) -> Option<SecretMeta> {
        self.lock().secrets.get(key).cloned()
    }

    /// Names of the Secrets of a namespace whose controller has that uid, and that stay.
    pub fn secrets_of(&self, namespace: &str, uid: &str) -> BTreeSet<String> {
        let state = self.lock();
        let keys = state.by_controller.get(uid).into_iter().flatten();
        let staying = |key: &&ObjectKey| {
            let meta = state.secrets.get(*key);
            key.namespace == namespace && meta.is_some_and(|meta| !meta.deleting)
        };
        keys.filter(staying).map(|key| key.name.clone()).collect()
    }

    /// The principals that name a server, and those that are ready.
    pub fn counts(&self, server: &ObjectKey) -> PrincipalCounts {
        let state = self.lock();
        let keys = state.by_server.get(server);
        let objects = keys
            .into_iter()
            .flatten()
            .filter_map(|key| state.principals.get(key));
        objects.fold(PrincipalCounts::default(), |counts, object| {
            PrincipalCounts {
                total: counts.total + 1,
                ready: counts.ready + i64::from(is_ready(object)),
            }
        })
    }

    /// Whose role a marker says it is.
    pub fn marker_owner(&self, desired: &Desired, marker: &Marker) -> MarkerOwner {
        self.owner_of(&desired.uid, &desired.role, &MadeFor::from(marker))
    }

    /// Whether the object that a role was made for still wants it, as the object with uid `us` sees it.
    pub fn owner_of(&self, us: &str, role: &RoleName, marker: &MadeFor) -> MarkerOwner {
        if marker.cluster != self.clusters.own {
            return if self.clusters.former.contains(&marker.cluster) {
                MarkerOwner::FormerCluster
            } else {
                MarkerOwner::OtherCluster
            };
        }
        if marker.uid == us {
            return MarkerOwner::Us;
        }
        if !self.sees(&marker.key.namespace) {
            return MarkerOwner::Other;
        }
        let state = self.lock();
        match state.principals.get(&marker.key) {
            // Through whichever server object: two of them may name one server in two ways.
            Some(other)
                if other.uid().as_deref() == Some(marker.uid.as_str())
                    && other.spec.role_name == role.as_str() =>
            {
                MarkerOwner::Other
            }
            _ => MarkerOwner::Gone,
        }
    }

    /// Wakes every principal of a server.
    pub fn wake_principals_of(&self, server: &ObjectKey) {
        let keys = self
            .lock()
            .by_server
            .get(server)
            .cloned()
            .unwrap_or_default();
        self.wake_principals(keys);
    }

    /// Wakes the principals that want one of these roles.
    pub fn wake_roles(&self, server: &ObjectKey, roles: &BTreeSet<RoleName>) {
        let state = self.lock();
        let keys = roles
            .iter()
            .flat_map(|role| state.same_role(server, role.as_str()))
            .collect();
        drop(state);
        self.wake_principals(keys);
    }

    /// Wakes the other principals that want the same role: it has just become, or changed as, ours.
    pub fn wake_rivals(&self, desired: &Desired) {
        let mut keys = self
            .lock()
            .same_role(&desired.server, desired.role.as_str());
        keys.remove(&desired.key);
        self.wake_principals(keys);
    }

    /// Wakes a server.
    pub fn wake_server(&self, key: &ObjectKey) {
        if !self.wakes.listening.is_on() {
            return;
        }
        self.wakes.servers.put(key.clone());
    }

    /// A principal as the watch last saw it.
    pub fn principal(&self, key: &ObjectKey) -> Option<Arc<EntraPostgresPrincipal>> {
        self.lock().principals.get(key).cloned()
    }

    fn wake_principals(&self, keys: BTreeSet<ObjectKey>) {
        if !self.wakes.listening.is_on() {
            return;
        }
        for key in keys {
            self.wakes.principals.put(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clusters {
    fn watches(&self, namespace: &str) -> bool {
        self.watched
            .as_ref()
            .is_none_or(|watched| watched.contains(namespace))
    }
}

/// Uid and resourceVersion of a Secret.
pub fn version(meta: &SecretMeta) -> (String, String) {
    (meta.uid.clone(), meta.resource_version.clone())
}

/// Namespace and name of an object.
pub fn key_of(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}
