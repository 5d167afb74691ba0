//! Whether an authority may be asked now: not before the time it told us, and after a failure by
//! one exchange at a time until one is answered. Must not know what an exchange is.
//!
//! Entra limits clients as well as tenants, and does not say which of the two it means by a 429. So a
//! pause that it asks for holds for all clients of the authority. A client that is told so again,
//! although others have been answered since, is meant alone: it must not hold up the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::locked;
use super::queue::SLOW;
use crate::model::{Class, Failure, Reason};

/// How long an order waits for the outcome of another's probe.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// The pause after a failure; from [`AT_FIRST_PAUSE`] in a row on it is doubled with each.
const FIRST_PAUSE: Duration = SLOW;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// So many failures in a row before the pauses grow: ten seconds.
const AT_FIRST_PAUSE: u32 = 8;
/// A client that was throttled comes so much later than the others, so that one of them finds out
/// whether it was meant alone.
const OTHERS_FIRST: Duration = Duration::from_secs(2);
/// A client that was throttled is forgotten this long after its pause.
const FORGIVEN: Duration = Duration::from_secs(600);

/// The gate before one authority.
#[derive(Debug)]
pub(super) struct Gate {
    /// Who is behind it, for the messages.
    target: String,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    trouble: Option<Trouble>,
    /// Clients that were asked to slow down.
    throttled: HashMap<String, Throttled>,
    /// Useful answers so far.
    answers: u64,
}

#[derive(Debug)]
struct Throttled {
    until: Instant,
    /// [`State::answers`] then.
    answers: u64,
}

#[derive(Debug)]
struct Trouble {
    reason: Reason,
    /// Nothing is sent before.
    not_before: Instant,
    /// Somebody is trying.
    probing: bool,
    /// Failures one after the other; exchanges that ran at the same time count once.
    streak: u32,
}

/// What an exchange says about the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, with a token or a refusal.
    Answers,
    /// It asked for a pause.
    Throttles(Duration),
    /// It did not answer usefully, and perhaps said when it will.
    Fails(Option<Duration>),
}

/// The permission for one exchange. Dropped without a report it changes nothing.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    /// Empty: the node.
    client: String,
    probe: bool,
}

enum Entry {
    Go(Pass),
    Closed(Failure),
    Probed(watch::Receiver<()>),
}

impl Gate {
    pub(super) fn new(target: String) -> Arc<Self> {
        Arc::new(Self {
            target,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        })
    }

