//! Whole stacks around routers of every shape: what is matched is what is guarded.

use std::sync::Arc;

use axum::{Router, body::Body, extract::Request, routing::get};
use portcullis::{
    Rules,
    axum::RouteLayer,
    policy::Permit,
    principal::Principal,
    route::Route,
    rules::{optional, policy_only},
    testing::TestIssuer,
    token::VerifiedToken,
};
use serde_json::json;

use super::{counted, guard};
use crate::{
    support::{self, Counter, Host, alice, get_with, records, send},
    wire::{self, Ask},
};

#[tokio::test]
async fn a_fallback_is_never_called() {
    let idp = TestIssuer::start().await;
    let (routed, fallback) = (Counter::default(), Counter::default());
    let router = Router::new()
        .route("/jobs", get(async || "jobs"))
        .nest("/api", Router::new().route("/jobs", counted(&routed)).fallback_service(counted(&fallback)))
        .method_not_allowed_fallback({
            let fallback = fallback.clone();
            async move || fallback.count()
        })
        .fallback_service(counted(&fallback));
    let rules = Rules::new().get("/jobs", policy_only()).get("/api/jobs", policy_only());
    let (_, _, service) = guard(&idp, rules, router).await;
    let bearer = alice(&idp).mint().bearer();
    for (method, path) in [
        ("GET", "/no-such-route"),
        ("POST", "/api/nothing"),
        ("DELETE", "/jobs"),
        ("OPTIONS", "/api/jobs"),
        ("GET", "/jobs/"),
        ("GET", "//jobs"),
    ] {
        let request = |bearer: Option<&str>| {
            let request = Request::builder().method(method).uri(path);
            bearer
                .into_iter()
                .fold(request, |request, bearer| request.header("authorization", bearer))
                .body(Body::empty())
                .unwrap()
        };
        assert_eq!(send(service.clone(), request(None)).await.status(), 401, "{method} {path}");
        assert_eq!(send(service.clone(), request(Some(&bearer))).await.status(), 403, "{method} {path}");
    }
    assert_eq!((routed.total(), fallback.total()), (0, 0));
    assert_eq!(send(service, get_with("/api/jobs", &bearer)).await.status(), 200);
}

#[tokio::test]
async fn nested_and_merged_routes_keep_their_full_template_and_service_tails_have_none() {
    let idp = TestIssuer::start().await;
    let (served, tail) = (Counter::default(), Counter::default());
    let deep = Router::new().route("/{id}", counted(&served)).route("/", counted(&served));
    let router = Router::new()
        .nest("/api", Router::new().nest("/v1/jobs", deep))
        .merge(Router::new().route("/merged", counted(&served)))
        .route("/files/{*path}", counted(&served))
        .route_service("/service", counted(&served))
        .nest_service("/tail", Router::new().route("/jobs", counted(&tail)))
        .nest_service("/bare", counted(&tail));
    let rules = Rules::new()
        .get("/api/v1/jobs/{id}", policy_only())
        .get("/merged", policy_only())
        .get("/files/{*path}", policy_only())
        .get("/service", policy_only())
        // Rows that look right for the tails change nothing: gates there know no template that names what will be called.
        .get("/jobs", policy_only())
        .get("/tail/jobs", policy_only());
    let (stack, memory, service) = guard(&idp, rules, router).await;
    let bearer = alice(&idp).mint().bearer();
    let cases = [
        ("/api/v1/jobs/7", 200, "/api/v1/jobs/{id}"),
        ("/merged", 200, "/merged"),
        ("/files/a/b", 200, "/files/{*path}"),
        ("/service", 200, "/service"),
        ("/api/v1/jobs", 403, "/api/v1/jobs"),
        ("/api/v1/jobs/", 403, ""),
        ("/tail/jobs", 403, ""),
        ("/tail/nothing", 403, ""),
        ("/bare/jobs", 403, ""),
    ];
    for (number, (path, status, template)) in cases.into_iter().enumerate() {
        assert_eq!(send(service.clone(), get_with(path, &bearer)).await.status(), status, "{path}");
        let record = records(&stack, &memory).await.remove(number);
        if !template.is_empty() {
            assert_eq!(record["route"]["template"], template, "{path}");
        }
    }
    assert_eq!((served.total(), tail.total()), (4, 0));
}

