//! Public-key operations, behind one type: a key is prepared once, when its set is loaded, for exactly one algorithm.
//!
//! What the two backends judge differently is settled here, so that switching one for the other changes no verdict.

#[cfg(feature = "aws-lc-rs")]
mod aws_lc_rs;
// With both features on, this one only stands beside the other in the test that compares them.
#[cfg(all(feature = "rust-crypto", any(test, not(feature = "aws-lc-rs"))))]
mod rust_crypto;
#[cfg(not(any(feature = "aws-lc-rs", feature = "rust-crypto")))]
mod unavailable;

#[cfg(feature = "aws-lc-rs")]
use self::aws_lc_rs::PreparedKey;
#[cfg(all(feature = "rust-crypto", not(feature = "aws-lc-rs")))]
use self::rust_crypto::PreparedKey;
#[cfg(not(any(feature = "aws-lc-rs", feature = "rust-crypto")))]
use self::unavailable::PreparedKey;
use super::Algorithm;

/// False when neither crypto feature is on: no key can be prepared then, and nothing verifies.
pub(crate) const IS_AVAILABLE: bool = cfg!(any(feature = "aws-lc-rs", feature = "rust-crypto"));

/// The numbers of a public key, in the form that the backends take. Its constructors check sizes and ranges; whether a point is on
/// its curve is for [`VerifyingKey::new`].
#[derive(Clone, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// Big endian, without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// Uncompressed SEC 1: `04 ‖ x ‖ y`.
    P256 { point: [u8; 65] },
    /// Uncompressed SEC 1: `04 ‖ x ‖ y`.
    P384 { point: [u8; 97] },
    /// Compressed, [RFC 8032 §5.1.2](https://www.rfc-editor.org/rfc/rfc8032#section-5.1.2).
    Ed25519 { point: [u8; 32] },
}

impl PublicKey {
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, &'static str> {
        let (modulus, exponent) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let bits = (modulus.len() * 8).saturating_sub(modulus.first().map_or(0, |byte| byte.leading_zeros() as usize));
        if !(2048..=8192).contains(&bits) {
            return Err("the RSA modulus is not of 2048 to 8192 bits");
        }
        if modulus.last().is_none_or(|byte| byte % 2 == 0) {
            return Err("the RSA modulus is even");
        }
        // Small exponents invite forgery where padding is checked sloppily somewhere; huge ones make every verification slow.
        let value = exponent.iter().try_fold(0_u32, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()));
        match value {
            Some(65_537..) if exponent.last().is_some_and(|byte| byte % 2 == 1) => {
                Ok(Self::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
            }
            _ => Err("the RSA exponent is not an odd number from 65537 up to 32 bits"),
        }
    }

    /// From an uncompressed point; its length tells the curve.
    pub(super) fn ec(point: &[u8]) -> Result<Self, &'static str> {
        const ODD: &str = "the point is not an uncompressed point of P-256 or P-384";
        if point.first() != Some(&4) {
            return Err(ODD);
        }
        if let Ok(point) = point.try_into() {
            return Ok(Self::P256 { point });
        }
        point.try_into().map(|point| Self::P384 { point }).map_err(|_| ODD)
    }

    pub(super) fn ed25519(point: &[u8]) -> Result<Self, &'static str> {
        let point = point.try_into().map_err(|_| "an Ed25519 key is not of 32 bytes")?;
        if is_weak_ed25519_encoding(&point) {
            return Err("the Ed25519 point is of small order or not canonical");
        }
        Ok(Self::Ed25519 { point })
    }

    /// The algorithms that fit the key's type and curve.
    pub(super) const fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Self::Rsa { .. } => &[Algorithm::Rs256, Algorithm::Ps256],
            Self::P256 { .. } => &[Algorithm::Es256],
            Self::P384 { .. } => &[Algorithm::Es384],
            Self::Ed25519 { .. } => &[Algorithm::Ed25519],
        }
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A public key, parsed once and bound to one algorithm.
pub(super) struct VerifyingKey {
    algorithm: Algorithm,
    key: PreparedKey,
}

impl VerifyingKey {
    /// `None` when the key does not fit the algorithm, or its point is not on the curve.
    pub(super) fn new(algorithm: Algorithm, key: &PublicKey) -> Option<Self> {
        Some(Self { algorithm, key: PreparedKey::new(algorithm, key)? })
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        is_well_formed(self.algorithm, signature) && self.key.verify(message, signature)
    }
}

