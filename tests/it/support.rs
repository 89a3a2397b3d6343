//! What several modules need: hosts on loopback, a policy that answers by the caller's name, the records of a request.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, extract::Request, response::Response};
use http_body_util::BodyExt as _;
use portcullis::{
    Stack,
    audit::{AuditError, AuditRecord, AuditSink, Kind, Memory},
    policy::{Decision, PolicyBackend, PolicyError, PolicyInput, PolicyRevision},
    testing::{RecordingSink, TestIssuer, TokenBuilder},
    token::Claims,
    tonic::RequestExt as _,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt as _;

/// What the tokens of these tests must be for.
pub const AUDIENCE: &str = TestIssuer::AUDIENCE;

/// Ends a wait that goes wrong; nothing here takes anywhere near as long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A user's token with the scope `jobs:read`.
pub fn alice(idp: &TestIssuer) -> TokenBuilder {
    idp.token().subject("auth0|alice").client("web").scope("jobs:read")
}

/// Awaits with an end.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// A policy that decides by who asks, so that one stack can show every outcome.
pub struct BySubject {
    calls: AtomicUsize,
    /// Asked for the subject `stalled`.
    stalled: Option<Arc<dyn PolicyBackend>>,
}

impl BySubject {
    pub fn new() -> Self {
        Self { calls: AtomicUsize::new(0), stalled: None }
    }

    pub fn with_stalled(stalled: Arc<dyn PolicyBackend>) -> Self {
        Self { calls: AtomicUsize::new(0), stalled: Some(stalled) }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl PolicyBackend for BySubject {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let revision = PolicyRevision::new("by-subject-1");
        const CAUSE: &str = "told to fail";
        match input.subject.id.as_str() {
            "denied" => Ok(Decision::deny(revision).add_reason("told to deny")),
            "undefined" => Ok(Decision::undefined(revision)),
            "obliged" => Ok(Decision::allow(revision).add_obligation("no-such-handler", serde_json::Map::new())),
            "odd" => Decision::from_result(&Value::Null, revision),
            "unreachable" => Err(PolicyError::unavailable(CAUSE)),
            "overloaded" => Err(PolicyError::overloaded(CAUSE)),
            "failing" => Err(PolicyError::evaluation(CAUSE)),
            "panicking" => panic!("told to panic"),
            "stalled" => match &self.stalled {
                Some(stalled) => Arc::clone(stalled).decide(input).await,
                None => std::future::pending().await,
            },
            // Nobody known, where only members may.
            "" if input.resource.id.ends_with("embers") => Ok(Decision::deny(revision)),
            _ => Ok(Decision::allow(revision)),
        }
    }
}

/// Counts how often a handler was reached.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn total(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A server on loopback, gone when dropped.
pub struct Host {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Host {
    /// As users serve it, with the peer's address.
    pub async fn axum(service: portcullis::axum::Protected) -> Self {
        let (listener, address) = listen().await;
        let task = tokio::spawn(async move {
            drop(axum::serve(listener, service.into_make_service_with_connect_info::<SocketAddr>()).await);
        });
        Self { address, task }
    }

    pub async fn router(router: axum::Router) -> Self {
        let (listener, address) = listen().await;
        let task = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Self { address, task }
    }

    pub async fn tonic(service: portcullis::tonic::Protected) -> Self {
        let (listener, address) = listen().await;
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().http2_max_header_list_size(Some(ROOM_FOR_HEADERS));
        let task = tokio::spawn(async move { drop({ server }.serve_with_incoming(service, incoming).await) });
        Self { address, task }
    }

    /// With more room for headers than hyper's default over HTTP/2, which would refuse an oversize token before the stack sees it.
    pub async fn roomy(service: portcullis::axum::Protected) -> Self {
        let (listener, address) = listen().await;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper_util::service::TowerToHyperService::new(service.clone());
                tokio::spawn(async move {
                    let mut server = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    server.http2().max_header_list_size(ROOM_FOR_HEADERS);
                    let stream = hyper_util::rt::TokioIo::new(stream);
                    drop(server.serve_connection_with_upgrades(stream, service).await);
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const ROOM_FOR_HEADERS: u32 = 256 * 1024;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that takes connections and never answers.
pub async fn silent_address() -> (SocketAddr, JoinHandle<()>) {
    let (listener, address) = listen().await;
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    (address, task)
}

/// The records so far, as JSON.
pub async fn records(stack: &Stack, memory: &Memory) -> Vec<Value> {
    stack.audit().flush(PATIENCE).await.unwrap();
    memory.records().iter().map(|record| serde_json::to_value(record).unwrap()).collect()
}

/// The only record so far.
pub async fn only_record(stack: &Stack, memory: &Memory) -> Value {
    let mut records = records(stack, memory).await;
    assert_eq!(records.len(), 1, "{records:#?}");
    records.remove(0)
}

/// One request in the process; the answer with its whole body.
pub async fn send<S>(service: S, request: Request) -> Response<String>
where
    S: tower::Service<Request, Response = Response, Error = Infallible>,
{
    let response = within("an answer", service.oneshot(request)).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = within("a body", body.collect()).await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(body.to_vec()).unwrap())
}

pub fn get(path: &str) -> Request {
    Request::get(path).body(Body::empty()).unwrap()
}

pub fn get_with(path: &str, bearer: &str) -> Request {
    Request::get(path).header("authorization", bearer).body(Body::empty()).unwrap()
}

/// A sink that lets a test hold on to the [`RecordingSink`] it hands over.
#[derive(Clone, Default)]
pub struct SharedSink(pub Arc<RecordingSink>);

#[async_trait::async_trait]
impl AuditSink for SharedSink {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        Arc::clone(&self.0).write(records).await
    }
}

/// How many records of this kind.
pub fn count(records: &[AuditRecord], kind: Kind) -> usize {
    records.iter().filter(|record| record.kind == kind).count()
}

/// What was logged while it was kept, at every level.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Keeps what this thread logs until the guard is dropped.
    pub fn keep(&self) -> tracing::subscriber::DefaultGuard {
        // While there is only one dispatcher, a place in the code that logs for the first time is judged by the thread that
        // comes by first, which may be another test's without a log, and then for all. With a second one, all are asked.
        static SECOND: LazyLock<tracing::Dispatch> =
            LazyLock::new(|| tracing::Dispatch::new(tracing_subscriber::registry()));
        LazyLock::force(&SECOND);
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::level_filters::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The gRPC service `jobs.v1.Jobs`: `Caller` answers with who is calling, if anybody, `Department` with a claim, and every other
/// method with who is calling and how its token is called.
#[derive(Clone)]
pub struct GrpcService(Counter);

impl GrpcService {
    pub const fn new(handled: Counter) -> Self {
        Self(handled)
    }
}

impl tonic::server::NamedService for GrpcService {
    const NAME: &'static str = "jobs.v1.Jobs";
}

impl tower::Service<http::Request<tonic::body::Body>> for GrpcService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        self.0.count();
        let codec = tonic_prost::ProstCodec::<String, ()>::default();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(codec);
            Ok(match request.uri().path() {
                "/jobs.v1.Jobs/Caller" => grpc.unary(tower::service_fn(caller), request).await,
                "/jobs.v1.Jobs/Department" => grpc.unary(tower::service_fn(department), request).await,
                _ => grpc.unary(tower::service_fn(who), request).await,
            })
        })
    }
}

async fn caller(request: tonic::Request<()>) -> Result<tonic::Response<String>, tonic::Status> {
    let caller = request.optional_principal()?;
    Ok(tonic::Response::new(caller.map_or_else(|| "nobody".to_owned(), |caller| caller.subject().unwrap().to_string())))
}

async fn department(request: tonic::Request<()>) -> Result<tonic::Response<String>, tonic::Status> {
    let Claims(Department { department }) = request.claims()?;
    Ok(tonic::Response::new(department))
}

/// The claim of these tests that is no business of the crate.
#[derive(Deserialize)]
pub struct Department {
    pub department: String,
}

async fn who(request: tonic::Request<()>) -> Result<tonic::Response<String>, tonic::Status> {
    let subject = request.principal()?.subject().map_or("nobody", |subject| subject.as_str()).to_owned();
    let token = match request.verified_token() {
        Ok(token) => token.token_id().map_or("unnamed", |id| id.as_str()).to_owned(),
        Err(status) => format!("{:?}", status.code()),
    };
    Ok(tonic::Response::new(format!("{subject} {token}")))
}

/// A connection of a real gRPC client.
pub async fn channel(address: SocketAddr) -> tonic::transport::Channel {
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
    within("a connection", endpoint.connect()).await.unwrap()
}

/// One unary call of a real gRPC client.
pub async fn unary(
    channel: tonic::transport::Channel,
    path: &str,
    bearer: Option<&str>,
) -> Result<String, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel);
    let mut request = tonic::Request::new(());
    if let Some(bearer) = bearer {
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
    }
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), String>::default();
    let call = client.unary::<(), String, _>(request, path.parse().unwrap(), codec);
    within("a gRPC call", call).await.map(tonic::Response::into_inner)
}

/// Waits until no request has to wait for keys.
pub async fn keys_are_loaded(stack: &Stack) {
    within("the first load of keys", async {
        while !stack.health().keys.is_serving() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
