use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{PublicJwk, SignError, SignRequest, Signature, Signer};
use crate::{ConfigError, key::Algorithm};

/// A signing key in this process: Ed25519, ES256, ES384 or ES512. Its `kid` is the RFC 7638 thumbprint of its public half.
///
/// The private half is kept by aws-lc, which wipes it when the signer is dropped. It cannot be read out again, and `Debug`
/// shows the public half alone.
pub struct LocalSigner {
    key: KeyPair,
    public: PublicJwk,
}

enum KeyPair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl LocalSigner {
    /// Makes a fresh key. It lives as long as the process: verifiers learn of it from the key set that the service publishes.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for the RSA algorithms, which are for verifying what others issue, and when the operating system has no
    /// randomness to give.
    pub fn generate(algorithm: Algorithm) -> Result<Self, ConfigError> {
        let starved = |_| {
            ConfigError::invalid(
                "signer.algorithm",
                algorithm.name(),
                "no key could be generated: see to the system's randomness",
            )
        };
        let key = match algorithm {
            Algorithm::Ed25519 => KeyPair::Ed25519(Ed25519KeyPair::generate().map_err(starved)?),
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => {
                KeyPair::Ecdsa(EcdsaKeyPair::generate(ecdsa(algorithm)).map_err(starved)?)
            }
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => {
                return Err(ConfigError::invalid(
                    "signer.algorithm",
                    algorithm.name(),
                    "internal tokens are signed with Ed25519, ES256, ES384 or ES512",
                ));
            }
        };
        Ok(Self::new(key, algorithm))
    }

    /// Reads a PEM text with one unencrypted PKCS#8 private key (`BEGIN PRIVATE KEY`, as `openssl genpkey` writes it): Ed25519,
    /// P-256 (for ES256), P-384 (for ES384) or P-521 (for ES512). What is decoded on the way is wiped; wiping `pem` is up to the caller.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for anything else. The message holds nothing of the text.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, ConfigError> {
        let odd = || {
            ConfigError::invalid(
                "signer.key",
                "(redacted)",
                "give one unencrypted PKCS#8 key in PEM: Ed25519, P-256, P-384 or P-521, as `openssl genpkey` writes it",
            )
        };
        let body = pem
            .trim()
            .strip_prefix("-----BEGIN PRIVATE KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PRIVATE KEY-----"))
            .ok_or_else(odd)?;
        let mut text = Zeroizing::new(Vec::with_capacity(body.len()));
        text.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
        let mut der = Zeroizing::new(vec![0; text.len()]);
        let length = STANDARD.decode_slice(&*text, &mut der).map_err(|_| odd())?;
        let der = der.get(..length).ok_or_else(odd)?;

        if let Ok(key) = Ed25519KeyPair::from_pkcs8(der) {
            return Ok(Self::new(KeyPair::Ed25519(key), Algorithm::Ed25519));
        }
        [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512]
            .into_iter()
            .find_map(|algorithm| {
                let key = EcdsaKeyPair::from_pkcs8(ecdsa(algorithm), der).ok()?;
                Some(Self::new(KeyPair::Ecdsa(key), algorithm))
            })
            .ok_or_else(odd)
    }

    fn new(key: KeyPair, algorithm: Algorithm) -> Self {
        let public = match &key {
            KeyPair::Ed25519(key) => PublicJwk::ed25519(key.public_key().as_ref()),
            KeyPair::Ecdsa(key) => {
                // SEC 1 §2.3.3, uncompressed: one byte 0x04, then both coordinates at full length.
                let point = key.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                PublicJwk::ec(algorithm, x, y)
            }
        };
        Self { key, public }
    }

    pub(crate) fn sign_bytes(&self, message: &[u8]) -> Result<Signature, SignError> {
        let failed = |_| SignError::unavailable("aws-lc gave no signature");
        let signature = match &self.key {
            KeyPair::Ed25519(key) => key.try_sign(message),
            KeyPair::Ecdsa(key) => key.sign(&SystemRandom::new(), message),
        };
        Ok(Signature::new(signature.map_err(failed)?.as_ref()))
    }
}

#[async_trait]
impl Signer for LocalSigner {
    async fn sign(self: Arc<Self>, request: SignRequest) -> Result<Signature, SignError> {
        self.sign_with(&request)
    }

    fn public_jwk(&self) -> PublicJwk {
        self.public.clone()
    }

    fn sign_now(&self, request: &SignRequest) -> Option<Result<Signature, SignError>> {
        Some(self.sign_with(request))
    }
}

