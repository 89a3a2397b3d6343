//! A key that is the same in every run, so that what a run finds can be run again.

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::key::{Jwk, JwkSet};
use serde_json::{Value, json};

static PAIR: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());

pub const KEY_ID: &str = "ours";

/// The public half as a JWK.
pub fn jwk() -> Value {
    let x = URL_SAFE_NO_PAD.encode(PAIR.public_key());
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": KEY_ID, "x": x })
}

pub static KEYS: LazyLock<JwkSet> =
    LazyLock::new(|| [Jwk::from_json(&jwk().to_string()).unwrap()].into_iter().collect());

/// `header.payload` and its signature, whatever the two hold.
pub fn sign(header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(PAIR.sign(input.as_bytes()));
    format!("{input}.{signature}")
}
