use bytes::Bytes;
use http::HeaderValue;

use super::RequestId;
use crate::denial::Class;

/// The body of [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) that tells nothing but the class: with `about:blank` the
/// title is the status phrase. `instance` names the request, in a form of fixed length.
pub(super) fn body(class: Class, request_id: &RequestId) -> Bytes {
    let status = class.http_status();
    let title = status.canonical_reason().unwrap_or_default();
    Bytes::from(format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"instance\":\"urn:request:{request_id}\"}}",
        status.as_u16(),
    ))
}

pub(super) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
