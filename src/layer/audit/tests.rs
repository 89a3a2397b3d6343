use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, pending, ready},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::watch;
use tower::{Service, ServiceExt as _, service_fn};
use tower_layer::Layer as _;

use super::{AuditBody, AuditLayer, AuditService};
use crate::{
    audit::{Answer, Audit, AuditError, AuditRecord, AuditSink, Kind, Memory, Mode, Outcome, Phase, Trail, Verdict},
    denial::{Denial, Protocol, Reason, RequestContext, Sent},
    health::Health,
    policy::{Decision, PolicyRevision},
    principal::{Parts, Principal, PrincipalKind, Proof, Subject, Thumbprint},
    route::{Route, RouteKey},
    rules::{Rules, policy_only},
    scope::Scope,
    time::{Clock, UnixTime},
    token::{Claimed, TokenError, VerifiedToken},
};

const SOON: Duration = Duration::from_secs(10);

fn trail(mode: Mode) -> (Audit, Memory) {
    let memory = Memory::new();
    (Audit::start(Arc::new(memory.clone()), mode).unwrap(), memory)
}

async fn only_record(audit: &Audit, memory: &Memory) -> AuditRecord {
    audit.flush(SOON).await.unwrap();
    let mut records = memory.records();
    assert_eq!(records.len(), 1, "{records:#?}");
    records.remove(0)
}

fn ending(record: &AuditRecord) -> (Kind, Option<Outcome>, Option<Phase>) {
    (record.kind, record.outcome, record.phase)
}

fn request() -> Request<()> {
    Request::new(())
}

fn user() -> Principal {
    let parts = Parts {
        kind: PrincipalKind::User,
        issuer: None,
        subject: Some(Subject::new("alice")),
        user_id: None,
        client: None,
        tenant: None,
        scope: Scope::parse("jobs:read jobs:write").unwrap(),
        permissions: Vec::new(),
        roles: Vec::new(),
        actors: Vec::new(),
        confirmation: None,
        authentication: Default::default(),
        proof: Proof::Token(Thumbprint::new("token-thumbprint")),
    };
    Principal::from_check(parts)
}

/// A body that does what it is told, and then ends.
#[derive(Default)]
struct Scripted {
    steps: VecDeque<Step>,
    length: Option<u64>,
    announces_end: bool,
}

