//! Keys and discovery: an issuer that is away, slow, or lies; tokens that ask for keys which are not there; clocks that jump.
//!
//! The issuer is scripted and the clock stands still until it is told to move, so that every fetch can be counted. Each test prints its
//! counts.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Write as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use portcullis::{
    ConfigError, Issuer, Rules, Stack,
    audit::Memory,
    axum::{Protected, protect},
    health::Health,
    key::{Algorithm, CacheSettings, KeyErrorKind, KeySource as _, LoadRequest, Metrics, Remote},
    outbound::Outbound,
    policy,
    rules::policy_only,
    testing::{FrozenClock, Lie, Requests, TestIssuer, TestToken, TokenBuilder},
    time::Clock as _,
    token::{TokenError, Verifier},
};
use serde_json::json;

use super::eventually;
use crate::support::{AUDIENCE, Host, Log, PATIENCE, alice, get_with, send, within};

/// A guarded service inside the process, with its issuer and its clock.
struct Stage {
    idp: TestIssuer,
    clock: FrozenClock,
    verifier: Verifier,
    guarded: Guarded,
}

struct Guarded {
    stack: Stack,
    service: Protected,
    memory: Memory,
    asked: AtomicUsize,
}

/// How often each status and reason came.
type Tally = BTreeMap<(u16, String), usize>;

impl Stage {
    async fn new() -> Self {
        Self::with(discovered).await
    }

    async fn with(issuer: impl FnOnce(&TestIssuer) -> Issuer) -> Self {
        Self::told(|_| {}, issuer).await
    }

    /// The issuer is told something before anybody asks it.
    async fn told(tell: impl FnOnce(&TestIssuer), issuer: impl FnOnce(&TestIssuer) -> Issuer) -> Self {
        let clock = FrozenClock::default();
        let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
        tell(&idp);
        let verifier = Verifier::builder(issuer(&idp)).with_clock(clock.clone()).build().unwrap();
        let guarded = Guarded::new(&verifier, &clock);
        Self { idp, clock, verifier, guarded }
    }

    /// With the keys of the first fetch.
    async fn ready() -> Self {
        let stage = Self::new().await;
        stage.assert_ok(&stage.token().mint()).await;
        assert_eq!(stage.fetches(), 1);
        stage
    }

    /// Cheaply signed.
    fn token(&self) -> TokenBuilder {
        alice(&self.idp).algorithm(Algorithm::Ed25519)
    }

