mod auth0;
mod check;
mod cognito;
mod entra;
mod firebase;
mod github_actions;
mod google;
mod google_iap;
mod keycloak;
mod keys;
mod kubernetes;
mod oauth;
mod okta;
mod permissions;
mod profile;
mod rfc9068;
#[cfg(test)]
mod shapes;
mod spiffe;
mod tenants;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use self::{
    check::{MAX_LIFETIME, check_url},
    keys::Keys,
};
pub(super) use self::{
    keys::{KeyMode, KeyOrigin},
    profile::{Expectations, Facts, Profile, ScopeClaim},
    spiffe::SpiffeId,
};
pub use self::{permissions::Permissions, tenants::Tenants};
use crate::{
    ConfigError,
    key::{Algorithm, CacheSettings, Fixed, JwkSet, KeySource, SharedSecret},
    principal::{Audience, ClientId, IssuerId},
};

/// An issuer whose access tokens are accepted: who it is, for whom its tokens must be, and how it writes them.
///
/// A constructor for each kind of issuer fixes what differs between them: algorithms, `typ`, the claims of client, scope and
/// tenant, and how a machine is told from a person. The audience is a constructor argument because there is no safe default for
/// it. Nothing is checked here: [`VerifierBuilder::build`](super::VerifierBuilder::build) does, and names the field at fault.
///
/// | Constructor | Client | Scope | User id | Tenant | Kinds |
/// | --- | --- | --- | --- | --- | --- |
/// | [`auth0`](Self::auth0) | `azp`, `client_id` | `scope` | `sub` | `org_id` | user, client, agent |
/// | [`okta`](Self::okta) | `cid` | `scp`, an array | `uid` | | user, client |
/// | [`entra`](Self::entra), [`entra_multi_tenant`](Self::entra_multi_tenant) | `azp`, `appid` | `scp`, text | `oid` | `tid` | user, client |
/// | [`cognito`](Self::cognito) | `client_id` | `scope` | `sub` | | user, client |
/// | [`keycloak`](Self::keycloak) | `azp` | `scope` | `sub` | | user, client |
/// | [`google`](Self::google) | `azp` | none | `sub` | `hd` | user, client |
/// | [`google_iap`](Self::google_iap) | none | none | `sub` | `hd` | user, client |
/// | [`firebase`](Self::firebase) | none | none | `sub` | `firebase.tenant` | user |
/// | [`kubernetes`](Self::kubernetes) | none | none | `sub` and uid | namespace | workload |
/// | [`github_actions`](Self::github_actions) | none | none | `repository_id` | `repository_owner_id` | workload |
/// | [`spiffe`](Self::spiffe) | none | none | the SPIFFE ID | | workload |
/// | [`rfc9068`](Self::rfc9068) | `client_id` | `scope` | `sub` | | user, client, agent |
/// | [`oauth`](Self::oauth) | `client_id`, `azp` | `scope` or `scp` | `sub` | | user, client, agent |
///
/// Whoever `sub_profile`, its own or that of the current actor, calls `ai_agent` is an agent at every one of them. Where there is no
/// scope, rules ask for `policy_only` and the policy decides by who it is.
///
/// Keys come from the issuer's OpenID discovery document unless another source is set (`with_key_source`, `with_keys`,
/// `with_jwks_url`): the last one that is set holds. `with_shared_secret` takes the place of keys, and stands alone.
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
    /// `iss` of the tokens as the constructor has it, the issuer's own first.
    ids: Vec<String>,
    /// Further Auth0 domains.
    domains: Vec<String>,
    /// Further names.
    aliases: Vec<String>,
    audiences: Vec<String>,
    /// The constructor's, unless they are named.
    algorithms: Option<Vec<Algorithm>>,
    clients: Option<Vec<String>>,
    tenants: Tenants,
    permissions: Permissions,
    leeway: Duration,
    max_lifetime: Duration,
    is_lifetime_raised: bool,
    max_age: Option<Duration>,
    requires_token_id: bool,
    keys: Keys,
    secret: Option<SharedSecret>,
    key_cache: CacheSettings,
}

