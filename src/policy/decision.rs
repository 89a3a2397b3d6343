use std::{fmt, sync::Arc};

use serde::Serialize;
use serde_json::{Map, Value};

use super::PolicyError;

/// What a policy says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The call may happen.
    Allow,
    /// The call may not happen.
    Deny,
}

impl Effect {
    /// The stable name, as audit records show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Names one decision: OPA's `decision_id` where the engine gives one, else 128 random bits in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct DecisionId(Arc<str>);

impl DecisionId {
    /// Takes over the id that the engine gave.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// Makes a fresh id.
    #[must_use]
    pub fn random() -> Self {
        Self(crate::random::hex_128().as_str().into())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names the version of the policy that decided: a bundle revision, or a digest of the source. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct PolicyRevision(Arc<str>);

impl PolicyRevision {
    /// Keeps a revision; an empty one becomes `unknown`.
    #[must_use]
    pub fn new(revision: impl Into<Arc<str>>) -> Self {
        let revision = revision.into();
        Self(if revision.is_empty() { "unknown".into() } else { revision })
    }

    /// The revision.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Something that must be done for the decision to hold: an allow whose obligation has no handler, or whose handler fails,
/// is a denial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Obligation {
    /// Which obligation: handlers are registered by it.
    pub id: Arc<str>,
    /// The members beside `id`, as the policy wrote them.
    pub properties: Map<String, Value>,
}

/// Something that may be done or ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Advice {
    /// Which advice.
    pub id: Arc<str>,
    /// The members beside `id`, as the policy wrote them.
    pub properties: Map<String, Value>,
}

/// What a policy engine decided about one call. There is no default: it is always made on purpose.
#[derive(Clone, Debug)]
#[must_use = "a decision does nothing until it is enforced"]
pub struct Decision {
    effect: Effect,
    undefined: bool,
    id: DecisionId,
    revision: PolicyRevision,
    reasons: Vec<String>,
    obligations: Vec<Obligation>,
    advice: Vec<Advice>,
    result: Option<Arc<Value>>,
    decided_by: Option<Arc<str>>,
    cached: bool,
}

impl Decision {
    fn new(effect: Effect, undefined: bool, revision: PolicyRevision) -> Self {
        Self {
            effect,
            undefined,
            id: DecisionId::random(),
            revision,
            reasons: Vec::new(),
            obligations: Vec::new(),
            advice: Vec::new(),
            result: None,
            decided_by: None,
            cached: false,
        }
    }

    /// The call may happen.
    pub fn allow(revision: PolicyRevision) -> Self {
        Self::new(Effect::Allow, false, revision)
    }

    /// The call may not happen.
    pub fn deny(revision: PolicyRevision) -> Self {
        Self::new(Effect::Deny, false, revision)
    }

    /// The policy says nothing about the call: a denial with a reason of its own, since the cause is often a wrong path.
    pub fn undefined(revision: PolicyRevision) -> Self {
        Self::new(Effect::Deny, true, revision)
    }

    /// Reads a policy result: a boolean, or an object with exactly one kind of verdict in `decision`, `allow` or `allowed`
    /// (several must agree), and optionally `reasons` (texts), `obligations` and `advice` (objects with an `id`).
    ///
    /// # Errors
    ///
    /// [`PolicyError::invalid_result`] for anything else. A result that is not understood whole is no decision.
    pub fn from_result(result: &Value, revision: PolicyRevision) -> Result<Self, PolicyError> {
        let verdict = |allowed: bool| {
            if allowed { Self::allow(revision.clone()) } else { Self::deny(revision.clone()) }
        };
        let mut decision = match result {
            Value::Bool(allowed) => verdict(*allowed),
            Value::Object(members) => {
                let mut allowed = None;
                for name in ["decision", "allow", "allowed"] {
                    match (members.get(name), allowed) {
                        (None, _) => {}
                        (Some(Value::Bool(value)), None) => allowed = Some(*value),
                        (Some(Value::Bool(value)), Some(earlier)) if *value == earlier => {}
                        (Some(_), _) => {
                            return Err(PolicyError::invalid_result(format!(
                                "`{name}` is not a boolean or contradicts another member"
                            )));
                        }
                    }
                }
                let allowed = allowed.ok_or_else(|| {
                    PolicyError::invalid_result("the object has none of `decision`, `allow`, `allowed`")
                })?;
                let mut decision = verdict(allowed);
                decision.reasons = texts(members, "reasons")?;
                decision.obligations =
                    named(members, "obligations")?.map(|(id, properties)| Obligation { id, properties }).collect();
                decision.advice = named(members, "advice")?.map(|(id, properties)| Advice { id, properties }).collect();
                decision
            }
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(PolicyError::invalid_result("the result is neither a boolean nor an object"));
            }
        };
        decision.result = Some(Arc::new(result.clone()));
        Ok(decision)
    }

    /// Sets the engine's own id of the decision.
    pub fn with_id(mut self, id: DecisionId) -> Self {
        self.id = id;
        self
    }

