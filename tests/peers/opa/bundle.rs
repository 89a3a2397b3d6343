//! `policy::bundle` against bundles that the real `opa build` makes and signs, and against the real server's verdict on them.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use portcullis::{
    key::{Algorithm, SharedSecret},
    policy::bundle::{Bundle, BundleError, BundleErrorKind, Limits, Verification, VerificationKey, VerificationKeys},
};
use tempfile::TempDir;

/// Numbers and texts of which a parser would lose something.
const DATA: &str = "{\"numbers\": [1.50, 1e3, -0.0, 123456789012345678901234567890, 1E+5, 0],\n \
                    \"text\": \"\u{2028}\u{2029}\u{1f600} \\u2028\\u0001\\b\\f\\n\\r\\t\\\"\\\\\\/<>&\\u007f\\ud83d\\ude00 é\",\n \
                    \"z\": {\"b\": {}, \"a\": [[], [{}], null, true, false]}, \"a\\\"b\": 1, \"a!\": 2, \"\": 3, \"é\": 4, \"\u{ff5e}\": 5, \"\u{1f600}\": 6}";
const POLICY: &str =
    "package authz\n\ndefault decision := false\n\ndecision if input.subject.id in data.roles.admins\n";

/// A key of each kind that signs, and the same bundle signed by it.
pub(crate) async fn what_it_signs_is_read_here((opa, openssl): (PathBuf, PathBuf)) {
    let scratch = Scratch::new();
    let mut signed = 0;
    for (algorithm, arguments) in [
        (Algorithm::Rs256, RSA),
        (Algorithm::Rs512, RSA),
        (Algorithm::Ps256, RSA),
        (Algorithm::Ps384, RSA),
        (Algorithm::Es256, &["EC", "ec_paramgen_curve:P-256"]),
        (Algorithm::Es384, &["EC", "ec_paramgen_curve:P-384"]),
        (Algorithm::Es512, &["EC", "ec_paramgen_curve:P-521"]),
    ] {
        let key = Key::make(&scratch, &openssl, algorithm, arguments);
        for scope in [None, Some("read")] {
            let archive = scratch.build(&opa, Some((&key, scope)));
            let bundle = read(&archive, key.verification(scope)).unwrap();
            assert_eq!((bundle.signed_by(), bundle.revision().as_str()), (Some("default"), "r7"), "{algorithm}");
            let modules: Vec<_> = bundle.modules().map(|(_, text)| text).collect();
            assert_eq!(modules, [POLICY], "{algorithm}");
            let other = if scope.is_none() { Some("read") } else { None };
            for wrong in [other, Some("write")] {
                assert_eq!(
                    kind(read(&archive, key.verification(wrong))),
                    BundleErrorKind::Signature,
                    "{algorithm}: {scope:?}"
                );
            }
            signed += 1;
        }
    }
    let secret = "a secret of thirty-two characters";
    let archive = scratch.build_with(&opa, &["--signing-key", secret, "--signing-alg", "HS256"]);
    let key = VerificationKey::from_secret("default", SharedSecret::new(secret).unwrap()).unwrap();
    read(&archive, Verification::required(VerificationKeys::new([key]).unwrap())).unwrap();
    println!("{} signed bundles read", signed + 1);
}

