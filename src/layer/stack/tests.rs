use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use super::*;
use crate::{
    audit::{AuditRecord, Memory, Outcome},
    denial::Disclosure,
    key::{KeyError, KeySource, LoadRequest, LoadedKeys},
    policy::{
        Decision, Effect, Permit, PolicyBackend, PolicyError, PolicyInput, PolicyRevision, dangerous_allow_all,
        deny_all,
    },
    principal::{IssuerId, Principal, Subject},
    revocation::{Revocation, RevocationList},
    route::{Route, RouteKey},
    rules::{optional, policy_only, public, scopes},
    scope::all_of,
    time::{Clock, UnixTime},
    token::test_tokens::{NOW, now, public_keys, token},
};

struct Frozen;

impl Clock for Frozen {
    fn now(&self) -> UnixTime {
        now()
    }
}

fn rules() -> Rules {
    Rules::new()
        .get("/jobs", scopes(all_of(["jobs:read"])))
        .get("/admin", policy_only().concealed())
        .get("/catalogue", optional())
        .get("/livez", public("liveness"))
}

fn issuer() -> Issuer {
    Issuer::oauth("https://id.example", "https://api.example").with_keys(public_keys())
}

fn stack(policy: impl PolicyBackend) -> (Stack, Memory) {
    let memory = Memory::new();
    let stack = Stack::builder(issuer(), rules(), policy, memory.clone()).with_clock(Frozen).build().unwrap();
    (stack, memory)
}

fn request(path: &str, scope: Option<&str>) -> Request<()> {
    let mut request = Request::get(path).body(()).unwrap();
    if let Some(scope) = scope {
        let claims = json!({"iss": "https://id.example", "aud": "https://api.example", "sub": "ada", "exp": NOW + 60, "scope": scope});
        let text = format!("Bearer {}", std::str::from_utf8(token(&claims).as_bytes()).unwrap());
        request.headers_mut().insert(AUTHORIZATION, text.parse().unwrap());
    }
    request
}

/// What an edge's `RouteLayer` does, for templates without parameters.
fn route(rules: &RuleTable, mut request: Request<()>) -> Request<()> {
    let route = match request.uri().path() {
        "/nowhere" => Route::unmatched(rules),
        path => Route::matched(rules, RouteKey::Http { method: request.method().clone(), template: path.into() }),
    };
    request.extensions_mut().insert(route);
    request
}

async fn handler(request: Request<()>) -> Result<Response<Full<Bytes>>, &'static str> {
    assert!(request.uri().path() != "/catalogue", "a bug in the handler");
    let public = request.uri().path() == "/livez";
    assert_eq!(request.extensions().get::<Principal>().is_none(), public);
    assert_eq!(request.extensions().get::<Permit>().is_none(), public);
    Ok(Response::new(Full::from("from inside")))
}

async fn serve(stack: &Stack, request: Request<()>) -> Response<String> {
    let (denial, audit) = stack.outer();
    let (authenticate, require_scope, authorize) = stack.gates();
    let rules = stack.rules().clone();
    let service = ServiceBuilder::new()
        .layer(denial)
        .layer(audit)
        .map_request(move |request| route(&rules, request))
        .layer(authenticate)
        .layer(require_scope)
        .layer(authorize)
        .service(service_fn(handler));
    read(service.oneshot(request).await.unwrap()).await
}

async fn read<B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>>(response: Response<B>) -> Response<String> {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn only_record(stack: &Stack, memory: &Memory) -> AuditRecord {
    stack.audit().flush(Duration::from_secs(5)).await.unwrap();
    let [record] = memory.records().try_into().unwrap();
    record
}

/// A backend that must not be asked.
struct Unasked;

#[async_trait::async_trait]
impl PolicyBackend for Unasked {
    async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
        panic!("the policy was asked")
    }
}

/// A backend that answers later, with an obligation that nobody knows.
struct Obliging;

#[async_trait::async_trait]
impl PolicyBackend for Obliging {
    async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
        tokio::task::yield_now().await;
        Ok(Decision::allow(PolicyRevision::new("r7")).add_obligation("notify", serde_json::Map::new()))
    }
}

