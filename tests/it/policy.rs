//! May this call? What the policy is asked, and what becomes of its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router, extract::Request, routing::get};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::{Protected, protect},
    health::Health,
    layer::StackBuilder,
    policy::{self, Obligation, Permit, PolicyErrorKind, PolicySet, Rego},
    rules::{optional, policy_only, public},
    testing::{Answer, StubBackend, TestIssuer},
};
use serde_json::{Value, json};

use crate::{
    support::{self, AUDIENCE, Counter, Host, alice, get_with, only_record, records, send},
    wire::{self, Ask},
};

fn rules() -> Rules {
    Rules::new().get("/jobs/{id}", policy_only()).get("/catalogue", optional()).get("/livez", public("liveness"))
}

struct Fixture {
    idp: TestIssuer,
    backend: Arc<StubBackend>,
    memory: Memory,
    stack: Stack,
    service: Protected,
    handled: Counter,
}

async fn fixture(answer: Answer, set_up: impl FnOnce(StackBuilder) -> StackBuilder) -> Fixture {
    let idp = TestIssuer::start().await;
    let (backend, memory, handled) = (Arc::new(StubBackend::new(answer)), Memory::new(), Counter::default());
    let builder = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), Arc::clone(&backend), memory.clone());
    let stack = set_up(builder).build().unwrap();
    let counted = |permit: Option<Extension<Permit>>, handled: Counter| {
        handled.count();
        permit.map_or_else(|| "no permit".to_owned(), |permit| permit.decision_id().to_string())
    };
    let (one, two, three) = (handled.clone(), handled.clone(), handled.clone());
    let router = Router::new()
        .route("/jobs/{id}", get(async move |permit: Option<Extension<Permit>>| counted(permit, one)))
        .route("/catalogue", get(async move |permit: Option<Extension<Permit>>| counted(permit, two)))
        .route("/livez", get(async move |permit: Option<Extension<Permit>>| counted(permit, three)));
    let service = protect(router, stack.clone());
    Fixture { idp, backend, memory, stack, service, handled }
}

impl Fixture {
    fn request(&self) -> Request {
        get_with("/jobs/7", &alice(&self.idp).mint().bearer())
    }
}

#[tokio::test]
async fn every_answer_but_an_allow_is_a_refusal() {
    let allow = || json!({"allow": true});
    let cases = [
        (Answer::Allow, 200, ""),
        (Answer::Result(json!(true)), 200, ""),
        (Answer::Result(allow()), 200, ""),
        (Answer::Deny, 403, "policy_denied"),
        (Answer::Result(json!(false)), 403, "policy_denied"),
        (Answer::Undefined, 403, "policy_undefined"),
        (
            Answer::Result(json!({"allow": true, "obligations": [{"id": "unheard-of"}]})),
            403,
            "policy_obligation_unfulfilled",
        ),
        (Answer::Result(json!(null)), 503, "policy_invalid_result"),
        (Answer::Result(json!({})), 503, "policy_invalid_result"),
        (Answer::Result(json!("true")), 503, "policy_invalid_result"),
        (Answer::Result(json!({"allow": true, "decision": false})), 503, "policy_invalid_result"),
        (Answer::Error(PolicyErrorKind::Unavailable), 503, "policy_unavailable"),
        (Answer::Error(PolicyErrorKind::Timeout), 503, "policy_timeout"),
        (Answer::Error(PolicyErrorKind::Overloaded), 503, "policy_overloaded"),
        (Answer::Error(PolicyErrorKind::Evaluation), 503, "policy_evaluation_error"),
        (Answer::Error(PolicyErrorKind::Input), 503, "policy_input_failed"),
        (Answer::Panic, 500, "policy_panicked"),
    ];
    let fixture = fixture(Answer::Deny, |builder| builder).await;
    for (number, (answer, status, reason)) in cases.into_iter().enumerate() {
        let before = fixture.handled.total();
        fixture.backend.answer_from_now_on(answer.clone());
        let response = send(fixture.service.clone(), fixture.request()).await;
        assert_eq!(response.status(), status, "{answer:?}");
        assert_eq!(fixture.handled.total() - before, usize::from(status == 200), "{answer:?}");
        let record = records(&fixture.stack, &fixture.memory).await.remove(number);
        assert_eq!(record["reason"].as_str().unwrap_or_default(), reason, "{answer:?}");
        assert_eq!(fixture.backend.calls(), number + 1, "asked once for each request");
    }
}

