use super::{
    Issuer, Keys, Profile,
    profile::{Facts, Party},
};
use crate::{ConfigError, key::Algorithm, principal::PrincipalKind, token::TokenError};

impl Issuer {
    /// The service accounts of a Kubernetes cluster, by its issuer (`--service-account-issuer`); a cluster may have several, see
    /// [`add_alias`](Self::add_alias).
    ///
    /// Have the kubelet project tokens for an audience of this API's own: a token for the API server's audience would be one for the
    /// API server as well. **Keys must be given**, by [`with_keys`](Self::with_keys), [`with_jwks_url`](Self::with_jwks_url) or
    /// [`with_key_source`](Self::with_key_source): discovery wants credentials at most clusters; where it is public,
    /// `with_key_source(Remote::discover(url).build()?)`.
    ///
    /// RS256 or ES256; `typ` is `JWT` or absent. `sub`, `system:serviceaccount:{namespace}:{name}`, must say the same as `kubernetes.io`. The
    /// user id is `{sub}/{uid}`, so that an account that was deleted and made again is another one; the tenant is the namespace. Everybody is
    /// a workload; there are no client and no scope. Legacy tokens (`iss` `kubernetes/serviceaccount`, no `exp`) are refused, and of a pod's
    /// deletion a token knows nothing: keep lives short. Tokens that the API server extended to a year are over the longest life.
    pub fn kubernetes(url: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { keys: Keys::Given, ..Self::new(&KUBERNETES, vec![url.into()], vec![audience.into()]) }
    }
}

fn check(issuer: &Issuer) -> Result<(), ConfigError> {
    let mut names = issuer.ids.iter().chain(&issuer.aliases);
    match names.find(|name| *name == "kubernetes/serviceaccount") {
        None => Ok(()),
        Some(legacy) => {
            let remedy = "give the cluster's issuer URL: legacy tokens never expire and have no audience, project tokens instead";
            Err(ConfigError::invalid("issuer.url", legacy, remedy))
        }
    }
}

fn party(facts: &Facts<'_>) -> Result<Party, TokenError> {
    let claims = &facts.claims;
    let namespace = claims.required_name_at(&["kubernetes.io", "namespace"])?;
    let name = claims.required_name_at(&["kubernetes.io", "serviceaccount", "name"])?;
    let uid = claims.required_name_at(&["kubernetes.io", "serviceaccount", "uid"])?;
    if [namespace, name, uid].iter().any(|part| part.contains([':', '/'])) {
        return Err(TokenError::MalformedClaim("kubernetes.io"));
    }
    if facts.subject != format!("system:serviceaccount:{namespace}:{name}") {
        return Err(TokenError::MalformedClaim("sub"));
    }
    Ok(Party { kind: PrincipalKind::Workload, user_id: Some(format!("{}/{uid}", facts.subject)) })
}

