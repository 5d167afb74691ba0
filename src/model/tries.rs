//! Attempts that failed, and what rests until the next one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::backoff::delay;
use super::observed::Hold;
use super::plan::TokenStep;
use super::{Class, Failure};

/// The attempts of one half.
#[derive(Clone, Debug, Default)]
pub struct Tries {
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Passes in a row in which nothing could be tried.
    pub untried: u32,
    /// Rests until then.
    pub hold: Option<Hold>,
}

impl Tries {
    /// Takes the result of a pass; says when to try again. A half whose steps were tried and failed
    /// rests until then, whatever wakes the object.
    pub fn after(
        &mut self,
        failure: Option<&Failure>,
        tried: bool,
        now: Timestamp,
        uid: &str,
    ) -> Option<Timestamp> {
        self.after_within(failure, tried, now, uid, None)
    }

    /// What goes on resting although a step was done: a Secret that was repaired, or tried, while its
    /// renewal rests has not been renewed.
    pub fn beside(&self, step: TokenStep, renews: bool, now: Timestamp) -> Option<Hold> {
        let beside = match step {
            TokenStep::Verify => true,
            TokenStep::Repair => renews,
            TokenStep::Issue | TokenStep::Renew { .. } => false,
        };
        let hold = self.hold.as_ref().filter(|_| beside)?;
        hold.rests_until(now).map(|_| hold.clone())
    }

    /// The same; what passes by itself is tried again after `most` at the latest, unless the other side
    /// asked for more.
    pub fn after_within(
        &mut self,
        failure: Option<&Failure>,
        tried: bool,
        now: Timestamp,
        uid: &str,
        most: Option<Duration>,
    ) -> Option<Timestamp> {
        let rests = self.hold.as_ref().and_then(|hold| hold.rests_until(now));
        let Some(failure) = failure else {
            // What rests goes on resting while there is nothing to do.
            let hold = self.hold.take().filter(|_| rests.is_some() && !tried);
            *self = Self {
                hold,
                ..Self::default()
            };
            return None;
        };
        if let (Some(until), false) = (rests, tried) {
            return Some(until);
        }
        // Who was told to wait has not tried anything.
        let told = is_told(failure);
        // Nor has who could not even begin: that must not make the first attempt's wait longer.
        let counted = if tried {
            self.untried = 0;
            &mut self.failures
        } else {
            &mut self.untried
        };
        *counted = counted.saturating_add(u32::from(!told));
        let attempt = (*counted).max(1);
        let again = match failure.class {
            // What others refused once it was tried they may take later, and nobody tells us.
            Class::Invalid if tried => Failure {
                class: Class::Denied,
                ..failure.clone()
            },
            _ => failure.clone(),
        };
        let passes = matches!(again.class, Class::Transient);
        let most = most.filter(|_| passes);
        let most = most.map(|most| most.max(again.retry_after.unwrap_or_default()));
        let wait = delay(&again, attempt, uid);
        let wait = wait.map(|wait| most.map_or(wait, |most| wait.min(most)));
        let until = wait.and_then(|wait| {
            now.checked_add(SignedDuration::try_from(wait).unwrap_or(SignedDuration::from_mins(1)))
                .ok()
        });
        self.hold = tried.then(|| Hold {
            until,
            failure: Some(failure.clone()),
            refused: Vec::new(),
        });
        until
    }
}

