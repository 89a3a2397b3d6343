//! What a server, or what stands in its place, can do wrong, and what becomes of it: never a decision that was not made.
//!
//! `cargo test --all-features --lib fault -- --nocapture` prints the table.

use PolicyErrorKind::{Evaluation, InvalidResult, Timeout, Unavailable};

use super::*;

/// How a fault reaches us: over plain HTTP/1, HTTP/2 or TLS.
#[derive(Clone, Copy)]
enum Over {
    Http1,
    Http2,
    Tls,
}

struct Fault {
    name: &'static str,
    over: Over,
    step: Step,
    expected: PolicyErrorKind,
    /// How often the server was reached: twice only where nothing was answered.
    attempts: usize,
}

fn fault(name: &'static str, step: Step, expected: PolicyErrorKind) -> Fault {
    Fault { name, over: Over::Http1, step, expected, attempts: 1 }
}

fn twice(name: &'static str, step: Step) -> Fault {
    Fault { attempts: 2, ..fault(name, step, Unavailable) }
}

fn status(line: &str, body: &str) -> Step {
    Step::Answer(http(line, "application/json", body))
}

fn result(body: &str) -> Step {
    Step::Answer(ok(body))
}

fn head(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{lines}\r\n")
}

/// A frame of HTTP/2 (RFC 9113 §4.1) on stream 0.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, 0, 0, 0, 0, 0][..], payload].concat()
}

fn transport() -> Vec<Fault> {
    const ALLOW: &str = r#"{"result": true}"#;
    let (settings, goaway) = (frame(4, &[]), frame(7, &[0; 8]));
    let goaway_after_error = frame(7, &[0, 0, 0, 1, 0, 0, 0, 2]);
    let reset = |code| [&[0, 0, 4, 3, 0, 0, 0, 0, 1][..], &[0, 0, 0, code]].concat();
    let h2 = |frames: &[&[u8]]| Step::Answer(frames.concat());
    let body = ALLOW.len() + 7;
    vec![
        twice("closed before an answer", Step::Close(Vec::new())),
        // The HTTP library does not tell this from the former, and no decision can have been in it.
        twice("closed within the head", Step::Close(b"HTTP/1.1 200 OK\r\ncontent-ty".to_vec())),
        fault("closed after the head", Step::Close(head("content-length: 16\r\n").into()), Unavailable),
        fault(
            "closed within the body",
            Step::Close((head("content-length: 16\r\n") + "{\"result\": tr").into()),
            Unavailable,
        ),
        fault(
            "length longer than the body",
            Step::Close((head(&format!("content-length: {body}\r\n")) + ALLOW).into()),
            Unavailable,
        ),
        fault(
            "length shorter than the body",
            Step::Close((head("content-length: 9\r\n") + ALLOW).into()),
            InvalidResult,
        ),
        fault(
            "two lengths",
            Step::Close((head("content-length: 16\r\ncontent-length: 9\r\n") + ALLOW).into()),
            Unavailable,
        ),
        fault("length that is no number", Step::Close((head("content-length: many\r\n") + ALLOW).into()), Unavailable),
        fault(
            "chunks that break off",
            Step::Close((head("transfer-encoding: chunked\r\n") + "10\r\n{\"result\"").into()),
            Unavailable,
        ),
        fault(
            "chunks of no size",
            Step::Close((head("transfer-encoding: chunked\r\n") + "zz\r\n").into()),
            Unavailable,
        ),
        fault("silence", Step::Stall, Timeout),
        fault("head that never ends", Step::Drip(b"HTTP/1.1 200 OK\r\nx-drip: ".to_vec(), b'x'), Timeout),
        fault("silence after the head", Step::Drip(head("content-length: 9999\r\n").into(), b' '), Timeout),
        fault("slow body", Step::Drip((head("content-length: 60000\r\n") + ALLOW).into(), b' '), Timeout),
        fault("no HTTP", Step::Close(b"-ERR unknown command\r\n".to_vec()), Unavailable),
        fault(
            "HTTP/9.9",
            Step::Close(format!("HTTP/9.9 200 OK\r\ncontent-length: 16\r\n\r\n{ALLOW}").into()),
            Unavailable,
        ),
        fault("HTTP/2 unasked", Step::Close([&settings[..], &goaway].concat()), Unavailable),
        Fault { over: Over::Http2, ..fault("HTTP/1 in place of HTTP/2", result(ALLOW), Unavailable) },
        Fault { over: Over::Http2, ..twice("HTTP/2, left with GOAWAY", h2(&[&settings, &goaway])) },
        Fault {
            over: Over::Http2,
            ..twice("HTTP/2, closed with GOAWAY for an error", h2(&[&settings, &goaway_after_error]))
        },
        Fault { over: Over::Http2, ..twice("HTTP/2, stream refused", h2(&[&settings, &reset(7)])) },
        Fault {
            over: Over::Http2,
            ..fault("HTTP/2, stream reset for an error", h2(&[&settings, &reset(2)]), Unavailable)
        },
        Fault {
            over: Over::Tls,
            ..twice("HTTP in place of TLS", Step::Close(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()))
        },
        Fault { over: Over::Tls, ..twice("TLS alert", Step::Close(vec![21, 3, 3, 0, 2, 2, 40])) },
        Fault { over: Over::Tls, ..fault("silence instead of TLS", Step::Stall, Timeout) },
    ]
}

