//! Who may sign: keys, where they come from, and how they are kept fresh.
//!
//! A [`KeySource`] loads a key document; a cache around it keeps the keys, refreshes them ahead of time and on an unknown
//! `kid`, and lets readers look keys up without a lock and without waiting: [`CacheSettings`] says how. [`Jwk`]s are parsed and checked
//! once, at load.
//!
//! A [`SharedSecret`] is no key of a set: it stands alone, for one issuer in the same hands.

mod algorithm;
mod bundle;
mod cache;
mod crypto;
mod fixed;
pub mod jsonwebtoken;
mod jwk;
#[cfg(feature = "jwks-client-rs")]
pub mod jwks_client_rs;
mod metrics;
#[cfg(feature = "remote-jwks")]
mod remote;
mod secret;
mod seed;
mod settings;
mod snapshot;
mod source;
mod voice;
mod wanted;

pub use algorithm::Algorithm;
pub(crate) use cache::{Cache, Lookup};
pub(crate) use crypto::IS_AVAILABLE as IS_CRYPTO_AVAILABLE;
#[cfg(test)]
pub(crate) use crypto::VERIFICATIONS;
pub use fixed::Fixed;
pub(crate) use jwk::MAX_KID;
pub use jwk::{Jwk, JwkError, JwkSet, SkippedKey};
pub use metrics::Metrics;
#[cfg(feature = "remote-jwks")]
pub use remote::{Remote, RemoteBuilder};
pub use secret::SharedSecret;
pub use settings::CacheSettings;
pub use source::{KeyError, KeyErrorKind, KeySource, LoadRequest, LoadedKeys};
pub(crate) use voice::Voice;
pub(crate) use wanted::{SignsFor, Wanted};
