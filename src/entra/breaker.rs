//! Circuit breakers for one authority: which exchange may be sent now. Pure: time is an argument. Must
//! not know what an exchange is.
//!
//! The unit of blame is the client of one namespace. Its failures open its own circuit. The circuit of a
//! namespace opens when two of its clients fail with no answer in between, that of an Entra tenant or of
//! the authority only when clients of different namespaces do. So nothing that one namespace sends keeps
//! another from being served. A wider circuit lets one exchange probe within seconds, whatever pause a
//! client was asked for.
//!
//! After a first failure nobody knows yet whose it is. Then the next exchange is sent a little more than
//! a second later, so that an authority in trouble gets no burst: always in the namespace that failed, and in
//! all others at most once in [`DOUBT_INTERVAL`], so that no namespace can slow the others down by that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Reason;

/// An exchange that has no answer for so long is slow. The pause after a failure is the same, and from
/// [`AT_FIRST_PAUSE`] in a row on it doubles with each. A little more than a second, so that exchanges with an
/// authority in trouble are in different seconds wherever they are counted.
pub(super) const SLOW: Duration = Duration::from_millis(1250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How many failures in a row have the first pause: ten seconds.
const AT_FIRST_PAUSE: u32 = 8;
/// A probe that has no answer after this time no longer keeps another from being sent.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// A circuit that failed is forgotten this long after its pause.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// A first failure makes the exchanges of other namespaces wait at most once in this time, unless the
/// authority's circuit opened.
const DOUBT_INTERVAL: Duration = Duration::from_secs(10);
/// How many clients of one namespace are remembered; beyond it the oldest is forgotten, and the circuit
/// of the namespace still holds.
const MOST_CLIENTS: usize = 256;
/// How many Entra tenants are remembered that failed: their names are free text.
const MOST_TENANTS: usize = 1024;

/// Who an exchange is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    /// Namespace of the object: what one namespace does with a client says nothing about another's use of it.
    pub(super) namespace: Arc<str>,
    /// Entra tenant; empty at IMDS, as is the client.
    pub(super) tenant: Arc<str>,
    pub(super) client: Arc<str>,
}

/// Entra tenant and client.
type Client = (Arc<str>, Arc<str>);

/// What an exchange says about the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// It was answered, with a token or a refusal.
    Answered,
    /// Its client was throttled for so long.
    Throttled(Duration),
    /// Its own request was not answered usefully, by nothing that concerns other namespaces.
    ClientFailed,
    /// The authority itself failed: no connection, no answer in time, 5xx.
    AuthorityFailed(Option<Duration>),
    /// It has not been answered for [`SLOW`], and runs on.
    Slow,
    /// Nothing was sent.
    NotSent,
}

/// Why an exchange may not be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) reason: Reason,
    /// Only this client is held back.
    pub(super) client_only: bool,
    pub(super) left: Duration,
}

/// The circuits of one authority. What has not failed has no entry.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    /// By namespace.
    clients: HashMap<Arc<str>, HashMap<Client, Circuit>>,
    namespaces: HashMap<Arc<str>, Group>,
    tenants: HashMap<Arc<str>, Group>,
    authority: Group,
    /// When a first failure may make everybody wait again.
    next_doubt: Option<Instant>,
}

/// Failures in a row, and when the next exchange may be sent.
#[derive(Clone, Debug)]
struct Circuit {
    reason: Reason,
    /// Failures in a row; exchanges that ran at the same time count once.
    streak: u32,
    failed_at: Instant,
    not_before: Instant,
    probing_until: Option<Instant>,
}

/// The circuit of many clients.
#[derive(Debug, Default)]
struct Group {
    circuit: Option<Circuit>,
    /// Who failed last, with no answer since.
    suspect: Option<(Caller, Instant)>,
    /// Nothing is sent before, as nobody knows yet whose failure that was.
    doubt: Option<Instant>,
}

impl Breakers {
    /// Why nothing may be sent for this caller now.
    pub(super) fn blocked(&self, caller: &Caller, now: Instant) -> Option<Blocked> {
        let own = self.client(caller).and_then(|it| it.blocked(true, now));
        let wider = self.wider(caller);
        let wider = wider.into_iter().filter_map(|group| group.blocked(now));
        wider.chain(own).max_by_key(|blocked| blocked.left)
    }

    /// Why nothing may be sent for anybody now.
    pub(super) fn all_blocked(&self, now: Instant) -> Option<Blocked> {
        self.authority.blocked(now)
    }

    /// Why nothing may be sent for that namespace now.
    pub(super) fn namespace_blocked(&self, namespace: &str, now: Instant) -> Option<Blocked> {
        self.namespaces.get(namespace)?.blocked(now)
    }

    /// Whether the authority's circuit is open: exchanges are probes.
    pub(super) fn is_open(&self) -> bool {
        self.authority.circuit.is_some()
    }

