//! The axum edge: [`protect`] a router, and read in handlers who is calling.
//!
//! ```
//! use portcullis::{Issuer, Rules, Stack, audit, axum::protect, policy, principal::Principal, rules::{public, scopes}, scope::all_of};
//! # use portcullis::testing::TestIssuer;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let idp = TestIssuer::start().await;
//! # let issuer = Issuer::rfc9068(idp.url(), "https://api.example");
//! let router = axum::Router::new()
//!     .route("/jobs", axum::routing::get(async |caller: Principal| format!("jobs of {:?}", caller.subject())))
//!     .route("/livez", axum::routing::get(async || "alive"));
//! let rules = Rules::new()
//!     .get("/jobs", scopes(all_of(["jobs:read"])))
//!     .get("/livez", public("liveness must survive everything"));
//! let stack = Stack::builder(issuer, rules, policy::deny_all(), audit::Tracing::new()).build()?;
//!
//! let service = protect(router, stack);
//! # use tower::ServiceExt;
//! # let get = |path: &str| axum::extract::Request::get(path).body(axum::body::Body::empty());
//! assert_eq!(service.clone().oneshot(get("/livez")?).await?.status(), 200);
//! assert_eq!(service.clone().oneshot(get("/jobs")?).await?.status(), 401);
//! assert_eq!(service.oneshot(get("/no-such-route")?).await?.status(), 401);
//! # Ok(())
//! # }
//! ```

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use ::axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{
        ConnectInfo, FromRequestParts, MatchedPath, OptionalFromRequestParts, RawPathParams, Request,
        connect_info::IntoMakeServiceWithConnectInfo,
    },
    response::{IntoResponse, Response},
    serve::{IncomingStream, Listener},
};
use http::request::Parts;
use serde::de::DeserializeOwned;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::{
    denial::Denial,
    layer::{
        Stack,
        audit::AuditService,
        denial::DenialService,
        route::{MatchRoute, Matched},
    },
    principal::Principal,
    route::RouteKey,
    rules::PublicAccess,
    token::{Claims, ClaimsError, VerifiedToken},
};

/// Puts the [`Route`](crate::route::Route) that axum matched into the request, with its rule.
///
/// The key is axum's `MatchedPath` beside the method. Goes on with `Router::layer`; [`protect`] does that.
pub type RouteLayer = crate::layer::route::RouteLayer<AxumRouter>;

/// Reads what axum's router recorded in a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct AxumRouter;

impl MatchRoute for AxumRouter {
    fn match_route(&self, parts: &mut Parts) -> Option<Matched> {
        let template = Arc::from(parts.extensions.get::<MatchedPath>()?.as_str());
        let params = path_params(parts)?;
        Some(Matched::new(RouteKey::Http { method: parts.method.clone(), template }).with_params(params))
    }

    fn peer(&self, parts: &Parts) -> Option<SocketAddr> {
        parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer)
    }
}

/// The decoded path parameters; `None` when axum could not decode them, which makes the route unusable as a key.
fn path_params(parts: &mut Parts) -> Option<Vec<(Arc<str>, String)>> {
    // axum has no synchronous access to them; the extraction reads an extension and is ready at once.
    let extracted = pin!(RawPathParams::from_request_parts(parts, &())).poll(&mut Context::from_waker(Waker::noop()));
    match extracted {
        Poll::Ready(Ok(params)) => Some(params.iter().map(|(name, value)| (name.into(), value.to_owned())).collect()),
        Poll::Ready(Err(_)) | Poll::Pending => None,
    }
}

/// Wraps a finished router: the gates inside of it, where the matched route is known; audit and denial around it, where
/// nothing that the router adds to a refusal can get out.
///
/// Routes that are nested with `Router::nest` keep their full template as key. Below the root of a
/// `nest_service` no template is known to gates, so everything there is denied: use `nest`. Put under a prefix of another router with `nest_service`, the result itself
/// sees templates with that prefix, and so must the rules. CORS, timeout, trace, compression and panic layers go around the
/// result. The start-up report is logged at `info`.
#[must_use]
pub fn protect(router: Router, stack: Stack) -> Protected {
    stack.announce();
    let (denial, audit) = stack.outer();
    let (authenticate, require_scope, authorize) = stack.gates();
    // `Router::layer` puts each one around those before it.
    let gated = router
        .layer(authorize)
        .layer(require_scope)
        .layer(authenticate)
        .layer(RouteLayer::new(stack.rules().clone(), AxumRouter));
    Protected { service: denial.layer(audit.layer(gated)) }
}

