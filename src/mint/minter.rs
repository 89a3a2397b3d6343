use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    PublicJwk, SignError, SignRequest, Signature, Signer,
    claims::{Mint, Narrowed, Source},
};
use crate::{
    ConfigError,
    key::Algorithm,
    principal::{Actor, Audience, IssuerId, Thumbprint, TokenId},
    scope::Scope,
    time::UnixTime,
    token::VerifiedToken,
};

/// Makes internal access tokens (`at+jwt`, [RFC 9068](https://www.rfc-editor.org/rfc/rfc9068)) that can only narrow. See the
/// [module docs](super) for its rules. Cheap to clone.
#[derive(Clone)]
pub struct Minter {
    mint: Arc<Mint>,
    signer: Arc<dyn Signer>,
}

/// Builds a [`Minter`].
#[must_use = "a builder does nothing until it is built"]
pub struct MinterBuilder {
    mint: Mint,
    signer: Arc<dyn Signer>,
}

/// Which token is wanted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MintRequest {
    /// The one service that the token is for: its `aud`.
    pub audience: Audience,
    /// The scope that is wanted; what the source does not hold is left out.
    pub scope: Scope,
    /// How long the token is wanted to live, at least one second. `None`: as long as the minter's cap and the source allow.
    pub lifetime: Option<Duration>,
    /// Further claims. None of them may identify or entitle somebody.
    pub claims: Map<String, Value>,
}

/// A token that was minted, and what may be known of it. `Debug` does not show the token; there is no `Display`.
#[derive(Clone)]
pub struct MintedToken {
    compact: Box<str>,
    thumbprint: Thumbprint,
    audience: Audience,
    narrowed: Arc<Narrowed>,
}

/// Why no token was minted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// The source is bound to a key (`cnf`): a token made from it would not be.
    #[error("the source token is bound to a key")]
    SourceBound,
    /// Less than a second is left of the source. The leeway of its verification does not count.
    #[error("the source token has expired")]
    SourceExpired,
    /// A claim of the source that is needed is missing or has the wrong type.
    #[error("`{0}` of the source token is missing or not well formed")]
    SourceClaim(&'static str),
    /// The source has five actors already.
    #[error("the source token has too many actors")]
    TooManyActors,
    /// Nothing of the scope that is wanted is held by the source.
    #[error("the source token holds nothing of the scope that is asked for")]
    NoScope,
    /// The audience is empty.
    #[error("the audience is empty")]
    Audience,
    /// The lifetime that is wanted is less than a second.
    #[error("the lifetime is less than a second")]
    Lifetime,
    /// An added claim would identify or entitle somebody.
    #[error("`{0}` is not for callers to set")]
    ReservedClaim(String),
    /// There is no signature.
    #[error("there is no signature")]
    Signer(#[source] SignError),
}

impl MintError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SourceBound => "mint_source_bound",
            Self::SourceExpired => "mint_source_expired",
            Self::SourceClaim(_) => "mint_source_claim",
            Self::TooManyActors => "mint_too_many_actors",
            Self::NoScope => "mint_no_scope",
            Self::Audience => "mint_audience",
            Self::Lifetime => "mint_lifetime",
            Self::ReservedClaim(_) => "mint_reserved_claim",
            Self::Signer(error) => error.kind().code(),
        }
    }
}

impl Minter {
    /// A minter of tokens whose `iss` is `issuer`, for calls made by `service`.
    ///
    /// `issuer` names the trust domain's own issuer, never the one whose tokens come from outside. `service` becomes the
    /// outermost actor of every token, so that no call is made in a user's name alone. `signer` holds the key.
    pub fn builder(issuer: IssuerId, service: Actor, signer: Arc<dyn Signer>) -> MinterBuilder {
        MinterBuilder { mint: Mint { issuer, service, max_lifetime: Duration::from_secs(300) }, signer }
    }

    /// Mints a token that grants no more than `source`, as the [module docs](super) say.
    ///
    /// # Errors
    ///
    /// [`MintError`]; no token exists then.
    pub async fn mint(
        &self,
        source: &VerifiedToken,
        request: MintRequest,
        now: UnixTime,
    ) -> Result<MintedToken, MintError> {
        let narrowed = self.mint.narrow(&Source::of(source)?, &request, now)?;
        self.issue(narrowed, request.audience).await
    }