    /// Of no key, and not even signed.
    fn random(&self) -> TestToken {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let kid = format!("random-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.token().kid(&kid).signature([0; 64]).mint()
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn fetches(&self) -> usize {
        self.idp.requests().jwks
    }

    fn metrics(&self) -> Metrics {
        self.verifier.key_metrics().next().unwrap().1
    }

    async fn ask(&self, token: &TestToken) -> u16 {
        self.guarded.ask(token).await
    }

    async fn assert_ok(&self, token: &TestToken) {
        assert_eq!(self.ask(token).await, 200);
    }

    /// The answer at once, if there is one.
    fn verify_now(&self, token: &TestToken) -> Option<Result<(), TokenError>> {
        self.verifier.verify_now(&token.access_token(), self.clock.now()).map(|verified| verified.map(drop))
    }

    /// Until a load that was begun behind has ended well.
    async fn landed(&self) {
        eventually(|| self.metrics().age == Some(Duration::ZERO), "the load behind").await;
    }
}

async fn verify(verifier: &Verifier, clock: &FrozenClock, token: &TestToken) -> Result<(), TokenError> {
    within("a verdict", verifier.verify(&token.access_token(), clock.now())).await.map(drop)
}

impl Guarded {
    fn new(verifier: &Verifier, clock: &FrozenClock) -> Self {
        let memory = Memory::new();
        let issuer = Issuer::rfc9068("https://unused.example/", AUDIENCE);
        let stack = Stack::builder(issuer, rules(), policy::dangerous_allow_all(), memory.clone())
            .with_verifier(verifier.clone())
            .with_clock(clock.clone())
            .build()
            .unwrap();
        Self::around(stack, memory)
    }

    fn around(stack: Stack, memory: Memory) -> Self {
        let service = protect(router(), stack.clone());
        Self { stack, service, memory, asked: AtomicUsize::new(0) }
    }

    async fn ask(&self, token: &TestToken) -> u16 {
        let response = send(self.service.clone(), get_with("/jobs", &token.bearer())).await;
        let status = response.status().as_u16();
        assert_eq!(response.headers().contains_key("retry-after"), status == 503, "{status}");
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401, "{status}");
        // The trail's writer has its turn before its queue is full.
        if self.asked.fetch_add(1, Ordering::Relaxed) % 500 == 499 {
            self.stack.audit().flush(PATIENCE).await.unwrap();
        }
        status
    }

    /// What was sent and why, from the records: one for each request.
    async fn recorded(&self) -> Tally {
        self.stack.audit().flush(PATIENCE).await.unwrap();
        let mut tally = Tally::new();
        for record in self.memory.records() {
            let record = serde_json::to_value(record).unwrap();
            let status = u16::try_from(record["sent"]["http"].as_u64().unwrap()).unwrap();
            assert_eq!(record["decision"] == "allow", status == 200, "{record}");
            *tally.entry((status, record["reason"].as_str().unwrap_or("-").to_owned())).or_default() += 1;
        }
        assert_eq!(tally.values().sum::<usize>(), self.asked.load(Ordering::Relaxed), "one record each: {tally:?}");
        tally
    }
}

fn rules() -> Rules {
    Rules::new().get("/jobs", policy_only())
}

fn router() -> Router {
    Router::new().route("/jobs", get(async || "jobs"))
}

fn discovered(idp: &TestIssuer) -> Issuer {
    Issuer::rfc9068(idp.url(), AUDIENCE)
}

/// Bears a fetch that hangs for as long as a whole load may take: 6 s.
fn patient(idp: &TestIssuer) -> Issuer {
    let remote = Remote::discover(idp.url()).with_deadline(PATIENCE).build().unwrap();
    discovered(idp).with_key_source(remote)
}

fn tally<const N: usize>(rows: [(u16, &str, usize); N]) -> Tally {
    rows.into_iter().map(|(status, reason, count)| ((status, reason.to_owned()), count)).collect()
}

/// To the real stderr: seen without `--nocapture`.
#[expect(clippy::explicit_write, reason = "the harness captures what `eprintln!` writes")]
fn count(line: &str) {
    writeln!(std::io::stderr(), "keys: {line}").unwrap();
}

const UNKNOWN: &str = "token_unknown_key";
const UNAVAILABLE: &str = "keys_unavailable";

#[tokio::test]
async fn t_042_ten_thousand_random_kids_cause_at_most_one_fetch_per_floor() {
    let stage = Stage::ready().await;
    for floor in 0..4 {
        for _ in 0..2_500 {
            assert_eq!(stage.ask(&stage.random()).await, 401);
        }
        assert_eq!(stage.fetches(), 1 + floor, "none while the keys are fresh, one for each floor after that");
        stage.advance(30);
    }
    let asked = tally([(200, "-", 1), (401, UNKNOWN, 10_000)]);
    assert_eq!(stage.guarded.recorded().await, asked);
    let metrics = stage.metrics();
    assert_eq!((metrics.unknown_kid_answers, metrics.unknown_kid_fetches, metrics.failures), (10_000, 3, 0));
    assert_eq!(stage.idp.requests().discovery, 4);
    count("T-042 10000 tokens with random kids: 10000 times 401, 3 floors, 3 fetches after the first");
}

#[tokio::test]
async fn t_042_a_kid_that_came_too_soon_is_fetched_by_whoever_comes_after_the_floor() {
    let stage = Stage::ready().await;
    stage.idp.rotate_only(Algorithm::Ed25519);
    let (early, known) = (stage.token().mint(), stage.token().algorithm(Algorithm::Es256).mint());
    stage.advance(29);
    assert_eq!(stage.ask(&early).await, 401, "the keys are 29 s old: no fetch, no waiting");
    assert_eq!(stage.verify_now(&known), Some(Ok(())));
    assert_eq!(stage.fetches(), 1);
    stage.advance(1);
    assert_eq!(
        stage.verify_now(&known),
        Some(Ok(())),
        "the first look-up after the floor fetches behind, and does not wait"
    );
    stage.landed().await;
    assert_eq!(stage.verify_now(&early), Some(Ok(())), "nobody waited for this key");
    assert_eq!(stage.fetches(), 2);
    assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 1), (401, UNKNOWN, 1)]));
    count("T-042 1 kid within the floor: 401 at once, 1 fetch behind by the next look-up after it");
}

#[tokio::test]
async fn t_043_while_random_kids_flood_in_a_known_key_never_waits() {
    let stage = Stage::with(patient).await;
    let good = stage.token().mint();
    stage.assert_ok(&good).await;
    let at_once = || assert_eq!(stage.verify_now(&good), Some(Ok(())));
    for _ in 0..5_000 {
        assert_eq!(stage.verify_now(&stage.random()), Some(Err(TokenError::UnknownKey)));
        at_once();
    }
    stage.advance(30);
    stage.idp.stall(true);
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let (verifier, clock, token) = (stage.verifier.clone(), stage.clock.clone(), stage.random());
            tokio::spawn(async move { verify(&verifier, &clock, &token).await })
        })
        .collect();
    eventually(|| stage.idp.requests().discovery == 2, "the fetch of the flood").await;
    for _ in 0..500 {
        at_once();
    }
    assert!(waiting.iter().all(|waiter| !waiter.is_finished()), "the fetch is still under way");
    stage.idp.stall(false);
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), Err(TokenError::UnknownKey));
    }
    assert_eq!(stage.fetches(), 2);
    count("T-043 5500 good tokens among 5100 random kids: 5500 answers at once, 2 fetches");
}

#[tokio::test]
async fn t_044_an_issuer_that_is_down_is_tried_with_backoff_and_nobody_is_told_401() {
    let stage = Stage::told(|idp| idp.fail(StatusCode::INTERNAL_SERVER_ERROR), discovered).await;
    let good = stage.token().expires_in(3_000).mint();
    for _second in 0..500 {
        for _ in 0..10 {
            assert_eq!(stage.ask(&good).await, 503);
            assert_eq!(stage.ask(&stage.random()).await, 503);
        }
        stage.advance(1);
    }
    assert_eq!(stage.guarded.recorded().await, tally([(503, UNAVAILABLE, 10_000)]));
    let Requests { discovery: tries, jwks, .. } = stage.idp.requests();
    // At 0, 1, 3, 7, 15, 31 and 63 s and each minute from then on, each wait up to a quarter shorter.
    assert!((14..=20).contains(&tries), "{tries}");
    assert_eq!(jwks, 0);
    let metrics = stage.metrics();
    assert_eq!((metrics.fetches, metrics.failures), (tries as u64, tries as u64));
    assert_eq!(metrics.consecutive_failures as usize, tries);
    count(&format!(
        "T-044 10000 requests in 500 s without the issuer: 10000 times 503 with Retry-After, {tries} tries"
    ));
}

