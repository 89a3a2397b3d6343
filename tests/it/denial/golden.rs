//! The exact answer to each class of refusal over each protocol.
//!
//! `(id)` stands for the request id (32 hexadecimal digits), `(date)` for the value of `date`, `{target}` for the path that the
//! caller itself asked for. Nothing else is left open. Lines end in CR LF where HTTP/1.1 wants it; over HTTP/2 the first line holds
//! the frames of the stream with their flags. The line break after each opening quote is no part of the text.

/// The classes of refusal; the first two are one class of which the caller knows whether it sent credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    NoCredentials,
    InvalidToken,
    Malformed,
    Forbidden,
    Concealed,
    Unavailable,
    Internal,
}

impl Class {
    pub const ALL: [Self; 7] = [
        Self::NoCredentials,
        Self::InvalidToken,
        Self::Malformed,
        Self::Forbidden,
        Self::Concealed,
        Self::Unavailable,
        Self::Internal,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http1,
    Http2,
    Grpc,
    /// A script of a page behind the browser profile.
    BrowserScript,
    /// The document of a tab behind the browser profile.
    BrowserNavigation,
}

impl Protocol {
    pub const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Grpc, Self::BrowserScript, Self::BrowserNavigation];
}

pub fn text(class: Class, protocol: Protocol) -> &'static str {
    use Class::*;
    use Protocol::*;
    match (protocol, class) {
        (Http1, NoCredentials) => HTTP1_NO_CREDENTIALS,
        (Http1, InvalidToken) => HTTP1_INVALID_TOKEN,
        (Http1, Malformed) => HTTP1_MALFORMED,
        (Http1, Forbidden) => HTTP1_FORBIDDEN,
        (Http1, Concealed) => HTTP1_CONCEALED,
        (Http1, Unavailable) => HTTP1_UNAVAILABLE,
        (Http1, Internal) => HTTP1_INTERNAL,
        (Http2, NoCredentials) => HTTP2_NO_CREDENTIALS,
        (Http2, InvalidToken) => HTTP2_INVALID_TOKEN,
        (Http2, Malformed) => HTTP2_MALFORMED,
        (Http2, Forbidden) => HTTP2_FORBIDDEN,
        (Http2, Concealed) => HTTP2_CONCEALED,
        (Http2, Unavailable) => HTTP2_UNAVAILABLE,
        (Http2, Internal) => HTTP2_INTERNAL,
        (Grpc, NoCredentials | InvalidToken) => GRPC_UNAUTHENTICATED,
        (Grpc, Malformed) => GRPC_MALFORMED,
        (Grpc, Forbidden) => GRPC_FORBIDDEN,
        (Grpc, Concealed) => GRPC_CONCEALED,
        (Grpc, Unavailable) => GRPC_UNAVAILABLE,
        (Grpc, Internal) => GRPC_INTERNAL,
        (BrowserNavigation, NoCredentials | InvalidToken) => REDIRECT,
        (BrowserScript, NoCredentials) => PAGE_NO_CREDENTIALS,
        (BrowserScript, InvalidToken) => PAGE_INVALID_TOKEN,
        (BrowserScript | BrowserNavigation, Malformed) => PAGE_MALFORMED,
        (BrowserScript | BrowserNavigation, Forbidden) => PAGE_FORBIDDEN,
        (BrowserScript | BrowserNavigation, Concealed) => PAGE_CONCEALED,
        (BrowserScript | BrowserNavigation, Unavailable) => PAGE_UNAVAILABLE,
        (BrowserScript | BrowserNavigation, Internal) => PAGE_INTERNAL,
    }
}

/// How many different texts there are.
pub fn distinct() -> usize {
    let texts = Protocol::ALL.iter().flat_map(|protocol| Class::ALL.map(|class| text(class, *protocol)));
    texts.collect::<std::collections::HashSet<_>>().len()
}

const HTTP1_NO_CREDENTIALS: &str = r#"
HTTP/1.1 401 Unauthorized
content-type: application/problem+json
content-length: 116
cache-control: no-store
x-content-type-options: nosniff
www-authenticate: Bearer realm="api"
x-request-id: (id)
connection: close
date: (date)

{"type":"about:blank","title":"Unauthorized","status":401,"instance":"urn:request:(id)"}"#;

const HTTP1_INVALID_TOKEN: &str = r#"
HTTP/1.1 401 Unauthorized
content-type: application/problem+json
content-length: 116
cache-control: no-store
x-content-type-options: nosniff
www-authenticate: Bearer realm="api", error="invalid_token"
x-request-id: (id)
connection: close
date: (date)

{"type":"about:blank","title":"Unauthorized","status":401,"instance":"urn:request:(id)"}"#;

