//! The conformance suites, from outside the crate: every implementation that comes with it passes, and each suite finds the fault
//! in one that is wrong on purpose.

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use portcullis::{
    audit::{AuditError, AuditRecord, AuditSink, JsonLines, Memory, Tracing},
    denial::{Class, Denial, Profile, Protocol, RenderContext, RenderDenial, Renderer, SignInRedirect},
    key::{Algorithm, Fixed, JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys, Remote},
    mint::{LocalSigner, PublicJwk, SignError, SignRequest, Signature, Signer},
    policy::{self, Decision, DecisionId, PolicyBackend, PolicyError, PolicyInput, PolicyRevision, Rego, RegoBuilder},
    testing::{Answer, FrozenClock, RecordingSink, StubBackend, TestIssuer, conformance, policy_input},
    time::{Clock, SystemClock, UnixTime},
    token::{Issuer, ResolveError, ResolveIssuer, ResolveRequest},
};

use crate::support::Log;

/// The sentence that a suite stops with; it must stop.
async fn fault<F: Future<Output = ()> + Send + 'static>(suite: F) -> String {
    let stopped = tokio::spawn(suite).await.expect_err("the suite must find the fault");
    sentence(stopped.into_panic().as_ref())
}

fn fault_now(suite: impl FnOnce()) -> String {
    sentence(catch_unwind(AssertUnwindSafe(suite)).expect_err("the suite must find the fault").as_ref())
}

fn sentence(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

#[track_caller]
fn assert_says(sentence: &str, words: &str) {
    assert!(sentence.contains(words), "{sentence:?} does not say {words:?}");
}

mod key_source {
    use super::*;

    #[tokio::test]
    async fn fixed_keys_conform() {
        let idp = TestIssuer::start().await;
        conformance::key_source(Arc::new(Fixed::new(idp.key_set()))).await;
        assert_eq!(idp.requests().jwks, 0, "fixed keys are not fetched");
    }

    #[tokio::test]
    async fn keys_from_a_real_issuer_conform() {
        let idp = TestIssuer::start().await;
        conformance::key_source(Arc::new(Remote::discover(idp.url()).build().unwrap())).await;
        conformance::key_source(Arc::new(Remote::url(&idp.jwks_url()).build().unwrap())).await;
        idp.rotate();
        idp.publish_odd_keys();
        conformance::key_source(Arc::new(Remote::url(&idp.jwks_url()).build().unwrap())).await;
    }

    /// Gives the answer that its script has for this load, and its own at once.
    struct Odd {
        loads: AtomicUsize,
        answer: fn(usize, &LoadRequest) -> Result<JwkSet, KeyError>,
        at_once: Option<fn() -> JwkSet>,
    }

    #[async_trait]
    impl KeySource for Odd {
        async fn load(self: Arc<Self>, request: LoadRequest) -> Result<LoadedKeys, KeyError> {
            (self.answer)(self.loads.fetch_add(1, Ordering::SeqCst), &request).map(LoadedKeys::new)
        }

        fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
            self.at_once.map(|set| Ok(LoadedKeys::new(set())))
        }
    }

    fn one_key() -> JwkSet {
        JwkSet::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#)
            .unwrap()
    }

    fn another_key() -> JwkSet {
        let key = br#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
        JwkSet::parse(key).unwrap()
    }

    #[tokio::test]
    async fn a_source_that_is_wrong_is_found_out() {
        type Answers = fn(usize, &LoadRequest) -> Result<JwkSet, KeyError>;
        type AtOnce = Option<fn() -> JwkSet>;
        let table: [(Answers, AtOnce, &str); 6] = [
            (|_, _| Ok(JwkSet::default()), None, "at least one usable key"),
            (|_, _| Err(KeyError::unavailable("down")), None, "must load its keys"),
            (|_, _| panic!("odd"), None, "must not panic"),
            (
                |load, _| Ok(if load == 0 { one_key() } else { another_key() }),
                None,
                "the same keys to callers at the same time",
            ),
            (
                |_, request| Ok(if request.unknown_kid.is_none() { one_key() } else { another_key() }),
                None,
                "whichever `kid` they miss",
            ),
            (|_, _| Ok(one_key()), Some(another_key), "`load_now` must give the same keys"),
        ];
        for (answer, at_once, words) in table {
            let odd = Arc::new(Odd { loads: AtomicUsize::new(0), answer, at_once });
            assert_says(&fault(conformance::key_source(odd)).await, words);
        }
    }
}

