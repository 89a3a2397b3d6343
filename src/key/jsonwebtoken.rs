//! Public keys from the [`jsonwebtoken`] crate: the one place where its types show.
//!
//! For applications that hold a `DecodingKey` already, most often read from a PEM file. Nothing here verifies with that crate, and
//! nothing touches its process-wide crypto provider.

use ::jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind};

use super::{Algorithm, Jwk, JwkError, crypto::PublicKey, jwk::Named};

/// Takes the public key out of a `DecodingKey`, for use with one algorithm. It names no [issuer](Jwk::issuer), so it signs for every name of the
/// one that it is given to.
///
/// ```
/// use portcullis::key::{Algorithm, JwkSet, jsonwebtoken::jwk};
///
/// let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
/// let imported = jsonwebtoken::DecodingKey::from_ed_pem(pem.as_bytes())?;
/// let keys: JwkSet = [jwk(&imported, Algorithm::Ed25519, Some("2026"))?].into_iter().collect();
/// assert_eq!(keys.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`JwkError`] for a shared secret (HMAC), for a private key, for an algorithm that does not fit the key, and for a key that
/// [`Jwk::from_json`] would refuse too.
pub fn jwk(key: &DecodingKey, algorithm: Algorithm, kid: Option<&str>) -> Result<Jwk, JwkError> {
    let public_key = match (key.family(), key.kind()) {
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => PublicKey::rsa(n, e),
        (AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) => match rsa_public_key(der) {
            Some((modulus, exponent)) => PublicKey::rsa(modulus, exponent),
            // `from_rsa_pem` takes private keys as well.
            None => Err("not an RSA public key in PKCS #1 form"),
        },
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => PublicKey::ec(point),
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) => PublicKey::ed25519(point),
        _ => Err("not a public key of a supported type"),
    };
    let named = Named { kid: kid.map(Into::into), issuer: None, algorithm: Some(algorithm) };
    public_key.and_then(|key| Jwk::prepare(named, &key)).map_err(JwkError)
}

/// Reads `RSAPublicKey` ([RFC 8017 appendix A.1.1](https://www.rfc-editor.org/rfc/rfc8017#appendix-A.1.1)): a sequence of exactly two
/// positive integers. A private key has nine and is not one.
pub(crate) fn rsa_public_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, rest) = element(0x30, der)?;
    let (modulus, exponent) = element(0x02, sequence)?;
    let (exponent, end) = element(0x02, exponent)?;
    let is_positive = |number: &[u8]| number.first().is_some_and(|byte| *byte < 0x80);
    (rest.is_empty() && end.is_empty() && is_positive(modulus) && is_positive(exponent)).then_some((modulus, exponent))
}

