mod builder;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

pub use self::builder::VerifierBuilder;
use super::{
    AccessToken, Claimed, Issuer, ResolvedIssuers, ResolvedMetrics, TokenError, VerifiedToken,
    candidate::{Candidate, Examined, NamedIssuer, Unresolved, Unverified},
    directory::Directory,
    trusted::{Proof, Trusted},
};
use crate::{
    ConfigError,
    health::Health,
    key::{KeyError, KeyErrorKind, Lookup, Metrics},
    principal::{Actor, Audience, IssuerId},
    revocation::{Presented, RevocationList},
    time::{Clock, UnixTime},
};

/// Verifies access tokens of the configured issuers: the one source of [`VerifiedToken`]s.
///
/// What it checks, in this order, each failure a [`TokenError`] of its own:
///
/// 1. size, and the strict form of a compact JWS (one text per token, no repeated header parameter, no `crit`);
/// 2. `iss` against the configured issuers, byte by byte (of a JWT-SVID without one the trust domain in `sub`): of other issuers' tokens
///    nothing more is looked at, and no I/O is done but what a [resolver](VerifierBuilder::with_resolved_issuers) does;
/// 3. `typ` and `alg` against what that issuer may use;
/// 4. the signature, under a key of that issuer that is meant for that algorithm: where several have the `kid`, or the token has none,
///    at most four are tried, and two for a token that is longer than 2 KiB without its signature;
/// 5. that the claims can be read in one way only (no repeated member at any depth), and every one that is used: its form, then `aud`, client and tenant where they are listed, the kind of token, `exp`, `nbf`, `iat`
///    and the life in between;
/// 6. that the token is not bound to a key (`cnf`), because nothing here proves its possession;
/// 7. that nobody revoked it, where there is a [`RevocationList`].
///
/// What it leaves to the caller: scope, policy, and whether this subject is welcome.
///
/// Cheap to clone; clones share their keys. Works without HTTP:
///
/// ```
/// use portcullis::{key::JwkSet, time::UnixTime, token::{AccessToken, Issuer, TokenError, Verifier}};
///
/// let keys = JwkSet::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#)?;
/// let issuer = Issuer::oauth("https://login.example", "https://api.example").with_keys(keys);
/// let verifier = Verifier::builder(issuer).build()?;
///
/// let token = AccessToken::new("eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUifQ.")?;
/// let refused = verifier.verify_now(&token, UnixTime::from_secs(1_800_000_000));
/// assert!(matches!(refused, Some(Err(TokenError::Algorithm))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Verifier(Arc<Trust>);

struct Trust {
    /// In the order of configuration.
    issuers: Vec<Arc<Trusted>>,
    /// By every `iss` that one of them writes.
    by_id: HashMap<IssuerId, Arc<Trusted>>,
    /// Of the names that are not in `by_id`.
    directory: Option<Arc<Directory>>,
    clock: Arc<dyn Clock>,
    max_token_size: usize,
    revocations: Option<RevocationList>,
}

impl Verifier {
    /// A verifier of this issuer's tokens; [`add_issuer`](VerifierBuilder::add_issuer) accepts more.
    #[must_use]
    pub fn builder(issuer: Issuer) -> VerifierBuilder {
        Self::builder_of(vec![issuer])
    }

    /// A verifier of the tokens of issuers that are looked up when a token names them, and of no other's;
    /// [`add_issuer`](VerifierBuilder::add_issuer) accepts issuers that are configured for good as well.
    #[must_use]
    pub fn resolving(issuers: ResolvedIssuers) -> VerifierBuilder {
        Self::builder_of(Vec::new()).with_resolved_issuers(issuers)
    }

    pub(crate) fn builder_of(issuers: Vec<Issuer>) -> VerifierBuilder {
        VerifierBuilder::new(issuers)
    }

    /// Verifies a token as of `now`, and waits for the issuer's keys where that may bring the one that is missing, and for the look-up
    /// of an issuer that is not in memory. The time that it waits, by the [clock](VerifierBuilder::with_clock), is added to `now`: a token
    /// that expires meanwhile has expired.
    ///
    /// Dropping the future cancels no key refresh and no look-up.
    ///
    /// # Errors
    ///
    /// [`TokenError`], the first that applies in the order of the checks that [`Verifier`] lists.
    pub async fn verify(&self, token: &AccessToken, now: UnixTime) -> Result<VerifiedToken, TokenError> {
        let started = self.0.clock.elapsed();
        let mut buffer = Vec::new();
        let unverified = Unverified::read(token, self.0.max_token_size, &mut buffer)?;
        let candidate = match self.0.examine(&unverified)? {
            Examined::Candidate(candidate) => candidate,
            Examined::Unresolved(unresolved) => unresolved.resolve().await?,
        };
        let issuer = Arc::clone(&candidate.issuer);
        let (keys, algorithm) = match issuer.proof(candidate.jws)? {
            Proof::Signature(keys, algorithm) => (keys, algorithm),
            Proof::Mac(secret) => {
                let now = self.0.after_waiting(now, started);
                return self.0.admit(&issuer, candidate.verify_mac(secret, now), now);
            }
        };
        let wanted = candidate.wanted(algorithm);
        let keys = match keys.lookup(wanted) {
            Lookup::Wait => {
                keys.refresh(wanted.kid().map(Into::into)).await;
                keys.lookup_settled(wanted)
            }
            settled => settled,
        };
        let now = self.0.after_waiting(now, started);
        match keys {
            Lookup::Keys(keys) => self.0.admit(&issuer, candidate.verify(&keys, algorithm, now), now),
            Lookup::Unknown => Err(TokenError::UnknownKey),
            Lookup::Unavailable(kind) => Err(TokenError::KeysUnavailable(kind)),
            // A settled look-up never asks to wait again; should it, then we have no keys.
            Lookup::Wait => Err(TokenError::KeysUnavailable(KeyErrorKind::Unavailable)),
        }
    }

    /// Verifies a token at once; `None` when keys or the look-up of the issuer have to be waited for, which [`verify`](Self::verify)
    /// does.
    #[must_use]
    pub fn verify_now(&self, token: &AccessToken, now: UnixTime) -> Option<Result<VerifiedToken, TokenError>> {
        let mut buffer = Vec::new();
        match Unverified::read(token, self.0.max_token_size, &mut buffer) {
            Ok(unverified) => self.0.decide_now(&unverified, now).transpose(),
            Err(error) => Some(Err(error)),
        }
    }

