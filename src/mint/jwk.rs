use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{ConfigError, key::Algorithm, principal::Thumbprint};

/// A public signing key as it is published: a JWK ([RFC 7517]) with `kid`, `alg` and `use`. Cheap to clone.
///
/// [RFC 7517]: https://www.rfc-editor.org/rfc/rfc7517
#[derive(Clone, PartialEq, Eq)]
pub struct PublicJwk(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    algorithm: Algorithm,
    key_id: Arc<str>,
    thumbprint: Thumbprint,
    members: Map<String, Value>,
}

impl PublicJwk {
    /// Takes over a public JWK, for signers whose key lives elsewhere. Without `kid` it is named by its RFC 7638 thumbprint.
    ///
    /// Only the members of the public key and `kid` are kept; `alg` and `use` are set. The key itself is not tested here: a
    /// verifier does that when it loads it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] when the members are not those of a key for this algorithm, or one of them is private.
    pub fn from_members(algorithm: Algorithm, jwk: &Map<String, Value>) -> Result<Self, ConfigError> {
        let odd =
            |member: &str, remedy: &'static str| ConfigError::invalid(format!("jwk.{member}"), "(redacted)", remedy);
        if let Some(member) =
            ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].into_iter().find(|name| jwk.contains_key(*name))
        {
            return Err(odd(member, "hand over the public key alone"));
        }
        let text = |member: &'static str| match jwk.get(member).and_then(Value::as_str) {
            Some(text) if URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| !bytes.is_empty()) => Ok(text),
            _ => Err(odd(member, "write it as base64url without padding")),
        };
        let (kty, crv) = kind(algorithm);
        for (member, expected) in [("kty", Some(kty)), ("crv", crv)] {
            if expected.is_some_and(|expected| jwk.get(member).and_then(Value::as_str) != Some(expected)) {
                return Err(odd(member, "choose the algorithm that the key is for"));
            }
        }
        let key = match kty {
            "RSA" => Self::new(algorithm, &[("e", text("e")?), ("n", text("n")?)]),
            "EC" => Self::new(algorithm, &[("x", text("x")?), ("y", text("y")?)]),
            _ => Self::new(algorithm, &[("x", text("x")?)]),
        };
        match jwk.get("kid") {
            None => Ok(key),
            Some(Value::String(kid)) if !kid.is_empty() => Ok(key.with_key_id(kid)),
            Some(_) => Err(odd("kid", "write it as a string that is not empty, or leave it out")),
        }
    }

    /// `key` holds the coordinates or numbers in base64url, in lexicographic order.
    fn new(algorithm: Algorithm, key: &[(&str, &str)]) -> Self {
        let (kty, crv) = kind(algorithm);
        let named = crv.map(|crv| ("crv", crv)).into_iter().chain(key.iter().copied()).chain([("kty", kty)]);
        let mut required: Vec<_> = named.collect();
        required.sort_unstable();
        // RFC 7638 §3.2: the required members in lexicographic order without white space. Nothing needs escaping in base64url.
        let canonical: Vec<_> = required.iter().map(|(name, value)| format!(r#""{name}":"{value}""#)).collect();
        let digest = Sha256::digest(format!("{{{}}}", canonical.join(",")));
        let thumbprint = URL_SAFE_NO_PAD.encode(digest);
        let mut members: Map<_, _> = required.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        members.extend([
            ("kid".to_owned(), json!(thumbprint)),
            ("alg".to_owned(), json!(algorithm.name())),
            ("use".to_owned(), json!("sig")),
        ]);
        Self(Arc::new(Parts {
            algorithm,
            key_id: thumbprint.as_str().into(),
            thumbprint: Thumbprint::new(thumbprint),
            members,
        }))
    }

    /// An elliptic-curve key from its coordinates.
    pub(super) fn ec(algorithm: Algorithm, x: &[u8], y: &[u8]) -> Self {
        Self::new(algorithm, &[("x", &URL_SAFE_NO_PAD.encode(x)), ("y", &URL_SAFE_NO_PAD.encode(y))])
    }

    /// An Ed25519 key from its 32 bytes.
    pub(super) fn ed25519(x: &[u8]) -> Self {
        Self::new(Algorithm::Ed25519, &[("x", &URL_SAFE_NO_PAD.encode(x))])
    }

    /// An RSA key from modulus and exponent, big endian without leading zero.
    #[cfg(feature = "testing")]
    pub(crate) fn rsa(algorithm: Algorithm, n: &[u8], e: &[u8]) -> Self {
        Self::new(algorithm, &[("e", &URL_SAFE_NO_PAD.encode(e)), ("n", &URL_SAFE_NO_PAD.encode(n))])
    }

    /// Sets `kid`. Default: the RFC 7638 thumbprint, which no two keys share.
    #[must_use]
    pub fn with_key_id(self, key_id: &str) -> Self {
        let mut members = self.0.members.clone();
        members.insert("kid".to_owned(), json!(key_id));
        Self(Arc::new(Parts {
            algorithm: self.0.algorithm,
            key_id: key_id.into(),
            thumbprint: self.0.thumbprint.clone(),
            members,
        }))
    }

    /// `alg`: the one algorithm that the key signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// `kid`.
    #[must_use]
    pub fn key_id(&self) -> &Arc<str> {
        &self.0.key_id
    }

    /// The [RFC 7638](https://www.rfc-editor.org/rfc/rfc7638) thumbprint.
    #[must_use]
    pub fn thumbprint(&self) -> &Thumbprint {
        &self.0.thumbprint
    }

    /// The members of the JWK, as a key set publishes them.
    #[must_use]
    pub fn members(&self) -> &Map<String, Value> {
        &self.0.members
    }
}

impl fmt::Debug for PublicJwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicJwk")
            .field("algorithm", &self.0.algorithm)
            .field("key_id", &self.0.key_id)
            .finish_non_exhaustive()
    }
}