#[tokio::test]
async fn each_stage_refuses_with_its_class_and_its_reason_is_on_record() {
    let allow = || Arc::new(dangerous_allow_all()) as Arc<dyn PolicyBackend>;
    let unasked = || Arc::new(Unasked) as Arc<dyn PolicyBackend>;
    let deny = || Arc::new(deny_all()) as Arc<dyn PolicyBackend>;
    let cases = [
        ("/jobs", Some("jobs:read"), allow(), 200, None),
        ("/livez", None, unasked(), 200, None),
        ("/jobs", None, unasked(), 401, Some("credentials_missing")),
        ("/nowhere", None, unasked(), 401, Some("credentials_missing")),
        ("/unlisted", None, unasked(), 401, Some("credentials_missing")),
        ("/jobs", Some("jobs:write"), unasked(), 403, Some("scope_insufficient")),
        ("/nowhere", Some("jobs:read"), unasked(), 404, Some("route_unknown")),
        ("/unlisted", Some("jobs:read"), unasked(), 404, Some("rule_missing")),
        ("/jobs", Some("jobs:read"), deny(), 403, Some("policy_denied")),
        ("/admin", Some(""), deny(), 404, Some("policy_denied")),
        ("/catalogue", None, deny(), 401, Some("policy_denied")),
        ("/catalogue", Some(""), deny(), 403, Some("policy_denied")),
        ("/jobs", Some("jobs:read"), Arc::new(Obliging), 403, Some("policy_obligation_unfulfilled")),
        ("/jobs", Some("jobs:read"), unasked(), 500, Some("policy_panicked")),
    ];
    for (path, scope, policy, status, reason) in cases {
        let (stack, memory) = stack(policy);
        let response = serve(&stack, request(path, scope)).await;
        let record = only_record(&stack, &memory).await;
        assert_eq!(response.status(), status, "{path} {reason:?}");
        assert_eq!(response.body() == "from inside", status == 200, "{path} {reason:?}");
        assert_eq!(record.reason, reason, "{path}");
        assert_eq!(record.sent.map(|sent| sent.http), Some(status), "{path} {reason:?}");
        assert_eq!(response.headers()["x-request-id"], record.request_id.unwrap().as_str(), "{path}");
    }
}

