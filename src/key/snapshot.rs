//! What is known of an issuer's keys at one moment, and the rules of when to ask again. Time is passed in.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{CacheSettings, Jwk, JwkSet, KeyErrorKind, LoadedKeys, Wanted};

/// Immutable: the one load that is under way replaces it when it ends.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    keys: Option<Kept>,
    last: Attempt,
    /// Hashes of `kid`s that a load made for their sake did not bring, and until when that is believed.
    absent: Arc<HashMap<u64, Duration>>,
}

#[derive(Clone, Debug)]
struct Kept {
    set: JwkSet,
    refresh_at: Duration,
    soft_until: Duration,
    stale_until: Duration,
    /// From when an unknown `kid` is worth a load.
    unknown_kid_at: Duration,
    loaded_at: Duration,
    /// Keys that were on disk when the cache was built, and how old they were then.
    seed_age: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Attempt {
    Never,
    Succeeded,
    Failed { kind: KeyErrorKind, at: Duration, retry_at: Duration, times: u32 },
}

/// What the snapshot says of the keys that are wanted.
#[derive(Debug)]
pub(super) enum Finding<'a> {
    /// They are among these.
    Keys(&'a JwkSet, Freshness),
    /// There are none, and nobody waits for a load to bring one: it is too soon to ask again, or a load that was made for the sake of
    /// this `kid` has just not brought it.
    Unknown,
    /// A load may bring an answer, and may start now.
    Due,
    Unavailable(KeyErrorKind),
}

/// How far keys can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    Fresh,
    /// Past their lifetime, used because loading fails.
    Stale,
    /// As stale, and from before this process.
    Seed,
}

/// The keys as an operator sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Fresh,
    /// The last load failed, the keys are in their lifetime.
    RefreshFailing(KeyErrorKind),
    /// Past their lifetime for this long, and kept because loading fails.
    Stale {
        since: Duration,
        kind: KeyErrorKind,
    },
    Loading,
    Down(KeyErrorKind),
}

impl Snapshot {
    pub(super) fn empty() -> Self {
        Self { keys: None, last: Attempt::Never, absent: Arc::default() }
    }

    /// The next snapshot after a load that began at `started` and brought keys.
    pub(super) fn loaded(
        &self,
        loaded: LoadedKeys,
        started: Duration,
        now: Duration,
        absent_kid: Option<u64>,
        settings: &CacheSettings,
    ) -> Self {
        let soft = loaded.max_age.map_or(settings.soft_lifetime, |age| age.clamp(MIN_MAX_AGE, MAX_MAX_AGE));
        // At 80 % of the lifetime, up to a tenth of it earlier.
        let ahead = soft.mul_f64(0.8 - 0.1 * (settings.jitter)());
        let soft_until = now.saturating_add(soft);
        let kept = Kept {
            set: loaded.set,
            refresh_at: now.saturating_add(ahead),
            soft_until,
            stale_until: soft_until.saturating_add(settings.stale_limit),
            // From the start: a key published while the document was on its way may be missing in it.
            unknown_kid_at: started.saturating_add(settings.unknown_kid_floor),
            loaded_at: now,
            seed_age: None,
        };
        let mut absent: HashMap<u64, Duration> =
            self.absent.iter().filter(|(_, until)| now < **until).map(|(kid, until)| (*kid, *until)).collect();
        if let Some(kid) = absent_kid
            && absent.len() < MAX_ABSENT
        {
            absent.insert(kid, now.saturating_add(ABSENT_FOR));
        }
        Self { keys: Some(kept), last: Attempt::Succeeded, absent: Arc::new(absent) }
    }

    /// The only snapshot of keys that never change.
    pub(super) fn fixed(set: JwkSet, now: Duration) -> Self {
        let never = Duration::MAX;
        let kept = Kept {
            set,
            refresh_at: never,
            soft_until: never,
            stale_until: never,
            unknown_kid_at: never,
            loaded_at: now,
            seed_age: None,
        };
        Self { keys: Some(kept), last: Attempt::Succeeded, absent: Arc::default() }
    }

