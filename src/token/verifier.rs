use std::{collections::HashMap, fmt, sync::Arc};

use serde_json::{Map, Value};

use super::{
    AccessToken, Claimed, Issuer, ResolvedIssuers, TokenError, VerifiedToken,
    issuer::{Expectations, KeyOrigin, KindRule, SpiffeId},
    jws::Jws,
    tenants::{Answer, Tenant, Tenants},
    verified::Parts,
};
use crate::{
    ConfigError,
    health::Health,
    key::{Algorithm, Cache, IS_CRYPTO_AVAILABLE, Jwk, JwkSet, KeyErrorKind, Lookup},
    principal::{Audience, IssuerId},
    time::{Clock, SystemClock, UnixTime},
};

/// Verifies access tokens of the configured issuers: the one source of [`VerifiedToken`]s.
///
/// What it checks, in this order, each failure a [`TokenError`] of its own:
///
/// 1. size, and the strict form of a compact JWS (one text per token, no repeated members, no `crit`);
/// 2. `iss` against the configured issuers, byte by byte (of a JWT-SVID without one the trust domain in `sub`): of other issuers' tokens
///    nothing more is looked at, and no I/O is done but what a [resolver](VerifierBuilder::with_resolved_issuers) does;
/// 3. `typ` and `alg` against what that issuer may use;
/// 4. the signature, under a key of that issuer that is meant for that algorithm;
/// 5. every claim that is used: its form, then `aud`, the kind of token, `exp`, `nbf`, `iat` and the life in between;
/// 6. that the token is not bound to a key (`cnf`), because nothing here proves its possession.
///
/// What it leaves to the caller: scope, policy, revocation, and whether this tenant, client or subject is welcome.
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
    tenants: Option<Arc<Tenants>>,
    max_token_size: usize,
}

/// An issuer whose configuration was checked, and its keys.
pub(super) struct Trusted {
    expectations: Expectations,
    keys: Arc<Cache>,
    key_origin: KeyOrigin,
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
        VerifierBuilder { issuers, resolved: None, clock: Arc::new(SystemClock), max_token_size: DEFAULT_TOKEN_SIZE }
    }

    /// Verifies a token as of `now`, and waits for the issuer's keys where that may bring the one that is missing, and for the look-up
    /// of an issuer that is not in memory.
    ///
    /// Dropping the future cancels no key refresh and no look-up.
    ///
    /// # Errors
    ///
    /// [`TokenError`], the first that applies in the order of its variants.
    pub async fn verify(&self, token: &AccessToken, now: UnixTime) -> Result<VerifiedToken, TokenError> {
        let candidate = match self.0.examine(token)? {
            Examined::Candidate(candidate) => candidate,
            Examined::Unresolved(unresolved) => unresolved.resolve().await?,
        };
        let kid = candidate.kid();
        let keys = &candidate.issuer.keys;
        let keys = match keys.lookup(kid, candidate.algorithm) {
            Lookup::Wait => {
                keys.refresh(candidate.jws.header.kid.clone()).await;
                keys.lookup_settled(kid, candidate.algorithm)
            }
            settled => settled,
        };
        match keys {
            Lookup::Keys(keys) => candidate.verify(&keys, now),
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
        let candidate = match self.0.examine(token) {
            Ok(Examined::Candidate(candidate)) => candidate,
            Ok(Examined::Unresolved(_)) => return None,
            Err(error) => return Some(Err(error)),
        };
        match candidate.issuer.keys.lookup(candidate.kid(), candidate.algorithm) {
            Lookup::Keys(keys) => Some(candidate.verify(&keys, now)),
            Lookup::Unknown => Some(Err(TokenError::UnknownKey)),
            Lookup::Unavailable(kind) => Some(Err(TokenError::KeysUnavailable(kind))),
            Lookup::Wait => None,
        }
    }

    /// What the token claims, unverified: for the audit record of a refusal. Never fails; what cannot be read is absent.
    #[must_use]
    pub fn claimed(&self, token: &AccessToken) -> Claimed {
        Claimed::of(token.as_bytes(), self.0.max_token_size)
    }

    /// Whether the keys of every configured issuer can be had: the worst of them speaks for all. [Resolved](ResolvedIssuers) issuers
    /// are left out, because one of many must not take the service out of rotation for the others.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut worst = Health::Ready;
        for issuer in &self.0.issuers {
            worst = match (worst, issuer.keys.health()) {
                (Health::Unavailable(first), _) => Health::Unavailable(first),
                (_, unavailable @ Health::Unavailable(_)) => unavailable,
                (Health::Ready, health) => health,
                (worst, _) => worst,
            };
        }
        worst
    }

    /// The configured issuers whose tokens are accepted, in the order of configuration.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerId> {
        self.0.issuers.iter().flat_map(|issuer| &issuer.expectations.ids)
    }

    /// Whether issuers beyond those are looked up.
    pub(crate) fn resolves(&self) -> bool {
        self.0.tenants.is_some()
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
    /// Everything that needs no key.
    fn examine<'a>(&'a self, token: &'a AccessToken) -> Result<Examined<'a>, TokenError> {
        let token = token.as_bytes();
        if token.len() > self.max_token_size {
            return Err(TokenError::TooLong { limit: self.max_token_size });
        }
        let jws = Jws::parse(token)?;
        let name = named_issuer(&jws.claims).ok_or(TokenError::UnknownIssuer)?;
        if let Some((id, issuer)) = self.by_id.get_key_value(name) {
            return Candidate::new(jws, id, issuer, None).map(Examined::Candidate);
        }
        let tenants = self.tenants.as_ref().ok_or(TokenError::UnknownIssuer)?;
        match tenants.find(name) {
            Some(answer) => Candidate::of_tenant(jws, tenants, answer).map(Examined::Candidate),
            None => {
                let name = name.into();
                Ok(Examined::Unresolved(Unresolved { jws, tenants, name }))
            }
        }
    }
}

