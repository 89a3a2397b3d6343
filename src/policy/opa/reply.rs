use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::{
    json,
    policy::{Decision, DecisionId, PolicyError, PolicyRevision, remote::is_json},
};

/// Reads the server's answer. The status says whether there is a decision, and never which: allow, deny and undefined are all 200.
pub(super) fn read(answer: &Response<Bytes>) -> Result<Decision, PolicyError> {
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::INTERNAL_SERVER_ERROR => {
            return Err(PolicyError::evaluation(ReplyError::Evaluation(codes(answer.body()))));
        }
        // The question's fault, and not the server's: it must not count as a server that does not answer.
        status @ (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE) => {
            return Err(PolicyError::evaluation(ReplyError::Rejected(status, codes(answer.body()))));
        }
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
    let members = json::object(answer.body()).ok_or_else(|| PolicyError::invalid_result(ReplyError::Garbage))?;
    let revision = revision(members.get("provenance"));
    let decision = match members.get("result") {
        Some(result) => Decision::from_result(result, revision)?,
        None => Decision::undefined(revision),
    };
    match members.get("decision_id") {
        None => Ok(decision),
        Some(Value::String(id)) if !id.is_empty() => Ok(decision.with_id(DecisionId::new(id.as_str()))),
        Some(_) => Err(PolicyError::invalid_result(ReplyError::DecisionId)),
    }
}

/// What the server decides by: its bundles, or at least which server it is.
fn revision(provenance: Option<&Value>) -> PolicyRevision {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let bundles = provenance.and_then(|provenance| provenance.get("bundles")).and_then(Value::as_object);
    let mut bundles: Vec<_> = bundles
        .into_iter()
        .flatten()
        .map(|(name, bundle)| format!("{name}={}", text(bundle.get("revision")).as_deref().unwrap_or("unknown")))
        .collect();
    if bundles.is_empty() {
        let version = text(provenance.and_then(|provenance| provenance.get("version")));
        return PolicyRevision::new(version.map_or_else(|| "unknown".to_owned(), |version| format!("opa:{version}")));
    }
    bundles.sort_unstable();
    PolicyRevision::new(bundles.join(","))
}

/// The codes of an error body (`internal_error eval_conflict_error`). Its messages are left out: they can quote the input.
fn codes(body: &[u8]) -> String {
    let code = |value: &Value| {
        let code = value.get("code")?.as_str()?;
        let is_code = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_code.then(|| code.to_owned())
    };
    let Some(error) = json::object(body).map(Value::Object) else { return String::new() };
    let nested = error.get("errors").and_then(Value::as_array).into_iter().flatten().take(4);
    std::iter::once(&error).chain(nested).filter_map(code).collect::<Vec<_>>().join(" ")
}

