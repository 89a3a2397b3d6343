use super::{
    Issuer, Profile, ScopeClaim, is_plain_label,
    profile::{Facts, Party},
};
use crate::{ConfigError, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// A user pool of Amazon Cognito: its region, its id (`{region}_{name}`), and the ids of the clients whose tokens are accepted.
    ///
    /// **There is no audience here.** Cognito's access tokens have no `aud` unless a client asks for a resource, so the list of clients is
    /// all that keeps the tokens of a pool's other applications out: name those that are meant to call this API, and no other. Where
    /// clients do ask for a resource, [`add_audience`](Self::add_audience) demands it as well; without it a token that has an `aud` is
    /// refused, because it is for the API that it names. [`VerifiedToken::audience`](crate::token::VerifiedToken::audience) is the client id
    /// where no audience is demanded.
    ///
    /// RS256; `typ` is `JWT` or absent. `token_use` must be `access`. A client is one without `username` whose `sub` is its `client_id`, a
    /// user who has a `username`; other tokens are refused. `cognito:groups` are the roles. There is a `jti` only where the pool can revoke
    /// tokens.
    pub fn cognito<C: Into<String>>(
        region: impl AsRef<str>,
        pool: impl AsRef<str>,
        clients: impl IntoIterator<Item = C>,
    ) -> Self {
        let url = format!("https://cognito-idp.{}{HOST_END}{}", region.as_ref(), pool.as_ref());
        Self::new(&COGNITO, vec![url], Vec::new()).with_clients(clients)
    }
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let parts = issuer.url().strip_prefix("https://cognito-idp.").and_then(|rest| rest.split_once(HOST_END));
    let (region, pool) = parts.unwrap_or_default();
    if !is_plain_label(region) {
        return Err(ConfigError::invalid(
            "issuer.region",
            region,
            "give the region by its code, such as `eu-central-1`",
        ));
    }
    let name = pool.strip_prefix(region).and_then(|rest| rest.strip_prefix('_')).unwrap_or_default();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let remedy = "give the pool's id, which begins with its region: `eu-central-1_AbCdEfGhI`";
        return Err(ConfigError::invalid("issuer.pool", pool, remedy));
    }
    Ok(())
}

fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let is_client = facts.client == Some(facts.subject);
    match facts.claims.name("username")? {
        None if is_client => Ok(PrincipalKind::Client.into()),
        None => Err(TokenError::MissingClaim("username")),
        Some(_) if is_client => Err(TokenError::MalformedClaim("username")),
        Some(_) => Ok(PrincipalKind::User.into()),
    }
}

const HOST_END: &str = ".amazonaws.com/";

