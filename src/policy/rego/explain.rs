//! Why a policy decides as it does: every rule by itself, and the conditions of each.
//!
//! A condition is found out by asking for those before it as well: rules of our own are added to a copy of the engine, one for each
//! leading part of a body. That copy decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    ast::{Body, Head, Policy, Query, Rule, Source},
    engine::{Loaded, Pool, syntax},
    generation::{Generation, STACK_BYTES},
    lint::{self, Index, Module, Path},
    walk::Walk,
};
use crate::policy::{
    Decision, Effect, ExplainedDefinition, ExplainedError, ExplainedRule, FailedCondition, PolicyError,
    PolicyExplanation, ReadPart, Reads, Recorded, reads::Members,
};

impl Generation {
    /// What this policy says of a question, and why. `entry` is the rule that decides.
    pub(super) fn explain(&self, recorded: &Recorded, entry: &str) -> PolicyExplanation {
        // For its stack, as a policy is loaded: more is evaluated here than for a decision.
        let explained = thread::scope(|scope| {
            let builder = thread::Builder::new().name("rego-explain".to_owned()).stack_size(STACK_BYTES);
            let explaining = builder.spawn_scoped(scope, || self.explain_here(recorded, entry));
            explaining.ok().and_then(|explaining| explaining.join().ok())
        });
        explained.unwrap_or_else(|| self.unexplained(entry, &PolicyError::panicked()))
    }

    fn explain_here(&self, recorded: &Recorded, entry: &str) -> PolicyExplanation {
        let input = recorded.input();
        let text = input.to_string();
        let asked = Asked { input: &text, until: Instant::now() + ALL_LIMIT };
        let outcome = asked.value(&self.pool, entry);
        let decision = outcome.as_ref().map_err(explained_error).and_then(|result| match result {
            Some(result) => {
                Decision::from_result(result, self.revision.clone()).map_err(|error| explained_error(&error))
            }
            None => Ok(Decision::undefined(self.revision.clone())),
        });
        let mut explanation = match &decision {
            Ok(decision) => PolicyExplanation {
                effect: decision.effect(),
                undefined: decision.is_undefined(),
                reasons: decision.reasons().to_vec(),
                obligations: decision.obligations().to_vec(),
                advice: decision.advice().to_vec(),
                recorded: recorded.outcome(decision),
                ..self.nothing(entry)
            },
            Err(error) => PolicyExplanation { error: Some(error.clone()), ..self.nothing(entry) },
        };
        explanation.result = outcome.ok().flatten();
        // Where this fails the decision stands all the same.
        if let Some(policies) = self.syntax() {
            let steps: Vec<_> = entry.split('.').collect();
            let reads = lint::check(&policies, &steps, |_| false).reads;
            explanation.reads_more_than_the_input = reads.members().is_none();
            explanation.reads = parts(&reads, input);
            explanation.rules = self.rules(&policies, &steps, &asked);
        }
        explanation
    }

    fn unexplained(&self, entry: &str, error: &PolicyError) -> PolicyExplanation {
        PolicyExplanation { error: Some(explained_error(error)), ..self.nothing(entry) }
    }

    fn nothing(&self, entry: &str) -> PolicyExplanation {
        PolicyExplanation {
            decision_path: entry.to_owned(),
            revision: self.revision.clone(),
            effect: Effect::Deny,
            undefined: false,
            error: None,
            result: None,
            reasons: Vec::new(),
            obligations: Vec::new(),
            advice: Vec::new(),
            reads: Vec::new(),
            reads_more_than_the_input: false,
            rules: Vec::new(),
            recorded: None,
        }
    }

    fn syntax(&self) -> Option<Vec<Policy>> {
        serde_json::from_str(&syntax(&self.pool.copy()).ok()?).ok()
    }

