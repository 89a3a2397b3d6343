//! Why a policy decided as it did: for operators, never for callers.

#[cfg(feature = "rego")]
mod recorded;
mod text;

use serde::Serialize;
use serde_json::Value;

#[cfg(feature = "rego")]
pub use self::recorded::{Recorded, RecordedError};
pub(crate) use self::text::{Paint, Tone, plain};
use super::{Advice, Effect, Obligation, PolicyRevision};

/// Why a policy decides as it does about one question: the decision, and the rules that lead to it, each with its own value.
///
/// For operators. It holds what the question holds, and what policy and data say of it: keep it where audit records are kept. Its
/// [`Display`](std::fmt::Display) form is for people and may change; the serialized one only grows.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PolicyExplanation {
    /// The rule that decides.
    pub decision_path: String,
    /// The version of the policy that was asked.
    pub revision: PolicyRevision,
    /// What would be enforced. A deny where there is no decision.
    pub effect: Effect,
    /// True when the rule that decides has no value for this question.
    pub undefined: bool,
    /// Why there is no decision, where there is none: a stable code and the engine's words.
    pub error: Option<ExplainedError>,
    /// The value of the rule that decides, as the policy gave it.
    pub result: Option<Value>,
    /// Why, in the policy's own words.
    pub reasons: Vec<String>,
    /// What has to be fulfilled for an allow to hold.
    pub obligations: Vec<Obligation>,
    /// What may be fulfilled.
    pub advice: Vec<Advice>,
    /// The parts of the question that the decision depends on, with their values. Empty where it depends on more than can be told
    /// from the policy's text.
    pub reads: Vec<ReadPart>,
    /// True when the decision depends on something beside the question and the data, such as the time.
    pub reads_more_than_the_input: bool,
    /// The rules: first those that the decision depends on, each after the one that refers to it, then the others of its package.
    pub rules: Vec<ExplainedRule>,
    /// What was decided when the question was recorded, where that is known.
    pub recorded: Option<RecordedOutcome>,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExplainedError {
    /// The stable code, as audit records show it.
    pub code: &'static str,
    /// What happened, and where.
    pub detail: String,
}

/// A part of the question.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReadPart {
    /// Its path below `input`, joined by dots.
    pub path: String,
    /// What stands there; `None` when nothing does.
    pub value: Option<Value>,
}

/// One rule, evaluated by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExplainedRule {
    /// Its path (`data.authz.decision`).
    pub path: String,
    /// Its value; `None` when it has none for this question, when it is a function, and when it failed.
    pub value: Option<Value>,
    /// Why it has no value, where the evaluation failed.
    pub error: Option<String>,
    /// True for a function, which has no value by itself.
    pub function: bool,
    /// True when the decision depends on it.
    pub decides: bool,
    /// How many references lead from the rule that decides to this one.
    pub depth: usize,
    /// The definitions, in the order in which they stand.
    pub definitions: Vec<ExplainedDefinition>,
}

/// One of the definitions of a rule: its head, and the conditions behind `if` or `else`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExplainedDefinition {
    /// The module.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// That line, as it stands there.
    pub text: String,
    /// True for `default`, which holds where nothing else does.
    pub default: bool,
    /// Whether its conditions hold for this question; `None` when that cannot be told, as for functions.
    pub holds: Option<bool>,
    /// The first condition that does not hold together with those before it.
    pub failed: Option<FailedCondition>,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailedCondition {
    /// The line, counted from 1.
    pub line: u32,
    /// The condition, as it stands in the module.
    pub text: String,
    /// True when it could not be evaluated at all.
    pub error: bool,
}

/// What was decided when a question was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RecordedOutcome {
    /// The id of the decision.
    pub decision_id: Option<String>,
    /// The result at that time; `None` when it was undefined or was not recorded.
    pub result: Option<Value>,
    /// Whether the effect is the same now; `None` when no result was recorded.
    pub agrees: Option<bool>,
    /// What a mask took out of the recorded question or changed in it (`/input/subject/id`): the policy was asked with less now.
    pub masked: Vec<String>,
}
