use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    ConfigError, error,
    health::Health,
    policy::{Decision, PolicyBackend, PolicyError, PolicyErrorKind, PolicyExplanation, PolicyInForce, PolicyInput},
};

/// Tries a candidate out beside the policy that is live: every question that the live one has answered is put to the candidate as well,
/// in the background, and what it would have decided is compared.
///
/// The live answer goes out first and as it is: the candidate can neither change nor delay it, and neither its errors nor its panics
/// show. It works on the same machine all the same, so the number of its decisions under way is bounded, and those beyond are left
/// out and counted.
///
/// Compared are the effect, whether the result is undefined, the obligations, and the kind of an error; not reasons and advice. A
/// difference is counted and told to whoever [listens](ShadowBuilder::on_difference): to put it into the audit trail,
/// `move |difference| audit.differed(difference)`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), portcullis::ConfigError> {
/// use std::sync::Arc;
/// use portcullis::{audit::{Audit, Memory, Mode}, policy::{Shadow, deny_all}};
///
/// let audit = Audit::start(Arc::new(Memory::new()), Mode::Deny)?;
/// let trail = audit.clone();
/// let policy = Shadow::builder(Arc::new(deny_all()), Arc::new(deny_all()))
///     .on_difference(move |difference| trail.differed(difference))
///     .build()?;
/// assert_eq!(policy.metrics().differed, 0);
/// # Ok(())
/// # }
/// ```
pub struct Shadow {
    live: Arc<dyn PolicyBackend>,
    candidate: Arc<dyn PolicyBackend>,
    watch: Arc<Watch>,
    room: Arc<Semaphore>,
    deadline: Duration,
    runtime: Handle,
}

/// Sets a [`Shadow`] up.
#[must_use = "nothing is compared before `build`"]
pub struct ShadowBuilder {
    live: Arc<dyn PolicyBackend>,
    candidate: Arc<dyn PolicyBackend>,
    max_in_flight: usize,
    deadline: Duration,
    observer: Observer,
}

/// A call about which the two do not agree.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShadowDifference {
    /// The question.
    pub input: PolicyInput,
    /// What was enforced.
    pub live: Result<Decision, PolicyErrorKind>,
    /// What the candidate would have decided.
    pub candidate: Result<Decision, PolicyErrorKind>,
}

/// What a [`Shadow`] has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShadowMetrics {
    /// Questions that both answered alike.
    pub agreed: u64,
    /// Questions that they did not.
    pub differed: u64,
    /// Of those that differ: the candidate would have allowed what was refused.
    pub would_allow: u64,
    /// Of those that differ: the candidate would have refused what was allowed.
    pub would_refuse: u64,
    /// Questions that were not put to the candidate, because too many were under way.
    pub left_out: u64,
}

impl Shadow {
    /// Starts with the backend whose answers are enforced, and the one that is tried out.
    pub fn builder(live: Arc<dyn PolicyBackend>, candidate: Arc<dyn PolicyBackend>) -> ShadowBuilder {
        ShadowBuilder {
            live,
            candidate,
            max_in_flight: 16,
            deadline: Duration::from_secs(1),
            observer: Box::new(|_| {}),
        }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn metrics(&self) -> ShadowMetrics {
        let Watch { agreed, differed, would_allow, would_refuse, left_out, .. } = &*self.watch;
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShadowMetrics {
            agreed: total(agreed),
            differed: total(differed),
            would_allow: total(would_allow),
            would_refuse: total(would_refuse),
            left_out: total(left_out),
        }
    }

    /// Puts the question to the candidate, in the background.
    fn compare(&self, input: PolicyInput, live: &Result<Decision, PolicyError>) {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            self.watch.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let live = live.as_ref().map_err(PolicyError::kind).cloned();
        let (candidate, watch, deadline) = (Arc::clone(&self.candidate), Arc::clone(&self.watch), self.deadline);
        self.runtime.spawn(async move {
            let question = input.clone();
            // A task of its own, so that a panic of the candidate is a result like another.
            let asked = tokio::spawn(tokio::time::timeout(deadline, async move {
                match candidate.decide_now(&question) {
                    Some(outcome) => outcome,
                    None => candidate.decide(question).await,
                }
            }));
            let candidate = match asked.await {
                Ok(Ok(outcome)) => outcome.map_err(|error| error.kind()),
                Ok(Err(_elapsed)) => Err(PolicyErrorKind::Timeout),
                Err(_panicked) => Err(PolicyErrorKind::Panicked),
            };
            watch.see(ShadowDifference { input, live, candidate });
            drop(permit);
        });
    }
}

impl ShadowBuilder {
    /// How many questions may be before the candidate at one time. Default 16; from 1 to 1 024.
    pub const fn with_max_in_flight(mut self, decisions: usize) -> Self {
        self.max_in_flight = decisions;
        self
    }

