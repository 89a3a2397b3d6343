//! Keys, and signatures that are good, and bad in every way that has been seen to pass somewhere.

use std::sync::LazyLock;

use ::aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair,
    },
};

use serde_json::{Value, json};

use super::{Algorithm, PublicKey, SMALL_ORDER_Y, without_leading_zeros};
use crate::token::test_tokens::{base64url, public_bytes, rsa_numbers, rsa_signature, sign, with};

/// A good key in JSON, without `kid` and `alg`.
pub(in crate::key) fn public_members(algorithm: Algorithm) -> Value {
    let bytes = public_bytes(algorithm);
    let ec = |curve: &str| {
        let (x, y) = bytes[1..].split_at(bytes.len() / 2);
        json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
    };
    match algorithm {
        Algorithm::Es256 => ec("P-256"),
        Algorithm::Es384 => ec("P-384"),
        Algorithm::Es512 => ec("P-521"),
        Algorithm::Ed25519 => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(bytes)}),
        _ => {
            let (modulus, exponent) = rsa_numbers();
            json!({"kty": "RSA", "n": base64url(modulus), "e": base64url(exponent)})
        }
    }
}

/// RFC 8037 appendix A.2.
pub(in crate::key) const ED25519: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

/// RFC 9449 §4.1.
pub(in crate::key) fn ec() -> Value {
    json!({
        "kty": "EC", "crv": "P-256", "kid": "ec",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    })
}

/// RFC 7638 §3.1.
pub(in crate::key) fn rsa() -> Value {
    json!({
        "kty": "RSA", "kid": "2011-04-29", "alg": "RS256", "e": "AQAB",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    })
}

