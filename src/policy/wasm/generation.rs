//! One version of a compiled policy, as it serves: checked, tried, and never changed.

use std::{
    error::Error,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::dispatcher;
use wasmtime::Engine;

use super::{compiled::CompiledPolicy, data, machine::Template, machine::shown, parity, pool::Pool, ticker::Ticker};
use crate::{
    ConfigError,
    policy::{
        Decision, InputFormat, PolicyError, PolicyInForce, PolicyInput, PolicyRevision, Reads, bundle::CompiledModule,
        rego::generation::STACK_BYTES,
    },
};

/// What stays the same from one generation to the next.
pub(super) struct Settings {
    pub(super) engine: Engine,
    pub(super) ticker: Arc<Ticker>,
    pub(super) decision_path: String,
    pub(super) format: InputFormat,
    pub(super) time_limit: Duration,
    /// Of one instance, with the data.
    pub(super) memory_limit: usize,
    pub(super) instances: usize,
    pub(super) canary: PolicyInput,
    pub(super) parity: bool,
    /// How long a module may take for each thing that it does while it is loaded.
    pub(super) patience: Duration,
}

pub(super) struct Generation {
    pub(super) revision: PolicyRevision,
    /// No two generations of the process have the same.
    epoch: u64,
    format: InputFormat,
    pub(super) pool: Arc<Pool>,
}

impl Generation {
    /// Compiles, checks and tries a policy. Where this returns it is fit to serve.
    pub(super) fn load(policy: &CompiledPolicy, settings: &Settings) -> Result<Self, ConfigError> {
        // On a thread of its own: for its stack, and because a panic of the compiler is then an error like any other.
        let log = &dispatcher::get_default(Clone::clone);
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("wasm-load".to_owned()).stack_size(STACK_BYTES);
            let load = move || {
                let generation = Self::compile(policy, settings)?;
                generation.try_out(settings)?;
                Ok(generation)
            };
            let loading = builder.spawn_scoped(scope, move || dispatcher::with_default(log, load));
            let loading = loading.map_err(|error| {
                ConfigError::unusable("policy.wasm", "thread", "let the process start another thread", error)
            })?;
            loading.join().unwrap_or_else(|_| {
                let remedy = "build it anew: the compiler panicked";
                Err(ConfigError::invalid("policy.wasm.module", "policy.wasm", remedy))
            })
        })
    }

    fn compile(policy: &CompiledPolicy, settings: &Settings) -> Result<Self, ConfigError> {
        let path = &settings.decision_path;
        let entry_point = path.split('.').skip(1).collect::<Vec<_>>().join("/");
        let module = choose(&policy.modules, path, &entry_point)?;
        let unusable = |error: Box<dyn Error + Send + Sync>| {
            let remedy = format!("mend the module: {error}");
            ConfigError::unusable("policy.wasm.module", shown(&module.name), remedy, error)
        };
        if module.module.len() > MAX_MODULE {
            return Err(unusable(format!("it is larger than {MAX_MODULE} bytes").into()));
        }
        check_parity(&module.module, settings.parity).map_err(|remedy| unusable(remedy.into()))?;
        let documents = policy.data.iter().map(|(mount, text)| (mount.as_slice(), text.as_str()));
        let data = data::document(documents).map_err(|error| {
            let remedy = format!("make the data documents one object without conflicts: {error}");
            ConfigError::unusable("policy.wasm.data", "data", remedy, error)
        })?;
        let running = settings.ticker.run();
        let loaded = Template::load(&settings.engine, &module.module, &data, settings.memory_limit, settings.patience);
        drop(running);
        let (template, first) = loaded.map_err(|fault| unusable(fault.into()))?;
        let Some(entry) = template.entry_points().get(&entry_point).copied() else {
            return Err(no_entry_point(path, template.entry_points().keys().map(String::as_str)));
        };
        let (ticker, patience) = (Arc::clone(&settings.ticker), settings.patience);
        let pool = Pool::new(template, first, entry, ticker, patience, settings.instances)
            .map_err(|fault| unusable(fault.into()))?;
        let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
        Ok(Self { revision: policy.revision(), epoch, format: settings.format, pool: Arc::new(pool) })
    }

    /// One decision before the first request: a policy that fails whatever it is asked must not come to serve.
    fn try_out(&self, settings: &Settings) -> Result<(), ConfigError> {
        match self.decide(&settings.canary, Instant::now(), CANARY_LIMIT) {
            Ok(decision) => {
                if decision.is_undefined() {
                    tracing::warn!(
                        revision = %self.revision,
                        path = settings.decision_path,
                        "the policy is undefined for the canary: give the decision a `default`"
                    );
                }
                Ok(())
            }
            Err(error) => {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                let remedy = format!(
                    "make it decide about the canary, an anonymous caller, or choose another one: {error}{cause}"
                );
                Err(ConfigError::unusable("policy.wasm.module", &settings.decision_path, remedy, error))
            }
        }
    }

    /// Decides within `limit` from `started` on.
    pub(super) fn decide(
        &self,
        input: &PolicyInput,
        started: Instant,
        limit: Duration,
    ) -> Result<Decision, PolicyError> {
        let input = serde_json::to_vec(&self.format.document(input)).map_err(PolicyError::evaluation)?;
        match self.pool.evaluate(&input, started, limit)? {
            Some(result) => Decision::from_result(&result, self.revision.clone()),
            None => Ok(Decision::undefined(self.revision.clone())),
        }
    }

    pub(super) fn in_force(&self) -> PolicyInForce {
        // Nobody can see in a module what it reads. No function of the host reads more than the input.
        PolicyInForce::new(self.revision.clone(), Reads::everything()).with_epoch(self.epoch)
    }

    pub(super) fn idle(&self) -> usize {
        self.pool.idle()
    }
}

