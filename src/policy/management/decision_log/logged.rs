use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::DecisionLog;
use crate::{
    ConfigError,
    health::Health,
    policy::{Decision, InputFormat, PolicyBackend, PolicyError, PolicyExplanation, PolicyInForce, PolicyInput},
};

/// Logs what a backend decides, to a [`DecisionLog`]: every decision, and every failure to decide.
///
/// The answer is the backend's own, and it is delayed by a copy of the question and nothing else. Where several backends are put together,
/// place it around the one whose decisions are meant: around [`Cached`](crate::policy::Cached) it logs each request, inside only what the
/// cache did not know. A caller that hangs up before there is a decision leaves no event.
pub struct Logged {
    backend: Arc<dyn PolicyBackend>,
    log: DecisionLog,
    path: Arc<str>,
    format: InputFormat,
}

impl Logged {
    /// Logs the decisions of this backend under a path: `Rego::decision_path` (`data.authz.decision`), or that of `Opa`
    /// (`authz/decision`). In the log they look alike, as Open Policy Agent writes them: `authz/decision`.
    #[must_use]
    pub fn new(backend: Arc<dyn PolicyBackend>, log: &DecisionLog, path: impl AsRef<str>) -> Self {
        let path = path.as_ref();
        let path = path
            .strip_prefix("data.")
            .map_or_else(|| path.trim_start_matches('/').into(), |path| path.replace('.', "/"));
        Self { backend, log: log.clone(), path: path.into(), format: InputFormat::default() }
    }

    /// How the input is written down: as the backend's policy reads it. Default [`InputFormat::AuthZen`].
    #[must_use]
    pub const fn with_input_format(mut self, format: InputFormat) -> Self {
        self.format = format;
        self
    }
}

#[async_trait]
impl PolicyBackend for Logged {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let Some(asked) = self.log.begin(&self.path) else {
            return Arc::clone(&self.backend).decide(input).await;
        };
        let kept = input.clone();
        let outcome = Arc::clone(&self.backend).decide(input).await;
        self.log.end(asked, kept, self.format, &outcome);
        outcome
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        let started = self.log.elapsed();
        let outcome = self.backend.decide_now(input)?;
        if let Some(asked) = self.log.begin(&self.path) {
            self.log.end(asked.since(started), input.clone(), self.format, &outcome);
        }
        Some(outcome)
    }

    fn in_force(&self) -> Option<PolicyInForce> {
        self.backend.in_force()
    }

    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        self.backend.explanations(input)
    }

    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        Arc::clone(&self.backend).preflight().await
    }

    /// That of the backend: a log that is not taken refuses nobody.
    fn health(&self) -> Health {
        self.backend.health()
    }
}

impl fmt::Debug for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logged").field("path", &self.path).field("log", &self.log).finish_non_exhaustive()
    }
}
