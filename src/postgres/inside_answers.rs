//! What a session does with the answers it gets from inside databases: folds them into what is known of
//! each, and tells who must look again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{DatabaseCatalog, DatabaseInterest, Failure, Reason, RoleName};

use super::answers::{is_to_wait, reply};
use super::change::Trouble;
use super::clear::Cleared;
use super::connect::Link;
use super::databases::{HOME, STALE};
use super::grant::{self, Looked};
use super::inside::{ApplyInside, ClearInside, Errand, LookInside, interested_in};
use super::session::Applied;
use super::worker::{End, Slot, Worker};

/// What a message, or several, in a database came to.
#[derive(Debug)]
pub(super) enum Came {
    Opened(Result<Link, Failure>),
    Snapshot(u64, Result<Looked, Trouble>),
    Asked(Vec<LookInside>, Result<Looked, Trouble>),
    Applied(ApplyInside, Result<grant::Outcome, Trouble>),
    Cleared(ClearInside, Result<Cleared, Trouble>),
}

impl Worker {
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
            Came::Applied(mut apply, result) => {
                self.release_inside(slot, database);
                self.ended_inside(database, apply.locked);
                if is_to_wait(&result, apply.locked) && !apply.reply.is_closed() {
                    apply.locked += 1;
                    self.wait_inside(database, Errand::Apply(apply));
                    return None;
                }
                return self.applied_inside(slot, database, apply, result);
            }
            Came::Cleared(mut clear, result) => {
                self.release_inside(slot, database);
                self.ended_inside(database, clear.locked);
                if is_to_wait(&result, clear.locked) && !clear.reply.is_closed() {
                    clear.locked += 1;
                    self.wait_inside(database, Errand::Clear(clear));
                    return None;
                }
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

    fn ended_inside(&mut self, database: &str, locked: u32) {
        if locked > 0 {
            let room = self.rooms.room(database);
            room.patient = room.patient.saturating_sub(1);
        }
    }

    fn wait_inside(&mut self, database: &str, errand: Errand) {
        let namespace = errand.namespace();
        let room = self.rooms.room(database);
        room.locked.push((), &namespace, errand);
    }

    pub fn release_inside(&mut self, slot: u64, database: &str) {
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
