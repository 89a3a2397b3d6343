use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lru::LruCache;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::projection::Projection;
use crate::{
    ConfigError,
    health::Health,
    policy::{Decision, Effect, PolicyBackend, PolicyError, PolicyExplanation, PolicyInForce, PolicyInput},
    time::{Clock, SystemClock},
};

/// Remembers the allows of another backend, for as long as the policy would say the same again.
///
/// A decision is found again under a SHA-256 of all that it depends on: the version of the policy in force, the credential that the caller
/// showed, and the question, cut down to what the policy [reads](crate::policy::Reads). So two credentials never share a decision, and
/// neither do two versions of a policy or of its data.
///
/// What is never remembered: denials, undefined results and errors; decisions of a policy that depends on more than the question, such
/// as the time of day; those of a policy that reads the whole question, in which no two requests are equal; decisions about a caller
/// whose credential is unknown. An entry ends with its lifetime, with the token, and with the policy. No work under way is shared: equal
/// questions that come at one time are each asked.
///
/// The audit record names the decision that was first made, and says that it was remembered.
///
/// ```
/// use std::sync::Arc;
/// use portcullis::policy::{Cached, Rego};
///
/// let rego = Rego::from_source(
///     "authz.rego",
///     r#"
///     package authz
///
///     default decision := false
///
///     decision if "jobs:read" in input.subject.properties.scopes
///     "#,
///     "data.authz.decision",
/// )?;
/// let policy = Cached::builder(Arc::new(rego)).build()?;
/// # let _ = policy;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
pub struct Cached<P: ?Sized> {
    lifetime: Duration,
    clock: Arc<dyn Clock>,
    shards: Box<[Mutex<LruCache<Key, Entry>>]>,
    hasher: RandomState,
    counters: Counters,
    backend: Arc<P>,
}

/// Sets a [`Cached`] up.
#[must_use = "nothing is remembered before `build`"]
pub struct CachedBuilder<P: ?Sized> {
    lifetime: Duration,
    capacity: usize,
    clock: Arc<dyn Clock>,
    backend: Arc<P>,
}

/// What a [`Cached`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheMetrics {
    /// Questions answered from memory.
    pub hits: u64,
    /// Questions put to the backend, whose answer may be remembered.
    pub misses: u64,
    /// Questions that cannot be remembered.
    pub bypasses: u64,
}

impl<P: PolicyBackend + ?Sized> Cached<P> {
    /// Starts with the backend that decides.
    pub fn builder(backend: Arc<P>) -> CachedBuilder<P> {
        CachedBuilder { lifetime: Duration::from_secs(5), capacity: 10_000, clock: Arc::new(SystemClock), backend }
    }

    /// What it has done so far.
    #[must_use]
    pub fn metrics(&self) -> CacheMetrics {
        let Counters { hits, misses, bypasses } = &self.counters;
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheMetrics { hits: total(hits), misses: total(misses), bypasses: total(bypasses) }
    }

    /// Where the decision of this question stands; `None` when it is not to be remembered.
    fn place(&self, input: &PolicyInput) -> Option<Place> {
        let in_force = self.backend.in_force()?;
        let members = in_force.reads.members()?;
        // Who has no credential is anonymous, or comes from a test: of nobody else is it known for how long a decision may hold.
        let is_anonymous = input.subject.r#type == "anonymous";
        if input.credential.is_none() && !is_anonymous {
            return None;
        }
        #[derive(Serialize)]
        struct Question<'a>(u64, &'a str, Option<&'a str>, Projection<'a, PolicyInput>);

        // One JSON text of all that counts: no two tuples have the same one.
        let credential = input.credential.as_ref().map(|credential| credential.thumbprint.as_str());
        let question =
            Question(in_force.epoch, in_force.revision.as_str(), credential, Projection { members, value: input });
        let mut text = Vec::with_capacity(1024);
        serde_json::to_writer(&mut text, &question).ok()?;
        Some(Place { key: Sha256::digest(&text).into(), in_force })
    }

    fn recall(&self, place: &Place) -> Option<Decision> {
        let mut shard = self.shard(&place.key)?.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(&place.key)?;
        if self.clock.elapsed() < entry.until {
            return Some(entry.decision.clone().into_cached());
        }
        let outlived = shard.pop(&place.key);
        drop(shard);
        drop(outlived);
        None
    }

    fn keep(&self, Place { key, in_force }: Place, input: &PolicyInput, outcome: &Result<Decision, PolicyError>) {
        let Ok(decision) = outcome else { return };
        // Another policy may have come into force while this question was decided.
        if decision.effect() != Effect::Allow || self.backend.in_force().as_ref() != Some(&in_force) {
            return;
        }
        let rest = match &input.credential {
            Some(credential) => credential.expires_at.duration_since(self.clock.now()),
            None => Duration::MAX,
        };
        let until = self.clock.elapsed().saturating_add(self.lifetime.min(rest));
        if let Some(shard) = self.shard(&key) {
            let entry = Entry { decision: decision.clone(), until };
            let pushed_out = shard.lock().unwrap_or_else(PoisonError::into_inner).push(key, entry);
            drop(pushed_out);
        }
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<LruCache<Key, Entry>>> {
        let index = self.hasher.hash_one(key) % self.shards.len().max(1) as u64;
        self.shards.get(usize::try_from(index).unwrap_or_default())
    }
}

