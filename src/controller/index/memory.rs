//! What the index remembers of our own doing: attempts, Secrets seen, statuses written. None of it
//! survives a restart, and none of it is needed then.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{Index, key_of};
use crate::api::{
    EntraPostgresPrincipal, EntraPostgresPrincipalStatus, EntraPostgresServer,
    EntraPostgresServerStatus,
};
use crate::model::secret::Content;
use crate::model::tries::Tries;
use crate::model::{Desired, ObjectKey, SourceVersion};

/// What one principal's last attempts came to; survives no restart.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The generation it is about: a changed object starts anew.
    pub generation: i64,
    /// Annotation `entrapostgres.io/reconcile` then: so does one with a new value.
    pub reconcile: Option<String>,
    /// That value is new: the server is asked whatever its snapshot says.
    pub asked_anew: bool,
    /// The role's half.
    pub role: Tries,
    /// The token's half.
    pub token: Tries,
    /// Annotation `entrapostgres.io/renew` then: a new value does not wait for what rests.
    pub renew: Option<String>,
    /// The sign-in with the published token.
    pub login: Tries,
    /// Nothing was tried since the operator started.
    pub fresh: bool,
}

impl Memory {
    /// Takes in what status remembers of failures, over a restart, and what is asked for now.
    #[must_use]
    pub fn with(mut self, desired: &Desired, status: &EntraPostgresPrincipalStatus) -> Self {
        if self.fresh && status.observed_generation == Some(desired.generation) {
            let failures = status.token.as_ref().and_then(|token| token.failures);
            self.token.failures = failures.and_then(|n| n.try_into().ok()).unwrap_or(0);
        }
        if self.renew != desired.renew {
            self.token.hold = None;
        }
        self.renew.clone_from(&desired.renew);
        self
    }
}

/// A Secret whose data was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Its uid and resourceVersion then.
    pub version: (String, String),
    /// What its data was compared with.
    pub inputs: String,
    /// How good it was.
    pub content: Content,
}

impl Index {
    /// What the last attempts of an object came to; anew when the object has changed, or somebody asked
    /// for it.
    pub fn memory(&self, uid: &str, generation: i64, reconcile: Option<&str>) -> Memory {
        let known = self.lock().memory.get(uid).cloned();
        let fresh = known.is_none();
        let before = known.as_ref().map(|memory| memory.reconcile.as_deref());
        let asked_anew = reconcile.is_some() && before.is_some_and(|before| before != reconcile);
        known
            .filter(|memory| memory.generation == generation && !asked_anew)
            .unwrap_or(Memory {
                generation,
                reconcile: reconcile.map(str::to_owned),
                asked_anew,
                fresh,
                ..Memory::default()
            })
    }

    /// Whether an object is still there as it was when its pass began.
    pub fn is_current(&self, key: &ObjectKey, uid: &str, generation: i64) -> bool {
        let state = self.lock();
        let newest = state.principals.get(key).map(|object| &object.metadata);
        newest.is_some_and(|newest| {
            newest.uid.as_deref() == Some(uid)
                && newest.generation.unwrap_or_default() == generation
        })
    }

    /// Whether a principal is still there, changed or not.
    pub fn is_live(&self, uid: &str) -> bool {
        self.lock().live.contains(uid)
    }

    /// Whether a server is still there, changed or not.
    pub fn is_live_server(&self, uid: &str) -> bool {
        self.lock().is_server(uid)
    }

    /// Whether there is a principal of that name, perhaps made anew.
    pub fn has_principal(&self, key: &ObjectKey) -> bool {
        self.lock().principals.contains_key(key)
    }

    /// Remembers what attempts came to.
    pub fn remember(&self, uid: &str, memory: Memory) {
        let mut state = self.lock();
        if state.live.contains(uid) {
            let memory = Memory {
                asked_anew: false,
                fresh: false,
                ..memory
            };
            state.memory.insert(uid.to_owned(), memory);
        }
    }

