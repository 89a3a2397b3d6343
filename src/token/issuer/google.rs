use super::{
    Issuer, Profile,
    profile::{Facts, Party},
};
use crate::{principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// Google's ID tokens as credentials of users and of service accounts; Google's OAuth access tokens are opaque. The audience is a
    /// client id, or for service accounts the URL of the service.
    ///
    /// **Any service account in the world can get a token for any audience**: who may come in is for the policy, by `sub`, or for
    /// [`with_tenants`](Self::with_tenants), which accepts the users of Workspace domains (`hd`) and no service account.
    ///
    /// RS256, `typ` is `JWT`. `iss` may stand without `https://`; `nonce` and `at_hash` are in order here and at no other issuer. The client
    /// is `azp`, the tenant `hd`. A service account is who has a verified `email` below `.gserviceaccount.com` and a numeric `sub`, or no
    /// `email` and its own id for `azp`; a token that says so by half is refused. No e-mail address is an identifier: the user id is `sub`.
    /// There is no scope.
    pub fn google(audience: impl Into<String>) -> Self {
        let names = vec!["https://accounts.google.com".to_owned(), "accounts.google.com".to_owned()];
        Self::new(&GOOGLE, names, vec![audience.into()]).with_jwks_url("https://www.googleapis.com/oauth2/v3/certs")
    }
}

fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let is_verified = facts.claims.flag("email_verified")?;
    let kind = match facts.claims.name("email")? {
        None if facts.client == Some(facts.subject) => PrincipalKind::Client,
        None => PrincipalKind::User,
        Some(email) if !is_service_account(email)? => PrincipalKind::User,
        Some(_) if is_verified != Some(true) => return Err(TokenError::MalformedClaim("email_verified")),
        Some(_) if !is_numeric(facts.subject) => return Err(TokenError::MalformedClaim("sub")),
        Some(_) => PrincipalKind::Client,
    };
    Ok(kind.into())
}

