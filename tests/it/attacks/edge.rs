//! A gate over HTTP and over gRPC in the process, for attacks that lie in what a caller shows.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method},
};
use http_body_util::BodyExt as _;
use portcullis::{
    Issuer, Rules, Stack,
    audit::{AuditError, AuditRecord, AuditSink, Kind},
    policy::{self, PolicyBackend},
    rules::{optional, public, scopes},
    scope::all_of,
    testing::{FrozenClock, Lie, Requests, TestIssuer, TokenBuilder},
};
use serde_json::Value;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::{Jobs, Ran, issuer};
use crate::support::{self, PATIENCE, keys_are_loaded, within};

/// Where credentials are asked for: the same rule on both protocols.
pub(super) const GUARDED: (&str, &str) = ("/jobs", "/jobs.v1.Jobs/List");
/// Where they may be absent.
pub(super) const OPTIONAL: (&str, &str) = ("/members", "/jobs.v1.Jobs/Members");
/// Where nobody looks at them.
pub(super) const PUBLIC: (&str, &str) = ("/livez", "/jobs.v1.Jobs/Alive");

/// One issuer, and one rulebook over both protocols. Time stands still.
pub(super) struct Edge {
    pub(super) idp: TestIssuer,
    pub(super) stack: Stack,
    pub(super) clock: FrozenClock,
    http: portcullis::axum::Protected,
    grpc: portcullis::tonic::Protected,
    records: Taken,
    ran: Ran,
    /// What was fetched before the first request came.
    fetched: Requests,
}

/// Records until they are taken: a table of a thousand rows would spend its time copying those of the rows before.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<AuditRecord>>>);

#[async_trait::async_trait]
impl AuditSink for Taken {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        self.0.lock().unwrap().extend(records);
        Ok(())
    }
}

/// One exchange, from both sides.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) status: u16,
    /// `grpc-status`, where there is one.
    pub(super) grpc: Option<i64>,
    pub(super) challenge: Option<String>,
    /// With the request id masked.
    pub(super) body: String,
    pub(super) record: Value,
    pub(super) ran: bool,
}

impl Edge {
    pub(super) async fn new() -> Self {
        Self::of(issuer).await
    }

    pub(super) async fn of(issuer: impl FnOnce(&TestIssuer) -> Issuer) -> Self {
        let edge = Self::unready(issuer, policy::dangerous_allow_all()).await;
        keys_are_loaded(&edge.stack).await;
        Self { fetched: edge.idp.requests(), ..edge }
    }

    pub(super) async fn asking(policy: impl PolicyBackend) -> Self {
        let edge = Self::unready(issuer, policy).await;
        keys_are_loaded(&edge.stack).await;
        Self { fetched: edge.idp.requests(), ..edge }
    }

    /// An issuer whose keys cannot be had: whoever looks for one gets 503 for it, and so shows that it looked.
    pub(super) async fn without_keys() -> Self {
        Self::without(|idp| issuer(idp).with_jwks_url("http://127.0.0.1:1/jwks")).await
    }

    /// An issuer that publishes a key set without a key.
    pub(super) async fn with_empty_key_set() -> Self {
        Self::without(|idp| {
            idp.lie(Lie::EmptyKeySet);
            issuer(idp)
        })
        .await
    }

    async fn without(issuer: impl FnOnce(&TestIssuer) -> Issuer) -> Self {
        let edge = Self::unready(issuer, policy::dangerous_allow_all()).await;
        let good = edge.good().mint();
        let seen = edge.http(GUARDED.0, &[good.bearer().as_bytes()]).await;
        assert_eq!((seen.status, seen.reason()), (503, "keys_unavailable"), "{seen:?}");
        Self { fetched: edge.idp.requests(), ..edge }
    }

