//! The engine's syntax tree, as far as the load-time checks read it.
//!
//! It arrives as JSON. An unknown kind of node fails to deserialize, and the policy is refused: a check that does not understand
//! all of a policy cannot vouch for it.

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct Policy {
    pub(super) source: Source,
    pub(super) ast: Module,
}

#[derive(Deserialize)]
pub(super) struct Source {
    pub(super) file: String,
    pub(super) contents: String,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct Span {
    pub(super) line: u32,
    pub(super) col: u32,
    start: usize,
    end: usize,
}

#[derive(Deserialize)]
pub(super) struct Module {
    pub(super) package: Package,
    pub(super) imports: Vec<Import>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Deserialize)]
pub(super) struct Package {
    pub(super) span: Span,
    pub(super) refr: Expr,
}

#[derive(Deserialize)]
pub(super) struct Import {
    pub(super) span: Span,
    pub(super) refr: Expr,
    pub(super) r#as: Option<Span>,
}

#[derive(Deserialize)]
pub(super) enum Rule {
    Spec { span: Span, head: Head, bodies: Vec<Body> },
    Default { span: Span, refr: Expr, args: Vec<Expr>, value: Expr },
}

#[derive(Deserialize)]
pub(super) enum Head {
    Compr { refr: Expr, assign: Option<Assign> },
    Set { refr: Expr, key: Option<Expr> },
    Func { refr: Expr, args: Vec<Expr>, assign: Option<Assign> },
}

#[derive(Deserialize)]
pub(super) struct Assign {
    pub(super) value: Expr,
}

#[derive(Deserialize)]
pub(super) struct Body {
    pub(super) span: Span,
    pub(super) assign: Option<Assign>,
    pub(super) query: Query,
}

#[derive(Deserialize)]
pub(super) struct Query {
    pub(super) stmts: Vec<Statement>,
}

#[derive(Deserialize)]
pub(super) struct Statement {
    pub(super) span: Span,
    pub(super) literal: Literal,
    #[serde(default)]
    pub(super) with_mods: Vec<With>,
}

#[derive(Deserialize)]
pub(super) struct With {
    pub(super) refr: Expr,
    pub(super) r#as: Expr,
}

#[derive(Deserialize)]
pub(super) enum Literal {
    SomeVars { vars: Vec<Span> },
    SomeIn { key: Option<Expr>, value: Expr, collection: Expr },
    Expr { expr: Expr },
    NotExpr { expr: Expr },
    Every { key: Option<Span>, value: Span, domain: Expr, query: Query },
}

#[derive(Deserialize)]
#[expect(clippy::enum_variant_names, reason = "the names that the engine writes")]
pub(super) enum Expr {
    String { value: Value },
    RawString { value: Value },
    Number {},
    Bool {},
    Null {},
    Var { value: String },
    Array { items: Vec<Expr> },
    Set { items: Vec<Expr> },
    Object { fields: Vec<(Span, Expr, Expr)> },
    ArrayCompr { term: Box<Expr>, query: Query },
    SetCompr { term: Box<Expr>, query: Query },
    ObjectCompr { key: Box<Expr>, value: Box<Expr>, query: Query },
    Call { span: Span, fcn: Box<Expr>, params: Vec<Expr> },
    UnaryExpr { expr: Box<Expr> },
    RefDot { refr: Box<Expr>, field: (Span, Value) },
    RefBrack { refr: Box<Expr>, index: Box<Expr> },
    BinExpr { lhs: Box<Expr>, rhs: Box<Expr> },
    BoolExpr { op: BoolOp, lhs: Box<Expr>, rhs: Box<Expr> },
    ArithExpr { lhs: Box<Expr>, rhs: Box<Expr> },
    AssignExpr { op: AssignOp, lhs: Box<Expr>, rhs: Box<Expr> },
    Membership { span: Span, key: Option<Box<Expr>>, value: Box<Expr>, collection: Box<Expr> },
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
pub(super) enum BoolOp {
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    Ne,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
pub(super) enum AssignOp {
    Eq,
    ColEq,
}

/// A reference taken apart.
pub(super) struct Reference<'a> {
    pub(super) root: &'a Expr,
    /// The leading constant steps.
    pub(super) path: Vec<&'a str>,
    /// True when there are no other steps.
    pub(super) exact: bool,
    /// The expressions in brackets that are not constant strings.
    pub(super) indices: Vec<&'a Expr>,
}

impl Source {
    pub(super) fn text(&self, span: Span) -> &str {
        self.contents.get(span.start..span.end).unwrap_or_default()
    }

    /// From where one begins to where the other ends. The engine leaves the quotes of a text at either end out.
    pub(super) fn between(&self, first: Span, last: Span) -> &str {
        let quote =
            |at: Option<usize>| at.is_some_and(|at| matches!(self.contents.as_bytes().get(at), Some(b'"' | b'`')));
        let start = first.start - usize::from(quote(first.start.checked_sub(1)));
        let end = last.end + usize::from(quote(Some(last.end)));
        self.contents.get(start..end).unwrap_or_default()
    }

    /// The line that something begins in.
    pub(super) fn line(&self, span: Span) -> &str {
        let begins = usize::try_from(span.line).unwrap_or_default().saturating_sub(1);
        self.contents.lines().nth(begins).unwrap_or_default().trim()
    }
}

impl Expr {
    /// The constant string that this is.
    pub(super) fn string(&self) -> Option<&str> {
        match self {
            Self::String { value } | Self::RawString { value } => value.as_str(),
            _ => None,
        }
    }

    pub(super) fn reference(&self) -> Reference<'_> {
        enum Step<'a> {
            Field(Option<&'a str>),
            Index(&'a Expr),
        }
        let (mut root, mut steps) = (self, Vec::new());
        loop {
            root = match root {
                Self::RefDot { refr, field } => {
                    steps.push(Step::Field(field.1.as_str()));
                    refr
                }
                Self::RefBrack { refr, index } => {
                    steps.push(index.string().map_or(Step::Index(index), |text| Step::Field(Some(text))));
                    refr
                }
                _ => break,
            };
        }
        let mut reference = Reference { root, path: Vec::new(), exact: true, indices: Vec::new() };
        for step in steps.into_iter().rev() {
            match step {
                Step::Field(Some(name)) if reference.exact => reference.path.push(name),
                Step::Field(_) => reference.exact = false,
                Step::Index(index) => {
                    reference.exact = false;
                    reference.indices.push(index);
                }
            }
        }
        reference
    }
}
