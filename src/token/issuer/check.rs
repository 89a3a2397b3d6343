use std::{net::IpAddr, time::Duration};

use http::Uri;

use super::{Issuer, Keys, Permissions};
use crate::{
    ConfigError,
    key::{Algorithm, CacheSettings},
};

impl Issuer {
    pub(super) fn check_names(&self) -> Result<(), ConfigError> {
        if let Some(domain) = self.domains.first().filter(|_| !self.profile.has_domains) {
            let remedy = "only Auth0 tenants have domains: `add_alias` adds a name to other issuers";
            return Err(ConfigError::invalid("issuer.domain", domain, remedy));
        }
        if let Some(alias) = self.aliases.first().filter(|_| !self.profile.has_aliases) {
            let remedy = "the names of this kind of issuer are fixed: use `add_domain` at Auth0, leave `add_alias` out elsewhere";
            return Err(ConfigError::invalid("issuer.alias", alias, remedy));
        }
        self.aliases.iter().try_for_each(|alias| check_url(alias))
    }

    /// Switches that would mean nothing are refused: who sets one relies on it.
    pub(super) fn check_switches(&self) -> Result<(), ConfigError> {
        let odd =
            |field: &'static str, value: String, remedy: &'static str| Err(ConfigError::invalid(field, value, remedy));
        if let Some(clients) = &self.clients {
            let value = format!("{clients:?}");
            if self.profile.client.is_empty() {
                return odd(
                    "issuer.clients",
                    value,
                    "tokens of this kind of issuer name no client: leave `with_clients` out",
                );
            }
            if clients.is_empty() || clients.iter().any(|client| client.trim().is_empty()) {
                return odd("issuer.clients", value, "name each client by its id, at least one");
            }
        }
        self.tenants.check()?;
        if self.tenants.are_required() && self.profile.tenant.is_empty() {
            let remedy = "tokens of this kind of issuer name no tenant: leave `with_tenants` out";
            return odd("issuer.tenants", format!("{:?}", self.tenants), remedy);
        }
        if self.permissions != Permissions::Apart && self.profile.permissions.is_none() {
            let remedy = "tokens of this kind of issuer have no permissions: leave `with_permissions` out";
            return odd("issuer.permissions", format!("{:?}", self.permissions), remedy);
        }
        if self.requires_token_id && self.profile.token_id.is_none() {
            let remedy =
                "tokens of this kind of issuer have no id: leave `require_token_id` out, the thumbprint names them";
            return odd("issuer.require_token_id", "true".to_owned(), remedy);
        }
        Ok(())
    }

    pub(super) fn check_limits(&self) -> Result<(), ConfigError> {
        let odd = |field: &'static str, value: Duration, remedy: &'static str| {
            Err(ConfigError::invalid(field, format!("{value:?}"), remedy))
        };
        if self.leeway > MAX_LEEWAY {
            let remedy = "choose at most 120 s; set the clocks with NTP if that is not enough";
            return odd("issuer.leeway", self.leeway, remedy);
        }
        if self.max_lifetime < MIN_LIMIT {
            let remedy = "choose how long a token may live, such as 1 h, and no less than 1 s";
            return odd("issuer.max_lifetime", self.max_lifetime, remedy);
        }
        if self.max_lifetime > MAX_LIFETIME && !self.is_lifetime_raised {
            let remedy = "choose at most 24 h, or say `dangerous_max_lifetime`";
            return odd("issuer.max_lifetime", self.max_lifetime, remedy);
        }
        match self.max_age {
            Some(age) if age < MIN_LIMIT => odd(
                "issuer.max_age",
                age,
                "choose how old a token may be, such as 1 h, and no less than 1 s; leave it out for no limit",
            ),
            Some(age) if age > self.max_lifetime => odd(
                "issuer.max_age",
                age,
                "choose no more than the longest life (`with_max_lifetime`): older tokens have expired anyway",
            ),
            _ => Ok(()),
        }
    }

    /// A secret stands alone: of two ways to prove who made a token, one would go unused, or worse, not.
    pub(super) fn check_secret(&self) -> Result<(), ConfigError> {
        if self.secret.is_none() {
            return Ok(());
        }
        let odd = |remedy: &'static str| Err(ConfigError::invalid("issuer.shared_secret", "(redacted)", remedy));
        // A profile that lists algorithms knows what its issuer signs with, and that is never a secret.
        if self.profile.algorithms != Algorithm::ALL {
            return odd("leave it out: this kind of issuer signs with keys that it publishes");
        }
        if self.algorithms.is_some() {
            return odd("leave `with_algorithms` out: a shared secret means HS256 and nothing else");
        }
        if !matches!(self.keys, Keys::Discovery | Keys::Given) {
            return odd("a secret never stands beside keys: leave one of the two out");
        }
        if self.key_cache != CacheSettings::default() {
            let remedy = "a shared secret is never loaded: leave `with_key_cache` out";
            return Err(ConfigError::invalid("issuer.key_cache", format!("{:?}", self.key_cache), remedy));
        }
        Ok(())
    }
}

/// [RFC 8414 §2](https://www.rfc-editor.org/rfc/rfc8414#section-2): an https URL without query and fragment.
pub(super) fn check_url(url: &str) -> Result<(), ConfigError> {
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
/// A day, which is Auth0's own.
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
const MIN_LIMIT: Duration = Duration::from_secs(1);
