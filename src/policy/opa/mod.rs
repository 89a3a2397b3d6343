//! Decisions of an Open Policy Agent server.

mod builder;
mod canary;
mod reply;
mod server;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use self::builder::OpaBuilder;
use self::server::Server;
use super::{
    Decision, PolicyBackend, PolicyError, PolicyInput,
    remote::{Checked as _, Watch},
};
use crate::{ConfigError, health::Health};

/// Asks an [Open Policy Agent] server, over its [data API]: `POST /v1/data/<decision path>`.
///
/// ```
/// use portcullis::policy::Opa;
///
/// let sidecar = Opa::builder("http://localhost:8181").build()?;
/// let socket = Opa::builder("unix:///run/opa/opa.sock").with_decision_path("acme/jobs/decision").build()?;
/// assert_eq!(sidecar.decision_path(), "authz/decision");
/// # let _ = socket;
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
///
/// # What is a decision
///
/// Only a JSON answer with status 200: its `result`, read by [`Decision::from_result`], or [`Decision::undefined`] when it has none, which
/// is also what the server says of a path that does not exist. Everything else (a redirect, an error, a repeated member, more than
/// 64 KiB) is a [`PolicyError`]. Built-in functions that fail are errors (`strict-builtin-errors`), as in `policy::Rego`.
///
/// The decision's id is the server's `decision_id`, which it gives when its decision log is on. Its revision is that of the server's
/// bundles, `name=revision`, joined by commas; of a server without bundles it is the server's version, `opa:1.2.3`.
///
/// # What bounds a call
///
/// One deadline around everything. Within it the request is sent a second time when nothing was answered to the first: a decision only
/// reads. A client that is gone closes the connection (over HTTP/2, resets the stream), and the server stops evaluating. Calls over the
/// limit of those in flight are refused at once: a queue in front of a busy server would only make them late. Anonymous callers share half
/// of that room.
///
/// After several failures in a row no call is made for a while, and then one, until it is answered: the breaker
/// ([`OpaBuilder::with_breaker`]). A server that answers, whatever it answers, does not open it.
///
/// # When it is ready
///
/// [`health`](PolicyBackend::health) is what `/health?bundles` says: every bundle was activated. It is asked for in the background, from
/// the first look at the health on, and never by a request. A server that is away at start-up is no error: until it is there, requests are
/// answered 503, and the health is unavailable.
///
/// A decision path with a typing error is a server that denies everything, with status 200. [`OpaBuilder::build_probed`] finds it.
///
/// # What the server's logs and traces show
///
/// The request id, when `x-request-id` is listed in its `decision_logs.request_context.http.headers`; the trace of the caller, in
/// `traceparent` ([W3C Trace Context](https://www.w3.org/TR/trace-context/)), when the caller sent a valid one.
///
/// [Open Policy Agent]: https://www.openpolicyagent.org
/// [data API]: https://www.openpolicyagent.org/docs/rest-api#get-a-document-with-input
pub struct Opa {
    server: Arc<Server>,
    watch: Watch,
}

impl Opa {
    /// Where the decision is found unless said otherwise.
    pub const DEFAULT_DECISION_PATH: &'static str = "authz/decision";

    /// Starts with the server's address: `https`, `http` to this machine, or `unix:///path/to.sock`.
    pub fn builder(url: impl Into<String>) -> OpaBuilder {
        OpaBuilder::new(url.into())
    }

    /// Which document decides: package and rule, below `data`.
    #[must_use]
    pub fn decision_path(&self) -> &str {
        &self.server.decision_path
    }
}

#[async_trait]
impl PolicyBackend for Opa {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        self.server.link.call(&input, self.server.decide(&input)).await
    }

    /// Asks for the server's health, and then the decision path about an anonymous caller's `GET /`. Where the server is away now, the
    /// background check asks again, and the backend is not ready before the answer was a decision.
    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        self.server.preflight().await?;
        self.watch.ensure(&self.server);
        Ok(())
    }

    /// Unavailable until the server was ready once, whenever the last check failed and no decision was made since, and while the breaker
    /// refuses all calls. Degraded when the last call failed. The first look starts the checks, where there is a Tokio runtime.
    fn health(&self) -> Health {
        self.watch.ensure(&self.server);
        self.server.condition().health()
    }
}

impl fmt::Debug for Opa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opa")
            .field("decision_path", &self.server.decision_path)
            .field("deadline", &self.server.link.deadline())
            .field("max_in_flight", &self.server.link.max_in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
