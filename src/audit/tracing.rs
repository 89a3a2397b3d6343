use std::sync::Arc;

use async_trait::async_trait;

use super::{AuditError, AuditRecord, AuditSink, Kind};

/// Emits each record as one `tracing` event: level `INFO`, target `portcullis::audit`, the whole record as JSON in the field
/// `record`, and the fields `kind`, `request_id`, `decision` and `reason` beside it for filters.
///
/// The subscriber decides what becomes of an event, and the trail cannot see that: a filter below `INFO` for this target,
/// sampling, or no subscriber at all silently loses the trail. Where records must be kept, use
/// [`JsonLines`](super::JsonLines) or a sink of your own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Tracing {
    /// The sink.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl AuditSink for Tracing {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        for record in &records {
            emit(record).map_err(AuditError::failed)?;
        }
        Ok(())
    }
}

fn emit(record: &AuditRecord) -> Result<(), serde_json::Error> {
    let json = serde_json::to_string(record)?;
    let message = match record.kind {
        Kind::Request => "request",
        Kind::End => "end of stream",
        Kind::Gap => "audit records were lost",
        Kind::Shadow => "the policy that is tried out differs",
    };
    ::tracing::info!(
        target: "portcullis::audit",
        kind = record.kind.as_str(),
        request_id = record.request_id.as_ref().map(|id| id.as_str()),
        decision = record.decision.map(|decision| decision.as_str()),
        reason = record.reason,
        record = %json,
        "{message}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Mutex,
    };

    use super::*;
    use crate::{
        audit::{Gap, Verdict},
        denial::RequestId,
        time::UnixTime,
    };

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_becomes_one_event_that_holds_it_whole() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let mut record = AuditRecord::new(Kind::Request, UnixTime::from_secs(0), None);
        record.request_id = Some(RequestId::random());
        record.decision = Some(Verdict::Deny);
        record.reason = Some("token_expired");
        let gap = Gap { lost: 1, lost_ends: 0, from: UnixTime::from_secs(0), to: UnixTime::from_secs(0) };
        ::tracing::subscriber::with_default(subscriber, || {
            emit(&record).unwrap();
            emit(&AuditRecord::of_gap(gap, None)).unwrap();
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0]["target"], "portcullis::audit");
        assert_eq!(events[0]["fields"]["reason"], "token_expired");
        let inner: serde_json::Value = serde_json::from_str(events[0]["fields"]["record"].as_str().unwrap()).unwrap();
        assert_eq!(inner, serde_json::to_value(&record).unwrap());
        assert_eq!(events[1]["fields"]["kind"], "gap");
    }
}
