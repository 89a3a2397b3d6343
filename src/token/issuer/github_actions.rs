use super::{
    Issuer, Profile,
    profile::{Facts, Party},
};
use crate::{ConfigError, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// Workflows of GitHub Actions. For a GitHub Enterprise Server, [`github_actions_at`](Self::github_actions_at).
    ///
    /// **Any repository of GitHub can get a token for any audience**: list the owners by id ([`with_tenants`](Self::with_tenants)), and
    /// let the policy look at `repository_id`, `job_workflow_ref`, `environment`, `ref` and `event_name`. Match no `sub` by wildcard or
    /// prefix: its form can be configured per repository and has changed, names can be taken over, and `repo:acme/*` is also a pull
    /// request's. The audience must be one of this API's own: GitHub's default, the owner's URL, is a `ConfigError`.
    ///
    /// RS256, `typ` is `JWT`. `jti`, `iat`, `repository_id` and `repository_owner_id` must be there. The user id is `repository_id`, the
    /// tenant `repository_owner_id`: names can be moved to another repository, ids cannot. Everybody is a workload; there are no client
    /// and no scope.
    pub fn github_actions(audience: impl Into<String>) -> Self {
        Self::github_actions_at("https://token.actions.githubusercontent.com", audience)
    }

    /// As [`github_actions`](Self::github_actions), of another GitHub: `https://{host}/_services/token` of a GitHub Enterprise Server,
    /// `https://token.actions.{name}.ghe.com` of an enterprise with data residency.
    pub fn github_actions_at(url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self::new(&GITHUB_ACTIONS, vec![url.into()], vec![audience.into()])
    }
}

/// An audience below the address of GitHub itself is that of an owner, which every workflow there can ask for by default.
fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let host = issuer.url().strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let own = host.strip_prefix("token.actions.").filter(|host| *host != "githubusercontent.com").unwrap_or(host);
    for audience in &issuer.audiences {
        let lower = audience.to_lowercase();
        let rest = lower.strip_prefix("https://").unwrap_or(&lower);
        let target = rest.split('/').next().unwrap_or_default();
        if target == "github.com" || target == own {
            let remedy = "choose an audience of this API's own and have the workflow ask for it; an owner's URL is every workflow's default";
            return Err(ConfigError::invalid("issuer.audience", audience, remedy));
        }
    }
    Ok(())
}

fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let repository = facts.claims.required_name("repository_id")?;
    facts.claims.required_name("repository_owner_id")?;
    Ok(Party { kind: PrincipalKind::Workload, user_id: Some(repository.to_owned()) })
}

const GITHUB_ACTIONS: Profile = Profile {
    required: &["jti", "iat"],
    tenant: &["repository_owner_id"],
    also_read: &["repository_id", "repository_owner_id"],
    party,
    check,
    ..Profile::BASE
};

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        principal::{Subject, TenantId},
        token::{
            Tenants,
            issuer::shapes::{Shapes, misconfigured},
            test_tokens::{NOW, with},
        },
    };

    fn github() -> Shapes {
        Shapes::of(Issuer::github_actions("https://api.example"), Some("JWT"))
    }

    fn workflow() -> Value {
        json!({
            "jti": "j", "sub": "repo:acme@1/jobs@2:ref:refs/heads/main", "aud": "https://api.example", "ref": "refs/heads/main",
            "repository": "acme/jobs", "repository_id": "2", "repository_owner": "acme", "repository_owner_id": "1",
            "actor": "alice", "event_name": "push", "job_workflow_ref": "acme/jobs/.github/workflows/ci.yml@refs/heads/main",
            "iss": "https://token.actions.githubusercontent.com", "nbf": NOW - 5, "exp": NOW + 300, "iat": NOW,
        })
    }

    #[test]
    fn a_workflow_is_known_by_the_ids_of_repository_and_owner() {
        use TokenError::{MalformedClaim, MissingClaim};
        let workflow = |changes| with(&workflow(), changes);
        let table = [
            ("workflow", workflow(json!({})), Ok(PrincipalKind::Workload)),
            ("older sub", workflow(json!({"sub": "repo:acme/jobs:pull_request"})), Ok(PrincipalKind::Workload)),
            ("no repository id", workflow(json!({"repository_id": null})), Err(MissingClaim("repository_id"))),
            ("numeric id", workflow(json!({"repository_id": 2})), Err(MalformedClaim("repository_id"))),
            ("no owner id", workflow(json!({"repository_owner_id": null})), Err(MissingClaim("repository_owner_id"))),
            (
                "blank owner id",
                workflow(json!({"repository_owner_id": ""})),
                Err(MalformedClaim("repository_owner_id")),
            ),
            ("no jti", workflow(json!({"jti": null})), Err(MissingClaim("jti"))),
            ("no iat", workflow(json!({"iat": null})), Err(MissingClaim("iat"))),
            ("for the owner", workflow(json!({"aud": "https://github.com/acme"})), Err(TokenError::Audience)),
            ("look-alike", workflow(json!({"Repository_Id": "3"})), Err(MalformedClaim("repository_id"))),
        ];
        for (name, claims, kind) in table {
            assert_eq!(github().kind(&claims), kind, "{name}");
        }
        let token = github().verify(&workflow(json!({}))).unwrap();
        assert_eq!(token.principal().user_id().map(Subject::as_str), Some("2"));
        assert_eq!(token.principal().tenant().map(TenantId::as_str), Some("1"));
        let owners = Issuer::github_actions("https://api.example").with_tenants(Tenants::known(["1"]));
        let owners = Shapes::of(owners, Some("JWT"));
        assert_eq!(owners.refusal(&workflow(json!({}))), None);
        assert_eq!(owners.refusal(&workflow(json!({"repository_owner_id": "7"}))), Some(TokenError::Tenant));
    }

    #[test]
    fn the_default_audience_cannot_be_configured() {
        let ghes = |audience: &str| Issuer::github_actions_at("https://git.acme.example/_services/token", audience);
        let residency = |audience: &str| Issuer::github_actions_at("https://token.actions.acme.ghe.com", audience);
        for issuer in [
            Issuer::github_actions("https://github.com/acme"),
            Issuer::github_actions("https://GitHub.com/acme"),
            Issuer::github_actions("https://github.com"),
            Issuer::github_actions("api").add_audience("https://github.com/acme"),
            ghes("https://git.acme.example/acme"),
            ghes("https://github.com/acme"),
            residency("https://acme.ghe.com/acme"),
        ] {
            let (field, text) = misconfigured(issuer);
            assert!(field == "issuer.audience" && text.contains("this API's own"), "{text}");
        }
        let enterprise = Shapes::of(ghes("https://api.example"), Some("JWT"));
        let claims = with(&workflow(), json!({"iss": "https://git.acme.example/_services/token"}));
        assert_eq!(
            (enterprise.refusal(&claims), enterprise.refusal(&workflow())),
            (None, Some(TokenError::UnknownIssuer))
        );
        assert_eq!(
            misconfigured(Issuer::github_actions("api").add_alias("https://git.acme.example")).0,
            "issuer.alias"
        );
    }
}
