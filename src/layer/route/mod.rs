//! Says which route a request is for, before anybody asks who it is from.
//!
//! [`RouteLayer`] asks a framework's [`MatchRoute`] what the router matched and puts a [`Route`](crate::route::Route), with the rule
//! of that route, into the request. Frameworks have theirs at the edge: `axum::RouteLayer` and `tonic::RouteLayer`. In order:
//!
//! 1. The request target must mean one thing: no broken percent-encoding, no encoded slash, backslash, control character
//!    or semicolon, no dot segment, one authority. Otherwise the request is malformed (400, gRPC 3), whatever its credentials.
//! 2. What the router matched becomes the key; `Route::unmatched` where it matched nothing.
//! 3. The rule of the key is looked up. A route without one goes on, to be denied once it is known who asks.
//!
//! It does not refuse unknown routes: an unknown path must first be answered like a known one, with 401.
//!
//! Stands outside of `AuthenticateLayer`, and inside of the router, because only there the matched route is known.
//!
//! ```
//! use http::{Request, Response, request::Parts};
//! use portcullis::{layer::route::{MatchRoute, Matched, RouteLayer}, route::{Route, RouteKey}, rules::{Rules, policy_only}};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! /// A service with a single route.
//! #[derive(Clone)]
//! struct OnlyJobs;
//!
//! impl MatchRoute for OnlyJobs {
//!     fn match_route(&self, parts: &mut Parts) -> Option<Matched> {
//!         (parts.uri.path() == "/jobs").then(|| Matched::new(RouteKey::Http { method: parts.method.clone(), template: "/jobs".into() }))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rules = Rules::new().get("/jobs", policy_only()).into_table()?;
//! let service = ServiceBuilder::new().layer(RouteLayer::new(rules, OnlyJobs)).service(service_fn(async |request: Request<()>| {
//!     let route = request.extensions().get::<Route>().expect("the layer puts one into every request that it forwards");
//!     Ok::<_, std::convert::Infallible>(Response::new(route.rule().is_some().to_string()))
//! }));
//!
//! let known = service.clone().oneshot(Request::get("/jobs").body(())?).await?;
//! assert_eq!(known.body(), "true");
//! let unknown = service.clone().oneshot(Request::get("/elsewhere").body(())?).await?;
//! assert_eq!(unknown.body(), "false");
//! let ambiguous = service.oneshot(Request::get("/jobs/%2e%2e/admin").body(())?).await?;
//! assert_eq!(ambiguous.status(), 400);
//! # Ok(())
//! # }
//! ```

mod future;
mod layer;
mod service;

pub use future::ResponseFuture;
pub use layer::{MatchRoute, Matched, RouteLayer};
pub use service::SetRoute;
