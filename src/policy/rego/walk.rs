//! One walk over one rule: what it refers to, and what in it is at fault.

use std::collections::BTreeSet;

use super::{
    ast::{Assign, AssignOp, Body, BoolOp, Expr, Head, Literal, Query, Rule, Span, Statement, With},
    builtins::{FICKLE, TOTAL, arity},
    differences,
    lint::{Finding, Index, Kind, Module, Node, Path, arguments},
};

pub(super) struct Walk<'a, 'i> {
    index: &'i Index<'a>,
    module: &'i Module<'a>,
    /// Innermost last.
    scopes: Vec<Scope<'a>>,
    pub(super) edges: BTreeSet<Path<'a>>,
    /// What is read of the input: paths below it.
    pub(super) inputs: BTreeSet<Path<'a>>,
    /// The same input may have another result the next time.
    pub(super) is_fickle: bool,
    pub(super) findings: Vec<Finding>,
}

#[derive(Default)]
struct Scope<'a> {
    /// The names that are declared here. They hide rules and imports.
    declared: BTreeSet<&'a str>,
    /// The variables that something here needs a value of, other than a negation.
    bound: BTreeSet<&'a str>,
}

impl<'a, 'i> Walk<'a, 'i> {
    pub(super) fn new(index: &'i Index<'a>, module: &'i Module<'a>) -> Self {
        Self {
            index,
            module,
            scopes: Vec::new(),
            edges: BTreeSet::new(),
            inputs: BTreeSet::new(),
            is_fickle: false,
            findings: Vec::new(),
        }
    }

    pub(super) fn rule(&mut self, rule: &'a Rule) {
        match rule {
            Rule::Default { value, .. } => self.expr(value),
            Rule::Spec { head, bodies, .. } => {
                let (refr, args, values) = match head {
                    Head::Compr { refr, assign } => {
                        (refr, [].as_slice(), assign.as_ref().map(|Assign { value }| value))
                    }
                    Head::Set { refr, key } => (refr, [].as_slice(), key.as_ref()),
                    Head::Func { refr, args, assign } => {
                        (refr, args.as_slice(), assign.as_ref().map(|Assign { value }| value))
                    }
                };
                let head = |walk: &mut Self| {
                    refr.reference().indices.into_iter().chain(values).for_each(|expr| walk.expr(expr));
                };
                let mut names = BTreeSet::new();
                args.iter().for_each(|arg| declare(arg, &mut names));
                self.scopes.push(Scope { bound: names.clone(), declared: names });
                args.iter().for_each(|arg| self.expr(arg));
                if bodies.is_empty() {
                    head(self);
                }
                for Body { assign, query, .. } in bodies {
                    self.query(query, |walk| {
                        head(walk);
                        assign.iter().for_each(|Assign { value }| walk.expr(value));
                    });
                }
                self.scopes.pop();
            }
        }
    }

