//! What has gone wrong elsewhere, tried on us: each test is named after its number in `src/guide/attacks.md`.
//!
//! Each looks at both sides of the gate (the answer, and the audit record) and at what ran behind it. Handlers are called what
//! the router calls their route, so "rule and handler agree" is one comparison, made for every request that any test sends.

mod edge;
mod forge;
mod raw_h2;
mod section_1;
mod section_2;
// Called so that the filter `keys` finds it as well.
#[path = "section_3.rs"]
mod section_3_keys;
mod section_4;
mod section_5;
mod section_6;
mod section_7;
mod section_9;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Debug,
    future::{Ready, ready},
    path::Path,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    response::IntoResponse,
    routing::{MethodRouter, any},
};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    layer::StackBuilder,
    policy::{self, PolicyBackend},
    rules::{public, scopes},
    scope::all_of,
    testing::{TestIssuer, TestToken},
};
use serde_json::Value;
use tokio::time::timeout;
use tonic::{server::NamedService, service::Routes};

use crate::{
    support::{AUDIENCE, Host, PATIENCE},
    wire,
};

/// What ran behind the gate, in order: the names of handlers.
#[derive(Clone, Debug, Default)]
struct Ran(Arc<Mutex<Vec<String>>>);

impl Ran {
    fn note(&self, name: &str) {
        self.0.lock().unwrap().push(name.to_owned());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// A handler for every method, which notes its name.
    fn handler<S: Clone + Send + Sync + 'static>(&self, name: &str) -> MethodRouter<S> {
        let (ran, name) = (self.clone(), name.to_owned());
        any(async move || {
            ran.note(&name);
            name
        })
    }

    /// A router with a handler at each template, which is its name.
    fn router<const N: usize>(&self, templates: [&str; N]) -> Router {
        templates.into_iter().fold(Router::new(), |router, template| router.route(template, self.handler(template)))
    }
}

/// A guarded service on a real socket.
struct Guarded {
    host: Host,
    idp: TestIssuer,
    stack: Stack,
    records: Memory,
    ran: Ran,
}

impl Guarded {
    async fn axum(rules: Rules, router: impl FnOnce(&Ran) -> Router) -> Self {
        Self::axum_asking(policy::dangerous_allow_all(), rules, router).await
    }

    async fn axum_asking(policy: impl PolicyBackend, rules: Rules, router: impl FnOnce(&Ran) -> Router) -> Self {
        Self::axum_built(policy, rules, |builder| builder, router).await
    }

    async fn axum_built(
        policy: impl PolicyBackend,
        rules: Rules,
        configure: impl FnOnce(StackBuilder) -> StackBuilder,
        router: impl FnOnce(&Ran) -> Router,
    ) -> Self {
        let (idp, records, ran) = (TestIssuer::start().await, Memory::new(), Ran::default());
        let builder = Stack::builder(issuer(&idp), rules, policy, records.clone());
        let stack = configure(builder).build().unwrap();
        let host = Host::axum(portcullis::axum::protect(router(&ran), stack.clone())).await;
        Self { host, idp, stack, records, ran }
    }

    async fn tonic(rules: Rules, routes: impl FnOnce(&Ran) -> Routes) -> Self {
        let (idp, records, ran) = (TestIssuer::start().await, Memory::new(), Ran::default());
        let stack =
            Stack::builder(issuer(&idp), rules, policy::dangerous_allow_all(), records.clone()).build().unwrap();
        let host = Host::tonic(portcullis::tonic::protect(routes(&ran), stack.clone())).await;
        Self { host, idp, stack, records, ran }
    }

