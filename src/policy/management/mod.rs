//! The management APIs of Open Policy Agent: how a service is given its policies, and what it tells of itself.
//!
//! A [`Service`] is a peer that serves [bundles](https://www.openpolicyagent.org/docs/management-bundles), or takes
//! [status](https://www.openpolicyagent.org/docs/management-status) and
//! [decision logs](https://www.openpolicyagent.org/docs/management-decision-logs): Open Policy Agent's `services.<name>`.

mod address;
mod decision_log;
mod service;
mod upload;

pub use decision_log::{DecisionLog, DecisionLogBuilder, DecisionLogMetrics, Logged, UnsentError};
pub(crate) use service::{Resource, ServiceError, check_name};
pub use service::{Service, ServiceBuilder};
