use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::breaker::{Admission, Breaker, Change, LONGEST_COOL_DOWN, Told};
use crate::{
    health::Health,
    policy::{PolicyError, PolicyErrorKind},
    time::Clock,
};

/// What is known of the server, from calls and from health checks: whether to ask it, and whether it works.
pub(in crate::policy) struct Condition {
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    doubt: Notify,
}

struct Known {
    breaker: Breaker,
    /// How the last call failed.
    failure: Option<PolicyErrorKind>,
    checks: Checks,
}

/// What the health checks say.
#[derive(Debug, PartialEq, Eq)]
enum Checks {
    /// There are none.
    Off,
    /// None was passed yet.
    Never(Cow<'static, str>),
    Passed,
    /// One was passed, and a later one was not.
    Lost(Cow<'static, str>),
}

/// One call that the breaker let through. Dropped before its end is told, it gives its right back.
pub(in crate::policy) struct Call<'a> {
    condition: &'a Condition,
    admission: Option<Admission>,
}

impl Condition {
    pub(in crate::policy) fn new(breaker: Breaker, clock: Arc<dyn Clock>, has_checks: bool) -> Self {
        let checks = if has_checks { Checks::Never("not asked yet".into()) } else { Checks::Off };
        Self { clock, known: Mutex::new(Known { breaker, failure: None, checks }), doubt: Notify::new() }
    }

    /// Lets a call through, unless the server has not answered for a while.
    pub(in crate::policy) fn admit(&self) -> Result<Call<'_>, PolicyError> {
        match self.known(|known, now| known.breaker.admit(now)) {
            Ok(admission) => Ok(Call { condition: self, admission: Some(admission) }),
            Err(pause) if pause.is_zero() => Err(PolicyError::unavailable(
                "not asked: the server did not answer, and the call that finds out whether it does again is under way",
            )),
            Err(pause) => {
                Err(PolicyError::unavailable(format!("not asked: the server did not answer, next call in {pause:.1?}")))
            }
        }
    }

    /// Takes note of a health check; `Err` says what is wrong.
    pub(in crate::policy) fn checked(&self, found: Result<(), Cow<'static, str>>) {
        let next = match &found {
            Ok(()) => None,
            Err(detail) => Some(detail.clone()),
        };
        let changed = self.known(|known, now| {
            let next = match (&known.checks, next) {
                (Checks::Off, _) => return false,
                (_, None) => {
                    known.breaker.end_cool_down(now);
                    Checks::Passed
                }
                (Checks::Never(_), Some(detail)) => Checks::Never(detail),
                (Checks::Passed | Checks::Lost(_), Some(detail)) => Checks::Lost(detail),
            };
            let changed = known.checks != next;
            known.checks = next;
            changed
        });
        match found {
            Ok(()) if changed => tracing::info!("the policy server is ready"),
            Err(cause) if changed => tracing::warn!(%cause, "the policy server is not ready"),
            _ => {}
        }
    }

    /// Comes when a call gave reason to check before it is due.
    pub(in crate::policy) async fn in_doubt(&self) {
        self.doubt.notified().await;
    }

    pub(in crate::policy) fn health(&self) -> Health {
        self.known(|known, now| match (&known.checks, known.failure) {
            (Checks::Never(detail) | Checks::Lost(detail), _) => Health::Unavailable(detail.clone()),
            _ if known.breaker.is_cooling(now) => Health::Unavailable("the server does not answer".into()),
            // Not unavailable: who gets no traffic would never find out by it that the server is back.
            (_, Some(kind)) => Health::Degraded(format!("the last decision failed: {}", kind.code()).into()),
            (Checks::Off | Checks::Passed, None) => Health::Ready,
        })
    }