    /// The house that most path attacks are tried on: a wildcard, a parameter, something forbidden, something public.
    async fn house() -> Self {
        let rules = Rules::new()
            .get("/jobs", scopes(all_of(["jobs:read"])))
            .get("/jobs/{id}", scopes(all_of(["jobs:read"])))
            .get("/files/{*path}", scopes(all_of(["files:read"])))
            .get("/admin", scopes(all_of(["admin"])))
            .get("/admin/{*path}", scopes(all_of(["admin"])))
            .get("/livez", public("liveness"));
        Self::axum(rules, |ran| {
            ran.router(["/jobs", "/jobs/{id}", "/files/{*path}", "/admin", "/admin/{*path}", "/livez"])
        })
        .await
    }

    fn token(&self, scope: &str) -> TestToken {
        self.idp.token().subject("auth0|mallory").client("web").scope(scope).mint()
    }

    /// Whoever may read jobs and files and would like to be an administrator.
    fn mallory(&self) -> TestToken {
        self.token("jobs:read files:read")
    }

    /// `GET` on a target of any bytes over HTTP/1.1.
    async fn get(&self, target: impl AsRef<[u8]>, token: Option<&TestToken>) -> Seen {
        self.raw(&[b"GET ", target.as_ref(), b" HTTP/1.1\r\nhost: api.acme.example\r\n"].concat(), token).await
    }

    /// A request line and headers of any bytes; what ends the head is added.
    async fn raw(&self, head: &[u8], token: Option<&TestToken>) -> Seen {
        let mut request = head.to_vec();
        if let Some(token) = token {
            request.extend_from_slice(format!("authorization: {}\r\n", token.bearer()).as_bytes());
        }
        request.extend_from_slice(b"connection: close\r\n\r\n");
        let before = self.records.records().len();
        let answer = timeout(PATIENCE, wire::http1_raw(self.host.address, &request)).await.expect("an answer in time");
        let answer = wire::parse_http1(&answer);
        let reached_us = answer.headers.contains_key("x-request-id");
        self.seen(Some(answer.status), before, reached_us, &String::from_utf8_lossy(head)).await
    }

    /// Gathers both sides. `reached_us` is false where the HTTP server answered by itself: there is no record then.
    async fn seen(&self, status: Option<u16>, before: usize, reached_us: bool, about: &str) -> Seen {
        let records = self.records_since(before, usize::from(reached_us), about).await;
        let seen = Seen { status, record: records.into_iter().next().unwrap_or_default(), ran: self.ran.take() };
        seen.assert_rule_and_handler_agree(about);
        seen
    }

    /// The records of requests that came after the first `before` ones: exactly so many.
    async fn records_since(&self, before: usize, expected: usize, about: &str) -> Vec<Value> {
        let arrived = || self.records.records().len() - before;
        eventually(|| arrived() >= expected, about).await;
        self.stack.audit().flush(PATIENCE).await.unwrap();
        let records: Vec<_> =
            self.records.records().iter().skip(before).map(|record| serde_json::to_value(record).unwrap()).collect();
        assert_eq!(records.len(), expected, "records of {about:?}: {records:?}");
        records
    }
}

fn issuer(idp: &TestIssuer) -> Issuer {
    Issuer::rfc9068(idp.url(), AUDIENCE)
}

/// One request, from both sides and from inside.
#[derive(Debug)]
struct Seen {
    /// `None` where the transport refused: a reset stream, a closed connection.
    status: Option<u16>,
    /// `null` when the request never reached us.
    record: Value,
    ran: Vec<String>,
}

impl Seen {
    /// What must hold of every request, whatever it is.
    fn assert_rule_and_handler_agree(&self, about: &str) {
        match self.ran.as_slice() {
            [] => assert_ne!(self.record["decision"], "allow", "allowed, and nothing ran: {about:?} {self:?}"),
            [handler] => {
                assert_eq!(self.record["route"]["template"], *handler, "rule and handler differ: {about:?} {self:?}");
                assert!(self.record["route"]["rule"].is_string(), "ran without a rule: {about:?} {self:?}");
                assert_eq!(self.record["decision"], "allow", "refused, and ran all the same: {about:?} {self:?}");
            }
            _ => panic!("one request, several handlers: {about:?} {self:?}"),
        }
    }

