use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    TokenError,
    issuer::{Expectations, Facts, Permissions},
    reader::Reader,
};
use crate::{
    principal::{
        Audience, Authentication, ClientId, IssuerId, Parts, Principal, PrincipalKind, Proof, SessionId, Subject,
        TenantId, Thumbprint, TokenId,
    },
    scope::{Scope, ScopeToken},
    time::UnixTime,
};

/// What the claims of a token say, each checked.
pub(super) struct Accepted {
    pub(super) principal: Principal,
    pub(super) audience: Audience,
    pub(super) token_id: Option<TokenId>,
    pub(super) session_id: Option<SessionId>,
    pub(super) expires_at: UnixTime,
    pub(super) not_before: Option<UnixTime>,
    pub(super) issued_at: Option<UnixTime>,
}

impl Expectations {
    /// Checks every claim that is used, in the order of [`TokenError`]: first that each has its form, then what it says. The
    /// signature and `iss` are verified already.
    pub(super) fn accept(
        &self,
        issuer: &IssuerId,
        claims: &Map<String, Value>,
        now: UnixTime,
        thumbprint: &Thumbprint,
    ) -> Result<Accepted, TokenError> {
        let claims = Reader::new(claims, self.profile)?;
        self.demand_claims(&claims)?;
        let audiences = claims.audiences()?;
        let expires_at = claims.time("exp")?.ok_or(TokenError::MissingClaim("exp"))?;
        // The fraction is dropped so that rounding never lengthens a life.
        let expires_at = UnixTime::from_secs(expires_at.as_secs());
        let not_before = claims.time("nbf")?;
        let issued_at = claims.time("iat")?;
        let token_id = self.profile.token_id.map_or(Ok(None), |claim| claims.name(claim))?.map(TokenId::new);
        let session_id = claims.name("sid")?.map(SessionId::new);
        let principal = self.principal(issuer, &claims, thumbprint)?;

        let audience = self.audience(audiences.as_deref(), &principal)?;
        let is_listed = |client: &ClientId| self.clients.as_ref().is_none_or(|clients| clients.contains(client));
        if !principal.client().is_none_or(is_listed) {
            return Err(TokenError::Client);
        }
        if !principal.tenant().is_none_or(|tenant| self.tenants.accept(tenant)) {
            return Err(TokenError::Tenant);
        }
        claims.refuse_other_kinds()?;
        let is_for = |client: &ClientId| audiences.iter().flatten().any(|audience| *audience == client.as_str());
        if self.profile.audience_is_no_client && principal.client().is_some_and(is_for) {
            return Err(TokenError::WrongKind("aud"));
        }
        self.check_times(now, expires_at, not_before, issued_at)?;
        // Whatever its shape: a confirmation that is not understood binds all the same (RFC 7800 §3.1).
        if claims.has("cnf") {
            return Err(TokenError::Bound);
        }
        Ok(Accepted { principal, audience, token_id, session_id, expires_at, not_before, issued_at })
    }

    /// The claims that have to be there, whatever they say: by the kind of issuer, and by what is switched on.
    fn demand_claims(&self, claims: &Reader<'_>) -> Result<(), TokenError> {
        let profile = self.profile;
        for claim in profile.required {
            claims.demand(claim)?;
        }
        for (claim, _) in profile.says {
            claims.required_name(claim)?;
        }
        if let Some(claim) = profile.token_id.filter(|_| self.requires_token_id) {
            claims.demand(claim)?;
        }
        if !self.audiences.is_empty() {
            claims.demand("aud")?;
        }
        if self.max_age.is_some() {
            claims.demand("iat")?;
        }
        if self.clients.is_some() && claims.agreed(profile.client)?.is_none() {
            return Err(TokenError::MissingClaim(profile.client.first().copied().unwrap_or("client_id")));
        }
        if self.tenants.are_required() {
            claims.required_name_at(profile.tenant)?;
        }
        // A list that is missing is not an empty one: nobody knows what it would have held.
        if self.permissions != Permissions::Apart {
            profile.permissions.map_or(Ok(()), |claim| claims.demand(claim))?;
        }
        Ok(())
    }