#[tokio::test]
async fn t_045_once_the_issuer_is_back_the_next_second_brings_its_keys() {
    let stage = Stage::told(|idp| idp.fail(StatusCode::SERVICE_UNAVAILABLE), discovered).await;
    let good = stage.token().mint();
    assert_eq!(stage.ask(&good).await, 503);
    stage.idp.behave();
    assert_eq!(stage.ask(&good).await, 503, "within the backoff nobody asks");
    stage.advance(1);
    assert_eq!(stage.ask(&good).await, 200);
    assert_eq!(stage.idp.requests(), requests(2, 1));
    assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 1), (503, UNAVAILABLE, 2)]));
    count("T-045 first fetch failed: keys 1 s after the issuer is back, 2 tries, 1 key set");
}

fn requests(discovery: usize, jwks: usize) -> Requests {
    let mut requests = Requests::default();
    (requests.discovery, requests.jwks) = (discovery, jwks);
    requests
}

#[tokio::test]
async fn t_046_an_issuer_that_hangs_delays_no_other() {
    let broken = TestIssuer::start().await;
    broken.stall(true);
    let clock = FrozenClock::default();
    let healthy = TestIssuer::builder().with_clock(clock.clone()).start().await;
    let verifier =
        Verifier::builder(patient(&broken)).add_issuer(discovered(&healthy)).with_clock(clock.clone()).build().unwrap();
    let hanging = {
        let (verifier, clock, token) = (verifier.clone(), clock.clone(), alice(&broken).mint());
        tokio::spawn(async move { verify(&verifier, &clock, &token).await })
    };
    eventually(|| broken.requests().discovery == 1, "the fetch that hangs").await;
    for rotation in 1..=3 {
        let token = alice(&healthy).algorithm(Algorithm::Ed25519).mint();
        assert_eq!(verify(&verifier, &clock, &token).await, Ok(()));
        assert_eq!(healthy.requests(), requests(rotation, rotation));
        healthy.rotate_only(Algorithm::Ed25519);
        clock.advance(Duration::from_secs(30));
    }
    assert!(!hanging.is_finished());
    let metrics: Vec<_> = verifier.key_metrics().map(|(_, metrics)| (metrics.fetches, metrics.keys > 0)).collect();
    assert_eq!(metrics, [(1, false), (3, true)], "each issuer has its own counts");
    hanging.abort();
    count("T-046 one issuer hangs: 3 rotations of the other found, 3 fetches there, 1 here");
}

#[tokio::test]
async fn t_047_a_key_that_was_withdrawn_stops_verifying_within_the_soft_lifetime() {
    let stage = Stage::ready().await;
    let stolen = stage.token().expires_in(3_000).mint();
    stage.idp.rotate_dropping();
    let (mut last, mut until_refused) = (0, 0);
    for second in (0..=600).step_by(10) {
        match stage.ask(&stolen).await {
            200 => last = second,
            status => {
                assert_eq!(status, 401, "at {second} s");
                until_refused = if until_refused == 0 { stage.fetches() } else { until_refused };
            }
        }
        // What has been begun behind has the time to end before the clock goes on.
        eventually(
            || stage.metrics().fetches < 2 || stage.metrics().age < Some(Duration::from_secs(400)),
            "the refresh",
        )
        .await;
        stage.advance(10);
    }
    // The refresh ahead begins at 480 s or up to 60 s sooner; whoever starts it still gets the old keys.
    assert!((420..=480).contains(&last), "{last}");
    assert_eq!(until_refused, 2);
    // From then on it is an unknown kid that keeps coming: one fetch for it per floor.
    let fetches = stage.fetches();
    assert!((2..=8).contains(&fetches), "{fetches}");
    let tally = stage.guarded.recorded().await;
    assert!(tally.keys().all(|(status, reason)| *status == 200 || reason == UNKNOWN), "{tally:?}");
    count(&format!("T-047 key withdrawn: refused {} s later, of at most 600; 2 fetches", last + 10));
}

#[tokio::test]
async fn t_047_a_key_that_was_withdrawn_verifies_for_nobody_who_comes_after_the_soft_lifetime() {
    let stage = Stage::ready().await;
    let stolen = stage.token().expires_in(3_000).mint();
    stage.idp.rotate_dropping();
    stage.advance(600);
    assert_eq!(stage.ask(&stolen).await, 401, "nobody asked meanwhile: this one waits for the keys of now");
    assert_eq!(stage.fetches(), 2);
    assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 1), (401, UNKNOWN, 1)]));
    count("T-047 key withdrawn, 10 quiet minutes: refused, 2 fetches");
}

