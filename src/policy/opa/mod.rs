//! Decisions of an Open Policy Agent server.

mod builder;
mod outcome;
mod reply;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use serde::Serialize;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

pub use self::builder::OpaBuilder;
use self::outcome::Outcome;
use super::{Decision, InputFormat, PolicyBackend, PolicyError, PolicyInput};
use crate::{
    health::Health,
    outbound::{Outbound, OutboundError},
};

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
/// reads. A client that is gone closes the connection, and the server stops evaluating. Calls over the limit of those in flight are
/// refused at once: a queue in front of a busy server would only make them late.
///
/// The server's log shows the request id when `x-request-id` is listed in its `decision_logs.request_context.http.headers`.
///
/// [Open Policy Agent]: https://www.openpolicyagent.org
/// [data API]: https://www.openpolicyagent.org/docs/rest-api#get-a-document-with-input
pub struct Opa {
    outbound: Outbound,
    uri: Uri,
    decision_path: String,
    format: InputFormat,
    authorization: Option<HeaderValue>,
    deadline: Duration,
    max_in_flight: usize,
    in_flight: Semaphore,
    outcome: Outcome,
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
        &self.decision_path
    }

    async fn ask(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let request = self.request(input)?;
        let answer = tokio::time::timeout(self.deadline, self.send(request))
            .await
            .unwrap_or(Err(OutboundError::Timeout(self.deadline)))
            .map_err(|error| match error {
                OutboundError::Timeout(_) => PolicyError::timeout(error),
                OutboundError::TooLarge(_) => PolicyError::invalid_result(error),
                OutboundError::Connect(_) | OutboundError::Exchange(_) => PolicyError::unavailable(error),
            })?;
        // The client of this crate hangs up at the cap; one that the application brought may know none.
        if answer.body().len() > MAX_REPLY {
            return Err(PolicyError::invalid_result(OutboundError::TooLarge(MAX_REPLY)));
        }
        reply::read(&answer)
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, OutboundError> {
        match self.outbound.clone().oneshot(request.clone()).await {
            // Mostly a kept connection that the server has just closed. Never after a part of an answer or a timeout: that would double
            // the load of a server that is in trouble.
            Err(OutboundError::Connect(_)) => self.outbound.clone().oneshot(request).await,
            settled => settled,
        }
    }

    fn request(&self, input: &PolicyInput) -> Result<Request<Bytes>, PolicyError> {
        #[derive(Serialize)]
        struct Question<D> {
            input: D,
        }

        let body =
            serde_json::to_vec(&Question { input: self.format.document(input) }).map_err(PolicyError::evaluation)?;
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, JSON);
        if let Some(id) = request_id(&input.context.request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

#[async_trait]
impl PolicyBackend for Opa {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let _permit = self
            .in_flight
            .try_acquire()
            .map_err(|_| PolicyError::overloaded(format!("{} decisions are in flight", self.max_in_flight)))?;
        let decision = self.ask(&input).await;
        self.outcome.record(decision.as_ref().err().map(PolicyError::kind));
        decision
    }

    /// By the last call: unavailable when it could not be answered, degraded when the answer was no decision. A failure that is 10 s
    /// old only degrades: who takes no traffic while unavailable would otherwise never find out that the server is back.
    fn health(&self) -> Health {
        self.outcome.health()
    }
}

impl fmt::Debug for Opa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opa")
            .field("decision_path", &self.decision_path)
            .field("deadline", &self.deadline)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}

/// An id that is one word of visible characters, so that it is in the server's log what it is in ours.
fn request_id(id: &str) -> Option<HeaderValue> {
    let is_word = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_word.then(|| HeaderValue::from_str(id).ok()).flatten()
}

const MAX_REPLY: usize = 64 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests;
