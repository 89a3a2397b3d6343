use super::Denial;
use crate::{
    policy::{InputError, PolicyErrorKind, Refusal},
    route::{MalformedTarget, Route},
    token::{BearerError, TokenError},
};

/// The stage that refused, or the last one that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Which route is it?
    Route,
    /// Who is it?
    Authenticate,
    /// May this token?
    Scope,
    /// May this call?
    Policy,
    /// Can it be written down?
    Audit,
    /// The service itself.
    Handler,
}

impl Stage {
    /// The stable name, as audit records show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Authenticate => "authenticate",
            Self::Scope => "scope",
            Self::Policy => "policy",
            Self::Audit => "audit",
            Self::Handler => "handler",
        }
    }
}

/// Why a request was refused. For operators and the audit trail; a caller learns only the [`Denial`] that the table makes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No credentials came. Nothing was verified.
    #[error("no credentials")]
    MissingCredentials,
    /// The credentials header cannot be read as one bearer token. Nothing was verified.
    #[error("malformed credentials: {0}")]
    MalformedCredentials(BearerError),
    /// The request target is ambiguous. Nothing was verified.
    #[error("malformed request target: {0}")]
    MalformedTarget(MalformedTarget),
    /// The token was refused; the inner error says what had been verified.
    #[error("bad token: {0}")]
    Token(TokenError),
    /// The principal is authenticated; no route matched.
    #[error("no route matched")]
    NoRoute,
    /// The principal is authenticated; the matched route has no rule.
    #[error("the matched route has no rule")]
    NoRule,
    /// The principal is authenticated; the token's scope does not satisfy the rule.
    #[error("insufficient scope")]
    InsufficientScope,
    /// The principal is authenticated and the scope suffices; its tenant is not the one that the path names, or it has none.
    #[error("the tenant of the token is not that of the route")]
    TenantMismatch,
    /// The principal is authenticated and the scope suffices; the policy gives no permit.
    #[error("{0}")]
    Policy(Refusal),
    /// The route takes callers without credentials, none came, and the policy gives no permit.
    #[error("{0}, for a caller without credentials")]
    Anonymous(Refusal),
    /// The principal is authenticated and the scope suffices; there is no decision.
    #[error("no policy decision")]
    NoDecision(PolicyErrorKind),
    /// The audit trail has no room; nothing happened that would not be written down.
    #[error("the audit trail has no room")]
    AuditUnavailable,
    /// A layer that must stand further outside is missing.
    #[error("{0}")]
    MissingLayer(MissingLayer),
    /// Code of the stack, or code that it calls, panicked.
    #[error("panicked in stage {}", .0.as_str())]
    Panicked(Stage),
}

/// A predecessor that a layer needs and did not find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissingLayer {
    /// No `Route` in the request.
    #[error("the request has no `Route`: put `RouteLayer` further outside")]
    Route,
    /// No `Principal` in the request.
    #[error("the request has no `Principal`: put `AuthenticateLayer` further outside")]
    Authenticate,
}

impl Reason {
    /// The stable code, as audit records show it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MissingCredentials => "credentials_missing",
            Self::MalformedCredentials(error) => error.code(),
            Self::MalformedTarget(error) => error.code(),
            Self::Token(error) => error.code(),
            Self::NoRoute => "route_unknown",
            Self::NoRule => "rule_missing",
            Self::InsufficientScope => "scope_insufficient",
            Self::TenantMismatch => "tenant_mismatch",
            Self::Policy(refusal) | Self::Anonymous(refusal) => refusal.code(),
            Self::NoDecision(kind) => kind.code(),
            Self::AuditUnavailable => "audit_unavailable",
            Self::MissingLayer(MissingLayer::Route) => "layer_missing_route",
            Self::MissingLayer(MissingLayer::Authenticate) => "layer_missing_authenticate",
            Self::Panicked(_) => "panicked",
        }
    }

    /// The stage that refused.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::MalformedTarget(_) | Self::MissingLayer(MissingLayer::Route) => Stage::Route,
            Self::MissingCredentials
            | Self::MalformedCredentials(_)
            | Self::Token(_)
            | Self::MissingLayer(MissingLayer::Authenticate) => Stage::Authenticate,
            Self::NoRoute | Self::NoRule | Self::InsufficientScope | Self::TenantMismatch => Stage::Scope,
            Self::Policy(_) | Self::Anonymous(_) | Self::NoDecision(_) => Stage::Policy,
            Self::AuditUnavailable => Stage::Audit,
            Self::Panicked(stage) => *stage,
        }
    }
}

impl From<InputError> for Reason {
    fn from(missing: InputError) -> Self {
        Self::MissingLayer(match missing {
            InputError::NoPrincipal => MissingLayer::Authenticate,
            InputError::NoRoute => MissingLayer::Route,
        })
    }
}

impl Denial {
    /// The one table from inside to outside. `route` tells whether the route is concealed and which scope it demands.
    #[must_use]
    pub fn of(reason: &Reason, route: Option<&Route>) -> Self {
        let forbidden = || match route {
            Some(route) if route.is_concealed() => Self::concealed(),
            Some(_) | None => Self::forbidden(),
        };
        match reason {
            // The caller knows that it sent nothing; RFC 6750 §3.1: no error code then.
            Reason::MissingCredentials => Self::unauthenticated(false),
            // Whoever is not identified cannot be forbidden anything: a token may help.
            Reason::Anonymous(_) => Self::unauthenticated(false),
            // The caller knows what it sent, so saying "malformed" tells it nothing.
            Reason::MalformedCredentials(_) | Reason::MalformedTarget(_) => Self::malformed(),
            // An outage is not a bad token: a client must not throw a good one away.
            Reason::Token(TokenError::KeysUnavailable(_)) => Self::unavailable(),
            // Expired, forged, foreign, unknown key: one answer for every cause.
            Reason::Token(_) => Self::unauthenticated(true),
            // A route that does not exist answers like one that may not be used.
            Reason::NoRoute | Reason::NoRule => forbidden(),
            // The same bytes as a policy denial; the demanded scope is shown by `Guided` alone.
            Reason::InsufficientScope => forbidden()
                .with_required_scope(route.and_then(|route| route.rule()).and_then(|rule| rule.required_scope())),
            // Nor may anybody learn of which tenants there are from being refused at their routes.
            Reason::TenantMismatch => forbidden(),
            // Which rule denied, or that none spoke, stays inside.
            Reason::Policy(_) => forbidden(),
            // No decision is never an allow, and not the caller's fault.
            Reason::NoDecision(PolicyErrorKind::Panicked) => Self::internal(),
            Reason::NoDecision(_) => Self::unavailable(),
            // Closed: what cannot be written down does not happen.
            Reason::AuditUnavailable => Self::unavailable(),
            // A mis-ordered stack and a panic are our faults; the operator is told, the caller is not.
            Reason::MissingLayer(_) | Reason::Panicked(_) => Self::internal(),
        }
    }
}
