mod flight;
mod loads;
mod shelf;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch};

use self::{
    flight::Flight,
    loads::{KeyLoads, Loads},
    shelf::Shelf,
};
use super::{ResolveIssuer, ResolvedIssuers, ResolvedMetrics, TokenError, resolve::Settings, trusted::Trusted};
use crate::{ConfigError, complaint::Complaint, error, key::KeyErrorKind, principal::IssuerId, time::Clock};

/// The issuers that were looked up, and the look-ups under way: what [`ResolvedIssuers`] promises.
pub(super) struct Directory {
    resolver: Arc<dyn ResolveIssuer>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// The longest life of a token that the list of revocations is good for.
    revocable: Option<Duration>,
    runtime: Handle,
    key_loads: KeyLoads,
    crowded: Complaint,
    failed: Complaint,
    /// Never held while anything of the application runs: what is pushed out is dropped, and what is logged said, without it.
    state: Mutex<State>,
}

/// An issuer that the resolver vouched for.
pub(super) struct Tenant {
    /// The name that was asked for: one of those that the issuer has.
    pub(super) id: IssuerId,
    pub(super) trusted: Arc<Trusted>,
    loads: Arc<Loads>,
    /// How long after a load nobody may cause another one by having the issuer pushed out.
    key_floor: Duration,
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
    shelf: Shelf,
    /// Holds attacker text, of at most the permitted number of look-ups and for their deadline.
    flights: HashMap<Arc<str>, Landing>,
    /// How many of the flights are for names in which no token ever verified: those that any caller can start.
    strangers: usize,
}

type Landing = watch::Receiver<Option<Answer>>;

/// So many look-ups are under way that there is no room for another one.
struct Crowded(usize);