/// A router behind the whole stack. Takes no further routes: what is added to a router later would not be guarded.
///
/// ```compile_fail,E0599
/// fn add(protected: portcullis::axum::Protected) {
///     protected.route("/late", axum::routing::get(async || "unguarded"));
/// }
/// ```
///
/// ```compile_fail,E0599
/// fn add(protected: portcullis::axum::Protected) {
///     protected.fallback(async || "unguarded");
/// }
/// ```
///
/// ```compile_fail,E0599
/// fn add(protected: portcullis::axum::Protected) {
///     protected.merge(axum::Router::new());
/// }
/// ```
///
/// `axum::serve` takes it as it is.
#[derive(Clone)]
pub struct Protected {
    service: Guarded,
}

type Guarded = DenialService<AuditService<Router>>;

impl Protected {
    /// Makes the address of the peer known to gates, policies and audit: for `axum::serve`.
    #[must_use]
    pub fn into_make_service_with_connect_info<C>(self) -> IntoMakeServiceWithConnectInfo<Self, C> {
        ::axum::ServiceExt::<Request>::into_make_service_with_connect_info::<C>(self)
    }
}

impl std::fmt::Debug for Protected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protected").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Protected
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<::axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A router and the layers around it are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        // What a router further outside matched says nothing about this one.
        request.extensions_mut().remove::<MatchedPath>();
        ResponseFuture { inner: self.service.call(request) }
    }
}

impl<L: Listener> Service<IncomingStream<'_, L>> for Protected {
    type Response = Self;
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: IncomingStream<'_, L>) -> Self::Future {
        ready(Ok(self.clone()))
    }
}

pin_project_lite::pin_project! {
    /// The response future of [`Protected`].
    pub struct ResponseFuture {
        #[pin]
        inner: <Guarded as Service<Request>>::Future,
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_ok(|response| response.map(Body::new))
    }
}

/// The answer of an extractor whose layer is missing: a fault of ours, 500 to the caller, never a pass.
#[derive(Clone, Copy, Debug)]
pub struct MissingLayer(&'static str);

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        tracing::error!(
            extractor = self.0,
            "a handler asks for the caller, and no `AuthenticateLayer` stands around it"
        );
        let denial = Denial::internal();
        let mut response = denial.class().http_status().into_response();
        response.extensions_mut().insert(denial);
        response
    }
}

/// The caller; on an `optional` route possibly the anonymous one. A missing layer is 500.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingLayer("Principal"))
    }
}

/// The caller, if any: `None` for the anonymous one and on public routes. A missing layer is 500.
impl<S: Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        match parts.extensions.get::<Self>() {
            Some(principal) => Ok(Some(principal.clone()).filter(|principal| !principal.is_anonymous())),
            None if parts.extensions.get::<PublicAccess>().is_some() => Ok(None),
            None => Err(MissingLayer("Option<Principal>")),
        }
    }
}

/// The verified token. A missing layer is 500, and so is a caller without a token: ask for an `Option` on `optional` routes.
impl<S: Sync> FromRequestParts<S> for VerifiedToken {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingLayer("VerifiedToken"))
    }
}

/// The verified token, if any: `None` for the anonymous caller and on public routes. A missing layer is 500.
impl<S: Sync> OptionalFromRequestParts<S> for VerifiedToken {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        match parts.extensions.get::<Self>() {
            Some(token) => Ok(Some(token.clone())),
            None if parts.extensions.get::<Principal>().is_some() => Ok(None),
            None if parts.extensions.get::<PublicAccess>().is_some() => Ok(None),
            None => Err(MissingLayer("Option<VerifiedToken>")),
        }
    }
}

/// Why [`Claims`] cannot be extracted.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClaimsRejection {
    /// No verified token in the request.
    MissingLayer(MissingLayer),
    /// The verified claims do not have the shape of the type: the issuer and the handler disagree. 403 to the caller.
    Shape(ClaimsError),
}

impl IntoResponse for ClaimsRejection {
    fn into_response(self) -> Response {
        match self {
            Self::MissingLayer(missing) => missing.into_response(),
            Self::Shape(error) => {
                tracing::warn!(%error, "the claims of a verified token do not fit the handler's type");
                let denial = Denial::forbidden();
                let mut response = denial.class().http_status().into_response();
                response.extensions_mut().insert(denial);
                response
            }
        }
    }
}

/// The claims of the verified token as a type of yours.
impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Claims<T> {
    type Rejection = ClaimsRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let token =
            parts.extensions.get::<VerifiedToken>().ok_or(ClaimsRejection::MissingLayer(MissingLayer("Claims")))?;
        token.claims_as().map_err(ClaimsRejection::Shape)
    }
}
