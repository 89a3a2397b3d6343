use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// So many in a second, and no more than that at once.
pub(super) struct Limit {
    per_second: f64,
    state: Mutex<State>,
}

struct State {
    left: f64,
    at: Duration,
}

impl Limit {
    pub(super) fn new(per_second: u32, now: Duration) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, state: Mutex::new(State { left: per_second, at: now }) }
    }

    pub(super) fn admits(&self, now: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let regained = now.saturating_sub(state.at).as_secs_f64() * self.per_second;
        state.left = (state.left + regained).min(self.per_second);
        state.at = state.at.max(now);
        let is_admitted = state.left >= 1.0;
        if is_admitted {
            state.left -= 1.0;
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_each_second_and_no_more_at_once() {
        let limit = Limit::new(4, Duration::from_secs(9));
        let admitted = |at: u64, tries| (0..tries).filter(|_| limit.admits(Duration::from_millis(at))).count();
        assert_eq!([admitted(9_000, 10), admitted(9_249, 10), admitted(9_250, 10)], [4, 0, 1]);
        assert_eq!([admitted(9_000, 1), admitted(60_000, 10), admitted(60_500, 10)], [0, 4, 2]);
    }
}
