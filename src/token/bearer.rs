use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

/// A bearer token as it came: its form is that of [RFC 6750 §2.1], nothing else is known of it.
///
/// Shares the bytes of the header that it came in, so that it is cheap to clone and cheap to make, however long it is. Prints as
/// redacted, and cannot be displayed or serialised.
///
/// [RFC 6750 §2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
#[derive(Clone)]
pub struct AccessToken {
    value: HeaderValue,
    /// Where the token begins in `value`, behind the scheme.
    start: usize,
}

impl AccessToken {
    /// Wraps the text of a token that came by another way than a header.
    ///
    /// ```
    /// use portcullis::token::AccessToken;
    ///
    /// let token = AccessToken::new("mF_9.B5f-4.1JqM")?;
    /// assert_eq!(format!("{token:?}"), "AccessToken(..)");
    /// # Ok::<(), portcullis::token::BearerError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BearerError`] when it is not one `token68` ([RFC 9110 §11.2](https://www.rfc-editor.org/rfc/rfc9110#section-11.2)).
    pub fn new(text: impl Into<String>) -> Result<Self, BearerError> {
        let text = text.into();
        check_token68(text.as_bytes())?;
        let value = HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| BearerError::IllegalByte)?;
        Ok(Self { value, start: 0 })
    }

    /// Finds the bearer token of a request: exactly one `Authorization` header of the form `Bearer <token68>`, the scheme in any
    /// case, one space, nothing around it.
    ///
    /// `None` when there is no such header, and when it has another scheme: [RFC 6750 §3.1] treats an unsupported scheme like no
    /// credentials. Tokens in the URL, in a body or in another header are not looked for.
    ///
    /// Allocates nothing, whatever the length; [`Verifier`](super::Verifier) caps it.
    ///
    /// # Errors
    ///
    /// [`BearerError`] when the header is there and cannot be read in one way only.
    ///
    /// [RFC 6750 §3.1]: https://www.rfc-editor.org/rfc/rfc6750#section-3.1
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, BearerError> {
        // RFC 9449 §4.3: not more than one proof either, or a proxy and a later layer could each check another one.
        if headers.get_all("dpop").iter().nth(1).is_some() {
            return Err(BearerError::Repeated);
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        // RFC 9110 §5.3: a field that is no list has one line; choosing one of two would let a proxy and us choose differently.
        if values.next().is_some() {
            return Err(BearerError::Repeated);
        }
        let bytes = value.as_bytes();
        let scheme_length = bytes.iter().take_while(|byte| is_tchar(**byte)).count();
        let (scheme, rest) = bytes.split_at_checked(scheme_length).unwrap_or_default();
        if scheme.is_empty() {
            return Err(BearerError::Scheme);
        }
        if !scheme.eq_ignore_ascii_case(b"bearer") {
            return check_other_scheme(rest).map(|()| None);
        }
        match rest {
            [] | [b' '] => return Err(BearerError::Empty),
            [b' ', b' ' | b'\t', ..] | [b'\t', ..] => return Err(BearerError::Spacing),
            [b' ', token @ ..] => check_token68(token)?,
            _ => return Err(BearerError::IllegalByte),
        }
        Ok(Some(Self { value: value.clone(), start: scheme_length + 1 }))
    }

    /// The bytes of the token: the alphabet of `token68`, therefore ASCII.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.value.as_bytes().get(self.start..).unwrap_or_default()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// Why credentials are malformed. The caller knows what it sent, so it may learn that they are; which way is for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BearerError {
    /// More than one `Authorization` or `DPoP` header.
    #[error("more than one `Authorization` or `DPoP` header")]
    Repeated,
    /// Several credentials in one header.
    #[error("several credentials in one `Authorization` header")]
    List,
    /// The header does not begin with an authentication scheme.
    #[error("`Authorization` does not begin with a scheme")]
    Scheme,
    /// Something else than one space stands between scheme and token.
    #[error("not exactly one space between scheme and token")]
    Spacing,
    /// The scheme without a token.
    #[error("the token is missing")]
    Empty,
    /// A byte that no token may have.
    #[error("a byte that no token may have")]
    IllegalByte,
}

impl BearerError {
    /// The stable code, as audit records show it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Repeated => "credentials_repeated",
            Self::List => "credentials_list",
            Self::Scheme => "credentials_scheme",
            Self::Spacing => "credentials_spacing",
            Self::Empty => "credentials_empty",
            Self::IllegalByte => "credentials_illegal_byte",
        }
    }
}

/// `token68 = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`
fn check_token68(token: &[u8]) -> Result<(), BearerError> {
    let is_token_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    match token.split_at_checked(token.len() - padding) {
        None | Some(([], _)) => Err(BearerError::Empty),
        Some((unpadded, _)) if unpadded.iter().all(is_token_byte) => Ok(()),
        Some((unpadded, _)) if unpadded.contains(&b',') => Err(BearerError::List),
        Some(_) => Err(BearerError::IllegalByte),
    }
}

/// Another scheme's credentials are not ours to judge, but they must be readable and must not hide a bearer token in a list.
fn check_other_scheme(rest: &[u8]) -> Result<(), BearerError> {
    match rest {
        [] => return Ok(()),
        [b' ', ..] => {}
        [b'\t', ..] => return Err(BearerError::Spacing),
        _ => return Err(BearerError::Scheme),
    }
    if !rest.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(BearerError::IllegalByte);
    }
    let is_bearer =
        |item: &[u8]| item.trim_ascii().get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"bearer "));
    if rest.split(|byte| *byte == b',').skip(1).any(is_bearer) {
        return Err(BearerError::List);
    }
    Ok(())
}

