//! The layers alone, and in every order.

use std::{convert::Infallible, sync::Arc};

use axum::{body::Body, extract::Request, response::Response};
use http::{Method, request::Parts};
use portcullis::{
    Issuer, Rules,
    audit::{Audit, Memory, Mode},
    denial::{Class, Denial},
    layer::{
        AuditLayer, AuthenticateLayer, AuthorizeLayer, DenialLayer, RequireScopeLayer,
        route::{MatchRoute, Matched},
    },
    policy::{self, Permit},
    principal::Principal,
    route::{Route, RouteKey},
    rules::{policy_only, scopes},
    scope::all_of,
    testing::TestIssuer,
    token::Verifier,
};
use tower::{Layer, ServiceExt as _, service_fn, util::BoxCloneService};

use crate::support::{self, AUDIENCE, BySubject, Counter, Log, alice, get_with};

/// Calls everything `/jobs`.
#[derive(Clone)]
struct OnlyJobs;

impl MatchRoute for OnlyJobs {
    fn match_route(&self, parts: &mut Parts) -> Option<Matched> {
        Some(Matched::new(RouteKey::Http { method: parts.method.clone(), template: "/jobs".into() }))
    }
}

type Boxed = BoxCloneService<Request, Response, Infallible>;

fn handler(handled: &Counter) -> Boxed {
    let handled = handled.clone();
    BoxCloneService::new(service_fn(move |_: Request| {
        handled.count();
        async { Ok::<_, Infallible>(Response::new(Body::from("in"))) }
    }))
}

fn wrap<L>(layer: L, inner: Boxed) -> Boxed
where
    L: Layer<Boxed>,
    L::Service: tower::Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    <L::Service as tower::Service<Request>>::Future: Send,
{
    BoxCloneService::new(layer.layer(inner))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Route,
    Authenticate,
    Scope,
    Policy,
}

struct Gates {
    verifier: Verifier,
    rules: portcullis::rules::RuleTable,
}

impl Gates {
    fn new(idp: &TestIssuer, rules: Rules) -> Self {
        let issuer = Issuer::rfc9068(idp.url(), AUDIENCE).with_keys(idp.key_set());
        Self { verifier: Verifier::builder(issuer).build().unwrap(), rules: rules.into_table().unwrap() }
    }

    fn wrap(&self, gate: Gate, inner: Boxed) -> Boxed {
        match gate {
            Gate::Route => wrap(portcullis::layer::route::RouteLayer::new(self.rules.clone(), OnlyJobs), inner),
            Gate::Authenticate => wrap(AuthenticateLayer::new(self.verifier.clone()), inner),
            Gate::Scope => wrap(RequireScopeLayer::from_rules(), inner),
            Gate::Policy => wrap(AuthorizeLayer::new(Arc::new(BySubject::new())), inner),
        }
    }

    /// `order` is outermost first.
    fn stack(&self, order: &[Gate], handled: &Counter) -> Boxed {
        order.iter().rev().fold(handler(handled), |inner, gate| self.wrap(*gate, inner))
    }
}

/// Every order of every subset.
fn orders() -> Vec<Vec<Gate>> {
    let gates = [Gate::Route, Gate::Authenticate, Gate::Scope, Gate::Policy];
    let mut orders = vec![vec![]];
    let mut from = 0;
    while from < orders.len() {
        for gate in gates {
            if !orders[from].contains(&gate) {
                let longer = orders[from].iter().copied().chain([gate]).collect();
                orders.push(longer);
            }
        }
        from += 1;
    }
    orders
}

