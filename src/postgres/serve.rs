//! What a session does while it is connected: takes commands, sends them in their order over its
//! connections, takes in the answers, and takes a snapshot every interval.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::model::{Catalog, Failure, Subjects};

use super::answers::{Answers, Finished, reply};
use super::change::{self, Ground, Patience, Trouble};
use super::dial::take;
use super::drop;
use super::error::unreachable;
use super::queue::Lane;
use super::shared::{Change, Command, DropRequest, Look};
use super::worker::{End, Slot, Worker};
use super::{questions, snapshot};

/// Quick messages under way on one connection at most: more would only wait at the server, where
/// what is urgent cannot overtake them.
pub(super) const PIPELINE: u32 = 8;

/// What waits in the queue.
#[derive(Debug)]
pub(super) enum Work {
    Change(Change),
    Drop(DropRequest),
}

impl Work {
    /// Answers with a failure.
    pub fn refuse(self, failure: Failure) {
        match self {
            Self::Change(change) => reply(change.reply, Err(failure)),
            Self::Drop(request) => reply(request.reply, Err(failure)),
        }
    }

    fn is_awaited(&self) -> bool {
        match self {
            Self::Change(change) => !change.reply.is_closed(),
            Self::Drop(request) => !request.reply.is_closed(),
        }
    }
}