/// Whether this address is below the domain that Google keeps for service accounts. One that two readers could split differently is an
/// error (CVE-2026-40574), and so is one below that domain in letters that no service account has.
pub(super) fn is_service_account(email: &str) -> Result<bool, TokenError> {
    let odd = || TokenError::MalformedClaim("email");
    let (local, domain) = email.split_once('@').ok_or_else(odd)?;
    // What an address holds only in quotes or around itself (RFC 5322 §3.2.3), and a reader may take for a border.
    let is_torn =
        |character: char| character.is_control() || character.is_whitespace() || r#""\<>(),;:"#.contains(character);
    if local.is_empty() || domain.is_empty() || domain.contains('@') || email.contains(is_torn) {
        return Err(odd());
    }
    if !domain.to_lowercase().ends_with(SERVICE_ACCOUNTS) {
        return Ok(false);
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    if domain.ends_with(SERVICE_ACCOUNTS) && local.bytes().chain(domain.bytes()).all(is_plain) {
        Ok(true)
    } else {
        Err(odd())
    }
}

pub(super) fn is_numeric(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
}

const SERVICE_ACCOUNTS: &str = ".gserviceaccount.com";

const GOOGLE: Profile = Profile {
    legal: &["nonce", "at_hash"],
    client: &["azp"],
    tenant: &["hd"],
    also_read: &["email", "email_verified", "hd"],
    party,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::token::{
        Tenants,
        issuer::shapes::Shapes,
        test_tokens::{NOW, with},
    };

    fn google() -> Shapes {
        Shapes::of(Issuer::google("1-a.apps.googleusercontent.com").add_audience("https://api.example"), Some("JWT"))
    }

    fn user() -> Value {
        json!({
            "iss": "https://accounts.google.com", "azp": "1-a.apps.googleusercontent.com", "aud": "1-a.apps.googleusercontent.com",
            "sub": "104029292853099978293", "hd": "acme.example", "email": "alice@acme.example", "email_verified": true,
            "at_hash": "h", "nonce": "n", "iat": NOW, "exp": NOW + 3600,
        })
    }

    fn service_account() -> Value {
        with(
            &user(),
            json!({"aud": "https://api.example", "azp": "104029292853099978293", "hd": null, "nonce": null, "at_hash": null,
                "email": "batch@acme.iam.gserviceaccount.com"}),
        )
    }

    #[test]
    fn google_users_and_service_accounts_are_told_apart() {
        use TokenError::{MalformedClaim, MissingClaim, WrongKind};
        let user = |changes| with(&user(), changes);
        let machine = |changes| with(&service_account(), changes);
        let table = [
            ("user", user(json!({})), Ok(PrincipalKind::User)),
            ("user without e-mail", user(json!({"email": null, "email_verified": null})), Ok(PrincipalKind::User)),
            ("user of an unverified address", user(json!({"email_verified": false})), Ok(PrincipalKind::User)),
            ("other spelling of iss", user(json!({"iss": "accounts.google.com"})), Ok(PrincipalKind::User)),
            ("http iss", user(json!({"iss": "http://accounts.google.com"})), Err(TokenError::UnknownIssuer)),
            ("service account", machine(json!({})), Ok(PrincipalKind::Client)),
            (
                "service account without e-mail",
                machine(json!({"email": null, "email_verified": null})),
                Ok(PrincipalKind::Client),
            ),
            ("unverified", machine(json!({"email_verified": false})), Err(MalformedClaim("email_verified"))),
            ("verified by nobody", machine(json!({"email_verified": null})), Err(MalformedClaim("email_verified"))),
            ("verified as text", machine(json!({"email_verified": "true"})), Err(MalformedClaim("email_verified"))),
            ("sub of another kind", machine(json!({"sub": "1a"})), Err(MalformedClaim("sub"))),
            (
                "domain that only ends so",
                machine(json!({"email": "a@evil-gserviceaccount.com"})),
                Ok(PrincipalKind::User),
            ),
            (
                "domain before another",
                machine(json!({"email": "a@x.gserviceaccount.com.evil.example"})),
                Ok(PrincipalKind::User),
            ),
            ("user with an apostrophe", user(json!({"email": "o'brien@acme.example"})), Ok(PrincipalKind::User)),
            ("hybrid ID token", user(json!({"c_hash": "h"})), Err(WrongKind("c_hash"))),
            ("ID token of FAPI", user(json!({"s_hash": "h"})), Err(WrongKind("s_hash"))),
            ("logout token", user(json!({"events": {}})), Err(WrongKind("events"))),
            ("another application", user(json!({"aud": "2-b"})), Err(TokenError::Audience)),
            ("no exp", user(json!({"exp": null})), Err(MissingClaim("exp"))),
            ("look-alike", user(json!({"Email": "x"})), Err(MalformedClaim("email"))),
        ];
        for (name, claims, kind) in table {
            assert_eq!(google().kind(&claims), kind, "{name}");
        }
    }

    #[test]
    fn t_029_an_address_that_two_readers_could_split_differently_is_refused() {
        for email in [
            "a@x.gserviceaccount.com@evil.example",
            "a@evil.example@x.gserviceaccount.com",
            "\"a@evil.example\"@x.gserviceaccount.com",
            "\"a\"@x.gserviceaccount.com",
            "a@x.gserviceaccount.com\"",
            "a'@x.gserviceaccount.com",
            "a@x.gserviceaccount.com\0",
            "a@x.gserviceaccount.com\n",
            "a\u{7f}@x.gserviceaccount.com",
            " a@x.gserviceaccount.com",
            "a@x.gserviceaccount.com ",
            "<a@x.gserviceaccount.com>",
            "a(b)@x.gserviceaccount.com",
            "a@x.GServiceAccount.com",
            "@x.gserviceaccount.com",
            "a@",
            "x.gserviceaccount.com",
            "",
        ] {
            let claims = with(&service_account(), json!({"email": email}));
            assert_eq!(google().kind(&claims), Err(TokenError::MalformedClaim("email")), "{email:?}");
        }
    }

    #[test]
    fn a_workspace_domain_is_the_tenant_and_service_accounts_have_none() {
        let known = Issuer::google("1-a.apps.googleusercontent.com").add_audience("https://api.example");
        let known = Shapes::of(known.with_tenants(Tenants::known(["acme.example"])), Some("JWT"));
        assert_eq!(known.refusal(&user()), None);
        assert_eq!(known.refusal(&with(&user(), json!({"hd": "ACME.example"}))), Some(TokenError::Tenant));
        assert_eq!(known.refusal(&with(&user(), json!({"hd": null}))), Some(TokenError::MissingClaim("hd")));
        assert_eq!(known.refusal(&service_account()), Some(TokenError::MissingClaim("hd")));
    }
}