    /// Adds a reason. For the audit record; a caller never sees it.
    pub fn add_reason(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    /// Adds an obligation.
    pub fn add_obligation(mut self, id: impl Into<Arc<str>>, properties: Map<String, Value>) -> Self {
        self.obligations.push(Obligation { id: id.into(), properties });
        self
    }

    /// Adds advice.
    pub fn add_advice(mut self, id: impl Into<Arc<str>>, properties: Map<String, Value>) -> Self {
        self.advice.push(Advice { id: id.into(), properties });
        self
    }

    /// Names the backend that decided, where several could have; one that is named already stands behind a slash. It stands in the audit
    /// record.
    pub fn with_decided_by(mut self, name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        self.decided_by = Some(match self.decided_by {
            Some(inner) => format!("{name}/{inner}").into(),
            None => name,
        });
        self
    }

    /// Says that this decision was made for an earlier, equal question.
    pub(crate) const fn into_cached(mut self) -> Self {
        self.cached = true;
        self
    }

    /// What the policy says. A `Decision` that says allow is not yet a permission: see [`enforce`](Self::enforce).
    #[must_use]
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// True when the policy says nothing about the call.
    #[must_use]
    pub const fn is_undefined(&self) -> bool {
        self.undefined
    }

    /// The id of this decision.
    #[must_use]
    pub const fn id(&self) -> &DecisionId {
        &self.id
    }

    /// The version of the policy that decided.
    #[must_use]
    pub const fn revision(&self) -> &PolicyRevision {
        &self.revision
    }

    /// Why, in the policy's words. For operators only.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// What must be done.
    #[must_use]
    pub fn obligations(&self) -> &[Obligation] {
        &self.obligations
    }

    /// What may be done.
    #[must_use]
    pub fn advice(&self) -> &[Advice] {
        &self.advice
    }

    /// What the engine gave, as [`from_result`](Self::from_result) was shown it, members that mean nothing here included. `None` for a
    /// decision that was made otherwise. For logs.
    #[must_use]
    pub fn result(&self) -> Option<&Value> {
        self.result.as_deref()
    }

    /// Which of several backends decided; `None` where there is one.
    #[must_use]
    pub fn decided_by(&self) -> Option<&str> {
        self.decided_by.as_deref()
    }

    /// True when it was made for an earlier, equal question ([`Cached`](super::Cached)).
    #[must_use]
    pub const fn is_cached(&self) -> bool {
        self.cached
    }

    /// Whether both demand the same of the enforcement point: effect, obligations, and whether the policy says anything at all.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        self.effect == other.effect && self.undefined == other.undefined && self.obligations == other.obligations
    }

    /// Carries the decision out: fulfils its obligations and hands over the permit, or says why not.
    ///
    /// `fulfil` is called once for each obligation, of allows and of denials, and all of them are tried. It returns true
    /// when the obligation was fulfilled; an unknown one is not.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when the policy denies or says nothing, or an obligation of an allow was not fulfilled.
    pub fn enforce(self, mut fulfil: impl FnMut(&Obligation) -> bool) -> Result<Permit, Refusal> {
        let mut unfulfilled = None;
        for obligation in &self.obligations {
            if !fulfil(obligation) && unfulfilled.is_none() {
                unfulfilled = Some(Arc::clone(&obligation.id));
            }
        }
        match (self.effect, self.undefined, unfulfilled) {
            (Effect::Deny, true, _) => Err(Refusal::Undefined),
            (Effect::Deny, false, _) => Err(Refusal::Denied),
            (Effect::Allow, _, Some(id)) => Err(Refusal::Unfulfilled(id)),
            (Effect::Allow, _, None) => {
                Ok(Permit(Arc::new(PermitParts { id: self.id, revision: self.revision, advice: self.advice })))
            }
        }
    }
}

fn texts(members: &Map<String, Value>, name: &str) -> Result<Vec<String>, PolicyError> {
    let odd = || PolicyError::invalid_result(format!("`{name}` is not a list of strings"));
    match members.get(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(odd)).collect()
        }
        Some(_) => Err(odd()),
    }
}

type Named = (Arc<str>, Map<String, Value>);

