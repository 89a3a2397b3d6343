//! A million mutants of valid tokens, none accepted: of every algorithm, of both kinds of header and claims, the same ones in
//! every run.
//!
//! One change of a text is legal and left out: of an ECDSA signature `(r, s)` the standard also accepts `(r, n − s)`
//! ([FIPS 186-5 §6.4.2](https://doi.org/10.6028/NIST.FIPS.186-5)), with the same header and claims. Thumbprints leave the signature
//! out for that reason.

use std::{collections::HashSet, io::Write as _, thread};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use portcullis::{
    key::Algorithm,
    testing::{FrozenClock, TestIssuer},
    time::Clock as _,
    token::{AccessToken, Issuer, TokenError, Verifier},
};
use serde_json::{Map, Value, json};

use crate::{
    properties::mutate::{self, Random},
    support::AUDIENCE,
};

type Mutate = fn(&Valid, &mut Random) -> Vec<u8>;

/// No two mutants of a kind are the same, so there are more of the kinds that have more.
const KINDS: [(&str, usize, Mutate); 10] = [
    ("bits flipped", 200_000, flip),
    ("bytes replaced inside the alphabet", 190_000, replace),
    ("segments of several tokens", 5_000, recombine),
    ("truncated", 100_000, truncate),
    ("extended", 100_000, extend),
    ("header edited and encoded again", 100_000, edit_header),
    ("claims edited and encoded again", 105_000, edit_claims),
    ("signature computed with", 100_000, compute),
    ("other base64 of the same bytes", 50_000, encode_otherwise),
    ("case changed", 50_000, change_case),
];

#[test]
fn a_million_mutants_of_valid_tokens_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let valid = &runtime.block_on(Valid::mint());
    let at_signature = thread::scope(|scope| {
        let threads = KINDS.map(|(kind, count, mutate)| scope.spawn(move || valid.try_out(kind, count, mutate)));
        threads.map(|thread| thread.join().unwrap())
    });
    let mut log = std::io::stderr();
    for ((kind, count, _), at_signature) in KINDS.iter().zip(at_signature) {
        writeln!(log, "mutants: {count} refused, {at_signature} of them at the signature: {kind}").unwrap();
    }
    let all: usize = KINDS.iter().map(|(_, count, _)| count).sum();
    writeln!(log, "mutants: {all} in all, 0 accepted").unwrap();
    assert_eq!(all, 1_000_000);
}

struct Valid {
    verifier: Verifier,
    clock: FrozenClock,
    tokens: Vec<Token>,
    /// Texts that do verify: the tokens, and the twins of those with an ECDSA signature.
    texts: HashSet<Vec<u8>>,
}

struct Token {
    algorithm: Algorithm,
    segments: [String; 3],
    /// What signatures are counted modulo, as wide as they or their halves: the order of the group, or the RSA modulus.
    modulus: Vec<u8>,
}

impl Valid {
    async fn mint() -> Self {
        let clock = FrozenClock::default();
        let strict = TestIssuer::builder().with_clock(clock.clone()).start().await;
        let lenient = TestIssuer::builder().with_auth0_style().with_clock(clock.clone()).start().await;
        let verifier = Verifier::builder(Issuer::rfc9068(strict.url(), AUDIENCE).with_keys(strict.key_set()))
            .add_issuer(Issuer::oauth(lenient.url(), AUDIENCE).with_keys(lenient.key_set()))
            .build()
            .unwrap();
        let mut tokens = Vec::new();
        for algorithm in Algorithm::ALL {
            for subject in ["auth0|alice", "auth0|mallory"] {
                let token = strict.token().algorithm(algorithm).subject(subject).scope("jobs:read").actor("agent");
                tokens.push(Token::new(algorithm, &strict, token.mint().as_str()));
                let token = lenient.token().algorithm(algorithm).subject(subject).classic().without_kid();
                let token = token.audiences([AUDIENCE, "https://other.example"]).claim("exp", 1_800_000_300.5);
                tokens.push(Token::new(algorithm, &lenient, token.mint().as_str()));
            }
        }
        let twins = tokens.iter().filter_map(Token::twin);
        let texts: HashSet<Vec<u8>> = tokens.iter().map(|token| token.text().into_bytes()).chain(twins).collect();
        let valid = Self { verifier, clock, tokens, texts };
        for text in &valid.texts {
            assert!(valid.verdict(text).is_some_and(|verdict| verdict.is_ok()), "what is to be mutated is valid");
        }
        valid
    }

