//! Exactly one record for each request, however it ends; what stands in it, and what never does.

use std::{
    convert::Infallible,
    future::{Ready, poll_fn},
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    response::Response,
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{
    Issuer, Rules, Stack,
    audit::{Audit, Kind, Memory, Mode, Outcome},
    axum::{Protected, protect},
    rules::{policy_only, public, scopes},
    scope::all_of,
    testing::TestIssuer,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};
use tower_http::timeout::TimeoutLayer;

use crate::{
    support::{
        AUDIENCE, BySubject, Counter, Host, Log, PATIENCE, SharedSink, alice, count, get_with, keys_are_loaded,
        only_record, records, send, within,
    },
    wire::{self, Ask},
};

struct Fixture {
    idp: TestIssuer,
    memory: Memory,
    stack: Stack,
    service: Protected,
    handled: Counter,
}

fn rules() -> Rules {
    let read = || scopes(all_of(["jobs:read"]));
    Rules::new()
        .get("/jobs/{id}", read())
        .get("/hangs", read())
        .get("/panics", read())
        .get("/panics-at-once", read())
        .get("/streams", read())
        .get("/trickles", read())
        .get("/large", read())
        .get("/livez", public("liveness"))
}

fn router(handled: &Counter) -> Router {
    let counted = |handled: &Counter| {
        let handled = handled.clone();
        async move || {
            handled.count();
            "a job"
        }
    };
    let hanging = handled.clone();
    Router::new()
        .route("/jobs/{id}", get(counted(handled)))
        .route("/livez", get(counted(handled)))
        .route(
            "/hangs",
            get(async move || {
                hanging.count();
                std::future::pending::<()>().await;
            }),
        )
        .route("/panics", get(async || -> () { panic!("in the handler") }))
        .route_service("/panics-at-once", service_fn(panic_at_once))
        .route("/streams", get(async || chunks(3, Duration::ZERO)))
        .route("/trickles", get(async || chunks(usize::MAX, Duration::from_millis(5))))
        .route(
            "/large",
            get(async || ([("content-length", "1000000000")], chunks(usize::MAX, Duration::from_millis(5)))),
        )
}

fn panic_at_once(_: Request) -> Ready<Result<Response, Infallible>> {
    panic!("in `call`")
}

/// A body of unknown length.
fn chunks(number: usize, pause: Duration) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        for _ in 0..number {
            if sender.send(Bytes::from_static(b"chunk ")).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    });
    Body::new(Chunks(receiver))
}

struct Chunks(tokio::sync::mpsc::Receiver<Bytes>);

impl axum::body::HttpBody for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}

impl Fixture {
    async fn new() -> Self {
        let idp = TestIssuer::start().await;
        let (memory, handled) = (Memory::new(), Counter::default());
        let issuer = Issuer::rfc9068(idp.url(), AUDIENCE);
        let stack =
            Stack::builder(issuer, rules(), BySubject::new(), memory.clone()).with_service("jobs").build().unwrap();
        keys_are_loaded(&stack).await;
        let service = protect(router(&handled), stack.clone());
        Self { idp, memory, stack, service, handled }
    }

    fn request(&self, path: &str) -> Request {
        get_with(path, &alice(&self.idp).mint().bearer())
    }

    async fn records(&self) -> Vec<Value> {
        records(&self.stack, &self.memory).await
    }

    async fn only_record(&self) -> Value {
        only_record(&self.stack, &self.memory).await
    }

