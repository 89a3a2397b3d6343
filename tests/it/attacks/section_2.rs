//! Claims: a good signature says who wrote it, not that it was meant for us, now, for this.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    key::{Algorithm, JwkSet},
    mint::{LocalSigner, MintError, MintRequest, Minter},
    policy,
    principal::{Actor, Audience, IssuerId, Subject},
    rules::{optional, policy_only, scopes},
    scope::{Scope, all_of},
    testing::{FrozenClock, TestIssuer, TokenBuilder},
    time::UnixTime,
    token::{AccessToken, Claims, Verifier},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    edge::{Edge, GUARDED, OPTIONAL},
    forge::{OWN, compact},
    issuer,
};
use crate::{
    support::{self, AUDIENCE, BySubject, GrpcService, Host, alice, get_with, only_record, records, send},
    wire::{self, Ask},
};

const NOW: u64 = 1_800_000_000;

/// A verifier of tokens that are signed with our own Ed25519 key, so that their payload may be any bytes.
fn own(configure: impl FnOnce(Issuer) -> Issuer) -> Verifier {
    let keys = JwkSet::parse(json!({"keys": [OWN.jwk("ed25519")]}).to_string().as_bytes()).unwrap();
    Verifier::builder(configure(Issuer::oauth("https://login.acme.example/", AUDIENCE).with_keys(keys)))
        .build()
        .unwrap()
}

fn claims() -> Value {
    json!({"iss": "https://login.acme.example/", "sub": "auth0|mallory", "aud": AUDIENCE, "exp": NOW + 300})
}

/// The members of `claims`, with one more of any text.
fn claims_with(claims: &Value, name: &str, text: &str) -> String {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name);
    format!("{},\"{name}\":{text}}}", claims.to_string().trim_end_matches('}'))
}

fn signed(payload: impl AsRef<[u8]>) -> String {
    compact(r#"{"alg":"Ed25519","kid":"ed25519"}"#, payload, |input| OWN.sign("Ed25519", input))
}

/// The reason's code, or `accepted`.
fn verdict(verifier: &Verifier, token: &str) -> &'static str {
    let token = AccessToken::new(token).unwrap();
    let outcome = verifier.verify_now(&token, UnixTime::from_secs(NOW)).expect("fixed keys need no waiting");
    outcome.map_or_else(|error| error.code(), |_| "accepted")
}

#[tokio::test]
async fn t_023_only_an_exact_string_member_of_aud_is_us() {
    const MALFORMED: &str = "token_claim_malformed";
    const OTHER: &str = "token_audience";
    let edge = Edge::new().await;
    let table = [
        ("ours", json!(AUDIENCE), ""),
        ("ours in an array", json!([AUDIENCE]), ""),
        ("ours among others", json!(["https://other.example", AUDIENCE]), ""),
        ("ours beside an empty string", json!(["", AUDIENCE]), ""),
        ("ours twice", json!([AUDIENCE, AUDIENCE]), ""),
        ("empty array", json!([]), OTHER),
        ("empty string", json!(""), OTHER),
        ("array with an empty string", json!([""]), OTHER),
        ("blank", json!(" "), OTHER),
        ("another", json!("https://other.example"), OTHER),
        ("prefix", json!("https://api.exampl"), OTHER),
        ("suffix", json!("api.example"), OTHER),
        ("ours and more", json!("https://api.example.evil.example"), OTHER),
        ("a slash more", json!("https://api.example/"), OTHER),
        ("case", json!("https://API.example"), OTHER),
        ("white space", json!(" https://api.example"), OTHER),
        ("a line break", json!("https://api.example\n"), OTHER),
        ("a NUL", json!("https://api.example\0"), OTHER),
        ("a list in a string", json!("https://api.example,https://other.example"), OTHER),
        ("words in a string", json!("https://other.example https://api.example"), OTHER),
        ("percent", json!("https://api%2Eexample"), OTHER),
        ("homograph", json!("https://\u{430}pi.example"), OTHER),
        ("star", json!("*"), OTHER),
        ("null", json!(null), MALFORMED),
        ("number", json!(7), MALFORMED),
        ("true", json!(true), MALFORMED),
        ("object", json!({"aud": AUDIENCE}), MALFORMED),
        ("object with our name", json!({ AUDIENCE: true }), MALFORMED),
        ("nested array", json!([[AUDIENCE]]), MALFORMED),
        ("ours and a number", json!([AUDIENCE, 7]), MALFORMED),
        ("ours and null", json!([null, AUDIENCE]), MALFORMED),
        ("ours and an object", json!([AUDIENCE, {}]), MALFORMED),
        ("ours and true", json!([true, AUDIENCE]), MALFORMED),
    ];
    for (name, aud, reason) in table {
        let token = edge.good().claim("aud", aud).mint();
        match reason {
            "" => edge.accepts(token.as_str(), name).await,
            reason => edge.refuses(token.as_str(), reason, name).await,
        }
    }
}

/// That the audience cannot be left out is a `compile_fail` doctest of the guide.
#[tokio::test]
async fn t_024_without_an_audience_nothing_builds_and_no_token_passes() {
    let keys = TestIssuer::start().await.key_set();
    for blank in ["", " ", "\t", "\n", "\u{a0}", "\u{3000}"] {
        let issuers = [
            Issuer::oauth("https://login.acme.example/", blank),
            Issuer::rfc9068("https://login.acme.example/", blank),
            Issuer::auth0("acme.eu.auth0.com", blank),
            Issuer::oauth("https://login.acme.example/", AUDIENCE).add_audience(blank),
        ];
        for issuer in issuers {
            let error = Verifier::builder(issuer.with_keys(keys.clone())).build().unwrap_err();
            assert_eq!(error.field(), "issuer.audience", "{blank:?}");
        }
    }
    let edge = Edge::new().await;
    edge.refuses(edge.good().without("aud").mint().as_str(), "token_claim_missing", "no aud").await;
    let lookalike = edge.good().without("aud").claim("AUD", AUDIENCE).claim("audience", AUDIENCE).mint();
    edge.refuses_for_one_of(lookalike.as_str(), &["token_claim_missing", "token_claim_malformed"], "AUD").await;
}

#[tokio::test]
async fn t_025_two_deployments_of_one_issuer_do_not_share_tokens() {
    let idp = TestIssuer::start().await;
    let deployment = |audience: &str| {
        let memory = Memory::new();
        let rules = Rules::new().get("/jobs", policy_only());
        let issuer = Issuer::rfc9068(idp.url(), audience).with_keys(idp.key_set());
        let stack = Stack::builder(issuer, rules, policy::dangerous_allow_all(), memory.clone()).build().unwrap();
        let service = portcullis::axum::protect(Router::new().route("/jobs", get(async || "in")), stack.clone());
        (audience.to_owned(), service, stack, memory)
    };
    let names =
        ["https://eu.api.example", "https://us.api.example", "https://api.example", "https://eu.api.example/v2"];
    for issued_for in names {
        for (own_name, service, stack, memory) in names.map(deployment) {
            let token = idp.token().audience(issued_for).mint();
            let answer = send(service, get_with("/jobs", &token.bearer())).await;
            let record = only_record(&stack, &memory).await;
            let expected = if own_name == issued_for { (200, Value::Null) } else { (401, json!("token_audience")) };
            assert_eq!((answer.status().as_u16(), record["reason"].clone()), expected, "{issued_for} at {own_name}");
        }
    }
}

