//! Who is it? Tokens of each kind of issuer and party, and what happens when keys change or cannot be had.

use std::time::Duration;

use axum::{Json, Router, extract::Request, response::Response, routing::get};
use http::StatusCode;
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::{Protected, protect},
    health::Health,
    key::Algorithm,
    policy,
    principal::Principal,
    rules::{optional, policy_only},
    testing::{FrozenClock, Lie, Requests, TestIssuer, TestToken},
    token::{AccessToken, TokenError, VerifiedToken, Verifier},
};
use serde_json::{Value, json};

use crate::support::{self, AUDIENCE, alice, get_with, keys_are_loaded, only_record, records, send, within};

fn rules() -> Rules {
    Rules::new().get("/me", policy_only()).get("/catalogue", optional())
}

fn router() -> Router {
    Router::new().route("/me", get(me)).route("/catalogue", get(me))
}

async fn me(caller: Principal, token: Option<VerifiedToken>) -> Json<Value> {
    Json(json!({
        "kind": caller.kind(),
        "subject": caller.subject(),
        "user_id": caller.user_id(),
        "client": caller.client(),
        "tenant": caller.tenant(),
        "scope": caller.scope().iter().map(|word| word.as_str()).collect::<Vec<_>>(),
        "permissions": caller.permissions(),
        "actors": caller.actors().iter().map(|actor| actor.subject.as_str()).collect::<Vec<_>>(),
        "issuer": caller.issuer(),
        "token": token.and_then(|token| token.token_id().map(ToString::to_string)),
    }))
}

fn guard(issuer: Issuer) -> (Stack, Memory, Protected) {
    let memory = Memory::new();
    let stack = Stack::builder(issuer, rules(), policy::dangerous_allow_all(), memory.clone()).build().unwrap();
    let service = protect(router(), stack.clone());
    (stack, memory, service)
}

async fn ask(service: &Protected, token: &TestToken) -> Response<String> {
    send(service.clone(), get_with("/me", &token.bearer())).await
}

async fn told(service: &Protected, token: &TestToken) -> Value {
    let response = ask(service, token).await;
    assert_eq!(response.status(), 200, "{}", response.body());
    serde_json::from_str(response.body()).unwrap()
}

/// `told` has each of the members of `expected`.
fn assert_told(told: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&told[name], value, "`{name}` of {told}");
    }
}