const COGNITO: Profile = Profile {
    type_may_be_absent: true,
    clients_name_audience: true,
    says: &[("token_use", "access")],
    client: &["client_id"],
    scope: ScopeClaim::Text("scope"),
    roles: |claims| claims.texts("cognito:groups"),
    also_read: &["username", "cognito:groups"],
    party,
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::token::{
        issuer::shapes::{Shapes, misconfigured},
        test_tokens::{NOW, with},
    };

    const POOL: &str = "eu-central-1_AbCdEfGhI";

    fn issuer() -> Issuer {
        Issuer::cognito("eu-central-1", POOL, ["c1", "c2"])
    }

    fn cognito() -> Shapes {
        Shapes::of(issuer(), None)
    }

    fn user() -> Value {
        json!({
            "sub": "8f1c", "cognito:groups": ["staff"], "iss": format!("https://cognito-idp.eu-central-1.amazonaws.com/{POOL}"),
            "version": 2, "client_id": "c1", "origin_jti": "o", "event_id": "e", "token_use": "access", "scope": "openid jobs/read",
            "auth_time": NOW - 5, "exp": NOW + 3600, "iat": NOW, "jti": "j", "username": "alice",
        })
    }

    fn machine() -> Value {
        with(&user(), json!({"sub": "c1", "username": null, "cognito:groups": null, "scope": "jobs/read", "jti": null}))
    }

    #[test]
    fn cognito_clients_stand_in_for_the_audience() {
        let token = cognito().verify(&user()).unwrap();
        assert_eq!(token.audience().as_str(), "c1");
        assert_eq!(token.principal().scope().to_string(), "jobs/read openid");
        assert_eq!(token.principal().roles(), ["staff".into()]);
        assert_eq!(cognito().refusal(&with(&user(), json!({"client_id": "c2"}))), None);
        assert_eq!(cognito().refusal(&with(&user(), json!({"client_id": "c3"}))), Some(TokenError::Client));
        assert_eq!(cognito().refusal(&with(&user(), json!({"client_id": "C1"}))), Some(TokenError::Client));
        let none = with(&user(), json!({"client_id": null}));
        assert_eq!(cognito().refusal(&none), Some(TokenError::MissingClaim("client_id")));

        let bound = with(&user(), json!({"aud": "https://api.example"}));
        assert_eq!(cognito().refusal(&bound), Some(TokenError::Audience), "for an API that may not be us");
        let demanding = Shapes::of(issuer().add_audience("https://api.example"), None);
        assert_eq!(demanding.verify(&bound).unwrap().audience().as_str(), "https://api.example");
        assert_eq!(demanding.refusal(&user()), Some(TokenError::MissingClaim("aud")));
        assert_eq!(demanding.refusal(&with(&bound, json!({"client_id": "c3"}))), Some(TokenError::Client));
        assert_eq!(demanding.refusal(&with(&bound, json!({"aud": "x"}))), Some(TokenError::Audience));
    }

    #[test]
    fn cognito_users_and_machines_are_told_apart_and_id_tokens_refused() {
        let id_token = with(
            &user(),
            json!({"token_use": "id", "aud": "c1", "client_id": null, "username": null, "cognito:username": "alice"}),
        );
        let table = [
            ("user", user(), Ok(PrincipalKind::User)),
            ("machine", machine(), Ok(PrincipalKind::Client)),
            (
                "user without a name",
                with(&user(), json!({"username": null})),
                Err(TokenError::MissingClaim("username")),
            ),
            ("user named as its client", with(&user(), json!({"username": "c1"})), Ok(PrincipalKind::User)),
            (
                "machine with a name",
                with(&machine(), json!({"username": "alice"})),
                Err(TokenError::MalformedClaim("username")),
            ),
            ("blank name", with(&user(), json!({"username": ""})), Err(TokenError::MalformedClaim("username"))),
            ("ID token", id_token.clone(), Err(TokenError::MissingClaim("client_id"))),
            (
                "ID token in disguise",
                with(&user(), json!({"token_use": "id"})),
                Err(TokenError::WrongKind("token_use")),
            ),
            ("other case", with(&user(), json!({"token_use": "Access"})), Err(TokenError::WrongKind("token_use"))),
            ("no use", with(&user(), json!({"token_use": null})), Err(TokenError::MissingClaim("token_use"))),
            ("array", with(&user(), json!({"token_use": ["access"]})), Err(TokenError::MalformedClaim("token_use"))),
            (
                "groups as text",
                with(&user(), json!({"cognito:groups": "staff"})),
                Err(TokenError::MalformedClaim("cognito:groups")),
            ),
            ("look-alike", with(&user(), json!({"userName": "root"})), Err(TokenError::MalformedClaim("username"))),
        ];
        for (name, claims, kind) in table {
            assert_eq!(cognito().kind(&claims), kind, "{name}");
        }
    }

    #[test]
    fn a_pool_is_configured_by_region_id_and_clients() {
        let table = [
            ("no clients", Issuer::cognito::<&str>("eu-central-1", POOL, []), "issuer.clients"),
            ("blank client", Issuer::cognito("eu-central-1", POOL, [""]), "issuer.clients"),
            ("odd region", Issuer::cognito("eu-central-1.evil.example/", POOL, ["c"]), "issuer.region"),
            ("no region", Issuer::cognito("", "_x", ["c"]), "issuer.region"),
            ("pool of another region", Issuer::cognito("eu-west-1", POOL, ["c"]), "issuer.pool"),
            ("pool without region", Issuer::cognito("eu-west-1", "AbC", ["c"]), "issuer.pool"),
            ("pool with a path", Issuer::cognito("eu-west-1", "eu-west-1_a/b", ["c"]), "issuer.pool"),
        ];
        for (name, issuer, field) in table {
            assert_eq!(misconfigured(issuer).0, field, "{name}");
        }
    }
}
