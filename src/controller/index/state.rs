//! The maps behind the index, and how an object leaves them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::RwLock;

use super::memory::{Memory, Verified};
use crate::api::{
    EntraPostgresPrincipal, EntraPostgresPrincipalStatus, EntraPostgresServer,
    EntraPostgresServerStatus,
};
use crate::cluster::{Held, SecretMeta};
use crate::model::report::READY;
use crate::model::{DesiredServer, Failure, ObjectKey, SourceVersion};

#[derive(Default)]
pub(super) struct State {
    /// Uids of `principals`: nothing is remembered of others.
    pub(super) live: HashSet<String>,
    pub(super) principals: HashMap<ObjectKey, Arc<EntraPostgresPrincipal>>,
    pub(super) by_server: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    pub(super) by_secret: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    pub(super) servers: HashMap<ObjectKey, SeenServer>,
    pub(super) secrets: HashMap<ObjectKey, SecretMeta>,
    /// Secrets by the uid of their controller.
    pub(super) by_controller: HashMap<String, BTreeSet<ObjectKey>>,
    pub(super) memory: HashMap<String, Memory>,
    pub(super) verified: HashMap<String, Verified>,
    pub(super) statuses: HashMap<String, EntraPostgresPrincipalStatus>,
    /// Values of annotation `entrapostgres.io/reconcile`, by uid.
    pub(super) server_asks: HashMap<String, Option<String>>,
    /// What proved the administrators of servers when we last looked, by uid.
    pub(super) server_proofs: HashMap<String, Vec<Option<SourceVersion>>>,
    /// The statuses of servers that we last wrote, until the watch has them; and when that was, by uid.
    pub(super) server_statuses: HashMap<String, (Option<EntraPostgresServerStatus>, Timestamp)>,
    /// Our finalizers on principals and servers, by uid.
    pub(super) finalizers: HashMap<String, Finalizer>,
    /// Taken by who adds or removes the finalizer of a server.
    pub(super) gates: HashMap<ObjectKey, Arc<RwLock<()>>>,
}

/// A server object as the watch has it, and what it declares.
pub(super) struct SeenServer {
    pub(super) object: Arc<EntraPostgresServer>,
    pub(super) parsed: Result<Arc<DesiredServer>, Failure>,
}

/// Whether our finalizer is on an object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Finalizer {
    /// As the watch has it.
    seen: bool,
    /// As we wrote it, until the watch brings it.
    written: Option<bool>,
}

impl Finalizer {
    pub(super) fn see(&mut self, there: bool) {
        self.seen = there;
        self.written = self.written.filter(|written| *written != there);
    }

    pub(super) fn write(&mut self, there: bool) {
        self.written = (self.seen != there).then_some(there);
    }

    pub(super) fn is_there(self) -> bool {
        self.written.unwrap_or(self.seen)
    }
}

impl State {
    /// Takes an object out of where its former self was, when that was made again or changed.
    pub(super) fn leave(
        &mut self,
        key: &ObjectKey,
        before: &EntraPostgresPrincipal,
        now: &EntraPostgresPrincipal,
    ) {
        if server_of(before) != server_of(now) {
            remove(&mut self.by_server, &server_of(before), key);
        }
        if let Some(secret) =
            secret_of(before).filter(|secret| secret_of(now).as_ref() != Some(secret))
        {
            remove(&mut self.by_secret, &secret, key);
        }
        if before.metadata.uid != now.metadata.uid {
            self.forget(&before.uid().unwrap_or_default());
        }
    }

    pub(super) fn forget(&mut self, uid: &str) {
        self.live.remove(uid);
        self.memory.remove(uid);
        self.verified.remove(uid);
        self.statuses.remove(uid);
        self.finalizers.remove(uid);
    }

    pub(super) fn forget_server(&mut self, uid: &str) {
        self.server_statuses.remove(uid);
        self.server_asks.remove(uid);
        self.server_proofs.remove(uid);
        self.finalizers.remove(uid);
    }

