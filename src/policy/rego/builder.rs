use std::{borrow::Cow, fmt, path::Path, sync::Arc, thread, time::Duration};

use arc_swap::ArcSwap;

use super::{
    PolicySet, Rego,
    generation::{Generation, Settings, anonymous},
    turns::Turns,
    workers::{Decide, Workers},
};
use crate::{
    ConfigError,
    policy::{InputFormat, PolicyInput},
    revocation::RevocationFeed,
};

/// Gathers what a [`Rego`] is made of: a [`PolicySet`], and how it is evaluated.
#[derive(Clone)]
#[must_use = "nothing is loaded before `build`"]
pub struct RegoBuilder {
    policies: PolicySet,
    decision_path: Cow<'static, str>,
    format: InputFormat,
    time_limit: Duration,
    threads: Option<usize>,
    canary: Option<Box<PolicyInput>>,
    parity: bool,
    clock_and_chance: bool,
    pub(super) unwinds: bool,
    revocations: Option<RevocationFeed>,
}

impl RegoBuilder {
    pub(super) fn new() -> Self {
        Self {
            policies: PolicySet::new(),
            decision_path: Cow::Borrowed(Rego::DEFAULT_DECISION_PATH),
            format: InputFormat::default(),
            time_limit: Duration::from_millis(10),
            threads: None,
            canary: None,
            parity: true,
            clock_and_chance: false,
            unwinds: cfg!(panic = "unwind"),
            revocations: None,
        }
    }

    /// The first policy, in the place of what was added so far.
    pub fn with_policies(mut self, policies: PolicySet) -> Self {
        self.policies = policies;
        self
    }

    /// [`PolicySet::add_source`] for the first policy.
    pub fn add_source(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.policies = self.policies.add_source(name, text);
        self
    }