/// Whether the signature has the one form that its algorithm allows.
///
/// [RFC 7518 §3.4](https://www.rfc-editor.org/rfc/rfc7518#section-3.4): ECDSA signatures are `R ‖ S` of fixed width, never DER.
/// A small-order `R` can be made by the key's owner alone, but the backends disagree on it.
fn is_well_formed(algorithm: Algorithm, signature: &[u8]) -> bool {
    match algorithm {
        Algorithm::Rs256 | Algorithm::Ps256 => (256..=1024).contains(&signature.len()),
        Algorithm::Es256 => signature.len() == 64,
        Algorithm::Es384 => signature.len() == 96,
        Algorithm::Ed25519 => {
            signature.len() == 64 && signature.first_chunk::<32>().is_some_and(|point| !is_weak_ed25519_encoding(point))
        }
    }
}

/// True for a point of small order (under such a key one signature fits nearly every message) and for every encoding that is not
/// canonical ([RFC 8032 §5.1.3](https://www.rfc-editor.org/rfc/rfc8032#section-5.1.3)). aws-lc-rs accepts some of both.
fn is_weak_ed25519_encoding(encoded: &[u8; 32]) -> bool {
    let mut y = *encoded;
    if let Some(last) = y.last_mut() {
        // The sign of x: both signs of a small-order point are of small order.
        *last &= 0x7f;
    }
    let is_at_least_p = matches!(y, [0xed..=0xff, middle @ .., 0x7f] if middle.iter().all(|byte| *byte == 0xff));
    is_at_least_p || SMALL_ORDER_Y.contains(&y)
}

/// The y coordinates of the eight points whose order divides the cofactor: 0, 1, −1, and the two of order eight. Little endian.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    [0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