impl Worker {
    /// Serves until the connections are lost or the server does not serve us any more.
    pub async fn serve(&mut self) -> End {
        let every = self.shared.spec.resync_interval.max(Duration::from_secs(1));
        let mut tick = interval_at(Instant::now() + every, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.no_more_until = None;
        self.snapshot_due = true;
        loop {
            self.dispatch();
            let end = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => {
                        self.take(command);
                        None
                    }
                    None => Some(End::Stopped),
                },
                Some(finished) = self.running.join_next() => self.finished(finished),
                Some((slot, cause)) = self.ended.recv() => self.closed(slot, &cause),
                _ = tick.tick() => {
                    self.snapshot();
                    self.snapshots_inside();
                    None
                }
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Takes this command and all that came with it, so that questions go together.
    pub fn take(&mut self, command: Command) {
        let mut next = Some(command);
        while let Some(command) = next {
            match command {
                Command::Look(look) => self.asked.push(look),
                Command::Change(change) => {
                    let (lane, namespace) = (Lane::of(&change.steps), change.namespace.clone());
                    self.queue.push(lane, &namespace, Work::Change(change));
                }
                Command::Drop(request) => {
                    let namespace = request.namespace.clone();
                    self.queue
                        .push(Lane::Plain, &namespace, Work::Drop(request));
                }
                Command::Snapshot => self.snapshot_due = true,
                Command::Inside(database, inside) => self.take_inside(&database, *inside),
            }
            next = self.commands.try_recv().ok();
        }
    }

    /// Sends what can be sent now.
    fn dispatch(&mut self) {
        if self.snapshot_due && self.snapping.is_none() {
            self.snapshot_due = false;
            self.snapshot();
            self.snapshots_inside();
        }
        self.dispatch_inside();
        if !self.asked.is_empty() && self.asking.is_none() && !self.first_snapshot {
            self.ask();
        }
        // A place is left for what came upon a lock: a backlog of others is not to keep it waiting for ever.
        let places = PIPELINE - u32::from(self.queue.has_locked() && self.patient == 0);
        while let Some(at) = self.first(|slot| slot.busy < places) {
            let Some(work) = self.queue.pop_plain() else {
                break;
            };
            self.start(at, work, false, Patience::Short);
        }
        self.dispatch_locked();
        // The first connection last: questions and snapshots wait behind what it does.
        let free = |slot: &Slot| !slot.slow && !slot.is_closed();
        while let Some(at) = self.slots.iter().rposition(free) {
            let Some(work) = self.queue.pop_directory() else {
                break;
            };
            self.start(at, work, true, Patience::Short);
        }
        let alone = self.queue.has_locked() && self.slots.len() < 2;
        let waits = self.queue.directory_len() > 0 || alone;
        if waits && self.may_open() && !self.opening {
            self.open_another();
        }
    }

    fn may_open(&self) -> bool {
        let paused = self
            .no_more_until
            .is_some_and(|until| Instant::now() < until);
        self.free() > 0 && !paused
    }

    /// Tries one piece of work again that came upon a lock: for long on a connection that nobody else waits
    /// for, and for a moment where there is only the one that questions and snapshots use.
    fn dispatch_locked(&mut self) {
        if self.patient > 0 || !self.queue.has_locked() {
            return;
        }
        let idle = |slot: &Slot| !slot.slow && !slot.is_closed() && slot.busy == 0;
        let further = self.slots.iter().skip(1).position(idle);
        let alone = self.slots.len() < 2 && !self.opening && !self.may_open();
        let (at, patience) = match (further, alone) {
            (Some(at), _) => (at + 1, Patience::Long(self.shared.spec.timeouts.lock)),
            (None, true) => match self.first(|slot| slot.busy < PIPELINE) {
                Some(at) => (at, Patience::Long(change::SHORT)),
                None => return,
            },
            (None, false) => return,
        };
        while let Some(work) = self.queue.pop_locked() {
            if self.start(at, work, at > 0, patience) {
                self.patient += 1;
                return;
            }
        }
    }

    /// The first connection that works and suits: always the same one, as far as possible.
    pub fn first(&self, suits: impl Fn(&Slot) -> bool) -> Option<usize> {
        let first = self.slots.iter().position(|slot| !slot.is_closed())?;
        self.slots.get(first).is_some_and(suits).then_some(first)
    }

    /// Counts a message on that connection.
    pub fn occupy(&mut self, at: usize, directory: bool) -> Option<(u64, change::Line)> {
        let line = self.slots.get(at).map(|slot| self.line(slot))?;
        let slot = self.slots.get_mut(at)?;
        slot.busy += 1;
        slot.slow |= directory;
        Some((slot.id, line))
    }

    /// Starts work, which has the connection to itself if it `is_slow`; says if it did.
    fn start(&mut self, at: usize, work: Work, is_slow: bool, patience: Patience) -> bool {
        if !work.is_awaited() {
            return false;
        }
        let Some((slot, line)) = self.occupy(at, is_slow) else {
            return false;
        };
        let line = line.with(patience);
        match work {
            Work::Change(change) => {
                let ground = self.ground(&change);
                self.running.spawn(async move {
                    let result = change::run(&line, &change.role, &change.steps, ground).await;
                    Finished::Changed {
                        slot,
                        slow: is_slow,
                        change,
                        result,
                    }
                })
            }
            Work::Drop(request) => self.running.spawn(async move {
                let DropRequest {
                    role,
                    ours,
                    is_reassigned,
                    ..
                } = &request;
                let result = drop::run(&line, role, ours, *is_reassigned).await;
                Finished::Dropped {
                    slot,
                    slow: is_slow,
                    request,
                    result,
                }
            }),
        };
        true
    }

    /// What a change is made on, and what is to be read back after it.
    fn ground(&self, change: &Change) -> Ground {
        let status = self.shared.status.borrow();
        let catalog = status.catalog.as_deref();
        Ground {
            server: catalog.map(Catalog::server).unwrap_or_default(),
            basis: change.basis.clone(),
            subjects: catalog.map_or_else(
                || Subjects::role(&change.role),
                |catalog| catalog.unknown(&change.role, &change.interest),
            ),
        }
    }

    /// One question for all lookups that wait, but for those that a snapshot answered meanwhile.
    fn ask(&mut self) {
        for look in std::mem::take(&mut self.asked) {
            let known = self.view(&look.role, &look.interest);
            match known {
                Ok(view) if !look.anew => reply(look.reply, Ok(view)),
                _ => self.asked.push(look),
            }
        }
        if self.asked.is_empty() {
            return;
        }
        let at = self.first(|_| true);
        let Some((slot, line)) = at.and_then(|at| self.occupy(at, false)) else {
            return;
        };
        self.asking = Some(slot);
        let looks = std::mem::take(&mut self.asked);
        self.running.spawn(async move {
            let answers = look_up(&line, looks).await;
            Finished::Asked { slot, answers }
        });
    }

    fn snapshot(&mut self) {
        if self.snapping.is_some() {
            return;
        }
        let at = self.first(|_| true);
        let Some((slot, line)) = at.and_then(|at| self.occupy(at, false)) else {
            return;
        };
        self.snapping = Some(slot);
        let began = self.sequence;
        let interests = self.interests();
        self.running.spawn(async move {
            let since = Instant::now();
            let result = Box::new(take(&line, interests).await);
            let took = since.elapsed();
            Finished::Snapshot {
                slot,
                began,
                took,
                result,
            }
        });
    }
}

/// Asks for all at once; if that takes the server too long, or there is too much to answer, for half of
/// them at a time, so that only whose role it is gets no answer.
async fn look_up(line: &change::Line, looks: Vec<Look>) -> Vec<Answers> {
    let (mut left, mut answers) = (vec![looks], Vec::new());
    while let Some(mut looks) = left.pop() {
        let mut subjects = Subjects::default();
        for look in &looks {
            subjects.add(&look.role, &look.interest);
        }
        let question = questions::facts(&subjects);
        let result = match line.send(&question).await {
            Ok(tables) => Ok(snapshot::facts(subjects, &tables)),
            Err(error) if looks.len() > 1 && error.is_of_its_size() => {
                left.push(looks.split_off(looks.len() / 2));
                left.push(looks);
                continue;
            }
            Err(error) => Err(line.trouble("look up roles", None, &error)),
        };
        let broken = result.as_ref().is_err_and(|trouble| trouble.broken);
        answers.push((looks, result));
        if broken {
            // The others are asked for on another connection.
            let lost = left.drain(..).map(|looks| (looks, Err(gone(line))));
            answers.extend(lost);
        }
    }
    answers
}

fn gone(line: &change::Line) -> Trouble {
    let server = &line.server;
    let what = format!("could not look up roles on {server}");
    Trouble {
        failure: unreachable(server, &what, "the connection was lost"),
        broken: true,
        locked: false,
    }
}