    /// The member of `aud` that names us.
    ///
    /// Without audiences, which only the clients of Cognito can stand in for, it is the client. A token that names an API all the same
    /// is for that API ([RFC 8707 §2.2](https://www.rfc-editor.org/rfc/rfc8707#section-2.2)).
    fn audience(&self, named: Option<&[&str]>, principal: &Principal) -> Result<Audience, TokenError> {
        let ours = match named {
            None if self.audiences.is_empty() => principal.client().map(|client| Audience::new(client.as_str())),
            None => None,
            Some(named) => self.audiences.iter().find(|audience| named.contains(&audience.as_str())).cloned(),
        };
        ours.ok_or(TokenError::Audience)
    }

    fn check_times(
        &self,
        now: UnixTime,
        expires_at: UnixTime,
        not_before: Option<UnixTime>,
        issued_at: Option<UnixTime>,
    ) -> Result<(), TokenError> {
        let latest = now.saturating_add(self.leeway);
        // RFC 7519 §4.1.4: "on or after" `exp` is too late; §4.1.5: "before" `nbf` is too early.
        if expires_at.saturating_add(self.leeway) <= now {
            return Err(TokenError::Expired);
        }
        if not_before.is_some_and(|not_before| not_before > latest) {
            return Err(TokenError::NotYetValid);
        }
        if issued_at.is_some_and(|issued_at| issued_at > latest) {
            return Err(TokenError::IssuedInFuture);
        }
        let ends = |issued_at: UnixTime, max_age| issued_at.saturating_add(max_age).saturating_add(self.leeway);
        if issued_at.zip(self.max_age).is_some_and(|(issued_at, max_age)| ends(issued_at, max_age) < now) {
            return Err(TokenError::TooOld);
        }
        if expires_at.duration_since(issued_at.unwrap_or(latest)) > self.max_lifetime {
            return Err(TokenError::Lifetime);
        }
        Ok(())
    }

    fn principal(
        &self,
        issuer: &IssuerId,
        claims: &Reader<'_>,
        thumbprint: &Thumbprint,
    ) -> Result<Principal, TokenError> {
        let profile = self.profile;
        let subject = claims.required_name("sub")?;
        let client = claims.agreed(profile.client)?;
        let chain = claims.actors()?;
        // What is called an agent is one, at every issuer: that only narrows.
        let is_agent =
            claims.name("sub_profile")? == Some("ai_agent") || chain.first().is_some_and(|link| link.is_agent);
        let party = (profile.party)(&Facts { claims: *claims, issuer: issuer.as_str(), subject, client, is_agent })?;
        let permissions = profile.permissions.map_or(Ok(Vec::new()), |claim| claims.texts(claim))?;
        Ok(Principal::from_check(Parts {
            kind: if is_agent { PrincipalKind::Agent } else { party.kind },
            issuer: Some(issuer.clone()),
            subject: Some(Subject::new(subject)),
            user_id: party.user_id.map(Subject::new),
            client: client.map(ClientId::new),
            tenant: claims.name_at(profile.tenant)?.map(TenantId::new),
            scope: self.scope(claims, &permissions)?,
            permissions,
            roles: (profile.roles)(claims)?,
            actors: chain.into_iter().map(|link| link.actor).collect(),
            // None until a layer checks proofs: a token with `cnf` is refused before anybody sees this principal.
            confirmation: None,
            authentication: Authentication {
                acr: claims.name("acr")?.map(Into::into),
                amr: claims.texts("amr")?,
                auth_time: claims.time("auth_time")?,
            },
            proof: Proof::Token(thumbprint.clone()),
        }))
    }

