//! May this call? Asks the policy, and lets through only what comes back with a permit.
//!
//! In this order:
//!
//! 1. No `Route` in the request: an internal error.
//! 2. The rule is `public`: the request passes, and no policy is asked.
//! 3. No [`Principal`](crate::principal::Principal) in the request: an internal error.
//! 4. What the rule demands of the token, as in [`require_scope`](super::require_scope): a stack without that layer demands no
//!    less. A route without a rule is forbidden.
//! 5. What the application [adds](AuthorizeLayer::add_enrichment) to the question is gathered. Where that fails: unavailable; a panic:
//!    an internal error.
//! 6. The policy is asked with a [`PolicyInput`](crate::policy::PolicyInput). No decision: unavailable. A panic of the backend: an internal error.
//! 7. The policy denies, or says nothing about the call: forbidden.
//! 8. Each obligation of the decision is handed to its handler. An allow with one that was not fulfilled: forbidden.
//!
//! What goes on carries the [`Permit`](crate::policy::Permit) as a request extension. It does not read the request's body, and it
//! decides once, when the request begins: a stream that outlives the token is not cut.
//!
//! Its place is the innermost of the stack. Deadlines belong to the backend.
//!
//! ```
//! use std::sync::Arc;
//! use http::{Method, Request, Response, StatusCode};
//! use portcullis::{layer::AuthorizeLayer, policy::deny_all, route::{Route, RouteKey}, rules::{Rules, policy_only, public}};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let rules = Rules::new().get("/livez", public("liveness")).get("/jobs", policy_only()).into_table()?;
//! let handler = service_fn(|_: Request<()>| async { Ok::<_, http::Error>(Response::new(String::from("alive"))) });
//! let service = ServiceBuilder::new().layer(AuthorizeLayer::new(Arc::new(deny_all()))).service(handler);
//!
//! // The public route lives, whatever the policy; `/jobs` does not get past the missing `AuthenticateLayer`.
//! for (template, status) in [("/livez", StatusCode::OK), ("/jobs", StatusCode::INTERNAL_SERVER_ERROR)] {
//!     let mut request = Request::new(());
//!     let key = RouteKey::Http { method: Method::GET, template: template.into() };
//!     request.extensions_mut().insert(Route::matched(&rules, key));
//!     assert_eq!(service.clone().oneshot(request).await?.status(), status);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! With a handler for an obligation, and a header that the policy may see:
//!
//! ```
//! use std::sync::Arc;
//! use portcullis::{layer::AuthorizeLayer, policy::{Obligation, deny_all}};
//!
//! let layer = AuthorizeLayer::new(Arc::new(deny_all()))
//!     .with_obligation("notify", |obligation: &Obligation| obligation.properties.contains_key("address"))
//!     .with_input_claims(["https://example.com/department"])
//!     .add_enrichment(|head, input| {
//!         let is_internal = head.headers().contains_key("x-internal");
//!         input.context.attributes.insert("internal".to_owned(), is_internal.into());
//!         Ok(())
//!     })
//!     .with_input_headers(["x-tier"])?;
//! assert!(layer.with_input_headers(["authorization"]).is_err());
//! # Ok::<(), portcullis::ConfigError>(())
//! ```

mod enforce;
mod future;
mod hush;
mod layer;
mod service;

pub use future::ResponseFuture;
pub use layer::AuthorizeLayer;
pub use service::Authorize;
