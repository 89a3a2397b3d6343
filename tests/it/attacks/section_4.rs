//! Headers and transport: what a proxy in front reads differently, and what a client may say without being asked.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, header::AUTHORIZATION};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    key::{JwkSet, KeyErrorKind, KeySource as _, LoadRequest, Remote},
    outbound::Outbound,
    policy::{self, PolicyBackend},
    rules::policy_only,
    scope::Scope,
    testing::{Answer, StubBackend},
    time::UnixTime,
    token::{AccessToken, BearerError, TokenError, Verifier},
};
use serde_json::json;

use super::{
    Guarded,
    edge::{Edge, GUARDED, OPTIONAL, PUBLIC},
    forge::{OWN, base64url, compact},
};
use crate::{
    support::{AUDIENCE, Host, Log, PATIENCE, get_with, only_record, send},
    wire::{self, Ask},
};

fn header(name: &'static str, value: &[u8]) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
}

mod t_059 {
    use super::*;

    #[tokio::test]
    async fn t_059_bearer_in_any_case_is_the_same_scheme() {
        let edge = Edge::new().await;
        let token = edge.good().mint();
        for scheme in ["Bearer", "bearer", "BEARER", "bEARER", "BeArEr"] {
            let value = format!("{scheme} {}", token.as_str());
            let (http, grpc) = edge.both(GUARDED, &[value.as_bytes()]).await;
            http.assert_ran(scheme);
            grpc.assert_ran(scheme);
        }
        // Another scheme is like no credentials (RFC 6750 §3.1), and letters that only fold to those of ours make another scheme.
        for scheme in ["Basic", "Bearerx", "Bear", "Token", "JWT", "DPoP", "Negotiate"] {
            let value = format!("{scheme} {}", token.as_str());
            let (http, grpc) = edge.both(GUARDED, &[value.as_bytes()]).await;
            http.assert_no_credentials(scheme);
            grpc.assert_no_credentials(scheme);
        }
    }

    #[tokio::test]
    async fn t_059_what_is_not_one_scheme_one_space_and_one_token_is_malformed() {
        let edge = Edge::new().await;
        let token = edge.good().mint();
        let good = token.as_str();
        let table: [(&str, Vec<u8>, &str); 22] = [
            ("a tab", format!("Bearer\t{good}").into(), "credentials_spacing"),
            ("two spaces", format!("Bearer  {good}").into(), "credentials_spacing"),
            ("three spaces", format!("Bearer   {good}").into(), "credentials_spacing"),
            ("space and tab", format!("Bearer \t{good}").into(), "credentials_spacing"),
            ("a space in front", format!(" Bearer {good}").into(), "credentials_scheme"),
            ("a space behind", format!("Bearer {good} ").into(), "credentials_illegal_byte"),
            ("no token", "Bearer".into(), "credentials_empty"),
            ("no token after the space", "Bearer ".into(), "credentials_empty"),
            ("padding alone", "Bearer ==".into(), "credentials_empty"),
            ("nothing", "".into(), "credentials_scheme"),
            ("a comma behind", format!("Bearer {good},").into(), "credentials_list"),
            ("a comma in front", format!("Bearer ,{good}").into(), "credentials_list"),
            ("two tokens, a space", format!("Bearer {good} {good}").into(), "credentials_illegal_byte"),
            ("two tokens, a comma", format!("Bearer {good},{good}").into(), "credentials_list"),
            ("two credentials", format!("Bearer {good}, Bearer {good}").into(), "credentials_list"),
            ("ours in the list of another scheme", format!("Basic Zm9v, Bearer {good}").into(), "credentials_list"),
            ("the scheme twice", format!("Bearer Bearer {good}").into(), "credentials_illegal_byte"),
            ("quotes", format!("Bearer \"{good}\"").into(), "credentials_illegal_byte"),
            ("a parameter", format!("Bearer token={good}").into(), "credentials_illegal_byte"),
            ("a colon", format!("Bearer: {good}").into(), "credentials_illegal_byte"),
            ("not ASCII", [b"Bearer \xc3\xa9", good.as_bytes()].concat(), "credentials_illegal_byte"),
            ("no-break space", [b"Bearer\xc2\xa0", good.as_bytes()].concat(), "credentials_illegal_byte"),
        ];
        for (name, value, reason) in &table {
            edge.finds_malformed(&[value], reason, name).await;
        }
    }