enum Step {
    Data(&'static str),
    Trailers(HeaderMap),
    Fail,
    Panic,
}

impl Scripted {
    fn stream(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), length: None, announces_end: false }
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.steps.pop_front().map(|step| match step {
            Step::Data(text) => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
            Step::Trailers(trailers) => Ok(Frame::trailers(trailers)),
            Step::Fail => Err(io::Error::other("broken")),
            Step::Panic => panic!("body"),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.announces_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Answers one request with this response.
async fn answer<B: Body>(audit: &Audit, request: Request<()>, response: Response<B>) -> Response<AuditBody<B>> {
    let mut response = Some(response);
    let inner = service_fn(move |_: Request<()>| ready(Ok::<_, Infallible>(response.take().unwrap())));
    AuditLayer::new(audit.clone()).layer(inner).oneshot(request).await.unwrap()
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn an_answered_request_leaves_one_complete_record() {
    let (audit, memory) = trail(Mode::Deny);
    let response = answer(&audit, request(), Response::new(Full::new(Bytes::from_static(b"hello")))).await;
    assert_eq!(memory.records().len(), 0, "the record waits for the body");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    let record = only_record(&audit, &memory).await;
    assert_eq!(ending(&record), (Kind::Request, Some(Outcome::Complete), None));
    assert_eq!((record.answered, record.sent), (Some(Answer { http: 200, grpc: None }), record.answered));
    assert_eq!((record.bytes, record.method.as_deref(), record.decision), (5, Some("GET"), None));
    assert!(record.request_id.is_some());
}

#[tokio::test]
async fn a_future_dropped_before_its_first_poll_leaves_one_record() {
    let (audit, memory) = trail(Mode::Deny);
    let inner = service_fn(|_: Request<()>| pending::<Result<Response<Empty<Bytes>>, Infallible>>());
    drop(AuditLayer::new(audit.clone()).layer(inner).call(request()));
    let record = only_record(&audit, &memory).await;
    assert_eq!(ending(&record), (Kind::Request, Some(Outcome::Aborted), Some(Phase::Unpolled)));
    assert_eq!((record.answered, record.sent), (None, None));
}

#[tokio::test]
async fn a_future_dropped_midway_leaves_one_record() {
    let (audit, memory) = trail(Mode::Deny);
    let inner = service_fn(|_: Request<()>| pending::<Result<Response<Empty<Bytes>>, Infallible>>());
    {
        let mut future = pin!(AuditLayer::new(audit.clone()).layer(inner).call(request()));
        assert!(poll_once(future.as_mut()).is_pending());
    }
    let record = only_record(&audit, &memory).await;
    assert_eq!(ending(&record), (Kind::Request, Some(Outcome::Aborted), Some(Phase::Head)));
}

#[tokio::test]
async fn a_panic_in_call_leaves_one_record() {
    let (audit, memory) = trail(Mode::Deny);
    let inner = service_fn(|_: Request<()>| -> std::future::Ready<Result<Response<Empty<Bytes>>, Infallible>> {
        panic!("call")
    });
    let context = RequestContext::new(Protocol::Http, http::Method::GET);
    let mut request = request();
    request.extensions_mut().insert(context.clone());
    {
        // The panic waits for the first poll, so that whoever catches it can still say what was sent.
        let mut future = pin!(AuditLayer::new(audit.clone()).layer(inner).call(request));
        let panic = catch_unwind(AssertUnwindSafe(|| poll_once(future.as_mut()))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"call"));
        context.set_sent(Sent::new(500, None));
    }
    let record = only_record(&audit, &memory).await;
    assert_eq!(ending(&record), (Kind::Request, Some(Outcome::Panicked), Some(Phase::Call)));
    assert_eq!(record.sent.map(|sent| sent.http), Some(500));
}

#[tokio::test]
async fn a_panic_in_poll_leaves_one_record_wherever_it_is_caught() {
    let (audit, memory) = trail(Mode::Deny);
    let inner = service_fn(async |_: Request<()>| -> Result<Response<Empty<Bytes>>, Infallible> { panic!("poll") });
    {
        // Caught outside of the future, as a panic layer does, which drops the future later.
        let mut future = pin!(AuditLayer::new(audit.clone()).layer(inner).call(request()));
        assert!(catch_unwind(AssertUnwindSafe(|| poll_once(future.as_mut()))).is_err());
    }
    let record = only_record(&audit, &memory).await;
    assert_eq!(ending(&record), (Kind::Request, Some(Outcome::Panicked), Some(Phase::Head)));
}

#[tokio::test]
async fn an_error_of_the_inner_service_leaves_one_record() {
    let (audit, memory) = trail(Mode::Deny);
    let inner = service_fn(|_: Request<()>| ready(Err::<Response<Empty<Bytes>>, _>("down")));
    assert_eq!(AuditLayer::new(audit.clone()).layer(inner).oneshot(request()).await.unwrap_err(), "down");
    let record = only_record(&audit, &memory).await;
    assert_eq!(ending(&record), (Kind::Request, Some(Outcome::Aborted), Some(Phase::Head)));
}

#[tokio::test]
async fn a_body_of_known_length_is_on_record_once_however_it_is_taken() {
    let full = || Response::new(Full::new(Bytes::from_static(b"hello"))).map(BodyExt::boxed);
    let scripted = |length, announces_end, step| {
        let steps = [Step::Data("hel"), step, Step::Data("lo")].into();
        Response::new(Scripted { steps, length, announces_end }.map_err(|_| unreachable!()).boxed())
    };
    let with_length = |mut response: Response<_>, length: &'static str| {
        response.headers_mut().insert("content-length", length.parse().unwrap());
        response
    };
    let empty = || Response::new(Empty::<Bytes>::new().boxed());
    let status = |status: u16| {
        let mut response = scripted(None, false, Step::Data(""));
        *response.status_mut() = status.try_into().unwrap();
        response
    };
    let complete = (Some(Outcome::Complete), None);
    let cut = (Some(Outcome::Aborted), Some(Phase::Body));
    // name, method, response, frames taken, how it ended, bytes
    let cases = [
        ("cut before the body", "GET", full(), 0, cut, 0),
        ("taken whole, end not polled", "GET", full(), 1, complete, 5),
        ("empty", "GET", empty(), 0, complete, 0),
        ("cut in the body", "GET", scripted(Some(5), false, Step::Data("")), 1, cut, 3),
        ("all bytes of the hint", "GET", scripted(Some(5), false, Step::Data("")), 3, complete, 5),
        ("end announced", "GET", scripted(Some(9), true, Step::Data("")), 3, complete, 5),
        ("end polled", "GET", scripted(Some(9), false, Step::Data("")), 4, complete, 5),
        ("hand-set length, all bytes", "GET", with_length(scripted(None, false, Step::Data("")), "5"), 3, complete, 5),
        ("hand-set length, cut", "GET", with_length(scripted(None, false, Step::Data("")), "5"), 2, cut, 3),
        ("head", "HEAD", with_length(status(200), "5"), 0, complete, 0),
        ("head without length", "HEAD", status(200), 0, complete, 0),
        ("no content", "GET", status(204), 0, complete, 0),
        ("not modified", "GET", status(304), 0, complete, 0),
        ("switching protocols", "GET", status(101), 0, complete, 0),
    ];
    for (name, method, response, frames, (outcome, phase), bytes) in cases {
        let (audit, memory) = trail(Mode::Deny);
        let mut request = request();
        *request.method_mut() = method.parse().unwrap();
        let mut body = answer(&audit, request, response).await.into_body();
        for _ in 0..frames {
            let _ = body.frame().await;
        }
        drop(body);
        let record = only_record(&audit, &memory).await;
        assert_eq!((ending(&record), record.bytes), ((Kind::Request, outcome, phase), bytes), "{name}");
    }
}

#[tokio::test]
async fn a_body_that_fails_or_panics_is_on_record_once() {
    let cases = [("fails at the very end", Step::Fail, Outcome::Aborted), ("panics", Step::Panic, Outcome::Panicked)];
    for (name, step, outcome) in cases {
        let (audit, memory) = trail(Mode::Deny);
        let body = Scripted { steps: [Step::Data("hello"), step].into(), length: Some(5), announces_end: false };
        let mut body = answer(&audit, request(), Response::new(body)).await.into_body();
        assert!(matches!(poll_once(pin!(body.frame())), Poll::Ready(Some(Ok(_)))));
        let _ = catch_unwind(AssertUnwindSafe(|| drop(poll_once(pin!(body.frame())))));
        drop(body);
        let record = only_record(&audit, &memory).await;
        assert_eq!(ending(&record), (Kind::Request, Some(outcome), Some(Phase::Body)), "{name}");
    }
}

#[tokio::test]
async fn a_stream_leaves_a_record_at_its_head_and_one_at_its_end() {
    let trailers = || HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]);
    let data = || [Step::Data("one"), Step::Data("two")];
    // name, steps, frames taken, outcome of the end, gRPC status of the end
    let cases: [(_, Vec<Step>, _, _, _); 4] = [
        ("taken to its end", data().into(), 3, Outcome::Complete, None),
        ("cut", data().into(), 1, Outcome::Aborted, None),
        ("trailers", data().into_iter().chain([Step::Trailers(trailers())]).collect(), 3, Outcome::Complete, Some(5)),
        ("broken", data().into_iter().chain([Step::Fail]).collect(), 3, Outcome::Aborted, None),
    ];
    for (name, steps, frames, outcome, grpc) in cases {
        let (audit, memory) = trail(Mode::Deny);
        let mut body = answer(&audit, request(), Response::new(Scripted::stream(steps))).await.into_body();
        let head = only_record(&audit, &memory).await;
        assert_eq!(ending(&head), (Kind::Request, None, None), "{name}");
        for _ in 0..frames {
            let _ = body.frame().await;
        }
        drop(body);
        audit.flush(SOON).await.unwrap();
        let records = memory.records();
        assert_eq!(records.len(), 2, "{name}");
        assert_eq!((records[1].kind, records[1].outcome), (Kind::End, Some(outcome)), "{name}");
        assert_eq!(records[1].request_id, head.request_id, "{name}");
        assert_eq!(records[1].answered, Some(Answer { http: 200, grpc }), "{name}");
    }
}

