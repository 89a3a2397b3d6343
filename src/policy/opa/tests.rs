//! Against a loopback server that answers by a script.

mod faults;
mod ready;

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};

use super::*;
use crate::{
    outbound::{Outbound, OutboundError},
    policy::{
        Effect, InputFormat, PolicyErrorKind,
        remote::script::{Server, Step, http, ok, serve},
    },
    testing::{FrozenClock, policy_input},
};

impl Server {
    fn opa(&self) -> OpaBuilder {
        // Long enough for a busy machine, where the deadline is not what is tested. Checks would take steps of the script.
        Opa::builder(&self.url).with_deadline(Duration::from_secs(10)).without_health_checks()
    }
}

async fn ask(opa: &Arc<Opa>) -> Result<Decision, PolicyError> {
    Arc::clone(opa).decide(policy_input("GET", "/jobs")).await
}

async fn effect(opa: &Arc<Opa>) -> Result<Effect, PolicyErrorKind> {
    ask(opa).await.map(|decision| decision.effect()).map_err(|error| error.kind())
}

async fn answered(answer: Vec<u8>) -> Result<Decision, PolicyErrorKind> {
    let server = Server::answering(answer).await;
    ask(&Arc::new(server.opa().build().unwrap())).await.map_err(|error| error.kind())
}

