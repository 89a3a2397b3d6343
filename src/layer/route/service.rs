use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{MatchRoute, ResponseFuture};
use crate::{
    audit::Trail,
    denial::Reason,
    layer::refuse,
    route::{MalformedTarget, Route, target},
    rules::RuleTable,
};

/// The service of `RouteLayer`. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct SetRoute<S, M> {
    inner: S,
    rules: RuleTable,
    router: M,
}

impl<S, M: MatchRoute> SetRoute<S, M> {
    pub(super) const fn new(inner: S, rules: RuleTable, router: M) -> Self {
        Self { inner, rules, router }
    }

    fn route<B>(&self, request: Request<B>) -> (Request<B>, Result<Route, MalformedTarget>) {
        let (mut parts, body) = request.into_parts();
        let route = target(&parts.uri, &parts.headers).map(|path| {
            let route = match self.router.match_route(&mut parts) {
                Some(matched) => Route::matched(&self.rules, matched.key).with_params(matched.params),
                None => Route::unmatched(&self.rules),
            };
            route.with_path(path).with_peer(self.router.peer(&parts))
        });
        (Request::from_parts(parts, body), route)
    }
}

impl<S, M, B, ResBody> Service<Request<B>> for SetRoute<S, M>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    M: MatchRoute,
    ResBody: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut request, route) = self.route(request);
        let trail = Trail::of(&request);
        match route {
            Ok(route) => {
                trail.routed(&route);
                request.extensions_mut().insert(route);
                ResponseFuture::forwarding(self.inner.call(request))
            }
            Err(malformed) => ResponseFuture::refused(refuse(&Reason::MalformedTarget(malformed), None, &trail)),
        }
    }
}
