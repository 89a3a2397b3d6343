use std::{error::Error, fmt, sync::Arc};

use http::{Extensions, HeaderMap, Method, Request, Uri};

use super::PolicyInput;

/// The head of a request, for code that adds to what the policy is asked
/// ([`AuthorizeLayer::add_enrichment`](crate::layer::AuthorizeLayer::add_enrichment)).
///
/// It has everything that the client sent, credentials included. What is copied from it into a [`PolicyInput`] ends up in the logs of policy
/// engines.
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

pub(crate) type Enrichment =
    Arc<dyn Fn(&RequestHead<'_>, &mut PolicyInput) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync>;

impl<'a> RequestHead<'a> {
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        Self { method, uri, headers, extensions: request.extensions() }
    }

    /// The method as it came.
    #[must_use]
    pub const fn method(&self) -> &'a Method {
        self.method
    }

    /// The request target as it came. Which route it means is the router's to say: see `resource` of the input.
    #[must_use]
    pub const fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The headers as they came.
    #[must_use]
    pub const fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// What earlier layers left: the [`Principal`](crate::principal::Principal), the [`VerifiedToken`](crate::token::VerifiedToken), the
    /// [`Route`](crate::route::Route), and the application's own.
    #[must_use]
    pub const fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

/// Method and nothing else: paths and headers can hold credentials.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead").field("method", self.method).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrichment_sees_the_request_as_it_came() {
        let mut request = Request::post("https://api.example/jobs/7?page=2").header("x-tier", "gold").body(()).unwrap();
        request.extensions_mut().insert("left by an earlier layer");
        let head = RequestHead::of(&request);
        assert_eq!((head.method(), head.uri(), head.headers()), (request.method(), request.uri(), request.headers()));
        assert_eq!(head.extensions().get(), Some(&"left by an earlier layer"));
    }
}