#[tokio::test]
async fn t_047_stale_keys_serve_for_an_hour_with_one_warning_and_then_no_more() {
    let log = Log::default();
    let _kept = log.keep();
    let stage = Stage::ready().await;
    let good = stage.token().expires_in(20_000).mint();
    stage.idp.fail(StatusCode::BAD_GATEWAY);
    let mut served = 0;
    for minute in 0_u64..=75 {
        let status = stage.ask(&good).await;
        assert_eq!(status, if minute < 70 { 200 } else { 503 }, "{minute} min");
        served += usize::from(status == 200);
        match stage.verifier.health() {
            Health::Ready => assert!(minute < 10, "{minute} min"),
            Health::Degraded(_) => assert!((7..70).contains(&minute), "{minute} min"),
            _ => assert!(minute >= 70, "{minute} min"),
        }
        stage.advance(60);
    }
    let metrics = stage.metrics();
    assert_eq!((served, metrics.stale_answers, metrics.is_stale), (70, 60, false));
    let warnings = log.text().matches("stale keys are in use").count();
    assert_eq!(warnings, 1, "one warning when it begins, none per request");
    let Requests { discovery: tries, jwks, .. } = stage.idp.requests();
    assert!(jwks == 1 && tries <= 72, "{tries}");
    assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 71), (503, UNAVAILABLE, 6)]));

    stage.idp.behave();
    stage.advance(60);
    stage.assert_ok(&good).await;
    stage.idp.fail(StatusCode::BAD_GATEWAY);
    stage.advance(600);
    stage.assert_ok(&good).await;
    assert_eq!(log.text().matches("stale keys are in use").count(), 2, "and one for the next time");
    count(&format!("T-047 issuer away for 75 min: 10 min fresh, 60 min stale, then 503; 1 warning, {tries} tries"));
}

#[tokio::test]
async fn t_048_two_issuers_with_the_same_kid_never_share_a_key() {
    let (one, other) = (TestIssuer::start().await, TestIssuer::start().await);
    one.publish_all_as("same");
    other.publish_all_as("same");
    let clock = FrozenClock::default();
    let verifier =
        Verifier::builder(discovered(&one)).add_issuer(discovered(&other)).with_clock(clock.clone()).build().unwrap();
    let guarded = Guarded::new(&verifier, &clock);
    clock.set(portcullis::time::SystemClock.now());
    for algorithm in Algorithm::ALL {
        for (own, foreign) in [(&one, &other), (&other, &one)] {
            let token = || alice(own).algorithm(algorithm).kid("same");
            assert_eq!(guarded.ask(&token().mint()).await, 200, "{algorithm}");
            assert_eq!(guarded.ask(&token().signed_by(foreign).mint()).await, 401, "{algorithm}");
            let forged = token().claim("iss", foreign.url()).mint();
            assert_eq!(guarded.ask(&forged).await, 401, "{algorithm}");
        }
    }
    let each = Algorithm::ALL.len();
    assert_eq!(guarded.recorded().await, tally([(200, "-", 2 * each), (401, "token_signature", 4 * each)]));
    assert_eq!((one.requests(), other.requests()), (requests(1, 1), requests(1, 1)));
    count(&format!("T-048 2 issuers, 1 kid, {} forgeries: 0 verified, 1 fetch each", 4 * each));
}

#[tokio::test]
async fn t_049_nothing_of_an_unverified_token_reaches_an_address() {
    let stage = Stage::ready().await;
    let evil = TestIssuer::builder().with_clock(stage.clock.clone()).start().await;
    let evil_jwk = evil.jwks()["keys"][0].clone();
    // With unlisted issuers: of these tokens nothing more is looked at, and nobody is asked anything.
    let own = stage.idp.url();
    let unlisted = [
        evil.url().to_owned(),
        format!("{own}/"),
        format!("{own}/../evil"),
        format!("{own}@{}", evil.url().trim_start_matches("http://")),
        own.to_uppercase(),
        String::new(),
    ];
    stage.advance(30);
    for issuer in &unlisted {
        let token = evil.token().claim("iss", issuer.as_str()).header("jku", evil.jwks_url()).mint();
        assert_eq!(stage.ask(&token).await, 401, "{issuer}");
    }
    assert_eq!(stage.idp.requests(), requests(1, 1), "no I/O for an issuer that is not listed");
    // With the listed one: whatever the header says, the only addresses asked are the two that were configured.
    let headers = [
        ("kid", json!(evil.jwks_url())),
        ("kid", json!("../../../moved/jwks?kid=1#")),
        ("kid", json!("a&b=c?d=e%2f..%2f")),
        ("kid", json!("\r\nhost: evil.example")),
        ("jku", json!(evil.jwks_url())),
        ("x5u", json!(evil.jwks_url())),
        ("jwk", evil_jwk),
    ];
    for (name, value) in &headers {
        stage.advance(60);
        let token = stage.token().header(name, value.clone()).signed_by(&evil).mint();
        assert_eq!(stage.ask(&token).await, 401, "{name}: {value}");
    }
    assert_eq!(evil.requests(), Requests::default(), "nobody was asked for its sake");
    let asked = stage.idp.requests();
    assert_eq!((asked.other, asked.redirected), (0, 0));
    assert!(asked.jwks <= 1 + headers.len(), "{asked:?}");
    let tally = stage.guarded.recorded().await;
    assert_eq!(tally[&(401, "token_issuer".to_owned())], unlisted.len());
    count(&format!(
        "T-049 {} unlisted issuers: 0 fetches; {} headers that name an address: 0 requests to it, {} fetches of ours",
        unlisted.len(),
        headers.len(),
        asked.jwks - 1
    ));
}

fn key_set_at(remote: portcullis::key::RemoteBuilder) -> impl FnOnce(&TestIssuer) -> Issuer {
    move |idp| discovered(idp).with_key_source(remote.build().unwrap())
}

