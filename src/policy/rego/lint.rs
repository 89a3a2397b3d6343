//! What is checked when a policy is loaded, because the engine would find it out at request time, or not at all.
//!
//! 1. Nothing refers to itself: the engine overflows the stack on a recursive function, which ends the process.
//! 2. Every function that is called exists and takes as many arguments: the engine finds out when it is called, as an error per request.
//! 3. No variable has its value only inside of a negation: without one, the negation would hold.
//! 4. The entry point is a rule with a constant name, and no rule has its name in the data document.
//! 5. Rules do not contradict each other: one name is a function, a value, a set or an object, and has one default.
//! 6. *Parity*: no expression of the kinds where the engine allows what Open Policy Agent denies. A finding of this kind may be
//!    relaxed by name.
//!
//! Negation makes most of the sixth: Open Policy Agent takes calls and references out of a negated expression and evaluates them
//! before it, so that `not startswith(input.missing, "a")` is undefined there, and true here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    ast::{self, Head, Import, Policy, Rule, Source, Span},
    walk::Walk,
};
use crate::policy::Reads;

/// Something that keeps a policy from being used.
#[derive(Debug)]
pub(super) struct Finding {
    /// `file:line:column`, or the entry point.
    pub(super) place: String,
    pub(super) remedy: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Not to be used at all.
    Unsound,
    /// The entry point is at fault, not the policy.
    EntryPoint,
    /// Decides otherwise than Open Policy Agent would.
    Parity,
    /// Decides by more than the question and the data.
    Fickle,
}

/// What the policies define, by path. Paths start with `data`.
pub(super) struct Index<'a> {
    pub(super) modules: Vec<Module<'a>>,
    pub(super) nodes: BTreeMap<Path<'a>, Node>,
}

pub(super) type Path<'a> = Vec<&'a str>;

pub(super) struct Module<'a> {
    pub(super) source: &'a Source,
    pub(super) package: Path<'a>,
    pub(super) imports: BTreeMap<&'a str, Path<'a>>,
    /// `import future.keywords.not`: both engines then give negation the same meaning.
    pub(super) same_negation: bool,
    pub(super) rules: &'a [Rule],
    pub(super) ast: &'a ast::Module,
}

/// Everything that is defined under one constant path.
#[derive(Default)]
pub(super) struct Node {
    pub(super) function: bool,
    /// A rule that is not a function, and whose path has no variable part.
    pub(super) rule: bool,
    /// More than one is a contradiction.
    shapes: BTreeSet<Shape>,
    defaults: usize,
    place: String,
}

/// What a rule makes of its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// With so many arguments.
    Function(usize),
    Value,
    Set,
    /// An object, by rules whose names have a variable part.
    Object,
}

/// What there is to say of a policy.
pub(super) struct Report {
    /// The worst first.
    pub(super) findings: Vec<Finding>,
    /// What the decision depends on.
    pub(super) reads: Reads,
    /// Every path that something is defined under, dots between its steps, and whether it is a rule that can be asked for as it is.
    pub(super) defined: BTreeMap<String, bool>,
}

/// What one rule, or several under one path, depend on.
#[derive(Default)]
struct Needs<'a> {
    inputs: BTreeSet<Path<'a>>,
    is_fickle: bool,
}

