//! The corpus compiled by `opa build -t wasm`, for `policy::Wasm`.

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use portcullis::{
    ConfigError,
    policy::{
        Decision, InputFormat, PolicyBackend, PolicyError, PolicyInput, PolicyRevision, Wasm,
        bundle::{Bundle, Contents, Limits, Verification},
    },
};
use serde_json::{Value, json};

/// What is refused when it is loaded, and for which words.
pub(super) const REFUSED: [(&str, &str); 8] = [
    ("corrected", "`net.cidr_contains`, `indexof`"),
    ("envoy", "`net.cidr_contains`"),
    ("ip_allow_list", "`net.cidr_contains`"),
    ("refused_lenient_dates", "`time.parse_ns`"),
    ("refused_lenient_escapes", "`urlquery.decode`"),
    ("refused_sprintf_width", "`sprintf`"),
    ("text_pieces", "`indexof`"),
    ("webhooks", "`net.cidr_contains`"),
];

/// What decides otherwise than the server, and why.
pub(super) const DIFFERS: [(&str, &str); 7] = [
    ("obligations", ARRAYS_OF_SETS),
    ("partial_sets", STRICT_HOST),
    ("quotas", STRICT_HOST),
    ("ref_heads", "the compiler of policies loses rules whose heads are paths with and without variables"),
    ("risk_score", STRICT_HOST),
    ("sprintf_reasons", STRICT_HOST),
    ("versions", STRICT_HOST),
];
const ARRAYS_OF_SETS: &str = "an array that is made of an object or a set is in the order of a hash table";
const STRICT_HOST: &str = "a function of the host refuses what the server formats or compares in its own way";

/// The policy in this directory, as a bundle with a compiled module.
pub(super) fn compiled(opa: &Path, directory: &Path, name: &str) -> Contents {
    let scratch = tempfile::tempdir().unwrap();
    let (root, archive) = (scratch.path().join("bundle"), scratch.path().join("bundle.tar.gz"));
    fs::create_dir_all(root.join(name)).unwrap();
    for file in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let file_name = file.file_name().unwrap();
        if file_name != "inputs.json" {
            fs::copy(&file, root.join(name).join(file_name)).unwrap();
        }
    }
    let built = Command::new(opa)
        .args(["build", "-t", "wasm", "-e", &format!("{name}/decision"), "--revision", name, "--bundle"])
        .args([&root, Path::new("-o"), &archive])
        .output()
        .unwrap();
    assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
    let archive = fs::read(&archive).unwrap();
    let bundle = Bundle::read(name, &archive, &Verification::dangerous_unverified(), &Limits::default()).unwrap();
    Contents::of([&bundle]).unwrap()
}

pub(super) fn load(contents: Contents, name: &str, format: InputFormat) -> Result<Wasm, ConfigError> {
    Wasm::builder()
        .with_policy(contents)
        .with_decision_path(format!("data.{name}.decision"))
        .with_input_format(format)
        // The default is for optimised builds.
        .with_time_limit(Duration::from_secs(1))
        .build()
}

/// The server as it is by default: an error of a built-in function is undefined, as it is in a module.
pub(super) struct Lenient {
    pub(super) url: String,
    pub(super) format: InputFormat,
    pub(super) client: reqwest::Client,
}

#[async_trait::async_trait]
impl PolicyBackend for Lenient {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let question = json!({"input": self.format.document(&input)});
        let answer = self.client.post(&self.url).json(&question).send().await.unwrap();
        if !answer.status().is_success() {
            return Err(PolicyError::evaluation(answer.status().to_string()));
        }
        let answer: Value = answer.json().await.unwrap();
        let revision = PolicyRevision::new("lenient");
        answer.get("result").map_or_else(
            || Ok(Decision::undefined(revision.clone())),
            |result| Decision::from_result(result, revision.clone()),
        )
    }
}
