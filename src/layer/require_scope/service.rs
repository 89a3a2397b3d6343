use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{ResponseFuture, layer::Demanded};
use crate::{
    audit::Trail,
    denial::Reason,
    layer::{
        refuse,
        rule::{RuleMet, ScopeMet},
    },
    principal::Principal,
    route::Route,
};

/// Demands scope of the token. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct RequireScope<S> {
    inner: S,
    demand: Demanded,
}

impl<S> RequireScope<S> {
    pub(super) const fn new(inner: S, demand: Demanded) -> Self {
        Self { inner, demand }
    }

    fn check<B>(&self, request: &Request<B>) -> Result<RuleMet, Reason> {
        let principal = request.extensions().get::<Principal>();
        match &self.demand {
            Demanded::Always(requirement) => ScopeMet::check(requirement, principal).map(RuleMet::Scope),
            Demanded::ByRule(rule) => rule.check(request.extensions().get::<Route>(), principal),
        }
    }

    /// The proof is the key: without one there is no way in.
    fn forward<B>(&mut self, request: Request<B>, _: RuleMet) -> ResponseFuture<S::Future, S::Response>
    where
        S: Service<Request<B>>,
    {
        ResponseFuture::forwarding(self.inner.call(request))
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireScope<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Default,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        match self.check(&request) {
            Ok(proof) => self.forward(request, proof),
            Err(reason) => {
                let route = request.extensions().get::<Route>();
                ResponseFuture::refused(refuse(&reason, route, &Trail::of(&request)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use tower_layer::Layer as _;

    use super::*;
    use crate::{
        denial::{Class, Denial},
        layer::{
            RequireScopeLayer,
            probe::{Probe, assert_tower_contract, principal, send},
        },
        route::RouteKey,
        rules::{Rules, optional, policy_only, public, scopes},
        scope::{all_of, any_of},
    };

    fn request(template: &str, principal: Option<Principal>) -> Request<()> {
        let rules = Rules::new()
            .get("/read", scopes(any_of(["jobs:read", "jobs:admin"])))
            .get("/hidden", scopes(all_of(["jobs:admin"])).concealed())
            .get("/policy", policy_only())
            .get("/optional", optional())
            .get("/public", public("test"))
            .into_table()
            .unwrap();
        let mut request = Request::new(());
        let route = match template {
            "" => Route::unmatched(&rules),
            _ => Route::matched(&rules, RouteKey::Http { method: Method::GET, template: template.into() }),
        };
        request.extensions_mut().insert(route);
        if let Some(principal) = principal {
            request.extensions_mut().insert(principal);
        }
        request
    }

    #[test]
    fn the_layer_keeps_the_tower_contract() {
        for layer in [RequireScopeLayer::from_rules(), RequireScopeLayer::new(all_of(["jobs:read"]).unwrap())] {
            assert_tower_contract(|probe| layer.layer(probe), || request("/read", Some(principal("jobs:read"))));
        }
    }

    #[test]
    fn the_rule_of_the_route_decides() {
        let someone = |scope: &str| Some(principal(scope));
        let nobody = Some(Class::Unauthenticated { credentials_sent: false });
        let cases = [
            ("one of two", "/read", someone("jobs:read"), None),
            ("another", "/read", someone("jobs:write"), Some(Class::Forbidden)),
            ("prefix", "/read", someone("jobs:rea jobs"), Some(Class::Forbidden)),
            ("no scope, policy only", "/policy", someone(""), None),
            ("nobody, optional", "/optional", Some(Principal::anonymous()), None),
            ("nobody, policy only", "/policy", Some(Principal::anonymous()), nobody),
            ("nobody, scope", "/read", Some(Principal::anonymous()), nobody),
            ("public", "/public", None, None),
            ("concealed", "/hidden", someone("jobs:read"), Some(Class::Concealed)),
            ("no rule", "/unlisted", someone("jobs:read"), Some(Class::Concealed)),
            ("no route", "", someone("jobs:read"), Some(Class::Concealed)),
            ("not authenticated", "/read", None, Some(Class::Internal)),
        ];
        for (name, template, principal, refused) in cases {
            let probe = Probe::answering();
            let mut service = RequireScopeLayer::from_rules().layer(probe.clone());
            let response = send(&mut service, request(template, principal)).unwrap();
            assert_eq!(response.extensions().get::<Denial>().map(Denial::class), refused, "{name}");
            assert_eq!(response.status(), refused.map_or(StatusCode::OK, Class::http_status), "{name}");
            assert_eq!(probe.calls(), usize::from(refused.is_none()), "{name}");
        }
    }

    #[test]
    fn one_requirement_for_all_needs_no_route() {
        let layer = RequireScopeLayer::new(all_of(["jobs:read", "jobs:write"]).unwrap());
        for (scope, status) in [("jobs:read", StatusCode::FORBIDDEN), ("jobs:write jobs:read", StatusCode::OK)] {
            let mut request = Request::new(());
            request.extensions_mut().insert(principal(scope));
            assert_eq!(send(&mut layer.layer(Probe::answering()), request).unwrap().status(), status, "{scope}");
        }
    }

    #[test]
    fn without_a_route_rules_refuse_as_an_internal_error() {
        let mut request = Request::new(());
        request.extensions_mut().insert(principal("jobs:read"));
        let probe = Probe::answering();
        let response = send(&mut RequireScopeLayer::from_rules().layer(probe.clone()), request).unwrap();
        assert_eq!((response.status(), probe.calls()), (StatusCode::INTERNAL_SERVER_ERROR, 0));
    }
}
