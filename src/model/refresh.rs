//! When a token is renewed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::spread;

/// So much of its life a token stays at least, however early its renewal is declared: an exchange and
/// two writes every few seconds would help nobody.
const LEAST_STAY: f64 = 1.0 / 60.0;
/// No token has to stay longer than that.
const LONGEST_STAY: Duration = Duration::from_secs(60);
/// When a renewal is looked at that is due as soon as the Secret is written.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(1);

/// How long before its end a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renew {
    /// A fixed time. Not less than the token's life: two thirds of it.
    Before(Duration),
    /// A percentage of the token's life, 1 to 66.
    Percentage(i32),
}

/// When a token is renewed that was got at `issued` and ends at `expires`. Spread by the object's
/// uid, at most a tenth earlier, so that tokens got together do not meet again; in whole seconds,
/// as status holds them.
pub fn renew_at(issued: Timestamp, expires: Timestamp, renew: Renew, uid: &str) -> Timestamp {
    let life = seconds(expires.duration_since(issued)).max(0.0);
    let margin = match renew {
        Renew::Before(_) if is_clamped(issued, expires, renew) => life * 2.0 / 3.0,
        Renew::Before(before) => before.as_secs_f64(),
        Renew::Percentage(percentage) => life * f64::from(percentage) / 100.0,
    };
    let earlier = (margin * 0.1).min((life - margin) * 0.1) * spread(uid);
    // Truncated: never later than the margin asks for, but for the least stay.
    let after = (life - margin - earlier).max(least_stay(life).as_secs_f64());
    let after = SignedDuration::from_secs_f64(after.floor());
    // Whatever is recorded of its beginning.
    issued.saturating_add(after).unwrap_or(expires).min(expires)
}

/// How long a token of that life, in seconds, stays at least.
fn least_stay(life: f64) -> Duration {
    Duration::from_secs_f64(life * LEAST_STAY).min(LONGEST_STAY)
}

/// How long the token stays although it is declared to be renewed sooner after it was got.
pub fn stays(issued: Timestamp, expires: Timestamp, renew: Renew) -> Option<Duration> {
    let life = seconds(expires.duration_since(issued)).max(0.0);
    let Renew::Before(before) = renew else {
        return None;
    };
    let least = least_stay(life);
    let left = life - before.as_secs_f64();
    (left > 0.0 && left < least.as_secs_f64()).then_some(least)
}

/// When to look for a renewal: one that was due when its token was written is still ahead.
pub fn look_at(due: Timestamp, written: bool, now: Timestamp) -> Option<Timestamp> {
    if written {
        let soon = now.saturating_add(AT_ONCE).unwrap_or(now);
        return Some(due.max(soon));
    }
    (due > now).then_some(due)
}

/// Whether more time is declared than the token lives.
pub fn is_clamped(issued: Timestamp, expires: Timestamp, renew: Renew) -> bool {
    let life = seconds(expires.duration_since(issued)).max(0.0);
    matches!(renew, Renew::Before(before) if before.as_secs_f64() >= life)
}

/// When to look again for a token whose renewal brought the one we have: the back end keeps it for
/// hours (IMDS). A quarter of what is left, at least a minute; but a token that has ended is worth a
/// question at once.
pub fn not_yet(now: Timestamp, expires: Timestamp) -> Timestamp {
    let left = seconds(expires.duration_since(now)).max(0.0);
    let wait = SignedDuration::from_secs_f64((left / 4.0).max(60.0).floor());
    let look = now.saturating_add(wait).unwrap_or(expires);
    if expires > now {
        look.min(expires)
    } else {
        look
    }
}

/// The longest wait after a renewal that failed for a passing reason: a quarter of what is left, so
/// that there is more than one try before the token ends; never less than two seconds. Once it has ended,
/// five seconds: a workload waits.
pub fn longest_wait(now: Timestamp, expires: Timestamp) -> Duration {
    let left = seconds(expires.duration_since(now));
    if left <= 0.0 {
        return Duration::from_secs(5);
    }
    Duration::from_secs_f64((left / 4.0).max(2.0))
}