#[tokio::test]
async fn the_body_passes_everything_through() {
    let trailers = HeaderMap::from_iter([("checksum".parse().unwrap(), "1".parse().unwrap())]);
    let (audit, _memory) = trail(Mode::Deny);
    let steps = [Step::Data("a"), Step::Data("b"), Step::Trailers(trailers.clone())];
    let body = Scripted { steps: steps.into(), length: Some(2), announces_end: true };
    let body = answer(&audit, request(), Response::new(body)).await.into_body();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(2), false));
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "ab");
    assert!(AuditBody::<Full<Bytes>>::default().is_end_stream());
}

#[tokio::test]
async fn a_record_tells_what_the_stages_found() {
    let (audit, memory) = trail(Mode::Deny);
    let table = Rules::new().get("/jobs/{id}", policy_only()).into_table().unwrap();
    let inner = service_fn(async |request: Request<()>| {
        let trail = Trail::of(&request);
        let key = RouteKey::Http { method: Method::GET, template: "/jobs/{id}".into() };
        trail.routed(&Route::matched(&table, key).with_peer(Some(([127, 0, 0, 1], 9).into())));
        trail.presented(Claimed { subject: Some("alice".to_owned()), ..Claimed::default() });
        trail.authenticated(&user(), Some(&VerifiedToken::for_tests(user(), "jti-1"))).unwrap();
        trail.decided(&Decision::allow(PolicyRevision::new("r7")).add_reason("owner"));
        trail.admitted();
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut request = request();
    request
        .headers_mut()
        .insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
    let context = RequestContext::new(Protocol::Http, Method::GET);
    request.extensions_mut().insert(context.clone());
    AuditLayer::new(audit.clone()).layer(inner).oneshot(request).await.unwrap();

    let record = only_record(&audit, &memory).await;
    assert_eq!(record.request_id.as_ref(), Some(context.request_id()));
    let json = serde_json::to_value(&record).unwrap();
    let expected = serde_json::json!({
        "jti": "jti-1", "user_id": "alice", "thumbprint": "token-thumbprint", "exp": 1_800_000_000_u64,
        "principal": "user", "scope": ["jobs:read", "jobs:write"], "key": {"kid": "kid-1", "jkt": "key-thumbprint"},
        "stage": "handler", "decision": "allow", "reason": null,
        "route": {"template": "/jobs/{id}", "rule": "policy_only"}, "peer": "127.0.0.1:9",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "answered": {"http": 200, "grpc": null}, "outcome": "complete",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&json[name], value, "{name}");
    }
    assert_eq!(json["policy"]["effect"], "allow");
    assert_eq!(json["policy"]["revision"], "r7");
    assert_eq!(json["policy"]["reasons"], serde_json::json!(["owner"]));
    assert!(json.get("claimed").is_none(), "what was claimed is verified now");
}

#[tokio::test]
async fn a_refusal_is_on_record_with_its_cause_and_what_was_sent() {
    let cases = [
        (Reason::Token(TokenError::Expired), Verdict::Deny, "token_expired", "authenticate", 401),
        (Reason::AuditUnavailable, Verdict::Error, "audit_unavailable", "audit", 503),
    ];
    for (reason, decision, code, stage, status) in cases {
        let (audit, memory) = trail(Mode::Deny);
        let inner = service_fn(async |request: Request<()>| {
            let trail = Trail::of(&request);
            let thumbprint = Some(Thumbprint::new("presented"));
            let subject = Some(format!("mallory\n{}", "x".repeat(1_000)));
            trail.presented(Claimed { thumbprint, subject, ..Claimed::default() });
            trail.denied(&reason);
            // Not the body that a refusal is rendered with, nor one whose length is known.
            let mut response = Response::new(Scripted::stream([Step::Data("never sent")]));
            *response.status_mut() = status.try_into().unwrap();
            response.extensions_mut().insert(Denial::of(&reason, None));
            Ok::<_, Infallible>(response)
        });
        let mut request = request();
        let context = RequestContext::new(Protocol::Grpc, Method::POST);
        request.extensions_mut().insert(context.clone());
        let response = AuditLayer::new(audit.clone()).layer(inner).oneshot(request).await.unwrap();
        context.set_sent(Sent::new(200, Some(16)));
        drop(response);

        let record = only_record(&audit, &memory).await;
        assert_eq!((record.decision, record.reason), (Some(decision), Some(code)));
        assert_eq!(record.stage.map(|stage| stage.as_str()), Some(stage));
        assert_eq!(record.answered, Some(Answer { http: status, grpc: None }));
        assert_eq!(record.sent, Some(Answer { http: 200, grpc: Some(16) }));
        assert_eq!(record.outcome, Some(Outcome::Complete));
        assert_eq!((&record.jti, &record.user_id, record.exp), (&None, &None, None));
        assert_eq!(record.thumbprint.as_deref(), Some("presented"));
        let claimed = record.claimed.unwrap();
        let subject = claimed.subject.unwrap();
        assert!(!claimed.verified);
        assert!(subject.starts_with(r"mallory\u{a}xx") && subject.ends_with('…') && subject.len() <= 256);
    }
}

#[tokio::test]
async fn a_request_without_a_context_is_given_one_with_the_id_on_record() {
    let (audit, memory) = trail(Mode::Deny);
    let inner = service_fn(async |request: Request<()>| {
        let context: &RequestContext = request.extensions().get().unwrap();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(context.request_id().to_string())))
    });
    let response = AuditLayer::new(audit.clone()).layer(inner).oneshot(request()).await.unwrap();
    let id = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(only_record(&audit, &memory).await.request_id.unwrap().as_str(), id);
}

