mod profile;
mod spiffe;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use http::Uri;

use self::profile::{AUTH0, OAUTH, Profile, RFC9068};
pub(super) use self::{
    profile::{Expectations, KindRule},
    spiffe::SpiffeId,
};
use crate::{
    ConfigError,
    key::{Algorithm, Fixed, JwkSet, KeySource},
    principal::{Audience, IssuerId},
};
#[cfg(feature = "remote-jwks")]
use crate::{key::Remote, outbound::Outbound};

/// An issuer whose access tokens are accepted: who it is, for whom its tokens must be, and how it writes them.
///
/// A constructor for each kind of issuer fixes what differs between them: algorithms, `typ`, the claims of client, scope and
/// tenant, and how a machine is told from a person. The audience is a constructor argument because there is no safe default for
/// it. Nothing is checked here: [`VerifierBuilder::build`](super::VerifierBuilder::build) does, and names the field at fault.
///
/// Keys come from the issuer's OpenID discovery document unless another source is set (`with_key_source`, `with_keys`,
/// `with_jwks_url`).
///
/// ```
/// use std::time::Duration;
/// use portcullis::token::Issuer;
///
/// let issuer = Issuer::auth0("acme.eu.auth0.com", "https://api.acme.example")
///     .with_leeway(Duration::from_secs(5))
///     .with_max_lifetime(Duration::from_secs(3600));
/// assert_eq!(issuer.url(), "https://acme.eu.auth0.com/");
/// ```
#[derive(Clone)]
pub struct Issuer {
    profile: &'static Profile,
    /// The Auth0 domain as given, where that is what was configured.
    domain: Option<String>,
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    leeway: Duration,
    max_lifetime: Duration,
    requires_token_id: bool,
    keys: Keys,
    /// Further names in `iss`, of a SPIFFE trust domain.
    svid_issuers: Vec<String>,
}

#[derive(Clone)]
enum Keys {
    Discovery,
    Url(String),
    Bundle(String),
    Source(Arc<dyn KeySource>),
}

impl Issuer {
    /// An Auth0 tenant, by its domain (`acme.eu.auth0.com`, or a custom one): the issuer is `https://{domain}/`.
    ///
    /// RS256 or PS256. `typ` is `JWT` or `at+jwt`: both of Auth0's token profiles are accepted. The client is `azp` or `client_id`,
    /// the tenant `org_id`; `permissions` are kept apart from `scope`. A machine is one whose `sub` equals its client id followed by
    /// `@clients`, or that `sub_profile` or `gty` calls so; an agent is what `sub_profile`, or that of the current actor, calls
    /// `ai_agent`. Tokens of the profile `access_token` have no `jti`: prefer `rfc9068_profile`, and
    /// [`require_token_id`](Self::require_token_id) with it.
    pub fn auth0(domain: impl Into<String>, audience: impl Into<String>) -> Self {
        let domain = domain.into();
        let url = format!("https://{domain}/");
        Self { domain: Some(domain), ..Self::new(&AUTH0, url, audience.into()) }
    }

