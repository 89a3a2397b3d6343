//! Which addresses secrets and decisions may depend on.

use std::{borrow::Cow, net::IpAddr};

use http::Uri;
use url::Url;

use crate::ConfigError;

/// Reads an address that secrets or decisions depend on: `https`, or `http` to this machine (a loopback address or `localhost`).
///
/// What is returned is what was judged, in the form of the WHATWG URL standard, so that no two parsers can read two hosts in it.
///
/// # Errors
///
/// [`ConfigError`] for any other scheme, credentials or a fragment in the address, and what is no absolute URL.
pub(crate) fn secure_url(field: impl Into<Cow<'static, str>>, value: &str) -> Result<Uri, ConfigError> {
    checked_url(field.into(), value, is_loopback)
}

/// As [`secure_url`], but takes `http` to any machine: only for who was told so by name.
#[cfg(any(feature = "authzen", feature = "opa", feature = "opa-management"))]
pub(crate) fn dangerous_url(field: impl Into<Cow<'static, str>>, value: &str) -> Result<Uri, ConfigError> {
    checked_url(field.into(), value, |_| true)
}

fn checked_url(field: Cow<'static, str>, value: &str, may_be_plain: impl Fn(&str) -> bool) -> Result<Uri, ConfigError> {
    let refuse = |remedy: &'static str| ConfigError::invalid(field.clone(), printable(value), remedy);
    let not_absolute = "give an absolute URL such as `https://example.com/path`";
    let url = Url::parse(value).map_err(|_| refuse(not_absolute))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("leave credentials out of the address: configure them as credentials"));
    }
    if url.fragment().is_some() {
        return Err(refuse("leave the fragment out of the address"));
    }
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) => {}
        ("http", Some(host)) if may_be_plain(host) => {}
        ("http", Some(_)) => return Err(refuse("use https: plain http is for loopback addresses only")),
        _ => return Err(refuse(not_absolute)),
    }
    url.as_str().parse().map_err(|_| refuse(not_absolute))
}

fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    // `localhost` alone, no name below it: RFC 6761 asks resolvers to keep both local, and not all obey for the latter.
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The address without what may be secret in it: user information and query.
fn printable(value: &str) -> String {
    let (shown, _) = value.split_at(value.find(['?', '#']).unwrap_or(value.len()));
    match (shown.find("//"), shown.rfind('@')) {
        (Some(start), Some(at)) if start < at => {
            shown.get(..start + 2).unwrap_or_default().to_owned() + "…" + shown.get(at..).unwrap_or_default()
        }
        (None, Some(at)) => "…".to_owned() + shown.get(at..).unwrap_or_default(),
        _ => shown.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_is_secure_and_http_only_on_this_machine() {
        let good = [
            "https://example.com",
            "https://example.com/a?p=b",
            "http://localhost:8181/v1",
            "http://127.0.0.1",
            "http://127.8.9.10:80/",
            "http://[::1]:8080/",
            "http://[::ffff:127.0.0.1]/",
        ];
        for url in good {
            assert!(secure_url("f", url).is_ok(), "{url}");
        }
        let bad = [
            "",
            "example.com",
            "//example.com",
            "http://example.com/",
            "http://10.0.0.1/",
            "http://0.0.0.0/",
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
            "http://sub.localhost/",
            "http://localhost@example.com/",
            "http://example.com\\@localhost/",
            "https://user:s3cr3t@example.com/?t=s3cr3t",
            "https://user:s3cr3t@example.com:port/",
            "user:s3cr3t@example.com",
            "https://example.com/#f",
            "ftp://localhost/",
            "file:///etc/passwd",
            "unix:/run/opa.sock",
            "https://",
        ];
        for url in bad {
            let error = secure_url("issuer.url", url).expect_err(url);
            assert_eq!(error.field(), "issuer.url");
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn what_was_judged_is_what_is_sent() {
        // A parser that takes `\` for a part of the host would see another one here.
        let uri = secure_url("f", "HTTPS://EXAMPLE.com\\@other.example/../a").unwrap();
        assert_eq!((uri.host(), uri.path()), (Some("example.com"), "/a"));
        assert_eq!(secure_url("f", "http://2130706433/").unwrap().host(), Some("127.0.0.1"));
    }
}
