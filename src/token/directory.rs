#[cfg(feature = "remote-jwks")]
use std::sync::OnceLock;
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lru::LruCache;
use sha2::{Digest as _, Sha256};
use tokio::{runtime::Handle, sync::watch};

use super::{
    Issuer, ResolveError, ResolveIssuer, ResolveRequest, ResolvedIssuers, ResolvedMetrics, TokenError,
    resolve::Settings, trusted::Trusted,
};
#[cfg(feature = "remote-jwks")]
use crate::outbound::{Outbound, OutboundBuilder};
use crate::{ConfigError, error, key::KeyErrorKind, principal::IssuerId, time::Clock};

/// The issuers that were looked up, and the look-ups under way: what [`ResolvedIssuers`] promises.
pub(super) struct Directory {
    resolver: Arc<dyn ResolveIssuer>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// The longest life of a token that the list of revocations is good for.
    revocable: Option<Duration>,
    runtime: Handle,
    /// Unknown names are attacker text: kept as keyed hashes, they take eight bytes each and cannot be made to collide.
    hasher: RandomState,
    /// One for the keys of all: a client of its own for each issuer would cost each look-up a certificate store.
    #[cfg(feature = "remote-jwks")]
    outbound: OnceLock<Outbound>,
    /// Never held while anything of the application runs.
    state: Mutex<State>,
}

/// An issuer that the resolver vouched for.
pub(super) struct Tenant {
    pub(super) id: IssuerId,
    pub(super) trusted: Arc<Trusted>,
    renew_at: Duration,
    until: Duration,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Unknown,
    Unavailable(KeyErrorKind),
}

pub(super) type Answer = Result<Arc<Tenant>, Refusal>;

struct State {
    /// Most recently verified first; those without a verified token stand at the other end.
    known: LruCache<IssuerId, Arc<Tenant>, RandomState>,
    refused: LruCache<u64, (Refusal, Duration), RandomState>,
    /// Holds attacker text, of at most the permitted number of look-ups and for their deadline.
    flights: HashMap<Arc<str>, watch::Receiver<Option<Answer>>>,
    /// How many of the flights are for names outside of `known`: those that any caller can start.
    strangers: usize,
    crowded: Complaint,
    failed: Complaint,
}

impl Directory {
    pub(super) fn new(
        issuers: ResolvedIssuers,
        clock: Arc<dyn Clock>,
        revocable: Option<Duration>,
    ) -> Result<Arc<Self>, ConfigError> {
        let settings = issuers.settings;
        settings.check()?;
        let room = |entries| NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        let state = State {
            known: LruCache::with_hasher(room(settings.max_issuers), RandomState::new()),
            refused: LruCache::with_hasher(room(MAX_REFUSED), RandomState::new()),
            flights: HashMap::new(),
            strangers: 0,
            crowded: Complaint::default(),
            failed: Complaint::default(),
        };
        Ok(Arc::new(Self {
            resolver: issuers.resolver,
            settings,
            clock,
            revocable,
            #[cfg(feature = "remote-jwks")]
            outbound: issuers.outbound.map(OnceLock::from).unwrap_or_default(),
            runtime: error::runtime("resolved_issuers")?,
            hasher: RandomState::new(),
            state: Mutex::new(state),
        }))
    }

    /// What is known of a name without waiting. Starts a look-up in the background when an issuer nears its end.
    pub(super) fn find(self: &Arc<Self>, name: &str) -> Option<Answer> {
        if !can_be_a_name(name) {
            return Some(Err(Refusal::Unknown));
        }
        let now = self.clock.elapsed();
        let mut state = self.lock();
        let found = self.look(&state, name, now);
        let renewal = match &found {
            Some(Ok(tenant)) if tenant.renew_at <= now && !state.flights.contains_key(name) => {
                // A renewal that just failed is not tried with every request, and one that finds no room is tried with the next.
                let is_due = self.remembered(&state, name, now).is_none();
                is_due.then(|| self.prepare(&mut state, name.into(), now)).flatten()
            }
            _ => None,
        };
        drop(state);
        if let Some((flight, _)) = renewal {
            self.runtime.spawn(flight.run());
        }
        found
    }

    /// Waits for the look-up of a name: the one that is under way, or one of its own. Dropping the future cancels nothing.
    pub(super) async fn resolve(self: &Arc<Self>, name: Arc<str>) -> Answer {
        let (flight, mut landed) = {
            let now = self.clock.elapsed();
            let mut state = self.lock();
            if let Some(answer) = self.look(&state, &name, now) {
                return answer;
            }
            match state.flights.get(&name) {
                Some(landed) => (None, landed.clone()),
                None => match self.prepare(&mut state, name, now) {
                    Some((flight, landed)) => (Some(flight), landed),
                    None => return Err(Refusal::Unavailable(KeyErrorKind::Unavailable)),
                },
            }
        };
        if let Some(flight) = flight {
            // Outside of the lock: a runtime that shuts down drops the flight here and now, and its end takes the lock.
            self.runtime.spawn(flight.run());
        }
        // The answer travels to those who wait: by now the issuer may have been pushed out again.
        let answer = landed.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or(Err(Refusal::Unavailable(KeyErrorKind::Unavailable)))
    }

