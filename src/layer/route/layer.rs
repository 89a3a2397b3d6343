use std::{net::SocketAddr, sync::Arc};

use http::request::Parts;
use tower_layer::Layer;

use super::SetRoute;
use crate::{route::RouteKey, rules::RuleTable};

/// What a router matched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Matched {
    /// The route.
    pub key: RouteKey,
    /// The decoded path parameters, in the template's order.
    pub params: Vec<(Arc<str>, String)>,
}

impl Matched {
    /// A route without parameters.
    #[must_use]
    pub const fn new(key: RouteKey) -> Self {
        Self { key, params: Vec::new() }
    }

    /// Sets the decoded path parameters.
    #[must_use]
    pub fn with_params(mut self, params: Vec<(Arc<str>, String)>) -> Self {
        self.params = params;
        self
    }
}

/// Tells what the router of a framework matched.
///
/// Gates trust the answer: it must name what will really be called, as the framework recorded it, never what the raw path
/// looks like.
pub trait MatchRoute: Clone + Send + Sync + 'static {
    /// The route that will be called; `None` when it is none that a rule can name.
    fn match_route(&self, parts: &mut Parts) -> Option<Matched>;

    /// The address at the other end of the connection, where the server tells it. Forwarded headers are no source for it.
    fn peer(&self, parts: &Parts) -> Option<SocketAddr> {
        let _ = parts;
        None
    }
}

/// Puts the [`Route`](crate::route::Route) of each request into its extensions. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct RouteLayer<M> {
    rules: RuleTable,
    router: M,
}

impl<M: MatchRoute> RouteLayer<M> {
    /// Looks up in `rules` what `router` says that it matched.
    #[must_use]
    pub const fn new(rules: RuleTable, router: M) -> Self {
        Self { rules, router }
    }
}

impl<S, M: MatchRoute> Layer<S> for RouteLayer<M> {
    type Service = SetRoute<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        SetRoute::new(inner, self.rules.clone(), self.router.clone())
    }
}
