//! The management APIs of Open Policy Agent: how a service is given its policies, and what it tells of itself.
//!
//! A [`Service`] is a peer that serves [bundles](https://www.openpolicyagent.org/docs/management-bundles), or takes
//! [status](https://www.openpolicyagent.org/docs/management-status) and
//! [decision logs](https://www.openpolicyagent.org/docs/management-decision-logs): Open Policy Agent's `services.<name>`.
//! [`BundleAgent`] gets bundles, keeps them, and has an engine decide by them. [`Logged`] tells a [`DecisionLog`] what was decided.

mod address;
mod agent;
mod decision_log;
mod labels;
mod service;
mod status;
mod upload;

pub(crate) use self::service::{Resource, ServiceError, check_name};
pub use self::{
    agent::{
        BundleAgent, BundleAgentBuilder, BundleEngine, BundleFailure, BundleSource, BundleStatus, Polling, WhenStale,
    },
    decision_log::{DecisionLog, DecisionLogBuilder, DecisionLogMetrics, Logged, UnsentError},
    labels::Labels,
    service::{Service, ServiceBuilder},
    status::StatusMetrics,
};
