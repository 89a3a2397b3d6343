use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// What the key cache of an issuer has done since it was built, and what it holds now: numbers for whatever exports metrics.
///
/// Counting costs one relaxed atomic addition and takes no lock; so does reading. Counters only grow. The one label that belongs to them
/// is the configured name of the issuer: nothing of a token is in here.
///
/// | Watch | Because |
/// | --- | --- |
/// | `is_stale` | the issuer cannot be reached and time runs out: past the stale limit every request is answered 503 |
/// | `consecutive_failures` above 2 | the same, before anything is stale |
/// | `unknown_kid_answers` rising | somebody guesses, or the issuer signs with keys before it publishes them |
/// | `age` above the lifetime | nobody asks, or loading fails |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Loads that were begun. By discovery each is two requests.
    pub fetches: u64,
    /// Loads that failed, were cut off at the deadline, or brought no usable key.
    pub failures: u64,
    /// Loads that nothing but an unknown `kid` caused; never more than one per floor.
    pub unknown_kid_fetches: u64,
    /// Look-ups answered "no key of the issuer has this `kid` and algorithm": 401.
    pub unknown_kid_answers: u64,
    /// Look-ups answered with keys past their lifetime, because loading fails.
    pub stale_answers: u64,
    /// Those among them that were answered with keys from before the process started
    /// ([`CacheSettings::with_seed`](super::CacheSettings::with_seed)).
    pub seed_answers: u64,
    /// How long ago the keys were loaded; `None` without keys.
    pub age: Option<Duration>,
    /// How many usable keys there are, stale ones included.
    pub keys: usize,
    /// How many loads have failed since the last one that did not.
    pub consecutive_failures: u32,
    /// True while keys past their lifetime are used because loading fails.
    pub is_stale: bool,
}

/// The counting half.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) fetches: Counter,
    pub(super) failures: Counter,
    pub(super) unknown_kid_fetches: Counter,
    pub(super) unknown_kid_answers: Counter,
    pub(super) stale_answers: Counter,
    pub(super) seed_answers: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
