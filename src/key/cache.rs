mod flight;

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::watch};

use self::flight::{Flight, announce, usable};
use super::{
    CacheSettings, JwkSet, KeyErrorKind, KeySource, Metrics, Wanted,
    metrics::Counters,
    seed::Seed,
    snapshot::{Condition, Finding, Freshness, Snapshot},
};
use crate::{ConfigError, error, health::Health, time::Clock};

/// Keeps the keys of one issuer fresh, around any [`KeySource`], as [`CacheSettings`] says.
pub(crate) struct Cache {
    source: Arc<dyn KeySource>,
    name: Arc<str>,
    settings: CacheSettings,
    clock: Arc<dyn Clock>,
    origin: Origin,
    snapshot: ArcSwap<Snapshot>,
    /// Who sets it holds the only right to replace the snapshot, until a `Flight` gives it back.
    loading: AtomicBool,
    finished: watch::Sender<()>,
    /// A token was refused for an unknown `kid` that no load was made for since. That is all that is kept of it.
    wished: AtomicBool,
    /// The log knows that stale keys are in use.
    told_stale: AtomicBool,
    counters: Counters,
    seed: Option<Arc<Seed>>,
    /// `kid`s are attacker text: kept as keyed hashes, they take eight bytes each and cannot be made to collide.
    hasher: RandomState,
}

/// What the cache says of the keys that are wanted.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// They are among these.
    Keys(JwkSet),
    /// A refresh may bring the key: await [`Cache::refresh`], then ask [`Cache::lookup_settled`].
    Wait,
    /// The issuer has none.
    Unknown,
    /// There are no keys that may be used.
    Unavailable(KeyErrorKind),
}

enum Origin {
    AtOnce,
    Background(Handle),
}

