//! The examples' services and rules, so that they cannot rot. `.ci/run` takes the tours.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    policy::{PolicyBackend, Rego},
    testing::{TestIssuer, TokenBuilder},
};
use tonic::service::Routes;

use crate::support::{self, Host, send, unary};

#[path = "../../examples/story/grpc.rs"]
mod grpc;
#[path = "../../examples/story/mod.rs"]
mod story;

/// The default of 10 ms is for builds with optimisation.
const PATIENT_LIMIT: Duration = Duration::from_secs(1);

fn policy() -> Arc<dyn PolicyBackend> {
    let policy = Rego::builder().add_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policy")).unwrap();
    Arc::new(policy.with_time_limit(PATIENT_LIMIT).build().unwrap())
}

/// Those of the tour who may do something.
fn callers(idp: &TestIssuer) -> [String; 3] {
    let token = || idp.token().audience(story::AUDIENCE);
    let bearer = |token: TokenBuilder| token.mint().bearer();
    [
        bearer(token().subject("auth0|alice").client("web").scope("jobs:read jobs:write")),
        bearer(token().machine("scheduler").scope("jobs:read jobs:write")),
        bearer(token().subject("auth0|root").client("web").scope("reports:read")),
    ]
}

/// Method and path of each row, with parameters filled in.
fn rows(rules: &Rules) -> Vec<(String, String)> {
    let text = rules.to_string();
    let row = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap().replace("{id}", "1"))
    };
    text.lines().map(row).collect()
}

#[tokio::test]
async fn every_row_of_the_story_is_served_to_somebody() {
    let idp = TestIssuer::start().await;
    let served: [(Rules, Rules, Router); 2] = [
        (story::api_rules(), story::api_rules(), story::api()),
        (story::page_rules(), story::page_rules(), story::page()),
    ];
    for (shown, rules, router) in served {
        let stack = Stack::builder(Issuer::rfc9068(idp.url(), story::AUDIENCE), rules, policy(), Memory::new())
            .build()
            .unwrap();
        let service = protect(router, stack);
        for (method, path) in rows(&shown) {
            let mut statuses = Vec::new();
            for bearer in callers(&idp) {
                let request = Request::builder()
                    .method(method.as_str())
                    .uri(&path)
                    .header("authorization", bearer)
                    .header("content-type", "application/json")
                    .body(Body::from(r#"{"title":"Oil the hinges"}"#))
                    .unwrap();
                statuses.push(send(service.clone(), request).await.status().as_u16());
            }
            assert!(statuses.iter().any(|status| (200..300).contains(status)), "{method} {path}: {statuses:?}");
        }
    }
}

#[tokio::test]
async fn the_story_over_grpc_is_served_by_its_rules() {
    use portcullis::{rules::scopes, scope::all_of};
    let idp = TestIssuer::start().await;
    let rules = Rules::new()
        .grpc("jobs.v1.Jobs/List", scopes(all_of(["jobs:read"])))
        .grpc("jobs.v1.Jobs/Create", scopes(all_of(["jobs:write"])));
    let stack =
        Stack::builder(Issuer::rfc9068(idp.url(), story::AUDIENCE), rules, policy(), Memory::new()).build().unwrap();
    let host = Host::tonic(portcullis::tonic::protect(Routes::new(grpc::Jobs), stack)).await;
    let channel = support::channel(host.address).await;
    let [alice, ..] = callers(&idp);
    for (method, served) in [("List", true), ("Create", true), ("Purge", false), ("Nothing", false)] {
        let answer = unary(channel.clone(), &format!("/jobs.v1.Jobs/{method}"), Some(&alice)).await;
        // The messages of the story are not strings: a decoding error on our side is an answer of the method all the same.
        let denied = answer.err().is_some_and(|status| status.code() == tonic::Code::PermissionDenied);
        assert_eq!(denied, !served, "{method}");
    }
}