/// Half a second passes between two looks at it.
struct Ticking(AtomicUsize);

impl Clock for Ticking {
    fn now(&self) -> UnixTime {
        UnixTime::from_secs(1_800_000_000)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(500 * self.0.fetch_add(1, Ordering::Relaxed) as u64)
    }
}

#[tokio::test]
async fn a_record_is_dated_at_the_arrival_and_measured_by_the_steady_clock() {
    let memory = Memory::new();
    let clock = Arc::new(Ticking(AtomicUsize::new(3)));
    let audit = Audit::builder(Arc::new(memory.clone())).with_clock(clock).start().unwrap();
    drop(answer(&audit, request(), Response::new(Empty::<Bytes>::new())).await);
    let record = only_record(&audit, &memory).await;
    assert_eq!((record.time.to_string().as_str(), record.duration_us), ("2027-01-15T08:00:00.000Z", 500_000));
}

#[tokio::test]
async fn a_stack_in_a_stack_leaves_one_record() {
    let (outer, memory) = trail(Mode::Deny);
    let (inner, inner_memory) = trail(Mode::Deny);
    let handler = service_fn(async |request: Request<()>| {
        Trail::of(&request).admitted();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let service = AuditLayer::new(outer.clone()).layer(AuditLayer::new(inner.clone()).layer(handler));
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(only_record(&outer, &memory).await.decision, Some(Verdict::Allow));
    inner.flush(SOON).await.unwrap();
    assert!(inner_memory.records().is_empty());
}

#[tokio::test]
async fn a_trail_that_outlived_its_record_is_not_joined() {
    let (audit, memory) = trail(Mode::Deny);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let handler = service_fn(move |request: Request<()>| {
        sender.send(request).unwrap();
        ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let mut service = AuditLayer::new(audit.clone()).layer(handler);
    drop(service.ready().await.unwrap().call(request()).await.unwrap());
    let kept = receiver.recv().await.unwrap();
    assert!(Trail::of(&kept).public().is_err(), "nothing may happen on a trail that nobody reads");
    drop(service.ready().await.unwrap().call(kept).await.unwrap());
    audit.flush(SOON).await.unwrap();
    let ids: Vec<_> = memory.records().into_iter().map(|record| record.request_id).collect();
    assert_eq!(ids.len(), 2);
}

/// Must be polled ready before each call; a clone is not ready.
struct Strict {
    ready: bool,
    polled: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, polled: Arc::clone(&self.polled) }
    }
}

impl Service<Request<()>> for Strict {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.polled.fetch_add(1, Ordering::Relaxed) == 0 {
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        ready(Ok(Response::new(Empty::new())))
    }
}

#[tokio::test]
async fn readiness_is_that_of_the_inner_service_which_is_then_called() {
    let (audit, _memory) = trail(Mode::Deny);
    let polled = Arc::new(AtomicUsize::new(0));
    let mut service: AuditService<_> = AuditLayer::new(audit).layer(Strict { ready: false, polled: polled.clone() });
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_pending(), "back pressure is forwarded");
    assert!(service.poll_ready(&mut cx).is_ready());
    let _clone = service.clone();
    drop(service.call(request()).await.unwrap());
    assert_eq!(polled.load(Ordering::Relaxed), 2);
}

/// Keeps nothing until it is opened.
struct Gated {
    memory: Memory,
    open: watch::Receiver<bool>,
}

#[async_trait]
impl AuditSink for Gated {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        self.open.clone().wait_for(|open| *open).await.map_err(AuditError::failed)?;
        Arc::new(self.memory.clone()).write(records).await
    }
}