#[tokio::test]
async fn a_backend_that_answers_at_once_is_obeyed_all_the_same() {
    for (answer, status) in [
        (Answer::Allow, 200),
        (Answer::Deny, 403),
        (Answer::Error(PolicyErrorKind::Unavailable), 503),
        (Answer::Panic, 500),
    ] {
        let idp = TestIssuer::start().await;
        let backend = Arc::new(StubBackend::new(answer.clone()).answering_at_once());
        let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), Arc::clone(&backend), Memory::new())
            .build()
            .unwrap();
        let service = protect(Router::new().route("/jobs/{id}", get(async || "a job")), stack);
        let response = send(service, get_with("/jobs/7", &alice(&idp).mint().bearer())).await;
        assert_eq!((response.status().as_u16(), backend.calls()), (status, 1), "{answer:?}");
    }
}

#[tokio::test]
async fn the_policy_is_asked_about_what_was_matched_and_never_sees_a_credential() {
    let fixture =
        fixture(Answer::Allow, |builder| builder.with_input_headers(["x-tier"]).with_input_claims(["department"]))
            .await;
    let host = Host::axum(fixture.service.clone()).await;
    let token = alice(&fixture.idp).claim("department", "doors").claim("secret", "s3cret").actor("agent-7").mint();
    let ask = Ask::get("/jobs/a%20b?page=2&access_token=s3cret")
        .bearer(token.as_str())
        .header("x-tier", "gold")
        .header("cookie", "s3cret");
    let answer = wire::http1(host.address, &ask).await;
    assert_eq!(answer.status, 200);

    let input = serde_json::to_value(&fixture.backend.inputs()[0]).unwrap();
    assert_eq!(input["action"]["name"], "GET");
    let resource = json!({"type": "route", "id": "/jobs/{id}", "properties": {"path": ["jobs", "a b"], "params": {"id": "a b"}, "query": {"page": ["2"]}, "attributes": {}}});
    assert_eq!(input["resource"], resource);
    assert_eq!((&input["subject"]["type"], &input["subject"]["id"]), (&json!("user"), &json!("auth0|alice")));
    let properties = &input["subject"]["properties"];
    assert_eq!(
        (&properties["client_id"], &properties["scopes"], &properties["issuer"]),
        (&json!("web"), &json!(["jobs:read"]), &json!(fixture.idp.url()))
    );
    assert_eq!(
        (&properties["claims"], &properties["actor"][0]["id"]),
        (&json!({"department": "doors"}), &json!("agent-7"))
    );
    let context = &input["context"];
    assert_eq!(
        (&context["host"], &context["peer"]["ip"], &context["headers"]),
        (&json!("api.acme.example"), &json!("127.0.0.1"), &json!({"x-tier": ["gold"]}))
    );
    assert_eq!(context["request_id"], answer.request_id());
    let text = input.to_string();
    assert!(!text.contains("s3cret") && !text.contains(token.as_str()), "{text}");

    let record = only_record(&fixture.stack, &fixture.memory).await;
    assert_eq!(answer.text(), record["policy"]["decision_id"], "the permit in the handler names the decision");
    assert!(record["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn an_anonymous_caller_is_put_to_the_policy_and_a_public_route_is_not() {
    let fixture = fixture(Answer::Deny, |builder| builder).await;
    assert_eq!(send(fixture.service.clone(), support::get("/livez")).await.body(), "no permit");
    assert_eq!(fixture.backend.calls(), 0);
    // Whoever is not known cannot be forbidden anything: a token may help.
    assert_eq!(send(fixture.service.clone(), support::get("/catalogue")).await.status(), 401);
    assert_eq!(send(fixture.service.clone(), support::get("/jobs/7")).await.status(), 401);
    assert_eq!(
        send(fixture.service.clone(), get_with("/no-such-route", &alice(&fixture.idp).mint().bearer())).await.status(),
        403
    );
    assert_eq!(fixture.backend.calls(), 1);
    let input = serde_json::to_value(&fixture.backend.inputs()[0]).unwrap();
    assert_eq!((&input["subject"]["type"], &input["subject"]["id"]), (&json!("anonymous"), &json!("")));
}

#[tokio::test]
async fn an_allow_holds_only_when_each_obligation_is_fulfilled() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let set_up = move |builder: StackBuilder| {
        builder
            .with_obligation("notify", move |obligation: &Obligation| {
                counted.fetch_add(1, Ordering::SeqCst);
                obligation.properties.get("to").and_then(Value::as_str) == Some("owner")
            })
            .with_obligation("broken", |_: &Obligation| panic!("a handler of an obligation"))
    };
    let fixture = fixture(Answer::Allow, set_up).await;
    let cases = [
        (json!([]), 200),
        (json!([{"id": "notify", "to": "owner"}]), 200),
        (json!([{"id": "notify", "to": "nobody"}]), 403),
        (json!([{"id": "notify", "to": "owner"}, {"id": "unheard-of"}]), 403),
        (json!([{"id": "unheard-of"}, {"id": "notify", "to": "owner"}]), 403),
    ];
    for (obligations, status) in &cases {
        fixture.backend.answer_from_now_on(Answer::Result(json!({"allow": true, "obligations": obligations})));
        assert_eq!(send(fixture.service.clone(), fixture.request()).await.status(), *status, "{obligations}");
    }
    assert_eq!(seen.load(Ordering::SeqCst), 4, "every obligation is tried");
    fixture.backend.answer_from_now_on(Answer::Result(json!({"allow": true, "obligations": [{"id": "broken"}]})));
    assert!(send(fixture.service.clone(), fixture.request()).await.status().as_u16() >= 403);
    assert_eq!(fixture.handled.total(), 2);
}

#[tokio::test]
async fn rego_decides_by_subject_scope_and_route() {
    let idp = TestIssuer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let module = r#"
        package authz

        import rego.v1

        default decision := {"allow": false, "reasons": ["nobody said yes"]}

        decision := {"allow": true} if {
            input.action.name == "GET"
            input.resource.id == "/jobs/{id}"
            input.resource.properties.params.id in data.jobs[input.subject.id]
        }
    "#;
    std::fs::write(directory.path().join("authz.rego"), module).unwrap();
    std::fs::write(directory.path().join("data.json"), r#"{"jobs": {"auth0|alice": ["7", "8"]}}"#).unwrap();
    // The default limit of 10 ms is for builds with optimisation.
    let rego = Rego::builder().add_dir(directory.path()).unwrap();
    let rego = rego.with_time_limit(Duration::from_secs(1)).build().unwrap();
    let revision = rego.revision().to_string();
    let memory = Memory::new();
    let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), rego, memory.clone()).build().unwrap();
    let service = protect(Router::new().route("/jobs/{id}", get(async || "a job")), stack.clone());
    let ask = |path: &'static str, subject: &str| {
        send(service.clone(), get_with(path, &alice(&idp).subject(subject).mint().bearer()))
    };
    assert_eq!(ask("/jobs/7", "auth0|alice").await.status(), 200);
    assert_eq!(ask("/jobs/9", "auth0|alice").await.status(), 403);
    assert_eq!(ask("/jobs/7", "auth0|bob").await.status(), 403);
    let records = records(&stack, &memory).await;
    assert_eq!(records[1]["policy"]["reasons"], json!(["nobody said yes"]));
    assert!(records.iter().all(|record| record["policy"]["revision"] == revision.as_str()));
}

