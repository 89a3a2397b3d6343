use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{enforce::guarded, service::Pass};
use crate::policy::{Decision, PolicyError};

type Deciding = Pin<Box<dyn Future<Output = Result<Decision, PolicyError>> + Send>>;

pin_project! {
    /// The future of [`Authorize`](super::Authorize).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future, S::Response>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F, R> {
        Deciding { deciding: Deciding, pass: Option<Pass<S, B>> },
        Forwarding { #[pin] future: F },
        Refused { response: Option<R> },
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) const fn deciding(pass: Pass<S, B>, deciding: Deciding) -> Self {
        Self { state: State::Deciding { deciding, pass: Some(pass) } }
    }

    pub(super) const fn forwarding(future: S::Future) -> Self {
        Self { state: State::Forwarding { future } }
    }

    pub(super) const fn refused(response: S::Response) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Default,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project().state.project() {
                StateProjection::Deciding { deciding, pass } => {
                    let outcome = match guarded(|| deciding.as_mut().poll(cx)) {
                        Ok(polled) => ready!(polled),
                        Err(panicked) => Err(panicked),
                    };
                    match pass.take() {
                        Some(pass) => pass.settle(outcome),
                        None => return Poll::Pending,
                    }
                }
                StateProjection::Forwarding { future } => return future.poll(cx),
                StateProjection::Refused { response } => {
                    return response.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(it)));
                }
            };
            self.set(next);
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for ResponseFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
