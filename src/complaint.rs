use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A line of the log that callers can cause, at most once a second.
#[derive(Default)]
pub(crate) struct Complaint(Mutex<Said>);

#[derive(Default)]
struct Said {
    quiet_until: Duration,
    unsaid: u64,
}

impl Complaint {
    /// How many went unsaid since the last one, when this one may be said.
    pub(crate) fn speak(&self, now: Duration) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < said.quiet_until {
            said.unsaid += 1;
            return None;
        }
        said.quiet_until = now.saturating_add(Duration::from_secs(1));
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second() {
        let complaint = Complaint::default();
        let said: Vec<_> = (0..3_000).filter_map(|millis| complaint.speak(Duration::from_millis(millis))).collect();
        assert_eq!(said, [0, 999, 999]);
    }
}
