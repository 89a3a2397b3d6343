//! Public-key operations, behind one type: a key is checked and prepared once, when its set is loaded, for the algorithms that it may
//! be used with. Beside it, and never mixed with it, the HMAC of a shared secret.
//!
//! What the two backends judge differently is settled here, so that switching one for the other changes no verdict.

#[cfg(feature = "aws-lc-rs")]
mod aws_lc_rs;
#[cfg(test)]
pub(super) mod corpus;
#[cfg(test)]
#[cfg(all(feature = "aws-lc-rs", feature = "rust-crypto"))]
mod differential;
// With both features on, this one only stands beside the other in the test that compares them.
#[cfg(all(feature = "rust-crypto", any(test, not(feature = "aws-lc-rs"))))]
mod rust_crypto;
#[cfg(not(any(feature = "aws-lc-rs", feature = "rust-crypto")))]
mod unavailable;

#[cfg(feature = "aws-lc-rs")]
use self::aws_lc_rs::{Mac, PreparedKey};
#[cfg(all(feature = "rust-crypto", not(feature = "aws-lc-rs")))]
use self::rust_crypto::{Mac, PreparedKey};
#[cfg(not(any(feature = "aws-lc-rs", feature = "rust-crypto")))]
use self::unavailable::{Mac, PreparedKey};
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
    /// Uncompressed SEC 1: `04 ‖ x ‖ y`.
    P521 { point: [u8; 133] },
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
        const ODD: &str = "the point is not an uncompressed point of P-256, P-384 or P-521";
        if point.first() != Some(&4) {
            return Err(ODD);
        }
        if let Ok(point) = point.try_into() {
            return Ok(Self::P256 { point });
        }
        if let Ok(point) = point.try_into() {
            return Ok(Self::P384 { point });
        }
        point.try_into().map(|point| Self::P521 { point }).map_err(|_| ODD)
    }

    pub(super) fn ed25519(point: &[u8]) -> Result<Self, &'static str> {
        let point = point.try_into().map_err(|_| "an Ed25519 key is not of 32 bytes")?;
        if is_weak_ed25519_encoding(&point) {
            return Err("the Ed25519 point is of small order or not canonical");
        }
        Ok(Self::Ed25519 { point })
    }

    /// The one algorithm that is named, if it fits; without a name all that do.
    fn algorithms_of(&self, named: Option<Algorithm>) -> Option<&'static [Algorithm]> {
        let fitting = self.algorithms();
        named.map_or(Some(fitting), |named| fitting.chunks(1).find(|one| one.contains(&named)))
    }

    /// The algorithms that fit the key's type and curve.
    const fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Self::Rsa { .. } => &[
                Algorithm::Rs256,
                Algorithm::Rs384,
                Algorithm::Rs512,
                Algorithm::Ps256,
                Algorithm::Ps384,
                Algorithm::Ps512,
            ],
            Self::P256 { .. } => &[Algorithm::Es256],
            Self::P384 { .. } => &[Algorithm::Es384],
            Self::P521 { .. } => &[Algorithm::Es512],
            Self::Ed25519 { .. } => &[Algorithm::Ed25519],
        }
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A public key, checked and parsed once, and bound to the algorithms that it may be used with.
pub(super) struct VerifyingKey {
    algorithms: &'static [Algorithm],
    key: PreparedKey,
}

impl VerifyingKey {
    /// For one algorithm, or for all that fit the key's type and curve.
    pub(super) fn new(algorithm: Option<Algorithm>, key: &PublicKey) -> Result<Self, &'static str> {
        let algorithms = key.algorithms_of(algorithm).ok_or("`alg` does not fit the key's type and curve")?;
        let key = algorithms.first().and_then(|first| PreparedKey::new(*first, key));
        Ok(Self { algorithms, key: key.ok_or("the numbers are not those of a public key")? })
    }

    /// Never empty.
    pub(super) const fn algorithms(&self) -> &'static [Algorithm] {
        self.algorithms
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        #[cfg(test)]
        VERIFICATIONS.set(VERIFICATIONS.get() + 1);
        self.algorithms.contains(&algorithm)
            && is_well_formed(algorithm, signature)
            && self.key.verify(algorithm, message, signature)
    }
}

#[cfg(test)]
thread_local! {
    /// How often a key of this thread was asked whether it made a signature.
    pub(crate) static VERIFICATIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The key of an HMAC with SHA-256, prepared once. Its bytes cannot be read out again.
pub(super) struct MacKey(Mac);

impl MacKey {
    /// `None` where no crypto is compiled in.
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        Mac::new(secret).map(Self)
    }

    /// Compares in constant time: how much of a guess is right must not show.
    pub(super) fn verify(&self, message: &[u8], tag: &[u8]) -> bool {
        self.0.verify(message, tag)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message)
    }
}

/// Whether the signature has the one form that its algorithm allows.
///
/// [RFC 7518 §3.4](https://www.rfc-editor.org/rfc/rfc7518#section-3.4): ECDSA signatures are `R ‖ S` of fixed width, never DER.
/// A small-order `R` can be made by the key's owner alone, but the backends disagree on it.
fn is_well_formed(algorithm: Algorithm, signature: &[u8]) -> bool {
    match algorithm {
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512 => (256..=1024).contains(&signature.len()),
        Algorithm::Es256 => signature.len() == 64,
        Algorithm::Es384 => signature.len() == 96,
        Algorithm::Es512 => signature.len() == 132,
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
    use super::{
        corpus::{MESSAGE, corpus, key},
        *,
    };
    use crate::token::test_tokens::{public_bytes, rsa_numbers};

    #[test]
    fn only_the_one_well_formed_signature_of_the_key_verifies() {
        for algorithm in Algorithm::ALL {
            let verifying = VerifyingKey::new(Some(algorithm), &key(algorithm)).ok().unwrap();
            for (name, signature, verifies) in corpus(algorithm) {
                assert_eq!(verifying.verify(algorithm, MESSAGE, &signature), verifies, "{algorithm}: {name}");
            }
        }
    }

    #[test]
    fn a_signature_has_the_one_form_of_its_algorithm_before_any_backend_sees_it() {
        for algorithm in Algorithm::ALL {
            let lengths: &[usize] = match algorithm {
                Algorithm::Es256 | Algorithm::Ed25519 => &[64],
                Algorithm::Es384 => &[96],
                Algorithm::Es512 => &[132],
                _ => &[256, 257, 384, 1024],
            };
            for length in [0, 32, 63, 64, 65, 95, 96, 97, 131, 132, 133, 255, 256, 257, 384, 1024, 1025] {
                let is_one = is_well_formed(algorithm, &vec![0x55; length]);
                assert_eq!(is_one, lengths.contains(&length), "{algorithm}: {length} bytes");
            }
        }
        for point in SMALL_ORDER_Y {
            assert!(!is_well_formed(Algorithm::Ed25519, &[point, [1; 32]].concat()), "{point:x?}");
        }
    }

    #[test]
    fn a_point_off_its_curve_is_no_key() {
        for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512] {
            let mut point = public_bytes(algorithm);
            *point.last_mut().unwrap() ^= 1;
            let off_curve = PublicKey::ec(&point).unwrap();
            assert!(VerifyingKey::new(Some(algorithm), &off_curve).is_err(), "{algorithm}");
            let width = point.len() - 1;
            let origin = PublicKey::ec(&[&[4], vec![0; width].as_slice()].concat()).unwrap();
            assert!(VerifyingKey::new(Some(algorithm), &origin).is_err(), "{algorithm}");
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
