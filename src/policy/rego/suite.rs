//! Tests of policies, written in Rego: rules called `test_…`, as `opa test` runs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    PolicySet,
    ast::{Expr, Head, Policy, Rule},
    engine::Pool,
    examine::{Examined, Fault, FaultKind, examine, on_a_stack},
    explain::{conditions_of, failed_condition, names_of},
    lint::Index,
};
use crate::policy::{ExplainedDefinition, FailedCondition};

/// The tests of a policy, and the engine that runs them.
pub(crate) struct Suite {
    pool: Pool,
    policies: Vec<Policy>,
    cases: Vec<Case>,
}

/// One test.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// `data.authz_test`.
    pub(crate) package: String,
    /// `test_…`; the second definition under one name is `test_…#01`.
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) line: u32,
    /// `todo_test_…`.
    pub(crate) skipped: bool,
    path: String,
    form: Form,
}

/// How a test is written, and so how it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// The one definition of its name.
    Whole,
    /// One of several under one name, each of which is a test. The engine knows them as one rule.
    OneOfSeveral,
    /// `test_…[name]`: a test for each value of that variable.
    Cases(String),
    /// Nothing that can be run, for a reason.
    No(&'static str),
}

/// How a test came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    Error,
    Skip,
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// Why it did not pass, where it is known.
    pub(crate) detail: Option<String>,
    pub(crate) failed: Option<FailedCondition>,
    pub(crate) took: Duration,
}

enum Loading {
    Loaded(Box<Suite>),
    Refused(Vec<Fault>),
}

impl From<Vec<Fault>> for Loading {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Refused(faults)
    }
}

impl Suite {
    /// Loads policies and tests together. What only says that a decision differs elsewhere is no reason to leave tests out.
    pub(crate) fn load(set: &PolicySet) -> Result<Self, Vec<Fault>> {
        let loading = on_a_stack(|| {
            let Examined { mut faults, policies, pool } = examine(set, "data");
            faults.retain(|fault| matches!(fault.kind, FaultKind::Unreadable | FaultKind::Unsound));
            match pool {
                Some(pool) if faults.is_empty() => {
                    let cases = cases(&policies);
                    Loading::Loaded(Box::new(Self { pool, policies, cases }))
                }
                _ => Loading::Refused(faults),
            }
        });
        match loading {
            Loading::Loaded(suite) => Ok(*suite),
            Loading::Refused(faults) => Err(faults),
        }
    }

    pub(crate) fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Runs one test. It passes when the rule is true; of the form `test_…[name]` when it is for every name.
    pub(crate) fn run(&self, case: &Case) -> Outcome {
        let started = Instant::now();
        if case.skipped {
            return Outcome { verdict: Verdict::Skip, detail: None, failed: None, took: Duration::ZERO };
        }
        let mut outcome = match &case.form {
            Form::Whole => self.run_whole(case, None, started),
            Form::OneOfSeveral => self.run_one_of_several(case),
            Form::Cases(variable) => {
                let steps: Vec<_> = case.path.split('.').collect();
                match names_of(&self.pool, &self.policies, &steps, variable) {
                    Some(names) => self.run_whole(case, Some(&names), started),
                    None => Outcome::error("the names of its cases cannot be found out: bind the variable first"),
                }
            }
            Form::No(why) => Outcome::error(why),
        };
        outcome.took = started.elapsed();
        if outcome.verdict != Verdict::Pass && outcome.failed.is_none() {
            let steps: Vec<_> = case.path.split('.').collect();
            outcome.failed = failed_condition(&self.pool, &self.policies, &steps);
        }
        outcome
    }

    fn run_whole(&self, case: &Case, names: Option<&BTreeSet<String>>, started: Instant) -> Outcome {
        let value = match self.pool.evaluate(Some(&case.path), "", started, LIMIT) {
            Ok(value) => value,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                return Outcome::error(&format!("{error}{cause}"));
            }
        };
        let of = |verdict, detail| Outcome { verdict, detail, failed: None, took: Duration::ZERO };
        match (value, names) {
            (Some(Value::Bool(true)), None) => of(Verdict::Pass, None),
            (Some(Value::Object(members)), Some(names)) => {
                let failed: Vec<_> = names
                    .iter()
                    .filter(|name| members.get(*name) != Some(&Value::Bool(true)))
                    .map(String::as_str)
                    .collect();
                match failed.as_slice() {
                    [] if names.is_empty() => of(Verdict::Fail, Some("it has no case".to_owned())),
                    [] => of(Verdict::Pass, None),
                    names => of(Verdict::Fail, Some(format!("not true for {}", names.join(", ")))),
                }
            }
            (None, Some(_)) => of(Verdict::Fail, Some("it has no case".to_owned())),
            (Some(value), _) => of(Verdict::Fail, Some(format!("its value is {value}, not true"))),
            (None, None) => of(Verdict::Fail, None),
        }
    }

    fn run_one_of_several(&self, case: &Case) -> Outcome {
        let steps: Vec<_> = case.path.split('.').collect();
        let definitions = conditions_of(&self.pool, &self.policies, &steps);
        let here = |definition: &ExplainedDefinition| definition.file == case.file && definition.line == case.line;
        let Some(ExplainedDefinition { holds: Some(holds), failed, .. }) = definitions.into_iter().find(here) else {
            return Outcome::error("several tests have this name, and it cannot be run apart from them: rename it");
        };
        let verdict = match &failed {
            Some(failed) if failed.error => Verdict::Error,
            _ if holds => Verdict::Pass,
            _ => Verdict::Fail,
        };
        Outcome { verdict, detail: None, failed, took: Duration::ZERO }
    }
}

