use std::fmt;

use serde::Serialize;

/// A JWS signature algorithm: `alg`, [RFC 7518 §3.1](https://www.rfc-editor.org/rfc/rfc7518#section-3.1) and
/// [RFC 9864](https://www.rfc-editor.org/rfc/rfc9864). Asymmetric ones only: HMAC is for a
/// [`SharedSecret`](super::SharedSecret) alone and cannot be expressed beside a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256, and a salt as long as the hash.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSASSA-PSS with SHA-384, and a salt as long as the hash.
    #[serde(rename = "PS384")]
    Ps384,
    /// RSASSA-PSS with SHA-512, and a salt as long as the hash.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// ECDSA on P-521 with SHA-512.
    #[serde(rename = "ES512")]
    Es512,
    /// Ed25519. The header may say `EdDSA` (RFC 8037, polymorphic and deprecated) or `Ed25519` (RFC 9864): both mean this one.
    #[serde(rename = "Ed25519")]
    Ed25519,
}

impl Algorithm {
    /// Every algorithm, in no order of preference.
    pub const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ed25519,
    ];

    /// Reads a header's or key's `alg`, byte by byte. `None` for anything else, `none` and every HMAC included.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "RS384" => Some(Self::Rs384),
            "RS512" => Some(Self::Rs512),
            "PS256" => Some(Self::Ps256),
            "PS384" => Some(Self::Ps384),
            "PS512" => Some(Self::Ps512),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "ES512" => Some(Self::Es512),
            "EdDSA" | "Ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// The registered name; the fully specified one where there are two.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ed25519 => "Ed25519",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_byte_exact_and_hmac_and_none_do_not_exist() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(algorithm.to_string(), algorithm.name());
        }
        for odd in [
            "none",
            "None",
            "NONE",
            "",
            "HS256",
            "HS384",
            "HS512",
            "rs256",
            "RS256 ",
            "RS1",
            "RS224",
            "ES521",
            "ES256K",
            "ed25519",
            "eddsa",
            "Ed448",
            "ML-DSA-44",
            "RSA-OAEP",
            "dir",
            "A128KW",
            "A128GCMKW",
            "ECDH-ES",
            "ECDH-ES+A128KW",
            "PBES2-HS256+A128KW",
        ] {
            assert_eq!(Algorithm::from_name(odd), None, "{odd:?}");
        }
    }
}