impl Directory {
    pub(super) fn new(
        issuers: ResolvedIssuers,
        clock: Arc<dyn Clock>,
        revocable: Option<Duration>,
    ) -> Result<Arc<Self>, ConfigError> {
        let settings = issuers.settings;
        settings.check()?;
        let key_loads = KeyLoads::new(
            settings.max_concurrent,
            Arc::clone(&clock),
            #[cfg(feature = "remote-jwks")]
            issuers.outbound,
        );
        let state = State { shelf: Shelf::new(&settings), flights: HashMap::new(), strangers: 0 };
        Ok(Arc::new(Self {
            resolver: issuers.resolver,
            settings,
            clock,
            revocable,
            runtime: error::runtime("resolved_issuers")?,
            key_loads,
            crowded: Complaint::default(),
            failed: Complaint::default(),
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
        let found = state.shelf.look(name, now);
        let renewal = match &found {
            Some(Ok(tenant)) if tenant.renew_at <= now && !state.flights.contains_key(name) => {
                // A renewal that just failed is not tried with every request, and one that finds no room is tried with the next.
                let is_due = state.shelf.refusal(name, now).is_none();
                is_due.then(|| self.prepare(&mut state, name.into()))
            }
            _ => None,
        };
        drop(state);
        match renewal {
            Some(Ok((flight, _))) => drop(self.runtime.spawn(flight.run())),
            Some(Err(crowded)) => self.complain(crowded, now),
            None => {}
        }
        found
    }

    /// Waits for the look-up of a name: the one that is under way, or one of its own. Dropping the future cancels nothing.
    pub(super) async fn resolve(self: &Arc<Self>, name: Arc<str>) -> Answer {
        const UNAVAILABLE: Answer = Err(Refusal::Unavailable(KeyErrorKind::Unavailable));
        let now = self.clock.elapsed();
        let prepared = {
            let mut state = self.lock();
            if let Some(answer) = state.shelf.look(&name, now) {
                return answer;
            }
            match state.flights.get(&name) {
                Some(landing) => Ok((None, landing.clone())),
                None => self.prepare(&mut state, name).map(|(flight, landing)| (Some(flight), landing)),
            }
        };
        let (flight, mut landing) = match prepared {
            Ok(prepared) => prepared,
            Err(crowded) => {
                self.complain(crowded, now);
                return UNAVAILABLE;
            }
        };
        if let Some(flight) = flight {
            // Outside of the lock: a runtime that shuts down drops the flight here and now, and its end takes the lock.
            self.runtime.spawn(flight.run());
        }
        // The answer travels to those who wait: by now the issuer may have been pushed out again.
        let answer = landing.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or(UNAVAILABLE)
    }

    /// A token of this issuer was verified: it is in use.
    pub(super) fn confirm(&self, tenant: &Arc<Tenant>) {
        let now = self.clock.elapsed();
        let gone = self.lock().shelf.confirm(tenant, now);
        drop(gone);
    }

    pub(super) fn metrics(&self) -> ResolvedMetrics {
        let state = self.lock();
        let (known, refused) = (state.shelf.issuers(), state.shelf.refused());
        ResolvedMetrics { known, refused, in_flight: state.flights.len() }
    }

    /// Registers a look-up. The caller spawns it, or complains, once it has let go of the lock.
    fn prepare(self: &Arc<Self>, state: &mut State, name: Arc<str>) -> Result<(Flight, Landing), Crowded> {
        let is_stranger = !state.shelf.is_proven(&name);
        let (strangers, all) = (state.strangers, state.flights.len());
        let under_way = if is_stranger { strangers } else { all - strangers };
        if under_way >= self.settings.max_concurrent {
            return Err(Crowded(under_way));
        }
        let (tell, landing) = watch::channel(None);
        state.strangers += usize::from(is_stranger);
        state.flights.insert(Arc::clone(&name), landing.clone());
        Ok((Flight::new(Arc::clone(self), name, is_stranger, tell), landing))
    }

    fn complain(&self, Crowded(under_way): Crowded, now: Duration) {
        if let Some(unsaid) = self.crowded.speak(now) {
            tracing::warn!(under_way, unsaid, "too many issuers are being looked up: answered as unavailable");
        }
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

/// What no issuer is called need not be looked up.
fn can_be_a_name(name: &str) -> bool {
    name.len() <= MAX_NAME && !name.trim().is_empty() && !name.contains(char::is_control)
}

/// In bytes: longer than any address that is of use.
const MAX_NAME: usize = 2_048;

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    };

    use async_trait::async_trait;
    use serde_json::{Value, json};
    use tokio::{sync::Semaphore, task::JoinSet};

    use super::{shelf::MAX_NAMES, *};
    use crate::{
        health::Health,
        key::{Algorithm, CacheSettings, JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys},
        principal::Subject,
        revocation::{Revocation, RevocationList},
        time::UnixTime,
        token::{
            AccessToken, Issuer, ResolveError, ResolveRequest, Verifier, VerifierBuilder,
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
            assert!(alive <= 65, "{alive} are alive after {number}");
        }
        assert_eq!((store.asked(), tenants.sizes()), (million, [64, 0, 0, 0]));
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
        for number in 0..8 {
            assert!(verifier.verify_now(&of(&url(number)), now()).is_some_and(|verified| verified.is_ok()), "{number}");
        }
        assert_eq!(store.asked(), asked, "nobody in use was pushed out");
        assert_eq!(verifier.resolved_metrics().unwrap().known, 16);
        // And a tenant that proves itself stays, in the place of the one that did so longest ago.
        assert_eq!(refused(&verifier, &of(&url(9))).await, None);
        for number in 2_000..2_010 {
            assert_eq!(refused(&verifier, &forged(&url(number))).await, Some(TokenError::Signature));
        }
        assert!(verifier.verify_now(&of(&url(9)), now()).is_some());
        assert!(verifier.verify_now(&of(&url(0)), now()).is_none());
    }

    #[tokio::test]
    async fn a_tenant_that_was_pushed_out_while_its_token_was_verified_stays() {
        let (store, clock) = (Store::of_tenants(), Stopped::default());
        let tenants = tenants(issuers(&store).with_max_issuers(2), &clock);
        let mine = tenants.resolve(url(1).into()).await.unwrap();
        let late = tenants.resolve(url(2).into()).await.unwrap();
        for number in 3..11 {
            assert!(tenants.resolve(url(number).into()).await.is_ok());
        }
        assert!(tenants.find(&url(1)).is_none());
        tenants.confirm(&mine);
        assert!(tenants.find(&url(1)).is_some());
        // Not so once its life is over.
        clock.pass(300);
        tenants.confirm(&late);
        assert_eq!(tenants.sizes(), [9, 0, 0, 0]);
        assert!(tenants.find(&url(2)).is_none());
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
        for _ in 0..10_000 - 16 {
            let refusal = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(refusal, Some(Refusal::Unavailable(KeyErrorKind::Unavailable)));
        }
        settle().await;
        assert_eq!((store.asked(), store.most.load(SeqCst), tenants.sizes()), (16, 16, [0, 0, 16, 16]));
        store.gate.close();
        for _ in 0..16 {
            assert_eq!(waiting.join_next().await.unwrap().unwrap(), Some(Refusal::Unknown));
        }
        assert_eq!((store.asked(), tenants.sizes()), (16, [0, 16, 0, 0]));
    }

    #[tokio::test]
    async fn unknown_names_are_remembered_for_a_while_in_bounded_memory_and_not_as_text() {
        let (store, clock) = (Store::new(|_| Ok(None)), Stopped::default());
        let tenants = tenants(issuers(&store), &clock);
        for number in 0..20_000 {
            assert_eq!(tenants.resolve(url(number).into()).await.err(), Some(Refusal::Unknown));
        }
        assert_eq!(tenants.sizes(), [0, MAX_NAMES, 0, 0]);
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
        let shut = Store::shut(|name| Ok(Some(tenant(name))));
        let tenants = tenants(issuers(&shut).with_max_concurrent(1), &clock);
        shut.gate.add_permits(1);
        let known = tenants.resolve(url(1).into()).await.unwrap();
        tenants.confirm(&known);
        shut.gate.forget_permits(1);
        clock.pass(300);
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
        assert_eq!(shut.asked(), 3);
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
        let issuers = issuers(&store).with_outbound(crate::outbound::Outbound::new(client));
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

    /// Writes down what this thread logs.
    fn logging<W: io::Write>(
        writer: impl Fn() -> W + Send + Sync + 'static,
    ) -> (tracing::Dispatch, tracing::subscriber::DefaultGuard) {
        // While there is one subscriber alone, a line that another thread comes to first is switched off for all of them.
        let other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        (other, tracing::subscriber::set_default(subscriber))
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
            let _kept = logging(move || writer.clone());
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

    /// Keys that are loaded behind a gate, for any number of issuers.
    struct Gated {
        gate: Semaphore,
        loads: AtomicUsize,
        running: AtomicUsize,
        most: AtomicUsize,
        answer: fn() -> Result<LoadedKeys, KeyError>,
    }

    impl Gated {
        fn shut(answer: fn() -> Result<LoadedKeys, KeyError>) -> Arc<Self> {
            let (loads, running, most) = Default::default();
            Arc::new(Self { gate: Semaphore::new(0), loads, running, most, answer })
        }

        fn open(answer: fn() -> Result<LoadedKeys, KeyError>) -> Arc<Self> {
            let gated = Self::shut(answer);
            gated.gate.close();
            gated
        }

        /// Loads so far, those that run, and the most that ever did.
        fn counts(&self) -> [usize; 3] {
            [&self.loads, &self.running, &self.most].map(|count| count.load(SeqCst))
        }

        /// Knows everybody, and no key of theirs twice.
        fn store(self: &Arc<Self>, change: impl Fn(Issuer) -> Issuer + Send + Sync + 'static) -> Arc<Store> {
            let keys = Arc::clone(self);
            Store::new(move |name| Ok(Some(change(tenant(name).with_key_source(Arc::clone(&keys))))))
        }
    }

    #[async_trait]
    impl KeySource for Gated {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            self.loads.fetch_add(1, SeqCst);
            self.most.fetch_max(self.running.fetch_add(1, SeqCst) + 1, SeqCst);
            let _closed_when_open = self.gate.acquire().await;
            self.running.fetch_sub(1, SeqCst);
            (self.answer)()
        }
    }

    fn good_keys() -> Result<LoadedKeys, KeyError> {
        Ok(LoadedKeys::new(public_keys()))
    }

    #[tokio::test]
    async fn however_often_its_name_comes_an_issuer_that_nobody_confirmed_has_its_keys_loaded_once_per_floor() {
        let (keys, clock) = (Gated::open(good_keys), Stopped::default());
        let store = keys.store(|issuer| issuer);
        let verifier = Verifier::resolving(issuers(&store).with_max_issuers(1)).with_clock(clock.clone());
        let verifier = verifier.build().unwrap();
        for (pass, loads) in [(0, 20), (29, 20), (1, 40), (0, 40)] {
            clock.pass(pass);
            let mut refusals = Vec::new();
            for number in (0..20).cycle().take(200) {
                refusals.extend(refused(&verifier, &forged(&url(number))).await);
            }
            assert!(refusals.iter().all(|error| [UNAVAILABLE, TokenError::Signature].contains(error)));
            assert_eq!((store.asked(), keys.counts()[0]), (loads, loads), "after {pass} s more");
        }
        assert_eq!(verifier.resolved_metrics().unwrap().known, 8);
        // Who waits out the floor is served as ever.
        clock.pass(30);
        assert_eq!(refused(&verifier, &of(&url(0))).await, None);
    }

    #[tokio::test]
    async fn an_issuer_that_once_proved_itself_and_one_whose_keys_are_there_at_once_need_no_rest() {
        let (keys, clock) = (Gated::open(good_keys), Stopped::default());
        let store = keys.store(|issuer| issuer);
        let verifier = Verifier::resolving(issuers(&store).with_max_issuers(1)).with_clock(clock.clone());
        let verifier = verifier.build().unwrap();
        for number in [1, 2] {
            assert_eq!(refused(&verifier, &of(&url(number))).await, None);
        }
        for round in 0..3 {
            // In again by a forged token, out by others.
            for number in [1].into_iter().chain(100 + 10 * round..110 + 10 * round) {
                assert_eq!(refused(&verifier, &forged(&url(number))).await, Some(TokenError::Signature));
            }
            assert!(verifier.verify_now(&of(&url(1)), now()).is_none(), "pushed out");
        }
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);

        let store = Store::of_tenants();
        let tenants = tenants(issuers(&store).with_max_issuers(1), &clock);
        for number in (0..20).cycle().take(60) {
            assert!(tenants.resolve(url(number).into()).await.is_ok());
        }
        assert_eq!((store.asked(), tenants.sizes()), (60, [8, 0, 0, 0]));
    }

    #[tokio::test]
    async fn keys_of_strangers_are_loaded_a_few_at_a_time_and_those_of_issuers_in_use_beside_them() {
        let (keys, clock) = (Gated::shut(good_keys), Stopped::default());
        let store = keys.store(|issuer| issuer);
        let verifier = Verifier::resolving(issuers(&store).with_max_concurrent(2)).with_clock(clock.clone());
        let verifier = verifier.build().unwrap();
        let verify = |token: AccessToken| {
            let verifier = verifier.clone();
            tokio::spawn(async move { refused(&verifier, &token).await })
        };
        keys.gate.add_permits(1);
        assert_eq!(refused(&verifier, &of(&url(1))).await, None);
        keys.gate.forget_permits(1);
        clock.pass(30);
        let mut strangers = Vec::new();
        for number in 2..10 {
            strangers.push(verify(of(&url(number))));
            settle().await;
        }
        assert_eq!((store.asked(), keys.counts()), (9, [3, 2, 2]));
        let rotated = json!({"alg": "Ed25519", "kid": "rotated"}).to_string();
        let rotated = verify(seal(Algorithm::Ed25519, rotated, claims(&url(1)).to_string()));
        settle().await;
        assert_eq!(keys.counts(), [4, 3, 3], "an issuer in use waits for no stranger");
        keys.gate.close();
        for stranger in strangers {
            assert_eq!(stranger.await.unwrap(), None);
        }
        assert_eq!(rotated.await.unwrap(), Some(TokenError::UnknownKey));
        assert_eq!(keys.counts(), [10, 0, 3]);
    }

    #[tokio::test]
    async fn waiting_for_room_to_load_counts_into_the_deadline_of_the_load() {
        let (stuck, clock) = (Gated::shut(good_keys), Stopped::default());
        let hasty = CacheSettings::default().with_load_deadline(Duration::from_millis(20));
        let keys = Arc::clone(&stuck);
        let store = Store::new(move |name| {
            let issuer = tenant(name).with_key_source(Arc::clone(&keys));
            Ok(Some(if name == url(1) { issuer } else { issuer.with_key_cache(hasty.clone()) }))
        });
        let verifier = Verifier::resolving(issuers(&store).with_max_concurrent(1)).with_clock(clock).build().unwrap();
        let first = tokio::spawn({
            let (verifier, token) = (verifier.clone(), of(&url(1)));
            async move { refused(&verifier, &token).await }
        });
        settle().await;
        let late = Some(TokenError::KeysUnavailable(KeyErrorKind::Timeout));
        assert_eq!(refused(&verifier, &of(&url(2))).await, late);
        assert_eq!(stuck.counts(), [1, 1, 1], "its source was never asked");
        stuck.gate.close();
        assert_eq!(first.await.unwrap(), None);
    }

    #[tokio::test]
    async fn waiting_in_vain_for_room_to_load_is_no_failure_that_adds_up() {
        let (stuck, clock) = (Gated::shut(good_keys), Stopped::default());
        let hasty = CacheSettings::default().with_load_deadline(Duration::from_millis(20));
        let keys = Arc::clone(&stuck);
        let store = Store::new(move |name| {
            let issuer = tenant(name).with_key_source(Arc::clone(&keys));
            Ok(Some(if name == url(1) { issuer } else { issuer.with_key_cache(hasty.clone()) }))
        });
        let verifier =
            Verifier::resolving(issuers(&store).with_max_concurrent(1)).with_clock(clock.clone()).build().unwrap();
        let first = tokio::spawn({
            let (verifier, token) = (verifier.clone(), of(&url(1)));
            async move { refused(&verifier, &token).await }
        });
        settle().await;
        for _ in 0..5 {
            let late = Some(TokenError::KeysUnavailable(KeyErrorKind::Timeout));
            assert_eq!(refused(&verifier, &of(&url(2))).await, late);
            clock.pass(1);
        }
        stuck.gate.close();
        assert_eq!(first.await.unwrap(), None);
        assert_eq!(refused(&verifier, &of(&url(2))).await, None, "a second is all that it had to wait for another try");
    }

    #[tokio::test]
    async fn made_up_names_keep_no_issuer_out_that_once_proved_itself() {
        let store = Store::shut(|name| Ok(Some(tenant(name))));
        let tenants = tenants(issuers(&store).with_max_issuers(1).with_max_concurrent(1), &Stopped::default());
        store.gate.add_permits(1);
        for number in [1, 2] {
            let tenant = tenants.resolve(url(number).into()).await.unwrap();
            tenants.confirm(&tenant);
        }
        store.gate.forget_permits(1);
        assert!(tenants.find(&url(1)).is_none(), "pushed out");
        let resolve = |number| {
            tokio::spawn({
                let tenants = Arc::clone(&tenants);
                async move { tenants.resolve(url(number).into()).await.err() }
            })
        };
        let stranger = resolve(7);
        settle().await;
        assert_eq!(resolve(8).await.unwrap(), Some(Refusal::Unavailable(KeyErrorKind::Unavailable)), "no room");
        let returning = resolve(1);
        settle().await;
        assert_eq!((store.asked(), tenants.sizes()), (4, [1, 0, 2, 1]));
        store.gate.close();
        assert_eq!((stranger.await.unwrap(), returning.await.unwrap()), (None, None));
    }

    #[tokio::test]
    async fn a_name_that_the_store_removed_has_proved_nothing_any_more() {
        let is_there = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let flag = Arc::clone(&is_there);
        let store = Store::new(move |name| Ok(flag.load(SeqCst).then(|| tenant(name))));
        let tenants = tenants(issuers(&store).with_max_issuers(1), &Stopped::default());
        for number in [1, 2] {
            let tenant = tenants.resolve(url(number).into()).await.unwrap();
            tenants.confirm(&tenant);
        }
        assert!([1, 2].iter().all(|number| tenants.lock().shelf.is_proven(&url(number))));
        is_there.store(false, SeqCst);
        assert!(tenants.resolve(url(1).into()).await.is_err());
        assert!(!tenants.lock().shelf.is_proven(&url(1)));
    }

    #[tokio::test]
    async fn a_token_that_was_slower_than_the_removal_of_its_issuer_brings_nobody_back() {
        let answers = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answers);
        let store = Store::new(move |name| Ok((count.fetch_add(1, SeqCst) == 0).then(|| tenant(name))));
        let clock = Stopped::default();
        let tenants = tenants(issuers(&store), &clock);
        let found = tenants.resolve(url(1).into()).await.unwrap();
        clock.pass(240);
        assert!(tenants.find(&url(1)).unwrap().is_ok(), "looked up again without anybody waiting");
        settle().await;
        assert_eq!((store.asked(), tenants.find(&url(1)).unwrap().err()), (2, Some(Refusal::Unknown)));
        tenants.confirm(&found);
        assert_eq!(tenants.find(&url(1)).unwrap().err(), Some(Refusal::Unknown));
        assert_eq!(tenants.metrics().known, 0);
    }

    #[tokio::test]
    async fn an_issuer_can_be_asked_for_by_each_of_its_names() {
        let store = Store::new(|name| {
            let oauth = Issuer::oauth("https://own.example", "https://api.example").add_alias("https://alias.example");
            let auth0 = Issuer::auth0("acme.auth0.com", "https://api.example").add_domain("id.acme.example");
            let issuer = if name.contains("acme") { auth0 } else { oauth };
            Ok(Some(issuer.with_keys(public_keys())))
        });
        let tenants = tenants(issuers(&store), &Stopped::default());
        for name in
            ["https://own.example", "https://alias.example", "https://acme.auth0.com/", "https://id.acme.example/"]
        {
            let tenant = tenants.resolve(name.into()).await.unwrap();
            assert_eq!(tenant.id.as_str(), name);
        }
        for name in ["https://alias.example/", "https://id.acme.example", "https://other.example"] {
            assert!(tenants.resolve(name.into()).await.is_err(), "{name}");
        }
        let verifier = resolving(&store, &Stopped::default()).build().unwrap();
        let verified = verifier.verify(&of("https://alias.example"), now()).await.unwrap();
        assert_eq!(verified.issuer().as_str(), "https://alias.example");
    }

    #[tokio::test]
    async fn a_source_that_loses_whom_a_key_signs_for_is_refused_here_too() {
        struct Forgetful(bool);

        #[async_trait]
        impl KeySource for Forgetful {
            async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
                Ok(LoadedKeys::new(public_keys()))
            }

            fn keeps_key_issuers(&self) -> bool {
                self.0
            }
        }

        const TENANT: &str = "11111111-aaaa-4bbb-8ccc-000000000001";
        for keeps in [true, false] {
            let store = Store::new(move |_| Ok(Some(Issuer::entra(TENANT, "api").with_key_source(Forgetful(keeps)))));
            let tenants = tenants(issuers(&store), &Stopped::default());
            let found = tenants.resolve(format!("https://login.microsoftonline.com/{TENANT}/v2.0").into()).await;
            assert_eq!(found.is_ok(), keeps);
        }
    }

    /// What finds out, where the application runs, whether the directory is locked.
    #[derive(Clone, Default)]
    struct Watchman {
        directory: Arc<std::sync::OnceLock<std::sync::Weak<Directory>>>,
        calls: Arc<AtomicUsize>,
        locked: Arc<AtomicUsize>,
    }

    impl Watchman {
        fn look(&self) {
            let directory = self.directory.get().and_then(std::sync::Weak::upgrade);
            if let Some(directory) = directory {
                self.calls.fetch_add(1, SeqCst);
                self.locked.fetch_add(usize::from(directory.state.try_lock().is_err()), SeqCst);
            }
        }

        fn counts(&self) -> [usize; 2] {
            [&self.calls, &self.locked].map(|count| count.load(SeqCst))
        }
    }

    impl Drop for Watchman {
        fn drop(&mut self) {
            self.look();
        }
    }

    impl io::Write for Watchman {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.look();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Watched(Arc<Watchman>);

    impl Drop for Watched {
        fn drop(&mut self) {
            self.0.look();
        }
    }

    #[async_trait]
    impl KeySource for Watched {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            good_keys()
        }

        fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
            self.0.look();
            Some(good_keys())
        }
    }

