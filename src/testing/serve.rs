use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::axum::{
    Router,
    extract::State,
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::watch;

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
}

/// How the server answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Behaviour {
    pub(super) stalled: bool,
    pub(super) status: Option<StatusCode>,
    pub(super) lie: Option<Lie>,
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
            let good =
                keys.current.iter().chain(&keys.retired).map(|key| Value::Object(key.public().members().clone()));
            json!({"keys": keys.odd.iter().cloned().chain(good).collect::<Vec<_>>()})
        })
    }

    fn metadata(&self, issuer: &str) -> Value {
        json!({
            "issuer": issuer,
            "jwks_uri": self.url_of(".well-known/jwks.json"),
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
}

impl KeyRing {
    pub(super) fn generate() -> Self {
        let current = TestKey::generate_all().into_iter().map(Arc::new).collect();
        Self { current, retired: Vec::new(), dropped: Vec::new(), odd: Vec::new() }
    }

    pub(super) fn rotate(&mut self) {
        let next = Self::generate().current;
        self.retired.extend(std::mem::replace(&mut self.current, next));
    }

    pub(super) fn rotate_dropping(&mut self) {
        self.rotate();
        self.dropped.append(&mut self.retired);
    }

    pub(super) fn add_odd_keys(&mut self) {
        self.odd = vec![
            json!({"kty": "oct", "kid": "symmetric", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}),
            json!({"kty": "RSA", "kid": "for-encryption", "use": "enc", "alg": "RSA-OAEP", "n": "u".repeat(342), "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "too-short", "use": "sig", "alg": "RS256", "n": "u".repeat(171), "e": "AQAB"}),
            json!({"kty": "AKP", "kid": "of-tomorrow", "alg": "ML-DSA-65", "pub": "AAAA"}),
            json!({"kty": "EC", "kid": "odd-curve", "crv": "secp256k1", "x": "A".repeat(43), "y": "A".repeat(43)}),
            json!({"kty": "EC", "kid": "off-curve", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)}),
            json!({"kty": "OKP", "kid": "small-order", "crv": "Ed25519", "x": "A".repeat(43)}),
            json!({"kty": "EC", "kid": 7, "crv": "P-256", "x": 1, "y": null}),
            json!({"kid": "without-type"}),
            json!("not a key"),
        ];
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/.well-known/oauth-authorization-server", get(discovery))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/moved/metadata", get(moved_metadata))
        .route("/moved/jwks", get(moved_jwks))
        .with_state(shared)
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    shared.discovery.fetch_add(1, Ordering::SeqCst);
    let issuer = |behaviour: &Behaviour| match behaviour.lie {
        Some(Lie::WrongIssuer) => "https://elsewhere.example/".to_owned(),
        _ => shared.issuer.clone(),
    };
    answer(&shared, "/moved/metadata", |behaviour| shared.metadata(&issuer(behaviour))).await
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    shared.jwks.fetch_add(1, Ordering::SeqCst);
    answer(&shared, "/moved/jwks", |behaviour| match behaviour.lie {
        Some(Lie::EmptyKeySet) => json!({"keys": []}),
        _ => shared.jwks(),
    })
    .await
}

async fn moved_metadata(State(shared): State<Arc<Shared>>) -> Response {
    shared.redirected.fetch_add(1, Ordering::SeqCst);
    ::axum::Json(shared.metadata(&shared.issuer)).into_response()
}

async fn moved_jwks(State(shared): State<Arc<Shared>>) -> Response {
    shared.redirected.fetch_add(1, Ordering::SeqCst);
    ::axum::Json(shared.jwks()).into_response()
}

async fn answer(shared: &Shared, moved: &str, document: impl FnOnce(&Behaviour) -> Value) -> Response {
    let mut changes = shared.behaviour.subscribe();
    let behaviour = match changes.wait_for(|behaviour| !behaviour.stalled).await {
        Ok(behaviour) => *behaviour,
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    if let Some(status) = behaviour.status {
        return status.into_response();
    }
    match behaviour.lie {
        Some(Lie::HtmlPage) => return Html("<!doctype html><title>Sign in</title>").into_response(),
        Some(Lie::Redirect) => return Redirect::temporary(moved).into_response(),
        _ => {}
    }
    let mut document = document(&behaviour);
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
