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
    let is_client = |client: &str| subject == client || subject.strip_suffix("@clients") == Some(client);
    if client.is_some_and(is_client) {
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
    scope: ScopeClaim::Text("scope"),
    permissions: Some("permissions"),
    tenant: &["org_id"],
    also_read: &["client_profile"],
    has_domains: true,
    party,
    check,
    ..Profile::BASE
};