    /// One record for each answer, and nobody but who was answered 200 reached the handler.
    fn assert_answers(&self, records: &[Value], mut expected: Vec<u16>) {
        let mut sent: Vec<_> = records.iter().map(|record| record["sent"]["http"].as_u64().unwrap() as u16).collect();
        sent.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sent, expected);
        assert_eq!(self.handled.total(), sent.iter().filter(|status| **status == 200).count());
    }

    /// Waits for a record that a connection's end is to bring about.
    async fn records_once(&self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        within("the records", async {
            loop {
                let records = self.records().await;
                if enough(&records) {
                    return records;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

fn thumbprint(token: &str) -> String {
    let (signing_input, _) = token.rsplit_once('.').unwrap();
    URL_SAFE_NO_PAD.encode(Sha256::digest(signing_input))
}

#[tokio::test]
async fn an_answered_request_leaves_one_record_with_every_fact() {
    let fixture = Fixture::new().await;
    let token = alice(&fixture.idp).claim("jti", "token-1").actor("agent-7").mint();
    let claims: Value = {
        let payload = token.as_str().split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    };
    let mut request = get_with("/jobs/7", &token.bearer());
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    request.headers_mut().insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse().unwrap());
    let response = send(fixture.service.clone(), request).await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (200, "a job"));

    let record = fixture.only_record().await;
    let expected = json!({
        "schema": 1, "kind": "request", "enforced": true, "service": "jobs", "trace_id": trace,
        "jti": "token-1", "user_id": "auth0|alice", "thumbprint": thumbprint(token.as_str()), "exp": claims["exp"],
        "issuer": fixture.idp.url(), "client_id": "web", "principal": "user", "scope": ["jobs:read"],
        "stage": "handler", "decision": "allow", "reason": null, "outcome": "complete", "phase": null,
        "route": {"template": "/jobs/{id}", "rule": "scopes"}, "method": "GET",
        "answered": {"http": 200, "grpc": null}, "sent": {"http": 200, "grpc": null}, "bytes": 5,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&record[name], value, "{name}");
    }
    assert_eq!(record["request_id"], response.headers()["x-request-id"].to_str().unwrap());
    assert_eq!((&record["policy"]["effect"], &record["policy"]["revision"]), (&json!("allow"), &json!("by-subject-1")));
    assert_eq!(record["policy"]["decision_id"].as_str().unwrap().len(), 32);
    assert_eq!(record["actors"][0]["subject"], "agent-7");
    assert_eq!(record["key"]["kid"], fixture.idp.key_id(portcullis::key::Algorithm::Rs256));
    let time = record["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    assert!(record["duration_us"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_record_tells_what_was_answered_inside_from_what_was_sent() {
    let fixture = Fixture::new().await;
    let grpc = |path: &str, bearer: &str| {
        let mut request = get_with(path, bearer);
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        request
    };
    let response = send(fixture.service.clone(), grpc("/jobs/7", "Bearer a.b.c")).await;
    assert_eq!((response.status().as_u16(), response.headers()["grpc-status"].to_str().unwrap()), (200, "16"));
    let record = fixture.only_record().await;
    assert_eq!(record["answered"]["http"], 401);
    assert_eq!(record["sent"], json!({"http": 200, "grpc": 16}));
}

#[tokio::test]
async fn an_unverified_token_is_on_record_as_such_with_its_thumbprint() {
    let fixture = Fixture::new().await;
    let token = alice(&fixture.idp).claim("jti", "forged-1").tampered().mint();
    send(fixture.service.clone(), get_with("/jobs/7", &token.bearer())).await;
    let record = fixture.only_record().await;
    assert_eq!(record["thumbprint"], thumbprint(token.as_str()));
    for name in ["jti", "user_id", "exp", "issuer", "client_id", "principal", "policy"] {
        assert_eq!(record[name], Value::Null, "{name}");
    }
    let claimed = &record["claimed"];
    assert_eq!(
        (&claimed["verified"], &claimed["jti"], &claimed["subject"]),
        (&json!(false), &json!("forged-1"), &json!("auth0|mallory"))
    );
}

#[tokio::test]
async fn a_call_that_is_dropped_before_its_first_poll_leaves_one_record() {
    let mut fixture = Fixture::new().await;
    let request = fixture.request("/jobs/7");
    drop(fixture.service.call(request));
    let record = fixture.only_record().await;
    assert_eq!((&record["outcome"], &record["phase"]), (&json!("aborted"), &json!("unpolled")));
    assert_eq!((&record["answered"], fixture.handled.total()), (&Value::Null, 0));
}

#[tokio::test]
async fn a_call_that_is_dropped_midway_leaves_one_record() {
    let mut fixture = Fixture::new().await;
    let request = fixture.request("/hangs");
    let mut call = Box::pin(fixture.service.call(request));
    let reached = poll_fn(|cx| {
        assert!(call.as_mut().poll(cx).is_pending());
        if fixture.handled.total() == 1 { Poll::Ready(()) } else { Poll::Pending }
    });
    within("the handler", reached).await;
    drop(call);
    let record = fixture.only_record().await;
    assert_eq!((&record["outcome"], &record["phase"]), (&json!("aborted"), &json!("head")));
    assert_eq!((&record["decision"], &record["stage"]), (&json!("allow"), &json!("handler")));
    assert_eq!((&record["user_id"], &record["answered"]), (&json!("auth0|alice"), &Value::Null));
}

#[tokio::test]
async fn a_panic_in_call_is_answered_500_and_leaves_one_record() {
    let fixture = Fixture::new().await;
    let (denial, audit) = fixture.stack.outer();
    let service = denial.layer(audit.layer(service_fn(panic_at_once)));
    let response = within("an answer", service.oneshot(fixture.request("/jobs/7"))).await.unwrap();
    assert_eq!(response.status(), 500);
    drop(response);
    let record = fixture.only_record().await;
    assert_eq!((&record["outcome"], &record["phase"]), (&json!("panicked"), &json!("call")));
    assert_eq!(record["sent"]["http"], 500);
}

#[tokio::test]
async fn a_panic_of_a_handler_is_answered_500_and_leaves_one_record() {
    for path in ["/panics", "/panics-at-once"] {
        let fixture = Fixture::new().await;
        let response = send(fixture.service.clone(), fixture.request(path)).await;
        assert_eq!(response.status(), 500, "{path}");
        assert!(!response.body().contains("in the handler"), "{}", response.body());
        let record = fixture.only_record().await;
        assert_eq!((&record["outcome"], &record["sent"]["http"]), (&json!("panicked"), &json!(500)), "{path}");
        assert_eq!(record["phase"], "head", "{path}");
        assert_eq!((&record["decision"], &record["user_id"]), (&json!("allow"), &json!("auth0|alice")), "{path}");
    }
}

#[tokio::test]
async fn a_timeout_around_the_stack_leaves_one_record() {
    let fixture = Fixture::new().await;
    let timeout = TimeoutLayer::with_status_code(http::StatusCode::SERVICE_UNAVAILABLE, Duration::from_millis(50));
    let response =
        within("the timeout", timeout.layer(fixture.service.clone()).oneshot(fixture.request("/hangs"))).await.unwrap();
    assert_eq!(response.status(), 503);
    let record = fixture.only_record().await;
    assert_eq!(
        (&record["outcome"], &record["phase"], &record["decision"]),
        (&json!("aborted"), &json!("head"), &json!("allow"))
    );
}

#[tokio::test]
async fn a_body_that_the_client_cuts_leaves_one_request_record_that_says_so() {
    let fixture = Fixture::new().await;
    let host = Host::axum(fixture.service.clone()).await;
    // The length is known: the record is written at the end. The client reads the head and goes.
    hang_up_after_the_head(&fixture, &host, "/large").await;
    let records = fixture.records_once(|records| !records.is_empty()).await;
    assert_eq!(records.len(), 1);
    assert_eq!(
        (&records[0]["outcome"], &records[0]["phase"], &records[0]["answered"]["http"]),
        (&json!("aborted"), &json!("body"), &json!(200))
    );
}

#[tokio::test]
async fn a_stream_that_the_client_cuts_leaves_one_request_and_one_end_record() {
    let fixture = Fixture::new().await;
    let host = Host::axum(fixture.service.clone()).await;
    hang_up_after_the_head(&fixture, &host, "/trickles").await;
    let records = fixture.records_once(|records| records.len() > 1).await;
    assert_eq!((&records[0]["kind"], &records[0]["outcome"]), (&json!("request"), &Value::Null));
    assert_eq!((&records[1]["kind"], &records[1]["outcome"]), (&json!("end"), &json!("aborted")));
    assert_eq!(records[0]["request_id"], records[1]["request_id"]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fixture.records().await.len(), 2);
}

async fn hang_up_after_the_head(fixture: &Fixture, host: &Host, path: &str) {
    let ask = Ask::get(path).bearer(alice(&fixture.idp).mint().as_str());
    let mut head = [0; 64];
    within("the head", async {
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        stream.write_all(&wire::http1_bytes(&ask)).await.unwrap();
        stream.read_exact(&mut head).await.unwrap();
    })
    .await;
    assert!(head.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&head));
}

#[tokio::test]
async fn a_stream_leaves_a_request_record_at_its_head_and_an_end_record() {
    let fixture = Fixture::new().await;
    let response = send(fixture.service.clone(), fixture.request("/streams")).await;
    assert_eq!(response.body(), "chunk chunk chunk ");
    let records = fixture.records().await;
    let kinds: Vec<_> = records.iter().map(|record| (&record["kind"], &record["outcome"], &record["bytes"])).collect();
    let expected = (json!("request"), Value::Null, json!(0));
    let end = (json!("end"), json!("complete"), json!(18));
    assert_eq!(kinds, [(&expected.0, &expected.1, &expected.2), (&end.0, &end.1, &end.2)]);
    assert_eq!(records[0]["request_id"], records[1]["request_id"]);
}

#[tokio::test]
async fn head_leaves_one_complete_record() {
    let fixture = Fixture::new().await;
    let host = Host::axum(fixture.service.clone()).await;
    let ask = Ask::new(http::Method::HEAD, "/jobs/7").bearer(alice(&fixture.idp).mint().as_str());
    let answer = wire::http1(host.address, &ask).await;
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, "5", 0));
    let record = fixture.only_record().await;
    assert_eq!(
        (&record["outcome"], &record["method"], &record["decision"]),
        (&json!("complete"), &json!("HEAD"), &json!("allow"))
    );
    assert_eq!(record["route"], json!({"template": "/jobs/{id}", "rule": "scopes"}));
}

#[tokio::test]
async fn a_stack_in_a_stack_leaves_one_record() {
    let fixture = Fixture::new().await;
    let inner = protect(router(&fixture.handled), fixture.stack.sibling(rules()).build().unwrap());
    let outer = protect(Router::new().route_service("/jobs/{id}", inner), fixture.stack.clone());
    let response = send(outer, fixture.request("/jobs/7")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(fixture.only_record().await["outcome"], "complete");
}

/// A stack whose audit trail holds eight records.
async fn small(mode: Mode) -> (TestIssuer, SharedSink, Audit, Stack, Protected, Counter) {
    let idp = TestIssuer::start().await;
    let (sink, handled) = (SharedSink::default(), Counter::default());
    let audit = Audit::builder(std::sync::Arc::new(sink.clone())).with_mode(mode).with_capacity(8).start().unwrap();
    let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), BySubject::new(), sink.clone())
        .with_audit(audit.clone())
        .build()
        .unwrap();
    let service = protect(router(&handled), stack.clone());
    (idp, sink, audit, stack, service, handled)
}

