//! The Tower layers: the only place that implements `Layer` and `Service`.
//!
//! Outermost first:
//!
//! | Layer | Asks | Needs further outside |
//! | --- | --- | --- |
//! | [`DenialLayer`] | how does a refusal look? | |
//! | [`AuditLayer`] | what is written down? | |
//! | `RouteLayer` of the framework's edge | which rule? | the router's match |
//! | [`AuthenticateLayer`] | who is it? | |
//! | [`RequireScopeLayer`] | may this token? | Authenticate, and Route for [`from_rules`](RequireScopeLayer::from_rules) |
//! | [`AuthorizeLayer`] | may this call? | Authenticate, Route |
//!
//! Each also works alone around any `Service<http::Request<B>>`. The three that can refuse (the gates) need a default of the
//! inner service's body: they answer with the status of the refusal's class, that body, and a [`Denial`](crate::denial::Denial)
//! in the response's extensions, from which `DenialLayer` makes the real answer. A layer that is needed and missing is an
//! internal error, logged for the operator, and never a pass. [`Stack`] puts all of them in order.

pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod denial;
#[cfg(test)]
mod probe;
mod refusal;
pub mod require_scope;
pub mod route;
mod rule;
mod stack;

pub use audit::AuditLayer;
pub use authenticate::AuthenticateLayer;
pub use authorize::AuthorizeLayer;
pub use denial::DenialLayer;
pub(crate) use refusal::refuse;
pub use require_scope::RequireScopeLayer;
pub use stack::{ExplainedRoute, Explanation, Report, Stack, StackBuilder, StackHealth};
