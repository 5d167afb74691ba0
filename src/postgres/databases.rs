//! The connections to databases other than `postgres`, and what waits for them: at most one each, kept
//! until another database needs the place. Must not send anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{DatabaseInterest, Failure, FairQueue, RoleName};

use super::inside::{Errand, LookInside};
use super::worker::Slot;

/// The database where roles are made; its work goes over the session's first connection.
pub(super) const HOME: &str = "postgres";

/// How long a database that could not be connected to is left alone: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// After so many snapshots in a row that failed, what is known of a database is too old to be relied on;
/// one may be chance.
pub(super) const STALE: u32 = 2;

/// How long a database that always has work keeps its connection while another waits.
const TURN: Duration = Duration::from_secs(2);

/// All databases in use.
#[derive(Default)]
pub(super) struct Rooms {
    rooms: BTreeMap<String, Room>,
    /// Connections that are being closed still count.
    closing: BTreeSet<u64>,
}

/// One database in use.
#[derive(Default)]
pub(super) struct Room {
    pub slot: Option<Slot>,
    /// Its connection is being opened.
    pub opening: Option<u64>,
    opened: Option<Instant>,
    used: Option<Instant>,
    /// It starts nothing any more, so that another database gets its place.
    leaving: bool,
    refused: Option<(Instant, Failure)>,
    /// How long the next pause will be; none: as the first.
    pause: Option<Duration>,
    /// Questions that go together.
    pub asked: Vec<LookInside>,
    /// The connection on which a question is under way.
    pub asking: Option<u64>,
    pub waiting: FairQueue<(), Errand>,
    /// What came upon a lock.
    pub locked: FairQueue<(), Errand>,
    /// How much of that is tried again now.
    pub patient: usize,
    /// A snapshot is to be taken.
    pub due: bool,
    /// The connection on which a snapshot is under way.
    pub snapping: Option<u64>,
    /// How many snapshots failed since the last that did not.
    pub missed: u32,
    /// What was folded in since when, so that an older snapshot does not undo it.
    pub touched: Vec<(u64, RoleName, DatabaseInterest)>,
    pub sequence: u64,
}

/// What can be done for a database that has work.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// It has a connection, or needs none of its own.
    There,
    /// One is being opened, or it must wait for a place.
    Wait,
    /// One may be opened.
    Open,
    /// It could not be reached just before.
    Refused(Failure),
}

impl Room {
    pub fn has_work(&self) -> bool {
        self.due
            || !self.asked.is_empty()
            || !self.waiting.is_empty()
            || (self.patient == 0 && !self.locked.is_empty())
    }

    pub fn is_busy(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.busy > 0)
    }

    /// Something was changed, or may have been.
    pub fn touch(&mut self, role: RoleName, interest: DatabaseInterest) {
        self.sequence += 1;
        if self.snapping.is_some() {
            self.touched.push((self.sequence, role, interest));
        }
    }

    /// Takes in that the connection is open.
    pub fn entered(&mut self, slot: Slot) {
        (self.opening, self.refused, self.leaving) = (None, None, false);
        self.pause = None;
        self.opened = Some(Instant::now());
        self.slot = Some(slot);
    }

    /// Takes in that no connection could be opened.
    pub fn shut(&mut self, failure: Failure) {
        self.opening = None;
        self.due = false;
        let pause = self.pause.unwrap_or(PAUSE);
        self.pause = Some((pause * 2).min(LONGEST_PAUSE));
        self.refused = Some((Instant::now() + pause, failure));
    }

    fn take_slot(&mut self) -> Option<Slot> {
        (self.asking, self.snapping, self.leaving) = (None, None, false);
        self.slot.take()
    }
}

impl Rooms {
    pub fn room(&mut self, database: &str) -> &mut Room {
        self.rooms.entry(database.to_owned()).or_default()
    }

    pub fn get(&self, database: &str) -> Option<&Room> {
        self.rooms.get(database)
    }

    /// How many connections there are, those counted that are being opened or closed.
    pub fn connections(&self) -> usize {
        let used = |room: &&Room| room.slot.is_some() || room.opening.is_some();
        self.rooms.values().filter(used).count() + self.closing.len()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        let open = |room: &&Room| room.slot.is_some();
        self.rooms.values().filter(open).count()
    }