#[derive(Debug, thiserror::Error)]
enum ReplyError {
    #[error("the server could not evaluate the policy: {0}")]
    Evaluation(String),
    #[error("the server answered {0} to the question: {1}")]
    Rejected(StatusCode, String),
    #[error(
        "the server answered {0}: it does not accept this service; set the credential that its `system.authz` policy wants with \
         `with_bearer` or `with_identity`"
    )]
    NotWelcome(StatusCode),
    #[error("the server answered {0}, and redirects are not followed: give the address that answers itself")]
    Redirect(StatusCode),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("the server answered with something else than JSON")]
    NotJson,
    #[error("the server's answer is no JSON object, or repeats a member")]
    Garbage,
    #[error("`decision_id` is no text")]
    DecisionId,
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::policy::{Effect, PolicyErrorKind};

    fn answer(status: u16, content_type: &str, body: &str) -> Response<Bytes> {
        let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
        response.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    fn ok(body: &str) -> Result<Decision, PolicyError> {
        read(&answer(200, "application/json", body))
    }

    #[test]
    fn a_result_is_a_decision_and_no_result_is_undefined() {
        let cases = [
            (r#"{"result": true}"#, Effect::Allow, false),
            (r#"{"result": false}"#, Effect::Deny, false),
            (r#"{"result": {"allow": true, "more": 1}}"#, Effect::Allow, false),
            (r#"{"result": {"allowed": false}}"#, Effect::Deny, false),
            ("{}", Effect::Deny, true),
            (r#"{"warning": {"code": "api_usage_warning"}}"#, Effect::Deny, true),
        ];
        for (body, effect, undefined) in cases {
            let decision = ok(body).unwrap();
            assert_eq!((decision.effect(), decision.is_undefined()), (effect, undefined), "{body}");
        }
    }

    #[test]
    fn reasons_obligations_and_the_id_come_along() {
        let body = r#"{"decision_id": "d-1", "result": {"allow": true, "reasons": ["owner"], "obligations": [{"id": "mask", "field": "x"}]}}"#;
        let decision = ok(body).unwrap();
        assert_eq!((decision.id().as_str(), decision.reasons()), ("d-1", &["owner".to_owned()][..]));
        assert_eq!(
            (&*decision.obligations()[0].id, &decision.obligations()[0].properties["field"]),
            ("mask", &"x".into())
        );
        assert_ne!(ok("{}").unwrap().id(), ok("{}").unwrap().id(), "without the server's id each has one of its own");
    }

    #[test]
    fn the_revision_is_that_of_the_bundles_or_else_of_the_server() {
        let cases = [
            (
                r#"{"provenance": {"version": "1.20.2", "bundles": {"b": {"revision": "2"}, "a": {"revision": "1"}}}}"#,
                "a=1,b=2",
            ),
            (
                r#"{"provenance": {"version": "1.20.2", "bundles": {"b": {}, "a": {"revision": ""}}}}"#,
                "a=unknown,b=unknown",
            ),
            (r#"{"provenance": {"version": "1.20.2", "bundles": {}}}"#, "opa:1.20.2"),
            (r#"{"provenance": {"version": "1.20.2"}}"#, "opa:1.20.2"),
            (r#"{"provenance": {"version": ""}}"#, "unknown"),
            (r#"{"provenance": 7}"#, "unknown"),
            ("{}", "unknown"),
        ];
        for (body, revision) in cases {
            assert_eq!(ok(body).unwrap().revision().as_str(), revision, "{body}");
        }
    }

    #[test]
    fn what_is_not_understood_whole_is_no_decision() {
        let bodies = [
            "",
            "true",
            "null",
            "[true]",
            r#"[{"result": true}]"#,
            r#"{"result": true"#,
            r#"{"result": true} {}"#,
            r#"{"result": null}"#,
            r#"{"result": "true"}"#,
            r#"{"result": 1}"#,
            r#"{"result": {}}"#,
            r#"{"result": [true]}"#,
            r#"{"result": false, "result": true}"#,
            r#"{"result": {"allow": false, "allow": true}}"#,
            r#"{"result": true, "decision_id": 7}"#,
            r#"{"result": true, "decision_id": ""}"#,
        ];
        for body in bodies {
            assert_eq!(ok(body).unwrap_err().kind(), PolicyErrorKind::InvalidResult, "{body}");
        }
    }

    #[test]
    fn only_json_counts() {
        let verdict = r#"{"result": true}"#;
        for good in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
            assert!(read(&answer(200, good, verdict)).is_ok(), "{good}");
        }
        for bad in ["text/html", "text/plain; charset=utf-8", "application/jsonp", "application/problem+json", ""] {
            assert_eq!(read(&answer(200, bad, verdict)).unwrap_err().kind(), PolicyErrorKind::InvalidResult, "{bad}");
        }
        let mut twice = answer(200, "application/json", verdict);
        twice.headers_mut().append(CONTENT_TYPE, "text/html".parse().unwrap());
        assert!(read(&twice).is_err());
    }

    #[test]
    fn another_status_is_no_decision_whatever_the_body_says() {
        use PolicyErrorKind::{Evaluation, Unavailable};
        let cases = [
            (201, Unavailable),
            (204, Unavailable),
            (206, Unavailable),
            (301, Unavailable),
            (307, Unavailable),
            (400, Evaluation),
            (401, Unavailable),
            (403, Unavailable),
            (404, Unavailable),
            (413, Evaluation),
            (429, Unavailable),
            (500, Evaluation),
            (502, Unavailable),
            (503, Unavailable),
        ];
        for (status, kind) in cases {
            let error = read(&answer(status, "application/json", r#"{"result": true}"#)).unwrap_err();
            assert_eq!(error.kind(), kind, "{status}");
        }
    }

    #[test]
    fn an_error_names_codes_and_remedies_and_quotes_nothing() {
        let cause = |status, body| {
            let error = read(&answer(status, "application/json", body)).unwrap_err();
            let text = error.source().unwrap().to_string();
            assert!(!format!("{text} {error:?}").contains("s3cr3t"), "{error:?}");
            text
        };
        let body = r#"{"code": "internal_error", "message": "s3cr3t", "errors": [{"code": "eval_conflict_error", "message": "s3cr3t"}, {"code": "s3cr3t"}]}"#;
        assert!(cause(500, body).ends_with(": internal_error eval_conflict_error"));
        assert!(cause(401, r#"{"code": "unauthorized", "message": "s3cr3t"}"#).contains("`with_bearer`"));
        assert!(cause(301, "<a href=s3cr3t>").contains("not followed"));
        assert_eq!(cause(503, "s3cr3t"), "the server answered 503 Service Unavailable");
    }
}