    /// Fails at once while nothing may be sent, so that nobody queues for that.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match &locked(&self.state).trouble {
            Some(trouble) => self.closed(trouble, Instant::now()).map_or(Ok(()), Err),
            None => Ok(()),
        }
    }

    /// Asks for permission; waits briefly while another exchange finds out whether it makes sense.
    pub(super) async fn enter(self: &Arc<Self>, client: &str) -> Result<Pass, Failure> {
        let deadline = Instant::now() + PROBE_WAIT;
        loop {
            let mut changed = match self.try_enter(client, Instant::now()) {
                Entry::Go(pass) => return Ok(pass),
                Entry::Closed(failure) => return Err(failure),
                Entry::Probed(changed) => changed,
            };
            if timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(self.refusal(Reason::EntraUnavailable, PROBE_WAIT));
            }
        }
    }

    fn try_enter(self: &Arc<Self>, client: &str, now: Instant) -> Entry {
        let mut state = locked(&self.state);
        if let Some(failure) = self.throttled(&state, client, now) {
            return Entry::Closed(failure);
        }
        let Some(trouble) = state.trouble.as_mut() else {
            return Entry::Go(self.pass(client, false));
        };
        if let Some(failure) = self.closed(trouble, now) {
            return Entry::Closed(failure);
        }
        if trouble.probing {
            // Subscribed under the lock: no report can fall between.
            return Entry::Probed(self.changed.subscribe());
        }
        trouble.probing = true;
        Entry::Go(self.pass(client, true))
    }

    fn pass(self: &Arc<Self>, client: &str, probe: bool) -> Pass {
        Pass {
            gate: Arc::clone(self),
            client: client.to_owned(),
            probe,
        }
    }

    fn closed(&self, trouble: &Trouble, now: Instant) -> Option<Failure> {
        let left = trouble.not_before.saturating_duration_since(now);
        (!left.is_zero()).then(|| self.refusal(trouble.reason, left))
    }

    fn throttled(&self, state: &State, client: &str, now: Instant) -> Option<Failure> {
        let until = state.throttled.get(client)?.until;
        let left = until.saturating_duration_since(now);
        let message = format!(
            "{} asked the operator to slow down with this identity: nothing is sent for it until then",
            self.target
        );
        let failure = Failure::new(Class::Waiting, Reason::EntraThrottled, message);
        (!left.is_zero()).then(|| failure.retry_after(left))
    }

    /// Says nothing of the exchange that failed: it may have been another namespace's. Nothing was
    /// tried, so nothing failed: whoever gets this just waits.
    fn refusal(&self, reason: Reason, left: Duration) -> Failure {
        let target = &self.target;
        let message = if reason == Reason::EntraThrottled {
            format!("{target} asked the operator to slow down: nothing is sent there until then")
        } else {
            format!(
                "{target} did not answer usefully when the operator last asked: nothing more is \
                 sent there until one exchange has been answered"
            )
        };
        Failure::new(Class::Waiting, reason, message).retry_after(left)
    }

    fn report(&self, pass: &Pass, verdict: Option<Verdict>, now: Instant) {
        let Pass { client, probe, .. } = pass;
        let mut state = locked(&self.state);
        if let Some(trouble) = state.trouble.as_mut().filter(|_| *probe) {
            trouble.probing = false;
        }
        match verdict {
            None => {}
            Some(Verdict::Answers) => state.answered(client, now),
            Some(Verdict::Throttles(pause)) => {
                let pause = pause.max(FIRST_PAUSE);
                // One that is throttled alone is no sign that the others may go on.
                let alone = state.throttle(client, pause, now);
                let pause = if alone { FIRST_PAUSE } else { pause };
                if !alone || *probe {
                    let reason = Reason::EntraThrottled;
                    Trouble::add(&mut state.trouble, *probe, reason, now, Some(pause));
                }
            }
            Some(Verdict::Fails(pause)) => {
                let reason = Reason::EntraUnavailable;
                Trouble::add(&mut state.trouble, *probe, reason, now, pause);
            }
        }
        drop(state);
        self.changed.send_replace(());
    }
}

impl State {
    fn answered(&mut self, client: &str, now: Instant) {
        self.answers += 1;
        // An answer to what was sent before does not shorten a pause that was asked for.
        let kept = |until: Instant| until > now;
        if !self.throttled.get(client).is_some_and(|t| kept(t.until)) {
            self.throttled.remove(client);
        }
        let keep = |t: &Trouble| t.reason == Reason::EntraThrottled && kept(t.not_before);
        if !self.trouble.as_ref().is_some_and(keep) {
            self.trouble = None;
        }
    }

    /// Notes that this client was asked to slow down; says whether it is meant alone.
    fn throttle(&mut self, client: &str, pause: Duration, now: Instant) -> bool {
        self.throttled
            .retain(|_, throttled| now < throttled.until + FORGIVEN);
        let before = self.throttled.get(client).map(|before| before.answers);
        let alone = before.is_some_and(|answers| self.answers > answers);
        let throttled = Throttled {
            until: now + pause + OTHERS_FIRST,
            answers: self.answers,
        };
        self.throttled.insert(client.to_owned(), throttled);
        alone
    }
}