fn check_parity(module: &[u8], parity: bool) -> Result<(), String> {
    let found = match parity::differences(module) {
        Some(found) if found.is_empty() => return Ok(()),
        Some(found) => format!("it calls `{}`, whose results differ from those of a server", found.join("`, `")),
        // Broken ones are found out by who compiles them.
        None if !module.starts_with(b"\0asm\x01\0\0\0") => return Ok(()),
        None => {
            "it does not name its functions, so that nobody can see which it calls: build it with `opa build -t wasm`"
                .to_owned()
        }
    };
    if parity {
        return Err(found);
    }
    tracing::warn!(cause = found, "the policy may allow here what a server of Open Policy Agent denies");
    Ok(())
}

/// The module that was built to answer the decision path.
fn choose<'a>(modules: &'a [CompiledModule], path: &str, entry_point: &str) -> Result<&'a CompiledModule, ConfigError> {
    if modules.is_empty() {
        let remedy = "give a module: build the bundle with `opa build -t wasm -e authz/decision`";
        return Err(ConfigError::missing("policy.wasm.module", remedy));
    }
    let answers = |module: &&CompiledModule| {
        module.entry_points.as_ref().is_none_or(|known| known.iter().any(|known| known == entry_point))
    };
    modules.iter().find(answers).ok_or_else(|| {
        let known = modules.iter().flat_map(|module| module.entry_points.iter().flatten());
        no_entry_point(path, known.map(String::as_str))
    })
}

fn no_entry_point<'a>(path: &str, known: impl Iterator<Item = &'a str>) -> ConfigError {
    let mut remedy = "build the module with `-e` for it, or choose one that it was built with:".to_owned();
    let mut is_none = true;
    for name in known.take(MAX_NAMED) {
        let _ = write!(remedy, " `data.{}`", shown(&name.replace('/', ".")));
        is_none = false;
    }
    if is_none {
        remedy.push_str(" it has none");
    }
    ConfigError::invalid("policy.wasm.decision_path", path, remedy)
}

/// The canary is about whether there is a decision, not about how fast: the machine is busy while policies are loaded.
const CANARY_LIMIT: Duration = Duration::from_secs(1);

/// The largest that the compiler of policies is known to write are of less than one.
const MAX_MODULE: usize = 4 << 20;
const MAX_NAMED: usize = 16;

static EPOCHS: AtomicU64 = AtomicU64::new(1);