/// `kty` and `crv` of an algorithm's keys.
const fn kind(algorithm: Algorithm) -> (&'static str, Option<&'static str>) {
    match algorithm {
        Algorithm::Rs256
        | Algorithm::Rs384
        | Algorithm::Rs512
        | Algorithm::Ps256
        | Algorithm::Ps384
        | Algorithm::Ps512 => ("RSA", None),
        Algorithm::Es256 => ("EC", Some("P-256")),
        Algorithm::Es384 => ("EC", Some("P-384")),
        Algorithm::Es512 => ("EC", Some("P-521")),
        Algorithm::Ed25519 => ("OKP", Some("Ed25519")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(jwk: Value) -> Map<String, Value> {
        jwk.as_object().unwrap().clone()
    }

    #[test]
    fn thumbprints_are_those_of_the_rfcs() {
        // RFC 7638 §3.1 and RFC 8037 appendix A.3.
        let rsa = members(json!({
            "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        }));
        let ed25519 =
            members(json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}));
        let rsa = PublicJwk::from_members(Algorithm::Rs256, &rsa).unwrap();
        assert_eq!(rsa.thumbprint().as_str(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(&**rsa.key_id(), "2011-04-29");
        let ed25519 = PublicJwk::from_members(Algorithm::Ed25519, &ed25519).unwrap();
        assert_eq!(ed25519.thumbprint().as_str(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(&**ed25519.key_id(), ed25519.thumbprint().as_str());
    }

    #[test]
    fn a_private_member_is_refused_and_not_repeated() {
        let jwk = members(json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": "c2VjcmV0"}));
        let error = PublicJwk::from_members(Algorithm::Ed25519, &jwk).unwrap_err().to_string();
        assert!(error.contains("`jwk.d`") && !error.contains("c2VjcmV0"), "{error}");
    }

    #[test]
    fn members_that_do_not_fit_the_algorithm_are_refused() {
        let table = [
            ("another curve", json!({"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA"})),
            ("no type", json!({"crv": "P-256", "x": "AAAA", "y": "AAAA"})),
            ("no y", json!({"kty": "EC", "crv": "P-256", "x": "AAAA"})),
            ("empty x", json!({"kty": "EC", "crv": "P-256", "x": "", "y": "AAAA"})),
            ("padded x", json!({"kty": "EC", "crv": "P-256", "x": "AA==", "y": "AAAA"})),
            ("a number as kid", json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "kid": 1})),
        ];
        for (name, jwk) in table {
            assert!(PublicJwk::from_members(Algorithm::Es256, &members(jwk)).is_err(), "{name}");
        }
    }
}
