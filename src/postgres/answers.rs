//! What a session does with the answers it gets: folds them into the catalog, tells who waits for
//! them, and gives broken connections up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::model::{
    Catalog, Class, Facts, Failure, Interest, Reason, RoleName, RoleStep, RoleView, Subjects,
};

use super::change::{Made, Trouble};
use super::connect::Link;
use super::drop::DropOutcome;
use super::error::unreachable;
use super::inside_answers::Came;
use super::refusal::lesson;
use super::serve::Work;
use super::session::{Applied, SessionEvent};
use super::shared::{Change, DropRequest, Look};
use super::worker::{End, Slot, Touch, Worker};

/// How long no further connection is tried after one could not be opened.
const NO_MORE: Duration = Duration::from_secs(30);

/// What some looks that were asked for together came to.
pub(super) type Answers = (Vec<Look>, Result<Facts, Trouble>);

/// What a message, or several, came to.
#[derive(Debug)]
pub(super) enum Finished {
    Snapshot {
        slot: u64,
        began: u64,
        took: Duration,
        result: Box<Result<Catalog, Trouble>>,
    },
    Asked {
        slot: u64,
        answers: Vec<Answers>,
    },
    Changed {
        slot: u64,
        slow: bool,
        change: Change,
        result: Result<Made, Trouble>,
    },
    Dropped {
        slot: u64,
        slow: bool,
        request: DropRequest,
        result: Result<DropOutcome, Trouble>,
    },
    Opened {
        slot: u64,
        result: Result<Link, Failure>,
    },
    /// In that database.
    Inside(u64, String, Came),
}

/// So many snapshots may fail one after the other on a connection that works for the rest, before what was
/// known is relied on no more and the server's object says so.
const FAILED_SNAPSHOTS: u32 = 3;

/// Whether a failed snapshot is the end of the session: it says that we may not work here. One that was
/// too slow, too large, or cancelled would tell all principals of an outage, and the next session would
/// end in the same way.
fn ends(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::ServerReadOnly | Reason::NotAnEntraAdministrator
    )
}

/// How often work that came upon a lock is tried again before its failure is reported.
const TRIES: u32 = 2;

/// Whether work goes to the end of its queue: somebody holds a lock that it needs.
pub(super) fn is_to_wait<T>(result: &Result<T, Trouble>, locked: u32) -> bool {
    let is_locked = |trouble: &Trouble| trouble.locked && !trouble.broken;
    locked < TRIES && result.as_ref().is_err_and(is_locked)
}

/// A caller that has gone away needs no answer.
pub(super) fn reply<T>(to: oneshot::Sender<T>, answer: T) {
    let _ = to.send(answer);
}

