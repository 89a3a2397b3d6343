//! Time, streams and build: what a service owes Tower, what happens when something panics or goes away, and what must not be
//! in a build.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use axum::{
    Router,
    body::Body,
    extract::FromRequestParts,
    routing::{get, post},
};
use http::{Request, Response, request::Parts};
use portcullis::{
    Rules, Stack,
    audit::{Audit, Memory, Outcome},
    denial::{Denial, RenderContext},
    health::Health,
    layer::{
        StackBuilder,
        route::{MatchRoute, Matched, RouteLayer},
    },
    policy::{self, PolicyBackend},
    principal::Principal,
    route::RouteKey,
    rules::{policy_only, scopes},
    scope::all_of,
    testing::{Answer, StubBackend, TestIssuer},
};
use serde_json::{Map, Value, json};
use tokio::{net::TcpStream, sync::Barrier};
use tower::{Layer as _, Service, ServiceExt as _, util::BoxCloneSyncService};

use super::{Guarded, Ran, eventually, issuer};
use crate::{
    support::{BySubject, Log, PATIENCE, within},
    wire::{self, Ask},
};

mod t_133 {
    use super::*;

    /// A service that is not ready at first, and panics when it is called without having been polled ready itself: its clones
    /// start out unready.
    #[derive(Default)]
    struct Fussy {
        polls: usize,
        calls: Arc<AtomicUsize>,
    }

    impl Clone for Fussy {
        fn clone(&self) -> Self {
            Self { polls: 0, calls: Arc::clone(&self.calls) }
        }
    }

