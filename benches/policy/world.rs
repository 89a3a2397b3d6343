//! The policy, its data, and the questions.

use std::{fs, io::Read as _, path::Path, process::Command, sync::Arc};

use axum::{Router, body::Body, routing::get};
use http::{Method, Request, StatusCode, header::AUTHORIZATION};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    key::Algorithm,
    policy::{CompiledPolicy, PolicyInput, PolicySet},
    rules::scopes,
    scope::any_of,
    testing::{Answer, StubBackend, TestIssuer},
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const POLICY: &str = include_str!("authz.rego");

/// So many subjects with roles, and what some of them ask.
pub(crate) struct World {
    data: Value,
    inputs: Vec<PolicyInput>,
}

impl World {
    pub(crate) fn new(subjects: usize) -> Self {
        let callers: serde_json::Map<_, _> = (0..subjects)
            .map(|number| {
                let (own, other) = (tenant(number), tenant(number + 1));
                let roles = json!([{"tenant": other, "role": "viewer"}, {"tenant": own, "role": "editor"}]);
                (subject(number), json!({"tenants": {own: true, other: true}, "roles": roles}))
            })
            .collect();
        let routes: serde_json::Map<_, _> = THINGS
            .iter()
            .flat_map(|thing| {
                let collection = format!("/v1/{{tenant}}/{thing}");
                let one = format!("{collection}/{{id}}");
                [("GET", &collection, false), ("GET", &one, false), ("PUT", &one, true)].map(
                    |(method, path, writes)| {
                        let scope = format!("{thing}:{}", if writes { "write" } else { "read" });
                        let roles: &[_] = if writes { &["editor"] } else { &["editor", "viewer"] };
                        let rule = json!({"scope": scope, "writes": writes, "roles": roles});
                        (format!("{method} {path}"), rule)
                    },
                )
            })
            .collect();
        Self { data: json!({"subjects": callers, "routes": routes}), inputs: questions(subjects) }
    }

    /// Of each effect some.
    pub(crate) fn inputs(&self) -> &[PolicyInput] {
        &self.inputs
    }

    pub(crate) fn data(&self) -> &Value {
        &self.data
    }

    /// The same policy as the server's own compiler makes it.
    pub(crate) fn compiled(&self, opa: &Path) -> CompiledPolicy {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        fs::write(file("authz.rego"), POLICY).expect("a file");
        let built = Command::new(opa)
            .current_dir(&directory)
            .args(["build", "--target", "wasm", "--entrypoint", "authz/decision", "authz.rego"])
            .status();
        assert!(built.is_ok_and(|status| status.success()), "the policy does not compile");
        let bundle = fs::read(file("bundle.tar.gz")).expect("a bundle");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&*bundle));
        let mut module = Vec::new();
        let mut entries = archive.entries().expect("an archive").map(|entry| entry.expect("an entry"));
        let mut entry = entries
            .find(|entry| entry.path().is_ok_and(|path| path.ends_with("policy.wasm")))
            .expect("the module is in the bundle");
        entry.read_to_end(&mut module).expect("it can be read");
        CompiledPolicy::new(module).add_data(&self.data).with_revision("bench-1")
    }

    pub(crate) fn policy_set(&self) -> PolicySet {
        PolicySet::new().with_revision("bench-1").add_source("authz.rego", POLICY).add_data(&self.data)
    }
}

/// What the gate asks about requests of several callers: one lacks the scope, one the role, and the others are allowed.
fn questions(subjects: usize) -> Vec<PolicyInput> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let idp = TestIssuer::start().await;
        let issuer = Issuer::rfc9068(idp.url(), TestIssuer::AUDIENCE)
            .with_keys(idp.key_set())
            .with_algorithms([Algorithm::Es256]);
        let rules = Rules::new()
            .get(ORDER, scopes(any_of(["orders:read", "invoices:read"])))
            .put(ORDER, scopes(any_of(["orders:write"])));
        let seen = Arc::new(StubBackend::new(Answer::Allow));
        let stack = Stack::builder(issuer, rules, Arc::clone(&seen), Memory::new()).build().expect("a stack");
        let order = || async {};
        let router = portcullis::axum::protect(Router::new().route(ORDER, get(order).put(order)), stack);
        for number in 0..QUESTIONS {
            let caller = number * (subjects / QUESTIONS).max(1) % subjects;
            let scope = if number == 2 { "invoices:read" } else { "orders:read orders:write" };
            let token = idp.token().algorithm(Algorithm::Es256).subject(&subject(caller)).scope(scope).mint();
            let method = if number % 2 == 0 { Method::GET } else { Method::PUT };
            let tenant = tenant(if number == 5 { caller + 1 } else { caller });
            let request = Request::builder()
                .method(method)
                .uri(format!("https://api.example/v1/{tenant}/orders/42"))
                .header(AUTHORIZATION, token.bearer())
                .body(Body::empty())
                .expect("a request");
            let response = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
            assert_eq!(response.status(), StatusCode::OK);
        }
        seen.inputs()
    })
}

fn subject(number: usize) -> String {
    format!("auth0|{number:024x}")
}

fn tenant(number: usize) -> String {
    format!("tenant-{}", number % 50)
}

const ORDER: &str = "/v1/{tenant}/orders/{id}";
pub(crate) const ALLOWED: usize = 6;
const QUESTIONS: usize = 8;
const THINGS: [&str; 4] = ["orders", "invoices", "customers", "reports"];
