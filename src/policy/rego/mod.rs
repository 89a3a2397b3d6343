//! Rego decided in the process.

mod ast;
mod builder;
mod builtins;
pub(in crate::policy) mod corrections;
pub(in crate::policy) mod differences;
mod engine;
#[cfg(feature = "cli")]
mod examine;
mod explain;
pub(in crate::policy) mod form;
pub(in crate::policy) mod generation;
mod lint;
mod set;
#[cfg(feature = "cli")]
mod suite;
#[cfg(test)]
mod tests;
pub(in crate::policy) mod turns;
mod walk;
mod watch;
mod workers;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;

pub use self::{
    builder::RegoBuilder,
    set::PolicySet,
    watch::{Watch, WatchSettings},
};
#[cfg(feature = "cli")]
pub(crate) use self::{
    examine::{Fault, FaultKind, faults},
    suite::{Case, Outcome, Suite, Verdict},
};
use self::{
    generation::{Generation, Settings, retire},
    turns::Turns,
    workers::Workers,
};
use super::{
    Decision, PolicyBackend, PolicyError, PolicyExplanation, PolicyInForce, PolicyInput, PolicyRevision, Recorded,
};
use crate::{ConfigError, health::Health};

/// Decides by Rego policies, in the process: no server, no waiting.
///
/// The engine is the interpreter of [`regorus`](https://docs.rs/regorus). It is asked for one rule, the *decision path*, and its
/// result is read by [`Decision::from_result`]; `undefined` is [`Decision::undefined`].
///
/// ```
/// use portcullis::policy::Rego;
///
/// let rego = Rego::from_source(
///     "authz.rego",
///     r#"
///     package authz
///
///     default decision := {"allow": false}
///
///     decision := {"allow": true, "reasons": ["reader"]} if "jobs:read" in input.subject.properties.scopes
///     "#,
///     "data.authz.decision",
/// )?;
/// assert!(rego.revision().as_str().starts_with("sha256:"));
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// # A policy replaces another
///
/// [`activate`](Self::activate) and [`watch`](Self::watch) put a new policy in the place of the one that serves, between one request and
/// the next: each decision is that of one policy as a whole, and names its revision. A policy that is refused replaces nothing, and
/// [`health`](PolicyBackend::health) is degraded until another one is accepted. The old one is freed on a thread of its own, once its last
/// decision is made.
///
/// # What is refused when it is loaded
///
/// What the engine would find out at request time, or never: rules and functions that refer to themselves (it would overflow the stack),
/// functions that it does not have, `with` in place of a function, variables that only a negation knows, an entry point that is no rule, a
/// rule that the data document also defines, rules that contradict each other, calls with too few or too many arguments. A policy that
/// gives no decision about a [canary](RegoBuilder::with_canary) is refused as well. And, unless
/// [relaxed](RegoBuilder::dangerous_relax_parity), expressions by which it is known to decide otherwise than Open Policy Agent: most
/// negations of something that can be undefined, `with … as` something that can be, `in` with something that can be where its result is
/// used as a value, and functions whose results differ (`strings.count`, `time.parse_ns`, `glob.match` with other delimiters than `/` or `.`,
/// `regex.match` with `\w`, `sprintf` with widths).
///
/// # What the same policy may still decide otherwise than Open Policy Agent
///
/// Compared with Open Policy Agent 1.20.2: fractions are binary (`0.1 + 0.2` is not `0.3`), and integers of more than 19 digits lose
/// precision; [`guide::design`](crate::guide::design) has the whole list. An error of a built-in function is never a decision here; there it is `undefined`, unless the
/// server is asked to be strict, as `policy::Opa` does.
///
/// [`CAPABILITIES`](Self::CAPABILITIES) lets `opa check` find out most of this where policies are written. `print` prints nothing here.
pub struct Rego {
    settings: Settings,
    current: Arc<ArcSwap<Generation>>,
    workers: Option<Workers>,
    turns: Turns,
    /// Why the policy that should serve does not.
    trouble: Mutex<Option<String>>,
}

impl Rego {
    /// Where the decision is found unless said otherwise.
    pub const DEFAULT_DECISION_PATH: &'static str = "data.authz.decision";

    /// What policies may use, as a capabilities file of Open Policy Agent: `opa check --capabilities FILE` then refuses, where a policy is
    /// written, functions and language features that would be refused here when it is loaded. Those that
    /// [`with_clock_and_chance`](RegoBuilder::with_clock_and_chance) allows are in it. See the
    /// [operations guide](crate::guide::operations).
    pub const CAPABILITIES: &'static str = include_str!("capabilities.json");

    /// Starts with nothing: add at least one module.
    pub fn builder() -> RegoBuilder {
        RegoBuilder::new()
    }

    /// One module as text, under a name for messages, and the rule that decides (`data.authz.decision`).
    ///
    /// # Errors
    ///
    /// As [`RegoBuilder::build`].
    pub fn from_source(
        name: impl Into<String>,
        text: impl Into<String>,
        decision_path: impl Into<String>,
    ) -> Result<Self, ConfigError> {
        Self::builder().add_source(name, text).with_decision_path(decision_path).build()
    }

