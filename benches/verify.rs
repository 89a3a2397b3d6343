//! What one token costs: `Verifier::verify_now` with the keys at hand, for tokens that are accepted and for tokens that are not.
//!
//! `cargo bench --bench verify`; with `--no-default-features --features rust-crypto` the same for the other crypto backend. The accepted
//! tokens are dominated by the signature, so compare algorithms with each other. What is refused before the signature (`unknown issuer`)
//! shows what a flood of junk costs; `bad signature` and `expired` cost a signature each, because an attacker must not learn which claim
//! is wrong from a token that nobody signed.
//!
//! First comes a table of what each kind of refused token costs, in bare verifications (`Jwk::verify` of a good signature by the same
//! algorithm): measured in turns, so that the numbers of one run belong together. An attacker can ask for four of them, by leaving out
//! `kid`. The claims of the last rows are the worst that the caps let into a token of 16 KiB: what is read of them comes on top.
#![allow(clippy::expect_used, clippy::indexing_slicing, missing_docs, reason = "a bench that cannot be set up stops")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::{
    Issuer,
    key::Algorithm,
    testing::{TestIssuer, TestToken},
    time::{Clock as _, SystemClock},
    token::{TokenError, Verifier},
};

/// Prints the table of the module's documentation.
fn costs(_: &mut Criterion) {
    let (runtime, idp, verifier) = verifier();
    let other = runtime.block_on(TestIssuer::start());
    println!("cost in bare verifications: {}", ALGORITHMS.map(|algorithm| format!("{:>9}", algorithm.name())).concat());
    let columns = ALGORITHMS.map(|algorithm| {
        let token = || idp.token().algorithm(algorithm);
        // As many of these as the token's size and the cap on values allow.
        let filled = |value: &str, values: usize| {
            let start = format!(r#"{{"iss":"{}","x":[0"#, idp.url());
            let times = values.min((11_800 - start.len()) / (value.len() + 1));
            token().kid("unknown").raw_claims(&format!("{start}{}]}}", format!(",{value}").repeat(times))).mint()
        };
        let good = token().mint();
        let rows: [(&str, TestToken, TokenError); 13] = [
            ("too long", token().claim("x", "x".repeat(20_000)).mint(), TokenError::TooLong { limit: 0 }),
            ("malformed", token().raw_header("{").mint(), TokenError::Malformed("")),
            ("unknown issuer", other.token().algorithm(algorithm).mint(), TokenError::UnknownIssuer),
            ("wrong algorithm", token().header("alg", "none").mint(), TokenError::Algorithm),
            ("unknown kid", token().kid("unknown").mint(), TokenError::UnknownKey),
            ("bad signature", token().tampered().mint(), TokenError::Signature),
            ("four keys", token().without_kid().tampered().mint(), TokenError::Signature),
            ("expired", token().expired().mint(), TokenError::Expired),
            ("odd claims: numbers", filled("0", 1000), TokenError::UnknownKey),
            ("odd claims: texts", filled(r#""a""#, 1000), TokenError::UnknownKey),
            ("odd claims: escapes", filled(r#""\u00e9""#, 1000), TokenError::UnknownKey),
            ("odd claims: objects", filled(r#"{"a":0}"#, 1000 / 3), TokenError::UnknownKey),
            (
                "odd claims: one text",
                token().kid("unknown").claim("x", "x".repeat(11_500)).mint(),
                TokenError::UnknownKey,
            ),
        ];
        let (keys, kid) = (idp.key_set(), idp.key_id(algorithm));
        let key = keys.candidates(Some(&kid), algorithm).next().expect("the key is published");
        let (input, signature) = good.as_str().rsplit_once('.').expect("three segments");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let mut bare = Duration::MAX;
        let mut least = [Duration::MAX; 13];
        let tokens = rows.each_ref().map(|(_, token, _)| token.access_token());
        let now = SystemClock.now();
        for _ in 0..200 {
            bare = bare.min(time(|| assert!(key.verify(algorithm, black_box(input.as_bytes()), &signature))));
            for ((name, _, expected), (token, least)) in rows.iter().zip(tokens.iter().zip(&mut least)) {
                *least = (*least).min(time(|| {
                    let refusal = verifier.verify_now(black_box(token), now).and_then(Result::err);
                    assert_eq!(refusal.as_ref().map(TokenError::code), Some(expected.code()), "{name}");
                }));
            }
        }
        (rows.map(|(name, ..)| name), least.map(|least| least.as_secs_f64() / bare.as_secs_f64()), bare)
    });
    println!(
        "{:<27}  {}",
        "(one of them, in µs)",
        columns.each_ref().map(|(.., bare)| format!("{:>8.1} ", bare.as_secs_f64() * 1e6)).concat()
    );
    for row in 0..13 {
        let costs = columns.each_ref().map(|(_, costs, _)| format!("{:>9.2}", costs[row]));
        println!("{:<27} {}", columns[0].0[row], costs.concat());
    }
}

/// The least of some, because whatever else the machine does only adds to it.
fn time(work: impl Fn()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn accepted(criterion: &mut Criterion) {
    let (_runtime, idp, verifier) = verifier();
    let mut group = criterion.benchmark_group("verify/accepted");
    for algorithm in ALGORITHMS {
        let token = idp.token().algorithm(algorithm).mint().access_token();
        let now = SystemClock.now();
        assert!(matches!(verifier.verify_now(&token, now), Some(Ok(_))), "{algorithm}");
        group.bench_function(algorithm.name(), |bencher| bencher.iter(|| verifier.verify_now(black_box(&token), now)));
    }
    group.finish();
}

fn refused(criterion: &mut Criterion) {
    let (runtime, idp, verifier) = verifier();
    let other = runtime.block_on(TestIssuer::start());
    let token = || idp.token().algorithm(Algorithm::Es256);
    let table: [(&str, TestToken, TokenError); 3] = [
        ("expired", token().expired().mint(), TokenError::Expired),
        ("bad signature", token().tampered().mint(), TokenError::Signature),
        ("unknown issuer", other.token().algorithm(Algorithm::Es256).mint(), TokenError::UnknownIssuer),
    ];
    let mut group = criterion.benchmark_group("verify/refused");
    for (name, token, expected) in table {
        let (token, now) = (token.access_token(), SystemClock.now());
        assert_eq!(verifier.verify_now(&token, now).and_then(Result::err), Some(expected), "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| verifier.verify_now(black_box(&token), now)));
    }
    group.finish();
}

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::Ed25519];

/// A verifier that has its issuer's keys, so that it never waits.
fn verifier() -> (tokio::runtime::Runtime, TestIssuer, Verifier) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let idp = runtime.block_on(TestIssuer::start());
    // Four keys for each algorithm.
    for _ in 0..3 {
        idp.rotate();
    }
    let issuer = Issuer::rfc9068(idp.url(), TestIssuer::AUDIENCE).with_keys(idp.key_set());
    let issuer = issuer.with_algorithms(ALGORITHMS);
    let verifier = {
        let _inside = runtime.enter();
        Verifier::builder(issuer).build().expect("a verifier")
    };
    (runtime, idp, verifier)
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = costs, accepted, refused
}
criterion_main!(benches);