impl Issuer {
    fn new(profile: &'static Profile, ids: Vec<String>, audiences: Vec<String>) -> Self {
        Self {
            profile,
            ids,
            domains: Vec::new(),
            aliases: Vec::new(),
            audiences,
            algorithms: None,
            clients: None,
            tenants: Tenants::any(),
            permissions: Permissions::Apart,
            leeway: Duration::from_secs(30),
            max_lifetime: MAX_LIFETIME,
            is_lifetime_raised: false,
            max_age: None,
            requires_token_id: false,
            keys: Keys::Discovery,
            secret: None,
            key_cache: CacheSettings::default(),
        }
    }

    /// The algorithms that the issuer may sign with ([RFC 8725 §3.1](https://www.rfc-editor.org/rfc/rfc8725#section-3.1)), in place of
    /// the constructor's. None at all is a `ConfigError`.
    #[must_use]
    pub fn with_algorithms(mut self, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        self.algorithms = Some(algorithms.into_iter().collect());
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

    /// Accepts the tokens of these clients alone, compared byte by byte with the claim that names the client; a token that names none
    /// is refused. An empty list, a blank name, and an issuer whose tokens name no client are a `ConfigError`.
    #[must_use]
    pub fn with_clients<C: Into<String>>(mut self, clients: impl IntoIterator<Item = C>) -> Self {
        self.clients = Some(clients.into_iter().map(Into::into).collect());
        self
    }

    /// Which tenants are accepted. Default [`Tenants::any`]; at an issuer whose tokens name no tenant anything else is a `ConfigError`.
    #[must_use]
    pub fn with_tenants(mut self, tenants: Tenants) -> Self {
        self.tenants = tenants;
        self
    }

    /// What `permissions` mean for scope. Default [`Permissions::Apart`]; anything else is a `ConfigError` but at Auth0.
    #[must_use]
    pub const fn with_permissions(mut self, permissions: Permissions) -> Self {
        self.permissions = permissions;
        self
    }

    /// Accepts tokens that one more custom domain of the same Auth0 tenant issued: the keys are shared. Another tenant is an issuer of its
    /// own. A `ConfigError` but at Auth0.
    #[must_use]
    pub fn add_domain(mut self, domain: impl Into<String>) -> Self {
        self.domains.push(domain.into());
        self
    }

    /// Accepts tokens in which the same issuer goes by one more name: a second host name, the address inside the cluster. The keys are
    /// those of the first name, so whoever signs under the one signs under all. A `ConfigError` where the names are fixed (Entra, Google,
    /// GitHub, Cognito), and at Auth0, which has [`add_domain`](Self::add_domain).
    #[must_use]
    pub fn add_alias(mut self, url: impl Into<String>) -> Self {
        self.aliases.push(url.into());
        self
    }

    /// The longest life of a token that is accepted: from `iat`, or from now where there is none, to `exp`. Default 24 h, which is
    /// Auth0's own, and the most there is without saying so ([`dangerous_max_lifetime`](Self::dangerous_max_lifetime)); under 1 s is a
    /// `ConfigError`.
    #[must_use]
    pub const fn with_max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self.is_lifetime_raised = false;
        self
    }