/// The name of the issuer that a token claims: `iss`, or, without one, the trust domain of a SPIFFE ID in `sub`.
fn named_issuer(claims: &Map<String, Value>) -> Option<&str> {
    match claims.get("iss") {
        Some(issuer) => issuer.as_str(),
        None => SpiffeId::parse(claims.get("sub")?.as_str()?).map(|id| id.issuer()),
    }
}

enum Examined<'a> {
    Candidate(Candidate<'a>),
    Unresolved(Unresolved<'a>),
}

/// A token in good form whose issuer has to be looked up.
struct Unresolved<'a> {
    jws: Jws<'a>,
    tenants: &'a Arc<Tenants>,
    name: Arc<str>,
}

impl<'a> Unresolved<'a> {
    async fn resolve(self) -> Result<Candidate<'a>, TokenError> {
        let answer = self.tenants.resolve(self.name).await;
        Candidate::of_tenant(self.jws, self.tenants, answer)
    }
}

impl Trusted {
    /// Checks the configuration and starts to load keys.
    fn new(issuer: Issuer, clock: &Arc<dyn Clock>) -> Result<Self, ConfigError> {
        let key_origin = issuer.key_origin();
        Self::renewed(issuer, key_origin, clock, None)
    }

    /// As [`new`](Self::new), but keys that `earlier` has from the same place are used on.
    pub(super) fn renewed(
        issuer: Issuer,
        key_origin: KeyOrigin,
        clock: &Arc<dyn Clock>,
        earlier: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let name = issuer.url().to_owned();
        let (expectations, source) = issuer.into_parts()?;
        let keys = match earlier.filter(|earlier| earlier.key_origin.is_same_as(&key_origin)) {
            Some(earlier) => Arc::clone(&earlier.keys),
            None => Cache::builder(source).with_name(name).build(Arc::clone(clock))?,
        };
        Ok(Self { expectations, keys, key_origin })
    }
}

/// A token in good form that names one of our issuers. Its signature is not verified yet.
struct Candidate<'a> {
    jws: Jws<'a>,
    /// The one of its names that the token gives.
    id: IssuerId,
    issuer: Arc<Trusted>,
    algorithm: Algorithm,
    /// Who is to be told that the issuer is in use.
    tenant: Option<(&'a Tenants, Arc<Tenant>)>,
}