/// What stands in key sets and is no key for verifying access tokens, by name.
pub(in crate::key) fn odd_keys() -> Vec<(&'static str, Value)> {
    let (p384, p521) = (public_members(Algorithm::Es384), public_members(Algorithm::Es512));
    let ed25519 = public_members(Algorithm::Ed25519);
    let off_curve = with(&ec(), json!({"y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDE"}));
    vec![
        ("not an object", json!(7)),
        ("array of the values of a key", json!(["EC", "ec"])),
        ("null", Value::Null),
        ("empty", json!({})),
        ("no kty", with(&ec(), json!({"kty": null}))),
        ("number as kty", with(&ec(), json!({"kty": 7}))),
        ("unknown kty", json!({"kty": "XYZ"})),
        ("ML-DSA", json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"})),
        (
            "ML-DSA as it is published",
            json!({"kty": "AKP", "alg": "ML-DSA-65", "use": "sig", "pub": base64url([7; 1952])}),
        ),
        ("ML-DSA without alg", json!({"kty": "AKP", "pub": base64url([7; 1312])})),
        ("private ML-DSA", json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "priv": base64url([7; 32])})),
        ("symmetric", json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"})),
        ("symmetric without its key", json!({"kty": "oct"})),
        ("HMAC on an RSA key", with(&rsa(), json!({"alg": "HS256"}))),
        ("private member", with(&ec(), json!({"d": "AAAA"}))),
        ("private RSA member", with(&rsa(), json!({"dp": 1}))),
        ("encryption key", with(&rsa(), json!({"use": "enc", "alg": "RSA-OAEP"}))),
        ("use of another kind", with(&rsa(), json!({"use": "SIG"}))),
        ("number as use", with(&rsa(), json!({"use": 1}))),
        ("no verify in key_ops", with(&rsa(), json!({"key_ops": ["sign", "encrypt"]}))),
        ("empty key_ops", with(&rsa(), json!({"key_ops": []}))),
        ("alg of another type", with(&ec(), json!({"alg": "RS256"}))),
        ("alg of another curve", with(&ec(), json!({"alg": "ES384"}))),
        ("alg in lower case", with(&ec(), json!({"alg": "es256"}))),
        ("number as alg", with(&ec(), json!({"alg": 256}))),
        ("P-256 called P-521", with(&ec(), json!({"crv": "P-521"}))),
        ("ES512 on P-384", with(&p384, json!({"alg": "ES512"}))),
        ("P-521 of 65 bytes", with(&p521, json!({"x": base64url([1; 65])}))),
        ("P-521 off its curve", with(&p521, json!({"x": base64url([0; 66])}))),
        ("secp256k1", with(&ec(), json!({"crv": "secp256k1"}))),
        ("P-256 called P-384", with(&ec(), json!({"crv": "P-384"}))),
        ("no crv", with(&ec(), json!({"crv": null}))),
        ("off the curve", off_curve),
        ("short x", with(&ec(), json!({"x": "AA"}))),
        ("padded x", with(&ec(), json!({"x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs="}))),
        ("missing y", with(&ec(), json!({"y": null}))),
        ("missing n", with(&rsa(), json!({"n": null}))),
        ("512-bit n", with(&rsa(), json!({"n": base64url([0xff; 64])}))),
        ("2047-bit n", with(&rsa(), json!({"n": base64url([&[0x7f], [0xff; 255].as_slice()].concat())}))),
        ("8200-bit n", with(&rsa(), json!({"n": base64url([0xff; 1025])}))),
        ("even n", with(&rsa(), json!({"n": base64url([0xfe; 256])}))),
        ("exponent 3", with(&rsa(), json!({"e": "Aw"}))),
        ("even exponent", with(&rsa(), json!({"e": base64url([1, 0, 2])}))),
        ("exponent of 33 bits", with(&rsa(), json!({"e": base64url([1, 0, 0, 0, 1])}))),
        ("empty exponent", with(&rsa(), json!({"e": ""}))),
        ("PS256 for encryption", with(&rsa(), json!({"alg": "RSA-OAEP-256"}))),
        ("EC at infinity", with(&ec(), json!({"x": base64url([0; 32]), "y": base64url([0; 32])}))),
        ("x not reduced", with(&ec(), json!({"x": base64url([0xff; 32])}))),
        ("ES512 on P-256", with(&ec(), json!({"alg": "ES512"}))),
        ("ES384 on P-521", with(&p521, json!({"alg": "ES384"}))),
        ("Ed448", json!({"kty": "OKP", "crv": "Ed448", "x": base64url([7; 57])})),
        ("Ed25519 off its curve", json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(OFF_ED25519)})),
        ("ES256 on Ed25519", with(&ed25519, json!({"alg": "ES256"}))),
        ("X25519", json!({"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})),
        ("small-order Ed25519", json!({"kty": "OKP", "crv": "Ed25519", "x": base64url([0; 32])})),
        ("number as kid", with(&ec(), json!({"kid": 7}))),
        ("long kid", with(&ec(), json!({"kid": "k".repeat(257)}))),
        ("empty kid", with(&ec(), json!({"kid": ""}))),
    ]
}

/// 32 bytes that are canonical and the y coordinate of no point: y = 2.
pub(super) const OFF_ED25519: [u8; 32] =
    [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) const MESSAGE: &[u8] = b"header.payload";

pub(super) fn key(algorithm: Algorithm) -> PublicKey {
    let bytes = public_bytes(algorithm);
    match algorithm {
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => PublicKey::ec(&bytes).unwrap(),
        Algorithm::Ed25519 => PublicKey::ed25519(&bytes).unwrap(),
        _ => {
            let (modulus, exponent) = rsa_numbers();
            PublicKey::rsa(&modulus, &exponent).unwrap()
        }
    }
}

/// Signatures over `MESSAGE` by name, and whether they verify.
pub(super) fn corpus(algorithm: Algorithm) -> Vec<(String, Vec<u8>, bool)> {
    let good = sign(algorithm, MESSAGE);
    let mut corpus = vec![
        ("good".to_owned(), good.clone(), true),
        ("over another message".to_owned(), sign(algorithm, b"header.payloae"), false),
        ("by another key".to_owned(), by_another_key(algorithm), false),
        ("empty".to_owned(), Vec::new(), false),
        ("one byte".to_owned(), vec![0], false),
        ("truncated".to_owned(), good[..good.len() - 1].to_vec(), false),
        ("too long".to_owned(), [good.as_slice(), &[0]].concat(), false),
        ("zero before".to_owned(), [&[0], good.as_slice()].concat(), false),
        ("twice".to_owned(), [good.as_slice(), &good].concat(), false),
        ("zeros".to_owned(), vec![0; good.len()], false),
        ("ones".to_owned(), vec![0xff; good.len()], false),
        ("a megabyte".to_owned(), vec![1; 1 << 20], false),
    ];
    for index in (0..good.len()).step_by(7) {
        let mut flipped = good.clone();
        flipped[index] ^= 1 << (index % 8);
        corpus.push((format!("bit flipped in byte {index}"), flipped, false));
    }
    let halves = good.split_at(good.len() / 2);
    match algorithm {
        Algorithm::Es256 => corpus.extend(ecdsa_corpus(halves, &P256_ORDER)),
        Algorithm::Es384 => corpus.extend(ecdsa_corpus(halves, &P384_ORDER)),
        Algorithm::Es512 => corpus.extend(ecdsa_corpus(halves, &P521_ORDER)),
        Algorithm::Ed25519 => {
            let (r, s) = halves;
            let unreduced = add_little_endian(s, &ED25519_ORDER);
            corpus.push(("s not reduced".to_owned(), [r, unreduced.as_slice()].concat(), false));
            for point in SMALL_ORDER_Y {
                corpus.push(("r of small order".to_owned(), [point.as_slice(), s].concat(), false));
                corpus.push(("r of small order, s = 0".to_owned(), [point.as_slice(), &[0; 32]].concat(), false));
            }
        }
        _ => {
            for other in key(algorithm).algorithms().iter().filter(|other| **other != algorithm) {
                corpus.push((format!("made with {other}"), sign(*other, MESSAGE), false));
            }
            // Congruent to the good one modulo n, and as long.
            let (modulus, _) = rsa_numbers();
            if let Some(unreduced) = add_big_endian(&good, &modulus) {
                corpus.push(("s not reduced".to_owned(), unreduced, false));
            }
            corpus.push(("n".to_owned(), modulus, false));
        }
    }
    corpus
}

fn by_another_key(algorithm: Algorithm) -> Vec<u8> {
    let random = SystemRandom::new();
    let ecdsa = |algorithm| EcdsaKeyPair::generate(algorithm).unwrap().sign(&random, MESSAGE).unwrap();
    match algorithm {
        Algorithm::Es256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING).as_ref().to_vec(),
        Algorithm::Es384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING).as_ref().to_vec(),
        Algorithm::Es512 => ecdsa(&ECDSA_P521_SHA512_FIXED_SIGNING).as_ref().to_vec(),
        Algorithm::Ed25519 => Ed25519KeyPair::generate().unwrap().sign(MESSAGE).as_ref().to_vec(),
        _ => rsa_signature(&OTHER_RSA, algorithm, MESSAGE),
    }
}

