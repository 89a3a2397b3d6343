use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{
    Algorithm, Wanted,
    crypto::{self, PublicKey, VerifyingKey},
};
use crate::principal::Thumbprint;

/// One usable public key: parsed, checked and prepared when it was loaded.
///
/// A key verifies under the algorithms that it may be used with and under no other
/// ([RFC 8725 §3.1](https://www.rfc-editor.org/rfc/rfc8725#section-3.1)): the one that its `alg` names, or, without `alg`, those that
/// fit its type and curve. Cheap to clone.
#[derive(Clone)]
pub struct Jwk(Arc<Prepared>);

struct Prepared {
    kid: Option<Arc<str>>,
    issuer: Option<Arc<str>>,
    thumbprint: Thumbprint,
    /// What [`required_members`] says of the key.
    required: Box<str>,
    verifying: VerifyingKey,
}

impl Jwk {
    /// Reads one JWK ([RFC 7517 §4](https://www.rfc-editor.org/rfc/rfc7517#section-4)).
    ///
    /// Accepted are RSA keys of 2048 to 8192 bits with an odd exponent from 65537 up to 32 bits, EC keys on P-256, P-384 and P-521, and
    /// Ed25519 keys. Every point is shown to lie on its curve, and no Ed25519 point is of small order.
    ///
    /// # Errors
    ///
    /// [`JwkError`] says what keeps the key from being used.
    pub fn from_json(text: &str) -> Result<Self, JwkError> {
        if text.len() > MAX_DOCUMENT {
            return Err(JwkError(TOO_LARGE));
        }
        Self::read(text, Place::KeySet).map_err(JwkError)
    }

    /// `kid`, [RFC 7517 §4.5](https://www.rfc-editor.org/rfc/rfc7517#section-4.5). A hint, not unique.
    #[must_use]
    pub fn kid(&self) -> Option<&Arc<str>> {
        self.0.kid.as_ref()
    }

    /// `issuer`: the one issuer that the key signs for, where its set names one. Microsoft's does, with `{tenantid}` in the tenant's place.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.0.issuer.as_deref()
    }

    /// base64url(SHA-256) of the key's required members, [RFC 7638](https://www.rfc-editor.org/rfc/rfc7638): names the key whatever
    /// its `kid` says.
    #[must_use]
    pub fn thumbprint(&self) -> &Thumbprint {
        &self.0.thumbprint
    }

    /// The algorithms that the key may be used with; never empty.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> + '_ {
        self.0.verifying.algorithms().iter().copied()
    }

    /// True when the signature over the message verifies under this key and algorithm.
    ///
    /// False for an algorithm that the key is not for, whatever the signature. ECDSA signatures are `R ‖ S` of fixed width. Whether
    /// the issuer may use the algorithm at all is for the caller to check.
    #[must_use]
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.0.verifying.verify(algorithm, message, signature)
    }

    /// The key as a JWK ([RFC 7517 §4](https://www.rfc-editor.org/rfc/rfc7517#section-4)): the public numbers, `kid`, `use`, and `alg` when
    /// the key is for one algorithm alone. [`from_json`](Self::from_json) reads the same key from it; what else its document said of
    /// the key (certificates, members of one issuer's own) is not in it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut members: Map<String, Value> = serde_json::from_str(&self.0.required).unwrap_or_default();
        let mut algorithms = self.algorithms();
        let only = algorithms.next().filter(|_| algorithms.next().is_none()).map(Algorithm::name);
        for (name, value) in
            [("use", Some("sig")), ("alg", only), ("kid", self.0.kid.as_deref()), ("issuer", self.issuer())]
        {
            members.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        }
        Value::Object(members).to_string()
    }

    fn is_candidate(&self, wanted: Wanted<'_>) -> bool {
        wanted.admits(self.0.kid.as_deref(), self.issuer(), self.0.verifying.algorithms())
    }

    fn read(text: &str, place: Place) -> Result<Self, &'static str> {
        let (named, key) = Self::parse(text, place)?;
        Self::prepare(named, &key)
    }

    /// Everything that the members say; whether the numbers are those of a key is for [`prepare`](Self::prepare).
    pub(super) fn parse(text: &str, place: Place) -> Result<(Named, PublicKey), &'static str> {
        let members: Members = object(text.as_bytes()).ok_or("not a JSON object with the members of a key")?;
        if members.has_private_part() {
            // A published private key is no secret any more: nothing that it signs can be believed.
            return Err("holds private or secret members");
        }
        place.admits(&members)?;
        if members.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify"))
        {
            return Err("`key_ops` lacks `verify`");
        }
        let key = members.public_key()?;
        let algorithm = match members.alg.as_deref() {
            None => None,
            Some(name) => Some(Algorithm::from_name(name).ok_or("`alg` is not a supported signature algorithm")?),
        };
        Ok((Named { kid: members.kid.map(Into::into), issuer: members.issuer.map(Into::into), algorithm }, key))
    }

    pub(super) fn prepare(named: Named, key: &PublicKey) -> Result<Self, &'static str> {
        let Named { kid, issuer, algorithm } = named;
        if kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID) {
            return Err("`kid` is empty or longer than 256 bytes");
        }
        if !crypto::IS_AVAILABLE {
            return Err("no crypto is compiled in: add the feature `aws-lc-rs` or `rust-crypto`");
        }
        let verifying = VerifyingKey::new(algorithm, key)?;
        let required = required_members(key);
        let thumbprint = Thumbprint::new(URL_SAFE_NO_PAD.encode(Sha256::digest(&required)));
        Ok(Self(Arc::new(Prepared { kid, issuer, thumbprint, required: required.into(), verifying })))
    }
}