    /// A token of this issuer was verified: it is in use.
    pub(super) fn confirm(&self, tenant: &Arc<Tenant>) {
        let now = self.clock.elapsed();
        let mut state = self.lock();
        if state.known.promote(tenant.id.as_str()) {
            return;
        }
        // Pushed out between look-up and verification, and not removed by its store since.
        let is_refused = self.remembered(&state, tenant.id.as_str(), now).is_some();
        if now < tenant.until && !is_refused {
            state.known.put(tenant.id.clone(), Arc::clone(tenant));
        }
    }

    pub(super) fn metrics(&self) -> ResolvedMetrics {
        let state = self.lock();
        ResolvedMetrics { known: state.known.len(), refused: state.refused.len(), in_flight: state.flights.len() }
    }

    fn look(&self, state: &State, name: &str, now: Duration) -> Option<Answer> {
        match state.known.peek(name) {
            Some(tenant) if now < tenant.until => Some(Ok(Arc::clone(tenant))),
            _ => self.remembered(state, name, now).map(Err),
        }
    }

    fn remembered(&self, state: &State, name: &str, now: Duration) -> Option<Refusal> {
        let (refusal, until) = state.refused.peek(&self.hasher.hash_one(name))?;
        (now < *until).then_some(*refusal)
    }

    /// Registers a look-up; `None` when there are too many. The caller spawns it once it has let go of the lock.
    fn prepare(
        self: &Arc<Self>,
        state: &mut State,
        name: Arc<str>,
        now: Duration,
    ) -> Option<(Flight, watch::Receiver<Option<Answer>>)> {
        let is_stranger = !state.known.contains(&*name);
        let (strangers, all) = (state.strangers, state.flights.len());
        let under_way = if is_stranger { strangers } else { all - strangers };
        if under_way >= self.settings.max_concurrent {
            if let Some(unsaid) = state.crowded.speak(now) {
                tracing::warn!(under_way, unsaid, "too many issuers are being looked up: answered as unavailable");
            }
            return None;
        }
        let (tell, landed) = watch::channel(None);
        state.strangers += usize::from(is_stranger);
        state.flights.insert(Arc::clone(&name), landed.clone());
        Some((Flight { tenants: Arc::clone(self), name, is_stranger, tell, answer: None }, landed))
    }

    #[cfg(feature = "remote-jwks")]
    fn share_client(&self, issuer: Issuer) -> Result<Issuer, ConfigError> {
        let outbound = match self.outbound.get() {
            Some(outbound) => outbound,
            None => {
                let builder = OutboundBuilder::new(FETCH_DEADLINE, MAX_DOCUMENT);
                // Where there is no certificate store, local issuers still work, and no other one is believed.
                let outbound = builder.clone().build().or_else(|_| builder.without_tls().build())?;
                self.outbound.get_or_init(|| outbound)
            }
        };
        issuer.fetching_through(outbound)
    }

    #[cfg(not(feature = "remote-jwks"))]
    #[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
    fn share_client(&self, issuer: Issuer) -> Result<Issuer, ConfigError> {
        Ok(issuer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there can be left half done: a panic elsewhere is no reason to stop serving.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Refusal> for TokenError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown => Self::UnknownIssuer,
            Refusal::Unavailable(kind) => Self::KeysUnavailable(kind),
        }
    }
}

/// One look-up. Whatever becomes of it, its end is recorded and told.
struct Flight {
    tenants: Arc<Directory>,
    name: Arc<str>,
    is_stranger: bool,
    tell: watch::Sender<Option<Answer>>,
    answer: Option<Result<Option<Arc<Tenant>>, Failure>>,
}

/// Why a look-up brought no answer. No variant holds a text of the token's.
enum Failure {
    Store(ResolveError),
    Deadline,
    OtherName,
    Configuration(ConfigError),
    Panicked,
}