    async fn issue(&self, narrowed: Narrowed, audience: Audience) -> Result<MintedToken, MintError> {
        let key = self.signer.public_jwk();
        let header = json!({"typ": "at+jwt", "alg": key.algorithm().name(), "kid": key.key_id()});
        let mut compact = URL_SAFE_NO_PAD.encode(header.to_string());
        compact.push('.');
        URL_SAFE_NO_PAD.encode_string(Value::Object(narrowed.claims.clone()).to_string(), &mut compact);
        let thumbprint = Thumbprint::new(URL_SAFE_NO_PAD.encode(Sha256::digest(&compact)));

        let request = SignRequest::new(Arc::clone(key.key_id()), Bytes::from(compact.clone()));
        let signature = match self.signer.sign_now(&request) {
            Some(signature) => signature,
            None => Arc::clone(&self.signer).sign(request).await,
        };
        let signature = signature.and_then(|signature| well_formed(signature, &key)).map_err(MintError::Signer)?;

        compact.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_bytes(), &mut compact);
        Ok(MintedToken { compact: compact.into(), thumbprint, audience, narrowed: Arc::new(narrowed) })
    }

    /// The public half of the key that signs new tokens.
    #[must_use]
    pub fn public_jwk(&self) -> PublicJwk {
        self.signer.public_jwk()
    }
}

/// The usual mistake of a signer around a KMS is a signature in DER, which would fail at every receiver instead of here.
fn well_formed(signature: Signature, key: &PublicJwk) -> Result<Signature, SignError> {
    let length = match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Es256 => 64,
        Algorithm::Es384 => 96,
        Algorithm::Es512 => 132,
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512 => return Ok(signature),
    };
    if signature.as_bytes().len() == length {
        return Ok(signature);
    }
    Err(SignError::unavailable(format!(
        "the signer gave {} bytes where {} demands {length}: `R || S` and not DER",
        signature.as_bytes().len(),
        key.algorithm()
    )))
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").field("mint", &self.mint).field("key", &self.signer.public_jwk()).finish()
    }
}

impl MinterBuilder {
    /// Sets the longest life of a token. Default 5 min; 1 s to 1 h.
    pub const fn with_max_lifetime(mut self, lifetime: Duration) -> Self {
        self.mint.max_lifetime = lifetime;
        self
    }

    /// Builds the minter.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Missing`] without an issuer or service, [`ConfigError::Invalid`] for a lifetime outside its bounds.
    pub fn build(self) -> Result<Minter, ConfigError> {
        let Mint { issuer, service, max_lifetime } = &self.mint;
        if issuer.as_str().is_empty() {
            return Err(ConfigError::missing("minter.issuer", "name the issuer of the trust domain's own tokens"));
        }
        if service.subject.as_str().is_empty() {
            return Err(ConfigError::missing("minter.service", "name the service that makes the calls"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(max_lifetime) {
            return Err(ConfigError::invalid(
                "minter.max_lifetime",
                format!("{max_lifetime:?}"),
                "choose 1 s to 1 h: the shorter, the less a stolen token is worth",
            ));
        }
        Ok(Minter { mint: Arc::new(self.mint), signer: self.signer })
    }
}

impl fmt::Debug for MinterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MinterBuilder").field("mint", &self.mint).finish_non_exhaustive()
    }
}

impl MintRequest {
    /// Asks for a token for this service with this scope.
    #[must_use]
    pub fn new(audience: Audience, scope: Scope) -> Self {
        Self { audience, scope, lifetime: None, claims: Map::new() }
    }

    /// Sets how long the token shall live; the minter's cap and the source's end bound it.
    #[must_use]
    pub const fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Adds a claim. Minting refuses names that identify, entitle or limit somebody (`sub`, `scope`, `roles` and the like).
    #[must_use]
    pub fn add_claim(mut self, name: impl Into<String>, value: Value) -> Self {
        self.claims.insert(name.into(), value);
        self
    }
}

impl MintedToken {
    /// The compact token, to be sent. Whoever holds this text can use it: never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.compact
    }

    /// `jti`.
    #[must_use]
    pub fn token_id(&self) -> &TokenId {
        &self.narrowed.token_id
    }

    /// `txn`: the same in every token of one transaction.
    #[must_use]
    pub fn transaction_id(&self) -> &str {
        &self.narrowed.transaction_id
    }

