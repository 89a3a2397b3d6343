use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::audit::{AuditError, AuditRecord, AuditSink, Memory};

/// A [`Memory`] sink that fails and stalls on demand.
pub struct RecordingSink {
    memory: Memory,
    behaviour: watch::Sender<Behaviour>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Behaviour {
    stalled: bool,
    failing: bool,
}

impl RecordingSink {
    /// An empty sink.
    #[must_use]
    pub fn new() -> Self {
        super::marker();
        Self { memory: Memory::new(), behaviour: watch::Sender::new(Behaviour::default()) }
    }

    /// What was written so far. Records reach a sink a moment after their request has ended: flush the
    /// [`Audit`](crate::audit::Audit) handle first.
    #[must_use]
    pub fn records(&self) -> Vec<AuditRecord> {
        self.memory.records()
    }

    /// The request id of each record, in order: as [`conformance::audit_sink`](super::conformance::audit_sink) reads them back.
    #[must_use]
    pub fn request_ids(&self) -> Vec<String> {
        self.records().iter().filter_map(|record| record.request_id.as_ref().map(ToString::to_string)).collect()
    }

    /// While true, writing fails and keeps nothing.
    pub fn fail(&self, failing: bool) {
        self.behaviour.send_modify(|behaviour| behaviour.failing = failing);
    }

    /// While true, writing waits; what waits goes on when it becomes false again.
    pub fn stall(&self, stalled: bool) {
        self.behaviour.send_modify(|behaviour| behaviour.stalled = stalled);
    }
}

impl Default for RecordingSink {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl AuditSink for RecordingSink {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        let mut changes = self.behaviour.subscribe();
        let behaviour = *changes.wait_for(|behaviour| !behaviour.stalled).await.map_err(AuditError::failed)?;
        if behaviour.failing {
            return Err(AuditError::failed("the recording sink was told to fail"));
        }
        Arc::new(self.memory.clone()).write(records).await
    }
}

impl fmt::Debug for RecordingSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingSink").field("records", &self.records().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::RequestId;

    #[tokio::test]
    async fn it_keeps_fails_and_stalls_as_told() {
        let sink = Arc::new(RecordingSink::new());
        let write = || tokio::spawn(Arc::clone(&sink).write(vec![AuditRecord::sample(RequestId::random())]));
        assert!(write().await.unwrap().is_ok());
        sink.fail(true);
        assert!(write().await.unwrap().is_err());
        sink.fail(false);
        sink.stall(true);
        let waiting = write();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(sink.records().len(), 1);
        sink.stall(false);
        assert!(waiting.await.unwrap().is_ok());
        assert_eq!(sink.records().len(), 2);
    }
}
