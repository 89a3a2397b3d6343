//! The kill switch behind a whole stack: from the next request on, whoever feeds it.

use std::time::Duration;

use axum::{Router, routing::get};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    policy::{self, PolicyBackend, Rego},
    principal::{ClientId, IssuerId, SessionId, Subject, TokenId},
    revocation::{Revocation, RevocationList},
    rules::{optional, policy_only, public},
    testing::{FrozenClock, TestIssuer, TestToken, TokenBuilder},
    time::Clock as _,
    token::{AccessToken, TokenError, Verifier},
};
use serde_json::json;

use crate::support::{self, AUDIENCE, alice, get_with, records, send};

struct Service {
    idp: TestIssuer,
    clock: FrozenClock,
    stack: Stack,
    memory: Memory,
}

impl Service {
    async fn new(policy: impl PolicyBackend, revocations: RevocationList) -> Self {
        let clock = FrozenClock::default();
        let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
        let memory = Memory::new();
        let rules = Rules::new().get("/jobs", policy_only()).get("/any", optional()).get("/livez", public("liveness"));
        let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules, policy, memory.clone())
            .with_clock(clock.clone())
            .with_revocations(revocations)
            .build()
            .unwrap();
        Self { idp, clock, stack, memory }
    }

    async fn status(&self, path: &str, token: &TestToken) -> u16 {
        let answer = || get(async || "in");
        let router = Router::new().route("/jobs", answer()).route("/any", answer()).route("/livez", answer());
        let service = protect(router, self.stack.clone());
        send(service, get_with(path, &token.bearer())).await.status().as_u16()
    }
}

/// The half of T-132 that one process can show: the delay is that of the next request.
#[tokio::test]
async fn t_132_what_is_revoked_is_refused_from_the_next_request_on() {
    let revocations = RevocationList::new();
    let service = Service::new(policy::dangerous_allow_all(), revocations.clone()).await;
    let (now, issuer) = (service.clock.now(), service.idp.issuer_id());
    let stolen = alice(&service.idp).claim("jti", "stolen").mint();
    let others = alice(&service.idp).mint();
    assert_eq!(service.status("/jobs", &stolen).await, 200);

    let token_id = TokenId::new("stolen");
    revocations.revoke(&Revocation::token_id(&issuer, &token_id), now).unwrap();
    assert_eq!(service.status("/jobs", &stolen).await, 401);
    assert_eq!(service.status("/any", &stolen).await, 401, "a token that is there must be good");
    assert_eq!(service.status("/livez", &stolen).await, 200, "no token is read on a public route");
    assert_eq!(service.status("/jobs", &others).await, 200);

    let alice_herself = Subject::new("auth0|alice");
    let later = now.saturating_add(Duration::from_secs(1));
    revocations.revoke(&Revocation::subject(&issuer, &alice_herself, later), later).unwrap();
    assert_eq!(service.status("/jobs", &others).await, 401);
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(service.status("/jobs", &alice(&service.idp).mint()).await, 200, "she signed in again");
    let bob = alice(&service.idp).subject("auth0|bob").mint();
    assert_eq!(service.status("/jobs", &bob).await, 200);

    let records = records(&service.stack, &service.memory).await;
    let refused: Vec<_> = records.iter().filter(|record| record["sent"]["http"] == 401).collect();
    assert_eq!(refused.len(), 3);
    for record in refused {
        assert_eq!((&record["reason"], &record["stage"]), (&json!("token_revoked"), &json!("authenticate")));
        assert_eq!((&record["decision"], &record["user_id"]), (&json!("deny"), &json!(null)));
        assert!(record["thumbprint"].is_string());
    }
}

