//! The stack behind `axum::protect` with access tokens of a real OpenID provider.

mod server;

use std::time::Duration;

use axum::{Json, Router, body::Body, http::Request, routing::get};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use libtest_mimic::Trial;
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::{Protected, protect},
    policy::dangerous_allow_all,
    principal::Principal,
    rules::scopes,
    scope::all_of,
    testing::FrozenClock,
    time::{Clock as _, SystemClock},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use self::server::{Provider, Script, find};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "provider::its_tokens_are_verified_whatever_signs_them",
            find,
            its_tokens_are_verified_whatever_signs_them,
        ),
        trial("provider::a_token_for_another_service_is_refused", find, a_token_for_another_service_is_refused),
        trial("provider::a_scope_that_was_not_granted_is_missed", find, a_scope_that_was_not_granted_is_missed),
        trial("provider::after_a_rotation_only_the_new_keys_count", find, after_a_rotation_only_the_new_keys_count),
        trial("provider::an_outage_is_no_bad_token_and_ends", find, an_outage_is_no_bad_token_and_ends),
    ]
}

/// A service that tells its callers who they are.
struct Api {
    service: Protected,
    stack: Stack,
    sink: Memory,
    clock: FrozenClock,
}

impl Api {
    fn for_tokens_of(provider: &Provider, audience: &str) -> Self {
        Self::for_issuer(provider.issuer(), audience)
    }

    fn for_issuer(issuer: &str, audience: &str) -> Self {
        let clock = FrozenClock::at(SystemClock.now());
        let sink = Memory::new();
        let rules =
            Rules::new().get("/jobs", scopes(all_of(["jobs:read"]))).post("/jobs", scopes(all_of(["jobs:write"])));
        let issuer = Issuer::rfc9068(issuer, audience);
        let stack = Stack::builder(issuer, rules, dangerous_allow_all(), sink.clone());
        let stack = stack.with_clock(clock.clone()).build().unwrap();
        let whoami = async |caller: Principal| {
            let scope: Vec<_> = caller.scope().iter().map(ToString::to_string).collect();
            Json(json!({
                "kind": caller.kind().as_str(),
                "client": caller.client().map(|client| client.as_str()),
                "issuer": caller.issuer().map(|issuer| issuer.as_str()),
                "scope": scope,
            }))
        };
        let router = Router::new().route("/jobs", get(whoami).post(whoami));
        Self { service: protect(router, stack.clone()), stack, sink, clock }
    }

    /// Status, body, and the reason in the record.
    async fn call(&self, method: &str, token: &str) -> (u16, Value, Option<&'static str>) {
        let request = Request::builder().method(method).uri("/jobs").header("authorization", format!("Bearer {token}"));
        let response = self.service.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 64 * 1024).await.unwrap();
        self.stack.audit().flush(Duration::from_secs(10)).await.unwrap();
        let records = self.sink.records();
        (status, serde_json::from_slice(&body).unwrap(), records.last().unwrap().reason)
    }

    async fn outcome(&self, token: &str) -> (u16, Option<&'static str>) {
        let (status, _, reason) = self.call("GET", token).await;
        (status, reason)
    }
}

async fn its_tokens_are_verified_whatever_signs_them(script: Script) {
    let algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];
    for algorithm in algorithms {
        let provider = Provider::start(&script, 0, algorithm).await;
        let api = Api::for_tokens_of(&provider, AUDIENCE);
        let token = provider.token("jobs:read").await;
        let (status, body, _) = api.call("GET", &token).await;
        assert_eq!(status, 200, "{algorithm}: {body}");
        let expected = json!({
            "kind": "client", "client": "jobs-client", "issuer": provider.issuer(), "scope": ["jobs:read"],
        });
        assert_eq!(body, expected, "{algorithm}");
        let record = serde_json::to_value(api.sink.records().last()).unwrap();
        assert_eq!((&header(&token)["alg"], &record["decision"]), (&json!(algorithm), &json!("allow")), "{record}");
        assert!(record["jti"].is_string() && record["exp"].is_number(), "{record}");
        assert!(!record.to_string().contains(&token), "{algorithm}");
    }
}

fn header(token: &str) -> Value {
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice(&header).unwrap()
}

async fn a_token_for_another_service_is_refused(script: Script) {
    let provider = Provider::start(&script, 0, "ES256").await;
    let token = provider.token("jobs:read").await;
    let elsewhere = Api::for_tokens_of(&provider, "https://api.example/payments");
    assert_eq!(elsewhere.outcome(&token).await, (401, Some("token_audience")));
    assert_eq!(Api::for_tokens_of(&provider, AUDIENCE).outcome(&token).await, (200, None));
}

async fn a_scope_that_was_not_granted_is_missed(script: Script) {
    let provider = Provider::start(&script, 0, "ES256").await;
    let api = Api::for_tokens_of(&provider, AUDIENCE);
    let (status, _, reason) = api.call("POST", &provider.token("jobs:read").await).await;
    assert_eq!((status, reason), (403, Some("scope_insufficient")));
    let (status, ..) = api.call("POST", &provider.token("jobs:read jobs:write").await).await;
    assert_eq!(status, 200);
}

async fn after_a_rotation_only_the_new_keys_count(script: Script) {
    let provider = Provider::start(&script, 0, "RS256").await;
    let api = Api::for_tokens_of(&provider, AUDIENCE);
    let old = provider.token("jobs:read").await;
    assert_eq!(api.outcome(&old).await, (200, None));

    let port = provider.stop();
    let provider = Provider::start(&script, port, "RS256").await;
    let new = provider.token("jobs:read").await;
    assert_eq!(api.outcome(&new).await, (401, Some("token_unknown_key")), "inside the floor nothing is loaded");
    assert_eq!(api.outcome(&old).await, (200, None));
    api.clock.advance(UNKNOWN_KID_FLOOR);
    assert_eq!(api.outcome(&new).await, (200, None));
    assert_eq!(api.outcome(&old).await, (401, Some("token_unknown_key")));
}

async fn an_outage_is_no_bad_token_and_ends(script: Script) {
    let provider = Provider::start(&script, 0, "ES256").await;
    let token = provider.token("jobs:read").await;
    let issuer = provider.issuer().to_owned();
    // Gone before the service starts: no load finds it.
    let port = provider.stop();
    let api = Api::for_issuer(&issuer, AUDIENCE);
    assert_eq!(api.outcome(&token).await, (503, Some("keys_unavailable")));
    assert!(!api.stack.health().keys.is_serving());

    let provider = Provider::start(&script, port, "ES256").await;
    let token = provider.token("jobs:read").await;
    api.clock.advance(FIRST_BACKOFF);
    assert_eq!(api.outcome(&token).await, (200, None));
    assert!(api.stack.health().keys.is_serving());

    // Keys that are known outlive the provider.
    drop(provider);
    assert_eq!(api.outcome(&token).await, (200, None));
}

const AUDIENCE: &str = "https://api.example/jobs";
const UNKNOWN_KID_FLOOR: Duration = Duration::from_secs(30);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
