//! The tonic edge: [`protect`] the routes of a gRPC server, and read in methods who is calling.
//!
//! A rule names a method as `package.Service/Method`. Content types play no part in that, and neither does a path that is
//! not exactly `/package.Service/Method`: it has no rule, so it is denied. Health and reflection services are denied like
//! every other until they have a rule.
//!
//! ```
//! use portcullis::{Issuer, Rules, Stack, audit, policy, rules::{public, scopes}, scope::all_of, tonic::{RequestExt, protect}};
//! use tonic::{Code, Request, Response, Status, service::Routes};
//! # use http_body_util::{BodyExt, Full};
//! # use portcullis::testing::TestIssuer;
//! # use tower::ServiceExt;
//!
//! /// A method, as a generated trait asks for it.
//! async fn list(request: Request<()>) -> Result<Response<String>, Status> {
//!     Ok(Response::new(format!("jobs of {:?}", request.principal()?.subject())))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let idp = TestIssuer::start().await;
//! # let issuer = Issuer::rfc9068(idp.url(), "https://api.example").with_keys(idp.key_set());
//! let (_, health) = tonic_health::server::health_reporter();
//! let rules = Rules::new()
//!     .grpc("jobs.v1.Jobs/List", scopes(all_of(["jobs:read"])))
//!     .grpc("grpc.health.v1.Health/Check", public("liveness must survive everything"));
//! let stack = Stack::builder(issuer, rules, policy::deny_all(), audit::Tracing::new()).build()?;
//!
//! let service = protect(Routes::new(health), stack);
//! # let grpc_status = async |path: &str| {
//! #     let message = Full::new(bytes::Bytes::from_static(&[0; 5]));
//! #     let request = http::Request::post(path).header("content-type", "application/grpc").body(message).unwrap();
//! #     let (head, body) = service.clone().oneshot(request).await.unwrap().into_parts();
//! #     let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
//! #     head.headers.get("grpc-status").or(trailers.get("grpc-status")).unwrap().to_str().unwrap().to_owned()
//! # };
//! assert_eq!(grpc_status("/grpc.health.v1.Health/Check").await, "0");
//! assert_eq!(grpc_status("/jobs.v1.Jobs/List").await, "16");
//! assert_eq!(grpc_status("/no.such.Service/Method").await, "16");
//! // Without the stack around it, a method that asks for its caller fails.
//! assert_eq!(list(Request::new(())).await.unwrap_err().code(), Code::Internal);
//! # Ok(())
//! # }
//! ```

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use ::tonic::{Request as GrpcRequest, Status, body::Body, service::Routes, transport::server::TcpConnectInfo};
use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body as HttpBody;
use serde::de::DeserializeOwned;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::{
    layer::{
        Stack,
        audit::AuditService,
        authenticate::Authenticate,
        authorize::Authorize,
        denial::DenialService,
        require_scope::RequireScope,
        route::{MatchRoute, Matched, SetRoute},
    },
    policy::PolicyBackend,
    principal::Principal,
    route::RouteKey,
    rules::PublicAccess,
    token::{Claims, VerifiedToken},
};

/// Puts the [`Route`](crate::route::Route) of the gRPC method into the request, with its rule.
pub type RouteLayer = crate::layer::route::RouteLayer<GrpcPath>;

/// Reads service and method from a gRPC path, strictly.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcPath;

impl MatchRoute for GrpcPath {
    fn match_route(&self, parts: &mut Parts) -> Option<Matched> {
        let method = parts.uri.path().strip_prefix('/')?;
        let (service, name) = method.split_once('/')?;
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'))
        };
        (plain(service) && plain(name)).then(|| Matched::new(RouteKey::Grpc { method: method.into() }))
    }

    fn peer(&self, parts: &Parts) -> Option<SocketAddr> {
        parts.extensions.get::<TcpConnectInfo>()?.remote_addr()
    }
}

