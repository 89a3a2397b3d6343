use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{AuditError, AuditRecord, AuditSink};

/// Keeps the records in memory, without bound: for tests and tours.
///
/// Every clone is the same store. [`Audit::flush`](super::Audit::flush) before looking: the writer is a task of its own.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Vec<AuditRecord>>>);

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The records so far, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<AuditRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl AuditSink for Memory {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(records);
        Ok(())
    }
}
