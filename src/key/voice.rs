use std::{sync::Arc, time::Duration};

use crate::complaint::Complaint;

/// What a cache says in the log: everything, or, as one of many whose loads callers can cause, no change of its keys, and of all else
/// at most one line of each kind a second for all of them together.
#[derive(Clone, Default)]
pub(crate) struct Voice(Option<Arc<Lines>>);

#[derive(Default)]
pub(super) struct Lines {
    pub(super) failed: Complaint,
    pub(super) recovered: Complaint,
    pub(super) skipped: Complaint,
    pub(super) stale: Complaint,
}

impl Voice {
    pub(crate) fn shared() -> Self {
        Self(Some(Arc::default()))
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.0.is_some()
    }

    /// How many of these lines went unsaid since the last one, when this one may be said.
    pub(super) fn speak(&self, line: impl FnOnce(&Lines) -> &Complaint, now: Duration) -> Option<u64> {
        self.0.as_ref().map_or(Some(0), |lines| line(lines).speak(now))
    }
}
