//! Rego decided in the process.

mod ast;
mod corrections;
mod differences;
mod engine;
mod lint;
mod source;
mod walk;

use std::{borrow::Cow, fmt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;

use self::{
    engine::{Loaded, Pool},
    lint::{Finding, Kind},
    source::{Data, Source},
};
use super::{Decision, PolicyBackend, PolicyError, PolicyInput, PolicyRevision};
use crate::{
    ConfigError,
    revocation::RevocationFeed,
    time::{Clock as _, SystemClock},
};

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
/// # What is refused when it is built
///
/// What the engine would find out at request time, or never: rules and functions that refer to themselves (it would overflow the
/// stack), functions that it does not have, `with` in place of a function, variables that only a negation knows, an entry point that
/// is no rule, a rule that the data document also defines. And, unless [relaxed](RegoBuilder::dangerous_relax_parity), expressions by which it is known to decide otherwise than
/// Open Policy Agent: most negations of something that can be undefined, `with … as` something that can be, and functions whose results differ
/// (`strings.count`, `time.parse_ns`, `glob.match` with other delimiters than `/` or `.`, `regex.match` with `\w`, `sprintf` with widths).
///
/// # What the same policy may still decide otherwise than Open Policy Agent
///
/// Compared with Open Policy Agent 1.20.2: fractions are binary (`0.1 + 0.2` is not `0.3`), and integers of more than 19 digits lose
/// precision; `guide::design` has the whole list. An error of a built-in function is never a decision here; there it is `undefined`, unless the
/// server is asked to be strict, as `policy::Opa` does.
pub struct Rego {
    pool: Pool,
    decision_path: String,
    revision: PolicyRevision,
}

/// Gathers what a [`Rego`] is made of.
#[derive(Clone, Debug)]
#[must_use = "nothing is loaded before `build`"]
pub struct RegoBuilder {
    sources: Vec<Source>,
    data: Vec<Data>,
    decision_path: Cow<'static, str>,
    time_limit: Duration,
    parity: bool,
    unwinds: bool,
    revocations: Option<RevocationFeed>,
}

impl Rego {
    /// Where the decision is found unless said otherwise.
    pub const DEFAULT_DECISION_PATH: &'static str = "data.authz.decision";

    /// Starts with nothing: add at least one source.
    pub fn builder() -> RegoBuilder {
        RegoBuilder {
            sources: Vec::new(),
            data: Vec::new(),
            decision_path: Cow::Borrowed(Self::DEFAULT_DECISION_PATH),
            time_limit: Duration::from_millis(10),
            parity: true,
            unwinds: cfg!(panic = "unwind"),
            revocations: None,
        }
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

    /// The modules and data in a directory, as [`RegoBuilder::add_dir`]. The decision is at
    /// [`DEFAULT_DECISION_PATH`](Self::DEFAULT_DECISION_PATH).
    ///
    /// # Errors
    ///
    /// As [`RegoBuilder::build`] and [`RegoBuilder::add_dir`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::builder().add_dir(dir)?.build()
    }

    /// The version of the policy: `sha256:` and 32 hexadecimal digits of a digest over all modules and data. It does not depend on
    /// file names, so that replicas agree.
    #[must_use]
    pub const fn revision(&self) -> &PolicyRevision {
        &self.revision
    }

    /// The rule that decides.
    #[must_use]
    pub fn decision_path(&self) -> &str {
        &self.decision_path
    }

    fn decision(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        match self.pool.evaluate(input)? {
            Some(result) => Decision::from_result(&result, self.revision.clone()),
            None => Ok(Decision::undefined(self.revision.clone())),
        }
    }
}

impl RegoBuilder {
    /// Adds a module as text, under a name for messages.
    pub fn add_source(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.sources.push(Source { name: name.into(), text: text.into() });
        self
    }

    /// Adds the module in a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unusable`] when it cannot be read.
    pub fn add_file(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        self.sources.push(source::read_source(path.as_ref())?);
        Ok(self)
    }

    /// Adds what a directory holds: every `.rego` file but `*_test.rego`, and every `data.json` under the names of the directories
    /// that lead to it (`teams/data.json` is `data.teams`). Entries whose names start with a dot are left out.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when something there cannot be read, there is no module, or there is a `data.yaml`.
    pub fn add_dir(mut self, dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let (sources, data) = source::read_dir(dir.as_ref())?;
        self.sources.extend(sources);
        self.data.extend(data);
        Ok(self)
    }

    /// Adds to the data document: an object, found at `data`. Documents are merged; they may not contradict each other.
    pub fn add_data(mut self, data: &serde_json::Value) -> Self {
        self.data.push(Data { name: "data".to_owned(), mount: Vec::new(), text: data.to_string() });
        self
    }

    /// The rule that decides. Default `data.authz.decision`.
    pub fn with_decision_path(mut self, path: impl Into<String>) -> Self {
        self.decision_path = Cow::Owned(path.into());
        self
    }

    /// Feeds a list of revocations with `data.portcullis.revocations`, when the engine is built: a document as [`RevocationFeed`] says. An
    /// engine that is built later, with newer data, replaces the revocations of an earlier one when it is given a feed of the same name.
    /// Data without that member change nothing; an empty list of entries takes back what there was.
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

    /// How long one evaluation may take; over it there is no decision. Default 10 ms, at most 1 s: it runs where the request runs.
    /// The clock is read between steps, so that one call of a built-in function can exceed it.
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
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

    /// Parses and checks everything.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a module that cannot be parsed or is refused (see [`Rego`]), data that is no JSON object or contradicts
    /// itself, a decision path that names no rule, a time limit outside its bounds, no module at all, a program that cannot survive
    /// a panic of the engine, and revocations that are not well formed or do not fit. It names file, line and remedy.
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
        if self.sources.is_empty() {
            return Err(ConfigError::missing("policy.rego.source", "add at least one module"));
        }
        let entry: Vec<_> = self.decision_path.split('.').collect();
        if entry.first() != Some(&"data") || entry.len() < 3 || entry.iter().any(|step| step.is_empty()) {
            let remedy = format!("write it like `{}`", Rego::DEFAULT_DECISION_PATH);
            return Err(ConfigError::invalid("policy.rego.decision_path", self.decision_path, remedy));
        }
        let data = document(&self.data)?;
        let loaded = Loaded::new(&self.sources, data.clone())?;
        let policies: Vec<ast::Policy> = serde_json::from_str(&loaded.syntax()?).map_err(|error| {
            let remedy = "write it with less nesting: it cannot be checked as it is";
            ConfigError::unusable("policy.rego.source", "policy", remedy, error)
        })?;
        for Finding { place, remedy, kind } in lint::check(&policies, &entry, |path| holds(&data, path)) {
            match kind {
                Kind::Parity if !self.parity => {
                    tracing::warn!(place, remedy, "the policy may allow here what Open Policy Agent denies");
                }
                Kind::EntryPoint => return Err(ConfigError::invalid("policy.rego.decision_path", place, remedy)),
                Kind::Unsound | Kind::Parity => return Err(ConfigError::invalid("policy.rego.source", place, remedy)),
            }
        }
        let revision = source::revision(&self.sources, &self.data);
        let decision_path = self.decision_path.into_owned();
        let spare = loaded.prepare(self.time_limit)?;
        let pool = Pool::new(spare, &self.sources, decision_path.clone(), self.time_limit)?;
        // The last step: an engine that is not built revokes nothing.
        if let Some(feed) = &self.revocations {
            feed_revocations(feed, &data)?;
        }
        Ok(Rego { pool, decision_path, revision })
    }
}

