//! Signature and algorithm: whoever lets a token choose how it is checked has not checked it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use portcullis::{
    Issuer,
    key::{Algorithm, Jwk, JwkSet, KeyError, KeySource, LoadRequest, LoadedKeys, SharedSecret},
    testing::{FrozenClock, TestIssuer, TestToken, TokenBuilder},
    time::UnixTime,
    token::{AccessToken, Verifier},
};
use serde_json::{Value, json};

use super::{
    edge::{Edge, GUARDED, PUBLIC},
    forge::{self, Keys, OWN, base64url, compact, decoded, encodings, hmac, spellings},
    issuer, rust_files,
};
use crate::support::{AUDIENCE, Log};

const ISSUER: &str = "https://login.acme.example/";
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// What somebody who holds a key would put under it.
fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "root", "aud": AUDIENCE, "client_id": "web", "scope": "jobs:read", "jti": "1",
           "iat": NOW.as_secs(), "exp": NOW.as_secs() + 300})
}

fn header(algorithm: &str, kid: impl Into<Option<&'static str>>) -> Value {
    match kid.into() {
        Some(kid) => json!({"alg": algorithm, "typ": "at+jwt", "kid": kid}),
        None => json!({"alg": algorithm, "typ": "at+jwt"}),
    }
}

/// A verifier that trusts these keys.
fn trusting(keys: &[Value], configure: impl FnOnce(Issuer) -> Issuer) -> Verifier {
    let set = JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    Verifier::builder(configure(Issuer::oauth(ISSUER, AUDIENCE).with_keys(set))).build().unwrap()
}

/// The reason's code, or `accepted`.
fn verdict(verifier: &Verifier, token: &str) -> &'static str {
    let token = AccessToken::new(token).unwrap();
    let outcome = verifier.verify_now(&token, NOW).expect("keys that are there need no waiting");
    outcome.map_or_else(|error| error.code(), |_| "accepted")
}

fn parts(token: &TestToken) -> [&str; 3] {
    let mut parts = token.as_str().split('.');
    [(); 3].map(|()| parts.next().unwrap())
}