    /// An issuer that follows [RFC 9068](https://www.rfc-editor.org/rfc/rfc9068) to the letter.
    ///
    /// Any supported algorithm. `typ` must be `at+jwt`; `iss`, `exp`, `aud`, `sub`, `client_id`, `iat` and `jti` must be there (§2.2).
    /// A token that `sub_profile`, its own or that of the current actor, calls `ai_agent` authenticates an agent; one whose `sub` is its
    /// `client_id` a client; any other a user.
    pub fn rfc9068(url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&RFC9068, url.into(), audience.into())
    }

    /// Any other OAuth issuer of JWT access tokens.
    ///
    /// As [`rfc9068`](Self::rfc9068), but `typ` may also be `JWT` or absent, the claims beyond `iss`, `exp`, `aud` and `sub` may be
    /// absent, the client may be `azp`, and scope may be an array `scp` when there is no `scope`. Because `typ` may not tell ID tokens
    /// from access tokens here, the audience must never be a client id.
    pub fn oauth(url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&OAUTH, url.into(), audience.into())
    }

    fn new(profile: &'static Profile, url: String, audience: String) -> Self {
        Self {
            profile,
            domain: None,
            url,
            audiences: vec![audience],
            algorithms: profile.algorithms.to_vec(),
            leeway: Duration::from_secs(30),
            max_lifetime: Duration::from_secs(24 * 60 * 60),
            requires_token_id: false,
            keys: Keys::Discovery,
            svid_issuers: Vec::new(),
        }
    }

    /// The algorithms that the issuer may sign with ([RFC 8725 §3.1](https://www.rfc-editor.org/rfc/rfc8725#section-3.1)), in place of
    /// the constructor's. None at all is a `ConfigError`.
    #[must_use]
    pub fn with_algorithms(mut self, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        self.algorithms = algorithms.into_iter().collect();
        self
    }

    /// Accepts tokens for this audience as well ([RFC 7519 §4.1.3](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.3)). Compared byte
    /// by byte; blank is a `ConfigError`.
    #[must_use]
    pub fn add_audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// How far two clocks may disagree when `exp`, `nbf` and `iat` are compared
    /// ([RFC 7519 §4.1.4](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.4)). Default 30 s; over 120 s is a `ConfigError`.
    #[must_use]
    pub const fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// The longest life of a token that is accepted: from `iat`, or from now where there is none, to `exp`. Default 24 h, which is
    /// Auth0's own; zero is a `ConfigError`.
    #[must_use]
    pub const fn with_max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self
    }

    /// Refuses tokens without `jti`, so that every audit record names the token as its issuer does.
    #[must_use]
    pub const fn require_token_id(mut self) -> Self {
        self.requires_token_id = true;
        self
    }

    /// Takes the keys from this source.
    #[must_use]
    pub fn with_key_source(mut self, source: impl KeySource) -> Self {
        self.keys = Keys::Source(Arc::new(source));
        self
    }

    /// Takes exactly these keys, for good: no I/O, and no rotation without a restart.
    #[must_use]
    pub fn with_keys(self, keys: JwkSet) -> Self {
        self.with_key_source(Fixed::new(keys))
    }

    /// Takes the keys from this JWKS URL instead of asking the discovery document for it. Needs the feature `remote-jwks`.
    #[must_use]
    pub fn with_jwks_url(mut self, url: impl Into<String>) -> Self {
        self.keys = Keys::Url(url.into());
        self
    }

    /// `iss` of the tokens, byte by byte; of a SPIFFE trust domain `spiffe://{trust domain}`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Fetches the keys, where they have an address, through this client: what many issuers share.
    #[cfg(feature = "remote-jwks")]
    pub(super) fn fetching_through(mut self, outbound: &Outbound) -> Result<Self, ConfigError> {
        let remote = match &self.keys {
            Keys::Discovery => Remote::discover(&self.url),
            Keys::Url(url) => Remote::url(url),
            Keys::Bundle(url) => Remote::bundle(url),
            Keys::Source(_) => return Ok(self),
        };
        self.keys = Keys::Source(Arc::new(remote.with_outbound(outbound.clone()).build()?));
        Ok(self)
    }

    pub(super) fn key_origin(&self) -> KeyOrigin {
        KeyOrigin { url: self.url.clone(), keys: self.keys.clone() }
    }

    /// Checks the configuration, for the conformance suite of resolvers.
    #[cfg(feature = "testing")]
    pub(crate) fn check(self) -> Result<(), ConfigError> {
        self.into_parts().map(drop)
    }

    /// Checks the configuration.
    pub(super) fn into_parts(self) -> Result<(Expectations, Arc<dyn KeySource>), ConfigError> {
        if let Some(domain) = &self.domain {
            check_domain(domain)?;
        }
        let is_spiffe = matches!(self.profile.kind, KindRule::Spiffe);
        if is_spiffe { self.check_trust_domain() } else { check_url(&self.url) }?;
        self.check_svid_issuers(is_spiffe)?;
        if self.algorithms.is_empty() {
            return Err(ConfigError::invalid(
                "issuer.algorithms",
                "[]",
                "name at least one algorithm, or leave `with_algorithms` out",
            ));
        }
        for audience in &self.audiences {
            self.check_audience(audience)?;
        }
        if self.leeway > MAX_LEEWAY {
            let remedy = "choose at most 120 s; set the clocks with NTP if that is not enough";
            return Err(ConfigError::invalid("issuer.leeway", format!("{:?}", self.leeway), remedy));
        }
        if self.max_lifetime.is_zero() {
            return Err(ConfigError::invalid(
                "issuer.max_lifetime",
                "0s",
                "choose how long a token may live, such as 1 h",
            ));
        }
        let source = self.key_source()?;
        let expectations = Expectations {
            profile: self.profile,
            ids: std::iter::once(self.url).chain(self.svid_issuers).map(IssuerId::new).collect(),
            audiences: self.audiences.into_iter().map(Audience::new).collect(),
            algorithms: self.algorithms,
            leeway: self.leeway,
            max_lifetime: self.max_lifetime,
            requires_token_id: self.requires_token_id || self.profile.required.contains(&"jti"),
        };
        Ok((expectations, source))
    }

    fn check_audience(&self, audience: &str) -> Result<(), ConfigError> {
        if audience.trim().is_empty() {
            let remedy = "name the identifier of this API, as the issuer writes it into `aud`";
            return Err(ConfigError::invalid("issuer.audience", audience, remedy));
        }
        // Auth0 adds its own user-info endpoint to `aud` whenever `openid` is asked for: it says nothing about us.
        if self.domain.is_some() && audience == format!("{}userinfo", self.url) {
            let remedy = "name the identifier of this API; every user token of the tenant has this audience";
            return Err(ConfigError::invalid("issuer.audience", audience, remedy));
        }
        Ok(())
    }

    #[cfg(feature = "remote-jwks")]
    fn key_source(&self) -> Result<Arc<dyn KeySource>, ConfigError> {
        Ok(match &self.keys {
            Keys::Discovery => Arc::new(Remote::discover(&self.url).build()?),
            Keys::Url(url) => Arc::new(Remote::url(url).build()?),
            Keys::Bundle(url) => Arc::new(Remote::bundle(url).build()?),
            Keys::Source(source) => Arc::clone(source),
        })
    }

    #[cfg(not(feature = "remote-jwks"))]
    fn key_source(&self) -> Result<Arc<dyn KeySource>, ConfigError> {
        let missing = |field: &'static str| ConfigError::FeatureMissing { field: field.into(), feature: "remote-jwks" };
        match &self.keys {
            Keys::Discovery => Err(missing("issuer.keys")),
            Keys::Url(_) => Err(missing("issuer.jwks_url")),
            Keys::Bundle(_) => Err(missing("issuer.bundle_url")),
            Keys::Source(source) => Ok(Arc::clone(source)),
        }
    }
}