    async fn unready(issuer: impl FnOnce(&TestIssuer) -> Issuer, policy: impl PolicyBackend) -> Self {
        let clock = FrozenClock::default();
        let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
        let (records, ran) = (Taken::default(), Ran::default());
        let scope = || scopes(all_of(["jobs:read"]));
        let rules = Rules::new().get(GUARDED.0, scope()).get(OPTIONAL.0, optional()).get(PUBLIC.0, public("liveness"));
        let stack = Stack::builder(issuer(&idp), rules, policy, records.clone())
            .with_clock(clock.clone())
            .with_input_headers(["x-tier", "x-user"])
            .build()
            .unwrap();
        let rules = Rules::new()
            .grpc(&GUARDED.1[1..], scope())
            .grpc(&OPTIONAL.1[1..], optional())
            .grpc(&PUBLIC.1[1..], public("liveness"));
        let sibling = stack.sibling(rules).build().unwrap();
        let router: Router = ran.router([GUARDED.0, OPTIONAL.0, PUBLIC.0]);
        Self {
            http: portcullis::axum::protect(router, stack.clone()),
            grpc: portcullis::tonic::protect(Routes::new(Jobs(ran.clone())), sibling),
            fetched: idp.requests(),
            idp,
            stack,
            clock,
            records,
            ran,
        }
    }

    /// A token that passes on every route.
    pub(super) fn good(&self) -> TokenBuilder {
        self.idp.token().subject("auth0|mallory").client("web").scope("jobs:read")
    }

    pub(super) fn request(target: &str, authorization: &[&[u8]]) -> Request {
        let mut request = support::get(target);
        for value in authorization {
            request.headers_mut().append("authorization", HeaderValue::from_bytes(value).unwrap());
        }
        request
    }

    pub(super) async fn http(&self, target: &str, authorization: &[&[u8]]) -> Exchange {
        self.send(Self::request(target, authorization)).await
    }

    pub(super) async fn send(&self, request: Request) -> Exchange {
        let response = within("an answer", self.http.clone().oneshot(request)).await.unwrap();
        self.exchange(response.map(Body::new)).await
    }

    pub(super) async fn grpc(&self, target: &str, authorization: &[&[u8]]) -> Exchange {
        self.send_grpc(Self::request(target, authorization)).await
    }

    /// Makes the call of a gRPC client of it.
    pub(super) async fn send_grpc(&self, mut request: Request) -> Exchange {
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("te"), HeaderValue::from_static("trailers"));
        let request = request.map(tonic::body::Body::new);
        let response = within("an answer", self.grpc.clone().oneshot(request)).await.unwrap();
        self.exchange(response.map(Body::new)).await
    }

    async fn exchange(&self, response: axum::response::Response) -> Exchange {
        let (parts, body) = response.into_parts();
        let text = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let body = within("a body", body.collect()).await.unwrap().to_bytes();
        let id = text("x-request-id").expect("whatever is answered bears the request's id");
        self.stack.audit().flush(PATIENCE).await.unwrap();
        let taken = std::mem::take(&mut *self.records.0.lock().unwrap());
        let records: Vec<_> = taken.iter().filter(|record| record.kind == Kind::Request).collect();
        assert_eq!(records.len(), 1, "one request, one record: {records:?}");
        let record = serde_json::to_value(records[0]).unwrap();
        assert_eq!(record["request_id"], *id);
        Exchange {
            status: parts.status.as_u16(),
            grpc: text("grpc-status").map(|status| status.parse().unwrap()),
            challenge: text("www-authenticate"),
            body: String::from_utf8(body.to_vec()).unwrap().replace(&id, "(id)"),
            record,
            ran: !self.ran.take().is_empty(),
        }
    }

    /// 401 and 16, the same for whatever cause, with this cause on record; nothing ran and nobody was asked for keys.
    pub(super) async fn refuses(&self, token: &str, reason: &str, about: &str) {
        self.refuses_for_one_of(token, &[reason], about).await;
    }

    /// As [`refuses`](Self::refuses), where two checks may be the first to see the fault.
    pub(super) async fn refuses_for_one_of(&self, token: &str, reasons: &[&str], about: &str) {
        let bearer = format!("Bearer {token}");
        for route in [GUARDED, OPTIONAL] {
            let (http, grpc) = self.both(route, &[bearer.as_bytes()]).await;
            http.assert_bad_token(reasons, about);
            grpc.assert_bad_token(reasons, about);
        }
        self.assert_nothing_fetched(about);
    }

    /// 400 and 3: the caller knows what it sent.
    pub(super) async fn finds_malformed(&self, authorization: &[&[u8]], reason: &str, about: &str) {
        for route in [GUARDED, OPTIONAL] {
            let (http, grpc) = self.both(route, authorization).await;
            http.assert_malformed(reason, about);
            grpc.assert_malformed(reason, about);
        }
        self.assert_nothing_fetched(about);
    }

    pub(super) async fn accepts(&self, token: &str, about: &str) {
        let bearer = format!("Bearer {token}");
        let (http, grpc) = self.both(GUARDED, &[bearer.as_bytes()]).await;
        http.assert_ran(about);
        grpc.assert_ran(about);
    }

    pub(super) async fn both(&self, route: (&str, &str), authorization: &[&[u8]]) -> (Exchange, Exchange) {
        (self.http(route.0, authorization).await, self.grpc(route.1, authorization).await)
    }

    #[track_caller]
    pub(super) fn assert_nothing_fetched(&self, about: &str) {
        assert_eq!(self.idp.requests(), self.fetched, "a token caused a request to the issuer: {about}");
    }
}

