//! The layers together.

mod config;

mod extract;

mod gates;

mod routers;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    denial::{Class, Denial},
    health::Health,
    policy::{Decision, PolicyBackend, PolicyError, PolicyInput},
    rules::{optional, policy_only, public, scopes},
    scope::all_of,
    testing::TestIssuer,
};
use serde_json::json;

use crate::support::{
    self, AUDIENCE, BySubject, Counter, Log, SharedSink, alice, get_with, keys_are_loaded, only_record, records, send,
};

fn counted(handled: &Counter) -> axum::routing::MethodRouter {
    let handled = handled.clone();
    axum::routing::any(async move || {
        handled.count();
        "in"
    })
}

async fn guard(idp: &TestIssuer, rules: Rules, router: Router) -> (Stack, Memory, portcullis::axum::Protected) {
    let memory = Memory::new();
    let stack =
        Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules, BySubject::new(), memory.clone()).build().unwrap();
    (stack.clone(), memory, protect(router, stack))
}

#[tokio::test]
async fn two_stacks_share_keys_and_audit_trail() {
    let idp = TestIssuer::start().await;
    let (stack, memory, first) =
        guard(&idp, Rules::new().get("/a", policy_only()), Router::new().route("/a", get(async || "a"))).await;
    let other = stack.sibling(Rules::new().get("/b", policy_only())).build().unwrap();
    let second = protect(Router::new().route("/b", get(async || "b")), other.clone());
    let bearer = alice(&idp).mint().bearer();
    assert_eq!(send(first.clone(), get_with("/a", &bearer)).await.status(), 200);
    assert_eq!(send(second.clone(), get_with("/b", &bearer)).await.status(), 200);
    // Rules are not shared.
    assert_eq!(send(first, get_with("/b", &bearer)).await.status(), 403);
    assert_eq!(send(second, get_with("/a", &bearer)).await.status(), 403);
    assert_eq!((idp.requests().discovery, idp.requests().jwks), (1, 1));
    assert_eq!(records(&other, &memory).await.len(), 4);
}

/// Says that it is not ready.
struct Sulking;

#[async_trait::async_trait]
impl PolicyBackend for Sulking {
    async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
        Err(PolicyError::unavailable("sulking"))
    }

    fn health(&self) -> Health {
        Health::Unavailable("no bundle".into())
    }
}

#[tokio::test]
async fn health_tells_keys_policy_and_audit_apart() {
    let idp = TestIssuer::start().await;
    let issuer = || Issuer::rfc9068(idp.url(), AUDIENCE);
    let well = Stack::builder(issuer(), Rules::new(), BySubject::new(), Memory::new()).build().unwrap();
    keys_are_loaded(&well).await;
    assert!(well.health().is_serving());

    let sulking = Stack::builder(issuer(), Rules::new(), Sulking, Memory::new()).build().unwrap();
    keys_are_loaded(&sulking).await;
    let health = sulking.health();
    assert!(!health.is_serving() && health.keys.is_serving() && health.audit.is_serving());
    assert_eq!(health.policy, Health::Unavailable("no bundle".into()));

    let down = TestIssuer::start().await;
    down.fail(http::StatusCode::BAD_GATEWAY);
    let keyless = Stack::builder(Issuer::rfc9068(down.url(), AUDIENCE), Rules::new(), BySubject::new(), Memory::new())
        .build()
        .unwrap();
    let health = keyless.health();
    assert!(
        !health.is_serving() && !health.keys.is_serving() && health.policy.is_serving() && health.audit.is_serving()
    );

    let sink = SharedSink::default();
    sink.0.fail(true);
    let rules = || Rules::new().get("/livez", public("liveness"));
    let mute = Stack::builder(issuer(), rules(), BySubject::new(), sink.clone()).build().unwrap();
    keys_are_loaded(&mute).await;
    send(protect(Router::new().route("/livez", get(async || "alive")), mute.clone()), support::get("/livez")).await;
    support::within("the sink's failure", async {
        while mute.health().audit.is_serving() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let health = mute.health();
    assert!(!health.is_serving() && health.keys.is_serving() && health.policy.is_serving());
}

#[tokio::test]
async fn the_report_names_issuer_and_every_row() {
    let log = Log::default();
    let _kept = log.keep();
    let idp = TestIssuer::start().await;
    let rules = Rules::new()
        .get("/jobs", scopes(all_of(["jobs:read"])))
        .post("/jobs", policy_only().concealed())
        .get("/catalogue", optional())
        .get("/livez", public("liveness must survive"))
        .grpc("jobs.v1.Jobs/List", policy_only());
    let (stack, _, _) = guard(&idp, rules, Router::new()).await;
    let report = stack.report().to_string();
    for line in [
        idp.url(),
        "GET  /jobs              token with all of jobs:read, then policy",
        "POST /jobs              token, then policy  (concealed)",
        "GET  /catalogue         token if present, then policy",
        "GET  /livez             public: liveness must survive",
        "gRPC jobs.v1.Jobs/List  token, then policy",
    ] {
        assert!(report.contains(line), "{line:?} in\n{report}");
    }
    assert!(log.text().contains("public: liveness must survive"), "`protect` logs the report");
}

#[tokio::test]
async fn the_record_of_a_custom_renderer_says_what_was_sent() {
    let idp = TestIssuer::start().await;
    let memory = Memory::new();
    let renderer = |denial: &Denial, _: &portcullis::denial::RenderContext| {
        let mut response = http::Response::new(bytes::Bytes::from_static(b"no"));
        *response.status_mut() = if denial.class() == Class::Forbidden {
            http::StatusCode::NOT_FOUND
        } else {
            http::StatusCode::IM_A_TEAPOT
        };
        response
    };
    let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), Rules::new(), BySubject::new(), memory.clone())
        .with_renderer(renderer)
        .build()
        .unwrap();
    let response = send(protect(Router::new(), stack.clone()), support::get("/jobs")).await;
    assert_eq!((response.status().as_u16(), response.body().as_str()), (418, "no"));
    let record = only_record(&stack, &memory).await;
    assert_eq!((&record["answered"]["http"], &record["sent"]["http"]), (&json!(401), &json!(418)));
}