impl Cache {
    /// Where the source answers at once, fills the cache; else the first load starts in the background. Settings come checked; `name` is what the log and [`health`](Self::health) call these keys, and whom the seed has to be of.
    ///
    /// Keys that come at once and without a lifetime of their own are never loaded again.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the path of the seed names no file, when the source answers at once without a usable
    /// key or beside settings that mean nothing for it, and, unless it answers at once, outside a Tokio runtime.
    pub(crate) fn new(
        source: Arc<dyn KeySource>,
        name: impl Into<Arc<str>>,
        settings: CacheSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, ConfigError> {
        let name = name.into();
        let started = clock.elapsed();
        let (origin, snapshot, seed) = match source.load_now() {
            Some(answer) => {
                let loaded = answer.and_then(usable).map_err(|error| ConfigError::Unusable {
                    field: "key.source".into(),
                    value: name.to_string(),
                    remedy: "give a key set with at least one usable key".into(),
                    source: error.into(),
                })?;
                settings.check_at_once(loaded.max_age.is_none())?;
                announce(&name, &loaded.set, &settings.voice, started);
                let snapshot = match loaded.max_age {
                    None => Snapshot::fixed(loaded.set, started),
                    Some(_) => Snapshot::empty().loaded(loaded, started, clock.elapsed(), None, &settings),
                };
                (Origin::AtOnce, snapshot, None)
            }
            None => {
                let runtime = error::runtime("key.cache")?;
                let seed = settings.seed.clone().map(|path| Seed::new(path, Arc::clone(&name))).transpose()?;
                let found = seed.as_ref().and_then(|seed| seed.read(clock.now(), settings.hard_lifetime()));
                let snapshot = found
                    .map_or_else(Snapshot::empty, |found| Snapshot::seeded(found.set, found.age, started, &settings));
                (Origin::Background(runtime), snapshot, seed)
            }
        };
        let cache = Arc::new(Self {
            source,
            name,
            settings,
            clock,
            origin,
            snapshot: ArcSwap::from_pointee(snapshot),
            loading: AtomicBool::new(false),
            finished: watch::Sender::new(()),
            wished: AtomicBool::new(false),
            told_stale: AtomicBool::new(false),
            counters: Counters::default(),
            seed: seed.map(Arc::new),
            hasher: RandomState::new(),
        });
        match cache.origin {
            Origin::AtOnce => cache.counters.fetches.add_one(),
            Origin::Background(_) => drop(cache.start(None)),
        }
        Ok(cache)
    }

    /// Looks up without a lock and without waiting. Starts a refresh in the background when one is due.
    pub(crate) fn lookup(self: &Arc<Self>, wanted: Wanted<'_>) -> Lookup {
        let now = self.clock.elapsed();
        let snapshot = self.snapshot.load();
        let finding = snapshot.find(wanted, |kid| self.hash(kid), now);
        // Who has to wait for a load anyway starts it, and names its `kid`.
        let is_wanted =
            !matches!(finding, Finding::Due) && self.wished.load(Ordering::Relaxed) && snapshot.may_load(now);
        if is_wanted || snapshot.wants_refresh(now) {
            self.start(None);
        }
        self.answer(&finding).unwrap_or(Lookup::Wait)
    }

    /// As [`lookup`](Self::lookup) after a refresh: never `Wait`.
    pub(crate) fn lookup_settled(&self, wanted: Wanted<'_>) -> Lookup {
        let now = self.clock.elapsed();
        let snapshot = self.snapshot.load();
        let finding = snapshot.find(wanted, |kid| self.hash(kid), now);
        self.answer(&finding).unwrap_or_else(|| match snapshot.failure() {
            // Another load may be due already; this request has had its own.
            Some(kind) => Lookup::Unavailable(kind),
            None if snapshot.is_serving(now) => self.unknown(),
            None => Lookup::Unavailable(KeyErrorKind::Unavailable),
        })
    }

    /// Waits for the refresh that is under way, or starts one. Dropping the future cancels nothing.
    pub(crate) async fn refresh(self: &Arc<Self>, kid: Option<Arc<str>>) {
        let before = self.snapshot.load_full();
        // Twice, because `loading` is also held for the moment in which another request finds that it came too soon: what ended then
        // was no load. Whoever holds it the second time has read the clock after this request did, and loads if this one may.
        for _ in 0..2 {
            // Subscribed before the flag is read: a load that ends in between is seen.
            let mut finished = self.finished.subscribe();
            if !self.start(kid.clone()) {
                return;
            }
            let _ = finished.changed().await;
            if !Arc::ptr_eq(&before, &self.snapshot.load()) {
                return;
            }
        }
    }

    /// Waits until the keys can be had, and asks again as often as the backoff allows.
    ///
    /// # Errors
    ///
    /// After the deadline, the kind of the last failure.
    pub(crate) async fn ready(self: &Arc<Self>, deadline: Duration) -> Result<(), KeyErrorKind> {
        let mut finished = self.finished.subscribe();
        let ready = async {
            while !self.health().is_serving() {
                // The end of a load, or the moment at which the next may start.
                let _ = tokio::time::timeout(RETRY_POLL, finished.changed()).await;
            }
        };
        let failure = || self.snapshot.load().failure().unwrap_or(KeyErrorKind::Timeout);
        tokio::time::timeout(deadline, ready).await.map_err(|_elapsed| failure())
    }

    /// Whether the keys can be had.
    ///
    /// Asking also starts a load that is due, so that a service which gets no requests until it is ready becomes ready.
    #[must_use]
    pub(crate) fn health(self: &Arc<Self>) -> Health {
        let now = self.clock.elapsed();
        let snapshot = self.snapshot.load();
        let condition = snapshot.condition(now);
        if snapshot.wants_refresh(now)
            || matches!(condition, Condition::Loading | Condition::Down(_)) && snapshot.may_load(now)
        {
            self.start(None);
        }
        match condition {
            Condition::Fresh => Health::Ready,
            Condition::RefreshFailing(kind) => {
                Health::Degraded(format!("{}: the last refresh failed ({})", self.name, kind.text()).into())
            }
            Condition::Stale { since, kind } => {
                let since = self.clock.now().saturating_sub(since);
                Health::Degraded(format!("{}: serving stale keys since {since} ({})", self.name, kind.text()).into())
            }
            Condition::Loading => Health::Unavailable(format!("{}: the first load is under way", self.name).into()),
            Condition::Down(kind) => Health::Unavailable(format!("{}: {}", self.name, kind.text()).into()),
        }
    }

    /// What has happened so far, and what there is now. Starts nothing.
    #[must_use]
    pub(crate) fn metrics(&self) -> Metrics {
        let now = self.clock.elapsed();
        let snapshot = self.snapshot.load();
        let holdings = snapshot.holdings(now);
        let counters = &self.counters;
        Metrics {
            fetches: counters.fetches.total(),
            failures: counters.failures.total(),
            unknown_kid_fetches: counters.unknown_kid_fetches.total(),
            unknown_kid_answers: counters.unknown_kid_answers.total(),
            stale_answers: counters.stale_answers.total(),
            seed_answers: counters.seed_answers.total(),
            age: holdings.map(|(age, _)| age),
            keys: holdings.map_or(0, |(_, keys)| keys),
            consecutive_failures: snapshot.failures(),
            is_stale: matches!(snapshot.condition(now), Condition::Stale { .. }),
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.name).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Cache {
    /// Starts a load unless one is under way or none may start. True when there is an end of a load to wait for.
    fn start(self: &Arc<Self>, kid: Option<Arc<str>>) -> bool {
        if self.loading.swap(true, Ordering::AcqRel) {
            return true;
        }
        let started = self.clock.elapsed();
        let snapshot = self.snapshot.load();
        // Asked again with the right to load in hand: whoever held it before may just have brought what was missing.
        if !snapshot.may_load(started) {
            self.release();
            return false;
        }
        self.counters.fetches.add_one();
        let wished = self.wished.swap(false, Ordering::Relaxed);
        if (wished || kid.is_some()) && snapshot.is_serving(started) && !snapshot.wants_refresh(started) {
            self.counters.unknown_kid_fetches.add_one();
        }
        let flight = Flight::new(Arc::clone(self), started, kid);
        match &self.origin {
            Origin::AtOnce => {
                flight.land_at_once();
                false
            }
            Origin::Background(runtime) => {
                runtime.spawn(flight.run());
                true
            }
        }
    }

    /// `None` when only a load can tell.
    fn answer(&self, finding: &Finding<'_>) -> Option<Lookup> {
        Some(match finding {
            Finding::Keys(set, freshness) => {
                if *freshness != Freshness::Fresh {
                    self.note_stale(*freshness);
                }
                Lookup::Keys((*set).clone())
            }
            Finding::Unknown => {
                // Read before it is written: under a flood every thread but the first only reads.
                if !self.wished.load(Ordering::Relaxed) {
                    self.wished.store(true, Ordering::Relaxed);
                }
                self.unknown()
            }
            Finding::Due => return None,
            Finding::Unavailable(kind) => Lookup::Unavailable(*kind),
        })
    }

    fn unknown(&self) -> Lookup {
        self.counters.unknown_kid_answers.add_one();
        Lookup::Unknown
    }

    fn note_stale(&self, freshness: Freshness) {
        self.counters.stale_answers.add_one();
        let is_seed = freshness == Freshness::Seed;
        if is_seed {
            self.counters.seed_answers.add_one();
        }
        if !self.told_stale.load(Ordering::Relaxed)
            && !self.told_stale.swap(true, Ordering::Relaxed)
            && self.settings.voice.speak(|lines| &lines.stale, self.clock.elapsed()).is_some()
        {
            tracing::warn!(keys = &*self.name, is_seed, "stale keys are in use, because loading fails");
        }
    }

    /// Writes the seed, where there is one, on a thread that may block.
    fn keep(&self, set: &JwkSet) {
        if let (Some(seed), Origin::Background(runtime)) = (&self.seed, &self.origin) {
            let (seed, set, now) = (Arc::clone(seed), set.clone(), self.clock.now());
            drop(runtime.spawn_blocking(move || seed.write(&set, now)));
        }
    }

    /// Gives up the right to load and wakes everybody who waits.
    fn release(&self) {
        self.loading.store(false, Ordering::Release);
        self.finished.send_replace(());
    }

    fn hash(&self, kid: &str) -> u64 {
        self.hasher.hash_one(kid)
    }
}

const RETRY_POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Mutex, atomic::AtomicU64},
    };

