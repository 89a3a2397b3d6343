use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use crate::{ConfigError, policy::PolicyRevision};

/// What a policy consists of: modules, data documents, and the name of this version of them.
///
/// Nothing is parsed here: [`RegoBuilder::build`](super::RegoBuilder::build) and [`Rego::activate`](super::Rego::activate) do that, and
/// refuse what is wrong.
///
/// ```
/// use portcullis::policy::{PolicySet, Rego};
///
/// let set = |data| {
///     let text = "package authz\n\ndecision if input.subject.id in data.readers";
///     PolicySet::new().add_source("authz.rego", text).add_data(&data)
/// };
/// let first = set(serde_json::json!({"readers": []}));
/// let rego = Rego::builder().with_policies(first).build()?;
///
/// let second = set(serde_json::json!({"readers": ["alice"]})).with_revision("2026-11-24");
/// assert_eq!(rego.activate(second)?.as_str(), "2026-11-24");
/// # Ok::<(), portcullis::ConfigError>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a set decides nothing before it is given to a `Rego`"]
pub struct PolicySet {
    pub(super) sources: Vec<Source>,
    pub(super) data: Vec<Data>,
    revision: Option<Arc<str>>,
}

/// One module.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Where it comes from, for messages.
    pub(super) name: String,
    pub(super) text: String,
}

/// One data document.
#[derive(Clone, Debug)]
pub(super) struct Data {
    /// Where it comes from, for messages.
    pub(super) name: String,
    /// Where it goes, below `data`.
    pub(super) mount: Vec<String>,
    /// JSON, as it was written: numbers keep their digits.
    pub(super) text: String,
}

impl PolicySet {
    /// A set with nothing in it: add at least one module.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a directory holds, as [`add_dir`](Self::add_dir).
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir).
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::new().add_dir(dir)
    }

    /// Adds a module as text, under a name for messages.
    pub fn add_source(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.sources.push(Source { name: name.into(), text: text.into() });
        self
    }

    /// Adds the module in a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unusable`] when it cannot be read.
    pub fn add_file(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        self.sources.push(read_source(path.as_ref())?);
        Ok(self)
    }

    /// Adds what a directory holds: every `.rego` file but `*_test.rego`, and every `data.json` under the names of the directories
    /// that lead to it (`teams/data.json` is `data.teams`). Entries whose names start with a dot are left out.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when something there cannot be read, there is no module, or there is a `data.yaml`.
    pub fn add_dir(mut self, dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let (sources, data) = read_dir(dir.as_ref(), false)?;
        self.sources.extend(sources);
        self.data.extend(data);
        Ok(self)
    }

    /// As [`add_dir`](Self::add_dir), with `*_test.rego`: for running tests, never for serving.
    #[cfg(feature = "cli")]
    pub(crate) fn add_dir_with_tests(mut self, dir: &Path) -> Result<Self, ConfigError> {
        let (sources, data) = read_dir(dir, true)?;
        self.sources.extend(sources);
        self.data.extend(data);
        Ok(self)
    }

    /// Adds to the data document: an object, found at `data`. Documents are merged; they may not contradict each other.
    pub fn add_data(self, data: &serde_json::Value) -> Self {
        self.add_document("data", Vec::new(), data.to_string())
    }

    /// Adds a data document as JSON text: `name` is for messages, `mount` is where it goes below `data`.
    pub(crate) fn add_document(mut self, name: impl Into<String>, mount: Vec<String>, text: String) -> Self {
        self.data.push(Data { name: name.into(), mount, text });
        self
    }

    /// Names this version, where whoever distributes the policy has a name for it. Default: `sha256:` and 32 hexadecimal digits of a
    /// digest over all modules and data. That does not depend on file names, so that replicas agree.
    pub fn with_revision(mut self, revision: impl Into<Arc<str>>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// The name of this version: the one that was given, or the digest.
    #[must_use]
    pub fn revision(&self) -> PolicyRevision {
        self.revision.clone().map_or_else(|| digest(&self.sources, &self.data), PolicyRevision::new)
    }
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet")
            .field("modules", &self.sources.iter().map(|source| &source.name).collect::<Vec<_>>())
            .field("documents", &self.data.len())
            .field("revision", &self.revision)
            .finish()
    }
}