    #[tokio::test]
    async fn nothing_of_the_application_runs_while_the_directory_is_locked() {
        let (watchman, clock) = (Arc::new(Watchman::default()), Stopped::default());
        let is_there = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (keys, flag) = (Arc::clone(&watchman), Arc::clone(&is_there));
        let store = Store::shut(move |name| {
            let issuer = tenant(name).with_key_source(Watched(Arc::clone(&keys)));
            Ok(flag.load(SeqCst).then_some(issuer))
        });
        store.gate.add_permits(1);
        let tenants = tenants(issuers(&store).with_max_issuers(1).with_max_concurrent(1), &clock);
        watchman.directory.set(Arc::downgrade(&tenants)).unwrap();
        let mut seen = 0;
        let mut saw = |what: &str, least: usize| {
            let [calls, locked] = watchman.counts();
            assert!(calls >= seen + least, "{what}");
            assert_eq!(locked, 0, "{what}");
            seen = calls;
        };
        for number in 0..10 {
            assert!(tenants.resolve(url(number).into()).await.is_ok());
        }
        saw("ten are asked for keys, two pushed out", 12);
        for number in [8, 9] {
            let Some(Ok(tenant)) = tenants.find(&url(number)) else { panic!("{number}") };
            tenants.confirm(&tenant);
        }
        saw("one in use pushes out another", 1);
        clock.pass(240);
        assert!(tenants.find(&url(9)).is_some());
        settle().await;
        saw("one is renewed: new keys come, old ones go", 2);
        is_there.store(false, SeqCst);
        clock.pass(240);
        assert!(tenants.find(&url(9)).is_some());
        settle().await;
        saw("one is removed", 1);

        let writer = Watchman::clone(&watchman);
        let _kept = logging(move || writer.clone());
        store.gate.forget_permits(1);
        let waiting = tokio::spawn({
            let tenants = Arc::clone(&tenants);
            async move { tenants.resolve(url(20).into()).await.is_ok() }
        });
        settle().await;
        assert!(tenants.resolve(url(21).into()).await.is_err());
        saw("too many look-ups are a line of the log", 1);
        waiting.abort();
    }

