use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::TokenError;
use crate::{json, key::MAX_KID, principal::Thumbprint};

/// A compact JWS ([RFC 7515 §3.1](https://www.rfc-editor.org/rfc/rfc7515#section-3.1)) whose form is in order, and nothing more: no
/// word of it is verified.
pub(super) struct Jws<'a> {
    pub(super) header: Header,
    pub(super) claims: Map<String, Value>,
    pub(super) segments: Segments<'a>,
    pub(super) signature: Vec<u8>,
}

/// The header parameters that are used. `jwk`, `jku`, `x5u` and `x5c` are never: keys come from the issuer alone
/// ([RFC 8725 §3.10](https://www.rfc-editor.org/rfc/rfc8725#section-3.10)).
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<Arc<str>>,
    pub(super) typ: Option<String>,
    /// Whether there is any other than these three.
    pub(super) has_more: bool,
}

impl<'a> Jws<'a> {
    pub(super) fn parse(token: &'a [u8]) -> Result<Self, TokenError> {
        let segments = Segments::split(token).ok_or(TokenError::Malformed("not three segments"))?;
        let header =
            segments.header_object().ok_or(TokenError::Malformed("the header is not one JSON object in base64url"))?;
        let header = Header::read(header)?;
        let claims =
            segments.claims_object().ok_or(TokenError::Malformed("the payload is not one JSON object in base64url"))?;
        let signature = decode(segments.signature).ok_or(TokenError::Malformed("the signature is not base64url"))?;
        Ok(Self { header, claims, segments, signature })
    }
}

impl Header {
    fn read(mut parameters: Map<String, Value>) -> Result<Self, TokenError> {
        // RFC 7515 §4.1.11: an extension that is not understood must be refused, and none is. RFC 7797 (`b64`) and compression
        // change what is signed; `enc` belongs to encrypted tokens. All whether listed in `crit` or not.
        for name in ["crit", "b64", "zip", "enc"] {
            if parameters.contains_key(name) {
                return Err(TokenError::HeaderParameter(name));
            }
        }
        let mut text = |name, odd| match parameters.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Malformed(odd)),
        };
        let alg = text("alg", "`alg` is not a string")?.ok_or(TokenError::Malformed("`alg` is missing"))?;
        let typ = text("typ", "`typ` is not a string")?;
        let kid = text("kid", "`kid` is not a string")?;
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID) {
            return Err(TokenError::Malformed("`kid` is longer than 256 bytes"));
        }
        Ok(Self { alg, kid: kid.map(Into::into), typ, has_more: !parameters.is_empty() })
    }
}

/// The three segments of a token, not decoded.
#[derive(Clone, Copy)]
pub(super) struct Segments<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
    signing_input: &'a [u8],
}

impl<'a> Segments<'a> {
    /// `None` unless there are exactly two dots: five segments are an encrypted token, braces the JSON serialization.
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

    /// The exact bytes that the signature is over.
    pub(super) const fn signing_input(&self) -> &'a [u8] {
        self.signing_input
    }

    /// Over the signing input, which cannot be varied; over the whole token it could, because `(r, s)` and `(r, n − s)` both verify.
    pub(super) fn thumbprint(&self) -> Thumbprint {
        Thumbprint::new(URL_SAFE_NO_PAD.encode(Sha256::digest(self.signing_input)))
    }

    pub(super) fn header_object(&self) -> Option<Map<String, Value>> {
        json::object(&decode(self.header)?)
    }

    pub(super) fn claims_object(&self) -> Option<Map<String, Value>> {
        json::object(&decode(self.payload)?)
    }
}

