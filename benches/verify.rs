//! What one token costs: `Verifier::verify_now` with the keys at hand, for tokens that are accepted and for tokens that are not.
//!
//! `cargo bench --bench verify`; with `--no-default-features --features rust-crypto` the same for the other crypto backend. The accepted
//! tokens are dominated by the signature, so compare algorithms with each other. What is refused before the signature (`unknown issuer`)
//! shows what a flood of junk costs; `bad signature` and `expired` cost a signature each, because an attacker must not learn which claim
//! is wrong from a token that nobody signed.
//!
//! First comes a table of what it costs the layer to refuse a token, in bare verifications of that token (`Jwk::verify` over the same bytes):
//! measured in turns, so that the numbers of one run belong together. Four is the limit: an attacker can ask for four signatures by leaving
//! out `kid`, or for much reading by claims that are the worst that the caps let into a token of 16 KiB. A row over 4.5, the limit with what
//! the machine's noise adds, fails the run.
//! `cargo bench --bench verify -- costs` is the table alone; as it measures time, it is no part of the checks that every change has to
//! pass.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a bench that cannot be set up stops"
)]

use std::{
    convert::Infallible,
    future::{Future as _, Ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response, header::AUTHORIZATION};
use portcullis::{
    Issuer,
    denial::Denial,
    key::Algorithm,
    layer::AuthenticateLayer,
    testing::{TestIssuer, TestToken},
    time::{Clock as _, SystemClock},
    token::{TokenError, Verifier},
};
use tower_layer::Layer as _;
use tower_service::Service;

/// Prints the table of the module's documentation, and fails where a row is over the limit.
fn costs(_: &mut Criterion) {
    let (runtime, idp, verifier) = verifier();
    let other = runtime.block_on(TestIssuer::start());
    let columns = ALGORITHMS.map(|algorithm| {
        let key_id = idp.key_id(algorithm);
        let key = idp.key_set().candidates(Some(&key_id), algorithm).next().expect("the key is published").clone();
        let good = idp.token().algorithm(algorithm).mint();
        let (_, signature) = good.as_str().rsplit_once('.').expect("three segments");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let refused = refused_tokens(&idp, &other, algorithm, &signature);
        for (name, token, code) in &refused {
            let refusal = verifier.verify_now(&token.access_token(), SystemClock.now()).and_then(Result::err);
            assert_eq!(refusal.as_ref().map(TokenError::code), Some(*code), "{name}");
        }
        let mut gate = AuthenticateLayer::new(verifier.clone()).layer(Open);
        let mut least = vec![(Duration::MAX, Duration::MAX); refused.len()];
        for _ in 0..TURNS {
            for ((name, token, _), (bare, whole)) in refused.iter().zip(&mut least) {
                // Of another message, which takes as long to find out as that it fits.
                let (input, _) = token.as_str().rsplit_once('.').expect("three segments");
                *bare = (*bare).min(time(|| {
                    black_box(key.verify(algorithm, black_box(input.as_bytes()), &signature));
                }));
                let request = Request::builder().header(AUTHORIZATION, token.bearer()).body(()).expect("a request");
                let mut answer = Poll::Pending;
                *whole = (*whole).min(time(|| {
                    answer = pin!(gate.call(request)).poll(&mut Context::from_waker(Waker::noop()));
                }));
                assert!(
                    matches!(answer, Poll::Ready(Ok(answer)) if answer.extensions().get::<Denial>().is_some()),
                    "{name}"
                );
            }
        }
        refused.into_iter().zip(least).map(|((name, ..), least)| (name, least)).collect::<Vec<_>>()
    });
    let names = columns[0].iter().map(|(name, _)| *name);
    println!("{:<34}{}", "refused by", ALGORITHMS.map(|algorithm| format!("{:>18}", algorithm.name())).concat());
    let mut over = Vec::new();
    for (row, name) in names.enumerate() {
        let cells = std::iter::zip(&ALGORITHMS, &columns).map(|(algorithm, column)| {
            let (bare, whole) = column[row].1;
            let ratio = whole.as_secs_f64() / bare.as_secs_f64();
            if ratio > MOST {
                over.push(format!("{name}, {algorithm}: {ratio:.2}"));
            }
            format!("{ratio:>8.2} x {:>4.0} µs", bare.as_secs_f64() * 1e6)
        });
        println!("{name:<34}{}", cells.collect::<String>());
    }
    assert!(over.is_empty(), "too many bare verifications: {over:?}");
}

/// Of each kind one, and the code that it is refused with.
fn refused_tokens(
    idp: &TestIssuer,
    other: &TestIssuer,
    algorithm: Algorithm,
    signature: &[u8],
) -> Vec<(&'static str, TestToken, &'static str)> {
    let token = || idp.token().algorithm(algorithm);
    let mut table = vec![
        ("too long", token().claim("x", "x".repeat(20_000)).mint(), "token_too_long"),
        ("malformed", token().raw_header("{").mint(), "token_malformed"),
        ("unknown issuer", other.token().algorithm(algorithm).mint(), "token_issuer"),
        ("wrong algorithm", token().header("alg", "none").mint(), "token_algorithm"),
        ("unknown kid", token().kid("unknown").mint(), "token_unknown_key"),
        ("bad signature", token().tampered().mint(), "token_signature"),
        ("bad signature, four keys", token().without_kid().tampered().mint(), "token_signature"),
        ("expired", token().expired().mint(), "token_expired"),
    ];
    for (one_key, four_keys, claims) in odd_claims(idp.url()) {
        let token = || token().raw_claims(&claims).signature(signature);
        table.push((one_key, token().mint(), "token_signature"));
        table.push((four_keys, token().without_kid().mint(), "token_signature"));
    }
    table
}

/// Claims that take long to read: as much as fits into a token, or as many values as may be in one.
fn odd_claims(issuer: &str) -> [(&'static str, &'static str, String); 9] {
    let filled = |value: &dyn Fn(usize) -> String, room: usize, values: usize| {
        let mut claims = format!(r#"{{"iss":"{issuer}","x":[0"#);
        for value in (0..values).map(value) {
            if claims.len() + value.len() + 3 > room {
                break;
            }
            claims = claims + "," + &value;
        }
        claims + "]}"
    };
    // Of the members of an object each is a value; their order is the worst for whoever sorts them.
    let members = |start: &str| {
        let names = |_: usize| {
            let members = (0..250).map(|name| format!(r#""{start}{:03}":0"#, name * 97 % 250));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        };
        filled(&names, ROOM, 4)
    };
    [
        ("numbers", "numbers, four keys", filled(&|_| "0".to_owned(), ROOM, 1000)),
        ("numbers in 2 KiB", "numbers in 2 KiB, four keys", filled(&|_| "0".to_owned(), 1300, 1000)),
        ("texts", "texts, four keys", filled(&|_| r#""a""#.to_owned(), ROOM, 1000)),
        ("escapes", "escapes, four keys", filled(&|_| r#""\u00e9""#.to_owned(), ROOM, 1000)),
        ("objects", "objects, four keys", filled(&|_| r#"{"a":0}"#.to_owned(), ROOM, 333)),
        ("escaped names", "escaped names, four keys", filled(&|_| r#"{"\u00e9":0}"#.to_owned(), ROOM, 333)),
        ("members", "members, four keys", members("")),
        ("escaped members", "escaped members, four keys", members("\\u00e9")),
        ("one text", "one text, four keys", format!(r#"{{"iss":"{issuer}","x":"{}"}}"#, "x".repeat(ROOM - 100))),
    ]
}

/// What stands behind the layer, and is never reached.
#[derive(Clone)]
struct Open;

impl Service<Request<()>> for Open {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        panic!("a refused token was let in")
    }
}

/// The least of some, because whatever else the machine does only adds to it.
fn time(work: impl FnOnce()) -> Duration {
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

/// Four, and what a machine's noise adds.
const MOST: f64 = 4.5;
const TURNS: usize = 200;
/// For the claims of a token of 16 KiB: three quarters of it, without header and signature.
const ROOM: usize = 11_800;
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
