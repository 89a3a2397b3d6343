use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{
    JwkError, JwkSet, LoadedKeys,
    jwk::{Place, object},
};

impl JwkSet {
    /// Reads the keys of JWT-SVIDs out of a [SPIFFE bundle], at most 256 KiB of it.
    ///
    /// Only keys with `use: jwt-svid` and a `kid` count. The others of the bundle (`x509-svid`, `wit-svid`, `sig`, no `use` at all) vouch
    /// for something else, and are left out one by one, as in [`parse`](Self::parse). The reverse holds as well: a bundle given to `parse`
    /// has no usable key, so that neither document can be taken for the other.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    ///
    /// [SPIFFE bundle]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md#4-spiffe-bundle-format
    pub fn parse_bundle(document: &[u8]) -> Result<Self, JwkError> {
        Self::read(document, Place::Bundle)
    }
}

impl LoadedKeys {
    /// The keys of JWT-SVIDs in a [SPIFFE bundle](JwkSet::parse_bundle), and its `spiffe_refresh_hint` (whole seconds) as their lifetime,
    /// for a [`KeySource`](super::KeySource) that reads bundles from a file or a socket.
    ///
    /// A hint that is no whole number is none. `spiffe_sequence` is not looked at: it counts versions for those who compare
    /// bundles, and authenticates nothing, so refusing one that went back would stop no attacker who can serve old bundles (who could
    /// withhold new ones as well) and would shut out a trust domain that was restored from a backup.
    ///
    /// # Errors
    ///
    /// As [`JwkSet::parse`].
    pub fn from_bundle(document: &[u8]) -> Result<Self, JwkError> {
        let set = JwkSet::parse_bundle(document)?;
        let hint = object(document).and_then(|Hint { spiffe_refresh_hint }| spiffe_refresh_hint?.as_u64());
        Ok(Self::new(set).with_max_age(hint.map(Duration::from_secs)))
    }
}

#[derive(Deserialize)]
struct Hint {
    spiffe_refresh_hint: Option<Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(usage: &Value, kid: &Value) -> Value {
        let mut key = json!({
            "kty": "EC", "crv": "P-256",
            "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
        });
        for (name, value) in [("use", usage), ("kid", kid)] {
            if !value.is_null() {
                key[name] = value.clone();
            }
        }
        key
    }

    fn bundle(keys: &[Value], hint: &Value) -> Vec<u8> {
        json!({"keys": keys, "spiffe_sequence": 12, "spiffe_refresh_hint": hint}).to_string().into_bytes()
    }

    fn kids(set: &JwkSet) -> Vec<&str> {
        set.iter().filter_map(|key| key.kid().map(|kid| &**kid)).collect()
    }

    #[test]
    fn of_a_bundle_only_keys_for_jwt_svids_with_a_kid_count() {
        let mut keys = vec![
            key(&json!("x509-svid"), &json!(null)),
            key(&json!("jwt-svid"), &json!("a")),
            key(&json!("wit-svid"), &json!("w")),
            key(&json!("jwt-svid"), &json!("b")),
        ];
        for usage in
            [json!("sig"), json!("enc"), json!(""), json!("JWT-SVID"), json!("jwt-svid "), json!(null), json!(7)]
        {
            keys.push(key(&usage, &json!("other")));
        }
        for kid in [json!(null), json!(""), json!(7)] {
            keys.push(key(&json!("jwt-svid"), &kid));
        }
        keys.push(json!({"kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": "private", "d": "AA"}));
        keys.push(json!({"kty": "AKP", "alg": "ML-DSA-44", "use": "jwt-svid", "kid": "later", "pub": "AA"}));
        let set = JwkSet::parse_bundle(&bundle(&keys, &json!(300))).unwrap();
        assert_eq!(kids(&set), ["a", "b"]);
        assert_eq!(set.skipped().len(), keys.len() - 2);
        assert_eq!(set.skipped()[0].why, "`use` is not `jwt-svid`");
        assert!(set.skipped().iter().any(|skipped| skipped.why.contains("`kid` is missing")));
    }

    #[test]
    fn a_bundle_is_no_key_set_and_a_key_set_is_no_bundle() {
        let of_a_bundle = bundle(&[key(&json!("jwt-svid"), &json!("a"))], &json!(300));
        assert_eq!(JwkSet::parse(&of_a_bundle).unwrap_err().to_string(), "`use` is not `sig`");
        for usage in [json!("sig"), json!(null)] {
            let key_set = bundle(&[key(&usage, &json!("a"))], &json!(300));
            assert_eq!(kids(&JwkSet::parse(&key_set).unwrap()), ["a"]);
            assert_eq!(JwkSet::parse_bundle(&key_set).unwrap_err().to_string(), "`use` is not `jwt-svid`");
        }
        for odd in ["", "[]", "null", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, "<html></html>"] {
            assert!(LoadedKeys::from_bundle(odd.as_bytes()).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_refresh_hint_is_the_lifetime_and_the_sequence_does_not_matter() {
        let max_age = |document: &[u8]| LoadedKeys::from_bundle(document).unwrap().max_age;
        let keys = [key(&json!("jwt-svid"), &json!("a"))];
        for (hint, seconds) in [
            (json!(300), Some(300)),
            (json!(0), Some(0)),
            (json!(u64::MAX), Some(u64::MAX)),
            (json!(-1), None),
            (json!(1.5), None),
            (json!("300"), None),
            (json!(null), None),
            (json!([300]), None),
        ] {
            assert_eq!(max_age(&bundle(&keys, &hint)), seconds.map(Duration::from_secs), "{hint}");
        }
        for sequence in [json!(-1), json!("x"), json!(null), json!({}), json!(0)] {
            let document = json!({"keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": 60}).to_string();
            assert_eq!(max_age(document.as_bytes()), Some(Duration::from_secs(60)), "{sequence}");
        }
    }
}
