//! Signatures over any bytes, in the compact form of [RFC 7515]: security events, webhooks, signed bundles, and, below the
//! [`Verifier`](super::Verifier), access tokens.
//!
//! [`verify`] reads a compact JWS and verifies it under a key set. One signature under one key, in whatever form it came, is
//! verified by [`Jwk::verify`].
//!
//! [RFC 7515]: https://www.rfc-editor.org/rfc/rfc7515

use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::TokenError;
use crate::{
    json::{self, Found},
    key::{Algorithm, Jwk, JwkSet, MAX_KID, SharedSecret},
    principal::Thumbprint,
};

/// Verifies a compact JWS ([RFC 7515 §3.1](https://www.rfc-editor.org/rfc/rfc7515#section-3.1)) and gives its payload.
///
/// What it checks, in this order, each failure a [`JwsError`] of its own:
///
/// 1. the size: at most 1 MiB;
/// 2. the form: three segments in canonical base64url, so that one JWS has one text; a header that is one JSON object without repeated
///    members, with at most 32 levels, 256 members in an object and 1024 values (over 16 KiB one for each 16 bytes); `alg`, `typ` and
///    `kid` as strings, `kid` of at most 256 bytes;
/// 3. that the header has no `crit`, `b64`, `zip` or `enc`. Keys in the header (`jwk`, `jku`, `x5c`, `x5u`) are never used
///    ([RFC 8725 §3.10](https://www.rfc-editor.org/rfc/rfc8725#section-3.10));
/// 4. `alg` against `algorithms`: an empty list verifies nothing;
/// 5. the signature, under the keys of the set that have the header's `kid`, if it gives one, and are for its `alg`: at most four.
///
/// What it leaves to the caller: everything that the payload and `typ` say. Whoever accepts a JWS for one purpose must tell it from
/// those for another that the same key signs, by [`typ`](VerifiedJws::typ) or by the shape of the payload
/// ([RFC 8725 §3.11](https://www.rfc-editor.org/rfc/rfc8725#section-3.11)), and check issuer, audience and times where it has them. For
/// access tokens the [`Verifier`](super::Verifier) does all that.
///
/// ```
/// use portcullis::{key::{Algorithm, JwkSet}, token::jws::{self, JwsError}};
///
/// // The example of RFC 8037, appendix A.4.
/// let keys = JwkSet::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#)?;
/// let compact = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
///                hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
///
/// let verified = jws::verify(compact, &keys, &[Algorithm::Ed25519])?;
/// assert_eq!(verified.payload(), b"Example of Ed25519 signing");
/// assert_eq!(verified.typ(), None, "made for no purpose that it names");
///
/// assert_eq!(jws::verify(compact, &keys, &[]).unwrap_err(), JwsError::Algorithm);
/// let tampered = compact.replace("RXhh", "RXhi");
/// assert_eq!(jws::verify(tampered, &keys, &[Algorithm::Ed25519]).unwrap_err(), JwsError::Signature);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`JwsError`], the first that applies in the order of its variants.
pub fn verify(compact: impl AsRef<[u8]>, keys: &JwkSet, algorithms: &[Algorithm]) -> Result<VerifiedJws, JwsError> {
    let mut buffer = Vec::new();
    let jws = Jws::parse(compact.as_ref(), MAX_SIZE, &mut buffer)?;
    let algorithm = jws.algorithm(algorithms)?;
    let key = jws.signing_key(algorithm, keys.candidates(jws.header.kid.as_deref(), algorithm))?.clone();
    Ok(VerifiedJws {
        payload: jws.payload.to_vec(),
        typ: jws.header.typ.as_deref().map(str::to_owned),
        key,
        algorithm,
        thumbprint: jws.segments.thumbprint(),
    })
}

/// A JWS whose signature was verified. What its payload says was not: see [`verify`].
///
/// Comes only out of [`verify`]:
///
/// ```compile_fail,E0451
/// use portcullis::token::jws::VerifiedJws;
/// fn forge(true_one: VerifiedJws) -> VerifiedJws {
///     VerifiedJws { payload: b"anything".to_vec(), ..true_one }
/// }
/// ```
///
/// Its `Debug` shows the key, never the payload.
#[derive(Clone)]
pub struct VerifiedJws {
    payload: Vec<u8>,
    typ: Option<String>,
    key: Jwk,
    algorithm: Algorithm,
    thumbprint: Thumbprint,
}

