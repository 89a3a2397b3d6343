//! A compact JWS, as text.

use std::{collections::HashSet, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{
    key::{Algorithm, Jwk, JwkSet},
    token::jws,
};
use serde_json::Value;

use super::signer;

/// Nothing verifies but what was signed, byte for byte, and a verified payload is the one that was signed.
pub fn check(compact: &[u8]) -> bool {
    let verdict = jws::verify(compact, &KEYS, &Algorithm::ALL);
    let again = jws::verify(compact, &KEYS, &Algorithm::ALL);
    assert_eq!(verdict.as_ref().err(), again.as_ref().err(), "two verdicts");
    assert!(jws::verify(compact, &KEYS, &[]).is_err(), "verified with no algorithm allowed");
    let Ok(verified) = verdict else { return false };

    let text = std::str::from_utf8(compact).expect("a verified JWS is text");
    let (input, _) = text.rsplit_once('.').expect("a verified JWS has segments");
    assert!(MADE.contains(input), "nobody signed this");
    let (_, payload) = input.split_once('.').expect("a verified JWS has three segments");
    assert_eq!(URL_SAFE_NO_PAD.decode(payload).as_deref(), Ok(verified.payload()), "another payload");
    let others: Vec<_> = Algorithm::ALL.into_iter().filter(|other| *other != verified.algorithm()).collect();
    assert!(jws::verify(compact, &KEYS, &others).is_err(), "verified under another algorithm");
    let strangers: JwkSet =
        KEYS.iter().filter(|key| key.thumbprint() != verified.key().thumbprint()).cloned().collect();
    assert!(jws::verify(compact, &strangers, &Algorithm::ALL).is_err(), "verified under another key");
    true
}

/// Everything that the keys ever signed.
pub fn seeds() -> Vec<Vec<u8>> {
    let claims = br#"{"iss":"https://login.example/","sub":"u1","aud":"https://api.example","exp":1800000600}"#;
    let own = [
        signer::sign(br#"{"alg":"EdDSA","kid":"ours","typ":"at+jwt"}"#, claims),
        signer::sign(br#"{"alg":"Ed25519"}"#, claims),
        signer::sign(br#"{"alg":"EdDSA","typ":"secevent+jwt"}"#, br#"{"events":{}}"#),
        signer::sign(br#"{"alg":"EdDSA"}"#, b""),
        signer::sign(br#"{"alg":"EdDSA","jwk":{"kty":"oct","k":"AA"},"jku":"https://evil.example"}"#, b"{}"),
    ];
    let published = published().into_iter().map(|vector| text(&vector, "jws"));
    own.into_iter().chain(published).map(String::into_bytes).collect()
}

/// What the standards print: `tests/vectors` says where each is from.
fn published() -> Vec<Value> {
    serde_json::from_str(include_str!("../../vectors/signatures.json")).unwrap()
}

fn text(vector: &Value, name: &str) -> String {
    vector[name].as_str().unwrap().to_owned()
}

/// One key for each algorithm that something printed is signed with, and our own.
static KEYS: LazyLock<JwkSet> = LazyLock::new(|| {
    let published = published().into_iter().map(|vector| Jwk::from_json(&vector["key"].to_string()).unwrap());
    published.chain(signer::KEYS.iter().cloned()).collect()
});

static MADE: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let inputs = seeds().into_iter().map(|compact| String::from_utf8(compact).unwrap());
    inputs.map(|compact| compact.rsplit_once('.').unwrap().0.to_owned()).collect()
});
