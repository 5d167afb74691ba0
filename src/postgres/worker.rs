//! The task of one server's session: connects as the first administrator that works, serves while
//! connected, and connects again with growing delays. Must not decide what a role should be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::{Catalog, Failure, Reason, RoleName, Subjects};

use super::answers::{Finished, reply};
use super::change::{Line, Patience};
use super::connect::Link;
use super::databases::{HOME, Rooms};
use super::dial::{Refusal, dial, fraction, pause, take_first, together};
use super::queue::Queue;
use super::serve::Work;
use super::session::SessionEvent;
use super::shared::{Command, Look, Phase, Shared};

/// How long to wait before a connection is made again that was closed while it was idle, soon after it
/// was opened.
const SOON_AGAIN: Duration = Duration::from_secs(1);

/// A connection that lived as long is made again at once when it is lost.
const STEADY: Duration = Duration::from_secs(10);

/// The task's own state.
pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub server: Arc<str>,
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub ended: mpsc::UnboundedReceiver<(u64, String)>,
    pub end_of: mpsc::UnboundedSender<(u64, String)>,
    /// Open connections; the first also takes snapshots and questions.
    pub slots: Vec<Slot>,
    pub running: JoinSet<Finished>,
    pub queue: Queue<Work>,
    /// How much of what came upon a lock is tried again now.
    pub patient: usize,
    /// Questions that go with the next message.
    pub asked: Vec<Look>,
    /// The connection on which a question is under way.
    pub asking: Option<u64>,
    /// The connection on which a snapshot is under way.
    pub snapping: Option<u64>,
    /// Snapshots that failed one after the other.
    pub failed_snapshots: u32,
    /// Somebody wants one that begins from now on.
    pub snapshot_due: bool,
    /// The first snapshot of this connection was not answered yet: questions may be in vain until it is.
    pub first_snapshot: bool,
    pub opening: bool,
    /// After a further connection could not be opened.
    pub no_more_until: Option<Instant>,
    /// What was folded in since when, so that an older snapshot does not undo it.
    pub touched: Vec<Touch>,
    pub sequence: u64,
    /// See [`crate::model::ServerFacts::improved_control`]: learned anew after each connect.
    pub improved_control: Option<bool>,
    /// The databases in use.
    pub rooms: Rooms,
    /// Index of the administrator as whom we are signed in.
    pub administrator: usize,
    next_slot: u64,
}

/// One open connection.
pub(super) struct Slot {
    pub id: u64,
    pub link: Arc<Link>,
    /// Messages under way.
    pub busy: u32,
    /// Whether one of them makes the server ask its directory.
    pub slow: bool,
}

impl Slot {
    /// Whether its connection has ended; that is told soon.
    pub fn is_closed(&self) -> bool {
        self.link.client.is_closed()
    }
}

/// Facts that were folded in.
#[derive(Debug)]
pub(super) struct Touch {
    pub sequence: u64,
    pub subjects: Subjects,
}

/// Why serving ended.
#[derive(Debug)]
pub(super) enum End {
    /// The owner of the session is gone.
    Stopped,
    /// The last connection was closed while nothing was under way: by a time-out of the server, or of what
    /// is in between. That is no news.
    Idle,
    /// The last connection was lost.
    Lost(Failure),
    /// The server does not serve us any more.
    Failed(Failure),
}

impl Worker {
    pub fn new(shared: Arc<Shared>, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        let (end_of, ended) = mpsc::unbounded_channel();
        Self {
            server: shared.spec.describe().into(),
            shared,
            commands,
            ended,
            end_of,
            slots: Vec::new(),
            running: JoinSet::new(),
            queue: Queue::default(),
            patient: 0,
            asked: Vec::new(),
            asking: None,
            snapping: None,
            failed_snapshots: 0,
            snapshot_due: false,
            first_snapshot: false,
            opening: false,
            no_more_until: None,
            touched: Vec::new(),
            sequence: 0,
            improved_control: None,
            rooms: Rooms::default(),
            administrator: 0,
            next_slot: 0,
        }
    }

