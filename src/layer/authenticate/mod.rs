//! Who is it? Demands a bearer token that verifies, and hands the principal on.
//!
//! In this order:
//!
//! 1. A route whose rule is `public`: no token is read. The request goes on without a `Principal`.
//! 2. An `Authorization` header that cannot be read as one bearer token: malformed.
//! 3. No token: the anonymous [`Principal`](crate::principal::Principal) where the rule is `optional`, else unauthenticated,
//!    also where no route or no rule matched.
//! 4. A token that does not verify: unauthenticated, also where it would be optional; unavailable when the issuer's keys cannot be had.
//! 5. No room in the audit trail: unavailable.
//!
//! What goes on carries `Principal` and [`VerifiedToken`](crate::token::VerifiedToken) as request extensions; whatever of that
//! kind stood there before, a [`Permit`](crate::policy::Permit) included, is gone. The `Authorization` header stays, marked as
//! sensitive: do not pass it on to other services.
//!
//! It does not look at scope and does not ask the policy: an authenticated request is not yet a permitted one.
//!
//! Its place is inside of the `RouteLayer`, outside of the other gates. Without a `Route` in the request a token is always
//! demanded. A known key is looked up without waiting; only a missing key set makes the request wait.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use portcullis::{key::JwkSet, layer::AuthenticateLayer, token::{Issuer, Verifier}};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = JwkSet::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#)?;
//! let issuer = Issuer::rfc9068("https://id.example", "https://api.example").with_keys(keys);
//! let handler = service_fn(|_: Request<()>| async { Ok::<_, http::Error>(Response::new(String::from("secret"))) });
//! let service = ServiceBuilder::new().layer(AuthenticateLayer::new(Verifier::builder(issuer).build()?)).service(handler);
//!
//! for (authorization, status) in [
//!     (None, StatusCode::UNAUTHORIZED),
//!     (Some("Bearer eyJhbGciOiJub25lIn0.e30."), StatusCode::UNAUTHORIZED),
//!     (Some("Bearer one, Bearer two"), StatusCode::BAD_REQUEST),
//! ] {
//!     let mut request = Request::new(());
//!     request.headers_mut().extend(authorization.map(|line| (http::header::AUTHORIZATION, line.parse().unwrap())));
//!     let response = service.clone().oneshot(request).await?;
//!     assert_eq!(response.status(), status);
//!     assert_eq!(response.body(), "");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! On an `optional` route nobody has to sign in, and the handler sees the difference:
//!
//! ```
//! use http::{Method, Request, Response};
//! use portcullis::{key::JwkSet, layer::AuthenticateLayer, principal::Principal, route::{Route, RouteKey}};
//! use portcullis::{rules::{Rules, optional}, token::{Issuer, Verifier}};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = JwkSet::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#)?;
//! # let issuer = Issuer::rfc9068("https://id.example", "https://api.example").with_keys(keys);
//! let handler = service_fn(|request: Request<()>| async move {
//!     let known = request.extensions().get::<Principal>().is_some_and(|principal| !principal.is_anonymous());
//!     Ok::<_, http::Error>(Response::new(String::from(if known { "welcome back" } else { "welcome" })))
//! });
//! let service = ServiceBuilder::new().layer(AuthenticateLayer::new(Verifier::builder(issuer).build()?)).service(handler);
//!
//! let rules = Rules::new().get("/catalogue", optional()).into_table()?;
//! let mut request = Request::new(());
//! let key = RouteKey::Http { method: Method::GET, template: "/catalogue".into() };
//! request.extensions_mut().insert(Route::matched(&rules, key));
//! assert_eq!(service.oneshot(request).await?.body(), "welcome");
//! # Ok(())
//! # }
//! ```

mod future;
mod layer;
mod service;

pub use future::ResponseFuture;
pub use layer::AuthenticateLayer;
pub use service::Authenticate;