    /// [`PolicySet::add_file`] for the first policy.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn add_file(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        self.policies = self.policies.add_file(path)?;
        Ok(self)
    }

    /// [`PolicySet::add_dir`] for the first policy.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn add_dir(mut self, dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        self.policies = self.policies.add_dir(dir)?;
        Ok(self)
    }

    /// [`PolicySet::add_data`] for the first policy.
    pub fn add_data(mut self, data: &serde_json::Value) -> Self {
        self.policies = self.policies.add_data(data);
        self
    }

    /// The rule that decides, in this policy and in every later one. Default `data.authz.decision`.
    pub fn with_decision_path(mut self, path: impl Into<String>) -> Self {
        self.decision_path = Cow::Owned(path.into());
        self
    }

    /// Feeds a list of revocations with `data.portcullis.revocations` of the policy that serves: a document as [`RevocationFeed`] says.
    /// It is replaced when a policy is accepted ([`build`](Self::build), [`Rego::activate`]), in the step before that policy serves; where
    /// the feed does not take it, the policy is refused. Data without that member change nothing; an empty list of entries takes back what
    /// there was.
    ///
    /// ```
    /// use portcullis::{policy::Rego, revocation::RevocationList};
    ///
    /// let revocations = RevocationList::new();
    /// let data = serde_json::json!({"portcullis": {"revocations": {"entries": [
    ///     {"issuer": "https://login.example/", "subject": "auth0|mallory", "not_before": 4_000_000_000_u64},
    /// ]}}});
    /// let rego = Rego::builder()
    ///     .add_source("authz.rego", "package authz\n\ndecision := true")
    ///     .add_data(&data)
    ///     .with_revocations(revocations.feed("policy"))
    ///     .build()?;
    /// assert_eq!(revocations.len(), 1);
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    pub fn with_revocations(mut self, feed: RevocationFeed) -> Self {
        self.revocations = Some(feed);
        self
    }

    /// What the policies read. Default [`InputFormat::AuthZen`].
    pub fn with_input_format(mut self, format: InputFormat) -> Self {
        self.format = format;
        self
    }

    /// How long one decision may take; over it there is none. Default 10 ms, at most 1 s: it runs where the request runs.
    /// The clock is read between steps, so that one call of a built-in function can exceed it. With
    /// [threads of their own](Self::with_threads) it covers the waiting too, and the caller is answered in time in either case.
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Evaluates on this many threads of their own, with a stack of 8 MiB each, instead of where the request runs: for policies that
    /// take more than some 200 µs, or nest deeply. 1 to 64. Default: none, which is right for most policies.
    ///
    /// At most 128 evaluations wait for each of the threads; what comes then is refused at once as
    /// [overloaded](crate::policy::PolicyErrorKind::Overloaded). An evaluation whose request has gone away is left out. Decisions must
    /// then be asked for on a Tokio runtime with its timer on. The threads end when the [`Rego`] is dropped.
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The question that every policy is tried with before it serves. Default: an anonymous caller, `GET /`. A policy that gives no
    /// decision (an error, a panic, something that is no decision, nothing within 1 s) is refused. Allow, deny and undefined are decisions;
    /// undefined is warned of.
    pub fn with_canary(mut self, input: PolicyInput) -> Self {
        self.canary = Some(Box::new(input));
        self
    }

    /// Takes policies that ask for the time, or for something random: `time.now_ns`, `rand.intn` and `uuid.rfc4122`. Default: they are
    /// refused, because such a decision cannot be repeated from its record, tried at another time, or remembered; the time of the request
    /// is `input.context.time_ns`.
    pub fn with_clock_and_chance(mut self) -> Self {
        self.clock_and_chance = true;
        self
    }

    /// Takes policies that are known to decide otherwise here than in Open Policy Agent, and warns instead. Such a policy can
    /// **allow here what it denies there**.
    pub fn dangerous_relax_parity(mut self) -> Self {
        self.parity = false;
        self
    }

    /// Builds although the program is compiled with `panic = "abort"`. A panic of the engine, which a request may be able to bring
    /// about, then **ends the process** instead of refusing that request.
    pub fn dangerous_allow_panic_abort(mut self) -> Self {
        self.unwinds = true;
        self
    }

    /// Parses, checks and tries everything.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a module that cannot be parsed or is refused (see [`Rego`]), data that is no JSON object or contradicts
    /// itself, a decision path that names no rule, a policy that does not decide about the [canary](Self::with_canary), a time limit or a
    /// number of threads outside its bounds, no module at all, a program that cannot survive a panic of the engine, and revocations that
    /// are not well formed or do not fit. It names file, line and remedy.
    pub fn build(self) -> Result<Rego, ConfigError> {
        if !self.unwinds {
            let remedy = "build with `panic = \"unwind\"`, or accept with `dangerous_allow_panic_abort` that a panic of the engine \
                          ends the process";
            return Err(ConfigError::invalid("profile.panic", "abort", remedy));
        }
        if self.time_limit.is_zero() || self.time_limit > MAX_TIME_LIMIT {
            let remedy = format!("choose more than zero and at most {MAX_TIME_LIMIT:?}");
            return Err(ConfigError::invalid("policy.rego.time_limit", format!("{:?}", self.time_limit), remedy));
        }
        if let Some(threads) = self.threads.filter(|threads| !(1..=MAX_THREADS).contains(threads)) {
            let remedy = format!("choose 1 to {MAX_THREADS}");
            return Err(ConfigError::invalid("policy.rego.threads", threads.to_string(), remedy));
        }
        let mut steps = self.decision_path.split('.');
        if steps.next() != Some("data") || steps.clone().count() < 2 || steps.any(str::is_empty) {
            let remedy = format!("write it like `{}`", Rego::DEFAULT_DECISION_PATH);
            return Err(ConfigError::invalid("policy.rego.decision_path", self.decision_path, remedy));
        }
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let settings = Settings {
            decision_path: self.decision_path.into_owned(),
            format: self.format,
            time_limit: self.time_limit,
            parity: self.parity,
            clock_and_chance: self.clock_and_chance,
            engines: self.threads.unwrap_or(cores),
            canary: self.canary.map_or_else(anonymous, |canary| Ok(*canary))?,
            revocations: self.revocations,
        };
        let current = Arc::new(ArcSwap::from_pointee(Generation::load(&self.policies, &settings)?));
        let workers = self.threads.map(|threads| {
            let (current, limit) = (Arc::clone(&current), settings.time_limit);
            let decide: Arc<Decide> = Arc::new(move |input, asked| current.load().decide(input, asked, limit));
            Workers::start(threads, &decide).map_err(|error| {
                let remedy = "let the process start so many threads, or configure fewer";
                ConfigError::unusable("policy.rego.threads", threads.to_string(), remedy, error)
            })
        });
        let workers = workers.transpose()?;
        Ok(Rego { settings, current, workers, turns: Turns::default(), trouble: std::sync::Mutex::default() })
    }
}

impl fmt::Debug for RegoBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegoBuilder")
            .field("policies", &self.policies)
            .field("decision_path", &self.decision_path)
            .field("time_limit", &self.time_limit)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

const MAX_TIME_LIMIT: Duration = Duration::from_secs(1);
const MAX_THREADS: usize = 64;
