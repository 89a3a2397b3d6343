use serde_json::{Map, Value};

use crate::policy::{Decision, InputFormat, PolicyInput, PolicyRevision, RecordedOutcome};

/// A question that was put to a policy at some time, for [`Rego::explain`](crate::policy::Rego::explain).
///
/// ```
/// use portcullis::policy::Recorded;
///
/// let event = r#"{"decision_id": "4ca6", "path": "authz/decision", "input": {"subject": {"id": "ada"}}, "result": false}"#;
/// let recorded = Recorded::parse(event)?;
/// assert_eq!(recorded.decision_path(), Some("data.authz.decision"));
/// assert_eq!(recorded.input()["subject"]["id"], "ada");
/// # Ok::<(), portcullis::policy::RecordedError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Recorded {
    input: Value,
    path: Option<String>,
    decision_id: Option<String>,
    result: Option<Value>,
    masked: Vec<String>,
    is_event: bool,
}

/// Why something is not a recorded question.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordedError {
    /// It is not JSON.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// It is JSON, and neither a question nor an event of a decision log.
    #[error("neither an input document nor an event of a decision log: {0}")]
    Shape(&'static str),
}

impl Recorded {
    /// This question, in this form.
    #[must_use]
    pub fn of(input: &PolicyInput, format: InputFormat) -> Self {
        Self::document(serde_json::to_value(format.document(input)).unwrap_or_default())
    }

    /// Reads one question from JSON: an input document, a request body that has one as its `input`, or an event of Open Policy Agent's
    /// [decision log](https://www.openpolicyagent.org/docs/management-decision-logs), whose `path` and `result` are kept too.
    ///
    /// # Errors
    ///
    /// [`RecordedError`]. The text is not quoted in it but for what the JSON reader says: a place.
    pub fn parse(text: &str) -> Result<Self, RecordedError> {
        Self::from_value(serde_json::from_str(text).map_err(RecordedError::Json)?)
    }

    /// As [`parse`](Self::parse), for JSON that was read already.
    ///
    /// # Errors
    ///
    /// [`RecordedError::Shape`].
    pub fn from_value(value: Value) -> Result<Self, RecordedError> {
        let Value::Object(mut members) = value else {
            return Err(RecordedError::Shape("it is no object"));
        };
        let is_event =
            ["decision_id", "labels", "path", "result", "query"].iter().any(|name| members.contains_key(*name));
        let is_question =
            ["subject", "action", "resource", "attributes"].iter().any(|name| members.contains_key(*name));
        if is_question || !(is_event || (members.len() == 1 && members.contains_key("input"))) {
            return Ok(Self::document(Value::Object(members)));
        }
        let Some(input) = members.remove("input") else {
            return Err(RecordedError::Shape(
                "the event has no `input`: it was masked, or the policy was asked without one",
            ));
        };
        let text = |members: &Map<String, Value>, name: &str| members.get(name)?.as_str().map(str::to_owned);
        let masked = ["erased", "masked"].iter().filter_map(|name| members.get(*name)?.as_array());
        Ok(Self {
            input,
            path: text(&members, "path").filter(|path| !path.is_empty()).map(|path| {
                let steps = path.trim_matches('/').split('/').collect::<Vec<_>>();
                ["data"]
                    .into_iter()
                    .chain(steps.into_iter().skip_while(|step| *step == "data"))
                    .collect::<Vec<_>>()
                    .join(".")
            }),
            decision_id: text(&members, "decision_id"),
            masked: masked.flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
            result: members.remove("result"),
            is_event,
        })
    }

    fn document(input: Value) -> Self {
        Self { input, path: None, decision_id: None, result: None, masked: Vec::new(), is_event: false }
    }

    /// The question.
    #[must_use]
    pub fn input(&self) -> &Value {
        &self.input
    }

    /// The rule that was asked for, where that was recorded.
    #[must_use]
    pub fn decision_path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The id of the decision, where that was recorded.
    #[must_use]
    pub fn decision_id(&self) -> Option<&str> {
        self.decision_id.as_deref()
    }

    /// What was recorded of the answer, compared with the answer of now.
    pub(in crate::policy) fn outcome(&self, now: &Decision) -> Option<RecordedOutcome> {
        self.is_event.then(|| {
            let then = self.result.as_ref().map(|result| {
                Decision::from_result(result, PolicyRevision::new(String::new())).map(|decision| decision.effect())
            });
            RecordedOutcome {
                decision_id: self.decision_id.clone(),
                result: self.result.clone(),
                agrees: then.map(|then| then.is_ok_and(|then| then == now.effect())),
                masked: self.masked.clone(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_a_request_body_and_an_event_are_told_apart() {
        let question = json!({"subject": {"id": "ada"}, "action": {}, "resource": {}, "context": {}});
        let cases = [
            ("question", question.clone(), None, false),
            ("another form", json!({"attributes": {}, "input": 1}), None, false),
            ("request body", json!({"input": question}), None, false),
            ("event", json!({"path": "authz/decision", "input": question}), Some("data.authz.decision"), true),
            (
                "with a slash",
                json!({"path": "/data/authz/decision", "input": question}),
                Some("data.authz.decision"),
                true,
            ),
            ("a query", json!({"query": "x = data.a", "decision_id": "7", "input": question}), None, true),
        ];
        for (name, value, path, is_event) in cases {
            let recorded = Recorded::from_value(value.clone()).unwrap();
            assert_eq!((recorded.decision_path(), recorded.is_event), (path, is_event), "{name}");
            let asked = if name == "another form" { &value } else { &question };
            assert_eq!(recorded.input(), asked, "{name}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        for (text, words) in [("{", "not JSON"), ("[]", "no object"), ("{\"decision_id\": \"7\"}", "no `input`")] {
            assert!(Recorded::parse(text).unwrap_err().to_string().contains(words), "{text}");
        }
    }

    #[test]
    fn the_answer_of_then_is_compared_by_its_effect() {
        let of = |event: Value| {
            let now = Decision::deny(PolicyRevision::new("r2"));
            Recorded::from_value(event).unwrap().outcome(&now)
        };
        assert_eq!(of(json!({"subject": {}})), None);
        for (result, agrees) in [(json!({"allow": true}), false), (json!(false), true), (json!("odd"), false)] {
            let outcome =
                of(json!({"input": {}, "decision_id": "7", "result": result, "erased": ["/input/token"]})).unwrap();
            assert_eq!((outcome.agrees, outcome.masked.len()), (Some(agrees), 1), "{result}");
        }
        assert_eq!(of(json!({"input": {}, "path": "a/b"})).unwrap().agrees, None);
    }
}
