//! What a request costs: the empty service, each layer alone around it, and the whole stack, for requests that pass and for requests
//! that are refused.
//!
//! `cargo bench --bench stack`. Read each number as a ratio to `stack/empty service` of the same run; the machine cancels out. Where
//! the time goes: `authenticate` is the signature (see the bench `verify`), `authorize` with Rego is the policy. A refusal without a
//! token must stay cheaper than a request that passes, since anybody can send one. Each layer alone is given what its predecessors
//! would have left in the request, made before the clock starts. The audit trail's writer runs on another thread.
#![allow(clippy::expect_used, missing_docs, reason = "a bench that cannot be set up stops")]

use std::{convert::Infallible, hint::black_box, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use http::{Method, Request, Response, StatusCode, header::AUTHORIZATION, request::Parts};
use http_body_util::Empty;
use portcullis::{
    Issuer, Rules, Stack,
    audit::{Audit, AuditError, AuditRecord, AuditSink, Memory},
    key::Algorithm,
    layer::route::{MatchRoute, Matched, RouteLayer},
    policy::{PolicyBackend, Rego, dangerous_allow_all, deny_all},
    principal::Principal,
    route::{Route, RouteKey},
    rules::scopes,
    scope::all_of,
    testing::{TestIssuer, TestToken},
    time::{Clock as _, SystemClock},
    token::Verifier,
};
use tokio::runtime::Runtime;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

type Body = Empty<Bytes>;

/// A service with one route.
#[derive(Clone, Copy)]
struct OnlyJobs;

impl MatchRoute for OnlyJobs {
    fn match_route(&self, parts: &mut Parts) -> Option<Matched> {
        (parts.uri.path() == "/jobs").then(|| Matched::new(key(&parts.method)))
    }
}

fn key(method: &Method) -> RouteKey {
    RouteKey::Http { method: method.clone(), template: "/jobs".into() }
}

/// Where records go to be forgotten, so that their writing is the only cost.
struct Forgets;

#[async_trait]
impl AuditSink for Forgets {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        drop(black_box(records));
        Ok(())
    }
}

struct Site {
    runtime: Runtime,
    idp: TestIssuer,
    audit: Audit,
}

impl Site {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let idp = runtime.block_on(TestIssuer::start());
        // Room for a burst: a bench never waits, and a full trail would make it measure refusals.
        let audit = runtime
            .block_on(async { Audit::builder(Arc::new(Forgets)).with_capacity(1 << 20).start().expect("a trail") });
        Self { runtime, idp, audit }
    }

    fn issuer(&self) -> Issuer {
        Issuer::rfc9068(self.idp.url(), TestIssuer::AUDIENCE)
            .with_keys(self.idp.key_set())
            .with_algorithms([Algorithm::Es256])
    }

    fn stack(&self, policy: impl PolicyBackend) -> Stack {
        let _inside = self.runtime.enter();
        let rules = Rules::new().get("/jobs", scopes(all_of(["jobs:read"])));
        let builder = Stack::builder(self.issuer(), rules, policy, Memory::new()).with_audit(self.audit.clone());
        builder.build().expect("a stack")
    }

    fn token(&self) -> TestToken {
        self.idp.token().algorithm(Algorithm::Es256).scope("jobs:read").mint()
    }

    fn principal(&self) -> Principal {
        let _inside = self.runtime.enter();
        let verifier = Verifier::builder(self.issuer()).build().expect("a verifier");
        let verified =
            verifier.verify_now(&self.token().access_token(), SystemClock.now()).expect("keys").expect("a good token");
        verified.principal().clone()
    }
}

fn empty() -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Copy {
    service_fn(async |_: Request<Body>| Ok(Response::new(Body::new())))
}

fn request(token: Option<&TestToken>) -> Request<Body> {
    let mut request = Request::get("https://api.example/jobs").body(Body::new()).expect("a request");
    if let Some(token) = token {
        request.headers_mut().insert(AUTHORIZATION, token.bearer().parse().expect("a header value"));
    }
    request
}