#[async_trait]
impl PolicyBackend for Rego {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        self.decision(&input)
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        Some(self.decision(input))
    }
}

impl fmt::Debug for Rego {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rego")
            .field("decision_path", &self.decision_path)
            .field("revision", &self.revision)
            .field("engines", &self.pool.len())
            .finish_non_exhaustive()
    }
}

/// Puts the data documents where they belong, in one.
fn document(documents: &[Data]) -> Result<regorus::Value, ConfigError> {
    let mut engine = regorus::Engine::new();
    for Data { name, mount, text } in documents {
        let refuse = |error: Box<dyn std::error::Error + Send + Sync>| {
            let remedy = "make it a JSON object that contradicts no other data";
            ConfigError::unusable("policy.rego.data", name, remedy, error)
        };
        let value = regorus::Value::from_json_str(text).map_err(|error| refuse(error.into()))?;
        let value = mount.iter().rev().fold(value, |inner, step| {
            regorus::Value::from(std::collections::BTreeMap::from([(regorus::Value::from(step.as_str()), inner)]))
        });
        engine.add_data(value).map_err(|error| refuse(error.into()))?;
    }
    Ok(engine.get_data())
}

fn feed_revocations(feed: &RevocationFeed, data: &regorus::Value) -> Result<(), ConfigError> {
    let refuse = |error: Box<dyn std::error::Error + Send + Sync>| {
        let remedy = "mend the entry that the cause names, or make room in the list";
        ConfigError::unusable("policy.rego.revocations", REVOCATIONS.join("."), remedy, error)
    };
    let mut value = data;
    for step in REVOCATIONS.iter().skip(1) {
        let object = value.as_object().map_err(|error| refuse(error.into()))?;
        match object.get(&regorus::Value::from(*step)) {
            Some(inner) => value = inner,
            None => return Ok(()),
        }
    }
    let document = value.to_json_str().map_err(|error| refuse(error.into()))?;
    feed.replace(document.as_bytes(), SystemClock.now()).map_err(|error| refuse(error.into()))?;
    Ok(())
}

