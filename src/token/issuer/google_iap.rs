use super::{
    Issuer, Profile,
    google::{is_numeric, is_service_account},
    profile::{Facts, Party},
};
use crate::{ConfigError, key::Algorithm, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// Google's Identity-Aware Proxy, by the name of the backend service: `/projects/{number}/…`.
    ///
    /// ES256, `typ` is `JWT`. These tokens come in the header `x-goog-iap-jwt-assertion`, which the layers of this crate do not read: take
    /// them from there and call [`Verifier::verify`](crate::token::Verifier::verify), and believe no header beside them. The user id is
    /// `sub`, the tenant `hd`. A service account is who has an `email` below `.gserviceaccount.com` and a `sub` of `accounts.google.com:`
    /// and digits. There are no client, no scope and no token id.
    pub fn google_iap(audience: impl Into<String>) -> Self {
        Self::new(&GOOGLE_IAP, vec!["https://cloud.google.com/iap".to_owned()], vec![audience.into()])
            .with_jwks_url("https://www.gstatic.com/iap/verify/public_key-jwk")
    }
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    match issuer.audiences.iter().find(|audience| !audience.starts_with("/projects/")) {
        None => Ok(()),
        Some(odd) => {
            let remedy = "name the backend service as the proxy does: `/projects/{number}/global/backendServices/{id}` or \
                          `/projects/{number}/apps/{id}`";
            Err(ConfigError::invalid("issuer.audience", odd, remedy))
        }
    }
}

/// The proxy hands on addresses of other identity providers too, so the address alone tells nothing.
fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let kind = match facts.claims.name("email")? {
        Some(email) if is_service_account(email)? => {
            if !facts.subject.strip_prefix("accounts.google.com:").is_some_and(is_numeric) {
                return Err(TokenError::MalformedClaim("sub"));
            }
            PrincipalKind::Client
        }
        _ => PrincipalKind::User,
    };
    Ok(kind.into())
}

const GOOGLE_IAP: Profile = Profile {
    algorithms: &[Algorithm::Es256],
    tenant: &["hd"],
    token_id: None,
    also_read: &["email", "hd"],
    party,
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        principal::TenantId,
        token::{
            issuer::shapes::{Shapes, misconfigured},
            test_tokens::{NOW, with},
        },
    };

    const BACKEND: &str = "/projects/7/global/backendServices/9";

    fn iap() -> Shapes {
        Shapes::of(Issuer::google_iap(BACKEND), Some("JWT"))
    }

    fn user() -> Value {
        json!({
            "iss": "https://cloud.google.com/iap", "aud": BACKEND, "sub": "accounts.google.com:1045", "email": "alice@acme.example",
            "hd": "acme.example", "google": {"access_levels": []}, "iat": NOW, "exp": NOW + 600,
        })
    }

    #[test]
    fn the_proxy_names_users_and_service_accounts() {
        let user = |changes| with(&user(), changes);
        let machine = json!({"email": "batch@acme.iam.gserviceaccount.com", "hd": null});
        let table = [
            ("user", user(json!({})), Ok(PrincipalKind::User)),
            ("user without e-mail", user(json!({"email": null})), Ok(PrincipalKind::User)),
            ("service account", user(machine.clone()), Ok(PrincipalKind::Client)),
            (
                "address of another identity provider",
                with(&user(machine), json!({"sub": "securetoken.google.com/p/t:1045"})),
                Err(TokenError::MalformedClaim("sub")),
            ),
            ("odd address", user(json!({"email": "a@b@c"})), Err(TokenError::MalformedClaim("email"))),
            ("another backend", user(json!({"aud": "/projects/7/apps/x"})), Err(TokenError::Audience)),
            ("ID token", user(json!({"nonce": "n"})), Err(TokenError::WrongKind("nonce"))),
            ("Google's own token", user(json!({"iss": "https://accounts.google.com"})), Err(TokenError::UnknownIssuer)),
        ];
        for (name, claims, kind) in table {
            assert_eq!(iap().kind(&claims), kind, "{name}");
        }
        let token = iap().verify(&user(json!({}))).unwrap();
        assert_eq!(token.principal().tenant().map(TenantId::as_str), Some("acme.example"));
        assert!(token.principal().client().is_none() && token.principal().scope().is_empty());
        let rs256 = iap().verify_signed(Algorithm::Rs256, Some("JWT"), &user(json!({})));
        assert_eq!(rs256.err(), Some(TokenError::Algorithm));
    }

    #[test]
    fn an_audience_that_names_no_backend_cannot_be_configured() {
        for audience in ["https://api.example", "projects/7", ""] {
            let (field, text) = misconfigured(Issuer::google_iap(audience));
            assert!(field == "issuer.audience" && text.contains("/projects/"), "{text}");
        }
        assert_eq!(misconfigured(Issuer::google_iap(BACKEND).require_token_id()).0, "issuer.require_token_id");
        assert_eq!(misconfigured(Issuer::google_iap(BACKEND).with_clients(["c"])).0, "issuer.clients");
    }
}
