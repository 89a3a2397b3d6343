use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header};

use crate::denial::Class;

/// A trailers-only answer ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)): 200, the status
/// in the one header block, no body.
pub(super) fn response(class: Class) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(class.grpc_code())));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message(class)));
    response
}

/// Printable ASCII without `%`, so that the percent-encoding of `grpc-message` changes nothing.
const fn message(class: Class) -> &'static str {
    match class {
        Class::Unauthenticated { .. } => "unauthenticated",
        Class::Malformed => "malformed request",
        Class::Forbidden => "permission denied",
        Class::Concealed => "not found",
        Class::Unavailable => "unavailable",
        Class::Internal => "internal error",
    }
}

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