#[tokio::test]
async fn a_protected_router_stands_inside_of_another_router() {
    let idp = TestIssuer::start().await;
    let rules = || Rules::new().get("/jobs/{id}", policy_only());
    let (stack, memory, service) = guard(&idp, rules(), Router::new().route("/jobs/{id}", get(async || "in"))).await;
    let bearer = alice(&idp).mint().bearer();
    let outer = [
        ("fallback_service", Router::new().fallback_service(service.clone()), "/jobs/7"),
        ("route_service", Router::new().route_service("/jobs/{whatever}", service.clone()), "/jobs/7"),
    ];
    for (name, outer, path) in outer {
        assert_eq!(send(outer.clone(), get_with(path, &bearer)).await.status(), 200, "{name}");
        assert_eq!(send(outer, support::get(path)).await.status(), 401, "{name}");
    }
    for record in records(&stack, &memory).await {
        assert_eq!(record["route"]["template"], "/jobs/{id}");
    }
    // axum names what it matched in full: under an outer `nest_service` a row without the outer part is no row.
    let nested = Router::new().nest_service("/outer/{tenant}", service);
    assert_eq!(send(nested, get_with("/outer/acme/jobs/7", &bearer)).await.status(), 403);
    let rules = Rules::new().get("/outer/{tenant}/jobs/{id}", policy_only());
    let (_, _, service) = guard(&idp, rules, Router::new().route("/jobs/{id}", get(async || "in"))).await;
    let nested = Router::new().nest_service("/outer/{tenant}", service);
    assert_eq!(send(nested.clone(), get_with("/outer/acme/jobs/7", &bearer)).await.status(), 200);
    assert_eq!(send(nested, support::get("/outer/acme/jobs/7")).await.status(), 401);
}

#[tokio::test]
async fn the_record_knows_the_peer_only_when_the_server_tells_it() {
    let idp = TestIssuer::start().await;
    let (stack, memory, service) =
        guard(&idp, Rules::new().get("/jobs", policy_only()), Router::new().route("/jobs", get(async || "in"))).await;
    let token = alice(&idp).mint();
    let ask = || {
        Ask::get("/jobs")
            .bearer(token.as_str())
            .header("x-forwarded-for", "203.0.113.9")
            .header("forwarded", "for=203.0.113.9")
    };
    let told = Host::axum(service.clone()).await;
    assert_eq!(wire::http1(told.address, &ask()).await.status, 200);
    let untold = Host::roomy(service).await;
    assert_eq!(wire::http1(untold.address, &ask()).await.status, 200);
    let records = records(&stack, &memory).await;
    assert!(records[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(records[1]["peer"].is_null());
    assert!(!json!(records).to_string().contains("203.0.113.9"));
}

#[tokio::test]
async fn the_route_layer_alone_inside_a_router_writes_what_axum_matched() {
    let rules = Rules::new().get("/jobs/{id}", policy_only()).into_table().unwrap();
    let show = get(async |request: Request| {
        let route = request.extensions().get::<Route>().unwrap();
        format!("{} {:?} {:?}", route.key().unwrap(), route.params(), route.path())
    });
    let router = Router::new().route("/jobs/{id}", show).layer(RouteLayer::new(rules, portcullis::axum::AxumRouter));
    let response = send(router, support::get("/jobs/a%20b")).await;
    assert_eq!(response.body(), r#"GET  /jobs/{id} [("id", "a b")] ["jobs", "a b"]"#);
}

#[tokio::test]
async fn what_an_outer_layer_put_into_the_request_proves_nothing() {
    let idp = TestIssuer::start().await;
    // A `Principal` and a `Permit` of a real request, smuggled into another one.
    let stolen = Arc::new(std::sync::Mutex::new(None));
    let keep = Arc::clone(&stolen);
    let rules = || Rules::new().get("/jobs", policy_only()).get("/catalogue", optional());
    let thief = Router::new().route(
        "/jobs",
        get(async move |request: Request| {
            let extensions = request.extensions();
            *keep.lock().unwrap() = Some((
                extensions.get::<Principal>().unwrap().clone(),
                extensions.get::<Permit>().unwrap().clone(),
                extensions.get::<VerifiedToken>().unwrap().clone(),
                extensions.get::<Route>().unwrap().clone(),
            ));
        }),
    );
    let (_, _, service) = guard(&idp, rules(), thief).await;
    assert_eq!(send(service, get_with("/jobs", &alice(&idp).mint().bearer())).await.status(), 200);
    let (principal, permit, token, route) = stolen.lock().unwrap().take().unwrap();

    let seen = get(async |caller: Option<Principal>| format!("{}", caller.is_some()));
    let (_, _, service) = guard(
        &idp,
        rules(),
        Router::new().route("/jobs", seen.clone()).route("/catalogue", seen).route("/forgotten", get(async || "in")),
    )
    .await;
    let smuggle = |mut request: Request| {
        request.extensions_mut().insert(principal.clone());
        request.extensions_mut().insert(permit.clone());
        request.extensions_mut().insert(token.clone());
        request.extensions_mut().insert(route.clone());
        request
    };
    assert_eq!(send(service.clone(), smuggle(support::get("/jobs"))).await.status(), 401);
    assert_eq!(send(service.clone(), smuggle(support::get("/catalogue"))).await.body(), "false");
    let denied = alice(&idp).subject("denied").mint().bearer();
    assert_eq!(send(service.clone(), smuggle(get_with("/jobs", &denied))).await.status(), 403);
    assert_eq!(send(service, smuggle(get_with("/forgotten", &alice(&idp).mint().bearer()))).await.status(), 403);
}