    impl Service<Request<Body>> for Fussy {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.polls += 1;
            if self.polls >= 2 {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            assert!(self.polls >= 2, "called without having been polled ready");
            self.polls = 0;
            self.calls.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(Response::new(Body::empty())))
        }
    }

    #[derive(Clone)]
    struct OnlyJobs;

    impl MatchRoute for OnlyJobs {
        fn match_route(&self, parts: &mut Parts) -> Option<Matched> {
            (parts.uri.path() == "/jobs")
                .then(|| Matched::new(RouteKey::Http { method: parts.method.clone(), template: "/jobs".into() }))
        }
    }

    fn rules() -> Rules {
        Rules::new().get("/jobs", scopes(all_of(["jobs:read"])))
    }

    fn request(bearer: Option<&str>) -> Request<Body> {
        let request = Request::get("/jobs");
        let request = bearer.into_iter().fold(request, |request, bearer| request.header("authorization", bearer));
        request.body(Body::empty()).unwrap()
    }

    async fn keeps_readiness<S, B>(name: &str, bearer: &str, wrap: impl FnOnce(Fussy) -> S)
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    {
        let calls = Arc::<AtomicUsize>::default();
        let mut service = wrap(Fussy { polls: 0, calls: Arc::clone(&calls) });
        let pending = service.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending();
        assert!(pending, "{name} says that it is ready, and what it wraps is not");
        for round in 1..=3 {
            let answer = service.ready().await.unwrap().call(request(Some(bearer)));
            let mut clone = service.clone();
            let other = clone.ready().await.unwrap().call(request(Some(bearer)));
            // Both are under way while the first service is made ready again.
            let third = service.ready().await.unwrap().call(request(Some(bearer)));
            for answer in [other, third, answer] {
                assert_eq!(answer.await.unwrap().status(), 200, "{name}");
            }
            assert_eq!(calls.load(Ordering::SeqCst), 3 * round, "{name}");
        }
    }

    #[tokio::test]
    async fn t_133_readiness_is_asked_of_the_very_service_that_is_called() {
        // Keys come from afar here, so that the first calls have to wait for them with the inner service in hand.
        let built = async || {
            let idp = TestIssuer::start().await;
            let stack =
                Stack::builder(issuer(&idp), rules(), StubBackend::new(Answer::Allow), Memory::new()).build().unwrap();
            let bearer = idp.token().scope("jobs:read").mint().bearer();
            (idp, stack, bearer)
        };
        let (_idp, stack, bearer) = built().await;
        let (denial, audit) = stack.outer();
        keeps_readiness("denial", &bearer, |inner| denial.layer(inner)).await;
        keeps_readiness("audit", &bearer, |inner| audit.layer(inner)).await;
        let route = RouteLayer::new(stack.rules().clone(), OnlyJobs);
        keeps_readiness("route", &bearer, |inner| route.layer(inner)).await;
        let (authenticate, ..) = stack.gates();
        keeps_readiness("authenticate", &bearer, |inner| authenticate.layer(inner)).await;

        let (_idp, stack, bearer) = built().await;
        let (denial, audit) = stack.outer();
        let (authenticate, require_scope, authorize) = stack.gates();
        let whole = |inner| {
            let gates = authenticate.layer(require_scope.layer(authorize.layer(inner)));
            denial.layer(audit.layer(route.layer(gates)))
        };
        keeps_readiness("the whole stack", &bearer, whole).await;
    }

    #[tokio::test]
    async fn t_133_clones_share_no_request_state() {
        const CALLERS: usize = 24;
        let together = Arc::new(Barrier::new(CALLERS));
        let rules = Rules::new().get("/who", policy_only());
        let house = Guarded::axum(rules, |_| {
            let who = async move |caller: Principal| {
                // Nobody is answered before everybody is inside.
                together.wait().await;
                caller.subject().map(ToString::to_string).unwrap_or_default()
            };
            Router::new().route("/who", get(who))
        })
        .await;
        let callers: Vec<_> = (0..CALLERS).map(|number| format!("caller-{number}")).collect();
        let asks: Vec<_> = callers
            .iter()
            .map(|caller| {
                let ask = Ask::get("/who").bearer(house.idp.token().subject(caller).mint().as_str());
                let address = house.host.address;
                tokio::spawn(async move { wire::http1(address, &ask).await })
            })
            .collect();
        let mut answers = Vec::new();
        for (ask, caller) in asks.into_iter().zip(&callers) {
            let answer = within("an answer", ask).await.unwrap();
            assert_eq!((answer.status, answer.text()), (200, caller.as_str()));
            answers.push((answer.request_id(), caller));
        }
        let records = house.records_since(0, CALLERS, "callers at the same time").await;
        for (id, caller) in answers {
            let record = records.iter().find(|record| record["request_id"] == id).unwrap();
            assert_eq!(record["user_id"], **caller, "{record}");
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Gate {
        Route,
        Authenticate,
        RequireScope,
        Authorize,
    }

    /// Every order of every choice of gates, outermost first.
    fn orders(chosen: &[Gate], all: &mut Vec<Vec<Gate>>) {
        all.push(chosen.to_vec());
        for gate in [Gate::Route, Gate::Authenticate, Gate::RequireScope, Gate::Authorize] {
            if !chosen.contains(&gate) {
                orders(&[chosen, &[gate]].concat(), all);
            }
        }
    }

    /// Whether a gate has what it needs on the outside.
    fn is_sound(order: &[Gate]) -> bool {
        let before = |position: usize, gate| order[..position].contains(&gate);
        order.iter().enumerate().all(|(position, gate)| match gate {
            Gate::Route | Gate::Authenticate => true,
            Gate::RequireScope | Gate::Authorize => {
                before(position, Gate::Route) && before(position, Gate::Authenticate)
            }
        })
    }

    type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

    fn stacked(order: &[Gate], stack: &Stack, ran: &Ran) -> Boxed {
        let ran = ran.clone();
        let handler = tower::service_fn(move |_: Request<Body>| {
            ran.note("handler");
            async { Ok(Response::new(Body::empty())) }
        });
        let (authenticate, require_scope, authorize) = stack.gates();
        let gated = order.iter().rev().fold(Boxed::new(handler), |inner, gate| match gate {
            Gate::Route => Boxed::new(RouteLayer::new(stack.rules().clone(), OnlyJobs).layer(inner)),
            Gate::Authenticate => Boxed::new(authenticate.layer(inner)),
            Gate::RequireScope => Boxed::new(require_scope.layer(inner)),
            Gate::Authorize => Boxed::new(authorize.layer(inner)),
        });
        let (denial, audit) = stack.outer();
        Boxed::new(denial.layer(audit.layer(gated)).map_response(|response| response.map(Body::new)))
    }

    #[tokio::test]
    async fn t_133_no_order_and_no_choice_of_gates_lets_through_what_one_of_them_refuses() {
        let (idp, other, records, ran) =
            (TestIssuer::start().await, TestIssuer::start().await, Memory::new(), Ran::default());
        let stack = Stack::builder(issuer(&idp), rules(), BySubject::new(), records.clone()).build().unwrap();
        let reader = || idp.token().subject("alice").scope("jobs:read");
        let bad = [
            ("no token", None, &[Gate::Authenticate, Gate::RequireScope, Gate::Authorize][..]),
            (
                "a forged token",
                Some(reader().signed_by(&other).mint()),
                &[Gate::Authenticate, Gate::RequireScope, Gate::Authorize],
            ),
            ("too little scope", Some(idp.token().scope("jobs:write").mint()), &[Gate::RequireScope, Gate::Authorize]),
            ("a denying policy", Some(reader().subject("denied").mint()), &[Gate::Authorize]),
        ];
        let good = reader().mint().bearer();
        let mut all = Vec::new();
        orders(&[], &mut all);
        assert_eq!(all.len(), 65);
        for order in all {
            let service = stacked(&order, &stack, &ran);
            for (name, token, gates) in &bad {
                let bearer = token.as_ref().map(|token| token.bearer());
                let status = service.clone().oneshot(request(bearer.as_deref())).await.unwrap().status();
                let handler_ran = !ran.take().is_empty();
                if order.iter().any(|gate| gates.contains(gate)) {
                    assert!(!handler_ran && !status.is_success(), "{name} passes {order:?} with {status}");
                }
            }
            let before = records.records().len() + usize::from(stack.audit().flush(PATIENCE).await.is_err());
            let status = service.oneshot(request(Some(&good))).await.unwrap().status();
            stack.audit().flush(PATIENCE).await.unwrap();
            let record = serde_json::to_value(records.records().last().unwrap()).unwrap();
            assert!(records.records().len() > before, "no record: {order:?}");
            let reason = record["reason"].as_str().unwrap_or_default();
            if is_sound(&order) {
                assert_eq!((status.as_u16(), ran.take().len(), reason), (200, 1, ""), "{order:?}");
            } else {
                // A mistake of the operator is told to the operator, and to nobody else.
                assert_eq!((status.as_u16(), ran.take().len()), (500, 0), "{order:?}");
                assert!(reason.starts_with("layer_missing_"), "{order:?}: {record}");
            }
        }
    }
}

mod t_134 {
    use super::*;

    struct Bomb;

    impl<S: Sync> FromRequestParts<S> for Bomb {
        type Rejection = Infallible;

        async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
            panic!("an extractor panics")
        }
    }

    fn rules() -> Rules {
        Rules::new()
            .get("/fine", policy_only())
            .get("/extractor", policy_only())
            .get("/handler", policy_only())
            .get("/later", policy_only())
            .get("/scope", scopes(all_of(["admin"])))
    }

    fn router(ran: &Ran) -> Router {
        ran.router(["/fine", "/scope"])
            .route("/extractor", get(async |_: Bomb| ()))
            .route(
                "/handler",
                get(async || {
                    if true {
                        panic!("a handler panics")
                    }
                }),
            )
            .route(
                "/later",
                get(async || {
                    tokio::task::yield_now().await;
                    if true {
                        panic!("a handler panics after a while")
                    }
                }),
            )
    }

    /// The answer and the record; the service must be as good as new after it.
    async fn ask(house: &Guarded, target: &str) -> (u16, Value) {
        let before = house.records.records().len();
        let ask = Ask::get(target).bearer(house.mallory().as_str());
        let answer = wire::http1(house.host.address, &ask).await;
        let record = house.records_since(before, 1, target).await.remove(0);
        assert_eq!(record["request_id"], answer.request_id(), "{record}");
        assert_eq!(record["sent"]["http"], answer.status, "{record}");
        assert!(!answer.canonical.contains("panic"), "{}", answer.canonical);
        (answer.status, record)
    }

    #[tokio::test]
    async fn t_134_a_panic_behind_the_gate_is_a_500_and_recorded() {
        let house = Guarded::axum(rules(), router).await;
        for target in ["/extractor", "/handler", "/later"] {
            let (status, record) = ask(&house, target).await;
            assert_eq!(
                (status, &record["outcome"], &record["user_id"]),
                (500, &json!("panicked"), &json!("auth0|mallory")),
                "{record}"
            );
        }
        let (status, record) = ask(&house, "/fine").await;
        assert_eq!((status, &record["outcome"]), (200, &json!("complete")), "{record}");
    }

    #[tokio::test]
    async fn t_134_a_panic_of_the_policy_adapter_is_a_500_and_never_an_allow() {
        for backend in [StubBackend::new(Answer::Panic), StubBackend::new(Answer::Panic).answering_at_once()] {
            let backend = Arc::new(backend.then(Answer::Allow));
            let shared: Arc<dyn PolicyBackend> = backend.clone();
            let house = Guarded::axum_asking(shared, rules(), router).await;
            let (status, record) = ask(&house, "/fine").await;
            assert_eq!(
                (status, &record["decision"], &record["reason"]),
                (500, &json!("error"), &json!("policy_panicked")),
                "{record}"
            );
            assert!(house.ran.take().is_empty());
            assert_eq!(ask(&house, "/fine").await.0, 200);
            assert_eq!(backend.calls(), 2);
        }
    }

    #[tokio::test]
    async fn t_134_a_panic_of_an_obligation_handler_is_never_an_allow() {
        let obliged = json!({"allow": true, "obligations": [{"id": "notify"}]});
        let policy = StubBackend::new(Answer::Result(obliged)).then(Answer::Allow);
        let configure =
            |builder: StackBuilder| builder.with_obligation("notify", |_| panic!("a handler of an obligation panics"));
        let house = Guarded::axum_built(policy, rules(), configure, router).await;
        let (status, record) = ask(&house, "/fine").await;
        assert_eq!(
            (status, &record["decision"], &record["reason"]),
            (500, &json!("error"), &json!("policy_panicked")),
            "{record}"
        );
        assert_eq!(record["policy"]["effect"], "allow", "what the policy said stays on record: {record}");
        assert!(house.ran.take().is_empty());
        assert_eq!(ask(&house, "/fine").await.0, 200);
    }

    #[tokio::test]
    async fn t_134_a_panic_of_the_renderer_is_a_500_and_recorded() {
        let configure = |builder: StackBuilder| {
            builder.with_renderer(|_: &Denial, _: &RenderContext| -> Response<bytes::Bytes> {
                panic!("a renderer panics")
            })
        };
        let house = Guarded::axum_built(policy::dangerous_allow_all(), rules(), configure, router).await;
        let (status, record) = ask(&house, "/scope").await;
        assert_eq!(
            (status, &record["decision"], &record["reason"]),
            (500, &json!("deny"), &json!("scope_insufficient")),
            "{record}"
        );
        assert!(house.ran.take().is_empty());
        assert_eq!(ask(&house, "/fine").await.0, 200);
    }

    #[tokio::test]
    async fn t_134_a_panic_of_a_grpc_service_is_an_internal_error_and_recorded() {
        let rules = Rules::new().grpc("bomb.v1.Bomb/Go", policy_only());
        let house = Guarded::tonic(rules, |_| tonic::service::Routes::new(BombService)).await;
        let ask = Ask::new(http::Method::POST, "/bomb.v1.Bomb/Go")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .bearer(house.mallory().as_str());
        let answer = wire::grpc(house.host.address, &ask).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "13"), "{}", answer.canonical);
        let record = house.records_since(0, 1, "a panic").await.remove(0);
        assert_eq!((&record["outcome"], &record["sent"]["grpc"]), (&json!("panicked"), &json!(13)), "{record}");
    }

    #[derive(Clone)]
    struct BombService;

    impl tonic::server::NamedService for BombService {
        const NAME: &'static str = "bomb.v1.Bomb";
    }

    impl<B> Service<Request<B>> for BombService {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<B>) -> Self::Future {
            panic!("a gRPC service panics")
        }
    }
}

