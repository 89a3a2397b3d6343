//! What happened, written down: exactly one record per request, also when the caller hangs up.
//!
//! Each stage writes its facts into the request's [`Trail`]; a guard turns the trail into an [`AuditRecord`] when the request
//! ends, however it ends, and puts it into the queue of the [`Audit`] handle, whose writer feeds an [`AuditSink`].
//!
//! Every request leaves exactly one record of kind `request`, or is one unit in the count of a `gap` record. The
//! [`AuditLayer`](crate::layer::audit) says when it is written; [`Mode`] says what happens when it cannot be.

mod facts;
mod guard;
mod handle;
mod json_lines;
mod memory;
mod queue;
mod record;
mod sink;
mod text;
mod trace_context;
mod tracing;
mod trail;
mod writer;

pub use self::tracing::Tracing;
pub(crate) use guard::Guard;
pub use handle::{Audit, AuditBuilder, FlushError, Mode};
pub use json_lines::JsonLines;
pub use memory::Memory;
pub use record::{
    Answer, AuditRecord, Gap, Kind, Outcome, Phase, RecordedActor, RecordedClaims, RecordedConfirmation, RecordedKey,
    RecordedPolicy, RecordedRoute, RecordedShadow, Verdict,
};
pub use sink::{AuditError, AuditSink};
pub(crate) use text::visible;
pub(crate) use trace_context::trace;
#[cfg(any(feature = "authzen", feature = "opa"))]
pub(crate) use trace_context::traceparent;
pub use trail::Trail;
pub(crate) use trail::{Rehearsal, Rehearsed};