impl VerifiedJws {
    /// The bytes that were signed: any bytes, also none.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The same bytes, without a copy.
    #[must_use]
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The header's `typ`, which says what the JWS was made for ([RFC 7515 §4.1.9](https://www.rfc-editor.org/rfc/rfc7515#section-4.1.9)):
    /// as it is written, in any case and with or without `application/`.
    #[must_use]
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// The key under which the signature verified.
    #[must_use]
    pub const fn key(&self) -> &Jwk {
        &self.key
    }

    /// The algorithm of the signature: one of those that were allowed.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// base64url(SHA-256(JWS signing input)): names the JWS. Unlike a hash of the whole text it cannot be varied by re-encoding the
    /// signature.
    #[must_use]
    pub const fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }
}

impl fmt::Debug for VerifiedJws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedJws")
            .field("key", &self.key)
            .field("algorithm", &self.algorithm)
            .field("thumbprint", &self.thumbprint)
            .finish_non_exhaustive()
    }
}

/// Why a JWS was refused, in the order of the checks. For operators; holds nothing of the JWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwsError {
    /// Longer than the cap; not looked at.
    #[error("the JWS is longer than {limit} bytes")]
    TooLong {
        /// The cap in bytes.
        limit: usize,
    },
    /// Not three segments in canonical base64url, or no header that can be read in one way only. Nothing was verified.
    #[error("not a compact JWS: {0}")]
    Malformed(&'static str),
    /// The header names an extension that must be understood and is not (`crit`), or one that is never accepted (`b64`, `zip`, `enc`).
    /// Nothing was verified.
    #[error("the header has `{0}`, which is not accepted")]
    HeaderParameter(&'static str),
    /// The header's `alg` is not among those allowed. Nothing was verified.
    #[error("`alg` is not allowed")]
    Algorithm,
    /// No key of the set has the header's `kid` and algorithm.
    #[error("no key has this `kid` and algorithm")]
    UnknownKey,
    /// The signature does not verify under any key that has the header's `kid` and algorithm.
    #[error("the signature does not verify")]
    Signature,
}

impl From<JwsError> for TokenError {
    fn from(error: JwsError) -> Self {
        match error {
            JwsError::TooLong { limit } => Self::TooLong { limit },
            JwsError::Malformed(why) => Self::Malformed(why),
            JwsError::HeaderParameter(name) => Self::HeaderParameter(name),
            JwsError::Algorithm => Self::Algorithm,
            JwsError::UnknownKey => Self::UnknownKey,
            JwsError::Signature => Self::Signature,
        }
    }
}

/// A compact JWS whose form is in order, and nothing more: no word of it is verified.
pub(crate) struct Jws<'a> {
    pub(crate) header: Header<'a>,
    pub(super) segments: Segments<'a>,
    payload: &'a [u8],
    signature: &'a [u8],
}

/// The header parameters that are used.
pub(crate) struct Header<'a> {
    pub(crate) alg: Cow<'a, str>,
    pub(crate) kid: Option<Cow<'a, str>>,
    pub(super) typ: Option<Cow<'a, str>>,
    /// True when there are more than these.
    pub(super) has_others: bool,
}

impl<'a> Jws<'a> {
    /// Decodes into the buffer, which header, payload and signature then borrow.
    pub(crate) fn parse(token: &'a [u8], max_size: usize, buffer: &'a mut Vec<u8>) -> Result<Self, JwsError> {
        if token.len() > max_size {
            return Err(JwsError::TooLong { limit: max_size });
        }
        let segments = Segments::split(token).ok_or(JwsError::Malformed("not three segments"))?;
        let [header, payload, signature] =
            segments.decode(buffer).ok_or(JwsError::Malformed("a segment is not canonical base64url"))?;
        Ok(Self { header: Header::read(header)?, segments, payload, signature })
    }