impl Flight {
    async fn run(mut self) {
        let resolver = Arc::clone(&self.tenants.resolver);
        let request = ResolveRequest::new(Arc::clone(&self.name));
        let resolved = tokio::time::timeout(self.tenants.settings.deadline, async { resolver.resolve(request).await });
        self.answer = Some(match resolved.await {
            Err(_elapsed) => Err(Failure::Deadline),
            Ok(Err(error)) => Err(Failure::Store(error)),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(issuer))) => self.admit(issuer).map(Some),
        });
    }

    /// Holds what the resolver returned to the rules that configured issuers are held to.
    fn admit(&self, issuer: Issuer) -> Result<Arc<Tenant>, Failure> {
        if issuer.url() != &*self.name {
            return Err(Failure::OtherName);
        }
        let Directory { clock, settings, revocable, .. } = &*self.tenants;
        let earlier = self.tenants.lock().known.peek(&*self.name).cloned();
        let earlier = earlier.as_ref().map(|tenant| &*tenant.trusted);
        let key_origin = issuer.key_origin();
        let trusted = self.tenants.share_client(issuer);
        let trusted = trusted.and_then(|issuer| Trusted::renewed(issuer, key_origin, clock, *revocable, earlier));
        let trusted = trusted.map_err(Failure::Configuration)?;
        let now = clock.elapsed();
        Ok(Arc::new(Tenant {
            id: IssuerId::new(Arc::clone(&self.name)),
            trusted: Arc::new(trusted),
            renew_at: now.saturating_add(settings.lifetime.mul_f64(0.8)),
            until: now.saturating_add(settings.lifetime),
        }))
    }

    fn complain(&self, failure: &Failure, unsaid: u64) {
        let (issuer_bytes, issuer_sha256) = (self.name.len(), URL_SAFE_NO_PAD.encode(Sha256::digest(&*self.name)));
        let why = match failure {
            Failure::Store(_) => "the resolver failed",
            Failure::Deadline => "the resolver did not answer in time",
            Failure::OtherName => "the resolver answered with another issuer than it was asked for",
            Failure::Configuration(_) => "the resolver answered with a configuration that cannot be used",
            Failure::Panicked => "the resolver panicked or its runtime is gone",
        };
        // Of a configuration the field alone: its value may be the text that was asked for.
        let field = match failure {
            Failure::Configuration(error) => Some(error.field()),
            _ => None,
        };
        let cause = match failure {
            Failure::Store(error) => std::error::Error::source(error).map(|cause| line(&cause.to_string())),
            _ => None,
        };
        tracing::warn!(issuer_bytes, issuer_sha256, why, field, cause, unsaid, "an issuer could not be looked up");
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let outcome = self.answer.take().unwrap_or(Err(Failure::Panicked));
        let Directory { clock, settings, hasher, .. } = &*self.tenants;
        let (now, hash) = (clock.elapsed(), hasher.hash_one(&*self.name));
        let mut state = self.tenants.lock();
        state.flights.remove(&self.name);
        state.strangers -= usize::from(self.is_stranger);
        let mut unsaid = None;
        let answer = match &outcome {
            Ok(Some(tenant)) => {
                state.refused.pop(&hash);
                state.admit(tenant);
                Ok(Arc::clone(tenant))
            }
            Ok(None) => {
                state.known.pop(&*self.name);
                state.refused.put(hash, (Refusal::Unknown, now.saturating_add(settings.unknown_lifetime)));
                Err(Refusal::Unknown)
            }
            Err(failure) => {
                // An issuer that is known stays so to the end of its life.
                let refusal = Refusal::Unavailable(match failure {
                    Failure::Deadline => KeyErrorKind::Timeout,
                    _ => KeyErrorKind::Unavailable,
                });
                state.refused.put(hash, (refusal, now.saturating_add(RETRY_AFTER)));
                unsaid = state.failed.speak(now);
                Err(refusal)
            }
        };
        drop(state);
        if let (Err(failure), Some(unsaid)) = (&outcome, unsaid) {
            self.complain(failure, unsaid);
        }
        self.tell.send_replace(Some(answer));
    }
}

impl State {
    fn admit(&mut self, tenant: &Arc<Tenant>) {
        if let Some(earlier) = self.known.peek_mut(tenant.id.as_str()) {
            *earlier = Arc::clone(tenant);
            return;
        }
        self.known.put(tenant.id.clone(), Arc::clone(tenant));
        // Nothing is proven by a name: until a token verifies, this one is the next to go.
        self.known.demote(tenant.id.as_str());
    }
}

/// A line of the log that callers can cause, at most once a second.
#[derive(Default)]
struct Complaint {
    quiet_until: Duration,
    unsaid: u64,
}

