//! What a session does inside databases: opens connections to them, and sends what waits for each. Must
//! not decide what a role should have there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::{
    Basis, Class, DatabaseCatalog, DatabaseInterest, Failure, PrivilegeStep, Reason, RoleName,
};

use super::answers::{Finished, reply};
use super::change::{self, Line, Patience};
use super::clear::{self, Cleared};
use super::databases::{HOME, Place};
use super::dial::{Refusal, dial};
use super::grant;
use super::inside_answers::Came;
use super::serve::PIPELINE;
use super::session::Applied;
use super::shared::Interests;
use super::worker::Worker;

/// How long a change waits for a lock in a database: all others there wait behind it.
const LONGEST_INSIDE: Duration = Duration::from_secs(1);

/// A question about a database.
#[derive(Debug)]
pub(super) struct LookInside {
    pub role: RoleName,
    pub interest: DatabaseInterest,
    /// Whether the connection it was asked on before was lost.
    pub again: bool,
    pub reply: oneshot::Sender<Result<Arc<DatabaseCatalog>, Failure>>,
}

/// Work in a database.
#[derive(Debug)]
pub(super) enum Errand {
    Apply(ApplyInside),
    Clear(ClearInside),
}

#[derive(Debug)]
pub(super) struct ApplyInside {
    /// Whose it is.
    pub namespace: Arc<str>,
    /// How often it came upon a lock.
    pub locked: u32,
    pub role: RoleName,
    pub basis: Basis,
    pub steps: Vec<PrivilegeStep>,
    pub interest: DatabaseInterest,
    pub reply: oneshot::Sender<Result<Applied<Arc<DatabaseCatalog>, PrivilegeStep>, Failure>>,
}

#[derive(Debug)]
pub(super) struct ClearInside {
    /// Whose it is.
    pub namespace: Arc<str>,
    /// How often it came upon a lock.
    pub locked: u32,
    pub role: RoleName,
    pub ours: String,
    pub reassign_to: Option<RoleName>,
    pub reply: oneshot::Sender<Result<Cleared, Failure>>,
}

/// What is asked of a session about one database.
#[derive(Debug)]
pub(super) enum Inside {
    Look(LookInside),
    Work(Errand),
}

impl LookInside {
    pub fn refuse(self, failure: Failure) {
        reply(self.reply, Err(failure));
    }
}

impl Errand {
    /// Answers with a failure.
    pub fn refuse(self, failure: Failure) {
        match self {
            Self::Apply(apply) => reply(apply.reply, Err(failure)),
            Self::Clear(clear) => reply(clear.reply, Err(failure)),
        }
    }

    fn is_awaited(&self) -> bool {
        match self {
            Self::Apply(apply) => !apply.reply.is_closed(),
            Self::Clear(clear) => !clear.reply.is_closed(),
        }
    }

    pub fn namespace(&self) -> Arc<str> {
        match self {
            Self::Apply(apply) => apply.namespace.clone(),
            Self::Clear(clear) => clear.namespace.clone(),
        }
    }
}

/// Who is interested in that database, and in what.
pub(super) fn interested_in<'a>(
    interests: &'a Interests,
    database: &'a str,
) -> impl Iterator<Item = (&'a RoleName, &'a DatabaseInterest)> {
    let of_each = interests.iter();
    of_each.filter_map(move |(role, interest)| Some((role, interest.databases.get(database)?)))
}

impl Worker {
    /// Takes work for a database.
    pub fn take_inside(&mut self, database: &str, inside: Inside) {
        let room = self.rooms.room(database);
        match inside {
            Inside::Look(look) => room.asked.push(look),
            Inside::Work(errand) => {
                let namespace = errand.namespace();
                room.waiting.push((), &namespace, errand);
            }
        }
    }

