//! What the router matched: the neutral value that gates read instead of the raw path.

mod fit;

use std::{fmt, net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Uri, header::HOST, uri::Authority};
use percent_encoding::percent_decode_str;

pub(crate) use self::fit::fit;
use crate::rules::{Rule, RuleTable};

/// The name of a route, as rules and policies know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteKey {
    /// An HTTP route: method and the router's template (`/jobs/{id}`).
    Http {
        /// The method, compared exactly.
        method: Method,
        /// The template as the router was given it.
        template: Arc<str>,
    },
    /// A gRPC method as `package.Service/Method`.
    Grpc {
        /// Service and method.
        method: Arc<str>,
    },
}

impl RouteKey {
    /// For a `HEAD` route the `GET` route beside it.
    pub(crate) fn as_get(&self) -> Option<Self> {
        match self {
            Self::Http { method, template } if *method == Method::HEAD => {
                Some(Self::Http { method: Method::GET, template: Arc::clone(template) })
            }
            Self::Http { .. } | Self::Grpc { .. } => None,
        }
    }

    pub(crate) fn has_parameter(&self) -> bool {
        match self {
            Self::Http { template, .. } => template.contains(['{', '*']),
            Self::Grpc { .. } => false,
        }
    }

    /// The HTTP method of the key; `None` for gRPC.
    pub(crate) fn method(&self) -> Option<&str> {
        match self {
            Self::Http { method, .. } => Some(method.as_str()),
            Self::Grpc { .. } => None,
        }
    }

    /// The template, or `package.Service/Method`.
    #[must_use]
    pub fn template(&self) -> &str {
        match self {
            Self::Http { template, .. } => template,
            Self::Grpc { method } => method,
        }
    }
}

/// `GET  /jobs/{id}`, or `gRPC jobs.v1.Jobs/List`.
impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { method, template } => write!(f, "{:<4} {template}", method.as_str()),
            Self::Grpc { method } => write!(f, "gRPC {method}"),
        }
    }
}

/// Which route a request matched, and what the rules demand of it.
///
/// Written into the request by a framework's `RouteLayer`, read by every gate. On a service without a router insert one
/// yourself: the gates after it trust it, so make it from what will really be called, not from the raw path.
///
/// ```
/// use portcullis::{route::{Route, RouteKey}, rules::{Rules, policy_only}};
///
/// let rules = Rules::new().get("/jobs", policy_only()).into_table()?;
/// let route = Route::matched(&rules, RouteKey::Http { method: http::Method::GET, template: "/jobs".into() });
/// assert!(route.rule().is_some());
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Route(Arc<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    key: Option<RouteKey>,
    rule: Option<Arc<Rule>>,
    concealed: bool,
    path: Vec<String>,
    params: Vec<(Arc<str>, String)>,
    peer: Option<SocketAddr>,
}

impl Route {
    /// A route that the router knows; its rule, if it has one, is looked up here.
    #[must_use]
    pub fn matched(rules: &RuleTable, key: RouteKey) -> Self {
        let rule = rules.find(&key);
        let concealed = rule.as_ref().map_or_else(|| rules.conceals_absent_routes(), |rule| rule.is_concealed());
        Self(Arc::new(Inner { key: Some(key), rule, concealed, path: Vec::new(), params: Vec::new(), peer: None }))
    }

    /// A request that no route matched: denied, like a route without a rule.
    #[must_use]
    pub fn unmatched(rules: &RuleTable) -> Self {
        let concealed = rules.conceals_absent_routes();
        Self(Arc::new(Inner { key: None, rule: None, concealed, path: Vec::new(), params: Vec::new(), peer: None }))
    }

    /// Sets the decoded path segments, for policies.
    #[must_use]
    pub fn with_path(mut self, path: Vec<String>) -> Self {
        Arc::make_mut(&mut self.0).path = path;
        self
    }

    /// Sets the decoded path parameters, for policies.
    #[must_use]
    pub fn with_params(mut self, params: Vec<(Arc<str>, String)>) -> Self {
        Arc::make_mut(&mut self.0).params = params;
        self
    }

