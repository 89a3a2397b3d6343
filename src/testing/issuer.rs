use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot};

use super::{
    Lie, TokenBuilder,
    serve::{Behaviour, KeyRing, Shared},
};
use crate::{
    key::{Algorithm, JwkSet},
    principal::IssuerId,
    time::{Clock, SystemClock},
};

/// An issuer for tests: serves discovery and its key set over loopback HTTP, mints any token, rotates its keys, and stalls,
/// fails and lies on demand.
///
/// It has one key for each [`Algorithm`]. Tokens can be minted without a request ever being made. Dropping it ends the server.
pub struct TestIssuer {
    pub(super) shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

/// Starts a [`TestIssuer`] that differs from the usual one.
#[must_use = "a builder does nothing until it is started"]
pub struct TestIssuerBuilder {
    auth0_style: bool,
    domain: Option<String>,
    clock: Arc<dyn Clock>,
}

/// How often a [`TestIssuer`] was asked, stalled and failed requests included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requests {
    /// Requests for the metadata.
    pub discovery: usize,
    /// Requests for the key set.
    pub jwks: usize,
    /// Requests that followed the redirect of [`Lie::Redirect`].
    pub redirected: usize,
    /// Requests for anything else, and those above that came with a query: a sign that text of a token reached an address.
    pub other: usize,
    /// Bytes that were taken of the documents that are too large or never end.
    pub streamed: usize,
}

impl TestIssuer {
    /// The audience of its tokens, unless a test says otherwise.
    pub const AUDIENCE: &'static str = "https://api.example";

    /// Starts an issuer on a free port of 127.0.0.1. Its tokens are as RFC 9068 has them and are dated by the system's clock.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// An issuer that is to differ from the usual one.
    pub fn builder() -> TestIssuerBuilder {
        super::marker();
        TestIssuerBuilder { auth0_style: false, domain: None, clock: Arc::new(SystemClock) }
    }

    /// The issuer id: the URL that it is reached under, `http://127.0.0.1:<port>` (with a slash at the end in Auth0 style), unless it
    /// was given a domain.
    #[must_use]
    pub fn url(&self) -> &str {
        self.shared.issuer()
    }

    /// The issuer id as a value of its own type.
    #[must_use]
    pub fn issuer_id(&self) -> IssuerId {
        IssuerId::new(self.url())
    }

    /// Where the metadata is ([OpenID Connect Discovery §4](https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig)).
    #[must_use]
    pub fn discovery_url(&self) -> String {
        self.shared.url_of(".well-known/openid-configuration")
    }

    /// Where the key set is.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        self.shared.url_of(".well-known/jwks.json")
    }

    /// Begins a token: of the user `auth0|alice`, for [`AUDIENCE`](Self::AUDIENCE), RS256, `at+jwt`, valid for five minutes from now.
    pub fn token(&self) -> TokenBuilder {
        TokenBuilder::new(Arc::clone(&self.shared))
    }

    /// `kid` of the key that signs with this algorithm now.
    #[must_use]
    pub fn key_id(&self, algorithm: Algorithm) -> String {
        self.shared.signing_key(algorithm).public().key_id().to_string()
    }

    /// The key set document as it is published now, when nothing is made to fail.
    #[must_use]
    pub fn jwks(&self) -> Value {
        self.shared.jwks()
    }

    /// The published keys, for tests that need no HTTP.
    ///
    /// # Panics
    ///
    /// When the document cannot be read.
    #[must_use]
    pub fn key_set(&self) -> JwkSet {
        JwkSet::parse(self.jwks().to_string().as_bytes()).expect("the key set of the test issuer is one")
    }

    /// New keys sign from now on; those before them stay published.
    pub fn rotate(&self) {
        self.shared.with_keys(KeyRing::rotate);
    }

    /// New keys sign from now on; none of those before them stays published.
    pub fn rotate_dropping(&self) {
        self.shared.with_keys(KeyRing::rotate_dropping);
    }

    /// A new key signs with this algorithm from now on; the one before it stays published, the one before that does not. Cheap enough
    /// to do a hundred times, unless the algorithm is an RSA one.
    pub fn rotate_only(&self, algorithm: Algorithm) {
        self.shared.with_keys(|keys| keys.rotate_only(algorithm));
    }

    /// From now on every key is published under this `kid`. Tokens still name the key by its own: see [`TokenBuilder::kid`].
    pub fn publish_all_as(&self, kid: &str) {
        self.shared.with_keys(|keys| keys.alias = Some(kid.to_owned()));
    }

    /// From now on publishes, before the good keys, one of each kind that a verifier meets and cannot use: symmetric, for encryption,
    /// of an unknown type or curve, too short, with members of the wrong type, missing or private.
    pub fn publish_odd_keys(&self) {
        self.shared.with_keys(KeyRing::add_odd_keys);
    }

    /// While true, requests are taken and not answered; those that wait are answered when it becomes false again.
    pub fn stall(&self, stalled: bool) {
        self.change(|behaviour| behaviour.stalled = stalled);
    }

    /// Answers every request with this status and no document, until [`behave`](Self::behave).
    pub fn fail(&self, status: StatusCode) {
        self.change(|behaviour| behaviour.status = Some(status));
    }

    /// Lies, until [`behave`](Self::behave).
    pub fn lie(&self, lie: Lie) {
        self.change(|behaviour| behaviour.lie = Some(lie));
    }

    /// Redirects every request to this address, until [`behave`](Self::behave).
    pub fn redirect_to(&self, address: &str) {
        self.change(|behaviour| behaviour.redirect = Some(address.to_owned()));
    }

    /// Sets `Cache-Control: max-age` of both documents, or leaves the header out (the default).
    pub fn publish_max_age(&self, max_age: Option<Duration>) {
        self.change(|behaviour| behaviour.max_age = max_age);
    }

    /// Ends stalling, failing, redirecting and lying.
    pub fn behave(&self) {
        self.change(|behaviour| *behaviour = Behaviour { max_age: behaviour.max_age, ..Behaviour::default() });
    }

    /// How often it was asked so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        Requests {
            discovery: count(&self.shared.discovery),
            jwks: count(&self.shared.jwks),
            redirected: count(&self.shared.redirected),
            other: count(&self.shared.other),
            streamed: count(&self.shared.streamed),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        self.shared.behaviour.send_modify(change);
    }
}