    fn rules(&self, policies: &[Policy], entry: &[&str], asked: &Asked<'_>) -> Vec<ExplainedRule> {
        let index = Index::of(policies);
        let order = order(&index, entry);
        let definitions = definitions(&index, |path| order.iter().any(|(listed, _)| listed == path));
        let found = Conditions::of(&self.pool, &definitions, asked);
        let explain = |(path, depth): (Path<'_>, Option<usize>)| {
            let node = index.nodes.get(&path);
            let function = node.is_some_and(|node| node.function);
            let name = path.join(".");
            let outcome = if function { Ok(None) } else { asked.value(&self.pool, &name) };
            ExplainedRule {
                path: name,
                error: outcome.as_ref().err().map(|error| explained_error(error).detail),
                value: outcome.ok().flatten(),
                function,
                decides: depth.is_some(),
                depth: depth.unwrap_or_default(),
                definitions: definitions
                    .iter()
                    .enumerate()
                    .filter(|(_, definition)| definition.path == path)
                    .map(|(number, definition)| definition.explained(found.get(&number)))
                    .collect(),
            }
        };
        order.into_iter().map(explain).collect()
    }
}

/// The definitions of a rule, asked for without an input: where a test of a policy fails.
#[cfg(feature = "cli")]
pub(super) fn conditions_of(pool: &Pool, policies: &[Policy], rule: &[&str]) -> Vec<ExplainedDefinition> {
    let index = Index::of(policies);
    let definitions = definitions(&index, |path| path.as_slice() == rule);
    let asked = Asked { input: "", until: Instant::now() + ALL_LIMIT };
    let found = Conditions::of(pool, &definitions, &asked);
    definitions.iter().enumerate().map(|(number, definition)| definition.explained(found.get(&number))).collect()
}

/// The first condition that fails, in the order of the definitions.
#[cfg(feature = "cli")]
pub(super) fn failed_condition(pool: &Pool, policies: &[Policy], rule: &[&str]) -> Option<FailedCondition> {
    conditions_of(pool, policies, rule).into_iter().find_map(|definition| definition.failed)
}

/// The values of a variable in the bodies of a rule, once the first conditions have given it some: those for which the rest of the
/// body fails are among them. `None` where that cannot be found out.
#[cfg(feature = "cli")]
pub(super) fn names_of(pool: &Pool, policies: &[Policy], rule: &[&str], variable: &str) -> Option<BTreeSet<String>> {
    const PROBE: &str = "portcullis_names";
    let index = Index::of(policies);
    let asked = Asked { input: "", until: Instant::now() + ALL_LIMIT };
    let mut names = BTreeSet::new();
    for Definition { module, body, .. } in definitions(&index, |path| path.as_slice() == rule) {
        let stmts = &body?.query.stmts;
        let bound = stmts.iter().find_map(|last| {
            let conditions = module.source.between(stmts.first()?.span, last.span);
            let text = format!("{}{PROBE} contains {variable} if {{\n{conditions}\n}}\n", preamble(module));
            let mut engine = pool.copy();
            engine.add_policy(PROBE.to_owned(), text).ok()?;
            // A variable that has no value yet is refused here.
            Loaded::extended(engine).prepare().ok().map(Pool::of_one)
        })?;
        let found = asked.value(&bound, &format!("{}.{PROBE}", module.package.join("."))).ok()??;
        names
            .extend(found.as_array()?.iter().map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned)));
    }
    Some(names)
}

/// A question, and for how long it may be asked of ever more rules.
struct Asked<'a> {
    input: &'a str,
    until: Instant,
}

impl Asked<'_> {
    fn value(&self, pool: &Pool, rule: &str) -> Result<Option<Value>, PolicyError> {
        let left = self.until.saturating_duration_since(Instant::now());
        pool.evaluate(Some(rule), self.input, Instant::now(), left.min(ONE_LIMIT))
    }
}

/// The head of a rule and one of its bodies.
struct Definition<'a> {
    path: Path<'a>,
    module: &'a Module<'a>,
    rule: &'a Rule,
    body: Option<&'a Body>,
}

