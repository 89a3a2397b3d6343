use http::Uri;

use super::{
    Issuer, Profile, ScopeClaim,
    profile::{Facts, Party},
};
use crate::{ConfigError, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// A custom authorization server of Okta, by its issuer: `https://{org}/oauth2/{id}`, where the id may be `default`.
    ///
    /// RS256; `typ` is `JWT` or absent. The org authorization server (no `/oauth2/`) is a `ConfigError`: its tokens are opaque by contract.
    /// `cid` and `scp`, which ID tokens do not have, must be there: `cid` is the client, `scp` an array of scope words. A user is who has a
    /// `uid`, which is then the [user id](crate::principal::Principal::user_id), because `sub` is a login that can change; a client who
    /// has none and whose `sub` is its `cid`. Other tokens are refused.
    pub fn okta(url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&OKTA, vec![url.into()], vec![audience.into()])
    }
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let is_custom = |url: &str| {
        let id = url.parse::<Uri>().ok().and_then(|uri| uri.path().strip_prefix("/oauth2/").map(str::to_owned));
        id.is_some_and(|id| !id.is_empty() && !id.contains('/'))
    };
    match [issuer.url()].into_iter().chain(issuer.aliases.iter().map(String::as_str)).find(|url| !is_custom(url)) {
        None => Ok(()),
        Some(url) => {
            let remedy = "name a custom authorization server, `https://{org}/oauth2/{id}`, as it stands in `iss`: tokens of the org's own \
                          server are for Okta alone";
            Err(ConfigError::invalid("issuer.url", url, remedy))
        }
    }
}

fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    match facts.claims.name("uid")? {
        Some(uid) => Ok(Party { kind: PrincipalKind::User, user_id: Some(uid.to_owned()) }),
        None if facts.client == Some(facts.subject) => Ok(PrincipalKind::Client.into()),
        None => Err(TokenError::MissingClaim("uid")),
    }
}

const OKTA: Profile = Profile {
    type_may_be_absent: true,
    required: &["cid", "scp"],
    client: &["cid"],
    scope: ScopeClaim::Array("scp"),
    also_read: &["cid", "uid"],
    has_aliases: true,
    party,
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        principal::{ClientId, Subject},
        token::{
            issuer::shapes::{Shapes, misconfigured},
            test_tokens::{NOW, with},
        },
    };

    fn okta() -> Shapes {
        Shapes::of(Issuer::okta("https://acme.okta.com/oauth2/default", "api://default"), None)
    }

    fn user() -> Value {
        json!({
            "ver": 1, "jti": "AT.1", "iss": "https://acme.okta.com/oauth2/default", "aud": "api://default", "iat": NOW,
            "exp": NOW + 3600, "cid": "0oa1", "uid": "00u1", "scp": ["openid", "jobs:read"], "auth_time": NOW - 60,
            "sub": "alice@acme.example",
        })
    }

    fn machine() -> Value {
        with(&user(), json!({"uid": null, "auth_time": null, "sub": "0oa1", "scp": ["jobs:read"]}))
    }

    #[test]
    fn okta_users_and_machines_are_told_apart_and_what_is_neither_is_refused() {
        let token = okta().verify(&user()).unwrap();
        let principal = token.principal();
        assert_eq!(principal.kind(), PrincipalKind::User);
        assert_eq!(principal.user_id().map(Subject::as_str), Some("00u1"));
        assert_eq!(principal.subject().map(Subject::as_str), Some("alice@acme.example"));
        assert_eq!(principal.client().map(ClientId::as_str), Some("0oa1"));
        assert_eq!(principal.scope().to_string(), "jobs:read openid");
        assert_eq!(token.token_id().map(|id| id.as_str()), Some("AT.1"));

        let id_token = with(&user(), json!({"cid": null, "scp": null, "uid": null, "aud": "0oa1", "amr": ["pwd"]}));
        let table = [
            ("machine", machine(), Ok(PrincipalKind::Client)),
            ("machine of another id", with(&machine(), json!({"sub": "0oa2"})), Err(TokenError::MissingClaim("uid"))),
            ("user called as the client", with(&user(), json!({"sub": "0oa1"})), Ok(PrincipalKind::User)),
            ("user without uid", with(&user(), json!({"uid": null})), Err(TokenError::MissingClaim("uid"))),
            ("blank uid", with(&user(), json!({"uid": " "})), Err(TokenError::MalformedClaim("uid"))),
            ("blank cid", with(&user(), json!({"cid": ""})), Err(TokenError::MalformedClaim("cid"))),
            ("look-alike", with(&user(), json!({"UID": "x"})), Err(TokenError::MalformedClaim("uid"))),
            ("no cid", with(&user(), json!({"cid": null})), Err(TokenError::MissingClaim("cid"))),
            ("no scp", with(&user(), json!({"scp": null})), Err(TokenError::MissingClaim("scp"))),
            ("scp as text", with(&user(), json!({"scp": "jobs:read"})), Err(TokenError::MalformedClaim("scp"))),
            ("scope beside scp", with(&user(), json!({"scope": "admin"})), Err(TokenError::MalformedClaim("scope"))),
            ("ID token", id_token.clone(), Err(TokenError::MissingClaim("cid"))),
            ("ID token for us", with(&id_token, json!({"aud": "api://default"})), Err(TokenError::MissingClaim("cid"))),
            ("org server", with(&user(), json!({"iss": "https://acme.okta.com"})), Err(TokenError::UnknownIssuer)),
        ];
        for (name, claims, kind) in table {
            assert_eq!(okta().kind(&claims), kind, "{name}");
        }
        for (typ, accepted) in [(None, true), (Some("JWT"), true), (Some("at+jwt"), false), (Some("dpop+jwt"), false)] {
            assert_eq!(okta().verify_typed(typ, &user()).is_ok(), accepted, "{typ:?}");
        }
    }

    #[test]
    fn only_a_custom_authorization_server_can_be_configured() {
        for url in [
            "https://acme.okta.com",
            "https://acme.okta.com/",
            "https://acme.okta.com/oauth2",
            "https://acme.okta.com/oauth2/",
            "https://acme.okta.com/oauth2/default/v1",
            "https://acme.okta.com/oauth2/default/",
        ] {
            let (field, text) = misconfigured(Issuer::okta(url, "api"));
            assert!(field == "issuer.url" && text.contains("custom authorization server"), "{text}");
        }
        let alias = Issuer::okta("https://a.example/oauth2/default", "api").add_alias("https://acme.okta.com");
        assert_eq!(misconfigured(alias).0, "issuer.url");
    }
}