impl fmt::Debug for TestIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestIssuer").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl TestIssuerBuilder {
    /// An issuer id with a slash at the end, and clients whose `sub` is `<client>@clients`, as Auth0 has them.
    pub fn with_auth0_style(mut self) -> Self {
        self.auth0_style = true;
        self
    }

    /// As [`with_auth0_style`](Self::with_auth0_style), with the issuer id `https://{domain}/`, for presets that insist on https. Such an
    /// issuer is not found by discovery: hand over its [`key_set`](TestIssuer::key_set) or [`jwks_url`](TestIssuer::jwks_url).
    pub fn with_auth0_domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.to_owned());
        self.with_auth0_style()
    }

    /// Sets the clock that tokens are dated by. Default: the system's.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts the issuer.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with I/O, and when 127.0.0.1 has no free port.
    pub async fn start(self) -> TestIssuer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("a listener has an address");
        let base = format!("http://{address}");
        let issuer = match self.domain {
            Some(domain) => format!("https://{domain}/"),
            None if self.auth0_style => format!("{base}/"),
            None => base.clone(),
        };
        let shared = Arc::new(Shared::new(base, issuer, self.auth0_style, self.clock));
        let (stop, stopped) = oneshot::channel::<()>();
        let router = super::serve::router(Arc::clone(&shared));
        tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            // Failing to serve shows in the test as a connection that is refused.
            drop(::axum::serve(listener, router).with_graceful_shutdown(stopped).await);
        });
        TestIssuer { shared, _stop: stop }
    }
}

