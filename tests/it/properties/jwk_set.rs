//! A key set document.

use portcullis::key::{Jwk, JwkSet};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::signer;

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// A set is bounded, is the same every time, and each of its keys is one by itself.
pub fn check(document: &[u8]) -> bool {
    let verdict = JwkSet::parse(document);
    assert_eq!(format!("{verdict:?}"), format!("{:?}", JwkSet::parse(document)), "two readings");
    let Ok(set) = verdict else { return false };

    assert!(std::str::from_utf8(document).is_ok(), "an accepted set is text");
    assert!((1..=64).contains(&set.len()), "{} keys", set.len());
    assert!(set.skipped().len() <= 257, "{} skipped", set.skipped().len());
    let Document { keys: entries } = serde_json::from_slice(document).expect("an accepted set is JSON");
    let skipped: Vec<usize> = set.skipped().iter().map(|skipped| skipped.index).collect();
    let used = entries.iter().take(256).enumerate().filter(|(index, _)| !skipped.contains(index));
    let alone: Vec<Jwk> =
        used.map(|(_, entry)| Jwk::from_json(entry.get()).expect("a key of a set is a key")).collect();
    assert_eq!(format!("{alone:?}"), format!("{:?}", set.iter().collect::<Vec<_>>()), "other keys than the document's");
    for key in set.iter() {
        assert!(key.algorithms().next().is_some(), "a key for nothing");
        assert!(key.kid().is_none_or(|kid| (1..=256).contains(&kid.len())));
        for algorithm in key.algorithms() {
            assert!(set.candidates(key.kid().map(|kid| &**kid), algorithm).count() <= 4);
            for length in [0, 64, 96, 132, 256] {
                assert!(!key.verify(algorithm, b"never signed", &vec![0; length]), "zeros verify under {key:?}");
            }
        }
    }
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../../vectors/signatures.json")).unwrap();
    let published: Vec<Value> = vectors.iter().map(|vector| vector["key"].clone()).collect();
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let odd = json!([
        { "kty": "oct", "kid": "symmetric", "k": "AA" },
        { "kty": "AKP", "kid": "post-quantum", "alg": "ML-DSA-44", "pub": "AA" },
        { "kty": "OKP", "crv": "X25519", "x": "AA" },
        with(signer::jwk(), "d", json!("AA")),
        with(signer::jwk(), "use", json!("enc")),
        with(signer::jwk(), "key_ops", json!(["deriveKey"])),
        with(signer::jwk(), "alg", json!("ES256")),
        with(signer::jwk(), "x", json!(URL_SAFE_ZERO_POINT)),
        signer::jwk(),
    ]);
    let sets = [
        json!({ "keys": [signer::jwk()] }),
        json!({ "keys": published }),
        json!({ "keys": odd }),
        json!({ "keys": [with(published[0].clone(), "alg", json!("PS256")), with(published[1].clone(), "use", json!("sig"))] }),
    ];
    sets.iter().map(|set| set.to_string().into_bytes()).collect()
}

/// A point of small order: y = 0.
const URL_SAFE_ZERO_POINT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