#[tokio::test]
async fn t_050_redirects_are_refused_wherever_they_lead() {
    let elsewhere = TestIssuer::start().await;
    let (metadata, keys) = (elsewhere.discovery_url(), elsewhere.jwks_url());
    let by_url = |idp: &TestIssuer| discovered(idp).with_jwks_url(idp.jwks_url());
    let same_host = |idp: &TestIssuer| idp.lie(Lie::Redirect);
    let stages = [
        ("discovery, same host", Stage::told(same_host, discovered).await),
        ("keys, same host", Stage::told(same_host, by_url).await),
        ("discovery, another host", Stage::told(|idp| idp.redirect_to(&metadata), discovered).await),
        ("keys, another host", Stage::told(|idp| idp.redirect_to(&keys), by_url).await),
    ];
    for (name, stage) in &stages {
        assert_eq!(stage.ask(&stage.token().mint()).await, 503, "{name}");
        assert_eq!(stage.idp.requests().redirected, 0, "{name}: followed");
        let asked = stage.idp.requests();
        assert_eq!(asked.discovery + asked.jwks, 1, "{name}");
        assert_eq!(stage.guarded.recorded().await, tally([(503, UNAVAILABLE, 1)]), "{name}");
    }
    assert_eq!(elsewhere.requests(), Requests::default());

    // From https to http, at an application's own client: it hands over what it was answered, and that is no key set.
    let asked = Arc::new(AtomicUsize::new(0));
    let (counter, target) = (Arc::clone(&asked), keys.clone());
    let outbound = Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
        counter.fetch_add(1, Ordering::SeqCst);
        assert_eq!(request.uri(), "https://login.example/jwks.json");
        let response = Response::builder().status(302).header("location", &target).body(Bytes::new()).unwrap();
        async { Ok(response) }
    }));
    let remote = Remote::url("https://login.example/jwks.json").with_outbound(outbound);
    let stage = Stage::with(key_set_at(remote)).await;
    assert_eq!(stage.ask(&stage.token().mint()).await, 503);
    assert_eq!((asked.load(Ordering::SeqCst), elsewhere.requests()), (1, Requests::default()));
    count("T-050 5 redirects (discovery and keys; same host, other host, https to http): 0 followed, 5 fetches");
}

#[tokio::test]
async fn t_051_metadata_of_another_issuer_or_with_plain_http_keys_brings_no_keys() {
    for lie in [Lie::WrongIssuer, Lie::PlainHttpKeys] {
        let stage = Stage::told(|idp| idp.lie(lie), discovered).await;
        let good = stage.token().mint();
        assert_eq!(stage.ask(&good).await, 503, "{lie:?}");
        assert_eq!(stage.idp.requests(), requests(1, 0), "{lie:?}: no key set was fetched");
        stage.idp.behave();
        stage.advance(1);
        assert_eq!(stage.ask(&good).await, 200, "{lie:?}");
        assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 1), (503, UNAVAILABLE, 1)]), "{lie:?}");
    }
    count("T-051 2 lying documents: 503, 0 key sets fetched; 1 fetch each once they are true");
}

/// What listens on this machine alone is nothing that the metadata of an issuer may have us ask, not even for good keys.
#[tokio::test]
async fn t_051_metadata_that_came_over_tls_leads_nowhere_without_it() {
    const ISSUER: &str = "https://login.example";
    let clock = FrozenClock::default();
    let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
    let here = idp.jwks_url();
    let port = here.trim_start_matches("http://127.0.0.1");
    let addresses = [
        here.clone(),
        format!("http://localhost{port}"),
        format!("http://2130706433{port}"),
        format!("http://127.1{port}"),
        format!("http://[::ffff:127.0.0.1]{port}"),
        "https://login.example/keys".to_owned(),
    ];
    for address in &addresses {
        let is_https = address.starts_with("https:");
        let asked = Arc::new(AtomicUsize::new(0));
        let documents = (json!({"issuer": ISSUER, "jwks_uri": address}).to_string(), idp.jwks().to_string());
        let counter = Arc::clone(&asked);
        // All of them, of which this one asks nobody: what it hands over are the keys that the address would lead to.
        let outbound = Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
            counter.fetch_add(1, Ordering::SeqCst);
            let is_metadata = request.uri().path().ends_with("/openid-configuration");
            let document = if is_metadata { &documents.0 } else { &documents.1 };
            std::future::ready(Ok(Response::new(Bytes::from(document.clone()))))
        }));
        let remote = Remote::discover(ISSUER).with_outbound(outbound).build().unwrap();
        let issuer = Issuer::rfc9068(ISSUER, AUDIENCE).with_key_source(remote);
        let verifier = Verifier::builder(issuer).with_clock(clock.clone()).build().unwrap();
        let guarded = Guarded::new(&verifier, &clock);
        let status = guarded.ask(&alice(&idp).claim("iss", ISSUER).mint()).await;
        assert_eq!((status, asked.load(Ordering::SeqCst)), if is_https { (200, 2) } else { (503, 1) }, "{address}");
        let expected = if is_https { (200, "-", 1) } else { (503, UNAVAILABLE, 1) };
        assert_eq!(guarded.recorded().await, tally([expected]), "{address}");
    }
    count(&format!("T-051 {} names of this machine in https metadata: 503, 0 of them asked", addresses.len() - 1));
}