fn gated(mode: Mode, capacity: usize) -> (Audit, Memory, watch::Sender<bool>) {
    let memory = Memory::new();
    let (sender, open) = watch::channel(false);
    let sink = Arc::new(Gated { memory: memory.clone(), open });
    (Audit::builder(sink).with_mode(mode).with_capacity(capacity).start().unwrap(), memory, sender)
}

/// A gate and its handler: authenticates, and calls the handler when there is room. `None` as principal is a public route.
async fn through_a_gate(audit: &Audit, principal: Option<Principal>, handled: &AtomicUsize) -> u16 {
    let inner = service_fn(async |request: Request<()>| {
        let trail = Trail::of(&request);
        let room = match &principal {
            Some(principal) => trail.authenticated(principal, None),
            None => trail.public(),
        };
        let mut response = Response::new(Empty::<Bytes>::new());
        match room {
            Ok(()) => {
                trail.admitted();
                handled.fetch_add(1, Ordering::Relaxed);
            }
            Err(reason) => {
                trail.denied(&reason);
                *response.status_mut() = Denial::of(&reason, None).class().http_status();
            }
        }
        Ok::<_, Infallible>(response)
    });
    let response = AuditLayer::new(audit.clone()).layer(inner).oneshot(request()).await.unwrap();
    response.status().as_u16()
}

