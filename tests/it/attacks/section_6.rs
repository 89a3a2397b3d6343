//! The policy server, and what stands in its place: whatever it answers, and however, what is not an allow lets nothing through.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use portcullis::{
    Rules,
    policy::{Cached, Opa, OpaBuilder, PolicySet, Rego, Shadow, deny_all},
    rules::policy_only,
    testing::{Answer, StubBackend, TestToken},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Guarded, Seen};
use crate::support::{PATIENCE, keys_are_loaded};

/// Speaks for a policy server: answers every question with the same bytes, which a test may change, and closes.
struct Impostor {
    url: String,
    manner: Arc<Mutex<Manner>>,
    /// The first line of each question.
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
enum Manner {
    Answer(Vec<u8>),
    /// These bytes, and then a space every few milliseconds.
    Drip(Vec<u8>),
    Silence,
}

impl Impostor {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (manner, asked) = (Arc::new(Mutex::new(Manner::Silence)), Arc::<Mutex<Vec<_>>>::default());
        let mut tasks = JoinSet::new();
        let (how, log) = (Arc::clone(&manner), Arc::clone(&asked));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(answer(stream, Arc::clone(&how), Arc::clone(&log)));
            }
        });
        Self { url, manner, asked, _tasks: tasks }
    }

    fn opa(&self) -> OpaBuilder {
        Opa::builder(&self.url).with_deadline(Duration::from_secs(10))
    }

    fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn answers(&self, status: &str, content_type: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: {content_type}\r\n");
        self.set(Manner::Answer(format!("{head}content-length: {length}\r\n\r\n{body}").into()));
    }

    fn says(&self, body: &str) {
        self.answers("200 OK", "application/json", body);
    }
}

