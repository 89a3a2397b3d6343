//! One corpus of policies, decided by each engine: `corpus/<package>/`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use portcullis::{
    ConfigError,
    policy::{ActorInput, Decision, Effect, InputFormat, Opa, PolicyBackend, PolicyError, PolicyInput, Rego},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    equality::{essence, in_one_spelling, questions},
    inputs::Inputs,
    server::Server,
    wasm,
};
use crate::root;

/// What the embedded engine takes, Open Policy Agent decides the same way; what would be decided otherwise is refused, or in the guide.
pub(super) async fn every_engine_decides_what_opa_decides(opa: PathBuf) {
    let server = Server::start(&opa).with_bundle(&corpus()).ready().await;
    let actor =
        questions().await.into_iter().find_map(|input| input.subject.properties.actor.first().cloned()).unwrap();
    let (mut decisions, mut faults, mut in_parity) = (0, Vec::new(), 0);
    let policies = policies();
    for policy in &policies {
        let outcome = policy.compare(&opa, &server, &actor).await;
        decisions += outcome.decisions;
        in_parity += usize::from(policy.about.refused.is_none());
        println!(
            "{:24} {:5} {:3} %  {}  {}",
            policy.name,
            outcome.decisions,
            outcome.allowed,
            match &policy.about.refused {
                Some(why) => format!("refused: {why}"),
                None => "parity".to_owned(),
            },
            outcome.disagreements.join(", ")
        );
        faults.extend(outcome.faults.into_iter().map(|fault| format!("{}: {fault}", policy.name)));
    }
    let unsafe_differences = faults.iter().filter(|fault| fault.contains(UNSAFE)).count();
    println!("{decisions} decisions, {} policies, {unsafe_differences} unsafe differences", policies.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(policies.len() >= 40 && in_parity >= 36, "{in_parity} of {} policies load in parity mode", policies.len());
}

pub(super) async fn the_corpus_is_what_opa_takes_for_well_written(opa: PathBuf) {
    for arguments in [&["check", "--strict", "--bundle"][..], &["fmt", "--fail", "--diff"]] {
        let done = Command::new(&opa).args(arguments).arg(corpus()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{arguments:?}: {out}{err}");
    }
}

struct Policy {
    /// The directory, the package, and the name of its data.
    name: String,
    about: About,
    modules: Vec<PathBuf>,
    data: Value,
}

/// `inputs.json`.
#[derive(Deserialize)]
struct About {
    #[serde(flatten)]
    inputs: Inputs,
    #[serde(default)]
    envoy: bool,
    /// What is said when the embedded engine refuses the policy.
    refused: Option<String>,
    /// Why decisions may differ although the policy is taken: words of the guide.
    #[serde(default)]
    differs: Vec<String>,
}

struct Outcome {
    decisions: usize,
    /// In percent.
    allowed: usize,
    /// For each other engine, with its name.
    disagreements: Vec<String>,
    faults: Vec<String>,
}

/// Who answers beside Open Policy Agent over REST.
struct Other {
    name: &'static str,
    backend: Arc<dyn PolicyBackend>,
    /// Whether it may never allow what Open Policy Agent does not.
    parity: bool,
    /// Whether it is said to decide otherwise.
    differs: bool,
    /// Whether it may decide as the server does by default.
    is_lenient: bool,
}

impl Policy {
    fn read(directory: &Path) -> Self {
        let json = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        let about =
            serde_json::from_str(&json("inputs.json").expect(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let data = json("data.json").map_or(json!({}), |text| serde_json::from_str(&text).expect(&name));
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let modules = files.filter(|path| path.extension().is_some_and(|kind| kind == "rego")).collect();
        Self { name, about, modules, data }
    }

    async fn compare(&self, opa: &Path, server: &Server, actor: &ActorInput) -> Outcome {
        let questions = self.about.inputs.questions(&self.name, QUESTIONS, actor);
        let program = opa;
        let opa = self.ask(self.opa(server), &questions).await;
        let mut outcome =
            Outcome { decisions: questions.len(), allowed: 0, disagreements: Vec::new(), faults: Vec::new() };
        outcome.allowed = opa.iter().filter(|answer| allows(answer)).count() * 100 / opa.len();
        if questions.len() < QUESTIONS {
            outcome.faults.push(format!("only {} different questions", questions.len()));
        }
        if !(20..=80).contains(&outcome.allowed) {
            outcome.faults.push(format!("{} % allowed", outcome.allowed));
        }
        for other in self.others(program, &mut outcome.faults) {
            let answers = self.ask(other.backend, &questions).await;
            let (mut unlike, mut like_lenient) = (0, 0);
            // Modules have the server's default about errors of built-in functions, which `policy::Opa` switches off.
            let is_unlike = |((theirs, ours), _): &((&Answer, &Answer), &PolicyInput)| essence(theirs) != essence(ours);
            let asked: Vec<_> = opa.iter().zip(&answers).zip(&questions).filter(is_unlike).collect();
            let again: Vec<_> = asked.iter().map(|(_, question)| (*question).clone()).collect();
            let lenient = if other.is_lenient { self.ask(self.lenient(server), &again).await } else { Vec::new() };
            for (number, ((theirs, ours), question)) in asked.into_iter().enumerate() {
                if lenient.get(number).is_some_and(|theirs| essence(theirs) == essence(ours)) {
                    like_lenient += 1;
                    continue;
                }
                unlike += 1;
                let is_unsafe = allows(ours) && !(allows(theirs) && obligations(theirs) == obligations(ours));
                if other.parity && (is_unsafe || !other.differs) {
                    let (kind, name) = (if is_unsafe { UNSAFE } else { "difference" }, other.name);
                    let question = serde_json::to_string(question).unwrap();
                    outcome.faults.push(format!(
                        "{kind}: opa {:?}, {name} {:?}: {question}",
                        essence(theirs),
                        essence(ours)
                    ));
                }
            }
            if unlike == 0 && other.differs {
                outcome.faults.push(format!("{} decides as opa does, which it is said not to", other.name));
            }
            let lenient = if like_lenient > 0 { format!(" and {like_lenient} lenient") } else { String::new() };
            outcome.disagreements.push(format!("{}: {unlike}{lenient}", other.name));
        }
        let unsaid = self.about.differs.iter().filter(|why| !GUIDE.contains(why.as_str()));
        outcome.faults.extend(unsaid.map(|why| format!("the guide does not say `{why}`")));
        outcome
    }

    /// The engines that are compared. A further one joins here.
    fn others(&self, opa: &Path, faults: &mut Vec<String>) -> Vec<Other> {
        let mut others: Vec<_> = self.wasm(opa, faults).into_iter().collect();
        let differs = !self.about.differs.is_empty();
        match (self.rego(false), &self.about.refused) {
            (Ok(backend), None) => others.push(Other {
                name: "rego",
                backend: Arc::new(backend),
                parity: true,
                differs,
                is_lenient: false,
            }),
            (Ok(_), Some(_)) => faults.push("rego takes it".to_owned()),
            (Err(error), None) => faults.push(format!("rego refuses it: {error}")),
            (Err(error), Some(why)) => {
                if !error.to_string().contains(why) {
                    faults.push(format!("rego refuses it, but not for `{why}`: {error}"));
                }
                // What cannot be used at all cannot be compared either.
                if let Ok(backend) = self.rego(true) {
                    others.push(Other {
                        name: "relaxed rego",
                        backend: Arc::new(backend),
                        parity: false,
                        differs: true,
                        is_lenient: false,
                    });
                }
            }
        }
        others
    }

    fn wasm(&self, opa: &Path, faults: &mut Vec<String>) -> Option<Other> {
        let listed =
            |list: &[(&str, &'static str)]| list.iter().find(|(name, _)| *name == self.name).map(|(_, why)| *why);
        let contents = wasm::compiled(opa, &corpus().join(&self.name), &self.name);
        match (wasm::load(contents, &self.name, self.format()), listed(&wasm::REFUSED)) {
            (Ok(backend), None) => {
                let differs = listed(&wasm::DIFFERS).is_some();
                return Some(Other {
                    name: "wasm",
                    backend: Arc::new(backend),
                    parity: true,
                    differs,
                    is_lenient: true,
                });
            }
            (Ok(_), Some(_)) => faults.push("wasm takes it".to_owned()),
            (Err(error), None) => faults.push(format!("wasm refuses it: {error}")),
            (Err(error), Some(why)) if !error.to_string().contains(why) => {
                faults.push(format!("wasm refuses it, but not for `{why}`: {error}"));
            }
            (Err(_), Some(_)) => {}
        }
        None
    }

    fn format(&self) -> InputFormat {
        if self.about.envoy { InputFormat::Envoy } else { InputFormat::AuthZen }
    }

    fn opa(&self, server: &Server) -> Arc<dyn PolicyBackend> {
        let path = format!("{}/decision", self.name);
        let opa = Opa::builder(server.url()).with_deadline(Duration::from_secs(10)).with_decision_path(path);
        Arc::new(opa.with_input_format(self.format()).build().unwrap())
    }

    fn lenient(&self, server: &Server) -> Arc<dyn PolicyBackend> {
        let url = format!("{}/v1/data/{}/decision", server.url(), self.name);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Arc::new(wasm::Lenient { url, format: self.format(), client })
    }

    fn rego(&self, relaxed: bool) -> Result<Rego, ConfigError> {
        let builder =
            self.modules.iter().try_fold(Rego::builder(), |builder, module| builder.add_file(module)).unwrap();
        let builder = builder
            .add_data(&json!({ &*self.name: self.data }))
            .with_decision_path(format!("data.{}.decision", self.name))
            .with_input_format(self.format())
            // The default is for optimised builds.
            .with_time_limit(Duration::from_secs(1));
        if relaxed { builder.dangerous_relax_parity() } else { builder }.build()
    }

    async fn ask(&self, backend: Arc<dyn PolicyBackend>, questions: &[PolicyInput]) -> Vec<Answer> {
        let mut tasks = tokio::task::JoinSet::new();
        for first in 0..AT_ONCE {
            let share: Vec<_> = questions.iter().cloned().enumerate().skip(first).step_by(AT_ONCE).collect();
            let backend = Arc::clone(&backend);
            tasks.spawn(async move {
                let mut answers = Vec::new();
                for (number, question) in share {
                    answers.push((number, Arc::clone(&backend).decide(question).await));
                }
                answers
            });
        }
        tasks.join_all().await.into_iter().flatten().collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

type Answer = Result<Decision, PolicyError>;

fn allows(answer: &Answer) -> bool {
    answer.as_ref().is_ok_and(|decision| decision.effect() == Effect::Allow)
}

fn obligations(answer: &Answer) -> Option<Value> {
    let spelled = |decision: &Decision| in_one_spelling(decision.obligations());
    let mut obligations = answer.as_ref().ok().map(spelled)?;
    // All of them have to be fulfilled, in no order that anybody promises.
    obligations.as_array_mut().unwrap().sort_by_key(Value::to_string);
    Some(obligations)
}

fn policies() -> Vec<Policy> {
    let mut directories: Vec<_> = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    directories.iter().map(|directory| Policy::read(directory)).collect()
}

fn corpus() -> PathBuf {
    root().join("tests/peers/opa/corpus")
}

const GUIDE: &str = include_str!("../../../src/guide/design.md");
const QUESTIONS: usize = 220;
const AT_ONCE: usize = 8;
const UNSAFE: &str = "unsafe difference";
