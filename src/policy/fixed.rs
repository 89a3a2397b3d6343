use std::sync::Arc;

use async_trait::async_trait;

use super::{Decision, Effect, PolicyBackend, PolicyError, PolicyInput, PolicyRevision};

/// A backend that gives everybody the same answer. Made by [`deny_all`] and [`dangerous_allow_all`].
#[derive(Clone, Debug)]
pub struct Fixed {
    effect: Effect,
    revision: PolicyRevision,
}

/// Denies every call. Its policy revision is `deny_all`.
#[must_use]
pub fn deny_all() -> Fixed {
    Fixed { effect: Effect::Deny, revision: PolicyRevision::new("deny_all") }
}

/// Allows every call whose token and scope pass: the scope requirements of the rules are then the only authorization.
/// Its policy revision is `dangerous_allow_all`, so that every audit record shows it.
#[must_use]
pub fn dangerous_allow_all() -> Fixed {
    Fixed { effect: Effect::Allow, revision: PolicyRevision::new("dangerous_allow_all") }
}

impl Fixed {
    fn decision(&self) -> Decision {
        match self.effect {
            Effect::Allow => Decision::allow(self.revision.clone()),
            Effect::Deny => Decision::deny(self.revision.clone()),
        }
    }
}

#[async_trait]
impl PolicyBackend for Fixed {
    async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
        Ok(self.decision())
    }

    fn decide_now(&self, _: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        Some(Ok(self.decision()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy_input;

    #[tokio::test]
    async fn the_fixed_backends_say_what_their_names_say() {
        assert_eq!(deny_all().decision().effect(), Effect::Deny);
        assert_eq!(dangerous_allow_all().decision().effect(), Effect::Allow);
        assert_eq!(dangerous_allow_all().decision().revision().as_str(), "dangerous_allow_all");
        for (backend, effect) in [(deny_all(), Effect::Deny), (dangerous_allow_all(), Effect::Allow)] {
            let input = policy_input("GET", "/jobs");
            assert_eq!(backend.decide_now(&input).unwrap().unwrap().effect(), effect);
            assert_eq!(Arc::new(backend).decide(input).await.unwrap().effect(), effect);
        }
    }
}
