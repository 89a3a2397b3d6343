use super::{Issuer, Profile};
use crate::ConfigError;

impl Issuer {
    /// Firebase Authentication, and Google's Identity Platform, by the project's id, which is the audience too.
    ///
    /// RS256, `typ` is `JWT`. `iat` and `auth_time` must be there. Everybody is a user, also who signed in anonymously: the policy can tell
    /// by `firebase.sign_in_provider`. The tenant is `firebase.tenant`. There are no client, no scope and no token id.
    pub fn firebase(project: impl Into<String>) -> Self {
        let project = project.into();
        Self::new(&FIREBASE, vec![format!("{BASE}{project}")], vec![project])
            .with_jwks_url("https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com")
    }
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let project = issuer.url().strip_prefix(BASE).unwrap_or_default();
    let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b':');
    if project.is_empty() || !project.bytes().all(is_legal) {
        let remedy = "give the project's id, such as `acme-prod-1`: not its number, its name or a URL";
        return Err(ConfigError::invalid("issuer.project", project, remedy));
    }
    Ok(())
}

const BASE: &str = "https://securetoken.google.com/";

const FIREBASE: Profile = Profile {
    required: &["iat", "auth_time"],
    tenant: &["firebase", "tenant"],
    token_id: None,
    also_read: &["firebase"],
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        principal::{PrincipalKind, TenantId},
        token::{
            Tenants, TokenError,
            issuer::shapes::{Shapes, misconfigured},
            test_tokens::{NOW, with},
        },
    };

    fn user() -> Value {
        json!({
            "iss": "https://securetoken.google.com/acme-prod", "aud": "acme-prod", "auth_time": NOW - 60, "user_id": "u1", "sub": "u1",
            "iat": NOW, "exp": NOW + 3600, "email": "alice@acme.example", "email_verified": true,
            "firebase": {"identities": {}, "sign_in_provider": "password", "tenant": "t1"},
        })
    }

    #[test]
    fn firebase_users_belong_to_project_and_tenant() {
        let firebase = Shapes::of(Issuer::firebase("acme-prod"), Some("JWT"));
        let user = |changes| with(&user(), changes);
        let session = "https://session.firebase.google.com/acme-prod";
        let table = [
            ("user", user(json!({})), Ok(PrincipalKind::User)),
            ("user of no tenant", user(json!({"firebase": {}})), Ok(PrincipalKind::User)),
            (
                "tenant that is no name",
                user(json!({"firebase": {"tenant": ""}})),
                Err(TokenError::MalformedClaim("firebase")),
            ),
            ("no object", user(json!({"firebase": "t1"})), Err(TokenError::MalformedClaim("firebase"))),
            ("another project", user(json!({"aud": "acme-test"})), Err(TokenError::Audience)),
            (
                "another project's issuer",
                user(json!({"iss": "https://securetoken.google.com/acme-test"})),
                Err(TokenError::UnknownIssuer),
            ),
            ("session cookie", user(json!({"iss": session})), Err(TokenError::UnknownIssuer)),
            ("no auth_time", user(json!({"auth_time": null})), Err(TokenError::MissingClaim("auth_time"))),
            ("no iat", user(json!({"iat": null})), Err(TokenError::MissingClaim("iat"))),
            ("ID token of another kind", user(json!({"at_hash": "h"})), Err(TokenError::WrongKind("at_hash"))),
        ];
        for (name, claims, kind) in table {
            assert_eq!(firebase.kind(&claims), kind, "{name}");
        }
        let token = firebase.verify(&user(json!({}))).unwrap();
        assert_eq!(token.principal().tenant().map(TenantId::as_str), Some("t1"));
        let required = Shapes::of(Issuer::firebase("acme-prod").with_tenants(Tenants::required()), Some("JWT"));
        assert_eq!(required.refusal(&user(json!({}))), None);
        assert_eq!(required.refusal(&user(json!({"firebase": {}}))), Some(TokenError::MissingClaim("firebase")));
    }

    #[test]
    fn a_project_is_configured_by_its_id() {
        for project in ["", "Acme", "acme/prod", "acme prod", "https://securetoken.google.com/acme"] {
            assert_eq!(misconfigured(Issuer::firebase(project)).0, "issuer.project", "{project}");
        }
    }
}