fn requests(records: &[AuditRecord]) -> usize {
    records.iter().filter(|record| record.kind == Kind::Request).count()
}

fn lost(records: &[AuditRecord]) -> u64 {
    records.iter().filter_map(|record| record.gap).map(|gap| gap.lost).sum()
}

#[tokio::test]
async fn deny_calls_no_handler_whose_record_has_no_room() {
    let (audit, memory, open) = gated(Mode::Deny, 16);
    let handled = AtomicUsize::new(0);
    let calls = 200;
    let mut refused = 0;
    for _ in 0..calls {
        match through_a_gate(&audit, Some(user()), &handled).await {
            200 => {}
            503 => refused += 1,
            status => panic!("{status}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(audit.health(), Health::Unavailable("the audit queue is full".into()));
    assert!(audit.flush(Duration::ZERO).await.unwrap_err().left > 0);
    open.send(true).unwrap();
    audit.flush(SOON).await.unwrap();
    let records = memory.records();
    let handled = handled.into_inner();
    let allowed = records.iter().filter(|record| record.decision == Some(Verdict::Allow)).count();
    assert_eq!((handled, handled + refused), (allowed, calls), "what happened is on record, each call of a handler");
    assert_eq!(requests(&records) + usize::try_from(lost(&records)).unwrap(), calls);
    assert_eq!(audit.health(), Health::Ready);
}

#[tokio::test]
async fn count_goes_on_and_counts_what_it_loses() {
    let (audit, memory, open) = gated(Mode::Count, 16);
    let handled = AtomicUsize::new(0);
    for _ in 0..200 {
        assert_eq!(through_a_gate(&audit, Some(user()), &handled).await, 200);
    }
    assert_eq!(audit.health(), Health::Degraded("the audit queue is full".into()));
    open.send(true).unwrap();
    audit.flush(SOON).await.unwrap();
    let records = memory.records();
    assert_eq!(handled.into_inner(), 200);
    assert!(lost(&records) > 0);
    assert_eq!(lost(&records), audit.lost());
    assert_eq!(requests(&records) + usize::try_from(lost(&records)).unwrap(), 200);
}

#[tokio::test]
async fn requests_in_flight_without_credentials_leave_half_of_the_queue_to_the_others() {
    let (audit, memory, open) = gated(Mode::Deny, 16);
    open.send(true).unwrap();
    let waiting = service_fn(|_: Request<()>| pending::<Result<Response<Empty<Bytes>>, Infallible>>());
    let mut waiting = AuditLayer::new(audit.clone()).layer(waiting);
    let flood: Vec<_> = (0..50).map(|_| waiting.call(request())).collect();
    let handled = AtomicUsize::new(0);
    assert_eq!(through_a_gate(&audit, None, &handled).await, 503, "a public route has no room");
    assert_eq!(through_a_gate(&audit, Some(Principal::anonymous()), &handled).await, 503, "nor has the anonymous");
    assert_eq!(through_a_gate(&audit, Some(user()), &handled).await, 200, "who is authenticated has");
    drop(flood);
    audit.flush(SOON).await.unwrap();
    let records = memory.records();
    assert_eq!(handled.into_inner(), 1);
    assert_eq!(requests(&records) + usize::try_from(lost(&records)).unwrap(), 53);
    assert_eq!(through_a_gate(&audit, None, &AtomicUsize::new(0)).await, 200, "room comes back");
}

#[tokio::test]
async fn room_is_given_back_when_streams_end_or_are_reset() {
    let (audit, memory, open) = gated(Mode::Deny, 8);
    open.send(true).unwrap();
    for round in 0..20 {
        let inner = service_fn(async |request: Request<()>| {
            Trail::of(&request).authenticated(&user(), None).unwrap();
            Trail::of(&request).admitted();
            Ok::<_, Infallible>(Response::new(Scripted::stream([Step::Data("one")])))
        });
        let service = AuditLayer::new(audit.clone()).layer(inner);
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(service.clone().oneshot(request()).await.unwrap());
            audit.flush(SOON).await.unwrap();
        }
        drop(streams);
        audit.flush(SOON).await.unwrap();
        assert_eq!((memory.records().len(), audit.lost()), (8 * (round + 1), 0));
    }
}

#[tokio::test]
async fn an_authenticated_response_on_its_way_holds_one_record_of_the_common_half() {
    for length in [None, Some(3)] {
        let (audit, _memory, open) = gated(Mode::Deny, 16);
        open.send(true).unwrap();
        let inner = service_fn(async |request: Request<()>| {
            Trail::of(&request).authenticated(&user(), None).unwrap();
            Ok::<_, Infallible>(Response::new(Scripted { length, ..Scripted::stream([Step::Data("one")]) }))
        });
        let service = AuditLayer::new(audit.clone()).layer(inner);
        let mut on_their_way = Vec::new();
        for _ in 0..10 {
            on_their_way.push(service.clone().oneshot(request()).await.unwrap());
            audit.flush(SOON).await.unwrap();
        }
        assert_eq!(through_a_gate(&audit, None, &AtomicUsize::new(0)).await, 200, "{length:?}");
    }
}

#[tokio::test]
async fn a_request_kept_by_its_handler_keeps_no_room() {
    let (audit, _memory, open) = gated(Mode::Deny, 8);
    open.send(true).unwrap();
    let mut kept = Vec::new();
    let inner = service_fn(|request: Request<()>| {
        Trail::of(&request).authenticated(&user(), None).unwrap();
        kept.push(request);
        pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    let mut service = AuditLayer::new(audit.clone()).layer(inner);
    for _ in 0..20 {
        drop(service.call(request()));
        audit.flush(SOON).await.unwrap();
    }
    drop(service);
    assert_eq!((kept.len(), audit.lost()), (20, 0));
}

#[tokio::test]
async fn the_end_of_a_stream_has_its_room_from_the_start() {
    let (audit, memory, open) = gated(Mode::Deny, 8);
    let inner = service_fn(async |request: Request<()>| {
        Trail::of(&request).authenticated(&user(), None).unwrap();
        Ok::<_, Infallible>(Response::new(Scripted::stream([Step::Data("one")])))
    });
    let stream = AuditLayer::new(audit.clone()).layer(inner).oneshot(request()).await.unwrap();
    let handled = AtomicUsize::new(0);
    while through_a_gate(&audit, Some(user()), &handled).await == 200 {}
    drop(stream);
    open.send(true).unwrap();
    audit.flush(SOON).await.unwrap();
    let ends = memory.records().into_iter().filter(|record| record.kind == Kind::End).count();
    let lost_ends: u64 = memory.records().into_iter().filter_map(|record| record.gap).map(|gap| gap.lost_ends).sum();
    assert_eq!((ends, lost_ends), (1, 0));
}

#[tokio::test]
async fn no_credential_and_no_query_is_in_a_record_or_a_debug_text() {
    let (audit, memory) = trail(Mode::Deny);
    let inner = service_fn(async |request: Request<()>| {
        let trail = Trail::of(&request);
        trail.presented(Claimed::default());
        trail.denied(&Reason::Token(TokenError::Signature));
        assert!(!format!("{trail:?}").contains("CANARY"));
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut request = Request::get("/jobs/CANARY?access_token=CANARY").body(()).unwrap();
    for name in ["authorization", "cookie", "dpop", "txn-token", "user-agent", "traceparent", "x-forwarded-for"] {
        request.headers_mut().insert(name, "Bearer CANARY".parse().unwrap());
    }
    let mut service = AuditLayer::new(audit.clone()).layer(inner);
    let future = service.call(request);
    let response = future.await.unwrap();
    assert!(!format!("{:?} {audit:?}", response.body()).contains("CANARY"));
    drop(response);
    let record = only_record(&audit, &memory).await;
    assert!(!serde_json::to_string(&record).unwrap().contains("CANARY"));
    assert!(!format!("{record:?}").contains("CANARY"));
}