/// The content of the element that `der` begins with, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, content) = match *der {
        [first, short @ 0..=0x7f, ref content @ ..] if first == tag => (usize::from(short), content),
        [first, 0x81, one, ref content @ ..] if first == tag => (usize::from(one), content),
        [first, 0x82, high, low, ref content @ ..] if first == tag => {
            (usize::from(u16::from_be_bytes([high, low])), content)
        }
        _ => return None,
    };
    content.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};

    use super::*;
    use crate::token::test_tokens::{P256, RSA, public_bytes, rsa_numbers, sign};

    #[test]
    fn public_keys_of_each_type_come_over_and_verify() {
        let (modulus, exponent) = rsa_numbers();
        let table = [
            ("PKCS #1", Algorithm::Rs256, DecodingKey::from_rsa_der(&public_bytes(Algorithm::Rs256))),
            ("modulus and exponent", Algorithm::Ps256, DecodingKey::from_rsa_raw_components(&modulus, &exponent)),
            ("P-256", Algorithm::Es256, DecodingKey::from_ec_der(&public_bytes(Algorithm::Es256))),
            ("P-384", Algorithm::Es384, DecodingKey::from_ec_der(&public_bytes(Algorithm::Es384))),
            ("P-521", Algorithm::Es512, DecodingKey::from_ec_der(&public_bytes(Algorithm::Es512))),
            ("Ed25519", Algorithm::Ed25519, DecodingKey::from_ed_der(&public_bytes(Algorithm::Ed25519))),
        ];
        for (name, algorithm, imported) in table {
            let key = jwk(&imported, algorithm, Some("k")).unwrap();
            assert_eq!(key.kid().map(|kid| &**kid), Some("k"), "{name}");
            for other in Algorithm::ALL {
                assert_eq!(
                    key.verify(other, b"message", &sign(algorithm, b"message")),
                    other == algorithm,
                    "{name} as {other}"
                );
            }
        }
    }

    #[test]
    fn an_element_has_its_tag_and_its_length_in_one_of_three_forms() {
        for (length, header) in
            [(1, vec![2, 1]), (0x7f, vec![2, 0x7f]), (0x80, vec![2, 0x81, 0x80]), (0x102, vec![2, 0x82, 1, 2])]
        {
            let content = vec![7; length];
            let der = [header.as_slice(), &content, &[9, 9]].concat();
            assert_eq!(element(2, &der), Some((content.as_slice(), &[9, 9][..])), "{length}");
            assert_eq!(element(3, &der), None, "{length}");
            assert_eq!(element(2, &der[..header.len() + length - 1]), None, "{length}");
        }
        assert_eq!(element(2, &[2, 0x83, 0, 0, 1, 7]), None, "no key is that long");
    }

    #[test]
    fn an_rsa_key_is_a_sequence_of_two_positive_integers_and_nothing_else() {
        let key = |content: &[u8]| [&[0x30, u8::try_from(content.len()).unwrap()], content].concat();
        let good = key(&[2, 1, 0x7f, 2, 1, 3]);
        assert_eq!(rsa_public_key(&good), Some((&[0x7f][..], &[3][..])));
        let table: [(&str, Vec<u8>); 6] = [
            ("negative modulus", key(&[2, 1, 0x80, 2, 1, 3])),
            ("negative exponent", key(&[2, 1, 0x7f, 2, 1, 0x80])),
            ("no number at all", key(&[2, 0, 2, 1, 3])),
            ("three numbers", key(&[2, 1, 0x7f, 2, 1, 3, 2, 1, 5])),
            ("one number", key(&[2, 1, 0x7f])),
            ("bytes after", [good.as_slice(), &[0]].concat()),
        ];
        for (name, der) in table {
            assert_eq!(rsa_public_key(&der), None, "{name}");
        }
    }

    #[test]
    fn secrets_private_keys_and_misfits_do_not_come_over() {
        let rsa_private: Pkcs8V1Der<'_> = RSA.as_der().unwrap();
        let ec_private = P256.to_pkcs8v1().unwrap();
        let rsa = public_bytes(Algorithm::Rs256);
        let table = [
            ("shared secret", Algorithm::Rs256, DecodingKey::from_secret(b"secret")),
            ("public key as shared secret", Algorithm::Rs256, DecodingKey::from_secret(&rsa)),
            ("RSA private key", Algorithm::Rs256, DecodingKey::from_rsa_der(rsa_private.as_ref())),
            ("EC private key", Algorithm::Es256, DecodingKey::from_ec_der(ec_private.as_ref())),
            ("bytes after", Algorithm::Rs256, DecodingKey::from_rsa_der(&[rsa.as_slice(), &[0]].concat())),
            ("truncated", Algorithm::Rs256, DecodingKey::from_rsa_der(&rsa[..rsa.len() - 1])),
            ("empty", Algorithm::Rs256, DecodingKey::from_rsa_der(&[])),
            ("RSA as ES256", Algorithm::Es256, DecodingKey::from_rsa_der(&rsa)),
            ("P-384 as ES512", Algorithm::Es512, DecodingKey::from_ec_der(&public_bytes(Algorithm::Es384))),
            ("P-256 as ES384", Algorithm::Es384, DecodingKey::from_ec_der(&public_bytes(Algorithm::Es256))),
            ("Ed25519 as ES256", Algorithm::Es256, DecodingKey::from_ed_der(&public_bytes(Algorithm::Ed25519))),
        ];
        for (name, algorithm, imported) in table {
            assert!(jwk(&imported, algorithm, None).is_err(), "{name}");
        }
    }
}