    /// base64url(SHA-256(JWS signing input)): names the token without enabling its use.
    #[must_use]
    pub const fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// `aud`.
    #[must_use]
    pub const fn audience(&self) -> &Audience {
        &self.audience
    }

    /// The scope that was granted.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.narrowed.scope
    }

    /// `exp`.
    #[must_use]
    pub fn expires_at(&self) -> UnixTime {
        self.narrowed.expires_at
    }
}

impl fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedToken")
            .field("token_id", &self.narrowed.token_id)
            .field("audience", &self.audience)
            .field("scope", &self.narrowed.scope)
            .field("expires_at", &self.narrowed.expires_at)
            .field("thumbprint", &self.thumbprint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::{
        key::JwkSet,
        mint::LocalSigner,
        principal::{PrincipalKind, Subject},
        testing::{FrozenClock, TestIssuer},
        token::{AccessToken, Issuer, Verifier},
    };

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn minter(signer: Arc<dyn Signer>) -> Minter {
        let service = Actor::new(Subject::new("gateway"));
        Minter::builder(IssuerId::new("https://internal.example"), service, signer).build().unwrap()
    }

    async fn issue(minter: &Minter) -> Result<MintedToken, MintError> {
        let scope = Scope::parse("jobs:read").unwrap();
        let source = Source {
            issuer: &IssuerId::new("https://tenant.auth0.example/"),
            subject: "auth0|alice",
            kind: PrincipalKind::User,
            client: None,
            scope: &scope,
            actors: &[],
            is_bound: false,
            expires_at: NOW.saturating_add(Duration::from_secs(60)),
            claims: &Map::new(),
        };
        let request = MintRequest::new(Audience::new("orders"), scope.clone());
        minter.issue(minter.mint.narrow(&source, &request, NOW)?, request.audience).await
    }

    fn decoded(segment: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).unwrap()).unwrap()
    }

    /// A signer that is asked over a network and answers with a fixed result.
    struct Distant(PublicJwk, fn() -> Result<Signature, SignError>);

    #[async_trait]
    impl Signer for Distant {
        async fn sign(self: Arc<Self>, _: SignRequest) -> Result<Signature, SignError> {
            tokio::task::yield_now().await;
            self.1()
        }

        fn public_jwk(&self) -> PublicJwk {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn the_token_names_its_type_and_the_key_that_signed_it() {
        let signer = Arc::new(LocalSigner::generate(Algorithm::Ed25519).unwrap());
        let minted = issue(&minter(signer.clone())).await.unwrap();
        let [header, claims, signature] = minted.expose().split('.').collect::<Vec<_>>().try_into().unwrap();
        let key = signer.public_jwk();
        assert_eq!(decoded(header), json!({"typ": "at+jwt", "alg": "Ed25519", "kid": key.key_id()}));
        assert_eq!(decoded(claims)["jti"], json!(minted.token_id()));
        // Ed25519 is deterministic: the same input under the same key gives the same signature.
        let again = signer.sign_bytes(format!("{header}.{claims}").as_bytes()).unwrap();
        assert_eq!(signature, URL_SAFE_NO_PAD.encode(again.as_bytes()));
        assert_eq!(minted.expires_at(), UnixTime::from_secs(1_800_000_060));
    }

    #[tokio::test]
    async fn without_a_signature_there_is_no_token() {
        let key = LocalSigner::generate(Algorithm::Es256).unwrap().public_jwk();
        type Answer = fn() -> Result<Signature, SignError>;
        let table: [(&str, Answer, &str); 3] = [
            ("down", || Err(SignError::unavailable("connection refused")), "signer_unavailable"),
            ("slow", || Err(SignError::timeout("250 ms")), "signer_timeout"),
            ("in DER", || Ok(Signature::new([0x30; 71])), "signer_unavailable"),
        ];
        for (name, answer, code) in table {
            let error = issue(&minter(Arc::new(Distant(key.clone(), answer)))).await.unwrap_err();
            assert_eq!(error.code(), code, "{name}");
        }
        let distant = Distant(key, || Ok(Signature::new([7; 64])));
        assert!(issue(&minter(Arc::new(distant))).await.is_ok());
    }

    #[tokio::test]
    async fn a_minted_token_is_not_printed() {
        let minted = issue(&minter(Arc::new(LocalSigner::generate(Algorithm::Es256).unwrap()))).await.unwrap();
        let shown = format!("{minted:?}");
        assert!(shown.contains(minted.token_id().as_str()));
        for segment in minted.expose().split('.') {
            assert!(!shown.contains(segment), "{shown}");
        }
    }

    fn verifier(url: &str, audience: &str, keys: JwkSet) -> Verifier {
        Verifier::builder(Issuer::rfc9068(url, audience).with_keys(keys)).build().unwrap()
    }

    /// The next hop verifies what this one minted, and mints in turn.
    #[tokio::test]
    async fn a_chain_of_services_keeps_subject_and_transaction_and_narrows_at_every_hop() {
        let clock = FrozenClock::at(NOW);
        let login = TestIssuer::builder().with_clock(clock.clone()).start().await;
        let edge = verifier(login.url(), TestIssuer::AUDIENCE, login.key_set());
        let token = login.token().scope("jobs:read jobs:write").claim("txn", "t-1").mint();
        let outer = edge.verify(&token.access_token(), NOW).await.unwrap();

        let signer = Arc::new(LocalSigner::generate(Algorithm::Es256).unwrap());
        let document = json!({"keys": [signer.public_jwk().members()]}).to_string();
        let keys = JwkSet::parse(document.as_bytes()).unwrap();
        let minter = |service: &str| {
            let service = Actor::new(Subject::new(service));
            Minter::builder(IssuerId::new("https://internal.example"), service, signer.clone()).build().unwrap()
        };
        let request = |audience, scope| MintRequest::new(Audience::new(audience), Scope::parse(scope).unwrap());

        let first = minter("gateway").mint(&outer, request("orders", "jobs:read jobs:admin"), NOW).await.unwrap();
        let orders = verifier("https://internal.example", "orders", keys.clone());
        let inner = orders.verify(&access_token(&first), NOW).await.unwrap();
        assert_eq!(inner.principal().subject(), outer.principal().subject());
        assert_eq!(inner.thumbprint(), first.thumbprint());
        assert_eq!(inner.principal().scope().to_string(), "jobs:read");

        let second = minter("orders").mint(&inner, request("billing", "jobs:read"), NOW).await.unwrap();
        let billing = verifier("https://internal.example", "billing", keys);
        let last = billing.verify(&access_token(&second), NOW).await.unwrap();
        let actors: Vec<_> = last.principal().actors().iter().map(|actor| actor.subject.as_str()).collect();
        assert_eq!(actors, ["orders", "gateway"]);
        assert_eq!((first.transaction_id(), second.transaction_id()), ("t-1", "t-1"));
        assert_ne!(first.token_id(), second.token_id());
        assert!(second.expires_at() <= first.expires_at());

        // What it narrowed away does not come back, and a token for one service is worth nothing at another.
        let widening = minter("orders").mint(&inner, request("billing", "jobs:write"), NOW).await.unwrap_err();
        assert_eq!(widening.code(), "mint_no_scope");
        assert!(billing.verify(&access_token(&first), NOW).await.is_err());
        assert!(edge.verify(&access_token(&first), NOW).await.is_err());
    }

    fn access_token(minted: &MintedToken) -> AccessToken {
        let value = http::HeaderValue::try_from(format!("Bearer {}", minted.expose())).unwrap();
        let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        AccessToken::from_headers(&headers).unwrap().unwrap()
    }

    #[test]
    fn a_minter_without_names_or_with_an_odd_lifetime_does_not_build() {
        let build = |issuer: &str, service: &str, seconds| {
            let signer = Arc::new(LocalSigner::generate(Algorithm::Ed25519).unwrap());
            Minter::builder(IssuerId::new(issuer), Actor::new(Subject::new(service)), signer)
                .with_max_lifetime(Duration::from_secs(seconds))
                .build()
        };
        for (issuer, service, seconds, field) in [
            ("", "gateway", 300, "minter.issuer"),
            ("https://internal.example", "", 300, "minter.service"),
            ("https://internal.example", "gateway", 0, "minter.max_lifetime"),
            ("https://internal.example", "gateway", 3601, "minter.max_lifetime"),
        ] {
            assert_eq!(build(issuer, service, seconds).unwrap_err().field(), field);
        }
        assert!(build("https://internal.example", "gateway", 3600).is_ok());
    }
}
