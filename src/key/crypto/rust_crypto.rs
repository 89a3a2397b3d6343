use ed25519_dalek::Signature as EdSignature;
use hmac::{Hmac, KeyInit as _, Mac as _};
use p256::ecdsa::signature::Verifier as _;
use rsa::{BoxedUint, Pkcs1v15Sign, pss::Pss, traits::SignatureScheme as _};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::{Algorithm, PublicKey};

/// A key that the crate of its type has parsed. Public-key operations only: RUSTSEC-2023-0071 concerns private ones.
pub(super) enum PreparedKey {
    Rsa(Box<rsa::PublicKey>),
    Es256(Box<p256::ecdsa::VerifyingKey>),
    Es384(Box<p384::ecdsa::VerifyingKey>),
    Es512(Box<p521::ecdsa::VerifyingKey>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

impl PreparedKey {
    pub(super) fn new(_first: Algorithm, key: &PublicKey) -> Option<Self> {
        Some(match key {
            PublicKey::Rsa { modulus, exponent } => {
                let number = |bytes| BoxedUint::from_be_slice_vartime(bytes);
                Self::Rsa(Box::new(rsa::PublicKey::new(number(modulus), number(exponent)).ok()?))
            }
            PublicKey::P256 { point } => Self::Es256(Box::new(p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?)),
            PublicKey::P384 { point } => Self::Es384(Box::new(p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?)),
            PublicKey::P521 { point } => Self::Es512(Box::new(p521::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?)),
            PublicKey::Ed25519 { point } => {
                Self::Ed25519(Box::new(ed25519_dalek::VerifyingKey::from_bytes(point).ok()?))
            }
        })
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (Self::Rsa(key), _) => verify_rsa(key, algorithm, message, signature),
            (Self::Es256(key), Algorithm::Es256) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Self::Es384(key), Algorithm::Es384) => p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Self::Es512(key), Algorithm::Es512) => p521::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Self::Ed25519(key), Algorithm::Ed25519) => {
                EdSignature::from_slice(signature).is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
            }
            _ => false,
        }
    }
}

fn verify_rsa(key: &rsa::PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    let verified = match algorithm {
        Algorithm::Rs256 => Pkcs1v15Sign::new::<Sha256>().verify(key, &Sha256::digest(message), signature),
        Algorithm::Rs384 => Pkcs1v15Sign::new::<Sha384>().verify(key, &Sha384::digest(message), signature),
        Algorithm::Rs512 => Pkcs1v15Sign::new::<Sha512>().verify(key, &Sha512::digest(message), signature),
        Algorithm::Ps256 => Pss::<Sha256>::new_with_salt(32).verify(key, &Sha256::digest(message), signature),
        Algorithm::Ps384 => Pss::<Sha384>::new_with_salt(48).verify(key, &Sha384::digest(message), signature),
        Algorithm::Ps512 => Pss::<Sha512>::new_with_salt(64).verify(key, &Sha512::digest(message), signature),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::Ed25519 => return false,
    };
    verified.is_ok()
}

/// HMAC with SHA-256. The state is wiped when it is dropped.
pub(super) struct Mac(Hmac<Sha256>);

impl Mac {
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// In constant time.
    pub(super) fn verify(&self, message: &[u8], tag: &[u8]) -> bool {
        self.0.clone().chain_update(message).verify_slice(tag).is_ok()
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.clone().chain_update(message).finalize().into_bytes().to_vec()
    }
}