#[tokio::test]
async fn t_001_alg_none_in_no_spelling_and_alg_of_no_other_type_is_accepted() {
    const ODD: [&str; 26] = [
        r#""none""#,
        r#""None""#,
        r#""NONE""#,
        r#""nOnE""#,
        r#""NoNe""#,
        r#"" none""#,
        r#""none ""#,
        r#""none\u0000""#,
        r#""\u006eone""#,
        r#""n\u006Fne""#,
        r#""""#,
        r#"" ""#,
        r#""null""#,
        r#""undefined""#,
        r#""RS256,none""#,
        "null",
        "0",
        "1",
        "256",
        "true",
        "false",
        "[]",
        r#"["none"]"#,
        r#"["RS256"]"#,
        "{}",
        r#"{"alg":"RS256"}"#,
    ];
    let edge = Edge::new().await;
    let kid = edge.idp.key_id(Algorithm::Rs256);
    let headers = || {
        let named = ODD.iter().map(|alg| format!(r#"{{"alg":{alg},"typ":"at+jwt","kid":"{kid}"}}"#));
        let absent = format!(r#"{{"typ":"at+jwt","kid":"{kid}"}}"#);
        let twice = format!(r#"{{"alg":"RS256","alg":"none","typ":"at+jwt","kid":"{kid}"}}"#);
        named.chain([absent, twice])
    };
    let signatures: [fn(TokenBuilder) -> TokenBuilder; 3] = [
        |token| token.signature([]),
        |token| token.signature([0]),
        // Good, of the key that is named.
        |token| token,
    ];
    const CODES: [&str; 2] = ["token_algorithm", "token_malformed"];
    for header in headers() {
        for sign in signatures {
            let token = sign(edge.good().raw_header(&header)).mint();
            edge.refuses_for_one_of(token.as_str(), &CODES, &header).await;
        }
    }

    // Whatever is configured, and with no key at all.
    let idp = TestIssuer::builder().with_auth0_domain("acme.eu.auth0.com").with_clock(FrozenClock::default());
    let idp = idp.start().await;
    let presets = [
        Issuer::rfc9068(idp.url(), AUDIENCE),
        Issuer::oauth(idp.url(), AUDIENCE),
        Issuer::auth0("acme.eu.auth0.com", AUDIENCE),
    ];
    let lists = Algorithm::ALL.map(|algorithm| vec![algorithm]).into_iter().chain([Algorithm::ALL.to_vec()]);
    for (preset, algorithms) in presets.iter().flat_map(|preset| lists.clone().map(move |list| (preset, list))) {
        let issuer = preset.clone().with_algorithms(algorithms.clone()).with_keys(idp.key_set());
        let verifier = Verifier::builder(issuer).build().unwrap();
        for (header, sign) in headers().flat_map(|header| signatures.map(|sign| (header.clone(), sign))) {
            let token = sign(idp.token().raw_header(&header)).mint();
            let code = verdict(&verifier, token.as_str());
            assert!(CODES.contains(&code), "{code}: {header} with {algorithms:?} at {preset:?}");
        }
    }

    // With no key at all: such a set does not build, and one that is published is no set.
    let empty = Issuer::oauth(ISSUER, AUDIENCE).with_keys(JwkSet::default());
    assert_eq!(Verifier::builder(empty).build().unwrap_err().field(), "key.source");
    for edge in [Edge::with_empty_key_set().await, Edge::without_keys().await] {
        for header in headers() {
            for sign in signatures {
                let token = sign(edge.good().raw_header(&header)).mint();
                edge.refuses_for_one_of(token.as_str(), &CODES, &header).await;
            }
        }
    }
}

mod t_002 {
    use super::*;

    /// The header of the confusion: the names that a library might map to the verification key that it was given.
    const NAMES: [&str; 3] = ["HS256", "HS384", "HS512"];

    fn verifiers(keys: &[Value]) -> Vec<Verifier> {
        let all = |issuer: Issuer| issuer.with_algorithms(Algorithm::ALL);
        let set = || JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        let rfc9068 = Verifier::builder(Issuer::rfc9068(ISSUER, AUDIENCE).with_keys(set())).build().unwrap();
        // Keys with `alg` left out leave the choice open, so they are tried as well.
        let bare = keys.iter().map(|key| {
            let mut key = key.clone();
            key.as_object_mut().unwrap().remove("alg");
            key
        });
        vec![trusting(keys, all), trusting(&bare.collect::<Vec<_>>(), all), rfc9068]
    }

    /// Counts forgeries that were refused; none may be accepted.
    fn try_all(keys: &[Value], spell: impl Fn(&str, Vec<u8>) -> Vec<(String, Vec<u8>)>) -> usize {
        let (verifiers, mut forgeries) = (verifiers(keys), 0);
        for key in keys {
            let materials = encodings(key).into_iter().flat_map(|(form, bytes)| spell(form, bytes));
            for (form, secret) in materials {
                for name in NAMES {
                    for kid in [Some(key["kid"].clone()), None] {
                        let mut header = json!({"alg": name, "typ": "at+jwt"});
                        header.as_object_mut().unwrap().extend(kid.map(|kid| ("kid".to_owned(), kid)));
                        let sign = |input: &[u8]| hmac(name, &secret, input);
                        let token = compact(header.to_string(), claims().to_string(), sign);
                        for verifier in &verifiers {
                            assert_eq!(verdict(verifier, &token), "token_algorithm", "{form} of {key} as {name}");
                        }
                        forgeries += 1;
                    }
                }
            }
        }
        forgeries
    }

    fn keys() -> Vec<Value> {
        Keys::KINDS.map(|(kind, _)| OWN.jwk(kind)).to_vec()
    }

    #[tokio::test]
    async fn t_002_a_public_key_in_no_encoding_is_a_shared_secret() {
        let forgeries = try_all(&keys(), |form, bytes| vec![(form.to_owned(), bytes)]);
        assert!(forgeries >= 100, "{forgeries}");

        // And from outside, under the keys that the issuer publishes.
        let edge = Edge::new().await;
        for algorithm in Algorithm::ALL {
            let published = edge.idp.jwks();
            let kid = edge.idp.key_id(algorithm);
            let key = published["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).unwrap();
            for (form, secret) in encodings(key) {
                let token = edge.good().algorithm(algorithm).header("alg", "HS256").mint();
                let (input, _) = token.as_str().rsplit_once('.').unwrap();
                let forged = format!("{input}.{}", base64url(hmac("HS256", &secret, input.as_bytes())));
                edge.refuses(&forged, "token_algorithm", form).await;
                // The header may also name the key's own algorithm: an HMAC is then a signature that does not fit.
                let token = edge.good().algorithm(algorithm).mint();
                let (input, _) = token.as_str().rsplit_once('.').unwrap();
                let forged = format!("{input}.{}", base64url(hmac("HS256", &secret, input.as_bytes())));
                edge.refuses(&forged, "token_signature", form).await;
            }
        }
    }

    #[test]
    fn t_003_a_public_key_is_no_secret_with_odd_white_space_around_it_either() {
        let forgeries = try_all(&keys(), |form, bytes| {
            // White space around what is no text makes another key.
            if std::str::from_utf8(&bytes).is_err() {
                return Vec::new();
            }
            spellings(&bytes).into_iter().map(|(how, bytes)| (format!("{form}, {how}"), bytes)).collect()
        });
        assert!(forgeries >= 500, "{forgeries}");
    }

    /// Were the encodings wrong, the tests above would show nothing.
    #[test]
    fn t_002_the_encodings_are_those_of_the_keys() {
        use aws_lc_rs::signature::{
            ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
            RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
        };
        let table: [(&str, &str, &'static dyn VerificationAlgorithm); 5] = [
            ("rsa", "RS256", &RSA_PKCS1_2048_8192_SHA256),
            ("p256", "ES256", &ECDSA_P256_SHA256_FIXED),
            ("p384", "ES384", &ECDSA_P384_SHA384_FIXED),
            ("p521", "ES512", &ECDSA_P521_SHA512_FIXED),
            ("ed25519", "Ed25519", &ED25519),
        ];
        for (kind, name, algorithm) in table {
            let signature = OWN.sign(name, b"message");
            let der =
                encodings(&OWN.jwk(kind)).into_iter().filter(|(form, _)| form.ends_with("DER") || *form == "point");
            for (form, bytes) in der {
                let key = UnparsedPublicKey::new(algorithm, bytes);
                assert!(key.verify(b"message", &signature).is_ok(), "{form} of {kind}");
            }
        }
    }
}

#[test]
fn t_004_a_key_without_alg_verifies_what_fits_it_and_is_configured() {
    let keys = Keys::KINDS.map(|(kind, _)| OWN.jwk(kind));
    let set = JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    let names: BTreeSet<_> = Keys::KINDS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let mut accepted = BTreeMap::new();
    for configured in Algorithm::ALL {
        let issuer = Issuer::oauth(ISSUER, AUDIENCE).with_keys(set.clone()).with_algorithms([configured]);
        let verifier = Verifier::builder(issuer).build().unwrap();
        // Every key, every name of an algorithm in the header, and every way of signing that the key has.
        for (kind, ways) in Keys::KINDS {
            for (said, way) in names.iter().flat_map(|said| ways.iter().map(move |way| (*said, *way))) {
                let sign = |input: &[u8]| OWN.sign(way, input);
                let token = compact(header(said, kind).to_string(), claims().to_string(), sign);
                let same =
                    Algorithm::from_name(said).is_some() && Algorithm::from_name(said) == Algorithm::from_name(way);
                let good = same && Algorithm::from_name(said) == Some(configured);
                let code = verdict(&verifier, &token);
                assert_eq!(
                    code == "accepted",
                    good,
                    "{code}: {kind} signs as {way}, says {said}, allowed {configured}"
                );
                *accepted.entry(configured.name()).or_insert(0) += usize::from(good);
            }
        }
    }
    // The control: each algorithm was accepted under its own key at least once.
    assert_eq!(accepted.len(), Algorithm::ALL.len());
    assert!(accepted.values().all(|times| *times > 0), "{accepted:?}");
}

/// The rest of it is a `compile_fail` doctest of the guide: there is no name for it.
#[test]
fn t_005_hmac_has_no_name_beside_a_key_set() {
    for name in ["HS256", "HS384", "HS512", "HS1", "HMAC", "none"] {
        assert_eq!(Algorithm::from_name(name), None);
        assert!(Algorithm::ALL.iter().all(|algorithm| algorithm.name() != name));
        let secret = json!({"kty": "oct", "kid": "1", "alg": name, "use": "sig", "k": base64url([7; 64])});
        assert!(Jwk::from_json(&secret.to_string()).is_err(), "{name}");
        let mut odd = OWN.jwk("rsa");
        odd["alg"] = json!(name);
        assert!(Jwk::from_json(&odd.to_string()).is_err(), "an RSA key for {name}");
    }
    let secret = json!({"kty": "oct", "kid": "1", "k": base64url([7; 64])});
    let both = JwkSet::parse(json!({"keys": [secret, OWN.jwk("p256")]}).to_string().as_bytes()).unwrap();
    assert_eq!((both.len(), both.skipped().len()), (1, 1), "a secret in a published set is left out");
}

mod t_006 {
    use super::*;

    const ORDERS: [(&str, &str); 3] = [
        ("ES256", "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"),
        ("ES384", "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973"),
        (
            "ES512",
            "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa\
             51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        ),
    ];

    fn from_hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// `None` when the sum has no room.
    fn sum(one: &[u8], other: &[u8]) -> Option<Vec<u8>> {
        let mut carry = 0;
        let mut sum = vec![0; one.len()];
        for (at, byte) in sum.iter_mut().enumerate().rev() {
            carry += u16::from(one[at]) + u16::from(other[at]);
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        (carry == 0).then_some(sum)
    }

    #[tokio::test]
    async fn t_006_ecdsa_signatures_out_of_range_or_form_are_refused() {
        let edge = Edge::new().await;
        let curves = Algorithm::ALL.into_iter().filter(|algorithm| algorithm.name().starts_with("ES"));
        for algorithm in curves {
            let (_, order) = ORDERS.iter().find(|(name, _)| *name == algorithm.name()).expect("the order of the curve");
            let n = from_hex(order);
            let width = n.len();
            let zero = vec![0; width];
            let mut one = zero.clone();
            one[width - 1] = 1;
            let over = sum(&n, &one).unwrap();
            let highest = vec![0xff; width];

            let good = edge.good().algorithm(algorithm);
            let token = good.clone().mint();
            edge.accepts(token.as_str(), "the control").await;
            let signature = decoded(&json!(parts(&token)[2]));
            let (r, s) = signature.split_at(width);
            let integers = [forge::integer(r), forge::integer(s)].concat();
            let mut cases = vec![
                ("r = 0", [&zero, s].concat()),
                ("s = 0", [r, &zero].concat()),
                ("r = s = 0", [zero.as_slice(), &zero].concat()),
                ("r = s = 1", [one.as_slice(), &one].concat()),
                ("r = n", [&n, s].concat()),
                ("s = n", [r, &n].concat()),
                ("r = s = n", [n.as_slice(), &n].concat()),
                ("r = n + 1", [&over, s].concat()),
                ("s = n + 1", [r, &over].concat()),
                ("r = s = n + 1", [over.as_slice(), &over].concat()),
                ("all ones", [highest.as_slice(), &highest].concat()),
                ("r and s change places", [s, r].concat()),
                ("DER", forge::der(0x30, &integers)),
                ("DER without its frame", integers),
                ("r alone", r.to_vec()),
                ("a byte short", signature[..2 * width - 1].to_vec()),
                ("a byte long", [signature.as_slice(), &[0]].concat()),
                ("a zero in front of each", [&[0], r, &[0], s].concat()),
                ("a zero in front", [&[0], signature.as_slice()].concat()),
                ("a format byte in front", [&[4], signature.as_slice()].concat()),
                ("twice", [signature.as_slice(), &signature].concat()),
            ];
            // On P-521 a number that is not reduced has room in the width of the curve.
            cases.extend(sum(r, &n).map(|unreduced| ("r + n", [&unreduced, s].concat())));
            cases.extend(sum(s, &n).map(|unreduced| ("s + n", [r, &unreduced].concat())));
            for (name, signature) in cases {
                let token = resigned(&token, &signature);
                edge.refuses(&token, "token_signature", &format!("{name} on {algorithm}")).await;
            }
        }
    }
}

fn resigned(token: &TestToken, signature: &[u8]) -> String {
    let (input, _) = token.as_str().rsplit_once('.').unwrap();
    format!("{input}.{}", base64url(signature))
}

#[tokio::test]
async fn t_007_empty_short_and_long_signatures_are_refused() {
    let edge = Edge::new().await;
    for algorithm in Algorithm::ALL {
        let token = edge.good().algorithm(algorithm).mint();
        let signature = decoded(&json!(parts(&token)[2]));
        let half = signature.len() / 2;
        let cases = [
            ("empty", Vec::new()),
            ("one byte", vec![0]),
            ("one good byte", signature[..1].to_vec()),
            ("half", signature[..half].to_vec()),
            ("the other half", signature[half..].to_vec()),
            ("the last byte missing", signature[..signature.len() - 1].to_vec()),
            ("the first byte missing", signature[1..].to_vec()),
            ("a byte more", [signature.as_slice(), &[0]].concat()),
            ("a zero before it", [&[0], signature.as_slice()].concat()),
            ("twice", [signature.as_slice(), &signature].concat()),
            ("eight kilobytes", signature.iter().copied().cycle().take(8192).collect()),
            ("zeros", vec![0; signature.len()]),
        ];
        for (name, signature) in cases {
            edge.refuses(&resigned(&token, &signature), "token_signature", &format!("{name}, {algorithm}")).await;
        }
    }
}

/// Either the signature fails under the issuer's own key, or there is no such key, or such a header is refused as it is.
const KEY_OF_THE_TOKEN: [&str; 3] = ["token_signature", "token_unknown_key", "token_header_parameter"];

#[tokio::test]
async fn t_008_a_key_in_the_header_is_never_used() {
    let edge = Edge::new().await;
    for (kind, names) in Keys::KINDS {
        for name in names.iter().filter(|name| Algorithm::from_name(name).is_some()) {
            let own = OWN.jwk(kind);
            let named = edge.idp.key_id(Algorithm::from_name(name).unwrap());
            for kid in [Value::Null, own["kid"].clone(), json!(named)] {
                let mut header = json!({"alg": name, "typ": "at+jwt", "jwk": own});
                header["jwk"]["kid"] = kid.clone();
                if !kid.is_null() {
                    header["kid"] = kid;
                }
                let claims = json!({"iss": edge.idp.url(), "sub": "root", "aud": AUDIENCE, "client_id": "web",
                    "scope": "jobs:read", "jti": "1", "iat": NOW.as_secs(), "exp": NOW.as_secs() + 300});
                let token = compact(header.to_string(), claims.to_string(), |input| OWN.sign(name, input));
                edge.refuses_for_one_of(&token, &KEY_OF_THE_TOKEN, &header.to_string()).await;
            }
        }
    }
}

#[tokio::test]
async fn t_009_an_address_or_certificate_in_the_header_is_never_used() {
    let edge = Edge::new().await;
    // The attacker's own server is up, and would be asked if anybody were.
    let mallory = TestIssuer::builder().with_clock(FrozenClock::default()).start().await;
    let certificate = forge::der(0x30, &encodings(&OWN.jwk("rsa"))[2].1);
    let certificates = json!([base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate)]);
    let parameters = [
        ("jku", json!(mallory.jwks_url())),
        ("jku", json!(format!("{}#@{}", mallory.jwks_url(), edge.idp.jwks_url()))),
        ("jku", json!("file:///etc/passwd")),
        ("jku", json!([mallory.jwks_url()])),
        ("x5u", json!(mallory.jwks_url())),
        ("x5u", json!("https://127.0.0.1:1/")),
        ("x5c", certificates),
        ("x5c", json!("AA==")),
        ("x5t", json!(base64url([7; 20]))),
        ("x5t#S256", json!(base64url([7; 32]))),
    ];
    for (name, value) in parameters {
        let about = format!("{name}: {value}");
        let theirs = mallory.key_id(Algorithm::Rs256);
        let forged = [
            edge.good().signed_by(&mallory).header(name, value.clone()).mint(),
            edge.good().signed_by(&mallory).header(name, value.clone()).kid(&theirs).mint(),
            edge.good().signed_by(&mallory).header(name, value.clone()).without_kid().mint(),
        ];
        for token in forged {
            edge.refuses_for_one_of(token.as_str(), &KEY_OF_THE_TOKEN, &about).await;
        }
        // Beside a good signature it is ignored or refused, and in neither case followed.
        let good = edge.good().header(name, value).mint();
        let seen = edge.http(GUARDED.0, &[good.bearer().as_bytes()]).await;
        let refused = (seen.status, seen.reason()) == (401, "token_header_parameter");
        assert!(refused || (seen.status == 200 && seen.ran), "{about}: {seen:?}");
        edge.assert_nothing_fetched(&about);
        assert_eq!(mallory.requests(), Default::default(), "{about}");
    }
}

#[tokio::test]
async fn t_010_a_kid_is_a_bounded_name_and_never_a_path_a_query_or_a_log_line() {
    let log = Log::default();
    let _kept = log.keep();
    let edge = Edge::new().await;
    let mallory = TestIssuer::builder().with_clock(FrozenClock::default()).start().await;
    const CANARY: &str = "canary-of-kid";
    let good = edge.idp.key_id(Algorithm::Rs256);
    let names = [
        format!("../../../../../../etc/passwd{CANARY}"),
        format!("/dev/null{CANARY}"),
        format!("..%2f..%2f{CANARY}"),
        format!(r"..\..\{CANARY}"),
        format!("file:///etc/passwd#{CANARY}"),
        format!("{}?{CANARY}", mallory.jwks_url()),
        format!("' OR '1'='1' -- {CANARY}"),
        format!("x' UNION SELECT 'secret' -- {CANARY}"),
        format!("\"; DROP TABLE keys; {CANARY}"),
        format!("$(touch /tmp/{CANARY})"),
        format!("|/bin/sh {CANARY}"),
        format!("${{jndi:ldap://127.0.0.1/{CANARY}}}"),
        format!("{{{{7*7}}}}{CANARY}"),
        format!("{CANARY}\0"),
        format!("{good}\0{CANARY}"),
        format!("\r\nset-cookie: {CANARY}=1"),
        format!("\u{1b}[2J{CANARY}\u{202e}"),
        format!("{good} {CANARY}"),
        format!("{CANARY}{}", "k".repeat(200)),
        "*".to_owned(),
        ".*".to_owned(),
        String::new(),
        good.to_uppercase(),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\0"),
        good[..good.len() - 1].to_owned(),
    ];
    for kid in &names {
        let about = format!("{kid:?}");
        edge.refuses("AA.AA.AA", "token_malformed", &about).await;
        // Signed by the attacker and by the key that would be the right one.
        for token in [edge.good().kid(kid).signed_by(&mallory).mint(), edge.good().kid(kid).mint()] {
            edge.refuses_for_one_of(token.as_str(), &["token_unknown_key", "token_malformed"], &about).await;
            let record = edge.http(GUARDED.0, &[token.bearer().as_bytes()]).await.record.to_string();
            assert!(!record.contains(['\0', '\r', '\n', '\u{1b}', '\u{202e}']), "{about}: {record}");
        }
    }
    let types = [json!(7), json!(0), json!(true), json!([good]), json!({"kid": good}), json!([]), json!({})];
    for kid in types.into_iter().chain([json!(format!("{CANARY}{}", "k".repeat(300))), json!("k".repeat(10_000))]) {
        let token = edge.good().header("kid", kid.clone()).mint();
        edge.refuses(token.as_str(), "token_malformed", &kid.to_string()).await;
    }
    let huge = edge.good().kid(&format!("{CANARY}{}", "k".repeat(64 * 1024))).mint();
    edge.refuses(huge.as_str(), "token_too_long", "64 KiB").await;

    assert_eq!(mallory.requests(), Default::default());
    let log = log.text();
    assert!(log.contains("TRACE") || log.contains("DEBUG") || log.contains("INFO"), "something was logged");
    assert!(!log.contains(CANARY), "{log}");
}

#[tokio::test]
async fn t_011_no_crit_is_understood() {
    let edge = Edge::new().await;
    for crit in [
        json!(["unknown"]),
        json!(["exp"]),
        json!(["b64"]),
        json!(["b64", "b64"]),
        json!(["unknown", "unknown"]),
        json!(["alg"]),
        json!(["kid", "typ", "crit"]),
        json!(["EXP"]),
        json!([]),
        json!([""]),
        json!([1]),
        json!([null]),
        json!([["exp"]]),
        json!("exp"),
        json!(""),
        json!({"exp": true}),
        json!(7),
        json!(true),
        json!(false),
        json!(null),
    ] {
        // The extension is there as well, as it has to be, so that only `crit` is at fault.
        let header = json!({"alg": "RS256", "typ": "at+jwt", "kid": edge.idp.key_id(Algorithm::Rs256), "crit": crit,
            "unknown": 1, "exp": 4_000_000_000_u64});
        let token = edge.good().raw_header(&header.to_string()).mint();
        edge.refuses_for_one_of(token.as_str(), &["token_header_parameter", "token_malformed"], &crit.to_string())
            .await;
    }
}

#[tokio::test]
async fn t_012_an_unencoded_payload_is_refused_with_and_without_crit() {
    let edge = Edge::new().await;
    for (b64, crit) in [
        (json!(false), Some(json!(["b64"]))),
        (json!(false), None),
        (json!(true), Some(json!(["b64"]))),
        (json!(true), None),
        (json!("false"), None),
        (json!(null), None),
    ] {
        let mut token = edge.good().header("b64", b64.clone());
        if let Some(crit) = &crit {
            token = token.header("crit", crit.clone());
        }
        let about = format!("b64 {b64}, crit {crit:?}");
        edge.refuses(token.mint().as_str(), "token_header_parameter", &about).await;
    }
    // As RFC 7797 has it: the payload stands as it is between the dots, and the signature is over just that.
    let verifier = trusting(&[OWN.jwk("ed25519")], |issuer| issuer);
    let header = base64url(r#"{"alg":"Ed25519","kid":"ed25519","b64":false,"crit":["b64"]}"#);
    let input = format!("{header}.payload-as-it-is");
    let token = format!("{input}.{}", base64url(OWN.sign("Ed25519", input.as_bytes())));
    assert_eq!(verdict(&verifier, &token), "token_header_parameter");
}

mod t_013 {
    use super::*;

    #[tokio::test]
    async fn t_013_only_the_compact_form_of_three_parts_is_read() {
        let edge = Edge::without_keys().await;
        let good = edge.good().mint();
        let [header, payload, signature] = parts(&good);
        let general = json!({"payload": payload, "signatures": [
            {"protected": base64url(r#"{"alg":"none"}"#), "signature": ""}, {"protected": header, "signature": signature}]});
        let flattened = json!({"protected": header, "payload": payload, "signature": signature});
        let mixed = json!({"protected": header, "header": {"alg": "none"}, "payload": payload, "signature": signature});
        // python-jwt read the braces, its caller the dots.
        let polyglot = format!(r#"{{"{header}.{payload}.{signature}":1,"payload":"{payload}"}}"#);
        for (name, json) in [
            ("general", general.to_string()),
            ("flattened", flattened.to_string()),
            ("an unprotected header", mixed.to_string()),
            ("both forms in one", polyglot),
        ] {
            // As it is it cannot stand in the header: the caller is told 400, as for any other bytes that no token has.
            let raw = format!("Bearer {json}");
            let (http, grpc) = edge.both(GUARDED, &[raw.as_bytes()]).await;
            for seen in [http, grpc] {
                assert!(matches!((seen.status, seen.grpc), (400, None) | (200, Some(3))), "{name}: {seen:?}");
                assert!(!seen.ran && seen.reason().starts_with("credentials_"), "{name}: {seen:?}");
            }
            edge.refuses(&base64url(&json), "token_malformed", name).await;
            edge.refuses(&format!("{header}.{}.{signature}", base64url(&json)), "token_issuer", name).await;
        }
    }

    #[tokio::test]
    async fn t_013_other_numbers_of_parts_and_nested_tokens_are_refused_before_any_key_is_looked_for() {
        let edge = Edge::without_keys().await;
        let good = edge.good().mint();
        let [header, payload, signature] = parts(&good);
        for (name, token) in [
            ("one part", header.to_owned()),
            ("two parts", format!("{header}.{payload}")),
            ("no signature and its dot", format!("{payload}.{signature}")),
            ("four parts", format!("{header}.{payload}.{signature}.{signature}")),
            ("an empty fourth", format!("{header}.{payload}.{signature}.")),
            ("an empty first", format!(".{header}.{payload}.{signature}")),
            ("five parts", format!("{header}.{payload}.{signature}.{payload}.{signature}")),
            ("six parts", format!("{header}.{payload}.{signature}.{header}.{payload}.{signature}")),
            ("two tokens", format!("{}.{}", good.as_str(), good.as_str())),
            ("a signature each", format!("{}.{signature}", good.as_str())),
            ("dots", ".".repeat(100)),
            ("two dots", "..".to_owned()),
            ("an empty header", format!(".{payload}.{signature}")),
            ("an empty payload", format!("{header}..{signature}")),
            ("a nested token", format!("{header}.{}.{signature}", base64url(good.as_str()))),
            (
                "a nested token as JSON text",
                format!("{header}.{}.{signature}", base64url(json!(good.as_str()).to_string())),
            ),
            ("an array of claims", format!("{header}.{}.{signature}", base64url(format!("[{}]", claims())))),
        ] {
            edge.refuses(&token, "token_malformed", name).await;
        }
    }
}

/// Over an issuer whose keys cannot be had: that the answer is 401 and not 503 shows that no key was looked for.
#[tokio::test]
async fn t_014_encrypted_and_compressed_tokens_cost_no_more_than_a_look_at_their_form() {
    let edge = Edge::without_keys().await;
    let encrypted = |header: Value| {
        format!("{}.{}.AAAA.{}.AAAA", base64url(header.to_string()), base64url([0; 24]), base64url([0; 6000]))
    };
    for (name, header) in [
        (
            "PBES2 two billion rounds",
            json!({"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2_147_483_647, "p2s": "AAAA"}),
        ),
        ("PBES2 9e99 rounds", json!({"alg": "PBES2-HS512+A256KW", "enc": "A256GCM", "p2c": 9e99, "p2s": "AAAA"})),
        ("deflated", json!({"alg": "dir", "enc": "A128GCM", "zip": "DEF"})),
        ("RSA", json!({"alg": "RSA-OAEP", "enc": "A128CBC-HS256"})),
    ] {
        edge.refuses(&encrypted(header), "token_malformed", name).await;
    }
    for (name, parameter, value) in [
        ("zip DEF", "zip", json!("DEF")),
        ("zip of an unknown kind", "zip", json!("GZ")),
        ("zip that is nothing", "zip", json!(null)),
        ("enc", "enc", json!("A128GCM")),
    ] {
        let token = edge.good().header(parameter, value).mint();
        edge.refuses(token.as_str(), "token_header_parameter", name).await;
    }
    // A payload that would unpack into gigabytes is not unpacked: it is no JSON object as it stands.
    let bomb: Vec<u8> = [0xed, 0xc0, 0x81].into_iter().chain(std::iter::repeat_n(0, 9000)).collect();
    let header = json!({"alg": "RS256", "typ": "at+jwt", "zip": "DEF"}).to_string();
    edge.refuses_for_one_of(
        &compact(header, &bomb, |_| vec![1; 256]),
        &["token_header_parameter", "token_malformed"],
        "bomb",
    )
    .await;
    edge.refuses(&compact(r#"{"alg":"RS256","typ":"at+jwt"}"#, bomb, |_| vec![1; 256]), "token_malformed", "bomb")
        .await;
}

#[tokio::test]
async fn t_015_no_key_derivation_is_reachable_from_a_header() {
    const NAMES: [&str; 19] = [
        "PBES2-HS256+A128KW",
        "PBES2-HS384+A192KW",
        "PBES2-HS512+A256KW",
        "RSA1_5",
        "RSA-OAEP",
        "RSA-OAEP-256",
        "A128KW",
        "A192KW",
        "A256KW",
        "dir",
        "ECDH-ES",
        "ECDH-ES+A128KW",
        "ECDH-ES+A256KW",
        "A128GCMKW",
        "A256GCMKW",
        "ECDH-1PU",
        "HPKE-0",
        "A128GCM",
        "XC20PKW",
    ];
    let edge = Edge::without_keys().await;
    for name in NAMES {
        assert_eq!(Algorithm::from_name(name), None);
        for kind in ["rsa", "p256", "ed25519"] {
            let mut key = OWN.jwk(kind);
            key["alg"] = json!(name);
            assert!(Jwk::from_json(&key.to_string()).is_err(), "{name} for {kind}");
        }
        let epk = OWN.jwk("p256");
        for (parameter, value) in [
            ("p2c", json!(2_147_483_647)),
            ("p2c", json!(u64::MAX)),
            ("p2c", json!(-1)),
            ("p2s", json!("A".repeat(4000))),
            ("epk", epk.clone()),
            ("apu", json!("A".repeat(4000))),
        ] {
            let token = edge.good().header("alg", name).header(parameter, value).mint();
            edge.refuses_for_one_of(token.as_str(), &["token_algorithm", "token_header_parameter"], name).await;
        }
    }
}

mod t_016 {
    use super::*;

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Value {
        json!({"kty": "RSA", "n": base64url(modulus), "e": base64url(exponent)})
    }

    /// Keys whose private half can be computed, or that are no keys.
    fn weak() -> Vec<(&'static str, Value)> {
        let modulus = decoded(&OWN.jwk("rsa")["n"]);
        let mut even = modulus.clone();
        *even.last_mut().unwrap() &= 0xfe;
        let with = |kind: &str, members: Value| {
            let mut key = OWN.jwk(kind);
            key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            key
        };
        let x = decoded(&OWN.jwk("p256")["x"]);
        let y = decoded(&OWN.jwk("p256")["y"]);
        let mut off = y.clone();
        *off.last_mut().unwrap() ^= 1;
        let short: Vec<u8> = std::iter::once(0xff).chain(modulus[1..128].iter().copied()).collect();
        // The top bit taken away: 2047 bits or fewer.
        let almost: Vec<u8> = std::iter::once(0x7f).chain(modulus[1..].iter().copied()).collect();
        vec![
            ("RSA 512", rsa(&modulus[192..], &[1, 0, 1])),
            ("RSA 1024", rsa(&short, &[1, 0, 1])),
            ("RSA 2047", rsa(&almost, &[1, 0, 1])),
            ("RSA 2048 with a zero byte for the missing bits", rsa(&[&[0], almost.as_slice()].concat(), &[1, 0, 1])),
            ("RSA 16384", rsa(&modulus.repeat(8), &[1, 0, 1])),
            ("even modulus", rsa(&even, &[1, 0, 1])),
            ("exponent 0", rsa(&modulus, &[0])),
            ("exponent 1", rsa(&modulus, &[1])),
            ("exponent 2", rsa(&modulus, &[2])),
            ("exponent 3", rsa(&modulus, &[3])),
            ("exponent 17", rsa(&modulus, &[17])),
            ("even exponent", rsa(&modulus, &[1, 0, 2])),
            ("huge exponent", rsa(&modulus, &modulus)),
            ("no exponent", json!({"kty": "RSA", "n": base64url(&modulus)})),
            ("off the curve", with("p256", json!({"y": base64url(off)}))),
            ("zero point", with("p256", json!({"x": base64url([0; 32]), "y": base64url([0; 32])}))),
            ("coordinates over the field", with("p256", json!({"x": base64url([0xff; 32])}))),
            ("coordinates swapped", with("p256", json!({"x": base64url(&y), "y": base64url(&x)}))),
            ("short coordinate", with("p256", json!({"x": base64url(&x[1..])}))),
            ("the wrong curve's name", with("p256", json!({"crv": "P-384"}))),
            ("a curve that is not supported", with("p256", json!({"crv": "secp256k1"}))),
            ("algorithm of another curve", with("p256", json!({"alg": "ES384"}))),
            ("algorithm of another type", with("p256", json!({"alg": "RS256"}))),
            ("algorithm of another type, too", with("rsa", json!({"alg": "ES256"}))),
            ("Ed25519 of small order", with("ed25519", json!({"x": base64url([0; 32])}))),
            ("Ed25519 that is not canonical", with("ed25519", json!({"x": base64url([0xff; 32])}))),
            ("Ed25519 cut short", with("ed25519", json!({"x": base64url([9; 31])}))),
            ("X25519", with("ed25519", json!({"crv": "X25519"}))),
        ]
    }

    /// Keys that take a moment, as those of a server do.
    struct Published(JwkSet);

    #[async_trait::async_trait]
    impl KeySource for Published {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            Ok(LoadedKeys::new(self.0.clone()))
        }
    }

    #[tokio::test]
    async fn t_016_weak_and_impossible_keys_are_left_out_with_a_warning() {
        for (index, (name, key)) in weak().into_iter().enumerate() {
            let kid = format!("weak-{index}");
            let mut key = key;
            key["kid"] = json!(kid);
            assert!(Jwk::from_json(&key.to_string()).is_err(), "{name}");
            let set = json!({"keys": [key, OWN.jwk("ed25519")]}).to_string();
            let set = JwkSet::parse(set.as_bytes()).unwrap();
            let [skipped] = set.skipped() else { panic!("{name}: {set:?}") };
            assert_eq!((skipped.index, skipped.kid.as_deref(), set.len()), (0, Some(&*kid), 1), "{name}");
            let why = skipped.why;

            let log = Log::default();
            let kept = log.keep();
            let edge = Edge::of(|idp| issuer(idp).with_key_source(Published(set))).await;
            drop(kept);
            let is_warning = |line: &str| line.contains("WARN") && line.contains(why) && !line.contains(&kid);
            assert!(log.text().lines().any(is_warning), "{name}: {}", log.text());
            for algorithm in Algorithm::ALL {
                let token = edge.good().algorithm(algorithm).kid(&kid).mint();
                edge.refuses(token.as_str(), "token_unknown_key", name).await;
            }
        }
    }
}

mod t_017 {
    use super::*;

    /// The same bytes in another text: the bits behind the last byte are set. `None` where there are none.
    fn with_trailing_bits(segment: &str) -> Option<String> {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (rest, last) = segment.split_at(segment.len() - 1);
        let value = ALPHABET.iter().position(|byte| *byte == last.as_bytes()[0])?;
        (!segment.len().is_multiple_of(4)).then(|| format!("{rest}{}", char::from(ALPHABET[value | 1])))
    }

    #[test]
    fn t_017_one_token_has_one_text() {
        let verifier = trusting(&[OWN.jwk("ed25519")], |issuer| issuer);
        let sign = |input: &str| base64url(OWN.sign("Ed25519", input.as_bytes()));
        // White space changes the length of a segment, so that each has spare bits in one of these.
        for spaces in 0..3 {
            let header = base64url(format!("{}{}", header("Ed25519", "ed25519"), " ".repeat(spaces)));
            let payload = base64url(format!("{}{}", claims(), " ".repeat(spaces)));
            let signed = |header: &str, payload: &str| {
                let input = format!("{header}.{payload}");
                format!("{input}.{}", sign(&input))
            };
            let good = signed(&header, &payload);
            assert_eq!(verdict(&verifier, &good), "accepted");
            let (input, signature) = good.rsplit_once('.').unwrap();
            // The signature is over each text as it stands, so that nothing but the text is at fault.
            let mut cases = vec![
                ("padded signature", format!("{good}==")),
                ("over-padded signature", format!("{good}=")),
                ("standard alphabet in the header", signed(&format!("{header}+/AA"), &payload)),
                ("standard alphabet in the payload", signed(&header, &format!("{payload}+/AA"))),
                ("standard alphabet in the signature", format!("{input}.{}", STANDARD_TEXT)),
                ("another alphabet", signed(&header, &format!("{payload}~AAA"))),
                ("a single character more", format!("{good}AAA")),
                ("signature with a character more", format!("{input}.{signature}A")),
            ];
            cases.extend(with_trailing_bits(&header).map(|odd| ("bits behind the header", signed(&odd, &payload))));
            cases.extend(with_trailing_bits(&payload).map(|odd| ("bits behind the payload", signed(&header, &odd))));
            let odd = with_trailing_bits(signature).expect("64 bytes leave bits");
            cases.push(("bits behind the signature", format!("{input}.{odd}")));
            for (name, token) in cases {
                assert_ne!(token, good);
                let code = verdict(&verifier, &token);
                // Whole characters more may be whole bytes more: a signature that is too long.
                let longer = name.ends_with("character more") && code == "token_signature";
                assert!(code == "token_malformed" || longer, "{name}: {code}");
            }
        }
    }

    /// 64 bytes in the standard alphabet.
    const STANDARD_TEXT: &str =
        "+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/AA";

    /// White space, and padding before the end, are bytes that no bearer token has: the caller is told 400.
    #[tokio::test]
    async fn t_017_white_space_and_inner_padding_do_not_get_as_far_as_the_parser() {
        let edge = Edge::new().await;
        let good = edge.good().mint();
        let [header, payload, signature] = parts(&good);
        for (name, token) in [
            ("a space inside", format!("{header}. {payload}.{signature}")),
            ("a space at the end", format!("{header}.{payload}.{signature} ")),
            ("a tab", format!("{header}\t.{payload}.{signature}")),
            ("padding inside", format!("{header}=.{payload}.{signature}")),
            ("padding twice", format!("{header}.{payload}==.{signature}")),
            ("percent", format!("{header}%3D.{payload}.{signature}")),
        ] {
            let value = format!("Bearer {token}");
            edge.finds_malformed(&[value.as_bytes()], "credentials_illegal_byte", name).await;
        }
        // Line breaks do not even make a header.
        assert!(http::HeaderValue::from_str(&format!("{header}.{payload}.{signature}\n")).is_err());
        edge.refuses(&format!("{}==", good.as_str()), "token_malformed", "padding at the end").await;
    }
}

/// What is compared in constant time is listed in the guide. What shows from outside: where the first difference lies, in a
/// signature, changes neither the answer nor the record.
#[tokio::test]
async fn t_018_where_a_signature_differs_makes_no_difference() {
    let edge = Edge::new().await;
    for algorithm in Algorithm::ALL {
        let token = edge.good().algorithm(algorithm).mint();
        let signature = decoded(&json!(parts(&token)[2]));
        for at in [0, 1, signature.len() / 2, signature.len() - 2, signature.len() - 1] {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            edge.refuses(&resigned(&token, &changed), "token_signature", &format!("byte {at}, {algorithm}")).await;
        }
    }
}

/// The one comparison with something secret: the MAC that we computed. How long it takes is up to the backend, which compares in
/// constant time; here is what can be seen of it.
#[tokio::test]
async fn t_018_where_a_mac_differs_makes_no_difference() {
    let secret = SharedSecret::new([7; 32]).unwrap();
    let edge = Edge::of(|idp| issuer(idp).with_shared_secret(secret.clone())).await;
    let token = edge.good().signed_with_secret(&secret).mint();
    edge.accepts(token.as_str(), "HS256").await;
    let mac = decoded(&json!(parts(&token)[2]));
    assert_eq!(mac.len(), 32);
    for at in [0, 1, 8, 15, 16, 24, 30, 31] {
        for bits in [1, 0x80, 0xff] {
            let mut changed = mac.clone();
            changed[at] ^= bits;
            edge.refuses(&resigned(&token, &changed), "token_signature", &format!("byte {at} by {bits:#x}")).await;
        }
    }
    for (name, odd) in [("half of it", &mac[..16]), ("all but one byte", &mac[..31]), ("zeros", &[0; 32])] {
        edge.refuses(&resigned(&token, odd), "token_signature", name).await;
    }
    let other = SharedSecret::new([8; 32]).unwrap();
    edge.refuses(edge.good().signed_with_secret(&other).mint().as_str(), "token_signature", "another secret").await;
}

/// The step `tree` of `.ci/run` asks cargo the same thing.
#[test]
fn t_019_the_rsa_crate_is_not_in_the_default_build_and_does_nothing_private() {
    let manifest = include_str!("../../../Cargo.toml");
    let section = manifest.split_once("[features]\n").unwrap().1.split("\n[").next().unwrap();
    let rows = section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let features: BTreeMap<&str, Vec<String>> =
        rows.map(|(name, list)| (name, serde_json::from_str(list).unwrap())).collect();
    let reaches = |from: &str| {
        let (mut open, mut seen) = (vec![from.to_owned()], BTreeSet::new());
        while let Some(next) = open.pop() {
            if seen.insert(next.clone()) {
                open.extend(features.get(next.as_str()).into_iter().flatten().cloned());
            }
        }
        seen.iter().any(|feature| feature == "dep:rsa" || feature.starts_with("rsa/"))
    };
    assert!(reaches("rust-crypto"), "the control: this is what brings it");
    assert!(!reaches("default"));
    assert!(manifest.lines().any(|line| line.starts_with("rsa = ") && line.contains("optional = true")));
    // Where it is asked for, it verifies: the type that signs and decrypts is never named.
    for (file, text) in rust_files("src") {
        assert!(!text.contains("RsaPrivateKey"), "{file}");
    }
}

#[tokio::test]
async fn t_020_of_several_faults_the_most_serious_is_on_record() {
    let edge = Edge::new().await;
    let mallory = TestIssuer::builder().with_clock(FrozenClock::default()).start().await;
    type Fault<'a> = (&'static str, Box<dyn Fn(TokenBuilder) -> TokenBuilder + 'a>);
    // From the most serious on: a token with the faults from here down is refused for this one.
    let faults: Vec<Fault<'_>> = vec![
        ("token_header_parameter", Box::new(|token| token.header("crit", json!(["exp"])))),
        ("token_issuer", Box::new(|token| token.claim("iss", "https://elsewhere.example/"))),
        ("token_type", Box::new(|token| token.typ("JWT"))),
        ("token_algorithm", Box::new(|token| token.header("alg", "HS256"))),
        ("token_unknown_key", Box::new(|token| token.kid("unknown"))),
        ("token_signature", Box::new(|token| token.signed_by(&mallory))),
        ("token_claim_missing", Box::new(|token| token.without("client_id"))),
        ("token_audience", Box::new(|token| token.audience("https://other.example"))),
        ("token_expired", Box::new(|token| token.claim("exp", NOW.as_secs() - 600))),
        ("token_bound", Box::new(|token| token.claim("cnf", json!({"jkt": "x"})))),
    ];
    for (first, (reason, fault)) in faults.iter().enumerate() {
        let all = faults[first..].iter().fold(edge.good(), |token, (_, fault)| fault(token)).mint();
        edge.refuses(all.as_str(), reason, reason).await;
        for (other, less_serious) in &faults[first..] {
            let two = fault(less_serious(edge.good())).mint();
            edge.refuses(two.as_str(), reason, &format!("{reason} and {other}")).await;
        }
    }
}

mod t_021 {
    use super::*;

    #[tokio::test]
    async fn t_021_where_no_token_is_asked_for_a_forged_one_hands_nothing_to_the_handler() {
        let edge = Edge::new().await;
        let forged = edge.good().header("alg", "none").signature([]).mint();
        let bearer = forged.bearer();
        // Nobody reads it where the route is public, and it is no free pass where it may be absent.
        let (http, grpc) = edge.both(PUBLIC, &[bearer.as_bytes()]).await;
        for seen in [http, grpc] {
            seen.assert_ran("public");
            for fact in ["user_id", "jti", "issuer", "client_id", "principal", "thumbprint", "claimed"] {
                assert!(seen.record[fact].is_null(), "{fact}: {seen:?}");
            }
        }
        edge.refuses(forged.as_str(), "token_algorithm", "guarded and optional").await;
    }

    #[tokio::test]
    async fn t_021_what_a_forged_token_says_is_no_principal_anywhere() {
        use axum::{Json, Router, routing::get};
        use portcullis::{
            Rules, Stack,
            audit::Memory,
            policy,
            principal::Principal,
            rules::{optional, public},
            token::VerifiedToken,
        };
        async fn who(caller: Option<Principal>, token: Option<VerifiedToken>) -> Json<Value> {
            Json(json!([caller.is_some(), token.is_some()]))
        }
        let idp = TestIssuer::start().await;
        let rules = Rules::new().get("/open", public("for everybody")).get("/members", optional());
        let stack = Stack::builder(issuer(&idp), rules, policy::dangerous_allow_all(), Memory::new()).build().unwrap();
        let service =
            portcullis::axum::protect(Router::new().route("/open", get(who)).route("/members", get(who)), stack);
        let (good, forged) = (idp.token().mint(), idp.token().tampered().mint());
        for (path, bearer, expected) in [
            ("/open", Some(forged.bearer()), Some("[false,false]")),
            ("/open", Some(good.bearer()), Some("[false,false]")),
            ("/open", None, Some("[false,false]")),
            ("/members", None, Some("[false,false]")),
            ("/members", Some(good.bearer()), Some("[true,true]")),
            ("/members", Some(forged.bearer()), None),
        ] {
            let authorization: Vec<_> = bearer.iter().map(String::as_bytes).collect();
            let answer = crate::support::send(service.clone(), Edge::request(path, &authorization)).await;
            let told = (answer.status() == 200).then(|| answer.body().as_str());
            assert_eq!(told, expected, "{path} {bearer:?}");
        }
    }

    /// What weakens is called `dangerous_`, and none of it touches the verification of tokens. The rest of the proof is that the
    /// types have no other way: the `compile_fail` doctests of the guide.
    #[test]
    fn t_021_no_public_name_switches_verification_off() {
        const SUSPICIOUS: [&str; 13] = [
            "dangerous",
            "insecure",
            "unsafe",
            "unverified",
            "unchecked",
            "skip",
            "disable",
            "bypass",
            "no_verify",
            "allow_all",
            "accept_any",
            "trust_all",
            "anonymous",
        ];
        let mut found = BTreeSet::new();
        for (file, text) in rust_files("src") {
            // The test kit is behind a feature of its own, which cannot be switched on unnoticed: T-137.
            if file.starts_with("src/testing/") {
                continue;
            }
            for line in text.lines().map(str::trim_start).filter(|line| line.starts_with("pub ")) {
                let Some((_, name)) = line.split_once("fn ") else { continue };
                let name = name.split(['(', '<']).next().unwrap();
                if SUSPICIOUS.iter().any(|word| name.contains(word)) {
                    found.insert(name.to_owned());
                }
            }
        }
        let known = [
            // Makes or tells the principal of an absent token, which is nobody.
            "is_anonymous",
            // A policy that allows: who calls is established before it is asked.
            "dangerous_allow_all",
            // The transport to a policy server, and what its rules may be: later than the token in every case.
            "dangerous_allow_plain_http",
            "dangerous_relax_parity",
            "dangerous_allow_panic_abort",
            // Bundles of policies, not tokens.
            "dangerous_unverified",
            // A longer life, which is checked all the same.
            "dangerous_max_lifetime",
            // Entries of a key set that are not used.
            "skipped",
        ];
        let unknown: Vec<_> = found.iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "does one of these switch verification off? {unknown:?}");
        assert!(found.contains("dangerous_allow_all"), "the control: the scan sees names");
    }
}

#[test]
fn t_022_without_kid_at_most_four_keys_are_tried() {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    let pairs: Vec<_> = (0..6).map(|_| Ed25519KeyPair::generate().unwrap()).collect();
    let jwk = |pair: &Ed25519KeyPair| json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())});
    let keys: Vec<_> = pairs.iter().map(jwk).collect();
    let set = JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    assert_eq!((set.len(), set.candidates(None, Algorithm::Ed25519).count()), (6, 4));
    let verifier = trusting(&keys, |issuer| issuer);
    for (index, pair) in pairs.iter().enumerate() {
        let token = compact(header("Ed25519", None).to_string(), claims().to_string(), |input| {
            pair.sign(input).as_ref().to_vec()
        });
        let expected = if index < 4 { "accepted" } else { "token_signature" };
        assert_eq!(verdict(&verifier, &token), expected, "the key at place {index}");
    }
    // The same `kid` on all of them makes no difference.
    let named = keys.iter().map(|key| {
        let mut key = key.clone();
        key["kid"] = json!("one");
        key
    });
    let verifier = trusting(&named.collect::<Vec<_>>(), |issuer| issuer);
    let accepted = pairs.iter().filter(|pair| {
        let token = compact(header("Ed25519", "one").to_string(), claims().to_string(), |input| {
            pair.sign(input).as_ref().to_vec()
        });
        verdict(&verifier, &token) == "accepted"
    });
    assert_eq!(accepted.count(), 4);
}
