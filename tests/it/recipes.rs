//! The README's recipe: CORS, trace, timeout, compression and panic layers around `protect`.

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response, routing::get};
use http::{
    Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use portcullis::{Issuer, Rules, Stack, audit::Memory, axum::protect, rules::policy_only, testing::TestIssuer};
use serde_json::json;
use tower::{Layer, ServiceBuilder, service_fn};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, cors::CorsLayer, timeout::TimeoutLayer,
    trace::TraceLayer,
};

use crate::{
    support::{AUDIENCE, BySubject, Host, alice, get_with, keys_are_loaded, only_record, send},
    wire::{self, Ask},
};

const ORIGIN: &str = "https://app.acme.example";

/// As in the README.
fn wrap(router: Router, stack: Stack, patience: Duration) -> Router {
    let cors = CorsLayer::new()
        .allow_origin([ORIGIN.parse().unwrap()])
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE]);
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(CompressionLayer::new())
        .layer(cors)
        .layer(TimeoutLayer::with_status_code(http::StatusCode::SERVICE_UNAVAILABLE, patience))
        .service(protect(router, stack));
    Router::new().fallback_service(service)
}

struct Fixture {
    idp: TestIssuer,
    memory: Memory,
    stack: Stack,
}

impl Fixture {
    async fn new() -> Self {
        let idp = TestIssuer::start().await;
        let memory = Memory::new();
        let rules = Rules::new()
            .get("/jobs", policy_only())
            .get("/panics", policy_only())
            .get("/hangs", policy_only())
            .get("/large", policy_only());
        let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules, BySubject::new(), memory.clone())
            .build()
            .unwrap();
        keys_are_loaded(&stack).await;
        Self { idp, memory, stack }
    }

    fn wrapped(&self) -> Router {
        self.wrapped_with(Duration::from_secs(10))
    }

    fn wrapped_with(&self, patience: Duration) -> Router {
        let router = Router::new()
            .route("/jobs", get(async || "jobs"))
            .route("/large", get(async || "x".repeat(10_000)))
            .route("/panics", get(async || -> () { panic!("in the handler") }))
            .route("/hangs", get(async || std::future::pending::<()>().await));
        wrap(router, self.stack.clone(), patience)
    }
}

#[tokio::test]
async fn a_preflight_is_answered_without_credentials_and_leaves_no_record() {
    let fixture = Fixture::new().await;
    let host = Host::router(fixture.wrapped()).await;
    let preflight = Ask::new(Method::OPTIONS, "/jobs")
        .header("origin", ORIGIN)
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "authorization");
    let answer = wire::http1(host.address, &preflight).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, ORIGIN));
    for (name, word) in [("access-control-allow-headers", "authorization"), ("access-control-allow-methods", "GET")] {
        assert!(
            answer.header(name).split(',').any(|allowed| allowed.trim() == word),
            "{name}: {}",
            answer.header(name)
        );
    }
    fixture.stack.audit().flush(Duration::from_secs(5)).await.unwrap();
    assert!(fixture.memory.records().is_empty());
    // The request that follows it is a request like any other, and its refusal can be read by the page.
    let answer = wire::http1(host.address, &Ask::get("/jobs").header("origin", ORIGIN)).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, ORIGIN));
    let token = alice(&fixture.idp).mint();
    let answer = wire::http1(host.address, &Ask::get("/jobs").header("origin", ORIGIN).bearer(token.as_str())).await;
    assert_eq!((answer.status, answer.text(), answer.header("access-control-allow-origin")), (200, "jobs", ORIGIN));
}

#[tokio::test]
async fn without_cors_nothing_exempts_options() {
    let fixture = Fixture::new().await;
    let service = protect(Router::new().route("/jobs", get(async || "jobs")), fixture.stack.clone());
    for path in ["/jobs", "/no-such-route", "*"] {
        let preflight = Request::options(path)
            .header("origin", ORIGIN)
            .header("access-control-request-method", "GET")
            .body(Body::empty())
            .unwrap();
        assert_eq!(send(service.clone(), preflight).await.status(), 401, "{path}");
    }
}

#[tokio::test]
async fn a_panic_is_answered_500_and_recorded_by_the_stack_itself() {
    let fixture = Fixture::new().await;
    let response = send(fixture.wrapped(), get_with("/panics", &alice(&fixture.idp).mint().bearer())).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()),
        (500, "application/problem+json")
    );
    assert_eq!(only_record(&fixture.stack, &fixture.memory).await["outcome"], "panicked");
}

#[tokio::test]
async fn a_panic_further_outside_is_the_panic_layers_business() {
    let outside = service_fn(|_: Request| async { panic!("outside") as Result<Response, Infallible> });
    let response =
        send(Router::new().fallback_service(CatchPanicLayer::new().layer(outside)), crate::support::get("/")).await;
    assert_eq!(response.status(), 500);
}

#[tokio::test]
async fn a_timeout_is_recorded_as_aborted() {
    let fixture = Fixture::new().await;
    let response =
        send(fixture.wrapped_with(Duration::from_millis(50)), get_with("/hangs", &alice(&fixture.idp).mint().bearer()))
            .await;
    assert_eq!(response.status(), 503);
    let record = only_record(&fixture.stack, &fixture.memory).await;
    assert_eq!((&record["outcome"], &record["answered"]), (&json!("aborted"), &json!(null)));
}

#[tokio::test]
async fn compressed_refusals_of_a_class_have_the_same_head() {
    let fixture = Fixture::new().await;
    let host = Host::router(fixture.wrapped()).await;
    let ask = |target: &str, token: &str| Ask::get(target).bearer(token).header("accept-encoding", "gzip");
    let expired = alice(&fixture.idp).expired().mint();
    let tampered = alice(&fixture.idp).tampered().mint();
    let mut heads = std::collections::HashSet::new();
    for (target, token) in [
        ("/jobs", expired.as_str()),
        ("/jobs", tampered.as_str()),
        ("/no-such-route", expired.as_str()),
        ("/jobs", "a.b.c"),
    ] {
        let answer = wire::http1(host.address, &ask(target, token)).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (401, "gzip"));
        let (head, _) = answer.canonical.split_once("\n\n").unwrap();
        heads.insert(head.to_owned());
    }
    assert_eq!(heads.len(), 1, "{heads:#?}");
    // What is not refused is compressed as well, and its record is complete.
    let answer = wire::http1(host.address, &ask("/large", alice(&fixture.idp).mint().as_str())).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, "gzip"));
    assert!(answer.body.len() < 1_000);
    fixture.stack.audit().flush(Duration::from_secs(5)).await.unwrap();
    let last = fixture.memory.records().pop().unwrap();
    assert_eq!((last.bytes, last.outcome), (10_000, Some(portcullis::audit::Outcome::Complete)));
}
