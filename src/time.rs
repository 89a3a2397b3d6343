//! Points in time, and where they come from.

use std::{
    fmt,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time, counted from 1970-01-01T00:00:00Z: the `NumericDate` of [RFC 7519 §2].
///
/// Never before the epoch. Prints and serialises as RFC 3339 in UTC with milliseconds.
///
/// [RFC 7519 §2]: https://www.rfc-editor.org/rfc/rfc7519#section-2
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(Duration);

impl UnixTime {
    /// The time `seconds` after the epoch.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The time `since_epoch` after the epoch.
    #[must_use]
    pub const fn from_duration(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// Time since the epoch.
    #[must_use]
    pub const fn since_epoch(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This time moved into the future, at most to the end of the range.
    #[must_use]
    pub const fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// This time moved into the past, at most to the epoch.
    #[must_use]
    pub const fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = Duration::new(self.0.as_secs(), self.0.subsec_millis() * 1_000_000);
        let utc = i64::try_from(millis.as_secs())
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|whole| whole.checked_add(time::Duration::milliseconds(millis.subsec_millis().into())));
        match utc.and_then(|utc| utc.format(&Rfc3339).ok()) {
            // RFC 3339 leaves the fraction out when it is zero; a fixed width sorts and aligns.
            Some(text) => match text.split_once('.') {
                Some((whole, fraction)) => {
                    write!(f, "{whole}.{:0<3}Z", fraction.trim_end_matches('Z'))
                }
                None => write!(f, "{}.000Z", text.trim_end_matches('Z')),
            },
            None => write!(f, "@{}", self.0.as_secs()),
        }
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Tells the time.
///
/// A seam for tests: production uses [`SystemClock`], tests a frozen one.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> UnixTime;

    /// A clock that never jumps: time since an arbitrary start. Intervals are measured with it, so that setting the
    /// wall clock neither freezes nor storms a refresh.
    fn elapsed(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixTime {
        // A clock set before 1970 reads as the epoch, where every token is "not yet valid": it fails closed.
        UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> UnixTime {
        (**self).now()
    }

    fn elapsed(&self) -> Duration {
        (**self).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_utc_with_milliseconds_of_fixed_width() {
        let cases = [
            (Duration::ZERO, "1970-01-01T00:00:00.000Z"),
            (Duration::from_millis(1_800_000_000_007), "2027-01-15T08:00:00.007Z"),
            (Duration::from_millis(1_800_000_000_120), "2027-01-15T08:00:00.120Z"),
            (Duration::new(1_800_000_000, 999_999_999), "2027-01-15T08:00:00.999Z"),
        ];
        for (since_epoch, text) in cases {
            assert_eq!(UnixTime::from_duration(since_epoch).to_string(), text);
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_prints_as_seconds() {
        assert_eq!(UnixTime::from_secs(u64::MAX).to_string(), format!("@{}", u64::MAX));
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(UnixTime::from_secs(5).saturating_sub(Duration::from_secs(9)), UnixTime::from_secs(0));
        assert_eq!(UnixTime::from_secs(5).duration_since(UnixTime::from_secs(9)), Duration::ZERO);
    }

    #[test]
    fn the_clock_is_usable_as_a_trait_object() {
        let clock: std::sync::Arc<dyn Clock> = std::sync::Arc::new(SystemClock);
        assert!(clock.now() > UnixTime::from_secs(1_700_000_000));
        assert!(clock.elapsed() <= clock.elapsed());
    }
}
