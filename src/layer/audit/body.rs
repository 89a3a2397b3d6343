use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf as _;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::audit::{Guard, Phase};

pin_project! {
    /// The response body of [`AuditService`](super::AuditService): the inner one, frame by frame, watched to its end.
    #[derive(Debug)]
    pub struct AuditBody<B> {
        // Declared before the guard, and so dropped before it.
        #[pin]
        inner: B,
        guard: Option<Guard>,
    }
}

impl<B> AuditBody<B> {
    pub(super) const fn new(inner: B, guard: Option<Guard>) -> Self {
        Self { inner, guard }
    }
}

impl<B: Body> Body for AuditBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(guard) = this.guard else {
            return this.inner.poll_frame(cx);
        };
        let frame = ready!(guard.watch(Phase::Body, || this.inner.as_mut().poll_frame(cx)));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    guard.data(data.remaining());
                }
                if let Some(trailers) = frame.trailers_ref() {
                    guard.trailers(trailers);
                }
                // A server asks this, and never polls a body again that says yes.
                if guard.watch(Phase::Body, || this.inner.is_end_stream()) {
                    guard.ended();
                    // Now, and not when the body is dropped: a peer that takes nothing in keeps a body for as long as it likes.
                    guard.finish();
                }
            }
            Some(Err(_)) => guard.failed(),
            None => {
                guard.ended();
                guard.finish();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// For gates further outside, which answer with an empty body.
impl<B: Default> Default for AuditBody<B> {
    fn default() -> Self {
        Self::new(B::default(), None)
    }
}
