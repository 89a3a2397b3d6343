use std::sync::OnceLock;

use ::aws_lc_rs::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, VerificationAlgorithm,
    },
};
use curve25519_dalek::edwards::CompressedEdwardsY;

use super::{Algorithm, PublicKey};

/// A key that aws-lc has parsed, for one algorithm or, with RSA, for those that are asked for.
pub(super) enum PreparedKey {
    Rsa(Box<RsaKey>),
    Point(Algorithm, ParsedPublicKey),
}

/// A parsed key knows its algorithm, so six of them would stand for one RSA key without `alg`, at 4 µs and 1 KiB each (2048 bits).
/// Issuers sign with one: each is parsed when it is first needed.
pub(super) struct RsaKey {
    numbers: RsaPublicKeyComponents<Vec<u8>>,
    parsed: [OnceLock<Option<ParsedPublicKey>>; 6],
}

impl PreparedKey {
    pub(super) fn new(first: Algorithm, key: &PublicKey) -> Option<Self> {
        let (algorithm, parameters, point): (_, &'static dyn VerificationAlgorithm, &[u8]) = match key {
            PublicKey::Rsa { modulus, exponent } => {
                let numbers = RsaPublicKeyComponents { n: modulus.clone(), e: exponent.clone() };
                let key = Box::new(RsaKey { numbers, parsed: Default::default() });
                key.parsed(first)?;
                return Some(Self::Rsa(key));
            }
            PublicKey::P256 { point } => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, point),
            PublicKey::P384 { point } => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, point),
            PublicKey::P521 { point } => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED, point),
            PublicKey::Ed25519 { point } => {
                // aws-lc takes any 32 bytes for a key, and refuses every signature under those that are no point.
                CompressedEdwardsY(*point).decompress()?;
                (Algorithm::Ed25519, &ED25519, point)
            }
        };
        ParsedPublicKey::new(parameters, point).ok().map(|key| Self::Point(algorithm, key))
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let key = match self {
            Self::Rsa(key) => key.parsed(algorithm),
            Self::Point(own, key) => (*own == algorithm).then_some(key),
        };
        key.is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }
}

impl RsaKey {
    fn parsed(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let [rs256, rs384, rs512, ps256, ps384, ps512] = &self.parsed;
        let (slot, parameters) = match algorithm {
            Algorithm::Rs256 => (rs256, &RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => (rs384, &RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => (rs512, &RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => (ps256, &RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => (ps384, &RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => (ps512, &RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::Ed25519 => return None,
        };
        slot.get_or_init(|| self.numbers.to_parsed_public_key(parameters).ok()).as_ref()
    }
}

/// HMAC with SHA-256. The key is in aws-lc's hands, which wipes it.
pub(super) struct Mac(hmac::Key);

impl Mac {
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// In constant time.
    pub(super) fn verify(&self, message: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.0, message, tag).is_ok()
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        hmac::sign(&self.0, message).as_ref().to_vec()
    }
}
