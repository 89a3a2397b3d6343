//! Writes exactly one audit record per request, however the request ends.
//!
//! What it does, in order:
//!
//! 1. A request that is already on a [`Trail`](crate::audit::Trail) whose record is still to be written joins it: a stack in a
//!    stack leaves one record.
//! 2. Else it puts a `Trail` into the request, with the id of the [`RequestContext`](crate::denial::RequestContext) that it
//!    finds, or of one that it makes. In [`Mode::Deny`](crate::audit::Mode::Deny) it reserves room for the record if the half
//!    of the queue that is open to the unauthenticated has any.
//! 3. A guard is made before the inner service is called. It travels in the future, then in the response's body, and writes
//!    the record when the body ends or is dropped: `complete` when the response was taken to its end (its end was seen, or
//!    announced, or as many bytes went out as `Content-Length` says, or there is no body: `HEAD`, 1xx, 204, 304), `panicked`
//!    when the inside panicked, `aborted` in every other case.
//! 4. A response whose length is not known leaves its `request` record at its head, without an outcome, and a single `end`
//!    record with the same request id when it ends.
//!
//! What it does *not* do: it never refuses. The gates inside demand room as soon as they know who calls; a stack without gates
//! runs its handler also when there is no room, and the loss is counted. It does not watch a connection after `101` or
//! `CONNECT`. It is told of a refusal's rendering by the denial layer; without one, `sent` is what came from inside. Records of
//! requests in flight when the process dies are lost.
//!
//! Its place: directly inside the denial layer, outside of everything else, so that a request that no route matches, or that
//! breaks the router, is on record too. Whether a panic is caught inside or outside of it makes no difference to `panicked`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{convert::Infallible, sync::Arc, time::Duration};
//! use http::{Request, Response};
//! use portcullis::{audit::{Audit, Memory, Mode, Outcome}, layer::audit::AuditLayer};
//! use tower::{Layer as _, ServiceExt as _, service_fn};
//!
//! let memory = Memory::new();
//! let audit = Audit::start(Arc::new(memory.clone()), Mode::Deny)?;
//! let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::from("hello"))));
//! let service = AuditLayer::new(audit.clone()).layer(inner);
//!
//! let response = service.oneshot(Request::new(())).await?;
//! drop(response); // as a server does when the body went out, or the caller hung up
//!
//! audit.flush(Duration::from_secs(5)).await?;
//! let records = memory.records();
//! assert_eq!(records.len(), 1);
//! assert_eq!(records[0].answered.map(|answer| answer.http), Some(200));
//! assert_eq!(records[0].outcome, Some(Outcome::Aborted)); // nobody took the five bytes
//! # Ok(()) }
//! ```
//!
//! With a name, a larger queue, and requests that go on when there is no room:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{convert::Infallible, sync::Arc, time::Duration};
//! use http::{Request, Response};
//! use portcullis::{audit::{Audit, Memory, Mode}, health::Health, layer::audit::AuditLayer};
//! use tower::{Layer as _, ServiceExt as _, service_fn};
//!
//! let memory = Memory::new();
//! let audit = Audit::builder(Arc::new(memory.clone()))
//!     .with_mode(Mode::Count)
//!     .with_capacity(65_536)
//!     .with_service("jobs")
//!     .start()?;
//! let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
//! AuditLayer::new(audit.clone()).layer(inner).oneshot(Request::new(())).await?;
//!
//! audit.flush(Duration::from_secs(5)).await?;
//! assert_eq!(memory.records()[0].service.as_deref(), Some("jobs"));
//! assert_eq!((audit.lost(), audit.health()), (0, Health::Ready));
//! # Ok(()) }
//! ```

mod body;
mod future;
mod layer;
mod service;

pub use body::AuditBody;
pub use future::ResponseFuture;
pub use layer::AuditLayer;
pub use service::AuditService;

#[cfg(test)]
mod tests;
