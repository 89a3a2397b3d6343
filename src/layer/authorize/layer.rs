use std::{error::Error, fmt, sync::Arc};

use http::{HeaderName, header};
use tower_layer::Layer;

use super::{Authorize, enforce::Enforcement};
use crate::{
    ConfigError,
    policy::{Obligation, PolicyBackend, PolicyInput, RequestHead},
    time::Clock,
};

/// Demands a permit of the policy. See the [module docs](super).
pub struct AuthorizeLayer<P: ?Sized> {
    backend: Arc<P>,
    enforcement: Arc<Enforcement>,
}

impl<P: PolicyBackend + ?Sized> AuthorizeLayer<P> {
    /// Asks `backend` about every request.
    #[must_use]
    pub fn new(backend: Arc<P>) -> Self {
        Self { backend, enforcement: Arc::default() }
    }

    /// Registers what fulfils the obligation `id`. An allow with an obligation that has no handler, or whose handler returns
    /// false, is a denial; a handler that panics is an internal error, and the call does not happen either.
    ///
    /// Handlers run before the inner service, also for the obligations of a denial; they must not block.
    #[must_use]
    pub fn with_obligation(
        mut self,
        id: impl Into<Arc<str>>,
        handler: impl Fn(&Obligation) -> bool + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.enforcement).obligations.insert(id.into(), Arc::new(handler));
        self
    }

    /// Names the request headers that the policy may see, in place of those named before. Default none.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for something that is not a header name, and for a header that carries credentials: policy
    /// engines log their input.
    pub fn with_input_headers<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        let names = names.into_iter().map(|name| input_header(name.as_ref())).collect::<Result<_, _>>()?;
        Arc::make_mut(&mut self.enforcement).headers = names;
        Ok(self)
    }

    /// Names the claims of the verified token that the policy may see beyond those that `PolicyInput` always has, in place
    /// of those named before. Default none.
    #[must_use]
    pub fn with_input_claims<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        Arc::make_mut(&mut self.enforcement).claims = names.into_iter().map(Into::into).collect();
        self
    }

    /// Lets the application add to what the policy is asked, in the order in which enrichments are added: facts that no token holds, such
    /// as whose the order in the path is, under `context.attributes` or `resource.properties.attributes`. It runs for every request that a
    /// policy is asked about, and must not block.
    ///
    /// An enrichment that returns an error is no decision (503), and one that panics an internal error: the policy is not asked with half
    /// a question. It can change every member of the input, and nothing checks what it wrote: the token's own words are best left alone,
    /// and credentials out, because policy engines log their input. Add the same members to every request, empty if need be: engines
    /// disagree about the negation of what is absent.
    #[must_use]
    pub fn add_enrichment(
        mut self,
        enrichment: impl Fn(&RequestHead<'_>, &mut PolicyInput) -> Result<(), Box<dyn Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.enforcement).enrichments.push(Arc::new(enrichment));
        self
    }

    /// The same gate before another backend, which calls no handler: an obligation that has one counts as fulfilled. For explanations.
    pub(in crate::layer) fn rehearsing<Q: PolicyBackend>(&self, backend: Arc<Q>) -> AuthorizeLayer<Q> {
        let mut enforcement = Enforcement::clone(&self.enforcement);
        for handler in enforcement.obligations.values_mut() {
            *handler = Arc::new(|_| true);
        }
        AuthorizeLayer { backend, enforcement: Arc::new(enforcement) }
    }

    pub(in crate::layer) fn backend(&self) -> &P {
        &self.backend
    }

    pub(in crate::layer) fn shared_backend(&self) -> Arc<P> {
        Arc::clone(&self.backend)
    }

    /// Sets the clock that the policy's `time_ns` comes from. Default [`SystemClock`](crate::time::SystemClock).
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        Arc::make_mut(&mut self.enforcement).clock = Arc::new(clock);
        self
    }
}

fn input_header(name: &str) -> Result<HeaderName, ConfigError> {
    let invalid = |remedy: &'static str| ConfigError::invalid("policy.input_headers", name, remedy);
    let name = HeaderName::try_from(name).map_err(|_| invalid("write a header name (RFC 9110 §5.1)"))?;
    if CREDENTIAL_HEADERS.contains(&name) {
        return Err(invalid("leave it out: it carries credentials, and policy engines log their input"));
    }
    Ok(name)
}

static CREDENTIAL_HEADERS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("dpop"),
    HeaderName::from_static("txn-token"),
    HeaderName::from_static("x-api-key"),
];

impl<S, P: PolicyBackend + ?Sized> Layer<S> for AuthorizeLayer<P> {
    type Service = Authorize<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Authorize::new(inner, Arc::clone(&self.backend), Arc::clone(&self.enforcement))
    }
}

impl<P: ?Sized> Clone for AuthorizeLayer<P> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), enforcement: Arc::clone(&self.enforcement) }
    }
}

impl<P: ?Sized> fmt::Debug for AuthorizeLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizeLayer").field("enforcement", &self.enforcement).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::deny_all;

    #[test]
    fn headers_that_carry_credentials_do_not_build() {
        for name in ["Authorization", "cookie", "DPoP", "X-API-Key", "not a name", ""] {
            let error = AuthorizeLayer::new(Arc::new(deny_all())).with_input_headers([name]).unwrap_err();
            assert_eq!(error.field(), "policy.input_headers", "{name}");
        }
        assert!(AuthorizeLayer::new(Arc::new(deny_all())).with_input_headers(["x-tier"]).is_ok());
    }
}