/// What is said of a key besides its numbers.
#[derive(Default)]
pub(super) struct Named {
    pub(super) kid: Option<Arc<str>>,
    pub(super) issuer: Option<Arc<str>>,
    pub(super) algorithm: Option<Algorithm>,
}

impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwk")
            .field("kid", &self.0.kid)
            .field("thumbprint", &self.0.thumbprint)
            .field("algorithms", &self.algorithms().collect::<Vec<_>>())
            .finish()
    }
}

/// A set of usable public keys, and what was left out of it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct JwkSet(Arc<Loaded>);

#[derive(Debug, Default)]
struct Loaded {
    keys: Vec<Jwk>,
    skipped: Vec<SkippedKey>,
}

impl JwkSet {
    /// Reads a JWK Set ([RFC 7517 §5](https://www.rfc-editor.org/rfc/rfc7517#section-5)), at most 256 KiB of it.
    ///
    /// Keys that cannot be used are left out one by one and listed in [`skipped`](Self::skipped): one odd key never sinks the set.
    /// At most 64 usable keys are kept and at most 256 entries looked at.
    ///
    /// # Errors
    ///
    /// [`JwkError`] when the document is no key set, is too large, or holds no usable key: such a document must never take the
    /// place of a set that works.
    pub fn parse(document: &[u8]) -> Result<Self, JwkError> {
        Self::read(document, Place::KeySet)
    }

    pub(super) fn read(document: &[u8], place: Place) -> Result<Self, JwkError> {
        if document.len() > MAX_DOCUMENT {
            return Err(JwkError(TOO_LARGE));
        }
        let Document { keys: entries } =
            object(document).ok_or(JwkError("not a JSON object with one member `keys`, an array"))?;
        let mut loaded = Loaded::default();
        for (index, entry) in entries.iter().take(MAX_ENTRIES).enumerate() {
            let key = Jwk::read(entry.get(), place).and_then(|key| loaded.room_for(&key).map(|()| key));
            match key {
                Ok(key) => loaded.keys.push(key),
                Err(why) => loaded.skipped.push(SkippedKey { index, kid: kid_of(entry.get()), why }),
            }
        }
        if entries.len() > MAX_ENTRIES {
            let why = "this entry and those after it were not looked at";
            loaded.skipped.push(SkippedKey { index: MAX_ENTRIES, kid: None, why });
        }
        if loaded.keys.is_empty() {
            // The reason of the first entry says more than "none": often there is only one key.
            return Err(JwkError(loaded.skipped.first().map_or("the key set is empty", |skipped| skipped.why)));
        }
        Ok(Self(Arc::new(loaded)))
    }