impl Trouble {
    fn add(
        state: &mut Option<Self>,
        probe: bool,
        reason: Reason,
        now: Instant,
        asked: Option<Duration>,
    ) {
        let trouble = state.get_or_insert(Self {
            reason,
            not_before: now,
            probing: false,
            streak: 0,
        });
        if probe || trouble.streak == 0 {
            trouble.streak = trouble.streak.saturating_add(1);
        }
        // Whatever it says: a pause of nothing would let everybody go on at once.
        let not_before = now + asked.unwrap_or_default().max(pause(trouble.streak));
        if not_before >= trouble.not_before {
            trouble.not_before = not_before;
            trouble.reason = reason;
        }
    }
}

/// The same for a while: most troubles end within seconds, and the end should be noticed then.
fn pause(streak: u32) -> Duration {
    let doublings = streak.saturating_sub(AT_FIRST_PAUSE);
    FIRST_PAUSE
        .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(LONGEST_PAUSE)
}

impl Pass {
    /// Says what the exchange found.
    pub(super) fn report(mut self, verdict: Verdict) {
        self.gate.report(&self, Some(verdict), Instant::now());
        self.probe = false;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.gate.report(self, None, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    fn gate() -> Arc<Gate> {
        Gate::new("Entra at https://login.example".to_owned())
    }

    const A: &str = "client a";
    const B: &str = "client b";
    const MINUTE: Duration = Duration::from_secs(60);

    async fn fail(gate: &Arc<Gate>) {
        let pass = gate.enter(A).await.expect("open");
        pass.report(Verdict::Fails(None));
    }

    /// One exchange of that client.
    fn ask(gate: &Arc<Gate>, client: &str, verdict: Verdict) -> Result<(), Option<Duration>> {
        match gate.enter(client).now_or_never().expect("at once") {
            Ok(pass) => {
                pass.report(verdict);
                Ok(())
            }
            Err(failure) => Err(failure.retry_after),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_passes_until_the_time_that_a_throttling_authority_named() {
        let gate = gate();
        let before = gate.enter(B).await.expect("open");
        let pass = gate.enter(A).await.expect("open");
        pass.report(Verdict::Throttles(MINUTE));
        before.report(Verdict::Answers);
        advance(Duration::from_secs(20)).await;
        let refused = gate.enter(B).now_or_never().expect("at once");
        let failure = refused.expect_err("closed");
        assert_eq!(failure.reason, Reason::EntraThrottled);
        assert_eq!(failure.class, Class::Waiting);
        assert_eq!(failure.retry_after, Some(Duration::from_secs(40)));
        assert_eq!(gate.check(), Err(failure));
        advance(Duration::from_secs(40)).await;
        assert_eq!(gate.check(), Ok(()));
        let probe = gate.enter(B).await.expect("open again");
        assert!(gate.enter(B).now_or_never().is_none(), "one at a time");
        probe.report(Verdict::Answers);
        assert!(gate.enter(B).now_or_never().is_some());
    }

    // Red when: `throttle` never says alone (the second 429 of A closes the gate for B), or always
    // does (B is asked during the first pause).
    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_throttled_while_others_are_answered_does_not_hold_them_up() {
        let gate = gate();
        let throttled = Verdict::Throttles(MINUTE);
        assert_eq!(ask(&gate, A, throttled), Ok(()));
        assert_eq!(ask(&gate, B, Verdict::Answers), Err(Some(MINUTE)));
        advance(MINUTE).await;
        assert_eq!(ask(&gate, A, throttled), Err(Some(OTHERS_FIRST)));
        assert_eq!(ask(&gate, B, Verdict::Answers), Ok(()));
        advance(OTHERS_FIRST).await;
        assert_eq!(ask(&gate, A, throttled), Ok(()));
        assert_eq!(ask(&gate, B, Verdict::Answers), Ok(()));
        let alone = MINUTE + OTHERS_FIRST;
        assert_eq!(ask(&gate, A, throttled), Err(Some(alone)));
        // Where others are throttled too, it is the authority again.
        assert_eq!(ask(&gate, B, throttled), Ok(()));
        assert_eq!(ask(&gate, "c", throttled), Err(Some(MINUTE)));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_probes_and_its_success_lets_the_others_through() {
        let gate = gate();
        fail(&gate).await;
        assert_eq!(ask(&gate, B, Verdict::Answers), Err(Some(FIRST_PAUSE)));
        advance(FIRST_PAUSE).await;
        let probe = gate.enter(A).await.expect("the probe");
        let others = futures::future::join_all((0..5).map(|_| gate.enter(B)));
        tokio::pin!(others);
        assert!(others.as_mut().now_or_never().is_none());
        probe.report(Verdict::Answers);
        assert!(others.await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_turns_the_others_away_with_a_time() {
        let gate = gate();
        fail(&gate).await;
        advance(FIRST_PAUSE).await;
        let probe = gate.enter(A).await.expect("the probe");
        let other = gate.enter(B);
        tokio::pin!(other);
        assert!(other.as_mut().now_or_never().is_none());
        probe.report(Verdict::Fails(None));
        let failure = other.await.expect_err("closed");
        assert_eq!(failure.reason, Reason::EntraUnavailable);
        assert_eq!(failure.retry_after, Some(FIRST_PAUSE));
    }

    // Red when: pauses grow from the first failure on: the end of a trouble of seconds is noticed late, and
    // tokens end meanwhile. Or when they never grow.
    #[tokio::test(start_paused = true)]
    async fn pauses_grow_after_ten_seconds() {
        let gate = gate();
        let mut pauses = Vec::new();
        for _ in 0..11 {
            fail(&gate).await;
            let failure = gate.check().expect_err("closed");
            let pause = failure.retry_after.expect("a time");
            pauses.push(pause);
            advance(pause).await;
        }
        assert_eq!(pauses[..8], [FIRST_PAUSE; 8]);
        assert_eq!(pauses[8..], [2 * FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_a_probe_that_hangs() {
        let gate = gate();
        fail(&gate).await;
        advance(FIRST_PAUSE).await;
        let _probe = gate.enter(A).await.expect("the probe");
        let start = Instant::now();
        let failure = gate.enter(B).await.expect_err("no outcome");
        assert_eq!(start.elapsed(), PROBE_WAIT);
        assert_eq!(failure.reason, Reason::EntraUnavailable);
        assert_eq!(failure.retry_after, Some(PROBE_WAIT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_leaves_room_for_the_next() {
        let gate = gate();
        fail(&gate).await;
        advance(FIRST_PAUSE).await;
        let probe = gate.enter(A).await.expect("the probe");
        let other = gate.enter(B);
        tokio::pin!(other);
        assert!(other.as_mut().now_or_never().is_none());
        drop(probe);
        assert!(other.await.expect("the next probe").probe);
    }

    // Red when: `add` takes what the authority asks for without a floor (`Retry-After: 0`, a date past).
    #[tokio::test(start_paused = true)]
    async fn an_authority_that_asks_for_no_pause_gets_one() {
        for verdict in [
            Verdict::Fails(Some(Duration::ZERO)),
            Verdict::Throttles(Duration::ZERO),
        ] {
            let gate = gate();
            for pause in [FIRST_PAUSE; 3] {
                gate.enter(A).await.expect("open").report(verdict);
                let failure = gate.check().expect_err("closed");
                assert_eq!(failure.retry_after, Some(pause), "{verdict:?}");
                advance(LONGEST_PAUSE).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_at_the_same_time_count_once() {
        let gate = gate();
        let passes = futures::future::join_all((0..16).map(|_| gate.enter(A))).await;
        for pass in passes {
            pass.expect("open").report(Verdict::Fails(None));
        }
        let failure = gate.check().expect_err("closed");
        assert_eq!(failure.retry_after, Some(FIRST_PAUSE));
    }
}