#[tokio::test]
async fn t_026_an_issuer_is_its_exact_text() {
    let edge = Edge::new().await;
    let url = edge.idp.url();
    let port = url.rsplit_once(':').unwrap().1;
    let mut table = vec![
        ("empty", json!("")),
        ("blank", json!(" ")),
        ("a slash more", json!(format!("{url}/"))),
        ("two slashes", json!(format!("{url}//"))),
        ("a character less", json!(url[..url.len() - 1])),
        ("a character more", json!(format!("{url}0"))),
        ("without the scheme", json!(url.trim_start_matches("http://"))),
        ("https", json!(url.replace("http:", "https:"))),
        ("scheme in capitals", json!(url.replace("http:", "HTTP:"))),
        ("as somebody's host", json!(format!("{url}.evil.example"))),
        ("as user info", json!(format!("{url}@evil.example"))),
        ("as a path", json!(format!("https://evil.example/{url}"))),
        ("as a query", json!(format!("https://evil.example/?{url}"))),
        ("with a query", json!(format!("{url}?"))),
        ("with a fragment", json!(format!("{url}#"))),
        ("with a path", json!(format!("{url}/.well-known"))),
        ("another name of the host", json!(format!("http://localhost:{port}"))),
        ("another spelling of the host", json!(format!("http://127.1:{port}"))),
        ("leading space", json!(format!(" {url}"))),
        ("trailing line break", json!(format!("{url}\n"))),
        ("NUL", json!(format!("{url}\0"))),
        ("homograph", json!(url.replace("http", "htt\u{440}"))),
        ("full width", json!(url.replace('1', "\u{ff11}"))),
        ("percent", json!(url.replace(':', "%3A"))),
        ("array", json!([url])),
        ("object", json!({"iss": url})),
        ("number", json!(7)),
        ("true", json!(true)),
        ("null", json!(null)),
    ];
    table.push(("a server of the attacker", json!("http://127.0.0.1:1")));
    for (name, iss) in table {
        edge.refuses(edge.good().claim("iss", iss).mint().as_str(), "token_issuer", name).await;
    }
    edge.refuses(edge.good().without("iss").mint().as_str(), "token_issuer", "none").await;

    // Case, where there are letters.
    let idp = TestIssuer::builder().with_auth0_domain("acme.eu.auth0.com").with_clock(FrozenClock::default());
    let idp = idp.start().await;
    let verifier =
        Verifier::builder(Issuer::auth0("acme.eu.auth0.com", AUDIENCE).with_keys(idp.key_set())).build().unwrap();
    for (iss, expected) in [
        ("https://acme.eu.auth0.com/", "accepted"),
        ("https://acme.eu.auth0.com", "token_issuer"),
        ("https://ACME.eu.auth0.com/", "token_issuer"),
        ("https://acme.eu.auth0.com:443/", "token_issuer"),
        ("https://acme.eu.auth0.com./", "token_issuer"),
        ("https://\u{430}cme.eu.auth0.com/", "token_issuer"),
        ("https://xn--cme-5cd.eu.auth0.com/", "token_issuer"),
        ("https://evil.acme.eu.auth0.com/", "token_issuer"),
    ] {
        assert_eq!(verdict(&verifier, idp.token().claim("iss", iss).mint().as_str()), expected, "{iss}");
    }
}

#[tokio::test]
async fn t_027_a_token_that_never_ends_is_refused() {
    let edge = Edge::new().await;
    edge.refuses(edge.good().without("exp").mint().as_str(), "token_claim_missing", "no exp").await;
    edge.refuses(
        edge.good().without("exp").claim("expires_in", 300).mint().as_str(),
        "token_claim_missing",
        "expires_in",
    )
    .await;
    let other = edge.good().without("exp").claim("Exp", NOW + 300).mint();
    edge.refuses_for_one_of(other.as_str(), &["token_claim_missing", "token_claim_malformed"], "Exp").await;
    edge.refuses(edge.good().expires_in(1_000_000_000).mint().as_str(), "token_lifetime", "a life of thirty years")
        .await;
    edge.refuses(edge.good().expires_in(1_000_000_000).without("nbf").mint().as_str(), "token_lifetime", "and no nbf")
        .await;
    // No kind of issuer does without.
    let verifier = own(|issuer| issuer);
    let mut endless = claims();
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(verdict(&verifier, &signed(endless.to_string())), "token_claim_missing");
    assert_eq!(verdict(&verifier, &signed(claims().to_string())), "accepted");
}

/// Nothing here is "no time": CVE-2026-25537 was a string that counted as none.
#[test]
fn t_028_a_time_of_another_type_is_an_error_and_never_absent() {
    const MALFORMED: [&str; 2] = ["token_claim_malformed", "token_malformed"];
    let odd = [
        r#""1800000300""#,
        r#""""#,
        r#"" ""#,
        r#""never""#,
        r#""2027-01-15T08:00:00Z""#,
        r#""NaN""#,
        r#""Infinity""#,
        "null",
        "true",
        "false",
        "{}",
        r#"{"$date":1800000300}"#,
        "[]",
        "[1800000300]",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "-1",
        "-1800000300",
        "-0.5",
        "-1e-300",
        "1e300",
        "1e16",
        "9007199254740993",
        "9007199254740994",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "0x6b49d200",
        "01800000300",
        "+1800000300",
        "1_800_000_300",
        ".5",
        "1800000300.",
        "",
    ];
    let verifier = own(|issuer| issuer);
    for claim in ["exp", "nbf", "iat"] {
        for text in odd {
            let code = verdict(&verifier, &signed(claims_with(&claims(), claim, text)));
            assert!(MALFORMED.contains(&code), "{claim}: {text:?}: {code}");
        }
    }
    // What is a number is read as one: a fraction and an exponent are legal, the past is past, and 2^53 is too long a life.
    for (claim, text, expected) in [
        ("exp", "1800000300.5", "accepted"),
        ("exp", "1.8000003e9", "accepted"),
        ("exp", "1800000000.9", "accepted"),
        ("exp", "0", "token_expired"),
        ("exp", "-0", "token_expired"),
        ("exp", "1799999970.9", "token_expired"),
        ("exp", "9007199254740992", "token_lifetime"),
        ("nbf", "0", "accepted"),
        ("nbf", "1799999999.5", "accepted"),
        ("nbf", "1800000030.5", "token_not_yet_valid"),
        ("nbf", "9007199254740992", "token_not_yet_valid"),
        ("iat", "1800000000.25", "accepted"),
        ("iat", "1800000031", "token_issued_in_future"),
        ("iat", "0", "token_lifetime"),
    ] {
        assert_eq!(verdict(&verifier, &signed(claims_with(&claims(), claim, text))), expected, "{claim}: {text}");
    }
}