/// Checks parsed policies. `holds` tells whether the data document has a value at a path below `data`.
pub(super) fn check(policies: &[Policy], entry: &[&str], holds: impl Fn(&[&str]) -> bool) -> Report {
    let index = Index::of(policies);
    let mut findings = Vec::new();
    let mut edges = BTreeMap::<Path<'_>, BTreeSet<Path<'_>>>::new();
    let mut needs = BTreeMap::<Path<'_>, Needs<'_>>::new();
    for module in &index.modules {
        for rule in module.rules {
            let mut walk = Walk::new(&index, module);
            walk.rule(rule);
            let path = module.path_of(rule).0;
            let needs = needs.entry(path.clone()).or_default();
            needs.inputs.extend(walk.inputs);
            needs.is_fickle |= walk.is_fickle;
            edges.entry(path).or_default().extend(walk.edges);
            findings.extend(walk.findings);
        }
    }
    findings.extend(recursion(&index, &edges));
    findings.extend(contradictions(&index));
    for (path, node) in &index.nodes {
        if path.get(1..).is_some_and(&holds) {
            let remedy = format!("`{}` is in the data document too: rename one of the two", path.join("."));
            findings.push(Finding { place: node.place.clone(), remedy, kind: Kind::Unsound });
        }
    }
    if !index.nodes.get(entry).is_some_and(|node| node.rule) {
        let rules = index.nodes.iter().filter(|(_, node)| node.rule).map(|(path, _)| format!("`{}`", path.join(".")));
        let remedy = format!("name a rule of the policy: {}", rules.collect::<Vec<_>>().join(", "));
        findings.push(Finding { place: entry.join("."), remedy, kind: Kind::EntryPoint });
    }
    // The worst first: it is the one that is reported.
    findings.sort_by_key(|finding| finding.kind);
    let defined = index.nodes.iter().map(|(path, node)| (path.join("."), node.rule)).collect();
    Report { findings, reads: reads(entry, &edges, &needs), defined }
}

/// What the entry point reads, and every rule that it reaches.
fn reads(
    entry: &[&str],
    edges: &BTreeMap<Path<'_>, BTreeSet<Path<'_>>>,
    needs: &BTreeMap<Path<'_>, Needs<'_>>,
) -> Reads {
    let mut reached = BTreeSet::new();
    let mut next = vec![entry];
    while let Some(rule) = next.pop() {
        if reached.insert(rule) {
            next.extend(edges.get(rule).into_iter().flatten().map(Vec::as_slice));
        }
    }
    let needs = || reached.iter().filter_map(|rule| needs.get(*rule));
    if needs().any(|needs| needs.is_fickle) {
        return Reads::more_than_the_input();
    }
    Reads::paths(needs().flat_map(|needs| &needs.inputs).map(Vec::as_slice))
}

impl<'a> Index<'a> {
    pub(super) fn of(policies: &'a [Policy]) -> Self {
        let modules: Vec<_> = policies.iter().map(Module::of).collect();
        let mut nodes = BTreeMap::<_, Node>::new();
        for module in &modules {
            for rule in module.rules {
                let (path, exact) = module.path_of(rule);
                let (shape, span) = match rule {
                    Rule::Spec { head: Head::Func { args, .. }, span, .. } => (Shape::Function(args.len()), span),
                    Rule::Default { args, span, .. } if !args.is_empty() => (Shape::Function(args.len()), span),
                    Rule::Spec { head: Head::Set { .. }, span, .. } if exact => (Shape::Set, span),
                    Rule::Spec { span, .. } | Rule::Default { span, .. } if exact => (Shape::Value, span),
                    Rule::Spec { span, .. } | Rule::Default { span, .. } => (Shape::Object, span),
                };
                let node = nodes.entry(path).or_default();
                let function = matches!(shape, Shape::Function(_));
                node.function |= function;
                node.rule |= exact && !function;
                node.shapes.insert(shape);
                node.defaults += usize::from(matches!(rule, Rule::Default { .. }));
                node.place = module.source.place(*span);
            }
        }
        Self { modules, nodes }
    }

    /// The rules that a reference can reach: what it names, what is below it, and what it looks into. Functions are called, not
    /// read.
    pub(super) fn reached<'s>(&'s self, path: &'s [&str]) -> impl Iterator<Item = Path<'a>> + 's {
        self.nodes
            .iter()
            .filter(move |(node, _)| node.starts_with(path) || path.starts_with(node))
            .filter(|(_, node)| !node.function)
            .map(|(node, _)| node.clone())
    }
}

impl Node {
    /// How many arguments the function takes, where that is beyond doubt.
    pub(super) fn arity(&self) -> Option<usize> {
        let mut shapes = self.shapes.iter();
        match (shapes.next(), shapes.next()) {
            (Some(Shape::Function(arguments)), None) => Some(*arguments),
            _ => None,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(count) => write!(f, "a function of {}", arguments(*count)),
            Self::Value => f.write_str("a value"),
            Self::Set => f.write_str("a set"),
            Self::Object => f.write_str("an object with variable names"),
        }
    }
}