mod t_135 {
    use super::*;

    /// What is inside the handler now, and what was in all.
    #[derive(Clone, Default)]
    struct Inside {
        entered: Arc<AtomicUsize>,
        left: Arc<AtomicUsize>,
    }

    impl Inside {
        async fn stay(self) {
            struct Leaves(Inside);
            impl Drop for Leaves {
                fn drop(&mut self) {
                    self.0.left.fetch_add(1, Ordering::SeqCst);
                }
            }
            self.entered.fetch_add(1, Ordering::SeqCst);
            let _leaves = Leaves(self);
            std::future::pending::<()>().await;
        }

        fn entered(&self) -> usize {
            self.entered.load(Ordering::SeqCst)
        }

        fn is_empty(&self) -> bool {
            self.entered() == self.left.load(Ordering::SeqCst)
        }
    }

    type Client = h2::client::SendRequest<bytes::Bytes>;
    type Open = (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>);

    struct Resets {
        house: Guarded,
        inside: Inside,
        bearer: String,
    }

    impl Resets {
        /// Room for few records, so that one slot that leaks is missed.
        const CAPACITY: usize = 64;

        async fn new() -> Self {
            let inside = Inside::default();
            let handler = inside.clone();
            let sink = Memory::new();
            let audit = Audit::builder(Arc::new(sink.clone())).with_capacity(Self::CAPACITY).start().unwrap();
            let rules = Rules::new().get("/stay", policy_only()).get("/quick", policy_only());
            let configure = |builder: StackBuilder| builder.with_audit(audit);
            let mut house = Guarded::axum_built(policy::dangerous_allow_all(), rules, configure, |ran| {
                ran.router(["/quick"]).route("/stay", get(async move || handler.stay().await))
            })
            .await;
            house.records = sink;
            let bearer = house.mallory().bearer();
            Self { house, inside, bearer }
        }

