use std::sync::Arc;

use super::Issuer;
use crate::{
    ConfigError,
    key::{CacheSettings, KeySource, SharedSecret},
};
#[cfg(feature = "remote-jwks")]
use crate::{key::Remote, outbound::Outbound};

#[derive(Clone)]
pub(super) enum Keys {
    Discovery,
    Url(String),
    Bundle(String),
    Source(Arc<dyn KeySource>),
    /// To be given: this kind of issuer publishes them to nobody that it does not know.
    Given,
}

/// What the signatures of a checked [`Issuer`] are verified with: public keys or one secret, and never both.
pub(in crate::token) enum KeyMode {
    Source(Arc<dyn KeySource>),
    Secret(SharedSecret),
}

impl Issuer {
    pub(in crate::token) fn key_origin(&self) -> KeyOrigin {
        KeyOrigin { url: self.url().to_owned(), keys: self.keys.clone(), cache: self.key_cache.clone() }
    }

    /// Fetches the keys, where they have an address, through this client: what many issuers share.
    #[cfg(feature = "remote-jwks")]
    pub(in crate::token) fn fetching_through(mut self, outbound: &Outbound) -> Result<Self, ConfigError> {
        if self.secret.is_some() {
            return Ok(self);
        }
        let remote = match &self.keys {
            Keys::Discovery => Remote::discover(self.url()),
            Keys::Url(url) => Remote::url(url),
            Keys::Bundle(url) => Remote::bundle(url),
            Keys::Source(_) | Keys::Given => return Ok(self),
        };
        self.keys = Keys::Source(Arc::new(remote.with_outbound(outbound.clone()).build()?));
        Ok(self)
    }

    /// Loads the keys through what `wrap` makes of their source, where that is known already.
    pub(in crate::token) fn loading_through(
        mut self,
        wrap: impl FnOnce(Arc<dyn KeySource>) -> Arc<dyn KeySource>,
    ) -> Self {
        if let Keys::Source(source) = &mut self.keys {
            *source = wrap(Arc::clone(source));
        }
        self
    }

    pub(super) fn checked_source(&self) -> Result<Arc<dyn KeySource>, ConfigError> {
        let source = self.key_source()?;
        if self.profile.keys_name_issuers && !source.keeps_key_issuers() {
            let remedy = "leave `with_key_source` out, or give `key::Remote`: each key of this kind of issuer names the one issuer that it signs \
                          for, and this source does not keep the name";
            return Err(ConfigError::invalid("issuer.key_source", self.url(), remedy));
        }
        Ok(source)
    }

    #[cfg(feature = "remote-jwks")]
    fn key_source(&self) -> Result<Arc<dyn KeySource>, ConfigError> {
        Ok(match &self.keys {
            Keys::Discovery => Arc::new(Remote::discover(self.url()).build()?),
            Keys::Url(url) => Arc::new(Remote::url(url).build()?),
            Keys::Bundle(url) => Arc::new(Remote::bundle(url).build()?),
            Keys::Source(source) => Arc::clone(source),
            Keys::Given => return Err(no_keys()),
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
            Keys::Given => Err(no_keys()),
        }
    }
}

/// Where an issuer's keys come from and how they are kept, to tell whether keys that were loaded for one configuration serve another.
pub(in crate::token) struct KeyOrigin {
    url: String,
    keys: Keys,
    cache: CacheSettings,
}

impl KeyOrigin {
    pub(in crate::token) fn is_same_as(&self, other: &Self) -> bool {
        let is_same_place = match (&self.keys, &other.keys) {
            (Keys::Discovery, Keys::Discovery) => true,
            (Keys::Url(one), Keys::Url(two)) | (Keys::Bundle(one), Keys::Bundle(two)) => one == two,
            (Keys::Source(one), Keys::Source(two)) => Arc::ptr_eq(one, two),
            _ => false,
        };
        self.url == other.url && self.cache == other.cache && is_same_place
    }
}

fn no_keys() -> ConfigError {
    ConfigError::missing(
        "issuer.keys",
        "give the keys (`with_keys`), or where they are to be had (`with_jwks_url`, `with_key_source`): discovery wants credentials here",
    )
}
