use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use super::{Trust, Verifier};
use crate::{
    ConfigError,
    key::IS_CRYPTO_AVAILABLE,
    revocation::RevocationList,
    time::{Clock, SystemClock},
    token::{Issuer, ResolvedIssuers, directory::Directory, trusted::Trusted},
};

/// Builds a [`Verifier`].
pub struct VerifierBuilder {
    issuers: Vec<Issuer>,
    resolved: Option<ResolvedIssuers>,
    clock: Arc<dyn Clock>,
    max_token_size: usize,
    revocations: Option<RevocationList>,
}

impl VerifierBuilder {
    pub(super) fn new(issuers: Vec<Issuer>) -> Self {
        Self {
            issuers,
            resolved: None,
            clock: Arc::new(SystemClock),
            max_token_size: DEFAULT_TOKEN_SIZE,
            revocations: None,
        }
    }

    /// Accepts the tokens of one more issuer. Each has its own keys, audiences and rules; a token is judged by those of the issuer
    /// that it names.
    #[must_use]
    pub fn add_issuer(mut self, issuer: Issuer) -> Self {
        self.issuers.push(issuer);
        self
    }

    /// Also accepts the tokens of issuers that are looked up when a token names them. The configured ones go first; of their tokens the
    /// resolver hears nothing.
    #[must_use]
    pub fn with_resolved_issuers(mut self, issuers: ResolvedIssuers) -> Self {
        self.resolved = Some(issuers);
        self
    }

    /// The clock that the key caches measure freshness with. Default [`SystemClock`]. The time that tokens are judged by is the `now` of
    /// each call.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The longest token that is looked at, in bytes. Default 16 KiB; from 1 KiB to 1 MiB.
    #[must_use]
    pub const fn with_max_token_size(mut self, bytes: usize) -> Self {
        self.max_token_size = bytes;
        self
    }

    /// Refuses what is on this list, which others may go on filling. Default none: a token is good until it expires.
    #[must_use]
    pub fn with_revocations(mut self, revocations: RevocationList) -> Self {
        self.revocations = Some(revocations);
        self
    }

    /// Checks the configuration and starts to load keys. An issuer that is away is no error: its tokens are answered
    /// [`KeysUnavailable`](crate::token::TokenError::KeysUnavailable) (503) until it is back. [`build_with_keys`](Self::build_with_keys) waits instead.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field at fault: an issuer that is no https URL (http is for loopback alone) or is configured twice, a
    /// blank audience, no algorithm, leeway over 120 s, a lifetime or an age out of bounds or longer than the list of revocations is good
    /// for, a switch that means nothing at this kind of issuer, a token size out of bounds, a feature that is missing; for keys that come
    /// over the network, and for issuers that are looked up, also the lack of a Tokio runtime.
    pub fn build(self) -> Result<Verifier, ConfigError> {
        if !IS_CRYPTO_AVAILABLE {
            return Err(ConfigError::FeatureMissing { field: "verifier".into(), feature: "aws-lc-rs" });
        }
        if !TOKEN_SIZES.contains(&self.max_token_size) {
            let remedy = "choose from 1024 to 1048576 bytes; servers cut headers off long before that";
            return Err(ConfigError::invalid("verifier.max_token_size", self.max_token_size.to_string(), remedy));
        }
        let mut issuers: Vec<Arc<Trusted>> = Vec::new();
        let mut by_id = HashMap::new();
        let mut seeds = HashSet::new();
        let revocable = self.revocations.as_ref().map(RevocationList::max_lifetime);
        for issuer in self.issuers {
            if let Some(path) = issuer.key_cache().seed()
                && !seeds.insert(path.clone())
            {
                let remedy = "give each issuer a file of its own: one would overwrite the other's keys";
                return Err(ConfigError::invalid("issuer.key_cache", path.display().to_string(), remedy));
            }
            let trusted = Arc::new(Trusted::new(issuer, &self.clock, revocable)?);
            for id in &trusted.expectations.ids {
                if by_id.insert(id.clone(), Arc::clone(&trusted)).is_some() {
                    let remedy = "configure each issuer once; `add_audience` accepts more audiences";
                    return Err(ConfigError::invalid("issuer.url", id.as_str(), remedy));
                }
            }
            issuers.push(trusted);
        }
        let directory = self.resolved.map(|issuers| Directory::new(issuers, Arc::clone(&self.clock), revocable));
        let directory = directory.transpose()?;
        Ok(Verifier(Arc::new(Trust {
            issuers,
            by_id,
            directory,
            clock: self.clock,
            max_token_size: self.max_token_size,
            revocations: self.revocations,
        })))
    }

    /// As [`build`](Self::build), and waits until the keys of every issuer are there: for a service that must not start without them.
    /// A load that fails is tried again, with the usual backoff, until the deadline. Keys of a seed
    /// ([`CacheSettings::with_seed`](crate::key::CacheSettings::with_seed)) count once the first load has failed.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build), and [`ConfigError::Unusable`] when the deadline has passed: it names the first issuer whose keys are
    /// not there, the kind of the last failure, and the remedy.
    pub async fn build_with_keys(self, deadline: Duration) -> Result<Verifier, ConfigError> {
        let verifier = self.build()?;
        verifier.await_keys(deadline).await?;
        Ok(verifier)
    }
}

impl fmt::Debug for VerifierBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifierBuilder")
            .field("issuers", &self.issuers)
            .field("max_token_size", &self.max_token_size)
            .finish_non_exhaustive()
    }
}

const DEFAULT_TOKEN_SIZE: usize = 16 * 1024;
const TOKEN_SIZES: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024;
