use std::sync::Arc;

use http::Uri;
use serde_json::Value;

use super::{
    Issuer, Profile, ScopeClaim,
    profile::{Facts, Party},
};
use crate::{
    ConfigError,
    principal::PrincipalKind,
    token::{TokenError, reader::Reader},
};

impl Issuer {
    /// A realm of Keycloak, by its issuer: `https://{host}/realms/{realm}`, as the realm's frontend host name has it. Where tokens may
    /// also be had under another host name, [`add_alias`](Self::add_alias).
    ///
    /// RS256, Keycloak's default; a realm that signs with another algorithm needs [`with_algorithms`](Self::with_algorithms). The header's
    /// `typ` is `JWT` or `at+jwt`, the claim `typ` must be `Bearer`. The audience has to be put into the tokens by an audience mapper:
    /// `account`, which Keycloak puts there by itself, is in every user's token of the realm, and a `ConfigError` here.
    ///
    /// A token without `sub` is refused with [`MissingClaim`](TokenError::MissingClaim): give the client the client scope `basic`, which
    /// realms from before version 25 lack and lightweight tokens leave out.
    ///
    /// A client is one whose token has the claim `client_id`, which Keycloak writes for service accounts alone, equal to `azp`: the client
    /// scope `service_account` adds it, and a client from before that scope needs a mapper that writes the session note `client_id` into
    /// the claim `client_id`. Its `preferred_username`, if there is one, must be `service-account-` and its own id in lower case, as
    /// Keycloak names service accounts. That name alone makes no client, because users may choose theirs: a token that has it without
    /// `client_id` is refused with `MissingClaim`. So is one that has neither of the two claims, because nothing tells a machine's from
    /// a user's; the client scope `profile` adds `preferred_username`.
    ///
    /// Roles are `realm:{role}` for those of the realm and `client:{client}:{role}` for those of a client, whose id has each `%` and `:`
    /// written as `%25` and `%3A`.
    pub fn keycloak(realm_url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&KEYCLOAK, vec![realm_url.into()], vec![audience.into()])
    }
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let is_realm = |url: &str| {
        let Ok(uri) = url.parse::<Uri>() else { return false };
        let mut segments = uri.path().rsplit('/');
        segments.next().is_some_and(|realm| !realm.is_empty()) && segments.next() == Some("realms")
    };
    for url in [issuer.url()].into_iter().chain(issuer.aliases.iter().map(String::as_str)) {
        if !is_realm(url) {
            let remedy =
                "give the realm's issuer as it stands in `iss`: `https://{host}/realms/{realm}`, no slash at the end";
            return Err(ConfigError::invalid("issuer.url", url, remedy));
        }
    }
    if let Some(account) = issuer.audiences.iter().find(|audience| *audience == "account") {
        let remedy = "add an audience mapper for this API and name its audience; `account` is in every user's token of the realm";
        return Err(ConfigError::invalid("issuer.audience", account, remedy));
    }
    Ok(())
}

/// By the claim `client_id`, which no user can have; that it is `azp` is checked where the two are read. The name only confirms it, by
/// equality and never by prefix: a user may be called `service-account-` and more.
fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let is_client = facts.claims.name("client_id")?.is_some();
    let own_name = facts.client.map(|client| format!("{SERVICE_ACCOUNT}{}", client.to_lowercase()));
    let kind = match facts.claims.name("preferred_username")? {
        Some(name) if is_client && Some(name) == own_name.as_deref() => PrincipalKind::Client,
        // One claim says machine, the other one names somebody else.
        Some(_) if is_client => return Err(TokenError::MalformedClaim("preferred_username")),
        // A machine whose claim is not mapped, or a user who calls himself one: nothing tells which.
        Some(name) if Some(name.to_lowercase()) == own_name => return Err(TokenError::MissingClaim("client_id")),
        Some(_) => PrincipalKind::User,
        None if is_client => PrincipalKind::Client,
        None => return Err(TokenError::MissingClaim("preferred_username")),
    };
    Ok(kind.into())
}

fn roles(claims: &Reader<'_>) -> Result<Vec<Arc<str>>, TokenError> {
    let mut roles = Vec::new();
    if let Some(realm) = claims.object("realm_access")? {
        named(&mut roles, "realm:", realm.get("roles")).ok_or(TokenError::MalformedClaim("realm_access"))?;
    }
    for (client, access) in claims.object("resource_access")?.into_iter().flatten() {
        let prefix = format!("client:{}:", client.replace('%', "%25").replace(':', "%3A"));
        let access = access.as_object().and_then(|access| named(&mut roles, &prefix, access.get("roles")));
        access.ok_or(TokenError::MalformedClaim("resource_access"))?;
    }
    Ok(roles)
}