/// Somebody said when to come back: nothing was tried, and nothing failed.
pub fn is_told(failure: &Failure) -> bool {
    failure.class == Class::Waiting && failure.retry_after.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    // Red when: a wait is believed however long it is: a clock that was hours ahead at the start would stop
    // all tries for hours.
    #[test]
    fn a_wait_that_no_clock_of_now_could_have_made_is_over() {
        let now = Timestamp::UNIX_EPOCH;
        let ahead = now + SignedDuration::from_hours(3);
        for failure in [
            Failure::new(Class::Denied, Reason::TokenInvalid, "ended"),
            Failure::new(Class::Transient, Reason::EntraUnavailable, "away"),
            Failure::new(Class::Waiting, Reason::EntraThrottled, "closed")
                .retry_after(Duration::from_secs(3_600)),
        ] {
            let mut tries = Tries::default();
            tries.after(Some(&failure), true, ahead, "uid");
            let hold = tries.hold.clone().expect("rests");
            assert!(hold.rests(ahead), "{hold:?}");
            assert!(!hold.rests(now), "{hold:?}");
            assert_eq!(hold.rests_until(now), None);
            // A new try makes a new wait.
            let until = tries.after(Some(&failure), true, now, "uid");
            assert!(until.is_some_and(|until| until < now + SignedDuration::from_hours(2)));
        }
    }

    // Red when: `after_within` counts who was told to wait, or leaves out `most`.
    #[test]
    fn who_waits_for_entra_has_not_failed_and_a_token_near_its_end_does_not_wait_long() {
        let now = Timestamp::UNIX_EPOCH;
        let told = Failure::new(Class::Waiting, Reason::EntraUnavailable, "closed");
        let told = told.retry_after(Duration::from_secs(3));
        let mut tries = Tries {
            failures: 7,
            ..Tries::default()
        };
        let wait = |until: Option<Timestamp>| until.expect("a time").duration_since(now).as_secs();
        let until = tries.after_within(Some(&told), true, now, "uid", None);
        assert_eq!((tries.failures, wait(until)), (7, 3));
        let failed = Failure::new(Class::Transient, Reason::EntraUnavailable, "no answer");
        let most = Some(Duration::from_secs(5));
        tries.hold = None;
        let until = tries.after_within(Some(&failed), true, now, "uid", most);
        assert_eq!((tries.failures, wait(until)), (8, 5));
        tries.hold = None;
        let asked = failed.retry_after(Duration::from_secs(60));
        let until = tries.after_within(Some(&asked), true, now, "uid", most);
        assert_eq!(wait(until), 60, "the other side knows better");
    }

    // Red when: `after_within` counts passes without a try as failures.
    #[test]
    fn what_could_not_be_tried_has_not_failed_and_does_not_make_the_first_wait_long() {
        let now = Timestamp::UNIX_EPOCH;
        let away = Failure::new(Class::Transient, Reason::ServerUnreachable, "away");
        let wait = |until: Option<Timestamp>| until.expect("a time").duration_since(now).as_secs();
        let mut tries = Tries::default();
        let waits = [(); 8].map(|()| wait(tries.after(Some(&away), false, now, "uid")));
        assert!(
            waits[0] <= 1 && waits[7] > 40,
            "it does back off: {waits:?}"
        );
        assert_eq!(tries.failures, 0);
        let first = wait(tries.after(Some(&away), true, now, "uid"));
        assert_eq!((first, tries.failures, tries.untried), (waits[0], 1, 0));
    }

    // Red when: `beside` lets Repair or Verify count as the end of what rests.
    #[test]
    fn a_secret_that_is_repaired_while_its_renewal_rests_is_not_renewed() {
        let now = Timestamp::UNIX_EPOCH;
        let refused = Failure::new(Class::Denied, Reason::EntraRefused, "no");
        let mut tries = Tries::default();
        tries.after(Some(&refused), true, now, "uid");
        let rests = tries.hold.clone();
        let beside = |step, renews| tries.beside(step, renews, now);
        assert!(rests.is_some());
        assert_eq!(beside(TokenStep::Repair, true), rests);
        assert_eq!(beside(TokenStep::Verify, false), rests);
        // It was the repair that rested.
        assert_eq!(beside(TokenStep::Repair, false), None);
        assert_eq!(beside(TokenStep::Renew { expires: None }, true), None);
        let later = now + SignedDuration::from_hours(1);
        assert_eq!(tries.beside(TokenStep::Repair, true, later), None);
    }

    #[test]
    fn a_step_that_was_refused_as_invalid_rests_and_is_tried_again() {
        let now = Timestamp::UNIX_EPOCH;
        let failure = Failure::new(Class::Invalid, Reason::ApiError, "the Secret is immutable");
        let mut tries = Tries::default();
        let until = tries.after(Some(&failure), true, now, "uid");
        assert!(until.is_some_and(|until| until > now), "{until:?}");
        // A wake before that neither tries nor forgets.
        assert_eq!(tries.after(Some(&failure), false, now, "uid"), until);
        assert_eq!(tries.hold.expect("rests").until, until);
        // What is wrong without a try waits for its change.
        let mut untried = Tries::default();
        assert_eq!(untried.after(Some(&failure), false, now, "uid"), None);
    }
}
