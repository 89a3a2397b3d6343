use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use serde::Serialize;
use tower::ServiceExt as _;

use super::{canary, condition::Condition, reply};
use crate::{
    ConfigError,
    audit::traceparent,
    outbound::{Outbound, OutboundError},
    policy::{Decision, InputFormat, PolicyError, PolicyInput},
};

/// The server: how it is asked, and what is known of it.
pub(super) struct Server {
    pub(super) outbound: Outbound,
    pub(super) uri: Uri,
    pub(super) health_uri: Uri,
    pub(super) has_checks: bool,
    pub(super) decision_path: String,
    pub(super) format: InputFormat,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) deadline: Duration,
    pub(super) condition: Condition,
    /// The canary was asked for and not answered with a decision yet.
    pub(super) owes_canary: AtomicBool,
    pub(super) canary: PolicyInput,
}

impl Server {
    pub(super) const fn condition(&self) -> &Condition {
        &self.condition
    }

    pub(super) async fn decide(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let body = self.question(input)?;
        let answer =
            self.within_deadline(self.send(|| self.request(input, body.clone()))).await.map_err(
                |error| match error {
                    OutboundError::Timeout(_) => PolicyError::timeout(error),
                    OutboundError::TooLarge(_) => PolicyError::invalid_result(error),
                    OutboundError::Connect(_) | OutboundError::Exchange(_) => PolicyError::unavailable(error),
                },
            )?;
        // The client of this crate hangs up at the cap; one that the application brought may know none.
        if answer.body().len() > MAX_REPLY {
            return Err(PolicyError::invalid_result(OutboundError::TooLarge(MAX_REPLY)));
        }
        reply::read(&answer)
    }

    /// As [`check`](Self::check), and from now on ready only after the canary was answered with a decision.
    pub(super) async fn preflight(&self) -> Result<(), ConfigError> {
        self.owes_canary.store(true, Ordering::Relaxed);
        if !self.check().await? {
            tracing::warn!(
                decision_path = %self.decision_path,
                "the policy server is not ready: until it is, requests are refused as unavailable"
            );
        }
        Ok(())
    }

    /// Finds out whether the server is ready, and where that is owed, whether it decides. An error is nothing that waiting mends.
    pub(super) async fn check(&self) -> Result<bool, ConfigError> {
        let mut found = if self.has_checks { self.health().await } else { Ok(()) };
        if found.is_ok() && self.owes_canary.load(Ordering::Relaxed) {
            match canary::judge(self.decide(&self.canary).await, &self.decision_path) {
                Ok(answered) => found = answered,
                Err(wrong) => {
                    self.condition.checked(Err(wrong.to_string().into()));
                    return Err(wrong);
                }
            }
            self.owes_canary.store(found.is_err(), Ordering::Relaxed);
        }
        let is_ready = found.is_ok();
        self.condition.checked(found);
        Ok(is_ready)
    }

    /// Whether every bundle was activated. The server's own words stay out: this text is for operators, and theirs is not for us to vouch for.
    async fn health(&self) -> Result<(), Cow<'static, str>> {
        let request = || {
            let mut request = Request::new(Bytes::new());
            *request.uri_mut() = self.health_uri.clone();
            self.authorize(&mut request);
            request
        };
        match self.within_deadline(self.send(request)).await.map(|answer| answer.status()) {
            Ok(StatusCode::OK) => Ok(()),
            Ok(StatusCode::INTERNAL_SERVER_ERROR) => Err("the server has not activated all of its bundles".into()),
            Ok(status) => Err(format!("the server answered {status} to `/health?bundles`").into()),
            Err(error) => Err(format!("the server cannot be asked for its health: {error}").into()),
        }
    }

    /// One deadline around both attempts; a client that the application brought may have none of its own.
    async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, OutboundError>>,
    ) -> Result<T, OutboundError> {
        tokio::time::timeout(self.deadline, work).await.unwrap_or(Err(OutboundError::Timeout(self.deadline)))
    }

    async fn send(&self, request: impl Fn() -> Request<Bytes>) -> Result<Response<Bytes>, OutboundError> {
        match self.outbound.clone().oneshot(request()).await {
            // Mostly a kept connection that the server has just closed. Never after a part of an answer or a timeout: that would double
            // the load of a server that is in trouble.
            Err(OutboundError::Connect(_)) => self.outbound.clone().oneshot(request()).await,
            settled => settled,
        }
    }

    fn question(&self, input: &PolicyInput) -> Result<Bytes, PolicyError> {
        #[derive(Serialize)]
        struct Question<D> {
            input: D,
        }

        let mut body = Vec::with_capacity(USUAL_QUESTION);
        serde_json::to_writer(&mut body, &Question { input: self.format.document(input) })
            .map_err(PolicyError::evaluation)?;
        Ok(body.into())
    }

    fn request(&self, input: &PolicyInput, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, JSON);
        if let Some(id) = request_id(&input.context.request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        if let Some(parent) = traceparent(&input.context.trace_id, input.context.trace_sampled) {
            headers.insert(TRACEPARENT, parent);
        }
        self.authorize(&mut request);
        request
    }

    fn authorize(&self, request: &mut Request<Bytes>) {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
    }
}

/// An id that is one word of visible characters, so that it is in the server's log what it is in ours.
fn request_id(id: &str) -> Option<HeaderValue> {
    let is_word = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_word.then(|| HeaderValue::from_str(id).ok()).flatten()
}

pub(super) const MAX_REPLY: usize = 64 * 1024;
/// In bytes; a larger one costs a move.
const USUAL_QUESTION: usize = 2048;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