#[tokio::test]
async fn in_mode_deny_nothing_happens_that_is_not_written_down() {
    let (idp, sink, audit, stack, service, handled) = small(Mode::Deny).await;
    sink.0.stall(true);
    let mut refused = 0;
    for _ in 0..40 {
        let before = handled.total();
        let response = send(service.clone(), get_with("/jobs/7", &alice(&idp).mint().bearer())).await;
        match response.status().as_u16() {
            200 => assert_eq!(handled.total(), before + 1),
            503 => {
                refused += 1;
                assert_eq!(handled.total(), before, "refused after a side effect");
                assert_eq!(response.headers()["retry-after"], "5");
            }
            other => panic!("{other}"),
        }
    }
    assert!(refused > 0 && handled.total() > 0, "{refused} refused, {} handled", handled.total());
    assert!(!stack.health().audit.is_serving());
    // The public route is refused as well: what happened on it could not be written down.
    assert_eq!(send(service.clone(), crate::support::get("/livez")).await.status(), 503);

    sink.0.stall(false);
    audit.flush(PATIENCE).await.unwrap();
    let records = sink.0.records();
    let allowed = records.iter().filter(|record| record.outcome == Some(Outcome::Complete) && record.reason.is_none());
    assert_eq!(allowed.count(), handled.total(), "handler calls and records");
    let lost: u64 = records.iter().filter_map(|record| record.gap).map(|gap| gap.lost).sum();
    assert_eq!(count(&records, Kind::Request) as u64 + lost, 41, "every request is a record or one unit of a gap");
    assert!(stack.health().audit.is_serving());
    assert_eq!(send(service, get_with("/jobs/7", &alice(&idp).mint().bearer())).await.status(), 200);
}

