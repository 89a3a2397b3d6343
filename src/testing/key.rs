use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding},
};

use crate::{
    key::Algorithm,
    mint::{LocalSigner, PublicJwk, Signer as _},
};

/// A signing key of a test issuer, of any algorithm.
pub(super) struct TestKey {
    pair: Pair,
    public: PublicJwk,
}

enum Pair {
    Local(LocalSigner),
    Rsa(PooledRsa, &'static dyn RsaEncoding),
}

impl TestKey {
    /// A key that no other living `TestKey` has.
    pub(super) fn generate(algorithm: Algorithm) -> Self {
        let encoding: &'static dyn RsaEncoding = match algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_SHA256,
            Algorithm::Ps256 => &RSA_PSS_SHA256,
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Ed25519 => {
                let signer = LocalSigner::generate(algorithm).expect("a key is generated");
                let public = signer.public_jwk();
                return Self { pair: Pair::Local(signer), public };
            }
        };
        let pair = PooledRsa::take();
        let public = PublicJwk::rsa(algorithm, pair.modulus(), &[1, 0, 1]);
        Self { pair: Pair::Rsa(pair, encoding), public }
    }

    pub(super) fn public(&self) -> &PublicJwk {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Local(signer) => signer.sign_bytes(message).expect("aws-lc signs").as_bytes().to_vec(),
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.get().public_modulus_len()];
                pair.get().sign(*encoding, &SystemRandom::new(), message, &mut signature).expect("aws-lc signs");
                signature
            }
        }
    }
}

impl fmt::Debug for TestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.public.fmt(f)
    }
}

/// An RSA-2048 key pair. Making one takes a tenth of a second and more, so those of dropped issuers serve again; no two issuers
/// that live at the same time share one, or forgeries would verify.
struct PooledRsa(Option<RsaKeyPair>);

static POOL: Mutex<Vec<RsaKeyPair>> = Mutex::new(Vec::new());

impl PooledRsa {
    fn take() -> Self {
        let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(Some(pooled.unwrap_or_else(|| RsaKeyPair::generate(KeySize::Rsa2048).expect("a key is generated"))))
    }

    fn get(&self) -> &RsaKeyPair {
        self.0.as_ref().expect("taken only by drop")
    }

    fn modulus(&self) -> &[u8] {
        // RFC 8017 §A.1.1 in DER, for 2048 bits: sequence and integer headers and a zero byte (9), the modulus (256), the
        // exponent 65537 as an integer (5).
        let der = self.get().public_key().as_ref();
        let modulus = der.get(9..265).expect("a modulus of 2048 bits");
        assert_eq!(der.get(265..), Some(&[2, 3, 1, 0, 1][..]), "the exponent is 65537");
        modulus
    }
}

impl Drop for PooledRsa {
    fn drop(&mut self) {
        if let (Some(pair), Ok(mut pool)) = (self.0.take(), POOL.lock()) {
            pool.push(pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents};

    use super::*;

    #[test]
    fn rsa_signatures_verify_and_living_keys_differ() {
        for (algorithm, verification) in
            [(Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256), (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256)]
        {
            let (one, two) = (TestKey::generate(algorithm), TestKey::generate(algorithm));
            assert_ne!(one.public().thumbprint(), two.public().thumbprint());
            let Pair::Rsa(pair, _) = &one.pair else { panic!("{algorithm} is RSA") };
            let key = RsaPublicKeyComponents { n: pair.modulus(), e: &[1, 0, 1][..] };
            assert!(key.verify(verification, b"message", &one.sign(b"message")).is_ok(), "{algorithm}");
            assert!(key.verify(verification, b"message", &two.sign(b"message")).is_err(), "{algorithm}");
        }
    }
}
