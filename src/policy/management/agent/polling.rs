use std::time::Duration;

use crate::ConfigError;

/// When a bundle is asked for again, as Open Policy Agent's
/// [`polling`](https://www.openpolicyagent.org/docs/configuration#bundles).
///
/// ```
/// use std::time::Duration;
/// use portcullis::policy::management::Polling;
///
/// let often = Polling::between(Duration::from_secs(10), Duration::from_secs(20));
/// let at_once = Polling::default().with_long_polling(Duration::from_secs(30));
/// # let _ = (often, at_once);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polling {
    pub(super) delays: Option<(Duration, Duration)>,
    pub(super) long_polling: Option<Duration>,
}

impl Polling {
    /// After a delay between these, each time another one at random. Default 60 s to 120 s; at least 100 ms, at most 24 h.
    #[must_use]
    pub const fn between(min_delay: Duration, max_delay: Duration) -> Self {
        Self { delays: Some((min_delay, max_delay)), long_polling: None }
    }

    /// Only when [`BundleAgent::refresh`](super::BundleAgent::refresh) is called (`trigger: manual`).
    #[must_use]
    pub const fn manual() -> Self {
        Self { delays: None, long_polling: None }
    }

    /// Lets the server keep each request for this long until there is something new (`Prefer: wait=N`), and asks again at once, though not
    /// more often than once a second. It lasts as long as the server says that it does so: its answers with a bundle are of the type
    /// `application/vnd.openpolicyagent.bundles`. Whole seconds, at least 1 s, at most 1 h; default none.
    #[must_use]
    pub const fn with_long_polling(mut self, timeout: Duration) -> Self {
        self.long_polling = Some(timeout);
        self
    }

    pub(super) const fn is_manual(&self) -> bool {
        self.delays.is_none()
    }

    /// What may pass between two requests that are answered.
    pub(super) fn longest(&self) -> Duration {
        self.delays.map_or(Duration::ZERO, |(_, max)| max).saturating_add(self.long_polling.unwrap_or_default())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let field = "policy.bundles.polling";
        if let Some((min, max)) = self.delays
            && (min < LEAST || max > MOST || min > max)
        {
            let remedy = format!("choose two delays from {LEAST:?} to {MOST:?}, the smaller one first");
            return Err(ConfigError::invalid(field, format!("{min:?} to {max:?}"), remedy));
        }
        if let Some(wait) = self.long_polling
            && (wait.subsec_nanos() != 0 || !(1..=MOST_WAIT).contains(&wait.as_secs()))
        {
            let remedy = format!("choose whole seconds, 1 to {MOST_WAIT}");
            return Err(ConfigError::invalid("policy.bundles.long_polling", format!("{wait:?}"), remedy));
        }
        Ok(())
    }

    /// The time until the next request. `fraction`, from 0 to 1, is random.
    pub(super) fn delay(&self, after: After, fraction: f64) -> Duration {
        let (min, max) = self.delays.unwrap_or(DEFAULT);
        match after {
            After::Answer => min + (max - min).mul_f64(fraction),
            // A server that answers at once, whatever it was asked, is not asked in circles.
            After::LongPoll { took } => LONG_POLL_PAUSE.saturating_sub(took),
            After::Failure { retry: 0 } => Duration::ZERO,
            After::Failure { retry } => {
                let grown = FIRST_BACKOFF.as_secs_f64() * 1.6_f64.powi(retry.min(MAX_RETRIES).cast_signed());
                Duration::from_secs_f64(grown.min(max.as_secs_f64()) * (0.8 + 0.4 * fraction)).min(max)
            }
        }
    }
}

impl Default for Polling {
    fn default() -> Self {
        Self { delays: Some(DEFAULT), long_polling: None }
    }
}

/// What the last request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// An answer, good or refused.
    Answer,
    /// An answer of a server that keeps requests until it has one.
    LongPoll { took: Duration },
    /// No answer, or none that is a bundle; so many failures lie before this one.
    Failure { retry: u32 },
}

const DEFAULT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(120));
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_hours(24);
const MOST_WAIT: u64 = 3_600;
const LONG_POLL_PAUSE: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// 100 ms × 1.6³⁰ is more than any delay.
const MAX_RETRIES: u32 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_of_open_policy_agent() {
        let polling = Polling::default();
        let at = |after, fraction| polling.delay(after, fraction).as_millis();
        assert_eq!([0.0, 0.5, 1.0].map(|fraction| at(After::Answer, fraction)), [60_000, 90_000, 120_000]);
        for (retry, least, middle, most) in [
            (0, 0, 0, 0),
            (1, 128, 160, 192),
            (2, 204, 256, 307),
            (10, 8_796, 10_995, 13_194),
            (15, 92_233, 115_292, 120_000),
            (16, 96_000, 120_000, 120_000),
            (u32::MAX, 96_000, 120_000, 120_000),
        ] {
            let of = |fraction| at(After::Failure { retry }, fraction);
            assert_eq!([of(0.0), of(0.5), of(1.0)], [least, middle, most], "{retry}");
        }
        let short = Polling::between(LEAST, LEAST);
        assert_eq!(short.delay(After::Failure { retry: 5 }, 1.0), LEAST, "never over the longest delay");
    }

    #[test]
    fn a_long_poll_follows_at_once_on_one_that_was_long() {
        let after =
            |took| Polling::default().delay(After::LongPoll { took: Duration::from_millis(took) }, 0.5).as_millis();
        assert_eq!([0, 400, 1_000, 30_000].map(after), [1_000, 600, 0, 0]);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let seconds = Duration::from_secs;
        for good in [
            Polling::default(),
            Polling::manual(),
            Polling::between(LEAST, LEAST),
            Polling::between(LEAST, MOST),
            Polling::default().with_long_polling(seconds(1)),
            Polling::default().with_long_polling(seconds(3_600)),
        ] {
            assert!(good.check().is_ok(), "{good:?}");
        }
        for bad in [
            Polling::between(Duration::from_millis(99), MOST),
            Polling::between(seconds(2), seconds(1)),
            Polling::between(seconds(1), MOST + seconds(1)),
            Polling::default().with_long_polling(Duration::ZERO),
            Polling::default().with_long_polling(Duration::from_millis(1_500)),
            Polling::default().with_long_polling(seconds(3_601)),
        ] {
            assert!(bad.check().unwrap_err().field().starts_with("policy.bundles."), "{bad:?}");
        }
    }
}