mod issuer_resolver {
    use super::*;

    const KNOWN: [&str; 2] = ["https://login.tenant-1.example/", "spiffe://prod.example"];

    /// Answers by a function.
    struct Odd(fn(&str, usize) -> Resolved, AtomicUsize);

    type Resolved = Result<Option<Issuer>, ResolveError>;

    #[async_trait]
    impl ResolveIssuer for Odd {
        async fn resolve(self: Arc<Self>, request: ResolveRequest) -> Resolved {
            (self.0)(&request.claimed_issuer, self.1.fetch_add(1, Ordering::SeqCst))
        }
    }

    fn resolver(answer: fn(&str, usize) -> Resolved) -> Arc<Odd> {
        Arc::new(Odd(answer, AtomicUsize::new(0)))
    }

    fn issuer(name: &str) -> Issuer {
        let issuer = match name.strip_prefix("spiffe://") {
            Some(trust_domain) => Issuer::spiffe(trust_domain, "https://api.example"),
            None => Issuer::oauth(name, "https://api.example"),
        };
        issuer.with_jwks_url("http://127.0.0.1:1/jwks.json")
    }

    fn exact(name: &str) -> Resolved {
        Ok(KNOWN.contains(&name).then(|| issuer(name)))
    }

    #[tokio::test]
    async fn an_exact_look_up_conforms() {
        conformance::issuer_resolver(resolver(|name, _| exact(name)), &KNOWN).await;
        conformance::issuer_resolver(Arc::new(resolver(|name, _| exact(name))), &KNOWN[..1]).await;
    }

    #[tokio::test]
    async fn a_resolver_that_is_wrong_is_found_out() {
        type Answers = fn(&str, usize) -> Resolved;
        let table: [(&str, Answers, &str); 11] = [
            ("folds case", |name, _| exact(&name.to_lowercase()), "byte for byte and no other text"),
            ("trims", |name, _| exact(name.trim()), "byte for byte and no other text"),
            ("adds a slash", |name, _| Ok(exact(name)?.or(exact(&format!("{name}/"))?)), "no other text"),
            (
                "looks at the start",
                |name, _| Ok(KNOWN.iter().find(|known| name.starts_with(**known)).map(|known| issuer(known))),
                "no other text",
            ),
            ("believes everybody", |name, _| Ok(Some(issuer(name))), "no other text"),
            ("knows nobody", |_, _| Ok(None), "must find an issuer that it knows"),
            ("is down", |_, _| Err(ResolveError::unavailable("down")), "must find an issuer that it knows"),
            (
                "gives another",
                |name, _| Ok(exact(name)?.map(|_| issuer("https://login.tenant-2.example/"))),
                "the issuer that was asked for",
            ),
            (
                "gives what cannot be used",
                |name, _| Ok(exact(name)?.map(|issuer| issuer.add_audience(""))),
                "configurations that can be used",
            ),
            (
                "changes its mind",
                |name, asked| Ok(exact(name)?.map(|issuer| issuer.add_audience(format!("api-{asked}")))),
                "the same configuration to everybody",
            ),
            (
                "fails on strangers",
                |name, _| exact(name)?.map(Some).ok_or_else(|| ResolveError::unavailable("no such row")),
                "not an error",
            ),
        ];
        for (name, answer, words) in table {
            let sentence = fault(conformance::issuer_resolver(resolver(answer), &KNOWN)).await;
            assert!(sentence.contains(words), "{name}: {sentence:?} does not say {words:?}");
        }
        let panics = resolver(|_, _| panic!("odd"));
        assert_says(&fault(conformance::issuer_resolver(panics, &KNOWN)).await, "rather than panic");
        let nobody = conformance::issuer_resolver(resolver(|_, _| Ok(None)), &[]);
        assert_says(&fault(nobody).await, "at least one issuer");
    }
}

mod policy_backend {
    use super::*;

    fn inputs() -> [PolicyInput; 3] {
        [policy_input("GET", "/jobs"), policy_input("POST", "/jobs"), policy_input("GET", "/jobs/{id}")]
    }

    async fn conforms(backend: impl PolicyBackend) {
        conformance::policy_backend(Arc::new(backend), &inputs()).await;
    }

    #[tokio::test]
    async fn the_fixed_backends_conform() {
        conforms(policy::deny_all()).await;
        conforms(policy::dangerous_allow_all()).await;
    }