    /// Whether there is a server with that uid: nothing is remembered of others.
    pub(super) fn is_server(&self, uid: &str) -> bool {
        let mut servers = self.servers.values();
        servers.any(|server| server.object.metadata.uid.as_deref() == Some(uid))
    }

    pub(super) fn see_finalizer(&mut self, object: &impl Held) {
        let uid = object.uid().unwrap_or_default();
        let finalizer = self.finalizers.entry(uid).or_default();
        finalizer.see(object.is_held());
    }

    /// Whether our finalizer is on an object that we know.
    pub(super) fn holds(&self, uid: Option<&str>) -> bool {
        let finalizer = uid.and_then(|uid| self.finalizers.get(uid));
        finalizer.is_some_and(|finalizer| finalizer.is_there())
    }

    pub(super) fn has_verified(&self, principal: &ObjectKey, version: &(String, String)) -> bool {
        let uid = self
            .principals
            .get(principal)
            .and_then(|object| object.uid());
        let verified = uid.and_then(|uid| self.verified.get(&uid));
        verified.is_some_and(|verified| verified.version == *version)
    }

    /// Puts a Secret in the place of the one that was there, or takes it away.
    pub(super) fn put_secret(&mut self, key: ObjectKey, meta: Option<SecretMeta>) {
        let controller = meta.as_ref().and_then(|meta| meta.controller_uid.clone());
        let before = match meta {
            Some(meta) => self.secrets.insert(key.clone(), meta),
            None => self.secrets.remove(&key),
        };
        if let Some(uid) = before.and_then(|before| before.controller_uid) {
            remove(&mut self.by_controller, &uid, &key);
        }
        if let Some(uid) = controller {
            self.by_controller.entry(uid).or_default().insert(key);
        }
    }

    /// The principal whose Secret this is, if it declares another one, or none, by now.
    pub(super) fn left_by(&self, secret: &ObjectKey, meta: &SecretMeta) -> Option<ObjectKey> {
        let (_, name) = meta.controller.as_ref()?;
        let key = ObjectKey::new(&secret.namespace, name);
        let object = self.principals.get(&key)?;
        let left =
            object.uid() == meta.controller_uid && secret_of(object).as_ref() != Some(secret);
        left.then_some(key)
    }

    pub(super) fn same_role(&self, server: &ObjectKey, role: &str) -> BTreeSet<ObjectKey> {
        let keys = self.by_server.get(server).into_iter().flatten();
        let wants = |key: &&ObjectKey| {
            self.principals
                .get(*key)
                .is_some_and(|object| object.spec.role_name == role)
        };
        keys.filter(wants).cloned().collect()
    }
}

pub(super) fn server_of(object: &EntraPostgresPrincipal) -> ObjectKey {
    let reference = &object.spec.server_ref;
    let namespace = reference.namespace.clone().or_else(|| object.namespace());
    ObjectKey::new(namespace.unwrap_or_default(), &reference.name)
}

pub(super) fn secret_of(object: &EntraPostgresPrincipal) -> Option<ObjectKey> {
    let token = object.spec.token.as_ref()?;
    let name = token
        .secret
        .name
        .clone()
        .unwrap_or_else(|| object.name_any());
    Some(ObjectKey::new(object.namespace().unwrap_or_default(), name))
}

pub(super) fn is_ready(object: &EntraPostgresPrincipal) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == READY && condition.status == "True")
}

/// What decides whether a change is worth a look: our own writes of status are not.
pub(super) fn fingerprint(object: &EntraPostgresPrincipal) -> impl PartialEq + use<> {
    let meta = &object.metadata;
    (
        meta.uid.clone(),
        meta.generation,
        meta.deletion_timestamp.is_some(),
        meta.finalizers.clone(),
        meta.annotations.clone(),
    )
}

pub(super) fn remove<K: Eq + Hash>(
    map: &mut HashMap<K, BTreeSet<ObjectKey>>,
    key: &K,
    member: &ObjectKey,
) {
    if let Some(members) = map.get_mut(key) {
        members.remove(member);
        if members.is_empty() {
            map.remove(key);
        }
    }
}
