//! The kill switch behind a whole stack: from the next request on, whoever feeds it.

use std::time::Duration;

use axum::{Router, routing::get};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    policy::{self, PolicyBackend, Rego},
    revocation::{Revocation, RevocationList},
    rules::{optional, policy_only, public},
    testing::{FrozenClock, TestIssuer, TestToken},
    time::Clock as _,
    token::AccessToken,
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

    let token_id = portcullis::principal::TokenId::new("stolen");
    revocations.revoke(&Revocation::token_id(&issuer, &token_id), now).unwrap();
    assert_eq!(service.status("/jobs", &stolen).await, 401);
    assert_eq!(service.status("/any", &stolen).await, 401, "a token that is there must be good");
    assert_eq!(service.status("/livez", &stolen).await, 200, "no token is read on a public route");
    assert_eq!(service.status("/jobs", &others).await, 200);

    let alice_herself = portcullis::principal::Subject::new("auth0|alice");
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
    let verified = portcullis::token::Verifier::builder(
        Issuer::rfc9068(service.idp.url(), AUDIENCE).with_keys(service.idp.key_set()),
    )
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
