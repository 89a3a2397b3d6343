use std::path::PathBuf;

use http::uri::Scheme;

use crate::{
    ConfigError,
    outbound::{dangerous_url, secure_url},
};

/// Where a policy server is.
pub(in crate::policy) struct Address {
    /// Scheme, authority, and a path without a slash at its end.
    pub(in crate::policy) base: String,
    pub(in crate::policy) socket: Option<PathBuf>,
    pub(in crate::policy) is_https: bool,
}

impl Address {
    /// `https`, `http` to this machine (with `plain_http`, to any), or `unix:///path`.
    pub(in crate::policy) fn read(field: String, url: &str, plain_http: bool) -> Result<Self, ConfigError> {
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
