use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    TokenError,
    issuer::{Expectations, KindRule},
};
use crate::{
    principal::{
        Actor, Audience, Authentication, ClientId, IssuerId, Parts, Principal, PrincipalKind, Proof, Subject, TenantId,
        Thumbprint, TokenId,
    },
    scope::{Scope, ScopeToken},
    time::UnixTime,
};

/// What the claims of a token say, each checked.
pub(super) struct Accepted {
    pub(super) principal: Principal,
    pub(super) audience: Audience,
    pub(super) token_id: Option<TokenId>,
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
        refuse_look_alikes(claims)?;
        let claims = Claims(claims);
        for claim in self.profile.required {
            claims.required(claim, claims.0.get(*claim))?;
        }
        if self.requires_token_id {
            claims.required("jti", claims.0.get("jti"))?;
        }
        let audiences = claims.audiences()?;
        let expires_at = claims.required("exp", claims.time("exp")?)?;
        // The fraction is dropped so that rounding never lengthens a life.
        let expires_at = UnixTime::from_secs(expires_at.as_secs());
        let not_before = claims.time("nbf")?;
        let issued_at = claims.time("iat")?;
        let token_id = claims.name("jti")?.map(TokenId::new);
        let principal = self.principal(issuer, &claims, thumbprint)?;

        let audience = self.audiences.iter().find(|audience| audiences.contains(&audience.as_str()));
        let audience = audience.ok_or(TokenError::Audience)?.clone();
        claims.refuse_other_kinds()?;
        self.check_times(now, expires_at, not_before, issued_at)?;
        // Whatever its shape: a confirmation that is not understood binds all the same (RFC 7800 §3.1).
        if claims.0.contains_key("cnf") {
            return Err(TokenError::Bound);
        }
        Ok(Accepted { principal, audience, token_id, expires_at, not_before, issued_at })
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
        if expires_at.duration_since(issued_at.unwrap_or(latest)) > self.max_lifetime {
            return Err(TokenError::Lifetime);
        }
        Ok(())
    }

    fn principal(
        &self,
        issuer: &IssuerId,
        claims: &Claims<'_>,
        thumbprint: &Thumbprint,
    ) -> Result<Principal, TokenError> {
        let profile = self.profile;
        let subject = claims.required("sub", claims.name("sub")?)?;
        let client = claims.agreed(profile.client)?;
        let chain = claims.actors()?;
        let kind = match profile.kind {
            KindRule::Auth0 => claims.auth0_kind(subject, client, &chain)?,
            // What is called an agent is one: that only narrows. Other words of `sub_profile` are an issuer's own here.
            KindRule::SubjectIsClient
                if chain.first().is_some_and(|link| link.is_agent)
                    || claims.name("sub_profile")? == Some("ai_agent") =>
            {
                PrincipalKind::Agent
            }
            KindRule::SubjectIsClient if client == Some(subject) => PrincipalKind::Client,
            KindRule::SubjectIsClient => PrincipalKind::User,
            KindRule::Spiffe if Self::is_own_workload(issuer, subject) => PrincipalKind::Workload,
            KindRule::Spiffe => return Err(TokenError::MalformedClaim("sub")),
        };
        Ok(Principal::from_check(Parts {
            kind,
            issuer: Some(issuer.clone()),
            subject: Some(Subject::new(subject)),
            user_id: None,
            client: client.map(ClientId::new),
            tenant: profile.tenant.map_or(Ok(None), |claim| claims.name(claim))?.map(TenantId::new),
            scope: claims.scope(profile.scope_array)?,
            permissions: profile.permissions.map_or(Ok(Vec::new()), |claim| claims.texts(claim))?,
            roles: profile.roles.map_or(Ok(Vec::new()), |claim| claims.roles(claim))?,
            actors: chain.into_iter().map(|link| link.actor).collect(),
            confirmation: None,
            authentication: Authentication {
                acr: claims.name("acr")?.map(Into::into),
                amr: claims.texts("amr")?,
                auth_time: claims.time("auth_time")?,
            },
            proof: Proof::Token(thumbprint.clone()),
        }))
    }
}

/// One link of `act`, with what Auth0 says of its kind.
struct Link {
    actor: Actor,
    is_agent: bool,
}

struct Claims<'a>(&'a Map<String, Value>);

impl<'a> Claims<'a> {
    fn required<T>(&self, claim: &'static str, value: Option<T>) -> Result<T, TokenError> {
        value.ok_or(TokenError::MissingClaim(claim))
    }

    /// A string that names something: an empty, blank or unprintable one would be nobody's name.
    fn name(&self, claim: &'static str) -> Result<Option<&'a str>, TokenError> {
        name_in(self.0, claim).map_err(|()| TokenError::MalformedClaim(claim))
    }

    /// The name that those of the claims that are there agree on.
    fn agreed(&self, claims: &'static [&'static str]) -> Result<Option<&'a str>, TokenError> {
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