    fn settle(&self, admission: &Admission, told: Told, failure: Option<PolicyErrorKind>) {
        let jitter = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        let change = self.known(|known, now| {
            if told != Told::Nothing {
                known.failure = failure;
            }
            if told == Told::Answers && matches!(known.checks, Checks::Lost(_)) {
                known.checks = Checks::Passed;
            }
            known.breaker.settle(admission, told, now, jitter)
        });
        if told == Told::Fails {
            self.doubt.notify_one();
        }
        match change {
            Some(Change::Opened) => {
                let code = failure.map(PolicyErrorKind::code);
                tracing::warn!(
                    code,
                    "the policy server does not answer: calls are refused, at most {LONGEST_COOL_DOWN:?} between two tries"
                );
            }
            Some(Change::Closed) => tracing::info!("the policy server answers again"),
            None => {}
        }
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known, Duration) -> T) -> T {
        let now = self.clock.elapsed();
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

impl Call<'_> {
    pub(in crate::policy) fn end(mut self, failure: Option<PolicyErrorKind>) {
        // An answer that is no decision may be one request's doing: it must not take the server from all others.
        let told = match failure {
            Some(PolicyErrorKind::Unavailable | PolicyErrorKind::Timeout) => Told::Fails,
            _ => Told::Answers,
        };
        if let Some(admission) = self.admission.take() {
            self.condition.settle(&admission, told, failure);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            self.condition.settle(&admission, Told::Nothing, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use PolicyErrorKind::{Evaluation, InvalidResult, Timeout, Unavailable};

    use std::{
        error::Error as _,
        pin::{Pin, pin},
        task::{Context, Waker},
    };

    use super::*;
    use crate::testing::FrozenClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn condition(clock: &FrozenClock, has_checks: bool) -> Condition {
        Condition::new(Breaker::new(2, SECOND), Arc::new(clock.clone()), has_checks)
    }

    fn end(condition: &Condition, failures: &[Option<PolicyErrorKind>]) {
        for failure in failures {
            condition.admit().unwrap_or_else(|_| panic!("admitted")).end(*failure);
        }
    }

    #[test]
    fn unavailable_and_too_late_open_the_breaker_and_an_answer_that_is_no_decision_does_not() {
        let clock = FrozenClock::default();
        for kind in [Unavailable, Timeout] {
            let condition = condition(&clock, false);
            end(&condition, &[Some(kind), Some(kind)]);
            let error = condition.admit().err().unwrap();
            assert_eq!(error.kind(), Unavailable, "{kind:?}");
            assert!(error.source().unwrap().to_string().contains("next call in"), "{error:?}");
        }
        for kind in [Evaluation, InvalidResult] {
            let condition = condition(&clock, false);
            end(&condition, &[Some(kind); 9]);
            assert!(matches!(condition.health(), Health::Degraded(_)), "{kind:?}");
            end(&condition, &[Some(Timeout), Some(kind), Some(Timeout), Some(kind)]);
        }
    }

    #[test]
    fn without_checks_calls_alone_are_the_health() {
        let clock = FrozenClock::default();
        let condition = condition(&clock, false);
        assert_eq!(condition.health(), Health::Ready);
        end(&condition, &[Some(Timeout)]);
        assert!(matches!(condition.health(), Health::Degraded(_)));
        end(&condition, &[Some(Timeout)]);
        assert!(!condition.health().is_serving());
        clock.advance(SECOND);
        assert!(matches!(condition.health(), Health::Degraded(_)), "a probe needs traffic");
        end(&condition, &[None]);
        assert_eq!(condition.health(), Health::Ready);
        condition.checked(Err("no such thing".into()));
        assert_eq!(condition.health(), Health::Ready);
    }

    #[test]
    fn before_the_first_check_is_passed_nothing_makes_it_ready() {
        let condition = condition(&FrozenClock::default(), true);
        assert_eq!(condition.health(), Health::Unavailable("not asked yet".into()));
        end(&condition, &[None]);
        assert!(!condition.health().is_serving(), "undefined is an answer too while bundles are missing");
        condition.checked(Err("bundles are missing".into()));
        end(&condition, &[None]);
        assert_eq!(condition.health(), Health::Unavailable("bundles are missing".into()));
        condition.checked(Ok(()));
        assert_eq!(condition.health(), Health::Ready);
    }

    #[test]
    fn a_call_without_an_answer_and_no_other_is_reason_to_check_early() {
        let condition = condition(&FrozenClock::default(), true);
        let has_come =
            |doubt: Pin<&mut dyn Future<Output = ()>>| doubt.poll(&mut Context::from_waker(Waker::noop())).is_ready();
        for (failure, is_reason) in [(None, false), (Some(InvalidResult), false), (Some(Timeout), true)] {
            let mut doubt = pin!(condition.in_doubt());
            assert!(!has_come(doubt.as_mut()));
            end(&condition, &[failure]);
            assert_eq!(has_come(doubt.as_mut()), is_reason, "{failure:?}");
        }
    }

    #[test]
    fn many_that_were_refused_at_one_time_do_not_all_come_back_at_one_time() {
        let clock = FrozenClock::default();
        let conditions: Vec<_> = (0..64).map(|_| condition(&clock, false)).collect();
        conditions.iter().for_each(|condition| end(condition, &[Some(Timeout), Some(Timeout)]));
        let admitted = || conditions.iter().filter(|condition| condition.admit().is_ok()).count();
        clock.advance(SECOND.mul_f64(0.499));
        assert_eq!(admitted(), 0);
        clock.advance(SECOND.mul_f64(0.4));
        assert!((1..64).contains(&admitted()));
    }

    #[test]
    fn what_was_seen_last_counts() {
        let condition = condition(&FrozenClock::default(), true);
        condition.checked(Ok(()));
        condition.checked(Err("away".into()));
        assert_eq!(condition.health(), Health::Unavailable("away".into()));
        end(&condition, &[None]);
        assert_eq!(condition.health(), Health::Ready);
        end(&condition, &[Some(Timeout), Some(Timeout)]);
        assert!(!condition.health().is_serving());
        condition.checked(Ok(()));
        assert!(matches!(condition.health(), Health::Degraded(_)), "it may be probed, and no decision was made since");
        end(&condition, &[None]);
        assert_eq!(condition.health(), Health::Ready);
    }

    #[test]
    fn a_call_that_is_dropped_says_nothing_and_gives_the_probe_back() {
        let clock = FrozenClock::default();
        let condition = condition(&clock, false);
        for _ in 0..9 {
            drop(condition.admit());
        }
        assert_eq!(condition.health(), Health::Ready);
        end(&condition, &[Some(Timeout), Some(Timeout)]);
        clock.advance(SECOND);
        let probe = condition.admit();
        let refused = condition.admit().err().unwrap();
        assert!(probe.is_ok() && refused.source().unwrap().to_string().contains("is under way"), "{refused:?}");
        drop(probe);
        end(&condition, &[None]);
        assert_eq!(condition.health(), Health::Ready);
    }
}