    /// As [`verify_now`](Self::verify_now), and what a refused token claims, for which it is not read once more.
    pub(crate) fn answer_now(&self, token: &AccessToken, now: UnixTime) -> Option<Result<VerifiedToken, Refused>> {
        let mut buffer = Vec::new();
        match Unverified::read(token, self.0.max_token_size, &mut buffer) {
            Ok(unverified) => {
                let refused = |error| Refused { error, claimed: unverified.claimed() };
                self.0.decide_now(&unverified, now).map_err(refused).transpose()
            }
            Err(error) => Some(Err(Refused { error, claimed: self.claimed(token) })),
        }
    }

    /// What the token claims, unverified: for the audit record of a refusal. Never fails; what cannot be read is absent.
    #[must_use]
    pub fn claimed(&self, token: &AccessToken) -> Claimed {
        Claimed::of(token.as_bytes(), self.0.max_token_size)
    }

    /// Whether the keys of every configured issuer can be had: the worst of them speaks for all. [Resolved](ResolvedIssuers) issuers
    /// are left out, because one of many must not take the service out of rotation for the others
    /// ([`resolved_metrics`](Self::resolved_metrics)).
    #[must_use]
    pub fn health(&self) -> Health {
        let mut worst = Health::Ready;
        for keys in self.0.issuers.iter().filter_map(|issuer| issuer.cache()) {
            worst = match (worst, keys.health()) {
                (Health::Unavailable(first), _) => Health::Unavailable(first),
                (_, unavailable @ Health::Unavailable(_)) => unavailable,
                (Health::Ready, health) => health,
                (worst, _) => worst,
            };
        }
        worst
    }

    /// What each issuer's key cache has done and holds, in the order of configuration: for whatever exports metrics. An issuer with
    /// several names goes by its first.
    pub fn key_metrics(&self) -> impl Iterator<Item = (&IssuerId, Metrics)> {
        self.0.issuers.iter().filter_map(|issuer| Some((issuer.expectations.ids.first()?, issuer.cache()?.metrics())))
    }

    /// How many [resolved](ResolvedIssuers) issuers there are, and look-ups for them; `None` where none are resolved. Takes their lock for a
    /// moment.
    #[must_use]
    pub fn resolved_metrics(&self) -> Option<ResolvedMetrics> {
        self.0.directory.as_ref().map(|directory| directory.metrics())
    }

    /// Waits until the keys of every issuer are there.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first issuer without, when the deadline has passed.
    pub(crate) async fn await_keys(&self, deadline: Duration) -> Result<(), ConfigError> {
        let start = tokio::time::Instant::now();
        for issuer in &self.0.issuers {
            // The loads of all run from the start, each in its own task: waiting for one after the other takes no longer.
            let left = deadline.saturating_sub(start.elapsed());
            let Some(keys) = issuer.cache() else { continue };
            keys.ready(left).await.map_err(|kind| {
                let remedy = format!(
                    "its keys are not there after {deadline:?} ({kind}): see that this machine reaches the issuer and that its \
                     URL is right, allow more time, or start without it (`build`) and answer 503 until they are there"
                );
                let name = issuer.expectations.ids.first().map(ToString::to_string).unwrap_or_default();
                ConfigError::Unusable {
                    field: "issuer.keys".into(),
                    value: name,
                    remedy: remedy.into(),
                    source: KeyError::of(kind, "the log has the cause of each failure").into(),
                }
            })?;
        }
        Ok(())
    }

    /// Whether issuers beyond those that are configured are looked up.
    pub(crate) fn resolves(&self) -> bool {
        self.0.directory.is_some()
    }

    /// Whether two tenants of one name may be two parties: where more than one issuer names tenants, or one that nobody knows yet may.
    pub(crate) fn mixes_tenants(&self) -> bool {
        let naming = self.0.issuers.iter().filter(|issuer| !issuer.expectations.profile.tenant.is_empty());
        self.resolves() || naming.count() > 1
    }

    /// The configured issuers whose tokens are accepted, in the order of configuration.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerId> {
        self.0.issuers.iter().flat_map(|issuer| &issuer.expectations.ids)
    }

    /// The same issuers, each with the audiences that name us, for the start-up report.
    pub(crate) fn expectations(&self) -> impl Iterator<Item = (&IssuerId, &[Audience])> {
        self.0.issuers.iter().flat_map(|issuer| {
            let audiences = issuer.expectations.audiences.as_slice();
            issuer.expectations.ids.iter().map(move |id| (id, audiences))
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("issuers", &self.issuers().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Trust {
    /// A token may expire while its keys are waited for.
    fn after_waiting(&self, now: UnixTime, started: Duration) -> UnixTime {
        now.saturating_add(self.clock.elapsed().saturating_sub(started))
    }

    /// `None` when keys or the look-up of the issuer have to be waited for.
    fn decide_now(&self, unverified: &Unverified<'_>, now: UnixTime) -> Result<Option<VerifiedToken>, TokenError> {
        let candidate = match self.examine(unverified)? {
            Examined::Candidate(candidate) => candidate,
            Examined::Unresolved(_) => return Ok(None),
        };
        let issuer = Arc::clone(&candidate.issuer);
        let verified = match issuer.proof(candidate.jws)? {
            Proof::Mac(secret) => candidate.verify_mac(secret, now),
            Proof::Signature(keys, algorithm) => match keys.lookup(candidate.wanted(algorithm)) {
                Lookup::Keys(keys) => candidate.verify(&keys, algorithm, now),
                Lookup::Unknown => Err(TokenError::UnknownKey),
                Lookup::Unavailable(kind) => Err(TokenError::KeysUnavailable(kind)),
                Lookup::Wait => return Ok(None),
            },
        };
        self.admit(&issuer, verified, now).map(Some)
    }

    /// Everything that needs no key.
    fn examine<'a>(&'a self, unverified: &'a Unverified<'_>) -> Result<Examined<'a>, TokenError> {
        let jws = &unverified.jws;
        let named = NamedIssuer::of(unverified)?;
        let name = &*named.name;
        if let Some((id, issuer)) = self.by_id.get_key_value(name) {
            let (id, issuer) = (id.clone(), Arc::clone(issuer));
            return Candidate::new(jws, &named, id, issuer, None).map(Examined::Candidate);
        }
        let directory = self.directory.as_ref().ok_or(TokenError::UnknownIssuer)?;
        match directory.find(name) {
            Some(answer) => Candidate::of_tenant(jws, &named, directory, answer).map(Examined::Candidate),
            None => Ok(Examined::Unresolved(Unresolved { jws, named, directory })),
        }
    }

    /// Asked of every token on every request. Whoever remembers verified tokens remembers what comes in here, never what comes out: a
    /// token that was revoked since must not be let in from memory.
    fn admit(
        &self,
        issuer: &Trusted,
        verified: Result<VerifiedToken, TokenError>,
        now: UnixTime,
    ) -> Result<VerifiedToken, TokenError> {
        let token = verified?;
        let Some(revocations) = &self.revocations else {
            return Ok(token);
        };
        let principal = token.principal();
        let issuers = issuer.expectations.names_of(token.issuer());
        // RFC 8693 §4.1: the actors before the current one are history, and decide nothing.
        let actor = principal.actors().first();
        let presented = Presented {
            issuers,
            thumbprint: token.thumbprint(),
            token_id: token.token_id(),
            subject: principal.subject(),
            user_id: principal.user_id().filter(|user_id| Some(*user_id) != principal.subject()),
            client: principal.client(),
            session: token.session_id(),
            actor: actor.map(|actor| (actor, self.issuers_of(actor, issuers))),
            issued_at: token.issued_at(),
        };
        if revocations.refuses(&presented, now) { Err(TokenError::Revoked) } else { Ok(token) }
    }

    /// Every name of the actor's issuer: of the one that `act` names or, where it names none, of the token's.
    fn issuers_of<'a>(&'a self, actor: &'a Actor, own: &'a [IssuerId]) -> &'a [IssuerId] {
        match &actor.issuer {
            Some(named) if !own.contains(named) => {
                let known = self.by_id.get(named).map(|issuer| issuer.expectations.names_of(named));
                known.unwrap_or(std::slice::from_ref(named))
            }
            _ => own,
        }
    }
}

