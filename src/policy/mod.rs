//! May this call happen? One question per request, one decision, one place where rules live.
//!
//! A [`PolicyBackend`] is asked with a [`PolicyInput`] and answers with a [`Decision`]; [`Decision::enforce`] turns it into a
//! [`Permit`] or a [`Refusal`]. A backend that cannot decide answers with a [`PolicyError`], which is never an allow: the
//! request is refused as unavailable.

mod backend;
#[cfg(feature = "bundles")]
pub mod bundle;
mod decision;
mod fixed;
mod input;
#[cfg(feature = "opa")]
mod opa;
#[cfg(feature = "rego")]
mod rego;

pub use backend::{PolicyBackend, PolicyError, PolicyErrorKind};
pub use decision::{Advice, Decision, DecisionId, Effect, Obligation, Permit, PolicyRevision, Refusal};
pub use fixed::{Fixed, dangerous_allow_all, deny_all};
pub(crate) use input::carries_credentials;
pub use input::{
    Action, ActionProperties, ActorInput, Context, InputError, Peer, PolicyInput, Resource, ResourceProperties,
    SubjectInput, SubjectProperties,
};
#[cfg(feature = "opa")]
pub use opa::{Opa, OpaBuilder};
#[cfg(feature = "rego")]
pub use rego::{Rego, RegoBuilder};
