//! Policies that Open Policy Agent compiled to WebAssembly, decided in the process.

mod builder;
mod builtins;
mod compiled;
mod data;
mod fault;
mod generation;
mod machine;
mod pool;
mod ticker;
mod value;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;

pub use self::{builder::WasmBuilder, compiled::CompiledPolicy};
use self::generation::{Generation, Settings};
use super::{
    Decision, PolicyBackend, PolicyError, PolicyInForce, PolicyInput, PolicyRevision,
    rego::{generation::retire, turns::Turns},
};
use crate::{ConfigError, health::Health};

/// DOC
pub struct Wasm {
    settings: Settings,
    current: ArcSwap<Generation>,
    turns: Turns,
    /// Why the policy that should serve does not.
    trouble: Mutex<Option<String>>,
}

impl Wasm {
    /// Where the decision is found unless said otherwise.
    pub const DEFAULT_DECISION_PATH: &'static str = "data.authz.decision";

    /// Starts with nothing: add a policy.
    pub fn builder() -> WasmBuilder {
        WasmBuilder::new()
    }

    /// This policy, with everything else as it is by default.
    ///
    /// # Errors
    ///
    /// As [`WasmBuilder::build`].
    pub fn new(policy: impl Into<CompiledPolicy>) -> Result<Self, ConfigError> {
        Self::builder().with_policy(policy).build()
    }

    /// Puts this policy in the place of the one that serves. Gives its revision.
    ///
    /// Everything is compiled, checked and tried first, while the old policy serves on; then the two are exchanged in one step. It blocks
    /// until that is done, for some 100 ms and longer where there is much data: on a runtime call it from `spawn_blocking`. Of several
    /// calls the last one wins, however long each of them takes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] as [`WasmBuilder::build`] for what is wrong with the policy. The old one then serves on, and health is
    /// [degraded](Health::Degraded) until a policy is accepted.
    pub fn activate(&self, policy: impl Into<CompiledPolicy>) -> Result<PolicyRevision, ConfigError> {
        let _turn = self.turns.wait();
        let policy = policy.into();
        let next = Generation::load(&policy, &self.settings).inspect_err(|error| self.reject(error))?;
        drop(policy);
        let revision = next.revision.clone();
        let old = self.current.swap(Arc::new(next));
        *self.trouble() = None;
        tracing::info!(%revision, previous = %old.revision, "a policy was activated");
        retire(old);
        Ok(revision)
    }

    /// The version of the policy that serves: [`CompiledPolicy::revision`]. Each decision names its own.
    #[must_use]
    pub fn revision(&self) -> PolicyRevision {
        self.current.load().revision.clone()
    }

    /// The rule that decides.
    #[must_use]
    pub fn decision_path(&self) -> &str {
        &self.settings.decision_path
    }

    fn decision(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        self.current.load().decide(input, Instant::now(), self.settings.time_limit)
    }

    fn reject(&self, error: &ConfigError) {
        *self.trouble() = Some(format!("the policy that was to replace {} is refused: {error}", self.revision()));
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PolicyBackend for Wasm {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        self.decision(&input)
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        Some(self.decision(input))
    }

    fn in_force(&self) -> Option<PolicyInForce> {
        Some(self.current.load().in_force())
    }

    fn health(&self) -> Health {
        self.trouble().clone().map_or(Health::Ready, |trouble| Health::Degraded(trouble.into()))
    }
}

impl fmt::Debug for Wasm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("Wasm")
            .field("decision_path", &self.settings.decision_path)
            .field("revision", &current.revision)
            .field("idle_instances", &current.idle())
            .finish_non_exhaustive()
    }
}
