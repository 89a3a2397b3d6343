//! Policies that Open Policy Agent compiled to WebAssembly, decided in the process.
//!
//! # Why wasmtime, and by itself
//!
//! The same policy (47 lines, 1 000 bindings, input of 630 bytes) with the JSON in and out, best and median of some 100 000 evaluations:
//!
//! | engine | deadline | µs |
//! | --- | --- | --- |
//! | wasmtime 48 | none | 9.4 (9.8) |
//! | wasmtime 48 | epochs | 11.9 (12.1) |
//! | wasmtime 48 | fuel | 12.8 (13.3) |
//! | the crate `opa-wasm` 0.3.4 on wasmtime 48 | none | (10.0) |
//! | wasmi 1.1, an interpreter | none | 151 (159) |
//!
//! - Epochs cost less than fuel, and are time, which is what is promised. Moving one on takes 30 ns, once in a millisecond.
//! - `opa-wasm` calls everything asynchronously, turns a missing function of the host into an error of the request, has functions that
//!   format and count otherwise than Open Policy Agent or not at all, and parses the data once for each instance. What of the binary
//!   interface is needed here are ten functions.
//! - 48 gets fixes for two years, and is the last wasmtime for the compiler that this crate asks for. It brings 57 crates, the crate
//!   `opa-wasm` with its functions some 20 more.
//! - Guard pages instead of checks of each access: 11.0 µs against 12.4, at the price of a handler for `SIGSEGV`, which passes on what
//!   is not its own. Inlining by the compiler: 10.1 µs, but three times as long to compile.

mod builder;
mod builtins;
mod compiled;
mod data;
mod fault;
mod generation;
mod machine;
mod parity;
mod pool;
#[cfg(test)]
mod tests;
mod ticker;
mod value;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use self::generation::{Generation, Settings};
pub use self::{builder::WasmBuilder, compiled::CompiledPolicy};
use super::{
    Decision, PolicyBackend, PolicyError, PolicyInForce, PolicyInput, PolicyRevision,
    rego::{generation::retire, turns::Turns},
};
use crate::{ConfigError, health::Health};

/// Decides by policies that Open Policy Agent compiled to WebAssembly, in the process: no server, no waiting, and the rules as `opa build`
/// planned them.
///
/// The policy is a [`CompiledPolicy`]: the `policy.wasm` that `opa build -t wasm -e authz/decision` writes, or the
/// [`Contents`](super::bundle::Contents) of bundles built that way. The module is compiled to machine code by
/// [`wasmtime`](https://docs.rs/wasmtime) when it is loaded, so a decision takes some microseconds. It is asked for one entry point, the
/// *decision path*, and its result is read by [`Decision::from_result`]; an empty result is [`Decision::undefined`].
///
/// ```
/// use portcullis::policy::{CompiledPolicy, PolicyBackend as _, Wasm};
///
/// # let example = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/wasm/example.wat"));
/// # let read = |_| wat::parse_str(example);
/// // opa build -t wasm -e authz/decision authz.rego && tar -xzf bundle.tar.gz /policy.wasm
/// let module = read("policy.wasm")?;
/// let policy = CompiledPolicy::new(module).add_data(&serde_json::json!({"admins": ["alice"]}));
/// let wasm = Wasm::new(policy)?;
/// assert!(wasm.revision().as_str().starts_with("sha256:"));
/// # let decision = wasm.decide_now(&portcullis::testing::policy_input("GET", "/jobs")).unwrap()?;
/// # assert_eq!(decision.effect(), portcullis::policy::Effect::Allow);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # A policy replaces another
///
/// [`activate`](Self::activate) puts a new policy in the place of the one that serves, between one request and the next: each decision is
/// that of one policy as a whole, and names its revision. A policy that is refused replaces nothing, and
/// [`health`](PolicyBackend::health) is degraded until another one is accepted.
///
/// # What is refused when it is loaded
///
/// A module that is not valid, or over 32 MiB; that imports anything but what policies import; whose
/// [binary interface](https://www.openpolicyagent.org/docs/wasm#abi-versions) is not 1.2 or a later 1.x; that calls built-in functions
/// which the host does not have, each of them named; that was not built with the decision path for an entry point; that cannot be
/// started, does not take the data, or gives no decision about a [canary](WasmBuilder::with_canary). And, unless
/// [relaxed](WasmBuilder::dangerous_relax_parity), one that calls a compiled-in function whose results are known to differ from those of
/// a server: `net.cidr_contains`, `net.cidr_intersects` and `net.cidr_overlap` (an IPv4 address written as IPv6 is another one), and
/// `indexof` (an empty text is found everywhere).
///
/// Most built-in functions are compiled into the module. Of the others the host has `base64url.encode_no_pad`, `crypto.sha256`, `hex.decode`,
/// `hex.encode`, `indexof_n`, `net.cidr_is_valid`, `object.subset`, `regex.find_n`, `regex.replace`, `regex.split`, `semver.compare`, `sprintf`,
/// `strings.any_prefix_match`, `strings.any_suffix_match`, `strings.count`, `time.add_date`, `time.clock`, `time.date`, `time.parse_duration_ns`,
/// `time.parse_rfc3339_ns`, `time.weekday`, `urlquery.encode` and `urlquery.encode_object`. Not among them is what asks for the time, for
/// chance or for the network: such a decision could not be repeated from its record; the time of the request is
/// `input.context.time_ns`.
///
/// # What is no decision
///
/// An evaluation that takes longer than the [time limit](WasmBuilder::with_time_limit), needs more memory than the
/// [limit](WasmBuilder::with_memory_limit) or more than 512 KiB of stack, traps, or reports an error, such as a rule with two values; a
/// call of a function of the host that fails, or whose arguments are such that its result is not known to be that of Open Policy Agent (a
/// `sprintf` with widths, a regular expression with `\w`); a result over 64 KiB, or that is no decision. The instance is then thrown
/// away, and another one is made on a thread of its own.
///
/// # What the same policy may still decide otherwise than a server of Open Policy Agent
///
/// An error of a built-in function that is compiled into the module is `undefined`, as it is there by default; `policy::Opa` asks the
/// server to be strict. An array that is made of an object or a set is in the order of a hash table; sets themselves come in order. See
/// [`guide::design`](crate::guide::design).
///
/// # What it asks of the process
///
/// Threads that ask for decisions need 1 MiB of stack, which those of a runtime have. One thread more moves the clock while something is
/// evaluated. `SIGSEGV`, `SIGILL`, `SIGFPE` and `SIGBUS` get handlers, which pass on what does not come from a module. Each instance
/// reserves 4 GiB of addresses, and uses of them what the data need.
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
