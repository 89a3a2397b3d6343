use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    AuditRecord, AuditSink,
    facts::shadow_record,
    queue::{Queue, Share, Slot},
    writer::{FIRST_BACKOFF, Progress, Writer},
};
use crate::{
    ConfigError,
    health::Health,
    policy::ShadowDifference,
    time::{Clock, SystemClock},
};

/// The running audit trail: a bounded queue, and one task that feeds the sink from it.
///
/// Cheap to clone: every clone is the same trail. When the last clone, and the last request that holds one, is gone, the task
/// writes what is left and ends. It lives on the Tokio runtime that it was started on, so call [`flush`](Self::flush) before
/// that one ends.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    queue: Queue,
    mode: Mode,
    service: Option<Arc<str>>,
    clock: Arc<dyn Clock>,
    progress: watch::Receiver<Progress>,
}

/// What happens when the audit trail has no room, because the sink fails or is too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// What cannot be written down does not happen: room is reserved before the handler is called, and a request that gets
    /// none is refused with 503 before it has any effect. A sink that fails is tried again until it works. Lost, and counted
    /// in a gap record, are only requests that no handler saw.
    #[default]
    Deny,
    /// The request goes on. A sink that fails is tried three times more; what is lost is counted in a gap record, written as
    /// soon as the sink takes it.
    Count,
}

/// Sets an [`Audit`] up.
#[derive(Clone)]
#[must_use = "nothing is written before `start`"]
pub struct AuditBuilder {
    sink: Arc<dyn AuditSink>,
    mode: Mode,
    capacity: usize,
    service: Option<Arc<str>>,
    clock: Arc<dyn Clock>,
}

impl Audit {
    /// Starts the trail with the default queue.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{sync::Arc, time::Duration};
    /// use portcullis::audit::{Audit, JsonLines, Mode};
    ///
    /// let audit = Audit::start(Arc::new(JsonLines::stdout()), Mode::Deny)?;
    /// // … serve …
    /// audit.flush(Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoRuntime`] outside a Tokio runtime (one with its timer enabled).
    pub fn start(sink: Arc<dyn AuditSink>, mode: Mode) -> Result<Self, ConfigError> {
        Self::builder(sink).with_mode(mode).start()
    }

    /// Sets a trail up that writes to this sink.
    pub fn builder(sink: Arc<dyn AuditSink>) -> AuditBuilder {
        AuditBuilder {
            sink,
            mode: Mode::default(),
            capacity: DEFAULT_CAPACITY,
            service: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// Waits until every record made before the call was written, gaps included, at most for `deadline`. The record of a
    /// request is made when its response ends: stop serving first.
    ///
    /// # Errors
    ///
    /// [`FlushError`] when records are left at the deadline, or the writer's runtime has ended.
    pub async fn flush(&self, deadline: Duration) -> Result<(), FlushError> {
        let tally = self.0.queue.tally();
        let enqueued = tally.enqueued();
        let mut progress = self.0.progress.clone();
        let done = |progress: &Progress| progress.settled >= enqueued && progress.reported >= tally.lost();
        if let Ok(Ok(_)) = tokio::time::timeout(deadline, progress.wait_for(done)).await {
            return Ok(());
        }
        let progress = *self.0.progress.borrow();
        let left = enqueued.saturating_sub(progress.settled) + tally.lost().saturating_sub(progress.reported);
        Err(FlushError { left: usize::try_from(left).unwrap_or(usize::MAX) })
    }

    /// Whether records can be written now.
    #[must_use]
    pub fn health(&self) -> Health {
        let queue = &self.0.queue;
        let detail = if queue.is_closed() {
            "the audit writer has ended"
        } else if queue.tally().failing.load(std::sync::atomic::Ordering::Acquire) {
            "the audit sink fails"
        } else if queue.is_full() {
            "the audit queue is full"
        } else {
            return Health::Ready;
        };
        match self.0.mode {
            Mode::Deny => Health::Unavailable(detail.into()),
            Mode::Count => Health::Degraded(detail.into()),
        }
    }

    /// How many records were lost since the start, reported in a gap record or not yet. For a metric.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.queue.tally().lost()
    }

    /// Records that a policy which is tried out does not agree with the one that is enforced
    /// ([`Shadow`](crate::policy::Shadow)). Takes room of the half that unauthenticated requests may use; where there is none, the
    /// record is left out: the shadow has counted the difference.
    pub fn differed(&self, difference: &ShadowDifference) {
        self.put(None, Share::Half, shadow_record(difference, self.clock().now(), self.service()));
    }

    /// What happens when there is no room.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    pub(super) fn service(&self) -> Option<Arc<str>> {
        self.0.service.clone()
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(super) fn reserve(&self, share: Share) -> Option<Slot> {
        self.0.queue.reserve(share)
    }

    pub(super) fn put(&self, slot: Option<Slot>, share: Share, record: AuditRecord) {
        self.0.queue.put(slot, share, record, self.0.clock.now());
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("mode", &self.0.mode).field("health", &self.health()).finish_non_exhaustive()
    }
}

impl AuditBuilder {
    /// Sets what happens when there is no room. Default [`Mode::Deny`].
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets how many records the queue holds: 8 to 1 048 576, default 8 192.
    ///
    /// In [`Mode::Deny`] every request in flight holds room: two records until the head of its response, one until its end.
    /// More than this many requests and open streams at a time are therefore refused. Half of the queue is closed to requests
    /// that are not authenticated, public routes included.
    pub fn with_capacity(mut self, records: usize) -> Self {
        self.capacity = records;
        self
    }