static OTHER_RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());

fn ecdsa_corpus((r, s): (&[u8], &[u8]), order: &[u8]) -> Vec<(String, Vec<u8>, bool)> {
    let zero = vec![0; r.len()];
    let pair = |name: &str, r: &[u8], s: &[u8], verifies| (name.to_owned(), [r, s].concat(), verifies);
    vec![
        pair("r = 0", &zero, s, false),
        pair("s = 0", r, &zero, false),
        pair("r = s = 0", &zero, &zero, false),
        pair("r = n", order, s, false),
        pair("s = n", r, order, false),
        pair("r = s = n", order, order, false),
        pair("swapped", s, r, false),
        // Malleable, which is why thumbprints leave the signature out.
        pair("n − s", r, &subtract_big_endian(order, s), true),
        ("DER".to_owned(), der(r, s), false),
    ]
}

fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let number = without_leading_zeros(number);
        let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
        [&[2, u8::try_from(sign.len() + number.len()).unwrap()], sign, number].concat()
    };
    let content = [integer(r), integer(s)].concat();
    let length = u8::try_from(content.len()).unwrap();
    let header = if length < 0x80 { vec![0x30, length] } else { vec![0x30, 0x81, length] };
    [header, content].concat()
}

fn subtract_big_endian(from: &[u8], number: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut difference: Vec<u8> = std::iter::zip(from.iter().rev(), number.iter().rev())
        .map(|(from, number)| {
            let digit = i16::from(*from) - i16::from(*number) - borrow;
            borrow = i16::from(digit < 0);
            u8::try_from(digit.rem_euclid(256)).unwrap()
        })
        .collect();
    difference.reverse();
    difference
}

fn add_little_endian(one: &[u8], other: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let digits = std::iter::zip(one, other).map(|(one, other)| {
        let digit = u16::from(*one) + u16::from(*other) + carry;
        carry = digit >> 8;
        digit.to_le_bytes()[0]
    });
    digits.collect()
}

/// `None` where the sum is longer.
fn add_big_endian(one: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let reversed = |number: &[u8]| number.iter().rev().copied().collect::<Vec<_>>();
    let sum = reversed(&add_little_endian(&reversed(one), &reversed(other)));
    // An overflow shows as a sum that is less than either.
    (sum.as_slice() > one).then_some(sum)
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

static P256_ORDER: LazyLock<Vec<u8>> =
    LazyLock::new(|| hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"));
static P384_ORDER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    hex("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973")
});
static P521_ORDER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let low = hex("fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409");
    [&[1], [0xff; 32].as_slice(), &low].concat()
});
static ED25519_ORDER: LazyLock<Vec<u8>> =
    LazyLock::new(|| hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010"));
