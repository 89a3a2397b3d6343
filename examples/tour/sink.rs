use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use portcullis::audit::{AuditError, AuditRecord, AuditSink};
use serde_json::Value;
use tokio::sync::Notify;

use super::Paper;

/// An audit sink of our own: keeps every record for the tour and, once the tour is over, prints them as they come.
#[derive(Clone, Default)]
pub struct Notebook(Arc<Pages>);

#[derive(Default)]
struct Pages {
    records: Mutex<Vec<Value>>,
    written: Notify,
    live: Mutex<Option<Paper>>,
}

#[async_trait::async_trait]
impl AuditSink for Notebook {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        let live = *self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            let record = serde_json::to_value(&record).map_err(AuditError::failed)?;
            if let Some(paper) = &live {
                paper.record(&record);
            }
            self.0.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        }
        self.0.written.notify_waiters();
        Ok(())
    }
}

impl Notebook {
    /// The `request` record with this id, waited for at most so long: it is written behind the answer.
    pub async fn record_of(&self, request_id: &str, patience: Duration) -> Option<Value> {
        let found = async {
            loop {
                let written = self.0.written.notified();
                tokio::pin!(written);
                written.as_mut().enable();
                if let Some(record) = self.find(request_id) {
                    return record;
                }
                written.await;
            }
        };
        tokio::time::timeout(patience, found).await.ok()
    }

    fn find(&self, request_id: &str) -> Option<Value> {
        let records = self.0.records.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |record: &Value, member: &str, text: &str| record.get(member).and_then(Value::as_str) == Some(text);
        records.iter().find(|record| is(record, "kind", "request") && is(record, "request_id", request_id)).cloned()
    }

    /// From now on prints each record as it comes.
    pub fn print_live(&self, paper: &Paper) {
        *self.0.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(*paper);
    }
}
