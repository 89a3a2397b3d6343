use std::sync::Arc;

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
    /// One tenant of Microsoft Entra ID, by its id: a GUID in lower case.
    ///
    /// RS256, `typ` is `JWT`. Which version of token an API gets its own manifest decides, not the caller; both are accepted: `ver` must
    /// be there and fit the form of `iss`. The audience is the API's client id, in version 1 often its App ID URI: name the second with
    /// [`add_audience`](Self::add_audience). `tid` must be the tenant that `iss` names. The user id is `oid`, because `sub` differs from
    /// API to API; the token's id is `uti`.
    ///
    /// `scp` is scope: what a user delegated to the client. A client is one whose token says `idtyp` `app`, or that has no `scp` and whose
    /// `oid` is its `sub`.
    ///
    /// `roles` are two namespaces that Entra writes into one claim: a role is `app:{role}` where it was assigned to the application that
    /// acts for itself, and `user:{role}` where it was assigned to a user, so that a user's role never passes for an application's. Entra
    /// gives any application of the tenant a token unless assignment is required: an application's without a role is refused with
    /// [`MissingClaim`](TokenError::MissingClaim).
    ///
    /// Groups are not read: a user of many has none in the token, which does not mean that there are none.
    pub fn entra(tenant: impl AsRef<str>, audience: impl Into<String>) -> Self {
        Self::new(&ENTRA, names(tenant.as_ref()).into(), vec![audience.into()])
    }

    /// An application of Microsoft Entra ID for several tenants: these, each by its id as in [`entra`](Self::entra), and no other.
    ///
    /// There is no way to accept every tenant, and an empty list is a `ConfigError`: anybody can open a tenant. The keys come from the
    /// document that is the same for all tenants, in which a key may name the issuer that it signs for; then it signs for no other. A
    /// source of keys that does not keep those names ([`KeySource::keeps_key_issuers`](crate::key::KeySource::keeps_key_issuers)) is a
    /// `ConfigError`, here and in [`entra`](Self::entra).
    pub fn entra_multi_tenant<T: AsRef<str>>(
        audience: impl Into<String>,
        tenants: impl IntoIterator<Item = T>,
    ) -> Self {
        let names = tenants.into_iter().flat_map(|tenant| names(tenant.as_ref()));
        Self::new(&ENTRA, names.collect(), vec![audience.into()]).with_jwks_url(COMMON_KEYS)
    }
}

/// The names of a tenant: that of version 2, which discovery knows, and that of version 1.
fn names(tenant: &str) -> [String; 2] {
    [format!("{V2}{tenant}{V2_END}"), format!("{V1}{tenant}/")]
}

/// The version and the tenant that a name says.
fn parts(name: &str) -> Option<(&'static str, &str)> {
    let v2 = || Some(("2.0", name.strip_prefix(V2)?.strip_suffix(V2_END)?));
    let v1 = || Some(("1.0", name.strip_prefix(V1)?.strip_suffix('/')?));
    v2().or_else(v1)
}

fn tenant_in_name(name: &str) -> &str {
    parts(name).map_or("", |(_, tenant)| tenant)
}

fn is_guid(text: &str) -> bool {
    let is_hex = |group: &str| group.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex)
}

/// A key says for whom it signs by the name of version 2, with the tenant or with a place for it; version 1 has no names of its own there.
fn key_signs_for(key: &str, token: &str) -> bool {
    let (Some((_, key)), Some((_, token))) = (parts(key), parts(token)) else { return false };
    key == token || key == "{tenantid}"
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    if issuer.ids.is_empty() {
        let remedy = "name the tenants that are accepted, each by its id: anybody can open a tenant, so there is no way to accept all";
        return Err(ConfigError::missing("issuer.tenants", remedy));
    }
    for name in &issuer.ids {
        let tenant = tenant_in_name(name);
        if !is_guid(tenant) {
            let remedy = "give the tenant's id, a GUID in lower case: `common`, `organizations` and domain names stand in no `iss`";
            return Err(ConfigError::invalid("issuer.tenant", tenant, remedy));
        }
    }
    Ok(())
}

fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let claims = &facts.claims;
    let (version, tenant) = parts(facts.issuer).ok_or(TokenError::UnknownIssuer)?;
    if claims.required_name("ver")? != version {
        return Err(TokenError::MalformedClaim("ver"));
    }
    if claims.required_name("tid")? != tenant {
        return Err(TokenError::MalformedClaim("tid"));
    }
    let oid = claims.required_name("oid")?;
    if !is_guid(oid) {
        return Err(TokenError::MalformedClaim("oid"));
    }
    // ID tokens of an application that is its own API differ from its access tokens by this alone.
    claims.required_name(if version == "2.0" { "azp" } else { "appid" })?;
    let kind = kind(claims)?;
    // Whoever has an application in the tenant gets this far.
    if kind == PrincipalKind::Client && claims.texts("roles")?.iter().all(|role| role.trim().is_empty()) {
        return Err(TokenError::MissingClaim("roles"));
    }
    Ok(Party { kind, user_id: Some(oid.to_owned()) })
}

fn kind(claims: &Reader<'_>) -> Result<PrincipalKind, TokenError> {
    match (claims.name("idtyp")?, claims.name("scp")?) {
        (Some("app"), None) => Ok(PrincipalKind::Client),
        (Some("user"), _) | (None, Some(_)) => Ok(PrincipalKind::User),
        (Some(_), _) => Err(TokenError::MalformedClaim("idtyp")),
        (None, None) if claims.name("oid")? == claims.name("sub")? => Ok(PrincipalKind::Client),
        (None, None) => Err(TokenError::MissingClaim("scp")),
    }
}

fn roles(claims: &Reader<'_>) -> Result<Vec<Arc<str>>, TokenError> {
    let holder = if kind(claims)? == PrincipalKind::Client { "app" } else { "user" };
    Ok(claims.texts("roles")?.iter().map(|role| format!("{holder}:{role}").into()).collect())
}

const V2: &str = "https://login.microsoftonline.com/";
const V2_END: &str = "/v2.0";
const V1: &str = "https://sts.windows.net/";
const COMMON_KEYS: &str = "https://login.microsoftonline.com/common/discovery/v2.0/keys";