    /// How many mutants came as far as the signature.
    fn try_out(&self, kind: &str, count: usize, mutate: Mutate) -> usize {
        // By the name of the kind, so that no two kinds make the same choices.
        let mut random = Random::new(hash(kind.as_bytes()));
        let mut seen = HashSet::new();
        let (mut drawn, mut at_signature) = (0, 0);
        while seen.len() < count {
            drawn += 1;
            assert!(drawn < 50 * count, "there are not so many mutants of the kind {kind:?}");
            let mutant = mutate(self, &mut random);
            if self.texts.contains(&mutant) || !seen.insert(hash(&mutant)) {
                continue;
            }
            match self.verdict(&mutant) {
                Some(Ok(_)) => panic!("mutant {drawn} of the kind {kind:?} was accepted"),
                Some(Err(TokenError::Signature)) => at_signature += 1,
                Some(Err(_)) | None => {}
            }
        }
        at_signature
    }

    /// `None` when no header can hold the text, or it is no bearer token.
    fn verdict(&self, text: &[u8]) -> Option<Result<(), TokenError>> {
        let value = HeaderValue::from_bytes(&[b"Bearer ", text].concat()).ok()?;
        let token = AccessToken::from_headers(&HeaderMap::from_iter([(AUTHORIZATION, value)])).ok()??;
        let verdict = self.verifier.verify_now(&token, self.clock.now()).expect("fixed keys need no waiting");
        Some(verdict.map(|_| ()))
    }

    /// One of the tokens, mostly of an algorithm that verifies fast.
    fn pick(&self, random: &mut Random) -> &Token {
        let is_fast = |token: &Token| matches!(token.algorithm.name(), "RS256" | "ES256" | "Ed25519");
        let slow_too = random.below(8) == 0;
        loop {
            let token = &self.tokens[random.below(self.tokens.len())];
            if slow_too || is_fast(token) {
                return token;
            }
        }
    }
}

impl Token {
    fn new(algorithm: Algorithm, issuer: &TestIssuer, text: &str) -> Self {
        let segments: Vec<String> = text.split('.').map(str::to_owned).collect();
        let modulus = match (algorithm.name().get(..2), segments[2].len()) {
            (Some("ES"), 86) => hex(P256_ORDER),
            (Some("ES"), 128) => hex(P384_ORDER),
            (Some("ES"), _) => hex(P521_ORDER),
            (Some("Ed"), _) => hex(ED25519_ORDER).into_iter().rev().collect(),
            _ => {
                let (keys, kid) = (issuer.jwks(), issuer.key_id(algorithm));
                let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == *kid).unwrap();
                URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap()
            }
        };
        Self { algorithm, segments: segments.try_into().unwrap(), modulus }
    }

    fn text(&self) -> String {
        self.segments.join(".")
    }

    fn bytes(&self, segment: usize) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(&self.segments[segment]).unwrap()
    }

    fn members(&self, segment: usize) -> Map<String, Value> {
        serde_json::from_slice(&self.bytes(segment)).unwrap()
    }

    fn is_ecdsa(&self) -> bool {
        self.algorithm.name().starts_with("ES")
    }

    /// The same token with the other signature that ECDSA allows.
    fn twin(&self) -> Option<Vec<u8>> {
        let signature = self.bytes(2);
        let (r, s) = signature.split_at(signature.len() / 2);
        let twin = [r, &subtract(&self.modulus, s)].concat();
        self.is_ecdsa().then(|| self.with(2, twin))
    }

    /// The text with one segment replaced by other bytes.
    fn with(&self, segment: usize, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        self.with_text(segment, URL_SAFE_NO_PAD.encode(bytes))
    }

    fn with_text(&self, segment: usize, text: String) -> Vec<u8> {
        let mut segments = self.segments.clone();
        segments[segment] = text;
        segments.join(".").into_bytes()
    }
}

fn flip(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let mut text = valid.pick(random).text().into_bytes();
    for _ in 0..=random.below(3) {
        let at = random.below(text.len());
        text[at] ^= 1 << random.below(8);
    }
    text
}

fn replace(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let mut text = valid.pick(random).text().into_bytes();
    for _ in 0..=random.below(3) {
        let at = random.below(text.len());
        text[at] = ALPHABET[random.below(ALPHABET.len())];
    }
    text
}

fn recombine(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let mut segments = [0, 1, 2].map(|segment| valid.pick(random).segments[segment].clone());
    if random.below(4) == 0 {
        let (one, other) = (random.below(3), random.below(3));
        segments.swap(one, other);
    }
    segments.join(".").into_bytes()
}

