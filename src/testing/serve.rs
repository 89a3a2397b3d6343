use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use ::axum::{
    Router,
    body::Body,
    extract::State,
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use bytes::Bytes;
use http::{StatusCode, Uri, header};
use http_body::{Frame, SizeHint};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Interval};

use super::key::TestKey;
use crate::{key::Algorithm, time::Clock};

/// What a [`TestIssuer`](super::TestIssuer) can be told to answer instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lie {
    /// Metadata that names another issuer, with this one's keys.
    WrongIssuer,
    /// A page with status 200, as a captive portal or a login wall shows it.
    HtmlPage,
    /// A key set without a key.
    EmptyKeySet,
    /// A redirect to another path, where the true document is.
    Redirect,
    /// A true document of two megabytes.
    HugeDocument,
    /// Metadata that names a key set at an `http` address on another machine.
    PlainHttpKeys,
    /// A key set in which no key can be used: those of [`publish_odd_keys`](super::TestIssuer::publish_odd_keys) alone.
    UnusableKeys,
    /// A document of a hundred megabytes, announced in `Content-Length`.
    HundredMegabytes,
    /// A document that never ends.
    EndlessDocument,
    /// A document of which one byte comes each second.
    OneBytePerSecond,
    /// Two hundred kilobytes of gzip that unpack to two hundred megabytes.
    GzipBomb,
}

/// How the server answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Behaviour {
    pub(super) stalled: bool,
    pub(super) status: Option<StatusCode>,
    pub(super) lie: Option<Lie>,
    pub(super) redirect: Option<String>,
    pub(super) max_age: Option<Duration>,
}

/// What the issuer and its server share.
pub(super) struct Shared {
    base: String,
    issuer: String,
    pub(super) auth0_style: bool,
    pub(super) clock: Arc<dyn Clock>,
    keys: Mutex<KeyRing>,
    pub(super) behaviour: watch::Sender<Behaviour>,
    pub(super) discovery: AtomicUsize,
    pub(super) jwks: AtomicUsize,
    pub(super) redirected: AtomicUsize,
    pub(super) other: AtomicUsize,
    pub(super) streamed: AtomicUsize,
}

