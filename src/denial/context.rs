use std::sync::{Arc, OnceLock};

use http::{HeaderMap, Method, header::CONTENT_TYPE};

use super::{Protocol, RequestId};

/// What the whole stack knows of a request from its first moment on: its id and what the caller speaks.
///
/// The outermost layer puts it into the request; gates, the audit trail and handlers read the same id from it that the caller
/// sees. On the way back it carries what a refusal was really answered with.
///
/// Cheap to clone: every clone is the same context.
#[derive(Clone, Debug)]
pub struct RequestContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    request_id: RequestId,
    protocol: Protocol,
    method: Method,
    sent: OnceLock<Sent>,
}

impl RequestContext {
    /// The context of a new request, with a fresh id.
    pub(crate) fn new(protocol: Protocol, method: Method) -> Self {
        Self(Arc::new(Inner { request_id: RequestId::random(), protocol, method, sent: OnceLock::new() }))
    }

    /// The request's id.
    #[must_use]
    pub fn request_id(&self) -> &RequestId {
        &self.0.request_id
    }

    /// What the caller speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    /// The request's method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// Says what a refusal was rendered as. Must be called before the refused response's body is dropped, since that is
    /// when the audit record is written. Only the first call counts: a response has one head.
    pub(crate) fn set_sent(&self, sent: Sent) {
        let _ = self.0.sent.set(sent);
    }

    /// What a refusal was rendered as; `None` when the response left as it came from inside.
    pub(crate) fn sent(&self) -> Option<Sent> {
        self.0.sent.get().copied()
    }
}

/// The status that left the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status code, when the head carries one.
    pub grpc: Option<u8>,
}

impl Sent {
    /// An HTTP status, and a gRPC code when the answer is trailers-only.
    pub(crate) const fn new(status: u16, grpc: Option<u8>) -> Self {
        Self { status, grpc }
    }
}

impl Protocol {
    /// What a request with these headers speaks: gRPC when its content type is `application/grpc`, alone or with a suffix
    /// (`+proto`) or parameters. gRPC-Web (`application/grpc-web`) is another protocol, whose clients read HTTP answers.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        const GRPC: &[u8] = b"application/grpc";
        let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
        match content_type.and_then(|value| value.split_at_checked(GRPC.len())) {
            Some((essence, rest)) if essence.eq_ignore_ascii_case(GRPC) => match rest.first() {
                None | Some(b'+' | b';' | b' ' | b'\t') => Self::Grpc,
                Some(_) => Self::Http,
            },
            Some(_) | None => Self::Http,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_grpc_content_types_speak_grpc() {
        let cases: [(&str, Protocol); 9] = [
            ("application/grpc", Protocol::Grpc),
            ("application/grpc+proto", Protocol::Grpc),
            ("application/grpc;charset=utf-8", Protocol::Grpc),
            ("Application/GRPC", Protocol::Grpc),
            ("application/grpc-web", Protocol::Http),
            ("application/grpc-web+proto", Protocol::Http),
            ("application/grpcx", Protocol::Http),
            ("application/json", Protocol::Http),
            ("", Protocol::Http),
        ];
        for (content_type, protocol) in cases {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(Protocol::of(&headers), protocol, "{content_type:?}");
        }
        assert_eq!(Protocol::of(&HeaderMap::new()), Protocol::Http);
    }

    #[test]
    fn what_was_sent_is_written_once_and_seen_by_every_clone() {
        let context = RequestContext::new(Protocol::Grpc, Method::POST);
        let clone = context.clone();
        assert_eq!(clone.sent(), None);
        context.set_sent(Sent::new(200, Some(16)));
        context.set_sent(Sent::new(500, None));
        assert_eq!(clone.sent(), Some(Sent::new(200, Some(16))));
        assert_eq!(clone.request_id(), context.request_id());
        assert_ne!(RequestContext::new(Protocol::Http, Method::GET).request_id(), context.request_id());
    }
}