const ENTRA: Profile = Profile {
    client: &["azp", "appid"],
    scope: ScopeClaim::Text("scp"),
    roles,
    tenant: &["tid"],
    token_id: Some("uti"),
    also_read: &["ver", "tid", "oid", "appid", "idtyp", "uti"],
    party,
    tenant_in_name,
    key_signs_for,
    keys_name_issuers: true,
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use async_trait::async_trait;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        key::{Algorithm, Jwk, JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys},
        principal::{ClientId, IssuerId, Subject, TenantId},
        time::{Clock, UnixTime},
        token::{
            Tenants, Verifier,
            issuer::shapes::{Shapes, misconfigured},
            test_tokens::{NOW, base64url, now, rsa_numbers, seal, with},
        },
    };

    const ACME: &str = "11111111-aaaa-4bbb-8ccc-000000000001";
    const OTHER: &str = "22222222-aaaa-4bbb-8ccc-000000000002";
    const CONSUMERS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";
    const API: &str = "33333333-aaaa-4bbb-8ccc-000000000003";
    const OID: &str = "44444444-aaaa-4bbb-8ccc-000000000004";

    fn entra() -> Shapes {
        Shapes::of(Issuer::entra(ACME, API).add_audience("api://jobs"), Some("JWT"))
    }

    fn v2_user() -> Value {
        json!({
            "aud": API, "iss": format!("https://login.microsoftonline.com/{ACME}/v2.0"), "iat": NOW, "nbf": NOW, "exp": NOW + 4000,
            "aio": "x", "azp": "c1", "azpacr": "1", "name": "Alice", "oid": OID, "preferred_username": "alice@acme.example",
            "rh": "0.x", "scp": "Jobs.Read Jobs.Write", "sub": "pairwise", "tid": ACME, "uti": "u-1", "ver": "2.0",
        })
    }

    fn v2_app() -> Value {
        with(
            &v2_user(),
            json!({"scp": null, "name": null, "preferred_username": null, "sub": OID, "roles": ["Jobs.All"]}),
        )
    }

    fn v1(claims: &Value) -> Value {
        let iss = format!("https://sts.windows.net/{ACME}/");
        with(claims, json!({"iss": iss, "ver": "1.0", "azp": null, "azpacr": null, "appid": "c1", "aud": "api://jobs"}))
    }

    #[test]
    fn entra_tokens_of_both_versions_name_the_same_party() {
        for claims in [v2_user(), v1(&v2_user())] {
            let token = entra().verify(&claims).unwrap();
            let principal = token.principal();
            assert_eq!(principal.kind(), PrincipalKind::User);
            assert_eq!(principal.user_id().map(Subject::as_str), Some(OID));
            assert_eq!(principal.subject().map(Subject::as_str), Some("pairwise"));
            assert_eq!(principal.tenant().map(TenantId::as_str), Some(ACME));
            assert_eq!(principal.client().map(ClientId::as_str), Some("c1"));
            assert_eq!(principal.scope().to_string(), "Jobs.Read Jobs.Write");
            assert_eq!(token.token_id().map(|id| id.as_str()), Some("u-1"));
        }
        let app = entra().verify(&v1(&v2_app())).unwrap();
        assert_eq!(app.principal().kind(), PrincipalKind::Client);
        assert!(app.principal().scope().is_empty());
    }

    #[test]
    fn a_role_of_a_user_is_never_one_of_an_application() {
        let roles = |claims: &Value, changes| {
            let token = entra().verify(&with(claims, changes))?;
            Ok(token.principal().roles().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let [user, app] = [v2_user(), v2_app()];
        for (user, app) in [(v1(&user), v1(&app)), (user, app)] {
            assert_eq!(roles(&user, json!({})), Ok(String::new()));
            assert_eq!(roles(&user, json!({"roles": ["A", "app:A"]})), Ok("user:A user:app:A".to_owned()));
            assert_eq!(roles(&user, json!({"roles": ["A"], "idtyp": "user"})), Ok("user:A".to_owned()));
            assert_eq!(roles(&app, json!({"roles": ["A", "user:A"]})), Ok("app:A app:user:A".to_owned()));
            assert_eq!(roles(&app, json!({"roles": ["A"], "idtyp": "app"})), Ok("app:A".to_owned()));
            let agent = json!({"roles": ["A"], "sub_profile": "ai_agent"});
            assert_eq!(roles(&user, agent.clone()), Ok("user:A".to_owned()));
            assert_eq!(roles(&app, agent), Ok("app:A".to_owned()));
            for none in [json!(null), json!([]), json!([""]), json!([" "])] {
                let missing = Err(TokenError::MissingClaim("roles"));
                assert_eq!(roles(&app, json!({"roles": none})), missing, "{none}");
                assert_eq!(roles(&app, json!({"roles": none, "idtyp": "app"})), missing, "{none}");
            }
            for odd in [json!("A"), json!({}), json!([7]), json!(["A", null])] {
                let malformed = Err(TokenError::MalformedClaim("roles"));
                assert_eq!(roles(&app, json!({"roles": odd})), malformed, "{odd}");
                assert_eq!(roles(&user, json!({"roles": odd})), malformed, "{odd}");
            }
        }
    }

    #[test]
    fn entra_rules_hold_from_both_sides() {
        use TokenError::{MalformedClaim, MissingClaim};
        let user = |changes| with(&v2_user(), changes);
        let app = |changes| with(&v2_app(), changes);
        let id_token = user(json!({"azp": null, "azpacr": null, "scp": null}));
        let table = [
            ("application by idtyp", app(json!({"idtyp": "app", "sub": "other"})), Ok(PrincipalKind::Client)),
            ("application by oid", app(json!({})), Ok(PrincipalKind::Client)),
            ("neither", app(json!({"sub": "pairwise"})), Err(MissingClaim("scp"))),
            ("application with scp", app(json!({"idtyp": "app", "scp": "a"})), Err(MalformedClaim("idtyp"))),
            ("user with a role", user(json!({"roles": ["Jobs.All"]})), Ok(PrincipalKind::User)),
            ("user by idtyp", user(json!({"idtyp": "user"})), Ok(PrincipalKind::User)),
            ("device", user(json!({"idtyp": "device"})), Err(MalformedClaim("idtyp"))),
            ("idtyp in other case", app(json!({"idtyp": "App"})), Err(MalformedClaim("idtyp"))),
            ("blank scp", user(json!({"scp": ""})), Err(MalformedClaim("scp"))),
            ("array scp", user(json!({"scp": ["a"]})), Err(MalformedClaim("scp"))),
            ("scope beside scp", user(json!({"scope": "a"})), Err(MalformedClaim("scope"))),
            ("no ver", user(json!({"ver": null})), Err(MissingClaim("ver"))),
            ("ver of the other", user(json!({"ver": "1.0"})), Err(MalformedClaim("ver"))),
            ("ver as number", user(json!({"ver": 2.0})), Err(MalformedClaim("ver"))),
            ("no tid", user(json!({"tid": null})), Err(MissingClaim("tid"))),
            ("tid of another", user(json!({"tid": OTHER})), Err(MalformedClaim("tid"))),
            ("tid in upper case", user(json!({"tid": ACME.to_uppercase()})), Err(MalformedClaim("tid"))),
            ("no oid", user(json!({"oid": null})), Err(MissingClaim("oid"))),
            ("odd oid", user(json!({"oid": "alice"})), Err(MalformedClaim("oid"))),
            ("no client", user(json!({"azp": null})), Err(MissingClaim("azp"))),
            ("client of the other version", user(json!({"azp": null, "appid": "c1"})), Err(MissingClaim("azp"))),
            ("two clients", user(json!({"appid": "c2"})), Err(MalformedClaim("appid"))),
            ("ID token for us", id_token, Err(MissingClaim("azp"))),
            ("look-alike", user(json!({"OID": OID})), Err(MalformedClaim("oid"))),
            (
                "another tenant",
                user(json!({"iss": format!("https://login.microsoftonline.com/{OTHER}/v2.0"), "tid": OTHER})),
                Err(TokenError::UnknownIssuer),
            ),
            (
                "the template",
                user(json!({"iss": "https://login.microsoftonline.com/{tenantid}/v2.0", "tid": "{tenantid}"})),
                Err(TokenError::UnknownIssuer),
            ),
        ];
        for (name, claims, kind) in table {
            assert_eq!(entra().kind(&claims), kind, "{name}");
        }
        assert_eq!(entra().verify_typed(None, &v2_user()).err(), Some(TokenError::Type));
        let strict = Shapes::of(Issuer::entra(ACME, API).require_token_id(), Some("JWT"));
        assert_eq!(strict.refusal(&with(&v2_user(), json!({"uti": null, "jti": "j"}))), Some(MissingClaim("uti")));
    }

    #[test]
    fn several_tenants_are_a_list_and_a_key_signs_for_the_issuer_that_it_names() {
        let of = |tenant: &str| {
            let iss = format!("https://login.microsoftonline.com/{tenant}/v2.0");
            with(&v2_user(), json!({"iss": iss, "tid": tenant}))
        };
        let v1_of = |tenant: &str| with(&v1(&of(tenant)), json!({"iss": format!("https://sts.windows.net/{tenant}/")}));
        let (n, e) = rsa_numbers();
        let key = |issuer: Value| {
            let bare = json!({"kty": "RSA", "use": "sig", "kid": "RS256", "n": base64url(&n), "e": base64url(&e)});
            Jwk::from_json(&with(&bare, json!({"issuer": issuer})).to_string()).unwrap()
        };
        let shapes = |issuers: &[Value]| {
            let issuer = Issuer::entra_multi_tenant(API, [ACME, OTHER, CONSUMERS]).add_audience("api://jobs");
            Shapes::signed(issuer, Some("JWT"), issuers.iter().cloned().map(key).collect::<JwkSet>())
        };
        let template = json!("https://login.microsoftonline.com/{tenantid}/v2.0");
        let exact = |tenant: &str| json!(format!("https://login.microsoftonline.com/{tenant}/v2.0"));

        for issuer in [Value::Null, template.clone()] {
            for tenant in [ACME, OTHER, CONSUMERS] {
                let shapes = shapes(std::slice::from_ref(&issuer));
                assert_eq!(shapes.refusal(&of(tenant)), None, "{issuer} {tenant}");
                assert_eq!(shapes.refusal(&v1_of(tenant)), None, "{issuer} {tenant}");
            }
        }
        let consumers = shapes(&[exact(CONSUMERS)]);
        assert_eq!(consumers.refusal(&of(CONSUMERS)), None);
        assert_eq!(consumers.refusal(&of(ACME)), Some(TokenError::UnknownKey));
        assert_eq!(consumers.refusal(&v1_of(ACME)), Some(TokenError::UnknownKey));
        assert_eq!(shapes(&[exact(CONSUMERS), template]).refusal(&of(ACME)), None, "one key, two entries");
        for odd in ["https://login.microsoftonline.com/{TENANTID}/v2.0", "{tenantid}", "", "https://sts.windows.net/x/"]
        {
            assert_eq!(shapes(&[json!(odd)]).refusal(&of(ACME)), Some(TokenError::UnknownKey), "{odd}");
        }
        let stranger = "55555555-aaaa-4bbb-8ccc-000000000005";
        assert_eq!(shapes(&[Value::Null]).refusal(&of(stranger)), Some(TokenError::UnknownIssuer));

        let barred = Issuer::entra_multi_tenant(API, [ACME, OTHER]).with_tenants(Tenants::known([ACME]));
        let barred = Shapes::of(barred, Some("JWT"));
        assert_eq!((barred.refusal(&of(ACME)), barred.refusal(&of(OTHER))), (None, Some(TokenError::Tenant)));
    }

    /// Brings the first set once, then the second.
    struct Rotating(JwkSet, JwkSet, AtomicUsize);

    #[async_trait]
    impl KeySource for Rotating {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            let is_first = self.2.fetch_add(1, Ordering::SeqCst) == 0;
            Ok(LoadedKeys::new(if is_first { self.0.clone() } else { self.1.clone() }))
        }
    }

    #[derive(Clone, Default)]
    struct Stopped(Arc<AtomicUsize>);

    impl Clock for Stopped {
        fn now(&self) -> UnixTime {
            now()
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst) as u64)
        }
    }

    #[tokio::test]
    async fn a_kid_that_only_another_tenants_key_has_is_loaded_for_like_any_unknown_one() {
        let (n, e) = rsa_numbers();
        let key = |tenant: &str| {
            let issuer = format!("https://login.microsoftonline.com/{tenant}/v2.0");
            let key = json!({"kty": "RSA", "kid": "k", "n": base64url(&n), "e": base64url(&e), "issuer": issuer});
            Jwk::from_json(&key.to_string()).unwrap()
        };
        let [before, after] = [vec![key(OTHER)], vec![key(OTHER), key(ACME)]].map(JwkSet::from_iter);
        let source = Arc::new(Rotating(before, after, AtomicUsize::new(0)));
        let issuer = Issuer::entra_multi_tenant(API, [ACME, OTHER]).with_key_source(Arc::clone(&source));
        let clock = Stopped::default();
        let verifier = Verifier::builder(issuer).with_clock(clock.clone()).build().unwrap();
        let header = json!({"alg": "RS256", "kid": "k", "typ": "JWT"}).to_string();
        let token = seal(Algorithm::Rs256, header, v2_user().to_string());

        assert_eq!(verifier.verify(&token, now()).await.err(), Some(TokenError::UnknownKey));
        assert_eq!(source.2.load(Ordering::SeqCst), 1, "within the floor");
        clock.0.store(30, Ordering::SeqCst);
        assert_eq!(verifier.verify(&token, now()).await.err(), None);
        assert_eq!(source.2.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_revocation_in_one_tenant_is_looked_up_under_the_names_of_that_tenant_however_many_there_are() {
        let tenants: Vec<_> = (0..1000).map(|number| format!("11111111-aaaa-4bbb-8ccc-{number:012}")).collect();
        let issuer = Issuer::entra_multi_tenant(API, &tenants).with_keys(JwkSet::default());
        let (expectations, _) = issuer.into_parts().unwrap();
        assert_eq!(expectations.ids.len(), 2000);
        for tenant in &tenants {
            let own = names(tenant).map(IssuerId::new);
            for name in &own {
                assert_eq!(expectations.names_of(name), own, "{name}");
            }
        }
    }

    #[test]
    fn a_tenant_is_configured_by_its_guid() {
        for tenant in
            ["common", "organizations", "acme.onmicrosoft.com", "", &ACME.to_uppercase(), &ACME[1..], "{tenantid}"]
        {
            let (field, text) = misconfigured(Issuer::entra(tenant, API));
            assert!(field == "issuer.tenant" && text.contains("a GUID in lower case"), "{text}");
            assert_eq!(misconfigured(Issuer::entra_multi_tenant(API, [ACME, tenant])).0, "issuer.tenant", "{tenant}");
        }
        let (field, text) = misconfigured(Issuer::entra_multi_tenant::<&str>(API, []));
        assert!(field == "issuer.tenants" && text.contains("no way to accept all"), "{text}");
    }
}
