use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    TokenError,
    issuer::{Profile, ScopeClaim},
};
use crate::{
    principal::{Actor, ClientId, IssuerId, Subject},
    scope::{Scope, ScopeToken},
    time::UnixTime,
};

/// Reads claims in the one form that each may have. A claim of another form is an error, never "absent".
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    claims: &'a Map<String, Value>,
    profile: &'a Profile,
}

/// One link of `act`, with what Auth0 says of its kind.
pub(super) struct Link {
    pub(super) actor: Actor,
    pub(super) is_agent: bool,
}

impl<'a> Reader<'a> {
    /// Refuses names that differ from a claim that is read by case alone (`SUB`, `ſub`): another reader of the same claims, one that
    /// folds case, would see another token.
    pub(super) fn new(claims: &'a Map<String, Value>, profile: &'a Profile) -> Result<Self, TokenError> {
        let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
        for name in claims.keys().filter(|name| !is_plain(name)) {
            let folded = name.to_lowercase().to_uppercase();
            if let Some(claim) = READ.iter().chain(profile.also_read).find(|claim| folded.eq_ignore_ascii_case(claim)) {
                return Err(TokenError::MalformedClaim(claim));
            }
        }
        Ok(Self { claims, profile })
    }

    /// The one way to a claim, so that no claim is read that is not guarded against look-alikes.
    pub(super) fn get(&self, claim: &str) -> Option<&'a Value> {
        debug_assert!(
            READ.contains(&claim) || self.profile.also_read.contains(&claim),
            "`{claim}` is read and not listed"
        );
        self.claims.get(claim)
    }

    pub(super) fn has(&self, claim: &str) -> bool {
        self.get(claim).is_some()
    }

    pub(super) fn demand(&self, claim: &'static str) -> Result<(), TokenError> {
        self.get(claim).map(|_| ()).ok_or(TokenError::MissingClaim(claim))
    }

    /// A string that names something: an empty, blank or unprintable one would be nobody's name.
    pub(super) fn name(&self, claim: &'static str) -> Result<Option<&'a str>, TokenError> {
        name_of(self.get(claim)).map_err(|()| TokenError::MalformedClaim(claim))
    }

    pub(super) fn required_name(&self, claim: &'static str) -> Result<&'a str, TokenError> {
        self.name(claim)?.ok_or(TokenError::MissingClaim(claim))
    }

    /// The name at the end of a path through objects.
    pub(super) fn name_at(&self, path: &'static [&'static str]) -> Result<Option<&'a str>, TokenError> {
        let Some((claim, inner)) = path.split_first() else {
            return Ok(None);
        };
        let mut found = self.get(claim);
        for member in inner {
            let Some(value) = found else { return Ok(None) };
            found = value.as_object().ok_or(TokenError::MalformedClaim(claim))?.get(*member);
        }
        name_of(found).map_err(|()| TokenError::MalformedClaim(claim))
    }

    pub(super) fn required_name_at(&self, path: &'static [&'static str]) -> Result<&'a str, TokenError> {
        let claim = path.first().copied().unwrap_or_default();
        self.name_at(path)?.ok_or(TokenError::MissingClaim(claim))
    }

    /// The name that those of the claims that are there agree on.
    pub(super) fn agreed(&self, claims: &'static [&'static str]) -> Result<Option<&'a str>, TokenError> {
        let mut agreed = None;
        for claim in claims {
            match (agreed, self.name(claim)?) {
                (Some(one), Some(other)) if one != other => return Err(TokenError::MalformedClaim(claim)),
                (None, found) => agreed = found,
                _ => {}
            }
        }
        Ok(agreed)
    }

    pub(super) fn flag(&self, claim: &'static str) -> Result<Option<bool>, TokenError> {
        self.get(claim).map(|flag| flag.as_bool().ok_or(TokenError::MalformedClaim(claim))).transpose()
    }

    pub(super) fn object(&self, claim: &'static str) -> Result<Option<&'a Map<String, Value>>, TokenError> {
        self.get(claim).map(|object| object.as_object().ok_or(TokenError::MalformedClaim(claim))).transpose()
    }

    /// `NumericDate`, [RFC 7519 §2](https://www.rfc-editor.org/rfc/rfc7519#section-2): fractions are legal. Not negative, and no
    /// larger than what every JSON reader represents exactly.
    pub(super) fn time(&self, claim: &'static str) -> Result<Option<UnixTime>, TokenError> {
        let since_epoch = match self.get(claim) {
            None => return Ok(None),
            Some(Value::Number(number)) => match number.as_u64() {
                Some(seconds) => Some(Duration::from_secs(seconds)),
                None => number.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            },
            Some(_) => None,
        };
        since_epoch
            .filter(|since_epoch| since_epoch.as_secs() <= MAX_EXACT)
            .map(|since_epoch| Some(UnixTime::from_duration(since_epoch)))
            .ok_or(TokenError::MalformedClaim(claim))
    }

    pub(super) fn texts(&self, claim: &'static str) -> Result<Vec<Arc<str>>, TokenError> {
        self.elements(claim, |element| element.as_str().map(Into::into))
    }

    /// Strings, or the objects with a `value` of [RFC 9068 §2.2.3.1](https://www.rfc-editor.org/rfc/rfc9068#section-2.2.3.1) (SCIM).
    pub(super) fn roles(&self, claim: &'static str) -> Result<Vec<Arc<str>>, TokenError> {
        self.elements(claim, |element| element.as_str().or_else(|| element.get("value")?.as_str()).map(Into::into))
    }

    fn elements<T>(&self, claim: &'static str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, TokenError> {
        let elements = match self.get(claim) {
            None => Some(Vec::new()),
            Some(Value::Array(elements)) => elements.iter().map(read).collect(),
            Some(_) => None,
        };
        elements.ok_or(TokenError::MalformedClaim(claim))
    }

    /// `aud`: a string or an array of strings, [RFC 7519 §4.1.3](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.3).
    pub(super) fn audiences(&self) -> Result<Option<Vec<&'a str>>, TokenError> {
        let audiences = match self.get("aud") {
            None => return Ok(None),
            Some(Value::String(audience)) => Some(vec![audience.as_str()]),
            Some(Value::Array(audiences)) => audiences.iter().map(Value::as_str).collect(),
            Some(_) => None,
        };
        audiences.map(Some).ok_or(TokenError::MalformedClaim("aud"))
    }

    /// `scope`, [RFC 8693 §4.2](https://www.rfc-editor.org/rfc/rfc8693#section-4.2), or what the issuer writes in its place. Never both:
    /// whoever reads only one of them would grant something else.
    pub(super) fn scope(&self) -> Result<Scope, TokenError> {
        match self.profile.scope {
            ScopeClaim::None => Ok(Scope::default()),
            ScopeClaim::Text("scope") => self.scope_text("scope"),
            ScopeClaim::TextOrArray(array) if self.has("scope") && self.has(array) => {
                Err(TokenError::MalformedClaim(array))
            }
            ScopeClaim::TextOrArray(_) if self.has("scope") => self.scope_text("scope"),
            ScopeClaim::Text(_) | ScopeClaim::Array(_) if self.has("scope") => Err(TokenError::MalformedClaim("scope")),
            ScopeClaim::Text(claim) => self.scope_text(claim),
            ScopeClaim::TextOrArray(array) | ScopeClaim::Array(array) => {
                let words = self.elements(array, |word| ScopeToken::new(word.as_str()?).ok())?;
                Ok(words.into_iter().collect())
            }
        }
    }

    fn scope_text(&self, claim: &'static str) -> Result<Scope, TokenError> {
        let Some(scope) = self.get(claim) else { return Ok(Scope::default()) };
        scope.as_str().and_then(|scope| Scope::parse(scope).ok()).ok_or(TokenError::MalformedClaim(claim))
    }

    /// `act`, [RFC 8693 §4.1](https://www.rfc-editor.org/rfc/rfc8693#section-4.1), the current actor first.
    pub(super) fn actors(&self) -> Result<Vec<Link>, TokenError> {
        let mut chain = Vec::new();
        let mut next = self.get("act");
        while let Some(act) = next {
            let link = act.as_object().filter(|_| chain.len() < MAX_ACTORS).and_then(|act| link(act).ok());
            chain.push(link.ok_or(TokenError::MalformedClaim("act"))?);
            next = act.get("act");
        }
        Ok(chain)
    }

    /// Tokens of the same issuer and key that are not for access: ID tokens
    /// ([OpenID Connect Core §2](https://openid.net/specs/openid-connect-core-1_0.html#IDToken), with `s_hash`
    /// [FAPI 1.0 Part 2 §5.1](https://openid.net/specs/openid-financial-api-part-2-1_0.html)), security events and logout tokens
    /// ([RFC 8417 §2.2](https://www.rfc-editor.org/rfc/rfc8417#section-2.2)), DPoP proofs
    /// ([RFC 9449 §4.2](https://www.rfc-editor.org/rfc/rfc9449#section-4.2)), introspection answers
    /// ([RFC 9701 §5](https://www.rfc-editor.org/rfc/rfc9701#section-5)), transaction tokens
    /// ([draft](https://datatracker.ietf.org/doc/draft-ietf-oauth-transaction-tokens/)), and what Keycloak and Cognito call by name.
    pub(super) fn refuse_other_kinds(&self) -> Result<(), TokenError> {
        for (claim, kind) in self.profile.says {
            if self.name(claim)? != Some(kind) {
                return Err(TokenError::WrongKind(claim));
            }
        }
        for claim in OTHER_KINDS {
            if self.has(claim) && !self.profile.legal.contains(&claim) {
                return Err(TokenError::WrongKind(claim));
            }
        }
        let says = |claim, kinds: &[&str]| match self.get(claim) {
            Some(Value::String(kind)) => kinds.iter().any(|other| kind.eq_ignore_ascii_case(other)),
            _ => false,
        };
        if says("typ", &["ID", "Refresh", "Offline", "Logout"]) {
            return Err(TokenError::WrongKind("typ"));
        }
        if says("token_use", &["id", "refresh"]) {
            return Err(TokenError::WrongKind("token_use"));
        }
        Ok(())
    }
}