    use tokio::{sync::Semaphore, task::yield_now};

    use super::*;
    use crate::{
        key::{Algorithm, Jwk, KeyError, LoadRequest, LoadedKeys, snapshot::tests::set_of},
        time::UnixTime,
    };

    struct Stopped(AtomicU64);

    impl Clock for Stopped {
        fn now(&self) -> UnixTime {
            UnixTime::from_secs(1_800_000_000).saturating_add(self.elapsed())
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }
    }

    /// Who reads it next, and has set the trap, has read the time when `reached` ends and goes on when `released` is told so.
    struct Trapped {
        clock: Stopped,
        trap: Mutex<Option<(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>)>>,
    }

    impl Clock for Trapped {
        fn now(&self) -> UnixTime {
            self.clock.now()
        }

        fn elapsed(&self) -> Duration {
            let now = self.clock.elapsed();
            let trap = self.trap.lock().unwrap().take();
            if let Some((reached, released)) = trap {
                reached.send(()).unwrap();
                released.recv().unwrap();
            }
            now
        }
    }

    impl Stopped {
        fn advance(&self, seconds: u64) {
            self.0.fetch_add(seconds, Ordering::SeqCst);
        }
    }

    #[derive(Clone)]
    enum Answer {
        Keys(&'static [&'static str]),
        Set(JwkSet),
        NoKeys,
        Fails(KeyErrorKind),
        Panics,
        Hangs,
    }

    use Answer::{Fails, Hangs, Keys, NoKeys, Panics, Set};

    /// Plays its answers in order, the last one for ever; each load takes one permit of the gate.
    struct Script {
        answers: Mutex<VecDeque<Answer>>,
        gate: Semaphore,
        kids: Mutex<Vec<Option<Arc<str>>>>,
    }

    impl Script {
        fn loads(&self) -> usize {
            self.kids.lock().unwrap().len()
        }

        fn next(&self) -> Answer {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
        }
    }

    #[async_trait::async_trait]
    impl KeySource for Script {
        async fn load(self: Arc<Self>, request: LoadRequest) -> Result<LoadedKeys, KeyError> {
            self.kids.lock().unwrap().push(request.unknown_kid);
            self.gate.acquire().await.unwrap().forget();
            match self.next() {
                Keys(kids) => Ok(LoadedKeys::new(set_of(kids))),
                Set(set) => Ok(LoadedKeys::new(set)),
                NoKeys => Ok(LoadedKeys::new(JwkSet::default())),
                Fails(KeyErrorKind::Timeout) => Err(KeyError::timeout("slow")),
                Fails(_) => Err(KeyError::unavailable("down")),
                Panics => panic!("scripted"),
                Hangs => std::future::pending().await,
            }
        }
    }

    fn around(source: Arc<dyn KeySource>, clock: Arc<dyn Clock>) -> Result<Arc<Cache>, ConfigError> {
        Cache::new(source, "keys", CacheSettings::default(), clock)
    }

    struct Stage {
        cache: Arc<Cache>,
        clock: Arc<Stopped>,
        source: Arc<Script>,
    }

    impl Stage {
        /// The first load has not been let through yet.
        fn closed(answers: &[Answer], change: impl FnOnce(CacheSettings) -> CacheSettings) -> Self {
            let clock = Arc::new(Stopped(AtomicU64::new(0)));
            let answers = Mutex::new(answers.iter().cloned().collect());
            let source = Arc::new(Script { answers, gate: Semaphore::new(0), kids: Mutex::default() });
            let settings = change(CacheSettings { jitter: || 0.0, ..CacheSettings::default() });
            let cache = Cache::new(Arc::clone(&source) as _, "issuer", settings, Arc::clone(&clock) as _).unwrap();
            Self { cache, clock, source }
        }

        /// The first load has ended, and the gate is open.
        async fn open(answers: &[Answer]) -> Self {
            let stage = Self::closed(answers, |settings| settings);
            stage.source.gate.add_permits(1_000_000);
            stage.landed().await;
            stage
        }

        /// Until no load is under way.
        async fn landed(&self) {
            while self.cache.loading.load(Ordering::SeqCst) {
                yield_now().await;
            }
        }

        fn look(&self, kid: &str) -> String {
            show(self.cache.lookup(es256(kid)))
        }

        /// As the verifier does.
        async fn ask(&self, kid: &str) -> String {
            ask(Arc::clone(&self.cache), kid.to_owned()).await
        }
    }

    async fn ask(cache: Arc<Cache>, kid: String) -> String {
        show(match cache.lookup(es256(&kid)) {
            Lookup::Wait => {
                cache.refresh(Some(kid.as_str().into())).await;
                cache.lookup_settled(es256(&kid))
            }
            settled => settled,
        })
    }

    fn es256(kid: &str) -> Wanted<'_> {
        Wanted::new(Some(kid), Algorithm::Es256)
    }

    fn show(lookup: Lookup) -> String {
        match lookup {
            Lookup::Keys(_) => "keys".to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn one_load_serves_everybody_who_waits() {
        let stage = Stage::closed(&[Keys(&["a"])], |settings| settings);
        assert_eq!(stage.look("a"), "Wait");
        let waiters: Vec<_> = (0..100).map(|_| tokio::spawn(ask(Arc::clone(&stage.cache), "a".to_owned()))).collect();
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        stage.source.gate.add_permits(1);
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), "keys");
        }
        assert_eq!(stage.source.loads(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_load_serves_many_threads_too() {
        let stage = Stage::open(&[Keys(&["a"]), Keys(&["a", "b"])]).await;
        for round in 1..=20 {
            stage.clock.advance(60);
            let kid = if round == 1 { "b".to_owned() } else { format!("unknown-{round}") };
            let waiters: Vec<_> = (0..100).map(|_| tokio::spawn(ask(Arc::clone(&stage.cache), kid.clone()))).collect();
            for waiter in waiters {
                assert_eq!(waiter.await.unwrap(), if round == 1 { "keys" } else { "Unknown" });
            }
            stage.landed().await;
            assert_eq!(stage.source.loads(), 1 + round);
        }
    }

    #[tokio::test]
    async fn a_known_kid_is_found_without_a_load() {
        let stage = Stage::open(&[Keys(&["a"])]).await;
        for _ in 0..10_000 {
            assert_eq!(stage.look("a"), "keys");
        }
        assert!(matches!(stage.cache.lookup(Wanted::new(None, Algorithm::Es256)), Lookup::Keys(_)));
        assert_eq!(stage.source.loads(), 1);
    }

    #[tokio::test]
    async fn ten_thousand_random_kids_cause_one_load_per_floor() {
        let stage = Stage::open(&[Keys(&["a"])]).await;
        for window in 1..=3 {
            stage.clock.advance(30);
            for kid in 0..10_000 {
                assert_eq!(stage.ask(&format!("{window}-{kid}")).await, "Unknown");
                assert_eq!(stage.look("a"), "keys");
            }
            assert_eq!(stage.source.loads(), 1 + window);
        }
    }

    #[tokio::test]
    async fn who_was_told_to_wait_and_comes_after_the_load_does_not_start_another() {
        let stage = Stage::open(&[Keys(&["a"])]).await;
        stage.clock.advance(30);
        let told: Vec<_> = (0..100).map(|kid| kid.to_string()).collect();
        assert!(told.iter().all(|kid| stage.look(kid) == "Wait"));
        for kid in told {
            stage.cache.refresh(Some(kid.into())).await;
        }
        assert_eq!(stage.source.loads(), 2);
    }

    #[tokio::test]
    async fn a_kid_that_stays_unknown_is_waited_for_once_a_minute() {
        let stage = Stage::open(&[Keys(&["a"])]).await;
        stage.clock.advance(30);
        for second in 30..90 {
            let waits = stage.look("x") == "Wait";
            assert_eq!(waits, second == 30, "{second}");
            assert_eq!(stage.ask("x").await, "Unknown");
            stage.landed().await;
            stage.clock.advance(1);
        }
        assert_eq!(stage.ask("x").await, "Unknown");
        assert_eq!(stage.source.loads(), 4);
        let kids = stage.source.kids.lock().unwrap().iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(kids, [false, true, false, true], "the one in between is loaded behind");
    }

    #[tokio::test]
    async fn a_rotated_key_is_found_by_the_request_that_brings_it() {
        let stage = Stage::open(&[Keys(&["a"]), Keys(&["b"])]).await;
        stage.clock.advance(30);
        assert_eq!(stage.ask("b").await, "keys");
        assert_eq!(stage.look("a"), "Unknown");
        assert_eq!(stage.source.loads(), 2);
    }

    #[tokio::test]
    async fn a_kid_that_comes_too_soon_is_unknown_at_once_and_loaded_behind_by_whoever_comes_next() {
        let stage = Stage::open(&[Keys(&["a"]), Keys(&["a", "b"]), Keys(&["a"])]).await;
        stage.clock.advance(29);
        assert_eq!(stage.look("b"), "Unknown");
        for _ in 0..1_000 {
            assert_eq!((stage.look("b"), stage.look("a")), ("Unknown".to_owned(), "keys".to_owned()));
        }
        stage.landed().await;
        assert_eq!(stage.source.loads(), 1);
        stage.clock.advance(1);
        assert_eq!(stage.look("a"), "keys", "a known kid, which waits for nothing");
        stage.landed().await;
        assert_eq!((stage.source.loads(), stage.look("b")), (2, "keys".to_owned()));
        assert_eq!(*stage.source.kids.lock().unwrap(), [None, None], "no text of a token is kept");
        assert_eq!(stage.cache.metrics().unknown_kid_fetches, 1);
        stage.clock.advance(100);
        assert_eq!(stage.look("a"), "keys");
        stage.landed().await;
        assert_eq!(stage.source.loads(), 2, "a wish is fulfilled once");
    }

    #[tokio::test]
    async fn who_must_wait_for_the_load_that_was_wished_for_starts_it_and_names_its_kid() {
        let stage = Stage::open(&[Keys(&["a"])]).await;
        assert_eq!(stage.look("x"), "Unknown");
        stage.clock.advance(30);
        assert_eq!(stage.ask("x").await, "Unknown");
        assert_eq!(stage.source.kids.lock().unwrap()[1].as_deref(), Some("x"));
    }

    #[tokio::test]
    async fn a_key_that_is_published_right_after_the_load_for_its_kid_is_found_once_the_floor_has_passed() {
        let stage = Stage::open(&[Keys(&["a"]), Keys(&["a"]), Keys(&["a", "b"])]).await;
        stage.clock.advance(30);
        assert_eq!(stage.ask("b").await, "Unknown", "its own load does not bring it");
        stage.clock.advance(29);
        assert_eq!((stage.look("b"), stage.look("b")), ("Unknown".to_owned(), "Unknown".to_owned()));
        stage.landed().await;
        assert_eq!(stage.source.loads(), 2, "within the floor");
        stage.clock.advance(1);
        assert_eq!(stage.look("a"), "keys", "waits for nothing, and loads behind");
        stage.landed().await;
        assert_eq!((stage.source.loads(), stage.look("b")), (3, "keys".to_owned()));
        assert_eq!(stage.source.kids.lock().unwrap()[2], None);
    }

    #[tokio::test]
    async fn unknown_kids_old_and_new_cause_one_load_per_floor_between_them() {
        let stage = Stage::open(&[Keys(&["a"])]).await;
        for second in 1..=600 {
            stage.clock.advance(1);
            for kid in ["old".to_owned(), format!("new-{second}"), "old".to_owned()] {
                assert_eq!(stage.ask(&kid).await, "Unknown");
                stage.landed().await;
            }
            assert_eq!(stage.source.loads(), 1 + second / 30, "{second}");
        }
    }

    #[tokio::test]
    async fn a_kid_that_only_anothers_key_has_is_unknown_and_loaded_for() {
        let of = |kid: &'static str, issuer: &str| {
            let set = set_of(&[kid]);
            let text = set.iter().next().unwrap().to_json().replacen('{', &format!("{{\"issuer\":\"{issuer}\","), 1);
            Jwk::from_json(&text).unwrap()
        };
        let stage = Stage::open(&[
            Set([of("k", "theirs")].into_iter().collect()),
            Set([of("k", "theirs"), of("k", "ours")].into_iter().collect()),
        ])
        .await;
        let wanted = |issuer| es256("k").signing_for(issuer, |key, token| key == token);
        assert_eq!(show(stage.cache.lookup(wanted("theirs"))), "keys");
        assert_eq!(show(stage.cache.lookup(wanted("ours"))), "Unknown");
        stage.clock.advance(30);
        assert_eq!(show(stage.cache.lookup(wanted("theirs"))), "keys", "and a load begins behind");
        stage.landed().await;
        assert_eq!((stage.source.loads(), show(stage.cache.lookup(wanted("ours")))), (2, "keys".to_owned()));
        stage.clock.advance(30);
        assert_eq!(show(stage.cache.lookup(wanted("nobodys"))), "Wait");
    }

    /// A log whose every line panics.
    struct Broken;

    impl tracing::Subscriber for Broken {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            panic!("scripted");
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[tokio::test]
    async fn a_log_that_panics_costs_neither_the_keys_that_came_nor_the_failure_that_did() {
        for (name, answer, found, failures) in
            [("keys", Keys(&["a"]), "keys", 0), ("failure", Fails(KeyErrorKind::Timeout), "Unavailable(Timeout)", 1)]
        {
            let stage = Stage::closed(&[answer, Hangs], |settings| settings);
            let _broken = tracing::subscriber::set_default(Broken);
            stage.source.gate.add_permits(1);
            stage.landed().await;
            assert_eq!(stage.look("a"), found, "{name}");
            assert_eq!(stage.cache.metrics().failures, failures, "{name}");
        }
    }

    #[test]
    fn a_log_that_panics_over_a_source_that_did_gives_the_right_to_load_back() {
        let source = inline(&[Keys(&["a"]), Panics, Keys(&["a", "b"])], Some(60));
        let clock = Arc::new(Stopped(AtomicU64::new(0)));
        let cache = around(Arc::clone(&source) as _, Arc::clone(&clock) as _).unwrap();
        clock.advance(60);
        let broken = tracing::subscriber::set_default(Broken);
        let look = std::panic::AssertUnwindSafe(|| cache.lookup(es256("a")));
        assert!(std::panic::catch_unwind(look).is_err());
        drop(broken);
        assert_eq!((cache.metrics().failures, cache.metrics().consecutive_failures), (1, 1));
        clock.advance(1);
        assert_eq!(show(cache.lookup(es256("b"))), "Wait", "as a load came before the answer, the next finds it");
        assert_eq!((source.0.loads(), show(cache.lookup(es256("b")))), (3, "keys".to_owned()));
    }

    /// One request holds the right to load for the moment in which it finds that it came too soon. It has read the clock just before the
    /// edge of the floor; another, just after it, meets the hold, and the end of that must not count as its load.
    #[tokio::test]
    async fn who_meets_anothers_vain_try_at_the_edge_of_the_floor_still_gets_a_load() {
        let clock = Arc::new(Trapped { clock: Stopped(AtomicU64::new(0)), trap: Mutex::default() });
        let answers = Mutex::new(VecDeque::from([Keys(&["a"]), Keys(&["a", "b"])]));
        let source = Arc::new(Script { answers, gate: Semaphore::new(1_000), kids: Mutex::default() });
        let cache = around(Arc::clone(&source) as _, Arc::clone(&clock) as _).unwrap();
        while cache.loading.load(Ordering::SeqCst) {
            yield_now().await;
        }
        clock.clock.advance(29);
        let (reached, is_reached) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel();
        *clock.trap.lock().unwrap() = Some((reached, released));
        let early = {
            let cache = Arc::clone(&cache);
            std::thread::spawn(move || cache.start(Some("early".into())))
        };
        is_reached.recv().unwrap();
        clock.clock.advance(1);
        let mut late = Box::pin(ask(Arc::clone(&cache), "b".to_owned()));
        assert!(poll_once(&mut late).is_pending(), "it waits for what it takes for a load");
        release.send(()).unwrap();
        assert!(!early.join().unwrap());
        assert_eq!(late.await, "keys");
        assert_eq!(source.loads(), 2);
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn keys_are_refreshed_ahead_while_the_old_ones_serve() {
        let stage = Stage::open(&[Keys(&["a"]), Keys(&["a", "b"])]).await;
        stage.clock.advance(479);
        assert_eq!(stage.look("a"), "keys");
        stage.landed().await;
        assert_eq!(stage.source.loads(), 1);
        stage.clock.advance(1);
        assert_eq!((stage.look("a"), stage.look("a")), ("keys".to_owned(), "keys".to_owned()));
        stage.landed().await;
        assert_eq!(stage.source.loads(), 2);
        assert_eq!(stage.look("b"), "keys");
    }

    #[tokio::test]
    async fn after_an_idle_night_the_first_request_waits_for_the_keys_of_today() {
        let stage = Stage::open(&[Keys(&["a"]), Keys(&["b"])]).await;
        stage.clock.advance(40_000);
        assert_eq!(stage.ask("a").await, "Unknown");
        assert_eq!(stage.look("b"), "keys");
    }

    #[tokio::test]
    async fn while_the_source_is_down_the_tries_are_bounded_and_the_answer_is_unavailable() {
        let stage = Stage::open(&[Fails(KeyErrorKind::Timeout), Fails(KeyErrorKind::Unavailable)]).await;
        assert_eq!(stage.look("a"), "Unavailable(Timeout)");
        for _ in 0..60 {
            stage.clock.advance(1);
            for kid in 0..100 {
                assert_eq!(stage.ask(&kid.to_string()).await, "Unavailable(Unavailable)");
            }
        }
        // At 0, 1, 3, 7, 15 and 31 s.
        assert_eq!(stage.source.loads(), 6);
    }

    #[tokio::test]
    async fn the_next_good_answer_after_a_failure_is_used() {
        let stage = Stage::open(&[Fails(KeyErrorKind::Unavailable), Keys(&["a"])]).await;
        assert_eq!(stage.ask("a").await, "Unavailable(Unavailable)");
        stage.clock.advance(1);
        assert_eq!(stage.ask("a").await, "keys");
        assert_eq!(stage.cache.health(), Health::Ready);
    }

    #[tokio::test]
    async fn stale_keys_serve_while_loading_fails_and_their_end_is_unavailable() {
        let stage = Stage::open(&[Keys(&["a"]), Fails(KeyErrorKind::Timeout)]).await;
        let serving = |now| (480..4_200).contains(&now);
        stage.clock.advance(480);
        for now in 480..4_300 {
            let found = stage.ask("a").await;
            assert_eq!(found == "keys", serving(now), "{now}: {found}");
            stage.landed().await;
            match (now, stage.cache.health()) {
                (..600, Health::Degraded(detail)) => {
                    assert_eq!(detail, "issuer: the last refresh failed (timeout)");
                }
                (600..4_200, Health::Degraded(detail)) => {
                    assert_eq!(detail, "issuer: serving stale keys since 2027-01-15T08:10:00.000Z (timeout)");
                }
                (4_200.., Health::Unavailable(detail)) => assert_eq!(detail, "issuer: timeout"),
                (now, other) => panic!("{now}: {other:?}"),
            }
            stage.clock.advance(1);
        }
        assert!(stage.source.loads() < 75, "{}", stage.source.loads());
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_cancels_the_load_for_nobody() {
        let stage = Stage::open(&[Keys(&["a"]), Keys(&["a", "b"])]).await;
        stage.source.gate.forget_permits(1_000_000);
        stage.clock.advance(30);
        let starter = tokio::spawn(ask(Arc::clone(&stage.cache), "b".to_owned()));
        while stage.source.loads() < 2 {
            yield_now().await;
        }
        let other = tokio::spawn(ask(Arc::clone(&stage.cache), "b".to_owned()));
        yield_now().await;
        starter.abort();
        assert!(starter.await.unwrap_err().is_cancelled());
        stage.source.gate.add_permits(1);
        assert_eq!(other.await.unwrap(), "keys");
        assert_eq!(stage.source.loads(), 2);
    }

    #[tokio::test]
    async fn a_source_that_panics_has_failed_and_is_asked_again() {
        let stage = Stage::open(&[Panics, Keys(&["a"])]).await;
        assert_eq!(stage.ask("a").await, "Unavailable(Unavailable)");
        stage.clock.advance(1);
        assert_eq!(stage.ask("a").await, "keys");
    }

    #[tokio::test]
    async fn a_source_that_never_answers_is_cut_off_at_the_load_deadline() {
        let short = |settings: CacheSettings| settings.with_load_deadline(Duration::from_millis(20));
        let stage = Stage::closed(&[Hangs, Keys(&["a"])], short);
        stage.source.gate.add_permits(2);
        assert_eq!(stage.ask("a").await, "Unavailable(Timeout)");
        stage.clock.advance(1);
        assert_eq!(stage.ask("a").await, "keys");
    }

    #[tokio::test]
    async fn a_document_without_a_usable_key_never_replaces_a_working_set() {
        let stage = Stage::open(&[Keys(&["a"]), NoKeys, Keys(&["b"])]).await;
        stage.clock.advance(480);
        assert_eq!(stage.look("a"), "keys");
        stage.landed().await;
        assert_eq!((stage.source.loads(), stage.look("a")), (2, "keys".to_owned()));
        assert_eq!(stage.look("b"), "Unavailable(InvalidDocument)");
        stage.clock.advance(1);
        assert_eq!(stage.ask("b").await, "keys");
    }

    #[tokio::test]
    async fn asking_for_health_brings_a_failed_cache_back() {
        let stage = Stage::closed(&[Fails(KeyErrorKind::Unavailable), Keys(&["a"])], |settings| settings);
        assert_eq!(stage.cache.health(), Health::Unavailable("issuer: the first load is under way".into()));
        stage.source.gate.add_permits(2);
        stage.landed().await;
        assert_eq!(stage.cache.health(), Health::Unavailable("issuer: unavailable".into()));
        stage.clock.advance(1);
        assert!(!stage.cache.health().is_serving());
        stage.landed().await;
        assert_eq!(stage.cache.health(), Health::Ready);
    }

    #[test]
    fn a_load_whose_runtime_is_gone_has_failed_and_leaves_nobody_waiting() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let first = runtime();
        let stage = first.block_on(async { Stage::open(&[Keys(&["a"])]).await });
        drop(first);
        stage.clock.advance(600);
        assert_eq!(runtime().block_on(stage.ask("a")), "keys", "stale, because loading fails");
        stage.clock.advance(4_200);
        assert_eq!(runtime().block_on(stage.ask("a")), "Unavailable(Unavailable)");
    }

    /// A cache of another process has left a seed of these keys `age` seconds ago.
    async fn seeded(kids: &'static [&'static str], age: u64, answers: &[Answer]) -> (Stage, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let seed = |settings: CacheSettings| settings.with_seed(&path);
        let before = Stage::closed(&[Keys(kids)], seed);
        before.source.gate.add_permits(1);
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let earlier = (1_800_000_000 - age).to_string();
        std::fs::write(&path, text.replace("1800000000", &earlier)).unwrap();
        (Stage::closed(answers, seed), folder)
    }

    #[tokio::test]
    async fn a_seed_serves_only_once_a_load_has_failed_and_only_to_its_own_end() {
        let (stage, _folder) = seeded(&["a"], 4_000, &[Fails(KeyErrorKind::Unavailable)]).await;
        assert_eq!(stage.look("a"), "Wait", "the first load is waited for");
        assert!(matches!(stage.cache.health(), Health::Unavailable(_)));
        stage.source.gate.add_permits(1_000);
        assert_eq!(stage.ask("a").await, "keys");
        assert!(matches!(stage.cache.health(), Health::Degraded(_)));
        assert_eq!(stage.look("b"), "Unavailable(Unavailable)", "it may have been rotated since");
        for now in 1..=300 {
            stage.clock.advance(1);
            let found = stage.ask("a").await;
            assert_eq!(found == "keys", now < 200, "{now}: {found}");
            stage.landed().await;
        }
        let metrics = stage.cache.metrics();
        assert_eq!((metrics.seed_answers, metrics.stale_answers), (200, 200));
        assert_eq!(metrics.age, Some(Duration::from_secs(4_300)));
        assert!(!metrics.is_stale);
    }

    #[tokio::test]
    async fn a_seed_is_never_preferred_to_the_issuer() {
        let (stage, folder) = seeded(&["a"], 0, &[Keys(&["b"])]).await;
        stage.source.gate.add_permits(1_000);
        assert_eq!(stage.ask("a").await, "Unknown", "withdrawn since");
        assert_eq!(stage.look("b"), "keys");
        assert_eq!(stage.cache.metrics().seed_answers, 0);
        let path = folder.path().join("keys.json");
        let written = || std::fs::read_to_string(&path).unwrap_or_default().contains("\"b\"");
        while !written() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn who_has_waited_in_vain_is_told_what_is_there() {
        let stage = Stage::closed(&[Keys(&["a"])], |settings| settings);
        let settled = |kid| show(stage.cache.lookup_settled(es256(kid)));
        assert_eq!(settled("a"), "Unavailable(Unavailable)", "no keys yet, and no failure");
        stage.source.gate.add_permits(1);
        stage.landed().await;
        stage.clock.advance(30);
        assert_eq!(settled("x"), "Unknown", "a load is due again, and this request has had its own");
        stage.clock.advance(569);
        assert_eq!(settled("x"), "Unknown", "the keys serve for one second more");
        for seconds in [1, 100_000] {
            stage.clock.advance(seconds);
            for kid in ["a", "x"] {
                assert_eq!(settled(kid), "Unavailable(Unavailable)", "{kid}: keys that no longer serve tell nothing");
            }
        }
    }

    #[tokio::test]
    async fn a_load_for_want_of_any_keys_is_not_put_down_to_a_kid() {
        let stage = Stage::open(&[Fails(KeyErrorKind::Unavailable), Keys(&["a"])]).await;
        stage.clock.advance(1);
        assert_eq!(stage.ask("a").await, "keys");
        assert_eq!((stage.source.loads(), stage.cache.metrics().unknown_kid_fetches), (2, 0));
    }

    #[tokio::test]
    async fn metrics_count_what_happens() {
        let stage = Stage::open(&[Keys(&["a", "b"]), Keys(&["a"]), Fails(KeyErrorKind::Timeout)]).await;
        let first = Metrics { fetches: 1, keys: 2, age: Some(Duration::ZERO), ..Metrics::default() };
        assert_eq!(stage.cache.metrics(), first);
        assert_eq!((stage.look("a"), stage.look("x")), ("keys".to_owned(), "Unknown".to_owned()));
        stage.clock.advance(30);
        assert_eq!(stage.ask("x").await, "Unknown");
        let second = Metrics { fetches: 2, unknown_kid_fetches: 1, unknown_kid_answers: 2, keys: 1, ..first };
        assert_eq!(stage.cache.metrics(), second);
        stage.clock.advance(600);
        assert_eq!((stage.ask("a").await, stage.look("a")), ("keys".to_owned(), "keys".to_owned()));
        let third = Metrics {
            fetches: 3,
            failures: 1,
            stale_answers: 2,
            age: Some(Duration::from_secs(600)),
            consecutive_failures: 1,
            is_stale: true,
            ..second
        };
        assert_eq!(stage.cache.metrics(), third);
    }

    #[tokio::test]
    async fn who_waits_for_keys_gets_them_or_the_kind_of_the_last_failure() {
        let stage = Stage::closed(&[Fails(KeyErrorKind::Timeout)], |settings| settings);
        let soon = Duration::from_millis(20);
        assert_eq!(stage.cache.ready(soon).await, Err(KeyErrorKind::Timeout), "no load has ended");
        stage.source.gate.add_permits(1);
        assert_eq!(stage.cache.ready(soon).await, Err(KeyErrorKind::Timeout));
        let stage = Stage::open(&[Fails(KeyErrorKind::Unavailable), Keys(&["a"])]).await;
        assert_eq!(stage.cache.ready(soon).await, Err(KeyErrorKind::Unavailable), "in its backoff");
        stage.clock.advance(1);
        assert_eq!(stage.cache.ready(Duration::MAX).await, Ok(()));
    }

    /// A source that answers at once, with a lifetime or without.
    struct Inline(Script, Option<Duration>);

    #[async_trait::async_trait]
    impl KeySource for Inline {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            unreachable!("it answers at once")
        }

        fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
            self.0.kids.lock().unwrap().push(None);
            match self.0.next() {
                Keys(kids) => Some(Ok(LoadedKeys::new(set_of(kids)).with_max_age(self.1))),
                NoKeys => Some(Ok(LoadedKeys::new(JwkSet::default()))),
                Panics => panic!("scripted"),
                _ => Some(Err(KeyError::unavailable("down"))),
            }
        }
    }

    fn inline(answers: &[Answer], max_age: Option<u64>) -> Arc<Inline> {
        let answers = Mutex::new(answers.iter().cloned().collect());
        let script = Script { answers, gate: Semaphore::new(0), kids: Mutex::default() };
        Arc::new(Inline(script, max_age.map(Duration::from_secs)))
    }

    #[test]
    fn keys_that_come_at_once_need_no_runtime_and_are_never_loaded_again() {
        let source = inline(&[Keys(&["a"])], None);
        let clock = Arc::new(Stopped(AtomicU64::new(0)));
        let cache = around(Arc::clone(&source) as _, Arc::clone(&clock) as _).unwrap();
        for _ in 0..100 {
            assert!(matches!(cache.lookup(es256("a")), Lookup::Keys(_)));
            assert!(matches!(cache.lookup(es256("b")), Lookup::Unknown));
            assert!(matches!(cache.lookup(Wanted::new(Some("a"), Algorithm::Rs256)), Lookup::Unknown));
            assert_eq!(cache.health(), Health::Ready);
            clock.advance(100_000);
        }
        assert_eq!(source.0.loads(), 1);
    }

    #[test]
    fn keys_that_come_at_once_with_a_lifetime_are_loaded_again_where_they_are_needed() {
        let source = inline(&[Keys(&["a"]), Panics, Fails(KeyErrorKind::Unavailable), Keys(&["a", "b"])], Some(100));
        let clock = Arc::new(Stopped(AtomicU64::new(0)));
        let cache = around(Arc::clone(&source) as _, Arc::clone(&clock) as _).unwrap();
        for (seconds, loads) in [(0, 1), (80, 2), (2, 3), (4, 4)] {
            clock.advance(seconds);
            assert!(matches!(cache.lookup(es256("a")), Lookup::Keys(_)), "{seconds}");
            assert_eq!(source.0.loads(), loads);
        }
        assert!(matches!(cache.lookup(es256("b")), Lookup::Keys(_)));
    }

    #[test]
    fn a_cache_that_cannot_work_is_not_built() {
        let clock = || Arc::new(Stopped(AtomicU64::new(0)));
        let source = || {
            let answers = Mutex::new(VecDeque::from([NoKeys]));
            Arc::new(Script { answers, gate: Semaphore::new(0), kids: Mutex::default() })
        };
        let no_runtime = around(source(), clock()).unwrap_err();
        assert!(matches!(no_runtime, ConfigError::NoRuntime { part: "key.cache" }));
        for (name, answer) in [("empty", NoKeys), ("failing", Fails(KeyErrorKind::Unavailable))] {
            let error = around(inline(&[answer], None), clock()).unwrap_err();
            assert_eq!(error.field(), "key.source", "{name}");
        }
        let with = CacheSettings::default;
        let floor = with().with_unknown_kid_floor(Duration::from_secs(5));
        let seed = with().with_seed("keys.json");
        type Source = Arc<dyn KeySource>;
        for (name, source, settings, field) in [
            ("a floor of fixed keys", inline(&[Keys(&["a"])], None) as Source, floor.clone(), "issuer.key_cache"),
            ("a seed of fixed keys", inline(&[Keys(&["a"])], None) as Source, seed.clone(), "issuer.key_cache"),
            ("a seed of keys at once", inline(&[Keys(&["a"])], Some(60)) as Source, seed, "issuer.key_cache"),
        ] {
            let error = Cache::new(source, "keys", settings, clock()).unwrap_err();
            assert_eq!(error.field(), field, "{name}: {error}");
        }
        assert!(Cache::new(inline(&[Keys(&["a"])], Some(60)), "keys", floor, clock()).is_ok());
    }
}
