use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::{Map, Value, json};

use super::{TestIssuer, serve::Shared};
use crate::{
    key::{Algorithm, SharedSecret},
    token::AccessToken,
};

/// A token of a [`TestIssuer`] in the making: good unless it is told otherwise. Later words win over earlier ones.
#[derive(Clone, Debug)]
#[must_use = "a token is made by `mint`"]
pub struct TokenBuilder {
    issuer: Arc<Shared>,
    forger: Option<Arc<Shared>>,
    algorithm: Algorithm,
    now: u64,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    raw_header: Option<String>,
    raw_claims: Option<String>,
    signature: Option<Vec<u8>>,
    secret: Option<SharedSecret>,
    is_tampered: bool,
}

/// A compact token, good or bad. Its `Debug` does not show it.
#[derive(Clone)]
pub struct TestToken(String);

impl TokenBuilder {
    pub(super) fn new(issuer: Arc<Shared>) -> Self {
        let now = issuer.clock.now().as_secs();
        let claims = [
            ("iss", json!(issuer.issuer())),
            ("sub", json!("auth0|alice")),
            ("aud", json!(TestIssuer::AUDIENCE)),
            ("client_id", json!("web")),
            ("iat", json!(now)),
            ("exp", json!(now + 300)),
            ("jti", json!(crate::random::hex_128().as_str())),
        ];
        Self {
            issuer,
            forger: None,
            algorithm: Algorithm::Rs256,
            now,
            header: Map::from_iter([("typ".to_owned(), json!("at+jwt"))]),
            claims: claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            raw_header: None,
            raw_claims: None,
            signature: None,
            secret: None,
            is_tampered: false,
        }
    }

    /// Sets a claim to any JSON, fitting or not.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Takes a claim away.
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets `sub`.
    pub fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    /// Sets `client_id`: the client that the subject uses.
    pub fn client(self, client: &str) -> Self {
        self.claim("client_id", client)
    }

    /// Makes it the token of a client that acts for itself: `sub` is the client (`<client>@clients` in Auth0 style).
    pub fn machine(self, client: &str) -> Self {
        let subject = if self.issuer.auth0_style { format!("{client}@clients") } else { client.to_owned() };
        self.client(client).claim("sub", subject)
    }

