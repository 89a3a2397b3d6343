use std::sync::Arc;

use async_trait::async_trait;

use super::{JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys};

/// Keys that never change: a key set that the deployment carries with it.
///
/// Answers at once, so that nobody waits for it, and a verifier built on it never does I/O.
///
/// ```
/// use portcullis::key::{Fixed, JwkSet, KeySource};
///
/// let document = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"2026","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// let source = Fixed::new(JwkSet::parse(document)?);
/// assert!(source.load_now().is_some());
/// # Ok::<(), portcullis::key::JwkError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fixed(JwkSet);

impl Fixed {
    /// A source of exactly these keys.
    #[must_use]
    pub const fn new(set: JwkSet) -> Self {
        Self(set)
    }
}

#[async_trait]
impl KeySource for Fixed {
    async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
        Ok(LoadedKeys::new(self.0.clone()))
    }

    fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
        Some(Ok(LoadedKeys::new(self.0.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_keys_come_at_once_and_by_waiting() {
        let document =
            br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let source = Arc::new(Fixed::new(JwkSet::parse(document).unwrap()));
        let now = source.load_now().unwrap().unwrap();
        let later = source.load(LoadRequest::default()).await.unwrap();
        assert_eq!(now.set.len(), 1);
        assert_eq!(
            now.set.iter().next().map(super::super::Jwk::thumbprint),
            later.set.iter().next().map(super::super::Jwk::thumbprint)
        );
    }
}