impl<'a> Module<'a> {
    fn of(policy: &'a Policy) -> Self {
        let package = policy.ast.package.refr.reference();
        let mut module = Self {
            source: &policy.source,
            package: ["data"].into_iter().chain(package.root.variable()).chain(package.path).collect(),
            imports: BTreeMap::new(),
            same_negation: false,
            rules: &policy.ast.rules,
            ast: &policy.ast,
        };
        for Import { refr, r#as, .. } in &policy.ast.imports {
            let reference = refr.reference();
            let path: Path<'a> = reference.root.variable().into_iter().chain(reference.path).collect();
            match (path.first(), path.last()) {
                (Some(&("data" | "input")), Some(&last)) => {
                    let alias = r#as.map_or(last, |span| policy.source.text(span));
                    module.imports.insert(alias, path);
                }
                _ => module.same_negation |= path == ["future", "keywords", "not"],
            }
        }
        module
    }

    /// Where a rule is found, up to the first variable part of its name, and whether there is none.
    pub(super) fn path_of(&self, rule: &'a Rule) -> (Path<'a>, bool) {
        let (Rule::Spec { head: Head::Compr { refr, .. } | Head::Set { refr, .. } | Head::Func { refr, .. }, .. }
        | Rule::Default { refr, .. }) = rule;
        let name = refr.reference();
        let path = self.package.iter().copied().chain(name.root.variable()).chain(name.path).collect();
        (path, name.exact)
    }
}

impl Source {
    pub(super) fn place(&self, span: Span) -> String {
        format!("{}:{}:{}", self.file, span.line, span.col)
    }
}

/// What Open Policy Agent refuses to compile, and the engine to evaluate, or not even that.
fn contradictions(index: &Index<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fault = |place: &str, remedy: String| {
        findings.push(Finding { place: place.to_owned(), remedy, kind: Kind::Unsound });
    };
    for (path, node) in &index.nodes {
        let name = path.join(".");
        if node.shapes.len() > 1 {
            let shapes = node.shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            fault(&node.place, format!("`{name}` is {shapes}: rename all but one"));
        }
        if node.shapes.contains(&Shape::Function(0)) {
            fault(&node.place, format!("`{name}` takes no argument: make it a rule, without the parentheses"));
        }
        if node.defaults > 1 {
            fault(&node.place, format!("`{name}` has {} defaults: leave one", node.defaults));
        }
        // Only an object that rules make up has room for more.
        if !node.shapes.contains(&Shape::Object) {
            let below = |other: &Path<'_>| other.len() > path.len() && other.starts_with(path);
            let rule = index.nodes.iter().find(|(other, _)| below(other));
            let package =
                || index.modules.iter().map(|module| &module.package).find(|package| package.starts_with(path));
            if let Some(inner) = rule.map(|(other, _)| other).or_else(package) {
                fault(
                    &node.place,
                    format!("`{name}` is defined whole, and so is `{}`: rename one of the two", inner.join(".")),
                );
            }
        }
    }
    findings
}

/// `1 argument`, `2 arguments`.
pub(super) fn arguments(count: usize) -> String {
    format!("{count} argument{}", if count == 1 { "" } else { "s" })
}

fn recursion(index: &Index<'_>, edges: &BTreeMap<Path<'_>, BTreeSet<Path<'_>>>) -> Option<Finding> {
    let mut done = BTreeSet::new();
    for start in edges.keys() {
        // Depth first, without recursing ourselves: the way from `start`, and what is still to be tried from each step of it.
        let mut way = vec![(start, edges.get(start).into_iter().flatten())];
        while let Some((here, next)) = way.last_mut() {
            match next.next() {
                None => {
                    done.insert(*here);
                    way.pop();
                }
                Some(next) => {
                    if let Some(from) = way.iter().position(|(step, _)| *step == next) {
                        let steps = way.iter().skip(from).map(|(step, _)| step.join(".")).chain([next.join(".")]);
                        let remedy = format!("break the recursion {}", steps.collect::<Vec<_>>().join(" → "));
                        let place = index.nodes.get(next).map(|node| node.place.clone()).unwrap_or_default();
                        return Some(Finding { place, remedy, kind: Kind::Unsound });
                    }
                    if !done.contains(next) {
                        way.push((next, edges.get(next).into_iter().flatten()));
                    }
                }
            }
        }
    }
    None
}
