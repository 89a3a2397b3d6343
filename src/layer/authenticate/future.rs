use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::service::Pass;
use crate::{
    time::UnixTime,
    token::{AccessToken, Refused, VerifiedToken, Verifier},
};

pin_project! {
    /// The future of [`Authenticate`](super::Authenticate).
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
        Verifying { verifying: Verifying, pass: Option<Pass<S, B>> },
        Forwarding { #[pin] future: F },
        Refused { response: Option<R> },
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) const fn verifying(pass: Pass<S, B>, verifying: Verifying) -> Self {
        Self { state: State::Verifying { verifying, pass: Some(pass) } }
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
                StateProjection::Verifying { verifying, pass } => {
                    let outcome = ready!(verifying.0.as_mut().poll(cx));
                    match pass.take() {
                        Some(pass) => pass.settle(outcome),
                        None => return Poll::Pending,
                    }
                }
                StateProjection::Forwarding { future } => return future.poll(cx),
                StateProjection::Refused { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response)),
                    None => return Poll::Pending,
                },
            };
            self.set(next);
        }
    }
}

/// A verification that waits for keys.
pub(super) struct Verifying(Pin<Box<dyn Future<Output = Result<VerifiedToken, Refused>> + Send>>);

impl Verifying {
    pub(super) fn new(verifier: Verifier, token: AccessToken, now: UnixTime) -> Self {
        Self(Box::pin(async move {
            let outcome = verifier.verify(&token, now).await;
            outcome.map_err(|error| Refused { error, claimed: verifier.claimed(&token) })
        }))
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for ResponseFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