async fn answer(mut stream: TcpStream, manner: Arc<Mutex<Manner>>, log: Arc<Mutex<Vec<String>>>) {
    let mut question = Vec::new();
    // Our client's bodies are JSON objects and its headers hold no such bytes.
    while !question.ends_with(b"}}") {
        if !matches!(stream.read_buf(&mut question).await, Ok(1..)) {
            return;
        }
    }
    let line = String::from_utf8_lossy(&question).lines().next().unwrap_or_default().to_owned();
    log.lock().unwrap().push(line);
    let manner = manner.lock().unwrap().clone();
    match manner {
        Manner::Answer(bytes) => drop(stream.write_all(&bytes).await),
        Manner::Drip(start) => {
            let _ = stream.write_all(&start).await;
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Manner::Silence => std::future::pending().await,
    }
}

async fn guarded_by(opa: OpaBuilder) -> Guarded {
    let rules = Rules::new().get("/jobs/{id}", policy_only());
    Guarded::axum_asking(opa.build().unwrap(), rules, |ran| ran.router(["/jobs/{id}"])).await
}

async fn ask(guarded: &Guarded) -> Seen {
    guarded.get("/jobs/7", Some(&guarded.mallory())).await
}

#[track_caller]
fn assert_no_decision(seen: &Seen, reason: &str, about: &str) {
    seen.assert_refused(503, reason, about);
    assert!(seen.record["policy"].is_null(), "{about}: {seen:?}");
}

#[tokio::test]
async fn t_090_an_undefined_decision_is_a_denial_with_a_code_of_its_own() {
    let impostor = Impostor::start().await;
    let guarded = guarded_by(impostor.opa()).await;
    // A server answers alike where the rule is silent, and where path, package or bundle do not exist.
    for undefined in
        ["{}", r#"{"warning": {"code": "api_usage_warning"}}"#, r#"{"decision_id": "d-1", "provenance": {}}"#]
    {
        impostor.says(undefined);
        let seen = ask(&guarded).await;
        seen.assert_refused(403, "policy_undefined", undefined);
        assert_eq!(seen.record["policy"]["effect"], "deny", "{seen:?}");
    }
    impostor.says(r#"{"result": false}"#);
    ask(&guarded).await.assert_refused(403, "policy_denied", "false is another matter");
}

#[tokio::test]
async fn t_091_what_is_only_truthy_is_no_decision() {
    let impostor = Impostor::start().await;
    let guarded = guarded_by(impostor.opa()).await;
    let odd = [
        "\"true\"",
        "\"allow\"",
        "1",
        "-1",
        "[]",
        "[true]",
        "null",
        "{}",
        r#"{"allow": "true"}"#,
        r#"{"allow": 1}"#,
        r#"{"allow": null}"#,
        r#"{"allow": [true]}"#,
        r#"{"allow": {"allow": true}}"#,
        r#"{"ALLOW": true}"#,
        r#"{"result": true}"#,
        r#"{"allow": true, "decision": false}"#,
        r#"{"decision": true, "allow": false}"#,
        r#"{"allow": false, "allow": true}"#,
    ];
    for result in odd {
        impostor.says(&format!(r#"{{"result": {result}}}"#));
        assert_no_decision(&ask(&guarded).await, "policy_invalid_result", result);
    }
    for body in ["true", "[{\"result\": true}]", r#"{"result": false, "result": true}"#] {
        impostor.says(body);
        assert_no_decision(&ask(&guarded).await, "policy_invalid_result", body);
    }
    impostor.says(r#"{"result": {"allow": true}}"#);
    ask(&guarded).await.assert_ran("/jobs/{id}", "allow: true");
}

#[tokio::test]
async fn t_092_an_answer_that_is_an_error_is_no_decision_whatever_its_body_says() {
    const ALLOW: &str = r#"{"result": true}"#;
    let impostor = Impostor::start().await;
    let guarded = guarded_by(impostor.opa()).await;
    let megabyte = format!(r#"{{"result": true, "x": "{}"}}"#, "x".repeat(1 << 20));
    let (json, invalid, unavailable) = ("application/json", "policy_invalid_result", "policy_unavailable");
    let cases = [
        ("500", "500 Internal Server Error", json, ALLOW, "policy_evaluation_error"),
        ("400", "400 Bad Request", json, ALLOW, "policy_evaluation_error"),
        ("404", "404 Not Found", json, ALLOW, unavailable),
        ("401", "401 Unauthorized", json, ALLOW, unavailable),
        ("204", "204 No Content", json, "", unavailable),
        ("206", "206 Partial Content", json, ALLOW, unavailable),
        ("301", "301 Moved Permanently\r\nlocation: /v1/data/other", json, ALLOW, unavailable),
        ("307", "307 Temporary Redirect\r\nlocation: /v1/data/other", json, ALLOW, unavailable),
        ("503", "503 Service Unavailable", json, ALLOW, unavailable),
        ("HTML", "200 OK", "text/html", "<html>true</html>", invalid),
        ("text", "200 OK", "text/plain", ALLOW, invalid),
        ("truncated JSON", "200 OK", json, r#"{"result": tr"#, invalid),
        ("nothing", "200 OK", json, "", invalid),
        ("a megabyte", "200 OK", json, &megabyte, invalid),
    ];
    for (name, status, content_type, body, reason) in cases {
        impostor.says(ALLOW);
        ask(&guarded).await.assert_ran("/jobs/{id}", name);
        impostor.answers(status, content_type, body);
        assert_no_decision(&ask(&guarded).await, reason, name);
    }
}

#[tokio::test]
async fn t_093_a_server_that_cannot_be_reached_or_does_not_end_is_a_denial_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n{\"result\": true}";
    let manners = [
        ("silence", Manner::Silence, "policy_timeout"),
        ("slow head", Manner::Drip(b"HTTP/1.1 200 OK\r\nx-drip:".to_vec()), "policy_timeout"),
        ("slow body", Manner::Drip(head.into()), "policy_timeout"),
        ("closed", Manner::Answer(Vec::new()), "policy_unavailable"),
        ("closed within the body", Manner::Answer(head.into()), "policy_unavailable"),
        ("no HTTP", Manner::Answer(b"+OK true\r\n\r\n".to_vec()), "policy_unavailable"),
    ];
    let impostor = Impostor::start().await;
    let budget = Duration::from_millis(250);
    let mut cases = vec![
        ("refused", Opa::builder(format!("http://{free}")), Manner::Silence, "policy_unavailable"),
        // Nobody there speaks TLS; a certificate of another authority is tried on a real server, in tests/peers.
        ("TLS error", plaintext_in_place_of_tls().await, Manner::Silence, "policy_unavailable"),
        #[cfg(unix)]
        ("no socket", Opa::builder("unix:///nonexistent/opa.sock"), Manner::Silence, "policy_unavailable"),
    ];
    cases.extend(manners.map(|(name, manner, reason)| (name, Opa::builder(&impostor.url), manner, reason)));
    for (name, opa, manner, reason) in cases {
        impostor.set(manner);
        let guarded = guarded_by(opa.with_deadline(budget).with_breaker(5, Duration::from_secs(30))).await;
        keys_are_loaded(&guarded.stack).await;
        let started = Instant::now();
        // More than the breaker's five: that it gives up asking changes nothing either.
        for round in 0..7 {
            let seen = ask(&guarded).await;
            let reason = if round < 5 { reason } else { "policy_unavailable" };
            assert_no_decision(&seen, reason, name);
        }
        // A budget for each, and the patience that a busy machine needs.
        assert!(started.elapsed() < budget * 7 + PATIENCE, "{name}: {:?}", started.elapsed());
        assert!(!guarded.stack.health().is_serving(), "{name}");
    }
}

/// A client that insists on TLS, in front of somebody who answers it in plain text that looks like a decision.
async fn plaintext_in_place_of_tls() -> OpaBuilder {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"result\": true}").await;
        }
    });
    Opa::builder(url)
}

#[tokio::test]
async fn t_094_nothing_in_a_request_moves_the_decision_path() {
    let impostor = Impostor::start().await;
    impostor.says(r#"{"result": false}"#);
    let guarded = guarded_by(impostor.opa()).await;
    let odd = [
        "/jobs/7",
        "/jobs/%22%5D",
        "/jobs/%5B%22allow%22%5D",
        "/jobs/a?path=system/allow",
        "/jobs/%7B%7D",
        "/jobs/..%5Cx",
        "/jobs/x%3Fpretty",
        "/jobs/7?strict-builtin-errors=false",
        "/jobs/data.system",
        "/jobs/*",
    ];
    for target in odd {
        let seen = guarded.get(target, Some(&guarded.mallory())).await;
        assert_ne!(seen.status, Some(200), "{target}: {seen:?}");
        assert!(seen.ran.is_empty(), "{target}: {seen:?}");
    }
    let asked = impostor.asked.lock().unwrap().clone();
    assert!(asked.len() >= 5, "{asked:?}");
    for line in asked {
        assert_eq!(line, "POST /v1/data/authz/decision?provenance=true&strict-builtin-errors=true HTTP/1.1");
    }
}

#[tokio::test]
async fn t_094_a_decision_path_is_encoded_by_segment_and_one_that_steps_is_refused() {
    let impostor = Impostor::start().await;
    impostor.says(r#"{"result": false}"#);
    let sent = [
        ("authz/a\"b", "authz/a%22b"),
        ("authz/allow\"]", "authz/allow%22%5D"),
        ("authz[\"allow\"]", "authz%5B%22allow%22%5D"),
        ("authz%2Fallow", "authz%252Fallow"),
        ("authz/allow?pretty", "authz/allow%3Fpretty"),
        ("authz/allow#x", "authz/allow%23x"),
        ("authz\\allow", "authz%5Callow"),
        ("authz/\r\nx: y", "authz/%0D%0Ax%3A%20y"),
    ];
    for (path, segments) in sent {
        let guarded = guarded_by(impostor.opa().with_decision_path(path)).await;
        ask(&guarded).await.assert_refused(403, "policy_denied", path);
        let line = impostor.asked.lock().unwrap().pop().unwrap();
        assert!(line.starts_with(&format!("POST /v1/data/{segments}?provenance=")), "{path:?}: {line}");
    }
    for path in ["", "/", "//", "/authz/allow", "authz/allow/", "authz//allow", ".", "..", "authz/../system"] {
        let error = impostor.opa().with_decision_path(path).build().expect_err(path);
        assert_eq!(error.field(), "policy.opa.decision_path", "{path:?}");
    }
}

#[tokio::test]
async fn t_095_no_decision_depends_on_a_body_or_waits_for_one() {
    let seen = Arc::new(StubBackend::new(Answer::Deny));
    let rules = Rules::new().post("/jobs/{id}", policy_only());
    let guarded = Guarded::axum_asking(Arc::clone(&seen), rules, |ran| ran.router(["/jobs/{id}"])).await;
    let token = guarded.mallory();
    let bodies = [
        ("chunked, and never ended", "transfer-encoding: chunked\r\n"),
        ("announced, and never sent", "content-length: 1000\r\n"),
        ("absent", ""),
    ];
    for (name, header) in bodies {
        let head = format!("POST /jobs/7 HTTP/1.1\r\nhost: api.acme.example\r\n{header}");
        guarded.raw(head.as_bytes(), Some(&token)).await.assert_refused(403, "policy_denied", name);
    }
    let inputs: Vec<Value> = seen.inputs().iter().map(|input| serde_json::to_value(input).unwrap()).collect();
    assert_eq!(inputs.len(), bodies.len());
    for input in inputs {
        assert!(input["resource"]["properties"].get("body").is_none() && input.get("body").is_none(), "{input}");
    }
}

/// Allows whoever is on a list, for a job of theirs.
const OWNERS: &str = "package authz\n\ndefault decision := false\n\n\
    decision if input.resource.properties.params.id in data.jobs[input.subject.id]";

/// A service whose allows are remembered, and the policy behind them.
async fn remembering() -> (Guarded, Arc<Rego>) {
    let rego = Rego::builder().with_policies(owners(&["7"])).with_time_limit(Duration::from_secs(1));
    let rego = Arc::new(rego.build().unwrap());
    let cached = Cached::builder(Arc::clone(&rego)).with_lifetime(Duration::from_secs(60)).build().unwrap();
    let rules = Rules::new().get("/jobs/{id}", policy_only());
    (Guarded::axum_asking(cached, rules, |ran| ran.router(["/jobs/{id}"])).await, rego)
}

fn owners(of_mallory: &[&str]) -> PolicySet {
    let jobs = json!({"jobs": {"auth0|mallory": of_mallory, "auth0|alice": ["8"]}});
    PolicySet::new().add_source("authz.rego", OWNERS).add_data(&jobs).with_revision("same")
}

/// Status, and whether the decision was remembered.
async fn decided(guarded: &Guarded, target: &str, token: &TestToken) -> (Option<u16>, Value) {
    let seen = guarded.get(target, Some(token)).await;
    (seen.status, seen.record["policy"]["cached"].clone())
}

#[tokio::test]
async fn t_096_a_remembered_decision_is_that_of_the_same_question_alone() {
    let (guarded, _) = remembering().await;
    let token = guarded.mallory();
    assert_eq!(decided(&guarded, "/jobs/7", &token).await, (Some(200), json!(false)));
    assert_eq!(decided(&guarded, "/jobs/7?expand=lines", &token).await, (Some(200), json!(true)), "not read");
    for target in ["/jobs/8", "/jobs/77", "/jobs/7%20", "/jobs/7%22,%22", "/jobs/%377"] {
        let (status, remembered) = decided(&guarded, target, &token).await;
        assert_eq!((status, remembered), (Some(403), json!(false)), "{target}");
    }
}

#[tokio::test]
async fn t_097_nothing_that_was_decided_for_one_token_is_used_for_another() {
    let (guarded, _) = remembering().await;
    let (mallory, again) = (guarded.mallory(), guarded.mallory());
    let alice = guarded.idp.token().subject("auth0|alice").client("web").mint();
    assert_ne!(mallory.as_str(), again.as_str());
    for (name, token, status, remembered) in [
        ("the first", &mallory, 200, false),
        ("another token of the same party", &again, 200, false),
        ("another party", &alice, 403, false),
        ("the first again", &mallory, 200, true),
        ("the second again", &again, 200, true),
        ("the other party again", &alice, 403, false),
    ] {
        assert_eq!(decided(&guarded, "/jobs/7", token).await, (Some(status), json!(remembered)), "{name}");
    }
}

#[tokio::test]
async fn t_098_a_remembered_decision_ends_with_its_policy_and_denials_are_not_remembered() {
    let (guarded, rego) = remembering().await;
    let token = guarded.mallory();
    for remembered in [false, true] {
        assert_eq!(decided(&guarded, "/jobs/7", &token).await, (Some(200), json!(remembered)));
    }
    // Under the same name, so that the name alone cannot be what tells them apart.
    rego.activate(owners(&[])).unwrap();
    for _ in 0..2 {
        assert_eq!(decided(&guarded, "/jobs/7", &token).await, (Some(403), json!(false)));
    }
    rego.activate(owners(&["7"])).unwrap();
    assert_eq!(decided(&guarded, "/jobs/7", &token).await, (Some(200), json!(false)));
}

#[tokio::test]
async fn t_099_what_a_policy_says_of_its_reasons_reaches_nobody_outside() {
    let result = json!({"allow": false, "reasons": ["s3cret: mallory is on the watch list"], "http_status": 418,
        "headers": {"x-why": "s3cret"}, "body": "s3cret"});
    let rules = Rules::new().get("/jobs/{id}", policy_only());
    let stub = StubBackend::new(Answer::Result(result));
    let guarded = Guarded::axum_asking(stub, rules, |ran| ran.router(["/jobs/{id}"])).await;
    let bearer = guarded.mallory().bearer();
    let request = format!(
        "GET /jobs/7 HTTP/1.1\r\nhost: api.acme.example\r\nauthorization: {bearer}\r\nconnection: close\r\n\r\n"
    );
    let answer = crate::wire::http1_raw(guarded.host.address, request.as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("s3cret") && !answer.contains("watch") && !answer.contains("x-why"), "{answer}");
    let record = guarded.records_since(0, 1, "the refusal").await.remove(0);
    assert_eq!(record["policy"]["reasons"], json!(["s3cret: mallory is on the watch list"]));
}

#[test]
fn t_100_a_policy_in_the_process_reaches_nothing_outside_of_it() {
    let calls = [
        "http.send({\"method\": \"GET\", \"url\": \"http://127.0.0.1\"}).status_code == 200",
        "net.lookup_ip_addr(\"localhost\") != set()",
        "opa.runtime().env.HOME != \"\"",
        "providers.aws.sign_req({}, {}, 0) != {}",
        "rego.parse_module(\"a.rego\", \"package a\") != {}",
        "io.jwt.decode(\"a.b.c\")[0] != {}",
    ];
    for call in calls {
        let source = format!("package authz\n\ndecision if {call}");
        // Also where differences from Open Policy Agent are accepted.
        for builder in [Rego::builder(), Rego::builder().dangerous_relax_parity()] {
            let error = builder.add_source("authz.rego", source.clone()).build().expect_err(call);
            assert_eq!(error.field(), "policy.rego.source", "{call}");
            assert!(error.to_string().contains("there is no function"), "{call}: {error}");
        }
    }
    let clock = "package authz\n\ndecision if time.now_ns() > 0";
    let error = Rego::builder().add_source("authz.rego", clock).build().unwrap_err().to_string();
    assert!(error.contains("authz.rego:3:24") && error.contains("`with_clock_and_chance`"), "{error}");
    assert!(Rego::builder().add_source("authz.rego", clock).with_clock_and_chance().build().is_ok());
}

#[tokio::test]
async fn t_101_each_call_is_a_question_of_its_own() {
    let impostor = Impostor::start().await;
    let guarded = guarded_by(impostor.opa()).await;
    // What answers several questions answers none.
    for body in [
        r#"{"responses": {"1": {"result": true}}}"#,
        r#"{"result": {"responses": {"1": {"result": true}}}}"#,
        r#"{"result": [{"allow": true}, {"allow": true}]}"#,
        r#"{"evaluations": [{"decision": true}]}"#,
    ] {
        impostor.says(body);
        let seen = ask(&guarded).await;
        assert_ne!(seen.status, Some(200), "{body}: {seen:?}");
        assert!(seen.ran.is_empty(), "{body}: {seen:?}");
    }
}

#[tokio::test]
async fn t_102_a_policy_that_is_tried_out_changes_nothing_but_the_trail() {
    let rules = || Rules::new().get("/jobs/{id}", policy_only());
    for (name, candidate) in [
        ("denies", Answer::Deny),
        ("says nothing", Answer::Undefined),
        ("fails", Answer::Error(portcullis::policy::PolicyErrorKind::Evaluation)),
        ("panics", Answer::Panic),
    ] {
        // The trail is there only once the stack is.
        let trail = Arc::new(std::sync::OnceLock::<portcullis::audit::Audit>::new());
        let audit = Arc::clone(&trail);
        let shadow = Shadow::builder(Arc::new(StubBackend::new(Answer::Allow)), Arc::new(StubBackend::new(candidate)));
        let shadow = shadow.on_difference(move |difference| audit.get().unwrap().differed(difference)).build().unwrap();
        let guarded = Guarded::axum_asking(shadow, rules(), |ran| ran.router(["/jobs/{id}"])).await;
        trail.set(guarded.stack.audit().clone()).unwrap();
        let request = format!(
            "GET /jobs/7 HTTP/1.1\r\nhost: api.acme.example\r\nauthorization: {}\r\nconnection: close\r\n\r\n",
            guarded.mallory().bearer()
        );
        let answer = crate::wire::http1_raw(guarded.host.address, request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{name}");
        assert_eq!(guarded.ran.take(), ["/jobs/{id}"], "{name}");
        let mut records = guarded.records_since(0, 2, name).await;
        records.sort_by_key(|record| record["kind"] == "shadow");
        let [request, shadow] = records.try_into().unwrap();
        assert_eq!(
            (&request["kind"], &request["decision"], &request["enforced"]),
            (&json!("request"), &json!("allow"), &json!(true))
        );
        assert_eq!((&shadow["kind"], &shadow["enforced"]), (&json!("shadow"), &json!(false)), "{name}");
        assert_eq!(request["request_id"], shadow["request_id"], "{name}");
        assert_eq!(
            (&shadow["policy"]["effect"], &shadow["user_id"]),
            (&json!("allow"), &json!("auth0|mallory")),
            "{name}"
        );
        let differs = &shadow["shadow"];
        assert!(differs["policy"]["effect"] == "deny" || differs["error"].is_string(), "{name}: {differs}");
    }

    // And the other way round: what would be allowed is not.
    let shadow = Shadow::builder(Arc::new(deny_all()), Arc::new(StubBackend::new(Answer::Allow))).build().unwrap();
    let guarded = Guarded::axum_asking(shadow, rules(), |ran| ran.router(["/jobs/{id}"])).await;
    guarded.get("/jobs/7", Some(&guarded.mallory())).await.assert_refused(403, "policy_denied", "would be allowed");
}
