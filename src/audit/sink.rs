use std::sync::Arc;

use async_trait::async_trait;

use super::AuditRecord;

/// Takes audit records to where they are kept: a file, a log, a queue, a database.
///
/// One writer task feeds a sink, one batch at a time, off the path of the requests. A sink that answers with an error, or
/// panics, is handed the same batch again (see [`Mode`](super::Mode)): doubles are dropped by `(request_id, kind)`.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
/// use portcullis::audit::{AuditError, AuditRecord, AuditSink};
///
/// /// Counts, and keeps nothing.
/// struct Counting(AtomicUsize);
///
/// #[async_trait::async_trait]
/// impl AuditSink for Counting {
///     async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
///         self.0.fetch_add(records.len(), Ordering::Relaxed);
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait AuditSink: Send + Sync + 'static {
    /// Writes the records, in order. Never called with none, nor again before it answered. `Ok` means that they are kept.
    ///
    /// # Errors
    ///
    /// [`AuditError`] when they, or some of them, could not be written.
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError>;
}

/// Why records could not be written. Opaque; the cause behind it is for operators.
#[derive(Debug, thiserror::Error)]
#[error("the audit sink failed")]
pub struct AuditError {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl AuditError {
    /// The sink failed.
    pub fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    fn _is_dyn_compatible(_: std::sync::Arc<dyn super::AuditSink>) {}
}
