//! What handlers and methods read of the caller.

use std::time::Duration;

use axum::{
    Json, Router,
    body::Body,
    extract::Request,
    routing::{get, post},
};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    principal::Principal,
    rules::{Access, optional, policy_only, public, scopes},
    scope::all_of,
    testing::TestIssuer,
    token::{Claims, VerifiedToken},
};
use serde_json::json;
use tonic::service::Routes;

use super::guard;
use crate::support::{
    self, AUDIENCE, BySubject, Counter, Department, GrpcService, Host, Log, alice, get_with, records, send,
};

fn extracting() -> Router {
    Router::new()
        .route("/principal", get(async |caller: Principal| format!("{:?}", caller.subject().map(ToString::to_string))))
        .route("/token", get(async |token: VerifiedToken| token.token_id().unwrap().to_string()))
        .route("/claims", get(async |Claims(claims): Claims<Department>| claims.department))
        .route(
            "/maybe",
            get(async |caller: Option<Principal>| {
                caller.map_or_else(|| "nobody".to_owned(), |caller| caller.subject().unwrap().to_string())
            }),
        )
        .route("/maybe-token", get(async |token: Option<VerifiedToken>| token.is_some().to_string()))
        .route(
            "/body",
            post(async |caller: Principal, Json(job): Json<serde_json::Value>| {
                format!("{} {}", caller.subject().unwrap(), job["title"])
            }),
        )
}

const EXTRACTING: [&str; 5] = ["/principal", "/token", "/claims", "/maybe", "/maybe-token"];