impl<P: PolicyBackend + ?Sized> CachedBuilder<P> {
    /// How long an allow is remembered, at most. Default 5 s; from 100 ms to 60 s. It is how long a change that the policy's version does
    /// not show may go unnoticed.
    pub const fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// How many decisions are remembered; over it the one that was not asked for the longest goes. Default 10 000; from 16 to 1 000 000. Each
    /// takes about 300 bytes, and what its reasons, obligations and advice take, and the whole result that they were read from.
    pub const fn with_capacity(mut self, decisions: usize) -> Self {
        self.capacity = decisions;
        self
    }

    /// Sets the clock. Default [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Builds the backend.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a lifetime or a capacity out of bounds, and for a backend that does not say which policy is in force
    /// ([`PolicyBackend::in_force`]): its decisions could outlive their policy.
    pub fn build(self) -> Result<Cached<P>, ConfigError> {
        if !LIFETIMES.contains(&self.lifetime) {
            let remedy = "choose from 100 ms to 60 s (default 5 s)";
            return Err(ConfigError::invalid("policy.cached.lifetime", format!("{:?}", self.lifetime), remedy));
        }
        if !CAPACITIES.contains(&self.capacity) {
            let remedy = "choose from 16 to 1000000 decisions (default 10000)";
            return Err(ConfigError::invalid("policy.cached.capacity", self.capacity.to_string(), remedy));
        }
        if self.backend.in_force().is_none() {
            let remedy = "remember the decisions of a backend that knows the version of its policy beforehand, such as `policy::Rego`";
            return Err(ConfigError::invalid("policy.cached.backend", std::any::type_name::<P>(), remedy));
        }
        let room = NonZeroUsize::new(self.capacity.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        Ok(Cached {
            lifetime: self.lifetime,
            clock: self.clock,
            shards: (0..SHARDS).map(|_| Mutex::new(LruCache::new(room))).collect(),
            hasher: RandomState::new(),
            counters: Counters::default(),
            backend: self.backend,
        })
    }
}

#[async_trait]
impl<P: PolicyBackend + ?Sized> PolicyBackend for Cached<P> {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let Some(place) = self.place(&input) else {
            self.counters.bypasses.fetch_add(1, Ordering::Relaxed);
            return Arc::clone(&self.backend).decide(input).await;
        };
        if let Some(decision) = self.recall(&place) {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(decision);
        }
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        let outcome = Arc::clone(&self.backend).decide(input.clone()).await;
        self.keep(place, &input, &outcome);
        outcome
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        let Some(place) = self.place(input) else {
            let outcome = self.backend.decide_now(input)?;
            self.counters.bypasses.fetch_add(1, Ordering::Relaxed);
            return Some(outcome);
        };
        if let Some(decision) = self.recall(&place) {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Some(Ok(decision));
        }
        let outcome = self.backend.decide_now(input)?;
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        self.keep(place, input, &outcome);
        Some(outcome)
    }

    fn in_force(&self) -> Option<PolicyInForce> {
        self.backend.in_force()
    }

    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        self.backend.explanations(input)
    }

    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        Arc::clone(&self.backend).preflight().await
    }

    fn health(&self) -> Health {
        self.backend.health()
    }
}

impl<P: ?Sized> fmt::Debug for Cached<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

impl<P: ?Sized> fmt::Debug for CachedBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedBuilder")
            .field("lifetime", &self.lifetime)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

type Key = [u8; 32];

struct Entry {
    decision: Decision,
    until: Duration,
}

/// Where a decision is kept, and the policy that it is to come from.
struct Place {
    key: Key,
    in_force: PolicyInForce,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    bypasses: AtomicU64,
}