    /// Runs until the owner drops the session.
    pub async fn run(mut self) {
        let mut attempt = 0_u32;
        let mut quietly = false;
        // The last attempt came to nothing for the server's sake: that says nothing of the token.
        let mut keeps_token = false;
        loop {
            let mut lived = Duration::ZERO;
            let connected = if std::mem::take(&mut quietly) {
                self.connect_quietly().await
            } else {
                self.connect(keeps_token).await
            };
            keeps_token = matches!(connected, Err(Refusal::OfServer(_)));
            let end = match connected {
                Ok(()) => {
                    let since = Instant::now();
                    let end = self.serve().await;
                    lived = since.elapsed();
                    end
                }
                Err(refusal) => End::Failed(refusal.into_failure()),
            };
            self.slots.clear();
            self.rooms.cut();
            (self.asking, self.snapping, self.patient) = (None, None, 0);
            self.count_open();
            if lived >= STEADY {
                attempt = 0;
            }
            match end {
                End::Stopped => return,
                End::Idle => {
                    let server = &self.shared.spec.server;
                    tracing::debug!(%server, "a connection was closed while it was idle");
                    quietly = true;
                    if lived < STEADY {
                        tokio::time::sleep(SOON_AGAIN).await;
                    }
                }
                End::Lost(failure) if lived >= STEADY => {
                    tracing::info!(server = %self.shared.spec.server, "connecting again: {failure}");
                    self.shared.enter(Phase::Connecting);
                }
                End::Lost(failure) | End::Failed(failure) => {
                    attempt = attempt.saturating_add(1);
                    let pause = pause(&failure, attempt, fraction());
                    self.fail(&failure);
                    self.rest(pause).await;
                }
            }
        }
    }

    /// Signs in as the first administrator that works and asks what must be known to serve. A server that is
    /// dead costs one token in that token's life, however often it is tried.
    async fn connect(&mut self, keeps_token: bool) -> Result<(), Refusal> {
        let mut refusals: Vec<Failure> = Vec::new();
        for index in 0..self.shared.spec.administrators.len() {
            // Whom we sign in as again has to show that it still is who it says.
            if !keeps_token {
                self.shared.forget_token();
            }
            match self.connect_as(index, false).await {
                Ok(()) => return Ok(()),
                Err(Refusal::OfServer(failure)) => return Err(Refusal::OfServer(failure)),
                Err(Refusal::OfAdministrator(failure)) => refusals.push(failure),
            }
        }
        let failure = together(&self.server, refusals);
        Err(Refusal::OfAdministrator(failure))
    }

    /// The same as who we were, with the token at hand: nobody is told.
    async fn connect_quietly(&mut self) -> Result<(), Refusal> {
        match self.connect_as(self.administrator, true).await {
            Err(Refusal::OfAdministrator(_)) => self.connect(false).await,
            connected => connected,
        }
    }

    async fn connect_as(&mut self, administrator: usize, quietly: bool) -> Result<(), Refusal> {
        let id = self.slot_id();
        let (shared, end_of) = (self.shared.clone(), self.end_of.clone());
        let link = dial(shared, administrator, id, end_of, HOME).await?;
        self.first_look(id, link, quietly).await?;
        self.administrator = administrator;
        Ok(())
    }

    async fn first_look(&mut self, id: u64, link: Link, quietly: bool) -> Result<(), Refusal> {
        let slot = Slot {
            id,
            link: Arc::new(link),
            busy: 0,
            slow: false,
        };
        let first = take_first(&self.line(&slot)).await;
        let catalog = first.map_err(|failure| {
            slot.link.cut();
            match failure.reason {
                Reason::NotAnEntraAdministrator => Refusal::OfAdministrator(failure),
                _ => Refusal::OfServer(failure),
            }
        })?;
        self.slots.push(slot);
        self.count_open();
        self.failed_snapshots = 0;
        if !quietly {
            self.improved_control = None;
            self.begin(catalog);
        }
        self.first_snapshot = true;
        self.shared.enter(Phase::Connected);
        Ok(())
    }

    /// What was known before a connection was lost says what changes, and is relied on no more.
    fn begin(&self, catalog: Catalog) {
        self.shared.status.send_modify(|status| {
            status.unread = None;
            match &mut status.catalog {
                Some(old) => {
                    let old = Arc::make_mut(old);
                    old.uncover();
                    (old.version, old.version_num) = (catalog.version, catalog.version_num);
                    old.administrator = catalog.administrator;
                    old.read_only = catalog.read_only;
                    old.improved_control = None;
                }
                none => *none = Some(Arc::new(catalog)),
            }
        });
    }

