//! The claims of a token, as bytes behind a good signature: what an issuer that has gone mad, or bad, could write.

use std::sync::LazyLock;

use portcullis::{
    time::UnixTime,
    token::{AccessToken, Issuer, TokenError, VerifiedToken, Verifier},
};
use serde_json::{Value, json};

use super::signer::{self, KEY_ID};

const NOW: u64 = 1_800_000_000;
const LEEWAY: u64 = 30;
const DAY: u64 = 24 * 60 * 60;
const AUDIENCE: &str = "https://api.example";
#[rustfmt::skip]
const OTHER_KINDS: [&str; 11] = [
    "nonce", "at_hash", "c_hash", "s_hash", "events", "htm", "htu", "token_introspection", "req_wl", "tctx", "rctx",
];
const ISSUERS: [&str; 3] = ["https://login.example/", "https://rfc9068.example", "https://tenant.auth0.example/"];

/// What is accepted is for us, from a configured issuer, of now, and no other kind of token, whoever reads its claims.
pub fn check(payload: &[u8]) -> bool {
    let header = json!({ "alg": "EdDSA", "kid": KEY_ID, "typ": "at+jwt" }).to_string();
    let token = AccessToken::new(signer::sign(header.as_bytes(), payload)).expect("base64url");
    let verdict = verify(&token, NOW);
    assert_eq!(summary(&verdict), summary(&verify(&token, NOW)), "two verdicts");
    let _ = VERIFIER.claimed(&token);
    let Ok(verified) = verdict else { return false };

    let claims: Value = serde_json::from_slice(payload).expect("accepted claims are JSON");
    let text = |name: &str| claims[name].as_str().unwrap_or_else(|| panic!("accepted claims have a text `{name}`"));
    assert!(claims.is_object());
    assert!(ISSUERS.contains(&text("iss")));
    assert_eq!(verified.issuer().as_str(), text("iss"));
    assert!(claims["aud"] == AUDIENCE || claims["aud"].as_array().is_some_and(|all| all.contains(&json!(AUDIENCE))));
    assert_eq!(verified.audience().as_str(), AUDIENCE);
    assert_eq!(verified.principal().subject().map(|subject| subject.as_str()), Some(text("sub")));
    assert!(!text("sub").trim().is_empty());
    assert_eq!(verified.token_id().map(|id| id.as_str()), claims["jti"].as_str());

    let (now, leeway) = (NOW as f64, LEEWAY as f64);
    let expires = claims["exp"].as_f64().expect("accepted claims have a number `exp`");
    assert!(expires > now - leeway, "expired");
    let begins = claims["iat"].as_f64().unwrap_or(now);
    assert!(expires - begins <= DAY as f64 + leeway + 1.0, "lives too long");
    for name in ["nbf", "iat"] {
        let time = &claims[name];
        assert!(time.is_null() || time.as_f64().is_some_and(|time| time <= now + leeway), "{name} in the future");
    }
    for name in OTHER_KINDS.into_iter().chain(["cnf"]) {
        assert!(claims.get(name).is_none(), "{name}");
    }
    let end = verified.expires_at().as_secs() + LEEWAY;
    assert_eq!(verify(&token, end).err(), Some(TokenError::Expired), "outlives `exp`");
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let [oauth, rfc9068, auth0] = ISSUERS;
    let claims = [
        json!({ "iss": oauth, "sub": "u1", "aud": AUDIENCE, "exp": NOW + 600 }),
        json!({
            "iss": oauth, "sub": "u1", "aud": ["https://other.example", AUDIENCE], "exp": NOW + 600, "nbf": NOW, "iat": NOW,
            "jti": "j1", "azp": "web", "scp": ["jobs:read"], "roles": ["a", { "value": "b" }], "auth_time": NOW - 5,
            "acr": "2", "amr": ["pwd"], "act": { "sub": "agent", "act": { "sub": "gateway" } },
        }),
        json!({
            "iss": rfc9068, "sub": "u1", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW, "jti": "j1", "client_id": "web",
            "scope": "jobs:read jobs:write", "sub_profile": "ai_agent",
        }),
        json!({
            "iss": auth0, "sub": "m1@clients", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW, "azp": "m1",
            "gty": "client-credentials", "permissions": ["read:jobs"], "org_id": "org_1",
        }),
        json!({ "iss": oauth, "sub": "u1", "aud": AUDIENCE, "exp": NOW + 600, "cnf": { "jkt": "a" } }),
        json!({ "iss": oauth, "sub": "u1", "aud": "web", "exp": NOW + 600, "nonce": "n", "at_hash": "h" }),
    ];
    claims.iter().map(|claims| claims.to_string().into_bytes()).collect()
}

fn verify(token: &AccessToken, now: u64) -> Result<VerifiedToken, TokenError> {
    VERIFIER.verify_now(token, UnixTime::from_secs(now)).expect("fixed keys need no waiting")
}

fn summary(verdict: &Result<VerifiedToken, TokenError>) -> String {
    format!("{:?}", verdict.as_ref().map(|verified| (verified, verified.principal())))
}

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let [oauth, rfc9068, auth0] = ISSUERS;
    let keys = || signer::KEYS.clone();
    let domain = auth0.trim_start_matches("https://").trim_end_matches('/');
    let auth0 = Issuer::auth0(domain, AUDIENCE).with_algorithms([portcullis::key::Algorithm::Ed25519]);
    Verifier::builder(Issuer::oauth(oauth, AUDIENCE).with_keys(keys()))
        .add_issuer(Issuer::rfc9068(rfc9068, AUDIENCE).with_keys(keys()))
        .add_issuer(auth0.with_keys(keys()))
        .build()
        .unwrap()
});