impl Outcome {
    fn error(detail: &str) -> Self {
        Self { verdict: Verdict::Error, detail: Some(detail.to_owned()), failed: None, took: Duration::ZERO }
    }
}

fn cases(policies: &[Policy]) -> Vec<Case> {
    let index = Index::of(policies);
    let mut cases = Vec::new();
    for module in &index.modules {
        for rule in module.rules {
            let Rule::Spec { span, head, bodies } = rule else { continue };
            let path = module.path_of(rule).0;
            let Some(name) = path.get(module.package.len()) else { continue };
            let skipped = name.starts_with("todo_test_");
            if !(skipped || name.starts_with("test_")) {
                continue;
            }
            let form = match head {
                Head::Func { .. } => Form::No("a function is no test: make it a rule, without arguments"),
                Head::Compr { refr: Expr::RefBrack { index, .. }, .. } if index.string().is_none() => match &**index {
                    Expr::Var { value } => Form::Cases(value.clone()),
                    _ => Form::No("the name of its cases has to be a variable"),
                },
                Head::Compr { assign: None, .. } if bodies.len() <= 1 => Form::OneOfSeveral,
                _ => Form::Whole,
            };
            cases.push(Case {
                package: module.package.join("."),
                name: (*name).to_owned(),
                file: module.source.file.clone(),
                line: span.line,
                skipped,
                path: path.join("."),
                form,
            });
        }
    }
    cases.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    tell_apart(&mut cases);
    cases
}

/// Definitions of one name are a test each, but for those that make one object together.
fn tell_apart(cases: &mut Vec<Case>) {
    let mut counts = BTreeMap::<String, usize>::new();
    for case in cases.iter() {
        *counts.entry(case.path.clone()).or_default() += 1;
    }
    let mut seen = BTreeMap::<String, usize>::new();
    cases.retain_mut(|case| {
        let several = counts.get(&case.path).is_some_and(|count| *count > 1);
        let number = seen.entry(case.path.clone()).or_default();
        let kept = *number == 0 || !matches!(case.form, Form::Cases(_));
        case.form = match &case.form {
            Form::OneOfSeveral if !several => Form::Whole,
            Form::Whole if several => {
                Form::No("several tests have this name: rename those that have a value or an `else`")
            }
            other => other.clone(),
        };
        if *number > 0 {
            case.name = format!("{}#{number:02}", case.name);
        }
        *number += 1;
        kept
    });
}

const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Vec<(String, Verdict)> {
        let set = PolicySet::new().add_source("a_test.rego", format!("package a_test\n\n{text}"));
        let suite = Suite::load(&set).unwrap_or_else(|faults| panic!("{faults:?}"));
        suite.cases().iter().map(|case| (case.name.clone(), suite.run(case).verdict)).collect()
    }

    #[test]
    fn nothing_but_true_passes() {
        for (value, verdict) in [
            ("true", Verdict::Pass),
            ("false", Verdict::Fail),
            ("null", Verdict::Fail),
            ("3", Verdict::Fail),
            ("{}", Verdict::Fail),
            ("{\"a\": true}", Verdict::Fail),
            ("[true]", Verdict::Fail),
            ("data.absent", Verdict::Fail),
            ("to_number(\"x\")", Verdict::Error),
        ] {
            assert_eq!(run(&format!("test_it := {value}")), [("test_it".to_owned(), verdict)], "{value}");
        }
    }

    #[test]
    fn a_test_that_fails_is_not_hidden_by_another_of_its_name() {
        let verdicts =
            |text: &str| run(text).into_iter().map(|(name, verdict)| format!("{name} {verdict:?}")).collect::<Vec<_>>();
        assert_eq!(verdicts("test_it if true\n\ntest_it if false"), ["test_it Pass", "test_it#01 Fail"]);
        // Their values contradict each other, and neither is true.
        assert_eq!(verdicts("test_it := 1 if true\n\ntest_it := 2 if true"), ["test_it Error", "test_it#01 Error"]);
        let cases = "test_it[name] if {\n\tsome name in [\"a\", \"b\"]\n\tname == \"a\"\n}";
        assert_eq!(verdicts(cases), ["test_it Fail"]);
        assert_eq!(verdicts(&cases.replace("== \"a\"", "!= \"c\"")), ["test_it Pass"]);
        assert_eq!(verdicts("test_it[name] if {\n\tsome name in []\n}"), ["test_it Fail"]);
        assert_eq!(
            verdicts("test_it(x) if x\n\ntodo_test_it if false\n\nother if false"),
            ["test_it Error", "todo_test_it Skip"]
        );
    }

    #[test]
    fn a_suite_that_would_end_the_process_is_refused() {
        let set = PolicySet::new().add_source("a_test.rego", "package a\n\ntest_it if test_it\n");
        let faults = Suite::load(&set).err().unwrap();
        assert!(faults.iter().any(|fault| fault.kind == FaultKind::Unsound && fault.line == Some(3)), "{faults:?}");
    }
}