impl Worker {
    /// Takes in what a message came to; says if that was the end.
    pub fn finished(&mut self, finished: Result<Finished, JoinError>) -> Option<End> {
        let finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                let message = format!("a task of {} broke: {error}", self.server);
                return Some(End::Failed(Failure::new(
                    Class::Transient,
                    Reason::Internal,
                    message,
                )));
            }
        };
        match finished {
            Finished::Snapshot {
                slot,
                began,
                took,
                result,
            } => {
                // One of before the connections were made anew would undo what came since.
                self.snapping.take_if(|of| *of == slot)?;
                self.release(slot, false);
                self.snapshot_taken(slot, began, took, *result)
            }
            Finished::Asked { slot, answers } => {
                self.asking.take_if(|of| *of == slot);
                self.release(slot, false);
                let mut end = None;
                for (looks, result) in answers {
                    end = self.answered(slot, looks, result).or(end);
                }
                end
            }
            Finished::Changed {
                slot,
                slow,
                mut change,
                result,
            } => {
                self.release(slot, slow);
                self.ended(change.locked);
                if is_to_wait(&result, change.locked) && !change.reply.is_closed() {
                    change.locked += 1;
                    let namespace = change.namespace.clone();
                    self.queue.push_locked(&namespace, Work::Change(change));
                    return None;
                }
                self.changed(slot, change, result)
            }
            Finished::Dropped {
                slot,
                slow,
                mut request,
                result,
            } => {
                self.release(slot, slow);
                self.ended(request.locked);
                if is_to_wait(&result, request.locked) && !request.reply.is_closed() {
                    request.locked += 1;
                    let namespace = request.namespace.clone();
                    self.queue.push_locked(&namespace, Work::Drop(request));
                    return None;
                }
                self.dropped(slot, request, result)
            }
            Finished::Opened { slot, result } => {
                self.opened(slot, result);
                None
            }
            Finished::Inside(slot, database, came) => self.finished_inside(slot, &database, came),
        }
    }

    fn ended(&mut self, locked: u32) {
        if locked > 0 {
            self.patient = self.patient.saturating_sub(1);
        }
    }

    fn snapshot_taken(
        &mut self,
        slot: u64,
        began: u64,
        took: Duration,
        result: Result<Catalog, Trouble>,
    ) -> Option<End> {
        self.first_snapshot = false;
        match result {
            Ok(catalog) => {
                self.shared.stats.snapshot(took);
                self.failed_snapshots = 0;
                self.publish(catalog, began);
                self.read_again();
                None
            }
            Err(Trouble {
                failure, broken, ..
            }) => {
                self.shared.stats.snapshot_failed();
                if broken {
                    return self.lost(slot, &failure.message);
                }
                if ends(&failure) {
                    return Some(End::Failed(failure));
                }
                let server = &self.shared.spec.server;
                tracing::warn!(%server, "no snapshot, the last one stays: {failure}");
                self.failed_snapshots = self.failed_snapshots.saturating_add(1);
                if self.failed_snapshots >= FAILED_SNAPSHOTS {
                    self.unread(failure);
                }
                None
            }
        }
    }

    /// There have been no snapshots for long: what is known is too old, and everybody looks by a question of
    /// their own. The server's object says why.
    fn unread(&self, failure: Failure) {
        let first = self.shared.status.borrow().unread.is_none();
        self.shared.status.send_modify(|status| {
            status.unread = Some(failure);
            if let Some(catalog) = &mut status.catalog {
                Arc::make_mut(catalog).uncover();
            }
        });
        if first {
            let server = self.shared.spec.server.clone();
            self.shared.tell(SessionEvent::ServerChanged(server));
            let all = self.shared.interests().keys().cloned().collect();
            self.tell_of(all);
        }
    }

    fn read_again(&self) {
        let ended = self
            .shared
            .status
            .send_if_modified(|status| status.unread.take().is_some());
        if ended {
            let server = self.shared.spec.server.clone();
            self.shared.tell(SessionEvent::ServerChanged(server));
        }
    }

    fn answered(
        &mut self,
        slot: u64,
        looks: Vec<Look>,
        result: Result<Facts, Trouble>,
    ) -> Option<End> {
        match result {
            Ok(facts) => {
                self.fold(facts);
                for look in looks {
                    let view = self.view(&look.role, &look.interest);
                    reply(look.reply, view);
                }
                None
            }
            Err(trouble) => {
                for look in looks {
                    // A question can do no harm twice, but one that costs connections is not asked
                    // for ever.
                    if trouble.broken && !look.again {
                        self.asked.push(Look {
                            again: true,
                            ..look
                        });
                    } else {
                        reply(look.reply, Err(trouble.failure.clone()));
                    }
                }
                self.after(slot, &trouble)
            }
        }
    }

    fn changed(&mut self, slot: u64, change: Change, result: Result<Made, Trouble>) -> Option<End> {
        match result {
            Ok(Made { facts, refused }) => {
                self.learn(&change, &refused);
                self.fold(facts);
                let now = self.view(&change.role, &change.interest);
                reply(change.reply, now.map(|now| Applied { now, refused }));
                None
            }
            Err(trouble) => self.doubt(slot, &change.role, change.reply, &trouble),
        }
    }

    /// Whether the server lets us manage what others made shows when we try.
    fn learn(&mut self, change: &Change, refused: &[(RoleStep, Failure)]) {
        let learned = {
            let status = self.shared.status.borrow();
            let catalog = status.catalog.as_deref();
            catalog.and_then(|catalog| lesson(catalog, &change.role, &change.steps, refused))
        };
        if learned.is_some() && learned != self.improved_control {
            self.improved_control = learned;
            self.shared.status.send_modify(|status| {
                if let Some(catalog) = &mut status.catalog {
                    Arc::make_mut(catalog).improved_control = learned;
                }
            });
        }
    }

    fn dropped(
        &mut self,
        slot: u64,
        request: DropRequest,
        result: Result<DropOutcome, Trouble>,
    ) -> Option<End> {
        let DropRequest {
            role, reply: to, ..
        } = request;
        match result {
            // Its sign-in was closed.
            Ok(outcome @ DropOutcome::Hangs(_)) => {
                self.forget(&role);
                reply(to, Ok(outcome));
                None
            }
            Ok(outcome) => {
                let names = BTreeSet::from([role]);
                self.fold(Facts {
                    target_names: names.clone(),
                    names,
                    ..Facts::default()
                });
                reply(to, Ok(outcome));
                None
            }
            Err(trouble) => self.doubt(slot, &role, to, &trouble),
        }
    }

    fn opened(&mut self, id: u64, result: Result<Link, Failure>) {
        self.opening = false;
        match result {
            // The connections are being made anew.
            Ok(_) if self.slots.is_empty() => {}
            Ok(link) => {
                let link = Arc::new(link);
                self.slots.push(Slot {
                    id,
                    link,
                    busy: 0,
                    slow: false,
                });
                self.count_open();
            }
            Err(failure) => {
                tracing::warn!(server = %self.shared.spec.server, "working with fewer connections: {failure}");
                self.no_more_until = Some(Instant::now() + NO_MORE);
            }
        }
    }

    /// Nobody knows what the role is now: the next look asks.
    fn doubt<T>(
        &mut self,
        slot: u64,
        role: &RoleName,
        to: oneshot::Sender<Result<T, Failure>>,
        trouble: &Trouble,
    ) -> Option<End> {
        self.forget(role);
        reply(to, Err(trouble.failure.clone()));
        self.after(slot, trouble)
    }

    fn forget(&mut self, role: &RoleName) {
        self.touch(Subjects {
            targets: BTreeSet::from([role.clone()]),
            ..Subjects::role(role)
        });
        self.shared.status.send_modify(|status| {
            if let Some(catalog) = &mut status.catalog {
                Arc::make_mut(catalog).doubt(role);
            }
        });
    }

    fn fold(&mut self, facts: Facts) {
        self.touch(Subjects {
            names: facts.names.clone(),
            ids: facts.ids.clone(),
            targets: facts.target_names.clone(),
            databases: facts.database_names.clone(),
        });
        let mut retargeted = BTreeSet::new();
        let names = facts.names.clone();
        self.shared.status.send_modify(|status| {
            if let Some(catalog) = &mut status.catalog {
                retargeted = catalog.retargeted(&facts);
                Arc::make_mut(catalog).fold(facts);
            }
        });
        if retargeted.is_empty() {
            return;
        }
        let waiting: BTreeSet<RoleName> = {
            let interests = self.shared.interests();
            let interested = interests.iter().filter(|(role, interest)| {
                !names.contains(*role) && !interest.targets.is_disjoint(&retargeted)
            });
            interested.map(|(role, _)| role.clone()).collect()
        };
        self.tell_of(waiting);
    }

    fn touch(&mut self, subjects: Subjects) {
        self.sequence += 1;
        if self.snapping.is_some() {
            let sequence = self.sequence;
            self.touched.push(Touch { sequence, subjects });
        }
    }

    pub fn view(&self, role: &RoleName, interest: &Interest) -> Result<RoleView, Failure> {
        let status = self.shared.status.borrow();
        let view = status
            .catalog
            .as_ref()
            .and_then(|catalog| catalog.view(role, interest));
        view.ok_or_else(|| {
            let message = format!(
                "{} said nothing about role {:?}; it is asked again",
                self.server,
                role.as_str()
            );
            Failure::new(Class::Transient, Reason::DatabaseError, message)
        })
    }

    pub fn release(&mut self, id: u64, slow: bool) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) {
            slot.busy = slot.busy.saturating_sub(1);
            slot.slow &= !slow;
        }
    }

    /// Gives a broken connection up.
    pub fn after(&mut self, slot: u64, trouble: &Trouble) -> Option<End> {
        if trouble.broken {
            self.lost(slot, &trouble.failure.message)
        } else {
            None
        }
    }

    /// Takes in that a connection ended; while nothing was under way on it that is no loss.
    pub fn closed(&mut self, id: u64, cause: &str) -> Option<End> {
        let idle = |slot: &Slot| slot.id == id && slot.busy == 0;
        let idle = self.slots.iter().any(idle);
        match self.lost(id, cause) {
            Some(End::Lost(_)) if idle => Some(End::Idle),
            end => end,
        }
    }

    pub fn lost(&mut self, id: u64, cause: &str) -> Option<End> {
        if self.rooms.ended(id) {
            self.count_open();
            return None;
        }
        let at = self.slots.iter().position(|slot| slot.id == id)?;
        let slot = self.slots.remove(at);
        slot.link.cut();
        self.snapping.take_if(|of| *of == id);
        self.count_open();
        self.slots.is_empty().then(|| {
            let what = format!("the connection to {} was lost", self.server);
            End::Lost(unreachable(&self.server, &what, cause))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Red when: snapshots that are too slow or too large end a session that serves: the next one would end
    // in the same way.
    #[test]
    fn only_a_snapshot_that_forbids_us_to_work_ends_a_session() {
        let failed = |reason| ends(&Failure::new(Class::Transient, reason, "no"));
        assert!(!failed(Reason::DatabaseError));
        assert!(!failed(Reason::CatalogTooLarge));
        assert!(failed(Reason::ServerReadOnly));
        assert!(failed(Reason::NotAnEntraAdministrator));
    }
}