    /// Opens one connection more, as the present administrator, beside the work.
    pub fn open_another(&mut self) {
        let id = self.slot_id();
        self.opening = true;
        let dialled = dial(
            self.shared.clone(),
            self.administrator,
            id,
            self.end_of.clone(),
            HOME,
        );
        self.running.spawn(async move {
            let result = dialled.await;
            let result = result.map_err(Refusal::into_failure);
            Finished::Opened { slot: id, result }
        });
    }

    pub fn slot_id(&mut self) -> u64 {
        let id = self.next_slot;
        self.next_slot += 1;
        id
    }

    /// A line on that connection: patient enough for what is before it.
    pub fn line(&self, slot: &Slot) -> Line {
        let statement = self.shared.spec.timeouts.statement;
        Line {
            link: slot.link.clone(),
            gate: self.shared.gate.clone(),
            stats: self.shared.stats.clone(),
            server: self.server.clone(),
            place: self.server.clone(),
            limit: statement.saturating_mul(slot.busy.saturating_add(2)),
            patience: Patience::Short,
        }
    }

    /// What a snapshot covers.
    pub fn interests(&self) -> Subjects {
        let mut subjects = Subjects::default();
        for (role, interest) in self.shared.interests().iter() {
            subjects.add(role, interest);
        }
        subjects
    }

    /// Makes a snapshot that began at that point the newest catalog, and tells what changed.
    pub fn publish(&mut self, mut catalog: Catalog, began: u64) {
        self.touched.retain(|touch| touch.sequence > began);
        let mut touched = Subjects::default();
        for touch in &self.touched {
            touched.extend(touch.subjects.clone());
        }
        let mut changed = BTreeSet::new();
        let mut other = false;
        catalog.operators = self.shared.operators().clone();
        catalog.improved_control = self.improved_control;
        let interests = self.shared.interests();
        self.shared.status.send_modify(|status| {
            let known = |old: &&Arc<Catalog>| !old.roles.is_empty() || !old.covers.is_empty();
            if let Some(old) = status.catalog.as_ref().filter(known) {
                catalog = std::mem::take(&mut catalog).overlaid(old, &touched);
                changed = catalog.diff(old);
                other = catalog.unmanaged != old.unmanaged || catalog.version != old.version;
                changed.extend(catalog.news(old, interests.iter()));
                // That has snapshots of its own.
                catalog.inside.clone_from(&old.inside);
            }
            status.catalog = Some(Arc::new(catalog));
        });
        drop(interests);
        self.tell_of(changed);
        if other {
            let server = self.shared.spec.server.clone();
            self.shared.tell(SessionEvent::ServerChanged(server));
        }
    }

    /// Tells that the principals of these roles should look again.
    pub fn tell_of(&self, roles: BTreeSet<RoleName>) {
        if !roles.is_empty() {
            let server = self.shared.spec.server.clone();
            self.shared.tell(SessionEvent::RolesChanged(server, roles));
        }
    }

    pub fn count_open(&self) {
        let open = self.slots.len() + self.rooms.open();
        self.shared.stats.open_now(open);
    }

    /// Everything that waits gets the failure.
    fn fail(&mut self, failure: &Failure) {
        tracing::warn!(server = %self.shared.spec.server, reason = %failure.reason, "{failure}");
        self.shared.enter(Phase::Failed(failure.clone()));
        if let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        self.refuse_all();
    }

    /// Waits before the next attempt; what still runs on old connections is taken in.
    async fn rest(&mut self, pause: Duration) {
        let shared = self.shared.clone();
        let retry = shared.retry.notified();
        let pause = tokio::time::sleep(pause);
        tokio::pin!(retry, pause);
        loop {
            tokio::select! {
                () = &mut pause => return,
                () = &mut retry => return,
                Some(finished) = self.running.join_next() => {
                    let _ = self.finished(finished);
                    self.refuse_all();
                }
                Some(command) = self.commands.recv() => {
                    self.take(command);
                    self.refuse_all();
                }
            }
        }
    }

    fn refuse_all(&mut self) {
        let phase = self.shared.status.borrow().phase.clone();
        if let Phase::Failed(failure) = phase {
            for look in self.asked.drain(..) {
                reply(look.reply, Err(failure.clone()));
            }
            for work in self.queue.drain() {
                work.refuse(failure.clone());
            }
            self.rooms.refuse_all(&failure);
        }
    }
}