    /// As [`with_max_lifetime`](Self::with_max_lifetime), without the upper bound: what a stolen token can do, it can do for that long.
    /// Kubernetes makes tokens for a year, for instance.
    #[must_use]
    pub const fn dangerous_max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self.is_lifetime_raised = true;
        self
    }

    /// Refuses tokens that were issued longer ago than this, however long they would be good, and those without `iat`. The leeway comes
    /// on top. Default: no such limit; under 1 s, or over the longest life, is a `ConfigError`.
    #[must_use]
    pub const fn with_max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Refuses tokens without an id of their own (`jti`, `uti` at Entra), so that every audit record names the token as its issuer does.
    /// A `ConfigError` where tokens never have one.
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

    /// Accepts HS256 under this secret, and nothing else: for an issuer in the same hands, without a key set.
    ///
    /// A `ConfigError` beside keys of any kind, in either order (a secret never stands beside a key set), together with
    /// [`with_algorithms`](Self::with_algorithms), which names public-key algorithms, with [`with_key_cache`](Self::with_key_cache), and at
    /// issuers whose constructor says what they sign with ([`auth0`](Self::auth0)). A token's `kid` is not looked at, and its
    /// [`key_thumbprint`](super::VerifiedToken::key_thumbprint) is `None`.
    #[must_use]
    pub fn with_shared_secret(mut self, secret: SharedSecret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// How this issuer's keys are kept fresh, and whether a copy of them outlives the process. Default [`CacheSettings::default`];
    /// anything else is a `ConfigError` beside keys that are never loaded again ([`with_keys`](Self::with_keys)) and beside a shared secret.
    #[must_use]
    pub fn with_key_cache(mut self, settings: CacheSettings) -> Self {
        self.key_cache = settings;
        self
    }

    pub(super) const fn key_cache(&self) -> &CacheSettings {
        &self.key_cache
    }

    /// `iss` of the tokens, byte by byte: the first of its names, where there are several; of a SPIFFE trust domain
    /// `spiffe://{trust domain}`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.ids.first().map_or("", String::as_str)
    }

    /// Whether this is one of the names that its tokens give it.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// The first of them is [`url`](Self::url).
    fn names(&self) -> impl Iterator<Item = String> {
        let domains = self.domains.iter().map(|domain| auth0::id_of(domain));
        self.ids.iter().cloned().chain(domains).chain(self.aliases.iter().cloned())
    }

    /// Checks the configuration, for the conformance suite of resolvers.
    #[cfg(feature = "testing")]
    pub(crate) fn check(self) -> Result<(), ConfigError> {
        self.into_parts().map(drop)
    }

    /// Checks the configuration.
    pub(super) fn into_parts(self) -> Result<(Expectations, KeyMode), ConfigError> {
        self.check_secret()?;
        (self.profile.check)(&self)?;
        if !self.profile.is_svid {
            check_url(self.url())?;
        }
        self.check_names()?;
        self.check_switches()?;
        if self.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::invalid(
                "issuer.algorithms",
                "[]",
                "name at least one algorithm, or leave `with_algorithms` out",
            ));
        }
        if self.audiences.is_empty() && !self.profile.clients_name_audience {
            return Err(ConfigError::missing("issuer.audience", BLANK_AUDIENCE));
        }
        if let Some(blank) = self.audiences.iter().find(|audience| audience.trim().is_empty()) {
            return Err(ConfigError::invalid("issuer.audience", blank, BLANK_AUDIENCE));
        }
        self.check_limits()?;
        self.key_cache.check()?;
        let keys = match &self.secret {
            Some(secret) => KeyMode::Secret(secret.clone()),
            None => KeyMode::Source(self.checked_source()?),
        };
        let ids: Vec<_> = self.names().map(IssuerId::new).collect();
        let mut parties = HashMap::<_, Vec<_>>::new();
        for id in &ids {
            let tenant = (self.profile.tenant_in_name)(id.as_str());
            parties.entry(tenant.to_owned()).or_default().push(id.clone());
        }
        let expectations = Expectations {
            profile: self.profile,
            ids,
            parties,
            audiences: self.audiences.into_iter().map(Audience::new).collect(),
            algorithms: self.algorithms.unwrap_or_else(|| self.profile.algorithms.to_vec()),
            clients: self.clients.map(|clients| clients.into_iter().map(ClientId::new).collect::<HashSet<_>>()),
            tenants: self.tenants,
            permissions: self.permissions,
            leeway: self.leeway,
            max_lifetime: self.max_lifetime,
            max_age: self.max_age,
            requires_token_id: self.requires_token_id,
        };
        Ok((expectations, keys))
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("url", &self.url())
            .field("audiences", &self.audiences)
            .field("algorithms", &self.algorithms)
            .field("clients", &self.clients)
            .field("tenants", &self.tenants)
            .field("leeway", &self.leeway)
            .field("max_lifetime", &self.max_lifetime)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

