use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, uri::PathAndQuery};

use self::challenge::Challenge;
pub use self::sign_in::SignInRedirect;
use super::{Class, Denial};
use crate::ConfigError;

mod challenge;
mod grpc;
mod page;
mod problem;
mod sign_in;

/// Names one request: 32 hexadecimal digits, made by us, the same in the response, the audit record and the policy input.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(Arc<crate::random::Hex128>);

impl RequestId {
    /// Makes a fresh id.
    #[must_use]
    pub fn random() -> Self {
        Self(Arc::new(crate::random::hex_128()))
    }

    /// Reads an id that was written down.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        crate::random::Hex128::parse(text).map(|id| Self(Arc::new(id)))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much a refusal tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disclosure {
    /// Scope and policy refusals are the same bytes; the challenge holds a realm and, when a token came, `invalid_token`.
    #[default]
    Silent,
    /// As `Silent`, but a scope refusal names `insufficient_scope` and the scope that the route demands. For MCP and partner APIs.
    Guided,
}

impl fmt::Display for Disclosure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "silent",
            Self::Guided => "guided",
        })
    }
}

/// Who is at the other end: a program or a person. Chosen per router, never guessed from `Accept` alone.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Profile {
    /// Programs: problem+json, or a gRPC status.
    #[default]
    Api,
    /// People with a browser: a redirect to the sign-in when a top-level navigation is not authenticated, else a page.
    Browser(SignInRedirect),
    /// As `Browser`, without a sign-in to send anybody to: always a page.
    Pages,
}

/// What the caller speaks, by the content type of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP.
    Http,
    /// gRPC: `application/grpc` and its suffixes.
    Grpc,
}

/// The facts of a request that a rendering may depend on. None of them says why the request was refused.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RenderContext {
    /// The request id.
    pub request_id: RequestId,
    /// What the caller speaks.
    pub protocol: Protocol,
    /// The request's method.
    pub method: Method,
    navigation: bool,
    reads_pages: bool,
    target: Option<PathAndQuery>,
}

impl RenderContext {
    /// Gathers the facts of a request.
    #[must_use]
    pub fn of<B>(request: &Request<B>, request_id: RequestId) -> Self {
        Self {
            request_id,
            protocol: Protocol::of(request.headers()),
            method: request.method().clone(),
            navigation: is_navigation(request),
            reads_pages: !has_grpc_content_type(request.headers()),
            target: request.uri().path_and_query().cloned(),
        }
    }

    /// True when a browser asks for the document of a tab: the one kind of request that may be answered with a redirect.
    ///
    /// `GET` or `HEAD` with `Sec-Fetch-Mode: navigate` and `Sec-Fetch-Dest: document`. From a browser that sends neither:
    /// `GET` that names `text/html` in `Accept` and shows no sign of a script.
    #[must_use]
    pub const fn is_navigation(&self) -> bool {
        self.navigation
    }

    /// Path and query to come back to, when that is surely a place of this origin.
    #[must_use]
    pub fn return_path(&self) -> Option<&str> {
        self.target.as_ref().and_then(sign_in::return_path)
    }
}

/// Turns a [`Denial`] into a response.
///
/// Closures do it as well. A response that was rendered is sent as it is, but for `x-request-id`, which is always added.
pub trait RenderDenial: Send + Sync + 'static {
    /// The whole response. Must depend on the class of the denial and on the context alone.
    fn render(&self, denial: &Denial, context: &RenderContext) -> Response<Bytes>;
}

impl<F> RenderDenial for F
where
    F: Fn(&Denial, &RenderContext) -> Response<Bytes> + Send + Sync + 'static,
{
    fn render(&self, denial: &Denial, context: &RenderContext) -> Response<Bytes> {
        self(denial, context)
    }
}

