//! May this call happen? One question per request, one decision, one place where rules live.
//!
//! A [`PolicyBackend`] is asked with a [`PolicyInput`] and answers with a [`Decision`]; [`Decision::enforce`] turns it into a
//! [`Permit`] or a [`Refusal`]. A backend that cannot decide answers with a [`PolicyError`], which is never an allow: the
//! request is refused as unavailable.

#[cfg(feature = "authzen")]
pub mod authzen;
mod backend;
#[cfg(feature = "bundles")]
pub mod bundle;
mod combine;
mod decision;
mod enrich;
mod explain;
mod fixed;
mod input;
#[cfg(feature = "opa-management")]
pub mod management;
#[cfg(feature = "opa")]
mod opa;
mod reads;
#[cfg(feature = "rego")]
mod rego;
#[cfg(any(feature = "authzen", feature = "opa"))]
mod remote;
#[cfg(feature = "opa-wasm")]
mod wasm;

#[cfg(feature = "authzen")]
pub use authzen::{AuthZen, AuthZenBuilder};
pub use backend::{PolicyBackend, PolicyError, PolicyErrorKind, PolicyInForce};
pub use combine::{
    AllOf, CacheMetrics, Cached, CachedBuilder, Shadow, ShadowBuilder, ShadowDifference, ShadowMetrics, Standby,
};
pub use decision::{Advice, Decision, DecisionId, Effect, Obligation, Permit, PolicyRevision, Refusal};
pub(crate) use enrich::Enrichment;
pub use enrich::RequestHead;
pub use explain::{
    ExplainedDefinition, ExplainedError, ExplainedRule, FailedCondition, PolicyExplanation, ReadPart, RecordedOutcome,
};
pub(crate) use explain::{Paint, Tone, plain};
#[cfg(feature = "rego")]
pub use explain::{Recorded, RecordedError};
pub use fixed::{Fixed, dangerous_allow_all, deny_all};
pub use input::{
    Action, ActionProperties, ActorInput, Context, InputError, InputFormat, Peer, PolicyInput, Resource,
    ResourceProperties, SubjectInput, SubjectProperties,
};
pub(crate) use input::{Credential, carries_credentials};
#[cfg(feature = "opa-management")]
pub use management::{BundleAgent, BundleAgentBuilder};
#[cfg(feature = "opa")]
pub use opa::{Opa, OpaBuilder};
pub use reads::Reads;
#[cfg(feature = "cli")]
pub(crate) use rego::{Case, Fault, FaultKind, Outcome, Suite, Verdict, faults};
#[cfg(feature = "rego")]
pub use rego::{PolicySet, Rego, RegoBuilder, Watch, WatchSettings};
#[cfg(feature = "opa-wasm")]
pub use wasm::{CompiledPolicy, Wasm, WasmBuilder};
