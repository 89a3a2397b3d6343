use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;

use super::{
    AuthZen, Evaluation,
    metadata::{Directory, Endpoints, read, shown},
    point::{Mapping, Point, bearer},
};
use crate::{
    ConfigError,
    outbound::Outbound,
    policy::{
        PolicyInput, PolicyRevision,
        remote::{Secret, Settings, Watch, check_interval},
    },
    time::Clock,
};

/// Gathers how an [`AuthZen`] reaches its decision point.
#[derive(Clone)]
#[must_use = "nothing is asked before `build`"]
pub struct AuthZenBuilder {
    settings: Settings,
    places: Places,
    bearer_file: Option<PathBuf>,
    metadata_interval: Duration,
    mapping: Mapping,
}

/// Where the endpoints are known from.
#[derive(Clone)]
enum Places {
    Metadata,
    Default,
    Named(String, Option<String>),
}

impl AuthZenBuilder {
    pub(super) fn new(identifier: String) -> Self {
        Self {
            settings: Settings::new("policy.authzen", identifier),
            places: Places::Metadata,
            bearer_file: None,
            metadata_interval: Duration::from_secs(60),
            mapping: Arc::new(Evaluation::of),
        }
    }

    /// Reads no metadata: the interfaces are at the paths that the specification sets below the identifier, `/access/v1/evaluation` and
    /// `/access/v1/evaluations`. The calls alone are then the health.
    pub fn without_discovery(mut self) -> Self {
        self.places = Places::Default;
        self
    }

    /// Reads no metadata: the Access Evaluation API is at this URL, and the Access Evaluations API, if there is one, at that. Both must have
    /// the scheme of the identifier, which then only names the decision point. The calls alone are the health.
    pub fn with_endpoints(mut self, evaluation: impl Into<String>, evaluations: Option<&str>) -> Self {
        self.places = Places::Named(evaluation.into(), evaluations.map(str::to_owned));
        self
    }

    /// Sets what a question is made of an input by: for a decision point that names subjects, actions or resources in its own way. Default
    /// [`Evaluation::of`].
    ///
    /// It runs for each decision, and must not block. What it leaves out the policy does not see; a token is in no input.
    pub fn with_mapping(mut self, mapping: impl Fn(&PolicyInput) -> Evaluation + Send + Sync + 'static) -> Self {
        self.mapping = Arc::new(mapping);
        self
    }

    /// Proves this service to the decision point with a bearer token ([RFC 6750 §2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)).
    /// It is shown nowhere.
    pub fn with_bearer(mut self, token: impl Into<String>) -> Self {
        self.settings.bearer = Some(Secret(token.into().into_bytes()));
        self
    }

