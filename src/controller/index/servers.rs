//! The part of the index about servers: what they declare, who needs them, and whether our
//! finalizers are on them and on their principals.

use std::sync::Arc;

use kube::ResourceExt;
use tokio::sync::RwLock;

use super::state::SeenServer;
use super::{Index, key_of};
use crate::api::{EntraPostgresPrincipal, EntraPostgresServer};
use crate::cluster::Held;
use crate::model::ending::{Stake, is_abandoned};
use crate::model::{DesiredServer, Failure, ObjectKey};

impl Index {
    /// Takes a server, and wakes its principals if what it declares changed or it is being deleted; true if
    /// more than its status changed.
    pub fn upsert_server(
        &self,
        object: &Arc<EntraPostgresServer>,
        parsed: Result<DesiredServer, Failure>,
    ) -> bool {
        let key = key_of(object.as_ref());
        let mut state = self.lock();
        let seen = SeenServer {
            object: Arc::clone(object),
            parsed: parsed.map(Arc::new),
        };
        state.see_finalizer(object.as_ref());
        let uid = object.uid().unwrap_or_default();
        if let Some((awaited, _)) = state.server_statuses.get_mut(&uid)
            && *awaited == object.status
        {
            *awaited = None;
        }
        let now = (seen.parsed.clone(), is_deleted(object));
        let before = state.servers.insert(key.clone(), seen);
        if let Some(before) = &before
            && before.object.uid() != object.uid()
        {
            state.forget_server(&before.object.uid().unwrap_or_default());
        }
        drop(state);
        let declares = before
            .as_ref()
            .map(|before| (before.parsed.clone(), is_deleted(&before.object)));
        let changed = declares.as_ref() != Some(&now);
        if changed {
            self.wake_principals_of(&key);
        }
        let ends = |object: &EntraPostgresServer| {
            (object.metadata.finalizers.clone(), is_abandoned(object))
        };
        changed || before.is_none_or(|before| ends(&before.object) != ends(object))
    }

    /// Forgets a server and wakes its principals.
    pub fn remove_server(&self, key: &ObjectKey, uid: &str) {
        let mut state = self.lock();
        state.servers.remove(key);
        state.gates.remove(key);
        state.forget_server(uid);
        drop(state);
        self.wake_principals_of(key);
    }

    /// What a server declares; `None`: there is no such object.
    pub fn server(&self, key: &ObjectKey) -> Option<Result<Arc<DesiredServer>, Failure>> {
        let state = self.lock();
        state.servers.get(key).map(|server| server.parsed.clone())
    }

    /// A server object as the watch last saw it.
    pub fn server_object(&self, key: &ObjectKey) -> Option<Arc<EntraPostgresServer>> {
        let state = self.lock();
        let server = state.servers.get(key);
        server.map(|server| Arc::clone(&server.object))
    }

    /// All server objects.
    pub fn server_objects(&self) -> Vec<Arc<EntraPostgresServer>> {
        let state = self.lock();
        let servers = state.servers.values();
        servers.map(|server| Arc::clone(&server.object)).collect()
    }

    /// The principals without which a server must not go, by name.
    pub fn needing(&self, server: &ObjectKey) -> Vec<Arc<EntraPostgresPrincipal>> {
        let state = self.lock();
        let declared = state.servers.get(server).map(|server| &server.parsed);
        let declared = declared.and_then(|parsed| parsed.as_deref().ok());
        let keys = state.by_server.get(server).into_iter().flatten();
        let objects = keys.filter_map(|key| state.principals.get(key));
        let needs = |object: &&Arc<EntraPostgresPrincipal>| {
            let held = state.holds(object.metadata.uid.as_deref());
            Stake::of(object, held).needs(&key_of(object.as_ref()).namespace, declared)
        };
        objects.filter(needs).cloned().collect()
    }

    /// The principals of a server that have our finalizer, by name.
    pub fn held(&self, server: &ObjectKey) -> Vec<Arc<EntraPostgresPrincipal>> {
        let state = self.lock();
        let keys = state.by_server.get(server).into_iter().flatten();
        let objects = keys.filter_map(|key| state.principals.get(key));
        let held =
            |object: &&Arc<EntraPostgresPrincipal>| state.holds(object.metadata.uid.as_deref());
        objects.filter(held).cloned().collect()
    }

    /// Whether our finalizer is on an object: as we last wrote it, or else as the watch has it.
    pub fn holds(&self, object: &impl Held) -> bool {
        self.lock().holds(object.meta().uid.as_deref())
    }

    /// Remembers that our finalizer was just added or removed.
    pub fn wrote_finalizer(&self, object: &impl Held, there: bool) {
        let uid = object.uid().unwrap_or_default();
        if let Some(finalizer) = self.lock().finalizers.get_mut(&uid) {
            finalizer.write(there);
        }
    }

    /// Taken for writing to add or remove the finalizer of a server, for reading to add that of a
    /// principal: so none is added to a principal of a server that is let go at that moment.
    pub fn gate(&self, server: &ObjectKey) -> Arc<RwLock<()>> {
        let mut state = self.lock();
        if !state.servers.contains_key(server) {
            // There is nothing to hold.
            return Arc::default();
        }
        Arc::clone(state.gates.entry(server.clone()).or_default())
    }
}

fn is_deleted(object: &EntraPostgresServer) -> bool {
    object.metadata.deletion_timestamp.is_some()
}
