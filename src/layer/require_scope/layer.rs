use std::sync::Arc;

use tower_layer::Layer;

use super::RequireScope;
use crate::{layer::rule::RuleCheck, scope::ScopeRequirement};

/// Demands scope of the token. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct RequireScopeLayer {
    demand: Demanded,
}

#[derive(Clone, Debug)]
pub(super) enum Demanded {
    Always(Arc<ScopeRequirement>),
    ByRule(Arc<RuleCheck>),
}

impl RequireScopeLayer {
    /// Demands the same of every request.
    #[must_use]
    pub fn new(requirement: ScopeRequirement) -> Self {
        Self { demand: Demanded::Always(Arc::new(requirement)) }
    }

    /// Demands what the rule of the request's `Route` says.
    #[must_use]
    pub fn from_rules() -> Self {
        Self { demand: Demanded::ByRule(Arc::default()) }
    }
}

impl<S> Layer<S> for RequireScopeLayer {
    type Service = RequireScope<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireScope::new(inner, self.demand.clone())
    }
}