/// Reads what `dir` holds: `*.rego`, but `*_test.rego` only where `tests` are wanted, and `data.json` under the names of the directories that it lies in. Hidden
/// entries are left out, which also keeps the copies out that a Kubernetes volume holds.
fn read_dir(dir: &Path, tests: bool) -> Result<(Vec<Source>, Vec<Data>), ConfigError> {
    let mut found = (Vec::new(), Vec::new());
    visit(dir, tests, &mut Vec::new(), &mut found)?;
    if found.0.is_empty() {
        let remedy = "put at least one `.rego` file there";
        return Err(ConfigError::invalid(DIRECTORY, dir.display().to_string(), remedy));
    }
    Ok(found)
}

fn visit(
    dir: &Path,
    tests: bool,
    mount: &mut Vec<String>,
    found: &mut (Vec<Source>, Vec<Data>),
) -> Result<(), ConfigError> {
    let unreadable = |path: &Path, error| {
        let remedy = "make it a directory that this process may read";
        ConfigError::unusable(DIRECTORY, path.display().to_string(), remedy, error)
    };
    // A link that leads back to its own directory would never end.
    if mount.len() >= MAX_DEPTH {
        let remedy = format!("nest directories at most {MAX_DEPTH} deep");
        return Err(ConfigError::invalid(DIRECTORY, dir.display().to_string(), remedy));
    }
    let entries = fs::read_dir(dir).map_err(|error| unreadable(dir, error))?;
    // Sorted, so that every machine reports the same fault first.
    let entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<BTreeSet<PathBuf>, _>>();
    for path in entries.map_err(|error| unreadable(dir, error))? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            let remedy = "give it a name in UTF-8";
            return Err(ConfigError::invalid(DIRECTORY, path.display().to_string(), remedy));
        };
        if name.starts_with('.') {
            continue;
        }
        if fs::metadata(&path).map_err(|error| unreadable(&path, error))?.is_dir() {
            mount.push(name.to_owned());
            visit(&path, tests, mount, found)?;
            mount.pop();
        } else if name.ends_with(".rego") && (tests || !name.ends_with("_test.rego")) {
            found.0.push(read_source(&path)?);
        } else if name == "data.json" {
            found.1.push(Data { name: path.display().to_string(), mount: mount.clone(), text: read(&path)? });
        } else if matches!(name, "data.yaml" | "data.yml") {
            // Open Policy Agent would read it, so leaving it out would change decisions.
            let remedy = "convert it to `data.json`: YAML is not read";
            return Err(ConfigError::invalid(DIRECTORY, path.display().to_string(), remedy));
        }
    }
    Ok(())
}

fn read_source(path: &Path) -> Result<Source, ConfigError> {
    Ok(Source { name: path.display().to_string(), text: read(path)? })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| {
        let remedy = "make it a UTF-8 file that this process may read";
        ConfigError::unusable("policy.rego.file", path.display().to_string(), remedy, error)
    })
}

/// The digest of all that can influence a decision, whatever the files are called and in whichever order they come: the same on
/// every replica.
fn digest(sources: &[Source], data: &[Data]) -> PolicyRevision {
    let of = |parts: &mut dyn Iterator<Item = &str>| {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length before it, no part can pass for two.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        <[u8; 32]>::from(hash.finalize())
    };
    let sources = sources.iter().map(|source| of(&mut ["rego", &source.text].into_iter()));
    let data =
        data.iter().map(|data| of(&mut ["data", &data.text].into_iter().chain(data.mount.iter().map(String::as_str))));
    let mut hash = Sha256::new();
    for part in sources.chain(data).collect::<BTreeSet<_>>() {
        hash.update(part);
    }
    let hex = hash.finalize().iter().take(REVISION_BYTES).map(|byte| format!("{byte:02x}")).collect::<String>();
    PolicyRevision::new(format!("sha256:{hex}"))
}

