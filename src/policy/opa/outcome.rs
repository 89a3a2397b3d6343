use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::{health::Health, policy::PolicyErrorKind};

/// How the last call ended; nothing when it was answered with a decision, or none was made.
#[derive(Default)]
pub(super) struct Outcome(ArcSwapOption<Failure>);

struct Failure {
    kind: PolicyErrorKind,
    at: Instant,
}

impl Outcome {
    pub(super) fn record(&self, failure: Option<PolicyErrorKind>) {
        match failure {
            Some(kind) => self.0.store(Some(Failure { kind, at: Instant::now() }.into())),
            None if self.0.load().is_some() => self.0.store(None),
            None => {}
        }
    }

    pub(super) fn health(&self) -> Health {
        self.health_at(Instant::now())
    }

    fn health_at(&self, now: Instant) -> Health {
        use PolicyErrorKind::{Timeout, Unavailable};
        let last = self.0.load();
        let Some(failure) = &*last else { return Health::Ready };
        let detail = format!("the last decision failed: {}", failure.kind.code()).into();
        // An answer that is no decision may be one request's doing, and must not take the service out of rotation.
        let is_down = matches!(failure.kind, Unavailable | Timeout);
        if is_down && now.saturating_duration_since(failure.at) < FRESH {
            Health::Unavailable(detail)
        } else {
            Health::Degraded(detail)
        }
    }
}

/// How long a failure counts in full.
const FRESH: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn after(kinds: &[Option<PolicyErrorKind>], later: Duration) -> Health {
        let outcome = Outcome::default();
        for kind in kinds {
            outcome.record(*kind);
        }
        outcome.health_at(Instant::now() + later)
    }

    #[test]
    fn the_last_call_is_the_health_until_another_one_or_until_it_is_old() {
        use PolicyErrorKind::{Evaluation, InvalidResult, Timeout, Unavailable};
        let soon = Duration::ZERO;
        assert_eq!(after(&[], soon), Health::Ready);
        for kind in [Unavailable, Timeout] {
            assert!(!after(&[Some(kind)], soon).is_serving(), "{kind:?}");
            assert_eq!(after(&[Some(kind), None], soon), Health::Ready);
            assert!(matches!(after(&[None, Some(kind)], FRESH), Health::Degraded(_)), "{kind:?}");
        }
        for kind in [Evaluation, InvalidResult] {
            assert!(matches!(after(&[Some(kind)], soon), Health::Degraded(_)), "{kind:?}");
        }
    }
}