    /// Keys from before this process. Never fresh: they serve from the first load that fails until what is left of their time is over.
    pub(super) fn seeded(set: JwkSet, age: Duration, now: Duration, settings: &CacheSettings) -> Self {
        let left = settings.hard_lifetime().saturating_sub(age);
        let kept = Kept {
            set,
            refresh_at: now,
            soft_until: now,
            stale_until: now.saturating_add(left),
            unknown_kid_at: now,
            loaded_at: now,
            seed_age: Some(age),
        };
        Self { keys: Some(kept), last: Attempt::Never, absent: Arc::default() }
    }

    /// The next snapshot after a load that failed.
    pub(super) fn failed(&self, kind: KeyErrorKind, now: Duration, settings: &CacheSettings) -> Self {
        let times = self.failures().saturating_add(1);
        let doubled = FIRST_BACKOFF.saturating_mul(1 << (times - 1).min(16)).min(MAX_BACKOFF);
        self.without(kind, now, doubled, times, settings)
    }

    /// The next snapshot after a load for which there was no room: it says nothing about the source, which is asked again soon.
    pub(super) fn not_asked(&self, kind: KeyErrorKind, now: Duration, settings: &CacheSettings) -> Self {
        self.without(kind, now, FIRST_BACKOFF, self.failures(), settings)
    }

    fn without(
        &self,
        kind: KeyErrorKind,
        now: Duration,
        backoff: Duration,
        times: u32,
        settings: &CacheSettings,
    ) -> Self {
        let backoff = backoff.mul_f64(1.0 - 0.25 * (settings.jitter)());
        let last = Attempt::Failed { kind, at: now, retry_at: now.saturating_add(backoff), times };
        Self { keys: self.keys.clone(), last, absent: Arc::clone(&self.absent) }
    }

    /// Whether a load may start: the rule that bounds how often a source is asked, whatever the requests say.
    pub(super) fn may_load(&self, now: Duration) -> bool {
        match (&self.last, &self.keys) {
            (Attempt::Failed { retry_at, .. }, _) => now >= *retry_at,
            (_, Some(kept)) => now >= kept.unknown_kid_at || now >= kept.refresh_at,
            (_, None) => true,
        }
    }

    /// Whether the keys are old enough to be replaced without anybody waiting.
    pub(super) fn wants_refresh(&self, now: Duration) -> bool {
        self.keys.as_ref().is_some_and(|kept| now >= kept.refresh_at) && self.may_load(now)
    }