    /// The keys that may have made a signature with this `kid` and algorithm, in the set's order, at most four.
    ///
    /// A `kid` is compared byte by byte. Without one every key that fits the algorithm is a candidate; the cap keeps a token from
    /// costing a verification under each key.
    pub fn candidates<'a>(&'a self, kid: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Jwk> + 'a {
        self.wanted(Wanted::new(kid, algorithm))
    }

    /// As [`candidates`](Self::candidates), and of these the ones that sign for the issuer that is asked for.
    pub(crate) fn wanted<'a>(&'a self, wanted: Wanted<'a>) -> impl Iterator<Item = &'a Jwk> + 'a {
        self.0.keys.iter().filter(move |key| key.is_candidate(wanted)).take(MAX_CANDIDATES)
    }

    /// The usable keys.
    pub fn iter(&self) -> impl Iterator<Item = &Jwk> {
        self.0.keys.iter()
    }

    /// How many usable keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.keys.len()
    }

    /// True when there is no usable key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.keys.is_empty()
    }

    /// The entries of the document that are not used, and why: worth a warning each.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.0.skipped
    }
}

impl FromIterator<Jwk> for JwkSet {
    fn from_iter<I: IntoIterator<Item = Jwk>>(keys: I) -> Self {
        Self(Arc::new(Loaded { keys: keys.into_iter().collect(), skipped: Vec::new() }))
    }
}

impl Loaded {
    fn room_for(&self, key: &Jwk) -> Result<(), &'static str> {
        if self.keys.len() >= MAX_KEYS {
            return Err("the set has 64 usable keys already");
        }
        // The same `kid` on two different keys is legal (RFC 7517 §4.5) and both stay; the same key twice would cost two attempts.
        let is_repeated = |own: &Jwk| {
            let brings_nothing = || key.algorithms().all(|algorithm| own.algorithms().any(|own| own == algorithm));
            own.kid() == key.kid()
                && own.issuer() == key.issuer()
                && own.thumbprint() == key.thumbprint()
                && brings_nothing()
        };
        if self.keys.iter().any(is_repeated) {
            return Err("repeats a key of the set");
        }
        Ok(())
    }
}

/// Why a key or a key set cannot be used. Holds no part of the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JwkError(pub(super) &'static str);

/// An entry of a key set that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedKey {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Its `kid`, when it has one of at most 256 bytes. The key server's text.
    pub kid: Option<String>,
    /// What keeps it from being used.
    pub why: &'static str,
}

/// `keys` twice is an error, as for every member that a derived struct names.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// Where a key stands, which decides what its `use` has to be.
#[derive(Clone, Copy)]
pub(super) enum Place {
    KeySet,
    /// A SPIFFE trust bundle: see [`JwkSet::parse_bundle`].
    Bundle,
}

impl Place {
    fn admits(self, members: &Members) -> Result<(), &'static str> {
        match (self, members.usage.as_deref()) {
            (Self::KeySet, None | Some("sig")) => Ok(()),
            (Self::KeySet, Some(_)) => Err("`use` is not `sig`"),
            (Self::Bundle, Some("jwt-svid")) if members.kid.is_some() => Ok(()),
            (Self::Bundle, Some("jwt-svid")) => Err("`kid` is missing, which keys of a trust bundle must have"),
            (Self::Bundle, _) => Err("`use` is not `jwt-svid`"),
        }
    }
}

#[derive(Deserialize)]
struct Members {
    kty: String,
    kid: Option<String>,
    issuer: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
    r#priv: Option<IgnoredAny>,
}

impl Members {
    fn has_private_part(&self) -> bool {
        let members = [&self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi, &self.oth, &self.k, &self.r#priv];
        members.into_iter().any(Option::is_some)
    }

    fn public_key(&self) -> Result<PublicKey, &'static str> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => PublicKey::rsa(&number(&self.n)?, &number(&self.e)?),
            ("EC", Some(curve @ ("P-256" | "P-384" | "P-521"))) => {
                let width = match curve {
                    "P-256" => 32,
                    "P-384" => 48,
                    _ => 66,
                };
                let (x, y) = (number(&self.x)?, number(&self.y)?);
                // RFC 7518 §6.2.1.2: the full width of the curve, also where leading bytes are zero.
                if x.len() != width || y.len() != width {
                    return Err("`x` or `y` is not as wide as the curve");
                }
                PublicKey::ec(&[&[4], x.as_slice(), y.as_slice()].concat())
            }
            ("OKP", Some("Ed25519")) => PublicKey::ed25519(&number(&self.x)?),
            ("EC" | "OKP", _) => Err("`crv` is not a supported curve"),
            ("AKP", _) => Err("`kty` is `AKP`: ML-DSA keys are not supported"),
            _ => Err("`kty` is not a supported key type"),
        }
    }
}