    /// The Secret of an object as we last wrote or read it.
    pub fn verified(&self, uid: &str) -> Option<Verified> {
        self.lock().verified.get(uid).cloned()
    }

    /// Remembers a Secret's data as seen, before its watch event can arrive.
    pub fn verify(&self, uid: &str, verified: Verified) {
        let mut state = self.lock();
        if state.live.contains(uid) {
            state.verified.insert(uid.to_owned(), verified);
        }
    }

    /// The status we last wrote, while the watch has not brought it yet; else as the watch has it.
    pub fn status(&self, object: &EntraPostgresPrincipal) -> EntraPostgresPrincipalStatus {
        let state = self.lock();
        let uid = object.uid().unwrap_or_default();
        if let Some(written) = state.statuses.get(&uid) {
            return written.clone();
        }
        // The object of a long pass may be older than what the watch brought since.
        let newest = state.principals.get(&key_of(object));
        let newest = newest.filter(|newest| newest.metadata.uid == object.metadata.uid);
        let status = newest.map_or(&object.status, |newest| &newest.status);
        status.clone().unwrap_or_default()
    }

    /// Remembers the status just written, unless the watch has brought it already.
    pub fn wrote_status(
        &self,
        object: &EntraPostgresPrincipal,
        status: EntraPostgresPrincipalStatus,
    ) {
        let mut state = self.lock();
        let uid = object.uid().unwrap_or_default();
        let newest = state.principals.get(&key_of(object));
        let arrived = newest.is_some_and(|newest| newest.status.as_ref() == Some(&status));
        if arrived || !state.live.contains(&uid) {
            state.statuses.remove(&uid);
        } else {
            state.statuses.insert(uid, status);
        }
    }

    /// The status of a server, as [`Index::status`] of a principal; and when we last wrote it.
    pub fn server_status(
        &self,
        object: &EntraPostgresServer,
    ) -> (EntraPostgresServerStatus, Option<Timestamp>) {
        let state = self.lock();
        let uid = object.uid().unwrap_or_default();
        let (written, at) = match state.server_statuses.get(&uid) {
            Some((written, at)) => (written.clone(), Some(*at)),
            None => (None, None),
        };
        let newest = state.servers.get(&key_of(object)).map(|seen| &seen.object);
        let newest = newest.filter(|newest| newest.metadata.uid == object.metadata.uid);
        let watched = || {
            newest
                .map_or(&object.status, |newest| &newest.status)
                .clone()
        };
        (written.or_else(watched).unwrap_or_default(), at)
    }

    /// Whether annotation `entrapostgres.io/reconcile` of a server has got a new value since we last saw it.
    pub fn server_asked_anew(&self, uid: &str, reconcile: Option<&str>) -> bool {
        let now = reconcile.map(str::to_owned);
        let mut state = self.lock();
        if !state.is_server(uid) {
            return false;
        }
        let before = state.server_asks.insert(uid.to_owned(), now.clone());
        now.is_some() && before.is_some_and(|before| before != now)
    }

    /// Whether what proves a server's administrators is another than when we last looked.
    pub fn server_proven_anew(&self, uid: &str, proofs: &[Option<SourceVersion>]) -> bool {
        let mut state = self.lock();
        if !state.is_server(uid) {
            return false;
        }
        let before = state.server_proofs.insert(uid.to_owned(), proofs.to_vec());
        before.is_some_and(|before| before != proofs)
    }

    /// Remembers the status of a server just written, unless the watch has brought it already.
    pub fn wrote_server_status(
        &self,
        object: &EntraPostgresServer,
        status: EntraPostgresServerStatus,
        at: Timestamp,
    ) {
        let mut state = self.lock();
        let uid = object.uid().unwrap_or_default();
        let newest = state.servers.get(&key_of(object)).map(|seen| &seen.object);
        let arrived = newest.is_some_and(|newest| newest.status.as_ref() == Some(&status));
        if state.is_server(&uid) {
            let awaited = (!arrived).then_some(status);
            state.server_statuses.insert(uid, (awaited, at));
        }
    }
}