        async fn connect(&self) -> Client {
            let stream = TcpStream::connect(self.house.host.address).await.unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            client
        }

        async fn open(&self, client: &Client, path: &str) -> Open {
            let request = Request::get(format!("http://api.acme.example{path}")).header("authorization", &self.bearer);
            let mut client = within("room for a stream", client.clone().ready()).await.unwrap();
            client.send_request(request.body(()).unwrap(), false).unwrap()
        }

        /// How many requests may be in the handler at once before the audit trail refuses one more.
        async fn room(&self) -> usize {
            let client = self.connect().await;
            let mut held = Vec::new();
            loop {
                let entered = self.inside.entered();
                let (mut response, stream) = self.open(&client, "/stay").await;
                held.push(stream);
                let admitted = async {
                    while self.inside.entered() == entered {
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    }
                };
                let refused = tokio::select! {
                    () = admitted => None,
                    answer = &mut response => Some(answer.unwrap().status().as_u16()),
                    () = tokio::time::sleep(PATIENCE) => panic!("neither admitted nor refused"),
                };
                if let Some(status) = refused {
                    assert_eq!(status, 503, "what cannot be written down does not happen");
                    break;
                }
                assert!(held.len() <= Self::CAPACITY, "more requests are inside than the trail has room for");
            }
            let room = held.len() - 1;
            held.into_iter().for_each(|mut stream| stream.send_reset(h2::Reason::CANCEL));
            eventually(|| self.inside.is_empty(), "the handlers end with their streams").await;
            room
        }
    }

