//! What a server, or what stands in its place, can do wrong, and what becomes of it: never a decision that was not made.
//!
//! `cargo test --all-features --lib fault -- --nocapture` prints the table.

use PolicyErrorKind::{Evaluation, InvalidResult, Timeout, Unavailable};

use super::*;
use crate::policy::remote::script::{Fault, NOBODY, Over, fault, head, result, status, transport};

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

async fn outcome(fault: &Fault) -> (Result<Effect, PolicyErrorKind>, usize) {
    let mut server = Server::reached_by(fault.over, fault.step.clone()).await;
    let opa = match fault.over {
        Over::Http1 => server.opa(),
        Over::Http2 => server.opa().with_http2_prior_knowledge(),
        Over::Tls => Opa::builder(server.url.replace("http:", "https:")).without_health_checks().with_roots(NOBODY),
    };
    let deadline = if fault.expected == Timeout { Duration::from_millis(60) } else { Duration::from_secs(10) };
    let opa = Arc::new(opa.with_deadline(deadline).build().unwrap());
    let outcome = effect(&opa).await;
    (outcome, server.asked().len())
}

#[tokio::test]
async fn no_fault_of_the_server_is_a_decision_and_each_has_its_kind() {
    let mut table = String::new();
    for fault in transport(r#"{"result": true}"#).iter().chain(&answers()) {
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
