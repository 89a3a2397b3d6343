//! Tokens for the unit tests: any header, any claims, signed for real.

use std::sync::LazyLock;

use ::jsonwebtoken::DecodingKey;
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::AccessToken;
use crate::{
    key::{Algorithm, Jwk, JwkSet, jsonwebtoken::jwk},
    time::UnixTime,
};

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn now() -> UnixTime {
    UnixTime::from_secs(NOW)
}

pub(crate) static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
pub(crate) static P256: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
pub(crate) static P384: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap());
pub(crate) static P521: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap());
pub(crate) static ED25519: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn sign(algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    let ecdsa = |pair: &EcdsaKeyPair| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    match algorithm {
        Algorithm::Es256 => ecdsa(&P256),
        Algorithm::Es384 => ecdsa(&P384),
        Algorithm::Es512 => ecdsa(&P521),
        Algorithm::Ed25519 => ED25519.sign(message).as_ref().to_vec(),
        _ => rsa_signature(&RSA, algorithm, message),
    }
}

pub(crate) fn rsa_signature(pair: &RsaKeyPair, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    let encoding: &'static dyn RsaEncoding = match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_SHA512,
        Algorithm::Ps256 => &RSA_PSS_SHA256,
        Algorithm::Ps384 => &RSA_PSS_SHA384,
        Algorithm::Ps512 => &RSA_PSS_SHA512,
        other => panic!("{other} is not for RSA"),
    };
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// The bytes of the public key: PKCS #1 for RSA, else the point.
pub(crate) fn public_bytes(algorithm: Algorithm) -> Vec<u8> {
    match algorithm {
        Algorithm::Es256 => P256.public_key().as_ref().to_vec(),
        Algorithm::Es384 => P384.public_key().as_ref().to_vec(),
        Algorithm::Es512 => P521.public_key().as_ref().to_vec(),
        Algorithm::Ed25519 => ED25519.public_key().as_ref().to_vec(),
        _ => RSA.public_key().as_ref().to_vec(),
    }
}

/// Modulus and exponent of the RSA key.
pub(crate) fn rsa_numbers() -> (Vec<u8>, Vec<u8>) {
    crate::key::jsonwebtoken::rsa_public_key(RSA.public_key().as_ref())
        .map(|(modulus, exponent)| (modulus.to_vec(), exponent.to_vec()))
        .unwrap()
}

/// The public key, with the algorithm's name as `kid`.
pub(crate) fn public_key(algorithm: Algorithm) -> Jwk {
    let bytes = public_bytes(algorithm);
    let imported = match algorithm {
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => DecodingKey::from_ec_der(&bytes),
        Algorithm::Ed25519 => DecodingKey::from_ed_der(&bytes),
        _ => DecodingKey::from_rsa_der(&bytes),
    };
    jwk(&imported, algorithm, Some(algorithm.name())).unwrap()
}

/// One key for each algorithm.
pub(crate) fn public_keys() -> JwkSet {
    Algorithm::ALL.into_iter().map(public_key).collect()
}

/// A header that is in order.
pub(crate) fn header(algorithm: Algorithm) -> Value {
    json!({"alg": algorithm.name(), "kid": algorithm.name(), "typ": "at+jwt"})
}

/// `header.payload` signed, whatever the two hold.
pub(crate) fn seal(algorithm: Algorithm, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> AccessToken {
    let input = format!("{}.{}", base64url(header), base64url(payload));
    let signature = base64url(sign(algorithm, input.as_bytes()));
    AccessToken::new(format!("{input}.{signature}")).unwrap()
}

/// A good header around these claims.
pub(crate) fn token(claims: &Value) -> AccessToken {
    seal(Algorithm::Ed25519, header(Algorithm::Ed25519).to_string(), claims.to_string())
}

/// `base` with these members set, and those that are null taken away.
pub(crate) fn with(base: &Value, changes: Value) -> Value {
    let mut changed = base.clone();
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        match value {
            Value::Null => drop(changed.as_object_mut().unwrap().remove(&name)),
            value => changed[name] = value,
        }
    }
    changed
}
