//! What a session does inside databases: sends what waits for each, and takes in the answers. Must
//! not decide what a role should have there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::model::{
    Class, DatabaseCatalog, DatabaseInterest, Failure, PrivilegeStep, Reason, RoleName,
};

use super::answers::{Finished, reply};
use super::change::{Line, Trouble};
use super::clear::{self, Cleared};
use super::connect::Link;
use super::databases::{HOME, Place, STALE};
use super::dial::{Refusal, dial};
use super::grant::{self, Looked};
use super::serve::PIPELINE;
use super::session::{Applied, Interests};
use super::worker::{End, Slot, Worker};

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
    pub role: RoleName,
    pub steps: Vec<PrivilegeStep>,
    pub interest: DatabaseInterest,
    pub reply: oneshot::Sender<Result<Applied<Arc<DatabaseCatalog>, PrivilegeStep>, Failure>>,
}

#[derive(Debug)]
pub(super) struct ClearInside {
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

/// What a message, or several, in a database came to.
#[derive(Debug)]
pub(super) enum Came {
    Opened(Result<Link, Failure>),
    Snapshot(u64, Result<Looked, Trouble>),
    Asked(Vec<LookInside>, Result<Looked, Trouble>),
    Applied(ApplyInside, Result<grant::Outcome, Trouble>),
    Cleared(ClearInside, Result<Cleared, Trouble>),
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
}

/// Who is interested in that database, and in what.
fn interested_in<'a>(
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
            Inside::Work(errand) => room.waiting.push_back(errand),
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
            let Some((slot, line)) = self.occupy_inside(database, PIPELINE) else {
                return;
            };
            let errand = self.rooms.room(database).waiting.pop_front();
            let started =
                errand.is_some_and(|errand| self.start_inside(slot, database, line, errand));
            if !started {
                self.release_inside(slot, database);
            }
        }
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
        let server = format!("database {database:?} on {}", self.server).into();
        Some((id, Line { server, ..line }))
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
                        steps,
                        interest,
                        ..
                    } = &apply;
                    let result = Box::pin(grant::run(&line, role, steps, interest)).await;
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
    fn interests_inside(&self, database: &str) -> BTreeMap<RoleName, DatabaseInterest> {
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

    /// Takes in what a message in a database came to.
    pub fn finished_inside(&mut self, slot: u64, database: &str, came: Came) -> Option<End> {
        match came {
            Came::Opened(result) => {
                self.opened_inside(slot, database, result);
                return None;
            }
            Came::Snapshot(began, result) => {
                self.release_inside(slot, database);
                let room = self.rooms.room(database);
                // One of a connection that was given up would undo what came since.
                room.snapping.take_if(|of| *of == slot)?;
                match result {
                    Ok(looked) => self.publish_inside(database, began, looked),
                    Err(trouble) => {
                        self.missed_inside(database);
                        tracing::warn!(server = %self.shared.spec.server, database, "no snapshot: {}", trouble.failure);
                        return self.after(slot, &trouble);
                    }
                }
            }
            Came::Asked(looks, result) => {
                self.release_inside(slot, database);
                self.rooms.room(database).asking.take_if(|of| *of == slot);
                return self.answered_inside(slot, database, looks, result);
            }
            Came::Applied(apply, result) => {
                self.release_inside(slot, database);
                return self.applied_inside(slot, database, apply, result);
            }
            Came::Cleared(clear, result) => {
                self.release_inside(slot, database);
                self.doubt_inside(database, &clear.role);
                let trouble = result.as_ref().err().map(|trouble| trouble.broken);
                let cause = result
                    .as_ref()
                    .err()
                    .map(|trouble| trouble.failure.message.clone());
                reply(clear.reply, result.map_err(|trouble| trouble.failure));
                if trouble == Some(true) {
                    return self.lost(slot, &cause.unwrap_or_default());
                }
            }
        }
        None
    }

    fn release_inside(&mut self, slot: u64, database: &str) {
        if database == HOME {
            self.release(slot, false);
        } else {
            self.rooms.release(database, slot);
        }
    }

    fn opened_inside(&mut self, id: u64, database: &str, result: Result<Link, Failure>) {
        let room = self.rooms.room(database);
        if room.opening != Some(id) {
            // The connections are being made anew: this one is not counted.
            if let Ok(link) = result {
                link.cut();
            }
            return;
        }
        match result {
            Ok(link) => {
                let link = Arc::new(link);
                room.entered(Slot {
                    id,
                    link,
                    busy: 0,
                    slow: false,
                });
                self.count_open();
            }
            Err(mut failure) => {
                if failure.reason != Reason::DatabaseNotAccessible {
                    failure.message = format!("database {database:?}: {}", failure.message);
                }
                tracing::warn!(server = %self.shared.spec.server, database, "{failure}");
                let due = room.due;
                room.refuse(&failure);
                room.shut(failure.clone());
                if due {
                    self.missed_inside(database);
                }
                if failure.reason == Reason::DatabaseNotAccessible {
                    self.closed_to_us(database);
                }
            }
        }
    }

    /// A snapshot failed: when that is no chance any more, what is known is as good as nothing.
    fn missed_inside(&mut self, database: &str) {
        self.shared.stats.snapshot_failed();
        let room = self.rooms.room(database);
        room.missed = room.missed.saturating_add(1);
        if room.missed >= STALE {
            self.closed_to_us(database);
        }
    }

    /// What was known of a database that does not let us in any more is not; who relied on it looks
    /// again, and is told why.
    fn closed_to_us(&mut self, database: &str) {
        let mut known = false;
        self.shared.status.send_modify(|status| {
            if let Some(catalog) = &mut status.catalog
                && catalog.inside.contains_key(database)
            {
                known = true;
                Arc::make_mut(catalog).inside.remove(database);
            }
        });
        if known {
            self.tell_of(self.interests_inside(database).into_keys().collect());
        }
    }

    /// Makes a snapshot the newest catalog, with what we changed since it began, and tells who must
    /// look again.
    fn publish_inside(&mut self, database: &str, began: u64, looked: Looked) {
        let Looked {
            now: mut answer,
            refused,
        } = looked;
        let room = self.rooms.room(database);
        let touched = std::mem::take(&mut room.touched);
        let is_back = std::mem::take(&mut room.missed) >= STALE;
        let mut changed = BTreeSet::new();
        let interests = self.shared.interests();
        self.shared.status.send_modify(|status| {
            let Some(catalog) = &mut status.catalog else {
                return;
            };
            let old = catalog.inside.get(database).cloned().unwrap_or_default();
            for (sequence, role, interest) in touched {
                if sequence <= began {
                    continue;
                }
                match old.part(&role, &interest) {
                    Some(newer) => answer.fold(newer),
                    None => answer.doubt(&role),
                }
            }
            changed = answer.changed(&old, interested_in(&interests, database));
            // Nothing is known of them any more: they look, and are told why.
            let unknown = refused.into_keys();
            changed.extend(unknown.filter(|role| old.roles.contains(role)));
            if answer != *old {
                let answer = Arc::new(std::mem::take(&mut answer));
                Arc::make_mut(catalog)
                    .inside
                    .insert(database.to_owned(), answer);
            }
        });
        if is_back {
            // They were told that it cannot be looked at.
            let all = interested_in(&interests, database);
            changed.extend(all.map(|(role, _)| role.clone()));
        }
        drop(interests);
        self.tell_of(changed);
    }

    fn answered_inside(
        &mut self,
        slot: u64,
        database: &str,
        looks: Vec<LookInside>,
        result: Result<Looked, Trouble>,
    ) -> Option<End> {
        match result {
            Ok(Looked { now, refused }) => {
                for look in &looks {
                    let (role, interest) = (look.role.clone(), look.interest.clone());
                    self.rooms.room(database).touch(role, interest);
                }
                let now = self.fold_inside(database, now);
                for look in looks {
                    let answer = refused.get(&look.role).cloned();
                    reply(look.reply, answer.map_or_else(|| Ok(now.clone()), Err));
                }
                None
            }
            Err(trouble) => {
                for look in looks {
                    // A question can do no harm twice, but one that costs connections is not asked
                    // for ever.
                    if trouble.broken && !look.again {
                        let look = LookInside {
                            again: true,
                            ..look
                        };
                        self.rooms.room(database).asked.push(look);
                    } else {
                        look.refuse(trouble.failure.clone());
                    }
                }
                self.after(slot, &trouble)
            }
        }
    }

    fn applied_inside(
        &mut self,
        slot: u64,
        database: &str,
        apply: ApplyInside,
        result: Result<grant::Outcome, Trouble>,
    ) -> Option<End> {
        let ApplyInside {
            role,
            interest,
            reply: to,
            ..
        } = apply;
        match result {
            Ok(grant::Outcome { now, refused }) => {
                self.rooms.room(database).touch(role, interest);
                let now = self.fold_inside(database, now);
                reply(to, Ok(Applied { now, refused }));
                None
            }
            Err(trouble) => {
                self.doubt_inside(database, &role);
                reply(to, Err(trouble.failure.clone()));
                self.after(slot, &trouble)
            }
        }
    }

    /// Nobody knows what the role has there now: the next look asks.
    fn doubt_inside(&mut self, database: &str, role: &RoleName) {
        let room = self.rooms.room(database);
        room.touch(role.clone(), DatabaseInterest::default());
        self.shared.status.send_modify(|status| {
            if let Some(catalog) = &mut status.catalog
                && catalog.inside.contains_key(database)
                && let Some(inside) = Arc::make_mut(catalog).inside.get_mut(database)
            {
                Arc::make_mut(inside).doubt(role);
            }
        });
    }

    /// Takes an answer into the catalog; returns all that is known of the database now. Others that it
    /// is news to are told, and asked about anew: no later snapshot would differ from what is folded in.
    fn fold_inside(&mut self, database: &str, answer: DatabaseCatalog) -> Arc<DatabaseCatalog> {
        let mut now = None;
        let mut answer = Some(answer);
        let mut surprised = BTreeSet::new();
        let interests = self.shared.interests();
        self.shared.status.send_modify(|status| {
            if let Some(catalog) = &mut status.catalog
                && let Some(answer) = answer.take()
            {
                let inside = Arc::make_mut(catalog)
                    .inside
                    .entry(database.to_owned())
                    .or_default();
                surprised = inside.surprised(&answer, interested_in(&interests, database));
                let inside_now = Arc::make_mut(inside);
                inside_now.fold(answer);
                // What they have was seen before the news: together the two would be no state that was.
                for role in &surprised {
                    inside_now.doubt(role);
                }
                now = Some(Arc::clone(inside));
            }
        });
        drop(interests);
        let room = self.rooms.room(database);
        for role in &surprised {
            room.touch(role.clone(), DatabaseInterest::default());
        }
        self.tell_of(surprised);
        now.unwrap_or_else(|| Arc::new(answer.unwrap_or_default()))
    }
}
