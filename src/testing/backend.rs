use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde_json::Value;

use crate::policy::{Decision, PolicyBackend, PolicyError, PolicyErrorKind, PolicyInput, PolicyRevision};

/// A policy backend that answers by a script and keeps what it was asked. Its policy revision is `stub`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use portcullis::{policy::{Effect, PolicyBackend}, testing::{Answer, StubBackend, policy_input}};
///
/// let backend = Arc::new(StubBackend::new(Answer::Deny).then(Answer::Allow));
/// let ask = || Arc::clone(&backend).decide(policy_input("GET", "/jobs"));
/// assert_eq!(ask().await.unwrap().effect(), Effect::Deny);
/// assert_eq!(ask().await.unwrap().effect(), Effect::Allow); // and from now on
/// assert_eq!(backend.calls(), 2);
/// # });
/// ```
pub struct StubBackend {
    script: Mutex<VecDeque<Answer>>,
    inputs: Mutex<Vec<PolicyInput>>,
    at_once: bool,
}

/// One answer of a [`StubBackend`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Answer {
    /// Allows.
    Allow,
    /// Denies.
    Deny,
    /// Says nothing about the call.
    Undefined,
    /// Gives this policy result, which may be one that is no decision.
    Result(Value),
    /// Gives no decision.
    Error(PolicyErrorKind),
    /// Never answers.
    Stall,
    /// Panics.
    Panic,
}

impl StubBackend {
    /// A backend that gives this answer, and again, unless [`then`](Self::then) goes on.
    #[must_use]
    pub fn new(answer: Answer) -> Self {
        super::marker();
        Self { script: Mutex::new(VecDeque::from([answer])), inputs: Mutex::default(), at_once: false }
    }

    /// Gives this answer to the call after those of the answers before it; the last answer repeats.
    #[must_use]
    pub fn then(self, answer: Answer) -> Self {
        lock(&self.script).push_back(answer);
        self
    }

    /// Answers through `decide_now` too, but for [`Answer::Stall`].
    #[must_use]
    pub fn answering_at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Throws the rest of the script away and gives this answer from now on.
    pub fn answer_from_now_on(&self, answer: Answer) {
        *lock(&self.script) = VecDeque::from([answer]);
    }

    /// How many calls came.
    #[must_use]
    pub fn calls(&self) -> usize {
        lock(&self.inputs).len()
    }

    /// What was asked, in order.
    #[must_use]
    pub fn inputs(&self) -> Vec<PolicyInput> {
        lock(&self.inputs).clone()
    }

    /// `None` when the answer is never to come.
    fn next(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        lock(&self.inputs).push(input.clone());
        let answer = {
            let mut script = lock(&self.script);
            if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
        };
        let revision = PolicyRevision::new("stub");
        Some(match answer? {
            Answer::Allow => Ok(Decision::allow(revision)),
            Answer::Deny => Ok(Decision::deny(revision)),
            Answer::Undefined => Ok(Decision::undefined(revision)),
            Answer::Result(result) => Decision::from_result(&result, revision),
            Answer::Error(kind) => Err(error(kind)),
            Answer::Stall => return None,
            Answer::Panic => panic!("the stub backend was told to panic"),
        })
    }
}

fn error(kind: PolicyErrorKind) -> PolicyError {
    const CAUSE: &str = "the stub backend was told to fail";
    match kind {
        PolicyErrorKind::Unavailable => PolicyError::unavailable(CAUSE),
        PolicyErrorKind::Timeout => PolicyError::timeout(CAUSE),
        PolicyErrorKind::Overloaded => PolicyError::overloaded(CAUSE),
        PolicyErrorKind::Evaluation => PolicyError::evaluation(CAUSE),
        PolicyErrorKind::InvalidResult => PolicyError::invalid_result(CAUSE),
        PolicyErrorKind::Panicked => PolicyError::panicked(),
        PolicyErrorKind::Input => PolicyError::input(CAUSE),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl PolicyBackend for StubBackend {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        match self.next(&input) {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        let stalls = lock(&self.script).front() == Some(&Answer::Stall);
        if self.at_once && !stalls { self.next(input) } else { None }
    }
}

impl fmt::Debug for StubBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StubBackend").field("script", &*lock(&self.script)).field("calls", &self.calls()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use serde_json::json;

    use super::*;
    use crate::{policy::Effect, testing::policy_input};

    fn poll(backend: &Arc<StubBackend>) -> Poll<Result<Decision, PolicyError>> {
        let mut answer = Arc::clone(backend).decide(policy_input("GET", "/jobs"));
        answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn it_answers_by_its_script_and_repeats_the_last_answer() {
        let script = StubBackend::new(Answer::Allow)
            .then(Answer::Error(PolicyErrorKind::Timeout))
            .then(Answer::Result(json!({})))
            .then(Answer::Stall)
            .then(Answer::Deny);
        let backend = Arc::new(script);
        assert!(matches!(poll(&backend), Poll::Ready(Ok(decision)) if decision.effect() == Effect::Allow));
        for kind in [PolicyErrorKind::Timeout, PolicyErrorKind::InvalidResult] {
            assert!(matches!(poll(&backend), Poll::Ready(Err(error)) if error.kind() == kind));
        }
        assert!(poll(&backend).is_pending());
        for _ in 0..2 {
            assert!(matches!(poll(&backend), Poll::Ready(Ok(decision)) if decision.effect() == Effect::Deny));
        }
        assert_eq!((backend.calls(), backend.inputs().len()), (6, 6));
    }

    #[test]
    fn it_answers_at_once_only_when_told_to_and_never_where_it_stalls() {
        let input = policy_input("GET", "/jobs");
        assert!(StubBackend::new(Answer::Allow).decide_now(&input).is_none());
        let backend = StubBackend::new(Answer::Allow).answering_at_once().then(Answer::Stall);
        assert!(backend.decide_now(&input).is_some());
        assert!(backend.decide_now(&input).is_none());
        assert_eq!(backend.calls(), 1);
    }
}
