use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::{
    denial::{MissingLayer, Reason},
    principal::Principal,
    route::{Route, RouteKey},
    rules::{Demand, PublicAccess},
    scope::ScopeRequirement,
};

/// Proof that a scope requirement is met. Made only by [`check`](Self::check).
pub(super) struct ScopeMet(());

impl ScopeMet {
    pub(super) fn check(requirement: &ScopeRequirement, principal: Option<&Principal>) -> Result<Self, Reason> {
        let principal = principal.ok_or(Reason::MissingLayer(MissingLayer::Authenticate))?;
        if requirement.is_met_by(principal.scope()) {
            return Ok(Self(()));
        }
        // Whoever sent no token is asked for one: a better token may do.
        Err(if principal.is_anonymous() { Reason::MissingCredentials } else { Reason::InsufficientScope })
    }
}

/// Proof that what a route's rule demands of the token is met. Made only by [`RuleCheck::check`].
pub(super) enum RuleMet {
    Public(PublicAccess),
    Scope(ScopeMet),
    /// The rule leaves everything but the token to the policy.
    PolicyDecides,
}

/// Compares a request with its route's rule, and warns once about each route that has none.
#[derive(Debug, Default)]
pub(super) struct RuleCheck {
    warned: Mutex<HashSet<Box<str>>>,
}

impl RuleCheck {
    pub(super) fn check(&self, route: Option<&Route>, principal: Option<&Principal>) -> Result<RuleMet, Reason> {
        let route = route.ok_or(Reason::MissingLayer(MissingLayer::Route))?;
        if let Some(public) = route.rule().and_then(|rule| rule.public_access()) {
            return Ok(RuleMet::Public(public));
        }
        let known = principal.ok_or(Reason::MissingLayer(MissingLayer::Authenticate))?;
        match (route.rule().map(|rule| rule.demand()), route.key()) {
            (Some(Demand::Scopes(requirement)), _) => ScopeMet::check(requirement, principal).map(RuleMet::Scope),
            // An anonymous principal of another rule, in a stack further outside, is no token.
            (Some(Demand::PolicyOnly), _) if known.is_anonymous() => Err(Reason::MissingCredentials),
            (Some(Demand::PolicyOnly | Demand::Optional), _) => Ok(RuleMet::PolicyDecides),
            (Some(Demand::Public { .. }) | None, None) => Err(Reason::NoRoute),
            (Some(Demand::Public { .. }) | None, Some(key)) => {
                self.warn_once(key);
                Err(Reason::NoRule)
            }
        }
    }

    fn warn_once(&self, key: &RouteKey) {
        // Not by method, which is the caller's to choose; at the gRPC edge so is the path, and no service has a name so long.
        let name = key.template();
        if name.len() + key.method().map_or(0, str::len) > MAX_NAME {
            return;
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < MAX_WARNINGS && warned.insert(name.into()) {
            tracing::warn!(
                route = %key,
                "the route has no rule and every request for it is denied: add a row to the rules"
            );
        }
    }
}

/// Neither memory nor the log may grow with what a caller can vary.
const MAX_WARNINGS: usize = 1_000;
const MAX_NAME: usize = 256;

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{
        rules::{Rules, optional, policy_only, public, scopes},
        scope::all_of,
    };

    fn check(template: &str, principal: Option<&Principal>) -> Result<RuleMet, Reason> {
        let rules = Rules::new()
            .get("/scopes", scopes(all_of(["a"])))
            .get("/policy", policy_only())
            .get("/optional", optional())
            .get("/public", public("test"))
            .into_table()
            .unwrap();
        let route = match template {
            "" => Route::unmatched(&rules),
            _ => Route::matched(&rules, RouteKey::Http { method: Method::GET, template: template.into() }),
        };
        RuleCheck::default().check(Some(&route), principal)
    }

    #[test]
    fn a_public_rule_needs_nobody_and_gives_the_public_proof() {
        assert!(matches!(check("/public", None), Ok(RuleMet::Public(_))));
    }

    #[test]
    fn without_a_principal_every_other_route_is_an_internal_error() {
        for template in ["/scopes", "/policy", "/optional", "/unlisted", ""] {
            let reason = check(template, None).err();
            assert_eq!(reason, Some(Reason::MissingLayer(MissingLayer::Authenticate)), "{template:?}");
        }
        let no_route = RuleCheck::default().check(None, Some(&Principal::anonymous())).err();
        assert_eq!(no_route, Some(Reason::MissingLayer(MissingLayer::Route)));
    }

    #[test]
    fn an_anonymous_principal_passes_optional_rules_alone() {
        let nobody = Principal::anonymous();
        assert!(matches!(check("/optional", Some(&nobody)), Ok(RuleMet::PolicyDecides)));
        for template in ["/scopes", "/policy"] {
            assert_eq!(check(template, Some(&nobody)).err(), Some(Reason::MissingCredentials), "{template}");
        }
    }

    #[test]
    fn no_route_and_no_rule_are_told_apart() {
        let nobody = Principal::anonymous();
        assert_eq!(check("/unlisted", Some(&nobody)).err(), Some(Reason::NoRule));
        assert_eq!(check("", Some(&nobody)).err(), Some(Reason::NoRoute));
    }

    #[test]
    fn warnings_are_bounded() {
        let check = RuleCheck::default();
        for number in 0..=MAX_WARNINGS {
            check.warn_once(&RouteKey::Http { method: Method::GET, template: format!("/{number}").into() });
            check.warn_once(&RouteKey::Http { method: Method::GET, template: "/0".into() });
        }
        assert_eq!(check.warned.lock().unwrap().len(), MAX_WARNINGS);
    }
}