    #[tokio::test]
    async fn t_135_stream_resets_leak_neither_tasks_nor_room_in_the_audit_trail() {
        const ROUNDS: usize = 25;
        const STREAMS: usize = 16;
        let resets = Resets::new().await;
        let house = &resets.house;
        let room = resets.room().await;
        assert!(room >= STREAMS, "{room}");
        let before = settled(house, 0).await;
        let lost = house.stack.audit().lost();

        let client = resets.connect().await;
        let (response, _body) = resets.open(&client, "/quick").await;
        assert_eq!(within("an answer", response).await.unwrap().status(), 200);
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let tasks_before = tasks();
        for _ in 0..ROUNDS {
            let entered = resets.inside.entered();
            let mut open = Vec::new();
            for _ in 0..STREAMS {
                open.push(resets.open(&client, "/stay").await);
            }
            eventually(|| resets.inside.entered() == entered + STREAMS, "all of them are inside").await;
            for (_, stream) in &mut open {
                stream.send_reset(h2::Reason::CANCEL);
            }
            eventually(|| resets.inside.is_empty(), "the handlers end with their streams").await;
        }
        eventually(|| tasks() <= tasks_before, "the tasks end with their streams").await;

        let records = settled(house, before + 1 + ROUNDS * STREAMS).await - before;
        assert_eq!(records, 1 + ROUNDS * STREAMS, "one record for each request");
        let aborted = house
            .records
            .records()
            .iter()
            .skip(before)
            .filter(|record| record.outcome == Some(Outcome::Aborted))
            .count();
        assert_eq!(aborted, ROUNDS * STREAMS);
        assert_eq!((house.stack.audit().lost(), house.stack.health().audit), (lost, Health::Ready));
        assert_eq!(resets.room().await, room, "no room was lost");
    }