    /// Sets the address at the other end of the connection, for policies and audit.
    #[must_use]
    pub fn with_peer(mut self, peer: Option<SocketAddr>) -> Self {
        Arc::make_mut(&mut self.0).peer = peer;
        self
    }

    /// The route; `None` when no route matched.
    #[must_use]
    pub fn key(&self) -> Option<&RouteKey> {
        self.0.key.as_ref()
    }

    /// What the rules demand; `None` (no row, or no route) means that the request is denied.
    #[must_use]
    pub fn rule(&self) -> Option<&Rule> {
        self.0.rule.as_deref()
    }

    /// True when refusals of an authenticated caller hide whether the route exists.
    #[must_use]
    pub fn is_concealed(&self) -> bool {
        self.0.concealed
    }

    /// The decoded path segments.
    #[must_use]
    pub fn path(&self) -> &[String] {
        &self.0.path
    }

    /// The decoded path parameters, in the template's order.
    #[must_use]
    pub fn params(&self) -> &[(Arc<str>, String)] {
        &self.0.params
    }

    /// The address at the other end of the connection, when the server tells it.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }
}

/// Why a request target cannot be trusted to mean one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedTarget {
    /// A percent sign without two hexadecimal digits after it, or bytes that are not UTF-8 once decoded.
    #[error("the path has a broken percent-encoding")]
    Encoding,
    /// `/` or `\` inside a segment, plain or encoded.
    #[error("a path segment holds a slash or backslash")]
    Separator,
    /// A `.` or `..` segment, plain or encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A control character or a semicolon, plain or encoded.
    #[error("the path has a control character or semicolon")]
    Control,
    /// `#` in the request target.
    #[error("the request target has a fragment")]
    Fragment,
    /// A `Host` that is no authority, or that differs from `:authority` (or the target's own).
    #[error("the request names no authority, or two")]
    Authority,
}

impl MalformedTarget {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Encoding => "target_encoding",
            Self::Separator => "target_separator",
            Self::DotSegment => "target_dot_segment",
            Self::Control => "target_control",
            Self::Fragment => "target_fragment",
            Self::Authority => "target_authority",
        }
    }
}

/// Checks that a request target means one thing to everybody who reads it, and splits its path: raw segments first, each
/// decoded then.
///
/// # Errors
///
/// [`MalformedTarget`]; such a request is refused before anybody looks at its credentials.
pub(crate) fn target(uri: &Uri, headers: &HeaderMap) -> Result<Vec<String>, MalformedTarget> {
    one_authority(uri, headers)?;
    let path = uri.path();
    // Most HTTP servers cut a fragment off before anybody sees it; one that does not is caught here.
    if path.contains('#') {
        return Err(MalformedTarget::Fragment);
    }
    path.strip_prefix('/').unwrap_or(path).split('/').map(segment).collect()
}

fn segment(raw: &str) -> Result<String, MalformedTarget> {
    // A decoder that passes a broken escape through would make two texts of one name.
    let well_formed = raw.split('%').skip(1).all(|after| {
        let mut digits = after.bytes();
        digits.next().is_some_and(|b| b.is_ascii_hexdigit()) && digits.next().is_some_and(|b| b.is_ascii_hexdigit())
    });
    if !well_formed {
        return Err(MalformedTarget::Encoding);
    }
    let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| MalformedTarget::Encoding)?;
    match &*decoded {
        "." | ".." => Err(MalformedTarget::DotSegment),
        text if text.contains(['/', '\\']) => Err(MalformedTarget::Separator),
        text if text.contains(|c: char| c.is_control() || c == ';') => Err(MalformedTarget::Control),
        _ => Ok(decoded.into_owned()),
    }
}

/// At most one authority, however often it is named.
fn one_authority(uri: &Uri, headers: &HeaderMap) -> Result<(), MalformedTarget> {
    let mut named = None;
    let hosts = headers.get_all(HOST).iter().map(host);
    for host in uri.authority().map(|authority| Ok(authority.as_str())).into_iter().chain(hosts) {
        let host = canonical_authority(host?);
        match &named {
            None => named = Some(host),
            Some(earlier) if *earlier == host => {}
            Some(_) => return Err(MalformedTarget::Authority),
        }
    }
    // Two `Host` lines are a smuggling attempt even when they agree (RFC 9112 §3.2).
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(MalformedTarget::Authority);
    }
    Ok(())
}