impl<'a> Candidate<'a> {
    fn of_tenant(jws: Jws<'a>, tenants: &'a Tenants, answer: Answer) -> Result<Self, TokenError> {
        let tenant = answer?;
        Self::new(jws, &tenant.id, &tenant.trusted, Some((tenants, Arc::clone(&tenant))))
    }

    fn new(
        jws: Jws<'a>,
        id: &IssuerId,
        issuer: &Arc<Trusted>,
        tenant: Option<(&'a Tenants, Arc<Tenant>)>,
    ) -> Result<Self, TokenError> {
        let expectations = &issuer.expectations;
        let is_spiffe = matches!(expectations.profile.kind, KindRule::Spiffe);
        if !is_spiffe && !jws.claims.contains_key("iss") {
            return Err(TokenError::UnknownIssuer);
        }
        if !expectations.profile.accepts_type(jws.header.typ.as_deref()) {
            return Err(TokenError::Type);
        }
        // JWT-SVID §2: other header parameters are not for SVIDs.
        if is_spiffe && jws.header.has_more {
            return Err(TokenError::HeaderParameter("more than alg, kid, typ"));
        }
        let algorithm = Algorithm::from_name(&jws.header.alg).filter(|named| expectations.algorithms.contains(named));
        let algorithm = algorithm.ok_or(TokenError::Algorithm)?;
        // A trust domain is one party, whatever its SVIDs have in `iss`.
        let id = expectations.ids.first().filter(|_| is_spiffe).unwrap_or(id).clone();
        Ok(Self { jws, id, issuer: Arc::clone(issuer), algorithm, tenant })
    }

    fn kid(&self) -> Option<&str> {
        self.jws.header.kid.as_deref()
    }

    /// The signature before any claim: of a forged token it matters not whether it has expired.
    fn verify(self, keys: &JwkSet, now: UnixTime) -> Result<VerifiedToken, TokenError> {
        let key = self.signing_key(keys)?.clone();
        let expectations = &self.issuer.expectations;
        let thumbprint = self.jws.segments.thumbprint();
        let accepted = expectations.accept(&self.id, &self.jws.claims, now, &thumbprint)?;
        if let Some((tenants, tenant)) = &self.tenant {
            tenants.confirm(tenant);
        }
        Ok(VerifiedToken::from_verification(Parts {
            principal: accepted.principal,
            issuer: self.id,
            audience: accepted.audience,
            token_id: accepted.token_id,
            expires_at: accepted.expires_at,
            not_before: accepted.not_before,
            issued_at: accepted.issued_at,
            thumbprint,
            key_id: key.kid().cloned(),
            key_thumbprint: key.thumbprint().clone(),
            claims: self.jws.claims,
        }))
    }

    fn signing_key<'k>(&'k self, keys: &'k JwkSet) -> Result<&'k Jwk, TokenError> {
        let mut refusal = TokenError::UnknownKey;
        for key in keys.candidates(self.kid(), self.algorithm) {
            if key.verify(self.algorithm, self.jws.segments.signing_input(), &self.jws.signature) {
                return Ok(key);
            }
            refusal = TokenError::Signature;
        }
        Err(refusal)
    }
}

/// Builds a [`Verifier`].
pub struct VerifierBuilder {
    issuers: Vec<Issuer>,
    resolved: Option<ResolvedIssuers>,
    clock: Arc<dyn Clock>,
    max_token_size: usize,
}

impl VerifierBuilder {
    /// Accepts the tokens of one more issuer. Each has its own keys, audiences and rules; a token is judged by those of the issuer
    /// that it names.
    #[must_use]
    pub fn add_issuer(mut self, issuer: Issuer) -> Self {
        self.issuers.push(issuer);
        self
    }

    /// Also accepts the tokens of issuers that are looked up when a token names them. The configured ones go first; of their tokens the
    /// resolver hears nothing.
    #[must_use]
    pub fn with_resolved_issuers(mut self, issuers: ResolvedIssuers) -> Self {
        self.resolved = Some(issuers);
        self
    }