impl<'a> Definition<'a> {
    /// Its conditions, where they can be asked for without the arguments of a call.
    fn query(&self) -> Option<&'a Query> {
        match self.rule {
            Rule::Spec { head: Head::Func { .. }, .. } | Rule::Default { .. } => None,
            Rule::Spec { .. } => self.body.map(|body| &body.query),
        }
    }

    fn explained(&self, found: Option<&Found>) -> ExplainedDefinition {
        let (Rule::Spec { span, .. } | Rule::Default { span, .. }) = self.rule;
        // An `else` has a line of its own.
        let span = self.body.filter(|body| !first_body(self.rule, body)).map_or(*span, |body| body.span);
        let source = self.module.source;
        let is_function = matches!(self.rule, Rule::Spec { head: Head::Func { .. }, .. });
        let has_conditions = self.query().is_some_and(|query| !query.stmts.is_empty());
        let failed = found.and_then(|found| {
            let (number, error) = found.failed?;
            let statement = self.query()?.stmts.get(number)?;
            let text = source.between(statement.span, statement.span).split_whitespace().collect::<Vec<_>>().join(" ");
            Some(FailedCondition { line: statement.span.line, text, error })
        });
        ExplainedDefinition {
            file: source.file.clone(),
            line: span.line,
            text: source.line(span).to_owned(),
            default: matches!(self.rule, Rule::Default { .. }),
            holds: if is_function {
                None
            } else if has_conditions {
                found.map(|found| found.failed.is_none())
            } else {
                Some(true)
            },
            failed,
        }
    }
}

/// What came out of asking for the conditions of one definition: the number of the first that fails, and whether by an error.
struct Found {
    failed: Option<(usize, bool)>,
}

struct Conditions;

impl Conditions {
    /// By the number of the definition. Those that the engine does not take apart are left out.
    fn of(pool: &Pool, definitions: &[Definition<'_>], asked: &Asked<'_>) -> BTreeMap<usize, Found> {
        let numbered: Vec<_> = definitions
            .iter()
            .enumerate()
            .filter_map(|(number, definition)| {
                let query = definition.query()?;
                (1..=MOST_CONDITIONS).contains(&query.stmts.len()).then_some((number, definition, query))
            })
            .collect();
        let mut found = BTreeMap::new();
        let mut groups = vec![numbered.as_slice()];
        // What comes of the first half of a group that cannot be loaded says nothing about the other.
        while let Some(group) = groups.pop() {
            if asked.until <= Instant::now() {
                break;
            }
            match probe(pool, group) {
                Some(probe) => {
                    found.extend(group.iter().map(|numbered| (numbered.0, find(&probe, numbered, asked))));
                }
                None if group.len() > 1 => groups.extend(<[_; 2]>::from(group.split_at(group.len() / 2))),
                None => {}
            }
        }
        found
    }
}

type Numbered<'a> = (usize, &'a Definition<'a>, &'a Query);