/// The built-in rendering: within a class every answer is the same, byte for byte, but for the request id.
///
/// | Class | HTTP | gRPC |
/// | --- | --- | --- |
/// | unauthenticated | 401, `www-authenticate: Bearer realm="…"`, with `error="invalid_token"` when credentials came | 16 |
/// | malformed | 400 | 3 |
/// | forbidden | 403 | 7 |
/// | concealed | 404 | 5 |
/// | unavailable | 503, `retry-after: 5` | 14 |
/// | internal | 500 | 13 |
///
/// gRPC callers always get a trailers-only status. The default is [`Profile::Api`], [`Disclosure::Silent`] and the realm `api`.
#[derive(Clone, Debug, Default)]
pub struct Renderer {
    profile: Profile,
    disclosure: Disclosure,
    challenge: Challenge,
}

impl Renderer {
    /// Problem documents ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) for programs. The realm names the protected
    /// space in challenges ([RFC 9110 §11.5](https://www.rfc-editor.org/rfc/rfc9110#section-11.5)).
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for a realm that is empty, over 128 bytes, or has a character other than printable ASCII
    /// without quote and backslash.
    pub fn api(realm: &str) -> Result<Self, ConfigError> {
        Ok(Self { challenge: Challenge::new(realm)?, ..Self::default() })
    }

    /// Pages for people, and a redirect to the sign-in for those who navigate without being authenticated.
    ///
    /// # Errors
    ///
    /// As for [`api`](Self::api).
    pub fn browser(realm: &str, sign_in: SignInRedirect) -> Result<Self, ConfigError> {
        Ok(Self::api(realm)?.with_profile(Profile::Browser(sign_in)))
    }

    /// Sets who is at the other end. Default [`Profile::Api`].
    #[must_use]
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Sets how much a refusal tells. Default [`Disclosure::Silent`].
    #[must_use]
    pub const fn with_disclosure(mut self, disclosure: Disclosure) -> Self {
        self.disclosure = disclosure;
        self
    }

    fn problem(&self, denial: &Denial, context: &RenderContext) -> Response<Bytes> {
        let body = problem::body(denial.class(), &context.request_id);
        self.answer(denial, context, problem::CONTENT_TYPE, body)
    }

    fn page(&self, denial: &Denial, context: &RenderContext) -> Response<Bytes> {
        let body = page::body(denial.class(), &context.request_id);
        let mut response = self.answer(denial, context, page::CONTENT_TYPE, body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, page::POLICY);
        headers.insert(header::REFERRER_POLICY, page::REFERRER);
        headers.insert(header::VARY, page::VARY);
        response
    }

    fn answer(&self, denial: &Denial, context: &RenderContext, kind: HeaderValue, body: Bytes) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = denial.class().http_status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
        if let Some(challenge) = self.challenge.of(denial, self.disclosure) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if denial.class() == Class::Unavailable {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        // RFC 9110 §9.3.2: the answer to HEAD has the header fields of GET and no content.
        if context.method != Method::HEAD {
            *response.body_mut() = body;
        }
        response
    }
}

impl RenderDenial for Renderer {
    fn render(&self, denial: &Denial, context: &RenderContext) -> Response<Bytes> {
        match (context.protocol, &self.profile) {
            (Protocol::Grpc, _) => grpc::response(denial.class()),
            (Protocol::Http, Profile::Api) => self.problem(denial, context),
            // gRPC-Web and its like: programs, whatever the profile.
            (Protocol::Http, Profile::Browser(_) | Profile::Pages) if !context.reads_pages => {
                self.problem(denial, context)
            }
            (Protocol::Http, Profile::Pages) => self.page(denial, context),
            (Protocol::Http, Profile::Browser(sign_in)) => match denial.class() {
                Class::Unauthenticated { .. } if context.navigation => {
                    match sign_in.location(context.target.as_ref()) {
                        Some(location) => redirect(location),
                        None => self.page(denial, context),
                    }
                }
                _ => self.page(denial, context),
            },
        }
    }
}

fn redirect(location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(header::REFERRER_POLICY, page::REFERRER);
    headers.insert(header::VARY, page::VARY);
    response
}