#[tokio::test]
async fn t_028_over_the_whole_stack_too() {
    let edge = Edge::new().await;
    for claim in ["exp", "nbf", "iat"] {
        for value in [json!("1800000300"), json!(true), json!({}), json!([]), json!(null), json!(-1), json!(1e300)] {
            let about = format!("{claim}: {value}");
            edge.refuses(edge.good().claim(claim, value).mint().as_str(), "token_claim_malformed", &about).await;
        }
    }
}

/// Where an address decides what somebody is: Google's service accounts are known by theirs.
#[tokio::test]
async fn t_029_an_address_that_is_read_in_two_ways_makes_nobody_a_service_account() {
    const MACHINE: &str = "104029292853099978293";
    let edge = Edge::of(|idp| Issuer::google(AUDIENCE).with_keys(idp.key_set())).await;
    let token = |email: Value, is_verified: Value| {
        let token = edge.good().without("scope").without("client_id").header("typ", "JWT").subject(MACHINE);
        let token = token.claim("iss", "https://accounts.google.com").claim("azp", MACHINE);
        token.claim("email", email).claim("email_verified", is_verified).mint()
    };
    // What it is taken for, over both protocols; `OPTIONAL` demands no scope, and Google has none.
    let kind = async |email: &str, expected: &str| {
        let bearer = token(json!(email), json!(true)).bearer();
        let (http, grpc) = edge.both(OPTIONAL, &[bearer.as_bytes()]).await;
        for seen in [http, grpc] {
            seen.assert_ran(email);
            assert_eq!(seen.record["principal"], expected, "{email}: {seen:?}");
            assert_eq!(seen.record["user_id"], MACHINE, "{email}: no address names anybody");
        }
    };
    kind("batch@acme.iam.gserviceaccount.com", "client").await;
    for user in [
        "alice@acme.example",
        "o'brien@acme.example",
        "batch@acme.iam.gserviceaccount.com.evil.example",
        "batch@evil-gserviceaccount.com",
        "batch@gserviceaccount.com.evil.example",
        "batch@acme.iam.gserviceaccount.co",
        "batch%40acme.iam.gserviceaccount.com@evil.example",
        "batch.acme.iam.gserviceaccount.com@evil.example",
        "batch@acme.iam.gserviceaccount.\u{441}om",
    ] {
        kind(user, "user").await;
    }
    for torn in [
        "batch@acme.iam.gserviceaccount.com@evil.example",
        "alice@evil.example@acme.iam.gserviceaccount.com",
        "batch@@acme.iam.gserviceaccount.com",
        r#""alice@evil.example"@acme.iam.gserviceaccount.com"#,
        r#""batch"@acme.iam.gserviceaccount.com"#,
        "'batch'@acme.iam.gserviceaccount.com",
        "batch@acme.iam.gserviceaccount.com\0@evil.example",
        "batch@evil.example\0.gserviceaccount.com",
        "batch@acme.iam.gserviceaccount.com\n",
        "batch@evil.example\r\n.gserviceaccount.com",
        "batch\u{7f}@acme.iam.gserviceaccount.com",
        "batch\u{85}@acme.iam.gserviceaccount.com",
        "batch @acme.iam.gserviceaccount.com",
        "batch@evil.example,a@acme.iam.gserviceaccount.com",
        "batch <batch@acme.iam.gserviceaccount.com>",
        "batch(a)@acme.iam.gserviceaccount.com",
        "batch@ACME.iam.gserviceaccount.com",
        "batch@acme.iam.GServiceAccount.com",
        "b\u{430}tch@acme.iam.gserviceaccount.com",
        "@acme.iam.gserviceaccount.com",
        "acme.iam.gserviceaccount.com",
        "batch@",
    ] {
        let token = token(json!(torn), json!(true));
        edge.refuses(token.as_str(), "token_claim_malformed", torn).await;
    }
    for unverified in [json!(false), json!("true"), json!(1), json!("false"), json!([true])] {
        let token = token(json!("batch@acme.iam.gserviceaccount.com"), unverified.clone());
        edge.refuses(token.as_str(), "token_claim_malformed", &format!("verified: {unverified}")).await;
    }
}

#[tokio::test]
async fn t_030_a_name_that_names_nobody_is_refused() {
    const MALFORMED: [&str; 1] = ["token_claim_malformed"];
    let nobody = [
        json!(""),
        json!(" "),
        json!("   "),
        json!("\t"),
        json!("\n"),
        json!("\u{a0}"),
        json!("\u{2003}"),
        json!("\u{3000}"),
        json!("\u{200b}"),
        json!("\u{feff} \u{2060}"),
        json!("\u{ad}"),
        json!("\u{202e}"),
        json!("\0"),
        json!("a\0b"),
        json!("a\r\nb"),
        json!("\u{7f}"),
        json!(null),
        json!(0),
        json!(false),
        json!([]),
        json!(["auth0|mallory"]),
        json!({}),
        json!({"id": "auth0|mallory"}),
    ];
    let edge = Edge::new().await;
    for claim in ["sub", "client_id", "jti"] {
        for value in &nobody {
            let about = format!("{claim}: {value}");
            edge.refuses_for_one_of(edge.good().claim(claim, value.clone()).mint().as_str(), &MALFORMED, &about).await;
        }
        edge.refuses(edge.good().without(claim).mint().as_str(), "token_claim_missing", claim).await;
    }
    let auth0 = Edge::of(|idp| Issuer::auth0("acme.eu.auth0.com", AUDIENCE).with_jwks_url(idp.jwks_url())).await;
    let good = || auth0.good().claim("iss", "https://acme.eu.auth0.com/");
    auth0.accepts(good().claim("org_id", "org_1").mint().as_str(), "the control").await;
    for claim in ["sub", "client_id", "azp", "org_id"] {
        for value in &nobody {
            let about = format!("{claim}: {value}");
            auth0.refuses_for_one_of(good().claim(claim, value.clone()).mint().as_str(), &MALFORMED, &about).await;
        }
    }
    // An actor is a name as well.
    for value in &nobody {
        let token = edge.good().claim("act", json!({ "sub": value })).mint();
        edge.refuses_for_one_of(token.as_str(), &MALFORMED, &format!("act.sub: {value}")).await;
    }
}

