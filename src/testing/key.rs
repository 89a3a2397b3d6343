use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaEncoding,
    },
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
    Rsa(Arc<PooledRsa>, &'static dyn RsaEncoding),
}

impl TestKey {
    /// A key for each algorithm; no other living `TestKey` has one of them. RS256, RS384 and RS512 have the same numbers under their own
    /// `kid` each, and so have PS256, PS384 and PS512: six pairs would take a second to make.
    pub(super) fn generate_all() -> Vec<Self> {
        let (pkcs1, pss) = (Arc::new(PooledRsa::take()), Arc::new(PooledRsa::take()));
        let pair_of = |algorithm: Algorithm| if algorithm.name().starts_with("RS") { &pkcs1 } else { &pss };
        Algorithm::ALL.map(|algorithm| Self::with_rsa(algorithm, || Arc::clone(pair_of(algorithm)))).into()
    }

    /// A key that no other living `TestKey` has.
    pub(super) fn generate(algorithm: Algorithm) -> Self {
        Self::with_rsa(algorithm, || Arc::new(PooledRsa::take()))
    }

    fn with_rsa(algorithm: Algorithm, pair: impl FnOnce() -> Arc<PooledRsa>) -> Self {
        let encoding: &'static dyn RsaEncoding = match algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_SHA256,
            Algorithm::Rs384 => &RSA_PKCS1_SHA384,
            Algorithm::Rs512 => &RSA_PKCS1_SHA512,
            Algorithm::Ps256 => &RSA_PSS_SHA256,
            Algorithm::Ps384 => &RSA_PSS_SHA384,
            Algorithm::Ps512 => &RSA_PSS_SHA512,
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::Ed25519 => {
                let signer = LocalSigner::generate(algorithm).expect("a key is generated");
                let public = signer.public_jwk();
                return Self { pair: Pair::Local(signer), public };
            }
        };
        let pair = pair();
        let public = PublicJwk::rsa(algorithm, pair.modulus(), &[1, 0, 1]);
        let key_id = format!("{algorithm}-{}", public.thumbprint());
        Self { pair: Pair::Rsa(pair, encoding), public: public.with_key_id(&key_id) }
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
    use crate::key::Jwk;

    use super::*;

    #[test]
    fn signatures_verify_under_their_own_key_alone_and_living_keys_differ() {
        let (one, two) = (TestKey::generate_all(), TestKey::generate_all());
        assert_eq!(one.len(), Algorithm::ALL.len());
        for (algorithm, (one, two)) in std::iter::zip(Algorithm::ALL, std::iter::zip(&one, &two)) {
            assert_eq!(one.public().algorithm(), algorithm);
            assert_ne!(one.public().thumbprint(), two.public().thumbprint());
            let key = Jwk::from_json(&serde_json::to_string(one.public().members()).unwrap()).unwrap();
            assert!(key.verify(algorithm, b"message", &one.sign(b"message")), "{algorithm}");
            assert!(!key.verify(algorithm, b"message", &two.sign(b"message")), "{algorithm}");
        }
    }
}
