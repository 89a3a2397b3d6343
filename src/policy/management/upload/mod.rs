//! Sends JSON documents to a service in gzipped arrays, as Open Policy Agent's decision logs are sent. It does not know what is in them.
//!
//! Items wait in a bounded buffer, the oldest making room for the newest. Now and then, and as soon as a chunk is full, they are packed and
//! posted, one chunk after the other. What is not taken goes back to where it was and is tried again, ever less often.

mod buffer;
mod pace;
mod pack;
mod remote;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{Mutex, Notify},
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{buffer::Buffer, pack::Packer};
pub(crate) use self::{pace::Pace, pack::fits, remote::Remote};

/// The running sender. Its task ends when it is dropped, and what it had not sent is lost.
pub(crate) struct Uploader {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadSettings {
    /// What is sent, for messages.
    pub(crate) what: &'static str,
    /// How large a chunk may be, compressed.
    pub(crate) chunk_bytes: usize,
    /// How much may wait, uncompressed; at least that of a chunk.
    pub(crate) buffer_bytes: usize,
    pub(crate) buffer_items: usize,
    pub(crate) pace: Pace,
}

/// Where chunks go.
#[async_trait]
pub(crate) trait Destination: Send + Sync + 'static {
    /// Hands a gzipped JSON array over. An error means that it is to be sent again, even where it may have arrived.
    async fn take(&self, chunk: Bytes) -> Result<(), UploadError>;
}

/// Why a chunk was not taken. For operators: it holds no address and nothing of the chunk.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UploadError(pub(crate) String);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UploadMetrics {
    /// Items that wait, those included whose chunk is under way.
    pub(crate) buffered: usize,
    /// Of those that wait in the buffer.
    pub(crate) buffered_bytes: usize,
    /// Items that were taken.
    pub(crate) uploaded: u64,
    pub(crate) chunks: u64,
    pub(crate) failures: u64,
    /// Items that made room for newer ones.
    pub(crate) overflowed: u64,
    /// Items that are larger than a chunk.
    pub(crate) too_large: u64,
    /// Whether the last chunk was not taken.
    pub(crate) is_failing: bool,
}

struct Shared {
    settings: UploadSettings,
    destination: Arc<dyn Destination>,
    buffer: Buffer,
    /// Held while chunks are sent, so that there is one at a time.
    packer: Mutex<Packer>,
    /// As many bytes as are likely to fill a chunk.
    full_at: AtomicUsize,
    is_full: Notify,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    uploaded: AtomicU64,
    chunks: AtomicU64,
    failures: AtomicU64,
    overflowed: AtomicU64,
    too_large: AtomicU64,
    is_failing: AtomicBool,
}

impl Uploader {
    pub(crate) fn start(settings: UploadSettings, destination: impl Destination, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared {
            settings,
            destination: Arc::new(destination),
            buffer: Buffer::new(settings.buffer_bytes, settings.buffer_items),
            packer: Mutex::new(Packer::new(settings.chunk_bytes)),
            full_at: AtomicUsize::new(settings.chunk_bytes),
            is_full: Notify::new(),
            tally: Tally::default(),
        });
        let task = runtime.spawn(run(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Puts an item, a JSON text, into the buffer. It waits for nothing.
    pub(crate) fn offer(&self, item: Bytes) {
        let shared = &self.shared;
        count(&shared.tally.overflowed, shared.buffer.push(item));
        if shared.buffer.size().1 >= shared.full_at.load(Ordering::Relaxed) {
            shared.is_full.notify_one();
        }
    }

    /// Sends everything that is in the buffer, for at most `grace`, trying again what fails. Gives the number of items that are left, those
    /// included whose chunk was under way.
    pub(crate) async fn flush(&self, grace: Duration) -> usize {
        let all = async {
            let mut failures = 0;
            loop {
                // Waits for the chunk that is under way.
                failures = if self.shared.upload_all().await.is_ok() { 0 } else { failures + 1 };
                if self.shared.unsent() == 0 {
                    break;
                }
                if failures > 0 {
                    sleep(self.shared.settings.pace.backoff(failures)).await;
                }
            }
        };
        let _ = timeout(grace, all).await;
        self.shared.unsent()
    }

    pub(crate) fn metrics(&self) -> UploadMetrics {
        let Tally { uploaded, chunks, failures, overflowed, too_large, is_failing } = &self.shared.tally;
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (_, buffered_bytes) = self.shared.buffer.size();
        UploadMetrics {
            buffered: self.shared.unsent(),
            buffered_bytes,
            uploaded: total(uploaded),
            chunks: total(chunks),
            failures: total(failures),
            overflowed: total(overflowed),
            too_large: total(too_large),
            is_failing: is_failing.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.task.abort();
        let items = self.shared.unsent();
        if items > 0 {
            let what = self.shared.settings.what;
            tracing::warn!(items, "the {what} ends with events that were not sent: flush it before it is dropped");
        }
    }
}

impl fmt::Debug for Uploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploader").field("metrics", &self.metrics()).finish_non_exhaustive()
    }
}

async fn run(shared: Arc<Shared>) {
    let pace = shared.settings.pace;
    let mut failures = 0;
    loop {
        let sent = if failures > 0 {
            sleep(pace.backoff(failures)).await;
            shared.upload_all().await
        } else if timeout(pace.delay(), shared.is_full.notified()).await.is_ok() {
            shared.upload_full().await
        } else {
            shared.upload_all().await
        };
        failures = if sent.is_ok() { 0 } else { failures + 1 };
    }
}

impl Shared {
    /// Sends what waits now. What comes meanwhile waits for its own time, or it would go out one by one.
    async fn upload_all(&self) -> Result<(), UploadError> {
        let mut packer = self.packer.lock().await;
        let mut left = self.buffer.size().0;
        while left > 0 {
            match self.upload_one(&mut packer).await? {
                0 => break,
                sent => left = left.saturating_sub(sent),
            }
        }
        Ok(())
    }