    /// The payload as the claims of a token.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, JwsError> {
        json::object(self.payload).ok_or(NOT_CLAIMS)
    }

    /// What is said under these names. Whether the claims are in order is for [`claims`](Self::claims) to find out, once somebody has
    /// signed them.
    pub(super) fn claims_named<const N: usize>(&self, names: [&str; N]) -> Result<[Option<Found<'a>>; N], JwsError> {
        json::glance(self.payload, names).ok_or(NOT_CLAIMS)
    }

    /// The bytes that are signed, of which nothing is verified.
    #[cfg(feature = "bundles")]
    pub(crate) const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// `alg`, when it is one of these.
    pub(crate) fn algorithm(&self, allowed: &[Algorithm]) -> Result<Algorithm, JwsError> {
        Algorithm::from_name(&self.header.alg).filter(|named| allowed.contains(named)).ok_or(JwsError::Algorithm)
    }

    /// Whether the signature is the HMAC of this secret.
    pub(crate) fn is_made_with(&self, secret: &SharedSecret) -> bool {
        secret.verify(self.segments.signing_input, self.signature)
    }

    /// The first of these keys under which the signature verifies.
    pub(crate) fn signing_key<'k>(
        &self,
        algorithm: Algorithm,
        candidates: impl Iterator<Item = &'k Jwk>,
    ) -> Result<&'k Jwk, JwsError> {
        let mut refusal = JwsError::UnknownKey;
        for key in candidates {
            if key.verify(algorithm, self.segments.signing_input, self.signature) {
                return Ok(key);
            }
            refusal = JwsError::Signature;
        }
        Err(refusal)
    }
}

impl<'a> Header<'a> {
    fn read(header: &'a [u8]) -> Result<Self, JwsError> {
        let ([crit, b64, zip, enc, alg, kid, typ], count) =
            json::members(header, ["crit", "b64", "zip", "enc", "alg", "kid", "typ"])
                .ok_or(JwsError::Malformed("the header is not one JSON object"))?;
        // RFC 7515 §4.1.11: an extension that is not understood must be refused, and none is. RFC 7797 (`b64`) and compression
        // change what is signed; `enc` belongs to encrypted tokens. All whether listed in `crit` or not, and whatever their value.
        for (name, value) in [("crit", crit), ("b64", b64), ("zip", zip), ("enc", enc)] {
            if value.is_some() {
                return Err(JwsError::HeaderParameter(name));
            }
        }
        let text = |value, odd| match value {
            None => Ok(None),
            Some(Found::Text(text)) => Ok(Some(text)),
            Some(_) => Err(JwsError::Malformed(odd)),
        };
        let alg = text(alg, "`alg` is not a string")?.ok_or(JwsError::Malformed("`alg` is missing"))?;
        let typ = text(typ, "`typ` is not a string")?;
        let kid = text(kid, "`kid` is not a string")?;
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID) {
            return Err(JwsError::Malformed("`kid` is longer than 256 bytes"));
        }
        let has_others = count > 1 + usize::from(kid.is_some()) + usize::from(typ.is_some());
        Ok(Self { alg, kid, typ, has_others })
    }
}

/// The three segments of a token, not decoded.
#[derive(Clone, Copy)]
pub(super) struct Segments<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
    /// The exact bytes that the signature is over.
    signing_input: &'a [u8],
}

impl<'a> Segments<'a> {
    /// `None` unless there are exactly two dots: five segments are an encrypted token, braces the JSON serialization. Reads no
    /// further than the third dot, and decodes nothing.
    pub(super) fn split(token: &'a [u8]) -> Option<Self> {
        let mut dots = token.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(index, _)| index);
        let (first, second) = (dots.next()?, dots.next()?);
        if dots.next().is_some() {
            return None;
        }
        Some(Self {
            header: token.get(..first)?,
            payload: token.get(first + 1..second)?,
            signature: token.get(second + 1..)?,
            signing_input: token.get(..second)?,
        })
    }

    /// Over the signing input, which cannot be varied; over the whole token it could, because `(r, s)` and `(r, n − s)` both verify.
    pub(super) fn thumbprint(&self) -> Thumbprint {
        Thumbprint::new(URL_SAFE_NO_PAD.encode(Sha256::digest(self.signing_input)))
    }

    /// How many bytes are signed.
    pub(super) const fn signed_len(&self) -> usize {
        self.signing_input.len()
    }

    pub(super) fn header(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.header).ok()
    }

    pub(super) fn payload(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.payload).ok()
    }

    /// Header, payload and signature, in one buffer that is three quarters of the token's size.
    ///
    /// Strict: no padding, no white space, no bits set after the last byte, so that a token has one text
    /// ([RFC 4648 §3.5](https://www.rfc-editor.org/rfc/rfc4648#section-3.5)).
    fn decode<'b>(&self, buffer: &'b mut Vec<u8>) -> Option<[&'b [u8]; 3]> {
        buffer.clear();
        buffer.reserve_exact(base64::decoded_len_estimate(self.signing_input.len() + self.signature.len()));
        let mut append = |segment| {
            URL_SAFE_NO_PAD.decode_vec(segment, buffer).ok()?;
            Some(buffer.len())
        };
        let (header_end, payload_end) = (append(self.header)?, append(self.payload)?);
        append(self.signature)?;
        let (header, rest) = buffer.split_at_checked(header_end)?;
        let (payload, signature) = rest.split_at_checked(payload_end - header_end)?;
        Some([header, payload, signature])
    }
}

