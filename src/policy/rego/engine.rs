//! The engine behind [`Rego`](super::Rego): several copies of one policy, so that threads do not wait for each other.

use std::{
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use regorus::{Engine, LimitError, Value, utils::limits::ExecutionTimerConfig};

use super::{
    corrections,
    form::{self, Odd},
    set::Source,
};
use crate::{ConfigError, policy::PolicyError};

/// As many engines as evaluate at once, each parsed for itself: clones of one engine share its syntax tree, and counting the
/// references to that costs most of what the second core would add. The data document is shared.
pub(super) struct Pool {
    slots: Box<[Mutex<Engine>]>,
    next: AtomicUsize,
    /// Never evaluates: copied when all slots are busy, and to replace an engine that panicked.
    spare: Engine,
    entry: String,
}

/// How long an evaluation may take, and since when.
#[derive(Clone, Copy)]
struct Budget {
    started: Instant,
    limit: Duration,
}

/// A policy that is loaded but not yet checked.
pub(super) struct Loaded {
    engine: Engine,
}

impl Loaded {
    pub(super) fn new(sources: &[Source], data: Value) -> Result<Self, ConfigError> {
        let mut loaded = Self::around(data)?;
        sources.iter().try_for_each(|source| loaded.add(source))?;
        Ok(loaded)
    }

    /// No module yet.
    pub(super) fn around(data: Value) -> Result<Self, ConfigError> {
        let mut engine = Engine::new();
        // An error of a built-in function is then no decision instead of `undefined`, which a negation would turn into true.
        engine.set_strict_builtin_errors(true);
        // `print` would write what a request brought to the standard error of the process.
        engine.set_gather_prints(true);
        corrections::install(&mut engine)?;
        engine.add_data(data).map_err(|error| {
            let remedy = "make the data documents one object without conflicts";
            ConfigError::unusable("policy.rego.data", "data", remedy, error)
        })?;
        Ok(Self { engine })
    }

    pub(super) fn add(&mut self, source: &Source) -> Result<(), ConfigError> {
        form::check(&source.text).map_err(|Odd { line, remedy }| {
            ConfigError::invalid("policy.rego.source", format!("{}:{line}", source.name), remedy)
        })?;
        let added = self.engine.add_policy(source.name.clone(), source.text.clone());
        added.map(drop).map_err(|error| broken(&source.name, error))
    }

    /// An engine that modules were added to.
    pub(super) const fn extended(engine: Engine) -> Self {
        Self { engine }
    }

    /// The syntax trees, as JSON.
    pub(super) fn syntax(&self) -> Result<String, ConfigError> {
        syntax(&self.engine)
    }

    /// Prepares the engine for evaluation.
    pub(super) fn prepare(mut self) -> Result<Engine, ConfigError> {
        self.engine.eval_query("true".to_owned(), false).map_err(|error| broken("policy", error))?;
        Ok(self.engine)
    }
}

impl Pool {
    /// Parses the policy once for each of the engines. `spare` is the one that was checked.
    pub(super) fn new(spare: Engine, sources: &[Source], entry: String, engines: usize) -> Result<Self, ConfigError> {
        let slots = (0..engines)
            .map(|_| Loaded::new(sources, spare.get_data())?.prepare().map(Mutex::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { slots, next: AtomicUsize::new(0), spare, entry })
    }

    /// One engine, copied for each evaluation: for what is not asked per request.
    pub(super) fn of_one(engine: Engine) -> Self {
        Self { slots: Box::default(), next: AtomicUsize::new(0), spare: engine, entry: String::new() }
    }

    /// A copy that nobody else uses, to add rules to.
    pub(super) fn copy(&self) -> Engine {
        self.spare.clone()
    }

    #[cfg(feature = "opa-management")]
    pub(super) fn data(&self) -> Value {
        self.spare.get_data()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Evaluates a rule, the entry point unless told otherwise, for an input document, within `limit` from `started` on. `None` is
    /// undefined. An empty text is no input at all.
    pub(super) fn evaluate(
        &self,
        rule: Option<&str>,
        input: &str,
        started: Instant,
        limit: Duration,
    ) -> Result<Option<serde_json::Value>, PolicyError> {
        let (rule, budget) = (rule.unwrap_or(&self.entry), Budget { started, limit });
        let input = match input {
            "" => Value::Undefined,
            text => Value::from_json_str(text).map_err(PolicyError::evaluation)?,
        };
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len().max(1);
        for slot in self.slots.iter().cycle().skip(first).take(self.slots.len()) {
            match slot.try_lock() {
                Ok(mut engine) => return self.run(&mut engine, rule, input, budget),
                Err(TryLockError::Poisoned(poisoned)) => {
                    let mut engine = poisoned.into_inner();
                    *engine = self.spare.clone();
                    return self.run(&mut engine, rule, input, budget);
                }
                Err(TryLockError::WouldBlock) => {}
            }
        }
        self.run(&mut self.spare.clone(), rule, input, budget)
    }

    fn run(
        &self,
        engine: &mut Engine,
        rule: &str,
        input: Value,
        Budget { started, limit }: Budget,
    ) -> Result<Option<serde_json::Value>, PolicyError> {
        let late = || PolicyError::timeout(format!("no result within {limit:?}"));
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(late());
        }
        let result = catch_unwind(AssertUnwindSafe(|| {
            engine.set_execution_timer_config(ExecutionTimerConfig { limit: left, check_interval: CHECK_INTERVAL });
            engine.set_input(input);
            let result = engine.eval_rule(rule.to_owned());
            // What a request brought is not kept until the next one.
            engine.set_input(Value::Undefined);
            drop(engine.take_prints());
            result
        }));
        // The engine cleans up after itself on success alone: the values of a loop or of `with` that an error ended, and the rule that a
        // panic ended, would take part in the next request's decision.
        if !matches!(result, Ok(Ok(_))) {
            *engine = self.spare.clone();
        }
        match result {
            Ok(Ok(Value::Undefined)) => Ok(None),
            Ok(Ok(value)) => serde_json::to_value(&value).map(Some).map_err(PolicyError::invalid_result),
            // The engine keeps the type of the error only outside of functions, so the clock is asked too.
            Ok(Err(error)) if error.is::<LimitError>() || started.elapsed() >= limit => Err(late()),
            Ok(Err(error)) => {
                // The rest of the message can quote the input.
                let text = error.to_string();
                let place = place(&text).unwrap_or(rule);
                Err(PolicyError::evaluation(format!("the evaluation failed at {place}")))
            }
            Err(_) => Err(PolicyError::panicked()),
        }
    }
}

/// The syntax trees, as JSON.
pub(super) fn syntax(engine: &Engine) -> Result<String, ConfigError> {
    engine.get_ast_as_json().map_err(|error| broken("policy", error))
}

/// Reads the place out of the engine's message: `--> file:line:column`, the line in question, `error: cause`.
fn place(message: &str) -> Option<&str> {
    message.lines().find_map(|line| line.trim().strip_prefix("--> "))
}

pub(super) fn broken(
    name: &str,
    error: impl std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ConfigError {
    let text = error.to_string();
    let place = place(&text).unwrap_or(name).to_owned();
    let cause = text.rsplit("error: ").next().unwrap_or(&text).trim().replace('\n', " ");
    ConfigError::unusable("policy.rego.source", place, format!("mend the policy: {cause}"), error)
}

/// How many steps of work go between two looks at the clock.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();