    /// `NumericDate`, [RFC 7519 §2](https://www.rfc-editor.org/rfc/rfc7519#section-2): fractions are legal. Not negative, and no
    /// larger than what every JSON reader represents exactly.
    fn time(&self, claim: &'static str) -> Result<Option<UnixTime>, TokenError> {
        let since_epoch = match self.0.get(claim) {
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

    fn texts(&self, claim: &'static str) -> Result<Vec<Arc<str>>, TokenError> {
        self.elements(claim, |element| element.as_str().map(Into::into))
    }

    /// Strings, or the objects with a `value` of [RFC 9068 §2.2.3.1](https://www.rfc-editor.org/rfc/rfc9068#section-2.2.3.1) (SCIM).
    fn roles(&self, claim: &'static str) -> Result<Vec<Arc<str>>, TokenError> {
        self.elements(claim, |element| element.as_str().or_else(|| element.get("value")?.as_str()).map(Into::into))
    }

    fn elements<T>(&self, claim: &'static str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, TokenError> {
        let elements = match self.0.get(claim) {
            None => Some(Vec::new()),
            Some(Value::Array(elements)) => elements.iter().map(read).collect(),
            Some(_) => None,
        };
        elements.ok_or(TokenError::MalformedClaim(claim))
    }

    /// `aud`: a string or an array of strings, [RFC 7519 §4.1.3](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.3).
    fn audiences(&self) -> Result<Vec<&'a str>, TokenError> {
        let audiences = match self.required("aud", self.0.get("aud"))? {
            Value::String(audience) => Some(vec![audience.as_str()]),
            Value::Array(audiences) => audiences.iter().map(Value::as_str).collect(),
            _ => None,
        };
        audiences.ok_or(TokenError::MalformedClaim("aud"))
    }

    /// `scope`, [RFC 8693 §4.2](https://www.rfc-editor.org/rfc/rfc8693#section-4.2), or the issuer's array. Never both: whoever reads
    /// only one of them would grant something else.
    fn scope(&self, array: Option<&'static str>) -> Result<Scope, TokenError> {
        match (self.0.get("scope"), array) {
            (Some(_), Some(array)) if self.0.contains_key(array) => Err(TokenError::MalformedClaim(array)),
            (Some(scope), _) => {
                scope.as_str().and_then(|scope| Scope::parse(scope).ok()).ok_or(TokenError::MalformedClaim("scope"))
            }
            (None, Some(array)) => {
                let words = self.elements(array, |word| ScopeToken::new(word.as_str()?).ok())?;
                Ok(words.into_iter().collect())
            }
            (None, None) => Ok(Scope::default()),
        }
    }

    /// `act`, [RFC 8693 §4.1](https://www.rfc-editor.org/rfc/rfc8693#section-4.1), the current actor first.
    fn actors(&self) -> Result<Vec<Link>, TokenError> {
        let mut chain = Vec::new();
        let mut next = self.0.get("act");
        while let Some(act) = next {
            let link = act.as_object().filter(|_| chain.len() < MAX_ACTORS).and_then(|act| link(act).ok());
            chain.push(link.ok_or(TokenError::MalformedClaim("act"))?);
            next = act.get("act");
        }
        Ok(chain)
    }

    /// Auth0 says what kind the subject is with `sub_profile`, where that is switched on. Else a client credentials token shows by
    /// `gty`, or by its subject: equality with the client's id, not the suffix, which a user's id can have too.
    ///
    /// An agent that acts for a user is an agent: what a person may do is more than what is left to software.
    fn auth0_kind(&self, subject: &str, client: Option<&str>, chain: &[Link]) -> Result<PrincipalKind, TokenError> {
        if chain.first().is_some_and(|link| link.is_agent) {
            return Ok(PrincipalKind::Agent);
        }
        match self.name("sub_profile")? {
            Some("user") => return Ok(PrincipalKind::User),
            Some("ai_agent") => return Ok(PrincipalKind::Agent),
            Some("service" | "browser_app" | "native_app") => return Ok(PrincipalKind::Client),
            Some(_) => return Err(TokenError::MalformedClaim("sub_profile")),
            None => {}
        }
        let is_client = |client: &str| subject == client || subject.strip_suffix("@clients") == Some(client);
        if client.is_some_and(is_client) || self.name("gty")? == Some("client-credentials") {
            return Ok(PrincipalKind::Client);
        }
        // A user's id begins with its connection and a bar. What looks like another client's is nobody that we can name.
        if subject.ends_with("@clients") && !subject.contains('|') {
            return Err(TokenError::MalformedClaim("sub"));
        }
        Ok(PrincipalKind::User)
    }

    /// Tokens of the same issuer and key that are not for access: ID tokens
    /// ([OpenID Connect Core §2](https://openid.net/specs/openid-connect-core-1_0.html#IDToken)), security events and logout tokens
    /// ([RFC 8417 §2.2](https://www.rfc-editor.org/rfc/rfc8417#section-2.2)), DPoP proofs
    /// ([RFC 9449 §4.2](https://www.rfc-editor.org/rfc/rfc9449#section-4.2)), and what Keycloak and Cognito call by name.
    fn refuse_other_kinds(&self) -> Result<(), TokenError> {
        for claim in ["nonce", "at_hash", "c_hash", "events", "htm", "htu"] {
            if self.0.contains_key(claim) {
                return Err(TokenError::WrongKind(claim));
            }
        }
        let says = |claim, kinds: &[&str]| match self.0.get(claim) {
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

fn name_in<'a>(members: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ()> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() && !text.contains(char::is_control) => Ok(Some(text)),
        Some(_) => Err(()),
    }
}

fn link(act: &Map<String, Value>) -> Result<Link, ()> {
    let mut actor = Actor::new(Subject::new(name_in(act, "sub")?.ok_or(())?));
    actor.issuer = name_in(act, "iss")?.map(IssuerId::new);
    actor.client = name_in(act, "client_id")?.map(ClientId::new);
    Ok(Link { actor, is_agent: name_in(act, "sub_profile")? == Some("ai_agent") })
}

/// Refuses names that differ from a claim that we read by case alone (`SUB`, `ſub`): another reader of the same claims, one that
/// folds case, would see another token.
fn refuse_look_alikes(claims: &Map<String, Value>) -> Result<(), TokenError> {
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
    for name in claims.keys().filter(|name| !is_plain(name)) {
        let folded = name.to_lowercase().to_uppercase();
        if let Some(claim) = READ.into_iter().find(|claim| folded == claim.to_uppercase()) {
            return Err(TokenError::MalformedClaim(claim));
        }
    }
    Ok(())
}

/// 2^53: the last whole number up to which every reader of JSON agrees.
const MAX_EXACT: u64 = 1 << 53;
/// Auth0's limit too.
const MAX_ACTORS: usize = 5;

/// The claims that are read here.
const READ: [&str; 29] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "azp",
    "client_id",
    "scope",
    "scp",
    "permissions",
    "roles",
    "org_id",
    "act",
    "cnf",
    "acr",
    "amr",
    "auth_time",
    "sub_profile",
    "gty",
    "nonce",
    "at_hash",
    "c_hash",
    "events",
    "htm",
    "htu",
    "typ",
    "token_use",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        key::Algorithm,
        token::{
            Issuer, VerifiedToken, Verifier,
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
            (auth0(), auth0_claims(), vec!["aud", "sub", "exp"]),
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
            (json!({"events": {}}), "events"),
            (json!({"htm": "GET"}), "htm"),
            (json!({"htu": "https://api.example"}), "htu"),
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
            ("no client", json!({"sub": "c1@clients", "azp": null}), Err(TokenError::MalformedClaim("sub"))),
            ("agent", json!({"sub": "agt_1", "sub_profile": "ai_agent"}), Ok(PrincipalKind::Agent)),
            ("service", json!({"sub": "svc", "sub_profile": "service"}), Ok(PrincipalKind::Client)),
            ("profile of a user", json!({"sub": "x", "sub_profile": "user"}), Ok(PrincipalKind::User)),
            ("unknown profile", json!({"sub_profile": "robot"}), Err(TokenError::MalformedClaim("sub_profile"))),
            ("agent for a user", json!({"sub_profile": "user", "act": agent}), Ok(PrincipalKind::Agent)),
            ("client for a user", json!({"act": {"sub": "c2"}}), Ok(PrincipalKind::User)),
            ("agent in the past", json!({"act": {"sub": "c2", "act": agent}}), Ok(PrincipalKind::User)),
            ("two clients", json!({"client_id": "c2"}), Err(TokenError::MalformedClaim("client_id"))),
        ];
        for (name, claims, kind) in table {
            let found = verified(&auth0(), &with(&auth0_claims(), claims)).map(|token| token.principal().kind());
            assert_eq!(found, kind, "{name}");
        }
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
            (json!({"exp": NOW - 600, "nonce": "n", "aud": "x"}), TokenError::Audience),
            (json!({"exp": NOW - 600, "aud": "x", "sub": ""}), TokenError::MalformedClaim("sub")),
            (json!({"exp": NOW + 900_000, "cnf": {}}), TokenError::Lifetime),
        ];
        for (claims, error) in faults {
            assert_eq!(refused(&oauth(), &with(&oauth_claims(), claims)), Some(error));
        }
    }
}