    /// The modules in these files. The decision is at [`DEFAULT_DECISION_PATH`](Self::DEFAULT_DECISION_PATH).
    ///
    /// # Errors
    ///
    /// As [`RegoBuilder::build`], and [`ConfigError::Unusable`] for a file that cannot be read.
    pub fn from_files(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Self, ConfigError> {
        paths.into_iter().try_fold(Self::builder(), |builder, path| builder.add_file(path))?.build()
    }

    /// The modules and data in a directory, as [`PolicySet::add_dir`]. The decision is at
    /// [`DEFAULT_DECISION_PATH`](Self::DEFAULT_DECISION_PATH).
    ///
    /// # Errors
    ///
    /// As [`RegoBuilder::build`] and [`PolicySet::add_dir`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::builder().add_dir(dir)?.build()
    }

    /// Puts this policy in the place of the one that serves. Gives its revision.
    ///
    /// Everything is parsed, checked and tried first, while the old policy serves on; then the two are exchanged in one step. It blocks
    /// until that is done, for a second and more where there is much data: on a runtime call it from `spawn_blocking`. Of several calls the
    /// last one wins, however long each of them takes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] as [`RegoBuilder::build`] for what is wrong with the policy. The old one then serves on, and health is
    /// [degraded](Health::Degraded) until a policy is accepted.
    pub fn activate(&self, policies: PolicySet) -> Result<PolicyRevision, ConfigError> {
        let _turn = self.turns.wait();
        let next = Generation::load(&policies, &self.settings).inspect_err(|error| self.reject(error))?;
        drop(policies);
        let revision = next.revision.clone();
        let old = self.current.swap(Arc::new(next));
        *self.trouble() = None;
        tracing::info!(%revision, previous = %old.revision, "a policy was activated");
        retire(old);
        Ok(revision)
    }

    /// The version of the policy that serves: [`PolicySet::revision`]. Each decision names its own.
    #[must_use]
    pub fn revision(&self) -> PolicyRevision {
        self.current.load().revision.clone()
    }

    /// The rule that decides.
    #[must_use]
    pub fn decision_path(&self) -> &str {
        &self.settings.decision_path
    }

    /// Says what the policy that serves decides about a question, and why: the value of each rule, and the first condition of each
    /// definition that does not hold. For operators; nothing is enforced, and no request waits for it.
    ///
    /// A question that was recorded with its path is put to that rule, any other to the [decision path](Self::decision_path). It takes
    /// milliseconds where a decision takes microseconds, and at most some ten seconds: each rule and condition is evaluated by itself. On a
    /// runtime call it from `spawn_blocking`.
    ///
    /// What it does not do: take functions apart, and say which part of one condition is at fault.
    ///
    /// ```
    /// use portcullis::policy::{Recorded, Rego};
    ///
    /// let rego = Rego::from_source(
    ///     "authz.rego",
    ///     "package authz\n\ndecision if {\n\tinput.action.name == \"GET\"\n\tinput.subject.id == \"ada\"\n}",
    ///     "data.authz.decision",
    /// )?;
    /// let event = r#"{"path": "authz/decision", "input": {"action": {"name": "GET"}, "subject": {"id": "bob"}}}"#;
    /// let explanation = rego.explain(&Recorded::parse(event)?);
    /// let failed = explanation.rules[0].definitions[0].failed.as_ref().expect("one condition does not hold");
    /// assert_eq!((failed.line, &*failed.text), (5, "input.subject.id == \"ada\""));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn explain(&self, recorded: &Recorded) -> PolicyExplanation {
        let path = recorded.decision_path().unwrap_or(&self.settings.decision_path);
        self.current.load_full().explain(recorded, path)
    }

    /// Decides about a question in the form that the policy reads.
    #[cfg(feature = "cli")]
    pub(crate) fn decide_text(&self, input: &str) -> Result<Decision, PolicyError> {
        self.current.load().decide_text(input, self.settings.time_limit)
    }

    /// What another rule of the policy that serves now gives for an input document, as JSON; `None` when it is undefined or there is no
    /// such rule. It is evaluated where it is called, whether there are [threads](RegoBuilder::with_threads) or not, and within `limit`.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] as for a decision.
    #[cfg(feature = "opa-management")]
    pub(in crate::policy) fn evaluate(
        &self,
        path: &str,
        input: &str,
        limit: std::time::Duration,
    ) -> Result<Option<serde_json::Value>, PolicyError> {
        self.current.load().evaluate(path, input, limit)
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
impl PolicyBackend for Rego {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let Some(workers) = &self.workers else {
            return self.decision(&input);
        };
        let limit = self.settings.time_limit;
        // One call of a built-in function can take longer than the engine's own limit.
        match tokio::time::timeout(limit, workers.ask(input)?).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(PolicyError::unavailable("the evaluation was given up"))),
            Err(_) => Err(PolicyError::timeout(format!("no result within {limit:?}"))),
        }
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        self.workers.is_none().then(|| self.decision(input))
    }

    fn in_force(&self) -> Option<PolicyInForce> {
        Some(self.current.load().in_force())
    }

    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        let current = self.current.load_full();
        vec![current.explain(&Recorded::of(input, current.format()), &self.settings.decision_path)]
    }

    fn health(&self) -> Health {
        self.trouble().clone().map_or(Health::Ready, |trouble| Health::Degraded(trouble.into()))
    }
}

impl fmt::Debug for Rego {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("Rego")
            .field("decision_path", &self.settings.decision_path)
            .field("revision", &current.revision)
            .field("engines", &current.engines())
            .finish_non_exhaustive()
    }
}
