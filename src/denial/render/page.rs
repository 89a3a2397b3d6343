use bytes::Bytes;
use http::HeaderValue;

use super::RequestId;
use crate::denial::Class;

/// A page for people: what to do next in one sentence, and the id to quote to support. No script, style or image, so that
/// nothing has to be allowed in [`POLICY`].
pub(super) fn body(class: Class, request_id: &RequestId) -> Bytes {
    let (title, sentence) = text(class);
    Bytes::from(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n<p>{sentence}</p>\n<p>Reference: <code>{request_id}</code></p>\n</main>\n</body>\n</html>\n"
    ))
}

const fn text(class: Class) -> (&'static str, &'static str) {
    match class {
        Class::Unauthenticated { .. } => ("Sign in first", "You need to sign in to see this page."),
        Class::Malformed => ("Bad request", "Your browser sent a request that could not be read."),
        Class::Forbidden => ("Not allowed", "You are not allowed to see this page."),
        Class::Concealed => ("Not found", "There is no such page."),
        Class::Unavailable => {
            ("Try again soon", "This page cannot be shown at the moment. Please try again in a few seconds.")
        }
        Class::Internal => ("Something went wrong", "This page cannot be shown. The fault is ours, not yours."),
    }
}

pub(super) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
pub(super) const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
pub(super) const REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
/// What the choice between page and redirect depends on (RFC 9110 §12.5.5).
pub(super) const VARY: HeaderValue = HeaderValue::from_static("sec-fetch-mode, sec-fetch-dest, accept");