    /// A query, and what is evaluated with its variables.
    fn query(&mut self, query: &'a Query, with_its_variables: impl FnOnce(&mut Self)) {
        let Scope { mut declared, mut bound } = Scope::default();
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { vars } => declared.extend(vars.iter().map(|span| self.module.source.text(*span))),
                Literal::SomeIn { key, value, collection } => {
                    key.iter().chain([value]).for_each(|pattern| declare(pattern, &mut declared));
                    key.iter().chain([value, collection]).for_each(|expr| mention(expr, &mut bound));
                }
                Literal::Expr { expr } => {
                    if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr {
                        declare(lhs, &mut declared);
                    }
                    mention(expr, &mut bound);
                }
                Literal::Every { domain, .. } => mention(domain, &mut bound),
                Literal::NotExpr { .. } => {}
            }
        }
        self.scopes.push(Scope { declared, bound });
        query.stmts.iter().for_each(|statement| self.statement(statement));
        with_its_variables(self);
        self.scopes.pop();
    }

    fn statement(&mut self, Statement { span, literal, with_mods }: &'a Statement) {
        match literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection } => {
                key.iter().chain([value, collection]).for_each(|expr| self.expr(expr));
            }
            Literal::Expr { expr } => self.whole(expr),
            Literal::NotExpr { expr } => {
                self.whole(expr);
                if let Some(name) = self.unbound(expr) {
                    let remedy = format!("`{name}` has no value outside of the negation: give it one first");
                    self.fault(*span, remedy, Kind::Unsound);
                }
                if !self.module.same_negation && self.hoisted(expr) {
                    let remedy = "here `not` is true when something inside the negation is undefined, in Open Policy Agent it is not: \
                                  give the inner expression a rule of its own and negate that rule, or `import future.keywords.not`";
                    self.fault(*span, remedy, Kind::Parity);
                }
            }
            Literal::Every { key, value, domain, query } => {
                self.expr(domain);
                let names = key.iter().chain([value]).map(|span| self.module.source.text(*span));
                let names: BTreeSet<_> = names.collect();
                self.scopes.push(Scope { bound: names.clone(), declared: names });
                self.query(query, |_| {});
                self.scopes.pop();
            }
        }
        for With { refr, r#as } in with_mods {
            let reference = refr.reference();
            let target = reference.root.variable().and_then(|name| self.resolve(name)).map(|mut path| {
                path.extend(reference.path);
                path
            });
            if target.is_none_or(|path| self.index.nodes.get(&path).is_some_and(|node| node.function)) {
                let remedy =
                    "`with` replaces a function, which hides what is called from these checks: leave it to tests";
                self.fault(*span, remedy, Kind::Unsound);
            }
            self.expr(r#as);
            if self.may_be_undefined(r#as) {
                let remedy = "the value after `as` can be undefined, which the two engines treat differently: assign it to a variable \
                              first";
                self.fault(*span, remedy, Kind::Parity);
            }
        }
    }

    /// What is a statement by itself. A call may then name what its result has to be as one argument more.
    fn whole(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Call { span, fcn, params } => self.call(*span, fcn, params, true),
            Expr::Membership { span, key, value, collection } => self.membership(*span, key, value, collection, true),
            _ => self.expr(expr),
        }
    }

    fn membership(
        &mut self,
        span: Span,
        key: &'a Option<Box<Expr>>,
        value: &'a Expr,
        collection: &'a Expr,
        is_statement: bool,
    ) {
        let key = key.as_deref();
        let parts = key.into_iter().chain([value, collection]);
        // The engine says false, and true where neither the key nor the value that is looked for is there.
        let differs = if is_statement {
            key.is_some() && self.may_be_undefined(value)
        } else {
            parts.clone().any(|part| self.may_be_undefined(part))
        };
        if differs {
            let remedy = "here `in` has a value when something in it is undefined, in Open Policy Agent it has none: give it a rule of its \
                          own, of which it is the whole condition, after its value was assigned to a variable";
            self.fault(span, remedy, Kind::Parity);
        }
        parts.for_each(|part| self.expr(part));
    }

    fn expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number {} | Expr::Bool {} | Expr::Null {} => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr),
            Expr::Array { items } | Expr::Set { items } => items.iter().for_each(|item| self.expr(item)),
            Expr::Object { fields } => fields.iter().for_each(|(_, key, value)| {
                self.expr(key);
                self.expr(value);
            }),
            Expr::ArrayCompr { term, query } | Expr::SetCompr { term, query } => {
                self.query(query, |walk| walk.expr(term));
            }
            Expr::ObjectCompr { key, value, query } => self.query(query, |walk| {
                walk.expr(key);
                walk.expr(value);
            }),
            Expr::Call { span, fcn, params } => self.call(*span, fcn, params, false),
            Expr::UnaryExpr { expr } => self.expr(expr),
            Expr::BinExpr { lhs, rhs }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs }
            | Expr::AssignExpr { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::Membership { span, key, value, collection } => self.membership(*span, key, value, collection, false),
        }
    }

    fn reference(&mut self, expr: &'a Expr) {
        let reference = expr.reference();
        match reference.root.variable() {
            Some(name) => {
                if let Some(mut path) = self.resolve(name) {
                    path.extend(reference.path);
                    match path.split_first() {
                        Some((&"data", _)) => self.edges.extend(self.index.reached(&path)),
                        Some((&"input", below)) => drop(self.inputs.insert(below.to_vec())),
                        _ => {}
                    }
                }
            }
            None => self.expr(reference.root),
        }
        reference.indices.into_iter().for_each(|index| self.expr(index));
    }

    fn call(&mut self, span: Span, function: &'a Expr, params: &'a [Expr], is_statement: bool) {
        let (name, takes) = match self.called(function) {
            Called::Rule(path) => {
                let takes = self.index.nodes.get(&path).and_then(Node::arity);
                let name = path.join(".");
                self.edges.insert(path);
                (name, takes)
            }
            Called::Builtin(name) => {
                let known = arity(&name);
                if known.is_none() {
                    let remedy = format!("there is no function `{name}` here: define it, or do without it");
                    self.fault(span, remedy, Kind::Unsound);
                } else if let Some(remedy) = differences::of(&name, params) {
                    self.fault(span, remedy, Kind::Parity);
                } else if FICKLE.contains(&name.as_str()) {
                    self.is_fickle = true;
                    let remedy = format!(
                        "`{name}` decides by more than the question: read `input.context.time_ns`, or allow it (`with_clock_and_chance`)"
                    );
                    self.fault(span, remedy, Kind::Fickle);
                }
                (name, known.flatten())
            }
        };
        if let Some(takes) = takes
            && params.len() != takes
            && !(is_statement && params.len() == takes + 1)
        {
            let remedy = format!("`{name}` is given {}: it takes {takes}", arguments(params.len()));
            self.fault(span, remedy, Kind::Unsound);
        }
        params.iter().for_each(|param| self.expr(param));
    }

    /// In the engine's order: what the policies define goes before what is built in. Variables hide no function.
    fn called(&self, function: &'a Expr) -> Called<'a> {
        let reference = function.reference();
        let name = reference.root.variable().unwrap_or_default();
        let step = |root: &[&'a str]| root.iter().copied().chain(reference.path.iter().copied()).collect::<Path<'a>>();
        let path = match self.module.imports.get(name) {
            Some(import) => step(import),
            None if name == "data" => step(&["data"]),
            None => {
                let mut path = self.module.package.clone();
                path.extend(step(&[name]));
                path
            }
        };
        if self.index.nodes.get(&path).is_some_and(|node| node.function) {
            Called::Rule(path)
        } else if self.module.imports.contains_key(name) {
            Called::Builtin(path.join("."))
        } else {
            Called::Builtin(step(&[name]).join("."))
        }
    }

    /// What a name stands for: a path from `data` or `input`, or nothing but a variable.
    fn resolve(&self, name: &'a str) -> Option<Path<'a>> {
        if self.scopes.iter().any(|scope| scope.declared.contains(name)) {
            return None;
        }
        if let "data" | "input" = name {
            return Some(vec![name]);
        }
        if let Some(import) = self.module.imports.get(name) {
            return Some(import.clone());
        }
        let mut path = self.module.package.clone();
        path.push(name);
        self.index.nodes.keys().any(|node| node.starts_with(&path)).then_some(path)
    }

    /// A variable of a negated expression that nothing else gives a value. Open Policy Agent refuses such a policy; the engine takes
    /// what has no value for undefined, so that the negation holds, or tries every value.
    fn unbound(&self, expr: &'a Expr) -> Option<&'a str> {
        let mut names = BTreeSet::new();
        mention(expr, &mut names);
        let bound = |name: &&str| self.scopes.iter().any(|scope| scope.bound.contains(name));
        names.into_iter().find(|name| *name == "_" || (self.resolve(name).is_none() && !bound(name)))
    }

    /// Whether Open Policy Agent takes something out of this negated expression that can be undefined. What stays inside: the
    /// reference that is negated, or both sides of `==` and `=`, without what is in their brackets.
    fn hoisted(&self, expr: &'a Expr) -> bool {
        match expr {
            Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs } | Expr::AssignExpr { lhs, rhs, .. } => {
                self.side_hoisted(lhs) || self.side_hoisted(rhs)
            }
            Expr::Call { params, .. } => params.iter().any(|param| self.may_be_undefined(param)),
            Expr::BoolExpr { lhs, rhs, .. } => self.may_be_undefined(lhs) || self.may_be_undefined(rhs),
            Expr::Membership { key, value, collection, .. } => {
                key.iter().chain([value, collection]).any(|expr| self.may_be_undefined(expr))
            }
            _ => self.side_hoisted(expr),
        }
    }

    fn side_hoisted(&self, expr: &'a Expr) -> bool {
        match expr {
            Expr::Var { .. } => false,
            Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let reference = expr.reference();
                let root = reference.root.variable().is_none() && self.may_be_undefined(reference.root);
                root || reference.indices.into_iter().any(|index| self.may_be_undefined(index))
            }
            _ => self.may_be_undefined(expr),
        }
    }

    fn may_be_undefined(&self, expr: &'a Expr) -> bool {
        match expr {
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number {} | Expr::Bool {} | Expr::Null {} => false,
            Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. } => false,
            Expr::Var { value } => self.resolve(value).is_some(),
            Expr::Array { items } | Expr::Set { items } => items.iter().any(|item| self.may_be_undefined(item)),
            Expr::Object { fields } => {
                fields.iter().any(|(_, key, value)| self.may_be_undefined(key) || self.may_be_undefined(value))
            }
            Expr::BinExpr { lhs, rhs } | Expr::ArithExpr { lhs, rhs } => {
                self.may_be_undefined(lhs) || self.may_be_undefined(rhs)
            }
            Expr::Call { fcn, params, .. } => match self.called(fcn) {
                Called::Builtin(name) if TOTAL.contains(&name.as_str()) => {
                    params.iter().any(|param| self.may_be_undefined(param))
                }
                Called::Builtin(_) | Called::Rule(_) => true,
            },
            Expr::UnaryExpr { expr } => self.may_be_undefined(expr),
            Expr::RefDot { .. } | Expr::RefBrack { .. } => true,
            Expr::BoolExpr { .. } | Expr::AssignExpr { .. } | Expr::Membership { .. } => true,
        }
    }

    fn fault(&mut self, span: Span, remedy: impl Into<String>, kind: Kind) {
        self.findings.push(Finding { place: self.module.source.place(span), remedy: remedy.into(), kind });
    }
}

