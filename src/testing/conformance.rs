//! What every implementation of a seam must do, as one function per seam. Each panics with a sentence that names the demand
//! that was not met.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use portcullis::{policy::deny_all, testing::{conformance, policy_input}};
//!
//! // In the tests of a crate that brings its own backend:
//! conformance::policy_backend(Arc::new(deny_all()), &[policy_input("GET", "/jobs"), policy_input("POST", "/jobs")]).await;
//! # });
//! ```

mod resolver;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::json;

use crate::{
    audit::{AuditRecord, AuditSink},
    denial::{Class, Denial, MissingLayer, Protocol, Reason, RenderContext, RenderDenial, RequestId},
    key::{Algorithm, JwkSet, KeySource, LoadRequest, LoadedKeys},
    mint::{SignRequest, Signature, Signer},
    policy::{Decision, DecisionId, PolicyBackend, PolicyError, PolicyErrorKind, PolicyInput, Refusal},
    route::{Route, RouteKey},
    rules::{Rules, policy_only},
    time::{Clock, UnixTime},
    token::{BearerError, TokenError},
};

pub use resolver::issuer_resolver;

/// A source of keys: gives usable keys to several callers at once, whatever `kid` is asked for, and the same at once as later.
///
/// # Panics
///
/// When a demand is not met; outside a Tokio runtime.
pub async fn key_source(source: Arc<dyn KeySource>) {
    let unknown = LoadRequest { unknown_kid: Some("../../no such key?\r\n".into()) };
    let loads = [LoadRequest::default(), LoadRequest::default(), unknown]
        .map(|request| tokio::spawn(Arc::clone(&source).load(request)));
    let mut sets = Vec::new();
    for load in loads {
        let loaded =
            load.await.expect("a key source must not panic").expect("a key source that works must load its keys");
        let keys = key_thumbprints(&loaded);
        assert!(!keys.is_empty(), "a key source must give at least one usable key, or an error");
        sets.push(keys);
    }
    assert!(
        sets.windows(2).all(|pair| matches!(pair, [one, two] if one == two)),
        "a key source must give the same keys to callers at the same time, whichever `kid` they miss"
    );
    if let Some(now) = source.load_now() {
        let now = now.expect("a key source that answers at once must do so where `load` succeeds");
        assert_eq!(Some(&key_thumbprints(&now)), sets.first(), "`load_now` must give the same keys as `load`");
    }
}

fn key_thumbprints(loaded: &LoadedKeys) -> BTreeSet<(Algorithm, String)> {
    let of =
        |algorithm| loaded.set.candidates(None, algorithm).map(move |key| (algorithm, key.thumbprint().to_string()));
    Algorithm::ALL.into_iter().flat_map(of).collect()
}

/// A policy backend: decides each input the same way each time, at once as later, alone and in a crowd, and gives every decision an id
/// of its own and a revision. Inputs on which it gives no decision are fine, so long as the kind of failure is the same.
///
/// # Panics
///
/// When a demand is not met; outside a Tokio runtime; without an input.
pub async fn policy_backend(backend: Arc<dyn PolicyBackend>, inputs: &[PolicyInput]) {
    assert!(!inputs.is_empty(), "name at least one input that the backend is to decide");
    assert!(backend.health().is_serving(), "a policy backend that works must say so");
    let mut ids = BTreeSet::new();
    for input in inputs {
        let expected = verdict(&Arc::clone(&backend).decide(input.clone()).await, &mut ids);
        let crowd: Vec<_> = (0..8).map(|_| tokio::spawn(Arc::clone(&backend).decide(input.clone()))).collect();
        for asked in crowd {
            let decided = asked.await.expect("a policy backend must answer with an error rather than panic");
            assert_eq!(
                verdict(&decided, &mut ids),
                expected,
                "a policy backend must decide the same when asked by many at once"
            );
        }
        if let Some(decided) = backend.decide_now(input) {
            assert_eq!(verdict(&decided, &mut ids), expected, "`decide_now` must decide as `decide` does");
        }
    }
}

/// What two decisions about the same input must agree on.
fn verdict(decided: &Result<Decision, PolicyError>, ids: &mut BTreeSet<String>) -> Result<String, PolicyErrorKind> {
    let decision = decided.as_ref().map_err(PolicyError::kind)?;
    assert!(!decision.revision().as_str().is_empty(), "a decision must name the revision of the policy that made it");
    let id = DecisionId::as_str(decision.id());
    assert!(!id.is_empty(), "a decision must have an id");
    assert!(ids.insert(id.to_owned()), "every decision must have an id of its own: `{id}` came twice");
    Ok(format!(
        "{:?} undefined={} {} {:?} {:?} {:?}",
        decision.effect(),
        decision.is_undefined(),
        decision.revision(),
        decision.reasons(),
        decision.obligations(),
        decision.advice()
    ))
}

