use super::{
    Issuer, Profile, ScopeClaim, is_plain_label,
    profile::{Facts, Party},
};
use crate::{ConfigError, key::Algorithm, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// An Auth0 tenant, by its domain (`acme.eu.auth0.com`, or a custom one): the issuer is `https://{domain}/`. Further custom domains of
    /// the same tenant: [`add_domain`](Self::add_domain).
    ///
    /// RS256 or PS256. `typ` is `JWT` or `at+jwt`: both of Auth0's token profiles are accepted. The client is `azp` or `client_id`,
    /// the tenant `org_id` (see [`with_tenants`](Self::with_tenants)); `permissions` are kept apart from `scope` unless
    /// [`with_permissions`](Self::with_permissions) says otherwise. A machine is one whose `sub` equals its client id followed by
    /// `@clients`, or that `sub_profile` or `gty` calls so; an agent is what `sub_profile`, that of the current actor, or a word of
    /// `client_profile` calls `ai_agent`. Tokens of the profile `access_token` have no `jti`: prefer `rfc9068_profile`, and
    /// [`require_token_id`](Self::require_token_id) with it.
    ///
    /// **The audience must never be the client id of an application of the tenant.** ID tokens have the issuer, the keys and the `typ` of
    /// access tokens, and the application's client id for `aud`. Those with a claim that access tokens lack, such as `nonce`, are
    /// refused, and so is a token without `azp` and `client_id`, which ID tokens of the code flow lack, or that has its own client
    /// in `aud`.
    pub fn auth0(domain: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&AUTH0, vec![id_of(&domain.into())], vec![audience.into()])
    }
}

pub(super) fn id_of(domain: &str) -> String {
    format!("https://{domain}/")
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let own = issuer.url().strip_prefix("https://").and_then(|rest| rest.strip_suffix('/')).unwrap_or_default();
    for domain in issuer.domains.iter().map(String::as_str).chain([own]) {
        if !domain.contains('.') || !domain.split('.').all(is_plain_label) {
            let remedy =
                "give the bare domain in lower case, such as `acme.eu.auth0.com`: no scheme, no port, no slash";
            return Err(ConfigError::invalid("issuer.domain", domain, remedy));
        }
        // Auth0 adds its own user-info endpoint to `aud` whenever `openid` is asked for: it says nothing about us.
        let user_info = format!("{}userinfo", id_of(domain));
        if issuer.audiences.contains(&user_info) {
            let remedy = "name the identifier of this API; every user token of the tenant has this audience";
            return Err(ConfigError::invalid("issuer.audience", user_info, remedy));
        }
    }
    Ok(())
}

/// Auth0 says what kind the subject is with `sub_profile`, where that is switched on. Else a client credentials token shows by
/// `gty`, or by its subject: equality with the client's id, not the suffix, which a user's id can have too.
///
/// An agent that acts for a user is an agent: what a person may do is more than what is left to software.
fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let Facts { claims, subject, client, .. } = *facts;
    // Access tokens of both profiles name their client. ID tokens, for whom `aud` is enough, do not.
    let client = client.ok_or(TokenError::MissingClaim("azp"))?;
    let is_agent = |profiles: &str| profiles.split(' ').any(|profile| profile == "ai_agent");
    if claims.name("client_profile")?.is_some_and(is_agent) || facts.is_agent {
        return Ok(PrincipalKind::Agent.into());
    }
    match claims.name("sub_profile")? {
        Some("user") => return Ok(PrincipalKind::User.into()),
        Some("service" | "browser_app" | "native_app") => return Ok(PrincipalKind::Client.into()),
        Some(_) => return Err(TokenError::MalformedClaim("sub_profile")),
        None => {}
    }
    if subject == client || subject.strip_suffix("@clients") == Some(client) {
        return Ok(PrincipalKind::Client.into());
    }
    // A user's id begins with its connection and a bar. What looks like another client's is nobody that we can name.
    if subject.ends_with("@clients") && !subject.contains('|') {
        return Err(TokenError::MalformedClaim("sub"));
    }
    let is_grant_to_itself = claims.name("gty")? == Some("client-credentials");
    Ok(if is_grant_to_itself { PrincipalKind::Client } else { PrincipalKind::User }.into())
}

