//! What may be asked of a service: judged and put together once, while it is built.

use std::{fmt, str::FromStr as _};

use http::Uri;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::{ConfigError, outbound::Address};

/// What is asked for at a service. Its query may be a credential, as in the signed addresses of object stores: it is not printed.
#[derive(Clone)]
pub(crate) struct Resource(Uri);

impl Resource {
    /// The resource at this path, with a query or without. What no address may hold is percent-encoded; what is encoded already stays.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for a path with an empty step, or one that whoever reads it on the way would take for `.` or `..`.
    pub(super) fn at(address: &Address, field: &'static str, path: &str) -> Result<Self, ConfigError> {
        let (steps, query) = path.split_once('?').map_or((path, None), |(steps, query)| (steps, Some(query)));
        let refused = |remedy: &'static str| ConfigError::invalid(field, steps, remedy);
        for step in steps.split('/') {
            let decoded = percent_decode_str(step).decode_utf8().map_err(|_| refused("encode it as UTF-8"))?;
            if matches!(&*decoded, "" | "." | "..") {
                return Err(refused("write it as steps between single slashes, such as `bundles/authz`"));
            }
        }
        let mut text = format!("{}/{}", address.base, utf8_percent_encode(steps, IN_PATH));
        if let Some(query) = query {
            text.push('?');
            text.extend(utf8_percent_encode(query, IN_QUERY));
        }
        Uri::from_str(&text).map(Self).map_err(|_| refused("make it shorter"))
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resource").field(&self.0.path()).finish()
    }
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
        let address = Address::read("policy.management.url".to_owned(), base, false)?;
        Ok(Resource::at(&address, "policy.management.resource", path)?.uri().to_string())
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
    }

    #[test]
    fn a_signed_address_is_not_printed() {
        let address = Address::read(String::new(), "https://a.example", false).unwrap();
        let resource = Resource::at(&address, "r", "b?sig=s3cr3t").unwrap();
        assert_eq!(format!("{resource:?}"), "Resource(\"/b\")");
    }
}
