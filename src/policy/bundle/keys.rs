use std::{fmt, sync::Arc};

use jsonwebtoken::DecodingKey;

use super::error::shown;
use crate::{
    ConfigError,
    key::{self, Algorithm, Jwk, SharedSecret},
};

/// Who may sign bundles: each key under its id, for one algorithm.
///
/// Which key a signature is verified with: the one of [`with_key_id`](Self::with_key_id); without it the one that the signature's
/// header names as `kid`; without that the one that its payload names as `keyid`. Never more than one is tried.
#[derive(Clone, Debug)]
pub struct VerificationKeys {
    keys: Arc<[VerificationKey]>,
    pub(super) key_id: Option<Arc<str>>,
    pub(super) scope: Option<Arc<str>>,
}

/// A key that bundles are verified with, its id, its one algorithm, and the scope that its signatures are for.
///
/// The algorithm is part of the configuration. A signature's header has to name the same one, and never chooses.
#[derive(Clone)]
pub struct VerificationKey {
    pub(super) id: Arc<str>,
    pub(super) material: Material,
    pub(super) scope: Option<Arc<str>>,
}

#[derive(Clone)]
pub(super) enum Material {
    Public(Jwk, Algorithm),
    Secret(SharedSecret),
}

impl VerificationKeys {
    /// # Errors
    ///
    /// [`ConfigError`] without any key, and for two keys of one id.
    pub fn new(keys: impl IntoIterator<Item = VerificationKey>) -> Result<Self, ConfigError> {
        let keys: Arc<[_]> = keys.into_iter().collect();
        if keys.is_empty() {
            return Err(ConfigError::missing(KEYS, "give at least one key: without any, no bundle could ever be used"));
        }
        for (index, key) in keys.iter().enumerate() {
            if keys.iter().take(index).any(|other| other.id == key.id) {
                return Err(ConfigError::invalid(KEYS, shown(&key.id), "give each key an id of its own"));
            }
        }
        Ok(Self { keys, key_id: None, scope: None })
    }

    /// The key that these bundles are signed with, whatever their signatures say.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when no key has this id.
    pub fn with_key_id(mut self, id: &str) -> Result<Self, ConfigError> {
        let key =
            self.find(id).ok_or_else(|| ConfigError::invalid(KEYS, shown(id), "name a key that is configured"))?;
        self.key_id = Some(Arc::clone(&key.id));
        Ok(self)
    }

    /// The scope that signatures have to be for, whichever key made them: it takes the place of the
    /// [keys' own](VerificationKey::with_scope). A signature without a scope is for the empty one. Default: the key's.
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<Arc<str>>) -> Self {
        // As in Open Policy Agent, an empty one is none.
        self.scope = Some(scope.into()).filter(|scope| !scope.is_empty());
        self
    }

    pub(super) fn find(&self, id: &str) -> Option<&VerificationKey> {
        self.keys.iter().find(|key| *key.id == *id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| &*key.id)
    }
}

impl VerificationKey {
    /// A public key that is for one algorithm: its `alg` says so, or its type leaves no other. A `kid` that it may have is not looked
    /// at; the id is what counts.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an empty id, and for an RSA key that does not say which of six algorithms it is for.
    pub fn from_jwk(id: impl Into<Arc<str>>, key: Jwk) -> Result<Self, ConfigError> {
        let id = checked(id.into())?;
        let mut algorithms = key.algorithms();
        let only = algorithms.next().filter(|_| algorithms.next().is_none());
        let algorithm =
            only.ok_or_else(|| ConfigError::invalid(KEYS, shown(&id), "give the key an `alg`: it fits several"))?;
        drop(algorithms);
        Ok(Self { id, material: Material::Public(key, algorithm), scope: None })
    }

    /// A public key in PEM (`-----BEGIN PUBLIC KEY-----`, for RSA also `-----BEGIN RSA PUBLIC KEY-----`), as Open Policy Agent's
    /// `keys` take it. Its `opa build` calls the key `default` unless told otherwise.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an empty id, a private key, a certificate, a key that the algorithm does not fit, and for a key that
    /// [`Jwk::from_json`] would refuse too.
    pub fn from_pem(id: impl Into<Arc<str>>, pem: &str, algorithm: Algorithm) -> Result<Self, ConfigError> {
        let id = checked(id.into())?;
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
            let remedy = format!("give a public key for {algorithm} in PEM, as `openssl pkey -pubout` writes it");
            ConfigError::unusable(KEYS, shown(&id), remedy, error)
        };
        let key = match algorithm {
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => DecodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::Ed25519 => DecodingKey::from_ed_pem(pem.as_bytes()),
            _ => DecodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let key = key.map_err(|error| unusable(error.into()))?;
        let key = key::jsonwebtoken::jwk(&key, algorithm, None).map_err(|error| unusable(error.into()))?;
        Ok(Self { id, material: Material::Public(key, algorithm), scope: None })
    }

