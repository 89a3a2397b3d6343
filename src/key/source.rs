use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::JwkSet;

/// Loads the keys of one issuer: the slow half of key management. The fast half is the cache around it, which asks a source
/// when it needs to and never twice at once.
///
/// ```
/// use std::sync::Arc;
/// use portcullis::key::{JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys};
///
/// /// Keys that a deployment mounts as a file.
/// struct Mounted(std::path::PathBuf);
///
/// #[async_trait::async_trait]
/// impl KeySource for Mounted {
///     async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
///         let document = tokio::fs::read(&self.0).await.map_err(KeyError::unavailable)?;
///         let set = JwkSet::parse(&document).map_err(KeyError::invalid_document)?;
///         Ok(LoadedKeys::new(set))
///     }
/// }
/// ```
#[async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// Loads the current keys.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when they cannot be had. The cache then keeps what it has and tries again.
    async fn load(self: Arc<Self>, request: LoadRequest) -> Result<LoadedKeys, KeyError>;

    /// The keys at once, where that needs no waiting. `None` (the default) makes the cache call [`load`](Self::load) in the background.
    fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
        None
    }

    /// Whether the keys keep the issuer that their document says each of them signs for ([`Jwk::issuer`](super::Jwk::issuer)). Default true.
    ///
    /// A source that loses it is a `ConfigError` at issuers whose documents hold the keys of several
    /// ([`Issuer::entra`](crate::token::Issuer::entra)): there a key would sign for all of them. Whoever wraps a source passes its answer on.
    fn keeps_key_issuers(&self) -> bool {
        true
    }
}

#[async_trait]
impl<K: KeySource + ?Sized> KeySource for Arc<K> {
    async fn load(self: Arc<Self>, request: LoadRequest) -> Result<LoadedKeys, KeyError> {
        Arc::clone(&*self).load(request).await
    }

    fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
        (**self).load_now()
    }

    fn keeps_key_issuers(&self) -> bool {
        (**self).keeps_key_issuers()
    }
}

/// Why and under which bounds keys are loaded.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadRequest {
    /// The `kid` that no known key has, when that is why the keys are loaded. Attacker text: for a log line at most, never
    /// part of an address.
    pub unknown_kid: Option<Arc<str>>,
}

/// A key document and how long it may be kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadedKeys {
    /// The usable keys of the document.
    pub set: JwkSet,
    /// How long the source says that it stays fresh (`Cache-Control: max-age`); the cache keeps it inside its own bounds.
    pub max_age: Option<Duration>,
}

impl LoadedKeys {
    /// Keys without a lifetime of their own.
    #[must_use]
    pub const fn new(set: JwkSet) -> Self {
        Self { set, max_age: None }
    }

    /// Sets how long the source says that the keys stay fresh.
    #[must_use]
    pub const fn with_max_age(mut self, max_age: Option<Duration>) -> Self {
        self.max_age = max_age;
        self
    }
}

/// Why keys cannot be had.
///
/// Opaque: implementors make one with the constructor for its kind and the cause behind it.
#[derive(Debug)]
pub struct KeyError {
    kind: KeyErrorKind,
    was_asked: bool,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The kinds of [`KeyError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyErrorKind {
    /// The source cannot be reached, or answered with an error.
    Unavailable,
    /// The source did not answer in time.
    Timeout,
    /// The source answered with something that is no key document, or with no usable key.
    InvalidDocument,
}

impl KeyErrorKind {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::InvalidDocument => "invalid document",
        }
    }
}

impl fmt::Display for KeyErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl KeyError {
    /// The source cannot be reached, or answered with an error.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::of(KeyErrorKind::Unavailable, source)
    }

    /// The source did not answer in time.
    pub fn timeout(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::of(KeyErrorKind::Timeout, source)
    }

    /// The source answered with something that is no key document, or with no usable key.
    pub fn invalid_document(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::of(KeyErrorKind::InvalidDocument, source)
    }

    pub(crate) fn of(kind: KeyErrorKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, was_asked: true, source: source.into() }
    }

    /// There was no room to ask the source, or not in time: no failure of the source.
    pub(crate) fn not_asked(kind: KeyErrorKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { was_asked: false, ..Self::of(kind, source) }
    }

    pub(crate) const fn was_asked(&self) -> bool {
        self.was_asked
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> KeyErrorKind {
        self.kind
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            KeyErrorKind::Unavailable => "the key source is unavailable",
            KeyErrorKind::Timeout => "the key source did not answer in time",
            KeyErrorKind::InvalidDocument => "the key source gave no usable key document",
        })
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::{
        key::{Algorithm, Fixed},
        token::test_tokens::public_keys,
    };

    fn _is_dyn_compatible(_: Arc<dyn KeySource>) {}

    #[tokio::test]
    async fn a_shared_source_is_the_source_itself() {
        let shared = Arc::new(Arc::new(Fixed::new(public_keys())));
        let now = shared.load_now().unwrap().unwrap();
        let later = Arc::clone(&shared).load(LoadRequest::default()).await.unwrap();
        assert_eq!([now.set.len(), later.set.len()], [Algorithm::ALL.len(); 2]);
    }

    #[test]
    fn an_error_says_what_kind_it_is_and_keeps_its_cause() {
        let table = [
            (KeyError::unavailable("why"), KeyErrorKind::Unavailable, "the key source is unavailable"),
            (KeyError::timeout("why"), KeyErrorKind::Timeout, "the key source did not answer in time"),
            (
                KeyError::invalid_document("why"),
                KeyErrorKind::InvalidDocument,
                "the key source gave no usable key document",
            ),
        ];
        assert_eq!(KeyErrorKind::Timeout.to_string(), KeyErrorKind::Timeout.text());
        for (error, kind, text) in table {
            assert_eq!((error.kind(), error.to_string()), (kind, text.to_owned()));
            assert_eq!(error.source().map(ToString::to_string), Some("why".to_owned()));
        }
    }

    #[test]
    fn keys_last_as_long_as_their_source_says() {
        let keys = LoadedKeys::new(public_keys());
        assert_eq!(keys.max_age, None);
        assert_eq!(keys.with_max_age(Some(Duration::from_secs(7))).max_age, Some(Duration::from_secs(7)));
    }
}