#[tokio::test]
async fn a_policy_is_exchanged_between_two_requests_and_a_broken_one_changes_nothing() {
    for threads in [None, Some(1)] {
        let idp = TestIssuer::start().await;
        let version = |decision: &str, revision: &str| {
            let text = format!("package authz\n\ndecision := {decision}");
            PolicySet::new().add_source("authz.rego", text).with_revision(revision)
        };
        let builder = Rego::builder().with_policies(version("false", "r1")).with_time_limit(Duration::from_secs(1));
        let builder = match threads {
            Some(threads) => builder.with_threads(threads),
            None => builder,
        };
        let rego = Arc::new(builder.build().unwrap());
        let (memory, issuer) = (Memory::new(), Issuer::rfc9068(idp.url(), AUDIENCE));
        let stack = Stack::builder(issuer, rules(), Arc::clone(&rego), memory.clone()).build().unwrap();
        let service = protect(Router::new().route("/jobs/{id}", get(async || "a job")), stack.clone());
        let status = async || send(service.clone(), get_with("/jobs/7", &alice(&idp).mint().bearer())).await.status();
        assert_eq!(status().await, 403);
        rego.activate(version("true", "r2")).unwrap();
        assert_eq!(status().await, 200);
        let error = rego.activate(version("to_number(\"\")", "r3")).unwrap_err().to_string();
        assert!(error.contains("authz.rego:3:"), "{error}");
        assert_eq!(status().await, 200);
        assert!(matches!(stack.health().policy, Health::Degraded(text) if text.contains("authz.rego:3:")));
        let records = records(&stack, &memory).await;
        let revisions: Vec<_> = records.iter().map(|record| &record["policy"]["revision"]).collect();
        assert_eq!(revisions, ["r1", "r2", "r2"]);
    }
}

#[tokio::test]
async fn the_fixed_backends_show_in_the_record() {
    for (allows, revision) in [(true, "dangerous_allow_all"), (false, "deny_all")] {
        let idp = TestIssuer::start().await;
        let memory = Memory::new();
        let backend = if allows { policy::dangerous_allow_all() } else { policy::deny_all() };
        let stack =
            Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), backend, memory.clone()).build().unwrap();
        let service = protect(Router::new().route("/jobs/{id}", get(async || "a job")), stack.clone());
        let response = send(service, get_with("/jobs/7", &alice(&idp).mint().bearer())).await;
        assert_eq!(response.status() == 200, allows);
        assert_eq!(only_record(&stack, &memory).await["policy"]["revision"], revision);
    }
}