    #[tokio::test]
    async fn embedded_rego_conforms_whatever_it_decides() {
        // The default limit is for optimised builds; what is looked at here is not how fast it is.
        let patient = |builder: RegoBuilder| builder.with_time_limit(Duration::from_secs(1)).build().unwrap();
        for source in [
            "package authz\ndecision := {\"allow\": input.action.name == \"GET\", \"reasons\": [\"because\"]}",
            "package authz\ndecision := false",
            "package authz\ndecision := true if input.action.name == \"DELETE\"",
            "package authz\ndecision := \"yes\" if input.resource.id != \"/\"",
        ] {
            conforms(patient(Rego::builder().add_source("authz.rego", source))).await;
        }
        conforms(patient(Rego::builder().add_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policy")).unwrap()))
            .await;
    }

    #[tokio::test]
    async fn the_stub_conforms_as_long_as_its_answer_does_not_change() {
        conforms(StubBackend::new(Answer::Allow).answering_at_once()).await;
        conforms(StubBackend::new(Answer::Undefined)).await;
        let moody = Arc::new(StubBackend::new(Answer::Allow).then(Answer::Deny));
        assert_says(
            &fault(async { conformance::policy_backend(moody, &inputs()).await }).await,
            "the same when asked by many",
        );
    }

    /// Decides by a closure: later, and at once when it is told to.
    struct Odd(fn(&AtomicU64) -> Decision, Option<fn() -> Decision>, AtomicU64);

    #[async_trait]
    impl PolicyBackend for Odd {
        async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
            Ok((self.0)(&self.2))
        }

        fn decide_now(&self, _: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
            self.1.map(|decide| Ok(decide()))
        }
    }

    fn revision() -> PolicyRevision {
        PolicyRevision::new("odd-1")
    }

    #[tokio::test]
    async fn a_backend_that_is_wrong_is_found_out() {
        type Decides = fn(&AtomicU64) -> Decision;
        type AtOnce = Option<fn() -> Decision>;
        let table: [(Decides, AtOnce, &str); 5] = [
            (|_| Decision::allow(revision()).with_id(DecisionId::new("one for all")), None, "an id of its own"),
            (|_| Decision::allow(revision()).with_id(DecisionId::new("")), None, "must have an id"),
            (|_| panic!("odd"), None, ""),
            (
                |_| Decision::deny(revision()),
                Some(|| Decision::allow(revision())),
                "`decide_now` must decide as `decide` does",
            ),
            (
                |asked| match asked.fetch_add(1, Ordering::SeqCst) % 3 {
                    0 => Decision::deny(revision()),
                    _ => Decision::allow(revision()),
                },
                None,
                "the same when asked by many",
            ),
        ];
        for (decide, at_once, words) in table {
            let odd = Arc::new(Odd(decide, at_once, AtomicU64::new(0)));
            assert_says(&fault(async { conformance::policy_backend(odd, &inputs()).await }).await, words);
        }
        let nothing_asked = async { conformance::policy_backend(Arc::new(policy::deny_all()), &[]).await };
        assert_says(&fault(nothing_asked).await, "at least one input");
    }
}

mod audit_sink {
    use super::*;

    fn ids(records: &[AuditRecord]) -> Vec<String> {
        records.iter().map(|record| record.request_id.as_ref().unwrap().to_string()).collect()
    }

