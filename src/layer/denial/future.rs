use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use pin_project_lite::pin_project;

use super::ResponseBody;
use crate::denial::{Denial, RenderContext, RenderDenial, RequestContext, Sent};

pin_project! {
    /// The future of [`DenialService`](super::DenialService).
    pub struct ResponseFuture<F> {
        // `None` when the inner service panicked.
        #[pin]
        inner: Option<F>,
        exit: Exit,
    }
}

/// The one way out: everything that a response needs on it.
struct Exit {
    renderer: Arc<dyn RenderDenial>,
    context: RequestContext,
    facts: RenderContext,
}

impl<F> ResponseFuture<F> {
    pub(super) const fn new(
        inner: Option<F>,
        renderer: Arc<dyn RenderDenial>,
        context: RequestContext,
        facts: RenderContext,
    ) -> Self {
        Self { inner, exit: Exit { renderer, context, facts } }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let polled = match this.inner.as_mut().as_pin_mut() {
            Some(inner) => catch_unwind(AssertUnwindSafe(|| inner.poll(cx))).ok(),
            None => None,
        };
        let Some(poll) = polled else {
            tracing::error!(request_id = %this.exit.context.request_id(), "the service panicked; answering with an internal error");
            let response = this.exit.refuse(&Denial::internal());
            // An audit guard inside writes its record when it is dropped: what was sent is known by now. What else is
            // dropped may panic once more.
            let _ = catch_unwind(AssertUnwindSafe(|| this.inner.set(None)));
            return Poll::Ready(Ok(response));
        };
        let mut response = ready!(poll)?;
        Poll::Ready(Ok(match response.extensions_mut().remove::<Denial>() {
            Some(denial) => {
                let rendered = this.exit.refuse(&denial);
                // After `refuse`, for the same reason.
                drop(response);
                rendered
            }
            None => this.exit.pass(response),
        }))
    }
}

impl Exit {
    fn pass<B>(&self, response: Response<B>) -> Response<ResponseBody<B>> {
        self.name(response.map(ResponseBody::inner))
    }

    fn refuse<B>(&self, denial: &Denial) -> Response<ResponseBody<B>> {
        let render = || self.renderer.render(denial, &self.facts);
        let rendered = catch_unwind(AssertUnwindSafe(render)).unwrap_or_else(|_| {
            tracing::error!(request_id = %self.context.request_id(), "the renderer panicked; answering with a bare internal error");
            let mut bare = Response::new(Bytes::new());
            *bare.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            bare
        });
        let grpc = rendered.headers().get(GRPC_STATUS).and_then(|code| code.to_str().ok()?.parse().ok());
        self.context.set_sent(Sent::new(rendered.status().as_u16(), grpc));
        self.name(rendered.map(ResponseBody::rendered))
    }

    fn name<B>(&self, mut response: Response<B>) -> Response<B> {
        if let Ok(id) = HeaderValue::try_from(self.context.request_id().as_str()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Request;
    use http_body_util::BodyExt as _;
    use tower_layer::Layer as _;
    use tower_service::Service;

    use super::*;
    use crate::{
        denial::{Reason, Renderer},
        layer::{
            DenialLayer,
            probe::{Behaviour, Body, Probe, answered, assert_tower_contract, send},
        },
    };

    type Inner = std::future::Ready<Result<Response<Body>, &'static str>>;

    fn refusing() -> impl Service<Request<()>, Response = Response<Body>, Error = &'static str, Future = Inner> {
        tower::service_fn(|_: Request<()>| {
            let mut response =
                Response::builder().header("allow", "GET").header("set-cookie", "a=b").body(Body::from("why")).unwrap();
            response.extensions_mut().insert(Denial::of(&Reason::NoRule, None));
            answered(response)
        })
    }

    #[test]
    fn the_layer_keeps_the_tower_contract() {
        let layer = DenialLayer::api("r").unwrap();
        assert_tower_contract(|probe| layer.layer(probe), || Request::new(()));
    }

    #[tokio::test]
    async fn a_refusal_is_rendered_from_nothing() {
        let response = send(&mut DenialLayer::api("r").unwrap().layer(refusing()), Request::new(())).unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(
            names,
            ["content-type", "content-length", "cache-control", "x-content-type-options", "x-request-id"]
        );
        let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), length);
    }

    #[test]
    fn an_answer_passes_with_our_request_id() {
        let probe = Probe::answering();
        let mut service = DenialLayer::api("r").unwrap().layer(probe.clone());
        let response = send(&mut service, Request::builder().header("x-request-id", "sent").body(()).unwrap()).unwrap();
        let context = probe.last().extensions.remove::<RequestContext>().unwrap();
        assert_eq!(response.headers()["x-inner"], "1");
        let ids: Vec<_> = response.headers().get_all(REQUEST_ID).iter().collect();
        assert_eq!(ids, [context.request_id().as_str()]);
        assert_eq!(context.sent(), None);
    }

    #[test]
    fn a_stack_in_a_stack_speaks_of_one_request() {
        let layer = DenialLayer::api("r").unwrap();
        let probe = Probe::answering();
        let response = send(&mut layer.layer(layer.layer(probe.clone())), Request::new(())).unwrap();
        let context = probe.last().extensions.remove::<RequestContext>().unwrap();
        assert_eq!(response.headers()[REQUEST_ID], context.request_id().as_str());
    }

    #[test]
    fn a_panic_in_call_or_poll_is_an_internal_error() {
        for behaviour in [Behaviour::PanicInCall, Behaviour::PanicInPoll] {
            let mut service = DenialLayer::api("r").unwrap().layer(Probe::new(behaviour));
            let response = send(&mut service, Request::new(())).unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert!(response.headers().contains_key(REQUEST_ID));
        }
    }

    #[test]
    fn what_was_sent_is_known_before_anything_inside_is_dropped() {
        /// Stands for the audit guard: in the future while it runs, then in the body.
        struct Guard(RequestContext, Arc<Mutex<Vec<Option<Sent>>>>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.1.lock().unwrap().push(self.0.sent());
            }
        }
        impl Default for Guard {
            fn default() -> Self {
                unreachable!("the body comes from the service")
            }
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        for (path, expected) in [("/refused", Sent::new(200, Some(7))), ("/panics", Sent::new(200, Some(13)))] {
            let seen_inside = Arc::clone(&seen);
            let service = tower::service_fn(move |request: Request<()>| {
                let guard =
                    Guard(request.extensions().get::<RequestContext>().unwrap().clone(), Arc::clone(&seen_inside));
                let mut guard = Some(guard);
                std::future::poll_fn(move |_| {
                    assert!(request.uri().path() == "/refused", "panics with the guard in the future");
                    let mut response = Response::new(guard.take().unwrap());
                    response.extensions_mut().insert(Denial::of(&Reason::NoRule, None));
                    Poll::Ready(Ok::<_, &'static str>(response))
                })
            });
            let request = Request::post(path).header("content-type", "application/grpc").body(()).unwrap();
            drop(send(&mut DenialLayer::new(Renderer::default()).layer(service), request));
            assert_eq!(seen.lock().unwrap().pop(), Some(Some(expected)), "{path}");
        }
    }

    #[test]
    fn a_panicking_renderer_is_a_bare_internal_error() {
        let layer = DenialLayer::new(|_: &Denial, _: &RenderContext| -> Response<Bytes> { panic!("renderer") });
        let response = send(&mut layer.layer(refusing()), Request::new(())).unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers().len(), 1);
    }
}