/// The same documents with other white space and members in another order: the hash is the same one in both programs.
pub(crate) async fn it_hashes_documents_as_this_does((opa, openssl): (PathBuf, PathBuf)) {
    let scratch = Scratch::new();
    let key = Key::make(&scratch, &openssl, Algorithm::Es256, &["EC", "ec_paramgen_curve:P-256"]);
    let archive = scratch.build(&opa, Some((&key, None)));
    let data = |replaced: &dyn Fn(&str) -> String| {
        change(&archive, |path, content| {
            if path != "data.json" {
                return content;
            }
            let before = String::from_utf8(content).unwrap();
            let after = replaced(&before);
            assert_ne!(before, after);
            after.into_bytes()
        })
    };
    // Its own members are sorted and without white space: here the last one comes first, and there is white space everywhere.
    let rewritten = data(&|text| {
        let (others, last) = text.trim_end().trim_end_matches('}').rsplit_once(",\"").unwrap();
        let reordered = format!("{{\"{last},{}}}", &others[1..]);
        reordered.replace("\":", "\" :\r\n\t").replace(",\"", "\n , \"")
    });
    let bundle = read(&rewritten, key.verification(None)).unwrap();
    assert!(bundle.data().any(|(_, text)| text.contains("123456789012345678901234567890")));
    assert!(accepts(&opa, &scratch, &rewritten, &key), "the same in the other program");
    for (from, to) in
        [("1.50", "1.5"), ("1e3", "1000"), ("-0.0", "0"), ("567890,", "567891,"), ("\"z\"", "\"y\""), ("1E+5", "1e+5")]
    {
        let changed = data(&|text| text.replacen(from, to, 1));
        assert_eq!(kind(read(&changed, key.verification(None))), BundleErrorKind::Signature, "{from} as {to}");
        assert!(!accepts(&opa, &scratch, &changed, &key), "{from} as {to}");
    }
}

/// What is refused here for its signature is refused there; and the two things that are not.
pub(crate) async fn what_it_refuses_is_refused_here((opa, openssl): (PathBuf, PathBuf)) {
    let scratch = Scratch::new();
    let curve = &["EC", "ec_paramgen_curve:P-256"];
    let (key, other) = (
        Key::make(&scratch, &openssl, Algorithm::Es256, curve),
        Key::make(&scratch, &openssl, Algorithm::Es256, curve),
    );
    let good = scratch.build(&opa, Some((&key, None)));
    assert!(read(&good, key.verification(None)).is_ok() && accepts(&opa, &scratch, &good, &key));
    let is_module = |path: &str| path.ends_with(".rego");
    for (name, archive, key) in [
        ("another key", good.clone(), &other),
        (
            "a tampered module",
            change(&good, |path, content| if is_module(path) { [&content[..], b"\n"].concat() } else { content }),
            &key,
        ),
        (
            "tampered data",
            change(&good, |path, content| if path == "data.json" { b"{}".to_vec() } else { content }),
            &key,
        ),
        ("an extra file", with_file(&good, "more.rego", "package more"), &key),
        ("an extra file that nobody reads", with_file(&good, "README.md", ""), &key),
        ("a missing file", without(&good, is_module), &key),
        (
            "a tampered signature",
            change(&good, |path, content| {
                if path == ".signatures.json" {
                    String::from_utf8(content).unwrap().replace("ey", "eZ").into_bytes()
                } else {
                    content
                }
            }),
            &key,
        ),
        ("another scope", scratch.build(&opa, Some((&key, Some("write")))), &key),
    ] {
        assert_eq!(kind(read(&archive, key.verification(None))), BundleErrorKind::Signature, "{name}");
        assert!(!accepts(&opa, &scratch, &archive, key), "{name}");
    }
    // What it says elsewhere: `src/policy/bundle/mod.rs`, "Stricter than Open Policy Agent".
    let unsigned = scratch.build(&opa, None);
    assert_eq!(kind(read(&unsigned, key.verification(None))), BundleErrorKind::Signature);
    assert!(read(&unsigned, Verification::forbidden()).is_ok());
    assert_eq!(kind(read(&good, Verification::forbidden())), BundleErrorKind::Signature);
}

pub(super) const RSA: &[&str] = &["RSA", "rsa_keygen_bits:2048"];

pub(super) struct Key {
    pub(super) private: PathBuf,
    pub(super) public: PathBuf,
    pub(super) algorithm: Algorithm,
}

impl Key {
    pub(super) fn make(scratch: &Scratch, openssl: &Path, algorithm: Algorithm, kind: &[&str]) -> Self {
        let count = fs::read_dir(scratch.0.path()).unwrap().count();
        let [private, public] = ["key", "pub"].map(|name| scratch.0.path().join(format!("{count}.{name}")));
        run(Command::new(openssl).args(["genpkey", "-algorithm", kind[0], "-pkeyopt", kind[1], "-out"]).arg(&private));
        run(Command::new(openssl).arg("pkey").arg("-in").arg(&private).args(["-pubout", "-out"]).arg(&public));
        Self { private, public, algorithm }
    }

