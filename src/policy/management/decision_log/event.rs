use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    policy::{Decision, InputFormat, PolicyErrorKind, PolicyInput, PolicyRevision},
    random::hex_128,
    time::UnixTime,
};

/// What is known of a decision when it was made, nothing masked: it is neither printed nor kept.
pub(super) struct Made {
    pub(super) input: PolicyInput,
    pub(super) format: InputFormat,
    pub(super) path: Arc<str>,
    pub(super) outcome: Result<Decision, (PolicyErrorKind, String)>,
    pub(super) at: UnixTime,
    pub(super) took: Duration,
    /// Which decision of this process, from 1 on.
    pub(super) number: u64,
}

impl Made {
    /// The event, as Open Policy Agent writes it. `None` for an input that cannot be written down.
    pub(super) fn event(&self, labels: &Map<String, Value>) -> Option<Map<String, Value>> {
        let input = serde_json::to_value(self.format.document(&self.input)).ok()?;
        Some(self.event_about(Some(input), labels))
    }

    /// The event without input and result.
    pub(super) fn stripped(&self, labels: &Map<String, Value>) -> Map<String, Value> {
        let mut event = self.event_about(None, labels);
        let erased = if event.remove("result").is_some() { json!(["/input", "/result"]) } else { json!(["/input"]) };
        event.insert("erased".to_owned(), erased);
        self.hide_caller(&mut event);
        event
    }

    /// Leaves out whose address it was unless the input, masked by now, still says it: where it is secret there, it is here too.
    pub(super) fn hide_caller(&self, event: &mut Map<String, Value>) {
        let address = &*self.input.context.peer.ip;
        if !event.get("input").is_some_and(|input| holds(input, address)) {
            event.remove("requested_by");
        }
    }

    fn event_about(&self, input: Option<Value>, labels: &Map<String, Value>) -> Map<String, Value> {
        let mut event = Map::new();
        let mut put = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
        put("labels", Value::Object(labels.clone()));
        put("path", json!(self.path));
        put("timestamp", json!(timestamp(self.at)));
        put("req_id", json!(self.number));
        put(
            "metrics",
            json!({"timer_portcullis_decision_ns": u64::try_from(self.took.as_nanos()).unwrap_or(u64::MAX)}),
        );
        match &self.outcome {
            Ok(decision) => {
                put("decision_id", json!(decision.id()));
                let (name, revision) = revision(decision.revision());
                put(name, revision);
                if let Some(result) = result(decision) {
                    put("result", result);
                }
            }
            Err((kind, message)) => {
                put("decision_id", json!(hex_128().as_str()));
                put("error", json!({"code": kind.code(), "message": message}));
            }
        }
        if let Some(input) = input {
            put("input", input);
        }
        let context = &self.input.context;
        if !context.trace_id.is_empty() {
            put("trace_id", json!(context.trace_id));
        }
        if !context.peer.ip.is_empty() {
            put("requested_by", json!(context.peer.ip));
        }
        // Where a server of Open Policy Agent has it from `policy::Opa`.
        if !context.request_id.is_empty() {
            put("request_context", json!({"http": {"headers": {"x-request-id": [context.request_id]}}}));
        }
        event
    }
}

/// Whether this text is somewhere in it.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(members) => members.values().any(|member| holds(member, text)),
        _ => false,
    }
}

/// What the policy gave, where that is known, and otherwise the same in the form that [`Decision::from_result`] reads.
fn result(decision: &Decision) -> Option<Value> {
    if decision.is_undefined() {
        return None;
    }
    if let Some(result) = decision.result() {
        return Some(result.clone());
    }
    let mut result = json!({"allow": decision.effect() == crate::policy::Effect::Allow});
    if let Value::Object(members) = &mut result {
        let named = |id: &Arc<str>, properties: &Map<String, Value>| {
            let mut object = properties.clone();
            object.insert("id".to_owned(), json!(id));
            Value::Object(object)
        };
        let obligations = decision.obligations().iter().map(|it| named(&it.id, &it.properties)).collect();
        let advice = decision.advice().iter().map(|it| named(&it.id, &it.properties)).collect();
        let reasons = decision.reasons().iter().map(|reason| json!(reason)).collect();
        for (name, list) in [("reasons", reasons), ("obligations", obligations), ("advice", advice)] {
            let list: Vec<Value> = list;
            if !list.is_empty() {
                members.insert(name.to_owned(), Value::Array(list));
            }
        }
    }
    Some(result)
}

/// `name=revision`, joined by commas, are those of bundles.
fn revision(revision: &PolicyRevision) -> (&'static str, Value) {
    let bundle = |part: &str| {
        let (name, revision) = part.split_once('=')?;
        let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
        is_name.then(|| (name.to_owned(), json!({"revision": revision})))
    };
    let bundles: Option<Map<String, Value>> = revision.as_str().split(',').map(bundle).collect();
    bundles.map_or_else(|| ("revision", json!(revision)), |bundles| ("bundles", Value::Object(bundles)))
}

