use ed25519_dalek::Signature as EdSignature;
use p256::ecdsa::signature::Verifier as _;
use rsa::{BoxedUint, pkcs1v15, pss, sha2::Sha256};

use super::{Algorithm, PublicKey};

/// A key that the crate of its algorithm has parsed. Public-key operations only: RUSTSEC-2023-0071 concerns private ones.
pub(super) enum PreparedKey {
    Rs256(Box<pkcs1v15::VerifyingKey<Sha256>>),
    Ps256(Box<pss::VerifyingKey<Sha256>>),
    Es256(Box<p256::ecdsa::VerifyingKey>),
    Es384(Box<p384::ecdsa::VerifyingKey>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

impl PreparedKey {
    pub(super) fn new(algorithm: Algorithm, key: &PublicKey) -> Option<Self> {
        Some(match (algorithm, key) {
            (Algorithm::Rs256, PublicKey::Rsa { modulus, exponent }) => {
                Self::Rs256(Box::new(pkcs1v15::VerifyingKey::new(rsa_key(modulus, exponent)?)))
            }
            (Algorithm::Ps256, PublicKey::Rsa { modulus, exponent }) => {
                Self::Ps256(Box::new(pss::VerifyingKey::new(rsa_key(modulus, exponent)?)))
            }
            (Algorithm::Es256, PublicKey::P256 { point }) => {
                Self::Es256(Box::new(p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?))
            }
            (Algorithm::Es384, PublicKey::P384 { point }) => {
                Self::Es384(Box::new(p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?))
            }
            (Algorithm::Ed25519, PublicKey::Ed25519 { point }) => {
                Self::Ed25519(Box::new(ed25519_dalek::VerifyingKey::from_bytes(point).ok()?))
            }
            _ => return None,
        })
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rs256(key) => {
                pkcs1v15::Signature::try_from(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            Self::Ps256(key) => {
                pss::Signature::try_from(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            Self::Es256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::Es384(key) => p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::Ed25519(key) => {
                EdSignature::from_slice(signature).is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
            }
        }
    }
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Option<rsa::PublicKey> {
    rsa::PublicKey::new(BoxedUint::from_be_slice_vartime(modulus), BoxedUint::from_be_slice_vartime(exponent)).ok()
}
