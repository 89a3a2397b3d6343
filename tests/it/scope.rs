//! May this token? What rules demand, before any policy is asked.

use std::sync::Arc;

use axum::{Router, extract::Request, routing::get};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    layer::RequireScopeLayer,
    rules::{optional, policy_only, public, scopes},
    scope::{all_of, any_of},
    testing::TestIssuer,
};
use serde_json::json;

use crate::support::{self, AUDIENCE, BySubject, Counter, Log, alice, get_with, records, send};

fn router() -> Router {
    let answer = || get(async || "in");
    Router::new()
        .route("/all", answer())
        .route("/any", answer())
        .route("/policy", answer())
        .route("/livez", answer())
        .route("/forgotten", answer())
        .route("/narrow", answer().layer(RequireScopeLayer::new(all_of(["jobs:admin"]).unwrap())))
        .route("/catalogue", answer().layer(RequireScopeLayer::new(all_of(["jobs:read"]).unwrap())))
}

fn rules() -> Rules {
    Rules::new()
        .get("/all", scopes(all_of(["jobs:read", "jobs:write"])))
        .get("/any", scopes(any_of(["jobs:write", "jobs:admin"])))
        .get("/policy", policy_only())
        .get("/narrow", scopes(all_of(["jobs:read"])))
        .get("/catalogue", optional())
        .get("/livez", public("liveness"))
}

#[tokio::test]
async fn a_token_without_the_demanded_scope_is_refused_and_the_policy_is_not_asked() {
    let idp = TestIssuer::start().await;
    let (memory, policy) = (Memory::new(), Arc::new(BySubject::new()));
    let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), Arc::clone(&policy), memory.clone())
        .build()
        .unwrap();
    let service = protect(router(), stack.clone());
    let cases = [
        ("/all", "jobs:read jobs:write", 200),
        ("/all", "jobs:write jobs:read other", 200),
        ("/all", "jobs:read", 403),
        ("/all", "", 403),
        ("/all", "JOBS:READ JOBS:WRITE", 403),
        ("/all", "jobs:read,jobs:write", 403),
        ("/all", "jobs:* jobs:readjobs:write", 403),
        ("/any", "jobs:admin", 200),
        ("/any", "jobs:read", 403),
        ("/any", "jobs:adm", 403),
        ("/policy", "", 200),
        // Two demands: the rule's and that of a layer around one handler.
        ("/narrow", "jobs:read jobs:admin", 200),
        ("/narrow", "jobs:read", 403),
        ("/narrow", "jobs:admin", 403),
    ];
    let mut asked = 0;
    for (path, scope, status) in cases {
        let token = alice(&idp).scope(scope).mint();
        let response = send(service.clone(), get_with(path, &token.bearer())).await;
        assert_eq!(response.status(), status, "{path} with {scope:?}");
        // The layer around the handler of `/narrow` stands further inside than the policy.
        asked += usize::from(status == 200 || (path == "/narrow" && scope == "jobs:read"));
    }
    assert_eq!(policy.calls(), asked);
    let refused: Vec<_> =
        records(&stack, &memory).await.into_iter().filter(|record| record["sent"]["http"] == 403).collect();
    assert_eq!(refused.len(), cases.iter().filter(|(_, _, status)| *status == 403).count());
    for record in refused {
        assert_eq!(
            (&record["reason"], &record["stage"], &record["decision"]),
            (&json!("scope_insufficient"), &json!("scope"), &json!("deny"))
        );
    }
}

#[tokio::test]
async fn permissions_and_roles_are_no_scope() {
    let idp = TestIssuer::start().await;
    let issuer = Issuer::auth0("acme.eu.auth0.com", AUDIENCE).with_jwks_url(idp.jwks_url());
    let stack = Stack::builder(issuer, rules(), BySubject::new(), Memory::new()).build().unwrap();
    let words = ["jobs:read", "jobs:write"];
    let token = alice(&idp)
        .claim("iss", "https://acme.eu.auth0.com/")
        .without("scope")
        .permissions(words)
        .claim("roles", json!(words))
        .mint();
    assert_eq!(send(protect(router(), stack), get_with("/all", &token.bearer())).await.status(), 403);
}

#[tokio::test]
async fn an_anonymous_caller_that_lacks_scope_is_asked_for_a_token() {
    let idp = TestIssuer::start().await;
    let stack =
        Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), BySubject::new(), Memory::new()).build().unwrap();
    let service = protect(router(), stack);
    let response = send(service.clone(), support::get("/catalogue")).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["www-authenticate"].to_str().unwrap()),
        (401, r#"Bearer realm="api""#)
    );
    assert_eq!(send(service, get_with("/catalogue", &alice(&idp).mint().bearer())).await.status(), 200);
}

#[tokio::test]
async fn a_public_route_reads_no_token_and_asks_nobody() {
    let idp = TestIssuer::start().await;
    idp.stall(true);
    let (memory, policy) = (Memory::new(), Arc::new(BySubject::new()));
    let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), Arc::clone(&policy), memory.clone())
        .build()
        .unwrap();
    let service = protect(router(), stack.clone());
    for authorization in [None, Some("Bearer a.b.c"), Some("Bearer"), Some("\u{e9}, ,,")] {
        let mut request = support::get("/livez");
        if let Some(value) = authorization {
            let Ok(value) = http::HeaderValue::from_bytes(value.as_bytes()) else { continue };
            request.headers_mut().insert("authorization", value);
        }
        assert_eq!(send(service.clone(), request).await.status(), 200, "{authorization:?}");
    }
    let head = Request::head("/livez").body(axum::body::Body::empty()).unwrap();
    assert_eq!(send(service.clone(), head).await.status(), 200);
    let post = Request::post("/livez").body(axum::body::Body::empty()).unwrap();
    assert_eq!(send(service, post).await.status(), 401);
    assert_eq!(policy.calls(), 0);
    for record in records(&stack, &memory).await.iter().filter(|record| record["method"] != "POST") {
        assert_eq!((&record["decision"], &record["route"]["rule"]), (&json!("allow"), &json!("public")));
        assert!(
            record["principal"].is_null() && record["thumbprint"].is_null() && record["policy"].is_null(),
            "{record}"
        );
    }
}

#[tokio::test]
async fn a_forgotten_route_is_denied_and_warned_about_once() {
    let log = Log::default();
    let _kept = log.keep();
    let idp = TestIssuer::start().await;
    let (memory, policy, handled) = (Memory::new(), Arc::new(BySubject::new()), Counter::default());
    let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), Arc::clone(&policy), memory.clone())
        .build()
        .unwrap();
    let counted = handled.clone();
    let service = protect(Router::new().route("/forgotten", get(async move || counted.count())), stack.clone());
    for _ in 0..3 {
        let response = send(service.clone(), get_with("/forgotten", &alice(&idp).mint().bearer())).await;
        assert_eq!(response.status(), 403);
    }
    assert_eq!((handled.total(), policy.calls()), (0, 0));
    for record in records(&stack, &memory).await {
        assert_eq!(
            (&record["reason"], &record["route"]),
            (&json!("rule_missing"), &json!({"template": "/forgotten", "rule": null}))
        );
    }
    let log = log.text();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN") && line.contains("/forgotten")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
}