/// Strict: no padding, no white space, no bits set after the last byte, so that a token has one text
/// ([RFC 4648 §3.5](https://www.rfc-editor.org/rfc/rfc4648#section-3.5)).
fn decode(segment: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(segment).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::token::test_tokens::{base64url, with};

    fn parse(text: &str) -> Result<Jws<'_>, TokenError> {
        Jws::parse(text.as_bytes())
    }

    fn refused(text: &str) -> Option<TokenError> {
        parse(text).err()
    }

    #[test]
    fn a_compact_jws_is_taken_apart() {
        let header = base64url(" {\"alg\":\"ES256\",\n\"kid\":\"k\",\"typ\":\"JWT\",\"x\":{}} ");
        let text = format!("{header}.{}.AAE", base64url(r#"{"iss":"i"}"#));
        let jws = parse(&text).unwrap();
        assert_eq!(
            (jws.header.alg.as_str(), jws.header.kid.as_deref(), jws.header.typ.as_deref()),
            ("ES256", Some("k"), Some("JWT"))
        );
        assert_eq!(jws.claims["iss"], "i");
        assert_eq!(jws.signature, [0, 1]);
        assert_eq!(jws.segments.signing_input(), text.rsplit_once('.').unwrap().0.as_bytes());
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
    fn other_forms_than_three_canonical_segments_are_malformed() {
        let (header, payload) = (base64url(r#"{"alg":"ES256"}"#), base64url(r#"{"iss":"i"}"#));
        let table: [(&str, String); 22] = [
            ("nothing", String::new()),
            ("no dot", header.clone()),
            ("two segments", format!("{header}.{payload}")),
            ("four segments", format!("{header}.{payload}.AA.")),
            ("encrypted", format!("{header}.AA.AA.AA.AA")),
            ("dots", ".".repeat(16 * 1024)),
            ("empty segments", "..".to_owned()),
            ("empty header", format!(".{payload}.AA")),
            ("empty payload", format!("{header}..AA")),
            ("JSON serialization", r#"{"payload":"e30","signature":"AA"}"#.to_owned()),
            ("JSON serialization with dots", r#"{"a":"b.c.d"}"#.to_owned()),
            ("padded header", format!("{header}=.{payload}.AA")),
            ("padded signature", format!("{header}.{payload}.AA==")),
            ("trailing bits", format!("{header}.{payload}.AB")),
            ("one character", format!("{header}.{payload}.A")),
            ("standard alphabet", format!("{header}.{payload}.+/AA")),
            ("white space", format!("{header}.{payload}.AA\n")),
            ("white space inside", format!("{header}.{} .AA", payload)),
            ("NUL", format!("{header}.{payload}\0.AA")),
            ("header is no object", format!("{}.{payload}.AA", base64url("[]"))),
            ("payload is no object", format!("{header}.{}.AA", base64url("\"a\""))),
            ("nested token", format!("{header}.{}.AA", base64url(format!("{header}.{payload}.AA")))),
        ];
        for (name, text) in table {
            assert!(matches!(refused(&text), Some(TokenError::Malformed(_))), "{name}");
        }
    }

    #[test]
    fn header_parameters_have_their_type_and_extensions_are_refused() {
        let good = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
        let refused_with = |changes| {
            let header = with(&good, changes);
            refused(&format!("{}.{}.AA", base64url(header.to_string()), base64url("{}")))
        };
        assert_eq!(refused_with(json!({})), None);
        let ignored = json!({"jwk": {"kty": "oct"}, "jku": "https://evil.example", "x5u": "https://evil.example", "x5c": ["AA"], "p2c": 9e9});
        assert_eq!(refused_with(ignored), None, "keys in the header are not looked at");
        for odd in [
            json!({"alg": null}),
            json!({"alg": 0}),
            json!({"alg": []}),
            json!({"alg": ["none"]}),
            json!({"alg": {}}),
            json!({"alg": true}),
            json!({"kid": 7}),
            json!({"kid": {}}),
            json!({"kid": "k".repeat(257)}),
            json!({"typ": 1}),
            json!({"typ": ["at+jwt"]}),
        ] {
            assert!(matches!(refused_with(odd.clone()), Some(TokenError::Malformed(_))), "{odd}");
        }
        for (name, value) in [
            ("crit", json!(["exp"])),
            ("crit", json!([])),
            ("crit", json!("b64")),
            ("crit", json!(["unknown", "unknown"])),
            ("b64", json!(false)),
            ("b64", json!(true)),
            ("zip", json!("DEF")),
            ("enc", json!("A128GCM")),
        ] {
            assert_eq!(
                refused_with(json!({ name: value })),
                Some(TokenError::HeaderParameter(name)),
                "{name}: {value}"
            );
        }
        let null_crit = format!("{}.{}.AA", base64url(r#"{"alg":"ES256","crit":null}"#), base64url("{}"));
        assert_eq!(refused(&null_crit), Some(TokenError::HeaderParameter("crit")));
        let null_alg = format!("{}.{}.AA", base64url(r#"{"alg":null}"#), base64url("{}"));
        assert!(matches!(refused(&null_alg), Some(TokenError::Malformed(_))));
        let twice = format!("{}.{}.AA", base64url(r#"{"alg":"none","alg":"ES256"}"#), base64url("{}"));
        assert!(matches!(refused(&twice), Some(TokenError::Malformed(_))));
    }
}
