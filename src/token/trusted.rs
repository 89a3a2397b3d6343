use std::{sync::Arc, time::Duration};

use super::{
    Issuer, TokenError,
    issuer::{Expectations, KeyMode, KeyOrigin},
    jws::Jws,
};
use crate::{
    ConfigError,
    key::{Algorithm, Cache, SharedSecret},
    time::Clock,
};

/// An issuer whose configuration was checked, and its keys.
pub(super) struct Trusted {
    pub(super) expectations: Expectations,
    keys: Keys,
    key_origin: KeyOrigin,
}

/// Public keys or one secret: there is no issuer that could have both.
enum Keys {
    Public(Arc<Cache>),
    Secret(SharedSecret),
}

/// What has to show that the issuer made the token.
pub(super) enum Proof<'a> {
    Signature(&'a Arc<Cache>, Algorithm),
    Mac(&'a SharedSecret),
}

impl Trusted {
    /// Checks the configuration and starts to load keys. `revocable` is the longest life of a token that the list of revocations is
    /// good for.
    pub(super) fn new(
        issuer: Issuer,
        clock: &Arc<dyn Clock>,
        revocable: Option<Duration>,
    ) -> Result<Self, ConfigError> {
        let key_origin = issuer.key_origin();
        Self::renewed(issuer, key_origin, clock, revocable, None)
    }

    /// As [`new`](Self::new), but keys that `earlier` has from the same place are used on.
    pub(super) fn renewed(
        issuer: Issuer,
        key_origin: KeyOrigin,
        clock: &Arc<dyn Clock>,
        revocable: Option<Duration>,
        earlier: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let (name, settings) = (issuer.url().to_owned(), issuer.key_cache().clone());
        let (expectations, mode) = issuer.into_parts()?;
        check_lifetime(&expectations, revocable)?;
        let earlier = earlier.filter(|earlier| earlier.key_origin.is_same_as(&key_origin)).and_then(Self::cache);
        let keys = match (mode, earlier) {
            (KeyMode::Secret(secret), _) => Keys::Secret(secret),
            (KeyMode::Source(_), Some(cache)) => Keys::Public(Arc::clone(cache)),
            (KeyMode::Source(source), None) => Keys::Public(Cache::new(source, name, settings, Arc::clone(clock))?),
        };
        Ok(Self { expectations, keys, key_origin })
    }

    /// The issuer's own keys decide what a signature has to be, and the header may only agree.
    pub(super) fn proof(&self, jws: &Jws<'_>) -> Result<Proof<'_>, TokenError> {
        match &self.keys {
            Keys::Public(keys) => Ok(Proof::Signature(keys, jws.algorithm(&self.expectations.algorithms)?)),
            Keys::Secret(secret) if jws.header.alg == "HS256" => Ok(Proof::Mac(secret)),
            Keys::Secret(_) => Err(TokenError::Algorithm),
        }
    }

    pub(super) fn cache(&self) -> Option<&Arc<Cache>> {
        match &self.keys {
            Keys::Public(keys) => Some(keys),
            Keys::Secret(_) => None,
        }
    }
}

/// A revocation that is forgotten before its tokens have expired would let them in again.
fn check_lifetime(expectations: &Expectations, revocable: Option<Duration>) -> Result<(), ConfigError> {
    match revocable {
        Some(covered) if covered < expectations.max_lifetime => {
            let remedy = format!("raise it to {:?}, the longest life of an issuer's tokens", expectations.max_lifetime);
            Err(ConfigError::invalid("revocations.max_lifetime", format!("{covered:?}"), remedy))
        }
        _ => Ok(()),
    }
}