fn named(members: &Map<String, Value>, name: &str) -> Result<impl Iterator<Item = Named> + use<>, PolicyError> {
    let odd = || PolicyError::invalid_result(format!("`{name}` is not a list of objects with a string `id`"));
    let items = match members.get(name) {
        None => Vec::new(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::Object(object) => {
                    let mut properties = object.clone();
                    match properties.remove("id") {
                        Some(Value::String(id)) if !id.is_empty() => Ok((Arc::from(id), properties)),
                        _ => Err(odd()),
                    }
                }
                _ => Err(odd()),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(odd()),
    };
    Ok(items.into_iter())
}

/// Proof that a policy allowed the call and its obligations were fulfilled. Comes only out of [`Decision::enforce`]:
///
/// ```compile_fail,E0423
/// use portcullis::policy::Permit;
/// let forged = Permit(Default::default());
/// ```
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Permit(Arc<PermitParts>);

#[derive(Debug)]
struct PermitParts {
    id: DecisionId,
    revision: PolicyRevision,
    advice: Vec<Advice>,
}

impl Permit {
    /// The decision behind it.
    #[must_use]
    pub fn decision_id(&self) -> &DecisionId {
        &self.0.id
    }

    /// The version of the policy that decided.
    #[must_use]
    pub fn revision(&self) -> &PolicyRevision {
        &self.0.revision
    }

    /// What the policy advises the handler to do.
    #[must_use]
    pub fn advice(&self) -> &[Advice] {
        &self.0.advice
    }
}

/// Why a decision gives no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The policy denies.
    #[error("the policy denies the call")]
    Denied,
    /// The policy says nothing about the call.
    #[error("the policy is undefined for the call")]
    Undefined,
    /// The policy allows, but an obligation was not fulfilled.
    #[error("the obligation `{0}` was not fulfilled")]
    Unfulfilled(Arc<str>),
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Denied => "policy_denied",
            Self::Undefined => "policy_undefined",
            Self::Unfulfilled(_) => "policy_obligation_unfulfilled",
        }
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PolicyRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::PolicyErrorKind;

    fn read(result: &Value) -> Result<Decision, PolicyError> {
        Decision::from_result(result, PolicyRevision::new("r1"))
    }

    #[test]
    fn a_boolean_or_one_verdict_is_a_decision() {
        let allows = [
            json!(true),
            json!({"decision": true}),
            json!({"allow": true, "allowed": true}),
            json!({"allowed": true, "extra": [1]}),
        ];
        for result in allows {
            assert_eq!(read(&result).unwrap().effect(), Effect::Allow, "{result}");
        }
        for result in [json!(false), json!({"allow": false})] {
            assert_eq!(read(&result).unwrap().effect(), Effect::Deny, "{result}");
        }
    }

    #[test]
    fn an_effect_has_the_name_that_audit_records_show() {
        for effect in [Effect::Allow, Effect::Deny] {
            assert_eq!(json!(effect), effect.as_str());
        }
        assert_eq!((Effect::Allow.as_str(), Effect::Deny.as_str()), ("allow", "deny"));
    }

    #[test]
    fn a_permit_knows_its_decision() {
        let decision = Decision::allow(PolicyRevision::new("r1")).with_id(DecisionId::new("d1"));
        let permit = decision.add_advice("cache", Map::new()).enforce(|_| false).unwrap();
        assert_eq!((permit.decision_id().as_str(), permit.revision().as_str()), ("d1", "r1"));
        assert_eq!(permit.advice().iter().map(|advice| &*advice.id).collect::<Vec<_>>(), ["cache"]);
    }

    #[test]
    fn what_the_engine_gave_stays_with_the_decision() {
        for result in [json!(false), json!({"allow": true, "extra": [1]})] {
            assert_eq!(read(&result).unwrap().result(), Some(&result));
        }
        assert_eq!(Decision::undefined(PolicyRevision::new("r")).result(), None);
    }

    #[test]
    fn anything_else_is_no_decision() {
        let odd = [
            json!(null),
            json!({}),
            json!([]),
            json!("true"),
            json!(1),
            json!({"allow": "true"}),
            json!({"allow": 1}),
            json!({"allow": null}),
            json!({"allow": true, "decision": false}),
            json!({"allow": true, "obligations": {}}),
            json!({"allow": true, "obligations": [{}]}),
            json!({"allow": true, "obligations": [{"id": 1}]}),
            json!({"allow": true, "obligations": [{"id": ""}]}),
            json!({"allow": true, "reasons": "because"}),
            json!({"allow": true, "advice": [null]}),
        ];
        for result in odd {
            assert_eq!(read(&result).unwrap_err().kind(), PolicyErrorKind::InvalidResult, "{result}");
        }
    }

    #[test]
    fn only_an_allow_with_every_obligation_fulfilled_gives_a_permit() {
        let allow =
            read(&json!({"allow": true, "obligations": [{"id": "log"}, {"id": "mask", "fields": ["x"]}]})).unwrap();
        let mut seen = Vec::new();
        let permit = allow.clone().enforce(|obligation| {
            seen.push(obligation.id.to_string());
            true
        });
        assert!(permit.is_ok());
        assert_eq!(seen, ["log", "mask"]);
        assert_eq!(allow.clone().enforce(|o| &*o.id == "mask").unwrap_err(), Refusal::Unfulfilled("log".into()));
        assert_eq!(allow.enforce(|_| false).unwrap_err().code(), "policy_obligation_unfulfilled");
    }

    #[test]
    fn denied_and_undefined_are_told_apart() {
        assert_eq!(Decision::deny(PolicyRevision::new("r")).enforce(|_| true).unwrap_err(), Refusal::Denied);
        assert_eq!(Decision::undefined(PolicyRevision::new("r")).enforce(|_| true).unwrap_err(), Refusal::Undefined);
    }

    #[test]
    fn a_revision_is_never_empty_and_ids_differ() {
        assert_eq!(PolicyRevision::new("").as_str(), "unknown");
        assert_ne!(DecisionId::random(), DecisionId::random());
    }
}