#[tokio::test]
async fn one_document_feeds_the_policy_and_the_list() {
    let revocations = RevocationList::new();
    let rego = |issuer: &str, subjects: &[&str]| {
        let entry = |name| json!({"issuer": issuer, "subject": name, "not_before": 4_000_000_000_u64});
        let entries: Vec<_> = subjects.iter().map(entry).collect();
        Rego::builder()
            .add_source("authz.rego", "package authz\n\ndecision := true")
            .add_data(&json!({"portcullis": {"revocations": {"entries": entries}}}))
            .with_revocations(revocations.feed("policy"))
            // The default is for optimised builds on machines with time to spare.
            .with_time_limit(Duration::from_secs(1))
            .build()
            .unwrap()
    };
    let service = Service::new(rego("https://nobody.example", &["auth0|alice"]), revocations.clone()).await;
    let token = alice(&service.idp).mint();
    assert_eq!(service.status("/jobs", &token).await, 200, "another issuer's Alice");
    drop(rego(service.idp.url(), &["auth0|alice", "auth0|mallory"]));
    assert_eq!(service.status("/jobs", &token).await, 401);
    drop(rego(service.idp.url(), &["auth0|mallory"]));
    assert_eq!(service.status("/jobs", &token).await, 200);
}

/// A token that was let in keeps being looked at: there is no place where an earlier answer is remembered.
#[tokio::test]
async fn every_request_asks_the_list_anew() {
    let revocations = RevocationList::new();
    let service = Service::new(policy::dangerous_allow_all(), revocations.clone()).await;
    let token = alice(&service.idp).mint();
    let access: AccessToken = token.access_token();
    support::keys_are_loaded(&service.stack).await;
    let verified = Verifier::builder(Issuer::rfc9068(service.idp.url(), AUDIENCE).with_keys(service.idp.key_set()))
        .build()
        .unwrap()
        .verify(&access, service.clock.now())
        .await
        .unwrap();
    let revocation = Revocation::thumbprint(verified.thumbprint());
    for _ in 0..3 {
        assert_eq!(service.status("/jobs", &token).await, 200);
        revocations.revoke(&revocation, service.clock.now()).unwrap();
        assert_eq!(service.status("/jobs", &token).await, 401);
        assert!(revocations.forget(&revocation));
    }
}

/// An issuer whose tokens name the same party twice, and a token of it.
struct TwoNames {
    name: &'static str,
    issuer: Issuer,
    id: String,
    token: fn(TokenBuilder) -> TokenBuilder,
    user_id: &'static str,
}

fn two_names() -> [TwoNames; 4] {
    [
        TwoNames {
            name: "entra",
            issuer: Issuer::entra(ACME, AUDIENCE),
            id: entra_v2(ACME),
            token: |token| entra_token(token, ACME),
            user_id: OBJECT,
        },
        TwoNames {
            name: "okta",
            issuer: Issuer::okta("https://acme.okta.com/oauth2/default", AUDIENCE),
            id: "https://acme.okta.com/oauth2/default".to_owned(),
            token: |token| {
                let token = token.classic().without("azp").claim("jti", "AT.1").claim("cid", "0oa1");
                token.claim("uid", "00u1").claim("scp", json!(["jobs:read"]))
            },
            user_id: "00u1",
        },
        TwoNames {
            name: "kubernetes",
            issuer: Issuer::kubernetes("https://kubernetes.default.svc", AUDIENCE),
            id: "https://kubernetes.default.svc".to_owned(),
            token: |token| {
                let account = json!({"namespace": "jobs", "serviceaccount": {"name": "worker", "uid": "9f"}});
                let token = token.classic().without("azp").subject("system:serviceaccount:jobs:worker");
                token.claim("kubernetes.io", account)
            },
            user_id: "system:serviceaccount:jobs:worker/9f",
        },
        TwoNames {
            name: "github_actions",
            issuer: Issuer::github_actions(AUDIENCE),
            id: "https://token.actions.githubusercontent.com".to_owned(),
            token: |token| {
                let token = token.typ("JWT").without("client_id").subject("repo:acme@1/jobs@2:ref:refs/heads/main");
                token.claim("repository_id", "2").claim("repository_owner_id", "1")
            },
            user_id: "2",
        },
    ]
}

