//! Against a loopback server that answers by a script.

mod faults;

use std::{error::Error as _, sync::Mutex, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::*;
use crate::{
    outbound::{Outbound, OutboundError},
    policy::{
        Effect, PolicyErrorKind,
        remote::script::{Server, Step, http, ok, serve},
    },
    testing::{FrozenClock, policy_input},
};

impl Server {
    fn authzen(&self) -> AuthZenBuilder {
        // Long enough for a busy machine, where the deadline is not what is tested. The metadata would take steps of the script.
        AuthZen::builder(&self.url).with_deadline(Duration::from_secs(10)).without_discovery()
    }
}

async fn ask(backend: &Arc<AuthZen>) -> Result<Decision, PolicyError> {
    Arc::clone(backend).decide(policy_input("GET", "/jobs")).await
}

async fn effect(backend: &Arc<AuthZen>) -> Result<Effect, PolicyErrorKind> {
    ask(backend).await.map(|decision| decision.effect()).map_err(|error| error.kind())
}

/// A decision point by its addresses: answers what `respond` says, and keeps what it was asked.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(String, Value)>>>);

impl Asked {
    fn outbound(&self, respond: impl Fn(&str, &Value) -> Option<String> + Clone + Send + Sync + 'static) -> Outbound {
        let log = Arc::clone(&self.0);
        Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
            let path = request.uri().to_string();
            let body = serde_json::from_slice(request.body()).unwrap_or_default();
            let answer = respond(&path, &body);
            log.lock().unwrap().push((path, body));
            async move {
                let answer = answer.ok_or_else(|| OutboundError::Connect("nobody there".into()))?;
                Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(Bytes::from(answer)).unwrap())
            }
        }))
    }

    fn take(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

const PDP: &str = "https://pdp.example/tenant1";

fn metadata(evaluations: bool) -> String {
    let mut metadata = json!({"policy_decision_point": PDP, "access_evaluation_endpoint": "https://pdp.example/e", "future": {"x": 1}});
    if evaluations {
        metadata["access_evaluations_endpoint"] = "https://pdp.example/es".into();
    }
    metadata.to_string()
}

fn discovered(outbound: Outbound) -> AuthZenBuilder {
    AuthZen::builder(PDP).with_deadline(Duration::from_secs(10)).with_outbound(outbound)
}

/// Three questions, about `/0`, `/1` and `/2`.
fn three() -> [PolicyInput; 3] {
    ["/0", "/1", "/2"].map(|template| policy_input("GET", template))
}

#[tokio::test]
async fn the_question_is_a_post_with_the_four_members_and_nothing_that_was_not_asked_for() {
    let mut server = Server::answering(ok(r#"{"decision": true}"#)).await;
    let backend = Arc::new(server.authzen().with_bearer("t0ken").build().unwrap());
    let mut input = policy_input("GET", "/jobs");
    input.context.request_id = "r-1".to_owned();
    input.context.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736".to_owned();
    let decision = Arc::clone(&backend).decide(input.clone()).await.unwrap();
    assert_eq!(decision.effect(), Effect::Allow);
    assert_eq!(decision.revision().as_str(), format!("authzen:{}", server.url));
    assert_eq!(backend.in_force(), None, "nothing says when the policy changes");
    let request = server.asked().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /access/v1/evaluation http/1.1\r\n"), "{head}");
    for line in [
        "content-type: application/json",
        "accept: application/json",
        "authorization: bearer t0ken",
        "x-request-id: r-1",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-",
    ] {
        assert!(head.contains(&format!("\r\n{line}")), "{line}: {head}");
    }
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, serde_json::to_value(Evaluation::of(&input).into_legal()).unwrap());
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["action", "context", "resource", "subject"]);
}

#[tokio::test]
async fn the_mapping_has_the_last_word_on_the_question() {
    let asked = Asked::default();
    let backend = AuthZen::builder(PDP)
        .without_discovery()
        .with_outbound(asked.outbound(|_, _| Some(r#"{"decision": true}"#.to_owned())))
        .with_mapping(|input| {
            let mut evaluation = Evaluation::gateway(input);
            evaluation.subject.properties = serde_json::Map::from_iter([("tier".to_owned(), Value::Null)]);
            evaluation.action.properties.clear();
            evaluation.resource.properties.clear();
            evaluation.context.clear();
            evaluation
        });
    assert_eq!(effect(&Arc::new(backend.build().unwrap())).await, Ok(Effect::Allow));
    let expected = json!({"subject": {"type": "identity", "id": ""}, "action": {"name": "GET"}, "resource": {"type": "route", "id": "/jobs"}});
    assert_eq!(asked.take(), [("https://pdp.example/tenant1/access/v1/evaluation".to_owned(), expected)]);
}

#[tokio::test]
async fn the_addresses_come_from_the_metadata_and_nobody_is_asked_before() {
    let asked = Asked::default();
    let outbound = asked.outbound(|path, _| {
        Some(if path.contains(".well-known") { metadata(false) } else { r#"{"decision": true}"#.into() })
    });
    let backend = Arc::new(discovered(outbound).build().unwrap());
    assert!(asked.take().is_empty(), "`build` asks nobody");
    let error = ask(&backend).await.unwrap_err();
    assert_eq!(error.kind(), PolicyErrorKind::Unavailable);
    assert!(!backend.health().is_serving());
    Arc::clone(&backend).preflight().await.unwrap();
    assert_eq!(backend.health(), Health::Ready);
    assert_eq!(effect(&backend).await, Ok(Effect::Allow));
    let paths: Vec<_> = asked.take().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths.first().unwrap(), "https://pdp.example/.well-known/authzen-configuration/tenant1");
    assert_eq!(paths.last().unwrap(), "https://pdp.example/e");
}

#[tokio::test]
async fn metadata_that_lies_is_an_error_at_start_up_and_a_decision_point_that_is_away_is_none() {
    let lies = [
        metadata(true).replace("tenant1", "tenant2"),
        metadata(true).replace("https://pdp.example/e\"", "http://pdp.example/e\""),
        metadata(true).replace("https://pdp.example/es", "http://127.0.0.1/es"),
        metadata(true).replace("access_evaluation_endpoint", "other"),
        "<html>".to_owned(),
        format!(r#"{{"policy_decision_point": "{PDP}", {}"#, &metadata(true)[1..]),
        format!("{}{}", metadata(true), " ".repeat(64 * 1024)),
    ];
    for lie in lies {
        let asked = Asked::default();
        let shown = lie.clone();
        let error = discovered(asked.outbound(move |_, _| Some(lie.clone()))).build_probed().await.expect_err(&shown);
        assert!(error.field().starts_with("policy.authzen.metadata"), "{error}");
        assert!(asked.take().iter().all(|(path, _)| path.contains(".well-known")), "nobody asked what it names");
    }
    let away = discovered(Asked::default().outbound(|_, _| None)).build_probed().await.unwrap();
    assert!(!away.health().is_serving() && away.health().to_string().contains("metadata"), "{}", away.health());
    assert_eq!(effect(&Arc::new(away)).await, Err(PolicyErrorKind::Unavailable));
}

async fn until(backend: &Arc<AuthZen>, is_it: impl Fn(&Health) -> bool) -> Health {
    let waiting = async {
        loop {
            let health = backend.health();
            if is_it(&health) {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the health changes")
}

#[tokio::test]
async fn the_metadata_is_renewed_and_what_cannot_be_used_does_not_take_its_place() {
    let now = Arc::new(Mutex::new(None::<String>));
    let asked = Asked::default();
    let outbound = asked.outbound({
        let now = Arc::clone(&now);
        move |path, _| {
            if path.contains(".well-known") {
                now.lock().unwrap().clone()
            } else {
                Some(r#"{"decision": true}"#.into())
            }
        }
    });
    let backend = discovered(outbound).with_metadata_interval(Duration::from_millis(100)).build().unwrap();
    let backend = Arc::new(backend);
    assert_eq!(effect(&backend).await, Err(PolicyErrorKind::Unavailable), "the first call starts the loading");
    *now.lock().unwrap() = Some(metadata(false));
    until(&backend, |health| *health == Health::Ready).await;
    *now.lock().unwrap() = Some(metadata(false).replace("tenant1", "other").replace("/e\"", "/evil\""));
    let lost = until(&backend, |health| !health.is_serving()).await;
    assert!(lost.to_string().contains("policy_decision_point"), "{lost}");
    asked.take();
    assert_eq!(effect(&backend).await, Ok(Effect::Allow));
    assert!(asked.take().iter().all(|(path, _)| !path.ends_with("/evil")));
    *now.lock().unwrap() = Some(metadata(false).replace("/e\"", "/moved\""));
    let moved = async {
        while !asked.take().iter().any(|(path, _)| path.ends_with("/moved")) {
            assert_eq!(effect(&backend).await, Ok(Effect::Allow));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), moved).await.expect("the new address is asked");
}

#[tokio::test]
async fn several_questions_go_in_one_exchange_whole_and_with_their_semantic() {
    let asked = Asked::default();
    let outbound = asked.outbound(|path, body| {
        if path.contains(".well-known") {
            return Some(metadata(true));
        }
        let stop = body["options"]["evaluations_semantic"] == "deny_on_first_deny";
        let all = [
            r#"{"decision": true}"#,
            r#"{"decision": false, "context": {"reason": "owner"}}"#,
            r#"{"decision": true}"#,
        ];
        Some(format!(r#"{{"evaluations": [{}]}}"#, all[..if stop { 2 } else { 3 }].join(",")))
    });
    let backend = discovered(outbound).build_probed().await.unwrap();
    asked.take();
    for (semantic, name, effects) in [
        (Semantic::ExecuteAll, "execute_all", &[Effect::Allow, Effect::Deny, Effect::Allow][..]),
        (Semantic::DenyOnFirstDeny, "deny_on_first_deny", &[Effect::Allow, Effect::Deny][..]),
        (Semantic::PermitOnFirstPermit, "permit_on_first_permit", &[Effect::Allow][..]),
    ] {
        let decisions = backend.evaluations(&three(), semantic).await.unwrap();
        assert_eq!(decisions.iter().map(Decision::effect).collect::<Vec<_>>(), effects, "{name}");
        let [(path, body)] = <[_; 1]>::try_from(asked.take()).unwrap();
        assert_eq!((&*path, &body["options"]["evaluations_semantic"]), ("https://pdp.example/es", &name.into()));
        for (index, input) in three().iter().enumerate() {
            assert_eq!(body["evaluations"][index], serde_json::to_value(Evaluation::of(input).into_legal()).unwrap());
        }
        assert_eq!(body.as_object().unwrap().len(), 2, "nothing is left to defaults");
    }
}

#[tokio::test]
async fn without_an_endpoint_for_them_several_questions_are_asked_one_by_one_up_to_where_they_stop() {
    let asked = Asked::default();
    let outbound = asked.outbound(|path, body| {
        let allowed = body["resource"]["id"] != "/1";
        Some(if path.contains(".well-known") { metadata(false) } else { json!({"decision": allowed}).to_string() })
    });
    let backend = discovered(outbound).build_probed().await.unwrap();
    asked.take();
    for (semantic, effects) in [
        (Semantic::ExecuteAll, &[Effect::Allow, Effect::Deny, Effect::Allow][..]),
        (Semantic::DenyOnFirstDeny, &[Effect::Allow, Effect::Deny][..]),
        (Semantic::PermitOnFirstPermit, &[Effect::Allow][..]),
    ] {
        let decisions = backend.evaluations(&three(), semantic).await.unwrap();
        assert_eq!(decisions.iter().map(Decision::effect).collect::<Vec<_>>(), effects, "{semantic:?}");
        let paths: Vec<_> = asked.take().into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, vec!["https://pdp.example/e"; effects.len()], "{semantic:?}");
    }
}

#[tokio::test]
async fn a_failure_among_several_questions_leaves_none_decided() {
    for endpoint in [true, false] {
        let outbound = Asked::default().outbound(move |path, body| match path {
            path if path.contains(".well-known") => Some(metadata(endpoint)),
            "https://pdp.example/e" if body["resource"]["id"] == "/2" => Some(r#"{"decision": "true"}"#.to_owned()),
            "https://pdp.example/e" => Some(r#"{"decision": true}"#.to_owned()),
            _ => Some(r#"{"evaluations": [{"decision": true}, {"decision": true}]}"#.to_owned()),
        });
        let backend = discovered(outbound).build_probed().await.unwrap();
        for semantic in [Semantic::ExecuteAll, Semantic::DenyOnFirstDeny] {
            let error = backend.evaluations(&three(), semantic).await.unwrap_err();
            assert_eq!(error.kind(), PolicyErrorKind::InvalidResult, "{endpoint} {semantic:?}");
        }
        let many = vec![policy_input("GET", "/"); AuthZen::MAX_EVALUATIONS + 1];
        for odd in [&[][..], &many] {
            let error = backend.evaluations(odd, Semantic::ExecuteAll).await.unwrap_err();
            assert_eq!(error.kind(), PolicyErrorKind::Input, "no decisions at all would be all of them allows");
        }
    }
}

#[tokio::test]
async fn one_deadline_holds_around_questions_that_are_asked_one_by_one() {
    let outbound = Outbound::new(tower::service_fn(async |_| {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let answer = Response::builder().header(CONTENT_TYPE, "application/json");
        Ok::<_, OutboundError>(answer.body(Bytes::from(r#"{"decision": true}"#)).unwrap())
    }));
    let backend = |deadline| {
        let builder = AuthZen::builder(PDP).with_endpoints("https://pdp.example/e", None);
        builder.with_outbound(outbound.clone()).with_deadline(deadline).build().unwrap()
    };
    let many = vec![policy_input("GET", "/"); AuthZen::MAX_EVALUATIONS];
    let error = backend(Duration::from_millis(200)).evaluations(&many, Semantic::ExecuteAll).await.unwrap_err();
    assert_eq!(error.kind(), PolicyErrorKind::Timeout);
    let decisions = backend(Duration::from_secs(10)).evaluations(&many[..2], Semantic::ExecuteAll).await.unwrap();
    assert_eq!(decisions.len(), 2);
}

#[tokio::test]
async fn anonymous_questions_among_several_share_the_room_of_anonymous_callers() {
    let mut server = Server::start(vec![Step::Stall]).await;
    let backend = Arc::new(server.authzen().with_max_in_flight(2).build().unwrap());
    let mut known = policy_input("GET", "/");
    known.subject.r#type = "user";
    let mixed = [known.clone(), policy_input("GET", "/")];
    let first = tokio::spawn({
        let (backend, mixed) = (Arc::clone(&backend), mixed.clone());
        async move { backend.evaluations(&mixed, Semantic::ExecuteAll).await }
    });
    server.requests.recv().await.unwrap();
    let error = backend.evaluations(&mixed, Semantic::ExecuteAll).await.unwrap_err();
    assert_eq!(error.kind(), PolicyErrorKind::Overloaded);
    let second = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { backend.evaluations(&[known], Semantic::ExecuteAll).await }
    });
    server.requests.recv().await.unwrap();
    first.abort();
    second.abort();
}

#[tokio::test]
async fn a_decision_point_that_does_not_answer_is_left_alone() {
    let error = || Step::Answer(http("503 Unavailable", "text/plain", "later"));
    let mut server = Server::start(vec![error(), error(), Step::Answer(ok(r#"{"decision": true}"#))]).await;
    let clock = FrozenClock::default();
    let second = Duration::from_secs(1);
    let backend = Arc::new(server.authzen().with_breaker(2, second).with_clock(clock.clone()).build().unwrap());
    for _ in 0..5 {
        assert_eq!(effect(&backend).await, Err(PolicyErrorKind::Unavailable));
    }
    assert_eq!(server.asked().len(), 2);
    assert!(!backend.health().is_serving());
    clock.advance(second);
    assert_eq!(effect(&backend).await, Ok(Effect::Allow));
    assert_eq!(backend.health(), Health::Ready);
}

#[tokio::test]
async fn the_token_of_a_file_is_read_anew_and_is_in_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "s3cr3t-1\n").unwrap();
    let refused = Step::Answer(http("401 Unauthorized", "application/json", "\"s3cr3t\""));
    let mut server = Server::start(vec![refused, Step::Answer(ok(r#"{"decision": true}"#))]).await;
    let backend = server.authzen().with_bearer_file(&path).with_metadata_interval(Duration::from_millis(100));
    let backend = Arc::new(backend.build().unwrap());
    let error = ask(&backend).await.unwrap_err();
    let text = format!("{error} {error:?} {} {backend:?} {}", error.source().unwrap(), backend.health());
    assert!(!text.contains("s3cr3t"), "{text}");
    assert!(server.asked()[0].contains("Bearer s3cr3t-1\r\n"));
    std::fs::write(&path, "s3cr3t-2").unwrap();
    let renewed = async {
        loop {
            assert_eq!(effect(&backend).await, Ok(Effect::Allow));
            if server.asked()[0].contains("Bearer s3cr3t-2\r\n") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("the new token is sent");
    std::fs::remove_file(&path).unwrap();
    let lost = until(&backend, |health| !health.is_serving()).await;
    assert!(lost.to_string().contains("bearer_file") && !lost.to_string().contains("s3cr3t"), "{lost}");
    assert_eq!(effect(&backend).await, Ok(Effect::Allow), "the last token remains in use");
}

#[cfg(unix)]
#[tokio::test]
async fn behind_a_unix_socket_the_default_paths_are_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pdp.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (log, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let script = Arc::new(Mutex::new(vec![Step::Answer(ok(r#"{"decision": true}"#))]));
    let server = tokio::spawn(async move { serve(listener.accept().await.unwrap().0, script, log).await });
    let backend = AuthZen::builder(format!("unix://{}", path.display())).with_deadline(Duration::from_secs(10));
    assert_eq!(effect(&Arc::new(backend.build().unwrap())).await, Ok(Effect::Allow));
    assert!(requests.recv().await.unwrap().starts_with("POST /access/v1/evaluation HTTP/1.1\r\n"));
    server.abort();
}

#[test]
fn settings_that_cannot_be_used_name_their_field() {
    let pdp = || AuthZen::builder("https://pdp.example");
    let cases = [
        (AuthZen::builder("http://pdp.example"), "policy.authzen.url"),
        (AuthZen::builder("https://pdp.example/?tenant=s3cr3t"), "policy.authzen.url"),
        (AuthZen::builder("https://user:s3cr3t@pdp.example"), "policy.authzen.url"),
        (AuthZen::builder("https://pdp.example/#s3cr3t"), "policy.authzen.url"),
        (AuthZen::builder("unix:pdp.sock"), "policy.authzen.url"),
        (AuthZen::builder(""), "policy.authzen.url"),
        (pdp().with_endpoints("http://pdp.example/e", None), "policy.authzen.endpoints"),
        (pdp().with_endpoints("http://localhost/e", None), "policy.authzen.endpoints"),
        (pdp().with_endpoints("https://pdp.example/e", Some("/es")), "policy.authzen.endpoints"),
        (pdp().with_deadline(Duration::ZERO), "policy.authzen.deadline"),
        (pdp().with_max_in_flight(0), "policy.authzen.max_in_flight"),
        (pdp().with_breaker(0, Duration::from_secs(1)), "policy.authzen.breaker"),
        (pdp().with_metadata_interval(Duration::ZERO), "policy.authzen.metadata_interval"),
        (pdp().with_bearer("s3cr3t\n"), "policy.authzen.bearer"),
        (pdp().with_bearer_file("/nonexistent/token"), "policy.authzen.bearer_file"),
        (pdp().with_bearer("s3cr3t").with_bearer_file("/nonexistent/token"), "policy.authzen.bearer_file"),
        (AuthZen::builder("http://localhost").with_roots("s3cr3t"), "policy.authzen.roots"),
        (AuthZen::builder("http://localhost").with_identity("s3cr3t"), "policy.authzen.identity"),
    ];
    for (builder, field) in cases {
        let text = format!("{builder:?}");
        let error = builder.build().expect_err(field);
        assert_eq!(error.field(), field);
        assert!(!format!("{text} {error} {error:?}").contains("s3cr3t"), "{error:?}");
    }
    let both = pdp().with_bearer("s3cr3t").with_bearer_file("/nonexistent/token").build().unwrap_err();
    assert!(both.to_string().contains("leave one of"), "{both}");
    assert!(AuthZen::builder("http://pdp.example").dangerous_allow_plain_http().build().is_ok());
}

#[tokio::test]
async fn it_keeps_the_promises_of_a_backend() {
    let server = Server::answering(ok(r#"{"decision": true, "context": {"reason": "r"}}"#)).await;
    let backend = Arc::new(server.authzen().build().unwrap());
    crate::testing::conformance::policy_backend(
        backend,
        &[policy_input("GET", "/jobs"), policy_input("POST", "/jobs")],
    )
    .await;
}
