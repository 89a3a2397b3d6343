use std::{
    error::Error,
    fmt::Write as _,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::{
    AuditError, AuditRecord, AuditSink, Mode,
    queue::{Entry, Tally},
};

/// The task that takes records out of the queue and hands them to the sink.
pub(super) struct Writer {
    pub(super) receiver: mpsc::Receiver<Entry>,
    pub(super) sink: Arc<dyn AuditSink>,
    pub(super) mode: Mode,
    pub(super) service: Option<Arc<str>>,
    pub(super) tally: Arc<Tally>,
    pub(super) progress: watch::Sender<Progress>,
    /// How long to wait before the next try, while the sink fails.
    pub(super) backoff: Duration,
}

/// How far the writer came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Entries of the queue that were written, or given up and counted.
    pub(super) settled: u64,
    /// Lost records that a written gap record names.
    pub(super) reported: u64,
}

impl Writer {
    /// Runs until the last [`Audit`](super::Audit) is dropped and the queue is empty.
    pub(super) async fn run(mut self) {
        let mut entries = Vec::with_capacity(BATCH);
        loop {
            let open = self.wait(&mut entries).await;
            let settled = entries.len() as u64;
            let gap = self.tally.take_gap();
            let batch: Vec<_> = gap
                .map(|gap| AuditRecord::of_gap(gap, self.service.clone()))
                .into_iter()
                .chain(entries.drain(..).map(|entry| *entry.record))
                .collect();
            let mut reported = 0;
            if !batch.is_empty() {
                if self.deliver(&batch).await {
                    reported = gap.map_or(0, |gap| gap.total());
                } else {
                    if let Some(gap) = gap {
                        self.tally.keep_gap(gap);
                    }
                    batch.iter().for_each(|record| self.tally.lose(record.kind, record.time));
                }
            }
            self.progress.send_modify(|progress| {
                progress.settled += settled;
                progress.reported += reported;
            });
            if !open {
                break;
            }
        }
        if let Some(gap) = self.tally.take_gap() {
            tracing::error!(lost = gap.lost, lost_ends = gap.lost_ends, "the audit trail ended with an unwritten gap");
        }
    }

    /// Waits for records or a gap; false when no more can come.
    async fn wait(&mut self, entries: &mut Vec<Entry>) -> bool {
        let mut gap_found = pin!(self.tally.gap_found.notified());
        let receiver = &mut self.receiver;
        poll_fn(|cx| match receiver.poll_recv_many(cx, entries, BATCH) {
            Poll::Ready(count) => Poll::Ready(count > 0),
            Poll::Pending => gap_found.as_mut().poll(cx).map(|()| true),
        })
        .await
    }

    /// Hands the batch to the sink until it is kept; false when it was given up, which happens in [`Mode::Count`] alone.
    async fn deliver(&mut self, batch: &[AuditRecord]) -> bool {
        let mut retries = 0;
        loop {
            match attempt(Arc::clone(&self.sink), batch.to_vec()).await {
                Ok(()) => {
                    if self.tally.failing.swap(false, Ordering::AcqRel) {
                        tracing::info!("the audit sink works again");
                    }
                    self.backoff = FIRST_BACKOFF;
                    return true;
                }
                Err(error) => {
                    if !self.tally.failing.swap(true, Ordering::AcqRel) {
                        tracing::warn!(error = %chain(&error), "the audit sink fails");
                    }
                }
            }
            if self.mode == Mode::Count && retries == RETRIES {
                return false;
            }
            retries += 1;
            tokio::time::sleep(self.backoff).await;
            self.backoff = (self.backoff * 2).min(LAST_BACKOFF);
        }
    }
}

/// One try. A sink that panics has failed; the trail outlives it.
async fn attempt(sink: Arc<dyn AuditSink>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
    let mut write: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { sink.write(records).await });
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| write.as_mut().poll(cx))) {
        Ok(poll) => poll,
        // What the panic said is not kept: it may quote a record.
        Err(_) => Poll::Ready(Err(AuditError::failed("it panicked"))),
    })
    .await
}

fn chain(error: &AuditError) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, "{}{error}", if text.is_empty() { "" } else { ": " });
        source = error.source();
    }
    text
}

/// The most records that a sink gets at once, but for a gap before them.
const BATCH: usize = 256;

/// How often a batch is tried again in [`Mode::Count`].
const RETRIES: u32 = 3;

pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(100);

const LAST_BACKOFF: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use async_trait::async_trait;

    use super::*;
    use crate::{
        audit::{
            Kind, Memory,
            queue::{Queue, Share},
        },
        time::UnixTime,
    };

    /// Fails, then panics, for as many calls as it is told; then keeps.
    struct Flaky {
        failures: AtomicUsize,
        memory: Memory,
    }

    #[async_trait]
    impl AuditSink for Flaky {
        async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
            match self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
                Ok(left) if left % 2 == 0 => Err(AuditError::failed("disk full")),
                Ok(_) => panic!("sink"),
                Err(_) => Arc::new(self.memory.clone()).write(records).await,
            }
        }
    }

    /// Runs a writer over `count` records to its end.
    async fn run(mode: Mode, failures: usize, count: usize) -> (Vec<AuditRecord>, Arc<Tally>) {
        let memory = Memory::new();
        let (queue, receiver, tally) = Queue::new(1_024);
        for _ in 0..count {
            let record = AuditRecord::new(Kind::Request, UnixTime::from_secs(7), None);
            queue.put(None, Share::Whole, record, UnixTime::from_secs(7));
        }
        drop(queue);
        Writer {
            receiver,
            sink: Arc::new(Flaky { failures: failures.into(), memory: memory.clone() }),
            mode,
            service: None,
            tally: Arc::clone(&tally),
            progress: watch::channel(Progress::default()).0,
            backoff: Duration::from_millis(1),
        }
        .run()
        .await;
        (memory.records(), tally)
    }

    #[tokio::test]
    async fn dropping_the_trail_writes_what_is_left() {
        let (records, tally) = run(Mode::Deny, 0, 600).await;
        assert_eq!((records.len(), tally.lost()), (600, 0));
    }

    #[tokio::test]
    async fn deny_tries_a_failing_or_panicking_sink_until_it_works() {
        let (records, tally) = run(Mode::Deny, 6, 3).await;
        assert_eq!((records.len(), tally.lost()), (3, 0));
        assert!(!tally.failing.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn count_gives_a_batch_up_and_writes_the_gap_when_the_sink_works_again() {
        let (records, tally) = run(Mode::Count, 4, 3).await;
        assert_eq!((records.len(), tally.lost()), (1, 3));
        let gap = records[0].gap.unwrap();
        assert_eq!((gap.lost, gap.from), (3, UnixTime::from_secs(7)));
    }

    #[tokio::test]
    async fn a_gap_that_cannot_be_written_is_kept_for_the_next() {
        let (records, tally) = run(Mode::Count, 8, 300).await;
        let lost: u64 = records.iter().filter_map(|record| record.gap).map(|gap| gap.lost).sum();
        assert_eq!(lost, tally.lost());
        assert_eq!(records.iter().filter(|record| record.kind == Kind::Request).count() as u64 + lost, 300);
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        assert_eq!(chain(&AuditError::failed("disk full")), "disk full");
    }
}