#[tokio::test]
async fn t_031_a_claim_is_never_converted_to_the_type_that_was_asked_for() {
    #[derive(Deserialize)]
    struct Flag {
        #[serde(rename = "admin")]
        _admin: bool,
    }
    #[derive(Deserialize)]
    struct Text {
        #[serde(rename = "admin")]
        _admin: String,
    }
    #[derive(Deserialize)]
    struct Number {
        #[serde(rename = "admin")]
        _admin: u64,
    }
    async fn flag(_: Claims<Flag>) {}
    async fn text(_: Claims<Text>) {}
    async fn number(_: Claims<Number>) {}
    let idp = TestIssuer::start().await;
    let rules = Rules::new().get("/flag", policy_only()).get("/text", policy_only()).get("/number", policy_only());
    let stack = Stack::builder(issuer(&idp), rules, policy::dangerous_allow_all(), Memory::new()).build().unwrap();
    let router = Router::new().route("/flag", get(flag)).route("/text", get(text)).route("/number", get(number));
    let service = portcullis::axum::protect(router, stack);
    for (value, fits) in [
        (json!(true), "/flag"),
        (json!("yes"), "/text"),
        (json!("true"), "/text"),
        (json!("null"), "/text"),
        (json!("1"), "/text"),
        (json!(""), "/text"),
        (json!(1), "/number"),
        (json!(0), "/number"),
        (json!(1.0), ""),
        (json!(-1), ""),
        (json!(null), ""),
        (json!([true]), ""),
        (json!({"admin": true}), ""),
    ] {
        let token = idp.token().claim("admin", value.clone()).mint();
        for path in ["/flag", "/text", "/number"] {
            let status = send(service.clone(), get_with(path, &token.bearer())).await.status();
            assert_eq!(status, if path == fits { 200 } else { 403 }, "{value} at {path}");
        }
    }
    let without = idp.token().mint();
    assert_eq!(send(service.clone(), get_with("/flag", &without.bearer())).await.status(), 403, "absent is not false");
}