impl Complaint {
    /// How many went unsaid since the last one, when this one may be said.
    fn speak(&mut self, now: Duration) -> Option<u64> {
        if now < self.quiet_until {
            self.unsaid += 1;
            return None;
        }
        self.quiet_until = now.saturating_add(Duration::from_secs(1));
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// What no issuer is called need not be looked up.
fn can_be_a_name(name: &str) -> bool {
    name.len() <= MAX_NAME && !name.trim().is_empty() && !name.contains(char::is_control)
}

/// The application's text, as one that cannot forge another line.
fn line(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).take(MAX_CAUSE).collect()
}

/// In bytes: longer than any address that is of use.
const MAX_NAME: usize = 2_048;
const MAX_CAUSE: usize = 512;
/// The bounds of `key::Remote`.
#[cfg(feature = "remote-jwks")]
const FETCH_DEADLINE: Duration = Duration::from_secs(3);
#[cfg(feature = "remote-jwks")]
const MAX_DOCUMENT: usize = 256 * 1024;
const MAX_REFUSED: usize = 10_000;
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    };

    use async_trait::async_trait;
    use serde_json::{Value, json};
    use tokio::{sync::Semaphore, task::JoinSet};

    use super::*;
    use crate::{
        health::Health,
        key::{Algorithm, CacheSettings, JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys},
        principal::Subject,
        revocation::{Revocation, RevocationList},
        time::UnixTime,
        token::{
            AccessToken, Verifier, VerifierBuilder,
            test_tokens::{NOW, now, public_key, public_keys, seal, token, with},
        },
    };

    impl Directory {
        /// As the metrics, and how many of the look-ups are for strangers.
        fn sizes(&self) -> [usize; 4] {
            let ResolvedMetrics { known, refused, in_flight } = self.metrics();
            [known, refused, in_flight, self.lock().strangers]
        }
    }

    #[derive(Clone, Default)]
    struct Stopped(Arc<AtomicU64>);

    impl Stopped {
        fn pass(&self, seconds: u64) {
            self.0.fetch_add(seconds, SeqCst);
        }
    }

    impl Clock for Stopped {
        fn now(&self) -> UnixTime {
            now()
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(SeqCst))
        }
    }

    type Resolved = Result<Option<Issuer>, ResolveError>;

    /// Answers by a function, behind a gate, and counts.
    struct Store {
        answer: Box<dyn Fn(&str) -> Resolved + Send + Sync>,
        gate: Semaphore,
        asked: AtomicUsize,
        running: AtomicUsize,
        most: AtomicUsize,
    }

    impl Store {
        fn new(answer: impl Fn(&str) -> Resolved + Send + Sync + 'static) -> Arc<Self> {
            let store = Self::shut(answer);
            store.gate.close();
            store
        }

        /// Answers nobody until the gate opens.
        fn shut(answer: impl Fn(&str) -> Resolved + Send + Sync + 'static) -> Arc<Self> {
            let (asked, running, most) = Default::default();
            Arc::new(Self { answer: Box::new(answer), gate: Semaphore::new(0), asked, running, most })
        }

        /// Knows every issuer of `tenants.example`.
        fn of_tenants() -> Arc<Self> {
            Self::new(|name| Ok(name.ends_with(".tenants.example").then(|| tenant(name))))
        }

        fn asked(&self) -> usize {
            self.asked.load(SeqCst)
        }
    }

    #[async_trait]
    impl ResolveIssuer for Store {
        async fn resolve(self: Arc<Self>, request: ResolveRequest) -> Resolved {
            self.asked.fetch_add(1, SeqCst);
            let running = self.running.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(running, SeqCst);
            let _closed_when_open = self.gate.acquire().await;
            self.running.fetch_sub(1, SeqCst);
            (self.answer)(&request.claimed_issuer)
        }
    }

    fn tenant(url: &str) -> Issuer {
        Issuer::oauth(url, "https://api.example").with_keys(public_keys())
    }

    fn issuers(store: &Arc<Store>) -> ResolvedIssuers {
        ResolvedIssuers::new(Arc::clone(store))
    }

    fn resolving(store: &Arc<Store>, clock: &Stopped) -> VerifierBuilder {
        Verifier::resolving(issuers(store)).with_clock(clock.clone())
    }

    fn tenants(issuers: ResolvedIssuers, clock: &Stopped) -> Arc<Directory> {
        Directory::new(issuers, Arc::new(clock.clone()), None).unwrap()
    }

    fn url(number: impl std::fmt::Display) -> String {
        format!("https://t{number}.tenants.example")
    }

    fn claims(issuer: &str) -> Value {
        json!({"iss": issuer, "aud": "https://api.example", "sub": "u1", "exp": NOW + 600})
    }

    fn of(issuer: &str) -> AccessToken {
        token(&claims(issuer))
    }

    /// In good form, and signed by nobody.
    fn forged(issuer: &str) -> AccessToken {
        let header = json!({"alg": "Ed25519", "kid": "Ed25519"}).to_string();
        let good = seal(Algorithm::Ed25519, header, claims(issuer).to_string());
        let text = String::from_utf8(good.as_bytes().to_vec()).unwrap();
        AccessToken::new(format!("{}.AAAA", text.rsplit_once('.').unwrap().0)).unwrap()
    }

    async fn refused(verifier: &Verifier, token: &AccessToken) -> Option<TokenError> {
        verifier.verify(token, now()).await.err()
    }

    const UNAVAILABLE: TokenError = TokenError::KeysUnavailable(KeyErrorKind::Unavailable);

    /// Lets the tasks in the background come to their end.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_issuer_is_looked_up_once_and_then_known_at_once() {
        let (store, clock) = (Store::of_tenants(), Stopped::default());
        let verifier = resolving(&store, &clock).build().unwrap();
        assert!(verifier.verify_now(&of(&url(1)), now()).is_none(), "the look-up has to be waited for");
        assert_eq!(store.asked(), 0);
        let verified = verifier.verify(&of(&url(1)), now()).await.unwrap();
        assert_eq!(verified.issuer().as_str(), url(1));
        assert!(verifier.verify_now(&of(&url(1)), now()).unwrap().is_ok());
        assert_eq!(refused(&verifier, &forged(&url(1))).await, Some(TokenError::Signature));
        assert_eq!(store.asked(), 1);
        assert_eq!((verifier.issuers().count(), verifier.health()), (0, Health::Ready));
    }

    #[tokio::test]
    async fn a_configured_issuer_goes_first_and_its_name_never_reaches_the_resolver() {
        let store = Store::new(|_| panic!("asked"));
        let verifier = Verifier::builder(tenant("https://own.example")).with_resolved_issuers(issuers(&store));
        let verifier = verifier.build().unwrap();
        assert!(verifier.verify(&of("https://own.example"), now()).await.is_ok());
        assert_eq!(refused(&verifier, &forged("https://own.example")).await, Some(TokenError::Signature));
        assert_eq!(store.asked(), 0);
    }

    #[tokio::test]
    async fn a_revocation_holds_for_an_issuer_that_is_looked_up_however_often_it_is() {
        let (store, revocations) = (Store::of_tenants(), RevocationList::new());
        let verifier = Verifier::resolving(issuers(&store).with_max_issuers(1)).with_clock(Stopped::default());
        let verifier = verifier.with_revocations(revocations.clone()).build().unwrap();
        // Before it was ever looked up as well: a revocation knows names, not issuers.
        let subject = Revocation::subject(&IssuerId::new(url(1)), &Subject::new("u1"), now());
        revocations.revoke(&subject, now()).unwrap();
        for looked_up in 1..4 {
            assert_eq!(refused(&verifier, &of(&url(1))).await, Some(TokenError::Revoked), "{looked_up}");
            assert_eq!(verifier.verify_now(&of(&url(1)), now()).unwrap().err(), Some(TokenError::Revoked));
            assert_eq!(refused(&verifier, &of(&url(2))).await, None, "the same subject of another issuer");
            assert!(verifier.verify_now(&of(&url(1)), now()).is_none(), "pushed out");
            assert_eq!(store.asked(), 2 * looked_up);
        }
        assert!(revocations.forget(&subject));
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);
    }

    #[tokio::test]
    async fn an_actor_of_an_issuer_that_is_looked_up_goes_by_all_its_names() {
        let store = Store::new(|name| Ok(Some(tenant(name).add_alias("https://alias.example"))));
        let revocations = RevocationList::new();
        let verifier = resolving(&store, &Stopped::default()).with_revocations(revocations.clone()).build().unwrap();
        assert!(verifier.resolves());
        let agent = Revocation::subject(&IssuerId::new("https://alias.example"), &Subject::new("agent"), now());
        revocations.revoke(&agent, now()).unwrap();
        let delegated = token(&with(&claims(&url(1)), json!({"act": {"sub": "agent", "iss": url(1)}})));
        assert_eq!(refused(&verifier, &delegated).await, Some(TokenError::Revoked));
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);
    }

    #[tokio::test]
    async fn what_no_issuer_is_called_is_not_looked_up() {
        let store = Store::new(|_| panic!("asked"));
        let verifier = resolving(&store, &Stopped::default()).build().unwrap();
        for name in ["".to_owned(), " ".to_owned(), "a\nb".to_owned(), "\0".to_owned(), "x".repeat(MAX_NAME + 1)] {
            assert_eq!(refused(&verifier, &of(&name)).await, Some(TokenError::UnknownIssuer), "{name:?}");
        }
        for odd in [json!(null), json!(7), json!(["https://t1.tenants.example"])] {
            let odd = token(&with(&claims(""), json!({"iss": odd})));
            assert_eq!(refused(&verifier, &odd).await, Some(TokenError::UnknownIssuer));
        }
        assert_eq!(store.asked(), 0);
    }

    #[tokio::test]
    async fn a_trust_domain_can_be_a_tenant() {
        let answer = |name: &str| {
            Ok((name == "spiffe://prod.example")
                .then(|| Issuer::spiffe("prod.example", "api").with_keys(public_keys())))
        };
        let (store, clock) = (Store::new(answer), Stopped::default());
        let verifier = resolving(&store, &clock).build().unwrap();
        let svid = |sub: &str| {
            let claims = json!({"sub": sub, "aud": ["api"], "exp": NOW + 300});
            seal(Algorithm::Es256, r#"{"alg":"ES256","kid":"ES256"}"#, claims.to_string())
        };
        assert_eq!(refused(&verifier, &svid("spiffe://prod.example/web")).await, None);
        assert_eq!(refused(&verifier, &svid("spiffe://evil.example/web")).await, Some(TokenError::UnknownIssuer));
        // The subject of an issuer of another kind names nobody.
        let store = Store::new(|name| Ok(Some(Issuer::oauth(name, "api"))));
        let verifier = resolving(&store, &clock).build().unwrap();
        assert_eq!(refused(&verifier, &svid("spiffe://prod.example/web")).await, Some(UNAVAILABLE));
    }

    /// Keys that know how many of their kind are alive.
    struct Counted(JwkSet, Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(1, SeqCst);
        }
    }

    #[async_trait]
    impl KeySource for Counted {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            Ok(LoadedKeys::new(self.0.clone()))
        }

        fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
            Some(Ok(LoadedKeys::new(self.0.clone())))
        }
    }

    #[tokio::test]
    async fn a_million_tenants_fit_in_bounded_memory_and_come_back_when_they_are_needed() {
        let keys: JwkSet = [public_key(Algorithm::Es256)].into_iter().collect();
        let live = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&live);
        let store = Store::new(move |name| {
            counter.fetch_add(1, SeqCst);
            Ok(Some(Issuer::oauth(name, "api").with_key_source(Counted(keys.clone(), Arc::clone(&counter)))))
        });
        let tenants = tenants(issuers(&store), &Stopped::default());
        // Unoptimised, a tenth of them takes seconds and the whole a minute.
        let million = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
        for number in 0..million {
            assert!(tenants.resolve(url(number).into()).await.is_ok());
            let alive = live.load(SeqCst);
            assert!(alive <= 1_025, "{alive} are alive after {number}");
        }
        assert_eq!((store.asked(), tenants.sizes()), (million, [1_024, 0, 0, 0]));
        let gone = (0..million).rev().find(|number| tenants.find(&url(number)).is_none()).unwrap();
        assert!(tenants.resolve(url(gone).into()).await.is_ok());
        assert_eq!(store.asked(), million + 1);
    }

    #[tokio::test]
    async fn made_up_tokens_in_the_names_of_real_tenants_push_out_each_other() {
        let (store, clock) = (Store::of_tenants(), Stopped::default());
        let verifier = Verifier::resolving(issuers(&store).with_max_issuers(8)).with_clock(clock).build().unwrap();
        for number in 0..8 {
            assert_eq!(refused(&verifier, &of(&url(number))).await, None);
        }
        for number in 100..1_100 {
            assert_eq!(refused(&verifier, &forged(&url(number))).await, Some(TokenError::Signature));
        }
        let asked = store.asked();
        for number in 1..8 {
            assert!(verifier.verify_now(&of(&url(number)), now()).is_some_and(|verified| verified.is_ok()), "{number}");
        }
        assert_eq!(store.asked(), asked, "one place is all that strangers get");
        // And a tenant that proves itself stays.
        assert_eq!(refused(&verifier, &of(&url(9))).await, None);
        assert_eq!(refused(&verifier, &forged(&url(2_000))).await, Some(TokenError::Signature));
        assert!(verifier.verify_now(&of(&url(9)), now()).is_some());
    }

    #[tokio::test]
    async fn a_tenant_that_was_pushed_out_while_its_token_was_verified_stays() {
        let (store, clock) = (Store::of_tenants(), Stopped::default());
        let tenants = tenants(issuers(&store).with_max_issuers(2), &clock);
        assert!(tenants.resolve(url(2).into()).await.is_ok());
        let mine = tenants.resolve(url(1).into()).await.unwrap();
        assert!(tenants.resolve(url(3).into()).await.is_ok());
        assert!(tenants.find(&url(1)).is_none());
        tenants.confirm(&mine);
        assert!(tenants.find(&url(1)).is_some());
        // Not so once its life is over.
        tenants.lock().known.clear();
        clock.pass(300);
        tenants.confirm(&mine);
        assert_eq!(tenants.sizes(), [0; 4]);
    }

    #[tokio::test]
    async fn ten_thousand_unknown_issuers_cost_at_most_the_cap_and_are_never_called_unknown_unasked() {
        let (store, clock) = (Store::shut(|_| Ok(None)), Stopped::default());
        let tenants = tenants(issuers(&store), &clock);
        let mut waiting = JoinSet::new();
        for number in 0..10_000 {
            let tenants = Arc::clone(&tenants);
            waiting.spawn(async move { tenants.resolve(url(number).into()).await.err() });
        }
        for _ in 0..10_000 - 64 {
            let refusal = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(refusal, Some(Refusal::Unavailable(KeyErrorKind::Unavailable)));
        }
        settle().await;
        assert_eq!((store.asked(), store.most.load(SeqCst), tenants.sizes()), (64, 64, [0, 0, 64, 64]));
        store.gate.close();
        for _ in 0..64 {
            assert_eq!(waiting.join_next().await.unwrap().unwrap(), Some(Refusal::Unknown));
        }
        assert_eq!((store.asked(), tenants.sizes()), (64, [0, 64, 0, 0]));
    }

    #[tokio::test]
    async fn unknown_names_are_remembered_for_a_while_in_bounded_memory_and_not_as_text() {
        let (store, clock) = (Store::new(|_| Ok(None)), Stopped::default());
        let tenants = tenants(issuers(&store), &clock);
        for number in 0..20_000 {
            assert_eq!(tenants.resolve(url(number).into()).await.err(), Some(Refusal::Unknown));
        }
        assert_eq!(tenants.sizes(), [0, MAX_REFUSED, 0, 0]);
        assert!(matches!(tenants.find(&url(19_999)), Some(Err(Refusal::Unknown))));
        assert!(tenants.find(&url(0)).is_none(), "the oldest is forgotten");
        clock.pass(29);
        assert!(tenants.find(&url(19_999)).is_some());
        clock.pass(1);
        assert!(tenants.find(&url(19_999)).is_none());
    }

    #[tokio::test]
    async fn one_look_up_serves_all_who_wait_and_outlives_the_request_that_started_it() {
        let (store, clock) = (Store::shut(|name| Ok(Some(tenant(name)))), Stopped::default());
        let verifier = resolving(&store, &clock).build().unwrap();
        let first = tokio::spawn({
            let (verifier, token) = (verifier.clone(), of(&url(1)));
            async move { verifier.verify(&token, now()).await.map(|_| ()) }
        });
        settle().await;
        let mut waiting = JoinSet::new();
        for _ in 0..100 {
            let (verifier, token) = (verifier.clone(), of(&url(1)));
            waiting.spawn(async move { verifier.verify(&token, now()).await.is_ok() });
        }
        settle().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        store.gate.close();
        assert!(waiting.join_all().await.into_iter().all(|is_ok| is_ok));
        assert_eq!(store.asked(), 1);
    }

    #[tokio::test]
    async fn a_tenant_that_was_removed_stops_verifying_within_one_lifetime() {
        let is_there = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let flag = Arc::clone(&is_there);
        let store = Store::new(move |name| Ok(flag.load(SeqCst).then(|| tenant(name))));
        let clock = Stopped::default();
        let verifier = resolving(&store, &clock).build().unwrap();
        let tokens = [of(&url(1)), of(&url(2))];
        for token in &tokens {
            assert_eq!(refused(&verifier, token).await, None);
        }
        is_there.store(false, SeqCst);
        clock.pass(239);
        assert_eq!(refused(&verifier, &tokens[0]).await, None);
        assert_eq!(store.asked(), 2);
        clock.pass(1);
        assert_eq!(refused(&verifier, &tokens[0]).await, None, "looked up again without anybody waiting");
        settle().await;
        assert_eq!(store.asked(), 3);
        assert_eq!(refused(&verifier, &tokens[0]).await, Some(TokenError::UnknownIssuer));
        clock.pass(60);
        assert!(verifier.verify_now(&tokens[1], now()).is_none(), "also where nobody asked in between");
        assert_eq!(refused(&verifier, &tokens[1]).await, Some(TokenError::UnknownIssuer));
    }

    #[tokio::test]
    async fn a_store_that_is_down_costs_no_known_tenant_its_life_and_is_asked_once_a_second() {
        let is_down = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = Arc::clone(&is_down);
        let store = Store::new(move |name| match flag.load(SeqCst) {
            true => Err(ResolveError::unavailable("down")),
            false => Ok(Some(tenant(name))),
        });
        let clock = Stopped::default();
        let verifier = resolving(&store, &clock).build().unwrap();
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);
        is_down.store(true, SeqCst);
        clock.pass(240);
        for _ in 0..10 {
            assert_eq!(refused(&verifier, &of(&url(1))).await, None);
            settle().await;
        }
        assert_eq!(store.asked(), 2);
        clock.pass(59);
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);
        settle().await;
        assert_eq!(store.asked(), 3);
        clock.pass(1);
        for _ in 0..10 {
            assert_eq!(refused(&verifier, &of(&url(1))).await, Some(UNAVAILABLE), "closed, and our fault");
        }
        assert_eq!(store.asked(), 4);
        is_down.store(false, SeqCst);
        clock.pass(1);
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);
    }

    #[tokio::test]
    async fn known_tenants_are_looked_up_again_whatever_strangers_do() {
        let clock = Stopped::default();
        clock.pass(300);
        let shut = Store::shut(|name| Ok(Some(tenant(name))));
        let tenants = tenants(issuers(&shut).with_max_concurrent(1), &clock);
        tenants.lock().known.put(IssuerId::new(url(1)), {
            let issuer = tenant(&url(1));
            let origin = issuer.key_origin();
            let trusted = Trusted::renewed(issuer, origin, &tenants.clock, None, None).unwrap();
            let (renew_at, until) = (Duration::ZERO, Duration::from_secs(1));
            Arc::new(Tenant { id: IssuerId::new(url(1)), trusted: Arc::new(trusted), renew_at, until })
        });
        let resolve = |number| {
            tokio::spawn({
                let tenants = Arc::clone(&tenants);
                async move { tenants.resolve(url(number).into()).await.err() }
            })
        };
        let stranger = resolve(7);
        settle().await;
        assert_eq!(resolve(8).await.unwrap(), Some(Refusal::Unavailable(KeyErrorKind::Unavailable)), "no room");
        let known = resolve(1);
        settle().await;
        assert_eq!(shut.asked(), 2);
        shut.gate.close();
        assert_eq!((stranger.await.unwrap(), known.await.unwrap()), (None, None));
    }

    /// Waits for ever.
    struct Stuck;

    #[async_trait]
    impl KeySource for Stuck {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn the_broken_keys_of_one_tenant_delay_no_other() {
        let store = Store::new(|name| {
            Ok(Some(if name == url(1) { tenant(name).with_key_source(Stuck) } else { tenant(name) }))
        });
        let verifier = resolving(&store, &Stopped::default()).build().unwrap();
        let stuck = tokio::spawn({
            let (verifier, token) = (verifier.clone(), of(&url(1)));
            async move { verifier.verify(&token, now()).await.map(|_| ()) }
        });
        settle().await;
        for number in 2..100 {
            assert_eq!(refused(&verifier, &of(&url(number))).await, None);
        }
        assert!(!stuck.is_finished());
        assert_eq!(verifier.health(), Health::Ready);
        stuck.abort();
    }

    #[tokio::test]
    async fn two_tenants_with_the_same_kid_never_share_a_key() {
        let store = Store::new(|name| {
            let key = if name == url(1) { Algorithm::Ed25519 } else { Algorithm::Es256 };
            Ok(Some(tenant(name).with_keys([public_key(key)].into_iter().collect())))
        });
        let verifier = resolving(&store, &Stopped::default()).build().unwrap();
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);
        assert_eq!(refused(&verifier, &of(&url(2))).await, Some(TokenError::UnknownKey));
    }

    /// Loads its keys in the background, and counts how often.
    struct Slow(AtomicUsize);

    #[async_trait]
    impl KeySource for Slow {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            self.0.fetch_add(1, SeqCst);
            Ok(LoadedKeys::new(public_keys()))
        }
    }

    #[tokio::test]
    async fn rules_are_renewed_and_keys_from_the_same_place_are_kept() {
        let slow = Arc::new(Slow(AtomicUsize::new(0)));
        let kept = Issuer::oauth(url(1), "https://api.example").with_key_source(Arc::clone(&slow));
        let answers = AtomicUsize::new(0);
        let store = Store::new(move |_| {
            let issuer = kept.clone();
            Ok(Some(if answers.fetch_add(1, SeqCst) == 0 {
                issuer
            } else {
                issuer.add_audience("https://new.example")
            }))
        });
        let clock = Stopped::default();
        let verifier = resolving(&store, &clock).build().unwrap();
        let newer = token(&with(&claims(&url(1)), json!({"aud": "https://new.example"})));
        assert_eq!(refused(&verifier, &newer).await, Some(TokenError::Audience));
        clock.pass(240);
        assert_eq!(refused(&verifier, &newer).await, Some(TokenError::Audience));
        settle().await;
        assert_eq!(refused(&verifier, &newer).await, None);
        assert_eq!((store.asked(), slow.0.load(SeqCst)), (2, 1));
    }

    #[tokio::test]
    async fn other_settings_of_the_key_cache_take_effect_with_the_next_look_up() {
        let slow = Arc::new(Slow(AtomicUsize::new(0)));
        let kept = Issuer::oauth(url(1), "https://api.example").with_key_source(Arc::clone(&slow));
        let answers = AtomicUsize::new(0);
        let store = Store::new(move |_| {
            let floor = Duration::from_secs(if answers.fetch_add(1, SeqCst) < 2 { 30 } else { 5 });
            Ok(Some(kept.clone().with_key_cache(CacheSettings::default().with_unknown_kid_floor(floor))))
        });
        let clock = Stopped::default();
        let verifier = resolving(&store, &clock).build().unwrap();
        for (look_ups, loads) in [(1, 1), (2, 1), (3, 2)] {
            assert_eq!(refused(&verifier, &of(&url(1))).await, None);
            assert_eq!((store.asked(), slow.0.load(SeqCst)), (look_ups, loads));
            let metrics = verifier.resolved_metrics().unwrap();
            assert_eq!((metrics.known, metrics.refused, metrics.in_flight), (1, 0, 0));
            clock.pass(300);
        }
    }

    #[cfg(feature = "remote-jwks")]
    #[tokio::test]
    async fn keys_with_an_address_are_fetched_through_the_one_client_and_kept_across_renewals() {
        let fetched = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&fetched);
        let client = tower::service_fn(move |request: http::Request<bytes::Bytes>| {
            log.lock().unwrap().push(request.uri().to_string());
            async { Ok::<_, crate::outbound::OutboundError>(http::Response::new(bytes::Bytes::from_static(KEYS))) }
        });
        const KEYS: &[u8] =
            br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let keys = |name: &str| format!("{name}/jwks.json");
        let store =
            Store::new(move |name| Ok(Some(Issuer::oauth(name, "https://api.example").with_jwks_url(keys(name)))));
        let clock = Stopped::default();
        let issuers = issuers(&store).with_outbound(Outbound::new(client));
        let verifier = Verifier::resolving(issuers).with_clock(clock.clone()).build().unwrap();
        for pass in [0, 240, 0] {
            clock.pass(pass);
            for number in [1, 2] {
                assert_eq!(refused(&verifier, &of(&url(number))).await, Some(TokenError::Signature));
            }
            settle().await;
        }
        assert_eq!((store.asked(), &*fetched.lock().unwrap()), (4, &vec![keys(&url(1)), keys(&url(2))]));
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_a_resolver_does_wrong_is_our_fault_and_logged_without_the_claimed_name() {
        const CANARY: &str = "https://canary.example";
        type Answers = fn(&str) -> Resolved;
        let rows: [(&str, Answers, TokenError, &str); 7] = [
            ("down", |_| Err(ResolveError::unavailable("no route\nto host")), UNAVAILABLE, "no route\\\\nto host"),
            ("panics", |_| panic!("odd"), UNAVAILABLE, "panicked"),
            ("another issuer", |_| Ok(Some(tenant("https://other.example"))), UNAVAILABLE, "another issuer"),
            ("a slash more", |name| Ok(Some(tenant(&format!("{name}/")))), UNAVAILABLE, "another issuer"),
            ("no algorithm", |name| Ok(Some(tenant(name).with_algorithms([]))), UNAVAILABLE, "issuer.algorithms"),
            ("no keys", |name| Ok(Some(tenant(name).with_keys(JwkSet::default()))), UNAVAILABLE, "key.source"),
            ("blank audience", |name| Ok(Some(tenant(name).add_audience(""))), UNAVAILABLE, "issuer.audience"),
        ];
        for (name, answer, error, words) in rows {
            let written = Written::default();
            let writer = written.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            let _kept = tracing::subscriber::set_default(subscriber);
            let (store, clock) = (Store::new(answer), Stopped::default());
            let verifier = resolving(&store, &clock).build().unwrap();
            for _ in 0..5 {
                assert_eq!(refused(&verifier, &of(CANARY)).await, Some(error.clone()), "{name}");
            }
            assert_eq!(store.asked(), 1, "{name}: not asked again at once");
            clock.pass(1);
            assert_eq!(refused(&verifier, &of(CANARY)).await, Some(error), "{name}");
            assert_eq!(store.asked(), 2, "{name}");
            let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert!(log.contains(words) && log.contains("issuer_sha256"), "{name}: {log}");
            assert!(!log.contains("canary"), "{name}: {log}");
        }

        let (store, clock) = (Store::shut(|_| Ok(None)), Stopped::default());
        let hasty = issuers(&store).with_deadline(Duration::from_millis(20));
        let verifier = Verifier::resolving(hasty).with_clock(clock).build().unwrap();
        let late = refused(&verifier, &of(CANARY)).await;
        assert_eq!(late, Some(TokenError::KeysUnavailable(KeyErrorKind::Timeout)), "past the deadline");
    }

    #[tokio::test]
    async fn a_flood_of_failures_is_one_line_a_second() {
        let mut complaint = Complaint::default();
        let said: Vec<_> = (0..3_000).filter_map(|millis| complaint.speak(Duration::from_millis(millis))).collect();
        assert_eq!(said, [0, 999, 999]);
    }

    #[test]
    fn outside_a_runtime_nothing_builds() {
        let store = Store::of_tenants();
        let error = Verifier::resolving(issuers(&store)).build().unwrap_err();
        assert!(matches!(error, ConfigError::NoRuntime { part: "resolved_issuers" }), "{error}");
    }

    #[tokio::test]
    async fn bounds_are_checked_while_building() {
        let store = Store::of_tenants();
        let error = Verifier::resolving(issuers(&store).with_max_issuers(0)).build().unwrap_err();
        assert_eq!(error.field(), "resolved_issuers.max_issuers");
    }
}