impl LocalSigner {
    fn sign_with(&self, request: &SignRequest) -> Result<Signature, SignError> {
        if request.key_id != *self.public.key_id() {
            return Err(SignError::refused("there is no key of this `kid`"));
        }
        self.sign_bytes(&request.message)
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSigner").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Fixed length signatures, as RFC 7518 §3.4 demands, and not DER.
const fn ecdsa(algorithm: Algorithm) -> &'static EcdsaSigningAlgorithm {
    match algorithm {
        Algorithm::Es384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        Algorithm::Es512 => &ECDSA_P521_SHA512_FIXED_SIGNING,
        _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, UnparsedPublicKey,
        VerificationAlgorithm,
    };
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn public_bytes(jwk: &PublicJwk) -> Vec<u8> {
        let member = |name: &str| URL_SAFE_NO_PAD.decode(jwk.members()[name].as_str().unwrap()).unwrap();
        match jwk.algorithm() {
            Algorithm::Ed25519 => member("x"),
            _ => [vec![4], member("x"), member("y")].concat(),
        }
    }

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
    }

    #[test]
    fn a_signature_verifies_under_the_published_key_and_no_other() {
        let table: [(_, &'static dyn VerificationAlgorithm); 4] = [
            (Algorithm::Ed25519, &ED25519),
            (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
            (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED),
            (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED),
        ];
        for (algorithm, verification) in table {
            let signer = LocalSigner::generate(algorithm).unwrap();
            let request = SignRequest::new(Arc::clone(signer.public.key_id()), "message");
            let signature = signer.sign_now(&request).unwrap().unwrap();
            let verifies = |jwk: &PublicJwk, message: &[u8]| {
                UnparsedPublicKey::new(verification, public_bytes(jwk)).verify(message, signature.as_bytes()).is_ok()
            };
            assert!(verifies(&signer.public, b"message"), "{algorithm}");
            assert!(!verifies(&signer.public, b"massage"), "{algorithm}");
            assert!(!verifies(&LocalSigner::generate(algorithm).unwrap().public, b"message"), "{algorithm}");
        }
    }

    #[test]
    fn another_kid_is_refused() {
        let signer = LocalSigner::generate(Algorithm::Ed25519).unwrap();
        let error = signer.sign_now(&SignRequest::new("other", "message")).unwrap().unwrap_err();
        assert_eq!(error.kind().code(), "signer_refused");
    }

    #[test]
    fn a_key_read_from_pem_is_the_key_that_was_written() {
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let es384 = EcdsaKeyPair::generate(ecdsa(Algorithm::Es384)).unwrap();
        let es512 = EcdsaKeyPair::generate(ecdsa(Algorithm::Es512)).unwrap();
        let table = [
            (Algorithm::Ed25519, ed25519.to_pkcs8v1().unwrap(), ed25519.public_key().as_ref()),
            (Algorithm::Ed25519, ed25519.to_pkcs8().unwrap(), ed25519.public_key().as_ref()),
            (Algorithm::Es384, es384.to_pkcs8v1().unwrap(), es384.public_key().as_ref()),
            (Algorithm::Es512, es512.to_pkcs8v1().unwrap(), es512.public_key().as_ref()),
        ];
        for (algorithm, der, public) in table {
            let signer = LocalSigner::from_pkcs8_pem(&pem(der.as_ref())).unwrap();
            assert_eq!((signer.public.algorithm(), public_bytes(&signer.public).as_slice()), (algorithm, public));
        }
    }

    #[test]
    fn a_pem_that_is_no_key_is_refused_without_being_repeated() {
        for odd in [
            "",
            "c2VjcmV0",
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nc2Vj!cmV0\n-----END PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----",
        ] {
            let error = LocalSigner::from_pkcs8_pem(odd).unwrap_err().to_string();
            assert!(error.contains("`signer.key`") && !error.contains("c2Vj"), "{odd}: {error}");
        }
    }

    #[test]
    fn rsa_is_not_offered_for_minting() {
        for algorithm in [Algorithm::Rs256, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384] {
            assert!(LocalSigner::generate(algorithm).unwrap_err().to_string().contains("Ed25519"), "{algorithm}");
        }
    }

    #[test]
    fn debug_shows_the_public_half_alone() {
        let signer = LocalSigner::generate(Algorithm::Ed25519).unwrap();
        let shown = format!("{signer:?}");
        assert!(shown.contains(&**signer.public.key_id()) && shown.ends_with(", .. }"), "{shown}");
    }
}