/// An engine with a rule for each leading part of each body.
fn probe(pool: &Pool, group: &[Numbered<'_>]) -> Option<Pool> {
    let mut sources = BTreeMap::<&str, (String, &Source)>::new();
    for (number, definition, query) in group {
        let source = definition.module.source;
        let (text, _) = sources.entry(&source.file).or_insert_with(|| (preamble(definition.module), source));
        let Some(first) = query.stmts.first() else { continue };
        for (count, last) in query.stmts.iter().enumerate() {
            let conditions = source.between(first.span, last.span);
            text.push_str(&format!("{} if {{\n{conditions}\n}}\n", probe_name(*number, count)));
        }
    }
    let mut engine = pool.copy();
    for (name, (text, _)) in sources {
        engine.add_policy(format!("{name} (conditions)"), text).ok()?;
    }
    Some(Pool::of_one(Loaded::extended(engine).prepare().ok()?))
}

fn find(probe: &Pool, (number, definition, query): &Numbered<'_>, asked: &Asked<'_>) -> Found {
    let package = definition.module.package.join(".");
    let ask = |count: usize| asked.value(probe, &format!("{package}.{}", probe_name(*number, count)));
    let holds = |outcome: &Result<Option<Value>, PolicyError>| matches!(outcome, Ok(Some(Value::Bool(true))));
    let last = query.stmts.len().saturating_sub(1);
    if holds(&ask(last)) {
        return Found { failed: None };
    }
    let failed = (0..=last).find_map(|count| {
        let outcome = ask(count);
        (!holds(&outcome)).then_some((count, outcome.is_err()))
    });
    Found { failed }
}

fn probe_name(number: usize, count: usize) -> String {
    format!("portcullis_condition_{number}_{count}")
}

/// The package and the imports of a module.
fn preamble(module: &Module<'_>) -> String {
    let source = module.source;
    let mut text = format!("{}\n", source.text(module.ast.package.span));
    for import in &module.ast.imports {
        text.push_str(source.between(import.span, import.r#as.unwrap_or(import.span)));
        text.push('\n');
    }
    text
}

/// What the decision depends on, with its distance, then what else is in its package. Each one once.
fn order<'a>(index: &Index<'a>, entry: &[&str]) -> Vec<(Path<'a>, Option<usize>)> {
    let mut edges = BTreeMap::<Path<'a>, BTreeSet<Path<'a>>>::new();
    for module in &index.modules {
        for rule in module.rules {
            let mut walk = Walk::new(index, module);
            walk.rule(rule);
            edges.entry(module.path_of(rule).0).or_default().extend(walk.edges);
        }
    }
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next: Vec<_> =
        index.nodes.keys().filter(|path| path.as_slice() == entry).map(|path| (path.clone(), 0)).collect();
    while let Some((path, depth)) = next.pop() {
        if seen.insert(path.clone()) {
            let below = edges.get(&path).into_iter().flatten();
            // The last one is taken first.
            next.extend(below.rev().filter(|path| !seen.contains(*path)).map(|path| (path.clone(), depth + 1)));
            order.push((path, Some(depth)));
        }
    }
    let package = index.modules.iter().map(|module| &module.package).filter(|package| entry.starts_with(package));
    let package = package.max_by_key(|package| package.len());
    let others = index.nodes.keys().filter(|path| package.is_some_and(|package| path.starts_with(package)));
    order.extend(others.filter(|path| !seen.contains(*path)).map(|path| (path.clone(), None)));
    order
}

fn definitions<'i, 'a>(index: &'i Index<'a>, wanted: impl Fn(&Path<'a>) -> bool) -> Vec<Definition<'i>>
where
    'a: 'i,
{
    let mut definitions = Vec::new();
    for module in &index.modules {
        for rule in module.rules {
            let path = module.path_of(rule).0;
            if !wanted(&path) {
                continue;
            }
            let mut add = |body| definitions.push(Definition { path: path.clone(), module, rule, body });
            match rule {
                Rule::Spec { bodies, .. } if !bodies.is_empty() => bodies.iter().for_each(|body| add(Some(body))),
                Rule::Spec { .. } | Rule::Default { .. } => add(None),
            }
        }
    }
    definitions
}

fn first_body(rule: &Rule, body: &Body) -> bool {
    match rule {
        Rule::Spec { bodies, .. } => bodies.first().is_some_and(|first| std::ptr::eq(first, body)),
        Rule::Default { .. } => false,
    }
}

/// The values of what is read. Nothing where that is the whole question.
fn parts(reads: &Reads, input: &Value) -> Vec<ReadPart> {
    fn collect(members: &Members, path: &str, value: Option<&Value>, parts: &mut Vec<ReadPart>) {
        match members {
            Members::All if path.is_empty() => {}
            Members::All => parts.push(ReadPart { path: path.to_owned(), value: value.cloned() }),
            Members::Some(below) => {
                for (name, members) in below {
                    let inner = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                    collect(members, &inner, value.and_then(|value| value.get(&**name)), parts);
                }
            }
        }
    }
    let mut parts = Vec::new();
    if let Some(members) = reads.members() {
        collect(members, "", Some(input), &mut parts);
    }
    parts
}

fn explained_error(error: &PolicyError) -> ExplainedError {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    ExplainedError { code: error.kind().code(), detail: format!("{error}{cause}") }
}

/// Nobody's request waits for it.
const ONE_LIMIT: Duration = Duration::from_secs(1);
const ALL_LIMIT: Duration = Duration::from_secs(10);

/// Of one body: as many rules are made of it, each as long as the body up to there.
const MOST_CONDITIONS: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{PolicySet, Rego};

    fn rego(sources: &[(&str, &str)]) -> Rego {
        let set = sources.iter().fold(PolicySet::new(), |set, (name, text)| set.add_source(*name, *text));
        Rego::builder().with_policies(set).with_time_limit(Duration::from_secs(1)).build().unwrap()
    }

    fn explain(rego: &Rego, input: Value) -> PolicyExplanation {
        rego.explain(&Recorded::from_value(input).unwrap())
    }

    fn rule<'a>(explanation: &'a PolicyExplanation, path: &str) -> &'a ExplainedRule {
        explanation.rules.iter().find(|rule| rule.path == path).unwrap_or_else(|| panic!("no {path}: {explanation}"))
    }

    /// `line: condition`, for each definition.
    fn failures(rule: &ExplainedRule) -> Vec<String> {
        let failure = |definition: &ExplainedDefinition| match &definition.failed {
            Some(FailedCondition { line, text, error }) => format!("{line}: {text}{}", if *error { " !" } else { "" }),
            None => format!("{:?}", definition.holds),
        };
        rule.definitions.iter().map(failure).collect()
    }

    #[test]
    fn the_first_condition_that_fails_is_named_in_every_kind_of_body() {
        let text = "package authz

import data.roles as known

decision := {\"allow\": true, \"reasons\": reasons} if count(reasons) > 0
else := {\"allow\": false} if {
	input.action == \"x\"
}

reasons contains name if {
	some name in known[input.subject]
	name != \"guest\"
	startswith(name, input.prefix)
}

reasons contains \"all\" if every role in known[input.subject] { role == \"admin\" }

level[name] := 3 if {
	name := input.subject
	not banned
}

banned if input.subject in {\"bob\"} # a comment
helper(x) if x == 1
odd := 1 if to_number(input.subject) == 2
title := input.title
";
        let rego = rego(&[("authz.rego", text), ("roles.rego", "package roles\n\nada := [\"guest\", \"clerk\"]\n")]);
        let explanation = explain(&rego, json!({"subject": "ada", "action": "y", "prefix": "x"}));
        assert!(explanation.undefined && explanation.effect == Effect::Deny, "{explanation}");
        assert_eq!(
            failures(rule(&explanation, "data.authz.decision")),
            ["5: count(reasons) > 0", "7: input.action == \"x\""]
        );
        let reasons = rule(&explanation, "data.authz.reasons");
        assert_eq!((&reasons.value, reasons.depth), (&Some(json!([])), 1));
        assert_eq!(
            failures(reasons),
            ["13: startswith(name, input.prefix)", "16: every role in known[input.subject] { role == \"admin\" }"]
        );
        assert_eq!(failures(rule(&explanation, "data.authz.level")), ["Some(true)"]);
        assert_eq!(rule(&explanation, "data.authz.level").value, Some(json!({"ada": 3})));
        assert_eq!(failures(rule(&explanation, "data.authz.banned")), ["23: input.subject in {\"bob\"}"]);
        assert_eq!(failures(rule(&explanation, "data.authz.odd")), ["25: to_number(input.subject) == 2 !"]);
        assert!(rule(&explanation, "data.authz.odd").error.as_ref().unwrap().contains("authz.rego:25"));
        let helper = rule(&explanation, "data.authz.helper");
        assert!(helper.function && !helper.decides && helper.definitions[0].holds.is_none());
        // It has no condition, and its value is not there.
        let title = rule(&explanation, "data.authz.title");
        assert_eq!((&title.value, failures(title)), (&None, vec!["Some(true)".to_owned()]));
        assert_eq!(rule(&explanation, "data.roles.ada").value, Some(json!(["guest", "clerk"])));
        assert!(rule(&explanation, "data.roles.ada").decides);
        let text = explanation.to_string();
        assert!(
            text.contains("authz.rego:5")
                && text.contains("does not hold: count(reasons) > 0")
                && text.contains("line 13 does not hold: startswith"),
            "{text}"
        );
    }

    #[test]
    fn an_explanation_says_what_a_decision_says() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policy");
        let rego = Rego::builder().add_dir(dir).unwrap().with_time_limit(Duration::from_secs(1)).build().unwrap();
        let mut input = crate::testing::policy_input("GET", "/jobs");
        for (scopes, effect) in [(vec![], Effect::Deny), (vec!["jobs:read".to_owned()], Effect::Allow)] {
            input.subject.properties.scopes = scopes;
            let [explanation] = rego_explanations(&rego, &input);
            let decision = crate::policy::PolicyBackend::decide_now(&rego, &input).unwrap().unwrap();
            assert_eq!((explanation.effect, decision.effect()), (effect, effect));
            assert_eq!(explanation.reasons, decision.reasons());
            assert_eq!((&explanation.revision, explanation.error), (decision.revision(), None));
            assert!(explanation.reads.iter().any(|part| part.path == "subject.properties.scopes"));
            // The whole policy leads to the decision.
            assert!(explanation.rules.iter().all(|rule| rule.decides));
        }
    }

    fn rego_explanations(rego: &Rego, input: &crate::policy::PolicyInput) -> [PolicyExplanation; 1] {
        crate::policy::PolicyBackend::explanations(rego, input).try_into().unwrap()
    }

    #[test]
    fn what_is_no_decision_is_explained_too() {
        let rego = rego(&[("authz.rego", "package authz\n\ndecision := to_number(input.n) == 1\n\nother := \"x\"\n")]);
        let explanation = explain(&rego, json!({"n": "z"}));
        let error = explanation.error.as_ref().unwrap();
        assert_eq!((error.code, explanation.effect), ("policy_evaluation_error", Effect::Deny));
        assert!(error.detail.contains("authz.rego:3"), "{}", error.detail);
        for (path, code) in [("authz/other", "policy_invalid_result"), ("authz/none", "policy_evaluation_error")] {
            let explanation = explain(&rego, json!({"path": path, "input": {"n": "1"}}));
            assert_eq!(explanation.error.as_ref().unwrap().code, code, "{explanation}");
            assert_eq!(explanation.effect, Effect::Deny);
        }
    }

    #[test]
    fn the_rules_that_find_conditions_out_take_no_part_in_decisions() {
        let text = "package authz\n\ndecision := count(all) == 1\n\nall contains name if { some name; data.teams[name].open; input.x }\n";
        let rego = rego(&[("authz.rego", text), ("teams.rego", "package teams.north\n\nopen if { input.x }\n")]);
        for _ in 0..2 {
            let explanation = explain(&rego, json!({"x": true}));
            assert_eq!((explanation.effect, &explanation.error), (Effect::Allow, &None), "{explanation}");
        }
    }

    #[tokio::test]
    async fn a_combination_has_the_explanations_of_those_whose_answers_count() {
        use std::sync::Arc;

        use crate::policy::{AllOf, Cached, PolicyBackend, Shadow, Standby};

        let of = |value: &str| -> Arc<dyn PolicyBackend> {
            Arc::new(rego(&[("authz.rego", &format!("package authz\n\ndecision := {value}\n"))]))
        };
        let (yes, no) = (of("true"), of("false"));
        let (allow, deny) = (Effect::Allow, Effect::Deny);
        let cases: [(&str, Arc<dyn PolicyBackend>, Vec<Effect>); 4] = [
            ("all of", Arc::new(AllOf::new("a", Arc::clone(&yes)).add("b", Arc::clone(&no))), vec![allow, deny]),
            ("standby", Arc::new(Standby::new(("a", Arc::clone(&yes)), ("b", Arc::clone(&no)))), vec![allow, deny]),
            ("shadow", Arc::new(Shadow::builder(Arc::clone(&yes), Arc::clone(&no)).build().unwrap()), vec![allow]),
            ("cached", Arc::new(Cached::builder(Arc::clone(&no)).build().unwrap()), vec![deny]),
        ];
        for (name, backend, effects) in cases {
            let explanations = Arc::new(backend).explanations(&crate::testing::policy_input("GET", "/jobs"));
            assert_eq!(explanations.iter().map(|one| one.effect).collect::<Vec<_>>(), effects, "{name}");
        }
    }

    #[test]
    fn control_characters_of_a_question_reach_no_terminal() {
        let rego = rego(&[("authz.rego", "package authz\n\ndecision := input.name == \"x\"\n")]);
        let text = explain(&rego, json!({"name": "\u{1b}[31m\u{202e}\u{9b}"})).to_string();
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{9b}']) && text.contains("\\u{202e}"), "{text}");
    }
}
