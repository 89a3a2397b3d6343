use super::{
    Issuer, Profile, ScopeClaim,
    profile::{Facts, Party},
};
use crate::{key::Algorithm, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// An issuer that follows [RFC 9068](https://www.rfc-editor.org/rfc/rfc9068) to the letter.
    ///
    /// Any supported algorithm. `typ` must be `at+jwt`; `iss`, `exp`, `aud`, `sub`, `client_id`, `iat` and `jti` must be there (§2.2).
    /// A token that `sub_profile`, its own or that of the current actor, calls `ai_agent` authenticates an agent; one whose `sub` is its
    /// `client_id` a client; any other a user.
    pub fn rfc9068(url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&RFC9068, vec![url.into()], vec![audience.into()])
    }
}

/// [RFC 9068 §5](https://www.rfc-editor.org/rfc/rfc9068#section-5): the subject of a client's own token is the client.
pub(super) fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let is_client = facts.client == Some(facts.subject);
    Ok(if is_client { PrincipalKind::Client } else { PrincipalKind::User }.into())
}

pub(super) const RFC9068: Profile = Profile {
    algorithms: &Algorithm::ALL,
    types: &["at+jwt"],
    required: &["client_id", "iat", "jti"],
    client: &["client_id"],
    scope: ScopeClaim::Text("scope"),
    roles: |claims| claims.roles("roles"),
    has_aliases: true,
    party,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::token::{
        issuer::shapes::Shapes,
        test_tokens::{NOW, with},
    };

    #[test]
    fn rfc_9068_has_scope_in_one_text_and_roles_in_one_list() {
        let issuer = Shapes::of(Issuer::rfc9068("https://login.example", "https://api.example"), Some("at+jwt"));
        let claims = json!({
            "iss": "https://login.example", "aud": "https://api.example", "sub": "u1", "client_id": "c1", "iat": NOW, "jti": "j",
            "exp": NOW + 600, "scope": "jobs:write jobs:read", "roles": ["b", {"value": "a"}],
        });
        let token = issuer.verify(&claims).unwrap();
        assert_eq!(token.principal().scope().to_string(), "jobs:read jobs:write");
        assert_eq!(token.principal().roles(), ["b".into(), "a".into()]);
        let list = with(&claims, json!({"scope": ["jobs:read"]}));
        assert_eq!(issuer.refusal(&list), Some(TokenError::MalformedClaim("scope")));
        let text = with(&claims, json!({"roles": "b"}));
        assert_eq!(issuer.refusal(&text), Some(TokenError::MalformedClaim("roles")));
    }
}
