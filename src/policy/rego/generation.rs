//! One version of a policy, as it serves: parsed, checked, tried, and never changed.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use http::{Method, Request};
use regorus::{Engine, Value};
use tracing::dispatcher;

use super::{
    ast,
    engine::{Loaded, Pool},
    lint::{self, Finding, Kind, Report},
    set::{Data, PolicySet},
};
use crate::{
    ConfigError,
    policy::{Decision, InputFormat, PolicyError, PolicyInForce, PolicyInput, PolicyRevision, Reads},
    principal::Principal,
    revocation::RevocationFeed,
    route::{Route, RouteKey},
    rules::Rules,
    time::{Clock as _, SystemClock},
};

/// What stays the same from one generation to the next.
pub(super) struct Settings {
    pub(super) decision_path: String,
    pub(super) format: InputFormat,
    pub(super) time_limit: Duration,
    pub(super) parity: bool,
    pub(super) clock_and_chance: bool,
    /// How many evaluations go on at once without one of them copying an engine.
    pub(super) engines: usize,
    pub(super) canary: PolicyInput,
    pub(super) revocations: Option<RevocationFeed>,
}

pub(super) struct Generation {
    pub(super) revision: PolicyRevision,
    /// No two generations of the process have the same.
    epoch: u64,
    reads: Reads,
    #[cfg(feature = "opa-management")]
    defined: BTreeMap<String, bool>,
    format: InputFormat,
    pub(super) pool: Pool,
}

impl Generation {
    /// Parses, checks and tries a policy. Where this returns it is fit to serve, and its revocations hold.
    pub(super) fn load(set: &PolicySet, settings: &Settings) -> Result<Self, ConfigError> {
        // On a thread of its own: for its stack, and because a panic of the parser is then an error like any other.
        let log = &dispatcher::get_default(Clone::clone);
        let (generation, data) = thread::scope(|scope| {
            let builder = thread::Builder::new().name("rego-load".to_owned()).stack_size(STACK_BYTES);
            let load = move || {
                let (generation, data) = Self::parse(set, settings)?;
                generation.try_out(settings)?;
                Ok((generation, data))
            };
            let loading = builder.spawn_scoped(scope, move || dispatcher::with_default(log, load));
            let loading = loading.map_err(|error| {
                ConfigError::unusable("policy.rego", "thread", "let the process start another thread", error)
            })?;
            loading.join().unwrap_or_else(|_| {
                let remedy = "find the module that the engine cannot load: it panicked";
                Err(ConfigError::invalid("policy.rego.source", "policy", remedy))
            })
        })?;
        // The last step: a generation that is refused revokes nothing.
        if let Some(feed) = &settings.revocations {
            feed_revocations(feed, &data)?;
        }
        Ok(generation)
    }

    fn parse(set: &PolicySet, settings: &Settings) -> Result<(Self, Value), ConfigError> {
        if set.sources.is_empty() {
            return Err(ConfigError::missing("policy.rego.source", "add at least one module"));
        }
        let entry: Vec<_> = settings.decision_path.split('.').collect();
        let data = document(&set.data)?;
        let loaded = Loaded::new(&set.sources, data.clone())?;
        let policies: Vec<ast::Policy> = serde_json::from_str(&loaded.syntax()?).map_err(|error| {
            let remedy = "write it with less nesting: it cannot be checked as it is";
            ConfigError::unusable("policy.rego.source", "policy", remedy, error)
        })?;
        let Report { findings, reads, defined } = lint::check(&policies, &entry, |path| holds(&data, path));
        for Finding { place, remedy, kind } in findings {
            match kind {
                Kind::Parity if !settings.parity => {
                    tracing::warn!(place, remedy, "the policy may allow here what Open Policy Agent denies");
                }
                Kind::Fickle if settings.clock_and_chance => {}
                Kind::EntryPoint => return Err(ConfigError::invalid("policy.rego.decision_path", place, remedy)),
                Kind::Unsound | Kind::Parity | Kind::Fickle => {
                    return Err(ConfigError::invalid("policy.rego.source", place, remedy));
                }
            }
        }
        let spare = loaded.prepare()?;
        let pool = Pool::new(spare, &set.sources, settings.decision_path.clone(), settings.engines)?;
        // In other words than those of `PolicyInput` nobody knows what is read of it.
        let format = settings.format;
        let reads = if format == InputFormat::AuthZen { reads } else { Reads::everything() };
        let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
        #[cfg(not(feature = "opa-management"))]
        drop(defined);
        let generation = Self {
            revision: set.revision(),
            epoch,
            reads,
            #[cfg(feature = "opa-management")]
            defined,
            format,
            pool,
        };
        Ok((generation, data))
    }