impl Shared {
    pub(super) fn new(base: String, issuer: String, auth0_style: bool, clock: Arc<dyn Clock>) -> Self {
        Self {
            base,
            issuer,
            auth0_style,
            clock,
            keys: Mutex::new(KeyRing::generate()),
            behaviour: watch::Sender::new(Behaviour::default()),
            discovery: AtomicUsize::new(0),
            jwks: AtomicUsize::new(0),
            redirected: AtomicUsize::new(0),
            other: AtomicUsize::new(0),
            streamed: AtomicUsize::new(0),
        }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn url_of(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    pub(super) fn with_keys<T>(&self, with: impl FnOnce(&mut KeyRing) -> T) -> T {
        with(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn signing_key(&self, algorithm: Algorithm) -> Arc<TestKey> {
        self.with_keys(|keys| keys.current.iter().find(|key| key.public().algorithm() == algorithm).cloned())
            .expect("there is a key for each algorithm")
    }

    pub(super) fn jwks(&self) -> Value {
        self.with_keys(|keys| {
            let good = keys.current.iter().chain(&keys.retired).map(|key| {
                let mut members = key.public().members().clone();
                members.extend(keys.alias.iter().map(|kid| ("kid".to_owned(), json!(kid))));
                Value::Object(members)
            });
            json!({"keys": keys.odd.iter().cloned().chain(good).collect::<Vec<_>>()})
        })
    }

    /// Nothing that verifies tokens has a reason to ask with a query.
    fn note_query(&self, uri: &Uri) {
        if uri.query().is_some() {
            self.other.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn metadata(&self, lie: Option<Lie>) -> Value {
        let issuer = if lie == Some(Lie::WrongIssuer) { "https://elsewhere.example/" } else { &self.issuer };
        let keys = match lie {
            Some(Lie::PlainHttpKeys) => "http://elsewhere.example/jwks.json".to_owned(),
            _ => self.url_of(".well-known/jwks.json"),
        };
        json!({
            "issuer": issuer,
            "jwks_uri": keys,
            "authorization_endpoint": self.url_of("authorize"),
            "token_endpoint": self.url_of("oauth/token"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": Algorithm::ALL.map(Algorithm::name),
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The keys of an issuer.
pub(super) struct KeyRing {
    current: Vec<Arc<TestKey>>,
    retired: Vec<Arc<TestKey>>,
    /// Published no more, and kept so that no later key of this issuer is one of them.
    dropped: Vec<Arc<TestKey>>,
    odd: Vec<Value>,
    /// What every key is called where it is published.
    pub(super) alias: Option<String>,
}

impl KeyRing {
    pub(super) fn generate() -> Self {
        let current = TestKey::generate_all().into_iter().map(Arc::new).collect();
        Self { current, retired: Vec::new(), dropped: Vec::new(), odd: Vec::new(), alias: None }
    }

    pub(super) fn rotate(&mut self) {
        let next = Self::generate().current;
        self.retired.extend(std::mem::replace(&mut self.current, next));
    }

    pub(super) fn rotate_only(&mut self, algorithm: Algorithm) {
        let is_of = |key: &Arc<TestKey>| key.public().algorithm() == algorithm;
        self.dropped.extend(self.retired.extract_if(.., |key| is_of(key)));
        for key in self.current.iter_mut().filter(|key| is_of(key)) {
            self.retired.push(std::mem::replace(key, Arc::new(TestKey::generate(algorithm))));
        }
    }

    pub(super) fn rotate_dropping(&mut self) {
        self.rotate();
        self.dropped.append(&mut self.retired);
    }

    pub(super) fn add_odd_keys(&mut self) {
        self.odd = odd_keys();
    }
}

fn odd_keys() -> Vec<Value> {
    vec![
        json!({"kty": "oct", "kid": "symmetric", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}),
        json!({"kty": "RSA", "kid": "for-encryption", "use": "enc", "alg": "RSA-OAEP", "n": "u".repeat(342), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "too-short", "use": "sig", "alg": "RS256", "n": "u".repeat(171), "e": "AQAB"}),
        json!({"kty": "AKP", "kid": "of-tomorrow", "alg": "ML-DSA-65", "pub": "AAAA"}),
        json!({"kty": "EC", "kid": "odd-curve", "crv": "secp256k1", "x": "A".repeat(43), "y": "A".repeat(43)}),
        json!({"kty": "EC", "kid": "off-curve", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)}),
        json!({"kty": "OKP", "kid": "small-order", "crv": "Ed25519", "x": "A".repeat(43)}),
        json!({"kty": "EC", "kid": 7, "crv": "P-256", "x": 1, "y": null}),
        json!({"kid": "without-type"}),
        json!({"kty": "RSA", "kid": "without-numbers", "alg": "RS256"}),
        json!({"kty": "EC", "kid": "private", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43), "d": "A".repeat(43)}),
        json!({"kty": "OKP", "kid": "for-signing", "key_ops": ["sign"], "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
        json!("not a key"),
    ]
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/.well-known/oauth-authorization-server", get(discovery))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/moved/metadata", get(moved_metadata))
        .route("/moved/jwks", get(moved_jwks))
        .fallback(elsewhere)
        .with_state(shared)
}

async fn discovery(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    shared.discovery.fetch_add(1, Ordering::SeqCst);
    shared.note_query(&uri);
    answer(&shared, "/moved/metadata", |lie| shared.metadata(lie)).await
}

async fn jwks(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    shared.jwks.fetch_add(1, Ordering::SeqCst);
    shared.note_query(&uri);
    answer(&shared, "/moved/jwks", |lie| match lie {
        Some(Lie::EmptyKeySet) => json!({"keys": []}),
        Some(Lie::UnusableKeys) => json!({"keys": odd_keys()}),
        _ => shared.jwks(),
    })
    .await
}

async fn moved_metadata(State(shared): State<Arc<Shared>>) -> Response {
    shared.redirected.fetch_add(1, Ordering::SeqCst);
    ::axum::Json(shared.metadata(None)).into_response()
}

async fn moved_jwks(State(shared): State<Arc<Shared>>) -> Response {
    shared.redirected.fetch_add(1, Ordering::SeqCst);
    ::axum::Json(shared.jwks()).into_response()
}

async fn elsewhere(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.other.fetch_add(1, Ordering::SeqCst);
    StatusCode::NOT_FOUND
}

async fn answer(shared: &Arc<Shared>, moved: &str, document: impl FnOnce(Option<Lie>) -> Value) -> Response {
    let mut changes = shared.behaviour.subscribe();
    let behaviour = match changes.wait_for(|behaviour| !behaviour.stalled).await {
        Ok(behaviour) => behaviour.clone(),
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    if let Some(status) = behaviour.status {
        return status.into_response();
    }
    if let Some(to) = &behaviour.redirect {
        return Redirect::temporary(to).into_response();
    }
    match behaviour.lie {
        Some(Lie::HtmlPage) => return Html("<!doctype html><title>Sign in</title>").into_response(),
        Some(Lie::Redirect) => return Redirect::temporary(moved).into_response(),
        Some(Lie::HundredMegabytes) => return Spaces::response(shared, 65_536, Some(100 * 1024 * 1024), None),
        Some(Lie::EndlessDocument) => return Spaces::response(shared, 65_536, None, None),
        Some(Lie::OneBytePerSecond) => return Spaces::response(shared, 1, None, Some(Duration::from_secs(1))),
        Some(Lie::GzipBomb) => {
            return ([(header::CONTENT_TYPE, JSON), (header::CONTENT_ENCODING, "gzip")], gzip_bomb()).into_response();
        }
        _ => {}
    }
    let mut document = document(behaviour.lie);
    if let (Some(Lie::HugeDocument), Some(members)) = (behaviour.lie, document.as_object_mut()) {
        members.insert("padding".to_owned(), json!("x".repeat(2 * 1024 * 1024)));
    }
    let mut response = ::axum::Json(document).into_response();
    if let Some(max_age) = behaviour.max_age {
        let value = format!("public, max-age={}", max_age.as_secs());
        response.headers_mut().insert(header::CACHE_CONTROL, value.parse().expect("digits make a header value"));
    }
    response
}

/// A body of spaces, which JSON allows anywhere: it is never wrong, only too much.
struct Spaces {
    chunk: Bytes,
    left: Option<u64>,
    pace: Option<Interval>,
    shared: Arc<Shared>,
}

impl Spaces {
    fn response(shared: &Arc<Shared>, chunk: usize, left: Option<u64>, pace: Option<Duration>) -> Response {
        let chunk = Bytes::from(vec![b' '; chunk]);
        let body = Self { chunk, left, pace: pace.map(tokio::time::interval), shared: Arc::clone(shared) };
        ([(header::CONTENT_TYPE, JSON)], Body::new(body)).into_response()
    }
}

impl http_body::Body for Spaces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(cx));
        }
        let size = u64::try_from(self.chunk.len()).unwrap_or_default();
        if let Some(left) = &mut self.left {
            match left.checked_sub(size) {
                Some(less) => *left = less,
                None => return Poll::Ready(None),
            }
        }
        self.shared.streamed.fetch_add(self.chunk.len(), Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Deflate says "258 times the same again" in two bits (RFC 1951 §3.2.5): after the head of such a block each byte of zeros is 1032 spaces.
fn gzip_bomb() -> Vec<u8> {
    const GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    const BLOCK: [u8; 15] = [0xec, 0xc1, 0x81, 0, 0, 0, 0, 0x80, 0x20, 0x95, 0xfd, 0x29, 0x17, 0xa9, 0x0a];
    [GZIP.as_slice(), &BLOCK, &[0; 200_000]].concat()
}

const JSON: &str = "application/json";
