use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::{
    denial::{MissingLayer, Reason},
    principal::Principal,
    route::{Route, RouteKey},
    rules::{Demand, PublicAccess, Rule},
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

/// Proof that the token's tenant is the one that the path names, where the rule demands it. Made only by [`check`](Self::check).
pub(super) struct TenantMet(());

impl TenantMet {
    fn check(rule: &Rule, route: &Route, principal: &Principal) -> Result<Self, Reason> {
        if rule.tenant_param().is_none() {
            return Ok(Self(()));
        }
        if principal.is_anonymous() {
            return Err(Reason::MissingCredentials);
        }
        match (principal.tenant(), rule.tenant_of_path(route.params())) {
            (Some(own), Some(named)) if own.as_str() == named => Ok(Self(())),
            _ => Err(Reason::TenantMismatch),
        }
    }
}

/// Proof that what a route's rule demands of the token is met. Made only by [`RuleCheck::check`].
pub(super) enum RuleMet {
    Public(PublicAccess),
    /// No rule was asked: the same scope is demanded of every request.
    Scope(ScopeMet),
    ScopeAndTenant(ScopeMet, TenantMet),
    /// The rule leaves everything but the token and its tenant to the policy.
    PolicyDecides(TenantMet),
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
        let Some(rule) = route.rule() else {
            return Err(self.without_rule(route));
        };
        let tenant = || TenantMet::check(rule, route, known);
        match rule.demand() {
            Demand::Scopes(requirement) => {
                Ok(RuleMet::ScopeAndTenant(ScopeMet::check(requirement, principal)?, tenant()?))
            }
            // An anonymous principal of another rule, in a stack further outside, is no token.
            Demand::PolicyOnly if known.is_anonymous() => Err(Reason::MissingCredentials),
            Demand::PolicyOnly | Demand::Optional => tenant().map(RuleMet::PolicyDecides),
            Demand::Public { .. } => Err(self.without_rule(route)),
        }
    }

    fn without_rule(&self, route: &Route) -> Reason {
        let Some(key) = route.key() else {
            return Reason::NoRoute;
        };
        self.warn_once(key);
        Reason::NoRule
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
        layer::probe::tenant_principal,
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
        assert!(matches!(check("/optional", Some(&nobody)), Ok(RuleMet::PolicyDecides(_))));
        for template in ["/scopes", "/policy"] {
            assert_eq!(check(template, Some(&nobody)).err(), Some(Reason::MissingCredentials), "{template}");
        }
    }

    #[test]
    fn a_tenant_is_demanded_after_scope_and_must_be_the_one_in_the_path() {
        let rules = Rules::new()
            .get("/{org}/bills", scopes(all_of(["a"])).with_tenant_param("org"))
            .get("/{org}", optional().with_tenant_param("org"))
            .into_table()
            .unwrap();
        let ask = |template: &str, org: &[&str], principal: &Principal| {
            let key = RouteKey::Http { method: Method::GET, template: template.into() };
            let params = org.iter().map(|org| ("org".into(), (*org).to_owned())).collect();
            let route = Route::matched(&rules, key).with_params(params);
            RuleCheck::default().check(Some(&route), Some(principal)).err()
        };
        let (acme, mismatch) = (tenant_principal("a", Some("acme")), Some(Reason::TenantMismatch));
        let table = [
            ("its own", "/{org}/bills", vec!["acme"], acme.clone(), None),
            ("its own, without scope demanded", "/{org}", vec!["acme"], acme.clone(), None),
            ("another", "/{org}/bills", vec!["evil"], acme.clone(), mismatch.clone()),
            ("another case", "/{org}/bills", vec!["ACME"], acme.clone(), mismatch.clone()),
            ("longer", "/{org}/bills", vec!["acme "], acme.clone(), mismatch.clone()),
            ("encoded once more", "/{org}/bills", vec!["%61cme"], acme.clone(), mismatch.clone()),
            ("nothing in the path", "/{org}/bills", vec![], acme.clone(), mismatch.clone()),
            ("two in the path", "/{org}/bills", vec!["acme", "evil"], acme.clone(), mismatch.clone()),
            ("no tenant", "/{org}/bills", vec!["acme"], tenant_principal("a", None), mismatch.clone()),
            ("no tenant and nothing in the path", "/{org}", vec![], tenant_principal("a", None), mismatch),
            (
                "neither scope nor tenant",
                "/{org}/bills",
                vec!["evil"],
                tenant_principal("b", Some("acme")),
                Some(Reason::InsufficientScope),
            ),
            ("nobody", "/{org}/bills", vec!["acme"], Principal::anonymous(), Some(Reason::MissingCredentials)),
            ("nobody, optional", "/{org}", vec!["acme"], Principal::anonymous(), Some(Reason::MissingCredentials)),
        ];
        for (name, template, org, principal, expected) in table {
            assert_eq!(ask(template, &org, &principal), expected, "{name}");
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