fn answers() -> Vec<Fault> {
    const ALLOW: &str = r#"{"result": true}"#;
    let opa_error =
        r#"{"code": "internal_error", "message": "m", "errors": [{"code": "eval_conflict_error"}], "result": true}"#;
    let padded = |size: usize| format!(r#"{{"result": true, "x": "{}"}}"#, "x".repeat(size));
    let page = |line: &str| Step::Answer(http(line, "text/html", "<html>true</html>"));
    let moved = |line: &str| {
        let head = format!(
            "HTTP/1.1 {line}\r\nlocation: /v1/data/other\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n"
        );
        Step::Answer((head + ALLOW).into())
    };
    let typed = |content_type| Step::Answer(http("200 OK", content_type, ALLOW));
    let mut faults = vec![
        fault("301 with a decision", moved("301 Moved Permanently"), Unavailable),
        fault("307 with a decision", moved("307 Temporary Redirect"), Unavailable),
        fault("201 with a decision", status("201 Created", ALLOW), Unavailable),
        fault("204", Step::Answer(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()), Unavailable),
        fault("206 with a decision", status("206 Partial Content", ALLOW), Unavailable),
        fault("400 with a decision", status("400 Bad Request", ALLOW), Evaluation),
        fault("401 with a decision", status("401 Unauthorized", ALLOW), Unavailable),
        fault("403 with a decision", status("403 Forbidden", ALLOW), Unavailable),
        fault("404 with a decision", status("404 Not Found", ALLOW), Unavailable),
        fault("429 with a decision", status("429 Too Many Requests", ALLOW), Unavailable),
        fault("500 of a policy server", status("500 Internal Server Error", opa_error), Evaluation),
        fault("502 of a proxy", page("502 Bad Gateway"), Unavailable),
        fault("503 with a decision", status("503 Service Unavailable", ALLOW), Unavailable),
        fault("200 with a page", page("200 OK"), InvalidResult),
        fault("a decision as text", typed("text/plain"), InvalidResult),
        fault("a decision as problem", typed("application/problem+json"), InvalidResult),
        fault("no body", result(""), InvalidResult),
        fault("truncated JSON", result(r#"{"result": tr"#), InvalidResult),
        fault("two documents", result(r#"{"result": true}{"result": true}"#), InvalidResult),
        fault("a list", result(r#"[{"result": true}]"#), InvalidResult),
        fault("a bare true", result("true"), InvalidResult),
        fault("a repeated result", result(r#"{"result": false, "result": true}"#), InvalidResult),
        fault("a repeated allow", result(r#"{"result": {"allow": false, "allow": true}}"#), InvalidResult),
        fault("a byte order mark", result("\u{feff}{\"result\": true}"), InvalidResult),
        fault("a body just over the cap", result(&padded(64 * 1024)), InvalidResult),
        fault("a megabyte", result(&padded(1024 * 1024)), InvalidResult),
        fault("a megabyte, unannounced", Step::Close((head("") + &padded(1024 * 1024)).into()), InvalidResult),
        fault("a length of 99 GB", Step::Close(head("content-length: 99000000000\r\n").into()), InvalidResult),
    ];
    let results = [
        "null",
        "1",
        "0",
        "\"true\"",
        "\"allow\"",
        "[]",
        "[true]",
        "{}",
        r#"{"allow": null}"#,
        r#"{"allow": "true"}"#,
        r#"{"allow": 1}"#,
        r#"{"allow": [true]}"#,
        r#"{"allow": true, "decision": false}"#,
        r#"{"allowed": true, "allow": false}"#,
        r#"{"allow": true, "obligations": 1}"#,
        r#"{"data": {"allow": true}}"#,
    ];
    faults.extend(results.map(|text| fault(text, result(&format!(r#"{{"result": {text}}}"#)), InvalidResult)));
    faults
}

impl Server {
    /// A server that every connection reaches in this way, and that then takes this step.
    async fn reached_by(over: Over, step: Step) -> Self {
        if matches!(over, Over::Http1) {
            return Self::start(vec![step]).await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (log, requests) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (step, log) = (step.clone(), log.clone());
                connections.spawn(async move {
                    match over {
                        Over::Http2 => read_request_head(&mut stream).await,
                        // As much of the first message of TLS as comes at once.
                        _ => drop(stream.read(&mut [0; 4096]).await),
                    }
                    log.send(String::new()).unwrap();
                    match step {
                        Step::Close(bytes) | Step::Answer(bytes) => {
                            let _ = stream.write_all(&bytes).await;
                            let _ = stream.shutdown().await;
                            // With bytes left unread, the close would be a reset.
                            while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
                        }
                        _ => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, requests, _tasks: tasks }
    }
}

/// Reads HTTP/2 up to the first HEADERS frame.
async fn read_request_head(stream: &mut tokio::net::TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    loop {
        let mut header = [0; 9];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let length = usize::from(header[1]) << 8 | usize::from(header[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if header[3] == 1 {
            return;
        }
    }
}

async fn outcome(fault: &Fault) -> (Result<Effect, PolicyErrorKind>, usize) {
    let mut server = Server::reached_by(fault.over, fault.step.clone()).await;
    let opa = match fault.over {
        Over::Http1 => server.opa(),
        Over::Http2 => server.opa().with_http2_prior_knowledge(),
        Over::Tls => Opa::builder(server.url.replace("http:", "https:")).without_health_checks().with_roots(ROOT),
    };
    let deadline = if fault.expected == Timeout { Duration::from_millis(60) } else { Duration::from_secs(10) };
    let opa = Arc::new(opa.with_deadline(deadline).build().unwrap());
    let outcome = effect(&opa).await;
    (outcome, server.asked().len())
}

#[tokio::test]
async fn no_fault_of_the_server_is_a_decision_and_each_has_its_kind() {
    let mut table = String::new();
    for fault in transport().iter().chain(&answers()) {
        let (outcome, attempts) = outcome(fault).await;
        let kind = outcome.map_or_else(|kind| kind.code(), |_| "A DECISION");
        table += &format!("{:<40} {kind:<26} {attempts}\n", fault.name);
        assert_eq!((outcome, attempts), (Err(fault.expected), fault.attempts), "{}", fault.name);
    }
    println!("{:<40} {:<26} attempts\n{table}", "fault", "kind");
}

#[tokio::test]
async fn refused_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for url in [format!("http://{free}"), "unix:///nonexistent/opa.sock".to_owned()] {
        let opa = Arc::new(Opa::builder(url).with_deadline(Duration::from_secs(10)).build().unwrap());
        assert_eq!(effect(&opa).await, Err(Unavailable));
    }
}

/// An authority whose key nobody kept: it is trusted, and vouches for nobody.
const ROOT: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBijCCAS+gAwIBAgIUQ7CuGCypx0pkezjSHIbnXahqO8kwCgYIKoZIzj0EAwIw\n\
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNDAwMTIyMVoYDzIxMjYxMDMxMDAx\n\
MjIxWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AATq8GuR9/fuA7qGWrYF4Nszmk2uzXt+EPCpt4R0XcXiRe0REcmBA+RkT8nRN4U6\n\
N0ZIdocR5ZQWB2kjWnpcFdudo2MwYTAdBgNVHQ4EFgQUNrVGVuWF8FBCdiaIwzJl\n\
GH7wQSgwHwYDVR0jBBgwFoAUNrVGVuWF8FBCdiaIwzJlGH7wQSgwDwYDVR0TAQH/\n\
BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAgQwCgYIKoZIzj0EAwIDSQAwRgIhAIEu0aWR\n\
iclF1lVBFJOrVHZlmjYmsgN+ydsRMGVEt+4NAiEA9c2bs7uKfPTAj6I9wtYsc8kA\n\
bcNum6VySLNq8dV4R0c=\n\
-----END CERTIFICATE-----\n";