#[tokio::test]
async fn each_kind_of_party_is_told_from_the_others() {
    let idp = TestIssuer::start().await;
    let (stack, memory, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    let token = || alice(&idp);
    let cases = [
        ("user", token().mint(), json!({"kind": "user", "subject": "auth0|alice", "client": "web", "actors": []})),
        (
            "client",
            token().machine("scheduler").mint(),
            json!({"kind": "client", "subject": "scheduler", "client": "scheduler"}),
        ),
        (
            "somebody for a user",
            token().actor("agent-7").mint(),
            json!({"kind": "user", "subject": "auth0|alice", "actors": ["agent-7"]}),
        ),
        (
            "agents for a user",
            token().actor("first").actor("now").mint(),
            json!({"subject": "auth0|alice", "actors": ["now", "first"]}),
        ),
    ];
    for (name, token, expected) in &cases {
        println!("{name}");
        assert_told(&told(&service, token).await, expected);
    }
    let anonymous = send(service.clone(), support::get("/catalogue")).await;
    assert_told(
        &serde_json::from_str(anonymous.body()).unwrap(),
        &json!({"kind": "anonymous", "subject": null, "token": null}),
    );

    let kinds: Vec<_> = records(&stack, &memory).await.iter().map(|record| record["principal"].clone()).collect();
    assert_eq!(kinds, ["user", "client", "user", "user", "anonymous"]);
}

#[tokio::test]
async fn auth0_tokens_of_both_profiles_are_understood() {
    let idp = TestIssuer::start().await;
    let url = "https://acme.eu.auth0.com/";
    let (_, _, service) = guard(Issuer::auth0("acme.eu.auth0.com", AUDIENCE).with_jwks_url(idp.jwks_url()));
    let token = || alice(&idp).claim("iss", url).permissions(["read:jobs"]).claim("org_id", "org_1");
    let userinfo = format!("{url}userinfo");
    let agent = json!({"sub": "agent-7", "sub_profile": "ai_agent"});
    let cases = [
        (
            "RFC 9068 profile",
            token().mint(),
            json!({"kind": "user", "client": "web", "tenant": "org_1", "permissions": ["read:jobs"]}),
        ),
        ("classic profile", token().classic().mint(), json!({"kind": "user", "client": "web", "token": null})),
        ("with openid", token().classic().audiences([AUDIENCE, &userinfo]).mint(), json!({"kind": "user"})),
        ("PS256", token().algorithm(Algorithm::Ps256).mint(), json!({"kind": "user"})),
        (
            "machine",
            token().claim("sub", "scheduler@clients").client("scheduler").mint(),
            json!({"kind": "client", "client": "scheduler"}),
        ),
        (
            "an agent for a user",
            token().claim("act", agent).mint(),
            json!({"kind": "agent", "subject": "auth0|alice", "actors": ["agent-7"]}),
        ),
        (
            "permissions are not scope",
            token().without("scope").mint(),
            json!({"scope": [], "permissions": ["read:jobs"]}),
        ),
    ];
    for (name, token, expected) in &cases {
        println!("{name}");
        assert_told(&told(&service, token).await, expected);
    }
    for (name, token) in [
        ("ES256", token().algorithm(Algorithm::Es256).mint()),
        ("no typ", token().without_typ().mint()),
        ("issuer without the slash", token().claim("iss", "https://acme.eu.auth0.com").mint()),
        ("user info alone", token().audience(&userinfo).mint()),
    ] {
        assert_eq!(ask(&service, &token).await.status(), 401, "{name}");
    }
}

#[tokio::test]
async fn each_issuer_preset_has_its_own_rules() {
    let idp = TestIssuer::start().await;
    let (_, _, strict) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    let (_, _, any) = guard(Issuer::oauth(idp.url(), AUDIENCE));
    let cases = [
        ("at+jwt", alice(&idp).mint(), 200, 200),
        ("application/at+jwt", alice(&idp).typ("application/at+jwt").mint(), 200, 200),
        ("JWT", alice(&idp).typ("JWT").mint(), 401, 200),
        ("no typ", alice(&idp).without_typ().mint(), 401, 200),
        ("an ID token's typ", alice(&idp).typ("id_token+jwt").mint(), 401, 401),
        ("no jti", alice(&idp).without("jti").mint(), 401, 200),
        ("no client_id", alice(&idp).without("client_id").mint(), 401, 200),
        ("scp", alice(&idp).without("scope").claim("scp", json!(["jobs:read"])).mint(), 200, 200),
        ("no sub", alice(&idp).without("sub").mint(), 401, 401),
        ("no exp", alice(&idp).without("exp").mint(), 401, 401),
        ("another audience", alice(&idp).audience("https://other.example").mint(), 401, 401),
        ("one audience of several", alice(&idp).audiences(["https://other.example", AUDIENCE]).mint(), 200, 200),
    ];
    for (name, token, by_rfc9068, by_oauth) in &cases {
        assert_eq!(ask(&strict, token).await.status(), *by_rfc9068, "rfc9068: {name}");
        assert_eq!(ask(&any, token).await.status(), *by_oauth, "oauth: {name}");
    }
}

#[tokio::test]
async fn every_algorithm_of_an_issuer_verifies_and_no_other_does() {
    let idp = TestIssuer::start().await;
    let (_, _, every) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    let (stack, memory, one) = guard(Issuer::rfc9068(idp.url(), AUDIENCE).with_algorithms([Algorithm::Es256]));
    for algorithm in Algorithm::ALL {
        let token = alice(&idp).algorithm(algorithm).mint();
        assert_eq!(ask(&every, &token).await.status(), 200, "{algorithm}");
        assert_eq!(ask(&one, &token).await.status() == 200, algorithm == Algorithm::Es256, "{algorithm}");
    }
    let refused = records(&stack, &memory).await.into_iter().filter(|record| record["reason"] == "token_algorithm");
    assert_eq!(refused.count(), Algorithm::ALL.len() - 1);
}

#[tokio::test]
async fn a_token_lives_until_exp_and_the_leeway_and_no_longer() {
    let clock = FrozenClock::default();
    let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
    let memory = Memory::new();
    let issuer = Issuer::rfc9068(idp.url(), AUDIENCE);
    let builder = Stack::builder(issuer, rules(), policy::dangerous_allow_all(), memory.clone());
    let service = protect(router(), builder.with_clock(clock.clone()).build().unwrap());
    let token = alice(&idp).expires_in(300).mint();
    for (seconds, status) in [(0, 200), (299, 200), (30, 200), (1, 401), (3600, 401)] {
        clock.advance(Duration::from_secs(seconds));
        assert_eq!(ask(&service, &token).await.status(), status, "{seconds} s later");
    }
}

#[tokio::test]
async fn keys_rotate_without_a_restart() {
    let clock = FrozenClock::default();
    let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
    let builder =
        Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules(), policy::dangerous_allow_all(), Memory::new());
    let service = protect(router(), builder.with_clock(clock.clone()).build().unwrap());
    let first = alice(&idp).mint();
    assert_eq!(ask(&service, &first).await.status(), 200);

    // A new key beside the old one: the first token that names it brings it in.
    idp.rotate();
    clock.advance(Duration::from_secs(60));
    let (second, before) = (alice(&idp).mint(), idp.requests().jwks);
    assert_eq!(ask(&service, &second).await.status(), 200);
    assert_eq!(idp.requests().jwks, before + 1);
    assert_eq!(ask(&service, &first).await.status(), 200);

    // Every old key withdrawn: what they signed is refused as soon as a new token made the cache look again.
    idp.rotate_dropping();
    clock.advance(Duration::from_secs(60));
    assert_eq!(ask(&service, &alice(&idp).mint()).await.status(), 200);
    for token in [&first, &second] {
        assert_eq!(ask(&service, token).await.status(), 401);
    }
}