#[tokio::test]
async fn handlers_read_the_caller_with_extractors() {
    let idp = TestIssuer::start().await;
    let rules = EXTRACTING
        .into_iter()
        .fold(Rules::new(), |rules, path| rules.get(path, optional()))
        .post("/body", policy_only());
    let (_, _, service) = guard(&idp, rules, extracting()).await;
    let token = || alice(&idp).claim("jti", "token-1").claim("department", "doors");
    let bearer = token().mint().bearer();
    let cases = [
        ("/principal", r#"Some("auth0|alice")"#),
        ("/token", "token-1"),
        ("/claims", "doors"),
        ("/maybe", "auth0|alice"),
        ("/maybe-token", "true"),
    ];
    for (path, body) in cases {
        let response = send(service.clone(), get_with(path, &bearer)).await;
        assert_eq!((response.status().as_u16(), response.body().as_str()), (200, body), "{path}");
    }
    let request = Request::post("/body")
        .header("authorization", &bearer)
        .header("content-type", "application/json")
        .body(Body::from(r#"{"title":"Oil"}"#))
        .unwrap();
    assert_eq!(send(service.clone(), request).await.body(), r#"auth0|alice "Oil""#);
    // Claims of another shape are refused, and nothing of them is told.
    let odd = token().claim("department", 7).mint().bearer();
    let response = send(service.clone(), get_with("/claims", &odd)).await;
    assert_eq!((response.status().as_u16(), response.body().contains("department")), (403, false));
    // The anonymous caller of an `optional` route: known as such, without a token.
    let cases = [
        ("/principal", 200, "None"),
        ("/maybe", 200, "nobody"),
        ("/maybe-token", 200, "false"),
        ("/token", 500, ""),
        ("/claims", 500, ""),
    ];
    for (path, status, body) in cases {
        let response = send(service.clone(), support::get(path)).await;
        assert_eq!(response.status(), status, "{path}");
        assert!(status != 200 || response.body() == body, "{path}: {}", response.body());
    }
}

#[tokio::test]
async fn an_extractor_without_its_layer_is_an_internal_error_and_never_a_pass() {
    let log = Log::default();
    let _kept = log.keep();
    let idp = TestIssuer::start().await;
    for path in EXTRACTING {
        let response = send(extracting(), get_with(path, &alice(&idp).mint().bearer())).await;
        assert_eq!((response.status().as_u16(), response.body().as_str()), (500, ""), "{path}");
    }
    assert_eq!(log.text().matches("no `AuthenticateLayer` stands around it").count(), EXTRACTING.len());

    // A public route has no caller either: asking for one there is the same mistake, asking for an `Option` is not.
    let rules = EXTRACTING.into_iter().fold(Rules::new(), |rules, path| rules.get(path, public("test")));
    let (_, _, service) = guard(&idp, rules, extracting()).await;
    let cases = [("/principal", 500), ("/token", 500), ("/claims", 500), ("/maybe", 200), ("/maybe-token", 200)];
    for (path, status) in cases {
        assert_eq!(
            send(service.clone(), get_with(path, &alice(&idp).mint().bearer())).await.status(),
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn grpc_methods_read_the_caller_and_are_denied_without_a_rule() {
    let idp = TestIssuer::start().await;
    let (memory, handled) = (Memory::new(), Counter::default());
    let rules =
        Rules::new().grpc("jobs.v1.Jobs/List", scopes(all_of(["jobs:read"]))).grpc("jobs.v1.Jobs/Browse", optional());
    let stack =
        Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules, BySubject::new(), memory.clone()).build().unwrap();
    let host =
        Host::tonic(portcullis::tonic::protect(Routes::new(GrpcService::new(handled.clone())), stack.clone())).await;
    let channel = support::channel(host.address).await;
    let bearer = alice(&idp).claim("jti", "token-1").mint().bearer();
    let call = |method: &'static str, bearer: Option<&str>| {
        let (channel, bearer) = (channel.clone(), bearer.map(str::to_owned));
        async move { support::unary(channel, &format!("/jobs.v1.Jobs/{method}"), bearer.as_deref()).await }
    };
    assert_eq!(call("List", Some(&bearer)).await.unwrap(), "auth0|alice token-1");
    assert_eq!(call("Browse", None).await.unwrap(), "nobody Internal");
    assert_eq!(call("List", None).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    assert_eq!(call("Purge", Some(&bearer)).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    assert_eq!(handled.total(), 2);

    let records = support::within("the records", async {
        loop {
            let all = records(&stack, &memory).await;
            if all.iter().filter(|record| record["kind"] == "request").count() == 4 {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let requests: Vec<_> = records.iter().filter(|record| record["kind"] == "request").collect();
    let list = requests.iter().find(|record| record["jti"] == "token-1" && record["decision"] == "allow").unwrap();
    assert_eq!((&list["route"]["template"], &list["method"]), (&json!("jobs.v1.Jobs/List"), &json!("POST")));
    assert!(list["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{list}");
    let purge = requests.iter().find(|record| record["reason"] == "rule_missing").unwrap();
    assert_eq!((&purge["answered"]["http"], &purge["sent"]), (&json!(403), &json!({"http": 200, "grpc": 7})));
}

#[tokio::test]
async fn grpc_methods_ask_for_claims_and_for_a_caller_that_may_be_missing() {
    let log = Log::default();
    let _kept = log.keep();
    let idp = TestIssuer::start().await;
    let token = || alice(&idp).claim("jti", "token-1");
    let alice = token().claim("department", "doors").mint().bearer();
    let odd = token().claim("department", 7).mint().bearer();
    let (internal, denied) = (Err(tonic::Code::Internal), Err(tonic::Code::PermissionDenied));
    type Row<'a> = (&'a str, Option<&'a str>, Result<&'a str, tonic::Code>);
    let on_optional: &[Row<'_>] = &[
        ("Caller", Some(&alice), Ok("auth0|alice")),
        ("Caller", None, Ok("nobody")),
        ("Department", Some(&alice), Ok("doors")),
        ("Department", Some(&odd), denied),
        ("Department", None, internal),
    ];
    // Nobody looks at credentials there.
    let on_public: &[Row<'_>] = &[
        ("Caller", Some(&alice), Ok("nobody")),
        ("Caller", None, Ok("nobody")),
        ("Department", Some(&alice), internal),
        ("List", Some(&alice), internal),
    ];
    for (rule, rows) in [(optional as fn() -> Access, on_optional), (|| public("test"), on_public)] {
        let rules =
            METHODS.into_iter().fold(Rules::new(), |rules, name| rules.grpc(format!("jobs.v1.Jobs/{name}"), rule()));
        let issuer = Issuer::rfc9068(idp.url(), AUDIENCE);
        let stack = Stack::builder(issuer, rules, BySubject::new(), Memory::new()).build().unwrap();
        let routes = Routes::new(GrpcService::new(Counter::default()));
        let host = Host::tonic(portcullis::tonic::protect(routes, stack)).await;
        let channel = support::channel(host.address).await;
        for (method, bearer, expected) in rows {
            let answer = support::unary(channel.clone(), &format!("/jobs.v1.Jobs/{method}"), *bearer).await;
            if let Err(status) = &answer {
                assert_eq!(status.message(), "", "{:?} {method}", rule());
            }
            let answer = answer.as_deref().map_err(tonic::Status::code);
            assert_eq!(answer, *expected, "{:?} {method}, with a token: {}", rule(), bearer.is_some());
        }
    }
    assert_eq!(log.text().matches("do not fit the method's type").count(), 1);
}

const METHODS: [&str; 3] = ["Caller", "Department", "List"];

#[tokio::test]
async fn a_grpc_method_without_its_layer_answers_internal() {
    let handled = Counter::default();
    let (listener, address) = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tokio::spawn(
        tonic::transport::Server::builder().add_service(GrpcService::new(handled)).serve_with_incoming(incoming),
    );
    let channel = support::channel(address).await;
    for method in METHODS {
        let status = support::unary(channel.clone(), &format!("/jobs.v1.Jobs/{method}"), None).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::Internal, ""), "{method}");
    }
    server.abort();
}
