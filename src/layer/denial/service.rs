use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{ResponseBody, ResponseFuture};
use crate::denial::{Protocol, RenderContext, RenderDenial, RequestContext};

/// Renders refusals. See the [module docs](super).
#[derive(Clone)]
pub struct DenialService<S> {
    inner: S,
    renderer: Arc<dyn RenderDenial>,
}

impl<S> DenialService<S> {
    pub(super) const fn new(inner: S, renderer: Arc<dyn RenderDenial>) -> Self {
        Self { inner, renderer }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for DenialService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let context = match request.extensions().get::<RequestContext>() {
            Some(outer) => outer.clone(),
            None => RequestContext::new(Protocol::of(request.headers()), request.method().clone()),
        };
        let facts = RenderContext::of(&request, context.request_id().clone());
        request.extensions_mut().insert(context.clone());
        let inner = catch_unwind(AssertUnwindSafe(|| self.inner.call(request))).ok();
        ResponseFuture::new(inner, Arc::clone(&self.renderer), context, facts)
    }
}

impl<S: fmt::Debug> fmt::Debug for DenialService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenialService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
