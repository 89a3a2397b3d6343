use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::Semantic;
use crate::{
    json,
    policy::{Decision, Effect, PolicyError, PolicyRevision, remote::is_json},
};

/// Reads the answer to one question. The status says whether there is a decision, and never which: a deny is 200.
pub(super) fn evaluation(answer: &Response<Bytes>, revision: &PolicyRevision) -> Result<Decision, PolicyError> {
    decision(&object(answer)?, revision)
}

/// Reads the answer to several questions, as far as they were to be decided.
pub(super) fn evaluations(
    answer: &Response<Bytes>,
    asked: usize,
    semantic: Semantic,
    revision: &PolicyRevision,
) -> Result<Vec<Decision>, PolicyError> {
    let members = object(answer)?;
    // A decision point that does not know the interface answers the first question, or the defaults of all, in a `decision` of the whole.
    let Some(Value::Array(results)) = members.get("evaluations") else {
        return Err(PolicyError::invalid_result(ReplyError::NoEvaluations));
    };
    let results = results.iter().map(|result| match result {
        Value::Object(members) => decision(members, revision),
        _ => Err(PolicyError::invalid_result(ReplyError::Garbage)),
    });
    let mut decisions = results.collect::<Result<Vec<_>, _>>()?;
    if decisions.len() > asked {
        return Err(PolicyError::invalid_result(ReplyError::Count));
    }
    match decisions.iter().position(|decision| semantic.stops_at(decision)) {
        Some(last) => decisions.truncate(last + 1),
        // What is missing without a reason may be any of them: then no decision is known to be about its question.
        None if decisions.len() < asked => return Err(PolicyError::invalid_result(ReplyError::Count)),
        None => {}
    }
    Ok(decisions)
}

impl Semantic {
    pub(super) fn stops_at(self, decision: &Decision) -> bool {
        match self {
            Self::ExecuteAll => false,
            Self::DenyOnFirstDeny => decision.effect() == Effect::Deny,
            Self::PermitOnFirstPermit => decision.effect() == Effect::Allow,
        }
    }
}

fn object(answer: &Response<Bytes>) -> Result<Map<String, Value>, PolicyError> {
    match answer.status() {
        StatusCode::OK => {}
        // Of this question, and not of the decision point: it must not count as one that does not answer.
        status @ (StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::INTERNAL_SERVER_ERROR) => return Err(PolicyError::evaluation(ReplyError::Rejected(status))),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            return Err(PolicyError::unavailable(ReplyError::NotWelcome(status)));
        }
        status if status.is_redirection() => return Err(PolicyError::unavailable(ReplyError::Redirect(status))),
        status => return Err(PolicyError::unavailable(ReplyError::Status(status))),
    }
    if !is_json(answer.headers()) {
        return Err(PolicyError::invalid_result(ReplyError::NotJson));
    }
    // A repeated member is refused: two readers could see two decisions in it.
    json::object(answer.body()).ok_or_else(|| PolicyError::invalid_result(ReplyError::Garbage))
}

fn decision(members: &Map<String, Value>, revision: &PolicyRevision) -> Result<Decision, PolicyError> {
    let Some(Value::Bool(allowed)) = members.get("decision") else {
        return Err(PolicyError::invalid_result(ReplyError::NoDecision));
    };
    let mut decision = if *allowed { Decision::allow(revision.clone()) } else { Decision::deny(revision.clone()) };
    let context = match members.get("context") {
        None | Some(Value::Null) => return Ok(decision),
        Some(Value::Object(context)) => context,
        Some(_) => return Err(PolicyError::invalid_result(ReplyError::Context)),
    };
    for reason in reasons(context) {
        decision = decision.add_reason(reason);
    }
    let obligations = match context.get("obligations") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(obligations)) => obligations.as_slice(),
        Some(_) => return Err(PolicyError::invalid_result(ReplyError::Obligations)),
    };
    for obligation in obligations {
        let (name, properties) =
            named(obligation).ok_or_else(|| PolicyError::invalid_result(ReplyError::Obligations))?;
        decision = decision.add_obligation(name, properties);
    }
    Ok(decision)
}

/// In the profile for obligations `type` says what is to be done, and `id` which of several it is. Where there is no `type`, the `id` is all
/// there is to know it by.
fn named(obligation: &Value) -> Option<(String, Map<String, Value>)> {
    let mut properties = obligation.as_object()?.clone();
    let name = properties.remove("type").or_else(|| properties.remove("id"))?;
    match name {
        Value::String(name) if !name.is_empty() => Some((name, properties)),
        _ => None,
    }
}

