use std::{fmt, path::PathBuf, time::Duration};

use super::Voice;
use crate::ConfigError;

/// How the keys of one issuer are kept fresh: for [`Issuer::with_key_cache`](crate::token::Issuer::with_key_cache).
///
/// Around every [`KeySource`](super::KeySource) there is a cache of that issuer's own. Readers see an immutable snapshot of it: looking up a known `kid`
/// takes no lock, waits for nothing and never loads. Around it:
///
/// - **Refresh ahead.** At 80 % of their lifetime (up to a tenth of it earlier, at random) the keys are loaded again in the background.
///   Nothing is loaded while nobody asks.
/// - **Unknown `kid`.** Keys whose load began less than the floor (30 s) ago are believed: the answer is "unknown" at once, and the next
///   look-up of anybody after the floor loads again in the background. With older keys the request that brings the `kid` waits for
///   a load, which everybody who asks meanwhile shares. So random `kid`s cost the issuer one load per floor, a rotation refuses nobody,
///   and only an issuer that signs with a key within the floor of the load before sees its tokens refused, until the floor is over:
///   one that publishes a key 30 s before it signs with it never does. For a `kid` that its own load did not bring nobody waits again
///   for 60 s (at most 1 000 of them): its key too is loaded in the background, after the floor. Keys without a `kid` are renewed by
///   refresh ahead alone.
/// - **Failure.** Keys whose reload fails are used on, up to the stale limit (1 h past their lifetime). Loading is retried after
///   1 s, doubling to 60 s, up to a quarter earlier at random. A key that cannot be looked for because loading fails is *unavailable*,
///   not unknown: 503, not 401. One warning says that stale keys are in use, not one per request.
/// - **Restart.** With a seed ([`Self::with_seed`]) the keys outlive the process, for the case that loading fails from the start.
/// - **One load at a time**, in a task of its own: a request that goes away cancels it for nobody, and a source that panics or
///   outlives the load deadline has failed.
/// - **Validate before replace.** A document without a usable key is a failure and replaces nothing.
///
/// Lifetimes run on [`Clock::elapsed`](crate::time::Clock::elapsed), so setting the wall clock changes nothing. Each issuer has a cache of its own: keys, failures and
/// floors are never shared.
///
/// ```
/// use std::time::Duration;
/// use portcullis::{key::CacheSettings, token::Issuer};
///
/// // This issuer signs with a new key 5 s after it has published it.
/// let hasty = CacheSettings::default().with_unknown_kid_floor(Duration::from_secs(5));
/// let issuer = Issuer::rfc9068("https://login.example", "https://api.example").with_key_cache(hasty);
/// # let _ = issuer;
/// ```
#[derive(Clone)]
pub struct CacheSettings {
    pub(super) soft_lifetime: Duration,
    pub(super) stale_limit: Duration,
    pub(super) unknown_kid_floor: Duration,
    pub(super) load_deadline: Duration,
    pub(super) seed: Option<PathBuf>,
    /// Spreads the loads of many processes; between 0 and 1.
    pub(super) jitter: fn() -> f64,
    pub(super) voice: Voice,
}

impl CacheSettings {
    /// How long loaded keys are fresh when the source does not say (`Cache-Control: max-age`, which is kept within 1 min and 1 h).
    /// A key that the issuer has removed stops verifying after this. Default 10 min; at least 1 s, at most 24 h.
    #[must_use]
    pub const fn with_soft_lifetime(mut self, lifetime: Duration) -> Self {
        self.soft_lifetime = lifetime;
        self
    }

    /// How long past their lifetime keys are used while loading fails. Default 1 h; at most 24 h; zero for never.
    #[must_use]
    pub const fn with_stale_limit(mut self, limit: Duration) -> Self {
        self.stale_limit = limit;
        self
    }

    /// How long no unknown `kid` causes a load after the last successful one began. Default 30 s; at least 1 s, at most 1 h.
    #[must_use]
    pub const fn with_unknown_kid_floor(mut self, floor: Duration) -> Self {
        self.unknown_kid_floor = floor;
        self
    }

    /// How long a whole load may take, discovery included, around any source. Default 6 s; above zero, at most 60 s. A request that
    /// needs the keys waits no longer than this.
    #[must_use]
    pub const fn with_load_deadline(mut self, deadline: Duration) -> Self {
        self.load_deadline = deadline;
        self
    }

    /// Keeps a copy of the keys in this file, so that a restart while the issuer is away can verify. Default none.
    ///
    /// After each good load the usable public keys, the name of the issuer and the time go into a new
    /// file, mode 0600, which then takes the old one's place: on a thread of its own, so that no request waits for a disk. When the
    /// verifier is built the file is read, under the same rules as a document from the network. What it holds is never fresh: it is used
    /// only while loading fails, so the first request still waits for the first load, and no longer than the soft lifetime and the stale
    /// limit together after the keys were loaded. A file that says it was written more than 120 s in the future, or for another issuer, is
    /// refused.
    ///
    /// **Whoever can write this file can mint tokens** while the issuer is away. So, on unix, it is neither read nor written unless
    /// it is a regular file and no link, it and its folder belong to whoever runs this process, and nobody else may write to either. The folder
    /// is made (mode 0700, not those above it) when it is not there. Each issuer needs a file of its own. A file that cannot be used is
    /// a warning in the log, never an error: it is the reserve. Keys that the issuer has withdrawn live on in the file until the next
    /// load that succeeds; delete it with them when a key was stolen. Beside keys that come at once
    /// ([`KeySource::load_now`](super::KeySource::load_now)) it is a `ConfigError`.
    #[must_use]
    pub fn with_seed(mut self, path: impl Into<PathBuf>) -> Self {
        self.seed = Some(path.into());
        self
    }