#[tokio::test]
async fn a_gate_without_its_predecessors_refuses_everybody_and_tells_the_operator() {
    let log = Log::default();
    let _kept = log.keep();
    let idp = TestIssuer::start().await;
    let gates = Gates::new(&idp, Rules::new().get("/jobs", scopes(all_of(["jobs:read"]))));
    let good = alice(&idp).mint().bearer();
    let bad = [
        None,
        Some(alice(&idp).expired().mint().bearer()),
        Some(alice(&idp).subject("denied").scope("none").mint().bearer()),
    ];
    let (mut passes, mut tried) = (Vec::new(), 0);
    for order in orders() {
        let place = |gate| order.iter().position(|other| *other == gate);
        let (route, authenticate, scope, policy) =
            (place(Gate::Route), place(Gate::Authenticate), place(Gate::Scope), place(Gate::Policy));
        let handled = Counter::default();
        let memory = Memory::new();
        let audit = Audit::start(Arc::new(memory.clone()), Mode::Deny).unwrap();
        let service = AuditLayer::new(audit.clone()).layer(gates.stack(&order, &handled));
        let status = async |bearer: Option<&str>| {
            let request = bearer.map_or_else(|| support::get("/jobs"), |bearer| get_with("/jobs", bearer));
            let response = service.clone().oneshot(request).await.unwrap();
            (response.status().as_u16(), response.extensions().get::<Denial>().map(Denial::class))
        };
        let (answer, denial) = status(Some(&good)).await;
        tried += 1;
        // Each gate that decides demands what stands in the request before it.
        let misplaced = [scope, policy].iter().flatten().any(|gate| {
            !(authenticate < Some(*gate) && authenticate.is_some() && route < Some(*gate) && route.is_some())
        });
        if misplaced {
            assert_eq!((answer, denial, handled.total()), (500, Some(Class::Internal), 0), "{order:?}");
            audit.flush(support::PATIENCE).await.unwrap();
            let reason = memory.records().pop().unwrap().reason.unwrap();
            assert!(reason.starts_with("layer_missing_"), "{order:?}: {reason}");
        } else {
            assert_eq!((answer, handled.total()), (200, 1), "{order:?}");
            passes.push(order.clone());
        }
        // With the authenticating gate anywhere, nobody without a good token gets through.
        if authenticate.is_some() {
            for bearer in bad.iter().take(2) {
                assert!(status(bearer.as_deref()).await.0 >= 400, "{order:?}");
            }
            assert_eq!(handled.total(), usize::from(!misplaced), "{order:?}");
        }
        if scope.is_some() || policy.is_some() {
            for bearer in &bad {
                assert!(status(bearer.as_deref()).await.0 >= 400, "{order:?}");
            }
        }
    }
    assert_eq!(tried, 65);
    let whole: Vec<_> = passes.iter().filter(|order| order.len() == 4).collect();
    // Route and Authenticate may be swapped (a token is then always demanded), and so may Scope and Policy.
    assert_eq!(whole.len(), 4, "{whole:?}");
    let log = log.text();
    assert!(
        log.contains("put `AuthenticateLayer` further outside") && log.contains("put `RouteLayer` further outside"),
        "{log}"
    );
}

#[tokio::test]
async fn each_layer_works_alone_around_any_service() {
    let idp = TestIssuer::start().await;
    let gates = Gates::new(&idp, Rules::new().get("/jobs", policy_only()));
    let good = alice(&idp).mint().bearer();

    let inner = service_fn(async |request: http::Request<String>| {
        let who = request.extensions().get::<Principal>().unwrap().subject().unwrap().to_string();
        Ok::<_, Infallible>(http::Response::new(who))
    });
    let authenticated = AuthenticateLayer::new(gates.verifier.clone()).layer(inner);
    let request = |bearer: Option<&str>| {
        let request = http::Request::get("/anything");
        bearer
            .into_iter()
            .fold(request, |request, bearer| request.header("authorization", bearer))
            .body(String::new())
            .unwrap()
    };
    assert_eq!(authenticated.clone().oneshot(request(Some(&good))).await.unwrap().body(), "auth0|alice");
    let refused = authenticated.oneshot(request(None)).await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.body().as_str()), (401, ""));
    assert_eq!(
        refused.extensions().get::<Denial>().unwrap().class(),
        Class::Unauthenticated { credentials_sent: false }
    );

    let plain = || {
        service_fn(async |request: http::Request<String>| {
            Ok::<_, Infallible>(http::Response::new(format!("{}", request.extensions().get::<Permit>().is_some())))
        })
    };
    let scoped = |word: &'static str| {
        AuthenticateLayer::new(gates.verifier.clone())
            .layer(RequireScopeLayer::new(all_of([word]).unwrap()).layer(plain()))
    };
    assert_eq!(scoped("jobs:read").oneshot(request(Some(&good))).await.unwrap().status(), 200);
    assert_eq!(scoped("jobs:write").oneshot(request(Some(&good))).await.unwrap().status(), 403);

    let authorized = AuthenticateLayer::new(gates.verifier.clone())
        .layer(AuthorizeLayer::new(Arc::new(policy::dangerous_allow_all())).layer(plain()));
    let mut routed = request(Some(&good));
    routed
        .extensions_mut()
        .insert(Route::matched(&gates.rules, RouteKey::Http { method: Method::GET, template: "/jobs".into() }));
    assert_eq!(authorized.clone().oneshot(routed).await.unwrap().body(), "true");
    assert_eq!(authorized.oneshot(request(Some(&good))).await.unwrap().status(), 500);
}

#[tokio::test]
async fn a_denial_layer_renders_what_a_gate_refuses_also_without_an_audit_layer() {
    let idp = TestIssuer::start().await;
    let gates = Gates::new(&idp, Rules::new().get("/jobs", policy_only()));
    let handled = Counter::default();
    let service = DenialLayer::api("jobs").unwrap().layer(gates.stack(&[Gate::Route, Gate::Authenticate], &handled));
    let response = service.oneshot(support::get("/jobs")).await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], r#"Bearer realm="jobs""#);
    assert_eq!(response.headers()["x-request-id"].len(), 32);
}