/// RFC 9110 §5.6.2: what a scheme's name is made of.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(value: &[u8]) -> Result<Option<String>, BearerError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        let token = AccessToken::from_headers(&headers)?;
        Ok(token.map(|token| String::from_utf8(token.as_bytes().to_vec()).unwrap()))
    }

    #[test]
    fn one_bearer_token_is_found_whatever_the_case_of_the_scheme() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "bEaReR a.b.c"] {
            assert_eq!(found(value.as_bytes()), Ok(Some("a.b.c".to_owned())), "{value}");
        }
        assert_eq!(found(b"Bearer aZ09-._~+/=="), Ok(Some("aZ09-._~+/==".to_owned())));
        assert_eq!(AccessToken::from_headers(&HeaderMap::new()).map(|token| token.is_none()), Ok(true));
    }

    #[test]
    fn other_schemes_are_like_no_credentials() {
        for value in
            ["Basic Zm9vOmJhcg==", "DPoP a.b.c", "Digest realm=\"a\", nonce=\"b\"", "a.b.c", "Negotiate", "Bearerx a"]
        {
            assert_eq!(found(value.as_bytes()), Ok(None), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_read_in_one_way_is_malformed() {
        let table: [(&str, &[u8], BearerError); 27] = [
            ("nothing", b"", BearerError::Scheme),
            ("leading space", b" Bearer a.b.c", BearerError::Scheme),
            ("leading tab", b"\tBearer a.b.c", BearerError::Scheme),
            ("quote first", b"\"Bearer\" a", BearerError::Scheme),
            ("scheme alone", b"Bearer", BearerError::Empty),
            ("scheme and space", b"Bearer ", BearerError::Empty),
            ("padding alone", b"Bearer ==", BearerError::Empty),
            ("two spaces", b"Bearer  a.b.c", BearerError::Spacing),
            ("tab", b"Bearer\ta.b.c", BearerError::Spacing),
            ("space and tab", b"Bearer \ta.b.c", BearerError::Spacing),
            ("trailing space", b"Bearer a.b.c ", BearerError::IllegalByte),
            ("two tokens", b"Bearer a.b.c d.e.f", BearerError::IllegalByte),
            ("trailing comma", b"Bearer a.b.c,", BearerError::List),
            ("comma list", b"Bearer a.b.c, Bearer d.e.f", BearerError::List),
            ("comma after the scheme", b"Bearer, a.b.c", BearerError::IllegalByte),
            ("comma first", b"Bearer ,a.b.c", BearerError::List),
            ("list behind Basic", b"Basic Zm9v, bearer a.b.c", BearerError::List),
            ("quoted", b"Bearer \"a.b.c\"", BearerError::IllegalByte),
            ("JSON", b"Bearer {\"payload\":\"\"}", BearerError::IllegalByte),
            ("parameter", b"Bearer realm=a", BearerError::IllegalByte),
            ("padding inside", b"Bearer a=b", BearerError::IllegalByte),
            ("percent", b"Bearer a%2eb", BearerError::IllegalByte),
            ("non-ASCII token", b"Bearer a\xe9b", BearerError::IllegalByte),
            ("non-ASCII scheme", b"B\xe9arer a", BearerError::Scheme),
            ("non-ASCII in another scheme", b"Basic \xff", BearerError::IllegalByte),
            ("colon", b"Bearer:a.b.c", BearerError::IllegalByte),
            ("tab in another scheme", b"Basic\tZm9v", BearerError::Spacing),
        ];
        for (name, value, error) in table {
            assert_eq!(found(value), Err(error), "{name}");
        }
    }

    #[test]
    fn every_fault_has_its_own_code() {
        let faults = [
            (BearerError::Repeated, "credentials_repeated"),
            (BearerError::List, "credentials_list"),
            (BearerError::Scheme, "credentials_scheme"),
            (BearerError::Spacing, "credentials_spacing"),
            (BearerError::Empty, "credentials_empty"),
            (BearerError::IllegalByte, "credentials_illegal_byte"),
        ];
        for (fault, code) in faults {
            assert_eq!(fault.code(), code);
        }
    }

    #[test]
    fn a_repeated_header_is_malformed_even_when_both_are_equal() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"));
        assert_eq!(AccessToken::from_headers(&headers).map(|_| ()), Err(BearerError::Repeated));

        let mut headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"))]);
        headers.append("dpop", HeaderValue::from_static("d.e.f"));
        assert_eq!(AccessToken::from_headers(&headers).map(|token| token.is_some()), Ok(true));
        headers.append("dpop", HeaderValue::from_static("d.e.f"));
        assert_eq!(AccessToken::from_headers(&headers).map(|_| ()), Err(BearerError::Repeated));
    }

    #[test]
    fn a_token_prints_as_redacted_and_shares_the_bytes_of_its_header() {
        let value = HeaderValue::from_bytes(&[b"Bearer ".as_slice(), &[b'.'; 1 << 20]].concat()).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let token = AccessToken::from_headers(&headers).unwrap().unwrap();
        assert_eq!(token.clone().as_bytes().as_ptr(), headers[AUTHORIZATION].as_bytes()[7..].as_ptr());
        assert_eq!(format!("{token:?}"), "AccessToken(..)");
    }

    #[test]
    fn a_text_must_be_one_token68() {
        assert_eq!(AccessToken::new("a.b.c").unwrap().as_bytes(), b"a.b.c");
        for text in ["", "=", "a b", "a\nb", "é", " a", "Bearer a"] {
            assert!(AccessToken::new(text).is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_token_never_holds_a_byte_outside_its_alphabet(value in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for value in [value.clone(), [b"Bearer ".to_vec(), value].concat()] {
                let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
                let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
                if let Ok(Some(token)) = AccessToken::from_headers(&headers) {
                    let is_legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
                    proptest::prop_assert!(token.as_bytes().iter().all(is_legal));
                }
            }
        }
    }
}