    /// A secret shared with whoever signs, for HS256. Everyone who can verify with it can also sign: a public key is better wherever
    /// bundles are built by somebody else.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for an empty id.
    pub fn from_secret(id: impl Into<Arc<str>>, secret: SharedSecret) -> Result<Self, ConfigError> {
        Ok(Self { id: checked(id.into())?, material: Material::Secret(secret), scope: None })
    }

    /// The scope that the key's signatures are for. A signature without a scope is for the empty one, which is the default.
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<Arc<str>>) -> Self {
        self.scope = Some(scope.into()).filter(|scope| !scope.is_empty());
        self
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match &self.material {
            Material::Public(_, algorithm) => algorithm.name(),
            Material::Secret(_) => "HS256",
        };
        f.debug_struct("VerificationKey")
            .field("id", &self.id)
            .field("algorithm", &algorithm)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

fn checked(id: Arc<str>) -> Result<Arc<str>, ConfigError> {
    if id.is_empty() {
        return Err(ConfigError::missing("policy.bundle.keys.id", "give the key the id that signatures name it by"));
    }
    Ok(id)
}

const KEYS: &str = "policy.bundle.keys";

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::KeyPair as _;
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::token::test_tokens::{P256, public_key};

    fn key(id: &str, algorithm: Algorithm) -> Result<VerificationKey, ConfigError> {
        VerificationKey::from_jwk(id, public_key(algorithm))
    }

    const P256_PREFIX: [u8; 26] =
        *b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\0";
    const ED25519: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn each_key_has_an_id_of_its_own_and_one_algorithm() {
        assert!(key("", Algorithm::Es256).is_err());
        assert!(VerificationKeys::new([]).is_err());
        let (one, other) = (|| key("one", Algorithm::Es256).unwrap(), || key("other", Algorithm::Es384).unwrap());
        assert!(VerificationKeys::new([one(), other()]).is_ok());
        let error = VerificationKeys::new([one(), other(), one()]).unwrap_err().to_string();
        assert!(error.contains("one"), "{error}");
        assert!(VerificationKeys::new([one()]).unwrap().with_key_id("other").is_err());
        // Without `alg` an RSA key would leave the choice to whoever signs.
        let mut members: serde_json::Value = serde_json::from_str(&public_key(Algorithm::Ps256).to_json()).unwrap();
        members.as_object_mut().unwrap().remove("alg");
        let any = Jwk::from_json(&members.to_string()).unwrap();
        assert!(VerificationKey::from_jwk("any", any).unwrap_err().to_string().contains("`alg`"));
    }

    #[test]
    fn a_pem_has_to_fit_its_algorithm_and_is_never_repeated() {
        assert!(VerificationKey::from_pem("ed", ED25519, Algorithm::Ed25519).is_ok());
        // What stands before the point in a key of this curve (RFC 5480 §2).
        let point = [&P256_PREFIX[..], P256.public_key().as_ref()].concat();
        let ec = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(point));
        assert!(VerificationKey::from_pem("ec", &ec, Algorithm::Es256).is_ok());
        let der = P256.to_pkcs8v1().unwrap();
        let private =
            &format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        for (pem, algorithm) in [
            (ED25519, Algorithm::Es256),
            (ED25519, Algorithm::Rs256),
            (private, Algorithm::Es256),
            ("", Algorithm::Rs256),
            ("not a key", Algorithm::Ed25519),
        ] {
            let error = VerificationKey::from_pem("k", pem, algorithm).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            for line in pem.lines().filter(|line| line.len() > 8) {
                assert!(!error.to_string().contains(line) && !source.contains(line), "{error}: {source}");
            }
        }
        let shown = format!("{:?}", VerificationKey::from_pem("ed", ED25519, Algorithm::Ed25519).unwrap());
        assert_eq!(shown, r#"VerificationKey { id: "ed", algorithm: "Ed25519", scope: None, .. }"#);
    }
}