pub(super) const AUTH0: Profile = Profile {
    algorithms: &[Algorithm::Rs256, Algorithm::Ps256],
    types: &["jwt", "at+jwt"],
    client: &["azp", "client_id"],
    audience_is_no_client: true,
    scope: ScopeClaim::Text("scope"),
    permissions: Some("permissions"),
    tenant: &["org_id"],
    also_read: &["client_profile"],
    has_domains: true,
    party,
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::token::{
        issuer::shapes::Shapes,
        test_tokens::{NOW, with},
    };

    fn auth0() -> Shapes {
        Shapes::of(Issuer::auth0("acme.eu.auth0.com", "https://api.example"), Some("JWT"))
    }

    /// The profile `access_token`, of a user who signed in with `openid`.
    fn classic() -> Value {
        json!({
            "iss": "https://acme.eu.auth0.com/", "aud": ["https://api.example", "https://acme.eu.auth0.com/userinfo"],
            "sub": "auth0|1", "azp": "c1", "iat": NOW, "exp": NOW + 86_400, "scope": "openid jobs:read",
        })
    }

    /// The profile `rfc9068_profile`, of a machine.
    fn rfc9068() -> Value {
        with(
            &classic(),
            json!({"aud": "https://api.example", "sub": "c1@clients", "azp": null, "client_id": "c1", "jti": "j"}),
        )
    }

    #[test]
    fn both_token_profiles_are_accepted_and_id_tokens_are_not() {
        let id_token = with(&classic(), json!({"aud": "c1", "azp": null, "scope": null}));
        let for_us = with(&id_token, json!({"aud": "https://api.example"}));
        let table = [
            ("classic", Some("JWT"), classic(), Ok(PrincipalKind::User)),
            ("RFC 9068", Some("at+jwt"), rfc9068(), Ok(PrincipalKind::Client)),
            ("no typ", None, classic(), Err(TokenError::Type)),
            ("ID token", Some("JWT"), id_token.clone(), Err(TokenError::MissingClaim("azp"))),
            (
                "ID token that names its client",
                Some("JWT"),
                with(&id_token, json!({"azp": "c1"})),
                Err(TokenError::Audience),
            ),
            (
                "ID token for us",
                Some("JWT"),
                with(&for_us, json!({"nonce": "n", "azp": "https://api.example"})),
                Err(TokenError::WrongKind("nonce")),
            ),
            ("ID token for us, without nonce", Some("JWT"), for_us.clone(), Err(TokenError::MissingClaim("azp"))),
            (
                "ID token for us, without nonce, that names its client",
                Some("JWT"),
                with(&for_us, json!({"azp": "https://api.example"})),
                Err(TokenError::WrongKind("aud")),
            ),
            (
                "ID token for us and its client",
                Some("JWT"),
                with(&for_us, json!({"aud": ["https://api.example", "c1"], "client_id": "c1"})),
                Err(TokenError::WrongKind("aud")),
            ),
            (
                "ID token for us, of an agent",
                Some("JWT"),
                with(&for_us, json!({"sub_profile": "ai_agent"})),
                Err(TokenError::MissingClaim("azp")),
            ),
            (
                "user info alone",
                Some("JWT"),
                with(&classic(), json!({"aud": "https://acme.eu.auth0.com/userinfo"})),
                Err(TokenError::Audience),
            ),
        ];
        for (name, typ, claims, kind) in table {
            assert_eq!(auth0().verify_typed(typ, &claims).map(|token| token.principal().kind()), kind, "{name}");
        }
        let ps256 = auth0().verify_signed(Algorithm::Ps256, Some("JWT"), &classic());
        assert!(ps256.is_ok());
        let es256 = auth0().verify_signed(Algorithm::Es256, Some("JWT"), &classic());
        assert_eq!(es256.err(), Some(TokenError::Algorithm));
    }

    #[test]
    fn auth0_tells_people_machines_and_agents_apart() {
        let agent = json!({"sub": "agt_1", "sub_profile": "ai_agent", "client_id": "c2"});
        let table = [
            ("user", json!({}), Ok(PrincipalKind::User)),
            ("machine", json!({"sub": "c1@clients", "gty": "client-credentials"}), Ok(PrincipalKind::Client)),
            (
                "machine, RFC 9068 profile",
                json!({"sub": "c1@clients", "azp": null, "client_id": "c1"}),
                Ok(PrincipalKind::Client),
            ),
            ("machine with a free id", json!({"sub": "svc-7", "gty": "client-credentials"}), Ok(PrincipalKind::Client)),
            ("user whose id looks like a machine's", json!({"sub": "auth0|c1@clients"}), Ok(PrincipalKind::User)),
            ("another client", json!({"sub": "c2@clients"}), Err(TokenError::MalformedClaim("sub"))),
            (
                "another client, by its own grant",
                json!({"sub": "c2@clients", "gty": "client-credentials"}),
                Err(TokenError::MalformedClaim("sub")),
            ),
            ("client of an agent's kind", json!({"client_profile": "native_app ai_agent"}), Ok(PrincipalKind::Agent)),
            ("client of another kind", json!({"client_profile": "native_app my_ai_agent"}), Ok(PrincipalKind::User)),
            (
                "client of no kind",
                json!({"client_profile": ["ai_agent"]}),
                Err(TokenError::MalformedClaim("client_profile")),
            ),
            ("no client", json!({"sub": "c1@clients", "azp": null}), Err(TokenError::MissingClaim("azp"))),
            ("agent", json!({"sub": "agt_1", "sub_profile": "ai_agent"}), Ok(PrincipalKind::Agent)),
            ("service", json!({"sub": "svc", "sub_profile": "service"}), Ok(PrincipalKind::Client)),
            ("profile of a user", json!({"sub": "x", "sub_profile": "user"}), Ok(PrincipalKind::User)),
            ("unknown profile", json!({"sub_profile": "robot"}), Err(TokenError::MalformedClaim("sub_profile"))),
            ("agent for a user", json!({"sub_profile": "user", "act": agent}), Ok(PrincipalKind::Agent)),
            ("client for a user", json!({"act": {"sub": "c2"}}), Ok(PrincipalKind::User)),
            ("agent in the past", json!({"act": {"sub": "c2", "act": agent}}), Ok(PrincipalKind::User)),
            ("two clients", json!({"client_id": "c2"}), Err(TokenError::MalformedClaim("client_id"))),
        ];
        let auth0 = auth0();
        for (name, claims, kind) in table {
            assert_eq!(auth0.kind(&with(&classic(), claims)), kind, "{name}");
        }
    }
}