/// An audit sink: takes an empty batch, keeps every record once and in order, and keeps apart what is written at the same time.
///
/// `read_back` tells what the sink holds: the `request_id` of each record, in order. The sink should be empty at first.
///
/// # Panics
///
/// When a demand is not met; outside a Tokio runtime.
pub async fn audit_sink<F>(sink: Arc<dyn AuditSink>, read_back: impl Fn() -> F)
where
    F: Future<Output = Vec<String>>,
{
    let write = |ids: &[RequestId]| {
        let records = ids.iter().cloned().map(AuditRecord::sample).collect();
        tokio::spawn(Arc::clone(&sink).write(records))
    };
    let batch = |length| (0..length).map(|_| RequestId::random()).collect::<Vec<_>>();
    let names = |ids: &[RequestId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let written = "an audit sink that works must write";
    let sound = "an audit sink must not panic";

    write(&[]).await.expect(sound).expect("an audit sink must take an empty batch");
    let (first, second) = (batch(3), batch(1));
    write(&first).await.expect(sound).expect(written);
    write(&second).await.expect(sound).expect(written);
    let expected = names(&[first, second].concat());
    assert_eq!(read_back().await, expected, "an audit sink must keep every record once, in the order of writing");

    let (left, right) = (batch(20), batch(20));
    let (one, two) = (write(&left), write(&right));
    one.await.expect(sound).expect(written);
    two.await.expect(sound).expect(written);
    let held = read_back().await.split_off(expected.len());
    assert_eq!(held.len(), 40, "an audit sink must lose and double nothing when it is written to by two at once");
    for side in [left, right] {
        let side = names(&side);
        let kept: Vec<_> = held.iter().filter(|id| side.contains(id)).cloned().collect();
        assert_eq!(kept, side, "an audit sink must keep the order inside each batch");
    }
}

/// A clock: shows a plausible time in the right unit, and its steady side never runs back, whoever reads it.
///
/// # Panics
///
/// When a demand is not met.
pub fn clock(clock: &dyn Clock) {
    // 2020-01-01 and 9999-12-31: outside of it, the epoch was missed or milliseconds were taken for seconds.
    let plausible = UnixTime::from_secs(1_577_836_800)..UnixTime::from_secs(253_402_300_800);
    assert!(plausible.contains(&clock.now()), "a clock must show the time since 1970: it shows {}", clock.now());
    let steady = || {
        let mut earlier = Duration::ZERO;
        for _ in 0..10_000 {
            let elapsed = clock.elapsed();
            assert!(earlier <= elapsed, "`elapsed` must never run back: {elapsed:?} came after {earlier:?}");
            earlier = elapsed;
        }
        earlier
    };
    let seen =
        std::thread::scope(|scope| [scope.spawn(steady), scope.spawn(steady)].map(|thread| thread.join().is_ok()));
    assert_eq!(seen, [true, true], "`elapsed` must never run back on any thread");
}

/// A renderer of refusals: gives each class its status and its headers over HTTP and gRPC, and inside a class always the same bytes, but for
/// the request id, whatever the reason.
///
/// # Panics
///
/// When a demand is not met.
pub fn render_denial(renderer: &dyn RenderDenial) {
    for reasons in same_outside() {
        for (method, content_type) in [
            (Method::GET, ""),
            (Method::HEAD, ""),
            (Method::POST, "application/json"),
            (Method::POST, "application/grpc"),
        ] {
            let mut seen: Option<String> = None;
            for (reason, route) in &reasons {
                let denial = Denial::of(reason, route.as_ref());
                let request_id = RequestId::random();
                let context = context(&method, content_type, &request_id);
                let response = renderer.render(&denial, &context);
                match context.protocol {
                    Protocol::Http => check_http(denial.class(), &method, &response),
                    Protocol::Grpc => check_grpc(denial.class(), &response),
                }
                let wire = wire(&response).replace(request_id.as_str(), "<request id>");
                if let Some(seen) = &seen {
                    assert_eq!(
                        &wire,
                        seen,
                        "every refusal of the class `{}` must be the same bytes but for the request id",
                        denial.class().as_str()
                    );
                }
                seen = Some(wire);
            }
        }
    }
}

/// Reasons in rows; a caller must not be able to tell those of one row apart.
fn same_outside() -> [Vec<(Reason, Option<Route>)>; 7] {
    let rules = Rules::new().get("/plain", policy_only()).get("/concealed", policy_only().concealed());
    let rules = rules.into_table().expect("these rules are valid");
    let route =
        |template: &str| Route::matched(&rules, RouteKey::Http { method: Method::GET, template: template.into() });
    let forbidding = [
        Reason::NoRule,
        Reason::InsufficientScope,
        Reason::Policy(Refusal::Denied),
        Reason::Policy(Refusal::Undefined),
    ];
    let alike = |reasons: &[Reason]| reasons.iter().map(|reason| (reason.clone(), None)).collect();
    let at = |template: &str| forbidding.iter().map(|reason| (reason.clone(), Some(route(template)))).collect();
    [
        alike(&[Reason::MissingCredentials]),
        alike(
            &[TokenError::Expired, TokenError::Signature, TokenError::UnknownIssuer, TokenError::UnknownKey]
                .map(Reason::Token),
        ),
        alike(&[Reason::MalformedCredentials(BearerError::Repeated)]),
        at("/plain"),
        at("/concealed"),
        alike(&[
            Reason::NoDecision(PolicyErrorKind::Timeout),
            Reason::NoDecision(PolicyErrorKind::InvalidResult),
            Reason::AuditUnavailable,
        ]),
        alike(&[Reason::MissingLayer(MissingLayer::Route), Reason::NoDecision(PolicyErrorKind::Panicked)]),
    ]
}

fn context(method: &Method, content_type: &str, request_id: &RequestId) -> RenderContext {
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    if let Ok(value) = content_type.parse()
        && !content_type.is_empty()
    {
        request.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    RenderContext::of(&request, request_id.clone())
}

fn check_http(class: Class, method: &Method, response: &Response<Bytes>) {
    let name = class.as_str();
    let values = |header| response.headers().get_all(header).iter().map(|value| value.as_bytes()).collect::<Vec<_>>();
    assert_eq!(response.status(), class.http_status(), "the class `{name}` has its status");
    assert_eq!(values(header::CACHE_CONTROL), [b"no-store"], "a refusal must not be stored (RFC 9111 §5.2.2.5)");
    let challenges = values(header::WWW_AUTHENTICATE);
    match class {
        Class::Unauthenticated { credentials_sent } => {
            let [challenge] = challenges.as_slice() else {
                panic!("a 401 must have exactly one challenge (RFC 9110 §11.6.1)");
            };
            assert!(challenge.starts_with(b"Bearer"), "the challenge of a 401 must be for bearer tokens (RFC 6750 §3)");
            let says_why = challenge.windows(6).any(|bytes| bytes == b"error=");
            assert!(!says_why || credentials_sent, "no error code when no credentials came (RFC 6750 §3.1)");
        }
        _ => assert!(challenges.is_empty(), "only a 401 has a challenge when nothing is disclosed"),
    }
    let retry_after = !values(header::RETRY_AFTER).is_empty();
    assert_eq!(retry_after, class == Class::Unavailable, "a 503, and nothing else, says when to try again");
    if method == Method::HEAD {
        assert!(response.body().is_empty(), "an answer to HEAD has no body (RFC 9110 §9.3.2)");
    } else if let [length] = values(header::CONTENT_LENGTH).as_slice() {
        assert_eq!(*length, response.body().len().to_string().as_bytes(), "`content-length` must be that of the body");
    }
}

fn check_grpc(class: Class, response: &Response<Bytes>) {
    let name = class.as_str();
    let value = |header: &str| response.headers().get(header).map(|value| value.as_bytes());
    assert_eq!(response.status(), StatusCode::OK, "a gRPC refusal is HTTP 200: clients read `grpc-status`");
    assert_eq!(value("content-type"), Some(&b"application/grpc"[..]), "a gRPC refusal has the gRPC content type");
    let code = class.grpc_code().to_string();
    assert_eq!(value("grpc-status"), Some(code.as_bytes()), "the class `{name}` has its gRPC status");
    assert!(response.body().is_empty(), "a gRPC refusal is trailers-only: no body");
}

fn wire(response: &Response<Bytes>) -> String {
    format!("{} {:?} {}", response.status(), response.headers(), String::from_utf8_lossy(response.body()))
}

/// A signer: names the key that signs, signs what verifies under the JWK that it publishes, at once as later, for many at once, and signs
/// nothing in the name of a key that it does not have.
///
/// # Panics
///
/// When a demand is not met; outside a Tokio runtime.
pub async fn signer(signer: Arc<dyn Signer>) {
    let public = signer.public_jwk();
    let algorithm = public.algorithm();
    assert!(!public.key_id().is_empty(), "a signer must name its key: `kid` is not empty");
    let set = JwkSet::parse(json!({"keys": [public.members()]}).to_string().as_bytes())
        .expect("a signer must publish a JWK that verifiers can use");
    let key = set.candidates(Some(public.key_id()), algorithm).next();
    let key = key.expect("a signer must publish its key under the `kid` and `alg` that it signs with");
    assert_eq!(key.thumbprint(), public.thumbprint(), "the published key must be the one that the signer describes");
    let check = |message: &str, signature: &Signature, method: &str| {
        assert!(
            key.verify(algorithm, message.as_bytes(), signature.as_bytes()),
            "a signature of `{method}` must verify under the published key: for ECDSA it is `R || S` and not DER"
        );
        let other = format!("{message}.");
        assert!(
            !key.verify(algorithm, other.as_bytes(), signature.as_bytes()),
            "a signature must be of the whole message"
        );
    };

    let request = |message: &str| SignRequest::new(Arc::clone(public.key_id()), message.to_owned());
    let messages = ["eyJ.one", "eyJ.two", &"x".repeat(16 * 1024)];
    let crowd = messages.map(|message| (message, tokio::spawn(Arc::clone(&signer).sign(request(message)))));
    for (message, signing) in crowd {
        let signature = signing.await.expect("a signer must not panic").expect("a signer that works must sign");
        check(message, &signature, "sign");
        if let Some(signature) = signer.sign_now(&request(message)) {
            check(message, &signature.expect("`sign_now` must sign where `sign` does"), "sign_now");
        }
    }

    let foreign = SignRequest::new("no such key", "eyJ.eyJ");
    if let Some(signed) = signer.sign_now(&foreign) {
        assert!(signed.is_err(), "`sign_now` must refuse to sign for a `kid` that it does not have");
    }
    let signed = Arc::clone(&signer).sign(foreign).await;
    assert!(signed.is_err(), "a signer must refuse to sign for a `kid` that it does not have");
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::{
        audit::AuditError,
        denial::Renderer,
        key::KeyError,
        mint::{LocalSigner, PublicJwk, SignError},
        policy::{PolicyRevision, deny_all},
        testing::{Answer, FrozenClock, RecordingSink, StubBackend, TestIssuer, policy_input},
        time::SystemClock,
    };

    /// The sentence that a check fails with.
    async fn broken(check: impl Future<Output = ()> + Send + 'static) -> String {
        let panic = tokio::spawn(check).await.unwrap_err().into_panic();
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
    }

    #[tokio::test]
    async fn the_fixed_and_the_stub_backend_conform() {
        let inputs = [policy_input("GET", "/jobs"), policy_input("POST", "/jobs/{id}")];
        policy_backend(Arc::new(deny_all()), &inputs).await;
        policy_backend(Arc::new(StubBackend::new(Answer::Allow).answering_at_once()), &inputs).await;
        policy_backend(Arc::new(StubBackend::new(Answer::Error(PolicyErrorKind::Timeout))), &inputs).await;
    }

    #[tokio::test]
    async fn a_backend_that_contradicts_itself_does_not_conform() {
        /// Says one thing now and another later, or names every decision alike.
        struct Odd(bool);

        #[async_trait]
        impl PolicyBackend for Odd {
            async fn decide(self: Arc<Self>, _: PolicyInput) -> Result<Decision, PolicyError> {
                let decision = Decision::deny(PolicyRevision::new("odd"));
                Ok(if self.0 { decision.with_id(DecisionId::new("7")) } else { decision })
            }

            fn decide_now(&self, _: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
                Some(Ok(Decision::allow(PolicyRevision::new("odd"))))
            }
        }

        let check = |odd| async move { policy_backend(Arc::new(Odd(odd)), &[policy_input("GET", "/jobs")]).await };
        assert!(broken(check(false)).await.contains("`decide_now` must decide as `decide` does"));
        assert!(broken(check(true)).await.contains("an id of its own"));
        let panics = Arc::new(StubBackend::new(Answer::Allow).then(Answer::Panic));
        let crowded = broken(async move { policy_backend(panics, &[policy_input("GET", "/jobs")]).await }).await;
        assert!(crowded.contains("rather than panic"), "{crowded}");
    }

    #[test]
    fn both_clocks_conform() {
        clock(&SystemClock);
        clock(&FrozenClock::default());
    }

    #[tokio::test]
    async fn a_clock_in_milliseconds_or_before_1970_does_not_conform() {
        for now in [UnixTime::from_secs(1_800_000_000_000), UnixTime::from_secs(0)] {
            assert!(broken(async move { clock(&FrozenClock::at(now)) }).await.contains("the time since 1970"));
        }
    }

    /// Keys as they were when the issuer was asked last.
    struct Keys(JwkSet, Option<JwkSet>);

    #[async_trait]
    impl KeySource for Keys {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            Ok(LoadedKeys::new(self.0.clone()))
        }

        fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
            self.1.clone().map(|set| Ok(LoadedKeys::new(set)))
        }
    }

    #[tokio::test]
    async fn a_source_of_no_keys_or_of_two_minds_does_not_conform() {
        let issuer = TestIssuer::start().await;
        let keys = issuer.key_set();
        key_source(Arc::new(Keys(keys.clone(), Some(keys.clone())))).await;
        issuer.rotate_dropping();
        let other = issuer.key_set();
        let check = |source| async move { key_source(Arc::new(source)).await };
        assert!(broken(check(Keys(JwkSet::default(), None))).await.contains("at least one usable key"));
        assert!(broken(check(Keys(keys, Some(other)))).await.contains("`load_now` must give the same keys"));
    }

    #[tokio::test]
    async fn local_signers_conform() {
        for algorithm in [Algorithm::Ed25519, Algorithm::Es256, Algorithm::Es384] {
            signer(Arc::new(LocalSigner::generate(algorithm).unwrap())).await;
        }
    }

    #[tokio::test]
    async fn a_signer_with_another_key_or_for_any_name_does_not_conform() {
        /// Signs with the first key whatever it is asked for, and publishes the second.
        struct Odd(Arc<LocalSigner>, PublicJwk);

        #[async_trait]
        impl Signer for Odd {
            async fn sign(self: Arc<Self>, request: SignRequest) -> Result<Signature, SignError> {
                self.0.sign_bytes(&request.message)
            }

            fn public_jwk(&self) -> PublicJwk {
                self.1.clone()
            }
        }

        let key = || Arc::new(LocalSigner::generate(Algorithm::Es256).unwrap());
        let check = |odd| async move { signer(Arc::new(odd)).await };
        let one = key();
        let public = one.public_jwk();
        assert!(broken(check(Odd(one, public))).await.contains("refuse to sign for a `kid`"));
        let public = key().public_jwk();
        assert!(broken(check(Odd(key(), public))).await.contains("must verify under the published key"));
    }

    #[tokio::test]
    async fn the_recording_sink_conforms() {
        let sink = Arc::new(RecordingSink::new());
        audit_sink(Arc::clone(&sink) as _, || async { sink.request_ids() }).await;
    }

    #[tokio::test]
    async fn a_sink_that_turns_batches_around_does_not_conform() {
        struct Backwards(Arc<RecordingSink>);

        #[async_trait]
        impl AuditSink for Backwards {
            async fn write(self: Arc<Self>, mut records: Vec<AuditRecord>) -> Result<(), AuditError> {
                records.reverse();
                Arc::clone(&self.0).write(records).await
            }
        }

        let sink = Arc::new(RecordingSink::new());
        let backwards = Arc::new(Backwards(Arc::clone(&sink)));
        let sentence = broken(async move { audit_sink(backwards, || async { sink.request_ids() }).await }).await;
        assert!(sentence.contains("in the order of writing"), "{sentence}");
    }

    #[test]
    fn the_built_in_renderer_conforms() {
        render_denial(&Renderer::default());
    }

    #[tokio::test]
    async fn a_renderer_that_gives_a_class_another_status_does_not_conform() {
        struct Teapot;

        impl RenderDenial for Teapot {
            fn render(&self, denial: &Denial, context: &RenderContext) -> Response<Bytes> {
                let mut response = Renderer::default().render(denial, context);
                if denial.class() == Class::Concealed {
                    *response.status_mut() = StatusCode::FORBIDDEN;
                }
                response
            }
        }

        let sentence = broken(async { render_denial(&Teapot) }).await;
        assert!(sentence.contains("the class `concealed` has its status"), "{sentence}");
    }
}
