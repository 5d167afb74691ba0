//! When something that failed is tried again.

use std::time::Duration;

use super::{Class, Failure, spread};

/// The wait before attempt number `attempt` (1 after the first failure); `None`: wait for a change.
/// Spread by the object's uid, and never shorter than the other side asked for.
pub fn delay(failure: &Failure, attempt: u32, uid: &str) -> Option<Duration> {
    let (first, cap) = match failure.class {
        Class::Invalid => return None,
        Class::Waiting => (2.0, 30.0),
        Class::Transient => (1.0, 60.0),
        Class::Denied => (10.0, 300.0),
    };
    if let (Class::Waiting, Some(told)) = (failure.class, failure.retry_after) {
        // Somebody knows when; only those who wait together are kept apart.
        return Some(told + Duration::from_secs_f64(0.5 * spread(uid)));
    }
    let doubled = first * 2f64.powi(i32::try_from(attempt.clamp(1, 20)).unwrap_or(20) - 1);
    let spread_out = doubled.min(cap) * (1.0 - 0.2 * spread(uid));
    let wait = Duration::from_secs_f64(spread_out);
    Some(failure.retry_after.map_or(wait, |asked| asked.max(wait)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    #[test]
    fn waits_grow_to_a_cap_and_obey_the_other_side() {
        let failure = Failure::new(Class::Transient, Reason::EntraUnavailable, "");
        let waits: Vec<_> = (1..10)
            .filter_map(|attempt| delay(&failure, attempt, "uid"))
            .collect();
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(60)));
        let asked = failure.retry_after(Duration::from_secs(90));
        assert_eq!(delay(&asked, 1, "uid"), Some(Duration::from_secs(90)));
    }

    #[test]
    fn who_was_told_when_comes_then_however_often_that_was() {
        let told = Failure::new(Class::Waiting, Reason::EntraUnavailable, "");
        let told = told.retry_after(Duration::from_secs(3));
        for attempt in [1, 9] {
            let wait = delay(&told, attempt, "uid").expect("a time");
            assert!((3.0..3.5).contains(&wait.as_secs_f64()), "{wait:?}");
        }
    }

    #[test]
    fn an_invalid_object_waits_for_its_change() {
        let failure = Failure::new(Class::Invalid, Reason::InvalidSpec, "");
        assert_eq!(delay(&failure, 1, "uid"), None);
    }
}