fn truncate(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let token = valid.pick(random);
    let mut text = token.text().into_bytes();
    let segment = random.below(3);
    let mut bytes = token.bytes(segment);
    match random.below(4) {
        0 => text.truncate(random.below(text.len())),
        1 => drop(text.drain(..=random.below(text.len()))),
        2 => {
            let at = random.below(text.len());
            text.drain(at..=at + random.below(text.len() - at));
        }
        _ => {
            bytes.truncate(random.below(bytes.len()));
            return token.with(segment, bytes);
        }
    }
    text
}

fn extend(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let token = valid.pick(random);
    let mut text = token.text().into_bytes();
    let segment = random.below(3);
    let mut bytes = token.bytes(segment);
    match random.below(6) {
        0 => text.insert(random.below(text.len() + 1), ALPHABET[random.below(ALPHABET.len())]),
        1 => text.extend_from_slice(&[b'=', b'.', b'A', b'~'][..=random.below(4)]),
        2 => text.extend([b".", token.segments[segment].as_bytes()].concat()),
        3 => text = [text.as_slice(), b".", valid.pick(random).text().as_bytes()].concat(),
        4 => {
            bytes.insert(random.below(bytes.len() + 1), random.next().to_le_bytes()[0]);
            return token.with(segment, bytes);
        }
        _ => {
            bytes.extend((0..=random.below(40)).map(|_| [0, b' ', b'}', 0xff][random.below(4)]));
            return token.with(segment, bytes);
        }
    }
    text
}

fn edit_header(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let token = valid.pick(random);
    let mut header = token.members(0);
    match random.below(9) {
        0 => drop(header.insert("alg".to_owned(), json!(ALGORITHMS[random.below(ALGORITHMS.len())]))),
        1 => {
            let kid = valid.pick(random).members(0).remove("kid").unwrap_or_else(|| mutate::odd(random));
            header.insert("kid".to_owned(), kid);
        }
        2 => drop(header.insert("typ".to_owned(), json!(TYPES[random.below(TYPES.len())]))),
        3 => {
            let name = ["crit", "b64", "zip", "enc", "jwk", "jku", "x5c", "x5u", "cty", "p2c"][random.below(10)];
            header.insert(name.to_owned(), mutate::odd(random));
        }
        4 => drop(header.insert(format!("x-{}", random.next()), mutate::odd(random))),
        5 => drop(header.remove(["alg", "typ", "kid"][random.below(3)])),
        _ => return token.with(0, mutate::json(&token.bytes(0), random)),
    }
    let edited = token.with(0, Value::Object(header).to_string());
    match random.below(8) {
        // As those do who have no key.
        0 => [edited.rsplitn(2, |byte| *byte == b'.').last().unwrap(), b"."].concat(),
        _ => edited,
    }
}

fn edit_claims(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let token = valid.pick(random);
    let mut claims = token.members(1);
    match random.below(8) {
        0 => {
            let other = valid.pick(random).members(1);
            let names: Vec<&String> = other.keys().collect();
            let name = names[random.below(names.len())];
            claims.insert(name.clone(), other[name].clone());
        }
        1 => {
            let time = ["exp", "nbf", "iat"][random.below(3)];
            claims.insert(time.to_owned(), json!(1_800_000_000 + random.below(1_000_000) as u64));
        }
        2 => drop(claims.insert("scope".to_owned(), json!("jobs:read jobs:write admin"))),
        3 => drop(claims.insert("sub".to_owned(), json!(format!("auth0|{}", random.next())))),
        _ => return token.with(1, mutate::json(&token.bytes(1), random)),
    }
    token.with(1, Value::Object(claims).to_string())
}

