//! A bundle.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use portcullis::{
    key::Algorithm,
    policy::bundle::{Bundle, BundleError, Contents, Limits, Verification, VerificationKey, VerificationKeys},
};
use serde_json::value::RawValue;

/// What is read is read in one way only, holds together, and is never taken for signed. The bytes are an archive; or, after a `T`, a
/// tar that is still to be compressed; or files, as `path`, 1F, content, 1E.
pub fn check(data: &[u8]) -> bool {
    let archive = archive(data);
    let read = |verification: &Verification| Bundle::read("fuzzed", &archive, verification, &Limits::default());
    let verdict = read(&Verification::dangerous_unverified());
    assert_eq!(shown(&verdict), shown(&read(&Verification::dangerous_unverified())), "two readings");
    assert!(read(&required()).is_err(), "nobody signed this");
    let Ok(bundle) = verdict else { return false };

    let contents = Contents::of([&bundle]).expect("one bundle is in nobody's way");
    assert_eq!(contents.modules.len(), bundle.modules().count());
    assert!(contents.revision.len() <= 256 && !contents.revision.is_empty());
    for (path, _) in bundle.modules() {
        assert!(path.split('/').all(|step| !matches!(step, "" | "." | "..")), "{path:?}");
    }
    for (mount, text) in bundle.data() {
        serde_json::from_str::<&RawValue>(text).expect("data is JSON");
        assert!(!mount.is_empty() || text.trim_start().starts_with('{'), "the root is an object");
    }
    let roots = &bundle.manifest().roots;
    for (index, root) in roots.iter().enumerate() {
        assert!(!roots.iter().skip(index + 1).any(|other| root.overlaps(other)), "{root} is claimed twice");
    }
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let files: [&[(&str, &str)]; 5] = [
        &[(".manifest", r#"{"revision":"7","roots":["a"],"rego_version":1}"#), ("a.rego", "package a\n\nx := 1\n")],
        &[("data.json", r#"{"a":{"b":[1.50,1e3,-0.0],"c":"\u2028"}}"#), ("a/data.json", r#"{"d":{}}"#)],
        &[(".signatures.json", r#"{"signatures":["e30.e30.AA"],"plugin":"_default"}"#), ("policy.wasm", "\0asm")],
        &[(".manifest", r#"{"roots":["a","a/b"]}"#)],
        &[("data.json", "{}"), ("patch.json", r#"{"data":[]}"#)],
    ];
    let sections = |files: &[(&str, &str)]| {
        files
            .iter()
            .map(|(path, content)| format!("{path}\u{1f}{content}"))
            .collect::<Vec<_>>()
            .join("\u{1e}")
            .into_bytes()
    };
    let sections: Vec<_> = files.into_iter().map(sections).collect();
    let tar = [b"T", tar(&sections[0]).as_slice()].concat();
    let archive = archive(&sections[1]);
    [sections, vec![tar, archive]].concat()
}

fn archive(data: &[u8]) -> Vec<u8> {
    let tar = match data {
        [0x1f, 0x8b, ..] => return data.to_vec(),
        [b'T', tar @ ..] => tar.to_vec(),
        files => tar(files),
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&tar).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn tar(files: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files.split(|byte| *byte == 0x1e) {
        let mut parts = file.splitn(2, |byte| *byte == 0x1f);
        let (path, content) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        // Not through `set_path`, which takes plain ones alone.
        for (to, from) in std::iter::zip(&mut header.as_old_mut().name, path) {
            *to = *from;
        }
        header.set_cksum();
        tar.append(&header, content).expect("memory takes it");
    }
    tar.into_inner().expect("memory takes it")
}

fn shown(verdict: &Result<Bundle, BundleError>) -> String {
    match verdict {
        Ok(bundle) => format!("{bundle:?} {:?}", Contents::of([bundle])),
        Err(error) => format!("{error:?}"),
    }
}

/// The key of RFC 8037, appendix A.
fn required() -> Verification {
    let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    let key = VerificationKey::from_pem("release", pem, Algorithm::Ed25519).expect("a public key");
    Verification::required(VerificationKeys::new([key]).expect("one key"))
}