impl Exchange {
    pub(super) fn reason(&self) -> &str {
        self.record["reason"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(super) fn assert_bad_token(&self, reasons: &[&str], about: &str) {
        assert!(reasons.contains(&self.reason()), "{about}: not one of {reasons:?}: {self:?}");
        assert_eq!(self.record["decision"], "deny", "{about}: {self:?}");
        assert!(!self.ran, "{about}: {self:?}");
        if self.grpc.is_some() {
            assert_eq!((self.status, self.grpc, self.body.as_str()), (200, Some(16), ""), "{about}: {self:?}");
            return;
        }
        assert_eq!((self.status, self.body.as_str()), (401, UNAUTHORIZED), "{about}: {self:?}");
        assert_eq!(self.challenge.as_deref(), Some(INVALID_TOKEN), "{about}: {self:?}");
    }

    #[track_caller]
    pub(super) fn assert_no_credentials(&self, about: &str) {
        assert_eq!((self.reason(), self.ran), ("credentials_missing", false), "{about}: {self:?}");
        if self.grpc.is_some() {
            assert_eq!((self.status, self.grpc), (200, Some(16)), "{about}: {self:?}");
            return;
        }
        assert_eq!((self.status, self.body.as_str()), (401, UNAUTHORIZED), "{about}: {self:?}");
        assert_eq!(self.challenge.as_deref(), Some(NO_TOKEN), "{about}: {self:?}");
    }

    #[track_caller]
    pub(super) fn assert_malformed(&self, reason: &str, about: &str) {
        assert_eq!((self.reason(), self.ran), (reason, false), "{about}: {self:?}");
        if self.grpc.is_some() {
            assert_eq!((self.status, self.grpc, self.body.as_str()), (200, Some(3), ""), "{about}: {self:?}");
            return;
        }
        assert_eq!((self.status, self.body.as_str()), (400, BAD_REQUEST), "{about}: {self:?}");
        assert_eq!(self.challenge, None, "{about}: {self:?}");
    }

    #[track_caller]
    pub(super) fn assert_ran(&self, about: &str) {
        assert_eq!((self.status, self.ran), (200, true), "{about}: {self:?}");
        assert!(matches!(self.grpc, None | Some(0)), "{about}: {self:?}");
        assert_eq!(self.record["decision"], "allow", "{about}: {self:?}");
    }
}

const UNAUTHORIZED: &str =
    r#"{"type":"about:blank","title":"Unauthorized","status":401,"instance":"urn:request:(id)"}"#;
const BAD_REQUEST: &str = r#"{"type":"about:blank","title":"Bad Request","status":400,"instance":"urn:request:(id)"}"#;
const INVALID_TOKEN: &str = r#"Bearer realm="api", error="invalid_token""#;
const NO_TOKEN: &str = r#"Bearer realm="api""#;
