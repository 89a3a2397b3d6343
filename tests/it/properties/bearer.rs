//! The bearer header: bytes, split into header lines at line feeds.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use portcullis::token::{AccessToken, Issuer, Verifier};

use super::signer;

/// A token is found exactly where the grammar has one, and it is the one that the grammar has.
pub fn check(data: &[u8]) -> bool {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let mut headers = HeaderMap::new();
    for line in &lines {
        let Ok(value) = HeaderValue::from_bytes(line) else { return false };
        headers.append(AUTHORIZATION, value);
    }
    let found = AccessToken::from_headers(&headers);
    let expected = match lines.as_slice() {
        [line] => token68(line),
        _ => None,
    };
    match (&found, expected) {
        (Ok(Some(token)), Some(text)) => {
            let same = AccessToken::new(text).expect("one token68");
            assert_eq!(VERIFIER.claimed(token), VERIFIER.claimed(&same), "another text than the grammar's");
            assert_eq!(format!("{token:?}"), "AccessToken(..)");
        }
        (Ok(None), None) => assert!(!lines.iter().any(|line| names_bearer(line)), "a bearer token passed over"),
        (Err(_), None) => {}
        (found, expected) => panic!("{:?}, but the grammar has a token: {}", found.is_ok(), expected.is_some()),
    }
    let again = AccessToken::from_headers(&headers);
    assert_eq!(found.map(|token| token.is_some()), again.map(|token| token.is_some()), "two readings");
    expected.is_some()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let token = signer::sign(br#"{"alg":"EdDSA"}"#, br#"{"iss":"https://login.example/"}"#);
    let texts: [&str; 8] = [
        &format!("Bearer {token}"),
        "bearer aZ09-._~+/==",
        "Basic Zm9vOmJhcg==",
        "DPoP a.b.c",
        "Bearer a.b.c, Bearer d.e.f",
        "Basic Zm9v, bearer a.b.c",
        "Bearer a.b.c\nBearer a.b.c",
        "Digest realm=\"a\", nonce=\"b\"",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// `"Bearer" SP token68`, RFC 6750 §2.1 and RFC 9110 §11.2, written down a second time.
fn token68(line: &[u8]) -> Option<&str> {
    let (scheme, rest) = line.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let text = std::str::from_utf8(rest).ok()?;
    let unpadded = text.trim_end_matches('=');
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
    (!unpadded.is_empty() && unpadded.chars().all(is_legal)).then_some(text)
}

/// Whether some reader of lists would find a bearer token in there.
fn names_bearer(line: &[u8]) -> bool {
    let mut items = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    items.any(|item| item.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"bearer ")))
}

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let issuer = Issuer::oauth("https://login.example/", "https://api.example").with_keys(signer::KEYS.clone());
    Verifier::builder(issuer).build().unwrap()
});