/// Wraps finished routes with the whole stack. The start-up report is logged at `info`.
#[must_use]
pub fn protect(routes: Routes, stack: Stack) -> Protected {
    stack.announce();
    let (denial, audit) = stack.outer();
    let (authenticate, require_scope, authorize) = stack.gates();
    let gated = authenticate.layer(require_scope.layer(authorize.layer(routes.prepare())));
    let routed = RouteLayer::new(stack.rules().clone(), GrpcPath).layer(gated);
    Protected { service: denial.layer(audit.layer(routed)) }
}

/// Routes behind the whole stack. Takes no further services: what is added later would not be guarded.
///
/// ```compile_fail,E0599
/// fn add(protected: portcullis::tonic::Protected, late: tonic::service::Routes) {
///     protected.add_service(late);
/// }
/// ```
///
/// `tonic::transport::Server::serve` and its relatives take it as it is.
#[derive(Clone)]
pub struct Protected {
    service: Guarded,
}

type Gated = Authenticate<RequireScope<Authorize<Routes, dyn PolicyBackend>>>;
type Guarded = DenialService<AuditService<SetRoute<Gated, GrpcPath>>>;

impl std::fmt::Debug for Protected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protected").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Protected
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Routes and the layers around them are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture { inner: self.service.call(request.map(Body::new)) }
    }
}

pin_project_lite::pin_project! {
    /// The response future of [`Protected`].
    pub struct ResponseFuture {
        #[pin]
        inner: <Guarded as Service<Request<Body>>>::Future,
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_ok(|response| response.map(Body::new))
    }
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for tonic::Request<T> {}
}

/// Who is calling, from a [`tonic::Request`](GrpcRequest).
pub trait RequestExt: sealed::Sealed {
    /// The caller; for a method whose rule is `optional` possibly the anonymous one.
    ///
    /// # Errors
    ///
    /// `INTERNAL` without a word when no `AuthenticateLayer` stands around the method: never a pass. Also when the method's rule
    /// is `public`, where nobody looks at credentials: ask there for [`optional_principal`](Self::optional_principal).
    fn principal(&self) -> Result<&Principal, Status>;

    /// The caller, if any: `None` for the anonymous one and in public methods.
    ///
    /// # Errors
    ///
    /// `INTERNAL` without a word when no `AuthenticateLayer` stands around the method.
    fn optional_principal(&self) -> Result<Option<&Principal>, Status>;

    /// The verified token.
    ///
    /// # Errors
    ///
    /// `INTERNAL` without a word when the caller has no token or no `AuthenticateLayer` stands around the method.
    fn verified_token(&self) -> Result<&VerifiedToken, Status>;

    /// The claims of the verified token as a type of yours.
    ///
    /// # Errors
    ///
    /// `PERMISSION_DENIED` without a word when the claims do not have the shape of the type: the issuer and the method disagree.
    /// `INTERNAL` as for [`verified_token`](Self::verified_token).
    fn claims<C: DeserializeOwned>(&self) -> Result<Claims<C>, Status>;
}

impl<T> RequestExt for GrpcRequest<T> {
    fn principal(&self) -> Result<&Principal, Status> {
        self.extensions().get::<Principal>().ok_or_else(|| missing("Principal"))
    }

    fn optional_principal(&self) -> Result<Option<&Principal>, Status> {
        match self.extensions().get::<Principal>() {
            Some(principal) => Ok(Some(principal).filter(|principal| !principal.is_anonymous())),
            None if self.extensions().get::<PublicAccess>().is_some() => Ok(None),
            None => Err(missing("Option<Principal>")),
        }
    }

    fn verified_token(&self) -> Result<&VerifiedToken, Status> {
        self.extensions().get::<VerifiedToken>().ok_or_else(|| missing("VerifiedToken"))
    }

    fn claims<C: DeserializeOwned>(&self) -> Result<Claims<C>, Status> {
        let token = self.extensions().get::<VerifiedToken>().ok_or_else(|| missing("Claims"))?;
        token.claims_as().map_err(|error| {
            tracing::warn!(%error, "the claims of a verified token do not fit the method's type");
            Status::permission_denied("")
        })
    }
}

fn missing(what: &'static str) -> Status {
    tracing::error!(what, "a method asks for the caller, and no `AuthenticateLayer` stands around it");
    Status::internal("")
}
