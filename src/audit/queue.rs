use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::{AuditRecord, Gap, Kind};
use crate::time::UnixTime;

/// The way to the writer: bounded, and never waited for.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Entry>,
    unauthenticated: Arc<Semaphore>,
    tally: Arc<Tally>,
}

/// Which part of the queue a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Share {
    /// Whoever is not authenticated shares half of it, so that a flood without credentials leaves room for the others.
    Half,
    /// All of it.
    Whole,
}

/// Room for one record.
#[derive(Debug)]
pub(super) struct Slot {
    permit: mpsc::OwnedPermit<Entry>,
    unauthenticated: Option<OwnedSemaphorePermit>,
}

/// One record on its way; the part of the unauthenticated half that it takes comes free when the writer drops it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Box<AuditRecord>,
    _unauthenticated: Option<OwnedSemaphorePermit>,
}

/// What went in and what was lost: shared by the queue's two ends.
#[derive(Debug, Default)]
pub(super) struct Tally {
    enqueued: AtomicU64,
    lost: AtomicU64,
    gap: Mutex<Option<Gap>>,
    /// Told of each loss, so that a gap is written although no record comes.
    pub(super) gap_found: Notify,
    /// True while the sink fails.
    pub(super) failing: AtomicBool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> (Self, mpsc::Receiver<Entry>, Arc<Tally>) {
        let (sender, receiver) = mpsc::channel(capacity);
        let tally = Arc::new(Tally::default());
        let unauthenticated = Arc::new(Semaphore::new(capacity / 2));
        (Self { sender, unauthenticated, tally: Arc::clone(&tally) }, receiver, tally)
    }

    /// Room for one record, when there is some now.
    pub(super) fn reserve(&self, share: Share) -> Option<Slot> {
        let unauthenticated = match share {
            Share::Half => Some(Arc::clone(&self.unauthenticated).try_acquire_owned().ok()?),
            Share::Whole => None,
        };
        let permit = self.sender.clone().try_reserve_owned().ok()?;
        Some(Slot { permit, unauthenticated })
    }

    /// Puts the record into its slot, else into any room that its share has now; else counts it as lost.
    pub(super) fn put(&self, slot: Option<Slot>, share: Share, record: AuditRecord, now: UnixTime) {
        match slot.or_else(|| self.reserve(share)) {
            Some(Slot { permit, unauthenticated }) => {
                // Counted first, so that a flush begun after this call waits for the record.
                self.tally.enqueued.fetch_add(1, Ordering::AcqRel);
                permit.send(Entry { record: Box::new(record), _unauthenticated: unauthenticated });
            }
            None => self.tally.lose(record.kind, now),
        }
    }

    /// True when not one more record fits.
    pub(super) fn is_full(&self) -> bool {
        self.sender.capacity() == 0
    }

    /// True when the writer has ended, which it does only with its runtime.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Slot {
    /// Gives the part of the unauthenticated half back: its holder is authenticated now.
    pub(super) fn move_to_whole(&mut self) {
        self.unauthenticated = None;
    }
}

impl Tally {
    pub(super) fn enqueued(&self) -> u64 {
        self.enqueued.load(Ordering::Acquire)
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }

    /// Counts a record that is lost at `time`.
    pub(super) fn lose(&self, kind: Kind, time: UnixTime) {
        let (lost, lost_ends) = match kind {
            Kind::Request => (1, 0),
            Kind::End => (0, 1),
            // What a gap counts was counted before, and a shadow's difference is no request: whoever compares has counted it.
            Kind::Gap | Kind::Shadow => return,
        };
        self.lost.fetch_add(1, Ordering::AcqRel);
        self.keep_gap(Gap { lost, lost_ends, from: time, to: time });
    }

    /// Adds to what the next gap record will say.
    pub(super) fn keep_gap(&self, more: Gap) {
        let mut gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        *gap = Some(match *gap {
            None => more,
            Some(gap) => Gap {
                lost: gap.lost.saturating_add(more.lost),
                lost_ends: gap.lost_ends.saturating_add(more.lost_ends),
                from: gap.from.min(more.from),
                to: gap.to.max(more.to),
            },
        });
        drop(gap);
        self.gap_found.notify_one();
    }

    pub(super) fn take_gap(&self) -> Option<Gap> {
        mem::take(&mut *self.gap.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gap {
    /// How many records it stands for.
    pub(super) const fn total(self) -> u64 {
        self.lost.saturating_add(self.lost_ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind) -> AuditRecord {
        AuditRecord::new(kind, UnixTime::from_secs(1), None)
    }

    #[test]
    fn the_unauthenticated_hold_at_most_half_of_the_queue() {
        let (queue, _receiver, _) = Queue::new(8);
        let held: Vec<_> = std::iter::from_fn(|| queue.reserve(Share::Half)).collect();
        assert_eq!(held.len(), 4);
        let rest: Vec<_> = std::iter::from_fn(|| queue.reserve(Share::Whole)).collect();
        assert_eq!(rest.len(), 4);
        assert!(queue.is_full());
    }

    #[test]
    fn who_is_authenticated_gives_its_part_of_the_half_back() {
        let (queue, _receiver, _) = Queue::new(8);
        let mut held: Vec<_> = std::iter::from_fn(|| queue.reserve(Share::Half)).collect();
        held.iter_mut().for_each(Slot::move_to_whole);
        assert!(queue.reserve(Share::Half).is_some());
    }

    #[test]
    fn an_entry_holds_its_part_of_the_half_until_the_writer_takes_it() {
        let (queue, mut receiver, tally) = Queue::new(8);
        for _ in 0..5 {
            queue.put(None, Share::Half, record(Kind::Request), UnixTime::from_secs(9));
        }
        assert_eq!((tally.enqueued(), tally.lost()), (4, 1));
        drop(receiver.try_recv().unwrap());
        assert!(queue.reserve(Share::Half).is_some());
    }

    #[test]
    fn losses_add_up_to_one_gap() {
        let (queue, _receiver, tally) = Queue::new(8);
        let _held: Vec<_> = std::iter::from_fn(|| queue.reserve(Share::Whole)).collect();
        queue.put(None, Share::Whole, record(Kind::Request), UnixTime::from_secs(5));
        queue.put(None, Share::Whole, record(Kind::End), UnixTime::from_secs(3));
        queue.put(None, Share::Half, record(Kind::Request), UnixTime::from_secs(4));
        let gap = tally.take_gap().unwrap();
        assert_eq!((gap.lost, gap.lost_ends, gap.total()), (2, 1, 3));
        assert_eq!((gap.from, gap.to), (UnixTime::from_secs(3), UnixTime::from_secs(5)));
        assert_eq!((tally.take_gap(), tally.lost()), (None, 3));
    }

    #[test]
    fn a_queue_without_a_writer_has_no_room() {
        let (queue, receiver, _) = Queue::new(8);
        drop(receiver);
        assert!(queue.is_closed());
        assert!(queue.reserve(Share::Whole).is_none());
    }
}