    /// Sends what can be sent now, and opens connections for what waits.
    pub fn dispatch_inside(&mut self) {
        let wanting = self.rooms.wanting();
        self.rooms.settle(&wanting);
        for database in wanting {
            if database != HOME && self.most() < 2 {
                let failure = self.no_place(&database);
                self.rooms.room(&database).refuse(&failure);
                continue;
            }
            match self.rooms.place(&database, self.free()) {
                Place::There => self.send_inside(&database),
                Place::Open => self.open_inside(&database),
                Place::Refused(failure) => self.rooms.room(&database).refuse(&failure),
                Place::Wait => {
                    let waits = self.rooms.get(&database);
                    if waits.is_some_and(|room| room.slot.is_none() && room.opening.is_none()) {
                        self.make_place();
                    }
                }
            }
        }
    }

    fn most(&self) -> usize {
        self.shared.spec.max_connections.max(1)
    }

    /// How many connections more may be opened.
    pub fn free(&self) -> usize {
        let used = self.slots.len() + usize::from(self.opening) + self.rooms.connections();
        self.most().saturating_sub(used)
    }

    /// A further connection to `postgres` that does nothing goes first.
    fn make_place(&mut self) {
        let idle = self.slots.iter().skip(1).position(|slot| slot.busy == 0);
        if let Some(at) = idle {
            let slot = self.slots.remove(at + 1);
            self.rooms.close(slot);
            self.count_open();
        } else if self.rooms.make_place() {
            self.count_open();
        }
    }

    fn no_place(&self, database: &str) -> Failure {
        let message = format!(
            "database {database:?} on {} needs a second connection: set limits.maxConnections of the EntraPostgresServer to 2 or more",
            self.server
        );
        Failure::new(Class::Denied, Reason::DatabaseNotAccessible, message)
    }

    fn open_inside(&mut self, database: &str) {
        let id = self.slot_id();
        self.rooms.room(database).opening = Some(id);
        let (shared, end_of) = (self.shared.clone(), self.end_of.clone());
        let (administrator, database) = (self.administrator, database.to_owned());
        self.running.spawn(async move {
            let dialled = dial(shared, administrator, id, end_of, &database).await;
            let came = Came::Opened(dialled.map_err(Refusal::into_failure));
            Finished::Inside(id, database, came)
        });
    }

    fn send_inside(&mut self, database: &str) {
        let room = self.rooms.room(database);
        if !room.asked.is_empty() && room.asking.is_none() {
            self.ask_inside(database);
        }
        let room = self.rooms.room(database);
        if room.due && room.snapping.is_none() {
            self.snapshot_inside(database);
        }
        while !self.rooms.room(database).waiting.is_empty() {
            // A place is left for what came upon a lock.
            let room = self.rooms.room(database);
            let places = PIPELINE - u32::from(room.patient == 0 && !room.locked.is_empty());
            let Some((slot, line)) = self.occupy_inside(database, places) else {
                break;
            };
            let errand = self.rooms.room(database).waiting.pop();
            let started =
                errand.is_some_and(|next| self.start_inside(slot, database, line, next.item));
            if !started {
                self.release_inside(slot, database);
            }
        }
        self.send_locked_inside(database);
    }

    /// What came upon a lock is tried again when nothing else is to be done there, one at a time: all that a
    /// database has is one connection.
    fn send_locked_inside(&mut self, database: &str) {
        let room = self.rooms.room(database);
        if room.patient > 0 || room.locked.is_empty() {
            return;
        }
        let Some((slot, line)) = self.occupy_inside(database, PIPELINE) else {
            return;
        };
        // Work on roles goes over the connection to `postgres`, too.
        let patience = match database {
            HOME => Patience::Long(change::SHORT),
            _ => Patience::Long(self.shared.spec.timeouts.lock.min(LONGEST_INSIDE)),
        };
        let line = line.with(patience);
        while let Some(next) = self.rooms.room(database).locked.pop() {
            if self.start_inside(slot, database, line.clone(), next.item) {
                self.rooms.room(database).patient += 1;
                return;
            }
        }
        self.release_inside(slot, database);
    }