    /// The same on the wire, where hyper trims what stands around a value.
    #[tokio::test]
    async fn t_059_over_a_real_socket() {
        let house = Guarded::house().await;
        let token = house.mallory();
        let head = |value: &str| format!("GET /jobs HTTP/1.1\r\nhost: a\r\nauthorization: {value}\r\n").into_bytes();
        for (name, value, reason) in [
            ("a tab", format!("Bearer\t{}", token.as_str()), "credentials_spacing"),
            ("two spaces", format!("Bearer  {}", token.as_str()), "credentials_spacing"),
            ("no token", "Bearer ".to_owned(), "credentials_empty"),
            ("a comma", format!("Bearer {},", token.as_str()), "credentials_list"),
        ] {
            house.raw(&head(&value), None).await.assert_refused(400, reason, name);
            let ask = Ask::get("/jobs").header("authorization", value.trim());
            assert_eq!(wire::http2(house.host.address, &ask).await.status, 400, "{name}");
        }
        house.raw(&head(&format!("bEARER {}", token.as_str())), None).await.assert_ran("/jobs", "any case");
        // A folded line is refused by the server, or is one line for us as well.
        let folded = format!("GET /jobs HTTP/1.1\r\nhost: a\r\nauthorization: Bearer\r\n {}\r\n", token.as_str());
        house.raw(folded.as_bytes(), None).await.assert_never_came("a folded line");
    }
}

mod t_060 {
    use super::*;

    #[tokio::test]
    async fn t_060_a_repeated_authorization_header_is_malformed() {
        let edge = Edge::new().await;
        let (good, other) = (edge.good().mint().bearer(), edge.good().subject("auth0|other").mint().bearer());
        let table: [(&str, Vec<&[u8]>); 7] = [
            ("the same twice", vec![good.as_bytes(), good.as_bytes()]),
            ("two good ones", vec![good.as_bytes(), other.as_bytes()]),
            ("a bad one first", vec![b"Bearer a.b.c", good.as_bytes()]),
            ("a bad one last", vec![good.as_bytes(), b"Bearer a.b.c"]),
            ("another scheme first", vec![b"Basic Zm9vOmJhcg==", good.as_bytes()]),
            ("an empty one last", vec![good.as_bytes(), b""]),
            ("three", vec![good.as_bytes(), good.as_bytes(), good.as_bytes()]),
        ];
        for (name, values) in &table {
            edge.finds_malformed(values, "credentials_repeated", name).await;
        }
    }

    #[tokio::test]
    async fn t_060_a_repeated_proof_is_malformed_with_and_without_a_token() {
        let edge = Edge::new().await;
        let good = edge.good().mint().bearer();
        for authorization in [vec![good.as_bytes()], vec![], vec![b"DPoP a.b.c".as_slice()]] {
            for route in [GUARDED, OPTIONAL] {
                let with = |target: &str, proofs: usize| {
                    let mut request = Edge::request(target, &authorization);
                    for _ in 0..proofs {
                        request.headers_mut().append("dpop", HeaderValue::from_static("a.b.c"));
                    }
                    request
                };
                edge.send(with(route.0, 2)).await.assert_malformed("credentials_repeated", "two proofs");
                edge.send_grpc(with(route.1, 2)).await.assert_malformed("credentials_repeated", "two proofs");
                // One is read by nobody yet: a bearer token needs none.
                let one = edge.send(with(GUARDED.0, 1)).await;
                assert_eq!(one.status, if authorization == [good.as_bytes()] { 200 } else { 401 }, "{one:?}");
            }
        }
    }

    /// A header names nobody: who calls is what the token says. A policy sees a header only where it was asked for, and then
    /// every value of it.
    #[tokio::test]
    async fn t_060_a_repeated_identity_header_shows_the_policy_every_value() {
        let policy = Arc::new(StubBackend::new(Answer::Allow));
        let backend: Arc<dyn PolicyBackend> = policy.clone();
        let edge = Edge::asking(backend).await;
        let good = edge.good().mint().bearer();
        let with = |target: &str| {
            let mut request = Edge::request(target, &[good.as_bytes()]);
            for (name, value) in [
                header("x-user", b"auth0|mallory"),
                header("x-user", b"root"),
                header("x-user", b""),
                header("x-forwarded-user", b"root"),
                header("x-tier", b"gold, silver"),
            ] {
                request.headers_mut().append(name, value);
            }
            request
        };
        for seen in [edge.send(with(GUARDED.0)).await, edge.send_grpc(with(GUARDED.1)).await] {
            seen.assert_ran("identity headers");
            assert_eq!(seen.record["user_id"], "auth0|mallory");
            let input = policy.inputs().pop().unwrap();
            assert_eq!(input.subject.id, "auth0|mallory");
            let headers = serde_json::to_value(&input.context.headers).unwrap();
            assert_eq!(headers, json!({"x-user": ["auth0|mallory", "root", ""], "x-tier": ["gold, silver"]}));
        }
    }