    fn ids_in_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
        let id = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["request_id"].as_str().unwrap().to_owned()
        };
        lines.map(id).collect()
    }

    #[tokio::test]
    async fn records_in_memory_conform() {
        let sink = Memory::new();
        conformance::audit_sink(Arc::new(sink.clone()), || async { ids(&sink.records()) }).await;
        let sink = Arc::new(RecordingSink::new());
        conformance::audit_sink(Arc::clone(&sink) as _, || async { ids(&sink.records()) }).await;
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // As a pipe that is nearly full: what is not taken has to be offered again.
            let taken = bytes.len().min(100);
            self.0.lock().unwrap().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn lines_of_json_conform() {
        let written = Shared::default();
        let read_back = || async { ids_in_lines(std::str::from_utf8(&written.0.lock().unwrap()).unwrap().lines()) };
        conformance::audit_sink(Arc::new(JsonLines::to(written.clone())), read_back).await;
    }

    #[tokio::test]
    async fn events_of_tracing_conform() {
        let log = Log::default();
        let _kept = log.keep();
        let read_back = || async {
            let text = log.text();
            let events = text.lines().filter(|line| line.contains("portcullis::audit"));
            ids_in_lines(events.map(|line| {
                let record = line.split_once(" record=").unwrap().1;
                // Other fields may follow the record.
                let end = record.rfind('}').unwrap();
                &record[..=end]
            }))
        };
        conformance::audit_sink(Arc::new(Tracing::new()), read_back).await;
    }

    struct Odd(Memory, fn(Vec<AuditRecord>) -> Result<Vec<AuditRecord>, AuditError>);

    #[async_trait]
    impl AuditSink for Odd {
        async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
            let kept = (self.1)(records)?;
            Arc::new(self.0.clone()).write(kept).await
        }
    }

    #[tokio::test]
    async fn a_sink_that_is_wrong_is_found_out() {
        type Keeps = fn(Vec<AuditRecord>) -> Result<Vec<AuditRecord>, AuditError>;
        let table: [(Keeps, &str); 6] = [
            (|records| Ok(records.into_iter().rev().collect()), "in the order of writing"),
            (|records| Ok(records.iter().chain(&records).cloned().collect()), "every record once"),
            (|records| Ok(records.into_iter().skip(1).collect()), "keep every record once"),
            (|records| Ok(records.into_iter().take(10).collect()), "lose and double nothing"),
            (
                |records| if records.is_empty() { Err(AuditError::failed("nothing")) } else { Ok(records) },
                "an empty batch",
            ),
            (|records| if records.is_empty() { panic!("odd") } else { Ok(records) }, "must not panic"),
        ];
        for (keeps, words) in table {
            let memory = Memory::new();
            let odd = Arc::new(Odd(memory.clone(), keeps));
            let suite = async move { conformance::audit_sink(odd, || async { ids(&memory.records()) }).await };
            assert_says(&fault(suite).await, words);
        }
    }
}

mod clock {
    use super::*;

    #[test]
    fn the_clocks_conform() {
        conformance::clock(&SystemClock);
        conformance::clock(&FrozenClock::default());
        conformance::clock(&(Arc::new(SystemClock) as Arc<dyn Clock>));
    }

    struct Odd(UnixTime, Option<AtomicU64>);

    impl Clock for Odd {
        fn now(&self) -> UnixTime {
            self.0
        }

        fn elapsed(&self) -> Duration {
            let counted = |back: &AtomicU64| Duration::from_secs(u64::MAX - back.fetch_add(1, Ordering::SeqCst));
            self.1.as_ref().map_or(Duration::ZERO, counted)
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_found_out() {
        let milliseconds_for_seconds = Odd(UnixTime::from_secs(1_800_000_000_000), None);
        assert_says(&fault_now(|| conformance::clock(&milliseconds_for_seconds)), "the time since 1970");
        let since_boot = Odd(UnixTime::from_secs(3_600), None);
        assert_says(&fault_now(|| conformance::clock(&since_boot)), "the time since 1970");
        let backwards = Odd(SystemClock.now(), Some(AtomicU64::new(0)));
        assert_says(&fault_now(|| conformance::clock(&backwards)), "never run back");
    }
}

mod render_denial {
    use super::*;

    #[test]
    fn the_renderer_conforms_in_every_profile() {
        conformance::render_denial(&Renderer::default());
        conformance::render_denial(&Renderer::api("jobs").unwrap());
        // What is rendered here are no navigations, and only those are redirected.
        let sign_in = || SignInRedirect::new("https://login.acme.example/authorize").unwrap();
        conformance::render_denial(&Renderer::browser("jobs", sign_in()).unwrap());
        conformance::render_denial(&Renderer::default().with_profile(Profile::Pages));
    }

    /// Spoils what the real renderer makes.
    struct Odd(fn(&Denial, &RenderContext, &mut Response<Bytes>));

    impl RenderDenial for Odd {
        fn render(&self, denial: &Denial, context: &RenderContext) -> Response<Bytes> {
            let mut response = Renderer::default().render(denial, context);
            (self.0)(denial, context, &mut response);
            response
        }
    }