    #[tokio::test]
    async fn however_many_issuers_are_looked_up_their_keys_are_a_few_lines_of_the_log() {
        fn odd_keys() -> Result<LoadedKeys, KeyError> {
            let document = br#"{"keys":[{"kty":"a"},{"kty":"b"},{"kty":"OKP","crv":"Ed25519","kid":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
            Ok(LoadedKeys::new(JwkSet::parse(document).unwrap()))
        }
        type Answer = fn() -> Result<LoadedKeys, KeyError>;
        let rows: [(&str, Answer, &str); 4] = [
            ("good", good_keys, ""),
            ("two are odd", odd_keys, "count=2"),
            ("down", || Err(KeyError::unavailable("down")), "could not be loaded"),
            ("panics", || panic!("scripted"), "could not be loaded"),
        ];
        for (name, answer, words) in rows {
            let written = Written::default();
            let writer = written.clone();
            let _kept = logging(move || writer.clone());
            let (store, clock) = (Gated::open(answer).store(|issuer| issuer), Stopped::default());
            let verifier = resolving(&store, &clock).build().unwrap();
            for second in 0..2 {
                for number in 0..50 {
                    assert!(refused(&verifier, &forged(&url(100 * second + number))).await.is_some(), "{name}");
                }
                clock.pass(1);
            }
            let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert_eq!(log.lines().count(), if words.is_empty() { 0 } else { 2 }, "{name}: {log}");
            assert!(log.lines().all(|line| line.contains(words)), "{name}: {log}");
        }
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
