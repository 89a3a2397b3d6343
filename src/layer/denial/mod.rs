//! Turns every refusal into the one answer of its class, and gives each request its id.
//!
//! In this order:
//!
//! 1. The request gets a [`RequestContext`](crate::denial::RequestContext) with a fresh id; the one of a `DenialLayer` further
//!    outside is kept, so that a stack in a stack speaks of one request. An id that the caller sent plays no part.
//! 2. A response that carries a [`Denial`](crate::denial::Denial) is thrown away whole and rendered from nothing by
//!    [`RenderDenial`](crate::denial::RenderDenial): no header that the service or a router put on it survives.
//! 3. Any other response passes as it is.
//! 4. A panic of the inner service, before it has answered, becomes an internal error. So does a panic of the renderer.
//! 5. Every response gets `x-request-id`, in place of the service's own.
//!
//! It refuses nothing itself. A panic while the body is sent passes through: the head has left by then. Promises about panics
//! hold when they unwind.
//!
//! Its place is the outermost of the stack, outside of the finished router; CORS, timeouts and traces go around it.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::{BodyExt as _, Full};
//! use portcullis::{denial::{Denial, Reason}, layer::DenialLayer};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A gate further inside refuses; what it says beside the denial is lost on purpose.
//! let refusing = service_fn(|_: Request<()>| async {
//!     let mut response = Response::builder().header("allow", "GET").body(Full::new(Bytes::from("no such user")))?;
//!     response.extensions_mut().insert(Denial::of(&Reason::MissingCredentials, None));
//!     Ok::<_, http::Error>(response)
//! });
//! let service = ServiceBuilder::new().layer(DenialLayer::api("jobs")?).service(refusing);
//!
//! let response = service.oneshot(Request::new(())).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"jobs\"");
//! assert!(!response.headers().contains_key("allow"));
//! let body = response.into_body().collect().await?.to_bytes();
//! assert!(body.starts_with(b"{\"type\":\"about:blank\",\"title\":\"Unauthorized\",\"status\":401"));
//! # Ok(())
//! # }
//! ```
//!
//! With a rendering of one's own, here without any body:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use portcullis::{denial::{Denial, RenderContext}, layer::DenialLayer};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let renderer = |denial: &Denial, _: &RenderContext| {
//!     let mut response = Response::new(Bytes::new());
//!     *response.status_mut() = denial.class().http_status();
//!     response
//! };
//! let panicking = service_fn(|_: Request<()>| async { panic!("a bug") as Result<Response<Full<Bytes>>, http::Error> });
//! let service = ServiceBuilder::new().layer(DenialLayer::new(renderer)).service(panicking);
//!
//! let response = service.oneshot(Request::new(())).await?;
//! assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
//! assert_eq!(response.headers()["x-request-id"].len(), 32);
//! # Ok(())
//! # }
//! ```

mod body;
mod future;
mod layer;
mod service;

pub use body::ResponseBody;
pub use future::ResponseFuture;
pub use layer::DenialLayer;
pub use service::DenialService;
