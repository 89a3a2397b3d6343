//! May this token? Compares what the token grants with what is demanded, before any policy is asked.
//!
//! [`RequireScopeLayer::from_rules`] demands what the route's rule says, in this order:
//!
//! 1. No `Route` in the request: an internal error.
//! 2. The rule is `public`: the request passes.
//! 3. No [`Principal`](crate::principal::Principal) in the request: an internal error.
//! 4. No route matched, or the matched one has no rule: forbidden. A route without a rule is named in one warning.
//! 5. The rule demands scope: the token's must satisfy it, else forbidden. An anonymous principal is asked for a token.
//! 6. `policy_only` and `optional`: nothing is demanded of the token's scope.
//! 7. The rule names a [tenant parameter](crate::rules::Access::with_tenant_param): the token's tenant must be the one in the path,
//!    else forbidden. An anonymous principal is asked for a token.
//!
//! Whoever passes is left to the policy.
//!
//! [`RequireScopeLayer::new`] demands one requirement of every request and needs no `Route`. It may stand anywhere inside of
//! `AuthenticateLayer`, around one handler too: whatever the order, a request must satisfy every such layer that it meets.
//!
//! Scope says what a client was allowed to ask for. It does not say that this subject may do this to that resource: the policy does.
//!
//! A request that was not authenticated never gets through, and neither does the operator's mistake go unnoticed:
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use portcullis::{denial::{Class, Denial}, layer::RequireScopeLayer, scope::all_of};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let handler = service_fn(|_: Request<()>| async { Ok::<_, http::Error>(Response::new(String::from("secret"))) });
//! let service = ServiceBuilder::new().layer(RequireScopeLayer::new(all_of(["jobs:read"])?)).service(handler);
//!
//! let response = service.oneshot(Request::new(())).await?;
//! assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR); // there is no `AuthenticateLayer`
//! assert_eq!(response.extensions().get::<Denial>().map(Denial::class), Some(Class::Internal));
//! assert_eq!(response.body(), "");
//! # Ok(())
//! # }
//! ```
//!
//! With rules, a public route passes and an unlisted one does not:
//!
//! ```
//! use http::{Method, Request, Response, StatusCode};
//! use portcullis::{layer::RequireScopeLayer, route::{Route, RouteKey}, rules::{Rules, public}};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rules = Rules::new().get("/livez", public("liveness")).into_table()?;
//! let handler = service_fn(|_: Request<()>| async { Ok::<_, http::Error>(Response::new(String::from("alive"))) });
//! let service = ServiceBuilder::new().layer(RequireScopeLayer::from_rules()).service(handler);
//!
//! for (template, status) in [("/livez", StatusCode::OK), ("/debug", StatusCode::INTERNAL_SERVER_ERROR)] {
//!     let mut request = Request::new(());
//!     let key = RouteKey::Http { method: Method::GET, template: template.into() };
//!     request.extensions_mut().insert(Route::matched(&rules, key));
//!     assert_eq!(service.clone().oneshot(request).await?.status(), status);
//! }
//! # Ok(())
//! # }
//! ```

mod future;
mod layer;
mod service;

pub use future::ResponseFuture;
pub use layer::RequireScopeLayer;
pub use service::RequireScope;