#[tokio::test]
async fn unknown_kids_cost_the_issuer_one_request() {
    let idp = TestIssuer::start().await;
    let (stack, _, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    keys_are_loaded(&stack).await;
    for number in 0..50 {
        let token = alice(&idp).kid(&format!("no-such-key-{number}")).mint();
        assert_eq!(ask(&service, &token).await.status(), 401);
    }
    assert!(idp.requests().jwks <= 2, "{:?}", idp.requests());
}

#[tokio::test]
async fn a_hundred_requests_at_once_fetch_the_keys_once() {
    let idp = TestIssuer::start().await;
    idp.stall(true);
    let (_, _, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    let token = alice(&idp).mint();
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let (service, token) = (service.clone(), token.clone());
            tokio::spawn(async move { ask(&service, &token).await.status() })
        })
        .collect();
    within("the fetch", async {
        while idp.requests().discovery == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Half of them hang up: that cancels the fetch for nobody.
    for request in requests.iter().take(50) {
        request.abort();
    }
    idp.stall(false);
    for request in requests.into_iter().skip(50) {
        assert_eq!(request.await.unwrap(), 200);
    }
    let Requests { discovery, jwks, .. } = idp.requests();
    assert_eq!((discovery, jwks), (1, 1));
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_means_503_until_it_is_back() {
    let idp = TestIssuer::start().await;
    idp.fail(StatusCode::BAD_GATEWAY);
    let (stack, memory, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    let token = alice(&idp).mint();
    let response = ask(&service, &token).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    let record = only_record(&stack, &memory).await;
    assert_eq!((&record["reason"], &record["decision"]), (&json!("keys_unavailable"), &json!("error")));
    assert!(matches!(stack.health().keys, Health::Unavailable(_)));
    assert!(stack.health().audit.is_serving() && stack.health().policy.is_serving());
    // What needs no keys is answered as ever.
    assert_eq!(send(service.clone(), support::get("/me")).await.status(), 401);
    assert_eq!(send(service.clone(), support::get("/catalogue")).await.status(), 200);

    idp.behave();
    within("recovery", async {
        while ask(&service, &token).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(stack.health().keys, Health::Ready);
}

#[tokio::test]
async fn an_issuer_that_lies_brings_no_keys() {
    for lie in [Lie::WrongIssuer, Lie::HtmlPage, Lie::EmptyKeySet, Lie::Redirect, Lie::HugeDocument] {
        let idp = TestIssuer::start().await;
        idp.lie(lie);
        let (_, _, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
        assert_eq!(ask(&service, &alice(&idp).mint()).await.status(), 503, "{lie:?}");
        assert_eq!(idp.requests().redirected, 0, "{lie:?}");
    }
}

#[tokio::test]
async fn one_odd_key_never_sinks_the_set() {
    let idp = TestIssuer::start().await;
    idp.publish_odd_keys();
    let (_, _, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    for algorithm in Algorithm::ALL {
        assert_eq!(ask(&service, &alice(&idp).algorithm(algorithm).mint()).await.status(), 200, "{algorithm}");
    }
}

#[tokio::test]
async fn tokens_of_unknown_issuers_cause_no_request_anywhere() {
    let (idp, stranger) = (TestIssuer::start().await, TestIssuer::start().await);
    let (stack, memory, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    keys_are_loaded(&stack).await;
    let before = idp.requests();
    for _ in 0..20 {
        let token = stranger.token().header("jku", stranger.jwks_url()).header("x5u", stranger.url());
        assert_eq!(ask(&service, &token.mint()).await.status(), 401);
        assert_eq!(ask(&service, &alice(&idp).without("iss").mint()).await.status(), 401);
    }
    assert_eq!(idp.requests(), before);
    assert_eq!(stranger.requests(), Requests::default());
    assert!(records(&stack, &memory).await.iter().all(|record| record["reason"] == "token_issuer"));
}

#[tokio::test]
async fn issuers_are_isolated_from_each_other() {
    let (one, other, broken) = (TestIssuer::start().await, TestIssuer::start().await, TestIssuer::start().await);
    broken.fail(StatusCode::INTERNAL_SERVER_ERROR);
    let memory = Memory::new();
    let builder =
        Stack::builder(Issuer::rfc9068(one.url(), AUDIENCE), rules(), policy::dangerous_allow_all(), memory.clone());
    let stack = builder
        .add_issuer(Issuer::rfc9068(other.url(), "https://other.example"))
        .add_issuer(Issuer::rfc9068(broken.url(), AUDIENCE))
        .build()
        .unwrap();
    let service = protect(router(), stack.clone());
    let cases = [
        ("one", one.token().mint(), 200),
        ("other", other.token().audience("https://other.example").mint(), 200),
        ("the audience of the one at the other", other.token().mint(), 401),
        ("signed by the other", one.token().signed_by(&other).mint(), 401),
        ("broken", broken.token().mint(), 503),
    ];
    for (name, token, status) in &cases {
        assert_eq!(ask(&service, token).await.status(), *status, "{name}");
    }
    // The same subject at two issuers is two parties.
    let seen = records(&stack, &memory).await;
    assert_eq!(seen[0]["user_id"], seen[1]["user_id"]);
    assert_ne!(seen[0]["issuer"], seen[1]["issuer"]);
    let Health::Unavailable(detail) = stack.health().keys else { panic!("{:?}", stack.health()) };
    assert!(detail.contains(broken.url()), "{detail}");
}

#[tokio::test]
async fn on_an_optional_route_a_token_that_is_present_must_verify() {
    let idp = TestIssuer::start().await;
    let (stack, memory, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    let cases = [
        ("expired", alice(&idp).expired().mint().bearer(), 401),
        ("tampered", alice(&idp).tampered().mint().bearer(), 401),
        ("another audience", alice(&idp).audience("https://other.example").mint().bearer(), 401),
        ("not a token", "Bearer abc".to_owned(), 401),
        ("empty", "Bearer".to_owned(), 400),
        ("good", alice(&idp).mint().bearer(), 200),
    ];
    for (name, bearer, status) in &cases {
        let response = send(service.clone(), get_with("/catalogue", bearer)).await;
        assert_eq!(response.status(), *status, "{name}");
    }
    let anonymous = send(service.clone(), support::get("/catalogue")).await;
    assert_eq!(anonymous.status(), 200);
    let last = records(&stack, &memory).await.pop().unwrap();
    assert_eq!(
        (&last["principal"], &last["user_id"], &last["policy"]["effect"]),
        (&json!("anonymous"), &Value::Null, &json!("allow"))
    );
}

#[tokio::test]
async fn a_token_anywhere_else_than_in_authorization_is_no_token() {
    let idp = TestIssuer::start().await;
    let (_, _, service) = guard(Issuer::rfc9068(idp.url(), AUDIENCE));
    let token = alice(&idp).mint();
    let plain = || Request::get("/me").body(axum::body::Body::empty()).unwrap();
    let with = |name: &'static str, value: String| {
        let mut request = plain();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let mut query = plain();
    *query.uri_mut() = format!("/me?access_token={}", token.as_str()).parse().unwrap();
    let mut body = with("content-type", "application/x-www-form-urlencoded".to_owned());
    *body.body_mut() = format!("access_token={}", token.as_str()).into();
    for request in [
        query,
        body,
        with("cookie", format!("access_token={}", token.as_str())),
        with("x-access-token", token.as_str().to_owned()),
        with("x-forwarded-access-token", token.as_str().to_owned()),
        with("proxy-authorization", token.bearer()),
    ] {
        assert_eq!(send(service.clone(), request).await.status(), 401);
    }
}

#[tokio::test]
async fn the_verifier_works_without_http_and_names_each_refusal() {
    let idp = TestIssuer::start().await;
    let verifier = Verifier::builder(Issuer::rfc9068(idp.url(), AUDIENCE).with_keys(idp.key_set())).build().unwrap();
    let now = portcullis::time::Clock::now(&portcullis::time::SystemClock);
    let verify = |token: TestToken| {
        let verifier = verifier.clone();
        async move { verifier.verify(&token.access_token(), now).await }
    };
    let verified = verify(alice(&idp).claim("jti", "token-1").mint()).await.unwrap();
    assert_eq!(verified.token_id().unwrap().as_str(), "token-1");
    assert_eq!(verified.principal().subject().unwrap().as_str(), "auth0|alice");
    let cases: [(TestToken, TokenError); 4] = [
        (alice(&idp).expired().mint(), TokenError::Expired),
        (alice(&idp).tampered().mint(), TokenError::Signature),
        (alice(&idp).without("exp").mint(), TokenError::MissingClaim("exp")),
        (alice(&idp).kid("no-such-key").mint(), TokenError::UnknownKey),
    ];
    for (token, error) in cases {
        assert_eq!(verify(token).await.unwrap_err(), error);
    }
    assert_eq!(idp.requests(), Requests::default());
    assert!(AccessToken::new("two words").is_err());
}