#[test]
fn t_032_a_member_that_stands_twice_is_refused_at_any_depth() {
    let verifier = own(|issuer| issuer);
    let payloads = [
        ("sub", r#""sub":"a","sub":"b""#),
        ("the same twice", r#""sub":"a","sub":"a""#),
        ("escaped", r#""sub":"a","\u0073ub":"b""#),
        ("aud", r#""sub":"a","aud":"https://other.example""#),
        ("exp", r#""sub":"a","exp":9999999999"#),
        ("iss", r#""sub":"a","iss":"https://evil.example""#),
        ("a claim of ours", r#""sub":"a","admin":false,"admin":true"#),
        ("in act", r#""sub":"a","act":{"sub":"b","sub":"c"}"#),
        ("in act of act", r#""sub":"a","act":{"sub":"b","act":{"sub":"c","sub":"d"}}"#),
        ("in cnf", r#""sub":"a","cnf":{"jkt":"x","jkt":"y"}"#),
        ("in an array", r#""sub":"a","x":[{"y":1,"y":2}]"#),
        ("deep", r#""sub":"a","x":{"y":[[{"z":{"a":1,"a":2}}]]}"#),
        ("a null first", r#""sub":"a","scope":null,"scope":"jobs:read""#),
        ("empty names", r#""sub":"a","":1,"":2"#),
    ];
    let mut base = claims();
    base.as_object_mut().unwrap().remove("sub");
    let rest = base.to_string();
    for (name, members) in payloads {
        let payload = format!("{},{members}}}", rest.trim_end_matches('}'));
        assert_eq!(verdict(&verifier, &signed(payload)), "token_malformed", "{name}");
    }
    let control = format!("{},\"sub\":\"a\",\"x\":[{{\"y\":1}},{{\"y\":2}}]}}", rest.trim_end_matches('}'));
    assert_eq!(verdict(&verifier, &signed(control)), "accepted");
    for (name, header) in [
        ("alg", r#"{"alg":"none","alg":"Ed25519","kid":"ed25519"}"#),
        ("alg, the other way round", r#"{"alg":"Ed25519","alg":"none","kid":"ed25519"}"#),
        ("kid", r#"{"alg":"Ed25519","kid":"a","kid":"ed25519"}"#),
        ("escaped", r#"{"alg":"Ed25519","kid":"ed25519","\u0061lg":"none"}"#),
        ("typ", r#"{"alg":"Ed25519","kid":"ed25519","typ":"JWT","typ":"at+jwt"}"#),
        ("crit", r#"{"alg":"Ed25519","kid":"ed25519","crit":[],"crit":["exp"]}"#),
        ("in jwk", r#"{"alg":"Ed25519","kid":"ed25519","jwk":{"kty":"oct","kty":"OKP"}}"#),
        ("one that nobody reads", r#"{"alg":"Ed25519","kid":"ed25519","x":1,"x":1}"#),
    ] {
        let token = compact(header, claims().to_string(), |input| OWN.sign("Ed25519", input));
        assert_eq!(verdict(&verifier, &token), "token_malformed", "{name}");
    }
}

#[tokio::test]
async fn t_032_over_the_whole_stack_too() {
    let edge = Edge::new().await;
    let claims = format!(
        r#"{{"iss":"{0}","sub":"a","sub":"b","aud":"{AUDIENCE}","client_id":"web","jti":"1","iat":{NOW},"exp":{1}}}"#,
        edge.idp.url(),
        NOW + 300
    );
    edge.refuses(edge.good().raw_claims(&claims).mint().as_str(), "token_malformed", "sub twice").await;
}

/// With the largest token that can be configured, so that it is not the size that is refused.
#[test]
fn t_033_deep_wide_and_long_json_is_refused_without_a_stack_overflow() {
    const SIZE: usize = 1 << 20;
    let keys = JwkSet::parse(json!({"keys": [OWN.jwk("ed25519")]}).to_string().as_bytes()).unwrap();
    let issuer = Issuer::oauth("https://login.acme.example/", AUDIENCE).with_keys(keys);
    let verifier = Verifier::builder(issuer).with_max_token_size(SIZE).build().unwrap();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let members = |count: usize| {
        format!("{{{}}}", (0..count).map(|index| format!("\"m{index}\":0")).collect::<Vec<_>>().join(","))
    };
    const MALFORMED: &str = "token_malformed";
    // The payload itself is the first level.
    let table = [
        ("31 levels of arrays", nested(31), "accepted"),
        ("32 levels of arrays", nested(32), MALFORMED),
        ("31 levels of objects", objects(31), "accepted"),
        ("32 levels of objects", objects(32), MALFORMED),
        ("300000 levels of arrays", nested(300_000), MALFORMED),
        ("100000 levels of objects", objects(100_000), MALFORMED),
        ("arrays that never end", "[".repeat(700_000), MALFORMED),
        ("objects that never end", r#"{"a":"#.repeat(140_000), MALFORMED),
        ("256 members", members(256), "accepted"),
        ("257 members", members(257), MALFORMED),
        ("50000 members", members(50_000), MALFORMED),
        ("a number of 700 KB", "9".repeat(700_000), MALFORMED),
        ("a fraction of 700 KB", format!("0.{}", "3".repeat(700_000)), "accepted"),
        ("an exponent of 700 KB", format!("1e{}", "9".repeat(700_000)), MALFORMED),
        ("a string of 700 KB", json!("x".repeat(700_000)).to_string(), "accepted"),
        ("a string of escapes", format!("\"{}\"", r"\u0041".repeat(110_000)), "accepted"),
        ("an array of 1000 numbers", format!("[{}0]", "0,".repeat(999)), "accepted"),
        ("an array of 2000 numbers", format!("[{}0]", "0,".repeat(1999)), MALFORMED),
        ("an array of 200000 numbers", format!("[{}0]", "0,".repeat(200_000)), MALFORMED),
        ("6000 values in small objects", format!("[{}{{}}]", r#"{"a":0},"#.repeat(3000)), MALFORMED),
    ];
    for (name, text, expected) in &table {
        let token = signed(claims_with(&claims(), "x", text));
        assert!(token.len() <= SIZE, "{name}");
        assert_eq!(verdict(&verifier, &token), *expected, "{name}");
        // The same where it is a claim that is read, or the header.
        let read = verdict(&verifier, &signed(claims_with(&claims(), "exp", text)));
        assert!(["token_malformed", "token_claim_malformed", "token_expired"].contains(&read), "{name} as exp: {read}");
        let header = format!(r#"{{"alg":"Ed25519","kid":"ed25519","x":{text}}}"#);
        let token = compact(header, claims().to_string(), |input| OWN.sign("Ed25519", input));
        assert_eq!(verdict(&verifier, &token), *expected, "{name} in the header");
    }
    // By default none of the large ones is even looked at.
    let verifier = own(|issuer| issuer);
    for (name, text, _) in table.iter().filter(|(_, text, _)| text.len() > 20_000) {
        assert_eq!(verdict(&verifier, &signed(claims_with(&claims(), "x", text))), "token_too_long", "{name}");
    }
}

#[tokio::test]
async fn t_034_a_name_that_looks_like_a_claim_is_not_that_claim() {
    let edge = Edge::new().await;
    const REFUSED: [&str; 2] = ["token_claim_missing", "token_claim_malformed"];
    for name in
        ["Sub", "SUB", "sUB", "\u{ff53}\u{ff55}\u{ff42}", "ſub", "s\u{fe00}ub", "sub ", " sub", "sub\0", "sub\u{200b}"]
    {
        let token = edge.good().without("sub").claim(name, "root").mint();
        edge.refuses_for_one_of(token.as_str(), &REFUSED, name).await;

        // Beside the right one it is refused, or it is a claim that nobody reads.
        let token = edge.good().claim(name, "root").mint();
        let seen = edge.http(GUARDED.0, &[token.bearer().as_bytes()]).await;
        match seen.status {
            200 => assert_eq!(seen.record["user_id"], "auth0|mallory", "{name}: {seen:?}"),
            _ => seen.assert_bad_token(&REFUSED, name),
        }
    }
    for (name, claim, value) in [
        ("Exp", "exp", json!(NOW + 300)),
        ("AUD", "aud", json!(AUDIENCE)),
        ("Client_Id", "client_id", json!("web")),
        ("JTI", "jti", json!("1")),
        ("Iat", "iat", json!(NOW)),
    ] {
        let token = edge.good().without(claim).claim(name, value).mint();
        edge.refuses_for_one_of(token.as_str(), &REFUSED, name).await;
    }
    let token = edge.good().without("iss").claim("Iss", edge.idp.url()).mint();
    edge.refuses(token.as_str(), "token_issuer", "Iss").await;
    // Nor is `Scope` a scope, or `ALG` an algorithm.
    let token = edge.good().without("scope").claim("Scope", "jobs:read").mint();
    let seen = edge.http(GUARDED.0, &[token.bearer().as_bytes()]).await;
    assert!(!seen.ran && ["scope_insufficient", "token_claim_malformed"].contains(&seen.reason()), "{seen:?}");
    let token = edge.good().raw_header(r#"{"ALG":"RS256","typ":"at+jwt"}"#).mint();
    edge.refuses(token.as_str(), "token_malformed", "ALG").await;
}

#[test]
fn t_035_what_is_not_one_json_text_in_utf_8_is_refused() {
    let verifier = own(|issuer| issuer);
    let good = claims().to_string().into_bytes();
    let with = |before: &[u8], after: &[u8]| [before, &good, after].concat();
    let sub = |bytes: &[u8]| {
        let start = &good[..good.len() - 1];
        [start, b",\"x\":\"", bytes, b"\"}"].concat()
    };
    let table = [
        ("BOM", with(b"\xef\xbb\xbf", b"")),
        ("UTF-16 BOM", with(b"\xff\xfe", b"")),
        ("UTF-16", good.iter().flat_map(|byte| [*byte, 0]).collect()),
        ("NUL at the end", with(b"", b"\0")),
        ("NUL in front", with(b"\0", b"")),
        ("a second value", with(b"", b"{}")),
        ("a second value after a line break", with(b"", b"\n{\"sub\":\"root\"}")),
        ("a comma", with(b"", b",")),
        ("a brace", with(b"", b"}")),
        ("a comment", with(b"", b"//")),
        ("a comment in front", with(b"/**/", b"")),
        ("form feed", with(b"\x0c", b"")),
        ("no-break space", with(b"\xc2\xa0", b"")),
        ("invalid byte", sub(b"\xff")),
        ("cut sequence", sub(b"\xc3")),
        ("overlong", sub(b"\xc0\xaf")),
        ("surrogate in UTF-8", sub(b"\xed\xa0\x80")),
        ("beyond Unicode", sub(b"\xf4\x90\x80\x80")),
        ("lone high surrogate", sub(br"\ud800")),
        ("lone low surrogate", sub(br"\udc00")),
        ("surrogates the wrong way round", sub(br"\udc00\ud800")),
        ("high surrogate before a letter", sub(br"\ud800a")),
        ("a control character as it is", sub(b"\x01")),
        ("a line break in a string", sub(b"\n")),
        ("an unknown escape", sub(br"\x41")),
        ("single quotes", b"{'sub':'a'}".to_vec()),
        ("no quotes", b"{sub:1}".to_vec()),
        ("a trailing comma", b"{\"sub\":\"a\",}".to_vec()),
        ("nothing", Vec::new()),
        ("white space", b"  ".to_vec()),
        ("an array", b"[]".to_vec()),
        ("a string", b"\"{}\"".to_vec()),
        ("null", b"null".to_vec()),
    ];
    assert_eq!(verdict(&verifier, &signed(sub("é\u{1f600}".as_bytes()))), "accepted");
    assert_eq!(verdict(&verifier, &signed(sub(br"\ud83d\ude00"))), "accepted");
    assert_eq!(verdict(&verifier, &signed(with(b" \t\r\n", b"\n "))), "accepted");
    let header = br#"{"alg":"Ed25519","kid":"ed25519"}"#;
    for (name, bytes) in &table {
        assert_eq!(verdict(&verifier, &signed(bytes)), "token_malformed", "{name}");
        // The same around a header.
        let position = bytes.windows(good.len()).position(|window| window == good);
        if let Some(position) = position {
            let odd = [&bytes[..position], header, &bytes[position + good.len()..]].concat();
            let token = compact(odd, &good, |input| OWN.sign("Ed25519", input));
            assert_eq!(verdict(&verifier, &token), "token_malformed", "{name}, header");
        }
    }
}

#[tokio::test]
async fn t_036_the_edges_of_time_are_where_the_standard_puts_them() {
    let edge = Edge::of(|idp| issuer(idp).with_leeway(Duration::from_secs(60))).await;
    let at = |claim: &str, time: u64| edge.good().claim("iat", NOW - 600).claim(claim, time).mint();
    for (name, token, reason) in [
        ("exp = now − leeway", at("exp", NOW - 60), "token_expired"),
        ("exp = now − leeway + 1", at("exp", NOW - 59), ""),
        ("exp = now", at("exp", NOW), ""),
        ("exp long past", at("exp", NOW - 61), "token_expired"),
        ("nbf = now + leeway", at("nbf", NOW + 60), ""),
        ("nbf = now + leeway + 1", at("nbf", NOW + 61), "token_not_yet_valid"),
        ("iat = now + leeway", edge.good().claim("iat", NOW + 60).mint(), ""),
        ("iat = now + leeway + 1", edge.good().claim("iat", NOW + 61).mint(), "token_issued_in_future"),
    ] {
        match reason {
            "" => edge.accepts(token.as_str(), name).await,
            reason => edge.refuses(token.as_str(), reason, name).await,
        }
    }
    // A token that was good stops to be while time passes.
    let token = edge.good().expires_in(10).mint();
    edge.accepts(token.as_str(), "ten seconds left").await;
    edge.clock.advance(Duration::from_secs(69));
    edge.accepts(token.as_str(), "within the leeway").await;
    edge.clock.advance(Duration::from_secs(1));
    edge.refuses(token.as_str(), "token_expired", "past the leeway").await;

    let keys = edge.idp.key_set();
    let build = |leeway| Verifier::builder(issuer(&edge.idp).with_keys(keys.clone()).with_leeway(leeway)).build();
    assert!(build(Duration::from_secs(120)).is_ok());
    for over in [Duration::from_nanos(120_000_000_001), Duration::from_secs(121), Duration::MAX] {
        assert_eq!(build(over).unwrap_err().field(), "issuer.leeway", "{over:?}");
    }
}

mod t_037 {
    use super::*;

    type Shape = fn(TokenBuilder) -> TokenBuilder;

    /// What the same issuer signs with the same key, and is not for us to take.
    const KINDS: [(&str, Shape); 14] = [
        ("ID token", |token| token.typ("JWT").claim("nonce", "n-0S6").claim("at_hash", "x").claim("auth_time", NOW)),
        ("ID token of the code flow", |token| token.typ("JWT").claim("at_hash", "x")),
        ("ID token of the hybrid flow", |token| token.typ("JWT").claim("c_hash", "x")),
        ("ID token with a nonce", |token| token.typ("JWT").claim("nonce", "x")),
        ("ID token with the type of an access token", |token| token.claim("nonce", "x")),
        ("logout token", |token| {
            token
                .typ("logout+jwt")
                .claim("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}}))
                .claim("sid", "1")
        }),
        ("logout token without its type", |token| {
            token.typ("JWT").claim("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}}))
        }),
        ("DPoP proof", |token| token.typ("dpop+jwt").claim("htm", "GET").claim("htu", "https://api.example/jobs")),
        ("DPoP proof without its type", |token| {
            token.typ("JWT").claim("htm", "GET").claim("htu", "https://api.example/jobs")
        }),
        ("security event", |token| {
            token
                .typ("secevent+jwt")
                .claim("events", json!({"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}}))
        }),
        ("client assertion", |token| token.typ("client-authentication+jwt")),
        ("introspection answer", |token| {
            token.typ("token-introspection+jwt").claim("token_introspection", json!({"active": true}))
        }),
        ("transaction token", |token| token.typ("txntoken+jwt").claim("txn", "1")),
        ("authorization request", |token| token.typ("oauth-authz-req+jwt")),
    ];
    const CODES: [&str; 3] = ["token_type", "token_wrong_kind", "token_claim_malformed"];

    #[tokio::test]
    async fn t_037_other_kinds_of_token_of_the_same_issuer_are_refused() {
        let strict = Edge::new().await;
        let oauth = Edge::of(|idp| Issuer::oauth(idp.url(), AUDIENCE)).await;
        let auth0 = Edge::of(|idp| Issuer::auth0("acme.eu.auth0.com", AUDIENCE).with_jwks_url(idp.jwks_url())).await;
        for (name, shape) in KINDS {
            strict.refuses_for_one_of(shape(strict.good()).mint().as_str(), &CODES, name).await;
            oauth.refuses_for_one_of(shape(oauth.good()).mint().as_str(), &CODES, name).await;
            let token = shape(auth0.good().claim("iss", "https://acme.eu.auth0.com/")).mint();
            auth0.refuses_for_one_of(token.as_str(), &CODES, name).await;
        }
    }

    /// Its issuer is the client, its audience the token endpoint.
    #[tokio::test]
    async fn t_037_a_client_assertion_is_no_access_token() {
        let edge = Edge::new().await;
        let assertion =
            edge.good().claim("iss", "web").subject("web").audience(&format!("{}/oauth/token", edge.idp.url()));
        edge.refuses(assertion.typ("JWT").mint().as_str(), "token_issuer", "as RFC 7523 has it").await;
        let token = edge.good().subject("web").audience(&format!("{}/oauth/token", edge.idp.url())).mint();
        edge.refuses(token.as_str(), "token_audience", "even were the issuer ours").await;
    }

    #[tokio::test]
    async fn t_037_our_own_internal_token_is_refused_at_the_edge() {
        let edge = Edge::new().await;
        let minted = mint(&edge, Map::new(), Audience::new(AUDIENCE)).await.unwrap();
        edge.refuses(minted.expose(), "token_issuer", "an internal token from outside").await;
    }
}

/// An internal token that is made from a good one of this edge's issuer.
async fn mint(
    edge: &Edge,
    claims: Map<String, Value>,
    audience: Audience,
) -> Result<portcullis::mint::MintedToken, MintError> {
    let verifier = Verifier::builder(issuer(&edge.idp).with_keys(edge.idp.key_set())).build().unwrap();
    let now = UnixTime::from_secs(NOW);
    let source = verifier.verify(&edge.good().mint().access_token(), now).await.unwrap();
    let signer = Arc::new(LocalSigner::generate(Algorithm::Ed25519).unwrap());
    let gateway = Actor::new(Subject::new("gateway"));
    let minter = Minter::builder(IssuerId::new("https://internal.example"), gateway, signer).build().unwrap();
    let wanted = MintRequest::new(audience, Scope::parse("jobs:read").unwrap());
    let wanted = claims.into_iter().fold(wanted, |wanted, (name, value)| wanted.add_claim(name, value));
    minter.mint(&source, wanted, now).await
}

#[tokio::test]
async fn t_038_the_scope_rule_holds_whatever_the_transport_and_whatever_claim_is_missing() {
    let idp = TestIssuer::start().await;
    let memory = Memory::new();
    let demand = || scopes(all_of(["jobs:read"]));
    let rules = Rules::new().get("/jobs", demand());
    let issuer = Issuer::oauth(idp.url(), AUDIENCE).with_keys(idp.key_set());
    let stack = Stack::builder(issuer, rules, policy::dangerous_allow_all(), memory.clone()).build().unwrap();
    let sibling = stack.sibling(Rules::new().grpc("jobs.v1.Jobs/List", demand())).build().unwrap();
    let router = Router::new().route("/jobs", get(async || "in"));
    let http = Host::axum(portcullis::axum::protect(router, stack.clone())).await;
    let service = tonic::service::Routes::new(GrpcService::new(support::Counter::default()));
    let grpc = Host::tonic(portcullis::tonic::protect(service, sibling)).await;
    type Shape = fn(TokenBuilder) -> TokenBuilder;
    let shapes: [(&str, Shape); 9] = [
        ("whole", |token| token),
        ("no client_id", |token| token.without("client_id")),
        ("no iat", |token| token.without("iat")),
        ("no jti", |token| token.without("jti")),
        ("no typ", |token| token.without_typ()),
        ("no kid", |token| token.without_kid()),
        ("classic", |token| token.classic()),
        ("nothing that may be missing", |token| {
            token.without("client_id").without("iat").without("jti").without_typ().without_kid()
        }),
        ("a machine", |token| token.machine("batch")),
    ];
    let mut asked = 0;
    for (name, shape) in shapes {
        for (scope, allowed) in
            [(Some("jobs:read"), true), (Some("jobs:write"), false), (Some(""), false), (None, false)]
        {
            let token = match scope {
                Some(scope) => shape(idp.token().scope(scope)),
                None => shape(idp.token()),
            };
            let token = token.claim("permissions", json!(["jobs:read"])).claim("roles", json!(["jobs:read"])).mint();
            let about = format!("{name}, {scope:?}");
            let expected = if allowed { (200, 200, "0") } else { (403, 403, "7") };
            let ask = Ask::get("/jobs").bearer(token.as_str());
            let first = wire::http1(http.address, &ask).await.status;
            let second = wire::http2(http.address, &ask).await.status;
            let call = Ask::new(http::Method::POST, "/jobs.v1.Jobs/List").bearer(token.as_str());
            let call = call.header("content-type", "application/grpc").header("te", "trailers");
            let third = wire::grpc(grpc.address, &call).await;
            let status = match third.header("grpc-status") {
                // A status in the trailers: the call went through.
                "" if third.canonical.contains("\ngrpc-status: 0") => "0".to_owned(),
                status => status.to_owned(),
            };
            assert_eq!((first, second, status.as_str()), expected, "{about}: {}", third.canonical);
            asked += 3;
        }
    }
    let records = support::records(&stack, &memory).await;
    let requests: Vec<_> = records.iter().filter(|record| record["kind"] == "request").collect();
    assert_eq!(requests.len(), asked);
    for record in requests {
        let expected = match record["decision"].as_str() {
            Some("allow") => Value::Null,
            _ => json!("scope_insufficient"),
        };
        assert_eq!(record["reason"], expected, "{record}");
    }
}

#[tokio::test]
async fn t_039_scope_is_words_between_single_spaces_and_nothing_like_them() {
    const MALFORMED: &str = "token_claim_malformed";
    let edge = Edge::of(|idp| Issuer::oauth(idp.url(), AUDIENCE)).await;
    for scope in ["jobs:read", "openid jobs:read", "jobs:read profile", "jobs:read jobs:read"] {
        edge.accepts(edge.good().scope(scope).mint().as_str(), scope).await;
    }
    for scope in [
        "",
        "jobs:rea",
        "jobs:reads",
        "xjobs:read",
        "jobs",
        "jobs:",
        "read",
        ":read",
        "JOBS:READ",
        "Jobs:Read",
        "jobs:*",
        "*",
        "jobs:read,profile",
        "profile,jobs:read",
        "jobs:read;profile",
        "jobs:read+profile",
        "jobs:read|x",
        "jobs.read",
        "jobs/read",
        "jobs%3Aread",
        "jobs:readjobs:read",
        "-jobs:read",
    ] {
        let token = edge.good().scope(scope).mint();
        let (http, grpc) = edge.both(GUARDED, &[token.bearer().as_bytes()]).await;
        assert_eq!((http.status, http.reason(), http.ran), (403, "scope_insufficient", false), "{scope:?}");
        assert_eq!((grpc.grpc, grpc.reason(), grpc.ran), (Some(7), "scope_insufficient", false), "{scope:?}");
    }
    // What is not words between single spaces is no scope, so that nobody else can read it otherwise.
    for scope in [
        " ",
        " jobs:read",
        "jobs:read ",
        "a  jobs:read",
        "a\tjobs:read",
        "jobs:read\t",
        "a\njobs:read",
        "jobs:read\n",
        "a\rjobs:read",
        "a\u{a0}jobs:read",
        "a\u{2003}jobs:read",
        "a\u{200b}jobs:read",
        "a\u{b}jobs:read",
        "a\u{c}jobs:read",
        "a\0jobs:read",
        "\"jobs:read\"",
        r"jobs\:read",
        "jöbs jobs:read",
    ] {
        edge.refuses(edge.good().scope(scope).mint().as_str(), MALFORMED, &format!("{scope:?}")).await;
    }
    // The string and the array are two claims, and are not mixed.
    edge.accepts(edge.good().without("scope").claim("scp", json!(["a", "jobs:read"])).mint().as_str(), "scp").await;
    for (name, token) in [
        ("scope as an array", edge.good().claim("scope", json!(["jobs:read"]))),
        ("scope as an object", edge.good().claim("scope", json!({"jobs:read": true}))),
        ("scope null", edge.good().claim("scope", json!(null))),
        ("scope as a number", edge.good().claim("scope", 7)),
        ("scp as a string", edge.good().without("scope").claim("scp", "jobs:read")),
        ("both", edge.good().scope("jobs:read").claim("scp", json!(["jobs:read"]))),
        ("both, one empty", edge.good().scope("jobs:read").claim("scp", json!([]))),
        ("words with spaces in the array", edge.good().without("scope").claim("scp", json!(["a jobs:read"]))),
        ("an array in the array", edge.good().without("scope").claim("scp", json!([["jobs:read"]]))),
        ("a number in the array", edge.good().without("scope").claim("scp", json!(["jobs:read", 7]))),
        ("an empty word in the array", edge.good().without("scope").claim("scp", json!(["", "jobs:read"]))),
    ] {
        edge.refuses(token.mint().as_str(), MALFORMED, name).await;
    }
}

#[tokio::test]
async fn t_040_an_extra_claim_of_a_minted_token_replaces_none_that_counts() {
    let edge = Edge::new().await;
    let extra = |name: &str, value: Value| Map::from_iter([(name.to_owned(), value)]);
    for name in [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "scope",
        "act",
        "cnf",
        "client_id",
        "txn",
        "azp",
        "scp",
        "permissions",
        "roles",
        "groups",
        "org_id",
        "sub_id",
        "sub_profile",
        "may_act",
        "acr",
        "amr",
        "auth_time",
        "typ",
        "events",
        "nonce",
    ] {
        for value in [json!("root"), json!(null), json!({"sub": "root"}), json!(9_999_999_999_u64)] {
            let refused = mint(&edge, extra(name, value), Audience::new("orders")).await.unwrap_err();
            assert_eq!(refused.code(), "mint_reserved_claim", "{name}");
        }
    }
    // A name that only looks like one is written as it is, and replaces nothing for those who read names exactly. Those who do
    // not are told by every verifier of this crate: T-034.
    let registered = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "act", "client_id"];
    let plain = mint(&edge, Map::new(), Audience::new("orders")).await.unwrap();
    let before = payload(plain.expose());
    for name in ["ISS", "Sub", "sub ", "\u{ff53}\u{ff55}\u{ff42}", "order"] {
        let minted = mint(&edge, extra(name, json!("root")), Audience::new("orders")).await.expect(name);
        let after = payload(minted.expose());
        assert_eq!(after[name], "root");
        for claim in registered.into_iter().filter(|claim| *claim != "jti") {
            assert_eq!(after[claim], before[claim], "{name} changed {claim}");
        }
        let names: BTreeSet<_> = after.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names.len(), before.as_object().unwrap().len() + 1, "{name}");
    }
}

#[tokio::test]
async fn t_041_the_tenant_of_the_token_must_be_the_tenant_of_the_route() {
    let idp = TestIssuer::start().await;
    let (memory, policy) = (Memory::new(), Arc::new(BySubject::new()));
    let issuer = Issuer::auth0("acme.eu.auth0.com", AUDIENCE).with_jwks_url(idp.jwks_url());
    let rules = Rules::new()
        .get("/orgs/{org}/bills/{id}", scopes(all_of(["jobs:read"])).with_tenant_param("org"))
        .get("/secret/{org}", policy_only().with_tenant_param("org").concealed())
        .get("/open/{org}", optional().with_tenant_param("org"))
        .get("/orgs/{org}", policy_only());
    let stack = Stack::builder(issuer, rules, Arc::clone(&policy), memory.clone()).build().unwrap();
    assert!(stack.report().to_string().contains("(tenant must be {org})"), "{}", stack.report());
    let answer = || get(async || "in");
    // The templates of nested routers are whole, and so are their parameters.
    let orgs = Router::new().route("/", answer()).route("/bills/{id}", answer());
    let router =
        Router::new().nest("/orgs/{org}", orgs).route("/secret/{org}", answer()).route("/open/{org}", answer());
    let service = protect(router, stack.clone());
    let (acme, none) = (Some("org_acme"), None::<&str>);
    let cases = [
        ("its own", "/orgs/org_acme/bills/7", acme, 200, None),
        ("its own, with letters encoded", "/orgs/%6Frg%5Facme/bills/7", acme, 200, None),
        ("another", "/orgs/org_evil/bills/7", acme, 403, Some("org_evil")),
        ("its own as the id", "/orgs/org_evil/bills/org_acme", acme, 403, Some("org_evil")),
        ("its own in the query", "/orgs/org_evil/bills/7?org=org_acme", acme, 403, Some("org_evil")),
        ("another case", "/orgs/ORG_ACME/bills/7", acme, 403, Some("ORG_ACME")),
        ("longer", "/orgs/org_acme%20/bills/7", acme, 403, Some("org_acme ")),
        ("encoded twice", "/orgs/%256Frg_acme/bills/7", acme, 403, Some("%6Frg_acme")),
        ("a look-alike", "/orgs/org_acm%D0%B5/bills/7", acme, 403, Some("org_acm\u{435}")),
        ("no tenant", "/orgs/org_acme/bills/7", none, 403, Some("org_acme")),
        ("another, hidden", "/secret/org_evil", acme, 404, Some("org_evil")),
        ("its own, hidden", "/secret/org_acme", acme, 200, None),
        ("another, optional", "/open/org_evil", acme, 403, Some("org_evil")),
        ("where no rule demands it", "/orgs/org_evil", acme, 200, None),
    ];
    let (mut asked, mut refused) = (0, Vec::new());
    for (name, path, tenant, status, named) in cases {
        let token = alice(&idp).claim("iss", "https://acme.eu.auth0.com/");
        let token = tenant.map_or_else(|| token.clone(), |tenant| token.clone().claim("org_id", tenant)).mint();
        let response = send(service.clone(), get_with(path, &token.bearer())).await;
        assert_eq!(response.status(), status, "{name}");
        asked += usize::from(status == 200);
        refused.extend(named.map(|named| (name, tenant, named)));
    }
    assert_eq!(send(service, support::get("/open/org_acme")).await.status(), 401, "nobody has no tenant");
    assert_eq!(policy.calls(), asked);
    let records = records(&stack, &memory).await;
    let mut mismatches = records.iter().filter(|record| record["reason"] == "tenant_mismatch");
    for (name, tenant, named) in refused {
        let record = mismatches.next().unwrap();
        assert_eq!((&record["stage"], &record["decision"]), (&json!("scope"), &json!("deny")), "{name}");
        // Both sides, for whoever asks later.
        assert_eq!((&record["tenant"], &record["route"]["tenant"]), (&json!(tenant), &json!(named)), "{name}");
    }
    assert!(mismatches.next().is_none());
}

fn payload(compact: &str) -> Value {
    let segment = compact.split('.').nth(1).unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, segment).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}