fn seconds(span: SignedDuration) -> f64 {
    span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn after(life: i64, renew: Renew) -> i64 {
        renew_at(at(0), at(life), renew, "some-uid").as_second()
    }

    #[test]
    fn a_third_of_the_life_is_left_at_renewal() {
        let renewed = after(3600, Renew::Percentage(33));
        assert!((2292..=2412).contains(&renewed), "{renewed}");
    }

    #[test]
    fn renew_before_is_honoured_up_to_the_life_and_clamped_beyond() {
        let renewed = after(600, Renew::Before(Duration::from_secs(590)));
        assert!((9..=10).contains(&renewed), "{renewed}");
        let clamped = after(600, Renew::Before(Duration::from_secs(600)));
        assert!((180..=200).contains(&clamped), "{clamped}");
        let clamps =
            |seconds| is_clamped(at(0), at(600), Renew::Before(Duration::from_secs(seconds)));
        assert_eq!([599, 600].map(clamps), [false, true]);
        assert!(!is_clamped(at(0), at(0), Renew::Percentage(66)));
    }

    // Red when: `renew_at` has no least stay. A life just above `renewBefore` was renewed in a loop.
    #[test]
    fn however_early_a_renewal_is_declared_the_token_stays_a_while() {
        let hour = Renew::Before(Duration::from_secs(3600));
        for (life, least) in [(3601, 60), (3640, 60), (3659, 60), (5400, 1_620)] {
            let renewed = after(life, hour);
            assert!((least..life).contains(&renewed), "{life}: {renewed}");
        }
        let stays = |life| stays(at(0), at(life), hour).map(|stay| stay.as_secs());
        assert_eq!(
            [3600, 3601, 3659, 3660].map(stays),
            [None, Some(60), Some(60), None]
        );
    }

    // Red when: `look_at` leaves out what is due already, as if somebody else would come for it.
    #[test]
    fn a_renewal_that_is_due_when_its_token_was_written_is_looked_at() {
        assert_eq!(look_at(at(9), true, at(10)), Some(at(11)));
        assert_eq!(look_at(at(90), true, at(10)), Some(at(90)));
        assert_eq!(look_at(at(90), false, at(10)), Some(at(90)));
        // What was due before and is not renewed rests, and that has its own time.
        assert_eq!(look_at(at(9), false, at(10)), None);
    }

    // Red when: `renew_at` believes a beginning that lies behind the end.
    #[test]
    fn a_token_that_is_said_to_begin_after_its_end_is_renewed_by_its_end() {
        let due = renew_at(at(9_999), at(3600), Renew::Percentage(33), "some-uid");
        assert_eq!(due, at(3600));
    }

    #[test]
    fn renewal_lies_within_the_life_and_objects_are_spread() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..100 {
            let renewed = renew_at(at(0), at(3600), Renew::Percentage(33), &format!("uid-{n}"));
            assert!(renewed > at(0) && renewed < at(3600));
            seen.insert(renewed);
        }
        assert!(seen.len() > 50, "only {} different times", seen.len());
    }

    #[test]
    fn the_same_token_again_is_asked_for_after_a_quarter_of_its_life() {
        assert_eq!(not_yet(at(0), at(4000)), at(1000));
        assert_eq!(not_yet(at(0), at(100)), at(60));
        assert_eq!(not_yet(at(0), at(40)), at(40));
        assert_eq!(not_yet(at(40), at(40)), at(100));
    }

    #[test]
    fn what_is_left_of_a_token_limits_the_wait_after_a_failure() {
        assert_eq!(longest_wait(at(0), at(1200)), Duration::from_secs(300));
        assert_eq!(longest_wait(at(0), at(20)), Duration::from_secs(5));
        assert_eq!(longest_wait(at(18), at(20)), Duration::from_secs(2));
        assert_eq!(longest_wait(at(30), at(20)), Duration::from_secs(5));
    }
}