    /// The clock that the key caches measure freshness with. Default [`SystemClock`]. The time that tokens are judged by is the `now` of
    /// each call.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The longest token that is looked at, in bytes. Default 16 KiB; from 1 KiB to 1 MiB.
    #[must_use]
    pub const fn with_max_token_size(mut self, bytes: usize) -> Self {
        self.max_token_size = bytes;
        self
    }

    /// Checks the configuration and starts to load keys.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field at fault: an issuer that is no https URL (http is for loopback alone) or is configured twice, a
    /// blank audience, no algorithm, leeway over 120 s, no lifetime, a token size out of bounds, a feature that is missing; for keys
    /// that come over the network, and for issuers that are looked up, also the lack of a Tokio runtime.
    pub fn build(self) -> Result<Verifier, ConfigError> {
        if !IS_CRYPTO_AVAILABLE {
            return Err(ConfigError::FeatureMissing { field: "verifier".into(), feature: "aws-lc-rs" });
        }
        if !TOKEN_SIZES.contains(&self.max_token_size) {
            let remedy = "choose from 1024 to 1048576 bytes; servers cut headers off long before that";
            return Err(ConfigError::invalid("verifier.max_token_size", self.max_token_size.to_string(), remedy));
        }
        let mut issuers: Vec<Arc<Trusted>> = Vec::new();
        let mut by_id = HashMap::new();
        for issuer in self.issuers {
            let trusted = Arc::new(Trusted::new(issuer, &self.clock)?);
            for id in &trusted.expectations.ids {
                if by_id.insert(id.clone(), Arc::clone(&trusted)).is_some() {
                    let remedy = "configure each issuer once; `add_audience` accepts more audiences";
                    return Err(ConfigError::invalid("issuer.url", id.as_str(), remedy));
                }
            }
            issuers.push(trusted);
        }
        let tenants = self.resolved.map(|issuers| Tenants::new(issuers, self.clock)).transpose()?;
        Ok(Verifier(Arc::new(Trust { issuers, by_id, tenants, max_token_size: self.max_token_size })))
    }
}

impl fmt::Debug for VerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierBuilder")
            .field("issuers", &self.issuers)
            .field("max_token_size", &self.max_token_size)
            .finish_non_exhaustive()
    }
}

const DEFAULT_TOKEN_SIZE: usize = 16 * 1024;
const TOKEN_SIZES: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use async_trait::async_trait;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        key::{KeyError, KeySource, LoadRequest, LoadedKeys},
        token::test_tokens::{
            NOW, base64url, header, now, public_bytes, public_key, public_keys, seal, sign, token, with,
        },
    };

    const ISSUER: &str = "https://login.example/";

    fn issuer() -> Issuer {
        Issuer::oauth(ISSUER, "https://api.example").with_keys(public_keys())
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
            assert_eq!(verified.key_thumbprint(), public_key(algorithm).thumbprint());
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
    async fn the_first_token_waits_for_the_first_keys() {
        let source = Arc::new(Late::default());
        *source.keys.lock().unwrap() = Some(public_keys());
        let verifier = Verifier::builder(issuer().with_key_source(Arc::clone(&source))).build().unwrap();
        assert!(verifier.verify(&token(&claims()), now()).await.is_ok());
        assert!(verifier.verify_now(&token(&claims()), now()).is_some_and(|verified| verified.is_ok()));
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
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
            "RS512",
            "ES512",
            "ES256K",
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

    #[test]
    fn a_wrong_configuration_does_not_build() {
        let table = [
            ("size 0", Verifier::builder(issuer()).with_max_token_size(0), "verifier.max_token_size"),
            (
                "size over the cap",
                Verifier::builder(issuer()).with_max_token_size((1 << 20) + 1),
                "verifier.max_token_size",
            ),
            ("issuer twice", Verifier::builder(issuer()).add_issuer(issuer()), "issuer.url"),
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
                prop_assert!(refused(&verifier, &token).is_some());
                let _ = verifier.claimed(&token);
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
