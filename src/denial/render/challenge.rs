use http::HeaderValue;

use super::Disclosure;
use crate::{
    ConfigError,
    denial::{Class, Denial},
};

/// The `WWW-Authenticate` values of one realm ([RFC 6750 §3](https://www.rfc-editor.org/rfc/rfc6750#section-3)).
#[derive(Clone, Debug)]
pub(super) struct Challenge {
    bare: HeaderValue,
    invalid_token: HeaderValue,
    insufficient_scope: Box<str>,
}

impl Challenge {
    /// The realm becomes a quoted string: what could end or split it is refused here, so that nothing has to be escaped.
    pub(super) fn new(realm: &str) -> Result<Self, ConfigError> {
        let printable = |byte: u8| matches!(byte, 0x20 | 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        if realm.is_empty() || realm.len() > MAX_REALM || !realm.bytes().all(printable) {
            return Err(invalid(realm));
        }
        let value = |text: String| HeaderValue::try_from(text).map_err(|_| invalid(realm));
        Ok(Self {
            bare: value(format!("Bearer realm=\"{realm}\""))?,
            invalid_token: value(format!("Bearer realm=\"{realm}\", error=\"invalid_token\""))?,
            insufficient_scope: format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\"").into(),
        })
    }

    /// The challenge that goes with a denial.
    pub(super) fn of(&self, denial: &Denial, disclosure: Disclosure) -> Option<HeaderValue> {
        match (denial.class(), disclosure) {
            // RFC 6750 §3.1: a request without credentials gets no error code.
            (Class::Unauthenticated { credentials_sent: false }, _) => Some(self.bare.clone()),
            (Class::Unauthenticated { credentials_sent: true }, _) => Some(self.invalid_token.clone()),
            (Class::Forbidden, Disclosure::Guided) => {
                let words = denial.required_scope()?.words();
                HeaderValue::try_from(format!("{}, scope=\"{words}\"", self.insufficient_scope)).ok()
            }
            (Class::Forbidden, Disclosure::Silent)
            | (Class::Malformed | Class::Concealed | Class::Unavailable | Class::Internal, _) => None,
        }
    }
}

/// The realm `api`.
impl Default for Challenge {
    fn default() -> Self {
        Self {
            bare: HeaderValue::from_static("Bearer realm=\"api\""),
            invalid_token: HeaderValue::from_static("Bearer realm=\"api\", error=\"invalid_token\""),
            insufficient_scope: "Bearer realm=\"api\", error=\"insufficient_scope\"".into(),
        }
    }
}

fn invalid(realm: &str) -> ConfigError {
    ConfigError::invalid(
        "realm",
        realm,
        format!("use 1 to {MAX_REALM} printable ASCII characters without quote and backslash"),
    )
}

const MAX_REALM: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        denial::Reason,
        route::{Route, RouteKey},
        rules::{Rules, scopes},
        scope::any_of,
    };

    fn scope_denial() -> Denial {
        let rules = Rules::new().get("/jobs", scopes(any_of(["jobs:read", "jobs:admin"]))).into_table().unwrap();
        let key = RouteKey::Http { method: http::Method::GET, template: "/jobs".into() };
        Denial::of(&Reason::InsufficientScope, Some(&Route::matched(&rules, key)))
    }

    #[test]
    fn a_realm_that_could_split_the_header_does_not_build() {
        for realm in ["", "a\"b", "a\\b", "a\r\nb", "a\tb", "caf\u{e9}", &"x".repeat(129)] {
            assert_eq!(Challenge::new(realm).unwrap_err().field(), "realm", "{realm:?}");
        }
        let challenge = Challenge::new("jobs, v1 #2").unwrap();
        assert_eq!(challenge.bare, "Bearer realm=\"jobs, v1 #2\"");
    }

    #[test]
    fn only_a_guided_scope_refusal_names_the_scope() {
        let challenge = Challenge::default();
        assert_eq!(challenge.of(&scope_denial(), Disclosure::Silent), None);
        assert_eq!(
            challenge.of(&scope_denial(), Disclosure::Guided).unwrap(),
            "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"jobs:admin jobs:read\""
        );
        assert_eq!(challenge.of(&Denial::of(&Reason::NoRule, None), Disclosure::Guided), None);
    }

    #[test]
    fn an_error_code_comes_only_when_credentials_came() {
        let challenge = Challenge::new("r").unwrap();
        for disclosure in [Disclosure::Silent, Disclosure::Guided] {
            let of = |reason| challenge.of(&Denial::of(&reason, None), disclosure).unwrap();
            assert_eq!(of(Reason::MissingCredentials), "Bearer realm=\"r\"");
            assert_eq!(
                of(Reason::Token(crate::token::TokenError::Expired)),
                "Bearer realm=\"r\", error=\"invalid_token\""
            );
        }
    }
}
