use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use wasmtime::{Config, Engine, OptLevel};

use super::{
    CompiledPolicy, Wasm,
    generation::{Generation, Settings},
    ticker::Ticker,
};
use crate::{
    ConfigError,
    policy::{
        InputFormat, PolicyInput,
        rego::{generation::anonymous, turns::Turns},
    },
};

/// Gathers what a [`Wasm`] is made of: a [`CompiledPolicy`], and how it is evaluated.
#[derive(Clone)]
#[must_use = "nothing is loaded before `build`"]
pub struct WasmBuilder {
    policy: CompiledPolicy,
    decision_path: Cow<'static, str>,
    format: InputFormat,
    time_limit: Duration,
    memory_limit: usize,
    instances: Option<usize>,
    canary: Option<Box<PolicyInput>>,
    parity: bool,
    pub(super) patience: Duration,
}

impl WasmBuilder {
    pub(super) fn new() -> Self {
        Self {
            policy: CompiledPolicy::default(),
            decision_path: Cow::Borrowed(Wasm::DEFAULT_DECISION_PATH),
            format: InputFormat::default(),
            time_limit: Duration::from_millis(10),
            memory_limit: 128 << 20,
            instances: None,
            canary: None,
            parity: true,
            patience: Duration::from_secs(10),
        }
    }

    /// The first policy: a [`CompiledPolicy`], or the [`Contents`](crate::policy::bundle::Contents) of bundles.
    pub fn with_policy(mut self, policy: impl Into<CompiledPolicy>) -> Self {
        self.policy = policy.into();
        self
    }

    /// The rule that decides, in this policy and in every later one. Default `data.authz.decision`. The module has to be built with it for
    /// an entry point: `-e authz/decision`.
    pub fn with_decision_path(mut self, path: impl Into<String>) -> Self {
        self.decision_path = Cow::Owned(path.into());
        self
    }

    /// What the policies read. Default [`InputFormat::AuthZen`].
    pub fn with_input_format(mut self, format: InputFormat) -> Self {
        self.format = format;
        self
    }

    /// How long one decision may take, waiting for an instance included; over it there is none. Default 10 ms, at most 1 s: it runs where
    /// the request runs. The clock goes in steps of 1 ms, and is read at each call and each turn of a loop of the module; one call of a
    /// function of the host can exceed it.
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// How much memory one instance may have, data included, in bytes. Default 128 MiB; 1 MiB to 2 GiB. Data take some 12 times what they
    /// take as JSON, in each instance. An evaluation that needs more is no decision.
    pub fn with_memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// How many evaluations go on at once. Default: as many as the machine has cores; 1 to 64. What comes while all instances are busy
    /// waits, for the [time limit](Self::with_time_limit) at most, and is then refused as
    /// [overloaded](crate::policy::PolicyErrorKind::Overloaded).
    pub fn with_instances(mut self, instances: usize) -> Self {
        self.instances = Some(instances);
        self
    }

    /// The question that every policy is tried with before it serves. Default: an anonymous caller, `GET /`. A policy that gives no
    /// decision (an error, something that is no decision, nothing within 1 s) is refused. Allow, deny and undefined are decisions;
    /// undefined is warned of.
    pub fn with_canary(mut self, input: PolicyInput) -> Self {
        self.canary = Some(Box::new(input));
        self
    }

    /// Takes modules that are known to decide otherwise than a server of Open Policy Agent, and warns instead. Such a policy can
    /// **allow here what it denies there**.
    pub fn dangerous_relax_parity(mut self) -> Self {
        self.parity = false;
        self
    }

    /// Compiles, checks and tries everything.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a module that is refused (see [`Wasm`]), no module at all, a decision path that is no entry point, data that are
    /// no JSON object, contradict themselves or do not fit into the memory, a policy that does not decide about the
    /// [canary](Self::with_canary), and limits outside of their bounds.
    pub fn build(self) -> Result<Wasm, ConfigError> {
        if self.time_limit.is_zero() || self.time_limit > MAX_TIME_LIMIT {
            let remedy = format!("choose more than zero and at most {MAX_TIME_LIMIT:?}");
            return Err(ConfigError::invalid("policy.wasm.time_limit", format!("{:?}", self.time_limit), remedy));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory_limit) {
            let remedy = format!("choose {MIN_MEMORY} to {MAX_MEMORY} bytes");
            return Err(ConfigError::invalid("policy.wasm.memory_limit", self.memory_limit.to_string(), remedy));
        }
        if let Some(instances) = self.instances.filter(|instances| !(1..=MAX_INSTANCES).contains(instances)) {
            let remedy = format!("choose 1 to {MAX_INSTANCES}");
            return Err(ConfigError::invalid("policy.wasm.instances", instances.to_string(), remedy));
        }
        let mut steps = self.decision_path.split('.');
        if steps.next() != Some("data") || steps.clone().count() < 2 || steps.any(str::is_empty) {
            let remedy = format!("write it like `{}`", Wasm::DEFAULT_DECISION_PATH);
            return Err(ConfigError::invalid("policy.wasm.decision_path", self.decision_path, remedy));
        }
        let engine = Engine::new(&config()).map_err(|error| {
            let remedy = "run it on a machine that the compiler supports, or decide with `policy::Rego`";
            ConfigError::unusable("policy.wasm.engine", "wasmtime", remedy, error.to_string())
        })?;
        let ticker = Ticker::start(engine.clone()).map_err(|error| {
            ConfigError::unusable("policy.wasm", "thread", "let the process start another thread", error)
        })?;
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let settings = Settings {
            engine,
            ticker: Arc::new(ticker),
            decision_path: self.decision_path.into_owned(),
            format: self.format,
            time_limit: self.time_limit,
            memory_limit: self.memory_limit,
            instances: self.instances.unwrap_or(cores.min(MAX_INSTANCES)),
            canary: self.canary.map_or_else(anonymous, |canary| Ok(*canary))?,
            parity: self.parity,
            patience: self.patience,
        };
        let current = ArcSwap::from_pointee(Generation::load(&self.policy, &settings)?);
        Ok(Wasm { settings, current, turns: Turns::default(), trouble: Mutex::default() })
    }
}

impl fmt::Debug for WasmBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmBuilder")
            .field("policy", &self.policy)
            .field("decision_path", &self.decision_path)
            .field("time_limit", &self.time_limit)
            .field("memory_limit", &self.memory_limit)
            .field("instances", &self.instances)
            .finish_non_exhaustive()
    }
}

/// What the compiler of policies makes use of, and no more.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .cranelift_opt_level(OptLevel::Speed)
        // Where it trapped tells nobody anything, and looking it up costs.
        .wasm_backtrace_max_frames(None)
        .wasm_simd(false)
        .wasm_relaxed_simd(false)
        .wasm_tail_call(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_extended_const(false);
    config
}

/// Of the 2 MiB that the worker threads of a runtime have; a module that wants more of it traps.
const STACK: usize = 512 << 10;

const MAX_TIME_LIMIT: Duration = Duration::from_secs(1);
const MIN_MEMORY: usize = 1 << 20;
const MAX_MEMORY: usize = 2 << 30;
const MAX_INSTANCES: usize = 64;