fn named(roles: &mut Vec<Arc<str>>, prefix: &str, found: Option<&Value>) -> Option<()> {
    let Some(found) = found else { return Some(()) };
    for role in found.as_array()? {
        roles.push(format!("{prefix}{}", role.as_str()?).into());
    }
    Some(())
}

const SERVICE_ACCOUNT: &str = "service-account-";

const KEYCLOAK: Profile = Profile {
    types: &["jwt", "at+jwt"],
    required: &["azp"],
    says: &[("typ", "Bearer")],
    client: &["azp", "client_id"],
    scope: ScopeClaim::Text("scope"),
    roles,
    also_read: &["preferred_username", "realm_access", "resource_access"],
    has_aliases: true,
    party,
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        principal::ClientId,
        token::{
            issuer::shapes::{Shapes, misconfigured},
            test_tokens::{NOW, with},
        },
    };

    const REALM: &str = "https://sso.acme.example/realms/acme";

    fn keycloak() -> Shapes {
        Shapes::of(Issuer::keycloak(REALM, "jobs-api").add_alias("http://localhost:8080/realms/acme"), Some("JWT"))
    }

    fn user() -> Value {
        json!({
            "exp": NOW + 300, "iat": NOW, "auth_time": NOW - 9, "jti": "onrtac:5a", "iss": REALM, "aud": ["jobs-api", "account"],
            "sub": "f81d", "typ": "Bearer", "azp": "Web", "sid": "s", "acr": "1", "scope": "openid profile jobs:read",
            "realm_access": {"roles": ["admin"]}, "resource_access": {"jobs-api": {"roles": ["admin", "reader"]}},
            "preferred_username": "alice", "email": "alice@acme.example",
        })
    }

    fn machine() -> Value {
        with(
            &user(),
            json!({"sid": null, "auth_time": null, "azp": "Batch", "client_id": "Batch",
                "preferred_username": "service-account-batch", "email": null, "clientHost": "10.0.0.1"}),
        )
    }

    #[test]
    fn keycloak_roles_of_realm_and_clients_stay_apart() {
        let roles = |changes| {
            keycloak()
                .verify(&with(&user(), changes))
                .map(|token| token.principal().roles().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(roles(json!({})), Ok("realm:admin client:jobs-api:admin client:jobs-api:reader".to_owned()));
        assert_eq!(roles(json!({"realm_access": null, "resource_access": null})), Ok(String::new()));
        let one = roles(json!({"realm_access": null, "resource_access": {"a:b": {"roles": ["c"]}}}));
        let other = roles(json!({"realm_access": null, "resource_access": {"a": {"roles": ["b:c"]}}}));
        assert_eq!((one, other), (Ok("client:a%3Ab:c".to_owned()), Ok("client:a:b:c".to_owned())));
        assert_eq!(roles(json!({"realm_access": {}, "resource_access": {"a%3Ab": {}}})), Ok(String::new()));
        for odd in [json!("admin"), json!([]), json!({"roles": "admin"}), json!({"roles": [1]}), json!({"roles": {}})] {
            let realm = roles(json!({"realm_access": odd}));
            assert_eq!(realm, Err(TokenError::MalformedClaim("realm_access")), "{odd}");
            let client = roles(json!({"resource_access": {"a": odd}}));
            assert_eq!(client, Err(TokenError::MalformedClaim("resource_access")), "{odd}");
        }
    }

    #[test]
    fn keycloak_has_scope_in_one_text() {
        let scope = keycloak().verify(&user()).unwrap().principal().scope().to_string();
        assert_eq!(scope, "jobs:read openid profile");
        let list = with(&user(), json!({"scope": ["openid"]}));
        assert_eq!(keycloak().refusal(&list), Some(TokenError::MalformedClaim("scope")));
    }

    #[test]
    fn keycloak_rules_hold_from_both_sides() {
        use TokenError::{MalformedClaim, MissingClaim, WrongKind};
        let user = |changes| with(&user(), changes);
        let machine = |changes| with(&machine(), changes);
        let table = [
            ("user", user(json!({})), Ok(PrincipalKind::User)),
            ("machine", machine(json!({})), Ok(PrincipalKind::Client)),
            ("machine by name alone", machine(json!({"client_id": null})), Err(MissingClaim("client_id"))),
            (
                "a user who calls himself service-account-web",
                user(json!({"preferred_username": "service-account-web"})),
                Err(MissingClaim("client_id")),
            ),
            ("machine by client id", machine(json!({"preferred_username": null})), Ok(PrincipalKind::Client)),
            (
                "user called as another's machine",
                user(json!({"preferred_username": "service-account-batch"})),
                Ok(PrincipalKind::User),
            ),
            (
                "user called as a machine and more",
                user(json!({"preferred_username": "service-account-web2"})),
                Ok(PrincipalKind::User),
            ),
            (
                "a user who calls himself so in another case",
                user(json!({"preferred_username": "Service-Account-Web"})),
                Err(MissingClaim("client_id")),
            ),
            (
                "machine named in another case",
                machine(json!({"preferred_username": "service-account-Batch"})),
                Err(MalformedClaim("preferred_username")),
            ),
            (
                "machine named as another's",
                machine(json!({"preferred_username": "service-account-web"})),
                Err(MalformedClaim("preferred_username")),
            ),
            (
                "name and claim of another's machine",
                user(json!({"preferred_username": "service-account-batch", "client_id": "Batch"})),
                Err(MalformedClaim("client_id")),
            ),
            (
                "claim of older versions",
                machine(json!({"client_id": null, "clientId": "Batch"})),
                Err(MissingClaim("client_id")),
            ),
            ("user with a client id", user(json!({"client_id": "Web"})), Err(MalformedClaim("preferred_username"))),
            ("another client's id", machine(json!({"client_id": "Web"})), Err(MalformedClaim("client_id"))),
            ("lightweight", user(json!({"preferred_username": null})), Err(MissingClaim("preferred_username"))),
            ("no sub", user(json!({"sub": null})), Err(MissingClaim("sub"))),
            ("no azp", user(json!({"azp": null})), Err(MissingClaim("azp"))),
            ("ID token", user(json!({"typ": "ID"})), Err(WrongKind("typ"))),
            ("refresh token", user(json!({"typ": "Refresh"})), Err(WrongKind("typ"))),
            ("logout token", user(json!({"typ": "Logout", "events": {}})), Err(WrongKind("typ"))),
            ("bound token", user(json!({"typ": "DPoP"})), Err(WrongKind("typ"))),
            ("typ in other case", user(json!({"typ": "bearer"})), Err(WrongKind("typ"))),
            ("no typ", user(json!({"typ": null})), Err(MissingClaim("typ"))),
            ("account alone", user(json!({"aud": "account"})), Err(TokenError::Audience)),
            ("no audience", user(json!({"aud": null})), Err(MissingClaim("aud"))),
            ("other name", user(json!({"iss": "http://localhost:8080/realms/acme"})), Ok(PrincipalKind::User)),
            ("other realm", user(json!({"iss": "https://sso.acme.example/realms/b"})), Err(TokenError::UnknownIssuer)),
            ("look-alike", user(json!({"Realm_Access": {}})), Err(MalformedClaim("realm_access"))),
        ];
        for (name, claims, kind) in table {
            assert_eq!(keycloak().kind(&claims), kind, "{name}");
        }
        for (typ, accepted) in [(Some("JWT"), true), (Some("at+jwt"), true), (None, false), (Some("logout+jwt"), false)]
        {
            assert_eq!(keycloak().verify_typed(typ, &user(json!({}))).is_ok(), accepted, "{typ:?}");
        }
        let client = keycloak().verify(&user(json!({}))).unwrap().principal().client().cloned();
        assert_eq!(client.as_ref().map(ClientId::as_str), Some("Web"));
    }

    #[test]
    fn a_realm_is_configured_by_its_url_and_an_audience_of_its_own() {
        let (field, text) = misconfigured(Issuer::keycloak(REALM, "jobs-api").add_audience("account"));
        assert!(field == "issuer.audience" && text.contains("audience mapper"), "{text}");
        for url in [
            "https://sso.acme.example",
            "https://sso.acme.example/realms/",
            "https://sso.acme.example/realms/acme/",
            "https://sso.acme.example/acme",
        ] {
            assert_eq!(misconfigured(Issuer::keycloak(url, "a")).0, "issuer.url", "{url}");
            assert_eq!(misconfigured(Issuer::keycloak(REALM, "a").add_alias(url)).0, "issuer.url", "{url}");
        }
        assert_eq!(
            misconfigured(Issuer::keycloak(REALM, "a").add_alias("http://keycloak:8080/realms/acme")).0,
            "issuer.url"
        );
    }
}