    pub(super) fn verification(&self, scope: Option<&str>) -> Verification {
        let pem = fs::read_to_string(&self.public).unwrap();
        let key = VerificationKey::from_pem("default", &pem, self.algorithm).unwrap();
        Verification::required(VerificationKeys::new([key.with_scope(scope.unwrap_or_default())]).unwrap())
    }
}

/// A directory with a policy in `src`.
pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        for (path, text) in [
            (
                "src/.manifest",
                r#"{"revision":"r7","roots":["authz", "roles", "numbers", "text", "z", "a\"b", "a!", "é", "～", "😀"]}"#,
            ),
            ("src/data.json", &DATA.replace("\"\": 3, ", "")),
            ("src/authz/policy.rego", POLICY),
            ("src/roles/data.json", r#"{"admins": ["alice"]}"#),
        ] {
            let path = scratch.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        scratch
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    fn build(&self, opa: &Path, key: Option<(&Key, Option<&str>)>) -> Vec<u8> {
        let Some((key, scope)) = key else { return self.build_with(opa, &[]) };
        let claims = self.0.path().join("claims.json");
        let scope = scope.map_or(String::new(), |scope| format!(r#", "scope": "{scope}""#));
        // Claims of one's own take the place of those that it would make, the name of the key among them.
        fs::write(&claims, format!(r#"{{"keyid": "default"{scope}}}"#)).unwrap();
        let (private, claims) = (key.private.to_str().unwrap(), claims.to_str().unwrap());
        self.build_with(
            opa,
            &["--signing-key", private, "--signing-alg", key.algorithm.name(), "--claims-file", claims],
        )
    }

    fn build_with(&self, opa: &Path, arguments: &[&str]) -> Vec<u8> {
        let out = self.0.path().join("bundle.tar.gz");
        let mut build = Command::new(opa);
        run(build
            .current_dir(self.0.path().join("src"))
            .args(["build", "--bundle", ".", "--output"])
            .arg(&out)
            .args(arguments));
        fs::read(out).unwrap()
    }
}

/// Whether the other program takes the bundle.
fn accepts(opa: &Path, scratch: &Scratch, archive: &[u8], key: &Key) -> bool {
    let path = scratch.0.path().join("received.tar.gz");
    fs::write(&path, archive).unwrap();
    let done = Command::new(opa)
        .args(["build", "--output", "/dev/null", "--verification-key"])
        .arg(&key.public)
        .args(["--verification-key-id", "default", "--signing-alg", key.algorithm.name(), "--bundle"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    done.status.success()
}

fn read(archive: &[u8], verification: Verification) -> Result<Bundle, BundleError> {
    Bundle::read("authz", archive, &verification, &Limits::default())
}

fn kind(read: Result<Bundle, BundleError>) -> BundleErrorKind {
    read.unwrap_err().kind()
}

pub(super) fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {out}{err}");
}

fn files(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    let file = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let (mut entry, mut content) = (entry.unwrap(), Vec::new());
        entry.read_to_end(&mut content).unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        (path.trim_start_matches('/').to_owned(), content)
    };
    tar.entries().unwrap().map(file).collect()
}

pub(super) fn pack(files: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, path, &content[..]).unwrap();
    }
    let mut gzip = tar.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

pub(super) fn change(archive: &[u8], change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    pack(files(archive).into_iter().map(|(path, content)| (path.clone(), change(&path, content))).collect())
}

pub(super) fn with_file(archive: &[u8], path: &str, text: &str) -> Vec<u8> {
    let mut files = files(archive);
    files.push((path.to_owned(), text.into()));
    pack(files)
}

pub(super) fn without(archive: &[u8], is_left_out: impl Fn(&str) -> bool) -> Vec<u8> {
    pack(files(archive).into_iter().filter(|(path, _)| !is_left_out(path)).collect())
}
