use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;

use crate::{
    ConfigError,
    health::Health,
    policy::{Decision, PolicyBackend, PolicyError, PolicyErrorKind, PolicyExplanation, PolicyInput},
};

/// Asks a second backend where the first cannot be asked: a server, and the same policy in the process for when it is away.
///
/// The second one is asked only when the first is unavailable, overloaded or too slow, which are the three kinds of [`PolicyError`] that say
/// nothing about the call. It is never asked after a denial, an undefined result, an evaluation error or an answer that is no decision: there
/// the policy has spoken, or is broken. What the second one says then holds, so its policy has to be as strict as the first one's.
///
/// The audit record names who decided, by the names given here. Whether the second backend's policy is the same is left to whoever feeds it;
/// a [`Shadow`](super::Shadow) tells.
///
/// ```
/// use std::sync::Arc;
/// use portcullis::policy::{Standby, deny_all};
///
/// let policy = Standby::new(("server", Arc::new(deny_all())), ("embedded", Arc::new(deny_all())));
/// # let _ = policy;
/// ```
pub struct Standby {
    first: Named,
    second: Named,
    /// The log knows that the second one decides.
    told: AtomicBool,
}

type Named = (Arc<str>, Arc<dyn PolicyBackend>);

impl Standby {
    /// The second stands in for the first. Each comes with its name for the audit trail and the log.
    #[must_use]
    pub fn new(
        (first_name, first): (impl Into<Arc<str>>, Arc<dyn PolicyBackend>),
        (second_name, second): (impl Into<Arc<str>>, Arc<dyn PolicyBackend>),
    ) -> Self {
        Self { first: (first_name.into(), first), second: (second_name.into(), second), told: AtomicBool::new(false) }
    }

    /// The first one's answer, unless the second has to be asked.
    fn settled(&self, outcome: Result<Decision, PolicyError>) -> Option<Result<Decision, PolicyError>> {
        match outcome {
            Ok(decision) => {
                if self.told.load(Ordering::Relaxed) && self.told.swap(false, Ordering::Relaxed) {
                    tracing::info!(backend = &*self.first.0, "the policy backend decides again");
                }
                Some(Ok(decision.with_decided_by(Arc::clone(&self.first.0))))
            }
            Err(error) if is_away(error.kind()) => {
                if !self.told.load(Ordering::Relaxed) && !self.told.swap(true, Ordering::Relaxed) {
                    let (backend, standby, code) = (&*self.first.0, &*self.second.0, error.kind().code());
                    tracing::warn!(backend, standby, code, "the policy backend is away, another one decides");
                }
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn by_second(&self, outcome: Result<Decision, PolicyError>) -> Result<Decision, PolicyError> {
        outcome.map(|decision| decision.with_decided_by(Arc::clone(&self.second.0)))
    }
}

#[async_trait]
impl PolicyBackend for Standby {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let first = Arc::clone(&self.first.1).decide(input.clone()).await;
        match self.settled(first) {
            Some(settled) => settled,
            None => self.by_second(Arc::clone(&self.second.1).decide(input).await),
        }
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        match self.settled(self.first.1.decide_now(input)?) {
            Some(settled) => Some(settled),
            None => self.second.1.decide_now(input).map(|outcome| self.by_second(outcome)),
        }
    }

    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        [&self.first, &self.second].into_iter().flat_map(|(_, backend)| backend.explanations(input)).collect()
    }

    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        Arc::clone(&self.first.1).preflight().await?;
        Arc::clone(&self.second.1).preflight().await
    }

    /// Degraded while the second one decides; unavailable when neither can.
    fn health(&self) -> Health {
        let ((first_name, first), (second_name, second)) = (&self.first, &self.second);
        match (first.health(), second.health()) {
            (Health::Unavailable(why), Health::Unavailable(second)) => {
                Health::Unavailable(format!("{first_name}: {why}; {second_name}: {second}").into())
            }
            (Health::Unavailable(why), _) => {
                Health::Degraded(format!("{second_name} decides, because {first_name} is away: {why}").into())
            }
            (Health::Ready, Health::Ready) => Health::Ready,
            (Health::Ready, second) => Health::Degraded(format!("{second_name}, which stands by: {second}").into()),
            (degraded, _) => degraded,
        }
    }
}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby").field("first", &self.first.0).field("second", &self.second.0).finish_non_exhaustive()
    }
}

