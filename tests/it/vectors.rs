//! What the standards print as examples comes out as printed: `tests/vectors` holds them as data, with where each is from.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::key::{Algorithm, Jwk};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Signed {
    source: String,
    algorithm: String,
    key: Value,
    jws: String,
}

#[derive(Deserialize)]
struct Named {
    source: String,
    key: Value,
    thumbprint: String,
}

/// A JWS that no key and no algorithm of ours may accept.
#[derive(Deserialize)]
struct Refused {
    source: String,
    key: Option<Value>,
    jws: String,
}

fn signed() -> Vec<Signed> {
    serde_json::from_str(include_str!("../vectors/signatures.json")).unwrap()
}

impl Signed {
    fn key(&self) -> Jwk {
        Jwk::from_json(&self.key.to_string()).unwrap_or_else(|error| panic!("{}: {error}", self.source))
    }
}

/// The signing input and the signature.
fn parts(jws: &str) -> (&[u8], Vec<u8>) {
    let (message, signature) = jws.rsplit_once('.').unwrap();
    (message.as_bytes(), URL_SAFE_NO_PAD.decode(signature).unwrap())
}

fn header_algorithm(jws: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(jws.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["alg"].as_str().unwrap().to_owned()
}

#[test]
fn published_signatures_verify_under_their_key() {
    for vector in signed() {
        assert_eq!(header_algorithm(&vector.jws), vector.algorithm, "{}", vector.source);
        let algorithm = Algorithm::from_name(&vector.algorithm).unwrap();
        let (message, signature) = parts(&vector.jws);
        assert!(vector.key().verify(algorithm, message, &signature), "{}", vector.source);
    }
}

#[test]
fn published_signatures_verify_under_nothing_else() {
    let vectors = signed();
    for vector in &vectors {
        let algorithm = Algorithm::from_name(&vector.algorithm).unwrap();
        let (message, signature) = parts(&vector.jws);
        let key = vector.key();
        let holds = |algorithm, message: &[u8], signature: &[u8]| key.verify(algorithm, message, signature);

        for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
            assert!(!holds(other, message, &signature), "{} under {other}", vector.source);
        }
        for stranger in vectors.iter().filter(|stranger| stranger.source != vector.source) {
            assert!(
                !stranger.key().verify(algorithm, message, &signature),
                "{} under the key of {}",
                vector.source,
                stranger.source
            );
        }
        for bit in 0..8 {
            let mut altered = message.to_vec();
            altered[message.len() / 2] ^= 1 << bit;
            assert!(!holds(algorithm, &altered, &signature), "{}: bit {bit} of the message", vector.source);
            let mut altered = signature.clone();
            altered[signature.len() / 2] ^= 1 << bit;
            assert!(!holds(algorithm, message, &altered), "{}: bit {bit} of the signature", vector.source);
        }
        let longer = [signature.as_slice(), &[0]].concat();
        for (shape, odd) in [("empty", &[][..]), ("cut", &signature[1..]), ("long", &longer)] {
            assert!(!holds(algorithm, message, odd), "{}: {shape} signature", vector.source);
        }
    }
}

#[test]
fn published_thumbprints_come_out_as_published() {
    let vectors: Vec<Named> = serde_json::from_str(include_str!("../vectors/thumbprints.json")).unwrap();
    for vector in vectors {
        let key = Jwk::from_json(&vector.key.to_string()).unwrap_or_else(|error| panic!("{}: {error}", vector.source));
        assert_eq!(key.thumbprint().as_str(), vector.thumbprint, "{}", vector.source);
    }
}

#[test]
fn a_thumbprint_covers_the_required_members_alone() {
    for vector in signed() {
        let mut key = vector.key.clone();
        key["kid"] = "another name".into();
        key["use"] = "sig".into();
        let renamed = Jwk::from_json(&key.to_string()).unwrap();
        assert_eq!(renamed.thumbprint(), vector.key().thumbprint(), "{}", vector.source);
    }
}

#[test]
fn published_examples_of_shared_secrets_and_of_no_signature_are_not_expressible() {
    let vectors: Vec<Refused> = serde_json::from_str(include_str!("../vectors/refused.json")).unwrap();
    for vector in vectors {
        assert_eq!(Algorithm::from_name(&header_algorithm(&vector.jws)), None, "{}", vector.source);
        if let Some(key) = vector.key {
            assert!(Jwk::from_json(&key.to_string()).is_err(), "{}", vector.source);
        }
    }
}