/// True for text that is safe inside a host name or a path of its own: no dot at an end, nothing that ends a segment.
fn is_plain_label(label: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(is_legal)
}

const BLANK_AUDIENCE: &str = "name the identifier of this API, as the issuer writes it into `aud`";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Jwk;

    const ED25519: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn bare_issuer() -> Issuer {
        Issuer::oauth("https://login.example", "api")
    }

    fn url_issuer() -> Issuer {
        bare_issuer().with_keys(JwkSet::default())
    }

    fn secret() -> SharedSecret {
        SharedSecret::new([7; 32]).unwrap()
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
            (
                "a secret at Auth0",
                auth0("acme.auth0.com").with_shared_secret(secret()),
                "issuer.shared_secret",
                "keys that it publishes",
            ),
            (
                "a secret beside algorithms",
                bare_issuer().with_algorithms([Algorithm::Es256]).with_shared_secret(secret()),
                "issuer.shared_secret",
                "HS256 and nothing else",
            ),
            (
                "algorithms beside a secret",
                bare_issuer().with_shared_secret(secret()).with_algorithms(Algorithm::ALL),
                "issuer.shared_secret",
                "HS256 and nothing else",
            ),
            ("no lifetime", url_issuer().with_max_lifetime(Duration::ZERO), "issuer.max_lifetime", "such as 1 h"),
            (
                "no lifetime, dangerously",
                url_issuer().dangerous_max_lifetime(Duration::from_millis(999)),
                "issuer.max_lifetime",
                "no less than 1 s",
            ),
            (
                "a lifetime over a day",
                url_issuer().with_max_lifetime(Duration::from_secs(86_401)),
                "issuer.max_lifetime",
                "dangerous_max_lifetime",
            ),
            (
                "a lifetime lowered again",
                url_issuer().dangerous_max_lifetime(Duration::MAX).with_max_lifetime(Duration::MAX),
                "issuer.max_lifetime",
                "at most 24 h",
            ),
            ("no age", url_issuer().with_max_age(Duration::ZERO), "issuer.max_age", "no less than 1 s"),
            (
                "an age over the longest life",
                url_issuer().with_max_age(Duration::from_secs(61)).with_max_lifetime(Duration::from_secs(60)),
                "issuer.max_age",
                "older tokens have expired",
            ),
            ("no clients", url_issuer().with_clients::<&str>([]), "issuer.clients", "at least one"),
            ("blank client", url_issuer().with_clients(["a", " "]), "issuer.clients", "by its id"),
            (
                "clients where tokens name none",
                Issuer::firebase("acme").with_clients(["a"]).with_keys(JwkSet::default()),
                "issuer.clients",
                "leave `with_clients` out",
            ),
            (
                "no tenants",
                auth0("acme.auth0.com").with_tenants(Tenants::known::<&str>([])),
                "issuer.tenants",
                "`Tenants::any`",
            ),
            (
                "blank tenant",
                auth0("acme.auth0.com").with_tenants(Tenants::known([""])),
                "issuer.tenants",
                "each tenant",
            ),
            (
                "tenants where tokens name none",
                url_issuer().with_tenants(Tenants::required()),
                "issuer.tenants",
                "leave `with_tenants` out",
            ),
            (
                "permissions where there are none",
                url_issuer().with_permissions(Permissions::AndScope),
                "issuer.permissions",
                "leave `with_permissions` out",
            ),
            (
                "token ids where there are none",
                Issuer::firebase("acme").require_token_id().with_keys(JwkSet::default()),
                "issuer.require_token_id",
                "the thumbprint names them",
            ),
            ("a domain elsewhere", url_issuer().add_domain("id.example"), "issuer.domain", "`add_alias`"),
            (
                "an alias of Auth0",
                auth0("acme.auth0.com").add_alias("https://id.example/"),
                "issuer.alias",
                "`add_domain`",
            ),
            ("an odd alias", url_issuer().add_alias("http://login.example"), "issuer.url", "use https"),
            (
                "an odd further domain",
                auth0("acme.auth0.com").add_domain("https://a.b/"),
                "issuer.domain",
                "bare domain",
            ),
            (
                "user info of a further domain as audience",
                auth0("acme.auth0.com").add_domain("id.example.com").add_audience("https://id.example.com/userinfo"),
                "issuer.audience",
                "every user token",
            ),
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
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        assert!(url_issuer().with_max_lifetime(day).with_max_age(day).into_parts().is_ok());
        assert!(url_issuer().with_max_lifetime(second).with_max_age(second).into_parts().is_ok());
        assert!(url_issuer().dangerous_max_lifetime(Duration::MAX).with_max_age(Duration::MAX).into_parts().is_ok());
        let everything = Issuer::auth0("acme.eu.auth0.com", "api")
            .add_domain("id.acme.example")
            .with_clients(["c"])
            .with_tenants(Tenants::known_by(|_| true))
            .with_permissions(Permissions::AndScope)
            .require_token_id();
        assert!(everything.with_keys(JwkSet::default()).into_parts().is_ok());
    }

    #[test]
    fn a_key_that_names_an_issuer_signs_for_that_one_alone() {
        let key = |issuer: &str| {
            let text = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{ED25519}","issuer":"{issuer}"}}"#);
            Jwk::from_json(&text).unwrap()
        };
        let keys: JwkSet =
            [key("https://login.example"), key("https://login.example/"), key("{tenantid}")].into_iter().collect();
        let (expectations, _) = url_issuer().add_alias("https://login.example/").into_parts().unwrap();
        let named = |keys: &JwkSet, id: &str| {
            let id = IssuerId::new(id);
            let wanted = expectations.wanted(&id, None, Algorithm::Ed25519);
            keys.wanted(wanted).filter_map(|key| key.issuer().map(str::to_owned)).collect::<Vec<_>>()
        };
        for id in ["https://login.example", "https://login.example/"] {
            assert_eq!(named(&keys, id), [id]);
        }
        let template: JwkSet = [key("{tenantid}")].into_iter().collect();
        assert!(named(&template, "https://login.example").is_empty());
    }

    #[test]
    fn an_alias_is_for_issuers_that_answer_under_several_addresses() {
        let realm = |host: &str| format!("https://{host}/realms/acme");
        let table = [
            ("oauth", Issuer::oauth("https://a.example", "api"), "https://b.example".to_owned()),
            ("rfc9068", Issuer::rfc9068("https://a.example", "api"), "https://b.example".to_owned()),
            ("okta", Issuer::okta("https://acme.okta.com/oauth2/a", "api"), "https://b.example/oauth2/a".to_owned()),
            ("keycloak", Issuer::keycloak(realm("a.example"), "api"), realm("b.example")),
            ("kubernetes", Issuer::kubernetes("https://a.example", "api"), "https://b.example".to_owned()),
        ];
        for (name, issuer, alias) in table {
            let parts = issuer.add_alias(alias).with_keys(JwkSet::default()).into_parts();
            assert_eq!(parts.map(|(expectations, _)| expectations.ids.len()).ok(), Some(2), "{name}");
        }
    }

    #[test]
    fn keys_are_kept_only_for_the_same_issuer_and_the_same_place() {
        let oauth = || Issuer::oauth("https://login.example", "api");
        let (url, source) = ("https://login.example/keys", Arc::new(Fixed::new(JwkSet::default())));
        let of_source = || oauth().with_key_source(Arc::clone(&source));
        let shared: Arc<dyn KeySource> = source.clone();
        let slower = CacheSettings::default().with_unknown_kid_floor(Duration::from_secs(60));
        let given = |url: &str| Issuer { keys: Keys::Source(Arc::clone(&shared)), ..Issuer::oauth(url, "api") };
        let table = [
            ("discovery", oauth(), oauth(), true),
            ("a URL", oauth().with_jwks_url(url), oauth().with_jwks_url(url), true),
            ("a source", given("https://login.example"), given("https://login.example"), true),
            ("another issuer's discovery", oauth(), Issuer::oauth("https://other.example", "api"), false),
            ("another issuer's source", given("https://login.example"), given("https://other.example"), false),
            ("another URL", oauth().with_jwks_url(url), oauth().with_jwks_url("https://login.example/other"), false),
            ("another cache", oauth().with_key_cache(slower), oauth(), false),
            ("sources that are wrapped twice", of_source(), of_source(), false),
            ("a URL, then discovery", oauth().with_jwks_url(url), oauth(), false),
            ("discovery, then a source", oauth(), of_source(), false),
        ];
        for (name, one, other, same) in table {
            assert_eq!(one.key_origin().is_same_as(&other.key_origin()), same, "{name}");
        }
    }

    #[cfg(feature = "testing")]
    #[test]
    fn checking_a_configuration_is_building_it() {
        assert!(url_issuer().check().is_ok());
        assert_eq!(url_issuer().with_algorithms([]).check().unwrap_err().field(), "issuer.algorithms");
    }

    #[test]
    fn a_secret_stands_alone_whatever_came_first() {
        let source = || Fixed::new(JwkSet::default());
        let url = "https://login.example/jwks.json";
        let floor = || CacheSettings::default().with_unknown_kid_floor(Duration::from_secs(5));
        let (keys, cache) = ("issuer.shared_secret", "issuer.key_cache");
        let with_secret = || bare_issuer().with_shared_secret(secret());
        for (name, issuer, field) in [
            ("after keys", url_issuer().with_shared_secret(secret()), keys),
            ("before keys", with_secret().with_keys(JwkSet::default()), keys),
            ("after a source", bare_issuer().with_key_source(source()).with_shared_secret(secret()), keys),
            ("before a source", with_secret().with_key_source(source()), keys),
            ("after an address", bare_issuer().with_jwks_url(url).with_shared_secret(secret()), keys),
            ("before an address", with_secret().with_jwks_url(url), keys),
            (
                "after a bundle",
                Issuer::spiffe("prod.example", "api").with_bundle_url(url).with_shared_secret(secret()),
                keys,
            ),
            ("after settings", bare_issuer().with_key_cache(floor()).with_shared_secret(secret()), cache),
            ("before settings", with_secret().with_key_cache(floor()), cache),
            ("before a seed", with_secret().with_key_cache(CacheSettings::default().with_seed("keys.json")), cache),
        ] {
            let error = issuer.into_parts().map(drop).unwrap_err();
            assert_eq!(error.field(), field, "{name}: {error}");
        }
        assert!(matches!(with_secret().into_parts().unwrap(), (_, KeyMode::Secret(_))));
    }

    #[cfg(feature = "remote-jwks")]
    #[test]
    fn a_client_for_keys_leaves_a_secret_alone() {
        let client = crate::outbound::OutboundBuilder::new(Duration::from_secs(1), 1).without_tls().build().unwrap();
        let issuer = bare_issuer().with_shared_secret(secret()).fetching_through(&client).unwrap();
        assert!(matches!(issuer.into_parts().unwrap(), (_, KeyMode::Secret(_))));
    }

    #[cfg(not(feature = "remote-jwks"))]
    #[test]
    fn keys_from_the_network_need_their_feature() {
        let error = Issuer::oauth("https://login.example", "api").into_parts().map(|_| ()).unwrap_err();
        assert!(matches!(error, ConfigError::FeatureMissing { feature: "remote-jwks", .. }), "{error}");
    }
}