    /// How long the candidate may take before it counts as too late. Default 1 s; above zero, at most 10 s.
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Is told of each difference, on a worker of the runtime; it must not block. Default nobody.
    pub fn on_difference(mut self, observer: impl Fn(&ShadowDifference) + Send + Sync + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Builds the backend.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a bound out of range, and outside a Tokio runtime, which the candidate needs.
    pub fn build(self) -> Result<Shadow, ConfigError> {
        if !(1..=MAX_IN_FLIGHT).contains(&self.max_in_flight) {
            let remedy = format!("choose from 1 to {MAX_IN_FLIGHT} (default 16)");
            return Err(ConfigError::invalid("policy.shadow.max_in_flight", self.max_in_flight.to_string(), remedy));
        }
        if self.deadline.is_zero() || self.deadline > MAX_DEADLINE {
            let remedy = format!("choose more than zero and at most {MAX_DEADLINE:?} (default 1 s)");
            return Err(ConfigError::invalid("policy.shadow.deadline", format!("{:?}", self.deadline), remedy));
        }
        Ok(Shadow {
            live: self.live,
            candidate: self.candidate,
            watch: Arc::new(Watch::new(self.observer)),
            room: Arc::new(Semaphore::new(self.max_in_flight)),
            deadline: self.deadline,
            runtime: error::runtime("policy.shadow")?,
        })
    }
}

#[async_trait]
impl PolicyBackend for Shadow {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let live = Arc::clone(&self.live).decide(input.clone()).await;
        self.compare(input, &live);
        live
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        let live = self.live.decide_now(input)?;
        self.compare(input.clone(), &live);
        Some(live)
    }

    fn in_force(&self) -> Option<PolicyInForce> {
        self.live.in_force()
    }

    /// That of the live backend alone: a candidate that is wrong keeps no service from starting.
    /// Those of what is enforced alone.
    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        self.live.explanations(input)
    }

    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        Arc::clone(&self.live).preflight().await
    }

    /// That of the live backend alone.
    fn health(&self) -> Health {
        self.live.health()
    }
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow").field("metrics", &self.metrics()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ShadowBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowBuilder")
            .field("max_in_flight", &self.max_in_flight)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

type Observer = Box<dyn Fn(&ShadowDifference) + Send + Sync>;

struct Watch {
    agreed: AtomicU64,
    differed: AtomicU64,
    would_allow: AtomicU64,
    would_refuse: AtomicU64,
    left_out: AtomicU64,
    observer: Observer,
}

impl Watch {
    fn new(observer: Observer) -> Self {
        let (agreed, differed, would_allow, would_refuse, left_out) = Default::default();
        Self { agreed, differed, would_allow, would_refuse, left_out, observer }
    }

    fn see(&self, seen: ShadowDifference) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let is_alike = match (&seen.live, &seen.candidate) {
            (Ok(live), Ok(candidate)) => live.says_the_same_as(candidate),
            (Err(live), Err(candidate)) => live == candidate,
            _ => false,
        };
        if is_alike {
            count(&self.agreed);
            return;
        }
        count(&self.differed);
        match (allows(&seen.live), allows(&seen.candidate)) {
            (false, true) => drop(count(&self.would_allow)),
            (true, false) => drop(count(&self.would_refuse)),
            _ => {}
        }
        // An observer that panics must not look like a candidate that does.
        if catch_unwind(AssertUnwindSafe(|| (self.observer)(&seen))).is_err() {
            tracing::error!("whoever listens to the differences of a shadow policy panicked");
        }
    }
}

fn allows(outcome: &Result<Decision, PolicyErrorKind>) -> bool {
    outcome.as_ref().is_ok_and(|decision| decision.effect() == crate::policy::Effect::Allow)
}