/// What is said of reasons, in any of the forms that the specification shows. None of it changes the decision, and so none of it can be wrong.
fn reasons(context: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["reason", "reason_admin", "reason_user", "error"] {
        match context.get(name) {
            Some(Value::String(text)) => found.push(text.clone()),
            Some(Value::Object(texts)) => {
                found.extend(texts.iter().filter_map(|(key, text)| match text {
                    Value::String(text) => Some(format!("{key}: {text}")),
                    Value::Number(number) => Some(format!("{key}: {number}")),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    found
}

#[derive(Debug, thiserror::Error)]
enum ReplyError {
    #[error(
        "the decision point answered {0} to the question: its log says what is wrong with it; another mapping may be needed (`with_mapping`)"
    )]
    Rejected(StatusCode),
    #[error(
        "the decision point answered {0}: it does not accept this service; set the credential that it wants with `with_bearer`, \
         `with_bearer_file` or `with_identity`"
    )]
    NotWelcome(StatusCode),
    #[error("the decision point answered {0}, and redirects are not followed: give the address that answers itself")]
    Redirect(StatusCode),
    #[error("the decision point answered {0}")]
    Status(StatusCode),
    #[error("the decision point answered with something else than JSON")]
    NotJson,
    #[error("the decision point's answer is no JSON object, or repeats a member")]
    Garbage,
    #[error("`decision` is missing or no boolean")]
    NoDecision,
    #[error("`context` is no object")]
    Context,
    #[error("`context.obligations` is not a list of objects with a text `type` or `id`")]
    Obligations,
    #[error("`evaluations` is missing or no list: does the decision point have an Access Evaluations API?")]
    NoEvaluations,
    #[error("there are more or fewer decisions than questions")]
    Count,
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::policy::PolicyErrorKind;

    fn answer(status: u16, body: &str) -> Response<Bytes> {
        let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
        response.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    fn one(body: &str) -> Result<Decision, PolicyError> {
        evaluation(&answer(200, body), &PolicyRevision::new("r"))
    }

    fn several(body: &str, asked: usize, semantic: Semantic) -> Result<Vec<Effect>, PolicyErrorKind> {
        evaluations(&answer(200, body), asked, semantic, &PolicyRevision::new("r"))
            .map(|decisions| decisions.iter().map(Decision::effect).collect())
            .map_err(|error| error.kind())
    }

    #[test]
    fn a_boolean_is_a_decision_and_unknown_members_are_ignored() {
        let cases = [
            (r#"{"decision": true}"#, Effect::Allow),
            (r#"{"decision": false}"#, Effect::Deny),
            (r#"{"context": null, "decision": true, "future": {"decision": false}}"#, Effect::Allow),
            (
                r#"{"decision": true, "allow": false, "context": {"environment": [1], "obligations": null}}"#,
                Effect::Allow,
            ),
            (r#"{"decision": false, "context": {"error": {"status": 404}}}"#, Effect::Deny),
        ];
        for (body, effect) in cases {
            let decision = one(body).unwrap();
            assert_eq!((decision.effect(), decision.is_undefined()), (effect, false), "{body}");
        }
    }

    #[test]
    fn what_is_not_understood_whole_is_no_decision() {
        let bodies = [
            "",
            "true",
            "null",
            "{}",
            r#"[{"decision": true}]"#,
            r#"{"decision": true"#,
            r#"{"decision": true} {}"#,
            r#"{"decision": null}"#,
            r#"{"decision": "true"}"#,
            r#"{"decision": 1}"#,
            r#"{"decision": [true]}"#,
            r#"{"decision": {"decision": true}}"#,
            r#"{"Decision": true}"#,
            r#"{"allow": true}"#,
            r#"{"result": true}"#,
            r#"{"evaluations": [{"decision": true}]}"#,
            r#"{"decision": false, "decision": true}"#,
            r#"{"decision": true, "\u0064ecision": false}"#,
            r#"{"decision": true, "context": 7}"#,
            r#"{"decision": true, "context": []}"#,
            r#"{"decision": true, "context": {"a": 1, "a": 2}}"#,
            r#"{"decision": true, "context": {"obligations": {}}}"#,
            r#"{"decision": true, "context": {"obligations": "mask"}}"#,
            r#"{"decision": true, "context": {"obligations": ["mask"]}}"#,
            r#"{"decision": true, "context": {"obligations": [{}]}}"#,
            r#"{"decision": true, "context": {"obligations": [{"id": 7}]}}"#,
            r#"{"decision": true, "context": {"obligations": [{"id": ""}]}}"#,
            r#"{"decision": true, "context": {"obligations": [{"type": 7, "id": "mask"}]}}"#,
            r#"{"decision": true, "context": {"obligations": [{"id": "mask"}, null]}}"#,
        ];
        for body in bodies {
            assert_eq!(one(body).unwrap_err().kind(), PolicyErrorKind::InvalidResult, "{body}");
        }
    }

    #[test]
    fn an_allow_with_an_obligation_that_nobody_fulfils_is_a_denial() {
        let body = r#"{"decision": true, "context": {"obligations": [
            {"type": "step-up", "id": "obl-1", "acr_value": "urn:x"}, {"id": "mask", "field": "x"}]}}"#;
        let decision = one(body).unwrap();
        let named: Vec<_> = decision.obligations().iter().map(|obligation| &*obligation.id).collect();
        assert_eq!(named, ["step-up", "mask"]);
        assert_eq!(
            serde_json::to_value(&decision.obligations()[0].properties).unwrap(),
            serde_json::json!({"id": "obl-1", "acr_value": "urn:x"})
        );
        assert!(decision.clone().enforce(|obligation| &*obligation.id == "mask").is_err());
        assert!(decision.enforce(|_| true).is_ok());
    }

    #[test]
    fn reasons_are_kept_in_whatever_form_they_come() {
        let body = r#"{"decision": false, "context": {"reason": "owner", "reason_admin": {"403": "policy C07"}, "reason_user": {"en": ["?"]},
            "error": {"status": 404, "message": "no such resource"}}}"#;
        assert_eq!(
            one(body).unwrap().reasons(),
            ["owner", "403: policy C07", "message: no such resource", "status: 404"]
        );
    }

    #[test]
    fn several_decisions_keep_their_order_and_stop_only_where_they_may() {
        use Effect::{Allow, Deny};
        use Semantic::{DenyOnFirstDeny, ExecuteAll, PermitOnFirstPermit};
        const LACKING: Result<Vec<Effect>, PolicyErrorKind> = Err(PolicyErrorKind::InvalidResult);
        let cases = [
            ("tft", ExecuteAll, Ok(vec![Allow, Deny, Allow])),
            ("tf", ExecuteAll, LACKING),
            ("tttt", ExecuteAll, LACKING),
            ("", ExecuteAll, LACKING),
            ("ttt", DenyOnFirstDeny, Ok(vec![Allow; 3])),
            ("tf", DenyOnFirstDeny, Ok(vec![Allow, Deny])),
            ("f", DenyOnFirstDeny, Ok(vec![Deny])),
            ("tft", DenyOnFirstDeny, Ok(vec![Allow, Deny])),
            ("t", DenyOnFirstDeny, LACKING),
            ("tt", DenyOnFirstDeny, LACKING),
            ("", DenyOnFirstDeny, LACKING),
            ("tttf", DenyOnFirstDeny, LACKING),
            ("fff", PermitOnFirstPermit, Ok(vec![Deny; 3])),
            ("ft", PermitOnFirstPermit, Ok(vec![Deny, Allow])),
            ("t", PermitOnFirstPermit, Ok(vec![Allow])),
            ("tff", PermitOnFirstPermit, Ok(vec![Allow])),
            ("ff", PermitOnFirstPermit, LACKING),
            ("", PermitOnFirstPermit, LACKING),
        ];
        for (results, semantic, expected) in cases {
            let items: Vec<_> = results.chars().map(|one| format!(r#"{{"decision": {}}}"#, one == 't')).collect();
            let body = format!(r#"{{"decision": true, "evaluations": [{}]}}"#, items.join(","));
            assert_eq!(several(&body, 3, semantic), expected, "{results} {semantic:?}");
        }
    }

    #[test]
    fn as_many_decisions_as_may_be_asked_for_are_read_with_all_that_is_said_of_them() {
        let asked = crate::policy::AuthZen::MAX_EVALUATIONS;
        let one = r#"{"decision": false, "context": {"reason_admin": {"403": "x"}, "reason_user": {"403": "x"},
            "obligations": [{"type": "t", "id": "1"}]}}"#;
        let body = format!(r#"{{"evaluations": [{}]}}"#, vec![one; asked].join(","));
        assert_eq!(several(&body, asked, Semantic::ExecuteAll), Ok(vec![Effect::Deny; asked]));
    }

    #[test]
    fn one_result_that_is_no_decision_spoils_them_all() {
        for odd in ["null", "true", "{}", r#"{"decision": "true"}"#, r#"{"decision": true, "context": 1}"#, "[]"] {
            let body = format!(r#"{{"evaluations": [{{"decision": true}}, {odd}]}}"#);
            for semantic in [Semantic::ExecuteAll, Semantic::DenyOnFirstDeny, Semantic::PermitOnFirstPermit] {
                assert_eq!(several(&body, 2, semantic), Err(PolicyErrorKind::InvalidResult), "{odd}");
            }
        }
        for body in
            [r#"{"decision": true}"#, r#"{"evaluations": {"1": {"decision": true}}}"#, r#"{"evaluations": null}"#]
        {
            assert_eq!(several(body, 1, Semantic::ExecuteAll), Err(PolicyErrorKind::InvalidResult), "{body}");
        }
    }

    #[test]
    fn an_error_names_a_remedy_and_quotes_nothing() {
        for (status, remedy) in
            [(400, "`with_mapping`"), (401, "`with_bearer`"), (403, "`with_bearer`"), (301, "not followed")]
        {
            let error = evaluation(&answer(status, r#""s3cr3t""#), &PolicyRevision::new("r")).unwrap_err();
            let text = format!("{} {error:?}", error.source().unwrap());
            assert!(text.contains(remedy) && !text.contains("s3cr3t"), "{text}");
        }
        let away = evaluation(&answer(503, ""), &PolicyRevision::new("r")).unwrap_err();
        assert_eq!(away.source().unwrap().to_string(), "the decision point answered 503 Service Unavailable");
    }
}