/// Where an issuer's keys come from, to tell whether keys that were loaded for one configuration serve another.
pub(super) struct KeyOrigin {
    url: String,
    keys: Keys,
}

impl KeyOrigin {
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let is_same_place = match (&self.keys, &other.keys) {
            (Keys::Discovery, Keys::Discovery) => true,
            (Keys::Url(one), Keys::Url(two)) | (Keys::Bundle(one), Keys::Bundle(two)) => one == two,
            (Keys::Source(one), Keys::Source(two)) => Arc::ptr_eq(one, two),
            _ => false,
        };
        self.url == other.url && is_same_place
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("url", &self.url)
            .field("audiences", &self.audiences)
            .field("algorithms", &self.algorithms)
            .field("leeway", &self.leeway)
            .field("max_lifetime", &self.max_lifetime)
            .finish_non_exhaustive()
    }
}

fn check_domain(domain: &str) -> Result<(), ConfigError> {
    let is_label = |label: &str| {
        let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_legal)
    };
    if domain.contains('.') && domain.split('.').all(is_label) {
        return Ok(());
    }
    let remedy = "give the bare domain in lower case, such as `acme.eu.auth0.com`: no scheme, no port, no slash";
    Err(ConfigError::invalid("issuer.domain", domain, remedy))
}

