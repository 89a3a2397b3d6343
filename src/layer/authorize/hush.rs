use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::policy::PolicyErrorKind;

/// Lets one line of a kind through a second, and counts those that it holds back: while an engine is away, every request fails alike.
#[derive(Debug, Default)]
pub(super) struct Hush(Mutex<HashMap<PolicyErrorKind, Held>>);

#[derive(Debug, Default)]
struct Held {
    until: Duration,
    lines: u64,
}

impl Hush {
    /// How many lines of this kind were held back before this one, which may be written.
    pub(super) fn passes(&self, kind: PolicyErrorKind, now: Duration) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = kinds.entry(kind).or_default();
        if now < held.until {
            held.lines += 1;
            return None;
        }
        held.until = now.saturating_add(PAUSE);
        Some(std::mem::take(&mut held.lines))
    }
}

const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use PolicyErrorKind::{Panicked, Timeout};

    use super::*;

    #[test]
    fn one_line_a_second_of_each_kind_with_a_count_of_the_others() {
        let hush = Hush::default();
        let at = |kind, millis| hush.passes(kind, Duration::from_millis(millis));
        assert_eq!(at(Timeout, 0), Some(0));
        assert_eq!((at(Timeout, 1), at(Timeout, 999)), (None, None));
        assert_eq!(at(Panicked, 999), Some(0), "another kind is not drowned");
        assert_eq!(at(Timeout, 1_000), Some(2));
        assert_eq!(at(Timeout, 1_999), None);
        assert_eq!(at(Timeout, 60_000), Some(1));
    }
}
