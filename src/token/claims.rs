use super::jws::{Jws, Segments};
use crate::{
    json::{self, Found},
    principal::Thumbprint,
};

/// The claims of a verified token as a type of the application's own, for handlers. Made by
/// [`VerifiedToken::claims_as`](super::VerifiedToken::claims_as).
#[derive(Clone, Debug)]
pub struct Claims<T>(pub T);

/// The claims of a verified token do not have the shape that was asked for.
///
/// Says no more than that: a deserializer's message would quote the claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claims do not have the shape that was asked for")]
#[non_exhaustive]
pub struct ClaimsError;

/// What an unverified token claims: attacker text, for the audit record alone. There is no way from here to a
/// [`VerifiedToken`](super::VerifiedToken).
///
/// Each text is at most 256 bytes long, ending in `…` where it was cut; characters that could forge or reorder a log line are
/// replaced by U+FFFD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claimed {
    /// base64url(SHA-256(signing input)); `None` when the token has not three segments.
    pub thumbprint: Option<Thumbprint>,
    /// `iss` as claimed.
    pub issuer: Option<String>,
    /// `sub` as claimed.
    pub subject: Option<String>,
    /// `jti` as claimed.
    pub token_id: Option<String>,
    /// `exp` as claimed, in whole seconds since 1970.
    pub expires_at: Option<u64>,
    /// `kid` as claimed.
    pub key_id: Option<String>,
}

impl Claimed {
    /// Of a token over the cap only the thumbprint is taken, which needs no memory.
    pub(super) fn of(token: &[u8], max_token_size: usize) -> Self {
        let Some(segments) = Segments::split(token) else {
            return Self::default();
        };
        let named = Self { thumbprint: Some(segments.thumbprint()), ..Self::default() };
        if token.len() > max_token_size {
            return named;
        }
        let (header, payload) = (segments.header().unwrap_or_default(), segments.payload().unwrap_or_default());
        let [key_id] = json::glance(&header, ["kid"]).unwrap_or_default();
        let key_id = match &key_id {
            Some(Found::Text(key_id)) => Some(printable(key_id)),
            _ => None,
        };
        Self { key_id, ..named }.with(&json::glance(&payload, CLAIMED).unwrap_or_default())
    }

    /// The same of a token that was read already.
    pub(super) fn of_read(jws: &Jws<'_>, claims: &[Option<Found<'_>>; CLAIMED.len()]) -> Self {
        let key_id = jws.header.kid.as_deref().map(printable);
        Self { thumbprint: Some(jws.segments.thumbprint()), key_id, ..Self::default() }.with(claims)
    }

    fn with(self, claims: &[Option<Found<'_>>; CLAIMED.len()]) -> Self {
        let [issuer, subject, token_id, expires_at] = claims;
        let text = |claim: &Option<Found<'_>>| match claim {
            Some(Found::Text(text)) => Some(printable(text)),
            _ => None,
        };
        Self {
            issuer: text(issuer),
            subject: text(subject),
            token_id: text(token_id),
            expires_at: whole_seconds(expires_at.as_ref()),
            ..self
        }
    }
}

/// The claims that are read before the signature.
pub(super) const CLAIMED: [&str; 4] = ["iss", "sub", "jti", "exp"];

fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars() {
        let character = if forges_lines(character) { char::REPLACEMENT_CHARACTER } else { character };
        if printable.len() + character.len_utf8() > MAX_TEXT - ELLIPSIS.len_utf8() {
            printable.push(ELLIPSIS);
            break;
        }
        printable.push(character);
    }
    printable
}

/// Controls, line and paragraph separators, and what changes the direction of the text after it.
fn forges_lines(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn whole_seconds(member: Option<&Found<'_>>) -> Option<u64> {
    let Some(Found::Number(number)) = member else { return None };
    // `as` saturates: an absurd time stays absurd.
    number.as_u64().or_else(|| number.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

const MAX_TEXT: usize = 256;
const ELLIPSIS: char = '…';

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::token::test_tokens::base64url;

    fn claimed(header: &Value, payload: &Value) -> Claimed {
        let token = format!("{}.{}.AA", base64url(header.to_string()), base64url(payload.to_string()));
        Claimed::of(token.as_bytes(), 16 * 1024)
    }

    #[test]
    fn what_an_unverified_token_says_is_taken_as_it_is_and_believed_nowhere() {
        let claimed =
            claimed(&json!({"kid": "k"}), &json!({"iss": "i", "sub": "s", "jti": "j", "exp": 17.9, "aud": 3}));
        assert_eq!(claimed.issuer.as_deref(), Some("i"));
        assert_eq!(claimed.subject.as_deref(), Some("s"));
        assert_eq!(claimed.token_id.as_deref(), Some("j"));
        assert_eq!(claimed.key_id.as_deref(), Some("k"));
        assert_eq!(claimed.expires_at, Some(17));
        assert_eq!(claimed.thumbprint.unwrap().as_str().len(), 43);
    }

    #[test]
    fn claimed_text_is_capped_and_cannot_forge_a_line() {
        let long =
            claimed(&json!({}), &json!({"sub": "é".repeat(500), "iss": "x".repeat(256), "jti": "x".repeat(253)}));
        let subject = long.subject.unwrap();
        assert!(subject.len() <= 256 && subject.ends_with("é…"), "{}", subject.len());
        assert_eq!(long.issuer.unwrap(), format!("{}…", "x".repeat(253)));
        assert_eq!(long.token_id.unwrap(), "x".repeat(253));

        let odd = claimed(&json!({"kid": "\u{1b}[2J"}), &json!({"sub": "a\r\n{\"forged\":1}\u{2028}\u{202e}\0"}));
        assert_eq!(odd.subject.unwrap(), "a\u{fffd}\u{fffd}{\"forged\":1}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(odd.key_id.unwrap(), "\u{fffd}[2J");
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let wrong = claimed(&json!({"kid": 7}), &json!({"iss": ["i"], "sub": {}, "jti": null, "exp": "17"}));
        assert_eq!(wrong, Claimed { thumbprint: wrong.thumbprint.clone(), ..Claimed::default() });
        let negative = claimed(&json!({}), &json!({"exp": -1}));
        assert_eq!(negative.expires_at, None);
        let huge = claimed(&json!({}), &json!({"exp": 1e300}));
        assert_eq!(huge.expires_at, Some(u64::MAX));
        for text in ["", ".", "a.b", "....", "a.b.c.d"] {
            assert_eq!(Claimed::of(text.as_bytes(), 16), Claimed::default(), "{text:?}");
        }
        assert!(Claimed::of(b"..", 16).thumbprint.is_some());
    }

    #[test]
    fn of_a_token_over_the_cap_only_the_thumbprint_is_taken() {
        let token = format!("e30.{}.AA", base64url(json!({"sub": "s", "pad": "x".repeat(2000)}).to_string()));
        assert_eq!(Claimed::of(token.as_bytes(), token.len()).subject.as_deref(), Some("s"));
        let capped = Claimed::of(token.as_bytes(), token.len() - 1);
        assert_eq!((capped.subject, capped.thumbprint.is_some()), (None, true));
    }
}