    /// As [`with_bearer`](Self::with_bearer), with the token that this file holds; white space at its end does not count. It is read by
    /// [`build`](Self::build), then as often as the metadata, and soon after a call has failed: a token that is replaced in time needs no
    /// restart. A file that cannot be read any more is in the health, and its last token remains in use.
    pub fn with_bearer_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.bearer_file = Some(path.into());
        self
    }

    /// How long a decision may take, from the connection to the last byte, a second attempt included; and so long for several decisions at once
    /// together. Default 250 ms; above zero, at most 10 s.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// How many calls may be in flight; those beyond are refused at once, as overloaded. Default 64; above zero, at most 65 536. Anonymous
    /// callers share half of them, rounded up.
    pub const fn with_max_in_flight(mut self, calls: usize) -> Self {
        self.settings.max_in_flight = calls;
        self
    }

    /// After how many failures in a row, of whoever's calls, no call is made, and for how long at first. Default 5 and 1 s; 1 to 1 000, and
    /// 10 ms to 30 s.
    ///
    /// A failure is no answer or a late one, a redirect, a refusal of the credential, and any other status that is about the decision point and
    /// not about the question. After the time is over one call goes through: answered, it ends the matter; not answered, the time doubles,
    /// up to 30 s. Each time is shortened by up to a half at random. Metadata that could be loaded ends it early.
    pub const fn with_breaker(mut self, failures: u32, cool_down: Duration) -> Self {
        self.settings.breaker = (failures, cool_down);
        self
    }

    /// How long the metadata is good for, and the file of the bearer token. Default 60 s; 100 ms to 1 h. While something is wrong it is 1 s, or this
    /// when it is shorter.
    pub const fn with_metadata_interval(mut self, interval: Duration) -> Self {
        self.metadata_interval = interval;
        self
    }

    /// Speaks HTTP/2 from the first byte, also without TLS. A decision point that speaks HTTP/1 alone is then unavailable. Default: HTTP/1.1
    /// without TLS, and what both sides agree on with it.
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

    /// Proves this service to the decision point with a certificate chain and its private key (PEM, in one text). For `https` only.
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

    /// Takes an `http` identifier of another machine, and then `http` endpoints. Whoever is on the way there then **reads every question and
    /// makes every decision**, and learns the bearer token: only where something else encrypts and authenticates, such as a mesh.
    pub const fn dangerous_allow_plain_http(mut self) -> Self {
        self.settings.plain_http = true;
        self
    }

    /// As [`build`](Self::build), and loads the metadata: for a service that must not start with a decision point that is another one.
    ///
    /// A decision point that is away is no error: a warning is logged, and requests are answered 503 until it is there. No decision is asked
    /// for. It takes at most one deadline.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build), and [`ConfigError`] when the metadata is none, names another decision point, or has endpoints that must
    /// not be used.
    pub async fn build_probed(self) -> Result<AuthZen, ConfigError> {
        let backend = self.build()?;
        backend.point.preflight().await?;
        backend.watch.ensure(&backend.point);
        Ok(backend)
    }

    /// Builds the backend. It connects to nothing yet, and needs no Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an identifier that is neither `https`, nor `http` to this machine, nor a unix socket, or that has a query; endpoints
    /// that are no such URLs; two bearer tokens, or one that is none; a bound out of range; certificates that cannot be used, or are given
    /// where there is no TLS; and a system without a certificate store where one is needed.
    pub fn build(mut self) -> Result<AuthZen, ConfigError> {
        check_interval("policy.authzen.metadata_interval", self.metadata_interval)?;
        let address = self.settings.address()?;
        let (url, plain_http) = (self.settings.url.clone(), self.settings.plain_http);
        let endpoint = |path: &str| {
            let url = format!("{}{path}", address.base);
            url.parse()
                .map_err(|error| ConfigError::unusable("policy.authzen.url", &url, "choose a shorter path", error))
        };
        let (directory, endpoints) = match self.places {
            // Behind a socket there is no name that could be vouched for.
            Places::Metadata if address.socket.is_none() => (Some(Directory::new(url.clone(), plain_http)?), None),
            Places::Metadata | Places::Default => {
                let evaluations = Some(endpoint("/access/v1/evaluations")?);
                (None, Some(Endpoints { evaluation: endpoint("/access/v1/evaluation")?, evaluations }))
            }
            Places::Named(evaluation, evaluations) => {
                let named = |url: &str| {
                    let field = "policy.authzen.endpoints";
                    let found = read(field, url, plain_http)?;
                    if (found.scheme_str() == Some("https")) == address.is_https {
                        return Ok(found);
                    }
                    Err(ConfigError::invalid(field, shown(&found), "give it the scheme of the identifier"))
                };
                let evaluations = evaluations.as_deref().map(named).transpose()?;
                (None, Some(Endpoints { evaluation: named(&evaluation)?, evaluations }))
            }
        };
        let authorization = match &self.bearer_file {
            Some(_) if self.settings.bearer.is_some() => {
                let remedy = "leave one of `with_bearer` and `with_bearer_file` out";
                return Err(ConfigError::invalid("policy.authzen.bearer_file", "set", remedy));
            }
            file => file.as_deref().map(bearer).transpose()?,
        };
        let has_checks = directory.is_some() || self.bearer_file.is_some();
        let point = Point {
            link: self.settings.link(address, has_checks)?,
            directory,
            endpoints: ArcSwapOption::from_pointee(endpoints),
            bearer_file: self.bearer_file.take(),
            mapping: self.mapping,
            revision: PolicyRevision::new(format!("authzen:{url}")),
        };
        if let Some(authorization) = authorization {
            point.link.set_authorization(authorization);
        }
        let watch = Watch::new(has_checks.then_some(self.metadata_interval));
        Ok(AuthZen { point: Arc::new(point), watch })
    }
}

impl fmt::Debug for AuthZenBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthZenBuilder")
            .field("bearer", &self.settings.bearer)
            .field("bearer_file", &self.bearer_file)
            .field("identity", &self.settings.identity)
            .field("deadline", &self.settings.deadline)
            .field("max_in_flight", &self.settings.max_in_flight)
            .field("plain_http", &self.settings.plain_http)
            .finish_non_exhaustive()
    }
}