fn number(member: &Option<String>) -> Result<Vec<u8>, &'static str> {
    let text = member.as_deref().ok_or("a member that its type requires is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is not base64url without padding")
}

/// The `kid` of an entry that may be odd in every other way.
fn kid_of(entry: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        kid: String,
    }
    object(entry.as_bytes()).map(|Named { kid }| kid).filter(|kid| kid.len() <= MAX_KID)
}

/// A derived struct would also be read from an array of its members' values, which is no JWK, and from bytes that are no text, as
/// long as they stand in members that it does not have.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    let text = std::str::from_utf8(json).ok()?;
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
}

/// [RFC 7638 §3](https://www.rfc-editor.org/rfc/rfc7638#section-3): the required members alone, in lexicographic order, no white space.
fn required_members(key: &PublicKey) -> String {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let ec = |curve: &str, coordinates: &[u8]| {
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        format!(r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#, text(x), text(y))
    };
    match key {
        PublicKey::Rsa { modulus, exponent } => {
            format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(exponent), text(modulus))
        }
        PublicKey::P256 { point: [_, coordinates @ ..] } => ec("P-256", coordinates),
        PublicKey::P384 { point: [_, coordinates @ ..] } => ec("P-384", coordinates),
        PublicKey::P521 { point: [_, coordinates @ ..] } => ec("P-521", coordinates),
        PublicKey::Ed25519 { point } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(point)),
    }
}