/// RFC 9112 §3.2: a `Host` that is no authority is a bad request. An empty one names none; user information has no place in it.
fn host(value: &HeaderValue) -> Result<&str, MalformedTarget> {
    let text = value.to_str().map_err(|_| MalformedTarget::Authority)?.trim_matches([' ', '\t']);
    if text.is_empty() || (!text.contains('@') && text.parse::<Authority>().is_ok()) {
        return Ok(text);
    }
    Err(MalformedTarget::Authority)
}

/// The authority that the request names, in the form in which authorities are compared: lower case, without a trailing dot
/// and the default port. Empty when it names none.
pub(crate) fn authority(uri: &Uri, headers: &HeaderMap) -> String {
    let named = uri.authority().map(|authority| authority.as_str()).or_else(|| headers.get(HOST)?.to_str().ok());
    canonical_authority(named.unwrap_or_default())
}

fn canonical_authority(named: &str) -> String {
    let lower = named.to_ascii_lowercase();
    let host = lower.strip_suffix(":443").or_else(|| lower.strip_suffix(":80")).unwrap_or(&lower);
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => format!("{}:{port}", name.trim_end_matches('.')),
        _ => host.trim_end_matches('.').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &str) -> Result<Vec<String>, MalformedTarget> {
        target(&path.parse().unwrap(), &HeaderMap::new())
    }

    #[test]
    fn paths_are_split_first_and_decoded_then() {
        assert_eq!(split("/a%20b/c%C3%A9").unwrap(), ["a b", "cé"]);
        assert_eq!(split("/").unwrap(), [""]);
        assert_eq!(split("/a//b/").unwrap(), ["a", "", "b", ""]);
        assert_eq!(split("/100%25").unwrap(), ["100%"]);
    }

    #[test]
    fn a_path_that_could_mean_two_things_is_refused() {
        use MalformedTarget as M;
        let table = [
            ("/a/../b", M::DotSegment),
            ("/a/./b", M::DotSegment),
            ("/%2e%2e/b", M::DotSegment),
            ("/%2E/b", M::DotSegment),
            ("/a%2Fb", M::Separator),
            ("/a%2fb", M::Separator),
            ("/a%5Cb", M::Separator),
            ("/a%5cb", M::Separator),
            ("/a%00", M::Control),
            ("/a%0A", M::Control),
            ("/a%0d", M::Control),
            ("/a;b=c", M::Control),
            ("/a%3Bb", M::Control),
            ("/a%7F", M::Control),
            ("/a%C2%85", M::Control),
            ("/a%", M::Encoding),
            ("/a%2", M::Encoding),
            ("/a%zz", M::Encoding),
            ("/a%FF", M::Encoding),
            ("/a%C0%AF", M::Encoding),
        ];
        for (path, expected) in table {
            assert_eq!(split(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn two_authorities_are_refused_and_two_spellings_of_one_are_not() {
        let check = |uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            target(&uri.parse().unwrap(), &headers)
        };
        assert!(check("/", &["a.example"]).is_ok());
        assert!(check("http://a.example/", &["A.example.:80"]).is_ok());
        assert_eq!(check("http://a.example/", &["b.example"]), Err(MalformedTarget::Authority));
        assert_eq!(check("/", &["a.example", "b.example"]), Err(MalformedTarget::Authority));
        assert_eq!(check("/", &["a.example", "a.example"]), Err(MalformedTarget::Authority));
        assert!(check("/", &[""]).is_ok());
        for odd in ["a b", "a/b", "user@a.example", "a\"b", "a\\b", "a,b:x:y", "[::1", "a%00b"] {
            assert_eq!(check("/", &[odd]), Err(MalformedTarget::Authority), "{odd}");
        }
    }

    #[test]
    fn authorities_compare_without_case_dot_and_default_port() {
        let table = [
            ("A.b.", "a.b"),
            ("a.b:443", "a.b"),
            ("a.b:80", "a.b"),
            ("a.b.:8080", "a.b:8080"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ];
        for (host, expected) in table {
            assert_eq!(canonical_authority(host), expected, "{host}");
        }
    }
}