fn measure<S, B>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    site: &Site,
    name: &str,
    expected: StatusCode,
    service: S,
    request: impl Fn() -> Request<Body>,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
{
    let call = |request| {
        let service = service.clone();
        async move {
            let response = service.oneshot(request).await.unwrap_or_else(|never| match never {});
            assert_eq!(response.status(), expected);
        }
    };
    group.bench_function(name, |bencher| {
        bencher.to_async(&site.runtime).iter_batched(&request, call, BatchSize::SmallInput)
    });
}

fn layers(criterion: &mut Criterion) {
    let site = Site::new();
    let stack = site.stack(dangerous_allow_all());
    let rego = site.stack(policy());
    let (denial, audit) = stack.outer();
    let (authenticate, require_scope, authorize) = stack.gates();
    let route = RouteLayer::new(stack.rules().clone(), OnlyJobs);

    let token = site.token();
    let principal = site.principal();
    let matched = Route::matched(stack.rules(), key(&Method::GET));
    let bare = || request(None);
    let with_token = || request(Some(&token));
    let with_facts = || {
        let mut request = request(Some(&token));
        request.extensions_mut().insert(matched.clone());
        request.extensions_mut().insert(principal.clone());
        request
    };

    let mut group = criterion.benchmark_group("stack");
    let ok = StatusCode::OK;
    measure(&mut group, &site, "empty service", ok, empty(), bare);
    measure(&mut group, &site, "denial alone", ok, denial.layer(empty()), bare);
    measure(&mut group, &site, "audit alone", ok, audit.layer(empty()), bare);
    measure(&mut group, &site, "route alone", ok, route.layer(empty()), bare);
    measure(&mut group, &site, "authenticate alone", ok, authenticate.layer(empty()), with_token);
    measure(&mut group, &site, "require_scope alone", ok, require_scope.layer(empty()), with_facts);
    measure(&mut group, &site, "authorize alone, fixed policy", ok, authorize.layer(empty()), with_facts);
    measure(&mut group, &site, "authorize alone, Rego", ok, rego.gates().2.layer(empty()), with_facts);
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let site = Site::new();
    let token = site.token();
    let forged = site.idp.token().algorithm(Algorithm::Es256).scope("jobs:read").tampered().mint();
    let narrow = site.idp.token().algorithm(Algorithm::Es256).scope("jobs:write").mint();
    let protect = |stack: &Stack| {
        let (denial, audit) = stack.outer();
        let (authenticate, require_scope, authorize) = stack.gates();
        let gated = authenticate.layer(require_scope.layer(authorize.layer(empty())));
        denial.layer(audit.layer(RouteLayer::new(stack.rules().clone(), OnlyJobs).layer(gated)))
    };
    let fixed = protect(&site.stack(dangerous_allow_all()));
    let rego = protect(&site.stack(policy()));
    let denying = protect(&site.stack(deny_all()));

    let mut group = criterion.benchmark_group("stack");
    measure(&mut group, &site, "allowed, fixed policy", StatusCode::OK, fixed.clone(), || request(Some(&token)));
    measure(&mut group, &site, "allowed, Rego", StatusCode::OK, rego, || request(Some(&token)));
    measure(&mut group, &site, "refused, no token", StatusCode::UNAUTHORIZED, fixed.clone(), || request(None));
    measure(&mut group, &site, "refused, bad signature", StatusCode::UNAUTHORIZED, fixed.clone(), || {
        request(Some(&forged))
    });
    measure(&mut group, &site, "refused, scope", StatusCode::FORBIDDEN, fixed, || request(Some(&narrow)));
    measure(&mut group, &site, "refused, policy", StatusCode::FORBIDDEN, denying, || request(Some(&token)));
    group.finish();
    assert_eq!(site.audit.lost(), 0, "the numbers hold only while every record was kept");
}

fn policy() -> Rego {
    let text = "package authz\ndecision := true if {\n\tinput.action.name == \"GET\"\n\tinput.resource.id == \"/jobs\"\n\t\"jobs:read\" in input.subject.properties.scopes\n}";
    Rego::from_source("authz.rego", text, Rego::DEFAULT_DECISION_PATH).expect("a policy")
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = layers, whole
}
criterion_main!(benches);