const HTTP1_MALFORMED: &str = r#"
HTTP/1.1 400 Bad Request
content-type: application/problem+json
content-length: 115
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
connection: close
date: (date)

{"type":"about:blank","title":"Bad Request","status":400,"instance":"urn:request:(id)"}"#;

const HTTP1_FORBIDDEN: &str = r#"
HTTP/1.1 403 Forbidden
content-type: application/problem+json
content-length: 113
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
connection: close
date: (date)

{"type":"about:blank","title":"Forbidden","status":403,"instance":"urn:request:(id)"}"#;

const HTTP1_CONCEALED: &str = r#"
HTTP/1.1 404 Not Found
content-type: application/problem+json
content-length: 113
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
connection: close
date: (date)

{"type":"about:blank","title":"Not Found","status":404,"instance":"urn:request:(id)"}"#;

const HTTP1_UNAVAILABLE: &str = r#"
HTTP/1.1 503 Service Unavailable
content-type: application/problem+json
content-length: 123
cache-control: no-store
x-content-type-options: nosniff
retry-after: 5
x-request-id: (id)
connection: close
date: (date)

{"type":"about:blank","title":"Service Unavailable","status":503,"instance":"urn:request:(id)"}"#;

const HTTP1_INTERNAL: &str = r#"
HTTP/1.1 500 Internal Server Error
content-type: application/problem+json
content-length: 125
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
connection: close
date: (date)

{"type":"about:blank","title":"Internal Server Error","status":500,"instance":"urn:request:(id)"}"#;

const HTTP2_NO_CREDENTIALS: &str = r#"
[HEADERS+END_HEADERS, DATA+END_STREAM]
:status: 401
content-type: application/problem+json
content-length: 116
cache-control: no-store
x-content-type-options: nosniff
www-authenticate: Bearer realm="api"
x-request-id: (id)
date: (date)

{"type":"about:blank","title":"Unauthorized","status":401,"instance":"urn:request:(id)"}"#;

const HTTP2_INVALID_TOKEN: &str = r#"
[HEADERS+END_HEADERS, DATA+END_STREAM]
:status: 401
content-type: application/problem+json
content-length: 116
cache-control: no-store
x-content-type-options: nosniff
www-authenticate: Bearer realm="api", error="invalid_token"
x-request-id: (id)
date: (date)

{"type":"about:blank","title":"Unauthorized","status":401,"instance":"urn:request:(id)"}"#;

const HTTP2_MALFORMED: &str = r#"
[HEADERS+END_HEADERS, DATA+END_STREAM]
:status: 400
content-type: application/problem+json
content-length: 115
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
date: (date)

{"type":"about:blank","title":"Bad Request","status":400,"instance":"urn:request:(id)"}"#;

const HTTP2_FORBIDDEN: &str = r#"
[HEADERS+END_HEADERS, DATA+END_STREAM]
:status: 403
content-type: application/problem+json
content-length: 113
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
date: (date)

{"type":"about:blank","title":"Forbidden","status":403,"instance":"urn:request:(id)"}"#;

const HTTP2_CONCEALED: &str = r#"
[HEADERS+END_HEADERS, DATA+END_STREAM]
:status: 404
content-type: application/problem+json
content-length: 113
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
date: (date)

{"type":"about:blank","title":"Not Found","status":404,"instance":"urn:request:(id)"}"#;

const HTTP2_UNAVAILABLE: &str = r#"
[HEADERS+END_HEADERS, DATA+END_STREAM]
:status: 503
content-type: application/problem+json
content-length: 123
cache-control: no-store
x-content-type-options: nosniff
retry-after: 5
x-request-id: (id)
date: (date)

{"type":"about:blank","title":"Service Unavailable","status":503,"instance":"urn:request:(id)"}"#;

const HTTP2_INTERNAL: &str = r#"
[HEADERS+END_HEADERS, DATA+END_STREAM]
:status: 500
content-type: application/problem+json
content-length: 125
cache-control: no-store
x-content-type-options: nosniff
x-request-id: (id)
date: (date)

{"type":"about:blank","title":"Internal Server Error","status":500,"instance":"urn:request:(id)"}"#;

const GRPC_UNAUTHENTICATED: &str = r#"
[HEADERS+END_STREAM+END_HEADERS]
:status: 200
content-type: application/grpc
grpc-status: 16
grpc-message: unauthenticated
x-request-id: (id)
date: (date)

"#;

const GRPC_MALFORMED: &str = r#"
[HEADERS+END_STREAM+END_HEADERS]
:status: 200
content-type: application/grpc
grpc-status: 3
grpc-message: malformed request
x-request-id: (id)
date: (date)

"#;

const GRPC_FORBIDDEN: &str = r#"
[HEADERS+END_STREAM+END_HEADERS]
:status: 200
content-type: application/grpc
grpc-status: 7
grpc-message: permission denied
x-request-id: (id)
date: (date)

