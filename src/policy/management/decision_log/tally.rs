use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::policy::management::upload::UploadMetrics;

/// What became of the decisions so far, in events unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecisionLogMetrics {
    /// Decisions that were asked for, whatever came of them.
    pub decisions: u64,
    /// Not logged because the policy says so (`data.system.log.drop`).
    pub dropped_by_policy: u64,
    /// Lost: more in a second than [allowed](super::DecisionLogBuilder::with_max_decisions_per_second).
    pub rate_limited: u64,
    /// Lost: too many waited to be masked.
    pub left_out: u64,
    /// Lost: made room in the full buffer for newer ones.
    pub overflowed: u64,
    /// Lost: too large for a chunk even without input and result.
    pub too_large: u64,
    /// Logged without input and result, because masking failed.
    pub mask_failures: u64,
    /// Logged without input and result, because they are too large for a chunk.
    pub cut: u64,
    /// Wait to be masked now.
    pub waiting: usize,
    /// Wait to be sent now, those included that are under way.
    pub buffered: usize,
    /// Bytes in the buffer now.
    pub buffered_bytes: usize,
    /// Were taken by the service.
    pub uploaded: u64,
    /// Chunks that were taken by the service.
    pub uploads: u64,
    /// Chunks that were not, and were sent again or are to be.
    pub failed_uploads: u64,
    /// True when the last chunk was not taken.
    pub is_failing: bool,
}

impl DecisionLogMetrics {
    /// How many events were lost, whatever for. Not among them is what the policy wants left out.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.rate_limited + self.left_out + self.overflowed + self.too_large
    }
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) decisions: AtomicU64,
    pub(super) dropped_by_policy: AtomicU64,
    pub(super) rate_limited: AtomicU64,
    pub(super) left_out: AtomicU64,
    pub(super) mask_failures: AtomicU64,
    pub(super) cut: AtomicU64,
    pub(super) waiting: AtomicUsize,
}

impl Tally {
    pub(super) fn metrics(&self, sent: UploadMetrics) -> DecisionLogMetrics {
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DecisionLogMetrics {
            decisions: total(&self.decisions),
            dropped_by_policy: total(&self.dropped_by_policy),
            rate_limited: total(&self.rate_limited),
            left_out: total(&self.left_out),
            overflowed: sent.overflowed,
            too_large: sent.too_large,
            mask_failures: total(&self.mask_failures),
            cut: total(&self.cut),
            waiting: self.waiting.load(Ordering::Relaxed),
            buffered: sent.buffered,
            buffered_bytes: sent.buffered_bytes,
            uploaded: sent.uploaded,
            uploads: sent.chunks,
            failed_uploads: sent.failures,
            is_failing: sent.is_failing,
        }
    }
}

/// Gives the number before.
pub(super) fn add(counter: &AtomicU64, more: u64) -> u64 {
    counter.fetch_add(more, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_event_was_lost_for_counts() {
        let tally = Tally::default();
        add(&tally.rate_limited, 1);
        add(&tally.left_out, 20);
        add(&tally.dropped_by_policy, 5);
        let sent = UploadMetrics { overflowed: 300, too_large: 4000, failures: 7, ..UploadMetrics::default() };
        assert_eq!(tally.metrics(sent).lost(), 4321);
    }
}