    fn reason(&self) -> &str {
        self.record["reason"].as_str().unwrap_or_default()
    }

    #[track_caller]
    fn assert_refused(&self, status: u16, reason: &str, about: impl Debug) {
        assert_eq!((self.status, self.reason()), (Some(status), reason), "{about:?}: {self:?}");
        assert!(self.ran.is_empty(), "{about:?}: {self:?}");
        // A refusal inside gRPC is HTTP 200 on the wire.
        assert_eq!(self.record["sent"]["http"], status, "{about:?}: {self:?}");
    }

    #[track_caller]
    fn assert_ran(&self, handler: &str, about: impl Debug) {
        assert_eq!(
            (self.status, self.ran.as_slice()),
            (Some(200), [handler.to_owned()].as_slice()),
            "{about:?}: {self:?}"
        );
    }

    /// The HTTP server refused before anything of ours was asked.
    #[track_caller]
    fn assert_never_came(&self, about: impl Debug) {
        assert!(
            matches!(self.status, None | Some(400)) && self.record.is_null() && self.ran.is_empty(),
            "{about:?}: {self:?}"
        );
    }
}

/// Waits for what another task is about to do; bounded.
async fn eventually(condition: impl Fn() -> bool, about: &str) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never came true: {about}");
}

/// A gRPC service that answers every method, known or not, and notes its path.
#[derive(Clone)]
struct Jobs(Ran);

impl NamedService for Jobs {
    const NAME: &'static str = "jobs.v1.Jobs";
}

impl<B> tower::Service<http::Request<B>> for Jobs {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.note(request.uri().path().trim_start_matches('/'));
        ready(Ok(tonic::Status::ok("").into_http::<tonic::body::Body>().into_response()))
    }
}

/// A guide that names a test which is gone promises what nobody keeps.
#[test]
fn every_test_that_the_guide_names_is_there_and_every_attack_test_is_named() {
    let sources: BTreeMap<_, _> = ["src", "tests/it"].into_iter().flat_map(rust_files).collect();
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/attacks.md")).unwrap();
    let is_function =
        |code: &&str| code.len() > 12 && code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let (mut table, mut rows) = ("", BTreeSet::new());
    for line in guide.lines() {
        let codes: Vec<_> = line.split('`').skip(1).step_by(2).collect();
        let mut files: Vec<_> = codes.iter().copied().filter(|code| code.ends_with(".rs")).collect();
        if let (true, [file]) = (line.starts_with("| |"), files.as_slice()) {
            table = file;
        }
        files.push(table);
        let functions: Vec<_> = codes.into_iter().filter(is_function).collect();
        for function in &functions {
            let is_there =
                |file: &&&str| sources.get(**file).is_some_and(|text| text.contains(&format!("fn {function}(")));
            assert!(files.iter().find(is_there).is_some(), "{function} is in none of {files:?}");
        }
        if let Some(number) = line.strip_prefix("| T-").and_then(|rest| rest.get(..3)) {
            assert!(rows.insert(number), "T-{number} has two rows");
            let is_its_own = |function: &&str| function.starts_with(&format!("t_{number}_"));
            assert!(functions.iter().any(is_its_own), "T-{number} names no test of its own");
        }
    }
    for (file, source) in &sources {
        let is_number = |name: &&str| name.len() > 4 && name.bytes().take(3).all(|byte| byte.is_ascii_digit());
        let names = source.split("fn t_").skip(1).filter_map(|rest| rest.split('(').next()).filter(is_number);
        for name in names {
            assert!(guide.contains(&format!("`t_{name}`")), "t_{name} of {file} is not in the guide");
            assert!(rows.contains(&name[..3]), "T-{} of {file} has no row in the guide", &name[..3]);
        }
    }
    assert!(rows.len() >= 60, "{rows:?}");
}

/// Every Rust file below a folder of this package: its path from there, and its text.
fn rust_files(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut open, mut files) = (vec![root.join(folder)], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    files
}