    /// Shares the log with the caches of other issuers.
    pub(crate) fn speaking_with(mut self, voice: Voice) -> Self {
        self.voice = voice;
        self
    }

    pub(crate) const fn load_deadline(&self) -> Duration {
        self.load_deadline
    }

    pub(crate) const fn unknown_kid_floor(&self) -> Duration {
        self.unknown_kid_floor
    }

    pub(crate) const fn seed(&self) -> Option<&PathBuf> {
        self.seed.as_ref()
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let (nano, second) = (Duration::from_nanos(1), Duration::from_secs(1));
        let (minute, hour, day) = (Duration::from_mins(1), Duration::from_hours(1), Duration::from_hours(24));
        for (field, value, least, most) in [
            ("key.soft_lifetime", self.soft_lifetime, second, day),
            ("key.stale_limit", self.stale_limit, Duration::ZERO, day),
            ("key.unknown_kid_floor", self.unknown_kid_floor, second, hour),
            ("key.load_deadline", self.load_deadline, nano, minute),
        ] {
            if value < least || value > most {
                let remedy = format!("choose a time from {least:?} to {most:?}");
                return Err(ConfigError::invalid(field, format!("{value:?}"), remedy));
            }
        }
        Ok(())
    }

    /// How old keys may become that say nothing of their lifetime.
    pub(super) fn hard_lifetime(&self) -> Duration {
        self.soft_lifetime.saturating_add(self.stale_limit)
    }

    /// Of a source that answers at once: who sets what means nothing there relies on it.
    pub(super) fn check_at_once(&self, are_fixed: bool) -> Result<(), ConfigError> {
        if are_fixed && *self != Self::default() {
            let remedy = "these keys are never loaded again: leave `with_key_cache` out";
            return Err(ConfigError::invalid("issuer.key_cache", format!("{self:?}"), remedy));
        }
        match &self.seed {
            Some(path) => {
                let remedy = "these keys are there at once, also after a restart: leave `with_seed` out";
                Err(ConfigError::invalid("issuer.key_cache", path.display().to_string(), remedy))
            }
            None => Ok(()),
        }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            soft_lifetime: Duration::from_mins(10),
            stale_limit: Duration::from_hours(1),
            unknown_kid_floor: Duration::from_secs(30),
            load_deadline: Duration::from_secs(6),
            seed: None,
            jitter: crate::random::fraction,
            voice: Voice::default(),
        }
    }
}

/// Whether a cache that was built with the one serves for the other.
impl PartialEq for CacheSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { soft_lifetime, stale_limit, unknown_kid_floor, load_deadline, seed, jitter: _, voice: _ } = other;
        self.soft_lifetime == *soft_lifetime
            && self.stale_limit == *stale_limit
            && self.unknown_kid_floor == *unknown_kid_floor
            && self.load_deadline == *load_deadline
            && self.seed == *seed
    }
}

impl Eq for CacheSettings {}

impl fmt::Debug for CacheSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheSettings")
            .field("soft_lifetime", &self.soft_lifetime)
            .field("stale_limit", &self.stale_limit)
            .field("unknown_kid_floor", &self.unknown_kid_floor)
            .field("load_deadline", &self.load_deadline)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_their_bounds_name_their_field() {
        type Change = fn(&mut CacheSettings);
        let cases: [(&str, Change); 8] = [
            ("key.soft_lifetime", |s| s.soft_lifetime = Duration::ZERO),
            ("key.soft_lifetime", |s| s.soft_lifetime = Duration::from_secs(86_401)),
            ("key.stale_limit", |s| s.stale_limit = Duration::from_secs(86_401)),
            ("key.unknown_kid_floor", |s| s.unknown_kid_floor = Duration::ZERO),
            ("key.unknown_kid_floor", |s| s.unknown_kid_floor = Duration::from_millis(999)),
            ("key.unknown_kid_floor", |s| s.unknown_kid_floor = Duration::from_secs(3_601)),
            ("key.load_deadline", |s| s.load_deadline = Duration::ZERO),
            ("key.load_deadline", |s| s.load_deadline = Duration::from_secs(61)),
        ];
        for (field, change) in cases {
            let mut settings = CacheSettings::default();
            assert!(settings.check().is_ok());
            change(&mut settings);
            assert_eq!(settings.check().unwrap_err().field(), field);
        }
    }

    #[test]
    fn settings_on_their_bounds_are_good() {
        let (nano, second, day) = (Duration::from_nanos(1), Duration::from_secs(1), Duration::from_hours(24));
        let least = CacheSettings::default().with_soft_lifetime(second).with_stale_limit(Duration::ZERO);
        let least = least.with_unknown_kid_floor(second).with_load_deadline(nano);
        let most = CacheSettings::default().with_soft_lifetime(day).with_stale_limit(day);
        let most = most.with_unknown_kid_floor(Duration::from_hours(1)).with_load_deadline(Duration::from_mins(1));
        assert!(least.check().is_ok() && most.check().is_ok());
    }

    #[test]
    fn jitter_is_a_fraction_and_no_part_of_what_is_compared() {
        for _ in 0..1_000 {
            assert!((0.0..=1.0).contains(&crate::random::fraction()));
        }
        assert!(
            (0..1_000).map(|_| crate::random::fraction()).any(|fraction| (0.25..0.75).contains(&fraction)),
            "a spread"
        );
        let base = CacheSettings::default;
        assert_eq!(CacheSettings { jitter: || 0.0, ..base() }, base());
        let second = Duration::from_secs(1);
        for other in [
            base().with_soft_lifetime(second),
            base().with_stale_limit(second),
            base().with_unknown_kid_floor(second),
            base().with_load_deadline(second),
            base().with_seed("keys.json"),
        ] {
            assert_ne!(other, base());
        }
    }
}
