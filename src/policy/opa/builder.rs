use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Opa, canary, server::Server};
use crate::{
    ConfigError,
    outbound::Outbound,
    policy::{
        InputFormat,
        remote::{Secret, Settings, Watch, check_interval},
    },
    time::Clock,
};

/// Gathers how an [`Opa`] reaches its server.
#[derive(Clone)]
#[must_use = "nothing is asked before `build`"]
pub struct OpaBuilder {
    settings: Settings,
    decision_path: String,
    format: InputFormat,
    health_interval: Option<Duration>,
}

impl OpaBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            settings: Settings::new("policy.opa", url),
            decision_path: Opa::DEFAULT_DECISION_PATH.to_owned(),
            format: InputFormat::default(),
            health_interval: Some(Duration::from_secs(10)),
        }
    }

    /// Which document decides: package and rule below `data`, separated by slashes. Default `authz/decision`.
    ///
    /// Each segment is percent-encoded, so that nothing in it can name another document.
    pub fn with_decision_path(mut self, path: impl Into<String>) -> Self {
        self.decision_path = path.into();
        self
    }

    /// What the policy reads. Default [`InputFormat::AuthZen`].
    pub const fn with_input_format(mut self, format: InputFormat) -> Self {
        self.format = format;
        self
    }

    /// Proves this service to the server with a bearer token ([RFC 6750 §2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)): what
    /// `opa run --authentication=token` reads. It is shown nowhere.
    pub fn with_bearer(mut self, token: impl Into<String>) -> Self {
        self.settings.bearer = Some(Secret(token.into().into_bytes()));
        self
    }

    /// How long a decision may take, from the connection to the last byte, a second attempt included. Default 250 ms; above zero, at
    /// most 10 s.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// How many decisions may be in flight; those beyond are refused at once, as overloaded. Default 64; above zero, at most 65 536.
    /// Anonymous callers share half of them, rounded up.
    pub fn with_max_in_flight(mut self, decisions: usize) -> Self {
        self.settings.max_in_flight = decisions;
        self
    }

    /// After how many failures in a row, of whoever's calls, no call is made, and for how long at first. Default 5 and 1 s; 1 to 1 000, and
    /// 10 ms to 30 s.
    ///
    /// A failure is no answer or a late one, a redirect, a refusal of the credential, and any other status that no policy server gives.
    /// After the time is over one call goes through: answered, it ends the matter; not answered, the time doubles, up to 30 s. Each time is
    /// shortened by up to a half at random, so that many processes do not come back at once. A health check that is passed ends it early.
    ///
    /// Fewer failures than five can be one slow question and its repetitions; many more keep callers waiting for the deadline.
    pub const fn with_breaker(mut self, failures: u32, cool_down: Duration) -> Self {
        self.settings.breaker = (failures, cool_down);
        self
    }

    /// How long between two looks at `/health?bundles`. Default 10 s; 100 ms to 1 h. While something is wrong it is 1 s, or this when it is
    /// shorter.
    pub const fn with_health_interval(mut self, interval: Duration) -> Self {
        self.health_interval = Some(interval);
        self
    }

    /// Never asks `/health?bundles`, for a server where this service cannot reach it: the calls alone are the health. A server that has not
    /// loaded its bundles yet, and therefore denies everything as undefined, then counts as ready.
    pub const fn without_health_checks(mut self) -> Self {
        self.health_interval = None;
        self
    }

    /// Speaks HTTP/2 from the first byte, also without TLS: for `opa run --h2c`, where all calls share one connection. A server that speaks
    /// HTTP/1 alone is then unavailable. Default: HTTP/1.1 without TLS, and what both sides agree on with it.
    pub const fn with_http2_prior_knowledge(mut self) -> Self {
        self.settings.http2 = true;
        self
    }

    /// Sets what the breaker tells the time by. Default [`SystemClock`](crate::time::SystemClock).
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Trusts these certificates (PEM, one or more) instead of the system's. For `https` only.
    pub fn with_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.roots = Some(pem.into());
        self
    }

    /// Proves this service to the server with a certificate chain and its private key (PEM, in one text): what
    /// `opa run --authentication=tls` reads. For `https` only.
    pub fn with_identity(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.identity = Some(Secret(pem.into()));
        self
    }

    /// Sends through this client instead of one of its own; roots, identity and HTTP version are then that client's matter, and so is to
    /// connect to a unix socket (requests to one are addressed to `http://localhost`). The deadline and the 64 KiB hold around it as well.
    pub fn with_outbound(mut self, outbound: Outbound) -> Self {
        self.settings.outbound = Some(outbound);
        self
    }

    /// Takes an `http` address of another machine. Whoever is on the way there then **reads every question and makes every decision**,
    /// and learns the bearer token: only where something else encrypts and authenticates, such as a mesh.
    pub fn dangerous_allow_plain_http(mut self) -> Self {
        self.settings.plain_http = true;
        self
    }

    /// As [`build`](Self::build), and asks the server once: for a service that must not start with a decision path that does not exist.
    ///
    /// The question is an anonymous caller's `GET /`, with the request id `portcullis-canary`. Any decision will do; a deny is one. A server
    /// that is away, or has not activated its bundles, is no error: a warning is logged, requests are answered 503, and the backend is not
    /// ready before the question was answered with a decision. It takes at most two deadlines.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build), and [`ConfigError`] when the answer is undefined or is no decision.
    pub async fn build_probed(self) -> Result<Opa, ConfigError> {
        let opa = self.build()?;
        opa.server.preflight().await?;
        opa.watch.ensure(&opa.server);
        Ok(opa)
    }

    /// Builds the backend. It connects to nothing yet, and needs no Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an address that is neither `https`, nor `http` to this machine, nor a unix socket; a decision path with an empty
    /// segment, `.` or `..`; a bearer token that is none; a bound out of range; certificates that cannot be used, or are given where
    /// there is no TLS; and a system without a certificate store where one is needed.
    pub fn build(self) -> Result<Opa, ConfigError> {
        if let Some(interval) = self.health_interval {
            check_interval("policy.opa.health_interval", interval)?;
        }
        let path = encoded(&self.decision_path)?;
        let address = self.settings.address()?;
        let uri = format!("{}/v1/data/{path}?provenance=true&strict-builtin-errors=true", address.base);
        let uri: Uri = uri.parse().map_err(|error| {
            ConfigError::unusable("policy.opa.decision_path", &self.decision_path, "choose a shorter one", error)
        })?;
        let health_uri = format!("{}/health?bundles", address.base);
        let health_uri = health_uri.parse().map_err(|error| {
            ConfigError::unusable("policy.opa.url", address.base.as_str(), "choose a shorter path", error)
        })?;
        let has_checks = self.health_interval.is_some();
        let server = Server {
            link: self.settings.link(address, has_checks)?,
            uri,
            health_uri,
            has_checks,
            decision_path: self.decision_path,
            format: self.format,
            owes_canary: AtomicBool::new(false),
            canary: canary::input()?,
        };
        Ok(Opa { server: Arc::new(server), watch: Watch::new(self.health_interval) })
    }
}