fn name_of(value: Option<&Value>) -> Result<Option<&str>, ()> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) if !text.chars().all(is_invisible) && !text.contains(char::is_control) => {
            Ok(Some(text))
        }
        Some(_) => Err(()),
    }
}

/// A name of such characters alone is blank to whoever reads the audit trail.
fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || matches!(character, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn link(act: &Map<String, Value>) -> Result<Link, ()> {
    let mut actor = Actor::new(Subject::new(name_of(act.get("sub"))?.ok_or(())?));
    actor.issuer = name_of(act.get("iss"))?.map(IssuerId::new);
    actor.client = name_of(act.get("client_id"))?.map(ClientId::new);
    Ok(Link { actor, is_agent: name_of(act.get("sub_profile"))? == Some("ai_agent") })
}

/// 2^53: the last whole number up to which every reader of JSON agrees.
const MAX_EXACT: u64 = 1 << 53;
/// Auth0's limit too.
const MAX_ACTORS: usize = 5;

/// Claims that show a token that is not for access.
#[rustfmt::skip]
const OTHER_KINDS: [&str; 11] = [
    "nonce", "at_hash", "c_hash", "s_hash", "events", "htm", "htu", "token_introspection", "req_wl", "tctx", "rctx",
];

/// The claims that are read of every issuer's tokens; a profile lists what it reads beyond them.
#[rustfmt::skip]
const READ: [&str; 35] = [
    "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "azp", "client_id", "scope", "scp", "permissions", "roles", "org_id", "act",
    "cnf", "acr", "amr", "auth_time", "sub_profile", "gty", "nonce", "at_hash", "c_hash", "s_hash", "events", "htm", "htu",
    "token_introspection", "req_wl", "tctx", "rctx", "typ", "token_use",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_look_alike_of_any_claim_that_is_read_is_refused() {
        let profile = Profile { also_read: &["kubernetes.io"], ..Profile::BASE };
        let read = |name: &str| {
            let claims = Map::from_iter([(name.to_owned(), json!("x"))]);
            Reader::new(&claims, &profile).err()
        };
        for claim in READ.into_iter().chain(["kubernetes.io"]) {
            assert_eq!(read(claim), None, "{claim}");
            assert_eq!(read(&claim.to_uppercase()), Some(TokenError::MalformedClaim(claim)), "{claim}");
        }
        assert_eq!(read("Uid"), None, "not read of this issuer's tokens");
    }

    #[test]
    fn a_path_ends_at_a_name_or_nowhere() {
        let profile = Profile { also_read: &["a"], ..Profile::BASE };
        let at = |claims: Value| {
            let claims = claims.as_object().cloned().unwrap();
            Reader::new(&claims, &profile).unwrap().name_at(&["a", "b", "c"]).map(|name| name.map(str::to_owned))
        };
        assert_eq!(at(json!({"a": {"b": {"c": "x"}}})), Ok(Some("x".to_owned())));
        for absent in [json!({}), json!({"a": {}}), json!({"a": {"b": {}}}), json!({"a": {"b": {"C": "x"}}})] {
            assert_eq!(at(absent.clone()), Ok(None), "{absent}");
        }
        for odd in [json!({"a": "x"}), json!({"a": {"b": []}}), json!({"a": {"b": {"c": 7}}}), json!({"a": null})] {
            assert_eq!(at(odd.clone()), Err(TokenError::MalformedClaim("a")), "{odd}");
        }
    }

    #[test]
    fn a_flag_is_never_made_of_something_else() {
        let profile = Profile { also_read: &["f"], ..Profile::BASE };
        for odd in [json!("true"), json!(1), json!(null), json!([]), json!({})] {
            let claims = Map::from_iter([("f".to_owned(), odd.clone())]);
            assert_eq!(
                Reader::new(&claims, &profile).unwrap().flag("f"),
                Err(TokenError::MalformedClaim("f")),
                "{odd}"
            );
        }
    }
}
