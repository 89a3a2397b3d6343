use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;

use super::{
    Condition, Link, MAX_REPLY,
    breaker::{Breaker, LONGEST_COOL_DOWN},
    permits::Permits,
};
use crate::{
    ConfigError,
    outbound::{Address, Outbound, OutboundBuilder, bearer},
    time::{Clock, SystemClock},
};

/// How a policy server is reached, and what bounds a call. Its builder documents each.
#[derive(Clone)]
pub(in crate::policy) struct Settings {
    /// What errors call it: `policy.opa`.
    part: &'static str,
    pub(in crate::policy) url: String,
    pub(in crate::policy) bearer: Option<Secret>,
    pub(in crate::policy) roots: Option<Vec<u8>>,
    pub(in crate::policy) identity: Option<Secret>,
    pub(in crate::policy) outbound: Option<Outbound>,
    pub(in crate::policy) deadline: Duration,
    pub(in crate::policy) max_in_flight: usize,
    pub(in crate::policy) breaker: (u32, Duration),
    pub(in crate::policy) http2: bool,
    pub(in crate::policy) plain_http: bool,
    pub(in crate::policy) clock: Arc<dyn Clock>,
}

impl Settings {
    pub(in crate::policy) fn new(part: &'static str, url: String) -> Self {
        Self {
            part,
            url,
            bearer: None,
            roots: None,
            identity: None,
            outbound: None,
            deadline: Duration::from_millis(250),
            max_in_flight: 64,
            breaker: (5, Duration::from_secs(1)),
            http2: false,
            plain_http: false,
            clock: Arc::new(SystemClock),
        }
    }

    pub(in crate::policy) fn field(&self, name: &str) -> String {
        format!("{}.{name}", self.part)
    }

    pub(in crate::policy) fn address(&self) -> Result<Address, ConfigError> {
        Address::read(self.field("url"), &self.url, self.plain_http)
    }

    /// Makes the client. It connects to nothing yet.
    pub(in crate::policy) fn link(self, address: Address, has_checks: bool) -> Result<Link, ConfigError> {
        let (failures, cool_down) = self.check_bounds()?;
        let field = self.field("bearer");
        let authorization = self.bearer.as_ref().map(|bearer| bearer.authorization(field)).transpose()?;
        if self.http2 && self.outbound.is_some() {
            let remedy = "leave it out: the client of `with_outbound` chooses its protocol itself";
            return Err(ConfigError::invalid(self.field("http2_prior_knowledge"), "true", remedy));
        }
        for (name, given) in [("roots", self.roots.is_some()), ("identity", self.identity.is_some())] {
            if given && (self.outbound.is_some() || !address.is_https) {
                let remedy = "leave it out, or use an https address and no `with_outbound`: nothing else would use it";
                return Err(ConfigError::invalid(self.field(name), "PEM", remedy));
            }
        }
        let outbound = match self.outbound {
            Some(outbound) => outbound,
            None => {
                let mut client = OutboundBuilder::new(self.deadline, MAX_REPLY).without_repeats();
                if self.http2 {
                    client = client.with_http2_prior_knowledge();
                }
                if let Some(socket) = address.socket {
                    client = client.with_unix_socket(socket);
                }
                if !address.is_https {
                    client = client.without_tls();
                }
                if let Some(pem) = self.roots {
                    client = client.with_roots(pem);
                }
                if let Some(Secret(pem)) = self.identity {
                    client = client.with_identity(pem);
                }
                client.build()?
            }
        };
        Ok(Link {
            outbound,
            authorization: authorization.map(Arc::new).into(),
            deadline: self.deadline,
            condition: Condition::new(Breaker::new(failures, cool_down), self.clock, has_checks),
            permits: Permits::new(self.max_in_flight),
        })
    }

    fn check_bounds(&self) -> Result<(u32, Duration), ConfigError> {
        let invalid = |name, value: String, remedy| Err(ConfigError::invalid(self.field(name), value, remedy));
        if self.deadline.is_zero() || self.deadline > MAX_DEADLINE {
            let remedy = format!("choose more than zero and at most {MAX_DEADLINE:?}");
            return invalid("deadline", format!("{:?}", self.deadline), remedy);
        }
        if self.max_in_flight == 0 || self.max_in_flight > MAX_IN_FLIGHT {
            let remedy = format!("choose between 1 and {MAX_IN_FLIGHT}");
            return invalid("max_in_flight", self.max_in_flight.to_string(), remedy);
        }
        let (failures, cool_down) = self.breaker;
        if !(1..=MAX_FAILURES).contains(&failures) {
            let remedy = format!("choose between 1 and {MAX_FAILURES} failures");
            return invalid("breaker", failures.to_string(), remedy);
        }
        if !(MIN_COOL_DOWN..=LONGEST_COOL_DOWN).contains(&cool_down) {
            let remedy = format!("choose between {MIN_COOL_DOWN:?} and {LONGEST_COOL_DOWN:?}");
            return invalid("breaker", format!("{cool_down:?}"), remedy);
        }
        Ok(self.breaker)
    }
}

/// A bearer token or a private key: not printed.
#[derive(Clone)]
pub(in crate::policy) struct Secret(pub(in crate::policy) Vec<u8>);

impl Secret {
    /// As it is sent. `field` is what an error calls the token.
    pub(in crate::policy) fn authorization(&self, field: String) -> Result<HeaderValue, ConfigError> {
        bearer(&self.0).ok_or_else(|| {
            let remedy =
                "give the token alone: letters, digits and `-._~+/=`, without `Bearer` and without a line break";
            ConfigError::invalid(field, "[redacted]", remedy)
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

const MAX_DEADLINE: Duration = Duration::from_secs(10);
const MAX_IN_FLIGHT: usize = 65_536;
const MAX_FAILURES: u32 = 1_000;
const MIN_COOL_DOWN: Duration = Duration::from_millis(10);
