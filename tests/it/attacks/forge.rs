//! What an attacker has: keys of their own, everybody's public keys in every encoding, and any bytes in any segment.

use std::sync::LazyLock;

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    },
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn decoded(text: &Value) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
}

/// A compact token of these bytes, signed by whatever this does with its signing input.
pub(super) fn compact(
    header: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let input = format!("{}.{}", base64url(header), base64url(payload));
    let signature = sign(input.as_bytes());
    format!("{input}.{}", base64url(signature))
}

/// One key of each kind, known to nobody.
pub(super) struct Keys {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

/// Made once: RSA keys take their time.
pub(super) static OWN: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    p521: EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
    ed25519: Ed25519KeyPair::generate().unwrap(),
});

impl Keys {
    /// The kinds of key, and what each can sign with.
    pub(super) const KINDS: [(&str, &[&str]); 5] = [
        ("rsa", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        ("p256", &["ES256"]),
        ("p384", &["ES384"]),
        ("p521", &["ES512"]),
        ("ed25519", &["Ed25519", "EdDSA"]),
    ];

    /// With the kind as `kid`, and without `alg`.
    pub(super) fn jwk(&self, kind: &str) -> Value {
        let ec = |curve: &str, pair: &EcdsaKeyPair| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "kid": kind, "crv": curve, "x": base64url(x), "y": base64url(y)})
        };
        match kind {
            "rsa" => json!({"kty": "RSA", "kid": kind, "n": base64url(self.modulus()), "e": "AQAB"}),
            "p256" => ec("P-256", &self.p256),
            "p384" => ec("P-384", &self.p384),
            "p521" => ec("P-521", &self.p521),
            _ => {
                json!({"kty": "OKP", "kid": kind, "crv": "Ed25519", "x": base64url(self.ed25519.public_key())})
            }
        }
    }

    /// RFC 8017 §A.1.1 for 2048 bits: headers and a zero byte (9), the modulus (256), the exponent.
    fn modulus(&self) -> &[u8] {
        &self.rsa.public_key().as_ref()[9..265]
    }

    pub(super) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        let ecdsa = |pair: &EcdsaKeyPair| pair.sign(&random, message).unwrap().as_ref().to_vec();
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ecdsa(&self.p256),
            "ES384" => ecdsa(&self.p384),
            "ES512" => ecdsa(&self.p521),
            _ => self.ed25519.sign(message).as_ref().to_vec(),
        }
    }
}

pub(super) fn hmac(algorithm: &str, secret: &[u8], message: &[u8]) -> Vec<u8> {
    let digest = match algorithm {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        _ => hmac::HMAC_SHA512,
    };
    hmac::sign(&hmac::Key::new(digest, secret), message).as_ref().to_vec()
}

/// A public key in every form that somebody may have stored it in, by name.
pub(super) fn encodings(jwk: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms =
        vec![("JWK", jwk.to_string().into_bytes()), ("JWK with line breaks", serde_json::to_vec_pretty(jwk).unwrap())];
    let spki = match jwk["kty"].as_str() {
        Some("RSA") => {
            let modulus = decoded(&jwk["n"]);
            let pkcs1 = der(0x30, &[integer(&modulus), integer(&decoded(&jwk["e"]))].concat());
            forms.push(("PKCS1 PEM", pem("RSA PUBLIC KEY", &pkcs1)));
            forms.push(("PKCS1 DER", pkcs1.clone()));
            forms.push(("modulus", modulus));
            forms.push(("modulus in base64url", jwk["n"].as_str().unwrap().into()));
            // rsaEncryption, NULL
            spki(&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0], &pkcs1)
        }
        Some("EC") => {
            let point = [&[4], decoded(&jwk["x"]).as_slice(), &decoded(&jwk["y"])].concat();
            let curve: &[u8] = match jwk["crv"].as_str() {
                Some("P-256") => &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
                Some("P-384") => &[6, 5, 0x2b, 0x81, 4, 0, 0x22],
                _ => &[6, 5, 0x2b, 0x81, 4, 0, 0x23],
            };
            forms.push(("point", point.clone()));
            spki(&[&[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1], curve].concat(), &point)
        }
        _ => {
            let point = decoded(&jwk["x"]);
            forms.push(("point", point.clone()));
            spki(&[6, 3, 0x2b, 0x65, 0x70], &point)
        }
    };
    forms.push(("SPKI PEM", pem("PUBLIC KEY", &spki)));
    forms.push(("SPKI DER", spki));
    forms
}

/// The same text as an editor, a download or a template may have left it.
pub(super) fn spellings(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let trimmed = text.trim_ascii_end();
    let crlf = String::from_utf8(trimmed.to_vec()).unwrap().replace('\n', "\r\n").into_bytes();
    let with = |before: &[u8], text: &[u8], after: &[u8]| [before, text, after].concat();
    vec![
        ("no line break at the end", trimmed.to_vec()),
        ("a line break at the end", with(b"", trimmed, b"\n")),
        ("two line breaks at the end", with(b"", trimmed, b"\n\n")),
        ("a space in front", with(b" ", trimmed, b"\n")),
        ("a line break in front", with(b"\n", trimmed, b"\n")),
        ("a tab in front", with(b"\t", trimmed, b"")),
        ("a BOM in front", with(b"\xef\xbb\xbf", trimmed, b"\n")),
        ("CR LF", with(b"", &crlf, b"\r\n")),
        ("CR LF and a BOM", with(b"\xef\xbb\xbf", &crlf, b"\r\n")),
        ("a space at the end", with(b"", trimmed, b" ")),
        ("a NUL at the end", with(b"", trimmed, b"\0")),
    ]
}

pub(super) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ 0..=127 => vec![u8::try_from(short).unwrap()],
        one @ 128..=255 => vec![0x81, u8::try_from(one).unwrap()],
        two => [&[0x82], &u16::try_from(two).unwrap().to_be_bytes()[..]].concat(),
    };
    [&[tag], length.as_slice(), content].concat()
}

pub(super) fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros.min(number.len() - 1)..];
    let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
    der(2, &[sign, number].concat())
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    der(0x30, &[der(0x30, algorithm), der(3, &[&[0], key].concat())].concat())
}

fn pem(label: &str, content: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(content);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into_bytes()
}