    /// Whether the exchange would be a probe for others by a client that itself failed last: one of
    /// another client goes first.
    pub(super) fn is_poor_probe(&self, caller: &Caller) -> bool {
        let open = |group: &Group| group.circuit.is_some();
        self.client(caller).is_some() && self.wider(caller).into_iter().any(open)
    }

    /// An exchange begins that [`Self::blocked`] let through.
    pub(super) fn begin(&mut self, caller: &Caller, now: Instant) {
        self.set_probing(caller, Some(now + PROBE_TIME));
    }

    /// An exchange that began then has ended.
    pub(super) fn report(&mut self, caller: &Caller, signal: Signal, began: Instant, now: Instant) {
        let (reason, pause, wider) = match signal {
            Signal::Answered => return self.answered(caller, began, now),
            Signal::NotSent => return self.end_probe(caller),
            Signal::ClientFailed => (Reason::EntraUnavailable, None, false),
            Signal::AuthorityFailed(pause) => (Reason::EntraUnavailable, pause, true),
            Signal::Slow => (Reason::EntraUnavailable, None, true),
            Signal::Throttled(pause) => (Reason::EntraThrottled, Some(pause), true),
        };
        let failure = Failed {
            caller,
            reason,
            began,
            now,
        };
        let known = self.client(caller).is_some()
            || (self.namespaces.get(&caller.namespace)).is_some_and(|it| it.circuit.is_some());
        self.client_failed(&failure, pause);
        self.namespace_failed(&failure);
        if wider {
            self.wider_failed(&failure, known);
        } else {
            self.end_probe(caller);
        }
        self.forget(now);
    }

    /// How many circuits and suspects are kept.
    #[cfg(test)]
    fn len(&self) -> usize {
        let clients: usize = self.clients.values().map(HashMap::len).sum();
        clients + self.namespaces.len() + self.tenants.len()
    }

    fn client(&self, caller: &Caller) -> Option<&Circuit> {
        self.clients.get(&caller.namespace)?.get(&own_key(caller))
    }

    fn wider(&self, caller: &Caller) -> Vec<&Group> {
        let namespace = self.namespaces.get(&caller.namespace);
        let tenant = self.tenants.get(&caller.tenant);
        let groups = [namespace, tenant, Some(&self.authority)];
        groups.into_iter().flatten().collect()
    }

    fn answered(&mut self, caller: &Caller, began: Instant, now: Instant) {
        if let Some(clients) = self.clients.get_mut(&caller.namespace) {
            // An answer to what was sent before does not shorten a pause that was asked for.
            let own = own_key(caller);
            let ended = clients.get(&own).is_some_and(|it| {
                it.reason != Reason::EntraThrottled || it.not_before <= now || it.failed_at < began
            });
            if ended {
                clients.remove(&own);
            }
        }
        self.namespaces.remove(&caller.namespace);
        self.tenants.remove(&caller.tenant);
        self.authority = Group::default();
        self.forget(now);
    }

    /// The probe found nothing out: the next one may be sent.
    fn end_probe(&mut self, caller: &Caller) {
        self.set_probing(caller, None);
    }

    /// Until when an exchange of that caller counts as the probe of each open circuit that it is behind.
    fn set_probing(&mut self, caller: &Caller, until: Option<Instant>) {
        let clients = self.clients.get_mut(&caller.namespace);
        let client = clients.and_then(|clients| clients.get_mut(&own_key(caller)));
        let namespace = self.namespaces.get_mut(&caller.namespace);
        let groups = [namespace, self.tenants.get_mut(&caller.tenant)];
        let wider = groups.into_iter().flatten().chain([&mut self.authority]);
        let circuits = wider.filter_map(|group| group.circuit.as_mut());
        for circuit in circuits.chain(client) {
            circuit.probing_until = until;
        }
    }

    fn client_failed(&mut self, failed: &Failed<'_>, pause: Option<Duration>) {
        let clients = self.clients.entry(Arc::clone(&failed.caller.namespace));
        let clients = clients.or_default();
        let own = own_key(failed.caller);
        if clients.len() >= MOST_CLIENTS && !clients.contains_key(&own) {
            let oldest = clients.iter().min_by_key(|(_, circuit)| circuit.failed_at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                clients.remove(&oldest);
            }
        }
        let circuit = clients.entry(own);
        let circuit = circuit.or_insert_with(|| Circuit::new(failed.now));
        circuit.failed(failed, pause);
    }

    fn namespace_failed(&mut self, failed: &Failed<'_>) {
        let namespace = Arc::clone(&failed.caller.namespace);
        let group = self.namespaces.entry(namespace).or_default();
        let another_client = |other: &Caller| own_key(other) != own_key(failed.caller);
        if !group.failed(failed, another_client) {
            group.doubt = Some(failed.now + SLOW);
        }
    }