const MAX_IN_FLIGHT: usize = 1024;
const MAX_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::{
        sync::Mutex,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{
        policy::Effect,
        testing::{Answer, StubBackend, policy_input},
    };

    type Seen = Arc<Mutex<Vec<ShadowDifference>>>;

    fn shadow(live: StubBackend, candidate: Arc<dyn PolicyBackend>) -> (Arc<Shadow>, Seen) {
        let seen = Seen::default();
        let keep = Arc::clone(&seen);
        let builder = Shadow::builder(Arc::new(live), candidate)
            .on_difference(move |difference| keep.lock().unwrap().push(difference.clone()));
        (Arc::new(builder.build().unwrap()), seen)
    }

    async fn settle(shadow: &Shadow, answered: u64) -> ShadowMetrics {
        let heard = async {
            loop {
                let metrics = shadow.metrics();
                if metrics.agreed + metrics.differed + metrics.left_out >= answered {
                    return metrics;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the candidate is heard")
    }

    #[tokio::test]
    async fn whatever_the_candidate_does_the_live_answer_stands_and_differences_are_told() {
        use PolicyErrorKind::*;
        let obliged = || Answer::Result(serde_json::json!({"allow": true, "obligations": [{"id": "mask"}]}));
        let reasoned = || Answer::Result(serde_json::json!({"allow": true, "reasons": ["because"]}));
        // Live, candidate, differs, would allow, would refuse.
        let cases = [
            (Answer::Allow, Answer::Allow, 0, 0, 0),
            (Answer::Allow, reasoned(), 0, 0, 0),
            (Answer::Allow, obliged(), 1, 0, 0),
            (Answer::Allow, Answer::Deny, 1, 0, 1),
            (Answer::Deny, Answer::Allow, 1, 1, 0),
            (Answer::Deny, Answer::Undefined, 1, 0, 0),
            (Answer::Allow, Answer::Error(Timeout), 1, 0, 1),
            (Answer::Error(Unavailable), Answer::Allow, 1, 1, 0),
            (Answer::Error(Unavailable), Answer::Error(Unavailable), 0, 0, 0),
            (Answer::Error(Unavailable), Answer::Error(Timeout), 1, 0, 0),
            (Answer::Deny, Answer::Panic, 1, 0, 0),
        ];
        for (live, candidate, differed, would_allow, would_refuse) in cases {
            for at_once in [false, true] {
                let name = format!("{live:?}, {candidate:?}, at once: {at_once}");
                let stub = |answer: &Answer| {
                    let stub = StubBackend::new(answer.clone());
                    if at_once { stub.answering_at_once() } else { stub }
                };
                let alone = Arc::new(StubBackend::new(live.clone())).decide(policy_input("GET", "/jobs")).await;
                let (shadow, seen) = shadow(stub(&live), Arc::new(stub(&candidate)));
                let input = policy_input("GET", "/jobs");
                let answered =
                    if at_once { shadow.decide_now(&input).unwrap() } else { Arc::clone(&shadow).decide(input).await };
                let told = |outcome: &Result<Decision, PolicyError>| {
                    outcome
                        .as_ref()
                        .map(|decision| (decision.effect(), decision.is_undefined()))
                        .map_err(PolicyError::kind)
                };
                assert_eq!(told(&answered), told(&alone), "{name}");
                let expected = ShadowMetrics { agreed: 1 - differed, differed, would_allow, would_refuse, left_out: 0 };
                assert_eq!(settle(&shadow, 1).await, expected, "{name}");
                assert_eq!(seen.lock().unwrap().len() as u64, differed, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn a_candidate_that_stalls_delays_nobody_and_counts_as_too_late() {
        let seen = Seen::default();
        let keep = Arc::clone(&seen);
        let builder =
            Shadow::builder(Arc::new(StubBackend::new(Answer::Allow)), Arc::new(StubBackend::new(Answer::Stall)));
        let shadow = builder
            .with_deadline(Duration::from_millis(1))
            .on_difference(move |difference| keep.lock().unwrap().push(difference.clone()))
            .build()
            .map(Arc::new)
            .unwrap();
        for _ in 0..20 {
            let mut deciding = Arc::clone(&shadow).decide(policy_input("GET", "/jobs"));
            let polled = deciding.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Ready(Ok(decision)) if decision.effect() == Effect::Allow));
        }
        // Nothing of the candidate has run yet, and there is room for sixteen.
        assert_eq!(shadow.metrics(), ShadowMetrics { left_out: 4, ..ShadowMetrics::default() });
        assert_eq!(settle(&shadow, 20).await.would_refuse, 16);
        assert!(seen.lock().unwrap().iter().all(|seen| matches!(seen.candidate, Err(PolicyErrorKind::Timeout))));
        while shadow.room.available_permits() < 16 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_observer_that_panics_loses_no_count() {
        let builder =
            Shadow::builder(Arc::new(StubBackend::new(Answer::Allow)), Arc::new(StubBackend::new(Answer::Deny)));
        let shadow = Arc::new(builder.on_difference(|_| panic!("an observer")).build().unwrap());
        for number in 1..=20 {
            let _ = Arc::clone(&shadow).decide(policy_input("GET", "/jobs")).await.unwrap();
            assert_eq!(settle(&shadow, number).await.differed, number);
        }
    }

    #[test]
    fn bounds_and_a_runtime_are_demanded() {
        let builder = || {
            let stub = || Arc::new(StubBackend::new(Answer::Allow));
            Shadow::builder(stub(), stub())
        };
        let cases = [
            (builder().with_max_in_flight(0), "policy.shadow.max_in_flight"),
            (builder().with_max_in_flight(1025), "policy.shadow.max_in_flight"),
            (builder().with_deadline(Duration::ZERO), "policy.shadow.deadline"),
            (builder().with_deadline(Duration::from_nanos(10_000_000_001)), "policy.shadow.deadline"),
            (builder().with_max_in_flight(1), "policy.shadow"),
            (builder().with_max_in_flight(1024), "policy.shadow"),
            (builder().with_deadline(Duration::from_nanos(1)), "policy.shadow"),
            (builder().with_deadline(Duration::from_secs(10)), "policy.shadow"),
        ];
        for (builder, field) in cases {
            assert_eq!(builder.build().unwrap_err().field(), field);
        }
        assert!(matches!(builder().build(), Err(ConfigError::NoRuntime { part: "policy.shadow" })));
    }
}
