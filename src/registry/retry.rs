//! When and how long to wait before asking again: exponential pauses with jitter, a registry's own `Retry-After`.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

/// How persistently a registry is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// How often a request is sent in all, at least once.
    pub attempts: u32,
    /// The first pause; each further one is twice as long, before jitter.
    pub first: Duration,
    /// The longest pause that we choose.
    pub longest: Duration,
    /// The longest `Retry-After` that is waited for; a longer one ends the request at once.
    pub patience: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts over about half a minute, and up to two minutes when the registry asks for them: CI jobs wait
    /// rather than fail, and a person is not left waiting for a registry that is gone.
    fn default() -> Self {
        Self { attempts: 6, first: Duration::from_secs(1), longest: Duration::from_secs(15), patience: Duration::from_secs(120) }
    }
}

/// A request that is about to be repeated.
#[derive(Clone, Debug)]
pub struct Retrying {
    /// What was asked, as errors name it.
    pub request: String,
    /// Why it did not succeed.
    pub why: String,
    /// The pause before it is asked again.
    pub after: Duration,
}

/// The pauses of one request.
pub struct Backoff {
    policy: RetryPolicy,
    failed: u32,
}

impl Backoff {
    /// Returns the pauses of a request that was not sent yet.
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0 }
    }

    /// Counts a failure and returns the pause before the next attempt, or `None` when there is none.
    pub fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= self.policy.attempts || asked.is_some_and(|asked| asked > self.policy.patience) {
            return None;
        }
        let doubled = self.policy.first.saturating_mul(1 << (self.failed - 1).min(16)).min(self.policy.longest);
        // Between half and the whole pause: clients that failed together must not come back together.
        let jittered = doubled / 2 + doubled.mul_f64(fraction() / 2.0);
        Some(asked.map_or(jittered, |asked| asked + self.policy.first.mul_f64(fraction())))
    }
}

/// Returns a number in `0..1` that differs with each call.
fn fraction() -> f64 {
    // `RandomState` is seeded by the system; a generator of our own would be one more dependency.
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

/// Reads `Retry-After`: seconds, or an HTTP date (RFC 9110, "Retry-After").
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value.trim()).ok()?;
    Some(SystemTime::from(date).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 5);
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        // The date is RFC 9110's own example, 784111777 seconds after the epoch.
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(5)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn pauses_double_within_their_bounds_and_end() {
        let policy = RetryPolicy {
            attempts: 5,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(3),
            patience: Duration::from_secs(60),
        };
        let mut backoff = Backoff::new(policy);
        for whole in [1, 2, 3, 3] {
            let pause = backoff.next(None).expect("another attempt");
            let whole = Duration::from_secs(whole);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} for {whole:?}");
        }
        assert_eq!(backoff.next(None), None);
    }

    #[test]
    fn a_registry_is_not_asked_before_it_wants_to_be_and_not_waited_for_forever() {
        let policy = RetryPolicy::default();
        let asked = Duration::from_secs(30);
        assert!(Backoff::new(policy).next(Some(asked)).expect("another attempt") >= asked);
        assert_eq!(Backoff::new(policy).next(Some(Duration::from_secs(3600))), None);
    }
}
