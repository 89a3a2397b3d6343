use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::PublicJwk;

/// Signs internal tokens: a key in this process ([`LocalSigner`](super::LocalSigner)), or one that never leaves a KMS.
///
/// Two methods and not one, because the header names the key (`kid`, `alg`) before anything is signed. A signer that rotates
/// its key keeps the one before it long enough to serve requests that were made for it.
///
/// ```
/// use std::sync::Arc;
/// use portcullis::mint::{PublicJwk, SignError, SignRequest, Signature, Signer};
///
/// # async fn ask_the_kms(_: &str, _: &[u8]) -> Result<Vec<u8>, std::io::Error> { unimplemented!() }
/// /// A key that a key management service holds.
/// struct Kms {
///     public: PublicJwk,
/// }
///
/// #[async_trait::async_trait]
/// impl Signer for Kms {
///     async fn sign(self: Arc<Self>, request: SignRequest) -> Result<Signature, SignError> {
///         let signature = ask_the_kms(&request.key_id, &request.message).await.map_err(SignError::unavailable)?;
///         Ok(Signature::new(signature))
///     }
///
///     fn public_jwk(&self) -> PublicJwk {
///         self.public.clone()
///     }
/// }
/// ```
#[async_trait]
pub trait Signer: Send + Sync + 'static {
    /// Signs the message with the key that the request names.
    ///
    /// # Errors
    ///
    /// [`SignError`] when there is no signature; no token is minted then.
    async fn sign(self: Arc<Self>, request: SignRequest) -> Result<Signature, SignError>;

    /// The public half of the key that signs new tokens; what verifiers must be given before the first token reaches them.
    fn public_jwk(&self) -> PublicJwk;

    /// The signature at once, where that needs no waiting. `None` (the default) sends the caller to [`sign`](Self::sign);
    /// a signer that answers here must answer as there.
    fn sign_now(&self, request: &SignRequest) -> Option<Result<Signature, SignError>> {
        let _ = request;
        None
    }
}

/// What is to be signed, and by which key.
#[derive(Clone)]
#[non_exhaustive]
pub struct SignRequest {
    /// `kid` of the key, as [`Signer::public_jwk`] named it when the token was begun.
    pub key_id: Arc<str>,
    /// The JWS signing input ([RFC 7515 §5.1](https://www.rfc-editor.org/rfc/rfc7515#section-5.1)): a token but for its
    /// signature. Not for a log.
    pub message: Bytes,
}

impl SignRequest {
    /// Asks for a signature of the message by this key.
    #[must_use]
    pub fn new(key_id: impl Into<Arc<str>>, message: impl Into<Bytes>) -> Self {
        Self { key_id: key_id.into(), message: message.into() }
    }
}

impl fmt::Debug for SignRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignRequest").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The bytes of a JWS signature in the form of [RFC 7518 §3](https://www.rfc-editor.org/rfc/rfc7518#section-3): for ECDSA `R || S`
/// of fixed length (many KMS answer in DER: convert), for Ed25519 the 64 bytes of RFC 8032.
#[derive(Clone)]
pub struct Signature(Box<[u8]>);

impl Signature {
    /// Keeps the bytes as they are.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes: what makes a token of a signing input, so not for a log.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// Why there is no signature.
///
/// Opaque: implementors make one with the constructor for its kind and the cause behind it. The text is for operators and
/// never reaches a caller.
#[derive(Debug)]
pub struct SignError {
    kind: SignErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The kinds of [`SignError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignErrorKind {
    /// The signer cannot be reached, or failed.
    Unavailable,
    /// The signer did not answer in time.
    Timeout,
    /// The signer will not sign this: it does not have the key that was asked for, or its rules forbid it.
    Refused,
}

impl SignErrorKind {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unavailable => "signer_unavailable",
            Self::Timeout => "signer_timeout",
            Self::Refused => "signer_refused",
        }
    }
}

impl SignError {
    /// The signer cannot be reached, or failed.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: SignErrorKind::Unavailable, source: source.into() }
    }

    /// The signer did not answer in time.
    pub fn timeout(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: SignErrorKind::Timeout, source: source.into() }
    }

    /// The signer will not sign this.
    pub fn refused(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind: SignErrorKind::Refused, source: source.into() }
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> SignErrorKind {
        self.kind
    }
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            SignErrorKind::Unavailable => "the signer is unavailable",
            SignErrorKind::Timeout => "the signer did not answer in time",
            SignErrorKind::Refused => "the signer refuses",
        })
    }
}

impl std::error::Error for SignError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn _is_dyn_compatible(_: Arc<dyn Signer>) {}

    #[test]
    fn neither_the_signing_input_nor_the_signature_is_printed() {
        let request = SignRequest::new("k1", "eyJ.eyJ");
        assert_eq!(format!("{request:?}"), "SignRequest { key_id: \"k1\", .. }");
        assert_eq!(format!("{:?}", Signature::new(*b"secret")), "Signature(..)");
    }

    #[test]
    fn an_error_tells_its_kind_and_keeps_its_cause() {
        let error = SignError::timeout(std::io::Error::from(std::io::ErrorKind::TimedOut));
        assert_eq!(error.kind().code(), "signer_timeout");
        assert_eq!(error.to_string(), "the signer did not answer in time");
        assert!(std::error::Error::source(&error).is_some());
    }
}