    #[test]
    fn a_renderer_that_is_wrong_is_found_out() {
        type Spoils = fn(&Denial, &RenderContext, &mut Response<Bytes>);
        let table: [(Spoils, &str); 10] = [
            (
                |denial, _, response| {
                    if denial.class() == Class::Concealed {
                        *response.status_mut() = StatusCode::FORBIDDEN;
                    }
                },
                "the class `concealed` has its status",
            ),
            (|_, _, response| drop(response.headers_mut().remove(header::CACHE_CONTROL)), "must not be stored"),
            (|_, _, response| drop(response.headers_mut().remove(header::WWW_AUTHENTICATE)), "exactly one challenge"),
            (
                |_, _, response| {
                    if let Some(challenge) = response.headers_mut().get_mut(header::WWW_AUTHENTICATE) {
                        *challenge = HeaderValue::from_static("Bearer realm=\"r\", error=\"invalid_token\"");
                    }
                },
                "no error code when no credentials came",
            ),
            (
                |denial, _, response| {
                    if matches!(denial.class(), Class::Forbidden) {
                        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                    }
                },
                "only a 401 has a challenge",
            ),
            (|_, _, response| drop(response.headers_mut().remove(header::RETRY_AFTER)), "says when to try again"),
            (
                |_, _, response| *response.body_mut() = Bytes::from_static(b"more"),
                "`content-length` must be that of the body",
            ),
            (
                |_, context, response| {
                    if context.protocol == Protocol::Grpc {
                        *response.body_mut() = Bytes::from_static(b"more");
                    }
                },
                "trailers-only: no body",
            ),
            (|_, _, response| drop(response.headers_mut().remove("grpc-status")), "has its gRPC status"),
            (
                |_, _, response| {
                    static ANSWERS: AtomicU64 = AtomicU64::new(0);
                    response.headers_mut().insert("x-answer", ANSWERS.fetch_add(1, Ordering::SeqCst).into());
                },
                "the same bytes but for the request id",
            ),
        ];
        for (spoil, words) in table {
            assert_says(&fault_now(|| conformance::render_denial(&Odd(spoil))), words);
        }
    }
}

mod signer {
    use super::*;

    fn local(algorithm: Algorithm) -> Arc<LocalSigner> {
        Arc::new(LocalSigner::generate(algorithm).unwrap())
    }

    #[tokio::test]
    async fn the_local_signer_conforms_with_each_of_its_algorithms() {
        for algorithm in [Algorithm::Ed25519, Algorithm::Es256, Algorithm::Es384] {
            conformance::signer(local(algorithm)).await;
        }
    }

    /// Signs with one key, publishes one, and does something odd to the request or the signature.
    struct Odd {
        signs: Arc<LocalSigner>,
        publishes: Arc<LocalSigner>,
        before: fn(SignRequest, &LocalSigner) -> SignRequest,
        after: fn(&[u8]) -> Vec<u8>,
    }

    #[async_trait]
    impl Signer for Odd {
        async fn sign(self: Arc<Self>, request: SignRequest) -> Result<Signature, SignError> {
            let request = (self.before)(request, &self.signs);
            let signature = Arc::clone(&self.signs).sign(request).await?;
            Ok(Signature::new((self.after)(signature.as_bytes())))
        }

        fn public_jwk(&self) -> PublicJwk {
            self.publishes.public_jwk()
        }
    }

    /// Signs whatever it is asked for in the name of its own key.
    fn as_itself(mut request: SignRequest, signs: &LocalSigner) -> SignRequest {
        request.key_id = Arc::clone(signs.public_jwk().key_id());
        request
    }

    #[tokio::test]
    async fn a_signer_that_is_wrong_is_found_out() {
        let (one, other) = (local(Algorithm::Es256), local(Algorithm::Es256));
        let same = || (Arc::clone(&one), Arc::clone(&one));
        /// The one that signs, and the one that is published.
        type Keys = (Arc<LocalSigner>, Arc<LocalSigner>);
        type Before = fn(SignRequest, &LocalSigner) -> SignRequest;
        type After = fn(&[u8]) -> Vec<u8>;
        let table: [(Keys, Before, After, &str); 5] = [
            (same(), as_itself, <[u8]>::to_vec, "must refuse to sign for a `kid`"),
            ((Arc::clone(&one), other), as_itself, <[u8]>::to_vec, "must verify under the published key"),
            (same(), |request, _| request, |_| Vec::new(), "must verify under the published key"),
            (
                same(),
                |request, _| request,
                |signature| [signature, &[0]].concat(),
                "must verify under the published key",
            ),
            (
                same(),
                |mut request, _| {
                    request.message = request.message.slice(..request.message.len().min(5));
                    request
                },
                <[u8]>::to_vec,
                "must verify under the published key",
            ),
        ];
        for ((signs, publishes), before, after, words) in table {
            let odd = Arc::new(Odd { signs, publishes, before, after });
            assert_says(&fault(conformance::signer(odd)).await, words);
        }
    }
}
