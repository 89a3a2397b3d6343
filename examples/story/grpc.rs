//! The story's service over gRPC, `jobs.v1.Jobs`, written out by hand so that the example needs no code generator.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use portcullis::tonic::RequestExt as _;
use tonic::{Request, Response, Status, body::Body, server::NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Job {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub title: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JobList {
    #[prost(message, repeated, tag = "1")]
    pub jobs: Vec<Job>,
    /// Whom the list is for.
    #[prost(string, tag = "2")]
    pub subject: String,
}

/// `service Jobs { rpc List(Job) returns (JobList); rpc Create(Job) returns (JobList); rpc Purge(Job) returns (JobList); }`
#[derive(Clone, Debug)]
pub struct Jobs;

impl NamedService for Jobs {
    const NAME: &'static str = "jobs.v1.Jobs";
}

impl Service<http::Request<Body>> for Jobs {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let response = match request.uri().path() {
                "/jobs.v1.Jobs/List" => unary(service_fn(list), request).await,
                "/jobs.v1.Jobs/Create" | "/jobs.v1.Jobs/Purge" => unary(service_fn(change), request).await,
                _ => Status::unimplemented("").into_http(),
            };
            Ok(response)
        })
    }
}

async fn list(request: Request<Job>) -> Result<Response<JobList>, Status> {
    let subject = request.principal()?.subject().map(ToString::to_string).unwrap_or_default();
    Ok(Response::new(JobList { jobs: vec![Job { id: 1, title: "Mend the gate".into() }], subject }))
}

async fn change(request: Request<Job>) -> Result<Response<JobList>, Status> {
    let subject = request.principal()?.subject().map(ToString::to_string).unwrap_or_default();
    Ok(Response::new(JobList { jobs: vec![request.into_inner()], subject }))
}

async fn unary<S, M, R>(method: S, request: http::Request<Body>) -> http::Response<Body>
where
    S: Service<Request<M>, Response = Response<R>, Error = Status>,
    S::Future: Send + 'static,
    S: Send,
    M: prost::Message + Default + 'static,
    R: prost::Message + 'static,
{
    tonic::server::Grpc::new(ProstCodec::<R, M>::default()).unary(method, request).await
}