/// [RFC 8414 §2](https://www.rfc-editor.org/rfc/rfc8414#section-2): an https URL without query and fragment.
fn check_url(url: &str) -> Result<(), ConfigError> {
    let odd = |remedy: &'static str| Err(ConfigError::invalid("issuer.url", url, remedy));
    let Ok(uri) = url.parse::<Uri>() else {
        return odd("give the issuer's URL as it stands in `iss`, such as `https://login.example.com/`");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return odd("give the whole URL, scheme included, as it stands in `iss`");
    };
    if authority.as_str().contains('@') || uri.query().is_some() || url.contains('#') {
        return odd("an issuer has no user, query or fragment: give the URL as it stands in `iss`");
    }
    match scheme {
        "https" => Ok(()),
        "http" if is_loopback(authority.host()) => Ok(()),
        _ => odd("use https; http is for loopback addresses alone"),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

const MAX_LEEWAY: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn url_issuer() -> Issuer {
        Issuer::oauth("https://login.example", "api").with_keys(JwkSet::default())
    }

    #[test]
    fn a_wrong_configuration_names_field_value_and_remedy() {
        let auth0 = |domain: &str| Issuer::auth0(domain, "api").with_keys(JwkSet::default());
        let oauth = |url: &str| Issuer::oauth(url, "api").with_keys(JwkSet::default());
        let table = [
            ("http issuer", oauth("http://login.example/"), "issuer.url", "use https"),
            ("http issuer that looks like loopback", oauth("http://127.0.0.1.example/"), "issuer.url", "use https"),
            ("other scheme", oauth("ftp://login.example/"), "issuer.url", "use https"),
            ("no scheme", oauth("login.example"), "issuer.url", "scheme included"),
            ("empty issuer", oauth(""), "issuer.url", "as it stands in `iss`"),
            ("query", oauth("https://login.example/?a"), "issuer.url", "no user, query or fragment"),
            ("fragment", oauth("https://login.example/#a"), "issuer.url", "no user, query or fragment"),
            ("user", oauth("https://a@login.example/"), "issuer.url", "no user, query or fragment"),
            ("space", oauth("https://login.example/ "), "issuer.url", "as it stands in `iss`"),
            ("URL as domain", auth0("https://acme.auth0.com/"), "issuer.domain", "bare domain"),
            ("upper case domain", auth0("Acme.auth0.com"), "issuer.domain", "lower case"),
            ("empty domain", auth0(""), "issuer.domain", "bare domain"),
            ("empty label", auth0("acme..com"), "issuer.domain", "bare domain"),
            ("blank audience", url_issuer().add_audience(" "), "issuer.audience", "identifier of this API"),
            (
                "user info as audience",
                auth0("acme.auth0.com").add_audience("https://acme.auth0.com/userinfo"),
                "issuer.audience",
                "every user token",
            ),
            ("no algorithm", url_issuer().with_algorithms([]), "issuer.algorithms", "at least one"),
            (
                "leeway over the cap",
                url_issuer().with_leeway(Duration::from_millis(120_001)),
                "issuer.leeway",
                "at most 120 s",
            ),
            ("no lifetime", url_issuer().with_max_lifetime(Duration::ZERO), "issuer.max_lifetime", "such as 1 h"),
        ];
        for (name, issuer, field, remedy) in table {
            let error = issuer.into_parts().map(|_| ()).unwrap_err();
            assert_eq!(error.field(), field, "{name}");
            assert!(error.to_string().contains(remedy), "{name}: {error}");
        }
    }

    #[test]
    fn what_is_in_bounds_builds() {
        for url in [
            "https://login.example",
            "https://login.example:8443/a/b",
            "http://127.0.0.1:9/",
            "http://localhost",
            "http://[::1]:80/",
        ] {
            assert!(Issuer::rfc9068(url, "api").with_keys(JwkSet::default()).into_parts().is_ok(), "{url}");
        }
        assert!(url_issuer().with_leeway(Duration::from_secs(120)).into_parts().is_ok());
        assert!(url_issuer().with_leeway(Duration::ZERO).into_parts().is_ok());
    }

    #[cfg(not(feature = "remote-jwks"))]
    #[test]
    fn keys_from_the_network_need_their_feature() {
        let error = Issuer::oauth("https://login.example", "api").into_parts().map(|_| ()).unwrap_err();
        assert!(matches!(error, ConfigError::FeatureMissing { feature: "remote-jwks", .. }), "{error}");
    }
}