#[tokio::test]
async fn t_052_documents_without_end_are_cut_off_at_the_cap_and_the_deadline() {
    let (mut streamed, begun) = (0, Instant::now());
    let lies = [Lie::HugeDocument, Lie::HundredMegabytes, Lie::EndlessDocument, Lie::OneBytePerSecond, Lie::GzipBomb];
    for lie in lies {
        for discovers in [true, false] {
            let clock = FrozenClock::default();
            let idp = TestIssuer::builder().with_clock(clock.clone()).start().await;
            idp.lie(lie);
            let remote = if discovers { Remote::discover(idp.url()) } else { Remote::url(&idp.jwks_url()) };
            let source = remote.with_deadline(Duration::from_millis(400)).build().unwrap();
            let issuer = discovered(&idp).with_key_source(source);
            let verifier = Verifier::builder(issuer).with_clock(clock.clone()).build().unwrap();
            let guarded = Guarded::new(&verifier, &clock);
            assert_eq!(guarded.ask(&alice(&idp).mint()).await, 503, "{lie:?}");
            assert_eq!(guarded.recorded().await, tally([(503, UNAVAILABLE, 1)]), "{lie:?}");
            let asked = idp.requests();
            assert_eq!(asked.discovery + asked.jwks, 1, "{lie:?}");
            // What both ends of a connection on loopback hold on their own account. The cap itself is measured below.
            assert!(asked.streamed < 32 * 1024 * 1024, "{lie:?}: {asked:?}");
            streamed += asked.streamed;
        }
    }
    assert!(begun.elapsed() < PATIENCE);
    count(&format!(
        "T-052 {} documents without end: 10 fetches, {} KiB taken of all of them",
        2 * lies.len(),
        streamed / 1024
    ));
}

/// So many bytes, and then neither more of them nor an end.
struct ThenSilence(Option<Bytes>);

impl http_body::Body for ThenSilence {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))))
    }
}

/// How much is taken, to the byte: who took more than the cap would wait for it here, and say that the time was over.
#[tokio::test]
async fn t_052_the_first_byte_over_the_cap_ends_the_fetch() {
    const CAP: usize = 256 * 1024;
    let idp = TestIssuer::start().await;
    let load = |source: Remote| async { Arc::new(source).load(LoadRequest::default()).await.map(|_| ()) };
    for (size, expected) in [(CAP, KeyErrorKind::Timeout), (CAP + 1, KeyErrorKind::InvalidDocument)] {
        let answer = async move || axum::body::Body::new(ThenSilence(Some(vec![b' '; size].into())));
        let host = Host::router(Router::new().fallback(get(answer))).await;
        let base = format!("http://{}", host.address);
        for remote in [Remote::discover(&base), Remote::url(&format!("{base}/keys")), Remote::bundle(&base)] {
            // Long where it must not pass, and short where nothing else can come.
            let deadline = if size > CAP { PATIENCE } else { Duration::from_millis(400) };
            let error = load(remote.with_deadline(deadline).build().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), expected, "{size} bytes");
        }
    }
    // The same around a client that the application brought.
    for (size, is_good) in [(CAP, true), (CAP + 1, false)] {
        let mut document = idp.jwks().to_string().into_bytes();
        document.resize(size, b' ');
        let document = Bytes::from(document);
        let outbound = Outbound::new(tower::service_fn(move |_: Request<Bytes>| {
            std::future::ready(Ok(Response::new(document.clone())))
        }));
        let remote = Remote::url("https://login.example/keys").with_outbound(outbound).build().unwrap();
        let refused = load(remote).await.err().map(|error| error.kind());
        assert_eq!(refused, (!is_good).then_some(KeyErrorKind::InvalidDocument), "{size} bytes");
    }
    count(&format!("T-052 {CAP} bytes are waited for until the deadline, one more ends the fetch at once"));
}

#[tokio::test]
async fn t_053_odd_keys_are_left_out_one_by_one() {
    let stage = Stage::told(
        |idp| {
            idp.publish_odd_keys();
            idp.publish_all_as("same");
        },
        discovered,
    )
    .await;
    for algorithm in Algorithm::ALL {
        assert_eq!(stage.ask(&alice(&stage.idp).algorithm(algorithm).kid("same").mint()).await, 200, "{algorithm}");
    }
    let jwks = stage.idp.jwks();
    let odd: Vec<_> = jwks["keys"].as_array().unwrap().iter().filter(|key| key["kid"] != "same").collect();
    for key in &odd {
        let kid = key["kid"].as_str().unwrap_or("without-kid");
        for alg in [json!("RS256"), json!("ES256"), json!("Ed25519"), json!("HS256"), key["alg"].clone()] {
            let token = stage.token().kid(kid).header("alg", alg).mint();
            assert_eq!(stage.ask(&token).await, 401, "{kid}");
        }
    }
    assert_eq!(stage.metrics().keys, Algorithm::ALL.len(), "one kid for all of them, as RFC 7517 §4.5 allows");
    assert_eq!(stage.idp.requests(), requests(1, 1));
    let tally = stage.guarded.recorded().await;
    assert_eq!(tally[&(200, "-".to_owned())], Algorithm::ALL.len());
    assert_eq!(tally.keys().filter(|(status, _)| !matches!(status, 200 | 401)).count(), 0, "{tally:?}");
    count(&format!(
        "T-053 {} odd keys among {} good ones of 1 kid: only the good verify, 1 fetch",
        odd.len(),
        Algorithm::ALL.len()
    ));
}

#[tokio::test]
async fn t_054_an_error_page_never_replaces_a_working_set() {
    let lies = [Lie::HtmlPage, Lie::EmptyKeySet, Lie::UnusableKeys, Lie::HugeDocument];
    let mut fetches = 0;
    for lie in lies {
        let stage = Stage::with(|idp| discovered(idp).with_jwks_url(idp.jwks_url())).await;
        let good = stage.token().expires_in(3_000).mint();
        stage.assert_ok(&good).await;
        stage.idp.lie(lie);
        stage.advance(480);
        stage.assert_ok(&good).await;
        eventually(|| stage.metrics().failures == 1, "the refresh that fails").await;
        stage.assert_ok(&good).await;
        assert_eq!(stage.ask(&stage.random()).await, 503, "{lie:?}: the issuer may have rotated, and cannot be asked");
        stage.advance(100);
        stage.assert_ok(&good).await;
        stage.idp.behave();
        let Metrics { keys, consecutive_failures, .. } = stage.metrics();
        assert!(keys == Algorithm::ALL.len() && consecutive_failures >= 1, "{lie:?}");
        assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 4), (503, UNAVAILABLE, 1)]), "{lie:?}");
        fetches += stage.fetches();
    }
    count(&format!(
        "T-054 {} documents without keys after a good one: the good one serves on, {fetches} fetches",
        lies.len()
    ));
}

