use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request, routing::get};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Mode,
    axum::protect,
    policy::{Decision, Effect, PolicyBackend, PolicyError, PolicyInput, Rego},
    rules::policy_only,
    testing::{Answer, RecordingSink, StubBackend, TestIssuer},
};
use tower::ServiceExt as _;

use super::{patient, server::Server};
use crate::policy_dir;

/// The same policy, the same questions, the same decisions: a service may move from one backend to the other.
pub(super) async fn it_decides_what_rego_decides(opa: PathBuf) {
    let server = Server::start(&opa).with_policy_dir().ready().await;
    let opa: Arc<dyn PolicyBackend> = Arc::new(patient(server.url()).build().unwrap());
    // The default limit is for optimised builds.
    let rego = Rego::builder().add_dir(policy_dir()).unwrap().with_time_limit(Duration::from_secs(1));
    let rego: Arc<dyn PolicyBackend> = Arc::new(rego.build().unwrap());
    let inputs = questions().await;
    let (mut allows, mut reasons) = (0, std::collections::BTreeSet::new());
    for input in &inputs {
        let (theirs, ours) =
            (Arc::clone(&opa).decide(input.clone()).await, Arc::clone(&rego).decide(input.clone()).await);
        let decision = theirs.as_ref().unwrap();
        assert_eq!(essence(&theirs), essence(&ours), "{}", serde_json::to_string_pretty(input).unwrap());
        if decision.effect() == Effect::Allow {
            allows += 1;
            reasons.extend(decision.reasons().to_vec());
        }
    }
    eprintln!("opa and rego agree on {} questions: {allows} allowed, {} denied", inputs.len(), inputs.len() - allows);
    let share = allows * 100 / inputs.len();
    assert!(inputs.len() >= 200 && (20..=80).contains(&share), "{} questions, {share} % allowed", inputs.len());
    assert_eq!(reasons.len(), 6, "every rule of the policy allowed something: {reasons:?}");
}

pub(super) fn essence(decision: &Result<Decision, PolicyError>) -> Result<String, String> {
    match decision {
        Ok(decision) => Ok(format!(
            "{:?} undefined: {} {:?} {:?} {:?}",
            decision.effect(),
            decision.is_undefined(),
            decision.reasons(),
            in_one_spelling(decision.obligations()),
            in_one_spelling(decision.advice())
        )),
        Err(error) => Err(error.kind().code().to_owned()),
    }
}

/// Open Policy Agent gives a number as it was written, `1.0`; the embedded engine gives its value, `1`.
pub(super) fn in_one_spelling(value: impl serde::Serialize) -> serde_json::Value {
    use serde_json::Value;
    fn spell(value: Value) -> Value {
        match value {
            Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
            Value::Array(items) => items.into_iter().map(spell).collect(),
            Value::Object(members) => members.into_iter().map(|(name, value)| (name, spell(value))).collect(),
            other => other,
        }
    }
    spell(serde_json::to_value(value).unwrap())
}

/// What the stack itself asks about real tokens and real routes.
pub(super) async fn questions() -> Vec<PolicyInput> {
    let idp = TestIssuer::start().await;
    let scopes = ["jobs:read", "jobs:read jobs:write", "jobs:write", "jobs:read jobs:write reports:read", "other"];
    let mut tokens = Vec::new();
    for scope in scopes {
        for subject in ["auth0|alice", "auth0|bob", "auth0|carol", "auth0|root", "al|\u{e9}\u{1f600}\"\\"] {
            let user = || idp.token().audience(AUDIENCE).subject(subject).client("web").scope(scope);
            tokens.extend([user().mint(), user().actor("agent-7").mint()]);
        }
        tokens.push(idp.token().audience(AUDIENCE).machine("scheduler").scope(scope).mint());
    }
    let done = || get(async || ());
    let router = Router::new()
        .route("/jobs", done().post(async || ()).delete(async || ()))
        .route("/jobs/{id}", done())
        .route("/admin/report", done())
        .route("/", done());
    let rules = Rules::new()
        .get("/jobs", policy_only())
        .post("/jobs", policy_only())
        .delete("/jobs", policy_only())
        .get("/jobs/{id}", policy_only())
        .get("/admin/report", policy_only())
        .get("/", policy_only());
    let asked = Arc::new(StubBackend::new(Answer::Deny));
    let issuer = Issuer::rfc9068(idp.url(), AUDIENCE);
    let stack = Stack::builder(issuer, rules, Arc::clone(&asked), RecordingSink::new());
    let service = protect(router, stack.with_audit_mode(Mode::Count).build().unwrap());
    let requests = [
        ("GET", "/jobs?page=2&tag=a&tag=b"),
        ("HEAD", "/jobs"),
        ("POST", "/jobs"),
        ("DELETE", "/jobs"),
        ("GET", "/jobs/1"),
        ("GET", "/jobs/2"),
        ("GET", "/jobs/no%20such%20job"),
        ("GET", "/admin/report"),
        ("GET", "/"),
    ];
    for token in &tokens {
        for (method, path) in requests {
            let request = Request::builder().method(method).uri(path).header("authorization", token.bearer());
            let refused = service.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(refused.status(), 403, "{method} {path}");
        }
    }
    assert_eq!(asked.calls(), tokens.len() * requests.len());
    asked.inputs()
}

const AUDIENCE: &str = "https://api.acme.example";
