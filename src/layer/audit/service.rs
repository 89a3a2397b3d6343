use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{AuditBody, ResponseFuture};
use crate::audit::{Audit, Guard, Phase, Trail};

/// The service of [`AuditLayer`](super::AuditLayer): see the [module docs](super). (`Audit` is the handle's name.)
#[derive(Clone, Debug)]
pub struct AuditService<S> {
    inner: S,
    audit: Audit,
}

impl<S> AuditService<S> {
    pub(super) const fn new(inner: S, audit: Audit) -> Self {
        Self { inner, audit }
    }
}

impl<S, B, ResBody> Service<Request<B>> for AuditService<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: Body,
{
    type Response = Response<AuditBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if Trail::is_open(&request) {
            return ResponseFuture::joined(self.inner.call(request));
        }
        let mut guard = Guard::new(&self.audit, &mut request);
        // A panic waits in the future, with the guard: what stands further outside can still say what it sent instead.
        match catch_unwind(AssertUnwindSafe(|| guard.watch(Phase::Call, || self.inner.call(request)))) {
            Ok(future) => {
                guard.called();
                ResponseFuture::guarded(future, guard)
            }
            Err(panic) => ResponseFuture::panicked(panic, guard),
        }
    }
}