    pub(super) fn find(&self, wanted: Wanted<'_>, hash: impl FnOnce(&str) -> u64, now: Duration) -> Finding<'_> {
        let Some(kept) = self.serving(now) else {
            return match self.last {
                Attempt::Failed { kind, retry_at, .. } if now < retry_at => Finding::Unavailable(kind),
                _ => Finding::Due,
            };
        };
        if kept.set.wanted(wanted).next().is_some() {
            let freshness = match kept.seed_age {
                _ if now < kept.soft_until => Freshness::Fresh,
                None => Freshness::Stale,
                Some(_) => Freshness::Seed,
            };
            return Finding::Keys(&kept.set, freshness);
        }
        let is_absent = || wanted.kid().and_then(|kid| self.absent.get(&hash(kid))).is_some_and(|until| now < *until);
        match self.last {
            // The issuer may have rotated to this key and cannot be asked: that is no fault of the token.
            Attempt::Failed { kind, retry_at, .. } if now < retry_at => Finding::Unavailable(kind),
            Attempt::Failed { .. } => Finding::Due,
            _ if now < kept.unknown_kid_at || is_absent() => Finding::Unknown,
            _ => Finding::Due,
        }
    }

    /// Whether some key may be used now.
    pub(super) fn is_serving(&self, now: Duration) -> bool {
        self.serving(now).is_some()
    }

    /// The kind of the last failure, when the last load failed.
    pub(super) fn failure(&self) -> Option<KeyErrorKind> {
        match self.last {
            Attempt::Failed { kind, .. } => Some(kind),
            Attempt::Never | Attempt::Succeeded => None,
        }
    }

    pub(super) fn condition(&self, now: Duration) -> Condition {
        match (&self.keys, self.last) {
            (Some(_), Attempt::Succeeded) => Condition::Fresh,
            (Some(kept), Attempt::Failed { kind, .. }) if now < kept.soft_until => Condition::RefreshFailing(kind),
            (Some(kept), Attempt::Failed { kind, .. }) if now < kept.stale_until => {
                Condition::Stale { since: now.saturating_sub(kept.soft_until), kind }
            }
            (_, Attempt::Failed { kind, .. }) => Condition::Down(kind),
            (_, Attempt::Never) | (None, Attempt::Succeeded) => Condition::Loading,
        }
    }

    /// How old the keys are, and how many.
    pub(super) fn holdings(&self, now: Duration) -> Option<(Duration, usize)> {
        let kept = self.keys.as_ref()?;
        let age = now.saturating_sub(kept.loaded_at).saturating_add(kept.seed_age.unwrap_or_default());
        Some((age, kept.set.len()))
    }

    /// How many loads have failed since the last one that did not.
    pub(super) fn failures(&self) -> u32 {
        match self.last {
            Attempt::Failed { times, .. } => times,
            Attempt::Never | Attempt::Succeeded => 0,
        }
    }

    /// True when the set holds other keys than any that were loaded before.
    pub(super) fn differs_from(&self, set: &JwkSet) -> bool {
        let same = |(one, other): (&Jwk, &Jwk)| one.kid() == other.kid() && one.thumbprint() == other.thumbprint();
        let loaded = self.keys.as_ref().filter(|kept| kept.seed_age.is_none());
        !loaded.is_some_and(|kept| kept.set.len() == set.len() && kept.set.iter().zip(set.iter()).all(same))
    }

    /// Keys that may be used now. Past their lifetime that takes a recent failure: an issuer that nobody has asked for hours is
    /// asked before its old keys are believed once more.
    fn serving(&self, now: Duration) -> Option<&Kept> {
        self.keys.as_ref().filter(|kept| {
            now < kept.soft_until
                || now < kept.stale_until
                    && matches!(self.last, Attempt::Failed { at, .. } if now.saturating_sub(at) < 2 * MAX_BACKOFF)
        })
    }
}

const MIN_MAX_AGE: Duration = Duration::from_mins(1);
const MAX_MAX_AGE: Duration = Duration::from_hours(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_mins(1);
const ABSENT_FOR: Duration = Duration::from_mins(1);
const MAX_ABSENT: usize = 1_000;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::key::Algorithm;

    const START: Duration = Duration::from_secs(5);

    /// A set with one EC key for each `kid`.
    pub(in crate::key) fn set_of(kids: &[&str]) -> JwkSet {
        let keys: Vec<String> = kids
            .iter()
            .map(|kid| {
                let x = "r1C12_pi3enDwZ2XxHwWQA7N_Xh3BUoHNHkJ0xboOwc";
                let y = "iXRbyWlluYjaiEu3O0MYyizIB-Nr2w_5xXZoeH8gEf8";
                format!(r#"{{"kty":"EC","crv":"P-256","alg":"ES256","kid":"{kid}","x":"{x}","y":"{y}"}}"#)
            })
            .collect();
        JwkSet::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).unwrap()
    }

    fn settings() -> CacheSettings {
        CacheSettings { jitter: || 0.0, ..CacheSettings::default() }
    }

    fn loaded(max_age: Option<u64>) -> Snapshot {
        let keys = LoadedKeys::new(set_of(&["a"])).with_max_age(max_age.map(Duration::from_secs));
        Snapshot::empty().loaded(keys, START, START, None, &settings())
    }

    /// Seconds after the load.
    fn at(seconds: u64) -> Duration {
        START + Duration::from_secs(seconds)
    }

    fn find(snapshot: &Snapshot, kid: &str, now: Duration) -> String {
        match snapshot.find(Wanted::new(Some(kid), Algorithm::Es256), |kid| kid.len() as u64, now) {
            Finding::Keys(_, Freshness::Fresh) => "keys".to_owned(),
            Finding::Keys(_, freshness) => format!("{freshness:?}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_lifetime_is_the_sources_within_bounds_and_refreshed_ahead() {
        let cases = [
            ("none given", None, 600),
            ("inside", Some(300), 300),
            ("zero", Some(0), 60),
            ("a year", Some(31_536_000), 3_600),
            ("beyond any clock", Some(u64::MAX), 3_600),
        ];
        for (name, max_age, lifetime) in cases {
            let snapshot = loaded(max_age);
            assert_eq!(find(&snapshot, "a", at(lifetime - 1)), "keys", "{name}");
            assert_eq!(find(&snapshot, "a", at(lifetime)), "Due", "{name}: a key removed upstream stops verifying");
            assert!(!snapshot.wants_refresh(at(lifetime * 8 / 10 - 1)), "{name}");
            assert!(snapshot.wants_refresh(at(lifetime * 8 / 10)), "{name}");
        }
    }

    #[test]
    fn every_default_is_the_one_that_is_promised() {
        let CacheSettings { soft_lifetime, stale_limit, unknown_kid_floor, load_deadline, seed, .. } =
            CacheSettings::default();
        assert_eq!(seed, None);
        let table = [
            ("soft lifetime", soft_lifetime, 600),
            ("least max-age", MIN_MAX_AGE, 60),
            ("most max-age", MAX_MAX_AGE, 3_600),
            ("stale after failure", stale_limit, 3_600),
            ("unknown-kid floor", unknown_kid_floor, 30),
            ("negative cache", ABSENT_FOR, 60),
            ("first backoff", FIRST_BACKOFF, 1),
            ("longest backoff", MAX_BACKOFF, 60),
            // Discovery and key set, 3 s each.
            ("whole load", load_deadline, 6),
        ];
        for (name, value, seconds) in table {
            assert_eq!(value, Duration::from_secs(seconds), "{name}");
        }
        assert_eq!(MAX_ABSENT, 1_000);
    }

    #[test]
    fn a_seed_is_never_fresh_and_ends_when_its_keys_are_too_old() {
        let seed = Snapshot::seeded(set_of(&["a"]), Duration::from_secs(4_000), START, &settings());
        assert_eq!(find(&seed, "a", at(0)), "Due");
        assert!(seed.may_load(at(0)) && seed.wants_refresh(at(0)));
        assert_eq!(seed.condition(at(0)), Condition::Loading);
        let failed = seed.failed(KeyErrorKind::Timeout, at(199), &settings());
        assert_eq!(find(&failed, "a", at(199)), "Seed");
        assert_eq!(find(&failed, "a", at(200)), "Due");
        assert_eq!(seed.holdings(at(10)), Some((Duration::from_secs(4_010), 1)));
        assert!(seed.differs_from(&set_of(&["a"])), "the first load is always told of");
        let old = Snapshot::seeded(set_of(&["a"]), Duration::MAX, START, &settings());
        assert_eq!(find(&old.failed(KeyErrorKind::Timeout, at(0), &settings()), "a", at(0)), "Unavailable(Timeout)");
    }

    #[test]
    fn a_set_differs_when_a_key_comes_goes_or_has_another_name_or_number() {
        let other_numbers =
            r#"{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let table = [
            ("the same", set_of(&["a"]), false),
            ("one more", set_of(&["a", "b"]), true),
            ("none", JwkSet::default(), true),
            ("another name", set_of(&["b"]), true),
            ("another key", [Jwk::from_json(other_numbers).unwrap()].into_iter().collect(), true),
        ];
        for (name, set, differs) in table {
            assert_eq!(loaded(None).differs_from(&set), differs, "{name}");
        }
        assert!(Snapshot::empty().differs_from(&set_of(&["a"])));
    }

    #[test]
    fn jitter_only_ever_makes_loads_earlier() {
        let early = CacheSettings { jitter: || 1.0, ..CacheSettings::default() };
        let keys = LoadedKeys::new(set_of(&["a"]));
        let snapshot = Snapshot::empty().loaded(keys, START, START, None, &early);
        assert!(!snapshot.wants_refresh(at(419)) && snapshot.wants_refresh(at(420)));
        let snapshot = Snapshot::empty().failed(KeyErrorKind::Timeout, START, &early);
        assert!(!snapshot.may_load(START + Duration::from_millis(749)));
        assert!(snapshot.may_load(START + Duration::from_millis(750)));
    }

    #[test]
    fn backoff_doubles_from_one_second_to_sixty_and_starts_over_after_a_success() {
        let mut snapshot = Snapshot::empty();
        let mut now = START;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            snapshot = snapshot.failed(KeyErrorKind::Unavailable, now, &settings());
            now += Duration::from_secs(seconds);
            let just_before = now - Duration::from_millis(1);
            assert!(!snapshot.may_load(just_before), "{seconds}");
            assert_eq!(find(&snapshot, "a", just_before), "Unavailable(Unavailable)", "{seconds}");
            assert!(snapshot.may_load(now), "{seconds}");
            assert_eq!(find(&snapshot, "a", now), "Due", "{seconds}");
        }
        for _ in 0..100_000 {
            snapshot = snapshot.failed(KeyErrorKind::Unavailable, now, &settings());
        }
        assert!(snapshot.may_load(now + MAX_BACKOFF));
        snapshot = snapshot.loaded(LoadedKeys::new(set_of(&["a"])), now, now, None, &settings()).failed(
            KeyErrorKind::Unavailable,
            now,
            &settings(),
        );
        assert!(snapshot.may_load(now + Duration::from_secs(1)));
    }

    #[test]
    fn an_unknown_kid_may_cause_a_load_only_after_the_floor() {
        let snapshot = loaded(None);
        assert_eq!(find(&snapshot, "b", at(29)), "Unknown");
        assert!(!snapshot.may_load(at(29)));
        assert_eq!(find(&snapshot, "b", at(30)), "Due");
        assert!(snapshot.may_load(at(30)));
    }

    #[test]
    fn the_floor_counts_from_the_start_of_the_load() {
        let snapshot = Snapshot::empty().loaded(LoadedKeys::new(set_of(&["a"])), START, at(6), None, &settings());
        assert_eq!(find(&snapshot, "b", at(29)), "Unknown");
        assert_eq!(find(&snapshot, "b", at(30)), "Due");
    }

    #[test]
    fn a_kid_that_its_own_load_did_not_bring_is_absent_for_sixty_seconds() {
        let keys = || LoadedKeys::new(set_of(&["a"]));
        let snapshot = Snapshot::empty().loaded(keys(), START, START, Some("bb".len() as u64), &settings());
        assert_eq!(find(&snapshot, "bb", at(59)), "Unknown");
        assert_eq!(find(&snapshot, "bb", at(60)), "Due");
        assert_eq!(find(&snapshot, "ccc", at(59)), "Due", "another one is none the wiser");
        let failed = snapshot.failed(KeyErrorKind::Timeout, at(40), &settings());
        assert_eq!(find(&failed, "bb", at(40)), "Unavailable(Timeout)", "whether it is still absent cannot be told");
        let later = snapshot.loaded(keys(), at(40), at(40), None, &settings());
        assert_eq!(later.absent.len(), 1);
        let latest = later.loaded(keys(), at(60), at(60), None, &settings());
        assert_eq!(latest.absent.len(), 0, "what has expired is forgotten");
    }

    #[test]
    fn a_key_that_was_absent_is_found_once_it_is_there() {
        let b = Some("b".len() as u64);
        let keys = LoadedKeys::new(set_of(&["a", "b"]));
        let snapshot = loaded(None).loaded(keys, at(1), at(1), b, &settings());
        assert_eq!(find(&snapshot, "b", at(2)), "keys");
    }

    #[test]
    fn at_most_a_thousand_kids_are_remembered() {
        let mut snapshot = loaded(None);
        for kid in 0..1_500 {
            snapshot = snapshot.loaded(LoadedKeys::new(set_of(&["a"])), START, START, Some(kid), &settings());
        }
        assert_eq!(snapshot.absent.len(), MAX_ABSENT);
    }

    #[test]
    fn while_loading_fails_stale_keys_serve_until_the_limit_and_no_longer() {
        let fail = |seconds| loaded(None).failed(KeyErrorKind::Timeout, at(seconds), &settings());
        let cases = [
            ("fresh, failing", 500, 501, "keys"),
            ("just past the lifetime", 599, 600, "Stale"),
            ("an hour past it", 4_199, 4_199, "Stale"),
            ("at the limit", 4_199, 4_200, "Due"),
            ("at the limit, within backoff", 4_200, 4_200, "Unavailable(Timeout)"),
            ("nobody asked for two minutes", 700, 820, "Due"),
        ];
        for (name, failed_at, now, finding) in cases {
            assert_eq!(find(&fail(failed_at), "a", at(now)), finding, "{name}");
        }
        let never = CacheSettings { stale_limit: Duration::ZERO, ..settings() };
        let keys = LoadedKeys::new(set_of(&["a"]));
        let strict =
            Snapshot::empty().loaded(keys, START, START, None, &never).failed(KeyErrorKind::Timeout, at(600), &never);
        assert_eq!(find(&strict, "a", at(600)), "Unavailable(Timeout)");
    }

    #[test]
    fn an_unknown_kid_is_unavailable_and_not_unknown_while_loading_fails() {
        let snapshot = loaded(None).failed(KeyErrorKind::Timeout, at(10), &settings());
        assert_eq!(find(&snapshot, "a", at(10)), "keys");
        assert_eq!(find(&snapshot, "b", at(10)), "Unavailable(Timeout)");
        assert_eq!(find(&snapshot, "b", at(11)), "Due");
    }

    #[test]
    fn the_condition_tells_fresh_failing_stale_and_down_apart() {
        let failed = loaded(None).failed(KeyErrorKind::Timeout, at(590), &settings());
        let cases = [
            ("never loaded", Snapshot::empty(), 0, Condition::Loading),
            ("loaded", loaded(None), 0, Condition::Fresh),
            ("loaded and idle", loaded(None), 100_000, Condition::Fresh),
            ("failing", failed.clone(), 599, Condition::RefreshFailing(KeyErrorKind::Timeout)),
            (
                "stale",
                failed.clone(),
                610,
                Condition::Stale { since: Duration::from_secs(10), kind: KeyErrorKind::Timeout },
            ),
            ("over", failed, 4_200, Condition::Down(KeyErrorKind::Timeout)),
            (
                "never had any",
                Snapshot::empty().failed(KeyErrorKind::InvalidDocument, START, &settings()),
                0,
                Condition::Down(KeyErrorKind::InvalidDocument),
            ),
        ];
        for (name, snapshot, now, condition) in cases {
            assert_eq!(snapshot.condition(at(now)), condition, "{name}");
        }
    }

    #[test]
    fn fixed_keys_last_for_ever_and_are_never_loaded_again() {
        let snapshot = Snapshot::fixed(set_of(&["a"]), START);
        let end_of_time = Duration::MAX - Duration::from_nanos(1);
        assert_eq!(find(&snapshot, "a", end_of_time), "keys");
        assert_eq!(find(&snapshot, "b", end_of_time), "Unknown");
        assert!(!snapshot.may_load(end_of_time) && !snapshot.wants_refresh(end_of_time));
    }
}