const fn is_away(kind: PolicyErrorKind) -> bool {
    match kind {
        PolicyErrorKind::Unavailable | PolicyErrorKind::Timeout | PolicyErrorKind::Overloaded => true,
        PolicyErrorKind::Evaluation
        | PolicyErrorKind::InvalidResult
        | PolicyErrorKind::Panicked
        | PolicyErrorKind::Input => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::Effect,
        testing::{Answer, StubBackend, policy_input},
    };

    type Told = Result<(Effect, bool, Option<String>), PolicyErrorKind>;

    fn told(outcome: Result<Decision, PolicyError>) -> Told {
        let told =
            |decision: Decision| (decision.effect(), decision.is_undefined(), decision.decided_by().map(str::to_owned));
        outcome.map(told).map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn the_second_is_asked_when_the_first_is_away_and_never_after_its_word() {
        use PolicyErrorKind::*;
        let by = |effect, undefined, name: &str| Ok((effect, undefined, Some(name.to_owned())));
        let cases = [
            (Answer::Allow, Answer::Deny, by(Effect::Allow, false, "server"), 0),
            (Answer::Deny, Answer::Allow, by(Effect::Deny, false, "server"), 0),
            (Answer::Undefined, Answer::Allow, by(Effect::Deny, true, "server"), 0),
            (Answer::Error(Evaluation), Answer::Allow, Err(Evaluation), 0),
            (Answer::Error(InvalidResult), Answer::Allow, Err(InvalidResult), 0),
            (Answer::Error(Panicked), Answer::Allow, Err(Panicked), 0),
            (Answer::Error(Input), Answer::Allow, Err(Input), 0),
            (Answer::Error(Unavailable), Answer::Allow, by(Effect::Allow, false, "embedded"), 1),
            (Answer::Error(Timeout), Answer::Deny, by(Effect::Deny, false, "embedded"), 1),
            (Answer::Error(Overloaded), Answer::Undefined, by(Effect::Deny, true, "embedded"), 1),
            (Answer::Error(Unavailable), Answer::Error(Evaluation), Err(Evaluation), 1),
            (Answer::Error(Timeout), Answer::Error(Unavailable), Err(Unavailable), 1),
        ];
        for (first, second, expected, asked) in cases {
            let name = format!("{first:?}, {second:?}");
            let later = Arc::new(StubBackend::new(second.clone()));
            let standby = Arc::new(Standby::new(
                ("server", Arc::new(StubBackend::new(first.clone()))),
                ("embedded", Arc::clone(&later) as _),
            ));
            let input = policy_input("GET", "/jobs");
            assert!(standby.decide_now(&input).is_none(), "{name}");
            assert_eq!(told(standby.decide(input.clone()).await), expected, "{name}");
            assert_eq!(later.calls(), asked, "{name}");

            let at_once = |answer| Arc::new(StubBackend::new(answer).answering_at_once());
            let standby = Standby::new(("server", at_once(first)), ("embedded", at_once(second)));
            assert_eq!(standby.decide_now(&input).map(told), Some(expected), "{name}");
        }
    }

    #[tokio::test]
    async fn a_first_that_is_back_decides_again() {
        let first = StubBackend::new(Answer::Error(PolicyErrorKind::Unavailable)).then(Answer::Deny);
        let standby = Arc::new(Standby::new(
            ("server", Arc::new(first)),
            ("embedded", Arc::new(StubBackend::new(Answer::Allow))),
        ));
        for effect in [Effect::Allow, Effect::Deny, Effect::Deny] {
            let decision = Arc::clone(&standby).decide(policy_input("GET", "/jobs")).await.unwrap();
            assert_eq!(decision.effect(), effect);
        }
    }

    #[test]
    fn health_tells_who_decides() {
        struct With(Health);

        #[async_trait]
        impl PolicyBackend for With {
            async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
                Err(PolicyError::unavailable("never asked"))
            }

            fn health(&self) -> Health {
                self.0.clone()
            }
        }

        let (ready, worse, down) = (Health::Ready, Health::Degraded("late".into()), Health::Unavailable("gone".into()));
        let of = |first: &Health, second: &Health| {
            let with = |health: &Health| Arc::new(With(health.clone()));
            Standby::new(("server", with(first)), ("embedded", with(second))).health().to_string()
        };
        assert_eq!(of(&ready, &ready), "ready");
        assert_eq!(of(&worse, &ready), "degraded: late");
        assert_eq!(of(&down, &ready), "degraded: embedded decides, because server is away: gone");
        assert_eq!(of(&down, &worse), "degraded: embedded decides, because server is away: gone");
        assert_eq!(of(&ready, &down), "degraded: embedded, which stands by: unavailable: gone");
        assert_eq!(of(&down, &down), "unavailable: server: gone; embedded: gone");
    }
}