    /// The databases that have work, the one first that has had none done for longest.
    pub fn wanting(&self) -> Vec<String> {
        let wanting = self.rooms.iter().filter(|(_, room)| room.has_work());
        let mut wanting: Vec<(Option<Instant>, &String)> =
            wanting.map(|(name, room)| (room.used, name)).collect();
        wanting.sort();
        wanting.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// None of these databases lacks a place any more: those that were to leave stay.
    pub fn settle(&mut self, wanting: &[String]) {
        let lacks = |database: &String| {
            let room = self.rooms.get(database);
            database != HOME
                && room.is_some_and(|room| room.slot.is_none() && room.opening.is_none())
        };
        if !wanting.iter().any(lacks) {
            for room in self.rooms.values_mut() {
                room.leaving = false;
            }
        }
    }

    /// What can be done for that database, when `free` more connections may be opened.
    pub fn place(&mut self, database: &str, free: usize) -> Place {
        let Some(room) = self.rooms.get_mut(database) else {
            return Place::Wait;
        };
        if database == HOME {
            return Place::There;
        }
        if let Some(slot) = &room.slot {
            let usable = !room.leaving && !slot.is_closed();
            if usable {
                room.used = Some(Instant::now());
            }
            return if usable { Place::There } else { Place::Wait };
        }
        if room.opening.is_some() {
            return Place::Wait;
        }
        if let Some((until, failure)) = &room.refused {
            let now = Instant::now();
            if now < *until {
                return Place::Refused(failure.clone().retry_after(*until - now));
            }
        }
        if free > 0 { Place::Open } else { Place::Wait }
    }

    /// Closes the connection that is least missed, or has one that always works end its work; says if
    /// a place becomes free.
    pub fn make_place(&mut self) -> bool {
        let idle = self
            .rooms
            .values_mut()
            .filter(|room| {
                room.slot.is_some() && !room.is_busy() && (room.leaving || !room.has_work())
            })
            .min_by_key(|room| room.used);
        if let Some(slot) = idle.and_then(Room::take_slot) {
            self.close(slot);
            return true;
        }
        if self.rooms.values().any(|room| room.leaving) || !self.closing.is_empty() {
            return false;
        }
        let had_its_turn = |room: &&mut Room| {
            room.slot.is_some() && room.opened.is_some_and(|opened| opened.elapsed() >= TURN)
        };
        let longest = (self.rooms.values_mut().filter(had_its_turn)).min_by_key(|room| room.opened);
        match longest {
            Some(room) if room.is_busy() => room.leaving = true,
            Some(room) => {
                if let Some(slot) = room.take_slot() {
                    self.close(slot);
                    return true;
                }
            }
            None => {}
        }
        false
    }

    /// Lets a connection that nothing is under way on end.
    pub fn close(&mut self, slot: Slot) {
        if !slot.is_closed() {
            self.closing.insert(slot.id);
        }
        drop(slot);
    }

    /// Takes in that a connection has ended; says if it was one of these.
    pub fn ended(&mut self, id: u64) -> bool {
        if self.closing.remove(&id) {
            return true;
        }
        let is = |room: &&mut Room| room.slot.as_ref().is_some_and(|slot| slot.id == id);
        let Some(room) = self.rooms.values_mut().find(is) else {
            return false;
        };
        if let Some(slot) = room.take_slot() {
            slot.link.cut();
        }
        true
    }

    /// A message came back.
    pub fn release(&mut self, database: &str, id: u64) {
        let Some(room) = self.rooms.get_mut(database) else {
            return;
        };
        room.used = Some(Instant::now());
        if let Some(slot) = room.slot.as_mut().filter(|slot| slot.id == id) {
            slot.busy = slot.busy.saturating_sub(1);
        }
    }

    /// Every database that somebody is interested in is looked at; the others are left, as an open
    /// connection would be in the way of who wants to drop one.
    pub fn due(&mut self, in_use: &BTreeSet<String>) {
        for database in in_use {
            self.room(database).due = true;
        }
        let mut left = Vec::new();
        self.rooms.retain(|database, room| {
            let stays = in_use.contains(database)
                || room.is_busy()
                || room.opening.is_some()
                || !room.asked.is_empty()
                || !room.waiting.is_empty()
                || !room.locked.is_empty()
                || room.asking.is_some()
                || room.snapping.is_some();
            room.due &= in_use.contains(database);
            if !stays {
                left.extend(room.slot.take());
            }
            stays
        });
        for slot in left {
            self.close(slot);
        }
    }

    /// The connections are given up; what waits goes on waiting.
    pub fn cut(&mut self) {
        self.closing.clear();
        for room in self.rooms.values_mut() {
            (room.opening, room.refused) = (None, None);
            if let Some(slot) = room.take_slot() {
                slot.link.cut();
            }
            (room.asking, room.snapping, room.patient) = (None, None, 0);
        }
    }

    /// Everything that waits gets the failure.
    pub fn refuse_all(&mut self, failure: &Failure) {
        for room in self.rooms.values_mut() {
            room.refuse(failure);
        }
    }
}

impl Room {
    pub fn refuse(&mut self, failure: &Failure) {
        self.due = false;
        for look in self.asked.drain(..) {
            look.refuse(failure.clone());
        }
        let waiting = self.waiting.take_where(|_| true).into_iter();
        for errand in waiting.chain(self.locked.take_where(|_| true)) {
            errand.refuse(failure.clone());
        }
    }
}
