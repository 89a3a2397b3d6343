use std::{
    collections::HashMap,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use http::{HeaderName, Request};

use super::hush::Hush;
use crate::{
    audit::{Trail, trace},
    denial::{Reason, RequestContext},
    layer::rule::{RuleCheck, RuleMet},
    policy::{Credential, Decision, Enrichment, Obligation, Permit, PolicyError, PolicyInput, RequestHead},
    principal::Principal,
    route::Route,
    time::{Clock, SystemClock},
    token::VerifiedToken,
};

type Handler = Arc<dyn Fn(&Obligation) -> bool + Send + Sync>;

/// What the enforcement point does around the engine: puts the question, and carries the decision out.
#[derive(Clone)]
pub(super) struct Enforcement {
    pub(super) headers: Vec<HeaderName>,
    pub(super) claims: Vec<String>,
    pub(super) enrichments: Vec<Enrichment>,
    pub(super) obligations: HashMap<Arc<str>, Handler>,
    pub(super) clock: Arc<dyn Clock>,
    rule: Arc<RuleCheck>,
    hush: Arc<Hush>,
}

impl Enforcement {
    /// The route's rule once more: a stack without `RequireScopeLayer` demands no less.
    pub(super) fn check_rule<B>(&self, request: &Request<B>) -> Result<RuleMet, Reason> {
        let extensions = request.extensions();
        self.rule.check(extensions.get::<Route>(), extensions.get::<Principal>())
    }

    pub(super) fn question<B>(&self, request: &Request<B>) -> Result<PolicyInput, Reason> {
        let mut input = PolicyInput::from_request(request, &self.headers)?;
        if let Some(context) = request.extensions().get::<RequestContext>() {
            context.request_id().as_str().clone_into(&mut input.context.request_id);
        }
        (input.context.trace_id, input.context.trace_sampled) = trace(request.headers()).unwrap_or_default();
        input.context.time_ns = u64::try_from(self.clock.now().since_epoch().as_nanos()).unwrap_or(u64::MAX);
        if let Some(token) = request.extensions().get::<VerifiedToken>() {
            let named = |name: &String| Some((name.clone(), token.claims().get(name)?.clone()));
            input.subject.properties.claims = self.claims.iter().filter_map(named).collect();
            let (thumbprint, expires_at) = (token.thumbprint().clone(), token.expires_at());
            input.credential = Some(Credential { thumbprint, expires_at });
        }
        let head = RequestHead::of(request);
        for enrichment in &self.enrichments {
            guarded(|| enrichment(&head, &mut input))
                .and_then(|enriched| enriched.map_err(PolicyError::input))
                .map_err(|error| self.no_decision(&error))?;
        }
        Ok(input)
    }

    pub(super) fn enforce(&self, outcome: Result<Decision, PolicyError>, trail: &Trail) -> Result<Permit, Reason> {
        let decision = outcome.map_err(|error| self.no_decision(&error))?;
        trail.decided(&decision);
        let fulfil =
            |obligation: &Obligation| self.obligations.get(&obligation.id).is_some_and(|handler| handler(obligation));
        guarded(|| decision.enforce(fulfil)).map_err(|error| self.no_decision(&error))?.map_err(Reason::Policy)
    }

    fn no_decision(&self, error: &PolicyError) -> Reason {
        if let Some(held_back) = self.hush.passes(error.kind(), self.clock.elapsed()) {
            let cause = error.source().map(tracing::field::display);
            tracing::warn!(code = error.kind().code(), cause, held_back, "{error}");
        }
        Reason::NoDecision(error.kind())
    }
}

/// Runs code of an implementor. A panic there is neither an allow nor the end of the connection.
pub(super) fn guarded<T>(foreign: impl FnOnce() -> T) -> Result<T, PolicyError> {
    catch_unwind(AssertUnwindSafe(foreign)).map_err(|_| PolicyError::panicked())
}

impl Default for Enforcement {
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            claims: Vec::new(),
            enrichments: Vec::new(),
            obligations: HashMap::new(),
            clock: Arc::new(SystemClock),
            rule: Arc::default(),
            hush: Arc::default(),
        }
    }
}

impl fmt::Debug for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enforcement")
            .field("headers", &self.headers)
            .field("claims", &self.claims)
            .field("obligations", &self.obligations.keys())
            .finish_non_exhaustive()
    }
}