/// The longest JWS that [`verify`] looks at, in bytes.
const MAX_SIZE: usize = 1024 * 1024;

const NOT_CLAIMS: JwsError = JwsError::Malformed("the payload is not one JSON object");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::token::test_tokens::{base64url, header, public_key, public_keys, seal, sign, with};

    /// What becomes of a text as a token, before any crypto.
    fn refused(text: &str) -> Option<JwsError> {
        let mut buffer = Vec::new();
        Jws::parse(text.as_bytes(), MAX_SIZE, &mut buffer).and_then(|jws| jws.claims()).err()
    }

    fn refused_header(header: impl AsRef<[u8]>) -> Option<JwsError> {
        refused(&format!("{}.{}.AA", base64url(header), base64url("{}")))
    }

    fn compact(algorithm: Algorithm, header: &Value, payload: impl AsRef<[u8]>) -> String {
        String::from_utf8(seal(algorithm, header.to_string(), payload).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_compact_jws_is_taken_apart() {
        let header = base64url(" {\"alg\":\"ES256\",\n\"kid\":\"a\\/b\",\"typ\":\"JWT\",\"x\":{}} ");
        let text = format!("{header}.{}.AAE", base64url(r#"{"iss":"i"}"#));
        let mut buffer = Vec::new();
        let jws = Jws::parse(text.as_bytes(), MAX_SIZE, &mut buffer).unwrap();
        assert_eq!(
            (&*jws.header.alg, jws.header.kid.as_deref(), jws.header.typ.as_deref()),
            ("ES256", Some("a/b"), Some("JWT"))
        );
        assert!(matches!(jws.header.alg, Cow::Borrowed(_)), "not copied");
        assert_eq!(jws.claims().unwrap()["iss"], "i");
        assert_eq!(jws.signature, [0, 1]);
        assert_eq!(jws.segments.signing_input, text.rsplit_once('.').unwrap().0.as_bytes());
    }

    #[test]
    fn the_thumbprint_is_over_the_signing_input_alone() {
        // The signing input of RFC 7515 appendix A.3.
        let input = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let thumbprint =
            |signature: &str| Segments::split(format!("{input}.{signature}").as_bytes()).unwrap().thumbprint();
        assert_eq!(thumbprint("AA").as_str(), "IcZzaPQ2V39Ef4BRYsoTuA0Eaj_kZyR-ZepHeqdQ-i4");
        assert_eq!(thumbprint("AA"), thumbprint("other"));
    }

    #[test]
    fn what_a_verified_jws_tells_is_what_was_signed() {
        for algorithm in Algorithm::ALL {
            for payload in [&b""[..], b"\0\xff", b"{\"a\":1,\"a\":2}", b"not JSON"] {
                let text = compact(algorithm, &with(&header(algorithm), json!({"typ": "secevent+jwt"})), payload);
                let verified = verify(&text, &public_keys(), &Algorithm::ALL).unwrap();
                assert_eq!((verified.payload(), verified.typ()), (payload, Some("secevent+jwt")));
                assert_eq!(
                    (verified.algorithm(), verified.key().kid().map(|kid| &**kid)),
                    (algorithm, Some(algorithm.name()))
                );
                assert_eq!(*verified.thumbprint(), Segments::split(text.as_bytes()).unwrap().thumbprint());
                assert_eq!(verified.into_payload(), payload);
            }
        }
        let canary = compact(Algorithm::Ed25519, &header(Algorithm::Ed25519), "canary");
        let verified = verify(canary, &public_keys(), &Algorithm::ALL).unwrap();
        assert!(!format!("{verified:?} {:?}", verified.payload()).contains("canary"));
    }

    #[test]
    fn only_the_algorithms_of_the_list_verify() {
        for algorithm in Algorithm::ALL {
            let text = compact(algorithm, &header(algorithm), "payload");
            let others: Vec<_> = Algorithm::ALL.into_iter().filter(|other| *other != algorithm).collect();
            for (name, keys, allowed, expected) in [
                ("allowed", public_keys(), &[algorithm][..], None),
                ("empty list", public_keys(), &[], Some(JwsError::Algorithm)),
                ("others", public_keys(), &others, Some(JwsError::Algorithm)),
                ("no key", JwkSet::default(), &[algorithm], Some(JwsError::UnknownKey)),
            ] {
                assert_eq!(verify(&text, &keys, allowed).err(), expected, "{algorithm}: {name}");
            }
        }
    }

    #[test]
    fn without_kid_four_keys_are_tried_and_no_fifth() {
        let strangers = || {
            std::iter::repeat_with(|| {
                let key = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
                let x = base64url(aws_lc_rs::signature::KeyPair::public_key(&key));
                Jwk::from_json(&json!({"kty": "OKP", "crv": "Ed25519", "x": x}).to_string()).unwrap()
            })
        };
        let own = public_key(Algorithm::Ed25519);
        let text = compact(Algorithm::Ed25519, &json!({"alg": "Ed25519"}), "payload");
        for (before, expected) in [(0, None), (3, None), (4, Some(JwsError::Signature)), (9, Some(JwsError::Signature))]
        {
            let keys: JwkSet = strangers().take(before).chain([own.clone()]).collect();
            assert_eq!(verify(&text, &keys, &Algorithm::ALL).err(), expected, "{before} keys before it");
        }
        let named = compact(Algorithm::Ed25519, &header(Algorithm::Ed25519), "payload");
        let keys: JwkSet = strangers().take(9).chain([own]).collect();
        assert_eq!(verify(&named, &keys, &Algorithm::ALL).err(), None, "`kid` names it");
    }

    #[test]
    fn the_size_is_checked_before_any_work() {
        let dots = ".".repeat(MAX_SIZE + 1);
        let mut buffer = Vec::new();
        let parsed = Jws::parse(dots.as_bytes(), MAX_SIZE, &mut buffer).err();
        assert_eq!(parsed, Some(JwsError::TooLong { limit: MAX_SIZE }));
        let parsed = Jws::parse(&dots.as_bytes()[1..], MAX_SIZE, &mut buffer).err();
        assert_eq!(parsed, Some(JwsError::Malformed("not three segments")));
        assert_eq!(buffer.capacity(), 0, "dots cost no memory");
        assert_eq!(verify(&dots, &public_keys(), &Algorithm::ALL).err(), Some(JwsError::TooLong { limit: MAX_SIZE }));
        let longest = compact(Algorithm::Ed25519, &header(Algorithm::Ed25519), vec![7; 786_000]);
        assert!((MAX_SIZE - 1024..=MAX_SIZE).contains(&longest.len()), "{}", longest.len());
        assert_eq!(verify(&longest, &public_keys(), &Algorithm::ALL).unwrap().payload().len(), 786_000);
    }

    #[test]
    fn a_token_is_decoded_into_less_memory_than_its_text_takes() {
        for length in [0, 1, 2, 3, 100, 101, 102, 10_000] {
            let text = compact(Algorithm::Ed25519, &header(Algorithm::Ed25519), vec![b'x'; length]);
            let mut buffer = Vec::new();
            Jws::parse(text.as_bytes(), MAX_SIZE, &mut buffer).unwrap();
            assert!(buffer.capacity() < text.len(), "{length}: {} of {}", buffer.capacity(), text.len());
        }
    }

    #[test]
    fn other_forms_than_three_canonical_segments_are_malformed() {
        let (header, payload) = (base64url(r#"{"alg":"ES256"}"#), base64url(r#"{"iss":"i"}"#));
        let good = format!("{header}.{payload}.AA");
        assert_eq!(refused(&good), None);
        let member = r#""signature":"AA","header":{"alg":"ES256"}"#;
        let table: [(&str, String); 36] = [
            ("nothing", String::new()),
            ("no dot", header.clone()),
            ("two segments", format!("{header}.{payload}")),
            ("four segments", format!("{header}.{payload}.AA.")),
            ("four segments, first empty", format!(".{good}")),
            ("encrypted", format!("{header}.AA.AA.AA.AA")),
            ("encrypted, directly", format!("{header}..AA.AA.AA")),
            ("six segments", format!("{good}.{good}")),
            ("dots", ".".repeat(16 * 1024)),
            ("empty segments", "..".to_owned()),
            ("empty header", format!(".{payload}.AA")),
            ("empty payload", format!("{header}..AA")),
            ("JSON serialization", r#"{"payload":"e30","signature":"AA"}"#.to_owned()),
            ("JSON serialization with dots", r#"{"a":"b.c.d"}"#.to_owned()),
            ("flattened", format!(r#"{{"protected":"{header}","payload":"{payload}",{member}}}"#)),
            ("several signatures", format!(r#"{{"payload":"{payload}","signatures":[{{{member}}},{{{member}}}]}}"#)),
            ("compact in JSON", format!(r#"{{"  {good}":0,"payload":"{payload}",{member}}}"#)),
            ("JSON around compact", format!(r#"{{"protected":"{good}"}}"#)),
            ("list", format!("{good},{good}")),
            ("padded header", format!("{header}=.{payload}.AA")),
            ("padded payload", format!("{header}.{payload}=.AA")),
            ("padded signature", format!("{header}.{payload}.AA==")),
            ("trailing bits", format!("{header}.{payload}.AB")),
            ("trailing bits in the payload", format!("{header}.e31.AA")),
            ("one character", format!("{header}.{payload}.A")),
            ("standard alphabet", format!("{header}.{payload}.+/AA")),
            ("white space before", format!(" {good}")),
            ("white space after", format!("{good}\n")),
            ("white space inside", format!("{header}.{payload} .AA")),
            ("line broken", format!("{header}.\r\n{payload}.AA")),
            ("NUL", format!("{header}.{payload}\0.AA")),
            ("percent encoded", format!("{header}%2e{payload}.AA")),
            ("header is no object", format!("{}.{payload}.AA", base64url("[]"))),
            ("payload is no object", format!("{header}.{}.AA", base64url("\"a\""))),
            ("nested token", format!("{header}.{}.AA", base64url(&good))),
            ("nested token in JSON", format!("{header}.{}.AA", base64url(format!("\"{good}\"")))),
        ];
        for (name, text) in table {
            assert!(matches!(refused(&text), Some(JwsError::Malformed(_))), "{name}");
        }
    }

    #[test]
    fn header_parameters_have_their_type_and_extensions_are_refused() {
        let good = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
        let refused_with = |changes| refused_header(with(&good, changes).to_string());
        assert_eq!(refused_with(json!({})), None);
        let ignored = json!({
            "jwk": {"kty": "oct", "k": "AA"}, "jku": "https://evil.example", "x5u": "https://evil.example",
            "x5c": ["AA"], "x5t": 7, "p2c": 9e9, "p2s": "AA", "epk": {}, "apu": "AA", "cty": "JWT",
        });
        assert_eq!(refused_with(ignored), None, "keys in the header are not looked at");
        for odd in [
            r#"{"kid":7}"#,
            r#"{"kid":null}"#,
            r#"{"kid":{}}"#,
            r#"{"kid":["k"]}"#,
            r#"{"typ":1}"#,
            r#"{"typ":null}"#,
            r#"{"typ":["at+jwt"]}"#,
            r#"{"typ":{"at+jwt":1}}"#,
        ] {
            let header = odd.replacen('{', r#"{"alg":"ES256","#, 1);
            assert!(matches!(refused_header(&header), Some(JwsError::Malformed(_))), "{header}");
        }
        for (length, expected) in [(256, None), (257, Some(JwsError::Malformed("`kid` is longer than 256 bytes")))] {
            assert_eq!(refused_with(json!({"kid": "k".repeat(length)})), expected);
        }
        assert!(matches!(refused_with(json!({"kid": "k".repeat(64 * 1024)})), Some(JwsError::Malformed(_))));
    }

    #[test]
    fn without_an_alg_that_is_a_string_nothing_goes_on() {
        for alg in [
            "",
            r#""alg":null"#,
            r#""alg":0"#,
            r#""alg":256"#,
            r#""alg":[]"#,
            r#""alg":["none"]"#,
            r#""alg":["ES256"]"#,
            r#""alg":{}"#,
            r#""alg":{"name":"ES256"}"#,
            r#""alg":true"#,
            r#""alg":false"#,
            r#""Alg":"ES256""#,
            r#""ALG":"ES256""#,
            r#""alg\u0000":"ES256""#,
            r#"" alg":"ES256""#,
            r#""alg":"none","alg":"ES256""#,
            r#""alg":"ES256","\u0061lg":"none""#,
        ] {
            let header = format!("{{{alg}}}");
            assert!(matches!(refused_header(&header), Some(JwsError::Malformed(_))), "{header}");
        }
        let unsigned = [
            "none",
            "None",
            "NONE",
            "nOnE",
            "none ",
            " none",
            "none\0",
            "n\u{f6}ne",
            "\u{ff4e}one",
            "",
            " ",
            "null",
            "HS256",
            "HS384",
            "HS512",
            "PBES2-HS256+A128KW",
            "PBES2-HS512+A256KW",
            "dir",
            "RSA1_5",
            "RSA-OAEP-256",
            "ECDH-ES",
            "A128KW",
            "A256GCMKW",
            "es256",
            "ES256 ",
            "ES256\0",
            "Es256",
            "ES512K",
            "RS1",
        ];
        for alg in unsigned {
            for signature in [Vec::new(), sign(Algorithm::Ed25519, b"other"), vec![0; 64]] {
                let text = format!("{}.e30.{}", base64url(json!({"alg": alg}).to_string()), base64url(signature));
                for keys in [JwkSet::default(), public_keys()] {
                    assert_eq!(verify(&text, &keys, &Algorithm::ALL).err(), Some(JwsError::Algorithm), "{alg:?}");
                }
            }
        }
        assert_eq!(refused_header(r#"{"\u0061lg":"ES256"}"#), None, "an escape is no other name");
    }

    #[test]
    fn an_extension_is_refused_whatever_its_value() {
        for (name, value) in [
            ("crit", r#"["exp"]"#),
            ("crit", "[]"),
            ("crit", r#""b64""#),
            ("crit", r#"["unknown"]"#),
            ("crit", r#"["unknown","unknown"]"#),
            ("crit", r#"["alg"]"#),
            ("crit", r#"["kid","typ","crit"]"#),
            ("crit", r#"[""]"#),
            ("crit", "[null]"),
            ("crit", "null"),
            ("crit", "{}"),
            ("crit", "false"),
            ("b64", "false"),
            ("b64", "true"),
            ("b64", "null"),
            ("b64", r#""false""#),
            ("zip", r#""DEF""#),
            ("zip", r#""GZ""#),
            ("zip", "null"),
            ("enc", r#""A128GCM""#),
            ("enc", "0"),
        ] {
            for header in [
                format!(r#"{{"alg":"ES256","{name}":{value}}}"#),
                format!(r#"{{"{name}":{value},"alg":"ES256"}}"#),
                format!(r#"{{"alg":"ES256","\u{:04x}{}":{value}}}"#, u32::from(name.as_bytes()[0]), &name[1..]),
            ] {
                assert_eq!(refused_header(&header), Some(JwsError::HeaderParameter(name)), "{header}");
            }
        }
        let listed = r#"{"alg":"ES256","b64":false,"crit":["b64"]}"#;
        assert_eq!(refused_header(listed), Some(JwsError::HeaderParameter("crit")));
        assert_eq!(refused_header(r#"{"alg":"ES256","crit ":["x"],"Crit":1}"#), None, "another name is another name");
    }

    #[test]
    fn header_and_payload_are_read_in_one_way_or_not_at_all() {
        let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let wide = (0..256).map(|index| format!(",\"m{index}\":0")).collect::<String>();
        let table: [(&str, Vec<u8>); 16] = [
            ("repeated member", br#"{"alg":"ES256","a":1,"a":1}"#.to_vec()),
            ("repeated by an escape", br#"{"alg":"ES256","kid":"a","k\u0069d":"b"}"#.to_vec()),
            ("repeated inside", br#"{"alg":"ES256","jwk":{"kty":"EC","kty":"EC"}}"#.to_vec()),
            ("repeated in an array", br#"{"alg":"ES256","x":[[{"a":1,"b":2,"a":3}]]}"#.to_vec()),
            ("too deep", format!(r#"{{"alg":"ES256","x":{}}}"#, deep(32)).into_bytes()),
            ("much too deep", format!(r#"{{"alg":"ES256","x":{}}}"#, deep(100_000)).into_bytes()),
            ("never closed", br#"{"alg":"ES256","x":[[[["#.to_vec()),
            ("too wide", format!(r#"{{"alg":"ES256"{wide}}}"#).into_bytes()),
            ("too many values", format!(r#"{{"alg":"ES256","x":[{}0]}}"#, "0,".repeat(4096)).into_bytes()),
            ("invalid UTF-8", b"{\"alg\":\"ES256\",\"x\":\"\xff\"}".to_vec()),
            ("invalid UTF-8 in a name", b"{\"alg\":\"ES256\",\"\xc3\":1}".to_vec()),
            ("byte order mark", b"\xef\xbb\xbf{\"alg\":\"ES256\"}".to_vec()),
            ("UTF-16", b"{\0\"\0a\0l\0g\0\"\0:\x001\0}\0".to_vec()),
            ("lone surrogate", br#"{"alg":"ES256","x":"\ud800"}"#.to_vec()),
            ("value after", br#"{"alg":"ES256"}{"alg":"none"}"#.to_vec()),
            ("byte after", b"{\"alg\":\"ES256\"}\0".to_vec()),
        ];
        for (name, document) in table {
            let in_header = format!("{}.e30.AA", base64url(&document));
            assert_eq!(refused(&in_header), Some(JwsError::Malformed("the header is not one JSON object")), "{name}");
            let in_payload = format!("{}.{}.AA", base64url(r#"{"alg":"ES256"}"#), base64url(&document));
            assert_eq!(refused(&in_payload), Some(JwsError::Malformed("the payload is not one JSON object")), "{name}");
        }
        let long = format!(r#"{{"alg":"ES256","x":"{}","n":{}}}"#, "x".repeat(300_000), "7".repeat(300));
        assert_eq!(refused_header(&long), None, "long is not odd");
    }

    #[test]
    fn a_bit_changed_anywhere_is_refused() {
        for algorithm in Algorithm::ALL {
            let good = compact(algorithm, &header(algorithm), "{\"sub\":\"alice\"}").into_bytes();
            let keys: JwkSet = [public_key(algorithm)].into_iter().collect();
            assert!(verify(&good, &keys, &Algorithm::ALL).is_ok(), "{algorithm}");
            for index in 0..good.len() {
                for bit in 0..8 {
                    let mut changed = good.clone();
                    changed[index] ^= 1 << bit;
                    assert!(
                        verify(&changed, &keys, &Algorithm::ALL).is_err(),
                        "{algorithm}: bit {bit} of byte {index}"
                    );
                }
                assert!(
                    verify(&good[..index], &keys, &Algorithm::ALL).is_err(),
                    "{algorithm}: the first {index} bytes"
                );
                let without = [&good[..index], &good[index + 1..]].concat();
                assert!(verify(without, &keys, &Algorithm::ALL).is_err(), "{algorithm}: without byte {index}");
            }
        }
    }

    /// Texts that are nearly tokens.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let json = prop::sample::select(vec![
            "{\"alg\":\"ES256\"}",
            "{\"alg\":\"ES256\",\"kid\":\"k\"}",
            "{}",
            "{\"a\":[1,2]}",
            "[",
            "{\"a\":1,\"a\":2}",
            "\"\"",
            "",
        ]);
        let segment = prop_oneof![
            json.prop_map(base64url),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(base64url),
            "[A-Za-z0-9_=+/ -]{0,12}",
        ];
        prop_oneof![
            prop::collection::vec(segment, 1..6).prop_map(|segments| segments.join(".").into_bytes()),
            prop::collection::vec(any::<u8>(), 0..200),
        ]
    }

    proptest! {
        #[test]
        fn what_is_parsed_has_one_text_and_nothing_panics(text in texts()) {
            let mut buffer = Vec::new();
            if let Ok(jws) = Jws::parse(&text, MAX_SIZE, &mut buffer) {
                let header = jws.segments.header().unwrap();
                let encoded = [header.as_slice(), jws.payload, jws.signature].map(base64url).join(".");
                prop_assert_eq!(encoded.into_bytes(), text.clone());
                let _ = jws.claims();
            }
            prop_assert!(verify(&text, &public_keys(), &Algorithm::ALL).is_err());
        }

        #[test]
        fn only_what_was_signed_is_accepted(payload in prop::collection::vec(any::<u8>(), 0..60), index in any::<prop::sample::Index>(), byte in any::<u8>()) {
            for algorithm in Algorithm::ALL {
                let mut text = compact(algorithm, &header(algorithm), &payload).into_bytes();
                let verified = verify(&text, &public_keys(), &[algorithm]).unwrap();
                prop_assert_eq!(verified.payload(), &payload);
                let index = index.index(text.len());
                if text[index] != byte {
                    text[index] = byte;
                    prop_assert!(verify(&text, &public_keys(), &Algorithm::ALL).is_err(), "{}", algorithm);
                }
            }
        }
    }
}