#[tokio::test]
async fn in_mode_count_requests_go_on_and_what_is_lost_is_counted() {
    let (idp, sink, audit, stack, service, handled) = small(Mode::Count).await;
    sink.0.stall(true);
    for _ in 0..40 {
        let response = send(service.clone(), get_with("/jobs/7", &alice(&idp).mint().bearer())).await;
        assert_eq!(response.status(), 200);
    }
    assert_eq!(handled.total(), 40);
    assert_ne!(stack.health().audit, portcullis::health::Health::Ready);
    assert!(stack.health().audit.is_serving());
    sink.0.stall(false);
    audit.flush(PATIENCE).await.unwrap();
    let records = sink.0.records();
    let lost: u64 = records.iter().filter_map(|record| record.gap).map(|gap| gap.lost).sum();
    assert!(lost > 0);
    assert_eq!(count(&records, Kind::Request) as u64 + lost, 40);
}

#[tokio::test]
async fn no_secret_is_written_logged_answered_or_printed() {
    let log = Log::default();
    let _kept = log.keep();
    let fixture = Fixture::new().await;
    let mut shown = String::new();
    let secrets = ["CANARYcookie", "CANARYquery", "CANARYbasic", "CANARYclaim", "CANARYheader", "CANARYbody"];
    let token = || alice(&fixture.idp).claim("secret", "CANARYclaim");
    let tokens = [
        token().mint().bearer(),
        token().expired().mint().bearer(),
        token().tampered().mint().bearer(),
        token().kid("no-such-key").mint().bearer(),
        token().subject("denied").mint().bearer(),
        token().subject("panicking").mint().bearer(),
        token().claim("iss", "https://elsewhere.example").mint().bearer(),
        token().claim("padding", "x".repeat(20_000)).mint().bearer(),
        "Basic CANARYbasic".to_owned(),
        "Bearer CANARYbasic, CANARYbasic".to_owned(),
    ];
    for bearer in &tokens {
        for path in [
            "/jobs/7?access_token=CANARYquery&api_key=CANARYquery",
            "/no-such-route?token=CANARYquery",
            "/panics?x=CANARYquery",
        ] {
            let mut request = get_with(path, bearer);
            request.headers_mut().insert("cookie", "session=CANARYcookie".parse().unwrap());
            request.headers_mut().insert("x-api-key", "CANARYheader".parse().unwrap());
            *request.body_mut() = Body::from("CANARYbody");
            let response = send(fixture.service.clone(), request).await;
            shown.push_str(&format!("{response:?}"));
        }
    }
    shown.push_str(&format!("{:?} {:?} {:?}", fixture.service, fixture.stack, fixture.stack.audit()));
    for record in fixture.memory.records() {
        shown.push_str(&format!("{record:?}"));
    }
    let records = serde_json::to_string(&fixture.records().await).unwrap();
    let log = log.text();
    assert!(log.contains("the service panicked"), "the log was not captured: {log}");
    assert_eq!(fixture.records().await.len(), tokens.len() * 3);
    for (place, text) in [("records", &records), ("log", &log), ("answers and Debug", &shown)] {
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} in {place}");
        }
        for bearer in &tokens {
            let signature = bearer.rsplit('.').next().unwrap();
            assert!(!text.contains(signature), "a credential in {place}: {bearer}");
            let signing_input = bearer.trim_start_matches("Bearer ").split('.').nth(1).unwrap_or(bearer);
            assert!(!text.contains(signing_input), "claims of a token in {place}: {bearer}");
        }
    }
}

