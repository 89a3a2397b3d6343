use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384, Sha512, Sha512_256};
use tar::{EntryType, Header};

use super::{canonical::canonical, signature::hex, *};
use crate::{
    key::{Algorithm, SharedSecret},
    token::test_tokens::{base64url, public_key, sign, with},
};

type File = (&'static str, Vec<u8>);

const POLICY: &str = "package authz\n\ndefault decision := false\n";
const MANIFEST: &str = r#"{"revision":"7","roots":["authz","roles"],"rego_version":1}"#;

fn files() -> Vec<File> {
    vec![
        (".manifest", MANIFEST.into()),
        ("authz/policy.rego", POLICY.into()),
        ("roles/data.json", br#"{"limit":1.50,"admins":["alice"]}"#.into()),
        ("README.md", b"read me".into()),
    ]
}

/// The files with one of them changed, taken away or added.
fn changed(path: &'static str, content: Option<&str>) -> Vec<File> {
    let mut files = files();
    files.retain(|(own, _)| *own != path);
    files.extend(content.map(|content| (path, content.into())));
    files
}

fn entry(kind: EntryType, path: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_cksum();
    let mut entry = [header.as_bytes().as_slice(), content].concat();
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn ended(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn tar(files: &[File]) -> Vec<u8> {
    let entries = files.iter().map(|(path, content)| entry(EntryType::Regular, format!("/{path}").as_bytes(), content));
    ended(&entries.collect::<Vec<_>>())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn pack(files: &[File]) -> Vec<u8> {
    gzip(&tar(files))
}

fn digest_of(path: &str, content: &[u8]) -> String {
    match path.rsplit('/').next() {
        Some("data.json" | ".manifest") => hex::<Sha256>(canonical(content).unwrap().as_bytes()),
        _ => hex::<Sha256>(content),
    }
}

fn listed(files: &[File]) -> Vec<Value> {
    let entry =
        |(path, content): &File| json!({"name": path, "hash": digest_of(path, content), "algorithm": "SHA-256"});
    files.iter().map(entry).collect()
}

fn token(algorithm: Algorithm, header: &Value, payload: &Value) -> String {
    let input = format!("{}.{}", base64url(header.to_string()), base64url(payload.to_string()));
    format!("{input}.{}", base64url(sign(algorithm, input.as_bytes())))
}

fn with_signatures(files: &[File], document: &Value) -> Vec<u8> {
    let signatures = (".signatures.json", document.to_string().into_bytes());
    pack(&[files, &[signatures]].concat())
}

fn signed(algorithm: Algorithm, files: &[File], header: Value, payload: Value) -> Vec<u8> {
    let header = with(&json!({"alg": algorithm.name(), "kid": algorithm.name(), "typ": "JWT"}), header);
    let payload = with(&json!({"files": listed(files)}), payload);
    with_signatures(files, &json!({"signatures": [token(algorithm, &header, &payload)], "plugin": "_default"}))
}

fn good() -> Vec<u8> {
    signed(Algorithm::Es256, &files(), json!({}), json!({}))
}

fn keys() -> VerificationKeys {
    let key = |algorithm: Algorithm| VerificationKey::from_jwk(algorithm.name(), public_key(algorithm)).unwrap();
    VerificationKeys::new(Algorithm::ALL.map(key)).unwrap()
}

fn read(archive: &[u8], verification: &Verification) -> Result<Bundle, BundleError> {
    Bundle::read("authz", archive, verification, &Limits::default())
}

fn unsigned(archive: &[u8]) -> Result<Bundle, BundleError> {
    read(archive, &Verification::forbidden())
}

fn required(archive: &[u8]) -> Result<Bundle, BundleError> {
    read(archive, &Verification::required(keys()))
}

/// That it is refused as this, in words that name what is wrong.
fn assert_refused(name: &str, read: Result<Bundle, BundleError>, kind: BundleErrorKind, why: &str) {
    let error = read.expect_err(name);
    assert_eq!(error.kind(), kind, "{name}: {error}");
    assert!(error.to_string().starts_with("bundle `authz`") && error.to_string().contains(why), "{name}: {error}");
}

#[test]
fn a_bundle_is_read_with_all_that_it_says() {
    for (bundle, signed_by) in [
        (unsigned(&pack(&files())), None),
        (required(&good()), Some("ES256")),
        (read(&good(), &Verification::dangerous_unverified()), None),
    ] {
        let bundle = bundle.unwrap();
        assert_eq!((bundle.name(), bundle.revision().as_str(), bundle.signed_by()), ("authz", "7", signed_by));
        assert_eq!(bundle.modules().collect::<Vec<_>>(), [("authz/policy.rego", POLICY)]);
        let data: Vec<_> = bundle.data().collect();
        assert_eq!(data, [(&["roles".to_owned()][..], r#"{"limit":1.50,"admins":["alice"]}"#)], "as it is written");
        let contents = Contents::of([&bundle]).unwrap();
        assert_eq!(contents.modules, [("authz/authz/policy.rego".to_owned(), POLICY.to_owned())]);
        assert_eq!((contents.data.len(), contents.revision.as_str()), (1, "7"));
    }
    let nameless = unsigned(&pack(&changed(".manifest", None))).unwrap();
    assert_eq!(nameless.manifest(), &Manifest::default());
    assert_eq!(nameless.revision(), format!("sha256:{}", &nameless.digest()[..32]));
    let wasm = [
        &changed(".manifest", Some(r#"{"wasm":[{"entrypoint":"authz/decision","module":"/policy.wasm"}]}"#))[..],
        &[("policy.wasm", b"\0asm".into()), ("plan.json", b"{".into())],
    ]
    .concat();
    let wasm = unsigned(&pack(&wasm)).unwrap();
    assert_eq!(
        wasm.wasm().map(|(path, bytes)| (path, &bytes[..])).collect::<Vec<_>>(),
        [("policy.wasm", &b"\0asm"[..])]
    );
    assert_eq!(wasm.manifest().wasm[0].module, "policy.wasm");
    let compiled = Contents::of([&wasm]).unwrap().wasm;
    assert_eq!(compiled.len(), 1);
    assert_eq!((compiled[0].name.as_str(), &compiled[0].module[..]), ("authz/policy.wasm", &b"\0asm"[..]));
    assert_eq!(compiled[0].entry_points.as_deref(), Some(&["authz/decision".to_owned()][..]));
    let unnamed = changed(".manifest", Some("{}")).into_iter().chain([("policy.wasm", b"\0asm".into())]);
    let unnamed = unsigned(&pack(&unnamed.collect::<Vec<_>>())).unwrap();
    assert!(Contents::of([&unnamed]).unwrap().wasm.is_empty());
}

#[test]
fn every_way_of_writing_a_path_is_one_path_and_odd_ones_are_refused() {
    let of = |path: &[u8]| unsigned(&gzip(&ended(&[entry(EntryType::Regular, path, POLICY.as_bytes())])));
    for good in ["a/b.rego", "/a/b.rego", "./a/b.rego"] {
        assert_eq!(of(good.as_bytes()).unwrap().modules().next().unwrap().0, "a/b.rego", "{good}");
    }
    for odd in [
        &b"../a.rego"[..],
        b"/../a.rego",
        b"a/../../b.rego",
        b"a/..",
        b"..",
        b"//a.rego",
        b"/./a.rego",
        b"././a.rego",
        b".//a.rego",
        b"a//b.rego",
        b"a/./b.rego",
        b"a.rego/",
        b"/",
        b"./",
        b"",
        b"a\\..\\b.rego",
        b"a\nb.rego",
        b"a\xff.rego",
    ] {
        assert_refused(&odd.escape_ascii().to_string(), of(odd), BundleErrorKind::Archive, "path");
    }
    let directories = [&b"./"[..], b"/", b"/a", b"a/", b"./a/b/"].map(|path| entry(EntryType::Directory, path, b""));
    assert!(unsigned(&gzip(&ended(&directories))).is_ok());
    assert_refused(
        "directory",
        unsigned(&gzip(&ended(&[entry(EntryType::Directory, b"a/..", b"")]))),
        BundleErrorKind::Archive,
        "path",
    );
}

#[test]
fn what_is_no_plain_archive_is_refused() {
    let file = |path: &str| entry(EntryType::Regular, path.as_bytes(), POLICY.as_bytes());
    let special = |kind, content: &[u8]| gzip(&ended(&[entry(kind, b"a.rego", content)]));
    let whole = tar(&files());
    let pax = |records: &str| gzip(&ended(&[entry(EntryType::XHeader, b"pax", records.as_bytes()), file("b.rego")]));
    let mut wrong_sum = whole.clone();
    wrong_sum[0] ^= 1;
    let mut endless = whole.clone();
    endless.truncate(whole.len() - 512);
    let mut huge = entry(EntryType::Regular, b"a.rego", b"");
    let mut header = Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&huge[..512]);
    header.set_size(u64::MAX - 511);
    header.set_cksum();
    huge[..512].copy_from_slice(header.as_bytes());
    for (name, archive, why) in [
        ("nothing", Vec::new(), "ends too early"),
        ("text", b"package authz".to_vec(), "no gzip"),
        ("a tar that is not compressed", whole.clone(), "no gzip"),
        ("gzip of a text", gzip(b"package authz"), "damaged"),
        ("gzip of nothing", gzip(b""), "two empty blocks"),
        ("gzip twice", gzip(&pack(&files())), "damaged"),
        ("bytes after the archive", [pack(&files()), vec![0]].concat(), "after the end"),
        ("a second member", [pack(&files()), pack(&files())].concat(), "after the end"),
        ("a second, empty member", [pack(&files()), gzip(b"")].concat(), "after the end"),
        ("a tar in two members", [gzip(&whole[..1024]), gzip(&whole[1024..])].concat(), "after the end"),
        ("a tar without its end", gzip(&whole[..whole.len() - 1024]), "two empty blocks"),
        ("a tar with half of its end", gzip(&endless), "two empty blocks"),
        ("a tar without the last byte of its end", gzip(&whole[..whole.len() - 1]), "two empty blocks"),
        ("a tar that is cut off", gzip(&whole[..700]), "damaged"),
        ("a file that is cut off", gzip(&whole[..550]), "cut off"),
        ("files after the end", gzip(&[whole.clone(), whole.clone()].concat()), "two empty blocks"),
        ("a byte after the end", gzip(&[whole.clone(), vec![1]].concat()), "two empty blocks"),
        ("a wrong sum", gzip(&wrong_sum), "damaged"),
        ("a file larger than memory", gzip(&ended(&[huge])), ""),
        ("a link", special(EntryType::Symlink, b""), "links"),
        ("a hard link", special(EntryType::Link, b""), "links"),
        ("a character device", special(EntryType::Char, b""), "links"),
        ("a block device", special(EntryType::Block, b""), "links"),
        ("a pipe", special(EntryType::Fifo, b""), "links"),
        ("a contiguous file", special(EntryType::Continuous, b""), "links"),
        ("global headers", special(EntryType::XGlobalHeader, b"13 path=a.r\n"), "links"),
        ("an unknown kind", special(EntryType::new(b'V'), b""), "links"),
        ("a directory with content", special(EntryType::Directory, b"x"), "directory has content"),
        ("a sparse file", special(EntryType::GNUSparse, b""), ""),
        ("a header for nothing", gzip(&ended(&[entry(EntryType::XHeader, b"pax", b"12 path=a.b\n")])), "damaged"),
        ("another size", pax("10 size=1\n"), "PAX"),
        ("a sparse map", pax("23 GNU.sparse.major=1\n"), "PAX"),
        ("two paths", pax("12 path=a.b\n12 path=a.c\n"), "PAX"),
        ("a damaged header", pax("99 path=a.b\n"), "PAX"),
        ("the same file twice", gzip(&ended(&[file("a.rego"), file("a.rego")])), "twice"),
        ("the same file in two spellings", gzip(&ended(&[file("/a.rego"), file("./a.rego")])), "twice"),
    ] {
        assert_refused(name, unsigned(&archive), BundleErrorKind::Archive, why);
    }
    assert!(unsigned(&pax("18 path=long.rego\n")).is_ok(), "a path by a header of its own is a path");
    for known in ["SCHILY.dev=1", "LIBARCHIVE.creationtime=1", "mtime=1"] {
        let record = format!("{} {known}\n", known.len() + "16 \n".len());
        assert!(unsigned(&pax(&record)).is_ok(), "{known}");
    }
}

#[test]
fn an_archive_that_ends_early_is_refused_wherever_it_ends() {
    let archive = good();
    for length in 0..archive.len() {
        assert_refused(&length.to_string(), required(&archive[..length]), BundleErrorKind::Archive, "ends too early");
    }
    let long: String = (0..10_000).map(|index| format!("# {}\n", hex::<Sha256>(&i32::to_be_bytes(index)))).collect();
    let long = pack(&[("long.rego", format!("package authz\n{long}").into_bytes())]);
    assert!(unsigned(&long).is_ok() && long.len() > 97 * 97);
    for length in (0..long.len()).step_by(97 * 97) {
        assert_refused(&length.to_string(), unsigned(&long[..length]), BundleErrorKind::Archive, "ends too early");
    }
}

#[test]
fn every_limit_holds_to_the_byte() {
    let archive = pack(&files());
    let unpacked = tar(&files()).len();
    let zeros = gzip(&vec![0; 8 * 1024 * 1024]);
    let many = gzip(&vec![b'x'; 8 * 1024 * 1024]);
    let limits = Limits::default;
    let refused = |archive: &[u8], limits: &Limits| {
        let error = Bundle::read("authz", archive, &Verification::forbidden(), limits).err()?;
        Some((error.kind(), error.to_string()))
    };
    for (name, archive, enough, short, remedy) in [
        (
            "compressed",
            &archive,
            limits().with_compressed(archive.len()),
            limits().with_compressed(archive.len() - 1),
            "with_compressed",
        ),
        ("unpacked", &archive, limits().with_unpacked(unpacked), limits().with_unpacked(unpacked - 1), "with_unpacked"),
        ("file", &archive, limits().with_file(59), limits().with_file(58), "with_file"),
        ("entries", &archive, limits().with_entries(4), limits().with_entries(3), "with_entries"),
        ("path", &archive, limits().with_path(18), limits().with_path(17), "with_path"),
        ("depth", &archive, limits().with_depth(2), limits().with_depth(1), "with_depth"),
    ] {
        assert_eq!(refused(archive, &enough), None, "{name}");
        let (kind, text) = refused(archive, &short).unwrap();
        assert_eq!(kind, BundleErrorKind::TooLarge, "{name}");
        assert!(text.contains(remedy), "{name}: {text}");
    }
    for bomb in [&zeros, &many] {
        assert!(bomb.len() < 10_000);
        let (kind, text) = refused(bomb, &limits()).unwrap();
        assert!(kind == BundleErrorKind::TooLarge && text.contains("with_ratio"), "{text}");
    }
    assert_eq!(refused(&zeros, &limits().with_ratio(usize::MAX)), None, "without its size it is an empty archive");
    assert_eq!(refused(&gzip(&vec![0; 1024 * 1024]), &limits()), None, "what is small may be of any ratio");
    // What comes after it does not make up for it: it is never unpacked.
    let noise = (0..40_000_i32).flat_map(|number| <[u8; 32]>::from(Sha256::digest(number.to_be_bytes())));
    let first = gzip(&[vec![0; 4 << 20], noise.collect()].concat());
    assert!(first.len() > 1 << 20);
    assert!(refused(&first, &limits().with_ratio(10)).unwrap().1.contains("with_ratio"));
    let nested = gzip(&[zeros.clone(), zeros].concat());
    assert!(refused(&nested, &limits()).is_some());
}

#[test]
fn what_another_reader_would_use_and_this_one_does_not_is_refused_by_name() {
    for (path, why) in [
        ("patch.json", "delta"),
        ("a/patch.json", "delta"),
        ("data.yaml", "YAML"),
        ("roles/data.yml", "YAML"),
        (".manifest.pb", "JSON"),
        ("a/.manifest", "manifest"),
        ("x.manifest", "manifest"),
        (".roles/data.json", "dot"),
    ] {
        let files = changed(path, Some("{}"));
        for archive in [pack(&files), signed(Algorithm::Es256, &files, json!({}), json!({}))] {
            for verification in
                [Verification::forbidden(), Verification::required(keys()), Verification::dangerous_unverified()]
            {
                let read = read(&archive, &verification);
                assert_refused(path, read, BundleErrorKind::Unsupported, why);
            }
        }
    }
}

#[test]
fn manifest_data_and_modules_have_to_fit_together() {
    use BundleErrorKind::{Data, Manifest, Module};
    let manifest = |text| changed(".manifest", Some(text));
    let both = |one: (&'static str, &str), other: (&'static str, &str)| {
        vec![(one.0, one.1.as_bytes().to_vec()), (other.0, other.1.as_bytes().to_vec())]
    };
    for (name, files, kind, why) in [
        ("a manifest that is no JSON", manifest("{"), Manifest, "`.manifest` line 1"),
        ("overlapping roots", manifest(r#"{"roots":["authz","authz/roles","roles"]}"#), Manifest, "overlap"),
        ("Rego of version 0", manifest(r#"{"rego_version":0}"#), Manifest, "opa fmt"),
        ("a package outside", manifest(r#"{"roots":["roles"]}"#), Manifest, "`authz` is not under a root"),
        ("a package beside", manifest(r#"{"roots":["authz2","roles"]}"#), Manifest, "`authz` is not under a root"),
        ("a package above", manifest(r#"{"roots":["authz/sub","roles"]}"#), Manifest, "`authz` is not under a root"),
        ("data outside", manifest(r#"{"roots":["authz"]}"#), Manifest, "`roles`"),
        ("data above", manifest(r#"{"roots":["authz","roles/limit"]}"#), Manifest, "`roles/admins`"),
        ("no root", manifest(r#"{"roots":[]}"#), Manifest, "none"),
        (
            "a module that is missing",
            manifest(r#"{"wasm":[{"entrypoint":"a","module":"policy.wasm"}]}"#),
            Manifest,
            "not in the bundle",
        ),
        (
            "a module that does not parse",
            changed("authz/policy.rego", Some("package authz\n\nallow := ")),
            Module,
            "`authz/policy.rego`",
        ),
        ("a module that is no text", vec![("a.rego", b"package a\n# \xff".into())], Module, "UTF-8"),
        ("data that is no JSON", changed("roles/data.json", Some("{\n\"a\": 1,\n}")), Data, "`roles/data.json` line 3"),
        ("data with a repeated member", changed("roles/data.json", Some("{\"a\":1,\n\"a\":2}")), Data, "twice"),
        ("two documents in one", changed("roles/data.json", Some("{} {}")), Data, "more after"),
        ("a list at the root", both(("data.json", "[]"), ("a.rego", "package a")), Data, "not an object"),
        (
            "two documents of one path",
            both(("data.json", r#"{"a":{"b":1}}"#), ("a/data.json", r#"{"b":2}"#)),
            Data,
            "`b`",
        ),
        ("a document below a value", both(("data.json", r#"{"a":1}"#), ("a/b/data.json", "{}")), Data, "`a`"),
        (
            "a document in place of an object",
            both(("data.json", r#"{"a":{"b":{}}}"#), ("a/b/data.json", "1")),
            Data,
            "`b`",
        ),
        (
            "a value where a package is",
            both(("data.json", r#"{"a":{"b":1}}"#), ("x.rego", "package a.b")),
            Data,
            "`a.b`",
        ),
        ("a value above a package", both(("a/data.json", "[1]"), ("x.rego", "package a.b")), Data, "`a.b`"),
    ] {
        assert_refused(name, unsigned(&pack(&files)), kind, why);
    }
    for (name, files) in [
        ("documents beside each other", both(("data.json", r#"{"a":{"c":1}}"#), ("a/b/data.json", "[]"))),
        ("documents in one object", both(("data.json", r#"{"a":{"c":1}}"#), ("a/data.json", r#"{"b":1,"d":{}}"#))),
        ("a package beside data", both(("data.json", r#"{"a":{"b":{"c":1}}}"#), ("x.rego", "package a.b"))),
        (
            "data on the way to a root",
            both((".manifest", r#"{"roots":["a/b"]}"#), ("data.json", r#"{"a":{"b":{"c":1}}}"#)),
        ),
        ("a value that is a root", both((".manifest", r#"{"roots":["a/b"]}"#), ("data.json", r#"{"a":{"b":1}}"#))),
        ("an empty object", both((".manifest", r#"{"roots":[]}"#), ("data.json", "{}"))),
    ] {
        assert!(unsigned(&pack(&files)).is_ok(), "{name}: {:?}", unsigned(&pack(&files)));
    }
    let outside = both((".manifest", r#"{"roots":["a/b"]}"#), ("data.json", r#"{"a":{"c":{}}}"#));
    assert_refused("an empty object outside", unsigned(&pack(&outside)), Manifest, "`a/c`");
}

#[test]
fn bundles_that_claim_the_same_do_not_go_together() {
    let bundle = |name: &str, root: &str| {
        let files = [(".manifest", format!(r#"{{"roots":["{root}"],"revision":"{name}-1"}}"#).into_bytes())];
        Bundle::read(name, &pack(&files), &Verification::forbidden(), &Limits::default()).unwrap()
    };
    let (one, other) = (bundle("one", "a/b"), bundle("other", "a/c"));
    assert_eq!(Contents::of([&other, &one]).unwrap().revision, "one=one-1,other=other-1");
    assert_eq!(Contents::of([]).unwrap(), Contents::default());
    for (name, odd) in [
        ("same", bundle("same", "a/b")),
        ("above", bundle("above", "a")),
        ("below", bundle("below", "a/b/c")),
        ("all", bundle("all", "")),
    ] {
        let error = Contents::of([&one, &other, &odd]).unwrap_err();
        assert_eq!((error.kind(), error.bundle()), (BundleErrorKind::Conflict, name), "{error}");
        assert!(error.to_string().contains("`one`") || error.to_string().contains("`other`"), "{error}");
    }
    let twice = Contents::of([&one, &bundle("one", "z")]).unwrap_err();
    assert!(twice.kind() == BundleErrorKind::Conflict && twice.to_string().contains("same name"), "{twice}");
}

#[test]
fn a_signature_of_every_algorithm_verifies_under_its_own_key() {
    for algorithm in Algorithm::ALL {
        let archive = signed(algorithm, &files(), json!({}), json!({"iat": 1, "iss": "ci", "keyid": "ignored"}));
        assert_eq!(required(&archive).unwrap().signed_by(), Some(algorithm.name()));
    }
    let secret = SharedSecret::new([7; 32]).unwrap();
    let of = |alg: &str| {
        let header = base64url(json!({"alg": alg, "kid": "shared"}).to_string());
        let input = format!("{header}.{}", base64url(json!({"files": listed(&files())}).to_string()));
        let compact = format!("{input}.{}", base64url(secret.sign(input.as_bytes())));
        with_signatures(&files(), &json!({"signatures": [compact]}))
    };
    let archive = of("HS256");
    let verification = |secret| {
        let key = VerificationKey::from_secret("shared", SharedSecret::new(secret).unwrap()).unwrap();
        Verification::required(VerificationKeys::new([key]).unwrap())
    };
    assert_eq!(read(&archive, &verification([7; 32])).unwrap().signed_by(), Some("shared"));
    assert_refused(
        "another secret",
        read(&archive, &verification([8; 32])),
        BundleErrorKind::Signature,
        "does not verify",
    );
    for alg in ["HS384", "RS256", "none", "hs256"] {
        let read = read(&of(alg), &verification([7; 32]));
        assert_refused(alg, read, BundleErrorKind::Signature, "differs from that of the key `shared`");
    }
}

#[test]
fn what_is_wanted_of_signatures_can_be_asked_and_printed() {
    for (verification, is_required, text) in [
        (Verification::required(keys()), true, "required"),
        (Verification::forbidden(), false, "forbidden"),
        (Verification::dangerous_unverified(), false, "unverified"),
    ] {
        assert_eq!((verification.is_required(), verification.to_string().as_str()), (is_required, text));
    }
}

#[test]
fn the_key_is_the_configured_one_then_the_headers_then_the_payloads() {
    let of = |header, payload| signed(Algorithm::Es256, &files(), header, payload);
    let configured = |id| Verification::required(keys().with_key_id(id).unwrap());
    assert!(required(&of(json!({"kid": null}), json!({"keyid": "ES256"}))).is_ok());
    assert!(required(&of(json!({"kid": ""}), json!({"keyid": "ES256"}))).is_ok());
    assert!(read(&of(json!({"kid": "anything"}), json!({"keyid": "else"})), &configured("ES256")).is_ok());
    let known = required(&of(json!({"kid": "other"}), json!({}))).unwrap_err().to_string();
    assert!(Algorithm::ALL.iter().all(|key| known.contains(&format!("`{}`", key.name()))), "{known}");
    for (name, archive, verification, why) in [
        ("no id", of(json!({"kid": null}), json!({})), Verification::required(keys()), "names no key"),
        (
            "an id that is no text",
            of(json!({"kid": null}), json!({"keyid": ["ES256"]})),
            Verification::required(keys()),
            "names no key",
        ),
        (
            "an unknown id",
            of(json!({"kid": "other"}), json!({"keyid": "ES256"})),
            Verification::required(keys()),
            "the key `other` is not configured, only `",
        ),
        (
            "another key",
            of(json!({"kid": "ES384"}), json!({})),
            Verification::required(keys()),
            "differs from that of the key `ES384`",
        ),
        ("the other key is configured", of(json!({}), json!({})), configured("ES384"), "`alg`"),
        (
            "a key of the same algorithm",
            of(json!({"alg": "ES384", "kid": "ES384"}), json!({})),
            Verification::required(keys()),
            "does not verify under the key `ES384`",
        ),
    ] {
        assert_refused(name, read(&archive, &verification), BundleErrorKind::Signature, why);
    }
}

#[test]
fn the_algorithm_is_the_keys_and_never_the_headers() {
    // The key is an RSA key for PS256, and RS256 would verify under the same numbers.
    let key = VerificationKey::from_jwk("k", public_key(Algorithm::Ps256)).unwrap();
    let verification = Verification::required(VerificationKeys::new([key]).unwrap());
    let of = |algorithm, alg: &str| signed(algorithm, &files(), json!({"alg": alg, "kid": "k"}), json!({}));
    assert!(read(&of(Algorithm::Ps256, "PS256"), &verification).is_ok());
    for (name, archive) in [
        ("another padding", of(Algorithm::Rs256, "RS256")),
        ("another padding, renamed", of(Algorithm::Rs256, "PS256")),
        ("renamed", of(Algorithm::Ps256, "RS256")),
        ("another hash", of(Algorithm::Ps512, "PS512")),
        ("none", of(Algorithm::Ps256, "none")),
        ("HMAC", of(Algorithm::Ps256, "HS256")),
        ("in small letters", of(Algorithm::Ps256, "ps256")),
    ] {
        assert_refused(name, read(&archive, &verification), BundleErrorKind::Signature, "");
    }
    // The public key as the secret of an HMAC.
    let pem = public_key(Algorithm::Ps256).to_json();
    let input = format!(
        "{}.{}",
        base64url(r#"{"alg":"HS256","kid":"k"}"#),
        base64url(json!({"files": listed(&files())}).to_string())
    );
    let tag = SharedSecret::new(pem.get(..512).unwrap_or(&pem)).unwrap().sign(input.as_bytes());
    let archive = with_signatures(&files(), &json!({"signatures": [format!("{input}.{}", base64url(tag))]}));
    assert_refused("confused", read(&archive, &verification), BundleErrorKind::Signature, "`alg` is not allowed");
}

#[test]
fn the_scope_is_the_configured_one_also_when_there_is_none() {
    let of = |scope: Value| signed(Algorithm::Es256, &files(), json!({}), json!({"scope": scope}));
    let key = || VerificationKey::from_jwk("ES256", public_key(Algorithm::Es256)).unwrap();
    let (bare, scoped) =
        (|| VerificationKeys::new([key()]).unwrap(), || VerificationKeys::new([key().with_scope("read")]).unwrap());
    for (name, keys, scope, is_good) in [
        ("none and none", bare(), json!(null), true),
        ("none and empty", bare(), json!(""), true),
        ("empty and none", bare().with_scope(""), json!(null), true),
        ("none and one", bare(), json!("read"), false),
        ("key's", scoped(), json!("read"), true),
        ("key's and none", scoped(), json!(null), false),
        ("key's and another", scoped(), json!("write"), false),
        ("key's and longer", scoped(), json!("read write"), false),
        ("bundle's before key's", scoped().with_scope("write"), json!("write"), true),
        ("bundle's and the key's", scoped().with_scope("write"), json!("read"), false),
        ("no text", bare(), json!(["read"]), false),
    ] {
        let read = read(&of(scope), &Verification::required(keys));
        if is_good {
            assert!(read.is_ok(), "{name}: {read:?}");
        } else {
            assert_refused(name, read, BundleErrorKind::Signature, "scope");
        }
    }
}

#[test]
fn a_signature_is_there_exactly_once_and_only_where_it_is_wanted() {
    let signature =
        || token(Algorithm::Es256, &json!({"alg": "ES256", "kid": "ES256"}), &json!({"files": listed(&files())}));
    let of = |document: Value| with_signatures(&files(), &document);
    assert!(required(&of(json!({"signatures": [signature()]}))).is_ok());
    assert!(required(&of(json!({"signatures": [signature()], "plugin": "", "else": 1}))).is_ok());
    let nested =
        [&files()[..], &[("x/.signatures.json", json!({"signatures": [signature()]}).to_string().into_bytes())]]
            .concat();
    for (name, archive, why) in [
        ("unsigned", pack(&files()), "has no `.signatures.json`"),
        ("signed elsewhere", pack(&nested), "has no `.signatures.json`"),
        ("no signature", of(json!({"signatures": []})), "0 signatures"),
        ("two signatures", of(json!({"signatures": [signature(), signature()]})), "2 signatures"),
        ("nothing", of(json!({})), "`signatures`"),
        ("a text", of(json!({"signatures": signature()})), "`signatures`"),
        ("no text", of(json!({"signatures": [{}]})), "not a text"),
        ("another plugin", of(json!({"signatures": [signature()], "plugin": "own"})), "plugin"),
        ("odd plugin", of(json!({"signatures": [signature()], "plugin": 1})), "plugin"),
        ("no object", of(json!([signature()])), "one JSON object"),
        ("no token", of(json!({"signatures": ["a.b"]})), "three segments"),
        (
            "a huge document",
            of(
                json!({"signatures": [(0..50_000).map(|index| hex::<Sha256>(&i32::to_be_bytes(index))).collect::<String>()]}),
            ),
            "2 MiB",
        ),
    ] {
        assert_refused(name, required(&archive), BundleErrorKind::Signature, why);
    }
    assert_refused("not wanted", unsigned(&good()), BundleErrorKind::Signature, "`Verification::required`");
    assert!(read(&pack(&files()), &Verification::dangerous_unverified()).is_ok());
}

#[test]
fn what_was_signed_is_what_is_there_in_both_directions() {
    let signature = |entries: Vec<Value>| {
        let compact = token(Algorithm::Es256, &json!({"alg": "ES256", "kid": "ES256"}), &json!({"files": entries}));
        (".signatures.json", json!({"signatures": [compact]}).to_string().into_bytes())
    };
    let of = |files: Vec<File>, entries| pack(&[files, vec![signature(entries)]].concat());
    let whole = || listed(&files());
    let entry = |name: &str, hash: String, algorithm: &str| json!({"name": name, "hash": hash, "algorithm": algorithm});
    let readme = |hash: String, algorithm: &str| [&whole()[..3], &[entry("README.md", hash, algorithm)]].concat();
    for (name, files, entries, why) in [
        (
            "a tampered module",
            changed("authz/policy.rego", Some("package authz\n\ndefault decision := true\n")),
            whole(),
            "`authz/policy.rego`",
        ),
        (
            "tampered data",
            changed("roles/data.json", Some(r#"{"limit":1.50,"admins":["mallory"]}"#)),
            whole(),
            "`roles/data.json`",
        ),
        (
            "a number written otherwise",
            changed("roles/data.json", Some(r#"{"limit":1.5,"admins":["alice"]}"#)),
            whole(),
            "`roles/data.json`",
        ),
        (
            "a tampered manifest",
            changed(".manifest", Some(r#"{"revision":"7","roots":["authz","roles","x"],"rego_version":1}"#)),
            whole(),
            "`.manifest`",
        ),
        ("tampered text", changed("README.md", Some("read me ")), whole(), "`README.md`"),
        (
            "a file too many",
            changed("authz/more.rego", Some("package authz.more")),
            whole(),
            "`authz/more.rego`: the file is not among",
        ),
        ("an ignored file too many", changed("x.txt", Some("")), whole(), "`x.txt`"),
        ("a file too few", changed("README.md", None), whole(), "`README.md`: the file is signed"),
        ("no manifest any more", changed(".manifest", None), whole(), "`.manifest`: the file is signed"),
        (
            "a repeated member",
            changed("roles/data.json", Some(r#"{"limit":9,"limit":1.50,"admins":["alice"]}"#)),
            whole(),
            "twice",
        ),
        ("an empty list", files(), Vec::new(), "not among"),
        ("a file signed twice", files(), [whole(), whole()].concat(), "signed twice"),
        (
            "itself",
            files(),
            [whole(), vec![entry(".signatures.json", String::new(), "SHA-256")]].concat(),
            "lists itself",
        ),
        (
            "with a leading slash",
            files(),
            [&whole()[..3], &[entry("/README.md", hex::<Sha256>(b"read me"), "SHA-256")]].concat(),
            "not among",
        ),
        ("no hash", files(), readme(String::new(), "SHA-256"), "`README.md`"),
        ("half a hash", files(), readme(hex::<Sha256>(b"read me")[..32].to_owned(), "SHA-256"), "`README.md`"),
        ("another hash's name", files(), readme(hex::<Sha256>(b"read me"), "SHA-512-256"), "`README.md`"),
        ("MD5", files(), readme("f38834ddafd9eaf0cc3ce4f5b81f5d3a".to_owned(), "MD5"), "too weak"),
        ("SHA-1", files(), readme("7f0d6c7d9e9a1b6d3a3d6c3e".to_owned(), "SHA-1"), "too weak"),
        ("SHA-224", files(), readme(String::new(), "SHA-224"), "too weak"),
        ("SHA-512-224", files(), readme(String::new(), "SHA-512-224"), "too weak"),
        ("an unknown hash", files(), readme(hex::<Sha256>(b"read me"), "SHA256"), "unknown hash"),
        (
            "an entry without a hash",
            files(),
            [&whole()[..3], &[json!({"name": "README.md", "algorithm": "SHA-256"})]].concat(),
            "lacks",
        ),
        ("an entry that is a text", files(), vec![json!("README.md")], "lacks"),
    ] {
        assert_refused(name, required(&of(files, entries)), BundleErrorKind::Signature, why);
    }
    for (hash, algorithm) in [
        (hex::<Sha384>(b"read me"), "SHA-384"),
        (hex::<Sha512>(b"read me"), "SHA-512"),
        (hex::<Sha512_256>(b"read me"), "SHA-512-256"),
        (hex::<Sha256>(b"read me").to_uppercase(), "SHA-256"),
    ] {
        assert!(required(&of(files(), readme(hash, algorithm))).is_ok(), "{algorithm}");
    }
    let spaced = changed("roles/data.json", Some("{ \"admins\" : [\"alice\"],\n\"limit\":1.50}"));
    assert!(required(&of(spaced, whole())).is_ok(), "white space and order are not signed");
    let other = with_signatures(
        &files(),
        &json!({"signatures": [token(Algorithm::Es256, &json!({"alg": "ES256", "kid": "ES256"}), &json!({"sub": "alice"}))]}),
    );
    assert_refused("another kind of token", required(&other), BundleErrorKind::Signature, "another kind");
}

#[test]
fn the_hash_of_a_document_is_the_one_that_open_policy_agent_signs() {
    // Made with `opa build --signing-key`, version 1.20.2.
    let document = "{\"n\":[1.50,1e3,-0.0,123456789012345678901234567890, 1E+5],\"u\":\"\u{2028}\u{1f600} \\u2028\\u0001\\b\\f\\n<>&\\/ \u{7f}\\ud83d\\ude00 é\",\"z\":{\"b\":{},\"a\":[]},\"a\\\"b\":null,\"a!\":true}";
    assert_eq!(
        digest_of("data.json", document.as_bytes()),
        "e68e94d24708d09378a340aa570fca023339f9f17d89d28e006f2866d136d880"
    );
    let manifest = "{\"revision\":\"7\",\"roots\":[\"\"],\"rego_version\":1}\n";
    assert_eq!(
        digest_of(".manifest", manifest.as_bytes()),
        "86737ef295c86ee73ee0bc16c222f22bd3e244e238900015588d4a8032128db0"
    );
}

#[test]
fn an_error_shows_nothing_of_the_signature() {
    let compact =
        token(Algorithm::Es256, &json!({"alg": "ES384", "kid": "ES384"}), &json!({"files": listed(&files())}));
    let error = required(&with_signatures(&files(), &json!({"signatures": [compact]}))).unwrap_err();
    for part in compact.split('.') {
        assert!(!format!("{error} {error:?}").contains(part));
    }
}

/// What a bundle is to a policy.
fn meaning(bundle: &Bundle) -> (Contents, Manifest) {
    (Contents::of([bundle]).unwrap(), bundle.manifest().clone())
}

proptest! {
    #[test]
    fn no_bytes_are_a_bundle_and_none_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for archive in [bytes.clone(), gzip(&bytes), gzip(&[bytes.clone(), vec![0; 1024]].concat())] {
            prop_assert!(required(&archive).is_err());
            let _ = read(&archive, &Verification::dangerous_unverified());
        }
    }

    #[test]
    fn a_signed_bundle_that_was_changed_is_refused_or_still_the_same(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_tar in any::<bool>(),
        cut in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let good = good();
        let mut bytes = good.clone();
        if in_tar {
            bytes = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&good[..]), &mut bytes).unwrap();
        }
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Some((from, to)) = cut {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            bytes.drain(from.min(to)..from.max(to));
        }
        let archive = if in_tar { gzip(&bytes) } else { bytes };
        if let Ok(bundle) = required(&archive) {
            prop_assert_eq!(meaning(&bundle), meaning(&required(&good).unwrap()));
        }
    }

    #[test]
    fn whatever_a_file_holds_nothing_panics(name in prop::sample::select(vec![".manifest", ".signatures.json", "data.json", "a/data.json", "a.rego", "policy.wasm"]), content in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,0-9a-z\n ]{0,80}") {
        for content in [content.clone(), text.into_bytes()] {
            let files = [(name, content)];
            prop_assert!(required(&pack(&files)).is_err());
            let _ = read(&pack(&files), &Verification::dangerous_unverified());
        }
    }
}