    /// Sets `aud`.
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", audience)
    }

    /// Sets `aud` to a list.
    pub fn audiences<'a>(self, audiences: impl IntoIterator<Item = &'a str>) -> Self {
        self.claim("aud", audiences.into_iter().collect::<Vec<_>>())
    }

    /// Sets `scope`, words split by single spaces.
    pub fn scope(self, scope: &str) -> Self {
        self.claim("scope", scope)
    }

    /// Sets `permissions`.
    pub fn permissions<'a>(self, permissions: impl IntoIterator<Item = &'a str>) -> Self {
        self.claim("permissions", permissions.into_iter().collect::<Vec<_>>())
    }

    /// Adds an actor in front of those that are there already.
    pub fn actor(mut self, subject: &str) -> Self {
        let mut act = Map::from_iter([("sub".to_owned(), json!(subject))]);
        act.extend(self.claims.remove("act").map(|earlier| ("act".to_owned(), earlier)));
        self.claim("act", act)
    }

    /// Sets `exp`, in seconds from now.
    pub fn expires_in(self, seconds: u64) -> Self {
        let at = self.now.saturating_add(seconds);
        self.claim("exp", at)
    }

    /// Makes it a token that was issued ten minutes and expired five minutes ago, beyond every leeway.
    pub fn expired(self) -> Self {
        let (issued, expired) = (self.now.saturating_sub(600), self.now.saturating_sub(300));
        self.claim("iat", issued).claim("exp", expired)
    }

    /// Makes it a token as Auth0 issued them before RFC 9068: `typ` is `JWT`, the client is in `azp`, and there is no `jti`.
    pub fn classic(mut self) -> Self {
        let client = self.claims.remove("client_id");
        self.claims.extend(client.map(|client| ("azp".to_owned(), client)));
        self.without("jti").typ("JWT")
    }

    /// Sets a header parameter to any JSON.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Sets `typ`.
    pub fn typ(self, typ: &str) -> Self {
        self.header("typ", typ)
    }

    /// Takes `typ` away.
    pub fn without_typ(mut self) -> Self {
        self.header.remove("typ");
        self
    }

    /// Sets `kid`, whatever key signs.
    pub fn kid(self, kid: &str) -> Self {
        self.header("kid", kid)
    }

    /// Takes `kid` away.
    pub fn without_kid(self) -> Self {
        self.header("kid", Value::Null)
    }

    /// Signs with the issuer's key for this algorithm, and names it in `alg`.
    pub const fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Forges: header and claims are those of this issuer, the signature is made with the other one's key.
    pub fn signed_by(mut self, other: &TestIssuer) -> Self {
        self.forger = Some(Arc::clone(&other.shared));
        self
    }

    /// Signs with HS256 under this secret, for an [`Issuer::with_shared_secret`](crate::token::Issuer::with_shared_secret). No `kid`,
    /// unless one is set.
    pub fn signed_with_secret(mut self, secret: &SharedSecret) -> Self {
        self.secret = Some(secret.clone());
        self
    }

    /// Puts these bytes in the signature's place; none at all for `alg: none`.
    pub fn signature(mut self, signature: impl Into<Vec<u8>>) -> Self {
        self.signature = Some(signature.into());
        self
    }

    /// Changes the claims after they were signed.
    pub const fn tampered(mut self) -> Self {
        self.is_tampered = true;
        self
    }

    /// Signs this text instead of the header: for what JSON values cannot say, such as a member that stands twice.
    pub fn raw_header(mut self, text: &str) -> Self {
        self.raw_header = Some(text.to_owned());
        self
    }

    /// Signs this text instead of the claims.
    pub fn raw_claims(mut self, text: &str) -> Self {
        self.raw_claims = Some(text.to_owned());
        self
    }

    /// Makes the token.
    #[must_use]
    pub fn mint(self) -> TestToken {
        let named = self.issuer.signing_key(self.algorithm);
        let mut header = self.header;
        if self.secret.is_some() {
            header.entry("alg").or_insert_with(|| json!("HS256"));
        } else {
            header.entry("alg").or_insert_with(|| json!(self.algorithm.name()));
            header.entry("kid").or_insert_with(|| json!(named.public().key_id()));
        }
        header.retain(|name, value| name != "kid" || !value.is_null());

        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let header = encode(&self.raw_header.unwrap_or_else(|| Value::Object(header).to_string()));
        let mut claims = self.claims;
        let signed = encode(&self.raw_claims.unwrap_or_else(|| json!(claims).to_string()));
        let signer = self.forger.map_or(named, |forger| forger.signing_key(self.algorithm));
        let signature = self.signature.unwrap_or_else(|| {
            let message = format!("{header}.{signed}");
            match &self.secret {
                Some(secret) => secret.sign(message.as_bytes()),
                None => signer.sign(message.as_bytes()),
            }
        });
        let sent = if self.is_tampered {
            // Whatever it was before: a token that was not changed would pass for one that was.
            let is_mallory = claims.get("sub").is_some_and(|subject| subject == "auth0|mallory");
            claims.insert("sub".to_owned(), json!(if is_mallory { "auth0|eve" } else { "auth0|mallory" }));
            encode(&json!(claims).to_string())
        } else {
            signed
        };
        TestToken(format!("{header}.{sent}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl TestToken {
    /// The compact token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of an `Authorization` header that carries it.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// As the bearer token of a request, for tests of a verifier alone.
    ///
    /// # Panics
    ///
    /// When a request could not carry the token, because a test made it too odd.
    #[must_use]
    pub fn access_token(&self) -> AccessToken {
        let value = HeaderValue::from_str(&self.bearer()).expect("base64url makes a header value");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        AccessToken::from_headers(&headers).expect("one bearer token").expect("a token is there")
    }
}

impl fmt::Debug for TestToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_lc_rs::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};

    use super::*;
    use crate::testing::FrozenClock;

    fn parts(token: &TestToken) -> (Value, Value) {
        let mut segments = token.as_str().split('.');
        let mut json = || serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segments.next().unwrap()).unwrap()).unwrap();
        (json(), json())
    }

    /// True when the token verifies under the key of the issuer that its `kid` names.
    fn verifies(issuer: &TestIssuer, token: &TestToken) -> bool {
        let (message, signature) = token.as_str().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let kid = &parts(token).0["kid"];
        let jwks = issuer.jwks();
        let key = jwks["keys"].as_array().unwrap().iter().find(|key| &key["kid"] == kid).unwrap();
        let member = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        if key["kty"] == "OKP" {
            return UnparsedPublicKey::new(&ED25519, member("x")).verify(message.as_bytes(), &signature).is_ok();
        }
        RsaPublicKeyComponents { n: member("n"), e: member("e") }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature)
            .is_ok()
    }

    #[tokio::test]
    async fn the_usual_token_is_a_good_one_of_a_user() {
        let clock = FrozenClock::default();
        let issuer = TestIssuer::builder().with_clock(clock.clone()).start().await;
        clock.advance(Duration::from_secs(60));
        let token = issuer.token().mint();
        let (header, claims) = parts(&token);
        assert_eq!(header, json!({"typ": "at+jwt", "alg": "RS256", "kid": issuer.key_id(Algorithm::Rs256)}));
        let expected = json!({
            "iss": issuer.url(), "sub": "auth0|alice", "aud": TestIssuer::AUDIENCE, "client_id": "web",
            "iat": 1_800_000_060, "exp": 1_800_000_360, "jti": claims["jti"],
        });
        assert_eq!(claims, expected);
        assert!(verifies(&issuer, &token));
        assert!(verifies(&issuer, &issuer.token().algorithm(Algorithm::Ed25519).mint()));
        assert_ne!(parts(&issuer.token().mint()).1["jti"], claims["jti"]);
    }

    #[tokio::test]
    async fn each_change_shows_in_the_token() {
        let issuer = TestIssuer::builder().with_auth0_style().with_clock(FrozenClock::default()).start().await;
        let claims = |builder: TokenBuilder| parts(&builder.mint()).1;
        assert_eq!(claims(issuer.token().machine("billing"))["sub"], "billing@clients");
        assert_eq!(
            claims(issuer.token().actor("agent").actor("gateway"))["act"],
            json!({"sub": "gateway", "act": {"sub": "agent"}})
        );
        assert_eq!(claims(issuer.token().expired())["exp"], 1_799_999_700);
        assert_eq!(claims(issuer.token().without("exp")).get("exp"), None);
        assert_eq!(claims(issuer.token().audiences(["a", "b"]))["aud"], json!(["a", "b"]));
        let (header, claims) = parts(&issuer.token().classic().mint());
        assert_eq!((&header["typ"], &claims["azp"]), (&json!("JWT"), &json!("web")));
        assert!(claims.get("jti").is_none() && claims.get("client_id").is_none());
        let (header, _) = parts(&issuer.token().without_kid().without_typ().header("crit", json!(["b64"])).mint());
        assert_eq!(header, json!({"alg": "RS256", "crit": ["b64"]}));
        assert!(issuer.token().header("alg", "none").signature([]).mint().as_str().ends_with('.'));
        let doubled = issuer.token().raw_claims(r#"{"sub":"a","sub":"b"}"#).mint();
        assert!(verifies(&issuer, &doubled));
    }

    #[tokio::test]
    async fn forged_and_tampered_tokens_do_not_verify() {
        let (issuer, other) = (TestIssuer::start().await, TestIssuer::start().await);
        let forged = issuer.token().signed_by(&other).mint();
        let (header, claims) = parts(&forged);
        assert_eq!(header["kid"], *issuer.key_id(Algorithm::Rs256));
        assert_eq!(claims["iss"], issuer.url());
        assert!(!verifies(&issuer, &forged));
        assert!(!verifies(&issuer, &issuer.token().tampered().mint()));
        assert!(!verifies(&issuer, &issuer.token().subject("auth0|mallory").tampered().mint()));
    }

    #[tokio::test]
    async fn a_secret_signs_in_the_keys_stead() {
        let issuer = TestIssuer::start().await;
        let secret = SharedSecret::new([7; 32]).unwrap();
        let token = issuer.token().signed_with_secret(&secret).mint();
        assert_eq!(parts(&token).0, json!({"typ": "at+jwt", "alg": "HS256"}));
        let (message, signature) = token.as_str().rsplit_once('.').unwrap();
        assert!(secret.verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()));
    }

    #[tokio::test]
    async fn a_token_is_not_printed() {
        let issuer = TestIssuer::start().await;
        assert_eq!(format!("{:?}", issuer.token().mint()), "TestToken(..)");
    }
}
