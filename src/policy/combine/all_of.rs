use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use async_trait::async_trait;

use crate::{
    ConfigError,
    health::Health,
    policy::{
        Decision, DecisionId, Effect, PolicyBackend, PolicyError, PolicyExplanation, PolicyInForce, PolicyInput,
        PolicyRevision, Reads,
    },
};

/// Allows what every one of several backends allows: the platform's policy beside the service's own.
///
/// All are asked, at the same time, and every answer is waited for, so that the record of a request does not depend on who was quicker.
/// A denial wins over everything, an error included; without a denial, one error is enough for there to be no decision. An allow carries
/// the obligations and advice of all, a denial those of the denials; either carries their reasons, ids and revisions. The result is
/// undefined when nothing but undefined results denied.
///
/// ```
/// use std::sync::Arc;
/// use portcullis::policy::{AllOf, deny_all};
///
/// let policy = AllOf::new("platform", Arc::new(deny_all())).add("service", Arc::new(deny_all()));
/// # let _ = policy;
/// ```
pub struct AllOf {
    parts: Vec<(Arc<str>, Arc<dyn PolicyBackend>)>,
}

impl AllOf {
    /// Starts with one backend, and its name for audit records and health.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, backend: Arc<dyn PolicyBackend>) -> Self {
        Self { parts: vec![(name.into(), backend)] }
    }

    /// Also asks this one.
    #[must_use]
    pub fn add(mut self, name: impl Into<Arc<str>>, backend: Arc<dyn PolicyBackend>) -> Self {
        self.parts.push((name.into(), backend));
        self
    }

    fn combine(&self, outcomes: Vec<Result<Decision, PolicyError>>) -> Result<Decision, PolicyError> {
        let (mut allows, mut denials, mut failure) = (Vec::new(), Vec::new(), None);
        for ((name, _), outcome) in self.parts.iter().zip(outcomes) {
            match outcome {
                Ok(decision) if decision.effect() == Effect::Deny => denials.push((name, decision)),
                Ok(decision) => allows.push((name, decision)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if !denials.is_empty() {
            let is_undefined = denials.iter().all(|(_, denial)| denial.is_undefined());
            let make = if is_undefined { Decision::undefined } else { Decision::deny };
            return Ok(joined(make, &denials));
        }
        match failure {
            Some(error) => Err(error),
            // As many allows as there are parts, and there is at least one.
            None if allows.len() == self.parts.len() && !allows.is_empty() => Ok(joined(Decision::allow, &allows)),
            None => Err(PolicyError::invalid_result("not every backend answered")),
        }
    }
}

/// One decision that says what all of these say.
fn joined(make: fn(PolicyRevision) -> Decision, parts: &[(&Arc<str>, Decision)]) -> Decision {
    let listed = |of: fn(&Decision) -> &str| {
        parts.iter().map(|(name, decision)| format!("{name}={}", of(decision))).collect::<Vec<_>>().join(",")
    };
    let mut whole = make(PolicyRevision::new(listed(|decision| decision.revision().as_str())))
        .with_id(DecisionId::new(listed(|decision| decision.id().as_str())));
    for (_, part) in parts {
        whole = part.reasons().iter().fold(whole, Decision::add_reason);
        for obligation in part.obligations() {
            whole = whole.add_obligation(Arc::clone(&obligation.id), obligation.properties.clone());
        }
        for advice in part.advice() {
            whole = whole.add_advice(Arc::clone(&advice.id), advice.properties.clone());
        }
    }
    let names = parts.iter().map(|(name, _)| &***name).collect::<Vec<_>>().join(",");
    whole.with_decided_by(names)
}

#[async_trait]
impl PolicyBackend for AllOf {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let asked = self.parts.iter().map(|(_, backend)| Arc::clone(backend).decide(input.clone())).collect();
        self.combine(all(asked).await)
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        let outcomes = self.parts.iter().map(|(_, backend)| backend.decide_now(input)).collect::<Option<_>>()?;
        Some(self.combine(outcomes))
    }

    fn in_force(&self) -> Option<PolicyInForce> {
        let parts =
            self.parts.iter().map(|(name, backend)| Some((name, backend.in_force()?))).collect::<Option<Vec<_>>>()?;
        let revision =
            parts.iter().map(|(name, part)| format!("{name}={}", part.revision)).collect::<Vec<_>>().join(",");
        let reads = Reads::union(parts.iter().map(|(_, part)| &part.reads));
        // Each part only counts up, so the sum tells one state from another.
        let epoch = parts.iter().fold(0_u64, |sum, (_, part)| sum.wrapping_add(part.epoch));
        Some(PolicyInForce::new(PolicyRevision::new(revision), reads).with_epoch(epoch))
    }

    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        self.parts.iter().flat_map(|(_, backend)| backend.explanations(input)).collect()
    }

    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        for (_, backend) in &self.parts {
            Arc::clone(backend).preflight().await?;
        }
        Ok(())
    }

    /// The worst of them speaks for all.
    fn health(&self) -> Health {
        let named = |name: &str, why: &str| format!("{name}: {why}").into();
        self.parts.iter().fold(Health::Ready, |worst, (name, backend)| match (worst, backend.health()) {
            (Health::Unavailable(first), _) => Health::Unavailable(first),
            (_, Health::Unavailable(why)) => Health::Unavailable(named(name, &why)),
            (Health::Ready, Health::Degraded(why)) => Health::Degraded(named(name, &why)),
            (worst, _) => worst,
        })
    }
}