const DIRECTORY: &str = "policy.rego.directory";
const MAX_DEPTH: usize = 16;

/// 128 bits: nobody finds a second policy with the same revision.
const REVISION_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned() }
    }

    fn data(mount: &[&str], text: &str) -> Data {
        let mount = mount.iter().map(ToString::to_string).collect();
        Data { name: String::new(), mount, text: text.to_owned() }
    }

    #[test]
    fn a_directory_gives_policies_without_tests_and_data_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("authz.rego", "package authz");
        write("authz_test.rego", "package authz_test");
        write("data.json", "{}");
        write("teams/north/data.json", "{\"size\": 3}");
        write("teams/more.rego", "package teams");
        write("notes.json", "[]");
        write(".hidden/authz.rego", "package hidden");
        let PolicySet { sources, data, .. } = PolicySet::from_dir(dir.path()).unwrap();
        assert_eq!(sources.iter().map(|source| &*source.text).collect::<Vec<_>>(), ["package authz", "package teams"]);
        assert_eq!(data.iter().map(|data| data.mount.join("/")).collect::<Vec<_>>(), ["", "teams/north"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = |error: ConfigError| error.to_string();
        assert!(message(read_dir(dir.path(), false).unwrap_err()).contains("at least one `.rego` file"));
        assert!(message(read_dir(&dir.path().join("absent"), false).unwrap_err()).contains("absent"));
        fs::write(dir.path().join("a.rego"), b"package a # \xff").unwrap();
        assert!(message(read_dir(dir.path(), false).unwrap_err()).contains("a.rego"));
        fs::write(dir.path().join("a.rego"), b"package a").unwrap();
        fs::write(dir.path().join("data.yaml"), b"x: 1").unwrap();
        assert!(message(read_dir(dir.path(), false).unwrap_err()).contains("convert it to `data.json`"));
    }

    #[test]
    fn a_revision_depends_on_content_and_place_but_not_on_file_names_or_order() {
        let (a, b) = (source("a", "package a"), source("b", "package b"));
        let document = data(&["x"], "{}");
        let of = |sources: &[Source], data: &[Data]| digest(sources, data).as_str().to_owned();
        let all = of(&[a.clone(), b.clone()], std::slice::from_ref(&document));
        assert_eq!(all, of(&[b.clone(), source("renamed", "package a")], std::slice::from_ref(&document)));
        assert_eq!(all.len(), "sha256:".len() + 32);
        for (what, other) in [
            ("text", of(&[a.clone(), source("b", "package c")], std::slice::from_ref(&document))),
            ("mount", of(&[a.clone(), b.clone()], &[data(&["y"], "{}")])),
            ("data", of(&[a.clone(), b.clone()], &[data(&["x"], "{\"k\": 1}")])),
            ("kind", of(&[a, b, source("c", "{}")], &[])),
        ] {
            assert_ne!(all, other, "{what}");
        }
    }

    #[test]
    fn a_revision_that_was_given_goes_before_the_digest_and_is_never_empty() {
        let set = PolicySet::new().add_source("a", "package a");
        assert!(set.revision().as_str().starts_with("sha256:"));
        assert_eq!(set.clone().with_revision("r7").revision().as_str(), "r7");
        assert_eq!(set.with_revision("").revision().as_str(), "unknown");
    }

    #[test]
    fn a_set_prints_what_it_consists_of_but_not_what_is_in_it() {
        let set = PolicySet::new().add_source("a.rego", "package canary").add_data(&serde_json::json!({"canary": 1}));
        let text = format!("{set:?}");
        assert!(text.contains("a.rego") && !text.contains("canary"), "{text}");
    }
}
