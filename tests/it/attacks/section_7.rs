//! Sender constraint: a token that is bound to a key is worth nothing without that key, whoever shows it and in whatever shape.

use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    key::Algorithm,
    policy,
    rules::policy_only,
    testing::{TestIssuer, TestIssuerBuilder, TokenBuilder},
};
use serde_json::{Value, json};

use super::{Guarded, Ran};
use crate::support::{AUDIENCE, Host};

/// A kind of issuer, and a token of it that is good but for what a test adds.
struct Preset {
    name: &'static str,
    idp: fn() -> TestIssuerBuilder,
    issuer: fn(&TestIssuer) -> Issuer,
    token: fn(TokenBuilder) -> TokenBuilder,
}

/// One row for each profile of `src/token/issuer`.
const PRESETS: &[Preset] = &[
    Preset {
        name: "rfc9068",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::rfc9068(idp.url(), AUDIENCE),
        token: |token| token,
    },
    Preset {
        name: "oauth",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::oauth(idp.url(), AUDIENCE),
        token: |token| token.without_typ().without("jti"),
    },
    Preset {
        name: "auth0",
        idp: || TestIssuer::builder().with_auth0_domain("acme.eu.auth0.com"),
        issuer: |idp| Issuer::auth0("acme.eu.auth0.com", AUDIENCE).with_keys(idp.key_set()),
        token: TokenBuilder::classic,
    },
    Preset {
        name: "okta",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::okta("https://acme.okta.com/oauth2/default", AUDIENCE).with_keys(idp.key_set()),
        token: |token| {
            let token = token.classic().without("azp").claim("jti", "AT.1").claim("cid", "0oa1").claim("uid", "00u1");
            token.claim("scp", json!(["jobs:read"])).claim("iss", "https://acme.okta.com/oauth2/default")
        },
    },
    Preset {
        name: "entra",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::entra(TENANT, AUDIENCE).with_keys(idp.key_set()),
        token: |token| {
            let issuer = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
            let token = token.classic().claim("iss", issuer).claim("ver", "2.0").claim("tid", TENANT);
            token.claim("oid", OBJECT).claim("scp", "Jobs.Read")
        },
    },
    Preset {
        name: "cognito",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::cognito("eu-central-1", "eu-central-1_Abc123", ["web"]).with_keys(idp.key_set()),
        token: |token| {
            let issuer = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Abc123";
            let token = token.without_typ().without("aud").claim("iss", issuer).claim("token_use", "access");
            token.claim("username", "alice")
        },
    },
    Preset {
        name: "keycloak",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::keycloak("https://sso.acme.example/realms/acme", AUDIENCE).with_keys(idp.key_set()),
        token: |token| {
            let token = token.classic().claim("iss", "https://sso.acme.example/realms/acme").claim("typ", "Bearer");
            token.claim("preferred_username", "alice").claim("jti", "onrtac:1")
        },
    },
    Preset {
        name: "google",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::google(AUDIENCE).with_keys(idp.key_set()),
        token: |token| {
            token.classic().claim("iss", "https://accounts.google.com").claim("sub", "104029292853099978293")
        },
    },
    Preset {
        name: "google_iap",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::google_iap(BACKEND).with_keys(idp.key_set()),
        token: |token| {
            let token = token.classic().without("azp").algorithm(Algorithm::Es256).audience(BACKEND);
            token.claim("iss", "https://cloud.google.com/iap").claim("sub", "accounts.google.com:1045")
        },
    },
    Preset {
        name: "firebase",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::firebase("acme-prod").with_keys(idp.key_set()),
        token: |token| {
            let token = token.classic().without("azp").audience("acme-prod").claim("sub", "u1");
            token.claim("iss", "https://securetoken.google.com/acme-prod").claim("auth_time", 1_600_000_000)
        },
    },
    Preset {
        name: "kubernetes",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::kubernetes("https://kubernetes.default.svc", AUDIENCE).with_keys(idp.key_set()),
        token: |token| {
            let account = json!({"namespace": "jobs", "serviceaccount": {"name": "worker", "uid": "9f"}});
            let token = token.classic().without("azp").claim("iss", "https://kubernetes.default.svc");
            token.claim("sub", "system:serviceaccount:jobs:worker").claim("kubernetes.io", account)
        },
    },
    Preset {
        name: "github_actions",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::github_actions(AUDIENCE).with_keys(idp.key_set()),
        token: |token| {
            let token =
                token.typ("JWT").without("client_id").claim("iss", "https://token.actions.githubusercontent.com");
            let token = token.claim("sub", "repo:acme@1/jobs@2:ref:refs/heads/main");
            token.claim("repository_id", "2").claim("repository_owner_id", "1")
        },
    },
    Preset {
        name: "spiffe",
        idp: TestIssuer::builder,
        issuer: |idp| Issuer::spiffe("prod.example", AUDIENCE).with_keys(idp.key_set()),
        token: |token| {
            let token = token.classic().without("azp").claim("iss", "spiffe://prod.example");
            token.claim("sub", "spiffe://prod.example/ns/web")
        },
    },
];