impl fmt::Debug for TestIssuerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestIssuerBuilder").field("auth0_style", &self.auth0_style).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Status, content type and body; redirects are not followed.
    async fn fetch(url: &str) -> (u16, String, String) {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        let response = client.get(url).send().await.unwrap();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        (response.status().as_u16(), kind.unwrap_or_default(), response.text().await.unwrap())
    }

    async fn fetch_json(url: &str) -> Value {
        serde_json::from_str(&fetch(url).await.2).unwrap()
    }

    fn kids(jwks: &Value) -> Vec<&str> {
        jwks["keys"].as_array().unwrap().iter().filter_map(|key| key["kid"].as_str()).collect()
    }

    #[tokio::test]
    async fn discovery_leads_to_the_keys_and_requests_are_counted() {
        let issuer = TestIssuer::builder().with_auth0_style().start().await;
        let metadata = fetch_json(&format!("{}.well-known/openid-configuration", issuer.url())).await;
        assert_eq!(metadata["issuer"], issuer.url());
        let jwks = fetch_json(metadata["jwks_uri"].as_str().unwrap()).await;
        assert_eq!(jwks, issuer.jwks());
        assert_eq!(kids(&jwks).len(), Algorithm::ALL.len());
        assert_eq!(issuer.requests(), Requests { discovery: 1, jwks: 1, ..Requests::default() });
    }

    #[tokio::test]
    async fn rotation_keeps_or_drops_the_keys_before() {
        let issuer = TestIssuer::start().await;
        let first = issuer.key_id(Algorithm::Rs256);
        issuer.rotate();
        let second = issuer.key_id(Algorithm::Rs256);
        assert_ne!(first, second);
        assert!([&*first, &*second].iter().all(|kid| kids(&issuer.jwks()).contains(kid)));
        issuer.rotate_dropping();
        assert_eq!(kids(&issuer.jwks()).len(), Algorithm::ALL.len());
        issuer.rotate_dropping();
        assert!([&*first, &*second].iter().all(|kid| !kids(&issuer.jwks()).contains(kid)));
    }

    #[tokio::test]
    async fn odd_keys_stand_before_the_good_ones() {
        let issuer = TestIssuer::start().await;
        issuer.publish_odd_keys();
        let jwks = issuer.jwks();
        assert_eq!(kids(&jwks).first(), Some(&"symmetric"));
        assert!(kids(&jwks).contains(&&*issuer.key_id(Algorithm::Ed25519)));
    }

    #[tokio::test]
    async fn a_stalled_issuer_answers_once_it_goes_on() {
        let issuer = TestIssuer::start().await;
        issuer.stall(true);
        let url = issuer.jwks_url();
        let waiting = tokio::spawn(async move { fetch(&url).await.0 });
        while issuer.requests().jwks == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        issuer.stall(false);
        assert_eq!(waiting.await.unwrap(), 200);
    }

    #[tokio::test]
    async fn it_lies_and_fails_until_it_behaves() {
        let issuer = TestIssuer::start().await;
        let (metadata, keys) = (issuer.discovery_url(), issuer.jwks_url());
        issuer.lie(Lie::WrongIssuer);
        assert_eq!(fetch_json(&metadata).await["issuer"], "https://elsewhere.example/");
        issuer.lie(Lie::EmptyKeySet);
        assert_eq!(fetch_json(&keys).await, json!({"keys": []}));
        issuer.lie(Lie::HtmlPage);
        let (status, kind, _) = fetch(&keys).await;
        assert_eq!((status, kind.as_str()), (200, "text/html; charset=utf-8"));
        issuer.lie(Lie::Redirect);
        assert_eq!(fetch(&keys).await.0, 307);
        issuer.lie(Lie::HugeDocument);
        assert!(fetch(&metadata).await.2.len() > 2_000_000);
        issuer.fail(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(fetch(&keys).await.0, 500);
        issuer.behave();
        assert_eq!(fetch_json(&keys).await, issuer.jwks());
        assert_eq!(fetch_json(&format!("{}/moved/jwks", issuer.url())).await, issuer.jwks());
        assert_eq!(issuer.requests().redirected, 1);
    }

    #[tokio::test]
    async fn what_is_too_much_is_counted_as_far_as_it_is_taken() {
        let issuer = TestIssuer::start().await;
        let url = issuer.jwks_url();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        issuer.lie(Lie::HundredMegabytes);
        let announced = client.get(&url).send().await.unwrap();
        assert_eq!(announced.content_length(), Some(100 * 1024 * 1024));
        for (lie, least) in [(Lie::EndlessDocument, 1_000_000), (Lie::OneBytePerSecond, 1)] {
            issuer.lie(lie);
            let mut response = client.get(&url).send().await.unwrap();
            let mut taken = 0;
            while taken < least {
                taken += response.chunk().await.unwrap().unwrap().len();
            }
        }
        assert!(issuer.requests().streamed > 1_000_000);
        issuer.lie(Lie::GzipBomb);
        let bomb = client.get(&url).send().await.unwrap();
        assert_eq!(bomb.headers()["content-encoding"], "gzip");
        assert_eq!(bomb.content_length(), Some(200_025));
        issuer.lie(Lie::PlainHttpKeys);
        let metadata = fetch_json(&issuer.discovery_url()).await;
        assert_eq!(
            (&metadata["issuer"], &metadata["jwks_uri"]),
            (&json!(issuer.url()), &json!("http://elsewhere.example/jwks.json"))
        );
        issuer.redirect_to("http://127.0.0.1:1/");
        assert_eq!(fetch(&url).await.0, 307);
        assert_eq!(issuer.requests().other, 0);
        for odd in [format!("{url}?kid=a"), format!("{}/other", issuer.url())] {
            fetch(&odd).await;
        }
        assert_eq!(issuer.requests().other, 2);
    }

    #[tokio::test]
    async fn one_key_rotates_alone_and_all_can_have_one_name() {
        let issuer = TestIssuer::start().await;
        let (rsa, first) = (issuer.key_id(Algorithm::Rs256), issuer.key_id(Algorithm::Ed25519));
        issuer.rotate_only(Algorithm::Ed25519);
        let second = issuer.key_id(Algorithm::Ed25519);
        assert!([&*first, &*second, &*rsa].iter().all(|kid| kids(&issuer.jwks()).contains(kid)));
        issuer.rotate_only(Algorithm::Ed25519);
        assert!(!kids(&issuer.jwks()).contains(&&*first) && kids(&issuer.jwks()).contains(&&*second));
        assert_eq!(issuer.key_id(Algorithm::Rs256), rsa);
        issuer.publish_all_as("same");
        assert!(kids(&issuer.jwks()).iter().all(|kid| *kid == "same"));
    }

    #[tokio::test]
    async fn a_dropped_issuer_refuses_connections() {
        let issuer = TestIssuer::start().await;
        let address = issuer.url().trim_start_matches("http://").to_owned();
        drop(issuer);
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