/// Whether data stands at the path, or in its way.
fn holds(data: &regorus::Value, path: &[&str]) -> bool {
    let mut value = data;
    for step in path {
        match value.as_object().map(|object| object.get(&regorus::Value::from(*step))) {
            Ok(Some(inner)) => value = inner,
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    true
}

const REVOCATIONS: [&str; 3] = ["data", "portcullis", "revocations"];

const MAX_TIME_LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        policy::{Effect, PolicyErrorKind},
        revocation::RevocationList,
        testing::policy_input,
    };

    fn build(text: &str) -> Result<Rego, ConfigError> {
        Rego::from_source("authz.rego", format!("package authz\n{text}"), "data.authz.decision")
    }

    fn refused(text: &str) -> String {
        build(text).unwrap_err().to_string()
    }

    fn ask(rego: &Rego, subject: &str) -> Result<Decision, PolicyErrorKind> {
        let mut input = policy_input("GET", "/jobs");
        input.subject.id = subject.to_owned();
        rego.decide_now(&input).unwrap().map_err(|error| error.kind())
    }

    #[test]
    fn true_allows_false_denies_and_undefined_is_told_apart() {
        let rego = build("decision := input.subject.id == \"alice\" if input.subject.id != \"nobody\"").unwrap();
        assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow);
        let denied = ask(&rego, "bob").unwrap();
        assert_eq!((denied.effect(), denied.is_undefined()), (Effect::Deny, false));
        let undefined = ask(&rego, "nobody").unwrap();
        assert_eq!((undefined.effect(), undefined.is_undefined()), (Effect::Deny, true));
        assert_eq!(undefined.revision(), rego.revision());
    }

    #[test]
    fn an_object_carries_reasons_obligations_and_advice() {
        let rego = build(
            r#"decision := {"allow": true, "reasons": {"b", "a"}, "obligations": [{"id": "mask", "n": 1}], "advice": [{"id": "cache"}]}"#,
        );
        let decision = ask(&rego.unwrap(), "alice").unwrap();
        assert_eq!(decision.reasons(), ["a", "b"]);
        assert_eq!((&*decision.obligations()[0].id, &decision.obligations()[0].properties["n"]), ("mask", &json!(1)));
        assert_eq!(&*decision.advice()[0].id, "cache");
    }

    #[test]
    fn what_is_no_decision_is_an_error() {
        for (policy, kind) in [
            ("decision := \"true\"", PolicyErrorKind::InvalidResult),
            ("decision := {}", PolicyErrorKind::InvalidResult),
            ("decision := to_number(input.subject.id) == 1", PolicyErrorKind::Evaluation),
            ("decision if not n == 1\nn := to_number(input.subject.id)", PolicyErrorKind::Evaluation),
            ("decision := x if some x in [true, false]", PolicyErrorKind::Evaluation),
        ] {
            assert_eq!(ask(&build(policy).unwrap(), "abc").unwrap_err(), kind, "{policy}");
        }
    }

    #[test]
    fn an_evaluation_error_names_the_place_and_quotes_no_input() {
        let rego = build("decision := to_number(input.subject.id) == 1").unwrap();
        let mut input = policy_input("GET", "/jobs");
        input.subject.id = "s3cr3t".to_owned();
        let error = rego.decide_now(&input).unwrap().unwrap_err();
        assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the evaluation failed at authz.rego:2:22");
    }

    #[test]
    fn what_an_error_left_behind_takes_no_part_in_the_next_decision() {
        let policy = "default forbidden := false\n\
            forbidden if { walk(input.resource.properties.query, [_, v]); v == \"drop\" }\n\
            forbidden if { walk(input.resource.properties.query, [_, v]); is_string(v); to_number(v) > 100 }\n\
            decision := {\"allow\": true} if forbidden == false";
        // Not about time: on a busy machine one of so many evaluations can take longer than the default limit.
        let builder = Rego::builder().add_source("authz.rego", format!("package authz\n{policy}"));
        let rego = builder.with_time_limit(MAX_TIME_LIMIT).build().unwrap();
        let ask = |value: &str| {
            let mut input = policy_input("GET", "/jobs");
            input.resource.properties.query.insert("n".to_owned(), vec![value.to_owned()]);
            rego.decide_now(&input).unwrap().map(|decision| decision.effect())
        };
        assert_eq!(ask("7").unwrap(), Effect::Allow);
        // More often than there are engines, so that each of them has met the error.
        for _ in 0..64 {
            assert!(ask("text").is_err());
        }
        for _ in 0..64 {
            assert_eq!(ask("101").unwrap(), Effect::Deny);
        }
    }

    #[test]
    fn an_evaluation_that_takes_too_long_is_no_decision() {
        let slow = "package authz\nbig := numbers.range(1, 2000)\ndecision if count([1 | some a in big; some b in big; a == b]) > 0";
        let rego =
            Rego::builder().add_source("authz.rego", slow).with_time_limit(Duration::from_millis(1)).build().unwrap();
        assert_eq!(ask(&rego, "alice").unwrap_err(), PolicyErrorKind::Timeout);
        // In a function the engine turns the error into a text.
        let slow = "package authz\nf(big) := count([1 | some a in big; some b in big; a == b])\ndecision if f(numbers.range(1, 2000)) > 0";
        let rego =
            Rego::builder().add_source("authz.rego", slow).with_time_limit(Duration::from_millis(1)).build().unwrap();
        assert_eq!(ask(&rego, "alice").unwrap_err(), PolicyErrorKind::Timeout);
    }

    #[test]
    fn a_panic_of_the_engine_costs_one_decision_and_no_more() {
        let text = "package authz\ndecision if strings.count(\"abc\", input.subject.id) >= 0";
        let rego = Rego::builder().add_source("authz.rego", text).dangerous_relax_parity().build().unwrap();
        for _ in 0..3 * rego.pool.len() {
            assert_eq!(ask(&rego, "").unwrap_err(), PolicyErrorKind::Panicked);
            assert_eq!(ask(&rego, "a").unwrap().effect(), Effect::Allow);
        }
    }

    #[test]
    fn more_askers_than_engines_all_get_the_answer_for_their_own_input() {
        let rego = build("decision := {\"allow\": true, \"reasons\": [input.subject.id]}").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..2 * rego.pool.len() + 2 {
                let rego = &rego;
                scope.spawn(move || {
                    for round in 0..50 {
                        let id = format!("{thread}-{round}");
                        assert_eq!(ask(rego, &id).unwrap().reasons(), [id]);
                    }
                });
            }
        });
    }

    #[test]
    fn data_is_merged_and_found_where_its_directory_says() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("authz.rego", "package authz\ndecision := data.teams.north[input.subject.id] == data.wanted");
        write("data.json", r#"{"wanted": 12345678901234567890}"#);
        write("teams/north/data.json", r#"{"alice": 12345678901234567890, "bob": 12345678901234567891}"#);
        let rego = Rego::from_dir(dir.path()).unwrap();
        assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow);
        assert_eq!(ask(&rego, "bob").unwrap().effect(), Effect::Deny);
        let files = Rego::from_files([dir.path().join("authz.rego")]).unwrap();
        assert!(ask(&files, "alice").unwrap().is_undefined());
        assert_ne!(files.revision(), rego.revision());
    }

    #[test]
    fn the_builder_names_field_value_and_remedy() {
        let allow = || Rego::builder().add_source("authz.rego", "package authz\ndecision := true");
        for (what, builder, expected) in [
            ("nothing", Rego::builder(), "`policy.rego.source` is missing"),
            (
                "unknown rule",
                allow().with_decision_path("data.authz.nope"),
                "`policy.rego.decision_path` is \"data.authz.nope\": name a rule of the policy: `data.authz.decision`",
            ),
            ("a package", allow().with_decision_path("data.authz"), "write it like `data.authz.decision`"),
            ("no path", allow().with_decision_path(""), "write it like"),
            ("slashes", allow().with_decision_path("authz/decision"), "write it like"),
            ("empty step", allow().with_decision_path("data.authz..decision"), "write it like"),
            ("no time", allow().with_time_limit(Duration::ZERO), "`policy.rego.time_limit` is \"0ns\""),
            ("too much time", allow().with_time_limit(Duration::from_secs(2)), "at most 1s"),
            ("data", allow().add_data(&json!([1])), "`policy.rego.data` (data) cannot be used"),
            ("data twice", allow().add_data(&json!({"a": 1})).add_data(&json!({"a": 2})), "contradicts no other data"),
            ("data over rule", allow().add_data(&json!({"authz": {"decision": true}})), "is in the data document too"),
            ("data under package", allow().add_data(&json!({"authz": true})), "is in the data document too"),
            ("parse", allow().add_source("b.rego", "package b\n\nx := {"), "`policy.rego.source` (b.rego:3:"),
            ("file", allow().add_source("b.rego", "no policy"), "b.rego:1:"),
        ] {
            let message = builder.build().unwrap_err().to_string();
            assert!(message.contains(expected), "{what}: {message}");
        }
    }

    #[test]
    fn data_feed_the_revocations_or_there_is_no_engine() {
        let list = RevocationList::builder().with_capacity(2).build().unwrap();
        let build = |data: serde_json::Value| {
            let builder = Rego::builder().add_source("authz.rego", "package authz\ndecision := true").add_data(&data);
            builder.with_revocations(list.feed("policy")).build().map(drop).map_err(|error| format!("{error:?}"))
        };
        let of = |subjects: &[&str]| {
            let entry = |name| json!({"issuer": "i", "subject": name, "not_before": 4_000_000_000_u64});
            json!({"portcullis": {"revocations": {"entries": subjects.iter().map(entry).collect::<Vec<_>>()}}})
        };
        build(of(&["a", "b"])).unwrap();
        assert_eq!(list.len(), 2);
        for (data, expected) in [
            (of(&["a", "b", "canary"]), "Full"),
            (of(&[" "]), "index: 0, field: \"subject\""),
            (json!({"portcullis": {"revocations": ["canary"]}}), "no JSON object"),
            (json!({"portcullis": "canary"}), "policy.rego.revocations"),
        ] {
            let error = build(data).unwrap_err();
            assert!(error.contains(expected) && !error.contains("canary"), "{error}");
            assert_eq!(list.len(), 2, "a wrong document changes nothing");
        }
        build(json!({"portcullis": {"other": 1}})).unwrap();
        assert_eq!(list.len(), 2, "no document, no change");
        build(of(&["c"])).unwrap();
        assert_eq!(list.len(), 1, "a newer document replaces the earlier one");
        build(of(&[])).unwrap();
        assert!(list.is_empty());
    }

    #[test]
    fn a_program_that_cannot_survive_a_panic_is_refused_unless_relaxed_by_name() {
        let builder =
            || RegoBuilder { unwinds: false, ..Rego::builder() }.add_source("a", "package authz\ndecision := true");
        assert!(builder().build().unwrap_err().to_string().contains("dangerous_allow_panic_abort"));
        assert!(builder().dangerous_allow_panic_abort().build().is_ok());
    }

    #[test]
    fn recursion_is_refused_with_its_way() {
        for (policy, way) in [
            ("decision if f(1)\nf(x) if f(x - 1)", "data.authz.f → data.authz.f"),
            ("decision if f(1)\nf(x) if g(x)\ng(x) if f(x)", "data.authz.f → data.authz.g → data.authz.f"),
            ("decision if other\nother if decision", "data.authz.decision → data.authz.other → data.authz.decision"),
            ("decision if f(1)\nf(x) if r[x]\nr[x] if { x := 1; f(x) }", "→ data.authz.r →"),
            (
                "decision if data.authz.f(1)\nf(x) if count([y | y := data.authz.f(x)]) > 0",
                "data.authz.f → data.authz.f",
            ),
            ("decision if count(data) > 0", "data.authz.decision → data.authz.decision"),
            ("decision if data.authz[input.subject.id]", "data.authz.decision → data.authz.decision"),
            ("import data.authz as me\ndecision if me.decision", "data.authz.decision → data.authz.decision"),
            (
                "decision if every x in [1] { g(x) }\ng(x) if not h(x)\nh(x) := g(x)",
                "data.authz.g → data.authz.h → data.authz.g",
            ),
            (
                "decision := x if { true } else := y if { y := decision; x := y }",
                "data.authz.decision → data.authz.decision",
            ),
            ("decision := true if input.x with input.x as decision", "data.authz.decision → data.authz.decision"),
            (
                "m.a.b := m.a.c\nm.a.c := m.a\ndecision := true",
                "data.authz.m.a.b → data.authz.m.a.c → data.authz.m.a.b",
            ),
        ] {
            let message = refused(policy);
            assert!(message.contains("break the recursion") && message.contains(way), "{policy}: {message}");
        }
    }

    #[test]
    fn what_looks_like_recursion_but_is_none_is_taken() {
        for policy in [
            "decision := x if { decision := true; x := decision }",
            "decision if f(1)\nf(decision) if decision == 1",
            "decision if every decision in [true] { decision }",
            "decision if a.b\na.b if a.c\na.c := true",
            "decision if input.decision\nx if decision",
        ] {
            assert!(build(policy).is_ok(), "{policy}: {}", refused(policy));
        }
    }

    #[test]
    fn a_function_that_does_not_exist_is_refused_where_it_is_called() {
        for (policy, name) in [
            ("decision if io.jwt.decode(\"x\")", "`io.jwt.decode`"),
            ("decision if nope(1)", "`nope`"),
            ("decision := true\nunused if data.other.f(1)", "`data.other.f`"),
            ("import data.other\ndecision if other.f(1)", "`data.other.f`"),
            ("decision if http.send({\"url\": \"https://x\"})", "`http.send`"),
            ("decision := [f | f := opa.runtime()]", "`opa.runtime`"),
        ] {
            let message = refused(policy);
            assert!(message.contains(name) && message.contains("authz.rego:"), "{policy}: {message}");
        }
    }

    #[test]
    fn the_functions_that_are_taken_are_those_of_the_engine() {
        let known = |name: &&&str| regorus::unstable::BUILTINS.contains_key(**name) || **name == "print";
        assert_eq!(walk::BUILTINS.iter().filter(|name| !known(name)).collect::<Vec<_>>(), [&""; 0]);
    }

    #[test]
    fn negations_that_open_policy_agent_reads_otherwise_are_refused_unless_relaxed_by_name() {
        let rules = include_str!("negations.rego").strip_prefix("package authz\n").unwrap();
        let cases = include_str!("negations.txt").lines().filter(|line| !line.starts_with('#'));
        for (meaning, body) in cases.map(|line| line.split_once(' ').unwrap()) {
            let text = format!("{rules}decision if {}", body.trim());
            if meaning == "agree" {
                assert!(build(&text).is_ok(), "{body}: {}", refused(&text));
                continue;
            }
            assert!(refused(&text).contains("here `not` is true"), "{body}");
            let relaxed = Rego::builder().add_source("a", format!("package authz\n{text}")).dangerous_relax_parity();
            assert!(relaxed.build().is_ok(), "{body}");
            let imported = format!("import future.keywords.not\n{text}");
            assert!(build(&imported).is_ok(), "{body}: {}", refused(&imported));
        }
    }

    #[test]
    fn a_variable_that_only_a_negation_knows_is_refused_as_open_policy_agent_does() {
        for (policy, name) in [
            ("decision if { some x; not startswith(x, \"a\") }", "`x`"),
            ("decision if { some x; not x }", "`x`"),
            ("decision if { some x; count([1 | not x == 1]) == 1 }", "`x`"),
            ("decision if { some x; every y in [1] { not x == y } }", "`x`"),
            ("decision if not input.xs[_] == 1", "`_`"),
            ("decision if not input.xs[i] == 1", "`i`"),
            ("decision if { not input.xs[i] == 1; not input.ys[i] == 1 }", "`i`"),
        ] {
            for text in [policy.to_owned(), format!("import future.keywords.not\n{policy}")] {
                let message = refused(&text);
                assert!(message.contains(&format!("{name} has no value")), "{text}: {message}");
            }
        }
        for policy in [
            "decision if { some x; input.xs[x]; not x == 1 }",
            "decision if { some x in input.xs; not x == 1 }",
            "decision if { some k, _ in input.xs; not k == 1 }",
            "decision if { x = 1; not x == 2 }",
            "decision if { [x, _] = input.xs; not x == 2 }",
            "decision if { input.xs[i] == 1; not input.ys[i] == 1 }",
            "decision if every i, x in input.xs { not x == i }",
            "f(x, [y]) if { not x == y }\ndecision if f(1, [2])",
            "decision if { x := 1; count([y | some y in [1]; not y == x]) == 0 }",
            "decision if not count([y | some y in input.xs]) == 1",
        ] {
            assert!(build(policy).is_ok(), "{policy}: {}", refused(policy));
        }
    }

    #[test]
    fn other_known_differences_are_refused_too() {
        for (policy, expected) in [
            ("decision if strings.count(\"a\", \"a\") == 1", "`strings.count`"),
            ("decision if urlquery.decode(input.subject.id) == \"%zz\"", "`urlquery.decode`"),
            ("decision if { v := input.subject.id; not semver.is_valid(v) }", "`semver.is_valid`"),
            ("decision if time.parse_ns(\"2006-01-02\", input.subject.id) > 0", "`time.parse_ns`"),
            ("decision if glob.match(\"user:*\", [\":\"], input.subject.id)", "knows these delimiters"),
            ("decision if glob.match(\"a*\", [\"/\", \".\"], input.subject.id)", "knows these delimiters"),
            ("d := [\":\"]\ndecision if glob.match(\"a*\", d, input.subject.id)", "knows these delimiters"),
            ("decision if glob.match(\"[^a]b\", [], input.subject.id)", "`?` and `[`"),
            ("decision if regex.match(`^\\w+$`, input.subject.id)", "write `[0-9A-Za-z_]`"),
            ("decision if regex.match(\"^\\\\w+$\", input.subject.id)", "write `[0-9A-Za-z_]`"),
            ("decision if regex.match(data.pattern, input.subject.id)", "has to be a literal"),
            ("decision if regex.replace(input.subject.id, `\\d`, \"\") == \"\"", "write `[0-9]`"),
            ("decision if sprintf(\"%8s\", [input.subject.id]) == \"a\"", "`sprintf`"),
            ("decision if sprintf(input.subject.id, [1]) == \"a\"", "`sprintf`"),
            ("decision if count(\"a\") == 2 with count as 2", "`with` replaces a function"),
            ("f(_) := 1\ng(_) := 2\ndecision if f(1) == 2 with f as g", "`with` replaces a function"),
            ("decision if x with input.y as input.z\nx := input.y", "the value after `as`"),
        ] {
            assert!(refused(policy).contains(expected), "{policy}: {}", refused(policy));
        }
        for same in [
            "decision if glob.match(data.patterns[_], [\"/\"], input.subject.id)",
            "decision if glob.match(\"*.example\", [], input.subject.id)",
            "decision if regex.match(`^[0-9]+$`, input.subject.id)",
            "decision if sprintf(\"%s:%d\", [input.subject.id, 1]) == \"a:1\"",
        ] {
            assert!(build(same).is_ok(), "{same}: {}", refused(same));
        }
        assert!(build("decision if x with input.y as 1\nx := input.y").is_ok());
        assert!(build("decision if x with data.y as {\"z\": 1}\nx := data.y.z").is_ok());
    }
}