    /// One decision before the first request: a rule that fails whatever it is asked must not come to serve.
    fn try_out(&self, settings: &Settings) -> Result<(), ConfigError> {
        match self.decide(&settings.canary, Instant::now(), CANARY_LIMIT) {
            Ok(decision) if decision.is_undefined() => {
                tracing::warn!(
                    revision = %self.revision,
                    path = settings.decision_path,
                    "the policy is undefined for an anonymous caller: give the decision a `default`, so that a wrong path shows"
                );
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                let remedy = format!(
                    "make it decide about the canary, an anonymous caller, or choose another one: {error}{cause}"
                );
                Err(ConfigError::unusable("policy.rego.source", &settings.decision_path, remedy, error))
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
        let input = serde_json::to_string(&self.format.document(input)).map_err(PolicyError::evaluation)?;
        match self.pool.evaluate(None, &input, started, limit)? {
            Some(result) => Decision::from_result(&result, self.revision.clone()),
            None => Ok(Decision::undefined(self.revision.clone())),
        }
    }

    /// Decides about a question that is in the form that the policy reads.
    #[cfg(feature = "cli")]
    pub(super) fn decide_text(&self, input: &str, limit: Duration) -> Result<Decision, PolicyError> {
        match self.pool.evaluate(None, input, Instant::now(), limit)? {
            Some(result) => Decision::from_result(&result, self.revision.clone()),
            None => Ok(Decision::undefined(self.revision.clone())),
        }
    }

    pub(super) const fn format(&self) -> InputFormat {
        self.format
    }

    /// What the rule at `path` gives for an input document. `None` when it is undefined, or nothing at all is defined there.
    #[cfg(feature = "opa-management")]
    pub(super) fn evaluate(
        &self,
        path: &str,
        input: &str,
        limit: Duration,
    ) -> Result<Option<serde_json::Value>, PolicyError> {
        if self.defined.get(path) == Some(&true) {
            return self.pool.evaluate(Some(path), input, Instant::now(), limit);
        }
        let below = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
        let is_near = |other: &String| other == path || below(other, path) || below(path, other);
        let steps: Vec<_> = path.split('.').skip(1).collect();
        // Something is there that is not what was meant: whoever asks must not take it for nothing.
        if self.defined.keys().any(is_near) || holds(&self.pool.data(), &steps) {
            return Err(PolicyError::evaluation(format!("`{path}` is there, but is no rule with a value of its own")));
        }
        Ok(None)
    }

    pub(super) fn in_force(&self) -> PolicyInForce {
        PolicyInForce::new(self.revision.clone(), self.reads.clone()).with_epoch(self.epoch)
    }

    pub(super) fn engines(&self) -> usize {
        self.pool.len()
    }
}

/// Frees what nobody uses any more, and not before: tens of megabytes are not to be freed by the request that happens to be the last
/// to let go.
pub(in crate::policy) fn retire<T: Send + Sync + 'static>(old: Arc<T>) {
    retire_after(old, || thread::sleep(RETIREMENT_PAUSE));
}

fn retire_after<T: Send + Sync + 'static>(old: Arc<T>, pause: impl Fn() + Send + 'static) {
    let waiting = move || {
        // Nobody can get at it any more but through those who hold it now.
        while Arc::strong_count(&old) > 1 {
            pause();
        }
    };
    if let Err(error) = thread::Builder::new().name("rego-retire".to_owned()).spawn(waiting) {
        tracing::warn!(%error, "no thread to free the old policy: it is freed where it is used last");
    }
}