    /// What the token grants: its scope, and where that is switched on what its permissions leave of it or put in its place.
    fn scope(&self, claims: &Reader<'_>, permissions: &[Arc<str>]) -> Result<Scope, TokenError> {
        let scope = claims.scope()?;
        let held = || {
            let words = permissions.iter().map(|permission| ScopeToken::new(&**permission));
            words.collect::<Result<Scope, _>>().map_err(|_| TokenError::MalformedClaim("permissions"))
        };
        match self.permissions {
            Permissions::Apart => Ok(scope),
            Permissions::AndScope => Ok(scope.intersection(&held()?)),
            Permissions::InsteadOfScope => held(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{
        key::Algorithm,
        token::{
            Issuer, Tenants, VerifiedToken, Verifier,
            test_tokens::{NOW, now, public_keys, seal, token, with},
        },
    };

    fn oauth() -> Verifier {
        verifier(Issuer::oauth("https://login.example/", "https://api.example"))
    }

    fn rfc9068() -> Verifier {
        verifier(Issuer::rfc9068("https://login.example/", "https://api.example"))
    }

    fn auth0() -> Verifier {
        verifier(Issuer::auth0("acme.eu.auth0.com", "https://api.example").with_algorithms(Algorithm::ALL))
    }

    fn verifier(issuer: Issuer) -> Verifier {
        Verifier::builder(issuer.with_keys(public_keys())).build().unwrap()
    }

    fn oauth_claims() -> Value {
        json!({"iss": "https://login.example/", "aud": "https://api.example", "sub": "u1", "exp": NOW + 600})
    }

    fn rfc9068_claims() -> Value {
        with(&oauth_claims(), json!({"client_id": "c1", "iat": NOW, "jti": "j1"}))
    }

    fn auth0_claims() -> Value {
        json!({
            "iss": "https://acme.eu.auth0.com/", "aud": ["https://api.example", "https://acme.eu.auth0.com/userinfo"],
            "sub": "auth0|1", "azp": "c1", "iat": NOW, "exp": NOW + 600, "scope": "openid jobs:read",
        })
    }

    fn verified(verifier: &Verifier, claims: &Value) -> Result<VerifiedToken, TokenError> {
        verifier.verify_now(&token(claims), now()).unwrap()
    }

    fn refused(verifier: &Verifier, claims: &Value) -> Option<TokenError> {
        verified(verifier, claims).err()
    }

    /// A claim as JSON text, so that numbers can be written that a `Value` cannot hold.
    fn with_text(claim: &str, text: &str) -> Option<TokenError> {
        let claims = with(&oauth_claims(), json!({claim: null})).to_string();
        let payload = format!("{},\"{claim}\":{text}}}", claims.trim_end_matches('}'));
        let header = crate::token::test_tokens::header(Algorithm::Ed25519).to_string();
        oauth().verify_now(&seal(Algorithm::Ed25519, header, payload), now()).unwrap().err()
    }

    #[test]
    fn each_required_claim_in_turn() {
        for (verifier, claims, required) in [
            (oauth(), oauth_claims(), vec!["aud", "sub", "exp"]),
            (auth0(), auth0_claims(), vec!["aud", "sub", "exp", "azp"]),
            (rfc9068(), rfc9068_claims(), vec!["aud", "sub", "exp", "client_id", "iat", "jti"]),
        ] {
            assert_eq!(refused(&verifier, &claims), None);
            for claim in required {
                assert_eq!(
                    refused(&verifier, &with(&claims, json!({claim: null}))),
                    Some(TokenError::MissingClaim(claim))
                );
            }
        }
        let strict = verifier(Issuer::oauth("https://login.example/", "https://api.example").require_token_id());
        assert_eq!(refused(&strict, &oauth_claims()), Some(TokenError::MissingClaim("jti")));
        assert_eq!(refused(&strict, &with(&oauth_claims(), json!({"jti": "j"}))), None);
    }

    #[test]
    fn a_time_of_the_wrong_form_is_an_error_and_never_absent() {
        for claim in ["exp", "nbf", "iat", "auth_time"] {
            let odd = [
                "\"1800000600\"",
                "true",
                "{}",
                "[]",
                "[1800000600]",
                "null",
                "-1",
                "-0.5",
                "9007199254740993",
                "1e17",
                "1e308",
                "18446744073709551616",
                "\"NaN\"",
            ];
            for text in odd {
                assert_eq!(with_text(claim, text), Some(TokenError::MalformedClaim(claim)), "{claim}: {text}");
            }
            for text in ["1e400", "NaN", "0x10", "1.", "+1"] {
                assert!(matches!(with_text(claim, text), Some(TokenError::Malformed(_))), "{claim}: {text}");
            }
        }
        assert_eq!(with_text("exp", "1800000600.75"), None);
        assert_eq!(with_text("exp", "1.8000006e9"), None);
        assert_eq!(with_text("nbf", "0"), None);
        assert_eq!(with_text("iat", "-0"), Some(TokenError::Lifetime));
    }

    #[test]
    fn times_are_compared_with_the_leeway_and_boundaries_fail_closed() {
        let leeway = 30.0;
        let now = NOW as f64;
        let table = [
            ("exp just inside", "exp", now - leeway + 1.0, None),
            ("exp equal to now less the leeway", "exp", now - leeway, Some(TokenError::Expired)),
            ("exp a fraction inside, cut off", "exp", now - leeway + 0.9, Some(TokenError::Expired)),
            ("exp of the epoch", "exp", 0.0, Some(TokenError::Expired)),
            ("nbf equal to now plus the leeway", "nbf", now + leeway, None),
            ("nbf a fraction beyond", "nbf", now + leeway + 0.5, Some(TokenError::NotYetValid)),
            ("iat equal to now plus the leeway", "iat", now + leeway, None),
            ("iat a fraction beyond", "iat", now + leeway + 0.5, Some(TokenError::IssuedInFuture)),
            ("exp without iat at the cap", "exp", now + leeway + 86_400.0, None),
            ("exp without iat beyond the cap", "exp", now + leeway + 86_401.0, Some(TokenError::Lifetime)),
            ("iat a day before exp", "iat", now + 600.0 - 86_400.0, None),
            ("iat more than a day before exp", "iat", now + 600.0 - 86_401.0, Some(TokenError::Lifetime)),
        ];
        for (name, claim, time, error) in table {
            assert_eq!(refused(&oauth(), &with(&oauth_claims(), json!({claim: time}))), error, "{name}");
        }
        let issuer = Issuer::oauth("https://login.example/", "https://api.example");
        let short = verifier(issuer.with_leeway(Duration::ZERO).with_max_lifetime(Duration::from_secs(60)));
        assert_eq!(refused(&short, &with(&oauth_claims(), json!({"exp": NOW}))), Some(TokenError::Expired));
        assert_eq!(refused(&short, &with(&oauth_claims(), json!({"exp": NOW + 1}))), None);
        assert_eq!(refused(&short, &with(&oauth_claims(), json!({"exp": NOW + 61}))), Some(TokenError::Lifetime));
    }

    #[test]
    fn an_old_token_is_refused_however_long_it_would_be_good() {
        let issuer = || Issuer::oauth("https://login.example/", "https://api.example");
        let hour = verifier(issuer().with_max_age(Duration::from_secs(3600)));
        let now = NOW as f64;
        let table = [
            ("issued now", json!(NOW), None),
            ("at the limit and the leeway", json!(now - 3630.0), None),
            ("a fraction beyond", json!(now - 3630.5), Some(TokenError::TooOld)),
            ("a second beyond", json!(NOW - 3631), Some(TokenError::TooOld)),
            ("at no time", json!(null), Some(TokenError::MissingClaim("iat"))),
            ("at an odd time", json!("now"), Some(TokenError::MalformedClaim("iat"))),
        ];
        for (name, iat, error) in table {
            let claims = with(&oauth_claims(), json!({"iat": iat}));
            assert_eq!(refused(&hour, &claims), error, "{name}");
        }
        let sharp = verifier(issuer().with_max_age(Duration::from_secs(60)).with_leeway(Duration::ZERO));
        assert_eq!(refused(&sharp, &with(&oauth_claims(), json!({"iat": NOW - 60}))), None);
        assert_eq!(refused(&sharp, &with(&oauth_claims(), json!({"iat": NOW - 61}))), Some(TokenError::TooOld));
        let year = Duration::from_secs(365 * 24 * 3600);
        let long = with(&oauth_claims(), json!({"iat": NOW, "exp": NOW + year.as_secs()}));
        assert_eq!(refused(&oauth(), &long), Some(TokenError::Lifetime));
        let raised = verifier(issuer().dangerous_max_lifetime(year));
        assert_eq!(refused(&raised, &long), None);
        assert_eq!(refused(&raised, &with(&long, json!({"iat": NOW - 1}))), Some(TokenError::Lifetime));
    }

    #[test]
    fn only_listed_clients_are_accepted_where_there_is_a_list() {
        let listed = Issuer::oauth("https://login.example/", "https://api.example").with_clients(["c1", "c2"]);
        let listed = verifier(listed);
        let table = [
            (json!({"client_id": "c1"}), None),
            (json!({"azp": "c2"}), None),
            (json!({"client_id": "c3"}), Some(TokenError::Client)),
            (json!({"client_id": "C1"}), Some(TokenError::Client)),
            (json!({"client_id": "c1 c2"}), Some(TokenError::Client)),
            (json!({"client_id": "c1", "azp": "c2"}), Some(TokenError::MalformedClaim("azp"))),
            (json!({"client_id": ["c1"]}), Some(TokenError::MalformedClaim("client_id"))),
            (json!({"client_id": ""}), Some(TokenError::MalformedClaim("client_id"))),
            (json!({}), Some(TokenError::MissingClaim("client_id"))),
        ];
        for (changes, error) in table {
            assert_eq!(refused(&listed, &with(&oauth_claims(), changes.clone())), error, "{changes}");
        }
    }

    #[test]
    fn tenants_are_any_known_or_required() {
        let of = |tenants| {
            let issuer = Issuer::auth0("acme.eu.auth0.com", "https://api.example").with_algorithms(Algorithm::ALL);
            verifier(issuer.with_tenants(tenants))
        };
        let missing = Some(TokenError::MissingClaim("org_id"));
        let known_by = Tenants::known_by(|tenant: &TenantId| tenant.as_str() == "org_1");
        let table = [
            ("any", Tenants::any(), [None, None, None]),
            ("required", Tenants::required(), [missing.clone(), None, None]),
            ("listed", Tenants::known(["org_1"]), [missing.clone(), None, Some(TokenError::Tenant)]),
            ("known by", known_by, [missing, None, Some(TokenError::Tenant)]),
        ];
        for (name, tenants, errors) in table {
            let verifier = of(tenants);
            let user = [json!({}), json!({"org_id": "org_1"}), json!({"org_id": "org_12"})];
            for (changes, error) in user.into_iter().zip(errors) {
                // Of machines as of users.
                for party in [json!({}), json!({"sub": "c1@clients", "gty": "client-credentials"})] {
                    let claims = with(&with(&auth0_claims(), changes.clone()), party);
                    assert_eq!(refused(&verifier, &claims), error, "{name}: {changes}");
                }
            }
            for odd in [json!(""), json!(" "), json!(7), json!(["org_1"])] {
                let error = Some(TokenError::MalformedClaim("org_id"));
                assert_eq!(refused(&verifier, &with(&auth0_claims(), json!({"org_id": odd}))), error, "{name}: {odd}");
            }
        }
    }

    #[test]
    fn permissions_become_scope_only_when_that_is_said() {
        let granted = |policy: Permissions, changes: Value| {
            let issuer = Issuer::auth0("acme.eu.auth0.com", "https://api.example").with_algorithms(Algorithm::ALL);
            verified(&verifier(issuer.with_permissions(policy)), &with(&auth0_claims(), changes))
                .map(|token| token.principal().scope().to_string())
        };
        let both = json!({"scope": "a b", "permissions": ["b", "c"]});
        assert_eq!(granted(Permissions::Apart, both.clone()), Ok("a b".to_owned()));
        assert_eq!(granted(Permissions::AndScope, both.clone()), Ok("b".to_owned()));
        assert_eq!(granted(Permissions::InsteadOfScope, both), Ok("b c".to_owned()));
        let neither = json!({"scope": null, "permissions": []});
        for policy in [Permissions::Apart, Permissions::AndScope, Permissions::InsteadOfScope] {
            assert_eq!(granted(policy, neither.clone()), Ok(String::new()), "{policy:?}");
        }
        for policy in [Permissions::AndScope, Permissions::InsteadOfScope] {
            let missing = granted(policy, json!({"permissions": null}));
            assert_eq!(missing, Err(TokenError::MissingClaim("permissions")), "{policy:?}");
            let odd = granted(policy, json!({"permissions": ["a b"]}));
            assert_eq!(odd, Err(TokenError::MalformedClaim("permissions")), "{policy:?}");
        }
    }

    #[test]
    fn the_domains_of_one_auth0_tenant_share_its_keys_and_rules() {
        let issuer = Issuer::auth0("acme.eu.auth0.com", "https://api.example").with_algorithms(Algorithm::ALL);
        let verifier = verifier(issuer.add_domain("login.acme.example").add_domain("id.acme.example"));
        for domain in ["acme.eu.auth0.com", "login.acme.example", "id.acme.example"] {
            let claims = with(&auth0_claims(), json!({"iss": format!("https://{domain}/")}));
            let token = verified(&verifier, &claims).unwrap();
            assert_eq!(token.principal().issuer().map(IssuerId::as_str), Some(&*format!("https://{domain}/")));
        }
        let other = with(&auth0_claims(), json!({"iss": "https://evil.acme.example/"}));
        assert_eq!(refused(&verifier, &other), Some(TokenError::UnknownIssuer));
    }

    #[test]
    fn only_an_exact_member_of_aud_is_us() {
        let (ours, audience, malformed) =
            ("https://api.example", Some(TokenError::Audience), Some(TokenError::MalformedClaim("aud")));
        let table = [
            (json!(ours), None),
            (json!([ours]), None),
            (json!(["x", ours]), None),
            (json!("x"), audience.clone()),
            (json!(""), audience.clone()),
            (json!([]), audience.clone()),
            (json!([""]), audience.clone()),
            (json!(["https://api.example/"]), audience.clone()),
            (json!("HTTPS://api.example"), audience.clone()),
            (json!("https://api.example https://other.example"), audience.clone()),
            (json!("https://api.exampl"), audience),
            (json!(7), malformed.clone()),
            (json!(true), malformed.clone()),
            (json!({"https://api.example": 1}), malformed.clone()),
            (json!([ours, 7]), malformed.clone()),
            (json!([ours, null]), malformed.clone()),
            (json!([[ours]]), malformed),
        ];
        for (aud, error) in table {
            assert_eq!(refused(&oauth(), &with(&oauth_claims(), json!({"aud": aud}))), error, "{aud}");
        }
        assert_eq!(with_text("aud", "null"), Some(TokenError::MalformedClaim("aud")));
        let two = verifier(Issuer::oauth("https://login.example/", "a").add_audience("b"));
        let token = verified(&two, &with(&oauth_claims(), json!({"aud": ["x", "b"]}))).unwrap();
        assert_eq!(token.audience().as_str(), "b");
    }

    #[test]
    fn a_name_is_text_that_names_somebody() {
        for odd in [
            json!(""),
            json!(" "),
            json!("\t\n"),
            json!("\u{a0}"),
            json!("a\0b"),
            json!("a\nb"),
            json!(7),
            json!(true),
            json!([]),
            json!({}),
        ] {
            for claim in ["sub", "jti", "client_id", "azp", "acr"] {
                let claims = with(&oauth_claims(), json!({claim: odd}));
                assert_eq!(refused(&oauth(), &claims), Some(TokenError::MalformedClaim(claim)), "{claim}: {odd}");
            }
            for claim in ["sub", "azp", "org_id", "gty", "sub_profile"] {
                let claims = with(&auth0_claims(), json!({claim: odd}));
                assert_eq!(refused(&auth0(), &claims), Some(TokenError::MalformedClaim(claim)), "{claim}: {odd}");
            }
        }
    }

    #[test]
    fn names_that_differ_by_case_alone_are_refused_and_are_never_the_claim() {
        for (name, claim) in
            [("Sub", "sub"), ("SUB", "sub"), ("\u{17f}ub", "sub"), ("Exp", "exp"), ("CNF", "cnf"), ("SCOPE", "scope")]
        {
            let claims = with(&oauth_claims(), json!({name: "x"}));
            assert_eq!(refused(&oauth(), &claims), Some(TokenError::MalformedClaim(claim)), "{name}");
        }
        let full_width = with(&oauth_claims(), json!({"ｓｕｂ": "x", "sub": null}));
        assert_eq!(refused(&oauth(), &full_width), Some(TokenError::MissingClaim("sub")));
        assert_eq!(
            refused(&oauth(), &with(&oauth_claims(), json!({"https://acme.example/Sub": 1, "orgName": 2}))),
            None
        );
    }

    #[test]
    fn scope_is_read_in_one_form_only() {
        let granted = |claims: Value| {
            verified(&oauth(), &with(&oauth_claims(), claims)).map(|token| token.principal().scope().to_string())
        };
        assert_eq!(granted(json!({})), Ok(String::new()));
        assert_eq!(granted(json!({"scope": "b a"})), Ok("a b".to_owned()));
        assert_eq!(granted(json!({"scope": ""})), Ok(String::new()));
        assert_eq!(granted(json!({"scp": ["b", "a"]})), Ok("a b".to_owned()));
        for scope in [json!("a  b"), json!(" a"), json!("a\tb"), json!("a\u{a0}b"), json!(["a"]), json!(7), json!({})] {
            assert_eq!(granted(json!({"scope": scope})), Err(TokenError::MalformedClaim("scope")), "{scope}");
        }
        for scp in [json!("a b"), json!(["a b"]), json!([""]), json!([7]), json!({})] {
            assert_eq!(granted(json!({"scp": scp})), Err(TokenError::MalformedClaim("scp")), "{scp}");
        }
        assert_eq!(granted(json!({"scope": "a", "scp": ["a"]})), Err(TokenError::MalformedClaim("scp")));
        let strict = verified(&rfc9068(), &with(&rfc9068_claims(), json!({"scp": ["a"]}))).unwrap();
        assert!(strict.principal().scope().is_empty(), "`scp` means nothing to RFC 9068");
    }

    #[test]
    fn other_kinds_of_token_are_refused() {
        let table = [
            (json!({"nonce": "n"}), "nonce"),
            (json!({"at_hash": "h"}), "at_hash"),
            (json!({"c_hash": "h"}), "c_hash"),
            (json!({"s_hash": "h"}), "s_hash"),
            (json!({"events": {}}), "events"),
            (json!({"htm": "GET"}), "htm"),
            (json!({"htu": "https://api.example"}), "htu"),
            (json!({"token_introspection": {"active": true}}), "token_introspection"),
            (json!({"req_wl": "w"}), "req_wl"),
            (json!({"tctx": {}}), "tctx"),
            (json!({"rctx": {}}), "rctx"),
            (json!({"typ": "ID"}), "typ"),
            (json!({"typ": "Refresh"}), "typ"),
            (json!({"typ": "Logout"}), "typ"),
            (json!({"token_use": "id"}), "token_use"),
        ];
        for (claims, claim) in table {
            assert_eq!(refused(&oauth(), &with(&oauth_claims(), claims)), Some(TokenError::WrongKind(claim)));
        }
        assert_eq!(refused(&oauth(), &with(&oauth_claims(), json!({"typ": "Bearer", "token_use": "access"}))), None);
    }

    #[test]
    fn a_bound_token_is_never_a_bearer_token_whatever_the_shape_of_cnf() {
        for cnf in
            ["{\"jkt\":\"a\"}", "{\"x5t#S256\":\"a\"}", "{}", "[]", "\"\"", "7", "false", "null", "{\"unknown\":1}"]
        {
            assert_eq!(with_text("cnf", cnf), Some(TokenError::Bound), "{cnf}");
        }
    }

    #[test]
    fn the_actor_chain_is_read_current_first_and_at_most_five_deep() {
        let nested = |depth: usize| {
            (0..depth)
                .rev()
                .fold(Value::Null, |inner, index| with(&json!({"sub": format!("a{index}")}), json!({"act": inner})))
        };
        let chain = |act: Value| {
            let token = verified(&oauth(), &with(&oauth_claims(), json!({"act": act})))?;
            Ok(token.principal().actors().iter().map(|actor| actor.subject.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(chain(nested(1)), Ok(vec!["a0".to_owned()]));
        assert_eq!(chain(nested(5)).map(|chain| chain.join(" ")), Ok("a0 a1 a2 a3 a4".to_owned()));
        for odd in [
            nested(6),
            nested(20),
            json!("a"),
            json!([]),
            json!({}),
            json!(7),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "a", "act": []}),
            json!({"sub": "a", "act": {"iss": "x"}}),
            json!({"sub": "a", "client_id": 1}),
            json!({"sub": "a", "iss": ""}),
        ] {
            assert_eq!(chain(odd.clone()), Err(TokenError::MalformedClaim("act")), "{odd}");
        }
        assert_eq!(with_text("act", "null"), Some(TokenError::MalformedClaim("act")));
        let act = json!({"sub": "a", "iss": "https://other.example", "client_id": "c"});
        let token = verified(&oauth(), &with(&oauth_claims(), json!({"act": act}))).unwrap();
        let [actor] = token.principal().actors() else { panic!("one actor") };
        assert_eq!(actor.issuer.as_ref().map(IssuerId::as_str), Some("https://other.example"));
        assert_eq!(actor.client.as_ref().map(ClientId::as_str), Some("c"));
    }

    #[test]
    fn elsewhere_a_client_is_whose_subject_is_its_client_id() {
        let kind = |verifier: &Verifier, claims| verified(verifier, &claims).unwrap().principal().kind();
        assert_eq!(kind(&rfc9068(), rfc9068_claims()), PrincipalKind::User);
        assert_eq!(kind(&rfc9068(), with(&rfc9068_claims(), json!({"sub": "c1"}))), PrincipalKind::Client);
        assert_eq!(kind(&oauth(), with(&oauth_claims(), json!({"azp": "u1"}))), PrincipalKind::Client);
        assert_eq!(kind(&oauth(), with(&oauth_claims(), json!({"sub_profile": "ai_agent"}))), PrincipalKind::Agent);
        assert_eq!(kind(&oauth(), with(&oauth_claims(), json!({"sub_profile": "service"}))), PrincipalKind::User);
    }

    #[test]
    fn the_principal_holds_what_the_token_says() {
        let claims = json!({"permissions": ["read:jobs"], "org_id": "org_1", "jti": "j", "amr": ["pwd"], "acr": "2", "auth_time": NOW - 5});
        let token = verified(&auth0(), &with(&auth0_claims(), claims)).unwrap();
        let principal = token.principal();
        assert_eq!(principal.subject().map(Subject::as_str), Some("auth0|1"));
        assert_eq!(principal.user_id(), principal.subject());
        assert_eq!(principal.issuer(), Some(token.issuer()));
        assert_eq!(principal.client().map(ClientId::as_str), Some("c1"));
        assert_eq!(principal.tenant().map(TenantId::as_str), Some("org_1"));
        assert_eq!(principal.permissions(), ["read:jobs".into()]);
        assert!(!principal.scope().contains("read:jobs"), "permissions never become scope");
        assert_eq!(principal.authentication().auth_time, Some(UnixTime::from_secs(NOW - 5)));
        assert_eq!(principal.proof(), &Proof::Token(token.thumbprint().clone()));
        assert_eq!(token.token_id().map(TokenId::as_str), Some("j"));
        assert_eq!(
            (token.expires_at(), token.issued_at()),
            (UnixTime::from_secs(NOW + 600), Some(UnixTime::from_secs(NOW)))
        );

        let roles = json!({"roles": ["a", {"value": "b", "display": "B"}], "permissions": ["x"], "org_id": "o"});
        let token = verified(&oauth(), &with(&oauth_claims(), roles)).unwrap();
        assert_eq!(token.principal().roles(), ["a".into(), "b".into()]);
        assert!(token.principal().permissions().is_empty() && token.principal().tenant().is_none());

        for (verifier, claims, claim) in [
            (auth0(), auth0_claims(), "permissions"),
            (oauth(), oauth_claims(), "roles"),
            (oauth(), oauth_claims(), "amr"),
        ] {
            for odd in [json!("a"), json!({}), json!([7]), json!(["a", null])] {
                assert_eq!(
                    refused(&verifier, &with(&claims, json!({claim: odd}))),
                    Some(TokenError::MalformedClaim(claim)),
                    "{claim}: {odd}"
                );
            }
        }
    }

    #[test]
    fn the_graver_fault_is_reported_first() {
        let faults = [
            (json!({"exp": NOW - 600, "nbf": NOW + 600, "cnf": {}}), TokenError::Expired),
            (json!({"nbf": NOW + 300, "iat": NOW + 300, "cnf": {}}), TokenError::NotYetValid),
            (json!({"iat": NOW + 300, "cnf": {}}), TokenError::IssuedInFuture),
            (json!({"exp": NOW - 600, "nonce": "n"}), TokenError::WrongKind("nonce")),
            (json!({"exp": NOW - 600, "nonce": "n", "client_id": "x"}), TokenError::Client),
            (json!({"iat": NOW - 7200, "exp": NOW + 900_000}), TokenError::TooOld),
            (json!({"exp": NOW - 600, "nonce": "n", "client_id": "x", "aud": "x"}), TokenError::Audience),
            (json!({"exp": NOW - 600, "aud": "x", "sub": ""}), TokenError::MalformedClaim("sub")),
            (json!({"exp": NOW + 900_000, "cnf": {}}), TokenError::Lifetime),
        ];
        let issuer = Issuer::oauth("https://login.example/", "https://api.example");
        let strict = verifier(issuer.with_clients(["c1"]).with_max_age(Duration::from_secs(3600)));
        let claims_of_c1 = with(&oauth_claims(), json!({"client_id": "c1", "iat": NOW}));
        for (claims, error) in faults {
            assert_eq!(refused(&strict, &with(&claims_of_c1, claims)), Some(error));
        }
    }
}