fn compute(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let token = valid.pick(random);
    let mut signature = token.bytes(2);
    let width = token.modulus.len();
    let halves = signature.len() / width;
    let chosen = random.below(halves);
    let number = &mut signature[chosen * width..(chosen + 1) * width];
    // Ed25519 counts from the other end.
    let is_reversed = token.algorithm == Algorithm::Ed25519;
    if is_reversed {
        number.reverse();
    }
    let modulus = &token.modulus;
    let small = {
        let mut small = vec![0; width];
        small[width - 4..].copy_from_slice(&1_u32.saturating_add(random.next() as u32).to_be_bytes());
        small
    };
    let computed = match random.below(9) {
        0 => vec![0; width],
        1 => vec![0xff; width],
        2 => modulus.clone(),
        3 => subtract(modulus, &small),
        4 => add(number, modulus),
        5 => subtract(modulus, number),
        6 => add(number, &small),
        7 => subtract(number, &small),
        _ => {
            let shift = 1 + random.below(7);
            let carried = |index: usize| number.get(index + 1).map_or(0, |next| next >> (8 - shift));
            (0..width).map(|index| number[index] << shift | carried(index)).collect()
        }
    };
    number.copy_from_slice(&computed);
    if is_reversed {
        number.reverse();
    }
    let tail = signature.split_off(signature.len() / 2);
    let signature = match random.below(12) {
        0 => [tail, signature].concat(),
        1 => [tail.as_slice(), &tail].concat(),
        2 => [&[0], signature.as_slice(), &[0], &tail].concat(),
        3 => return token.with(2, mutate::bytes(&[signature, tail].concat(), random)),
        _ => [signature, tail].concat(),
    };
    token.with(2, signature)
}

fn encode_otherwise(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let token = valid.pick(random);
    let segment = random.below(3);
    let text = &token.segments[segment];
    let at = random.below(text.len());
    let insert = |what: &str| [&text[..at], what, &text[at..]].concat();
    let other = match random.below(8) {
        0 => format!("{text}{}", ["=", "==", "==="][random.below(3)]),
        1 => text.replace('-', "+").replace('_', "/"),
        2 => insert(["\n", "\r\n", " ", "\t", "\0"][random.below(5)]),
        3 => insert(["%", "%0a", "\\n", "=", "~", "."][random.below(6)]),
        4 => [&text[..at], &format!("%{:02x}", text.as_bytes()[at]), &text[at + 1..]].concat(),
        5 => format!("{text}{}", ["A", "AA", "AAA", "AAAA"][random.below(4)]),
        6 => hex_of(&token.bytes(segment)),
        // The bits after the last byte, which a lax reader drops; where there are none, the bits before.
        _ => {
            let (rest, last) = text.split_at(text.len() - 1);
            let index = ALPHABET.iter().position(|byte| [*byte] == *last.as_bytes()).unwrap();
            let spare = [1, 16, 4, 1][text.len() % 4];
            let changed = ALPHABET[index ^ (1 + random.below(spare.max(2) - 1))];
            format!("{rest}{}", char::from(changed))
        }
    };
    token.with_text(segment, other)
}

fn change_case(valid: &Valid, random: &mut Random) -> Vec<u8> {
    let token = valid.pick(random);
    let segment = random.below(3);
    let text = &token.segments[segment];
    match random.below(6) {
        0 => token.with_text(segment, text.to_uppercase()),
        1 => token.with_text(segment, text.to_lowercase()),
        2 if segment < 2 => token.with(segment, token.bytes(segment).to_ascii_uppercase()),
        _ => {
            let mut bytes = token.text().into_bytes();
            let mut left = 1 + random.below(3);
            while left > 0 {
                let at = random.below(bytes.len());
                if bytes[at].is_ascii_alphabetic() {
                    bytes[at] ^= 0x20;
                    left -= 1;
                }
            }
            bytes
        }
    }
}

/// FNV-1a in words of eight bytes: the standard hasher costs more than what is tested, in a build without optimisation.
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

/// Big endian, cut off at the width.
fn add(one: &[u8], other: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut sum: Vec<u8> = std::iter::zip(one.iter().rev(), other.iter().rev())
        .map(|(one, other)| {
            let digit = u16::from(*one) + u16::from(*other) + carry;
            carry = digit >> 8;
            digit.to_le_bytes()[0]
        })
        .collect();
    sum.reverse();
    sum
}

/// Big endian, cut off at the width.
fn subtract(from: &[u8], number: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut difference: Vec<u8> = std::iter::zip(from.iter().rev(), number.iter().rev())
        .map(|(from, number)| {
            let digit = i16::from(*from) - i16::from(*number) - borrow;
            borrow = i16::from(digit < 0);
            digit.to_le_bytes()[0]
        })
        .collect();
    difference.reverse();
    difference
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const ALGORITHMS: [&str; 18] = [
    "none", "None", "", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "ES512", "EdDSA", "Ed25519", "ES256K",
];
const TYPES: [&str; 8] = ["JWT", "jwt", "at+jwt", "application/at+jwt", "dpop+jwt", "logout+jwt", "secevent+jwt", ""];
const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
const P384_ORDER: &str =
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
const P521_ORDER: &str = "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409";
/// Little endian, as RFC 8032 writes numbers.
const ED25519_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