/// What is put into each header, and what its form as the only `Authorization` header is answered: 401 where it reads as credentials
/// of another scheme, 400 where it reads as none.
const ODD_VALUES: [(&[u8], u16); 7] = [
    (b"", 400),
    (b"\xff\xfe", 400),
    (b"\t", 400),
    (b"%00%0a", 401),
    (b"\"\\,;=", 400),
    (&[b'a'; 9000], 401),
    ("\u{202e}é".as_bytes(), 400),
];

/// Every header that something in the stack reads, some that others read, and one that nobody knows.
const ODD_NAMES: [&str; 14] = [
    "authorization",
    "host",
    "cookie",
    "traceparent",
    "content-type",
    "accept",
    "x-request-id",
    "sec-fetch-mode",
    "origin",
    "user-agent",
    "forwarded",
    "x-forwarded-for",
    "grpc-timeout",
    "x-nobody-knows",
];

/// Name, value, how often, and the one right status.
fn odd_headers() -> impl Iterator<Item = (&'static str, &'static [u8], usize, u16)> {
    let status = |name, value: &[u8], alone, times| match (name, times) {
        ("authorization", 1) => alone,
        // An empty authority names none, and so does white space; what cannot be one is a bad request (RFC 9112 §3.2).
        ("host", 1) if !matches!(value, b"" | b"\t" | [b'a', ..]) => 400,
        ("authorization" | "host", 2) => 400,
        _ => 200,
    };
    ODD_NAMES.into_iter().flat_map(move |name| {
        ODD_VALUES.into_iter().flat_map(move |(value, alone)| {
            [1, 2].map(move |times| (name, value, times, status(name, value, alone, times)))
        })
    })
}