#[cfg(test)]
mod tests {
    use ::aws_lc_rs::{
        rand::SystemRandom,
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
            RSA_PKCS1_SHA512,
        },
    };

    use super::*;
    use crate::token::test_tokens::{RSA, public_bytes, rsa_numbers, sign};

    const MESSAGE: &[u8] = b"header.payload";

    fn key(algorithm: Algorithm) -> PublicKey {
        let bytes = public_bytes(algorithm);
        match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let (modulus, exponent) = rsa_numbers();
                PublicKey::rsa(&modulus, &exponent).unwrap()
            }
            Algorithm::Es256 | Algorithm::Es384 => PublicKey::ec(&bytes).unwrap(),
            Algorithm::Ed25519 => PublicKey::ed25519(&bytes).unwrap(),
        }
    }

    /// Signatures over `MESSAGE` by name, and whether they verify.
    fn corpus(algorithm: Algorithm) -> Vec<(String, Vec<u8>, bool)> {
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
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let other = if algorithm == Algorithm::Rs256 { Algorithm::Ps256 } else { Algorithm::Rs256 };
                corpus.push(("by the other padding".to_owned(), sign(other, MESSAGE), false));
            }
            Algorithm::Es256 => corpus.extend(ecdsa_corpus(halves, &P256_ORDER)),
            Algorithm::Es384 => corpus.extend(ecdsa_corpus(halves, &P384_ORDER)),
            Algorithm::Ed25519 => {
                let (r, s) = halves;
                let unreduced = add_little_endian(s, &ED25519_ORDER);
                corpus.push(("s not reduced".to_owned(), [r, unreduced.as_slice()].concat(), false));
                for point in SMALL_ORDER_Y {
                    corpus.push(("r of small order".to_owned(), [point.as_slice(), s].concat(), false));
                    corpus.push(("r of small order, s = 0".to_owned(), [point.as_slice(), &[0; 32]].concat(), false));
                }
            }
        }
        corpus
    }

    fn by_another_key(algorithm: Algorithm) -> Vec<u8> {
        let random = SystemRandom::new();
        let ecdsa = |algorithm| EcdsaKeyPair::generate(algorithm).unwrap().sign(&random, MESSAGE).unwrap();
        match algorithm {
            // Another hash does as well as another key, and is made faster.
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let mut signature = vec![0; RSA.public_modulus_len()];
                RSA.sign(&RSA_PKCS1_SHA512, &random, MESSAGE, &mut signature).unwrap();
                signature
            }
            Algorithm::Es256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING).as_ref().to_vec(),
            Algorithm::Es384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING).as_ref().to_vec(),
            Algorithm::Ed25519 => Ed25519KeyPair::generate().unwrap().sign(MESSAGE).as_ref().to_vec(),
        }
    }

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
        [&[0x30, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
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

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    static P256_ORDER: std::sync::LazyLock<Vec<u8>> =
        std::sync::LazyLock::new(|| hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"));
    static P384_ORDER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        hex("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973")
    });
    static ED25519_ORDER: std::sync::LazyLock<Vec<u8>> =
        std::sync::LazyLock::new(|| hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010"));

    #[test]
    fn only_the_one_well_formed_signature_of_the_key_verifies() {
        for algorithm in Algorithm::ALL {
            let verifying = VerifyingKey::new(algorithm, &key(algorithm)).unwrap();
            for (name, signature, verifies) in corpus(algorithm) {
                assert_eq!(verifying.verify(MESSAGE, &signature), verifies, "{algorithm}: {name}");
            }
        }
    }

    #[cfg(all(feature = "aws-lc-rs", feature = "rust-crypto"))]
    #[test]
    fn both_backends_give_the_same_verdicts() {
        for algorithm in Algorithm::ALL {
            let key = key(algorithm);
            let aws_lc = super::aws_lc_rs::PreparedKey::new(algorithm, &key).unwrap();
            let rust_crypto = super::rust_crypto::PreparedKey::new(algorithm, &key).unwrap();
            for (name, signature, verifies) in corpus(algorithm) {
                let is_well_formed = is_well_formed(algorithm, &signature);
                assert_eq!(
                    is_well_formed && aws_lc.verify(MESSAGE, &signature),
                    verifies,
                    "aws-lc-rs: {algorithm}: {name}"
                );
                assert_eq!(
                    is_well_formed && rust_crypto.verify(MESSAGE, &signature),
                    verifies,
                    "rust-crypto: {algorithm}: {name}"
                );
            }
            for other in Algorithm::ALL.into_iter().filter(|other| !key.algorithms().contains(other)) {
                assert!(super::aws_lc_rs::PreparedKey::new(other, &key).is_none());
                assert!(super::rust_crypto::PreparedKey::new(other, &key).is_none());
            }
        }
    }

    #[test]
    fn a_point_off_its_curve_is_no_key() {
        for algorithm in [Algorithm::Es256, Algorithm::Es384] {
            let mut point = public_bytes(algorithm);
            *point.last_mut().unwrap() ^= 1;
            let off_curve = PublicKey::ec(&point).unwrap();
            assert!(VerifyingKey::new(algorithm, &off_curve).is_none(), "{algorithm}");
            let width = point.len() - 1;
            let origin = PublicKey::ec(&[&[4], vec![0; width].as_slice()].concat()).unwrap();
            assert!(VerifyingKey::new(algorithm, &origin).is_none(), "{algorithm}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_no_key() {
        let (modulus, exponent) = rsa_numbers();
        let even = [&modulus[..modulus.len() - 1], &[modulus[modulus.len() - 1] & 0xfe]].concat();
        let table: [(&str, Vec<u8>, Vec<u8>); 10] = [
            ("no modulus", vec![], exponent.clone()),
            ("1024 bits", [&[0x80], [1; 127].as_slice()].concat(), exponent.clone()),
            ("2047 bits", [&[0x7f], [1; 255].as_slice()].concat(), exponent.clone()),
            ("8193 bits", [&[1], [1; 1024].as_slice()].concat(), exponent.clone()),
            ("even modulus", even, exponent.clone()),
            ("no exponent", modulus.clone(), vec![]),
            ("exponent 1", modulus.clone(), vec![1]),
            ("exponent 3", modulus.clone(), vec![3]),
            ("even exponent", modulus.clone(), vec![1, 0, 2]),
            ("exponent of 33 bits", modulus.clone(), vec![1, 0, 0, 0, 1]),
        ];
        for (name, modulus, exponent) in table {
            assert!(PublicKey::rsa(&modulus, &exponent).is_err(), "{name}");
        }
        let padded = PublicKey::rsa(&[&[0, 0], modulus.as_slice()].concat(), &[0, 1, 0, 1]);
        assert!(padded == PublicKey::rsa(&modulus, &exponent), "leading zeros change nothing");
        for odd in [vec![], vec![4], vec![4; 64], vec![4; 66], vec![2; 33], [&[6], [1; 64].as_slice()].concat()] {
            assert!(PublicKey::ec(&odd).is_err(), "{} bytes", odd.len());
        }
    }

    #[cfg(feature = "rust-crypto")]
    #[test]
    fn the_list_of_weak_points_agrees_with_the_curve() {
        for mut point in SMALL_ORDER_Y {
            for sign in [0, 0x80] {
                point[31] = point[31] & 0x7f | sign;
                assert!(ed25519_dalek::VerifyingKey::from_bytes(&point).unwrap().is_weak(), "{point:x?}");
            }
        }
    }

    #[test]
    fn weak_ed25519_keys_are_no_keys() {
        for y in SMALL_ORDER_Y {
            for sign in [0, 0x80] {
                let mut point = y;
                point[31] |= sign;
                assert!(PublicKey::ed25519(&point).is_err(), "small order {point:x?}");
            }
        }
        for low in 0xed..=0xff_u8 {
            for high in [0x7f, 0xff] {
                let mut point = [0xff; 32];
                (point[0], point[31]) = (low, high);
                assert!(PublicKey::ed25519(&point).is_err(), "not canonical {point:x?}");
            }
        }
        assert!(PublicKey::ed25519(&[9; 31]).is_err() && PublicKey::ed25519(&[9; 33]).is_err());
        assert!(PublicKey::ed25519(&public_bytes(Algorithm::Ed25519)).is_ok());
    }
}