    /// `known`: it was known of this caller that it fails.
    fn wider_failed(&mut self, failed: &Failed<'_>, known: bool) {
        let caller = failed.caller;
        let elsewhere = |other: &Caller| other.namespace != caller.namespace;
        if self.tenants.len() >= MOST_TENANTS && !self.tenants.contains_key(&caller.tenant) {
            self.tenants.retain(|_, group| group.circuit.is_some());
        }
        if self.tenants.len() < MOST_TENANTS {
            let tenant = self.tenants.entry(Arc::clone(&caller.tenant)).or_default();
            tenant.failed(failed, |other| {
                elsewhere(other) && other.client != caller.client
            });
        }
        // Throttling is about clients and tenants: it means the authority only where tenants differ.
        let throttled = failed.reason == Reason::EntraThrottled;
        let opened = self.authority.failed(failed, |other| {
            elsewhere(other) && (!throttled || other.tenant != caller.tenant)
        });
        if opened {
            self.next_doubt = None;
        } else if !known && self.next_doubt.is_none_or(|next| next <= failed.now) {
            self.authority.doubt = Some(failed.now + SLOW);
            self.next_doubt = Some(failed.now + DOUBT_INTERVAL);
        }
    }

    /// Drops what failed long ago, so that memory is that of what fails now.
    fn forget(&mut self, now: Instant) {
        for clients in self.clients.values_mut() {
            clients.retain(|_, circuit| circuit.is_recent(now));
        }
        self.clients.retain(|_, clients| !clients.is_empty());
        self.namespaces.retain(|_, group| group.is_recent(now));
        self.tenants.retain(|_, group| group.is_recent(now));
    }
}

fn own_key(caller: &Caller) -> Client {
    (Arc::clone(&caller.tenant), Arc::clone(&caller.client))
}

/// A failure, as it is counted.
struct Failed<'a> {
    caller: &'a Caller,
    reason: Reason,
    began: Instant,
    now: Instant,
}

impl Group {
    fn blocked(&self, now: Instant) -> Option<Blocked> {
        let circuit = self.circuit.as_ref();
        let doubt = self.doubt.filter(|until| *until > now);
        let doubt = doubt.map(|until| Blocked {
            reason: Reason::EntraUnavailable,
            client_only: false,
            left: until - now,
        });
        circuit.and_then(|it| it.blocked(false, now)).or(doubt)
    }

    /// A client failed; `another`: whether the one that failed before it makes this more than its own
    /// failure. Answers whether the circuit is open.
    fn failed(&mut self, failed: &Failed<'_>, another: impl Fn(&Caller) -> bool) -> bool {
        let suspect = self.suspect.as_ref();
        if self.circuit.is_none() && suspect.is_some_and(|(other, _)| another(other)) {
            self.circuit = Some(Circuit::new(failed.now));
        }
        if let Some(circuit) = &mut self.circuit {
            circuit.failed(failed, None);
            return true;
        }
        self.suspect = Some((failed.caller.clone(), failed.now));
        false
    }

    fn is_recent(&self, now: Instant) -> bool {
        let circuit = self.circuit.as_ref();
        let suspect = self.suspect.as_ref();
        circuit.is_some_and(|circuit| circuit.is_recent(now))
            || suspect.is_some_and(|(_, since)| now < *since + FORGOTTEN)
    }
}

impl Circuit {
    fn new(now: Instant) -> Self {
        Self {
            reason: Reason::EntraUnavailable,
            streak: 0,
            failed_at: now,
            not_before: now,
            probing_until: None,
        }
    }

    fn failed(&mut self, failed: &Failed<'_>, asked: Option<Duration>) {
        let now = failed.now;
        // What was under way when it opened is the same failure.
        if self.streak == 0 || failed.began >= self.failed_at {
            self.streak = self.streak.saturating_add(1);
            self.failed_at = now;
            self.probing_until = None;
        }
        // Whatever it says: a pause of nothing would let everybody go on at once.
        let not_before = now + asked.unwrap_or_default().max(pause(self.streak));
        if not_before >= self.not_before {
            self.not_before = not_before;
            self.reason = failed.reason;
        }
    }

    fn blocked(&self, client_only: bool, now: Instant) -> Option<Blocked> {
        let left = self.blocked_for(now);
        (!left.is_zero()).then_some(Blocked {
            reason: self.reason,
            client_only,
            left,
        })
    }

    /// How long nothing may be sent; zero: an exchange may.
    fn blocked_for(&self, now: Instant) -> Duration {
        let until = self
            .probing_until
            .map_or(self.not_before, |probing| probing.max(self.not_before));
        until.saturating_duration_since(now)
    }

    fn is_recent(&self, now: Instant) -> bool {
        now < self.not_before + FORGOTTEN
    }
}

/// The same for a while: most failures end within seconds, and the end should be noticed then.
fn pause(streak: u32) -> Duration {
    let doublings = streak.saturating_sub(AT_FIRST_PAUSE);
    SLOW.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
#[path = "tests/breaker.rs"]
mod tests;