#[tokio::test]
async fn a_concealed_route_an_unlisted_one_and_an_absent_one_are_the_same_bytes() {
    let mut seen = Vec::new();
    for path in ["/admin", "/unlisted", "/nowhere"] {
        let (stack, _) = stack(deny_all());
        let mut response = serve(&stack, request(path, Some("jobs:read"))).await;
        let id = response.headers_mut().remove("x-request-id").unwrap().to_str().unwrap().to_owned();
        let body = response.body().replace(&id, "");
        seen.push(format!("{:?} {:?} {body}", response.status(), response.headers()));
    }
    assert!(seen.iter().all(|bytes| *bytes == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn a_panicking_handler_is_a_500_on_record() {
    let (stack, memory) = stack(dangerous_allow_all());
    let response = serve(&stack, request("/catalogue", None)).await;
    let record = only_record(&stack, &memory).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!((record.outcome, record.sent.map(|sent| sent.http)), (Some(Outcome::Panicked), Some(500)));
}

#[tokio::test]
async fn a_mis_ordered_stack_refuses_everything_as_an_internal_error() {
    let (stack, memory) = stack(dangerous_allow_all());
    let (denial, audit) = stack.outer();
    let (authenticate, require_scope, authorize) = stack.gates();
    let rules = stack.rules().clone();
    let service = ServiceBuilder::new()
        .layer(denial)
        .layer(audit)
        .map_request(move |request| route(&rules, request))
        .layer(require_scope)
        .layer(authorize)
        .layer(authenticate)
        .service(service_fn(handler));
    let response = service.oneshot(request("/jobs", Some("jobs:read"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    drop(response);
    assert_eq!(only_record(&stack, &memory).await.reason, Some("layer_missing_authenticate"));
}

#[tokio::test]
async fn scope_of_one_handler_holds_inside_and_outside_of_the_policy() {
    let extra = RequireScopeLayer::new(all_of(["jobs:admin"]).unwrap());
    for (scope, status) in [("jobs:read", 403), ("jobs:read jobs:admin", 200)] {
        for inside in [true, false] {
            let (stack, memory) = stack(dangerous_allow_all());
            let (denial, audit) = stack.outer();
            let (authenticate, require_scope, authorize) = stack.gates();
            let outer = ServiceBuilder::new().layer(denial).layer(audit).layer(authenticate);
            let request = route(stack.rules(), request("/jobs", Some(scope)));
            let (response, reason) = if inside {
                let service = outer.layer(require_scope).layer(authorize).layer(&extra).service(service_fn(handler));
                let status = read(service.oneshot(request).await.unwrap()).await.status();
                (status, only_record(&stack, &memory).await.reason)
            } else {
                let service = outer.layer(&extra).layer(require_scope).layer(authorize).service(service_fn(handler));
                let status = read(service.oneshot(request).await.unwrap()).await.status();
                (status, only_record(&stack, &memory).await.reason)
            };
            assert_eq!(response, status, "{scope} {inside}");
            assert_eq!(reason, (status == 403).then_some("scope_insufficient"), "{scope} {inside}");
        }
    }
}

#[tokio::test]
async fn a_stack_in_a_stack_leaves_one_record_and_the_inner_one_decides_again() {
    let (outer, outer_memory) = stack(dangerous_allow_all());
    let (inner, inner_memory) = stack(deny_all());
    let rules = outer.rules().clone();
    let inside = ServiceBuilder::new()
        .layer(inner.outer().0)
        .layer(inner.outer().1)
        .layer(inner.gates())
        .service(service_fn(handler));
    let service = ServiceBuilder::new()
        .layer(outer.outer())
        .map_request(move |request| route(&rules, request))
        .layer(outer.gates())
        .service(inside);
    let response = read(service.oneshot(request("/jobs", Some("jobs:read"))).await.unwrap()).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let record = only_record(&outer, &outer_memory).await;
    assert_eq!((record.reason, record.policy.map(|policy| policy.effect)), (Some("policy_denied"), Some(Effect::Deny)));
    assert_eq!(response.headers()["x-request-id"], record.request_id.unwrap().as_str());
    inner.audit().flush(Duration::from_secs(5)).await.unwrap();
    assert!(inner_memory.records().is_empty());
}

#[tokio::test]
async fn guided_disclosure_names_the_scope() {
    let stack = Stack::builder(issuer(), rules(), deny_all(), Memory::new())
        .with_clock(Frozen)
        .with_realm("jobs")
        .with_disclosure(Disclosure::Guided)
        .build()
        .unwrap();
    let response = serve(&stack, request("/jobs", Some(""))).await;
    assert_eq!(
        response.headers()["www-authenticate"],
        "Bearer realm=\"jobs\", error=\"insufficient_scope\", scope=\"jobs:read\""
    );
}

#[tokio::test]
async fn the_report_tells_what_the_stack_does() {
    let (stack, _) = stack(deny_all());
    let report = stack.report().to_string();
    for words in [
        "https://id.example for https://api.example",
        "deny: what cannot be written down",
        "silent, for programs",
        "GET  /livez      public: liveness",
    ] {
        assert!(report.contains(words), "{report}");
    }
    assert!(stack.health().is_serving(), "{}", stack.health());
}

#[tokio::test]
async fn each_part_can_fail_the_build() {
    let builder = || Stack::builder(issuer(), rules(), deny_all(), Memory::new());
    let cases = [
        (Stack::builder(issuer(), Rules::new().get("x", policy_only()), deny_all(), Memory::new()), "rules[0]"),
        (builder().with_realm("a\"b"), "realm"),
        (builder().with_input_headers(["authorization"]), "policy.input_headers"),
        (builder().add_issuer(issuer()), "issuer.url"),
    ];
    for (builder, field) in cases {
        assert_eq!(builder.build().unwrap_err().field(), field);
    }
}

#[test]
fn outside_a_runtime_the_stack_does_not_build() {
    let error = Stack::builder(issuer(), rules(), deny_all(), Memory::new()).build().unwrap_err();
    assert!(matches!(error, crate::ConfigError::NoRuntime { .. }), "{error}");
}

#[tokio::test]
async fn a_stack_asks_the_list_that_it_is_given_and_so_do_its_siblings() {
    let revocations = RevocationList::new();
    let build = |builder: StackBuilder| builder.with_clock(Frozen).with_revocations(revocations.clone()).build();
    let stack = build(Stack::builder(issuer(), rules(), dangerous_allow_all(), Memory::new())).unwrap();
    let sibling = stack.sibling(rules()).with_clock(Frozen).build().unwrap();
    let ada = Revocation::subject(&IssuerId::new("https://id.example"), &Subject::new("ada"), now());
    for status in [StatusCode::OK, StatusCode::UNAUTHORIZED] {
        for stack in [&stack, &sibling] {
            assert_eq!(serve(stack, request("/jobs", Some("jobs:read"))).await.status(), status);
        }
        revocations.revoke(&ada, now()).unwrap();
    }
    // Beside a verifier that has a list or none of its own, another one would be looked at by nobody.
    let error = build(stack.sibling(rules())).unwrap_err();
    assert_eq!(error.field(), "revocations");
}

/// Never answers.
struct Stuck;

#[async_trait::async_trait]
impl KeySource for Stuck {
    async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_told_without_waiting_for_keys() {
    let stuck = || Issuer::oauth("https://id.example", "https://api.example").with_key_source(Stuck);
    let start = |rules| Stack::builder(stuck(), rules, deny_all(), Memory::new());
    let wrong = start(Rules::new().get("jobs", policy_only())).build_ready(Duration::from_secs(3_600)).await;
    assert!(!matches!(wrong.unwrap_err(), crate::ConfigError::Unusable { .. }));
    let late = start(rules()).build_ready(Duration::from_millis(10)).await;
    assert_eq!(late.unwrap_err().field(), "issuer.keys");
}

#[tokio::test]
async fn who_waits_hears_what_is_wrong_with_the_policy() {
    struct Misled;

    #[async_trait::async_trait]
    impl PolicyBackend for Misled {
        async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
            Err(PolicyError::unavailable("never asked"))
        }

        async fn preflight(self: Arc<Self>) -> Result<(), crate::ConfigError> {
            Err(crate::ConfigError::missing("policy.path", "name a rule"))
        }
    }

    let start = || Stack::builder(issuer(), rules(), Misled, Memory::new());
    let error = start().build_ready(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.field(), "policy.path");
    assert!(start().build().is_ok());
}

#[tokio::test]
async fn who_waits_for_keys_has_revocations_too() {
    let revocations = RevocationList::new();
    let builder = Stack::builder(issuer(), rules(), dangerous_allow_all(), Memory::new());
    let builder = builder.with_clock(Frozen).with_revocations(revocations.clone());
    let stack = builder.build_ready(Duration::from_secs(1)).await.unwrap();
    let ada = Revocation::subject(&IssuerId::new("https://id.example"), &Subject::new("ada"), now());
    for status in [StatusCode::OK, StatusCode::UNAUTHORIZED] {
        assert_eq!(serve(&stack, request("/jobs", Some("jobs:read"))).await.status(), status);
        revocations.revoke(&ada, now()).unwrap();
    }
}

#[tokio::test]
async fn a_tenant_parameter_needs_tenants_of_one_issuer() {
    let build = |issuers: [Issuer; 2], tenants_in_path: bool| {
        let access = policy_only();
        let access = if tenants_in_path { access.with_tenant_param("org") } else { access };
        let rules = Rules::new().get("/jobs", policy_only()).get("/orgs/{org}", access);
        let [first, second] = issuers;
        Stack::builder(first, rules, deny_all(), Memory::new()).add_issuer(second).build().map(drop)
    };
    let acme = || Issuer::auth0("acme.eu.auth0.com", "https://api.example").with_keys(public_keys());
    let evil = || Issuer::auth0("evil.eu.auth0.com", "https://api.example").with_keys(public_keys());
    build([acme(), evil()], false).unwrap();
    build([acme(), issuer()], true).expect("tokens of a plain issuer name no tenant");
    let error = build([acme(), evil()], true).unwrap_err();
    assert_eq!(error.field(), "rules[1]");
    assert!(error.to_string().contains("/orgs/{org}"), "{error}");
    assert!(error.to_string().contains("drop the tenant parameter"), "{error}");
}

fn parts(path: &str, scope: Option<&str>) -> http::request::Parts {
    request(path, scope).into_parts().0
}

#[tokio::test]
async fn an_explanation_names_the_stage_and_the_reason_that_the_record_of_the_request_names() {
    let policy = |input: &PolicyInput| match &*input.resource.id {
        "/jobs" => Decision::deny(PolicyRevision::new("r7")).add_reason("nobody works on Sundays"),
        _ => Decision::allow(PolicyRevision::new("r7")),
    };
    struct Of<F>(F);
    #[async_trait::async_trait]
    impl<F: Fn(&PolicyInput) -> Decision + Send + Sync + 'static> PolicyBackend for Of<F> {
        async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
            Ok((self.0)(&input))
        }
    }
    let cases = [
        ("no token", "/jobs", None),
        ("no scope", "/jobs", Some("jobs:write")),
        ("denied", "/jobs", Some("jobs:read")),
        ("no route", "/nowhere", Some("jobs:read")),
        ("allowed", "/admin", Some("jobs:read")),
        ("public", "/livez", None),
    ];
    for (name, path, scope) in cases {
        let (stack, memory) = stack(Of(policy));
        let explanation = stack.explain(parts(path, scope)).await;
        stack.audit().flush(Duration::from_secs(5)).await.unwrap();
        assert!(memory.records().is_empty(), "{name}: an explanation is no request");
        let response = serve(&stack, request(path, scope)).await;
        let record = only_record(&stack, &memory).await;
        assert_eq!((Some(explanation.stage), explanation.code), (record.stage, record.reason), "{name}");
        assert_eq!(explanation.answer, response.status().as_u16(), "{name}");
        assert_eq!(explanation.allowed, response.status() == 200, "{name}");
        assert!(!explanation.record.enforced && explanation.record.sent.is_none(), "{name}");
        let of = |record: &AuditRecord| {
            let policy =
                record.policy.as_ref().map(|policy| (policy.effect, policy.revision.clone(), policy.reasons.clone()));
            (record.decision, policy, record.user_id.clone(), record.thumbprint.clone())
        };
        assert_eq!(of(&explanation.record), of(&record), "{name}");
        assert_eq!(explanation.input.is_some(), record.policy.is_some(), "{name}");
    }
}

#[tokio::test]
async fn an_explanation_holds_no_token_and_calls_no_handler_of_an_obligation() {
    let memory = Memory::new();
    let stack = Stack::builder(issuer(), rules(), Obliging, memory.clone())
        .with_clock(Frozen)
        .with_obligation("notify", |_: &crate::policy::Obligation| panic!("it was carried out"))
        .build()
        .unwrap();
    let known = stack.explain(parts("/jobs", Some("jobs:read"))).await;
    assert!(known.allowed, "{known}");
    let (other, _) = self::stack(Obliging);
    let unknown = other.explain(parts("/jobs", Some("jobs:read"))).await;
    assert_eq!((unknown.stage.as_str(), unknown.code), ("policy", Some("policy_obligation_unfulfilled")));

    let mut forged = parts("/jobs", Some("jobs:read"));
    let token =
        forged.headers.get(AUTHORIZATION).unwrap().to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    let cut = format!("Bearer {}", &token[..token.len() - 4]);
    forged.headers.insert(AUTHORIZATION, cut.parse().unwrap());
    let forged = stack.explain(forged).await;
    assert_eq!(forged.stage.as_str(), "authenticate");
    for explanation in [known, unknown, forged] {
        let (text, json) = (explanation.to_string(), serde_json::to_string(&explanation).unwrap());
        for part in token.split('.') {
            assert!(!text.contains(part) && !json.contains(part), "{text}\n{json}");
        }
    }
}

#[tokio::test]
async fn an_explanation_gives_the_room_that_it_took_in_the_audit_trail_back() {
    let (stack, memory) = stack(dangerous_allow_all());
    for _ in 0..10_000 {
        assert!(stack.explain(parts("/admin", Some("jobs:read"))).await.allowed);
    }
    assert_eq!(serve(&stack, request("/admin", Some("jobs:read"))).await.status(), 200);
    assert_eq!(only_record(&stack, &memory).await.decision.map(crate::audit::Verdict::as_str), Some("allow"));
}

#[cfg(feature = "rego")]
#[tokio::test]
async fn the_explanation_of_a_stack_has_that_of_its_policy() {
    let text = "package authz\n\ndefault decision := false\n\ndecision if input.subject.id == \"bob\"\n";
    let rego = crate::policy::Rego::builder()
        .add_source("authz.rego", text)
        .with_time_limit(Duration::from_secs(1))
        .build()
        .unwrap();
    let (stack, _) = stack(rego);
    let explanation = stack.explain(parts("/jobs", Some("jobs:read"))).await;
    let [policy] = &*explanation.policy else { panic!("{explanation}") };
    assert_eq!(policy.rules[0].definitions[1].failed.as_ref().unwrap().text, "input.subject.id == \"bob\"");
    assert!(explanation.to_string().contains("does not hold: input.subject.id == \"bob\""), "{explanation}");
    let route = explanation.route.as_ref().unwrap();
    assert!(route.guessed && route.demands.as_ref().unwrap().contains("jobs:read"));

    // A live request that an edge has routed already is explained as it was routed, and its own trail hears nothing of it.
    let (stack, memory) = self::stack(deny_all());
    let mut live = request("/anything", Some("jobs:read"));
    live.extensions_mut().insert(Route::unmatched(stack.rules()));
    let guard = crate::audit::Guard::new(stack.audit(), &mut live);
    let explanation = stack.explain(live.into_parts().0).await;
    assert_eq!((explanation.code, explanation.route.unwrap().guessed), (Some("route_unknown"), false));
    drop(guard);
    let record = only_record(&stack, &memory).await;
    assert_eq!((record.stage, record.reason, record.request_id), (None, None, explanation.record.request_id));
}