const BACKEND: &str = "/projects/1/apps/acme";
const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const OBJECT: &str = "66666666-7777-8888-9999-aaaaaaaaaaaa";

impl Preset {
    async fn guarded(&self) -> Guarded {
        let (idp, records, ran) = ((self.idp)().start().await, Memory::new(), Ran::default());
        let rules = Rules::new().get("/jobs", policy_only());
        let stack = Stack::builder((self.issuer)(&idp), rules, policy::dangerous_allow_all(), records.clone());
        let stack = stack.build().unwrap();
        let host = Host::axum(portcullis::axum::protect(ran.router(["/jobs"]), stack.clone())).await;
        Guarded { host, idp, stack, records, ran }
    }
}

/// Bindings that are known, unknown, broken, and none at all.
fn confirmations() -> Vec<Value> {
    let thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    vec![
        json!({ "jkt": thumbprint }),
        json!({ "x5t#S256": thumbprint }),
        json!({ "jkt": thumbprint, "x5t#S256": thumbprint }),
        json!({ "jwk": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"} }),
        json!({ "kid": "1" }),
        json!({ "jku": "https://keys.example/", "kid": "1" }),
        json!({ "osc": {} }),
        json!({ "x5t": thumbprint }),
        json!({ "jkt": "" }),
        json!({ "jkt": null }),
        json!({ "jkt": 7 }),
        json!({ "jkt": [thumbprint] }),
        json!({ "JKT": thumbprint }),
        json!({}),
        json!([]),
        json!([{ "jkt": thumbprint }]),
        json!(null),
        json!(false),
        json!(true),
        json!(0),
        json!(1.5),
        json!(""),
        json!("none"),
        json!(thumbprint),
    ]
}

#[tokio::test]
async fn t_107_a_confirmation_of_any_shape_is_never_taken_for_none() {
    for preset in PRESETS {
        let house = preset.guarded().await;
        let good = || (preset.token)(house.idp.token());
        let about = |what: &dyn std::fmt::Debug| format!("{}: {what:?}", preset.name);
        house.get("/jobs", Some(&good().mint())).await.assert_ran("/jobs", about(&"without `cnf`"));
        for confirmation in confirmations() {
            let bound = good().claim("cnf", confirmation.clone()).mint();
            house.get("/jobs", Some(&bound)).await.assert_refused(401, "token_bound", about(&confirmation));
        }
        // Nor is one that another reader might find.
        for (name, reason) in [("CNF", "token_claim_malformed"), ("Cnf", "token_claim_malformed")] {
            let bound = good().claim(name, json!({"jkt": "x"})).mint();
            house.get("/jobs", Some(&bound)).await.assert_refused(401, reason, about(&name));
        }
        // What was expired, or is not for us, is refused for that: a bound token tells nobody more than another one.
        let bound = || good().claim("cnf", json!({}));
        for (token, reason) in [
            (bound().expired(), "token_expired"),
            (bound().audience("https://other.example"), "token_audience"),
            (bound().tampered(), "token_signature"),
        ] {
            house.get("/jobs", Some(&token.mint())).await.assert_refused(401, reason, about(&reason));
        }
    }
}

/// The first half: what a stack that checks no proof must do. An unbound token under `DPoP`, and which code it gets, comes with the
/// layer that checks proofs.
#[tokio::test]
async fn t_108_a_bound_token_is_no_bearer_token_whatever_stands_beside_it() {
    for preset in PRESETS {
        let house = preset.guarded().await;
        for confirmation in confirmations().into_iter().take(3) {
            let bound = (preset.token)(house.idp.token()).claim("cnf", confirmation.clone()).mint();
            let about = format!("{}: {confirmation}", preset.name);
            house.get("/jobs", Some(&bound)).await.assert_refused(401, "token_bound", &about);
            // What looks like a proof proves nothing where nobody checks it.
            for beside in [
                "dpop: eyJ0eXAiOiJkcG9wK2p3dCJ9.e30.AA",
                "dpop: ",
                "client-cert: :AA==:",
                "x-forwarded-client-cert: Hash=00",
                "x-ssl-client-verify: SUCCESS",
            ] {
                let head = format!("GET /jobs HTTP/1.1\r\nhost: api.acme.example\r\n{beside}\r\n");
                let seen = house.raw(head.as_bytes(), Some(&bound)).await;
                seen.assert_refused(401, "token_bound", format!("{about} beside {beside}"));
            }
            for scheme in ["DPoP", "dpop", "DPOP"] {
                let head = format!(
                    "GET /jobs HTTP/1.1\r\nhost: api.acme.example\r\nauthorization: {scheme} {}\r\n",
                    bound.as_str()
                );
                let seen = house.raw(head.as_bytes(), None).await;
                seen.assert_refused(401, "credentials_missing", format!("{about} as {scheme}"));
            }
        }
    }
}

/// A preset that is added and not tried here would be the one that lets bound tokens in.
#[test]
fn every_profile_of_an_issuer_is_among_the_presets() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/token/issuer");
    let profiles: usize = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap().matches(": Profile = ").count())
        .sum();
    assert!(profiles > 0 && PRESETS.len() >= profiles, "{profiles} profiles, {} presets", PRESETS.len());
}