#[tokio::test]
async fn t_055_the_request_that_started_a_fetch_may_go_away() {
    let stage = Stage::with(patient).await;
    stage.assert_ok(&stage.token().mint()).await;
    stage.idp.rotate_only(Algorithm::Ed25519);
    let token = stage.token().mint();
    stage.advance(30);
    stage.idp.stall(true);
    let ask = || {
        let (service, bearer) = (stage.guarded.service.clone(), token.bearer());
        tokio::spawn(async move { send(service, get_with("/jobs", &bearer)).await.status().as_u16() })
    };
    let first = ask();
    eventually(|| stage.idp.requests().discovery == 2, "the fetch").await;
    let others: Vec<_> = (0..50).map(|_| ask()).collect();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    stage.idp.stall(false);
    for other in others {
        assert_eq!(other.await.unwrap(), 200);
    }
    assert_eq!(stage.fetches(), 2);
    stage.guarded.asked.fetch_add(51, Ordering::Relaxed);
    stage.guarded.stack.audit().flush(PATIENCE).await.unwrap();
    let records: Vec<_> =
        stage.guarded.memory.records().into_iter().map(|record| serde_json::to_value(record).unwrap()).collect();
    assert_eq!(records.len(), 52, "the one that went away is recorded too");
    assert_eq!(records.iter().filter(|record| record["decision"] == "allow").count(), 51);
    count("T-055 1 request gone that began the fetch: 50 others answered 200, 1 fetch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t_056_after_a_rotation_all_threads_agree() {
    let stage = Arc::new(Stage::ready().await);
    let mut verdicts = 0;
    for _rotation in 0..10 {
        stage.idp.rotate_only(Algorithm::Ed25519);
        stage.advance(30);
        let token = stage.token().mint().access_token();
        let has_verified = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..16)
            .map(|_| {
                let (stage, token, has_verified) = (Arc::clone(&stage), token.clone(), Arc::clone(&has_verified));
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let someone_did = has_verified.load(Ordering::SeqCst);
                        let verdict = stage.verifier.verify(&token, stage.clock.now()).await.map(drop);
                        assert_eq!(verdict, Ok(()), "after somebody verified with this key: {someone_did}");
                        has_verified.store(true, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for worker in workers {
            within("a worker", worker).await.unwrap();
            verdicts += 20;
        }
    }
    assert_eq!(stage.fetches(), 11);
    count(&format!("T-056 10 rotations, 16 tasks on 4 threads, {verdicts} verdicts: 0 disagree, 10 fetches"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t_057_a_hundred_rotations_under_load_refuse_nobody() {
    let stage = Arc::new(Stage::ready().await);
    let (publish, current) = tokio::sync::watch::channel((0, stage.token().mint().access_token()));
    let (verified, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (stage, current, latest) = (Arc::clone(&stage), current.clone(), Arc::new(AtomicUsize::new(0)));
            let (verified, stop, reached) = (Arc::clone(&verified), Arc::clone(&stop), Arc::clone(&latest));
            let worker = tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let (generation, token) = current.borrow().clone();
                    let verdict = stage.verifier.verify(&token, stage.clock.now()).await.map(drop);
                    assert_eq!(verdict, Ok(()), "a false 401");
                    verified.fetch_add(1, Ordering::SeqCst);
                    reached.store(generation, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            });
            (worker, latest)
        })
        .collect();
    for generation in 1..=100 {
        stage.idp.rotate_only(Algorithm::Ed25519);
        stage.advance(30);
        let token = stage.token().mint();
        publish.send_replace((generation, token.access_token()));
        stage.assert_ok(&token).await;
        // The key before this one stays published, and none older: nobody may be more than one behind.
        let caught_up = || {
            let each = |(worker, latest): &(tokio::task::JoinHandle<()>, Arc<AtomicUsize>)| {
                latest.load(Ordering::SeqCst) == generation || worker.is_finished()
            };
            workers.iter().all(each)
        };
        eventually(caught_up, "the load goes on").await;
    }
    stop.store(true, Ordering::SeqCst);
    for (worker, _) in workers {
        within("a worker", worker).await.unwrap();
    }
    assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 101)]));
    assert_eq!(stage.fetches(), 101);
    let Metrics { unknown_kid_answers, unknown_kid_fetches, .. } = stage.metrics();
    assert_eq!((unknown_kid_answers, unknown_kid_fetches), (0, 100));
    let verified = verified.load(Ordering::SeqCst);
    count(&format!("T-057 100 rotations under load, {verified} tokens: 0 false 401, 100 fetches after the first"));
}