fn entra_token(token: TokenBuilder, tenant: &str) -> TokenBuilder {
    let token = token.classic().claim("iss", entra_v2(tenant)).claim("ver", "2.0").claim("tid", tenant);
    token.claim("oid", OBJECT).claim("scp", "Jobs.Read").claim("sid", "s1").claim("uti", "u1")
}

fn entra_v2(tenant: &str) -> String {
    format!("https://login.microsoftonline.com/{tenant}/v2.0")
}

const ACME: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "22222222-2222-3333-4444-555555555555";
const OBJECT: &str = "66666666-7777-8888-9999-aaaaaaaaaaaa";

#[tokio::test]
async fn a_subject_is_revoked_by_its_sub_or_by_the_user_id_that_audit_and_policy_show() {
    let clock = FrozenClock::default();
    let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
    let (now, later) = (clock.now(), clock.now().saturating_add(Duration::from_secs(1)));
    for TwoNames { name, issuer, id, token, user_id } in two_names() {
        let revocations = RevocationList::new();
        let verifier = Verifier::builder(issuer.with_keys(idp.key_set()));
        let verifier = verifier.with_revocations(revocations.clone()).build().unwrap();
        let access = token(idp.token().claim("iss", id.as_str())).mint().access_token();
        let verified = verifier.verify(&access, now).await.unwrap();
        let principal = verified.principal();
        let (sub, shown) = (principal.subject().unwrap(), principal.user_id().unwrap());
        assert_eq!(shown.as_str(), user_id, "{name}");
        assert_ne!(sub, shown, "{name}");
        for (what, subject, revoked) in [
            ("its sub", sub.clone(), true),
            ("its user id", shown.clone(), true),
            ("somebody else", Subject::new(format!("{user_id}0")), false),
        ] {
            let revocation = Revocation::subject(verified.issuer(), &subject, later);
            revocations.revoke(&revocation, now).unwrap();
            let refused = verifier.verify(&access, now).await.err();
            assert_eq!(refused, revoked.then_some(TokenError::Revoked), "{name}: {what}");
            assert!(revocations.forget(&revocation));
        }
        assert!(verifier.verify(&access, now).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn what_is_revoked_in_one_tenant_is_good_in_the_next() {
    let clock = FrozenClock::default();
    let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
    let (now, later) = (clock.now(), clock.now().saturating_add(Duration::from_secs(1)));
    let revocations = RevocationList::new();
    let issuer = Issuer::entra_multi_tenant(AUDIENCE, [OTHER, ACME]).with_keys(idp.key_set());
    let verifier = Verifier::builder(issuer).with_revocations(revocations.clone()).build().unwrap();
    let v1 = |tenant: &str| format!("https://sts.windows.net/{tenant}/");
    let token = |tenant| entra_token(idp.token(), tenant);
    let old_token = |tenant| {
        let token = token(tenant).claim("iss", v1(tenant)).claim("ver", "1.0");
        token.without("azp").claim("appid", "web")
    };
    let client = ClientId::new("web");
    let [of_acme, of_acme_v1] = [token(ACME).claim("azp", "web"), old_token(ACME)].map(|token| token.mint());
    let [of_other, of_other_v1] = [token(OTHER).claim("azp", "web"), old_token(OTHER)].map(|token| token.mint());
    for issuer in [entra_v2(ACME), v1(ACME)].map(IssuerId::new) {
        for revocation in [
            Revocation::subject(&issuer, &Subject::new("auth0|alice"), later),
            Revocation::subject(&issuer, &Subject::new(OBJECT), later),
            Revocation::client(&issuer, &client, later),
            Revocation::session(&issuer, &SessionId::new("s1"), later),
            Revocation::token_id(&issuer, &TokenId::new("u1")),
        ] {
            revocations.revoke(&revocation, now).unwrap();
            for (token, refused) in [(&of_acme, true), (&of_acme_v1, true), (&of_other, false), (&of_other_v1, false)] {
                let error = verifier.verify(&token.access_token(), now).await.err();
                assert_eq!(error, refused.then_some(TokenError::Revoked), "{issuer} {revocation:?}");
            }
            assert!(revocations.forget(&revocation));
        }
    }
}
