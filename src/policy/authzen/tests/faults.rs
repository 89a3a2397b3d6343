//! What a decision point, or what stands in its place, can do wrong, and what becomes of it: never a decision that was not made.
//!
//! `cargo test --all-features --lib fault -- --nocapture` prints the table.

use PolicyErrorKind::{Evaluation, InvalidResult, Timeout, Unavailable};

use super::*;
use crate::policy::remote::script::{Fault, NOBODY, Over, fault, head, result, status, transport};

const ALLOW: &str = r#"{"decision": true}"#;
const ALLOWS: &str = r#"{"evaluations": [{"decision": true}, {"decision": true}]}"#;

/// What is wrong with an answer of this body, whichever of the two interfaces gives it.
fn answers(allow: &'static str) -> Vec<Fault> {
    let padded = |size: usize| format!(r#"{}, "x": "{}"}}"#, &allow[..allow.len() - 1], "x".repeat(size));
    let page = |line: &str| Step::Answer(http(line, "text/html", "<html>true</html>"));
    let moved = |line: &str| {
        let length = allow.len();
        let head = format!(
            "HTTP/1.1 {line}\r\nlocation: /other\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        Step::Answer((head + allow).into())
    };
    let typed = |content_type| Step::Answer(http("200 OK", content_type, allow));
    vec![
        fault("301 with a decision", moved("301 Moved Permanently"), Unavailable),
        fault("307 with a decision", moved("307 Temporary Redirect"), Unavailable),
        fault("201 with a decision", status("201 Created", allow), Unavailable),
        fault("204", Step::Answer(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()), Unavailable),
        fault("206 with a decision", status("206 Partial Content", allow), Unavailable),
        fault("400 with a decision", status("400 Bad Request", allow), Evaluation),
        fault("401 with a decision", status("401 Unauthorized", allow), Unavailable),
        fault("403 with a decision", status("403 Forbidden", allow), Unavailable),
        fault("404 with a decision", status("404 Not Found", allow), Unavailable),
        fault("405 with a decision", status("405 Method Not Allowed", allow), Unavailable),
        fault("413 with a decision", status("413 Content Too Large", allow), Evaluation),
        fault("422 with a decision", status("422 Unprocessable Content", allow), Evaluation),
        fault("429 with a decision", status("429 Too Many Requests", allow), Unavailable),
        fault("500 with a decision", status("500 Internal Server Error", allow), Evaluation),
        fault("501 with a decision", status("501 Not Implemented", allow), Unavailable),
        fault("502 of a proxy", page("502 Bad Gateway"), Unavailable),
        fault("503 with a decision", status("503 Service Unavailable", allow), Unavailable),
        fault("200 with a page", page("200 OK"), InvalidResult),
        fault("a decision as text", typed("text/plain"), InvalidResult),
        fault("a decision as problem", typed("application/problem+json"), InvalidResult),
        fault("no body", result(""), InvalidResult),
        fault("truncated JSON", result(&allow[..allow.len() - 1]), InvalidResult),
        fault("two documents", result(&format!("{allow}{allow}")), InvalidResult),
        fault("a list", result(&format!("[{allow}]")), InvalidResult),
        fault("a bare true", result("true"), InvalidResult),
        fault("a text", result(&allow.replace("true", "\"true\"")), InvalidResult),
        fault("a number", result(&allow.replace("true", "1")), InvalidResult),
        fault("a null", result(&allow.replace("true", "null")), InvalidResult),
        fault("an object", result(&allow.replace("true", r#"{"allow": true}"#)), InvalidResult),
        fault("a repeated decision", result(&allow.replace("true", r#"false, "decision": true"#)), InvalidResult),
        fault(
            "a repeated member elsewhere",
            result(&allow.replace("true", r#"true, "x": {"a": 1, "a": 2}"#)),
            InvalidResult,
        ),
        fault("another name", result(&allow.replace("decision", "allow")), InvalidResult),
        fault("a context that is none", result(&allow.replace("true", r#"true, "context": "none""#)), InvalidResult),
        fault(
            "obligations that are none",
            result(&allow.replace("true", r#"true, "context": {"obligations": [1]}"#)),
            InvalidResult,
        ),
        fault("OPA's answer", result(r#"{"result": true}"#), InvalidResult),
        fault("a byte order mark", result(&format!("\u{feff}{allow}")), InvalidResult),
        fault("a body just over the cap", result(&padded(64 * 1024)), InvalidResult),
        fault("a megabyte", result(&padded(1024 * 1024)), InvalidResult),
        fault("a megabyte, unannounced", Step::Close((head("") + &padded(1024 * 1024)).into()), InvalidResult),
        fault("a length of 99 GB", Step::Close(head("content-length: 99000000000\r\n").into()), InvalidResult),
    ]
}

async fn outcome(fault: &Fault, several: bool) -> (Result<Vec<Effect>, PolicyErrorKind>, usize) {
    let mut server = Server::reached_by(fault.over, fault.step.clone()).await;
    let backend = match fault.over {
        Over::Http1 => server.authzen(),
        Over::Http2 => server.authzen().with_http2_prior_knowledge(),
        Over::Tls => AuthZen::builder(server.url.replace("http:", "https:")).without_discovery().with_roots(NOBODY),
    };
    let deadline = if fault.expected == Timeout { Duration::from_millis(60) } else { Duration::from_secs(10) };
    let backend = Arc::new(backend.with_deadline(deadline).build().unwrap());
    let outcome = if several {
        let inputs = [policy_input("GET", "/0"), policy_input("GET", "/1")];
        let decisions = backend.evaluations(&inputs, Semantic::ExecuteAll).await;
        decisions.map(|decisions| decisions.iter().map(Decision::effect).collect()).map_err(|error| error.kind())
    } else {
        effect(&backend).await.map(|effect| vec![effect])
    };
    (outcome, server.asked().len())
}

#[tokio::test]
async fn no_fault_of_the_decision_point_is_a_decision_and_each_has_its_kind() {
    let mut table = String::new();
    for (several, allow) in [(false, ALLOW), (true, ALLOWS)] {
        let good = outcome(&fault("good", result(allow), Unavailable), several).await;
        assert!(good.0.is_ok_and(|effects| effects.iter().all(|effect| *effect == Effect::Allow)), "{allow}");
        for fault in transport(allow).iter().chain(&answers(allow)) {
            let (outcome, attempts) = outcome(fault, several).await;
            let kind = outcome.as_ref().map_or_else(|kind| kind.code(), |_| "A DECISION");
            table += &format!("{:<40} {several:<8} {kind:<26} {attempts}\n", fault.name);
            assert_eq!((outcome, attempts), (Err(fault.expected), fault.attempts), "{} {several}", fault.name);
        }
    }
    println!("{:<40} {:<8} {:<26} attempts\n{table}", "fault", "several", "kind");
}

#[tokio::test]
async fn refused_is_unavailable() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for url in [format!("http://{free}"), "unix:///nonexistent/pdp.sock".to_owned()] {
        let backend = AuthZen::builder(url).without_discovery().with_deadline(Duration::from_secs(10));
        assert_eq!(effect(&Arc::new(backend.build().unwrap())).await, Err(Unavailable));
    }
}
