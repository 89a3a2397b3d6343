//! What one token costs: `Verifier::verify_now` with the keys at hand, for tokens that are accepted and for tokens that are not.
//!
//! `cargo bench --bench verify`; with `--no-default-features --features rust-crypto` the same for the other crypto backend. The accepted
//! tokens are dominated by the signature, so compare algorithms with each other. What is refused before the signature (`unknown issuer`)
//! shows what a flood of junk costs; `bad signature` and `expired` cost a signature each, because an attacker must not learn which claim
//! is wrong from a token that nobody signed.
#![allow(clippy::expect_used, missing_docs, reason = "a bench that cannot be set up stops")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::{
    Issuer,
    key::Algorithm,
    testing::{TestIssuer, TestToken},
    time::{Clock as _, SystemClock},
    token::{TokenError, Verifier},
};

fn accepted(criterion: &mut Criterion) {
    let (_runtime, idp, verifier) = verifier();
    let mut group = criterion.benchmark_group("verify/accepted");
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Ed25519] {
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

/// A verifier that has its issuer's keys, so that it never waits.
fn verifier() -> (tokio::runtime::Runtime, TestIssuer, Verifier) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let idp = runtime.block_on(TestIssuer::start());
    let issuer = Issuer::rfc9068(idp.url(), TestIssuer::AUDIENCE).with_keys(idp.key_set());
    let issuer = issuer.with_algorithms([Algorithm::Rs256, Algorithm::Es256, Algorithm::Ed25519]);
    let verifier = {
        let _inside = runtime.enter();
        Verifier::builder(issuer).build().expect("a verifier")
    };
    (runtime, idp, verifier)
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = accepted, refused
}
criterion_main!(benches);