#[tokio::test]
async fn t_058_a_wall_clock_that_jumps_neither_freezes_nor_storms_the_refresh() {
    let stage = Stage::ready().await;
    let day = Duration::from_secs(86_400);
    let start = stage.clock.now();
    let mut fetches = 1;
    for (name, wall) in
        [("a day ahead", start.saturating_add(day)), ("a day back", start.saturating_sub(day)), ("right again", start)]
    {
        stage.clock.set(wall);
        for _ in 0..1_000 {
            stage.assert_ok(&stage.token().mint()).await;
            assert_eq!(stage.ask(&stage.random()).await, 401);
        }
        assert_eq!(stage.fetches(), fetches, "{name}: no storm");
        // Steady time goes on all the same: for the floor, and for the refresh ahead.
        stage.advance(30);
        assert_eq!(stage.ask(&stage.random()).await, 401);
        fetches += 1;
        assert_eq!(stage.fetches(), fetches, "{name}: not frozen");
        stage.advance(480);
        stage.assert_ok(&stage.token().mint()).await;
        stage.landed().await;
        fetches += 1;
        assert_eq!(stage.fetches(), fetches, "{name}: refreshed ahead");
    }
    assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 3_004), (401, UNKNOWN, 3_003)]));
    count("T-058 wall clock set by a day 3 times, 6006 requests: 2 fetches per jump, which steady time called for");
}

/// A stack of its own, which asks this issuer by the system's clock.
fn stack_of(issuer: Issuer, memory: &Memory) -> portcullis::layer::StackBuilder {
    Stack::builder(issuer, rules(), policy::dangerous_allow_all(), memory.clone())
}

#[tokio::test]
async fn a_service_that_must_have_keys_does_not_start_without_them() {
    let idp = TestIssuer::start().await;
    let soon = Duration::from_millis(200);
    let refused = async |lie: Option<Lie>, stalled: bool| {
        idp.behave();
        idp.stall(stalled);
        if let Some(lie) = lie {
            idp.lie(lie);
        }
        let by_stack = stack_of(discovered(&idp), &Memory::new()).build_ready(soon).await.map(drop).unwrap_err();
        let by_verifier = Verifier::builder(discovered(&idp)).build_with_keys(soon).await.map(drop).unwrap_err();
        assert_eq!(by_stack.to_string(), by_verifier.to_string());
        by_stack
    };
    for (lie, stalled, kind) in [
        (None, true, "timeout"),
        (Some(Lie::HtmlPage), false, "invalid document"),
        (Some(Lie::Redirect), false, "unavailable"),
    ] {
        let error = refused(lie, stalled).await;
        assert!(matches!(error, ConfigError::Unusable { .. }), "{error:?}");
        let text = error.to_string();
        for part in ["issuer.keys", idp.url(), &format!("({kind})"), "200ms", "`build`"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    // Failures within the deadline are tried again.
    idp.behave();
    idp.fail(StatusCode::BAD_GATEWAY);
    let memory = Memory::new();
    let starting = stack_of(discovered(&idp), &memory).build_ready(PATIENCE);
    let before = idp.requests().discovery;
    let (stack, ()) = tokio::join!(starting, async {
        eventually(|| idp.requests().discovery > before, "the first try").await;
        idp.behave();
    });
    let guarded = Guarded::around(stack.unwrap(), memory);
    let first = guarded.service.clone();
    assert_eq!(send(first, get_with("/jobs", &alice(&idp).mint().bearer())).await.status(), 200);
    count("build_with_keys: 3 failures named, 1 start after a try that failed");
}

#[tokio::test]
async fn a_service_may_start_without_its_issuer_and_answers_503_until_it_is_there() {
    let stage = Stage::told(|idp| idp.fail(StatusCode::NOT_FOUND), discovered).await;
    let good = stage.token().mint();
    let response = send(stage.guarded.service.clone(), get_with("/jobs", &good.bearer())).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].as_bytes()), (503, b"5".as_slice()));
    stage.guarded.asked.fetch_add(1, Ordering::Relaxed);
    assert!(!stage.guarded.stack.health().keys.is_serving());
    stage.idp.behave();
    stage.advance(1);
    stage.assert_ok(&good).await;
    assert_eq!(stage.guarded.recorded().await, tally([(200, "-", 1), (503, UNAVAILABLE, 1)]));
    assert_eq!(stage.idp.requests(), requests(2, 1));
    count("start without the issuer: 503 with Retry-After, then 200; 2 tries");
}

#[tokio::test]
async fn a_restart_while_the_issuer_is_away_verifies_from_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let seeded = |idp: &TestIssuer| discovered(idp).with_key_cache(CacheSettings::default().with_seed(&path));
    let before = Stage::with(seeded).await;
    before.assert_ok(&before.token().mint()).await;
    eventually(|| path.exists(), "the seed").await;

    before.idp.fail(StatusCode::BAD_GATEWAY);
    before.advance(3_000);
    let restart = || {
        let verifier = Verifier::builder(seeded(&before.idp)).with_clock(before.clock.clone()).build().unwrap();
        Guarded::new(&verifier, &before.clock)
    };
    let (good, random) = (before.token().expires_in(3_000).mint(), before.random());
    let after = restart();
    assert_eq!(after.ask(&good).await, 200);
    assert_eq!(after.ask(&random).await, 503);
    assert_eq!(after.ask(&before.token().tampered().mint()).await, 401);
    assert!(matches!(after.stack.health().keys, Health::Degraded(_)));
    let asked = tally([(200, "-", 1), (401, "token_signature", 1), (503, UNAVAILABLE, 1)]);
    assert_eq!(after.recorded().await, asked);

    before.advance(1_200);
    assert_eq!(restart().ask(&good).await, 503, "70 minutes after the keys were loaded their time is over");
    assert_eq!(before.fetches(), 1);
    count("restart 50 min into an outage: verified from the seed, 0 fetches; 70 min: 503");
}