impl fmt::Debug for AllOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.iter().map(|(name, _)| name)).finish()
    }
}

type Deciding<'a> = Pin<Box<dyn Future<Output = Result<Decision, PolicyError>> + Send + 'a>>;

/// Drives all of them at once; the answers are in their order.
async fn all(mut asked: Vec<Deciding<'_>>) -> Vec<Result<Decision, PolicyError>> {
    let mut answers: Vec<_> = asked.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut is_complete = true;
        for (deciding, answer) in asked.iter_mut().zip(&mut answers) {
            if answer.is_none() {
                match deciding.as_mut().poll(cx) {
                    Poll::Ready(outcome) => *answer = Some(outcome),
                    Poll::Pending => is_complete = false,
                }
            }
        }
        if is_complete { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        policy::PolicyErrorKind,
        testing::{Answer, StubBackend, policy_input},
    };

    fn stub(answer: &Answer) -> Arc<StubBackend> {
        Arc::new(StubBackend::new(answer.clone()))
    }

    #[tokio::test]
    async fn a_denial_wins_over_everything_and_an_allow_is_everybodys() {
        use PolicyErrorKind::*;
        let (allow, deny, undefined) =
            (Ok((Effect::Allow, false)), Ok((Effect::Deny, false)), Ok((Effect::Deny, true)));
        let cases = [
            ([Answer::Allow, Answer::Allow, Answer::Allow], allow),
            ([Answer::Allow, Answer::Allow, Answer::Deny], deny),
            ([Answer::Deny, Answer::Error(Timeout), Answer::Allow], deny),
            ([Answer::Error(Unavailable), Answer::Allow, Answer::Deny], deny),
            ([Answer::Error(Unavailable), Answer::Allow, Answer::Error(Timeout)], Err(Unavailable)),
            ([Answer::Allow, Answer::Result(json!({})), Answer::Allow], Err(InvalidResult)),
            ([Answer::Allow, Answer::Undefined, Answer::Allow], undefined),
            ([Answer::Undefined, Answer::Error(Timeout), Answer::Undefined], undefined),
            ([Answer::Undefined, Answer::Deny, Answer::Allow], deny),
        ];
        let told = |outcome: Result<Decision, PolicyError>| {
            outcome.map(|decision| (decision.effect(), decision.is_undefined())).map_err(|error| error.kind())
        };
        for (answers, expected) in cases {
            let [a, b, c] = &answers;
            let all = Arc::new(AllOf::new("a", stub(a)).add("b", stub(b)).add("c", stub(c)));
            let input = policy_input("GET", "/jobs");
            assert!(all.decide_now(&input).is_none());
            assert_eq!(told(all.decide(input.clone()).await), expected, "{answers:?}");
            let now = |answer: &Answer| Arc::new(StubBackend::new(answer.clone()).answering_at_once());
            let all = AllOf::new("a", now(a)).add("b", now(b)).add("c", now(c));
            assert_eq!(all.decide_now(&input).map(told), Some(expected), "{answers:?}");
        }
    }

    #[tokio::test]
    async fn what_each_demands_is_demanded() {
        let with = |id: &str, allow: bool| {
            Answer::Result(
                json!({"allow": allow, "reasons": [id], "obligations": [{"id": id}], "advice": [{"id": id}]}),
            )
        };
        let all = AllOf::new("a", stub(&with("one", true))).add("b", stub(&with("two", true)));
        let decision = Arc::new(all).decide(policy_input("GET", "/jobs")).await.unwrap();
        let ids: Vec<_> = decision.obligations().iter().map(|obligation| &*obligation.id).collect();
        assert_eq!((decision.reasons(), ids), (&["one".to_owned(), "two".to_owned()][..], vec!["one", "two"]));
        assert_eq!(decision.advice().len(), 2);
        assert_eq!(decision.decided_by(), Some("a,b"));
        assert!(decision.revision().as_str().starts_with("a=") && decision.revision().as_str().contains(",b="));
        assert!(decision.id().as_str().starts_with("a=") && decision.id().as_str().contains(",b="));

        let all = AllOf::new("a", stub(&with("one", true))).add("b", stub(&with("two", false)));
        let decision = Arc::new(all).decide(policy_input("GET", "/jobs")).await.unwrap();
        assert_eq!((decision.reasons(), decision.decided_by()), (&["two".to_owned()][..], Some("b")));
        assert_eq!(&*decision.obligations()[0].id, "two");
    }

    #[test]
    fn without_an_answer_of_each_there_is_no_decision() {
        let allows = |count| (0..count).map(|_| Ok(Decision::allow(PolicyRevision::new("r")))).collect();
        let both = AllOf::new("a", stub(&Answer::Allow)).add("b", stub(&Answer::Allow));
        for (parts, answers) in [(&both, 1), (&both, 0), (&AllOf { parts: Vec::new() }, 0)] {
            let error = parts.combine(allows(answers)).unwrap_err();
            assert_eq!(error.kind(), PolicyErrorKind::InvalidResult, "{answers} of {parts:?}");
        }
        assert_eq!(both.combine(allows(2)).unwrap().effect(), Effect::Allow);
    }

    #[tokio::test]
    async fn one_that_never_answers_keeps_the_others_from_deciding() {
        let all = AllOf::new("a", stub(&Answer::Allow)).add("b", stub(&Answer::Stall));
        let mut deciding = Arc::new(all).decide(policy_input("GET", "/jobs"));
        let polled = deciding.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
    }

    #[test]
    fn what_is_in_force_is_known_when_it_is_known_of_all() {
        struct Of(Option<PolicyInForce>);

        #[async_trait]
        impl PolicyBackend for Of {
            async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
                Err(PolicyError::unavailable("never asked"))
            }

            fn in_force(&self) -> Option<PolicyInForce> {
                self.0.clone()
            }
        }

        let of = |reads: &[&str], epoch| {
            Arc::new(Of(Some(PolicyInForce::new(PolicyRevision::new("r"), Reads::paths([reads])).with_epoch(epoch))))
        };
        let both = AllOf::new("a", of(&["subject"], 1)).add("b", of(&["action", "name"], 2)).in_force().unwrap();
        assert_eq!(
            (both.revision.as_str(), both.reads.to_string(), both.epoch),
            ("a=r,b=r", "action.name, subject".into(), 3)
        );
        assert!(AllOf::new("a", of(&["subject"], 1)).add("b", Arc::new(Of(None))).in_force().is_none());
    }
}
