use ::aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
};

use super::{Algorithm, PublicKey};

/// A key that aws-lc has parsed. The algorithm is part of it.
pub(super) struct PreparedKey(ParsedPublicKey);

impl PreparedKey {
    pub(super) fn new(algorithm: Algorithm, key: &PublicKey) -> Option<Self> {
        let parsed = match (algorithm, key) {
            (Algorithm::Rs256, PublicKey::Rsa { modulus, exponent }) => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            }
            (Algorithm::Ps256, PublicKey::Rsa { modulus, exponent }) => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.to_parsed_public_key(&RSA_PSS_2048_8192_SHA256)
            }
            (Algorithm::Es256, PublicKey::P256 { point }) => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point),
            (Algorithm::Es384, PublicKey::P384 { point }) => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point),
            (Algorithm::Ed25519, PublicKey::Ed25519 { point }) => ParsedPublicKey::new(&ED25519, point),
            _ => return None,
        };
        parsed.ok().map(Self)
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify_sig(message, signature).is_ok()
    }
}