    /// Counts a message on the connection to that database, if there are less than `most` under way.
    fn occupy_inside(&mut self, database: &str, most: u32) -> Option<(u64, Line)> {
        let (id, line) = if database == HOME {
            let at = self.first(|slot| slot.busy < most)?;
            self.occupy(at, false)?
        } else {
            let room = self.rooms.get(database)?.slot.as_ref()?;
            if room.busy >= most || room.is_closed() {
                return None;
            }
            let of = (room.id, self.line(room));
            self.rooms.room(database).slot.as_mut()?.busy += 1;
            of
        };
        let place = format!("database {database:?} on {}", self.server).into();
        Some((id, Line { place, ..line }))
    }

    /// Starts work on that line; says if it did.
    fn start_inside(&mut self, slot: u64, database: &str, line: Line, errand: Errand) -> bool {
        if !errand.is_awaited() {
            return false;
        }
        let database = database.to_owned();
        self.running.spawn(async move {
            let came = match errand {
                Errand::Apply(apply) => {
                    let ApplyInside {
                        role,
                        basis,
                        steps,
                        interest,
                        ..
                    } = &apply;
                    let result = Box::pin(grant::run(&line, role, basis, steps, interest)).await;
                    Came::Applied(apply, result)
                }
                Errand::Clear(clear) => {
                    let ClearInside {
                        role,
                        ours,
                        reassign_to,
                        ..
                    } = &clear;
                    let result =
                        Box::pin(clear::clear(&line, role, ours, reassign_to.as_ref())).await;
                    Came::Cleared(clear, result)
                }
            };
            Finished::Inside(slot, database, came)
        });
        true
    }

    /// One question for all lookups that wait.
    fn ask_inside(&mut self, database: &str) {
        let Some((slot, line)) = self.occupy_inside(database, u32::MAX) else {
            return;
        };
        let room = self.rooms.room(database);
        room.asking = Some(slot);
        let looks = std::mem::take(&mut room.asked);
        let database = database.to_owned();
        self.running.spawn(async move {
            let mut asks: BTreeMap<RoleName, DatabaseInterest> = BTreeMap::new();
            for look in &looks {
                asks.entry(look.role.clone())
                    .or_default()
                    .extend(&look.interest);
            }
            let result = grant::look(&line, asks).await;
            Finished::Inside(slot, database, Came::Asked(looks, result))
        });
    }

    fn snapshot_inside(&mut self, database: &str) {
        let asks = self.interests_inside(database);
        let room = self.rooms.room(database);
        room.due = false;
        if asks.is_empty() {
            return;
        }
        let Some((slot, line)) = self.occupy_inside(database, u32::MAX) else {
            return;
        };
        let room = self.rooms.room(database);
        room.snapping = Some(slot);
        room.touched.clear();
        let (began, database) = (room.sequence, database.to_owned());
        self.running.spawn(async move {
            let result = grant::look(&line, asks).await;
            Finished::Inside(slot, database, Came::Snapshot(began, result))
        });
    }

    /// Who is interested in that database, and in what.
    pub fn interests_inside(&self, database: &str) -> BTreeMap<RoleName, DatabaseInterest> {
        let interests = self.shared.interests();
        let of_each = interested_in(&interests, database);
        of_each
            .map(|(role, interest)| (role.clone(), interest.clone()))
            .collect()
    }

    /// A snapshot of every database in use is due, but for those that are known to be shut: when one opens,
    /// the snapshot of `postgres` tells who waits for it.
    pub fn snapshots_inside(&mut self) {
        let mut in_use: BTreeSet<String> = {
            let interests = self.shared.interests();
            let databases = interests
                .values()
                .flat_map(|interest| interest.databases.keys());
            databases.cloned().collect()
        };
        if let Some(catalog) = &self.shared.status.borrow().catalog {
            in_use.retain(|database| !catalog.is_shut(database));
        }
        self.shared.status.send_modify(|status| {
            let Some(catalog) = &mut status.catalog else {
                return;
            };
            if catalog.inside.keys().any(|known| !in_use.contains(known)) {
                Arc::make_mut(catalog)
                    .inside
                    .retain(|known, _| in_use.contains(known));
            }
        });
        self.rooms.due(&in_use);
        self.count_open();
    }
}
