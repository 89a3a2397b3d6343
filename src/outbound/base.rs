use std::path::PathBuf;

use http::{HeaderValue, uri::Scheme};

use super::address::{dangerous_url, secure_url};
use crate::ConfigError;

/// Where a server is, and what all that it is asked for has in common.
#[derive(Clone)]
pub(crate) struct Address {
    /// Scheme, authority, and a path without a slash at its end.
    pub(crate) base: String,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) is_https: bool,
}

impl Address {
    /// `https`, `http` to this machine (with `plain_http`, to any), or `unix:///path`.
    pub(crate) fn read(field: String, url: &str, plain_http: bool) -> Result<Self, ConfigError> {
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/') && is_socket_path(path));
            let remedy = "give the socket's absolute path after three slashes, `unix:///run/opa/opa.sock`, at most about 100 bytes long";
            let path = path.ok_or_else(|| ConfigError::invalid(field, url, remedy))?;
            return Ok(Self { base: "http://localhost".into(), socket: Some(path.into()), is_https: false });
        }
        let uri = if plain_http { dangerous_url(field.clone(), url) } else { secure_url(field.clone(), url) }?;
        if uri.query().is_some() {
            let (shown, _) = url.split_once('?').unwrap_or((url, ""));
            return Err(ConfigError::invalid(field, shown, "leave the query out of the address"));
        }
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
        Ok(Self {
            base: format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/')),
            socket: None,
            is_https: uri.scheme() == Some(&Scheme::HTTPS),
        })
    }
}

/// A bearer token as it is sent ([RFC 6750 §2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)); `None` for what is no token, such
/// as one with the line break at the end of a file, which would make every request fail.
pub(crate) fn bearer(token: &[u8]) -> Option<HeaderValue> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if token.is_empty() || !token.iter().all(is_token) {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    // Kept out of logs, and out of HTTP/2's compression tables.
    value.set_sensitive(true);
    Some(value)
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