    #[tokio::test]
    async fn t_135_streams_that_are_reset_before_they_are_looked_at_cost_at_most_their_record() {
        let resets = Resets::new().await;
        let room = resets.room().await;
        let lost = resets.house.stack.audit().lost();
        for _ in 0..10 {
            // hyper ends a connection that goes on like this; the next one begins anew.
            let client = resets.connect().await;
            for _ in 0..100 {
                let Ok(mut ready) = within("room for a stream", client.clone().ready()).await else { break };
                let request = Request::get("http://api.acme.example/stay").header("authorization", &resets.bearer);
                let Ok((_, mut stream)) = ready.send_request(request.body(()).unwrap(), false) else { break };
                stream.send_reset(h2::Reason::CANCEL);
            }
        }
        eventually(|| resets.inside.is_empty(), "the handlers end with their streams").await;
        resets.house.stack.audit().flush(PATIENCE).await.unwrap();
        let answer =
            wire::http1(resets.house.host.address, &Ask::get("/quick").header("authorization", &resets.bearer)).await;
        assert_eq!(answer.status, 200);
        assert_eq!((resets.house.stack.audit().lost(), resets.room().await), (lost, room));
    }

    #[tokio::test]
    async fn t_135_no_body_is_read_before_a_decision() {
        let rules = Rules::new().on(http::Method::POST, "/jobs", scopes(all_of(["admin"])));
        let house = Guarded::axum(rules, |_| Router::new().route("/jobs", post(async |body: String| body))).await;
        let mallory = house.mallory();
        // Neither body ever comes: an answer shows that nobody waited for it.
        for framing in ["transfer-encoding: chunked", "content-length: 100000000"] {
            let head = format!("POST /jobs HTTP/1.1\r\nhost: a\r\n{framing}\r\n");
            house.raw(head.as_bytes(), None).await.assert_refused(401, "credentials_missing", framing);
            house.raw(head.as_bytes(), Some(&mallory)).await.assert_refused(403, "scope_insufficient", framing);
        }
    }

    /// How many records there are once at least so many have come.
    async fn settled(house: &Guarded, expected: usize) -> usize {
        eventually(|| house.records.records().len() >= expected, "records").await;
        house.stack.audit().flush(PATIENCE).await.unwrap();
        house.records.records().len()
    }
}

