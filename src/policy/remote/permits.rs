use tokio::sync::{Semaphore, SemaphorePermit};

use crate::policy::{PolicyError, PolicyInput};

/// Room for calls in flight. Callers who proved nothing share half of it, so that they cannot take it all from those who did.
#[derive(Debug)]
pub(in crate::policy) struct Permits {
    all: Semaphore,
    anonymous: Semaphore,
    limit: usize,
}

/// The room of one call.
#[derive(Debug)]
pub(in crate::policy) struct Permit<'a>(
    #[expect(dead_code, reason = "held, not read")] (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>),
);

impl Permits {
    pub(in crate::policy) fn new(limit: usize) -> Self {
        Self { all: Semaphore::new(limit), anonymous: Semaphore::new(limit.div_ceil(2)), limit }
    }

    pub(in crate::policy) const fn limit(&self) -> usize {
        self.limit
    }

    /// Room for this call, or the refusal: nobody waits for room.
    pub(in crate::policy) fn acquire(&self, input: &PolicyInput) -> Result<Permit<'_>, PolicyError> {
        let share = if input.subject.r#type == "anonymous" {
            let full = || format!("{} decisions for anonymous callers are in flight", self.limit.div_ceil(2));
            Some(self.anonymous.try_acquire().map_err(|_| PolicyError::overloaded(full()))?)
        } else {
            None
        };
        let full = || format!("{} decisions are in flight", self.limit);
        let room = self.all.try_acquire().map_err(|_| PolicyError::overloaded(full()))?;
        Ok(Permit((room, share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::PolicyErrorKind, testing::policy_input};

    fn of(kind: &'static str) -> PolicyInput {
        let mut input = policy_input("GET", "/jobs");
        input.subject.r#type = kind;
        input
    }

    /// How many of this kind get in.
    fn taken<'a>(permits: &'a Permits, kind: &'static str) -> Vec<Permit<'a>> {
        let taken: Vec<_> = std::iter::from_fn(|| permits.acquire(&of(kind)).ok()).collect();
        assert_eq!(permits.acquire(&of(kind)).unwrap_err().kind(), PolicyErrorKind::Overloaded);
        taken
    }

    #[test]
    fn anonymous_callers_get_half_of_the_room_and_others_all_of_it() {
        for (limit, share) in [(1, 1), (2, 1), (5, 3), (64, 32)] {
            let permits = Permits::new(limit);
            assert_eq!(taken(&permits, "user").len(), limit);
            let anonymous = taken(&permits, "anonymous");
            assert_eq!((anonymous.len(), taken(&permits, "client").len()), (share, limit - share), "{limit}");
            drop(anonymous);
            assert_eq!(taken(&permits, "user").len(), limit, "room comes back");
        }
    }

    #[test]
    fn a_refusal_for_want_of_room_takes_nothing_from_the_share() {
        let permits = Permits::new(4);
        let known = taken(&permits, "user");
        assert!(permits.acquire(&of("anonymous")).is_err());
        drop(known);
        assert_eq!(taken(&permits, "anonymous").len(), 2);
    }
}