#[tokio::test]
async fn the_question_is_a_post_with_the_input_and_nothing_that_was_not_asked_for() {
    let mut server = Server::answering(ok(r#"{"result": true}"#)).await;
    let opa = Arc::new(server.opa().with_decision_path("acme/a b").with_bearer("t0ken").build().unwrap());
    let mut input = policy_input("GET", "/jobs");
    input.context.request_id = "r-1".to_owned();
    input.context.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736".to_owned();
    assert_eq!(Arc::clone(&opa).decide(input.clone()).await.unwrap().effect(), Effect::Allow);
    let request = server.asked().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    assert_eq!(line, "POST /v1/data/acme/a%20b?provenance=true&strict-builtin-errors=true HTTP/1.1");
    let mut headers: Vec<_> =
        headers.lines().map(|line| line.to_ascii_lowercase().replace(&server.url[7..], "host")).collect();
    headers.sort_unstable();
    let trace = headers.remove(headers.iter().position(|line| line.starts_with("traceparent: ")).unwrap());
    assert!(
        trace.starts_with("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-") && trace.ends_with("-00"),
        "{trace}"
    );
    assert_eq!(
        headers,
        [
            "accept: application/json".to_owned(),
            "authorization: bearer t0ken".to_owned(),
            format!("content-length: {}", body.len()),
            "content-type: application/json".to_owned(),
            "host: host".to_owned(),
            concat!("user-agent: portcullis/", env!("CARGO_PKG_VERSION")).to_owned(),
            "x-request-id: r-1".to_owned(),
        ]
    );
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, serde_json::json!({ "input": input }));

    for odd in [String::new(), "a b".into(), "a\r\nb: c".into(), "é".into(), "x".repeat(129)] {
        input.context.request_id = odd;
        assert!(Arc::clone(&opa).decide(input.clone()).await.is_ok());
        assert!(!server.asked().remove(0).contains("x-request-id"));
    }
    for odd in ["", "0", "4bf92f3577b34da6a3ce929d0e0e4736\r\nb: c"] {
        input.context.trace_id = odd.to_owned();
        assert!(Arc::clone(&opa).decide(input.clone()).await.is_ok());
        assert!(!server.asked().remove(0).contains("traceparent"));
    }
}

#[tokio::test]
async fn the_question_can_be_put_in_envoys_words() {
    let mut server = Server::answering(ok("{\"result\":true}")).await;
    let opa = Arc::new(server.opa().with_input_format(InputFormat::Envoy).build().unwrap());
    assert_eq!(effect(&opa).await, Ok(Effect::Allow));
    let asked = server.asked().remove(0);
    let (_, body) = asked.split_once("\r\n\r\n").unwrap();
    let question: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(question["input"]["attributes"]["request"]["http"]["method"], "GET");
}

#[tokio::test]
async fn answers_over_the_wire_are_read_or_refused() {
    use PolicyErrorKind::{Evaluation, InvalidResult, Unavailable};
    let (allow, html) = (r#"{"result": true}"#, "<html>true</html>");
    let padded = |size: usize| format!(r#"{{"result": true, "padding": "{}"}}"#, "x".repeat(size - 31));
    let (largest, large) = (padded(64 * 1024), padded(1024 * 1024));
    assert_eq!(largest.len(), 64 * 1024);
    let cases = [
        ("true", ok(allow), Ok(Effect::Allow)),
        ("false", ok(r#"{"result": false}"#), Ok(Effect::Deny)),
        ("undefined", ok("{}"), Ok(Effect::Deny)),
        ("64 KiB", ok(&largest), Ok(Effect::Allow)),
        ("a text", ok(r#"{"result": "true"}"#), Err(InvalidResult)),
        ("1 MiB", ok(&large), Err(InvalidResult)),
        ("1 MiB, unannounced", [b"HTTP/1.1 200 OK\r\n\r\n", large.as_bytes()].concat(), Err(InvalidResult)),
        ("a page", http("200 OK", "text/html", html), Err(InvalidResult)),
        ("truncated JSON", ok(r#"{"result": tru"#), Err(InvalidResult)),
        ("no content", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), Err(Unavailable)),
        ("not found", http("404 Not Found", "text/plain", "404 page not found"), Err(Unavailable)),
        ("unauthorized", http("401 Unauthorized", "application/json", allow), Err(Unavailable)),
        ("server error", http("500 Internal Server Error", "application/json", allow), Err(Evaluation)),
        ("bad gateway", http("502 Bad Gateway", "text/html", html), Err(Unavailable)),
    ];
    for (name, answer, expected) in cases {
        assert_eq!(answered(answer).await.map(|decision| decision.effect()), expected, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_asked_for_again() {
    let cut =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"result\": true}".to_vec();
    let mut server = Server::start(vec![Step::Close(cut)]).await;
    let opa = Arc::new(server.opa().build().unwrap());
    assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Unavailable));
    assert_eq!(server.asked().len(), 1);
    assert!(matches!(opa.health(), Health::Degraded(_)));
}

#[tokio::test]
async fn a_question_is_put_a_second_time_only_when_nothing_was_answered() {
    let allow = || Step::Answer(ok(r#"{"result": true}"#));
    let error = |status| Step::Answer(http(status, "application/json", "{}"));
    let part = |text: &str| Step::Close(text.as_bytes().to_vec());
    let nothing = || Step::Close(Vec::new());
    let cases = [
        ("answered", vec![allow()], Ok(Effect::Allow), 1),
        ("closed once", vec![nothing(), allow()], Ok(Effect::Allow), 2),
        ("always closed", vec![nothing()], Err(PolicyErrorKind::Unavailable), 2),
        ("an error", vec![error("500 Error"), allow()], Err(PolicyErrorKind::Evaluation), 1),
        ("unavailable", vec![error("503 Unavailable"), allow()], Err(PolicyErrorKind::Unavailable), 1),
        ("too many", vec![error("429 Slow Down"), allow()], Err(PolicyErrorKind::Unavailable), 1),
        (
            "closed after a head",
            vec![part("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"), allow()],
            Err(PolicyErrorKind::Unavailable),
            1,
        ),
        ("garbage", vec![Step::Close(b"garbage\r\n\r\n".to_vec()), allow()], Err(PolicyErrorKind::Unavailable), 1),
    ];
    for (name, steps, expected, requests) in cases {
        let mut server = Server::start(steps).await;
        let opa = Arc::new(server.opa().build().unwrap());
        assert_eq!(effect(&opa).await, expected, "{name}");
        assert_eq!(server.asked().len(), requests, "{name}");
    }
}

#[tokio::test]
async fn no_server_is_unavailable_and_a_slow_one_is_a_timeout_that_is_not_repeated() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let opa = Arc::new(Opa::builder(format!("http://{free}")).without_health_checks().build().unwrap());
    assert_eq!(opa.health(), Health::Ready);
    assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Unavailable));
    assert!(matches!(opa.health(), Health::Degraded(_)));

    let mut server = Server::start(vec![Step::Stall]).await;
    let opa = Arc::new(server.opa().with_deadline(Duration::from_millis(100)).build().unwrap());
    assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Timeout));
    assert_eq!(server.asked().len(), 1);
    assert!(matches!(opa.health(), Health::Degraded(_)));
}

#[tokio::test]
async fn deadline_and_cap_hold_around_a_client_that_knows_neither() {
    let opa = || Opa::builder("https://opa.example").with_deadline(Duration::from_millis(20));
    let stuck = Outbound::new(tower::service_fn(|_| std::future::pending()));
    let stuck = opa().with_outbound(stuck).build().unwrap();
    assert_eq!(effect(&Arc::new(stuck)).await, Err(PolicyErrorKind::Timeout));

    let greedy = Outbound::new(tower::service_fn(async |_| {
        let body = format!(r#"{{"result": true, "padding": "{}"}}"#, "x".repeat(64 * 1024));
        let json = HeaderValue::from_static("application/json");
        let answer = Response::builder().header(CONTENT_TYPE, json).body(Bytes::from(body));
        answer.map_err(|error| OutboundError::Exchange(error.into()))
    }));
    let greedy = opa().with_outbound(greedy).with_deadline(Duration::from_secs(10)).build().unwrap();
    assert_eq!(effect(&Arc::new(greedy)).await, Err(PolicyErrorKind::InvalidResult));
}

#[tokio::test]
async fn health_follows_the_last_call() {
    let error = http("500 Internal Server Error", "application/json", "{}");
    let steps = vec![Step::Answer(error), Step::Answer(ok("{}"))];
    let server = Server::start(steps).await;
    let opa = Arc::new(server.opa().build().unwrap());
    assert!(effect(&opa).await.is_err());
    assert!(matches!(opa.health(), Health::Degraded(_)));
    assert_eq!(effect(&opa).await, Ok(Effect::Deny));
    assert_eq!(opa.health(), Health::Ready);
    drop(server);
    for _ in 0..5 {
        assert!(matches!(opa.health(), Health::Ready | Health::Degraded(_)));
        assert!(effect(&opa).await.is_err());
    }
    assert!(matches!(opa.health(), Health::Unavailable(_)));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_left_alone_and_asked_by_one_call_at_a_time() {
    let error = || Step::Answer(http("503 Unavailable", "text/plain", "later"));
    let steps = vec![error(), error(), Step::Stall, Step::Answer(ok(r#"{"result": true}"#))];
    let mut server = Server::start(steps).await;
    let clock = FrozenClock::default();
    let second = Duration::from_secs(1);
    let opa = Arc::new(server.opa().with_breaker(2, second).with_clock(clock.clone()).build().unwrap());
    for _ in 0..2 {
        assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Unavailable));
    }
    assert_eq!(server.asked().len(), 2);
    for _ in 0..9 {
        assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Unavailable));
    }
    assert_eq!(server.asked().len(), 0, "nobody asks while it is open");

    clock.advance(second);
    let probe = tokio::spawn({
        let opa = Arc::clone(&opa);
        async move { ask(&opa).await }
    });
    server.requests.recv().await.unwrap();
    let error = ask(&opa).await.unwrap_err();
    assert!(error.source().unwrap().to_string().contains("under way"), "{error:?}");
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());

    assert_eq!(effect(&opa).await, Ok(Effect::Allow), "the caller that hung up gave the probe back");
    assert_eq!(effect(&opa).await, Ok(Effect::Allow));
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn anonymous_callers_leave_room_for_the_others() {
    let mut server = Server::start(vec![Step::Stall, Step::Answer(ok(r#"{"result": true}"#))]).await;
    let opa = Arc::new(server.opa().with_max_in_flight(2).build().unwrap());
    let first = tokio::spawn({
        let opa = Arc::clone(&opa);
        async move { ask(&opa).await }
    });
    server.requests.recv().await.unwrap();
    assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Overloaded));
    let mut known = policy_input("GET", "/jobs");
    known.subject.r#type = "user";
    assert_eq!(Arc::clone(&opa).decide(known).await.unwrap().effect(), Effect::Allow);
    first.abort();
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut elsewhere = Server::answering(ok(r#"{"result": true}"#)).await;
    for status in ["301 Moved Permanently", "307 Temporary Redirect"] {
        let answer = format!("HTTP/1.1 {status}\r\nlocation: {}/\r\ncontent-length: 0\r\n\r\n", elsewhere.url);
        assert_eq!(answered(answer.into_bytes()).await.unwrap_err(), PolicyErrorKind::Unavailable, "{status}");
    }
    assert!(elsewhere.asked().is_empty());
}

#[tokio::test]
async fn decisions_over_the_limit_are_refused_at_once_and_room_comes_back() {
    let mut server = Server::start(vec![Step::Stall, Step::Answer(ok(r#"{"result": true}"#))]).await;
    let opa = Arc::new(server.opa().with_max_in_flight(1).build().unwrap());
    let first = tokio::spawn({
        let opa = Arc::clone(&opa);
        async move { ask(&opa).await }
    });
    server.requests.recv().await.unwrap();
    assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Overloaded));
    assert_eq!(server.asked().len(), 0, "a call that is refused never reaches the server");
    assert_eq!(opa.health(), Health::Ready);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(effect(&opa).await, Ok(Effect::Allow));
}

#[tokio::test]
async fn the_bearer_token_is_in_no_error() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refusing = Server::answering(http("401 Unauthorized", "application/json", r#"{"code": "unauthorized"}"#)).await;
    for builder in [Opa::builder(format!("http://{free}")), refusing.opa()] {
        let opa = Arc::new(builder.with_bearer("s3cr3t").build().unwrap());
        let error = ask(&opa).await.unwrap_err();
        let mut text = format!("{error} {error:?} {opa:?} {}", opa.health());
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(" {error} {error:?}");
            cause = error.source();
        }
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_asked_like_any_other_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("opa.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (log, mut requests) = mpsc::unbounded_channel();
    let script = Arc::new(std::sync::Mutex::new(vec![Step::Answer(ok(r#"{"result": true}"#))]));
    let server = tokio::spawn(async move { serve(listener.accept().await.unwrap().0, script, log).await });
    let opa = Opa::builder(format!("unix://{}", path.display())).with_deadline(Duration::from_secs(10));
    assert_eq!(effect(&Arc::new(opa.build().unwrap())).await, Ok(Effect::Allow));
    assert!(requests.recv().await.unwrap().starts_with("POST /v1/data/authz/decision?"));
    server.abort();
}

#[tokio::test]
async fn it_keeps_the_promises_of_a_backend() {
    let server = Server::answering(ok(r#"{"result": {"allow": true, "reasons": ["r"]}}"#)).await;
    let opa = Arc::new(server.opa().build().unwrap());
    crate::testing::conformance::policy_backend(opa, &[policy_input("GET", "/jobs"), policy_input("POST", "/jobs")])
        .await;
}