    #[tokio::test]
    async fn t_060_no_header_reaches_a_policy_unasked() {
        let policy = Arc::new(StubBackend::new(Answer::Allow));
        let backend: Arc<dyn PolicyBackend> = policy.clone();
        let house =
            Guarded::axum_asking(backend, Rules::new().get("/jobs", policy_only()), |ran| ran.router(["/jobs"]));
        let house = house.await;
        let head = "GET /jobs HTTP/1.1\r\nhost: a\r\nx-user: root\r\nx-user: admin\r\ncookie: a=b\r\nx-api-key: k\r\n";
        house.raw(head.as_bytes(), Some(&house.mallory())).await.assert_ran("/jobs", head);
        let input = policy.inputs().pop().unwrap();
        assert!(input.context.headers.is_empty(), "{input:?}");
        assert!(!serde_json::to_string(&input).unwrap().contains("root"));
    }
}

#[tokio::test]
async fn t_061_no_marker_of_a_probe_or_a_proxy_skips_a_check() {
    const MARKERS: [(&str, &str); 36] = [
        ("user-agent", "kube-probe/1.30"),
        ("user-agent", "ELB-HealthChecker/2.0"),
        ("user-agent", "GoogleHC/1.0"),
        ("user-agent", "Consul Health Check"),
        ("user-agent", "Prometheus/2.50.0"),
        ("user-agent", "Envoy/HC"),
        ("user-agent", "curl/8.5.0"),
        ("user-agent", "Googlebot/2.1"),
        ("user-agent", ""),
        ("x-health", "true"),
        ("x-health-check", "1"),
        ("x-healthcheck", "livez"),
        ("x-probe", "liveness"),
        ("x-envoy-internal", "true"),
        ("x-envoy-immediate-health-check-fail", "true"),
        ("x-envoy-original-path", "/livez"),
        ("x-original-url", "/livez"),
        ("x-rewrite-url", "/livez"),
        ("x-forwarded-uri", "/livez"),
        ("x-forwarded-prefix", "/livez"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;host=localhost"),
        ("x-forwarded-user", "root"),
        ("x-authenticated-user", "root"),
        ("remote-user", "root"),
        ("x-internal", "true"),
        ("x-skip-auth", "true"),
        ("x-middleware-subrequest", "middleware:middleware:middleware:middleware:middleware"),
        ("x-http-method-override", "OPTIONS"),
        ("origin", "https://api.example"),
        ("access-control-request-method", "GET"),
        ("upgrade", "websocket"),
        ("purpose", "prefetch"),
        ("proxy-authorization", "Bearer a.b.c"),
        ("cookie", "session=root; token=root"),
    ];
    let edge = Edge::new().await;
    let (poor, forged) = (edge.good().scope("other").mint().bearer(), edge.good().tampered().mint().bearer());
    for (name, value) in MARKERS {
        let about = format!("{name}: {value}");
        let with = |target: &str, authorization: &[&[u8]]| {
            let mut request = Edge::request(target, authorization);
            let (name, value) = header(name, value.as_bytes());
            request.headers_mut().append(name, value);
            request
        };
        edge.send(with(GUARDED.0, &[])).await.assert_no_credentials(&about);
        edge.send_grpc(with(GUARDED.1, &[])).await.assert_no_credentials(&about);
        edge.send(with(GUARDED.0, &[forged.as_bytes()])).await.assert_bad_token(&["token_signature"], &about);
        edge.send_grpc(with(GUARDED.1, &[forged.as_bytes()])).await.assert_bad_token(&["token_signature"], &about);
        let seen = edge.send(with(GUARDED.0, &[poor.as_bytes()])).await;
        assert_eq!((seen.status, seen.reason(), seen.ran), (403, "scope_insufficient", false), "{about}: {seen:?}");
        // Only the route does.
        edge.send(with(PUBLIC.0, &[])).await.assert_ran(&about);
    }
    // Nor does a preflight, whatever the method's own rule.
    let mut preflight = Edge::request(GUARDED.0, &[]);
    *preflight.method_mut() = Method::OPTIONS;
    preflight
        .headers_mut()
        .extend([header("origin", b"https://a.example"), header("access-control-request-method", b"GET")]);
    edge.send(preflight).await.assert_no_credentials("a preflight");
}

#[tokio::test]
async fn t_062_a_token_in_the_url_is_no_token_and_the_query_is_written_nowhere() {
    let log = Log::default();
    let _kept = log.keep();
    let policy = Arc::new(StubBackend::new(Answer::Allow));
    let backend: Arc<dyn PolicyBackend> = policy.clone();
    let edge = Edge::asking(backend).await;
    let token = edge.good().mint();
    let (text, bearer) = (token.as_str(), token.bearer());
    const CANARY: &str = "canary-of-query";
    let queries = [
        format!("access_token={text}&page={CANARY}"),
        format!("ACCESS_TOKEN={text}&page={CANARY}"),
        format!("access%5Ftoken={text}&page={CANARY}"),
        format!("token={text}&page={CANARY}"),
        format!("id_token={text}&page={CANARY}"),
        format!("authorization=Bearer%20{text}&page={CANARY}"),
        format!("Authorization=Bearer+{text}&page={CANARY}"),
        format!("bearer={text}&page={CANARY}"),
        format!("access_token={text}&access_token={text}&page={CANARY}"),
        format!("page={CANARY};access_token={text}"),
    ];
    for query in &queries {
        let (http, grpc) = (format!("{}?{query}", GUARDED.0), format!("{}?{query}", GUARDED.1));
        let mut records = Vec::new();
        for seen in [edge.http(&http, &[]).await, edge.grpc(&grpc, &[]).await] {
            seen.assert_no_credentials(query);
            records.push(seen.record);
        }
        let optional = edge.http(&format!("{}?{query}", OPTIONAL.0), &[]).await;
        optional.assert_ran("nobody, where nobody may come");
        assert_eq!(optional.record["principal"], "anonymous", "{query}");
        records.push(optional.record);
        // Beside a good token it is ignored.
        let both = edge.http(&http, &[bearer.as_bytes()]).await;
        both.assert_ran(query);
        records.push(both.record);
        let forged = edge.good().tampered().mint();
        let seen = edge.http(&http, &[forged.bearer().as_bytes()]).await;
        seen.assert_bad_token(&["token_signature"], query);
        records.push(seen.record);
        for record in records {
            let record = record.to_string();
            assert!(!record.contains(CANARY) && !record.contains(text) && !record.contains("access_token"), "{record}");
        }
    }
    // Nor does a policy see it, which may write down what it is asked.
    for input in policy.inputs() {
        let shown = serde_json::to_string(&input).unwrap();
        assert!(!shown.contains(text) && !shown.to_ascii_lowercase().contains("access_token"), "{shown}");
    }
    let log = log.text();
    assert!(!log.is_empty() && !log.contains(CANARY) && !log.contains(text), "{log}");
}

mod t_063 {
    use super::*;

    const ODD: [&[u8]; 6] = [b"\xff", b"caf\xe9", b"\xc3\xa9", b"a\xffb c", b"\xed\xa0\x80", b"\x80\x80\x80\x80"];

    #[tokio::test]
    async fn t_063_bytes_that_are_no_text_never_open_the_gate_nor_lose_the_record() {
        let policy = Arc::new(StubBackend::new(Answer::Allow));
        let backend: Arc<dyn PolicyBackend> = policy.clone();
        let edge = Edge::asking(backend).await;
        let good = edge.good().mint().bearer();
        for odd in ODD {
            let about = format!("{odd:?}");
            // In the credentials they are refused.
            for value in [[b"Bearer ", odd].concat(), [good.as_bytes(), odd].concat(), [b"Basic ", odd].concat()] {
                let (http, grpc) = edge.both(GUARDED, &[&value]).await;
                http.assert_malformed("credentials_illegal_byte", &about);
                grpc.assert_malformed("credentials_illegal_byte", &about);
            }
            // Elsewhere they are another header's business: the call is decided and recorded as ever.
            for name in ["user-agent", "x-request-id", "traceparent", "cookie", "x-forwarded-for", "accept", "x-tier"] {
                for (authorization, is_good) in [(vec![good.as_bytes()], true), (vec![], false)] {
                    let with = |target: &str| {
                        let mut request = Edge::request(target, &authorization);
                        request.headers_mut().extend([header(name, odd)]);
                        request
                    };
                    for seen in [edge.send(with(GUARDED.0)).await, edge.send_grpc(with(GUARDED.1)).await] {
                        match is_good {
                            true => seen.assert_ran(name),
                            false => seen.assert_no_credentials(name),
                        }
                        assert!(seen.record["trace_id"].is_null(), "{name}: {seen:?}");
                    }
                }
            }
        }
    }

    /// What a policy is shown can be told from every other value.
    #[tokio::test]
    async fn t_063_a_policy_is_shown_such_bytes_without_loss() {
        let policy = Arc::new(StubBackend::new(Answer::Allow));
        let backend: Arc<dyn PolicyBackend> = policy.clone();
        let edge = Edge::asking(backend).await;
        let good = edge.good().mint().bearer();
        let mut shown = std::collections::BTreeSet::new();
        let look_alikes: [&[u8]; 4] = [b"%FF", b"caf%E9", b"%C3%A9", "\u{fffd}".as_bytes()];
        let values: Vec<_> = ODD.into_iter().chain(look_alikes).collect();
        for value in &values {
            let mut request = Edge::request(GUARDED.0, &[good.as_bytes()]);
            request.headers_mut().extend([header("x-tier", value)]);
            edge.send(request).await.assert_ran("odd bytes");
            let [text] = policy.inputs().pop().unwrap().context.headers["x-tier"].clone().try_into().unwrap();
            assert!(text.is_ascii(), "{text}");
            shown.insert(text);
        }
        assert_eq!(shown.len(), values.len(), "two values look the same: {shown:?}");
    }

    #[tokio::test]
    async fn t_063_over_a_real_socket() {
        let house = Guarded::house().await;
        let token = house.mallory();
        for odd in ODD {
            for name in ["user-agent", "cookie", "x-anything", "traceparent"] {
                let head = [b"GET /jobs HTTP/1.1\r\nhost: a\r\n", name.as_bytes(), b": ", odd, b"\r\n"].concat();
                house.raw(&head, Some(&token)).await.assert_ran("/jobs", name);
                house.raw(&head, None).await.assert_refused(401, "credentials_missing", name);
            }
            let head = [b"GET /jobs HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ", odd, b"\r\n"].concat();
            house.raw(&head, None).await.assert_refused(400, "credentials_illegal_byte", "credentials");
            // A host of such bytes names nobody; it is refused, and if it is not, then it is still asked who calls.
            let head = [b"GET /jobs HTTP/1.1\r\nhost: ", odd, b"\r\n"].concat();
            let seen = house.raw(&head, None).await;
            assert!(seen.ran.is_empty() && matches!(seen.status, Some(400 | 401)), "{seen:?}");
        }
    }
}

mod t_064 {
    use super::*;

    fn megabyte(byte: &[u8]) -> Bytes {
        [b"Bearer ", byte.repeat((1 << 20) / byte.len()).as_slice()].concat().into()
    }

    fn verifier() -> Verifier {
        let keys = JwkSet::parse(json!({"keys": [OWN.jwk("ed25519")]}).to_string().as_bytes()).unwrap();
        Verifier::builder(Issuer::oauth("https://login.acme.example/", AUDIENCE).with_keys(keys)).build().unwrap()
    }

    #[tokio::test]
    async fn t_064_a_megabyte_of_dots_is_a_bad_token_like_any_other() {
        let edge = Edge::new().await;
        for unit in [".", "a.", "..a", "e30.", "a"] {
            let token = unit.repeat((1 << 20) / unit.len());
            edge.refuses(&token, "token_too_long", unit).await;
        }
    }

    /// Nothing is copied on the way to the verdict: what holds the token is the header's own bytes, counted.
    #[test]
    fn t_064_a_token_is_a_view_of_its_header_however_long() {
        for unit in [&b"."[..], b"a.", b"a"] {
            let bytes = megabyte(unit);
            let value = HeaderValue::from_maybe_shared(bytes.clone()).unwrap();
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            assert!(!bytes.is_unique());
            let token = AccessToken::from_headers(&headers).unwrap().unwrap();
            drop(headers);
            assert!(!bytes.is_unique(), "the token shares them");
            let clone = token.clone();
            let outcome = verifier().verify_now(&clone, UnixTime::from_secs(1_800_000_000));
            assert!(matches!(outcome, Some(Err(TokenError::TooLong { .. }))));
            assert_eq!(format!("{token:?}"), "AccessToken(..)");
            drop((token, clone));
            assert!(bytes.is_unique(), "nobody keeps them");
        }
    }
}

/// A parser that looks back from every byte needs 10^12 steps for a megabyte, and minutes of a processor; one that goes through
/// once needs milliseconds. That is what is told apart here, and no more. It is the processor's time that is looked at, where the
/// system tells: the clock on the wall also counts what else the machine does.
mod t_065 {
    use super::*;

    const SIZES: [usize; 2] = [64 * 1024, 1 << 20];
    const BOUND: Duration = Duration::from_secs(2);

    /// On a thread of its own, so that one that does not come back is a failure and not a hang.
    fn comes_back<T: Send + 'static>(about: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || {
            let before = processor_time();
            let found = work();
            let spent = processor_time().zip(before).map(|(after, before)| after - before);
            drop(done.send((found, spent)));
        });
        let (found, spent) = result.recv_timeout(3 * PATIENCE).unwrap_or_else(|_| panic!("{about} does not come back"));
        assert!(spent.is_none_or(|spent| spent < BOUND), "{about} takes {spent:?}");
        found
    }

    /// What this thread has had of a processor, where the system is Linux.
    fn processor_time() -> Option<Duration> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }

    /// So much of it, and no more.
    fn fill(unit: &str, size: usize) -> String {
        unit.repeat(size / unit.len())
    }

    #[test]
    fn t_065_bearer_headers() {
        for size in SIZES {
            for (scheme, unit) in [
                ("Bearer ", ","),
                ("Bearer ", " "),
                ("Bearer ", "="),
                ("Bearer ", "a="),
                ("Bearer ", "a,"),
                ("Bearer ", "."),
                ("Bearer ", "a"),
                ("Basic ", ","),
                ("Basic ", ", "),
                ("Basic ", ", b"),
                ("Basic ", ",bearer"),
                ("Basic ", " , \t"),
                ("Digest ", "a=\"b\","),
                ("", "a"),
                ("", "!"),
                ("", " "),
                ("", "Bearer "),
            ] {
                let value = HeaderValue::from_str(&format!("{scheme}{}", fill(unit, size))).unwrap();
                let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
                let about = format!("{scheme:?} and {unit:?}");
                let found =
                    comes_back(&about, move || AccessToken::from_headers(&headers).map(|token| token.is_some()));
                let is_token = scheme == "Bearer " && (unit == "." || unit == "a");
                let is_bare_scheme = scheme.is_empty() && (unit == "a" || unit == "!");
                let is_other = scheme == "Basic " && [",", ", ", ", b", ",bearer"].contains(&unit);
                match found {
                    Ok(true) => assert!(is_token, "{about}"),
                    Ok(false) => assert!(is_bare_scheme || is_other || scheme == "Digest ", "{about}"),
                    Err(_) => assert!(!is_token, "{about}"),
                }
            }
            let mut headers = HeaderMap::new();
            for _ in 0..1000 {
                headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"));
            }
            let repeated = comes_back("a thousand headers", move || AccessToken::from_headers(&headers).map(drop));
            assert_eq!(repeated, Err(BearerError::Repeated));
        }
    }

    /// Signed, so that nothing but the parser under test decides; `None` for the default cap on size.
    fn verdict(token: String, size: Option<usize>) -> String {
        let keys = JwkSet::parse(json!({"keys": [OWN.jwk("ed25519")]}).to_string().as_bytes()).unwrap();
        let builder = Verifier::builder(Issuer::oauth("https://login.acme.example/", AUDIENCE).with_keys(keys));
        let builder = size.into_iter().fold(builder, |builder, size| builder.with_max_token_size(size));
        let verifier = builder.build().unwrap();
        comes_back("a verdict", move || {
            let token = AccessToken::new(token).unwrap();
            drop(verifier.claimed(&token));
            let outcome = verifier.verify_now(&token, UnixTime::from_secs(1_800_000_000)).unwrap();
            outcome.map_or_else(|error| error.code().to_owned(), |_| "accepted".to_owned())
        })
    }

    #[test]
    fn t_065_compact_tokens_and_base64() {
        for size in SIZES {
            for unit in [".", "a", "a.", "=", "-", "_", "A", "e30.", "e30", "....a"] {
                let text = fill(unit, size - 16);
                let Ok(_) = AccessToken::new(text.clone()) else { continue };
                assert_eq!(verdict(text.clone(), Some(1 << 20)), "token_malformed", "{unit}");
                for around in
                    [format!("{text}..").replace("...", ".a."), format!("e30.{text}"), format!("e30.e30.{text}")]
                {
                    let code = verdict(around, Some(1 << 20));
                    assert!(["token_malformed", "token_too_long"].contains(&code.as_str()), "{unit}: {code}");
                }
                assert_eq!(verdict(text, None), "token_too_long", "{unit}");
            }
        }
    }

    #[test]
    fn t_065_claims() {
        for size in SIZES.map(|size| size * 5 / 8) {
            let many = |unit: &str, end: &str| format!("[{}{end}]", fill(unit, size));
            // Few enough of them that it is not their number that is refused.
            let long = "b".repeat(1000);
            let (url, word) = (format!("\"https://{long}.example\","), format!("\"{long}\","));
            let object = format!("{{\"value\":\"{}\"}},", long.repeat(4));
            for (name, claim, text, expected) in [
                ("aud of strings", "aud", many(&word, "\"\""), "token_audience"),
                ("aud that names us last", "aud", many(&url, &format!("\"{AUDIENCE}\"")), "accepted"),
                ("aud that is odd at the end", "aud", many(&url, "7"), "token_claim_malformed"),
                ("one long aud", "aud", format!("\"{}\"", fill("https://api.example", size)), "token_audience"),
                ("scope of words", "scope", format!("\"{}z\"", fill("jobs:read ", size)), "accepted"),
                ("scope of different words", "scope", json!(words(size)).to_string(), "accepted"),
                ("scope of spaces", "scope", format!("\"{}\"", fill(" ", size)), "token_claim_malformed"),
                ("one long word", "scope", format!("\"{}\"", fill("a", size)), "accepted"),
                ("scp of words", "scp", many(&word, "\"jobs:read\""), "accepted"),
                ("amr", "amr", many(&word, "\"pwd\""), "accepted"),
                ("roles", "roles", many(&object, "{\"value\":\"a\"}"), "accepted"),
                ("small strings without number", "aud", many("\"\",", "\"\""), "token_malformed"),
                ("small objects without number", "roles", many("{},", "{}"), "token_malformed"),
                ("a long name", "sub", format!("\"{}\"", fill("a", size)), "accepted"),
                ("a blank name", "sub", format!("\"{}\"", fill(" ", size)), "token_claim_malformed"),
                (
                    "actors",
                    "act",
                    format!("{}null{}", fill(r#"{"sub":"a","act":"#, size / 2), fill("}", size / 2 / 17)),
                    "token_malformed",
                ),
                ("depth", "x", fill("[", size), "token_malformed"),
                ("escapes", "x", format!("\"{}\"", fill(r"\u0041", size)), "accepted"),
                ("backslashes", "x", format!("\"{}\"", fill(r"\\", size)), "accepted"),
                ("digits", "exp", fill("1", size), "token_malformed"),
                ("zeros after the point", "exp", format!("1800000300.{}", fill("0", size)), "accepted"),
                ("look-alikes", "x", "0".to_owned() + &look_alikes(), "accepted"),
            ] {
                let mut claims =
                    json!({"iss": "https://login.acme.example/", "sub": "a", "aud": AUDIENCE, "exp": 1_800_000_300});
                claims.as_object_mut().unwrap().remove(claim);
                let payload = format!("{},\"{claim}\":{text}}}", claims.to_string().trim_end_matches('}'));
                let header = r#"{"alg":"Ed25519","kid":"ed25519"}"#;
                let token = compact(header, payload, |input| OWN.sign("Ed25519", input));
                assert!(token.len() <= 1 << 20, "{name}: {}", token.len());
                let code = verdict(token, Some(1 << 20));
                let either = expected == "token_malformed" && code == "token_claim_malformed";
                assert!(code == expected || either, "{name} of {size}: {code}");
            }
        }
    }

    /// So many bytes of words that are all different.
    fn words(size: usize) -> String {
        (0..size / 8).map(|index| format!("w{index:06}")).collect::<Vec<_>>().join(" ")
    }

    /// As many members as one object may have, each with a name that has to be folded.
    fn look_alikes() -> String {
        (0..200).map(|index| format!(",\"\u{17f}{}{index}\":0", "\u{130}".repeat(20))).collect()
    }

    #[test]
    fn t_065_scope_words() {
        for size in SIZES {
            let text = words(size);
            let expected = text.split(' ').count();
            let scope = comes_back("words", move || Scope::parse(&text)).unwrap();
            assert_eq!(scope.iter().count(), expected);
            for unit in [" ", "a ", "\t", "a\u{a0}", "\""] {
                let text = fill(unit, size);
                assert!(comes_back(unit, move || Scope::parse(&text)).is_err(), "{unit:?}");
            }
        }
    }

    #[test]
    fn t_065_key_sets() {
        // At most 256 KiB of a key set are read at all.
        for size in [64 * 1024, 255 * 1024] {
            let list = |unit: &str| format!("{{\"keys\":[{}{unit}]}}", fill(&format!("{unit},"), size - 600));
            let key = OWN.jwk("ed25519").to_string();
            for (name, document, keys) in [
                ("empty objects", list("{}"), None),
                ("nulls", list("null"), None),
                ("numbers", list("0"), None),
                ("strings", list("\"\""), None),
                ("nested arrays", list("[[[[]]]]"), None),
                ("one key again and again", list(&key), Some(1)),
                ("unknown types", list(r#"{"kty":"x"}"#), None),
                ("depth", format!("{{\"keys\":{}", fill("[", size - 600)), None),
                ("a long kid", format!("{{\"keys\":[{{\"kid\":\"{}\"}}]}}", fill("k", size - 600)), None),
                (
                    "a long modulus",
                    format!(r#"{{"keys":[{{"kty":"RSA","e":"AQAB","n":"{}"}}]}}"#, fill("A", size - 600)),
                    None,
                ),
                ("members", format!("{{\"keys\":[{key}]{}}}", fill(",\"x\":0", size - 600)), Some(1)),
            ] {
                let set = comes_back(name, move || JwkSet::parse(document.as_bytes()));
                assert_eq!(set.ok().map(|set| set.len()), keys, "{name}");
            }
            let above = list("{}") + &" ".repeat(256 * 1024);
            assert!(JwkSet::parse(above.as_bytes()).is_err());
        }
    }

    #[tokio::test]
    async fn t_065_discovery_documents() {
        for unit in ["[", "{\"a\":", ",", "\"", "\\", "0", " ", "\"a\":0,", "{}"] {
            for size in [64 * 1024, 250 * 1024] {
                let document = format!("{{\"issuer\":{}", fill(unit, size));
                let alone = Bytes::from(document.clone());
                let outbound =
                    Outbound::new(tower::service_fn(move |_| std::future::ready(Ok(Response::new(alone.clone())))));
                let remote = Remote::discover("https://login.example").with_outbound(outbound).build().unwrap();
                let refused = comes_back(unit, move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let loaded = runtime.block_on(Arc::new(remote).load(LoadRequest::default()));
                    loaded.err().map(|error| error.kind())
                });
                assert_eq!(refused, Some(KeyErrorKind::InvalidDocument), "{unit:?}");
                let asked = Arc::new(Mutex::new(Vec::new()));
                let log = Arc::clone(&asked);
                let serve = async move |uri: Uri| {
                    log.lock().unwrap().push(uri.path().to_owned());
                    document
                };
                let router = Router::new().fallback(get(serve));
                let server = Host::router(router).await;
                let issuer = Issuer::oauth(format!("http://{}", server.address), AUDIENCE);
                let memory = Memory::new();
                let rules = Rules::new().get("/jobs", policy_only());
                let stack = Stack::builder(issuer, rules, policy::deny_all(), memory.clone()).build().unwrap();
                let service =
                    portcullis::axum::protect(Router::new().route("/jobs", get(async || "in")), stack.clone());
                let iss = format!("http://{}", server.address);
                let token = format!(
                    "{}.{}.AA",
                    base64url(r#"{"alg":"RS256","kid":"1"}"#),
                    base64url(json!({"iss": iss}).to_string())
                );
                // No keys is an outage, not a bad token.
                let answer = send(service, get_with("/jobs", &format!("Bearer {token}"))).await;
                let record = only_record(&stack, &memory).await;
                // And that it was fetched at all; it leads nowhere.
                assert_eq!(*asked.lock().unwrap(), ["/.well-known/openid-configuration"], "{unit:?}");
                assert_eq!(
                    (answer.status().as_u16(), &record["reason"]),
                    (503, &json!("keys_unavailable")),
                    "{unit:?}"
                );
            }
        }
    }
}