impl fmt::Debug for OpaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpaBuilder")
            .field("decision_path", &self.decision_path)
            .field("bearer", &self.settings.bearer)
            .field("identity", &self.settings.identity)
            .field("deadline", &self.settings.deadline)
            .field("max_in_flight", &self.settings.max_in_flight)
            .field("plain_http", &self.settings.plain_http)
            .finish_non_exhaustive()
    }
}

/// The path as it is sent. An empty one would be the whole data document, and a slash too many a redirect.
fn encoded(path: &str) -> Result<String, ConfigError> {
    let segments = path.split('/').map(|segment| match segment {
        // Whoever reads the address on the way takes these for steps, encoded or not.
        "" | "." | ".." => Err(ConfigError::invalid(
            "policy.opa.decision_path",
            path,
            "write package and rule, separated by single slashes, such as `authz/decision`",
        )),
        segment => Ok(utf8_percent_encode(segment, SEGMENT).to_string()),
    });
    Ok(segments.collect::<Result<Vec<_>, _>>()?.join("/"))
}

/// RFC 3986 §2.3: all but the unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(url: &str, path: &str) -> Result<String, ConfigError> {
        Opa::builder(url).with_decision_path(path).build().map(|opa| opa.server.uri.to_string())
    }

    #[test]
    fn the_path_is_encoded_segment_by_segment() {
        const QUERY: &str = "?provenance=true&strict-builtin-errors=true";
        let cases = [
            ("http://localhost:8181", "authz/decision", "http://localhost:8181/v1/data/authz/decision"),
            ("http://[::1]:8181/", "authz/decision", "http://[::1]:8181/v1/data/authz/decision"),
            ("https://gateway.example/opa/", "a", "https://gateway.example/opa/v1/data/a"),
            ("http://127.0.0.1", "a b/c?d#e", "http://127.0.0.1/v1/data/a%20b/c%3Fd%23e"),
            ("http://127.0.0.1", "%2e%2e/%2F", "http://127.0.0.1/v1/data/%252e%252e/%252F"),
            ("http://127.0.0.1", "...\\é", "http://127.0.0.1/v1/data/...%5C%C3%A9"),
            ("http://127.0.0.1", "a\r\nb", "http://127.0.0.1/v1/data/a%0D%0Ab"),
            ("unix:///run/opa.sock", "a-b_c.d~e", "http://localhost/v1/data/a-b_c.d~e"),
        ];
        for (url, path, sent) in cases {
            assert_eq!(uri(url, path).unwrap(), format!("{sent}{QUERY}"), "{path}");
            assert_eq!(Opa::builder(url).with_decision_path(path).build().unwrap().decision_path(), path);
        }
    }

    #[test]
    fn a_path_that_could_mean_another_document_is_refused() {
        for path in
            ["", "/", "//", "/authz/decision", "authz/decision/", "authz//decision", ".", "authz/..", "../decision"]
        {
            let error = uri("http://localhost:8181", path).expect_err(path);
            assert_eq!(error.field(), "policy.opa.decision_path");
            assert!(error.to_string().contains(&format!("{path:?}")) && error.to_string().contains("`authz/decision`"));
        }
    }

    #[test]
    fn an_address_is_https_or_on_this_machine_unless_allowed_by_name() {
        let bad = [
            "http://opa.example:8181",
            "http://10.0.0.1",
            "ftp://localhost",
            "localhost:8181",
            "",
            "https://user:s3cr3t@opa.example",
            "https://opa.example/?token=s3cr3t",
            "unix:relative.sock",
            "unix://relative.sock",
            "unix:///",
            "unix:///a\0b",
        ];
        for url in bad {
            let error = uri(url, "a").expect_err(url);
            assert_eq!(error.field(), "policy.opa.url");
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
        assert!(uri(&format!("unix:///{}", "x".repeat(200)), "a").is_err());
        let plain = |url: &str| Opa::builder(url).dangerous_allow_plain_http().build();
        assert_eq!(plain("http://opa.example:443").unwrap().server.uri.authority().unwrap(), "opa.example:443");
        assert!(plain("ftp://opa.example").is_err());
    }

    #[test]
    fn settings_out_of_bounds_name_their_field() {
        let opa = || Opa::builder("http://localhost:8181");
        let second = Duration::from_secs(1);
        let nobody = Outbound::new(tower::service_fn(|_| std::future::pending()));
        let cases = [
            (opa().with_deadline(Duration::ZERO), "policy.opa.deadline"),
            (opa().with_deadline(Duration::from_secs(11)), "policy.opa.deadline"),
            (opa().with_max_in_flight(0), "policy.opa.max_in_flight"),
            (opa().with_max_in_flight(usize::MAX), "policy.opa.max_in_flight"),
            (opa().with_breaker(0, second), "policy.opa.breaker"),
            (opa().with_breaker(1_001, second), "policy.opa.breaker"),
            (opa().with_breaker(5, Duration::ZERO), "policy.opa.breaker"),
            (opa().with_breaker(5, second * 31), "policy.opa.breaker"),
            (opa().with_health_interval(Duration::ZERO), "policy.opa.health_interval"),
            (opa().with_health_interval(second * 3601), "policy.opa.health_interval"),
            (opa().with_outbound(nobody).with_http2_prior_knowledge(), "policy.opa.http2_prior_knowledge"),
            (opa().with_bearer(""), "policy.opa.bearer"),
            (opa().with_bearer("s3cr3t\n"), "policy.opa.bearer"),
            (opa().with_bearer("Bearer s3cr3t"), "policy.opa.bearer"),
            (opa().with_bearer("s3cr3t\r\nx-injected: 1"), "policy.opa.bearer"),
            (opa().with_roots("s3cr3t"), "policy.opa.roots"),
            (opa().with_identity("s3cr3t"), "policy.opa.identity"),
            (Opa::builder("https://opa.example").with_roots("s3cr3t"), "outbound.roots"),
            (Opa::builder("https://opa.example").with_identity("s3cr3t"), "outbound.identity"),
        ];
        for (builder, field) in cases {
            let error = builder.build().unwrap_err();
            assert_eq!(error.field(), field);
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let builder = Opa::builder("http://localhost").with_bearer("s3cr3t");
        let opa = builder.clone().build().unwrap();
        let header = opa.server.link.authorization().unwrap();
        assert!(header.is_sensitive() && *header == "Bearer s3cr3t");
        let text = format!("{builder:?} {:?} {opa:?} {header:?}", builder.clone().with_identity("s3cr3t"));
        assert!(text.contains("redacted") && !text.contains("s3cr3t"), "{text}");
    }
}