/// The larger table, with the values and remedies that the texts hold, is `tests/it/stack/config.rs`. There is no configuration
/// file whose unknown keys could be skipped: what is misspelt does not compile.
#[tokio::test]
async fn t_136_what_would_weaken_the_gate_does_not_build_and_names_its_field() {
    use std::time::Duration;

    use portcullis::{
        ConfigError, Issuer,
        key::{JwkSet, Remote},
        mint::{LocalSigner, Minter},
        outbound::OutboundBuilder,
        policy::{Opa, Rego},
        principal::{Actor, IssuerId, Subject},
        scope::any_of,
        token::Verifier,
    };
    let idp = TestIssuer::start().await;
    let oauth = |url: &str, audience: &str| Issuer::oauth(url, audience).with_keys(idp.key_set());
    let good = || oauth("https://login.acme.example/", "https://api.acme.example");
    let verifier = |issuer: Issuer| Verifier::builder(issuer).build().map(drop);
    let rules = |rules: Rules| rules.check();
    let minter = |lifetime| {
        let signer = Arc::new(LocalSigner::generate(portcullis::key::Algorithm::Ed25519).unwrap());
        let gateway = Actor::new(Subject::new("gateway"));
        let builder = Minter::builder(IssuerId::new("https://internal.example"), gateway, signer);
        builder.with_max_lifetime(lifetime).build().map(drop)
    };
    let zero = Duration::ZERO;
    let table: [(&str, Result<(), ConfigError>, &str); 33] = [
        ("the control", verifier(good()), ""),
        ("empty list of algorithms", verifier(good().with_algorithms([])), "issuer.algorithms"),
        ("empty key set", verifier(good().with_keys(JwkSet::default())), "key.source"),
        ("empty list of scopes", rules(Rules::new().get("/jobs", scopes(all_of::<&str>([])))), "rules[0]"),
        ("empty list to choose from", rules(Rules::new().get("/jobs", scopes(any_of::<&str>([])))), "rules[0]"),
        ("http issuer", verifier(oauth("http://login.acme.example/", "a")), "issuer.url"),
        ("no scheme", verifier(oauth("login.acme.example", "a")), "issuer.url"),
        ("file issuer", verifier(oauth("file:///etc/issuer", "a")), "issuer.url"),
        ("issuer with a password", verifier(oauth("https://a:b@login.acme.example/", "a")), "issuer.url"),
        ("issuer with a query", verifier(oauth("https://login.acme.example/?a=b", "a")), "issuer.url"),
        ("issuer with a fragment", verifier(oauth("https://login.acme.example/#a", "a")), "issuer.url"),
        ("blank issuer", verifier(oauth("", "a")), "issuer.url"),
        ("loopback in disguise", verifier(oauth("http://127.0.0.1.evil.example/", "a")), "issuer.url"),
        ("http key set", verifier(good().with_jwks_url("http://login.acme.example/jwks")), "key.remote.url"),
        ("blank audience", verifier(oauth("https://login.acme.example/", " ")), "issuer.audience"),
        ("second audience blank", verifier(good().add_audience("")), "issuer.audience"),
        (
            "every user's audience",
            {
                let issuer = Issuer::auth0("acme.eu.auth0.com", "https://acme.eu.auth0.com/userinfo");
                verifier(issuer.with_keys(idp.key_set()))
            },
            "issuer.audience",
        ),
        ("skew over the cap", verifier(good().with_leeway(Duration::from_secs(121))), "issuer.leeway"),
        ("no lifetime", verifier(good().with_max_lifetime(zero)), "issuer.max_lifetime"),
        (
            "no room for a token",
            Verifier::builder(good()).with_max_token_size(0).build().map(drop),
            "verifier.max_token_size",
        ),
        ("an issuer twice", Verifier::builder(good()).add_issuer(good()).build().map(drop), "issuer.url"),
        (
            "no time for keys",
            Remote::url("https://a.example/").with_deadline(zero).build().map(drop),
            "key.remote.deadline",
        ),
        (
            "no room for keys",
            Remote::url("https://a.example/").with_max_document(0).build().map(drop),
            "key.remote.max_document",
        ),
        ("no time for a call", OutboundBuilder::new(zero, 1).build().map(drop), "outbound.deadline"),
        (
            "no time to connect",
            { OutboundBuilder::new(Duration::from_secs(1), 1).with_connect_timeout(zero).build().map(drop) },
            "outbound.connect_timeout",
        ),
        (
            "no room for an answer",
            OutboundBuilder::new(Duration::from_secs(1), 0).build().map(drop),
            "outbound.max_response",
        ),
        (
            "no time for a decision",
            Opa::builder("https://opa.example").with_deadline(zero).build().map(drop),
            "policy.opa.deadline",
        ),
        (
            "no decision at a time",
            Opa::builder("https://opa.example").with_max_in_flight(0).build().map(drop),
            "policy.opa.max_in_flight",
        ),
        ("http policy server", Opa::builder("http://opa.example").build().map(drop), "policy.opa.url"),
        (
            "a rule that the policy lacks",
            {
                Rego::from_source(
                    "a.rego",
                    "package authz\n\nimport rego.v1\n\ndefault allow := false\n",
                    "data.authz.alow",
                )
                .map(drop)
            },
            "policy.rego.decision_path",
        ),
        (
            "no room for records",
            Audit::builder(Arc::new(Memory::new())).with_capacity(0).start().map(drop),
            "audit.capacity",
        ),
        ("minted tokens without a life", minter(zero), "minter.max_lifetime"),
        ("minted tokens of a day", minter(Duration::from_secs(86_400)), "minter.max_lifetime"),
    ];
    for (name, outcome, field) in table {
        let found = outcome.as_ref().err().map_or("", ConfigError::field);
        assert_eq!(found, field, "{name}: {outcome:?}");
        if let Err(error) = outcome {
            let text = error.to_string();
            assert!(text.contains(&format!("`{field}`")), "{name}: the path is not in {text:?}");
        }
    }
}

mod t_137 {
    use super::*;

    /// The features in `Cargo.toml`: name, and what it switches on.
    fn features() -> Map<String, Value> {
        let manifest = include_str!("../../../Cargo.toml");
        let section = manifest.split_once("[features]\n").unwrap().1.split("\n[").next().unwrap();
        let lines = section.lines().filter(|line| !line.starts_with('#'));
        let rows = lines.filter_map(|line| line.split_once(" = "));
        rows.map(|(name, list)| (name.to_owned(), serde_json::from_str(list).unwrap())).collect()
    }