/// The default canary: an anonymous `GET /`.
pub(in crate::policy) fn anonymous() -> Result<PolicyInput, ConfigError> {
    let route =
        Route::matched(&Rules::new().into_table()?, RouteKey::Http { method: Method::GET, template: "/".into() });
    let mut request = Request::new(());
    request.extensions_mut().insert(Principal::anonymous());
    request.extensions_mut().insert(route.with_path(vec![String::new()]));
    PolicyInput::from_request(&request, &[])
        .map_err(|error| ConfigError::unusable("policy.rego.canary", "default", "give one", error))
}

/// Puts the data documents where they belong, in one.
pub(super) fn document(documents: &[Data]) -> Result<Value, ConfigError> {
    let mut engine = Engine::new();
    for Data { name, mount, text } in documents {
        let refuse = |error: Box<dyn Error + Send + Sync>| {
            let remedy = "make it a JSON object that contradicts no other data";
            ConfigError::unusable("policy.rego.data", name, remedy, error)
        };
        let value = Value::from_json_str(text).map_err(|error| refuse(error.into()))?;
        let value = mount
            .iter()
            .rev()
            .fold(value, |inner, step| Value::from(BTreeMap::from([(Value::from(step.as_str()), inner)])));
        engine.add_data(value).map_err(|error| refuse(error.into()))?;
    }
    Ok(engine.get_data())
}

fn feed_revocations(feed: &RevocationFeed, data: &Value) -> Result<(), ConfigError> {
    let refuse = |error: Box<dyn Error + Send + Sync>| {
        let remedy = "mend the entry that the cause names, or make room in the list";
        ConfigError::unusable("policy.rego.revocations", REVOCATIONS.join("."), remedy, error)
    };
    let mut value = data;
    for step in REVOCATIONS.iter().skip(1) {
        let object = value.as_object().map_err(|error| refuse(error.into()))?;
        match object.get(&Value::from(*step)) {
            Some(inner) => value = inner,
            None => return Ok(()),
        }
    }
    let document = value.to_json_str().map_err(|error| refuse(error.into()))?;
    feed.replace(document.as_bytes(), SystemClock.now()).map_err(|error| refuse(error.into()))?;
    Ok(())
}

/// Whether data stands at the path, or in its way.
pub(super) fn holds(data: &Value, path: &[&str]) -> bool {
    let mut value = data;
    for step in path {
        match value.as_object().map(|object| object.get(&Value::from(*step))) {
            Ok(Some(inner)) => value = inner,
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    true
}

const REVOCATIONS: [&str; 3] = ["data", "portcullis", "revocations"];

/// The canary is about whether there is a decision, not about how fast: the machine is busy while policies are loaded.
const CANARY_LIMIT: Duration = Duration::from_secs(1);

static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// What evaluation is known to get along with; the worker threads of a runtime have a quarter of it.
pub(in crate::policy) const STACK_BYTES: usize = 8 << 20;

const RETIREMENT_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_retired_is_freed_on_a_thread_of_its_own_after_everybody_let_go() {
        struct Freed(mpsc::Sender<Option<String>>);

        impl Drop for Freed {
            fn drop(&mut self) {
                self.0.send(thread::current().name().map(str::to_owned)).unwrap();
            }
        }

        let (sender, freed) = mpsc::channel();
        let held = Arc::new(Freed(sender));
        let ((pause, paused), (go_on, told)) = (mpsc::channel(), mpsc::channel());
        retire_after(Arc::clone(&held), move || {
            pause.send(()).unwrap();
            told.recv().unwrap();
        });
        for _ in 0..3 {
            paused.recv().unwrap();
            go_on.send(()).unwrap();
        }
        paused.recv().unwrap();
        drop(held);
        assert_eq!(freed.try_recv(), Err(mpsc::TryRecvError::Empty));
        go_on.send(()).unwrap();
        assert_eq!(freed.recv().unwrap().as_deref(), Some("rego-retire"));
    }
}