    /// Sets the name of the service, which stands in every record. Default none.
    pub fn with_service(mut self, name: impl Into<Arc<str>>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Sets the clock that records are dated and durations measured by. Default [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts the trail.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoRuntime`] outside a Tokio runtime, [`ConfigError::Invalid`] for a capacity out of bounds.
    pub fn start(self) -> Result<Audit, ConfigError> {
        if !CAPACITY.contains(&self.capacity) {
            return Err(ConfigError::invalid(
                "audit.capacity",
                self.capacity.to_string(),
                "choose 8 to 1048576 records (default 8192)",
            ));
        }
        let runtime = crate::error::runtime("audit")?;
        let (queue, receiver, tally) = Queue::new(self.capacity);
        let (sender, progress) = watch::channel(Progress::default());
        let writer = Writer {
            receiver,
            sink: self.sink,
            mode: self.mode,
            service: self.service.clone(),
            tally,
            progress: sender,
            backoff: FIRST_BACKOFF,
        };
        runtime.spawn(writer.run());
        Ok(Audit(Arc::new(Inner { queue, mode: self.mode, service: self.service, clock: self.clock, progress })))
    }
}

impl fmt::Debug for AuditBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditBuilder")
            .field("mode", &self.mode)
            .field("capacity", &self.capacity)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Records were not written in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{left} audit records were not written in time")]
pub struct FlushError {
    /// How many.
    pub left: usize,
}

const DEFAULT_CAPACITY: usize = 8_192;

const CAPACITY: std::ops::RangeInclusive<usize> = 8..=1_048_576;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Memory;

    #[test]
    fn outside_a_runtime_is_a_configuration_error() {
        let started = Audit::start(Arc::new(Memory::new()), Mode::Deny);
        assert!(matches!(started, Err(ConfigError::NoRuntime { part: "audit" })));
    }

    #[test]
    fn a_capacity_out_of_bounds_is_a_configuration_error() {
        for capacity in [0, 7, 1_048_577, usize::MAX] {
            let error = Audit::builder(Arc::new(Memory::new())).with_capacity(capacity).start().unwrap_err();
            assert_eq!(error.field(), "audit.capacity");
        }
    }

    #[test]
    fn a_trail_whose_runtime_has_ended_is_unavailable_and_says_so() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let audit = runtime.block_on(async { Audit::start(Arc::new(Memory::new()), Mode::Deny).unwrap() });
        assert_eq!(audit.health(), Health::Ready);
        drop(runtime);
        assert_eq!(audit.health(), Health::Unavailable("the audit writer has ended".into()));
        assert!(audit.reserve(Share::Whole).is_none());
    }

    #[tokio::test]
    async fn a_flush_with_nothing_to_write_is_done_at_once() {
        let audit = Audit::start(Arc::new(Memory::new()), Mode::Deny).unwrap();
        assert_eq!(audit.flush(Duration::ZERO).await, Ok(()));
    }
}