/// So that threads seldom wait for each other.
const SHARDS: usize = 16;
const LIFETIMES: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const CAPACITIES: std::ops::RangeInclusive<usize> = 16..=1_000_000;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        policy::{Credential, PolicyErrorKind, PolicyRevision, Reads},
        principal::Thumbprint,
        testing::{FrozenClock, policy_input},
    };

    /// Allows alice, denies bob, knows nothing of carol, fails for the others; says what it is told to say about itself.
    struct Policy {
        in_force: Mutex<Option<PolicyInForce>>,
        asked: AtomicUsize,
        /// What comes into force while a question is decided.
        next: Mutex<Option<PolicyInForce>>,
    }

    impl Policy {
        fn reading(reads: Reads) -> Arc<Self> {
            let in_force = Mutex::new(Some(PolicyInForce::new(PolicyRevision::new("r1"), reads)));
            Arc::new(Self { in_force, asked: AtomicUsize::new(0), next: Mutex::default() })
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn replace(&self, change: impl FnOnce(PolicyInForce) -> PolicyInForce) {
            let mut in_force = self.in_force.lock().unwrap();
            *in_force = in_force.take().map(change);
        }
    }

    #[async_trait]
    impl PolicyBackend for Policy {
        async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
            self.decide_now(&input).unwrap()
        }

        fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let revision = self.in_force.lock().unwrap().as_ref().unwrap().revision.clone();
            if let Some(next) = self.next.lock().unwrap().take() {
                *self.in_force.lock().unwrap() = Some(next);
            }
            Some(match input.subject.id.as_str() {
                "alice" => Ok(Decision::allow(revision).add_reason("she may")),
                "bob" => Ok(Decision::deny(revision)),
                "carol" => Ok(Decision::undefined(revision)),
                _ => Err(PolicyError::unavailable("away")),
            })
        }

        fn in_force(&self) -> Option<PolicyInForce> {
            self.in_force.lock().unwrap().clone()
        }
    }

    fn by_subject() -> Reads {
        Reads::paths([&["subject", "id"][..], &["action", "name"]])
    }

    /// Of a token that expires ten minutes after the frozen clock's start.
    fn question(subject: &str, token: &str) -> PolicyInput {
        let mut input = policy_input("GET", "/jobs");
        input.subject.r#type = "user";
        input.subject.id = subject.to_owned();
        let expires_at = FrozenClock::default().now().saturating_add(Duration::from_secs(600));
        input.credential = Some(Credential { thumbprint: Thumbprint::new(token), expires_at });
        input
    }

    fn cached(policy: &Arc<Policy>, clock: &FrozenClock) -> Arc<Cached<Policy>> {
        Arc::new(Cached::builder(Arc::clone(policy)).with_clock(clock.clone()).build().unwrap())
    }

    /// Whether it was remembered.
    fn recalled(cached: &Cached<Policy>, input: &PolicyInput) -> Result<bool, PolicyErrorKind> {
        cached.decide_now(input).unwrap().map(|decision| decision.is_cached()).map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn an_allow_is_remembered_whole_and_says_so() {
        let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
        let cached = cached(&policy, &clock);
        let first = Arc::clone(&cached).decide(question("alice", "t1")).await.unwrap();
        let mut other = question("alice", "t1");
        other.context.request_id = "another request".to_owned();
        other.resource.id = "/reports".to_owned();
        let second = Arc::clone(&cached).decide(other).await.unwrap();
        assert_eq!((first.is_cached(), second.is_cached(), policy.asked()), (false, true, 1));
        assert_eq!((second.id(), second.reasons(), second.revision()), (first.id(), first.reasons(), first.revision()));
        assert_eq!(cached.metrics(), CacheMetrics { hits: 1, misses: 1, bypasses: 0 });
    }

    #[test]
    fn nothing_but_an_allow_is_remembered() {
        let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
        let cached = cached(&policy, &clock);
        for (subject, answer) in [("bob", Ok(false)), ("carol", Ok(false)), ("dave", Err(PolicyErrorKind::Unavailable))]
        {
            for _ in 0..3 {
                assert_eq!(recalled(&cached, &question(subject, "t1")), answer, "{subject}");
            }
        }
        assert_eq!(policy.asked(), 9);
    }

    #[test]
    fn what_differs_in_anything_that_counts_is_asked_again() {
        let with = |change: fn(&mut PolicyInput)| {
            let mut input = question("alice", "t1");
            change(&mut input);
            input
        };
        let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
        let cached = cached(&policy, &clock);
        let cases = [
            ("the first", question("alice", "t1")),
            ("another token of the same party", question("alice", "t2")),
            ("another action", with(|input| input.action.name = "POST".to_owned())),
            ("a name that hides a quote", with(|input| input.action.name = "GET\",\"".to_owned())),
            (
                "no credential, and anonymous",
                with(|input| (input.subject.r#type, input.credential) = ("anonymous", None)),
            ),
        ];
        for (name, input) in &cases {
            assert_eq!(recalled(&cached, input), Ok(false), "{name}");
        }
        for (name, input) in &cases {
            assert_eq!(recalled(&cached, input), Ok(true), "{name}");
        }
        policy.replace(|in_force| PolicyInForce { revision: PolicyRevision::new("r2"), ..in_force });
        assert_eq!(recalled(&cached, &cases[0].1), Ok(false), "another revision");
        policy.replace(|in_force| in_force.with_epoch(1));
        assert_eq!(recalled(&cached, &cases[0].1), Ok(false), "the same revision, replaced");
        policy.replace(|in_force| PolicyInForce { reads: Reads::everything(), ..in_force });
        assert_eq!(recalled(&cached, &cases[0].1), Ok(false), "another policy");
    }

    #[test]
    fn who_comes_without_a_credential_is_asked_about_each_time() {
        let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
        let cached = cached(&policy, &clock);
        let mut input = question("alice", "t1");
        input.credential = None;
        assert_eq!((recalled(&cached, &input), recalled(&cached, &input)), (Ok(false), Ok(false)));
        policy.replace(|in_force| PolicyInForce { reads: Reads::more_than_the_input(), ..in_force });
        let input = question("alice", "t1");
        assert_eq!((recalled(&cached, &input), recalled(&cached, &input)), (Ok(false), Ok(false)));
        assert_eq!((cached.metrics().bypasses, policy.asked()), (4, 4));
    }

    #[test]
    fn an_entry_ends_with_its_lifetime_and_with_the_token() {
        for (step, at, remembered) in
            [("young", Duration::from_millis(4_999), true), ("old", Duration::from_secs(5), false)]
        {
            let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
            let cached = cached(&policy, &clock);
            assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(false));
            clock.advance(at);
            assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(remembered), "{step}");
        }
        let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
        let cached = cached(&policy, &clock);
        clock.advance(Duration::from_secs(598));
        assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(false));
        clock.advance(Duration::from_millis(1_999));
        assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(true));
        clock.advance(Duration::from_millis(1));
        assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(false), "the token has expired");
        assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(false), "and nothing more is kept for it");
    }

    #[test]
    fn a_decision_that_another_policy_overtook_is_not_kept() {
        let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
        let cached = cached(&policy, &clock);
        let overtaking = policy.in_force().unwrap().with_epoch(1);
        *policy.next.lock().unwrap() = Some(overtaking);
        assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(false));
        policy.replace(|in_force| in_force.with_epoch(0));
        assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(false));
        assert_eq!(recalled(&cached, &question("alice", "t1")), Ok(true));
    }

    #[test]
    fn memory_is_bounded() {
        let (policy, clock) = (Policy::reading(by_subject()), FrozenClock::default());
        let builder = Cached::builder(Arc::clone(&policy)).with_clock(clock).with_capacity(16);
        let cached = builder.build().unwrap();
        for number in 0..1_000 {
            assert_eq!(recalled(&cached, &question("alice", &format!("t{number}"))), Ok(false));
        }
        let kept: usize = cached.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!((1..=16).contains(&kept), "{kept}");
    }

    #[test]
    fn a_wrong_configuration_does_not_build() {
        let builder = || Cached::builder(Policy::reading(by_subject()));
        let unknown = Policy::reading(by_subject());
        *unknown.in_force.lock().unwrap() = None;
        let cases = [
            (builder().with_lifetime(Duration::from_millis(99)), "policy.cached.lifetime"),
            (builder().with_lifetime(Duration::from_secs(61)), "policy.cached.lifetime"),
            (builder().with_capacity(15), "policy.cached.capacity"),
            (builder().with_capacity(1_000_001), "policy.cached.capacity"),
            (Cached::builder(unknown), "policy.cached.backend"),
        ];
        for (builder, field) in cases {
            assert_eq!(builder.build().err().map(|error| error.field().to_owned()).as_deref(), Some(field));
        }
    }

    proptest! {
        /// T-096: no delimiter makes two questions one.
        #[test]
        fn unequal_questions_have_unequal_keys(
            one in prop::array::uniform4("[a\",:\\\\\\[\\]{}]{0,4}"), two in prop::array::uniform4("[a\",:\\\\\\[\\]{}]{0,4}"),
        ) {
            let cached = Cached::builder(Policy::reading(by_subject())).build().unwrap();
            let key = |[revision, token, subject, action]: &[String; 4]| {
                cached.backend.replace(|in_force| PolicyInForce { revision: PolicyRevision::new(format!("r{revision}")), ..in_force });
                let mut input = question(subject, token);
                input.action.name.clone_from(action);
                cached.place(&input).unwrap().key
            };
            prop_assert_eq!(key(&one) == key(&two), one == two);
        }
    }
}