/// RFC 3339 in UTC, with nanoseconds.
fn timestamp(at: UnixTime) -> String {
    let nanos = i128::try_from(at.since_epoch().as_nanos()).unwrap_or(i128::MAX);
    let utc = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    utc.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::DecisionId, testing::policy_input};

    fn made(outcome: Result<Decision, (PolicyErrorKind, String)>) -> Made {
        let mut input = policy_input("GET", "/jobs");
        input.context.request_id = "r-1".to_owned();
        input.context.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736".to_owned();
        input.context.peer.ip = "203.0.113.7".to_owned();
        let at = UnixTime::from_duration(Duration::new(1_800_000_000, 7));
        let (path, took) = ("authz/decision".into(), Duration::from_micros(70));
        Made { input, format: InputFormat::AuthZen, path, outcome, at, took, number: 7 }
    }

    #[test]
    fn an_event_has_the_members_of_open_policy_agent() {
        let revision = PolicyRevision::new("authz=r7,roles=r2");
        let given = json!({"allow": true, "extra": 1});
        let decision = Decision::from_result(&given, revision).unwrap().with_id(DecisionId::new("d-1"));
        let made = made(Ok(decision));
        let labels = Map::from_iter([("app".to_owned(), json!("orders"))]);
        assert_eq!(
            Value::Object(made.event(&labels).unwrap()),
            json!({
                "labels": {"app": "orders"},
                "decision_id": "d-1",
                "bundles": {"authz": {"revision": "r7"}, "roles": {"revision": "r2"}},
                "path": "authz/decision",
                "input": made.input,
                "result": given,
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                "requested_by": "203.0.113.7",
                "request_context": {"http": {"headers": {"x-request-id": ["r-1"]}}},
                "timestamp": "2027-01-15T08:00:00.000000007Z",
                "metrics": {"timer_portcullis_decision_ns": 70_000},
                "req_id": 7,
            })
        );
        let stripped = made.stripped(&labels);
        assert_eq!(stripped["erased"], json!(["/input", "/result"]));
        assert!(["input", "result", "requested_by"].iter().all(|name| !stripped.contains_key(*name)));
        assert_eq!(stripped["decision_id"], "d-1");
    }

    #[test]
    fn an_address_that_is_erased_from_the_input_stands_nowhere_else() {
        let made = made(Ok(Decision::deny(PolicyRevision::new("r"))));
        let mut event = made.event(&Map::new()).unwrap();
        made.hide_caller(&mut event);
        assert_eq!(event["requested_by"], "203.0.113.7");
        event["input"]["context"]["peer"] = json!({"ip": "**"});
        made.hide_caller(&mut event);
        assert!(!Value::Object(event).to_string().contains("203.0.113.7"));
    }

    #[test]
    fn undefined_has_no_result_and_an_error_is_told() {
        let undefined = made(Ok(Decision::undefined(PolicyRevision::new("sha256:00")))).event(&Map::new()).unwrap();
        assert_eq!((undefined.get("result"), &undefined["revision"]), (None, &json!("sha256:00")));
        let failed = made(Err((PolicyErrorKind::Timeout, "late".to_owned())));
        let event = failed.event(&Map::new()).unwrap();
        assert_eq!(event["error"], json!({"code": "policy_timeout", "message": "late"}));
        assert!(!event.contains_key("result") && event["decision_id"].as_str().is_some_and(|id| id.len() == 32));
        assert_eq!(failed.stripped(&Map::new())["erased"], json!(["/input"]));
    }

    #[test]
    fn a_decision_that_no_engine_gave_is_put_into_words() {
        let revision = || PolicyRevision::new("r");
        assert_eq!(result(&Decision::deny(revision())), Some(json!({"allow": false})));
        let properties = Map::from_iter([("n".to_owned(), json!(1))]);
        let decision = Decision::allow(revision()).add_reason("why").add_obligation("mask", properties);
        let words = json!({"allow": true, "reasons": ["why"], "obligations": [{"id": "mask", "n": 1}]});
        assert_eq!(result(&decision), Some(words));
    }

    #[test]
    fn revisions_that_are_not_of_bundles_are_whole() {
        for text in ["r7", "sha256:00", "opa:1.20.2", "=r", "a b=r", "a=r,b"] {
            assert_eq!(revision(&PolicyRevision::new(text)), ("revision", json!(text)));
        }
        assert_eq!(revision(&PolicyRevision::new("a=b=c")), ("bundles", json!({"a": {"revision": "b=c"}})));
    }
}
