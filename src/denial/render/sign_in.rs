use http::{HeaderValue, Uri, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::ConfigError;

/// Where a browser without credentials is sent: the page that begins the sign-in at the identity provider.
///
/// The page receives the way back in the query parameter `return_to`: always a path of this origin, never an absolute URL,
/// and left out when the path is over 2 KiB or could be read as another origin. No reason is passed on.
#[derive(Clone, Debug)]
pub struct SignInRedirect {
    url: Box<str>,
    /// Set when the page lives at our own origin: refused there, a redirect would only come back.
    own_path: Option<Box<str>>,
}

impl SignInRedirect {
    /// A sign-in page at an `https` URL, at a path of this origin (`/login`), or for development at `http` on a loopback address.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for any other URL, and for one with user information or a fragment.
    pub fn new(url: impl Into<String>) -> Result<Self, ConfigError> {
        let url = url.into();
        let invalid = || {
            ConfigError::invalid(
                "sign_in.url",
                url.clone(),
                "use an https URL or a path that starts with a single `/`, without fragment and user information",
            )
        };
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let odd = |character: char| character.is_ascii_control() || matches!(character, '#' | '\\');
        if url.contains(odd) || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(invalid());
        }
        let own_path = match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) => None,
            (Some("http"), Some("localhost" | "127.0.0.1" | "[::1]")) => None,
            (None, None) if url.starts_with('/') && !url.starts_with("//") => Some(uri.path().into()),
            _ => return Err(invalid()),
        };
        Ok(Self { url: url.into(), own_path })
    }

    /// The `Location` for a request to `target`; `None` when that is the sign-in page itself.
    pub(super) fn location(&self, target: Option<&PathAndQuery>) -> Option<HeaderValue> {
        if target.is_some_and(|target| self.own_path.as_deref() == Some(target.path())) {
            return None;
        }
        let text = match target.and_then(return_path) {
            Some(path) => {
                let separator = if self.url.contains('?') { '&' } else { '?' };
                format!("{}{separator}return_to={}", self.url, utf8_percent_encode(path, QUERY_VALUE))
            }
            None => self.url.to_string(),
        };
        HeaderValue::try_from(text).ok()
    }
}

/// The path and query, when every browser reads them as a place of the same origin: `//host`, `/\host` and dot segments that
/// lead there are how return paths become open redirects. A query that carries credentials is not passed on either.
pub(super) fn return_path(target: &PathAndQuery) -> Option<&str> {
    let (text, path) = (target.as_str(), target.path());
    let local = path.starts_with('/')
        && !path.starts_with("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
        && !text.contains(|character: char| character.is_control() || character == '\\');
    let secret = target.query().is_some_and(crate::policy::carries_credentials);
    (local && !secret && text.len() <= MAX_RETURN_PATH).then_some(text)
}

const MAX_RETURN_PATH: usize = 2048;
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

#[cfg(test)]
mod tests {
    use super::*;

    fn location(sign_in: &str, target: &str) -> Option<String> {
        let target = PathAndQuery::try_from(target).unwrap();
        let value = SignInRedirect::new(sign_in).unwrap().location(Some(&target))?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_safe_sign_in_pages_build() {
        for url in [
            "https://id.example/start",
            "/login?a=b",
            "http://127.0.0.1:8080/x",
            "http://localhost/",
            "http://[::1]:1/",
        ] {
            assert!(SignInRedirect::new(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "login",
            "//id.example/",
            "/\\id.example/",
            "http://id.example/",
            "http://localhost.evil.example/",
            "javascript:alert(1)",
            "https://user:pass@id.example/",
            "https://id.example/#here",
            "https://id.example/\r\nset-cookie:a",
        ] {
            assert_eq!(SignInRedirect::new(url).unwrap_err().field(), "sign_in.url", "{url}");
        }
    }

    #[test]
    fn the_way_back_is_a_path_of_this_origin_or_nothing() {
        assert_eq!(
            location("https://id.example/start?app=1", "/jobs/7?a=b&c=%2F").as_deref(),
            Some("https://id.example/start?app=1&return_to=/jobs/7%3Fa%3Db%26c%3D%252F")
        );
        let long = format!("/{}", "x".repeat(2048));
        for target in [
            "//evil.example",
            "/\\evil.example",
            "/a\\b",
            "/..//evil.example",
            "/./x",
            "/cb?access_token=s3cret",
            &long,
        ] {
            assert_eq!(location("/login", target).as_deref(), Some("/login"), "{target}");
        }
    }

    #[test]
    fn the_sign_in_page_is_never_sent_to_itself() {
        assert_eq!(location("/login", "/login?return_to=/x"), None);
    }
}
