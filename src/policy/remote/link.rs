use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use tower::ServiceExt as _;

use super::{Condition, permits::Permits};
use crate::{
    audit::traceparent,
    outbound::{Outbound, OutboundError},
    policy::{PolicyError, PolicyInput},
};

/// The way to a policy server.
pub(in crate::policy) struct Link {
    pub(super) outbound: Outbound,
    pub(super) authorization: ArcSwapOption<HeaderValue>,
    pub(super) deadline: Duration,
    pub(super) condition: Condition,
    pub(super) permits: Permits,
}

impl Link {
    pub(in crate::policy) const fn condition(&self) -> &Condition {
        &self.condition
    }

    pub(in crate::policy) const fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(in crate::policy) const fn max_in_flight(&self) -> usize {
        self.permits.limit()
    }

    /// What is sent as the credential from now on.
    #[cfg_attr(not(feature = "authzen"), expect(dead_code, reason = "the part that calls it is not compiled in"))]
    pub(in crate::policy) fn set_authorization(&self, authorization: HeaderValue) {
        self.authorization.store(Some(Arc::new(authorization)));
    }

    #[cfg(test)]
    pub(in crate::policy) fn authorization(&self) -> Option<Arc<HeaderValue>> {
        self.authorization.load_full()
    }

    /// Does the work of one call, where there is room for it and the server answers at all. `input` says whose call it is.
    pub(in crate::policy) async fn call<T>(
        &self,
        input: &PolicyInput,
        work: impl Future<Output = Result<T, PolicyError>>,
    ) -> Result<T, PolicyError> {
        // Room first: a call that is shed must not have taken the right to the one probe.
        let _permit = self.permits.acquire(input)?;
        let call = self.condition.admit()?;
        let outcome = work.await;
        call.end(outcome.as_ref().err().map(PolicyError::kind));
        outcome
    }

    /// A question in JSON, on behalf of the request that `input` is about.
    pub(in crate::policy) fn question(&self, uri: &Uri, body: Vec<u8>, input: &PolicyInput) -> Request<Bytes> {
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
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

    /// A `GET` that asks for no decision.
    pub(in crate::policy) fn look(&self, uri: &Uri) -> Request<Bytes> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = uri.clone();
        self.authorize(&mut request);
        request
    }

    /// The answer to a question, whole and within the bounds.
    pub(in crate::policy) async fn ask(&self, question: Request<Bytes>) -> Result<Response<Bytes>, PolicyError> {
        self.exchange(question).await.map_err(|error| match error {
            OutboundError::Timeout(_) => PolicyError::timeout(error),
            OutboundError::TooLarge(_) => PolicyError::invalid_result(error),
            OutboundError::Connect(_) | OutboundError::Exchange(_) => PolicyError::unavailable(error),
        })
    }

    /// One deadline around both attempts; a client that the application brought may have none of its own, and know no cap.
    pub(in crate::policy) async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, OutboundError> {
        let attempts = tokio::time::timeout(self.deadline, self.send(request));
        let answer = attempts.await.unwrap_or(Err(OutboundError::Timeout(self.deadline)))?;
        if answer.body().len() > MAX_REPLY { Err(OutboundError::TooLarge(MAX_REPLY)) } else { Ok(answer) }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, OutboundError> {
        match self.outbound.clone().oneshot(request.clone()).await {
            // Mostly a kept connection that the server has just closed. Never after a part of an answer or a timeout: that would double
            // the load of a server that is in trouble.
            Err(OutboundError::Connect(_)) => self.outbound.clone().oneshot(request).await,
            settled => settled,
        }
    }

    fn authorize(&self, request: &mut Request<Bytes>) {
        if let Some(authorization) = &*self.authorization.load() {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::clone(authorization));
        }
    }
}

/// Whether an answer says once that it is JSON.
pub(in crate::policy) fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let essence = values.next().and_then(|value| value.to_str().ok()?.split(';').next());
    values.next().is_none() && essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// An id that is one word of visible characters, so that it is in the server's log what it is in ours.
fn request_id(id: &str) -> Option<HeaderValue> {
    let is_word = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_word.then(|| HeaderValue::from_str(id).ok()).flatten()
}

pub(in crate::policy) const MAX_REPLY: usize = 64 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
