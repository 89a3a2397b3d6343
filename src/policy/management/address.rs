//! Where a service is, and what may be asked of it: judged and put together once, while it is built.

use std::{fmt, path::PathBuf, str::FromStr as _};

use http::{Uri, uri::Scheme};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::{
    ConfigError,
    outbound::{dangerous_url, secure_url},
};

/// The part that all addresses of a service have in common.
#[derive(Clone)]
pub(super) struct Base {
    /// Scheme, authority, and a path without a slash at its end.
    text: String,
    pub(super) socket: Option<PathBuf>,
    pub(super) is_https: bool,
}

/// What is asked for at a service. Its query may be a credential, as in the signed addresses of object stores: it is not printed.
#[derive(Clone)]
pub(crate) struct Resource(Uri);

impl Base {
    pub(super) fn read(url: &str, plain_http: bool) -> Result<Self, ConfigError> {
        let field = "policy.management.url";
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/') && is_socket_path(path));
            let remedy = "give the socket's absolute path after three slashes, `unix:///run/bundles.sock`, at most about 100 bytes long";
            let path = path.ok_or_else(|| ConfigError::invalid(field, url, remedy))?;
            return Ok(Self { text: "http://localhost".into(), socket: Some(path.into()), is_https: false });
        }
        let uri = if plain_http { dangerous_url(field, url) } else { secure_url(field, url) }?;
        if uri.query().is_some() {
            let (shown, _) = url.split_once('?').unwrap_or((url, ""));
            let remedy = "leave the query out of the address: it belongs to the resource";
            return Err(ConfigError::invalid(field, shown, remedy));
        }
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
        Ok(Self {
            text: format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')),
            socket: None,
            is_https: uri.scheme() == Some(&Scheme::HTTPS),
        })
    }

    /// The resource at this path, with a query or without. What no address may hold is percent-encoded; what is encoded already stays.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a path with an empty step, or one that whoever reads it on the way would take for `.` or `..`.
    pub(super) fn resource(&self, field: &'static str, path: &str) -> Result<Resource, ConfigError> {
        let (steps, query) = path.split_once('?').map_or((path, None), |(steps, query)| (steps, Some(query)));
        let refused = |remedy: &'static str| ConfigError::invalid(field, steps, remedy);
        for step in steps.split('/') {
            let decoded = percent_decode_str(step).decode_utf8().map_err(|_| refused("encode it as UTF-8"))?;
            if matches!(&*decoded, "" | "." | "..") {
                return Err(refused("write it as steps between single slashes, such as `bundles/authz`"));
            }
        }
        let mut text = format!("{}/{}", self.text, utf8_percent_encode(steps, IN_PATH));
        if let Some(query) = query {
            text.push('?');
            text.extend(utf8_percent_encode(query, IN_QUERY));
        }
        Uri::from_str(&text).map(Resource).map_err(|_| refused("make it shorter"))
    }
}

impl Resource {
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resource").field(&self.0.path()).finish()
    }
}

/// Whether the operating system can take it for a socket's path. Nothing is opened.
#[cfg(unix)]
fn is_socket_path(path: &str) -> bool {
    path.len() > 1 && std::os::unix::net::SocketAddr::from_pathname(path).is_ok()
}

/// The client says what is wrong with it on this platform.
#[cfg(not(unix))]
fn is_socket_path(_: &str) -> bool {
    true
}

/// RFC 3986 §3.4. `%` stays: what a service needs encoded (`bundles%2Fauthz.tar.gz`) is written so.
const IN_QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
const IN_PATH: &AsciiSet = &IN_QUERY.add(b'?');

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(base: &str, path: &str) -> Result<String, ConfigError> {
        Ok(Base::read(base, false)?.resource("policy.management.resource", path)?.uri().to_string())
    }

    #[test]
    fn addresses_are_joined_by_one_slash_and_encoded_once() {
        for (base, path, joined) in [
            ("https://a.example", "bundles/authz", "https://a.example/bundles/authz"),
            ("https://a.example/", "bundles/authz", "https://a.example/bundles/authz"),
            ("https://a.example/v1/", "b.tar.gz", "https://a.example/v1/b.tar.gz"),
            ("http://localhost:9000", "b c#d[e]\u{e9}", "http://localhost:9000/b%20c%23d%5Be%5D%C3%A9"),
            ("https://a.example/o", "dir%2Fb.tar.gz?alt=media", "https://a.example/o/dir%2Fb.tar.gz?alt=media"),
            ("https://a.example", "b?X-Sig=a/b+c%3D#d", "https://a.example/b?X-Sig=a/b+c%3D%23d"),
            ("unix:///run/b.sock", "status", "http://localhost/status"),
        ] {
            assert_eq!(uri(base, path).unwrap(), joined, "{base} {path}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for path in ["", "/b", "b/", "a//b", ".", "a/../b", "a/%2e%2E/b", "%2e", "a/%ff"] {
            let error = uri("https://a.example", path).unwrap_err();
            assert_eq!(error.field(), "policy.management.resource", "{path}");
        }
    }

    #[test]
    fn an_address_that_anybody_can_read_is_refused() {
        for url in [
            "http://a.example",
            "https://a.example?t=s3cr3t",
            "https://u:s3cr3t@a.example",
            "unix:run",
            "unix:///",
            "ftp://localhost",
        ] {
            let error = uri(url, "b").unwrap_err();
            assert!(error.field() == "policy.management.url" && !error.to_string().contains("s3cr3t"), "{error}");
        }
        assert!(Base::read("http://a.example", true).is_ok());
    }

    #[test]
    fn a_signed_address_is_not_printed() {
        let resource = Base::read("https://a.example", false).unwrap().resource("r", "b?sig=s3cr3t").unwrap();
        assert_eq!(format!("{resource:?}"), "Resource(\"/b\")");
    }
}