    /// That a plain dependency does not bring it either is a step of `.ci/run` (`dependency`).
    #[test]
    fn t_137_no_feature_switches_the_test_kit_on() {
        let features = features();
        assert!(features.contains_key("testing") && features.contains_key("default") && features.contains_key("full"));
        for (name, list) in &features {
            let switches = list.as_array().unwrap().iter().any(|item| item.as_str().unwrap().ends_with("testing"));
            assert!(!switches, "`{name}` switches `testing` on");
        }
    }

    #[tokio::test]
    async fn t_137_a_release_build_with_the_test_kit_says_so_and_a_debug_build_does_not() {
        let log = Log::default();
        let _kept = log.keep();
        let idp = TestIssuer::start().await;
        let stack = Stack::builder(issuer(&idp), Rules::new(), policy::deny_all(), Memory::new()).build().unwrap();
        let is_release = !cfg!(debug_assertions);
        let logged = log.text().lines().any(|line| line.contains("ERROR") && line.contains("testing"));
        assert_eq!(logged, is_release, "{}", log.text());
        assert_eq!(stack.report().to_string().contains("RELEASE BUILD"), is_release, "{}", stack.report());
    }
}

mod t_138 {
    use super::*;
    use crate::attacks::edge::{Edge, OPTIONAL};

    #[tokio::test]
    async fn t_138_an_absent_token_is_nobody_and_a_bad_one_is_always_refused() {
        let edge = Edge::new().await;
        let (http, grpc) = edge.both(OPTIONAL, &[]).await;
        for seen in [http, grpc] {
            seen.assert_ran("no token");
            assert_eq!((&seen.record["principal"], &seen.record["user_id"]), (&json!("anonymous"), &Value::Null));
        }
        let stranger = TestIssuer::start().await;
        let good = || edge.good();
        let bound = json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"});
        for (name, token, reason) in [
            ("expired", good().expired(), "token_expired"),
            ("not yet valid", good().claim("nbf", 1_800_000_031), "token_not_yet_valid"),
            ("tampered", good().tampered(), "token_signature"),
            ("of another key", good().signed_by(&stranger), "token_signature"),
            ("of an unknown key", good().kid("unknown"), "token_unknown_key"),
            ("alg none", good().header("alg", "none").signature([]), "token_algorithm"),
            ("of another issuer", good().claim("iss", stranger.url()), "token_issuer"),
            ("for another audience", good().audience("https://other.example"), "token_audience"),
            ("of another kind", good().typ("JWT"), "token_type"),
            ("without exp", good().without("exp"), "token_claim_missing"),
            ("with an odd sub", good().claim("sub", 7), "token_claim_malformed"),
            ("bound to a key", good().claim("cnf", bound), "token_bound"),
            ("too long", good().claim("x", "x".repeat(20_000)), "token_too_long"),
        ] {
            // On a guarded route and on an optional one, over both protocols.
            edge.refuses(token.mint().as_str(), reason, name).await;
        }
        for token in ["AA", "null", "undefined", "anonymous", "guest", "-", "..", "e30.e30."] {
            edge.refuses_for_one_of(token, &["token_malformed", "token_issuer"], token).await;
        }
        edge.finds_malformed(&[b"Bearer"], "credentials_empty", "no token behind the scheme").await;
        edge.finds_malformed(&[b""], "credentials_scheme", "an empty header").await;

        // The good one is its subject there, and not nobody.
        let bearer = good().mint().bearer();
        let seen = edge.http(OPTIONAL.0, &[bearer.as_bytes()]).await;
        seen.assert_ran("a good token");
        assert_eq!(seen.record["user_id"], "auth0|mallory");
    }

    #[tokio::test]
    async fn t_138_keys_that_cannot_be_had_make_nobody_of_nobody() {
        let edge = Edge::without_keys().await;
        let bearer = edge.good().mint().bearer();
        let (http, grpc) = edge.both(OPTIONAL, &[bearer.as_bytes()]).await;
        assert_eq!((http.status, http.reason(), http.ran), (503, "keys_unavailable", false), "{http:?}");
        assert_eq!((grpc.grpc, grpc.reason(), grpc.ran), (Some(14), "keys_unavailable", false), "{grpc:?}");
        edge.http(OPTIONAL.0, &[]).await.assert_ran("no token");
    }
}
