//! What a refusal looks like: everything inside, next to nothing outside.
//!
//! Inside, a [`Reason`] says why, with a stable code, and goes to the audit trail. Outside, a [`Denial`] says what the caller may
//! know: one of six classes. One table joins the two ([`Denial::of`]); a renderer receives the `Denial` alone, so no text of a
//! `Reason` can reach a caller.

mod context;
#[expect(clippy::module_inception, reason = "the type of this name is what the module is about")]
mod denial;
mod reason;
mod render;

pub use context::{RequestContext, Sent};
pub use denial::{Class, Denial};
pub use reason::{MissingLayer, Reason, Stage};
pub use render::{Disclosure, Profile, Protocol, RenderContext, RenderDenial, Renderer, RequestId, SignInRedirect};
