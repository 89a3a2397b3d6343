use std::{fmt, sync::Arc};

use super::crypto::MacKey;
use crate::ConfigError;

/// A secret that this service and one issuer share, for HS256 ([RFC 7518 §3.2](https://www.rfc-editor.org/rfc/rfc7518#section-3.2)).
///
/// Whoever can verify with it can also forge: it is for an issuer in the same hands, and configured by value with
/// [`Issuer::with_shared_secret`](crate::token::Issuer::with_shared_secret). It takes the place of that issuer's key set, and can stand
/// neither in nor beside one, so a public key that anyone can fetch is never taken for the secret of an HMAC. Not a line of this
/// compiles:
///
/// ```compile_fail,E0599
/// use portcullis::key::Algorithm;
/// let algorithm = Algorithm::Hs256;
/// ```
///
/// ```compile_fail,E0277
/// use portcullis::key::{JwkSet, SharedSecret};
/// let secret = SharedSecret::new(b"a secret of at least 32 bytes in a set").unwrap();
/// let keys: JwkSet = [secret].into_iter().collect();
/// ```
///
/// ```compile_fail,E0308
/// use portcullis::{key::SharedSecret, token::Issuer};
/// let secret = SharedSecret::new(b"a secret of at least 32 bytes in a set").unwrap();
/// let issuer = Issuer::oauth("https://login.example", "https://api.example").with_keys(secret);
/// ```
///
/// Cheap to clone. The bytes are kept by the crypto backend, which wipes them when the last clone is dropped; they cannot be read out
/// again, and no thumbprint of them is ever made, because from one a weak secret could be guessed.
#[derive(Clone)]
pub struct SharedSecret(Arc<MacKey>);

impl SharedSecret {
    /// Takes over a secret of 32 to 512 bytes. Wiping what was handed over is up to the caller.
    ///
    /// Length is all that can be checked: let a generator of random numbers make it, not a person.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] when the secret is shorter than the hash, which RFC 7518 §3.2 forbids, longer than 512 bytes, or a PEM
    /// text, which is a key that was meant for something else; [`ConfigError::FeatureMissing`] without a crypto feature. The message
    /// holds nothing of the secret.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let secret = secret.as_ref();
        let odd = |remedy: &'static str| Err(ConfigError::invalid("shared_secret", "(redacted)", remedy));
        if secret.len() < MIN_LENGTH {
            return odd("give at least 32 random bytes: RFC 7518 asks for as many as the hash has");
        }
        if secret.len() > MAX_LENGTH {
            return odd("give at most 512 bytes: beyond 64 they add nothing");
        }
        // The confusion of CVE-2022-29217 and its kin, made by hand: a public key is known to everyone.
        if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
            return odd("a PEM text is no shared secret: public keys go into a key set");
        }
        let key = MacKey::new(secret)
            .ok_or(ConfigError::FeatureMissing { field: "shared_secret".into(), feature: "aws-lc-rs" })?;
        Ok(Self(Arc::new(key)))
    }

    /// In constant time.
    pub(crate) fn verify(&self, message: &[u8], tag: &[u8]) -> bool {
        self.0.verify(message, tag)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message)
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

const MIN_LENGTH: usize = 32;
const MAX_LENGTH: usize = 512;

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn length_is_bounded_and_a_pem_text_is_no_secret() {
        for (length, is_good) in
            [(0, false), (31, false), (32, true), (64, true), (65, true), (512, true), (513, false)]
        {
            assert_eq!(SharedSecret::new(vec![7; length]).is_ok(), is_good, "{length}");
        }
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        for odd in [pem.to_owned(), format!(" \r\n{pem}")] {
            let error = SharedSecret::new(&odd).unwrap_err();
            assert_eq!(error.field(), "shared_secret");
            assert!(!error.to_string().contains("MCow"), "{error}");
        }
    }

    #[test]
    fn the_example_of_rfc_7515_verifies_and_nothing_near_it_does() {
        // Appendix A.1.
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let secret = SharedSecret::new(URL_SAFE_NO_PAD.decode(secret).unwrap()).unwrap();
        let message = b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let tag = URL_SAFE_NO_PAD.decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        assert!(secret.verify(message, &tag));
        assert_eq!(secret.sign(message), tag);
        assert!(!secret.verify(&message[1..], &tag));
        for odd in [&[][..], &tag[..1], &tag[..16], &tag[..31], &[tag.as_slice(), &[0]].concat(), &[0; 32]] {
            assert!(!secret.verify(message, odd), "{} bytes", odd.len());
        }
        for bit in 0..256 {
            let mut flipped = tag.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!secret.verify(message, &flipped), "bit {bit}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = SharedSecret::new("canary canary canary canary canary").unwrap();
        assert_eq!(format!("{secret:?}"), "SharedSecret(..)");
    }
}
