use std::{
    any::Any,
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::AuditBody;
use crate::audit::{Guard, Phase};

pin_project! {
    /// The future of [`AuditService`](super::AuditService). Dropped early, it leaves the record of an aborted request.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // Declared before the guard, and so dropped before it: what the inside still does is in the record.
        #[pin]
        inner: Option<F>,
        panic: Option<Box<dyn Any + Send>>,
        guard: Option<Guard>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) const fn joined(inner: F) -> Self {
        Self { inner: Some(inner), panic: None, guard: None }
    }

    pub(super) const fn guarded(inner: F, guard: Guard) -> Self {
        Self { inner: Some(inner), panic: None, guard: Some(guard) }
    }

    /// The inner service panicked when it was called; the first poll goes on with that.
    pub(super) const fn panicked(panic: Box<dyn Any + Send>, guard: Guard) -> Self {
        Self { inner: None, panic: Some(panic), guard: Some(guard) }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<AuditBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            match this.panic.take() {
                Some(panic) => resume_unwind(panic),
                None => return Poll::Pending,
            }
        };
        let Some(guard) = this.guard else {
            return inner.poll(cx).map_ok(|response| response.map(|body| AuditBody::new(body, None)));
        };
        let result = ready!(guard.watch(Phase::Head, || inner.poll(cx)));
        match &result {
            Ok(response) => guard.answered(response),
            Err(_) => guard.failed(),
        }
        // Taken out on both ways: an error drops it here, which writes the record.
        let guard = this.guard.take();
        Poll::Ready(result.map(|response| response.map(|body| AuditBody::new(body, guard))))
    }
}