"#;

const GRPC_CONCEALED: &str = r#"
[HEADERS+END_STREAM+END_HEADERS]
:status: 200
content-type: application/grpc
grpc-status: 5
grpc-message: not found
x-request-id: (id)
date: (date)

"#;

const GRPC_UNAVAILABLE: &str = r#"
[HEADERS+END_STREAM+END_HEADERS]
:status: 200
content-type: application/grpc
grpc-status: 14
grpc-message: unavailable
x-request-id: (id)
date: (date)

"#;

const GRPC_INTERNAL: &str = r#"
[HEADERS+END_STREAM+END_HEADERS]
:status: 200
content-type: application/grpc
grpc-status: 13
grpc-message: internal error
x-request-id: (id)
date: (date)

"#;

const PAGE_NO_CREDENTIALS: &str = r#"
HTTP/1.1 401 Unauthorized
content-type: text/html; charset=utf-8
content-length: 339
cache-control: no-store
x-content-type-options: nosniff
www-authenticate: Bearer realm="api"
content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in first</title>
</head>
<body>
<main>
<h1>Sign in first</h1>
<p>You need to sign in to see this page.</p>
<p>Reference: <code>(id)</code></p>
</main>
</body>
</html>
"#;

const PAGE_INVALID_TOKEN: &str = r#"
HTTP/1.1 401 Unauthorized
content-type: text/html; charset=utf-8
content-length: 339
cache-control: no-store
x-content-type-options: nosniff
www-authenticate: Bearer realm="api", error="invalid_token"
content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in first</title>
</head>
<body>
<main>
<h1>Sign in first</h1>
<p>You need to sign in to see this page.</p>
<p>Reference: <code>(id)</code></p>
</main>
</body>
</html>
"#;

const PAGE_MALFORMED: &str = r#"
HTTP/1.1 400 Bad Request
content-type: text/html; charset=utf-8
content-length: 349
cache-control: no-store
x-content-type-options: nosniff
content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Bad request</title>
</head>
<body>
<main>
<h1>Bad request</h1>
<p>Your browser sent a request that could not be read.</p>
<p>Reference: <code>(id)</code></p>
</main>
</body>
</html>
"#;

const PAGE_FORBIDDEN: &str = r#"
HTTP/1.1 403 Forbidden
content-type: text/html; charset=utf-8
content-length: 335
cache-control: no-store
x-content-type-options: nosniff
content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not allowed</title>
</head>
<body>
<main>
<h1>Not allowed</h1>
<p>You are not allowed to see this page.</p>
<p>Reference: <code>(id)</code></p>
</main>
</body>
</html>
"#;

const PAGE_CONCEALED: &str = r#"
HTTP/1.1 404 Not Found
content-type: text/html; charset=utf-8
content-length: 316
cache-control: no-store
x-content-type-options: nosniff
content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not found</title>
</head>
<body>
<main>
<h1>Not found</h1>
<p>There is no such page.</p>
<p>Reference: <code>(id)</code></p>
</main>
</body>
</html>
"#;

const PAGE_UNAVAILABLE: &str = r#"
HTTP/1.1 503 Service Unavailable
content-type: text/html; charset=utf-8
content-length: 379
cache-control: no-store
x-content-type-options: nosniff
retry-after: 5
content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Try again soon</title>
</head>
<body>
<main>
<h1>Try again soon</h1>
<p>This page cannot be shown at the moment. Please try again in a few seconds.</p>
<p>Reference: <code>(id)</code></p>
</main>
</body>
</html>
"#;

const PAGE_INTERNAL: &str = r#"
HTTP/1.1 500 Internal Server Error
content-type: text/html; charset=utf-8
content-length: 372
cache-control: no-store
x-content-type-options: nosniff
content-security-policy: default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Something went wrong</title>
</head>
<body>
<main>
<h1>Something went wrong</h1>
<p>This page cannot be shown. The fault is ours, not yours.</p>
<p>Reference: <code>(id)</code></p>
</main>
</body>
</html>
"#;

pub const REDIRECT: &str = r#"
HTTP/1.1 303 See Other
location: https://login.acme.example/authorize?return_to={target}
cache-control: no-store
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
content-length: 0
date: (date)

"#;

/// The same fields in another order: hyper moves the length of an empty body to the end, but not for `HEAD`.
pub const REDIRECT_OF_HEAD: &str = r#"
HTTP/1.1 303 See Other
location: https://login.acme.example/authorize?return_to={target}
content-length: 0
cache-control: no-store
referrer-policy: no-referrer
vary: sec-fetch-mode, sec-fetch-dest, accept
x-request-id: (id)
connection: close
date: (date)

"#;