    /// Sends as long as there are full chunks.
    async fn upload_full(&self) -> Result<(), UploadError> {
        let mut packer = self.packer.lock().await;
        while self.buffer.size().1 >= packer.budget() {
            if self.upload_one(&mut packer).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Sends one chunk. Gives the number of items that are gone from the buffer.
    async fn upload_one(&self, packer: &mut Packer) -> Result<usize, UploadError> {
        // Whatever ends this early, what was taken goes back.
        let mut taken = Taken::new(self, packer.budget());
        if taken.items.is_empty() {
            return Ok(0);
        }
        let (mut own, items) = (*packer, taken.items.clone());
        // Compression takes milliseconds, which the other tasks of this thread need not wait for.
        let packed = tokio::task::spawn_blocking(move || {
            let packed = own.pack(&items);
            (own, packed)
        });
        let (own, packed) = packed.await.map_err(|error| UploadError(format!("the chunk was not packed: {error}")))?;
        *packer = own;
        self.full_at.store(packer.budget(), Ordering::Relaxed);
        let Some(chunk) = packed else {
            taken.forget(1);
            count(&self.tally.too_large, 1);
            return Ok(1);
        };
        let sent = self.send(chunk.body).await;
        self.note(sent.as_ref().err());
        sent?;
        taken.forget(chunk.items);
        count(&self.tally.uploaded, chunk.items);
        count(&self.tally.chunks, 1);
        Ok(chunk.items)
    }

    /// On a task of its own, so that a client that panics is one that fails.
    async fn send(&self, body: Bytes) -> Result<(), UploadError> {
        let destination = Arc::clone(&self.destination);
        let mut sending = AbortOnDrop(tokio::spawn(async move { destination.take(body).await }));
        (&mut sending.0).await.unwrap_or_else(|_| Err(UploadError("the client panicked".to_owned())))
    }

    fn unsent(&self) -> usize {
        self.buffer.unsent()
    }

    fn note(&self, error: Option<&UploadError>) {
        let was_failing = self.tally.is_failing.swap(error.is_some(), Ordering::Relaxed);
        let what = self.settings.what;
        if let Some(error) = error {
            count(&self.tally.failures, 1);
            if !was_failing {
                tracing::warn!(%error, "the {what} is not taken: it is kept as long as there is room, and sent again");
            }
        } else if was_failing {
            tracing::info!("the {what} is taken again");
        }
    }
}

/// Items that are out of the buffer, and go back to its front unless they are forgotten.
struct Taken<'a> {
    shared: &'a Shared,
    items: Vec<Bytes>,
}

impl<'a> Taken<'a> {
    fn new(shared: &'a Shared, budget: usize) -> Self {
        Self { shared, items: shared.buffer.take(budget) }
    }

    fn forget(&mut self, first: usize) {
        drop(self.items.drain(..first.min(self.items.len())));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let dropped = self.shared.buffer.give_back(std::mem::take(&mut self.items));
        count(&self.shared.tally.overflowed, dropped);
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