/// The largest document that is read, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
const TOO_LARGE: &str = "the document is larger than 256 KiB";
const MAX_ENTRIES: usize = 256;
const MAX_KEYS: usize = 64;
const MAX_CANDIDATES: usize = 4;
/// The longest `kid` of a key and of a token's header, in bytes.
pub(crate) const MAX_KID: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::crypto::corpus::{ED25519, ec, odd_keys, public_members, rsa},
        *,
    };
    use crate::token::test_tokens::{base64url, sign, with};

    fn set(keys: &[Value]) -> Result<JwkSet, JwkError> {
        JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn thumbprints_are_those_of_the_standards() {
        let table = [
            ("RFC 7638 §3.1", rsa().to_string(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
            ("RFC 8037 appendix A.3", ED25519.to_owned(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
            ("RFC 9449 §6.1", ec().to_string(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"),
        ];
        for (name, key, thumbprint) in table {
            assert_eq!(Jwk::from_json(&key).unwrap().thumbprint().as_str(), thumbprint, "{name}");
        }
    }

    #[test]
    fn signatures_of_the_standards_verify() {
        let es256 = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
        let table = [
            (
                "RFC 8037 appendix A.4",
                ED25519,
                Algorithm::Ed25519,
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
            (
                "RFC 7515 appendix A.3",
                es256,
                Algorithm::Es256,
                "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
        ];
        for (name, key, algorithm, jws) in table {
            let (message, signature) = jws.rsplit_once('.').unwrap();
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            let key = Jwk::from_json(key).unwrap();
            assert!(key.verify(algorithm, message.as_bytes(), &signature), "{name}");
            assert!(!key.verify(algorithm, &message.as_bytes()[1..], &signature), "{name}");
        }
    }

    #[test]
    fn odd_keys_are_left_out_one_by_one() {
        let odd = odd_keys();
        let mut keys: Vec<Value> = odd.iter().map(|(_, key)| key.clone()).collect();
        keys.extend([rsa(), ec(), serde_json::from_str(ED25519).unwrap()]);
        let loaded = set(&keys).unwrap();
        assert_eq!(
            loaded.iter().map(|key| key.kid().map(|kid| &**kid)).collect::<Vec<_>>(),
            [Some("2011-04-29"), Some("ec"), None]
        );
        for (index, (name, key)) in odd.iter().enumerate() {
            assert!(loaded.skipped().iter().any(|skipped| skipped.index == index), "{name}");
            assert!(Jwk::from_json(&key.to_string()).is_err(), "{name}");
        }
        assert_eq!(loaded.skipped().len(), odd.len());
        let of = |name: &str| odd.iter().position(|(odd, _)| *odd == name).unwrap();
        let skipped = |name: &str| loaded.skipped().iter().find(|skipped| skipped.index == of(name)).unwrap();
        assert_eq!(skipped("private member").kid.as_deref(), Some("ec"));
        for (name, why) in [
            ("ML-DSA as it is published", "ML-DSA keys are not supported"),
            ("unknown kty", "`kty` is not a supported key type"),
            ("symmetric", "private or secret"),
            ("symmetric without its key", "`kty` is not a supported key type"),
            ("ES512 on P-384", "`alg` does not fit"),
            ("Ed25519 off its curve", "not those of a public key"),
            ("small-order Ed25519", "small order"),
            ("8200-bit n", "2048 to 8192 bits"),
            ("exponent 3", "65537"),
        ] {
            assert!(skipped(name).why.contains(why), "{name}: {}", skipped(name).why);
        }
    }

    #[test]
    fn what_is_no_key_set_replaces_nothing() {
        let good = ec().to_string();
        let table: [(&str, String); 15] = [
            ("empty", String::new()),
            ("HTML", "<html></html>".to_owned()),
            ("array", format!("[[{good}]]")),
            ("key alone", good.clone()),
            ("no keys", "{}".to_owned()),
            ("empty list", r#"{"keys":[]}"#.to_owned()),
            ("null", r#"{"keys":null}"#.to_owned()),
            ("object", format!(r#"{{"keys":{good}}}"#)),
            ("twice", format!(r#"{{"keys":[{good}],"keys":[{good}]}}"#)),
            ("bytes after", format!(r#"{{"keys":[{good}]}}x"#)),
            ("truncated", format!(r#"{{"keys":[{good}]"#)),
            ("no usable key", r#"{"keys":[{"kty":"oct","k":"AA"}]}"#.to_owned()),
            ("byte order mark", format!("\u{feff}{{\"keys\":[{good}]}}")),
            ("too large", format!(r#"{{"keys":[{good}],"pad":"{}"}}"#, "x".repeat(256 * 1024))),
            ("deep", format!(r#"{{"keys":[{}{}]}}"#, "[".repeat(100_000), "]".repeat(100_000))),
        ];
        for (name, document) in table {
            assert!(JwkSet::parse(document.as_bytes()).is_err(), "{name}");
        }
        let odd_elsewhere = [b"{\"x\":\"\xff\",\"keys\":[", good.as_bytes(), b"]}"].concat();
        assert!(JwkSet::parse(&odd_elsewhere).is_err(), "not UTF-8, where nobody looks");
    }

    #[test]
    fn a_set_is_capped_and_keeps_each_key_once() {
        let many: Vec<_> = (0..300).map(|index| with(&ec(), json!({"kid": index.to_string()}))).collect();
        let loaded = set(&many).unwrap();
        assert_eq!((loaded.len(), loaded.skipped().len()), (64, 256 - 64 + 1));
        let full: Vec<_> = (0..256).map(|index| with(&ec(), json!({"kid": index.to_string()}))).collect();
        assert_eq!(set(&full).unwrap().skipped().len(), 256 - 64, "each was looked at");
        let padded = |size: usize| {
            let document = json!({"keys": [ec()]}).to_string();
            JwkSet::parse((document.clone() + &" ".repeat(size - document.len())).as_bytes()).is_ok()
        };
        assert!(padded(256 * 1024) && !padded(256 * 1024 + 1));
        let repeated = set(&[ec(), ec(), with(&rsa(), json!({"kid": "ec"}))]).unwrap();
        assert_eq!((repeated.len(), repeated.skipped().len()), (2, 1), "one `kid` may name two keys");
    }

    #[test]
    fn a_key_and_its_kid_have_bounds_and_a_curve_its_width() {
        let padded = |size: usize| {
            let key = ec().to_string();
            Jwk::from_json(&(key.clone() + &" ".repeat(size - key.len()))).is_ok()
        };
        assert!(padded(MAX_DOCUMENT) && !padded(MAX_DOCUMENT + 1));
        let read =
            |change: Value| Jwk::from_json(&with(&ec(), change).to_string()).err().map(|error| error.to_string());
        assert_eq!(read(json!({"kid": "k".repeat(256)})), None);
        assert!(read(json!({"kid": "k".repeat(257)})).unwrap().contains("256 bytes"));
        for member in ["x", "y"] {
            assert!(read(json!({member: base64url([1; 31])})).unwrap().contains("as wide as the curve"), "{member}");
        }
        assert!(read(json!({"crv": "secp256k1"})).unwrap().contains("`crv` is not a supported curve"));
    }

    #[test]
    fn a_key_written_as_json_is_read_as_the_same_key() {
        for key in [
            rsa(),
            with(&rsa(), json!({"alg": null, "kid": "a \"quoted\" \u{1} kid", "x5c": ["AAAA"]})),
            ec(),
            with(&ec(), json!({"kid": null, "key_ops": ["verify"]})),
            serde_json::from_str(ED25519).unwrap(),
        ] {
            let one = Jwk::from_json(&key.to_string()).unwrap();
            let other = Jwk::from_json(&one.to_json()).unwrap();
            assert_eq!(format!("{one:?}"), format!("{other:?}"));
            assert_eq!(one.to_json(), other.to_json());
            let members: Map<String, Value> = serde_json::from_str(&one.to_json()).unwrap();
            let public = ["alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"];
            assert!(members.keys().all(|name| public.contains(&name.as_str())), "{members:?}");
        }
    }

    #[test]
    fn candidates_fit_kid_and_algorithm_and_are_at_most_four() {
        let keys: Vec<_> = (0..6).map(|index| with(&ec(), json!({"kid": format!("k{index}")}))).collect();
        let loaded = set(&[keys.as_slice(), &[rsa(), with(&ec(), json!({"kid": null}))]].concat()).unwrap();
        let count = |kid, algorithm| loaded.candidates(kid, algorithm).count();
        assert_eq!(count(None, Algorithm::Es256), 4);
        assert_eq!(count(Some("k5"), Algorithm::Es256), 1);
        for (kid, algorithm) in [
            (Some("k5"), Algorithm::Es384),
            (Some("K5"), Algorithm::Es256),
            (Some("k5 "), Algorithm::Es256),
            (Some(""), Algorithm::Es256),
            (Some("2011-04-29"), Algorithm::Ps256),
            (None, Algorithm::Ed25519),
        ] {
            assert_eq!(count(kid, algorithm), 0, "{kid:?} {algorithm}");
        }
    }

    #[test]
    fn a_key_verifies_under_its_own_algorithm_alone() {
        for signed in Algorithm::ALL {
            let (members, signature) = (public_members(signed), sign(signed, b"m"));
            let unnamed = Jwk::from_json(&members.to_string()).unwrap();
            for algorithm in Algorithm::ALL {
                // An RSA key without `alg` is tried with each of six, and one of them holds.
                assert_eq!(unnamed.verify(algorithm, b"m", &signature), algorithm == signed, "{signed} as {algorithm}");
                let Ok(named) = Jwk::from_json(&with(&members, json!({"alg": algorithm.name()})).to_string()) else {
                    assert!(!unnamed.algorithms().any(|own| own == algorithm), "{signed} as {algorithm}");
                    continue;
                };
                assert_eq!(named.algorithms().collect::<Vec<_>>(), [algorithm], "{signed} as {algorithm}");
                assert_eq!(named.verify(signed, b"m", &signature), algorithm == signed, "{signed} under {algorithm}");
            }
        }
        for alg in ["EdDSA", "Ed25519"] {
            let key: Value = serde_json::from_str(ED25519).unwrap();
            let key = Jwk::from_json(&with(&key, json!({"alg": alg})).to_string()).unwrap();
            assert_eq!(key.algorithms().collect::<Vec<_>>(), [Algorithm::Ed25519], "{alg}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_document_makes_the_parser_panic(document in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = JwkSet::parse(&document);
            let wrapped = [b"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"".as_slice(), &document, b"\"}]}"].concat();
            let _ = JwkSet::parse(&wrapped);
        }
    }
}
