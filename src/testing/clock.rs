use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::time::{Clock, UnixTime};

/// A clock that stands still until it is told to move. Clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use portcullis::{testing::FrozenClock, time::{Clock, UnixTime}};
///
/// let clock = FrozenClock::default();
/// clock.advance(Duration::from_secs(90));
/// assert_eq!(clock.now(), UnixTime::from_secs(1_800_000_090));
/// assert_eq!(clock.elapsed(), Duration::from_secs(90));
/// ```
#[derive(Clone, Debug)]
pub struct FrozenClock(Arc<Mutex<Hands>>);

#[derive(Clone, Copy, Debug)]
struct Hands {
    now: UnixTime,
    elapsed: Duration,
}

impl FrozenClock {
    /// A clock that shows this time.
    #[must_use]
    pub fn at(now: UnixTime) -> Self {
        super::marker();
        Self(Arc::new(Mutex::new(Hands { now, elapsed: Duration::ZERO })))
    }

    /// Lets time pass: both the wall clock and [`elapsed`](Clock::elapsed) move forward.
    pub fn advance(&self, duration: Duration) {
        self.change(|hands| {
            hands.now = hands.now.saturating_add(duration);
            hands.elapsed = hands.elapsed.saturating_add(duration);
        });
    }

    /// Sets the wall clock, forward or back, as an operator does: [`elapsed`](Clock::elapsed) stays where it is.
    pub fn set(&self, now: UnixTime) {
        self.change(|hands| hands.now = now);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Hands) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// 2027-01-15T08:00:00Z.
impl Default for FrozenClock {
    fn default() -> Self {
        Self::at(UnixTime::from_secs(1_800_000_000))
    }
}

impl Clock for FrozenClock {
    fn now(&self) -> UnixTime {
        self.change(|hands| hands.now)
    }

    fn elapsed(&self) -> Duration {
        self.change(|hands| hands.elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_wall_clock_does_not_move_the_steady_one() {
        let clock = FrozenClock::default();
        let same = clock.clone();
        clock.advance(Duration::from_secs(5));
        clock.set(UnixTime::from_secs(7));
        assert_eq!((same.now(), same.elapsed()), (UnixTime::from_secs(7), Duration::from_secs(5)));
    }
}