/// Scripts must get the 401 that they can handle, so in doubt it is not a navigation.
fn is_navigation<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let is = |name: HeaderName, value: &[u8]| {
        let mut lines = headers.get_all(name).iter();
        matches!((lines.next(), lines.next()), (Some(line), None) if line.as_bytes() == value)
    };
    if headers.contains_key(SEC_FETCH_MODE) || headers.contains_key(SEC_FETCH_DEST) {
        return matches!(*request.method(), Method::GET | Method::HEAD)
            && is(SEC_FETCH_MODE, b"navigate")
            && is(SEC_FETCH_DEST, b"document");
    }
    let script = headers.contains_key(header::CONTENT_TYPE)
        || headers.contains_key(header::ORIGIN)
        || headers.contains_key(X_REQUESTED_WITH);
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let accepts = |kind: &str| {
        accept
            .split(',')
            .any(|range| range.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(kind)))
    };
    request.method() == Method::GET
        && !script
        && accepts("text/html")
        && !accepts("application/json")
        && !accepts("text/event-stream")
}

fn has_grpc_content_type(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().get(..GRPC.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// Seconds; one number for every cause, so that it tells none of them.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

#[cfg(test)]
mod tests {
    use http::request::Builder;

    use super::*;
    use crate::{
        denial::{MissingLayer, Reason, Stage},
        key::KeyErrorKind,
        policy::{PolicyErrorKind, Refusal},
        route::{MalformedTarget, Route, RouteKey},
        rules::{Rules, scopes},
        scope::all_of,
        token::{BearerError, TokenError},
    };

    fn context(request: Builder) -> RenderContext {
        RenderContext::of(&request.body(()).unwrap(), RequestId::random())
    }

    fn reasons() -> Vec<Reason> {
        vec![
            Reason::MissingCredentials,
            Reason::MalformedCredentials(BearerError::Repeated),
            Reason::MalformedTarget(MalformedTarget::DotSegment),
            Reason::Token(TokenError::Expired),
            Reason::Token(TokenError::Signature),
            Reason::Token(TokenError::MissingClaim("exp")),
            Reason::Token(TokenError::KeysUnavailable(KeyErrorKind::Timeout)),
            Reason::NoRoute,
            Reason::NoRule,
            Reason::InsufficientScope,
            Reason::Policy(Refusal::Denied),
            Reason::Policy(Refusal::Undefined),
            Reason::Policy(Refusal::Unfulfilled("mask".into())),
            Reason::NoDecision(PolicyErrorKind::Timeout),
            Reason::NoDecision(PolicyErrorKind::Panicked),
            Reason::AuditUnavailable,
            Reason::MissingLayer(MissingLayer::Route),
            Reason::Panicked(Stage::Handler),
        ]
    }

    fn wire(response: &Response<Bytes>) -> String {
        let headers: String =
            response.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect();
        format!("{}\n{headers}\n{}", response.status(), String::from_utf8_lossy(response.body()))
    }

    #[test]
    fn within_a_class_the_bytes_are_the_same_for_every_reason() {
        let rules = Rules::new().get("/jobs", scopes(all_of(["jobs:read"]))).into_table().unwrap();
        let key = RouteKey::Http { method: Method::GET, template: "/jobs".into() };
        let routes = [Some(Route::matched(&rules, key)), Some(Route::unmatched(&rules)), None];
        let sign_in = SignInRedirect::new("/login").unwrap();
        let renderers = [Renderer::api("r").unwrap(), Renderer::browser("r", sign_in).unwrap()];
        let requests = [
            Request::get("/jobs"),
            Request::head("/jobs"),
            Request::post("/jobs").header("content-type", "application/grpc+proto"),
            Request::get("/jobs").header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document"),
        ];
        for request in requests {
            let context = context(request);
            for renderer in &renderers {
                let mut seen = std::collections::HashMap::<Class, String>::new();
                for (reason, route) in
                    reasons().iter().flat_map(|reason| routes.iter().map(move |route| (reason, route)))
                {
                    let denial = Denial::of(reason, route.as_ref());
                    let text = wire(&renderer.render(&denial, &context));
                    let first = seen.entry(denial.class()).or_insert_with(|| text.clone());
                    assert_eq!(*first, text, "{reason:?}");
                }
                assert_eq!(seen.len(), 6);
            }
        }
    }

    #[test]
    fn an_api_refusal_is_these_bytes() {
        let context = context(Request::get("/"));
        let id = context.request_id.clone();
        let renderer = Renderer::api("jobs").unwrap();
        let render = |reason| wire(&renderer.render(&Denial::of(&reason, None), &context));
        let golden = |status: u16, phrase: &str, extra: &str| {
            let body = format!(
                "{{\"type\":\"about:blank\",\"title\":\"{phrase}\",\"status\":{status},\"instance\":\"urn:request:{id}\"}}"
            );
            format!(
                "{status} {phrase}\ncontent-type: application/problem+json\ncontent-length: {}\ncache-control: no-store\n\
                 x-content-type-options: nosniff\n{extra}\n{body}",
                body.len()
            )
        };
        let bare = "www-authenticate: Bearer realm=\"jobs\"\n";
        let sent = "www-authenticate: Bearer realm=\"jobs\", error=\"invalid_token\"\n";
        assert_eq!(render(Reason::MissingCredentials), golden(401, "Unauthorized", bare));
        assert_eq!(render(Reason::Token(TokenError::Expired)), golden(401, "Unauthorized", sent));
        assert_eq!(render(Reason::MalformedCredentials(BearerError::Repeated)), golden(400, "Bad Request", ""));
        assert_eq!(render(Reason::NoRule), golden(403, "Forbidden", ""));
        assert_eq!(render(Reason::AuditUnavailable), golden(503, "Service Unavailable", "retry-after: 5\n"));
        assert_eq!(render(Reason::Panicked(Stage::Policy)), golden(500, "Internal Server Error", ""));
    }

    #[test]
    fn a_concealed_route_and_an_absent_one_are_the_same_404() {
        let rules = Rules::new().get("/admin", scopes(all_of(["admin"])).concealed()).into_table().unwrap();
        let key = RouteKey::Http { method: Method::GET, template: "/admin".into() };
        let (hidden, absent) = (Route::matched(&rules, key), Route::unmatched(&rules));
        let context = context(Request::get("/admin"));
        for disclosure in [Disclosure::Silent, Disclosure::Guided] {
            let renderer = Renderer::default().with_disclosure(disclosure);
            let render = |reason, route| wire(&renderer.render(&Denial::of(&reason, Some(route)), &context));
            let scope = render(Reason::InsufficientScope, &hidden);
            assert!(scope.starts_with("404 Not Found\n"), "{scope}");
            assert_eq!(scope, render(Reason::Policy(Refusal::Denied), &hidden));
            assert_eq!(scope, render(Reason::NoRoute, &absent));
        }
    }

    #[test]
    fn head_has_the_headers_of_get_and_no_body() {
        let denial = Denial::of(&Reason::NoRule, None);
        let get = Renderer::default().render(&denial, &context(Request::get("/")));
        let head = Renderer::default().render(&denial, &context(Request::head("/")));
        assert_eq!(get.headers(), head.headers());
        assert!(head.body().is_empty() && !get.body().is_empty());
    }

    #[test]
    fn grpc_is_trailers_only_whatever_the_profile() {
        let expected = [
            (Reason::MissingCredentials, "16", "unauthenticated"),
            (Reason::Token(TokenError::Expired), "16", "unauthenticated"),
            (Reason::MalformedCredentials(BearerError::Repeated), "3", "malformed request"),
            (Reason::Policy(Refusal::Denied), "7", "permission denied"),
            (Reason::AuditUnavailable, "14", "unavailable"),
            (Reason::Panicked(Stage::Policy), "13", "internal error"),
        ];
        let context = context(Request::post("/jobs.v1.Jobs/List").header("content-type", "application/grpc"));
        for profile in [Profile::Api, Profile::Pages, Profile::Browser(SignInRedirect::new("/login").unwrap())] {
            let renderer = Renderer::default().with_profile(profile).with_disclosure(Disclosure::Guided);
            for (reason, code, message) in &expected {
                let text = wire(&renderer.render(&Denial::of(reason, None), &context));
                assert_eq!(
                    text,
                    format!("200 OK\ncontent-type: application/grpc\ngrpc-status: {code}\ngrpc-message: {message}\n\n")
                );
            }
        }
    }

    #[test]
    fn only_top_level_navigations_are_redirected() {
        let html = "text/html,application/xhtml+xml,*/*;q=0.8";
        let navigate =
            |request: Builder| request.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
        let cases = [
            ("navigation", navigate(Request::get("/x")), true),
            ("HEAD navigation", navigate(Request::head("/x")), true),
            ("old browser", Request::get("/x").header("accept", html), true),
            ("form post", navigate(Request::post("/x")), false),
            (
                "frame",
                Request::get("/x").header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "iframe"),
                false,
            ),
            ("two modes", navigate(Request::get("/x")).header("sec-fetch-mode", "cors"), false),
            ("script", Request::get("/x").header("sec-fetch-mode", "cors").header("accept", html), false),
            ("mode alone", Request::get("/x").header("sec-fetch-mode", "navigate").header("accept", html), false),
            ("any", Request::get("/x").header("accept", "*/*"), false),
            ("no accept", Request::get("/x"), false),
            ("events", Request::get("/x").header("accept", "text/event-stream, text/html"), false),
            ("json", Request::get("/x").header("accept", "application/json, text/html"), false),
            ("json body", Request::get("/x").header("accept", html).header("content-type", "application/json"), false),
            (
                "XMLHttpRequest",
                Request::get("/x").header("accept", html).header("x-requested-with", "XMLHttpRequest"),
                false,
            ),
            ("preflight", Request::options("/x").header("accept", html), false),
            ("old HEAD", Request::head("/x").header("accept", html), false),
        ];
        let renderer = Renderer::browser("r", SignInRedirect::new("https://id.example/").unwrap()).unwrap();
        for (name, request, redirected) in cases {
            let context = context(request);
            let response = renderer.render(&Denial::of(&Reason::MissingCredentials, None), &context);
            assert_eq!(response.status() == StatusCode::SEE_OTHER, redirected, "{name}");
            assert_eq!(response.headers()["cache-control"], "no-store", "{name}");
            assert_eq!(response.headers()["vary"], page::VARY, "{name}");
            if redirected {
                assert_eq!(response.headers()["location"], "https://id.example/?return_to=/x", "{name}");
            } else {
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
                assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"r\"", "{name}");
            }
            let forbidden = renderer.render(&Denial::of(&Reason::NoRule, None), &context);
            assert_eq!(forbidden.status(), StatusCode::FORBIDDEN, "{name}");
            assert_eq!(forbidden.headers()["content-type"], "text/html; charset=utf-8", "{name}");
        }
    }

    #[test]
    fn grpc_web_never_gets_a_page() {
        let context = context(Request::post("/x").header("content-type", "application/grpc-web+proto"));
        let response =
            Renderer::default().with_profile(Profile::Pages).render(&Denial::of(&Reason::NoRule, None), &context);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[test]
    fn a_closure_renders() {
        let renderer: Arc<dyn RenderDenial> = Arc::new(|denial: &Denial, _: &RenderContext| {
            Response::builder().status(denial.class().http_status()).body(Bytes::new()).unwrap()
        });
        let response = renderer.render(&Denial::of(&Reason::NoRule, None), &context(Request::get("/")));
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
}