#[tokio::test]
async fn odd_bytes_in_any_header_leave_one_record_and_no_panic() {
    let fixture = Fixture::new().await;
    let mut expected = Vec::new();
    for (name, value, times, status) in odd_headers() {
        let mut request = fixture.request("/jobs/7");
        request.headers_mut().remove(name);
        for _ in 0..times {
            request.headers_mut().append(name, http::HeaderValue::from_bytes(value).unwrap());
        }
        let response = send(fixture.service.clone(), request).await;
        assert_eq!(response.status(), status, "{name}: {}, {times} times", value.escape_ascii());
        expected.push(status);
    }
    fixture.assert_answers(&fixture.records().await, expected);
}

#[tokio::test]
async fn odd_bytes_in_any_header_on_a_socket_leave_one_record_and_no_panic() {
    let fixture = Fixture::new().await;
    let host = Host::axum(fixture.service.clone()).await;
    let bearer = alice(&fixture.idp).mint().bearer();
    let mut expected = Vec::new();
    for (name, value, times, status) in odd_headers() {
        let mut request = b"GET /jobs/7 HTTP/1.1\r\nconnection: close\r\n".to_vec();
        let usual = [("host", "api.acme.example".as_bytes()), ("authorization", bearer.as_bytes())];
        let usual = usual.into_iter().filter(|(usual, _)| *usual != name);
        for (name, value) in usual.chain(std::iter::repeat_n((name, value), times)) {
            request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        let answer = wire::parse_http1(&within("an answer", wire::http1_raw(host.address, &request)).await);
        assert_eq!(answer.status, status, "{name}: {}, {times} times", value.escape_ascii());
        expected.push(status);
    }
    let records = fixture.records_once(|records| records.len() >= expected.len()).await;
    fixture.assert_answers(&records, expected);
}

#[tokio::test]
async fn two_stacks_write_into_one_trail() {
    let fixture = Fixture::new().await;
    let other = fixture.stack.sibling(Rules::new().get("/other", policy_only())).build().unwrap();
    let other = protect(Router::new().route("/other", get(async || "other")), other);
    assert_eq!(send(other, fixture.request("/other")).await.status(), 200);
    assert_eq!(send(fixture.service.clone(), fixture.request("/jobs/1")).await.status(), 200);
    let records = fixture.records().await;
    let templates: Vec<_> = records.iter().map(|record| &record["route"]["template"]).collect();
    assert_eq!(templates, ["/other", "/jobs/{id}"]);
    assert_ne!(records[0]["request_id"], records[1]["request_id"]);
}