const KUBERNETES: Profile = Profile {
    algorithms: &[Algorithm::Rs256, Algorithm::Es256],
    type_may_be_absent: true,
    tenant: &["kubernetes.io", "namespace"],
    also_read: &["kubernetes.io"],
    has_aliases: true,
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

    const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";

    fn issuer() -> Issuer {
        Issuer::kubernetes(CLUSTER, "https://api.example")
    }

    fn pod() -> Value {
        json!({
            "aud": ["https://api.example"], "exp": NOW + 3600, "iat": NOW, "nbf": NOW, "iss": CLUSTER, "jti": "j",
            "kubernetes.io": {
                "namespace": "jobs", "node": {"name": "n1", "uid": "7"}, "pod": {"name": "worker-1", "uid": "8"},
                "serviceaccount": {"name": "worker", "uid": "9f"}, "warnafter": NOW + 3000,
            },
            "sub": "system:serviceaccount:jobs:worker",
        })
    }

    fn account(changes: Value) -> Value {
        with(&pod(), json!({"kubernetes.io": with(&pod()["kubernetes.io"], changes)}))
    }

    #[test]
    fn a_service_account_is_named_twice_and_both_must_agree() {
        use TokenError::{MalformedClaim, MissingClaim};
        let pod = |changes| with(&pod(), changes);
        let table = [
            ("pod", pod(json!({})), Ok(PrincipalKind::Workload)),
            ("another name", pod(json!({"sub": "system:serviceaccount:jobs:admin"})), Err(MalformedClaim("sub"))),
            ("another namespace", account(json!({"namespace": "kube-system"})), Err(MalformedClaim("sub"))),
            ("a user", pod(json!({"sub": "system:admin"})), Err(MalformedClaim("sub"))),
            (
                "a name that moves the border",
                with(&account(json!({"namespace": "jobs:a"})), json!({"sub": "system:serviceaccount:jobs:a:worker"})),
                Err(MalformedClaim("kubernetes.io")),
            ),
            ("no kubernetes.io", pod(json!({"kubernetes.io": null})), Err(MissingClaim("kubernetes.io"))),
            ("no uid", account(json!({"serviceaccount": {"name": "worker"}})), Err(MissingClaim("kubernetes.io"))),
            (
                "blank uid",
                account(json!({"serviceaccount": {"name": "worker", "uid": ""}})),
                Err(MalformedClaim("kubernetes.io")),
            ),
            ("no object", pod(json!({"kubernetes.io": "jobs"})), Err(MalformedClaim("kubernetes.io"))),
            ("legacy token", pod(json!({"iss": "kubernetes/serviceaccount"})), Err(TokenError::UnknownIssuer)),
            ("no exp", pod(json!({"exp": null})), Err(MissingClaim("exp"))),
            ("no aud", pod(json!({"aud": null})), Err(MissingClaim("aud"))),
            ("for the API server", pod(json!({"aud": [CLUSTER]})), Err(TokenError::Audience)),
            ("extended to a year", pod(json!({"exp": NOW + 31_536_000})), Err(TokenError::Lifetime)),
            ("look-alike", pod(json!({"Kubernetes.io": {}})), Err(MalformedClaim("kubernetes.io"))),
        ];
        let kubernetes = Shapes::of(issuer(), None);
        for (name, claims, kind) in table {
            assert_eq!(kubernetes.kind(&claims), kind, "{name}");
        }
        let token = kubernetes.verify(&pod(json!({}))).unwrap();
        let principal = token.principal();
        assert_eq!(principal.user_id().map(Subject::as_str), Some("system:serviceaccount:jobs:worker/9f"));
        assert_eq!(principal.tenant().map(TenantId::as_str), Some("jobs"));
        for typ in [None, Some("JWT")] {
            assert!(kubernetes.verify_signed(Algorithm::Es256, typ, &pod(json!({}))).is_ok());
        }
        assert_eq!(kubernetes.verify_typed(Some("at+jwt"), &pod(json!({}))).err(), Some(TokenError::Type));
    }

    #[test]
    fn namespaces_can_be_listed() {
        let kubernetes = Shapes::of(issuer().with_tenants(Tenants::known(["jobs"])), None);
        assert_eq!(kubernetes.refusal(&pod()), None);
        let other = with(&account(json!({"namespace": "b"})), json!({"sub": "system:serviceaccount:b:worker"}));
        assert_eq!(kubernetes.refusal(&other), Some(TokenError::Tenant));
    }

    #[test]
    fn a_cluster_needs_keys_and_a_real_issuer() {
        let error = issuer().into_parts().map(|_| ()).unwrap_err();
        assert!(error.field() == "issuer.keys" && error.to_string().contains("with_keys"), "{error}");
        let (field, text) = misconfigured(Issuer::kubernetes("kubernetes/serviceaccount", "a"));
        assert!(field == "issuer.url" && text.contains("legacy"), "{text}");
        assert_eq!(misconfigured(issuer().add_alias("kubernetes/serviceaccount")).0, "issuer.url");
    }
}
