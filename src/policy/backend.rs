use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{Decision, PolicyExplanation, PolicyInput, PolicyRevision, Reads};
use crate::{ConfigError, health::Health};

/// Decides whether a call may happen: the policy engine behind the enforcement point.
///
/// Implementors return a [`Decision`] for everything that they can decide, an undefined result included, and a
/// [`PolicyError`] when they cannot. There is no third way, and no way by which an error becomes an allow.
///
/// ```
/// use std::sync::Arc;
/// use portcullis::policy::{Decision, PolicyBackend, PolicyError, PolicyInput, PolicyRevision};
///
/// /// Allows reading, whoever asks.
/// struct ReadOnly;
///
/// #[async_trait::async_trait]
/// impl PolicyBackend for ReadOnly {
///     async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
///         let revision = PolicyRevision::new("read-only-1");
///         Ok(if input.action.method == "GET" { Decision::allow(revision) } else { Decision::deny(revision) })
///     }
/// }
/// ```
#[async_trait]
pub trait PolicyBackend: Send + Sync + 'static {
    /// Decides one call.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when there is no decision: engine unreachable, too slow, or its result is not a decision.
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError>;

    /// Decides at once, where that needs no waiting. `None` (the default) sends the caller to [`decide`](Self::decide);
    /// a backend that answers here must answer the same as there.
    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        let _ = input;
        None
    }

    /// Which policy decides now, and what of the question it reads: for whoever remembers decisions. `None` (the default) where that is
    /// known from the decision alone; such decisions are not remembered.
    fn in_force(&self) -> Option<PolicyInForce> {
        None
    }

    /// Why the policy decides as it does about this question, for an operator who asks: one explanation of each engine that takes part and
    /// can give one. It may block for seconds, and is never called for a request that somebody waits for. The default has none.
    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        let _ = input;
        Vec::new()
    }

    /// Finds out, before the first request, what no check of the configuration alone can: a decision path that does not exist, a rule that
    /// gives no decision. A service that must not start with such a mistake awaits it at start-up. The default finds nothing.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for what only a change of the configuration or of the policy mends. An engine that is away is no error: it is not
    /// ready ([`health`](Self::health)), and may be later.
    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Whether decisions can be had now. For readiness probes, not asked per request.
    fn health(&self) -> Health {
        Health::Ready
    }
}

/// A backend that is shared is a backend.
#[async_trait]
impl<P: PolicyBackend + ?Sized> PolicyBackend for Arc<P> {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        Self::clone(&self).decide(input).await
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        (**self).decide_now(input)
    }

    fn in_force(&self) -> Option<PolicyInForce> {
        (**self).in_force()
    }

    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        (**self).explanations(input)
    }

    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        Self::clone(&self).preflight().await
    }

    fn health(&self) -> Health {
        (**self).health()
    }
}

/// The policy that decides now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyInForce {
    /// Its version, as decisions name it.
    pub revision: PolicyRevision,
    /// What of a [`PolicyInput`] its decisions depend on.
    pub reads: Reads,
    /// How often the policy or its data was replaced in this process: two bundles may bear one revision, and are two policies all the
    /// same. Default 0.
    pub epoch: u64,
}

impl PolicyInForce {
    /// A policy of this version that reads this.
    #[must_use]
    pub const fn new(revision: PolicyRevision, reads: Reads) -> Self {
        Self { revision, reads, epoch: 0 }
    }

    /// Sets how often the policy was replaced.
    #[must_use]
    pub const fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }
}

/// Why there is no decision.
///
/// Opaque: implementors make one with the constructor for its kind and the cause behind it. The text is for operators and
/// never reaches a caller.
#[derive(Debug)]
pub struct PolicyError {
    kind: PolicyErrorKind,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of [`PolicyError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyErrorKind {
    /// The engine cannot be reached or is not ready.
    Unavailable,
    /// The engine did not answer in time.
    Timeout,
    /// The engine is asked more than it can answer.
    Overloaded,
    /// The engine answered with an error.
    Evaluation,
    /// The engine answered with something that is not a decision.
    InvalidResult,
    /// The engine panicked.
    Panicked,
    /// The question could not be put together: an enrichment failed.
    Input,
}

impl PolicyErrorKind {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unavailable => "policy_unavailable",
            Self::Timeout => "policy_timeout",
            Self::Overloaded => "policy_overloaded",
            Self::Evaluation => "policy_evaluation_error",
            Self::InvalidResult => "policy_invalid_result",
            Self::Panicked => "policy_panicked",
            Self::Input => "policy_input_failed",
        }
    }
}

impl PolicyError {
    fn with_source(kind: PolicyErrorKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, source: Some(source.into()) }
    }

    /// The engine cannot be reached or is not ready.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::with_source(PolicyErrorKind::Unavailable, source)
    }

    /// The engine did not answer in time.
    pub fn timeout(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::with_source(PolicyErrorKind::Timeout, source)
    }

    /// The engine is asked more than it can answer.
    pub fn overloaded(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::with_source(PolicyErrorKind::Overloaded, source)
    }

    /// The engine answered with an error.
    pub fn evaluation(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::with_source(PolicyErrorKind::Evaluation, source)
    }

    /// The engine answered with something that is not a decision.
    pub fn invalid_result(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::with_source(PolicyErrorKind::InvalidResult, source)
    }

    /// The engine panicked. What the panic said is not kept: it may quote the input.
    #[must_use]
    pub const fn panicked() -> Self {
        Self { kind: PolicyErrorKind::Panicked, source: None }
    }

    /// The question could not be put together.
    pub fn input(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::with_source(PolicyErrorKind::Input, source)
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> PolicyErrorKind {
        self.kind
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            PolicyErrorKind::Unavailable => "the policy engine is unavailable",
            PolicyErrorKind::Timeout => "the policy engine did not answer in time",
            PolicyErrorKind::Overloaded => "the policy engine is overloaded",
            PolicyErrorKind::Evaluation => "the policy engine answered with an error",
            PolicyErrorKind::InvalidResult => "the policy result is not a decision",
            PolicyErrorKind::Panicked => "the policy engine panicked",
            PolicyErrorKind::Input => "the question for the policy could not be put together",
        })
    }
}

impl std::error::Error for PolicyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    fn _is_dyn_compatible(_: std::sync::Arc<dyn super::PolicyBackend>) {}
}