/// A token that was refused, and what it claims.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: TokenError,
    pub(crate) claimed: Claimed,
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicU64, AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use async_trait::async_trait;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        key::{Algorithm, CacheSettings, JwkSet, KeySource, LoadRequest, LoadedKeys, SharedSecret, VERIFICATIONS},
        principal::{ClientId, SessionId, Subject, TokenId},
        revocation::Revocation,
        token::{
            ResolveError, ResolveIssuer, ResolveRequest,
            candidate::LARGE,
            test_tokens::{
                NOW, base64url, header, now, public_bytes, public_key, public_keys, seal, sign, token, with,
            },
        },
    };

    const ISSUER: &str = "https://login.example/";

    fn bare() -> Issuer {
        Issuer::oauth(ISSUER, "https://api.example")
    }

    fn issuer() -> Issuer {
        bare().with_keys(public_keys())
    }

    fn verifier() -> Verifier {
        Verifier::builder(issuer()).build().unwrap()
    }

    fn claims() -> Value {
        json!({"iss": ISSUER, "aud": "https://api.example", "sub": "u1", "exp": NOW + 600, "jti": "j1", "admin": "yes"})
    }

    fn refused(verifier: &Verifier, token: &AccessToken) -> Option<TokenError> {
        verifier.verify_now(token, now()).unwrap().err()
    }

    fn sealed(algorithm: Algorithm, changes: Value) -> AccessToken {
        seal(algorithm, with(&header(algorithm), changes).to_string(), claims().to_string())
    }

    #[test]
    fn a_good_token_of_each_algorithm_is_verified() {
        for algorithm in Algorithm::ALL {
            let verified = verifier().verify_now(&sealed(algorithm, json!({})), now()).unwrap().unwrap();
            assert_eq!(verified.issuer().as_str(), ISSUER);
            assert_eq!(verified.key_id(), Some(algorithm.name()));
            assert_eq!(verified.key_thumbprint(), Some(public_key(algorithm).thumbprint()));
            assert_eq!(verified.claims()["admin"], "yes");
        }
        assert_eq!(refused(&verifier(), &sealed(Algorithm::Ed25519, json!({"alg": "EdDSA"}))), None);
    }

    #[tokio::test]
    async fn waiting_and_not_waiting_come_to_the_same() {
        let good = token(&claims());
        let (at_once, waited) = (verifier().verify_now(&good, now()).unwrap(), verifier().verify(&good, now()).await);
        assert_eq!(at_once.unwrap().thumbprint(), waited.unwrap().thumbprint());
        let bad = token(&with(&claims(), json!({"exp": 1})));
        assert_eq!(verifier().verify(&bad, now()).await.err(), Some(TokenError::Expired));
    }

    #[test]
    fn an_issuer_is_its_exact_text() {
        let others = [
            json!(null),
            json!("https://login.example"),
            json!("https://login.example//"),
            json!("https://LOGIN.example/"),
            json!("http://login.example/"),
            json!("https://login.example/ "),
            json!("https://login.exampl\u{435}/"),
            json!("https://login.example/x"),
            json!(""),
            json!([ISSUER]),
            json!({ISSUER: 1}),
            json!(7),
            json!(true),
        ];
        for other in others {
            let forged = token(&with(&claims(), json!({"iss": other})));
            assert_eq!(refused(&verifier(), &forged), Some(TokenError::UnknownIssuer), "{other}");
        }
    }

    /// Loads nothing until it is told to, and counts how often it is asked.
    #[derive(Default)]
    struct Late {
        asked: AtomicUsize,
        keys: Mutex<Option<JwkSet>>,
    }

    #[async_trait]
    impl KeySource for Late {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let keys = self.keys.lock().unwrap().clone();
            keys.map(LoadedKeys::new).ok_or_else(|| KeyError::unavailable("down"))
        }
    }

    fn floor_of(floor: Duration) -> CacheSettings {
        CacheSettings::default().with_unknown_kid_floor(floor)
    }

    #[derive(Clone, Default)]
    struct Stopped(Arc<AtomicU64>);

    impl Clock for Stopped {
        fn now(&self) -> UnixTime {
            now()
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }
    }

    #[tokio::test]
    async fn a_lower_floor_of_the_key_cache_lets_a_new_key_in_sooner() {
        for (name, settings, seconds, asked, error) in [
            ("within the floor", floor_of(Duration::from_secs(5)), 4, 1, Some(TokenError::UnknownKey)),
            ("at the floor", floor_of(Duration::from_secs(5)), 5, 2, None),
            ("at that time by default", CacheSettings::default(), 5, 1, Some(TokenError::UnknownKey)),
        ] {
            let source = Arc::new(Late::default());
            let rotate = |keys: JwkSet| *source.keys.lock().unwrap() = Some(keys);
            rotate([public_key(Algorithm::Es256)].into_iter().collect());
            let clock = Stopped::default();
            let issuer = bare().with_key_source(Arc::clone(&source)).with_key_cache(settings);
            let verifier = Verifier::builder(issuer).with_clock(clock.clone()).build().unwrap();
            assert_eq!(verifier.verify(&sealed(Algorithm::Es256, json!({})), now()).await.err(), None, "{name}");
            rotate(public_keys());
            clock.0.store(seconds, Ordering::SeqCst);
            assert_eq!(verifier.verify(&token(&claims()), now()).await.err(), error, "{name}");
            assert_eq!(source.asked.load(Ordering::SeqCst), asked, "{name}");
        }
    }

    #[tokio::test]
    async fn keys_that_cannot_be_had_are_our_fault_and_delay_no_refusal() {
        let source = Arc::new(Late::default());
        let verifier = Verifier::builder(issuer().with_key_source(Arc::clone(&source))).build().unwrap();
        assert_eq!(verifier.verify_now(&token(&claims()), now()).map(|_| ()), None, "keys have to be waited for");
        let own = verifier.verify(&token(&claims()), now()).await.unwrap_err();
        assert_eq!(own, TokenError::KeysUnavailable(KeyErrorKind::Unavailable));
        assert!(own.is_unavailable());
        assert!(matches!(verifier.health(), Health::Unavailable(detail) if detail.contains(ISSUER)));

        let asked = source.asked.load(Ordering::SeqCst);
        let foreign = token(&with(&claims(), json!({"iss": "https://evil.example/"})));
        for (token, error) in [
            (foreign, TokenError::UnknownIssuer),
            (sealed(Algorithm::Ed25519, json!({"typ": "dpop+jwt"})), TokenError::Type),
            (sealed(Algorithm::Ed25519, json!({"alg": "none"})), TokenError::Algorithm),
        ] {
            assert_eq!(refused(&verifier, &token), Some(error.clone()));
            assert_eq!(verifier.verify(&token, now()).await.err(), Some(error));
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), asked, "no I/O for what can be refused without");
    }

    #[tokio::test]
    async fn waiting_for_the_keys_ends_with_them_or_names_the_issuer() {
        let source = Arc::new(Late::default());
        let verifier = || Verifier::builder(issuer().with_key_source(Arc::clone(&source))).build().unwrap();
        let error = verifier().await_keys(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.field(), "issuer.keys");
        assert!(error.to_string().contains(ISSUER), "{error}");
        *source.keys.lock().unwrap() = Some(public_keys());
        assert!(verifier().await_keys(Duration::from_secs(10)).await.is_ok());
    }

    #[test]
    fn a_verifier_tells_whom_it_trusts_and_how_their_keys_are() {
        let other = Issuer::oauth("https://other.example", "other").with_keys(public_keys());
        let both = Verifier::builder(issuer()).add_issuer(other).build().unwrap();
        let ids = [ISSUER, "https://other.example"];
        assert_eq!(both.issuers().map(IssuerId::as_str).collect::<Vec<_>>(), ids);
        let expected: Vec<_> =
            both.expectations().map(|(id, audiences)| (id.as_str(), audiences[0].as_str())).collect();
        assert_eq!(expected, [(ISSUER, "https://api.example"), ("https://other.example", "other")]);
        let keys: Vec<_> = both.key_metrics().map(|(id, metrics)| (id.as_str(), metrics.keys)).collect();
        assert_eq!(keys, ids.map(|id| (id, Algorithm::ALL.len())));
        assert!(!both.resolves());
    }

    #[test]
    fn what_a_token_claims_and_what_was_verified_of_it_come_out_as_written() {
        let token = token(&with(&claims(), json!({"nbf": NOW - 7})));
        let claimed = verifier().claimed(&token);
        assert_eq!((claimed.issuer.as_deref(), claimed.subject.as_deref()), (Some(ISSUER), Some("u1")));
        let verified = verifier().verify_now(&token, now()).unwrap().unwrap();
        assert_eq!(verified.not_before(), Some(UnixTime::from_secs(NOW - 7)));
    }

    #[tokio::test]
    async fn the_first_token_waits_for_the_first_keys() {
        let source = Arc::new(Late::default());
        *source.keys.lock().unwrap() = Some(public_keys());
        let verifier = Verifier::builder(issuer().with_key_source(Arc::clone(&source))).build().unwrap();
        assert!(verifier.verify(&token(&claims()), now()).await.is_ok());
        assert!(verifier.verify_now(&token(&claims()), now()).is_some_and(|verified| verified.is_ok()));
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_token_that_expires_while_its_keys_are_waited_for_has_expired() {
        /// Takes its time, by the clock.
        struct Slow(Stopped, u64);

        #[async_trait]
        impl KeySource for Slow {
            async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
                self.0.0.fetch_add(self.1, Ordering::SeqCst);
                Ok(LoadedKeys::new(public_keys()))
            }
        }

        // The token lives for 600 s more, and the leeway is 30 s.
        for (seconds, error) in [(629, None), (630, Some(TokenError::Expired)), (7_000, Some(TokenError::Expired))] {
            let clock = Stopped::default();
            let issuer = bare().with_key_source(Slow(clock.clone(), seconds));
            let verifier = Verifier::builder(issuer).with_clock(clock).build().unwrap();
            assert_eq!(verifier.verify(&token(&claims()), now()).await.err(), error, "{seconds}");
        }
    }

    #[test]
    fn algorithms_come_from_the_allow_list_and_from_the_key() {
        for alg in [
            "none",
            "None",
            "nOnE",
            "NONE",
            "",
            "HS256",
            "HS384",
            "HS512",
            "RS1",
            "ES256K",
            "Ed448",
            "ML-DSA-65",
            "rs256",
            "RS256 ",
            "dir",
            "PBES2-HS256+A128KW",
        ] {
            let unsigned =
                format!("{}.{}.", base64url(json!({"alg": alg}).to_string()), base64url(claims().to_string()));
            assert_eq!(
                refused(&verifier(), &AccessToken::new(unsigned).unwrap()),
                Some(TokenError::Algorithm),
                "{alg:?}"
            );
            assert_eq!(
                refused(&verifier(), &sealed(Algorithm::Rs256, json!({"alg": alg}))),
                Some(TokenError::Algorithm),
                "{alg:?}"
            );
        }
        let only_es256 = Verifier::builder(issuer().with_algorithms([Algorithm::Es256])).build().unwrap();
        assert_eq!(refused(&only_es256, &sealed(Algorithm::Rs256, json!({}))), Some(TokenError::Algorithm));
        assert_eq!(refused(&only_es256, &sealed(Algorithm::Es256, json!({}))), None);
        // The key is there, for another algorithm.
        let crossed = sealed(Algorithm::Rs256, json!({"alg": "PS256"}));
        assert_eq!(refused(&verifier(), &crossed), Some(TokenError::UnknownKey));
        let without_kid = sealed(Algorithm::Rs256, json!({"alg": "PS256", "kid": null}));
        assert_eq!(refused(&verifier(), &without_kid), Some(TokenError::Signature));
    }

    #[test]
    fn a_public_key_is_no_hmac_secret() {
        let public = public_bytes(Algorithm::Rs256);
        let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n", base64url(&public));
        for secret in [public.clone(), pem.clone().into_bytes(), format!(" {pem}").into_bytes(), Vec::new()] {
            let input =
                format!("{}.{}", base64url(r#"{"alg":"HS256","kid":"RS256"}"#), base64url(claims().to_string()));
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
            let signature = base64url(aws_lc_rs::hmac::sign(&key, input.as_bytes()));
            let forged = AccessToken::new(format!("{input}.{signature}")).unwrap();
            assert_eq!(refused(&verifier(), &forged), Some(TokenError::Algorithm));
        }
    }

    fn macced(secret: &SharedSecret, header: Value, claims: &Value) -> AccessToken {
        let input = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        AccessToken::new(format!("{input}.{}", base64url(secret.sign(input.as_bytes())))).unwrap()
    }

    #[test]
    fn under_a_shared_secret_hs256_is_accepted_and_nothing_else() {
        let secret = |byte| SharedSecret::new([byte; 32]).unwrap();
        let own = Verifier::builder(bare().with_shared_secret(secret(1))).build().unwrap();
        let good = macced(&secret(1), json!({"alg": "HS256", "kid": "any", "typ": "at+jwt"}), &claims());
        let verified = own.verify_now(&good, now()).unwrap().unwrap();
        assert_eq!((verified.key_id(), verified.key_thumbprint()), (None, None));
        assert_eq!(own.health(), Health::Ready);

        let forged = macced(&secret(2), json!({"alg": "HS256"}), &claims());
        assert_eq!(refused(&own, &forged), Some(TokenError::Signature));
        let expired = macced(&secret(1), json!({"alg": "HS256"}), &with(&claims(), json!({"exp": 1})));
        assert_eq!(refused(&own, &expired), Some(TokenError::Expired));
        for alg in ["HS384", "HS512", "hs256", "HS256 ", "none", "RS256", "Ed25519", "dir", "PBES2-HS256+A128KW"] {
            let other = macced(&secret(1), json!({"alg": alg}), &claims());
            assert_eq!(refused(&own, &other), Some(TokenError::Algorithm), "{alg}");
        }
        for algorithm in Algorithm::ALL {
            assert_eq!(refused(&own, &sealed(algorithm, json!({}))), Some(TokenError::Algorithm), "{algorithm}");
        }
        assert_eq!(refused(&verifier(), &good), Some(TokenError::Algorithm), "an issuer with keys");
    }

    #[tokio::test]
    async fn a_shared_secret_is_that_of_its_issuer_alone() {
        let secret = |byte| SharedSecret::new([byte; 32]).unwrap();
        let other = Issuer::oauth("https://other.example/", "https://api.example").with_shared_secret(secret(2));
        let both = Verifier::builder(bare().with_shared_secret(secret(1))).add_issuer(other).build().unwrap();
        let others = with(&claims(), json!({"iss": "https://other.example/"}));
        for (byte, claims, error) in [
            (1, &claims(), None),
            (2, &others, None),
            (1, &others, Some(TokenError::Signature)),
            (2, &claims(), Some(TokenError::Signature)),
        ] {
            let token = macced(&secret(byte), json!({"alg": "HS256"}), claims);
            assert_eq!(both.verify(&token, now()).await.err(), error, "secret {byte}");
        }
    }

    #[test]
    fn a_kid_is_a_name_in_the_issuers_set_and_nothing_else() {
        for kid in ["other", "../../etc/passwd", "' OR 1=1 --", "ed25519", "Ed25519 ", "\0", ""] {
            assert_eq!(
                refused(&verifier(), &sealed(Algorithm::Ed25519, json!({"kid": kid}))),
                Some(TokenError::UnknownKey),
                "{kid:?}"
            );
        }
        for kid in [json!(7), json!({}), json!(["Ed25519"]), json!("k".repeat(257))] {
            assert!(matches!(
                refused(&verifier(), &sealed(Algorithm::Ed25519, json!({"kid": kid}))),
                Some(TokenError::Malformed(_))
            ));
        }
        assert_eq!(
            refused(&verifier(), &sealed(Algorithm::Ed25519, json!({"kid": null}))),
            None,
            "without `kid` what fits is tried"
        );
    }

    #[test]
    fn a_key_in_the_header_is_never_used() {
        let own = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        let jwk =
            json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(aws_lc_rs::signature::KeyPair::public_key(&own))});
        let header = json!({"alg": "Ed25519", "jwk": jwk, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"});
        let input = format!("{}.{}", base64url(header.to_string()), base64url(claims().to_string()));
        let forged = format!("{input}.{}", base64url(own.sign(input.as_bytes())));
        assert_eq!(refused(&verifier(), &AccessToken::new(forged).unwrap()), Some(TokenError::Signature));
    }

    #[test]
    fn a_bad_signature_beats_every_fault_of_the_claims() {
        let expired = token(&with(&claims(), json!({"exp": 1, "aud": 7, "cnf": {}})));
        let text = String::from_utf8(expired.as_bytes().to_vec()).unwrap();
        let (input, _) = text.rsplit_once('.').unwrap();
        for signature in
            [String::new(), "AA".to_owned(), base64url([0; 64]), base64url(sign(Algorithm::Ed25519, b"other"))]
        {
            let forged = AccessToken::new(format!("{input}.{signature}")).unwrap();
            assert_eq!(refused(&verifier(), &forged), Some(TokenError::Signature));
        }
        assert_eq!(refused(&verifier(), &expired), Some(TokenError::MalformedClaim("aud")));
    }

    #[test]
    fn two_issuers_never_share_keys_audiences_or_rules() {
        let other = Issuer::rfc9068("https://other.example/", "https://other-api.example")
            .with_keys([public_key(Algorithm::Es256)].into_iter().collect());
        let both = Verifier::builder(issuer()).add_issuer(other).build().unwrap();
        assert_eq!(both.issuers().map(IssuerId::as_str).collect::<Vec<_>>(), [ISSUER, "https://other.example/"]);
        assert_eq!(both.health(), Health::Ready);
        let others = with(
            &claims(),
            json!({"iss": "https://other.example/", "aud": "https://other-api.example", "client_id": "c", "iat": NOW}),
        );
        assert_eq!(refused(&both, &token(&others)), Some(TokenError::UnknownKey), "the first issuer's key");
        let es256 = |claims: &Value| seal(Algorithm::Es256, header(Algorithm::Es256).to_string(), claims.to_string());
        assert_eq!(refused(&both, &es256(&others)), None);
        let crossed = with(&others, json!({"aud": "https://api.example"}));
        assert_eq!(refused(&both, &es256(&crossed)), Some(TokenError::Audience));
    }

    #[tokio::test]
    async fn tenants_of_one_issuer_are_told_from_those_of_several() {
        struct Nobody;

        #[async_trait]
        impl ResolveIssuer for Nobody {
            async fn resolve(self: Arc<Self>, _: ResolveRequest) -> Result<Option<Issuer>, ResolveError> {
                Ok(None)
            }
        }

        let auth0 = |name: &str| Issuer::auth0(format!("{name}.auth0.com"), "api").with_keys(public_keys());
        let of = |issuer: Issuer| Verifier::builder(issuer);
        let cases = [
            ("no tenants", of(issuer()), false),
            ("one", of(auth0("a")), false),
            ("one, and one without tenants", of(auth0("a")).add_issuer(issuer()), false),
            ("two", of(auth0("a")).add_issuer(auth0("b")), true),
            ("three", of(auth0("a")).add_issuer(auth0("b")).add_issuer(auth0("c")), true),
            ("one that is looked up", of(issuer()).with_resolved_issuers(ResolvedIssuers::new(Arc::new(Nobody))), true),
        ];
        for (name, builder, expected) in cases {
            assert_eq!(builder.build().unwrap().mixes_tenants(), expected, "{name}");
        }
    }

    #[test]
    fn a_token_over_the_cap_is_not_looked_at() {
        let small = Verifier::builder(issuer()).with_max_token_size(1024).build().unwrap();
        let large = token(&with(&claims(), json!({"pad": "x".repeat(1024)})));
        assert_eq!(refused(&small, &large), Some(TokenError::TooLong { limit: 1024 }));
        assert_eq!(refused(&verifier(), &large), None);
        let dots = AccessToken::new(".".repeat(1 << 20)).unwrap();
        assert_eq!(refused(&verifier(), &dots), Some(TokenError::TooLong { limit: 16 * 1024 }));
        assert_eq!(verifier().claimed(&dots), Claimed::default());
    }

    /// A verifier that knows six keys, with this `kid`.
    fn six_keys(kid: Option<&str>) -> Verifier {
        use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
        let key = |_| {
            let x = base64url(Ed25519KeyPair::generate().unwrap().public_key());
            with(&json!({"kty": "OKP", "crv": "Ed25519", "x": x}), json!({"kid": kid}))
        };
        let keys = json!({"keys": (0..6).map(key).collect::<Vec<_>>()}).to_string();
        let keys = JwkSet::parse(keys.as_bytes()).unwrap();
        Verifier::builder(Issuer::oauth(ISSUER, "https://api.example").with_keys(keys)).build().unwrap()
    }

    #[test]
    fn a_refused_token_costs_four_verifications_at_most_and_a_large_one_two() {
        let (own, six, alike) = (verifier(), six_keys(None), six_keys(Some("one")));
        let sealed = |kid: Option<&str>, changes: Value| {
            let header = with(&json!({"alg": "Ed25519"}), json!({"kid": kid}));
            seal(Algorithm::Ed25519, header.to_string(), with(&claims(), changes).to_string())
        };
        let padded = |kid, signed: usize| {
            let bytes = |pad: usize| sealed(kid, json!({"pad": "x".repeat(pad)}));
            let length = |token: &AccessToken| token.as_bytes().iter().rposition(|byte| *byte == b'.').unwrap();
            (0..signed / 4 * 3).rev().map(bytes).find(|token| length(token) <= signed).unwrap()
        };
        let unsigned =
            AccessToken::new(format!("{}.{}.", base64url(r#"{"alg":"none"}"#), base64url(claims().to_string())));
        let own_kid = Some("Ed25519");
        let table = [
            ("too long", &six, sealed(None, json!({"pad": "x".repeat(20_000)})), "token_too_long", 0),
            ("no claims", &six, seal(Algorithm::Ed25519, r#"{"alg":"Ed25519"}"#, "[]"), "token_malformed", 0),
            ("of others", &six, sealed(None, json!({"iss": "https://other.example"})), "token_issuer", 0),
            ("unsigned", &six, unsigned.unwrap(), "token_algorithm", 0),
            ("unknown kid", &own, sealed(Some("unknown"), json!({})), "token_unknown_key", 0),
            ("no kid", &six, sealed(None, json!({})), "token_signature", 4),
            ("the kid of all", &alike, sealed(Some("one"), json!({})), "token_signature", 4),
            ("no kid, not quite large", &six, padded(None, LARGE), "token_signature", 4),
            ("no kid, large", &six, padded(None, LARGE + 2), "token_signature", 2),
            (
                "the kid of all, large",
                &alike,
                sealed(Some("one"), json!({"pad": "x".repeat(9000)})),
                "token_signature",
                2,
            ),
            ("expired", &own, sealed(own_kid, json!({"exp": 1})), "token_expired", 1),
            ("for somebody else", &own, sealed(own_kid, json!({"aud": "https://other.example"})), "token_audience", 1),
            ("bound", &own, sealed(own_kid, json!({"cnf": {}})), "token_bound", 1),
        ];
        for (name, verifier, token, code, most) in table {
            VERIFICATIONS.set(0);
            let Refused { error, claimed } = verifier.answer_now(&token, now()).unwrap().unwrap_err();
            assert_eq!((error.code(), VERIFICATIONS.get()), (code, most), "{name}");
            assert_eq!(claimed, verifier.claimed(&token), "{name}: as if it were read again");
        }
    }

    #[tokio::test]
    async fn a_wrong_configuration_does_not_build() {
        let seeded = |issuer: Issuer, path: &str| issuer.with_key_cache(CacheSettings::default().with_seed(path));
        let late = |url: &str| Issuer::oauth(url, "api").with_key_source(Late::default());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json").display().to_string();
        let table = [
            ("size 0", Verifier::builder(issuer()).with_max_token_size(0), "verifier.max_token_size"),
            (
                "size over the cap",
                Verifier::builder(issuer()).with_max_token_size((1 << 20) + 1),
                "verifier.max_token_size",
            ),
            ("issuer twice", Verifier::builder(issuer()).add_issuer(issuer()), "issuer.url"),
            (
                "one seed for two",
                Verifier::builder(seeded(late(ISSUER), &path))
                    .add_issuer(seeded(late("https://other.example/"), &path)),
                "issuer.key_cache",
            ),
            ("seed without a name", Verifier::builder(seeded(late(ISSUER), "/")), "key.seed"),
            ("seed of fixed keys", Verifier::builder(seeded(issuer(), &path)), "issuer.key_cache"),
            (
                "floor of fixed keys",
                Verifier::builder(issuer().with_key_cache(floor_of(Duration::from_secs(5)))),
                "issuer.key_cache",
            ),
            (
                "no floor",
                Verifier::builder(late(ISSUER).with_key_cache(floor_of(Duration::ZERO))),
                "key.unknown_kid_floor",
            ),
            (
                "second issuer",
                Verifier::builder(issuer()).add_issuer(issuer().with_leeway(Duration::MAX)),
                "issuer.leeway",
            ),
        ];
        for (name, builder, field) in table {
            assert_eq!(builder.build().unwrap_err().field(), field, "{name}");
        }
    }

    #[tokio::test]
    async fn a_revoked_token_is_refused_whatever_it_was_revoked_by() {
        let claims = with(&claims(), json!({"client_id": "c1", "sid": "s1", "iat": NOW - 60}));
        let good = token(&claims);
        let issuer = IssuerId::new(ISSUER);
        let (verified, before) = (verifier().verify_now(&good, now()).unwrap().unwrap(), now());
        assert_eq!(verified.session_id().map(SessionId::as_str), Some("s1"));
        for revocation in [
            Revocation::token_id(&issuer, &TokenId::new("j1")),
            Revocation::thumbprint(verified.thumbprint()),
            Revocation::subject(&issuer, &Subject::new("u1"), before),
            Revocation::client(&issuer, &ClientId::new("c1"), before),
            Revocation::session(&issuer, &SessionId::new("s1"), before),
        ] {
            let revocations = RevocationList::new();
            let verifier = Verifier::builder(self::issuer()).with_revocations(revocations.clone()).build().unwrap();
            assert_eq!(refused(&verifier, &good), None);
            revocations.revoke(&revocation, now()).unwrap();
            assert_eq!(refused(&verifier, &good), Some(TokenError::Revoked), "{revocation:?}");
            assert_eq!(verifier.verify(&good, now()).await.err(), Some(TokenError::Revoked), "{revocation:?}");
            let other = with(&claims, json!({"jti": "j2", "sub": "u2", "client_id": "c2", "sid": "s2"}));
            assert_eq!(refused(&verifier, &token(&other)), None, "{revocation:?}");
            assert!(revocations.forget(&revocation));
            assert_eq!(refused(&verifier, &good), None);
        }
    }

    #[test]
    fn a_revocation_hits_a_user_by_either_name() {
        let issuer = Issuer::okta("https://acme.okta.com/oauth2/default", "api://default").with_keys(public_keys());
        let id = IssuerId::new(issuer.url());
        let revocations = RevocationList::new();
        let verifier = Verifier::builder(issuer).with_revocations(revocations.clone()).build().unwrap();
        let claims = json!({
            "iss": id.as_str(), "aud": "api://default", "sub": "alice@acme.example", "uid": "00u1", "cid": "c", "jti": "j",
            "ver": 1, "iat": NOW - 10, "exp": NOW + 600, "auth_time": NOW - 15, "scp": ["jobs:read"],
        });
        let token = seal(Algorithm::Rs256, r#"{"alg":"RS256","kid":"RS256"}"#, claims.to_string());
        assert_eq!(refused(&verifier, &token), None);
        for name in ["alice@acme.example", "00u1"] {
            let revocation = Revocation::subject(&id, &Subject::new(name), now());
            revocations.revoke(&revocation, now()).unwrap();
            assert_eq!(refused(&verifier, &token), Some(TokenError::Revoked), "{name}");
            assert!(revocations.forget(&revocation));
        }
    }

    #[test]
    fn a_revocation_hits_the_current_actor_too_and_no_earlier_one() {
        const OTHER: &str = "https://other.example/";
        let other = Issuer::oauth(OTHER, "https://api.example").with_keys(public_keys());
        let other = other.add_alias("https://alias.example/");
        let subject =
            |issuer: &str, name: &str| Revocation::subject(&IssuerId::new(issuer), &Subject::new(name), now());
        let client = |issuer: &str, name: &str| Revocation::client(&IssuerId::new(issuer), &ClientId::new(name), now());
        let token_id = Revocation::token_id(&IssuerId::new(ISSUER), &TokenId::new("agent"));
        let agent = json!({"sub": "agent"});
        let elsewhere = json!({"sub": "agent", "iss": OTHER});
        let strange = json!({"sub": "agent", "iss": "https://strange.example/"});
        let with_client = json!({"sub": "agent", "client_id": "app"});
        let history = json!({"sub": "proxy", "act": {"sub": "agent", "client_id": "app"}});
        for (name, act, revocation, hits) in [
            ("a subject", &agent, subject(ISSUER, "agent"), true),
            ("a client that is its own subject", &agent, client(ISSUER, "agent"), true),
            ("a client", &with_client, client(ISSUER, "app"), true),
            ("the subject of an actor with a client", &with_client, subject(ISSUER, "agent"), true),
            ("a client named as the subject of another", &with_client, client(ISSUER, "agent"), false),
            ("a subject named as a client", &with_client, subject(ISSUER, "app"), false),
            ("somebody else", &agent, subject(ISSUER, "agent2"), false),
            ("a token named as an actor", &agent, token_id, false),
            ("another issuer's", &agent, subject(OTHER, "agent"), false),
            ("of another issuer", &elsewhere, subject(OTHER, "agent"), true),
            ("of another issuer by its second name", &elsewhere, subject("https://alias.example/", "agent"), true),
            ("ours, and the actor is not", &elsewhere, subject(ISSUER, "agent"), false),
            ("of an issuer that we do not know", &strange, subject("https://strange.example/", "agent"), true),
            ("who acted before", &history, subject(ISSUER, "agent"), false),
            ("the client that acted before", &history, client(ISSUER, "app"), false),
            ("who acts now, with others before", &history, subject(ISSUER, "proxy"), true),
        ] {
            let revocations = RevocationList::new();
            let verifier = Verifier::builder(issuer()).add_issuer(other.clone());
            let verifier = verifier.with_revocations(revocations.clone()).build().unwrap();
            revocations.revoke(&revocation, now()).unwrap();
            let issued = |iat: u64| token(&with(&claims(), json!({"act": act, "iat": iat})));
            assert_eq!(refused(&verifier, &issued(NOW - 1)), hits.then_some(TokenError::Revoked), "{name}");
            assert_eq!(refused(&verifier, &issued(NOW)), None, "{name}, issued since");
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_otherwise_is_said_before_that_it_was_revoked() {
        let revocations = RevocationList::new();
        let verifier = Verifier::builder(issuer()).with_revocations(revocations.clone()).build().unwrap();
        let subject = Revocation::subject(&IssuerId::new(ISSUER), &Subject::new("u1"), now());
        revocations.revoke(&subject, now()).unwrap();
        for (name, changes, expected) in [
            ("in order, without `iat`", json!({}), TokenError::Revoked),
            ("issued before", json!({"iat": NOW - 1}), TokenError::Revoked),
            ("expired", json!({"exp": NOW - 60}), TokenError::Expired),
            ("bound", json!({"cnf": {"jkt": "x"}}), TokenError::Bound),
            ("for somebody else", json!({"aud": "https://other.example"}), TokenError::Audience),
        ] {
            assert_eq!(refused(&verifier, &token(&with(&claims(), changes))), Some(expected), "{name}");
        }
        assert_eq!(refused(&verifier, &token(&with(&claims(), json!({"iat": NOW})))), None, "issued since");
    }

    #[test]
    fn a_list_that_forgets_sooner_than_tokens_expire_does_not_build() {
        let hour = Duration::from_secs(3600);
        let list = || RevocationList::builder().with_max_lifetime(hour).build().unwrap();
        let build = |issuer: Issuer| Verifier::builder(issuer).with_revocations(list()).build().map(drop);
        let error = build(issuer()).unwrap_err();
        assert_eq!(error.field(), "revocations.max_lifetime");
        assert!(error.to_string().contains("86400s"), "{error}");
        assert!(build(issuer().with_max_lifetime(hour)).is_ok());
    }

    #[cfg(not(any(feature = "aws-lc-rs", feature = "rust-crypto")))]
    #[test]
    fn without_crypto_nothing_builds() {
        let issuer = Issuer::oauth(ISSUER, "https://api.example").with_keys(JwkSet::default());
        assert!(matches!(Verifier::builder(issuer).build(), Err(ConfigError::FeatureMissing { .. })));
    }

    #[test]
    fn typed_claims_are_never_coerced() {
        #[derive(Debug, Deserialize)]
        struct Mine {
            admin: String,
        }
        #[derive(Debug, Deserialize)]
        struct Wrong {
            #[serde(rename = "admin")]
            _admin: bool,
        }
        let verified = verifier().verify_now(&token(&claims()), now()).unwrap().unwrap();
        assert_eq!(verified.claims_as::<Mine>().unwrap().0.admin, "yes");
        let error = verified.claims_as::<Wrong>().unwrap_err();
        assert!(!error.to_string().contains("yes"));
        for value in [json!("true"), json!(1), Value::Null] {
            let verified =
                verifier().verify_now(&token(&with(&claims(), json!({"admin": value}))), now()).unwrap().unwrap();
            assert!(verified.claims_as::<Wrong>().is_err());
        }
    }

    #[test]
    fn nothing_of_a_token_shows_in_errors_and_debug() {
        let canary = with(&claims(), json!({"sub": "canary", "admin": "canary", "exp": "canary"}));
        let header = json!({"alg": "Ed25519", "kid": "canary", "typ": "at+jwt"});
        for token in [
            token(&canary),
            seal(Algorithm::Ed25519, header.to_string(), canary.to_string()),
            AccessToken::new("canary.e30.e30").unwrap(),
        ] {
            let error = refused(&verifier(), &token).unwrap();
            assert!(!format!("{error} {error:?} {token:?}").contains("canary"), "{error:?}");
        }
        let verified = verifier().verify_now(&token(&with(&claims(), json!({"admin": "canary"}))), now()).unwrap();
        assert!(!format!("{verified:?} {:?}", verifier()).contains("canary"));
    }

    #[test]
    fn a_verifier_and_its_futures_cross_threads() {
        fn crosses_threads<T: Send>(value: T) -> T {
            value
        }
        let (verifier, token) = (crosses_threads(verifier()), token(&claims()));
        drop(crosses_threads(verifier.verify(&token, now())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_verifier_panic(text in "[A-Za-z0-9._~+/-]{1,300}", segments in prop::array::uniform3(prop::collection::vec(any::<u8>(), 0..80))) {
            let verifier = verifier();
            let encoded = segments.map(base64url).join(".");
            for text in [text, encoded] {
                let token = AccessToken::new(text).unwrap();
                let refusal = verifier.answer_now(&token, now()).unwrap().unwrap_err();
                prop_assert_eq!(Some(refusal.error), refused(&verifier, &token));
                prop_assert_eq!(refusal.claimed, verifier.claimed(&token));
            }
        }

        #[test]
        fn odd_claims_under_a_good_signature_never_panic(name in "iss|sub|aud|exp|nbf|iat|jti|act|scope|scp|roles|amr|cnf|azp|typ", text in "[\\[\\]{}\",:a-z0-9.eE+-]{0,40}") {
            let claims = with(&claims(), json!({&name: null})).to_string();
            let payload = format!("{},\"{name}\":{text}}}", claims.trim_end_matches('}'));
            let _ = verifier().verify_now(&seal(Algorithm::Ed25519, header(Algorithm::Ed25519).to_string(), payload), now());
        }

        #[test]
        fn a_token_changed_anywhere_never_verifies(index in any::<prop::sample::Index>(), replacement in "[A-Za-z0-9_.-]") {
            for algorithm in Algorithm::ALL {
                let good = sealed(algorithm, json!({}));
                let mut text = String::from_utf8(good.as_bytes().to_vec()).unwrap();
                let index = index.index(text.len());
                if text[index..=index] != replacement {
                    text.replace_range(index..=index, &replacement);
                    prop_assert!(refused(&verifier(), &AccessToken::new(text).unwrap()).is_some(), "{}", algorithm);
                }
            }
        }
    }
}