enum Called<'a> {
    Rule(Path<'a>),
    Builtin(String),
}

impl Expr {
    pub(super) fn variable(&self) -> Option<&str> {
        match self {
            Self::Var { value } => Some(value),
            _ => None,
        }
    }
}

/// The variables of a pattern.
fn declare<'a>(pattern: &'a Expr, scope: &mut BTreeSet<&'a str>) {
    match pattern {
        Expr::Var { value } => {
            scope.insert(value);
        }
        Expr::Array { items } => items.iter().for_each(|item| declare(item, scope)),
        Expr::Object { fields } => fields.iter().for_each(|(_, _, value)| declare(value, scope)),
        _ => {}
    }
}

/// The variables that an expression needs a value of, or gives one. A comprehension has its own.
fn mention<'a>(expr: &'a Expr, names: &mut BTreeSet<&'a str>) {
    match expr {
        Expr::Var { value } => {
            names.insert(value);
        }
        Expr::RefDot { refr, .. } => mention(refr, names),
        Expr::Array { items } | Expr::Set { items } | Expr::Call { params: items, .. } => {
            items.iter().for_each(|item| mention(item, names));
        }
        Expr::Object { fields } => fields.iter().for_each(|(_, key, value)| {
            mention(key, names);
            mention(value, names);
        }),
        Expr::UnaryExpr { expr } => mention(expr, names),
        Expr::RefBrack { refr: lhs, index: rhs }
        | Expr::BinExpr { lhs, rhs }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs }
        | Expr::AssignExpr { lhs, rhs, .. } => {
            mention(lhs, names);
            mention(rhs, names);
        }
        Expr::Membership { key, value, collection, .. } => {
            key.iter().chain([value, collection]).for_each(|expr| mention(expr, names));
        }
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number {} | Expr::Bool {} | Expr::Null {} => {}
        Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. } => {}
    }
}
